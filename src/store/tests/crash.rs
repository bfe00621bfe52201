//! `kill -9` at any point leaves a store that the next open uses.
//!
//! The child is this test binary itself, running only [`child`] with the store's path in an environment variable.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::layers::{WRITABLE, base, options};
use crate::base::{CacheKey, Digest};
use crate::oci::media_type::Codec;
use crate::store::testing::{open, overlay_store, skip};
use crate::store::{CacheRecord, MountRequest, PruneOptions, Sharing, SnapshotterChoice, Store};

const ROOT: &str = "RBUILD_TEST_CRASH_ROOT";
const SNAPSHOTTER: &str = "RBUILD_TEST_CRASH_SNAPSHOTTER";

fn key(text: &str) -> CacheKey {
    CacheKey(Digest::sha256(text))
}

/// What the child does again and again until it is killed.
fn work(store: &Store, round: u32) {
    let _lease = store.lease().expect("leases");
    let _key = store.key_lock(&key(&format!("{}", round % 3))).expect("locks");
    let mut chain = base(store);
    let mounted = store.mount(&chain, &WRITABLE).expect("mounts");
    for i in 0..20 {
        fs::write(mounted.root().join(format!("file{i}")), format!("{round} {i}")).expect("writes");
    }
    chain.push(mounted.commit("a step").expect("commits"));
    store.derive_blob(&chain, &options(Codec::Gzip)).expect("packs");
    let now = std::time::SystemTime::now();
    let record = CacheRecord {
        key: key(&format!("step {}", round % 5)),
        canonical: key("x"),
        outputs: vec![chain],
        inputs: serde_json::Value::Null,
        description: String::new(),
        created: now,
        last_used: now,
        usage: 0,
    };
    store.put_record(&record).expect("records");
    let mount = store.cache_mount("id", Sharing::Locked, None).expect("opens");
    fs::write(mount.path().join("x"), "x").expect("writes");
    drop(mount);
    if round % 4 == 3 {
        store.sync().expect("syncs");
        store.prune(&PruneOptions::default()).expect("prunes");
    }
}

/// Not a test of its own: the body of the processes that are killed.
#[test]
fn child() {
    let Some(root) = std::env::var_os(ROOT) else { return };
    let choice = match std::env::var(SNAPSHOTTER).as_deref() {
        Ok("overlay") => SnapshotterChoice::Overlay,
        _ => SnapshotterChoice::Native,
    };
    for round in 0.. {
        let store = open(Path::new(&root), choice).expect("opens");
        work(&store, round);
    }
}

fn kill_at_random(choice: SnapshotterChoice, rounds: u64) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let root = dir.path().join("store");
    let program = std::env::current_exe().expect("is known");
    for round in 0..rounds {
        let spawn = || {
            Command::new(&program)
                .args(["--exact", "store::tests::crash::child", "--nocapture"])
                .env(ROOT, &root)
                .env(SNAPSHOTTER, if choice == SnapshotterChoice::Overlay { "overlay" } else { "native" })
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .expect("starts")
        };
        // Two at once, killed at different times.
        let mut children = [spawn(), spawn()];
        for (child, extra) in children.iter_mut().zip([0, 13]) {
            std::thread::sleep(Duration::from_millis(20 + (round * 37 + extra) % 211));
            if let Ok(Some(status)) = child.try_wait() {
                let mut text = String::new();
                if let Some(mut stderr) = child.stderr.take() {
                    let _ = std::io::Read::read_to_string(&mut stderr, &mut text);
                }
                panic!("round {round}: a child ended by itself ({status}): {text}");
            }
            child.kill().expect("is killed");
            child.wait().expect("ends");
        }
        check(&root, choice, round);
    }
    let store = open(&root, choice).expect("opens");
    store.prune(&PruneOptions { all: true, ..PruneOptions::default() }).expect("prunes");
    for dir in ["snapshots", "oci/blobs/sha256", "indexes", "trash", "leases", "mounts"] {
        let left: Vec<_> = fs::read_dir(root.join(dir)).expect("lists").flatten().map(|e| e.file_name()).collect();
        assert!(left.is_empty(), "{dir}: {left:?}");
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("reads");
    assert!(!mounts.contains(root.to_str().expect("is UTF-8")), "mounts are left:\n{mounts}");
}

/// What must hold after each kill.
fn check(root: &Path, choice: SnapshotterChoice, round: u64) {
    let store = open(root, choice).unwrap_or_else(|e| panic!("round {round}: cannot open: {e}"));
    let lease = store.lease().expect("leases");
    for i in 0..5 {
        if let Some(record) = store.record(&key(&format!("step {i}"))).expect("reads") {
            let chain = &record.outputs[0];
            let mounted = store
                .mount(chain, &MountRequest::default())
                .unwrap_or_else(|e| panic!("round {round}: a recorded chain does not mount: {e}"));
            assert!(mounted.root().join("file19").is_file(), "round {round}: half a layer");
            let blob = store.derive_blob(chain, &options(Codec::Gzip)).expect("packs");
            assert!(store.has_blob(&blob.digest).expect("asks").is_some());
        }
    }
    for i in 0..3 {
        assert!(store.try_key_lock(&key(&format!("{i}"))).expect("tries").is_some(), "a dead process holds a key");
    }
    for entry in fs::read_dir(root.join("oci/blobs/sha256")).expect("lists") {
        let path = entry.expect("lists").path();
        let name = path.file_name().expect("has a name").to_string_lossy().into_owned();
        assert_eq!(Digest::sha256(fs::read(&path).expect("reads")).hex(), name, "round {round}: half a blob");
    }
    drop(lease);
    work(&store, u32::try_from(round).expect("is small"));
}

#[test]
fn kill_at_any_point_native() {
    if !rustix::process::geteuid().is_root() {
        skip("unpacking layers needs uid 0");
        return;
    }
    kill_at_random(SnapshotterChoice::Native, 12);
}

#[test]
fn kill_at_any_point_overlay() {
    if overlay_store().is_none() {
        return;
    }
    kill_at_random(SnapshotterChoice::Overlay, 20);
}
