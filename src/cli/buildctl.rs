//! `buildctl` command lines for the Dockerfile front end, translated (SPEC B2.34).
//!
//! What buildctl says with `--local`, `--opt` and `--frontend` our own flags say directly; the translation is one
//! function from words to words, so that everything behind it is checked in one place only.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use super::errors::Failure;
use super::grammar;
use crate::base::FaultKind;

fn usage(message: impl Into<String>) -> Failure {
    Failure::new(FaultKind::Usage, message)
}

/// Flags of `buildctl` itself that name a daemon, with a value; there is no daemon.
const DAEMON: &[&str] =
    &["--addr", "--timeout", "--tlsservername", "--tlscacert", "--tlscert", "--tlskey", "--tlsdir", "--wait"];

/// Flags that mean the same under our name, with a value.
const SAME: &[(&str, &str)] = &[
    ("--output", "--output"),
    ("-o", "--output"),
    ("--progress", "--progress"),
    ("--secret", "--secret"),
    ("--ssh", "--ssh"),
    ("--metadata-file", "--metadata-file"),
    ("--allow", "--allow"),
    ("--source-policy-file", "--source-policy-file"),
    ("--export-cache", "--cache-to"),
    ("--import-cache", "--cache-from"),
];

/// Flags of `buildctl build` that have no counterpart, and why.
const ABSENT: &[(&str, &str)] = &[
    ("--proxy-network", "the traffic of steps is not read; `--network none` keeps them from any"),
    ("--trace", "its form is BuildKit's own; `--progress rawjson` prints the same messages"),
    ("--ref-file", "`--metadata-file` has it as buildx.build.ref"),
    ("--debug-json-cache-metrics", "`rbuild explain` says what was in the cache and what was not"),
];

/// Options of the front end that have a flag of ours.
const OPTS: &[(&str, &str)] = &[
    ("target", "--target"),
    ("platform", "--platform"),
    ("add-hosts", "--add-host"),
    ("force-network-mode", "--network"),
    ("cgroup-parent", "--cgroup-parent"),
    ("shm-size", "--shm-size"),
    ("ulimit", "--ulimit"),
];

/// Our spelling of the words after `buildctl`.
///
/// # Errors
/// For front ends other than the Dockerfile's, flags that do not exist, and what only a daemon can do.
pub(super) fn ours(args: &[OsString]) -> Result<Vec<OsString>, Failure> {
    let mut words = Words(args.iter());
    loop {
        let Some(word) = words.next_word()? else { return Ok(vec!["--help".into()]) };
        match word.name.as_str() {
            "build" | "b" => return build(&mut words).map(|b| b.into_iter().map(Into::into).collect()),
            "du" => return Ok(du(words.0.cloned())),
            // buildctl never asks.
            "prune" => return Ok(["prune".into(), "--force".into()].into_iter().chain(words.0.cloned()).collect()),
            // How scripts wait for a daemon.
            "debug" => match words.next_word()?.map(|w| w.name).as_deref() {
                Some("workers" | "info") => return Ok(vec!["builder".into(), "inspect".into()]),
                Some("histories") => return Ok(vec!["builds".into(), "ls".into()]),
                Some("dump-llb") => return Ok(std::iter::once("llb".into()).chain(words.0.cloned()).collect()),
                other => {
                    let other = other.unwrap_or_default();
                    return Err(usage(format!(
                        "buildctl debug {other}: only workers, info, histories and dump-llb exist here"
                    )));
                }
            },
            "--help" | "-h" => return Ok(vec!["--help".into()]),
            "--version" | "-v" => return Ok(vec!["version".into()]),
            "--debug" => {}
            name if DAEMON.contains(&name) => {
                words.value(&word)?;
            }
            other => {
                return Err(usage(format!(
                    "buildctl {other}: only build, du, prune and debug exist here: there is no daemon"
                )));
            }
        }
    }
}

/// `host=HOST,ca=FILE,cert=FILE,key=FILE,insecure=BOOL` as our `--registry`.
fn tls_context(text: &str) -> Result<String, Failure> {
    let flag = "buildctl build: --registry-auth-tlscontext";
    let fields = grammar::fields(text).map_err(|e| usage(format!("{flag}: {e}")))?;
    let host = fields.iter().find(|(key, _)| key == "host").and_then(|(_, value)| value.as_deref());
    let host = host.filter(|host| !host.is_empty()).ok_or_else(|| usage(format!("{flag}: host is missing")))?;
    let mut spec = vec![host.to_owned()];
    for (key, value) in fields.iter().filter(|(key, _)| key != "host") {
        match (key.as_str(), value) {
            ("ca" | "cert" | "key" | "insecure", Some(value)) => spec.push(csv_field(&format!("{key}={value}"))),
            _ => return Err(usage(format!("{flag}: unknown field {key}, expected host, ca, cert, key or insecure"))),
        }
    }
    Ok(format!("--registry={}", spec.join(",")))
}

/// A field of a list with commas (SPEC G.01).
fn csv_field(text: &str) -> String {
    if text.contains([',', '"']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_owned() }
}

/// What was collected of a `buildctl build`.
#[derive(Default)]
struct Build {
    locals: BTreeMap<String, String>,
    layouts: BTreeMap<String, String>,
    opts: BTreeMap<String, String>,
    frontend: String,
    flags: Vec<String>,
}

fn build(words: &mut Words<'_>) -> Result<Vec<String>, Failure> {
    let mut build = Build::default();
    while let Some(word) = words.next_word()? {
        let pair = |value: String| match value.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
            _ => Err(usage(format!("{}: invalid value \"{value}\", expected key=value", word.name))),
        };
        match word.name.as_str() {
            "--frontend" => build.frontend = words.value(&word)?,
            "--local" => build.locals.extend([pair(words.value(&word)?)?]),
            "--oci-layout" => build.layouts.extend([pair(words.value(&word)?)?]),
            "--opt" | "--frontend-opt" => build.opts.extend([pair(words.value(&word)?)?]),
            "--no-cache" => build.flags.push("--no-cache".into()),
            "--registry-auth-tlscontext" => build.flags.push(tls_context(&words.value(&word)?)?),
            name if let Some((_, why)) = ABSENT.iter().find(|(flag, _)| *flag == name) => {
                return Err(usage(format!("buildctl build: {name} is not supported: {why}")));
            }
            "--help" | "-h" => return Ok(vec!["build".into(), "--help".into()]),
            name => match SAME.iter().find(|(theirs, _)| *theirs == name) {
                Some((_, flag)) => build.flags.push(format!("{flag}={}", words.value(&word)?)),
                None => {
                    let known: Vec<&str> = SAME
                        .iter()
                        .map(|(n, _)| *n)
                        .chain(["--frontend", "--local", "--oci-layout", "--opt", "--no-cache"])
                        .collect();
                    return Err(usage(format!(
                        "buildctl build: unknown flag {name}{}",
                        grammar::did_you_mean(name, &known)
                    )));
                }
            },
        }
    }
    build.finish()
}

impl Build {
    fn finish(mut self) -> Result<Vec<String>, Failure> {
        match self.frontend.as_str() {
            "dockerfile.v0" => {}
            "gateway.v0" => {
                let source = self.opts.remove("source").unwrap_or_default();
                let told = self.opts.remove("cmdline").unwrap_or(source);
                self.flags.push(format!("--build-arg=BUILDKIT_SYNTAX={told}"));
            }
            "" => return self.finish_graph(),
            other => {
                return Err(usage(format!("buildctl build: unknown frontend \"{other}\", expected dockerfile.v0")));
            }
        }
        let context = match self.opts.remove("context") {
            Some(remote) => remote,
            None => self.locals.get("context").cloned().ok_or_else(|| {
                usage("buildctl build: there is no build context").hint("give --local context=DIR or --opt context=URL")
            })?,
        };
        let filename = self.opts.remove("filename");
        match (self.locals.get("dockerfile"), &filename) {
            (Some(dir), name) => {
                let file = Path::new(dir).join(name.as_deref().unwrap_or("Dockerfile"));
                self.flags.push(format!("--file={}", file.display()));
            }
            // A remote context brings its own Dockerfile, under a name inside it.
            (None, Some(name)) => self.flags.push(format!("--file={name}")),
            (None, None) => {}
        }
        for (key, value) in std::mem::take(&mut self.opts) {
            let flag = self.opt(&key, value)?;
            self.flags.extend(flag);
        }
        let mut words = vec!["build".to_owned()];
        words.append(&mut self.flags);
        words.push(context);
        Ok(words)
    }

    /// A definition on standard input, and the directories that it names.
    fn finish_graph(mut self) -> Result<Vec<String>, Failure> {
        if let Some(key) = self.opts.keys().next() {
            return Err(usage(format!("buildctl build: --opt {key} means nothing without --frontend")));
        }
        let context = self.locals.remove("context");
        let mut words = vec!["build".to_owned(), "--frontend=llb".to_owned()];
        words.append(&mut self.flags);
        words.extend(self.locals.iter().map(|(name, dir)| format!("--build-context={name}={dir}")));
        words.extend(self.layouts.iter().map(|(name, dir)| format!("--build-context={name}=oci-layout://{dir}")));
        words.extend(context);
        Ok(words)
    }

    /// One `--opt key=value` as flags of ours.
    fn opt(&self, key: &str, value: String) -> Result<Vec<String>, Failure> {
        if let Some((_, flag)) = OPTS.iter().find(|(name, _)| *name == key) {
            // Lists are joined by commas there and are repeated flags here, but for those that take commas themselves.
            if ["add-hosts", "ulimit"].contains(&key) {
                return Ok(value.split(',').map(|one| format!("{flag}={one}")).collect());
            }
            return Ok(vec![format!("{flag}={value}")]);
        }
        let flag = match key.split_once(':') {
            Some(("build-arg", name)) => format!("--build-arg={name}={value}"),
            Some(("label", name)) => format!("--label={name}={value}"),
            Some(("attest", kind)) => format!("--attest=type={kind},{value}"),
            Some(("context", name)) => format!("--build-context={name}={}", self.context(&value)?),
            _ if grammar::RESOURCES.contains(&key) => format!("--resource={key}={value}"),
            _ => match (key, value.as_str()) {
                ("no-cache", "") => "--no-cache".into(),
                ("no-cache", stages) => format!("--no-cache-filter={stages}"),
                ("image-resolve-mode", "pull") => "--pull".into(),
                ("image-resolve-mode", "default" | "local") => return Ok(Vec::new()),
                ("hostname", name) => format!("--build-arg=BUILDKIT_SANDBOX_HOSTNAME={name}"),
                ("multi-platform", on) => format!("--build-arg=BUILDKIT_MULTI_PLATFORM={on}"),
                // A front end that is an image has options of its own.
                _ if self.frontend == "gateway.v0" => format!("--frontend-opt={key}={value}"),
                _ => {
                    let known: Vec<&str> = OPTS
                        .iter()
                        .map(|(name, _)| *name)
                        .chain(["filename", "context", "no-cache"])
                        .chain(grammar::RESOURCES)
                        .collect();
                    return Err(usage(format!(
                        "buildctl build: --opt {key} is not supported{}",
                        grammar::did_you_mean(key, &known)
                    )));
                }
            },
        };
        Ok(vec![flag])
    }

    /// A named context's value: `local:NAME` and `oci-layout://NAME…` refer to other flags.
    fn context(&self, value: &str) -> Result<String, Failure> {
        let missing =
            |flag: &str, name: &str| usage(format!("buildctl build: there is no {flag} {name}=DIR for \"{value}\""));
        if let Some(name) = value.strip_prefix("local:") {
            return self.locals.get(name).cloned().ok_or_else(|| missing("--local", name));
        }
        if let Some(rest) = value.strip_prefix("oci-layout://") {
            let end = rest.find(['@', ':']).unwrap_or(rest.len());
            let (name, pin) = rest.split_at(end);
            let dir = self.layouts.get(name).ok_or_else(|| missing("--oci-layout", name))?;
            return Ok(format!("oci-layout://{dir}{pin}"));
        }
        Ok(value.to_owned())
    }
}

/// buildctl's `du`: a format makes `--verbose` mean nothing there, where ours refuses the two together.
fn du(words: impl Iterator<Item = OsString> + Clone) -> Vec<OsString> {
    let formatted = words.clone().any(|word| word == "--format" || word.to_string_lossy().starts_with("--format="));
    let verbose = |word: &OsString| word == "--verbose" || word == "-v";
    let words = words.filter(|word| !(formatted && verbose(word)));
    let words = words.map(|word| if verbose(&word) { "--verbose".into() } else { word });
    std::iter::once("du".into()).chain(words).collect()
}

/// Words of a command line, `--flag=value` taken apart.
struct Words<'a>(std::slice::Iter<'a, OsString>);

struct Word {
    name: String,
    value: Option<String>,
}

impl Words<'_> {
    fn next_word(&mut self) -> Result<Option<Word>, Failure> {
        let Some(word) = self.0.next() else { return Ok(None) };
        let Some(text) = word.to_str() else {
            return Err(usage(format!("buildctl: {} is not UTF-8", word.display())));
        };
        // buildctl takes one dash as two.
        let text = match text.strip_prefix('-') {
            Some(rest) if !rest.starts_with('-') && rest.len() > 1 => format!("--{rest}"),
            _ => text.to_owned(),
        };
        Ok(Some(match text.split_once('=') {
            Some((name, value)) if name.starts_with('-') => Word { name: name.into(), value: Some(value.into()) },
            _ => Word { name: text, value: None },
        }))
    }

    fn value(&mut self, word: &Word) -> Result<String, Failure> {
        if let Some(value) = &word.value {
            return Ok(value.clone());
        }
        let next = self.0.next().and_then(|w| w.to_str());
        next.map(ToOwned::to_owned).ok_or_else(|| usage(format!("buildctl: {} needs a value", word.name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn translate(line: &str) -> Result<String, String> {
        let args: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
        let words = ours(&args).map_err(|e| e.message)?;
        Ok(words.iter().map(|w| w.to_string_lossy()).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn b2_34_builds_are_translated() {
        for (theirs, becomes) in [
            (
                "--addr unix:///x build --frontend dockerfile.v0 --local context=. --local dockerfile=docker --opt filename=F",
                "build --file=docker/F .",
            ),
            (
                "build --frontend=dockerfile.v0 --opt context=https://example.com/r.git#main --opt target=t --opt build-arg:A=b=c",
                "build --build-arg=A=b=c --target=t https://example.com/r.git#main",
            ),
            (
                "build --frontend dockerfile.v0 --local context=. --local src=/s --opt context:src=local:src --oci-layout base=/l --opt context:b=oci-layout://base@sha256:00 --no-cache",
                "build --no-cache --build-context=b=oci-layout:///l@sha256:00 --build-context=src=/s .",
            ),
            (
                "build --frontend gateway.v0 --opt source=docker/dockerfile --local context=. --output type=image,name=a,push=true --export-cache type=inline",
                "build --output=type=image,name=a,push=true --cache-to=type=inline --build-arg=BUILDKIT_SYNTAX=docker/dockerfile .",
            ),
            (
                "build --frontend gateway.v0 --opt source=example.com/x:1 --opt odd=1 --opt target=t --local context=.",
                "build --build-arg=BUILDKIT_SYNTAX=example.com/x:1 --frontend-opt=odd=1 --target=t .",
            ),
            (
                "build --local src=/s --local context=. --oci-layout base=/l --no-cache",
                "build --frontend=llb --no-cache --build-context=src=/s --build-context=base=oci-layout:///l .",
            ),
            (
                "build --frontend dockerfile.v0 --local context=. --opt memory=67108864 --opt cpuset-cpus=0-1",
                "build --resource=cpuset-cpus=0-1 --resource=memory=67108864 .",
            ),
            (
                "build --registry-auth-tlscontext host=r.example:5000,ca=/ca.pem,insecure=true --local context=.",
                "build --frontend=llb --registry=r.example:5000,ca=/ca.pem,insecure=true .",
            ),
            ("debug histories", "builds ls"),
            ("debug dump-llb --dot /f", "llb --dot /f"),
            ("du --verbose", "du --verbose"),
            ("du -v --filter x", "du --verbose --filter x"),
            ("du --verbose --format json", "du --format json"),
            ("prune --all", "prune --force --all"),
            ("--addr unix:///x debug workers", "builder inspect"),
            ("--version", "version"),
        ] {
            assert_eq!(translate(theirs).as_deref(), Ok(becomes), "{theirs}");
        }
    }

    #[test]
    fn b2_34_what_cannot_be_is_refused() {
        for (theirs, text) in [
            ("build --opt a=b --local context=.", "--opt a means nothing without --frontend"),
            ("build --frontend x --local context=.", "unknown frontend \"x\""),
            ("build --frontend dockerfile.v0", "no build context"),
            ("build --frontend dockerfile.v0 --local context", "expected key=value"),
            ("build --frontend dockerfile.v0 --local context=. --opt targte=x", "did you mean target?"),
            ("build --frontend dockerfile.v0 --outptu x", "did you mean --output?"),
            ("build --frontend dockerfile.v0 --local context=. --opt context:a=local:b", "no --local b=DIR"),
            ("debug logs", "only workers, info"),
            ("build --proxy-network --local context=.", "--proxy-network is not supported: the traffic"),
            ("build --ref-file f", "--metadata-file"),
            ("build --trace f", "rawjson"),
            ("build --registry-auth-tlscontext ca=f", "host is missing"),
            ("build --registry-auth-tlscontext host=h,tls=1", "unknown field tls"),
            ("dial-stdio", "there is no daemon"),
            ("build --output", "needs a value"),
        ] {
            let error = translate(theirs).expect_err(theirs);
            assert!(error.contains(text), "{theirs}: {error}");
        }
    }
}
