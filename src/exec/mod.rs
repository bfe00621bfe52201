//! Layer 4: executes ops. Owns RUN steps and file operations; knows nothing of caching or scheduling.

mod cwd;
mod hosts;
pub mod run;
mod user;
