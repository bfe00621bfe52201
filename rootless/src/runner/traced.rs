//! A step without namespaces and without anybody's privileges: a forked child that is traced, and whose every call with a path is
//! answered here.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::sys::signalfd::SignalFd;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::DumpableBehavior;

use super::forked::{self, Prepared};
use super::kill;
use super::signals::Signals;
use crate::notify::Supervisor;
use crate::step::{StepOutcome, StepSpec, Usage};
use crate::sys::{self, Fork};
use crate::trace::{self, Tracer};

pub(super) fn run(socket: &UnixStream, spec: StepSpec) -> Result<StepOutcome, String> {
    let Prepared { executor, supervisor, children, errors } = Prepared::new(spec)?;
    let mut supervisor = supervisor.ok_or("a step without privileges has nobody to answer its calls")?;
    let (go_r, go_w) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|e| format!("cannot make a pipe: {e}"))?;
    let pid = match sys::fork().map_err(|e| format!("cannot fork: {e}"))? {
        Fork::Child => {
            drop(go_w);
            let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
            // Nobody without privileges may trace what is not; nor can the rest of the step look in here, being in a Landlock
            // domain.
            let _ = rustix::process::set_dumpable_behavior(DumpableBehavior::Dumpable);
            // As on the other rungs without namespaces: no terminal and no process group of the caller's.
            let _ = rustix::process::setsid();
            if rustix::io::read(&go_r, &mut [0; 1]) != Ok(1) {
                sys::exit_now(125);
            }
            executor.become_program()
        }
        Fork::Parent(pid) => pid,
    };
    // The child has the other ends of what the parent waits on.
    drop((executor, go_r));
    let pidfd = forked::pidfd_of(pid)?;
    let watched = begin(pid, &go_w).and_then(|()| watch(socket, &pidfd, pid, &children, &mut supervisor));
    forked::end(watched, &pidfd, &errors)
}

/// Traces the child once it may be traced, and lets it go on.
fn begin(pid: i32, go: &OwnedFd) -> std::io::Result<()> {
    // It says so itself, a moment after it was made.
    for _ in 0..1000 {
        match trace::seize(pid) {
            Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            other => {
                other?;
                rustix::io::write(go, b"+")?;
                return Ok(());
            }
        }
    }
    trace::seize(pid)
}

/// Answers calls, sees to traced threads and reaps orphans until the program has ended; kills everything when the worker loses
/// interest.
fn watch(
    socket: &UnixStream,
    pidfd: &OwnedFd,
    pid: i32,
    children: &SignalFd,
    supervisor: &mut Supervisor,
) -> std::io::Result<(i32, Usage)> {
    let mut interested = true;
    let mut signals = Signals::any_process();
    let mut tracer = Tracer::new();
    loop {
        let (changes, worker, calls) = {
            let mut fds = vec![PollFd::new(children, PollFlags::IN)];
            let mut add = |fd| {
                fds.push(PollFd::from_borrowed_fd(fd, PollFlags::IN));
                fds.len() - 1
            };
            let worker_at = interested.then(|| add(socket.as_fd()));
            let calls_at = supervisor.fd().map(&mut add);
            match poll(&mut fds, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
            let ready = |at: Option<usize>| at.is_some_and(|at| !fds[at].revents().is_empty());
            (ready(Some(0)), ready(worker_at), ready(calls_at))
        };
        if worker && !signals.pass_on(socket, pidfd) {
            kill(pidfd);
            interested = false;
        }
        if calls {
            supervisor.serve()?;
        }
        if changes {
            while let Ok(Some(_)) = children.read_signal() {}
            while let Some(change) = trace::next_change() {
                if let Some(paths) = supervisor.paths() {
                    tracer.handle(&change, paths);
                }
                if change.pid == pid && !libc::WIFSTOPPED(change.status) {
                    return Ok((change.status, change.usage));
                }
            }
        }
    }
}
