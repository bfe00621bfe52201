//! Owner, permission bits, extended attributes and times of what is copied (SPEC A6.11).

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, Mode, Stat, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;

use super::mode::ModeChange;
use crate::base::owner;

/// What a copy changes about what it copies.
#[derive(Clone, Debug, Default)]
pub(super) struct Settings {
    /// Everything belongs to these.
    pub(super) owner: Option<(u32, u32)>,
    /// Without `owner`: everything belongs to 0:0.
    pub(super) reset_owner: bool,
    pub(super) mode: ModeChange,
    /// Everything has this time.
    pub(super) time: Option<Timespec>,
    /// Owners cannot be set: the process is not uid 0 of anything.
    pub(super) no_chown: bool,
}

/// The time an action gives in nanoseconds, where -1 is none.
pub(super) fn time_of(nanoseconds: i64) -> Option<Timespec> {
    (nanoseconds != -1).then(|| Timespec {
        tv_sec: nanoseconds.div_euclid(1_000_000_000),
        tv_nsec: nanoseconds.rem_euclid(1_000_000_000),
    })
}

/// Whether this process can give files away.
pub(super) fn can_chown() -> bool {
    rustix::process::geteuid().is_root() || owner::are_recorded()
}

/// Whether an extended attribute of a source is content: user attributes and file capabilities. Everything else either
/// belongs to the machine (labels, access lists) or would be taken for the store's own notes.
pub(super) fn keeps_xattr(name: &[u8]) -> bool {
    const FOREIGN: [&[u8]; 3] = [b"user.overlay.", b"user.rootlesscontainers", b"user.rbuild."];
    name == b"security.capability" || name.starts_with(b"user.") && !FOREIGN.iter().any(|f| name.starts_with(f))
}

/// Names and values of extended attributes.
pub(super) type Attributes = Vec<(CString, Vec<u8>)>;

/// The extended attributes of an open file that count, sorted.
pub(super) fn xattrs(fd: impl AsFd) -> io::Result<Attributes> {
    attributes(fd).map(Option::unwrap_or_default)
}

/// The same; `None` if there are no extended attributes at all, neither any that count.
pub(super) fn attributes(fd: impl AsFd) -> io::Result<Option<Attributes>> {
    let mut small = [0u8; 1024];
    let mut large = Vec::new();
    let names: &[u8] = match rustix::fs::flistxattr(&fd, &mut small[..]) {
        Ok(0) | Err(Errno::NOTSUP) => return Ok(None),
        Ok(len) => &small[..len],
        Err(Errno::RANGE) => {
            large.resize(64 * 1024, 0);
            let len = rustix::fs::flistxattr(&fd, &mut large[..])?;
            &large[..len]
        }
        Err(e) => return Err(e.into()),
    };
    let mut out = Vec::new();
    for name in names.split_inclusive(|b| *b == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
        let shown = owner::shown_as(name.to_bytes());
        if !keeps_xattr(shown) {
            continue;
        }
        let mut value = vec![0u8; 4096];
        loop {
            match rustix::fs::fgetxattr(&fd, name, &mut value[..]) {
                Ok(len) => {
                    value.truncate(len);
                    out.push((CString::new(shown)?, value));
                    break;
                }
                Err(Errno::RANGE) if value.len() < 64 * 1024 => value.resize(64 * 1024, 0),
                // Removed since it was listed.
                Err(Errno::NODATA) => break,
                Err(e) => return Err(e.into()),
            }
        }
    }
    out.sort_unstable();
    Ok(Some(out))
}

impl Settings {
    /// The owner of a copy.
    pub(super) fn owner(&self, stat: &Stat) -> (u32, u32) {
        match self.owner {
            Some(owner) => owner,
            None if self.reset_owner => (0, 0),
            None => (stat.st_uid, stat.st_gid),
        }
    }

    /// The permission bits of a copy.
    pub(super) fn mode(&self, stat: &Stat) -> Mode {
        let directory = rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Directory;
        Mode::from_raw_mode(self.mode.apply(stat.st_mode, directory))
    }

    /// The times of a copy.
    pub(super) fn times(&self, stat: &Stat) -> Timestamps {
        let time = self.time.unwrap_or(Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec as _ });
        Timestamps { last_access: time, last_modification: time }
    }

    /// Gives an open file or directory the attributes of the source `stat` ([`owner::stat_fd`]), all but the times. Extended
    /// attributes come from `source`; those that cannot be kept are told to `lost`.
    pub(super) fn apply(
        &self,
        fd: impl AsFd,
        stat: &Stat,
        source: Option<BorrowedFd<'_>>,
        lost: &mut dyn FnMut(&CStr, Errno),
    ) -> Result<(), (&'static str, io::Error)> {
        if !self.no_chown {
            let (uid, gid) = self.owner(stat);
            chown(&fd, uid, gid).map_err(|e| ("chown", e))?;
        }
        // After the owner, whose change drops capabilities and set-id bits.
        if let Some(source) = source {
            for (name, value) in xattrs(source).map_err(|e| ("read the extended attributes of", e))? {
                if let Err(e) = rustix::fs::fsetxattr(&fd, owner::kept_as(name.as_bytes()), &value, XattrFlags::empty())
                {
                    lost(&name, e);
                }
            }
        }
        owner::set_mode(&fd, self.mode(stat)).map_err(|e| ("chmod", e.into()))
    }

    /// Gives what is at `name`, and cannot be opened, the attributes of the source; permission bits unless it is a link.
    pub(super) fn apply_at(
        &self,
        dir: impl AsFd,
        name: &CStr,
        stat: &Stat,
        link: bool,
    ) -> Result<(), (&'static str, io::Error)> {
        if !self.no_chown {
            let (uid, gid) = self.owner(stat);
            chown_at(&dir, name, uid, gid).map_err(|e| ("chown", e))?;
        }
        if !link {
            owner::set_mode_at(&dir, name, self.mode(stat)).map_err(|e| ("chmod", e.into()))?;
        }
        rustix::fs::utimensat(&dir, name, &self.times(stat), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| ("set the times of", e.into()))
    }
}

/// Says which id cannot be used: `EINVAL` alone tells nobody that a user namespace lacks it.
fn unmapped(e: Errno, uid: u32, gid: u32) -> io::Error {
    if e == Errno::INVAL {
        let text = format!("the owner {uid}:{gid} is not available in this user namespace");
        return io::Error::new(io::ErrorKind::InvalidInput, text);
    }
    e.into()
}

/// Sets the owner of an open file.
pub(super) fn chown(fd: impl AsFd, uid: u32, gid: u32) -> io::Result<()> {
    owner::set_fd(fd, uid, gid).map_err(|e| unmapped(e, uid, gid))
}

/// Sets the owner of what is at `name` itself.
pub(super) fn chown_at(dir: impl AsFd, name: &CStr, uid: u32, gid: u32) -> io::Result<()> {
    owner::set_at(dir, name, uid, gid).map_err(|e| unmapped(e, uid, gid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c4_06_xattrs_that_are_content() {
        for (name, want) in [
            ("user.mime", true),
            ("security.capability", true),
            ("security.selinux", false),
            ("system.posix_acl_access", false),
            ("trusted.overlay.opaque", false),
            ("trusted.x", false),
            ("user.overlay.opaque", false),
            ("user.overlay.whiteout", false),
            ("user.rootlesscontainers", false),
            ("user.rbuild.owner", false),
        ] {
            assert_eq!(keeps_xattr(name.as_bytes()), want, "{name}");
        }
    }

    #[test]
    fn times_before_1970() {
        assert_eq!(time_of(-1), None);
        assert_eq!(time_of(-500_000_000), Some(Timespec { tv_sec: -1, tv_nsec: 500_000_000 }));
        assert_eq!(time_of(1_500_000_000), Some(Timespec { tv_sec: 1, tv_nsec: 500_000_000 }));
    }
}
