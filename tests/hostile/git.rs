//! Repositories, and names of refs, that are traps.

use std::io::Write as _;
use std::process::{Command, Stdio};

use super::support::git::{Repositories, Repository};
use super::support::image::Image;
use super::support::web::Web;
use super::support::{self, Bench};
use crate::need_run;

/// An entry of a tree: mode, name, object.
type Entry<'a> = (&'a str, &'a [u8], &'a str);

/// Writes a tree that git itself would refuse to make.
fn tree(repository: &Repository, entries: &[Entry<'_>]) -> String {
    let mut bytes = Vec::new();
    for (mode, name, object) in entries {
        bytes.extend_from_slice(mode.as_bytes());
        bytes.push(b' ');
        bytes.extend_from_slice(name);
        bytes.push(0);
        bytes.extend((0..20).map(|at| u8::from_str_radix(&object[2 * at..2 * at + 2], 16).unwrap()));
    }
    object(repository, "tree", &bytes)
}

fn object(repository: &Repository, kind: &str, bytes: &[u8]) -> String {
    let mut child = Command::new("git")
        .args(["hash-object", "-t", kind, "-w", "--literally", "--stdin"])
        .current_dir(&repository.path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(bytes).unwrap();
    String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap().trim().to_owned()
}

/// Every trap on every rung, as a context and by ADD: nothing of the machine is read, written or run. SPEC A6.21, A7.02
#[test]
fn repositories_that_are_traps() {
    need_run!();
    for (number, rung) in super::rungs().iter().enumerate() {
        // What git does is the same on all of them.
        let every_way = number == 0 || super::long();
        let bench = Bench::new();
        let outside = bench.path("elsewhere");
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("canary"), "CANARY-OUTSIDE").unwrap();
        let marker = bench.path("ran");
        let (out, canary, ran) = (
            outside.display().to_string(),
            outside.join("canary").display().to_string(),
            format!("touch {}", marker.display()),
        );
        let repositories = Repositories::new();
        let repository = repositories.create("a.git", &[]);
        repository.file("Dockerfile", "FROM scratch\nCOPY . /r/\n").file("f", "mine").commit("fine");
        let blob = |bytes: &str| object(&repository, "blob", bytes.as_bytes());
        let (dockerfile, file, evil) = (blob("FROM scratch\nCOPY . /r/\n"), blob("mine"), blob("evil"));
        let [to_out, to_canary, to_git, to_up] = [&out[..], &canary, ".git", "../../../../.."].map(blob);
        let hook = blob(&format!("#!/bin/sh\n{ran}\n"));
        let commit = repository.git(&["rev-parse", "HEAD"]);
        let planted = tree(&repository, &[("100644", b"planted", &evil)]);
        let hooks = {
            let hooks = tree(&repository, &[("100755", b"post-checkout", &hook)]);
            tree(&repository, &[("40000", b"hooks", &hooks)])
        };
        let modules = |path: &str, name: &str, url: &str| {
            blob(&format!("[submodule \"{name}\"]\n\tpath = {path}\n\turl = {url}\n\tupdate = !{ran}\n"))
        };
        let web = Web::git(repositories.path(), None);
        let url = web.url("/a.git");
        let [up, dash, option, through, twin] = [
            modules("../../planted", "x", &url),
            modules("s", "-x", &url),
            modules("s", "x", &format!("--upload-pack={ran}")),
            modules("l/s", "x", &url),
            modules("A/modules/x", "../x", &url),
        ];
        let config = blob(&format!("[core]\n\tfsmonitor = {ran}\n\thooksPath = {out}\n[include]\n\tpath = {canary}\n"));
        let trees: Vec<(&str, Vec<Entry<'_>>)> = vec![
            ("a directory .git", vec![("40000", b".git", &hooks)]),
            ("a directory .GIT", vec![("40000", b".GIT", &hooks)]),
            ("a directory .git with an invisible letter", vec![("40000", ".g\u{200c}it".as_bytes(), &hooks)]),
            ("a file .git", vec![("100644", b".git", &to_out)]),
            ("a symlink .git", vec![("120000", b".git", &to_out)]),
            ("a directory ..", vec![("40000", b"..", &planted)]),
            ("a name with slashes", vec![("100644", b"../../../planted", &evil)]),
            ("an absolute name", vec![("100644", canary.as_bytes(), &evil)]),
            ("a symlink and a directory of one name", vec![("120000", b"d", &to_out), ("40000", b"d", &planted)]),
            ("a symlink and a file of one name", vec![("120000", b"d", &to_canary), ("100644", b"d", &evil)]),
            ("a symlink that leads out", vec![("120000", b"l", &to_canary), ("120000", b"u", &to_up)]),
            ("a Dockerfile elsewhere", vec![("120000", b"Dockerfile", &to_canary)]),
            ("an ignore file elsewhere", vec![("120000", b".dockerignore", &to_canary)]),
            ("attributes elsewhere", vec![("120000", b".gitattributes", &to_canary)]),
            ("submodules elsewhere", vec![("120000", b".gitmodules", &to_canary)]),
            ("a submodule above", vec![("100644", b".gitmodules", &up), ("160000", b"s", &commit)]),
            ("a submodule with a dash", vec![("100644", b".gitmodules", &dash), ("160000", b"s", &commit)]),
            ("a submodule from an option", vec![("100644", b".gitmodules", &option), ("160000", b"s", &commit)]),
            (
                "a submodule through a symlink",
                vec![("100644", b".gitmodules", &through), ("120000", b"l", &to_out), ("160000", b"s", &commit)],
            ),
            (
                "a submodule into .git",
                vec![("100644", b".gitmodules", &twin), ("120000", b"a", &to_git), ("160000", b"x", &commit)],
            ),
            ("a repository in a repository", vec![("40000", b"hooks", &hooks), ("100644", b"config", &config)]),
        ];
        assert_eq!(trees.iter().map(|tree| tree.0).collect::<Vec<_>>(), super::table::TREES, "the table of cases");
        let mut asked: Vec<(String, String)> = Vec::new();
        for (at, (name, entries)) in trees.into_iter().enumerate() {
            let mut entries = entries;
            if !entries.iter().any(|e| e.1 == b"Dockerfile") {
                entries.push(("100644", b"Dockerfile", &dockerfile));
            }
            entries.push(("100644", b"f", &file));
            let tree = tree(&repository, &entries);
            let commit = repository.git(&["commit-tree", &tree, "-m", "trap"]);
            repository.git(&["update-ref", &format!("refs/heads/t{at}"), &commit]);
            asked.push((name.into(), format!("{url}#t{at}")));
            if matches!(at % 4, 0) {
                asked.push((format!("{name}, with .git"), format!("{url}?ref=t{at}&keep-git-dir=1")));
            }
        }
        repository.git(&["update-ref", "refs/heads/-x", "HEAD"]);
        for what in [
            "#-x",
            "#refs/heads/-x",
            &format!("#--upload-pack={ran}"),
            "#--help",
            "?ref=-x",
            &format!("?branch=--upload-pack={ran}"),
            "?tag=--exec=id",
            &format!("#main:../../../../../..{out}"),
            &format!("#main:{out}"),
            "?subdir=../../..",
            "#main:-x",
            "#HEAD^{tree}",
            "#main:f/../..",
            "?checksum=--all",
        ] {
            asked.push((format!("a ref {what}"), format!("{url}{what}")));
        }
        for what in [
            &format!("git@-oProxyCommand={ran}:x.git")[..],
            &format!("ssh://-oProxyCommand={ran}/x.git"),
            &format!("ext::{ran}"),
            &format!("git://--upload-pack={ran}/x.git"),
        ] {
            asked.push((format!("an address {what}"), what.to_owned()));
        }
        let before = super::listing(&outside);
        let tar = bench.path("git.tar");
        let dest = format!("type=oci,dest={}", tar.display());
        let (mut ran_at_all, mut built) = (0, 0);
        for (name, address) in &asked {
            bench.dockerfile(&format!("FROM scratch\nADD [\"{address}\", \"/r/\"]\n"));
            let _ = std::fs::remove_file(&tar);
            let by_add = bench.build(&["--isolation", rung, "-o", &dest]);
            let checked = |run: &super::support::Run, how: &str| {
                assert!(!run.stderr.contains("panicked") && run.code != 70, "{rung}: {name}, {how}: {}", run.stderr);
                assert!(!run.stderr.contains("CANARY-OUTSIDE"), "{rung}: {name}, {how}: {}", run.stderr);
                assert!(!marker.exists(), "{rung}: {name}, {how}: something ran");
                assert_eq!(super::listing(&outside), before, "{rung}: {name}, {how}: something outside is different");
                if run.code == 0 {
                    let image = Image::open_tar(&tar);
                    let leaked =
                        image.tree().into_iter().find(|(_, n)| String::from_utf8_lossy(&n.content).contains("CANARY-"));
                    assert!(leaked.is_none(), "{rung}: {name}, {how}: {:?}", leaked.map(|(path, _)| path));
                }
                usize::from(run.code == 0)
            };
            built += checked(&by_add, "by ADD");
            ran_at_all += 1;
            if !every_way {
                continue;
            }
            let _ = std::fs::remove_file(&tar);
            let as_context = bench.rbuild(&["build", "--progress", "plain", "--isolation", rung, "-o", &dest, address]);
            built += checked(&as_context, "as the context");
        }
        // A good one works, or all of this would prove nothing.
        bench.dockerfile(&format!("FROM scratch\nADD {url} /r/\n"));
        assert_eq!(bench.build_image(&["--isolation", rung]).text("r/f"), "mine");
        assert!(built > 4, "{rung}: only {built} were built");
        eprintln!("hostile: {ran_at_all} repositories and refs on rung {rung}, none caught anything");
    }
}
