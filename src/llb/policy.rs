//! Source policies: which sources a build may have, and which take the place of others (SPEC C9.01, C9.02).
//!
//! Pure: a policy looks at source ops and nothing else. Rules count in their order; the last ALLOW or DENY that matches
//! decides, a CONVERT that changes something begins again from the first rule.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use prost::Message as _;
use regex::Regex;
use serde::{Deserialize, Deserializer, de};

use super::Definition;
use super::op::{Kind, Op, SourceOp};
use crate::base::Digest;

/// More conversions of one source are taken for a circle.
const MAX_CONVERSIONS: usize = 20;

/// A policy, ready to be asked. The usual one allows everything.
#[derive(Debug, Clone, Default)]
pub struct SourcePolicy {
    rules: Vec<Rule>,
    /// Where it was read from, for messages.
    origin: String,
    /// It names everything that may be used: what it says of the rest is no rule of anybody's.
    whole: bool,
}

/// A source that may be used, and as what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    /// Its identifier as it is asked for.
    pub identifier: String,
    /// A repository may be asked for with a directory behind its identifier.
    pub below: bool,
    /// What stands for it, if not itself.
    pub becomes: Option<String>,
    /// What is demanded of it, such as a checksum.
    pub attrs: BTreeMap<String, String>,
}

/// What is wrong with a policy.
#[derive(Debug, thiserror::Error)]
pub enum PolicySyntax {
    /// Not the JSON of a policy.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    /// A version that is not known.
    #[error("version {0} of source policies is not known, only 1")]
    Version(i64),
    /// A rule that cannot be applied.
    #[error("rule {number}: {reason}")]
    Rule {
        /// Counted from 1.
        number: usize,
        /// Why not.
        reason: String,
    },
}

/// Why a source may not be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// A rule says no.
    #[error("source \"{identifier}\" denied by policy")]
    Denied {
        /// The source, after conversions.
        identifier: String,
        /// The rule, counted from 1.
        rule: usize,
        /// The policy.
        origin: String,
    },
    /// It is none of those that there may be.
    #[error("source \"{identifier}\" is not among the materials of {origin}")]
    Unlisted {
        /// The source, after conversions.
        identifier: String,
        /// Who lists them.
        origin: String,
    },
    /// Conversions go in a circle.
    #[error("source \"{identifier}\": too many operations: the policy converts it more than {MAX_CONVERSIONS} times")]
    Circle {
        /// The source as it was named.
        identifier: String,
        /// The policy.
        origin: String,
    },
    /// A conversion to something of another kind.
    #[error("source \"{identifier}\" is converted to \"{to}\" by policy, which is no image of a registry")]
    Kind {
        /// The source as it was named.
        identifier: String,
        /// What it became.
        to: String,
        /// The policy.
        origin: String,
    },
}

impl PolicyError {
    /// Where the rule is.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Denied { rule, origin, .. } => format!("rule {rule} of {origin} says so"),
            Self::Unlisted { .. } => "what it was built from has other sources than what is built now".into(),
            Self::Circle { origin, .. } => format!("look for CONVERT rules that undo each other in {origin}"),
            Self::Kind { origin, .. } => format!("let the CONVERT rule of {origin} name docker-image://REFERENCE"),
        }
    }
}

#[derive(Debug, Clone)]
struct Rule {
    action: Action,
    identifier: String,
    pattern: Pattern,
    constraints: Vec<Constraint>,
    updates: Updates,
}

#[derive(Debug, Clone)]
enum Pattern {
    Exact,
    /// Wildcards are expressions too: each `*` is a group.
    Matches(Regex),
}

#[derive(Debug, Clone)]
struct Constraint {
    key: String,
    value: String,
    condition: Condition,
    pattern: Option<Regex>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: Option<i64>,
    #[serde(default)]
    rules: Vec<RuleDocument>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleDocument {
    // Go leaves out what is 0: ALLOW.
    #[serde(default)]
    action: Action,
    selector: Selector,
    updates: Option<Updates>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Selector {
    identifier: String,
    // BuildKit ignores the second spelling, which is buildah's; a policy that is not applied protects nobody.
    #[serde(default, alias = "matchType")]
    match_type: MatchType,
    #[serde(default)]
    constraints: Vec<ConstraintDocument>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConstraintDocument {
    key: String,
    #[serde(default)]
    value: String,
    #[serde(default)]
    condition: Condition,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Updates {
    #[serde(default)]
    identifier: String,
    #[serde(default)]
    attrs: BTreeMap<String, String>,
}

/// An enumeration of the policy's protocol: a word, or its number.
macro_rules! enumeration {
    ($name:ident, $($variant:ident = $number:literal $word:literal),+) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        enum $name {
            #[default]
            $($variant),+
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let words: &[&str] = &[$($word),+];
                let fail = |found: String| {
                    Err(de::Error::custom(format!("unknown value {found}, expected one of {}", words.join(", "))))
                };
                match serde_json::Value::deserialize(deserializer)? {
                    $(serde_json::Value::String(text) if text == $word => Ok(Self::$variant),)+
                    $(serde_json::Value::Number(number) if number.as_u64() == Some($number) => Ok(Self::$variant),)+
                    other => fail(other.to_string()),
                }
            }
        }
    };
}

enumeration!(Action, Allow = 0 "ALLOW", Deny = 1 "DENY", Convert = 2 "CONVERT");
enumeration!(MatchType, Wildcard = 0 "WILDCARD", Exact = 1 "EXACT", Regex = 2 "REGEX");
enumeration!(Condition, Equal = 0 "EQUAL", NotEqual = 1 "NOTEQUAL", Matches = 2 "MATCHES");

impl SourcePolicy {
    /// Reads a policy; `origin` is its file, for messages.
    ///
    /// # Errors
    /// See [`PolicySyntax`].
    pub fn parse(text: &[u8], origin: &str) -> Result<Self, PolicySyntax> {
        let document: Document = serde_json::from_slice(text)?;
        if let Some(version) = document.version.filter(|version| !matches!(version, 0 | 1)) {
            return Err(PolicySyntax::Version(version));
        }
        let rules =
            document.rules.into_iter().enumerate().map(|(index, rule)| {
                Rule::new(rule).map_err(|reason| PolicySyntax::Rule { number: index + 1, reason })
            });
        Ok(Self { rules: rules.collect::<Result<_, _>>()?, origin: origin.to_owned(), whole: false })
    }

    /// Only these sources, each as it is pinned; `origin` says who lists them. Everything on this machine is refused, too.
    #[must_use]
    pub fn pinned(pins: impl IntoIterator<Item = Pin>, origin: &str) -> Self {
        let rule = |action, identifier: String, pattern, updates| Rule {
            action,
            identifier,
            pattern,
            constraints: Vec::new(),
            updates,
        };
        let everything = Regex::new("").map_or(Pattern::Exact, Pattern::Matches);
        let mut rules = vec![rule(Action::Deny, String::new(), everything, Updates::default())];
        for pin in pins {
            let pattern = || match Regex::new(&format!("^{}(:.*)?$", regex::escape(&pin.identifier))) {
                Ok(expression) if pin.below => Pattern::Matches(expression),
                _ => Pattern::Exact,
            };
            let becomes = pin.becomes.clone().unwrap_or_else(|| pin.identifier.clone());
            if pin.becomes.is_some() || !pin.attrs.is_empty() {
                let updates = Updates { identifier: pin.becomes.clone().unwrap_or_default(), attrs: pin.attrs.clone() };
                rules.push(rule(Action::Convert, pin.identifier.clone(), pattern(), updates));
            }
            rules.push(rule(Action::Allow, becomes, pattern(), Updates::default()));
        }
        Self { rules, origin: origin.to_owned(), whole: true }
    }

    /// Whether there is nothing to ask.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// What stands for a source under this policy.
    ///
    /// # Errors
    /// When it may not be used.
    pub fn apply<'a>(&self, source: &'a SourceOp) -> Result<Cow<'a, SourceOp>, PolicyError> {
        let mut now = Cow::Borrowed(source);
        for _ in 0..=MAX_CONVERSIONS {
            match self.once(&now)? {
                Some(changed) => now = Cow::Owned(changed),
                None => return Ok(now),
            }
        }
        Err(PolicyError::Circle { identifier: source.identifier.clone(), origin: self.origin.clone() })
    }

    /// The source after the first rule that changes it, or `None` if it may stay as it is.
    fn once(&self, source: &SourceOp) -> Result<Option<SourceOp>, PolicyError> {
        let mut denied = None;
        for (index, rule) in self.rules.iter().enumerate().filter(|(_, rule)| rule.matches(source)) {
            match rule.action {
                Action::Allow => denied = None,
                Action::Deny => denied = Some(index + 1),
                Action::Convert => {
                    let changed = rule.convert(source);
                    if changed != *source {
                        return Ok(Some(changed));
                    }
                }
            }
        }
        match denied {
            Some(rule) => {
                let (identifier, origin) = (source.identifier.clone(), self.origin.clone());
                Err(match self.whole {
                    true => PolicyError::Unlisted { identifier, origin },
                    false => PolicyError::Denied { identifier, rule, origin },
                })
            }
            None => Ok(None),
        }
    }

    /// As [`SourcePolicy::apply`], for an image: it has to stay one.
    ///
    /// # Errors
    /// Also when it becomes something else.
    pub fn apply_to_image<'a>(&self, source: &'a SourceOp) -> Result<Cow<'a, SourceOp>, PolicyError> {
        let now = self.apply(source)?;
        if now.identifier != source.identifier && !now.identifier.starts_with("docker-image://") {
            let (identifier, to) = (source.identifier.clone(), now.identifier.clone());
            return Err(PolicyError::Kind { identifier, to, origin: self.origin.clone() });
        }
        Ok(now)
    }

    /// A graph with every source as this policy has it. What a conversion changes has another digest, and so has all that
    /// depends on it.
    ///
    /// # Errors
    /// When one may not be used: its vertex, and why.
    pub fn apply_to_graph<'a>(&self, definition: &'a Definition) -> Result<Cow<'a, Definition>, (Digest, PolicyError)> {
        if self.is_empty() {
            return Ok(Cow::Borrowed(definition));
        }
        with_sources(definition, |_, source| match self.apply(source)? {
            Cow::Owned(new) => Ok(Some(new)),
            Cow::Borrowed(_) => Ok(None),
        })
    }
}

/// A graph in which `change` has its say about every source; what depends on a changed one follows it.
///
/// # Errors
/// The first of `change`, with its vertex.
pub fn with_sources<'a, E>(
    definition: &'a Definition,
    mut change: impl FnMut(&Op, &SourceOp) -> Result<Option<SourceOp>, E>,
) -> Result<Cow<'a, Definition>, (Digest, E)> {
    let mut renamed: HashMap<String, String> = HashMap::new();
    let mut out = definition.clone();
    for bytes in &mut out.pb.def {
        // What is no op is told when the graph is read.
        let Ok(mut op) = Op::decode(bytes.as_slice()) else { continue };
        let mut changed = false;
        for input in &mut op.inputs {
            if let Some(new) = renamed.get(&input.digest) {
                input.digest.clone_from(new);
                changed = true;
            }
        }
        let new = match &op.kind {
            Some(Kind::Source(source)) => change(&op, source).map_err(|e| (Digest::sha256(bytes.as_slice()), e))?,
            _ => None,
        };
        if let Some(new) = new {
            op.kind = Some(Kind::Source(new));
            changed = true;
        }
        if changed {
            let old = Digest::sha256(bytes.as_slice()).to_string();
            *bytes = op.encode_to_vec();
            renamed.insert(old, Digest::sha256(bytes.as_slice()).to_string());
        }
    }
    if renamed.is_empty() {
        return Ok(Cow::Borrowed(definition));
    }
    // Where two have become one, the graph has the op twice, which reads as one.
    for (old, new) in &renamed {
        if let Some(metadata) = out.pb.metadata.remove(old) {
            out.pb.metadata.insert(new.clone(), metadata);
        }
        if let Some(source) = &mut out.pb.source
            && let Some(places) = source.locations.remove(old)
        {
            source.locations.insert(new.clone(), places);
        }
    }
    Ok(Cow::Owned(out))
}

impl Rule {
    fn new(document: RuleDocument) -> Result<Self, String> {
        let RuleDocument { action, selector, updates } = document;
        if action == Action::Convert && updates.is_none() {
            return Err("missing destination for convert rule: give updates".into());
        }
        if action != Action::Convert && updates.is_some() {
            return Err("updates belong to CONVERT rules only".into());
        }
        let identifier = selector.identifier;
        let pattern = match selector.match_type {
            MatchType::Exact => Pattern::Exact,
            MatchType::Regex => Pattern::Matches(regex("identifier", &identifier)?),
            MatchType::Wildcard if identifier.contains("**") => {
                return Err(format!("identifier \"{identifier}\": two wildcards in a row"));
            }
            MatchType::Wildcard => {
                let expression = format!("^{}$", regex::escape(&identifier).replace("\\*", "(.*)"));
                Pattern::Matches(regex("identifier", &expression)?)
            }
        };
        let constraints = selector.constraints.into_iter().map(|constraint| {
            let ConstraintDocument { key, value, condition } = constraint;
            let pattern = (condition == Condition::Matches).then(|| regex("value", &value)).transpose()?;
            Ok(Constraint { key, value, condition, pattern })
        });
        let constraints = constraints.collect::<Result<_, String>>()?;
        Ok(Self { action, identifier, pattern, constraints, updates: updates.unwrap_or_default() })
    }

    fn matches(&self, source: &SourceOp) -> bool {
        self.constraints.iter().all(|constraint| constraint.holds(source))
            && (self.identifier == source.identifier
                || match &self.pattern {
                    Pattern::Exact => false,
                    Pattern::Matches(pattern) => pattern.is_match(&source.identifier),
                })
    }

    /// `$1` and `${1}` of the new identifier are what the first `*` or group stood for.
    fn convert(&self, source: &SourceOp) -> SourceOp {
        let mut new = source.clone();
        let to = self.updates.identifier.as_str();
        if !to.is_empty() {
            new.identifier = match &self.pattern {
                Pattern::Matches(pattern) if pattern.is_match(&source.identifier) => {
                    pattern.replace_all(&source.identifier, to).into_owned()
                }
                _ => to.to_owned(),
            };
        }
        new.attrs.extend(self.updates.attrs.clone());
        new
    }
}

impl Constraint {
    /// An attribute that is not there is empty.
    fn holds(&self, source: &SourceOp) -> bool {
        let found = source.attrs.get(&self.key).map_or("", String::as_str);
        match self.condition {
            Condition::Equal => found == self.value,
            Condition::NotEqual => found != self.value,
            Condition::Matches => self.pattern.as_ref().is_some_and(|pattern| pattern.is_match(found)),
        }
    }
}

fn regex(what: &str, text: &str) -> Result<Regex, String> {
    Regex::new(text).map_err(|e| {
        // The last line says why; those before draw a picture.
        let why = e.to_string();
        format!("{what} \"{text}\": {}", why.lines().last().unwrap_or_default().trim_start_matches("error: "))
    })
}

#[cfg(test)]
mod tests {
    use super::super::op::OpMetadata;
    use super::super::{Builder, Edge};
    use super::*;

    #[test]
    fn what_is_pinned_is_all_that_there_is() {
        let pin = |identifier: &str, below, becomes: Option<&str>, attrs: &[(&str, &str)]| Pin {
            identifier: identifier.into(),
            below,
            becomes: becomes.map(ToOwned::to_owned),
            attrs: attrs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        };
        let policy = SourcePolicy::pinned(
            [
                pin("docker-image://a:1", false, Some("docker-image://a:1@sha256:00"), &[]),
                pin("https://h/f", false, None, &[("http.checksum", "sha256:11")]),
                pin("git://h/r.git#v1", true, None, &[("git.checksum", "22")]),
            ],
            "the provenance of x",
        );
        let source = |identifier: &str| SourceOp { identifier: identifier.into(), ..SourceOp::default() };
        let becomes = |identifier: &str| {
            let source = source(identifier);
            let now = policy.apply(&source).expect("allowed").into_owned();
            (now.identifier, now.attrs.into_iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>())
        };
        let image = ("docker-image://a:1@sha256:00".to_owned(), Vec::new());
        assert_eq!(becomes("docker-image://a:1"), image);
        assert_eq!(becomes("docker-image://a:1@sha256:00"), image);
        assert_eq!(becomes("https://h/f").1, ["http.checksum=sha256:11"]);
        assert_eq!(becomes("git://h/r.git#v1").1, ["git.checksum=22"]);
        assert_eq!(becomes("git://h/r.git#v1:sub"), ("git://h/r.git#v1:sub".into(), vec!["git.checksum=22".into()]));
        for other in [
            "docker-image://a:2",
            "https://h/f2",
            "git://h/r.git#v12",
            "local://context",
            "docker-image://a:1@sha256:33",
        ] {
            let error = policy.apply(&source(other)).expect_err(other).to_string();
            assert_eq!(error, format!("source \"{other}\" is not among the materials of the provenance of x"));
        }
    }

    fn policy(rules: &str) -> Result<SourcePolicy, PolicySyntax> {
        SourcePolicy::parse(format!("{{\"rules\":[{rules}]}}").as_bytes(), "p.json")
    }

    fn source(identifier: &str) -> SourceOp {
        SourceOp { identifier: identifier.into(), ..SourceOp::default() }
    }

    fn apply(rules: &str, identifier: &str) -> Result<String, String> {
        let policy = policy(rules).expect("valid");
        policy.apply(&source(identifier)).map(|op| op.identifier.clone()).map_err(|e| e.to_string())
    }

    const DENY_ALL: &str = r#"{"action":"DENY","selector":{"identifier":"*"}}"#;

    // SPEC C9.02: the last rule that matches decides; what no rule speaks of is allowed.
    #[test]
    fn c9_02_the_last_rule_that_matches_decides() {
        let allow = r#"{"action":"ALLOW","selector":{"identifier":"docker-image://docker.io/library/*"}}"#;
        let rules = format!("{DENY_ALL},{allow}");
        let alpine = "docker-image://docker.io/library/alpine:latest";
        assert_eq!(apply(&rules, alpine).as_deref(), Ok(alpine));
        let denied = apply(&rules, "https://example.com/x").expect_err("denied");
        assert_eq!(denied, "source \"https://example.com/x\" denied by policy");
        assert!(apply(&format!("{allow},{DENY_ALL}"), alpine).is_err());
        assert_eq!(apply("", alpine).as_deref(), Ok(alpine));
        let error = policy(DENY_ALL).expect("valid").apply(&source(alpine)).expect_err("denied");
        assert_eq!(error.hint(), "rule 1 of p.json says so");
    }

    // SPEC C9.01, C9.02: what `*` and groups stood for, and beginning again.
    #[test]
    fn c9_02_conversions_rewrite_and_begin_again() {
        let mirror = r#"{"action":"CONVERT","selector":{"identifier":"docker-image://docker.io/library/*"},
            "updates":{"identifier":"docker-image://mirror.example/hub/${1}"}}"#;
        let found = apply(mirror, "docker-image://docker.io/library/alpine:3");
        assert_eq!(found.as_deref(), Ok("docker-image://mirror.example/hub/alpine:3"));
        let deny = r#"{"action":"DENY","selector":{"identifier":"docker-image://mirror.example/*"}}"#;
        assert!(apply(&format!("{deny},{mirror}"), "docker-image://docker.io/library/a").is_err());
        let regex = r#"{"action":2,"selector":{"identifier":"^https://old\\.example/(.*)$","match_type":2},
            "updates":{"identifier":"https://new.example/$1"}}"#;
        assert_eq!(apply(regex, "https://old.example/a").as_deref(), Ok("https://new.example/a"));
        let exact =
            r#"{"action":"CONVERT","selector":{"identifier":"a","matchType":"EXACT"},"updates":{"identifier":"$1"}}"#;
        assert_eq!(apply(exact, "a").as_deref(), Ok("$1"));
        assert_eq!(apply(exact, "ab").as_deref(), Ok("ab"));
        let back = exact
            .replace(":\"a\"", ":\"$1\"")
            .replace("\"updates\":{\"identifier\":\"$1\"}", "\"updates\":{\"identifier\":\"a\"}");
        assert!(apply(&format!("{exact},{back}"), "a").expect_err("a circle").contains("too many operations"));
    }

    #[test]
    fn c9_01_attributes_are_looked_at_and_set() {
        let deny = r#"{"action":"DENY","selector":{"identifier":"https://*","constraints":[
            {"key":"http.checksum","value":"^sha256:","condition":"MATCHES"},
            {"key":"http.filename","value":"x","condition":"EQUAL"},{"key":"http.uid","value":"","condition":"NOTEQUAL"}]}}"#;
        let policy = policy(deny).expect("valid");
        let mut op = source("https://example.com/x");
        assert!(policy.apply(&op).is_ok());
        for (key, value) in [("http.checksum", "sha256:12"), ("http.filename", "x"), ("http.uid", "0")] {
            assert!(policy.apply(&op).is_ok(), "before {key}");
            op.attrs.insert(key.into(), value.into());
        }
        assert!(policy.apply(&op).is_err());
        let set = r#"{"action":"CONVERT","selector":{"identifier":"https://example.com/*"},"updates":{"attrs":{"http.checksum":"sha256:34"}}}"#;
        let policy = super::tests::policy(set).expect("valid");
        let changed = policy.apply(&op).expect("allowed").into_owned();
        assert_eq!(
            (changed.identifier.as_str(), changed.attrs["http.checksum"].as_str()),
            ("https://example.com/x", "sha256:34")
        );
    }

    #[test]
    fn c9_01_what_cannot_be_applied_is_refused() {
        for (rules, said) in [
            (r#"{"action":"FORBID","selector":{"identifier":"*"}}"#, "expected one of ALLOW, DENY, CONVERT"),
            (r#"{"action":"DENY","selector":{"identifer":"*"}}"#, "unknown field `identifer`"),
            (
                r#"{"action":"DENY","selector":{"identifier":"(","match_type":"REGEX"}}"#,
                "rule 1: identifier \"(\": unclosed group",
            ),
            (r#"{"action":"DENY","selector":{"identifier":"a**"}}"#, "two wildcards in a row"),
            (r#"{"action":"CONVERT","selector":{"identifier":"a"}}"#, "missing destination for convert rule"),
            (r#"{"action":"DENY","selector":{"identifier":"a"},"updates":{}}"#, "belong to CONVERT rules"),
            (r#"{"action":"DENY"}"#, "missing field `selector`"),
        ] {
            let error = policy(rules).expect_err(rules).to_string();
            assert!(error.contains(said), "{error}");
        }
        let error = SourcePolicy::parse(b"{\"version\":2}", "p").expect_err("unknown").to_string();
        assert_eq!(error, "version 2 of source policies is not known, only 1");
        assert!(SourcePolicy::parse(b"{\"version\":1}", "p").expect("empty").is_empty());
    }

    #[test]
    fn c9_02_an_image_stays_an_image() {
        let rule =
            r#"{"action":"CONVERT","selector":{"identifier":"docker-image://a"},"updates":{"identifier":"https://b"}}"#;
        let error = policy(rule).expect("valid").apply_to_image(&source("docker-image://a")).expect_err("no image");
        assert!(error.to_string().contains("no image of a registry"), "{error}");
    }

    // SPEC C9.02: what depends on a converted source follows it, and keeps its name and place.
    #[test]
    fn c9_02_a_graph_follows_its_sources() {
        let op = |kind: SourceOp, inputs: &[&Edge]| Op {
            inputs: inputs.iter().map(|edge| Builder::input(edge)).collect(),
            kind: Some(Kind::Source(kind)),
            ..Op::default()
        };
        let mut builder = Builder::with_source("Dockerfile", b"ADD x");
        let first = builder.add(&op(source("https://old"), &[]), OpMetadata::named("first"), &[(3, 4)]);
        let other = builder.add(&op(source("https://other"), &[]), OpMetadata::named("other"), &[]);
        let last = builder.add(&op(source("top"), &[&first, &other]), OpMetadata::named("last"), &[]);
        let before = builder.finish(Some(&last));
        let rule =
            r#"{"action":"CONVERT","selector":{"identifier":"https://old"},"updates":{"identifier":"https://new"}}"#;
        let after = policy(rule).expect("valid").apply_to_graph(&before).expect("allowed").into_owned();
        let graph = after.graph().expect("a graph");
        let root = &graph.vertices[&graph.root.expect("a result").vertex];
        assert_eq!((root.name(), root.inputs[1].clone()), ("last".into(), other));
        let new = &graph.vertices[&root.inputs[0].vertex];
        assert_eq!((new.name(), new.location.clone()), ("first".into(), Some(("Dockerfile".into(), vec![(3, 4)]))));
        assert!(matches!(&new.op.kind, Some(Kind::Source(op)) if op.identifier == "https://new"));
        let (denied, _) = policy(DENY_ALL).expect("valid").apply_to_graph(&before).expect_err("denied");
        assert_eq!(denied, first.vertex);
        assert!(matches!(SourcePolicy::default().apply_to_graph(&before), Ok(Cow::Borrowed(_))));
    }
}
