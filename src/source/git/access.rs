//! What lets git into a repository: headers in a private configuration file, keys and agents for ssh.
//!
//! git is given a configuration made here and none of the user's: nothing of the user's runs, and secrets are neither on
//! a command line nor in an environment, but in a file of the worker's private tmpfs that goes when git has ended.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;

use super::attributes::GitSpec;
use super::error::GitError;
use crate::base::values::percent_decode;
use crate::base::wording::shell_word;
use crate::dockerfile::gitref;
use crate::registry::ProxyOptions;
use crate::source::kind::{Agents, Request, SecretValues};
use crate::ssh::AgentSocket;

/// How git is run on this machine.
#[derive(Debug, Clone, Default)]
pub struct GitOptions {
    /// `PATH` to find git and ssh on.
    pub path: std::ffi::OsString,
    /// A private directory in memory.
    pub state_dir: PathBuf,
    /// Proxies for http and https.
    pub proxies: ProxyOptions,
    /// A PEM bundle to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// A directory of PEM files to trust.
    pub ca_dir: Option<PathBuf>,
    /// The user's and the system's `known_hosts`.
    pub known_hosts: Vec<PathBuf>,
    /// `HOST[:PORT]` of servers whose certificates are not looked at, because the user said so.
    pub unverified_hosts: Vec<String>,
}

/// Files that exist while git runs.
#[derive(Debug)]
pub(super) struct Access {
    dir: tempfile::TempDir,
    /// `GIT_SSH_COMMAND`, for ssh remotes.
    ssh_command: Option<String>,
    /// Where ssh finds the agent.
    agent: Option<AgentSocket>,
    /// The remote without credentials.
    pub(super) remote: String,
    /// The file of known hosts and its length, where an unknown host is believed.
    known_hosts: Option<(PathBuf, u64)>,
}

impl Access {
    /// To be called on a tokio runtime.
    pub(super) fn new(options: &GitOptions, spec: &GitSpec, request: &Request<'_>) -> Result<Self, GitError> {
        let io = |e| GitError::io("write to", &options.state_dir)(e);
        let dir = tempfile::Builder::new().prefix("git-").tempdir_in(&options.state_dir).map_err(io)?;
        let mut config = String::from(CONFIG);
        if let Some((scope, header)) = header(spec, request.secrets)? {
            let _ =
                writeln!(config, "[http \"{scope}\"]\n\textraheader = {}", quote(&format!("Authorization: {header}")));
        }
        if let Some(file) = &options.ca_file {
            let _ = writeln!(config, "[http]\n\tsslCAInfo = {}", quote(&file.display().to_string()));
        }
        if let Some(dir) = &options.ca_dir {
            let _ = writeln!(config, "[http]\n\tsslCAPath = {}", quote(&dir.display().to_string()));
        }
        for host in &options.unverified_hosts {
            // For this server alone: submodules may be at others.
            let _ = writeln!(config, "[http {}]\n\tsslVerify = false", quote(&format!("https://{host}/")));
        }
        let mut access = Self { dir, ssh_command: None, agent: None, remote: spec.shown(), known_hosts: None };
        access.file("config", config.as_bytes())?;
        if spec.is_ssh() {
            access.ssh(options, spec, request.agents)?;
        }
        Ok(access)
    }

    /// The configuration file.
    pub(super) fn config(&self) -> PathBuf {
        self.dir.path().join("config")
    }

    /// An empty home.
    pub(super) fn home(&self) -> &Path {
        self.dir.path()
    }

    /// Whether ssh has met a host that was not known, and believed it.
    pub(super) fn took_on_trust(&self) -> bool {
        let longer = |(path, length): &(PathBuf, u64)| fs::metadata(path).is_ok_and(|meta| meta.len() > *length);
        self.known_hosts.as_ref().is_some_and(longer)
    }

    /// Variables for ssh.
    pub(super) fn variables(&self) -> impl Iterator<Item = (&'static str, std::ffi::OsString)> {
        let command = self.ssh_command.as_ref().map(|c| ("GIT_SSH_COMMAND", c.into()));
        let agent = self.agent.as_ref().map(|a| ("SSH_AUTH_SOCK", a.path().as_os_str().to_owned()));
        command.into_iter().chain(agent)
    }

    fn file(&self, name: &str, content: &[u8]) -> Result<PathBuf, GitError> {
        let path = self.dir.path().join(name);
        let open = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        open.and_then(|mut file| file.write_all(content)).map_err(GitError::io("write", &path))?;
        Ok(path)
    }

    fn ssh(&mut self, options: &GitOptions, spec: &GitSpec, agents: &Agents) -> Result<(), GitError> {
        let id = spec.ssh.as_deref().unwrap_or("default");
        let Some(agent) = agents.get(id) else {
            return Err(GitError::NoSsh { id: id.into(), remote: spec.shown() });
        };
        // Host keys given with the source must fit. Without them the user's are used, and an unknown host is believed
        // once, as a key scan would do; a host whose key has changed never is.
        let strict = spec.known_hosts.is_some();
        let mut known = spec.known_hosts.clone().unwrap_or_default().into_bytes();
        if !strict {
            for file in &options.known_hosts {
                if let Ok(lines) = fs::read(file) {
                    known.extend(lines);
                    known.push(b'\n');
                }
            }
        }
        let length = known.len() as u64;
        let known = self.file("known_hosts", &known)?;
        self.known_hosts = (!strict).then(|| (known.clone(), length));
        let mut command = String::from("ssh -F /dev/null");
        let mut option = |text: String| {
            let _ = write!(command, " -o {}", shell_word(&text));
        };
        option("BatchMode=yes".into());
        option(format!("StrictHostKeyChecking={}", if strict { "yes" } else { "accept-new" }));
        option(format!("UserKnownHostsFile={}", ssh_quote(&known)));
        option("GlobalKnownHostsFile=/dev/null".into());
        option("ConnectTimeout=30".into());
        option("ServerAliveInterval=20".into());
        option("ForwardAgent=no".into());
        option("ControlMaster=no".into());
        // Keys are the agent's: no file of the user is looked at.
        option("IdentityFile=none".into());
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let socket = AgentSocket::listen(self.dir.path(), Arc::clone(agent), uid, gid, 0o600);
        self.agent = Some(socket.map_err(GitError::io("make a socket in", self.dir.path()))?);
        self.ssh_command = Some(command);
        Ok(())
    }
}

/// Nothing of a repository or of the user runs, nothing but the usual protocols is spoken, nothing waits for ever.
const CONFIG: &str = "\
[core]
\thooksPath = /dev/null
\tfsmonitor = false
[init]
\tdefaultBranch = master
\ttemplateDir =
[gc]
\tauto = 0
[maintenance]
\tauto = false
[fetch]
\trecurseSubmodules = false
[credential]
\thelper =
[advice]
\tdetachedHead = false
[protocol]
\tversion = 2
\tallow = never
[protocol \"http\"]
\tallow = always
[protocol \"https\"]
\tallow = always
[protocol \"git\"]
\tallow = always
[protocol \"ssh\"]
\tallow = always
[safe]
\tdirectory = *
[uploadpack]
\tallowAnySHA1InWant = true
[http]
\tlowSpeedLimit = 1
\tlowSpeedTime = 60
";

/// The header that lets us in, and the scope it is for (SPEC A7.05).
fn header(spec: &GitSpec, secrets: &SecretValues) -> Result<Option<(String, String)>, GitError> {
    let Some((scheme @ ("http" | "https"), rest)) = spec.remote.split_once("://") else { return Ok(None) };
    let host = gitref::host(&spec.remote);
    let scope = format!("{scheme}://{host}/");
    let basic = |pair: &[u8]| format!("basic {}", base64::engine::general_purpose::STANDARD.encode(pair));
    for (id, token) in [
        (format!("{}.{host}", spec.header_secret), false),
        (format!("{}.{host}", spec.token_secret), true),
        (spec.header_secret.clone(), false),
        (spec.token_secret.clone(), true),
    ] {
        let Some(value) = secrets.get(&id) else { continue };
        let value = value.trim_ascii_end();
        if token {
            return Ok(Some((scope, basic(&[b"x-access-token:", value].concat()))));
        }
        return match std::str::from_utf8(value) {
            Ok(text) if !text.chars().any(char::is_control) => Ok(Some((scope, text.to_owned()))),
            _ => Err(GitError::Secret { id, remote: spec.shown() }),
        };
    }
    let authority = rest.split('/').next().unwrap_or_default();
    Ok(authority.rsplit_once('@').map(|(user, _)| (scope, basic(&percent_decode(user)))))
}

/// A value in a configuration file of git.
fn quote(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// A path in an option of ssh.
fn ssh_quote(path: &Path) -> String {
    format!("\"{}\"", path.display().to_string().replace('%', "%%"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io;
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::base::Digest;
    use crate::llb::op::SourceOp;
    use crate::ssh::Agent;

    fn spec(remote: &str) -> GitSpec {
        let attrs = [("git.fullurl".to_owned(), remote.to_owned())].into();
        GitSpec::parse(&SourceOp { identifier: "git://h/a".into(), attrs }).expect("valid")
    }

    fn secrets(pairs: &[(&str, &str)]) -> SecretValues {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), Arc::new(v.as_bytes().to_vec()))).collect()
    }

    // SPEC A7.05
    #[test]
    fn a7_05_secrets_in_their_order() {
        let of = |remote: &str, pairs: &[(&str, &str)]| header(&spec(remote), &secrets(pairs)).expect("usable");
        let all = [
            ("GIT_AUTH_HEADER.h.example", "one"),
            ("GIT_AUTH_TOKEN.h.example", "two"),
            ("GIT_AUTH_HEADER", "three"),
            ("GIT_AUTH_TOKEN", "four"),
        ];
        let token = |t: &str| {
            let pair = format!("x-access-token:{t}");
            format!("basic {}", base64::engine::general_purpose::STANDARD.encode(pair))
        };
        let url = "https://h.example/a.git";
        let expected = ["one".to_owned(), token("two"), "three".into(), token("four")];
        for (from, header) in expected.into_iter().enumerate() {
            assert_eq!(of(url, &all[from..]), Some(("https://h.example/".into(), header)), "{from}");
        }
        assert_eq!(of(url, &[("GIT_AUTH_TOKEN.other.example", "x")]), None);
        assert_eq!(of("git@h.example:a", &all), None, "not for ssh");
        let own = of("https://user:p%40ss@h.example/a.git", &[]);
        let basic = format!("basic {}", base64::engine::general_purpose::STANDARD.encode("user:p@ss"));
        assert_eq!(own, Some(("https://h.example/".into(), basic)));
        assert!(header(&spec(url), &secrets(&[("GIT_AUTH_HEADER", "a\nb")])).is_err());
    }

    #[derive(Debug)]
    struct Nobody;

    impl Agent for Nobody {
        fn connect(&self) -> io::Result<UnixStream> {
            Err(io::ErrorKind::ConnectionRefused.into())
        }
    }

    fn access(options: &GitOptions, remote: &str, secrets: &SecretValues, agents: &Agents) -> Result<Access, GitError> {
        let op = SourceOp::default();
        let request = Request { vertex: &Digest::sha256(b""), op: &op, secrets, agents };
        Access::new(options, &spec(remote), &request)
    }

    #[test]
    fn a7_05_secrets_are_in_a_private_file_only() {
        let dir = tempfile::tempdir().expect("a directory");
        let options = GitOptions { state_dir: dir.path().into(), ..GitOptions::default() };
        let secrets = secrets(&[("GIT_AUTH_HEADER", "bearer \"tok\\en\"")]);
        let remote = "https://user:s3cret@h.example/a.git";
        let access = access(&options, remote, &secrets, &Agents::new()).expect("made");
        let config = fs::read_to_string(access.config()).expect("reads");
        assert!(config.contains(r#"extraheader = "Authorization: bearer \"tok\\en\"""#), "{config}");
        assert!(!access.remote.contains("s3cret"));
        assert_eq!(access.variables().count(), 0);
        let mode =
            std::os::unix::fs::PermissionsExt::mode(&fs::metadata(access.config()).expect("there").permissions());
        assert_eq!(mode & 0o777, 0o600);
        let path = access.config();
        drop(access);
        assert!(!path.exists(), "gone with its user");
    }

    #[test]
    fn d1_35_one_server_s_certificate_is_not_looked_at() {
        let dir = tempfile::tempdir().expect("a directory");
        let unverified_hosts = vec!["h.example:8443".to_owned()];
        let options = GitOptions { state_dir: dir.path().into(), unverified_hosts, ..GitOptions::default() };
        let remote = "https://h.example:8443/a.git";
        let access = access(&options, remote, &SecretValues::new(), &Agents::new()).expect("made");
        let asked = |url: &str| {
            let args = ["config", "--file", &access.config().display().to_string(), "--type=bool", "--get-urlmatch"];
            let git = std::process::Command::new("git").args(args).args(["http.sslVerify", url]).output();
            git.map(|out| String::from_utf8_lossy(&out.stdout).trim().to_owned()).expect("git runs")
        };
        assert_eq!((asked(remote).as_str(), asked("https://h.example/b.git").as_str()), ("false", ""));
    }

    #[tokio::test]
    async fn a6_22_ssh_needs_an_agent() {
        let dir = tempfile::tempdir().expect("a directory");
        let options = GitOptions { state_dir: dir.path().into(), ..GitOptions::default() };
        let (secrets, mut agents) = (SecretValues::new(), Agents::new());
        let error = access(&options, "git@h.example:a", &secrets, &agents).expect_err("no agent");
        assert!(error.hint().is_some_and(|h| h.contains("--ssh default")), "{error}");
        agents.insert("default".into(), Arc::new(Nobody));
        let access = access(&options, "git@h.example:a", &secrets, &agents).expect("made");
        let variables: BTreeMap<_, _> = access.variables().collect();
        assert!(Path::new(&variables["SSH_AUTH_SOCK"]).starts_with(dir.path()));
        let command = variables["GIT_SSH_COMMAND"].to_string_lossy().into_owned();
        assert!(command.starts_with("ssh -F /dev/null") && command.contains("accept-new"), "{command}");
    }
}
