//! Results as files: a directory or a tar (SPEC B3.01, B3.02, C6.14).

use std::collections::{HashMap, HashSet};
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::image::epoch;
use super::staging::{StagedFile, StagedTree, write_stdout};
use super::{BuildResult, Dest, ExportContext, ExportError, ImageResult, OutputSpec, Ready, blocking, fetch};
use crate::archive::{LayerOptions, LayerWriter, Relocation, Timestamp, diff_trees};
use crate::attest::statement::Exported;
use crate::attest::{Attestation, Subject};
use crate::base::{Digest, DigestWriter, owner};
use crate::exec::file;
use crate::llb::op::FileActionCopy;
use crate::oci::media_type::Codec;
use crate::store::{MountRequest, Store};
use crate::tree::CopySource;

/// Files belong to the caller, who is uid 0 in here.
const CALLER: Option<(u32, u32)> = Some((0, 0));

pub(super) async fn local(
    context: &ExportContext<'_>,
    result: &BuildResult,
    spec: &OutputSpec,
    id: &Digest,
) -> Result<Ready, ExportError> {
    let Some(Dest::Path(dir)) = spec.dest.clone() else {
        return Err(ExportError::Usage("dest is required for local output".into()));
    };
    fetch_all(context, result, id).await?;
    let staging = Staging::new(context, result, spec);
    let delete = spec.delete;
    let tree = blocking(move || {
        let tree = StagedTree::new(&dir, delete)?;
        staging.fill(&tree.root(), CALLER)?;
        owner::settle_modes(&tree.root()).map_err(ExportError::io("settle the modes of", &tree.root()))?;
        Ok(tree)
    })
    .await?;
    context.events.progress(id, "copying files", 0, None, true);
    Ok(Ready::Tree(tree))
}

pub(super) async fn tar(
    context: &ExportContext<'_>,
    result: &BuildResult,
    spec: &OutputSpec,
    id: &Digest,
) -> Result<Ready, ExportError> {
    let dest = spec.dest.clone().ok_or_else(|| ExportError::Usage("dest is required for tar output".into()))?;
    fetch_all(context, result, id).await?;
    let staging = Staging::new(context, result, spec);
    let threads = context.threads;
    let work = move |out: &mut (dyn std::io::Write + Send)| staging.tar(out, threads);
    Ok(match dest {
        Dest::Path(path) => Ready::File(blocking(move || StagedFile::write(&path, None, |out| work(out))).await?),
        // What is written there cannot be taken back.
        Dest::Stdout => Ready::Later(Box::new(move || write_stdout(|out| work(out)))),
    })
}

async fn fetch_all(context: &ExportContext<'_>, result: &BuildResult, id: &Digest) -> Result<(), ExportError> {
    for image in &result.images {
        fetch(context, &image.chain, id).await?;
    }
    Ok(())
}

/// The trees of all platforms on their way into one.
struct Staging {
    store: Store,
    images: Vec<ImageResult>,
    split: bool,
    epoch: Option<i64>,
    /// What the names of attestations begin with.
    prefix: String,
}

impl Staging {
    fn new(context: &ExportContext<'_>, result: &BuildResult, spec: &OutputSpec) -> Self {
        Self {
            store: context.store.clone(),
            images: result.images.clone(),
            split: spec.platform_split.unwrap_or(result.multi),
            epoch: epoch(context, spec.image.epoch),
            prefix: spec.attestation_prefix.clone(),
        }
    }

    /// Copies into `root`.
    fn fill(&self, root: &Path, owner: Option<(u32, u32)>) -> Result<(), ExportError> {
        let everything = FileActionCopy {
            timestamp: self.epoch.map_or(-1, |s| s.saturating_mul(1_000_000_000)),
            ..FileActionCopy::contents("/", "/")
        };
        let mut seen: HashMap<PathBuf, usize> = HashMap::new();
        for (at, image) in self.images.iter().enumerate() {
            let mounted = self.store.mount(&image.chain, &MountRequest::read_only())?;
            let target = if self.split { root.join(directory(image)) } else { root.to_owned() };
            if !self.split && self.images.len() > 1 {
                self.no_overlap(mounted.root(), at, &mut seen)?;
            }
            std::fs::create_dir_all(&target).map_err(ExportError::io("create", &target))?;
            file::copy(&CopySource::plain(mounted.root()), &target, &everything, owner)?;
            self.attest(image, mounted.root(), &target)?;
        }
        Ok(())
    }

    /// Writes what is said about an image beside its files, as statements about each of them (SPEC B3.01, C6.13).
    fn attest(&self, image: &ImageResult, files: &Path, target: &Path) -> Result<(), ExportError> {
        let said: Vec<&Attestation> = image.attestations.iter().filter(|a| !a.inline_only).collect();
        if said.is_empty() {
            return Ok(());
        }
        let subjects = subjects(files)?;
        let mut names = HashSet::new();
        for attestation in said {
            let mut name = format!("{}{}", self.prefix, attestation.filename);
            if !self.split && self.images.len() > 1 {
                let (stem, extension) = name.rsplit_once('.').map_or((name.as_str(), ""), |(stem, rest)| (stem, rest));
                let dot = if extension.is_empty() { "" } else { "." };
                name = format!("{stem}.{}{dot}{extension}", directory(image));
            }
            let path = target.join(&name);
            if !names.insert(name.clone()) || std::fs::symlink_metadata(&path).is_ok() {
                return Err(ExportError::Usage(format!(
                    "the result has a file {name}, so an attestation cannot have that name: \
                     give another one with attestation-prefix="
                )));
            }
            let statement = attestation.statement(subjects.clone(), &Exported::NONE);
            let io = |attempt| ExportError::io(attempt, &path);
            let mut out = OpenOptions::new();
            let mut out = out.write(true).create_new(true).mode(0o600).open(&path).map_err(io("create"))?;
            std::io::Write::write_all(&mut out, &statement.to_pretty()).map_err(io("write"))?;
            if let Some(seconds) = self.epoch {
                let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.try_into().unwrap_or_default());
                out.set_modified(time).map_err(io("write"))?;
            }
        }
        Ok(())
    }

    /// Refuses files that an earlier platform has too (SPEC C6.14).
    fn no_overlap(&self, root: &Path, at: usize, seen: &mut HashMap<PathBuf, usize>) -> Result<(), ExportError> {
        for entry in walkdir::WalkDir::new(root) {
            let entry = entry.map_err(|e| ExportError::Internal(format!("cannot walk the result: {e}")))?;
            let Ok(path) = entry.path().strip_prefix(root) else { continue };
            if entry.file_type().is_dir() {
                continue;
            }
            if let Some(first) = seen.insert(path.to_owned(), at) {
                return Err(ExportError::Usage(format!(
                    "cannot overwrite {} from {} with {} when split option is disabled",
                    path.display(),
                    self.images[first].platform,
                    self.images[at].platform
                )));
            }
        }
        Ok(())
    }

    /// Writes one tar. Owners are those of the image.
    fn tar(&self, out: &mut (dyn std::io::Write + Send), threads: usize) -> Result<(), ExportError> {
        let options = LayerOptions { codec: Codec::Uncompressed, threads, ..LayerOptions::default() };
        let mut writer = LayerWriter::new(out, &options)?;
        let mtime = self.epoch.map(Timestamp::seconds);
        // Contents are read while the writer finishes: what they are in must last until then.
        let mut mounts = Vec::new();
        let merged = tempfile::tempdir().map_err(ExportError::io("create", "a temporary directory"))?;
        let attests = self.images.iter().flat_map(|image| &image.attestations).any(|a| !a.inline_only);
        if attests || (!self.split && self.images.len() > 1) {
            self.fill(merged.path(), None)?;
            writer.relocate(Relocation { prefix: PathBuf::new(), mtime });
            diff_trees(None, merged.path(), &mut writer)?;
        } else {
            for image in &self.images {
                let mounted = self.store.mount(&image.chain, &MountRequest::read_only())?;
                let prefix = if self.split { PathBuf::from(directory(image)) } else { PathBuf::new() };
                writer.relocate(Relocation { prefix, mtime });
                diff_trees(None, mounted.root(), &mut writer)?;
                mounts.push(mounted);
            }
        }
        writer.finish()?;
        Ok(())
    }
}

/// Every regular file below `root`, by its path there.
fn subjects(root: &Path) -> Result<Vec<Subject>, ExportError> {
    let mut out = Vec::new();
    for entry in walkdir::WalkDir::new(root).sort_by_file_name() {
        let entry = entry.map_err(|e| ExportError::Internal(format!("cannot walk the result: {e}")))?;
        let Ok(path) = entry.path().strip_prefix(root) else { continue };
        if !entry.file_type().is_file() {
            continue;
        }
        let file = std::fs::File::open(entry.path()).map_err(ExportError::io("open", entry.path()))?;
        let mut hashed = DigestWriter::new(std::io::sink());
        std::io::copy(&mut std::io::BufReader::new(file), &mut hashed)
            .map_err(ExportError::io("read", entry.path()))?;
        out.push(Subject::new(path.to_string_lossy(), &hashed.finish().1));
    }
    Ok(out)
}

/// `linux_arm_v7`.
fn directory(image: &ImageResult) -> String {
    image.platform.to_string().replace('/', "_")
}
