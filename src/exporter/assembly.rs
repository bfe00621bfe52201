//! The images of all platforms and, where there is more than one, the index over them (SPEC C6.11).

use std::collections::BTreeMap;

use bytes::Bytes;

use super::annotations::Level;
use super::image::{self, Assembled};
use super::spec::ImageOptions;
use super::{BuildResult, ExportContext, ExportError, blocking};
use crate::base::Digest;
use crate::oci::manifest::to_json_pretty;
use crate::oci::{Descriptor, Index, Reference};

/// A manifest or index with its bytes.
#[derive(Debug, Clone)]
pub struct Document {
    /// Media type, digest, size.
    pub descriptor: Descriptor,
    /// The exact bytes.
    pub bytes: Bytes,
}

/// Everything an image output publishes.
#[derive(Debug, Clone)]
pub struct Assembly {
    /// One per platform, in the order asked for.
    pub images: Vec<Assembled>,
    /// Over them, if the build is for several platforms.
    pub index: Option<Document>,
}

/// Derives all blobs and writes manifests, configs and the index into the store.
pub(super) async fn assemble(
    context: &ExportContext<'_>,
    result: &BuildResult,
    options: &ImageOptions,
    id: &Digest,
) -> Result<Assembly, ExportError> {
    let mut images = Vec::new();
    for platform in &result.images {
        images.push(image::assemble(context, platform, options, id).await?);
    }
    context.events.progress(id, "exporting layers", 0, None, true);
    for image in &images {
        for (what, digest) in [("manifest", &image.descriptor.digest), ("config", &image.config.digest)] {
            context.events.progress(id, format!("exporting {what} {digest}"), 0, None, true);
        }
    }
    if !result.multi {
        return Ok(Assembly { images, index: None });
    }
    let index = Index {
        media_type: options.family.index().into(),
        annotations: options.annotations.of(Level::Index, None),
        ..Index::new(images.iter().map(|i| i.descriptor.clone()).collect())
    };
    let bytes = to_json_pretty(&index);
    let mut descriptor = Descriptor::of_bytes(options.family.index(), &bytes);
    descriptor.annotations = options.annotations.of(Level::IndexDescriptor, None);
    context.events.progress(id, format!("exporting manifest list {}", descriptor.digest), 0, None, true);
    let (store, copy) = (context.store.clone(), bytes.clone());
    blocking(move || Ok(store.put_blob(&copy).map(drop)?)).await?;
    Ok(Assembly { images, index: Some(Document { descriptor, bytes: bytes.into() }) })
}

impl Assembly {
    /// What tags name: the index, or the one manifest.
    pub(super) fn root(&self) -> Document {
        if let Some(index) = &self.index {
            return index.clone();
        }
        let image = &self.images[0];
        let descriptor = Descriptor { platform: None, ..image.descriptor.clone() };
        Document { descriptor, bytes: image.manifest_bytes.clone() }
    }

    /// The manifests below the root; none if the root is the manifest.
    pub(super) fn children(&self) -> &[Assembled] {
        if self.index.is_some() { &self.images } else { &[] }
    }

    /// The image ID: only a single image has one (SPEC B2.12).
    pub(super) fn config(&self) -> Option<Digest> {
        if self.index.is_some() { None } else { self.images.first().map(|i| i.config.digest.clone()) }
    }

    /// RFC 3339 time of the newest image.
    pub(super) fn created(&self) -> String {
        self.images.iter().map(|i| i.created.clone()).max().unwrap_or_default()
    }

    /// One entry of a layout's `index.json` per name; one without a name if there is none (SPEC C6.15).
    pub(super) fn entries(&self, names: &[Reference]) -> Vec<Descriptor> {
        let mut root = self.root().descriptor;
        if self.index.is_none() {
            root.platform.clone_from(&self.images[0].descriptor.platform);
        }
        let created = self.created();
        let entry = |name: Option<&Reference>| Descriptor {
            annotations: entry_annotations(&root.annotations, &created, name),
            ..root.clone()
        };
        if names.is_empty() { vec![entry(None)] } else { names.iter().map(|n| entry(Some(n))).collect() }
    }
}

fn entry_annotations(
    own: &BTreeMap<String, String>,
    created: &str,
    name: Option<&Reference>,
) -> BTreeMap<String, String> {
    let mut annotations = own.clone();
    annotations.insert("org.opencontainers.image.created".into(), created.to_owned());
    if let Some(name) = name {
        annotations.insert("io.containerd.image.name".into(), name.to_string());
        if let Some(tag) = &name.tag {
            annotations.insert("org.opencontainers.image.ref.name".into(), tag.clone());
        }
    }
    annotations
}
