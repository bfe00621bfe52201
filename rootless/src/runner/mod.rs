//! The step process: one single-threaded process per RUN, which calls libcontainer and tells the worker how it ended.
//!
//! Its standard input is a socket to the worker ([`crate::spawn`]). Until the user's program starts, any activity on it
//! ends this process and its children at once ([`lifeline`]); from then on it is polled beside the program's pidfd, and its end means: kill.

mod chroot;
mod descendants;
mod errors;
mod executor;
mod forked;
mod joined;
mod lifeline;
mod oci;
mod signals;
#[cfg(target_arch = "x86_64")]
mod traced;

use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};
use rustix::process::{DumpableBehavior, PidfdFlags, Signal};

use crate::notify::Supervisor;
use crate::step::{Emulation, Network, RootSwitch, STEP_VERSION, StepOutcome, StepSpec};
use crate::sys::{self, Context, SysError};
use errors::ErrorPipe;
use executor::StepExecutor;
use lifeline::Lifeline;
use signals::Signals;

/// The largest specification a step process accepts.
const MAX_SPEC: u64 = 64 << 20;

/// The `__step` role: reads the specification from the worker, runs it, reports and exits.
pub fn step_main() -> ! {
    sys::reset_signals();
    // Mountpoints must not depend on what the user's shell set.
    rustix::process::umask(Mode::from_raw_mode(0o022));
    let socket = match take_socket() {
        Ok(socket) => socket,
        // Nobody to tell: this is not a process that the worker started.
        Err(_) => sys::exit_now(125),
    };
    let outcome = receive(&socket)
        .and_then(|spec| match spec.switch {
            RootSwitch::Pivot => match spec.joins {
                Some(first) => joined::run(&socket, spec, first),
                None => run(&socket, spec),
            },
            RootSwitch::Chroot => chroot::run(&socket, spec),
            #[cfg(target_arch = "x86_64")]
            RootSwitch::Traced => traced::run(&socket, spec),
            #[cfg(not(target_arch = "x86_64"))]
            RootSwitch::Traced => Err("steps are traced on x86-64 only".into()),
        })
        .unwrap_or_else(|message| StepOutcome::Failed { message });
    let text = serde_json::to_vec(&outcome).unwrap_or_default();
    // An error means that the worker is gone, and so is the reader.
    let _ = (&socket).write_all(&text);
    sys::exit_now(0)
}

/// Moves the socket away from descriptor 0, puts /dev/null there and closes every other descriptor.
fn take_socket() -> Result<UnixStream, SysError> {
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).what(|| "become undumpable".into())?;
    let socket = sys::dup_above(std::io::stdin().as_fd(), 3).what(|| "move the worker's socket".into())?;
    sys::close_from_except(3, &[socket.as_raw_fd()]);
    let null = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .what(|| "open /dev/null".into())?;
    sys::dup_onto(null.as_fd(), 0).what(|| "replace standard input".into())?;
    let socket = UnixStream::from(socket);
    // A file or terminal is not a socket: somebody typed the role on a command line.
    socket.peer_addr().what(|| "recognise the worker's socket".into())?;
    Ok(socket)
}

fn receive(socket: &UnixStream) -> Result<StepSpec, String> {
    let mut length = [0; 8];
    let mut from = socket;
    from.read_exact(&mut length).map_err(|e| format!("cannot read the step's length: {e}"))?;
    let length = u64::from_le_bytes(length);
    if length > MAX_SPEC {
        return Err(format!("the step has {length} bytes, more than {MAX_SPEC}"));
    }
    let mut text = Vec::new();
    from.take(length).read_to_end(&mut text).map_err(|e| format!("cannot read the step: {e}"))?;
    let spec: StepSpec = serde_json::from_slice(&text).map_err(|e| format!("cannot understand the step: {e}"))?;
    if spec.version != STEP_VERSION {
        return Err(format!("the step has version {}, this is {STEP_VERSION}", spec.version));
    }
    if spec.network == Network::Own {
        let namespace = sys::receive_fd(socket.as_fd())
            .map_err(|e| format!("cannot receive the step's network: {e}"))?
            .ok_or("the step came without its network")?;
        // What is started from here on is in it.
        crate::network::enter(namespace.as_fd()).map_err(|e| e.to_string())?;
    }
    if spec.attached.is_some() {
        let stdin = sys::receive_fd(socket.as_fd())
            .map_err(|e| format!("cannot receive the standard input: {e}"))?
            .ok_or("the standard input did not come")?;
        sys::dup_onto(stdin.as_fd(), 0).map_err(|e| format!("cannot place the standard input: {e}"))?;
    }
    Ok(spec)
}

/// The directories libcontainer needs for one container; removed at the end.
struct StateDirs {
    root: PathBuf,
    bundle: PathBuf,
    container: PathBuf,
}

impl StateDirs {
    fn create(spec: &StepSpec) -> Result<Self, SysError> {
        let root = spec.state_dir.join("c");
        let bundle = spec.state_dir.join("b").join(&spec.id);
        for dir in [&root, &bundle] {
            fs::create_dir_all(dir).what(|| format!("create {}", dir.display()))?;
        }
        let container = root.join(&spec.id);
        Ok(Self { root, bundle, container })
    }
}

impl Drop for StateDirs {
    fn drop(&mut self) {
        // They are on a tmpfs that goes away with the worker.
        let _ = fs::remove_dir_all(&self.bundle);
        let _ = fs::remove_dir_all(&self.container);
    }
}

fn run(socket: &UnixStream, spec: StepSpec) -> Result<StepOutcome, String> {
    let lifeline = Lifeline::hold(socket.as_fd()).map_err(|e| format!("cannot watch the worker: {e}"))?;
    fs::metadata(&spec.rootfs)
        .map_err(|e| format!("cannot find the root file system {}: {e}", spec.rootfs.display()))?;
    let errors = ErrorPipe::new().map_err(|e| format!("cannot make a pipe: {e}"))?;
    errors.subscribe();
    let text = |e: &dyn std::error::Error| errors.explain(e);
    let dirs = StateDirs::create(&spec).map_err(|e| text(&e))?;
    write_config(&spec, &dirs.bundle)?;
    let (mut supervisor, theirs) = supervisor(&spec)?;
    let executor = StepExecutor::new(spec, errors.writer(), theirs).map_err(|e| text(&e))?;
    let id = executor.spec().id.clone();

    let mut container = ContainerBuilder::new(id, SyscallType::default())
        .with_executor(executor)
        .with_root_path(&dirs.root)
        .map_err(|e| text(&e))?
        .as_init(&dirs.bundle)
        .with_systemd(false)
        .with_detach(false)
        .build()
        .map_err(|e| text(&e))?;
    let pid = container.pid().ok_or("libcontainer started no process")?.as_raw();
    let process = rustix::process::Pid::from_raw(pid).ok_or("libcontainer started no process")?;
    let pidfd =
        rustix::process::pidfd_open(process, PidfdFlags::empty()).map_err(|e| format!("cannot open a pidfd: {e}"))?;

    lifeline.let_go().map_err(|e| format!("cannot watch the worker: {e}"))?;
    if let Err(error) = container.start() {
        kill(&pidfd);
        let _ = sys::wait_usage(pid);
        return Err(text(&error));
    }
    let (status, usage) =
        watch(socket, &pidfd, pid, supervisor.as_mut()).map_err(|e| format!("cannot wait for the step: {e}"))?;
    drop(dirs);
    match errors.executor_report() {
        Some(message) => Err(message),
        None => Ok(StepOutcome::Exited { code: sys::exit_code(status), usage }),
    }
}

fn write_config(spec: &StepSpec, bundle: &Path) -> Result<(), String> {
    let oci = oci::runtime_spec(spec).map_err(|e| format!("cannot describe the container: {e}"))?;
    let text = serde_json::to_vec(&oci).map_err(|e| format!("cannot serialise the container: {e}"))?;
    let path = bundle.join("config.json");
    fs::write(&path, text).map_err(|e| format!("cannot write {}: {e}", path.display()))
}

/// Who answers the calls the step's emulation takes from the kernel, and the socket the program sends their listener to.
fn supervisor(spec: &StepSpec) -> Result<(Option<Supervisor>, Option<OwnedFd>), String> {
    if matches!(spec.emulation, Emulation::None | Emulation::Errno) {
        return Ok((None, None));
    }
    let (ours, theirs) = UnixStream::pair().map_err(|e| format!("cannot make a socket pair: {e}"))?;
    let supervisor = Supervisor::new(spec, ours).map_err(|e| format!("cannot watch system calls: {e}"))?;
    Ok((Some(supervisor), Some(theirs.into())))
}

/// Waits for the program and answers its calls meanwhile; kills it, and with it its pid namespace, when the worker loses
/// interest.
fn watch(
    socket: &UnixStream,
    pidfd: &OwnedFd,
    pid: i32,
    mut supervisor: Option<&mut Supervisor>,
) -> std::io::Result<(i32, crate::step::Usage)> {
    let mut interested = true;
    let mut signals = Signals::first_process(pid);
    loop {
        let (ended, worker, calls) = {
            let mut fds = vec![PollFd::new(pidfd, PollFlags::IN)];
            let worker_at = interested.then(|| {
                fds.push(PollFd::new(socket, PollFlags::IN));
                fds.len() - 1
            });
            let calls_at = supervisor.as_ref().and_then(|s| s.fd()).map(|fd| {
                fds.push(PollFd::from_borrowed_fd(fd, PollFlags::IN));
                fds.len() - 1
            });
            match poll(&mut fds, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
            let ready = |at: Option<usize>| at.is_some_and(|at| !fds[at].revents().is_empty());
            (ready(Some(0)), ready(worker_at), ready(calls_at))
        };
        if ended {
            // Returns when every process of the pid namespace is gone.
            let (status, usage) = sys::wait_usage(pid)?;
            if let Some(supervisor) = supervisor {
                supervisor.finish();
            }
            return Ok((signals.status(status), usage));
        }
        if worker && !signals.pass_on(socket, pidfd) {
            kill(pidfd);
            interested = false;
        }
        if let (true, Some(supervisor)) = (calls, supervisor.as_mut()) {
            supervisor.serve()?;
        }
    }
}

fn kill(pidfd: &OwnedFd) {
    // An error means that it has ended.
    let _ = rustix::process::pidfd_send_signal(pidfd, Signal::KILL);
}
