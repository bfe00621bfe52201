//! What is wrong with a Dockerfile, and where.

use super::ast::Span;
use super::lint::Rule;

/// One problem. Errors have no `rule`; warnings of the parser have one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// One line, without place and suggestion.
    pub message: String,
    /// The word that was probably meant (SPEC G.06).
    pub suggestion: Option<String>,
    /// What to do about it.
    pub hint: Option<String>,
    /// The bytes concerned; `None` if it is about the file as a whole.
    pub span: Option<Span>,
    /// 1-based first and last line, present whenever `span` is.
    pub lines: Option<(u32, u32)>,
    /// The build check, for warnings.
    pub rule: Option<Rule>,
}

impl Diagnostic {
    /// A problem of the whole file.
    #[must_use]
    pub fn whole_file(message: impl Into<String>) -> Self {
        Self { message: message.into(), suggestion: None, hint: None, span: None, lines: None, rule: None }
    }

    /// A problem at a place.
    #[must_use]
    pub fn at(message: impl Into<String>, span: Span, lines: (u32, u32)) -> Self {
        Self { span: Some(span), lines: Some(lines), ..Self::whole_file(message) }
    }

    /// Adds a remedy.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl std::fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some((line, _)) = self.lines {
            write!(f, "dockerfile parse error on line {line}: ")?;
        }
        f.write_str(&self.message)?;
        match &self.suggestion {
            Some(word) => write!(f, " (did you mean {word}?)"),
            None => Ok(()),
        }
    }
}

/// All errors of one Dockerfile, in order of appearance; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl std::fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, diagnostic) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{diagnostic}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}
