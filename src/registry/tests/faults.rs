//! A registry that fails again and again: every push ends right, and costs little more than it must (SPEC E3.13).

use super::super::fake_registry::{Action, Auth, FakeRegistry, Tokens, sha256};
use super::*;
use crate::oci::media_type::OCI_MANIFEST;

#[tokio::test]
async fn e3_07_a_broken_upload_goes_on_where_it_broke() {
    let registry = FakeRegistry::start();
    registry.state().resumable = true;
    registry.fault("PUT", "/uploads/", 1, Action::CloseAfterReading(300_000));
    registry.fault("PUT", "/uploads/", 1, Action::CloseAfterReading(500_000));
    let (events, seen) = notices();
    let client = Client::new(ClientOptions { events, ..options() }).expect("a client");
    let blob = content(1_000_000);
    let (target, source) = (reference(&registry, "a/b:1"), BlobSource::bytes(blob.clone().into()));
    let done = Arc::new(Mutex::new(0));
    let progress: Progress = {
        let done = Arc::clone(&done);
        Arc::new(move |n| *done.lock().expect("not poisoned") = n)
    };
    let outcome = client.push_blob(&target, &describe(&blob), &source, &[], &progress).await.expect("pushed");
    assert_eq!(outcome, PushOutcome::Uploaded);
    assert_eq!(*done.lock().expect("not poisoned"), 1_000_000);
    let puts: Vec<_> = registry.requests().into_iter().filter(|r| r.method == "PUT").collect();
    let lengths: Vec<_> = puts.iter().filter_map(|r| r.header("content-length")).collect();
    assert_eq!(lengths, ["1000000", "700000", "200000"]);
    assert_eq!(puts[2].header("content-range"), Some("800000-999999"));
    assert_eq!(registry.blob("a/b", &sha256(&blob)), Some(blob));
    assert!(registry.state().uploads.is_empty());
    // What was on its way when the connection broke was sent twice, and that is said.
    let seen = seen.lock().expect("not poisoned");
    assert!(seen.iter().all(|n| !n.contains("again because") || n.contains("bytes of sha256:")), "{seen:?}");
}

#[tokio::test]
async fn e3_07_a_session_that_is_lost_begins_anew() {
    let registry = FakeRegistry::start();
    registry.fault("PUT", "/uploads/", 1, Action::CloseAfterReading(300_000));
    let (events, seen) = notices();
    let client = Client::new(ClientOptions { events, ..options() }).expect("a client");
    let blob = content(1_000_000);
    let (target, source) = (reference(&registry, "a/b:1"), BlobSource::bytes(blob.clone().into()));
    client.push_blob(&target, &describe(&blob), &source, &[], &no_progress()).await.expect("pushed");
    let digest = sha256(&blob);
    assert_eq!(registry.blob("a/b", &digest), Some(blob));
    assert!(registry.state().uploads.is_empty(), "no session is left behind");
    // At least what the registry had read went twice, at most everything.
    let seen = seen.lock().expect("not poisoned");
    let extra = seen.iter().find_map(|text| text.split_once(&format!(" bytes of {digest} were sent to "))).map(|t| t.0);
    let extra: u64 = extra.and_then(|text| text.parse().ok()).unwrap_or_default();
    assert!((300_000..=1_000_000).contains(&extra), "{seen:?}");
}

// A token of a minute that ends while a layer is on its way, with the connection and without.
#[tokio::test]
async fn e3_02_a_token_that_ends_in_mid_upload_is_renewed() {
    for (resumable, action, resent) in [
        (true, Action::EndTokens, "1000000"),
        (true, Action::EndTokensAfterReading(300_000), "700000"),
        (false, Action::EndTokensAfterReading(300_000), "1000000"),
    ] {
        let registry = FakeRegistry::start();
        registry.set_auth(Auth::Token(Tokens { anonymous_pull: false, ..Tokens::default() }));
        registry.state().resumable = resumable;
        registry.fault("PUT", "/uploads/", 1, action.clone());
        let (client, _) = client_with(&registry, user("secret"));
        let blob = content(1_000_000);
        let (target, source) = (reference(&registry, "a/b:1"), BlobSource::bytes(blob.clone().into()));
        let pushed = client.push_blob(&target, &describe(&blob), &source, &[], &no_progress()).await;
        pushed.unwrap_or_else(|e| panic!("{action:?}: {e}"));
        assert_eq!(registry.blob("a/b", &sha256(&blob)), Some(blob), "{action:?}");
        let puts: Vec<_> = registry.requests().into_iter().filter(|r| r.method == "PUT").collect();
        let last = puts.last().and_then(|put| put.header("content-length").map(str::to_owned));
        assert_eq!((puts.len(), last.as_deref()), (2, Some(resent)), "{action:?}");
        assert_eq!(registry.count("POST", "/token"), 2, "{action:?}: one more token, no other login");
    }
}

/// Numbers that look random and are the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

// Tokens that end, cuts anywhere, 429, 500, 503, lost answers, slow answers.
#[tokio::test]
async fn e3_13_every_push_ends_right_whatever_fails() {
    let pauses = || vec![("Retry-After", "0".to_owned())];
    for seed in 1..=12 {
        let mut dice = Dice(seed * 7919);
        let registry = FakeRegistry::start();
        registry.set_auth(Auth::Token(Tokens { anonymous_pull: false, ..Tokens::default() }));
        registry.state().resumable = dice.below(2) == 0;
        let mut ended = false;
        for _ in 0..8 {
            let method = ["PUT", "POST", "HEAD", "PUT"][usize::try_from(dice.below(4)).unwrap_or(0)];
            let action = match dice.below(9) {
                0 => Action::Status(429, pauses(), String::new()),
                1 => Action::Status(500, vec![], String::new()),
                2 => Action::Status(503, pauses(), String::new()),
                3 => Action::Close,
                4 => Action::LoseAnswer,
                5 => Action::Delay(Duration::from_millis(20)),
                6 if !ended => {
                    ended = true;
                    Action::EndTokens
                }
                _ if method == "PUT" => Action::CloseAfterReading(usize::try_from(dice.below(120_000)).unwrap_or(0)),
                _ => Action::Close,
            };
            registry.fault(method, "/v2/", 1, action);
        }
        let (client, _) = client_with(&registry, user("secret"));
        let target = reference(&registry, "a/b:1");
        let blobs: Vec<Vec<u8>> = (1..4).map(|n| content(n * 50_000)).collect();
        for (at, blob) in blobs.iter().enumerate() {
            if at == 1 {
                registry.revoke_tokens();
            }
            let source = BlobSource::bytes(blob.clone().into());
            let pushed = client.push_blob(&target, &describe(blob), &source, &[], &no_progress()).await;
            assert!(pushed.is_ok(), "seed {seed}: {pushed:?}");
        }
        client.push_manifest(&target, OCI_MANIFEST, "{}".into()).await.expect("pushed");
        for blob in &blobs {
            assert_eq!(registry.blob("a/b", &sha256(blob)).as_ref(), Some(blob), "seed {seed}");
        }
        assert!(registry.state().repositories["a/b"].tags.contains_key("1"));
    }
}

// The same for downloads, and a wrong byte is never taken for a right one.
#[tokio::test]
async fn e3_13_every_pull_ends_right_or_says_what_is_wrong() {
    let pauses = || vec![("Retry-After", "0".to_owned())];
    for seed in 1..=12 {
        let mut dice = Dice(seed * 104_729);
        let registry = FakeRegistry::start();
        registry.set_auth(Auth::Token(Tokens { anonymous_pull: false, ..Tokens::default() }));
        let blobs: Vec<Vec<u8>> = (1..4).map(|n| content(n * 50_000)).collect();
        for blob in &blobs {
            registry.put_blob("a/b", blob);
        }
        let mut corrupt = false;
        for _ in 0..8 {
            let action = match dice.below(10) {
                9 => Action::Trickle(20_000, Duration::from_millis(1)),
                0 => Action::Status(429, pauses(), String::new()),
                1 => Action::Status(500, vec![], String::new()),
                2 => Action::Status(503, pauses(), String::new()),
                3 => Action::Close,
                4 => Action::Delay(Duration::from_millis(20)),
                5 => Action::IgnoreRange,
                6 if !corrupt => {
                    corrupt = true;
                    Action::Corrupt
                }
                _ => Action::CutAfter(usize::try_from(dice.below(120_000)).unwrap_or(0)),
            };
            registry.fault("GET", "/blobs/", 1, action);
        }
        let (client, _) = client_with(&registry, user("secret"));
        let target = reference(&registry, "a/b:1");
        let mut wrong = 0;
        for (at, blob) in blobs.iter().enumerate() {
            if at == 1 {
                registry.revoke_tokens();
            }
            match client.blob(&target, &describe(blob), Vec::new(), &no_progress()).await {
                Ok(pulled) => assert!(pulled == *blob, "seed {seed}: other bytes than asked for"),
                Err(error) => {
                    wrong += 1;
                    assert!(error.to_string().contains("is corrupt: expected sha256:"), "seed {seed}: {error}");
                }
            }
        }
        assert!(wrong <= usize::from(corrupt), "seed {seed}: {wrong} downloads failed");
    }
}

/// A registry that cuts every answer after so many bytes, and how often it was asked until the client gave up.
async fn asked_before_giving_up(
    retry: RetryPolicy,
    size: usize,
    cut: usize,
) -> (Result<Vec<u8>, RegistryError>, usize) {
    let registry = FakeRegistry::start();
    let blob = content(size);
    registry.put_blob("a/b", &blob);
    registry.fault("GET", "/blobs/", usize::MAX, Action::CutAfter(cut));
    let client = Client::new(ClientOptions { retry, ..options() }).expect("a client");
    let pulled = client.blob(&reference(&registry, "a/b:1"), &describe(&blob), Vec::new(), &no_progress()).await;
    (pulled, registry.count("GET", "/blobs/"))
}

// SPEC E3.13: what only just moves does not move.
#[tokio::test]
async fn e3_13_a_registry_that_cuts_every_answer_is_not_asked_for_ever() {
    let quick = options().retry;
    // A few bytes each time are no progress.
    let (pulled, asked) = asked_before_giving_up(quick, 2_000_000, 100).await;
    assert!(pulled.expect_err("gives up").to_string().contains("is truncated"));
    assert_eq!(asked, 6, "one attempt and five more");
    // A good piece each time is: a bad line costs attempts, not the build.
    let (pulled, asked) = asked_before_giving_up(quick, 2_000_000, 150_000).await;
    assert_eq!(pulled.expect("at last").len(), 2_000_000);
    assert_eq!(asked, 14);
    // Where waiting is worse than going without, there is an end to that, too.
    let (pulled, asked) = asked_before_giving_up(RetryPolicy { breaks: 3, ..quick }, 2_000_000, 150_000).await;
    pulled.expect_err("gives up");
    assert_eq!(asked, 4);
}

#[tokio::test]
async fn e3_13_slow_is_not_silent() {
    let registry = FakeRegistry::start();
    let blob = content(40_000);
    registry.put_blob("a/b", &blob);
    // In all much longer than a silence may be.
    registry.fault("GET", "/blobs/", 1, Action::Trickle(1000, Duration::from_millis(25)));
    let timeouts = Timeouts { stall: Duration::from_millis(500), ..Timeouts::default() };
    let client = Client::new(ClientOptions { timeouts, ..options() }).expect("a client");
    let pulled = client.blob(&reference(&registry, "a/b:1"), &describe(&blob), Vec::new(), &no_progress()).await;
    assert_eq!(pulled.expect("pulled"), blob);
    assert_eq!(registry.count("GET", "/blobs/"), 1);
}

#[tokio::test]
async fn e3_13_a_silence_can_be_the_end() {
    let registry = FakeRegistry::start();
    let blob = content(1000);
    registry.put_blob("a/b", &blob);
    registry.fault("GET", "/blobs/", usize::MAX, Action::Hold);
    let retry = RetryPolicy { after_silence: false, ..options().retry };
    let timeouts = Timeouts { stall: Duration::from_millis(100), ..Timeouts::default() };
    let client = Client::new(ClientOptions { retry, timeouts, ..options() }).expect("a client");
    let pulled = client.blob(&reference(&registry, "a/b:1"), &describe(&blob), Vec::new(), &no_progress()).await;
    assert!(pulled.expect_err("gives up").to_string().contains("no answer for"));
    assert_eq!(registry.count("GET", "/blobs/"), 1);
}

#[tokio::test]
async fn e1_15_a_login_is_checked_with_the_registry() {
    let registry = FakeRegistry::start();
    registry.set_auth(Auth::Basic { user: "user", password: "secret" });
    let (good, _) = client_with(&registry, user("secret"));
    good.check_login(&registry.host()).await.expect("known");
    let (bad, _) = client_with(&registry, user("wrong"));
    let error = bad.check_login(&registry.host()).await.expect_err("unknown");
    assert_eq!(error.kind(), crate::base::FaultKind::Auth, "{error}");
    registry.set_auth(Auth::Token(Tokens { anonymous_pull: false, ..Tokens::default() }));
    let (good, _) = client_with(&registry, user("secret"));
    good.check_login(&registry.host()).await.expect("known");
    let (bad, _) = client_with(&registry, user("wrong"));
    bad.check_login(&registry.host()).await.expect_err("unknown");
}
