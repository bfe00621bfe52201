//! A step while it runs: its output is passed on, signals reach it, and how it ended is read.

use std::fs::File;
use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use rootless::cgroup::StepGroup;
use rootless::step::StepOutcome;
use rootless::{RunningStep, SpawnError, StepHandles, StepIo, StepSignal};
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::mpsc::UnboundedReceiver;

use super::error::io_error;
use super::{DEFAULT_TIMEOUT, ExecError, Way};
use crate::base::events::Stream;
use crate::base::{Digest, Events, blocking};

/// Output is passed on in pieces of at most this size.
const CHUNK: usize = 32 << 10;

/// What a step needs for as long as it runs: its network, and its control group.
pub(super) type HeldHandles = Arc<(Way, Option<StepGroup>)>;

/// Starts a step without holding up other tasks.
pub(super) async fn start(
    held: HeldHandles,
    begin: impl FnOnce(StepHandles<'_>) -> Result<RunningStep, SpawnError> + Send + 'static,
) -> Result<(RunningStep, HeldHandles), ExecError> {
    let starting = blocking::brief(move || {
        let step = begin(StepHandles { network: held.0.namespace(), group: held.1.as_ref() })?;
        Ok::<_, SpawnError>((step, held))
    });
    Ok(starting.await.map_err(|e| io_error("start a step")(io::Error::other(e)))??)
}

/// What this program reads, as something that all steps can be given: it stays whose it is, and what a step leaves is there for the next.
pub(super) fn input() -> Result<OwnedFd, ExecError> {
    let what = || io_error("read standard input for the steps");
    let (theirs, ours) = pipe_with(PipeFlags::CLOEXEC).map_err(|e| what()(e.into()))?;
    let copy = move || io::copy(&mut io::stdin().lock(), &mut File::from(ours));
    std::thread::Builder::new().name("input".into()).spawn(copy).map_err(what())?;
    Ok(theirs)
}

/// What a step that reads `input` is attached to, and where its output and its errors are read.
pub(super) fn ends(input: &OwnedFd) -> Result<(StepIo, [OwnedFd; 2]), ExecError> {
    let make = || {
        let (ours, stdout) = pipe_with(PipeFlags::CLOEXEC)?;
        let (errors, stderr) = pipe_with(PipeFlags::CLOEXEC)?;
        Ok((StepIo { stdin: input.try_clone()?, stdout, stderr }, [ours, errors]))
    };
    make().map_err(io_error("make pipes for a step"))
}

/// What a shell makes of a process that was killed.
pub(super) const KILLED: i32 = 137;

/// The end of `work`, unless time runs out first. (Dropped work kills its step.)
pub(super) async fn in_time<T>(
    timeout: Option<Duration>,
    work: impl Future<Output = Result<T, ExecError>>,
) -> Result<T, ExecError> {
    let limit = timeout.unwrap_or(DEFAULT_TIMEOUT);
    if limit.is_zero() {
        return work.await;
    }
    tokio::time::timeout(limit, work).await.unwrap_or(Err(ExecError::TimedOut(limit)))
}

/// Passes the step's output on until it has ended.
pub(super) async fn follow(mut step: RunningStep, events: &Events, vertex: &Digest) -> Result<StepOutcome, ExecError> {
    let stdout = copy_output(step.stdout.take(), Stream::Stdout, events, vertex);
    let stderr = copy_output(step.stderr.take(), Stream::Stderr, events, vertex);
    let status = read_status(step.status.take());
    let (stdout, stderr, status) = tokio::join!(stdout, stderr, status);
    stdout.and(stderr).map_err(io_error("read the step's output"))?;
    outcome(step, status).await
}

/// Passes signals on until the program has ended.
pub(super) async fn accompany(
    mut step: RunningStep,
    mut signals: UnboundedReceiver<StepSignal>,
) -> Result<StepOutcome, ExecError> {
    let killer = step.killer();
    let status = read_status(step.status.take());
    let mut status = std::pin::pin!(status);
    let status = loop {
        tokio::select! {
            status = &mut status => break status,
            Some(signal) = signals.recv() => killer.signal(signal),
        }
    };
    outcome(step, status).await
}

async fn read_status(fd: Option<OwnedFd>) -> io::Result<Vec<u8>> {
    let Some(fd) = fd else { return Ok(Vec::new()) };
    let socket = UnixStream::from(fd);
    socket.set_nonblocking(true)?;
    let mut text = Vec::new();
    tokio::net::UnixStream::from_std(socket)?.read_to_end(&mut text).await?;
    Ok(text)
}

async fn outcome(step: RunningStep, status: io::Result<Vec<u8>>) -> Result<StepOutcome, ExecError> {
    let status = status.map_err(io_error("read the step's result"))?;
    let outcome = blocking::brief(move || step.finish(&status))
        .await
        .map_err(|e| io_error("wait for a step")(io::Error::other(e)))??;
    Ok(outcome)
}

async fn copy_output(fd: Option<OwnedFd>, stream: Stream, events: &Events, vertex: &Digest) -> io::Result<()> {
    let Some(fd) = fd else { return Ok(()) };
    let pipe = pipe::Receiver::from_owned_fd(fd)?;
    loop {
        pipe.readable().await?;
        // Made when there is something: most of the time steps that run side by side say nothing.
        let mut buf = vec![0; CHUNK];
        match pipe.try_read(&mut buf) {
            Ok(0) => return Ok(()),
            Ok(n) => events.log(vertex, stream, bytes::Bytes::copy_from_slice(&buf[..n])),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e),
        }
    }
}
