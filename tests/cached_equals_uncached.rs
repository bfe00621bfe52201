//! The safety net: random multi-stage Dockerfiles and random edits, built with the cache and without, on overlay and
//! native snapshots. Type, mode, ids, xattrs, content and config must be equal (SPEC C4, PAIN 54–63).
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::print_stderr, reason = "skip reasons are collected by scripts/test")]
#![allow(missing_docs, unreachable_pub, reason = "a test program")]
#![allow(clippy::type_complexity, reason = "shapes are compared, not kept")]

mod support;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt as _;

use support::Bench;
use support::image::Image;

/// A small deterministic generator (splitmix64), so that a failure can be repeated from its seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[usize::try_from(self.roll(from.len() as u64)).unwrap()]
    }
}

const FILES: &[&str] = &["a", "b", "d/c", "d/e", "d/deep/f"];

fn instruction(dice: &mut Dice, stages: usize) -> String {
    let file = dice.pick(FILES);
    let n = dice.roll(4);
    match dice.roll(16) {
        0 => format!("COPY {file} /x{n}"),
        1 => format!("COPY d /dir{n}"),
        2 => format!("COPY . /all{n}/"),
        3 => format!("COPY --chown={n}:7 --chmod=640 {file} /owned/"),
        4 => "COPY *a d/* /glob/".into(),
        5 if stages > 0 => format!("COPY --from={} /etc /etc{n}", dice.roll(stages as u64)),
        6 if stages > 0 => format!("COPY --from=s{} /bin/busybox /tool{n}", dice.roll(stages as u64)),
        7 => format!("RUN echo $V {n} > /run{n}"),
        8 => format!("RUN rm -rf /x{n} /dir{n}/c; mkdir -p /m{n} && ln -sf ../x{n} /m{n}/l"),
        9 => format!("RUN for f in /dir* /x*; do [ -e $f ] && chmod 7{n}5 $f; done; true"),
        10 => format!("RUN [ -d /dir{n} ] && mv /dir{n} /moved{n} || mkdir -p /moved{n}/e; true"),
        11 => format!("RUN --mount=type=bind,source=d,target=/mnt cat /mnt/* > /cat{n} 2>/dev/null; true"),
        12 => format!("ENV E{n}={}", dice.roll(3)),
        13 => format!("WORKDIR /w{n}"),
        14 => format!("COPY --link {file} /linked{n}/"),
        _ => format!("RUN ln /bin/busybox /hard{n} 2>/dev/null; chown {n}:{n} /etc/group; true"),
    }
}

fn dockerfile(dice: &mut Dice) -> String {
    let mut text = String::new();
    let stages = 1 + usize::try_from(dice.roll(3)).unwrap();
    for stage in 0..stages {
        let base =
            if stage > 0 && dice.roll(3) == 0 { format!("s{}", dice.roll(stage as u64)) } else { "busybox".into() };
        let _ = writeln!(text, "FROM {base} AS s{stage}\nARG V=0");
        for _ in 0..=dice.roll(4) {
            let _ = writeln!(text, "{}", instruction(dice, stage));
        }
    }
    text
}

fn edit(dice: &mut Dice, bench: &Bench, arg: &mut u64) -> String {
    let name = dice.pick(FILES);
    let path = bench.ctx().join(name);
    let what = dice.roll(9);
    if matches!(what, 0 | 7) {
        // An earlier edit may have made it read-only, which only root can write to.
        let mode = path.metadata().unwrap().permissions().mode();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode | 0o200)).unwrap();
    }
    match what {
        0 => {
            // Same size, same modification time, other content.
            let before = path.metadata().ok();
            std::fs::write(&path, format!("{:08}", dice.roll(100_000_000))).unwrap();
            if let Some(time) = before.and_then(|m| m.modified().ok()) {
                std::fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
            }
            format!("content of {name}, same size and mtime")
        }
        1 => {
            let mode = [0o644, 0o755, 0o600, 0o444][usize::try_from(dice.roll(4)).unwrap()];
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            format!("mode of {name}")
        }
        2 => {
            std::fs::rename(&path, bench.ctx().join("moved")).unwrap();
            std::fs::write(&path, format!("{:08}", dice.roll(1000))).unwrap();
            format!("{name} renamed and made again")
        }
        3 => {
            let link = bench.ctx().join("d/link");
            let _ = std::fs::remove_file(&link);
            std::os::unix::fs::symlink(dice.pick(FILES), link).unwrap();
            "a symlink".into()
        }
        4 => {
            *arg += 1;
            "a build argument".into()
        }
        5 => {
            std::fs::write(
                bench.ctx().join(".dockerignore"),
                dice.pick(&["", "d/deep\n", "**/e\n", "*\n!a\n!b\n!d\n", "moved\nextra\n"]),
            )
            .unwrap();
            "the ignore file".into()
        }
        6 => {
            let extra = bench.ctx().join("d/extra");
            if extra.exists() {
                std::fs::remove_file(extra).unwrap()
            } else {
                std::fs::write(extra, "new").unwrap()
            }
            "a file came or went".into()
        }
        7 => {
            let touched = std::fs::File::options().append(true).open(&path).unwrap();
            touched
                .set_modified(
                    std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(dice.roll(1_000_000_000)),
                )
                .unwrap();
            format!("mtime of {name}")
        }
        _ => "nothing".into(),
    }
}

type Shape = BTreeMap<String, (char, u32, u64, u64, Vec<u8>, String, BTreeMap<String, Vec<u8>>)>;

fn shape(image: &Image) -> (Shape, serde_json::Value, Vec<Vec<String>>) {
    let tree = image
        .tree()
        .into_iter()
        .map(|(p, n)| (p, (n.kind, n.mode, n.uid, n.gid, n.content, n.link, n.xattrs)))
        .collect();
    let mut config = image.config.clone();
    for key in ["created", "rootfs"] {
        config.as_object_mut().unwrap().remove(key);
    }
    for entry in config["history"].as_array_mut().unwrap() {
        entry.as_object_mut().unwrap().remove("created");
    }
    let layers = image.layers.iter().map(|l| l.iter().map(|(p, _)| p.clone()).collect()).collect();
    (tree, config, layers)
}

/// The layers `FROM busybox` brings are the same everywhere and need not be compared.
fn build(bench: &Bench, store: &str, args: &[&str], arg: u64) -> Result<Image, String> {
    let tar = bench.path("p.tar");
    let _ = std::fs::remove_file(&tar);
    let (out, value) = (format!("type=oci,dest={},compression=uncompressed", tar.display()), format!("V={arg}"));
    let mut all = vec!["-o", out.as_str(), "--build-arg", value.as_str()];
    all.extend(args);
    let mut command = bench.build_command(&all);
    command.arg("--root").arg(bench.path(store));
    let run = support::finish(command.output().unwrap());
    if run.code == 0 { Ok(Image::open_tar(&tar)) } else { Err(format!("exit code {}", run.code)) }
}

fn one(seed: u64) -> Result<u64, String> {
    let mut dice = Dice(seed);
    let bench = Bench::new();
    for (i, name) in FILES.iter().enumerate() {
        bench.file(name, format!("{i:08}"));
    }
    let text = dockerfile(&mut dice);
    bench.dockerfile(&text);
    let (mut arg, mut runs, mut log) = (0, 0, String::new());
    for round in 0..3 {
        if round > 0 {
            let _ = writeln!(log, "edit: {}", edit(&mut dice, &bench, &mut arg));
        }
        let cached = build(&bench, "store-overlay", &["--snapshotter", "overlay"], arg);
        let plain = build(&bench, "store-overlay", &["--snapshotter", "overlay", "--no-cache"], arg);
        // The first store keeps its cache from the cached build's point of view: a third store checks the other snapshotter.
        let native = build(&bench, "store-native", &["--snapshotter", "native"], arg);
        runs += 1;
        let context = || format!("seed {seed}, round {round}\n{log}{text}");
        match (cached, plain, native) {
            (Ok(cached), Ok(plain), Ok(native)) => {
                let (mut a, mut b, c) = (shape(&cached), shape(&plain), shape(&native));
                if round == 0 && a.2 != c.2 {
                    return Err(format!(
                        "overlay and native have other entries in their layers: {}\n{}",
                        difference(&a, &c),
                        context()
                    ));
                }
                // What is in which layer may differ later: modification times are not part of keys, and an entry equal to
                // its parent's is left out.
                a.2.clear();
                b.2.clear();
                let c = (c.0, c.1, Vec::new());
                if a != b {
                    return Err(format!("cached and uncached differ: {}\n{}", difference(&a, &b), context()));
                }
                if a != c {
                    return Err(format!("overlay and native differ: {}\n{}", difference(&a, &c), context()));
                }
            }
            (Err(a), Err(b), Err(c)) if a == b && b == c => {}
            (a, b, c) => {
                let words = [a, b, c].map(|r| r.map_or_else(|e| e, |_| "built".into()));
                return Err(format!("cached, uncached, native: {words:?}\n{}", context()));
            }
        }
    }
    Ok(runs)
}

fn difference(
    a: &(Shape, serde_json::Value, Vec<Vec<String>>),
    b: &(Shape, serde_json::Value, Vec<Vec<String>>),
) -> String {
    for path in a.0.keys().chain(b.0.keys()) {
        if a.0.get(path) != b.0.get(path) {
            let show = |n: Option<&(char, u32, u64, u64, Vec<u8>, String, BTreeMap<String, Vec<u8>>)>| {
                n.map(|n| {
                    (
                        n.0,
                        format!("{:o}", n.1),
                        n.2,
                        n.3,
                        String::from_utf8_lossy(&n.4[..n.4.len().min(60)]).into_owned(),
                        n.5.clone(),
                        n.6.clone(),
                    )
                })
            };
            return format!("{path}: {:?} against {:?}", show(a.0.get(path)), show(b.0.get(path)));
        }
    }
    if a.1 != b.1 {
        return format!("config {} against {}", a.1, b.1);
    }
    format!("layers {:?} against {:?}", a.2, b.2)
}

#[test]
fn cached_equals_uncached() {
    need_run!();
    let long = std::env::var("RBUILD_TEST_LONG").is_ok_and(|v| !v.is_empty());
    let wanted: u64 = if long { 2000 } else { 300 };
    let first: u64 = std::env::var("RBUILD_TEST_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(1);
    let next = std::sync::atomic::AtomicU64::new(first);
    let done = std::sync::atomic::AtomicU64::new(0);
    let failures = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while done.load(std::sync::atomic::Ordering::Relaxed) < wanted && failures.lock().unwrap().is_empty() {
                    match one(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
                        Ok(runs) => {
                            done.fetch_add(runs, std::sync::atomic::Ordering::Relaxed);
                        }
                        Err(why) => failures.lock().unwrap().push(why),
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
    eprintln!("compared {} builds", done.into_inner());
}
