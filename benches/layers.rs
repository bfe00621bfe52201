//! What a layer costs, part by part: looking at a context, tar, hashing, compression.
#![allow(missing_docs, reason = "a benchmark")]
#![allow(clippy::unwrap_used, reason = "a benchmark")]

use std::collections::HashMap;
use std::io::sink;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use divan::counter::{BytesCount, ItemsCount};
use rbuild::archive::block::{Encoder, Method};
use rbuild::archive::{BlockKey, Entry, EntryKind, LayerOptions, LayerWriter};
use rbuild::base::Digest;
use rbuild::exec::file::{NoStatCache, Selector, StatCache, StatKey, content_digest};
use rbuild::oci::media_type::Codec;
use rbuild::tree::CopySource;

fn main() {
    divan::main();
}

/// Something like source text: words from a small set.
fn text(length: usize) -> Vec<u8> {
    let words = ["let ", "value ", "= ", "function", "(argument", ") ", "return ", "\n    ", "// because ", "struct "];
    let mut out = Vec::with_capacity(length + 16);
    let mut state = 1_u32;
    while out.len() < length {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        out.extend_from_slice(words[(state >> 24) as usize % words.len()].as_bytes());
    }
    out.truncate(length);
    out
}

fn noise(length: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    (0..length).map(|_| next()).collect()
}

const BLOCK: usize = 256 << 10;

#[divan::bench(max_time = 2, args = [Codec::Gzip, Codec::Zstd])]
fn compress_text(bencher: divan::Bencher<'_, '_>, codec: Codec) {
    compress(bencher, codec, &text(BLOCK));
}

#[divan::bench(max_time = 2, args = [Codec::Gzip, Codec::Zstd])]
fn compress_noise(bencher: divan::Bencher<'_, '_>, codec: Codec) {
    compress(bencher, codec, &noise(BLOCK));
}

/// zlib's levels, with a look at each block first.
#[divan::bench(max_time = 2, args = [2, 6, 9])]
fn compress_noise_at_level(bencher: divan::Bencher<'_, '_>, level: i32) {
    compress_at(bencher, Method::new(Codec::Gzip, Some(level)).unwrap(), &noise(BLOCK));
}

#[divan::bench(max_time = 2, args = [2, 6, 9])]
fn compress_text_at_level(bencher: divan::Bencher<'_, '_>, level: i32) {
    compress_at(bencher, Method::new(Codec::Gzip, Some(level)).unwrap(), &text(BLOCK));
}

fn compress(bencher: divan::Bencher<'_, '_>, codec: Codec, block: &[u8]) {
    compress_at(bencher, Method::new(codec, None).unwrap(), block);
}

fn compress_at(bencher: divan::Bencher<'_, '_>, method: Method, block: &[u8]) {
    let mut encoder = Encoder::new(method).unwrap();
    let mut out = Vec::new();
    bencher.counter(BytesCount::new(block.len())).bench_local(|| encoder.encode(block, &mut out).unwrap());
}

#[divan::bench(max_time = 2)]
fn hash_sha256(bencher: divan::Bencher<'_, '_>) {
    let block = text(BLOCK);
    bencher.counter(BytesCount::new(BLOCK)).bench_local(|| Digest::sha256(&block));
}

#[divan::bench(max_time = 2)]
fn hash_block_name(bencher: divan::Bencher<'_, '_>) {
    let (block, method) = (text(BLOCK), Method::new(Codec::Gzip, None).unwrap());
    bencher.counter(BytesCount::new(BLOCK)).bench_local(|| BlockKey::of(&block, method));
}

/// Headers, index and diff ID of 2,000 small files; with gzip the whole way to a blob.
#[divan::bench(max_time = 2, args = [Codec::Uncompressed, Codec::Gzip])]
fn write_a_layer_of_2_000_files(bencher: divan::Bencher<'_, '_>, codec: Codec) {
    let body = text(2600);
    let entries: Vec<Entry> = (0..2000)
        .map(|i| {
            let mut entry = Entry::new(Path::new(&format!("src/d{:02}/file{i:04}.txt", i / 100)), EntryKind::File);
            (entry.mode, entry.size) = (0o644, body.len() as u64);
            entry
        })
        .collect();
    let options = LayerOptions { codec, threads: 1, ..LayerOptions::default() };
    bencher.counter(ItemsCount::new(entries.len())).bench_local(|| {
        let mut writer = LayerWriter::new(sink(), &options).unwrap();
        for entry in &entries {
            writer.append(entry, Some(&mut &body[..])).unwrap();
        }
        writer.finish().unwrap().1.diff_id
    });
}

/// A memory of digests, as the store has one.
#[derive(Default)]
struct Memory(Mutex<HashMap<(PathBuf, StatKey), Digest>>);

impl StatCache for Memory {
    fn get(&self, path: &Path, key: &StatKey) -> Option<Digest> {
        self.0.lock().unwrap().get(&(path.to_owned(), *key)).cloned()
    }
    fn put(&self, path: &Path, key: &StatKey, digest: &Digest, _: bool) {
        self.0.lock().unwrap().insert((path.to_owned(), *key), digest.clone());
    }
    fn plain(&self, _: &Path, _: &StatKey) -> Option<[u8; 32]> {
        None
    }
}

/// Looking at 2,000 files: all of them read, and none as none changed.
#[divan::bench(max_time = 2, args = [false, true])]
fn scan_a_context_of_2_000_files(bencher: divan::Bencher<'_, '_>, known: bool) {
    let dir = tempfile::tempdir().unwrap();
    let body = text(2600);
    for i in 0..2000 {
        let path = dir.path().join(format!("d{:02}/file{i:04}.txt", i / 100));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, &body).unwrap();
    }
    let (source, all) = (CopySource::plain(dir.path()), Selector::literal("/"));
    let memory = Memory::default();
    if known {
        // Files that were written just now are not remembered.
        std::thread::sleep(Duration::from_millis(200));
        content_digest(&source, &all, &memory).unwrap();
    }
    let cache: &dyn StatCache = if known { &memory } else { &NoStatCache };
    bencher.counter(ItemsCount::new(2000_usize)).bench_local(|| content_digest(&source, &all, cache).unwrap());
}
