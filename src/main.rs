//! The `rbuild` program: dispatches to the role this process plays.

fn main() {}
