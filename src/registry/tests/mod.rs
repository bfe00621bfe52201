//! The client against a registry that misbehaves on request, and against a real one.

mod auth;
mod connections;
mod faults;
mod mirrors;
mod pull;
mod push;
mod real;
mod referrers;
mod tls;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::fake_registry::FakeRegistry;
use super::*;
use crate::base::{Event, Events};
use crate::oci::{Descriptor, Reference};

/// Credentials by host; counts how often it is asked.
#[derive(Default)]
pub(super) struct Keys {
    answers: Mutex<HashMap<String, Result<Option<Credential>, String>>>,
    asked: Mutex<usize>,
}

impl Keys {
    fn set(&self, host: &str, answer: Result<Option<Credential>, String>) {
        self.answers.lock().expect("not poisoned").insert(host.into(), answer);
    }

    fn asked(&self) -> usize {
        *self.asked.lock().expect("not poisoned")
    }
}

#[async_trait::async_trait]
impl CredentialProvider for Keys {
    async fn credential(&self, wanted: &Wanted<'_>) -> Result<Option<Credential>, String> {
        *self.asked.lock().expect("not poisoned") += 1;
        self.answers.lock().expect("not poisoned").get(wanted.host).cloned().unwrap_or(Ok(None))
    }
}

pub(super) fn user(password: &str) -> Credential {
    Credential::Basic { username: "user".into(), password: password.into() }
}

/// Options whose pauses take milliseconds.
pub(super) fn options() -> ClientOptions {
    ClientOptions {
        retry: RetryPolicy { base: Duration::from_millis(4), ..RetryPolicy::default() },
        timeouts: Timeouts { stall: Duration::from_secs(5), ..Timeouts::default() },
        ..ClientOptions::default()
    }
}

pub(super) fn client() -> Client {
    Client::new(options()).expect("a client")
}

/// A client that logs in to `registry` with this credential.
pub(super) fn client_with(registry: &FakeRegistry, credential: Credential) -> (Client, Arc<Keys>) {
    let keys = Arc::new(Keys::default());
    keys.set(&registry.host(), Ok(Some(credential)));
    let credentials = Arc::clone(&keys) as Arc<dyn CredentialProvider>;
    (Client::new(ClientOptions { credentials, ..options() }).expect("a client"), keys)
}

pub(super) fn reference(registry: &FakeRegistry, name: &str) -> Reference {
    format!("{}/{name}", registry.host()).parse().expect("a valid reference")
}

pub(super) fn describe(bytes: &[u8]) -> Descriptor {
    Descriptor::of_bytes("application/vnd.oci.image.layer.v1.tar+gzip", bytes)
}

/// Content that repeats nowhere, so that a piece in the wrong place is noticed.
pub(super) fn content(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// Collects notices.
pub(super) fn notices() -> (Events, Arc<Mutex<Vec<String>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&seen);
    let events = Events::new(move |event| {
        if let Event::Notice { text, .. } = event {
            sink.lock().expect("not poisoned").push(text);
        }
    });
    (events, seen)
}
