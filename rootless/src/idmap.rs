//! Subordinate id ranges and the maps of user namespaces.
//!
//! Reads `/etc/passwd`, `/etc/subuid` and `/etc/subgid` as files: NSS would load code from who knows where into a
//! static binary.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// `count` consecutive ids from `start`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    /// First id.
    pub start: u32,
    /// How many.
    pub count: u32,
}

impl IdRange {
    /// Whether `id` is one of them.
    #[must_use]
    pub fn contains(&self, id: u32) -> bool {
        id >= self.start && id - self.start < self.count
    }
}

/// The ids that exist in the current user namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMaps {
    /// User ids, as seen inside.
    pub uids: Vec<IdRange>,
    /// Group ids, as seen inside.
    pub gids: Vec<IdRange>,
}

impl IdMaps {
    /// The maps of the calling process. Unreadable maps count as empty.
    #[must_use]
    pub fn current() -> Self {
        let read = |path| parse_map(&fs::read_to_string(path).unwrap_or_default());
        Self { uids: read("/proc/self/uid_map"), gids: read("/proc/self/gid_map") }
    }

    /// Whether these are the maps of the machine's first user namespace.
    #[must_use]
    pub fn are_initial(&self) -> bool {
        self.sizes() == (u64::from(u32::MAX), u64::from(u32::MAX))
    }

    /// Whether files and processes can have this user id.
    #[must_use]
    pub fn has_uid(&self, uid: u32) -> bool {
        self.uids.iter().any(|r| r.contains(uid))
    }

    /// Whether files and processes can have this group id.
    #[must_use]
    pub fn has_gid(&self, gid: u32) -> bool {
        self.gids.iter().any(|r| r.contains(gid))
    }

    /// How many ids of each kind there are, in all.
    #[must_use]
    pub fn sizes(&self) -> (u64, u64) {
        let sum = |ranges: &[IdRange]| ranges.iter().map(|r| u64::from(r.count)).sum();
        (sum(&self.uids), sum(&self.gids))
    }
}

/// The inside ranges of `/proc/<pid>/{uid,gid}_map`.
fn parse_map(text: &str) -> Vec<IdRange> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split_ascii_whitespace().map(str::parse::<u32>);
            let (start, _, count) = (fields.next()?.ok()?, fields.next()?.ok()?, fields.next()?.ok()?);
            Some(IdRange { start, count })
        })
        .collect()
}

/// A map in which every id stays itself.
///
/// Never the full 4294967295 ids: that is how libcontainer recognises the initial user namespace, where it insists on
/// writing cgroups.
pub(crate) fn identity_map(ranges: &[IdRange]) -> String {
    let mut left = u32::MAX - 1;
    let mut out = String::new();
    for r in ranges {
        let count = r.count.min(left);
        left -= count;
        if count > 0 {
            out.push_str(&format!("{} {} {count}\n", r.start, r.start));
        }
    }
    out
}

/// The first id above every range in the text of a subid file, where distributions begin at the earliest.
pub(crate) fn free_subids(text: &str) -> u32 {
    let end = |line: &str| {
        let mut fields = line.split(':').skip(1).map(|field| field.trim().parse::<u32>());
        Some(fields.next()?.ok()?.saturating_add(fields.next()?.ok()?))
    };
    text.lines().filter_map(end).fold(100_000, u32::max)
}

/// The user's subordinate ranges in a file like `/etc/subuid`: lines may name him or give his number.
pub(crate) fn parse_subids(text: &str, name: Option<&str>, uid: u32) -> Vec<IdRange> {
    let number = uid.to_string();
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split('#').next()?.trim().split(':');
            let owner = fields.next()?;
            if owner != number && Some(owner) != name {
                return None;
            }
            let (start, count): (u32, u32) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
            (count > 0 && start.checked_add(count - 1).is_some()).then_some(IdRange { start, count })
        })
        .collect()
}

/// The name of `uid` in `/etc/passwd`, where it has one.
pub(crate) fn user_name(passwd: &Path, uid: u32) -> Option<String> {
    let text = fs::read_to_string(passwd).ok()?;
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse::<u32>().ok()? == uid).then(|| name.to_owned())
    })
}

/// The arguments for `newuidmap` and `newgidmap` after the process id: the user is 0, the ranges follow from 1.
pub(crate) fn helper_args(own: u32, ranges: &[IdRange]) -> Vec<String> {
    let mut out = vec!["0".to_owned(), own.to_string(), "1".to_owned()];
    let mut inside: u32 = 1;
    for r in ranges {
        let count = r.count.min(u32::MAX - 1 - inside);
        if count == 0 {
            break;
        }
        out.extend([inside.to_string(), r.start.to_string(), count.to_string()]);
        inside += count;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subids_are_found_by_name_and_by_number() {
        let text = "alice:100000:65536\n1001:165536:65536 # by number\nbob:1:0\nalice:x:y\nalice:4294967295:2\nalice:300000:5\n";
        assert_eq!(
            parse_subids(text, Some("alice"), 1000),
            [IdRange { start: 100_000, count: 65536 }, IdRange { start: 300_000, count: 5 }]
        );
        assert_eq!(parse_subids(text, None, 1001), [IdRange { start: 165_536, count: 65536 }]);
        assert_eq!(parse_subids(text, Some("bob"), 1002), []);
    }

    #[test]
    fn helper_arguments_put_the_user_at_zero() {
        let ranges = [IdRange { start: 100_000, count: 65536 }, IdRange { start: 300_000, count: 5 }];
        assert_eq!(helper_args(1000, &ranges).join(" "), "0 1000 1 1 100000 65536 65537 300000 5");
    }

    #[test]
    fn identity_maps_never_cover_the_whole_range() {
        let all = parse_map("         0          0 4294967295\n");
        assert_eq!(identity_map(&all), "0 0 4294967294\n");
        let pod = parse_map("0 100000 65536\n65536 200000 10\n");
        assert_eq!(identity_map(&pod), "0 0 65536\n65536 65536 10\n");
    }

    #[test]
    fn the_maps_of_this_process_know_its_own_ids() {
        let maps = IdMaps::current();
        assert!(maps.has_uid(rustix::process::getuid().as_raw()));
        assert!(maps.has_gid(rustix::process::getgid().as_raw()));
    }

    #[test]
    fn user_names_come_from_the_file() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("passwd");
        fs::write(&path, "root:x:0:0::/root:/bin/sh\nbroken\nalice:x:1000:1000::/:/bin/sh\n").expect("writable");
        assert_eq!(user_name(&path, 1000).as_deref(), Some("alice"));
        assert_eq!(user_name(&path, 7), None);
    }

    #[test]
    fn free_ids_are_above_all_others() {
        assert_eq!(free_subids(""), 100_000);
        assert_eq!(free_subids("a:100000:65536\nb:300000:10\n# c\n"), 300_010);
        assert_eq!(free_subids("a:1000:10\n"), 100_000);
    }
}
