//! How fast it is. Runs small and fast by default, so that the code cannot rot; the numbers in `docs/PERFORMANCE.md` come from
//! `RBUILD_BENCH_FILES=50000 cargo test --release --lib archive::tests::throughput -- --nocapture`.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Instant;

use super::super::{
    ApplyOptions, Dialect, LayerOptions, LayerSummary, LayerWriter, ReadAhead, apply, decompressor, diff_overlay,
    diff_trees,
};
use super::support::temp;
use crate::oci::media_type::Codec;

/// Text that compresses like source code does: words from a small set, numbers in between.
fn text(seed: u64, length: usize) -> Vec<u8> {
    const WORDS: [&str; 24] = [
        "function ",
        "return ",
        "const ",
        "export ",
        "import ",
        "module.",
        "require(",
        "if (",
        ") {\n  ",
        "}\n\n",
        "value",
        "index",
        "length",
        " = ",
        " === ",
        "; ",
        "\n",
        "this.",
        "options",
        "callback",
        "(err, ",
        "undefined",
        "prototype.",
        "string",
    ];
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(length + 32);
    while out.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        if state.is_multiple_of(5) {
            out.extend_from_slice(format!("_{:x}", state as u32 >> 12).as_bytes());
        } else {
            out.extend_from_slice(WORDS[(state >> 40) as usize % WORDS.len()].as_bytes());
        }
    }
    out.truncate(length);
    out
}

fn make_tree(root: &Path, files: u64) {
    for number in 0..files {
        let dir = root.join(format!("node_modules/package-{}/lib/{}", number / 100, number / 10 % 10));
        if number.is_multiple_of(10) {
            fs::create_dir_all(&dir).expect("creates");
        }
        let length = 200 + (number.wrapping_mul(2_654_435_761) % 4_900) as usize;
        fs::write(dir.join(format!("file-{number}.js")), text(number, length)).expect("writes");
    }
}

#[expect(clippy::print_stderr, reason = "numbers are what this is for")]
fn report(what: &str, bytes: u64, started: Instant, note: &str) {
    let seconds = started.elapsed().as_secs_f64();
    eprintln!("{what:<34} {seconds:>6.3} s {:>6.0} MB/s  {note}", bytes as f64 / 1e6 / seconds);
}

fn write(root: &Path, options: &LayerOptions) -> LayerSummary {
    let mut writer = LayerWriter::new(io::sink(), options).expect("valid options");
    diff_trees(None, root, &mut writer).expect("diffs");
    writer.finish().expect("finishes").1
}

#[test]
fn throughput() {
    let files = std::env::var("RBUILD_BENCH_FILES").ok().and_then(|n| n.parse().ok()).unwrap_or(500);
    let temp = temp();
    let root = temp.path().join("tree");
    fs::create_dir(&root).expect("creates");
    make_tree(&root, files);
    let size = write(&root, &super::support::plain()).tar_size;

    let mut choices = vec![(Codec::Uncompressed, None)];
    choices.extend((1..=6).chain([9]).map(|level| (Codec::Gzip, Some(level))));
    choices.extend([1, 3].map(|level| (Codec::Zstd, Some(level))));
    for (codec, level) in choices {
        for threads in [1, 2] {
            let started = Instant::now();
            let summary = write(&root, &LayerOptions { codec, level, threads, ..LayerOptions::default() });
            let ratio = summary.size as f64 * 100.0 / size as f64;
            let what = format!("{codec:?} {} threads {threads}", level.unwrap_or(0));
            report(&what, size, started, &format!("{ratio:.1} % of {} MB", size / 1_000_000));
        }
    }

    let started = Instant::now();
    let mut writer = LayerWriter::new(io::sink(), &super::support::plain()).expect("valid options");
    diff_overlay(&root, &[], &mut writer).expect("diffs");
    let index = writer.finish().expect("finishes").1.index;
    report("diff_overlay, uncompressed", size, started, "");
    let started = Instant::now();
    let stored = index.to_bytes();
    report("index to bytes", stored.len() as u64, started, &format!("{} bytes per entry", stored.len() / index.len()));

    let started = Instant::now();
    let mut writer = LayerWriter::new(io::sink(), &super::support::plain()).expect("valid options");
    let copy = temp.path().join("copy");
    super::support::copy_tree(&root, &copy);
    report("(copying the tree)", size, started, "");
    let started = Instant::now();
    diff_trees(Some(&root), &copy, &mut writer).expect("diffs");
    assert!(writer.finish().expect("finishes").1.index.is_empty());
    report("diff_trees of equal trees", size, started, "");

    let mut writer = LayerWriter::new(Vec::new(), &LayerOptions::default()).expect("valid options");
    diff_trees(None, &root, &mut writer).expect("diffs");
    let (blob, summary) = writer.finish().expect("finishes");
    for dialect in [Dialect::Native, Dialect::Overlay] {
        let target = temp.path().join(format!("{dialect:?}"));
        fs::create_dir(&target).expect("creates");
        let started = Instant::now();
        let plain = decompressor(io::Cursor::new(blob.clone()), Codec::Gzip).expect("starts");
        let applied =
            apply(&mut ReadAhead::new(plain), &target, dialect, &[], &ApplyOptions::default()).expect("applies");
        report(&format!("apply {dialect:?}, gzip"), size, started, "");
        assert_eq!(applied.diff_id, summary.diff_id);
    }
}
