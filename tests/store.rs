//! Commands on the store: images, du, prune, system reset, unshare, version, doctor.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::print_stderr, reason = "skip reasons are collected by scripts/test")]
#![allow(missing_docs, unreachable_pub, reason = "a test program")]

mod support;

use support::Bench;

// SPEC C4.11
#[test]
fn b8_03_du_agrees_with_the_disk_and_b8_04_prune_frees_it() {
    need_run!();
    let bench = Bench::new();
    bench.dockerfile("FROM busybox\nRUN --mount=type=cache,target=/c dd if=/dev/zero of=/big bs=1M count=8 2>/dev/null; echo x > /c/x\n");
    bench.build(&["-t", "keep:1"]).ok();
    bench.dockerfile("FROM busybox\nRUN dd if=/dev/urandom of=/other bs=1M count=8 2>/dev/null\n");
    bench.build(&[]).ok();
    let usage = || -> serde_json::Value {
        serde_json::from_str(&bench.rbuild(&["du", "--format", "json"]).ok().stdout).unwrap()
    };
    let total =
        |usage: &serde_json::Value| usage.as_array().unwrap().iter().map(|r| r["Size"].as_u64().unwrap()).sum::<u64>();
    let before = usage();
    let output = bench.rbuild(&["unshare", "du", "-s", "-B1", &bench.store().display().to_string()]).ok().stdout;
    let real: u64 = output.split_whitespace().next().unwrap().parse().unwrap();
    let counted = total(&before);
    assert!(counted.abs_diff(real) < real / 50 + 200_000, "du says {real}, rbuild du says {counted}");
    assert!(before.as_array().unwrap().iter().any(|r| r["Type"] == "exec.cachemount"), "B8.05: {before}");
    let fields =
        ["ID", "Type", "Description", "Size", "CreatedAt", "UsageCount", "InUse", "Mutable", "Shared", "Parents"];
    for record in before.as_array().unwrap() {
        assert!(fields.iter().all(|field| record.get(field).is_some()), "C4.11: {record}");
    }
    // B8.03: for scripts, too.
    let template = ["du", "--filter", "type=exec.cachemount", "--format", "{{.Type}}"];
    assert_eq!(bench.rbuild(&template).ok().stdout, "exec.cachemount\n");
    assert!(bench.rbuild(&["du", "--format", "pretty"]).ok().stdout.contains("Usage count:"));
    bench.rbuild(&["du", "--format", "{{.Sise}}"]).fails(2, &["--format", "does not exist"]);
    bench.rbuild(&["prune"]).fails(2, &["--force"]);
    bench.rbuild(&["prune", "--force"]).ok();
    assert!(total(&usage()) + 7_000_000 < counted, "nothing was freed");
    assert!(bench.rbuild(&["images"]).ok().stdout.contains("keep"), "a tagged image stays");
    bench.dockerfile("FROM keep:1\nRUN test -s /big\n");
    bench.build(&[]).ok();
}

#[test]
fn a_reset_leaves_nothing_and_asks_first() {
    need_run!();
    let bench = Bench::new();
    bench.dockerfile("FROM busybox\nRUN echo x > /x && chown 55:66 /x\n");
    bench.build(&[]).ok();
    bench.rbuild(&["system", "reset"]).fails(2, &["--force"]);
    bench.rbuild(&["system", "reset", "--force"]).ok();
    assert!(!bench.store().join("meta.db").exists());
    bench.build(&[]).ok();
}

/// A build's process makes the store durable after its command has ended.
// SPEC C4.11
#[test]
fn a_build_that_has_ended_is_in_nobodys_way() {
    need_run!();
    let bench = Bench::new();
    for round in 0..4 {
        bench.dockerfile(&format!("FROM busybox\nRUN echo {round} > /x\n"));
        bench.build(&[]).ok();
        bench.rbuild(&["prune", "--force"]).ok();
        let left: Vec<_> = std::fs::read_dir(bench.store().join("tmp")).unwrap().flatten().map(|e| e.path()).collect();
        assert!(left.is_empty(), "{left:?}");
        bench.build(&[]).ok();
        bench.rbuild(&["system", "reset", "--force"]).ok();
        assert!(!bench.store().join("VERSION").exists());
    }
}

#[test]
fn version_and_help_need_no_store() {
    let bench = Bench::new();
    assert!(bench.rbuild(&["version"]).ok().stdout.starts_with("rbuild "));
    assert!(bench.rbuild(&["--help"]).ok().stdout.contains("Build an image from a Dockerfile"));
    let help = bench.rbuild(&["build", "--help"]).ok().stdout;
    for heading in ["What to build:", "Where the result goes:", "Cache:", "RUN steps:", "Messages:"] {
        assert!(help.contains(heading), "{help}");
    }
    assert!(!bench.store().exists());
}

#[test]
fn without_namespaces_the_build_says_what_is_missing_and_copies_still_work() {
    let bench = Bench::new();
    bench.file("f", "x").dockerfile("FROM busybox\nRUN true\n");
    if support::bases().is_err() {
        skip!("no base images; run scripts/setup");
    }
    bench.build(&["--isolation", "none"]).fails(10, &["this machine does not allow RUN steps", "Dockerfile:2"]);
    bench.dockerfile("FROM scratch\nCOPY f /f\nENV A=b\n");
    let image = bench.build_image(&["--isolation", "none", "--snapshotter", "native"]);
    assert_eq!(image.text("f"), "x");
    bench.build(&["--isolation", "nonsense"]).fails(2, &["nonsense"]);
}

/// Records of `du`.
fn usage(bench: &Bench, args: &[&str]) -> Vec<serde_json::Value> {
    let run = bench.rbuild(&[&["du", "--format", "json"], args].concat()).ok();
    serde_json::from_str(&run.stdout).unwrap()
}

// SPEC B8.03, C9.07: the fields of a record, what they say, and both spellings.
#[test]
fn c9_07_a_record_says_what_it_is_and_how_it_was_used() {
    need_run!();
    let bench = Bench::new();
    bench.dockerfile(
        "FROM busybox\nRUN --mount=type=cache,target=/c echo x > /c/x; echo 1 > /one\nRUN cat /one > /two\n",
    );
    bench.build(&["-t", "kept:1"]).ok();
    bench.build(&[]).ok();
    let records = usage(&bench, &[]);
    let find = |kind: &str, text: &str| {
        let found = records.iter().find(|r| r["Type"] == kind && r["Description"].as_str().unwrap().contains(text));
        found.unwrap_or_else(|| panic!("no {kind} with {text} in {records:?}")).clone()
    };
    let fields = [
        "ID",
        "Type",
        "Description",
        "Size",
        "Reclaimable",
        "CreatedAt",
        "LastUsedAt",
        "UsageCount",
        "InUse",
        "Mutable",
        "Shared",
        "Parents",
    ];
    for record in &records {
        let have: Vec<&str> = record.as_object().unwrap().keys().map(String::as_str).collect();
        assert!(fields.iter().all(|field| have.contains(field)), "{record}");
        assert!(record["CreatedAt"].as_str().unwrap() <= record["LastUsedAt"].as_str().unwrap(), "{record}");
    }
    let (mount, top, below) = (find("exec.cachemount", "/c"), find("regular", "cat /one"), find("regular", "echo 1"));
    assert!(mount["Mutable"] == true && mount["Reclaimable"] == true && mount["InUse"] == false, "{mount}");
    assert!(top["Mutable"] == false && top["Size"].as_u64().unwrap() > 0, "{top}");
    assert!(top["UsageCount"].as_u64().unwrap() >= 1, "{top}");
    assert_eq!(top["Parents"].as_array().unwrap().last(), Some(&below["ID"]));
    // One record below the other, and the totals.
    let verbose = bench.rbuild(&["du", "--verbose", "--filter", "type=exec.cachemount"]).ok().stdout;
    bench.rbuild(&["du", "--verbose", "--format=json"]).fails(2, &["cannot be used with"]);
    for title in [
        "ID:",
        "Type:",
        "Description:",
        "Size:",
        "Reclaimable:",
        "Created at:",
        "Last used:",
        "Usage count:",
        "Parents:",
        "Shared:",
        "Private:",
        "Total:",
    ] {
        assert!(verbose.contains(title), "{title} in {verbose}");
    }
    // As docker's plugin spells it.
    let buildx = |args: &[&str]| bench.rbuild(&[&["buildx"], args].concat()).ok().stdout;
    assert_eq!(
        buildx(&["du", "--filter", "type=exec.cachemount", "--format", "{{.ID}}"]).trim(),
        mount["ID"].as_str().unwrap()
    );
    assert!(buildx(&["du"]).contains("Reclaimable:"));
    assert!(buildx(&["ls"]).contains("rbuild") || buildx(&["ls"]).contains("default"), "{}", buildx(&["ls"]));
    assert!(buildx(&["version"]).contains(env!("CARGO_PKG_VERSION")));
}

// SPEC B8.04, C9.06: limits of a collection by hand: the least recently used goes first, until the limit is kept.
#[test]
fn c9_06_prune_stops_at_its_limit_and_takes_the_oldest_first() {
    need_run!();
    let bench = Bench::new();
    let mega = |n: u32| format!("FROM busybox\nRUN head -c 2000000 /dev/urandom > /f{n}\n");
    let made = |bench: &Bench| -> Vec<u32> {
        let records = usage(bench, &["--filter", "type=regular"]);
        let has = |n: &u32| records.iter().any(|r| r["Description"].as_str().unwrap().ends_with(&format!("/f{n}")));
        (1..=3).filter(has).collect()
    };
    for n in 1..=3 {
        bench.dockerfile(&mega(n));
        bench.build(&[]).ok();
    }
    // The first is used again, so the second has been idle for longest.
    bench.dockerfile(&mega(1));
    bench.build(&[]).ok();
    assert_eq!(made(&bench), [1, 2, 3]);
    let total: u64 = usage(&bench, &[]).iter().map(|r| r["Size"].as_u64().unwrap()).sum();
    let prune = |args: &[&str]| bench.rbuild(&[&["buildx", "prune", "-f"], args].concat()).ok().stdout;
    // What is below a limit already stays; so does what is young, and what is reserved.
    for args in
        [["--max-used-space", "10gb"], ["--min-free-space", "1"], ["--keep-duration", "1h"], ["--keep-storage", "10gb"]]
    {
        assert!(prune(&args).contains("Total:"), "{args:?}");
        assert_eq!(made(&bench), [1, 2, 3], "{args:?}");
    }
    prune(&["--max-used-space", &(total - 1_000_000).to_string()]);
    assert_eq!(made(&bench), [1, 3]);
    prune(&["--max-used-space", "1", "--reserved-space", &total.to_string()]);
    assert_eq!(made(&bench), [1, 3]);
    // Records of builds go with everything only.
    let histories =
        || usage(&bench, &["--filter", "type=internal"]).iter().filter(|r| r["Reclaimable"] == true).count();
    prune(&[]);
    assert_eq!(made(&bench), [0_u32; 0]);
    assert!(histories() > 0);
    assert!(prune(&["--all", "--verbose"]).contains("Type:"));
    assert_eq!(histories(), 0);
    bench.rbuild(&["prune", "--force", "--keep-duration", "soon"]).fails(2, &["--keep-duration", "soon"]);
    bench.rbuild(&["prune", "--force", "--max-used-space", "much"]).fails(2, &["--max-used-space", "much"]);
}
