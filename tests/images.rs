//! Commands on images of the store, against a real registry and with skopeo as the other side.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::print_stderr, reason = "skip reasons are collected by scripts/test")]
#![allow(missing_docs, unreachable_pub, reason = "a test program")]

mod support;

use std::process::Command;

use support::Bench;
use support::registry::Registry;

/// A bench whose store has `app:1`: two layers, labels and a history.
fn with_image() -> Bench {
    let bench = Bench::new();
    bench
        .file("a", "first")
        .file("b", "second")
        .dockerfile("FROM scratch\nCOPY a /a\nCOPY b /b\nENV X=y\nLABEL l=m\nCMD [\"/a\"]\n");
    bench.build(&["-t", "app:1"]).ok();
    bench
}

fn digest(bench: &Bench, name: &str) -> String {
    bench.rbuild(&["inspect", "--format", "{{.Digest}}", name]).ok().stdout.trim().to_owned()
}

fn skopeo(args: &[&str]) -> Result<(), String> {
    let output = Command::new("skopeo").arg("--insecure-policy").args(args).output().map_err(|e| e.to_string())?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

#[test]
fn b8_15_push_and_pull_keep_every_byte() {
    let registry = need!(Registry::start());
    let bench = with_image();
    let target = format!("{}/team/app:1", registry.host);
    bench.rbuild(&["tag", "app:1", &target]).ok();
    let pushed = bench.rbuild(&["push", "-q", &target]).ok().stdout;
    assert_eq!(pushed.trim(), digest(&bench, "app:1"));
    assert_eq!(registry.get("team/app:1").text("b"), "second");
    // Elsewhere, under a name of its own.
    bench.rbuild(&["push", "app:1", &format!("{}/other/app:2", registry.host)]).ok();
    let other = Bench::new();
    let pulled = other.rbuild(&["pull", "-q", &target]).ok().stdout;
    assert_eq!(pulled, pushed);
    assert_eq!(digest(&other, &target), digest(&bench, "app:1"));
    // What was pulled is a base that needs no registry.
    drop(registry);
    other.dockerfile(&format!("FROM {target}\nCOPY --from={target} /a /c\n"));
    assert_eq!(other.build_image(&[]).text("c"), "first");
    other.rbuild(&["pull", &target]).fails(7, &["error: "]);
    other.rbuild(&["push", "nothing:1", &target]).fails(2, &["there is no image \"nothing:1\""]);
}

#[test]
fn b8_15_save_and_load_keep_every_byte() {
    let bench = with_image();
    let (docker, oci) = (bench.path("docker.tar"), bench.path("oci.tar"));
    let (docker, oci) = (docker.to_str().unwrap(), oci.to_str().unwrap());
    bench.rbuild(&["save", "-o", docker, "app:1"]).ok();
    bench.rbuild(&["save", "--format", "oci", "-o", oci, "app:1"]).ok();
    for archive in [docker, oci] {
        let other = Bench::new();
        let said = other.rbuild(&["load", "-i", archive]).ok().stdout;
        assert_eq!(said, "Loaded image: app:1\n", "{archive}");
        assert_eq!(digest(&other, "app:1"), digest(&bench, "app:1"));
    }
    let files = bench.path("files");
    bench.rbuild(&["unpack", "app:1", "-o", files.to_str().unwrap()]).ok();
    assert_eq!(std::fs::read_to_string(files.join("b")).unwrap(), "second");
    bench.rbuild(&["unpack", "nothing", "-o", files.to_str().unwrap()]).fails(2, &["nothing"]);
    // From standard input, compressed.
    let other = Bench::new();
    let packed = Command::new("gzip").args(["-c", oci]).output().unwrap().stdout;
    let mut child = other.command(["load", "-q"]).stdin(std::process::Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), &packed).unwrap();
    assert_eq!(support::finish(child.wait_with_output().unwrap()).ok().stdout, "app:1\n");
    // Others read the archives, and their archives are read.
    let (layout, legacy) = (bench.path("layout"), bench.path("legacy.tar"));
    if let Err(why) =
        skopeo(&["copy", "-q", &format!("docker-archive:{docker}"), &format!("oci:{}:x", layout.display())])
    {
        if why.contains("No such file") {
            skip!("skopeo: {why}");
        }
        panic!("{why}");
    }
    skopeo(&["copy", "-q", &format!("oci-archive:{oci}"), &format!("docker-archive:{}:old:1", legacy.display())])
        .unwrap();
    let other = Bench::new();
    other.rbuild(&["load", "-i", legacy.to_str().unwrap()]).ok();
    other.dockerfile("FROM old:1\n");
    assert_eq!(other.build_image(&[]).text("a"), "first");
    other.rbuild(&["load", "-i", layout.to_str().unwrap(), "--tag", "named:1"]).ok();
    other.dockerfile("FROM named:1\n");
    assert_eq!(other.build_image(&[]).text("b"), "second");
}

#[test]
fn b8_15_broken_archives_are_refused_and_leave_no_name() {
    let bench = with_image();
    let archive = bench.path("a.tar");
    bench.rbuild(&["save", "--format", "oci", "-o", archive.to_str().unwrap(), "app:1"]).ok();
    let mut bytes = std::fs::read(&archive).unwrap();
    let at = bytes.windows(5).position(|w| w == b"linux").unwrap();
    bytes[at] = b'L';
    std::fs::write(&archive, &bytes).unwrap();
    let other = Bench::new();
    other
        .rbuild(&["load", "-i", archive.to_str().unwrap()])
        .fails(4, &["cannot load", "it is damaged", "digest mismatch"]);
    std::fs::write(&archive, "nonsense").unwrap();
    other.rbuild(&["load", "-i", archive.to_str().unwrap()]).fails(4, &["not an image archive"]);
    other
        .rbuild(&["load", "-i", "/nonexistent.tar"])
        .fails(2, &["cannot load /nonexistent.tar: there is no such file"]);
    assert_eq!(other.rbuild(&["images", "-q"]).ok().stdout, "");
    std::fs::write(&archive, &bytes[..bytes.len() / 2]).unwrap();
    other.rbuild(&["load", "-i", archive.to_str().unwrap()]).fails(4, &["cannot load"]);
    assert_eq!(other.rbuild(&["images", "-q"]).ok().stdout, "");
    // A failed save leaves what was there.
    std::fs::write(&archive, "precious").unwrap();
    bench.rbuild(&["save", "-o", archive.to_str().unwrap(), "nothing:1"]).fails(2, &["nothing:1"]);
    bench.rbuild(&["save", "-o", "/nowhere/a.tar", "app:1"]).fails(2, &["--output: there is no directory /nowhere"]);
    assert_eq!(std::fs::read(&archive).unwrap(), b"precious");
}

#[test]
fn b8_15_lists_details_and_names() {
    let bench = with_image();
    let table = bench.rbuild(&["images"]).ok().stdout;
    assert!(table.starts_with("REPOSITORY  TAG  DIGEST"), "{table}");
    assert!(table.contains(" ago") || table.contains(" now "), "{table}");
    let line: serde_json::Value =
        serde_json::from_str(&bench.rbuild(&["images", "--format", "json"]).ok().stdout).unwrap();
    assert_eq!((line["Repository"].as_str(), line["Tag"].as_str()), (Some("app"), Some("1")));
    assert_eq!(bench.rbuild(&["images", "--format", "{{.Repository}}:{{.Tag}}"]).ok().stdout, "app:1\n");
    let details: serde_json::Value = serde_json::from_str(&bench.rbuild(&["inspect", "app:1"]).ok().stdout).unwrap();
    assert_eq!(details[0]["Config"]["Labels"]["l"], "m");
    assert_eq!(details[0]["RootFS"]["Layers"].as_array().unwrap().len(), 2);
    let history = bench.rbuild(&["history", "--format", "{{.CreatedBy}}", "app:1"]).ok().stdout;
    let lines: Vec<&str> = history.lines().collect();
    assert_eq!(lines[0], "CMD [\"/a\"]");
    assert!(lines.iter().any(|l| l.starts_with("COPY a /a")), "{history}");
    bench.rbuild(&["images", "--format", "{{.Nmae}}"]).fails(2, &["--format"]);
    // Names, digests and their beginnings.
    let id = details[0]["Id"].as_str().unwrap();
    bench.rbuild(&["tag", &id[..19], "app:2"]).ok();
    assert_eq!(bench.rbuild(&["images", "-q"]).ok().stdout.lines().count(), 1, "one image with two names");
    for (filter, tags) in [("label=l=m", "1\n2\n"), ("label=l=n", ""), ("before=app:2", ""), ("reference=*:2", "2\n")] {
        let args = ["images", "--filter", filter, "--format", "{{.Tag}}"];
        assert_eq!(bench.rbuild(&args).ok().stdout, tags, "{filter}");
    }
    bench.rbuild(&["images", "--filter", "since=app:9"]).fails(2, &["there is no image \"app:9\""]);
    assert_eq!(digest(&bench, "app:2"), digest(&bench, "app:1"));
    bench.rbuild(&["inspect", "app:3"]).fails(2, &["there is no image \"app:3\"", "did you mean app:"]);
    // A digest that is two names is not taken for both, and of several names all are there or none goes.
    bench.rbuild(&["rm", &id[7..19]]).fails(2, &["has several names: app:1, app:2", "--force"]);
    bench.rbuild(&["rm", "app:2", "app:9"]).fails(2, &["app:9"]);
    assert_eq!(bench.rbuild(&["rm", "app:2"]).ok().stdout, "untagged: app:2\n");
    bench.rbuild(&["rm", "app:2"]).fails(2, &["app:2"]);
    bench.rbuild(&["rmi", &digest(&bench, "app:1")]).ok();
    assert_eq!(bench.rbuild(&["images", "-q"]).ok().stdout, "");
}
