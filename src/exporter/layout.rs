//! OCI archives, OCI layout directories and Docker archives (SPEC B3.03, B3.04, C6.15).

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use super::assembly::{Assembly, Document};
use super::staging::{StagedFile, shown, write_stdout};
use super::{Dest, ExportContext, ExportError, OutputKind, OutputSpec, Ready, blocking};
use crate::base::digest::Hasher;
use crate::base::{Digest, file};
use crate::oci::layout::{MARKER, MARKER_NAME};
use crate::oci::manifest::to_json_pretty;
use crate::oci::{Descriptor, Index, Reference, media_type};
use crate::store::Store;

/// Everything a layout holds.
pub struct Content {
    store: Store,
    small: Vec<Document>,
    layers: Vec<Descriptor>,
    entries: Vec<Descriptor>,
}

pub(super) async fn prepare(
    context: &ExportContext<'_>,
    assembly: &Assembly,
    spec: &OutputSpec,
    names: &[Reference],
    id: &Digest,
) -> Result<Ready, ExportError> {
    let content = Content::gather(context, assembly, names, id).await?;
    let manifest = if spec.kind == OutputKind::Docker { content.docker_manifest(assembly, names)? } else { None };
    let dest = spec.dest.clone().ok_or_else(|| ExportError::Usage(format!("dest is required for {}", spec.title())))?;
    let mut sending = if spec.tar { "sending tarball" } else { "writing layout" };
    let ready = match dest {
        Dest::Path(dir) if !spec.tar => {
            Ready::Layout(blocking(move || StagedLayout::write(content, manifest, dir)).await?)
        }
        Dest::Path(path) => {
            let staged = blocking(move || StagedArchive::write(content, manifest, path)).await?;
            sending = if staged.file.is_some() { sending } else { "keeping tarball: nothing changed" };
            Ready::Archive(Box::new(staged))
        }
        Dest::Stdout => {
            let name = shown(&Dest::Stdout);
            Ready::Later(Box::new(move || write_stdout(|out| content.write_tar(manifest.as_deref(), out, &name))))
        }
    };
    context.events.progress(id, sending, 0, None, true);
    Ok(ready)
}

impl Content {
    /// Documents, blobs that are in the store, and what `index.json` names of them; each thing once.
    #[must_use]
    pub fn new(store: Store, mut small: Vec<Document>, mut blobs: Vec<Descriptor>, entries: Vec<Descriptor>) -> Self {
        let mut seen = std::collections::HashSet::new();
        // Attestations of several platforms share a config.
        small.retain(|document| seen.insert(document.descriptor.digest.clone()));
        blobs.retain(|blob| seen.insert(blob.digest.clone()));
        Self { store, small, layers: blobs, entries }
    }

    /// Brings in every byte, those of base layers nobody has read included.
    pub(super) async fn gather(
        context: &ExportContext<'_>,
        assembly: &Assembly,
        names: &[Reference],
        id: &Digest,
    ) -> Result<Self, ExportError> {
        let mut seen = std::collections::HashSet::new();
        let layers: Vec<_> = assembly
            .images
            .iter()
            .flat_map(|image| &image.layers)
            .filter(|layer| !media_type::is_foreign(&layer.descriptor.media_type))
            .filter(|layer| seen.insert(layer.descriptor.digest.clone()))
            .collect();
        let missing = layers.iter().map(|l| context.source.ensure_blob(&l.descriptor, &l.remotes, Some(id)));
        futures_util::future::try_join_all(missing).await?;
        let mut small = Vec::new();
        for image in &assembly.images {
            small.push(Document { descriptor: image.config.clone(), bytes: image.config_bytes.clone() });
            small.push(Document { descriptor: image.descriptor.clone(), bytes: image.manifest_bytes.clone() });
        }
        for attested in &assembly.attested {
            small.extend(attested.blobs.iter().cloned());
            small.push(attested.manifest.clone());
        }
        small.extend(assembly.index.clone());
        let layers = layers.into_iter().map(|l| l.descriptor.clone()).collect();
        Ok(Self::new(context.store.clone(), small, layers, assembly.entries(names)))
    }

    /// `manifest.json` of a Docker archive, which describes one image.
    pub(super) fn docker_manifest(
        &self,
        assembly: &Assembly,
        names: &[Reference],
    ) -> Result<Option<Vec<u8>>, ExportError> {
        let (None, [image]) = (&assembly.index, assembly.images.as_slice()) else { return Ok(None) };
        let tags = names.iter().filter(|n| n.tag.is_some()).map(Reference::familiar).collect();
        let entry = docker_entry(&image.config.digest, tags, image.layers.iter().map(|l| &l.descriptor.digest));
        Ok(Some(serde_json::Value::from(vec![entry]).to_string().into_bytes()))
    }

    /// What the archive has at least: all but its directories, its index and its end.
    fn tar_size(&self, manifest: Option<&[u8]>) -> u64 {
        let small = self.small.iter().map(|d| d.bytes.len() as u64).chain(manifest.map(|m| m.len() as u64));
        let contents = small.chain(self.layers.iter().map(|l| l.size));
        contents.map(|size| RECORD + size.next_multiple_of(RECORD)).sum()
    }

    /// The digest of all that [`Self::write_tar`] writes, blobs by theirs.
    fn outline(&self, manifest: Option<&[u8]>) -> Digest {
        let blobs: Vec<_> = self.small.iter().map(|document| &document.descriptor).chain(&self.layers).collect();
        let outline = serde_json::json!({"format": 1, "blobs": blobs, "index": self.entries, "manifest": manifest});
        Digest::sha256(outline.to_string())
    }

    /// Adds it to a layout directory, which is made if there is none.
    ///
    /// # Errors
    /// If something is missing, or a file cannot be written; nothing in it is named then.
    pub fn write_layout(self, dir: &Path) -> Result<(), ExportError> {
        StagedLayout::write(self, None, dir.to_owned())?.publish()
    }

    /// Writes one archive, with this `manifest.json` where it is Docker's; `name` is for messages.
    ///
    /// # Errors
    /// If a blob is not there, or `out` takes no more.
    pub fn write_tar<W: Write + ?Sized>(
        &self,
        manifest: Option<&[u8]>,
        out: &mut W,
        name: impl AsRef<Path>,
    ) -> Result<(), ExportError> {
        let fail = || ExportError::io("write", name.as_ref());
        let mut out = Archive { out, at: 0 };
        // Readers that unpack as an ordinary user make missing parents as root's and fail.
        for dir in ["blobs/", "blobs/sha256/"] {
            out.header(dir, tar::EntryType::Directory, 0).map_err(fail())?;
        }
        for document in &self.small {
            out.file(&blob_path(&document.descriptor.digest), &document.bytes).map_err(fail())?;
        }
        let mut buffer = Vec::new();
        for layer in &self.layers {
            let mut blob = self.store.open_blob(&layer.digest)?;
            out.header(&blob_path(&layer.digest), tar::EntryType::Regular, layer.size).map_err(fail())?;
            out.copy(&mut blob, layer.size, &mut buffer).map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => {
                    let text = format!("{} has fewer bytes than {}", layer.digest, layer.size);
                    fail()(io::Error::new(error.kind(), text))
                }
                _ => fail()(error),
            })?;
        }
        out.file("index.json", &to_json_pretty(&Index::new(self.entries.clone()))).map_err(fail())?;
        if let Some(manifest) = manifest {
            out.file("manifest.json", manifest).map_err(fail())?;
        }
        out.file(MARKER_NAME, MARKER).map_err(fail())?;
        out.write(&[0; 1024]).map_err(fail())
    }
}

/// What tar counts in.
const RECORD: u64 = 512;
/// Bytes copied at a time: fewer, and the kernel takes its locks more often; more, and they leave the processor's cache. What
/// is written to must not collect more: then pieces go past what it has collected.
pub const PIECE: usize = 512 << 10;
/// Where pieces begin in the archive is a multiple of this: the page cache takes whole pages, in large folios where it can.
const PAGE: u64 = 4096;

/// A tar being written.
struct Archive<'a, W: ?Sized> {
    out: &'a mut W,
    /// Bytes written.
    at: u64,
}

impl<W: Write + ?Sized> Archive<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    fn header(&mut self, path: &str, kind: tar::EntryType, size: u64) -> io::Result<()> {
        let mut header = tar::Header::new_ustar();
        header.set_path(path)?;
        header.set_entry_type(kind);
        header.set_mode(if kind == tar::EntryType::Directory { 0o755 } else { 0o644 });
        header.set_size(size);
        header.set_mtime(0);
        header.set_cksum();
        self.write(header.as_bytes())
    }

    fn file(&mut self, path: &str, bytes: &[u8]) -> io::Result<()> {
        self.header(path, tar::EntryType::Regular, bytes.len() as u64)?;
        self.write(bytes)?;
        self.pad()
    }

    /// Fills the last record of a file.
    fn pad(&mut self) -> io::Result<()> {
        let over = (self.at.next_multiple_of(RECORD) - self.at) as usize;
        self.write(&[0; RECORD as usize][..over])
    }

    /// Copies `size` bytes and fills the last record. `copy_file_range` would go page by page through a pipe, and as the target
    /// does not begin where a page does, touch each page twice: that takes nearly twice as long, where no file system could
    /// share extents anyway.
    fn copy(&mut self, from: &mut impl Read, size: u64, buffer: &mut Vec<u8>) -> io::Result<()> {
        let mut left = size;
        while left > 0 {
            // The first piece ends where a page does. None but the last is smaller than what a buffer in between holds.
            let piece = (PIECE as u64 + self.at.next_multiple_of(PAGE) - self.at).min(left);
            buffer.clear();
            // At once: a buffer that doubles touches four times as many pages.
            buffer.reserve(piece as usize);
            if from.take(piece).read_to_end(buffer)? as u64 != piece {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.write(buffer)?;
            left -= piece;
        }
        self.pad()
    }
}

/// An image in the `manifest.json` of a Docker archive.
#[must_use]
pub fn docker_entry<'a>(
    config: &Digest,
    tags: Vec<String>,
    layers: impl Iterator<Item = &'a Digest>,
) -> serde_json::Value {
    let layers: Vec<String> = layers.map(blob_path).collect();
    serde_json::json!({"Config": blob_path(config), "RepoTags": tags, "Layers": layers})
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.hex())
}

/// An archive that is in a file under a temporary name, or under its own since an earlier build.
pub(super) struct StagedArchive {
    content: Content,
    manifest: Option<Vec<u8>>,
    path: PathBuf,
    /// Names everything in the archive: equal ones have equal bytes.
    outline: Digest,
    /// What was written; nothing if what is there can stay.
    file: Option<StagedFile>,
}

impl StagedArchive {
    fn write(content: Content, manifest: Option<Vec<u8>>, path: PathBuf) -> Result<Self, ExportError> {
        let outline = content.outline(manifest.as_deref());
        let mut archive = Self { content, manifest, path, outline, file: None };
        if !archive.content.store.has_archive(&archive.path, &archive.outline)? {
            archive.file = Some(archive.file()?);
        }
        Ok(archive)
    }

    fn file(&self) -> Result<StagedFile, ExportError> {
        let (content, manifest) = (&self.content, self.manifest.as_deref());
        StagedFile::write(&self.path, Some(content.tar_size(manifest)), |out| {
            content.write_tar(manifest, out, &self.path)
        })
    }

    /// Gives it its name; one that has it gets the time of a new one.
    pub(super) fn publish(mut self) -> Result<(), ExportError> {
        let store = self.content.store.clone();
        let file = match self.file.take() {
            Some(file) => file,
            None if store.renew_archive(&self.path, &self.outline)? => return Ok(()),
            // Somebody changed it in the meantime.
            None => self.file()?,
        };
        file.publish_archive(&store, &self.outline)
    }
}

/// A layout directory whose blobs are there; its `index.json` does not name them yet.
pub(super) struct StagedLayout {
    dir: PathBuf,
    entries: Vec<Descriptor>,
    manifest: Option<Vec<u8>>,
}

impl StagedLayout {
    fn write(content: Content, manifest: Option<Vec<u8>>, dir: PathBuf) -> Result<Self, ExportError> {
        let blob = |digest: &Digest| dir.join(blob_path(digest));
        let blobs = dir.join("blobs/sha256");
        fs::create_dir_all(&blobs).map_err(ExportError::io("create", &blobs))?;
        read_index(&dir.join("index.json"))?;
        for document in &content.small {
            let path = blob(&document.descriptor.digest);
            file::write_atomic(&path, &document.bytes).map_err(ExportError::io("write", &path))?;
        }
        for layer in &content.layers {
            let path = blob(&layer.digest);
            if fs::metadata(&path).is_ok_and(|m| m.len() == layer.size) {
                continue;
            }
            // File to file: the kernel copies, or shares the extents where the file system can.
            store_blob(&path, &mut content.store.open_blob(&layer.digest)?)?;
        }
        Ok(Self { dir, entries: content.entries, manifest })
    }

    /// Names the image in `index.json`; entries of the same name are replaced (SPEC C6.15).
    pub(super) fn publish(self) -> Result<(), ExportError> {
        publish(&self.dir, &self.entries, self.manifest.as_deref())
    }
}

/// Names what is in a layout directory in its `index.json`; entries of the same name are replaced (SPEC C6.15).
///
/// # Errors
/// If a file cannot be written, or is no index.
pub fn name(dir: &Path, entries: &[Descriptor]) -> Result<(), ExportError> {
    publish(dir, entries, None)
}

fn publish(dir: &Path, entries: &[Descriptor], manifest: Option<&[u8]>) -> Result<(), ExportError> {
    let write = |name: &str, bytes: &[u8]| {
        let path = dir.join(name);
        file::write_atomic(&path, bytes).map_err(ExportError::io("write", path))
    };
    // Two builds may add to one layout.
    let lock = File::open(dir).map_err(ExportError::io("open", dir))?;
    rustix::fs::flock(&lock, FlockOperation::LockExclusive).map_err(|e| ExportError::io("lock", dir)(e.into()))?;
    write(MARKER_NAME, MARKER)?;
    if let Some(manifest) = manifest {
        write("manifest.json", manifest)?;
    }
    let mut index = read_index(&dir.join("index.json"))?;
    index.manifests.retain(|old| {
        let replaced =
            |new: &Descriptor| name_of(new) == name_of(old) && (name_of(new).is_some() || new.digest == old.digest);
        !entries.iter().any(replaced)
    });
    index.manifests.extend_from_slice(entries);
    write("index.json", &to_json_pretty(&index))
}

/// What an entry of `index.json` is found by.
fn name_of(entry: &Descriptor) -> Option<&String> {
    ["io.containerd.image.name", "org.opencontainers.image.ref.name"].iter().find_map(|key| entry.annotations.get(*key))
}

/// The file of a blob in a layout directory.
#[must_use]
pub fn path_of(dir: &Path, digest: &Digest) -> PathBuf {
    dir.join(blob_path(digest))
}

/// Whether a layout directory has a blob.
#[must_use]
pub fn has_blob(dir: &Path, digest: &Digest) -> bool {
    dir.join(blob_path(digest)).is_file()
}

/// Writes a blob into a layout directory, which is made where it is not there; verified.
///
/// # Errors
/// If it cannot be written, or has another digest.
pub fn put_blob(dir: &Path, digest: &Digest, source: &mut impl io::Read) -> Result<(), ExportError> {
    let path = dir.join(blob_path(digest));
    let parent = path.parent().unwrap_or(dir);
    fs::create_dir_all(parent).map_err(ExportError::io("create", parent))?;
    store_blob(&path, &mut Verified { source, hasher: digest.hasher(), digest })
}

/// Writes a file that is there whole or not at all.
fn store_blob(path: &Path, source: &mut impl io::Read) -> Result<(), ExportError> {
    let temp = file::beside(path).map_err(ExportError::io("create", path))?;
    io::copy(source, &mut temp.as_file()).map_err(ExportError::io("write", path))?;
    file::publish(temp, path).map_err(ExportError::io("rename to", path))
}

/// A stream that fails at its end where it is not what it should be.
struct Verified<'a, R> {
    source: &'a mut R,
    hasher: Hasher,
    digest: &'a Digest,
}

impl<R: io::Read> io::Read for Verified<'_, R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(out)?;
        if read > 0 || out.is_empty() {
            self.hasher.update(&out[..read]);
            return Ok(read);
        }
        let actual = std::mem::replace(&mut self.hasher, self.digest.hasher()).finish();
        if actual == *self.digest { Ok(0) } else { Err(io::Error::other(format!("its digest is {actual}"))) }
    }
}

fn read_index(path: &Path) -> Result<Index, ExportError> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice::<Index>(&bytes)
            .map_err(|e| ExportError::Usage(format!("{} is not an index: {e}", path.display()))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Index::new(Vec::new())),
        Err(e) => Err(ExportError::io("read", path)(e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blobs_of_every_size_come_out_as_they_were() {
        let piece = PIECE;
        let sizes = [0, 1, 511, 512, 4096, piece - 1, piece, piece + 1, piece + 4096, 3 * piece + 77];
        let blob = |size: usize| (0..size).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect::<Vec<u8>>();
        let mut bytes = Vec::new();
        let mut out = Archive { out: &mut bytes, at: 0 };
        let mut buffer = Vec::new();
        for size in sizes {
            out.header(&size.to_string(), tar::EntryType::Regular, size as u64).expect("writes");
            // What the source has beyond is not copied.
            let longer = [blob(size), vec![1; 9]].concat();
            out.copy(&mut &longer[..], size as u64, &mut buffer).expect("copies");
        }
        assert_eq!(out.at, bytes.len() as u64);
        let mut archive = tar::Archive::new(&bytes[..]);
        let found = archive.entries().expect("a tar").map(|entry| {
            let (mut entry, mut content) = (entry.expect("an entry"), Vec::new());
            entry.read_to_end(&mut content).expect("reads");
            (entry.path().expect("a name").to_string_lossy().into_owned(), content)
        });
        let found: Vec<_> = found.collect();
        assert_eq!(found.len(), sizes.len());
        for (size, (name, content)) in sizes.into_iter().zip(found) {
            assert!(name == size.to_string() && content == blob(size), "{size} bytes");
        }
    }

    #[test]
    fn a_blob_that_ends_early_is_an_error() {
        let (mut bytes, mut buffer) = (Vec::new(), Vec::new());
        let mut out = Archive { out: &mut bytes, at: 512 };
        let error = out.copy(&mut &[0; 100][..], 101, &mut buffer).expect_err("is short");
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
