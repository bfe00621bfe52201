//! From a chain of layers and a config to blobs and a manifest (SPEC C6).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};

use super::annotations::Level;
use super::spec::{EpochChoice, ImageOptions};
use super::{ExportContext, ExportError, ImageResult, blocking, fetch};
use crate::archive::estargz::estargz;
use crate::archive::{LayerOptions, decompressor};
use crate::base::{DiffId, Digest};
use crate::oci::manifest::to_json_pretty;
use crate::oci::media_type::{Codec, Family};
use crate::oci::{Descriptor, ImageConfig, Manifest, media_type};
use crate::source::image::ImageSource;
use crate::store::{LayerId, LayerRecord, RemoteBlob};

/// When an image was made (OCI's image specification, annotations).
pub(super) const CREATED: &str = "org.opencontainers.image.created";

/// One platform's image, whose blobs exist, in the store or at least in a registry.
#[derive(Debug, Clone)]
pub struct Assembled {
    /// The manifest's exact bytes.
    pub manifest_bytes: Bytes,
    /// Describes the manifest, with its platform and annotations.
    pub descriptor: Descriptor,
    /// The config's exact bytes.
    pub config_bytes: Bytes,
    /// Describes the config.
    pub config: Descriptor,
    /// The layers, bottom first.
    pub layers: Vec<Layer>,
    /// RFC 3339 time of the image; empty if it has none.
    pub created: String,
}

/// A layer of an image.
#[derive(Debug, Clone)]
pub struct Layer {
    /// In the store.
    pub id: LayerId,
    /// The blob.
    pub descriptor: Descriptor,
    /// Where else the blob is.
    pub remotes: Vec<RemoteBlob>,
}

/// Derives every blob, then config and manifest, and puts the latter two into the store.
pub(super) async fn assemble(
    context: &ExportContext<'_>,
    result: &ImageResult,
    options: &ImageOptions,
    id: &Digest,
) -> Result<Assembled, ExportError> {
    let epoch = epoch(context, options.epoch);
    if options.rewrite_timestamp && epoch.is_none() {
        // SPEC C6.09: there is nothing to rewrite the times to.
        let text = "rewrite-timestamp=true has no effect without SOURCE_DATE_EPOCH";
        context.events.notice("rewrite-timestamp", text);
    }
    let chain: Arc<[LayerId]> = result.chain.clone().into();
    let jobs = (0..chain.len()).map(|at| layer(context, &chain, at, at >= result.base_layers, options, id));
    // A few at a time: each uses several threads itself, and buffers stay bounded.
    let made: Vec<(Layer, DiffId, SystemTime)> = stream::iter(jobs).buffered(2).try_collect().await?;
    let mut config = result.config.clone();
    config.rootfs.kind = "layers".into();
    config.rootfs.diff_ids = made.iter().map(|(_, diff_id, _)| diff_id.clone()).collect();
    let times: Vec<SystemTime> = made.iter().map(|(_, _, created)| *created).collect();
    date(&mut config, &times, epoch, result.dated);
    let created = config.created.clone().unwrap_or_default();
    let config_bytes = config_json(&config);
    let config_descriptor = Descriptor::of_bytes(options.family.config(), &config_bytes);

    let layers: Vec<Layer> = made.into_iter().map(|(layer, _, _)| layer).collect();
    // Docker's manifests have none, and what is asked for by name is another matter.
    let mut annotations = if options.family == Family::Oci { result.annotations.clone() } else { BTreeMap::new() };
    annotations.extend(options.annotations.of(Level::Manifest, Some(&result.platform)));
    if options.created_annotation && !created.is_empty() {
        annotations.entry(CREATED.into()).or_insert_with(|| created.clone());
    }
    let manifest = Manifest {
        schema_version: 2,
        media_type: options.family.manifest().into(),
        artifact_type: None,
        config: config_descriptor.clone(),
        layers: layers.iter().map(|l| l.descriptor.clone()).collect(),
        subject: None,
        annotations,
    };
    let manifest_bytes = to_json_pretty(&manifest);
    let mut descriptor = Descriptor::of_bytes(options.family.manifest(), &manifest_bytes);
    descriptor.annotations = options.annotations.of(Level::ManifestDescriptor, Some(&result.platform));
    descriptor.platform = Some(result.platform.clone());

    let (store, a, b) = (context.store.clone(), config_bytes.clone(), manifest_bytes.clone());
    blocking(move || {
        store.put_blob(&a)?;
        store.put_blob(&b)?;
        Ok(())
    })
    .await?;
    Ok(Assembled {
        manifest_bytes: manifest_bytes.into(),
        descriptor,
        config_bytes: config_bytes.into(),
        config: config_descriptor,
        layers,
        created,
    })
}

/// Configs are compact JSON upstream.
fn config_json(config: &ImageConfig) -> Vec<u8> {
    serde_json::to_vec(config).expect("because image configs have string keys only")
}

async fn layer(
    context: &ExportContext<'_>,
    chain: &Arc<[LayerId]>,
    at: usize,
    new: bool,
    options: &ImageOptions,
    id: &Digest,
) -> Result<(Layer, DiffId, SystemTime), ExportError> {
    let (store, layer) = (context.store.clone(), chain[at].clone());
    let mut record = blocking(move || Ok(store.layer(&layer)?)).await?;
    prefer_named(&mut record, context.source);
    let rewrite = if new && options.rewrite_timestamp { epoch(context, options.epoch) } else { None };
    if options.prefer_nondist
        && let Some(foreign) = foreign(&record, options)
    {
        return Ok(foreign);
    }
    if options.estargz && (new || options.force) {
        return estargz_layer(context, record, &chain[..=at], rewrite, options, id).await;
    }
    if !options.force
        && rewrite.is_none()
        && let Some((descriptor, diff_id)) = existing(&record, options, new)
    {
        let layer = Layer { id: record.id.clone(), descriptor, remotes: record.remotes.clone() };
        return Ok((layer, diff_id, record.created));
    }
    fetch(context, &chain[..=at], id).await?;
    let wanted = LayerOptions {
        codec: options.codec,
        level: options.level,
        epoch: rewrite,
        earlier_too: rewrite.is_some() && options.rewrite_earlier,
        threads: context.threads,
    };
    let (store, part) = (context.store.clone(), chain[..=at].to_vec());
    let blob = blocking(move || Ok(store.derive_blob(&part, &wanted)?)).await?;
    let mut descriptor = Descriptor::new(options.family.layer(blob.codec), blob.digest.clone(), blob.size);
    descriptor.annotations.extend(rewritten(rewrite));
    let layer = Layer { id: record.id.clone(), descriptor, remotes: record.remotes.clone() };
    Ok((layer, blob.diff_id, record.created))
}

/// The blob of a chain's last layer for a cache: compressed as asked if it was made here, else as it is.
pub(super) async fn cache_layer(
    context: &ExportContext<'_>,
    chain: &Arc<[LayerId]>,
    options: &ImageOptions,
    id: &Digest,
) -> Result<(Layer, DiffId, SystemTime), ExportError> {
    let at = chain.len().saturating_sub(1);
    let new = chain.get(at).is_some_and(LayerId::is_committed);
    layer(context, chain, at, new, options, id).await
}

/// The layer as an eStargz, made from its gzip blob. Nothing remembers it: it is made again for each build.
async fn estargz_layer(
    context: &ExportContext<'_>,
    record: LayerRecord,
    chain: &[LayerId],
    epoch: Option<i64>,
    options: &ImageOptions,
    id: &Digest,
) -> Result<(Layer, DiffId, SystemTime), ExportError> {
    fetch(context, chain, id).await?;
    let wanted = LayerOptions {
        codec: Codec::Gzip,
        level: options.level,
        epoch,
        earlier_too: epoch.is_some() && options.rewrite_earlier,
        threads: context.threads,
    };
    let (store, part) = (context.store.clone(), chain.to_vec());
    let blob = blocking(move || Ok(store.derive_blob(&part, &wanted)?)).await?;
    context.source.ensure_blob(&blob.descriptor(), &record.remotes, Some(id)).await?;
    let (store, level) = (context.store.clone(), options.level);
    let (summary, digest, size) = blocking(move || {
        let tar = decompressor(store.open_blob(&blob.digest)?, blob.codec)?;
        let mut sink = store.blob_writer()?;
        let summary = estargz(tar, level, &mut sink)?;
        let (digest, size) = sink.commit(None)?;
        Ok((summary, digest, size))
    })
    .await?;
    let mut descriptor = Descriptor::new(options.family.layer(Codec::Gzip), digest, size);
    descriptor.annotations.insert("containerd.io/snapshot/stargz/toc.digest".into(), summary.toc.to_string());
    descriptor.annotations.insert("io.containers.estargz.uncompressed-size".into(), summary.tar_size.to_string());
    descriptor.annotations.extend(rewritten(epoch));
    // Where the plain blob is does not matter: this one is in no registry yet.
    let layer = Layer { id: record.id, descriptor, remotes: Vec::new() };
    Ok((layer, summary.diff_id, record.created))
}

/// What BuildKit says in a manifest of a layer whose times it rewrote (SPEC C6.09).
fn rewritten(epoch: Option<i64>) -> Option<(String, String)> {
    Some(("buildkit/rewritten-timestamp".to_owned(), epoch?.to_string()))
}

/// The epoch in force for one output.
pub(super) fn epoch(context: &ExportContext<'_>, choice: EpochChoice) -> Option<i64> {
    match choice {
        EpochChoice::OfBuild => context.epoch,
        EpochChoice::Own(epoch) => epoch,
    }
}

/// A base layer that must not be distributed, as it is: with the addresses it can be had from (SPEC E3.12, E4.06).
fn foreign(record: &LayerRecord, options: &ImageOptions) -> Option<(Layer, DiffId, SystemTime)> {
    let remote = record.remotes.iter().find(|r| media_type::is_foreign(&r.descriptor.media_type))?;
    let codec = media_type::layer_codec(&remote.descriptor.media_type)?;
    let descriptor = Descriptor {
        media_type: options.family.foreign_layer(codec).into(),
        annotations: BTreeMap::new(),
        platform: None,
        ..remote.descriptor.clone()
    };
    let layer = Layer { id: record.id.clone(), descriptor, remotes: record.remotes.clone() };
    Some((layer, record.diff_id.clone()?, record.created))
}

/// A blob that can be used as it is: layers of the base as they were pulled, new ones in the codec and level asked for
/// (C6.02).
fn existing(record: &LayerRecord, options: &ImageOptions, new: bool) -> Option<(Descriptor, DiffId)> {
    // Docker's media types know no zstd.
    let allowed = |codec: Codec| options.family == Family::Oci || codec != Codec::Zstd;
    let describe = |codec, digest: &Digest, size| Descriptor::new(options.family.layer(codec), digest.clone(), size);
    let blobs = || record.blobs.iter().filter(|b| record.is_own(b) && allowed(b.codec));
    if new {
        let mut fitting = blobs().filter(|b| b.codec == options.codec && b.level == options.level);
        return fitting.next().map(|b| (describe(b.codec, &b.digest, b.size), b.diff_id.clone()));
    }
    // As pulled, whatever else was derived from it since: the same build must give the same image.
    for remote in &record.remotes {
        let Some(codec) = media_type::layer_codec(&remote.descriptor.media_type).filter(|c| allowed(*c)) else {
            continue;
        };
        if let Some(diff_id) = &record.diff_id {
            return Some((describe(codec, &remote.descriptor.digest, remote.descriptor.size), diff_id.clone()));
        }
    }
    let blob = blobs().min_by_key(|b| (b.codec != options.codec, &b.digest))?;
    Some((describe(blob.codec, &blob.digest, blob.size), blob.diff_id.clone()))
}

/// Puts those of a layer's blobs first that images of this build name. Images share layers and compress them differently; an image keeps
/// the blobs of the one that it builds upon, whichever of them was pulled before (SPEC C6.02).
pub(super) fn prefer_named(record: &mut LayerRecord, source: &ImageSource) {
    record.remotes.sort_by_key(|remote| !source.is_of_an_image(&remote.descriptor.digest));
}

/// The blob that an image will have for a layer, if that is certain before the image is known: in it, the layer may turn out to
/// be the base's, or new, which is treated differently.
pub(super) fn settled(record: &LayerRecord, options: &ImageOptions, base: bool) -> Option<Descriptor> {
    if (options.estargz && (!base || options.force)) || (options.rewrite_timestamp && !base) {
        return None;
    }
    if options.prefer_nondist && foreign(record, options).is_some() {
        return None;
    }
    let as_new = existing(record, options, true);
    if options.force {
        return as_new.map(|(descriptor, _)| descriptor);
    }
    let as_base = existing(record, options, false);
    (base || as_new == as_base).then_some(as_base)?.map(|(descriptor, _)| descriptor)
}

/// Fills in the times of config and history: a layer's entry has the layer's time, the others that of the entry before
/// them, so that an unchanged build gives the same bytes (SPEC C6.06, C6.09). An image without any layer has no time, as with
/// BuildKit: nothing but the clock could tell it. `dated` is the time that the front end gave new entries; the epoch of the output
/// takes the place of a later one.
fn date(config: &mut ImageConfig, layers: &[SystemTime], epoch: Option<i64>, dated: Option<i64>) {
    let new = match (epoch, dated) {
        (Some(epoch), Some(dated)) => Some(epoch.min(dated)),
        (epoch, dated) => epoch.or(dated),
    };
    let cap = |time: SystemTime| match new {
        Some(seconds) => rfc3339_seconds(seconds),
        None => rfc3339(time),
    };
    let mut times = layers.iter();
    let mut last: Option<String> = None;
    let first = match layers.first() {
        Some(time) => Some(cap(*time)),
        None => new.map(rfc3339_seconds),
    };
    for entry in &mut config.history {
        let time = if entry.empty_layer { None } else { times.next() };
        if entry.created.is_none() {
            entry.created = match (time, &last) {
                (Some(time), _) => Some(cap(*time)),
                (None, Some(last)) if new.is_none() => Some(last.clone()),
                (None, _) => first.clone(),
            };
        }
        last.clone_from(&entry.created);
    }
    config.created = match epoch {
        Some(seconds) => Some(rfc3339_seconds(seconds)),
        None => last.or(first),
    };
}

fn rfc3339(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time).map_or_else(|_| rfc3339_seconds(0), |t| t.to_string())
}

fn rfc3339_seconds(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::UNIX_EPOCH).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::History;
    use std::time::Duration;

    fn entry(empty: bool, created: Option<&str>) -> History {
        History { empty_layer: empty, created: created.map(Into::into), ..History::default() }
    }

    #[test]
    fn c6_06_times_come_from_layers() {
        let at = |s| SystemTime::UNIX_EPOCH + Duration::from_secs(s);
        let history =
            vec![entry(false, Some("2020-01-01T00:00:00Z")), entry(true, None), entry(false, None), entry(true, None)];
        let mut config = ImageConfig { history, ..ImageConfig::default() };
        date(&mut config, &[at(1), at(60)], None, None);
        let times: Vec<_> = config.history.iter().filter_map(|h| h.created.as_deref()).collect();
        assert_eq!(
            times,
            ["2020-01-01T00:00:00Z", "2020-01-01T00:00:00Z", "1970-01-01T00:01:00Z", "1970-01-01T00:01:00Z"]
        );
        assert_eq!(config.created.as_deref(), Some("1970-01-01T00:01:00Z"));
    }

    #[test]
    fn c6_06_an_image_without_layers_has_no_time_but_that_of_an_epoch() {
        let dated = |epoch: Option<i64>, front_end: Option<i64>| {
            let mut config = ImageConfig { history: vec![entry(true, None)], ..ImageConfig::default() };
            date(&mut config, &[], epoch, front_end);
            (config.history.pop().and_then(|entry| entry.created), config.created)
        };
        let five = Some("1970-01-01T00:00:05Z".to_owned());
        assert_eq!(dated(None, None), (None, None));
        assert_eq!(dated(Some(5), None), (five.clone(), five.clone()));
        assert_eq!(dated(None, Some(5)), (five.clone(), five));
    }

    #[test]
    fn c6_09_an_epoch_sets_new_entries_and_keeps_the_base() {
        let history = vec![entry(false, Some("2020-01-01T00:00:00Z")), entry(false, None), entry(true, None)];
        let mut config = ImageConfig { history, ..ImageConfig::default() };
        date(&mut config, &[SystemTime::now(), SystemTime::now()], Some(5), None);
        let times: Vec<_> = config.history.iter().filter_map(|h| h.created.as_deref()).collect();
        assert_eq!(times, ["2020-01-01T00:00:00Z", "1970-01-01T00:00:05Z", "1970-01-01T00:00:05Z"]);
        assert_eq!(config.created.as_deref(), Some("1970-01-01T00:00:05Z"));
    }

    #[test]
    fn c6_09_an_output_without_an_epoch_keeps_the_times_of_the_front_end() {
        let dated = |epoch: Option<i64>| {
            let history = vec![entry(false, Some("2020-01-01T00:00:00Z")), entry(false, None), entry(true, None)];
            let mut config = ImageConfig { history, ..ImageConfig::default() };
            date(&mut config, &[SystemTime::now(), SystemTime::now()], epoch, Some(5));
            let last = config.history.pop().and_then(|entry| entry.created).unwrap_or_default();
            (last, config.created.unwrap_or_default())
        };
        let (five, three, nine) = ("1970-01-01T00:00:05Z", "1970-01-01T00:00:03Z", "1970-01-01T00:00:09Z");
        assert_eq!(dated(None), (five.into(), five.into()));
        assert_eq!(dated(Some(3)), (three.into(), three.into()), "an earlier one is the output's");
        assert_eq!(dated(Some(9)), (five.into(), nine.into()), "a later one changes no entry");
    }
}
