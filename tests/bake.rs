//! `rbuild bake`: definitions become builds (SPEC B7).
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(missing_docs, unreachable_pub, reason = "a test program")]

mod support;

use support::Bench;
use support::image::Image;

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

/// A directory with a definition and what it needs.
fn bench(definition: &str) -> Bench {
    let bench = Bench::new();
    let write = |name: &str, text: &str| {
        let path = bench.path("out").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write("docker-bake.hcl", definition);
    write("app.Dockerfile", "FROM scratch\nARG V\nLABEL v=$V\nCOPY app.Dockerfile /f\n");
    write("tool/f", "tool");
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
            "--allow=fs.read=../ctx",
        ],
    );
    let allow = ["--allow", "fs.read=../ctx", "--allow", "fs.write=../elsewhere", "--allow", "network.host"];
    bench.rbuild(&[&["bake"], &allow[..]].concat()).ok();
    assert!(bench.path("elsewhere/Dockerfile").is_file());
    bench.rbuild(&["bake", "--allow", "fs=*", "--allow", "network.host"]).ok();
    bench.rbuild(&["bake", "--allow", "colour"]).fails(2, &["--allow: unknown entitlement \"colour\""]);
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
        (&["https://example.invalid/x.git"], 2, "definitions of other places are not supported"),
    ] {
        bench.rbuild(&[&["bake"], args].concat()).fails(code, &[said]);
    }
    std::fs::write(bench.path("out/app.Dockerfile"), "FROM scratch\nCOPY nothing /\n").unwrap();
    let run = bench.rbuild(&["bake"]);
    assert_eq!(run.code, 4, "{}", run.stderr);
    assert!(run.stderr.contains("error: target app: ") && run.stderr.contains("nothing"), "{}", run.stderr);
    assert_eq!(std::fs::read_to_string(bench.path("out/files/tool")).unwrap(), "tool");
    std::fs::write(bench.path("out/docker-bake.hcl"), "target \"app\" {\n tag = 1\n}\n").unwrap();
    bench.rbuild(&["bake"]).fails(4, &["target \"app\", tag: unsupported attribute", "did you mean"]);
    std::fs::remove_file(bench.path("out/docker-bake.hcl")).unwrap();
    bench.rbuild(&["bake"]).fails(4, &["there is no bake file here", "hint: name one with -f FILE"]);
}
