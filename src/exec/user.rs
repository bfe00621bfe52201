//! The user of a step, looked up in the root file system's own files (SPEC C5.04, A5.15).
//!
//! Never through NSS: that would read the machine's users, or load the image's code.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::io::Errno;

use crate::base::file::read_in_root;

/// `/etc/passwd` files beyond this are refused.
const MAX_FILE: u64 = 16 << 20;
/// The largest id an image may ask for, as everywhere.
const MAX_ID: u32 = i32::MAX.cast_unsigned();

/// Who runs a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    /// User id.
    pub(super) uid: u32,
    /// Group id.
    pub(super) gid: u32,
    /// The group id and the supplementary ones.
    pub(super) groups: Vec<u32>,
    /// From `/etc/passwd`, where the user is in it.
    pub(super) home: Option<String>,
}

/// Why a user cannot be found.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// Not in the file, not a number.
    #[error("unable to find {kind} {name}: no matching entries in {file} of the image")]
    Unknown {
        /// `user` or `group`.
        kind: &'static str,
        /// As given.
        name: String,
        /// `/etc/passwd` or `/etc/group`.
        file: &'static str,
    },
    /// A number that is no id.
    #[error("{kind} id {name} is out of range (0 to 2147483647)")]
    Range {
        /// `user` or `group`.
        kind: &'static str,
        /// As given.
        name: String,
    },
    /// The file cannot be read.
    #[error("cannot read {file} of the image: {source}")]
    Io {
        /// Which file.
        file: &'static str,
        /// The cause.
        source: io::Error,
    },
}

/// Resolves `user[:group]`; the empty text is root.
pub(super) fn resolve(root: &OwnedFd, user: &str) -> Result<Identity, UserError> {
    if let Some((uid, gid)) = user.split_once(':').and_then(|(u, g)| Some((number(u)?, number(g)?))) {
        check("user", user, uid)?;
        check("group", user, gid)?;
        return Ok(Identity { uid, gid, groups: vec![gid], home: home_of(&read(root, "/etc/passwd")?, uid) });
    }
    let passwd = read(root, "/etc/passwd")?;
    let group = read(root, "/etc/group")?;
    from_files(&passwd, &group, user)
}

/// The ids of groups, each given by its number or its name in the image.
pub(super) fn groups(root: &OwnedFd, given: &[String]) -> Result<Vec<u32>, UserError> {
    if given.is_empty() {
        return Ok(Vec::new());
    }
    let file = read(root, "/etc/group")?;
    let one = |name: &String| {
        let gid =
            number(name).or_else(|| group_entries(&file).find(|(known, ..)| known == name).map(|(_, gid, _)| gid));
        let gid = gid.ok_or_else(|| UserError::Unknown { kind: "group", name: name.clone(), file: "/etc/group" })?;
        check("group", name, gid).map(|()| gid)
    };
    given.iter().map(one).collect()
}

fn number(text: &str) -> Option<u32> {
    text.parse().ok()
}

fn check(kind: &'static str, name: &str, id: u32) -> Result<(), UserError> {
    if id <= MAX_ID { Ok(()) } else { Err(UserError::Range { kind, name: name.to_owned() }) }
}

/// A missing file is an empty one.
fn read(root: &OwnedFd, file: &'static str) -> Result<String, UserError> {
    match read_in_root(root.as_fd(), Path::new(file), MAX_FILE) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(e) if [Errno::NOENT, Errno::NOTDIR].iter().any(|n| e.raw_os_error() == Some(n.raw_os_error())) => {
            Ok(String::new())
        }
        Err(source) => Err(UserError::Io { file, source }),
    }
}

struct PasswdEntry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn passwd_entries(text: &str) -> impl Iterator<Item = PasswdEntry<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let name = fields.next().filter(|n| !n.is_empty())?;
        let (_, uid, gid) = (fields.next()?, number(fields.next()?)?, number(fields.next()?)?);
        Some(PasswdEntry { name, uid, gid, home: fields.nth(1).unwrap_or_default() })
    })
}

/// Name, id and members.
fn group_entries(text: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let name = fields.next().filter(|n| !n.is_empty())?;
        let (_, gid) = (fields.next()?, number(fields.next()?)?);
        Some((name, gid, fields.next().unwrap_or_default()))
    })
}

fn home_of(passwd: &str, uid: u32) -> Option<String> {
    passwd_entries(passwd).find(|e| e.uid == uid).map(|e| e.home.to_owned()).filter(|h| !h.is_empty())
}

fn from_files(passwd: &str, group: &str, user: &str) -> Result<Identity, UserError> {
    let (user_part, group_part) = user.split_once(':').unwrap_or((user, ""));
    let user_part = if user_part.is_empty() { "0" } else { user_part };
    let wanted = number(user_part);
    // What looks like a number is one, even if somebody has it for a name.
    let entry = passwd_entries(passwd).find(|e| wanted.map_or(e.name == user_part, |uid| e.uid == uid));
    let (uid, mut gid, home) = match (&entry, wanted) {
        (Some(e), _) => (e.uid, e.gid, Some(e.home.to_owned()).filter(|h| !h.is_empty())),
        (None, Some(uid)) => (uid, 0, None),
        (None, None) => {
            return Err(UserError::Unknown { kind: "user", name: user_part.to_owned(), file: "/etc/passwd" });
        }
    };
    check("user", user_part, uid)?;
    let mut groups = Vec::new();
    if group_part.is_empty() {
        let name = entry.as_ref().map(|e| e.name);
        let member = |members: &str| name.is_some_and(|n| members.split(',').any(|m| m == n));
        groups.extend(group_entries(group).filter(|(_, _, members)| member(members)).map(|(_, gid, _)| gid));
    } else {
        let wanted = number(group_part);
        let found = group_entries(group).find(|(name, gid, _)| wanted.map_or(*name == group_part, |w| *gid == w));
        gid = match (found, wanted) {
            (Some((_, gid, _)), _) => gid,
            (None, Some(gid)) => gid,
            (None, None) => {
                return Err(UserError::Unknown { kind: "group", name: group_part.to_owned(), file: "/etc/group" });
            }
        };
    }
    check("group", user, gid)?;
    // The own group among the supplementary ones, or a setgid program could shed it (CVE-2022-36109).
    groups.insert(0, gid);
    let mut seen = std::collections::HashSet::new();
    groups.retain(|g| seen.insert(*g));
    Ok(Identity { uid, gid, groups, home })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001:,,,:/home/app:/bin/sh\nbad\n7:x:70:70::/seven:\nnohome:x:5:5\n";
    const GROUP: &str = "root:x:0:\nwheel:x:10:root,app\napp:x:1001:\nstaff:x:50:app\ndup:x:10:app\n7:x:71:\n";

    fn id(user: &str) -> Identity {
        from_files(PASSWD, GROUP, user).expect("a user")
    }

    /// SPEC C5.04.
    #[test]
    fn users_are_found_by_name_and_number() {
        assert_eq!((id("").uid, id("").gid, id("").groups), (0, 0, vec![0, 10]));
        let app = Identity { uid: 1000, gid: 1001, groups: vec![1001, 10, 50], home: Some("/home/app".into()) };
        assert_eq!(id("app"), app);
        assert_eq!(id("1000"), app);
        assert_eq!(id("4711"), Identity { uid: 4711, gid: 0, groups: vec![0], home: None });
        assert_eq!((id("7").uid, id("7").gid), (7, 0));
        assert_eq!(id("nohome").home, None);
    }

    /// SPEC A5.15: no supplementary groups where a group is given.
    #[test]
    fn a_group_replaces_the_supplementary_ones() {
        assert_eq!((id("app:staff").gid, id("app:staff").groups), (50, vec![50]));
        assert_eq!(id("app:0").groups, [0]);
        assert_eq!(id("app:999").gid, 999);
        assert_eq!(id(":staff").uid, 0);
    }

    #[test]
    fn unknown_names_and_silly_numbers_are_refused() {
        let text = |user| from_files(PASSWD, GROUP, user).expect_err("refused").to_string();
        assert_eq!(text("ghost"), "unable to find user ghost: no matching entries in /etc/passwd of the image");
        assert_eq!(text("app:ghosts"), "unable to find group ghosts: no matching entries in /etc/group of the image");
        assert!(text("4294967295").contains("out of range"));
    }

    #[test]
    fn files_are_read_inside_the_root_and_may_be_missing() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let root = crate::base::file::open_dir(dir.path()).expect("a directory");
        assert_eq!(resolve(&root, "").expect("root").uid, 0);
        assert_eq!(resolve(&root, "12:34").expect("numbers").groups, [34]);
        std::fs::create_dir(dir.path().join("etc")).expect("writable");
        std::os::unix::fs::symlink("/../../../etc/users", dir.path().join("etc/passwd")).expect("writable");
        std::fs::write(dir.path().join("etc/users"), PASSWD).expect("writable");
        assert_eq!(resolve(&root, "app").expect("in the root").uid, 1000);
    }
}
