//! Images under their names, the view of them that other tools read, and remembered tag resolutions.

use std::fs;
use std::io;
use std::time::SystemTime;

use rusqlite::{Connection, OptionalExtension};

use crate::base::Digest;
use crate::oci::manifest::{Document, parse_document};
use crate::oci::{Descriptor, Index, Reference};

use super::lock::{FileLock, Mode};
use super::meta::{from_nanos, now};
use super::{Store, StoreError};

/// Annotations under which tools look for the name of an image in a layout.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
const IMAGE_NAME: &str = "io.containerd.image.name";

/// An image in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRecord {
    /// Its normalised name, `domain/path:tag`.
    pub name: String,
    /// Its manifest or index.
    pub descriptor: Descriptor,
    /// When it got the name.
    pub created: SystemTime,
}

/// While it is held, nobody else gives names to what names meant before ([`Store::lock_names`]).
#[derive(Debug)]
pub struct NamesLock {
    _lock: FileLock,
}

impl Store {
    /// Waits for the turn to change what a name means by what it meant before: between [`Store::image`] and [`Store::tag_image`]
    /// somebody else could have given it away.
    ///
    /// # Errors
    /// If the lock file cannot be opened.
    pub fn lock_names(&self) -> Result<NamesLock, StoreError> {
        Ok(NamesLock { _lock: FileLock::wait(&self.inner.layout.locks().join("names"), Mode::Exclusive)? })
    }

    /// Gives an image a name, taking it from whatever had it.
    ///
    /// # Errors
    /// If the metadata or `index.json` cannot be written.
    pub fn tag_image(&self, name: &Reference, descriptor: &Descriptor) -> Result<(), StoreError> {
        let json = serde_json::to_string(descriptor).expect("because descriptors have string keys only");
        self.inner.meta.write("tag an image", |tx| {
            tx.execute("INSERT OR REPLACE INTO images VALUES (?1, ?2, ?3)", (name.to_string(), json, now()))?;
            Ok(())
        })?;
        self.write_index()
    }

    /// The image of that name.
    ///
    /// # Errors
    /// If the metadata cannot be read.
    pub fn image(&self, name: &Reference) -> Result<Option<ImageRecord>, StoreError> {
        let name = name.to_string();
        Ok(self.images()?.into_iter().find(|image| image.name == name))
    }

    /// All images, by name.
    ///
    /// # Errors
    /// If the metadata cannot be read.
    pub fn images(&self) -> Result<Vec<ImageRecord>, StoreError> {
        self.inner.meta.read("list images", images)
    }

    /// Takes a name away; false if nothing had it. The content goes with the next collection.
    ///
    /// # Errors
    /// If the metadata or `index.json` cannot be written.
    pub fn untag_image(&self, name: &Reference) -> Result<bool, StoreError> {
        let removed = self.inner.meta.write("untag an image", |tx| {
            Ok(tx.execute("DELETE FROM images WHERE name = ?1", [name.to_string()])? > 0)
        })?;
        if removed {
            self.write_index()?;
        }
        Ok(removed)
    }

    /// Remembers what a tag meant for a platform.
    ///
    /// # Errors
    /// If the metadata cannot be written.
    pub fn remember_resolution(&self, name: &Reference, platform: &str, digest: &Digest) -> Result<(), StoreError> {
        self.inner.meta.write("remember a resolution", |tx| {
            tx.execute(
                "INSERT OR REPLACE INTO resolutions VALUES (?1, ?2, ?3, ?4)",
                (name.to_string(), platform, digest.as_str(), now()),
            )?;
            Ok(())
        })
    }

    /// What a tag meant when it was last resolved, and when that was.
    ///
    /// # Errors
    /// If the metadata cannot be read.
    pub fn resolution(&self, name: &Reference, platform: &str) -> Result<Option<(Digest, SystemTime)>, StoreError> {
        let row = self.inner.meta.read("look up a resolution", |c| {
            c.prepare_cached("SELECT digest, at FROM resolutions WHERE reference = ?1 AND platform = ?2")?
                .query_row((name.to_string(), platform), |row| Ok((row.get::<_, String>(0)?, row.get(1)?)))
                .optional()
        })?;
        Ok(row.and_then(|(digest, at)| Some((digest.parse().ok()?, from_nanos(at)))))
    }

    /// Writes `index.json`, which is only a view: the images whose blobs are all here. Untouched if it says so already.
    pub(crate) fn write_index(&self) -> Result<(), StoreError> {
        let layout = &self.inner.layout;
        let _lock = FileLock::wait(&layout.locks().join("index"), Mode::Exclusive)?;
        let mut manifests = Vec::new();
        for image in self.images()? {
            if self.blobs_of(&image.descriptor)?.complete {
                let mut descriptor = image.descriptor;
                descriptor.annotations.insert(REF_NAME.into(), image.name.clone());
                descriptor.annotations.insert(IMAGE_NAME.into(), image.name);
                manifests.push(descriptor);
            }
        }
        let bytes = serde_json::to_vec(&Index::new(manifests)).expect("because the index has string keys only");
        let path = layout.oci().join("index.json");
        if fs::read(&path).is_ok_and(|old| old == bytes) {
            return Ok(());
        }
        // Not synced: meta.db is the truth, and the next change writes it again.
        let temp = self.owner()?.path("index");
        fs::write(&temp, &bytes).map_err(StoreError::io("write", &temp))?;
        fs::rename(&temp, &path).map_err(StoreError::io("rename", &path))
    }

    /// The blobs an image consists of, as far as they are here.
    pub(crate) fn blobs_of(&self, image: &Descriptor) -> Result<ImageBlobs, StoreError> {
        let mut found = ImageBlobs { complete: true, blobs: Vec::new() };
        self.collect_blobs(image, &mut found, 0)?;
        Ok(found)
    }

    fn collect_blobs(&self, descriptor: &Descriptor, found: &mut ImageBlobs, depth: u32) -> Result<(), StoreError> {
        let path = self.inner.layout.blob(&descriptor.digest);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                found.complete = false;
                return Ok(());
            }
            Err(e) => return Err(StoreError::io("read", path)(e)),
        };
        found.blobs.push(descriptor.digest.clone());
        match parse_document(&bytes, &descriptor.media_type) {
            Ok(Document::Manifest(manifest)) => {
                for part in manifest.layers.iter().chain([&manifest.config]) {
                    found.complete &= self.inner.layout.blob(&part.digest).is_file();
                    found.blobs.push(part.digest.clone());
                }
            }
            Ok(Document::Index(index)) if depth < 4 => {
                for child in &index.manifests {
                    self.collect_blobs(child, found, depth + 1)?;
                }
            }
            _ => found.complete = false,
        }
        Ok(())
    }
}

/// See [`Store::blobs_of`].
pub(crate) struct ImageBlobs {
    pub(crate) complete: bool,
    pub(crate) blobs: Vec<Digest>,
}

pub(crate) fn images(c: &Connection) -> rusqlite::Result<Vec<ImageRecord>> {
    let rows: Vec<(String, String, i64)> = c
        .prepare_cached("SELECT name, descriptor, created FROM images ORDER BY name")?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect::<rusqlite::Result<_>>()?;
    let parse = |(name, json, created): (String, String, i64)| {
        Some(ImageRecord { name, descriptor: serde_json::from_str(&json).ok()?, created: from_nanos(created) })
    };
    Ok(rows.into_iter().filter_map(parse).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Manifest;
    use crate::oci::media_type::{OCI_CONFIG, OCI_LAYER_GZIP, OCI_MANIFEST};
    use crate::store::testing::store;

    fn reference(text: &str) -> Reference {
        text.parse().expect("a valid reference")
    }

    fn image(store: &Store, text: &str) -> (Descriptor, Digest) {
        let (config, layer) = (format!("{{\"x\":\"{text}\"}}"), format!("layer {text}"));
        store.put_blob(config.as_bytes()).expect("writes");
        let layer_digest = store.put_blob(layer.as_bytes()).expect("writes");
        let manifest = Manifest {
            schema_version: 2,
            media_type: OCI_MANIFEST.into(),
            artifact_type: None,
            config: Descriptor::of_bytes(OCI_CONFIG, config.as_bytes()),
            layers: vec![Descriptor::of_bytes(OCI_LAYER_GZIP, layer.as_bytes())],
            subject: None,
            annotations: std::collections::BTreeMap::new(),
        };
        let bytes = serde_json::to_vec(&manifest).expect("serialises");
        store.put_blob(&bytes).expect("writes");
        (Descriptor::of_bytes(OCI_MANIFEST, &bytes), layer_digest)
    }

    fn view(store: &Store) -> Vec<String> {
        let bytes = fs::read(store.root().join("oci/index.json")).expect("reads");
        let index: Index = serde_json::from_slice(&bytes).expect("parses");
        index.manifests.iter().map(|m| m.annotations[REF_NAME].clone()).collect()
    }

    #[test]
    fn images_are_named_and_shown_to_other_tools() {
        let (_dir, store) = store();
        let (one, layer) = image(&store, "one");
        let (two, _) = image(&store, "two");
        store.tag_image(&reference("app:1"), &one).expect("tags");
        store.tag_image(&reference("localhost:5000/app:2"), &two).expect("tags");
        assert_eq!(view(&store), ["docker.io/library/app:1", "localhost:5000/app:2"]);
        assert_eq!(store.image(&reference("app:1")).expect("reads").expect("is there").descriptor, one);
        store.tag_image(&reference("app:1"), &two).expect("moves");
        assert_eq!(store.image(&reference("app:1")).expect("reads").expect("is there").descriptor, two);
        assert!(store.untag_image(&reference("app:1")).expect("untags"));
        assert!(!store.untag_image(&reference("app:1")).expect("is gone"));
        assert_eq!(view(&store), ["localhost:5000/app:2"]);
        // Only what is complete is shown.
        store.tag_image(&reference("app:3"), &one).expect("tags");
        store.drop_blob(&layer).expect("drops");
        store.write_index().expect("writes");
        assert_eq!(view(&store), ["localhost:5000/app:2"]);
        assert_eq!(store.images().expect("lists").len(), 2);
    }

    /// Issue 2, "a valid OCI layout": an oracle reads what we wrote.
    #[test]
    fn other_tools_read_the_layout() {
        let (dir, store) = store();
        let (descriptor, _) = image(&store, "one");
        let name = reference("localhost:5000/team/app:1.0");
        store.tag_image(&name, &descriptor).expect("tags");
        let source = format!("oci:{}:{name}", store.root().join("oci").display());
        let target = format!("dir:{}", dir.path().join("copy").display());
        let run = std::process::Command::new("skopeo")
            .args(["--insecure-policy", "copy", "--preserve-digests", &source, &target])
            .output();
        let Ok(output) = run else {
            crate::store::testing::skip("skopeo is not installed");
            return;
        };
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let manifest = fs::read(dir.path().join("copy/manifest.json")).expect("is copied");
        assert_eq!(Digest::sha256(manifest), descriptor.digest);
    }

    #[test]
    fn resolutions_are_kept_per_platform() {
        let (_dir, store) = store();
        let (a, b) = (Digest::sha256("a"), Digest::sha256("b"));
        store.remember_resolution(&reference("x"), "linux/amd64", &a).expect("writes");
        store.remember_resolution(&reference("x"), "linux/amd64", &b).expect("writes");
        let found = store.resolution(&reference("x"), "linux/amd64").expect("reads").map(|(digest, _)| digest);
        assert_eq!(found, Some(b));
        assert!(store.resolution(&reference("x"), "linux/arm64").expect("reads").is_none());
    }
}
