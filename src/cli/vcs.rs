//! What a directory's git repository is called (SPEC B2.36): its files are read; git itself is run only where somebody asks
//! whether files differ from the commit.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::base::values::boolean;
use crate::frontend::remote::without_credentials;

/// A repository that a directory is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Repository {
    /// Its top directory.
    pub(super) root: PathBuf,
    /// Where `origin` is, without credentials.
    pub(super) source: Option<String>,
    /// The commit that is checked out.
    pub(super) revision: Option<String>,
}

/// The repository around a directory.
pub(super) fn repository(dir: &Path) -> Option<Repository> {
    let root = dir.ancestors().find(|dir| dir.join(".git").exists())?;
    let own = git_dir(&root.join(".git"))?;
    // A linked worktree has its own HEAD, the rest is the main one's.
    let common = fs::read_to_string(own.join("commondir")).ok().map(|path| own.join(path.trim()));
    let common = common.as_deref().unwrap_or(&own);
    let head = fs::read_to_string(own.join("HEAD")).ok()?;
    let revision = match head.trim().strip_prefix("ref: ") {
        Some(name) => fs::read_to_string(common.join(name)).ok().or_else(|| packed(common, name)),
        None => Some(head),
    };
    let revision =
        revision.map(|text| text.trim().to_owned()).filter(|text| text.bytes().all(|b| b.is_ascii_hexdigit()));
    let config = fs::read_to_string(common.join("config")).unwrap_or_default();
    Some(Repository {
        root: root.to_path_buf(),
        source: origin(&config).map(|url| without_credentials(&url)),
        revision,
    })
}

/// What `BUILDX_GIT_LABELS` adds to the image (SPEC B2.36, B5.06): where it was made of. Names that the command line gives stay.
/// `dockerfile` is where it is, if it is a file.
///
/// # Errors
/// If git cannot say whether the directory differs from its commit, which `BUILDX_GIT_CHECK_DIRTY` asks for.
pub(super) fn labels(
    dir: &Path,
    dockerfile: Option<&Path>,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<Vec<(&'static str, String)>, String> {
    // `full` is what earlier versions of buildx knew.
    let on = |name: &str| variable(name).is_some_and(|text| text == "full" || boolean(&text) == Some(true));
    if !on("BUILDX_GIT_LABELS") {
        return Ok(Vec::new());
    }
    let Some(repository) = repository(dir) else { return Ok(Vec::new()) };
    let mut labels = Vec::new();
    if let Some(mut revision) = repository.revision {
        if on("BUILDX_GIT_CHECK_DIRTY") && is_dirty(&repository.root)? {
            revision.push_str("-dirty");
        }
        labels.push(("org.opencontainers.image.revision", revision));
    }
    labels.extend(repository.source.map(|source| ("org.opencontainers.image.source", source)));
    let inside = dockerfile.and_then(|file| {
        let (file, root) = (file.canonicalize().ok()?, repository.root.canonicalize().ok()?);
        Some(file.strip_prefix(root).ok()?.display().to_string())
    });
    labels.extend(inside.map(|file| ("com.docker.image.source.entrypoint", file)));
    Ok(labels)
}

/// What provenance says of it (SPEC C8.10): `source`, `revision`, and where in it the context and the Dockerfile are.
/// `dockerfile` is the latter's directory.
///
/// # Errors
/// If git cannot say whether the directory differs from its commit, which `BUILDX_GIT_CHECK_DIRTY` asks for.
pub(super) fn hints(
    dir: &Path,
    dockerfile: Option<&Path>,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<BTreeMap<String, String>, String> {
    let Some(repository) = repository(dir) else { return Ok(BTreeMap::new()) };
    let mut hints = BTreeMap::new();
    if let Some(mut revision) = repository.revision {
        let check = variable("BUILDX_GIT_CHECK_DIRTY").is_some_and(|text| boolean(&text) == Some(true));
        if check && is_dirty(&repository.root)? {
            revision.push_str("-dirty");
        }
        hints.insert("revision".into(), revision);
    }
    hints.extend(repository.source.map(|source| ("source".to_owned(), source)));
    let root = repository.root.canonicalize().unwrap_or(repository.root);
    for (name, place) in [("localdir:context", Some(dir)), ("localdir:dockerfile", dockerfile)] {
        let inside = place.and_then(|place| place.canonicalize().ok()?.strip_prefix(&root).ok().map(PathBuf::from));
        if let Some(path) = inside {
            let path = if path.as_os_str().is_empty() { ".".to_owned() } else { path.display().to_string() };
            hints.insert(name.into(), path);
        }
    }
    Ok(hints)
}

/// Whether files differ from the commit, ignored ones included, as buildx asks: here git has to be run.
fn is_dirty(root: &Path) -> Result<bool, String> {
    let mut git = Command::new("git");
    // A monitor of file systems would be a program that the repository names.
    git.args(["-c", "core.fsmonitor=false", "-C"]).arg(root).args(["status", "--porcelain", "--ignored"]);
    let output = git.stdin(Stdio::null()).output().map_err(|e| format!("cannot run git: {e}"))?;
    if !output.status.success() {
        return Err(format!("git status: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    Ok(!output.stdout.is_empty())
}

/// `.git` is a directory, or a file that says where it is.
fn git_dir(path: &Path) -> Option<PathBuf> {
    if path.is_dir() {
        return Some(path.to_path_buf());
    }
    let text = fs::read_to_string(path).ok()?;
    Some(path.parent()?.join(text.strip_prefix("gitdir:")?.trim()))
}

fn packed(dir: &Path, name: &str) -> Option<String> {
    let text = fs::read_to_string(dir.join("packed-refs")).ok()?;
    text.lines().filter_map(|line| line.split_once(' ')).find(|(_, n)| *n == name).map(|(id, _)| id.to_owned())
}

/// `url` of `[remote "origin"]`.
fn origin(config: &str) -> Option<String> {
    let mut lines = config.lines().map(str::trim).skip_while(|line| *line != "[remote \"origin\"]").skip(1);
    let mut section = lines.by_ref().take_while(|line| !line.starts_with('['));
    section.find_map(|line| {
        let (key, value) = line.split_once('=')?;
        (key.trim() == "url").then(|| value.trim().to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    // SPEC B2.36
    #[test]
    fn b2_36_repositories_are_recognised() {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |path: &str| dir.path().join(path);
        assert_eq!(repository(dir.path()), None);
        fs::create_dir_all(at(".git/refs/heads")).expect("made");
        fs::create_dir_all(at("sub/dir")).expect("made");
        let put = |path: &str, text: &str| fs::write(at(path), text).expect("written");
        put(".git/HEAD", "ref: refs/heads/main\n");
        put(
            ".git/config",
            "[core]\n\tbare = false\n[remote \"origin\"]\n\turl = https://u:p@example.com/x.git\n[x]\n\turl = y\n",
        );
        put(".git/packed-refs", "# pack-refs\n0123abcd refs/heads/main\n");
        let found = repository(&at("sub/dir")).expect("found");
        assert_eq!(found.root, dir.path());
        assert_eq!(found.source.as_deref(), Some("https://example.com/x.git"));
        assert_eq!(found.revision.as_deref(), Some("0123abcd"));
        put(".git/refs/heads/main", "4567\n");
        assert_eq!(repository(dir.path()).and_then(|r| r.revision).as_deref(), Some("4567"));
        let hints = hints(&at("sub"), Some(&at("sub/dir")), &|_| None).expect("told");
        let hints: Vec<(&str, &str)> = hints.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let expected = [
            ("localdir:context", "sub"),
            ("localdir:dockerfile", "sub/dir"),
            ("revision", "4567"),
            ("source", "https://example.com/x.git"),
        ];
        assert_eq!(hints, expected);
    }
}
