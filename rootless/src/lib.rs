//! User namespaces, isolation rungs and the runner of steps. Knows nothing of images.
//!
//! Four processes play a part, all of them this binary: the *broker* (the program the user started) probes the machine
//! ([`probe`]) and enters the namespaces ([`spawn_worker`]); the *worker*, forked from it, prepares its mount namespace
//! ([`worker_init`]) and then is an ordinary multi-threaded program; each step is a single-threaded process
//! ([`spawn_step`], [`step_main`]) that calls libcontainer, because libcontainer clones a child that runs Rust code.
//!
//! All `unsafe` code of the project lives in this crate.

pub mod binfmt;
pub mod capabilities;
pub mod cgroup;
pub mod doctor;
pub mod enter;
pub mod exe;
pub mod idmap;
pub mod lease;
pub mod network;
pub mod ownership;
pub mod probe;
pub mod report;
pub mod spawn;
pub mod step;
pub mod terminal;
pub mod worker;

mod explain;
mod furnish;
mod landlock;
mod notify;
mod operations;
mod runner;
mod seccomp;
mod sys;
#[cfg(target_arch = "x86_64")]
mod trace;
mod unprivileged;

pub use capabilities::Capabilities;
pub use doctor::{DoctorReport, RungStatus, doctor};
pub use enter::{EnterError, WorkerCommand, WorkerHandle, enter, spawn_worker};
pub use exe::SealedExe;
pub use furnish::{furnish_dev, furnish_proc};
pub use idmap::IdMaps;
pub use operations::Operation;
pub use probe::{ProbeInput, cache_key, probe};
pub use report::{Blocker, IdMapping, ProbeReport, ProcMode, Rung};
pub use runner::step_main;
pub use spawn::{
    IdleStep, RunningStep, STEP_ROLE, SpawnError, StepHandles, StepIo, StepKiller, StepSignal, spawn_attached,
    spawn_idle, spawn_step,
};
pub use sys::{SysError, tune_allocator};
pub use terminal::{Pty, open_pty};
pub use worker::{WorkerContext, WorkerError, WorkerOptions, outlive_parent, worker_init};
