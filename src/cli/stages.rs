//! `--save-stages` and `--stage-labels`: the stages that an image is made from stay in the store, as images without a name (SPEC D3.03).

use std::ops::ControlFlow;

use super::args::Build;
use super::errors::Failure;
use super::invocation::Invocation;
use super::settings::usage;
use super::verify::exported;
use super::worker::Inside;
use crate::cli::grammar::csv_field;
use crate::frontend::{StageOutline, stages};

/// What a stage's image says of it.
const NAME: &str = "io.buildah.stage.name";
const BASE: &str = "io.buildah.stage.base";
/// What holds for an image holds for those of its stages.
const SHARED: [&str; 3] = ["oci-mediatypes", "source-date-epoch", "rewrite-timestamp"];

/// Whether stages are to be kept.
///
/// # Errors
/// For flags that need others, or do not go together.
pub(super) fn wanted(args: &Build) -> Result<bool, Failure> {
    let drop_in = &args.drop_in;
    if !drop_in.save_stages {
        return match drop_in.stage_labels {
            true => Err(usage("--stage-labels requires --save-stages")),
            false => Ok(false),
        };
    }
    if args.call.is_some() || args.check {
        return Err(usage("--save-stages has no meaning for a question, which builds nothing"));
    }
    Ok(true)
}

/// Builds, and keeps the stages; what is left to do is the build itself, from the cache. Or the exit code of a build that failed and has
/// said why.
///
/// # Errors
/// When the Dockerfile is not here, or mistaken.
pub(super) fn save(inside: &Inside, args: &Build) -> Result<ControlFlow<u8, Build>, Failure> {
    // Everything once, side by side, as ever. After that nothing runs.
    let mut silent = args.clone();
    silent.output = vec!["type=cacheonly".into()];
    forget(&mut silent);
    let first = Invocation::new(inside, silent)?;
    known("--save-stages", &first)?;
    let all = outline(&first)?;
    if let ControlFlow::Break(code) = exported(inside, first, "building all stages")? {
        return Ok(ControlFlow::Break(code));
    }
    let mut again = args.clone();
    (again.no_cache, again.no_cache_filter, again.pull) = (false, Vec::new(), None);
    (again.drop_in.no_cache_run, again.drop_in.save_stages, again.drop_in.stage_labels) = (false, false, false);
    let mut ids: Vec<Option<String>> = vec![None; all.iter().map(|stage| stage.index + 1).max().unwrap_or_default()];
    for stage in &all {
        let labels = if args.drop_in.stage_labels { labels(stage, &ids) } else { Vec::new() };
        if stage.is_target {
            again.label.extend(labels);
            continue;
        }
        let mut own = again.clone();
        forget(&mut own);
        own.target = Some(stage.index.to_string());
        own.label.extend(labels);
        own.output = vec![format!("type=image,dangling-name-prefix=localhost/none{}", shared(args))];
        let title = stage.name.clone().unwrap_or_else(|| stage.index.to_string());
        match exported(inside, Invocation::new(inside, own)?, &format!("keeping stage {title}"))? {
            ControlFlow::Continue(image) => ids[stage.index] = image.map(|image| image.id().hex().to_owned()),
            ControlFlow::Break(code) => return Ok(ControlFlow::Break(code)),
        }
    }
    Ok(ControlFlow::Continue(again))
}

/// Whether a build can be done several times, and the Dockerfile is known before it.
///
/// # Errors
/// When not; `flag` is what cannot be then.
pub(super) fn known(flag: &str, build: &Invocation) -> Result<(), Failure> {
    let piped = |place: &Option<String>| place.as_deref() == Some("-");
    if piped(&build.args.file) || piped(&build.args.context) {
        let why = "the file and the context are read several times, and standard input can be read once";
        return Err(usage(format!("{flag}: {why}")));
    }
    match build.settings.request.dockerfile.is_empty() {
        true => Err(usage(format!("{flag}: the Dockerfile comes with the context, and is not known before the build"))
            .hint("give a directory as the context, or a file of this machine with --file")),
        false => Ok(()),
    }
}

/// The stages that a build needs.
///
/// # Errors
/// For mistakes in the Dockerfile.
pub(super) fn outline(build: &Invocation) -> Result<Vec<StageOutline>, Failure> {
    let request = &build.settings.request;
    let (name, text) = request.file();
    let platform = request.platforms.first().cloned().unwrap_or_else(crate::oci::Platform::host);
    let found = stages(name, text, &request.options.build_args, &platform, request.options.target.as_deref());
    found.map_err(|e| Failure::of_front_end(&e, name, text))
}

/// What is told or sent of the image itself.
pub(super) fn forget(build: &mut Build) {
    build.tag.clear();
    build.annotation.clear();
    build.attest.clear();
    build.cache_to.clear();
    (build.push, build.load) = (false, false);
    (build.iidfile, build.metadata_file, build.summary_file) = (None, None, None);
    (build.metrics_file, build.trace) = (None, None);
    (build.provenance, build.sbom) = (Some("false".into()), None);
    build.drop_in.digests = super::args::DigestFiles::default();
    (build.drop_in.scan, build.drop_in.log_split) = (super::args::ScanArgs::default(), None);
    (build.drop_in.iidfile_raw, build.drop_in.print_id) = (None, false);
}

fn labels(stage: &StageOutline, ids: &[Option<String>]) -> Vec<String> {
    let name = stage.name.clone().unwrap_or_else(|| stage.index.to_string());
    let below = stage.below.and_then(|index| ids.get(index)?.clone());
    vec![format!("{NAME}={name}"), format!("{BASE}={}", below.as_ref().unwrap_or(&stage.base))]
}

/// Attributes of the image's output that are the stages' too.
fn shared(args: &Build) -> String {
    let fields = args.output.iter().filter_map(|text| super::grammar::fields(text).ok());
    let image = fields.into_iter().find(|fields| {
        fields
            .iter()
            .any(|(key, value)| key == "type" && matches!(value.as_deref(), Some("image" | "registry" | "oci")))
    });
    let kept = image.into_iter().flatten().filter(|(key, _)| SHARED.contains(&key.as_str()));
    kept.map(|(key, value)| format!(",{}", csv_field(&key, value.as_deref().unwrap_or("true")))).collect()
}
