//! The same edits on a plain tree and on a real overlay mount must give the same layer, and an applied layer must look right
//! through the kernel. Needs mounts (root, or user namespaces for everyone); says so and passes where there are none.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use proptest::prelude::*;

use super::support::{copy_tree, diff_native, diff_upper, is_root, overlay, skipped, temp, tree};

const NAMES: [&str; 12] = ["a", "a/a", "a/a/x", "a/b", "a/b/y", "b", "b/a", "b/c", "c", "c/d", "c/d/e", "a.b"];

/// Shell commands, each of which may fail: it then fails the same way on both sides.
fn command() -> impl Strategy<Value = String> {
    let name = || prop::sample::select(NAMES.to_vec());
    let time = || 1_000_000..1_000_020;
    prop_oneof![
        // Not onto what has several names: overlay breaks the parent's hard links, the documented exception.
        4 => (name(), 0..4, time()).prop_map(|(n, t, s)| format!("[ -e {n} ] || [ -L {n} ] || {{ printf 'text {t}' >{n}; touch -d @{s}.5 {n}; }}")),
        2 => (name(), 0..4, time()).prop_map(|(n, t, s)| format!("[ -f {n} ] && [ ! -L {n} ] && one {n} && {{ printf 'text {t}' >{n}; touch -d @{s} {n}; }}")),
        4 => name().prop_map(|n| format!("mkdir {n}")),
        1 => (name(), time()).prop_map(|(n, s)| format!("ln -sT target {n} && touch -h -d @{s} {n}")),
        1 => (name(), time()).prop_map(|(n, s)| format!("mkfifo {n} && touch -d @{s} {n}")),
        1 => (name(), name()).prop_map(|(n, m)| format!("[ -f {n} ] && one {n} && ln -T {n} {m}")),
        2 => name().prop_map(|n| format!("rm -rf {n}")),
        2 => name().prop_map(|n| format!("[ -d {n} ] && rm -r {n} && mkdir {n}")),
        2 => (name(), name()).prop_map(|(n, m)| format!("[ ! -d {n} ] && one {n} && mv -T {n} {m}")),
        1 => (name(), name()).prop_map(|(n, m)| format!("[ -d {n} ] && [ ! -e {m} ] && mv -T {n} {m}")),
        2 => (name(), prop::sample::select(vec!["700", "755", "4711"])).prop_map(|(n, m)| format!("[ ! -L {n} ] && {{ [ -d {n} ] || one {n}; }} && chmod {m} {n}")),
        1 => (name(), time()).prop_map(|(n, s)| format!("one {n} && touch -h -d @{s} {n}")),
    ]
}

fn script(commands: &[String]) -> String {
    format!(
        "umask 022\none() {{ [ \"$(stat -c %h \"$1\" 2>/dev/null)\" = 1 ] && [ ! -d \"$1\" ]; }}\n\
         {{\n{}\n}} 2>/dev/null\nfind . -mindepth 1 -type d -exec touch -d @999 {{}} +\ntrue\n",
        commands.join("\n")
    )
}

fn unshared(script: &str) -> std::process::Output {
    let flags = if is_root() { "-m" } else { "-Urm" };
    Command::new("unshare").args([flags, "sh", "-c", script]).output().expect("unshare runs")
}

fn mount_command(lowers: &[PathBuf], upper: Option<(&Path, &Path)>, at: &Path) -> String {
    let lowers: Vec<String> = lowers.iter().rev().map(|l| l.display().to_string()).collect();
    let mut options = format!("userxattr,lowerdir={}", lowers.join(":"));
    if let Some((upper, work)) = upper {
        options += &format!(",upperdir={},workdir={}", upper.display(), work.display());
    }
    format!("mount -t overlay overlay -o {options} {}", at.display())
}

/// Why there are no overlay mounts here, if there are none.
fn obstacle() -> Option<String> {
    if Command::new("unshare").arg("--version").output().is_err() {
        return Some("no unshare program".into());
    }
    let temp = temp();
    for name in ["lower", "upper", "work", "merged"] {
        fs::create_dir(temp.path().join(name)).expect("creates");
    }
    let at = |name: &str| temp.path().join(name);
    let output = unshared(&mount_command(&[at("lower")], Some((&at("upper"), &at("work"))), &at("merged")));
    (!output.status.success()).then(|| String::from_utf8_lossy(&output.stderr).trim().to_owned())
}

fn scenario(steps: &[Vec<String>]) {
    let temp = temp();
    let at = |name: &str| {
        let path = temp.path().join(name);
        fs::create_dir_all(&path).expect("creates");
        path
    };
    let mut lowers = vec![at("empty")];
    let mut applied = vec![at("empty2")];
    let mut old = at("tree");
    // Or edits would mostly find nothing to work on.
    let furniture = "mkdir -p a/a a/b b c/d; for f in a/a/x a/b/y b/a b/c c/d/e; do echo $f >$f; touch -d @77 $f; done";
    let first = vec![furniture.to_owned()];
    for (number, commands) in std::iter::once(&first).chain(steps).enumerate() {
        let script = script(commands);
        let new = temp.path().join(format!("tree{number}"));
        copy_tree(&old, &new);
        let done = Command::new("sh").args(["-c", &script]).current_dir(&new).output().expect("sh runs");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));

        let (upper, work, merged) = (at(&format!("upper{number}")), at(&format!("work{number}")), at("merged"));
        let mount = mount_command(&lowers, Some((&upper, &work)), &merged);
        let done = unshared(&format!("{mount} || exit 9\ncd {}\n{script}", merged.display()));
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));

        let (tar, summary, _) = diff_native(Some(&old), &new);
        let (other, there, _) = diff_upper(&upper, &lowers);
        assert!(
            tar == other,
            "native {:#?}\noverlay {:#?}\n{script}",
            super::support::listing(&summary),
            super::support::listing(&there)
        );

        // What we extract must be the same tree for the kernel.
        let layer = at(&format!("layer{number}"));
        overlay(&tar, &layer, &applied);
        applied.push(layer);
        let copy = at(&format!("copy{number}"));
        let mount = mount_command(&applied, None, &merged);
        let done = unshared(&format!("{mount} && cp -a {}/. {}", merged.display(), copy.display()));
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        assert_eq!(tree(&copy), tree(&new));

        lowers.push(upper);
        old = new;
    }
}

#[test]
fn a_real_overlay_gives_the_same_layers() {
    if let Some(reason) = obstacle() {
        skipped(&format!("no overlay mounts here: {reason}"));
        return;
    }
    let config = ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() };
    let strategy = prop::collection::vec(prop::collection::vec(command(), 1..20), 1..3);
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let result = runner.run(&strategy, |steps| {
        scenario(&steps);
        Ok(())
    });
    if let Err(failure) = result {
        panic!("{failure}");
    }
}
