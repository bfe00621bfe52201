//! What a build learnt about its inputs (SPEC C4.13).

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::base::Digest;
use crate::base::values::split_user;
use crate::oci::{Platform, Reference};

use super::statement::image_purl;

/// Something that a build was made from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Material {
    /// Where it came from, with credentials [`masked`].
    pub uri: String,
    /// `algorithm:hex`, e.g. `sha256:…` of a file or `sha1:…` of a commit.
    pub digest: String,
}

impl Material {
    /// An image as a package URL (SPEC C8.09): of a registry, or of an OCI layout.
    #[must_use]
    pub fn image(identifier: &str, digest: &Digest, platform: &Platform) -> Self {
        let (kind, name) = match identifier.split_once("://") {
            // Where it is on this machine is nobody's business.
            Some(("oci-layout", rest)) => {
                let path = rest.split('@').next().unwrap_or(rest);
                ("oci", path.rsplit('/').next().unwrap_or(path))
            }
            Some((_, rest)) => ("docker", rest),
            None => ("docker", identifier),
        };
        let name = name.split('@').next().unwrap_or(name);
        // The name of a layout is that of a directory, which need not be a reference.
        let reference = Reference::parse_raw(name).ok().map(|reference| reference.with_digest(digest.clone()));
        let uri = match reference {
            Some(reference) => image_purl(kind, &reference, Some(platform)),
            None => format!("pkg:{kind}/{}?digest={digest}", name.replace(' ', "%20")),
        };
        Self { uri, digest: digest.to_string() }
    }
}

/// A URL in which each of user and password that there is reads `xxxxx`, as BuildKit writes it (SPEC C8.08): that something was
/// needed is told, what it was is not. Other texts stay as they are.
#[must_use]
pub fn masked(url: &str) -> String {
    let split = split_user(url).filter(|(scheme, ..)| *scheme != "docker-image");
    let Some((scheme, credentials, rest)) = split else { return url.to_owned() };
    let mask = |text: &str| if text.is_empty() { "" } else { "xxxxx" };
    let shown = match credentials.split_once(':') {
        Some((user, _)) => format!("{}:xxxxx", mask(user)),
        None => mask(credentials).to_owned(),
    };
    format!("{scheme}://{shown}@{rest}")
}

/// A secret or an SSH agent that steps may have.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Lent {
    /// Its ID.
    pub id: String,
    /// The step runs without it, too.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub optional: bool,
}

/// What a step used (SPEC C8.05, `capture-usage`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepUsage {
    /// When it ended.
    pub ended: Timestamp,
    /// Nanoseconds of CPU time in programs.
    pub user_ns: u64,
    /// Nanoseconds of CPU time in the kernel.
    pub system_ns: u64,
    /// Peak resident bytes of its largest process.
    pub peak: u64,
}

/// What one graph was made from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Capture {
    /// Images.
    pub images: Vec<Material>,
    /// Repositories and downloads.
    pub remote: Vec<Material>,
    /// Names of local directories.
    pub locals: Vec<String>,
    /// Secrets; one that any step insists on is not optional.
    pub secrets: BTreeMap<String, bool>,
    /// SSH agents, likewise.
    pub ssh: BTreeMap<String, bool>,
    /// A step may have used the network.
    pub network: bool,
}

impl Capture {
    /// Brings it into the order in which it is told, each thing once.
    #[must_use]
    pub fn sorted(mut self) -> Self {
        for list in [&mut self.images, &mut self.remote] {
            list.sort();
            list.dedup();
        }
        self.locals.sort();
        self.locals.dedup();
        self
    }

    /// What the build may have been made from that has no digest; empty if there is nothing.
    #[must_use]
    pub fn missing(&self) -> Vec<String> {
        let local = |name: &String| format!("the local directory \"{name}\" has no digest");
        let network = self.network.then(|| "a step may have used the network".to_owned());
        self.locals.iter().map(local).chain(network).collect()
    }

    /// Everything that has a digest.
    pub fn materials(&self) -> impl Iterator<Item = &Material> {
        self.images.iter().chain(&self.remote)
    }
}

/// As a list.
pub(super) fn lent(map: &BTreeMap<String, bool>) -> Vec<Lent> {
    map.iter().map(|(id, optional)| Lent { id: id.clone(), optional: *optional }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c8_08_credentials_are_masked() {
        for (url, want) in [
            ("https://user:pass@example.org/r.git#v1", "https://xxxxx:xxxxx@example.org/r.git#v1"),
            ("https://token@example.org/a", "https://xxxxx@example.org/a"),
            ("https://:p@ss@example.org", "https://:xxxxx@example.org"),
            ("https://example.org/@scope?a=b@c", "https://example.org/@scope?a=b@c"),
            ("https://example.org?a=b@c", "https://example.org?a=b@c"),
            ("git@example.org:r.git", "git@example.org:r.git"),
            ("docker-image://a:1@sha256:00", "docker-image://a:1@sha256:00"),
        ] {
            assert_eq!(masked(url), want);
        }
    }

    // SPEC C8.09
    #[test]
    fn c8_09_images_are_package_urls() {
        let digest = Digest::sha256("index");
        let platform: Platform = "linux/arm64".parse().expect("valid");
        let uri = |identifier: &str| Material::image(identifier, &digest, &platform).uri.replace(digest.hex(), "HEX");
        assert_eq!(
            uri("docker-image://docker.io/library/alpine:3.20"),
            "pkg:docker/alpine@3.20?digest=sha256:HEX&platform=linux%2Farm64"
        );
        assert_eq!(
            uri(&format!("docker-image://ghcr.io/o/app:1@{digest}")),
            "pkg:docker/ghcr.io/o/app@1?digest=sha256:HEX&platform=linux%2Farm64"
        );
        let layout = uri(&format!("oci-layout:///srv/layout:1@{digest}"));
        assert_eq!(layout, "pkg:oci/layout@1?digest=sha256:HEX&platform=linux%2Farm64");
        assert_eq!(uri("oci-layout:///srv/Lay Out"), "pkg:oci/Lay%20Out?digest=sha256:HEX");
    }
}
