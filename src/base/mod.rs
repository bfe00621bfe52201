//! Layer 0: the vocabulary everything else is written in.
//!
//! Owns digests, build events, fault kinds and small file-system primitives. Knows nothing of images,
//! Dockerfiles, stores or terminals. Start reading at [`digest`] and [`events`].

pub mod blocking;
pub mod budget;
pub mod cancel;
pub mod digest;
pub mod duration;
pub mod events;
pub mod fault;
pub mod file;
#[cfg(test)]
pub(crate) mod mutation;
pub mod owner;
pub mod pieces;
pub mod socket;
mod stat_key;
pub mod trace;
pub mod values;
pub mod wording;
pub mod yaml;

pub use cancel::Cancel;
pub use digest::{CacheKey, ChainId, DiffId, Digest, DigestWriter};
pub use events::{Event, Events};
pub use fault::{FaultKind, PathError};
pub use stat_key::StatKey;
pub use trace::{StepTrace, TraceContext};
