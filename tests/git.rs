//! ADD of git repositories, from real servers on loopback.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::print_stderr, reason = "skip reasons are collected by scripts/test")]
#![allow(missing_docs, unreachable_pub, reason = "a test program")]

mod support;

use std::os::unix::fs::PermissionsExt as _;

use support::Bench;
use support::git::{COMMIT_TIME, Repositories, Repository};
use support::web::Web;

/// Two commits on main, a branch, tags of both kinds, a symlink and an executable.
fn sample(repositories: &Repositories) -> (Repository, String, String) {
    let repository = repositories.create("a.git", &[]);
    repository.file("file", "one").file("sub/dir/inner", "inner one");
    let first = repository.commit("first");
    repository.git(&["tag", "light"]);
    repository.git(&["tag", "-a", "v1", "-m", "version 1"]);
    repository.git(&["checkout", "--quiet", "-b", "feature/x"]);
    repository.file("file", "feature").commit("on a branch");
    repository.git(&["update-ref", "refs/pull/7/head", "HEAD"]);
    repository.git(&["checkout", "--quiet", "main"]);
    repository.file("file", "two").file("run.sh", "#!/bin/sh\n");
    std::fs::set_permissions(repository.path.join("run.sh"), std::fs::Permissions::from_mode(0o775)).unwrap();
    std::os::unix::fs::symlink("file", repository.path.join("link")).unwrap();
    std::os::unix::fs::symlink("/etc", repository.path.join("outside")).unwrap();
    let second = repository.commit("second");
    (repository, first, second)
}

/// A Dockerfile with one ADD.
fn add(what: &str) -> String {
    format!("FROM scratch\nADD {what} /r/\n")
}

#[test]
fn a6_21_a_repository_is_a_tree_without_git() {
    let repositories = Repositories::new();
    let (_, _, second) = sample(&repositories);
    let web = Web::git(repositories.path(), None);
    let bench = Bench::new();
    let image = bench.image_of(&add(&web.url("/a.git")));
    assert_eq!(image.text("r/file"), "two");
    let modes = ["r/file", "r/run.sh", "r/sub"].map(|path| image.node(path).mode);
    assert_eq!(modes, [0o644, 0o755, 0o755]);
    assert_eq!((image.node("r/link").kind, image.node("r/link").link.as_str()), ('l', "file"));
    assert_eq!((image.node("r/file").uid, image.node("r/file").gid), (0, 0));
    assert!(!image.has("r/.git"));
    web.forget();
    let again = bench.build(&[]).ok();
    assert_eq!(again.count("CACHED"), 1, "{}", again.stderr);
    let asked = web.asked();
    assert!(asked.len() <= 2, "only what the ref means is asked for: {asked:?}");
    bench.dockerfile(&add(&format!("{}#{second}", web.url("/a.git"))));
    web.forget();
    assert_eq!(bench.build(&[]).ok().count("CACHED"), 1, "the same commit");
    assert!(web.asked().is_empty(), "a commit is what it is: {:?}", web.asked());
}

// SPEC A7.02, A7.04
#[test]
fn a7_02_refs_of_every_kind() {
    let repositories = Repositories::new();
    let (_, first, _) = sample(&repositories);
    let web = Web::git(repositories.path(), None);
    let bench = Bench::new();
    let url = web.url("/a.git");
    for (reference, content) in [
        ("main", "two"),
        ("feature/x", "feature"),
        ("light", "one"),
        ("v1", "one"),
        ("refs/tags/v1", "one"),
        ("refs/heads/main", "two"),
        ("refs/pull/7/head", "feature"),
        ("pull/7/head", "feature"),
        (first.as_str(), "one"),
        (&first[..9], "one"),
    ] {
        assert_eq!(bench.image_of(&add(&format!("{url}#{reference}"))).text("r/file"), content, "{reference}");
    }
    let image = bench.image_of(&add(&format!("{url}#v1:sub/dir")));
    assert_eq!((image.text("r/inner").as_str(), image.has("r/file")), ("inner one", false));
    for (what, error) in [
        (format!("{url}#nowhere"), "repository does not contain ref nowhere".to_owned()),
        (format!("{url}#:missing"), "invalid subdir missing".into()),
        (format!("{url}#:file"), "it is not a directory".into()),
        (format!("{url}#:outside"), "it is not a directory".into()),
        (format!("{url}#:outside/ssh"), "invalid subdir outside/ssh".into()),
        (format!("{url}#--upload-pack=id"), "it begins with a dash".into()),
        (format!("{url}#{}", "x".repeat(3000)), "longer than 1024 bytes".into()),
        (format!("{url}#{}", "1".repeat(40)), "1111111".into()),
        (format!("{url}?tag=a&branch=b"), "branch conflicts with tag".into()),
    ] {
        bench.dockerfile(&add(&what));
        let run = bench.build(&[]);
        assert!([4, 5].contains(&run.code), "{what}: {}", run.stderr);
        assert!(run.stderr.contains(&error) && run.stderr.contains("Dockerfile:2"), "{what}: {}", run.stderr);
    }
}

#[test]
fn a7_03_queries() {
    let repositories = Repositories::new();
    let (_, first, second) = sample(&repositories);
    let web = Web::git(repositories.path(), None);
    let bench = Bench::new();
    let url = web.url("/a.git");
    for (query, content) in [
        ("?tag=v1".to_owned(), "one"),
        ("?branch=feature/x".into(), "feature"),
        (format!("?ref=v1&checksum={first}"), "one"),
        (format!("?checksum={}", &second[..10]), "two"),
        (format!("?checksum={first}&fetch-by-commit=true&ref=whatever"), "one"),
    ] {
        assert_eq!(bench.image_of(&add(&format!("{url}{query}"))).text("r/file"), content, "{query}");
    }
    let image = bench.image_of(&add(&format!("{url}?ref=v1&mtime=commit&subdir=sub")));
    assert_eq!(image.node("r/dir/inner").mtime, COMMIT_TIME);
}

#[test]
fn a6_21_checksums_of_commits() {
    let repositories = Repositories::new();
    let (repository, first, second) = sample(&repositories);
    let tag = repository.git(&["rev-parse", "v1"]);
    let web = Web::git(repositories.path(), None);
    let bench = Bench::new();
    let url = web.url("/a.git");
    let with =
        |checksum: &str, reference: &str| format!("FROM scratch\nADD --checksum={checksum} {url}#{reference} /r/\n");
    for good in [first.as_str(), &first[..7], &first[..1], tag.as_str()] {
        assert_eq!(bench.image_of(&with(good, "v1")).text("r/file"), "one", "{good}");
    }
    bench.dockerfile(&with(&second, "v1"));
    let got = format!("expected checksum to match {second}, got {tag} or {first}");
    bench.build(&[]).fails(4, &[&got, "Dockerfile:2"]);
    bench.dockerfile(&with("foobar", "v1"));
    bench.build(&[]).fails(4, &["invalid checksum foobar for git source, expected hex commit hash"]);
    bench.dockerfile(&format!("FROM scratch\nCOPY {url} /r/\n"));
    bench.build(&[]).fails(4, &["source can't be a git ref for COPY"]);
    // A ref that moves is noticed, and what it means now is built.
    bench.dockerfile(&add(&format!("{url}#main")));
    bench.build(&[]).ok();
    repository.file("file", "three").commit("third");
    assert_eq!(bench.build_image(&[]).text("r/file"), "three");
}

#[test]
fn a6_21_keep_git_dir_keeps_a_working_repository() {
    let repositories = Repositories::new();
    let (_, first, _) = sample(&repositories);
    let web = Web::git(repositories.path(), None);
    let bench = Bench::new();
    let url = web.url("/a.git");
    bench.dockerfile(&format!("FROM scratch\nADD --keep-git-dir=true {url}#v1 /\n"));
    let tree = bench.path("out/tree");
    bench.build(&["-o", &format!("type=local,dest={}", tree.display())]).ok();
    let git = |args: &[&str]| {
        let mut command = std::process::Command::new("git");
        let output = command.arg("-C").arg(&tree).args(["-c", "safe.directory=*"]).args(args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    assert_eq!(git(&["rev-parse", "HEAD"]), first);
    assert_eq!(git(&["describe"]), "v1");
    assert_eq!(git(&["remote", "get-url", "origin"]), url);
    assert_eq!(git(&["status", "--porcelain"]), "");
    for traces in [".git/logs", ".git/FETCH_HEAD", ".git/hooks"] {
        assert!(!tree.join(traces).exists(), "{traces}");
    }
    let config = std::fs::read_to_string(tree.join(".git/config")).unwrap();
    assert!(!config.contains("extraheader") && !config.contains("/tmp"), "{config}");
}

// SPEC A6.21, A7.06
#[test]
fn a7_06_submodules_come_along() {
    let repositories = Repositories::new();
    let inner = repositories.create("inner.git", &[]);
    inner.file("deep", "deep").commit("deepest");
    let middle = repositories.create("middle.git", &[]);
    middle.file("mid", "mid");
    middle.git(&["submodule", "--quiet", "add", "../inner.git", "inner"]);
    middle.commit("with a submodule");
    // A later commit must not be taken instead of the one that is wanted.
    inner.file("deep", "deeper").commit("later");
    let outer = repositories.create("outer.git", &[]);
    outer.file("top", "top");
    outer.git(&["-c", "protocol.file.allow=always", "submodule", "--quiet", "add", "../middle.git", "part/middle"]);
    outer.commit("with submodules");
    let web = Web::git(repositories.path(), None);
    let bench = Bench::new();
    let url = web.url("/outer.git");
    let image = bench.image_of(&add(&url));
    assert_eq!(image.text("r/part/middle/mid"), "mid");
    assert_eq!(image.text("r/part/middle/inner/deep"), "deep");
    let traces: Vec<String> =
        image.tree().into_keys().filter(|p| p.ends_with("/.git") || p.contains("/.git/")).collect();
    assert_eq!(traces, [""; 0]);
    let image = bench.image_of(&add(&format!("{url}#:part/middle")));
    assert_eq!((image.text("r/mid").as_str(), image.text("r/inner/deep").as_str()), ("mid", "deep"));
    assert!(!image.tree().into_keys().any(|p| p.contains(".rbuild")));
    let image = bench.image_of(&add(&format!("{url}?submodules=false")));
    assert!(image.has("r/top") && !image.has("r/part/middle/mid"));
}

// SPEC A7.06
#[test]
fn hostile_submodules_run_and_read_nothing() {
    let repositories = Repositories::new();
    let marker = repositories.path().join("ran");
    let secret = repositories.create("secret.git", &[]);
    secret.file("x", "x").commit("x");
    let victim = secret.path.display().to_string();
    let web = Web::git(repositories.path(), None);
    for (number, url) in [
        format!("ext::sh -c touch% {}", marker.display()),
        format!("file://{victim}"),
        victim.clone(),
        format!("--upload-pack=touch {}", marker.display()),
        "ssh://-oProxyCommand=id/x".to_owned(),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("h{number}.git");
        let repository = repositories.create(&name, &[]);
        repository.file(
            ".gitmodules",
            &format!("[submodule \"s\"]\n\tpath = s\n\turl = \"{url}\"\n\tupdate = !touch {}\n", marker.display()),
        );
        repository.git(&["add", "-A"]);
        let commit = secret.git(&["rev-parse", "HEAD"]);
        repository.git(&["update-index", "--add", "--cacheinfo", &format!("160000,{commit},s")]);
        repository.git(&["commit", "--quiet", "-m", "hostile"]);
        let bench = Bench::new();
        bench.dockerfile(&add(&web.url(&format!("/{name}"))));
        let run = bench.build(&[]);
        assert_ne!(run.code, 0, "{url}: {}", run.stderr);
        assert!(run.stderr.contains("failed to fetch the submodules of"), "{url}: {}", run.stderr);
        assert!(!marker.exists(), "{url} ran something");
        let bench = Bench::new();
        bench.dockerfile(&add(&format!("{}?submodules=0", web.url(&format!("/{name}")))));
        bench.build(&[]).ok();
    }
}

// SPEC C2.04
#[test]
fn nothing_of_a_repository_or_of_the_user_runs() {
    let repositories = Repositories::new();
    let marker = repositories.path().join("ran");
    let repository = repositories.create("a.git", &[]);
    repository.file(".gitattributes", "* filter=evil\n*.txt text eol=crlf\n").file("f", "x").commit("x");
    let web = Web::git(repositories.path(), None);
    let mut bench = Bench::new();
    let evil = format!("touch {}", marker.display());
    std::fs::write(
        bench.path("home/.gitconfig"),
        format!("[filter \"evil\"]\n\tsmudge = {evil}; cat\n\trequired = true\n[core]\n\tfsmonitor = {evil}\n\thooksPath = {0}\n[credential]\n\thelper = \"!{evil}\"\n[url \"ext::{evil}\"]\n\tinsteadOf = http://\n", repositories.path().display()),
    )
    .unwrap();
    for (name, value) in
        [("GIT_SSH_COMMAND", evil.as_str()), ("GIT_ASKPASS", "/bin/true"), ("GIT_TRACE", "/tmp/rbuild-trace")]
    {
        bench.env.push((name.into(), value.into()));
    }
    assert_eq!(bench.image_of(&add(&web.url("/a.git"))).text("r/f"), "x");
    assert!(!marker.exists());
}

// SPEC A7.05
#[test]
fn a7_05_tokens_let_in_and_leave_no_trace() {
    use base64::Engine as _;
    let repositories = Repositories::new();
    sample(&repositories);
    let pair = base64::engine::general_purpose::STANDARD.encode("x-access-token:s3cr3t-t0ken");
    let web = Web::git(repositories.path(), Some(&format!("basic {pair}")));
    let mut bench = Bench::new();
    bench.dockerfile(&format!("FROM scratch\nADD --keep-git-dir=true {} /r/\n", web.url("/a.git")));
    bench.build(&[]).fails(6, &["failed to fetch remote", "hint:", "GIT_AUTH_TOKEN"]);
    bench.env.push(("TOKEN".into(), "s3cr3t-t0ken".into()));
    let tar = format!("type=oci,dest={}", bench.path("i.tar").display());
    for id in ["GIT_AUTH_TOKEN".to_owned(), format!("GIT_AUTH_TOKEN.{}", web.host)] {
        let run = bench.build(&["--no-cache", "--secret", &format!("id={id},env=TOKEN"), "-o", &tar]).ok();
        assert!(!run.stderr.contains("s3cr3t") && !run.stderr.contains(&pair), "{}", run.stderr);
    }
    for entry in walkdir::WalkDir::new(bench.store()).into_iter().flatten().filter(|e| e.file_type().is_file()) {
        let bytes = std::fs::read(entry.path()).unwrap_or_default();
        for text in ["s3cr3t-t0ken", pair.as_str()] {
            let found = bytes.windows(text.len()).any(|w| w == text.as_bytes());
            assert!(!found, "the token is in {}", entry.path().display());
        }
    }
}

#[test]
fn a7_01_git_daemon() {
    let repositories = Repositories::new();
    sample(&repositories);
    let server = need!(support::git::daemon(&repositories));
    let bench = Bench::new();
    let image = bench.image_of(&add(&format!("git://{}/a.git#v1", server.host)));
    assert_eq!(image.text("r/file"), "one");
}

// SPEC A7.09
#[test]
fn a7_09_repositories_with_sha256() {
    let repositories = Repositories::new();
    let repository = repositories.create("s.git", &["--object-format=sha256"]);
    let first = repository.file("f", "one").commit("first");
    assert_eq!(first.len(), 64);
    repository.file("f", "two").commit("second");
    let web = Web::git(repositories.path(), None);
    let bench = Bench::new();
    let url = web.url("/s.git");
    for (reference, content) in [("main", "two"), (first.as_str(), "one")] {
        assert_eq!(bench.image_of(&add(&format!("{url}#{reference}"))).text("r/f"), content, "{reference}");
    }
    let image = bench.image_of(&format!("FROM scratch\nADD --keep-git-dir=true {url} /r/\n"));
    assert_eq!(image.text("r/f"), "two");
}

// SPEC C2.04
#[test]
fn two_builds_at_once_share_a_repository() {
    let repositories = Repositories::new();
    let (_, first, second) = sample(&repositories);
    let web = Web::git(repositories.path(), None);
    let bench = Bench::new();
    bench.dockerfile(&format!(
        "FROM scratch\nADD {0}#{first} /1/\nADD {0}#{second} /2/\nADD {0}#feature/x /3/\n",
        web.url("/a.git")
    ));
    let mut both =
        [bench.build_command(&["-t", "a"]), bench.build_command(&["-t", "b"])].map(|mut c| c.spawn().unwrap());
    for child in &mut both {
        assert!(child.wait().unwrap().success());
    }
    let du = bench.rbuild(&["du", "--filter", "type=source.git.checkout"]).ok();
    assert_eq!(du.stdout.matches("git-").count(), 1, "{}", du.stdout);
}

// SPEC A6.22, A7.01, C2.04
#[test]
fn a6_22_repositories_over_ssh() {
    let repositories = Repositories::new();
    let (repository, ..) = sample(&repositories);
    let sshd = need!(support::git::Sshd::start());
    let mut bench = Bench::new();
    let url = format!("ssh://{}@{}{}", sshd.user, sshd.server.host, repository.path.display());
    bench.dockerfile(&add(&format!("{url}#v1")));
    bench.build(&[]).fails(2, &["no ssh agent or key \"default\"", "--ssh default"]);
    let key = format!("default={}", sshd.key.display());
    let run = bench.build(&["--ssh", &key]).ok();
    assert!(run.stderr.contains("its key was taken on trust"), "{}", run.stderr);
    let known = bench.path("home/.ssh/known_hosts");
    std::fs::create_dir(known.parent().unwrap()).unwrap();
    std::fs::write(&known, &sshd.known_host).unwrap();
    let run = bench.build(&["--no-cache", "--ssh", &key]).ok();
    assert!(!run.stderr.contains("on trust"), "{}", run.stderr);
    let other = std::fs::read_to_string(sshd.key.with_extension("pub")).unwrap();
    let host = sshd.known_host.split(' ').next().unwrap();
    std::fs::write(&known, format!("{host} {other}")).unwrap();
    bench.build(&["--no-cache", "--ssh", &key]).fails(6, &["Host key verification failed", "known_hosts"]);
    std::fs::write(&known, &sshd.known_host).unwrap();
    let (_agent, socket) = sshd.agent().unwrap();
    bench.env.push(("SSH_AUTH_SOCK".into(), socket.display().to_string()));
    bench.build(&["--no-cache"]).fails(2, &["no ssh agent or key"]);
    assert_eq!(bench.build_image(&["--no-cache", "--ssh", "default"]).text("r/file"), "one");
    // A context that the user names may use the user's agent.
    let context = format!("n={url}");
    bench.dockerfile("FROM scratch\nCOPY --from=n /file /f\n");
    assert_eq!(bench.build_image(&["--build-context", &context]).text("f"), "two");
}
