//! A directory of the machine as a build context (SPEC C2.06, A9.06).
//!
//! Nothing is transferred: the directory is walked where it is, through a filter made of the attributes of the source.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::FileType;

use crate::base::values::boolean;
use crate::dockerfile::pattern::{Glob, clean, escape, has_wildcards, unescape};
use crate::llb::op::SourceOp;
use crate::tree::root::{Last, Root, open_subdir, read_link, relative};
use crate::tree::view::Listing;
use crate::tree::{CopySource, PathFilter};

/// Why a directory cannot be a context.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// It is missing or unreadable.
    #[error("cannot use {path} as a build context: {error}")]
    Root {
        /// The path as given.
        path: String,
        /// The system's reason.
        error: io::Error,
    },
    /// An attribute is not what it should be.
    #[error("invalid attribute {name} of a local source: {reason}")]
    Attribute {
        /// Its name.
        name: &'static str,
        /// What is wrong.
        reason: String,
    },
}

/// Opens `dir` as the context of `op`. `ignore_lines[i]` is the line of the i-th exclude pattern, where known.
///
/// # Errors
/// A missing directory or a malformed attribute.
pub fn open(dir: &Path, op: &SourceOp, ignore_lines: &[usize]) -> Result<CopySource, LocalError> {
    let unusable = |error| LocalError::Root { path: dir.display().to_string(), error };
    let path = dir.canonicalize().map_err(unusable)?;
    let root = Root::open(&path).map_err(unusable)?;
    let exclude = list(op, "local.excludepatterns")?;
    let mut include = list(op, "local.includepattern")?;
    include.extend(follow(&root, &list(op, "local.followpaths")?).map_err(unusable)?);
    let filter = PathFilter::new(&include, &exclude, ignore_lines).map_err(|e| LocalError::Attribute {
        name: if exclude.get(e.index).is_some_and(|p| p == e.pattern.as_bytes()) {
            "local.excludepatterns"
        } else {
            "local.includepattern"
        },
        reason: e.to_string(),
    })?;
    let filter = if filter.is_empty() { None } else { Some(Arc::new(filter)) };
    Ok(CopySource { root: path, filter, reset_owner: true })
}

/// Whether the directory is only to be listed, and which of its files are to be there nevertheless: patterns.
///
/// # Errors
/// A malformed attribute.
pub fn listed(op: &SourceOp) -> Result<Option<Vec<String>>, LocalError> {
    const WHETHER: &str = "local.metadatatransfer";
    let whether = op.attrs.get(WHETHER).filter(|text| !text.is_empty()).map(|text| boolean(text));
    let whether = whether.unwrap_or(Some(false));
    let fault = || LocalError::Attribute { name: WHETHER, reason: "expected true or false".into() };
    if !whether.ok_or_else(fault)? {
        return Ok(None);
    }
    let patterns = list(op, "local.metadatatransferexclude")?;
    Ok(Some(patterns.into_iter().map(|pattern| String::from_utf8_lossy(&pattern).into_owned()).collect()))
}

/// A JSON array of strings; absent is empty.
fn list(op: &SourceOp, name: &'static str) -> Result<Vec<Vec<u8>>, LocalError> {
    let Some(text) = op.attrs.get(name).filter(|t| !t.is_empty()) else { return Ok(Vec::new()) };
    let list: Option<Vec<String>> = serde_json::from_str(text)
        .map_err(|e| LocalError::Attribute { name, reason: format!("expected a JSON array of strings: {e}") })?;
    Ok(list.unwrap_or_default().into_iter().map(String::into_bytes).collect())
}

/// The include patterns for `paths`: themselves, and where the symlinks on the way to them lead. None at all when one of
/// them is the whole context.
fn follow(root: &Root, paths: &[Vec<u8>]) -> io::Result<Vec<Vec<u8>>> {
    let mut todo: Vec<Vec<u8>> = paths.to_vec();
    let mut resolved: BTreeSet<Vec<u8>> = BTreeSet::new();
    'paths: while let Some(path) = todo.pop() {
        let path = relative(&path);
        if path.is_empty() {
            return Ok(Vec::new());
        }
        let mut current = Vec::new();
        let mut rest = &path[..];
        while !rest.is_empty() {
            let (part, after) = match rest.iter().position(|b| *b == b'/') {
                Some(i) => (&rest[..i], &rest[i + 1..]),
                None => (rest, &rest[rest.len()..]),
            };
            rest = after;
            let targets = targets(root, &current, part)?;
            if !current.is_empty() {
                current.push(b'/');
            }
            current.extend_from_slice(part);
            if !targets.is_empty() {
                if resolved.insert(current) {
                    todo.extend(targets.into_iter().map(|t| [&t, &b"/"[..], rest].concat()));
                }
                continue 'paths;
            }
        }
        resolved.insert(current);
    }
    // What lies below another one is included with it.
    let mut out: Vec<Vec<u8>> = Vec::new();
    for path in resolved {
        let below = |dir: &Vec<u8>| path.strip_prefix(&dir[..]).is_some_and(|rest| rest.first() == Some(&b'/'));
        if !out.iter().any(below) {
            out.push(path);
        }
    }
    Ok(out)
}

/// Where the symlinks lead that `part` means in the directory `dir`, as patterns from the root; none if it means no links.
fn targets(root: &Root, dir: &[u8], part: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    // The way to a pattern inside a pattern is not one directory; only links in plain directories are followed.
    let place = match root.locate(unescape(dir), Last::Follow) {
        Ok(place) if place.is_dir() => place,
        Err(e) if e.kind() != io::ErrorKind::NotADirectory => return Err(e),
        _ => return Ok(Vec::new()),
    };
    let fd = open_subdir(&place.dir, place.name.as_os_str())?;
    let target = |name: &OsStr| -> io::Result<Vec<u8>> {
        let link = read_link(&fd, name)?;
        let link = escape(link.as_bytes());
        Ok(clean(&if link.first() == Some(&b'/') { link } else { [b"/", dir, b"/", &link[..]].concat() }))
    };
    if !has_wildcards(part) {
        let name = unescape(part);
        let name = OsStr::from_bytes(&name);
        let is_link = crate::tree::root::stat(&fd, name)?
            .is_some_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink);
        return if is_link { Ok(vec![target(name)?]) } else { Ok(Vec::new()) };
    }
    // A malformed pattern is reported when the filter is made.
    let Ok(glob) = Glob::new(part) else { return Ok(Vec::new()) };
    let listing = Listing::read(&fd)?;
    let links = listing.iter().filter(|(name, kind)| *kind == FileType::Symlink && glob.matches(name.to_bytes()));
    links.map(|(name, _)| target(OsStr::from_bytes(name.to_bytes()))).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn op(attrs: &[(&str, &str)]) -> SourceOp {
        SourceOp {
            identifier: "local://context".into(),
            attrs: attrs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        }
    }

    fn context() -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a temporary directory");
        for path in ["src/a", "src/b", "real/deep/file", "other", "link[1]/x"] {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
            std::fs::write(path, "").expect("a file");
        }
        symlink("real", dir.path().join("alias")).expect("a link");
        symlink("/other", dir.path().join("src/abs")).expect("a link");
        symlink("../../../../etc", dir.path().join("out")).expect("a link");
        symlink("link[1]", dir.path().join("odd")).expect("a link");
        symlink("loop2", dir.path().join("loop1")).expect("a link");
        symlink("loop1", dir.path().join("loop2")).expect("a link");
        dir
    }

    fn followed(dir: &tempfile::TempDir, paths: &[&str]) -> Vec<String> {
        let root = Root::open(dir.path()).expect("the root opens");
        let paths: Vec<Vec<u8>> = paths.iter().map(|p| p.as_bytes().to_vec()).collect();
        let out = follow(&root, &paths).expect("no error");
        out.into_iter().map(|p| String::from_utf8(p).expect("UTF-8")).collect()
    }

    #[test]
    fn c2_06_paths_are_followed_through_links() {
        let dir = context();
        assert_eq!(followed(&dir, &["/src/a", "other/"]), ["other", "src/a"]);
        assert_eq!(followed(&dir, &["alias/deep"]), ["alias", "real/deep"]);
        assert_eq!(followed(&dir, &["src/a*"]), ["other", "src/a*"]);
        assert_eq!(followed(&dir, &["src", "src/a"]), ["src"]);
        assert_eq!(followed(&dir, &["odd/x"]), ["link\\[1]/x", "odd"]);
        assert_eq!(followed(&dir, &["loop1/x"]), ["loop1", "loop2"]);
        assert_eq!(followed(&dir, &["missing/x", "src/a/no/dir"]), ["missing/x", "src/a/no/dir"]);
        assert_eq!(followed(&dir, &["src", "."]), [""; 0]);
    }

    #[test]
    fn c2_06_links_do_not_lead_out_of_the_context() {
        let dir = context();
        assert_eq!(followed(&dir, &["out/passwd"]), ["etc/passwd", "out"]);
    }

    #[test]
    fn c2_06_attributes_become_a_filter() {
        let dir = context();
        let source = open(dir.path(), &op(&[]), &[]).expect("it opens");
        assert!(source.filter.is_none() && source.reset_owner);
        let attrs = [("local.excludepatterns", r#"["*","!src"]"#), ("local.followpaths", r#"["src/a"]"#)];
        let source = open(dir.path(), &op(&attrs), &[3, 7]).expect("it opens");
        let filter = source.filter.expect("a filter");
        assert!(filter.takes(b"src/a", None) && !filter.takes(b"src/b", None) && !filter.takes(b"other", None));
        assert_eq!(filter.excluded_by(b"other").and_then(|e| e.line), Some(3));
    }

    #[test]
    fn errors_name_what_is_wrong() {
        let dir = context();
        let err = |attrs: &[(&str, &str)]| open(dir.path(), &op(attrs), &[]).expect_err("malformed").to_string();
        assert_eq!(
            err(&[("local.excludepatterns", r#"["["]"#)]),
            "invalid attribute local.excludepatterns of a local source: invalid pattern \"[\": syntax error in pattern"
        );
        assert!(
            err(&[("local.followpaths", "{}")]).starts_with("invalid attribute local.followpaths of a local source")
        );
        let gone = open(&dir.path().join("gone"), &op(&[]), &[]).expect_err("missing").to_string();
        assert!(gone.starts_with("cannot use /") && gone.contains("gone as a build context: No such file"), "{gone}");
    }
}
