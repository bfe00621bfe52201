//! The caches of a build on their way.
//!
//! They are read while the build does other things. Who needs them waits for a moment; after that the build goes on
//! without those that are missing, and uses each from when it is there: a step that runs by then is stopped if its
//! result has come.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::base::Cancel;
use crate::cache::import::{Import, Imports};

/// What has come so far.
#[derive(Debug, Clone, Default)]
pub struct Arrived {
    /// The caches.
    pub imports: Arc<Imports>,
    /// How many are still on their way.
    pub pending: usize,
    /// Grows with each that comes.
    pub revision: usize,
}

/// The caches of a build, on their way or there. Cheap to clone.
#[derive(Clone)]
pub struct LoadingImports(Arc<Inner>);

struct Inner {
    arrived: watch::Sender<Arrived>,
    until: Instant,
    asked: AtomicBool,
    over: Cancel,
}

impl LoadingImports {
    /// So many names are about to be read, and are waited for that long from now on.
    #[must_use]
    pub fn new(pending: usize, patience: Duration) -> Self {
        Self(Arc::new(Inner {
            arrived: watch::Sender::new(Arrived { pending, ..Arrived::default() }),
            until: Instant::now() + patience,
            asked: AtomicBool::new(false),
            over: Cancel::default(),
        }))
    }

    /// Name number `order` was read; there is nothing there if that was not possible.
    pub fn arrive(&self, order: usize, caches: Vec<Import>) {
        self.0.arrived.send_modify(|arrived| {
            Arc::make_mut(&mut arrived.imports).insert(order, caches);
            arrived.pending = arrived.pending.saturating_sub(1);
            arrived.revision += 1;
        });
    }

    /// What is there once all is there or patience has ended.
    pub async fn get(&self) -> Arrived {
        self.0.asked.store(true, Ordering::Relaxed);
        let mut arrived = self.0.arrived.subscribe();
        let _ = timeout_at(self.0.until, arrived.wait_for(|arrived| arrived.pending == 0)).await;
        self.now()
    }

    /// What is there once more has come than there was at `revision`.
    pub async fn after(&self, revision: usize) -> Arrived {
        let mut arrived = self.0.arrived.subscribe();
        // The sender lives in `self`, so waiting cannot fail.
        let _ = arrived.wait_for(|arrived| arrived.revision > revision).await;
        self.now()
    }

    /// What is there.
    #[must_use]
    pub fn now(&self) -> Arrived {
        self.0.arrived.borrow().clone()
    }

    /// Whether somebody wanted to know what the caches have.
    #[must_use]
    pub fn were_asked_for(&self) -> bool {
        self.0.asked.load(Ordering::Relaxed)
    }

    /// Returns once nobody needs them any more.
    pub async fn over(&self) {
        self.0.over.cancelled().await;
    }

    /// Nobody needs them any more; returns when those who read them have seen that.
    pub async fn end(&self) {
        self.0.over.cancel();
        let mut arrived = self.0.arrived.subscribe();
        let _ = arrived.wait_for(|arrived| arrived.pending == 0).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Nobody waits longer than patience, and what comes later is there for who asks then.
    #[tokio::test]
    async fn c7_10_a_build_does_not_wait_for_ever() {
        let imports = LoadingImports::new(2, Duration::ZERO);
        assert!(!imports.were_asked_for());
        assert_eq!(imports.get().await.pending, 2);
        assert!(imports.were_asked_for());
        imports.arrive(1, Vec::new());
        assert_eq!(imports.after(0).await.pending, 1);
        imports.arrive(0, Vec::new());
        assert_eq!(imports.get().await.pending, 0);
        imports.end().await;
    }

    // With patience left, all are waited for, and no longer.
    #[tokio::test]
    async fn c7_10_a_build_waits_until_all_are_there() {
        let imports = LoadingImports::new(1, Duration::from_secs(3600));
        let (seen, ()) = tokio::join!(imports.get(), async { imports.arrive(0, Vec::new()) });
        assert_eq!(seen.pending, 0);
    }
}
