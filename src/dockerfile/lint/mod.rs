//! The build checks (SPEC A10).
//!
//! [`Rule`] knows names, words and pages of all of them; [`lint`] applies those that need nothing but the tree. What
//! needs values, images or `.dockerignore` is left to the front end: the rules of FROM and its platform,
//! [`Rule::UndefinedVar`], [`Rule::WorkdirRelativePath`], [`Rule::JSONArgsRecommended`], those of EXPOSE, and
//! [`Rule::CopyIgnoredFile`].

mod checks;
mod config;
mod message;
mod rule;

#[cfg(test)]
mod tests;

use super::ast::Dockerfile;
use super::diagnostic::Diagnostic;
use super::stages::Stages;
use crate::base::events::Warning;

pub use checks::is_secret;
pub use config::{CheckConfig, CheckError, RuleSet};
pub use rule::Rule;

/// A rule that a Dockerfile breaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The rule.
    pub rule: Rule,
    /// What breaks it.
    pub message: String,
    /// 1-based first and last line.
    pub lines: (u32, u32),
    /// The stage, or `None` if it is about text that belongs to no stage or is checked whatever is built.
    pub stage: Option<usize>,
}

impl Violation {
    /// As an event: `Rule: message (line N)` (SPEC A10.24).
    #[must_use]
    pub fn to_warning(&self, file: &str) -> Warning {
        Warning {
            vertex: None,
            short: format!("{}: {} (line {})", self.rule, self.message, self.lines.0),
            detail: vec![self.rule.description().to_owned()],
            url: self.rule.url(),
            location: Some((file.to_owned(), self.lines.0, self.lines.1)),
        }
    }
}

/// Applies the rules that need only the tree, in the order of lines. `warnings` are those of the parser.
///
/// While building, violations with a stage count only if that stage is built (SPEC A10.25: `--check` takes all).
#[must_use]
pub fn lint(dockerfile: &Dockerfile, warnings: &[Diagnostic], config: &CheckConfig) -> Vec<Violation> {
    let stages = Stages::new(dockerfile);
    let mut checker = checks::Checker::new(dockerfile, config);
    checker.parser_warnings(warnings);
    checker.instructions(&stages);
    checker.keyword_casing(&stages);
    checker.stage_names(&stages);
    checker.stages(&stages);
    let mut found = checker.found;
    found.sort_by_key(|violation| violation.lines);
    found
}
