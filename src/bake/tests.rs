//! Definitions, and what becomes of them.

use serde_json::json;

use super::*;

fn none(_: &str) -> Option<String> {
    None
}

fn surroundings(environment: &dyn Fn(&str) -> Option<String>) -> Surroundings<'_> {
    Surroundings {
        vars: BTreeMap::new(),
        environment,
        local_platform: "linux/amd64".into(),
        command_context: "cwd://".into(),
        home: Some("/home/me".into()),
        beside: None,
        read: &no_file,
    }
}

fn no_file(_: &str) -> Result<Option<String>, String> {
    Ok(None)
}

fn file(name: &str, text: &str) -> SourceFile {
    SourceFile { name: name.into(), text: text.into() }
}

fn bake(files: &[SourceFile]) -> Result<Bake, String> {
    Bake::new(files, &surroundings(&none)).map_err(|e| e.to_string())
}

fn print(text: &str, names: &[&str], set: &[&str]) -> Result<Value, String> {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let set: Vec<String> = set.iter().map(ToString::to_string).collect();
    let bake = bake(&[file("docker-bake.hcl", text)])?;
    let overrides =
        Override::parse(&set, &|name| (name == "FROM_ENV").then(|| "env".to_owned())).map_err(|e| e.to_string())?;
    let targets = bake.resolve(&names, &overrides).map_err(|e| e.to_string())?;
    bake.printed(&names, &targets).map_err(|e| e.to_string())
}

fn target(text: &str, name: &str) -> Value {
    let printed = print(text, &[name], &[]).unwrap_or_else(|e| panic!("{text}: {e}"));
    printed["target"][name].clone()
}

// SPEC B7.03, B7.04, B7.06, B7.18
#[test]
fn b7_18_a_definition_is_printed_as_it_is_resolved() {
    let text = r#"
        group "default" { targets = ["app", "db"] }
        target "app" {
          dockerfile = "app.Dockerfile"
          tags = ["docker.io/me/app"]
          args = { A = "1", NONE = null, T = "$${x}" }
          cache-from = ["user/app:cache", "type=local,src=c", { type = "gha" }]
          output = ["out", "type=image,push=true"]
          secret = ["id=s,env=S"]
          ssh = ["default", "key=a,b"]
          no-cache = true
        }
        target "db" { context = "db" }
    "#;
    let printed = print(text, &["default"], &[]).expect("valid");
    let expected = json!({
        "group": {"default": {"targets": ["app", "db"]}},
        "target": {
            "app": {
                "context": ".", "dockerfile": "app.Dockerfile", "args": {"A": "1", "T": "$${x}"}, "tags": ["docker.io/me/app"],
                "cache-from": [{"ref": "user/app:cache", "type": "registry"}, {"src": "c", "type": "local"}, {"type": "gha"}],
                "secret": [{"env": "S", "id": "s"}], "ssh": [{"id": "default"}, {"id": "key", "paths": ["a", "b"]}],
                "output": [{"dest": "out", "type": "local"}, {"push": "true", "type": "image"}], "no-cache": true,
            },
            "db": {"context": "db", "dockerfile": "Dockerfile"},
        },
    });
    assert_eq!(printed, expected);
    let one = print(text, &["db"], &[]).expect("valid");
    assert_eq!(one["group"], json!({"default": {"targets": ["db"]}}));
    assert_eq!(one["target"].as_object().map(Map::len), Some(1));
    assert_eq!(print(text, &["none"], &[]), Err("failed to find target none".into()));
}

// SPEC B7.05, B7.07: parents first, the later one wins; what merges and what does not.
#[test]
fn b7_07_targets_inherit() {
    let text = r#"
        target "a" {
          args = { X = "a", Y = "a" }
          tags = ["a"]
          secret = ["id=s,src=a"]
          platforms = ["linux/amd64"]
        }
        target "b" {
          args = { X = "b" }
          labels = { l = "b" }
          cache-from = ["one"]
        }
        target "c" {
          inherits = ["a", "b"]
          args = { Z = "c", Y = null }
          tags = ["c"]
          secret = ["id=s,src=c", "id=t,src=t"]
          cache-from = ["one", "two"]
        }
        target "loop" { inherits = ["pool"] }
        target "pool" { inherits = ["loop"] }
    "#;
    let c = target(text, "c");
    assert_eq!(c["args"], json!({"X": "b", "Z": "c"}));
    assert_eq!(c["tags"], json!(["c"]));
    assert_eq!(c["labels"], json!({"l": "b"}));
    assert_eq!(c["secret"], json!([{"id": "s", "src": "c"}, {"id": "t", "src": "t"}]));
    assert_eq!(c["cache-from"].as_array().map(Vec::len), Some(2));
    assert_eq!(c["platforms"], json!(["linux/amd64"]));
    let error = print(text, &["loop"], &[]).expect_err("a circle");
    assert!(error.contains("infinite recursion"), "{error}");
}

// SPEC B7.05: files merge in their order, in both languages.
#[test]
fn b7_05_files_merge() {
    let hcl = file(
        "docker-bake.hcl",
        "target \"app\" {\n args = { A = \"1\", B = \"1\" }\n tags = [\"x\"]\n}\nvariable \"V\" { default = \"hcl\" }",
    );
    let json = file(
        "docker-bake.override.json",
        r#"{"variable": {"V": {"default": "json"}}, "target": {"app": {"args": {"B": "${V}-2"}, "tags": ["y"]}}}"#,
    );
    let bake = bake(&[hcl, json]).expect("valid");
    let targets = bake.resolve(&["app".into()], &[]).expect("found");
    assert_eq!(targets["app"].map("args"), BTreeMap::from([("A".into(), "1".into()), ("B".into(), "json-2".into())]));
    assert_eq!(targets["app"].printed()["tags"], json!(["y"]));
}

// SPEC B7.08
#[test]
fn b7_08_a_matrix_makes_targets() {
    let text = r#"
        group "default" { targets = ["app"] }
        target "app" {
          name = "app-${os}-${replace(item.v, ".", "-")}"
          matrix = { os = ["a", "b"], item = [{ v = "1.0" }, { v = "2.0" }] }
          args = { V = item.v, OS = os }
        }
        target "child" { inherits = ["app"] }
    "#;
    let printed = print(text, &["default"], &[]).expect("valid");
    let names: Vec<&String> = printed["target"].as_object().expect("targets").keys().collect();
    assert_eq!(names, ["app-a-1-0", "app-a-2-0", "app-b-1-0", "app-b-2-0"]);
    assert_eq!(printed["target"]["app-b-2-0"]["args"], json!({"OS": "b", "V": "2.0"}));
    assert!(print(text, &["child"], &[]).expect_err("a matrix").contains("cannot be inherited"));
    let nameless = "target \"app\" { matrix = { a = [\"1\", \"2\"] } }";
    assert!(print(nameless, &["app"], &[]).expect_err("no name").contains("needs a name"));
    let twice = "target \"app\" {\n name = \"x\"\n matrix = { a = [\"1\", \"2\"] }\n}";
    assert!(print(twice, &["app"], &[]).expect_err("twice").contains("duplicate name"));
}

// SPEC B7.09, B7.10
#[test]
fn b7_10_variables_come_from_flags_the_environment_and_defaults() {
    let text = r#"
        variable "TAG" { default = "latest" }
        variable "FULL" { default = "app:${TAG}" }
        variable "DEBUG" { default = false }
        variable "COUNT" { default = 1 }
        variable "EMPTY" {}
        variable "LIST" {
          type = list(string)
          default = ["a"]
        }
        variable "OBJ" {
          type = object({ name = string, n = optional(number) })
          default = { name = "x" }
        }
        variable "SMALL" {
          default = 3
          validation {
            condition = SMALL < 10
            error_message = "SMALL is too large"
          }
        }
        target "app" {
          args = { T = TAG, F = FULL, D = DEBUG ? "yes" : "no", C = COUNT + 1, E = EMPTY, L = join("-", LIST), O = OBJ.name, S = SMALL }
        }
    "#;
    let args = |vars: &[(&str, &str)], env: &[(&str, &str)]| -> Result<BTreeMap<String, String>, String> {
        let environment =
            |name: &str| env.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        let vars = vars.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let with = Surroundings { vars, ..surroundings(&environment) };
        let bake = Bake::new(&[file("docker-bake.hcl", text)], &with).map_err(|e| e.to_string())?;
        Ok(bake.resolve(&["app".into()], &[]).map_err(|e| e.to_string())?["app"].map("args"))
    };
    let shown =
        |map: BTreeMap<String, String>| map.into_iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(" ");
    let default = shown(args(&[], &[]).expect("valid"));
    assert_eq!(default, "C=2 D=no E= F=app:latest L=a O=x S=3 T=latest");
    let env = [
        ("TAG", "env"),
        ("DEBUG", "1"),
        ("COUNT", "4"),
        ("LIST", "x,y"),
        ("OBJ_JSON", "{\"name\": \"j\"}"),
        ("EMPTY", "e"),
    ];
    assert_eq!(shown(args(&[], &env).expect("valid")), "C=5 D=yes E=e F=app:env L=x-y O=j S=3 T=env");
    assert_eq!(args(&[("TAG", "flag")], &env).expect("valid")["F"], "app:flag");
    for (vars, env, said) in [
        (&[("NONE", "x")][..], &[][..], "--var: there is no variable named \"NONE\""),
        (&[], &[("DEBUG", "perhaps")], "failed to parse DEBUG as bool: \"perhaps\" is no bool"),
        (&[], &[("COUNT", "x")], "failed to parse COUNT as number: \"x\" is no number"),
        (&[], &[("SMALL", "12")], "SMALL is too large"),
        (
            &[],
            &[("OBJ_JSON", "{}")],
            "OBJ as object({name=string,n=optional(number)}) from JSON: attribute \"name\" is required",
        ),
        (&[], &[("OBJ", "{}")], "unsupported type object({name=string,n=optional(number)}) for variable OBJ"),
    ] {
        let error = args(vars, env).expect_err(said);
        assert!(error.contains(said), "{error}");
    }
}

// SPEC B7.11, B7.12, B7.14, B7.15
#[test]
fn b7_14_expressions_have_values() {
    let value = |expression: &str| {
        let text = format!(
            "list = [\"a\", \"b\"]\nobj = {{ k = \"v\", n = {{ m = [1, 2] }} }}\n\
             function \"greet\" {{\n params = [name]\n variadic_params = rest\n result = \"hi ${{name}}${{length(rest)}}\"\n}}\n\
             function \"twice\" {{\n params = [x]\n result = greet(\"${{x}}${{x}}\")\n}}\n\
             function \"forever\" {{\n params = []\n result = forever()\n}}\n\
             circle = back\nback = circle\n\
             target \"other\" {{\n args = {{ A = \"${{obj.k}}!\" }}\n tags = [\"t\"]\n}}\n\
             target \"app\" {{\n args = {{ X = {expression} }}\n}}\n"
        );
        print(&text, &["app"], &[])
            .map(|printed| printed["target"]["app"]["args"]["X"].as_str().unwrap_or_default().to_owned())
    };
    for (expression, expected) in [
        ("\"${upper(\"a\")}-${list[1]}\"", "A-b"),
        ("obj.n.m[1] * 2 + 1", "5"),
        ("obj[\"k\"]", "v"),
        ("join(\",\", [for i, x in list : \"${i}${x}\"])", "0a,1b"),
        ("join(\",\", [for k, v in {b = 1, a = 2} : k if v > 1])", "a"),
        ("{for x in list : x => upper(x)}.b", "B"),
        ("join(\",\", {for x in [\"a1\", \"a2\"] : substr(x, 0, 1) => x...}.a)", "a1,a2"),
        ("join(\",\", [{ n = \"x\" }, { n = \"y\" }][*].n)", "x,y"),
        ("join(\",\", [{ n = \"x\" }].*.n)", "x"),
        ("\"%{ if true }yes%{ else }no%{ endif }\"", "yes"),
        ("\"%{ for x in list ~} ${x} %{ endfor }\"", "a b "),
        ("<<EOT\nline ${list[0]}\nEOT", "line a\n"),
        ("<<-EOT\n    a\n      b\n    EOT", "a\n  b\n"),
        ("greet(\"x\", 1, 2)", "hi x2"),
        ("twice(\"y\")", "hi yy0"),
        ("max(list2...)", "ERR there is no variable named \"list2\""),
        ("max([1, 7, 3]...)", "7"),
        ("try(nothing, \"else\")", "else"),
        ("can(obj.none) ? \"yes\" : \"no\"", "no"),
        ("target.other.args.A", "v!"),
        ("target.other.tags[0]", "t"),
        ("!false && (1 <= 2) && 7 % 4 == 3 && -1 < 0", "true"),
        ("BAKE_LOCAL_PLATFORM", "linux/amd64"),
        ("homedir()", "/home/me"),
        ("circle", "ERR refers to itself"),
        ("target.app.args.X", "ERR refers to itself"),
        ("forever()", "ERR more than 100 deep"),
        ("nothing()", "ERR there is no function named \"nothing\""),
        ("greet()", "ERR greet: 1 arguments are required, not 0"),
        ("1 / 0", "ERR division by zero"),
        ("target.none.args", "ERR there is no target named \"none\""),
        ("list[7]", "ERR invalid index 7"),
    ] {
        match (value(expression), expected.strip_prefix("ERR ")) {
            (Ok(found), None) => assert_eq!(found, expected, "{expression}"),
            (Err(error), Some(expected)) => assert!(error.contains(expected), "{expression}: {error}"),
            (found, _) => panic!("{expression}: {found:?}"),
        }
    }
}

// SPEC B7.17
#[test]
fn b7_17_overrides_change_what_they_match() {
    let text = "target \"app-a\" {\n args = { A = \"1\" }\n tags = [\"x\"]\n platforms = [\"linux/amd64\"]\n}\ntarget \"app-b\" {}\ntarget \"db\" {}\n\
                group \"default\" { targets = [\"app-a\", \"app-b\", \"db\"] }";
    let set = |set: &[&str]| print(text, &["default"], set).map(|printed| printed["target"].clone());
    let all =
        set(&["*.args.A=2", "app-?.tags=new", "app-[ab].tags+=more", "db.platform=linux/arm64", "db.no-cache=true"])
            .expect("valid");
    assert_eq!(all["app-a"]["args"], json!({"A": "2"}));
    assert_eq!(all["db"]["args"], json!({"A": "2"}));
    assert_eq!(all["db"]["platforms"], json!(["linux/arm64"]));
    assert_eq!(all["db"]["no-cache"], json!(true));
    assert_eq!(set(&["*.tags=a", "*.tags=b"]).expect("valid")["db"]["tags"], json!(["a", "b"]));
    assert_eq!(set(&["app-a.tags+=y"]).expect("valid")["app-a"]["tags"], json!(["x", "y"]));
    assert_eq!(set(&["app-a.tags="]).expect("valid")["app-a"].get("tags"), None);
    assert_eq!(set(&["app-a.args.FROM_ENV"]).expect("valid")["app-a"]["args"]["FROM_ENV"], "env");
    assert_eq!(set(&["*.push=true"]).expect("valid")["db"]["output"], json!([{"type": "image", "push": "true"}]));
    assert_eq!(set(&["*.output=type=local,dest=o", "*.push=true"]).expect("valid")["db"]["output"][0]["type"], "local");
    for (given, said) in [
        ("none.tags=a", "could not find any target matching 'none'"),
        ("app-a=1", "expected TARGET.KEY=VALUE"),
        ("app-a.colour=red", "unknown key \"colour\""),
        ("app-a.args=1", "expected TARGET.KEY.NAME=VALUE"),
        ("app-a.tags.x=1", "this key has no names"),
        ("app-a.tags", "a value is missing"),
        ("app-a.pull=perhaps", "a bool is required"),
    ] {
        let error = set(&[given]).expect_err(given);
        assert!(error.contains(said), "{given}: {error}");
    }
}

// SPEC B7.20
#[test]
fn b7_20_push_and_load_add_to_outputs() {
    let docker = json!({"type": "docker"});
    let pushed = json!({"type": "image", "push": "true"});
    for (output, key, expected) in [
        ("", "push", json!([pushed])),
        ("\"type=image\"", "push", json!([pushed])),
        ("\"type=registry\"", "push", json!([{"type": "registry"}])),
        ("\"type=docker\"", "push", json!([docker, pushed])),
        ("\"type=tar,dest=t\"", "push", json!([{"dest": "t", "type": "tar"}])),
        ("", "load", json!([docker])),
        ("\"type=image\"", "load", json!([{"type": "image"}, docker])),
        ("\"type=docker\"", "load", json!([docker])),
        ("\"type=local,dest=d\"", "load", json!([{"dest": "d", "type": "local"}])),
    ] {
        let text = format!("target \"app\" {{\n output = [{output}]\n}}");
        let printed = print(&text, &["app"], &[&format!("*.{key}=true")]).expect("valid");
        assert_eq!(printed["target"]["app"]["output"], expected, "{output} {key}");
    }
}

// SPEC B7.01, B7.06: names may be patterns, and services' names.
#[test]
fn b7_06_names_may_be_patterns() {
    let text = "group \"default\" { targets = [\"a\"] }\ntarget \"a\" {}\ntarget \"app_one\" {}\ntarget \"app_two\" {}";
    let names = |names: &[&str]| print(text, names, &[]).map(|printed| printed["group"]["default"]["targets"].clone());
    assert_eq!(names(&["app_*"]), Ok(json!(["app_one", "app_two"])));
    assert_eq!(names(&["app.one", "default"]), Ok(json!(["a", "app_one"])));
    assert_eq!(names(&["x*"]), Err("could not find any target matching \"x*\"".into()));
    let error = print("target \"a.b\" {}", &["a.b"], &[]).expect_err("a bad name");
    assert!(error.contains("invalid name \"a.b\""), "{error}");
}

// SPEC B7.02, B7.16: what a build is told, and what it waits for.
#[test]
fn b7_16_a_target_is_a_command_line() {
    let text = "target \"base\" {}\ntarget \"app\" {\n contexts = { base = \"target:base\", src = \"docker-image://a\" }\n pull = true\n no-cache = true\n\
                secret = [{ id = \"s\", src = \"a,b\" }]\n ulimits = [\"nofile=1:2\"]\n entitlements = [\"network.host\"]\n extra-hosts = { h = \"1.2.3.4\" }\n}";
    let bake = bake(&[file("docker-bake.hcl", text)]).expect("valid");
    let targets = bake.resolve(&["app".into()], &[]).expect("found");
    assert_eq!(targets.keys().collect::<Vec<_>>(), ["app", "base"]);
    assert_eq!(targets["app"].linked(), BTreeMap::from([("base".into(), "base".into())]));
    let expected = [
        "--build-context=src=docker-image://a",
        "--secret=id=s,\"src=a,b\"",
        "--pull=true",
        "--no-cache",
        "--ulimit=nofile=1:2",
        "--allow=network.host",
        "--add-host=h=1.2.3.4",
    ];
    assert_eq!(targets["app"].arguments(), expected);
}

#[test]
fn b7_03_mistakes_are_named() {
    for (text, said) in [
        ("target \"app\" {\n tag = [\"x\"]\n}", "target \"app\", tag: unsupported attribute"),
        ("target \"app\" {\n tags = \"x\"\n}", "target \"app\", tags: a list of strings is required, not string"),
        ("target \"app\" {\n args = [1]\n}", "a map of strings is required"),
        ("target \"app\" {\n args = { A = NONE }\n}", "there is no variable named \"NONE\""),
        ("target \"app\" {\n", "docker-bake.hcl:"),
        ("targets \"app\" {}", "unsupported block type \"targets\""),
        ("target \"a\" \"b\" {}", "needs one name"),
        ("group \"default\" {\n target = [\"x\"]\n}", "not supported: a group has targets and description only"),
        ("target \"a\" {\n name = \"b\"\n}", "a name requires matrix"),
        ("function \"f\" { result = 1 }", "function \"f\": params is missing"),
        ("function \"f\" { params = [] }", "function \"f\": result is missing"),
        ("variable \"v\" { type = boolean }", "boolean is not a valid type"),
        ("variable \"v\" { type = list(lower(\"bool\")) }", "is not a valid type"),
        ("target \"a\" { resources = { cpu-quota = \"x\" } }", "cpu-quota: \"x\" is no number"),
    ] {
        let error = bake(&[file("docker-bake.hcl", text)]).expect_err(text);
        assert!(error.contains(said), "{text}: {error}");
    }
}

// SPEC B7.09, B7.10: texts as values of a type, and what cannot be one.
#[test]
fn b7_10_texts_become_values_of_the_type() {
    let value = |kind: &str, default: &str, name: &str, text: &str, expression: &str| {
        let field =
            |key: &str, value: &str| if value.is_empty() { String::new() } else { format!(" {key} = {value}\n") };
        let text_of = format!(
            "variable \"FOO\" {{\n{}{}}}\ntarget \"app\" {{\n args = {{ X = {expression} }}\n}}",
            field("type", kind),
            field("default", default)
        );
        let environment = |asked: &str| (asked == name).then(|| text.to_owned());
        let bake =
            Bake::new(&[file("docker-bake.hcl", &text_of)], &surroundings(&environment)).map_err(|e| e.to_string())?;
        let targets = bake.resolve(&["app".into()], &[]).map_err(|e| e.to_string())?;
        Ok::<_, String>(targets["app"].map("args").get("X").cloned().unwrap_or_default())
    };
    let joined = "join(\"-\", FOO)";
    for (kind, default, name, text, expression, expected) in [
        ("", "", "", "", "equal(FOO, \"\")", Ok("true")),
        ("string", "", "", "", "equal(FOO, null)", Ok("true")),
        ("object({val: string})", "null", "", "", "equal(FOO, null)", Ok("true")),
        ("string", "", "FOO", "\"hello\"", "FOO", Ok("\"hello\"")),
        ("list(number)", "", "FOO", "3,1", "join(\"-\", [for v in FOO: v + 1])", Ok("4-2")),
        ("list(string)", "", "FOO", "hi,\"a,b\"", joined, Ok("hi-a,b")),
        ("map(number)", "", "FOO", "foo:1,bar:2", "FOO.foo + FOO.bar", Ok("3")),
        ("tuple([number,string])", "", "FOO", "99,x", "format(\"%d%s\", FOO[0], FOO[1])", Ok("99x")),
        ("number", "\"99\"", "", "", "FOO + 1", Ok("100")),
        ("string", "", "FOO_JSON", "\"hello\"", "FOO", Ok("hello")),
        ("map(number)", "", "FOO_JSON", "{\"a\": 1}", "FOO.a", Ok("1")),
        (
            "list(string)",
            "",
            "FOO",
            "\"hello,world",
            joined,
            Err("failed to convert FOO as list(string) from CSV: a quote"),
        ),
        ("list(number)", "", "FOO", "[1,2]", joined, Err("from CSV: failed to parse element \"[1\" as number")),
        ("map(number)", "", "FOO", "foo:1z", joined, Err("failed to parse element \"1z\" as number")),
        ("map(number)", "", "FOO", "foo:1:1", joined, Err("expected one k/v pair in foo:1:1")),
        ("map(string)", "", "FOO", "a:b,foo:c", "FOO.foo", Ok("c")),
        ("tuple([number])", "", "FOO", "1,2", joined, Err("1 values are required, not 2")),
        ("list(list(number))", "", "FOO", "1,2", joined, Err("unsupported type list(list(number)) for variable FOO")),
        ("object({a: string})", "", "FOO", "x", "FOO.a", Err("unsupported type object({a=string})")),
        ("", "[1]", "FOO", "x", "FOO", Err("unsupported type list for variable FOO")),
        ("", "[1]", "FOO_JSON", "[2]", "FOO", Err("unsupported type list for variable FOO")),
        ("number", "", "FOO", "1z", "FOO", Err("failed to parse FOO as number: \"1z\" is no number")),
        ("string", "", "FOO_JSON", "hello", "FOO", Err("failed to convert FOO as string from JSON")),
        ("number", "\"oops\"", "", "", "FOO", Err("invalid type: FOO default value is no number")),
        (
            "list(number)",
            "split(\",\", \"1,2foo\")",
            "",
            "",
            "FOO",
            Err("invalid type: FOO default value is no list(number)"),
        ),
    ] {
        match (value(kind, default, name, text, expression), expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{kind} {text}"),
            (Err(error), Err(expected)) => assert!(error.contains(expected), "{kind} {text}: {error}"),
            (found, expected) => panic!("{kind} {default} {text}: {found:?}, {expected:?}"),
        }
    }
}

// SPEC B7.09
#[test]
fn b7_09_rules_speak_of_values() {
    for (text, said) in [
        (
            "variable \"A\" {\n validation {\n condition = A != \"\"\n error_message = \"A is required.\"\n}\n}",
            "A is required.",
        ),
        (
            "variable \"A\" {}\nvariable \"B\" {\n validation {\n condition = A != \"\"\n error_message = \"B needs A.\"\n}\n}",
            "B needs A.",
        ),
        ("variable \"A\" {\n validation {}\n}", "condition expression must return either true or false, not null"),
        (
            "variable \"A\" {\n validation { condition = \"foo\" }\n}",
            "invalid condition result value: a bool is required",
        ),
        (
            "variable \"A\" {\n validation { condition = A == 1 }\n}",
            "this check failed, but has an invalid error message",
        ),
    ] {
        let error = bake(&[file("docker-bake.hcl", text)]).expect_err(text);
        assert!(error.contains(said), "{text}: {error}");
    }
}

// SPEC B7.08, B7.11: targets are known by the names that their matrices give, block by block.
#[test]
fn b7_08_blocks_are_named_one_by_one() {
    let split = "target \"x\" {\n name = \"y\"\n matrix = {}\n dockerfile = \"foo\"\n}\n\
                 target \"x\" {\n name = \"z\"\n matrix = {}\n dockerfile = \"bar\"\n}\n\
                 target \"def\" {\n dockerfile = target.z.dockerfile\n context = target.def.name\n target = target.def.network\n}";
    let printed = print(split, &["x", "def"], &[]).expect("valid");
    assert_eq!(printed["group"]["x"]["targets"], json!(["y", "z"]));
    assert_eq!(printed["target"]["y"]["dockerfile"], "foo");
    assert_eq!(printed["target"]["def"], json!({"context": "def", "dockerfile": "bar"}));
    let gone = "target \"def\" { dockerfile = target.abc.dockerfile }\n\
                target \"abc\" {\n name = \"xyz\"\n matrix = {}\n dockerfile = \"foo\"\n}";
    assert!(print(gone, &["def"], &[]).expect_err("renamed").contains("there is no target named \"abc\""));
    let files = [
        file("1.hcl", "target \"foo\" {\n name = \"bar\"\n matrix = {}\n dockerfile = \"x\"\n}"),
        file("2.hcl", "target \"foo\" { context = \"y\" }"),
        file("3.hcl", "target \"bar\" { target = \"z\" }"),
    ];
    let targets = bake(&files).expect("valid").resolve(&["bar".into()], &[]).expect("found");
    assert_eq!(targets["bar"].printed(), json!({"context": ".", "dockerfile": "x", "target": "z"}));
    let one =
        "target \"x\" { tags = [\"a\"] }\ntarget \"default\" {\n tags = target.x.tags\n matrix = { dummy = [\"\"] }\n}";
    assert_eq!(target(one, "default")["tags"], json!(["a"]));
    let numbers = "a = 1\ntarget \"default\" {\n name = n\n matrix = { n = [a, 2] }\n}";
    assert_eq!(print(numbers, &["default"], &[]).expect("valid")["group"]["default"]["targets"], json!(["1", "2"]));
}

// SPEC B7.05, B7.10: what another file says of a variable is its default.
#[test]
fn b7_10_attributes_of_other_files_are_defaults() {
    let files = [
        file("1.hcl", "variable \"A\" { default = \"x\" }\ntarget \"app\" { tags = [A] }"),
        file("2.json", "{\"A\": \"y\"}"),
    ];
    let tags = |environment: &dyn Fn(&str) -> Option<String>| {
        let bake = Bake::new(&files, &surroundings(environment)).expect("valid");
        bake.resolve(&["app".into()], &[]).expect("found")["app"].printed()["tags"].clone()
    };
    assert_eq!(tags(&none), json!(["y"]));
    assert_eq!(tags(&|name| (name == "A").then(|| "z".into())), json!(["z"]));
}

// SPEC B7.17
#[test]
fn b7_17_secrets_outputs_and_contexts_are_overridden() {
    let text = "target \"app\" {\n secret = [\"id=FOO,env=FOO\"]\n platforms = [\"linux/amd64\"]\n contexts = { a = \"b\", c = \"d\" }\n\
                output = [\"type=registry\", \"type=image,name=x\"]\n attest = [\"type=sbom\", \"type=sbom,generator=x\"]\n}";
    let app = |set: &[&str]| print(text, &["app"], set).map(|printed| printed["target"]["app"].clone());
    assert_eq!(app(&["app.secret.FOO=env=BAR"]).expect("valid")["secret"], json!([{"id": "FOO", "env": "BAR"}]));
    let both = app(&["app.secrets=id=FOO,src=/a", "app.secret.FOO=src=/b"]).expect("valid");
    assert_eq!(both["secret"], json!([{"id": "FOO", "src": "/b"}]));
    let both = app(&["app.platform+=linux/arm64", "app.platform=linux/riscv64"]).expect("valid");
    assert_eq!(both["platforms"], json!(["linux/arm64", "linux/riscv64"]));
    assert_eq!(app(&["app.contexts.a="]).expect("valid")["contexts"], json!({"c": "d"}));
    let kept = app(&["app.push=false"]).expect("valid");
    assert_eq!(kept["output"], json!([{"name": "x", "type": "image", "push": "false"}]));
    assert_eq!(app(&[]).expect("valid")["attest"], json!([{"type": "sbom", "generator": "x"}]));
    let off = app(&["app.attest=type=sbom,disabled=true"]).expect("valid");
    assert_eq!(off["attest"], json!([{"type": "sbom", "disabled": "true"}]));
    for (set, said) in [
        ("app.secret.BAR=env=BAR", "secret \"BAR\" must be declared before it can be overridden"),
        ("app.secret.FOO=id=BAR,env=BAR", "secret override id \"BAR\" does not match declared secret \"FOO\""),
        ("app.resources.cpu-quota=x", "cpu-quota: \"x\" is no number"),
    ] {
        assert!(app(&[set]).expect_err(set).contains(said));
    }
}

// SPEC B7.04, B7.06, B7.11, B7.16, B7.18
#[test]
fn b7_18_what_is_implied_is_printed() {
    let text = "target \"base\" {}\n\
                target \"app\" {\n contexts = { b = \"target:base\" }\n network = \"host\"\n dockerfile = \"\"\n resources = { cpu-shares = 2, memory = \"1g\" }\n\
                cache-from = [\"r1,r2\", \"type=local,src=c\"]\n ssh = [{ id = \"k\", paths = [\"p/${target.app.cache-from[2].type}\"] }]\n}\n\
                group \"app\" { targets = [\"app\"] }";
    let printed = print(text, &["app"], &[]).expect("valid");
    let expected = json!({
        "context": ".", "contexts": {"b": "target:base"}, "dockerfile": "Dockerfile", "network": "host", "entitlements": ["network.host"],
        "cache-from": [{"type": "registry", "ref": "r1"}, {"type": "registry", "ref": "r2"}, {"src": "c", "type": "local"}],
        "ssh": [{"id": "k", "paths": ["p/local"]}], "resources": {"cpu-shares": 2, "memory": "1g"},
    });
    assert_eq!(printed["target"]["app"], expected);
    assert_eq!(printed["target"]["base"]["output"], json!([{"type": "cacheonly"}]));
    let platforms = "target \"a\" { platforms = [\"linux/amd64\", \"linux/riscv64\"] }\n\
                     target \"b\" {\n contexts = { a = \"target:a\" }\n platforms = [\"linux/amd64\", \"linux/arm64\"]\n}";
    assert!(print(platforms, &["b"], &[]).expect_err("too many").contains("are not a subset of"));
}

// SPEC B5.07: paths of a file are below its directory, but for those that are said here.
#[test]
fn b5_07_paths_are_beside_their_file() {
    let beside = |file: &str, path: &str| format!("{}/{path}", file.split('/').next().unwrap_or_default());
    let with = Surroundings { beside: Some(&beside), ..surroundings(&none) };
    let files = [
        file(
            "one/a.hcl",
            "target \"base\" {\n context = \"ctx\"\n contexts = { s = \"shared\" }\n}\ntarget \"implicit\" {}",
        ),
        file(
            "two/b.hcl",
            "target \"heir\" { inherits = [\"base\"] }\ntarget \"told\" { context = target.base.context }\ntarget \"implicit\" { tags = [\"t\"] }",
        ),
    ];
    let bake = Bake::new(&files, &with).expect("valid");
    let set = Override::parse(&["told.contexts.s=x".into()], &none).expect("valid");
    let targets = bake.resolve(&["base", "implicit", "heir", "told"].map(String::from), &set).expect("found");
    let contexts = targets.values().map(|t| t.text("context").unwrap_or_default()).collect::<Vec<_>>();
    assert_eq!(contexts, ["one/ctx", "one/.", "one/ctx", "one/ctx"]);
    assert_eq!(targets["heir"].map("contexts")["s"], "one/shared");
    assert_eq!(targets["told"].map("contexts")["s"], "x");
}
