//! Policies about sources on the command line: rules in JSON, policies in Rego (SPEC B2.22, B5.08, B8.09, C9.01).

use std::ffi::OsString;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::args::{Build, Policy, PolicyEval, PolicyTest};
use super::errors::Failure;
use super::image_commands::{platform, usage};
use super::invocation::builder;
use super::runtime::runtime;
use super::settings::{read_limited, variable};
use super::worker::{Inside, store_failure};
use super::{grammar, print};
use crate::base::budget::Budget;
use crate::base::values::boolean;
use crate::base::wording::did_you_mean;
use crate::base::{Cancel, Events, FaultKind};
use crate::build::{MAX_POLICY, RegoRequest};
use crate::dockerfile::gitref::GitRef;
use crate::exec::run::StepOptions;
use crate::frontend::remote::RemoteContext;
use crate::llb::SourcePolicy;
use crate::llb::op::SourceOp;
use crate::oci::Reference;
use crate::policy::{Env, LogLevel, Policies, PolicyFile, RegoError, SignaturePolicy};

const DISABLED_ALONE: &str = "--policy: disabled policy cannot be combined with other policy flags";

/// Larger source policies are refused.
const MAX_JSON: u64 = 16 << 20;

/// `--source-policy-file`, or the variable of buildx (SPEC B5.08, C9.01).
pub(super) fn in_json(args: &Build) -> Result<SourcePolicy, Failure> {
    const NAME: &str = "EXPERIMENTAL_BUILDKIT_SOURCE_POLICY";
    let (name, path) = match (&args.source_policy_file, variable(NAME)) {
        (Some(path), _) => ("--source-policy-file", path.clone()),
        (None, Some(path)) => (NAME, path.into()),
        (None, None) => return Ok(SourcePolicy::default()),
    };
    let fail = |why: String| usage(format!("{name}: {}: {why}", path.display()));
    let text = read_limited(&path, MAX_JSON).map_err(|e| fail(e.to_string()))?;
    if text.len() as u64 > MAX_JSON {
        return Err(fail("larger than 16 MiB".into()));
    }
    SourcePolicy::parse(&text, &path.display().to_string()).map_err(|e| fail(e.to_string()))
}

/// `--policy`, and the policy beside a Dockerfile of this machine.
pub(super) fn in_rego(args: &Build, dockerfile: Option<&Path>) -> Result<RegoRequest, Failure> {
    // Nothing of --policy is about this one (SPEC B8.10).
    let own: Vec<Vec<PolicyFile>> = by_default()?.into_iter().collect();
    let mut request = RegoRequest { beside: dockerfile.is_none(), ..RegoRequest::default() };
    let specs = args.policy.iter().map(|text| Spec::parse(text)).collect::<Result<Vec<_>, _>>()?;
    if specs.iter().any(|spec| spec.disabled) {
        if specs.iter().any(|spec| *spec != Spec { disabled: true, ..Spec::default() }) {
            return Err(usage(DISABLED_ALONE));
        }
        return Ok(RegoRequest { policies: own, ..RegoRequest::default() });
    }
    if let Some(file) = dockerfile.and_then(|path| beside(path).transpose()) {
        request.policies.push(vec![file?]);
    }
    for spec in specs {
        if spec.reset {
            request.policies.clear();
            request.beside = false;
        }
        if !spec.files.is_empty() {
            let files = spec.files.iter().map(|path| required(path)).collect::<Result<_, _>>()?;
            request.policies.push(files);
        }
        request.level = spec.level.unwrap_or(request.level);
    }
    request.policies.extend(own);
    Ok(request)
}

/// `bake --policy`, as overrides of every target: it says how policies are applied, which ones is said by targets (SPEC B8.09).
pub(super) fn of_every_target(given: &[String]) -> Result<Vec<String>, Failure> {
    let specs = given.iter().map(|text| Spec::parse(text)).collect::<Result<Vec<_>, _>>()?;
    for (key, found) in
        [("filename", specs.iter().any(|spec| !spec.files.is_empty())), ("reset", specs.iter().any(|spec| spec.reset))]
    {
        if found {
            let message = format!("--policy does not accept {key} for all targets");
            return Err(usage(message).hint("a target has policies of its own: policy = […]"));
        }
    }
    match specs.iter().any(|spec| spec.disabled) {
        true if specs.iter().any(|spec| *spec != Spec { disabled: true, ..Spec::default() }) => {
            Err(usage(DISABLED_ALONE))
        }
        true => Ok(vec!["*.policy=disabled=true".into()]),
        false => Ok(given.iter().map(|text| format!("*.policy+={text}")).collect()),
    }
}

/// `--signature-policy` (SPEC D3.26).
pub(super) fn signed(args: &Build) -> Result<Option<Arc<SignaturePolicy>>, Failure> {
    let Some(path) = &args.signature_policy else { return Ok(None) };
    let fail = |why: String| {
        usage(format!("--signature-policy {}: {why}", path.display()))
            .hint("docs/policies.md says what of podman's policy.json is verified; --policy has rules of its own")
    };
    let text = |path: &Path| {
        let bytes = read_limited(path, MAX_POLICY).map_err(|e| format!("cannot read it: {e}"))?;
        if bytes.len() as u64 > MAX_POLICY { Err("larger than 1 MiB".to_owned()) } else { Ok(bytes) }
    };
    let bytes = text(path).map_err(fail)?;
    let key = |key: &str| text(Path::new(key)).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let policy = SignaturePolicy::parse(&path.display().to_string(), &bytes, &key).map_err(fail)?;
    Ok(Some(Arc::new(policy)))
}

/// The policy of `BUILDX_DEFAULT_POLICY`.
fn by_default() -> Result<Option<Vec<PolicyFile>>, Failure> {
    const NAME: &str = "BUILDX_DEFAULT_POLICY";
    let Some(text) = variable(NAME).filter(|text| !text.is_empty()) else { return Ok(None) };
    let on = boolean(&text).ok_or_else(|| usage(format!("{NAME}={text}: expected true or false")))?;
    Ok(on.then(|| vec![PolicyFile::of_buildx()]))
}

/// One `--policy`.
#[derive(Debug, Default, PartialEq, Eq)]
struct Spec {
    files: Vec<PathBuf>,
    reset: bool,
    disabled: bool,
    /// Only a builder that ignores policies has to be told.
    strict: bool,
    level: Option<LogLevel>,
}

impl Spec {
    fn parse(text: &str) -> Result<Self, Failure> {
        let mut spec = Self::default();
        for (key, value) in grammar::fields(text).map_err(|e| usage(format!("--policy: {e}")))? {
            let invalid = |why: &str| {
                let value = value.as_deref().unwrap_or_default();
                usage(format!("--policy: invalid value {key}={value}: {why}"))
            };
            let switch = || value.as_deref().and_then(boolean).ok_or_else(|| invalid("true or false"));
            match key.trim().to_ascii_lowercase().as_str() {
                "filename" => match value.as_deref() {
                    None | Some("") => return Err(invalid("a file is missing")),
                    Some(path) => spec.files.push(path.strip_prefix("cwd://").unwrap_or(path).into()),
                },
                "reset" => spec.reset = switch()?,
                "disabled" => spec.disabled = switch()?,
                "strict" => spec.strict = switch()?,
                "log-level" => {
                    spec.level = Some(match value.as_deref().unwrap_or_default().to_ascii_lowercase().as_str() {
                        "panic" | "fatal" | "error" | "warn" | "warning" => LogLevel::Quiet,
                        "info" => LogLevel::Info,
                        "debug" | "trace" => LogLevel::Debug,
                        _ => return Err(invalid("panic, fatal, error, warn, info, debug or trace")),
                    });
                }
                other => {
                    let known = ["filename", "reset", "disabled", "strict", "log-level"];
                    let hint = did_you_mean(other, known);
                    return Err(usage(format!(
                        "--policy: unknown field \"{other}\"{hint}: expected {}",
                        known.join(", ")
                    )));
                }
            }
        }
        Ok(spec)
    }
}

/// `FILE.rego`, if there is one.
fn beside(dockerfile: &Path) -> Result<Option<PolicyFile>, Failure> {
    let mut path = OsString::from(dockerfile);
    path.push(".rego");
    read(Path::new(&path))
}

fn required(path: &Path) -> Result<PolicyFile, Failure> {
    read(path)?.ok_or_else(|| usage(format!("--policy: {}: no such file or directory", path.display())))
}

/// A policy; what it imports is below its directory.
fn read(path: &Path) -> Result<Option<PolicyFile>, Failure> {
    let fail = |why: &str| Failure::new(FaultKind::Input, format!("policy {}: {why}", path.display()));
    let bytes = match read_limited(path, MAX_POLICY) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(fail(&e.to_string())),
    };
    if bytes.len() as u64 > MAX_POLICY {
        return Err(fail("larger than 1 MiB"));
    }
    let text = String::from_utf8(bytes).map_err(|_| fail("not UTF-8"))?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Some(PolicyFile { name, text, root: Some(parent.to_owned()) }))
}

pub(super) fn run(inside: &Inside, command: &Policy) -> Result<u8, Failure> {
    match command {
        Policy::Eval(args) => eval(inside, args),
        Policy::Test(args) => test(args),
        Policy::JsonSchema => print(&format!("{:#}\n", crate::policy::schema())),
    }
}

fn eval(inside: &Inside, args: &PolicyEval) -> Result<u8, Failure> {
    let source = source(&args.source)?;
    let platform = platform(args.platform.as_ref())?;
    let known: Vec<String> = crate::policy::FIELDS
        .iter()
        .flat_map(|(kind, fields)| fields.iter().map(move |field| format!("{kind}.{field}")))
        .collect();
    if let Some(field) = args.fields.iter().find(|field| !known.contains(field)) {
        return Err(
            usage(format!("--fields: unknown field \"{field}\"")).hint("image.labels, git.branch, http.checksum, …")
        );
    }
    let events = Events::none();
    let store = inside.store(events.clone())?;
    let _lease = store.lease().map_err(|e| store_failure(&e))?;
    let builder = builder(inside, &store, Budget::detect(), &events, &Cancel::default(), StepOptions::default())?;
    let runtime = runtime(Budget::detect())?;
    if args.print {
        let looked = runtime.block_on(builder.policy_input(&source, &platform, &args.fields));
        let (input, unknown) = looked.map_err(failure)?;
        if !unknown.is_empty() {
            let _ = writeln!(std::io::stderr(), "unresolved fields: {}", unknown.join(", "));
        }
        return print(&format!("{input:#}\n"));
    }
    let policies = vec![vec![of_dockerfile(&args.file, "--file")?]];
    let filename = args.file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let policies = Policies::new(&policies, Env { filename, ..Env::default() }).map_err(failure)?;
    let log = |level: LogLevel, text: &str| {
        if level <= LogLevel::Info {
            let _ = writeln!(std::io::stderr(), "{text}");
        }
    };
    match runtime.block_on(builder.ask_policies(&policies, &source, &platform, &log)) {
        Ok(_) => Ok(0),
        Err(error @ RegoError::Denied { .. }) => {
            let RegoError::Denied { messages, .. } = &error else { return Err(failure(error)) };
            let why = if messages.is_empty() { String::new() } else { format!(": {}", messages.join("; ")) };
            let denied = Failure::new(FaultKind::Input, format!("policy denied{why}"));
            Err(error.hint().into_iter().fold(denied, Failure::hint))
        }
        Err(error) => Err(failure(error)),
    }
}

fn test(args: &PolicyTest) -> Result<u8, Failure> {
    let mut files = if args.path.is_dir() {
        let fail = |e: std::io::Error| Failure::new(FaultKind::Input, format!("{}: {e}", args.path.display()));
        let entries = std::fs::read_dir(&args.path).map_err(fail)?;
        let paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>, _>>().map_err(fail)?;
        paths.into_iter().filter(|path| is_test(path)).collect::<Vec<_>>()
    } else if is_test(&args.path) {
        vec![args.path.clone()]
    } else {
        return Err(usage(format!("test file must have _test.rego suffix: {}", args.path.display())));
    };
    files.sort();
    let policy = of_dockerfile(&args.filename, "--filename")?;
    let files = files.iter().map(|path| required(path)).collect::<Result<Vec<_>, _>>()?;
    let policies = Policies::new(&[vec![policy]], Env::default()).map_err(failure)?;
    let results = policies.tests(&files, args.run.as_deref()).map_err(failure)?;
    if results.is_empty() {
        return Err(Failure::new(FaultKind::Input, "no policy tests found"));
    }
    print(&results.iter().map(told).collect::<String>())?;
    match results.iter().filter(|result| !result.passed).count() {
        0 => Ok(0),
        failed => Err(Failure::new(FaultKind::Input, format!("{failed} of {} policy tests failed", results.len()))),
    }
}

/// A result in buildx's words: of one that failed, everything that was looked at.
fn told(test: &crate::policy::PolicyTest) -> String {
    let decision = test.decision.as_ref();
    let allow =
        decision.and_then(|decision| decision["allow"].as_bool()).map_or("n/a".into(), |allow| allow.to_string());
    let messages = decision.and_then(|decision| decision["deny_msg"].as_array()).into_iter().flatten();
    let messages: Vec<&str> = messages.filter_map(|message| message.as_str()).collect();
    let denied = if messages.is_empty() { String::new() } else { format!(", deny_msg={}", messages.join("; ")) };
    let status = if test.passed { "PASS" } else { "FAIL" };
    let mut out = format!("{}: {status} (allow={allow}{denied})\n", test.name);
    if !test.passed {
        for (label, value) in [("input", &test.input), ("decision", &test.decision)] {
            out += &value.as_ref().map_or(format!("{label}: <nil>\n"), |value| format!("{label}:\n{value:#}\n"));
        }
        if !test.missing.is_empty() {
            let names: Vec<String> = test.missing.iter().map(|field| format!("input.{field}")).collect();
            out += &format!("missing_input: {}\n", names.join(", "));
        }
    }
    out
}

fn is_test(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().ends_with("_test.rego"))
}

fn of_dockerfile(path: &Path, flag: &str) -> Result<PolicyFile, Failure> {
    beside(path)?.ok_or_else(|| {
        let message = format!("there is no policy {}.rego", path.display());
        Failure::new(FaultKind::Input, message).hint(format!("name the Dockerfile it belongs to with {flag}"))
    })
}

/// A source as people write it.
fn source(text: &str) -> Result<SourceOp, Failure> {
    if let Some(name) = text.strip_prefix("docker-image://") {
        let reference: Reference = name.parse().map_err(|e| usage(format!("invalid source {text}: {e}")))?;
        return Ok(SourceOp { identifier: format!("docker-image://{reference}"), ..SourceOp::default() });
    }
    match GitRef::parse(text).transpose().map_err(|e| usage(format!("invalid source {text}: {e}")))? {
        Some(reference) => return Ok(RemoteContext::git(&reference, false).source),
        None if text.starts_with("http://") || text.starts_with("https://") => {
            return Ok(RemoteContext::http(text).source);
        }
        None => {}
    }
    if !Path::new(text).exists() {
        return Err(usage(format!("invalid source {text}: no such file or directory"))
            .hint("docker-image://NAME, a repository, a URL, or a directory"));
    }
    Ok(SourceOp { identifier: "local://context".into(), ..SourceOp::default() })
}

#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
fn failure(error: RegoError) -> Failure {
    let kind = match &error {
        RegoError::Facts(error) => error.kind,
        _ => FaultKind::Input,
    };
    let failure = Failure::new(kind, error.to_string());
    match error.hint() {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}
