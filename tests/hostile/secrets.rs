//! Where a secret must not be when a build has had it: anywhere but in the step.

use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::Command;

use super::{Bench, rungs, support};
use crate::need_run;

/// Files below `dir` that have these bytes, as they are or compressed.
fn with(dir: &Path, bytes: &str) -> String {
    let search = "grep -rlaF -- \"$1\" \"$2\"; find \"$2\" -name '*.zst' | while read -r f; do zstdcat \"$f\" | grep -qaF -- \"$1\" && echo \"$f\"; done; true";
    let found = Command::new("sh").args(["-c", search, "sh", bytes]).arg(dir).output().unwrap();
    assert!(found.status.success(), "{}", String::from_utf8_lossy(&found.stderr));
    String::from_utf8(found.stdout).unwrap()
}

/// Steps that end well, fail, and crash with a memory dump allowed; records, provenance, logs, layers and everything that is printed.
#[test]
fn secrets_are_in_no_record_and_no_memory_dump() {
    need_run!();
    const SECRET: &str = "CANARY-IN-A-RECORD";
    for rung in rungs() {
        let bench = Bench::new();
        std::fs::write(bench.path("token"), SECRET).unwrap();
        let mounts = "--mount=type=secret,id=t --mount=type=secret,id=t,env=TOKEN";
        // Not printed, but in memory, in the environment and in a variable.
        let uses = "[ \"$(cat /run/secrets/t)\" = \"$TOKEN\" ]";
        let secret = format!("id=t,src={}", bench.path("token").display());
        let (tar, told) = (bench.path("o.tar"), bench.path("told.json"));
        let out = format!("type=oci,compression=uncompressed,dest={}", tar.display());
        let told_flag = told.display().to_string();
        let args = [
            "--isolation",
            rung,
            "--secret",
            &secret,
            "-o",
            &out,
            "--provenance=mode=max",
            "--metadata-file",
            &told_flag,
            "--progress",
            "rawjson",
            "--debug",
        ];
        let crash =
            format!("RUN {mounts} {uses} && cd /tmp && sh -c ': $TOKEN; kill -SEGV $$'; [ -z \"$(ls -A /tmp)\" ]");
        bench.dockerfile(&format!("FROM busybox\n{crash}\nRUN {mounts} {uses} && echo fine > /fine\n"));
        let command = bench.build_command(&args);
        // Where memory dumps are allowed, as on many machines of CI.
        let mut limited = Command::new("sh");
        limited.args(["-c", "ulimit -c unlimited 2>/dev/null; exec \"$@\"", "sh"]);
        limited.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => limited.env(name, value),
                None => limited.env_remove(name),
            };
        }
        limited.current_dir(command.get_current_dir().unwrap_or(Path::new("/")));
        let output = limited.output().unwrap();
        assert_eq!(output.status.signal(), None);
        let run = support::finish(output);
        if run.stderr.contains("does not work here") {
            eprintln!("skipped: no isolation {rung} here");
            continue;
        }
        let run = run.ok();
        bench.dockerfile(&format!("FROM busybox\nRUN {mounts} {uses} && (sh -c ': $TOKEN; kill -SEGV $$'; exit 3)\n"));
        let failed = bench.build(&args);
        assert_ne!(failed.code, 0, "{rung}: {}", failed.stderr);
        for run in [&run, &failed] {
            assert!(!run.stderr.contains(SECRET) && !run.stdout.contains(SECRET), "{rung}: {}", run.stderr);
        }
        std::fs::remove_file(bench.path("token")).unwrap();
        for place in [bench.store(), tar, told, bench.path("home")] {
            assert_eq!(with(&place, SECRET), "", "{rung}");
        }
    }
}
