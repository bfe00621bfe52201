//! Compressed blocks of earlier layers, found by what they contain.
//!
//! A block depends on its bytes and the method alone ([`super::block`]), so one that was compressed before is put into a new
//! blob as it is. Where the digests of all files in a block are known it is found without being read ([`BlockName`]), and as long as
//! all blocks from the start are found so, the hash of the tar goes on from where it stood behind them ([`PrefixKey`]). Who keeps blobs says where it is; this module says under which name and what must be known of it.

use super::block::Method;
use super::checksum::Checksum;

/// Names the content of a block together with the method: the same name, the same compressed bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockKey(pub [u8; 20]);

impl BlockKey {
    /// Of the block `raw`, compressed with `method`.
    #[must_use]
    pub fn of(raw: &[u8], method: Method) -> Self {
        let mut hash = [0; 16];
        hash.copy_from_slice(&blake3::hash(raw).as_bytes()[..16]);
        Self::new(hash, method)
    }

    /// Of the block called `name`, compressed with `method`. A block has another key by its content.
    #[must_use]
    pub fn named(name: BlockName, method: Method) -> Self {
        Self::new(name.0, method)
    }

    fn new(hash: [u8; 16], method: Method) -> Self {
        let mut key = [0; 20];
        key[..4].copy_from_slice(&method.number().to_le_bytes());
        key[4..].copy_from_slice(&hash);
        Self(key)
    }
}

/// Names the content of a block by its headers and the digests of the files in it, so that nothing has to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockName([u8; 16]);

impl BlockName {
    /// Of a block that consists of these encoded `parts`, with `bytes` for those that are given literally.
    pub(super) fn of_recipe(parts: &[u8], bytes: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("rbuild.v1 block by digests");
        hasher.update(&(parts.len() as u64).to_le_bytes()).update(parts).update(bytes);
        let mut name = [0; 16];
        name.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        Self(name)
    }
}

/// Names everything in a tar up to the end of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct PrefixKey(pub [u8; 20]);

impl PrefixKey {
    /// The same with one more block.
    #[must_use]
    pub fn then(self, block: BlockName) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("rbuild.v1 blocks from the start");
        hasher.update(&self.0).update(&block.0);
        let mut key = [0; 20];
        key.copy_from_slice(&hasher.finalize().as_bytes()[..20]);
        Self(key)
    }
}

/// Where the hash of a tar stands behind one of its blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HashedPrefix {
    /// Everything up to there.
    pub key: PrefixKey,
    /// See [`Hasher::suspend`](crate::base::digest::Hasher::suspend).
    pub state: Vec<u8>,
}

/// A block of a blob that was just written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackedBlock {
    /// Its name.
    pub key: BlockKey,
    /// Where its compressed bytes start in the blob.
    pub offset: u64,
    /// How many there are.
    pub size: u32,
    /// Of its content.
    pub sum: Checksum,
}

/// Where compressed blocks can be had.
pub trait BlockSource: Send + Sync {
    /// Puts the compressed bytes of the block into `out`, which is empty; gives the checksum of its content. `None` if
    /// nobody has it.
    fn find(&self, key: &BlockKey, out: &mut Vec<u8>) -> Option<Checksum>;

    /// Where the hash of a tar that begins like this stood; `None` if nobody knows.
    fn hashed(&self, key: &PrefixKey) -> Option<Vec<u8>>;
}
