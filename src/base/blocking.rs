//! Blocking work off the async threads, a bounded number of pieces at a time.

use std::sync::LazyLock;

use tokio::sync::Semaphore;
use tokio::task::JoinError;

use super::budget::Budget;

/// More at a time win nothing, and each is a thread with a heap of its own (a third of a MiB, kept while it is idle).
static TURNS: LazyLock<Semaphore> = LazyLock::new(|| Semaphore::new(turns(Budget::detect().cpus)));

fn turns(cpus: usize) -> usize {
    (cpus * 2).max(8)
}

/// Runs work that uses the processor or the disk. It must not wait for anything that another task of this process does (a lock
/// held while a step runs, a download): all turns could be taken by those who wait. Such work belongs on
/// `tokio::task::spawn_blocking`.
///
/// # Errors
/// If the work panicked, or the runtime ends.
pub async fn brief<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, JoinError> {
    // Nobody closes it. The turn ends with the work, not with who waits for that.
    let turn = TURNS.acquire().await.expect("because this semaphore is never closed");
    tokio::task::spawn_blocking(move || {
        let _turn = turn;
        work()
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn no_more_pieces_run_at_once_than_there_are_turns() {
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let all = (0..200).map(|_| {
            let (now, most) = (Arc::clone(&now), Arc::clone(&most));
            tokio::spawn(brief(move || {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                std::thread::yield_now();
                now.fetch_sub(1, Ordering::SeqCst);
            }))
        });
        for task in all.collect::<Vec<_>>() {
            task.await.expect("no panic").expect("no panic");
        }
        assert!(most.load(Ordering::SeqCst) <= turns(Budget::detect().cpus));
    }

    #[tokio::test]
    async fn a_turn_is_given_back_when_work_panics_and_when_nobody_waits() {
        let all = turns(Budget::detect().cpus);
        for _ in 0..=all {
            assert!(brief(|| panic!("on purpose")).await.is_err());
            drop(tokio::spawn(brief(|| ())));
        }
        brief(|| ()).await.expect("there are turns left");
    }
}
