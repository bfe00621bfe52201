//! Media types of both families (SPEC E4).

/// OCI image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// OCI image index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// OCI image config.
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// OCI layer, not compressed.
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// OCI layer, gzip.
pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// OCI layer, zstd.
pub const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
/// The config of an artifact that has none: `{}`.
pub const OCI_EMPTY: &str = "application/vnd.oci.empty.v1+json";
/// A statement about an image.
pub const IN_TOTO: &str = "application/vnd.in-toto+json";
/// The artifact that holds statements.
pub const DOCKER_ATTESTATION: &str = "application/vnd.docker.attestation.manifest.v1+json";
/// Docker manifest, schema 2.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker manifest list.
pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Docker image config.
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
/// Docker layer, not compressed.
pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
/// Docker layer, gzip.
pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
/// Docker layer, zstd (seen in the wild).
pub const DOCKER_LAYER_ZSTD: &str = "application/vnd.docker.image.rootfs.diff.tar.zstd";

/// The Accept header of a manifest request (SPEC E4.01).
pub const MANIFEST_ACCEPT: &str = "application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, */*";

/// Which family of media types an image is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Family {
    /// `application/vnd.oci.*`, the default.
    #[default]
    Oci,
    /// `application/vnd.docker.*`.
    Docker,
}

/// How the bytes of a layer blob are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Codec {
    /// A plain tar.
    Uncompressed,
    /// gzip, the default.
    #[default]
    Gzip,
    /// zstd.
    Zstd,
}

impl Family {
    /// The manifest's type.
    #[must_use]
    pub fn manifest(self) -> &'static str {
        if self == Self::Oci { OCI_MANIFEST } else { DOCKER_MANIFEST }
    }

    /// The index's type.
    #[must_use]
    pub fn index(self) -> &'static str {
        if self == Self::Oci { OCI_INDEX } else { DOCKER_INDEX }
    }

    /// The config's type.
    #[must_use]
    pub fn config(self) -> &'static str {
        if self == Self::Oci { OCI_CONFIG } else { DOCKER_CONFIG }
    }

    /// The type of a layer of this codec.
    #[must_use]
    pub fn layer(self, codec: Codec) -> &'static str {
        match (self, codec) {
            (Self::Oci, Codec::Uncompressed) => OCI_LAYER,
            (Self::Oci, Codec::Gzip) => OCI_LAYER_GZIP,
            (Self::Oci, Codec::Zstd) => OCI_LAYER_ZSTD,
            (Self::Docker, Codec::Uncompressed) => DOCKER_LAYER,
            (Self::Docker, Codec::Gzip) => DOCKER_LAYER_GZIP,
            (Self::Docker, Codec::Zstd) => DOCKER_LAYER_ZSTD,
        }
    }
}

impl Family {
    /// The type of a layer that must not be distributed (SPEC E4.06). Docker has none for zstd; it gets OCI's.
    #[must_use]
    pub fn foreign_layer(self, codec: Codec) -> &'static str {
        match (self, codec) {
            (Self::Docker, Codec::Uncompressed) => "application/vnd.docker.image.rootfs.foreign.diff.tar",
            (Self::Docker, Codec::Gzip) => "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            (Self::Oci, Codec::Uncompressed) => "application/vnd.oci.image.layer.nondistributable.v1.tar",
            (Self::Oci, Codec::Gzip) => "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
            (_, Codec::Zstd) => "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
        }
    }
}

/// Whether `media_type` names an index or manifest list.
#[must_use]
pub fn is_index(media_type: &str) -> bool {
    matches!(media_type, OCI_INDEX | DOCKER_INDEX)
}

/// Whether `media_type` names an image manifest.
#[must_use]
pub fn is_manifest(media_type: &str) -> bool {
    matches!(media_type, OCI_MANIFEST | DOCKER_MANIFEST)
}

/// The codec a layer's media type promises; `None` for types that are not layers.
#[must_use]
pub fn layer_codec(media_type: &str) -> Option<Codec> {
    // Foreign layers differ only in the word before the suffix (SPEC E4.06).
    let is_layer = media_type.contains(".image.layer.") || media_type.contains(".image.rootfs.");
    if !is_layer {
        return None;
    }
    Some(match media_type {
        t if t.ends_with("gzip") => Codec::Gzip,
        t if t.ends_with("zstd") => Codec::Zstd,
        _ => Codec::Uncompressed,
    })
}

/// Whether the layer may not be pushed as it is (SPEC E3.12).
#[must_use]
pub fn is_foreign(media_type: &str) -> bool {
    media_type.contains("foreign") || media_type.contains("nondistributable")
}

/// The codec found in the first bytes of a blob (SPEC E4.09); plain tar if nothing else is recognised.
#[must_use]
pub fn sniff(head: &[u8]) -> Codec {
    match head {
        [0x1f, 0x8b, ..] => Codec::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Codec::Zstd,
        _ => Codec::Uncompressed,
    }
}
