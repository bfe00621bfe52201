//! What is kept of a build: `history/<build>/`, one directory for each.
//!
//! Steps' logs are `steps/NN.log.zst` (DESIGN section 6), numbered in the order in which the steps began to speak. A
//! build that has nothing to keep makes no directory.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::SystemTime;

use super::{Store, StoreError};

/// Output of one step beyond this many bytes is not kept.
pub const MAX_STEP_LOG: u64 = 64 << 20;
/// A log is complete on disk up to less than this many bytes before its end, whatever happens.
const FLUSH_EVERY: u64 = 64 << 10;

/// The directory of one build.
#[derive(Debug)]
pub struct BuildHistory {
    dir: PathBuf,
    steps: AtomicU32,
}

impl Store {
    /// Where a build that begins now keeps its records.
    #[must_use]
    pub fn build_history(&self) -> BuildHistory {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let n = COUNTER.fetch_add(1, Ordering::Relaxed);
        // Sorts by time; process ids are not unique among pods that share a volume, but with the nanosecond they are.
        let name = format!("{:010}-{:09}-{}-{n}", now.as_secs(), now.subsec_nanos(), std::process::id());
        BuildHistory { dir: self.history_dir().join(name), steps: AtomicU32::new(0) }
    }
}

impl BuildHistory {
    /// The directory; it may not exist yet.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Opens the log of the next step.
    ///
    /// # Errors
    /// If the file cannot be made.
    pub fn step_log(&self) -> Result<StepLog, StoreError> {
        let steps = self.dir.join("steps");
        fs::create_dir_all(&steps).map_err(StoreError::io("create", &steps))?;
        let path = steps.join(format!("{:02}.log.zst", self.steps.fetch_add(1, Ordering::Relaxed) + 1));
        let open = || zstd::stream::write::Encoder::new(File::create_new(&path)?, 1);
        let encoder = open().map_err(StoreError::io("create", &path))?;
        Ok(StepLog { encoder: Some(encoder), path, written: 0, unflushed: 0 })
    }
}

/// The log of one step.
pub struct StepLog {
    /// Gone once the file cannot be written any more.
    encoder: Option<zstd::stream::write::Encoder<'static, File>>,
    path: PathBuf,
    written: u64,
    unflushed: u64,
}

impl StepLog {
    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
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
}
