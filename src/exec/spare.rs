//! What the next step needs, made in advance.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Room for one thing that takes a while to make.
#[derive(Debug)]
pub(super) struct Spare<T> {
    made: Mutex<Option<T>>,
    /// Somebody is about to fill it: nobody else has to.
    awaited: AtomicBool,
}

impl<T> Default for Spare<T> {
    fn default() -> Self {
        Self { made: Mutex::default(), awaited: AtomicBool::new(false) }
    }
}

impl<T> Spare<T> {
    fn made(&self) -> MutexGuard<'_, Option<T>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is there. Waits for what is being made, which is quicker than to begin another.
    pub(super) fn take(&self) -> Option<T> {
        self.made().take()
    }
}

/// Has `owner`'s spare made on a thread of its own, unless there is one or somebody is at it: steps that start at once do not each
/// take a thread to wait for the same one. Trouble is for the step to meet.
pub(super) fn expect<O: Send + Sync + 'static, T: 'static>(
    owner: &Arc<O>,
    spare: fn(&O) -> &Spare<T>,
    make: fn(&O) -> Option<T>,
) {
    if spare(owner).awaited.swap(true, Ordering::AcqRel) {
        return;
    }
    let owner = Arc::clone(owner);
    drop(tokio::task::spawn_blocking(move || {
        let spare = spare(&owner);
        // Held meanwhile, see `take`.
        let mut made = spare.made();
        if made.is_none() {
            *made = make(&owner);
        }
        drop(made);
        spare.awaited.store(false, Ordering::Release);
    }));
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    struct Maker {
        spare: Spare<usize>,
        count: AtomicUsize,
        go: Mutex<Receiver<()>>,
        begun: Sender<()>,
    }

    fn make(maker: &Maker) -> Option<usize> {
        maker.begun.send(()).expect("somebody listens");
        maker.go.lock().expect("is not poisoned").recv().expect("is told to go on");
        Some(maker.count.fetch_add(1, Ordering::SeqCst))
    }

    #[tokio::test]
    async fn one_is_made_for_many_who_expect_it_and_takers_wait_for_it() {
        let ((begun, begins), (go, goes)) = (channel(), channel());
        let maker =
            Arc::new(Maker { spare: Spare::default(), count: AtomicUsize::new(0), go: Mutex::new(goes), begun });
        for _ in 0..50 {
            expect(&maker, |m| &m.spare, make);
        }
        begins.recv().expect("begins");
        for _ in 0..50 {
            expect(&maker, |m| &m.spare, make);
        }
        let taker = std::thread::spawn({
            let maker = Arc::clone(&maker);
            move || maker.spare.take()
        });
        go.send(()).expect("is there");
        assert_eq!(taker.join().expect("no panic"), Some(0));
        assert_eq!(maker.spare.take(), None, "only one was made");
    }
}
