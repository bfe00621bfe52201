//! `rbuild bake`: definitions become builds (SPEC B7).
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::print_stderr, reason = "skip reasons are collected by scripts/test")]
#![allow(missing_docs, unreachable_pub, reason = "a test program")]

mod support;

use support::git::Repositories;
use support::image::Image;
use support::web::{Answer, Web};
use support::{Bench, bases, can_run};

const TWO: &str = r#"
variable "V" { default = "one" }
group "default" { targets = ["app", "tool"] }
target "base" { args = { V = V } }
target "app" {
  inherits = ["base"]
  dockerfile = "app.Dockerfile"
  tags = ["app:${V}"]
  output = ["type=oci,dest=app.tar"]
}
target "tool" {
  context = "tool"
  dockerfile-inline = <<EOT
FROM scratch
COPY f /tool
EOT
  output = ["type=local,dest=files"]
}
"#;

/// Writes a file where commands are called.
fn write(bench: &Bench, name: &str, text: &str) {
    let path = bench.path("out").join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

/// What a target left in a directory.
fn read(bench: &Bench, name: &str) -> String {
    let path = bench.path("out").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A directory with a definition and what it needs.
fn bench(definition: &str) -> Bench {
    let bench = Bench::new();
    write(&bench, "docker-bake.hcl", definition);
    write(&bench, "app.Dockerfile", "FROM scratch\nARG V\nLABEL v=$V\nCOPY app.Dockerfile /f\n");
    write(&bench, "tool/f", "tool");
    bench
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{text}: {e}"))
}

// SPEC B7.01, B7.02, B7.23, B7.25: targets are built side by side, each as its own build would be.
#[test]
fn b7_25_targets_are_built() {
    let bench = bench(TWO);
    let run =
        bench.rbuild(&["bake", "--progress", "plain", "--metadata-file", "m.json", "--set", "app.args.V=set"]).ok();
    assert!(run.stderr.contains("[app 1/1] COPY app.Dockerfile /f"), "{}", run.stderr);
    assert!(run.stderr.contains("[tool 1/1] COPY f /tool"), "{}", run.stderr);
    let image = Image::open_tar(&bench.path("out/app.tar"));
    assert_eq!(image.config["config"]["Labels"]["v"], "set");
    assert_eq!(std::fs::read_to_string(bench.path("out/files/tool")).unwrap(), "tool");
    let metadata = json(&std::fs::read_to_string(bench.path("out/m.json")).unwrap());
    assert!(metadata["app"]["containerimage.digest"].is_string() && metadata["tool"].is_object(), "{metadata}");
    // One of them, as docker's plugin is called.
    bench.rbuild(&["buildx", "bake", "--var", "V=two", "app"]).ok();
    assert_eq!(Image::open_tar(&bench.path("out/app.tar")).config["config"]["Labels"]["v"], "two");
}

// SPEC B7.18, B7.19
#[test]
fn b7_18_definitions_are_printed_and_listed() {
    let bench = bench(TWO);
    let printed = json(&bench.rbuild(&["bake", "--print", "--push"]).ok().stdout);
    assert_eq!(printed["group"]["default"]["targets"], serde_json::json!(["app", "tool"]));
    assert_eq!(printed["target"]["app"]["tags"][0], "app:one");
    // Files are left alone, images are pushed too.
    assert_eq!(printed["target"]["tool"]["output"], serde_json::json!([{"dest": "files", "type": "local"}]));
    assert_eq!(printed["target"]["app"]["output"][1], serde_json::json!({"type": "image", "push": "true"}));
    let list = bench.rbuild(&["bake", "--list", "targets"]).ok().stdout;
    assert!(list.starts_with("TARGET") && list.contains("app, tool"), "{list}");
    let list = json(&bench.rbuild(&["bake", "--list=type=variables,format=json"]).ok().stdout);
    assert_eq!(list, serde_json::json!([{"name": "V", "value": "one"}]));
    bench.rbuild(&["bake", "--list", "colours"]).fails(2, &["--list"]);
    assert!(!bench.store().exists());
}

// SPEC B7.16: what a target is made of is built first, once, and goes nowhere itself.
#[test]
fn b7_16_targets_are_made_of_others() {
    let bench = bench(
        r#"
        target "base" {
          dockerfile-inline = "FROM scratch\nCOPY app.Dockerfile /base\nENV BASE=1\n"
          output = ["type=local,dest=not-made"]
        }
        target "app" {
          contexts = { base = "target:base" }
          dockerfile-inline = "FROM base\nCOPY --from=base /base /copy\n"
          output = ["type=oci,dest=app.tar"]
        }
        "#,
    );
    bench.rbuild(&["bake", "app"]).ok();
    let image = Image::open_tar(&bench.path("out/app.tar"));
    assert!(image.has("base") && image.has("copy"));
    assert!(image.config["config"]["Env"].as_array().unwrap().contains(&"BASE=1".into()));
    assert!(!bench.path("out/not-made").exists());
    // Nothing changed, so nothing is made again.
    let again = bench.rbuild(&["bake", "--progress", "plain", "app"]).ok();
    assert!(again.stderr.matches("CACHED").count() >= 2, "{}", again.stderr);
}

// SPEC B7.22: what leads out of the directory, or out of the sandbox, has to be allowed.
#[test]
fn b7_22_what_leads_outside_has_to_be_allowed() {
    let bench = bench(
        r#"
        target "default" {
          context = "../ctx"
          output = ["type=local,dest=../elsewhere"]
          entitlements = ["network.host"]
        }
        "#,
    );
    std::fs::write(bench.ctx().join("Dockerfile"), "FROM scratch\nCOPY Dockerfile /\n").unwrap();
    bench.rbuild(&["bake"]).fails(
        2,
        &[
            "Read access to path ../ctx",
            "Write access to path ../elsewhere",
            "network of the host",
            "additional privileges requested",
            "--allow=fs.read=../ctx",
        ],
    );
    let allow = ["--allow", "fs.read=../ctx", "--allow", "fs.write=../elsewhere", "--allow", "network.host"];
    bench.rbuild(&[&["bake"], &allow[..]].concat()).ok();
    assert!(bench.path("elsewhere/Dockerfile").is_file());
    bench.rbuild(&["bake", "--allow", "fs=*", "--allow", "network.host"]).ok();
    bench.rbuild(&["bake", "--allow", "colour"]).fails(2, &["--allow: unknown entitlement \"colour\""]);
    // Whoever names a path may use it, if it is there; a key is a file; what is deleted has to be allowed.
    let set = |value: &str| ["--set".to_owned(), value.to_owned()];
    let home = [
        "--set=default.context=.",
        "--set=default.dockerfile=../ctx/Dockerfile",
        "--allow=network.host",
        "--allow=fs.read=../ctx",
    ];
    let with = |more: &[String]| {
        let more: Vec<&str> = more.iter().map(String::as_str).collect();
        bench.rbuild(&[&["bake"][..], &home[..], &more].concat())
    };
    with(&set("default.output=type=local,dest=../new"))
        .fails(2, &["additional privileges requested", "Write access to path ../new"]);
    with(&set("default.output=type=local,dest=../elsewhere,mode=delete")).fails(2, &["--allow=buildx.local.delete"]);
    with(&["--allow=buildx.local.delete=1".into()]).fails(2, &["buildx.local.delete does not accept a value"]);
    let out = set("default.output=type=local,dest=../elsewhere");
    let key = set("default.ssh=key=../key");
    std::fs::write(bench.path("out/Dockerfile"), "FROM scratch\nCOPY docker-bake.hcl /\n").unwrap();
    let local = ["--set=default.context=.", "--set=default.dockerfile=Dockerfile", "--allow=network.host"];
    bench.rbuild(&[&["bake"][..], &local, &out.each_ref().map(String::as_str)].concat()).ok();
    assert!(bench.path("elsewhere/docker-bake.hcl").is_file());
    let deleting = "--set=default.output=type=local,dest=../elsewhere,mode=delete";
    bench.rbuild(&[&["bake"][..], &local, &[deleting, "--allow=buildx.local.delete"]].concat()).ok();
    assert!(!bench.path("elsewhere/Dockerfile").exists());
    bench
        .rbuild(
            &[&["bake"][..], &local, &out.each_ref().map(String::as_str), &key.each_ref().map(String::as_str)].concat(),
        )
        .fails(2, &["Read access to path ../key"]);
    // A link inside leads outside too.
    let bench = self::bench("target \"default\" {\n context = \"link\"\n}\n");
    std::os::unix::fs::symlink("../ctx", bench.path("out/link")).unwrap();
    bench.rbuild(&["bake"]).fails(2, &["Read access to path link"]);
}

// SPEC B7: mistakes are found before anything is built, and failures say which target.
#[test]
fn b7_03_mistakes_are_told() {
    let bench = bench(TWO);
    for (args, code, said) in [
        (&["none"][..], 4, "failed to find target none"),
        (&["--set", "x.args.A=1"], 2, "could not find any target matching 'x'"),
        (&["--var", "NONE=1"], 2, "there is no variable named \"NONE\""),
        (&["-f", "missing.hcl"], 4, "missing.hcl"),
        (&["--set", "app.ulimits=x"], 2, "target app"),
        (&["no-*"], 4, "could not find any target matching \"no-*\""),
        (&["--execution=fail-fast"], 2, "--execution: \"fail-fast\" is not supported"),
        (&["--jobs=0"], 2, "--jobs"),
    ] {
        bench.rbuild(&[&["bake"], args].concat()).fails(code, &[said]);
    }
    std::fs::write(bench.path("out/app.Dockerfile"), "FROM scratch\nCOPY nothing /\n").unwrap();
    let run = bench.rbuild(&["bake", "-j1", "--execution=defer-error"]);
    assert_eq!(run.code, 4, "{}", run.stderr);
    assert!(run.stderr.contains("error: target app: ") && run.stderr.contains("nothing"), "{}", run.stderr);
    assert_eq!(std::fs::read_to_string(bench.path("out/files/tool")).unwrap(), "tool");
    std::fs::write(bench.path("out/docker-bake.hcl"), "target \"app\" {\n tag = 1\n}\n").unwrap();
    bench.rbuild(&["bake"]).fails(4, &["target \"app\", tag: unsupported attribute", "did you mean"]);
    std::fs::remove_file(bench.path("out/docker-bake.hcl")).unwrap();
    bench.rbuild(&["bake"]).fails(4, &["couldn't find a bake definition here", "hint: name one with -f FILE"]);
}

// SPEC B7.01, B7.16, B7.24: services with `build` are built, one made of another; `.env` and the environment fill variables in.
#[test]
fn b7_24_compose_files_are_built() {
    let bench = Bench::new();
    let compose = r#"
services:
  base:
    build:
      dockerfile_inline: "FROM scratch\nCOPY f /base\n"
  app.web:
    image: app:${TAG}
    build:
      context: ./web
      args: {V: "${TAG:?}"}
      additional_contexts: {base: "service:base"}
      x-bake: {output: "type=local,dest=files"}
"#;
    write(&bench, "compose.yaml", compose);
    write(&bench, ".env", "TAG=1.5\n");
    write(&bench, "f", "from the base");
    write(&bench, "web/Dockerfile", "FROM base\nARG V\nCOPY g-$V /web\n");
    write(&bench, "web/g-1.5", "web");
    let printed = json(&bench.rbuild(&["bake", "--print"]).ok().stdout);
    assert_eq!(printed["group"]["default"]["targets"], serde_json::json!(["app_web", "base"]));
    assert_eq!(printed["target"]["app_web"]["tags"], serde_json::json!(["app:1.5"]));
    bench.rbuild(&["bake", "app.web"]).ok();
    assert_eq!((read(&bench, "files/base"), read(&bench, "files/web")), ("from the base".into(), "web".into()));
    // A bake file changes what a compose file says, and `-f` takes each by itself.
    write(&bench, "docker-bake.hcl", "target \"app_web\" {\n tags = [\"changed\"]\n}\n");
    let printed = json(&bench.rbuild(&["bake", "--print", "app_*"]).ok().stdout);
    assert_eq!(printed["target"]["app_web"]["tags"], serde_json::json!(["changed"]));
    assert_eq!(printed["target"].as_object().unwrap().len(), 2, "{printed}");
    bench.rbuild(&["bake", "-f", "compose.yaml", "--set", "base.output=type=local,dest=b", "base"]).ok();
    assert_eq!(read(&bench, "b/base"), "from the base");
}

// SPEC B7.15, B7.16, B7.21, B5.07: a definition in a repository; its paths are the repository's, those with cwd:// ours.
#[test]
fn b7_21_definitions_in_repositories() {
    let repositories = Repositories::new();
    let repository = repositories.create("a.git", &[]);
    let definition = r#"
        group "default" { targets = ["whole", "part"] }
        target "whole" {
          contexts = { here = "cwd://ours", there = "sub" }
          args = { CONTEXT = BAKE_CMD_CONTEXT }
          output = ["type=local,dest=whole"]
        }
        target "part" {
          context = "sub"
          dockerfile-inline = "FROM scratch\nCOPY f /part\n"
          output = ["type=local,dest=part"]
        }
        target "ours" {
          context = "cwd://ours"
          dockerfile-inline = "FROM scratch\nCOPY f /ours\n"
          output = ["type=local,dest=mine"]
        }
    "#;
    let dockerfile = "FROM scratch\nCOPY top /top\nCOPY --from=here f /here\nCOPY --from=there f /there\n";
    repository.file("docker-bake.hcl", definition).file("Dockerfile", dockerfile).file("top", "top");
    repository.file("sub/f", "sub").file("sub/docker-bake.hcl", "target \"default\" {\n tags = [\"sub\"]\n}");
    repository.commit("all");
    let web = Web::git(repositories.path(), None);
    let mut bench = Bench::new();
    write(&bench, "ours/f", "ours");
    let url = web.url("/a.git");
    bench.rbuild(&["bake", &url]).ok();
    let found = ["whole/top", "whole/here", "whole/there", "part/part"].map(|name| read(&bench, name));
    assert_eq!(found, ["top", "ours", "sub", "sub"]);
    bench.rbuild(&["buildx", "bake", &url, "ours"]).ok();
    assert_eq!(read(&bench, "mine/ours"), "ours");
    let printed = json(&bench.rbuild(&["bake", &format!("{url}#main:sub"), "--print"]).ok().stdout);
    assert_eq!(printed["target"]["default"]["tags"], serde_json::json!(["sub"]));
    // Files of ours change what is there, and a second address is what the definition is told.
    write(&bench, "more.hcl", "target \"part\" {\n tags = [\"more\"]\n}\n");
    let printed =
        bench.rbuild(&["bake", "-f", "cwd://more.hcl", "--print", &url, "https://h.example/b.git", "*o*", "part"]);
    let printed = json(&printed.ok().stdout);
    assert_eq!(printed["target"]["part"]["tags"], serde_json::json!(["more"]));
    assert_eq!(printed["target"]["part"]["context"], serde_json::json!(format!("{url}#:sub")));
    assert_eq!(printed["target"]["whole"]["context"], ".");
    assert_eq!(printed["target"]["whole"]["args"]["CONTEXT"], "https://h.example/b.git");
    bench.rbuild(&["bake", "-f", "none.hcl", &url]).fails(4, &["couldn't find or read bake file none.hcl"]);
    bench.rbuild(&["bake", &web.url("/none.git")]).fails(5, &["cannot read the definition"]);
    // What leads out of the directory has to be allowed here as well.
    repository.file("docker-bake.hcl", "target \"default\" {\n context = \"cwd://..\"\n}").commit("outside");
    bench.rbuild(&["bake", &url]).fails(2, &["Read access to path .."]);
    write(&bench, "../Dockerfile", "FROM scratch\n");
    bench.env.push(("BAKE_ALLOW_REMOTE_FS_ACCESS".into(), "1".into()));
    bench.rbuild(&["bake", &url]).ok();
    bench.env.pop();
    repository
        .file("docker-bake.hcl", "target \"default\" {\n dockerfile = \"cwd://../x\"\n}")
        .commit("a file outside");
    bench.rbuild(&["bake", &url]).fails(2, &["Read access to path ../x"]);
    // An absolute path is one of the repository.
    repository.file("docker-bake.hcl", "target \"default\" {\n dockerfile = \"/etc/passwd\"\n}").commit("absolute");
    bench.rbuild(&["bake", &url]).fails(4, &["etc/passwd: no such file or directory"]);
    repository.git(&["rm", "--quiet", "docker-bake.hcl"]);
    repository.file("compose.yml", "include: [/etc/passwd]").commit("a file of this machine");
    bench.rbuild(&["bake", &url]).fails(4, &["/etc/passwd: a definition that is elsewhere cannot"]);
}

// SPEC B5.07, B7.21: what is needed to read the definition also reads the contexts.
#[test]
fn b5_07_tokens_for_definitions() {
    let repositories = Repositories::new();
    let repository = repositories.create("a.git", &[]);
    let definition = "target \"default\" {\n output = [\"type=local,dest=files\"]\n}\n";
    repository.file("docker-bake.hcl", definition).file("Dockerfile", "FROM scratch\nCOPY Dockerfile /d\n");
    repository.commit("all");
    // `x-access-token:t0ken`
    let web = Web::git(repositories.path(), Some("basic eC1hY2Nlc3MtdG9rZW46dDBrZW4="));
    let mut bench = Bench::new();
    std::fs::create_dir_all(bench.path("out")).unwrap();
    assert_ne!(bench.rbuild(&["bake", &web.url("/a.git")]).code, 0);
    bench.env.push(("BUILDX_BAKE_GIT_AUTH_TOKEN".into(), "t0ken".into()));
    bench.rbuild(&["bake", &web.url("/a.git")]).ok();
    assert!(read(&bench, "files/d").starts_with("FROM scratch"));
}

// SPEC B5.07: paths are where their files are, if that is wanted; those of the command line are not.
#[test]
fn b5_07_paths_are_relative_to_their_files() {
    let mut bench = Bench::new();
    let dockerfile = "FROM scratch\nCOPY f /\nCOPY --from=shared g /\n";
    write(
        &bench,
        "tests/compose.yml",
        "services:\n  a:\n    build:\n      context: ./app\n      additional_contexts:\n        shared: ../shared\n",
    );
    write(&bench, "more/compose.yml", "services:\n  a:\n    build:\n      labels: [\"x=${NOBODY_SETS_IT}\"]\n");
    write(&bench, "tests/app/Dockerfile", dockerfile);
    write(&bench, "tests/app/f", "f");
    write(&bench, "shared/g", "g");
    let files = ["-f", "tests/compose.yml", "-f", "more/compose.yml"];
    bench.rbuild(&[&["bake"], &files[..]].concat()).fails(2, &["Read access to path ../shared"]);
    bench.env.push(("BUILDX_BAKE_FILE_RELATIVE_PATHS".into(), "1".into()));
    let run = bench.rbuild(&[&["bake"], &files[..], &["--set=a.output=type=local,dest=made"]].concat()).ok();
    assert_eq!([read(&bench, "made/f"), read(&bench, "made/g")], ["f", "g"]);
    assert!(run.stderr.contains("warning: the \"NOBODY_SETS_IT\" variable is not set"), "{}", run.stderr);
    write(
        &bench,
        "one/bake.hcl",
        "target \"base\" {\n context = \"ctx\"\n contexts = { here = \"cwd://shared\" }\n}\ntarget \"plain\" {}\n",
    );
    write(&bench, "two/bake.hcl", "target \"app\" { context = target.base.context }\n");
    let printed = bench.rbuild(&[
        "bake",
        "-f",
        "one/bake.hcl",
        "-f",
        "two/bake.hcl",
        "--print",
        "base",
        "app",
        "plain",
        "--set=plain.contexts.x=y",
    ]);
    let printed = json(&printed.ok().stdout);
    let contexts = ["base", "app", "plain"].map(|name| printed["target"][name]["context"].as_str().unwrap_or_default());
    assert_eq!(contexts, ["one/ctx", "one/ctx", "one"]);
    assert_eq!(printed["target"]["base"]["contexts"]["here"], "cwd://shared");
    assert_eq!(printed["target"]["plain"]["contexts"]["x"], "y");
}

// SPEC B7.21: one file of a web server says what is built here; an archive is the context too.
#[test]
fn b7_21_definitions_on_web_servers() {
    let bench = Bench::new();
    write(&bench, "f", "here");
    let definition = "target \"default\" {\n dockerfile-inline = \"FROM scratch\\nCOPY f /f\\n\"\n output = [\"type=local,dest=files\"]\n}\n";
    let web = Web::file(definition, &[]);
    bench.rbuild(&["bake", &web.url("/docker-bake.hcl?x=1")]).ok();
    assert_eq!(read(&bench, "files/f"), "here");
    let mut archive = tar::Builder::new(Vec::new());
    let below = format!(
        "{definition}target \"below\" {{\n context = \"sub/../sub\"\n dockerfile = \"D\"\n contexts = {{ all = \".\", deep = \"sub/deep\" }}\n output = [\"type=local,dest=below\"]\n}}\n"
    );
    let dockerfile = "FROM scratch\nCOPY g /g\nCOPY --from=all f /f\nCOPY --from=deep h /h\n";
    let files =
        [("docker-bake.hcl", below.as_str()), ("f", "in the archive"), ("sub/g", "in sub"), ("sub/deep/h", "deep")];
    for (name, text) in files.into_iter().chain([("sub/D", dockerfile)]) {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, text.as_bytes()).unwrap();
    }
    let answer = Answer::new(200).with_body("application/x-tar", archive.into_inner().unwrap());
    let web = Web::start(move |_| answer.clone());
    bench.rbuild(&["bake", &web.url("/all.tar")]).ok();
    assert_eq!(read(&bench, "files/f"), "in the archive");
    let url = web.url("/all.tar");
    let run = bench.rbuild(&["bake", "--progress", "plain", &url, "below"]).ok();
    assert_eq!(["below/g", "below/f", "below/h"].map(|name| read(&bench, name)), ["in sub", "in the archive", "deep"]);
    assert!(run.stderr.contains("[context deep] take sub/deep of the build context\n"), "{}", run.stderr);
    let printed = json(&bench.rbuild(&["bake", &url, "below", "--print"]).ok().stdout);
    assert_eq!(printed["target"]["below"]["context"], format!("tar+{url}#:sub"));
    bench.rbuild(&["bake", &url, "below", "--set", "below.context=none"]).fails(4, &["\"/none\": not found"]);
    write(&bench, "Dockerfile", "FROM scratch\nCOPY --from=deep h /h\n");
    let deep = format!("deep=tar+{url}#:sub/deep");
    bench.rbuild(&["build", "--build-context", &deep, "-o", "type=local,dest=named", "."]).ok();
    assert_eq!(read(&bench, "named/h"), "deep");
}

// SPEC B7.16: what is made for one platform serves several; platforms that another one does not have are a mistake.
#[test]
fn b7_16_targets_are_made_of_others_for_platforms() {
    let bench = bench(
        r#"
        target "one" { dockerfile-inline = "FROM scratch\nCOPY tool/f /one\n" }
        target "two" {
          platforms = ["linux/amd64", "linux/arm64"]
          dockerfile-inline = "FROM scratch\nARG TARGETARCH\nCOPY tool/f /two-$${TARGETARCH}\n"
        }
        target "app" {
          platforms = ["linux/amd64", "linux/arm64"]
          contexts = { one = "target:one", two = "target:two" }
          dockerfile-inline = "FROM two\nCOPY --from=one /one /copy\n"
          output = ["type=local,dest=files"]
        }
        target "more" {
          platforms = ["linux/amd64", "linux/riscv64"]
          contexts = { two = "target:two" }
        }
        target "self" { contexts = { self = "target:self" } }
        target "a" { contexts = { b = "target:b" } }
        target "b" { contexts = { a = "target:a" } }
        "#,
    );
    bench.rbuild(&["bake", "app"]).ok();
    for arch in ["amd64", "arm64"] {
        assert_eq!(read(&bench, &format!("files/linux_{arch}/two-{arch}")), "tool");
        assert_eq!(read(&bench, &format!("files/linux_{arch}/copy")), "tool");
    }
    bench.rbuild(&["bake", "more"]).fails(4, &["target two can't be used by more"]);
    bench.rbuild(&["bake", "self"]).fails(4, &["a target cannot link to itself"]);
    bench.rbuild(&["bake", "a"]).fails(4, &["infinite loop from"]);
}

// SPEC B7.25: what targets have in common is run once, though they are built at the same time.
#[test]
fn b7_25_common_stages_run_once() {
    if let Err(why) = can_run().and_then(|()| bases().map(drop)) {
        return eprintln!("skipped: {why}");
    }
    let bench = bench(
        r#"
        variable "BUSYBOX" {}
        group "default" { targets = ["a", "b"] }
        target "_common" {
          contexts = { busybox = BUSYBOX }
          dockerfile = "common.Dockerfile"
        }
        target "a" {
          inherits = ["_common"]
          target = "a"
          output = ["type=local,dest=files-a"]
        }
        target "b" {
          inherits = ["_common"]
          target = "b"
          output = ["type=local,dest=files-b"]
        }
        "#,
    );
    let dockerfile = "FROM busybox AS common\nRUN --mount=type=cache,target=/c echo x >> /c/n && sleep 1 && cp /c/n /n\n\
        FROM scratch AS a\nCOPY --from=common /n /n\nFROM scratch AS b\nCOPY --from=common /n /n\n";
    write(&bench, "common.Dockerfile", dockerfile);
    let busybox = format!("BUSYBOX=oci-layout://{}", bases().unwrap().join("busybox").display());
    bench.rbuild(&["bake", "--var", &busybox]).ok();
    assert_eq!((read(&bench, "files-a/n"), read(&bench, "files-b/n")), ("x\n".into(), "x\n".into()));
}

// SPEC B7.02, B7.23: the calls of docker/bake-action, in their order.
#[test]
fn b7_02_the_calls_of_an_action() {
    let bench = bench(TWO);
    bench.rbuild(&["buildx", "version"]).ok();
    bench.rbuild(&["buildx", "inspect"]).ok();
    let sets = ["--set", "*.labels.x=y", "--file", "docker-bake.hcl"];
    let printed = bench.rbuild(&[&["buildx", "bake"], &sets[..], &["app", "--print"]].concat()).ok();
    assert_eq!(json(&printed.stdout)["target"]["app"]["labels"]["x"], "y");
    let sets = [&sets[..], &["--provenance", "mode=min,inline-only=true", "--metadata-file", "m.json"]].concat();
    bench.rbuild(&[&["buildx", "bake"], &sets[..], &["app"]].concat()).ok();
    let metadata = json(&read(&bench, "m.json"));
    assert!(metadata["app"]["containerimage.digest"].is_string() && metadata.get("tool").is_none(), "{metadata}");
}

// SPEC B7.16: what failed keeps others from being begun, and that is said.
#[test]
fn b7_16_what_is_made_of_a_failure_is_not_begun() {
    let bench = bench(
        "target \"base\" {\n dockerfile-inline = \"FROM scratch\\nCOPY none /\\n\"\n}\ntarget \"app\" {\n contexts = { base = \"target:base\" }\n dockerfile-inline = \"FROM base\"\n}\n",
    );
    let run = bench.rbuild(&["bake", "app"]);
    assert_eq!(run.code, 4, "{}", run.stderr);
    assert!(run.stderr.contains("target base: ") && run.stderr.contains("target app: not built"), "{}", run.stderr);
}
