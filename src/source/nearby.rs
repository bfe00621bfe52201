//! Directories that are asked for images before any registry is: OCI layouts that somebody has filled (SPEC D1.20, D1.48).
//!
//! A directory is never more than a shorter way: what is not in it, cannot be read or is not what its digest says is had from the registry,
//! and nothing is written there.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::document::{self, MAX_DEPTH, Next};
use super::oci_layout::{IMAGE_NAME, MAX_DOCUMENT, REF_NAME, blob_path};
use super::{ImageSource, LAYOUT_HOST, SourceError};
use crate::base::Digest;
use crate::oci::{Descriptor, Index, Platform, Reference};
use crate::store::RemoteBlob;

/// A directory that is asked before registries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nearby {
    /// An OCI layout, or nothing yet.
    pub path: PathBuf,
    /// What a tag means there counts for so long after it was written. What has a digest is the same for ever.
    pub max_age: Option<Duration>,
}

impl Nearby {
    /// The digest that is written down for a name, with the name as it stands in `index.json`.
    fn named(&self, reference: &Reference) -> Result<Option<Digest>, String> {
        let path = self.path.join("index.json");
        let Some(bytes) = small(&path)? else { return Ok(None) };
        let index: Index = serde_json::from_slice(&bytes).map_err(|e| format!("{}: {e}", path.display()))?;
        let is_meant = |entry: &&Descriptor| {
            let names = [REF_NAME, IMAGE_NAME].into_iter().filter_map(|key| entry.annotations.get(key));
            // A tag alone does not say of which repository.
            names.filter(|name| name.contains(['/', ':'])).any(|name| Ok(reference) == name.parse().as_ref())
        };
        let Some(entry) = index.manifests.iter().find(is_meant) else { return Ok(None) };
        let age = fs::metadata(blob_path(&self.path, &entry.digest))
            .and_then(|meta| meta.modified())
            // Of the future is as good as of now.
            .map(|time| SystemTime::now().duration_since(time).unwrap_or_default());
        match (age, self.max_age) {
            (Err(_), _) => Ok(None),
            (Ok(age), Some(limit)) if age >= limit => Ok(None),
            _ => Ok(Some(entry.digest.clone())),
        }
    }

    /// A document, if it is there and what its digest says.
    fn document(&self, digest: &Digest) -> Result<Option<Bytes>, String> {
        let path = blob_path(&self.path, digest);
        let Some(bytes) = small(&path)? else { return Ok(None) };
        let mut hasher = digest.hasher();
        hasher.update(&bytes);
        if hasher.finish() == *digest {
            return Ok(Some(bytes.into()));
        }
        Err(format!("{} has another digest than its name says", path.display()))
    }

    /// Whether there is a file that may be the blob.
    fn may_have(&self, blob: &Descriptor) -> bool {
        fs::metadata(blob_path(&self.path, &blob.digest)).is_ok_and(|meta| meta.is_file() && meta.len() == blob.size)
    }
}

/// What a small file holds; `None` if there is none.
fn small(path: &Path) -> Result<Option<Vec<u8>>, String> {
    let fail = |e: std::io::Error| format!("cannot read {}: {e}", path.display());
    match fs::metadata(path) {
        Ok(meta) if !meta.is_file() => return Err(format!("{} is no file", path.display())),
        Ok(_) => {}
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(fail(e)),
    }
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(MAX_DOCUMENT).read_to_end(&mut bytes)).map_err(fail)?;
    Ok(Some(bytes))
}

impl ImageSource {
    /// Has these directories asked before registries, in this order. They are set once, before anything is resolved.
    pub fn set_nearby(&self, all: Vec<Nearby>) {
        let _ = self.0.nearby.set(all);
    }

    pub(super) fn nearby(&self) -> &[Nearby] {
        self.0.nearby.get().map(Vec::as_slice).unwrap_or_default()
    }

    /// Something near by is of no use; a registry has to do.
    pub(super) fn passed_over(&self, why: &str) {
        self.0.events.notice(format!("nearby {why}"), format!("{why}: a registry is asked"));
    }

    /// What a directory near by says that a name means.
    pub(super) async fn recorded(&self, reference: &Reference) -> Result<Option<Digest>, SourceError> {
        for nearby in self.nearby() {
            let (place, name) = (nearby.clone(), reference.clone());
            match self.blocking(move |_| Ok(place.named(&name))).await? {
                Ok(Some(digest)) => return Ok(Some(digest)),
                Ok(None) => {}
                Err(why) => self.passed_over(&why),
            }
        }
        Ok(None)
    }

    /// A document of the store, or of a directory near by; the store has it then.
    pub(super) async fn read_near(&self, digest: &Digest) -> Result<Option<Bytes>, SourceError> {
        if let Some(bytes) = self.read_stored(digest).await? {
            return Ok(Some(bytes));
        }
        for nearby in self.nearby() {
            let (place, wanted) = (nearby.clone(), digest.clone());
            match self.blocking(move |_| Ok(place.document(&wanted))).await? {
                Ok(Some(bytes)) => {
                    self.keep(digest, bytes.clone()).await?;
                    return Ok(Some(bytes));
                }
                Ok(None) => {}
                Err(why) => self.passed_over(&why),
            }
        }
        Ok(None)
    }

    /// Brings in the documents of an image as far as directories near by have them. What is wrong with them is told by who reads
    /// them.
    pub(super) async fn bring_near(&self, root: &Digest, platform: &Platform) -> Result<(), SourceError> {
        if self.nearby().is_empty() {
            return Ok(());
        }
        let mut at = Descriptor::new("", root.clone(), 0);
        for _ in 0..MAX_DEPTH {
            let Some(bytes) = self.read_near(&at.digest).await? else { break };
            match document::read("", &bytes, &at.media_type, platform) {
                Ok(Next::Document(descriptor)) => at = descriptor,
                Ok(Next::Manifest(manifest)) => {
                    self.read_near(&manifest.config.digest).await?;
                    break;
                }
                Err(_) => break,
            }
        }
        Ok(())
    }

    /// Where a blob may be near by.
    pub(super) async fn near_blobs(&self, blob: &Descriptor) -> Result<Vec<RemoteBlob>, SourceError> {
        let (all, blob) = (self.nearby().to_vec(), blob.clone());
        if all.is_empty() {
            return Ok(Vec::new());
        }
        self.blocking(move |_| {
            let having = all.into_iter().filter(|place| place.may_have(&blob));
            Ok(having
                .map(|place| RemoteBlob {
                    host: LAYOUT_HOST.to_owned(),
                    repository: place.path.to_string_lossy().into_owned(),
                    descriptor: blob.clone(),
                })
                .collect())
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(entries: &[(&str, &str, &Digest)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a directory");
        let entries = entries.iter().map(|(key, name, digest)| {
            let mut entry = Descriptor::new("application/vnd.oci.image.index.v1+json", (*digest).clone(), 2);
            entry.annotations.insert((*key).to_owned(), (*name).to_owned());
            entry
        });
        let index = serde_json::to_vec(&Index::new(entries.collect())).expect("JSON");
        fs::write(dir.path().join("index.json"), index).expect("written");
        fs::create_dir_all(dir.path().join("blobs/sha256")).expect("made");
        dir
    }

    // SPEC D1.20
    #[test]
    fn d1_20_names_count_for_a_while() {
        let (one, two) = (Digest::sha256(b"{}"), Digest::sha256(b"[]"));
        let dir = layout(&[
            (IMAGE_NAME, "docker.io/library/app:1", &one),
            (REF_NAME, "r.example/app:1", &two),
            (REF_NAME, "2", &two),
        ]);
        let asked = |name: &str, max_age| {
            let place = Nearby { path: dir.path().to_owned(), max_age };
            place.named(&name.parse().expect("a name")).expect("readable")
        };
        assert_eq!(asked("app:1", None), None, "its document is not there");
        fs::write(blob_path(dir.path(), &one), "{}").expect("written");
        fs::write(blob_path(dir.path(), &two), "[]").expect("written");
        let hour = Some(Duration::from_secs(3600));
        assert_eq!((asked("app:1", None), asked("r.example/app:1", hour)), (Some(one), Some(two)));
        assert_eq!((asked("app:2", None), asked("app:1", Some(Duration::ZERO))), (None, None));
    }

    // SPEC D1.20
    #[test]
    fn d1_20_damage_is_told() {
        let digest = Digest::sha256(b"{}");
        let dir = layout(&[]);
        let place = Nearby { path: dir.path().to_owned(), max_age: None };
        assert_eq!(place.document(&digest), Ok(None));
        fs::write(blob_path(dir.path(), &digest), "{ }").expect("written");
        assert!(place.document(&digest).is_err_and(|why| why.contains("another digest")));
        assert!(!place.may_have(&Descriptor::new("", digest.clone(), 2)), "it has another size");
        fs::write(dir.path().join("index.json"), "{").expect("written");
        assert!(place.named(&"app:1".parse().expect("a name")).is_err());
        let nothing = Nearby { path: dir.path().join("nothing"), max_age: None };
        assert_eq!(nothing.named(&"app:1".parse().expect("a name")), Ok(None));
    }
}
