//! From a commit in a bare repository to a tree in an empty directory.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};
use walkdir::WalkDir;

use super::attributes::GitSpec;
use super::error::GitError;
use super::program::{Git, Patience};
use super::resolve::Resolved;

/// Where a tree is checked out first if only a part of it is wanted. Nothing else is in the directory then.
const WHOLE: &str = ".rbuild-checkout";

/// When a commit was made, in seconds since 1970.
pub(super) async fn commit_time(git: &Git<'_>, commit: &str) -> Result<i64, GitError> {
    let args = ["show", "-s", "--no-show-signature", "--format=%ct", commit];
    let text = git.run("read a commit of", Patience::Short, &args).await?;
    text.trim().parse().map_err(|_| GitError::Failed {
        action: "read a commit of",
        remote: git.access.remote.clone(),
        message: "it has no time".into(),
    })
}

/// Puts what is wanted of the commit into `dest`.
pub(super) async fn check_out(git: &Git<'_>, spec: &GitSpec, resolved: &Resolved, dest: &Path) -> Result<(), GitError> {
    let modules = format!("{}:.gitmodules", resolved.commit);
    let submodules = spec.submodules && git.says(&["cat-file", "-e", modules.as_str()]).await?;
    // With a subdir there is no `.git` to keep.
    let keep = spec.keep_git_dir && spec.subdir.is_empty();
    if keep || submodules {
        let whole = if spec.subdir.is_empty() { dest.to_path_buf() } else { dest.join(WHOLE) };
        fs::create_dir_all(&whole).map_err(GitError::io("create", &whole))?;
        work_tree(git, resolved, &whole, keep, submodules).await?;
        if !spec.subdir.is_empty() {
            let (spec, dest) = (spec.clone(), dest.to_path_buf());
            blocking(move || lift(&spec, &dest)).await?;
        }
    } else {
        plain(git, spec, resolved, dest).await?;
    }
    let time = if spec.commit_times { Some(commit_time(git, &resolved.commit).await?) } else { None };
    let dest = dest.to_path_buf();
    blocking(move || tidy(&dest, time)).await
}

/// Files only, by way of an index that is thrown away.
async fn plain(git: &Git<'_>, spec: &GitSpec, resolved: &Resolved, dest: &Path) -> Result<(), GitError> {
    let tree = if spec.subdir.is_empty() {
        resolved.commit.clone()
    } else {
        let fail = |reason| GitError::Subdir { subdir: spec.subdir.clone(), remote: spec.shown(), reason };
        let tree = format!("{}:{}", resolved.commit, spec.subdir);
        if !git.says(&["cat-file", "-e", tree.as_str()]).await? {
            return Err(fail("there is no such directory"));
        }
        // A symlink is no tree: it cannot lead anywhere.
        if git.run("look into", Patience::Short, &["cat-file", "-t", tree.as_str()]).await?.trim() != "tree" {
            return Err(fail("it is not a directory"));
        }
        tree
    };
    let index = git.access.home().join("index");
    let git =
        Git { work_tree: Some(dest.into()), index: Some(index.clone()), ..git.at(git.dir.as_deref().unwrap_or(dest)) };
    git.run("check out", Patience::Long, &["read-tree", tree.as_str()]).await?;
    git.run("check out", Patience::Long, &["checkout-index", "--all", "--force", "--quiet"]).await?;
    let _ = fs::remove_file(index);
    Ok(())
}

/// A repository with a work tree of its own: for `.git`, and for submodules.
async fn work_tree(
    bare: &Git<'_>,
    resolved: &Resolved,
    dest: &Path,
    keep: bool,
    submodules: bool,
) -> Result<(), GitError> {
    let dir = dest.join(".git");
    let git = Git { work_tree: Some(dest.into()), ..bare.at(&dir) };
    let format = if resolved.commit.len() == 64 { "--object-format=sha256" } else { "--object-format=sha1" };
    git.run("check out", Patience::Short, &["init", "--quiet", format]).await?;
    let local = Git { local_only: true, ..git.at(&dir) };
    let from = bare.dir.as_deref().unwrap_or(dest).display().to_string();
    let mut args =
        vec!["fetch".to_owned(), "--quiet".into(), "--depth=1".into(), "--no-tags".into(), "--".into(), from];
    match (&resolved.tag, &resolved.name) {
        // The tag comes along, so that `git describe` knows it.
        (Some(tag), Some(name)) => args.push(format!("{tag}:{name}")),
        _ => args.push(resolved.commit.clone()),
    }
    local.run("check out", Patience::Long, &args).await?;
    let set = |name: &'static str, value: String| {
        let git = &git;
        async move { git.run("check out", Patience::Short, &["config", name, value.as_str()]).await }
    };
    set("remote.origin.url", bare.access.remote.clone()).await?;
    set("remote.origin.fetch", "+refs/heads/*:refs/remotes/origin/*".into()).await?;
    git.run("check out", Patience::Long, &["checkout", "--quiet", "--detach", &resolved.commit]).await?;
    if submodules {
        let update = |depth: bool| {
            let mut args = vec!["submodule", "--quiet", "update", "--init", "--recursive"];
            if depth {
                args.push("--depth=1");
            }
            args
        };
        if git.run("fetch the submodules of", Patience::Long, &update(true)).await.is_err() {
            // A server that gives no single commits gives the history.
            git.run("fetch the submodules of", Patience::Long, &update(false)).await?;
        }
    }
    let dest = dest.to_path_buf();
    blocking(move || if keep { forget_traces(&dest) } else { drop_git_dirs(&dest) }).await
}

/// Removes what says when and where the checkout was made.
fn forget_traces(dest: &Path) -> Result<(), GitError> {
    for name in ["logs", "FETCH_HEAD", "hooks", "branches"] {
        let path = dest.join(".git").join(name);
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        match removed {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(GitError::io("remove", &path)(e)),
            _ => {}
        }
    }
    Ok(())
}

/// Removes the repository and the `.git` files of submodules.
fn drop_git_dirs(dest: &Path) -> Result<(), GitError> {
    let mut found = Vec::new();
    let mut walk = WalkDir::new(dest).follow_links(false).into_iter();
    while let Some(entry) = walk.next() {
        let entry = entry.map_err(|e| GitError::io("look into", dest)(e.into()))?;
        if entry.depth() > 0 && entry.file_name() == ".git" {
            if entry.file_type().is_dir() {
                walk.skip_current_dir();
            }
            found.push((entry.path().to_path_buf(), entry.file_type().is_dir()));
        }
    }
    for (path, is_dir) in found {
        let removed = if is_dir { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.map_err(GitError::io("remove", &path))?;
    }
    Ok(())
}

/// Moves the wanted directory of a whole checkout to where it belongs. No component of its path may be a symlink.
fn lift(spec: &GitSpec, dest: &Path) -> Result<(), GitError> {
    let fail = |reason| GitError::Subdir { subdir: spec.subdir.clone(), remote: spec.shown(), reason };
    let whole = dest.join(WHOLE);
    let mut at = whole.clone();
    for part in Path::new(&spec.subdir).components() {
        at.push(part);
        match fs::symlink_metadata(&at) {
            Ok(meta) if meta.is_dir() => {}
            Ok(_) => return Err(fail("it is not a directory")),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err(fail("there is no such directory")),
            Err(e) => return Err(GitError::io("look at", &at)(e)),
        }
    }
    // Out of the way first: the repository may have a directory that is called like ours.
    let kept: PathBuf = dest.join(format!("{WHOLE}-part"));
    fs::rename(&at, &kept).map_err(GitError::io("move", &at))?;
    fs::remove_dir_all(&whole).map_err(GitError::io("remove", &whole))?;
    for entry in fs::read_dir(&kept).map_err(GitError::io("look into", &kept))? {
        let entry = entry.map_err(GitError::io("look into", &kept))?;
        let target = dest.join(entry.file_name());
        fs::rename(entry.path(), &target).map_err(GitError::io("move", &target))?;
    }
    fs::remove_dir(&kept).map_err(GitError::io("remove", &kept))
}

/// Modes as git knows them, whatever the umask, and times where they are wanted (SPEC A6.21, A7.03).
fn tidy(dest: &Path, time: Option<i64>) -> Result<(), GitError> {
    for entry in WalkDir::new(dest).follow_links(false).contents_first(true) {
        let entry = entry.map_err(|e| GitError::io("look into", dest)(e.into()))?;
        let path = entry.path();
        let inside = path.strip_prefix(dest).is_ok_and(|p| p.components().any(|c| c.as_os_str() == ".git"));
        if !entry.file_type().is_symlink() && !inside {
            let meta = entry.metadata().map_err(|e| GitError::io("look at", path)(e.into()))?;
            let mode = if meta.is_dir() || meta.permissions().mode() & 0o100 != 0 { 0o755 } else { 0o644 };
            if meta.permissions().mode() & 0o7777 != mode {
                fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(GitError::io("chmod", path))?;
            }
        }
        if let Some(time) = time {
            let stamp = Timespec { tv_sec: time, tv_nsec: 0 };
            let times = Timestamps { last_access: stamp, last_modification: stamp };
            rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|e| GitError::io("set the time of", path)(e.into()))?;
        }
    }
    Ok(())
}

/// Work with files, off the async threads.
async fn blocking(work: impl FnOnce() -> Result<(), GitError> + Send + 'static) -> Result<(), GitError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(panic) => Err(GitError::Internal(panic.to_string())),
    }
}
