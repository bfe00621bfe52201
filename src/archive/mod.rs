//! Layer 2: layers as archives.
//!
//! Owns the tar format (our own exact writer, a bounded reader), the one-pass [`LayerWriter`] (tar, diff ID, tree index,
//! compression, digest), [`TreeIndex`], the two ways to compute a layer from directories ([`diff_overlay`],
//! [`diff_trees`]) and the way back ([`apply`], [`extract_archive`]). Knows nothing of images, stores, registries or
//! namespaces. Start reading at [`entry`], then [`writer`] for the way out and `extract` for the way in.
//!
//! The rules that make a layer a pure function of (parent tree, new tree) are in [`diff`]; those that make a blob a pure
//! function of (tar, codec, level) are in [`block`].

mod ahead;
pub mod apply;
mod before;
pub mod block;
pub mod checksum;
mod content;
mod deflate;
pub mod diff;
pub mod entry;
pub mod error;
pub mod estargz;
mod extract;
pub mod format;
pub mod header;
pub mod index;
mod input;
mod limits;
mod lowers;
pub mod merged;
pub mod notes;
mod pipeline;
mod places;
mod reader;
pub mod reuse;
mod scan;
mod target;
pub mod writer;

pub use ahead::ReadAhead;
pub use apply::{ApplyOptions, ApplySummary, Dialect, apply, apply_above, index_layer, read_files};
pub use content::Opener;
pub use diff::{DiffStats, Parent, TreeHints, diff_overlay, diff_trees, diff_trees_with};
pub use entry::{Entry, EntryKind, Timestamp};
pub use error::ArchiveError;
pub use format::{
    ArchiveFormat, decompressor, detect_archive, extract_archive, extract_plain, looks_like_archive, newest_entry,
};
pub use index::{IndexEntry, TreeIndex};
pub use input::{Buffered, TarStream};
pub use limits::UnpackLimits;
pub use lowers::Awaited;
pub use merged::MergedIndex;
pub use notes::{Note, NoteKind};
pub use places::Places;
pub use reuse::{BlockKey, BlockSource, HashedPrefix, PackedBlock, PrefixKey};
pub use scan::{entry_at, xattrs_of};
pub use writer::{Content, LayerOptions, LayerSummary, LayerWriter, Relocation};

#[cfg(test)]
mod tests;
