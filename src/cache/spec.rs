//! Values of `--cache-from` and `--cache-to` (SPEC B2.09, B4): which cache, with which options.

use std::path::PathBuf;

use super::backend::local::Entry;
use super::backend::{DocumentForm, ExportOptions};
use crate::oci::Reference;
use crate::oci::media_type::{Codec, Family};

/// Where a cache is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// Under a reference of a registry; what an inline cache is imported from, too.
    Registry {
        /// The reference.
        reference: Reference,
        /// Accept any certificate, or none.
        insecure: bool,
    },
    /// In the config of the image that is exported.
    Inline,
    /// In a directory.
    Local {
        /// The directory, absolute.
        dir: PathBuf,
        /// Which of its caches.
        entry: Entry,
    },
}

/// A cache to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportSpec {
    /// Where it is.
    pub location: Location,
}

/// A cache to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportSpec {
    /// Where it is.
    pub location: Location,
    /// What is written, and what failing means.
    pub options: ExportOptions,
    /// How it is written, where there is a choice.
    pub form: DocumentForm,
    /// `local`: delete whatever no entry needs.
    pub reset: bool,
}

/// Why a value is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SpecError(pub String);

fn fail<T>(text: impl Into<String>) -> Result<T, SpecError> {
    Err(SpecError(text.into()))
}

/// A field of the CSV record: a key with or without a value.
pub type Field = (String, Option<String>);

/// The types there are.
const TYPES: &[&str] = &["registry", "inline", "local"];

/// The fields of one value, taken one after the other, so that what is left over can be refused.
struct Fields {
    flag: &'static str,
    kind: String,
    left: Vec<(String, String)>,
}

impl Fields {
    fn new(flag: &'static str, fields: &[Field]) -> Result<Self, SpecError> {
        let mut left = Vec::new();
        let mut kind = None;
        for (key, value) in fields {
            let Some(value) = value else { return fail(format!("invalid field \"{key}\": expected key=value")) };
            if key == "type" { kind = Some(value.clone()) } else { left.push((key.clone(), value.clone())) }
        }
        let Some(kind) = kind.filter(|k| !k.is_empty()) else {
            return fail("type required, e.g. type=registry,ref=host/app:cache");
        };
        if !TYPES.contains(&kind.as_str()) {
            return fail(format!("unknown cache type \"{kind}\": expected {}", TYPES.join(", ")));
        }
        Ok(Self { flag, kind, left })
    }

    /// The last value of a key counts.
    fn take(&mut self, key: &str) -> Option<String> {
        let found = self.left.iter().rev().find(|(k, _)| k == key).map(|(_, v)| v.clone());
        self.left.retain(|(k, _)| k != key);
        found.filter(|v| !v.is_empty())
    }

    fn require(&mut self, key: &str) -> Result<String, SpecError> {
        let what = if self.flag == "cache-from" { "importer" } else { "exporter" };
        let kind = self.kind.clone();
        self.take(key).ok_or_else(|| SpecError(format!("{kind} cache {what} requires {key}")))
    }

    fn boolean(&mut self, key: &str) -> Result<Option<bool>, SpecError> {
        let Some(text) = self.take(key) else { return Ok(None) };
        match text.as_str() {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Some(true)),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Some(false)),
            _ => fail(format!("invalid value \"{text}\" of {key}: expected true or false")),
        }
    }

    fn done(self, known: &[&str]) -> Result<(), SpecError> {
        match self.left.first() {
            None => Ok(()),
            Some((key, _)) => {
                let near = crate::base::wording::closest(key, known.iter().copied());
                let hint = near.map_or_else(String::new, |k| format!(" (did you mean {k}?)"));
                fail(format!("unexpected key '{key}' for cache type {}{hint}", self.kind))
            }
        }
    }

    fn reference(&mut self) -> Result<Reference, SpecError> {
        let text = self.require("ref")?;
        text.parse().map_err(|e| SpecError(format!("invalid ref \"{text}\": {e}")))
    }

    fn dir(&mut self, key: &str) -> Result<PathBuf, SpecError> {
        let text = self.require(key)?;
        std::path::absolute(&text).map_err(|e| SpecError(format!("{key}={text}: {e}")))
    }
}

/// References without any `=` are registries (SPEC B2.09).
fn references(fields: &[Field]) -> Option<Result<Vec<Reference>, SpecError>> {
    if fields.iter().any(|(_, value)| value.is_some()) {
        return None;
    }
    let parse = |text: &str| text.parse().map_err(|e| SpecError(format!("invalid ref \"{text}\": {e}")));
    Some(fields.iter().map(|(text, _)| parse(text)).collect())
}

/// One `--cache-from` value.
///
/// # Errors
/// Names the key and the rule.
pub fn import(fields: &[Field]) -> Result<Vec<ImportSpec>, SpecError> {
    if let Some(references) = references(fields) {
        let spec = |reference| ImportSpec { location: Location::Registry { reference, insecure: false } };
        return Ok(references?.into_iter().map(spec).collect());
    }
    let mut fields = Fields::new("cache-from", fields)?;
    let location = match fields.kind.as_str() {
        "registry" => {
            let (reference, insecure) = (fields.reference()?, fields.boolean("registry.insecure")?.unwrap_or(false));
            fields.done(&["ref", "registry.insecure"])?;
            Location::Registry { reference, insecure }
        }
        "local" => {
            let dir = fields.dir("src")?;
            let tag = fields.take("tag");
            let entry = match fields.take("digest") {
                Some(digest) => {
                    Entry::Digest(digest.parse().map_err(|e| SpecError(format!("invalid value of digest: {e}")))?)
                }
                None => Entry::Tag(tag.unwrap_or_else(|| "latest".into())),
            };
            fields.done(&["src", "tag", "digest"])?;
            Location::Local { dir, entry }
        }
        _ => return fail("an inline cache is imported from its image: use type=registry,ref=IMAGE"),
    };
    Ok(vec![ImportSpec { location }])
}

/// One `--cache-to` value.
///
/// # Errors
/// Names the key and the rule.
pub fn export(fields: &[Field]) -> Result<Vec<ExportSpec>, SpecError> {
    if let Some(references) = references(fields) {
        let spec = |reference| ExportSpec {
            location: Location::Registry { reference, insecure: false },
            options: ExportOptions::default(),
            form: DocumentForm::default(),
            reset: false,
        };
        return Ok(references?.into_iter().map(spec).collect());
    }
    let mut fields = Fields::new("cache-to", fields)?;
    let options = options(&mut fields)?;
    let common = ["mode", "ignore-error"];
    let compression = ["compression", "compression-level", "force-compression"];
    let document = ["oci-mediatypes", "image-manifest"];
    let mut reset = false;
    let mut form = DocumentForm::default();
    let location = match fields.kind.as_str() {
        "registry" => {
            let (reference, insecure) = (fields.reference()?, fields.boolean("registry.insecure")?.unwrap_or(false));
            form = self::form(&mut fields)?;
            fields.done(&[&common[..], &compression, &document, &["ref", "registry.insecure"]].concat())?;
            Location::Registry { reference, insecure }
        }
        "local" => {
            let dir = fields.dir("dest")?;
            let tag = fields.take("tag").unwrap_or_else(|| "latest".into());
            reset = fields.boolean("reset")?.unwrap_or(false);
            form = self::form(&mut fields)?;
            fields.done(&[&common[..], &compression, &document, &["dest", "tag", "reset"]].concat())?;
            Location::Local { dir, entry: Entry::Tag(tag) }
        }
        _ => {
            if options.everything {
                // BuildKit takes it and exports less than asked for; nobody is helped by that.
                return fail("inline cache only supports mode=min: use type=registry for mode=max");
            }
            fields.done(&common)?;
            Location::Inline
        }
    };
    Ok(vec![ExportSpec { location, options, form, reset }])
}

fn options(fields: &mut Fields) -> Result<ExportOptions, SpecError> {
    let everything = match fields.take("mode").as_deref() {
        None | Some("min") => false,
        Some("max") => true,
        Some(other) => return fail(format!("invalid mode \"{other}\": expected min or max")),
    };
    let ignore_error = fields.boolean("ignore-error")?.unwrap_or(false);
    let mut options = ExportOptions { everything, ignore_error, ..ExportOptions::default() };
    if fields.kind == "inline" {
        return Ok(options);
    }
    options.codec = match fields.take("compression").as_deref() {
        None | Some("gzip") => Codec::Gzip,
        Some("zstd") => Codec::Zstd,
        Some("uncompressed") => Codec::Uncompressed,
        Some("estargz") => return fail("compression=estargz is not supported yet; use gzip, zstd or uncompressed"),
        Some(other) => {
            return fail(format!("invalid compression \"{other}\": expected gzip, zstd or uncompressed"));
        }
    };
    if let Some(level) = fields.take("compression-level") {
        let number = level.parse::<i32>();
        let number = number.map_err(|_| SpecError(format!("compression-level \"{level}\" is not a number")))?;
        options.level = Some(number);
    }
    options.force = fields.boolean("force-compression")?.unwrap_or(false);
    Ok(options)
}

fn form(fields: &mut Fields) -> Result<DocumentForm, SpecError> {
    let oci = fields.boolean("oci-mediatypes")?.unwrap_or(true);
    let image_manifest = fields.boolean("image-manifest")?;
    if !oci && image_manifest == Some(true) {
        return fail(
            "invalid configuration for remote cache, OCI mediatypes are required for image-manifest cache format",
        );
    }
    Ok(DocumentForm {
        family: if oci { Family::Oci } else { Family::Docker },
        image_manifest: image_manifest.unwrap_or(oci),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: &str) -> Vec<Field> {
        let pair = |f: &str| match f.split_once('=') {
            Some((k, v)) => (k.to_owned(), Some(v.to_owned())),
            None => (f.to_owned(), None),
        };
        text.split(',').map(pair).collect()
    }

    fn to(text: &str) -> Result<ExportSpec, String> {
        export(&fields(text)).map(|mut all| all.remove(0)).map_err(|e| e.0)
    }

    // SPEC B2.09
    #[test]
    fn b2_09_references_alone_are_registries() {
        let all = import(&fields("user/app:cache,other")).expect("valid");
        let names: Vec<String> = all
            .iter()
            .map(|spec| match &spec.location {
                Location::Registry { reference, .. } => reference.to_string(),
                other => format!("{other:?}"),
            })
            .collect();
        assert_eq!(names, ["docker.io/user/app:cache", "docker.io/library/other:latest"]);
        assert!(!export(&fields("user/app:cache")).expect("valid")[0].options.everything);
    }

    #[test]
    fn b4_03_and_b4_04_options() {
        let spec = to("type=registry,ref=a/b,mode=max,compression=zstd,compression-level=7,force-compression=true,oci-mediatypes=false,ignore-error=1").expect("valid");
        assert!(spec.options.everything && spec.options.ignore_error && spec.options.force);
        assert_eq!((spec.options.codec, spec.options.level), (Codec::Zstd, Some(7)));
        assert_eq!(spec.form, DocumentForm { family: Family::Docker, image_manifest: false });
        let spec = to("type=local,dest=/x,tag=t,reset=true,image-manifest=false").expect("valid");
        assert_eq!(spec.location, Location::Local { dir: "/x".into(), entry: Entry::Tag("t".into()) });
        assert!(spec.reset && !spec.form.image_manifest);
        assert_eq!(to("type=inline").expect("valid").location, Location::Inline);
        let from = import(&fields("type=local,src=/x")).expect("valid");
        assert_eq!(from[0].location, Location::Local { dir: "/x".into(), entry: Entry::Tag("latest".into()) });
    }

    #[test]
    fn b4_errors_name_the_rule() {
        for (text, expected) in [
            ("ref=a", "type required"),
            ("type=redis,x=y", "unknown cache type \"redis\""),
            ("type=registry,mode=max", "registry cache exporter requires ref"),
            ("type=local,mode=max", "local cache exporter requires dest"),
            ("type=registry,ref=a,mode=full", "invalid mode \"full\""),
            ("type=registry,ref=A B", "invalid ref"),
            ("type=registry,ref=a,ignore-eror=true", "did you mean ignore-error?"),
            ("type=registry,ref=a,compression=lz4", "invalid compression"),
            ("type=registry,ref=a,oci-mediatypes=false,image-manifest=true", "OCI mediatypes are required"),
            ("type=registry,ref=a,force-compression=maybe", "expected true or false"),
            ("type=inline,mode=max", "only supports mode=min"),
            ("type=inline,compression=zstd", "unexpected key 'compression'"),
        ] {
            let error = to(text).expect_err(text);
            assert!(error.contains(expected), "{text}: {error}");
        }
        let error = |text: &str| import(&fields(text)).expect_err(text).0;
        assert!(error("type=inline,ref=a").contains("type=registry,ref=IMAGE"));
        assert!(error("type=local,src=/x,digest=abc").contains("invalid value of digest"));
        assert!(error("type=local,tag=x").contains("local cache importer requires src"));
    }
}
