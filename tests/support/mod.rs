//! What black-box tests share: running the real binary with a store of its own, base images, a real registry, and
//! looking into what came out. Nothing here mocks anything.
#![allow(dead_code, reason = "each test program uses a part of this")]
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::print_stderr, reason = "skip reasons are collected by scripts/test")]

pub mod git;
pub mod image;
pub mod registry;
pub mod services;
pub mod terminal;
pub mod web;

use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// The binary under test.
pub fn rbuild_path() -> PathBuf {
    std::env::var_os("RBUILD_BIN").map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_rbuild")), PathBuf::from)
}

/// Where `scripts/base-images` put the bases; `None` says why not.
pub fn bases() -> Result<PathBuf, String> {
    let data = std::env::var_os("RBUILD_TEST_DATA").map(PathBuf::from).or_else(|| {
        let home = PathBuf::from(std::env::var_os("HOME")?).join(".cache/rbuild-test");
        [PathBuf::from("/var/cache/rbuild-test"), home].into_iter().find(|p| p.join("bases").is_dir())
    });
    let bases = data.ok_or("no base images; run scripts/setup")?.join("bases");
    if bases.join("busybox/index.json").is_file() { Ok(bases) } else { Err("no base images; run scripts/setup".into()) }
}

/// Ends a test early, saying why in a line that `scripts/test` collects.
#[macro_export]
macro_rules! skip {
    ($($reason:tt)*) => {{
        eprintln!("skipped: {}", format!($($reason)*));
        return;
    }};
}

/// A store, a context and a scratch directory that vanish with the test.
pub struct Bench {
    dir: tempfile::TempDir,
    /// Extra environment of every run.
    pub env: Vec<(String, String)>,
    /// Extra arguments put before the others of every build.
    pub args: Vec<String>,
}

/// How a run ended.
pub struct Run {
    /// Exit code; -1 for a signal.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Run {
    /// Fails the test unless the run succeeded.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "rbuild failed:\n{}\n{}", self.stdout, self.stderr);
        self
    }

    /// Fails the test unless the run failed with this code and every text is in its standard error.
    #[track_caller]
    pub fn fails(self, code: i32, texts: &[&str]) -> Self {
        assert_eq!(self.code, code, "expected exit code {code}:\n{}\n{}", self.stdout, self.stderr);
        for text in texts {
            assert!(self.stderr.contains(text), "expected {text:?} in:\n{}", self.stderr);
        }
        assert!(!self.stderr.contains("panicked"), "a panic reached the user:\n{}", self.stderr);
        self
    }

    /// How many times `text` is in the progress.
    pub fn count(&self, text: &str) -> usize {
        self.stderr.matches(text).count()
    }
}

impl Bench {
    /// An empty one. The busybox base is the named context `busybox`.
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("rbuild-test-").tempdir().unwrap();
        for sub in ["ctx", "home", "out"] {
            fs::create_dir(dir.path().join(sub)).unwrap();
        }
        let mut args = Vec::new();
        if let Ok(bases) = bases() {
            for name in ["busybox", "debian", "python"] {
                args.push("--build-context".into());
                args.push(format!("{name}=oci-layout://{}", bases.join(name).display()));
            }
        }
        Self { dir, env: Vec::new(), args }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// With the attestations that users get who ask for none.
    pub fn with_default_attestations(mut self) -> Self {
        self.env.push(("BUILDX_NO_DEFAULT_ATTESTATIONS".into(), "0".into()));
        self
    }

    /// The build context.
    pub fn ctx(&self) -> PathBuf {
        self.path("ctx")
    }

    /// The store.
    pub fn store(&self) -> PathBuf {
        self.path("store")
    }

    /// Writes a file of the context, with its parents.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> &Self {
        let path = self.ctx().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        self
    }

    /// Sets permission bits of a file of the context.
    pub fn chmod(&self, name: &str, mode: u32) -> &Self {
        fs::set_permissions(self.ctx().join(name), fs::Permissions::from_mode(mode)).unwrap();
        self
    }

    /// Makes a symlink in the context.
    pub fn symlink(&self, target: &str, name: &str) -> &Self {
        std::os::unix::fs::symlink(target, self.ctx().join(name)).unwrap();
        self
    }

    /// Writes the Dockerfile.
    pub fn dockerfile(&self, text: &str) -> &Self {
        self.file("Dockerfile", text)
    }

    /// A command for `rbuild ARGS` with this bench's store and home.
    pub fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(rbuild_path());
        command.arg("--root").arg(self.store()).args(args).current_dir(self.path("out"));
        command.env("HOME", self.path("home")).env_remove("XDG_DATA_HOME").env_remove("DOCKER_CONFIG");
        // Caches are waited for however busy the machine is; tests of patience say otherwise.
        command.env("RBUILD_CACHE_PATIENCE", "10m");
        // Most tests look at the image itself, and compare IDs. What docker's default puts beside it is what
        // `tests/attestations.rs` is about; tests that count requests have it, too.
        command.env("BUILDX_NO_DEFAULT_ATTESTATIONS", "1");
        command.env("NO_COLOR", "1").envs(self.env.iter().map(|(k, v)| (k, v)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs `rbuild ARGS`.
    pub fn rbuild(&self, args: &[&str]) -> Run {
        finish(self.command(args).output().unwrap())
    }

    /// Runs `rbuild build --progress plain … ARGS CONTEXT`.
    pub fn build(&self, args: &[&str]) -> Run {
        finish(self.build_command(args).output().unwrap())
    }

    /// The command of [`Bench::build`].
    pub fn build_command(&self, args: &[&str]) -> Command {
        self.command_on_context("build", args)
    }

    /// The command `rbuild COMMAND --progress plain … ARGS CONTEXT`, for commands that build.
    pub fn command_on_context(&self, command: &str, args: &[&str]) -> Command {
        let mut all: Vec<String> = vec![command.into(), "--progress".into(), "plain".into()];
        all.extend(self.args.iter().cloned());
        all.extend(args.iter().map(|a| (*a).to_owned()));
        all.push(self.ctx().display().to_string());
        self.command(all)
    }

    /// Runs a build with something on standard input.
    pub fn build_stdin(&self, args: &[&str], input: &[u8]) -> Run {
        let mut all: Vec<String> = vec!["build".into(), "--progress".into(), "plain".into()];
        all.extend(self.args.iter().cloned());
        all.extend(args.iter().map(|a| (*a).to_owned()));
        all.push(self.ctx().display().to_string());
        let mut child = self.command(all).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        finish(child.wait_with_output().unwrap())
    }

    /// Builds to an OCI archive and reads it back.
    #[track_caller]
    pub fn build_image(&self, args: &[&str]) -> image::Image {
        let tar = self.path("image.tar");
        let dest = format!("type=oci,dest={}", tar.display());
        let mut all = vec!["-o", dest.as_str()];
        all.extend(args);
        self.build(&all).ok();
        image::Image::open_tar(&tar)
    }

    /// Builds a Dockerfile that only has this text and returns the image.
    #[track_caller]
    pub fn image_of(&self, dockerfile: &str) -> image::Image {
        self.dockerfile(dockerfile);
        self.build_image(&[])
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // What a user namespace owns, only the user namespace can delete.
        let _ = self.command(["system", "reset", "--force"]).output();
        make_removable(self.dir.path());
    }
}

pub fn make_removable(dir: &Path) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            let _ = fs::set_permissions(entry.path(), fs::Permissions::from_mode(0o700));
            make_removable(&entry.path());
        }
    }
}

pub fn finish(output: Output) -> Run {
    Run {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Whether this machine can run steps for this user; the reason if not.
pub fn can_run() -> Result<(), String> {
    bases()?;
    let output =
        Command::new(rbuild_path()).args(["doctor", "--format", "json"]).output().map_err(|e| e.to_string())?;
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).map_err(|e| e.to_string())?;
    match report["rung"].as_str() {
        Some("root" | "userns") => Ok(()),
        _ => Err(format!("RUN is not possible here: {}", report["blockers"])),
    }
}

/// What a test needs, or the end of it: it is skipped, and says why.
#[macro_export]
macro_rules! need {
    ($what:expr) => {
        match $what {
            Ok(it) => it,
            Err(why) => $crate::skip!("{why}"),
        }
    };
}

/// Skips the test unless steps can run.
#[macro_export]
macro_rules! need_run {
    () => {
        $crate::need!(support::can_run())
    };
}
