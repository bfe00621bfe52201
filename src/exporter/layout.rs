//! OCI archives, OCI layout directories and Docker archives (SPEC B3.03, B3.04, C6.15).

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use super::image::{Assembled, entry_annotations};
use super::{Dest, ExportContext, ExportError, OutputSpec, blocking};
use crate::base::{Digest, file};
use crate::oci::manifest::to_json_pretty;
use crate::oci::{Descriptor, Index, Reference};
use crate::store::Store;

const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// Everything an archive holds besides `index.json`.
struct Content {
    store: Store,
    small: Vec<(Digest, bytes::Bytes)>,
    layers: Vec<Descriptor>,
}

pub(super) async fn oci(
    context: &ExportContext<'_>,
    image: &Assembled,
    spec: &OutputSpec,
    id: &Digest,
) -> Result<(), ExportError> {
    let content = content(context, image, id).await?;
    let entries = entries(image, &spec.names);
    let dest = destination(spec)?;
    let tar = spec.tar;
    blocking(move || match dest {
        Dest::Path(path) if !tar => directory(&content, entries, &path),
        dest => archive(&content, &entries, None, &dest),
    })
    .await?;
    let sending = if tar { "sending tarball" } else { "writing layout" };
    context.events.progress(id, sending, 0, None, true);
    Ok(())
}

pub(super) async fn docker(
    context: &ExportContext<'_>,
    image: &Assembled,
    spec: &OutputSpec,
    id: &Digest,
) -> Result<(), ExportError> {
    let content = content(context, image, id).await?;
    let entries = entries(image, &spec.names);
    let path = |d: &Digest| format!("blobs/{}/{}", d.algorithm(), d.hex());
    let manifest = serde_json::json!([{
        "Config": path(&image.config.digest),
        "RepoTags": spec.names.iter().map(Reference::familiar).collect::<Vec<_>>(),
        "Layers": image.layers.iter().map(|l| path(&l.descriptor.digest)).collect::<Vec<_>>(),
    }]);
    let manifest = serde_json::to_vec(&manifest).map_err(|e| ExportError::Internal(e.to_string()))?;
    let dest = destination(spec)?;
    blocking(move || archive(&content, &entries, Some(&manifest), &dest)).await?;
    context.events.progress(id, "sending tarball", 0, None, true);
    Ok(())
}

fn destination(spec: &OutputSpec) -> Result<Dest, ExportError> {
    spec.dest.clone().ok_or_else(|| ExportError::Usage(format!("dest is required for {}", spec.title())))
}

async fn content(context: &ExportContext<'_>, image: &Assembled, id: &Digest) -> Result<Content, ExportError> {
    // An archive holds every byte, those of base layers nobody has read included.
    let missing = image.layers.iter().map(|l| context.source.ensure_blob(&l.descriptor, &l.remotes, Some(id)));
    futures_util::future::try_join_all(missing).await.map_err(|e| ExportError::Source {
        kind: e.kind(),
        message: e.to_string(),
        hint: e.hint(),
    })?;
    Ok(Content {
        store: context.store.clone(),
        small: vec![
            (image.config.digest.clone(), image.config_bytes.clone()),
            (image.descriptor.digest.clone(), image.manifest_bytes.clone()),
        ],
        layers: image.layers.iter().map(|l| l.descriptor.clone()).collect(),
    })
}

/// One index entry per name; one without a name if there is none.
fn entries(image: &Assembled, names: &[Reference]) -> Vec<Descriptor> {
    let entry = |name: Option<&Reference>| Descriptor {
        annotations: entry_annotations(image, name),
        ..image.descriptor.clone()
    };
    if names.is_empty() { vec![entry(None)] } else { names.iter().map(|n| entry(Some(n))).collect() }
}

/// Writes to a temporary file and renames it, or to standard output.
pub(super) fn write_file(
    dest: &Dest,
    write: impl FnOnce(&mut (dyn Write + Send)) -> Result<(), ExportError>,
) -> Result<(), ExportError> {
    let path = match dest {
        Dest::Stdout => {
            let out = rustix::io::dup(rustix::stdio::stdout())
                .map_err(|e| ExportError::io("write", "standard output")(e.into()))?;
            let mut out = BufWriter::with_capacity(1 << 20, File::from(out));
            write(&mut out)?;
            return out.flush().map_err(ExportError::io("write", "standard output"));
        }
        Dest::Path(path) => path,
    };
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(ExportError::io("create", parent))?;
    let temp = tempfile::Builder::new()
        .prefix(".rbuild-")
        .tempfile_in(parent)
        .map_err(ExportError::io("create a file in", parent))?;
    let mut out = BufWriter::with_capacity(1 << 20, temp.as_file());
    write(&mut out)?;
    out.flush().map_err(ExportError::io("write", path))?;
    drop(out);
    let mode = rustix::fs::Mode::from_raw_mode(0o666 & !file::umask());
    rustix::fs::fchmod(temp.as_file(), mode).map_err(|e| ExportError::io("write", path)(e.into()))?;
    temp.persist(path).map_err(|e| ExportError::io("rename to", path)(e.error))?;
    Ok(())
}

fn archive(content: &Content, entries: &[Descriptor], manifest: Option<&[u8]>, dest: &Dest) -> Result<(), ExportError> {
    let shown = match dest {
        Dest::Path(path) => path.clone(),
        Dest::Stdout => PathBuf::from("standard output"),
    };
    write_file(dest, |out| {
        let mut tar = tar::Builder::new(out);
        // Readers that unpack as an ordinary user make missing parents as root's and fail.
        for dir in ["blobs/", "blobs/sha256/"] {
            let mut header = tar::Header::new_ustar();
            header.set_entry_type(tar::EntryType::Directory);
            header.set_mode(0o755);
            header.set_size(0);
            header.set_mtime(0);
            tar.append_data(&mut header, dir, io::empty()).map_err(ExportError::io("write", shown.clone()))?;
        }
        let mut done = std::collections::HashSet::new();
        let mut add = |name: &str, size: u64, reader: &mut dyn Read| -> io::Result<()> {
            let mut header = tar::Header::new_ustar();
            header.set_mode(0o644);
            header.set_size(size);
            header.set_mtime(0);
            tar.append_data(&mut header, name, reader)
        };
        let fail = || ExportError::io("write", shown.clone());
        for (digest, bytes) in &content.small {
            add(&blob_path(digest), bytes.len() as u64, &mut &bytes[..]).map_err(fail())?;
        }
        for layer in &content.layers {
            if done.insert(&layer.digest) {
                let mut blob = content.store.open_blob(&layer.digest)?;
                add(&blob_path(&layer.digest), layer.size, &mut blob).map_err(fail())?;
            }
        }
        let index = to_json_pretty(&Index::new(entries.to_vec()));
        add("index.json", index.len() as u64, &mut index.as_slice()).map_err(fail())?;
        if let Some(manifest) = manifest {
            add("manifest.json", manifest.len() as u64, &mut &manifest[..]).map_err(fail())?;
        }
        add("oci-layout", LAYOUT.len() as u64, &mut &LAYOUT[..]).map_err(fail())?;
        tar.finish().map_err(fail())
    })
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.hex())
}

/// Adds to a layout directory; `index.json` is replaced last, entries of the same name are replaced (SPEC C6.15).
fn directory(content: &Content, entries: Vec<Descriptor>, dir: &Path) -> Result<(), ExportError> {
    let blob = |digest: &Digest| dir.join(blob_path(digest));
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs).map_err(ExportError::io("create", &blobs))?;
    for (digest, bytes) in &content.small {
        file::write_atomic(&blob(digest), bytes).map_err(ExportError::io("write", blob(digest)))?;
    }
    for layer in &content.layers {
        let path = blob(&layer.digest);
        if fs::metadata(&path).is_ok_and(|m| m.len() == layer.size) {
            continue;
        }
        let mut source = content.store.open_blob(&layer.digest)?;
        write_file(&Dest::Path(path.clone()), |out| {
            io::copy(&mut source, out).map_err(ExportError::io("write", &path))?;
            Ok(())
        })?;
    }
    file::write_atomic(&dir.join("oci-layout"), LAYOUT).map_err(ExportError::io("write", dir.join("oci-layout")))?;
    let path = dir.join("index.json");
    let mut index = match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice::<Index>(&bytes)
            .map_err(|e| ExportError::Usage(format!("{} is not an index: {e}", path.display())))?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => Index::new(Vec::new()),
        Err(e) => return Err(ExportError::io("read", &path)(e)),
    };
    let name = |d: &Descriptor| d.annotations.get("io.containerd.image.name").cloned();
    index.manifests.retain(|old| {
        !entries.iter().any(|new| name(new) == name(old) && (name(new).is_some() || new.digest == old.digest))
    });
    index.manifests.extend(entries);
    file::write_atomic(&path, &to_json_pretty(&index)).map_err(ExportError::io("write", &path))
}
