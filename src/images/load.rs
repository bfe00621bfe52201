//! Archives and layout directories into the store (SPEC B8.15): OCI, and Docker's with or without an index.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Component, Path, PathBuf};

use super::parts::Parts;
use super::{ImageError, Images};
use crate::archive;
use crate::base::Digest;
use crate::oci::media_type::{self, Codec, Family};
use crate::oci::{Descriptor, ImageConfig, Index, Manifest, Reference};
use crate::store::{Store, StoreError};

/// Larger documents are refused.
const MAX_DOCUMENT: u64 = 32 << 20;
/// Annotations that name an image in a layout, the better one first.
const NAMES: [&str; 2] = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];

/// An image that was loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// What it is.
    pub descriptor: Descriptor,
    /// Names it got.
    pub names: Vec<Reference>,
}

/// One entry of Docker's `manifest.json`.
#[derive(serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerEntry {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// What came out of an archive: every file is a blob of the store now.
#[derive(Default)]
struct Contents {
    files: HashMap<PathBuf, (Digest, u64)>,
    links: HashMap<PathBuf, PathBuf>,
}

impl Images {
    /// Loads every image of an archive or a layout directory.
    ///
    /// # Errors
    /// If it is neither, or something in it is missing or not what its digest promises. Nothing has a name then.
    pub fn load(&self, path: &Path) -> Result<Vec<Loaded>, ImageError> {
        self.named(self.read(path)?)
    }

    /// The same without a name for anything: what nobody names is kept as long as there is a lease on the store.
    ///
    /// # Errors
    /// As [`Images::load`].
    pub fn read(&self, path: &Path) -> Result<Vec<Loaded>, ImageError> {
        if path.is_dir() {
            return self.load_contents(path, &directory(&self.store, path)?);
        }
        let file = File::open(path).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => ImageError::NoArchive(path.to_owned()),
            _ => ImageError::io("open", path)(e),
        })?;
        self.read_stream(path, file)
    }

    /// The same from a stream; `shown` is its name in messages.
    ///
    /// # Errors
    /// As [`Images::load`].
    pub fn load_stream(&self, shown: &Path, stream: impl Read + Send + 'static) -> Result<Vec<Loaded>, ImageError> {
        self.named(self.read_stream(shown, stream)?)
    }

    fn read_stream(&self, shown: &Path, stream: impl Read + Send + 'static) -> Result<Vec<Loaded>, ImageError> {
        let broken = |reason: String| ImageError::Archive { path: shown.to_owned(), reason };
        // What the bytes are compressed with is seen from the bytes.
        let plain = archive::decompressor(stream, Codec::Uncompressed).map_err(|e| broken(e.to_string()))?;
        let contents = tarball(&self.store, shown, plain)?;
        self.load_contents(shown, &contents)
    }

    fn load_contents(&self, shown: &Path, contents: &Contents) -> Result<Vec<Loaded>, ImageError> {
        let index: Option<Index> = contents.document(&self.store, shown, "index.json")?;
        let entries: Option<Vec<DockerEntry>> = contents.document(&self.store, shown, "manifest.json")?;
        match (index, entries) {
            (Some(index), entries) => self.of_index(shown, &index, entries.unwrap_or_default()),
            (None, Some(entries)) => self.of_docker(shown, contents, entries),
            (None, None) => Err(ImageError::Archive {
                path: shown.to_owned(),
                reason: "it has neither index.json nor manifest.json".into(),
            }),
        }
    }

    fn named(&self, found: Vec<Loaded>) -> Result<Vec<Loaded>, ImageError> {
        for image in &found {
            for name in &image.names {
                self.store.tag_image(name, &image.descriptor)?;
            }
        }
        Ok(found)
    }

    fn of_index(&self, shown: &Path, index: &Index, entries: Vec<DockerEntry>) -> Result<Vec<Loaded>, ImageError> {
        let mut found: Vec<Loaded> = Vec::new();
        for descriptor in &index.manifests {
            let parts = Parts::collect(&self.store, descriptor)?;
            for blob in parts.layers.iter().chain(&parts.configs) {
                if self.store.has_blob(&blob.digest)?.is_none() {
                    return Err(ImageError::Archive {
                        path: shown.to_owned(),
                        reason: format!("blob {} is missing", blob.digest),
                    });
                }
            }
            let mut names = name_of(descriptor);
            // Docker's list has the whole names where the index has tags only.
            let tagged = entries.iter().filter(|e| parts.configs.iter().any(|c| e.config.contains(c.digest.hex())));
            for tag in tagged.flat_map(|e| e.repo_tags.iter().flatten()) {
                let reference: Reference = tag.parse().map_err(|e| bad_name(shown, tag, &e))?;
                if !names.contains(&reference) {
                    names.push(reference);
                }
            }
            let clean = Descriptor::new(descriptor.media_type.clone(), descriptor.digest.clone(), descriptor.size);
            match found.iter_mut().find(|known| known.descriptor.digest == clean.digest) {
                Some(known) => {
                    known.names.extend(names.into_iter().filter(|n| !known.names.contains(n)).collect::<Vec<_>>())
                }
                None => found.push(Loaded { descriptor: clean, names }),
            }
        }
        Ok(found)
    }

    /// Archives of old Docker engines have no manifest: one is made.
    fn of_docker(
        &self,
        shown: &Path,
        contents: &Contents,
        entries: Vec<DockerEntry>,
    ) -> Result<Vec<Loaded>, ImageError> {
        let broken = |reason: String| ImageError::Archive { path: shown.to_owned(), reason };
        let mut found = Vec::new();
        for entry in entries {
            let part =
                |name: &str| contents.find(Path::new(name)).ok_or_else(|| broken(format!("\"{name}\" is missing")));
            let (config, size) = part(&entry.config)?;
            let text = self.store.read_blob(&config)?;
            let parsed: ImageConfig =
                serde_json::from_slice(&text).map_err(|e| broken(format!("\"{}\": {e}", entry.config)))?;
            if parsed.rootfs.diff_ids.len() != entry.layers.len() {
                return Err(broken(format!(
                    "the config has {} layers, manifest.json {}",
                    parsed.rootfs.diff_ids.len(),
                    entry.layers.len()
                )));
            }
            let mut layers = Vec::new();
            for (name, diff_id) in entry.layers.iter().zip(&parsed.rootfs.diff_ids) {
                let (digest, size) = part(name)?;
                let mut head = Vec::new();
                let blob = self.store.open_blob(&digest)?;
                blob.take(6).read_to_end(&mut head).map_err(ImageError::io("read", shown))?;
                let codec = media_type::sniff(&head);
                if codec == Codec::Uncompressed && digest.as_str() != diff_id.to_string() {
                    return Err(broken(format!("layer \"{name}\" is {digest}, the config says {diff_id}")));
                }
                layers.push(Descriptor::new(Family::Docker.layer(codec), digest, size));
            }
            let manifest = Manifest {
                schema_version: 2,
                media_type: Family::Docker.manifest().into(),
                artifact_type: None,
                config: Descriptor::new(Family::Docker.config(), config, size),
                layers,
                subject: None,
                annotations: std::collections::BTreeMap::new(),
            };
            let bytes = crate::oci::manifest::to_json_pretty(&manifest);
            self.store.put_blob(&bytes)?;
            let parse = |tag: String| tag.parse::<Reference>().map_err(|e| bad_name(shown, &tag, &e));
            let names = entry.repo_tags.unwrap_or_default().into_iter().map(parse).collect::<Result<_, _>>()?;
            found.push(Loaded { descriptor: Descriptor::of_bytes(Family::Docker.manifest(), &bytes), names });
        }
        Ok(found)
    }
}

fn bad_name(shown: &Path, name: &str, error: &dyn std::fmt::Display) -> ImageError {
    ImageError::Archive { path: shown.to_owned(), reason: format!("invalid image name \"{name}\": {error}") }
}

/// A tag alone names nothing.
fn name_of(descriptor: &Descriptor) -> Vec<Reference> {
    let text = NAMES.iter().filter_map(|key| descriptor.annotations.get(*key));
    text.filter(|t| t.contains([':', '/'])).filter_map(|t| t.parse().ok()).take(1).collect()
}

impl Contents {
    fn find(&self, path: &Path) -> Option<(Digest, u64)> {
        let mut path = path.to_path_buf();
        for _ in 0..8 {
            if let Some(found) = self.files.get(&path) {
                return Some(found.clone());
            }
            path.clone_from(self.links.get(&path)?);
        }
        None
    }

    fn document<T: serde::de::DeserializeOwned>(
        &self,
        store: &Store,
        shown: &Path,
        name: &str,
    ) -> Result<Option<T>, ImageError> {
        let Some((digest, size)) = self.find(Path::new(name)) else { return Ok(None) };
        let broken = |reason: String| ImageError::Archive { path: shown.to_owned(), reason };
        if size > MAX_DOCUMENT {
            return Err(broken(format!("{name} has {size} bytes, more than {MAX_DOCUMENT}")));
        }
        let bytes = store.read_blob(&digest)?;
        serde_json::from_slice(&bytes).map(Some).map_err(|e| broken(format!("{name}: {e}")))
    }
}

/// `a/../b` as `b`; nothing that leads outside.
fn clean(path: &Path) -> Option<PathBuf> {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => out.push(name),
            Component::CurDir => {}
            Component::ParentDir if out.pop() => {}
            _ => return None,
        }
    }
    Some(out)
}

/// The digest that a file of a layout must have by its name.
fn promised(path: &Path) -> Option<Digest> {
    let parts: Vec<&str> = path.iter().filter_map(|p| p.to_str()).collect();
    match parts.as_slice() {
        ["blobs", algorithm, hex] => format!("{algorithm}:{hex}").parse().ok(),
        _ => None,
    }
}

fn put(store: &Store, path: &Path, reader: &mut dyn Read) -> Result<(Digest, u64), ImageError> {
    let mut writer = store.blob_writer()?;
    let mut piece = vec![0; 256 << 10];
    loop {
        let count = reader.read(&mut piece).map_err(ImageError::io("read", path))?;
        if count == 0 {
            break;
        }
        writer.write_all(&piece[..count]).map_err(|e| writer.error(e))?;
    }
    Ok(writer.commit(promised(path).as_ref())?)
}

/// A file that is not what its name promises is the archive's fault, not the store's.
fn of_archive(shown: &Path) -> impl Fn(ImageError) -> ImageError {
    move |error| match error {
        ImageError::Store(e @ StoreError::DigestMismatch { .. }) => {
            ImageError::Archive { path: shown.to_owned(), reason: format!("it is damaged: {e}") }
        }
        other => other,
    }
}

fn tarball(store: &Store, shown: &Path, reader: impl Read) -> Result<Contents, ImageError> {
    let broken = |e: io::Error| {
        // What follows the first colon repeats bytes of the file.
        let why = e.to_string();
        let why = why.split(':').next().unwrap_or_default();
        ImageError::Archive { path: shown.to_owned(), reason: format!("not an image archive: {why}") }
    };
    let mut contents = Contents::default();
    let mut archive = tar::Archive::new(reader);
    for entry in archive.entries().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        let Some(path) = entry.path().ok().and_then(|p| clean(&p)) else { continue };
        let kind = entry.header().entry_type();
        if kind.is_file() {
            let stored = put(store, &path, &mut entry).map_err(of_archive(shown))?;
            contents.files.insert(path, stored);
        } else if let (true, Ok(Some(target))) = (kind.is_symlink() || kind.is_hard_link(), entry.link_name()) {
            let base = if kind.is_symlink() { path.parent().unwrap_or(Path::new("")) } else { Path::new("") };
            if let Some(target) = clean(&base.join(target)) {
                contents.links.insert(path, target);
            }
        }
    }
    Ok(contents)
}

fn directory(store: &Store, dir: &Path) -> Result<Contents, ImageError> {
    let mut contents = Contents::default();
    for entry in walkdir::WalkDir::new(dir).max_depth(3) {
        let entry = entry.map_err(|e| {
            let path = e.path().unwrap_or(dir).to_owned();
            ImageError::io("read", path)(e.into())
        })?;
        let Ok(name) = entry.path().strip_prefix(dir) else { continue };
        if !entry.file_type().is_file() {
            continue;
        }
        let known = match promised(name) {
            Some(digest) => store.has_blob(&digest)?.map(|size| (digest, size)),
            None => None,
        };
        let stored = match known {
            Some(known) => known,
            None => {
                let mut file = fs::File::open(entry.path()).map_err(ImageError::io("open", entry.path()))?;
                put(store, name, &mut file).map_err(of_archive(dir))?
            }
        };
        contents.files.insert(name.to_owned(), stored);
    }
    Ok(contents)
}
