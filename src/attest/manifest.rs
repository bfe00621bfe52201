//! The manifest that holds the statements about an image (SPEC C8.01–C8.03).

use std::collections::BTreeMap;

use serde_json::json;

use super::predicate::{SLSA_V1, SLSA_V02};
use super::statement::Statement;
use crate::oci::manifest::to_json_pretty;
use crate::oci::media_type::{self, Family};
use crate::oci::{Descriptor, Manifest, Platform};

/// What marks an entry of an index as one about another.
const REFERENCE_TYPE: &str = "vnd.docker.reference.type";
/// Which image such an entry is about.
pub const REFERENCE_DIGEST: &str = "vnd.docker.reference.digest";
const ATTESTATION: &str = "attestation-manifest";
/// What a layer of the manifest says.
pub const PREDICATE_TYPE: &str = "in-toto.io/predicate-type";

/// A manifest of statements, and the blobs it consists of.
#[derive(Debug, Clone)]
pub struct AttestationManifest {
    /// As the index lists it.
    pub descriptor: Descriptor,
    /// Its exact bytes.
    pub bytes: Vec<u8>,
    /// Config and statements, with their bytes.
    pub blobs: Vec<(Descriptor, Vec<u8>)>,
}

/// Makes the manifest of what is said about `image`. As an `artifact` it names the image as its subject; the older form has
/// a config like that of an image.
#[must_use]
pub fn manifest(
    image: &Descriptor,
    statements: &[(Statement, Vec<u8>)],
    family: Family,
    artifact: bool,
) -> AttestationManifest {
    let layers: Vec<Descriptor> = statements
        .iter()
        .map(|(statement, bytes)| {
            let mut layer = Descriptor::of_bytes(media_type::IN_TOTO, bytes);
            layer.annotations.insert(PREDICATE_TYPE.into(), statement.predicate_type.clone());
            layer
        })
        .collect();
    let config_bytes = if artifact { b"{}".to_vec() } else { config(&layers) };
    let config_type = if artifact { media_type::OCI_EMPTY } else { family.config() };
    let config = Descriptor::of_bytes(config_type, &config_bytes);
    let subject = Descriptor { annotations: BTreeMap::new(), platform: None, ..image.clone() };
    let manifest = Manifest {
        schema_version: 2,
        media_type: family.manifest().into(),
        artifact_type: artifact.then(|| media_type::DOCKER_ATTESTATION.into()),
        config: config.clone(),
        layers: layers.clone(),
        subject: artifact.then_some(subject),
        annotations: BTreeMap::new(),
    };
    let bytes = to_json_pretty(&manifest);
    let mut descriptor = Descriptor::of_bytes(family.manifest(), &bytes);
    descriptor.annotations.insert(REFERENCE_DIGEST.into(), image.digest.to_string());
    descriptor.annotations.insert(REFERENCE_TYPE.into(), ATTESTATION.into());
    descriptor.platform = Some(Platform::new("unknown", "unknown", ""));
    let mut blobs = vec![(config, config_bytes)];
    blobs.extend(layers.into_iter().zip(statements).map(|(layer, (_, bytes))| (layer, bytes.clone())));
    AttestationManifest { descriptor, bytes, blobs }
}

/// The entry among those of an index that says something about an image.
#[must_use]
pub fn about<'a>(entries: &'a [Descriptor], image: &Descriptor) -> Option<&'a Descriptor> {
    entries.iter().find(|entry| {
        is_attestation(entry)
            && entry.annotations.get(REFERENCE_DIGEST).is_some_and(|digest| digest == image.digest.as_str())
    })
}

/// Whether an entry of an index is a manifest of attestations.
#[must_use]
pub fn is_attestation(entry: &Descriptor) -> bool {
    entry.annotations.get(REFERENCE_TYPE).is_some_and(|kind| kind == ATTESTATION)
}

/// The type of the predicate that a layer of such a manifest holds.
#[must_use]
pub fn predicate_type(layer: &Descriptor) -> Option<&str> {
    layer.annotations.get(PREDICATE_TYPE).map(String::as_str)
}

/// The layer of such a manifest that holds provenance, in either of SLSA's forms, and its type.
#[must_use]
pub fn provenance(manifest: &Manifest) -> Option<(&str, &Descriptor)> {
    manifest.layers.iter().find_map(|layer| {
        let kind = layer.annotations.get(PREDICATE_TYPE)?.as_str();
        [SLSA_V1, SLSA_V02].contains(&kind).then_some((kind, layer))
    })
}

/// The layer of such a manifest that holds a predicate of a type.
#[must_use]
pub fn layer<'a>(manifest: &'a Manifest, predicate_type: &str) -> Option<&'a Descriptor> {
    manifest
        .layers
        .iter()
        .find(|layer| layer.annotations.get(PREDICATE_TYPE).is_some_and(|kind| kind == predicate_type))
}

/// The config of an image that is none.
fn config(layers: &[Descriptor]) -> Vec<u8> {
    let diff_ids: Vec<&str> = layers.iter().map(|layer| layer.digest.as_str()).collect();
    let config = json!({
        "architecture": "unknown",
        "os": "unknown",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    serde_json::to_vec(&config).expect("because the keys are strings")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attest::statement::{SPDX, STATEMENT, Subject};
    use crate::base::Digest;

    fn made(artifact: bool) -> (Descriptor, AttestationManifest) {
        let mut image = Descriptor::of_bytes(media_type::OCI_MANIFEST, b"image");
        image.platform = Some("linux/amd64".parse().expect("valid"));
        let statement = Statement {
            kind: STATEMENT.into(),
            predicate_type: SPDX.into(),
            subject: vec![Subject::new("_", &Digest::sha256("image"))],
            predicate: json!({}),
        };
        let bytes = statement.to_bytes();
        let made = manifest(&image, &[(statement, bytes)], Family::Oci, artifact);
        (image, made)
    }

    // SPEC C8.01, C8.02
    #[test]
    fn c8_02_an_artifact_names_its_subject() {
        let (image, made) = made(true);
        let text = String::from_utf8(made.bytes.clone()).expect("text");
        insta::assert_snapshot!("attestation_manifest", text);
        let entry = serde_json::to_string_pretty(&made.descriptor).expect("JSON");
        insta::assert_snapshot!("attestation_entry", entry);
        assert_eq!(
            made.blobs[0].0.digest.as_str(),
            "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
        );
        let entries = [image.clone(), made.descriptor];
        assert_eq!(about(&entries, &image), Some(&entries[1]));
        let parsed: Manifest = serde_json::from_slice(&made.bytes).expect("a manifest");
        assert_eq!(layer(&parsed, SPDX).map(|l| &l.digest), Some(&made.blobs[1].0.digest));
        assert_eq!(layer(&parsed, "other"), None);
    }

    // SPEC C8.03
    #[test]
    fn c8_03_the_older_form_looks_like_an_image() {
        let (_, made) = made(false);
        let parsed: Manifest = serde_json::from_slice(&made.bytes).expect("a manifest");
        assert_eq!((parsed.artifact_type, parsed.subject), (None, None));
        assert_eq!(parsed.config.media_type, media_type::OCI_CONFIG);
        let config: serde_json::Value = serde_json::from_slice(&made.blobs[0].1).expect("JSON");
        assert_eq!(config["architecture"], "unknown");
        assert_eq!(config["rootfs"]["diff_ids"][0], made.blobs[1].0.digest.as_str());
    }
}
