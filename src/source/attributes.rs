//! Attributes of image source ops (SPEC C2.01, C2.02).

use std::collections::BTreeMap;

use super::SourceError;
use crate::base::Digest;
use crate::llb::host::{RESOLVE_MODE, ResolveMode};

/// What an image source op says beside its identifier. Attributes of no consequence here (`image.recordtype`,
/// `oci.session`, `oci.store`) are accepted and ignored.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImageAttributes {
    /// `image.resolvemode`.
    pub mode: ResolveMode,
    /// `image.layerlimit` or `oci.layerlimit`: only the first layers.
    pub layer_limit: Option<usize>,
    /// `image.checksum`: the digest the name must have.
    pub checksum: Option<Digest>,
}

impl ImageAttributes {
    /// Reads the attributes of an op.
    ///
    /// # Errors
    /// For a value that means nothing.
    pub fn parse(attrs: &BTreeMap<String, String>) -> Result<Self, SourceError> {
        let mut out = Self::default();
        for (name, value) in attrs {
            let fail = |name| SourceError::Attribute { name, value: value.clone() };
            match name.as_str() {
                RESOLVE_MODE => {
                    out.mode = ResolveMode::named(value).ok_or_else(|| fail(RESOLVE_MODE))?;
                }
                "image.layerlimit" => {
                    out.layer_limit = Some(value.parse().map_err(|_| fail("image.layerlimit"))?);
                }
                "oci.layerlimit" => out.layer_limit = Some(value.parse().map_err(|_| fail("oci.layerlimit"))?),
                "image.checksum" => out.checksum = Some(value.parse().map_err(|_| fail("image.checksum"))?),
                _ => {}
            }
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<ImageAttributes, SourceError> {
        ImageAttributes::parse(&pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    }

    #[test]
    fn c2_01_attributes() {
        let digest = Digest::sha256(b"");
        let all = parse(&[
            ("image.resolvemode", "pull"),
            ("image.recordtype", "frontend"),
            ("image.layerlimit", "2"),
            ("image.checksum", digest.as_str()),
        ]);
        let expected = ImageAttributes { mode: ResolveMode::Pull, layer_limit: Some(2), checksum: Some(digest) };
        assert_eq!(all.expect("valid"), expected);
        for bad in [("image.resolvemode", "never"), ("image.layerlimit", "-1"), ("image.checksum", "sha256:12")] {
            assert!(parse(&[bad]).expect_err("invalid").to_string().contains(bad.0));
        }
    }
}
