//! Answers that hold for a whole invocation: what moves during a build must not mean two things in it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Answers by name. Who asks for one that is being found out waits for it.
pub(super) struct Told<T>(Mutex<HashMap<String, Arc<tokio::sync::Mutex<Option<T>>>>>);

impl<T> Default for Told<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Clone> Told<T> {
    /// The answer for `name`, found out once. A failure is no answer: the next one asks again.
    pub(super) async fn once<E>(&self, name: String, ask: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        let slot = {
            let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(slots.entry(name).or_default())
        };
        let mut slot = slot.lock().await;
        if let Some(known) = &*slot {
            return Ok(known.clone());
        }
        let answer = ask.await?;
        *slot = Some(answer.clone());
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_answer_holds() {
        let told = Told::default();
        assert_eq!(told.once("a".into(), async { Err::<u8, _>("no") }).await, Err("no"));
        assert_eq!(told.once("a".into(), async { Ok::<_, &str>(1) }).await, Ok(1));
        assert_eq!(told.once("a".into(), async { Ok::<_, &str>(2) }).await, Ok(1));
        assert_eq!(told.once("b".into(), async { Ok::<_, &str>(3) }).await, Ok(3));
    }
}
