//! The marker of a directory or archive that is an OCI image layout (image-spec, `image-layout.md`).

/// Its name.
pub const MARKER_NAME: &str = "oci-layout";
/// Its content: the only version there is.
pub const MARKER: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;
