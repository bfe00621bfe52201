//! Layers through both snapshotters: pulled, mounted, committed, packed, and the same from both (SPEC C5.20).

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;

use crate::archive::{Entry, EntryKind, LayerOptions, LayerWriter, Timestamp};
use crate::base::{ChainId, Digest};
use crate::oci::Descriptor;
use crate::oci::media_type::{Codec, OCI_LAYER_GZIP};
use crate::store::testing::{open, overlay_store, skip, store};
use crate::store::{LayerId, MountRequest, SnapshotterChoice, Store, StoreError, Stub, ToUnpack, Unpacking};

pub(super) const WRITABLE: MountRequest = MountRequest { writable: true, stubs: Vec::new(), last: false };
pub(super) const READ_ONLY: MountRequest = MountRequest { writable: false, stubs: Vec::new(), last: false };

pub(super) fn options(codec: Codec) -> LayerOptions {
    LayerOptions { codec, threads: 2, ..LayerOptions::default() }
}

/// Puts the blob of a layer with these entries into the store and registers it on top of `chain`.
pub(super) fn pull(store: &Store, below: Option<&ChainId>, entries: &[(Entry, &str)]) -> (LayerId, ChainId) {
    let mut writer = LayerWriter::new(store.blob_writer().expect("begins"), &options(Codec::Gzip)).expect("begins");
    for (entry, content) in entries {
        let mut entry = entry.clone();
        entry.size = content.len() as u64;
        entry.mtime = Timestamp::seconds(1_000_000_000);
        writer.append(&entry, Some(&mut content.as_bytes())).expect("appends");
    }
    let (sink, summary) = writer.finish().expect("finishes");
    sink.commit(Some(&summary.blob)).expect("commits");
    let descriptor = Descriptor::new(OCI_LAYER_GZIP, summary.blob.clone(), summary.size);
    let chain = ChainId::extend(below, &summary.diff_id);
    let id = store
        .register_layer(&chain, &summary.diff_id, &descriptor, Some(("docker.io", "library/x")))
        .expect("registers");
    (id, chain)
}

fn dir(path: &str) -> (Entry, &'static str) {
    (Entry::dir(path, 0o755), "")
}

fn file<'a>(path: &str, content: &'a str) -> (Entry, &'a str) {
    (Entry::file(path, 0o644, 0), content)
}

/// Two layers, as of a small image.
pub(super) fn base(store: &Store) -> Vec<LayerId> {
    let (one, chain) = pull(
        store,
        None,
        &[
            dir("bin"),
            file("bin/sh", "#!shell"),
            dir("etc"),
            file("etc/hosts", "127.0.0.1"),
            file("etc/passwd", "root:x:0:0"),
            (Entry::symlink("etc/resolv.conf", "../run/resolv.conf"), ""),
            dir("usr"),
            dir("usr/share"),
            file("usr/share/old", "old"),
            (Entry { link: "usr/share/old".into(), ..Entry::new("usr/share/same", EntryKind::Hardlink) }, ""),
            dir("var"),
            file("var/a", "a"),
            file("var/b", "b"),
        ],
    );
    let (two, _) = pull(
        store,
        Some(&chain),
        &[
            dir("etc"),
            file("etc/passwd", "root:x:0:0:changed"),
            dir("var"),
            (Entry::whiteout("var/a"), ""),
            file("var/c", "c"),
        ],
    );
    vec![one, two]
}

/// What a step does.
fn change(root: &Path) {
    fs::write(root.join("new"), "new").expect("writes");
    fs::write(root.join("etc/hosts"), "changed in place").expect("writes");
    fs::remove_file(root.join("var/b")).expect("removes");
    fs::remove_dir_all(root.join("usr/share")).expect("removes");
    fs::create_dir(root.join("usr/share")).expect("creates");
    fs::write(root.join("usr/share/fresh"), "fresh").expect("writes");
    fs::set_permissions(root.join("bin/sh"), fs::Permissions::from_mode(0o4755)).expect("chmod");
    symlink("new", root.join("link")).expect("links");
    fs::hard_link(root.join("new"), root.join("hard")).expect("links");
    fs::create_dir_all(root.join("opt/deep/er")).expect("creates");
    // Rewritten with the same bytes and time: no change.
    let path = root.join("etc/passwd");
    let before = fs::metadata(&path).expect("exists");
    let bytes = fs::read(&path).expect("reads");
    fs::write(&path, bytes).expect("writes");
    fs::File::options()
        .write(true)
        .open(&path)
        .and_then(|f| f.set_modified(before.modified()?))
        .expect("sets the time");
    // Times are the same in every run of this.
    let at = std::time::UNIX_EPOCH + std::time::Duration::new(1_700_000_000, 123_456_789);
    for path in [
        "usr/share/fresh",
        "usr/share",
        "usr",
        "new",
        "etc/hosts",
        "var",
        "opt/deep/er",
        "opt/deep",
        "opt",
        "bin",
        "etc",
        "",
    ] {
        fs::File::open(root.join(path)).and_then(|f| f.set_modified(at)).expect("sets the time");
    }
    let times = rustix::fs::Timespec { tv_sec: 1_700_000_000, tv_nsec: 5 };
    let times = rustix::fs::Timestamps { last_access: times, last_modification: times };
    rustix::fs::utimensat(rustix::fs::CWD, root.join("link"), &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
        .expect("sets the time");
}

fn listing(root: &Path) -> Vec<String> {
    let mut out = Vec::new();
    for entry in walkdir::WalkDir::new(root).sort_by_file_name() {
        let entry = entry.expect("lists");
        let meta = entry.path().symlink_metadata().expect("exists");
        let path = entry.path().strip_prefix(root).expect("is below").display().to_string();
        let content = match () {
            () if meta.is_file() => fs::read_to_string(entry.path()).expect("reads"),
            () if meta.is_symlink() => fs::read_link(entry.path()).expect("reads").display().to_string(),
            () => String::new(),
        };
        // A directory's time alone is no change, so it is not the same after unpacking.
        let (secs, nanos) = if meta.is_dir() { (0, 0) } else { (meta.mtime(), meta.mtime_nsec()) };
        out.push(format!("{path} {:o} {}:{} {secs}.{nanos} {content}", meta.mode(), meta.uid(), meta.gid()));
    }
    out
}

/// Leftovers of views are deleted in the background.
fn eventually_gone(path: &Path) {
    let start = std::time::Instant::now();
    while path.exists() {
        assert!(start.elapsed() < std::time::Duration::from_secs(20), "{} stays", path.display());
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

fn mounts_work() -> bool {
    overlay_store().is_some()
}

fn can_apply() -> bool {
    // Layers here are owned by root, as most are.
    if rustix::process::geteuid().is_root() {
        return true;
    }
    skip("unpacking layers needs uid 0");
    false
}

fn both() -> Vec<(tempfile::TempDir, Store)> {
    if !can_apply() {
        return Vec::new();
    }
    let mut stores = vec![store()];
    stores.extend(overlay_store());
    stores
}

#[test]
fn c5_20_pulled_layers_are_shown() {
    for (_dir, store) in both() {
        let chain = base(&store);
        assert!(store.blobs_needed(&chain).expect("asks").is_empty());
        let mounted = store.mount(&chain, &READ_ONLY).expect("mounts");
        let root = mounted.root();
        assert_eq!(fs::read_to_string(root.join("etc/passwd")).expect("reads"), "root:x:0:0:changed");
        assert!(!root.join("var/a").exists());
        assert!(root.join("var/b").exists() && root.join("var/c").exists());
        assert_eq!(root.join("usr/share/old").metadata().expect("exists").nlink(), 2);
        let top = store.layer(&chain[1]).expect("exists");
        assert!(top.materialised);
        assert!(store.tree_index(&chain[1]).expect("reads").expect("is kept").lookup(Path::new("var/c")).is_some());
        let path = root.to_path_buf();
        drop(mounted);
        if store.snapshotter_name().expect("chosen") == "overlay" {
            eventually_gone(&path);
            let one = store.mount(&chain[..1], &READ_ONLY).expect("mounts one layer");
            assert!(fs::write(one.root().join("x"), "").is_err(), "read-only");
            assert!(one.root().join("var/a").exists());
        }
        let none = store.mount(&[], &READ_ONLY).expect("mounts nothing");
        assert_eq!(fs::read_dir(none.root()).expect("lists").count(), 0);
    }
}

#[test]
fn c5_20_both_snapshotters_give_the_same_layer() {
    if !can_apply() || !mounts_work() {
        return;
    }
    let mut results = Vec::new();
    for (_dir, store) in both() {
        let mut chain = base(&store);
        let mounted = store.mount(&chain, &WRITABLE).expect("mounts");
        change(mounted.root());
        let seen = listing(mounted.root());
        let id = mounted.commit("a step").expect("commits");
        chain.push(id.clone());
        let blob = store.derive_blob(&chain, &options(Codec::Gzip)).expect("packs");
        let record = store.layer(&id).expect("exists");
        assert_eq!(record.diff_id.as_ref(), Some(&blob.diff_id));
        assert_eq!((record.description.as_str(), record.parents.len()), ("a step", 2));
        // The committed layer looks like what the step saw.
        let again = store.mount(&chain, &READ_ONLY).expect("mounts");
        assert_eq!(listing(again.root()), seen);
        // An empty step gives an empty layer.
        let nothing = store.mount(&chain, &WRITABLE).expect("mounts").commit("nothing").expect("commits");
        let mut longer = chain.clone();
        longer.push(nothing);
        let empty = store.derive_blob(&longer, &options(Codec::Uncompressed)).expect("packs");
        assert_eq!(empty.size, 1024, "{}", store.snapshotter_name().expect("chosen"));
        let index = store.tree_index(&id).expect("reads").expect("is kept");
        let paths: Vec<String> =
            index.iter().map(|e| format!("{:?} {}", e.entry.kind, e.entry.path.display())).collect();
        results.push((paths, blob.diff_id, blob.digest, seen));
    }
    assert_eq!(results[0].0, results[1].0);
    assert_eq!(results[0], results[1]);
    let paths = results[0].0.join("\n");
    for expected in ["Whiteout var/b", "File etc/hosts", "Hardlink new", "Symlink link"] {
        assert!(paths.contains(expected), "{expected} in\n{paths}");
    }
    assert!(!paths.contains("passwd"), "unchanged:\n{paths}");
}

#[test]
fn a_layer_survives_losing_its_directory() {
    for (_dir, store) in both() {
        let mut chain = base(&store);
        let mounted = store.mount(&chain, &WRITABLE).expect("mounts");
        change(mounted.root());
        let seen = listing(mounted.root());
        chain.push(mounted.commit("a step").expect("commits"));
        let blob = store.derive_blob(&chain, &options(Codec::Zstd)).expect("packs");
        // A crash of the machine: nothing unsynced in directories is believed.
        store.inner.meta.write("test", |tx| Ok(tx.execute("UPDATE dirs SET boot = 'old'", [])?)).expect("updates");
        assert!(!store.layer(&chain[2]).expect("exists").materialised);
        let again = store.mount(&chain, &READ_ONLY).expect("unpacks again");
        assert_eq!(listing(again.root()), seen);
        drop(again);
        // Packed again from the new directory, the stream is the same.
        store.drop_blob(&blob.digest).expect("drops");
        let second = store.derive_blob(&chain, &options(Codec::Zstd)).expect("packs");
        assert_eq!(second, blob);
    }
}

#[test]
fn blobs_are_reused_and_recompressed() {
    for (_dir, store) in both() {
        let chain = base(&store);
        let pulled = store.layer(&chain[1]).expect("exists").blobs[0].clone();
        assert_eq!(store.derive_blob(&chain, &options(Codec::Gzip)).expect("finds"), pulled);
        let zstd = store.derive_blob(&chain, &options(Codec::Zstd)).expect("compresses");
        assert_eq!((zstd.codec, &zstd.diff_id), (Codec::Zstd, &pulled.diff_id));
        assert_ne!(zstd.digest, pulled.digest);
        let plain = store.derive_blob(&chain, &options(Codec::Uncompressed)).expect("decompresses");
        assert_eq!(plain.digest, pulled.diff_id.0);
        let level = LayerOptions { level: Some(9), ..options(Codec::Gzip) };
        assert_eq!(store.derive_blob(&chain, &level).expect("compresses").level, Some(9));
        // Other times, another stream; the layer's own diff ID stays.
        let epoch = LayerOptions { epoch: Some(5), ..options(Codec::Gzip) };
        let clamped = store.derive_blob(&chain, &epoch).expect("packs");
        assert_ne!(clamped.diff_id, pulled.diff_id);
        assert_eq!(store.layer(&chain[1]).expect("exists").diff_id, Some(pulled.diff_id.clone()));
        assert_eq!(store.derive_blob(&chain, &epoch).expect("finds"), clamped);
    }
}

fn big_and_small<W: Write + Send>(out: &mut LayerWriter<W>, big: &str) -> Result<(), crate::archive::ArchiveError> {
    out.append(&Entry::dir("new", 0o755), None)?;
    out.append(&Entry::file("new/big", 0o644, big.len() as u64), Some(&mut big.as_bytes()))?;
    out.append(&Entry::file("new/small", 0o600, 5), Some(&mut &b"small"[..]))
}

/// A layer that never had a directory gives the blobs of one that has.
#[test]
fn a_layer_written_as_a_blob_is_like_any_other() {
    let (_dir, store) = store();
    let base = base(&store);
    let big = "a line of a large file\n".repeat(60_000);
    let written = store.write_layer(&base, "direct", &options(Codec::Gzip), |out| {
        big_and_small(out, &big).map_err(|e| StoreError::Misuse(e.to_string()))
    });
    let id = written.expect("writes");
    let chain = [base, vec![id.clone()]].concat();
    for codec in [Codec::Gzip, Codec::Zstd, Codec::Uncompressed] {
        let blob = store.derive_blob(&chain, &options(codec)).expect("derives");
        let mut writer = LayerWriter::new(std::io::sink(), &options(codec)).expect("begins");
        big_and_small(&mut writer, &big).expect("appends");
        let (_, summary) = writer.finish().expect("finishes");
        assert_eq!((blob.digest, blob.diff_id), (summary.blob, summary.diff_id), "{codec:?}");
    }
    assert!(!store.is_materialised(&chain).expect("asks"));
    assert_eq!(store.tree_indexes(&chain).expect("reads").expect("all are known").last().map(|i| i.len()), Some(3));
    if !can_apply() {
        return;
    }
    let mounted = store.mount(&chain, &READ_ONLY).expect("mounts");
    assert_eq!(fs::read_to_string(mounted.root().join("new/big")).expect("reads"), big);
    assert!(mounted.root().join("etc/hosts").exists());
}

#[test]
fn lazy_layers_name_what_must_be_downloaded() {
    for (_dir, store) in both() {
        let chain = base(&store);
        let blob = store.layer(&chain[0]).expect("exists").blobs[0].clone();
        store.drop_blob(&blob.digest).expect("drops");
        let needed = store.blobs_needed(&chain).expect("asks");
        assert_eq!(needed.len(), 1);
        assert_eq!((&needed[0].layer, &needed[0].descriptor.digest), (&chain[0], &blob.digest));
        assert_eq!(needed[0].remotes[0].repository, "library/x");
        let error = store.mount(&chain, &READ_ONLY).expect_err("has no content");
        assert!(matches!(&error, StoreError::NotLocal { id } if *id == chain[0]), "{error}");
        // Who only pushes is given the remote blob.
        assert_eq!(store.derive_blob(&chain[..1], &options(Codec::Gzip)).expect("finds"), blob);
        let error = store.derive_blob(&chain[..1], &options(Codec::Zstd)).expect_err("has no content");
        assert!(matches!(error, StoreError::NotLocal { .. }), "{error}");
        let unknown = [LayerId::from_text("nope")];
        assert!(matches!(store.mount(&unknown, &READ_ONLY), Err(StoreError::NoLayer { .. })));
    }
}

/// Takes the blobs of a chain out of the store again, so that they can arrive once more.
fn blobs_to_come(store: &Store, chain: &[LayerId]) -> Vec<(Digest, Vec<u8>)> {
    let digests = chain.iter().map(|id| store.layer(id).expect("exists").blobs[0].digest.clone());
    let blobs: Vec<_> = digests.map(|d| (d.clone(), store.read_blob(&d).expect("reads"))).collect();
    for (digest, _) in &blobs {
        store.drop_blob(digest).expect("drops");
    }
    blobs
}

fn unpacking(store: &Store, chain: &[LayerId], expected: &[(Digest, Vec<u8>)]) -> Unpacking {
    let ToUnpack::Layers(mut unpacking) = store.unpack_ahead(chain, Arc::new(|_, _| {})).expect("asks") else {
        panic!("there is something to unpack")
    };
    unpacking.begin(expected.iter().map(|(digest, _)| digest.clone()));
    unpacking
}

// SPEC C2.01
#[test]
fn layers_are_unpacked_while_they_arrive_in_any_order() {
    if !can_apply() {
        return;
    }
    let Some((_dir, store)) = overlay_store() else { return };
    let chain = base(&store);
    let expected = {
        let mounted = store.mount(&chain, &READ_ONLY).expect("mounts");
        listing(mounted.root())
    };
    let Some((_dir, store)) = overlay_store() else { return };
    let chain = base(&store);
    let blobs = blobs_to_come(&store, &chain);
    let unpacking = unpacking(&store, &chain, &blobs);
    // The upper layer is whole before the lower one begins, which comes in small pieces.
    for (digest, bytes) in blobs.iter().rev() {
        let mut writer = store.blob_writer().expect("begins");
        unpacking.arrives(digest, writer.follow().expect("opens"));
        for piece in bytes.chunks(50) {
            writer.write_all(piece).expect("writes");
        }
        writer.commit(Some(digest)).expect("commits");
    }
    unpacking.finish();
    assert!(store.is_materialised(&chain).expect("asks"), "the mount has nothing left to do");
    let again = store.unpack_ahead(&chain, Arc::new(|_, _| {})).expect("asks");
    assert!(matches!(again, ToUnpack::Nothing));
    assert_eq!(listing(store.mount(&chain, &READ_ONLY).expect("mounts").root()), expected);
}

// SPEC C2.01, E3.18
#[test]
fn a_layer_that_arrives_wrong_leaves_nothing_behind() {
    if !can_apply() {
        return;
    }
    let Some((_dir, store)) = overlay_store() else { return };
    let chain = base(&store);
    let blobs = blobs_to_come(&store, &chain);
    let unpacking = unpacking(&store, &chain, &blobs);
    for (number, (digest, bytes)) in blobs.iter().enumerate() {
        let mut writer = store.blob_writer().expect("begins");
        unpacking.arrives(digest, writer.follow().expect("opens"));
        writer.write_all(bytes).expect("writes");
        if number == 0 {
            // It can be unpacked to its end, and is not what was promised all the same.
            writer.write_all(&[0; 9]).expect("writes");
            assert!(writer.commit(Some(digest)).is_err());
        } else {
            writer.commit(Some(digest)).expect("commits");
        }
    }
    unpacking.finish();
    assert_eq!(fs::read_dir(store.root().join("snapshots")).expect("lists").count(), 0, "nor what is on top of it");
    let needed = store.blobs_needed(&chain).expect("asks");
    assert_eq!(needed.iter().map(|n| &n.layer).collect::<Vec<_>>(), [&chain[0]]);
    assert!(store.mount(&chain, &READ_ONLY).is_err());
    assert_eq!(store.put_blob(&blobs[0].1).expect("arrives at last"), blobs[0].0);
    store.mount(&chain, &READ_ONLY).expect("mounts");
}

#[test]
fn a_blob_with_another_stream_is_refused() {
    for (_dir, store) in both() {
        let bytes = store.put_blob(&[0; 1024]).expect("writes");
        let wrong = crate::base::DiffId(Digest::sha256("other"));
        let descriptor = Descriptor::new(crate::oci::media_type::OCI_LAYER, bytes, 1024);
        let id = store.register_layer(&ChainId::extend(None, &wrong), &wrong, &descriptor, None).expect("registers");
        let error = store.mount(&[id], &READ_ONLY).expect_err("is refused");
        assert!(matches!(error, StoreError::DiffIdMismatch { .. }), "{error}");
        assert_eq!(fs::read_dir(store.root().join("snapshots")).expect("lists").count(), 0);
    }
}

#[test]
fn c5_18_stubs_never_enter_the_layer() {
    for (_dir, store) in both() {
        let mut chain = base(&store);
        let stub = |path: &str, dir| Stub { path: path.into(), dir };
        let request = MountRequest {
            writable: true,
            stubs: vec![
                stub("/proc", true),
                stub("/etc/resolv.conf", false),
                stub("/etc/hosts", false),
                stub("/run/secrets/x", false),
            ],
            last: false,
        };
        let mounted = store.mount(&chain, &request).expect("mounts");
        assert_eq!(mounted.stub_path(1), Path::new("/run/resolv.conf"), "through the dangling link");
        assert_eq!(mounted.stub_path(2), Path::new("/etc/hosts"));
        for index in [0, 1, 3] {
            let path = mounted.root().join(mounted.stub_path(index).strip_prefix("/").expect("is absolute"));
            assert!(path.exists(), "{}", path.display());
        }
        let etc = mounted.root().join("etc").metadata().expect("exists");
        assert_eq!(etc.mtime(), 1_000_000_000, "the directory of a stub looks as before");
        fs::write(mounted.root().join("var/mine"), "x").expect("writes");
        chain.push(mounted.commit("a step").expect("commits"));
        store.derive_blob(&chain, &options(Codec::Gzip)).expect("packs");
        let index = store.tree_index(&chain[2]).expect("reads").expect("is kept");
        let paths: Vec<String> = index.iter().map(|e| e.entry.path.display().to_string()).collect();
        assert_eq!(paths, ["var/mine"], "{}", store.snapshotter_name().expect("chosen"));
        // Read-only views can have stubs, too.
        let view = MountRequest { writable: false, stubs: request.stubs, last: false };
        let mounted = store.mount(&chain, &view).expect("mounts");
        assert!(mounted.root().join("run/secrets/x").exists());
    }
}

// No layer has an entry for the root: what is copied from it must not depend on who made the directory.
#[test]
fn the_root_of_a_committed_layer_has_the_time_of_the_root_below() {
    use std::os::unix::fs::MetadataExt as _;
    for (_dir, store) in both() {
        let chain = base(&store);
        let time = |chain: &[LayerId]| {
            let mounted = store.mount(chain, &READ_ONLY).expect("mounts");
            let meta = fs::metadata(mounted.root()).expect("is there");
            (meta.mtime(), meta.mtime_nsec())
        };
        let before = time(&chain);
        let mounted = store.mount(&chain, &WRITABLE).expect("mounts");
        fs::create_dir(mounted.root().join("new")).expect("creates");
        let layer = mounted.commit("new").expect("commits");
        assert_eq!(time(&[chain, vec![layer]].concat()), before, "{}", store.snapshotter_name().expect("chosen"));
    }
}

#[test]
fn what_is_not_committed_is_gone() {
    for (_dir, store) in both() {
        let chain = base(&store);
        let mounted = store.mount(&chain, &WRITABLE).expect("mounts");
        fs::write(mounted.root().join("new"), "x").expect("writes");
        let root = mounted.root().to_path_buf();
        drop(mounted);
        eventually_gone(&root.join("new"));
        let again = store.mount(&chain, &READ_ONLY).expect("mounts");
        assert!(!again.root().join("new").exists());
        assert!(matches!(again.commit("no"), Err(StoreError::Misuse(_))));
    }
}

#[test]
fn a_merge_is_a_concatenation() {
    for (_dir, store) in both() {
        let chain = base(&store);
        let commit = |below: &[LayerId], name: &str| {
            let mounted = store.mount(below, &WRITABLE).expect("mounts");
            fs::write(mounted.root().join(name), name).expect("writes");
            mounted.commit(name).expect("commits")
        };
        let left = commit(&chain, "left");
        let right = commit(&chain, "right");
        let merged = [chain.clone(), vec![left.clone(), right.clone()]].concat();
        let mounted = store.mount(&merged, &READ_ONLY).expect("mounts");
        assert!(mounted.root().join("left").exists() && mounted.root().join("right").exists());
        let repeated = [merged.clone(), vec![left]].concat();
        let mounted = store.mount(&repeated, &READ_ONLY).expect("mounts the same layer twice");
        assert!(mounted.root().join("left").exists() && mounted.root().join("right").exists());
        // Its blob is the one it had on its own parents.
        let alone = store.derive_blob(&[chain, vec![right]].concat(), &options(Codec::Gzip)).expect("packs");
        assert_eq!(store.derive_blob(&merged, &options(Codec::Gzip)).expect("packs"), alone);
    }
}

#[test]
fn two_stores_unpack_once() {
    for (_dir, store) in both() {
        let chain = base(&store);
        let name = store.snapshotter_name().expect("chosen");
        let choice = if name == "overlay" { SnapshotterChoice::Overlay } else { SnapshotterChoice::Native };
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let other = open(store.root(), choice).expect("opens");
                    let mounted = other.mount(&chain, &READ_ONLY).expect("mounts");
                    assert!(mounted.root().join("var/c").exists());
                });
            }
        });
        let expected = if name == "overlay" { 2 } else { 1 };
        assert_eq!(fs::read_dir(store.root().join("snapshots")).expect("lists").count(), expected, "{name}");
    }
}

#[test]
fn a_directory_of_another_dialect_is_not_used() {
    if !can_apply() {
        return;
    }
    let Some((_dir, overlay)) = overlay_store() else { return };
    let mut chain = base(&overlay);
    let mounted = overlay.mount(&chain, &WRITABLE).expect("mounts");
    change(mounted.root());
    let seen = listing(mounted.root());
    chain.push(mounted.commit("a step").expect("commits"));
    let native = open(overlay.root(), SnapshotterChoice::Native).expect("opens");
    assert!(!native.layer(&chain[2]).expect("exists").materialised);
    assert!(matches!(native.mount(&chain, &READ_ONLY), Err(StoreError::NotLocal { .. })), "no blob yet");
    let blob = overlay.derive_blob(&chain, &options(Codec::Gzip)).expect("packs");
    let view = native.mount(&chain, &READ_ONLY).expect("unpacks its own");
    assert_eq!(listing(view.root()), seen);
    drop(view);
    native.drop_blob(&blob.digest).expect("drops");
    assert_eq!(native.derive_blob(&chain, &options(Codec::Gzip)).expect("packs"), blob);
}

#[test]
fn many_layers_and_long_paths_can_be_mounted() {
    let Some((dir, _)) = overlay_store() else { return };
    let root = dir.path().join("x".repeat(200)).join("y,:z".repeat(40));
    let store = open(&root, SnapshotterChoice::Overlay).expect("opens");
    let mut chain = Vec::new();
    for i in 0..130 {
        let mounted = store.mount(&chain, &WRITABLE).expect("mounts");
        fs::File::create(mounted.root().join(format!("file{i}"))).and_then(|mut f| f.write_all(b"x")).expect("writes");
        chain.push(mounted.commit("one more").expect("commits"));
    }
    let mounted = store.mount(&chain, &READ_ONLY).expect("mounts");
    assert_eq!(fs::read_dir(mounted.root()).expect("lists").count(), 130);
}

/// No silent fallback: a store whose file system cannot be an upper is served by native, and that is said once.
#[test]
fn c5_20_auto_falls_back_with_one_notice() {
    use crate::base::{Event, Events};
    use crate::store::StoreOptions;
    use std::sync::{Arc, Mutex};

    let Some((dir, outer)) = overlay_store() else { return };
    // Upper on overlay is refused by the kernel.
    let mounted = outer.mount(&[], &WRITABLE).expect("mounts");
    let notices = Arc::new(Mutex::new(Vec::new()));
    let sink = notices.clone();
    let events = Events::new(move |event| {
        if let Event::Notice { key, text } = event {
            sink.lock().expect("is not poisoned").push((key, text));
        }
    });
    let root = mounted.root().join("store");
    let store = Store::open(&root, &StoreOptions::new(events)).expect("opens");
    for _ in 0..2 {
        assert_eq!(store.snapshotter_name().expect("chosen"), "native");
    }
    let layer = store.mount(&[], &WRITABLE).expect("copies").commit("works").expect("commits");
    assert!(store.layer(&layer).expect("exists").materialised);
    let notices = notices.lock().expect("is not poisoned");
    assert_eq!(notices.len(), 1, "{notices:?}");
    assert_eq!(notices[0].0, "native-snapshotter");
    let error = open(&root, SnapshotterChoice::Overlay).and_then(|s| s.snapshotter_name()).expect_err("is refused");
    assert!(error.to_string().contains("overlay snapshotter does not work"), "{error}");
    drop(store);
    drop(dir);
}
