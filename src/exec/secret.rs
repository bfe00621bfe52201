//! Secrets as files for one step: on the worker's private tmpfs, gone when the step is.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::Mode;
use rustix::io::Errno;

use crate::base::owner;

/// A secret in a file; removed on drop.
#[derive(Debug)]
pub struct SecretFile(PathBuf);

impl SecretFile {
    /// Writes `value` below `dir`, which must be private and in memory.
    ///
    /// # Errors
    /// The file system's.
    pub fn write(dir: &Path, value: &[u8], uid: u32, gid: u32, mode: u32) -> io::Result<Self> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let path = dir.join(format!("secret-{}", COUNTER.fetch_add(1, Ordering::Relaxed)));
        let mut file: File = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        let secret = Self(path);
        file.write_all(value)?;
        match owner::set_fd(&file, uid, gid) {
            // An older tmpfs records nothing; the one id there is may read it all the same.
            Err(Errno::PERM) if owner::are_recorded() => {}
            other => other?,
        }
        owner::set_mode(&file, Mode::from_raw_mode(mode & 0o7777))?;
        Ok(secret)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for SecretFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vanishes_with_its_owner() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        let secret = SecretFile::write(dir.path(), b"x", uid, gid, 0o400)?;
        assert_eq!(std::fs::read(secret.path())?, b"x");
        let path = secret.path().to_path_buf();
        drop(secret);
        assert!(!path.exists());
        Ok(())
    }
}
