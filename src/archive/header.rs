//! Tar headers.
