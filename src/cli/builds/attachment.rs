//! `rbuild builds inspect attachment`: a document of a build, byte for byte (SPEC B8.07).

use std::io::Write as _;

use serde_json::Value;

use crate::attest::Statement;
use crate::base::{Digest, FaultKind};
use crate::build::attachments::Attachment;
use crate::build::record::BuildRecord;
use crate::cli::errors::Failure;
use crate::cli::image_commands::usage;
use crate::cli::worker::store_failure;
use crate::oci::Platform;

/// Which document.
pub(super) struct Wanted<'a> {
    digest: Option<Digest>,
    kind: Option<&'a str>,
    platform: Option<String>,
}

impl<'a> Wanted<'a> {
    /// # Errors
    /// For what is no digest, no type and no platform.
    pub(super) fn new(digest: Option<&str>, kind: Option<&'a str>, platform: Option<&str>) -> Result<Self, Failure> {
        let digest =
            digest.map(str::parse).transpose().map_err(|e| usage(format!("builds inspect attachment: {e}")))?;
        let platform: Option<Platform> =
            platform.map(str::parse).transpose().map_err(|e| usage(format!("--platform: {e}")))?;
        let words = ["index", "manifest", "image", "provenance", "sbom"];
        if let Some(kind) = kind.filter(|kind| !words.contains(kind) && !kind.contains('/')) {
            let message = format!("--type: unknown type \"{kind}\"");
            return Err(usage(message).hint(format!("it is one of {}, or the URI of a predicate", words.join(", "))));
        }
        Ok(Self { digest, kind, platform: platform.map(|platform| platform.to_string()) })
    }

    fn matches(&self, attachment: &Attachment) -> bool {
        self.digest.as_ref().is_none_or(|digest| *digest == attachment.digest)
            && self.kind.is_none_or(|kind| attachment.is(kind))
            && self.platform.as_ref().is_none_or(|platform| attachment.platform.as_ref() == Some(platform))
    }
}

/// Prints the first one that is wanted.
pub(super) fn show(record: &BuildRecord, wanted: &Wanted<'_>) -> Result<u8, Failure> {
    let Some(found) = record.attachments.iter().find(|attachment| wanted.matches(attachment)) else {
        let why = if record.attachments.is_empty() { "it has none" } else { "none of them is that" };
        let message = format!("build {} has no such attachment: {why}", record.head.id);
        return Err(usage(message).hint("`rbuild builds inspect` lists them"));
    };
    let bytes = record.kept.attachment(&found.digest).map_err(|e| store_failure(&e))?;
    let mut out = std::io::stdout();
    match out.write_all(&bytes).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::new(FaultKind::Store, format!("cannot write to standard output: {e}")))
        }
        _ => Ok(0),
    }
}

/// What a build was made from, by its provenance: each URI with its digests. What cannot be read says nothing.
pub(super) fn materials(record: &BuildRecord) -> Vec<(String, Vec<String>)> {
    let mut materials: Vec<(String, Vec<String>)> = Vec::new();
    for attachment in record.attachments.iter().filter(|attachment| attachment.is("provenance")) {
        let Ok(bytes) = record.kept.attachment(&attachment.digest) else { continue };
        let Ok(statement) = serde_json::from_slice::<Statement>(&bytes) else { continue };
        let lists = ["/buildDefinition/resolvedDependencies", "/materials"];
        let listed = lists.iter().filter_map(|at| statement.predicate.pointer(at)?.as_array()).flatten();
        for material in listed {
            let uri = material["uri"].as_str().unwrap_or_default();
            let digests = material["digest"].as_object().into_iter().flatten();
            let digest = |(algorithm, hex): (&String, &Value)| Some(format!("{algorithm}:{}", hex.as_str()?));
            if !materials.iter().any(|(known, _)| known == uri) {
                materials.push((uri.to_owned(), digests.filter_map(digest).collect()));
            }
        }
    }
    materials
}
