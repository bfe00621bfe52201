//! Dockerfiles of the shapes that kaniko is tested with, through kaniko's command line and through ours, on every rung that runs
//! steps here: what must come out is what docker makes of them (SPEC D1, D2). The cases are in `executor/`, by subject.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::print_stderr, reason = "skip reasons are collected by scripts/test")]
#![allow(missing_docs, unreachable_pub, reason = "a test program")]
#![allow(clippy::type_complexity, reason = "shapes are compared, not kept")]

mod support;

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;
use support::image::{Image, Node};
use support::registry::Registry;
use support::web::{Answer, Web};
use support::{Bench, Run, finish};

/// One Dockerfile, how it is built and what must come of it. In a file of cases: `=== NAME`, lines of a word and its value, `---`,
/// the Dockerfile.
#[derive(Default)]
struct Case {
    name: String,
    /// For both command lines.
    args: Vec<String>,
    /// For kaniko's alone.
    kaniko: Vec<String>,
    env: Vec<(String, String)>,
    /// Is to be given the address of a web server as `WEB`.
    web: bool,
    /// Exit code of the executor, and a text of its error.
    fails: Option<(i32, String)>,
    /// What the executor must not say.
    silent: Vec<String>,
    checks: Vec<Check>,
    dockerfile: String,
}

enum Check {
    /// A path, and what it must be: `kind=`, `mode=`, `owner=`, `mtime=`, `link=`, `hard=`, `xattr=`, and `text=` to the line's end.
    Has(String),
    Lacks(String),
    /// The last layer does not mention it.
    TopLacks(String),
    /// A place in the config, and its value.
    Config(String, Value),
    /// The number of layers that kaniko's command line makes.
    Layers(usize),
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(ToOwned::to_owned).collect()
}

fn cases(text: &str) -> Vec<Case> {
    let blocks = text.split("=== ").filter(|block| !block.is_empty());
    blocks
        .map(|block| {
            let (head, dockerfile) = block.split_once("\n---\n").unwrap_or_else(|| panic!("no --- in {block}"));
            let mut lines = head.lines();
            let name = lines.next().unwrap().to_owned();
            let mut case = Case { name, dockerfile: dockerfile.to_owned(), ..Case::default() };
            for line in lines {
                let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
                match word {
                    "args" => case.args.extend(words(rest)),
                    "kaniko" => case.kaniko.extend(words(rest)),
                    "env" => case.env.extend(rest.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned()))),
                    "web" => case.web = true,
                    "fails" => {
                        let (code, text) = rest.split_once(' ').unwrap();
                        case.fails = Some((code.parse().unwrap(), text.to_owned()));
                    }
                    "silent" => case.silent.push(rest.to_owned()),
                    "has" => case.checks.push(Check::Has(rest.to_owned())),
                    "lacks" => case.checks.push(Check::Lacks(rest.trim_start_matches('/').to_owned())),
                    "toplacks" => case.checks.push(Check::TopLacks(rest.to_owned())),
                    "layers" => case.checks.push(Check::Layers(rest.parse().unwrap())),
                    "config" => {
                        let (place, value) = rest.split_once(' ').unwrap();
                        case.checks.push(Check::Config(place.to_owned(), serde_json::from_str(value).unwrap()));
                    }
                    other => panic!("{}: unknown word {other}", case.name),
                }
            }
            case
        })
        .collect()
}

/// What is wrong with a node; nothing if it is as the line says.
fn unlike(node: &Node, line: &str) -> Option<String> {
    let (attributes, text) = match line.split_once("text=") {
        Some((attributes, text)) => (attributes, Some(text.replace("\\n", "\n"))),
        None => (line, None),
    };
    for attribute in attributes.split_whitespace().skip(1) {
        let (name, wanted) = attribute.split_once('=').unwrap();
        let found = match name {
            "kind" => node.kind.to_string(),
            "mode" => format!("{:o}", node.mode),
            "owner" => format!("{}:{}", node.uid, node.gid),
            "mtime" => node.mtime.to_string(),
            "link" => node.link.clone(),
            "hard" => node.twin.clone(),
            "xattr" if node.xattrs.contains_key(wanted) => wanted.to_owned(),
            "xattr" => format!("{:?}", node.xattrs.keys()),
            other => panic!("unknown attribute {other}"),
        };
        if found != wanted {
            return Some(format!("{name} is {found}"));
        }
    }
    let found = String::from_utf8_lossy(&node.content);
    text.filter(|text| *text != found).map(|_| format!("text is {found:?}"))
}

/// What differs from what the case says.
fn faults(case: &Case, image: &Image, kaniko: bool) -> Vec<String> {
    let tree = image.tree();
    let mut all = Vec::new();
    for check in &case.checks {
        match check {
            Check::Has(line) => {
                let path = line.split_whitespace().next().unwrap();
                match tree.get(path.trim_start_matches('/')) {
                    None => all.push(format!("there is no {path}")),
                    Some(node) => all.extend(unlike(node, line).map(|why| format!("{path}: {why}; expected {line}"))),
                }
            }
            Check::Lacks(path) if tree.contains_key(path) => all.push(format!("there is {path}")),
            Check::TopLacks(path) if image.top().contains(path) => all.push(format!("the last layer has {path}")),
            Check::Config(place, wanted) => {
                let found = image.config["config"].pointer(place).unwrap_or(&Value::Null);
                if found != wanted {
                    all.push(format!("config {place} is {found}, expected {wanted}"));
                }
            }
            Check::Layers(wanted) if kaniko && image.layers.len() != *wanted => {
                all.push(format!("{} layers, expected {wanted}", image.layers.len()));
            }
            Check::Lacks(_) | Check::TopLacks(_) | Check::Layers(_) => {}
        }
    }
    all
}

type Shape = BTreeMap<String, (char, u32, u64, u64, Vec<u8>, String, BTreeMap<String, Vec<u8>>)>;

fn shape(image: &Image) -> Shape {
    let tree = image.tree().into_iter();
    tree.map(|(path, n)| (path, (n.kind, n.mode, n.uid, n.gid, n.content, n.link, n.xattrs))).collect()
}

/// Where two images differ.
fn differences(one: &Image, other: &Image) -> Vec<String> {
    let (a, b) = (shape(one), shape(other));
    let show = |shape: &Shape, path: &str| {
        shape.get(path).map_or_else(
            || "nothing".into(),
            |n| {
                format!(
                    "{} {:o} {}:{} {} bytes {} {:?}",
                    n.0,
                    n.1,
                    n.2,
                    n.3,
                    n.4.len(),
                    n.5,
                    n.6.keys().collect::<Vec<_>>()
                )
            },
        )
    };
    let paths: std::collections::BTreeSet<_> = a.keys().chain(b.keys()).collect();
    let differ = paths.into_iter().filter(|path| a.get(*path) != b.get(*path));
    let mut all: Vec<String> =
        differ.map(|path| format!("{path}: {}, not {}", show(&b, path), show(&a, path))).collect();
    if one.config["config"] != other.config["config"] {
        all.push(format!("config: {}, not {}", other.config["config"], one.config["config"]));
    }
    all
}

/// The context of all cases, in the shape of kaniko's.
fn bench() -> Bench {
    let bench = Bench::new();
    bench
        .file("context/foo", "foo")
        .file("context/bar/bat", "bat")
        .file("context/bar/baz", "baz")
        .file("context/bar/bam/bat", "deep")
        .file("context/qux/qup", "qup")
        .file("context/qux/quw/que", "que")
        .file("ignore/foo", "kept")
        .file("ignore/bar", "hidden")
        .file(".dockerignore", "ignore/bar\n");
    std::fs::create_dir(bench.ctx().join("context/empty")).unwrap();
    std::fs::create_dir(bench.ctx().join("context/tars")).unwrap();
    std::fs::write(bench.path("outside"), "outside").unwrap();
    let made = bench.path("made");
    for dir in ["one", "two/sys", "two/proc", "two/usr/local"] {
        std::fs::create_dir_all(made.join(dir)).unwrap();
    }
    std::fs::write(made.join("one/file"), "in the archive\n").unwrap();
    std::fs::write(made.join("two/sys/from-archive"), "s").unwrap();
    std::fs::write(made.join("two/usr/local/from-archive"), "u").unwrap();
    let tar = |name: &str, form: &[&str], dir: &str| {
        let status = Command::new("tar")
            .args(["--owner=0", "--group=0", "--numeric-owner"])
            .args(form)
            .arg("-cf")
            .arg(bench.ctx().join("context/tars").join(name))
            .arg("-C")
            .arg(made.join(dir))
            .args(if dir == "one" { &["file"][..] } else { &["sys", "proc", "usr"] })
            .status();
        assert!(status.unwrap().success(), "{name}");
    };
    tar("file.tar", &[], "one");
    tar("file.tar.gz", &["-z"], "one");
    tar("file.tar.bz2", &["-j"], "one");
    tar("file.tar.xz", &["-J"], "one");
    tar("file.tar.zst", &["--zstd"], "one");
    tar("sys.tar.gz", &["-z"], "two");
    bench
}

/// A way to build a case.
#[derive(Clone, Copy)]
struct Way {
    kaniko: bool,
    rung: &'static str,
}

struct Place {
    bench: Bench,
    registry: Registry,
    web: Web,
}

impl Place {
    fn build(&self, case: &Case, way: Way) -> Run {
        let bench = &self.bench;
        bench.file("dockerfiles/Dockerfile", &case.dockerfile);
        let _ = std::fs::remove_dir_all(bench.path("out/layout"));
        let mut args: Vec<String> = Vec::new();
        if !way.rung.is_empty() {
            args.extend(["--isolation".into(), way.rung.into()]);
        }
        let mirror = &self.registry.host;
        let (context, file) = (bench.ctx().display().to_string(), "dockerfiles/Dockerfile");
        if way.kaniko {
            let line = ["kaniko", "--log-format=text", "--no-push", "--oci-layout-path=layout", "-f", file];
            args.extend(line.map(ToOwned::to_owned));
            args.extend([format!("--registry-mirror={mirror}"), format!("-c=dir://{context}")]);
            args.extend(case.kaniko.iter().cloned());
        } else {
            let line = ["build", "--progress=plain", "--no-cache", "-o", "type=oci,dest=layout,tar=false"];
            args.extend(line.map(ToOwned::to_owned));
            args.extend([format!("--registry=docker.io,mirror={mirror}"), format!("--file={context}/{file}")]);
        }
        args.extend(case.args.iter().cloned());
        if case.web {
            args.push(format!("--build-arg=WEB={}", self.web.url("")));
        }
        if !way.kaniko {
            args.push(context);
        }
        let mut command = bench.command(args);
        command.envs(case.env.iter().map(|(name, value)| (name, value)));
        finish(command.output().unwrap())
    }

    /// What is wrong with a case.
    fn check(&self, case: &Case, rungs: &[&'static str]) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut first: Option<Image> = None;
        let steps = case.dockerfile.contains("RUN ");
        let auto = [Way { kaniko: true, rung: "" }, Way { kaniko: false, rung: "" }];
        let weaker = rungs.iter().filter(|_| steps).map(|rung| Way { kaniko: true, rung });
        for way in auto.into_iter().chain(weaker) {
            let run = self.build(case, way);
            let program = if way.kaniko { "kaniko" } else { "build" };
            let mut fault = |text: String| wrong.push(format!("{}: {program} {}: {text}", case.name, way.rung));
            for text in case.silent.iter().filter(|text| way.kaniko && run.count(text) > 0) {
                fault(format!("says {text}"));
            }
            if run.stderr.contains("panicked") {
                fault(run.stderr.clone());
            }
            if let Some((code, text)) = &case.fails {
                if run.code == 0 || (way.kaniko && run.code != *code) || !run.stderr.contains(text) {
                    fault(format!("exit code {}, expected {code} with {text:?}:\n{}", run.code, run.stderr));
                }
                continue;
            }
            if run.code != 0 {
                fault(format!("exit code {}:\n{}", run.code, run.stderr));
                continue;
            }
            let image = Image::open_dir(&self.bench.path("out/layout"));
            faults(case, &image, way.kaniko).into_iter().for_each(&mut fault);
            match &first {
                Some(first) => differences(first, &image).into_iter().for_each(&mut fault),
                None => first = Some(image),
            }
        }
        wrong
    }
}

/// Rungs besides the one that is taken by itself, for the long run: `chroot` is for root alone, `ptrace` for everybody else.
fn weaker_rungs() -> &'static [&'static str] {
    match std::env::var("RBUILD_TEST_LONG").is_ok_and(|value| !value.is_empty()) {
        false => &[],
        true if rustix::process::geteuid().is_root() => &["chroot"],
        true => &["ptrace"],
    }
}

fn replay(text: &str) {
    need_run!();
    let registry = need!(Registry::start());
    // The larger one takes its time.
    let used = |name: &&str| text.contains(&format!("FROM {name}"));
    for name in ["busybox", "debian"].into_iter().filter(used) {
        registry.put(&support::bases().unwrap().join(name), &format!("library/{name}"));
    }
    let web = Web::start(|request| match request.path() {
        "/remote.txt" => Answer::new(200).with_body("text/plain", b"remote".to_vec()),
        "/other.txt" => Answer::new(200).with_body("text/plain", b"other".to_vec()),
        _ => Answer::new(404),
    });
    let place = Place { bench: bench(), registry, web };
    let rungs = weaker_rungs();
    let only = std::env::var("RBUILD_TEST_CASE").ok();
    let mut wrong = Vec::new();
    for case in cases(text).iter().filter(|case| only.as_ref().is_none_or(|only| case.name.contains(only.as_str()))) {
        wrong.extend(place.check(case, rungs));
    }
    assert!(wrong.is_empty(), "{} faults:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn d1_13_arguments() {
    replay(include_str!("executor/args.cases"));
}

#[test]
fn d1_14_stages() {
    replay(include_str!("executor/stages.cases"));
}

#[test]
fn d1_15_what_configs_say() {
    replay(include_str!("executor/meta.cases"));
}

#[test]
fn d1_25_steps() {
    replay(include_str!("executor/run.cases"));
}

#[test]
fn steps_have_the_mounts_that_kaniko_has_not() {
    replay(include_str!("executor/mounts.cases"));
}

#[test]
fn d2_01_copies() {
    replay(include_str!("executor/copy.cases"));
}

#[test]
fn d2_07_archives_and_remote_files() {
    replay(include_str!("executor/add.cases"));
}
