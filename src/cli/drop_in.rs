//! What [`super::args::DropIn`] says about an image and its steps, as settings (SPEC D3.02, D3.05–D3.11, D3.14, D3.17, D3.19).

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use rootless::Capabilities;

use super::args::DropIn;
use super::errors::Failure;
use super::settings::usage;
use super::volumes::step_volume;
use crate::base::FaultKind;
use crate::build::BuildRequest;
use crate::exec::run::StepOptions;
use crate::exporter::shape::{Shape, SingleLayer};
use crate::frontend::FrontendOptions;
use crate::llb::ResolveMode;

/// What stages begin with.
///
/// # Errors
/// For variables without a name, and flags that contradict each other.
pub(super) fn stages(args: &DropIn, options: &mut FrontendOptions) -> Result<(), Failure> {
    options.first_base.clone_from(&args.from);
    options.drop_base_labels = args.inherit_labels == Some(false);
    options.written_names = args.written_names;
    options.fresh_runs = args.no_cache_run;
    for text in &args.env {
        if let Some(prefix) = text.strip_suffix('*').filter(|prefix| !prefix.contains('=')) {
            // What is not UTF-8 cannot be in an image.
            let all = std::env::vars_os()
                .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
            options.env.extend(all.filter(|(name, _)| name.starts_with(prefix)));
            continue;
        }
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (text.as_str(), std::env::var(text).ok()),
        };
        if name.is_empty() {
            return Err(usage(format!("--env: invalid variable \"{text}\": expected NAME[=VALUE]")));
        }
        if let Some(value) = value {
            options.env.insert(name.to_owned(), value);
        }
    }
    if args.short_names {
        options.short_names = super::short_names::read()?;
    }
    for text in &args.step_env {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        if name.is_empty() {
            return Err(usage(format!("invalid variable \"{text}\" for steps: expected NAME=VALUE")));
        }
        options.step_env.insert(name.to_owned(), value.to_owned());
    }
    if args.pull_never {
        if options.image_resolve_mode == ResolveMode::Pull {
            return Err(usage("--pull and --pull-never contradict each other"));
        }
        options.image_resolve_mode = ResolveMode::Local;
    }
    Ok(())
}

/// What is taken away from the image.
pub(super) fn shape(args: &DropIn) -> Shape {
    Shape {
        single_layer: args.single_layer.as_deref().map(|what| match what {
            "all" => SingleLayer::All,
            _ => SingleLayer::New,
        }),
        omit_history: args.omit_history,
        unset_env: args.unsetenv.clone(),
        unset_labels: args.unsetlabel.clone(),
        inherit_annotations: args.inherit_annotations == Some(true),
        unset_annotations: args.unsetannotation.clone(),
        os_version: args.os_version.clone(),
        os_features: args.os_feature.iter().map(|text| feature(text)).collect(),
    }
}

/// Of a feature of an operating system, its name, and whether it is needed: a hyphen at its end says that it is not.
fn feature(text: &str) -> (String, bool) {
    text.strip_suffix('-').map_or_else(|| (text.to_owned(), true), |name| (name.to_owned(), false))
}

/// What steps have.
///
/// # Errors
/// Names the flag and the rule.
pub(super) fn steps(args: &DropIn, options: &mut StepOptions) -> Result<(), Failure> {
    for text in &args.volume {
        step_volume(text, options)?;
    }
    options.capabilities = Capabilities::changed(&args.cap_add, &args.cap_drop)
        .map_err(|e| usage(format!("{}: {e}", if args.cap_add.is_empty() { "--cap-drop" } else { "--cap-add" })))?;
    options.no_hosts = args.no_hosts;
    options.groups.clone_from(&args.group_add);
    options.no_new_privileges = args.no_new_privileges;
    options.input = args.stdin;
    if !args.dns.is_empty() {
        let address =
            |text: &String| text.parse().map_err(|_| usage(format!("--dns: \"{text}\" is not an IP address")));
        options.dns.nameservers = args.dns.iter().map(address).collect::<Result<_, _>>()?;
    }
    for (flag, given, place) in [
        ("--dns-search", &args.dns_search, &mut options.dns.search),
        ("--dns-option", &args.dns_option, &mut options.dns.options),
    ] {
        if let Some(text) = given.iter().find(|text| text.is_empty() || text.contains(char::is_whitespace)) {
            return Err(usage(format!("{flag}: \"{text}\" is not one word")));
        }
        if !given.is_empty() {
            place.clone_from(given);
        }
    }
    Ok(())
}

/// Puts what further files say behind the Dockerfile, and sends what is to be preprocessed through the preprocessor.
///
/// # Errors
/// When a file cannot be read, or the preprocessor is missing or fails.
pub(super) fn complete(
    args: &DropIn,
    file: Option<&Path>,
    request: &mut BuildRequest,
    notices: &mut Vec<String>,
) -> Result<(), Failure> {
    let mut made = |file: &Path, text| match args.preprocess.is_empty() {
        true => Ok(text),
        false => preprocessed(file, text, &args.preprocess, notices),
    };
    if let Some(file) = file {
        request.dockerfile = made(file, std::mem::take(&mut request.dockerfile))?;
    }
    for file in &args.append_file {
        let text = std::fs::read(file);
        let text = text.map_err(|e| Failure::new(FaultKind::Input, format!("cannot read {}: {e}", file.display())))?;
        let text = made(file, text)?;
        if !request.dockerfile.ends_with(b"\n") {
            request.dockerfile.push(b'\n');
        }
        request.dockerfile.extend(text);
    }
    Ok(())
}

/// What `cpp` makes of a Dockerfile whose name ends in `.in`.
fn preprocessed(file: &Path, text: Vec<u8>, flags: &[String], notices: &mut Vec<String>) -> Result<Vec<u8>, Failure> {
    if file.extension().is_none_or(|extension| extension != "in") {
        return Ok(text);
    }
    let fail = |why: String| Failure::new(FaultKind::Input, format!("cannot preprocess {}: {why}", file.display()));
    let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut child = Command::new("cpp")
        .args(["-E", "-iquote"])
        .arg(dir)
        .args(["-traditional", "-undef"])
        .args(flags.iter().filter(|flag| !flag.is_empty()))
        .arg("-")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| {
            fail(format!("cpp cannot be started: {e}")).hint("install the C preprocessor, e.g. the package cpp")
        })?;
    let mut input = child.stdin.take().ok_or_else(|| fail("cpp has no standard input".into()))?;
    // It may say a lot before it has read everything.
    let writer = std::thread::spawn(move || input.write_all(&text));
    let output = child.wait_with_output().map_err(|e| fail(e.to_string()))?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    // What it does not understand may be a comment of the Dockerfile, so that is no reason to stop, for buildah either. After a fatal error
    // a part of the file is missing.
    if !output.status.success() && (output.stdout.is_empty() || said.contains("fatal error:")) {
        return Err(fail(format!("{}: {said}", output.status)));
    }
    if !said.is_empty() {
        notices.push(format!("ignoring what cpp says of {}: {said}", file.display()));
    }
    match writer.join() {
        Ok(Err(e)) => Err(fail(format!("cpp did not read all of it: {e}"))),
        _ => Ok(output.stdout),
    }
}
