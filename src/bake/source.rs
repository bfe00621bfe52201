//! Reads bake files into blocks: HCL, and HCL's JSON form (SPEC B7.14).

use hcl::expr::{Expression, Heredoc, HeredocStripMode, Object, ObjectKey, TemplateExpr};
use hcl::structure::{Body, Structure};
use indexmap::IndexMap;
use serde_json::Value;

use super::{BakeError, MAX_FILE};

/// A bake file.
#[derive(Debug, Clone)]
pub struct SourceFile {
    /// Its name, which says what it is.
    pub name: String,
    /// Its text.
    pub text: String,
}

/// Attributes, and the blocks inside.
#[derive(Debug, Clone, Default)]
pub(super) struct Block {
    pub(super) attributes: IndexMap<String, Expression>,
    pub(super) blocks: Vec<(String, Block)>,
}

/// What the files say, by kind and name; a name may have several blocks, of several files.
#[derive(Debug, Default)]
pub(super) struct Sources {
    pub(super) variables: IndexMap<String, Vec<Block>>,
    pub(super) functions: IndexMap<String, Block>,
    pub(super) groups: IndexMap<String, Vec<Block>>,
    pub(super) targets: IndexMap<String, Vec<Block>>,
    /// Other attributes at the top (SPEC B7.11).
    pub(super) locals: IndexMap<String, Expression>,
}

impl Sources {
    pub(super) fn read(files: &[SourceFile]) -> Result<Self, BakeError> {
        let mut sources = Self::default();
        for file in files {
            let fault = |reason: String| BakeError::Syntax { file: file.name.clone(), reason };
            if file.text.len() as u64 > MAX_FILE {
                return Err(fault("larger than 2 MiB".into()));
            }
            let hcl = |text: &str| hcl::parse(text).map_err(|e| fault(e.to_string()));
            let json = |text: &str| serde_json::from_str::<Value>(text).map_err(|e| fault(e.to_string()));
            let name = file.name.to_ascii_lowercase();
            if name.ends_with(".json") {
                sources.add_json(json(&file.text)?).map_err(fault)?;
            } else if name.ends_with(".hcl") {
                sources.add_body(hcl(&file.text)?).map_err(fault)?;
            } else if name.ends_with(".yml") || name.ends_with(".yaml") {
                return Err(fault("compose files are not supported, only HCL and JSON".into()));
            } else {
                // Standard input does not say: HCL, or what is JSON.
                match serde_json::from_str::<Value>(&file.text) {
                    Ok(value) => sources.add_json(value).map_err(fault)?,
                    Err(_) => sources.add_body(hcl(&file.text)?).map_err(fault)?,
                }
            }
        }
        Ok(sources)
    }

    fn add_body(&mut self, body: Body) -> Result<(), String> {
        for structure in body {
            match structure {
                Structure::Attribute(attribute) => {
                    self.locals.insert(attribute.key.to_string(), attribute.expr);
                }
                Structure::Block(block) => {
                    let kind = block.identifier.to_string();
                    let [label] = block.labels.as_slice() else {
                        return Err(format!("a block {kind} needs one name: {kind} \"NAME\" {{ … }}"));
                    };
                    self.add(&kind, label.as_str(), of_body(block.body.clone()))?;
                }
            }
        }
        Ok(())
    }

    fn add_json(&mut self, value: Value) -> Result<(), String> {
        let Value::Object(top) = value else { return Err("an object is required".into()) };
        for (kind, value) in top {
            match (kind.as_str(), value) {
                ("variable" | "function" | "group" | "target", Value::Object(named)) => {
                    for (name, body) in named {
                        // HCL's JSON form writes several blocks of a name as a list.
                        let bodies = match body {
                            Value::Array(bodies) => bodies,
                            one => vec![one],
                        };
                        for body in bodies {
                            self.add(&kind, &name, of_json(&kind, body)?)?;
                        }
                    }
                }
                (_, value) => {
                    self.locals.insert(kind, expression(value));
                }
            }
        }
        Ok(())
    }

    fn add(&mut self, kind: &str, name: &str, block: Block) -> Result<(), String> {
        let several = match kind {
            "variable" => &mut self.variables,
            "group" => &mut self.groups,
            "target" => &mut self.targets,
            "function" => {
                self.functions.insert(name.to_owned(), block);
                return Ok(());
            }
            other => {
                return Err(format!(
                    "unsupported block type \"{other}\": variable, function, group and target are known"
                ));
            }
        };
        several.entry(name.to_owned()).or_default().push(block);
        Ok(())
    }
}

fn of_body(body: Body) -> Block {
    let mut block = Block::default();
    for structure in body {
        match structure {
            Structure::Attribute(attribute) => {
                block.attributes.insert(attribute.key.to_string(), attribute.expr);
            }
            Structure::Block(inner) => block.blocks.push((inner.identifier.to_string(), of_body(inner.body.clone()))),
        }
    }
    block
}

fn of_json(kind: &str, body: Value) -> Result<Block, String> {
    let Value::Object(fields) = body else { return Err(format!("a {kind} is an object")) };
    let mut block = Block::default();
    for (key, value) in fields {
        match (key.as_str(), value) {
            ("validation", Value::Array(rules)) => {
                for rule in rules {
                    block.blocks.push((key.clone(), of_json("validation", rule)?));
                }
            }
            ("validation", rule) => block.blocks.push((key, of_json("validation", rule)?)),
            // Names of parameters are names.
            ("params", Value::Array(names)) => {
                let names = names.iter().filter_map(Value::as_str).map(|name| Expression::String(name.to_owned()));
                block.attributes.insert(key, Expression::Array(names.collect()));
            }
            (_, value) => {
                block.attributes.insert(key, expression(value));
            }
        }
    }
    Ok(block)
}

/// JSON as an expression: its strings are templates.
fn expression(value: Value) -> Expression {
    match value {
        Value::Null => Expression::Null,
        Value::Bool(value) => Expression::Bool(value),
        Value::Number(number) => Expression::from(number.as_f64().unwrap_or_default()),
        Value::String(text) if !text.contains("${") && !text.contains("%{") => Expression::String(text),
        Value::String(text) => {
            // A heredoc's text has no escapes of its own.
            let delimiter = hcl::Identifier::unchecked("JSON");
            let heredoc = Heredoc { delimiter, template: text, strip: HeredocStripMode::None };
            Expression::from(TemplateExpr::Heredoc(heredoc))
        }
        Value::Array(items) => Expression::Array(items.into_iter().map(expression).collect()),
        Value::Object(fields) => {
            let fields = fields.into_iter().map(|(key, value)| (ObjectKey::Expression(key.into()), expression(value)));
            Expression::Object(fields.collect::<Object<_, _>>())
        }
    }
}
