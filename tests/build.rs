//! Black-box tests of `rbuild build` with real steps, real layers and real tools.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::print_stderr, reason = "skip reasons are collected by scripts/test")]
#![allow(missing_docs, unreachable_pub, reason = "a test program")]
#![allow(clippy::type_complexity, reason = "shapes are compared, not kept")]

mod support;

use std::path::{Path, PathBuf};
use std::time::Duration;

use support::Bench;
use support::image::Image;

// SPEC A5.01, A6.01, A8.03, A8.14, C6.07, C6.10
#[test]
fn copy_and_run_make_an_image() {
    need_run!();
    let bench = Bench::new();
    bench.file("hello.txt", "hello\n");
    let image = bench.image_of("FROM busybox\nCOPY hello.txt /greeting\nRUN cat /greeting > /copied && echo done\nCMD [\"cat\", \"/copied\"]\n");
    assert_eq!(image.text("greeting"), "hello\n");
    assert_eq!(image.text("copied"), "hello\n");
    assert_eq!(image.layers.len(), 3, "base, COPY, RUN");
    assert_eq!(image.config["config"]["Cmd"], serde_json::json!(["cat", "/copied"]));
    let history: Vec<_> =
        image.config["history"].as_array().unwrap().iter().filter_map(|h| h["created_by"].as_str()).collect();
    assert!(history.contains(&"COPY hello.txt /greeting # buildkit"), "{history:?}");
    assert!(history.contains(&"RUN /bin/sh -c cat /greeting > /copied && echo done # buildkit"), "{history:?}");
    assert_eq!(image.top(), ["copied"], "the layer holds what the step wrote and nothing else");
}

// SPEC C4.02, C4.09
#[test]
fn an_unchanged_build_runs_nothing_and_gives_the_same_image() {
    need_run!();
    let bench = Bench::new();
    bench.file("a", "1").dockerfile("FROM busybox\nCOPY a /a\nRUN date +%N > /now\nRUN cp /now /then\n");
    let first = bench.build_image(&[]);
    let again = bench.build(&["-o", &format!("type=oci,dest={}", bench.path("again.tar").display())]).ok();
    assert_eq!(again.count("CACHED"), 3, "{}", again.stderr);
    let again = support::image::Image::open_tar(&bench.path("again.tar"));
    assert_eq!(first.text("now"), again.text("now"));
    assert_eq!(first.config["rootfs"], again.config["rootfs"]);
}

// SPEC C4.05, C4.06
#[test]
fn changed_content_is_seen_and_mtime_alone_is_not() {
    need_run!();
    let bench = Bench::new();
    bench.file("a", "same size 1").dockerfile("FROM busybox\nCOPY a /a\nRUN cp /a /b\n");
    bench.build(&[]).ok();
    let touched = std::fs::File::options().write(true).open(bench.ctx().join("a")).unwrap();
    touched.set_modified(std::time::SystemTime::now() - std::time::Duration::from_secs(1000)).unwrap();
    let run = bench.build(&[]).ok();
    assert_eq!(run.count("CACHED"), 2, "C4.05: mtime is not part of the key\n{}", run.stderr);
    bench.file("a", "same size 2");
    assert_eq!(bench.build_image(&[]).text("b"), "same size 2");
    bench.chmod("a", 0o755);
    assert_eq!(bench.build_image(&[]).node("a").mode, 0o755, "C4.06: the mode is part of the key");
}

// SPEC A4.03, A4.04, A4.06, A4.07, B2.31
#[test]
fn stages_are_built_only_when_needed_and_once() {
    need_run!();
    let bench = Bench::new();
    bench.dockerfile(
        "FROM busybox AS one\nRUN echo one > /x\nFROM busybox AS unused\nRUN exit 1\nFROM scratch\nCOPY --from=one /x /from-one\nCOPY --from=0 /x /from-zero\n",
    );
    let image = bench.build_image(&[]);
    assert_eq!(image.text("from-one"), "one\n");
    assert_eq!(image.text("from-zero"), "one\n");
    assert_eq!(image.tree().len(), 2, "FROM scratch: {:?}", image.tree().keys());
    bench.build(&["--target", "unused"]).fails(9, &["exit code: 1", "RUN exit 1"]);
}

// SPEC A3.08, A4.10, A4.11, A4.13, A8.01, B2.07
#[test]
fn a04_args_and_env_reach_steps_and_only_env_reaches_the_image() {
    need_run!();
    let bench = Bench::new();
    bench.dockerfile(
        "ARG BASE=busybox\nFROM ${BASE}\nARG V=default\nENV E=$V\nENV E=later-$E F=$E\nRUN echo \"$V $E $F\" > /out\n",
    );
    let image = bench.build_image(&["--build-arg", "V=given"]);
    assert_eq!(image.text("out"), "given later-given given\n", "A3.08: one ENV sees the values before it");
    let env = image.config["config"]["Env"].to_string();
    assert!(env.contains("E=later-given") && !env.contains("V="), "{env}");
    let history = image.config["history"].to_string();
    assert!(history.contains("RUN |1 V=given /bin/sh -c"), "A4.13: {history}");
}

// SPEC A5.16, A1.19, B2.35
#[test]
fn failing_steps_say_where_and_why() {
    need_run!();
    let bench = Bench::new();
    bench.dockerfile("FROM busybox\nRUN echo some output; echo and more >&2; exit 7\n");
    bench
        .build(&[])
        .fails(9, &["some output", "and more", "did not complete successfully: exit code: 7", "Dockerfile:2", ">>>"]);
    assert!(!bench.path("image.tar").exists());
}

// SPEC A5.15, A8.06, A8.07, C5.04, C5.05
#[test]
fn a08_users_and_working_directories() {
    need_run!();
    let bench = Bench::new();
    bench.dockerfile(
        "FROM busybox\nRUN echo app:x:1234:1234::/:/bin/sh >> /etc/passwd && printf 'app:x:1234:\\nextra:x:77:app\\n' >> /etc/group\nUSER app\nWORKDIR /work/deep\nRUN id > out && pwd >> out\n",
    );
    let image = bench.build_image(&[]);
    let out = image.text("work/deep/out");
    assert!(out.starts_with("uid=1234(app) gid=1234(app)") && out.contains("77(extra)"), "{out}");
    assert!(out.ends_with("/work/deep\n"));
    assert_eq!((image.node("work/deep").uid, image.node("work/deep").gid), (1234, 1234), "A8.06");
    assert_eq!(image.node("work/deep/out").uid, 1234);
}

// SPEC C6.10
#[test]
fn deletions_and_replacements_become_whiteouts() {
    need_run!();
    let bench = Bench::new();
    bench.dockerfile(
        "FROM busybox\nRUN mkdir -p /d/sub && echo 1 > /d/a && echo 2 > /d/sub/b && ln -s a /d/l\nRUN rm /d/a && rm -r /d/sub && echo file > /d/sub\nRUN rm -r /d && mkdir /d && echo new > /d/new\n",
    );
    let image = bench.build_image(&[]);
    assert!(
        image.layers[2].iter().any(|(p, _)| p == "d/.wh.a"),
        "{:?}",
        image.layers[2].iter().map(|(p, _)| p).collect::<Vec<_>>()
    );
    let tree = image.tree();
    let d: Vec<_> = tree.keys().filter(|p| p.starts_with("d/") || *p == "d").collect();
    assert_eq!(d, ["d", "d/new"]);
}

// SPEC A5.12, A5.13, B2.01, C5.02, C5.03, C5.18
#[test]
fn resolv_conf_and_hosts_are_given_and_never_enter_the_layer() {
    need_run!();
    let bench = Bench::new();
    bench.dockerfile("FROM busybox\nRUN cat /etc/hosts > /seen && hostname >> /seen && test -e /etc/resolv.conf\n");
    let image = bench.build_image(&["--add-host", "db:10.1.2.3"]);
    let seen = image.text("seen");
    assert!(seen.contains("127.0.0.1\tlocalhost buildkitsandbox") && seen.contains("10.1.2.3\tdb"), "{seen}");
    assert!(seen.ends_with("buildkitsandbox\n"));
    assert_eq!(image.top(), ["seen"], "C5.18: no mount stubs in the layer");
}

// SPEC A5.08, C5.12
#[test]
fn network_none_has_only_loopback() {
    need_run!();
    let bench = Bench::new();
    bench.dockerfile("FROM busybox\nRUN --network=none tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' ' > /net && ip link show lo | grep -q UP\n");
    assert_eq!(bench.build_image(&[]).text("net"), "lo\n");
}

// SPEC A2.01, A2.03, A2.06, A2.08
#[test]
fn heredocs_run_and_copy() {
    need_run!();
    let bench = Bench::new();
    bench.dockerfile(
        "FROM busybox\nARG X=val\nRUN <<EOF\necho first > /a\necho $X >> /a\nEOF\nCOPY <<EOF /b\nx is $X\nEOF\nCOPY <<'EOF' /c\nx is $X\nEOF\nRUN <<EOF\n#!/bin/cat\nscript\nEOF\n",
    );
    let image = bench.build_image(&[]);
    assert_eq!(image.text("a"), "first\nval\n");
    assert_eq!(image.text("b"), "x is val\n");
    assert_eq!(image.text("c"), "x is $X\n");
    assert_eq!(image.node("b").mode, 0o644, "A2.08");
}

// SPEC A5.02, A5.03, A5.04, A5.05, A5.06, B2.27, C5.07, N2.05
#[test]
fn mounts_of_steps() {
    need_run!();
    let bench = Bench::new();
    bench.file("src/f", "from context");
    std::fs::write(bench.path("token"), "s3cret").unwrap();
    bench.dockerfile(
        "FROM busybox AS tool\nRUN echo tool > /t\nFROM busybox\n\
         RUN --mount=type=bind,source=src,target=/mnt/src --mount=type=bind,from=tool,source=/t,target=/mnt/t cat /mnt/src/f /mnt/t > /bound\n\
         RUN --mount=type=cache,target=/cache echo x >> /cache/log; wc -l < /cache/log > /count\n\
         RUN --mount=type=tmpfs,target=/scratch echo gone > /scratch/x && echo ok > /tmpfs\n\
         RUN --mount=type=secret,id=token test \"$(cat /run/secrets/token)\" = s3cret && stat -c %a /run/secrets/token > /secret-mode\n\
         RUN --mount=type=secret,id=token,env=TOKEN test \"$TOKEN\" = s3cret\n",
    );
    let secret = format!("id=token,src={}", bench.path("token").display());
    let image = bench.build_image(&["--secret", &secret]);
    assert_eq!(image.text("bound"), "from contexttool\n");
    assert_eq!(image.text("count"), "1\n");
    assert_eq!(image.text("secret-mode"), "400\n", "A5.06");
    for gone in ["cache", "scratch", "mnt", "run/secrets"] {
        assert!(!image.has(gone), "{gone} entered a layer");
    }
    let again = bench.build_image(&["--secret", &secret, "--no-cache"]);
    assert_eq!(again.text("count"), "2\n", "N2.05: --no-cache does not clear cache mounts");
}

// SPEC A6.04, A6.05, A6.10, A6.11, A5.14
#[test]
fn ownership_modes_links_and_capabilities_reach_the_layer() {
    need_run!();
    let bench = Bench::new();
    bench.file("f", "x").chmod("f", 0o640).symlink("f", "l");
    bench.dockerfile(
        "FROM busybox\nCOPY --chown=12:34 --chmod=4711 f /suid\nCOPY . /all/\nRUN ln /suid /hard && chown 5:6 /all/f && mkfifo /pipe\n",
    );
    let image = bench.build_image(&[]);
    let suid = image.node("suid");
    assert_eq!((suid.uid, suid.gid, suid.mode), (12, 34, 0o4711));
    assert_eq!(image.node("all/l").link, "f", "A6.10");
    assert_eq!((image.node("all/f").uid, image.node("all/f").gid, image.node("all/f").mode), (5, 6, 0o640));
    assert_eq!(image.node("pipe").kind, 'p');
    assert_eq!(image.node("hard").content, b"x");
}

// SPEC C5.20
#[test]
fn the_two_snapshotters_give_identical_layers() {
    need_run!();
    let dockerfile = "FROM busybox\nCOPY . /ctx/\nRUN rm /bin/wget && mkdir /new && echo 1 > /new/a && ln /new/a /new/b && chmod 700 /ctx\nRUN rm -r /new && mkdir /new && echo 2 > /new/c\nRUN touch -d @1000000000 /ctx/f /new/c /new /ctx /etc/passwd /bin /\n";
    let mut ids = Vec::new();
    for snapshotter in ["overlay", "native"] {
        let bench = Bench::new();
        bench.file("f", "x").file("dir/g", "y").dockerfile(dockerfile);
        let image = bench.build_image(&["--snapshotter", snapshotter]);
        let shape: Vec<Vec<(String, char, u32, u64, Vec<u8>)>> = image
            .layers
            .iter()
            .map(|l| l.iter().map(|(p, n)| (p.clone(), n.kind, n.mode, n.uid, n.content.clone())).collect())
            .collect();
        ids.push(shape);
    }
    assert_eq!(ids[0], ids[1]);
}

// SPEC C4.12
#[test]
fn parallel_stages_run_side_by_side() {
    need_run!();
    let bench = Bench::new();
    // Each stage waits for a file that the other one makes in a shared cache mount.
    bench.dockerfile(
        "FROM busybox AS a\nRUN --mount=type=cache,target=/c touch /c/a; for i in $(seq 100); do [ -e /c/b ] && exit 0; sleep 0.1; done; exit 1\n\
         FROM busybox AS b\nRUN --mount=type=cache,target=/c touch /c/b; for i in $(seq 100); do [ -e /c/a ] && exit 0; sleep 0.1; done; exit 1\n\
         FROM busybox\nCOPY --from=a /etc/passwd /a\nCOPY --from=b /etc/passwd /b\n",
    );
    bench.build(&[]).ok();
}

// SPEC C6.09: the epoch is for what the builder writes; files keep their times unless that is asked for, and a base always.
#[test]
fn n2_15_an_epoch_alone_rewrites_no_file_times() {
    need_run!();
    let bench = Bench::new();
    bench.dockerfile("FROM busybox\nRUN echo x > /f\n");
    let epoch = ["--build-arg", "SOURCE_DATE_EPOCH=1000000000"];
    let alone = bench.build_image(&epoch);
    assert_eq!(alone.config["created"], "2001-09-09T01:46:40Z");
    assert!(alone.node("f").mtime > 1_000_000_000, "{}", alone.node("f").mtime);
    let (tar, mut args) = (bench.path("rewritten.tar"), epoch.to_vec());
    let dest = format!("type=oci,dest={},rewrite-timestamp=true", tar.display());
    args.extend(["-o", &dest]);
    bench.build(&args).ok();
    let rewritten = support::image::Image::open_tar(&tar);
    assert_eq!(rewritten.node("f").mtime, 1_000_000_000);
    assert_eq!(rewritten.manifest["layers"][0], alone.manifest["layers"][0], "the base's");
    assert_eq!(rewritten.manifest["layers"][1]["annotations"]["buildkit/rewritten-timestamp"], "1000000000");
    // An output that switches it off has the times of the front end all the same (SPEC A4.18).
    let (tar, mut args) = (bench.path("off.tar"), epoch.to_vec());
    let dest = format!("type=oci,dest={},source-date-epoch=", tar.display());
    args.extend(["-o", &dest]);
    bench.build(&args).ok();
    assert_eq!(support::image::Image::open_tar(&tar).config, alone.config);
    let both = "type=image,name=a,rewrite-timestamp=true,unpack=true";
    bench.build(&["-o", both]).fails(2, &["conflicts with unpack"]);
}

// SPEC C4.14
#[test]
fn the_first_failure_stops_the_rest() {
    need_run!();
    let bench = Bench::new();
    // The second stage fails as soon as the first one runs.
    bench.dockerfile(
        "FROM busybox AS slow\nRUN --mount=type=cache,target=/c touch /c/running; sleep 600\n\
         FROM busybox AS bad\nRUN --mount=type=cache,target=/c for i in $(seq 600); do [ -e /c/running ] && exit 3; sleep 0.1; done; exit 4\n\
         FROM scratch\nCOPY --from=slow /x /\nCOPY --from=bad /x /\n",
    );
    bench.build(&[]).fails(9, &["exit code: 3", "CANCELED"]);
}

// SPEC B2.20, B3.01, B3.02, B3.04, B3.09, C6.14, C6.15, C6.16
#[test]
fn outputs_local_and_tar_and_several_at_once() {
    need_run!();
    let bench = Bench::new();
    bench.dockerfile(
        "FROM busybox AS b\nRUN mkdir /d && echo hi > /d/f && chmod 751 /d/f\nFROM scratch\nCOPY --from=b /d /d\n",
    );
    let (dir, tar) = (bench.path("tree"), bench.path("tree.tar"));
    bench
        .build(&[
            "-o",
            &dir.display().to_string(),
            "-o",
            &format!("type=tar,dest={}", tar.display()),
            "-o",
            &format!("type=docker,name=x:1,dest={}", bench.path("docker.tar").display()),
        ])
        .ok();
    assert_eq!(std::fs::read_to_string(dir.join("d/f")).unwrap(), "hi\n");
    let names: Vec<_> = tar::Archive::new(std::fs::File::open(&tar).unwrap())
        .entries()
        .unwrap()
        .map(|e| e.unwrap().path().unwrap().display().to_string())
        .collect();
    assert!(names.iter().any(|n| n.trim_end_matches('/') == "d/f"), "{names:?}");
    let docker: Vec<_> = tar::Archive::new(std::fs::File::open(bench.path("docker.tar")).unwrap())
        .entries()
        .unwrap()
        .map(|e| e.unwrap().path().unwrap().display().to_string())
        .collect();
    assert!(docker.iter().any(|n| n == "manifest.json"), "{docker:?}");
}

// SPEC C6.02, C6.03
#[test]
fn zstd_layers() {
    need_run!();
    let bench = Bench::new();
    bench.dockerfile("FROM busybox\nRUN echo z > /z\n");
    let tar = bench.path("z.tar");
    bench.build(&["-o", &format!("type=oci,dest={},compression=zstd", tar.display())]).ok();
    let image = support::image::Image::open_tar(&tar);
    assert_eq!(image.text("z"), "z\n");
    assert_eq!(image.manifest["layers"][1]["mediaType"], "application/vnd.oci.image.layer.v1.tar+zstd");
    assert_eq!(
        image.manifest["layers"][0]["mediaType"], "application/vnd.oci.image.layer.v1.tar+gzip",
        "C6.02: base layers are kept"
    );
}

// SPEC A4.02, B2.12, B2.16, B2.30
#[test]
fn tagged_images_stay_in_the_store() {
    need_run!();
    let bench = Bench::new();
    bench.dockerfile("FROM busybox\nRUN echo x > /x\n");
    let iid = bench.path("iid");
    bench
        .build(&[
            "-t",
            "demo/app:1",
            "--iidfile",
            &iid.display().to_string(),
            "--metadata-file",
            &bench.path("m.json").display().to_string(),
        ])
        .ok();
    let id = std::fs::read_to_string(iid).unwrap();
    assert!(id.starts_with("sha256:") && !id.ends_with('\n'), "B2.12: {id}");
    let metadata: serde_json::Value = serde_json::from_slice(&std::fs::read(bench.path("m.json")).unwrap()).unwrap();
    assert_eq!(metadata["containerimage.config.digest"], id.as_str());
    assert_eq!(metadata["image.name"], "docker.io/demo/app:1");
    let list = bench.rbuild(&["images", "--format", "{{.Repository}}:{{.Tag}}"]).ok();
    assert_eq!(list.stdout, "demo/app:1\n");
    // FROM finds it again without a registry.
    bench.dockerfile("FROM demo/app:1\nRUN cat /x > /y\n");
    assert_eq!(bench.build_image(&[]).text("y"), "x\n");
}

// SPEC B1.05
#[test]
fn dockerfile_from_standard_input() {
    need_run!();
    let bench = Bench::new();
    bench.file("f", "context file");
    let tar = bench.path("s.tar");
    bench
        .build_stdin(&["-f", "-", "-o", &format!("type=oci,dest={}", tar.display())], b"FROM busybox\nCOPY f /g\n")
        .ok();
    assert_eq!(support::image::Image::open_tar(&tar).text("g"), "context file");
}

// SPEC A9.03, A6.07, N2.02
#[test]
fn a09_ignored_files_are_invisible() {
    need_run!();
    let bench = Bench::new();
    bench.file("keep.txt", "k").file("drop.log", "d").file("sub/drop.log", "d").file("sub/keep.log", "k");
    bench.file(".dockerignore", "**/*.log\n!sub/keep.log\n").dockerfile("FROM busybox\nCOPY . /all/\n");
    let image = bench.build_image(&[]);
    assert!(image.has("all/keep.txt") && image.has("all/sub/keep.log"));
    assert!(!image.has("all/drop.log") && !image.has("all/sub/drop.log"));
    bench.dockerfile("FROM busybox\nCOPY drop.log /x\n");
    bench.build(&[]).fails(4, &["\"/drop.log\": not found", "excluded by .dockerignore line 1", "Dockerfile:2"]);
    bench.dockerfile("FROM busybox\nCOPY missing.txt /x\n");
    bench.build(&[]).fails(4, &["\"/missing.txt\": not found"]);
    bench.dockerfile("FROM busybox\nCOPY *.nothing /x/\n");
    assert!(!bench.build_image(&[]).has("x/missing"), "N2.02: a pattern without matches is no error");
}

// SPEC A6.17
#[test]
fn add_unpacks_local_archives() {
    need_run!();
    let bench = Bench::new();
    bench.file("d/inner.txt", "inside");
    let status = std::process::Command::new("tar")
        .args([
            "-C",
            &bench.ctx().join("d").display().to_string(),
            "-czf",
            &bench.ctx().join("a.tgz").display().to_string(),
            "inner.txt",
        ])
        .status()
        .unwrap();
    assert!(status.success());
    bench.dockerfile("FROM busybox\nADD a.tgz /unpacked/\nCOPY a.tgz /packed/\n");
    let image = bench.build_image(&[]);
    assert_eq!(image.text("unpacked/inner.txt"), "inside");
    assert!(image.has("packed/a.tgz"));
}

// SPEC A6.15, A8.02, A8.04, A8.05, A8.08, A8.09, A8.10, A8.11, A8.12, B2.13
#[test]
fn copy_link_and_onbuild_and_shell() {
    need_run!();
    let bench = Bench::new();
    bench.file("f", "linked");
    bench.dockerfile(
        "FROM busybox AS base\nONBUILD RUN echo triggered > /trigger\nFROM base\nSHELL [\"/bin/sh\", \"-ec\"]\nRUN echo $0 $- > /shell\nCOPY --link f /opt/f\nHEALTHCHECK --interval=5s CMD true\nEXPOSE 80 90/udp\nVOLUME /data\nSTOPSIGNAL SIGINT\nLABEL a=b\nENTRYPOINT [\"/bin/sh\"]\nUSER 1:2\n",
    );
    let image = bench.build_image(&["--label", "c=d"]);
    assert_eq!(image.text("trigger"), "triggered\n");
    assert_eq!(image.text("opt/f"), "linked");
    let shell = image.text("shell");
    let flags = shell.trim_end().strip_prefix("/bin/sh ").unwrap_or_else(|| panic!("{shell}"));
    assert!(flags.contains('e'), "what SHELL says: {flags}");
    let config = &image.config["config"];
    assert_eq!(config["ExposedPorts"], serde_json::json!({"80/tcp": {}, "90/udp": {}}));
    assert_eq!(config["Labels"], serde_json::json!({"a": "b", "c": "d"}));
    assert_eq!(config["Healthcheck"]["Interval"], 5_000_000_000_i64);
    assert_eq!((config["StopSignal"].as_str(), config["User"].as_str()), (Some("SIGINT"), Some("1:2")));
    assert_eq!(config["Volumes"], serde_json::json!({"/data": {}}));
    assert_eq!(config["Entrypoint"], serde_json::json!(["/bin/sh"]));
    assert_eq!(config["Shell"], serde_json::json!(["/bin/sh", "-ec"]));
}

#[test]
fn c5_15_entitlements_must_be_given() {
    need_run!();
    let bench = Bench::new();
    bench.dockerfile("FROM busybox\nRUN --network=host true\n");
    bench.build(&[]).fails(4, &["network.host is not allowed", "--allow network.host", "Dockerfile:2"]);
    bench.build(&["--allow", "network.host"]).ok();
    bench.dockerfile("FROM busybox\nRUN --security=insecure true\n");
    bench.build(&[]).fails(4, &["security.insecure is not allowed"]);
}

#[test]
fn a9_01_the_ignore_file_beside_the_dockerfile_goes_before_the_context_s() {
    let bench = Bench::new();
    bench.file("a", "a").file("b", "b").file(".dockerignore", "a\n");
    bench.file("sub/own", "FROM scratch\nCOPY . /\n").file("sub/own.dockerignore", "b\nsub\n.dockerignore\n");
    let image = bench.build_image(&["-f", &bench.ctx().join("sub/own").display().to_string()]);
    assert!(image.has("a") && !image.has("b") && !image.has("sub"), "{:?}", image.top());
    // A named context has its own.
    let other = bench.path("other");
    std::fs::create_dir(&other).unwrap();
    for (name, text) in [("seen", "1"), ("hidden", "2"), (".dockerignore", "hidden\n")] {
        std::fs::write(other.join(name), text).unwrap();
    }
    bench.dockerfile("FROM scratch\nCOPY --from=other . /\n");
    let image = bench.build_image(&["--build-context", &format!("other={}", other.display())]);
    assert!(image.has("seen") && !image.has("hidden"), "{:?}", image.top());
}

#[test]
fn a9_05_dockerfile_and_ignore_file_are_read_but_not_copied_where_they_are_ignored() {
    let bench = Bench::new();
    bench.file("a", "a").file(".dockerignore", "Dockerfile\n.dockerignore\n").dockerfile("FROM scratch\nCOPY . /\n");
    assert_eq!(bench.build_image(&[]).top(), ["a"]);
    bench.dockerfile("FROM scratch\nCOPY Dockerfile /\n");
    bench.build(&[]).fails(4, &["\"/Dockerfile\": not found", "excluded by .dockerignore line 1", "Dockerfile:2"]);
}

#[test]
fn a9_06_only_what_is_copied_is_read() {
    let bench = Bench::new();
    bench.file("wanted/f", "1").file("closed/f", "2").dockerfile("FROM scratch\nCOPY wanted /\n");
    let closed = bench.ctx().join("closed");
    std::fs::set_permissions(&closed, std::os::unix::fs::PermissionsExt::from_mode(0o000)).unwrap();
    // Root can read it all the same; what it must not do is take a change there for a change of the build.
    let first = bench.build(&[]).ok();
    assert_eq!(first.count("CACHED"), 0, "{}", first.stderr);
    std::fs::set_permissions(&closed, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    bench.file("closed/g", "3");
    let second = bench.build(&[]).ok();
    assert!(second.count("CACHED") > 0, "{}", second.stderr);
}

/// A layer of the image is compressed while a later step runs: the step only ends when the blob is there.
// SPEC C4.12
#[test]
fn a_layer_is_packed_while_later_steps_run() {
    need_run!();
    let bench = Bench::new();
    bench.dockerfile(
        "FROM busybox\nRUN echo first > /first\n\
         RUN --mount=type=cache,target=/gate until [ -e /gate/open ]; do sleep 0.05; done; echo second > /second\n",
    );
    let (tar, list) = (bench.path("image.tar"), |dir: &Path| -> Vec<PathBuf> {
        std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
    });
    let mut child = bench.build_command(&["-o", &format!("type=oci,dest={}", tar.display())]).spawn().unwrap();
    let gate = || list(&bench.store().join("mounts")).into_iter().map(|dir| dir.join("fs")).find(|dir| dir.is_dir());
    // The layer of the base and that of the first step.
    let early = (0..600).find_map(|_| {
        std::thread::sleep(Duration::from_millis(100));
        let blobs = list(&bench.store().join("oci/blobs/sha256"));
        (blobs.len() >= 2 && gate().is_some()).then_some(blobs)
    });
    let running = child.try_wait().unwrap().is_none();
    if let Some(gate) = gate() {
        std::fs::write(gate.join("open"), "").unwrap();
    } else {
        child.kill().unwrap();
    }
    let run = support::finish(child.wait_with_output().unwrap());
    if run.stderr.contains("native snapshotter") {
        skip!("a tree that steps change in place is not packed meanwhile");
    }
    run.ok();
    assert!(running, "the second step waited for nobody");
    let image = Image::open_tar(&tar);
    let first = image.manifest["layers"][image.layers.len() - 2]["digest"].as_str().unwrap().to_owned();
    let early = early.expect("nothing was packed while the second step ran");
    assert!(
        early.iter().any(|blob| first.ends_with(&*blob.file_name().unwrap().to_string_lossy())),
        "{first}: {early:?}"
    );
}
