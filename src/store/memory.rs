//! What is remembered of the steps of each project, to explain later what changed. Bytes to the store; a lost file costs
//! explanations only.

use std::fs;
use std::path::PathBuf;

use crate::base::Digest;

use super::{Store, StoreError};

/// The largest memory that is read.
const MAX_MEMORY: u64 = 16 << 20;

impl Store {
    /// What was last written for `project`; `None` if there is nothing that can be read.
    #[must_use]
    pub fn memory(&self, project: &str) -> Option<Vec<u8>> {
        let path = self.memory_path(project);
        if fs::metadata(&path).ok()?.len() > MAX_MEMORY {
            return None;
        }
        zstd::decode_all(fs::File::open(path).ok()?).ok()
    }

    /// Replaces what is remembered of `project`.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn set_memory(&self, project: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let path = self.memory_path(project);
        let dir = self.inner.layout.explanations();
        // Stores of earlier versions have no such directory.
        fs::create_dir_all(&dir).map_err(StoreError::io("create", &dir))?;
        let packed = zstd::bulk::compress(bytes, 3).map_err(StoreError::io("compress for", &path))?;
        let temp = self.owner()?.path("memory");
        fs::write(&temp, packed).map_err(StoreError::io("write", &temp))?;
        fs::rename(&temp, &path).map_err(StoreError::io("rename", &path))
    }

    fn memory_path(&self, project: &str) -> PathBuf {
        self.inner.layout.explanations().join(&Digest::sha256(project).hex()[..32])
    }
}

#[cfg(test)]
mod tests {
    use crate::store::testing::store;

    #[test]
    fn memories_are_kept_apart_and_damaged_ones_are_none() {
        let (_dir, store) = store();
        assert_eq!(store.memory("a"), None);
        store.set_memory("a", b"one").expect("writes");
        store.set_memory("b", b"two").expect("writes");
        store.set_memory("a", b"three").expect("writes");
        assert_eq!((store.memory("a"), store.memory("b")), (Some(b"three".to_vec()), Some(b"two".to_vec())));
        std::fs::write(store.memory_path("a"), "damaged").expect("writes");
        assert_eq!(store.memory("a"), None);
    }
}
