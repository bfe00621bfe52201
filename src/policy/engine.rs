//! Evaluates one policy.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use regorus::Value as Rego;
use regorus::utils::limits::ExecutionTimerConfig;
use serde_json::Value;

use super::cases::{fields, has, inputs_of, rule_at};
use super::input::OBJECT_FIELDS;
use super::sources::{Known, Left};
use super::{Log, LogLevel, PolicyFile, RegoError, signatures, sources};
use crate::attest::git::pgp::SignedDigest;
use crate::attest::signature::Signatures;
use crate::base::Digest;
use crate::base::duration::parse_duration;
use crate::base::file::{open_dir, read_in_root};

/// GitHub would have to be asked.
const GITHUB: &str =
    "GitHub is not asked for attestations; artifact_attestation(input.http, FILE) verifies a bundle beside the policy";

/// What a policy may ask for and cannot have, and why. A rule about it is refused, as one that is not applied protects nobody.
const UNVERIFIED: &[(&str, &str)] = &[("github_attestation", GITHUB)];

/// What buildx knows of its builder, beside every policy that speaks of it.
const BUILDER: (&str, &str) = ("docker_github_builder", include_str!("builder.rego"));

const DECISION: &str = "data.docker.decision";
/// Larger files are not read by `load_json`.
const MAX_JSON: u64 = 4 << 20;
/// Larger modules are not imported.
const MAX_MODULE: u64 = 1 << 20;
/// A policy that takes longer is stopped: it may have come with a Dockerfile that nobody has read.
const PATIENCE: Duration = Duration::from_secs(10);

/// A function of time: its arguments to nanoseconds.
type Time = fn(&[Rego]) -> anyhow::Result<i64>;

/// Rego's functions of time that compare ages, and how many arguments they have. The library's own bring all time zones along, whose
/// tables every process would have to relocate when it starts.
const TIMES: &[(&str, u8, Time)] = &[
    ("time.now_ns", 0, |_| Ok(i64::try_from(Timestamp::now().as_nanosecond())?)),
    ("time.parse_rfc3339_ns", 1, |args| {
        let time: Timestamp = text(args)?.parse().map_err(|e| anyhow::anyhow!("time.parse_rfc3339_ns: {e}"))?;
        Ok(i64::try_from(time.as_nanosecond())?)
    }),
    ("time.parse_duration_ns", 1, |args| {
        parse_duration(text(args)?).map_err(|e| anyhow::anyhow!("time.parse_duration_ns: {e}"))
    }),
];

fn text(args: &[Rego]) -> anyhow::Result<&str> {
    let first = args.first().ok_or_else(|| anyhow::anyhow!("an argument is missing"))?;
    Ok(first.as_string()?)
}

/// A compiled policy.
#[derive(Clone)]
pub(super) struct Engine {
    engine: regorus::Engine,
    name: String,
    root: Option<PathBuf>,
    words: Arc<BTreeSet<String>>,
    /// Fields of `input` that the files themselves speak of.
    fields: Arc<BTreeSet<String>>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What a policy decided.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) allow: bool,
    pub(super) messages: Vec<String>,
    /// What `pin_image` was called with, each once.
    pub(super) pins: Vec<Digest>,
    /// Why functions said no.
    pub(super) notes: Vec<String>,
    /// What has to be known of a download before the answer counts.
    pub(super) needs: Vec<SignedDigest>,
}

/// What functions read and leave behind while a policy is evaluated.
#[derive(Default)]
struct Effects {
    /// What `pin_image` was called with.
    pins: Arc<Mutex<Vec<Digest>>>,
    /// What was found beside the image.
    signatures: Arc<Signatures>,
    /// What is known of other sources.
    known: Arc<Known>,
    /// What functions left behind.
    left: Left,
}

/// A test of a policy, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyTest {
    /// The rule.
    pub name: String,
    /// Whether it is true.
    pub passed: bool,
    /// What it says that policies see: `with input as …`.
    pub input: Option<Value>,
    /// What the policy decides about that.
    pub decision: Option<Value>,
    /// Fields that the policy speaks of and the input does not have.
    pub missing: Vec<String>,
}

impl Engine {
    /// Compiles the files of one policy and what they import.
    pub(super) fn new(files: &[PolicyFile]) -> Result<Self, RegoError> {
        let mut engine = regorus::Engine::new();
        engine.set_execution_timer_config(ExecutionTimerConfig {
            limit: PATIENCE,
            check_interval: NonZeroU32::new(1000).unwrap_or(NonZeroU32::MIN),
        });
        let first = files.first();
        let name = first.map(|file| file.name.clone()).unwrap_or_default();
        let mut out = Self {
            engine,
            name,
            root: first.and_then(|file| file.root.clone()),
            words: Arc::default(),
            fields: Arc::default(),
        };
        let mut words = BTreeSet::new();
        for file in files {
            out.add(file, &mut words, &mut BTreeSet::new())?;
        }
        let package = |file: &PolicyFile| file.text.lines().any(|line| line.trim() == "package docker");
        let speaks = words.iter().any(|word| word.starts_with(BUILDER.0));
        if speaks && files.iter().any(package) {
            let file = PolicyFile { name: "builder.rego".into(), text: BUILDER.1.into(), root: None };
            out.add(&file, &mut words, &mut BTreeSet::new())?;
        }
        out.words = Arc::new(words);
        out.fields = Arc::new(files.iter().flat_map(|file| fields(&file.text)).collect());
        Ok(out)
    }

    /// Adds a module, and the modules it imports.
    fn add(
        &mut self,
        file: &PolicyFile,
        words: &mut BTreeSet<String>,
        seen: &mut BTreeSet<String>,
    ) -> Result<(), RegoError> {
        let fault = |reason: String| RegoError::Policy { name: file.name.clone(), reason };
        let code = without_comments(&file.text);
        if let Some((word, why)) = UNVERIFIED.iter().find(|(word, _)| speaks_of(&code, word)) {
            return Err(fault(format!("it needs {word}: {why}")));
        }
        words.extend(code.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').map(ToOwned::to_owned));
        // The file and the place stand in the message; what follows draws a picture.
        let imports = imports(&code);
        let text = with_whole_names(&file.text, &imports);
        self.engine.add_policy(file.name.clone(), text).map_err(|e| fault(short(&e.to_string())))?;
        for Import { path: import, .. } in imports {
            let path = format!("{}.rego", import.replace('.', "/"));
            if !seen.insert(path.clone()) {
                continue;
            }
            let bytes = self.read(&path, MAX_MODULE).map_err(|e| fault(format!("import data.{import}: {e}")))?;
            let text = String::from_utf8(bytes).map_err(|_| fault(format!("{path} is not UTF-8")))?;
            let module = PolicyFile { name: path, text: in_package(&text, &import), root: file.root.clone() };
            self.add(&module, words, seen)?;
        }
        Ok(())
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn fault(&self, reason: String) -> RegoError {
        RegoError::Policy { name: self.name.clone(), reason }
    }

    /// Whether the policy speaks of a field at all.
    pub(super) fn mentions(&self, field: &str) -> bool {
        self.words.contains(field)
    }

    /// Whether a field has to be looked up for it.
    pub(super) fn wants(&self, field: &str) -> bool {
        // A bundle is about the digest of a download.
        let implied = field == "checksum" && self.mentions("artifact_attestation");
        implied || (self.mentions(field) && (!OBJECT_FIELDS.contains(&field) || self.mentions("git")))
    }

    fn read(&self, path: &str, limit: u64) -> Result<Vec<u8>, String> {
        read(self.root.as_deref(), path, limit)
    }

    /// Whether it verifies signatures of images.
    pub(super) fn verifies_images(&self) -> bool {
        signatures::FUNCTIONS.iter().any(|function| self.mentions(function))
    }

    /// Asks for a decision about `input`, which has these signatures, and of which this is known.
    pub(super) fn decide(
        &self,
        input: &Value,
        signatures: Arc<Signatures>,
        known: Arc<Known>,
        log: Log<'_>,
    ) -> Result<Answer, RegoError> {
        let mut engine = self.engine.clone();
        let effects = Effects { signatures, known, ..Effects::default() };
        let decision = self.evaluate(&mut engine, &effects, input, DECISION);
        for line in engine.take_prints().unwrap_or_default() {
            log(LogLevel::Info, &line);
        }
        let decision = decision?;
        let Value::Object(decision) = decision else {
            return Err(self.fault(match decision {
                Value::Null => {
                    format!("{DECISION} is undefined: a policy says decision := {{\"allow\": …}} in package docker")
                }
                other => format!("{DECISION} is {other}, not an object with allow"),
            }));
        };
        let allow = match decision.get("allow") {
            None => false,
            Some(Value::Bool(allow)) => *allow,
            Some(other) => return Err(self.fault(format!("decision.allow is {other}, not true or false"))),
        };
        let messages = decision.get("deny_msg").and_then(Value::as_array).into_iter().flatten();
        let messages = messages.filter_map(Value::as_str).map(ToOwned::to_owned).collect();
        let pins = effects.pins.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let notes = effects.left.notes.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let needs = effects.left.needs.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ok(Answer { allow, messages, pins, notes, needs })
    }

    /// A policy may ask for more than decisions about sources (`decision.caps`); nothing of that can be given.
    pub(super) fn refuse_capabilities(&self, input: &Value) -> Result<(), RegoError> {
        let mut engine = self.engine.clone();
        // Without a source rules may have nothing to say, or fail: they are asked again with one.
        let Ok(decision) = self.evaluate(&mut engine, &Effects::default(), input, DECISION) else { return Ok(()) };
        let caps = decision["caps"].as_object().into_iter().flatten();
        match caps.into_iter().find(|(_, wanted)| **wanted != Value::Bool(false)) {
            Some((name, _)) => Err(self.fault(format!("it asks for the capability {name}, which is not supported"))),
            None => Ok(()),
        }
    }

    /// Whether a rule is true of `input`, as far as that is known.
    pub(super) fn holds(&self, rule: &str, input: &Value) -> Result<bool, RegoError> {
        Ok(self.evaluate(&mut self.engine.clone(), &Effects::default(), input, rule)? == Value::Bool(true))
    }

    /// Tests are the rules `test_…` of `files`.
    pub(super) fn tests(&self, files: &[PolicyFile], only: Option<&str>) -> Result<Vec<PolicyTest>, RegoError> {
        let mut with = self.clone();
        let (mut seen, mut tests) = (BTreeSet::new(), BTreeMap::new());
        for file in files {
            with.add(file, &mut BTreeSet::new(), &mut seen)?;
            let code = without_comments(&file.text);
            let package = code.lines().find_map(|line| line.trim().strip_prefix("package ")).unwrap_or("docker").trim();
            for (at, _) in code.match_indices("test_").filter(|(at, _)| *at == 0 || code[..*at].ends_with('\n')) {
                let rule = rule_at(&code, at);
                let end = rule.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rule.len());
                let inputs: &mut Vec<String> = tests.entry((package.to_owned(), rule[..end].to_owned())).or_default();
                inputs.extend(inputs_of(rule));
            }
        }
        let wanted = tests.into_iter().filter(|((_, name), _)| only.is_none_or(|part| name.contains(part)));
        wanted.map(|((package, name), inputs)| with.test(&package, name, inputs)).collect()
    }

    fn test(&self, package: &str, name: String, mut inputs: Vec<String>) -> Result<PolicyTest, RegoError> {
        inputs.dedup();
        let input = match inputs.as_slice() {
            [] => None,
            [term] => Some(self.term(term)?),
            _ => return Err(self.fault(format!("multiple input overrides for {name}"))),
        };
        let seen = input.clone().unwrap_or_else(|| Value::Object(serde_json::Map::new()));
        let ask = |rule: &str| {
            self.evaluate(&mut self.engine.clone(), &Effects::default(), &seen, &format!("data.{package}.{rule}"))
        };
        let passed = ask(&name)? == Value::Bool(true);
        let decision = ask("decision").ok().filter(Value::is_object);
        let missing = self.fields.iter().filter(|field| !has(&seen, field)).cloned().collect();
        Ok(PolicyTest { name, passed, input, decision, missing })
    }

    /// The value of an expression.
    fn term(&self, term: &str) -> Result<Value, RegoError> {
        let fault = |e: anyhow::Error| self.fault(short(&e.to_string()));
        let results = self.engine.clone().eval_query(term.to_owned(), false).map_err(fault)?;
        let value = results.result.first().and_then(|result| result.expressions.first()).map(|found| &found.value);
        let text = value.unwrap_or(&Rego::Undefined).to_json_str().map_err(fault)?;
        serde_json::from_str(&text).map_err(|e| self.fault(e.to_string()))
    }

    fn evaluate(
        &self,
        engine: &mut regorus::Engine,
        effects: &Effects,
        input: &Value,
        rule: &str,
    ) -> Result<Value, RegoError> {
        let fault = |e: &anyhow::Error| self.fault(short(&e.to_string()));
        engine.set_gather_prints(true);
        let (root, pins) = (self.root.clone(), Arc::clone(&effects.pins));
        let load = move |args: Vec<Rego>| {
            let path = args.first().and_then(|path| path.as_string().ok()).map(ToString::to_string).unwrap_or_default();
            let bytes =
                read(root.as_deref(), &path, MAX_JSON).map_err(|e| anyhow::anyhow!("load_json: {path}: {e}"))?;
            Rego::from_json_str(&String::from_utf8_lossy(&bytes))
        };
        let pin = move |args: Vec<Rego>| {
            let text =
                args.get(1).and_then(|digest| digest.as_string().ok()).map(ToString::to_string).unwrap_or_default();
            let digest: Digest = text.parse().map_err(|e| anyhow::anyhow!("pin_image: {e}"))?;
            let mut pins = pins.lock().unwrap_or_else(PoisonError::into_inner);
            if !pins.contains(&digest) {
                pins.push(digest);
            }
            Ok(Rego::from(true))
        };
        for (name, arguments, function) in TIMES {
            let function = move |args: Vec<Rego>| function(&args).map(Rego::from);
            engine.add_extension((*name).into(), *arguments, Box::new(function)).map_err(|e| fault(&e))?;
        }
        engine.add_extension("load_json".into(), 1, Box::new(load)).map_err(|e| fault(&e))?;
        engine.add_extension("pin_image".into(), 2, Box::new(pin)).map_err(|e| fault(&e))?;
        let (found, left) = (&effects.signatures, &effects.left);
        signatures::extend(engine, self.root.clone(), found, left, input).map_err(|e| fault(&e))?;
        sources::extend(engine, self.root.clone(), &effects.known, &effects.left, input).map_err(|e| fault(&e))?;
        engine.set_input(Rego::from(input.clone()));
        let value = engine.eval_rule(rule.into()).map_err(|e| fault(&e))?;
        if value == Rego::Undefined {
            return Ok(Value::Null);
        }
        let text = value.to_json_str().map_err(|e| fault(&e))?;
        serde_json::from_str(&text).map_err(|e| self.fault(e.to_string()))
    }
}

/// A file beside the policy, which may have come from elsewhere: nothing outside its directory.
pub(super) fn read(root: Option<&Path>, path: &str, limit: u64) -> Result<Vec<u8>, String> {
    let Some(root) = root else { return Err("a policy of a remote context cannot read other files".into()) };
    let root = open_dir(root).map_err(|e| e.to_string())?;
    read_in_root(root, Path::new(path), limit).map_err(|e| e.to_string())
}

/// The message without the picture of the source.
fn short(message: &str) -> String {
    let lines = message.lines().map(str::trim);
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('|') && !line.contains(" | "));
    lines.map(|line| line.trim_start_matches("--> ")).collect::<Vec<_>>().join(" ")
}

/// What a part of a policy's text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Code,
    /// A string, with its quotes.
    Text,
    Comment,
}

/// Cuts a policy into code, strings and comments.
pub(super) fn parts(text: &str) -> Vec<(Part, &str)> {
    let (mut parts, mut now, mut start, mut quote, mut escaped) = (Vec::new(), Part::Code, 0, '"', false);
    for (at, c) in text.char_indices() {
        // Where this part ends, and what comes then.
        let next = match now {
            Part::Code if c == '#' => Some((at, Part::Comment)),
            Part::Code if c == '"' || c == '`' => {
                quote = c;
                Some((at, Part::Text))
            }
            Part::Comment if c == '\n' => Some((at, Part::Code)),
            Part::Text if escaped => {
                escaped = false;
                None
            }
            Part::Text if c == '\\' && quote == '"' => {
                escaped = true;
                None
            }
            Part::Text if c == quote => Some((at + 1, Part::Code)),
            _ => None,
        };
        if let Some((end, then)) = next {
            parts.push((now, &text[start..end]));
            (now, start) = (then, end);
        }
    }
    parts.push((now, &text[start..]));
    parts
}

/// Without comments, which would make a policy speak of what it does not look at.
fn without_comments(text: &str) -> String {
    parts(text).into_iter().filter(|(part, _)| *part != Part::Comment).map(|(_, text)| text).collect()
}

/// Functions of imported modules are called by their whole names: the interpreter follows imports to values only.
fn with_whole_names(text: &str, imports: &[Import]) -> String {
    let calls = imports.iter().filter_map(|import| {
        let call = regex::Regex::new(&format!(r"(^|[^.\w]){}\.(\w+)\(", regex::escape(&import.alias))).ok()?;
        Some((call, format!("${{1}}data.{}.${{2}}(", import.path)))
    });
    let calls: Vec<_> = calls.collect();
    let whole = |(part, text): (Part, &str)| {
        if part != Part::Code {
            return text.to_owned();
        }
        calls.iter().fold(text.to_owned(), |text, (call, name)| call.replace_all(&text, name.as_str()).into_owned())
    };
    parts(text).into_iter().map(whole).collect()
}

/// Whether a name stands in the code, not as a part of a longer one.
fn speaks_of(code: &str, name: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    code.match_indices(name).any(|(at, _)| {
        let before = code[..at].chars().next_back().is_some_and(word);
        let after = code[at + name.len()..].chars().next().is_some_and(word);
        !before && !after
    })
}

/// `import data.lib.rules as r` names a file of the policy's directory.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Import {
    /// `lib.rules`
    path: String,
    /// `r`
    alias: String,
}

fn imports(code: &str) -> Vec<Import> {
    let lines = code.lines().filter_map(|line| line.trim().strip_prefix("import data."));
    lines
        .map(|rest| {
            let mut words = rest.split_whitespace();
            let path = words.next().unwrap_or_default().to_owned();
            let alias = words.nth(1).map(ToOwned::to_owned);
            let alias = alias.unwrap_or_else(|| path.rsplit('.').next().unwrap_or_default().to_owned());
            Import { path, alias }
        })
        .collect()
}

/// A module as it is imported: its package is its place.
fn in_package(text: &str, package: &str) -> String {
    let mut lines: Vec<String> = text.lines().map(ToOwned::to_owned).collect();
    match lines.iter_mut().find(|line| line.trim_start().starts_with("package ")) {
        Some(line) => *line = format!("package {package}"),
        None => lines.insert(0, format!("package {package}")),
    }
    lines.join("\n")
}
