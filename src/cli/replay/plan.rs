//! A recipe as the command line of a build, and as something to look at.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::super::args::ReplayCommon;
use super::super::errors::Failure;
use super::super::invocation::Invocation;
use super::Subject;
use crate::attest::Material;
use crate::attest::recipe::{MaterialKind, Needs};
use crate::base::FaultKind;
use crate::oci::{Platform, Reference};

/// Options of front ends that are about a session, its machine or attestations, or that something else says.
const NOT_ASKED_FOR: &[&str] = &[
    "cache-from",
    "cache-imports",
    "cgroup-parent",
    "cmdline",
    "context",
    "contextkey",
    "dockerfilekey",
    "filename",
    "frontend.caps",
    "hostname",
    "image-resolve-mode",
    "multi-platform",
    "platform",
    "requestid",
    "source",
];
/// The same, beginnings of their names.
const PREFIXES: &[&str] =
    &["attest:", "input:", "input-metadata:", "localsessionid:", "vcs:", "build-arg:", "label:", "context:"];

/// The flags of the build; its context comes behind them.
pub(super) fn words(subject: &Subject, common: &ReplayCommon) -> Result<Vec<String>, Failure> {
    let recipe = &subject.recipe;
    // What a second build says about itself is nothing that the first one said.
    let mut out = vec!["--provenance=false".to_owned(), "--sbom=false".to_owned()];
    let mut add = |flag: &str, value: &str| out.push(format!("--{flag}={value}"));
    for (prefix, flag) in [("build-arg:", "build-arg"), ("label:", "label"), ("context:", "build-context")] {
        recipe.options(prefix).for_each(|(name, value)| add(flag, &format!("{name}={value}")));
    }
    if let Some(path) = recipe.dockerfile.as_ref().or_else(|| recipe.args.get("filename")) {
        add("file", path);
    }
    for (name, value) in &recipe.args {
        match name.as_str() {
            "target" => add("target", value),
            "no-cache" if value.is_empty() => add("no-cache", "true"),
            "no-cache" => add("no-cache-filter", value),
            "add-hosts" => value.split(',').for_each(|host| add("add-host", host)),
            "ulimit" => value.split(',').for_each(|limit| add("ulimit", limit)),
            "shm-size" => add("shm-size", value),
            "contextsubdir" => add("context-sub-path", value),
            "force-network-mode" if common.network.is_none() => add("network", value),
            "force-network-mode" => {}
            name if NOT_ASKED_FOR.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix)) => {}
            // Front ends that are images have options of their own.
            _ if recipe.frontend == "gateway.v0" => add("frontend-opt", &format!("{name}={value}")),
            _ => {
                let message = format!("the provenance of {}: the option \"{name}\" is not known", subject.shown);
                return Err(Failure::new(FaultKind::Input, message).hint("a newer rbuild may know it"));
            }
        }
    }
    for (flag, values) in [("secret", &common.secret), ("ssh", &common.ssh)] {
        values.iter().for_each(|value| add(flag, value));
    }
    let platform = subject.platform.as_ref().map(Platform::to_string);
    let given = [("platform", &platform), ("network", &common.network), ("progress", &common.progress)];
    given.into_iter().for_each(|(flag, value)| value.iter().for_each(|value| add(flag, value)));
    if common.debug {
        add("debug", "true");
    }
    Ok(out)
}

/// What would be built, for people or as buildx's JSON.
pub(super) fn plan(subject: &Subject, invocation: &Invocation, as_json: bool) -> String {
    let recipe = &subject.recipe;
    let request = &invocation.settings.request;
    let object = |prefix: &str| -> Map<String, Value> {
        recipe.options(prefix).map(|(name, value)| (name.to_owned(), value.into())).collect()
    };
    let mut descriptor = match &subject.image {
        Some((_, descriptor)) => json!({
            "mediaType": descriptor.media_type, "digest": descriptor.digest, "size": descriptor.size,
        }),
        None => json!({}),
    };
    if let Some(platform) = &subject.platform {
        descriptor["platform"] = of_platform(platform);
    }
    let exports: Vec<&String> = invocation.args.output.iter().collect();
    let network = invocation.args.network.as_deref().unwrap_or("default");
    let mut config = json!({
        "frontend": recipe.frontend,
        "context": invocation.args.context,
        "filename": invocation.args.file,
        "target": request.options.target,
        "buildArgs": object("build-arg:"),
        "labels": object("label:"),
        "namedContexts": object("context:"),
        "noCache": invocation.args.no_cache,
        "noCacheFilter": invocation.args.no_cache_filter,
        "secrets": needed(&recipe.secrets),
        "ssh": recipe.ssh.0.keys().collect::<Vec<_>>(),
        "networkMode": network,
        "exports": exports,
    });
    if let Value::Object(config) = &mut config {
        config.retain(|_, value| match value {
            Value::Null | Value::Bool(false) => false,
            Value::Array(items) => !items.is_empty(),
            Value::Object(members) => !members.is_empty(),
            _ => true,
        });
    }
    let materials: Vec<Value> = recipe.materials.iter().map(of_material).collect();
    let plan = json!({"subjects": [{"descriptor": descriptor, "buildConfig": config, "materials": materials}]});
    if as_json { format!("{plan:#}\n") } else { pretty(subject, &config, &materials) }
}

fn pretty(subject: &Subject, config: &Value, materials: &[Value]) -> String {
    let mut out = String::from("Replay plan\n\n");
    let mut field = |name: &str, value: &str| {
        if !value.is_empty() {
            let _ = writeln!(out, "  {name:<12}{value}");
        }
    };
    field("Platform:", &subject.platform.as_ref().map(Platform::to_string).unwrap_or_default());
    field("Digest:", &subject.image.as_ref().map(|(_, image)| image.digest.to_string()).unwrap_or_default());
    let text = |name: &str| config[name].as_str().unwrap_or_default();
    for (name, member) in [
        ("Frontend:", "frontend"),
        ("Context:", "context"),
        ("Dockerfile:", "filename"),
        ("Target:", "target"),
        ("Network:", "networkMode"),
    ] {
        field(name, text(member));
    }
    for (name, member) in [("Build args:", "buildArgs"), ("Labels:", "labels"), ("Contexts:", "namedContexts")] {
        for (index, (key, value)) in config[member].as_object().into_iter().flatten().enumerate() {
            field(if index == 0 { name } else { "" }, &format!("{key}={}", value.as_str().unwrap_or_default()));
        }
    }
    let optional = |secret: &Value| if secret["optional"] == true { " (optional)" } else { "" };
    let secrets = config["secrets"].as_array().into_iter().flatten();
    let secrets: Vec<String> =
        secrets.map(|secret| format!("{}{}", secret["id"].as_str().unwrap_or_default(), optional(secret))).collect();
    field("Secrets:", &secrets.join(", "));
    let agents: Vec<&str> = config["ssh"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    field("SSH:", &agents.join(", "));
    let _ = writeln!(out, "\nMaterials ({})", materials.len());
    for material in materials {
        let text = |name: &str| material[name].as_str().unwrap_or_default();
        let _ = writeln!(out, "  {:<8}{}\n          {}", text("kind"), text("uri"), text("digest"));
    }
    out
}

fn of_material(material: &Material) -> Value {
    let kind = material.kind();
    let mut out = json!({"uri": material.uri, "digest": material.digest, "kind": kind.as_str()});
    if let MaterialKind::Image(name, platform) = &kind {
        // The digest and the platform stand beside it.
        out["uri"] = Reference { digest: None, ..name.clone() }.familiar().into();
        if let Some(platform) = platform {
            out["platform"] = of_platform(platform);
        }
    }
    out
}

fn of_platform(platform: &Platform) -> Value {
    serde_json::to_value(platform).unwrap_or_default()
}

fn needed(needs: &Needs) -> Vec<Value> {
    let one = |(id, optional): (&String, &bool)| {
        if *optional { json!({"id": id, "optional": true}) } else { json!({"id": id}) }
    };
    needs.0.iter().map(one).collect()
}
