//! What names mean in bake files: variables, functions, attributes of other blocks (SPEC B7.09–B7.12, B7.15).

use std::cell::{Cell, OnceCell};
use std::collections::BTreeMap;

use hcl::Expression;
use serde_json::Value;

use super::eval::{self, EvalError, Scope, error};
use super::matrix::{self, Expanded, Part};
use super::source::{Block, Sources};
use super::values::{convert, given, of_json, told, type_name, valid};
use super::{BakeError, Memory, Surroundings, VariableInfo, functions, target};

/// Functions that call each other deeper than this go in a circle.
const MAX_DEPTH: u32 = 100;

/// Names and their values.
pub(super) struct Names<'a> {
    sources: &'a Sources,
    with: &'a Surroundings<'a>,
    /// Nothing where a value is being found: who asks for it then asks in a circle.
    known: Memory<Option<Result<Value, EvalError>>>,
    depth: Cell<u32>,
    expanded: OnceCell<Result<Expanded<'a>, BakeError>>,
    /// Matrices are being evaluated: until then targets have the names that they are written with.
    expanding: Cell<bool>,
}

impl<'a> Names<'a> {
    pub(super) fn new(sources: &'a Sources, with: &'a Surroundings<'a>) -> Self {
        Self {
            sources,
            with,
            known: Memory::default(),
            depth: Cell::new(0),
            expanded: OnceCell::new(),
            expanding: Cell::new(false),
        }
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

    /// The targets as their matrices make them (SPEC B7.08).
    ///
    /// # Errors
    /// When a matrix or a name has no value, or one that cannot be used.
    pub(super) fn expanded(&self) -> Result<&Expanded<'a>, BakeError> {
        self.expanding.set(true);
        let expanded = self.expanded.get_or_init(|| matrix::expanded(&self.sources.targets, self));
        self.expanding.set(false);
        expanded.as_ref().map_err(Clone::clone)
    }

    /// What a target consists of.
    fn parts(&self, name: &str) -> Result<Option<Vec<Part<'a>>>, EvalError> {
        if self.expanding.get() {
            let blocks = self.sources.targets.get(name);
            return Ok(blocks.map(|blocks| blocks.iter().map(Part::plain).collect()));
        }
        let expanded = self.expanded().map_err(|e| EvalError(e.to_string()))?;
        Ok(expanded.targets.get(name).cloned())
    }

    /// Functions whose block says all that it has to.
    fn check_functions(&self) -> Result<(), BakeError> {
        for (name, block) in &self.sources.functions {
            for key in ["params", "result"] {
                if !block.attributes.contains_key(key) {
                    return Err(BakeError::value(format!("function \"{name}\""), format!("{key} is missing")));
                }
            }
        }
        Ok(())
    }

    /// An attribute of a target; those that it could have and has not are null.
    fn of_target(&self, name: &str, key: &str) -> Result<Value, EvalError> {
        let Some(parts) = self.parts(name)? else { return error(format!("there is no target named \"{name}\"")) };
        if key == "name" {
            return Ok(name.into());
        }
        let part = parts.iter().rev().find_map(|part| Some((part, part.block.attributes.get(key)?)));
        let (Some((part, expression)), kind) = (part, target::kind(key)) else {
            return match target::kind(key) {
                Some(_) => Ok(Value::Null),
                None => error(format!("target \"{name}\" has no attribute {key}")),
            };
        };
        let value = self.evaluate_with(expression, part.bound.clone())?;
        match (kind, value) {
            // Its parts can be asked for however it was written.
            (Some((key, target::Kind::Specs)), value) if !value.is_null() => {
                target::shaped(key, target::Kind::Specs, &value)
            }
            (Some(("context", _)), Value::String(text)) => Ok(self.beside(&part.block.file, expression, &text).into()),
            (_, value) => Ok(value),
        }
    }

    /// A path of a file as it is from where the command was called (SPEC B5.07); what another target says is that already.
    pub(super) fn beside(&self, file: &str, expression: &Expression, path: &str) -> String {
        let told = matches!(expression, Expression::Traversal(t) if matches!(&t.expr, Expression::Variable(root) if root.as_str() == "target"));
        match self.with.beside {
            Some(beside) if !told => beside(file, path),
            _ => path.to_owned(),
        }
    }

    /// Where the target's directory is, if nobody says it.
    pub(super) fn home(&self, file: &str) -> Option<String> {
        self.with.beside.map(|beside| beside(file, "."))
    }

    /// All variables, each looked at: a value that is not allowed is a mistake even if nobody uses it.
    pub(super) fn variables(&self) -> Result<Vec<VariableInfo>, BakeError> {
        self.check_functions()?;
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
                kind: attribute(blocks, "type").map(told).unwrap_or_default(),
                value: match value {
                    Value::Null => "<null>".into(),
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
            return known
                .clone()
                .unwrap_or_else(|| error(format!("variable cycle not allowed: {key} refers to itself")));
        }
        self.known.borrow_mut().insert(key.to_owned(), None);
        let value = find();
        self.known.borrow_mut().insert(key.to_owned(), Some(value.clone()));
        value
    }

    fn of_block(&self, name: &str, blocks: &[Block]) -> Result<Value, EvalError> {
        let kind = attribute(blocks, "type");
        kind.map_or(Ok(()), valid)?;
        // An attribute of the same name, of another file, is another default.
        let default = self.sources.locals.get(name).or_else(|| attribute(blocks, "default"));
        let default = match default {
            Some(expression) => self.evaluate(expression)?,
            None if kind.is_none() => Value::from(""),
            None => Value::Null,
        };
        let json_name = format!("{name}_JSON");
        let complex = match kind {
            Some(kind) => !matches!(type_name(kind).as_str(), "string" | "number" | "bool" | "any"),
            None => default.is_array() || default.is_object(),
        };
        let environment = |name: &str| (self.with.environment)(name);
        let json = || environment(&json_name).filter(|_| !self.sources.variables.contains_key(&json_name));
        let value = if let Some(text) = self.with.vars.get(name) {
            given(name, text, kind, &default)?
        } else if let (true, Some(text)) = (complex, json()) {
            of_json(name, &text, kind, &default)?
        } else if let Some(text) = environment(name) {
            given(name, &text, kind, &default)?
        } else if let Some(text) = json().filter(|_| kind.is_some()) {
            of_json(name, &text, kind, &default)?
        } else {
            match kind {
                Some(kind) if !default.is_null() => convert(default, kind).map_err(|EvalError(why)| {
                    EvalError(format!("invalid type: {name} default value is no {}: {why}", type_name(kind)))
                })?,
                _ => default,
            }
        };
        // A rule speaks of the variable itself.
        for (_, rule) in blocks.iter().flat_map(|block| &block.blocks).filter(|(kind, _)| kind == "validation") {
            let bound = BTreeMap::from([(name.to_owned(), value.clone())]);
            let condition = rule.attributes.get("condition");
            let holds = condition.map(|e| self.evaluate_with(e, bound.clone())).transpose()?.unwrap_or_default();
            if holds.is_null() {
                return error("condition expression must return either true or false, not null");
            }
            let holds = eval::boolean(&holds);
            if !holds.map_err(|EvalError(why)| EvalError(format!("invalid condition result value: {why}")))? {
                let message = rule.attributes.get("error_message").map(|e| self.evaluate_with(e, bound)).transpose()?;
                let message = message.as_ref().and_then(Value::as_str);
                return error(message.unwrap_or("this check failed, but has an invalid error message"));
            }
        }
        Ok(value)
    }
}

/// The last one counts.
fn attribute<'b>(blocks: &'b [Block], name: &str) -> Option<&'b Expression> {
    blocks.iter().rev().find_map(|block| block.attributes.get(name))
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
        if !matches!(name, "target" | "group") {
            return None;
        }
        let [block, key, ..] = path else {
            return Some(error(format!("{name} is used by its attributes: {name}.NAME.ATTRIBUTE")));
        };
        if name == "target" {
            // What is found before matrices are known is not what holds later.
            let when = if self.expanding.get() { "in a matrix, " } else { "" };
            let value = self.once(&format!("{when}target.{block}.{key}"), || self.of_target(block, key));
            return Some(value.map(|value| (value, 2)));
        }
        let Some(blocks) = self.sources.groups.get(*block) else {
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
