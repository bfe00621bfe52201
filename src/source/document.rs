//! From the document a name means to the image for one platform: pure decisions over fetched bytes.

use bytes::Bytes;

use super::SourceError;
use crate::base::{ChainId, DiffId, Digest};
use crate::oci::manifest::{Document, parse_document};
use crate::oci::{Descriptor, ImageConfig, Index, Manifest, Platform, media_type};

/// Index in index in index: no deeper.
pub(super) const MAX_DEPTH: usize = 4;

/// An image for one platform.
#[derive(Debug)]
pub(super) struct Image {
    /// What the name means: the index, where there is one.
    pub(super) root: Digest,
    pub(super) manifest: Manifest,
    /// As it was received.
    pub(super) config: Bytes,
    pub(super) diff_ids: Vec<DiffId>,
}

/// What a document leads to.
#[derive(Debug)]
pub(super) enum Next {
    /// Further down.
    Document(Descriptor),
    /// The end of the way.
    Manifest(Manifest),
}

/// Reads a document; in an index it chooses the entry for `wanted`.
pub(super) fn read(name: &str, bytes: &[u8], kind: &str, wanted: &Platform) -> Result<Next, SourceError> {
    let not_an_image = |reason: String| SourceError::NotAnImage { name: name.to_owned(), reason };
    match parse_document(bytes, kind).map_err(|e| not_an_image(e.to_string()))? {
        Document::Manifest(manifest) => Ok(Next::Manifest(manifest)),
        Document::Index(index) => match choose(&index, wanted) {
            Some(descriptor) => Ok(Next::Document(descriptor.clone())),
            None => Err(SourceError::NoPlatform {
                name: name.to_owned(),
                wanted: wanted.to_string(),
                available: available(&index),
            }),
        },
    }
}

/// What a document leads to for a platform: the next document, or, of a manifest, nothing.
///
/// # Errors
/// If it is no document of an image, or has nothing for the platform.
pub fn below(name: &str, bytes: &[u8], kind: &str, wanted: &Platform) -> Result<Option<Descriptor>, SourceError> {
    match read(name, bytes, kind, wanted)? {
        Next::Document(descriptor) => Ok(Some(descriptor)),
        Next::Manifest(manifest) => check_manifest(name, &manifest).map(|()| None),
    }
}

/// The best entry for `wanted`; the first of equals.
#[must_use]
pub fn choose<'a>(index: &'a Index, wanted: &Platform) -> Option<&'a Descriptor> {
    let mut candidates = vec![wanted.clone()];
    // What such a machine also runs, if there is nothing of its own kind.
    let wanted = wanted.normalised();
    match wanted.architecture.as_str() {
        "amd64" => candidates.push(Platform::new(&wanted.os, "386", "")),
        "arm64" => candidates.push(Platform::new(&wanted.os, "arm", "v8")),
        _ => {}
    }
    for candidate in &candidates {
        let best = images(index)
            .filter_map(|d| Some((d.platform.as_ref()?.serves(candidate)?, d)))
            .min_by_key(|(distance, _)| *distance);
        if let Some((_, descriptor)) = best {
            return Some(descriptor);
        }
    }
    // Nothing says what it is for: a single image will be meant.
    let mut untold = images(index).filter(|d| d.platform.is_none());
    match (untold.next(), untold.next(), images(index).count()) {
        (Some(only), None, 1) => Some(only),
        _ => None,
    }
}

/// Entries that are images, not attestations about them (SPEC C8.01).
fn images(index: &Index) -> impl Iterator<Item = &Descriptor> {
    index.manifests.iter().filter(|d| {
        let unknown = d.platform.as_ref().is_some_and(|p| p.os == "unknown" && p.architecture == "unknown");
        !unknown && !d.annotations.contains_key("vnd.docker.reference.type")
    })
}

/// The platforms that an index has images for, in order; `None` if the document is no index.
pub(super) fn platforms(document: &[u8]) -> Option<Vec<Platform>> {
    let Ok(Document::Index(index)) = parse_document(document, "") else { return None };
    let mut found: Vec<Platform> = Vec::new();
    for platform in images(&index).filter_map(|descriptor| descriptor.platform.as_ref()) {
        let platform = platform.normalised();
        if !found.contains(&platform) {
            found.push(platform);
        }
    }
    Some(found)
}

fn available(index: &Index) -> String {
    let mut names: Vec<String> = Vec::new();
    for platform in images(index).filter_map(|d| d.platform.as_ref()) {
        let name = platform.normalised().to_string();
        if !names.contains(&name) {
            names.push(name);
        }
    }
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

/// Checks that a manifest is that of a container image, before its config is fetched.
pub(super) fn check_manifest(name: &str, manifest: &Manifest) -> Result<(), SourceError> {
    let reason = if let Some(layer) = manifest.layers.iter().find(|l| media_type::layer_codec(&l.media_type).is_none())
    {
        format!("not a container image: layer of media type \"{}\"", layer.media_type)
    } else if manifest.layers.is_empty() && manifest.artifact_type.is_some() {
        format!("not a container image: artifact of type \"{}\"", manifest.artifact_type.as_deref().unwrap_or_default())
    } else {
        return Ok(());
    };
    Err(SourceError::NotAnImage { name: name.to_owned(), reason })
}

impl Image {
    /// Puts the parts together and checks that they fit.
    pub(super) fn new(name: &str, root: Digest, manifest: Manifest, config: Bytes) -> Result<Self, SourceError> {
        let not_an_image = |reason: String| SourceError::NotAnImage { name: name.to_owned(), reason };
        let parsed: ImageConfig =
            serde_json::from_slice(&config).map_err(|e| not_an_image(format!("invalid image config: {e}")))?;
        let diff_ids = parsed.rootfs.diff_ids;
        if diff_ids.len() != manifest.layers.len() {
            return Err(not_an_image(format!(
                "the manifest has {} layers, the config {}",
                manifest.layers.len(),
                diff_ids.len()
            )));
        }
        Ok(Self { root, manifest, config, diff_ids })
    }

    /// The layers, bottom first, with their identities.
    pub(super) fn layers(&self) -> Vec<(ChainId, &DiffId, &Descriptor)> {
        let mut chain: Option<ChainId> = None;
        let mut out = Vec::with_capacity(self.diff_ids.len());
        for (diff_id, descriptor) in self.diff_ids.iter().zip(&self.manifest.layers) {
            let id = ChainId::extend(chain.as_ref(), diff_id);
            out.push((id.clone(), diff_id, descriptor));
            chain = Some(id);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(n: u8, platform: Option<&str>) -> Descriptor {
        let mut d = Descriptor::new(media_type::OCI_MANIFEST, Digest::sha256([n]), 1);
        d.platform = platform.map(|p| match p {
            "unknown" => Platform { os: "unknown".into(), architecture: "unknown".into(), ..Platform::default() },
            p => p.parse().expect("valid"),
        });
        d
    }

    fn chosen(entries: &[Descriptor], wanted: &str) -> Option<usize> {
        let index = Index::new(entries.to_vec());
        let found = choose(&index, &wanted.parse().expect("valid"))?;
        index.manifests.iter().position(|d| d == found)
    }

    #[test]
    fn c2_01_the_best_platform_is_chosen() {
        let all = [
            entry(0, Some("linux/arm/v6")),
            entry(1, Some("linux/arm/v7")),
            entry(2, Some("linux/amd64")),
            entry(3, Some("linux/arm64")),
            entry(4, Some("linux/amd64")),
            entry(5, Some("windows/amd64")),
            entry(6, Some("linux/386")),
            entry(7, Some("unknown")),
        ];
        assert_eq!(chosen(&all, "linux/amd64"), Some(2), "the first of equals");
        assert_eq!(chosen(&all, "linux/arm64"), Some(3));
        assert_eq!(chosen(&all, "linux/arm/v7"), Some(1));
        assert_eq!(chosen(&all, "linux/arm/v8"), Some(1), "the nearest older variant");
        assert_eq!(chosen(&all, "linux/arm/v5"), None);
        assert_eq!(chosen(&all, "windows/amd64"), Some(5));
        assert_eq!(chosen(&all, "linux/riscv64"), None);
        assert_eq!(chosen(&all[..2], "linux/arm64"), Some(1), "a 64-bit machine runs 32-bit code, if need be");
        assert_eq!(chosen(&all[6..], "linux/amd64"), Some(0));
    }

    #[test]
    fn entries_without_a_platform() {
        assert_eq!(chosen(&[entry(0, None)], "linux/amd64"), Some(0));
        assert_eq!(chosen(&[entry(0, None), entry(1, Some("unknown"))], "linux/amd64"), Some(0));
        assert_eq!(chosen(&[entry(0, None), entry(1, None)], "linux/amd64"), None);
        let mut attestation = entry(1, None);
        attestation.annotations.insert("vnd.docker.reference.type".into(), "attestation-manifest".into());
        assert_eq!(chosen(&[entry(0, None), attestation], "linux/amd64"), Some(0));
    }

    #[test]
    fn what_is_available_is_listed() {
        let index = Index::new(vec![
            entry(0, Some("linux/arm64/v8")),
            entry(1, Some("linux/amd64")),
            entry(2, Some("linux/amd64")),
            entry(3, Some("unknown")),
        ]);
        let bytes = serde_json::to_vec(&index).expect("serialises");
        let error = read("r.example/a:1", &bytes, "", &"linux/s390x".parse().expect("valid")).expect_err("no such");
        assert_eq!(
            error.to_string(),
            "failed to resolve source metadata for r.example/a:1: no image for platform linux/s390x, only for \
             linux/arm64, linux/amd64"
        );
        assert!(error.hint().is_some_and(|h| h.contains("--platform=linux/arm64")));
    }

    #[test]
    fn artifacts_are_no_images() {
        let d = |kind: &str| format!(r#"{{"mediaType":"{kind}","digest":"{}","size":2}}"#, Digest::sha256(b"{}"));
        let manifest = |layers: &str, more: &str| {
            let text = format!(r#"{{"schemaVersion":2,"config":{},"layers":[{layers}]{more}}}"#, d("application/json"));
            match read("n", text.as_bytes(), "", &Platform::host()).expect("a manifest") {
                Next::Manifest(manifest) => manifest,
                Next::Document(_) => panic!("an index?"),
            }
        };
        let chart = manifest(&d("application/vnd.cncf.helm.chart.content.v1.tar+gzip"), "");
        let error = check_manifest("n", &chart).expect_err("a chart").to_string();
        assert!(error.contains("not a container image") && error.contains("helm"), "{error}");
        assert!(check_manifest("n", &manifest("", r#","artifactType":"x/y""#)).is_err());
        let layer = manifest(&d(media_type::OCI_LAYER_GZIP), "");
        assert!(check_manifest("n", &layer).is_ok());
        let error = Image::new("n", Digest::sha256(b""), layer, "{}".into()).expect_err("no diff ids").to_string();
        assert!(error.contains("the manifest has 1 layers, the config 0"), "{error}");
    }
}
