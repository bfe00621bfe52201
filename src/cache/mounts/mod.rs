//! Cache mounts on other machines: what `RUN --mount=type=cache` left, carried from build to build (PAIN 64, 65).
//!
//! A mount is written down as a tar stream ([`tree`]), which is cut where its content says so ([`chunk`]); chunks that
//! the cache does not have yet are compressed and put together in packs of some megabytes ([`save`]). Packs are blobs
//! of the cache; a [`Document`] beside it says which chunks make up which mount. The way back is [`restore`].
//!
//! BuildKit's documents stay as they are: the document of mounts has a name of its own (`TAG.mounts`), which importers
//! that do not know it never ask for.

pub mod chunk;
mod document;
pub mod restore;
pub mod save;
pub mod tree;

use crate::base::Digest;
use crate::llb::Vertex;
use crate::llb::op::Mount;

pub use document::{Chunk, ChunkHash, DOCUMENT_TYPE, Document, PACK_TYPE, Pack, SavedMount};

/// What is added to a cache's name for that of its mounts.
pub const SUFFIX: &str = ".mounts";

/// How many hexadecimal digits say what a cache begins with: two of one name must not be the same by chance.
const SEED_DIGITS: usize = 16;

/// How many bytes of mounts a cache holds if nothing else is said, as they are on the disk.
pub const DEFAULT_CAP: u64 = 4 << 30;

/// Which mounts are carried.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum MountChoice {
    /// None.
    #[default]
    None,
    /// All that the build names.
    All,
    /// Those with these ids.
    Ids(Vec<String>),
}

impl MountChoice {
    /// Whether the mount with this id is among them. `id` is the graph's: a namespace, a slash, the Dockerfile's.
    #[must_use]
    pub fn wants(&self, id: &str) -> bool {
        let id = unseeded(id);
        let short = id.split_once('/').map_or(id, |(_, short)| short);
        match self {
            Self::None => false,
            Self::All => true,
            Self::Ids(ids) => ids.iter().any(|wanted| wanted == id || wanted == short),
        }
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::None
    }
}

/// The id of the cache that `mount` of `step` opens; `None` if it is no cache mount. A cache that begins with something (`from=`,
/// `uid=`, `gid=`, `mode=`) is one for each beginning, as with BuildKit, whose key is the id and the reference below it
/// (SPEC A5.04, C4.10): a step that asks for another owner is never given what belongs to somebody else.
#[must_use]
pub fn opened_id(step: &Vertex, mount: &Mount) -> Option<String> {
    let id = &mount.cache_opt.as_ref()?.id;
    let Some(seed) = usize::try_from(mount.input).ok().and_then(|input| step.inputs.get(input)) else {
        return Some(id.clone());
    };
    let seed = Digest::sha256(format!("{} {} {}", seed.vertex, seed.index, mount.selector));
    Some(format!("{id}:{}", &seed.hex()[..SEED_DIGITS]))
}

/// `id` without what it begins with.
fn unseeded(id: &str) -> &str {
    let is_seed =
        |text: &str| text.len() == SEED_DIGITS && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    id.rsplit_once(':').filter(|(_, seed)| is_seed(seed)).map_or(id, |(id, _)| id)
}

/// A mount's id as the Dockerfile has it, for messages.
#[must_use]
pub fn shown(id: &str) -> &str {
    let id = unseeded(id);
    id.strip_prefix('/').unwrap_or(id)
}

#[cfg(test)]
mod tests;
