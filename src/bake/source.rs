//! Reads bake files into blocks: HCL, HCL's JSON form (SPEC B7.14), and compose files ([`compose`]).

use hcl::expr::{Expression, Heredoc, HeredocStripMode, Object, ObjectKey, TemplateExpr};
use hcl::structure::{Body, Structure};
use indexmap::IndexMap;
use serde_json::Value;

use super::{BakeError, MAX_FILE, Surroundings, compose};

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
    /// The file that it is in.
    pub(super) file: String,
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
    /// There are compose files, which take their variables from everywhere.
    pub(super) composed: bool,
    /// What is worth saying about them.
    pub(super) warnings: Vec<String>,
}

/// What a file is written in.
enum Language {
    Hcl(Body),
    Json(Value),
    Compose,
}

impl Sources {
    pub(super) fn read(files: &[SourceFile], with: &Surroundings<'_>) -> Result<Self, BakeError> {
        let mut sources = Self::default();
        let mut composed = Vec::new();
        let mut others = Vec::new();
        for file in files {
            let fault = |reason: String| BakeError::Syntax { file: file.name.clone(), reason };
            if file.text.len() as u64 > MAX_FILE {
                return Err(fault("larger than 2 MiB".into()));
            }
            match language(file).map_err(fault)? {
                Language::Compose => composed.push(file),
                language => others.push((file, language)),
            }
        }
        // Whatever the order: bake files change what compose files say.
        if !composed.is_empty() {
            sources.composed = true;
            let mut members = Vec::new();
            let (targets, warnings) = compose::targets(&composed, with)?;
            sources.warnings = warnings;
            for (name, mut block) in targets {
                // Together they are one project, in the directory of the first.
                block.file.clone_from(&composed[0].name);
                members.push(Value::from(name.clone()));
                sources.targets.entry(name).or_default().push(block);
            }
            let targets = ("targets".to_owned(), literal(Value::Array(members)));
            let group = Block { attributes: IndexMap::from([targets]), ..Block::default() };
            sources.groups.insert("default".into(), vec![group]);
        }
        for (file, language) in others {
            let added = match language {
                Language::Hcl(body) => sources.add_body(&file.name, body),
                Language::Json(value) => sources.add_json(&file.name, value),
                Language::Compose => Ok(()),
            };
            added.map_err(|reason| BakeError::Syntax { file: file.name.clone(), reason })?;
        }
        Ok(sources)
    }

    fn add_body(&mut self, file: &str, body: Body) -> Result<(), String> {
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
                    self.add(&kind, label.as_str(), Block { file: file.into(), ..of_body(block.body.clone()) })?;
                }
            }
        }
        Ok(())
    }

    fn add_json(&mut self, file: &str, value: Value) -> Result<(), String> {
        let Value::Object(top) = value else { return Err("an object is required".into()) };
        // HCL's JSON form writes several blocks as a list, of those of a kind as of those of a name.
        let several = |value| match value {
            Value::Array(items) => items,
            one => vec![one],
        };
        for (kind, value) in top {
            if !matches!(kind.as_str(), "variable" | "function" | "group" | "target") {
                self.locals.insert(kind, expression(value));
                continue;
            }
            for named in several(value) {
                let Value::Object(named) = named else { return Err(format!("{kind} is an object of blocks")) };
                for (name, body) in named {
                    for body in several(body) {
                        self.add(&kind, &name, Block { file: file.into(), ..of_json(&kind, body)? })?;
                    }
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

/// What a file is: its name says so, or its text.
fn language(file: &SourceFile) -> Result<Language, String> {
    let hcl = || hcl::parse(&file.text).map(Language::Hcl).map_err(|e| e.to_string());
    let json = || serde_json::from_str(&file.text).map(Language::Json).map_err(|e| e.to_string());
    let name = file.name.to_ascii_lowercase();
    let ends = |ends: &[&str]| ends.iter().any(|end| name.ends_with(end));
    if ends(&[".json"]) {
        json()
    } else if ends(&[".hcl"]) {
        hcl()
    } else if ends(&[".yml", ".yaml"]) {
        Ok(Language::Compose)
    } else {
        let json = json();
        if json.is_ok() || !compose::looks_like(&file.text) { json.or_else(|_| hcl()) } else { Ok(Language::Compose) }
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

/// JSON as an expression that is nothing but it.
pub(super) fn literal(value: Value) -> Expression {
    match value {
        Value::String(text) => Expression::String(text),
        Value::Array(items) => Expression::Array(items.into_iter().map(literal).collect()),
        Value::Object(fields) => {
            let fields = fields.into_iter().map(|(key, value)| (ObjectKey::Expression(key.into()), literal(value)));
            Expression::Object(fields.collect::<Object<_, _>>())
        }
        other => expression(other),
    }
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
