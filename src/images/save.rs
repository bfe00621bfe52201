//! Images of the store as an archive (SPEC B8.15), byte for byte.

use std::io::Write;
use std::path::Path;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};

use super::parts::Parts;
use super::transfer::PARALLEL;
use super::{ImageError, Images};
use crate::exporter::assembly::Document;
use crate::exporter::layout::{self, Content};
use crate::oci::Reference;

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
        let mut docker = Vec::new();
        let content = self.content(names, |name, reference, parts| {
            if format == Format::Docker {
                docker.push(docker_entry(name, reference, parts)?);
            }
            Ok(())
        })?;
        let manifest = (format == Format::Docker).then(|| serde_json::Value::from(docker).to_string().into_bytes());
        Ok(content.write_tar(manifest.as_deref(), out, "the archive")?)
    }

    /// Adds images to an OCI layout directory, which is made if there is none.
    ///
    /// # Errors
    /// As [`Images::save`].
    pub fn save_layout(&self, names: &[String], dir: &Path) -> Result<(), ImageError> {
        Ok(self.content(names, |_, _, _| Ok(()))?.write_layout(dir)?)
    }

    /// All that images consist of; `each` sees them one by one.
    fn content(
        &self,
        names: &[String],
        mut each: impl FnMut(&str, Option<&Reference>, &Parts) -> Result<(), ImageError>,
    ) -> Result<Content, ImageError> {
        let mut entries = Vec::new();
        let mut all = Parts::default();
        for name in names {
            let root = self.find(name)?;
            let parts = Parts::collect(&self.store, &root)?;
            let reference: Option<Reference> =
                name.parse().ok().filter(|r| self.store.image(r).is_ok_and(|i| i.is_some()));
            each(name, reference.as_ref(), &parts)?;
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
        let documents = all.documents.into_iter().map(|(descriptor, bytes)| Document { descriptor, bytes });
        let blobs = all.configs.into_iter().chain(all.layers).collect();
        Ok(Content::new(self.store.clone(), documents.collect(), blobs, entries))
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

fn docker_entry(name: &str, reference: Option<&Reference>, parts: &Parts) -> Result<serde_json::Value, ImageError> {
    let images: Vec<_> = parts.manifests.iter().filter(|(d, _)| super::parts::is_image(d)).collect();
    let [(_, manifest)] = images.as_slice() else {
        return Err(ImageError::Usage(format!(
            "{name} has {} platforms, and docker archives hold one; use --format oci",
            images.len()
        )));
    };
    let tags = reference.map(Reference::familiar).into_iter().collect();
    Ok(layout::docker_entry(&manifest.config.digest, tags, manifest.layers.iter().map(|layer| &layer.digest)))
}
