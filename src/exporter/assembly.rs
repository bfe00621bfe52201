//! The images of all platforms, what is said about them, and, where there is more than one document, the index over them
//! (SPEC C6.11, C8.01).

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;

use super::annotations::Level;
use super::image::{self, Assembled};
use super::spec::{COMPATIBILITY, ImageOptions};
use super::{BuildResult, ExportContext, ExportError, OutputSpec, blocking};
use crate::attest::manifest::{self, AttestationManifest};
use crate::attest::statement::{Exported, Statement};
use crate::attest::{Attestation, Subject};
use crate::base::Digest;
use crate::oci::manifest::{Document as Parsed, parse_document, to_json_pretty};
use crate::oci::media_type::Family;
use crate::oci::{Descriptor, Index, Manifest, Platform, Reference, media_type};
use crate::store::{LayerId, Store};

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
    /// What is said about them.
    pub attested: Vec<Attested>,
    /// Over them, if the build is for several platforms or something is said about an image.
    pub index: Option<Document>,
}

/// What is said about one image.
#[derive(Debug, Clone)]
pub struct Attested {
    /// The manifest that the index lists.
    pub manifest: Document,
    /// Its config and the statements.
    pub blobs: Vec<Document>,
}

/// Derives all blobs and writes manifests, configs and the index into the store.
pub(super) async fn assemble(
    context: &ExportContext<'_>,
    result: &BuildResult,
    spec: &OutputSpec,
    id: &Digest,
) -> Result<Assembly, ExportError> {
    let attests =
        result.images.iter().any(|image| image.attestations.iter().any(|a| spec.takes(a.inline_only, a.unasked)));
    let options = &for_attestations(&spec.image, attests);
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
    if !result.multi && !attests && !spec.append {
        return Ok(Assembly { images, attested: Vec::new(), index: None });
    }
    let mut attested = Vec::new();
    for (platform, image) in result.images.iter().zip(&images) {
        let wanted = platform.attestations.iter().filter(|a| spec.takes(a.inline_only, a.unasked)).cloned().collect();
        attested.extend(attest(context, wanted, image, spec, options, id).await?);
    }
    let mut assembly = Assembly { images, attested, index: None };
    // What an index keeps is known when its name is given. Until then it can be told whether there is one at all.
    if spec.append {
        let (store, names, new) = (context.store.clone(), spec.names.clone(), assembly.images.clone());
        blocking(move || kept(&store, &names, &new).map(drop)).await?;
    }
    assembly.index = Some(index(&assembly, options, Vec::new()));
    if let Some(Document { descriptor, bytes }) = assembly.index.clone() {
        context.events.progress(id, format!("exporting manifest list {}", descriptor.digest), 0, None, true);
        let store = context.store.clone();
        blocking(move || Ok(store.put_blob(&bytes).map(drop)?)).await?;
    }
    Ok(assembly)
}

/// Adds to the index what stays of the one that has its name (`append=true`). Whoever calls this holds [`Store::lock_names`] until
/// the name is given.
pub(super) async fn with_kept(
    context: &ExportContext<'_>,
    spec: &OutputSpec,
    mut assembly: Assembly,
) -> Result<Assembly, ExportError> {
    let attests = !assembly.attested.is_empty();
    let options = for_attestations(&spec.image, attests);
    let (store, names) = (context.store.clone(), spec.names.clone());
    blocking(move || {
        let kept = kept(&store, &names, &assembly.images)?;
        let made = index(&assembly, &options, kept);
        store.put_blob(&made.bytes)?;
        assembly.index = Some(made);
        Ok(assembly)
    })
    .await
}

/// The index over the images of an assembly and those that it keeps.
fn index(assembly: &Assembly, options: &ImageOptions, kept: Vec<Descriptor>) -> Document {
    let images = assembly.images.iter().map(|i| i.descriptor.clone());
    let about = assembly.attested.iter().map(|a| a.manifest.descriptor.clone());
    let index = Index {
        media_type: options.family.index().into(),
        annotations: options.annotations.of(Level::Index, None),
        ..Index::new(kept.into_iter().chain(images).chain(about).collect())
    };
    let bytes = to_json_pretty(&index);
    let mut descriptor = Descriptor::of_bytes(options.family.index(), &bytes);
    descriptor.annotations = options.annotations.of(Level::IndexDescriptor, None);
    Document { descriptor, bytes: bytes.into() }
}

/// What the index of that name in the store keeps: its images of other platforms than the new ones, and what is said about them.
fn kept(store: &Store, names: &[Reference], images: &[Assembled]) -> Result<Vec<Descriptor>, ExportError> {
    let Some(name) = names.first() else { return Ok(Vec::new()) };
    let platform = |entry: &Descriptor| entry.platform.as_ref().map(Platform::normalised);
    let new: Vec<Option<Platform>> = images.iter().map(|image| platform(&image.descriptor)).collect();
    let Some(record) = store.image(name)? else { return Ok(Vec::new()) };
    let root = record.descriptor;
    let Ok(Parsed::Index(index)) = parse_document(&store.read_blob(&root.digest)?, &root.media_type) else {
        let text = format!("append=true: {} is a single image, not an index", name.familiar());
        return Err(ExportError::Usage(text));
    };
    let entries = &index.manifests;
    let stays = entries.iter().filter(|entry| !manifest::is_attestation(entry) && !new.contains(&platform(entry)));
    let with_attestation = |entry: &Descriptor| {
        let about = manifest::about(entries, entry).cloned();
        std::iter::once(entry.clone()).chain(about).collect::<Vec<_>>()
    };
    Ok(stays.flat_map(with_attestation).collect())
}

/// Images with attestations have OCI's media types unless others were asked for (SPEC C6.03).
fn for_attestations(options: &ImageOptions, attests: bool) -> ImageOptions {
    let family = if attests && !options.family_given { Family::Oci } else { options.family };
    ImageOptions { family, ..options.clone() }
}

/// Makes the statements about one image and puts them into the store.
async fn attest(
    context: &ExportContext<'_>,
    attestations: Vec<Attestation>,
    image: &Assembled,
    spec: &OutputSpec,
    options: &ImageOptions,
    id: &Digest,
) -> Result<Option<Attested>, ExportError> {
    if attestations.is_empty() {
        return Ok(None);
    }
    let (store, image, names) = (context.store.clone(), image.clone(), spec.names.clone());
    let compatibility = options.compatibility.unwrap_or(COMPATIBILITY);
    let (family, artifact) = (options.family, options.artifact.unwrap_or(options.family == Family::Oci));
    let made = blocking(move || {
        let platform = image.descriptor.platform.clone().unwrap_or_default();
        let blob = |layer: &LayerId| image.layers.iter().find(|l| l.id == *layer).map(|l| l.descriptor.clone());
        let indexes = match attestations.iter().any(Attestation::names_files) {
            true => {
                let chain: Vec<LayerId> = image.layers.iter().map(|layer| layer.id.clone()).collect();
                store.tree_indexes(&chain)?.unwrap_or_default()
            }
            false => Vec::new(),
        };
        let file = |path: &Path| {
            let newest = indexes.iter().rposition(|index| index.lookup(path).is_some())?;
            Some(image.layers.get(newest)?.descriptor.digest.clone())
        };
        let exported = Exported { layer: &blob, file: &file, compatibility: Some(compatibility) };
        let mut statements = Vec::new();
        for attestation in &attestations {
            let subject = Subject::image(&names, &platform, &image.descriptor.digest);
            let statement = attestation.statement(subject, &exported);
            // Nobody asked for another record of the same: an unchanged image keeps its digest.
            let known = if attestation.unasked { earlier(&store, &names, &image.descriptor, &statement) } else { None };
            let bytes = known.unwrap_or_else(|| statement.to_bytes());
            statements.push((statement, bytes));
        }
        let made = manifest::manifest(&image.descriptor, &statements, family, artifact);
        for (_, bytes) in &made.blobs {
            store.put_blob(bytes)?;
        }
        store.put_blob(&made.bytes)?;
        Ok(made)
    })
    .await?;
    let AttestationManifest { descriptor, bytes, blobs } = made;
    context.events.progress(id, format!("exporting attestation manifest {}", descriptor.digest), 0, None, true);
    let document = |(descriptor, bytes): (Descriptor, Vec<u8>)| Document { descriptor, bytes: bytes.into() };
    let blobs = blobs.into_iter().map(document).collect();
    Ok(Some(Attested { manifest: document((descriptor, bytes)), blobs }))
}

/// The statement that an image of these names carries, if it says the same of an earlier run. What cannot be read is none.
fn earlier(store: &Store, names: &[Reference], image: &Descriptor, statement: &Statement) -> Option<Vec<u8>> {
    names.iter().find_map(|name| {
        let root = store.image(name).ok()??.descriptor;
        let index = parse_document(&store.read_blob(&root.digest).ok()?, &root.media_type).ok()?;
        let Parsed::Index(index) = index else { return None };
        let entry = manifest::about(&index.manifests, image)?;
        let listed: Manifest = serde_json::from_slice(&store.read_blob(&entry.digest).ok()?).ok()?;
        let bytes = store.read_blob(&manifest::layer(&listed, &statement.predicate_type)?.digest).ok()?;
        let known: Statement = serde_json::from_slice(&bytes).ok()?;
        known.is_same_but_for_the_run(statement).then_some(bytes)
    })
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
    pub(super) fn children(&self) -> Vec<Document> {
        if self.index.is_none() {
            return Vec::new();
        }
        let images = self
            .images
            .iter()
            .map(|image| Document { descriptor: image.descriptor.clone(), bytes: image.manifest_bytes.clone() });
        images.chain(self.attested.iter().map(|attested| attested.manifest.clone())).collect()
    }

    /// Every document but the attestation manifests: what a record of the build keeps (SPEC B8.07).
    pub(super) fn parts(&self) -> Vec<Document> {
        let mut parts: Vec<Document> = self.index.iter().cloned().collect();
        for image in &self.images {
            let platform = &image.descriptor.platform;
            let of_platform = |descriptor: &Descriptor, bytes: &Bytes| Document {
                descriptor: Descriptor { platform: platform.clone(), ..descriptor.clone() },
                bytes: bytes.clone(),
            };
            parts.push(of_platform(&image.descriptor, &image.manifest_bytes));
            parts.push(of_platform(&image.config, &image.config_bytes));
            let said = self.attested.iter().filter(|attested| {
                manifest::about(std::slice::from_ref(&attested.manifest.descriptor), &image.descriptor).is_some()
            });
            let statements = said.flat_map(|attested| &attested.blobs);
            let statements = statements.filter(|blob| blob.descriptor.media_type == media_type::IN_TOTO);
            parts.extend(statements.map(|blob| of_platform(&blob.descriptor, &blob.bytes)));
        }
        parts
    }

    /// The image ID: only a single image has one (SPEC B2.12).
    pub(super) fn config(&self) -> Option<Digest> {
        if self.index.is_some() { None } else { self.images.first().map(|i| i.config.digest.clone()) }
    }

    /// RFC 3339 time of the newest image; empty if none has one.
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
    if !created.is_empty() {
        annotations.insert(image::CREATED.into(), created.to_owned());
    }
    if let Some(name) = name {
        annotations.insert("io.containerd.image.name".into(), name.to_string());
        if let Some(tag) = &name.tag {
            annotations.insert("org.opencontainers.image.ref.name".into(), tag.clone());
        }
    }
    annotations
}
