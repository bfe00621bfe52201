//! Two JSON documents, field by field.

use serde::Serialize;
use serde_json::Value;

/// A field that is not the same in both documents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Where, as `jq` writes it.
    pub field: String,
    /// In the first document, if it is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first: Option<Value>,
    /// In the second document, if it is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub second: Option<Value>,
}

/// The fields that differ, without those at the top named `without`.
pub(super) fn differences(first: &Value, second: &Value, without: &[&str]) -> Vec<Difference> {
    let strip = |value: &Value| {
        let mut value = value.clone();
        if let Value::Object(map) = &mut value {
            map.retain(|key, _| !without.contains(&key.as_str()));
        }
        value
    };
    let mut found = Vec::new();
    walk(String::new(), Some(&strip(first)), Some(&strip(second)), &mut found);
    found
}

fn walk(field: String, first: Option<&Value>, second: Option<&Value>, found: &mut Vec<Difference>) {
    match (first, second) {
        (a, b) if a == b => {}
        (Some(Value::Object(a)), Some(Value::Object(b))) => {
            let more = b.keys().filter(|key| !a.contains_key(key.as_str()));
            for key in a.keys().chain(more) {
                walk(format!("{field}{}", step(key)), a.get(key), b.get(key), found);
            }
        }
        // A list with something put in between is easier to read as a whole.
        (Some(Value::Array(a)), Some(Value::Array(b))) if a.len() == b.len() => {
            for at in 0..a.len() {
                walk(format!("{field}[{at}]"), a.get(at), b.get(at), found);
            }
        }
        (a, b) => found.push(Difference { field, first: a.cloned(), second: b.cloned() }),
    }
}

fn step(key: &str) -> String {
    let plain = key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') && !key.is_empty();
    if plain { format!(".{key}") } else { format!("[{}]", Value::from(key)) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_are_found_where_they_are() {
        let first = json!({"created": "1", "config": {"Env": ["A=1", "B=2"], "Labels": {"a.b": "x"}}, "rootfs": 1});
        let second = json!({"created": "1", "config": {"Env": ["A=1", "B=3"], "Labels": {}, "User": "u"}, "rootfs": 2});
        let found = differences(&first, &second, &["rootfs"]);
        let fields: Vec<&str> = found.iter().map(|d| d.field.as_str()).collect();
        assert_eq!(fields, [".config.Env[1]", ".config.Labels[\"a.b\"]", ".config.User"]);
        assert_eq!((&found[0].first, &found[0].second), (&Some(json!("B=2")), &Some(json!("B=3"))));
        assert_eq!(found[2].first, None);
    }

    #[test]
    fn lists_of_other_lengths_are_shown_whole() {
        let found = differences(&json!({"a": [1, 2]}), &json!({"a": [0, 1, 2]}), &[]);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].field, ".a");
    }
}
