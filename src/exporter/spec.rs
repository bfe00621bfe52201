//! `--output` values (SPEC G.01, B3).

use std::path::PathBuf;

use super::annotations::Annotations;
use crate::attest::Asked;
use crate::base::values::csv_record;
use crate::base::wording::did_you_mean;
use crate::engine::Endpoint;
use crate::oci::Reference;
use crate::oci::media_type::{Codec, Family};

/// Kinds of outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputKind {
    /// In the store, perhaps pushed.
    Image,
    /// OCI archive or layout.
    Oci,
    /// Docker archive, or straight into docker or podman.
    Docker,
    /// Files in a directory.
    Local,
    /// Files in a tar.
    Tar,
    /// Nothing.
    CacheOnly,
}

impl OutputKind {
    /// Whether it makes an image, with names, media types and annotations.
    #[must_use]
    pub fn is_image(self) -> bool {
        matches!(self, Self::Image | Self::Oci | Self::Docker)
    }
}

/// Where an output goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dest {
    /// A file or directory.
    Path(PathBuf),
    /// Standard output.
    Stdout,
}

/// `SOURCE_DATE_EPOCH` of one output (SPEC B3.01, C6.01).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EpochChoice {
    /// That of the build.
    #[default]
    OfBuild,
    /// This one, in seconds since 1970; `None` switches it off.
    Own(Option<i64>),
}

/// The rules that images are written by unless others are asked for (SPEC C6.04).
pub const COMPATIBILITY: u32 = 30;

/// How an image is put together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImageOptions {
    /// Media types.
    pub family: Family,
    /// Compression of new layers.
    pub codec: Codec,
    /// Its level; `None` is the default.
    pub level: Option<i32>,
    /// gzip as eStargz, which can be read lazily.
    pub estargz: bool,
    /// Compress layers again that have another codec, base layers included.
    pub force: bool,
    /// Rewrite file times newer than the epoch (SPEC C6.09).
    pub rewrite_timestamp: bool,
    /// Rewrite older ones, too (SPEC D3.04).
    pub rewrite_earlier: bool,
    /// Leave layers that must not be distributed where they are (SPEC E3.12).
    pub prefer_nondist: bool,
    /// Its own epoch.
    pub epoch: EpochChoice,
    /// The media types were asked for by name.
    pub family_given: bool,
    /// `oci-artifact`: the form of attestations; by default that of artifacts, where the media types have it.
    pub artifact: Option<bool>,
    /// `attestation-inline`: whether attestations that are for images only are put beside this one.
    pub inline: Option<bool>,
    /// The manifest says when the image was made, too.
    pub created_annotation: bool,
    /// `compatibility-version`: the rules that decide on media types and forms; by default [`COMPATIBILITY`].
    pub compatibility: Option<u32>,
    /// At all levels.
    pub annotations: Annotations,
}

/// One output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputSpec {
    /// What kind.
    pub kind: OutputKind,
    /// Where to.
    pub dest: Option<Dest>,
    /// Docker or podman to load into, for [`OutputKind::Docker`] without `dest`.
    pub engine: Option<Endpoint>,
    /// `docker`: the docker context named by `context=`, looked up by who knows docker's configuration.
    pub engine_context: Option<String>,
    /// Image names.
    pub names: Vec<Reference>,
    /// Also name it `PREFIX@DIGEST`.
    pub dangling_prefix: Option<String>,
    /// … only if it has no other name.
    pub dangling_empty_only: bool,
    /// In the store, also name it `NAME@DIGEST`.
    pub name_canonical: bool,
    /// Push to the registries of the names.
    pub push: bool,
    /// `push=false` was said.
    pub push_refused: bool,
    /// Push without tags.
    pub by_digest: bool,
    /// Talk plain HTTP or accept any certificate.
    pub insecure: bool,
    /// Do not ask whether the push will be allowed before it comes.
    pub unasked: bool,
    /// A tag that cannot be changed stays what it is, and that is no failure.
    pub immutable_tags: bool,
    /// Keep in the store.
    pub store: bool,
    /// Have the layers unpacked in the store.
    pub unpack: bool,
    /// An index of that name in the store keeps its images of other platforms.
    pub append: bool,
    /// `oci`, `docker`: one archive rather than a directory.
    pub tar: bool,
    /// `local`, `tar`: a directory for each platform; by default if there are several.
    pub platform_split: Option<bool>,
    /// `local`: delete what the result does not have.
    pub delete: bool,
    /// `local`, `tar`: what the names of attestations begin with.
    pub attestation_prefix: String,
    /// How the image is made.
    pub image: ImageOptions,
}

/// Why an output is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SpecError(pub String);

/// Attributes, and the kinds that have them.
const KEYS: &[(&str, &[OutputKind])] = &{
    use OutputKind::{Docker, Image, Local, Oci, Tar};
    [
        ("dest", &[Oci, Docker, Local, Tar] as &[OutputKind]),
        ("name", &[Image, Oci, Docker]),
        ("push", &[Image]),
        ("push-by-digest", &[Image]),
        ("registry.insecure", &[Image]),
        ("store", &[Image]),
        ("unpack", &[Image]),
        // Ours: buildah's --manifest (SPEC D3.21).
        ("append", &[Image]),
        // Ours: buildah's --created-annotation (SPEC D3.04).
        ("created-annotation", &[Image, Oci, Docker]),
        ("dangling-name-prefix", &[Image]),
        // Misspelt in the interface (SPEC N2.08).
        ("danging-name-empty-only", &[Image]),
        ("name-canonical", &[Image]),
        ("tar", &[Oci, Docker]),
        ("context", &[Docker]),
        ("oci-mediatypes", &[Image, Oci, Docker]),
        ("compression", &[Image, Oci, Docker]),
        ("compression-level", &[Image, Oci, Docker]),
        ("force-compression", &[Image, Oci, Docker]),
        ("rewrite-timestamp", &[Image, Oci, Docker]),
        ("prefer-nondist-layers", &[Image, Oci, Docker]),
        ("compatibility-version", &[Image, Oci, Docker]),
        ("source-date-epoch", &[Image, Oci, Docker, Local, Tar]),
        ("oci-artifact", &[Image, Oci, Docker]),
        ("attestation-inline", &[Image, Oci, Docker]),
        ("force-inline-attestations", &[Image, Oci, Docker]),
        // Gone since BuildKit v0.12, where they have no effect either.
        ("buildinfo", &[Image, Oci, Docker]),
        ("buildinfo-attrs", &[Image, Oci, Docker]),
        ("mode", &[Local]),
        ("platform-split", &[Local, Tar]),
        ("attestation-prefix", &[Local, Tar]),
    ]
};

impl OutputSpec {
    /// An output with the defaults of its kind.
    #[must_use]
    pub fn new(kind: OutputKind) -> Self {
        Self {
            kind,
            dest: None,
            engine: None,
            engine_context: None,
            names: Vec::new(),
            dangling_prefix: None,
            dangling_empty_only: false,
            name_canonical: false,
            push: false,
            push_refused: false,
            by_digest: false,
            insecure: false,
            unasked: false,
            immutable_tags: false,
            store: true,
            unpack: false,
            append: false,
            tar: true,
            platform_split: None,
            delete: false,
            attestation_prefix: String::new(),
            image: ImageOptions::default(),
        }
    }

    /// Parses one `--output` value: a CSV record, a path, or `-`.
    ///
    /// # Errors
    /// Names the key and the rule.
    pub fn parse(text: &str) -> Result<Self, SpecError> {
        let fields = csv_record(text).map_err(|e| SpecError(format!("invalid output \"{text}\": {e}")))?;
        if let [only] = fields.as_slice()
            && !only.starts_with("type=")
        {
            if only == "-" {
                return Ok(Self { dest: Some(Dest::Stdout), ..Self::new(OutputKind::Tar) });
            }
            if only.is_empty() {
                return Err(SpecError("an output is empty; expected type=… or a directory".into()));
            }
            return Ok(Self { dest: Some(Dest::Path(only.into())), ..Self::new(OutputKind::Local) });
        }
        let mut pairs: Vec<(String, &str)> = Vec::new();
        for field in &fields {
            let Some((key, value)) = field.split_once('=') else {
                return Err(SpecError(format!("invalid value {field} in output \"{text}\": expected key=value")));
            };
            // The name of an annotation keeps its case; every other key is lower-cased (G.01).
            let key = key.trim();
            let lower = key.to_lowercase();
            pairs.push((if lower.starts_with("annotation") { key.to_owned() } else { lower }, value));
        }
        let Some(kind) = pairs.iter().rev().find(|(key, _)| key == "type").map(|(_, value)| *value) else {
            return Err(SpecError(format!("output \"{text}\" has no type")));
        };
        let mut spec = match kind {
            "registry" => Self { push: true, ..Self::new(OutputKind::Image) },
            "image" => Self::new(OutputKind::Image),
            "oci" => Self::new(OutputKind::Oci),
            "docker" => Self::new(OutputKind::Docker),
            "local" => Self::new(OutputKind::Local),
            "tar" => Self::new(OutputKind::Tar),
            "cacheonly" => Self::new(OutputKind::CacheOnly),
            "moby" => {
                return Err(SpecError("type=moby is how dockerd talks to itself; type=docker loads into it".into()));
            }
            other => {
                let known = ["image", "registry", "oci", "docker", "local", "tar", "cacheonly"];
                return Err(SpecError(format!("unknown output type \"{other}\"{}", did_you_mean(other, known))));
            }
        };
        let mut families = Families::default();
        for (key, value) in &pairs {
            if key == "type" {
                continue;
            }
            if spec.kind.is_image() && spec.image.annotations.attribute(key, value)? {
                continue;
            }
            match KEYS.iter().find(|(name, _)| name == key) {
                Some((_, kinds)) if kinds.contains(&spec.kind) => spec.set(key, value, &mut families)?,
                Some(_) => return Err(SpecError(format!("attribute \"{key}\" has no meaning for output type {kind}"))),
                None => {
                    let known: Vec<&str> =
                        KEYS.iter().filter(|(_, k)| k.contains(&spec.kind)).map(|(n, _)| *n).collect();
                    let hint = did_you_mean(key, known.iter().copied());
                    return Err(SpecError(format!("unknown attribute \"{key}\" in output \"{text}\"{hint}")));
                }
            }
        }
        families.settle(&mut spec)?;
        spec.check(text)
    }

    fn set(&mut self, key: &str, value: &str, families: &mut Families) -> Result<(), SpecError> {
        match key {
            "dest" if value.is_empty() => return Err(SpecError("dest is empty".into())),
            "dest" => self.dest = Some(if value == "-" { Dest::Stdout } else { Dest::Path(value.into()) }),
            "name" => {
                for name in value.split(',').map(str::trim).filter(|n| !n.is_empty()) {
                    if name == "*" {
                        // SPEC B3.10: only other front ends than the Dockerfile's give names.
                        return Err(SpecError("name=* has no meaning: a Dockerfile gives the image no name".into()));
                    }
                    self.names.push(name.parse().map_err(|e| SpecError(format!("invalid name in output: {e}")))?);
                }
            }
            "push" => {
                self.push = boolean(key, value)?;
                self.push_refused = !self.push;
            }
            "push-by-digest" => self.by_digest = boolean(key, value)?,
            "registry.insecure" => self.insecure = boolean(key, value)?,
            "store" => self.store = boolean(key, value)?,
            "unpack" => self.unpack = boolean(key, value)?,
            "created-annotation" => self.image.created_annotation = boolean(key, value)?,
            "append" => self.append = boolean(key, value)?,
            "dangling-name-prefix" => {
                let prefix = Reference::parse_raw(value).ok().filter(|r| r.tag.is_none() && r.digest.is_none());
                if prefix.is_none() {
                    return Err(SpecError(format!(
                        "dangling-name-prefix \"{value}\" is not an image name without a tag"
                    )));
                }
                self.dangling_prefix = Some(value.to_owned());
            }
            "danging-name-empty-only" => self.dangling_empty_only = boolean(key, value)?,
            "name-canonical" => self.name_canonical = boolean(key, value)?,
            "tar" => self.tar = boolean(key, value)?,
            "context" => self.engine_context = Some(value.to_owned()),
            "oci-mediatypes" => {
                families.explicit = Some(if boolean(key, value)? { Family::Oci } else { Family::Docker });
            }
            "compatibility-version" => {
                let known = [10, 20, COMPATIBILITY];
                families.version = value.parse().ok().filter(|v| known.contains(v));
                if families.version.is_none() {
                    return Err(SpecError(format!(
                        "compatibility-version \"{value}\" is unknown: expected 10, 20 or 30"
                    )));
                }
            }
            "compression" => {
                self.image.estargz = value == "estargz";
                self.image.codec = match value {
                    "gzip" | "estargz" => Codec::Gzip,
                    "zstd" => Codec::Zstd,
                    "uncompressed" => Codec::Uncompressed,
                    _ => {
                        return Err(SpecError(format!(
                            "unsupported compression \"{value}\": expected gzip, zstd, estargz or uncompressed"
                        )));
                    }
                }
            }
            "compression-level" => {
                let level =
                    value.parse().map_err(|_| SpecError(format!("compression-level \"{value}\" is not a number")))?;
                self.image.level = Some(level);
            }
            "force-compression" => self.image.force = boolean(key, value)?,
            "rewrite-timestamp" => {
                self.image.rewrite_earlier = value == "all";
                self.image.rewrite_timestamp = self.image.rewrite_earlier || boolean(key, value)?;
            }
            "prefer-nondist-layers" => self.image.prefer_nondist = boolean(key, value)?,
            "source-date-epoch" => {
                let bad = |_| SpecError(format!("invalid SOURCE_DATE_EPOCH: {value}"));
                let epoch = if value.is_empty() { None } else { Some(value.parse().map_err(bad)?) };
                self.image.epoch = EpochChoice::Own(epoch);
            }
            "platform-split" => self.platform_split = Some(boolean(key, value)?),
            "mode" => {
                self.delete = match value {
                    "copy" => false,
                    "delete" => true,
                    _ => {
                        let why = format!("invalid local exporter mode \"{value}\": expected copy or delete");
                        return Err(SpecError(why));
                    }
                }
            }
            "buildinfo" | "buildinfo-attrs" => {
                boolean(key, value)?;
            }
            "oci-artifact" => self.image.artifact = Some(boolean(key, value)?),
            "attestation-inline" | "force-inline-attestations" => self.image.inline = Some(boolean(key, value)?),
            "attestation-prefix" if value.contains('/') => {
                return Err(SpecError(format!("attestation-prefix \"{value}\" has a slash: it begins a file's name")));
            }
            "attestation-prefix" => self.attestation_prefix = value.to_owned(),
            _ => return Err(SpecError(format!("output attribute \"{key}={value}\" is not supported yet"))),
        }
        Ok(())
    }

    fn check(mut self, text: &str) -> Result<Self, SpecError> {
        let fail = |why: String| Err(SpecError(why));
        // As with buildx, an archive goes to standard output unless it is said where to.
        if matches!(self.kind, OutputKind::Oci | OutputKind::Tar) && self.tar && self.dest.is_none() {
            self.dest = Some(Dest::Stdout);
        }
        if self.kind == OutputKind::Local && self.dest.is_none() {
            return fail(format!("dest is required for output \"{text}\""));
        }
        if self.kind == OutputKind::Local && self.dest == Some(Dest::Stdout) {
            return fail("dest cannot be stdout for local output; use type=tar".into());
        }
        if self.append && !self.store {
            return fail("append=true adds to what the store has: it contradicts store=false".into());
        }
        if !self.tar && self.dest == Some(Dest::Stdout) {
            return fail("tar=false writes a directory, so dest cannot be stdout".into());
        }
        if !self.tar && self.dest.is_none() {
            return fail(format!("dest is required for output \"{text}\""));
        }
        if self.engine_context.is_some() && self.dest.is_some() {
            return fail("context and dest contradict each other: the image goes to one or the other".into());
        }
        if self.image.family == Family::Docker && self.image.codec == Codec::Zstd {
            return fail("compression=zstd conflicts with oci-mediatypes=false".into());
        }
        if self.image.family == Family::Docker && self.image.estargz {
            return fail("compression=estargz conflicts with oci-mediatypes=false".into());
        }
        let limit = if self.image.codec == Codec::Zstd { 22 } else { 9 };
        if self.image.level.is_some_and(|l| !(-1..=limit).contains(&l)) {
            return fail(format!("compression-level must be between 0 and {limit}"));
        }
        if self.image.family == Family::Docker && self.image.family_given && self.image.artifact == Some(true) {
            return fail("oci-artifact=true conflicts with oci-mediatypes=false".into());
        }
        if self.unpack && self.image.rewrite_timestamp {
            return fail("rewrite-timestamp conflicts with unpack".into());
        }
        if self.unpack && !self.store {
            return fail("unpack conflicts with store=false: the store is where layers are unpacked".into());
        }
        if self.by_digest
            && let Some(name) = self.names.iter().find(|n| n.tag.as_deref().is_some_and(|t| t != "latest"))
        {
            return fail(format!("can't push tagged ref {name} by digest"));
        }
        Ok(self)
    }

    /// Whether an attestation goes with this output (SPEC C8.05): `inline_only` is for where it can stand beside an image;
    /// one that nobody asked for only goes where somebody can find it.
    #[must_use]
    pub fn takes(&self, inline_only: bool, unasked: bool) -> bool {
        let inline = self.image.inline.unwrap_or(self.kind == OutputKind::Image);
        let found = !self.names.is_empty() || self.dangling_prefix.is_some();
        match self.kind {
            OutputKind::CacheOnly => false,
            kind => !inline_only || (kind.is_image() && inline && (found || !unasked)),
        }
    }

    /// Whether its image is an index: over platforms, or because of what is said about it.
    #[must_use]
    pub fn has_index(&self, multi: bool, asked: &Asked) -> bool {
        let provenance = asked.provenance.as_ref().is_some_and(|p| self.takes(p.inline_only, p.unasked));
        self.kind.is_image() && (multi || provenance || asked.sbom.is_some())
    }

    /// What can only be told once it is known whether the output is an index.
    ///
    /// # Errors
    /// Names the rule.
    pub fn check_index(&self, index: bool) -> Result<(), SpecError> {
        if !index && self.kind.is_image() && self.image.annotations.need_index() {
            return Err(SpecError("index annotations not supported for single platform export".into()));
        }
        if index && self.kind == OutputKind::Docker && self.engine.is_none() {
            return Err(SpecError("docker exporter does not currently support exporting manifest lists".into()));
        }
        Ok(())
    }

    /// The name of the step that writes it (SPEC B6.02).
    #[must_use]
    pub fn title(&self) -> String {
        match self.kind {
            OutputKind::Image => "exporting to image".into(),
            OutputKind::Oci => "exporting to oci image format".into(),
            OutputKind::Docker => "exporting to docker image format".into(),
            OutputKind::Local => "exporting to client directory".into(),
            OutputKind::Tar => "exporting to client tarball".into(),
            OutputKind::CacheOnly => "keeping the result in the cache".into(),
        }
    }
}

/// What decides on the family of media types (SPEC C6.03, C6.04).
#[derive(Default)]
struct Families {
    explicit: Option<Family>,
    version: Option<u32>,
}

impl Families {
    fn settle(&self, spec: &mut OutputSpec) -> Result<(), SpecError> {
        // Before version 30, images had Docker's types unless asked otherwise; archives of type oci never did.
        let old = self.version.is_some_and(|v| v < COMPATIBILITY) && spec.kind != OutputKind::Oci;
        let plain = spec.image.codec != Codec::Zstd && !spec.image.estargz;
        let fallback = if old && plain { Family::Docker } else { Family::Oci };
        if self.version == Some(10) && spec.image.codec == Codec::Zstd {
            return Err(SpecError("compression=zstd conflicts with compatibility-version=10".into()));
        }
        spec.image.family = self.explicit.unwrap_or(fallback);
        spec.image.family_given = self.explicit.is_some();
        spec.image.compatibility = self.version;
        // Before version 30 attestations had the form of images.
        if self.version.is_some_and(|v| v < COMPATIBILITY) {
            spec.image.artifact.get_or_insert(false);
        }
        Ok(())
    }
}

fn boolean(key: &str, value: &str) -> Result<bool, SpecError> {
    let known = crate::base::values::boolean(value);
    known.ok_or_else(|| SpecError(format!("non-bool value \"{value}\" for output attribute {key}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        OutputSpec::parse(text).err().map_or_else(|| "fine".into(), |e| e.0)
    }

    #[test]
    fn b3_01_b3_02_b3_03_shorthands() {
        let local = OutputSpec::parse("out").expect("valid");
        assert_eq!((local.kind, local.dest), (OutputKind::Local, Some(Dest::Path("out".into()))));
        let tar = OutputSpec::parse("-").expect("valid");
        assert_eq!((tar.kind, tar.dest), (OutputKind::Tar, Some(Dest::Stdout)));
        for text in ["type=oci", "type=tar"] {
            assert_eq!(OutputSpec::parse(text).expect("valid").dest, Some(Dest::Stdout), "{text}");
        }
        assert_eq!(OutputSpec::parse("type=docker").expect("valid").dest, None, "an engine has it");
    }

    #[test]
    fn g01_values_are_csv_records() {
        let spec = OutputSpec::parse("type=image,\"name=a,b:2\",push=true").expect("valid");
        let names: Vec<_> = spec.names.iter().map(Reference::familiar).collect();
        assert_eq!(names, ["a:latest", "b:2"]);
        assert!(spec.push);
        let spec = OutputSpec::parse("type=oci,dest=x.tar,compression=zstd,compression-level=9,annotation.a.B=c")
            .expect("valid");
        assert_eq!((spec.image.codec, spec.image.level), (Codec::Zstd, Some(9)));
        assert_eq!(spec.image.annotations.of(super::super::annotations::Level::Manifest, None)["a.B"], "c");
    }

    // SPEC N2.08: the other misspelt name is that of a capability which only other front ends ask for.
    #[test]
    fn n2_08_the_misspelt_attribute_is_the_name() {
        let spec = OutputSpec::parse("type=image,dangling-name-prefix=p,danging-name-empty-only=true").expect("valid");
        assert!(spec.dangling_empty_only);
        let right = error("type=image,dangling-name-prefix=p,dangling-name-empty-only=true");
        assert!(right.contains("did you mean danging-name-empty-only?"), "{right}");
    }

    #[test]
    fn b3_mistakes_are_named() {
        assert_eq!(error("type=oic"), "unknown output type \"oic\" (did you mean oci?)");
        assert_eq!(error("type=oci,tar=false"), "dest is required for output \"type=oci,tar=false\"");
        assert_eq!(error("type=local"), "dest is required for output \"type=local\"");
        assert!(error("type=oci,dst=x").starts_with("unknown attribute \"dst\""));
        assert_eq!(error("type=oci,dest=x,tar=perhaps"), "non-bool value \"perhaps\" for output attribute tar");
        assert!(error("type=image,compression=lzma").starts_with("unsupported compression"));
        assert!(error("type=image,oci-mediatypes=false,compression=estargz").contains("conflicts"));
        assert!(error("type=image,oci-mediatypes=false,compression=zstd").contains("conflicts"));
        assert!(error("type=image,name=a:1,push-by-digest=true").starts_with("can't push tagged ref"));
        assert_eq!(error("type=local,dest=x,push=true"), "attribute \"push\" has no meaning for output type local");
        assert_eq!(error("type=image,rewrite-timestamp=true,unpack=true"), "rewrite-timestamp conflicts with unpack");
        assert_eq!(
            error("type=local,dest=x,mode=move"),
            "invalid local exporter mode \"move\": expected copy or delete"
        );
        assert!(error("type=image,name=*").contains("no name"));
        assert!(error("type=oci,dest=-,tar=false").contains("directory"));
        assert!(error("type=image,source-date-epoch=soon").contains("invalid SOURCE_DATE_EPOCH"));
        assert!(error("type=image,compatibility-version=15").contains("expected 10, 20 or 30"));
        assert!(error("type=docker,dest=x,context=y").contains("contradict"));
        assert!(error("type=image,append=true,store=false").contains("contradicts store=false"));
        assert_eq!(error("dest=x,tar=true"), "output \"dest=x,tar=true\" has no type");
    }

    // SPEC C6.12, C6.15, N2.13
    #[test]
    fn what_needs_or_forbids_an_index_is_told_early() {
        let check = |text: &str, multi| {
            OutputSpec::parse(text).and_then(|s| s.check_index(multi)).err().map_or_else(String::new, |e| e.0)
        };
        let index = "type=image,annotation-index.x=y";
        assert_eq!(check(index, false), "index annotations not supported for single platform export");
        assert_eq!(check(index, true), "");
        let docker = "type=docker,dest=x";
        assert_eq!(check(docker, true), "docker exporter does not currently support exporting manifest lists");
        assert_eq!(check(docker, false), "");
    }

    // SPEC C6.03, C6.04
    #[test]
    fn families_follow_version_and_attribute() {
        let family = |text: &str| OutputSpec::parse(text).expect("valid").image.family;
        assert_eq!(family("type=image"), Family::Oci);
        assert_eq!(family("type=image,oci-mediatypes=false"), Family::Docker);
        assert_eq!(family("type=image,compatibility-version=20"), Family::Docker);
        assert_eq!(family("type=image,compatibility-version=20,oci-mediatypes=true"), Family::Oci);
        assert_eq!(family("type=image,compatibility-version=20,compression=zstd"), Family::Oci);
        assert_eq!(family("type=oci,dest=x,compatibility-version=20"), Family::Oci);
        assert!(error("type=image,compatibility-version=10,compression=zstd").contains("conflicts"));
    }

    // SPEC B3, C6.01: names that upstream accepts and ignores are accepted.
    #[test]
    fn legacy_attributes_are_accepted() {
        let spec = OutputSpec::parse("type=image,buildinfo=true,buildinfo-attrs=false");
        assert_eq!(spec, Ok(OutputSpec::new(OutputKind::Image)));
        assert!(error("type=image,buildinfo=perhaps").starts_with("non-bool value"));
    }
}
