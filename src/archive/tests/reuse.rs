//! Blocks of an earlier layer in a new one.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use sha2::{Digest as _, Sha256};

use super::super::block::block_lengths;
use super::super::checksum::Checksum;
use super::super::writer::{Content, LayerOptions, LayerSummary, LayerWriter};
use super::super::{ArchiveError, BlockKey, BlockSource, Entry, PrefixKey, TreeIndex};
use crate::oci::media_type::Codec;

#[derive(Default)]
struct Blocks {
    known: HashMap<BlockKey, (Vec<u8>, Checksum)>,
    prefixes: HashMap<PrefixKey, Vec<u8>>,
    found: AtomicUsize,
}

impl Blocks {
    /// What `blob` leaves for later ones.
    fn note(&mut self, blob: &[u8], summary: &LayerSummary) {
        for block in &summary.blocks {
            let bytes = &blob[block.offset as usize..][..block.size as usize];
            self.known.insert(block.key, (bytes.to_vec(), block.sum));
        }
        self.prefixes.extend(summary.prefixes.iter().map(|prefix| (prefix.key, prefix.state.clone())));
    }
}

impl BlockSource for Blocks {
    fn find(&self, key: &BlockKey, out: &mut Vec<u8>) -> Option<Checksum> {
        let (bytes, sum) = self.known.get(key)?;
        out.extend_from_slice(bytes);
        self.found.fetch_add(1, Ordering::Relaxed);
        Some(*sum)
    }

    fn hashed(&self, key: &PrefixKey) -> Option<Vec<u8>> {
        self.prefixes.get(key).cloned()
    }
}

/// Some hundred files and a large one; `changed` has other content.
fn layer(changed: Option<usize>, options: &LayerOptions, source: Option<Arc<Blocks>>) -> (Vec<u8>, LayerSummary) {
    let mut writer = LayerWriter::new(Vec::new(), options).expect("valid options");
    if let Some(source) = source {
        writer = writer.reuse(source, true);
    }
    for i in 0..600 {
        let word = if changed == Some(i) { "changed" } else { "content" };
        let size = if i == 300 { 1_500_000 } else { 3000 + i };
        let content: Vec<u8> = format!("{word} of file {i}, ").bytes().cycle().take(size).collect();
        let entry = Entry::file(format!("file{i:03}"), 0o644, content.len() as u64);
        writer.append(&entry, Some(&mut &content[..])).expect("appends");
    }
    writer.finish().expect("finishes")
}

#[test]
fn one_changed_file_costs_one_block_and_changes_no_other_byte() {
    for codec in [Codec::Gzip, Codec::Zstd] {
        let options = LayerOptions { codec, threads: 3, ..LayerOptions::default() };
        let (old, summary) = layer(None, &options, Some(Arc::default()));
        let mut blocks = Blocks::default();
        blocks.note(&old, &summary);
        let blocks = Arc::new(blocks);
        let (new, summary) = layer(Some(100), &options, Some(Arc::clone(&blocks)));
        assert!(new == layer(Some(100), &options, None).0, "{codec:?}: reuse must not show");
        assert_ne!(new, old);
        let (all, found) = (summary.blocks.len(), blocks.found.load(Ordering::Relaxed));
        assert!(all > 6 && found >= all - 1, "{codec:?}: {found} of {all} blocks were found");
    }
}

#[test]
fn an_index_tells_where_blocks_end() {
    let options = LayerOptions { threads: 2, ..LayerOptions::default() };
    let (_, summary) = layer(None, &options, Some(Arc::default()));
    let lengths: Vec<u64> = summary.blocks.iter().map(|block| block.sum.length).collect();
    assert_eq!(block_lengths(&summary.index).iter().map(|l| *l as u64).collect::<Vec<_>>(), lengths);
}

/// A file of the tests below.
#[derive(Clone)]
struct TestFile {
    content: Vec<u8>,
    /// What is said of its content.
    known: Option<Vec<u8>>,
}

/// Some hundred files whose digests are known.
fn test_files() -> Vec<TestFile> {
    let content = |i: usize| format!("content of file {i}, ").bytes().cycle().take(3000 + i).collect::<Vec<u8>>();
    (0..600).map(|i| TestFile { content: content(i), known: Some(content(i)) }).collect()
}

/// A layer of `files`; also how many of them were read.
fn layer_of(
    files: &[TestFile],
    options: &LayerOptions,
    source: Option<&Arc<Blocks>>,
) -> Result<(Vec<u8>, LayerSummary, usize), ArchiveError> {
    let dir = tempfile::tempdir().expect("a directory");
    let opened = Arc::new(AtomicUsize::new(0));
    let mut writer = LayerWriter::new(Vec::new(), options)?;
    if let Some(source) = source {
        writer = writer.reuse(Arc::clone(source) as Arc<dyn BlockSource>, true);
    }
    for (i, file) in files.iter().enumerate() {
        let path: PathBuf = dir.path().join(i.to_string());
        std::fs::write(&path, &file.content).expect("writes");
        let (opened, place) = (Arc::clone(&opened), path.clone());
        let open = Box::new(move || {
            opened.fetch_add(1, Ordering::Relaxed);
            std::fs::File::open(place)
        });
        let digest = file.known.as_ref().map(|known| Sha256::digest(known).into());
        let entry = Entry::file(format!("file{i:03}"), 0o644, file.content.len() as u64);
        writer.append_content(&entry, Some(Content::File { open, path, digest }))?;
    }
    let (blob, summary) = writer.finish()?;
    Ok((blob, summary, opened.load(Ordering::Relaxed)))
}

/// What a first layer of `files` leaves behind.
fn noted(files: &[TestFile], options: &LayerOptions) -> Arc<Blocks> {
    let (blob, summary, read) = layer_of(files, options, Some(&Arc::default())).expect("a layer");
    assert_eq!(read, files.len());
    let mut blocks = Blocks::default();
    blocks.note(&blob, &summary);
    Arc::new(blocks)
}

#[test]
fn files_before_the_first_change_are_not_read() {
    for (codec, threads) in [(Codec::Gzip, 3), (Codec::Zstd, 1)] {
        let options = LayerOptions { codec, threads, ..LayerOptions::default() };
        let mut files = test_files();
        let blocks = noted(&files, &options);
        let same = |files: &[TestFile], blocks: &Arc<Blocks>| {
            let (blob, summary, read) = layer_of(files, &options, Some(blocks)).expect("a layer");
            let (plain, expected, _) = layer_of(files, &options, None).expect("a layer");
            assert!(blob == plain, "{codec:?}: reuse must not show");
            assert_eq!((&summary.diff_id, &summary.index), (&expected.diff_id, &expected.index), "{codec:?}");
            (blob, summary, read)
        };
        assert_eq!(same(&files, &blocks).2, 0, "nothing changed");
        // A file that was just written: nobody knows its digest yet.
        files[400] = TestFile { content: b"new".repeat(1000), known: None };
        let (blob, summary, read) = same(&files, &blocks);
        assert!(read > 199 && read < 400, "{codec:?}: {read} files were read");
        // Its digest is known later, and what was noted without it holds.
        let mut later = Blocks::default();
        later.note(&blob, &summary);
        files[400].known = Some(files[400].content.clone());
        assert_eq!(same(&files, &Arc::new(later)).2, 0, "{codec:?}");
    }
}

#[test]
fn a_digest_that_is_wrong_shows_nowhere() {
    let options = LayerOptions { threads: 2, ..LayerOptions::default() };
    let mut files = test_files();
    let blocks = noted(&files, &options);
    // Changed after it was looked at: what is in the layer is what was read, also where its block was known.
    files[300].known = None;
    files[400].content[5] ^= 1;
    let (blob, summary, _) = layer_of(&files, &options, Some(&blocks)).expect("a layer");
    let (plain, expected, _) = layer_of(&files, &options, None).expect("a layer");
    assert!(blob == plain);
    assert_eq!((&summary.diff_id, &summary.index), (&expected.diff_id, &expected.index));
    // And nobody finds it under the name of what it should have been.
    let mut later = Blocks::default();
    later.note(&blob, &summary);
    let right = test_files();
    let (blob, ..) = layer_of(&right, &options, Some(&Arc::new(later))).expect("a layer");
    assert!(blob == layer_of(&right, &options, None).expect("a layer").0);
}

#[test]
fn a_file_that_changes_where_the_hash_was_taken_over_is_an_error() {
    let options = LayerOptions { threads: 2, ..LayerOptions::default() };
    let mut files = test_files();
    let mut blocks = Arc::into_inner(noted(&files, &options)).expect("nobody else has it");
    // The compressed blocks are gone, what is known of the hash is not.
    blocks.known.clear();
    files[10].content[5] ^= 1;
    let error = layer_of(&files, &options, Some(&Arc::new(blocks))).expect_err("it changed");
    assert!(error.to_string().contains("changed while it was being copied"), "{error}");
}

#[test]
fn large_files_can_go_without_a_digest_in_the_index() {
    let options = LayerOptions { threads: 2, ..LayerOptions::default() };
    let dir = tempfile::tempdir().expect("a directory");
    let write = |all: bool| {
        let mut writer = LayerWriter::new(Vec::new(), &options).expect("valid options");
        if !all {
            writer = writer.without_large_digests();
        }
        for (name, size) in [("large", 700_000), ("small", 700)] {
            let path = dir.path().join(name);
            std::fs::write(&path, vec![7; size]).expect("writes");
            let place = path.clone();
            let open = Box::new(move || std::fs::File::open(place));
            let entry = Entry::file(name, 0o644, size as u64);
            writer.append_content(&entry, Some(Content::File { open, path, digest: None })).expect("appends");
        }
        writer.finish().expect("finishes")
    };
    let ((all, with), (same, without)) = (write(true), write(false));
    assert!(all == same && with.diff_id == without.diff_id, "the layer is the same");
    let index = TreeIndex::from_bytes(&without.index.to_bytes()).expect("a valid index");
    let digest = |name: &str| index.lookup(name.as_ref()).expect("is there").digest;
    assert_eq!(digest("large"), None);
    assert_eq!(digest("small"), Some(crate::base::Digest::sha256([7; 700])));
    assert!(with.index.tells_contents() && !index.tells_contents());
}
