//! Several lists of software become one (SPEC C8.14, D3.28): what a scanner found in the image and what it found in the context.

use std::collections::HashSet;

use serde_json::{Value, json};

/// How later lists are added to the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// One behind the other, whatever they are.
    Concatenate,
    /// CycloneDX: components of another name or version.
    CycloneDx,
    /// SPDX: packages of another name or version, and licences that are not known yet.
    Spdx,
}

impl Strategy {
    /// What buildah calls them.
    pub const NAMES: [&str; 3] =
        ["cat", "merge-cyclonedx-by-component-name-and-version", "merge-spdx-by-package-name-and-versioninfo"];

    /// The strategy of a name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let at = Self::NAMES.iter().position(|known| *known == name)?;
        Some([Self::Concatenate, Self::CycloneDx, Self::Spdx][at])
    }
}

/// All lists as one. A single list stays as it is, to the last byte.
///
/// # Errors
/// Which list, counted from one, is not what the strategy is about, and why.
pub fn merge(strategy: Strategy, lists: &[Vec<u8>]) -> Result<Vec<u8>, String> {
    let (first, rest) = match lists {
        [] => return Ok(Vec::new()),
        [only] => return Ok(only.clone()),
        [first, rest @ ..] => (first, rest),
    };
    let keys: &[(&str, Key)] = match strategy {
        Strategy::Concatenate => return Ok(lists.concat()),
        Strategy::CycloneDx => &[("components", component)],
        Strategy::Spdx => &[("packages", package), ("hasExtractedLicensingInfos", licence)],
    };
    let mut whole = parsed(first, 1)?;
    for (at, list) in rest.iter().enumerate() {
        let mut list = parsed(list, at + 2)?;
        for (field, key) in keys {
            let Some(found) = list.get_mut(*field).and_then(Value::as_array_mut).map(std::mem::take) else { continue };
            let known = whole.as_object_mut().map(|whole| whole.entry(*field).or_insert_with(|| json!([])));
            let Some(Value::Array(known)) = known else { return Err(format!("list 1: {field} is no list")) };
            let mut seen: HashSet<Option<String>> = known.iter().map(key).collect();
            // What has no name at all is nothing that could be there twice.
            known.extend(found.into_iter().filter(|item| key(item).is_none() || seen.insert(key(item))));
        }
    }
    serde_json::to_vec_pretty(&whole).map_err(|e| e.to_string())
}

/// The package URLs of lists in either format, each once, as buildah writes them.
#[must_use]
pub fn package_urls(lists: &[Vec<u8>]) -> Vec<u8> {
    let mut all: Vec<String> = Vec::new();
    for list in lists.iter().filter_map(|list| serde_json::from_slice::<Value>(list).ok()) {
        let of = |field: &str| list.get(field).and_then(Value::as_array).cloned().unwrap_or_default();
        all.extend(of("components").iter().filter_map(|item| Some(item.get("purl")?.as_str()?.to_owned())));
        let references = of("packages").into_iter().filter_map(|item| item.get("externalRefs")?.as_array().cloned());
        let urls = references.flatten().filter(|reference| reference["referenceType"] == "purl");
        all.extend(urls.filter_map(|reference| Some(reference.get("referenceLocator")?.as_str()?.to_owned())));
    }
    all.retain(|url| !url.is_empty());
    all.sort();
    all.dedup();
    json!({"image_contents": {"dependencies": all}}).to_string().into_bytes()
}

/// What an item is known by.
type Key = fn(&Value) -> Option<String>;

fn parsed(list: &[u8], number: usize) -> Result<Value, String> {
    let value: Value = serde_json::from_slice(list).map_err(|e| format!("list {number} is not JSON: {e}"))?;
    if value.is_object() { Ok(value) } else { Err(format!("list {number} is no JSON object")) }
}

fn named(item: &Value, version: &str) -> Option<String> {
    let name = item.get("name")?.as_str()?;
    Some(format!("{name}@{}", item.get(version).and_then(Value::as_str).unwrap_or_default()))
}

fn component(item: &Value) -> Option<String> {
    named(item, "version")
}

fn package(item: &Value) -> Option<String> {
    named(item, "versionInfo")
}

fn licence(item: &Value) -> Option<String> {
    item.get("licenseId")?.as_str().map(ToOwned::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lists(all: &[Value]) -> Vec<Vec<u8>> {
        all.iter().map(|list| list.to_string().into_bytes()).collect()
    }

    // SPEC C8.14
    #[test]
    fn c8_14_lists_are_merged_by_name_and_version() {
        let all = lists(&[
            json!({"bomFormat": "CycloneDX", "components": [{"name": "a", "version": "1", "purl": "pkg:a@1"}]}),
            json!({"components": [{"name": "a", "version": "1"}, {"name": "a", "version": "2", "purl": "pkg:a@2"}, {"name": "b"}]}),
            json!({"other": 1}),
        ]);
        let whole: Value = serde_json::from_slice(&merge(Strategy::CycloneDx, &all).expect("fine")).expect("JSON");
        let names: Vec<_> =
            whole["components"].as_array().expect("a list").iter().map(|c| c["version"].as_str()).collect();
        assert_eq!((names, &whole["bomFormat"]), (vec![Some("1"), Some("2"), None], &json!("CycloneDX")));
        assert_eq!(package_urls(&all), br#"{"image_contents":{"dependencies":["pkg:a@1","pkg:a@2"]}}"#);
        let refs = json!([{"referenceType": "purl", "referenceLocator": "pkg:c"}, {"referenceType": "cpe", "referenceLocator": "x"}]);
        let all = lists(&[
            json!({"spdxVersion": "SPDX-2.3"}),
            json!({"packages": [{"name": "c", "versionInfo": "1", "externalRefs": refs}], "hasExtractedLicensingInfos": [{"licenseId": "L"}]}),
            json!({"packages": [{"name": "c", "versionInfo": "1"}], "hasExtractedLicensingInfos": [{"licenseId": "L"}]}),
        ]);
        let whole: Value = serde_json::from_slice(&merge(Strategy::Spdx, &all).expect("fine")).expect("JSON");
        assert_eq!(
            (whole["packages"].as_array().map(Vec::len), whole["hasExtractedLicensingInfos"].as_array().map(Vec::len)),
            (Some(1), Some(1))
        );
        assert_eq!(package_urls(&all), br#"{"image_contents":{"dependencies":["pkg:c"]}}"#);
    }

    // SPEC C8.14
    #[test]
    fn c8_14_one_list_stays_and_others_are_told() {
        assert_eq!(merge(Strategy::Spdx, &[b"no JSON".to_vec()]), Ok(b"no JSON".to_vec()));
        assert_eq!(merge(Strategy::Concatenate, &[b"a".to_vec(), b"b".to_vec()]), Ok(b"ab".to_vec()));
        let bad = merge(Strategy::CycloneDx, &[b"{}".to_vec(), b"x".to_vec()]).expect_err("no JSON");
        assert!(bad.starts_with("list 2 is not JSON"), "{bad}");
        assert_eq!(Strategy::named("cat"), Some(Strategy::Concatenate));
        assert_eq!(Strategy::named("merge-spdx-by-package-name-and-versioninfo"), Some(Strategy::Spdx));
        assert_eq!(Strategy::named("zip"), None);
    }
}
