//! Evaluates HCL expressions (SPEC B7.14). Values are JSON: objects are taken in the order of their keys, as HCL has them.

use std::collections::BTreeMap;

use hcl::expr::{
    BinaryOp, BinaryOperator, Expression, ForExpr, ObjectKey, Operation, Traversal, TraversalOperator, UnaryOperator,
};
use hcl::template::{Directive, Element, Strip, Template};
use serde_json::{Map, Value};

/// Why an expression has no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct EvalError(pub String);

/// What names mean where an expression stands.
pub(super) trait Scope {
    /// The value of a variable.
    fn variable(&self, name: &str) -> Result<Value, EvalError>;
    /// An attribute of what a name stands for, for those that are not evaluated as a whole (`target.app.tags`); `None` for others.
    fn traverse(&self, name: &str, path: &[&str]) -> Option<Result<(Value, usize), EvalError>>;
    /// The result of a function.
    fn call(&self, name: &str, args: Vec<Value>) -> Result<Value, EvalError>;
}

/// A scope with more names.
struct Inner<'a> {
    outer: &'a dyn Scope,
    bound: BTreeMap<String, Value>,
}

impl Scope for Inner<'_> {
    fn variable(&self, name: &str) -> Result<Value, EvalError> {
        self.bound.get(name).map_or_else(|| self.outer.variable(name), |value| Ok(value.clone()))
    }

    fn traverse(&self, name: &str, path: &[&str]) -> Option<Result<(Value, usize), EvalError>> {
        if self.bound.contains_key(name) { None } else { self.outer.traverse(name, path) }
    }

    fn call(&self, name: &str, args: Vec<Value>) -> Result<Value, EvalError> {
        self.outer.call(name, args)
    }
}

pub(super) fn error<T>(message: impl Into<String>) -> Result<T, EvalError> {
    Err(EvalError(message.into()))
}

/// A number as JSON: whole where it is.
pub(super) fn number(value: f64) -> Value {
    #[allow(clippy::cast_possible_truncation, reason = "whole and small enough")]
    if value.fract() == 0.0 && value.abs() < 9e15 {
        return Value::from(value as i64);
    }
    serde_json::Number::from_f64(value).map_or(Value::Null, Value::Number)
}

/// What a value is called.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "list",
        Value::Object(_) => "object",
    }
}

/// A value as text, where it has one.
pub(super) fn text(value: &Value) -> Result<String, EvalError> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Bool(_) | Value::Number(_) => Ok(value.to_string()),
        other => error(format!("a string is required, not {}", kind(other))),
    }
}

/// A value as a number, where it is one.
pub(super) fn float(value: &Value) -> Result<f64, EvalError> {
    let parsed = match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    };
    parsed.ok_or_else(|| EvalError(format!("a number is required, not {value}")))
}

/// A value as a truth value, where it is one.
pub(super) fn boolean(value: &Value) -> Result<bool, EvalError> {
    match value {
        Value::Bool(value) => Ok(*value),
        Value::String(text) if text == "true" => Ok(true),
        Value::String(text) if text == "false" => Ok(false),
        other => error(format!("a bool is required, not {}", kind(other))),
    }
}

/// Keys and values of a collection, in HCL's order.
pub(super) fn entries(value: &Value) -> Result<Vec<(Value, Value)>, EvalError> {
    match value {
        Value::Array(items) => Ok(items.iter().enumerate().map(|(at, item)| (Value::from(at), item.clone())).collect()),
        Value::Object(fields) => {
            let sorted: BTreeMap<&String, &Value> = fields.iter().collect();
            Ok(sorted.into_iter().map(|(key, value)| (Value::from(key.clone()), value.clone())).collect())
        }
        other => error(format!("a collection is required, not {}", kind(other))),
    }
}

/// The value of an expression.
pub(super) fn evaluate(expression: &Expression, scope: &dyn Scope) -> Result<Value, EvalError> {
    match expression {
        Expression::Null => Ok(Value::Null),
        Expression::Bool(value) => Ok(Value::Bool(*value)),
        Expression::Number(value) => {
            Ok(value.as_i64().map_or_else(|| number(value.as_f64().unwrap_or_default()), Value::from))
        }
        Expression::String(value) => Ok(Value::String(value.clone())),
        Expression::Array(items) => items.iter().map(|item| evaluate(item, scope)).collect(),
        Expression::Object(fields) => {
            let mut out = Map::new();
            for (key, value) in fields {
                let key = match key {
                    ObjectKey::Identifier(name) => name.to_string(),
                    ObjectKey::Expression(key) => text(&evaluate(key, scope)?)?,
                    _ => return error("an object key of an unknown kind"),
                };
                out.insert(key, evaluate(value, scope)?);
            }
            Ok(Value::Object(out))
        }
        Expression::TemplateExpr(template) => {
            let template = Template::from_expr(template).map_err(|e| EvalError(e.to_string()))?;
            self::template(&template, scope)
        }
        Expression::Variable(name) => scope.variable(name.as_str()),
        Expression::Traversal(traversal) => traverse(traversal, scope),
        Expression::FuncCall(call) => {
            let name = call.name.name.as_str();
            // These two look at whether their arguments have values.
            match name {
                "can" if call.args.len() == 1 => return Ok(Value::Bool(evaluate(&call.args[0], scope).is_ok())),
                "try" => {
                    let found = call.args.iter().find_map(|arg| evaluate(arg, scope).ok());
                    return found.ok_or_else(|| EvalError("try: no argument has a value".into()));
                }
                _ => {}
            }
            let mut args = call.args.iter().map(|arg| evaluate(arg, scope)).collect::<Result<Vec<_>, _>>()?;
            if call.expand_final {
                match args.pop() {
                    Some(Value::Array(last)) => args.extend(last),
                    _ => return error(format!("{name}: a list is required before ...")),
                }
            }
            scope.call(name, args)
        }
        Expression::Parenthesis(inner) => evaluate(inner, scope),
        Expression::Conditional(choice) => match boolean(&evaluate(&choice.cond_expr, scope)?)? {
            true => evaluate(&choice.true_expr, scope),
            false => evaluate(&choice.false_expr, scope),
        },
        Expression::Operation(operation) => match operation.as_ref() {
            Operation::Unary(unary) => {
                let value = evaluate(&unary.expr, scope)?;
                match unary.operator {
                    UnaryOperator::Neg => Ok(number(-float(&value)?)),
                    UnaryOperator::Not => Ok(Value::Bool(!boolean(&value)?)),
                }
            }
            Operation::Binary(binary) => operate(binary, scope),
        },
        Expression::ForExpr(each) => collect(each, scope),
        _ => error("an expression of an unknown kind"),
    }
}

fn operate(binary: &BinaryOp, scope: &dyn Scope) -> Result<Value, EvalError> {
    use BinaryOperator as Op;
    let (left, right) = (evaluate(&binary.lhs_expr, scope)?, evaluate(&binary.rhs_expr, scope)?);
    let numbers = || Ok::<_, EvalError>((float(&left)?, float(&right)?));
    let arithmetic = |f: fn(f64, f64) -> f64| numbers().map(|(a, b)| number(f(a, b)));
    let compare = |f: fn(&f64, &f64) -> bool| numbers().map(|(a, b)| Value::Bool(f(&a, &b)));
    match binary.operator {
        Op::Eq => Ok(Value::Bool(equal(&left, &right))),
        Op::NotEq => Ok(Value::Bool(!equal(&left, &right))),
        Op::And => Ok(Value::Bool(boolean(&left)? && boolean(&right)?)),
        Op::Or => Ok(Value::Bool(boolean(&left)? || boolean(&right)?)),
        Op::Plus => arithmetic(|a, b| a + b),
        Op::Minus => arithmetic(|a, b| a - b),
        Op::Mul => arithmetic(|a, b| a * b),
        Op::Div | Op::Mod if float(&right)? == 0.0 => error("division by zero"),
        Op::Div => arithmetic(|a, b| a / b),
        Op::Mod => arithmetic(|a, b| a % b),
        Op::Less => compare(f64::lt),
        Op::LessEq => compare(f64::le),
        Op::Greater => compare(f64::gt),
        Op::GreaterEq => compare(f64::ge),
    }
}

/// Equality of HCL: numbers by value.
pub(super) fn equal(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| equal(a, b)))
        }
        _ => left == right,
    }
}

fn collect(each: &ForExpr, scope: &dyn Scope) -> Result<Value, EvalError> {
    let (mut list, mut object) = (Vec::new(), Map::new());
    for (key, value) in entries(&evaluate(&each.collection_expr, scope)?)? {
        let inner = bind(scope, each.key_var.as_ref().map(|name| name.as_str()), each.value_var.as_str(), key, value);
        if let Some(condition) = &each.cond_expr
            && !boolean(&evaluate(condition, &inner)?)?
        {
            continue;
        }
        let value = evaluate(&each.value_expr, &inner)?;
        let Some(key) = &each.key_expr else {
            list.push(value);
            continue;
        };
        let key = text(&evaluate(key, &inner)?)?;
        match (each.grouping, object.get_mut(&key)) {
            (true, Some(Value::Array(group))) => group.push(value),
            (true, _) => {
                object.insert(key, Value::Array(vec![value]));
            }
            (false, Some(_)) => return error(format!("for: two values for the key \"{key}\"")),
            (false, None) => {
                object.insert(key, value);
            }
        }
    }
    Ok(if each.key_expr.is_some() { Value::Object(object) } else { Value::Array(list) })
}

fn bind<'a>(outer: &'a dyn Scope, key_name: Option<&str>, value_name: &str, key: Value, value: Value) -> Inner<'a> {
    let mut bound = BTreeMap::from([(value_name.to_owned(), value)]);
    if let Some(name) = key_name {
        bound.insert(name.to_owned(), key);
    }
    Inner { outer, bound }
}

/// A scope with these names beside the ones of `outer`.
pub(super) fn with_names<T>(
    outer: &dyn Scope,
    bound: BTreeMap<String, Value>,
    work: impl FnOnce(&dyn Scope) -> Result<T, EvalError>,
) -> Result<T, EvalError> {
    work(&Inner { outer, bound })
}

fn traverse(traversal: &Traversal, scope: &dyn Scope) -> Result<Value, EvalError> {
    let operators = traversal.operators.as_slice();
    if let Expression::Variable(name) = &traversal.expr {
        let mut path = Vec::new();
        for operator in operators {
            match operator {
                TraversalOperator::GetAttr(name) => path.push(name.as_str()),
                TraversalOperator::Index(Expression::String(name)) => path.push(name.as_str()),
                _ => break,
            }
        }
        if let Some(found) = scope.traverse(name.as_str(), &path) {
            let (value, used) = found?;
            return steps(value, &operators[used..], scope);
        }
    }
    steps(evaluate(&traversal.expr, scope)?, operators, scope)
}

fn steps(mut value: Value, operators: &[TraversalOperator], scope: &dyn Scope) -> Result<Value, EvalError> {
    for (at, operator) in operators.iter().enumerate() {
        value = match operator {
            TraversalOperator::GetAttr(name) => attribute(&value, name.as_str())?,
            TraversalOperator::Index(index) => self::index(&value, &evaluate(index, scope)?)?,
            TraversalOperator::LegacyIndex(index) => self::index(&value, &Value::from(*index))?,
            TraversalOperator::AttrSplat | TraversalOperator::FullSplat => {
                let items = match value {
                    Value::Array(items) => items,
                    Value::Null => Vec::new(),
                    single => vec![single],
                };
                let rest = &operators[at + 1..];
                // What follows `.*` up to an index belongs to each; all that follows `[*]` does.
                let own = match operator {
                    TraversalOperator::AttrSplat => {
                        rest.iter().take_while(|op| matches!(op, TraversalOperator::GetAttr(_))).count()
                    }
                    _ => rest.len(),
                };
                let each = items.into_iter().map(|item| steps(item, &rest[..own], scope));
                let all = Value::Array(each.collect::<Result<_, _>>()?);
                return steps(all, &rest[own..], scope);
            }
        };
    }
    Ok(value)
}

fn attribute(value: &Value, name: &str) -> Result<Value, EvalError> {
    match value {
        Value::Object(fields) => match fields.get(name) {
            Some(value) => Ok(value.clone()),
            None => error(format!("this object does not have an attribute named \"{name}\"")),
        },
        other => error(format!("cannot access attribute \"{name}\" of {}", kind(other))),
    }
}

/// An element of a list or an object.
pub(super) fn index(value: &Value, key: &Value) -> Result<Value, EvalError> {
    match value {
        Value::Array(items) => {
            let at = float(key)?;
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "looked at before")]
            let item = if at >= 0.0 && at.fract() == 0.0 { items.get(at as usize) } else { None };
            item.cloned()
                .ok_or_else(|| EvalError(format!("invalid index {key}: the list has {} elements", items.len())))
        }
        Value::Object(fields) => {
            let key = text(key)?;
            fields.get(&key).cloned().ok_or_else(|| EvalError(format!("invalid index: there is no key \"{key}\"")))
        }
        other => error(format!("{} has no elements", kind(other))),
    }
}

/// A template's text. One that is nothing but an interpolation has that value itself.
pub(super) fn template(template: &Template, scope: &dyn Scope) -> Result<Value, EvalError> {
    if let [Element::Interpolation(only)] = template.elements() {
        return evaluate(&only.expr, scope);
    }
    render(template, scope, Strip::None, Strip::None).map(Value::String)
}

/// `before` and `after` are the markers that stand around the template.
fn render(template: &Template, scope: &dyn Scope, before: Strip, after: Strip) -> Result<String, EvalError> {
    let elements = template.elements();
    let mut out = String::new();
    for (at, element) in elements.iter().enumerate() {
        match element {
            Element::Literal(text) => {
                let left = match at.checked_sub(1).map(|at| &elements[at]) {
                    Some(element) => ends_with_strip(element),
                    None => before.strip_end(),
                };
                let right = match elements.get(at + 1) {
                    Some(element) => begins_with_strip(element),
                    None => after.strip_start(),
                };
                let text = if left { text.trim_start() } else { text };
                out.push_str(if right { text.trim_end() } else { text });
            }
            Element::Interpolation(part) => out.push_str(&text(&evaluate(&part.expr, scope)?)?),
            Element::Directive(directive) => match directive.as_ref() {
                Directive::If(choice) => {
                    if boolean(&evaluate(&choice.cond_expr, scope)?)? {
                        let end = if choice.false_template.is_some() { choice.else_strip } else { choice.endif_strip };
                        out.push_str(&render(&choice.true_template, scope, choice.if_strip, end)?);
                    } else if let Some(other) = &choice.false_template {
                        out.push_str(&render(other, scope, choice.else_strip, choice.endif_strip)?);
                    }
                }
                Directive::For(each) => {
                    for (key, value) in entries(&evaluate(&each.collection_expr, scope)?)? {
                        let name = each.key_var.as_ref().map(|name| name.as_str());
                        let inner = bind(scope, name, each.value_var.as_str(), key, value);
                        out.push_str(&render(&each.template, &inner, each.for_strip, each.endfor_strip)?);
                    }
                }
            },
        }
    }
    Ok(out)
}

fn begins_with_strip(element: &Element) -> bool {
    match element {
        Element::Literal(_) => false,
        Element::Interpolation(part) => part.strip.strip_start(),
        Element::Directive(directive) => match directive.as_ref() {
            Directive::If(choice) => choice.if_strip.strip_start(),
            Directive::For(each) => each.for_strip.strip_start(),
        },
    }
}

fn ends_with_strip(element: &Element) -> bool {
    match element {
        Element::Literal(_) => false,
        Element::Interpolation(part) => part.strip.strip_end(),
        Element::Directive(directive) => match directive.as_ref() {
            Directive::If(choice) => choice.endif_strip.strip_end(),
            Directive::For(each) => each.endfor_strip.strip_end(),
        },
    }
}
