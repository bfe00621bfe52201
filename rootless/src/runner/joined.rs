//! A further program in the namespaces of one that runs: a forked child that enters them.
//!
//! This process stays outside: the descriptors and the memory of a process inside can be reached by programs there. Its child is in the
//! pid namespace from the beginning, undumpable, and enters the others just before it gives up what it could do there as a program of
//! the builder.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};

use super::forked;
use super::lifeline::Lifeline;
use crate::step::{Network, StepOutcome, StepSpec};

/// How long the first program may take to begin.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often is looked whether it has.
const INTERVAL: Duration = Duration::from_millis(2);

/// Runs a program beside the one that the step process `first` has started.
pub(super) fn run(socket: &UnixStream, spec: StepSpec, first: u32) -> Result<StepOutcome, String> {
    let lifeline = Lifeline::hold(socket.as_fd()).map_err(|e| format!("cannot watch the worker: {e}"))?;
    let program = program_of(first)?;
    lifeline.let_go().map_err(|e| format!("cannot watch the worker: {e}"))?;
    // For children only: this process remains where it is.
    move_into_thread_name_spaces(program.as_fd(), ThreadNameSpaceType::PROCESS_ID)
        .map_err(|e| format!("cannot enter the pid namespace of the container: {e}"))?;
    let mut kinds = ThreadNameSpaceType::MOUNT
        | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
        | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME;
    if spec.network == Network::None {
        // The machine's is this process's, and one of the container's own came with the specification.
        kinds |= ThreadNameSpaceType::NETWORK;
    }
    forked::run(socket, spec, move || {
        move_into_thread_name_spaces(program.as_fd(), kinds)
            .map_err(|e| format!("cannot enter the namespaces of the container: {e}"))
    })
}

/// A descriptor of the program that a step process has started, once it is that: before, its root can be the machine's.
fn program_of(first: u32) -> Result<OwnedFd, String> {
    let ended = || "the first process of the container has ended".to_owned();
    let began = Instant::now();
    let own = executable(first).ok_or_else(ended)?;
    loop {
        let pid = child_of(first)?;
        if let Some(pid) = pid {
            let descriptor = pidfd_open(pid, PidfdFlags::empty()).ok();
            let now = executable(pid.as_raw_pid().unsigned_abs());
            // It was that process all the while, and it executes something else than the step process.
            if let (Some(descriptor), true) =
                (descriptor, now.is_some_and(|now| now != own) && child_of(first)? == Some(pid))
            {
                return Ok(descriptor);
            }
        }
        if executable(first).is_none() {
            return Err(ended());
        }
        if began.elapsed() > PATIENCE {
            return Err(format!(
                "the first process of the container did not begin within {} seconds",
                PATIENCE.as_secs()
            ));
        }
        std::thread::sleep(INTERVAL);
    }
}

/// The only child of a process: libcontainer has helpers at first.
fn child_of(parent: u32) -> Result<Option<Pid>, String> {
    let list = format!("/proc/{parent}/task/{parent}/children");
    let text = fs::read_to_string(&list).map_err(|_| "the first process of the container has ended".to_owned())?;
    let mut children = text.split_whitespace();
    let (Some(child), None) = (children.next(), children.next()) else { return Ok(None) };
    Ok(child.parse().ok().and_then(Pid::from_raw))
}

/// Which file a process executes; nothing for one that has ended.
fn executable(process: u32) -> Option<(u64, u64)> {
    let data = fs::metadata(format!("/proc/{process}/exe")).ok()?;
    Some((data.dev(), data.ino()))
}
