//! Whether the steps that run at one time can reach each other's files.
//!
//! A step can hand descriptors to another one wherever both find the same socket: in a shared cache mount, or by an abstract name in
//! one network namespace. An overlay is made read-only when its step ends; a whole tree cannot be. So steps that can meet hold a
//! shared lock while their processes live. Who then gets it alone knows that nobody is left who could have been handed anything,
//! by whomever.

use std::path::PathBuf;

use super::lock::{FileLock, Mode};
use super::{Store, StoreError};

/// Held while a step runs that can meet others.
#[derive(Debug)]
pub struct Company {
    path: PathBuf,
    lock: FileLock,
}

impl Store {
    /// For a step that can meet others, before it can; nothing where what a step wrote can be made final whoever has it.
    ///
    /// # Errors
    /// If the lock cannot be made.
    pub fn company(&self) -> Result<Option<Company>, StoreError> {
        if self.snapshotter()?.per_layer() {
            return Ok(None);
        }
        let path = self.inner.layout.locks().join("company");
        // The exclusive lock is held for a moment only.
        let lock = FileLock::wait(&path, Mode::Shared)?;
        Ok(Some(Company { path, lock }))
    }
}

impl Company {
    /// Once all processes of the step are gone: whether no other one is running that could have met it, in any process.
    ///
    /// # Errors
    /// If the lock cannot be read.
    pub fn is_alone(self) -> Result<bool, StoreError> {
        let Self { path, lock } = self;
        drop(lock);
        Ok(FileLock::attempt(&path, Mode::Exclusive)?.is_some())
    }
}
