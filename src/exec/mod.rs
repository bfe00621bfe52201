//! Layer 4: executes operations: file actions over directories, processes in containers.

pub mod file;
