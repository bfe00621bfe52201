//! Digests that must not change by accident: every image ever built would be pushed again.
//!
//! When one does change on purpose, `block::ENCODER_VERSION` goes up and `docs/STATE.md` says why.

use super::super::entry::{Entry, EntryKind, Timestamp};
use super::super::writer::LayerOptions;
use super::support::layer;
use crate::base::Digest;
use crate::oci::media_type::Codec;

/// Every kind of entry, every reason for a PAX record, enough bytes for several blocks.
fn sample() -> Vec<(Entry, Vec<u8>)> {
    let mut out = Vec::new();
    let mut add = |mut entry: Entry, content: &[u8]| {
        if entry.kind != EntryKind::Whiteout {
            entry.mtime = Timestamp::seconds(1_700_000_000 + out.len() as i64);
        }
        out.push((entry, content.to_vec()));
    };
    add(Entry::dir("dir", 0o755), b"");
    add(Entry::file("dir/empty", 0o600, 0), b"");
    add(Entry::file("dir/hello", 0o4755, 6), b"hello\n");
    add(Entry::hardlink("dir/hello2", "dir/hello"), b"");
    add(Entry::symlink("dir/link", "/absolute/target"), b"");
    add(Entry::whiteout("dir/removed"), b"");
    add(Entry { device: (1, 3), mode: 0o666, ..Entry::new("dir/null", EntryKind::Char) }, b"");
    add(Entry { device: (7, 300), ..Entry::new("dir/loop", EntryKind::Block) }, b"");
    add(Entry { mode: 0o644, ..Entry::new("dir/pipe", EntryKind::Fifo) }, b"");
    let mut owned = Entry::file("dir/owned", 0o644, 1);
    (owned.uid, owned.gid) = (1000, 4_000_000);
    owned.xattrs.insert(b"user.name".to_vec(), b"value\0with a NUL".to_vec());
    owned
        .xattrs
        .insert(b"security.capability".to_vec(), vec![1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    add(owned, b"x");
    add(Entry::file(format!("dir/{}", "n".repeat(120)), 0o644, 0), b"");
    add(Entry::file("dir/ünïcode", 0o644, 0), b"");
    for number in 0..600_u32 {
        let text =
            format!("file {number} says {}\n", number.wrapping_mul(2_654_435_761)).repeat(50 + number as usize % 90);
        add(Entry::file(format!("many/f{number:04}"), 0o644, text.len() as u64), text.as_bytes());
    }
    let mut state = 1_u32;
    let noise: Vec<u8> = (0..1_500_000)
        .map(|i| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            if i % 3 == 0 { b' ' } else { (state >> 24) as u8 }
        })
        .collect();
    add(Entry::file("noise", 0o644, noise.len() as u64), &noise);
    let precise = out.len() - 1;
    out[precise].0.mtime = Timestamp { secs: 1_700_000_000, nanos: 123_456_789 };
    out
}

fn digests(options: &LayerOptions) -> (String, String) {
    let sample = sample();
    let borrowed: Vec<(Entry, &[u8])> = sample.iter().map(|(e, c)| (e.clone(), c.as_slice())).collect();
    let (bytes, summary) = layer(&borrowed, options);
    assert_eq!(Digest::sha256(&bytes), summary.blob);
    assert_eq!(bytes.len() as u64, summary.size);
    (summary.diff_id.to_string(), summary.blob.short().to_owned())
}

#[test]
fn c6_08_the_empty_layer_is_the_well_known_one() {
    let (bytes, summary) = layer(&[], &super::support::plain());
    assert_eq!(bytes, [0; 1024]);
    assert_eq!(summary.diff_id.to_string(), "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef");
    assert_eq!(summary.blob, summary.diff_id.0);
    assert!(summary.index.is_empty());
}

#[test]
fn the_encoders_output_is_pinned() {
    let mut out = String::new();
    for (codec, level) in [
        (Codec::Uncompressed, None),
        (Codec::Gzip, None),
        (Codec::Gzip, Some(0)),
        (Codec::Gzip, Some(1)),
        (Codec::Gzip, Some(6)),
        (Codec::Gzip, Some(9)),
        (Codec::Zstd, None),
        (Codec::Zstd, Some(1)),
        (Codec::Zstd, Some(10)),
    ] {
        let (diff_id, blob) = digests(&LayerOptions { codec, level, threads: 2, ..LayerOptions::default() });
        out.push_str(&format!("{codec:?} {level:?}: {} {blob}\n", &diff_id[..19]));
    }
    insta::assert_snapshot!(out);
}

#[test]
fn threads_do_not_change_a_byte() {
    for codec in [Codec::Uncompressed, Codec::Gzip, Codec::Zstd] {
        let one = digests(&LayerOptions { codec, threads: 1, ..LayerOptions::default() });
        for threads in [2, 3, 8, 64] {
            assert_eq!(
                one,
                digests(&LayerOptions { codec, threads, ..LayerOptions::default() }),
                "{codec:?} {threads}"
            );
        }
    }
}

#[test]
fn c6_09_an_epoch_clamps_newer_times_only() {
    let old = Entry { mtime: Timestamp { secs: 99, nanos: 5 }, ..Entry::file("a", 0o644, 0) };
    let new = Entry { mtime: Timestamp { secs: 100, nanos: 1 }, ..Entry::file("b", 0o644, 0) };
    let options = LayerOptions { epoch: Some(100), ..super::support::plain() };
    let (_, summary) = layer(&[(old.clone(), b""), (new, b""), (Entry::whiteout("c"), b"")], &options);
    let times: Vec<Timestamp> = summary.index.iter().map(|found| found.entry.mtime).collect();
    assert_eq!(times, [old.mtime, Timestamp::seconds(100), Timestamp::seconds(0)]);
}
