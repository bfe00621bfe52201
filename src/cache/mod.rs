//! Layer 6: how cache keys are made (SPEC C4, DESIGN section 4), and caches on other machines (SPEC C7, B4).
//!
//! Keys are digests under our own salt, so records of other builders are clean misses. Looking keys up and running
//! what misses is `solver`'s business; where records live on this machine is `store`'s. A cache elsewhere is a
//! [`backend::CacheBackend`]: it has blobs and a [`config::CacheConfig`] that says which of them came out of what.
//! [`graph`] is what a build has to tell others, [`import`] what others told it.

pub mod backend;
pub mod config;
pub mod explain;
pub mod graph;
pub mod import;
pub mod key;
pub mod mounts;
pub mod spec;
