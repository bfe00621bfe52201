//! Data for people and for scripts: tables, JSON lines, Go templates (SPEC B8.03).

use std::collections::HashMap;
use std::time::SystemTime;

use gtmpl::{FuncError, Value as Go};
use serde_json::Value;

use super::errors::Failure;
use crate::base::FaultKind;
pub(super) use crate::base::wording::size;

/// A time for people, UTC.
pub(super) fn time(at: SystemTime) -> String {
    jiff::Timestamp::try_from(at).map_or_else(|_| String::new(), |t| t.strftime("%Y-%m-%d %H:%M:%S").to_string())
}

/// Columns of equal width, two spaces between them.
pub(super) fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..count)
        .map(|i| rows.iter().filter_map(|r| r.get(i)).map(|c| c.chars().count()).max().unwrap_or(0))
        .collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', width - cell.chars().count() + 2));
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// Rows in the format asked for: `table` (with these columns), `json` (a line each), `table TEMPLATE` or a template.
///
/// # Errors
/// For templates that do not parse or name fields that do not exist.
pub(super) fn rows(
    format: &str,
    headings: &[&str],
    cells: Vec<Vec<String>>,
    rows: &[Value],
) -> Result<String, Failure> {
    let lines = |text: &str| -> Result<Vec<String>, Failure> { rows.iter().map(|row| template(text, row)).collect() };
    match format {
        "table" | "text" => {
            let mut all = vec![headings.iter().map(|h| (*h).to_owned()).collect()];
            all.extend(cells);
            Ok(columns(&all))
        }
        "json" => Ok(rows.iter().map(|row| format!("{row}\n")).collect()),
        _ => match format.strip_prefix("table ") {
            Some(text) => {
                // The names of the fields are the headings.
                let names = text.replace("{{json .", "{{.");
                let heading =
                    names.split("{{").map(|p| p.trim_start_matches('.').replace("}}", "")).collect::<String>();
                let mut table = vec![unescape(&heading).to_uppercase()];
                table.extend(lines(text)?);
                let split = |line: &String| line.split('\t').map(|c| c.trim().to_owned()).collect();
                Ok(columns(&table.iter().map(split).collect::<Vec<Vec<String>>>()))
            }
            None => Ok(lines(format)?.into_iter().map(|line| line + "\n").collect()),
        },
    }
}

/// One value through a Go template.
///
/// # Errors
/// As [`rows`].
pub(super) fn template(text: &str, value: &Value) -> Result<String, Failure> {
    render(text, go(value), json)
}

/// As [`template`], over what is more than data: `json` says what that function prints.
///
/// # Errors
/// As [`rows`].
pub(super) fn render(text: &str, value: Go, json: gtmpl::Func) -> Result<String, Failure> {
    let fail = |e: &dyn std::fmt::Display| {
        let message = format!("--format: invalid template \"{text}\": {e}");
        Failure::new(FaultKind::Usage, message)
            .hint("fields are those of --format json, e.g. '{{.Name}}' or '{{json .}}'")
    };
    let mut template = gtmpl::Template::default();
    let functions: [(&str, gtmpl::Func); 9] = [
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
    template.parse(unescape(text)).map_err(|e| fail(&e))?;
    let text = template.render(&gtmpl::Context::from(value)).map_err(|e| fail(&e))?;
    // What Go prints for a field that does not exist; a script must not take it for data.
    if text.contains("<no value>") { Err(fail(&"it names a field that does not exist")) } else { Ok(text) }
}

/// Shells pass `\t` and `\n` on as two characters.
fn unescape(text: &str) -> String {
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
            ("<{{pad .Name 1 2}}>{{truncate .Name 3}}", "< app:1  >app"),
        ] {
            assert_eq!(template(text, &row).map_err(|e| e.message).as_deref(), Ok(expected), "{text}");
        }
        for text in ["{{.Name", "{{nonsense .}}", "{{.Nmae}}"] {
            assert!(template(text, &row).is_err_and(|e| e.message.contains("--format")), "{text}");
        }
    }

    #[test]
    fn tables() {
        let (a, b) = (json!({"Name": "x", "Size": 1}), json!({"Name": "longer", "Size": 22}));
        let cells = vec![vec!["x".into(), "1".into()], vec!["longer".into(), "22".into()]];
        let rendered = rows("table", &["NAME", "SIZE"], cells, &[]).map_err(|e| e.message);
        assert_eq!(rendered.as_deref(), Ok("NAME    SIZE\nx       1\nlonger  22\n"));
        let rendered = rows(r"table {{.Name}}\t{{.Size}}", &[], vec![], &[a.clone(), b]).map_err(|e| e.message);
        assert_eq!(rendered.as_deref(), Ok("NAME    SIZE\nx       1\nlonger  22\n"));
        assert_eq!(
            rows("json", &[], vec![], &[a]).map_err(|e| e.message).as_deref(),
            Ok("{\"Name\":\"x\",\"Size\":1}\n")
        );
    }
}
