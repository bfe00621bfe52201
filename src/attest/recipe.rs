//! Provenance read backwards: what a build was asked for, and what it was made from, so that it can be done again.
//!
//! Both forms are read (SPEC C8.06, C8.07), as BuildKit and rbuild write them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::Material;
use crate::base::values::{percent_decode, split_user};
use crate::oci::{Platform, Reference};

/// What provenance says about a build. Nothing in it is signed: it is what somebody says who could write beside the image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recipe {
    /// The front end, `dockerfile.v0` if none is named.
    pub frontend: String,
    /// Its options.
    pub args: BTreeMap<String, String>,
    /// The main context, if it came from elsewhere.
    pub context: Option<String>,
    /// The Dockerfile's path in it.
    pub dockerfile: Option<String>,
    /// Secrets that steps asked for.
    pub secrets: Needs,
    /// SSH agents that steps asked for.
    pub ssh: Needs,
    /// Names of directories of the machine that built it.
    pub locals: Vec<String>,
    /// What it was made from.
    pub materials: Vec<Material>,
    /// The machine that built it.
    pub builder: Option<Platform>,
    /// Options and secrets are all told (`mode=max`).
    pub complete: bool,
    /// The repository that a directory of the machine was in: `source`, `revision`, `localdir:…`.
    pub vcs: BTreeMap<String, String>,
}

/// IDs that steps asked for; whether they ran without, too.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Needs(pub BTreeMap<String, bool>);

impl Needs {
    /// IDs that are needed and not among `given`.
    #[must_use]
    pub fn missing(&self, given: &BTreeSet<String>) -> Vec<String> {
        self.0.iter().filter(|(id, optional)| !**optional && !given.contains(*id)).map(|(id, _)| id.clone()).collect()
    }

    /// IDs among `given` that no step asked for.
    #[must_use]
    pub fn unknown(&self, given: &BTreeSet<String>) -> Vec<String> {
        given.iter().filter(|id| !self.0.contains_key(*id)).cloned().collect()
    }
}

/// What a material is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MaterialKind {
    /// An image of a registry, as it was named, and for which platform.
    Image(Reference, Option<Platform>),
    /// An image of a directory.
    Layout,
    /// A repository.
    Git,
    /// A file of a web server.
    Http,
    /// Something else.
    Unknown,
}

impl MaterialKind {
    /// The word of buildx for it.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Image(..) => "image",
            Self::Layout => "oci-layout",
            Self::Git => "git",
            Self::Http => "http",
            Self::Unknown => "unknown",
        }
    }
}

impl Recipe {
    /// Reads a predicate of either form.
    ///
    /// # Errors
    /// If it is none, in words.
    pub fn read(predicate: &Value) -> Result<Self, String> {
        let v1 = predicate.get("buildDefinition").is_some();
        if !v1 && predicate.get("invocation").is_none() {
            return Err("it has neither buildDefinition (SLSA 1) nor invocation (SLSA 0.2)".into());
        }
        let at = |v1_path: &str, v02_path: &str| predicate.pointer(if v1 { v1_path } else { v02_path });
        let null = Value::Null;
        let source =
            at("/buildDefinition/externalParameters/configSource", "/invocation/configSource").unwrap_or(&null);
        let request = at("/buildDefinition/externalParameters/request", "/invocation/parameters").unwrap_or(&null);
        let materials = at("/buildDefinition/resolvedDependencies", "/materials");
        let builder = at("/buildDefinition/internalParameters/builderPlatform", "/invocation/environment/platform");
        let config = at("/buildDefinition/internalParameters/buildConfig", "/buildConfig");
        let vcs = at(
            "/runDetails/metadata/buildkit_metadata/vcs",
            "/metadata/https:~1~1mobyproject.org~1buildkit@v1#metadata/vcs",
        );
        let mut materials: Vec<Material> = list(materials).filter_map(material).collect();
        // The context's own entry counts, whoever left it out of the others.
        materials.extend(material(source).filter(|context| !materials.contains(context)));
        let strings = |value: &Value| -> BTreeMap<String, String> {
            let members = value.as_object().into_iter().flatten();
            members.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect()
        };
        Ok(Self {
            frontend: text(&request["frontend"]).unwrap_or_else(|| "dockerfile.v0".into()),
            args: strings(&request["args"]),
            context: text(&source["uri"]).map(|uri| unmasked(&uri)),
            dockerfile: text(&source[if v1 { "path" } else { "entryPoint" }]),
            secrets: needs(&request["secrets"]),
            ssh: needs(&request["ssh"]),
            locals: list(Some(&request["locals"])).filter_map(|local| text(&local["name"])).collect(),
            materials,
            builder: builder.and_then(Value::as_str).and_then(|platform| platform.parse().ok()),
            vcs: strings(vcs.unwrap_or(&null)),
            complete: config.is_some_and(|config| list(config.get("llbDefinition")).next().is_some()),
        })
    }

    /// Options whose names begin with `prefix`, which is taken away.
    pub fn options<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.args.iter().filter_map(move |(name, value)| Some((name.strip_prefix(prefix)?, value.as_str())))
    }
}

impl Material {
    /// What its URI says it is.
    #[must_use]
    pub fn kind(&self) -> MaterialKind {
        if let Some(rest) = self.uri.strip_prefix("pkg:docker/") {
            return image(rest).map_or(MaterialKind::Unknown, |(name, platform)| MaterialKind::Image(name, platform));
        }
        if self.uri.starts_with("pkg:oci/") {
            return MaterialKind::Layout;
        }
        match self.digest.split_once(':') {
            // A commit; of newer repositories its hash is that of files.
            Some(("sha1", _)) => MaterialKind::Git,
            _ if crate::dockerfile::gitref::GitRef::parse(&self.uri).is_some_and(|found| found.is_ok()) => {
                MaterialKind::Git
            }
            _ if self.uri.starts_with("http://") || self.uri.starts_with("https://") => MaterialKind::Http,
            _ => MaterialKind::Unknown,
        }
    }
}

/// The image of a package URL without its scheme: `NAME@TAG?digest=…&platform=…`.
fn image(rest: &str) -> Option<(Reference, Option<Platform>)> {
    let (name, qualifiers) = rest.split_once('?').unwrap_or((rest, ""));
    let decoded = |text: &str| String::from_utf8(percent_decode(text)).ok();
    let (name, tag) = match name.rsplit_once('@') {
        Some((name, tag)) => (decoded(name)?, Some(decoded(tag)?)),
        None => (decoded(name)?, None),
    };
    let mut text = name;
    // A digest is a version, too, in URLs that others write.
    match tag {
        Some(digest) if digest.contains(':') => text = format!("{text}@{digest}"),
        Some(tag) => text = format!("{text}:{tag}"),
        None => {}
    }
    let mut platform = None;
    for (name, value) in qualifiers.split('&').filter_map(|pair| pair.split_once('=')) {
        let value = decoded(value)?;
        match name {
            "digest" if !text.contains('@') => text = format!("{text}@{value}"),
            "platform" => platform = value.parse().ok(),
            _ => {}
        }
    }
    Some((Reference::parse_raw(&text).ok()?, platform))
}

/// A URL as it was before its credentials were masked, without them: whoever does it again has his own.
fn unmasked(url: &str) -> String {
    match split_user(url) {
        Some((scheme, user, rest)) if user.contains("xxxxx") => format!("{scheme}://{rest}"),
        _ => url.to_owned(),
    }
}

fn material(value: &Value) -> Option<Material> {
    let digests = value["digest"].as_object()?;
    // What sources are asked for by; of others the first in their order.
    let named = |name: &str| Some((name.to_owned(), digests.get(name)?.as_str()?.to_owned()));
    let (algorithm, hex) = named("sha256").or_else(|| {
        let names: BTreeSet<&String> = digests.keys().collect();
        names.into_iter().find_map(|name| named(name))
    })?;
    Some(Material { uri: unmasked(&text(&value["uri"])?), digest: format!("{algorithm}:{hex}") })
}

fn needs(value: &Value) -> Needs {
    let mut out = BTreeMap::new();
    for one in list(Some(value)) {
        let Some(id) = text(&one["id"]) else { continue };
        *out.entry(id).or_insert(true) &= one["optional"].as_bool().unwrap_or_default();
    }
    Needs(out)
}

fn list(value: Option<&Value>) -> impl Iterator<Item = &Value> {
    value.and_then(Value::as_array).into_iter().flatten()
}

fn text(value: &Value) -> Option<String> {
    value.as_str().filter(|text| !text.is_empty()).map(ToOwned::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn request() -> Value {
        json!({
            "frontend": "gateway.v0",
            "args": {"build-arg:V": "1", "target": "app", "odd": 7},
            "secrets": [{"id": "a"}, {"id": "b", "optional": true}, {"id": "c", "optional": true}, {"id": "c"}],
            "ssh": [{"id": "default"}],
            "locals": [{"name": "context"}],
        })
    }

    fn source(path: &str) -> Value {
        json!({"uri": "https://xxxxx:xxxxx@g.example/r.git#v1", "digest": {"sha1": "00ff"}, path: "sub/Dockerfile"})
    }

    #[test]
    fn both_forms_are_read() {
        let materials = json!([
            {"uri": "pkg:docker/alpine@3?platform=linux%2Farm64", "digest": {"sha512": "11", "sha256": HEX}},
            {"uri": "https://h.example/f", "digest": {"sha256": HEX}},
            {"uri": "nothing"},
        ]);
        let steps = json!({"llbDefinition": [{"id": "step0"}]});
        let v1 = Recipe::read(&json!({"buildDefinition": {
            "externalParameters": {"configSource": source("path"), "request": request()},
            "internalParameters": {"builderPlatform": "linux/amd64", "buildConfig": steps},
            "resolvedDependencies": materials,
        }}))
        .expect("read");
        let v02 = Recipe::read(&json!({
            "invocation": {
                "configSource": source("entryPoint"), "parameters": request(), "environment": {"platform": "linux/amd64"},
            },
            "materials": materials,
            "buildConfig": steps,
        }))
        .expect("read");
        assert_eq!(v1, v02);
        assert_eq!((v1.frontend.as_str(), v1.complete), ("gateway.v0", true));
        assert_eq!(v1.context.as_deref(), Some("https://g.example/r.git#v1"));
        assert_eq!(v1.dockerfile.as_deref(), Some("sub/Dockerfile"));
        assert_eq!(v1.options("build-arg:").collect::<Vec<_>>(), [("V", "1")]);
        assert_eq!(v1.secrets.missing(&BTreeSet::new()), ["a", "c"]);
        assert_eq!(v1.secrets.unknown(&BTreeSet::from(["a".to_owned(), "z".to_owned()])), ["z"]);
        assert_eq!(v1.locals, ["context"]);
        let kinds: Vec<_> = v1.materials.iter().map(|m| (m.kind().as_str(), m.digest.as_str())).collect();
        let sha256 = format!("sha256:{HEX}");
        assert_eq!(kinds, [("image", sha256.as_str()), ("http", &sha256), ("git", "sha1:00ff")]);
        assert!(Recipe::read(&json!({"builder": {}})).is_err());
        assert!(!Recipe::read(&json!({"buildDefinition": {}})).expect("read").complete);
    }

    #[test]
    fn package_urls_are_images_again() {
        let digest = crate::base::Digest::sha256("");
        for (identifier, name) in [
            ("docker-image://docker.io/library/alpine:3.20", "docker.io/library/alpine:3.20"),
            ("docker-image://localhost:5000/o/app:1", "localhost:5000/o/app:1"),
        ] {
            let platform: Platform = "linux/arm/v7".parse().expect("valid");
            let material = Material::image(identifier, &digest, &platform);
            let name: Reference = format!("{name}@{digest}").parse().expect("valid");
            assert_eq!(material.kind(), MaterialKind::Image(name, Some(platform)), "{}", material.uri);
        }
        let of = |uri: &str| Material { uri: uri.into(), digest: digest.to_string() }.kind();
        let name: Reference = format!("docker.io/library/alpine@{digest}").parse().expect("valid");
        assert_eq!(of(&format!("pkg:docker/alpine@{digest}")), MaterialKind::Image(name, None));
        assert_eq!(of("pkg:oci/layout?digest=x"), MaterialKind::Layout);
        assert_eq!(of("https://g.example/r.git#main"), MaterialKind::Git);
        assert_eq!(of("ftp://x"), MaterialKind::Unknown);
    }
}
