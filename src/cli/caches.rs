//! `--cache-from` and `--cache-to` to settings (SPEC B2.09, B4).

use std::collections::BTreeMap;

use super::args::Build;
use super::errors::Failure;
use super::{grammar, settings};
use crate::base::FaultKind;
use crate::base::duration::parse_span;
use crate::cache::backend::object::Service;
use crate::cache::spec::{self, ExportSpec, Field, ImportSpec, Location};
use crate::frontend::FrontendOptions;

fn usage(message: impl Into<String>) -> Failure {
    Failure::new(FaultKind::Usage, message)
}

/// The caches to read.
pub(super) fn imports(args: &Build) -> Result<Vec<ImportSpec>, Failure> {
    let mut specs = Vec::new();
    for text in args.cache_from.iter().filter(|text| !text.is_empty()) {
        specs.extend(import(text).map_err(|e| usage(format!("--cache-from {text}: {e}")))?);
    }
    let age = args.drop_in.cache_ttl.as_deref().map(parse_span).transpose();
    let age = age.map_err(|e| usage(format!("--cache-ttl: {e}")))?;
    specs.iter_mut().for_each(|spec: &mut ImportSpec| spec.max_age = age);
    Ok(specs)
}

/// Keys for a bucket that are in the file which Amazon's tools share (SPEC B4.07).
fn shared_keys(fields: &[Field]) -> Result<BTreeMap<&'static str, String>, String> {
    let has = |key: &str, value: Option<&str>| {
        fields.iter().any(|(k, v)| k == key && (value.is_none() || v.as_deref() == value))
    };
    if has("type", Some("s3")) && !has("access_key_id", None) {
        settings::cloud().aws_profile()
    } else {
        Ok(BTreeMap::new())
    }
}

fn variable(shared: &BTreeMap<&'static str, String>, name: &str) -> Option<String> {
    settings::variable(name).or_else(|| shared.get(name).cloned())
}

/// An object store that something else than a cache is in.
pub(super) fn service(fields: &[Field]) -> Result<Service, String> {
    let shared = shared_keys(fields)?;
    let found = spec::import(fields, &|name| variable(&shared, name)).map_err(|e| e.to_string())?;
    match found.into_iter().next().map(|spec| spec.location) {
        Some(Location::Object(service)) => Ok(service),
        _ => Err("this is no object store".into()),
    }
}

/// One value of `--cache-from`.
pub(super) fn import(text: &str) -> Result<Vec<ImportSpec>, String> {
    let fields = grammar::fields(text).map_err(|e| e.to_string())?;
    let shared = shared_keys(&fields)?;
    spec::import(&fields, &|name| variable(&shared, name)).map_err(|e| e.to_string())
}

/// One value of `--cache-to`.
pub(super) fn export(text: &str) -> Result<Vec<ExportSpec>, String> {
    let fields = grammar::fields(text).map_err(|e| e.to_string())?;
    let shared = shared_keys(&fields)?;
    spec::export(&fields, &|name| variable(&shared, name)).map_err(|e| e.to_string())
}

/// The caches to write; the build argument `BUILDKIT_INLINE_CACHE=1` asks for an inline one (SPEC B4.02).
pub(super) fn exports(
    args: &Build,
    options: &FrontendOptions,
    notices: &mut Vec<String>,
) -> Result<Vec<ExportSpec>, Failure> {
    let mut specs: Vec<ExportSpec> = Vec::new();
    for text in args.cache_to.iter().filter(|text| !text.is_empty()) {
        for spec in export(text).map_err(|e| usage(format!("--cache-to {text}: {e}")))? {
            if specs.iter().any(|known| known.location == spec.location) {
                notices.push(format!("--cache-to {text}: this cache is written twice, the last one stays"));
            }
            specs.push(spec);
        }
    }
    let inline = match options.build_args.get("BUILDKIT_INLINE_CACHE").map(String::as_str) {
        None | Some("") => false,
        Some(text) => grammar::boolean(text)
            .ok_or_else(|| usage(format!("--build-arg: invalid boolean value for BUILDKIT_INLINE_CACHE: {text}")))?,
    };
    if inline && !specs.iter().any(|spec| spec.location == Location::Inline) {
        specs.push(ExportSpec::of(Location::Inline));
    }
    Ok(specs)
}
