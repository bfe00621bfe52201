//! `rbuild doctor`: what was tried, the rung, and what lifts each obstacle, as text and as JSON (DESIGN 7).
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::print_stderr, reason = "skip reasons are collected by scripts/test")]
#![allow(missing_docs, unreachable_pub, reason = "a test program")]

mod support;

use std::process::Command;

use serde_json::Value;
use support::{Bench, Run};

/// What doctor says behind another program, e.g. one that takes something away.
fn behind(bench: &Bench, before: &[&str], args: &[&str]) -> Run {
    let plain = bench.command([&["doctor"], args].concat());
    let mut command = Command::new(before[0]);
    command.args(&before[1..]).arg(plain.get_program()).args(plain.get_args());
    for (name, value) in plain.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    support::finish(command.output().unwrap())
}

fn json(run: &Run) -> Value {
    serde_json::from_str(&run.stdout).unwrap_or_else(|e| panic!("{e}: {}", run.stdout))
}

/// The blockers of a rung as `what: remedy`.
fn blockers(report: &Value, rung: &str) -> String {
    let rungs = report["rungs"].as_array().unwrap();
    let found = rungs.iter().find(|r| r["rung"] == rung).unwrap();
    let blockers = found["blockers"].as_array().unwrap();
    let text = |b: &Value| {
        assert!(!b["evidence"].as_str().unwrap().is_empty(), "{b}");
        format!("{}: {}", b["what"].as_str().unwrap(), b["remedy"].as_str().unwrap())
    };
    blockers.iter().map(text).collect::<Vec<_>>().join("\n")
}

// SPEC C5.19
#[test]
fn every_operation_and_every_rung_is_told() {
    let bench = Bench::new();
    let report = json(&bench.rbuild(&["doctor", "--format", "json"]));
    let operations = report["operations"].as_array().unwrap();
    assert!(operations.len() >= 12, "{operations:#?}");
    for operation in operations {
        let works = operation["works"].as_bool().unwrap();
        assert_eq!(works, operation["evidence"] == "performed", "{operation}");
    }
    let names: Vec<&str> = report["rungs"].as_array().unwrap().iter().map(|r| r["rung"].as_str().unwrap()).collect();
    assert_eq!(names, ["root", "userns", "userns-one", "chroot", "ptrace", "none"]);
    // What does not work says why, and what helps; the best that works is the one in use.
    for rung in report["rungs"].as_array().unwrap() {
        assert_eq!(rung["works"].as_bool().unwrap(), rung["blockers"].as_array().unwrap().is_empty(), "{rung}");
    }
    let text = bench.rbuild(&["doctor"]).stdout;
    assert!(text.contains("what works here (each was performed):"), "{text}");
    assert!(text.contains(&format!("isolation: {}\n", report["rung"].as_str().unwrap())), "{text}");
    for operation in operations {
        assert!(text.contains(operation["name"].as_str().unwrap()), "{operation}: {text}");
    }
}

// SPEC C5.19
#[test]
fn remedies_are_those_of_what_is_in_the_way() {
    if rustix::process::geteuid().is_root() {
        skip!("root has other ways");
    }
    let bench = Bench::new();
    let plain = json(&bench.rbuild(&["doctor", "--format", "json"]));
    if plain["rung"] != "userns" {
        skip!("needs a user with subordinate ids");
    }
    let said = json(&behind(&bench, &["setpriv", "--no-new-privs"], &["--format", "json"]));
    assert_eq!(said["rung"], "userns-one");
    let text = blockers(&said, "userns");
    assert!(
        text.contains("no_new_privs is set") && text.contains("securityContext.allowPrivilegeEscalation: true"),
        "{text}"
    );
    // A user namespace has its own value of this setting.
    let off = "echo 0 > /proc/sys/user/max_user_namespaces && exec \"$@\"";
    let run = behind(&bench, &["unshare", "--map-root-user", "sh", "-c", off, "sh"], &["--format", "json"]);
    if run.stdout.is_empty() {
        skip!("no user namespaces for this test: {}", run.stderr);
    }
    let said = json(&run);
    let text = blockers(&said, "userns-one");
    assert!(text.contains("user namespaces are switched off: sudo sysctl -w user.max_user_namespaces=15000"), "{text}");
    let run = behind(&bench, &["unshare", "--map-root-user", "sh", "-c", off, "sh"], &[]);
    for wanted in ["✗ a user namespace: ", "evidence: ", "remedy:   sudo sysctl -w user.max_user_namespaces=15000"] {
        assert!(run.stdout.contains(wanted), "{wanted}: {}", run.stdout);
    }
    // Not in the range of anybody else.
    let text = blockers(&said, "userns");
    let free = std::fs::read_to_string("/etc/subuid")
        .unwrap_or_default()
        .lines()
        .filter_map(|l| {
            let mut fields = l.split(':').skip(1).map(|f| f.parse::<u32>().unwrap());
            Some(fields.next()? + fields.next()?)
        })
        .fold(100_000, u32::max);
    if text.contains("in /etc/subuid") {
        assert!(
            text.contains(&format!("{free}-{}", free + 65535)) || text.contains(&format!(":{free}:65536")),
            "{text}"
        );
    }
}
