//! What names mean in bake files: variables, functions, attributes of other blocks (SPEC B7.09–B7.12, B7.15).

use std::cell::Cell;
use std::collections::BTreeMap;

use hcl::Expression;
use serde_json::{Map, Value};

use super::eval::{self, EvalError, Scope, error};
use super::source::{Block, Sources};
use super::{BakeError, Memory, Surroundings, VariableInfo, functions};

/// Functions that call each other deeper than this go in a circle.
const MAX_DEPTH: u32 = 100;

/// Names and their values.
pub(super) struct Names<'a> {
    sources: &'a Sources,
    with: &'a Surroundings<'a>,
    /// Nothing where a value is being found: who asks for it then asks in a circle.
    known: Memory<Option<Result<Value, EvalError>>>,
    depth: Cell<u32>,
}

impl<'a> Names<'a> {
    pub(super) fn new(sources: &'a Sources, with: &'a Surroundings<'a>) -> Self {
        Self { sources, with, known: Memory::default(), depth: Cell::new(0) }
    }

    pub(super) fn evaluate(&self, expression: &Expression) -> Result<Value, EvalError> {
        eval::evaluate(expression, self)
    }

    /// With more names: those of a matrix.
    pub(super) fn evaluate_with(
        &self,
        expression: &Expression,
        bound: BTreeMap<String, Value>,
    ) -> Result<Value, EvalError> {
        eval::with_names(self, bound, |scope| eval::evaluate(expression, scope))
    }

    /// All variables, each looked at: a value that is not allowed is a mistake even if nobody uses it.
    pub(super) fn variables(&self) -> Result<Vec<VariableInfo>, BakeError> {
        for name in self.with.vars.keys() {
            if !self.sources.composed && !self.sources.variables.contains_key(name) {
                return Err(BakeError::value("--var", format!("there is no variable named \"{name}\"")));
            }
        }
        let info = |(name, blocks): (&String, &Vec<Block>)| {
            let place = format!("variable \"{name}\"");
            let value = self.variable(name).map_err(|e| BakeError::value(&place, e))?;
            let described = attribute(blocks, "description").map(|e| self.evaluate(e)).transpose();
            let described = described.map_err(|e| BakeError::value(&place, e))?.unwrap_or_default();
            Ok(VariableInfo {
                name: name.clone(),
                kind: attribute(blocks, "type").map(type_name).unwrap_or_default(),
                value: match value {
                    Value::Null => String::new(),
                    Value::String(text) => text,
                    other => other.to_string(),
                },
                description: described.as_str().unwrap_or_default().to_owned(),
            })
        };
        self.sources.variables.iter().map(info).collect()
    }

    fn once(&self, key: &str, find: impl FnOnce() -> Result<Value, EvalError>) -> Result<Value, EvalError> {
        if let Some(known) = self.known.borrow().get(key) {
            return known.clone().unwrap_or_else(|| error(format!("{key} refers to itself")));
        }
        self.known.borrow_mut().insert(key.to_owned(), None);
        let value = find();
        self.known.borrow_mut().insert(key.to_owned(), Some(value.clone()));
        value
    }

    fn of_block(&self, name: &str, blocks: &[Block]) -> Result<Value, EvalError> {
        let default = attribute(blocks, "default").map(|e| self.evaluate(e)).transpose()?.unwrap_or_default();
        let kind = attribute(blocks, "type");
        let json_name = format!("{name}_JSON");
        let complex = match kind {
            Some(kind) => !matches!(type_name(kind).as_str(), "string" | "number" | "bool" | "any"),
            None => default.is_array() || default.is_object(),
        };
        let environment = |name: &str| (self.with.environment)(name);
        let of_json = || environment(&json_name).filter(|_| !self.sources.variables.contains_key(&json_name));
        let parsed =
            |text: String| serde_json::from_str(&text).map_err(|e| EvalError(format!("{json_name} is no JSON: {e}")));
        let value = if let Some(text) = self.with.vars.get(name) {
            given(name, text, kind, &default)?
        } else if let (true, Some(text)) = (complex, of_json()) {
            parsed(text)?
        } else if let Some(text) = environment(name) {
            given(name, &text, kind, &default)?
        } else if let Some(text) = of_json().filter(|_| kind.is_some()) {
            parsed(text)?
        } else {
            default
        };
        let value = match kind {
            Some(kind) if !value.is_null() => {
                convert(value, kind).map_err(|EvalError(why)| EvalError(format!("{name}: {why}")))?
            }
            _ => value,
        };
        // A rule speaks of the variable itself.
        for (_, rule) in blocks.iter().flat_map(|block| &block.blocks).filter(|(kind, _)| kind == "validation") {
            let bound = BTreeMap::from([(name.to_owned(), value.clone())]);
            let condition = rule.attributes.get("condition");
            let condition = condition.ok_or_else(|| EvalError(format!("a validation of {name} has no condition")))?;
            let holds = self.evaluate_with(condition, bound.clone())?;
            if !eval::boolean(&holds)? {
                let message = rule.attributes.get("error_message").map(|e| self.evaluate_with(e, bound)).transpose()?;
                let message = message.as_ref().and_then(Value::as_str).unwrap_or("the value is not allowed").to_owned();
                return error(message);
            }
        }
        Ok(value)
    }
}

/// The last one counts.
fn attribute<'b>(blocks: &'b [Block], name: &str) -> Option<&'b Expression> {
    blocks.iter().rev().find_map(|block| block.attributes.get(name))
}

/// A type as it is written.
fn type_name(kind: &Expression) -> String {
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
                hcl::expr::ObjectKey::Identifier(name) => format!("{name}={}", type_name(kind)),
                other => format!("{other}={}", type_name(kind)),
            });
            format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
        }
        other => other.to_string(),
    }
}

/// The text of a flag or of the environment as a value of this kind (SPEC B7.10).
fn given(name: &str, text: &str, kind: Option<&Expression>, default: &Value) -> Result<Value, EvalError> {
    let kind_name = kind.map(type_name);
    let wrong = |what: &str| error(format!("{name}: \"{text}\" is no {what}"));
    let as_bool = || match crate::base::values::boolean(text) {
        Some(value) => Ok(Value::Bool(value)),
        None => wrong("bool"),
    };
    let as_number = || match text.parse::<f64>() {
        Ok(value) if value.is_finite() => Ok(eval::number(value)),
        _ => wrong("number"),
    };
    match (kind_name.as_deref(), default) {
        (Some("bool"), _) | (None, Value::Bool(_)) => as_bool(),
        (Some("number"), _) | (None, Value::Number(_)) => as_number(),
        (Some("string" | "any"), _) | (None, Value::String(_) | Value::Null) => Ok(text.into()),
        (Some(kind), _) if ["list", "set", "tuple"].iter().any(|head| kind.starts_with(head)) => {
            // A list is also written as values with commas between them.
            if let Ok(value @ Value::Array(_)) = serde_json::from_str(text) {
                return Ok(value);
            }
            match crate::base::values::csv_record(text) {
                Ok(parts) => Ok(parts.into_iter().map(Value::from).collect()),
                Err(e) => wrong(&format!("list: {e}")),
            }
        }
        (Some(_), _) | (None, Value::Array(_) | Value::Object(_)) => match serde_json::from_str(text) {
            Ok(value) => Ok(value),
            Err(_) => wrong("JSON"),
        },
    }
}

/// A value as one of a type, where that can be.
fn convert(value: Value, kind: &Expression) -> Result<Value, EvalError> {
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
                    hcl::expr::ObjectKey::Identifier(name) => name.to_string(),
                    hcl::expr::ObjectKey::Expression(Expression::String(name)) => name.clone(),
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

impl Scope for Names<'_> {
    fn variable(&self, name: &str) -> Result<Value, EvalError> {
        match name {
            "BAKE_LOCAL_PLATFORM" => return Ok(self.with.local_platform.clone().into()),
            "BAKE_CMD_CONTEXT" => return Ok(self.with.command_context.clone().into()),
            _ => {}
        }
        if let Some(blocks) = self.sources.variables.get(name) {
            return self.once(name, || self.of_block(name, blocks));
        }
        if let Some(expression) = self.sources.locals.get(name) {
            return self.once(name, || self.evaluate(expression));
        }
        error(format!("there is no variable named \"{name}\""))
    }

    fn traverse(&self, name: &str, path: &[&str]) -> Option<Result<(Value, usize), EvalError>> {
        let named = match name {
            "target" => &self.sources.targets,
            "group" => &self.sources.groups,
            _ => return None,
        };
        let [block, key, ..] = path else {
            return Some(error(format!("{name} is used by its attributes: {name}.NAME.ATTRIBUTE")));
        };
        let Some(blocks) = named.get(*block) else {
            return Some(error(format!("there is no {name} named \"{block}\"")));
        };
        let Some(expression) = attribute(blocks, key) else {
            return Some(error(format!("{name} \"{block}\" has no attribute {key}")));
        };
        Some(self.once(&format!("{name}.{block}.{key}"), || self.evaluate(expression)).map(|value| (value, 2)))
    }

    fn call(&self, name: &str, args: Vec<Value>) -> Result<Value, EvalError> {
        let Some(function) = self.sources.functions.get(name) else {
            if name == "homedir" {
                let home = self.with.home.clone().map(Value::from);
                return home.ok_or_else(|| EvalError("homedir: there is no home directory".into()));
            }
            return functions::call(name, &args)
                .unwrap_or_else(|| error(format!("there is no function named \"{name}\"")));
        };
        let params = match function.attributes.get("params") {
            Some(Expression::Array(names)) => names.iter().map(type_name).collect(),
            Some(_) => return error(format!("{name}: params is a list of names")),
            None => Vec::new(),
        };
        let variadic = function.attributes.get("variadic_params").map(type_name);
        if args.len() < params.len() || (args.len() > params.len() && variadic.is_none()) {
            return error(format!("{name}: {} arguments are required, not {}", params.len(), args.len()));
        }
        let result = function.attributes.get("result").ok_or_else(|| EvalError(format!("{name} has no result")))?;
        let mut args = args.into_iter();
        let mut bound: BTreeMap<String, Value> = params.into_iter().zip(args.by_ref()).collect();
        if let Some(rest) = variadic {
            bound.insert(rest, args.collect());
        }
        if self.depth.get() >= MAX_DEPTH {
            return error(format!("{name}: functions call each other more than {MAX_DEPTH} deep"));
        }
        self.depth.set(self.depth.get() + 1);
        let value = self.evaluate_with(result, bound);
        self.depth.set(self.depth.get() - 1);
        value
    }
}
