//! Types of variables, and the values that texts are as one of them (SPEC B7.09, B7.10).

use hcl::Expression;
use hcl::expr::ObjectKey;
use serde_json::{Map, Value};

use super::eval::{self, EvalError, error};
use crate::base::values::{boolean, csv_record, separated};

/// A type as it is written.
pub(super) fn type_name(kind: &Expression) -> String {
    match kind {
        Expression::Variable(name) => name.to_string(),
        Expression::String(name) => name.clone(),
        Expression::FuncCall(call) => {
            let inner: Vec<String> = call.args.iter().map(type_name).collect();
            format!("{}({})", call.name.name, inner.join(","))
        }
        Expression::Array(items) => format!("[{}]", items.iter().map(type_name).collect::<Vec<_>>().join(",")),
        Expression::Object(fields) => {
            let fields = fields.iter().map(|(key, kind)| match key {
                ObjectKey::Identifier(name) => format!("{name}={}", type_name(kind)),
                other => format!("{other}={}", type_name(kind)),
            });
            format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
        }
        other => other.to_string(),
    }
}

/// A type as people say it.
pub(super) fn told(kind: &Expression) -> String {
    match kind {
        Expression::FuncCall(call) => match (call.name.name.as_str(), call.args.first()) {
            (head @ ("list" | "set" | "map"), Some(inner)) => format!("{head} of {}", told(inner)),
            (head, _) => head.to_owned(),
        },
        other => type_name(other),
    }
}

/// Whether a type is one.
pub(super) fn valid(kind: &Expression) -> Result<(), EvalError> {
    let wrong = || error(format!("{} is not a valid type", type_name(kind)));
    match kind {
        Expression::Variable(name) if matches!(name.as_str(), "any" | "string" | "number" | "bool") => Ok(()),
        // Types are also written as texts.
        Expression::String(name) if matches!(name.as_str(), "any" | "string" | "number" | "bool") => Ok(()),
        Expression::FuncCall(call) => match (call.name.name.as_str(), call.args.as_slice()) {
            ("list" | "set" | "map" | "optional", [inner, ..]) => valid(inner),
            ("tuple", [Expression::Array(kinds)]) => kinds.iter().try_for_each(valid),
            ("object", [Expression::Object(fields)]) => fields.values().try_for_each(valid),
            _ => wrong(),
        },
        _ => wrong(),
    }
}

/// The text of a flag or of the environment as a value of this kind (SPEC B7.10): one of several values has commas between them.
pub(super) fn given(name: &str, text: &str, kind: Option<&Expression>, default: &Value) -> Result<Value, EvalError> {
    let unsupported = |kind: &str| {
        error(format!(
            "unsupported type {kind} for variable {name}: a text is none of it; {name}_JSON of the environment can be, where the variable has a type"
        ))
    };
    let Some(kind) = kind else {
        return match default {
            Value::Bool(_) => primitive(text, "bool").map_err(|e| parsing(name, "bool", &e)),
            Value::Number(_) => primitive(text, "number").map_err(|e| parsing(name, "number", &e)),
            Value::String(_) | Value::Null => Ok(text.into()),
            Value::Array(_) | Value::Object(_) => unsupported(eval::kind(default)),
        };
    };
    let written = type_name(kind);
    let Expression::FuncCall(call) = kind else {
        return primitive(text, &written).map_err(|e| parsing(name, &written, &e));
    };
    let elements: Vec<String> = match (call.name.name.as_str(), call.args.first()) {
        ("tuple", Some(Expression::Array(kinds))) => kinds.iter().map(type_name).collect(),
        ("list" | "set" | "map", Some(inner)) => vec![type_name(inner)],
        _ => return unsupported(&written),
    };
    if elements.iter().any(|kind| !matches!(kind.as_str(), "any" | "string" | "number" | "bool")) {
        return unsupported(&written);
    }
    let wrong = |why: String| EvalError(format!("failed to convert {name} as {written} from CSV: {why}"));
    let fields = csv_record(text).map_err(&wrong)?;
    let element = |text: &str, kind: &str| {
        let why = |EvalError(why)| wrong(format!("failed to parse element \"{text}\" as {kind}: {why}"));
        primitive(text, kind).map_err(why)
    };
    let value = match call.name.name.as_str() {
        "tuple" if fields.len() != elements.len() => {
            return Err(wrong(format!("{} values are required, not {}", elements.len(), fields.len())));
        }
        "tuple" => fields.iter().zip(&elements).map(|(text, kind)| element(text, kind)).collect::<Result<_, _>>()?,
        "map" => {
            let pair = |field: &String| {
                let parts = separated(field, ':');
                let parts = parts.map_err(|e| wrong(format!("failed to parse {field} as CSV: {e}")))?;
                match parts.as_slice() {
                    [key, value] => Ok((key.clone(), element(value, &elements[0])?)),
                    _ => Err(wrong(format!("expected one k/v pair in {field}: KEY:VALUE"))),
                }
            };
            Value::Object(fields.iter().map(pair).collect::<Result<Map<_, _>, EvalError>>()?)
        }
        _ => fields.iter().map(|text| element(text, &elements[0])).collect::<Result<_, _>>()?,
    };
    convert(value, kind).map_err(|EvalError(why)| wrong(why))
}

/// The text of `NAME_JSON` as a value of this kind.
pub(super) fn of_json(name: &str, text: &str, kind: Option<&Expression>, default: &Value) -> Result<Value, EvalError> {
    let Some(kind) = kind else { return given(name, text, kind, default) };
    let wrong = |why: String| EvalError(format!("failed to convert {name} as {} from JSON: {why}", type_name(kind)));
    let value = serde_json::from_str(text).map_err(|e| wrong(e.to_string()))?;
    convert(value, kind).map_err(|EvalError(why)| wrong(why))
}

fn parsing(name: &str, kind: &str, EvalError(why): &EvalError) -> EvalError {
    EvalError(format!("failed to parse {name} as {kind}: {why}"))
}

/// A text as one of the types that consist of nothing else.
fn primitive(text: &str, kind: &str) -> Result<Value, EvalError> {
    let wrong = || error(format!("\"{text}\" is no {kind}"));
    match kind {
        "bool" => boolean(text).map_or_else(wrong, |value| Ok(Value::Bool(value))),
        "number" => match text.parse::<f64>() {
            Ok(value) if value.is_finite() => Ok(eval::number(value)),
            _ => wrong(),
        },
        _ => Ok(text.into()),
    }
}

/// A value as one of a type, where that can be.
pub(super) fn convert(value: Value, kind: &Expression) -> Result<Value, EvalError> {
    let (head, inner) = match kind {
        Expression::FuncCall(call) => (call.name.name.to_string(), call.args.first()),
        other => (type_name(other), None),
    };
    match (head.as_str(), value) {
        ("any", value) => Ok(value),
        ("string", value) => eval::text(&value).map(Value::from),
        ("number", value) => eval::float(&value).map(eval::number),
        ("bool", value) => eval::boolean(&value).map(Value::Bool),
        ("list" | "set", Value::Array(items)) => {
            let mut items = match inner {
                Some(kind) => items.into_iter().map(|item| convert(item, kind)).collect::<Result<Vec<_>, _>>()?,
                None => items,
            };
            if head == "set" {
                items.sort_by_key(ToString::to_string);
                items.dedup();
            }
            Ok(Value::Array(items))
        }
        ("tuple", Value::Array(items)) => match inner {
            Some(Expression::Array(kinds)) if kinds.len() == items.len() => {
                items.into_iter().zip(kinds).map(|(item, kind)| convert(item, kind)).collect()
            }
            Some(Expression::Array(kinds)) => {
                error(format!("a tuple of {} values is required, not of {}", kinds.len(), items.len()))
            }
            _ => Ok(Value::Array(items)),
        },
        ("map", Value::Object(fields)) => match inner {
            Some(kind) => {
                let fields = fields.into_iter().map(|(key, value)| Ok((key, convert(value, kind)?)));
                Ok(Value::Object(fields.collect::<Result<Map<_, _>, EvalError>>()?))
            }
            None => Ok(Value::Object(fields)),
        },
        ("object", Value::Object(mut fields)) => {
            let Some(Expression::Object(kinds)) = inner else { return Ok(Value::Object(fields)) };
            let mut out = Map::new();
            for (key, kind) in kinds {
                let key = match key {
                    ObjectKey::Identifier(name) => name.to_string(),
                    ObjectKey::Expression(Expression::String(name)) => name.clone(),
                    _ => return error("a type's keys are names"),
                };
                // `optional(string)` may be missing.
                let (kind, optional) = match kind {
                    Expression::FuncCall(call) if call.name.name.as_str() == "optional" => {
                        (call.args.first().unwrap_or(kind), true)
                    }
                    kind => (kind, false),
                };
                match fields.remove(&key) {
                    Some(value) => out.insert(key, convert(value, kind)?),
                    None if optional => out.insert(key, Value::Null),
                    None => return error(format!("attribute \"{key}\" is required")),
                };
            }
            Ok(Value::Object(out))
        }
        (_, value) => error(format!("{} is required, not {}", type_name(kind), eval::kind(&value))),
    }
}
