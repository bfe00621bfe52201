//! Signatures of commits, tags and downloads, with git, gpg and ssh-keygen as the signers (SPEC A7.07, B8.09).
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::print_stderr, reason = "skip reasons are collected by scripts/test")]
#![allow(missing_docs, unreachable_pub, reason = "a test program")]

mod support;

use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output};

use serde_json::json;
use support::Bench;
use support::git::{Repositories, Repository};
use support::web::{Answer, Web};

/// Somebody with PGP keys of their own, and an agent that ends with the test.
struct Gpg {
    dir: tempfile::TempDir,
}

impl Drop for Gpg {
    fn drop(&mut self) {
        let _ = Command::new("gpgconf").arg("--homedir").arg(self.dir.path()).args(["--kill", "all"]).output();
    }
}

impl Gpg {
    /// With a key of this kind, which expires as gpg says it.
    fn new(kind: &str, expires: &str) -> Result<Self, String> {
        let gpg = Self { dir: tempfile::Builder::new().prefix("gpg").tempdir().map_err(|e| e.to_string())? };
        Command::new("gpg").arg("--version").output().map_err(|e| format!("gpg: {e}"))?;
        gpg.run(&["--quick-generate-key", "Ann <ann@h.example>", kind, "sign", expires]);
        Ok(gpg)
    }

    fn output(&self, args: &[&str]) -> Output {
        let mut command = Command::new("gpg");
        command.arg("--homedir").arg(self.dir.path()).args(["--batch", "--yes", "--quiet", "--passphrase", ""]);
        command.args(["--pinentry-mode", "loopback"]).args(args).output().unwrap()
    }

    fn run(&self, args: &[&str]) -> Vec<u8> {
        let output = self.output(args);
        assert!(output.status.success(), "gpg {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    fn public(&self) -> String {
        String::from_utf8(self.run(&["--armor", "--export"])).unwrap()
    }

    /// Sixteen digits of the last key or subkey.
    fn id(&self) -> String {
        let listed = String::from_utf8(self.run(&["--list-keys", "--with-colons"])).unwrap();
        let key = listed.lines().rfind(|line| line.starts_with("pub:") || line.starts_with("sub:")).unwrap();
        key.split(':').nth(4).unwrap().to_lowercase()
    }

    /// Everything that is committed and tagged with `-S` or `-s` from now on is signed.
    fn signs(&self, repository: &Repository) {
        let program = self.dir.path().join("signer");
        let script = format!("#!/bin/sh\nexec gpg --homedir {} \"$@\"\n", self.dir.path().display());
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        repository.git(&["config", "gpg.format", "openpgp"]);
        repository.git(&["config", "gpg.program", program.to_str().unwrap()]);
        repository.git(&["config", "user.signingkey", "ann@h.example"]);
    }
}

/// Somebody with an SSH key.
struct Ssh {
    dir: tempfile::TempDir,
}

impl Ssh {
    fn new(kind: &[&str]) -> Result<Self, String> {
        let ssh = Self { dir: tempfile::tempdir().map_err(|e| e.to_string())? };
        let mut command = Command::new("ssh-keygen");
        command.args(["-q", "-N", "", "-C", "ann", "-f"]).arg(ssh.dir.path().join("key")).arg("-t").args(kind);
        let output = command.output().map_err(|e| format!("ssh-keygen: {e}"))?;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(ssh)
    }

    fn public(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("key.pub")).unwrap()
    }

    fn signs(&self, repository: &Repository) {
        repository.git(&["config", "gpg.format", "ssh"]);
        repository.git(&["config", "user.signingkey", self.dir.path().join("key").to_str().unwrap()]);
    }
}

/// A repository behind a web server, and a bench that asks for its signatures.
struct World {
    repositories: Repositories,
    repository: Repository,
    web: Web,
    bench: Bench,
}

impl World {
    fn new() -> Self {
        let repositories = Repositories::new();
        let repository = repositories.create("a.git", &[]);
        let web = Web::git(repositories.path(), None);
        Self { repositories, repository, web, bench: Bench::new() }
    }

    /// Commits with a signature.
    fn commit(&self, content: &str) -> String {
        self.repository.file("file", content).git(&["add", "-A"]);
        self.repository.git(&["commit", "--quiet", "-S", "-m", content]);
        self.repository.git(&["rev-parse", "HEAD"])
    }

    /// Builds with this ref, whose `git.sig.…` attributes a policy sets: no form of a reference does.
    fn build(&self, reference: &str, attributes: &[(&str, &str)]) -> support::Run {
        let identifier = format!("git://{}/a.git*", self.web.host);
        let attributes: serde_json::Map<_, _> =
            attributes.iter().map(|(name, value)| (format!("git.sig.{name}"), json!(value))).collect();
        let policy = json!({ "version": 1, "rules": [{ "action": "CONVERT",
            "selector": { "identifier": identifier }, "updates": { "attrs": attributes } }] });
        std::fs::write(self.bench.path("out/policy.json"), policy.to_string()).unwrap();
        self.bench.dockerfile(&format!("FROM scratch\nADD {}#{reference} /\n", self.web.url("/a.git")));
        self.bench.build(&["--source-policy-file", "policy.json"])
    }

    /// Builds under a policy in Rego that has this beside it.
    fn build_if(&self, reference: &str, condition: &str, files: &[(&str, &str)]) -> support::Run {
        let rules = format!(
            "package docker\ndefault allow := false\nallow if input.local\nallow if {{ {condition} }}\n\
             decision := {{\"allow\": allow}}\n"
        );
        self.bench.file("Dockerfile.rego", rules);
        for (name, text) in files {
            self.bench.file(name, text);
        }
        self.bench.dockerfile(&format!("FROM scratch\nADD {}#{reference} /\n", self.web.url("/a.git")));
        self.bench.build(&[])
    }
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.repositories.path().display())
    }
}

// SPEC A7.07: keys of every kind that git signs with; another key, no signature and a changed commit are told.
#[test]
fn a7_07_commits_are_verified_by_pgp_keys() {
    let other = need!(Gpg::new("ed25519", "never"));
    for kind in ["ed25519", "nistp256", "rsa2048"] {
        let (gpg, world) = (need!(Gpg::new(kind, "never")), World::new());
        gpg.signs(&world.repository);
        let commit = world.commit("one");
        world.build("main", &[("pubkey", &gpg.public())]).ok();
        world.build(&commit, &[("pubkey", &format!("{}{}", other.public(), gpg.public()))]).ok();
        let expected = format!("the commit is signed by PGP key {}, expected PGP key {}", gpg.id(), other.id());
        world.build("main", &[("pubkey", &other.public())]).fails(4, &[&expected, ">>> ADD", &world.web.host]);
        // What was built without a question is not used where there is one.
        world.build("main", &[]).ok();
        world.build("main", &[("pubkey", &other.public())]).fails(4, &[&expected]);
        world
            .build("main", &[("pubkey", &gpg.public()), ("requiresignedtag", "true")])
            .fails(4, &["a signed annotated tag is required, and the ref is none"]);
        let unsigned = world.repository.file("file", "two").commit("two");
        world
            .build(&unsigned, &[("pubkey", &gpg.public())])
            .fails(4, &["the commit is not signed, expected a signature by PGP key"]);
        // The signature of one commit under another.
        let text = world.repository.git(&["cat-file", "commit", &commit]).replace("\n\none", "\n\nwon");
        std::fs::write(world.repository.path.join("changed"), format!("{text}\n")).unwrap();
        let changed = world.repository.git(&["hash-object", "-t", "commit", "-w", "changed"]);
        world.repository.git(&["update-ref", "refs/heads/changed", &changed]);
        world.build("changed", &[("pubkey", &gpg.public())]).fails(4, &[&gpg.id(), "which does not count: "]);
    }
}

// SPEC A7.07: subkeys sign for their key; what has expired or was revoked does not count.
#[test]
fn a7_07_what_keys_say_of_themselves_counts() {
    let (gpg, world) = (need!(Gpg::new("ed25519", "never")), World::new());
    let fingerprint = String::from_utf8(gpg.run(&["--list-keys", "--with-colons"])).unwrap();
    let fingerprint = fingerprint.lines().find_map(|line| line.strip_prefix("fpr:::::::::")).unwrap().replace(':', "");
    gpg.run(&["--quick-add-key", &fingerprint, "ed25519", "sign", "never"]);
    gpg.signs(&world.repository);
    world.commit("by the subkey");
    world.build("main", &[("pubkey", &gpg.public())]).ok();
    // Expired since: the signature is older, so it counts unless that is not wanted.
    gpg.run(&["--quick-set-expire", &fingerprint, "seconds=2"]);
    std::thread::sleep(std::time::Duration::from_secs(3));
    world.build("main", &[("pubkey", &gpg.public())]).ok();
    world
        .build("main", &[("pubkey", &gpg.public()), ("rejectexpired", "true")])
        .fails(4, &["which does not count: the key expired at 20"]);
    gpg.run(&["--quick-set-expire", &fingerprint, "never"]);
    world.build("main", &[("pubkey", &gpg.public()), ("rejectexpired", "true")]).ok();
    let revoked = gpg.dir.path().join(format!("openpgp-revocs.d/{fingerprint}.rev"));
    let text = std::fs::read_to_string(&revoked).unwrap().replace(":-----BEGIN", "-----BEGIN");
    std::fs::write(&revoked, text).unwrap();
    gpg.run(&["--import", revoked.to_str().unwrap()]);
    world.build("main", &[("pubkey", &gpg.public())]).fails(4, &["which does not count: the key was revoked"]);
}

// SPEC A7.07
#[test]
fn a7_07_commits_are_verified_by_ssh_keys() {
    let other = need!(Ssh::new(&["ed25519"]));
    for kind in [
        &["ed25519"][..],
        &["ecdsa", "-b", "256"],
        &["ecdsa", "-b", "384"],
        &["ecdsa", "-b", "521"],
        &["rsa", "-b", "2048"],
    ] {
        let (ssh, world) = (need!(Ssh::new(kind)), World::new());
        ssh.signs(&world.repository);
        world.commit("one");
        world.build("main", &[("pubkey", &format!("# keys\n{}{}", other.public(), ssh.public()))]).ok();
        world
            .build("main", &[("pubkey", &other.public())])
            .fails(4, &["the commit is signed by SSH key SHA256:", ", expected SSH key SHA256:"]);
        world.repository.git(&["tag", "-s", "v1", "-m", "signed"]);
        world.build("v1", &[("pubkey", &ssh.public()), ("requiresignedtag", "true")]).ok();
        let text = world.repository.git(&["cat-file", "commit", "HEAD"]).replace("\n\none", "\n\nwon");
        std::fs::write(world.repository.path.join("changed"), format!("{text}\n")).unwrap();
        let changed = world.repository.git(&["hash-object", "-t", "commit", "-w", "changed"]);
        world.repository.git(&["update-ref", "refs/heads/changed", &changed]);
        world.build("changed", &[("pubkey", &ssh.public())]).fails(4, &["it is not a signature of this"]);
    }
}

// SPEC A7.07: a tag's signature is enough unless only the commit's counts; a server cannot put another commit behind it.
#[test]
fn a7_07_tags_are_verified() {
    let (gpg, world) = (need!(Gpg::new("ed25519", "never")), World::new());
    gpg.signs(&world.repository);
    world.repository.file("file", "one").commit("not signed");
    world.repository.git(&["tag", "-s", "v1", "-m", "version 1"]);
    world.repository.git(&["tag", "-a", "plain", "-m", "not signed"]);
    let key = gpg.public();
    world.build("v1", &[("pubkey", &key)]).ok();
    world.build("v1", &[("pubkey", &key), ("requiresignedtag", "true")]).ok();
    world.build("v1", &[("pubkey", &key), ("ignoresignedtag", "true")]).fails(4, &["the commit is not signed"]);
    world.build("plain", &[("pubkey", &key)]).fails(4, &["the tag plain is not signed", "the commit is not signed"]);
    world
        .build("plain", &[("pubkey", &key), ("requiresignedtag", "true")])
        .fails(4, &["the tag plain is not signed, expected a signature by PGP key"]);
    let evil = world.repository.file("file", "evil").commit("evil");
    world.repository.git(&["pack-refs", "--all"]);
    let refs = world.repository.path.join(".git/packed-refs");
    let good = world.repository.git(&["rev-parse", "v1^{commit}"]);
    let text = std::fs::read_to_string(&refs).unwrap().replace(&format!("^{good}"), &format!("^{evil}"));
    std::fs::write(&refs, text).unwrap();
    let bench = World { bench: Bench::new(), ..world };
    bench.build("v1", &[("pubkey", &key)]).fails(4, &[&format!("leads to {good}, and the server says {evil}")]);
}

// SPEC B8.09: what policies see of objects, and their function; what it found is told.
#[test]
fn b8_09_policies_look_at_git_objects_and_their_signatures() {
    let (gpg, ssh, world) = (need!(Gpg::new("ed25519", "never")), need!(Ssh::new(&["ed25519"])), World::new());
    gpg.signs(&world.repository);
    world.commit("one");
    ssh.signs(&world.repository);
    world.repository.git(&["tag", "-s", "v1", "-m", "version 1"]);
    let (key, public) = (gpg.public(), ssh.public());
    let files = [("keys/pgp.asc", key.as_str()), ("keys/ssh.pub", public.as_str())];
    let fingerprint = gpg.id();
    for condition in [
        "verify_git_signature(input.git.commit, \"keys/pgp.asc\")".to_owned(),
        "verify_git_signature(input.git.tag, \"keys/ssh.pub\"); input.git.tag.tag == input.git.tagName".into(),
        "input.git.isAnnotatedTag; input.git.checksum != input.git.commitChecksum; input.git.tag.type == \"commit\""
            .into(),
        format!("input.git.commit.pgpSignature.keyID == \"{fingerprint}\"; input.git.commit.pgpSignature.version == 4"),
        "startswith(input.git.tag.sshSignature.pubKey, \"SHA256:\"); input.git.tag.message == \"version 1\\n\"".into(),
        "input.git.commit.author.email == \"a@h.example\"; input.git.commit.author.when == \"2023-11-14T22:13:20Z\""
            .into(),
        "input.git.tag.tagger.name == \"A\"; input.git.tag.object == input.git.commitChecksum".into(),
    ] {
        let run = world.build_if("v1", &condition, &files);
        assert_eq!(run.code, 0, "{condition}: {}", run.stderr);
    }
    let wrong = "verify_git_signature(input.git.tag, \"keys/pgp.asc\")";
    let told = "action DENY: verify_git_signature: the tag v1 is signed by SSH key SHA256:";
    world.build_if("v1", wrong, &files).fails(4, &[told, "expected PGP key", ">>> ADD"]);
    world
        .build_if(
            "main",
            "not input.git.isAnnotatedTag; not input.git.tag; input.git.commit.message == \"one\\n\"",
            &[],
        )
        .ok();
    world
        .build_if("main", "verify_git_signature(input.git.commit, \"../keys.asc\")", &[])
        .fails(4, &["verify_git_signature: ../keys.asc"]);
    world
        .build_if("main", "verify_git_signature(input.git.commit, \"Dockerfile\")", &[])
        .fails(4, &["Dockerfile: a line begins with"]);
}

// SPEC B8.09
#[test]
fn b8_09_policies_verify_pgp_signatures_of_downloads() {
    let (gpg, other) = (need!(Gpg::new("ed25519", "never")), need!(Gpg::new("rsa2048", "never")));
    let web = Web::start(|request| {
        let body: &[u8] = if request.path() == "/tool" { b"the tool" } else { b"another" };
        Answer::new(200).with_body("application/octet-stream", body.to_vec())
    });
    let bench = Bench::new();
    let file = gpg.dir.path().join("tool");
    std::fs::write(&file, "the tool").unwrap();
    gpg.run(&["--armor", "--detach-sign", file.to_str().unwrap()]);
    bench.file("tool.asc", std::fs::read(file.with_extension("asc")).unwrap());
    bench.file("ann.asc", gpg.public());
    bench.file("other.asc", other.public());
    bench.file("nothing.asc", "nothing");
    let build = |path: &str, key: &str, signature: &str| {
        bench.dockerfile(&format!("FROM scratch\nADD {} /tool\n", web.url(path)));
        bench.file(
            "Dockerfile.rego",
            format!(
                "package docker\ndefault allow := false\n\
                 allow if input.local\nallow if verify_http_pgp_signature(input.http, \"{signature}\", \"{key}\")\ndecision := {{\"allow\": allow}}\n"
            ),
        );
        bench.build(&[])
    };
    build("/tool", "ann.asc", "tool.asc").ok();
    build("/another", "ann.asc", "tool.asc").fails(4, &["which does not count: it is a signature of something else"]);
    let told = format!("it is signed by PGP key {}, expected PGP key {}", gpg.id(), other.id());
    build("/tool", "other.asc", "tool.asc").fails(4, &["action DENY: verify_http_pgp_signature: ", &told]);
    build("/tool", "ann.asc", "nothing.asc").fails(4, &["nothing.asc: it is no armored PGP signature"]);
    build("/tool", "nothing.asc", "tool.asc").fails(4, &["nothing.asc: it has no PGP public key"]);
}
