//! The configuration file: each key does what the reference says, and flags and variables go before it.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::print_stderr, reason = "skip reasons are collected by scripts/test")]
#![allow(missing_docs, unreachable_pub, reason = "a test program")]

mod support;

use support::{Bench, Run};

const USAGE: i32 = 2;
const ISOLATION: i32 = 10;

/// Writes the file where it is looked for.
fn configure(bench: &Bench, text: &str) {
    let dir = bench.path("home/.config/rbuild");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("rbuild.toml"), text).unwrap();
}

fn bench() -> Bench {
    let mut bench = Bench::new();
    bench.env.push(("XDG_CONFIG_HOME".into(), String::new()));
    bench.dockerfile("FROM scratch\nCOPY Dockerfile /\n");
    bench
}

/// Builds without any flag about progress.
fn bare(bench: &Bench, args: &[&str]) -> Run {
    let ctx = bench.ctx().display().to_string();
    let mut all = vec!["build"];
    all.extend(args);
    all.push(&ctx);
    bench.rbuild(&all)
}

// SPEC C9.10, B2.21, B5.03
#[test]
fn build_platform() {
    let mut bench = bench();
    configure(&bench, "[build]\nplatform = [\"linux/s390x\"]\n");
    let architecture = |bench: &Bench, args: &[&str]| bench.build_image(args).config["architecture"].clone();
    assert_eq!(architecture(&bench, &[]), "s390x");
    assert_eq!(architecture(&bench, &["--platform", "linux/riscv64"]), "riscv64");
    bench.env.push(("DOCKER_DEFAULT_PLATFORM".into(), "linux/ppc64le".into()));
    assert_eq!(architecture(&bench, &[]), "ppc64le");
}

// SPEC B5.01, B5.03, B5.05: variables that count without any flag, and those that change nothing here.
#[test]
fn variables_of_docker_and_reproducible_builds() {
    let mut bench = bench();
    bench.env.push(("SOURCE_DATE_EPOCH".into(), "1700000000".into()));
    for (name, value) in [("DOCKER_BUILDKIT", "0"), ("BUILDX_BUILDER", "other"), ("BUILDX_EXPERIMENTAL", "1")] {
        bench.env.push((name.into(), value.into()));
    }
    let image = bench.build_image(&[]);
    assert_eq!(image.config["created"], "2023-11-14T22:13:20Z");
    bench.env.push(("SOURCE_DATE_EPOCH".into(), "x".into()));
    bench.build(&[]).fails(USAGE, &["invalid SOURCE_DATE_EPOCH: x"]);
    let image = bench.build_image(&["--build-arg", "SOURCE_DATE_EPOCH=0"]);
    assert_eq!(image.config["created"], "1970-01-01T00:00:00Z", "the flag goes before the variable");
}

// SPEC B2.23, B5.04
#[test]
fn build_progress() {
    let mut bench = bench();
    configure(&bench, "[build]\nprogress = \"rawjson\"\n");
    let is_json = |run: &Run| run.stderr.starts_with('{');
    assert!(is_json(&bare(&bench, &[]).ok()));
    assert!(!is_json(&bare(&bench, &["--progress", "plain"]).ok()));
    bench.env.push(("BUILDKIT_PROGRESS".into(), "plain".into()));
    assert!(!is_json(&bare(&bench, &[]).ok()));
    assert!(is_json(&bare(&bench, &["--progress=rawjson"]).ok()));
}

// SPEC D1.20
#[test]
fn build_pull_from() {
    let bench = bench();
    let (near, name) = (bench.path("near"), "127.0.0.1:1/base:1");
    bench.build(&["-o", &format!("type=oci,tar=false,dest={},name={name}", near.display())]).ok();
    bench.dockerfile(&format!("FROM {name}\nENV A=b\n"));
    let retry = "--retry=0";
    configure(&bench, &format!("[build]\npull-from = [\"{},max-age=1h\"]\n", near.display()));
    bench.build(&[retry, "--pull-from="]).fails(7, &[name]);
    bench.build(&[retry]).ok();
}

// SPEC B2.09, B4.04
#[test]
fn build_cache_from_and_cache_to() {
    let bench = bench();
    let cache = bench.path("cache");
    let text = format!(
        "[build]\ncache-to = [\"type=local,dest={0}\"]\ncache-from = [\"type=local,src={0}\"]\n",
        cache.display()
    );
    configure(&bench, &text);
    bench.build(&["--cache-to=", "--cache-from="]).ok();
    assert!(!cache.exists(), "an empty flag is a flag");
    let first = bench.build(&[]).ok();
    assert!(cache.join("index.json").exists(), "{}", first.stderr);
    assert!(first.stderr.contains("importing cache manifest from"), "{}", first.stderr);
}

// SPEC B2.01, B2.17, B2.28, B2.32, C5.07
#[test]
fn what_steps_are_given() {
    need_run!();
    let bench = bench();
    bench.dockerfile(
        "FROM busybox\nRUN grep -q '^10.0.0.7.*db.internal' /etc/hosts && test $(ulimit -n) = 123 && df /dev/shm | grep -q ' 3072 ' && \
         test $(grep -c : /proc/net/dev) = 1 && grep -q 'nameserver 10.9.8.7' /etc/resolv.conf && grep -q 'search example.internal' /etc/resolv.conf && \
         grep -q 'options edns0' /etc/resolv.conf\n",
    );
    configure(
        &bench,
        "[build]\nadd-host = [\"db.internal=10.0.0.7\"]\nulimit = [\"nofile=123\"]\nshm-size = \"3m\"\nnetwork = \"none\"\n\
         [dns]\nnameservers = [\"10.9.8.7\"]\noptions = [\"edns0\"]\nsearchDomains = [\"example.internal\"]\n",
    );
    bench.build(&[]).ok();
    bench.dockerfile("FROM busybox\nRUN test $(ulimit -n) = 124 && ! grep db.internal /etc/hosts\n");
    bench.build(&["--ulimit", "nofile=124", "--add-host", "other=10.0.0.8"]).ok();
}

// SPEC A5.17, B5.09
#[test]
fn log_limits() {
    need_run!();
    let mut bench = bench();
    bench.dockerfile("FROM busybox\nRUN yes 0123456789 | head -n 100\n");
    configure(&bench, "[log]\nstep-max-size = 50\nstep-max-speed = -1\n");
    let run = bench.build(&[]).ok();
    assert!(run.stderr.contains("50B") && run.count("0123456789") < 10, "{}", run.stderr);
    bench.env.push(("BUILDKIT_STEP_LOG_MAX_SIZE".into(), "-1".into()));
    let run = bench.build(&["--no-cache"]).ok();
    assert!(run.count("0123456789") >= 100, "{}", run.stderr);
}

// SPEC B2.02, C5.15
#[test]
fn insecure_entitlements() {
    let bench = bench();
    configure(&bench, "insecure-entitlements = [\"network.host\"]\n");
    bench.build(&["--allow", "network.host"]).ok();
    let refused = &["security.insecure must not be allowed", "rbuild.toml"];
    bench.build(&["--allow", "security.insecure"]).fails(USAGE, refused);
    configure(&bench, "insecure-entitlements = []\n");
    bench.build(&["--network", "host"]).fails(USAGE, &["network.host must not be allowed"]);
    bench.build(&[]).ok();
}

// SPEC C9.10, C5.20
#[test]
fn isolation_and_snapshotter() {
    let bench = bench();
    configure(&bench, "isolation = \"none\"\n[worker.oci]\nsnapshotter = \"overlay\"\n");
    bench.build(&[]).fails(ISOLATION, &["the overlay snapshotter is asked for, and isolation none mounts nothing"]);
    bench.rbuild(&["--snapshotter", "native", "build", "../ctx"]).ok();
    configure(&bench, "isolation = \"none\"\n");
    bench.dockerfile("FROM busybox\nRUN true\n");
    bench.build(&[]).fails(ISOLATION, &[]);
    bench.build(&["--isolation", "prot"]).fails(USAGE, &["--isolation: unknown rung \"prot\""]);
}

// SPEC B2.26: what flags say about steps can stand in the file, and a flag goes before it.
#[test]
fn limits_of_steps() {
    need_run!();
    let bench = bench();
    bench.dockerfile("FROM busybox\nRUN sleep 2718\n");
    configure(&bench, "[steps]\ntimeout = \"300ms\"\n");
    bench.build(&[]).fails(9, &["took longer than 300ms"]);
    bench.dockerfile("FROM busybox\nRUN sleep 0.5\n");
    bench.build(&["--step-timeout", "1m"]).ok();
    // Where there is no control group of one's own the limit is refused, and never forgotten.
    bench.dockerfile("FROM busybox\nRUN dd if=/dev/zero of=/dev/null bs=400M count=1\n");
    for line in ["memory = \"64m\"", "pids-limit = 1", "cpuset-cpus = \"4095\""] {
        configure(&bench, &format!("[steps]\n{line}\n"));
        let run = bench.build(&["--no-cache"]);
        assert_ne!(run.code, 0, "{line} was ignored: {}", run.stderr);
    }
}

// A step that meets another one in the shared directory fails.
// SPEC C4.12
#[test]
fn max_parallelism() {
    need_run!();
    let bench = bench();
    let step = "RUN --mount=type=cache,target=/c mkdir /c/busy && sleep 0.2 && rmdir /c/busy";
    let stages: String = (0..3).map(|n| format!("FROM busybox AS s{n}\n{step} && touch /{n}\n")).collect();
    let copies: String = (0..3).map(|n| format!("COPY --from=s{n} /{n} /\n")).collect();
    bench.dockerfile(&format!("{stages}FROM scratch\n{copies}"));
    configure(&bench, "[worker.oci]\nmax-parallelism = 1\n");
    bench.build(&[]).ok();
}

// SPEC C9.04, C9.05
#[test]
fn collection() {
    need_run!();
    let bench = bench();
    let mounts = || bench.rbuild(&["du", "--filter", "type=exec.cachemount", "--format", "json"]).ok().stdout;
    // Something has to be written, else nothing has grown and nothing is collected.
    let build = |configuration: &str, n: u32| {
        configure(&bench, configuration);
        let step = "RUN --mount=type=cache,target=/c echo x > /c/x && head -c 100000 /dev/urandom > /f";
        bench.dockerfile(&format!("FROM busybox\n{step}\nRUN echo {n}\n"));
        let cached = bench.build(&[]).ok().count("CACHED");
        // Waits until the collection is done.
        (cached, mounts())
    };
    const OFF: &str = "[worker.oci]\nmaxUsedSpace = 1\nreservedSpace = 0\ngc = false\n";
    build(OFF, 1);
    let (cached, mount) = build(OFF, 1);
    assert_eq!(cached, 2, "nothing is collected");
    assert!(mount.contains("cachemount"), "{mount}");
    let (_, mount) = build("[[worker.oci.gcpolicy]]\nfilters = [\"type==exec.cachemount\"]\n", 2);
    assert_eq!(mount.trim(), "[]");
    assert_eq!(build(OFF, 2).0, 2, "the rule took the mount and nothing else");
    build("[worker.oci]\nmaxUsedSpace = \"100GB\"\nreservedSpace = 0\nminFreeSpace = \"100%\"\n", 3);
    assert_eq!(build(OFF, 3).0, 0, "a disk cannot be free as a whole: all that can go has gone");
    build("[worker.oci]\nmaxUsedSpace = 1\nreservedSpace = 0\n", 4);
    assert_eq!(build(OFF, 4).0, 0);
    build("[worker.oci]\nmaxUsedSpace = 1\nreservedSpace = \"100%\"\n", 5);
    assert_eq!(build(OFF, 5).0, 2, "what is reserved stays");
}

// SPEC C9.10
#[test]
fn root() {
    let bench = bench();
    let run = |args: &[&str]| {
        let mut command = std::process::Command::new(support::rbuild_path());
        command.args(args).current_dir(bench.path("out")).env("HOME", bench.path("home")).env("XDG_CONFIG_HOME", "");
        command.env("XDG_DATA_HOME", bench.path("data")).output().unwrap()
    };
    configure(&bench, "root = \"../../store-of-file\"\n");
    assert!(run(&["build", "../ctx"]).status.success());
    assert!(bench.path("home/store-of-file/VERSION").exists(), "relative to the file");
    assert!(!bench.path("data").exists(), "a directory that somebody named goes before the usual one");
    let flag = bench.path("store").display().to_string();
    assert!(run(&["--root", &flag, "build", "../ctx"]).status.success());
    assert!(bench.store().join("VERSION").exists());
    assert!(run(&["system", "reset", "--force"]).status.success());
}

// SPEC C9.09, C9.10, B8.14
#[test]
fn a_buildkitd_toml_of_the_action_counts_until_the_builder_is_removed() {
    let bench = bench();
    let given = bench.path("given.toml");
    std::fs::write(&given, "debug = true\ninsecure-entitlements = []\n[grpc]\naddress = [\"unix:///x\"]\n").unwrap();
    let create =
        bench.rbuild(&["buildx", "create", "--name", "b", "--buildkitd-config", &given.display().to_string()]).ok();
    assert_eq!(create.stdout, "b\n");
    assert!(create.stderr.contains("given.toml:1: debug has no meaning here"), "{}", create.stderr);
    let refused = bench.build(&["--allow", "network.host"]);
    refused.fails(USAGE, &["insecure-entitlements in", "buildkitd.toml does not list it"]);
    let run = bench.build(&[]).ok();
    assert!(
        run.stderr.contains(":1: debug has no meaning here") && run.stderr.contains(":3: grpc has no meaning here"),
        "{}",
        run.stderr
    );
    // Our own file goes before it.
    configure(&bench, "");
    bench.build(&["--allow", "network.host"]).ok();
    std::fs::remove_file(bench.path("home/.config/rbuild/rbuild.toml")).unwrap();
    bench.rbuild(&["buildx", "rm", "b"]).ok();
    bench.build(&["--allow", "network.host"]).ok();
    // The same file by its name.
    let named = bench.path("buildkitd.toml");
    std::fs::rename(&given, &named).unwrap();
    let named = named.display().to_string();
    bench
        .rbuild(&["--config", &named, "build", "--allow", "network.host", "../ctx"])
        .fails(USAGE, &["does not list it"]);
    std::fs::write(&given, "[worker.oci]\ngc = 1\n").unwrap();
    let bad = ["buildx", "create", "--buildkitd-config", &given.display().to_string()].map(ToOwned::to_owned);
    bench.rbuild(&bad.each_ref().map(String::as_str)).fails(USAGE, &["worker.oci.gc: expected true or false"]);
}

// SPEC G.06
#[test]
fn a_wrong_file_stops_every_command_before_any_work() {
    let bench = bench();
    configure(&bench, "[build]\nnetwrk = \"none\"\n");
    for command in [&["build", "../ctx"][..], &["images"], &["doctor"]] {
        bench.rbuild(command).fails(USAGE, &["rbuild.toml:2: unknown key build.netwrk (did you mean network?)"]);
    }
    assert!(!bench.store().exists());
    bench.rbuild(&["version"]).ok();
}
