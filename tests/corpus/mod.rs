//! The corpus: Dockerfiles of one behaviour each, with what must come of them. `case` has its form, `show` how images
//! are written down, `buildah` the comparison with another builder, `book` what is written elsewhere.

pub mod book;
pub mod buildah;
pub mod case;
pub mod show;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use self::case::{Case, Peer};
use crate::support::image::{Image, Node};
use crate::support::{self, Bench, Run};

/// What every case may start from.
pub struct Base {
    image: Option<Image>,
    tree: BTreeMap<String, Node>,
}

impl Base {
    fn busybox() -> Self {
        let image = support::bases().ok().map(|bases| Image::open_dir(&bases.join("busybox")));
        let tree = image.as_ref().map(show::normal).unwrap_or_default();
        Self { image, tree }
    }
}

/// Whether the last stage of the Dockerfile is built on the base.
fn on_base(image: &Image, base: &Base) -> bool {
    let first = |i: &Image| i.config["rootfs"]["diff_ids"][0].clone();
    base.image.as_ref().is_some_and(|b| first(b) == first(image))
}

/// Runs every case of a file, several at a time in one store, and fails with all that is not as expected.
#[track_caller]
pub fn golden(file: &str, text: &str) {
    golden_with(file, text, &[]);
}

/// [`golden`] with more arguments for every build.
#[track_caller]
pub fn golden_with(file: &str, text: &str, args: &[&str]) {
    let cases = case::parse(text);
    assert!(!cases.is_empty(), "{file} has no cases");
    let mut bench = Bench::new();
    bench.args.extend(args.iter().map(|a| (*a).to_owned()));
    let base = Base::busybox();
    let can_run = support::can_run();
    if let Err(why) = &can_run {
        eprintln!("skipped: cases of {file} that run steps: {why}");
    }
    let results = each(&cases, |case| {
        if case.runs() && can_run.is_err() {
            return None;
        }
        Some(actual(case, &bench, &base).map_err(|why| format!("{file}: {}: {why}", case.name)))
    });
    let mut wrong = Vec::new();
    let mut blessed = Vec::new();
    for (case, result) in cases.iter().zip(results) {
        match result {
            None => {}
            Some(Err(why)) => wrong.push(why),
            Some(Ok(actual)) => {
                wrong.extend(actual.wrong.iter().map(|why| format!("{file}: {}: {why}", case.name)));
                blessed.push((case.name.clone(), actual.sections));
            }
        }
    }
    if std::env::var_os("RBUILD_BLESS").is_some() {
        bless(file, &blessed);
    }
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

/// Asks buildah too, about every case that it can be asked about, or every `step`-th of them.
#[track_caller]
pub fn beside_buildah(files: &[(&str, &str)], step: usize) {
    let bench = Bench::new();
    let peer = match buildah::Buildah::new(&bench.path("buildah")) {
        Ok(peer) => peer,
        Err(why) => {
            eprintln!("skipped: buildah does not work here: {}", why.lines().last().unwrap_or_default());
            return;
        }
    };
    let cases: Vec<Case> = files
        .iter()
        .flat_map(|(_, text)| case::parse(text))
        .filter(|case| !matches!(case.peer, Peer::No(_)))
        .step_by(step)
        .collect();
    let number = AtomicUsize::new(0);
    let results = each(&cases, |case| {
        let number = number.fetch_add(1, Ordering::Relaxed).to_string();
        compare(case, &bench, &peer, &number)
    });
    let wrong: Vec<String> =
        cases.iter().zip(results).filter_map(|(case, why)| Some(format!("{}: {}", case.name, why?))).collect();
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

fn compare(case: &Case, bench: &Bench, peer: &buildah::Buildah, number: &str) -> Option<String> {
    let place = match Prepared::new(case) {
        Ok(place) => place,
        Err(why) => return Some(why),
    };
    let (ours, run) = place.build(case, bench);
    let theirs = peer.build(number, &place.args(case), &place.context());
    let different = match (&ours, &theirs) {
        (Some(ours), Ok(theirs)) => buildah::differences(ours, theirs),
        (None, Err(_)) => Vec::new(),
        (Some(_), Err(why)) => vec![format!("buildah fails: {}", why.lines().last().unwrap_or_default())],
        (None, Ok(_)) => vec![format!("rbuild fails and buildah does not: {}", run.stderr)],
    };
    match (&case.peer, different.is_empty()) {
        (Peer::Same, false) => Some(different.join("\n    ")),
        (Peer::Differs(_), true) => Some("buildah does the same, against what the case says".into()),
        _ => None,
    }
}

/// Does `work` for every case, two at a time.
fn each<T: Send>(cases: &[Case], work: impl Fn(&Case) -> T + Sync) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let results: Mutex<Vec<(usize, T)>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some((i, case)) =
                    Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|i| Some((i, cases.get(i)?)))
                {
                    let result = work(case);
                    results.lock().unwrap().push((i, result));
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap();
    results.sort_by_key(|(i, _)| *i);
    results.into_iter().map(|(_, r)| r).collect()
}

/// A case with its context on disk.
struct Prepared {
    dir: tempfile::TempDir,
}

impl Prepared {
    fn new(case: &Case) -> Result<Self, String> {
        let dir = tempfile::Builder::new().prefix("rbuild-case-").tempdir().map_err(|e| e.to_string())?;
        let place = Self { dir };
        let ctx = place.context();
        fs::create_dir(&ctx).map_err(|e| e.to_string())?;
        let script = format!("umask 022\n{}", case.context);
        let output = Command::new("sh")
            .args(["-eu", "-c", &script])
            .current_dir(&ctx)
            .env("DIR", place.dir.path())
            .env("LC_ALL", "C")
            .output()
            .map_err(|e| e.to_string())?;
        if !output.status.success() {
            return Err(format!("the context cannot be made: {}", String::from_utf8_lossy(&output.stderr)));
        }
        if !case.dockerfile.is_empty() {
            fs::write(ctx.join("Dockerfile"), &case.dockerfile).map_err(|e| e.to_string())?;
        }
        age(place.dir.path());
        Ok(place)
    }

    fn context(&self) -> PathBuf {
        self.dir.path().join("ctx")
    }

    fn args(&self, case: &Case) -> Vec<String> {
        let (ctx, dir) = (self.context().display().to_string(), self.dir.path().display().to_string());
        case.args.iter().map(|a| a.replace("$CTX", &ctx).replace("$DIR", &dir)).collect()
    }

    fn build(&self, case: &Case, bench: &Bench) -> (Option<Image>, Run) {
        let tar = self.dir.path().join("image.tar");
        let mut args: Vec<String> = vec!["build".into(), "--progress".into(), "plain".into()];
        args.extend(bench.args.iter().cloned());
        args.extend(["-o".into(), format!("type=oci,dest={}", tar.display())]);
        args.extend(self.args(case));
        args.push(self.context().display().to_string());
        let run = support::finish(bench.command(args).output().unwrap());
        (if run.code == 0 { Some(Image::open_tar(&tar)) } else { None }, run)
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        support::make_removable(self.dir.path());
    }
}

/// Gives everything that has no time in the past the usual one; deepest first, because that changes nothing above.
fn age(dir: &Path) {
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            age(&entry.path());
        }
        let new = entry.metadata().unwrap().modified().unwrap() > UNIX_EPOCH + Duration::from_secs(show::NEW);
        if new {
            let time = rustix::fs::Timespec { tv_sec: show::USUAL_TIME as i64, tv_nsec: 0 };
            let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
            rustix::fs::utimensat(rustix::fs::CWD, entry.path(), &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
                .unwrap();
        }
    }
}

/// Sections of a case by their heads.
type Sections = Vec<(&'static str, Vec<String>)>;

/// What came of a case.
struct Actual {
    wrong: Vec<String>,
    /// The sections as they would have to be.
    sections: Sections,
}

fn actual(case: &Case, bench: &Bench, base: &Base) -> Result<Actual, String> {
    let place = Prepared::new(case)?;
    let (image, run) = place.build(case, bench);
    let mut wrong = Vec::new();
    if run.stderr.contains("panicked") || ![0, 1, 2, 9].contains(&run.code) && case.fails.is_none() {
        return Err(format!("it ended with {}:\n{}", run.code, run.stderr));
    }
    for text in &case.silent {
        if run.stderr.contains(text) {
            wrong.push(format!("it says {text:?}:\n{}", run.stderr));
        }
    }
    for text in case.warns.iter().chain(case.fails.iter().flatten()) {
        if !run.stderr.contains(text) {
            wrong.push(format!("it does not say {text:?}:\n{}", run.stderr));
        }
    }
    let Some(image) = image else {
        if case.fails.is_none() {
            wrong.push(format!("the build fails:\n{}", run.stderr));
        }
        return Ok(Actual { wrong, sections: Vec::new() });
    };
    if case.fails.is_some() {
        return Err("the build does not fail".into());
    }
    let none = Base { image: None, tree: BTreeMap::new() };
    let base = if on_base(&image, base) { base } else { &none };
    let empty = serde_json::Value::Null;
    let base_config = base.image.as_ref().map_or(&empty, |b| &b.config);
    let history = image.config["history"].as_array().cloned().unwrap_or_default();
    let full = history.iter().filter(|h| h["empty_layer"] != true).count();
    if full != image.layers.len() {
        wrong.push(format!("{full} history entries for {} layers", image.layers.len()));
    }
    let mut sections = Vec::new();
    let mut check = |name: &'static str, expected: &Option<Vec<String>>, found: Vec<String>| {
        let Some(expected) = expected else { return };
        if *expected != found {
            let side = |lines: &[String]| lines.iter().map(|l| format!("        {l}\n")).collect::<String>();
            wrong.push(format!("{name} is\n{}    and not\n{}", side(&found), side(expected)));
        }
        sections.push((name, found));
    };
    check("tree", &case.tree, show::tree(&show::normal(&image), &base.tree));
    check("config", &case.config, show::config(&image.config, base_config));
    check("history", &case.history, show::history(&image.config, base_config));
    check("layers", &case.layers, show::layers(&image, base.image.as_ref().map_or(0, |b| b.layers.len())));
    Ok(Actual { wrong, sections })
}

/// Writes what came of the cases into the corpus: for whoever adds a case, and reads what it says before committing it.
fn bless(file: &str, actual: &[(String, Sections)]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(format!("{file}.txt"));
    let text = fs::read_to_string(&path).unwrap();
    let mut parts: Vec<String> = text.split("\n=== ").map(str::to_owned).collect();
    for part in parts.iter_mut().skip(1) {
        let name = part.lines().next().unwrap_or_default().trim().to_owned();
        let Some((_, sections)) = actual.iter().find(|(n, _)| *n == name) else { continue };
        for (head, lines) in sections {
            let mut out = Vec::new();
            let mut inside = false;
            for line in part.lines() {
                inside = if line == *head { true } else { inside && line.starts_with("    ") };
                if line == *head {
                    out.push(line.to_owned());
                    out.extend(lines.iter().map(|l| format!("    {l}")));
                } else if !inside {
                    out.push(line.to_owned());
                }
            }
            *part = out.join("\n") + "\n";
        }
    }
    fs::write(&path, parts.join("\n=== ").trim_end().to_owned() + "\n").unwrap();
}
