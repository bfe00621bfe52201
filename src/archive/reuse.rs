//! Compressed blocks of earlier layers, found by what they contain.
//!
//! A block depends on its bytes and the method alone ([`super::block`]), so one that was compressed before is put into a new
//! blob as it is. Who keeps blobs says where it is; this module says under which name and what must be known of it.

use super::block::Method;
use super::checksum::Checksum;

/// Names the content of a block together with the method: the same name, the same compressed bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockKey(pub [u8; 20]);

impl BlockKey {
    /// Of the block `raw`, compressed with `method`.
    #[must_use]
    pub fn of(raw: &[u8], method: Method) -> Self {
        let mut key = [0; 20];
        key[..4].copy_from_slice(&method.number().to_le_bytes());
        key[4..].copy_from_slice(&blake3::hash(raw).as_bytes()[..16]);
        Self(key)
    }
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
}
