//! This process's own terminal or streams, connected to those of a program in a container.
//!
//! The program never gets the user's descriptors themselves: through them it could read what is typed for others, or
//! change a file that output was redirected to. It gets a terminal of its own, or pipes.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread::JoinHandle;

use rootless::{StepIo, StepSignal};
use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios};
use rustix::termios::{tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use crate::exec::run::Attachment;

/// The threads that carry bytes between the user and the program.
#[derive(Debug)]
pub struct Connection {
    outputs: Vec<JoinHandle<()>>,
    raw: Option<RawMode>,
}

impl Connection {
    /// Connects, inside a tokio runtime. `interactive`: the program reads what is typed; `terminal`: it has a terminal.
    ///
    /// # Errors
    /// The system's, e.g. when there are no pseudoterminals.
    pub fn open(interactive: bool, terminal: bool) -> io::Result<(Self, Attachment)> {
        let (sender, signals) = unbounded_channel();
        for (kind, number) in [
            (SignalKind::hangup(), libc_number::HUP),
            (SignalKind::interrupt(), libc_number::INT),
            (SignalKind::quit(), libc_number::QUIT),
            (SignalKind::terminate(), libc_number::TERM),
            (SignalKind::user_defined1(), libc_number::USR1),
            (SignalKind::user_defined2(), libc_number::USR2),
        ] {
            let (mut received, sender) = (signal(kind)?, sender.clone());
            tokio::spawn(async move {
                while received.recv().await.is_some() && sender.send(StepSignal::Send(number)).is_ok() {}
            });
        }
        let (connection, io, console) =
            if terminal { Self::through_terminal(interactive, sender)? } else { Self::through_pipes(interactive)? };
        Ok((connection, Attachment { io, terminal, console, signals }))
    }

    fn through_terminal(
        interactive: bool,
        sender: UnboundedSender<StepSignal>,
    ) -> io::Result<(Self, StepIo, Option<std::path::PathBuf>)> {
        let pty = rootless::open_pty()?;
        let users = rustix::stdio::stdin();
        if let Ok(modes) = tcgetattr(users) {
            // Keys and encoding as the user has them.
            let _ = tcsetattr(&pty.slave, OptionalActions::Now, &modes);
        }
        resize(&pty.master);
        let (mut changes, master) = (signal(SignalKind::window_change())?, pty.master.try_clone()?);
        tokio::spawn(async move {
            while changes.recv().await.is_some() {
                resize(&master);
            }
        });
        let mut from = File::from(pty.master.try_clone()?);
        let shown = std::thread::Builder::new().name("output".into()).spawn(move || {
            // Ends with an error when nobody has the other end open any more.
            copy(&mut from, &mut io::stdout());
        })?;
        let mut raw = None;
        if interactive {
            raw = Some(RawMode::enter()?);
            let to = File::from(pty.master);
            std::thread::Builder::new().name("input".into()).spawn(move || typed(&to, &sender))?;
        }
        let io = StepIo { stdin: pty.slave.try_clone()?, stdout: pty.slave.try_clone()?, stderr: pty.slave };
        Ok((Self { outputs: vec![shown], raw }, io, pty.path))
    }

    fn through_pipes(interactive: bool) -> io::Result<(Self, StepIo, Option<std::path::PathBuf>)> {
        let stdin = if interactive {
            let (theirs, ours) = pipe_with(PipeFlags::CLOEXEC)?;
            let mut to = File::from(ours);
            // Not waited for: it may wait for a line that nobody types.
            std::thread::Builder::new().name("input".into()).spawn(move || copy(&mut io::stdin(), &mut to))?;
            theirs
        } else {
            rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?
        };
        let (stdout, out) = output(io::stdout())?;
        let (stderr, err) = output(io::stderr())?;
        Ok((Self { outputs: vec![out, err], raw: None }, StepIo { stdin, stdout, stderr }, None))
    }

    /// Waits until everything that the program said is shown, and gives the terminal back as it was.
    pub fn finish(self) {
        for thread in self.outputs {
            let _ = thread.join();
        }
        drop(self.raw);
    }
}

/// The numbers of the signals that are passed on, the same on every architecture.
mod libc_number {
    pub(super) const HUP: u8 = 1;
    pub(super) const INT: u8 = 2;
    pub(super) const QUIT: u8 = 3;
    pub(super) const USR1: u8 = 10;
    pub(super) const USR2: u8 = 12;
    pub(super) const TERM: u8 = 15;
}

fn output(mut to: impl Write + Send + 'static) -> io::Result<(OwnedFd, JoinHandle<()>)> {
    let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
    let mut from = File::from(ours);
    let thread = std::thread::Builder::new().name("output".into()).spawn(move || copy(&mut from, &mut to))?;
    Ok((theirs, thread))
}

/// Copies as it comes until either side ends.
fn copy(from: &mut impl Read, to: &mut impl Write) {
    let mut buffer = vec![0; 16 << 10];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return,
            Ok(count) => {
                if to.write_all(&buffer[..count]).and_then(|()| to.flush()).is_err() {
                    return;
                }
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

/// Passes on what is typed. The terminal turns Ctrl-C into a signal that the kernel keeps from the first process of a
/// container unless it handles it, so the step process is told as well.
fn typed(mut to: &File, sender: &UnboundedSender<StepSignal>) {
    let mut buffer = vec![0; 4096];
    loop {
        let count = match io::stdin().read(&mut buffer) {
            Ok(0) => return,
            Ok(count) => count,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return,
        };
        // Before they are passed on: afterwards the program may have other modes.
        let signals = signals_of(to.as_fd(), &buffer[..count]);
        if to.write_all(&buffer[..count]).is_err() {
            return;
        }
        for signal in signals {
            let _ = sender.send(StepSignal::Typed(signal));
        }
    }
}

fn signals_of(terminal: BorrowedFd<'_>, typed: &[u8]) -> Vec<u8> {
    let Ok(modes) = tcgetattr(terminal) else { return Vec::new() };
    if !modes.local_modes.contains(LocalModes::ISIG) {
        return Vec::new();
    }
    [(SpecialCodeIndex::VINTR, libc_number::INT), (SpecialCodeIndex::VQUIT, libc_number::QUIT)]
        .into_iter()
        .filter(|(code, _)| typed.contains(&modes.special_codes[*code]))
        .map(|(_, number)| number)
        .collect()
}

/// Gives a terminal the size of the user's.
fn resize(terminal: &OwnedFd) {
    let size = tcgetwinsize(rustix::stdio::stdout()).or_else(|_| tcgetwinsize(rustix::stdio::stdin()));
    if let Ok(size) = size {
        let _ = tcsetwinsize(terminal, size);
    }
}

/// The user's terminal passes every key on, until this is dropped.
struct RawMode(Termios);

impl RawMode {
    fn enter() -> io::Result<Self> {
        let before = tcgetattr(rustix::stdio::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(rustix::stdio::stdin(), OptionalActions::Drain, &raw)?;
        Ok(Self(before))
    }
}

impl std::fmt::Debug for RawMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RawMode")
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Drain, &self.0);
    }
}
