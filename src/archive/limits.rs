//! What unpacking may come to: a kilobyte can stand for a disk full of zeros, or of empty files.

use std::sync::OnceLock;

/// Bounds of one archive or layer that is unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnpackLimits {
    /// Bytes of the tar, after decompression. Holes of sparse files are not in it.
    pub bytes: u64,
    /// Entries of the tar.
    pub entries: u64,
}

impl Default for UnpackLimits {
    /// 64 GiB in 16 million entries: some times what the largest known images have.
    fn default() -> Self {
        Self { bytes: 64 << 30, entries: 16_000_000 }
    }
}

static LIMITS: OnceLock<UnpackLimits> = OnceLock::new();

impl UnpackLimits {
    /// Makes them those of this process. The first to say so is right.
    pub fn apply(self) {
        let _ = LIMITS.set(self);
    }

    /// Those of this process.
    #[must_use]
    pub fn current() -> Self {
        LIMITS.get().copied().unwrap_or_default()
    }
}
