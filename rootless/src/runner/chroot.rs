//! A step without namespaces: a forked child that changes its root under Landlock.

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

pub(super) fn run(socket: &UnixStream, spec: StepSpec) -> Result<StepOutcome, String> {
    let Prepared { executor, mut supervisor, children, errors } = Prepared::new(spec)?;
    let pid = match sys::fork().map_err(|e| format!("cannot fork: {e}"))? {
        Fork::Child => {
            let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
            let _ = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable);
            // The caller's session has his terminal, which /dev/tty would open, and processes that a signal to the group reaches.
            // A child just forked leads no group, so it cannot be refused.
            let _ = rustix::process::setsid();
            executor.become_program()
        }
        Fork::Parent(pid) => pid,
    };
    // The child has the other ends of what the parent waits on.
    drop(executor);
    let pidfd = forked::pidfd_of(pid)?;
    forked::end(watch(socket, &pidfd, pid, &children, supervisor.as_mut()), &pidfd, &errors)
}

/// Waits for the program, reaps orphans, answers calls; kills everything when the worker loses interest.
fn watch(
    socket: &UnixStream,
    pidfd: &OwnedFd,
    pid: i32,
    children: &SignalFd,
    mut supervisor: Option<&mut Supervisor>,
) -> std::io::Result<(i32, Usage)> {
    let mut interested = true;
    let mut signals = Signals::any_process();
    loop {
        let (ended, worker, orphans, calls) = {
            let mut fds = vec![PollFd::new(pidfd, PollFlags::IN), PollFd::new(children, PollFlags::IN)];
            let mut add = |fd| {
                fds.push(PollFd::from_borrowed_fd(fd, PollFlags::IN));
                fds.len() - 1
            };
            let worker_at = interested.then(|| add(socket.as_fd()));
            let calls_at = supervisor.as_ref().and_then(|s| s.fd()).map(&mut add);
            match poll(&mut fds, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
            let ready = |at: Option<usize>| at.is_some_and(|at| !fds[at].revents().is_empty());
            (ready(Some(0)), ready(worker_at), ready(Some(1)), ready(calls_at))
        };
        if ended {
            return sys::wait_usage(pid);
        }
        if worker && !signals.pass_on(socket, pidfd) {
            kill(pidfd);
            interested = false;
        }
        if orphans {
            while let Ok(Some(_)) = children.read_signal() {}
            sys::reap_others(pid);
        }
        if let (true, Some(supervisor)) = (calls, supervisor.as_mut()) {
            supervisor.serve()?;
        }
    }
}
