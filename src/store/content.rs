//! Blobs: files named by their digest in `oci/blobs`, so that other tools can read them.
//!
//! A blob is written below `tmp`, hashed on the way, and renamed into place together with its row. It is not synced
//! one by one: rows say whether they are durable and in which boot they were written; after a crash of the machine
//! what is not durable is hashed again before it is believed.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension};

use crate::base::digest::Hasher;
use crate::base::{Digest, DigestWriter};

use super::follow::{Following, Growth, Written};
use super::lease::mark;
use super::meta::{generation, now};
use super::sweep::Owner;
use super::{Store, StoreError};

/// Collects small writes; large ones pass through.
const BUFFER: usize = 64 << 10;

struct Row {
    size: u64,
    trusted: bool,
}

impl Store {
    /// The size of a blob, if it is here. Keeps it from being collected while a lease lives.
    ///
    /// # Errors
    /// If the metadata or the file cannot be read.
    pub fn has_blob(&self, digest: &Digest) -> Result<Option<u64>, StoreError> {
        let Some(row) = self.inner.meta.read("look up a blob", |c| self.blob_row(c, digest))? else {
            return Ok(None);
        };
        // Marked first: then it cannot vanish any more.
        if !self.touch("blobs", "digest", digest.as_str())? {
            return Ok(None);
        }
        let path = self.inner.layout.blob(digest);
        let size = match fs::metadata(&path) {
            Ok(meta) => meta.size(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(StoreError::io("examine", path)(e)),
        };
        if size == row.size && (row.trusted || self.verify_blob(digest, &path)?) {
            return Ok(Some(size));
        }
        self.drop_blob(digest)?;
        Ok(None)
    }

    /// Opens a blob for reading.
    ///
    /// # Errors
    /// [`StoreError::NoBlob`] if it is not here.
    pub fn open_blob(&self, digest: &Digest) -> Result<File, StoreError> {
        if self.has_blob(digest)?.is_none() {
            return Err(StoreError::NoBlob { digest: digest.clone() });
        }
        let path = self.inner.layout.blob(digest);
        File::open(&path).map_err(StoreError::io("open", path))
    }

    /// Reads a small blob whole and checks it.
    ///
    /// # Errors
    /// [`StoreError::NoBlob`] if it is not here, [`StoreError::Damaged`] if its bytes changed on the disk.
    pub fn read_blob(&self, digest: &Digest) -> Result<Vec<u8>, StoreError> {
        let path = self.inner.layout.blob(digest);
        let mut bytes = Vec::new();
        self.open_blob(digest)?.read_to_end(&mut bytes).map_err(StoreError::io("read", &path))?;
        let mut hasher = digest.hasher();
        hasher.update(&bytes);
        let actual = hasher.finish();
        if actual != *digest {
            return Err(StoreError::Damaged { path, reason: format!("its digest is {actual}") });
        }
        Ok(bytes)
    }

    /// Stores a small blob.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn put_blob(&self, bytes: &[u8]) -> Result<Digest, StoreError> {
        let digest = Digest::sha256(bytes);
        if self.has_blob(&digest)?.is_some() {
            return Ok(digest);
        }
        let mut writer = self.blob_writer()?;
        writer.write_all(bytes).map_err(|e| writer.error(e))?;
        Ok(writer.commit(Some(&digest))?.0)
    }

    /// Begins a new blob.
    ///
    /// # Errors
    /// If the temporary file cannot be created.
    pub fn blob_writer(&self) -> Result<BlobWriter, StoreError> {
        let (file, path, owner) = self.blob_file()?;
        Ok(BlobWriter {
            store: self.clone(),
            out: Some(Out::Hashing(DigestWriter::new(file))),
            path,
            growth: None,
            _owner: owner,
        })
    }

    /// Begins a new blob whose writer computes its digest anyway: for [`BlobWriter::commit_as`].
    pub(super) fn known_blob_writer(&self) -> Result<BlobWriter, StoreError> {
        let (file, path, owner) = self.blob_file()?;
        Ok(BlobWriter {
            store: self.clone(),
            out: Some(Out::Plain { file, written: 0 }),
            path,
            growth: None,
            _owner: owner,
        })
    }

    fn blob_file(&self) -> Result<(BufWriter<File>, PathBuf, Arc<Owner>), StoreError> {
        let owner = self.owner()?;
        let path = owner.path("blob");
        let file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(StoreError::io("create", &path))?;
        Ok((BufWriter::with_capacity(BUFFER, file), path, owner))
    }

    /// A blob that is whole for certain, opened without marking it.
    pub(crate) fn trusted_blob(&self, digest: &Digest) -> Option<File> {
        let row = self.inner.meta.read("look up a blob", |c| self.blob_row(c, digest)).ok().flatten()?;
        let file = File::open(self.inner.layout.blob(digest)).ok()?;
        (row.trusted && file.metadata().is_ok_and(|meta| meta.size() == row.size)).then_some(file)
    }

    fn blob_row(&self, c: &Connection, digest: &Digest) -> rusqlite::Result<Option<Row>> {
        c.prepare_cached("SELECT size, durable OR boot = ?2 FROM blobs WHERE digest = ?1")?
            .query_row((digest.as_str(), &self.inner.boot), |row| Ok(Row { size: row.get(0)?, trusted: row.get(1)? }))
            .optional()
    }

    /// Whether a row and a file of the right size exist; marks nothing and reads no content.
    pub(crate) fn blob_present(&self, c: &Connection, digest: &Digest) -> rusqlite::Result<bool> {
        Ok(self
            .blob_row(c, digest)?
            .is_some_and(|row| fs::metadata(self.inner.layout.blob(digest)).is_ok_and(|meta| meta.size() == row.size)))
    }

    /// Hashes a blob that the last boot left without a sync, and believes it if it is whole.
    fn verify_blob(&self, digest: &Digest, path: &Path) -> Result<bool, StoreError> {
        if hash_file(path, digest)? != *digest {
            return Ok(false);
        }
        self.inner.meta.write("believe a blob", |tx| {
            tx.execute("UPDATE blobs SET boot = ?2 WHERE digest = ?1", (digest.as_str(), &self.inner.boot))?;
            Ok(())
        })?;
        Ok(true)
    }

    /// Deletes a blob that nothing but the caller needs; one that is part of a layer stays.
    ///
    /// # Errors
    /// If the metadata cannot be changed.
    pub fn discard_blob(&self, digest: &Digest) -> Result<(), StoreError> {
        let claimed = self.inner.meta.read("look up a blob", |c| {
            c.prepare_cached("SELECT EXISTS (SELECT 1 FROM layer_blobs WHERE digest = ?1)")?
                .query_row([digest.as_str()], |row| row.get(0))
        })?;
        if claimed { Ok(()) } else { self.drop_blob(digest) }
    }

    /// Forgets a blob whose file is not what it should be.
    pub(crate) fn drop_blob(&self, digest: &Digest) -> Result<(), StoreError> {
        self.inner.meta.write("drop a blob", |tx| {
            tx.execute("DELETE FROM blobs WHERE digest = ?1", [digest.as_str()])?;
            super::blocks::forget(tx, digest)?;
            Ok(self.to_trash(&self.inner.layout.blob(digest))?)
        })
    }
}

fn hash_file(path: &Path, like: &Digest) -> Result<Digest, StoreError> {
    let mut hasher: Hasher = like.hasher();
    let mut file = File::open(path).map_err(StoreError::io("open", path))?;
    let mut buffer = vec![0; BUFFER];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finish()),
            Ok(n) => hasher.update(&buffer[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(StoreError::io("read", path)(e)),
        }
    }
}

/// Where the bytes of a blob go.
enum Out {
    Hashing(DigestWriter<BufWriter<File>>),
    /// Somebody else hashes.
    Plain {
        file: BufWriter<File>,
        written: u64,
    },
}

/// A blob being written. Dropped without [`BlobWriter::commit`], it leaves nothing.
pub struct BlobWriter {
    store: Store,
    out: Option<Out>,
    path: PathBuf,
    /// Somebody reads along.
    growth: Option<Arc<Growth>>,
    _owner: Arc<Owner>,
}

impl BlobWriter {
    /// Lets somebody read the blob while it is written.
    ///
    /// # Errors
    /// If its file cannot be opened.
    pub fn follow(&mut self) -> Result<Following, StoreError> {
        let file = File::open(&self.path).map_err(StoreError::io("open", &self.path))?;
        let size = self.in_file();
        let growth = Arc::clone(self.growth.get_or_insert_with(|| Arc::new(Growth::new(size))));
        Ok(Following { file, at: 0, growth })
    }

    /// Tells how far the blob is.
    pub fn watch(&mut self) -> Written {
        let size = self.in_file();
        Written { growth: Arc::clone(self.growth.get_or_insert_with(|| Arc::new(Growth::new(size)))) }
    }

    /// Bytes that have reached the file.
    fn in_file(&self) -> u64 {
        let waiting = match &self.out {
            Some(Out::Hashing(out)) => out.get_ref().buffer().len(),
            Some(Out::Plain { file, .. }) => file.buffer().len(),
            None => 0,
        };
        self.written() - waiting as u64
    }

    /// Bytes written so far.
    #[must_use]
    pub fn written(&self) -> u64 {
        match &self.out {
            Some(Out::Hashing(out)) => out.written(),
            Some(Out::Plain { written, .. }) => *written,
            None => 0,
        }
    }

    /// Ends the blob and puts it into the store. With `expected` the bytes must have that digest.
    ///
    /// # Errors
    /// [`StoreError::DigestMismatch`], or what the file system says; nothing is kept then.
    pub fn commit(mut self, expected: Option<&Digest>) -> Result<(Digest, u64), StoreError> {
        let Some(Out::Hashing(out)) = self.out.take() else {
            return Err(StoreError::Misuse("the blob was committed before, or its digest is not computed here".into()));
        };
        let (mut file, actual, size) = out.finish();
        file.flush().map_err(|e| self.error(e))?;
        drop(file);
        if let Some(growth) = &self.growth {
            growth.reached(size);
        }
        // The writer computes sha256; anything else is computed from the file.
        let actual = match expected {
            Some(expected) if expected.algorithm() != actual.algorithm() => hash_file(&self.path, expected)?,
            _ => actual,
        };
        if let Some(expected) = expected.filter(|expected| **expected != actual) {
            return Err(StoreError::DigestMismatch { expected: expected.clone(), actual, size });
        }
        self.keep(actual, size)
    }

    /// Ends a blob of [`Store::known_blob_writer`]: `digest` is that of the `size` bytes written, computed by who wrote them.
    pub(super) fn commit_as(mut self, digest: &Digest, size: u64) -> Result<(Digest, u64), StoreError> {
        match self.out.take() {
            Some(Out::Plain { mut file, written }) if written == size => file.flush().map_err(|e| self.error(e))?,
            _ => return Err(StoreError::Misuse(format!("the blob {digest} does not have {size} bytes"))),
        }
        self.keep(digest.clone(), size)
    }

    /// Gives the complete file its name.
    fn keep(self, actual: Digest, size: u64) -> Result<(Digest, u64), StoreError> {
        let store = self.store.clone();
        let inner = &store.inner;
        inner.meta.write("add a blob", |tx| {
            if store.blob_present(tx, &actual)? {
                mark(tx, "blobs", "digest", actual.as_str())?;
                return Ok(());
            }
            let target = inner.layout.blob(&actual);
            if let Some(dir) = target.parent() {
                fs::create_dir_all(dir).map_err(StoreError::io("create", dir))?;
            }
            fs::rename(&self.path, &target).map_err(StoreError::io("rename", &target))?;
            tx.prepare_cached(
                "INSERT OR REPLACE INTO blobs (digest, size, created, last_used, used_gen, boot) VALUES (?1, ?2, ?3, ?3, ?4, ?5)",
            )?
            .execute((actual.as_str(), size, now(), generation(tx)?, &inner.boot))?;
            Ok(())
        })?;
        if let Some(growth) = &self.growth {
            growth.end(true);
        }
        Ok((actual, size))
    }

    pub(crate) fn error(&self, source: io::Error) -> StoreError {
        StoreError::io("write", &self.path)(source)
    }
}

impl Write for BlobWriter {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let count = match &mut self.out {
            Some(Out::Hashing(out)) => out.write(buf)?,
            Some(Out::Plain { file, written }) => {
                let count = file.write(buf)?;
                *written += count as u64;
                count
            }
            None => return Err(io::Error::other("the blob was committed before")),
        };
        if let Some(growth) = &self.growth {
            growth.received(self.written());
            growth.reached(self.in_file());
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.out {
            Some(Out::Hashing(out)) => out.flush(),
            Some(Out::Plain { file, .. }) => file.flush(),
            None => Ok(()),
        }
    }
}

impl Drop for BlobWriter {
    fn drop(&mut self) {
        if let Some(growth) = &self.growth {
            growth.end(false);
        }
        // After a commit the name is gone, unless the blob was there before.
        let _ = fs::remove_file(&self.path);
    }
}

impl std::fmt::Debug for BlobWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlobWriter").field("path", &self.path).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::store;

    #[test]
    fn a_blob_is_kept_under_its_digest() {
        let (_dir, store) = store();
        let digest = store.put_blob(b"hello").expect("writes");
        assert_eq!(digest, Digest::sha256(b"hello"));
        assert_eq!(store.put_blob(b"hello").expect("again"), digest);
        assert_eq!(store.has_blob(&digest).expect("asks"), Some(5));
        assert_eq!(store.read_blob(&digest).expect("reads"), b"hello");
        assert!(store.root().join("oci/blobs/sha256").join(digest.hex()).is_file());
        let missing = Digest::sha256(b"missing");
        assert_eq!(store.has_blob(&missing).expect("asks"), None);
        assert!(matches!(store.read_blob(&missing), Err(StoreError::NoBlob { .. })));
    }

    #[test]
    fn sha512_blobs_can_be_pulled() {
        let (_dir, store) = store();
        let mut hasher = Hasher::Sha512(Box::default());
        hasher.update(b"x");
        let expected = hasher.finish();
        let mut writer = store.blob_writer().expect("begins");
        writer.write_all(b"x").expect("writes");
        assert_eq!(writer.commit(Some(&expected)).expect("commits"), (expected.clone(), 1));
        assert_eq!(store.read_blob(&expected).expect("reads"), b"x");
    }

    #[test]
    fn a_blob_whose_writer_hashes_is_kept_under_that_digest() {
        let (_dir, store) = store();
        let digest = Digest::sha256(b"hello");
        let write = |bytes: &[u8]| {
            let mut writer = store.known_blob_writer().expect("begins");
            writer.write_all(bytes).expect("writes");
            writer
        };
        assert!(write(b"hell").commit_as(&digest, 5).is_err(), "bytes are missing");
        assert!(write(b"hello").commit(Some(&digest)).is_err(), "nobody hashed it");
        assert_eq!(store.has_blob(&digest).expect("asks"), None);
        assert_eq!(write(b"hello").commit_as(&digest, 5).expect("commits"), (digest.clone(), 5));
        assert_eq!(store.read_blob(&digest).expect("reads and checks"), b"hello");
    }

    #[test]
    fn a_wrong_digest_keeps_nothing() {
        let (_dir, store) = store();
        let mut writer = store.blob_writer().expect("begins");
        writer.write_all(b"corrupt").expect("writes");
        let error = writer.commit(Some(&Digest::sha256(b"right"))).expect_err("is wrong");
        assert!(matches!(error, StoreError::DigestMismatch { size: 7, .. }), "{error}");
        let mut dropped = store.blob_writer().expect("begins");
        dropped.write_all(b"never finished").expect("writes");
        drop(dropped);
        assert_eq!(fs::read_dir(store.root().join("oci/blobs/sha256")).expect("lists").count(), 0);
        let owner = store.owner().expect("has a directory");
        assert_eq!(fs::read_dir(owner.path("x").parent().expect("has a parent")).expect("lists").count(), 0);
    }

    #[test]
    fn bytes_that_changed_on_the_disk_are_noticed() {
        let (_dir, store) = store();
        let digest = store.put_blob(b"hello").expect("writes");
        let path = store.inner.layout.blob(&digest);
        fs::write(&path, b"hallo").expect("writes");
        assert!(matches!(store.read_blob(&digest), Err(StoreError::Damaged { .. })));
        fs::write(&path, b"truncat").expect("writes");
        assert_eq!(store.has_blob(&digest).expect("asks"), None, "a wrong size is as good as absent");
        assert_eq!(store.put_blob(b"hello").expect("heals"), digest);
        assert_eq!(store.read_blob(&digest).expect("reads"), b"hello");
    }

    #[test]
    fn after_a_crash_of_the_machine_only_what_verifies_is_believed() {
        let (_dir, store) = store();
        let good = store.put_blob(b"good").expect("writes");
        let bad = store.put_blob(b"lost").expect("writes");
        let synced = store.put_blob(b"sync").expect("writes");
        let boot = |table: &str, what: &str| {
            store.inner.meta.write("test", |tx| Ok(tx.execute(&format!("UPDATE {table} SET boot = 'old' {what}"), [])?))
        };
        boot("blobs", "").expect("updates");
        store
            .inner
            .meta
            .write("test", |tx| Ok(tx.execute("UPDATE blobs SET durable = 1 WHERE digest = ?1", [synced.as_str()])?))
            .expect("updates");
        // As ext4 leaves a file whose blocks were never written.
        fs::write(store.inner.layout.blob(&bad), [0; 4]).expect("writes");
        assert_eq!(store.has_blob(&good).expect("asks"), Some(4));
        assert_eq!(store.has_blob(&bad).expect("asks"), None);
        assert_eq!(store.has_blob(&synced).expect("asks"), Some(4));
    }

    #[test]
    fn sync_marks_rows() {
        let (_dir, store) = store();
        store.put_blob(b"x").expect("writes");
        store.sync().expect("syncs");
        let left: i64 = store
            .inner
            .meta
            .read("test", |c| c.query_row("SELECT count(*) FROM blobs WHERE durable = 0", [], |r| r.get(0)))
            .expect("counts");
        assert_eq!(left, 0);
    }
}
