//! What random builds are made of: dice, contexts, edits, and how two images are compared.

pub mod inside;
pub mod plain;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, XattrFlags};

use crate::support::image::Image;

/// A small deterministic generator (splitmix64), so that a failure can be repeated from its seed.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }

    pub fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[usize::try_from(self.roll(from.len() as u64)).unwrap()]
    }
}

/// The files of every context.
pub const FILES: &[&str] = &["a", "b", "d/c", "d/e", "d/deep/f"];

/// Writes the files of a new context.
pub fn fill(context: &Path) {
    std::fs::create_dir_all(context.join("d/deep")).unwrap();
    for (i, name) in FILES.iter().enumerate() {
        std::fs::write(context.join(name), format!("{i:08}")).unwrap();
    }
}

/// Changes one thing of the context or of the arguments; says what.
pub fn edit(dice: &mut Dice, context: &Path, arg: &mut u64) -> String {
    let name = dice.pick(FILES);
    let path = context.join(name);
    let what = dice.roll(12);
    if matches!(what, 0 | 7 | 9) {
        // An earlier edit may have made it read-only, which only root can write to.
        let mode = path.metadata().unwrap().permissions().mode();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode | 0o200)).unwrap();
    }
    match what {
        0 => {
            // Same size, same modification time, other content.
            let before = path.metadata().unwrap().modified().unwrap();
            std::fs::write(&path, format!("{:08}", dice.roll(100_000_000))).unwrap();
            std::fs::File::options().write(true).open(&path).unwrap().set_modified(before).unwrap();
            format!("content of {name}, same size and mtime")
        }
        1 => {
            let mode = [0o644, 0o755, 0o600, 0o444][usize::try_from(dice.roll(4)).unwrap()];
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            format!("mode of {name}")
        }
        2 => {
            std::fs::rename(&path, context.join("moved")).unwrap();
            std::fs::write(&path, format!("{:08}", dice.roll(1000))).unwrap();
            format!("{name} renamed and made again")
        }
        3 => {
            let link = context.join("d/link");
            let _ = std::fs::remove_file(&link);
            std::os::unix::fs::symlink(dice.pick(FILES), link).unwrap();
            "a symlink".into()
        }
        4 => {
            *arg += 1;
            "a build argument".into()
        }
        5 => {
            let text = dice.pick(&["", "d/deep\n", "**/e\n", "*\n!a\n!b\n!d\n", "moved\nextra\n"]);
            std::fs::write(context.join(".dockerignore"), text).unwrap();
            "the ignore file".into()
        }
        6 => {
            let extra = context.join("d/extra");
            if extra.exists() {
                std::fs::remove_file(extra).unwrap()
            } else {
                std::fs::write(extra, "new").unwrap()
            }
            "a file came or went".into()
        }
        7 => {
            let touched = std::fs::File::options().append(true).open(&path).unwrap();
            touched.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(dice.roll(1_000_000_000))).unwrap();
            format!("mtime of {name}")
        }
        8 => {
            let twin = context.join("d/twin");
            let _ = std::fs::remove_file(&twin);
            std::fs::hard_link(&path, twin).unwrap();
            format!("a second name for {name}")
        }
        9 => {
            let value = format!("{}", dice.roll(3));
            // A file system without them has nothing to tell apart.
            let set = rustix::fs::setxattr(&path, "user.flavour", value.as_bytes(), XattrFlags::empty());
            format!("an extended attribute of {name}: {set:?}")
        }
        10 => {
            // Only who may give files away can; for others nothing changes.
            let owner = u32::try_from(dice.roll(9)).unwrap();
            let given = std::os::unix::fs::chown(&path, Some(owner), Some(owner));
            format!("the owner of {name}: {given:?}")
        }
        _ => "nothing".into(),
    }
}

/// Adds an instruction somewhere to a Dockerfile that [`dockerfile`] made, or takes one away; says what.
pub fn rewrite(dice: &mut Dice, text: &mut String, instruction: fn(&mut Dice, usize) -> String) -> String {
    let mut lines: Vec<String> = text.lines().map(ToOwned::to_owned).collect();
    let one_line = |line: &String| {
        let known = ["COPY ", "ADD ", "RUN ", "ENV ", "LABEL ", "WORKDIR ", "USER "];
        known.iter().any(|word| line.starts_with(word)) && !line.contains("<<")
    };
    let places: Vec<usize> = (0..lines.len()).filter(|at| one_line(&lines[*at])).collect();
    let place =
        if places.is_empty() { None } else { Some(places[usize::try_from(dice.roll(places.len() as u64)).unwrap()]) };
    let what = match place {
        Some(at) if dice.roll(3) == 0 => format!("without {}", lines.remove(at)),
        _ => {
            let at = place.unwrap_or(lines.len());
            let stage = lines[..at].iter().filter(|line| line.starts_with("FROM ")).count() - 1;
            let new = instruction(dice, stage);
            lines.insert(at, new.clone());
            format!("new: {new}")
        }
    };
    *text = lines.join("\n") + "\n";
    what
}

/// Gives everything below `context` the same modification time.
pub fn level(context: &Path) {
    let old = Timespec { tv_sec: 1_000_000_000, tv_nsec: 0 };
    for entry in std::fs::read_dir(context).unwrap().flatten() {
        if entry.file_type().unwrap().is_dir() {
            level(&entry.path());
        }
        let times = Timestamps { last_access: old, last_modification: old };
        rustix::fs::utimensat(CWD, entry.path(), &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
}

/// Type, mode, ids, content, link target and extended attributes.
type Look = (char, u32, u64, u64, Vec<u8>, String, BTreeMap<String, Vec<u8>>);

/// What must be equal of two images, whenever they were built.
#[derive(PartialEq)]
pub struct Shape {
    tree: BTreeMap<String, Look>,
    config: serde_json::Value,
    /// Names in each layer.
    pub layers: Vec<Vec<String>>,
}

impl Shape {
    pub fn of(image: &Image) -> Self {
        let tree = image.tree().into_iter();
        let tree = tree.map(|(p, n)| (p, (n.kind, n.mode, n.uid, n.gid, n.content, n.link, n.xattrs))).collect();
        let mut config = image.config.clone();
        for key in ["created", "rootfs"] {
            config.as_object_mut().unwrap().remove(key);
        }
        for entry in config["history"].as_array_mut().unwrap() {
            entry.as_object_mut().unwrap().remove("created");
        }
        let layers = image.layers.iter().map(|l| l.iter().map(|(p, _)| p.clone()).collect()).collect();
        Self { tree, config, layers }
    }

    /// Forgets the extended attributes of everything below directories at the top whose names begin with `prefix`.
    pub fn forget_attributes(&mut self, prefix: &str) {
        for (_, look) in self.tree.iter_mut().filter(|(path, _)| path.starts_with(prefix)) {
            look.6.clear();
        }
    }

    /// Says where they differ.
    pub fn difference(&self, other: &Self) -> String {
        for path in self.tree.keys().chain(other.tree.keys()) {
            let (ours, theirs) = (self.tree.get(path), other.tree.get(path));
            if ours != theirs {
                let show = |look: Option<&Look>| {
                    look.map(|(kind, mode, uid, gid, content, link, xattrs)| {
                        let head = String::from_utf8_lossy(&content[..content.len().min(60)]).into_owned();
                        format!("{kind} {mode:o} {uid}:{gid} {head:?} {link:?} {xattrs:?}")
                    })
                };
                return format!("{path}: {:?} against {:?}", show(ours), show(theirs));
            }
        }
        if self.config != other.config {
            return format!("config {} against {}", self.config, other.config);
        }
        format!("layers {:?} against {:?}", self.layers, other.layers)
    }
}

/// A Dockerfile of a few stages, each `FROM` one of `bases` or a stage before it.
pub fn dockerfile(dice: &mut Dice, bases: &[&str], instruction: fn(&mut Dice, usize) -> String) -> String {
    let mut text = String::new();
    let stages = 1 + usize::try_from(dice.roll(3)).unwrap();
    for stage in 0..stages {
        let base = if stage > 0 && dice.roll(3) == 0 {
            format!("s{}", dice.roll(stage as u64))
        } else {
            dice.pick(bases).to_owned()
        };
        let _ = writeln!(text, "FROM {base} AS s{stage}\nARG V=0");
        for _ in 0..=dice.roll(4) {
            let _ = writeln!(text, "{}", instruction(dice, stage));
        }
    }
    text
}
