//! What a step sees and what the instructions around it leave in the image: arguments, users, directories, triggers
//! (SPEC A4, A5, A8, B2.07, C5, N2.14).
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::print_stderr, reason = "skip reasons are collected by scripts/test")]
#![allow(missing_docs, unreachable_pub, reason = "a test program")]

mod support;

use serde_json::json;
use support::Bench;

fn history(image: &support::image::Image) -> Vec<String> {
    let entries = image.config["history"].as_array().unwrap().iter();
    entries.filter_map(|entry| entry["created_by"].as_str().map(ToOwned::to_owned)).collect()
}

// SPEC A4.10–A4.13, A4.16: where arguments have an effect, and what of them is kept.
#[test]
fn a4_13_arguments_reach_steps_and_history_and_not_the_image() {
    need_run!();
    let bench = Bench::new();
    bench.dockerfile(
        "ARG TOP=global\nARG BASE=busybox\nFROM $BASE AS first\nRUN echo \"[$TOP]\" > /out\n\
         ARG TOP A=1 B=$A\nRUN echo \"[$TOP][$A][$B]\" >> /out\n\
         FROM first\nRUN echo \"[$TOP][$A]\" >> /out\nENV A=env\nARG A=3\nRUN echo \"[$A]\" >> /out\n",
    );
    let image = bench.build_image(&["--build-arg", "UNUSED=1", "--build-arg", "TOP=cli"]);
    assert_eq!(image.text("out"), "[]\n[cli][1][]\n[cli][1]\n[env]\n");
    let env = image.config["config"]["Env"].to_string();
    assert!(env.contains("A=env") && !env.contains("TOP"), "{env}");
    let history = history(&image);
    assert!(history.contains(&"ARG TOP=cli A=1 B=".to_owned()), "{history:?}");
    assert!(
        history.contains(&"RUN |3 TOP=cli A=1 B= /bin/sh -c echo \"[$TOP][$A][$B]\" >> /out # buildkit".to_owned()),
        "{history:?}"
    );
    // A change is a miss at the first step behind it, not before and not at ARG itself.
    let again = bench.build(&["--build-arg", "TOP=other"]).ok();
    assert_eq!(again.count("CACHED"), 1, "{}", again.stderr);
}

// SPEC A4.14, C5.11, B2.07
#[test]
fn a4_14_proxy_arguments_are_given_and_never_kept() {
    need_run!();
    let mut bench = Bench::new();
    bench.dockerfile(
        "FROM busybox\nRUN echo $HTTP_PROXY $http_proxy $HTTPS_PROXY $https_proxy $FTP_PROXY $ftp_proxy $NO_PROXY $no_proxy $ALL_PROXY $all_proxy > /out\n",
    );
    let given = ["--build-arg", "http_proxy=a", "--build-arg", "HTTPS_PROXY=b", "--build-arg", "Ftp_Proxy=c"];
    let image = bench.build_image(&given);
    assert_eq!(image.text("out"), "a a b b c c\n");
    assert!(!image.config.to_string().contains("=a"), "{}", image.config);
    // Another proxy is no other build.
    assert_eq!(bench.build(&["--build-arg", "HTTP_PROXY=other"]).ok().count("CACHED"), 1);
    // Docker's configuration fills in what is not given.
    let docker = bench.path("home/.docker");
    std::fs::create_dir_all(&docker).unwrap();
    let config = json!({"proxies": {"default": {"httpProxy": "cfg-http", "httpsProxy": "cfg-https", "ftpProxy": "cfg-ftp", "noProxy": "cfg-no", "allProxy": "cfg-all"}}});
    std::fs::write(docker.join("config.json"), config.to_string()).unwrap();
    bench.dockerfile("FROM busybox\nRUN echo $HTTP_PROXY $https_proxy $FTP_PROXY $no_proxy $ALL_PROXY > /out\n");
    let image = bench.build_image(&["--build-arg", "https_proxy=mine"]);
    assert_eq!(image.text("out"), "cfg-http mine cfg-ftp cfg-no cfg-all\n");
    // Declared, it is an argument like any other.
    bench.dockerfile("FROM busybox\nARG HTTP_PROXY\nRUN echo $HTTP_PROXY > /out\n");
    let image = bench.build_image(&["--build-arg", "HTTP_PROXY=declared"]);
    assert_eq!(image.text("out"), "declared\n");
    assert!(history(&image).iter().any(|h| h.starts_with("RUN |1 HTTP_PROXY=declared ")), "{:?}", history(&image));
    assert_eq!(bench.build(&["--build-arg", "HTTP_PROXY=changed"]).ok().count("CACHED"), 0);
    // B2.07: a name alone is taken from the environment, and is nothing if it is not there.
    bench.env.push(("FROM_ENV".into(), "value".into()));
    bench.dockerfile("FROM busybox\nARG FROM_ENV=d1\nARG NOT_THERE=d2\nRUN echo $FROM_ENV $NOT_THERE > /out\n");
    let image = bench.build_image(&["--build-arg", "FROM_ENV", "--build-arg", "NOT_THERE"]);
    assert_eq!(image.text("out"), "value d2\n");
    bench.build(&["--build-arg", "=x"]).fails(2, &["invalid key-value pair \"=x\": empty key"]);
}

// SPEC A4.15, A4.17
#[test]
fn a4_15_automatic_arguments_in_steps() {
    need_run!();
    let bench = Bench::new();
    bench.dockerfile(
        "FROM --platform=$BUILDPLATFORM busybox AS named\n\
         RUN echo \"[$TARGETOS]\" > /out\n\
         ARG TARGETPLATFORM TARGETOS TARGETARCH TARGETVARIANT TARGETOSVERSION BUILDPLATFORM BUILDARCH TARGETSTAGE\n\
         RUN echo \"$TARGETPLATFORM $TARGETOS $TARGETARCH [$TARGETVARIANT$TARGETOSVERSION] $TARGETSTAGE\" >> /out && test $TARGETPLATFORM = $BUILDPLATFORM && test $TARGETARCH = $BUILDARCH && hostname >> /out && cat /etc/hosts | grep -c $(hostname) >> /out\n",
    );
    let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let image = bench.build_image(&[]);
    assert_eq!(image.text("out"), format!("[]\nlinux/{arch} linux {arch} [] named\nbuildkitsandbox\n1\n"));
    let image = bench.build_image(&[
        "--target",
        "named",
        "--build-arg",
        "TARGETOSVERSION=10",
        "--build-arg",
        "BUILDKIT_SANDBOX_HOSTNAME=box",
    ]);
    assert_eq!(image.text("out"), format!("[]\nlinux/{arch} linux {arch} [10] named\nbox\n1\n"));
}

// SPEC A4.04–A4.07, A4.19, N2.14
#[test]
fn n2_14_only_what_the_target_needs_is_looked_at() {
    need_run!();
    let bench = Bench::new();
    bench.dockerfile(
        "FROM no.such.host.invalid/image AS broken\nRUN exit 1\n\
         FROM busybox AS twice\nRUN echo first > /out\n\
         FROM busybox AS Twice\nRUN echo second > /out\n\
         FROM busybox AS test\nRUN exit 1\n\
         FROM twice AS last\nCOPY --from=1 /out /by-index\nRUN --mount=from=twice,target=/m cp /m/out /mounted\n",
    );
    let image = bench.build_image(&[]);
    assert_eq!(image.text("out"), "second\n", "the later of two");
    assert_eq!((image.text("by-index").as_str(), image.text("mounted").as_str()), ("first\n", "second\n"));
    assert_eq!(bench.build_image(&["--target", "TWICE"]).text("out"), "second\n");
    bench.build(&["--target", "lsat"]).fails(2, &["target stage \"lsat\" could not be found", "last"]);
    bench.build(&["--target", "test"]).fails(9, &["exit code: 1"]);
}

// SPEC A4.02: a named context takes the place of a stage of its name, and of an image.
#[test]
fn a4_02_named_contexts_replace_stages() {
    need_run!();
    let bench = Bench::new();
    bench.file("replacement/f", "from the context");
    bench.dockerfile(
        "FROM busybox AS dep\nRUN exit 1\nFROM busybox\nCOPY --from=dep /f /copied\nRUN --mount=from=dep,target=/m cat /m/f > /mounted\n",
    );
    let context = format!("dep={}", bench.ctx().join("replacement").display());
    let image = bench.build_image(&["--build-context", &context]);
    assert_eq!((image.text("copied"), image.text("mounted")), ("from the context".into(), "from the context".into()));
}

// SPEC A5.01, A8.05: every shell form behind SHELL, in triggers and in later stages too.
#[test]
fn a8_05_shell_holds_for_all_that_follows() {
    need_run!();
    let bench = Bench::new();
    bench.dockerfile(
        "FROM busybox AS base\nSHELL [\"/bin/sh\", \"-exc\"]\nRUN echo $- > /flags\nRUN [\"/bin/sh\", \"-c\", \"echo exec $- >> /flags\"]\n\
         ONBUILD RUN echo trigger $- >> /flags\n\
         FROM base\nRUN <<EOF\necho heredoc $- >> /flags\nEOF\nCMD run it\nENTRYPOINT enter it\nHEALTHCHECK CMD check it\n",
    );
    let image = bench.build_image(&[]);
    let flags = image.text("flags");
    let with_e: Vec<bool> = flags.lines().map(|l| l.split(' ').next_back().unwrap().contains('e')).collect();
    assert_eq!(with_e, [true, false, true, true], "{flags}");
    let config = &image.config["config"];
    assert_eq!(config["Shell"], json!(["/bin/sh", "-exc"]));
    assert_eq!(config["Cmd"], json!(["/bin/sh", "-exc", "run it"]));
    assert_eq!(config["Entrypoint"], json!(["/bin/sh", "-exc", "enter it"]));
    assert_eq!(config["Healthcheck"]["Test"], json!(["CMD-SHELL", "check it"]));
    bench.dockerfile("FROM busybox\nSHELL /bin/sh -c\n");
    bench.build(&[]).fails(4, &["SHELL requires the arguments to be in JSON form"]);
}

// SPEC A5.08, A5.09, C5.12, C5.15
#[test]
fn a5_08_networks_of_steps() {
    need_run!();
    let bench = Bench::new();
    bench.dockerfile("FROM busybox\nRUN --network=none tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' ' > /none\nRUN --network=default true\n");
    assert_eq!(bench.build_image(&[]).text("none"), "lo\n");
    bench.dockerfile("FROM busybox\nRUN --network=host true\n");
    bench.build(&[]).fails(4, &["network.host is not allowed", "--allow network.host"]);
    bench.build(&["--allow", "network.host"]).ok();
    bench.dockerfile("FROM busybox\nRUN --network=hots true\n");
    bench.build(&[]).fails(4, &["invalid network mode \"hots\"", "host"]);
    bench.dockerfile("FROM busybox\nRUN --security=insecure grep CapEff /proc/self/status | cut -f2 > /caps\n");
    bench.build(&[]).fails(4, &["security.insecure is not allowed", "--allow security.insecure"]);
    let image = bench.build_image(&["--allow", "security.insecure"]);
    assert!(
        image.text("caps").starts_with("000001f") || image.text("caps").starts_with("000003f"),
        "{}",
        image.text("caps")
    );
    bench.dockerfile("FROM busybox\nRUN --security=open true\n");
    bench.build(&[]).fails(4, &["security \"open\" is not valid"]);
}

// SPEC A5.11–A5.14, C5.06–C5.08
#[test]
fn a5_11_what_a_step_finds() {
    need_run!();
    let bench = Bench::new();
    bench.file("hosts", "mine\n");
    bench.dockerfile(
        "FROM busybox\nCOPY hosts /etc/hosts\n\
         RUN for d in /proc /dev /dev/pts /dev/shm /dev/mqueue /sys; do grep -q \" $d \" /proc/self/mounts || echo missing $d; done > /out; \
         grep -q ' /run ' /proc/self/mounts && echo run is a mount >> /out; \
         df -k /dev/shm | tail -n1 | tr -s ' ' | cut -d' ' -f2 >> /out; \
         touch /proc/sys/kernel/hostname /sys/x 2>/dev/null && echo writable >> /out; \
         grep CapEff /proc/self/status | cut -f2 >> /out; grep NoNewPrivs /proc/self/status | cut -f2 >> /out; \
         head -n1 /etc/hosts >> /out; test -s /etc/resolv.conf || echo no resolv.conf >> /out; \
         test \"$(cat /proc/kcore 2>/dev/null | head -c1 | wc -c)\" = 0 || echo kcore >> /out; test $$ = 1 && echo pid 1 >> /out; true\n",
    );
    let image = bench.build_image(&["--shm-size", "32m"]);
    assert_eq!(image.text("out"), "32768\n00000000a80425fb\n0\n127.0.0.1\tlocalhost buildkitsandbox\npid 1\n");
    assert_eq!(image.text("etc/hosts"), "mine\n", "A5.12: the image's own file is untouched");
}

// SPEC A5.15, A8.07, A8.06, C5.04, C5.05
#[test]
fn a5_15_users_groups_and_directories() {
    need_run!();
    let bench = Bench::new();
    bench.dockerfile(
        "FROM busybox\nRUN echo 'app:x:1000:1001::/home/app:/bin/sh' >> /etc/passwd && printf 'app:x:1001:\\nextra:x:50:app\\nmore:x:51:other,app\\n' >> /etc/group && mkdir -m 777 /o\n\
         USER app\nRUN echo $(id -u) $(id -g) $(id -G) $HOME > /o/name\n\
         USER app:extra\nRUN echo $(id -u) $(id -g) $(id -G) > /o/name-group\n\
         USER 1000\nRUN echo $(id -u) $(id -g) $(id -G) > /o/number\n\
         USER 4321\nRUN echo $(id -u) $(id -g) $(id -G) > /o/unknown\n\
         USER 4321:8\nRUN echo $(id -u) $(id -g) $(id -G) > /o/unknown-group\n\
         USER app\nWORKDIR /made/by app\nWORKDIR sub\nRUN touch f && pwd > /o/pwd\n\
         ENV HOME=/elsewhere\nRUN echo $HOME > /o/home\n",
    );
    let image = bench.build_image(&[]);
    let text = |name: &str| image.text(&format!("o/{name}"));
    assert_eq!(text("name"), "1000 1001 1001 50 51 /home/app\n");
    assert_eq!(text("name-group"), "1000 50 50\n");
    assert_eq!(text("number"), "1000 1001 1001 50 51\n");
    assert_eq!(text("unknown"), "4321 0 0\n");
    assert_eq!(text("unknown-group"), "4321 8 8\n");
    assert_eq!((text("pwd"), text("home")), ("/made/by app/sub\n".into(), "/elsewhere\n".into()));
    let made = image.node("made/by app/sub");
    assert_eq!((made.uid, made.gid, made.mode), (1000, 1001, 0o755));
    assert_eq!(image.config["config"]["WorkingDir"], "/made/by app/sub");
    bench.dockerfile("FROM busybox\nUSER nobody-knows\nRUN true\n");
    bench.build(&[]).fails(4, &["unable to find user nobody-knows", "Dockerfile:3"]);
}

// SPEC A5.16
#[test]
fn a5_16_exit_codes() {
    need_run!();
    let bench = Bench::new();
    bench.dockerfile("FROM busybox\nRUN echo the last words && exit 7\n");
    bench.build(&[]).fails(
        9,
        &[
            "process \"/bin/sh -c echo the last words && exit 7\" did not complete successfully: exit code: 7",
            "the last words",
            "Dockerfile:2",
        ],
    );
    bench.dockerfile("FROM busybox\nRUN [\"/no/such/program\"]\n");
    bench.build(&[]).fails(9, &["exit code: 127", "/no/such/program"]);
    bench.dockerfile("FROM busybox\nRUN sh -c 'kill -9 $$'; exit $?\n");
    bench.build(&[]).fails(9, &["exit code: 137"]);
}

// SPEC A5.17: the display is clipped, the log in the store is whole and the error names it.
#[test]
fn a5_17_logs_are_clipped_for_the_eye_and_kept_whole() {
    need_run!();
    let mut bench = Bench::new();
    bench.env.push(("BUILDKIT_STEP_LOG_MAX_SIZE".into(), "1024".into()));
    bench.dockerfile("FROM busybox\nRUN seq 100000 120000; echo to stderr >&2; exit 1\n");
    let run = bench
        .build(&[])
        .fails(9, &["[output clipped, log limit 1KiB reached, the whole log is ", "the whole log of the step: "]);
    assert!(run.stderr.contains("100100") && !run.stderr.contains("110000"), "{}", run.stderr);
    let line = run.stderr.lines().find_map(|l| l.strip_prefix("the whole log of the step: ")).unwrap();
    let path = line.split(" (").next().unwrap();
    assert!(
        path.starts_with(bench.store().join("history").to_str().unwrap()) && path.ends_with("/steps/01.log.zst"),
        "{path}"
    );
    let whole = std::process::Command::new("zstdcat").arg(path).output().unwrap();
    let text = String::from_utf8_lossy(&whole.stdout).into_owned();
    assert!(text.contains("100000\n") && text.contains("\n120000\n") && text.contains("to stderr\n"));
    bench.env[0].1 = "-1".into();
    assert!(bench.build(&[]).fails(9, &["120000"]).stderr.contains("110000"));
    bench.env[0].1 = "lots".into();
    bench.build(&[]).fails(2, &["BUILDKIT_STEP_LOG_MAX_SIZE=lots: expected bytes, or -1"]);
}

// SPEC A5.10: a device the machine does not have is left out, unless the step cannot do without.
#[test]
fn a5_10_absent_devices() {
    need_run!();
    let bench = Bench::new();
    bench.dockerfile("FROM busybox\nARG CLASS=no.such\nRUN --device=$CLASS/class=one echo ran > /out\n");
    assert_eq!(bench.build_image(&[]).text("out"), "ran\n");
    bench.dockerfile("FROM busybox\nRUN --device=name=no.such/class=one,required true\n");
    bench.build(&[]).fails(4, &["required device \"no.such/class=one\" is not registered", "/etc/cdi", "Dockerfile:2"]);
    bench.dockerfile("FROM busybox\nRUN --device=required true\n");
    bench.build(&[]).fails(4, &["device name is required"]);
}

// SPEC A8.01–A8.11, A8.13, A8.14, A4.03
#[test]
fn a8_14_the_instructions_and_their_history() {
    need_run!();
    let bench = Bench::new();
    bench.file("f", "x");
    bench.dockerfile(
        "FROM busybox\nMAINTAINER Somebody <s@example.com>\nENV A=1 B=\"two words\"\nENV LEGACY some  value\nENV A=changed\n\
         LABEL a=1\nLABEL a=2 \"b c\"=3\nEXPOSE 443 80/udp 1000-1002 127.0.0.1:8080:90/TCP\nVOLUME [\"/data\", \"/x y\"]\n\
         RUN mkdir -p /data && echo kept > /data/f\nSTOPSIGNAL term\nUSER 1\nWORKDIR /w\nCOPY f f\n\
         HEALTHCHECK --interval=5s --timeout=1m --start-period=2s --start-interval=1s --retries=3 CMD [\"ok\"]\n\
         CMD [\"first\"]\nENTRYPOINT [\"e\"]\n",
    );
    let image = bench.build_image(&["--label", "a=cli"]);
    let config = &image.config["config"];
    assert_eq!(image.config["author"], "Somebody <s@example.com>");
    let env: Vec<&str> = config["Env"].as_array().unwrap().iter().filter_map(|e| e.as_str()).collect();
    assert_eq!(env[env.len() - 3..], ["A=changed", "B=two words", "LEGACY=some  value"]);
    assert_eq!(config["Labels"], json!({"a": "cli", "b c": "3"}));
    assert_eq!(
        config["ExposedPorts"],
        json!({"1000/tcp": {}, "1001/tcp": {}, "1002/tcp": {}, "443/tcp": {}, "80/udp": {}, "90/tcp": {}})
    );
    assert_eq!(config["StopSignal"], "term", "as written");
    assert_eq!((&config["User"], &config["WorkingDir"]), (&json!("1"), &json!("/w")));
    assert_eq!(
        config["Healthcheck"],
        json!({"Test": ["CMD", "ok"], "Interval": 5_000_000_000_u64, "Timeout": 60_000_000_000_u64,
               "StartPeriod": 2_000_000_000_u64, "StartInterval": 1_000_000_000_u64, "Retries": 3})
    );
    assert_eq!(
        (&config["Cmd"], &config["Entrypoint"]),
        (&json!(["first"]), &json!(["e"])),
        "A8.04: CMD is of this stage"
    );
    assert_eq!(image.text("data/f"), "kept\n", "A8.09: later changes in a volume are kept");
    let entries = image.config["history"].as_array().unwrap();
    let ours: Vec<_> = entries.iter().filter(|h| h["comment"] == "buildkit.dockerfile.v0").collect();
    let shape: Vec<(String, bool)> = ours
        .iter()
        .map(|h| (h["created_by"].as_str().unwrap().chars().take(14).collect(), h["empty_layer"] == true))
        .collect();
    let names: Vec<(&str, bool)> = shape.iter().map(|(name, empty)| (name.as_str(), *empty)).collect();
    assert_eq!(
        names,
        [
            ("MAINTAINER Som", true),
            ("ENV A=1 B=two ", true),
            ("ENV LEGACY=som", true),
            ("ENV A=changed", true),
            ("LABEL a=1", true),
            ("LABEL a=2 b c=", true),
            ("EXPOSE [1000/t", true), // in the order of the words
            ("VOLUME [/data ", true),
            ("RUN /bin/sh -c", false),
            ("STOPSIGNAL ter", true),
            ("USER 1", true),
            ("WORKDIR /w", false),
            ("COPY f f # bui", false),
            ("HEALTHCHECK &{", true),
            ("CMD [\"first\"]", true),
            ("ENTRYPOINT [\"e", true),
        ]
    );
    assert!(ours.iter().all(|h| h["created"].is_string()));

    bench.dockerfile("FROM scratch\nCOPY f /f\n");
    let image = bench.build_image(&[]);
    assert_eq!(image.config["config"]["WorkingDir"], "/");
    assert_eq!(
        image.config["config"]["Env"],
        json!(["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"])
    );
    assert_eq!((&image.config["os"], &image.config["rootfs"]["type"]), (&json!("linux"), &json!("layers")));
}

// SPEC A8.08–A8.12: mistakes, each at its line.
#[test]
fn a8_11_mistakes_are_pointed_at() {
    let bench = Bench::new();
    for (text, message) in [
        ("ENV A", "ENV must have two arguments"),
        ("ENV A=1 B", "Syntax error - can't find = in \"B\""),
        ("ENV =1", "ENV names can not be blank"),
        ("EXPOSE 80x", "invalid containerPort: 80x"),
        ("EXPOSE 80/icmp", "invalid proto: icmp"),
        ("EXPOSE 65536", "65536"),
        ("VOLUME [\"\"]", "VOLUME specified can not be an empty string"),
        ("STOPSIGNAL SIGNOPE", "invalid signal: SIGNOPE"),
        ("HEALTHCHECK --interval=1us CMD x", "Interval \"interval\" cannot be less than 1ms"),
        ("HEALTHCHECK NONE x", "HEALTHCHECK NONE takes no arguments"),
        ("HEALTHCHECK RUN x", "Unknown type \"RUN\" in HEALTHCHECK (try CMD)"),
        ("HEALTHCHECK --retries=-1 CMD x", "--retries"),
        ("ONBUILD ONBUILD RUN x", "isn't allowed"),
        ("ONBUILD FROM x", "FROM isn't allowed as an ONBUILD trigger"),
        ("ONBUILD MAINTAINER x", "MAINTAINER isn't allowed as an ONBUILD trigger"),
        ("ARG =x", "ARG names can not be blank"),
        ("WORKDIR", "WORKDIR requires exactly one argument"),
        ("USER", "USER requires exactly one argument"),
    ] {
        bench.dockerfile(&format!("FROM scratch\n{text}\n"));
        let run = bench.build(&[]);
        assert_eq!(run.code, 4, "{text}: {}", run.stderr);
        assert!(run.stderr.contains(message) && run.stderr.contains("Dockerfile:2"), "{text}: {}", run.stderr);
    }
}

// SPEC A8.12, A4.05
#[test]
fn a8_12_triggers_run_in_the_next_stage_only() {
    need_run!();
    let bench = Bench::new();
    bench.file("app", "application");
    bench.dockerfile(
        "FROM busybox AS tools\nRUN echo tool > /tool\n\
         FROM busybox AS base\nARG V=outer\n\
         ONBUILD ARG V=1\nONBUILD COPY app /app\nONBUILD COPY --from=tools /tool /tool\n\
         ONBUILD RUN --mount=from=tools,source=/tool,target=/t echo $V $(cat /app) $(cat /t) > /out\n\
         ONBUILD RUN <<EOF\necho heredoc >> /out\nEOF\n\
         FROM base AS child\nRUN echo after >> /out\n\
         FROM child\nRUN echo grandchild >> /out\n",
    );
    let image = bench.build_image(&["--build-arg", "V=cli"]);
    assert_eq!(image.text("out"), "cli application tool\nheredoc\nafter\ngrandchild\n");
    assert!(image.config["config"].get("OnBuild").is_none_or(serde_json::Value::is_null), "{}", image.config);
    let base = bench.build_image(&["--target", "base"]);
    assert_eq!(
        base.config["config"]["OnBuild"],
        json!([
            "ARG V=1",
            "COPY app /app",
            "COPY --from=tools /tool /tool",
            "RUN --mount=from=tools,source=/tool,target=/t echo $V $(cat /app) $(cat /t) > /out",
            "RUN <<EOF\necho heredoc >> /out\nEOF"
        ])
    );
    // The same from an image: triggers come with the base, `--from` is looked up where they run.
    let layout = bench.path("base.tar");
    std::fs::create_dir(bench.path("layout")).unwrap();
    let dest = format!("type=oci,tar=false,dest={}", bench.path("layout").display());
    bench.build(&["--target", "base", "-o", &dest]).ok();
    drop(layout);
    bench.dockerfile("FROM busybox AS tools\nRUN echo other > /tool\nFROM triggers\nRUN echo after >> /out\n");
    let context = format!("triggers=oci-layout://{}", bench.path("layout").display());
    let image = bench.build_image(&["--build-context", &context]);
    assert_eq!(image.text("out"), "1 application other\nheredoc\nafter\n");
    // A trigger that needs the stage it runs in.
    bench.dockerfile("FROM busybox AS base\nONBUILD COPY --from=child /f /f\nFROM base AS child\nRUN touch /f\n");
    bench.build(&[]).fails(4, &["child"]);
}

// Names with spaces, names that are no UTF-8, and paths near the kernel's limits.
// SPEC A6.11, C6.10
#[test]
fn names_of_every_kind_survive() {
    need_run!();
    use std::os::unix::ffi::OsStrExt as _;
    let bench = Bench::new();
    let odd = std::ffi::OsStr::from_bytes(b"latin-\xe9\xff");
    std::fs::create_dir_all(bench.ctx().join("with space/d")).unwrap();
    std::fs::write(bench.ctx().join("with space/d").join(odd), "odd").unwrap();
    std::fs::write(bench.ctx().join("with space/new\nline"), "nl").unwrap();
    let long = "l".repeat(250);
    let deep = [long.as_str(); 8].join("/");
    bench.file(&format!("deep/{deep}/f"), "deep");
    bench.dockerfile(&format!(
        "FROM busybox\nCOPY [\"with space\", \"/dest space/\"]\nWORKDIR \"/work dir/sub\"\nCOPY deep /deep\n\
         RUN pwd > '/out file' && cat \"/dest space/d/\"latin* >> '/out file' && cat \"/dest space/new\"* >> '/out file'\n\
         RUN --mount=source=\"with space\",target=\"/m t\" ls '/m t/d' | wc -l >> '/out file'\n\
         WORKDIR /deep/{deep}\nRUN cat f >> '/out file' && mv f g && touch \"$(printf 'made-\\377')\"\n\
         FROM scratch\nCOPY --from=0 / /\n"
    ));
    let image = bench.build_image(&[]);
    assert_eq!(image.text("out file"), "/work dir/sub\noddnl1\ndeep");
    assert_eq!(image.text(&format!("deep/{deep}/g")), "deep");
    // A second look finds the same: keys of such names are stable.
    let again = bench.build(&[]).ok();
    assert_eq!(again.count("CACHED"), 8, "{}", again.stderr);
    let dir = bench.path("tree");
    bench.build(&["-o", &format!("type=local,dest={}", dir.display())]).ok();
    assert_eq!(std::fs::read(dir.join("dest space/d").join(odd)).unwrap(), b"odd");
    assert!(dir.join(format!("deep/{deep}")).join(std::ffi::OsStr::from_bytes(b"made-\xff")).exists());
}

// SPEC C6.06: what has no layers was made at no time, unless one is given, so that the same text is the same image.
#[test]
fn c6_06_an_image_without_layers_is_the_same_each_time() {
    let bench = Bench::new();
    bench.dockerfile("FROM scratch\nLABEL a=b\nCMD [\"/x\"]\n");
    let id = |args: &[&str]| {
        bench.build(&[&["--iidfile", "id", "-t", "empty"], args].concat()).ok();
        std::fs::read_to_string(bench.path("out/id")).unwrap()
    };
    let first = id(&[]);
    std::thread::sleep(std::time::Duration::from_millis(1100));
    assert_eq!(id(&["--no-cache"]), first);
    assert_ne!(id(&["--build-arg", "SOURCE_DATE_EPOCH=1700000000"]), first);
    let config = bench.rbuild(&["inspect", "--format", "{{json .}}", "empty"]).ok().stdout;
    assert!(config.contains("2023-11-14T22:13:20Z"), "{config}");
}
