//! Layer 4: executes operations: RUN steps in containers, file actions over directories. Knows nothing of caching or
//! scheduling.

pub mod file;
pub mod run;
pub mod secret;
