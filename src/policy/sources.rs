//! Functions of policies that verify signatures of repositories and of downloads (SPEC A7.07, B8.09).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use regorus::Value as Rego;
use serde_json::{Value, json};

use super::engine::read;
use crate::attest::git::pgp::{Detached, Keys, Refused, SignedDigest};
use crate::attest::git::{Actor, GitObjects, Kind, Object, Signature, SourceKeys};

/// buildx's names.
const GIT: &str = "verify_git_signature";
const HTTP: &str = "verify_http_pgp_signature";
/// Larger files are no keys and no signatures.
const MAX_KEY: u64 = 128 << 10;

/// What functions know of the source that a policy is asked about.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Of a repository.
    pub(super) objects: Option<GitObjects>,
    /// Of a download, by what a signature signs of it; nothing of what cannot be had.
    pub(super) digests: BTreeMap<SignedDigest, Vec<u8>>,
}

/// What functions leave behind.
#[derive(Debug, Clone, Default)]
pub(super) struct Left {
    /// Digests of the download that they need, and that nobody has made.
    pub(super) needs: Arc<Mutex<Vec<SignedDigest>>>,
    /// Why they said no.
    pub(super) notes: Arc<Mutex<Vec<String>>>,
}

impl Left {
    pub(super) fn note(&self, name: &str, why: &str) {
        let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        let note = format!("{name}: {why}");
        if !notes.contains(&note) {
            notes.push(note);
        }
    }
}

/// Adds the functions to an engine that is asked about `input`.
pub(super) fn extend(
    engine: &mut regorus::Engine,
    root: Option<PathBuf>,
    known: &Arc<Known>,
    left: &Left,
    input: &Value,
) -> anyhow::Result<()> {
    let shown = |kind: &str, field: &str| Rego::from(input[kind][field].clone());
    let (tag, commit, http) = (shown("git", "tag"), shown("git", "commit"), Rego::from(input["http"].clone()));
    let text = move |name: &str, args: &[Rego], at: usize| {
        let path = args.get(at).and_then(|path| path.as_string().ok()).map(ToString::to_string).unwrap_or_default();
        let bytes = read(root.as_deref(), &path, MAX_KEY).map_err(|e| anyhow::anyhow!("{name}: {path}: {e}"))?;
        Ok::<_, anyhow::Error>((path, String::from_utf8_lossy(&bytes).into_owned()))
    };
    let git = {
        let (known, left, text) = (Arc::clone(known), left.clone(), text.clone());
        move |args: Vec<Rego>| {
            let (path, keys) = text(GIT, &args, 1)?;
            let keys = SourceKeys::parse(&keys).map_err(|e| anyhow::anyhow!("{GIT}: {path}: {e}"))?;
            let asked = args.first();
            // Nothing is verified of an object other than those in question, such as a test's.
            let bytes = match &known.objects {
                Some(objects) if asked == Some(&tag) => objects.tag.as_ref(),
                Some(objects) if asked == Some(&commit) => Some(&objects.commit),
                _ => None,
            };
            let Some(bytes) = bytes else {
                left.note(GIT, "it is given no input.git.tag or input.git.commit");
                return Ok(Rego::from(false));
            };
            let verified = Object::parse(bytes).and_then(|object| keys.verify_object(&object, false));
            Ok(Rego::from(verified.map_err(|why| left.note(GIT, &why.to_string())).is_ok()))
        }
    };
    let download = {
        let (known, left) = (Arc::clone(known), left.clone());
        move |args: Vec<Rego>| {
            let (path, armored) = text(HTTP, &args, 1)?;
            let signature = Detached::parse(armored.as_bytes()).map_err(|e| anyhow::anyhow!("{HTTP}: {path}: {e}"))?;
            let (path, keys) = text(HTTP, &args, 2)?;
            let keys = Keys::parse(&keys).map_err(|e| anyhow::anyhow!("{HTTP}: {path}: {e}"))?;
            if http == Rego::Undefined || args.first() != Some(&http) {
                left.note(HTTP, "it is not given input.http");
                return Ok(Rego::from(false));
            }
            let found = signature.key_id().unwrap_or_else(|| "a key without a name".into());
            let verified = signature.digest().and_then(|wanted| {
                let Some(digest) = known.digests.get(&wanted) else {
                    left.needs.lock().unwrap_or_else(PoisonError::into_inner).push(wanted);
                    return Err("the content is not there".into());
                };
                signature.verify_digest(&keys, digest, false).map_err(|refused| match refused {
                    Refused::OtherKey => {
                        format!("it is signed by PGP key {found}, expected PGP key {}", keys.ids().join(" or "))
                    }
                    Refused::Bad(why) => format!("it is signed by PGP key {found}, which does not count: {why}"),
                })
            });
            Ok(Rego::from(verified.map_err(|why| left.note(HTTP, &why)).is_ok()))
        }
    };
    engine.add_extension(GIT.into(), 2, Box::new(git))?;
    engine.add_extension(HTTP.into(), 3, Box::new(download))?;
    Ok(())
}

/// `input.git.commit` or `input.git.tag`, as buildx has them.
pub(super) fn object(bytes: &[u8]) -> Result<Value, String> {
    let object = Object::parse(bytes).map_err(|e| e.to_string())?;
    let by = |name: &str| actor(&Actor::from(object.header(name).unwrap_or_default()));
    let mut out = match object.kind {
        Kind::Commit => json!({
            "tree": object.header("tree"), "parents": object.headers("parent").collect::<Vec<_>>(),
            "author": by("author"), "committer": by("committer"), "message": object.message,
        }),
        Kind::Tag => json!({
            "object": object.header("object"), "type": object.header("type"), "tag": object.header("tag"),
            "tagger": by("tagger"), "message": object.message,
        }),
    };
    match object.signature() {
        Some(Signature::Pgp { version, key }) => out["pgpSignature"] = json!({ "version": version, "keyID": key }),
        Some(Signature::Ssh { version, key }) => out["sshSignature"] = json!({ "version": version, "pubKey": key }),
        None => {}
    }
    Ok(without_empty(out))
}

fn actor(actor: &Actor) -> Value {
    json!({ "name": actor.name, "email": actor.email, "when": actor.when.and_then(|(at, zone)| when(at, zone)) })
}

/// RFC 3339, in the zone of whoever did it.
fn when(seconds: i64, zone: i32) -> Option<String> {
    let offset = jiff::tz::Offset::from_seconds(zone).ok()?;
    let local = offset.to_datetime(jiff::Timestamp::from_second(seconds).ok()?);
    let zone = match zone {
        0 => "Z".to_owned(),
        zone => {
            let (sign, minutes) = (if zone < 0 { '-' } else { '+' }, zone.unsigned_abs() / 60);
            format!("{sign}{:02}:{:02}", minutes / 60, minutes % 60)
        }
    };
    Some(format!("{}{zone}", local.strftime("%Y-%m-%dT%H:%M:%S")))
}

/// What Go leaves out, at any depth.
fn without_empty(value: Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .into_iter()
            .map(|(name, value)| (name, without_empty(value)))
            .filter(|(_, value)| !super::input::is_empty(value))
            .collect(),
        other => other,
    }
}
