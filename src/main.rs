//! The `rbuild` program: dispatches to the role this process plays.

fn main() {
    // Before anything else: a step process is single-threaded and has its descriptors taken over by the role.
    if std::env::args_os().nth(1).is_some_and(|role| role == rootless::STEP_ROLE) {
        rootless::step_main();
    }
}
