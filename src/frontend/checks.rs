//! Failed build checks (SPEC A10): those of the tree, and those that need what only the front end knows.

use std::collections::BTreeSet;

use super::error::{FrontendError, Place};
use super::options::Warning;
use crate::dockerfile::Diagnostic;
use crate::dockerfile::ast::Dockerfile;
use crate::dockerfile::lint::{CheckConfig, CheckError, Rule, lint};

/// Collects failed checks.
#[derive(Debug, Default)]
pub(super) struct Checks {
    config: CheckConfig,
    stage: CheckConfig,
    instruction: CheckConfig,
    found: Vec<Warning>,
    /// The checks of the tree were applied.
    pub(super) linted: bool,
    seen: BTreeSet<(Rule, String, u32)>,
}

impl Checks {
    /// Uses the configuration of the whole file: a build argument's, or that of the `# check=` directive (SPEC A1.04).
    pub(super) fn new(argument: Option<&str>, file: &Dockerfile) -> Result<Self, FrontendError> {
        let directive = file.directives.check.as_ref();
        let text = argument.or(directive.map(|word| word.text.as_str())).unwrap_or_default();
        let config = CheckConfig::parse(text).map_err(|error| {
            let mut out = FrontendError::input(format!("failed to parse check options: {error}"));
            if let CheckError::Option(option) = &error {
                out = out.suggest(option, ["skip", "error", "experimental"]);
            }
            let out = out.hint("write skip=Rule,Rule or skip=all, error=true, experimental=all, with ; between them");
            let line = file.directives.check_line;
            match directive.filter(|_| argument.is_none()) {
                Some(word) => out.at(&Place { lines: (line, line), span: Some(word.span.clone()) }),
                None => out,
            }
        })?;
        Ok(Self { stage: config.clone(), instruction: config.clone(), config, ..Self::default() })
    }

    /// Applies the checks that need only the tree. `built` says which stages count.
    pub(super) fn lint(&mut self, file: &Dockerfile, warnings: &[Diagnostic], built: &[bool]) {
        self.linted = true;
        for violation in lint(file, warnings, &self.config) {
            if violation.stage.is_none_or(|stage| built.get(stage).copied().unwrap_or(false)) {
                let place = Some(Place { lines: violation.lines, span: None });
                self.push(Warning { rule: violation.rule, message: violation.message, place });
            }
        }
    }

    /// Until the next call, obeys `check=` in the comments above a FROM (SPEC A1.05).
    pub(super) fn enter_stage(&mut self, comments: &[String]) {
        self.stage = self.config.with_comments(comments);
        self.instruction = self.stage.clone();
    }

    /// Until the next call, also obeys `check=` in the comments above an instruction.
    pub(super) fn enter(&mut self, comments: &[String]) {
        self.instruction = self.stage.with_comments(comments);
    }

    /// Reports a failed check, once.
    pub(super) fn warn(&mut self, rule: Rule, message: String, place: &Place) {
        if self.instruction.allows(rule) {
            self.push(Warning { rule, message, place: Some(place.clone()) });
        }
    }

    /// All failed checks in order of appearance.
    pub(super) fn into_warnings(mut self) -> Vec<Warning> {
        self.found.sort_by_key(line);
        self.found
    }

    /// The error that `error=true` makes of failed checks (SPEC A10.24).
    pub(super) fn verdict(&mut self) -> Result<(), FrontendError> {
        self.found.sort_by_key(line);
        if !self.config.error || self.found.is_empty() {
            return Ok(());
        }
        let rules: BTreeSet<&str> = self.found.iter().map(|warning| warning.rule.name()).collect();
        let rules: Vec<&str> = rules.into_iter().collect();
        let error = FrontendError::input(format!("lint violation found for rules: {}", rules.join(", ")));
        let place = self.found.first().and_then(|warning| warning.place.clone());
        Err(FrontendError { place, ..error }.hint("`rbuild build --check` shows each place"))
    }

    fn push(&mut self, warning: Warning) {
        if self.seen.insert((warning.rule, warning.message.clone(), line(&warning))) {
            self.found.push(warning);
        }
    }
}

fn line(warning: &Warning) -> u32 {
    warning.place.as_ref().map_or(0, |place| place.lines.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checks(text: &str) -> Checks {
        Checks::new(Some(text), &Dockerfile::default()).expect("valid")
    }

    fn place(line: u32) -> Place {
        Place { lines: (line, line), span: None }
    }

    #[test]
    fn a1_04_checks_can_be_skipped_or_made_errors() {
        let mut checks = checks("skip=UndefinedVar,Newer;error=true");
        checks.warn(Rule::UndefinedVar, "x".into(), &place(1));
        checks.warn(Rule::StageNameCasing, "late".into(), &place(3));
        checks.warn(Rule::CopyIgnoredFile, "x".into(), &place(2));
        checks.warn(Rule::CopyIgnoredFile, "x".into(), &place(2));
        checks.warn(Rule::InvalidDefinitionDescription, "x".into(), &place(2));
        let error = checks.verdict().expect_err("fails");
        assert_eq!(error.message, "lint violation found for rules: CopyIgnoredFile, StageNameCasing");
        assert_eq!(error.place, Some(place(2)));
        assert_eq!(checks.into_warnings().len(), 2);
    }

    #[test]
    fn a1_05_comments_above_an_instruction_or_a_stage_count_for_it() {
        let mut checks = checks("");
        checks.enter_stage(&["check=skip=CopyIgnoredFile".into()]);
        checks.enter(&["check=skip=UndefinedVar".into()]);
        checks.warn(Rule::UndefinedVar, "x".into(), &place(1));
        checks.enter(&["check=experimental=all".into()]);
        checks.warn(Rule::CopyIgnoredFile, "x".into(), &place(2));
        checks.warn(Rule::UndefinedVar, "x".into(), &place(2));
        checks.enter_stage(&[]);
        checks.warn(Rule::CopyIgnoredFile, "x".into(), &place(3));
        checks.verdict().expect("warnings only");
        assert_eq!(checks.into_warnings().len(), 2);
    }
}
