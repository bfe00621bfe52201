//! Go templates over data, with docker's functions (SPEC B8.03).

use std::collections::HashMap;

use gtmpl::{FuncError, Value as Go};
use serde_json::Value;

use super::errors::Failure;
use crate::base::FaultKind;

/// One value through a Go template.
///
/// # Errors
/// For templates that do not parse or name fields that do not exist.
pub(super) fn template(text: &str, value: &Value) -> Result<String, Failure> {
    render(text, go(value), json)
}

/// As [`template`], over what is more than data: `json` says what that function prints.
///
/// # Errors
/// As [`template`].
pub(super) fn render(text: &str, value: Go, json: gtmpl::Func) -> Result<String, Failure> {
    let fail = |e: &dyn std::fmt::Display| {
        let message = format!("--format: invalid template \"{text}\": {e}");
        Failure::new(FaultKind::Usage, message)
            .hint("fields are those of --format json, e.g. '{{.Name}}' or '{{json .}}'")
    };
    let mut template = gtmpl::Template::default();
    let functions: [(&str, gtmpl::Func); 10] = [
        (SHOW, |a| Ok(Go::String(a.first().map(shown).unwrap_or_default()))),
        ("json", json),
        ("join", join),
        ("split", split),
        ("lower", |a| text_of(a, str::to_lowercase)),
        ("upper", |a| text_of(a, str::to_uppercase)),
        ("title", |a| text_of(a, title)),
        ("trim", |a| text_of(a, |t| t.trim().to_owned())),
        ("pad", pad),
        ("truncate", truncate),
    ];
    for (name, function) in functions {
        template.add_func(name, function);
    }
    template.parse(printing_as_go(&unescape(text))).map_err(|e| fail(&plainly(&e.to_string())))?;
    let text = template.render(&gtmpl::Context::from(value)).map_err(|e| fail(&plainly(&e.to_string())))?;
    // What Go prints for a field that does not exist; a script must not take it for data.
    if text.contains("<no value>") { Err(fail(&"it names a field that does not exist")) } else { Ok(text) }
}

/// The library's words without its name for a template that has none, nor what we put into it.
fn plainly(message: &str) -> String {
    let message = message.strip_prefix("template: :").and_then(|m| m.split_once(':')).map_or(message, |(_, m)| m);
    let message = message.replace(&format!(" | {SHOW}"), "").replace(char::is_control, " ");
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The function that prints what Go prints.
const SHOW: &str = "shown";

/// Words that begin an action which prints nothing.
const SILENT: &[&str] = &["if", "else", "end", "range", "with", "define", "template", "block", "break", "continue"];

/// Each action that prints gets [`SHOW`] at its end: the library prints lists and maps in its own way.
fn printing_as_go(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, action, after)) = next_action(rest) {
        out.push_str(before);
        let (start, end) = (action.strip_prefix("- ").unwrap_or(action), action.ends_with(" -"));
        let inner = start.strip_suffix(" -").unwrap_or(start).trim();
        let word = inner.split(|c: char| c.is_whitespace() || c == '(').next().unwrap_or_default();
        let prints = !inner.is_empty() && !inner.starts_with("/*") && !SILENT.contains(&word) && !declares(inner);
        if prints {
            let trim = if start.len() < action.len() { "- " } else { "" };
            out.push_str(&format!("{{{{{trim}{inner} | {SHOW}{}}}}}", if end { " -" } else { "" }));
        } else {
            out.push_str(&format!("{{{{{action}}}}}"));
        }
        rest = after;
    }
    out + rest
}

/// `$x := …` and `$x = …`.
fn declares(action: &str) -> bool {
    let after = action.strip_prefix('$').map(|rest| rest.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_'));
    after.is_some_and(|rest| rest.trim_start().starts_with([':', '=', ',']))
}

/// What is before the next action, its inside, and what comes after it. Braces in texts are not its end.
fn next_action(text: &str) -> Option<(&str, &str, &str)> {
    let (before, inside) = text.split_once("{{")?;
    let (mut quote, mut escaped) = (None, false);
    for (at, c) in inside.char_indices() {
        match quote {
            Some('"') if escaped => escaped = false,
            Some('"') if c == '\\' => escaped = true,
            Some(open) if c == open => quote = None,
            Some(_) => {}
            None if c == '"' || c == '`' => quote = Some(c),
            None if inside[at..].starts_with("}}") => return Some((before, &inside[..at], &inside[at + 2..])),
            None => {}
        }
    }
    None
}

/// As Go prints a value: `[a b]`, `map[a:1 b:2]`.
fn shown(value: &Go) -> String {
    match value {
        Go::Array(list) => format!("[{}]", list.iter().map(shown).collect::<Vec<_>>().join(" ")),
        Go::Map(map) | Go::Object(map) => {
            let mut entries: Vec<String> = map
                .iter()
                .filter(|(key, _)| !key.starts_with('\0'))
                .map(|(key, value)| format!("{key}:{}", shown(value)))
                .collect();
            entries.sort();
            format!("map[{}]", entries.join(" "))
        }
        other => other.to_string(),
    }
}

/// Shells pass `\t` and `\n` on as two characters.
pub(super) fn unescape(text: &str) -> String {
    text.replace("\\t", "\t").replace("\\n", "\n")
}

pub(super) fn go(value: &Value) -> Go {
    match value {
        Value::Null => Go::String(String::new()),
        Value::Bool(b) => Go::Bool(*b),
        Value::Number(n) => match (n.as_i64(), n.as_u64(), n.as_f64()) {
            (Some(n), _, _) => n.into(),
            (_, Some(n), _) => n.into(),
            (_, _, n) => n.unwrap_or_default().into(),
        },
        Value::String(s) => Go::String(s.clone()),
        Value::Array(a) => Go::Array(a.iter().map(go).collect()),
        Value::Object(o) => Go::Map(o.iter().map(|(k, v)| (k.clone(), go(v))).collect::<HashMap<_, _>>()),
    }
}

pub(super) fn back(value: &Go) -> Value {
    match value {
        Go::Bool(b) => Value::Bool(*b),
        Go::String(s) => Value::String(s.clone()),
        Go::Array(a) => Value::Array(a.iter().map(back).collect()),
        Go::Map(o) | Go::Object(o) => {
            let mut keys: Vec<&String> = o.keys().collect();
            keys.sort();
            Value::Object(keys.into_iter().map(|k| (k.clone(), back(&o[k]))).collect())
        }
        Go::Number(n) => match (n.as_i64(), n.as_u64(), n.as_f64()) {
            (Some(n), _, _) => n.into(),
            (_, Some(n), _) => n.into(),
            (_, _, n) => n.into(),
        },
        _ => Value::Null,
    }
}

fn json(args: &[Go]) -> Result<Go, FuncError> {
    Ok(Go::String(args.first().map_or(Value::Null, back).to_string()))
}

fn join(args: &[Go]) -> Result<Go, FuncError> {
    match args {
        [Go::Array(parts), Go::String(with)] => {
            let parts: Vec<String> = parts.iter().map(ToString::to_string).collect();
            Ok(Go::String(parts.join(with)))
        }
        _ => Err(FuncError::Generic("join takes a list and a text".into())),
    }
}

fn split(args: &[Go]) -> Result<Go, FuncError> {
    match args {
        [Go::String(text), Go::String(at)] => Ok(Go::Array(text.split(at.as_str()).map(Go::from).collect())),
        _ => Err(FuncError::Generic("split takes two texts".into())),
    }
}

/// `pad TEXT BEFORE AFTER`: with so many spaces around it, as docker's templates have it.
fn pad(args: &[Go]) -> Result<Go, FuncError> {
    match args {
        [Go::String(text), Go::Number(before), Go::Number(after)] => {
            if text.is_empty() {
                return Ok(Go::String(String::new()));
            }
            let spaces = |n: Option<u64>| " ".repeat(usize::try_from(n.unwrap_or(0)).unwrap_or(0).min(1000));
            Ok(Go::String(format!("{}{text}{}", spaces(before.as_u64()), spaces(after.as_u64()))))
        }
        _ => Err(FuncError::Generic("pad takes a text and two numbers".into())),
    }
}

/// `truncate TEXT LENGTH`: its first characters.
fn truncate(args: &[Go]) -> Result<Go, FuncError> {
    match args {
        [Go::String(text), Go::Number(length)] => {
            let length = usize::try_from(length.as_u64().unwrap_or(0)).unwrap_or(usize::MAX);
            Ok(Go::String(text.chars().take(length).collect()))
        }
        _ => Err(FuncError::Generic("truncate takes a text and a number".into())),
    }
}

fn text_of(args: &[Go], change: impl Fn(&str) -> String) -> Result<Go, FuncError> {
    match args {
        [Go::String(text)] => Ok(Go::String(change(text))),
        _ => Err(FuncError::Generic("a text is expected".into())),
    }
}

fn title(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn b8_03_go_templates() {
        let row = json!({"Name": "app:1", "Size": 12, "Tags": ["a", "b"], "Config": {"Env": ["A=1"]}, "Big": true});
        for (text, expected) in [
            ("{{.Name}}", "app:1"),
            ("{{json .Config}}", r#"{"Env":["A=1"]}"#),
            ("{{.Config.Env | json}}", r#"["A=1"]"#),
            ("{{range .Tags}}<{{.}}>{{end}}", "<a><b>"),
            (r#"{{join .Tags ", "}}"#, "a, b"),
            ("{{if .Big}}{{upper .Name}}{{else}}no{{end}}", "APP:1"),
            (r"{{.Name}}\t{{.Size}}", "app:1\t12"),
            ("{{len .Tags}}", "2"),
            ("{{.Tags}} {{.Config}}", "[a b] map[Env:[A=1]]"),
            ("{{- .Name -}}  |{{/* no */}}{{$x := .Tags}}{{$x}}{{ `}}` }}", "app:1|[a b]}}"),
            ("<{{pad .Name 1 2}}>{{truncate .Name 3}}", "< app:1  >app"),
        ] {
            assert_eq!(template(text, &row).map_err(|e| e.message).as_deref(), Ok(expected), "{text}");
        }
        for text in ["{{.Name", "{{nonsense .}}", "{{.Nmae}}"] {
            let said = template(text, &row).map_err(|e| e.message).expect_err(text);
            assert!(
                said.contains("--format") && !said.contains(SHOW) && !said.contains("template: :"),
                "{text}: {said}"
            );
        }
    }
}
