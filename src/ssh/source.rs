//! Where signatures come from: a socket of the user's, or keys read from files.

use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::keys::{Key, KeyError};
use super::protocol;

/// Larger key files are refused.
const MAX_KEY: u64 = 100 << 10;

/// One `--ssh` (SPEC B2.29).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct AgentSpec {
    /// What `RUN --mount=type=ssh,id=` names.
    pub id: String,
    /// One socket, or key files. Absolute.
    pub paths: Vec<PathBuf>,
    /// Pass everything through, whatever protocol it is.
    pub raw: bool,
}

/// Why an agent cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// It is not there, or may not be used.
    #[error("cannot read {path}: {source}", path = path.display())]
    Read {
        /// The socket or key.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Nobody listens.
    #[error("cannot connect to the agent {path}: {source}", path = path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The file is no usable key.
    #[error("cannot use {path} as a key: {source}", path = path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: KeyError,
    },
    /// A socket has its own keys.
    #[error("{path} is a socket: it cannot be combined with other sockets or keys", path = .0.display())]
    Mixed(PathBuf),
    /// `raw` without a socket.
    #[error("{path} is not a socket: raw needs one", path = .0.display())]
    NotASocket(PathBuf),
}

impl AgentError {
    /// What can be done about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Key { source: KeyError::Encrypted, .. } => {
                Some("add it to an agent with ssh-add and give the agent: --ssh ID or --ssh ID=SOCKET")
            }
            Self::Connect { .. } => Some("start an agent with `eval $(ssh-agent)` and add a key with ssh-add"),
            _ => None,
        }
    }
}

/// An agent that can be had.
#[derive(Debug)]
pub struct AgentSource {
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Socket { path: PathBuf, raw: bool },
    Keys(Vec<Key>),
}

impl AgentSource {
    /// Reads the keys, or sees whether the socket answers.
    ///
    /// # Errors
    /// See [`AgentError`].
    pub fn open(spec: &AgentSpec) -> Result<Self, AgentError> {
        let mut keys = Vec::new();
        for path in &spec.paths {
            let read = |source| AgentError::Read { path: path.clone(), source };
            let kind = fs::metadata(path).map_err(read)?.file_type();
            if kind.is_socket() {
                if spec.paths.len() > 1 {
                    return Err(AgentError::Mixed(path.clone()));
                }
                connect(path)?;
                return Ok(Self { kind: Kind::Socket { path: path.clone(), raw: spec.raw } });
            }
            if spec.raw {
                return Err(AgentError::NotASocket(path.clone()));
            }
            let key = |source| AgentError::Key { path: path.clone(), source };
            let mut bytes = Vec::new();
            let file = fs::File::open(path).map_err(read)?;
            file.take(MAX_KEY + 1).read_to_end(&mut bytes).map_err(read)?;
            let text = String::from_utf8(bytes).ok().filter(|text| text.len() as u64 <= MAX_KEY);
            keys.push(Key::parse(&text.ok_or_else(|| key(KeyError::NotAKey))?).map_err(key)?);
        }
        Ok(Self { kind: Kind::Keys(keys) })
    }

    /// Serves one connection to its end, on this thread.
    ///
    /// # Errors
    /// The connection's; the other side sees it end.
    pub fn serve(&self, step: UnixStream) -> io::Result<()> {
        match &self.kind {
            Kind::Keys(keys) => protocol::serve(&step, keys),
            Kind::Socket { path, raw: false } => protocol::filter(&step, &UnixStream::connect(path)?),
            Kind::Socket { path, raw: true } => pass_through(&step, &UnixStream::connect(path)?),
        }
    }
}

fn connect(path: &Path) -> Result<UnixStream, AgentError> {
    UnixStream::connect(path).map_err(|source| AgentError::Connect { path: path.to_owned(), source })
}

/// Copies both ways until both sides have ended.
fn pass_through(step: &UnixStream, agent: &UnixStream) -> io::Result<()> {
    let one_way = |mut from: &UnixStream, mut to: &UnixStream| -> io::Result<()> {
        let result = io::copy(&mut from, &mut to);
        let _ = to.shutdown(std::net::Shutdown::Write);
        result.map(|_| ())
    };
    std::thread::scope(|scope| {
        let back = scope.spawn(|| one_way(agent, step));
        let forth = one_way(step, agent);
        let back = back.join().unwrap_or_else(|_| Err(io::Error::other("a thread ended unexpectedly")));
        forth.and(back)
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::net::UnixListener;

    use super::*;

    fn spec(paths: &[&Path], raw: bool) -> AgentSpec {
        AgentSpec { id: "default".into(), paths: paths.iter().map(|p| (*p).to_owned()).collect(), raw }
    }

    /// SPEC B2.29.
    #[test]
    fn b2_29_what_cannot_be_used_is_named() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (socket, text, dead) = (dir.path().join("socket"), dir.path().join("text"), dir.path().join("dead"));
        let _listener = UnixListener::bind(&socket).expect("listens");
        drop(UnixListener::bind(&dead).expect("listens"));
        fs::write(&text, "hello").expect("writes");
        let error = |paths: &[&Path], raw| AgentSource::open(&spec(paths, raw)).expect_err("refused").to_string();
        assert!(error(&[Path::new("/no/such")], false).starts_with("cannot read /no/such: "));
        assert!(error(&[&dead], false).starts_with("cannot connect to the agent "));
        assert!(error(&[&text], false).ends_with("text as a key: it is not a private key in PEM format"));
        assert!(error(&[&socket, &socket], false).contains("cannot be combined"));
        assert!(error(&[&text], true).ends_with("is not a socket: raw needs one"));
        assert!(AgentSource::open(&spec(&[&socket], false)).is_ok());
    }

    /// SPEC B2.29: `raw` is for sockets that do not speak the agent protocol.
    #[test]
    fn b2_29_raw_sockets_pass_everything() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("socket");
        let listener = UnixListener::bind(&path).expect("listens");
        let source = AgentSource::open(&spec(&[&path], true)).expect("opens");
        // The connection that `open` tried.
        drop(listener.accept().expect("accepts"));
        let (step, ours) = UnixStream::pair().expect("a pair");
        let serving = std::thread::spawn(move || source.serve(ours));
        (&step).write_all(b"anything").expect("writes");
        step.shutdown(std::net::Shutdown::Write).expect("shuts down");
        let (mut agent, _) = listener.accept().expect("accepts");
        let mut seen = String::new();
        agent.read_to_string(&mut seen).expect("reads");
        agent.write_all(b"answer").expect("writes");
        drop(agent);
        let mut answer = String::new();
        (&step).read_to_string(&mut answer).expect("reads");
        assert_eq!((seen.as_str(), answer.as_str()), ("anything", "answer"));
        assert!(serving.join().expect("no panic").is_ok());
    }
}
