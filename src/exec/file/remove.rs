//! Removes trees without following links.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, FileType};
use rustix::io::Errno;

use crate::tree::root::open_subdir;
use crate::tree::view::Listing;

/// Removes `name` from `dir`, with all that is in it. What is gone already is fine.
pub(super) fn tree(dir: impl AsFd, name: &CStr) -> io::Result<()> {
    match rustix::fs::unlinkat(&dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(e) => return Err(e.into()),
    }
    // Directories on the way down, each with what is left to do in it.
    let mut way = vec![empty(open_subdir(&dir, name)?)?];
    while let Some((here, left)) = way.last_mut() {
        if let Some(name) = left.last() {
            let next = open_subdir(&here, name.as_c_str())?;
            way.push(empty(next)?);
            continue;
        }
        way.pop();
        if let Some((parent, left)) = way.last_mut()
            && let Some(name) = left.pop()
        {
            rustix::fs::unlinkat(&parent, name.as_c_str(), AtFlags::REMOVEDIR)?;
        }
    }
    Ok(rustix::fs::unlinkat(&dir, name, AtFlags::REMOVEDIR)?)
}

/// Removes what can be removed at once; gives back the directories that have something in them.
fn empty(dir: OwnedFd) -> io::Result<(OwnedFd, Vec<CString>)> {
    let mut left = Vec::new();
    for (name, kind) in Listing::read(&dir)?.iter() {
        let flags = if kind == FileType::Directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        match rustix::fs::unlinkat(&dir, name, flags) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::NOTEMPTY | Errno::EXIST) => left.push(name.to_owned()),
            Err(e) => return Err(e.into()),
        }
    }
    Ok((dir, left))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removes_deep_and_wide_trees_but_not_what_links_lead_to() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let outside = dir.path().join("outside");
        std::fs::create_dir(&outside).expect("a directory");
        std::fs::write(outside.join("kept"), "").expect("a file");
        let root = dir.path().join("root");
        for i in 0..20 {
            std::fs::create_dir_all(root.join(format!("a{i}/b/c/d"))).expect("directories");
            std::fs::write(root.join(format!("a{i}/b/file")), "").expect("a file");
        }
        std::os::unix::fs::symlink(&outside, root.join("a3/b/link")).expect("a link");
        let fd = crate::base::file::open_dir(dir.path()).expect("it opens");
        tree(&fd, c"root").expect("it is removed");
        assert!(!root.exists() && outside.join("kept").exists());
        tree(&fd, c"root").expect("gone is fine");
    }
}
