//! Layers that a cache promised and that did not come in time: what is done without, and what came after all.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::base::Digest;

/// Host and repository of a remote.
type Key = (String, String);

/// A layer that a cache promised and of which nothing came for so long is built while the download goes on.
const HEDGE: Duration = Duration::from_millis(700);

/// What is known of slow caches.
pub(super) struct Late {
    state: Mutex<State>,
    /// How long nothing may come before it is done without.
    hedge: Mutex<Duration>,
    /// What came after all.
    came: watch::Sender<Arc<HashSet<Digest>>>,
}

#[derive(Default)]
struct State {
    /// Nothing else that a cache promises is asked for there.
    down: HashSet<Key>,
    /// Those that gave something after all: once.
    forgiven: HashSet<Key>,
    /// Bytes that came from each.
    flows: HashMap<Key, Arc<AtomicU64>>,
    /// Downloads that go on although nobody waits.
    waiting: Vec<JoinHandle<()>>,
}

impl Default for Late {
    fn default() -> Self {
        Self { state: Mutex::default(), hedge: Mutex::new(HEDGE), came: watch::Sender::default() }
    }
}

impl Late {
    /// How long nothing may come of a layer before it is done without.
    pub(super) fn hedge(&self) -> Duration {
        *self.hedge.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who waits longer for lists waits longer for layers.
    pub(super) fn hedge_not_before(&self, patience: Duration) {
        *self.hedge.lock().unwrap_or_else(PoisonError::into_inner) = patience.max(HEDGE);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_down(&self, key: &Key) -> bool {
        self.lock().down.contains(key)
    }

    pub(super) fn down(&self) -> HashSet<Key> {
        self.lock().down.clone()
    }

    /// Counts the bytes that come from a place.
    pub(super) fn flow(&self, key: &Key) -> Arc<AtomicU64> {
        Arc::clone(self.lock().flows.entry(key.clone()).or_default())
    }

    /// It does not answer.
    pub(super) fn goes_down(&self, key: &Key) {
        self.lock().down.insert(key.clone());
    }

    /// A blob came after all. A place that was slow once is asked again, one that is slow all the time is not.
    pub(super) fn came(&self, key: &Key, digest: Digest) {
        {
            let mut state = self.lock();
            if state.forgiven.insert(key.clone()) {
                state.down.remove(key);
            }
        }
        self.came.send_modify(|came| {
            Arc::make_mut(came).insert(digest);
        });
    }

    pub(super) fn keep(&self, task: JoinHandle<()>) {
        self.lock().waiting.push(task);
    }

    pub(super) fn watch(&self) -> watch::Receiver<Arc<HashSet<Digest>>> {
        self.came.subscribe()
    }

    /// Nobody wants them any more.
    pub(super) fn give_up(&self) {
        for task in self.lock().waiting.drain(..) {
            task.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // A place is forgiven once: what is silent again and again is not waited for again and again.
    #[test]
    fn c7_10_a_slow_place_is_forgiven_once() {
        let (late, key) = (Late::default(), ("host".to_owned(), "app".to_owned()));
        let mut came = late.watch();
        for (blob, down) in [("one", false), ("two", true)] {
            late.goes_down(&key);
            assert!(late.is_down(&key));
            late.came(&key, Digest::sha256(blob));
            assert_eq!(late.is_down(&key), down, "{blob}");
            assert!(came.borrow_and_update().contains(&Digest::sha256(blob)));
        }
    }
}
