//! Requests that become fewer when a service says that there are too many (SPEC B4.07, `retry_mode=adaptive`).
//!
//! Retries alone hold back the request that was refused; with many at a time the others go on and are refused as well.
//! Here all requests of a cache keep a distance that doubles with each refusal and shrinks with each answer.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use object_store::client::{HttpError, HttpRequest, HttpResponse, HttpService};
use tokio::time::{Instant, sleep_until};

/// The distance after the first refusal.
const FIRST: Duration = Duration::from_millis(50);
/// The longest distance. A few requests wait for each other, and none for as long as a silence may be.
const LONGEST: Duration = Duration::from_secs(1);
/// Shorter ones are none.
const SHORTEST: Duration = Duration::from_millis(5);

/// How far apart requests are, and when there is room for the next one.
#[derive(Debug)]
struct Pace {
    gap: Duration,
    next: Instant,
}

impl Pace {
    /// When the next request may be sent; the one after it follows later.
    fn slot(&mut self, now: Instant) -> Instant {
        let at = self.next.max(now);
        self.next = at + self.gap;
        if self.gap.is_zero() { now } else { at }
    }

    /// An answer has come.
    fn heard(&mut self, refused: bool) {
        self.gap = match refused {
            true => (self.gap * 2).clamp(FIRST, LONGEST),
            false if self.gap < SHORTEST => Duration::ZERO,
            false => self.gap * 9 / 10,
        };
    }
}

/// A client that keeps the pace.
#[derive(Debug)]
pub(super) struct Paced {
    client: reqwest::Client,
    pace: Mutex<Pace>,
}

impl Paced {
    /// No distance yet.
    pub(super) fn new(client: reqwest::Client) -> Self {
        Self { client, pace: Mutex::new(Pace { gap: Duration::ZERO, next: Instant::now() }) }
    }

    fn pace(&self) -> std::sync::MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl HttpService for Paced {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let at = self.pace().slot(Instant::now());
        sleep_until(at).await;
        let answer = self.client.call(request).await?;
        self.pace().heard(matches!(answer.status().as_u16(), 429 | 503));
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b4_07_refusals_put_requests_apart_and_answers_together_again() {
        let now = Instant::now();
        let mut pace = Pace { gap: Duration::ZERO, next: now };
        assert!((0..9).all(|_| pace.slot(now) == now), "as long as nothing is refused, nothing waits");
        pace.heard(true);
        let slots: Vec<Instant> = (0..3).map(|_| pace.slot(now)).collect();
        assert_eq!(slots, [now, now + FIRST, now + 2 * FIRST]);
        (0..20).for_each(|_| pace.heard(true));
        assert_eq!(pace.gap, LONGEST);
        (0..60).for_each(|_| pace.heard(false));
        assert_eq!(pace.gap, Duration::ZERO);
        let later = now + Duration::from_secs(60);
        assert!((0..9).all(|_| pace.slot(later) == later));
    }
}
