//! Blocks of an earlier layer in a new one.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::super::block::block_lengths;
use super::super::checksum::Checksum;
use super::super::writer::{LayerOptions, LayerSummary, LayerWriter};
use super::super::{BlockKey, BlockSource, Entry};
use crate::oci::media_type::Codec;

#[derive(Default)]
struct Blocks {
    known: HashMap<BlockKey, (Vec<u8>, Checksum)>,
    found: AtomicUsize,
}

impl BlockSource for Blocks {
    fn find(&self, key: &BlockKey, out: &mut Vec<u8>) -> Option<Checksum> {
        let (bytes, sum) = self.known.get(key)?;
        out.extend_from_slice(bytes);
        self.found.fetch_add(1, Ordering::Relaxed);
        Some(*sum)
    }
}

/// Some hundred files and a large one; `changed` has other content.
fn layer(changed: Option<usize>, options: &LayerOptions, source: Option<Arc<Blocks>>) -> (Vec<u8>, LayerSummary) {
    let mut writer = LayerWriter::new(Vec::new(), options).expect("valid options");
    if let Some(source) = source {
        writer = writer.reuse(source);
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
        for block in &summary.blocks {
            let bytes = &old[block.offset as usize..][..block.size as usize];
            blocks.known.insert(block.key, (bytes.to_vec(), block.sum));
        }
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
