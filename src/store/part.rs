//! Files of a directory that have names outside of it, too, get a file of their own.
//!
//! Where nothing can be mounted, a cache mount is a directory of the step's tree while the step runs, and a step can link files of one
//! into the other (package managers do, to save copies). A layer would change with the cache then, in whatever build that happens.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::copy::copy_any;
use super::tree::remove_tree;

/// A file with several names.
#[derive(Default)]
struct Shared {
    /// How many.
    names: u64,
    /// Those that were found.
    here: Vec<PathBuf>,
}

/// Parts the files below `dir`, which nobody uses, from those of their names that are not below it. `aside` is a place for this alone on
/// the same file system.
///
/// # Errors
/// The file system's; some files may still have such names then.
pub(super) fn part(dir: &Path, aside: &Path) -> io::Result<()> {
    let mut shared: HashMap<(u64, u64), Shared> = HashMap::new();
    let mut todo = vec![dir.to_path_buf()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                todo.push(entry.path());
                continue;
            }
            let meta = entry.metadata()?;
            if meta.nlink() > 1 {
                let file = shared.entry((meta.dev(), meta.ino())).or_default();
                file.names = meta.nlink();
                file.here.push(entry.path());
            }
        }
    }
    shared.retain(|_, file| file.names > file.here.len() as u64);
    if shared.is_empty() {
        return Ok(());
    }
    // Somebody may have been killed here.
    remove_tree(aside)?;
    fs::create_dir(aside)?;
    let new = aside.join("new");
    let parted = shared.into_values().try_for_each(|file| {
        let Some((first, others)) = file.here.split_first() else { return Ok(()) };
        copy_any(first, &new)?;
        fs::rename(&new, first)?;
        others.iter().try_for_each(|other| {
            fs::hard_link(first, &new)?;
            fs::rename(&new, other)
        })
    });
    // Whatever is left of a copy that failed.
    parted.and(remove_tree(aside))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn files_are_parted_from_names_elsewhere_only() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (cache, tree, aside) = (dir.path().join("cache"), dir.path().join("tree"), dir.path().join("aside"));
        fs::create_dir_all(cache.join("a/b")).expect("creates");
        fs::create_dir(&tree).expect("creates");
        for (name, text) in [("a/inside", "1"), ("a/b/joined", "2"), ("alone", "3")] {
            fs::write(cache.join(name), text).expect("writes");
        }
        let link = |from: PathBuf, to: PathBuf| fs::hard_link(from, to).expect("links");
        link(cache.join("a/inside"), cache.join("a/b/inside"));
        link(cache.join("a/b/joined"), cache.join("joined"));
        link(cache.join("a/b/joined"), tree.join("joined"));
        std::os::unix::fs::symlink("nowhere", tree.join("symlink")).expect("links");
        link(tree.join("symlink"), cache.join("symlink"));
        // As one leaves it who is killed.
        fs::create_dir_all(aside.join("new")).expect("creates");
        let mode = fs::Permissions::from_mode(0o751);
        fs::set_permissions(tree.join("joined"), mode).expect("chmod");
        let number = |path: PathBuf| fs::symlink_metadata(path).expect("exists").ino();
        let before = (number(cache.join("alone")), number(cache.join("a/inside")));
        part(&cache, &aside).expect("parts");
        assert_eq!(before, (number(cache.join("alone")), number(cache.join("a/inside"))), "nothing to do with them");
        assert_eq!(number(cache.join("a/inside")), number(cache.join("a/b/inside")));
        assert_eq!(number(cache.join("joined")), number(cache.join("a/b/joined")), "two names of one file still");
        assert_ne!(number(cache.join("joined")), number(tree.join("joined")));
        assert_ne!(number(cache.join("symlink")), number(tree.join("symlink")));
        fs::write(cache.join("joined"), "changed").expect("writes");
        assert_eq!(fs::read_to_string(tree.join("joined")).expect("reads"), "2");
        assert_eq!(fs::metadata(cache.join("joined")).expect("exists").mode() & 0o7777, 0o751);
        assert!(!aside.exists());
    }
}
