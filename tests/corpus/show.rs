//! Images as the lines that a case expects.
//!
//! A line of a tree: path, permission bits, then what is not usual: `UID:GID` (usual: 0:0), `@TIME` (usual: that of the
//! context; `@new` is the time of the build), `~NAME` (a hard link of that), `{KEY=VALUE}` (an extended attribute), and at
//! the end the content of a file, `-> TARGET`, `c MAJOR:MINOR`, `b MAJOR:MINOR` or `p`. Directories end with `/`.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::support::image::{Image, Node};

/// The time of what a context has no other time for.
pub const USUAL_TIME: u64 = 1_000_000_000;
/// Times from here on are those of the build.
pub const NEW: u64 = 1_700_000_000;

/// A tree with what makes entries comparable: twins by the first name in order, not by the first in the layer.
pub fn normal(image: &Image) -> BTreeMap<String, Node> {
    let mut tree = image.tree();
    // The entry of the root itself.
    tree.retain(|path, _| !path.is_empty() && path != "." && path != "/");
    let mut groups: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (path, node) in &tree {
        if !node.twin.is_empty() {
            groups.entry(node.twin.clone()).or_default().push(path.clone());
        }
    }
    for (first, mut names) in groups {
        if tree.contains_key(&first) {
            names.push(first);
        }
        names.sort();
        let head = names[0].clone();
        for name in names {
            if let Some(node) = tree.get_mut(&name) {
                node.twin = if name == head { String::new() } else { head.clone() };
            }
        }
    }
    tree
}

/// What the image has beyond `base`, and what it lacks of it.
pub fn tree(image: &BTreeMap<String, Node>, base: &BTreeMap<String, Node>) -> Vec<String> {
    let mut lines: Vec<(String, String)> = Vec::new();
    for (path, node) in image {
        // A parent that something was put in has another time and is the same otherwise.
        let same = base
            .get(path)
            .is_some_and(|b| *b == *node || (b.kind == 'd' && { Node { mtime: b.mtime, ..node.clone() } == *b }));
        if !same {
            lines.push((path.clone(), entry(path, node)));
        }
    }
    for path in base.keys().filter(|p| !image.contains_key(*p)) {
        let parent_gone =
            path.rsplit_once('/').is_some_and(|(dir, _)| base.contains_key(dir) && !image.contains_key(dir));
        if !parent_gone {
            lines.push((path.clone(), format!("- {path}")));
        }
    }
    lines.sort();
    lines.into_iter().map(|(_, line)| line).collect()
}

/// One line of a tree.
pub fn entry(path: &str, node: &Node) -> String {
    let mut line = format!("{}{}", escape(path), if node.kind == 'd' { "/" } else { "" });
    if node.kind != 'l' {
        line.push_str(&format!(" {:o}", node.mode));
    }
    if (node.uid, node.gid) != (0, 0) {
        line.push_str(&format!(" {}:{}", node.uid, node.gid));
    }
    match node.mtime {
        USUAL_TIME => {}
        NEW.. => line.push_str(" @new"),
        time => line.push_str(&format!(" @{time}")),
    }
    if !node.twin.is_empty() {
        line.push_str(&format!(" ~{}", escape(&node.twin)));
    }
    for (key, value) in &node.xattrs {
        line.push_str(&format!(" {{{key}={}}}", value.escape_ascii()));
    }
    match node.kind {
        '-' => line.push_str(&format!(" {}", content(&node.content))),
        'l' => line.push_str(&format!(" -> {}", escape(&node.link))),
        'c' | 'b' => line.push_str(&format!(" {} {}:{}", node.kind, node.device.0, node.device.1)),
        'p' => line.push_str(" p"),
        _ => {}
    }
    line
}

/// Names as they can stand in a line.
fn escape(text: &str) -> String {
    if text.len() <= 100 {
        text.to_owned()
    } else {
        format!("{}…({} bytes)", text.chars().take(20).collect::<String>(), text.len())
    }
}

fn content(bytes: &[u8]) -> String {
    if bytes.len() <= 120 {
        return format!("\"{}\"", bytes.escape_ascii());
    }
    format!("<{} bytes, {}>", bytes.len(), &rbuild::base::Digest::sha256(bytes).hex()[..12])
}

/// What is configured beyond the base.
pub fn config(image: &Value, base: &Value) -> Vec<String> {
    let empty = serde_json::Map::new();
    let of = |v: &Value| v["config"].as_object().unwrap_or(&empty).clone();
    let (image, base) = (of(image), of(base));
    let mut lines = Vec::new();
    for key in image.keys().chain(base.keys()).collect::<std::collections::BTreeSet<_>>() {
        let unset = |v: Option<&Value>| v.filter(|v| !is_unset(v)).cloned();
        let (ours, theirs) = (unset(image.get(key)), unset(base.get(key)));
        if ours != theirs {
            lines.push(ours.map_or_else(|| format!("- {key}"), |v| format!("{key} {v}")));
        }
    }
    lines
}

/// Whether a setting says nothing: some builders write it then, others leave it out.
pub fn is_unset(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

/// History entries after those of the base.
pub fn history(image: &Value, base: &Value) -> Vec<String> {
    let entries = |v: &Value| v["history"].as_array().cloned().unwrap_or_default();
    let skip = entries(base).len();
    let text = |e: &Value| {
        let empty = if e["empty_layer"] == true { " (empty)" } else { "" };
        format!("{}{empty}", e["created_by"].as_str().unwrap_or("?").replace('\n', "\\n"))
    };
    entries(image).iter().skip(skip).map(text).collect()
}

/// The entries of each layer above the base, as they are in its archive.
pub fn layers(image: &Image, base: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for (i, layer) in image.layers.iter().skip(base).enumerate() {
        let names: Vec<String> = layer
            .iter()
            .map(|(p, n)| match n.kind {
                'd' => format!("{p}/"),
                'h' => format!("{p}=>{}", n.link),
                _ => p.clone(),
            })
            .collect();
        lines.push(format!("{}: {}", i + 1, names.join(" ")).trim_end().to_owned());
    }
    lines
}
