//! Functions of lists, sets and objects. A set is a list whose elements are sorted and there once.

use serde_json::{Map, Value};

use super::super::eval::{self, EvalError, entries, equal, error, text};
use super::{Function, arg, list, object, size, string};

pub(super) const FUNCTIONS: &[(&str, Function)] = &[
    ("length", |a| match arg(a, 0)? {
        Value::String(text) => Ok(text.chars().count().into()),
        collection => Ok(entries(collection)?.len().into()),
    }),
    ("concat", |a| {
        let lists = (0..a.len()).map(|at| list(a, at)).collect::<Result<Vec<_>, _>>()?;
        Ok(Value::Array(lists.concat()))
    }),
    ("contains", |a| {
        Ok(entries(arg(a, 0)?)?.iter().any(|(_, item)| equal(item, &a.get(1).cloned().unwrap_or_default())).into())
    }),
    ("distinct", |a| Ok(Value::Array(distinct(list(a, 0)?)))),
    ("compact", |a| Ok(list(a, 0)?.iter().filter(|item| !item.is_null() && **item != "").cloned().collect())),
    ("flatten", |a| {
        let mut out = Vec::new();
        flatten(list(a, 0)?, &mut out);
        Ok(Value::Array(out))
    }),
    ("keys", |a| Ok(entries(arg(a, 0)?)?.into_iter().map(|(key, _)| key).collect())),
    ("values", |a| Ok(entries(arg(a, 0)?)?.into_iter().map(|(_, value)| value).collect())),
    ("lookup", |a| {
        let key = string(a, 1)?;
        let found = object(a, 0)?.get(&key).or(a.get(2)).cloned();
        found.ok_or_else(|| EvalError(format!("there is no key \"{key}\"")))
    }),
    ("merge", |a| {
        let mut out = Map::new();
        for at in 0..a.len() {
            if !a[at].is_null() {
                out.extend(object(a, at)?.clone());
            }
        }
        Ok(Value::Object(out))
    }),
    ("zipmap", |a| {
        let (keys, values) = (list(a, 0)?, list(a, 1)?);
        if keys.len() != values.len() {
            return error("as many keys as values are required");
        }
        let pairs = keys.iter().zip(values).map(|(key, value)| Ok((text(key)?, value.clone())));
        Ok(Value::Object(pairs.collect::<Result<_, EvalError>>()?))
    }),
    ("element", |a| {
        let (items, at) = (list(a, 0)?, size(a, 1)?);
        match items.len() {
            0 => error("the list is empty"),
            count => Ok(items[at % count].clone()),
        }
    }),
    ("index", |a| eval::index(arg(a, 0)?, arg(a, 1)?)),
    ("hasindex", |a| Ok(eval::index(arg(a, 0)?, arg(a, 1)?).is_ok().into())),
    ("indexof", |a| {
        let wanted = arg(a, 1)?;
        let at = list(a, 0)?.iter().position(|item| equal(item, wanted));
        at.map(Value::from).ok_or_else(|| EvalError("item not found".into()))
    }),
    ("slice", |a| {
        let (items, from, to) = (list(a, 0)?, size(a, 1)?, size(a, 2)?);
        let part = items.get(from..to);
        part.map(|part| Value::Array(part.to_vec()))
            .ok_or_else(|| EvalError(format!("there are {} elements", items.len())))
    }),
    ("sort", |a| {
        let mut texts = list(a, 0)?.iter().map(text).collect::<Result<Vec<_>, _>>()?;
        texts.sort();
        Ok(texts.into_iter().map(Value::from).collect())
    }),
    ("reverselist", |a| Ok(list(a, 0)?.iter().rev().cloned().collect())),
    ("setproduct", |a| {
        let mut rows: Vec<Vec<Value>> = vec![Vec::new()];
        for at in 0..a.len() {
            let items = list(a, at)?;
            let with = |row: &Vec<Value>| {
                items.iter().map(|item| [row.clone(), vec![item.clone()]].concat()).collect::<Vec<_>>()
            };
            rows = rows.iter().flat_map(with).collect();
            if rows.len() > 100_000 {
                return error("more than 100,000 combinations");
            }
        }
        Ok(rows.into_iter().map(Value::Array).collect())
    }),
    ("setunion", |a| {
        let lists = (0..a.len()).map(|at| list(a, at)).collect::<Result<Vec<_>, _>>()?;
        Ok(set(&lists.concat()))
    }),
    ("setintersection", |a| {
        let mut out = list(a, 0)?.to_vec();
        for at in 1..a.len() {
            let other = list(a, at)?;
            out.retain(|item| has(other, item));
        }
        Ok(set(&out))
    }),
    ("setsubtract", |a| {
        let (items, other) = (list(a, 0)?, list(a, 1)?);
        Ok(set(&items.iter().filter(|item| !has(other, item)).cloned().collect::<Vec<_>>()))
    }),
    ("setsymmetricdifference", |a| {
        let mut out: Vec<Value> = Vec::new();
        for at in 0..a.len() {
            let (items, before) = (distinct(list(a, at)?), out.clone());
            out.retain(|item| !has(&items, item));
            out.extend(items.into_iter().filter(|item| !has(&before, item)));
        }
        Ok(set(&out))
    }),
    ("sethaselement", |a| Ok(has(list(a, 0)?, arg(a, 1)?).into())),
    ("chunklist", |a| match size(a, 1)? {
        0 => Ok(Value::Array(vec![Value::Array(list(a, 0)?.to_vec())])),
        count => Ok(list(a, 0)?.chunks(count).map(|part| Value::Array(part.to_vec())).collect()),
    }),
    ("coalesce", |a| {
        let found = a.iter().find(|value| !value.is_null()).cloned();
        found.ok_or_else(|| EvalError("no argument has a value".into()))
    }),
    ("coalescelist", |a| {
        let found = a.iter().find(|value| entries(value).is_ok_and(|items| !items.is_empty())).cloned();
        found.ok_or_else(|| EvalError("no argument has elements".into()))
    }),
];

fn has(items: &[Value], wanted: &Value) -> bool {
    items.iter().any(|item| equal(item, wanted))
}

fn distinct(items: &[Value]) -> Vec<Value> {
    let mut out: Vec<Value> = Vec::new();
    for item in items {
        if !has(&out, item) {
            out.push(item.clone());
        }
    }
    out
}

fn set(items: &[Value]) -> Value {
    let mut out = distinct(items);
    out.sort_by_key(|item| text(item).unwrap_or_else(|_| item.to_string()));
    Value::Array(out)
}

fn flatten(items: &[Value], out: &mut Vec<Value>) {
    for item in items {
        match item {
            Value::Array(inner) => flatten(inner, out),
            other => out.push(other.clone()),
        }
    }
}
