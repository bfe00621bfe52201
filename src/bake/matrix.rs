//! What a matrix makes of a target (SPEC B7.08): one target for each combination of its values, each with a name of its own.

use std::collections::BTreeMap;

use indexmap::IndexMap;
use serde_json::Value;

use super::scope::Names;
use super::source::Block;
use super::{BakeError, eval, is_name};

/// More combinations are a mistake.
const MAX_COMBINATIONS: usize = 10_000;

/// A block of a target, and what the names of its matrix stand for in it.
#[derive(Debug, Clone)]
pub(super) struct Part<'a> {
    pub(super) block: &'a Block,
    pub(super) bound: BTreeMap<String, Value>,
}

impl<'a> Part<'a> {
    /// One without a matrix.
    pub(super) fn plain(block: &'a Block) -> Self {
        Self { block, bound: BTreeMap::new() }
    }
}

/// Targets by the names that they are built by.
#[derive(Debug, Default)]
pub(super) struct Expanded<'a> {
    pub(super) targets: IndexMap<String, Vec<Part<'a>>>,
    /// What the name that a matrix is written below stands for, if it is none of its targets.
    pub(super) groups: IndexMap<String, Vec<String>>,
}

/// Block by block: those that come to have the same name are one target.
pub(super) fn expanded<'a>(
    sources: &'a IndexMap<String, Vec<Block>>,
    names: &Names<'_>,
) -> Result<Expanded<'a>, BakeError> {
    let mut out = Expanded::default();
    for (label, block) in sources.iter().flat_map(|(label, blocks)| blocks.iter().map(move |block| (label, block))) {
        let place = format!("target \"{label}\", name");
        let naming = block.attributes.get("name");
        let Some(rows) = rows(label, block, names)? else {
            if naming.is_some() {
                return Err(BakeError::value(place, "a name requires matrix: it tells apart what a matrix makes"));
            }
            out.targets.entry(label.clone()).or_default().push(Part::plain(block));
            continue;
        };
        let several = rows.len() > 1;
        let mut made = Vec::new();
        for bound in rows {
            let own = match naming {
                Some(naming) => {
                    let value = names.evaluate_with(naming, bound.clone());
                    value.and_then(|value| eval::text(&value)).map_err(|e| BakeError::value(&place, e))?
                }
                None if several => return Err(BakeError::value(place, "a target with a matrix needs a name")),
                None => label.clone(),
            };
            if !is_name(&own) {
                return Err(BakeError::value(place, format!("invalid name \"{own}\": letters, digits, _ and - only")));
            }
            if made.contains(&own) {
                return Err(BakeError::value(place, format!("duplicate name \"{own}\"")));
            }
            out.targets.entry(own.clone()).or_default().push(Part { block, bound });
            made.push(own);
        }
        made.retain(|own| own != label);
        if !made.is_empty() {
            out.groups.entry(label.clone()).or_default().extend(made);
        }
    }
    Ok(out)
}

/// The combinations of a matrix; `None` without one.
fn rows(label: &str, block: &Block, names: &Names<'_>) -> Result<Option<Vec<BTreeMap<String, Value>>>, BakeError> {
    let place = || format!("target \"{label}\", matrix");
    let Some(expression) = block.attributes.get("matrix") else { return Ok(None) };
    let value = names.evaluate(expression).map_err(|e| BakeError::value(place(), e))?;
    let Value::Object(axes) = value else { return Err(BakeError::value(place(), "a map of lists is required")) };
    let axes: BTreeMap<String, Value> = axes.into_iter().collect();
    let mut all = vec![BTreeMap::new()];
    for (axis, values) in axes {
        let Value::Array(values) = values else {
            return Err(BakeError::value(place(), format!("{axis} is no list")));
        };
        let with = |row: &BTreeMap<String, Value>| {
            let more = |value: &Value| {
                let mut row = row.clone();
                row.insert(axis.clone(), value.clone());
                row
            };
            values.iter().map(more).collect::<Vec<_>>()
        };
        all = all.iter().flat_map(with).collect();
        if all.len() > MAX_COMBINATIONS {
            return Err(BakeError::value(place(), "more than 10,000 combinations"));
        }
    }
    Ok(Some(all))
}
