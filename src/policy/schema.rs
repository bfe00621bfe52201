//! The JSON Schema of what policies see, for editors and for `opa check --schema` (SPEC B8.09).

use serde_json::{Map, Value, json};

use super::FIELDS;

/// Draft 2020-12 of `input`, as [`super::Input`] makes it.
#[must_use]
pub fn schema() -> Value {
    let text = || json!({ "type": "string" });
    let flag = || json!({ "type": "boolean" });
    let texts = || json!({ "type": "object", "additionalProperties": { "type": "string" } });
    let list = || json!({ "type": "array", "items": { "type": "string" } });
    let env = json!({
        "args": texts(), "labels": texts(), "filename": text(), "target": text(), "capsRequest": flag(),
    });
    let image = json!({
        "ref": text(), "host": text(), "repo": text(), "fullRepo": text(), "tag": text(), "isCanonical": flag(),
        "checksum": text(), "platform": text(), "os": text(), "arch": text(), "variant": text(), "createdTime": text(),
        "labels": texts(), "user": text(), "volumes": list(), "workingDir": text(), "env": list(),
        "hasProvenance": flag(), "provenance": provenance(), "signatures": { "type": "array", "items": signature() },
    });
    let http = json!({
        "url": text(), "schema": text(), "host": text(), "path": text(), "hasAuth": flag(), "checksum": text(),
        "query": { "type": "object", "additionalProperties": list() },
    });
    let git = json!({
        "schema": text(), "host": text(), "remote": text(), "fullURL": text(), "ref": text(), "tagName": text(),
        "branch": text(), "subDir": text(), "isCommitRef": flag(), "checksum": text(), "commitChecksum": text(),
        "isSHA256": flag(), "isAnnotatedTag": flag(), "tag": object_of_git(false), "commit": object_of_git(true),
    });
    let kinds = [("env", env), ("image", image), ("http", http), ("git", git), ("local", json!({ "name": text() }))];
    let properties: Map<String, Value> =
        kinds.into_iter().map(|(kind, properties)| (kind.to_owned(), object(kind, properties))).collect();
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "input of a build policy",
        "type": "object",
        "additionalProperties": false,
        "properties": properties,
    })
}

/// `git.commit` or `git.tag`
fn object_of_git(commit: bool) -> Value {
    let object =
        |properties: Value| json!({ "type": "object", "additionalProperties": false, "properties": properties });
    let text = || json!({ "type": "string" });
    let actor = || object(json!({ "name": text(), "email": text(), "when": text() }));
    let mut properties = match commit {
        true => json!({
            "tree": text(), "parents": { "type": "array", "items": text() }, "author": actor(), "committer": actor(),
        }),
        false => json!({ "object": text(), "type": text(), "tag": text(), "tagger": actor() }),
    };
    properties["message"] = text();
    properties["pgpSignature"] = object(json!({ "version": { "type": "integer" }, "keyID": text() }));
    properties["sshSignature"] = object(json!({ "version": { "type": "integer" }, "pubKey": text() }));
    object(properties)
}

/// One of `image.signatures`
fn signature() -> Value {
    let object =
        |properties: Value| json!({ "type": "object", "additionalProperties": false, "properties": properties });
    let text = || json!({ "type": "string" });
    let signer: Map<String, Value> = ["certificateIssuer", "subjectAlternativeName", "issuer"]
        .into_iter()
        .chain(crate::attest::sigstore::FIELDS.iter().map(|(_, name)| *name))
        .map(|name| (name.to_owned(), text()))
        .collect();
    object(json!({
        "kind": text(), "type": text(), "dockerReference": text(), "predicateType": text(), "signer": object(Value::Object(signer)),
        "timestamps": { "type": "array", "items": object(json!({ "type": text(), "uri": text(), "timestamp": text() })) },
    }))
}

/// `image.provenance`
fn provenance() -> Value {
    let object =
        |properties: Value| json!({ "type": "object", "additionalProperties": false, "properties": properties });
    let (text, flag) = (|| json!({ "type": "string" }), || json!({ "type": "boolean" }));
    let texts = || json!({ "type": "object", "additionalProperties": { "type": "string" } });
    object(json!({
        "predicateType": text(), "buildType": text(), "builderID": text(), "invocationID": text(), "startedOn": text(),
        "finishedOn": text(), "frontend": text(), "buildArgs": texts(), "rawArgs": texts(), "reproducible": flag(),
        "hermetic": flag(), "configSource": object(json!({ "uri": text(), "digest": texts(), "path": text() })),
        "completeness": object(json!({ "parameters": flag(), "environment": flag(), "materials": flag() })),
    }))
}

/// One kind of source. What has to be looked up is marked, as it is not there unless a policy speaks of it.
fn object(kind: &str, mut properties: Value) -> Value {
    let asked = FIELDS.iter().find(|(name, _)| *name == kind).map_or(&[][..], |(_, fields)| fields);
    for field in asked {
        properties[*field]["description"] = "looked up where a policy speaks of it".into();
    }
    json!({ "type": "object", "additionalProperties": false, "properties": properties })
}
