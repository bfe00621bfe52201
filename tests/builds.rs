//! Build records, and going back into a step that failed.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::print_stderr, reason = "skip reasons are collected by scripts/test")]
#![allow(missing_docs, unreachable_pub, reason = "a test program")]

mod support;

use std::process::Stdio;

use serde_json::Value;
use support::Bench;
use support::terminal::Terminal;

fn rows(bench: &Bench, args: &[&str]) -> Vec<Value> {
    let args: Vec<&str> = ["builds", "ls", "--format", "json"].iter().chain(args).copied().collect();
    bench.rbuild(&args).ok().stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn inspect(bench: &Bench, build: &str) -> Value {
    serde_json::from_str(&bench.rbuild(&["builds", "inspect", "--format", "json", build]).ok().stdout).unwrap()
}

// SPEC A4.17, B8.06
#[test]
fn a4_17_a_build_has_the_name_that_an_argument_gives_it() {
    let bench = Bench::new();
    bench.dockerfile("FROM scratch AS one\nARG BUILDKIT_BUILD_NAME\nLABEL n=$BUILDKIT_BUILD_NAME\n");
    bench.build(&["--build-arg", "BUILDKIT_BUILD_NAME=nightly app", "--target", "one"]).ok();
    bench.build(&["--build-arg", "BUILDKIT_BUILD_NAME="]).ok();
    let names: Vec<Value> = rows(&bench, &[]).into_iter().map(|mut row| row["name"].take()).collect();
    assert_eq!(names, ["ctx", "nightly app"]);
}

// SPEC B8.06, B8.07, C9.08
#[test]
fn b8_06_builds_are_listed_filtered_and_inspected() {
    let bench = Bench::new();
    bench.rbuild(&["builds", "inspect"]).fails(2, &["no build is known yet", "every build leaves a record"]);
    bench.rbuild(&["builds", "rm", "x"]).fails(2, &["there is no build \"x\": none is known yet"]);
    bench.rbuild(&["debug"]).fails(2, &["there is no failed step"]);
    assert!(rows(&bench, &[]).is_empty());
    bench.dockerfile("FROM scratch AS one\nARG A\nCOPY Dockerfile /\n");
    let metadata = bench.path("metadata.json");
    let args = ["-t", "app:1", "--target", "one", "--build-arg", "A=b", "--label", "l=m"];
    let named = ["--metadata-file", metadata.to_str().unwrap()];
    bench.build(&[&args[..], &named].concat()).ok();
    bench.build(&args).ok();
    bench.dockerfile("FROM scratch\nCOPY missing /\n");
    bench.build(&[]).fails(4, &["missing"]);
    // A question is not a build.
    bench.build(&["--check"]);

    let all = rows(&bench, &[]);
    let statuses: Vec<&str> = all.iter().map(|row| row["status"].as_str().unwrap()).collect();
    assert_eq!(statuses, ["Error", "Completed", "Completed"], "the newest first");
    assert_eq!(all[1]["name"], "ctx (one)");
    assert!(all[1]["cached_steps"].as_u64().unwrap() >= 1 && all[2]["cached_steps"] == 0, "{all:?}");
    for (filter, count) in [
        ("status=error", 1),
        ("status!=error", 2),
        ("duration<1h", 3),
        ("startedAt>1h", 3),
        ("startedAt<2020-01-01", 0),
        ("repository=example.com", 0),
    ] {
        assert_eq!(rows(&bench, &["--filter", filter]).len(), count, "{filter}");
    }
    assert_eq!(rows(&bench, &["--filter", "status=completed", "--filter", "duration>1h"]).len(), 0);
    bench.rbuild(&["builds", "ls", "--filter", "stats=x"]).fails(2, &["--filter", "did you mean status?"]);
    let table = bench.rbuild(&["buildx", "history", "ls"]).ok().stdout;
    assert!(table.starts_with("BUILD ID") && table.contains("ctx (one)"), "{table}");
    let template = bench.rbuild(&["builds", "ls", "--format", "{{.Name}}={{.Status}}"]).ok().stdout;
    assert_eq!(template, "ctx=Error\nctx (one)=Completed\nctx (one)=Completed\n");

    // As tools get it from the metadata file.
    let metadata: Value = serde_json::from_slice(&std::fs::read(&metadata).unwrap()).unwrap();
    let build = inspect(&bench, metadata["buildx.build.ref"].as_str().unwrap());
    assert_eq!(
        build["Ref"].as_str().unwrap(),
        metadata["buildx.build.ref"].as_str().unwrap().rsplit('/').next().unwrap()
    );
    assert_eq!((build["Target"].as_str(), build["Status"].as_str()), (Some("one"), Some("completed")));
    assert_eq!(build["BuildArgs"][0], serde_json::json!({"Name": "A", "Value": "b"}));
    assert_eq!(build["Labels"][0]["Value"], "m");
    assert_eq!(build["Images"][0]["Digest"], metadata["containerimage.digest"]);
    assert_eq!(build["Attachments"][0]["Digest"], metadata["containerimage.digest"]);
    assert_eq!(build["NumCompletedSteps"], build["NumTotalSteps"]);
    let failed = inspect(&bench, "^0");
    assert!(failed["Error"]["Message"].as_str().unwrap().contains("missing"), "{failed}");
    let why = bench.rbuild(&["builds", "inspect", "--format", "{{.Error.Name}}|{{.Error.Message}}"]).ok().stdout;
    assert!(why.contains("COPY missing /") && why.contains("|") && why.contains("\"/missing\""), "{why}");
    let pretty = bench.rbuild(&["builds", "inspect", "^1"]).ok().stdout;
    for text in ["Name:           ctx (one)", "Status:         Completed", "A     b", "app:1", "COPY Dockerfile"] {
        assert!(pretty.contains(text), "{text} in {pretty}");
    }
    // du counts them (B8.05); they go only with everything.
    let internal = |bench: &Bench| {
        bench
            .rbuild(&["du", "--filter", "type=internal", "--format", "json"])
            .ok()
            .stdout
            .matches("log and report")
            .count()
    };
    assert_eq!(internal(&bench), 3);
    bench.rbuild(&["prune", "--force"]).ok();
    assert_eq!(internal(&bench), 3);
    bench.rbuild(&["builds", "rm"]).fails(2, &["name the builds to forget"]);
    bench.rbuild(&["builds", "rm", "^0"]).ok();
    assert_eq!(rows(&bench, &[]).len(), 2);
    bench.rbuild(&["builds", "rm", "--all"]).ok();
    assert!(rows(&bench, &[]).is_empty());
    assert_eq!(internal(&bench), 0);
    bench.rbuild(&["builds", "open"]).fails(2, &["there is no Docker Desktop here"]);
}

fn attachment(bench: &Bench, args: &[&str]) -> Value {
    let all = [&["builds", "inspect", "attachment"], args].concat();
    serde_json::from_str(&bench.rbuild(&all).ok().stdout).unwrap()
}

// SPEC B8.07, B8.08, C8.12
#[test]
fn b8_07_records_keep_what_is_said_about_results() {
    let bench = Bench::new();
    bench.dockerfile("FROM scratch\nARG A\nCOPY Dockerfile /\n");
    let flags = ["--platform=linux/amd64,linux/arm64", "--sbom=generator=builtin", "--build-arg=A=b"];
    bench.build(&[&flags[..], &["-t", "app:1", "--provenance=mode=min"]].concat()).ok();
    let index = attachment(&bench, &["^0", "--type=index"]);
    let image = |n: usize| index["manifests"][n]["digest"].as_str().unwrap().to_owned();
    let arm = ["--platform=linux/arm64"];
    let manifest = attachment(&bench, &[&arm[..], &["--type=manifest"]].concat());
    assert_eq!(attachment(&bench, &["^0", &image(1)]), manifest, "by digest");
    let config = attachment(&bench, &[&arm[..], &["--type=image"]].concat());
    assert_eq!((&config["architecture"], &config["os"]), (&"arm64".into(), &"linux".into()));
    // The record has all that is known; what goes with the image is what was asked for.
    let full = attachment(&bench, &[&arm[..], &["--type=provenance"]].concat());
    let request = |statement: &Value| {
        statement["predicate"]["buildDefinition"]["externalParameters"]["request"]["args"]["build-arg:A"].clone()
    };
    assert_eq!(
        (full["predicateType"].as_str(), &request(&full)),
        (Some("https://slsa.dev/provenance/v1"), &"b".into())
    );
    let listed = inspect(&bench, "^0");
    let provenances: Vec<&Value> = listed["Attachments"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|a| a["Type"] == "https://slsa.dev/provenance/v1" && a["Platform"] == "linux/arm64")
        .collect();
    assert_eq!(provenances.len(), 2);
    let beside = attachment(&bench, &["^0", provenances[1]["Digest"].as_str().unwrap()]);
    assert_eq!(request(&beside), Value::Null);
    assert_eq!(beside["subject"][0]["digest"]["sha256"], image(1).trim_start_matches("sha256:"));
    assert_eq!(attachment(&bench, &["--type=sbom"])["predicateType"], "https://spdx.dev/Document");
    let pretty = bench.rbuild(&["builds", "inspect"]).ok().stdout;
    assert!(pretty.contains("\nAttachments:\nDIGEST") && pretty.contains("linux/arm64"), "{pretty}");

    // Files have none beside them, and the record still says how they came to be.
    bench.build(&["-o", "files"]).ok();
    let said = attachment(&bench, &["--type=https://slsa.dev/provenance/v1"]);
    assert_eq!(said["subject"], serde_json::json!([]));
    bench.rbuild(&["builds", "inspect", "attachment", "--type=index"]).fails(2, &["none of them is that"]);
    bench.rbuild(&["builds", "inspect", "attachment", "--type=idnex"]).fails(2, &["unknown type \"idnex\""]);
    bench.rbuild(&["builds", "inspect", "attachment", "^0", "x"]).fails(2, &["builds inspect attachment: "]);
    bench.rbuild(&["builds", "inspect", "attachment", "--platform=a/b/c/d"]).fails(2, &["--platform: "]);

    // They go along.
    bench.rbuild(&["builds", "export", "^1", "-o", "all.tgz"]).ok();
    let other = Bench::new();
    let bundle = bench.path("out/all.tgz");
    other.rbuild(&["builds", "import", bundle.to_str().unwrap()]).ok();
    assert_eq!(inspect(&other, "^0")["Attachments"], listed["Attachments"]);
    assert_eq!(attachment(&other, &["^0", "--type=provenance", arm[0]]), full);
    assert_eq!(attachment(&other, &["^0", "--type=index"]), index);
}

// SPEC B8.07
#[test]
fn b8_07_materials_are_told() {
    need_run!();
    let bench = Bench::new();
    bench.dockerfile("FROM busybox\n");
    bench.build(&[]).ok();
    let build = inspect(&bench, "^0");
    let material = &build["Materials"][0];
    assert!(material["URI"].as_str().unwrap().contains("busybox"), "{build}");
    assert!(material["Digests"][0].as_str().unwrap().starts_with("sha256:"), "{build}");
    assert!(bench.rbuild(&["builds", "inspect"]).ok().stdout.contains("\nMaterials:\nURI"));
}

// SPEC B8.08
#[test]
fn b8_08_logs_and_export() {
    need_run!();
    let bench = Bench::new();
    bench.dockerfile("FROM busybox\nRUN echo first; echo second >&2; exit 3\n");
    bench.build(&[]).fails(9, &["exit code: 3"]);
    let plain = bench.rbuild(&["builds", "logs"]).ok().stdout;
    let line = "Dockerfile:2\n--------------------\n   1 |     FROM busybox\n   2 | >>> RUN echo first;";
    for text in ["RUN echo first", " first\n", " second\n", "exit code: 3", line] {
        assert!(plain.contains(text), "{text:?} in {plain}");
    }
    let raw = bench.rbuild(&["buildx", "history", "logs", "^0", "--progress", "rawjson"]).ok().stdout;
    assert!(raw.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{raw}");
    assert!(raw.contains("\"logs\""), "{raw}");
    bench.rbuild(&["builds", "logs", "--progress", "tty"]).fails(2, &["standard error is not a terminal"]);
    let log =
        inspect(&bench, "^0")["Steps"].as_array().unwrap().iter().find_map(|s| s["Log"].as_str().map(str::to_owned));
    assert!(std::path::Path::new(&log.unwrap()).is_file());

    let bundle = bench.path("out/build.tgz");
    bench.rbuild(&["builds", "export", "--finalize", "-o", bundle.to_str().unwrap()]).ok();
    let dir = bench.path("out/bundle");
    std::fs::create_dir(&dir).unwrap();
    let unpacked = std::process::Command::new("tar").arg("-xzf").arg(&bundle).arg("-C").arg(&dir).status().unwrap();
    assert!(unpacked.success());
    let read = |path: &std::path::Path| -> Value { serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap() };
    let blob = |digest: &Value| dir.join("blobs/sha256").join(digest.as_str().unwrap().trim_start_matches("sha256:"));
    let manifest = read(&blob(&read(&dir.join("index.json"))["manifests"][0]["digest"]));
    assert_eq!(read(&blob(&manifest["layers"][0]["digest"]))["Status"], "error");
    let log = std::fs::read(blob(&manifest["layers"][2]["digest"])).unwrap();
    let log = String::from_utf8(zstd::decode_all(&log[..]).unwrap()).unwrap();
    assert!(log.contains("first\n") && log.contains("second\n"), "{log}");
}

// SPEC B8.08: what was exported is read by another store; what a record says of time becomes a trace.
#[test]
fn b8_08_import_and_trace() {
    need_run!();
    let bench = Bench::new();
    bench.dockerfile("FROM busybox\nRUN echo spoken; exit 3\n");
    bench.build(&[]).fails(9, &[]);
    let bundle = bench.path("out/build.tgz");
    bench.rbuild(&["builds", "export", "-o", bundle.to_str().unwrap()]).ok();
    let id = inspect(&bench, "^0")["Ref"].as_str().unwrap().to_owned();

    let other = Bench::new();
    other.dockerfile("FROM scratch\nCOPY Dockerfile /\n");
    other.build(&[]).ok();
    let run = other.rbuild(&["buildx", "history", "import", "-f", bundle.to_str().unwrap()]).ok();
    assert_eq!(run.stdout, format!("{id}\n"));
    assert_eq!(rows(&other, &[]).len(), 2);
    let taken = inspect(&other, &id);
    assert_eq!((&taken["Status"], &taken["Debug"]), (&"error".into(), &false.into()), "its layers stayed behind");
    assert!(other.rbuild(&["builds", "logs", &id]).ok().stdout.contains(" spoken\n"));
    let again = other.rbuild(&["builds", "import", bundle.to_str().unwrap()]).ok();
    assert!(again.stderr.contains("is here already") && again.stdout.is_empty(), "{}", again.stderr);
    std::fs::write(other.path("out/x.tgz"), "no archive").unwrap();
    other.rbuild(&["builds", "import", "x.tgz"]).fails(2, &["cannot read x.tgz"]);

    let chrome: Value = serde_json::from_str(&bench.rbuild(&["builds", "trace"]).ok().stdout).unwrap();
    let step = |e: &&Value| e["name"].as_str().unwrap().contains("RUN echo spoken");
    let step = chrome["traceEvents"].as_array().unwrap().iter().find(step).unwrap();
    assert_eq!((&step["ph"], &step["args"]["outcome"]), (&"X".into(), &"failed".into()));
    bench.rbuild(&["buildx", "history", "trace", &id, "--format=otlp", "-o", "t.json"]).ok();
    let spans = std::fs::read_to_string(bench.path("out/t.json")).unwrap();
    assert!(spans.contains("resourceSpans") && spans.contains("rbuild build") && spans.contains("RUN echo spoken"));
    bench.rbuild(&["builds", "trace", "--addr", "127.0.0.1:0"]).fails(2, &["--addr is not supported"]);
}

// SPEC C9.08
#[test]
fn c9_08_history_is_as_long_as_the_configuration_says() {
    let bench = Bench::new();
    bench.dockerfile("FROM scratch\nCOPY Dockerfile /\n");
    std::fs::write(bench.path("c.toml"), "[history]\nmaxEntries = 2\nmaxAge = 0\n").unwrap();
    let config = bench.path("c.toml").display().to_string();
    let context = bench.ctx().display().to_string();
    for _ in 0..4 {
        bench.rbuild(&["--config", &config, "build", &context]).ok();
    }
    assert_eq!(rows(&bench, &[]).len(), 2);
}

// SPEC B8.06: what a build did is known even if its process was killed.
#[test]
fn b8_06_a_record_survives_a_crash() {
    need_run!();
    let bench = Bench::new();
    bench.dockerfile("FROM busybox\nRUN echo before the end; sleep 1000\n");
    let mut child = bench.build_command(&[]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = std::io::BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains(" before the end") {
        line.clear();
        assert_ne!(std::io::BufRead::read_line(&mut said, &mut line).unwrap(), 0, "it ended");
    }
    assert_eq!(inspect(&bench, "^0")["Status"], "running");
    bench.rbuild(&["builds", "rm", "^0"]).fails(2, &["is under way"]);
    child.kill().unwrap();
    child.wait().unwrap();
    // The worker ends with its broker, but a moment later.
    while inspect(&bench, "^0")["Status"] == "running" {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let build = inspect(&bench, "^0");
    assert_eq!(build["Status"], "interrupted");
    assert!(build["Error"]["Message"].as_str().unwrap().contains("process ended"), "{build}");
    let step =
        build["Steps"].as_array().unwrap().iter().find(|s| s["Name"].as_str().unwrap().contains("sleep")).unwrap();
    assert!(step["StartedAt"].is_string() && step["CompletedAt"].is_null(), "{step}");
    bench.rbuild(&["builds", "logs"]).ok();
    bench.rbuild(&["builds", "rm", "^0"]).ok();
}

// SPEC A1.19, A5.16
#[test]
fn a5_16_a_failure_says_which_line_and_how_to_look_around() {
    need_run!();
    let bench = Bench::new();
    bench.dockerfile("FROM busybox\nRUN true && \\\n    echo said && \\\n    frobnicate --all && \\\n    true\n");
    let run = bench.build(&[]).fails(9, &["Dockerfile:4\n", "said\n", "the whole log of the step: "]);
    // The advice is for this store, as the build was.
    let advice =
        run.stderr.lines().find_map(|line| line.strip_prefix("to look around where it failed: rbuild ")).unwrap();
    assert!(advice.starts_with(&format!("--root {} debug ", bench.store().display())), "{advice}");
    assert!(run.stderr.contains("   4 | >>>     frobnicate --all && \\\n     |         ^^^^"), "{}", run.stderr);
}

// SPEC B8.11
#[test]
fn b8_11_debug_enters_the_failed_step() {
    need_run!();
    let bench = Bench::new();
    bench.rbuild(&["debug"]).fails(2, &["there is no failed step"]);
    bench.file("given", "from the context");
    bench.file("token", "very secret");
    bench.dockerfile(
        "FROM busybox AS other\nRUN echo from a stage > /it\nFROM busybox\n\
         RUN echo 'app:x:1000:1000::/tmp:/bin/sh' >> /etc/passwd\nENV A=b\nWORKDIR /work\nUSER app\n\
         RUN --mount=type=cache,target=/cache,uid=1000 --mount=from=other,source=/it,target=/other \\\n\
           --mount=target=/ctx --mount=type=secret,id=token,uid=1000 --mount=type=tmpfs,target=/scratch \\\n\
           echo kept > /cache/c && echo written > /tmp/w && cat /run/secrets/token > /dev/null && exit 3\n",
    );
    let token = format!("id=token,src={}", bench.ctx().join("token").display());
    bench.build(&["--secret", &token]).fails(9, &["exit code: 3", " debug "]);
    let look = "cat /cache/c /tmp/w /other /ctx/given; echo; pwd; echo $A; id -u; touch /new; \
                cat /run/secrets/token 2>/dev/null || echo no secret; exit 5";
    let run = bench.rbuild(&["debug", "--", "sh", "-c", look]);
    assert_eq!(run.code, 5, "{}", run.stderr);
    assert_eq!(
        run.stdout, "kept\nwritten\nfrom a stage\nfrom the context\n/work\nb\n1000\nno secret\n",
        "{}",
        run.stderr
    );
    assert!(run.stderr.contains("--secret id=token, which is not kept"), "{}", run.stderr);
    // With the secret again, as somebody else; and nothing of the first visit has stayed.
    let look = "cat /run/secrets/token; echo; id -u; ls /new";
    let run = bench.rbuild(&["debug", "--secret", &token, "--user", "root", "^0", "--", "sh", "-c", look]);
    assert_eq!(run.stdout, "very secret\n0\n");
    assert_ne!(run.code, 0);
    let journal =
        std::process::Command::new("grep").args(["-rl", "very secret"]).arg(bench.store().join("history")).output();
    assert!(journal.unwrap().stdout.is_empty(), "a secret is in the record");
    bench.rbuild(&["debug"]).fails(2, &["there is no terminal for a shell"]);
    bench.build(&["--on-error=shell"]).fails(2, &["--on-error=shell: there is no terminal"]);
    bench.build(&["--on-error=party"]).fails(2, &["--on-error"]);
}

// SPEC B8.11: failed steps do not fill the disk.
#[test]
fn b8_11_only_the_last_failed_steps_are_kept() {
    need_run!();
    let bench = Bench::new();
    let kept = |bench: &Bench| bench.rbuild(&["du", "--format", "json"]).ok().stdout.matches("failed: ").count();
    for n in 0..5 {
        bench.dockerfile(&format!("FROM busybox\nRUN echo {n} > /n; exit 1\n"));
        bench.build(&[]).fails(9, &["exit code: 1"]);
    }
    assert_eq!(kept(&bench), 3);
    assert_eq!(bench.rbuild(&["debug", "^2", "--", "cat", "/n"]).ok().stdout, "2\n");
    bench.rbuild(&["debug", "^3", "--", "cat", "/n"]).fails(2, &["was collected", "build it again"]);
    bench.rbuild(&["builds", "rm", "^0"]).ok();
    assert_eq!(kept(&bench), 2);
    bench.rbuild(&["prune", "--force"]).ok();
    assert_eq!(kept(&bench), 0);
}

// SPEC B8.11
#[test]
fn b8_11_a_shell_where_it_failed() {
    need_run!();
    let bench = Bench::new();
    bench.file("token", "very secret");
    bench.dockerfile("FROM busybox\nWORKDIR /work\nRUN --mount=type=secret,id=token echo written > made; exit 3\n");
    let token = format!("id=token,src={}", bench.ctx().join("token").display());
    let mut terminal = Terminal::start(bench.build_command(&["--on-error=shell", "--secret", &token]));
    terminal.wait_for("exit code: 3");
    terminal.wait_for("a shell where it failed");
    terminal.wait_for("/work # ");
    // What is typed is shown too, so what is waited for must not be in it.
    terminal.keys("cat made /run/secrets/token; tty; echo; echo $((40+2))\n");
    terminal.wait_for("written");
    terminal.wait_for("very secret");
    terminal.wait_for("42");
    terminal.keys("exit 0\n");
    assert_eq!(terminal.end(), 9, "the build has failed all the same");
    // Later, where the image has no shell.
    if !std::path::Path::new("/bin/busybox").exists() {
        skip!("no /bin/busybox (install busybox-static)");
    }
    bench.dockerfile(
        "FROM scratch\nCOPY --from=busybox /bin/busybox /program\nRUN [\"/program\", \"no-such-applet\"]\n",
    );
    bench.build(&[]).fails(9, &["exit code: 127"]);
    let mut terminal = Terminal::start(bench.command(["debug"]));
    terminal.wait_for("failed here: /program no-such-applet");
    terminal.wait_for("# ");
    // What is interrupted says so itself: before that the shell would be the one to be.
    terminal.keys("ls /; (echo $((40+2)); exec sleep 1000)\n");
    terminal.wait_for("program");
    terminal.wait_for("42");
    terminal.keys("\u{3}");
    // The interrupt is over when the shell asks again.
    terminal.wait_for("# ");
    terminal.keys("exit $((4+3))\n");
    assert_eq!(terminal.end(), 7);
}
