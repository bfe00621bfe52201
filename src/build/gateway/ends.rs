//! What programs of front ends are connected with: pipes and terminals, of which this process keeps one end.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rootless::StepIo;
use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::net::unix::pipe;

use crate::frontend::gateway::exec::{Input, Output};

/// A pipe that a program reads: its end, and ours.
pub(super) fn to_program() -> io::Result<(OwnedFd, pipe::Sender)> {
    let (theirs, ours) = pipe_with(PipeFlags::CLOEXEC)?;
    Ok((theirs, pipe::Sender::from_owned_fd(waiting(ours)?)?))
}

/// A pipe that a program writes: ours, and its end.
pub(super) fn from_program() -> io::Result<(pipe::Receiver, OwnedFd)> {
    let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
    Ok((pipe::Receiver::from_owned_fd(waiting(ours)?)?, theirs))
}

/// A descriptor that is waited for, and not in.
fn waiting(fd: OwnedFd) -> io::Result<OwnedFd> {
    rustix::io::ioctl_fionbio(&fd, true)?;
    Ok(fd)
}

/// The ends of what a process in a container is connected with.
pub(super) struct Ends {
    /// The process's.
    pub(super) io: StepIo,
    /// The name of its terminal, where this process sees it.
    pub(super) console: Option<PathBuf>,
    /// What is typed.
    pub(super) input: Option<Input>,
    /// What it says, by descriptor.
    pub(super) outputs: Vec<(u32, Output)>,
    /// Its terminal.
    pub(super) terminal: Option<OwnedFd>,
}

impl Ends {
    /// Pipes for those of the descriptors 0 to 2 that somebody is interested in; the others lead nowhere.
    pub(super) fn pipes(fds: &[u32]) -> io::Result<Self> {
        let mut ends = Self {
            io: StepIo { stdin: null()?, stdout: null()?, stderr: null()? },
            console: None,
            input: None,
            outputs: Vec::new(),
            terminal: None,
        };
        if fds.contains(&0) {
            let (theirs, ours) = to_program()?;
            ends.io.stdin = theirs;
            ends.input = Some(Box::pin(ours));
        }
        for fd in [1, 2].into_iter().filter(|fd| fds.contains(fd)) {
            let (ours, theirs) = from_program()?;
            let place = if fd == 1 { &mut ends.io.stdout } else { &mut ends.io.stderr };
            *place = theirs;
            ends.outputs.push((fd, Box::pin(ours)));
        }
        Ok(ends)
    }

    /// One terminal for all three.
    pub(super) fn terminal() -> io::Result<Self> {
        let pty = rootless::open_pty()?;
        let copy = || waiting(pty.master.try_clone()?);
        // Read and written as pipes are.
        let input = pipe::Sender::from_owned_fd_unchecked(copy()?)?;
        let output = pipe::Receiver::from_owned_fd_unchecked(copy()?)?;
        Ok(Self {
            io: StepIo { stdin: pty.slave.try_clone()?, stdout: pty.slave.try_clone()?, stderr: pty.slave },
            console: pty.path,
            input: Some(Box::pin(input)),
            outputs: vec![(1, Box::pin(output))],
            terminal: Some(pty.master),
        })
    }
}

/// Gives a terminal a size: lines and columns.
pub(super) fn resize(terminal: &OwnedFd, rows: u16, columns: u16) {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // One that nobody has any more needs no size.
    let _ = tcsetwinsize(terminal, size);
}

fn null() -> io::Result<OwnedFd> {
    Ok(rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?)
}
