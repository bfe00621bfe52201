//! YAML as JSON values: one document, anchors and merge keys resolved.
//!
//! Built from the parser's events, so that neither nesting nor aliases of aliases can take more of the machine than the limits here say.

use std::collections::BTreeMap;

use serde_json::{Map, Number, Value};
use yaml_rust2::Yaml;
use yaml_rust2::parser::{Event, Parser, Tag};
use yaml_rust2::scanner::TScalarStyle;

/// Values, with what aliases stand for counted each time.
const MAX_VALUES: usize = 1 << 18;
/// Bytes of all texts, counted the same way.
const MAX_TEXT: usize = 32 << 20;
/// Lists and maps inside each other.
const MAX_DEPTH: usize = 100;

/// What a value takes.
#[derive(Debug, Clone, Copy, Default)]
struct Size {
    values: usize,
    text: usize,
}

/// A list or map that is not at its end.
struct Open {
    anchor: usize,
    tag: Option<String>,
    kind: Kind,
    size: Size,
}

enum Kind {
    List(Vec<Value>),
    Map { fields: Map<String, Value>, merged: Vec<Value>, key: Option<String> },
}

/// Reads the one document of a text. A value with one of the `tags` (`!reset`) becomes an object with the tag as its only key.
///
/// # Errors
/// Says what is wrong with the text, and where.
pub fn parse(text: &str, tags: &[&str]) -> Result<Value, String> {
    let mut parser = Parser::new_from_str(text);
    let mut reader = Reader { tags, ..Reader::default() };
    loop {
        let (event, mark) = parser.next_token().map_err(|e| e.to_string())?;
        if event == Event::StreamEnd {
            break;
        }
        reader.take(event).map_err(|why| format!("line {}: {why}", mark.line()))?;
    }
    match reader.documents {
        0 => Err("it is empty".into()),
        1 => Ok(reader.root.unwrap_or_default()),
        more => Err(format!("it has {more} documents, expected one")),
    }
}

#[derive(Default)]
struct Reader<'a> {
    tags: &'a [&'a str],
    open: Vec<Open>,
    anchors: BTreeMap<usize, (Value, Size)>,
    root: Option<Value>,
    documents: usize,
    total: Size,
}

impl Reader<'_> {
    fn take(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::DocumentStart => self.documents += 1,
            Event::SequenceStart(anchor, tag) => self.begin(anchor, tag.as_ref(), Kind::List(Vec::new()))?,
            Event::MappingStart(anchor, tag) => {
                let kind = Kind::Map { fields: Map::new(), merged: Vec::new(), key: None };
                self.begin(anchor, tag.as_ref(), kind)?;
            }
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some(Open { anchor, tag, kind, size }) = self.open.pop() {
                    let value = match kind {
                        Kind::List(items) => Value::Array(items),
                        Kind::Map { fields, merged, .. } => Value::Object(merge(fields, merged)?),
                    };
                    self.put(anchor, tag, value, size)?;
                }
            }
            Event::Scalar(text, style, anchor, tag) => {
                let size = Size { values: 1, text: text.len() };
                self.count(size)?;
                let value = scalar(text, style, tag.as_ref());
                let tag = self.known(tag.as_ref());
                self.put(anchor, tag, value, size)?;
            }
            Event::Alias(anchor) => {
                let (value, size) =
                    self.anchors.get(&anchor).cloned().ok_or("an alias refers to what it is part of")?;
                self.count(size)?;
                self.put(0, None, value, size)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn known(&self, tag: Option<&Tag>) -> Option<String> {
        let tag = tag.map(|tag| format!("{}{}", tag.handle, tag.suffix))?;
        self.tags.contains(&tag.as_str()).then_some(tag)
    }

    fn begin(&mut self, anchor: usize, tag: Option<&Tag>, kind: Kind) -> Result<(), String> {
        if self.open.len() == MAX_DEPTH {
            return Err(format!("more than {MAX_DEPTH} lists and maps inside each other"));
        }
        let size = Size { values: 1, text: 0 };
        self.count(size)?;
        self.open.push(Open { anchor, tag: self.known(tag), kind, size });
        Ok(())
    }

    fn count(&mut self, more: Size) -> Result<(), String> {
        self.total.values += more.values;
        self.total.text += more.text;
        if self.total.values > MAX_VALUES || self.total.text > MAX_TEXT {
            return Err("too large with all aliases resolved".into());
        }
        Ok(())
    }

    fn put(&mut self, anchor: usize, tag: Option<String>, value: Value, size: Size) -> Result<(), String> {
        let value = match tag {
            Some(tag) => Value::Object(Map::from_iter([(tag, value)])),
            None => value,
        };
        if anchor > 0 {
            self.anchors.insert(anchor, (value.clone(), size));
        }
        let Some(outer) = self.open.last_mut() else {
            self.root = Some(value);
            return Ok(());
        };
        outer.size.values += size.values;
        outer.size.text += size.text;
        match &mut outer.kind {
            Kind::List(items) => items.push(value),
            Kind::Map { fields, merged, key } => match key.take() {
                None => {
                    *key = Some(match value {
                        Value::String(text) => text,
                        Value::Bool(_) | Value::Number(_) | Value::Null => value.to_string(),
                        _ => return Err("a key is not a text".into()),
                    });
                }
                Some(key) if key == "<<" => merged.push(value),
                Some(key) if fields.contains_key(&key) => return Err(format!("the key \"{key}\" is there twice")),
                Some(key) => {
                    fields.insert(key, value);
                }
            },
        }
        Ok(())
    }
}

/// What `<<` brings into a map: the map's own keys go before it, and earlier maps before later ones.
fn merge(mut fields: Map<String, Value>, merged: Vec<Value>) -> Result<Map<String, Value>, String> {
    let maps = merged.into_iter().flat_map(|value| match value {
        Value::Array(items) => items,
        one => vec![one],
    });
    for map in maps {
        let Value::Object(map) = map else { return Err("<< is for maps".into()) };
        for (key, value) in map {
            fields.entry(key).or_insert(value);
        }
    }
    Ok(fields)
}

fn scalar(text: String, style: TScalarStyle, tag: Option<&Tag>) -> Value {
    let is_text = tag.is_some_and(|tag| tag.handle == "tag:yaml.org,2002:" && tag.suffix == "str");
    if style != TScalarStyle::Plain || is_text {
        return Value::String(text);
    }
    let parsed = Yaml::from_str(&text);
    match &parsed {
        Yaml::Null => Value::Null,
        Yaml::Boolean(value) => Value::Bool(*value),
        Yaml::Integer(value) => Value::from(*value),
        Yaml::Real(_) => parsed.as_f64().and_then(Number::from_f64).map_or_else(|| Value::String(text), Value::Number),
        _ => Value::String(text),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    // SPEC B7.24, C5.14
    #[test]
    fn values_anchors_and_merge_keys() {
        let text = "base: &b {a: 1, b: x}\nmore: &m\n  c: [1.5, true, ~, \"2\", !!str 3]\nall:\n  <<: [*b, *m]\n  b: own\n1: one\ncleared: !reset []\ntext: |\n  a\n  b\n";
        let expected = json!({
            "base": {"a": 1, "b": "x"}, "more": {"c": [1.5, true, null, "2", "3"]},
            "all": {"b": "own", "a": 1, "c": [1.5, true, null, "2", "3"]}, "1": "one", "cleared": {"!reset": []}, "text": "a\nb\n",
        });
        assert_eq!(parse(text, &["!reset"]), Ok(expected));
        assert_eq!(parse("a: !other 1\n", &[]), Ok(json!({"a": 1})));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for n in 1..12 {
            laughs.push_str(&format!("a{n}: &a{n} [{}]\n", vec![format!("*a{}", n - 1); 10].join(", ")));
        }
        let deep = format!("{}x", "- ".repeat(150));
        for (text, said) in [
            ("", "it is empty"),
            ("a: 1\n---\nb: 1\n", "it has 2 documents"),
            ("a: 1\na: 2\n", "line 2: the key \"a\" is there twice"),
            ("a: [", "line 2"),
            ("<<: 1\n", "<< is for maps"),
            ("a: &x [*x]\n", "an alias refers to what it is part of"),
            (laughs.as_str(), "too large with all aliases resolved"),
            (deep.as_str(), "more than 100 lists and maps inside each other"),
        ] {
            let error = parse(text, &[]).expect_err(said);
            assert!(error.contains(said), "{error}");
        }
    }
}
