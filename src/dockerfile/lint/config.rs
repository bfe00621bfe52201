//! `# check=` and which rules it leaves (SPEC A1.04–A1.05).

use std::collections::BTreeSet;

use super::Rule;
use crate::base::values::boolean;
use crate::base::wording::quote;
use crate::dockerfile::ast::{Instruction, Kind};

/// Some rules, or all of them. Unknown names are kept out: newer front ends may know them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RuleSet {
    /// Every rule.
    All,
    /// These.
    Only(BTreeSet<Rule>),
}

impl Default for RuleSet {
    fn default() -> Self {
        Self::Only(BTreeSet::new())
    }
}

impl RuleSet {
    fn parse(text: &str) -> Self {
        match text.trim() {
            "all" => Self::All,
            names => Self::Only(names.split(',').filter_map(|name| Rule::named(name.trim())).collect()),
        }
    }

    /// The rule is in it.
    #[must_use]
    pub fn contains(&self, rule: Rule) -> bool {
        match self {
            Self::All => true,
            Self::Only(rules) => rules.contains(&rule),
        }
    }

    fn merge(&mut self, other: Self) {
        match (&mut *self, other) {
            (Self::Only(mine), Self::Only(theirs)) => mine.extend(theirs),
            (_, Self::All) => *self = Self::All,
            (Self::All, _) => {}
        }
    }
}

/// What `check=` says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CheckConfig {
    /// Rules that are off.
    pub skip: RuleSet,
    /// Experimental rules that are on.
    pub experimental: RuleSet,
    /// Violations fail the build.
    pub error: bool,
}

/// A `check=` value that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckError {
    /// Neither `skip`, `error` nor `experimental`.
    #[error("invalid check option {}", quote(.0))]
    Option(String),
    /// `error=` takes a boolean.
    #[error("failed to parse check option {}: invalid syntax", quote(.0))]
    Boolean(String),
}

impl CheckConfig {
    /// Reads `skip=A,B;error=true;experimental=all`. What follows ` //` is a remark.
    pub fn parse(text: &str) -> Result<Self, CheckError> {
        let mut config = Self::default();
        let text = text.split_once(" //").map_or(text, |(options, _)| options);
        if text.trim().is_empty() {
            return Ok(config);
        }
        for part in text.trim().splitn(3, ';') {
            let (key, value) = part.split_once('=').ok_or_else(|| CheckError::Option(part.to_owned()))?;
            match key.trim() {
                "skip" => config.skip = RuleSet::parse(value),
                "experimental" => config.experimental = RuleSet::parse(value),
                "error" => {
                    let value = boolean(value.trim());
                    config.error = value.ok_or_else(|| CheckError::Boolean(part.to_owned()))?;
                }
                other => return Err(CheckError::Option(other.to_owned())),
            }
        }
        Ok(config)
    }

    /// The rule is on. An experimental one only if it is asked for, and then whatever is skipped: so
    /// `skip=all;experimental=X` tries nothing but X.
    #[must_use]
    pub fn allows(&self, rule: Rule) -> bool {
        if rule.experimental() { self.experimental.contains(rule) } else { !self.skip.contains(rule) }
    }

    /// This configuration with what a `check=` line in the comments above an instruction adds. `error` stays as it
    /// is, and a line that cannot be read is a comment like any other.
    #[must_use]
    pub fn with_comments(&self, comments: &[String]) -> Self {
        let mut config = self.clone();
        for text in comments.iter().filter_map(|comment| comment.strip_prefix("check=")) {
            if let Ok(extra) = Self::parse(text) {
                config.skip.merge(extra.skip);
                config.experimental.merge(extra.experimental);
            }
        }
        config
    }

    /// The configuration of each instruction of a file: what stands above a FROM holds for its stage.
    #[must_use]
    pub fn per_instruction(&self, instructions: &[Instruction]) -> Vec<Self> {
        let mut stage = self.clone();
        let config = |instruction: &Instruction| {
            if matches!(instruction.kind, Kind::From { .. }) {
                stage = self.with_comments(&instruction.comments);
                return stage.clone();
            }
            stage.with_comments(&instruction.comments)
        };
        instructions.iter().map(config).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Rule;
    use super::CheckConfig;

    fn parse(text: &str) -> CheckConfig {
        CheckConfig::parse(text).expect(text)
    }

    #[test]
    fn grammar_a1_04() {
        assert_eq!(parse(""), CheckConfig::default());
        let config = parse(" skip=StageNameCasing, FromAsCasing ;error = true; experimental=all");
        assert!(config.error);
        assert!(!config.allows(Rule::StageNameCasing));
        assert!(!config.allows(Rule::FromAsCasing));
        assert!(config.allows(Rule::UndefinedVar));
        assert!(config.allows(Rule::InvalidDefinitionDescription));
        assert!(Rule::ALL.iter().all(|rule| !parse("skip=all").allows(*rule)));
        assert!(parse("skip=all;experimental=InvalidDefinitionDescription").allows(Rule::InvalidDefinitionDescription));
        assert!(!parse("skip=UndefinedVar // it comes from outside").allows(Rule::UndefinedVar), "a remark");
        assert!(parse("skip=stagenamecasing").allows(Rule::StageNameCasing), "case matters");
        assert!(!parse("").allows(Rule::InvalidDefinitionDescription), "experimental rules are off");
    }

    #[test]
    fn errors_a1_04() {
        let error = |text: &str| CheckConfig::parse(text).expect_err(text).to_string();
        insta::assert_snapshot!(error("skp=all"), @r#"invalid check option "skp""#);
        insta::assert_snapshot!(error("skip"), @r#"invalid check option "skip""#);
        insta::assert_snapshot!(error("error=maybe"), @r#"failed to parse check option "error=maybe": invalid syntax"#);
    }

    #[test]
    fn comments_add_to_it_a1_05() {
        let base = parse("skip=StageNameCasing;error=true");
        let merged =
            base.with_comments(&["why".into(), "check=skip=UndefinedVar;error=false".into(), "check=bad".into()]);
        assert!(!merged.allows(Rule::StageNameCasing) && !merged.allows(Rule::UndefinedVar));
        assert!(merged.error, "error is not merged");
        assert!(!base.with_comments(&["check=skip=all".into()]).allows(Rule::FromAsCasing));
    }
}
