//! The stages of a file (SPEC A10.29).

use serde_json::{Value, json};

use super::super::error::FrontendError;
use super::super::options::FrontendInput;
use super::super::pipeline::Source;
use super::table::table;
use super::{Answer, base64, location, put};
use crate::dockerfile::Stages;

/// What is written behind the first FROM of the stages below a stage.
fn root<'a>(stages: &Stages<'a>, index: usize) -> &'a str {
    let mut stage = &stages.all()[index];
    while let Some(below) = stages.all()[..stage.index]
        .iter()
        .rev()
        .find(|below| below.name.as_ref().is_some_and(|name| name.eq_ignore_ascii_case(&stage.base.text)))
    {
        stage = below;
    }
    stage.base.text.as_str()
}

/// Lists the stages in order; the last is the default.
pub(super) fn targets(input: &FrontendInput<'_>) -> Result<Answer, FrontendError> {
    let source = Source::read(input)?;
    let stages = Stages::new(&source.file);
    let mut list = Vec::new();
    let mut rows = vec![["TARGET".to_owned(), "DESCRIPTION".to_owned()]];
    for stage in stages.all() {
        let default = stage.index + 1 == stages.all().len();
        let name = stage.name.as_deref().unwrap_or_default();
        let description = stage.from.description(name).unwrap_or_default();
        let mut target = json!({});
        put(&mut target, "name", name);
        put(&mut target, "default", default);
        put(&mut target, "description", description);
        put(&mut target, "base", root(&stages, stage.index));
        put(&mut target, "platform", stage.platform.map(|platform| platform.text.as_str()));
        put(&mut target, "location", location(stage.from.lines));
        list.push(target);
        let shown = match (name, default) {
            ("", true) => "(default)".to_owned(),
            (name, true) => format!("{name} (default)"),
            (name, false) => name.to_owned(),
        };
        rows.push([shown, description.to_owned()]);
    }
    let rows: Vec<[&str; 2]> = rows.iter().map(|[name, text]| [name.as_str(), text.as_str()]).collect();
    let json = json!({"targets": Value::Array(list), "sources": [base64(input.source)]});
    Ok(Answer { json, text: table(&rows), status: 0 })
}
