//! Putting archive entries on disk: owner, mode, attributes and time exactly, or a note why not.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::{Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, XattrFlags};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use super::entry::{Entry, EntryKind, OPAQUE_NAME, WHITEOUT_PREFIX, clean_path, xattr_allowed};
use super::error::ArchiveError;
use super::index::{IndexBuilder, TreeIndex};
use super::lowers::Lowers;
use super::notes::{Note, NoteKind, Notes};
use super::reader::{Member, Piece, TarReader};
use super::scan::mtime_of;
use super::target::{Missing, Place, Target, is_whiteout_stat, timestamps};
use crate::base::owner;

/// What the archive is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// A layer for an overlay directory.
    Overlay,
    /// A layer for a plain tree.
    Native,
    /// Files for an existing tree; nothing in it means a deletion.
    Files,
}

/// Extracts members one after another.
pub(super) struct Extractor {
    target: Target,
    meaning: Meaning,
    /// Where in the target, without symlinks.
    base: PathBuf,
    owner: Option<(u32, u32)>,
    devices: bool,
    notes: Notes,
    index: IndexBuilder,
    /// What this layer put into a plain tree, which its deletions do not touch (hashed paths).
    fresh: HashSet<u64>,
    hasher: RandomState,
}

impl Extractor {
    pub(super) fn new(
        root: &Path,
        lowers: Lowers,
        meaning: Meaning,
        owner: Option<(u32, u32)>,
    ) -> Result<Self, ArchiveError> {
        Ok(Self {
            target: Target::open(root, lowers, meaning != Meaning::Files)?,
            meaning,
            base: PathBuf::new(),
            owner,
            devices: true,
            notes: Notes::default(),
            index: IndexBuilder::default(),
            fresh: HashSet::new(),
            hasher: RandomState::new(),
        })
    }

    /// Makes no device nodes.
    pub(super) fn without_devices(self) -> Self {
        Self { devices: false, ..self }
    }

    /// Makes all names relative to the directory `dest`, which is made if it is missing.
    pub(super) fn enter(&mut self, dest: &Path) -> Result<(), ArchiveError> {
        if let Some(place) = self.target.resolve(dest, Missing::Create)? {
            self.base = place.real;
        }
        Ok(())
    }

    /// Extracts everything that `reader` has.
    pub(super) fn run(&mut self, reader: &mut TarReader<'_>) -> Result<(), ArchiveError> {
        while let Some(member) = reader.next()? {
            self.member(member, reader)?;
        }
        Ok(())
    }

    /// Sets the times of directories; what was noted and indexed.
    pub(super) fn finish(self) -> Result<(TreeIndex, Vec<Note>), ArchiveError> {
        self.target.finish()?;
        Ok((self.index.finish(), self.notes.into_list()))
    }

    fn member(&mut self, member: Member, reader: &mut TarReader<'_>) -> Result<(), ArchiveError> {
        let shown = PathBuf::from(OsStr::from_bytes(&member.name));
        if let Some(flag) = member.unknown {
            self.notes.add(NoteKind::UnknownType(flag), &shown);
            return Ok(());
        }
        let Some(path) = clean_path(&member.name) else {
            return Err(ArchiveError::refused(&shown, "the name leads out of the archive"));
        };
        let (offset, data_offset) = (member.offset, member.data_offset);
        let Some(name) = path.file_name().map(OsStr::to_owned) else {
            if member.entry.kind != EntryKind::Dir {
                return Err(ArchiveError::refused(&shown, "only a directory can be the root"));
            }
            return self.root(member.entry, member.offset, member.data_offset);
        };
        let mut entry = member.entry;
        let parent = self.base.join(path.parent().unwrap_or(Path::new("")));
        if self.meaning != Meaning::Files && name.as_bytes().starts_with(WHITEOUT_PREFIX) {
            return self.deletion(&parent, &name, (offset, data_offset), &shown);
        }
        self.sanitise(&mut entry, &path);
        if entry.kind == EntryKind::Char && entry.device == (0, 0) {
            self.notes.add(NoteKind::DeviceZero, &path);
            return Ok(());
        }
        if !self.devices && matches!(entry.kind, EntryKind::Char | EntryKind::Block) {
            self.notes.add(NoteKind::DeviceRefused, &path);
            return Ok(());
        }
        let Some(place) = self.target.dir(&parent, Missing::Create)? else { return Ok(()) };
        self.index_implied(offset);
        entry.path = place.real.join(&name);
        let digest = match entry.kind {
            EntryKind::File => Some(self.file(&place, &name, &entry, reader)?),
            EntryKind::Dir => {
                self.directory(&place, &name, &entry)?;
                None
            }
            EntryKind::Symlink => {
                self.symlink(&place, &name, &entry)?;
                None
            }
            EntryKind::Hardlink => {
                entry.link = self.hardlink(&place, &name, &entry, &member.link)?;
                None
            }
            EntryKind::Char | EntryKind::Block | EntryKind::Fifo => {
                self.node(&place, &name, &entry)?;
                None
            }
            EntryKind::Whiteout => None,
        };
        if let Meaning::Native = self.meaning {
            self.fresh.insert(self.hasher.hash_one(&entry.path));
        }
        if let Meaning::Native | Meaning::Overlay = self.meaning {
            self.index.push(&entry, digest, offset, data_offset);
        }
        Ok(())
    }

    /// Drops the attributes that an archive may not bring, applies the owner asked for.
    fn sanitise(&mut self, entry: &mut Entry, path: &Path) {
        let notes = &mut self.notes;
        entry.xattrs.retain(|name, _| {
            let allowed = xattr_allowed(name);
            if !allowed {
                notes.add(NoteKind::XattrDropped(String::from_utf8_lossy(name).into_owned()), path);
            }
            allowed
        });
        if let Some((uid, gid)) = self.owner {
            (entry.uid, entry.gid) = (uid, gid);
        }
    }

    fn index_implied(&mut self, offset: u64) {
        for entry in std::mem::take(&mut self.target.implied) {
            if self.meaning != Meaning::Files {
                self.index.push(&entry, None, offset, offset);
            }
        }
    }

    fn root(&mut self, mut entry: Entry, offset: u64, data_offset: u64) -> Result<(), ArchiveError> {
        self.sanitise(&mut entry, Path::new("."));
        let place = if self.base.as_os_str().is_empty() {
            Some(self.target.root())
        } else {
            self.target.dir(&self.base.clone(), Missing::Create)?
        };
        let Some(place) = place else { return Ok(()) };
        if self.base.as_os_str().is_empty() {
            self.target.root_told();
        }
        entry.path.clone_from(&self.base);
        self.directory_metadata(&place, OsStr::new("."), &entry, true)?;
        if self.meaning != Meaning::Files {
            self.index.push(&entry, None, offset, data_offset);
        }
        Ok(())
    }

    fn file(
        &mut self,
        place: &Place,
        name: &OsStr,
        entry: &Entry,
        reader: &mut TarReader<'_>,
    ) -> Result<[u8; 32], ArchiveError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // Often it is as it should be at once. Attributes need a file that its owner may write.
        let plain = entry.xattrs.is_empty() && !owner::are_recorded();
        let at_first = if plain { entry.mode & 0o777 } else { 0o600 };
        let open = || rustix::fs::openat(place, name, flags, Mode::from_raw_mode(at_first));
        let mut opened = open();
        if matches!(opened, Err(Errno::EXIST)) {
            self.target.remove(place, name)?;
            opened = open();
        }
        let mut file = File::from(opened.map_err(|e| self.target.error("create", &entry.path, e))?);
        let mut hasher = Sha256::new();
        let mut hole_at_end = false;
        let failed = |target: &Target, e| ArchiveError::io("write", &target.shown(&entry.path), e);
        while let Some(piece) = reader.piece()? {
            match &piece {
                Piece::Data(bytes) => {
                    file.write_all(bytes).map_err(|e| failed(&self.target, e))?;
                    hole_at_end = false;
                }
                Piece::Hole(length) => {
                    let forward = SeekFrom::Current(i64::try_from(*length).unwrap_or(i64::MAX));
                    file.seek(forward).map_err(|e| failed(&self.target, e))?;
                    hole_at_end = true;
                }
            }
            piece.hash_into(&mut hasher);
        }
        if hole_at_end {
            file.set_len(entry.size).map_err(|e| failed(&self.target, e))?;
        }
        if !plain || !self.looks_like(file.as_fd(), entry)? {
            self.file_metadata(file.as_fd(), entry)?;
        }
        rustix::fs::futimens(&file, &timestamps(entry.mtime))
            .map_err(|e| self.target.error("set the time of", &entry.path, e))?;
        Ok(hasher.finalize().into())
    }

    /// Whether owner and mode are right already: to look costs a fifth of what it costs to set them.
    fn looks_like(&self, fd: BorrowedFd<'_>, entry: &Entry) -> Result<bool, ArchiveError> {
        let stat = rustix::fs::fstat(fd).map_err(|e| self.target.error("inspect", &entry.path, e))?;
        Ok((stat.st_uid, stat.st_gid, stat.st_mode & 0o7777) == (entry.uid, entry.gid, entry.mode))
    }

    /// Owner first, since changing it clears setuid and capabilities; mode last, since it may forbid setting attributes.
    fn file_metadata(&mut self, fd: BorrowedFd<'_>, entry: &Entry) -> Result<(), ArchiveError> {
        let owned = ids(entry).and_then(|(uid, gid)| owner::set_fd(fd, uid, gid));
        let mode = self.mode_after_chown(owned, entry)?;
        for (name, value) in &entry.xattrs {
            match rustix::fs::fsetxattr(fd, owner::kept_as(name), value, XattrFlags::empty()) {
                Ok(()) => {}
                Err(Errno::PERM | Errno::OPNOTSUPP | Errno::INVAL) => {
                    let kind = NoteKind::XattrRefused(String::from_utf8_lossy(name).into_owned());
                    self.notes.add(kind, &entry.path);
                }
                Err(e) => return Err(self.target.error("set an attribute of", &entry.path, e)),
            }
        }
        owner::set_mode(fd, mode).map_err(|e| self.target.error("change the mode of", &entry.path, e))
    }

    /// Notes ids that cannot be given here. Such a file belongs to us instead, so it must not be setuid.
    fn mode_after_chown(&mut self, result: Result<(), Errno>, entry: &Entry) -> Result<Mode, ArchiveError> {
        match result {
            Ok(()) => Ok(Mode::from_raw_mode(entry.mode)),
            Err(Errno::INVAL | Errno::PERM) => {
                self.notes.add(NoteKind::UnmappedOwner { uid: entry.uid, gid: entry.gid }, &entry.path);
                let set_id = if entry.kind == EntryKind::Dir { 0 } else { 0o6000 };
                Ok(Mode::from_raw_mode(entry.mode & !set_id))
            }
            Err(e) => Err(self.target.error("change the owner of", &entry.path, e)),
        }
    }

    fn directory(&mut self, place: &Place, name: &OsStr, entry: &Entry) -> Result<(), ArchiveError> {
        let make = || rustix::fs::mkdirat(place, name, Mode::RWXU);
        let mut existed = false;
        match make() {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                let stat = self.target.stat(place, name)?;
                existed = stat.is_some_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::Directory);
                if !existed {
                    self.target.remove(place, name)?;
                    make().map_err(|e| self.target.error("create directory", &entry.path, e))?;
                    // It takes the place of something that hid what lower layers have here.
                    self.target.hide_lowers(&entry.path)?;
                }
            }
            Err(e) => return Err(self.target.error("create directory", &entry.path, e)),
        }
        self.directory_metadata(place, name, entry, existed)
    }

    fn directory_metadata(
        &mut self,
        place: &Place,
        name: &OsStr,
        entry: &Entry,
        existed: bool,
    ) -> Result<(), ArchiveError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(place, name, flags, Mode::empty())
            .map_err(|e| self.target.error("open", &entry.path, e))?;
        if existed && self.meaning != Meaning::Files {
            // The entry says all there is about the directory.
            for stale in super::scan::xattrs_of(&self.target.shown(&entry.path))?.keys() {
                if !entry.xattrs.contains_key(stale) {
                    rustix::fs::fremovexattr(&fd, owner::kept_as(stale))
                        .map_err(|e| self.target.error("remove an attribute of", &entry.path, e))?;
                }
            }
        }
        self.file_metadata(fd.as_fd(), entry)?;
        self.target.set_time(&entry.path, entry.mtime);
        Ok(())
    }

    fn symlink(&mut self, place: &Place, name: &OsStr, entry: &Entry) -> Result<(), ArchiveError> {
        let text = entry.link.as_os_str();
        if text.is_empty() || text.as_bytes().contains(&0) {
            return Err(ArchiveError::refused(&entry.path, "a symlink without a target"));
        }
        let make = || rustix::fs::symlinkat(text, place, name);
        let mut made = make();
        if made == Err(Errno::EXIST) {
            self.target.remove(place, name)?;
            made = make();
        }
        made.map_err(|e| self.target.error("create the symlink", &entry.path, e))?;
        self.path_metadata(place, name, entry)
    }

    fn node(&mut self, place: &Place, name: &OsStr, entry: &Entry) -> Result<(), ArchiveError> {
        let kind = match entry.kind {
            EntryKind::Char => FileType::CharacterDevice,
            EntryKind::Block => FileType::BlockDevice,
            _ => FileType::Fifo,
        };
        let device = rustix::fs::makedev(entry.device.0, entry.device.1);
        let make = || owner::make_device(place, name, kind, device);
        let mut made = make();
        if made == Err(Errno::EXIST) {
            self.target.remove(place, name)?;
            made = make();
        }
        match made {
            Ok(()) => {}
            // Not allowed, or a number that this kernel does not have.
            Err(Errno::PERM | Errno::INVAL) if kind != FileType::Fifo => {
                self.notes.add(NoteKind::DeviceRefused, &entry.path);
                return Ok(());
            }
            Err(e) => return Err(self.target.error("create the device", &entry.path, e)),
        }
        self.path_metadata(place, name, entry)
    }

    /// Owner, mode and time of what cannot be opened.
    fn path_metadata(&mut self, place: &Place, name: &OsStr, entry: &Entry) -> Result<(), ArchiveError> {
        let owned = ids(entry).and_then(|(uid, gid)| owner::set_at(place, name, uid, gid));
        let mode = self.mode_after_chown(owned, entry)?;
        if entry.kind != EntryKind::Symlink {
            // Just made, and no symlink.
            rustix::fs::chmodat(place, name, mode, AtFlags::empty())
                .map_err(|e| self.target.error("change the mode of", &entry.path, e))?;
        }
        for attribute in entry.xattrs.keys() {
            let kind = NoteKind::XattrRefused(String::from_utf8_lossy(attribute).into_owned());
            self.notes.add(kind, &entry.path);
        }
        rustix::fs::utimensat(place, name, &timestamps(entry.mtime), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| self.target.error("set the time of", &entry.path, e))
    }

    /// Gives the real path of what was linked to.
    fn hardlink(&mut self, place: &Place, name: &OsStr, entry: &Entry, link: &[u8]) -> Result<PathBuf, ArchiveError> {
        let shown = PathBuf::from(OsStr::from_bytes(link));
        let refuse = |reason: &str| {
            ArchiveError::refused(&entry.path, format!("hard link to \"{}\": {reason}", shown.display()))
        };
        let path = clean_path(link).ok_or_else(|| refuse("the target leads out of the archive"))?;
        let target_name = path.file_name().ok_or_else(|| refuse("not a file"))?.to_owned();
        let parent = self.base.join(path.parent().unwrap_or(Path::new("")));
        let Some(source) = self.target.dir(&parent, Missing::FromLowers)? else {
            return Err(refuse("no such file"));
        };
        let real = source.real.join(&target_name);
        match self.target.stat(&source, &target_name)? {
            Some(stat) if self.meaning == Meaning::Overlay && is_whiteout_stat(&stat) => {
                return Err(refuse("no such file"));
            }
            Some(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                return Err(refuse("it is a directory"));
            }
            Some(_) => {}
            None => self.copy_up(&source, &target_name, &real).map_err(|error| match error {
                Some(error) => error,
                None => refuse("no such file"),
            })?,
        }
        if real == entry.path {
            return Ok(real);
        }
        // No flag: a symlink is linked itself, not followed.
        let make = || rustix::fs::linkat(&source, &target_name, place, name, AtFlags::empty());
        let mut made = make();
        if made == Err(Errno::EXIST) {
            self.target.remove(place, name)?;
            made = make();
        }
        made.map_err(|e| self.target.error("create the hard link", &entry.path, e))?;
        Ok(real)
    }

    /// Copies a lower layer's file here, so that it can be linked to. `None`: there is no such file.
    fn copy_up(&mut self, dir: &Place, name: &OsStr, real: &Path) -> Result<(), Option<ArchiveError>> {
        let Some(node) = self.target.lower(real)?.filter(|node| node.meta.is_file()) else { return Err(None) };
        let mut from = File::open(&node.path).map_err(|e| ArchiveError::io("open", &node.path, e))?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(dir, name, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|e| self.target.error("create", real, e))?;
        let mut file = File::from(fd);
        std::io::copy(&mut from, &mut file).map_err(|e| ArchiveError::io("copy", &node.path, e))?;
        self.target.copy_owner(file.as_fd(), real, &node.path, &node.meta)?;
        rustix::fs::futimens(&file, &timestamps(mtime_of(&node.meta)))
            .map_err(|e| self.target.error("set the time of", real, e))?;
        Ok(())
    }

    /// Handles a member whose name starts with `.wh.`.
    fn deletion(
        &mut self,
        parent: &Path,
        name: &OsStr,
        (offset, data_offset): (u64, u64),
        shown: &Path,
    ) -> Result<(), ArchiveError> {
        let victim = OsStr::from_bytes(&name.as_bytes()[WHITEOUT_PREFIX.len()..]).to_owned();
        let opaque = name.as_bytes() == OPAQUE_NAME;
        if !opaque && victim.as_bytes().starts_with(WHITEOUT_PREFIX) {
            // Marks that aufs left in old images.
            return Ok(());
        }
        if matches!(victim.as_bytes(), b"" | b"." | b"..") {
            return Err(ArchiveError::refused(shown, "not the name of a file to delete"));
        }
        let Some(place) = self.target.dir(parent, Missing::FromLowers)? else {
            // Nobody has the directory, so there is nothing in it.
            return Ok(());
        };
        let (fresh, hasher) = (&self.fresh, &self.hasher);
        let keep = |path: &Path| fresh.contains(&hasher.hash_one(path));
        if opaque {
            match self.meaning {
                Meaning::Overlay => self.target.make_opaque(&place.real)?,
                _ => self.target.empty_except(&place, &keep)?,
            }
            let stat = owner::stat_fd(&place).map_err(|e| ArchiveError::io("inspect", &place.real, e))?;
            let mut dir = Entry::dir(&place.real, stat.st_mode & 0o7777);
            (dir.uid, dir.gid) = (stat.st_uid, stat.st_gid);
            self.index.push_opaque(&dir, offset);
            return Ok(());
        }
        let real = place.real.join(&victim);
        self.index.push(&Entry::whiteout(&real), None, offset, data_offset);
        if self.meaning == Meaning::Native {
            return self.target.remove_except(&place, &victim, &keep);
        }
        match self.target.stat(&place, &victim)? {
            // What this layer itself has stays, without what lower layers have there.
            Some(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                self.target.make_opaque(&real)
            }
            Some(_) => Ok(()),
            None => rustix::fs::mknodat(&place, &victim, FileType::CharacterDevice, Mode::empty(), 0)
                .map_err(|e| self.target.error("create the whiteout", &real, e)),
        }
    }
}

/// The owner as the kernel takes it: -1 would mean "leave it as it is".
fn ids(entry: &Entry) -> Result<(u32, u32), Errno> {
    if entry.uid == u32::MAX || entry.gid == u32::MAX {
        return Err(Errno::INVAL);
    }
    Ok((entry.uid, entry.gid))
}
