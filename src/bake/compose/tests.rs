//! Compose files, and the targets they are.

use serde_json::json;

use super::super::*;

/// What is printed for all services, with these files beside the definition.
fn print(texts: &[&str], beside: &[(&str, &str)]) -> Result<Value, String> {
    let beside: Vec<(String, String)> =
        beside.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
    let read = move |path: &str| Ok(beside.iter().find(|(name, _)| name == path).map(|(_, text)| text.clone()));
    let environment = |name: &str| (name == "FROM_ENV").then(|| "env".to_owned());
    let with = Surroundings {
        vars: BTreeMap::from([("VAR".into(), "flag".into())]),
        environment: &environment,
        local_platform: "linux/amd64".into(),
        command_context: "cwd://".into(),
        home: Some("/home/me".into()),
        beside: None,
        read: &read,
    };
    let named = |(at, text): (usize, &&str)| {
        let kind = if text.starts_with("#hcl") { "hcl" } else { "yaml" };
        SourceFile { name: format!("{at}.{kind}"), text: (*text).to_owned() }
    };
    let files: Vec<SourceFile> = texts.iter().enumerate().map(named).collect();
    let bake = Bake::new(&files, &with).map_err(|e| e.to_string())?;
    let targets = bake.resolve(&["default".into()], &[]).map_err(|e| e.to_string())?;
    bake.printed(&["default".into()], &targets).map_err(|e| e.to_string())
}

// SPEC B7.24: every key of `build`, and what is not built.
#[test]
fn b7_24_services_with_build_are_targets() {
    let text = r#"
services:
  db:
    build: ./db
    image: docker.io/me/db
    ports: ["3306:3306"]
  web.app:
    profiles: [test]
    depends_on: {db: {condition: service_healthy}}
    build:
      context: ./dir/../web
      dockerfile: Dockerfile-alternate
      additional_contexts: {foo: ./bar, base: "service:db", img: "docker-image://a:1"}
      network: none
      args: {buildno: 123, ON: true}
      cache_from: ["type=local,src=path/to/cache", "user/app:cache"]
      cache_to: ["type=local,dest=path/to/cache"]
      extra_hosts: ["a=1.2.3.4", "b:5.6.7.8"]
      labels: [one=1, two]
      no_cache: true
      no_cache_filter: prod
      pull: true
      platforms: [linux/amd64, linux/arm64]
      provenance: mode=max
      sbom: true
      secrets: [token, {source: aws, target: x}]
      shm_size: 128m
      ssh: [key=path/to/key, default]
      target: prod
      ulimits: {nproc: 65535, nofile: {soft: 1024, hard: 2048}}
  inline:
    build:
      dockerfile_inline: |
        FROM alpine
        RUN echo $$HOME
      tags: [t1, t2]
    image: not-used
  external:
    image: redis
secrets:
  token: {environment: ENV_TOKEN}
  aws: {file: ./cred}
"#;
    let printed = print(&[text], &[]).expect("valid");
    let expected = json!({
        "group": {"default": {"targets": ["db", "inline", "web_app"]}},
        "target": {
            "db": {"context": "db", "dockerfile": "Dockerfile", "tags": ["docker.io/me/db"]},
            "inline": {"context": ".", "dockerfile": "Dockerfile", "dockerfile-inline": "FROM alpine\nRUN echo $HOME\n", "tags": ["t1", "t2"]},
            "web_app": {
                "attest": [{"type": "sbom"}, {"mode": "max", "type": "provenance"}], "context": "web",
                "contexts": {"foo": "bar", "base": "target:db", "img": "docker-image://a:1"},
                "dockerfile": "Dockerfile-alternate", "args": {"buildno": "123", "ON": "true"}, "labels": {"one": "1", "two": ""},
                "cache-from": [{"src": "path/to/cache", "type": "local"}, {"ref": "user/app:cache", "type": "registry"}],
                "cache-to": [{"dest": "path/to/cache", "type": "local"}], "target": "prod",
                "secret": [{"env": "ENV_TOKEN", "id": "token"}, {"id": "aws", "src": "cred"}],
                "ssh": [{"id": "default"}, {"id": "key", "paths": ["path/to/key"]}],
                "platforms": ["linux/amd64", "linux/arm64"], "pull": true, "no-cache": true, "no-cache-filter": ["prod"], "network": "none", "shm-size": "128MiB",
                "ulimits": ["nproc=65535:65535", "nofile=1024:2048"], "extra-hosts": {"a": "1.2.3.4", "b": "5.6.7.8"},
            },
        },
    });
    assert_eq!(printed, expected);
}

// SPEC B7.24: `x-bake` adds to what compose files say, without saying anything twice.
#[test]
fn b7_24_x_bake_says_the_rest() {
    let text = r#"
services:
  app:
    image: app:bar
    build:
      cache_from: [user/app:cache]
      tags: [app:foo]
      ssh: [default]
      x-bake:
        tags: [app:foo, app:baz]
        cache-from: [user/app:cache, "type=local,src=c"]
        cache-to: type=local,dest=c
        ssh: [default, key=path]
        secret: ["id=s,src=/local/secret"]
        platforms: linux/amd64 linux/arm64
        output: type=docker
        contexts: {base: "target:other.one", alpine: "docker-image://alpine"}
        pull: true
        no-cache: true
        no-cache-filter: [build]
  other.one:
    build: .
"#;
    let app = print(&[text], &[]).expect("valid")["target"]["app"].clone();
    let expected = json!({
        "context": ".", "contexts": {"base": "target:other_one", "alpine": "docker-image://alpine"}, "dockerfile": "Dockerfile",
        "tags": ["app:foo", "app:baz"], "cache-from": [{"ref": "user/app:cache", "type": "registry"}, {"src": "c", "type": "local"}],
        "cache-to": [{"dest": "c", "type": "local"}], "secret": [{"id": "s", "src": "/local/secret"}],
        "ssh": [{"id": "default"}, {"id": "key", "paths": ["path"]}], "platforms": ["linux/amd64", "linux/arm64"],
        "output": [{"type": "docker"}], "pull": true, "no-cache": true, "no-cache-filter": ["build"],
    });
    assert_eq!(app, expected);
    let error = print(&["services: {a: {build: {x-bake: {tag: x}}}}"], &[]).expect_err("no such key");
    assert!(error.contains("x-bake: unsupported attribute tag (did you mean"), "{error}");
}

// SPEC B7.24: variables come from `--var`, the environment and `.env`, in this order; arguments without a value from the service first.
#[test]
fn b7_24_variables_and_arguments() {
    let text = r#"
services:
  app:
    image: "app:${TAG:-none}-$VAR"
    build:
      args:
        OWN:
        FILE:
        FROM_ENV:
        DOT:
        NONE:
        GIVEN: "${FROM_ENV}"
    environment: [OWN=own]
    env_file: [e, {path: missing, required: false}]
"#;
    let dotenv = "TAG=1.2\nDOT=dot\nFROM_ENV=no\nVAR=no\n";
    let app = print(&[text], &[(".env", dotenv), ("e", "FILE=a b\nOWN=no\n")]).expect("valid")["target"]["app"].clone();
    assert_eq!(app["tags"], json!(["app:1.2-flag"]));
    assert_eq!(app["args"], json!({"OWN": "own", "FILE": "a b", "FROM_ENV": "env", "DOT": "dot", "GIVEN": "env"}));
}

// SPEC B7.24, B7.05: later files change earlier ones; bake files change compose files whatever their order.
#[test]
fn b7_24_files_are_put_together() {
    let base = "x-common: &common {A: '1', B: '1'}\nservices:\n  app:\n    build:\n      context: .\n      args: {<<: *common, B: '2'}\n      tags: [one]\n  gone: {build: .}\n";
    let over = "services:\n  app:\n    build:\n      dockerfile: Other\n      args: [B=3]\n      tags: !override [two]\n  gone: !reset null\n";
    let hcl = "#hcl\ntarget \"app\" { args = { C = \"4\" } }";
    let printed = print(&[hcl, base, over], &[]).expect("valid");
    assert_eq!(printed["group"]["default"]["targets"], json!(["app"]));
    let app = &printed["target"]["app"];
    assert_eq!(app["args"], json!({"A": "1", "B": "3", "C": "4"}));
    assert_eq!((&app["tags"], &app["dockerfile"]), (&json!(["two"]), &json!("Other")));
    let error = print(&[base, "services: {app: !override {bild: .}}"], &[]).expect_err("no such key");
    assert!(error.contains("additional property \"bild\" is not allowed"), "{error}");
    let group = "#hcl\ngroup \"default\" { targets = [\"other\"] }\ntarget \"other\" {}";
    assert_eq!(print(&[base, group], &[]).expect("valid")["group"]["default"]["targets"], json!(["other"]));
}

// SPEC B7.24: `include` and `extends`, with paths where their files are.
#[test]
fn b7_24_files_name_others() {
    let text = "include: [sub/compose.yml]\nservices:\n  app:\n    extends: {service: base, file: sub/compose.yml}\n    build: {target: own}\n  twice: {extends: app}\n";
    let other = "services:\n  base:\n    build: {context: ., dockerfile: D, args: {A: 1}}\n  short: {build: ..}\nsecrets: {s: {file: s}}\n";
    let printed = print(&[text], &[("sub/compose.yml", other)]).expect("valid");
    let context = |name: &str| printed["target"][name]["context"].clone();
    assert_eq!(["base", "app", "twice", "short"].map(context), ["sub", "sub", "sub", "."]);
    assert_eq!(printed["target"]["twice"]["target"], "own");
    assert_eq!(printed["target"]["app"]["args"], json!({"A": "1"}));
    for (text, said) in [
        ("include: [none.yml]", "include: there is no file none.yml"),
        ("include: [loop.yml]", "in a circle"),
        ("services: {a: {extends: b}, b: {extends: a}}", "in a circle"),
        ("services: {a: {extends: none}}", "there is no service \"none\" to extend"),
    ] {
        let error = print(&[text], &[("loop.yml", "include: [loop.yml]")]).expect_err(text);
        assert!(error.contains(said), "{error}");
    }
}

// SPEC B7.24
#[test]
fn b7_24_mistakes_are_named() {
    for (text, said) in [
        ("version: '3'\n", "empty compose file"),
        ("services: {foo: }\n", "service \"foo\": neither an image nor a build context is specified"),
        ("services: {foo: {build: {secrets: [token]}}}", "refers to undefined build secret token"),
        ("services: {foo: {build: {secrets: [t]}}}\nsecrets: {t: {external: true}}", "unsupported external secret t"),
        ("services: {}\nsecrets: {t: {}}", "one of file, environment or external must be set"),
        ("services: {a/b: {build: .}}", "invalid name \"a/b\""),
        ("services: {a: {image: '${X?no x}'}}", "required variable X is missing a value: no x"),
        ("services: {a: {build: {no_cache: perhaps}}}", "build.no_cache: \"perhaps\" is no bool"),
        ("services: {a: {build: {args: 1}}}", "services.a.build.args must be a mapping or a list"),
        ("services: {a: {build: {dockerfile: D, dockerfile_inline: FROM x}}}", "are mutually exclusive"),
        (
            "services: {a: {build: {context: ., additional_contexts: {b: 'service:c'}}}}",
            "declares unknown service \"c\" as additional contexts b",
        ),
        (
            "services: {a: {build: {context: ., additional_contexts: {b: 'service:c'}}}, c: {image: x}}",
            "declares non-buildable service \"c\" as additional contexts b",
        ),
        ("services: [", "line"),
    ] {
        let error = print(&[text], &[]).expect_err(text);
        assert!(error.contains(said), "{text}: {error}");
    }
}

// SPEC B7.24: a variable that nothing sets is empty, and that is said once.
#[test]
fn b7_24_variables_that_are_not_set_are_told() {
    let text = "services:\n  a:\n    build:\n      context: .\n      args:\n        A: $NONE\n        B: ${NONE}\n        C: ${OTHER:-x}\n        D: ${FROM_ENV}\n";
    let environment = |name: &str| (name == "FROM_ENV").then(|| "env".to_owned());
    let with = Surroundings {
        vars: BTreeMap::new(),
        environment: &environment,
        local_platform: "linux/amd64".into(),
        command_context: "cwd://".into(),
        home: None,
        beside: None,
        read: &|_| Ok(None),
    };
    let bake = Bake::new(&[SourceFile { name: "compose.yaml".into(), text: text.into() }], &with).expect("valid");
    assert_eq!(bake.warnings(), ["the \"NONE\" variable is not set. Defaulting to a blank string"]);
}

// SPEC B7.24: a misspelt key of what says how to build is an error.
#[test]
fn b7_24_keys_that_no_build_has_are_errors() {
    for (text, error) in [
        (
            "services: {a: {buidl: .}}",
            "neither an image nor a build context is specified; additional property \"buidl\" is not allowed (did you mean build?)",
        ),
        (
            "services: {a: {build: {context: ., dockerfil: x}}}",
            "services.a.build: additional property \"dockerfil\" is not allowed (did you mean dockerfile?)",
        ),
        ("services: {}\nsecrets: {t: {content: x}}", "secrets.t: additional property \"content\" is not allowed"),
        (
            "services: {a: {build: {context: ., platforms: [linux/amd64]}, platform: linux/riscv64}}",
            "service.build.platforms MUST include service.platform \"linux/riscv64\"",
        ),
    ] {
        let found = print(&[text], &[]).expect_err(text);
        assert!(found.contains(error), "{found}");
    }
    let own =
        "x-top: {a: 1}\nservices: {a: {build: {context: ., x-bake: {tags: [t]}}, x-own: 1, develop: {watch: []}}}";
    assert_eq!(print(&[own], &[]).expect("valid")["target"]["a"]["tags"], json!(["t"]));
}

// SPEC B7.24: as with buildx, what a service does when it runs is nobody's business here, known or not; it is told.
#[test]
fn b7_24_what_does_not_say_how_to_build_may_be_anything() {
    let text = "groups: []\nservices:\n  a:\n    build: .\n    image: x\n    buidl: .\n    networks: [nowhere]\n    depends_on: [nobody]\n    volumes: ['gone:/data', '/a', '.:/b:ro', 'C:\\\\x:D:\\\\y']\n    ports: [80, '127.0.0.1:8000-8010:9000-9010/udp', '[::1]:1:2']\n    configs: [c]\n";
    let read = |_: &str| Ok(None);
    let with = Surroundings {
        vars: BTreeMap::new(),
        environment: &|_| None,
        local_platform: "linux/amd64".into(),
        command_context: "cwd://".into(),
        home: None,
        beside: None,
        read: &read,
    };
    let bake = Bake::new(&[SourceFile { name: "compose.yaml".into(), text: text.into() }], &with).expect("valid");
    let told = [
        "(root): additional property \"groups\" is not allowed; nothing is made of it",
        "services.a: additional property \"buidl\" is not allowed (did you mean build?); nothing is made of it",
    ];
    assert_eq!(bake.warnings(), told);
}

// SPEC B7.24: values that compose refuses, with their places.
#[test]
fn b7_24_values_of_the_wrong_kind_are_errors() {
    for (service, said) in [
        (
            "{build: ., volumes: ['data::/d']}",
            "services.a.volumes.0: invalid spec: data::/d: empty section between colons",
        ),
        (
            "{build: ., volumes: [x, 'data:/d:ro:x']}",
            "services.a.volumes.1: invalid spec: data:/d:ro:x: too many colons",
        ),
        ("{build: ., volumes: ['']}", "services.a.volumes.0: invalid empty volume spec"),
        ("{build: ., volumes: [1]}", "services.a.volumes.0: invalid type for service volume mount"),
        ("{build: ., ports: ['${FROM_ENV}']}", "services.a.ports.0: invalid containerPort: env"),
        ("{build: ., ports: ['70000:80']}", "services.a.ports.0: invalid hostPort: 70000"),
        ("{build: ., ports: ['1-3:80-81']}", "invalid ranges specified for container and host Ports: 80-81 and 1-3"),
        ("{build: ., ports: ['host:1:2']}", "services.a.ports.0: invalid IP address: host"),
        ("{build: ., ports: ['80/http']}", "services.a.ports.0: invalid proto: http"),
        ("{build: ., ports: 80}", "services.a.ports must be a list"),
        ("{build: ., devices: ['a:b:c:d']}", "confusing device mapping, please use long syntax: a:b:c:d"),
        ("{build: ., image: 1}", "services.a.image must be a string"),
        ("{build: ., environment: 1}", "services.a.environment must be a mapping or a list"),
        ("{build: ., env_file: [{required: true}]}", "services.a.env_file.0 must be a path or a mapping with a path"),
        ("{build: [x]}", "services.a.build must be a mapping"),
        ("{build: {tags: x}}", "services.a.build.tags must be a list"),
        ("{build: {tags: [[x]]}}", "services.a.build.tags.0 must be a string"),
        ("{build: {target: 1}}", "services.a.build.target must be a string"),
        ("{build: {args: {A: [1]}}}", "services.a.build.args.A must be a string, a number, a boolean or null"),
        ("{build: {extra_hosts: {a: 1}}}", "services.a.build.extra_hosts.a must be an address or a list of them"),
        ("{build: {pull: 1}}", "services.a.build.pull must be a boolean or a string"),
        ("{build: {shm_size: [1]}}", "services.a.build.shm_size must be an integer or a string"),
        ("{build: {secrets: [{target: x}]}}", "services.a.build.secrets.0 must be a name or a mapping with a source"),
        (
            "{build: {ulimits: {nofile: {soft: 1}}}}",
            "services.a.build.ulimits.nofile must have a soft and a hard limit",
        ),
        ("{build: {ulimits: {nofile: many}}}", "services.a.build.ulimits.nofile must be an integer or a mapping"),
        ("1", "services.a must be a mapping"),
    ] {
        let text = format!("services: {{a: {service}}}");
        let error = print(&[&text], &[]).expect_err(&text);
        assert!(error.contains(said), "{text}: {error}");
    }
}

// SPEC B7.24
#[test]
fn b7_24_nothing_to_build_is_an_empty_group() {
    let found = print(&["services: {a: {image: x}}"], &[]).expect("valid");
    assert_eq!(found, json!({"group": {"default": {"targets": []}}, "target": {}}));
}
