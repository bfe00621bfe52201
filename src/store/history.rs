//! What is kept of a build: `history/<build>/`, one directory for each.
//!
//! `journal` is written line by line while the build runs, so that whatever happens to the process, what it did until
//! then is known; `alive` is locked meanwhile. Steps' logs are `steps/NN.log.zst` (DESIGN section 6), numbered in the
//! order in which the steps began to speak; documents about what was made are `attachments/DIGEST.zst`. What the lines of a
//! journal say is the builder's business.

use std::fs::{self, File};
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use super::lock::{FileLock, Mode, is_held};
use super::sweep::{Patience, list};
use super::{LayerId, Store, StoreError};
use crate::base::Digest;

/// Output of one step beyond this many bytes is not kept.
pub const MAX_STEP_LOG: u64 = 64 << 20;
/// A log is complete on disk up to less than this many bytes before its end, whatever happens.
const FLUSH_EVERY: u64 = 64 << 10;
/// A journal is not read beyond this many bytes.
const MAX_JOURNAL: u64 = 64 << 20;
/// Larger documents are not kept.
const MAX_ATTACHMENT: u64 = 64 << 20;
const JOURNAL: &str = "journal";
const ALIVE: &str = "alive";

/// The directory of one build.
#[derive(Debug)]
pub struct BuildHistory {
    dir: PathBuf,
    steps: AtomicU32,
    journal: Mutex<Option<(File, FileLock)>>,
    /// The store's note that there are new logs.
    logged: Arc<AtomicBool>,
}

/// A build of which something is kept.
#[derive(Debug, Clone)]
pub struct KeptBuild {
    dir: PathBuf,
    /// Its process lives.
    pub alive: bool,
    /// When it began.
    pub begun: SystemTime,
}

impl Store {
    /// Where a build that begins now keeps its records.
    #[must_use]
    pub fn build_history(&self) -> BuildHistory {
        self.history_of(SystemTime::now())
    }

    fn history_of(&self, begun: SystemTime) -> BuildHistory {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let now = begun.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let n = COUNTER.fetch_add(1, Ordering::Relaxed);
        // Sorts by time; process ids are not unique among pods that share a volume, but with the nanosecond they are.
        let name = format!("{:010}-{:09}-{}-{n}", now.as_secs(), now.subsec_nanos(), std::process::id());
        let logged = Arc::clone(&self.inner.logged);
        BuildHistory { dir: self.history_dir().join(name), steps: AtomicU32::new(0), journal: Mutex::default(), logged }
    }

    /// Every build of which something is kept, the newest first.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn builds(&self) -> Result<Vec<KeptBuild>, StoreError> {
        let mut dirs = list(&self.history_dir())?;
        dirs.sort();
        dirs.reverse();
        dirs.into_iter().map(KeptBuild::open).collect()
    }

    /// Keeps a build of another store: its journal, its steps' logs by number, compressed as they are here, and its
    /// documents.
    ///
    /// # Errors
    /// If files cannot be written.
    pub fn import_build(
        &self,
        begun: SystemTime,
        journal: &str,
        logs: &[(u32, Vec<u8>)],
        attachments: &[(Digest, Vec<u8>)],
    ) -> Result<(), StoreError> {
        let history = self.history_of(begun);
        for (digest, bytes) in attachments {
            history.attach(digest, bytes)?;
        }
        let steps = history.dir.join("steps");
        fs::create_dir_all(&steps).map_err(StoreError::io("create", &steps))?;
        for (number, bytes) in logs {
            let path = log_path(&history.dir, *number);
            fs::write(&path, bytes).map_err(StoreError::io("write", &path))?;
        }
        // With the journal it is a record.
        let path = history.dir.join(JOURNAL);
        crate::base::file::write_atomic(&path, journal.as_bytes()).map_err(StoreError::io("write", &path))
    }

    /// Forgets a build, with its logs. One that runs stays; whether it is gone.
    ///
    /// # Errors
    /// If files cannot be moved.
    pub fn forget_build(&self, build: &KeptBuild) -> Result<bool, StoreError> {
        if build.dir.join(ALIVE).exists() && FileLock::take_over(&build.dir.join(ALIVE))?.is_none() {
            return Ok(false);
        }
        self.to_trash(&build.dir)?;
        // Who empties the trash already takes this along.
        self.empty_trash(Patience::Skip)?;
        Ok(true)
    }

    /// Removes a layer that no image and no cache record is to be made from, unless somebody uses it.
    ///
    /// # Errors
    /// If the metadata cannot be changed, or files cannot be moved.
    pub fn discard_layer(&self, id: &LayerId) -> Result<(), StoreError> {
        self.remove_one_layer(id)?;
        self.empty_trash(Patience::Skip)
    }
}

impl KeptBuild {
    fn open(dir: PathBuf) -> Result<Self, StoreError> {
        let name = dir.file_name().and_then(|n| n.to_str()).unwrap_or_default().to_owned();
        let mut numbers = name.split('-').map(|part| part.parse::<u64>().unwrap_or(0));
        let (seconds, nanos) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        Ok(Self {
            alive: is_running(&dir)?,
            begun: SystemTime::UNIX_EPOCH + Duration::new(seconds, u32::try_from(nanos).unwrap_or(0)),
            dir,
        })
    }

    /// The lines of its journal; without those that were never finished. Empty for builds without one.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn journal(&self) -> Result<String, StoreError> {
        let path = self.dir.join(JOURNAL);
        let mut bytes = Vec::new();
        match File::open(&path).and_then(|file| file.take(MAX_JOURNAL).read_to_end(&mut bytes)) {
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(StoreError::io("read", &path)(e)),
        }
        let end = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        bytes.truncate(end);
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Where the log of a step is.
    #[must_use]
    pub fn log_path(&self, number: u32) -> PathBuf {
        log_path(&self.dir, number)
    }

    /// The log of a step, from its beginning; also one that was never finished.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn log(&self, number: u32) -> Result<impl Read + use<>, StoreError> {
        let path = self.log_path(number);
        let open = || zstd::stream::read::Decoder::new(File::open(&path)?);
        Ok(CutShort(open().map_err(StoreError::io("read", &path))?))
    }

    /// A document of the build.
    ///
    /// # Errors
    /// If it is not there, cannot be read, or is not what it should be.
    pub fn attachment(&self, digest: &Digest) -> Result<Vec<u8>, StoreError> {
        let path = attachment_path(&self.dir, digest);
        let read = || {
            let mut bytes = Vec::new();
            zstd::stream::read::Decoder::new(File::open(&path)?)?.take(MAX_ATTACHMENT + 1).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        let bytes = read().map_err(StoreError::io("read", &path))?;
        let mut hasher = digest.hasher();
        hasher.update(&bytes);
        let actual = hasher.finish();
        if actual != *digest {
            let (expected, size) = (digest.clone(), bytes.len() as u64);
            return Err(StoreError::DigestMismatch { expected, actual, size });
        }
        Ok(bytes)
    }

    /// Bytes of everything that is kept.
    #[must_use]
    pub fn size(&self) -> u64 {
        let of = |name| list(&self.dir.join(name)).unwrap_or_default().into_iter();
        let files = of("steps").chain(of("attachments")).chain([self.dir.join(JOURNAL)]);
        files.filter_map(|path| Some(fs::metadata(path).ok()?.len())).sum()
    }
}

/// A stream whose end may be missing: what there is counts.
struct CutShort<R>(R);

impl<R: Read> Read for CutShort<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buf) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
            other => other,
        }
    }
}

/// Whether the process of the build lives.
pub(crate) fn is_running(dir: &Path) -> Result<bool, StoreError> {
    is_held(&dir.join(ALIVE))
}

fn attachment_path(dir: &Path, digest: &Digest) -> PathBuf {
    dir.join("attachments").join(format!("{}.zst", digest.hex()))
}

fn log_path(dir: &Path, number: u32) -> PathBuf {
    dir.join("steps").join(format!("{number:02}.log.zst"))
}

impl BuildHistory {
    /// The directory; it may not exist yet.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Adds a line to the journal, all of it or nothing.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn note(&self, line: &str) -> Result<(), StoreError> {
        let path = self.dir.join(JOURNAL);
        let mut journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        if journal.is_none() {
            fs::create_dir_all(&self.dir).map_err(StoreError::io("create", &self.dir))?;
            let alive = FileLock::wait(&self.dir.join(ALIVE), Mode::Exclusive)?;
            *journal = Some((File::create_new(&path).map_err(StoreError::io("create", &path))?, alive));
        }
        let Some((file, _)) = journal.as_mut() else { return Ok(()) };
        file.write_all(format!("{line}\n").as_bytes()).map_err(StoreError::io("write", &path))
    }

    /// Keeps a document under its digest. Whether it is kept: one that is too large is not.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn attach(&self, digest: &Digest, bytes: &[u8]) -> Result<bool, StoreError> {
        if bytes.len() as u64 > MAX_ATTACHMENT {
            return Ok(false);
        }
        let path = attachment_path(&self.dir, digest);
        let dir = self.dir.join("attachments");
        fs::create_dir_all(&dir).map_err(StoreError::io("create", &dir))?;
        // At once: an encoder of streams does not know that there is little to come, and takes 3 MiB.
        let write = || fs::write(&path, zstd::bulk::compress(bytes, 3)?);
        write().map_err(StoreError::io("write", &path))?;
        Ok(true)
    }

    /// Opens the log of the next step.
    ///
    /// # Errors
    /// If the file cannot be made.
    pub fn step_log(&self) -> Result<StepLog, StoreError> {
        let steps = self.dir.join("steps");
        fs::create_dir_all(&steps).map_err(StoreError::io("create", &steps))?;
        let number = self.steps.fetch_add(1, Ordering::Relaxed) + 1;
        let path = log_path(&self.dir, number);
        let open = || zstd::stream::write::Encoder::new(File::create_new(&path)?, 1);
        let encoder = open().map_err(StoreError::io("create", &path))?;
        self.logged.store(true, Ordering::Relaxed);
        Ok(StepLog { encoder: Some(encoder), path, number, written: 0, unflushed: 0 })
    }
}

/// The log of one step.
pub struct StepLog {
    /// Gone once the file cannot be written any more.
    encoder: Option<zstd::stream::write::Encoder<'static, File>>,
    path: PathBuf,
    number: u32,
    written: u64,
    unflushed: u64,
}

impl StepLog {
    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its number among the build's logs.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Appends output; beyond [`MAX_STEP_LOG`] one line says that there was more.
    ///
    /// # Errors
    /// The file system's, once; later output is dropped then.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(encoder) = &mut self.encoder else { return Ok(()) };
        let room = usize::try_from(MAX_STEP_LOG - self.written).unwrap_or(usize::MAX);
        let kept = &bytes[..bytes.len().min(room)];
        let full = kept.len() < bytes.len();
        self.written += kept.len() as u64;
        self.unflushed += kept.len() as u64;
        let mut result = encoder.write_all(kept);
        if full {
            result =
                result.and_then(|()| writeln!(encoder, "\n[output beyond {} MiB is not kept]", MAX_STEP_LOG >> 20));
        } else if self.unflushed >= FLUSH_EVERY {
            self.unflushed = 0;
            result = result.and_then(|()| encoder.flush());
        }
        if full || result.is_err() {
            self.finish();
        }
        result
    }

    fn finish(&mut self) {
        if let Some(encoder) = self.encoder.take() {
            // What is on disk can be read without the end mark, too.
            let _ = encoder.finish();
        }
    }
}

impl Drop for StepLog {
    fn drop(&mut self) {
        self.finish();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::store;

    fn read(path: &Path) -> Vec<u8> {
        zstd::decode_all(File::open(path).expect("opens")).expect("decodes")
    }

    /// SPEC A5.17.
    #[test]
    fn a5_17_logs_are_numbered_and_end_at_the_limit() {
        let (_dir, store) = store();
        let history = store.build_history();
        assert!(!history.dir().exists(), "nothing to keep, no directory");
        let mut first = history.step_log().expect("opens");
        first.write(b"hello ").expect("writes");
        first.write(b"there\n").expect("writes");
        let mut second = history.step_log().expect("opens");
        let block = vec![b'x'; 1 << 20];
        for _ in 0..=MAX_STEP_LOG >> 20 {
            second.write(&block).expect("writes");
        }
        let (one, two) = (first.path().to_owned(), second.path().to_owned());
        assert!(one.ends_with("steps/01.log.zst") && two.ends_with("steps/02.log.zst"));
        drop((first, second));
        assert_eq!(read(&one), b"hello there\n");
        let whole = read(&two);
        assert!(whole.ends_with(b"x\n[output beyond 64 MiB is not kept]\n"));
        assert_eq!(whole.len(), (64 << 20) + 36);
        assert_ne!(store.build_history().dir(), history.dir());
    }

    /// SPEC B8.06.
    #[test]
    fn b8_06_journals_survive_whatever_happens() {
        let (_dir, store) = store();
        let history = store.build_history();
        history.note("one").expect("writes");
        history.note("two").expect("writes");
        let kept = store.builds().expect("lists").remove(0);
        assert!(kept.alive);
        assert!(!store.forget_build(&kept).expect("no failure"), "a build that runs stays");
        // As after a crash in the middle of a line and of a log.
        let mut log = history.step_log().expect("opens");
        log.write(&vec![b'x'; 100_000]).expect("writes");
        let unfinished = fs::read(log.path()).expect("reads");
        drop((log, history));
        fs::write(kept.log_path(1), unfinished).expect("writes");
        let mut journal = fs::OpenOptions::new().append(true).open(kept.dir.join(JOURNAL)).expect("opens");
        journal.write_all(b"thr").expect("writes");
        let kept = store.builds().expect("lists").remove(0);
        assert!(!kept.alive);
        assert_eq!(kept.journal().expect("reads"), "one\ntwo\n");
        let mut text = Vec::new();
        kept.log(1).expect("opens").read_to_end(&mut text).expect("reads");
        assert!(text.len() >= 65_536 && text.iter().all(|b| *b == b'x'), "{}", text.len());
        let size = kept.size();
        assert!(size > 0);
        // Documents are what they were, or not there.
        let history = store.history_of(kept.begun);
        let digest = Digest::sha256("statement");
        assert!(history.attach(&digest, b"statement").expect("writes"));
        let other = KeptBuild { dir: history.dir.clone(), ..kept.clone() };
        assert_eq!(other.attachment(&digest).expect("reads"), b"statement");
        assert!(other.size() > 0);
        fs::write(attachment_path(&other.dir, &digest), zstd::encode_all(&b"another"[..], 3).expect("encodes"))
            .expect("writes");
        assert!(matches!(other.attachment(&digest), Err(StoreError::DigestMismatch { .. })));
        assert!(other.attachment(&Digest::sha256("none")).is_err());
        fs::remove_dir_all(&other.dir).expect("removes");
        assert!(store.forget_build(&kept).expect("forgets"));
        assert!(store.builds().expect("lists").is_empty());
    }
}
