//! `--cache-from` and `--cache-to` to settings (SPEC B2.09, B4).

use super::args::Build;
use super::errors::Failure;
use super::{grammar, settings};
use crate::base::FaultKind;
use crate::cache::backend::{DocumentForm, ExportOptions};
use crate::cache::spec::{self, ExportSpec, ImportSpec, Location};
use crate::frontend::FrontendOptions;

fn usage(message: impl Into<String>) -> Failure {
    Failure::new(FaultKind::Usage, message)
}

/// The caches to read.
pub(super) fn imports(args: &Build) -> Result<Vec<ImportSpec>, Failure> {
    let mut specs = Vec::new();
    for text in args.cache_from.iter().filter(|text| !text.is_empty()) {
        let fields = grammar::fields(text).map_err(|e| usage(format!("--cache-from: {e}")))?;
        specs.extend(
            spec::import(&fields, &settings::variable).map_err(|e| usage(format!("--cache-from {text}: {e}")))?,
        );
    }
    Ok(specs)
}

/// The caches to write; the build argument `BUILDKIT_INLINE_CACHE=1` asks for an inline one (SPEC B4.02).
pub(super) fn exports(
    args: &Build,
    options: &FrontendOptions,
    notices: &mut Vec<String>,
) -> Result<Vec<ExportSpec>, Failure> {
    let mut specs: Vec<ExportSpec> = Vec::new();
    for text in args.cache_to.iter().filter(|text| !text.is_empty()) {
        let fields = grammar::fields(text).map_err(|e| usage(format!("--cache-to: {e}")))?;
        for spec in spec::export(&fields, &settings::variable).map_err(|e| usage(format!("--cache-to {text}: {e}")))? {
            if specs.iter().any(|known| known.location == spec.location) {
                notices.push(format!("--cache-to {text}: this cache is written twice, the last one stays"));
            }
            specs.push(spec);
        }
    }
    let inline = options.build_args.get("BUILDKIT_INLINE_CACHE").and_then(|v| grammar::boolean(v)) == Some(true);
    if inline && !specs.iter().any(|spec| spec.location == Location::Inline) {
        specs.push(ExportSpec {
            location: Location::Inline,
            options: ExportOptions::default(),
            form: DocumentForm::default(),
            reset: false,
        });
    }
    Ok(specs)
}
