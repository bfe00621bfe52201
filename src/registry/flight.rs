//! Identical requests in flight become one: builders that ask forty times for the same manifest get rate-limited
//! (navidrome/navidrome#5997).

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::OnceCell;

use super::RegistryError;

type Cell<T> = OnceCell<Result<T, RegistryError>>;

/// Operations under way, by name.
pub(super) struct Flights<T>(Mutex<HashMap<String, Weak<Cell<T>>>>);

impl<T> Default for Flights<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Clone> Flights<T> {
    /// Runs `operation`, or waits for the one of the same name that is under way and shares its result. When its
    /// runner is cancelled, one of those who wait takes over.
    pub(super) async fn run<F>(&self, key: String, operation: impl FnOnce() -> F) -> Result<T, RegistryError>
    where
        F: Future<Output = Result<T, RegistryError>>,
    {
        let cell = {
            let mut cells = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            cells.retain(|_, cell| cell.strong_count() > 0);
            match cells.get(&key).and_then(Weak::upgrade) {
                // A finished one is history: only what is still under way is shared.
                Some(cell) if !cell.initialized() => cell,
                _ => {
                    let cell = Arc::new(Cell::new());
                    cells.insert(key, Arc::downgrade(&cell));
                    cell
                }
            }
        };
        cell.get_or_init(operation).await.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn identical_operations_in_flight_run_once() {
        let flights = Arc::new(Flights::default());
        let runs = Arc::new(AtomicUsize::new(0));
        let tasks: Vec<_> = (0..10)
            .map(|_| {
                let (flights, runs) = (Arc::clone(&flights), Arc::clone(&runs));
                tokio::spawn(async move {
                    let operation = || async {
                        tokio::time::sleep(Duration::from_millis(30)).await;
                        Ok(runs.fetch_add(1, Ordering::SeqCst))
                    };
                    flights.run("same".into(), operation).await
                })
            })
            .collect();
        for task in tasks {
            assert_eq!(task.await.expect("no panic").expect("no error"), 0);
        }
        let again = flights.run("same".into(), || async { Ok(runs.fetch_add(1, Ordering::SeqCst)) }).await;
        assert_eq!(again.expect("no error"), 1, "a finished operation is not remembered");
    }

    #[tokio::test]
    async fn a_cancelled_runner_is_replaced() {
        let flights = Arc::new(Flights::default());
        let stuck = {
            let flights = Arc::clone(&flights);
            tokio::spawn(async move { flights.run("k".into(), std::future::pending::<Result<u32, _>>).await })
        };
        tokio::time::sleep(Duration::from_millis(10)).await;
        let waiting = {
            let flights = Arc::clone(&flights);
            tokio::spawn(async move { flights.run("k".into(), || async { Ok(7) }).await })
        };
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert!(!waiting.is_finished());
        stuck.abort();
        assert_eq!(waiting.await.expect("no panic").expect("no error"), 7);
    }
}
