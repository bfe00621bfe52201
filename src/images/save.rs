//! Images of the store as an archive (SPEC B8.15), byte for byte.

use std::collections::HashSet;
use std::io::{self, Read, Write};

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};

use super::parts::Parts;
use super::transfer::PARALLEL;
use super::{ImageError, Images};
use crate::base::Digest;
use crate::oci::layout::{MARKER, MARKER_NAME};
use crate::oci::manifest::to_json_pretty;
use crate::oci::{Descriptor, Index, Reference};

/// Kinds of archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// An OCI image layout.
    Oci,
    /// The same with Docker's `manifest.json`, which needs images of one platform.
    Docker,
}

impl Images {
    /// Writes images, found by [`Images::find`], as one archive.
    ///
    /// Blobs that are only known to be in a registry must have been fetched before ([`Images::missing`]).
    ///
    /// # Errors
    /// If something is missing, or `out` takes no more.
    pub fn save(&self, names: &[String], format: Format, out: &mut dyn Write) -> Result<(), ImageError> {
        let shown = "the archive";
        let (mut entries, mut docker) = (Vec::new(), Vec::new());
        let mut all = Parts::default();
        for name in names {
            let root = self.find(name)?;
            let parts = Parts::collect(&self.store, &root)?;
            let reference: Option<Reference> =
                name.parse().ok().filter(|r| self.store.image(r).is_ok_and(|i| i.is_some()));
            if format == Format::Docker {
                docker.push(docker_entry(name, reference.as_ref(), &parts)?);
            }
            let mut entry = root;
            if let Some(reference) = &reference {
                entry.annotations.insert("io.containerd.image.name".into(), reference.to_string());
                entry.annotations.insert(
                    "org.opencontainers.image.ref.name".into(),
                    reference.tag.clone().unwrap_or_else(|| "latest".into()),
                );
            }
            entries.push(entry);
            all.documents.extend(parts.documents);
            all.configs.extend(parts.configs);
            all.layers.extend(parts.layers);
        }
        let mut tar = tar::Builder::new(out);
        let fail = || ImageError::io("write", shown);
        for dir in ["blobs/", "blobs/sha256/"] {
            let mut header = tar::Header::new_ustar();
            header.set_entry_type(tar::EntryType::Directory);
            header.set_mode(0o755);
            header.set_size(0);
            tar.append_data(&mut header, dir, io::empty()).map_err(fail())?;
        }
        let mut add = |name: &str, size: u64, reader: &mut dyn Read| {
            let mut header = tar::Header::new_ustar();
            header.set_mode(0o644);
            header.set_size(size);
            tar.append_data(&mut header, name, reader).map_err(fail())
        };
        let mut done: HashSet<Digest> = HashSet::new();
        for (descriptor, bytes) in &all.documents {
            if done.insert(descriptor.digest.clone()) {
                add(&path(&descriptor.digest), bytes.len() as u64, &mut &bytes[..])?;
            }
        }
        for blob in all.configs.iter().chain(&all.layers) {
            if done.insert(blob.digest.clone()) {
                add(&path(&blob.digest), blob.size, &mut self.store.open_blob(&blob.digest)?)?;
            }
        }
        let index = to_json_pretty(&Index::new(entries));
        add("index.json", index.len() as u64, &mut index.as_slice())?;
        if format == Format::Docker {
            let manifest = serde_json::to_vec(&docker).map_err(|e| ImageError::Internal(e.to_string()))?;
            add("manifest.json", manifest.len() as u64, &mut manifest.as_slice())?;
        }
        add(MARKER_NAME, MARKER.len() as u64, &mut &MARKER[..])?;
        tar.finish().map_err(fail())
    }

    /// Fetches what the images consist of and is not here.
    ///
    /// # Errors
    /// If it cannot be had.
    pub async fn make_complete(&self, names: &[String]) -> Result<(), ImageError> {
        for name in names {
            let (this, name) = (self.clone(), name.clone());
            let wanted = super::blocking(move || {
                let parts = Parts::collect(&this.store, &this.find(&name)?)?;
                let blobs = parts.layers.into_iter().chain(parts.configs);
                blobs
                    .map(|blob| Ok((this.store.remotes_of(&blob.digest)?, blob)))
                    .collect::<Result<Vec<_>, ImageError>>()
            })
            .await?;
            let fetching = wanted.into_iter().map(|(remotes, blob)| {
                let source = self.source.clone();
                async move { source.ensure_blob(&blob, &remotes, None).await }
            });
            stream::iter(fetching).buffer_unordered(PARALLEL).try_collect::<Vec<()>>().await?;
        }
        Ok(())
    }
}

fn path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.hex())
}

fn docker_entry(name: &str, reference: Option<&Reference>, parts: &Parts) -> Result<serde_json::Value, ImageError> {
    let images: Vec<_> = parts.manifests.iter().filter(|(d, _)| super::parts::is_image(d)).collect();
    let [(_, manifest)] = images.as_slice() else {
        return Err(ImageError::Usage(format!(
            "{name} has {} platforms, and docker archives hold one; use --format oci",
            images.len()
        )));
    };
    Ok(serde_json::json!({
        "Config": path(&manifest.config.digest),
        "RepoTags": reference.map(|r| vec![r.familiar()]).unwrap_or_default(),
        "Layers": manifest.layers.iter().map(|l: &Descriptor| path(&l.digest)).collect::<Vec<_>>(),
    }))
}
