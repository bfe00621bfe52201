//! `--output` values (SPEC G.01, B3).

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::base::wording::did_you_mean;
use crate::oci::Reference;
use crate::oci::media_type::{Codec, Family};

/// Kinds of outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputKind {
    /// In the store, perhaps pushed.
    Image,
    /// OCI archive or layout.
    Oci,
    /// Docker archive.
    Docker,
    /// Files in a directory.
    Local,
    /// Files in a tar.
    Tar,
    /// Nothing.
    CacheOnly,
}

/// Where an output goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dest {
    /// A file or directory.
    Path(PathBuf),
    /// Standard output.
    Stdout,
}

/// How an image is put together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImageOptions {
    /// Media types.
    pub family: Family,
    /// Compression of new layers.
    pub codec: Codec,
    /// Its level; `None` is the default.
    pub level: Option<i32>,
    /// Compress layers again that have another codec, base layers included.
    pub force: bool,
    /// Rewrite file times newer than the epoch (SPEC C6.09).
    pub rewrite_timestamp: bool,
    /// Of the manifest.
    pub manifest_annotations: BTreeMap<String, String>,
    /// Of the manifest's descriptor in an index.
    pub descriptor_annotations: BTreeMap<String, String>,
}

/// One output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputSpec {
    /// What kind.
    pub kind: OutputKind,
    /// Where to.
    pub dest: Option<Dest>,
    /// Image names.
    pub names: Vec<Reference>,
    /// Push to the registries of the names.
    pub push: bool,
    /// Push without tags.
    pub by_digest: bool,
    /// Talk plain HTTP or accept any certificate.
    pub insecure: bool,
    /// Keep in the store.
    pub store: bool,
    /// `oci`: one archive rather than a directory.
    pub tar: bool,
    /// How the image is made.
    pub image: ImageOptions,
}

/// Why an output is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SpecError(pub String);

const KEYS: &[&str] = &[
    "type",
    "dest",
    "name",
    "push",
    "push-by-digest",
    "registry.insecure",
    "store",
    "unpack",
    "tar",
    "oci-mediatypes",
    "compression",
    "compression-level",
    "force-compression",
    "rewrite-timestamp",
    "dangling-name-prefix",
    "danging-name-empty-only",
    "name-canonical",
    "annotation",
    "context",
    "mode",
    "platform-split",
    "attestation-prefix",
    "prefer-nondist-layers",
    "oci-artifact",
    "attestation-inline",
    "source-date-epoch",
];

impl OutputSpec {
    /// An output with the defaults of its kind.
    #[must_use]
    pub fn new(kind: OutputKind) -> Self {
        Self {
            kind,
            dest: None,
            names: Vec::new(),
            push: false,
            by_digest: false,
            insecure: false,
            store: true,
            tar: true,
            image: ImageOptions::default(),
        }
    }

    /// Parses one `--output` value: a CSV record, a path, or `-`.
    ///
    /// # Errors
    /// Names the key and the rule.
    pub fn parse(text: &str) -> Result<Self, SpecError> {
        let fields = csv_fields(text)?;
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
        let mut values: BTreeMap<String, String> = BTreeMap::new();
        let mut annotations = Vec::new();
        for field in &fields {
            let Some((key, value)) = field.split_once('=') else {
                return Err(SpecError(format!("invalid value {field} in output \"{text}\": expected key=value")));
            };
            let key = key.trim().to_lowercase();
            if key.starts_with("annotation") && key != "annotation" {
                // The key's own case matters: it is part of the annotation.
                annotations.push((field.split_once('=').map_or("", |f| f.0).trim().to_owned(), value.to_owned()));
            } else if KEYS.contains(&key.as_str()) {
                values.insert(key, value.to_owned());
            } else {
                return Err(SpecError(format!(
                    "unknown attribute \"{key}\" in output \"{text}\"{}",
                    did_you_mean(&key, KEYS)
                )));
            }
        }
        let kind = match values.remove("type").as_deref() {
            None => return Err(SpecError(format!("output \"{text}\" has no type"))),
            Some("image" | "registry") => OutputKind::Image,
            Some("oci") => OutputKind::Oci,
            Some("docker") => OutputKind::Docker,
            Some("local") => OutputKind::Local,
            Some("tar") => OutputKind::Tar,
            Some("cacheonly") => OutputKind::CacheOnly,
            Some(other) => {
                let known = ["image", "registry", "oci", "docker", "local", "tar", "cacheonly"];
                return Err(SpecError(format!("unknown output type \"{other}\"{}", did_you_mean(other, known))));
            }
        };
        let mut spec = Self::new(kind);
        spec.push = fields.iter().any(|f| f.trim() == "type=registry");
        for (key, value) in &values {
            spec.set(key, value)?;
        }
        for (key, value) in annotations {
            spec.annotate(&key, &value)?;
        }
        spec.check(text)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), SpecError> {
        let refuse = || Err(SpecError(format!("output attribute \"{key}={value}\" is not supported yet")));
        match key {
            "dest" => self.dest = Some(if value == "-" { Dest::Stdout } else { Dest::Path(value.into()) }),
            "name" => {
                for name in value.split(',').filter(|n| !n.is_empty()) {
                    self.names.push(name.parse().map_err(|e| SpecError(format!("invalid name in output: {e}")))?);
                }
            }
            "push" => self.push = boolean(key, value)?,
            "push-by-digest" => self.by_digest = boolean(key, value)?,
            "registry.insecure" => self.insecure = boolean(key, value)?,
            "store" => self.store = boolean(key, value)?,
            // Layers are unpacked when something reads them; there is nothing to do early.
            "unpack" => {
                boolean(key, value)?;
            }
            "tar" => self.tar = boolean(key, value)?,
            "oci-mediatypes" => self.image.family = if boolean(key, value)? { Family::Oci } else { Family::Docker },
            "compression" => {
                self.image.codec = match value {
                    "gzip" => Codec::Gzip,
                    "zstd" => Codec::Zstd,
                    "uncompressed" => Codec::Uncompressed,
                    "estargz" => return refuse(),
                    _ => {
                        return Err(SpecError(format!(
                            "unsupported compression \"{value}\": expected gzip, zstd or uncompressed"
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
            "rewrite-timestamp" => self.image.rewrite_timestamp = boolean(key, value)?,
            "platform-split" | "oci-artifact" | "attestation-inline" if !boolean(key, value)? => {}
            "mode" if value == "copy" => {}
            _ => return refuse(),
        }
        Ok(())
    }

    fn annotate(&mut self, key: &str, value: &str) -> Result<(), SpecError> {
        let fail = |why: &str| SpecError(format!("invalid annotation \"{key}\": {why}"));
        let rest = &key["annotation".len()..];
        let (level, name) = match rest.strip_prefix('-') {
            Some(rest) => rest.split_once('.').ok_or_else(|| fail("expected annotation-LEVEL.NAME"))?,
            None => ("manifest", rest.strip_prefix('.').ok_or_else(|| fail("expected annotation.NAME"))?),
        };
        self.annotate_level(level, name, value)
    }

    /// Adds an annotation at `manifest` or `manifest-descriptor` level (SPEC C6.12).
    ///
    /// # Errors
    /// For levels a single image does not have.
    pub fn annotate_level(&mut self, level: &str, name: &str, value: &str) -> Result<(), SpecError> {
        match level {
            "manifest" => self.image.manifest_annotations.insert(name.to_owned(), value.to_owned()),
            "manifest-descriptor" => self.image.descriptor_annotations.insert(name.to_owned(), value.to_owned()),
            "index" | "index-descriptor" => {
                return Err(SpecError("index annotations not supported for single platform export".into()));
            }
            _ => return Err(SpecError(format!("unknown annotation type \"{level}\""))),
        };
        Ok(())
    }

    fn check(self, text: &str) -> Result<Self, SpecError> {
        let fail = |why: String| Err(SpecError(why));
        let needs_dest = matches!(self.kind, OutputKind::Oci | OutputKind::Local | OutputKind::Tar);
        if needs_dest && self.dest.is_none() {
            return fail(format!("dest is required for output \"{text}\""));
        }
        if self.kind == OutputKind::Local && self.dest == Some(Dest::Stdout) {
            return fail("dest cannot be stdout for local output; use type=tar".into());
        }
        if self.image.family == Family::Docker && self.image.codec == Codec::Zstd {
            return fail("compression=zstd conflicts with oci-mediatypes=false".into());
        }
        let limit = if self.image.codec == Codec::Zstd { 22 } else { 9 };
        if self.image.level.is_some_and(|l| !(-1..=limit).contains(&l)) {
            return fail(format!("compression-level must be between 0 and {limit}"));
        }
        if self.by_digest
            && let Some(name) = self.names.iter().find(|n| n.tag.as_deref().is_some_and(|t| t != "latest"))
        {
            return fail(format!("can't push tagged ref {name} by digest"));
        }
        Ok(self)
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

/// The fields of one RFC 4180 record.
fn csv_fields(text: &str) -> Result<Vec<String>, SpecError> {
    let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(text.as_bytes());
    let mut record = csv::StringRecord::new();
    match reader.read_record(&mut record) {
        Ok(true) => Ok(record.iter().map(Into::into).collect()),
        Ok(false) => Ok(vec![String::new()]),
        Err(e) => Err(SpecError(format!("invalid output \"{text}\": {e}"))),
    }
}

/// Go's `strconv.ParseBool` (SPEC G.02).
fn boolean(key: &str, value: &str) -> Result<bool, SpecError> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(SpecError(format!("non-bool value \"{value}\" for output attribute {key}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        OutputSpec::parse(text).err().map_or_else(|| "fine".into(), |e| e.0)
    }

    #[test]
    fn b3_shorthands() {
        let local = OutputSpec::parse("out").expect("valid");
        assert_eq!((local.kind, local.dest), (OutputKind::Local, Some(Dest::Path("out".into()))));
        let tar = OutputSpec::parse("-").expect("valid");
        assert_eq!((tar.kind, tar.dest), (OutputKind::Tar, Some(Dest::Stdout)));
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
        assert_eq!(spec.image.manifest_annotations["a.B"], "c");
    }

    #[test]
    fn b3_mistakes_are_named() {
        assert_eq!(error("type=oic"), "unknown output type \"oic\" (did you mean oci?)");
        assert_eq!(error("type=oci"), "dest is required for output \"type=oci\"");
        assert!(error("type=oci,dst=x").starts_with("unknown attribute \"dst\""));
        assert_eq!(error("type=oci,dest=x,tar=perhaps"), "non-bool value \"perhaps\" for output attribute tar");
        assert!(error("type=image,compression=lzma").starts_with("unsupported compression"));
        assert!(error("type=image,compression=estargz").ends_with("is not supported yet"));
        assert!(error("type=image,oci-mediatypes=false,compression=zstd").contains("conflicts"));
        assert!(error("type=image,name=a:1,push-by-digest=true").starts_with("can't push tagged ref"));
        assert_eq!(
            error("type=image,annotation-index.x=y"),
            "index annotations not supported for single platform export"
        );
    }
}
