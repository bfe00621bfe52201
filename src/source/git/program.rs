//! The `git` program: how it is run, and what of its environment it sees.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use rustix::process::{Pid, Signal};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::time::{Duration, timeout};

use super::access::{Access, GitOptions};
use super::error::GitError;

/// How much of its output is kept.
const OUTPUT: u64 = 64 << 20;
/// How much of its complaints is kept.
const COMPLAINTS: u64 = 64 << 10;

/// How long one command may take.
#[derive(Debug, Clone, Copy)]
pub(super) enum Patience {
    /// Questions and local work.
    Short,
    /// Transfers.
    Long,
}

impl Patience {
    fn limit(self) -> Duration {
        Duration::from_secs(match self {
            Self::Short => 300,
            Self::Long => 2 * 3600,
        })
    }
}

/// git with one repository's access.
pub(super) struct Git<'a> {
    pub(super) options: &'a GitOptions,
    pub(super) access: &'a Access,
    /// `--git-dir`.
    pub(super) dir: Option<PathBuf>,
    /// `--work-tree`, also the working directory.
    pub(super) work_tree: Option<PathBuf>,
    /// A file that stands in for the index.
    pub(super) index: Option<PathBuf>,
    /// Reading from another repository of the store is allowed, and nothing else.
    pub(super) local_only: bool,
}

impl<'a> Git<'a> {
    /// For commands without a repository.
    pub(super) fn new(options: &'a GitOptions, access: &'a Access) -> Self {
        Self { options, access, dir: None, work_tree: None, index: None, local_only: false }
    }

    /// The same for the repository at `dir`.
    pub(super) fn at(&self, dir: &Path) -> Self {
        Self { dir: Some(dir.into()), ..Self::new(self.options, self.access) }
    }

    /// Runs a command; its output if it succeeds.
    ///
    /// # Errors
    /// With git's own words.
    pub(super) async fn run<S: AsRef<OsStr>>(
        &self,
        action: &'static str,
        patience: Patience,
        args: &[S],
    ) -> Result<String, GitError> {
        Ok(String::from_utf8_lossy(&self.run_bytes(action, patience, args).await?).into_owned())
    }

    /// The same for output that is no text.
    ///
    /// # Errors
    /// As [`Git::run`].
    pub(super) async fn run_bytes<S: AsRef<OsStr>>(
        &self,
        action: &'static str,
        patience: Patience,
        args: &[S],
    ) -> Result<Vec<u8>, GitError> {
        let (status, stdout, stderr) = self.output(patience, args).await?;
        if status.success() {
            return Ok(stdout);
        }
        Err(GitError::Failed { action, remote: self.access.remote.clone(), message: complaint(&stderr, status) })
    }

    /// Whether a command says yes.
    pub(super) async fn says<S: AsRef<OsStr>>(&self, args: &[S]) -> Result<bool, GitError> {
        Ok(self.output(Patience::Short, args).await?.0.success())
    }

    async fn output<S: AsRef<OsStr>>(
        &self,
        patience: Patience,
        args: &[S],
    ) -> Result<(ExitStatus, Vec<u8>, String), GitError> {
        let mut command = tokio::process::Command::new("git");
        if let Some(dir) = &self.dir {
            command.arg("--git-dir").arg(dir);
        }
        if let Some(dir) = &self.work_tree {
            command.arg("--work-tree").arg(dir).current_dir(dir);
        } else {
            command.current_dir(self.access.home());
        }
        command.args(args);
        command.env_clear().env("PATH", &self.options.path).env("HOME", self.access.home());
        command.env("LC_ALL", "C").env("TZ", "UTC");
        command.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", self.access.config());
        command.env("GIT_ATTR_NOSYSTEM", "1").env("GIT_TERMINAL_PROMPT", "0").env("GIT_OPTIONAL_LOCKS", "0");
        command.env("GIT_ALLOW_PROTOCOL", if self.local_only { "file" } else { "http:https:git:ssh" });
        command.env("GIT_NO_REPLACE_OBJECTS", "1").env("GIT_ADVICE", "0").env("GIT_LFS_SKIP_SMUDGE", "1");
        if let Some(index) = &self.index {
            command.env("GIT_INDEX_FILE", index);
        }
        for (name, value) in self.access.variables() {
            command.env(name, value);
        }
        let proxies = &self.options.proxies;
        for (name, value) in
            [("http_proxy", &proxies.http), ("https_proxy", &proxies.https), ("all_proxy", &proxies.all)]
        {
            if let Some(value) = value {
                command.env(name, value);
            }
        }
        // This machine is never reached through a proxy.
        let direct = proxies.no_proxy.iter().map(String::as_str).chain(["localhost", "127.0.0.1", "::1"]);
        command.env("no_proxy", direct.collect::<Vec<_>>().join(","));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A group of its own, so that helpers go with it.
        command.process_group(0).kill_on_drop(true);
        let mut child = command.spawn().map_err(GitError::Program)?;
        let _group = Group(child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw));
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let all = async {
            let ((out, complete), (err, _)) = tokio::join!(read(stdout, OUTPUT), read(stderr, COMPLAINTS));
            (child.wait().await, out, complete, err)
        };
        let limit = patience.limit();
        let failed =
            |message: String| GitError::Failed { action: "fetch remote", remote: self.access.remote.clone(), message };
        let (status, out, complete, err) =
            timeout(limit, all).await.map_err(|_| failed(format!("no answer in {} s", limit.as_secs())))?;
        if !complete {
            return Err(failed(format!("the answer is larger than {OUTPUT} bytes")));
        }
        Ok((status.map_err(GitError::Program)?, out, String::from_utf8_lossy(&err).into_owned()))
    }
}

/// Reads to the end, keeps at most `limit` bytes, and says whether that was all.
async fn read(pipe: Option<impl AsyncRead + Unpin>, limit: u64) -> (Vec<u8>, bool) {
    let Some(mut pipe) = pipe else { return (Vec::new(), true) };
    let mut kept = Vec::new();
    // A broken pipe is the end of the output; the exit code tells the rest.
    let _ = (&mut pipe).take(limit).read_to_end(&mut kept).await;
    let mut more = [0; 8192];
    let mut complete = true;
    while let Ok(n) = pipe.read(&mut more).await {
        if n == 0 {
            break;
        }
        if limit == OUTPUT {
            // Endless output must end.
            complete = false;
            break;
        }
    }
    (kept, complete)
}

/// Ends everything that git started when git is given up.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // Usually there is nobody left.
            let _ = rustix::process::kill_process_group(group, Signal::KILL);
        }
    }
}

/// What git said, in one line: the errors, and of other words the last ones.
fn complaint(stderr: &str, status: ExitStatus) -> String {
    let lines: Vec<&str> = stderr.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let said = |line: &&&str| {
        ["fatal:", "error:", "ssh:", "remote:", "Host key", "@@", "Permission denied"].iter().any(|p| line.contains(p))
    };
    let mut chosen: Vec<&str> = lines.iter().filter(said).filter(|l| !l.contains("@@@@")).copied().collect();
    if chosen.is_empty() {
        chosen = lines.iter().rev().take(3).rev().copied().collect();
    }
    chosen.dedup();
    let text = chosen.join("; ");
    let text: String = text.chars().filter(|c| !c.is_control()).take(600).collect();
    if text.is_empty() { format!("git ended with {status}") } else { text }
}
