//! Images in OCI layout directories: `oci-layout://PATH[:TAG][@DIGEST]` (SPEC B1.06, C2.02).

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::SourceError;
use super::document::{self, Image, MAX_DEPTH, Next};
use crate::base::Digest;
use crate::oci::layout::MARKER_NAME;
use crate::oci::manifest::{Document, parse_document};
use crate::oci::{Descriptor, Index, Platform, Reference, media_type};

/// The largest document that is read.
pub(super) const MAX_DOCUMENT: u64 = 32 << 20;
pub(super) const REF_NAME: &str = "org.opencontainers.image.ref.name";
pub(super) const IMAGE_NAME: &str = "io.containerd.image.name";

/// A directory, and what is meant in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    path: PathBuf,
    tag: String,
    digest: Option<Digest>,
}

/// Where a layout keeps a blob.
pub(super) fn blob_path(layout: &Path, digest: &Digest) -> PathBuf {
    layout.join("blobs").join(digest.algorithm()).join(digest.hex())
}

impl Layout {
    /// Parses what stands behind `oci-layout://`. Without a tag it is `latest`; a digest counts more than a tag.
    ///
    /// # Errors
    /// One line saying what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (rest, digest) = match text.rsplit_once('@') {
            // Directories may have an @ in their name.
            Some((rest, digest)) if !digest.contains('/') => {
                (rest, Some(digest.parse::<Digest>().map_err(|e| e.to_string())?))
            }
            _ => (text, None),
        };
        let (path, tag) = match rest.rsplit_once(':') {
            Some((path, tag)) if !tag.contains('/') => (path, tag),
            _ => (rest, "latest"),
        };
        if path.is_empty() {
            return Err("it names no directory".into());
        }
        if tag.is_empty() {
            return Err("the tag is empty".into());
        }
        Ok(Self { path: path.into(), tag: tag.into(), digest })
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The same directory at a digest.
    #[must_use]
    pub fn at(&self, digest: Digest) -> Self {
        Self { digest: Some(digest), ..self.clone() }
    }

    /// How an entry of `index.json` says that it has the tag.
    #[must_use]
    pub fn names(&self) -> BTreeMap<String, String> {
        BTreeMap::from([(REF_NAME.to_owned(), self.tag.clone())])
    }

    /// The file of a blob.
    #[must_use]
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        blob_path(&self.path, digest)
    }

    /// The manifest or index that is meant, with its exact bytes.
    ///
    /// # Errors
    /// If the directory is no layout, or has nothing of the tag or digest.
    pub fn root(&self) -> Result<(Descriptor, Vec<u8>), SourceError> {
        self.check()?;
        let digest = match &self.digest {
            Some(digest) => digest.clone(),
            None => self.find()?,
        };
        let bytes = self.blob(&digest)?;
        let kind = match parse_document(&bytes, "") {
            Ok(Document::Index(index)) => said(index.media_type, media_type::OCI_INDEX),
            Ok(Document::Manifest(manifest)) => said(manifest.media_type, media_type::OCI_MANIFEST),
            Err(e) => return Err(self.fail(format!("{digest}: {e}"))),
        };
        Ok((Descriptor::new(kind, digest, bytes.len() as u64), bytes))
    }

    /// Reads the image for a platform.
    pub(super) fn image(&self, platform: &Platform) -> Result<Image, SourceError> {
        self.check()?;
        let root = match &self.digest {
            Some(digest) => digest.clone(),
            None => self.find()?,
        };
        let name = format!("oci-layout://{}@{root}", self.path.display());
        let mut at: Option<Descriptor> = None;
        for _ in 0..MAX_DEPTH {
            let digest = at.as_ref().map_or(&root, |d| &d.digest);
            let bytes = self.blob(digest)?;
            let kind = at.as_ref().map_or("", |d| d.media_type.as_str());
            match document::read(&name, &bytes, kind, platform)? {
                Next::Document(descriptor) => at = Some(descriptor),
                Next::Manifest(manifest) => {
                    document::check_manifest(&name, &manifest)?;
                    let config = self.blob(&manifest.config.digest)?;
                    return Image::new(&name, root, manifest, config.into());
                }
            }
        }
        Err(SourceError::NotAnImage { name, reason: "indexes are nested too deep".into() })
    }

    fn fail(&self, reason: impl Into<String>) -> SourceError {
        SourceError::Layout { path: self.path.clone(), reason: reason.into() }
    }

    fn check(&self) -> Result<(), SourceError> {
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Marker {
            image_layout_version: String,
        }
        if !self.path.is_dir() {
            return Err(self.fail("no such directory"));
        }
        let path = self.path.join(MARKER_NAME);
        let bytes = std::fs::read(&path).map_err(|_| self.fail("not an OCI layout: it has no file \"oci-layout\""))?;
        let marker: Marker =
            serde_json::from_slice(&bytes).map_err(|e| self.fail(format!("its file \"oci-layout\" is broken: {e}")))?;
        if !marker.image_layout_version.starts_with("1.") {
            return Err(self.fail(format!("unknown version \"{}\"", marker.image_layout_version)));
        }
        Ok(())
    }

    /// The entry of `index.json` with the tag, else the only one there is.
    fn find(&self) -> Result<Digest, SourceError> {
        let path = self.path.join("index.json");
        let bytes = std::fs::read(&path).map_err(|source| SourceError::Io { path, source })?;
        let index: Index =
            serde_json::from_slice(&bytes).map_err(|e| self.fail(format!("its file \"index.json\" is broken: {e}")))?;
        if let Some(entry) = index.manifests.iter().find(|d| tags(d).any(|tag| tag == self.tag)) {
            return Ok(entry.digest.clone());
        }
        match index.manifests.as_slice() {
            [only] => Ok(only.digest.clone()),
            [] => Err(self.fail("it holds no image")),
            all => {
                let mut known: Vec<String> = all.iter().flat_map(tags).collect();
                known.sort();
                known.dedup();
                let known =
                    if known.is_empty() { "none has a tag".into() } else { format!("it has {}", known.join(", ")) };
                Err(self.fail(format!("no image with tag \"{}\" among {}: {known}", self.tag, all.len())))
            }
        }
    }

    /// A small blob, verified.
    ///
    /// # Errors
    /// If it is not there, or is another.
    pub fn blob(&self, digest: &Digest) -> Result<Vec<u8>, SourceError> {
        let path = blob_path(&self.path, digest);
        let fail = |source| SourceError::Io { path: path.clone(), source };
        let mut bytes = Vec::new();
        File::open(&path).map_err(fail)?.take(MAX_DOCUMENT).read_to_end(&mut bytes).map_err(fail)?;
        let mut hasher = digest.hasher();
        hasher.update(&bytes);
        let actual = hasher.finish();
        if actual != *digest {
            let what = path.display().to_string();
            return Err(SourceError::Corrupt { what, expected: digest.clone(), actual });
        }
        Ok(bytes)
    }
}

/// The type that a document has of itself, or else by what it is.
fn said(own: String, usual: &str) -> String {
    if own.is_empty() { usual.to_owned() } else { own }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "oci-layout://{}:{}", self.path.display(), self.tag)?;
        self.digest.as_ref().map_or(Ok(()), |digest| write!(f, "@{digest}"))
    }
}

/// The tags an entry of `index.json` goes by: annotations hold a bare tag or a whole name.
fn tags(descriptor: &Descriptor) -> impl Iterator<Item = String> {
    [REF_NAME, IMAGE_NAME].into_iter().filter_map(|key| {
        let value = descriptor.annotations.get(key)?;
        let whole = value.contains(['/', ':']).then(|| Reference::parse_raw(value).ok()).flatten();
        whole.map_or_else(|| Some(value.clone()), |reference| reference.tag)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b1_06_identifiers() {
        let digest = Digest::sha256(b"");
        let parse = |text: &str| Layout::parse(text).map(|l| (l.path.display().to_string(), l.tag, l.digest));
        assert_eq!(parse("/a/b"), Ok(("/a/b".into(), "latest".into(), None)));
        assert_eq!(parse("/a/b:v1"), Ok(("/a/b".into(), "v1".into(), None)));
        assert_eq!(parse(&format!("a@{digest}")), Ok(("a".into(), "latest".into(), Some(digest.clone()))));
        assert_eq!(parse(&format!("a:v1@{digest}")), Ok(("a".into(), "v1".into(), Some(digest))));
        assert_eq!(parse("/a:b/c@d/e"), Ok(("/a:b/c@d/e".into(), "latest".into(), None)));
        for bad in ["", ":v1", "/a:", "/a@sha256:12", "@x"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn b1_06_tags_in_annotations() {
        let with = |key: &str, value: &str| {
            let mut d = Descriptor::of_bytes("x", b"");
            d.annotations.insert(key.into(), value.into());
            tags(&d).collect::<Vec<_>>()
        };
        assert_eq!(with(REF_NAME, "v1"), ["v1"]);
        assert_eq!(with(REF_NAME, "docker.io/library/a:v2"), ["v2"]);
        assert_eq!(with(IMAGE_NAME, "localhost:5000/a:v3"), ["v3"]);
        assert!(with(IMAGE_NAME, "localhost:5000/a").is_empty());
        assert!(with("other", "v1").is_empty());
    }
}
