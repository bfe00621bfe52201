//! Layer 1: the Dockerfile language as text and tree. Pure: no I/O, no environment.

pub mod ast;
pub mod ignore;
pub mod matcher;
pub mod pattern;
