//! Layer 3: directory trees as sources: paths resolved without leaving a root, and what of a tree is visible.
//!
//! Owns the jailed resolver ([`root`]), the visibility filter of a build context ([`filter`]) and [`CopySource`].
//! Knows nothing of operations, layers or Dockerfiles. Start reading at [`root`].

pub mod filter;
pub mod look;
pub mod root;
pub mod view;

use std::path::PathBuf;
use std::sync::Arc;

pub use filter::{Exclusion, PathFilter};

/// A tree that files are copied or hashed from.
#[derive(Clone, Debug)]
pub struct CopySource {
    /// Directory that is `/` of the tree.
    pub root: PathBuf,
    /// What of it is visible; `None` is everything.
    pub filter: Option<Arc<PathFilter>>,
    /// A local context: files belong to 0:0 and the root directory has neutral metadata (SPEC A6.04, N2.01).
    pub reset_owner: bool,
}

impl CopySource {
    /// A tree taken as it is: a stage or an image.
    #[must_use]
    pub fn plain(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), filter: None, reset_owner: false }
    }
}
