//! Sockets that programs in steps connect to.

use std::future::Future;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::task::{JoinHandle, JoinSet};

/// After a connection that could not be taken.
const PAUSE: Duration = Duration::from_millis(50);

/// A socket that is served as long as this lives; gone, with every connection, when dropped.
#[derive(Debug)]
pub struct ServedSocket {
    path: PathBuf,
    accepting: JoinHandle<()>,
}

impl ServedSocket {
    /// Listens below `dir`, which must be private and in memory, under a name that begins with `kind`. Each connection is given to
    /// `serve`. Needs a tokio runtime.
    ///
    /// # Errors
    /// The file system's.
    pub fn listen<F, S>(dir: &Path, kind: &str, (uid, gid): (u32, u32), mode: u32, serve: F) -> io::Result<Self>
    where
        F: Fn(UnixStream) -> S + Send + 'static,
        S: Future<Output = ()> + Send + 'static,
    {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let path = dir.join(format!("{kind}-{}", COUNTER.fetch_add(1, Ordering::Relaxed)));
        let listener = UnixListener::bind(&path)?;
        // From here on dropping removes the file.
        let socket = Self { path, accepting: tokio::spawn(accept(listener, serve)) };
        std::os::unix::fs::chown(&socket.path, Some(uid), Some(gid))?;
        std::fs::set_permissions(&socket.path, std::fs::Permissions::from_mode(mode & 0o777))?;
        Ok(socket)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for ServedSocket {
    fn drop(&mut self) {
        // Its connections are tasks of a set that the task owns.
        self.accepting.abort();
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn accept<F, S>(listener: UnixListener, serve: F)
where
    F: Fn(UnixStream) -> S,
    S: Future<Output = ()> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        let Ok((step, _)) = listener.accept().await else {
            // Out of descriptors, for instance: it does not help to ask at once again.
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        while connections.try_join_next().is_some() {}
        connections.spawn(serve(step));
    }
}
