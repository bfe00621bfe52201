//! From a layer's directory, or another of its blobs, to the blob somebody asked for.
//!
//! A pulled blob is authoritative: its stream is never made again from a directory, only compressed again. A committed
//! layer gets its diff ID when its stream is first made; a stream made again must have the same.

use std::io::Read;

use crate::archive::block::{Encoder, MAX_BLOCK, Method, Trailer, block_lengths};
use crate::archive::{ArchiveError, EntryKind, LayerOptions, LayerSummary, LayerWriter, TreeIndex, decompressor};
use crate::base::digest::Hasher;
use crate::base::{DiffId, Digest};
use crate::oci::Descriptor;
use crate::oci::media_type::Codec;

use super::layer::{insert_blob, insert_layer, insert_remote, new_id, own_media_type};
use super::lock::{FileLock, Mode};
use super::{BlobWriter, LayerBlob, LayerId, LayerRecord, Store, StoreError, blocks};

impl Store {
    /// A blob of the last layer of `chain` as `options` ask: an existing one if it fits, else one written from the
    /// layer's directory, or compressed again from another blob.
    ///
    /// A *pulled* blob that fits is returned even if its bytes are only in a registry ([`Store::has_blob`] tells,
    /// [`LayerRecord::remotes`] says where): who only pushes does not need them.
    ///
    /// # Errors
    /// [`StoreError::NotLocal`] if something has to be downloaded first, [`StoreError::DiffIdMismatch`] if the
    /// directory does not give the recorded stream any more.
    pub fn derive_blob(&self, chain: &[LayerId], options: &LayerOptions) -> Result<LayerBlob, StoreError> {
        let Some((id, below)) = chain.split_last() else {
            return Err(StoreError::Misuse("a blob of an empty chain was asked for".into()));
        };
        let options = LayerOptions { level: options.level.filter(|level| *level != -1), ..options.clone() };
        let _lease = self.lease()?;
        self.mark_chain(chain)?;
        if let Some(blob) = self.fitting(&self.layer(id)?, &options)? {
            return Ok(blob);
        }
        // One process does the work, the others then find it done.
        let name = format!("derive-{}", &Digest::sha256(&id.0).hex()[..32]);
        let _lock = FileLock::wait(&self.inner.layout.locks().join("layer").join(name), Mode::Exclusive)?;
        let record = self.layer(id)?;
        if let Some(blob) = self.fitting(&record, &options)? {
            return Ok(blob);
        }
        let committed = is_committed(&record);
        let parents = if committed { &record.parents } else { below };
        let mut own_chain = parents.to_vec();
        own_chain.push(id.clone());
        let plain = self.local_plain(&record)?;
        let has_dir = self.find_dir(&own_chain)?.is_some();
        // A layer's directory has just what a blob needs; in a whole tree that has to be looked for.
        let from_blob = !committed || !has_dir || !self.snapshotter()?.per_layer();
        match plain {
            Some(plain) if options.epoch.is_none() && from_blob => self.recompress(id, &plain, &options),
            Some(plain) if committed && !has_dir => match self.tree_index(id)? {
                Some(index) if index.iter().map(|found| found.offset).is_sorted() => {
                    self.restamp(id, &plain, &index, &options)
                }
                _ => self.pack(&record, &own_chain, &options),
            },
            // Times have to be changed: unpacking and packing is the way, for pulled layers too.
            Some(_) => self.pack(&record, &own_chain, &options),
            None if has_dir && (committed || options.epoch.is_some()) => self.pack(&record, &own_chain, &options),
            None => Err(StoreError::NotLocal { id: id.clone() }),
        }
    }

    /// A new layer on top of `parents` that exists as a blob alone: `write` says what is in it. A directory is made from the
    /// blob when somebody needs one.
    ///
    /// # Errors
    /// What `write` says, or the file system; nothing is kept then.
    pub fn write_layer<E: From<StoreError>>(
        &self,
        parents: &[LayerId],
        description: &str,
        options: &LayerOptions,
        write: impl FnOnce(&mut LayerWriter<BlobWriter>) -> Result<(), E>,
    ) -> Result<LayerId, E> {
        let options = LayerOptions { level: options.level.filter(|level| *level != -1), ..options.clone() };
        let id = new_id()?;
        let archive =
            |source: ArchiveError| StoreError::Archive { action: "pack", id: id.clone(), source: Box::new(source) };
        let sink = self.known_blob_writer()?;
        let mut writer = LayerWriter::new(sink, &options).map_err(archive)?.reuse(self.blocks(), true);
        write(&mut writer)?;
        let (sink, summary) = writer.finish().map_err(archive)?;
        self.keep_index(&summary.diff_id.0, &summary.index)?;
        let (digest, size) = sink.commit_as(&summary.blob, summary.size)?;
        let blob = own_blob(digest, size, summary.diff_id.clone(), &options);
        self.inner.meta.write("add a layer", |tx| {
            insert_layer(tx, &id, description, parents, Some(&blob.diff_id))?;
            insert_blob(tx, &id, &blob)?;
            blocks::note(tx, &blob.digest, &summary)?;
            Ok(())
        })?;
        Ok(id)
    }

    /// Remembers that a registry has a blob of the layer, e.g. after a push.
    ///
    /// # Errors
    /// If the metadata cannot be written.
    pub fn add_remote(
        &self,
        id: &LayerId,
        host: &str,
        repository: &str,
        descriptor: &Descriptor,
    ) -> Result<(), StoreError> {
        self.inner.meta.write("remember a remote", |tx| insert_remote(tx, id, host, repository, descriptor))
    }

    /// The untransformed, uncompressed stream of a committed layer as a blob, for the native snapshotter's merges.
    pub(crate) fn derive_plain(&self, record: &LayerRecord) -> Result<LayerBlob, StoreError> {
        let mut chain = record.parents.clone();
        chain.push(record.id.clone());
        self.derive_blob(&chain, &LayerOptions { codec: Codec::Uncompressed, ..LayerOptions::default() })
    }

    /// A known blob that is what `options` ask for.
    fn fitting(&self, record: &LayerRecord, options: &LayerOptions) -> Result<Option<LayerBlob>, StoreError> {
        if options.earlier_too {
            return Ok(None);
        }
        let fits = |blob: &&LayerBlob| {
            let times = blob.epoch == options.epoch || (options.epoch.is_none() && record.is_own(blob));
            blob.codec == options.codec && times && blob.level == options.level
        };
        for blob in record.blobs.iter().filter(fits) {
            if self.has_blob(&blob.digest)?.is_some() {
                return Ok(Some(blob.clone()));
            }
        }
        if is_committed(record) {
            return Ok(None);
        }
        let remote = |blob: &&LayerBlob| record.remotes.iter().any(|r| r.descriptor.digest == blob.digest);
        Ok(record.blobs.iter().filter(fits).find(remote).cloned())
    }

    fn local_plain(&self, record: &LayerRecord) -> Result<Option<LayerBlob>, StoreError> {
        for blob in record.blobs.iter().filter(|blob| record.is_own(blob)) {
            if self.has_blob(&blob.digest)?.is_some() {
                return Ok(Some(blob.clone()));
            }
        }
        Ok(None)
    }

    /// Packs the directory for the top of `chain`.
    fn pack(&self, record: &LayerRecord, chain: &[LayerId], options: &LayerOptions) -> Result<LayerBlob, StoreError> {
        let id = &record.id;
        let archive =
            |source: ArchiveError| StoreError::Archive { action: "pack", id: id.clone(), source: Box::new(source) };
        let (_, parents) = chain.split_last().unwrap_or((id, &[]));
        let _held = self.materialise(chain)?;
        let dir = self.find_dir(chain)?.ok_or_else(|| StoreError::NotLocal { id: id.clone() })?;
        let (_below, against) = self.against(chain, &dir, parents)?;
        let sink = self.known_blob_writer()?;
        let mut writer = LayerWriter::new(sink, options).map_err(archive)?.reuse(self.blocks(), false);
        let snapshotter = self.snapshotter()?;
        // Of a tree that is changed in place later, digests are all that tells whether a file has the same content.
        if snapshotter.per_layer() {
            writer = writer.without_large_digests();
        }
        let stats = snapshotter.pack(&dir.path, against, &mut writer).map_err(archive)?;
        let (sink, summary) = writer.finish().map_err(archive)?;
        if let (None, Some(recorded)) = (options.epoch, &record.diff_id)
            && *recorded != summary.diff_id
        {
            return Err(StoreError::DiffIdMismatch {
                id: id.clone(),
                what: format!("directory {}", dir.path.display()),
                expected: recorded.clone(),
                actual: summary.diff_id,
            });
        }
        self.announce(&stats.notes);
        if options.epoch.is_none() {
            self.keep_index(&summary.diff_id.0, &summary.index)?;
        }
        self.add_layer_blob(id, sink, summary, options)
    }

    fn add_layer_blob(
        &self,
        id: &LayerId,
        sink: BlobWriter,
        summary: LayerSummary,
        options: &LayerOptions,
    ) -> Result<LayerBlob, StoreError> {
        let (digest, size) = sink.commit_as(&summary.blob, summary.size)?;
        let blob = own_blob(digest, size, summary.diff_id.clone(), options);
        // What all times are set to is nothing that is remembered of a blob: it is made again for each build.
        if !options.earlier_too {
            self.note_layer_blob(id, &blob, Some(&summary))?;
        }
        Ok(blob)
    }

    fn note_layer_blob(&self, id: &LayerId, blob: &LayerBlob, packed: Option<&LayerSummary>) -> Result<(), StoreError> {
        self.inner.meta.write("note a layer's blob", |tx| {
            insert_blob(tx, id, blob)?;
            if let Some(packed) = packed {
                blocks::note(tx, &blob.digest, packed)?;
            }
            if blob.epoch.is_none() {
                tx.execute(
                    "UPDATE layers SET diff_id = ?2 WHERE id = ?1 AND diff_id IS NULL",
                    (&id.0, blob.diff_id.to_string()),
                )?;
            }
            Ok(())
        })
    }

    /// The entries of a layer made here, with other times: what packing its directory would give.
    fn restamp(
        &self,
        id: &LayerId,
        from: &LayerBlob,
        index: &TreeIndex,
        options: &LayerOptions,
    ) -> Result<LayerBlob, StoreError> {
        let archive =
            |source: ArchiveError| StoreError::Archive { action: "pack", id: id.clone(), source: Box::new(source) };
        let mut tar = decompressor(self.open_blob(&from.digest)?, from.codec).map_err(archive)?;
        let mut writer = LayerWriter::new(self.known_blob_writer()?, options).map_err(archive)?;
        let mut at = 0;
        for found in index.iter() {
            let size = found.entry.size;
            if found.entry.kind != EntryKind::File || size == 0 {
                writer.append(&found.entry, None).map_err(archive)?;
                continue;
            }
            let gap = found.data_offset.saturating_sub(at);
            std::io::copy(&mut (&mut tar).take(gap), &mut std::io::sink())
                .map_err(|e| archive(ArchiveError::Source(e)))?;
            writer.append(&found.entry, Some(&mut (&mut tar).take(size))).map_err(archive)?;
            at = found.data_offset + size;
        }
        let (sink, summary) = writer.finish().map_err(archive)?;
        self.add_layer_blob(id, sink, summary, options)
    }

    /// The same stream, byte for byte, compressed otherwise.
    fn recompress(&self, id: &LayerId, from: &LayerBlob, options: &LayerOptions) -> Result<LayerBlob, StoreError> {
        let archive =
            |source: ArchiveError| StoreError::Archive { action: "compress", id: id.clone(), source: Box::new(source) };
        let mut tar = decompressor(self.open_blob(&from.digest)?, from.codec).map_err(archive)?;
        let mut writer = self.blob_writer()?;
        let method = Method::new(options.codec, options.level).map_err(archive)?;
        // A layer made here has the same bytes whether it is packed or compressed again: blocks end where entries say.
        let index = if id.is_committed() { self.tree_index(id)? } else { None };
        let lengths = index.as_ref().map(block_lengths).unwrap_or_default();
        let actual = compress(&mut tar, method, &lengths, &mut writer).map_err(archive)?;
        if actual != from.diff_id {
            return Err(StoreError::DiffIdMismatch {
                id: id.clone(),
                what: format!("blob {}", from.digest),
                expected: from.diff_id.clone(),
                actual,
            });
        }
        let (digest, size) = writer.commit(None)?;
        let blob = LayerBlob {
            digest,
            size,
            codec: options.codec,
            level: options.level,
            media_type: own_media_type(options.codec),
            ..from.clone()
        };
        self.note_layer_blob(id, &blob, None)?;
        Ok(blob)
    }
}

fn own_blob(digest: Digest, size: u64, diff_id: DiffId, options: &LayerOptions) -> LayerBlob {
    LayerBlob {
        digest,
        size,
        codec: options.codec,
        level: options.level,
        epoch: options.epoch,
        diff_id,
        media_type: own_media_type(options.codec),
    }
}

/// Whether the layer was made here, so that its stream is what its directory gives.
fn is_committed(record: &LayerRecord) -> bool {
    record.id.is_committed()
}

/// Compresses a stream in blocks of these lengths, and what follows in blocks of a fixed one. The bytes of a foreign tar are
/// kept whatever they are.
fn compress(
    tar: &mut dyn Read,
    method: Method,
    lengths: &[usize],
    out: &mut BlobWriter,
) -> Result<DiffId, ArchiveError> {
    use std::io::Write;
    let mut encoder = Encoder::new(method).map_err(ArchiveError::Sink)?;
    let mut trailer = Trailer::new(method);
    let mut hasher = Hasher::default();
    let (mut block, mut packed) = (Vec::with_capacity(MAX_BLOCK), Vec::new());
    out.write_all(method.head()).map_err(ArchiveError::Sink)?;
    let mut lengths = lengths.iter().copied();
    loop {
        block.clear();
        let length = lengths.next().unwrap_or(MAX_BLOCK);
        tar.take(length as u64).read_to_end(&mut block).map_err(ArchiveError::Source)?;
        if block.is_empty() {
            break;
        }
        hasher.update(&block);
        let sum = encoder.encode(&block, &mut packed).map_err(ArchiveError::Sink)?;
        trailer.add(sum);
        out.write_all(&packed).map_err(ArchiveError::Sink)?;
    }
    out.write_all(&trailer.finish()).map_err(ArchiveError::Sink)?;
    Ok(DiffId(hasher.finish()))
}
