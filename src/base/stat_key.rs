//! What of a file changes when its content or attributes do.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;

use rustix::fs::Stat;

/// Everything about a file that changes when its content or attributes do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StatKey {
    /// Bytes.
    pub size: u64,
    /// Modification time, nanoseconds since 1970.
    pub mtime: i64,
    /// Change time, nanoseconds since 1970. Cannot be set by programs.
    pub ctime: i64,
    /// Inode number.
    pub ino: u64,
}

impl StatKey {
    /// From what the kernel says.
    #[must_use]
    pub fn of(meta: &Metadata) -> Self {
        Self {
            size: meta.size(),
            mtime: nanos(meta.mtime(), meta.mtime_nsec()),
            ctime: nanos(meta.ctime(), meta.ctime_nsec()),
            ino: meta.ino(),
        }
    }

    /// The same.
    #[must_use]
    #[allow(clippy::unnecessary_cast, clippy::cast_possible_wrap, reason = "the types differ between architectures")]
    pub fn of_stat(stat: &Stat) -> Self {
        Self {
            size: u64::try_from(stat.st_size).unwrap_or(0),
            mtime: nanos(stat.st_mtime as i64, stat.st_mtime_nsec as i64),
            ctime: nanos(stat.st_ctime as i64, stat.st_ctime_nsec as i64),
            ino: stat.st_ino,
        }
    }
}

fn nanos(secs: i64, nanos: i64) -> i64 {
    secs.saturating_mul(1_000_000_000).saturating_add(nanos)
}
