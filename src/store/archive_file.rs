//! Archives that builds wrote to files outside of the store: one that is as it was left need not be written again.
//!
//! A file counts as untouched when it is the same inode with the same size, mode and times. The change time decides: nothing can
//! set it, and every write changes it, if the file system tells changes apart that follow each other at once. Whether it does is
//! tried on the file itself (on Linux 6.13 and later ext4, XFS, btrfs and tmpfs do); where it does not, archives are written anew each
//! time. A file lease keeps others out for the moments in which a file is looked at, so that no write can fall between.

use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use rootless::lease::FileLease;
use rusqlite::OptionalExtension as _;
use rustix::fs::{OFlags, Timespec, Timestamps, UTIME_NOW};

use crate::base::{Digest, StatKey};

use super::layout::refused_file_system;
use super::meta::now;
use super::{Store, StoreError};

/// What was not written again in so long is forgotten, in nanoseconds: 180 days.
const MEMORY: i64 = 180 * 24 * 3600 * 1_000_000_000;

impl Store {
    /// Whether the file `path` is as a build left it that wrote an archive with this `content`. It may change the moment after: for
    /// deciding whether an archive has to be prepared.
    ///
    /// # Errors
    /// If the metadata cannot be read.
    pub fn has_archive(&self, path: &Path, content: &Digest) -> Result<bool, StoreError> {
        let Some(left) = self.left(path, content)? else { return Ok(false) };
        Ok(fs::symlink_metadata(path).is_ok_and(|meta| state(&meta) == Some(left)))
    }

    /// Gives an archive that [`Self::has_archive`] the modification time of one that is written now. False, and nothing is done, if it
    /// is not as it was left, or somebody has it open for writing.
    ///
    /// # Errors
    /// If the metadata cannot be read or written.
    pub fn renew_archive(&self, path: &Path, content: &Digest) -> Result<bool, StoreError> {
        let Some(left) = self.left(path, content)? else { return Ok(false) };
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
        let opened = fs::OpenOptions::new().read(true).custom_flags(flags.cast_signed()).open(path);
        let Ok(file) = opened else { return Ok(false) };
        let Some(lease) = FileLease::against_writers(&file) else { return Ok(false) };
        let same = file.metadata().is_ok_and(|meta| state(&meta) == Some(left));
        if !same || !lease.undisturbed() || touch(&file).is_err() {
            return Ok(false);
        }
        let state = file.metadata().ok().and_then(|meta| state(&meta)).filter(|_| lease.undisturbed());
        drop(lease);
        match state {
            Some(state) => self.remember(path, content, &state).map(|()| true),
            None => Ok(false),
        }
    }

    /// Gives `file`, which holds an archive with this `content`, the name `path` by `rename`, and remembers how it was left then.
    ///
    /// # Errors
    /// Those of `rename`. What cannot be remembered is written again next time.
    pub fn name_archive(
        &self,
        path: &Path,
        content: &Digest,
        file: &File,
        rename: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        let lease = FileLease::against_all(file).filter(|_| tells_changes_apart(file));
        rename()?;
        let Some(lease) = lease else { return Ok(()) };
        let state = file.metadata().ok().and_then(|meta| state(&meta)).filter(|_| lease.undisturbed());
        drop(lease);
        if let Some(state) = state {
            // The archive is there; only the memory of it is not.
            let _ = self.remember(path, content, &state);
        }
        Ok(())
    }

    /// How the file was left, if it was left with this content.
    fn left(&self, path: &Path, content: &Digest) -> Result<Option<State>, StoreError> {
        let Ok(path) = std::path::absolute(path) else { return Ok(None) };
        let row: Option<Vec<u8>> = self.inner.meta.read("look up an archive", |c| {
            c.prepare_cached("SELECT state FROM archives WHERE path = ?1 AND content = ?2")?
                .query_row((path.as_os_str().as_bytes(), content.as_str()), |row| row.get(0))
                .optional()
        })?;
        Ok(row.and_then(|state| state.try_into().ok()))
    }

    fn remember(&self, path: &Path, content: &Digest, state: &State) -> Result<(), StoreError> {
        let Ok(path) = std::path::absolute(path) else { return Ok(()) };
        self.inner.meta.write("remember an archive", |tx| {
            tx.execute("DELETE FROM archives WHERE at < ?1", [now() - MEMORY])?;
            tx.execute(
                "INSERT OR REPLACE INTO archives (path, content, state, at) VALUES (?1, ?2, ?3, ?4)",
                (path.as_os_str().as_bytes(), content.as_str(), &state[..], now()),
            )?;
            Ok(())
        })
    }
}

/// Device, inode, size, mode, modification and change time, as they are kept.
type State = [u8; 48];

/// `None` of what was never an archive of ours, or has a second name through which it may be used otherwise.
fn state(meta: &fs::Metadata) -> Option<State> {
    if !meta.is_file() || meta.nlink() != 1 {
        return None;
    }
    let key = StatKey::of(meta);
    let mut state = [0; 48];
    let words =
        [meta.dev(), key.ino, key.size, u64::from(meta.mode()), key.mtime.cast_unsigned(), key.ctime.cast_unsigned()];
    for (place, word) in state.chunks_exact_mut(8).zip(words) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    Some(state)
}

/// Sets both times to the present.
fn touch(file: &File) -> io::Result<()> {
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    Ok(rustix::fs::futimens(file, &Timestamps { last_access: now, last_modification: now })?)
}

/// Whether change times of two changes differ that follow each other at once. Tried twice: once, the clock's tick may lie between.
/// Other machines write to network file systems, which this one learns late.
fn tells_changes_apart(file: &File) -> bool {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // Magic numbers are 32 bits wide.
    let local = rustix::fs::fstatfs(file).is_ok_and(|stat| refused_file_system(stat.f_type as u32).is_none());
    let changed = || file.metadata().ok().map(|meta| (meta.ctime(), meta.ctime_nsec()));
    let mut last = changed();
    local
        && (0..2).all(|_| {
            let before = last;
            last = touch(file).ok().and_then(|()| changed());
            last.is_some() && last != before
        })
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::PathBuf;

    use super::*;
    use crate::store::testing::{skip, store};

    /// Writes a file as an exporter does, and says whether this machine can remember it.
    fn written(store: &Store, path: &Path, content: &Digest) -> bool {
        let temp = tempfile::NamedTempFile::new_in(path.parent().expect("a parent")).expect("a file");
        temp.as_file().write_all(b"archive").expect("written");
        let file = temp.as_file().try_clone().expect("a second descriptor");
        let able = tells_changes_apart(&file);
        store
            .name_archive(path, content, &file, || temp.persist(path).map(drop).map_err(|e| e.error))
            .expect("renamed");
        let known = store.has_archive(path, content).expect("reads");
        assert_eq!(known, able, "remembered where changes are told apart");
        known
    }

    /// A store that remembers an archive.
    struct Kept {
        _dir: tempfile::TempDir,
        store: Store,
        path: PathBuf,
        content: Digest,
    }

    fn kept() -> Option<Kept> {
        let (dir, store) = store();
        let (path, content) = (dir.path().join("a.tar"), Digest::sha256("a"));
        if !written(&store, &path, &content) {
            skip("this file system does not tell changes apart");
            return None;
        }
        Some(Kept { _dir: dir, store, path, content })
    }

    #[test]
    fn what_was_touched_is_written_again() {
        let Some(Kept { _dir, store, path, content }) = kept() else { return };
        assert!(!store.has_archive(&path, &Digest::sha256("b")).expect("reads"), "other content");
        let before = fs::metadata(&path).expect("there").modified().expect("a time");
        assert!(store.renew_archive(&path, &content).expect("renews"));
        assert!(fs::metadata(&path).expect("there").modified().expect("a time") > before, "as if it was written");
        assert!(store.has_archive(&path, &content).expect("reads"), "and it is known as it is now");

        type Harm = (&'static str, fn(&PathBuf));
        let harms: [Harm; 6] = [
            ("written to, same size, times put back", |p| {
                let times = fs::metadata(p).expect("there");
                let times = fs::FileTimes::new().set_modified(times.modified().expect("a time"));
                fs::write(p, "ARCHIVE").expect("written");
                File::options().write(true).open(p).and_then(|f| f.set_times(times)).expect("set");
            }),
            ("longer", |p| {
                File::options().append(true).open(p).and_then(|mut f| f.write_all(b"x")).expect("written");
            }),
            ("another file with the same bytes", |p| {
                let other = p.with_extension("other");
                fs::copy(p, &other).and_then(|_| fs::rename(&other, p)).expect("replaced");
            }),
            ("another mode", |p| fs::set_permissions(p, fs::Permissions::from_mode(0o600)).expect("set")),
            ("a second name", |p| fs::hard_link(p, p.with_extension("link")).expect("linked")),
            ("gone", |p| fs::remove_file(p).expect("removed")),
        ];
        for (harm, inflict) in harms {
            let _ = fs::remove_file(path.with_extension("link"));
            assert!(written(&store, &path, &content), "{harm}");
            inflict(&path);
            assert!(!store.has_archive(&path, &content).expect("reads"), "{harm}");
            assert!(!store.renew_archive(&path, &content).expect("reads"), "{harm}");
        }
    }

    #[test]
    fn an_archive_that_is_being_written_to_is_not_ours() {
        let Some(Kept { _dir, store, path, content }) = kept() else { return };
        let _writer = File::options().write(true).open(&path).expect("opens");
        assert!(!store.renew_archive(&path, &content).expect("reads"));
    }
}
