//! Docker's default seccomp profile as one small BPF program.
//!
//! libseccomp takes about 10 ms to compile this profile and emits a linear list of some 1700 instructions; a binary
//! search over ranges needs about 300 and microseconds. One program also expresses what single-action builders cannot:
//! `clone3` answered with ENOSYS so that C libraries fall back to `clone`, calls newer than the profile answered with
//! ENOSYS too (as runc does), and the foreign architectures a step may have (i386 and x32, or 32-bit ARM) each with
//! their own numbers.

mod filter;
mod profile;
mod trap;

pub(crate) use filter::default_filter;
#[cfg(test)]
pub(crate) use trap::known_calls;
pub(crate) use trap::{Action, CallNames, Trap, When, closed_filter, is_32_bit, trap_filter};
