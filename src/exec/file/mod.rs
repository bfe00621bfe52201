//! File actions over directories (SPEC C1.09–C1.11), jailed in their roots, and content digests of what they select.
//!
//! Owns copy, mkdir, mkfile, rm, symlink, owner lookup and content hashing. Knows nothing of layers or snapshots:
//! it is given directories. Start reading at [`copy`] and [`content_digest`].

mod actions;
mod content;
mod copy;
mod digest;
pub mod direct;
mod error;
mod meta;
mod mode;
mod owner;
mod remove;
mod select;
mod transfer;
mod unpack;
mod walk;

#[cfg(test)]
#[allow(clippy::print_stdout, reason = "tests say what they skip")]
mod copy_tests;
#[cfg(test)]
#[allow(clippy::print_stdout, reason = "tests say what they skip")]
mod digest_tests;

pub use crate::base::StatKey;
pub use crate::tree::{CopySource, Exclusion, PathFilter};
pub use actions::{is_dir, mkdir, mkfile, rm, symlink};
pub use copy::{CopyStats, copy};
pub use digest::{NoStatCache, Seen, SelectedEntry, Selector, StatCache, body_digest, content_digest, content_entries};
pub use error::FileOpError;
pub use owner::{resolve_owner, resolve_owner_in};
