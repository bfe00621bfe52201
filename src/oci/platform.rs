//! Platforms: parsing, normalisation, matching (SPEC G.05).

use std::fmt;
use std::str::FromStr;

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde::{Deserialize, Serialize};

use crate::base::values::percent_decode;

/// An operating system and a CPU, in Go's names.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Platform {
    /// e.g. `amd64`.
    #[serde(default)]
    pub architecture: String,
    /// e.g. `linux`.
    #[serde(default)]
    pub os: String,
    /// Windows builds.
    #[serde(rename = "os.version", default, skip_serializing_if = "String::is_empty")]
    pub os_version: String,
    /// Rare.
    #[serde(rename = "os.features", default, skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
    /// e.g. `v7`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

/// Why a text is not a platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlatformError {
    /// A part between slashes is empty or has other characters.
    #[error(
        "\"{part}\" is an invalid component of \"{text}\": \
         platform specifier component must match \"^[A-Za-z0-9_.-]+$\": invalid argument"
    )]
    Component {
        /// The part.
        part: String,
        /// All of it.
        text: String,
    },
    /// One word that is none of the known ones.
    #[error("\"{0}\": unknown operating system or architecture: invalid argument")]
    Unknown(String),
    /// Neither one, two nor three parts.
    #[error("\"{0}\": cannot parse platform specifier: invalid argument")]
    Form(String),
}

impl PlatformError {
    /// What a platform looks like.
    pub const HINT: &str = "write os[/arch[/variant]], for example linux/arm64";
}

impl Platform {
    /// `os/arch`, normalised.
    #[must_use]
    pub fn new(os: &str, architecture: &str, variant: &str) -> Self {
        let (architecture, variant) = normalise_arch(&architecture.to_lowercase(), &variant.to_lowercase());
        Self { architecture, os: normalise_os(os), variant, ..Self::default() }
    }

    /// The machine rbuild runs on.
    #[must_use]
    pub fn host() -> Self {
        Self::new(std::env::consts::OS, std::env::consts::ARCH, "")
    }

    /// The same platform in canonical names.
    #[must_use]
    pub fn normalised(&self) -> Self {
        let plain = Self::new(&self.os, &self.architecture, &self.variant);
        Self { os_version: self.os_version.clone(), os_features: self.os_features.clone(), ..plain }
    }

    /// How well an image for `self` serves a request for `wanted`: 0 is exact, larger is worse, `None` is not at all.
    /// An arm machine runs older variants too; an amd64 one runs 386 only where nothing else is offered by the caller.
    #[must_use]
    pub fn serves(&self, wanted: &Self) -> Option<u32> {
        let (have, want) = (self.normalised(), wanted.normalised());
        if have.os != want.os || (!want.os_version.is_empty() && have.os_version != want.os_version) {
            return None;
        }
        if have.architecture != want.architecture {
            return None;
        }
        if have.variant == want.variant {
            return Some(0);
        }
        let level = |v: &str| v.strip_prefix('v').and_then(|n| n.parse::<u32>().ok());
        match (level(&have.variant), level(&want.variant)) {
            (Some(h), Some(w)) if h <= w => Some(w - h),
            (None, Some(w)) => Some(w),
            _ => None,
        }
    }
}

fn normalise_os(os: &str) -> String {
    match os.to_lowercase().as_str() {
        "macos" => "darwin".into(),
        other => other.into(),
    }
}

fn normalise_arch(arch: &str, variant: &str) -> (String, String) {
    let (arch, variant) = match (arch, variant) {
        ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
        ("x86_64" | "x86-64", v) => ("amd64", v),
        ("aarch64" | "arm64", "8" | "v8") => ("arm64", ""),
        ("aarch64", v) => ("arm64", v),
        ("armhf", _) => ("arm", "v7"),
        ("armel", _) => ("arm", "v6"),
        ("arm", "" | "7") => ("arm", "v7"),
        ("arm", "5") => ("arm", "v5"),
        ("arm", "6") => ("arm", "v6"),
        ("arm", "8") => ("arm", "v8"),
        ("i386" | "i486" | "i586" | "i686" | "x86", _) => ("386", ""),
        ("powerpc64le", v) => ("ppc64le", v),
        ("loongarch64", v) => ("loong64", v),
        other => other,
    };
    (arch.into(), variant.into())
}

const KNOWN_OS: &[&str] = &[
    "aix",
    "android",
    "darwin",
    "dragonfly",
    "freebsd",
    "hurd",
    "illumos",
    "ios",
    "js",
    "linux",
    "macos",
    "nacl",
    "netbsd",
    "openbsd",
    "plan9",
    "solaris",
    "windows",
    "zos",
];
const KNOWN_ARCH: &[&str] = &[
    "386", "amd64", "amd64p32", "arm", "armbe", "arm64", "arm64be", "loong64", "mips", "mipsle", "mips64", "mips64le",
    "ppc", "ppc64", "ppc64le", "riscv", "riscv64", "s390", "s390x", "sparc", "sparc64", "wasm",
];

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let form = || PlatformError::Form(text.to_owned());
        let mut parts = text.split('/');
        let first = parts.next().unwrap_or_default();
        let rest: Vec<&str> = parts.collect();
        let word = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
        // `windows(10.0.17763+win32k)`: a version, and features behind plus signs. What would end them is percent-encoded.
        let (os, os_options) = match first.split_once('(') {
            Some((os, version)) => (os, version.strip_suffix(')').ok_or_else(form)?),
            None => (first, ""),
        };
        if let Some(part) = std::iter::once(&os).chain(&rest).find(|part| !word(part)) {
            return Err(PlatformError::Component { part: (*part).to_owned(), text: text.to_owned() });
        }
        let mut platform = match rest.as_slice() {
            [] if KNOWN_OS.contains(&os.to_lowercase().as_str()) => Self::new(os, std::env::consts::ARCH, ""),
            [] => {
                let (arch, variant) = normalise_arch(&os.to_lowercase(), "");
                if !KNOWN_ARCH.contains(&arch.as_str()) {
                    return Err(PlatformError::Unknown(text.to_owned()));
                }
                Self::new(std::env::consts::OS, &arch, &variant)
            }
            [arch] => Self::new(os, arch, ""),
            [arch, variant] => Self::new(os, arch, variant),
            _ => return Err(form()),
        };
        let decoded = |option| String::from_utf8(percent_decode(option)).map_err(|_| form());
        let mut options = os_options.split('+');
        platform.os_version = decoded(options.next().unwrap_or_default())?;
        platform.os_features = options.filter(|feature| !feature.is_empty()).map(decoded).collect::<Result<_, _>>()?;
        Ok(platform)
    }
}

/// What is percent-encoded in versions and features.
const IN_PARENTHESES: &AsciiSet = &CONTROLS.add(b' ').add(b'%').add(b'+').add(b'/').add(b'(').add(b')');

/// All of it, as it can be read back, features in order: what a platform is called in directories, keys and variables.
impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.os)?;
        let mut features: Vec<&str> = self.os_features.iter().map(String::as_str).filter(|f| !f.is_empty()).collect();
        features.sort_unstable();
        if !self.os_version.is_empty() || !features.is_empty() {
            write!(f, "({}", utf8_percent_encode(&self.os_version, IN_PARENTHESES))?;
            for feature in features {
                write!(f, "+{}", utf8_percent_encode(feature, IN_PARENTHESES))?;
            }
            f.write_str(")")?;
        }
        write!(f, "/{}", self.architecture)?;
        if !self.variant.is_empty() {
            write!(f, "/{}", self.variant)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canon(text: &str) -> String {
        text.parse::<Platform>().map_or_else(|e| e.to_string(), |p| p.to_string())
    }

    #[test]
    fn g05_names_are_normalised() {
        assert_eq!(canon("linux/x86_64"), "linux/amd64");
        assert_eq!(canon("linux/aarch64"), "linux/arm64");
        assert_eq!(canon("linux/arm64/v8"), "linux/arm64");
        assert_eq!(canon("linux/arm"), "linux/arm/v7");
        assert_eq!(canon("linux/armel"), "linux/arm/v6");
        assert_eq!(canon("macos/arm64"), "darwin/arm64");
        assert_eq!(canon("arm64"), "linux/arm64");
        assert!(canon("linux/").starts_with("\"\" is an invalid component of \"linux/\": platform specifier"));
        assert_eq!(canon("nonsense"), "\"nonsense\": unknown operating system or architecture: invalid argument");
        assert_eq!(canon("a/b/c/d"), "\"a/b/c/d\": cannot parse platform specifier: invalid argument");
        for text in ["windows(10.0.1)/amd64", "windows(10.0.1+win32k)/amd64", "windows(+a+b)/amd64"] {
            assert_eq!(canon(text), text);
        }
        assert_eq!("windows(10.0.1)/amd64".parse::<Platform>().map(|p| p.os_version), Ok("10.0.1".into()));
    }

    #[test]
    fn g05_versions_and_features_survive_being_written() {
        assert_eq!(canon("linux(+simd+gpu)/amd64"), "linux(+gpu+simd)/amd64", "in order");
        for (version, feature, text) in [
            ("10.0+build", "feat+1", "windows(10.0%2Bbuild+feat%2B1)/amd64"),
            ("1.0(beta)", "100%", "windows(1.0%28beta%29+100%25)/amd64"),
            ("a/b", "x y", "windows(a%2Fb+x%20y)/amd64"),
        ] {
            let platform = Platform {
                os_version: version.into(),
                os_features: vec![feature.into()],
                ..Platform::new("windows", "amd64", "")
            };
            assert_eq!(platform.to_string(), text);
            assert_eq!(text.parse(), Ok(platform));
        }
        assert!("windows(%ff)/amd64".parse::<Platform>().is_err(), "no text");
    }

    #[test]
    fn older_variants_serve_newer_machines() {
        let v6: Platform = "linux/arm/v6".parse().expect("valid");
        let v7: Platform = "linux/arm/v7".parse().expect("valid");
        assert_eq!(v6.serves(&v7), Some(1));
        assert_eq!(v7.serves(&v6), None);
        assert_eq!(v7.serves(&v7), Some(0));
    }
}
