//! Git repositories to fetch from, and the servers that give them: `git http-backend` (see [`super::web`]), `git daemon`
//! and a real sshd.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// When commits are made, in seconds since 1970.
pub const COMMIT_TIME: u64 = 1_700_000_000;

/// A directory with repositories.
pub struct Repositories {
    dir: tempfile::TempDir,
}

/// A repository with a work tree.
pub struct Repository {
    pub path: PathBuf,
    time: std::cell::Cell<u64>,
}

impl Repositories {
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("rbuild-git-").tempdir().unwrap();
        // Read by servers that may run as somebody else.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Self { dir }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A new one with this name, e.g. `a.git`.
    pub fn create(&self, name: &str, init: &[&str]) -> Repository {
        let path = self.dir.path().join(name);
        fs::create_dir(&path).unwrap();
        let repository = Repository { path, time: std::cell::Cell::new(COMMIT_TIME) };
        repository.git(&[&["init", "--quiet", "-b", "main"], init].concat());
        // Only what refs name is given away, as on a careful server.
        repository.git(&["config", "uploadpack.allowReachableSHA1InWant", "false"]);
        repository
    }
}

impl Repository {
    /// Runs git in it; its output.
    #[track_caller]
    pub fn git(&self, args: &[&str]) -> String {
        let date = format!("{} +0000", self.time.get());
        let output = Command::new("git")
            .args(args)
            .current_dir(&self.path)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_AUTHOR_NAME", "A")
            .env("GIT_AUTHOR_EMAIL", "a@h.example")
            .env("GIT_COMMITTER_NAME", "A")
            .env("GIT_COMMITTER_EMAIL", "a@h.example")
            .env("GIT_AUTHOR_DATE", &date)
            .env("GIT_COMMITTER_DATE", &date)
            .env("GIT_ALLOW_PROTOCOL", "file:http")
            .output()
            .unwrap();
        assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Writes a file.
    pub fn file(&self, name: &str, content: &str) -> &Self {
        let path = self.path.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
        self
    }

    /// Commits everything; the commit.
    #[track_caller]
    pub fn commit(&self, message: &str) -> String {
        self.git(&["add", "-A"]);
        self.git(&["commit", "--quiet", "--allow-empty", "-m", message]);
        self.time.set(self.time.get() + 60);
        self.git(&["rev-parse", "HEAD"])
    }
}

/// A server process; ended with the test.
pub struct Server {
    child: Child,
    /// `127.0.0.1:PORT`.
    pub host: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn start(mut command: Command, port: u16) -> Result<Server, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let child = child.map_err(|e| format!("{name}: {e}"))?;
    let mut server = Server { child, host: format!("127.0.0.1:{port}") };
    let started = Instant::now();
    while TcpStream::connect(&server.host).is_err() {
        let ended = server.child.try_wait().ok().flatten().is_some();
        if ended || started.elapsed() > Duration::from_secs(20) {
            return Err(format!("{name} did not start"));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(server)
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// `git daemon`.
pub fn daemon(repositories: &Repositories) -> Result<Server, String> {
    let port = free_port();
    let mut command = Command::new(format!("{}/git-daemon", exec_path()));
    command.args(["--export-all", "--reuseaddr", "--listen=127.0.0.1", &format!("--port={port}")]);
    command.arg(format!("--base-path={}", repositories.path().display())).arg(repositories.path());
    start(command, port)
}

fn exec_path() -> String {
    let output = Command::new("git").arg("--exec-path").output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// An sshd for whoever runs the test, with one key that it lets in.
pub struct Sshd {
    pub server: Server,
    /// The private key.
    pub key: PathBuf,
    /// Its line for `known_hosts`.
    pub known_host: String,
    pub user: String,
    dir: tempfile::TempDir,
}

impl Sshd {
    pub fn start() -> Result<Self, String> {
        let sshd = Path::new("/usr/sbin/sshd");
        if !sshd.is_file() {
            return Err("no sshd; run scripts/setup".into());
        }
        let dir = tempfile::Builder::new().prefix("rbuild-sshd-").tempdir().map_err(|e| e.to_string())?;
        let path = |name: &str| dir.path().join(name);
        for name in ["host", "user"] {
            let status = Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-C", name, "-f"])
                .arg(path(name))
                .status()
                .map_err(|e| format!("ssh-keygen: {e}"))?;
            if !status.success() {
                return Err("ssh-keygen failed".into());
            }
        }
        fs::copy(path("user.pub"), path("authorized")).map_err(|e| e.to_string())?;
        let port = free_port();
        let config = format!(
            "ListenAddress 127.0.0.1:{port}\nHostKey {0}/host\nAuthorizedKeysFile {0}/authorized\nPidFile none\n\
             StrictModes no\nUsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nAcceptEnv GIT_PROTOCOL\n",
            dir.path().display()
        );
        fs::write(path("config"), config).map_err(|e| e.to_string())?;
        if rustix::process::geteuid().is_root() {
            // Where root's sshd separates its privileges; a package's service would make it.
            let _ = fs::create_dir_all("/run/sshd");
        }
        let mut command = Command::new(sshd);
        command.args(["-D", "-e", "-f"]).arg(path("config"));
        let server = start(command, port)?;
        let public = fs::read_to_string(path("host.pub")).map_err(|e| e.to_string())?;
        let known_host = format!("[127.0.0.1]:{port} {public}");
        let output = Command::new("id").arg("-un").output().map_err(|e| e.to_string())?;
        let user = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        Ok(Self { key: path("user"), known_host, user, server, dir })
    }

    /// An agent that holds the key.
    pub fn agent(&self) -> Result<(Server, PathBuf), String> {
        let socket = self.dir.path().join("agent");
        let mut command = Command::new("ssh-agent");
        command.args(["-D", "-a"]).arg(&socket).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().map_err(|e| format!("ssh-agent: {e}"))?;
        let agent = Server { child, host: String::new() };
        let started = Instant::now();
        while !socket.exists() {
            if started.elapsed() > Duration::from_secs(20) {
                return Err("ssh-agent did not start".into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let status = Command::new("ssh-add").arg("-q").arg(&self.key).env("SSH_AUTH_SOCK", &socket).status();
        match status {
            Ok(status) if status.success() => Ok((agent, socket)),
            other => Err(format!("ssh-add: {other:?}")),
        }
    }
}
