//! Who owns what a file action makes: numbers, or names of a tree's own users (SPEC A6.04, C1.11).

use std::path::Path;

use super::error::FileOpError;
use crate::llb::op::{ChownOpt, UserKind, UserOpt};
use crate::tree::root::Root;

/// Larger files are no user databases.
const LIMIT: u64 = 16 << 20;

/// The numeric owner that `opt` names, looked up in `/etc/passwd` and `/etc/group` of `root` (SPEC A6.04).
///
/// # Errors
/// A name that is not there.
pub fn resolve_owner(root: Option<&Path>, opt: &ChownOpt) -> Result<(u32, u32), FileOpError> {
    resolve_owner_in(root, root, opt)
}

/// The same with the user and the group from different trees.
///
/// # Errors
/// A name that is not there.
pub fn resolve_owner_in(
    user_root: Option<&Path>,
    group_root: Option<&Path>,
    opt: &ChownOpt,
) -> Result<(u32, u32), FileOpError> {
    let (mut uid, mut gid) = (0, 0);
    match kind(opt.user.as_ref()) {
        None => {}
        // A number alone stands for the group too; a name stands for its primary group.
        Some(UserKind::ById(id)) => (uid, gid) = (*id, *id),
        Some(UserKind::ByName(user)) => {
            let entry = lookup(user_root, "/etc/passwd", &user.name)?;
            let ids = entry.and_then(|fields| Some((number(&fields, 2)?, number(&fields, 3)?)));
            (uid, gid) = ids.ok_or_else(|| FileOpError::UnknownUser { name: user.name.clone() })?;
        }
    }
    match kind(opt.group.as_ref()) {
        None => {}
        Some(UserKind::ById(id)) => gid = *id,
        Some(UserKind::ByName(group)) => {
            let entry = lookup(group_root, "/etc/group", &group.name)?;
            gid = entry
                .and_then(|fields| number(&fields, 2))
                .ok_or_else(|| FileOpError::UnknownGroup { name: group.name.clone() })?;
        }
    }
    Ok((uid, gid))
}

fn kind(opt: Option<&UserOpt>) -> Option<&UserKind> {
    opt.and_then(|o| o.user.as_ref())
}

fn number(fields: &[String], i: usize) -> Option<u32> {
    fields.get(i)?.trim().parse().ok()
}

/// The fields of the first line of `file` that starts with `name`.
fn lookup(root: Option<&Path>, file: &str, name: &str) -> Result<Option<Vec<String>>, FileOpError> {
    let Some(root) = root else { return Err(FileOpError::NoRoot { name: name.to_owned() }) };
    let io = |e| FileOpError::io("read", file, e);
    let text = Root::open(root).and_then(|root| root.read(file, LIMIT)).map_err(io)?.unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    Ok(text
        .lines()
        .map(|line| line.trim().split(':').map(str::to_owned).collect::<Vec<_>>())
        .find(|fields| fields.first().is_some_and(|n| n == name)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llb::op::NamedUserOpt;

    fn by_name(name: &str) -> Option<UserOpt> {
        Some(UserOpt { user: Some(UserKind::ByName(NamedUserOpt { name: name.into(), input: 0 })) })
    }

    fn by_id(id: u32) -> Option<UserOpt> {
        Some(UserOpt { user: Some(UserKind::ById(id)) })
    }

    fn tree() -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a temporary directory");
        std::fs::create_dir(dir.path().join("etc")).expect("a directory");
        std::fs::write(dir.path().join("etc/passwd"), "root:x:0:0::/:/bin/sh\n\napp:x:1000:2000::/:\nbad:x\n")
            .expect("a file");
        std::fs::write(dir.path().join("etc/group"), "root:x:0:\nstaff:x:50:app\n").expect("a file");
        dir
    }

    #[test]
    fn a6_04_names_and_numbers() {
        let dir = tree();
        let resolve = |user, group| resolve_owner(Some(dir.path()), &ChownOpt { user, group });
        assert_eq!(resolve(by_id(7), None).expect("a number"), (7, 7));
        assert_eq!(resolve(by_id(7), by_id(8)).expect("numbers"), (7, 8));
        assert_eq!(resolve(by_name("app"), None).expect("a name"), (1000, 2000));
        assert_eq!(resolve(by_name("app"), by_name("staff")).expect("names"), (1000, 50));
        assert_eq!(resolve(by_id(7), by_name("staff")).expect("mixed"), (7, 50));
        assert_eq!(resolve(None, by_id(9)).expect("a group alone"), (0, 9));
    }

    #[test]
    fn a6_04_missing_names_are_errors_that_say_so() {
        let dir = tree();
        let fail =
            |user, group| resolve_owner(Some(dir.path()), &ChownOpt { user, group }).expect_err("unknown").to_string();
        assert_eq!(fail(by_name("nobody"), None), "unable to find user nobody: no such entry in /etc/passwd");
        assert_eq!(fail(by_name("bad"), None), "unable to find user bad: no such entry in /etc/passwd");
        assert_eq!(fail(by_id(1), by_name("app")), "unable to find group app: no such entry in /etc/group");
        let err = resolve_owner(None, &ChownOpt { user: by_name("app"), group: None }).expect_err("no tree");
        assert!(err.to_string().contains("use numeric ids"), "{err}");
    }

    #[test]
    fn a6_04_a_hostile_link_reads_nothing_outside() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(dir.path().join("passwd"), "evil:x:1:1::/:\n").expect("a file");
        let root = dir.path().join("root");
        std::fs::create_dir_all(root.join("etc")).expect("directories");
        std::os::unix::fs::symlink("../../passwd", root.join("etc/passwd")).expect("a link");
        let opt = ChownOpt { user: by_name("evil"), group: None };
        assert!(matches!(resolve_owner(Some(&root), &opt), Err(FileOpError::UnknownUser { .. })));
    }
}
