//! SPEC E3.01–E3.04, E1.06, E1.07: challenges, tokens, and what is said when a password is wrong.

use super::super::fake_registry::{Action, Auth, FakeRegistry, Tokens};
use super::*;
use crate::base::FaultKind;
use crate::oci::media_type::OCI_MANIFEST;

fn registry_with(auth: Auth) -> FakeRegistry {
    let registry = FakeRegistry::start();
    registry.put_manifest("a/b", Some("1"), OCI_MANIFEST, b"{}");
    registry.set_auth(auth);
    registry
}

#[tokio::test]
async fn e3_03_anonymous_tokens() {
    let registry = registry_with(Auth::Token(Tokens::default()));
    let client = client();
    let name = reference(&registry, "a/b:1");
    client.resolve(&name).await.expect("resolved");
    client.manifest(&name).await.expect("fetched");
    let tokens: Vec<_> = registry.requests().into_iter().filter(|r| r.path() == "/token").collect();
    assert_eq!(tokens.len(), 1, "one token serves both requests");
    assert_eq!(tokens[0].method, "GET");
    assert_eq!(tokens[0].header("authorization"), None);
    assert_eq!(
        tokens[0].query().iter().find(|(k, _)| k == "scope").map(|(_, v)| v.as_str()),
        Some("repository:a/b:pull")
    );
    assert_eq!(registry.count("HEAD", "/manifests/"), 2, "a single 401 taught it");
}

// SPEC N2.17
#[tokio::test]
async fn e3_02_passwords_go_by_post_and_then_by_get() {
    for (status, posts) in [(200, 2), (405, 1), (404, 1), (401, 1), (400, 1)] {
        let tokens = Tokens { anonymous_pull: false, post_status: status, ..Tokens::default() };
        let registry = registry_with(Auth::Token(tokens));
        registry.put_manifest("c", Some("1"), OCI_MANIFEST, b"{}");
        let (client, _) = client_with(&registry, user("secret"));
        for name in ["a/b:1", "c:1"] {
            client.manifest(&reference(&registry, name)).await.unwrap_or_else(|e| panic!("{status}: {e}"));
        }
        assert_eq!(registry.count("POST", "/token"), posts, "{status}: a server without the form is not asked twice");
        assert_eq!(registry.count("GET", "/token"), if status == 200 { 0 } else { 2 }, "{status}");
        assert!(registry.requests().iter().all(|r| !r.target.contains("secret")), "a password in a URL");
    }
}

#[tokio::test]
async fn e1_06_identity_tokens_are_refresh_tokens() {
    let registry = registry_with(Auth::Token(Tokens { anonymous_pull: false, ..Tokens::default() }));
    let (client, _) = client_with(&registry, Credential::IdentityToken("identity".into()));
    client.manifest(&reference(&registry, "a/b:1")).await.expect("fetched");
    let (client, _) = client_with(&registry, Credential::IdentityToken("stale".into()));
    let error = client.manifest(&reference(&registry, "a/b:1")).await.expect_err("stale");
    assert!(matches!(error.fault(), Fault::BadCredentials { username: None, .. }), "{error}");
}

#[tokio::test]
async fn e1_07_registry_tokens_are_sent_as_they_are() {
    let registry = registry_with(Auth::Token(Tokens { anonymous_pull: false, ..Tokens::default() }));
    let (client, _) = client_with(&registry, Credential::RegistryToken("mine".into()));
    let error = client.manifest(&reference(&registry, "a/b:1")).await.expect_err("not one of the fake's tokens");
    assert_eq!(error.kind(), FaultKind::Auth);
    assert_eq!(registry.count("GET", "/token") + registry.count("POST", "/token"), 0);
    assert!(registry.requests().iter().any(|r| r.header("authorization") == Some("Bearer mine")));
}

#[tokio::test]
async fn basic_authentication_waits_for_the_challenge() {
    let registry = registry_with(Auth::Basic { user: "user", password: "secret" });
    let (client, keys) = client_with(&registry, user("secret"));
    let name = reference(&registry, "a/b:1");
    client.resolve(&name).await.expect("resolved");
    client.manifest(&name).await.expect("fetched");
    assert_eq!(registry.requests()[0].header("authorization"), None, "nothing is sent unasked");
    assert_eq!(registry.requests().len(), 3);
    assert_eq!(keys.asked(), 1);
}

#[tokio::test]
async fn a_wrong_password_is_named_as_such() {
    for auth in [
        Auth::Basic { user: "user", password: "secret" },
        Auth::Token(Tokens::default()),
        Auth::Token(Tokens { post_status: 405, ..Tokens::default() }),
    ] {
        let registry = registry_with(auth.clone());
        let (client, _) = client_with(&registry, user("wrong"));
        let error = client.manifest(&reference(&registry, "a/b:1")).await.expect_err("refused");
        let text = error.to_string();
        assert!(text.contains(&format!("{} refused the credentials of user \"user\"", registry.host())), "{text}");
        assert!(!text.contains("wrong"), "the password is shown: {text}");
        assert_eq!(error.kind(), FaultKind::Auth);
        assert!(error.hint().is_some_and(|h| h.contains(&format!("rbuild login {}", registry.host()))), "{auth:?}");
    }
}

#[tokio::test]
async fn no_password_is_told_from_a_wrong_one() {
    for auth in [
        Auth::Basic { user: "user", password: "secret" },
        Auth::Token(Tokens { anonymous_pull: false, ..Tokens::default() }),
    ] {
        let registry = registry_with(auth);
        let error = client().manifest(&reference(&registry, "a/b:1")).await.expect_err("refused");
        let text = error.to_string();
        assert!(
            text.contains("pull access denied, repository does not exist or may require authorization"),
            "SPEC E3.14: {text}"
        );
        assert_eq!(error.kind(), FaultKind::Auth);
        assert!(error.hint().is_some_and(|h| h.contains("log in with")), "{:?}", error.hint());
    }
}

#[tokio::test]
async fn e3_02_tokens_expire_and_are_renewed() {
    // One second of life: nine tenths of it are used.
    let registry = registry_with(Auth::Token(Tokens { life: 1, ..Tokens::default() }));
    let client = client();
    let name = reference(&registry, "a/b:1");
    client.manifest(&name).await.expect("fetched");
    tokio::time::sleep(Duration::from_millis(1_000)).await;
    let before = registry.requests().len();
    client.manifest(&name).await.expect("fetched");
    let since: Vec<_> = registry.requests()[before..].iter().map(|r| (r.method.clone(), r.path().to_owned())).collect();
    assert_eq!(since.len(), 2, "a new token, then the request, no 401 in between: {since:?}");
}

// SPEC N2.17
#[tokio::test]
async fn e3_02_without_a_life_a_token_lasts_a_minute() {
    let registry = registry_with(Auth::Token(Tokens { life: 0, ..Tokens::default() }));
    let client = client();
    for _ in 0..3 {
        client.manifest(&reference(&registry, "a/b:1")).await.expect("fetched");
    }
    assert_eq!(registry.count("GET", "/token"), 1);
}

/// GoogleContainerTools/kaniko#245, docker/buildx#324: a token that dies during a long build.
#[tokio::test]
async fn a_token_revoked_midway_is_replaced() {
    let registry = registry_with(Auth::Token(Tokens::default()));
    let (client, keys) = client_with(&registry, user("secret"));
    let target = reference(&registry, "a/b:2");
    let blob = content(300_000);
    client.check_push(&target).await.expect("allowed");
    registry.revoke_tokens();
    let source = BlobSource::bytes(blob.clone().into());
    client.push_blob(&target, &describe(&blob), &source, &[], &no_progress()).await.expect("pushed");
    // Between POST and PUT.
    let blob = content(200_000);
    registry.fault("PUT", "/uploads/", 1, {
        let realm =
            format!("Bearer realm=\"http://{}/token\",service=\"fake\",error=\"invalid_token\"", registry.host());
        Action::Status(401, vec![("WWW-Authenticate", realm)], String::new())
    });
    let source = BlobSource::bytes(blob.clone().into());
    client.push_blob(&target, &describe(&blob), &source, &[], &no_progress()).await.expect("pushed");
    assert!(keys.asked() >= 3, "each token is made from credentials asked for anew");
}

// SPEC E1.13
/// awslabs/amazon-ecr-credential-helper#625: passwords that are valid for an hour.
#[tokio::test]
async fn a_password_that_changed_is_asked_for_again() {
    let registry = registry_with(Auth::Basic { user: "user", password: "first" });
    let (client, keys) = client_with(&registry, user("first"));
    let name = reference(&registry, "a/b:1");
    client.manifest(&name).await.expect("fetched");
    registry.set_auth(Auth::Basic { user: "user", password: "second" });
    keys.set(&registry.host(), Ok(Some(user("second"))));
    client.manifest(&name).await.expect("fetched");
}

#[tokio::test]
async fn e3_04_insufficient_scope_is_asked_for_once_more() {
    let registry = registry_with(Auth::Token(Tokens { stingy: 1, ..Tokens::default() }));
    let (client, _) = client_with(&registry, user("secret"));
    let target = reference(&registry, "a/b:2");
    client.check_push(&target).await.expect("the second token has the scope");

    let registry = registry_with(Auth::Token(Tokens { read_only: vec!["a/b"], ..Tokens::default() }));
    let (client, _) = client_with(&registry, user("secret"));
    let target = reference(&registry, "a/b:2");
    let error = client.check_push(&target).await.expect_err("never allowed");
    assert!(error.to_string().contains("push access denied"), "{error}");
    assert_eq!(error.kind(), FaultKind::Auth);
    assert!(registry.count("POST", "/token") <= 2, "asked {} times", registry.count("POST", "/token"));
    assert!(error.hint().is_some_and(|h| h.contains("may not push")), "{:?}", error.hint());
}

#[tokio::test]
async fn e3_03_a_broken_helper_does_not_stop_public_pulls() {
    let registry = registry_with(Auth::Token(Tokens::default()));
    let (events, seen) = notices();
    let keys = Arc::new(Keys::default());
    keys.set(&registry.host(), Err("docker-credential-x: not found in PATH".into()));
    let client = Client::new(ClientOptions { credentials: keys, events, ..options() }).expect("a client");
    client.manifest(&reference(&registry, "a/b:1")).await.expect("public");
    assert!(seen.lock().expect("not poisoned").iter().any(|t| t.contains("docker-credential-x")));
    // A private one is refused, and then the helper's trouble is the hint.
    let error = client.check_push(&reference(&registry, "a/b:1")).await.expect_err("needs a password");
    assert!(error.hint().is_some_and(|h| h.contains("docker-credential-x")), "{:?}", error.hint());
}

#[tokio::test]
async fn many_requests_share_one_challenge_and_one_token() {
    let registry = registry_with(Auth::Token(Tokens::default()));
    for n in 0..10 {
        registry.put_manifest("a/b", Some(&format!("t{n}")), OCI_MANIFEST, b"{}");
    }
    let client = client();
    let names: Vec<Reference> = (0..10).map(|n| reference(&registry, &format!("a/b:t{n}"))).collect();
    let all = futures_util::future::join_all(names.iter().map(|name| client.manifest(name))).await;
    assert!(all.iter().all(Result::is_ok), "{all:?}");
    assert_eq!(registry.count("GET", "/token"), 1);
    assert_eq!(registry.count("GET", "/manifests/"), 11, "navidrome/navidrome#5997");
}

#[tokio::test]
async fn a_failing_token_server_is_tried_again() {
    let registry = registry_with(Auth::Token(Tokens::default()));
    registry.fault("GET", "/token", 2, Action::Status(503, vec![], String::new()));
    client().manifest(&reference(&registry, "a/b:1")).await.expect("fetched");
    registry.fault("GET", "/token", 1, Action::Status(200, vec![], "{\"tok".into()));
    let error = client().manifest(&reference(&registry, "a/b:1")).await.expect_err("nonsense");
    assert!(error.to_string().contains("not the expected JSON"), "{error}");
}

#[tokio::test]
async fn an_unknown_scheme_is_a_denial() {
    let registry = registry_with(Auth::Open);
    let challenge = vec![("WWW-Authenticate", "Negotiate".to_owned())];
    registry.fault("GET", "/manifests/", 9, Action::Status(401, challenge, String::new()));
    let error = client().manifest(&reference(&registry, "a/b:1")).await.expect_err("refused");
    assert_eq!(error.kind(), FaultKind::Auth);
}

#[tokio::test]
async fn a_server_that_never_makes_up_its_mind_is_left() {
    let registry = registry_with(Auth::Open);
    registry.set_auth(Auth::Token(Tokens::default()));
    let (client, _) = client_with(&registry, user("secret"));
    let bearer = format!("Bearer realm=\"http://{}/token\",service=\"fake\"", registry.host());
    for _ in 0..50 {
        for challenge in [bearer.as_str(), "Basic realm=\"r\""] {
            let challenge = vec![("WWW-Authenticate", challenge.to_owned())];
            registry.fault("GET", "/manifests/", 1, Action::Status(401, challenge, String::new()));
        }
    }
    let error = client.manifest(&reference(&registry, "a/b:1")).await.expect_err("refused");
    assert_eq!(error.kind(), FaultKind::Auth);
    assert!(registry.count("GET", "/manifests/") <= 5);
}
