//! SPEC E3.15: what refers to an image, with the API and without it.

use super::super::fake_registry::{Action, FakeRegistry};
use super::*;
use crate::base::Digest;
use crate::oci::media_type::{OCI_INDEX, OCI_MANIFEST};

fn artifact(subject: &Digest, kind: &str, note: &str) -> String {
    let empty = Digest::sha256("{}");
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","artifactType":"{kind}","config":{{"mediaType":"application/vnd.oci.empty.v1+json","digest":"{empty}","size":2}},"layers":[],"subject":{{"mediaType":"{OCI_MANIFEST}","digest":"{subject}","size":2}},"annotations":{{"note":"{note}"}}}}"#
    )
}

#[tokio::test]
async fn e3_15_with_and_without_the_api() {
    for api in [true, false] {
        let registry = FakeRegistry::start();
        registry.state().has_referrers = api;
        let (client, name) = (client(), reference(&registry, "a/b:1"));
        let subject = client.push_manifest(&name, OCI_MANIFEST, "{}".into()).await.expect("pushed");
        assert!(client.referrers(&name, &subject, None).await.expect("an answer").is_empty());
        for (kind, note) in [("kind/one", "x"), ("kind/two", "y"), ("kind/one", "z"), ("kind/one", "x")] {
            let text = artifact(&subject, kind, note);
            let digest = Digest::sha256(&text);
            let place = Reference { tag: None, ..name.clone() }.with_digest(digest);
            client.push_manifest(&place, OCI_MANIFEST, text.into()).await.expect("pushed");
        }
        assert_eq!(client.referrers(&name, &subject, None).await.expect("an answer").len(), 3, "api: {api}");
        let ones = client.referrers(&name, &subject, Some("kind/one")).await.expect("an answer");
        assert_eq!(ones.len(), 2);
        assert!(ones.iter().all(|d| d.artifact_type.as_deref() == Some("kind/one")));
        let tag = format!("sha256-{}", subject.hex());
        let state = registry.state().repositories["a/b"].clone();
        assert_eq!(state.tags.contains_key(&tag), !api, "the tag is kept only where there is no API");
        if let Some(digest) = state.tags.get(&tag) {
            let (kind, bytes) = &state.manifests[digest];
            assert_eq!(kind, OCI_INDEX);
            let index: serde_json::Value = serde_json::from_slice(bytes).expect("JSON");
            assert_eq!(index["manifests"][0]["annotations"]["note"], "x");
        }
    }
}

// SPEC E3.15: a tag has no lock, so what another pusher overwrote is written again.
#[tokio::test]
async fn e3_15_a_list_that_somebody_else_overwrote_is_written_again() {
    let registry = FakeRegistry::start();
    registry.state().has_referrers = false;
    let (client, name) = (client(), reference(&registry, "a/b:1"));
    let subject = client.push_manifest(&name, OCI_MANIFEST, "{}".into()).await.expect("pushed");
    let tag = format!("sha256-{}", subject.hex());
    let text = artifact(&subject, "kind/one", "x");
    let place = Reference { tag: None, ..name.clone() }.with_digest(Digest::sha256(&text));
    // Taken, and gone by the time it is looked for.
    registry.fault("PUT", &tag, 2, Action::Status(201, Vec::new(), String::new()));
    client.push_manifest(&place, OCI_MANIFEST, text.clone().into()).await.expect("pushed");
    assert_eq!(client.referrers(&name, &subject, None).await.expect("an answer").len(), 1);
    assert_eq!(registry.count("PUT", &tag), 3);
    // Who never keeps it is not asked for ever.
    let other = artifact(&subject, "kind/two", "y");
    let place = Reference { tag: None, ..name.clone() }.with_digest(Digest::sha256(&other));
    registry.fault("PUT", &tag, 100, Action::Status(201, Vec::new(), String::new()));
    let error = client.push_manifest(&place, OCI_MANIFEST, other.into()).await.expect_err("not kept");
    assert!(error.to_string().contains("does not keep what is written to it"), "{error}");
}
