//! Build checks that need what only the front end knows (SPEC A10), and which of all checks are wanted.

use std::collections::BTreeSet;

use super::error::{FrontendError, Place};
use super::options::Warning;
use super::text::go_bool;
use crate::dockerfile::lint::Rule;

/// Some of the rules, or all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Rules {
    all: bool,
    named: BTreeSet<Rule>,
}

impl Rules {
    /// Unknown names are left alone, as they may be of a newer version.
    fn add(&mut self, list: &str) {
        for name in list.split(',').map(str::trim) {
            self.all |= name == "all";
            self.named.extend(Rule::named(name));
        }
    }

    fn has(&self, rule: Rule) -> bool {
        self.all || self.named.contains(&rule)
    }
}

/// What `# check=` says (SPEC A1.04).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct CheckConfig {
    skip: Rules,
    experimental: Rules,
    fail: bool,
}

impl CheckConfig {
    /// Parses `skip=A,B;error=true;experimental=C`.
    pub(super) fn parse(text: &str) -> Result<Self, FrontendError> {
        let mut out = Self::default();
        if text.trim().is_empty() {
            return Ok(out);
        }
        for part in text.splitn(3, ';') {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            match key.trim() {
                "skip" => out.skip.add(value),
                "experimental" => out.experimental.add(value),
                "error" => {
                    out.fail = go_bool(value.trim()).ok_or_else(|| {
                        FrontendError::input(format!("failed to parse check option \"error\": invalid value {value}"))
                    })?;
                }
                key => return Err(FrontendError::input(format!("invalid check option \"{key}\""))),
            }
        }
        Ok(out)
    }
}

/// Collects failed checks.
#[derive(Debug, Default)]
pub(super) struct Checks {
    config: CheckConfig,
    scope: CheckConfig,
    found: Vec<Warning>,
    seen: BTreeSet<(Rule, String, u32)>,
}

impl Checks {
    /// Uses the configuration of the whole file.
    pub(super) fn new(config: CheckConfig) -> Self {
        Self { config, ..Self::default() }
    }

    /// Until the next call, also obeys `check=` in the comments above an instruction (SPEC A1.05).
    pub(super) fn enter(&mut self, comments: &[String]) {
        self.scope = CheckConfig::default();
        for text in comments.iter().filter_map(|line| line.trim().strip_prefix("check=")) {
            // A malformed comment is a comment.
            if let Ok(more) = CheckConfig::parse(text) {
                self.scope = more;
            }
        }
    }

    /// Reports a failed check, once.
    pub(super) fn warn(&mut self, rule: Rule, message: impl Into<String>, place: &Place) {
        self.push(Warning { rule, message: message.into(), place: Some(place.clone()) });
    }

    /// Reports a check that failed elsewhere.
    pub(super) fn push(&mut self, warning: Warning) {
        let rule = warning.rule;
        let any = |of: fn(&CheckConfig) -> &Rules| of(&self.config).has(rule) || of(&self.scope).has(rule);
        let wanted = !rule.experimental() || any(|config| &config.experimental);
        if wanted && !any(|config| &config.skip) && self.seen.insert((rule, warning.message.clone(), line(&warning))) {
            self.found.push(warning);
        }
    }

    /// All failed checks in order of appearance, or the error that `error=true` makes of them (SPEC A10.24).
    pub(super) fn finish(mut self) -> Result<Vec<Warning>, FrontendError> {
        self.found.sort_by_key(line);
        if !self.config.fail || self.found.is_empty() {
            return Ok(self.found);
        }
        let rules: BTreeSet<&str> = self.found.iter().map(|warning| warning.rule.name()).collect();
        let rules: Vec<&str> = rules.into_iter().collect();
        let error = FrontendError::input(format!("lint violation found for rules: {}", rules.join(", ")));
        let others = self
            .found
            .iter()
            .map(|warning| FrontendError {
                place: warning.place.clone(),
                ..FrontendError::input(format!("{}: {}", warning.rule, warning.message))
            })
            .collect();
        let place = self.found.first().and_then(|warning| warning.place.clone());
        Err(FrontendError { others, place, ..error })
    }
}

fn line(warning: &Warning) -> u32 {
    warning.place.as_ref().map_or(0, |place| place.lines.0)
}

/// Whether a variable name looks like a secret's (SPEC A10.16).
pub(super) fn looks_secret(key: &str) -> bool {
    const DENY: [&str; 10] =
        ["apikey", "auth", "credential", "credentials", "key", "password", "pword", "passwd", "secret", "token"];
    const ALLOW: [&str; 3] = ["public", "file", "version"];
    let lower = key.to_ascii_lowercase();
    let any = |words: &[&str]| lower.split('_').any(|part| words.contains(&part));
    any(&DENY) && !any(&ALLOW)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(line: u32) -> Place {
        Place { lines: (line, line), span: None }
    }

    #[test]
    fn a10_16_secret_names() {
        for name in ["GITHUB_TOKEN", "key", "DATABASE_PASSWORD", "secret_message", "my_apikey"] {
            assert!(looks_secret(name), "{name}");
        }
        for name in ["KEYBOARD", "TOKEN_FILE", "public_key", "AUTHOR", "KEY_VERSION"] {
            assert!(!looks_secret(name), "{name}");
        }
    }

    #[test]
    fn a1_04_checks_can_be_skipped_or_made_errors() {
        let mut checks = Checks::new(CheckConfig::parse("skip=UndefinedVar,Newer;error=true").expect("valid"));
        checks.warn(Rule::UndefinedVar, "x", &place(1));
        checks.warn(Rule::StageNameCasing, "late", &place(3));
        checks.warn(Rule::CopyIgnoredFile, "x", &place(2));
        checks.warn(Rule::CopyIgnoredFile, "x", &place(2));
        checks.warn(Rule::InvalidDefinitionDescription, "x", &place(2));
        let error = checks.finish().expect_err("fails");
        assert_eq!(error.message, "lint violation found for rules: CopyIgnoredFile, StageNameCasing");
        assert_eq!(error.others.len(), 2);
        assert!(CheckConfig::parse("nonsense=1").is_err_and(|e| e.message == "invalid check option \"nonsense\""));
    }

    #[test]
    fn a1_05_comments_above_an_instruction_count_for_it() {
        let mut checks = Checks::default();
        checks.enter(&["check=skip=UndefinedVar".into()]);
        checks.warn(Rule::UndefinedVar, "x", &place(1));
        checks.enter(&["check=experimental=all".into()]);
        checks.warn(Rule::InvalidDefinitionDescription, "x", &place(2));
        checks.enter(&[]);
        checks.warn(Rule::UndefinedVar, "x", &place(2));
        assert_eq!(checks.finish().expect("warnings only").len(), 2);
    }
}
