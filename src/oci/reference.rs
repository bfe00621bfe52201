//! Image names, with Docker's normalisation (SPEC G.07).

use std::fmt;
use std::str::FromStr;

use crate::base::Digest;

/// A normalised image reference: `domain/path[:tag][@digest]`.
///
/// Without a tag and a digest the tag is `latest`; use [`Reference::parse_raw`] where that must not be assumed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    /// Registry host and port, e.g. `docker.io`.
    pub domain: String,
    /// Repository below the host, e.g. `library/busybox`.
    pub path: String,
    /// Tag, if named.
    pub tag: Option<String>,
    /// Digest, if named.
    pub digest: Option<Digest>,
}

/// Why a text is not an image name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid reference \"{text}\": {reason}")]
pub struct ReferenceError {
    text: String,
    reason: String,
}

impl Reference {
    /// Parses and normalises without adding `:latest`.
    ///
    /// # Errors
    /// Says which rule of the distribution grammar is broken.
    pub fn parse_raw(text: &str) -> Result<Self, ReferenceError> {
        let fail = |reason: &str| ReferenceError { text: text.to_owned(), reason: reason.to_owned() };
        // An image's ID, which would be mistaken for the name of a repository.
        if text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            return Err(fail("cannot specify 64-byte hexadecimal strings"));
        }
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => {
                let digest = digest.parse::<Digest>().map_err(|e| fail(&e.to_string()))?;
                (name, Some(digest))
            }
            None => (text, None),
        };
        let (name, tag) = match name.rsplit_once(':') {
            Some((left, tag)) if !tag.contains('/') => (left, Some(tag)),
            _ => (name, None),
        };
        if let Some(tag) = tag {
            let ok = tag.len() <= 128
                && tag
                    .bytes()
                    .enumerate()
                    .all(|(i, b)| b.is_ascii_alphanumeric() || b == b'_' || (i > 0 && (b == b'.' || b == b'-')));
            if tag.is_empty() || !ok {
                return Err(fail("invalid tag"));
            }
        }
        let (domain, path) = match name.split_once('/') {
            Some((first, rest)) if is_domain(first) => (first.to_owned(), rest.to_owned()),
            _ => ("docker.io".to_owned(), name.to_owned()),
        };
        let domain = if domain == "index.docker.io" { "docker.io".into() } else { domain };
        let path = if domain == "docker.io" && !path.contains('/') { format!("library/{path}") } else { path };
        if path.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(fail("repository name must be lowercase"));
        }
        if path.len() > 255 || !path.split('/').all(is_component) || path == "library/" {
            return Err(fail("invalid reference format"));
        }
        if !is_host(&domain) {
            return Err(fail("invalid registry host"));
        }
        Ok(Self { domain, path, tag: tag.map(Into::into), digest })
    }

    /// `domain/path`, without tag and digest.
    #[must_use]
    pub fn repository(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// As people write it: `busybox`, not `docker.io/library/busybox:latest`.
    #[must_use]
    pub fn familiar(&self) -> String {
        let name = match (self.domain.as_str(), self.path.strip_prefix("library/")) {
            ("docker.io", Some(short)) => short.to_owned(),
            ("docker.io", None) => self.path.clone(),
            _ => self.repository(),
        };
        self.with_suffix(name)
    }

    /// What to put behind `/manifests/`: the digest if there is one, else the tag.
    #[must_use]
    pub fn manifest_part(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => "latest".into(),
        }
    }

    /// The same repository pinned to `digest`, keeping the tag.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { digest: Some(digest), ..self.clone() }
    }

    fn with_suffix(&self, mut name: String) -> String {
        if let Some(tag) = &self.tag {
            name.push(':');
            name.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            name.push('@');
            name.push_str(digest.as_str());
        }
        name
    }
}

/// The first component is a host iff it has a dot or a colon, is `localhost`, or has upper case.
fn is_domain(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':']) || first.bytes().any(|b| b.is_ascii_uppercase())
}

/// `host[:port]`. The host is labels joined by dots, of letters, digits and inner dashes, or an IPv6 address in brackets.
/// The grammar knows no `_`, but there are container networks with such names.
fn is_host(domain: &str) -> bool {
    let is_label = |label: &str| {
        let ends = label.starts_with('-') || label.ends_with('-');
        !label.is_empty() && !ends && label.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
    };
    let (host_fits, port) = match domain.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) => {
            let is_address = address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':');
            (is_address && !address.is_empty(), port)
        }
        None => {
            let (host, port) = domain.split_at(domain.find(':').unwrap_or(domain.len()));
            (host.split('.').all(is_label), port)
        }
    };
    let is_port = |port: &str| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    host_fits && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port))
}

/// `[a-z0-9]+` runs joined by one `.`, `_`, `__` or any number of `-`.
fn is_component(text: &str) -> bool {
    let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    alnum(*first)
        && alnum(*last)
        && bytes
            .split(|b| alnum(*b))
            .filter(|run| !run.is_empty())
            .all(|run| matches!(run, b"." | b"_" | b"__") || run.iter().all(|b| *b == b'-'))
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let mut reference = Self::parse_raw(text)?;
        if reference.tag.is_none() && reference.digest.is_none() {
            reference.tag = Some("latest".into());
        }
        Ok(reference)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.with_suffix(self.repository()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full(text: &str) -> String {
        text.parse::<Reference>().map_or_else(|e| format!("error: {e}"), |r| r.to_string())
    }

    #[test]
    fn g07_normalises_like_docker() {
        assert_eq!(full("busybox"), "docker.io/library/busybox:latest");
        assert_eq!(full("user/app:1"), "docker.io/user/app:1");
        assert_eq!(full("localhost/x"), "localhost/x:latest");
        assert_eq!(full("localhost:5000/x/y:t"), "localhost:5000/x/y:t");
        assert_eq!(full("ghcr.io/a/b_c/d--e"), "ghcr.io/a/b_c/d--e:latest");
        let digest = Digest::sha256(b"");
        assert_eq!(full(&format!("a@{digest}")), format!("docker.io/library/a@{digest}"));
        assert_eq!(full(&format!("a:1@{digest}")), format!("docker.io/library/a:1@{digest}"));
    }

    #[test]
    fn g07_refuses_bad_names() {
        for bad in ["", "UPPER", "a b", "a:", "-a", "a/", "a//b", "a:b c", "a@sha256:12", "a..b", "a___b"] {
            assert!(full(bad).starts_with("error"), "{bad} gave {}", full(bad));
        }
    }

    #[test]
    fn g07_registries_are_hosts() {
        for good in ["192.168.0.1:8/a", "[fc00::1]:5000/a/b", "[::1]/a", "Host/a", "a_b:5000/c", "xn--n3h.com:1/a"] {
            assert_eq!(full(good), format!("{good}:latest"));
        }
        assert_eq!(full("192.168.0.1:80"), "docker.io/library/192.168.0.1:80", "no slash, no registry");
        assert_eq!(full("test_com/a"), "docker.io/test_com/a:latest");
        for bad in
            ["-a.io/b", "a-.io/b", "a..io/b", "a.io:/b", "a.io:x/b", "fc00::1:5000/a", "[fc00::1]", "[]/a", "[::1]x/a"]
        {
            assert!(full(bad).starts_with("error"), "{bad} gave {}", full(bad));
        }
        for bad in ["[fe80::1%eth0]:5000/a", "[2001:db8::192.0.2.33]:5000/a", "https://a.io/b"] {
            assert!(full(bad).starts_with("error"), "{bad} gave {}", full(bad));
        }
    }

    #[test]
    fn g07_an_id_is_no_name() {
        let id = "0f".repeat(32);
        assert!(full(&id).contains("64-byte hexadecimal"), "{}", full(&id));
        assert_eq!(full(&format!("docker.io/{id}")), format!("docker.io/library/{id}:latest"));
        assert!(full(&id[1..]).starts_with("docker.io/library/"));
    }

    #[test]
    fn familiar_names_are_short() {
        let r: Reference = "docker.io/library/busybox:1".parse().expect("valid");
        assert_eq!(r.familiar(), "busybox:1");
    }
}
