//! Whether the caches that are going to be written answer, found out while the build runs: who says nothing has then said
//! nothing for long enough when the build is done, and nobody waits for it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::cache::backend::{CacheBackend, CacheError};

/// How long what takes.
#[derive(Debug, Clone, Copy)]
struct Pace {
    /// Builds that are over by then ask only when that saves them a longer wait.
    soon: Duration,
    /// Who says nothing for that long is not asked for more.
    silence: Duration,
    /// A cache that has trouble is asked again, at least this often.
    pause: Duration,
    /// What is waited for an answer at least.
    least: Duration,
    /// A question is given so much time to be answered, from when it was asked.
    fair: Duration,
}

const PACE: Pace = Pace {
    soon: Duration::from_secs(1),
    silence: Duration::from_secs(10),
    pause: Duration::from_secs(5),
    least: Duration::from_millis(500),
    fair: Duration::from_secs(2),
};

#[derive(Debug, Clone)]
enum State {
    Unknown,
    /// Since then.
    Asked(Instant),
    Ready,
    /// It said no, or something that makes no sense.
    Trouble(CacheError),
    Silent(CacheError),
}

/// A cache that is going to be written. Asks until it is dropped, or the cache is ready.
pub(super) struct Writable {
    pub(super) backend: Arc<dyn CacheBackend>,
    pace: Pace,
    began: Instant,
    state: watch::Receiver<State>,
    /// Asks at once.
    now: Arc<Notify>,
    asking: JoinHandle<()>,
}

impl Drop for Writable {
    fn drop(&mut self) {
        self.asking.abort();
    }
}

impl Writable {
    /// Begins to ask, beside a build that begins now.
    pub(super) fn new(backend: Arc<dyn CacheBackend>) -> Self {
        Self::with_pace(backend, PACE)
    }

    fn with_pace(backend: Arc<dyn CacheBackend>, pace: Pace) -> Self {
        let (said, state) = watch::channel(State::Unknown);
        let (asked, now) = (Arc::clone(&backend), Arc::new(Notify::new()));
        let begin = Arc::clone(&now);
        let asking = tokio::spawn(async move {
            let _ = timeout(pace.soon, begin.notified()).await;
            said.send_replace(State::Asked(Instant::now()));
            let mut pause = pace.pause / 4;
            loop {
                let answer = timeout(pace.silence, asked.probe()).await;
                let answer = answer.unwrap_or_else(|_| Err(silent(pace.silence)));
                said.send_replace(match answer {
                    Ok(()) => State::Ready,
                    Err(error) if error.silent => State::Silent(error),
                    Err(error) => State::Trouble(error),
                });
                if matches!(*said.borrow(), State::Ready) {
                    return;
                }
                sleep(pause).await;
                pause = (pause * 2).min(pace.pause);
            }
        });
        Self { backend, pace, began: Instant::now(), state, now, asking }
    }

    /// Whether it is worth while to begin to write, now that the build is done. Where a failure is `ignored` anyway, an answer is
    /// waited for a twentieth of the time that the build took, or until the question is old enough to have been answered by
    /// anybody; else as long as a healthy server may need.
    ///
    /// # Errors
    /// What is known to be wrong with the cache.
    pub(super) async fn check(&self, ignored: bool) -> Result<(), CacheError> {
        let mut state = self.state.clone();
        let patience = if ignored {
            // A build that was over at once has not asked: writing to who is silent would take longer than to ask now.
            self.now.notify_one();
            let asked = state.wait_for(|state| !matches!(state, State::Unknown)).await;
            let asked = asked.map_or(Duration::MAX, |state| match *state {
                State::Asked(since) => since.elapsed(),
                _ => Duration::MAX,
            });
            let patience = (self.began.elapsed() / 20).clamp(self.pace.least, self.pace.silence);
            patience.max(self.pace.fair.saturating_sub(asked))
        } else {
            self.pace.silence
        };
        let known = state.wait_for(|state| !matches!(state, State::Asked(_)));
        let known = timeout(patience, known).await.map(|state| state.map_or(State::Unknown, |state| state.clone()));
        match known {
            Err(_) => Err(silent(patience)),
            Ok(State::Silent(error)) => Err(error),
            Ok(State::Trouble(error)) if ignored => Err(error),
            // It may have recovered, and if not, this is what the user has to see.
            Ok(State::Trouble(_)) => Ok(()),
            Ok(State::Ready | State::Unknown | State::Asked(_)) => Ok(()),
        }
    }
}

fn silent(span: Duration) -> CacheError {
    CacheError::silence(format!("no answer for {:.1} s", span.as_secs_f32()))
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use tokio::sync::Semaphore;

    use super::*;
    use crate::cache::backend::{CacheBlob, Moved, Written};
    use crate::cache::config::CacheConfig;
    use crate::cache::import::Import;
    use crate::registry::Progress;

    const NEVER: Duration = Duration::from_secs(3600);
    const HERE: Pace =
        Pace { soon: Duration::ZERO, silence: NEVER, pause: NEVER, least: Duration::ZERO, fair: Duration::ZERO };

    /// Answers a probe once it may, with an error or without.
    struct Probed(Semaphore, bool);

    #[async_trait]
    impl CacheBackend for Probed {
        fn title(&self) -> String {
            String::new()
        }

        async fn load(&self) -> Result<Vec<Import>, CacheError> {
            Ok(Vec::new())
        }

        async fn put(&self, _: &CacheBlob, _: &Progress) -> Result<Moved, CacheError> {
            Ok(Moved::Nothing)
        }

        async fn publish(&self, _: CacheConfig, _: &[CacheBlob]) -> Result<Written, CacheError> {
            Ok(Written { name: String::new(), document: None })
        }

        async fn probe(&self) -> Result<(), CacheError> {
            drop(self.0.acquire().await);
            if self.1 { Ok(()) } else { Err(CacheError::new("status 500")) }
        }
    }

    /// What asking a cache leads to.
    async fn asked(answers: usize, well: bool, pace: Pace, known: fn(&State) -> bool) -> Writable {
        let writable = Writable::with_pace(Arc::new(Probed(Semaphore::new(answers), well)), pace);
        writable.state.clone().wait_for(known).await.expect("asks");
        writable
    }

    // SPEC C7.10
    #[tokio::test]
    async fn c7_10_what_a_cache_says_is_known_when_the_build_is_done() {
        let ready = asked(1, true, HERE, |state| matches!(state, State::Ready)).await;
        assert!(ready.check(true).await.is_ok() && ready.check(false).await.is_ok());
        // A failure that is not ignored is found by trying, one that is costs nothing.
        let trouble = asked(1, false, HERE, |state| matches!(state, State::Trouble(_))).await;
        assert!(trouble.check(true).await.is_err() && trouble.check(false).await.is_ok());
        let short = Pace { silence: Duration::from_millis(1), ..HERE };
        let silent = asked(0, true, short, |state| matches!(state, State::Silent(_))).await;
        assert!(silent.check(true).await.is_err() && silent.check(false).await.is_err());
        // A short build asks nobody, but for where that is shorter than to find out by writing.
        let never = Pace { soon: NEVER, ..HERE };
        let short = Writable::with_pace(Arc::new(Probed(Semaphore::new(1), false)), never);
        assert!(short.check(false).await.is_ok());
        let fair = Pace { fair: NEVER, ..never };
        for (well, pace) in [(true, fair), (false, fair), (false, never)] {
            let short = Writable::with_pace(Arc::new(Probed(Semaphore::new(1), well)), pace);
            assert_eq!(short.check(true).await.is_ok(), well);
        }
        let silent = Writable::with_pace(Arc::new(Probed(Semaphore::new(0), true)), never);
        assert!(silent.check(true).await.is_err());
    }

    // Slow is not silent where it would fail the build.
    #[tokio::test]
    async fn c7_10_a_slow_cache_is_waited_for_where_that_counts() {
        let probed = Arc::new(Probed(Semaphore::new(0), true));
        let slow = Writable::with_pace(Arc::clone(&probed) as Arc<dyn CacheBackend>, HERE);
        slow.state.clone().wait_for(|state| matches!(state, State::Asked(_))).await.expect("asks");
        assert!(slow.check(true).await.is_err(), "nobody waits for what may fail");
        let (checked, ()) = tokio::join!(slow.check(false), async { probed.0.add_permits(1) });
        assert!(checked.is_ok());
    }
}
