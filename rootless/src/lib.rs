//! User namespaces, isolation rungs and the runner of steps. Knows nothing of images.
//!
//! All `unsafe` code of the project lives in this crate.

pub mod step;
