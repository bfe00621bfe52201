//! What an image is and how it came to be.

use std::time::SystemTime;

use bytes::Bytes;
use serde::Serialize;

use super::parts::Parts;
use super::{ImageError, Images};
use crate::base::Digest;
use crate::oci::{Descriptor, ImageConfig, Manifest, Platform, Reference};

/// One platform of an image, in the fields that `docker image inspect` shows.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Inspection {
    /// Digest of the config: the image ID.
    pub id: Digest,
    /// Names in the store.
    pub repo_tags: Vec<String>,
    /// Digest of what the names mean.
    pub digest: Digest,
    /// RFC 3339.
    pub created: String,
    /// Author.
    pub author: String,
    /// Architecture.
    pub architecture: String,
    /// Operating system.
    pub os: String,
    /// Architecture variant.
    pub variant: String,
    /// Bytes of config and layers as they are transferred.
    pub size: u64,
    /// How containers of it run.
    pub config: serde_json::Value,
    /// Layers.
    #[serde(rename = "RootFS")]
    pub root_fs: serde_json::Value,
    /// Annotations of the manifest.
    pub annotations: std::collections::BTreeMap<String, String>,
    /// The manifest.
    pub manifest: Descriptor,
}

/// One step in the making of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct HistoryLine {
    /// RFC 3339.
    pub created_at: String,
    /// The instruction.
    pub created_by: String,
    /// Bytes of its layer as it is transferred; 0 without one.
    pub size: u64,
    /// Who made it.
    pub comment: String,
}

/// An image in a list.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    /// When it was made.
    pub created: Option<SystemTime>,
    /// Bytes of configs and layers of all its platforms as they are transferred.
    pub size: u64,
    /// What it is for.
    pub platforms: Vec<Platform>,
    /// Labels of the first of its platforms.
    pub labels: std::collections::BTreeMap<String, String>,
}

impl Images {
    /// What an image is, one entry for each of its platforms.
    ///
    /// # Errors
    /// If there is no such image, or parts of it are missing or broken.
    pub fn inspect(&self, name: &str) -> Result<Vec<Inspection>, ImageError> {
        let root = self.find(name)?;
        let tags: Vec<String> = self
            .store
            .images()?
            .into_iter()
            .filter(|i| i.descriptor.digest == root.digest)
            .map(|i| i.name.parse::<Reference>().map_or(i.name.clone(), |r| r.familiar()))
            .collect();
        let mut found = Vec::new();
        for (descriptor, manifest, config, raw) in self.platforms(&root)? {
            let size = manifest.layers.iter().chain([&manifest.config]).map(|d| d.size).sum();
            found.push(Inspection {
                id: manifest.config.digest.clone(),
                repo_tags: tags.clone(),
                digest: root.digest.clone(),
                created: config.created.clone().unwrap_or_default(),
                author: config.author.clone(),
                architecture: config.platform().architecture,
                os: config.platform().os,
                variant: config.platform().variant,
                size,
                config: raw.get("config").cloned().unwrap_or_default(),
                root_fs: serde_json::json!({"Type": "layers", "Layers": config.rootfs.diff_ids}),
                annotations: manifest.annotations.clone(),
                manifest: descriptor,
            });
        }
        Ok(found)
    }

    /// The exact bytes of the manifest or index that an image of the store is.
    ///
    /// # Errors
    /// If there is no such image, or it is not complete.
    pub fn document(&self, name: &str) -> Result<Bytes, ImageError> {
        let root = self.find(name)?;
        self.bytes(&root)
    }

    /// How an image for a platform was made, the last step first.
    ///
    /// # Errors
    /// As [`Images::inspect`]; also if the image is not for that platform.
    pub fn history(&self, name: &str, platform: &Platform) -> Result<Vec<HistoryLine>, ImageError> {
        let (_, manifest, config) = self.for_platform(name, platform)?;
        let mut layers = manifest.layers.iter();
        let line = |h: &crate::oci::History| HistoryLine {
            created_at: h.created.clone().unwrap_or_default(),
            created_by: h.created_by.clone(),
            size: if h.empty_layer { 0 } else { layers.next().map_or(0, |l| l.size) },
            comment: h.comment.clone(),
        };
        let mut lines: Vec<HistoryLine> = config.history.iter().map(line).collect();
        lines.reverse();
        Ok(lines)
    }

    /// The image that a platform runs: of several the best, of one that one.
    pub(super) fn for_platform(
        &self,
        name: &str,
        platform: &Platform,
    ) -> Result<(Descriptor, Manifest, ImageConfig), ImageError> {
        let mut all = self.platforms(&self.find(name)?)?;
        let best = |(_, _, config, _): &(Descriptor, Manifest, ImageConfig, _)| config.platform().serves(platform);
        let at = all.iter().enumerate().filter_map(|(i, p)| Some((best(p)?, i))).min().map(|(_, i)| i);
        let at = match at {
            Some(at) => at,
            None if all.len() == 1 => 0,
            None => return Err(ImageError::Usage(format!("{name} is not for {platform}"))),
        };
        let (descriptor, manifest, config, _) = all.swap_remove(at);
        Ok((descriptor, manifest, config))
    }

    /// The images below a root with their parsed and raw configs.
    pub(super) fn platforms(
        &self,
        root: &Descriptor,
    ) -> Result<Vec<(Descriptor, Manifest, ImageConfig, serde_json::Value)>, ImageError> {
        let parts = Parts::collect(&self.store, root)?;
        let mut found = Vec::new();
        for (descriptor, manifest) in parts.manifests {
            if !super::parts::is_image(&descriptor) {
                continue;
            }
            let digest = &manifest.config.digest;
            if self.store.has_blob(digest)?.is_none() {
                return Err(ImageError::Incomplete { what: "config", digest: digest.clone() });
            }
            let bytes = self.store.read_blob(digest)?;
            let bad = |e: serde_json::Error| ImageError::Document { digest: digest.clone(), reason: e.to_string() };
            let config: ImageConfig = serde_json::from_slice(&bytes).map_err(bad)?;
            let raw = serde_json::from_slice(&bytes).map_err(bad)?;
            found.push((descriptor, manifest, config, raw));
        }
        Ok(found)
    }

    /// What a list of images shows; `None` where parts are missing.
    #[must_use]
    pub fn summary(&self, root: &Descriptor) -> Option<Summary> {
        let all = self.platforms(root).ok()?;
        let (_, _, first, _) = all.first()?;
        Some(Summary {
            created: first.created.as_ref().and_then(|at| at.parse::<jiff::Timestamp>().ok()).map(SystemTime::from),
            size: all.iter().flat_map(|(_, m, _, _)| m.layers.iter().chain([&m.config])).map(|d| d.size).sum(),
            labels: first.config.labels.clone(),
            platforms: all.iter().map(|(_, _, c, _)| c.platform()).collect(),
        })
    }

    /// When an image was made, where it says so.
    ///
    /// # Errors
    /// If there is no such image.
    pub fn created(&self, name: &str) -> Result<Option<SystemTime>, ImageError> {
        Ok(self.summary(&self.find(name)?).and_then(|summary| summary.created))
    }
}
