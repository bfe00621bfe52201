//! What is saved comes back, only what changed moves, and nothing hostile gets out.

use std::collections::HashSet;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::chunk::{Chunker, MAX_CHUNK};
use super::save::{LocalMount, Saved, save};
use super::*;
use crate::archive::header;
use crate::archive::{Entry, EntryKind};
use crate::base::Digest;
use crate::store::Store;
use crate::store::testing::store;

/// Bytes that no chunk repeats.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed;
    let mut out = Vec::with_capacity(length + 8);
    while out.len() < length {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        out.extend_from_slice(&(z ^ (z >> 27)).to_le_bytes());
    }
    out.truncate(length);
    out
}

fn chunks(bytes: &[u8], piece: usize) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    let mut chunker = Chunker::new(|chunk: &[u8]| {
        found.push(chunk.to_vec());
        Ok(())
    });
    for piece in bytes.chunks(piece) {
        chunker.write_all(piece).expect("writes");
    }
    chunker.finish().expect("ends");
    found
}

#[test]
fn c7_chunks_depend_on_content_alone() {
    let bytes = noise(1, 6 << 20);
    let whole = chunks(&bytes, bytes.len());
    assert_eq!(whole.concat(), bytes);
    assert!(whole.iter().all(|c| c.len() <= MAX_CHUNK));
    assert_eq!(chunks(&bytes, 1000), whole, "how it was written does not matter");
    // Where it is cut is part of what caches share: another rule would find nothing again.
    let lengths: Vec<usize> = whole.iter().take(5).map(Vec::len).collect();
    assert_eq!(lengths, [79_877, 100_411, 73_908, 32_960, 30_904]);
    let mut changed = bytes.clone();
    changed.splice(2_000_000..2_000_000, *b"inserted");
    let known: HashSet<&Vec<u8>> = whole.iter().collect();
    let new = chunks(&changed, 1 << 16).iter().filter(|c| !known.contains(c)).count();
    assert!((1..=3).contains(&new), "{new} chunks changed");
}

fn local(id: &str, path: &Path) -> LocalMount {
    LocalMount { id: id.into(), path: path.into(), used: 7 }
}

fn restored(store: &Store, document: &Document, id: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let mount = document.mount(id).expect("is saved");
    let open = |digest: &Digest| store.open_blob(digest).map_err(std::io::Error::other);
    let notes = restore::restore(document, mount, dir.path(), &open).expect("restores");
    assert_eq!(notes, []);
    dir
}

fn bytes(saved: &Saved) -> u64 {
    saved.fresh.iter().map(|pack| pack.size).sum()
}

// SPEC C4.10: what a mount is made of comes back: types, modes, times, links, attributes, odd names.
#[test]
fn c4_10_a_mount_comes_back_as_it_was() {
    let (_guard, store) = store();
    let dir = tempfile::tempdir().expect("a directory");
    let root = dir.path();
    fs::set_permissions(root, fs::Permissions::from_mode(0o2751)).expect("sets");
    fs::create_dir_all(root.join("deep/er")).expect("creates");
    fs::write(root.join("deep/er/file"), noise(2, 700_000)).expect("writes");
    fs::write(root.join("empty"), "").expect("writes");
    // Not a deletion here.
    fs::write(root.join(".wh.name"), "x").expect("writes");
    fs::write(root.join("ünï\ncode"), "y").expect("writes");
    fs::set_permissions(root.join("ünï\ncode"), fs::Permissions::from_mode(0o4511)).expect("sets");
    fs::hard_link(root.join("deep/er/file"), root.join("twin")).expect("links");
    std::os::unix::fs::symlink("/etc/passwd", root.join("link")).expect("links");
    let _socket = std::os::unix::net::UnixListener::bind(root.join("socket")).expect("binds");
    let time = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 123_456_789);
    let file = fs::File::options().write(true).open(root.join("empty")).expect("opens");
    file.set_modified(time).expect("sets");

    let saved = save(&store, &[local("/a", root)], &Document::default(), DEFAULT_CAP).expect("saves");
    let document = Document::decode("t", &saved.document.encode().expect("encodes")).expect("is valid");
    let back = restored(&store, &document, "/a");
    let mode = |path: &Path| fs::symlink_metadata(path).expect("is there").permissions().mode() & 0o7777;
    assert_eq!(mode(back.path()), 0o2751);
    assert_eq!(mode(&back.path().join("ünï\ncode")), 0o4511);
    assert_eq!(fs::read(back.path().join("deep/er/file")).expect("reads"), noise(2, 700_000));
    assert_eq!(fs::read(back.path().join(".wh.name")).expect("reads"), b"x");
    assert_eq!(fs::read_link(back.path().join("link")).expect("reads"), Path::new("/etc/passwd"));
    let inode = |name: &str| fs::metadata(back.path().join(name)).expect("is there").ino();
    assert_eq!(inode("twin"), inode("deep/er/file"));
    assert_eq!(fs::metadata(back.path().join("empty")).expect("is there").modified().expect("has one"), time);
    assert!(!back.path().join("socket").exists(), "a socket means nothing without its process");
}

#[test]
fn only_what_changed_is_packed_and_the_rest_is_found_again() {
    let (_guard, store) = store();
    let dir = tempfile::tempdir().expect("a directory");
    for n in 0..20 {
        fs::write(dir.path().join(format!("f{n:02}")), noise(100 + n, 500_000)).expect("writes");
    }
    let first = save(&store, &[local("/a", dir.path())], &Document::default(), DEFAULT_CAP).expect("saves");
    assert!(bytes(&first) > 10_000_000 && first.fresh.len() == 2, "{}", bytes(&first));
    let again = save(&store, &[local("/a", dir.path())], &first.document, DEFAULT_CAP).expect("saves");
    assert_eq!((again.fresh.len(), &again.document), (0, &first.document), "nothing changed");
    fs::write(dir.path().join("f05"), noise(999, 500_000)).expect("writes");
    fs::remove_file(dir.path().join("f11")).expect("removes");
    let third = save(&store, &[local("/a", dir.path())], &first.document, DEFAULT_CAP).expect("saves");
    assert!(bytes(&third) < 1_200_000, "{} bytes for half a megabyte", bytes(&third));
    let back = restored(&store, &third.document, "/a");
    assert_eq!(fs::read(back.path().join("f05")).expect("reads"), noise(999, 500_000));
    assert!(!back.path().join("f11").exists());
    // Another mount of the same cache shares the chunks, and mounts that this build does not have stay.
    let other = save(&store, &[local("/b", back.path())], &third.document, DEFAULT_CAP).expect("saves");
    assert!(bytes(&other) < 300_000, "{}", bytes(&other));
    assert!(other.document.mount("/a").is_some() && other.document.mount("/b").is_some());
    let lost = HashSet::from([third.fresh[0].digest.clone()]);
    let left = other.document.without(&lost);
    assert!(left.mounts.is_empty() && !left.packs.is_empty(), "mounts of a lost pack go, chunks of others stay");
}

#[test]
fn packs_of_which_little_is_left_are_packed_again() {
    let (_guard, store) = store();
    let dir = tempfile::tempdir().expect("a directory");
    for n in 0..10 {
        fs::write(dir.path().join(format!("f{n}")), noise(200 + n, 500_000)).expect("writes");
    }
    let first = save(&store, &[local("/a", dir.path())], &Document::default(), DEFAULT_CAP).expect("saves");
    for n in 0..7 {
        fs::remove_file(dir.path().join(format!("f{n}"))).expect("removes");
    }
    let second = save(&store, &[local("/a", dir.path())], &first.document, DEFAULT_CAP).expect("saves");
    assert!(second.document.packs.iter().all(|pack| pack.digest != first.fresh[0].digest), "the old pack goes");
    assert!(bytes(&second) > 1_400_000 && bytes(&second) < 2_500_000, "{}", bytes(&second));
    let back = restored(&store, &second.document, "/a");
    assert_eq!(fs::read(back.path().join("f8")).expect("reads"), noise(208, 500_000));
}

#[test]
fn the_cap_drops_what_was_not_used_for_longest() {
    let (_guard, store) = store();
    let (old, new) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    fs::write(old.path().join("x"), noise(3, 1_000_000)).expect("writes");
    let first = save(&store, &[local("/old", old.path())], &Document::default(), DEFAULT_CAP).expect("saves");
    let set = |name: &str, used: u64| {
        let path = new.path().join(name);
        fs::write(&path, noise(used, 400_000)).expect("writes");
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(used);
        let times = fs::FileTimes::new().set_accessed(time).set_modified(std::time::UNIX_EPOCH);
        fs::File::options().write(true).open(&path).expect("opens").set_times(times).expect("sets");
    };
    set("never", 1000);
    set("just-now", 3000);
    set("recently", 2000);
    let mounts = [local("/new", new.path())];
    let fits = save(&store, &mounts, &first.document, 3 << 20).expect("saves");
    assert!(fits.dropped.is_empty() && fits.trimmed == (0, 0));
    let tight = save(&store, &mounts, &first.document, 1 << 20).expect("saves");
    assert_eq!(tight.dropped, ["/old"], "a mount that this build does not use goes");
    assert_eq!(tight.trimmed.0, 1);
    let back = restored(&store, &tight.document, "/new");
    let mut names: Vec<PathBuf> =
        fs::read_dir(back.path()).expect("lists").map(|e| e.expect("is there").path()).collect();
    names.sort();
    assert!(names[0].ends_with("just-now") && names[1].ends_with("recently") && names.len() == 2, "{names:?}");
    // Reading them to save them is no use.
    let again = save(&store, &mounts, &first.document, 1 << 20).expect("saves");
    assert_eq!(again.document, tight.document);
}

/// A document of one mount whose stream is `stream`, and the pack.
fn forged(store: &Store, stream: &[u8]) -> Document {
    let frame = zstd::bulk::compress(stream, 1).expect("compresses");
    let digest = store.put_blob(&frame).expect("writes");
    let size = |length: usize| u32::try_from(length).expect("is small");
    let chunk = Chunk { hash: ChunkHash::of(stream), length: size(stream.len()), stored: size(frame.len()) };
    let mut document = Document::default();
    document.packs.push(Pack { digest, size: frame.len() as u64, chunks: vec![chunk] });
    document.mounts.push(SavedMount { id: "/a".into(), used: 0, length: stream.len() as u64, runs: vec![(0, 1)] });
    Document::decode("t", &document.encode().expect("encodes")).expect("is valid")
}

fn tar(entries: &[(Entry, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (entry, content) in entries {
        header::encode(entry, &mut out);
        out.extend_from_slice(content);
        out.resize(out.len() + header::padding(entry.size), 0);
    }
    out.resize(out.len() + 1024, 0);
    out
}

// A cache is written by others: nothing of it may leave the mount's directory, and no device is made.
#[test]
fn hostile_streams_stay_inside() {
    let (_guard, store) = store();
    let dir = tempfile::tempdir().expect("a directory");
    let outside = dir.path().join("outside");
    fs::create_dir(&outside).expect("creates");
    let file = |path: &str| Entry::file(path, 0o644, 1);
    let through = |target: &str| {
        tar(&[(Entry::symlink("l", target), b""), (file("l/planted"), b"x"), (Entry::symlink("f", target), b"")])
    };
    let link = |target: &str| Entry { link: target.into(), ..Entry::new("h", EntryKind::Hardlink) };
    let device = Entry { device: (1, 3), mode: 0o666, ..Entry::new("null", EntryKind::Char) };
    for (at, stream) in [
        through(&outside.display().to_string()),
        through("../outside"),
        tar(&[(file("../outside/planted"), b"x")]),
        tar(&[(file("/../outside/planted"), b"x")]),
        tar(&[(link("../outside/x"), b"")]),
        tar(&[(link("/etc/passwd"), b"")]),
        tar(&[(device, b""), (file("after"), b"x")]),
        b"not a tar, but long enough to be looked at".repeat(40),
    ]
    .into_iter()
    .enumerate()
    {
        let document = forged(&store, &stream);
        let mount = dir.path().join(format!("mount{at}"));
        fs::create_dir(&mount).expect("creates");
        let open = |digest: &Digest| store.open_blob(digest).map_err(std::io::Error::other);
        let outcome = restore::restore(&document, &document.mounts[0], &mount, &open);
        assert_eq!(fs::read_dir(&outside).expect("lists").count(), 0, "stream {at}: {outcome:?}");
        assert!(!mount.join("null").exists());
        if at == 6 {
            assert!(mount.join("after").is_file() && outcome.expect("is fine").len() == 1);
        }
    }
}

#[test]
fn broken_documents_and_packs_are_errors() {
    let (_guard, store) = store();
    let stream = tar(&[(Entry::file("f", 0o644, 1), b"x")]);
    let good = forged(&store, &stream);
    let refused = |change: &dyn Fn(&mut Document)| {
        let mut document = good.clone();
        change(&mut document);
        Document::decode("t", &document.encode().expect("encodes")).expect_err("is broken").to_string()
    };
    assert!(refused(&|d| d.mounts[0].runs = vec![(0, 2)]).contains("do not exist"));
    assert!(refused(&|d| d.mounts[0].runs = vec![(u32::MAX, u32::MAX)]).contains("do not exist"));
    assert!(refused(&|d| d.mounts[0].runs = vec![(0, 1); 3]).contains("not as long"));
    assert!(refused(&|d| d.mounts[0].length = 1).contains("not as long"));
    assert!(refused(&|d| d.packs[0].size += 1).contains("not as long"));
    assert!(refused(&|d| d.packs[0].chunks[0].length = 1 << 30).contains("impossible"));
    assert!(refused(&|d| d.mounts.push(d.mounts[0].clone())).contains("twice"));
    assert!(Document::decode("t", b"{}").expect_err("is no zstd").to_string().contains("broken"));
    let other = zstd::bulk::compress(br#"{"version":9,"packs":[],"mounts":[]}"#, 1).expect("compresses");
    assert!(Document::decode("t", &other).expect_err("is newer").to_string().contains("format 9"));
    // A pack with other bytes of the same length.
    let dir = tempfile::tempdir().expect("a directory");
    let frame = zstd::bulk::compress(&stream.iter().map(|b| b ^ 1).collect::<Vec<u8>>(), 1).expect("compresses");
    let path = dir.path().join("pack");
    fs::write(&path, [frame, vec![0; 4096]].concat()).expect("writes");
    let open = |_: &Digest| fs::File::open(&path);
    let mount = dir.path().join("mount");
    fs::create_dir(&mount).expect("creates");
    assert!(restore::restore(&good, &good.mounts[0], &mount, &open).is_err());
}

#[test]
fn mounts_are_chosen_by_the_dockerfiles_ids() {
    let ids = MountChoice::Ids(vec!["/root/.cache/pip".into(), "npm".into()]);
    assert!(ids.wants("//root/.cache/pip") && ids.wants("/npm") && ids.wants("ns/npm"));
    assert!(!ids.wants("/other") && !MountChoice::None.wants("/npm") && MountChoice::All.wants("x/y"));
}
