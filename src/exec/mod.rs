//! Layer 6: executes operations: RUN steps in containers, file actions over directories. Knows nothing of caching or
//! scheduling.

pub mod cdi;
mod cwd;
pub mod emulation;
pub mod emulators;
pub mod file;
mod hosts;
mod network;
mod place;
pub mod run;
pub mod secret;
mod spare;
mod spawner;
mod targets;
mod user;
