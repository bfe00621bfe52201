//! One index over images of several places (SPEC B8.01).

use bytes::Bytes;
use futures_util::future::try_join_all;

use super::super::ImageError;
use super::super::parts::is_image;
use super::look::Looked;
use super::{Place, RemoteImages};
use crate::attest::manifest::REFERENCE_DIGEST;
use crate::base::Digest;
use crate::exporter::annotations::{Annotations, Level};
use crate::oci::manifest::{Document, to_json_pretty};
use crate::oci::{Descriptor, ImageConfig, Index, Platform, media_type};

/// One source as it is written: a name, a digest in the repository of the other names, or a descriptor as JSON.
#[derive(Debug, Clone)]
pub struct Part {
    place: Option<Place>,
    digest: Option<Digest>,
    /// What the descriptor says beyond its digest.
    more: Option<Descriptor>,
}

impl Part {
    /// A source that is a place.
    #[must_use]
    pub fn of(place: Place) -> Self {
        Self { place: Some(place), digest: None, more: None }
    }

    /// Parses an argument, or the content of a file.
    ///
    /// # Errors
    /// [`ImageError::Usage`].
    pub fn parse(text: &str) -> Result<Self, ImageError> {
        let text = text.trim();
        if text.starts_with('{') {
            return Self::descriptor(text);
        }
        match text.parse::<Digest>() {
            Ok(digest) => Ok(Self { place: None, digest: Some(digest), more: None }),
            Err(e) if text.starts_with("sha256:") => Err(ImageError::Usage(format!("invalid source \"{text}\": {e}"))),
            Err(_) => Ok(Self::of(Place::parse(text)?)),
        }
    }

    /// Type and size may be left out: the registry knows them.
    fn descriptor(text: &str) -> Result<Self, ImageError> {
        let bad = |e: &dyn std::fmt::Display| ImageError::Usage(format!("invalid descriptor: {e}"));
        let mut value: serde_json::Value = serde_json::from_str(text).map_err(|e| bad(&e))?;
        if let Some(object) = value.as_object_mut() {
            object.entry("size").or_insert_with(|| 0.into());
        }
        let descriptor: Descriptor = serde_json::from_value(value).map_err(|e| bad(&e))?;
        Ok(Self { place: None, digest: Some(descriptor.digest.clone()), more: Some(descriptor) })
    }
}

/// What is to be made.
#[derive(Debug, Default)]
pub struct Combination {
    /// Of what; at least one.
    pub sources: Vec<Part>,
    /// Where it goes; sources without a repository are looked for there.
    pub targets: Vec<Place>,
    /// On the index and on its entries.
    pub annotations: Annotations,
    /// Only these; all if empty.
    pub platforms: Vec<Platform>,
    /// A single image becomes an index too.
    pub prefer_index: bool,
}

/// What was made, not yet written anywhere.
#[derive(Debug)]
pub struct Combined {
    /// The document.
    pub descriptor: Descriptor,
    /// Its bytes.
    pub bytes: Bytes,
    /// What it consists of, and where that is.
    pub(super) members: Vec<(Place, Descriptor)>,
    /// For `index.json` of a layout.
    pub(super) entry: std::collections::BTreeMap<String, String>,
}

fn usage(text: impl Into<String>) -> ImageError {
    ImageError::Usage(text.into())
}

impl RemoteImages {
    /// Makes the document. Nothing is written.
    ///
    /// # Errors
    /// If a source cannot be had, or the wish makes no sense.
    pub async fn combine(&self, wish: &Combination) -> Result<Combined, ImageError> {
        let places = places(wish)?;
        let looked = try_join_all(places.iter().map(|place| self.look(place))).await?;
        let entry = wish.annotations.of(Level::IndexDescriptor, None);
        let plain =
            wish.annotations.of(Level::Index, None).is_empty() && !wish.annotations.has(Level::ManifestDescriptor);
        if let ([one], true) = (looked.as_slice(), plain && wish.platforms.is_empty()) {
            // As it is, to the last byte.
            if one.index().is_some() || !wish.prefer_index {
                let members = match one.index() {
                    Some(index) => index.manifests.iter().map(|d| (one.place.clone(), d.clone())).collect(),
                    None => vec![(one.place.clone(), one.descriptor.clone())],
                };
                return Ok(Combined { descriptor: one.descriptor.clone(), bytes: one.bytes.clone(), members, entry });
            }
        }
        let mut members: Vec<(Place, Descriptor)> = Vec::new();
        for (one, part) in looked.iter().zip(&wish.sources) {
            match &one.document {
                Document::Index(index) => {
                    index.manifests.iter().for_each(|d| add(&mut members, &one.place, d.clone()));
                }
                Document::Manifest(_) => add(&mut members, &one.place, self.entry(one, part).await?),
            }
        }
        keep(&mut members, &wish.platforms)?;
        let docker = members.iter().all(|(_, d)| d.media_type.starts_with("application/vnd.docker."));
        // Only OCI's indexes have annotations.
        let kind = if docker && plain { media_type::DOCKER_INDEX } else { media_type::OCI_INDEX };
        for (_, descriptor) in &mut members {
            let platform = descriptor.platform.clone().map(|p| p.normalised());
            descriptor.annotations.extend(wish.annotations.of(Level::ManifestDescriptor, platform.as_ref()));
        }
        let mut index = Index::new(members.iter().map(|(_, d)| d.clone()).collect());
        index.media_type = kind.into();
        index.annotations = wish.annotations.of(Level::Index, None);
        let bytes = Bytes::from(to_json_pretty(&index));
        Ok(Combined { descriptor: Descriptor::of_bytes(kind, &bytes), bytes, members, entry })
    }

    /// The entry of an index for a single image.
    async fn entry(&self, one: &Looked, part: &Part) -> Result<Descriptor, ImageError> {
        let mut entry = Descriptor { annotations: Default::default(), ..one.descriptor.clone() };
        if let Some(more) = &part.more {
            if more.size != 0 && more.size != entry.size {
                let text = format!("invalid size mismatch for {}, {} != {}", entry.digest, entry.size, more.size);
                return Err(usage(text));
            }
            if !more.media_type.is_empty() {
                entry.media_type = more.media_type.clone();
            }
            entry.annotations = more.annotations.clone();
            entry.platform = more.platform.clone();
            entry.artifact_type = more.artifact_type.clone();
        }
        if let (None, Document::Manifest(manifest)) = (&entry.platform, &one.document) {
            let bytes = one.place.small(&self.client, &manifest.config).await?;
            // The config of an artifact need not be one of an image.
            let config = serde_json::from_slice::<ImageConfig>(&bytes).ok().map(|config| config.platform());
            entry.platform = config.filter(|platform| !platform.architecture.is_empty());
        }
        Ok(entry)
    }
}

/// Where each source is: those that name a digest only are in the one repository that is named.
fn places(wish: &Combination) -> Result<Vec<Place>, ImageError> {
    if wish.sources.is_empty() {
        return Err(usage("no sources specified"));
    }
    let named: Vec<&Place> = wish.targets.iter().chain(wish.sources.iter().filter_map(|s| s.place.as_ref())).collect();
    let mut repositories: Vec<String> = named.iter().map(|place| place.repository()).collect();
    repositories.sort();
    repositories.dedup();
    let home = |digest: &Digest| match (named.first(), repositories.as_slice()) {
        (Some(place), [_]) => Ok(place.at(digest)),
        (None, _) => Err(usage("no repositories specified, please set a reference in tag or source")),
        _ => Err(usage(format!(
            "multiple repositories specified, so {digest} could be in any of {}",
            repositories.join(", ")
        ))),
    };
    wish.sources
        .iter()
        .map(|source| match (&source.place, &source.digest) {
            (Some(place), None) => Ok(place.clone()),
            (Some(place), Some(digest)) => Ok(place.at(digest)),
            (None, Some(digest)) => home(digest),
            (None, None) => Err(usage("no sources specified")),
        })
        .collect()
}

/// Of one digest there is one entry; what later ones say about it is added.
fn add(members: &mut Vec<(Place, Descriptor)>, place: &Place, descriptor: Descriptor) {
    match members.iter_mut().find(|(_, known)| known.digest == descriptor.digest) {
        None => members.push((place.clone(), descriptor)),
        Some((_, known)) => {
            known.platform = descriptor.platform.or(known.platform.take());
            known.annotations.extend(descriptor.annotations);
        }
    }
}

/// Keeps the images for some platforms, and what attests them.
fn keep(members: &mut Vec<(Place, Descriptor)>, platforms: &[Platform]) -> Result<(), ImageError> {
    if platforms.is_empty() {
        return Ok(());
    }
    let wanted = |d: &Descriptor| d.platform.as_ref().is_some_and(|have| platforms.contains(&have.normalised()));
    for platform in platforms {
        let there = members.iter().any(|(_, d)| d.platform.as_ref().is_some_and(|have| have.normalised() == *platform));
        if !there {
            return Err(usage(format!("no source has an image for {platform}")));
        }
    }
    let kept: Vec<String> =
        members.iter().filter(|(_, d)| is_image(d) && wanted(d)).map(|(_, d)| d.digest.to_string()).collect();
    members.retain(|(_, d)| match d.annotations.get(REFERENCE_DIGEST) {
        Some(about) => kept.contains(about),
        None => kept.contains(&d.digest.to_string()),
    });
    Ok(())
}
