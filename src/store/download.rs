//! What was downloaded from where: lets a later build ask a server whether it is still the same (SPEC C2.05).
//!
//! The content is a blob like any other and may be collected; what it was stays known, since results made from it may
//! still be there.

use std::time::Duration;

use crate::base::Digest;

use super::meta::now;
use super::{Store, StoreError};

/// How many answers of one address are remembered: branches that take turns each have their own.
const PER_ADDRESS: u32 = 8;
/// What nobody asked for in so long is forgotten.
const MEMORY: Duration = Duration::from_secs(180 * 24 * 3600);

/// One answer of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Download {
    /// The blob.
    pub digest: Digest,
    /// `ETag`, as received.
    pub etag: Option<String>,
    /// `Last-Modified` in seconds since 1970.
    pub modified: Option<i64>,
    /// File name from `Content-Disposition`.
    pub filename: Option<String>,
}

impl Store {
    /// What `address` gave before, the latest first. The address may hold secrets: only its digest is kept.
    ///
    /// # Errors
    /// If the metadata cannot be read.
    pub fn downloads(&self, address: &str) -> Result<Vec<Download>, StoreError> {
        self.inner.meta.read("look up a download", |c| {
            let mut query = c.prepare_cached(
                "SELECT digest, etag, modified, filename FROM downloads WHERE address = ?1 ORDER BY at DESC",
            )?;
            let rows = query.query_map([Digest::sha256(address).as_str()], |row| {
                Ok((row.get::<_, String>(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
            })?;
            let mut found = Vec::new();
            for row in rows {
                let (digest, etag, modified, filename) = row?;
                if let Ok(digest) = digest.parse() {
                    found.push(Download { digest, etag, modified, filename });
                }
            }
            Ok(found)
        })
    }

    /// Remembers what `address` gave just now.
    ///
    /// # Errors
    /// If the metadata cannot be written.
    pub fn remember_download(&self, address: &str, download: &Download) -> Result<(), StoreError> {
        let address = Digest::sha256(address);
        let old = now() - i64::try_from(MEMORY.as_nanos()).unwrap_or(i64::MAX);
        self.inner.meta.write("remember a download", |tx| {
            tx.execute("DELETE FROM downloads WHERE at < ?1", [old])?;
            tx.execute(
                "INSERT OR REPLACE INTO downloads (address, digest, etag, modified, filename, at)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                (
                    address.as_str(),
                    download.digest.as_str(),
                    &download.etag,
                    download.modified,
                    &download.filename,
                    now(),
                ),
            )?;
            tx.execute(
                "DELETE FROM downloads WHERE address = ?1 AND digest NOT IN
                 (SELECT digest FROM downloads WHERE address = ?1 ORDER BY at DESC LIMIT ?2)",
                (address.as_str(), PER_ADDRESS),
            )?;
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::store;

    #[test]
    fn c2_05_answers_are_remembered_by_address() {
        let (_dir, store) = store();
        let download = |n: u8, etag: &str| Download {
            digest: Digest::sha256([n]),
            etag: Some(etag.into()),
            modified: Some(7),
            filename: None,
        };
        let address = "https://user:secret@host.example/a";
        assert_eq!(store.downloads(address).expect("reads"), []);
        for n in 0..12 {
            store.remember_download(address, &download(n, &format!("\"{n}\""))).expect("writes");
        }
        store.remember_download(address, &download(11, "\"again\"")).expect("writes");
        let found = store.downloads(address).expect("reads");
        assert_eq!(found.len(), 8, "the oldest are forgotten");
        assert_eq!(found[0], download(11, "\"again\""), "one row for one content, the latest first");
        assert_eq!(store.downloads("https://host.example/b").expect("reads"), []);
        let bytes = std::fs::read(store.root().join("meta.db-wal")).unwrap_or_default();
        assert!(!bytes.windows(6).any(|w| w == b"secret"), "addresses may hold passwords");
    }
}
