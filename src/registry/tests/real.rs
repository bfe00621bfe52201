//! The client against a real `docker-registry`, where it is installed: what the fake believes about registries must
//! hold for one.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use super::*;
use crate::base::{Digest, FaultKind};
use crate::oci::Manifest;
use crate::oci::media_type::{OCI_CONFIG, OCI_MANIFEST};

struct Real {
    child: Child,
    host: String,
    _dir: tempfile::TempDir,
}

impl Drop for Real {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts one; `None`, with a reason printed, where that is not possible.
#[expect(clippy::print_stderr, reason = "a skipped test says so")]
async fn start(users: Option<&str>, more: &str) -> Option<Real> {
    let dir = tempfile::tempdir().expect("a directory");
    let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
    let root = dir.path().display();
    let mut config = format!(
        "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {root}/data\n  delete:\n    enabled: true\nhttp:\n  addr: 127.0.0.1:{port}\n{more}"
    );
    if let Some(users) = users {
        std::fs::write(dir.path().join("htpasswd"), users).expect("written");
        config += &format!("auth:\n  htpasswd:\n    realm: test\n    path: {root}/htpasswd\n");
    }
    let file = dir.path().join("config.yml");
    std::fs::write(&file, config).expect("written");
    let mut command = Command::new("docker-registry");
    command.arg("serve").arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let child = match command.spawn() {
        Ok(child) => child,
        Err(e) => {
            eprintln!("skipped: docker-registry: {e}");
            return None;
        }
    };
    let real = Real { child, host: format!("127.0.0.1:{port}"), _dir: dir };
    let begin = Instant::now();
    while tokio::net::TcpStream::connect(&real.host).await.is_err() {
        assert!(begin.elapsed() < Duration::from_secs(30), "docker-registry does not listen");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Some(real)
}

fn name(real: &Real, rest: &str) -> Reference {
    format!("{}/{rest}", real.host).parse().expect("valid")
}

async fn push_image(client: &Client, target: &Reference, layer: &[u8]) -> Digest {
    let config = br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;
    let config_descriptor = Descriptor::of_bytes(OCI_CONFIG, config);
    for (descriptor, bytes) in [(&config_descriptor, &config[..]), (&describe(layer), layer)] {
        let source = BlobSource::bytes(bytes.to_vec().into());
        client.push_blob(target, descriptor, &source, &[], &no_progress()).await.expect("pushed");
    }
    let manifest = Manifest {
        schema_version: 2,
        media_type: OCI_MANIFEST.into(),
        artifact_type: None,
        config: config_descriptor,
        layers: vec![describe(layer)],
        subject: None,
        annotations: std::collections::BTreeMap::new(),
    };
    let bytes = crate::oci::manifest::to_json_pretty(&manifest);
    client.push_manifest(target, OCI_MANIFEST, bytes.into()).await.expect("pushed")
}

#[tokio::test]
async fn real_round_trip_with_mount() {
    let Some(real) = start(None, "").await else { return };
    let client = client();
    let target = name(&real, "team/app:1");
    client.check_push(&target).await.expect("allowed");
    let layer = content(3_000_000);
    let digest = push_image(&client, &target, &layer).await;

    let other = super::client();
    let resolved = other.resolve(&target).await.expect("resolved");
    assert_eq!((resolved.digest.clone(), resolved.media_type.as_str()), (digest.clone(), OCI_MANIFEST));
    let fetched = other.manifest(&target.with_digest(digest)).await.expect("fetched");
    assert_eq!(fetched.bytes.len() as u64, resolved.size);
    let got = other.blob(&target, &describe(&layer), Vec::new(), &no_progress()).await.expect("pulled");
    assert_eq!(got, layer);

    // Once more from a client that knows nothing: all is there.
    let third = super::client();
    let source = BlobSource::bytes(layer.clone().into());
    let again = third.push_blob(&target, &describe(&layer), &source, &[], &no_progress()).await.expect("pushed");
    assert_eq!(again, PushOutcome::Exists);
    let mounted = third
        .push_blob(
            &name(&real, "team/other:1"),
            &describe(&layer),
            &source,
            &["none".into(), "team/app".into()],
            &no_progress(),
        )
        .await
        .expect("pushed");
    assert_eq!(mounted, PushOutcome::Mounted);

    let error = third.manifest(&name(&real, "team/app:absent")).await.expect_err("no such tag");
    assert!(error.is_not_found(), "{error}");
    let error = third.manifest(&name(&real, "nobody/nothing:1")).await.expect_err("no such repository");
    assert!(error.is_not_found(), "{error}");
    let dangling = format!(
        r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{{"mediaType":"{OCI_CONFIG}","digest":"{}","size":12}},"layers":[]}}"#,
        Digest::sha256(b"never pushed")
    );
    let refused = third.push_manifest(&name(&real, "team/app:2"), OCI_MANIFEST, dangling.into()).await;
    let error = refused.expect_err("its config is not there");
    assert!(error.to_string().contains("server message: manifest blob unknown"), "{error}");
    let lost = Descriptor::of_bytes(OCI_CONFIG, b"never pushed");
    assert!(third.blob_bytes(&target, &lost).await.expect_err("no such blob").is_not_found());
}

#[tokio::test]
async fn real_passwords() {
    // The bcrypt of "secret", of the lowest cost.
    let users = "user:$2y$04$gG8VatFbUmC4LKsX0lFpyeLE7HMB5K.rtxjM/CV9xk4Hqeb4lwYTu\n";
    let Some(real) = start(Some(users), "").await else { return };
    let target = name(&real, "a/b:1");
    let with = |credential| {
        let keys = Arc::new(Keys::default());
        keys.set(&real.host, Ok(credential));
        Client::new(ClientOptions { credentials: keys, ..options() }).expect("a client")
    };
    push_image(&with(Some(user("secret"))), &target, &content(100_000)).await;
    let error = with(Some(user("wrong"))).manifest(&target).await.expect_err("wrong password");
    assert!(matches!(error.fault(), Fault::BadCredentials { .. }), "{error}");
    let error = with(None).manifest(&target).await.expect_err("no password");
    assert!(matches!(error.fault(), Fault::Denied { anonymous: true, .. }), "{error}");
    let error = with(Some(user("wrong"))).check_push(&target).await.expect_err("wrong password");
    assert_eq!(error.kind(), FaultKind::Auth);
}

#[tokio::test]
async fn real_tls_on_loopback() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/tls");
    let tls = format!("  tls:\n    certificate: {0}/server.crt\n    key: {0}/server.key\n", dir.display());
    let Some(real) = start(None, &tls).await else { return };
    let target = name(&real, "a/b:1");
    let trust = TrustOptions { cert_file: Some(dir.join("ca.crt")), ..TrustOptions::default() };
    let client = Client::new(ClientOptions { trust, ..options() }).expect("a client");
    push_image(&client, &target, &content(1_000_000)).await;
    let error = super::client().resolve(&target).await.expect_err("not trusted");
    assert!(error.to_string().contains("UnknownIssuer"), "{error}");
}
