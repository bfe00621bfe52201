//! How the live view looks: colours, lines of output, rate (SPEC B5.04).

use std::time::Duration;

/// SGR parameters of the colours in use; empty where a colour is off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Colors {
    /// Steps that ran or run.
    pub run: String,
    /// Warnings.
    pub warning: String,
    /// Failed steps.
    pub error: String,
    /// Steps that were stopped.
    pub cancel: String,
}

impl Default for Colors {
    fn default() -> Self {
        Self { run: "34".into(), warning: "33".into(), error: "31".into(), cancel: "33".into() }
    }
}

/// Names of colours and their SGR parameters.
const NAMES: &[(&str, &str)] = &[
    ("black", "30"),
    ("red", "31"),
    ("green", "32"),
    ("yellow", "33"),
    ("blue", "34"),
    ("magenta", "35"),
    ("cyan", "36"),
    ("white", "37"),
    ("light-black", "90"),
    ("light-red", "91"),
    ("light-green", "92"),
    ("light-yellow", "93"),
    ("light-blue", "94"),
    ("light-magenta", "95"),
    ("light-cyan", "96"),
    ("light-white", "97"),
];

impl Colors {
    /// From `BUILDKIT_COLORS`: `run=green:warning=yellow:error=red:cancel=255,165,0`.
    ///
    /// # Errors
    /// One line naming the part that is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut colors = Self::default();
        for part in text.split(':').filter(|p| !p.is_empty()) {
            let Some((name, value)) = part.split_once('=') else {
                return Err(format!("\"{part}\" is not NAME=COLOR"));
            };
            let code = code(value).ok_or_else(|| {
                format!("\"{value}\" is neither a color name nor RED,GREEN,BLUE with numbers from 0 to 255")
            })?;
            match name {
                "run" => colors.run = code,
                "warning" | "warn" => colors.warning = code,
                "error" => colors.error = code,
                "cancel" => colors.cancel = code,
                _ => return Err(format!("\"{name}\" is not one of run, warning, error, cancel")),
            }
        }
        Ok(colors)
    }
}

fn code(value: &str) -> Option<String> {
    let value = value.to_lowercase();
    if let Some((_, code)) = NAMES.iter().find(|(name, _)| *name == value) {
        return Some((*code).to_owned());
    }
    let parts: Vec<u8> = value.split(',').map(|p| p.trim().parse().ok()).collect::<Option<_>>()?;
    match parts.as_slice() {
        [r, g, b] => Some(format!("38;2;{r};{g};{b}")),
        _ => None,
    }
}

/// How progress is shown.
#[derive(Debug, Clone)]
pub struct Style {
    /// Colours; `None` for none.
    pub colors: Option<Colors>,
    /// Lines of output below a running step.
    pub log_lines: usize,
    /// Time between two drawings.
    pub rate: Duration,
    /// Characters of a step's name that plain progress shows; `None` for all.
    pub name_width: Option<usize>,
    /// Whether lines of plain progress begin with the time.
    pub timestamps: bool,
}

impl Default for Style {
    fn default() -> Self {
        Self { colors: None, log_lines: 6, rate: Duration::from_millis(80), name_width: None, timestamps: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b5_04_buildkit_colors() {
        let colors = Colors::parse("run=green:warn=light-yellow:error=red:cancel=255,165,0").expect("valid");
        assert_eq!((colors.run.as_str(), colors.warning.as_str()), ("32", "93"));
        assert_eq!(colors.cancel, "38;2;255;165;0");
        for (text, part) in
            [("run", "NAME=COLOR"), ("walk=red", "walk"), ("run=pinkish", "pinkish"), ("run=1,2,256", "1,2,256")]
        {
            assert!(Colors::parse(text).is_err_and(|e| e.contains(part)), "{text}");
        }
    }
}
