//! `rbuild builds export`: records and logs as a gzipped OCI layout, to keep or to send to somebody (SPEC B8.08).
//!
//! Each build is an artifact: its first layer is the record as JSON, for people and programs; then come the journal that
//! [`super::import`] reads, the logs of its steps, titled by their numbers, and the documents of its images and about its
//! results. (Docker Desktop's bundles look like this from outside; what is inside them is BuildKit's own record, so it reads none of ours.)

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use flate2::write::GzEncoder;

use super::details;
use crate::attest::manifest::PREDICATE_TYPE;
use crate::base::{Digest, FaultKind};
use crate::build::record::BuildRecord;
use crate::cli::deliver;
use crate::cli::errors::Failure;
use crate::oci::layout::{MARKER, MARKER_NAME};
use crate::oci::manifest::to_json_pretty;
use crate::oci::{Descriptor, Index};

/// What `import` reads.
pub(super) const JOURNAL: &str = "application/vnd.rbuild.build.journal.v1+jsonl";
pub(super) const RECORD: &str = "application/vnd.rbuild.build.record.v1+json";
pub(super) const LOG: &str = "application/vnd.rbuild.build.log.v1+zstd";
const EMPTY: &str = "application/vnd.oci.empty.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

pub(super) fn export(builds: &[&BuildRecord], output: Option<&Path>) -> Result<u8, Failure> {
    deliver::archive(output, |out| {
        let fail = |e: io::Error| {
            Failure::new(FaultKind::of_io(&e, FaultKind::Store), format!("cannot write the archive: {e}"))
        };
        write(builds, out).map_err(fail)
    })
}

fn write(builds: &[&BuildRecord], out: impl Write) -> io::Result<()> {
    let mut archive =
        Archive { tar: tar::Builder::new(GzEncoder::new(out, flate2::Compression::default())), seen: Vec::new() };
    let empty = archive.blob(EMPTY, b"{}")?;
    let mut manifests = Vec::new();
    for build in builds {
        let mut layers = vec![archive.blob(RECORD, format!("{:#}\n", details(build)).as_bytes())?];
        let journal = build.portable_journal().map_err(io::Error::other)?;
        layers.push(archive.blob(JOURNAL, journal.as_bytes())?);
        for step in &build.steps {
            let Some(number) = step.log else { continue };
            // A build that is under way has logs without an end; what there is goes along.
            let mut log = archive.blob(LOG, &std::fs::read(build.kept.log_path(number))?)?;
            log.annotations.insert("org.opencontainers.image.title".into(), format!("{number:02}.log.zst"));
            log.annotations.insert("vnd.rbuild.step".into(), step.name.clone());
            layers.push(log);
        }
        for attachment in &build.attachments {
            let bytes = build.kept.attachment(&attachment.digest).map_err(io::Error::other)?;
            let mut document = archive.blob(&attachment.media_type, &bytes)?;
            let predicate = attachment.predicate.iter().map(|kind| (PREDICATE_TYPE.to_owned(), kind.clone()));
            document.annotations.extend(predicate);
            let platform =
                attachment.platform.iter().map(|platform| ("vnd.rbuild.platform".to_owned(), platform.clone()));
            document.annotations.extend(platform);
            layers.push(document);
        }
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": RECORD, "config": empty, "layers": layers,
        });
        let mut entry = archive.blob(MANIFEST, format!("{manifest:#}\n").as_bytes())?;
        entry.annotations = BTreeMap::from([
            ("org.opencontainers.image.ref.name".to_owned(), build.head.id.clone()),
            ("org.opencontainers.image.created".to_owned(), build.head.started.to_string()),
        ]);
        manifests.push(entry);
    }
    archive.add("index.json", &to_json_pretty(&Index::new(manifests)))?;
    archive.add(MARKER_NAME, MARKER)?;
    archive.tar.into_inner()?.finish()?.flush()
}

/// The layout as it grows.
struct Archive<W: Write> {
    tar: tar::Builder<W>,
    seen: Vec<Digest>,
}

impl<W: Write> Archive<W> {
    fn blob(&mut self, media_type: &str, bytes: &[u8]) -> io::Result<Descriptor> {
        let descriptor = Descriptor::of_bytes(media_type, bytes);
        if !self.seen.contains(&descriptor.digest) {
            self.add(&format!("blobs/{}/{}", descriptor.digest.algorithm(), descriptor.digest.hex()), bytes)?;
            self.seen.push(descriptor.digest.clone());
        }
        Ok(descriptor)
    }

    fn add(&mut self, name: &str, mut bytes: &[u8]) -> io::Result<()> {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        header.set_size(bytes.len() as u64);
        self.tar.append_data(&mut header, name, &mut bytes)
    }
}
