//! `--metadata-file` (SPEC B2.16, C3.21).

use std::collections::BTreeMap;

use base64::Engine as _;
use serde_json::{Value, json};

use crate::attest::options::Mode;
use crate::attest::predicate::shorten;
use crate::base::events::Warning;
use crate::build::BuildReport;
use crate::frontend::Answer;

const PROVENANCE: &str = "buildx.build.provenance";

/// The file's text: two spaces of indentation, keys in order, later outputs win over earlier ones.
pub(super) fn metadata(report: &BuildReport, provenance: Option<Mode>, warnings: &[Warning]) -> String {
    let mut map: BTreeMap<&str, Value> = BTreeMap::new();
    let mut told: Vec<(String, Value)> = Vec::new();
    for (platform, predicate) in report.provenance.iter().filter(|_| provenance.is_some()) {
        let several = report.provenance.len() > 1;
        let key = if several { format!("{PROVENANCE}/{platform}") } else { PROVENANCE.to_owned() };
        let mut predicate = predicate.clone();
        if provenance == Some(Mode::Min) {
            shorten(&mut predicate);
        }
        told.push((key, predicate));
    }
    map.extend(told.iter().map(|(key, value)| (key.as_str(), value.clone())));
    map.insert("buildx.build.ref", format!("rbuild/rbuild/{}", report.id).into());
    for export in &report.exports {
        // An index has no config: that of an earlier output must not stand beside its digest.
        map.remove("containerimage.config.digest");
        let mut annotations: BTreeMap<String, String> = export.descriptor.annotations.clone();
        if !export.created.is_empty() {
            annotations.insert("org.opencontainers.image.created".into(), export.created.clone());
        }
        if let Some(config) = &export.config {
            map.insert("containerimage.config.digest", config.as_str().into());
            annotations.insert("config.digest".into(), config.to_string());
        }
        let descriptor = json!({
            "annotations": annotations,
            "digest": export.descriptor.digest,
            "mediaType": export.descriptor.media_type,
            "size": export.descriptor.size,
        });
        map.insert("containerimage.descriptor", descriptor);
        map.insert("containerimage.digest", export.descriptor.digest.as_str().into());
        if !export.names.is_empty() {
            map.insert("image.name", export.names.join(",").into());
        }
    }
    if let Some(cache) = &report.cache {
        // A text, as buildx has it: BuildKit hands it on as JSON that is not encoded again.
        map.insert("cache.manifest", serde_json::to_string(cache).unwrap_or_default().into());
    }
    if !warnings.is_empty() {
        map.insert("buildx.build.warnings", warnings.iter().map(warning).collect());
    }
    serde_json::to_string_pretty(&map).unwrap_or_default()
}

/// The file's text after a question: what a front end returns in the stead of an image (SPEC C3.20).
pub(super) fn of_answer(answer: &Answer) -> String {
    let mut text = json!({"result.json": answer.json, "result.txt": answer.text});
    if answer.status != 0 {
        // Results are texts, but for the one that is JSON itself.
        text["result.statuscode"] = answer.status.to_string().into();
    }
    format!("{text:#}")
}

/// As BuildKit's client writes them: texts are bytes, so base64.
fn warning(warning: &Warning) -> Value {
    let bytes = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    let range = warning.location.as_ref().map(|(_, from, to)| json!([{"start": {"line": from}, "end": {"line": to}}]));
    json!({
        "level": 1,
        "short": bytes(&warning.short),
        "detail": warning.detail.iter().map(|line| bytes(line)).collect::<Vec<_>>(),
        "url": warning.url,
        "range": range.unwrap_or(Value::Null),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Digest;
    use crate::exporter::ExportReport;
    use crate::oci::{Descriptor, media_type};

    fn export(media_type: &str, config: Option<&str>, names: &[&str]) -> ExportReport {
        ExportReport {
            descriptor: Descriptor::of_bytes(media_type, b"document"),
            config: config.map(Digest::sha256),
            created: "2026-01-02T03:04:05Z".into(),
            names: names.iter().map(|n| (*n).to_owned()).collect(),
            parts: Vec::new(),
        }
    }

    // SPEC B2.16
    #[test]
    fn the_file_of_one_image() {
        let exports = vec![export(media_type::OCI_MANIFEST, Some("config"), &["r.example/a:1", "r.example/b:2"])];
        let report =
            BuildReport { id: "abc".into(), exports, provenance: Vec::new(), statements: Vec::new(), cache: None };
        insta::assert_snapshot!("metadata_of_one_image", metadata(&report, None, &[]));
    }

    // What BuildKit's exporters of caches answer is JSON in a text (SPEC C3.21).
    #[test]
    fn c3_21_the_document_of_a_cache_is_a_text() {
        let document = Descriptor::of_bytes(media_type::OCI_INDEX, b"cache");
        let report = BuildReport {
            id: "abc".into(),
            exports: Vec::new(),
            provenance: Vec::new(),
            statements: Vec::new(),
            cache: Some(document.clone()),
        };
        let value: Value = serde_json::from_str(&metadata(&report, None, &[])).expect("JSON");
        let told: Value = serde_json::from_str(value["cache.manifest"].as_str().expect("a text")).expect("JSON");
        assert_eq!((&told["digest"], &told["size"]), (&json!(document.digest), &json!(5)));
        assert_eq!(value.get("containerimage.digest"), None);
    }

    #[test]
    fn an_index_has_no_config() {
        let exports =
            vec![export(media_type::OCI_MANIFEST, Some("config"), &[]), export(media_type::OCI_INDEX, None, &[])];
        let report =
            BuildReport { id: "abc".into(), exports, provenance: Vec::new(), statements: Vec::new(), cache: None };
        let value: Value = serde_json::from_str(&metadata(&report, None, &[])).expect("JSON");
        assert_eq!(value.get("containerimage.config.digest"), None);
        assert_eq!(value["containerimage.descriptor"]["mediaType"], media_type::OCI_INDEX);
        assert_eq!(value.get("image.name"), None);
    }
}
