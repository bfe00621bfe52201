//! Layer 4: executes ops. Owns RUN steps and file operations; knows nothing of caching or scheduling.

pub mod run;
