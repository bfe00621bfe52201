//! `rbuild imagetools`: images in registries (SPEC B8.01, B8.02).

use std::collections::HashMap;
use std::path::Path;

use gtmpl::{FuncError, Value as Go};
use serde_json::{Map, Value, json};

use super::args::{Imagetools, ImagetoolsCreate, ImagetoolsInspect};
use super::errors::Failure;
use super::image_commands::{failure, platform, shown, usage};
use super::runtime::runtime;
use super::worker::Inside;
use super::{print, template};
use crate::base::budget::Budget;
use crate::base::{Events, FaultKind, file};
use crate::images::remote::{Combination, Combined, Details, Looked, Part, Place, RemoteImages};
use crate::oci::{Descriptor, Platform};

/// Keeps what a Go struct is as JSON beside its fields; no document has such a key.
const AS_JSON: &str = "\0json";

pub(super) fn run(inside: &Inside, command: &Imagetools) -> Result<u8, Failure> {
    match command {
        Imagetools::Create(args) => create(inside, args),
        Imagetools::Inspect(args) => inspect(inside, args),
    }
}

fn create(inside: &Inside, args: &ImagetoolsCreate) -> Result<u8, Failure> {
    let wish = wish(args)?;
    let (combined, quiet) = shown(inside, &args.progress, async |events| {
        let images = RemoteImages::new(inside.client(events.clone())?, events);
        let combined = images.combine(&wish).await.map_err(|e| failure(&e))?;
        if !args.dry_run {
            images.publish(&combined, &wish.targets).await.map_err(|e| failure(&e))?;
        }
        Ok(combined)
    })?;
    if args.dry_run {
        return print(&format!("{}\n", String::from_utf8_lossy(&combined.bytes)));
    }
    if let Some(path) = &args.metadata_file {
        write_metadata(path, &combined, &wish.targets)?;
    }
    if quiet { print(&format!("{}\n", combined.descriptor.digest)) } else { Ok(0) }
}

/// What the command line asks for.
fn wish(args: &ImagetoolsCreate) -> Result<Combination, Failure> {
    let place = |text: &String| Place::parse(text).map_err(|e| failure(&e));
    let targets = args.tag.iter().map(place).collect::<Result<Vec<_>, _>>()?;
    if targets.is_empty() && args.append {
        return Err(usage("--append: there is nothing to append to").hint("name it with --tag"));
    }
    if args.sources.is_empty() && args.file.is_empty() {
        return Err(usage("no sources specified"));
    }
    if targets.is_empty() && !args.dry_run {
        return Err(usage("can't push with no tags specified, please set --tag or --dry-run"));
    }
    for (text, target) in args.tag.iter().zip(&targets) {
        let pinned = match target {
            Place::Registry(reference) => reference.digest.is_some(),
            Place::Layout(_) => text.contains("@sha256:"),
        };
        if pinned {
            return Err(usage(format!("--tag: cannot write to {text}: a digest is no name")));
        }
    }
    let mut wish = Combination { prefer_index: args.prefer_index, ..Combination::default() };
    for annotation in &args.annotation {
        if annotation.split_once('=').is_some_and(|(key, _)| !key.contains(':') || key.starts_with("manifest:")) {
            let rule = "an image that exists keeps its manifest";
            return Err(usage(format!("--annotation: \"manifest\" annotations are not supported here: {rule}"))
                .hint("write index:KEY=VALUE or manifest-descriptor:KEY=VALUE"));
        }
        wish.annotations.flag(annotation).map_err(|e| usage(format!("--annotation: {e}")))?;
    }
    for text in &args.platform {
        wish.platforms.push(platform(Some(text))?);
    }
    if args.append {
        wish.sources.extend(targets.first().cloned().map(Part::of));
    }
    for path in &args.file {
        let text = std::fs::read_to_string(path)
            .map_err(|e| Failure::new(FaultKind::Usage, format!("--file: cannot read {}: {e}", path.display())))?;
        wish.sources.push(Part::parse(&text).map_err(|e| failure(&e))?);
    }
    for source in &args.sources {
        wish.sources.push(Part::parse(source).map_err(|e| failure(&e))?);
    }
    wish.targets = targets;
    Ok(wish)
}

fn write_metadata(path: &Path, combined: &Combined, targets: &[Place]) -> Result<(), Failure> {
    let names: Vec<String> = targets.iter().map(ToString::to_string).collect();
    let metadata = json!({
        "containerimage.descriptor": combined.descriptor,
        "containerimage.digest": combined.descriptor.digest,
        "image.name": names.join(","),
    });
    let text = serde_json::to_string_pretty(&metadata).unwrap_or_default();
    file::write_atomic(path, text.as_bytes())
        .map_err(|e| Failure::new(FaultKind::Store, format!("--metadata-file: cannot write {}: {e}", path.display())))
}

fn inspect(inside: &Inside, args: &ImagetoolsInspect) -> Result<u8, Failure> {
    if args.raw && args.format.is_some() {
        return Err(usage("format and raw cannot be used together"));
    }
    let place = Place::parse(&args.name).map_err(|e| failure(&e))?;
    let images = RemoteImages::new(inside.client(Events::none())?, Events::none());
    let runtime = runtime(Budget::detect())?;
    let looked = runtime.block_on(images.look(&place)).map_err(|e| failure(&e))?;
    if args.raw {
        return print(&String::from_utf8_lossy(&looked.bytes));
    }
    let Some(format) = args.format.as_deref().filter(|f| f.trim() != "{{.Manifest}}") else {
        return print(&pretty(&looked));
    };
    let details = if of_the_manifest_only(format) {
        Details::default()
    } else {
        runtime.block_on(images.details(&looked)).map_err(|e| failure(&e))?
    };
    let text = template::render(format, fields(&looked, &details), json_indented)?;
    print(&format!("{text}\n"))
}

/// Whether a template needs nothing but the document that is here already.
fn of_the_manifest_only(format: &str) -> bool {
    let all = ["Image", "Provenance", "SBOM"].iter().any(|field| format.contains(field));
    !all && (format.contains(".Name") || format.contains(".Manifest"))
}

/// The document for people, as buildx prints it.
fn pretty(looked: &Looked) -> String {
    let lines = |rows: &[(&str, String)], indent: &str, width: usize| -> String {
        rows.iter().map(|(name, value)| format!("{indent}{name:width$} {value}\n")).collect()
    };
    let head = [
        ("Name:", looked.place.to_string()),
        ("MediaType:", looked.descriptor.media_type.clone()),
        ("Digest:", looked.descriptor.digest.to_string()),
    ];
    let mut out = lines(&head, "", 10);
    let Some(index) = looked.index() else { return out };
    out.push_str("           \nManifests: \n");
    let width = if index.manifests.iter().any(|d| !d.annotations.is_empty()) { 12 } else { 10 };
    for (number, entry) in index.manifests.iter().enumerate() {
        if number > 0 {
            out.push('\n');
        }
        let mut rows =
            vec![("Name:", format!("{}@{}", looked.place, entry.digest)), ("MediaType:", entry.media_type.clone())];
        if let Some(platform) = &entry.platform {
            rows.push(("Platform:", platform.to_string()));
            if !platform.os_version.is_empty() {
                rows.push(("OSVersion:", platform.os_version.clone()));
            }
            if !platform.os_features.is_empty() {
                rows.push(("OSFeatures:", platform.os_features.join(", ")));
            }
        }
        if !entry.urls.is_empty() {
            rows.push(("URLs:", entry.urls.join(", ")));
        }
        out.push_str(&lines(&rows, "  ", width));
        if !entry.annotations.is_empty() {
            out.push_str("  Annotations:\n");
            let width = entry.annotations.keys().map(String::len).max().unwrap_or(0) + 1;
            for (name, value) in &entry.annotations {
                out.push_str(&format!("    {:width$} {value}\n", format!("{name}:")));
            }
        }
    }
    out
}

/// What templates see.
fn fields(looked: &Looked, details: &Details) -> Go {
    let single = looked.index().is_none() || details.images.len() == 1;
    let by_platform = |all: &std::collections::BTreeMap<String, Value>| -> Value {
        match all.values().next() {
            Some(only) if single => only.clone(),
            _ => Value::Object(all.iter().map(|(k, v)| (k.clone(), v.clone())).collect()),
        }
    };
    let name = looked.place.to_string();
    let (manifest, image) = (manifest(looked), by_platform(&details.images));
    let all = json!({"name": name, "manifest": manifest, "image": image});
    let fields = [
        ("Name", Go::String(name)),
        ("Manifest", structure(&manifest)),
        ("Image", structure(&image)),
        ("Provenance", structure(&by_platform(&details.provenance))),
        ("SBOM", structure(&by_platform(&details.sbom))),
        (AS_JSON, Go::String(all.to_string())),
    ];
    Go::Map(fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

/// The document's descriptor, and what an index lists.
fn manifest(looked: &Looked) -> Value {
    let Descriptor { media_type, digest, size, .. } = &looked.descriptor;
    let own = json!({"mediaType": media_type, "digest": digest, "size": size});
    let Some(index) = looked.index() else { return own };
    let mut all = Map::new();
    all.insert("schemaVersion".into(), index.schema_version.into());
    all.extend(own.as_object().cloned().unwrap_or_default());
    all.insert("manifests".into(), serde_json::to_value(&index.manifests).unwrap_or_default());
    if !index.annotations.is_empty() {
        all.insert("annotations".into(), json!(index.annotations));
    }
    Value::Object(all)
}

/// Names of Go fields that are not the JSON names with a capital.
const FIELDS: &[(&str, &str)] = &[
    ("os", "OS"),
    ("os.version", "OSVersion"),
    ("os.features", "OSFeatures"),
    ("urls", "URLs"),
    ("rootfs", "RootFS"),
    ("diff_ids", "DiffIDs"),
    ("created_by", "CreatedBy"),
    ("empty_layer", "EmptyLayer"),
];

/// Fields with names of their users' choice.
const FREE: &[&str] = &["annotations", "Labels", "ExposedPorts", "Volumes", "SLSA", "SPDX", "AdditionalSPDXs"];

/// JSON as the Go structs that it came from: fields by Go's names, while the `json` function gives the JSON.
fn structure(value: &Value) -> Go {
    let Value::Object(object) = value else {
        return match value {
            Value::Array(list) => Go::Array(list.iter().map(structure).collect()),
            other => template::go(other),
        };
    };
    let mut fields: HashMap<String, Go> = HashMap::new();
    // A map by platform stays one: its keys are data, and ranges go over it.
    let is_map = !object.is_empty() && object.keys().all(|key| key.contains('/') && key.parse::<Platform>().is_ok());
    for (name, value) in object {
        let go = if FREE.contains(&name.as_str()) { template::go(value) } else { structure(value) };
        if !is_map {
            let usual = || name.chars().take(1).flat_map(char::to_uppercase).chain(name.chars().skip(1)).collect();
            let known = FIELDS.iter().find(|(json, _)| json == name);
            let field = known.map_or_else(usual, |(_, field)| (*field).to_owned());
            fields.insert(field, go.clone());
        }
        fields.insert(name.clone(), go);
    }
    if !is_map {
        fields.insert(AS_JSON.to_owned(), Go::String(value.to_string()));
    }
    Go::Map(fields)
}

/// The JSON of a value of [`fields`], two spaces of indentation.
fn json_indented(args: &[Go]) -> Result<Go, FuncError> {
    let value = args.first().map_or(Value::Null, plain);
    Ok(Go::String(serde_json::to_string_pretty(&value).unwrap_or_default()))
}

fn plain(value: &Go) -> Value {
    match value {
        Go::Map(map) => match map.get(AS_JSON) {
            Some(Go::String(text)) => serde_json::from_str(text).unwrap_or_default(),
            _ => {
                let mut keys: Vec<&String> = map.keys().collect();
                keys.sort();
                Value::Object(keys.into_iter().map(|key| (key.clone(), plain(&map[key]))).collect())
            }
        },
        Go::Array(list) => Value::Array(list.iter().map(plain).collect()),
        other => template::back(other),
    }
}
