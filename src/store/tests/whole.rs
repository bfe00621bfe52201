//! Whole trees that are changed in place: the same layers as from copies, and nothing that cannot be made again.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use super::layers::{READ_ONLY, WRITABLE, base, options};
use crate::archive::{Entry, LayerOptions};
use crate::base::DiffId;
use crate::oci::media_type::Codec;
use crate::store::testing::{overlay_store, skip, store};
use crate::store::{LayerId, MountRequest, Store};

const LAST: MountRequest = MountRequest { writable: true, stubs: Vec::new(), last: true };

/// Gives `path` a time that is the same in every run.
fn at(path: &Path) {
    let time = std::time::UNIX_EPOCH + std::time::Duration::new(1_700_000_000, 5);
    fs::File::open(path).and_then(|file| file.set_modified(time)).expect("sets the time");
}

fn write(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().expect("has one")).expect("creates");
    fs::write(&path, text).expect("writes");
    at(&path);
}

/// What steps do, one after the other.
fn steps() -> Vec<fn(&Path)> {
    vec![
        |root| write(root, "usr/share/one", "1"),
        |root| {
            write(root, "usr/share/one", "one");
            fs::rename(root.join("usr/share"), root.join("usr/lib")).expect("moves");
        },
        |root| {
            write(root, "opt/large", &"x".repeat(700_000));
            fs::remove_file(root.join("var/c")).expect("removes");
        },
        // Nothing at all is changed by these: the same modes, the same bytes and times again.
        |root| {
            for path in ["usr/lib/one", "opt/large", "etc/hosts", "etc"] {
                let path = root.join(path);
                let mode = fs::metadata(&path).expect("exists").mode();
                fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("chmod");
            }
            write(root, "opt/large", &"x".repeat(700_000));
            at(&root.join("opt"));
        },
        // The same size and the same time, but not the same.
        |root| write(root, "opt/large", &"y".repeat(700_000)),
        |root| {
            fs::remove_dir_all(root.join("opt")).expect("removes");
            write(root, "opt/other", "other");
            fs::hard_link(root.join("usr/lib/one"), root.join("usr/lib/two")).expect("links");
            fs::set_permissions(root.join("etc"), fs::Permissions::from_mode(0o700)).expect("chmod");
        },
        |root| {
            fs::remove_file(root.join("etc/passwd")).expect("removes");
            fs::create_dir(root.join("etc/passwd")).expect("creates");
            fs::write(root.join("usr/lib/two"), "both").expect("writes");
            at(&root.join("usr/lib/two"));
        },
    ]
}

/// Runs the steps, a copied file in between, and gives the chain.
fn build(store: &Store, request: &MountRequest) -> Vec<LayerId> {
    let mut chain = base(store);
    for (number, step) in steps().into_iter().enumerate() {
        let view = store.mount(&chain, request).expect("mounts");
        step(view.root());
        // Directories that were changed just now have the same time in every run, too.
        for dir in walkdir::WalkDir::new(view.root()).min_depth(1) {
            let dir = dir.expect("walks");
            if dir.file_type().is_dir() && dir.metadata().expect("exists").mtime() > 1_750_000_000 {
                at(dir.path());
            }
        }
        chain.push(view.commit(&format!("step {number}")).expect("commits"));
        if number == 2 {
            let layer = store.write_layer(&chain, "copy", &options(Codec::Gzip), |out| {
                let mut entry = Entry::file("copied", 0o644, 6);
                entry.mtime = crate::archive::Timestamp::seconds(1_700_000_000);
                out.append(&entry, Some(&mut &b"copied"[..])).map_err(|e| crate::store::StoreError::Archive {
                    action: "write",
                    id: chain[0].clone(),
                    source: Box::new(e),
                })
            });
            chain.push(layer.expect("writes"));
        }
    }
    chain
}

fn diff_ids(store: &Store, chain: &[LayerId]) -> Vec<DiffId> {
    let one = |end| store.derive_blob(&chain[..end], &options(Codec::Gzip)).expect("derives").diff_id;
    (1..=chain.len()).map(one).collect()
}

/// The same with times that are too late made earlier.
fn restamped(store: &Store, chain: &[LayerId]) -> Vec<DiffId> {
    let epoch = LayerOptions { epoch: Some(1_600_000_000), ..options(Codec::Zstd) };
    (3..=chain.len()).map(|end| store.derive_blob(&chain[..end], &epoch).expect("derives").diff_id).collect()
}

fn trees(store: &Store) -> usize {
    fs::read_dir(store.root().join("snapshots")).expect("lists").count()
}

#[test]
fn changing_in_place_gives_the_layers_of_copies() {
    let ((_one, copies), (_two, places)) = (store(), store());
    if !crate::store::snapshot::tells_changes(places.root()).expect("asks") {
        return skip("a tmpfs does not tell what changed");
    }
    let (copied, changed) = (build(&copies, &WRITABLE), build(&places, &LAST));
    assert_eq!(trees(&copies), copied.len() - 1, "one for each step, one for the base, one for what was copied");
    assert_eq!(trees(&places), 2, "that of the base, and the last");
    let expected = diff_ids(&copies, &copied);
    assert_eq!(diff_ids(&places, &changed), expected);
    assert_eq!(restamped(&places, &changed), restamped(&copies, &copied));
    assert_eq!(trees(&places), 2, "times are changed without trees");
    // Also what is not there any more can be had again, exactly.
    for end in (3..changed.len()).rev() {
        let view = places.mount(&changed[..end], &READ_ONLY).expect("mounts");
        let other = copies.mount(&copied[..end], &READ_ONLY).expect("mounts");
        assert_eq!(listing(view.root()), listing(other.root()), "{end} layers");
    }
    assert_eq!(diff_ids(&places, &changed), expected);
}

/// Paths with what matters of them.
fn listing(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut todo = vec![root.to_path_buf()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).expect("lists") {
            let path = entry.expect("lists").path();
            let meta = fs::symlink_metadata(&path).expect("exists");
            let text = if meta.is_file() { fs::read_to_string(&path).expect("reads").len() } else { 0 };
            let shown = path.strip_prefix(root).expect("is inside").display().to_string();
            found.push(format!("{shown} {:o} {text}", meta.mode()));
            if meta.is_dir() {
                todo.push(path);
            }
        }
    }
    found.sort();
    found
}

/// What was written first for an epoch that changes nothing is the layer's own stream as well.
#[test]
fn a_blob_whose_times_did_not_change_is_the_layers_own() {
    let (_dir, store) = store();
    let view = store.mount(&[], &LAST).expect("mounts");
    write(view.root(), "first", "1");
    let chain = vec![view.commit("first").expect("commits")];
    let epoch = LayerOptions { epoch: Some(4_000_000_000), ..options(Codec::Uncompressed) };
    let early = store.derive_blob(&chain, &epoch).expect("derives");
    let view = store.mount(&chain, &LAST).expect("mounts");
    assert!(view.root().join("first").exists());
    drop(view);
    assert_eq!(store.blobs_needed(&chain).expect("is here"), []);
    let own = store.derive_blob(&chain, &options(Codec::Uncompressed)).expect("is there");
    assert_eq!(own.digest, early.digest);
    assert!(store.mount(&chain, &READ_ONLY).expect("is made again").root().join("first").exists());
}

#[test]
fn a_tree_that_somebody_reads_is_copied() {
    let (_dir, store) = store();
    let mut chain = base(&store);
    let view = store.mount(&chain, &LAST).expect("mounts");
    write(view.root(), "first", "1");
    chain.push(view.commit("first").expect("commits"));
    let reader = store.mount(&chain, &READ_ONLY).expect("mounts");
    let view = store.mount(&chain, &LAST).expect("mounts");
    write(view.root(), "first", "2");
    assert_eq!(fs::read_to_string(reader.root().join("first")).expect("reads"), "1");
    drop(view);
    drop(reader);
    assert!(store.is_materialised(&chain).expect("asks"), "nothing was taken");
}

#[test]
fn a_step_that_fails_costs_the_tree_and_nothing_else() {
    let (_dir, store) = store();
    let mut chain = base(&store);
    let view = store.mount(&chain, &LAST).expect("mounts");
    write(view.root(), "first", "1");
    chain.push(view.commit("first").expect("commits"));
    let view = store.mount(&chain, &LAST).expect("mounts");
    write(view.root(), "first", "spoilt");
    fs::remove_dir_all(view.root().join("var")).expect("removes");
    drop(view);
    let again = store.mount(&chain, &READ_ONLY).expect("mounts");
    assert_eq!(fs::read_to_string(again.root().join("first")).expect("reads"), "1");
    assert_eq!(fs::read_to_string(again.root().join("var/b")).expect("reads"), "b");
}

#[test]
fn trees_of_earlier_builds_are_copied() {
    let (dir, first) = store();
    let mut chain = base(&first);
    let view = first.mount(&chain, &LAST).expect("mounts");
    write(view.root(), "first", "1");
    chain.push(view.commit("first").expect("commits"));
    drop(first);
    let store = crate::store::testing::open(&dir.path().join("store"), crate::store::SnapshotterChoice::Native);
    let store = store.expect("opens");
    drop(store.mount(&chain, &LAST).expect("mounts"));
    assert!(store.is_materialised(&chain).expect("asks"));
}

/// What is still open is copied: a layer is what it was when its step ended, under every snapshotter.
#[test]
fn what_stays_open_changes_no_layer() {
    use std::io::{Seek as _, Write as _};
    for (name, made) in [("native", Some(store())), ("overlay", overlay_store())] {
        let Some((_dir, store)) = made else { continue };
        let mut mounted = store.mount(&[], &WRITABLE).expect("mounts");
        // Where there are no mounts, whoever ran the step says so.
        if name == "native" {
            mounted.expose();
        }
        write(mounted.root(), "dir/file", "good");
        fs::hard_link(mounted.root().join("dir/file"), mounted.root().join("dir/second")).expect("links");
        let mut file = fs::File::options().write(true).open(mounted.root().join("dir/file")).expect("opens");
        let root = fs::File::open(mounted.root()).expect("opens");
        let id = mounted.commit("a step").expect("commits");
        file.rewind().and_then(|()| file.write_all(b"LATE")).expect("writes to what nobody looks at");
        let late = rustix::fs::openat(
            &root,
            "late",
            rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY,
            rustix::fs::Mode::RUSR,
        );
        let shown = store.mount(std::slice::from_ref(&id), &READ_ONLY).expect("mounts");
        assert_eq!(fs::read_to_string(shown.root().join("dir/file")).expect("reads"), "good", "{name}");
        assert!(!shown.root().join("late").exists(), "{name}: {late:?}");
        let links = fs::metadata(shown.root().join("dir/second")).expect("exists").nlink();
        assert_eq!(links, 2, "{name}");
    }
}
