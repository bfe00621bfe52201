//! Real inputs: programs that people build, run for real; and the same Dockerfiles through Debian's buildah, compared file
//! by file and config by config.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::print_stderr, reason = "skip reasons are collected by scripts/test")]
#![allow(missing_docs, unreachable_pub, reason = "a test program")]
#![allow(clippy::type_complexity, reason = "shapes are compared, not kept")]

mod support;

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use support::Bench;
use support::image::Image;

const WEB: &str = include_str!("../docs/examples/web/Dockerfile");
const APP: &str = include_str!("../docs/examples/web/app.py");
const REQUIREMENTS: &str = include_str!("../docs/examples/web/requirements.txt");
const C: &str = include_str!("../docs/examples/c-scratch/Dockerfile");
const MAIN_C: &str = include_str!("../docs/examples/c-scratch/main.c");

/// The examples' base images as named contexts.
fn with_bases(bench: &mut Bench) {
    let bases = support::bases().unwrap();
    for name in ["busybox", "debian", "python"] {
        bench.args.push("--build-context".into());
        bench.args.push(format!("localhost:5000/base/{name}=oci-layout://{}", bases.join(name).display()));
    }
}

#[test]
fn a_debian_python_web_app_installs_builds_and_answers_http() {
    need_run!();
    let mut bench = Bench::new();
    with_bases(&mut bench);
    bench.dockerfile(WEB).file("app.py", APP).file("requirements.txt", REQUIREMENTS);
    let image = bench.build_image(&[]);
    assert_eq!(image.config["config"]["User"], "web");
    assert_eq!(image.node("app/app.py").uid, 1000);
    assert!(image.has("app/venv/bin/pip") && !image.has("root/.cache/pip"), "the cache mount stayed out of the image");
    if !rustix::process::geteuid().is_root() {
        skip!("running the web app with runc as its own user needs root");
    }
    let run = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).current_dir(bench.path("out")).output().unwrap();
        assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    let tar = bench.path("image.tar").display().to_string();
    run("skopeo", &["copy", "-q", &format!("oci-archive:{tar}"), "oci:layout:web"]);
    run("umoci", &["unpack", "--image", "layout:web", "bundle"]);
    let config = bench.path("out/bundle/config.json");
    let mut spec: serde_json::Value = serde_json::from_slice(&std::fs::read(&config).unwrap()).unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    spec["process"]["terminal"] = false.into();
    spec["process"]["env"].as_array_mut().unwrap().push(format!("PORT={port}").into());
    spec["linux"]["resources"] = serde_json::json!({});
    spec["linux"]["namespaces"].as_array_mut().unwrap().retain(|n| n["type"] != "network");
    std::fs::write(&config, serde_json::to_vec(&spec).unwrap()).unwrap();
    let id = format!("rbuild-web-{}", std::process::id());
    let mut runc = Command::new("runc")
        .args(["--root", "state", "run", "--bundle", "bundle", &id])
        .current_dir(bench.path("out"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut answer = Vec::new();
    for _ in 0..100 {
        answer = Command::new("curl").args(["-fs", &format!("http://127.0.0.1:{port}/")]).output().unwrap().stdout;
        if !answer.is_empty() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    let _ = Command::new("runc").args(["--root", "state", "kill", &id, "KILL"]).current_dir(bench.path("out")).status();
    let _ = runc.wait();
    assert_eq!(String::from_utf8_lossy(&answer), "hello from uid 1000\n");
}

#[test]
fn a_c_program_ends_in_an_image_from_scratch() {
    need_run!();
    let mut bench = Bench::new();
    with_bases(&mut bench);
    bench.dockerfile(C).file("main.c", MAIN_C);
    let image = bench.build_image(&[]);
    let program = image.node("hello");
    assert_eq!((image.tree().len(), program.mode), (1, 0o755));
    let path = bench.path("out/hello");
    std::fs::write(&path, program.content).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let output = Command::new(&path).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "hello from scratch\n");
}

/// Builds what the bench has, as `app`, twice: the second time nothing runs.
fn whole(bench: &Bench) -> Image {
    let image = bench.build_image(&["-t", "app"]);
    let again = bench.build(&["-t", "app"]).ok();
    let said = again.stderr.lines().find(|line| line.starts_with("built in")).unwrap_or_default();
    let counts = said.split_once(": ").and_then(|(_, rest)| rest.strip_suffix(" steps cached"));
    assert!(counts.and_then(|counts| counts.split_once(" of ")).is_some_and(|(hits, all)| hits == all), "{said}");
    image
}

#[test]
fn an_application_with_triggers_documents_and_volumes_is_built_and_run() {
    need_run!();
    let bench = on_debian();
    bench.dockerfile(include_str!("real/application.Dockerfile"));
    bench.file("conf/app.conf", "name=app\n").file("src/a", "a\n").file("src/b", "b\n");
    bench.file(
        "bin/app",
        "#!/bin/sh\ntouch /data/f state/f && cat /opt/app/made /etc/app/app.conf && stat -c %a:%U /var/run/app\n",
    );
    bench.chmod("bin/app", 0o755);
    let image = whole(&bench);
    let config = &image.config["config"];
    let expected = serde_json::json!({
        "User": "app:app", "WorkingDir": "/srv/app", "Volumes": {"/data": {}, "/srv/app/state": {}}, "StopSignal": "SIGINT",
        "ExposedPorts": {"8080/tcp": {}, "9090/udp": {}}, "Entrypoint": ["entrypoint"], "Cmd": ["app"],
    });
    expected.as_object().unwrap().iter().for_each(|(key, value)| assert_eq!(&config[key], value, "{key}"));
    assert_eq!(config["Healthcheck"]["Test"], serde_json::json!(["CMD-SHELL", "app --health || exit 1"]));
    assert!(config["OnBuild"].is_null(), "triggers are spent");
    assert!(!image.has("var/cache/made") && !image.has("data"));
    let own = image.node("etc/app/app.conf");
    assert_eq!((own.uid, own.gid, image.node("opt/app/bin/app").uid), (1500, 1500, 1500));
    let run = bench.rbuild(&["run", "--user", "root", "app"]).ok();
    assert_eq!(run.stdout, "root in /srv/app with info\na\nb\nname=app\nlevel=info\n3777:app\n");
    let run = bench.rbuild(&["run", "app", "true"]).ok();
    assert_eq!(run.stdout, "app in /srv/app with info\n");
}

/// A bench whose Dockerfile may say `FROM debian`.
fn on_debian() -> Bench {
    let mut bench = Bench::new();
    bench.args.push("--build-context".into());
    bench.args.push(format!("debian=oci-layout://{}", support::bases().unwrap().join("debian").display()));
    bench
}

/// The same in a run that may take its time with registries.
fn long_on_debian() -> Option<Bench> {
    std::env::var("RBUILD_TEST_LONG").ok().filter(|value| !value.is_empty()).map(|_| on_debian())
}

#[test]
fn a_database_from_packages_is_built_and_answers() {
    need_run!();
    let Some(bench) = long_on_debian() else { skip!("packages of a database are for the long run") };
    bench.dockerfile(include_str!("real/database.Dockerfile"));
    let image = whole(&bench);
    assert_eq!((image.node("run/postgresql").mode, image.node("run/postgresql").uid), (0o3777, 999));
    let run = bench.rbuild(&["run", "app"]).ok();
    assert!(run.stdout.contains("\"42\""), "{}\n{}", run.stdout, run.stderr);
}

type Shape = BTreeMap<String, (char, u32, u64, u64, Vec<u8>, String, BTreeMap<String, Vec<u8>>)>;

fn shape(image: &Image) -> Shape {
    image.tree().into_iter().map(|(p, n)| (p, (n.kind, n.mode, n.uid, n.gid, n.content, n.link, n.xattrs))).collect()
}

/// Builds the bench's Dockerfile with buildah.
fn buildah(bench: &Bench) -> Result<Image, String> {
    let bases = support::bases()?;
    let dir = bench.path("buildah");
    std::fs::create_dir_all(&dir).unwrap();
    let run = |args: &[&str]| -> Result<String, String> {
        let output = Command::new("buildah")
            .args([
                "--root",
                &dir.join("root").display().to_string(),
                "--runroot",
                &dir.join("run").display().to_string(),
            ])
            .args(["--storage-driver", "vfs"])
            .args(args)
            .current_dir("/")
            .env("HOME", bench.path("home"))
            .output()
            .map_err(|e| format!("buildah: {e}"))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
        }
        Err(format!("buildah {args:?}: {}", String::from_utf8_lossy(&output.stderr)))
    };
    let id = run(&["pull", "-q", &format!("oci:{}:latest", bases.join("busybox").display())])?;
    run(&["tag", &id, "localhost/busybox"])?;
    let out = bench.path("buildah.tar");
    run(&[
        "bud",
        "-q",
        "--isolation",
        "chroot",
        "--layers=false",
        "-t",
        &format!("oci-archive:{}", out.display()),
        &bench.ctx().display().to_string(),
    ])?;
    let image = Image::open_tar(&out);
    let _ = Command::new("buildah").args(["unshare", "rm", "-rf"]).arg(&dir).current_dir("/").status();
    Ok(image)
}

/// One behaviour each. What buildah does otherwise on purpose is in docs/COMPATIBILITY.md.
const CORPUS: &[(&str, &str)] = &[
    ("a copy and a run", "FROM busybox\nCOPY a /x/y\nRUN cat /x/y > /z\n"),
    ("directories", "FROM busybox\nCOPY d /dir\nCOPY d/ /dir2/\nCOPY . /all\n"),
    ("globs", "FROM busybox\nCOPY *.txt d/? /g/\n"),
    (
        "owners and modes",
        "FROM busybox\nCOPY --chown=3:4 a /o/a\nCOPY --chmod=600 a /o/b\nRUN chown 7:8 /o/b && chmod 4755 /o/a\n",
    ),
    (
        "stages",
        "FROM busybox AS one\nRUN mkdir /s && echo 1 > /s/f && chown 5:5 /s/f\nFROM busybox\nCOPY --from=one /s /t\n",
    ),
    ("links", "FROM busybox\nCOPY d /d\nRUN ln -s ../d /l && ln /d/x /h && mkfifo /p\n"),
    ("deletions", "FROM busybox\nRUN rm /bin/wget && rm -r /home && mkdir /home && echo x > /home/new\n"),
    ("an archive", "FROM busybox\nADD t.tar.gz /t/\n"),
    ("arguments", "ARG B=busybox\nFROM $B\nARG X=1\nENV Y=$X Z=\"a b\"\nRUN echo $X $Y $Z > /v\n"),
    (
        "metadata",
        "FROM busybox\nLABEL a=b\nEXPOSE 80 81/udp\nVOLUME /v\nENV A=1\nCMD [\"x\"]\nENTRYPOINT [\"/e\", \"f\"]\nUSER 5:6\nSTOPSIGNAL SIGINT\n",
    ),
];

#[test]
fn buildah_makes_the_same_of_the_same_dockerfile() {
    need_run!();
    if Command::new("buildah").arg("--version").output().is_err() {
        skip!("buildah is not installed");
    }
    let mut different = Vec::new();
    for (name, text) in CORPUS {
        let bench = Bench::new();
        bench
            .file("a", "file a")
            .file("b.txt", "b")
            .file("c.txt", "c")
            .file("d/x", "x")
            .file("d/y", "y")
            .file("d/sub/z", "z");
        bench.chmod("a", 0o640).chmod("d/sub", 0o750).symlink("x", "d/link");
        let tar = bench.ctx().join("t.tar.gz").display().to_string();
        let packed = Command::new("tar")
            .args(["--owner=9", "--group=9", "-C", &bench.ctx().display().to_string(), "-czf", &tar, "b.txt", "d"])
            .status();
        assert!(packed.unwrap().success());
        bench.dockerfile(text);
        let theirs = match buildah(&bench) {
            Ok(image) => image,
            Err(why) => skip!("buildah does not work here: {}", why.lines().last().unwrap_or_default()),
        };
        let ours = bench.build_image(&[]);
        let (a, b) = (shape(&ours), shape(&theirs));
        for path in a.keys().chain(b.keys()).collect::<std::collections::BTreeSet<_>>() {
            // buildah leaves mountpoints behind in the layer (SPEC C5.18).
            let stub =
                ["dev", "proc", "sys", "run", "etc/hosts", "etc/resolv.conf", "etc/hostname", ".", "run/.containerenv"];
            if a.get(path) != b.get(path) && !stub.contains(&path.as_str()) {
                let show = |n: Option<&(char, u32, u64, u64, Vec<u8>, String, BTreeMap<String, Vec<u8>>)>| {
                    n.map(|n| format!("{} {:o} {}:{} {} bytes {}", n.0, n.1, n.2, n.3, n.4.len(), n.5))
                };
                different.push(format!(
                    "{name}: {path}: rbuild {:?}, buildah {:?}",
                    show(a.get(path)),
                    show(b.get(path))
                ));
            }
        }
        for key in ["User", "ExposedPorts", "Entrypoint", "Cmd", "Volumes", "Labels", "StopSignal", "WorkingDir"] {
            let ours = without_identity(&ours.config["config"][key]);
            let theirs = without_identity(&theirs.config["config"][key]);
            // An unset working directory is `/` (SPEC A4.03).
            let unset = |v: &serde_json::Value| v.is_null() || *v == "/" || *v == serde_json::json!({});
            if ours != theirs && !(unset(&ours) && unset(&theirs)) {
                different.push(format!("{name}: {key}: rbuild {ours}, buildah {theirs}"));
            }
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}

/// buildah labels every image with its own version.
fn without_identity(value: &serde_json::Value) -> serde_json::Value {
    let mut value = value.clone();
    if let Some(map) = value.as_object_mut() {
        map.remove("io.buildah.version");
    }
    value
}
