//! Layer 1: SSH agents for steps and for git (SPEC A5.07, B2.29).
//!
//! Two ends: [`AgentSource`] is the real thing (a user's agent or keys read from files), served by whoever is the real
//! user and only ever through a filter that lists and signs; [`AgentSocket`] is what a step sees, a socket that passes
//! each connection on to an [`Agent`]. Neither end puts a path, a key or a byte of the conversation anywhere else.

mod keys;
mod openssh;
mod protocol;
mod source;
pub(crate) mod wire;

use std::fmt;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

use crate::base::socket::ServedSocket;

pub use keys::KeyError;
pub use source::{AgentError, AgentSource, AgentSpec};

/// Somewhere that a step's connections to its agent go.
pub trait Agent: fmt::Debug + Send + Sync {
    /// A new connection to the agent. May block.
    ///
    /// # Errors
    /// When the agent is not there any more.
    fn connect(&self) -> io::Result<UnixStream>;
}

/// A socket for one step; gone, with every connection, when dropped.
#[derive(Debug)]
pub struct AgentSocket(ServedSocket);

impl AgentSocket {
    /// Listens below `dir`, which must be private and in memory, for as long as this lives. Needs a tokio runtime.
    ///
    /// # Errors
    /// The file system's.
    pub fn listen(dir: &Path, agent: Arc<dyn Agent>, uid: u32, gid: u32, mode: u32) -> io::Result<Self> {
        let serve = move |step| {
            let agent = Arc::clone(&agent);
            async move {
                // An agent that went away is for the program in the step to report: it sees its connection end.
                let _ = forward(step, agent).await;
            }
        };
        ServedSocket::listen(dir, "ssh", (uid, gid), mode, serve).map(Self)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

async fn forward(mut step: tokio::net::UnixStream, agent: Arc<dyn Agent>) -> io::Result<()> {
    let upstream = tokio::task::spawn_blocking(move || agent.connect()).await.map_err(io::Error::other)??;
    upstream.set_nonblocking(true)?;
    let mut upstream = tokio::net::UnixStream::from_std(upstream)?;
    tokio::io::copy_bidirectional(&mut step, &mut upstream).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// Answers every byte with the next one.
    #[derive(Debug)]
    struct Successor;

    impl Agent for Successor {
        fn connect(&self) -> io::Result<UnixStream> {
            let (ours, theirs) = UnixStream::pair()?;
            std::thread::spawn(move || {
                let mut byte = [0];
                while (&ours).read_exact(&mut byte).is_ok() && (&ours).write_all(&[byte[0] + 1]).is_ok() {}
            });
            Ok(theirs)
        }
    }

    /// SPEC A5.07.
    #[tokio::test]
    async fn a5_07_every_connection_reaches_the_agent_until_the_step_ends() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        let socket = AgentSocket::listen(dir.path(), Arc::new(Successor), uid, gid, 0o600).expect("listens");
        let path = socket.path().to_owned();
        assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        let talk = path.clone();
        let left_open = tokio::task::spawn_blocking(move || {
            let mut streams: Vec<UnixStream> = (0..3).map(|_| UnixStream::connect(&talk).expect("connects")).collect();
            for (n, stream) in (0u8..).zip(&mut streams) {
                let mut answer = [0];
                stream.write_all(&[n]).expect("writes");
                stream.read_exact(&mut answer).expect("reads");
                assert_eq!(answer, [n + 1]);
            }
            streams
        });
        let left_open = left_open.await.expect("no panic");
        drop(socket);
        assert!(!path.exists());
        tokio::task::spawn_blocking(move || {
            for mut stream in left_open {
                assert_eq!(stream.read(&mut [0]).expect("reads"), 0, "the connection outlived the step");
            }
        })
        .await
        .expect("no panic");
    }
}
