//! `rbuild replay verify`: an image built once more, beside what was published.

use std::io::Write as _;
use std::ops::ControlFlow;
use std::path::Path;

use serde_json::{Value, json};

use super::super::args::ReplayVerify;
use super::super::compare::{DIFFERENT, Shown, as_json, say};
use super::super::errors::Failure;
use super::super::image_commands::{failure, over, shown, usage};
use super::super::runtime::runtime;
use super::super::verify::{forget_attestations, once};
use super::super::worker::{Inside, store_failure};
use super::{Subject, invocation, plan, subject};
use crate::base::budget::Budget;
use crate::base::{Events, FaultKind, file};
use crate::images::parts;
use crate::images::remote::{Place, RemoteImages};
use crate::oci::manifest::Document;
use crate::oci::media_type::{self, Codec};
use crate::oci::{Descriptor, Manifest};
use crate::store::Store;

/// The predicate of a verdict, a URI.
const SUMMARY: &str = "https://slsa.dev/verification_summary/v1";

pub(super) fn verify(inside: &Inside, args: &ReplayVerify) -> Result<u8, Failure> {
    let output = args.output.as_deref().map(directory).transpose()?;
    let subject = subject::load(inside, &args.common)?;
    let Some((place, published)) = &subject.image else {
        return Err(usage("replay verify: provenance alone says nothing of an image to compare with")
            .hint("name the image, not the file"));
    };
    let manifest = manifest(inside, place)?;
    let store = inside.store(Events::none())?;
    // What is compared stays as long as it is compared.
    let _lease = store.lease().map_err(|e| store_failure(&e))?;
    let mut built = None;
    for spec in written(published, &manifest, &subject) {
        let mut words = plan::words(&subject, &args.common)?;
        words.extend([format!("--output={spec}")]);
        words.extend((args.no_cache && built.is_none()).then(|| "--no-cache".to_owned()));
        let mut build = invocation(inside, &subject, &args.common, words, true)?;
        forget_attestations(&mut build);
        let heading = match built {
            None => "building the image again",
            Some(_) => "writing it once more, with the times of files as the build may have set them",
        };
        match once(inside, build, heading)? {
            ControlFlow::Continue(image) => built = Some(single(&store, image)?),
            ControlFlow::Break(code) => return Ok(code),
        }
        if built.as_ref().is_some_and(|image| image.digest == published.digest) {
            break;
        }
    }
    let Some(built) = built else { return Err(Failure::new(FaultKind::Internal, "nothing was built")) };
    let how = Shown { first: &subject.shown, second: "the replay", json: args.format == "json", all: true };
    if args.compare == "artifact" {
        bring(inside, &store, place, &args.common.progress)?;
        let images = over(inside, store, Events::none())?;
        let compared =
            runtime(Budget::detect())?.block_on(images.compare(published, &built)).map_err(|e| failure(&e))?;
        if let Some(dir) = &output {
            write(dir, "vsa.intoto.jsonl", &summary(&subject, published, &built, compared.same(), args))?;
            write(dir, "diff.json", &as_json(&compared, &how))?;
        }
        return say(&compared, &how);
    }
    let same = built.digest == published.digest;
    if let Some(dir) = &output {
        write(dir, "vsa.intoto.jsonl", &summary(&subject, published, &built, same, args))?;
    }
    if how.json {
        let verdict = json!({"same": same, "subject": published.digest, "replay": built.digest});
        super::super::print(&format!("{verdict:#}\n"))?;
    } else if same {
        super::super::print(&format!("the same: {}\n", published.digest))?;
    }
    if same {
        return Ok(0);
    }
    let mut err = std::io::stderr();
    let _ = writeln!(err, "ERROR: replay mismatch: the image is {}, the replay {}", published.digest, built.digest);
    let _ = writeln!(err, "  hint: --compare=artifact says what differs, however it is packed");
    Ok(DIFFERENT)
}

/// The directory of `--output`.
fn directory(spec: &Path) -> Result<std::path::PathBuf, Failure> {
    let text = spec.to_string_lossy();
    if !text.contains('=') {
        return Ok(spec.to_owned());
    }
    let (mut kind, mut dest) = (None, None);
    for (key, value) in super::super::grammar::fields(&text).map_err(|e| usage(format!("--output: {e}")))? {
        match key.as_str() {
            "type" => kind = value,
            "dest" => dest = value,
            other => return Err(usage(format!("--output: unknown field \"{other}\": expected type, dest"))),
        }
    }
    match (kind.as_deref(), dest) {
        (Some("local"), Some(dest)) if !dest.is_empty() => Ok(dest.into()),
        (Some("local"), _) => Err(usage("--output: type=local needs dest=DIR")),
        (kind, _) => Err(usage(format!("--output: type={} is not for verdicts", kind.unwrap_or_default()))
            .hint("type=local,dest=DIR writes vsa.intoto.jsonl")),
    }
}

fn manifest(inside: &Inside, place: &Place) -> Result<Manifest, Failure> {
    let images = RemoteImages::new(inside.client(Events::none())?, Events::none());
    match runtime(Budget::detect())?.block_on(images.look(place)).map_err(|e| failure(&e))?.document {
        Document::Manifest(manifest) => Ok(manifest),
        Document::Index(_) => Err(Failure::new(FaultKind::Input, format!("{place} is an index of an index"))),
    }
}

/// Ways in which the image may have been written. Provenance does not tell; the media types do, but for the times of files.
fn written(published: &Descriptor, manifest: &Manifest, subject: &Subject) -> Vec<String> {
    // Layers below are the base's.
    let codec = manifest.layers.iter().rev().find_map(|layer| media_type::layer_codec(&layer.media_type));
    let oci = published.media_type != media_type::DOCKER_MANIFEST;
    let compression = match codec {
        Some(Codec::Zstd) => "zstd",
        Some(Codec::Uncompressed) => "uncompressed",
        _ => "gzip",
    };
    let spec = format!("type=image,oci-mediatypes={oci},compression={compression}");
    let epoch = subject.recipe.args.contains_key("build-arg:SOURCE_DATE_EPOCH");
    let rewritten = epoch.then(|| format!("{spec},rewrite-timestamp=true"));
    std::iter::once(spec).chain(rewritten).collect()
}

/// The one image of what was built.
fn single(store: &Store, image: Descriptor) -> Result<Descriptor, Failure> {
    let bytes = store.read_blob(&image.digest).map_err(|e| store_failure(&e))?;
    match parts::document(&image.digest, &bytes, &image.media_type).map_err(|e| failure(&e))? {
        Document::Index(index) => index
            .manifests
            .into_iter()
            .find(parts::is_image)
            .ok_or_else(|| Failure::new(FaultKind::Internal, "the build gave an index without an image")),
        Document::Manifest(_) => Ok(image),
    }
}

/// Brings the published image into the store.
fn bring(inside: &Inside, store: &Store, place: &Place, progress: &Option<String>) -> Result<(), Failure> {
    let args = super::super::args::ProgressArgs { kind: progress.clone(), log_timestamp: false, quiet: false };
    let ((), _) = shown(inside, &args, async |events| {
        let images = over(inside, store.clone(), events)?;
        match place {
            Place::Registry(reference) => images.pull(reference, None).await.map(drop).map_err(|e| failure(&e)),
            Place::Layout(layout) => images.load(layout.path()).map(drop).map_err(|e| failure(&e)),
        }
    })?;
    Ok(())
}

/// The verdict as a statement on one line: SLSA's verification summary, with what buildx adds to it.
fn summary(subject: &Subject, published: &Descriptor, built: &Descriptor, same: bool, args: &ReplayVerify) -> String {
    let digest = |descriptor: &Descriptor| json!({descriptor.digest.algorithm(): descriptor.digest.hex()});
    let value: Value = json!({
        "_type": "https://in-toto.io/Statement/v1",
        "predicateType": SUMMARY,
        "subject": [{"name": subject.shown, "digest": digest(published)}],
        "predicate": {
            "verifier": {"id": "rbuild"},
            "timeVerified": jiff::Timestamp::now().to_string(),
            "resourceUri": subject.shown,
            "policy": {"uri": ""},
            "verificationResult": if same { "PASSED" } else { "FAILED" },
            "verifiedLevels": [],
            "buildx": {
                "replayMode": "materials",
                "compareMode": args.compare,
                "replayDigest": built.digest,
                "subjectDigest": published.digest,
            },
        },
    });
    format!("{value}\n")
}

fn write(dir: &Path, name: &str, text: &str) -> Result<(), Failure> {
    let path = dir.join(name);
    let fail =
        |e: std::io::Error| Failure::new(FaultKind::Store, format!("--output: cannot write {}: {e}", path.display()));
    std::fs::create_dir_all(dir).map_err(fail)?;
    file::write_atomic(&path, text.as_bytes()).map_err(fail)
}
