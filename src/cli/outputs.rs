//! `--platform`, `--output`, `--tag`, `--push`, `--load` and `--annotation` as one list of outputs (SPEC B2.12–B2.21, B3).

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use super::args::Build;
use super::devices::DEVICE;
use super::errors::Failure;
use super::foreign::Foreign;
use super::grammar;
use super::settings::{usage, variable};
use crate::attest::Asked;
use crate::base::wording::did_you_mean;
use crate::exporter::annotations::Annotations;
use crate::exporter::{Dest, OutputKind, OutputSpec};
use crate::frontend::FrontendOptions;
use crate::oci::media_type::{Codec, Family};
use crate::oci::{Platform, PlatformError, Reference};

/// The entitlement that lets `mode=delete` work on any directory (SPEC B2.02).
pub(super) const LOCAL_DELETE: &str = "buildx.local.delete";

/// Whether there is such an entitlement.
pub(super) fn entitlement(name: &str) -> Result<(), String> {
    let known = ["network.host", "security.insecure", DEVICE, LOCAL_DELETE];
    if known.contains(&name) {
        return Ok(());
    }
    Err(format!("unknown entitlement {name}{}; expected {}", did_you_mean(name, known), known.join(", ")))
}

/// One platform as flags have it.
pub(super) fn platform(text: &str) -> Result<Platform, String> {
    match text.trim() {
        "local" => Ok(Platform::host()),
        other => other.parse::<Platform>().map_err(|e| e.to_string()),
    }
}

/// `--platform`, each once; empty if none was asked for (SPEC B2.21).
pub(super) fn platforms(args: &Build) -> Result<Vec<Platform>, Failure> {
    let mut texts = args.platform.clone();
    let mut flag = "--platform";
    if texts.is_empty()
        && let Some(all) = variable("DOCKER_DEFAULT_PLATFORM")
    {
        texts.extend(all.split(',').map(ToOwned::to_owned));
        flag = "DOCKER_DEFAULT_PLATFORM";
    }
    let mut platforms = Vec::new();
    for text in texts {
        let platform = platform(&text).map_err(|e| usage(format!("{flag}: {e}")).hint(PlatformError::HINT))?;
        if !platforms.contains(&platform) {
            platforms.push(platform);
        }
    }
    Ok(platforms)
}

/// Architectures that images are made for: Go's, as registries know them.
const ARCHITECTURES: &[&str] = &[
    "amd64", "arm64", "arm", "386", "ppc64le", "s390x", "riscv64", "loong64", "ppc64", "mips", "mipsle", "mips64",
    "mips64le", "wasm",
];

/// What is to be known of platforms that are allowed, as BuildKit allows them, and most likely not what is meant: of
/// architectures that nobody knows, and of Windows, which wants its layers in a form of its own (SPEC C9.14).
pub(super) fn odd_platforms(platforms: &[Platform]) -> Vec<String> {
    let names = ARCHITECTURES.iter().chain(&["x86_64", "aarch64"]);
    let said = |platform: &Platform| {
        let name = &platform.architecture;
        if !ARCHITECTURES.contains(&name.as_str()) {
            let hint = did_you_mean(name, names.clone());
            return Some(format!(
                "no architecture is known as {name}{hint}: the image will say that it is for {platform}"
            ));
        }
        let windows = platform.os == "windows";
        windows.then(|| {
            format!("layers for {platform} are written as for Linux: Windows itself does not run such an image")
        })
    };
    platforms.iter().filter_map(said).collect()
}

/// Whether outputs show several platforms: if there are several, or if `BUILDKIT_MULTI_PLATFORM` says so (SPEC A4.17).
pub(super) fn multi_platform(options: &FrontendOptions, platforms: usize) -> Result<bool, Failure> {
    let Some(text) = options.build_args.get("BUILDKIT_MULTI_PLATFORM") else { return Ok(platforms > 1) };
    match grammar::boolean(text) {
        Some(true) => Ok(true),
        Some(false) if platforms > 1 => {
            Err(usage("--build-arg: BUILDKIT_MULTI_PLATFORM=false contradicts several platforms"))
        }
        Some(false) => Ok(false),
        None => Err(usage(format!("--build-arg: invalid boolean value for BUILDKIT_MULTI_PLATFORM: {text}"))),
    }
}

/// All outputs, checked against each other.
pub(super) fn outputs(
    args: &Build,
    foreign: &Foreign,
    multi: bool,
    asked: &Asked,
    notices: &mut Vec<String>,
) -> Result<Vec<OutputSpec>, Failure> {
    let tags = tags(args)?;
    let mut outputs = Vec::new();
    for text in &args.output {
        outputs.push(OutputSpec::parse(text).map_err(|e| usage(format!("--output: {e}")))?);
    }
    one_stdout(&outputs)?;
    if args.push {
        push(&mut outputs, &tags)?;
    }
    if foreign.no_push {
        for output in outputs.iter_mut().filter(|output| output.push) {
            (output.push, output.by_digest) = (false, false);
            notices.push(format!("KANIKO_NO_PUSH is set: \"{}\" is not pushed", output.title()));
        }
    }
    if args.load && !outputs.iter().any(|o| o.kind == OutputKind::Docker && o.dest.is_none()) {
        outputs.push(OutputSpec::new(OutputKind::Docker));
    }
    // Who asks for the image's ID wants the image, as with docker (B2.12, B2.25).
    let wanted = args.iidfile.is_some()
        || args.drop_in.iidfile_raw.is_some()
        || args.quiet
        || args.drop_in.print_id
        || super::digest_files::asked(&args.drop_in.digests);
    if outputs.is_empty() && (!tags.is_empty() || wanted) {
        outputs.push(OutputSpec::new(OutputKind::Image));
    }
    for annotation in &args.annotation {
        let checked = Annotations::default().flag(annotation);
        checked.map_err(|e| usage(format!("--annotation: {e}")))?;
    }
    for output in &mut outputs {
        if output.kind.is_image() && output.names.is_empty() {
            output.names.clone_from(&tags);
        }
        if output.kind == OutputKind::Docker && output.dest.is_none() {
            load(output, notices)?;
        }
        let chosen = output.image.family_given || output.image.estargz || output.image.codec == Codec::Zstd;
        if foreign.docker_format && output.kind == OutputKind::Image && !chosen {
            (output.image.family, output.image.family_given) = (Family::Docker, true);
        }
        // Attestations as they were before they were artifacts; an output that says itself goes before it (B5.06).
        if variable("BUILDX_NO_DEFAULT_OCI_ARTIFACT").and_then(|text| grammar::boolean(&text)) == Some(true) {
            output.image.artifact = output.image.artifact.or(output.kind.is_image().then_some(false));
        }
        output.unasked = args.drop_in.skip_push_permission_check;
        output.immutable_tags = args.drop_in.push_ignore_immutable_tag_errors;
        check(output, args)?;
        for annotation in args.annotation.iter().filter(|_| output.kind.is_image()) {
            output.image.annotations.flag(annotation).map_err(|e| usage(format!("--annotation: {e}")))?;
        }
        let flag = if args.annotation.is_empty() { "--output" } else { "--output, --annotation" };
        output.check_index(output.has_index(multi, asked)).map_err(|e| usage(format!("{flag}: {}", e.0)))?;
    }
    if !args.annotation.is_empty() && !outputs.iter().any(|o| o.kind.is_image()) {
        return Err(
            usage("--annotation: there is no image to annotate").hint("give a name with -t, or an image output")
        );
    }
    distinct(&outputs)?;
    once(&mut outputs);
    for output in &outputs {
        destination(output)?;
    }
    if args.iidfile.is_some() && outputs.iter().any(|o| matches!(o.kind, OutputKind::Local | OutputKind::Tar)) {
        return Err(usage("--iidfile: local and tar exporters are incompatible with image ID file"));
    }
    if outputs.is_empty() {
        notices.push("no output specified: the result stays in the cache only; name it with -t, or use --push, --load or --output".into());
    }
    Ok(outputs)
}

fn tags(args: &Build) -> Result<Vec<Reference>, Failure> {
    let mut tags: Vec<Reference> = Vec::new();
    for tag in &args.tag {
        let reference: Reference = tag.parse().map_err(|e| usage(format!("--tag: invalid tag \"{tag}\": {e}")))?;
        if reference.digest.is_some() {
            return Err(usage(format!("--tag: invalid tag \"{tag}\": a tag must not contain a digest")));
        }
        if !tags.contains(&reference) {
            tags.push(reference);
        }
    }
    Ok(tags)
}

fn one_stdout(outputs: &[OutputSpec]) -> Result<(), Failure> {
    let stdout = outputs.iter().filter(|o| o.dest == Some(Dest::Stdout)).count();
    if stdout > 1 {
        return Err(usage("--output: only one output can go to standard output"));
    }
    if stdout == 1 && std::io::stdout().is_terminal() {
        return Err(usage("--output: refusing to write a tar to a terminal")
            .hint("redirect standard output, or give dest=FILE"));
    }
    Ok(())
}

/// `--push`: image outputs are pushed; without one, there is one (SPEC B2.15).
fn push(outputs: &mut Vec<OutputSpec>, tags: &[Reference]) -> Result<(), Failure> {
    if outputs.iter().any(|o| o.push_refused) {
        return Err(usage("--push contradicts push=false of an --output"));
    }
    let named = |o: &OutputSpec| !o.names.is_empty() || o.dangling_prefix.is_some();
    if tags.is_empty() && !outputs.iter().any(|o| o.kind == OutputKind::Image && named(o)) {
        if let Some(other) = outputs.iter().find(|o| o.kind != OutputKind::Image) {
            return Err(usage(format!("--push: there is nothing to push: the only output is \"{}\"", other.title()))
                .hint("give a name with -t HOST/NAME:TAG"));
        }
        return Err(needs_name("--push"));
    }
    let mut any = false;
    for image in outputs.iter_mut().filter(|o| o.kind == OutputKind::Image) {
        image.push = true;
        any = true;
    }
    if !any {
        outputs.push(OutputSpec { push: true, ..OutputSpec::new(OutputKind::Image) });
    }
    Ok(())
}

fn needs_name(flag: &str) -> Failure {
    usage(format!("{flag}: tag is needed when pushing to registry")).hint("give one with -t HOST/NAME:TAG")
}

/// Docker or podman if one answers, else the store (SPEC B2.14).
fn load(output: &mut OutputSpec, notices: &mut Vec<String>) -> Result<(), Failure> {
    output.engine = super::engine::find(output.engine_context.as_deref())?;
    if output.engine.is_none() {
        output.kind = OutputKind::Image;
        notices.push("neither docker nor podman answers on this machine: the image is kept in rbuild's own store (see `rbuild images`)".into());
        if output.names.is_empty() {
            return Err(usage("--load needs a name").hint("give one with -t NAME"));
        }
    }
    Ok(())
}

fn check(output: &OutputSpec, args: &Build) -> Result<(), Failure> {
    if output.push && output.names.is_empty() && output.dangling_prefix.is_none() {
        return Err(needs_name("--output"));
    }
    if output.append && output.names.is_empty() {
        return Err(usage("--output: append=true needs a name, that of the index").hint("give it with name=NAME"));
    }
    if output.append && output.push {
        return Err(usage("--output: append=true adds to an index of the store, not of a registry")
            .hint("push what it becomes with `rbuild push NAME`, or join what registries have with `rbuild imagetools create`"));
    }
    if output.by_digest {
        if let Some(name) = output.names.iter().find(|n| n.tag.as_deref().is_some_and(|t| t != "latest")) {
            return Err(usage(format!("--output: can't push tagged ref {name} by digest")));
        }
        if !output.push {
            return Err(usage("--output: push-by-digest has no meaning without push=true"));
        }
    }
    if output.delete && !args.allow.iter().any(|a| a == LOCAL_DELETE) {
        let Some(Dest::Path(dest)) = &output.dest else { return Ok(()) };
        if !below_cwd(dest) {
            return Err(usage(format!(
                "--output: mode=delete would delete other files in {}, which is not below the current directory",
                dest.display()
            ))
            .hint(format!("give --allow {LOCAL_DELETE} if it may")));
        }
    }
    Ok(())
}

/// Whether a path, symlinks resolved, is below the current directory and not that directory itself.
fn below_cwd(path: &Path) -> bool {
    let Ok(cwd) = std::env::current_dir().and_then(|d| d.canonicalize()) else { return false };
    // What does not exist yet is where its nearest existing parent is.
    let absolute = cwd.join(path);
    let mut missing = PathBuf::new();
    let mut at = absolute.as_path();
    let found = loop {
        if let Ok(real) = at.canonicalize() {
            break real.join(&missing);
        }
        let (Some(parent), Some(name)) = (at.parent(), at.file_name()) else { return false };
        missing = if missing.as_os_str().is_empty() { name.into() } else { Path::new(name).join(&missing) };
        at = parent;
    };
    found != cwd && found.starts_with(&cwd)
}

/// An image that is pushed is in the store already: to be kept there is not worth a second output.
fn once(outputs: &mut Vec<OutputSpec>) {
    let pushed: Vec<OutputSpec> = outputs.iter().filter(|o| o.push).cloned().collect();
    outputs.retain(|output| {
        let as_pushed = OutputSpec { push: true, ..output.clone() };
        output.kind != OutputKind::Image || output.push || !pushed.contains(&as_pushed)
    });
}

/// What is in the way of an output is known before it is built.
fn destination(output: &OutputSpec) -> Result<(), Failure> {
    let Some(Dest::Path(path)) = &output.dest else { return Ok(()) };
    let directory = output.kind == OutputKind::Local || (output.kind.is_image() && !output.tar);
    match std::fs::metadata(path) {
        Ok(meta) if directory && !meta.is_dir() => {
            Err(usage(format!("--output: destination {} is a file, not a directory", path.display())))
        }
        Ok(meta) if !directory && meta.is_dir() => {
            Err(usage(format!("--output: destination file {} is a directory", path.display())))
        }
        _ => Ok(()),
    }
}

/// Two outputs must not write the same place.
fn distinct(outputs: &[OutputSpec]) -> Result<(), Failure> {
    let mut seen = std::collections::HashSet::new();
    for output in outputs {
        let Some(Dest::Path(path)) = &output.dest else { continue };
        // Layout directories take several images.
        let shared = !output.tar && output.kind.is_image();
        if !seen.insert(path) && !shared {
            return Err(usage(format!("--output: two outputs go to {}", path.display())));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::args::{Cli, Command};
    use super::*;

    fn args(flags: &[&str]) -> Build {
        let line = ["rbuild", "build"].iter().chain(flags).chain(&["."]);
        match Cli::parse_words(line).expect("parses").command {
            Command::Build(build) => *build,
            _ => panic!("not a build"),
        }
    }

    fn error(flags: &[&str]) -> String {
        let args = args(flags);
        let multi = platforms(&args).map(|p| p.len() > 1);
        let result =
            multi.and_then(|multi| outputs(&args, &Foreign::default(), multi, &Asked::default(), &mut Vec::new()));
        result.err().map_or_else(|| "fine".into(), |e| e.message)
    }

    // SPEC B2.21, G.05
    #[test]
    fn platforms_are_normalised_and_each_counts_once() {
        let names = |flags: &[&str]| {
            platforms(&args(flags))
                .map(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>())
                .unwrap_or_default()
        };
        let two = names(&["--platform", "linux/amd64,linux/aarch64", "--platform", "linux/x86_64"]);
        assert_eq!(two, ["linux/amd64", "linux/arm64"]);
        assert_eq!(names(&["--platform", "local"]), [Platform::host().to_string()]);
        assert!(error(&["--platform", "linux/"]).starts_with("--platform: "));
    }

    // SPEC A4.17
    #[test]
    fn buildkit_multi_platform() {
        let multi = |value: &str, count| {
            let mut options = FrontendOptions::default();
            options.build_args.insert("BUILDKIT_MULTI_PLATFORM".into(), value.into());
            multi_platform(&options, count).map_err(|e| e.message)
        };
        assert_eq!(multi("1", 1), Ok(true));
        assert_eq!(multi("false", 1), Ok(false));
        assert!(multi("0", 2).is_err_and(|e| e.contains("contradicts")));
        assert!(multi("maybe", 1).is_err_and(|e| e.contains("invalid boolean")));
    }

    // SPEC B2.15
    #[test]
    fn a_push_without_a_name_or_against_an_output_is_refused() {
        assert_eq!(error(&["--push"]), "--push: tag is needed when pushing to registry");
        assert!(error(&["--push", "-o", "out"]).starts_with("--push: there is nothing to push"));
        assert!(error(&["--push", "-o", "type=cacheonly"]).starts_with("--push: there is nothing to push"));
        assert_eq!(
            error(&["--push", "-t", "r.example/a", "-o", "type=image,push=false"]),
            "--push contradicts push=false of an --output"
        );
        assert_eq!(error(&["-o", "type=registry"]), "--output: tag is needed when pushing to registry");
        // SPEC B2.14: pushed, and loaded or kept; what is in the store already is no second output.
        let both = ["--push", "--load", "-t", "r.example/a"];
        let both = outputs(&args(&both), &Foreign::default(), false, &Asked::default(), &mut Vec::new()).expect("fine");
        assert!(both.iter().any(|o| o.push) && both.iter().filter(|o| o.kind == OutputKind::Image).count() == 1);
        // Both are meant: a directory and a push of the named image.
        assert_eq!(error(&["--push", "-t", "r.example/a", "-o", "out"]), "fine");
        let pushed = outputs(
            &args(&["--push", "-t", "r.example/a", "-o", "out"]),
            &Foreign::default(),
            false,
            &Asked::default(),
            &mut Vec::new(),
        )
        .expect("fine");
        assert_eq!(pushed.iter().filter(|o| o.push).count(), 1);
    }

    // SPEC C6.05, B2.03, B2.12, B3.01
    #[test]
    fn contradictions_are_named() {
        let by_digest = ["-o", "type=image,push=true,push-by-digest=true", "-t", "r.example/a:1"];
        assert_eq!(error(&by_digest), "--output: can't push tagged ref r.example/a:1 by digest");
        assert!(error(&["-t", "a", "--annotation", "index:a=b"]).contains("index annotations not supported"));
        assert!(error(&["-o", "out", "--annotation", "a=b"]).contains("no image to annotate"));
        assert!(error(&["-o", "out", "--iidfile", "x"]).contains("incompatible with image ID file"));
        assert!(error(&["-o", "type=oci,dest=a", "-o", "type=tar,dest=a"]).contains("two outputs go to a"));
        assert_eq!(
            error(&["-o", "type=oci,dest=a,tar=false,name=x", "-o", "type=oci,dest=a,tar=false,name=y"]),
            "fine"
        );
        let multi = ["--platform", "linux/amd64,linux/arm64", "-o", "type=docker,dest=a"];
        assert_eq!(error(&multi), "--output: docker exporter does not currently support exporting manifest lists");
    }

    // SPEC C6.14
    #[test]
    fn mode_delete_needs_leave_outside_the_current_directory() {
        assert!(error(&["-o", "type=local,dest=/elsewhere,mode=delete"]).contains("mode=delete would delete"));
        assert!(error(&["-o", "type=local,dest=.,mode=delete"]).contains("mode=delete would delete"));
        assert!(error(&["-o", "type=local,dest=a/../..,mode=delete"]).contains("mode=delete would delete"));
        assert_eq!(error(&["-o", "type=local,dest=out/new,mode=delete"]), "fine");
        assert_eq!(error(&["-o", "type=local,dest=.,mode=delete", "--allow", LOCAL_DELETE]), "fine");
    }
}
