//! Little that becomes much: archives and layers that unpack to more than anybody wants, and a disk that is full.

use super::support::{self, Bench};
use super::{layout_of, raw_tar};
use crate::{need_run, skip};

/// Zeros that compress well, and a heap of empty files.
fn bombs() -> [(&'static str, Vec<u8>, &'static str); 2] {
    use tar::EntryType::Regular;
    let zeros = vec![0; 8 << 20];
    let names: Vec<String> = (0..3000).map(|n| format!("f{n}")).collect();
    let many: Vec<(&str, tar::EntryType, &str, &[u8])> =
        names.iter().map(|n| (n.as_str(), Regular, "", &b""[..])).collect();
    [
        (
            "zeros",
            raw_tar(&[("zeros", Regular, "", &zeros)]),
            "larger than 4194304 bytes (unpack.max-size in rbuild.toml)",
        ),
        ("files", raw_tar(&many), "more entries than the limit (unpack.max-entries in rbuild.toml)"),
    ]
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

fn xz(bench: &Bench, bytes: &[u8]) -> Option<Vec<u8>> {
    let path = bench.path("to-compress");
    std::fs::write(&path, bytes).unwrap();
    let output = std::process::Command::new("xz").args(["-c", "-0"]).arg(&path).output().ok()?;
    output.status.success().then_some(output.stdout)
}

/// A small file that unpacks to more than is allowed is refused with the limit's name, by ADD and as a layer; the store
/// goes on working.
#[test]
fn decompression_bombs_are_refused() {
    need_run!();
    let mut bench = Bench::new();
    let config = bench.path("rbuild.toml");
    std::fs::write(&config, "[unpack]\nmax-size = \"4m\"\nmax-entries = 1000\n").unwrap();
    bench.args.extend(["--config".into(), config.display().to_string()]);
    for (name, tar, wanted) in bombs() {
        let mut forms = vec![("gz", gzip(&tar)), ("zst", zstd::encode_all(&tar[..], 3).unwrap())];
        match xz(&bench, &tar) {
            Some(bytes) => forms.push(("xz", bytes)),
            None => eprintln!("skipped: bombs in xz (no xz)"),
        }
        for (form, bytes) in &forms {
            assert!(bytes.len() < 100_000, "{name}.{form} is no bomb");
            bench.file("bomb", bytes).dockerfile("FROM scratch\nADD bomb /x/\n");
            let run = bench.build(&[]);
            assert!(![0, 70].contains(&run.code) && run.stderr.contains(wanted), "ADD {name}.{form}: {}", run.stderr);
        }
        for (form, bytes) in &forms[..2] {
            let dir = bench.path("bomb-layout");
            let _ = std::fs::remove_dir_all(&dir);
            let kind = if *form == "gz" { "tar+gzip" } else { "tar+zstd" };
            layout_of(&dir, &[(bytes.clone(), kind, tar.clone())]);
            bench.dockerfile("FROM bomb\nRUN true\n");
            let context = format!("bomb=oci-layout://{}", dir.display());
            let run = bench.build(&["--build-context", &context]);
            assert!(![0, 70].contains(&run.code) && run.stderr.contains(wanted), "layer {name}.{form}: {}", run.stderr);
        }
    }
    std::fs::remove_file(&config).unwrap();
    bench.args.truncate(bench.args.len() - 2);
    bench.dockerfile("FROM scratch\nADD bomb /x/\nFROM busybox\nRUN true\n");
    bench.build(&[]).ok();
    let used: u64 = walk(&bench.store());
    assert!(used < 64 << 20, "the bombs left {used} bytes in the store");
}

/// Bytes of the files below a directory, as far as they can be seen.
fn walk(dir: &std::path::Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => walk(&entry.path()),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        })
        .sum()
}

/// A step that fills the disk fails with the reason, and the store is usable afterwards.
#[test]
fn a_full_disk_has_a_name_and_passes() {
    need_run!();
    if !rustix::process::geteuid().is_root() {
        skip!("a small file system for the store needs root");
    }
    for rung in super::rungs() {
        fill(rung);
    }
}

fn fill(rung: &str) {
    let bench = Bench::new();
    let disk = bench.path("disk");
    std::fs::create_dir(&disk).unwrap();
    std::fs::write(bench.ctx().join("full"), "FROM busybox\nRUN dd if=/dev/zero of=/big bs=1M count=200\n").unwrap();
    bench.dockerfile("FROM busybox\nRUN echo fine > /fine\n");
    let busybox = support::bases().unwrap().join("busybox");
    let build = format!(
        "{} --root {}/store build --progress plain --isolation {rung} --build-context busybox=oci-layout://{} -o type=cacheonly {}",
        support::rbuild_path().display(),
        disk.display(),
        busybox.display(),
        bench.ctx().display()
    );
    let script = format!(
        "mount -t tmpfs -o size=48m none {0} || exit 99\n\
         {build} -f {1}/full; echo \"RESULT full $?\"\n{build}; echo \"RESULT fine $?\"\n\
         {build} -f {1}/full > /dev/null 2>&1; {build} --no-cache; echo \"RESULT again $?\"\n",
        disk.display(),
        bench.ctx().display()
    );
    let output = std::process::Command::new("unshare").args(["-m", "sh", "-c", &script]).output().unwrap();
    let run = support::finish(output);
    if run.code == 99 {
        skip!("no tmpfs can be mounted here");
    }
    assert!(run.stdout.contains("RESULT full 9"), "{}\n{}", run.stdout, run.stderr);
    assert!(run.stderr.contains("No space left on device"), "{}", run.stderr);
    assert!(
        run.stdout.contains("RESULT fine 0") && run.stdout.contains("RESULT again 0"),
        "{}\n{}",
        run.stdout,
        run.stderr
    );
}
