//! `rbuild builds import`: what [`super::export`] wrote becomes records of this store, e.g. those of a CI machine (SPEC
//! B8.08).

use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _, Read};
use std::path::Path;

use flate2::read::MultiGzDecoder;
use serde_json::Value;

use super::export::{JOURNAL, LOG, RECORD};
use crate::base::{Digest, FaultKind};
use crate::build::record::{self, BuildRecord, ForeignJournal};
use crate::cli::args::ImportBuilds;
use crate::cli::errors::Failure;
use crate::cli::image_commands::usage;
use crate::cli::worker::store_failure;
use crate::store::Store;

/// An archive with more bytes in it is not believed.
const MAX: u64 = 1 << 30;

pub(super) fn import(store: &Store, known: &[BuildRecord], args: &ImportBuilds) -> Result<u8, Failure> {
    let mut files: Vec<&Path> = args.file.iter().chain(&args.files).map(AsRef::as_ref).collect();
    if files.is_empty() {
        files.push(Path::new("-"));
    }
    let mut archives = Vec::new();
    for path in files {
        archives.push((path, read(path)?));
    }
    for (path, archive) in archives {
        for build in archive.builds().map_err(|why| usage(format!("cannot import {}: {why}", path.display())))? {
            if known.iter().any(|record| record.head.id == build.journal.id) {
                use std::io::Write as _;
                let _ = writeln!(io::stderr(), "notice: build {} is here already", build.journal.id);
                continue;
            }
            let journal = &build.journal;
            store
                .import_build(journal.begun, &journal.text, &build.logs, &build.attachments)
                .map_err(|e| store_failure(&e))?;
            crate::cli::print(&format!("{}\n", journal.id))?;
        }
    }
    Ok(0)
}

/// A build that is to be taken over.
struct Imported {
    journal: ForeignJournal,
    logs: Vec<(u32, Vec<u8>)>,
    attachments: Vec<(Digest, Vec<u8>)>,
}

/// The files of an archive.
struct Archive(BTreeMap<String, Vec<u8>>);

fn read(path: &Path) -> Result<Archive, Failure> {
    let fail = |e: io::Error| {
        Failure::new(FaultKind::of_io(&e, FaultKind::Usage), format!("cannot read {}: {e}", path.display()))
    };
    if path != Path::new("-") {
        return Archive::read(std::fs::File::open(path).map_err(fail)?).map_err(fail);
    }
    if io::stdin().is_terminal() {
        return Err(usage("builds import: standard input is a terminal").hint("name the archive"));
    }
    Archive::read(io::stdin().lock()).map_err(fail)
}

impl Archive {
    fn read(from: impl Read) -> io::Result<Self> {
        let mut tar = tar::Archive::new(MultiGzDecoder::new(from).take(MAX));
        let mut files = BTreeMap::new();
        for entry in tar.entries()? {
            let mut entry = entry?;
            if entry.header().entry_type().is_file() {
                let name = entry.path()?.to_string_lossy().into_owned();
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes)?;
                files.insert(name, bytes);
            }
        }
        Ok(Self(files))
    }

    fn builds(&self) -> Result<Vec<Imported>, String> {
        let index = self.0.get("index.json").ok_or("it is no OCI layout")?;
        let index: Value = serde_json::from_slice(index).map_err(|e| format!("index.json: {e}"))?;
        let entries = index["manifests"].as_array().ok_or("its index lists nothing")?;
        entries.iter().map(|entry| self.build(entry)).collect()
    }

    fn build(&self, entry: &Value) -> Result<Imported, String> {
        let manifest: Value = serde_json::from_slice(self.blob(entry)?).map_err(|e| format!("a manifest: {e}"))?;
        if manifest["artifactType"] != RECORD {
            return Err("it is not what `rbuild builds export` writes; records of BuildKit cannot be read".into());
        }
        let layers = manifest["layers"].as_array().ok_or("a manifest has no layers")?;
        let of = |kind: &'static str| layers.iter().filter(move |layer| layer["mediaType"] == kind);
        let journal = of(JOURNAL).next().ok_or("a build has no journal: it was exported by an older rbuild")?;
        let journal = std::str::from_utf8(self.blob(journal)?).map_err(|e| format!("a journal: {e}"))?;
        let journal = record::foreign_journal(journal).ok_or("a journal does not say whose it is")?;
        let mut logs = Vec::new();
        for layer in of(LOG) {
            let title = layer["annotations"]["org.opencontainers.image.title"].as_str().unwrap_or_default();
            let number = title.strip_suffix(".log.zst").and_then(|number| number.parse().ok());
            if let Some(number) = number.filter(|number| journal.logs.contains(number)) {
                logs.push((number, self.blob(layer)?.to_vec()));
            }
        }
        let mut attachments = Vec::new();
        for digest in &journal.attachments {
            attachments.push((digest.clone(), self.content(digest)?.to_vec()));
        }
        Ok(Imported { journal, logs, attachments })
    }

    fn blob(&self, descriptor: &Value) -> Result<&[u8], String> {
        let digest: Digest = descriptor["digest"].as_str().unwrap_or_default().parse().map_err(|e| format!("{e}"))?;
        self.content(&digest)
    }

    fn content(&self, digest: &Digest) -> Result<&[u8], String> {
        let name = format!("blobs/{}/{}", digest.algorithm(), digest.hex());
        let bytes = self.0.get(&name).ok_or_else(|| format!("{digest} is missing"))?;
        let mut hasher = digest.hasher();
        hasher.update(bytes);
        if hasher.finish() != *digest {
            return Err(format!("{digest} is damaged"));
        }
        Ok(bytes)
    }
}
