//! Which layer of an image the files of an SPDX document came in (SPEC C8.13): a scanner sees one tree and cannot know.

use std::path::Path;

use serde_json::{Value, json};

use super::TOOL;
use crate::base::Digest;

/// Adds `layerID: DIGEST` as the comment of each file that has none and that `layer` knows. Text that a scanner wrote stays; a
/// document that lists no files is left as it is.
pub fn name_layers(document: &mut Value, layer: &dyn Fn(&Path) -> Option<Digest>) {
    let Some(files) = document.get_mut("files").and_then(Value::as_array_mut) else { return };
    let mut named = false;
    for file in files {
        let Some(file) = file.as_object_mut() else { continue };
        if file.get("comment").and_then(Value::as_str).is_some_and(|comment| !comment.is_empty()) {
            continue;
        }
        // SPDX wants `./a/b`, scanners write `/a/b` and `a/b` too.
        let Some(name) = file.get("fileName").and_then(Value::as_str) else { continue };
        let name = name.strip_prefix("./").unwrap_or(name).trim_start_matches('/');
        if let Some(digest) = layer(Path::new(name)) {
            file.insert("comment".into(), format!("layerID: {digest}").into());
            named = true;
        }
    }
    let creators = document.pointer_mut("/creationInfo/creators").and_then(Value::as_array_mut);
    if let Some(creators) = creators.filter(|_| named)
        && !creators.contains(&json!(TOOL))
    {
        creators.push(TOOL.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c8_13_files_are_told_the_layer_they_came_in() {
        let digest = Digest::sha256("layer");
        let layer = |path: &Path| (path == Path::new("etc/os-release")).then(|| digest.clone());
        let files = json!([
            {"fileName": "./etc/os-release"},
            {"fileName": "/etc/os-release", "comment": ""},
            {"fileName": "etc/os-release", "comment": "the scanner's own"},
            {"fileName": "elsewhere"},
            "nonsense",
        ]);
        let mut document = json!({"files": files, "creationInfo": {"creators": ["Tool: syft-1"]}});
        name_layers(&mut document, &layer);
        let comment = |at: usize| document["files"][at].get("comment").and_then(Value::as_str);
        let told = format!("layerID: {digest}");
        assert_eq!((comment(0), comment(1)), (Some(told.as_str()), Some(told.as_str())));
        assert_eq!((comment(2), comment(3)), (Some("the scanner's own"), None));
        assert_eq!(document["creationInfo"]["creators"], json!(["Tool: syft-1", TOOL]));
        for mut other in [json!({"files": "f g"}), json!({"packages": []}), json!(1)] {
            let before = other.clone();
            name_layers(&mut other, &layer);
            assert_eq!(other, before);
        }
    }
}
