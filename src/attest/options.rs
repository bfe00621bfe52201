//! What `--attest`, `--provenance` and `--sbom` ask for (SPEC B2.04–B2.06, C8.05, C8.13).

use std::collections::BTreeMap;

use super::sbom::BUILT_IN;
use crate::base::values::{boolean, csv_record};
use crate::base::wording::did_you_mean;
use crate::oci::Reference;

/// The scanner that docker runs where none is named.
pub const DEFAULT_SCANNER: &str = "docker/buildkit-syft-scanner:stable-1";

/// How much provenance says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Inputs, and no arguments, which may be secret.
    Min,
    /// Everything, the steps and the Dockerfile included.
    #[default]
    Max,
}

/// The words that provenance is said in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Version {
    /// SLSA v1.
    #[default]
    V1,
    /// SLSA v0.2.
    V02,
}

/// How provenance is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProvenanceOptions {
    /// `mode`
    pub mode: Mode,
    /// `builder-id`: who built it, a URI.
    pub builder_id: String,
    /// `filename`: its name among exported files.
    pub filename: String,
    /// `reproducible`: the user says that the build is.
    pub reproducible: bool,
    /// `inline-only`: only where it can stand beside an image.
    pub inline_only: bool,
    /// `version`
    pub version: Version,
    /// `complete-materials`: without a digest of every input there is no result.
    pub complete_materials: bool,
    /// `capture-usage`: tell what the steps used.
    pub capture_usage: bool,
    /// Nobody asked: this is the default.
    pub unasked: bool,
}

impl Default for ProvenanceOptions {
    fn default() -> Self {
        Self {
            mode: Mode::default(),
            builder_id: String::new(),
            filename: "provenance.json".into(),
            reproducible: false,
            inline_only: false,
            version: Version::default(),
            complete_materials: false,
            capture_usage: false,
            unasked: false,
        }
    }
}

/// How a list of software is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SbomOptions {
    /// The scanner's image.
    pub generator: String,
    /// Further parameters, which the scanner gets as variables.
    pub parameters: BTreeMap<String, String>,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Asked {
    /// Provenance.
    pub provenance: Option<ProvenanceOptions>,
    /// A list of software.
    pub sbom: Option<SbomOptions>,
}

/// Why a value is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct AttestError(pub String);

impl Asked {
    /// What docker does for who asks for nothing.
    #[must_use]
    pub fn by_default() -> Self {
        let provenance =
            ProvenanceOptions { mode: Mode::Min, inline_only: true, unasked: true, ..ProvenanceOptions::default() };
        Self { provenance: Some(provenance), sbom: None }
    }

    /// Takes a value of `--attest`: a CSV record with a `type`. The last one of a type counts.
    ///
    /// # Errors
    /// Names the field and the rule.
    pub fn attest(&mut self, text: &str) -> Result<(), AttestError> {
        let fields = fields(text)?;
        let Some(kind) = fields.iter().rev().find(|(key, _)| key == "type").map(|(_, value)| value.clone()) else {
            return Err(AttestError(format!(
                "attestation type not specified in \"{text}\": expected type=provenance or type=sbom"
            )));
        };
        self.set(&kind, fields)
    }

    /// Takes a value of `--provenance` or `--sbom`: a boolean, or the fields of `--attest` without its type.
    ///
    /// # Errors
    /// Names the field and the rule.
    pub fn short(&mut self, kind: &str, text: &str) -> Result<(), AttestError> {
        let fields = match boolean(text) {
            Some(on) => vec![("disabled".to_owned(), (!on).to_string())],
            None => fields(text)?,
        };
        self.set(kind, fields)
    }

    fn set(&mut self, kind: &str, fields: Vec<(String, String)>) -> Result<(), AttestError> {
        let disabled = fields.iter().rev().find(|(key, _)| key == "disabled").map(|(key, value)| flag(key, value));
        let disabled = disabled.transpose()?.unwrap_or(false);
        let rest = fields.into_iter().filter(|(key, _)| key != "disabled" && key != "type");
        match kind {
            "provenance" => {
                let options = provenance(rest)?;
                self.provenance = (!disabled).then_some(options);
            }
            "sbom" => {
                let options = sbom(rest)?;
                self.sbom = (!disabled).then_some(options);
            }
            other => {
                let hint = did_you_mean(other, ["provenance", "sbom"]);
                return Err(AttestError(format!("unknown attestation type \"{other}\"{hint}")));
            }
        }
        Ok(())
    }
}

fn fields(text: &str) -> Result<Vec<(String, String)>, AttestError> {
    let record = csv_record(text).map_err(|e| AttestError(format!("\"{text}\" is not a list of key=value: {e}")))?;
    let pair = |field: &String| match field.split_once('=') {
        Some((key, value)) => Ok((key.trim().to_lowercase(), value.to_owned())),
        None if field.trim().eq_ignore_ascii_case("disabled") => Ok(("disabled".into(), "true".into())),
        None => Err(AttestError(format!("invalid value \"{field}\" in \"{text}\": expected key=value"))),
    };
    record.iter().map(pair).collect()
}

fn flag(key: &str, value: &str) -> Result<bool, AttestError> {
    boolean(value).ok_or_else(|| AttestError(format!("invalid boolean value \"{value}\" for {key}")))
}

fn provenance(fields: impl Iterator<Item = (String, String)>) -> Result<ProvenanceOptions, AttestError> {
    let mut out = ProvenanceOptions::default();
    for (key, value) in fields {
        match key.as_str() {
            "mode" => {
                out.mode = match value.as_str() {
                    "min" => Mode::Min,
                    "max" | "full" => Mode::Max,
                    _ => return Err(AttestError(format!("invalid mode \"{value}\": expected min or max"))),
                }
            }
            "builder-id" => out.builder_id = value,
            "filename" if value.is_empty() || value.contains('/') => {
                return Err(AttestError(format!("invalid filename \"{value}\": expected a name without a slash")));
            }
            "filename" => out.filename = value,
            "reproducible" => out.reproducible = flag(&key, &value)?,
            "inline-only" => out.inline_only = flag(&key, &value)?,
            "version" => {
                out.version = match value.as_str() {
                    "v1" => Version::V1,
                    "v0.2" => Version::V02,
                    _ => return Err(AttestError(format!("invalid version \"{value}\": expected v1 or v0.2"))),
                }
            }
            "complete-materials" => out.complete_materials = flag(&key, &value)?,
            "capture-usage" => out.capture_usage = flag(&key, &value)?,
            _ => {
                let known = [
                    "mode",
                    "builder-id",
                    "filename",
                    "reproducible",
                    "inline-only",
                    "version",
                    "complete-materials",
                    "capture-usage",
                    "disabled",
                ];
                return Err(AttestError(format!("unknown field \"{key}\"{}", did_you_mean(&key, known))));
            }
        }
    }
    Ok(out)
}

fn sbom(fields: impl Iterator<Item = (String, String)>) -> Result<SbomOptions, AttestError> {
    let mut out = SbomOptions { generator: DEFAULT_SCANNER.into(), parameters: BTreeMap::new() };
    for (key, value) in fields {
        if key == "generator" {
            if !value.is_empty() {
                value.parse::<Reference>().map_err(|e| AttestError(format!("invalid generator \"{value}\": {e}")))?;
                out.generator = value;
            }
        } else if !did_you_mean(&key, ["generator"]).is_empty() {
            return Err(AttestError(format!("unknown field \"{key}\" (did you mean generator?)")));
        } else {
            out.parameters.insert(key, value);
        }
    }
    match out.parameters.keys().next() {
        // A scanner gets them as variables; here nobody would look at them.
        Some(key) if out.generator == BUILT_IN => {
            Err(AttestError(format!("generator=builtin has no parameters: \"{key}\" means nothing to it")))
        }
        _ => Ok(out),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(values: &[&str]) -> Result<Asked, String> {
        let mut asked = Asked::by_default();
        for value in values {
            match value.split_once(':') {
                Some(("attest", text)) => asked.attest(text),
                Some((kind, text)) => asked.short(kind, text),
                None => Err(AttestError("no kind".into())),
            }
            .map_err(|e| e.0)?;
        }
        Ok(asked)
    }

    // SPEC B2.04, B2.05, C8.05
    #[test]
    fn b2_05_the_default_is_small_and_a_wish_without_a_mode_is_large() {
        let mode =
            |values: &[&str]| asked(values).expect("valid").provenance.map(|p| (p.mode, p.inline_only, p.unasked));
        assert_eq!(mode(&[]), Some((Mode::Min, true, true)));
        assert_eq!(mode(&["provenance:true"]), Some((Mode::Max, false, false)));
        assert_eq!(mode(&["provenance:mode=min"]), Some((Mode::Min, false, false)));
        assert_eq!(mode(&["provenance:mode=full"]), Some((Mode::Max, false, false)));
        assert_eq!(mode(&["provenance:false"]), None);
        assert_eq!(mode(&["attest:type=provenance,disabled=true"]), None);
        assert_eq!(
            mode(&["attest:type=provenance,mode=min", "attest:type=provenance,mode=max"]),
            Some((Mode::Max, false, false))
        );
        let all =
            asked(&["attest:type=provenance,version=v0.2,builder-id=https://ci/1,reproducible=true,filename=p.json"]);
        let all = all.expect("valid").provenance.expect("asked for");
        assert_eq!((all.version, all.builder_id.as_str(), all.reproducible), (Version::V02, "https://ci/1", true));
        assert_eq!(all.filename, "p.json");
        let complete = |value: &str| asked(&[value]).expect("valid").provenance.map(|p| p.complete_materials);
        assert_eq!(complete("provenance:complete-materials=true"), Some(true));
        let usage = |value: &str| asked(&[value]).expect("valid").provenance.map(|p| p.capture_usage);
        assert_eq!(usage("provenance:capture-usage=true"), Some(true));
        assert_eq!(usage("provenance:capture-usage=false"), Some(false));
    }

    // SPEC B2.06, C8.13
    #[test]
    fn b2_06_scanners_have_parameters() {
        let sbom = |value: &str| asked(&[value]).expect("valid").sbom;
        assert_eq!(sbom("sbom:false"), None);
        assert_eq!(sbom("sbom:true").map(|s| s.generator).as_deref(), Some(DEFAULT_SCANNER));
        let own = sbom("attest:type=sbom,generator=example.org/scan:1,depth=3").expect("asked for");
        assert_eq!(own.generator, "example.org/scan:1");
        assert_eq!(own.parameters, BTreeMap::from([("depth".to_owned(), "3".to_owned())]));
    }

    // SPEC B2.04, C8.05, G.01
    #[test]
    fn b2_04_mistakes_are_named() {
        let error = |value: &str| asked(&[value]).expect_err("refused");
        assert_eq!(error("attest:type=sbmo"), "unknown attestation type \"sbmo\" (did you mean sbom?)");
        assert!(error("attest:mode=max").starts_with("attestation type not specified"));
        assert_eq!(error("provenance:mode=most"), "invalid mode \"most\": expected min or max");
        assert_eq!(error("provenance:max"), "invalid value \"max\" in \"max\": expected key=value");
        assert_eq!(error("provenance:modus=max"), "unknown field \"modus\" (did you mean mode?)");
        assert_eq!(error("provenance:version=v2"), "invalid version \"v2\": expected v1 or v0.2");
        assert_eq!(error("provenance:inline-only=perhaps"), "invalid boolean value \"perhaps\" for inline-only");
        assert_eq!(error("provenance:capture-usage=1x"), "invalid boolean value \"1x\" for capture-usage");
        assert_eq!(error("sbom:generatr=x"), "unknown field \"generatr\" (did you mean generator?)");
        assert!(error("sbom:generator=UP").starts_with("invalid generator \"UP\": "));
        assert!(error("sbom:generator=builtin,depth=3").starts_with("generator=builtin has no parameters: \"depth\""));
        assert!(error("provenance:filename=a/b").starts_with("invalid filename"));
    }
}
