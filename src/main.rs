//! The `rbuild` program: dispatches to the role this process plays.

use std::process::ExitCode;

/// musl's allocator has one lock for all threads: a COPY of 50,000 files waits on it ten thousand times.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    rootless::tune_allocator();
    let args: Vec<_> = std::env::args_os().collect();
    match args.get(1).and_then(|a| a.to_str()) {
        // Before anything else: a step process is single-threaded and has its descriptors taken over by the role.
        Some(rootless::STEP_ROLE) => rootless::step_main(),
        _ => ExitCode::from(rbuild::cli::run(args)),
    }
}
