//! Caches in a directory: an OCI layout whose entries are named by a tag (SPEC B4.04, C7.06).
//!
//! An export holds `index.json.lock` from its first blob to the last deletion, so that no other export's blobs are
//! taken for garbage (PAIN 76, 77). What only the replaced cache of the same tag needed is deleted; `reset` deletes
//! everything that no entry needs.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;

use super::document::{Found, examine, mounts_document, mounts_manifest, parse_config, read_image_config};
use super::{CacheBackend, CacheBlob, CacheError, DocumentForm, MountPlace, Moved, Written};
use crate::base::Digest;
use crate::base::file::write_atomic;
use crate::cache::config::{CONFIG_TYPE, CacheConfig};
use crate::cache::import::{Import, Place};
use crate::cache::mounts::SUFFIX;
use crate::oci::layout::{MARKER, MARKER_NAME};
use crate::oci::manifest::{Document, parse_document};
use crate::oci::{Descriptor, Index};
use crate::registry::Progress;
use crate::source::LAYOUT_HOST;

const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The largest document that is read.
const MAX_DOCUMENT: u64 = 64 << 20;
/// How long another export may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// Which entry of a directory is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// The one with this tag.
    Tag(String),
    /// The one with this digest.
    Digest(Digest),
}

/// A cache in a directory.
pub struct LocalCache {
    inner: Arc<Inner>,
}

struct Inner {
    dir: PathBuf,
    entry: Entry,
    form: DocumentForm,
    /// Delete everything that nothing needs, whoever wrote it.
    reset: bool,
    /// Held while an export runs.
    lock: Mutex<Option<File>>,
}

impl LocalCache {
    /// The cache in `dir`, an absolute path.
    #[must_use]
    pub fn new(dir: PathBuf, entry: Entry, form: DocumentForm, reset: bool) -> Self {
        Self { inner: Arc::new(Inner { dir, entry, form, reset, lock: Mutex::default() }) }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, CacheError> + Send + 'static,
    ) -> Result<T, CacheError> {
        let inner = Arc::clone(&self.inner);
        match tokio::task::spawn_blocking(move || work(&inner)).await {
            Ok(result) => result,
            Err(e) => Err(CacheError::new(format!("internal error: {e}"))),
        }
    }
}

fn fail<'a>(attempt: &'a str, path: &'a Path) -> impl Fn(io::Error) -> CacheError + 'a {
    move |e| CacheError {
        missing: e.kind() == io::ErrorKind::NotFound,
        ..CacheError::new(format!("cannot {attempt} {}: {e}", path.display()))
    }
}

impl Inner {
    fn blob(&self, digest: &Digest) -> PathBuf {
        self.dir.join("blobs").join(digest.algorithm()).join(digest.hex())
    }

    /// A document, verified.
    fn read(&self, digest: &Digest) -> Result<Vec<u8>, CacheError> {
        let path = self.blob(digest);
        let mut bytes = Vec::new();
        let file = File::open(&path).map_err(fail("open", &path))?;
        file.take(MAX_DOCUMENT).read_to_end(&mut bytes).map_err(fail("read", &path))?;
        let mut hasher = digest.hasher();
        hasher.update(&bytes);
        if hasher.finish() != *digest {
            return Err(CacheError::new(format!("{} is corrupt", path.display())));
        }
        Ok(bytes)
    }

    fn index(&self) -> Result<Index, CacheError> {
        let path = self.dir.join("index.json");
        let bytes = fs::read(&path).map_err(fail("read", &path))?;
        serde_json::from_slice(&bytes).map_err(|e| CacheError::new(format!("{} is broken: {e}", path.display())))
    }

    fn title(&self) -> String {
        match &self.entry {
            Entry::Tag(tag) => format!("{}:{tag}", self.dir.display()),
            Entry::Digest(digest) => format!("{}@{digest}", self.dir.display()),
        }
    }

    fn load(&self) -> Result<Vec<Import>, CacheError> {
        let digest = match &self.entry {
            Entry::Digest(digest) => digest.clone(),
            Entry::Tag(tag) => self.tagged(tag)?,
        };
        let place = self.place();
        let document =
            parse_document(&self.read(&digest)?, "").map_err(|e| CacheError::new(format!("{}: {e}", self.title())))?;
        match examine(document) {
            Found::Config(config, known) => {
                let config = parse_config(&self.title(), &self.read(&config.digest)?)?;
                Ok(vec![Import::new(&self.title(), place, config, &known)])
            }
            Found::Image(manifest) => {
                let config = self.read(&manifest.config.digest)?;
                Ok(read_image_config(&self.title(), place, &manifest, &config)?.into_iter().collect())
            }
            Found::Documents(_) => Ok(Vec::new()),
        }
    }

    /// Makes the layout and takes its lock, once.
    fn begin(&self) -> Result<(), CacheError> {
        let mut held = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        if held.is_some() {
            return Ok(());
        }
        let blobs = self.dir.join("blobs/sha256");
        fs::create_dir_all(&blobs).map_err(fail("create", &blobs))?;
        let path = self.dir.join("index.json.lock");
        let file = File::options().create(true).append(true).open(&path).map_err(fail("open", &path))?;
        let started = Instant::now();
        while rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err() {
            if started.elapsed() > PATIENCE {
                return Err(CacheError::new(format!("{} is locked by another export", self.dir.display())));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let marker = self.dir.join(MARKER_NAME);
        if !marker.exists() {
            write_atomic(&marker, MARKER).map_err(fail("write", &marker))?;
        }
        *held = Some(file);
        Ok(())
    }

    fn put(&self, blob: &CacheBlob, progress: &Progress) -> Result<Moved, CacheError> {
        self.begin()?;
        let target = self.blob(&blob.descriptor.digest);
        if fs::metadata(&target).is_ok_and(|m| m.len() == blob.descriptor.size) {
            return Ok(Moved::Nothing);
        }
        let what = blob.descriptor.digest.to_string();
        let mut from = blob.source.open().map_err(fail("read blob", Path::new(&what)))?;
        let dir = target.parent().unwrap_or(&self.dir);
        fs::create_dir_all(dir).map_err(fail("create", dir))?;
        let mut temp = tempfile::Builder::new().prefix(".new-").tempfile_in(dir).map_err(fail("write in", dir))?;
        let mut hasher = blob.descriptor.digest.hasher();
        let (mut piece, mut done) = (vec![0; 256 << 10], 0);
        loop {
            let n = from.read(&mut piece).map_err(fail("read blob", Path::new(&what)))?;
            if n == 0 {
                break;
            }
            hasher.update(&piece[..n]);
            temp.write_all(&piece[..n]).map_err(fail("write in", dir))?;
            done += n as u64;
            progress(done);
        }
        if hasher.finish() != blob.descriptor.digest {
            return Err(CacheError::new(format!("blob {what} is corrupt")));
        }
        // Others read the cache as themselves.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        temp.as_file().set_permissions(mode).map_err(fail("write in", dir))?;
        temp.persist(&target).map_err(|e| fail("write", &target)(e.error))?;
        Ok(Moved::Bytes(done))
    }

    fn publish(&self, config: &CacheConfig, blobs: &[CacheBlob]) -> Result<Written, CacheError> {
        self.begin()?;
        let config = self.keep(CONFIG_TYPE, &config.to_json())?;
        let (descriptor, document) = self.form.document(&config, blobs);
        self.keep(&descriptor.media_type, &document)?;
        let name = self.name(self.tag()?.to_owned(), descriptor.clone())?;
        Ok(Written { name, document: Some(descriptor) })
    }

    fn publish_mounts(&self, document: &[u8], packs: &[Descriptor]) -> Result<String, CacheError> {
        self.begin()?;
        let (config, descriptor, manifest) = mounts_manifest(document, packs);
        self.keep(&config.media_type, document)?;
        self.keep(&descriptor.media_type, &manifest)?;
        self.name(format!("{}{SUFFIX}", self.tag()?), descriptor)
    }

    fn tag(&self) -> Result<&str, CacheError> {
        match &self.entry {
            Entry::Tag(tag) => Ok(tag),
            Entry::Digest(_) => Err(CacheError::new("a cache is exported to a tag, not to a digest")),
        }
    }

    /// Writes a document as a blob.
    fn keep(&self, media_type: &str, bytes: &[u8]) -> Result<Descriptor, CacheError> {
        let descriptor = Descriptor::of_bytes(media_type, bytes);
        let path = self.blob(&descriptor.digest);
        write_atomic(&path, bytes).map_err(fail("write", &path))?;
        Ok(descriptor)
    }

    /// Gives a document its tag, deletes what only the one had that had it before, and lets others go on.
    fn name(&self, tag: String, mut descriptor: Descriptor) -> Result<String, CacheError> {
        let mut index = match self.index() {
            Ok(index) => index,
            Err(e) if e.missing => Index::new(Vec::new()),
            Err(e) => return Err(e),
        };
        let tagged = |d: &Descriptor| d.annotations.get(REF_NAME).is_some_and(|t| *t == tag);
        let (old, mut kept): (Vec<Descriptor>, Vec<Descriptor>) = index.manifests.into_iter().partition(tagged);
        let name = format!("{}:{tag}@{}", self.dir.display(), descriptor.digest);
        descriptor.annotations.insert(REF_NAME.into(), tag);
        kept.push(descriptor);
        index.manifests = kept;
        let path = self.dir.join("index.json");
        let bytes = serde_json::to_vec(&index).map_err(|e| CacheError::new(e.to_string()))?;
        write_atomic(&path, &bytes).map_err(fail("write", &path))?;
        self.collect(&index, &old)?;
        *self.lock.lock().unwrap_or_else(PoisonError::into_inner) = None;
        Ok(name)
    }

    /// The digest that a tag has.
    fn tagged(&self, tag: &str) -> Result<Digest, CacheError> {
        let index = self.index()?;
        let entry = index.manifests.iter().find(|e| e.annotations.get(REF_NAME).is_some_and(|t| t == tag));
        entry
            .map(|e| e.digest.clone())
            .ok_or_else(|| CacheError::missing(format!("{} has no cache with tag \"{tag}\"", self.dir.display())))
    }

    fn place(&self) -> Place {
        Place { host: LAYOUT_HOST.into(), repository: self.dir.display().to_string() }
    }

    fn load_mounts(&self, to_replace: bool) -> Result<Vec<u8>, CacheError> {
        let Entry::Tag(tag) = &self.entry else {
            return Err(CacheError::missing(format!(
                "{}: a cache that is named by a digest has no mounts",
                self.title()
            )));
        };
        if to_replace {
            self.begin()?;
        }
        let tag = format!("{tag}{SUFFIX}");
        let title = format!("{}:{tag}", self.dir.display());
        let document = parse_document(&self.read(&self.tagged(&tag)?)?, "");
        let document = document.map_err(|e| CacheError::new(format!("{title}: {e}")))?;
        // That there is no list is no trouble; that a list is not all there is, unless it is replaced anyway.
        self.read(&mounts_document(&title, document)?.digest).map_err(|e| CacheError { missing: to_replace, ..e })
    }

    /// Deletes what no entry needs any more.
    fn collect(&self, index: &Index, old: &[Descriptor]) -> Result<(), CacheError> {
        let needed = self.reachable(&index.manifests);
        let garbage: Vec<PathBuf> = if self.reset {
            let dir = self.dir.join("blobs/sha256");
            let entries = fs::read_dir(&dir).map_err(fail("list", &dir))?.flatten();
            entries.map(|e| e.path()).filter(|p| !needed.contains(p)).collect()
        } else {
            self.reachable(old).into_iter().filter(|p| !needed.contains(p)).collect()
        };
        for path in garbage {
            match fs::remove_file(&path) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(fail("delete", &path)(e)),
            }
        }
        Ok(())
    }

    /// Files of these entries and of everything below them.
    fn reachable(&self, entries: &[Descriptor]) -> HashSet<PathBuf> {
        let mut found = HashSet::new();
        let mut waiting: Vec<Descriptor> = entries.to_vec();
        while let Some(descriptor) = waiting.pop() {
            if !found.insert(self.blob(&descriptor.digest)) {
                continue;
            }
            let document = crate::oci::media_type::is_manifest(&descriptor.media_type)
                || crate::oci::media_type::is_index(&descriptor.media_type);
            let parsed = document.then(|| self.read(&descriptor.digest).ok()).flatten();
            match parsed.and_then(|bytes| parse_document(&bytes, &descriptor.media_type).ok()) {
                Some(Document::Manifest(manifest)) => {
                    waiting.push(manifest.config);
                    waiting.extend(manifest.layers);
                }
                Some(Document::Index(index)) => waiting.extend(index.manifests),
                None => {}
            }
        }
        found
    }
}

#[async_trait]
impl CacheBackend for LocalCache {
    fn title(&self) -> String {
        self.inner.title()
    }

    async fn load(&self) -> Result<Vec<Import>, CacheError> {
        self.blocking(Inner::load).await
    }

    async fn put(&self, blob: &CacheBlob, progress: &Progress) -> Result<Moved, CacheError> {
        let (blob, progress) = (blob.clone(), progress.clone());
        self.blocking(move |inner| inner.put(&blob, &progress)).await
    }

    async fn publish(&self, config: CacheConfig, blobs: &[CacheBlob]) -> Result<Written, CacheError> {
        let blobs = blobs.to_vec();
        self.blocking(move |inner| inner.publish(&config, &blobs)).await
    }

    fn mounts(&self) -> Option<&dyn MountPlace> {
        Some(self)
    }
}

#[async_trait]
impl MountPlace for LocalCache {
    fn place(&self) -> Place {
        self.inner.place()
    }

    async fn load_mounts(&self, to_replace: bool) -> Result<Vec<u8>, CacheError> {
        self.blocking(move |inner| inner.load_mounts(to_replace)).await
    }

    async fn has(&self, blob: &Descriptor) -> Result<bool, CacheError> {
        let blob = blob.clone();
        self.blocking(move |inner| Ok(fs::metadata(inner.blob(&blob.digest)).is_ok_and(|m| m.len() == blob.size))).await
    }

    async fn publish_mounts(&self, document: Vec<u8>, packs: &[Descriptor]) -> Result<String, CacheError> {
        let packs = packs.to_vec();
        self.blocking(move |inner| inner.publish_mounts(&document, &packs)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::DiffId;
    use crate::cache::config::{ConfigLayer, ConfigRecord, ConfigResult};
    use crate::oci::media_type::OCI_LAYER_GZIP;
    use crate::registry::{BlobSource, no_progress};

    fn blob(name: &'static str) -> CacheBlob {
        CacheBlob {
            descriptor: Descriptor::of_bytes(OCI_LAYER_GZIP, name.as_bytes()),
            diff_id: DiffId(Digest::sha256(format!("diff {name}"))),
            created: std::time::SystemTime::UNIX_EPOCH,
            source: BlobSource::bytes(name.as_bytes().into()),
            held_by: Vec::new(),
        }
    }

    fn config(blobs: &[CacheBlob]) -> CacheConfig {
        let layer = |b: &CacheBlob| ConfigLayer { blob: b.descriptor.digest.clone(), parent: -1, annotations: None };
        let record = ConfigRecord {
            results: vec![ConfigResult { layer: 0, created_at: String::new() }],
            chains: Vec::new(),
            digest: Digest::sha256("op"),
            inputs: Vec::new(),
        };
        CacheConfig { layers: blobs.iter().map(layer).collect(), records: vec![record] }
    }

    fn cache(dir: &Path, tag: &str, reset: bool) -> LocalCache {
        LocalCache::new(dir.into(), Entry::Tag(tag.into()), DocumentForm::default(), reset)
    }

    async fn export(cache: &LocalCache, blobs: &[CacheBlob]) -> Result<Written, CacheError> {
        for blob in blobs {
            cache.put(blob, &no_progress()).await?;
        }
        cache.publish(config(blobs), blobs).await
    }

    #[tokio::test]
    async fn b4_04_superseded_blobs_go_and_those_of_others_stay() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("cache");
        export(&cache(&path, "a", false), &[blob("one"), blob("both")]).await.expect("exports");
        export(&cache(&path, "b", false), &[blob("both"), blob("other")]).await.expect("exports");
        fs::write(path.join("blobs/sha256/stray"), "x").expect("writes");
        export(&cache(&path, "a", false), &[blob("two")]).await.expect("exports");
        let has = |name: &str| path.join("blobs/sha256").join(Digest::sha256(name).hex()).exists();
        assert!(!has("one") && has("both") && has("two") && has("other"));
        assert!(path.join("blobs/sha256/stray").exists(), "only reset deletes what is nobody's");
        export(&cache(&path, "a", true), &[blob("two")]).await.expect("exports");
        assert!(!path.join("blobs/sha256/stray").exists() && has("both"));
        assert_eq!(cache(&path, "b", false).load().await.expect("loads").len(), 1);
        let missing = cache(&path, "c", false).load().await.expect_err("is not there");
        assert!(missing.missing, "{missing}");
    }

    // PAIN 77, moby/buildkit#7102: the lock covers the sweep.
    #[tokio::test]
    async fn b4_04_a_reset_waits_for_a_concurrent_export() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("cache");
        let slow = cache(&path, "slow", false);
        slow.put(&blob("early"), &no_progress()).await.expect("puts");
        let other = path.clone();
        let reset = tokio::spawn(async move { export(&cache(&other, "fast", true), &[blob("fast")]).await });
        tokio::time::sleep(Duration::from_millis(100)).await;
        let blobs = [blob("early")];
        slow.publish(config(&blobs), &blobs).await.expect("publishes");
        reset.await.expect("ends").expect("exports");
        assert!(path.join("blobs/sha256").join(Digest::sha256("early").hex()).exists());
        assert_eq!(cache(&path, "slow", false).load().await.expect("loads").len(), 1);
    }
}
