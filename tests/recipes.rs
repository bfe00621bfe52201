//! Commands that the documentation shows are commands that the program takes (docs/CACHE.md, SPEC B4).
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(missing_docs, unreachable_pub, reason = "a test program")]
#![allow(clippy::print_stderr, reason = "skip reasons are collected by scripts/test")]

#[path = "support/fake_registry/mod.rs"]
mod fake_registry;
mod support;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command as Process, Stdio};

use fake_registry::FakeRegistry;
use support::{Bench, rbuild_path};

use rbuild::cli::args::{Cli, Command};
use rbuild::cli::config::Config;
use rbuild::cli::settings::BuildSettings;

const CACHE: &str = include_str!("../docs/CACHE.md");

/// What the variables of the recipes could be.
const VARIABLES: &[(&str, &str)] = &[
    ("$CI_REGISTRY_IMAGE", "registry.example.com/group/project"),
    ("$CI_COMMIT_SHA", "0123456789abcdef0123456789abcdef01234567"),
    ("$CI_COMMIT_REF_SLUG", "a-branch"),
    ("$CI_DEFAULT_BRANCH", "main"),
    ("$IMAGE", "ghcr.io/owner/app:latest"),
];

/// Every `rbuild …` of the fenced blocks, with its continued lines, as words.
fn commands(text: &str) -> Vec<Vec<String>> {
    let mut found: Vec<String> = Vec::new();
    let (mut fenced, mut open) = (false, false);
    for line in text.lines() {
        if line.starts_with("```") {
            (fenced, open) = (!fenced, false);
            continue;
        }
        let line = line.trim();
        let begins = ["", "- ", "- run: "].iter().find_map(|lead| line.strip_prefix(lead)?.strip_prefix("rbuild "));
        if let (true, Some(rest)) = (fenced, begins) {
            found.push(format!("rbuild {rest}"));
            open = true;
        } else if fenced && open && line.starts_with('-') {
            // YAML folds lines that are indented; a shell wants a backslash, which ended the one before.
            let last = found.last_mut().unwrap();
            *last = format!("{} {line}", last.trim_end_matches('\\').trim_end());
        } else {
            open = false;
        }
    }
    let expand = |command: String| VARIABLES.iter().fold(command, |text, (name, value)| text.replace(name, value));
    found.into_iter().map(expand).map(|c| c.split_whitespace().map(ToOwned::to_owned).collect()).collect()
}

// SPEC B4.03, B4.05, B4.07
#[test]
fn every_recipe_is_a_command() {
    let commands = commands(CACHE);
    let all = commands.concat().join(" ");
    for kind in ["type=gha", "type=registry", "type=s3", "mounts=true"] {
        assert!(all.contains(kind), "{kind} is not in {all}");
    }
    assert!(commands.len() >= 4, "{commands:?}");
    let context = tempfile::tempdir().unwrap();
    std::fs::write(context.path().join("Dockerfile"), "FROM scratch\n").unwrap();
    for words in commands {
        let shown = words.join(" ");
        if words[1] == "login" {
            Cli::parse_words(&words).unwrap_or_else(|e| panic!("{shown}: {e}"));
            continue;
        }
        assert!(!shown.contains('$'), "what is the variable in {shown}?");
        // `rbuild PATH` is `rbuild build PATH`, which the program's own first look makes of it.
        let mut words = [&["rbuild".to_owned(), "build".to_owned()], &words[1..]].concat();
        assert_eq!(words.pop().unwrap(), ".", "{shown}");
        words.push(context.path().display().to_string());
        let cli = Cli::parse_words(&words).unwrap_or_else(|e| panic!("{shown}: {e}"));
        let Command::Build(args) = cli.command else { panic!("{shown} is no build") };
        let settings = BuildSettings::new(&args, &Config::default());
        let settings = settings.unwrap_or_else(|e| panic!("{shown}: {}", e.message));
        // Outside of a workflow the service of GitHub is left out, and that is said.
        let expected = usize::from(!shown.contains("type=gha"));
        assert!(settings.request.cache_to.len() == expected, "{shown}");
        assert!(settings.request.cache_from.len() >= expected, "{shown}");
    }
}

const README: &str = include_str!("../README.md");
const CI: &str = include_str!("../docs/ci.md");
const FROM_KANIKO: &str = include_str!("../docs/from-kaniko.md");
const FROM_BUILDAH: &str = include_str!("../docs/from-buildah.md");

/// Command lines of `rbuild` as a page shows them: `$ …` of its blocks and what is quoted in its text and tables.
fn shown(page: &str) -> Vec<String> {
    let is_ours = |line: &str| line.split_whitespace().find(|word| !word.contains('=')) == Some("rbuild");
    let mut lines: Vec<String> = page
        .lines()
        .filter_map(|line| line.strip_prefix("$ "))
        .map(|line| line.split(" # ").next().unwrap().trim().to_owned())
        .collect();
    let prose: String = page.split("```").step_by(2).collect();
    lines.extend(prose.split('`').skip(1).step_by(2).map(ToOwned::to_owned));
    lines.retain(|line| is_ours(line) && line.contains(' ') && !line.contains('…'));
    lines
}

/// The recipes for pods and services, as a shell takes them.
fn pipelines() -> Vec<String> {
    let args = README.lines().find_map(|line| line.trim().strip_prefix("args: ")).unwrap();
    let args: Vec<String> = serde_json::from_str(args).unwrap();
    let mut lines = vec![format!("rbuild {}", args.join(" "))];
    let steps = CI.lines().filter_map(|line| {
        let line = line.trim().strip_prefix("- ")?;
        line.strip_prefix("run: ").unwrap_or(line).strip_prefix("rbuild ").map(|rest| format!("rbuild {rest}"))
    });
    lines.extend(steps);
    lines
}

/// What stands for names of the pages on this machine.
fn here(line: &str, host: &str, dir: &Path) -> String {
    let dir = dir.display();
    let mut line = line
        .replace("${{ github.repository }}", "owner/app")
        .replace("${{ github.sha }}", "0123456")
        .replace("REGISTRY_AUTH_FILE=F", "REGISTRY_AUTH_FILE=auth.json")
        .replace("--build-arg=/' F)", "--build-arg=/' arguments)")
        .replace("/workspace", &format!("{dir}"))
        .replace("=/path", &format!("={dir}/cache"))
        .replace("=/data", &format!("={dir}/sub"));
    for name in ["registry.example.com", "registry.example", "ghcr.io", "HOST/"] {
        line = line.replace(name, &(host.to_owned() + if name.ends_with('/') { "/" } else { "" }));
    }
    // Nobody is there to answer questions.
    if line.starts_with("rbuild login") {
        line.push_str(" -u me -p secret");
    }
    if line.contains("--cache-from R ") {
        line = line
            .replace("--cache-from R ", &format!("--cache-from {host}/r "))
            .replace("ref=R,", &format!("ref={host}/r,"));
    }
    line.split_inclusive(';')
        .map(|part| if part.trim_start().starts_with("rbuild prune") { format!("{part} -f") } else { part.to_owned() })
        .collect()
}

// SPEC B1.01, B8.15, E1.16: what README and the pages for CI and for people from kaniko and buildah show is run, in a directory of its own
// each, with a registry of this machine in place of others.
#[test]
fn what_the_pages_show_runs() {
    let sockets = ["/var/run/docker.sock", "/run/podman/podman.sock"];
    if sockets.iter().any(|path| std::os::unix::net::UnixStream::connect(path).is_ok()) {
        skip!("an engine listens on this machine: images would be loaded there");
    }
    let registry = FakeRegistry::start();
    let (bench, host) = (Bench::new(), registry.host());
    let bin = bench.path("bin");
    std::fs::create_dir_all(bench.path("home/.config/rbuild")).unwrap();
    std::fs::create_dir(&bin).unwrap();
    std::os::unix::fs::symlink(rbuild_path(), bin.join("rbuild")).unwrap();
    let mirror = format!("[registry.\"docker.io\"]\nmirrors = [\"{host}\"]\n");
    std::fs::write(bench.path("home/.config/rbuild/rbuild.toml"), mirror).unwrap();
    let run = |line: &str, dir: &Path| {
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
        Process::new("sh")
            .args(["-c", line])
            .current_dir(dir)
            .env("PATH", path)
            .env("HOME", bench.path("home"))
            .env("XDG_CONFIG_HOME", bench.path("home/.config"))
            .env("XDG_DATA_HOME", bench.path("data"))
            .env("CI_REGISTRY_IMAGE", format!("{host}/group/project"))
            .env("CI_COMMIT_SHORT_SHA", "0123456")
            .env("GIT_TOKEN", "token")
            .env("DOCKER_HOST", "")
            .env("NO_COLOR", "1")
            .env_remove("DOCKER_CONFIG")
            .stdin(Stdio::null())
            .output()
            .unwrap()
    };
    let pages = [README, CI, FROM_KANIKO, FROM_BUILDAH].map(shown);
    let lines: BTreeSet<String> = pages.into_iter().flatten().chain(pipelines()).collect();
    assert!(lines.len() >= 60, "{lines:#?}");
    let (mut wrong, mut elsewhere) = (Vec::new(), 0);
    for (n, line) in lines.iter().enumerate() {
        let dir = bench.path(&format!("out/{n}"));
        std::fs::create_dir_all(dir.join("sub")).unwrap();
        for name in ["Dockerfile", "F", "Containerfile", "sub/Dockerfile"] {
            std::fs::write(dir.join(name), "FROM scratch\nARG K\nCOPY --chmod=644 Dockerfile /f\nCMD [\"x\"]\n")
                .unwrap();
        }
        std::fs::write(dir.join("docker-bake.hcl"), "target \"default\" {}\n").unwrap();
        std::fs::write(dir.join("auth.json"), "{}").unwrap();
        std::fs::write(dir.join("arguments"), "K=1\nL=2\n").unwrap();
        let archive = run("tar cz Dockerfile | cat > context.tar.gz", &dir);
        assert!(archive.status.success());
        if n == 0 {
            let first = run(&format!("rbuild -t {host}/app -t {host}/library/alpine --push ."), &dir);
            assert!(first.status.success(), "{}", String::from_utf8_lossy(&first.stderr));
        }
        // What lines about images speak of.
        assert!(run("rbuild -q -t app .", &dir).status.success());
        let command = here(line, &host, &dir);
        if command.contains("--archive PATH") {
            assert!(run("rbuild save -o PATH app", &dir).status.success());
        }
        if command.contains("--all-platforms") {
            // There is no base image that would say which they are.
            std::fs::write(dir.join("Dockerfile"), "FROM alpine\n").unwrap();
        }
        if command.contains("--isolation chroot") && !rustix::process::geteuid().is_root() {
            // The rung is for root without namespaces.
            continue;
        }
        if command.contains("https://example.com") {
            // The git and web servers of other tests take such addresses.
            elsewhere += 1;
            continue;
        }
        let output = run(&command, &dir);
        if !output.status.success() {
            wrong.push(format!("{line}\n  {command}\n  {}", String::from_utf8_lossy(&output.stderr)));
        }
    }
    drop(run("rbuild system reset --force", &bench.path("out")));
    assert!(elsewhere <= 4, "{elsewhere} lines were left out");
    assert!(wrong.is_empty(), "{} of {} are wrong:\n{}", wrong.len(), lines.len(), wrong.join("\n"));
    for (repository, tag) in
        [("owner/app", "0123456"), ("group/project", "0123456"), ("app", "latest"), ("a", "latest")]
    {
        let state = registry.state();
        let found = state.repositories.get(repository).is_some_and(|r| r.tags.contains_key(tag));
        assert!(found, "{repository}:{tag} was not pushed");
    }
}
