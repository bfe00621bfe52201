//! `--attest`, `--provenance`, `--sbom` and the variables about them (SPEC B2.04–B2.06, B5.06).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use indexmap::IndexMap;
use serde_json::{Map, Value};

use super::args::Build;
use super::errors::Failure;
use super::settings::{read_limited, usage};
use super::vcs;
use crate::attest::Asked;
pub use crate::attest::options::Mode;
use crate::base::values::boolean;
use crate::build::BuildRequest;

/// A file about the machine that has more bytes is a mistake.
const MAX_ENVIRONMENT: u64 = 1 << 20;

type Variables<'a> = &'a dyn Fn(&str) -> Option<String>;

/// What is to be said about the result: first docker's default, then build arguments, then flags.
pub(super) fn asked(
    args: &Build,
    build_args: &IndexMap<String, String>,
    variable: Variables<'_>,
) -> Result<Asked, Failure> {
    let none = variable("BUILDX_NO_DEFAULT_ATTESTATIONS").is_some_and(|text| boolean(&text) == Some(true));
    let mut asked = if none { Asked::default() } else { Asked::by_default() };
    for (name, kind) in [("BUILDKIT_ATTEST_PROVENANCE", "provenance"), ("BUILDKIT_ATTEST_SBOM", "sbom")] {
        if let Some(text) = build_args.get(name) {
            asked.short(kind, text).map_err(|e| usage(format!("--build-arg {name}: {e}")))?;
        }
    }
    for text in &args.attest {
        asked.attest(text).map_err(|e| usage(format!("--attest: {e}")))?;
    }
    for (kind, text) in [("provenance", &args.provenance), ("sbom", &args.sbom)] {
        if let Some(text) = text {
            asked.short(kind, text).map_err(|e| usage(format!("--{kind}: {e}")))?;
        }
    }
    Ok(asked)
}

/// What the files `*.json` of a directory say about this machine, later names before earlier ones (SPEC C8.11). Without the
/// directory that is nothing.
///
/// # Errors
/// Names the file that cannot be read or is no object.
pub(super) fn environment(dir: &Path) -> Result<Map<String, Value>, Failure> {
    let wrong = |path: &Path, why: String| usage(format!("provenanceEnvDir: {}: {why}", path.display()));
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Map::new()),
        Err(e) => return Err(wrong(dir, e.to_string())),
    };
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|end| end == "json"));
    files.sort();
    let mut all = Map::new();
    for path in files {
        let bytes = read_limited(&path, MAX_ENVIRONMENT).map_err(|e| wrong(&path, e.to_string()))?;
        let object = serde_json::from_slice::<Map<String, Value>>(&bytes);
        all.extend(object.map_err(|e| wrong(&path, format!("it is no JSON object: {e}")))?);
    }
    Ok(all)
}

/// How much provenance the metadata file has: inputs, unless the environment says otherwise.
pub(super) fn metadata(variable: Variables<'_>) -> Result<Option<Mode>, Failure> {
    const NAME: &str = "BUILDX_METADATA_PROVENANCE";
    let Some(text) = variable(NAME) else { return Ok(Some(Mode::Min)) };
    match (text.as_str(), boolean(&text)) {
        ("min", _) | (_, Some(true)) => Ok(Some(Mode::Min)),
        ("max", _) => Ok(Some(Mode::Max)),
        ("disabled", _) | (_, Some(false)) => Ok(None),
        _ => Err(usage(format!("{NAME}: invalid value \"{text}\": expected min, max or disabled"))),
    }
}

/// Where a local context comes from, for provenance. Not knowing it fails no build.
pub(super) fn vcs(
    args: &Build,
    request: &BuildRequest,
    variable: Variables<'_>,
    notices: &mut Vec<String>,
) -> BTreeMap<String, String> {
    let told = variable("BUILDX_GIT_INFO").is_none_or(|text| boolean(&text) != Some(false));
    let Some(context) = request.contexts.get("context").filter(|_| told) else { return BTreeMap::new() };
    let dockerfile = match args.file.as_deref() {
        None => Some(context.dir.clone()),
        Some(file) if file == "-" || file.contains("://") => None,
        Some(file) => Path::new(file).canonicalize().ok().and_then(|file| file.parent().map(PathBuf::from)),
    };
    vcs::hints(&context.dir, dockerfile.as_deref(), variable).unwrap_or_else(|why| {
        notices.push(format!("provenance says nothing of the git repository: {why}"));
        BTreeMap::new()
    })
}

#[cfg(test)]
mod tests {
    use super::super::args::{Cli, Command};
    use super::*;

    fn build(flags: &[&str]) -> Build {
        let line = ["rbuild", "build"].iter().chain(flags).chain(&["."]);
        match Cli::parse_words(line).expect("parses").command {
            Command::Build(build) => *build,
            _ => panic!("not a build"),
        }
    }

    fn mode(flags: &[&str], build_arg: Option<&str>, none: &str) -> Option<(Mode, bool)> {
        let build_args = build_arg.map(|text| ("BUILDKIT_ATTEST_PROVENANCE".to_owned(), text.to_owned()));
        let variable = |name: &str| (name == "BUILDX_NO_DEFAULT_ATTESTATIONS").then(|| none.to_owned());
        let asked = asked(&build(flags), &build_args.into_iter().collect(), &variable).expect("valid");
        asked.provenance.map(|p| (p.mode, p.unasked))
    }

    // SPEC B2.04, B2.05, B5.06, C8.05
    #[test]
    fn b5_06_flags_go_before_arguments_and_the_default() {
        assert_eq!(mode(&[], None, "0"), Some((Mode::Min, true)));
        assert_eq!(mode(&[], None, "1"), None);
        assert_eq!(mode(&[], Some("mode=max"), "1"), Some((Mode::Max, false)));
        assert_eq!(mode(&["--provenance=false"], Some("mode=max"), "0"), None);
        assert_eq!(mode(&["--attest", "type=provenance,mode=min"], None, "1"), Some((Mode::Min, false)));
        assert_eq!(
            mode(&["--provenance=true", "--attest", "type=provenance,mode=min"], None, "0"),
            Some((Mode::Max, false))
        );
    }

    // SPEC B2.16, B5.06
    #[test]
    fn b5_06_metadata_has_as_much_provenance_as_is_asked_for() {
        let of = |text: &str| metadata(&|_| Some(text.to_owned()));
        assert_eq!(metadata(&|_| None).expect("valid"), Some(Mode::Min));
        assert_eq!(of("max").expect("valid"), Some(Mode::Max));
        assert_eq!(of("disabled").expect("valid"), None);
        assert_eq!(of("false").expect("valid"), None);
        assert!(of("most").expect_err("refused").message.contains("expected min, max or disabled"));
    }
}
