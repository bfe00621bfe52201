//! Local directories of which a front end wants a list, and few files or none (SPEC C2.06): what is where, of what kind and size.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use prost::Message as _;

use super::keys::{Hit, Keyed};
use super::tree::{self, LocalTree, Tree};
use super::{SolveError, Solver, blocking};
use crate::base::{Digest, FaultKind};
use crate::cache::key::{self, Part, Selection};
use crate::exec::file;
use crate::llb::Vertex;
use crate::llb::op::FileActionCopy;
use crate::store::{CacheRecord, LayerId, MountRequest, Store};
use crate::tree::look;

/// The file that the list is, as BuildKit calls it.
const LIST: &str = ".fsutil-metadata";
/// Go's bit of directories.
const DIRECTORY: u32 = 1 << 31;
/// A directory of more entries is not listed.
const MAX_ENTRIES: usize = 1_000_000;

impl Solver {
    /// A tree with the list of a directory, and with what of it matches `whole`.
    pub(super) async fn list(
        self: &Arc<Self>,
        vertex: &Arc<Vertex>,
        local: Arc<LocalTree>,
        whole: Vec<String>,
    ) -> Result<Keyed, SolveError> {
        let (directory, place) = (Arc::clone(&local), Arc::clone(vertex));
        let list = blocking(move || made(&place, &directory)).await?;
        let mut parts = vec![Part::Content(Digest::sha256(&list))];
        if !whole.is_empty() {
            let selection = Selection { include: whole.clone(), ..super::keys::whole() };
            parts.push(Part::Content(self.content(vertex, &Tree::Local(Arc::clone(&local)), &[selection]).await?));
        }
        let key = key::combine(&Digest::sha256("list of a local directory"), &parts);
        let (store, place, name) = (self.env.store.clone(), Arc::clone(vertex), key.clone());
        let chain = blocking(move || local.listed(&store, &place, &name, &list, whole)).await?;
        let hit = Hit { canonical: key.clone(), outputs: vec![Tree::Layers(chain)], source: true, parts: Vec::new() };
        Ok(Keyed::found(key, hit))
    }
}

/// The list: each entry behind its length, a directory before what is in it.
fn made(vertex: &Vertex, local: &LocalTree) -> Result<Vec<u8>, SolveError> {
    let fail = |why: String| SolveError::at(vertex, FaultKind::Input, why, None);
    let entries = look::all(&local.source).map_err(|e| fail(format!("cannot list the directory: {e}")))?;
    if entries.len() > MAX_ENTRIES {
        return Err(fail(format!("a directory of more than {MAX_ENTRIES} entries is not listed")));
    }
    let mut list = Vec::new();
    for (path, entry) in entries.into_iter().filter(|(path, _)| path != LIST) {
        let mut told = entry.told();
        told.path = path;
        // How large a directory is depends on where it is.
        if told.mode & DIRECTORY != 0 {
            told.size = 0;
        }
        let length = u32::try_from(told.encoded_len()).unwrap_or(u32::MAX);
        list.extend_from_slice(&length.to_le_bytes());
        list.extend_from_slice(&told.encode_to_vec());
    }
    Ok(list)
}

impl LocalTree {
    fn listed(
        &self,
        store: &Store,
        vertex: &Vertex,
        key: &crate::base::CacheKey,
        list: &[u8],
        whole: Vec<String>,
    ) -> Result<Vec<LayerId>, SolveError> {
        let fail = |e| tree::store_error(vertex, &e);
        let _lock = store.key_lock(key).map_err(fail)?;
        if let Some(record) = store.record(key).map_err(fail)? {
            return Ok(record.outputs.into_iter().next().unwrap_or_default());
        }
        let mounted = store.mount(&[], &MountRequest::writable(Vec::new())).map_err(fail)?;
        if !whole.is_empty() {
            let all = FileActionCopy::contents("/", "/");
            let copy = FileActionCopy { create_dest_path: true, follow_symlink: true, include_patterns: whole, ..all };
            let copied = file::copy(&self.source, mounted.root(), &copy, None);
            copied.map_err(|e| tree::file_error(vertex, &e, Some(self)))?;
        }
        let path = mounted.root().join(LIST);
        let write = || {
            std::fs::write(&path, list)?;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644))?;
            std::fs::File::options().write(true).open(&path)?.set_modified(std::time::UNIX_EPOCH)
        };
        write().map_err(|e| {
            let kind = FaultKind::of_io(&e, FaultKind::Store);
            SolveError::at(vertex, kind, format!("cannot write the list of a directory: {e}"), None)
        })?;
        let description = format!("list of the local directory {}", self.source.root.display());
        let layer = mounted.commit(&description).map_err(fail)?;
        store.put_record(&CacheRecord::new(key, vec![vec![layer.clone()]], &description)).map_err(fail)?;
        Ok(vec![layer])
    }
}
