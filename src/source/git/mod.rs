//! Git repositories as trees (SPEC A6.21, A6.22, A7, C2.04).
//!
//! The `git` program does the work, in the worker and not as the broker: nothing of the user's takes part in it (no
//! configuration, no credential helper, no `~/.ssh/config`), and the checkout goes into a tree that only the worker sees.
//! A copy of each repository is kept in the store, shallow, so that a later commit costs its difference. Start reading at
//! [`GitSource`]; [`resolve`] says what a ref means, [`checkout`] how a tree comes about, [`program`] how git is run.

mod access;
mod attributes;
mod checkout;
mod error;
mod program;
mod resolve;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::SourceError;
use super::kind::{Pinned, Request, Source};
use super::once::Told;
use crate::attest::git::GitObjects;
use crate::attest::{Material, masked};
use crate::base::Events;
use crate::store::{CacheMount, Store};
use access::Access;
use attributes::{GitSpec, is_commit};
use program::{Git, Patience};
use resolve::Resolved;

pub use access::GitOptions;
pub use error::GitError;

/// Brings in repositories. Cheap to clone.
#[derive(Clone)]
pub struct GitSource(Arc<Inner>);

struct Inner {
    store: Store,
    events: Events,
    options: GitOptions,
    told: Told<Resolved>,
}

impl GitSource {
    /// A source over a store.
    #[must_use]
    pub fn new(store: Store, events: Events, options: GitOptions) -> Self {
        Self(Arc::new(Inner { store, events, options, told: Told::default() }))
    }

    fn access(&self, spec: &GitSpec, request: &Request<'_>) -> Result<Access, GitError> {
        Access::new(&self.0.options, spec, request)
    }

    /// Says once that a host was believed.
    fn say_trust(&self, access: &Access) {
        if access.took_on_trust() {
            let host = crate::dockerfile::gitref::host(&access.remote).to_owned();
            self.0.events.notice("git-host-key", format!("{host} is not in known_hosts: its key was taken on trust"));
        }
    }

    /// The copy of the repository, locked: nobody else fetches into it or reads from it.
    async fn repository(&self, spec: &GitSpec, commit: &str) -> Result<Repository, GitError> {
        let format = if commit.len() == 64 { "sha256" } else { "sha1" };
        let (store, id) = (self.0.store.clone(), format!("{} {format}", spec.shown()));
        let mount = tokio::task::spawn_blocking(move || store.git_repository(&id)).await;
        let mount = mount.map_err(|e| GitError::Internal(e.to_string()))??;
        Ok(Repository { dir: mount.path().to_path_buf(), format, _lock: mount })
    }

    /// What the ref means now.
    async fn resolve(&self, spec: &GitSpec, request: &Request<'_>) -> Result<Resolved, GitError> {
        if spec.fetch_by_commit {
            let commit = spec.checksum.as_deref().unwrap_or_default();
            if !is_commit(commit) {
                return Err(GitError::InvalidChecksum { checksum: commit.into() });
            }
            return Ok(Resolved::commit(commit));
        }
        if is_commit(&spec.reference) {
            return Ok(Resolved::commit(&spec.reference));
        }
        let access = self.access(spec, request)?;
        let git = Git::new(&self.0.options, &access);
        let mut args = vec!["ls-remote".to_owned(), "--".into(), access.remote.clone()];
        args.extend(resolve::questions(&spec.reference));
        let lines = git.run("fetch remote", Patience::Short, &args).await?;
        self.say_trust(&access);
        if let Some(found) = resolve::find(&spec.reference, &lines) {
            return Ok(found);
        }
        let unknown = || GitError::NoRef { remote: spec.shown(), reference: shown_ref(&spec.reference) };
        if !resolve::is_short_commit(&spec.reference) {
            return Err(unknown());
        }
        // No name: the beginning of a commit, which only the history can tell.
        let repository = self.repository(spec, if spec.reference.len() > 40 { SHA256_LENGTH } else { "" }).await?;
        let git = repository.open(&git).await?;
        let short = format!("{}^{{commit}}", spec.reference);
        let look = ["rev-parse", "--verify", "--quiet", short.as_str()];
        if let Ok(commit) = git.run("look up a commit of", Patience::Short, &look).await {
            return Ok(Resolved::commit(commit.trim()));
        }
        repository.fetch_all(&git).await?;
        match git.run("look up a commit of", Patience::Short, &look).await {
            Ok(commit) => Ok(Resolved::commit(commit.trim())),
            Err(_) => Err(unknown()),
        }
    }
}

/// Stands for a commit of a repository of the other kind.
const SHA256_LENGTH: &str = "0000000000000000000000000000000000000000000000000000000000000000";

fn shown_ref(reference: &str) -> String {
    if reference.is_empty() { "HEAD".into() } else { reference.into() }
}

#[async_trait::async_trait]
impl Source for GitSource {
    async fn pin(&self, request: &Request<'_>) -> Result<Arc<dyn Pinned>, SourceError> {
        let spec = GitSpec::parse(request.op)?;
        let name =
            format!("{} {} {:?}", spec.remote, spec.reference, spec.checksum.as_ref().filter(|_| spec.fetch_by_commit));
        let resolved = self.0.told.once(name, self.resolve(&spec, request)).await?;
        if let Some(expected) = spec.checksum.as_ref().filter(|checksum| !resolved.fits(checksum)) {
            return Err(GitError::Checksum { expected: expected.clone(), actual: resolved.shown() }.into());
        }
        let pinned = PinnedCommit { source: self.clone(), spec, resolved };
        // Before anything is looked up: what nobody has signed is not used from a cache either.
        if let Some(wanted) = &pinned.spec.signed {
            let objects = pinned.read_objects(request).await?;
            wanted.check(&objects).map_err(|why| GitError::Signature { remote: pinned.spec.shown(), why })?;
        }
        Ok(Arc::new(pinned))
    }
}

/// A commit that is settled.
struct PinnedCommit {
    source: GitSource,
    spec: GitSpec,
    resolved: Resolved,
}

impl std::fmt::Debug for PinnedCommit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PinnedCommit({}, {})", self.spec.shown(), self.resolved.commit)
    }
}

impl PinnedCommit {
    /// The commit, and the annotated tag that leads to it.
    async fn read_objects(&self, request: &Request<'_>) -> Result<GitObjects, GitError> {
        let access = self.source.access(&self.spec, request)?;
        let repository = self.source.repository(&self.spec, &self.resolved.commit).await?;
        let git = repository.open(&Git::new(&self.source.0.options, &access)).await?;
        repository.fetch(&git, &self.resolved).await?;
        let object = async |kind: &str, name: &str| {
            git.run_bytes("read an object of", Patience::Short, &["cat-file", kind, name]).await
        };
        let commit = self.resolved.commit.as_str();
        let tag = match &self.resolved.tag {
            Some(tag) => {
                // The server said so; a tag that somebody signed long ago must not vouch for another commit.
                let peeled = format!("{tag}^{{commit}}");
                let args = ["rev-parse", "--verify", "--quiet", peeled.as_str()];
                let found = git.run("look up a commit of", Patience::Short, &args).await?;
                if found.trim() != commit {
                    let (remote, found) = (self.spec.shown(), found.trim().to_owned());
                    return Err(GitError::OtherCommit { remote, tag: tag.clone(), found, said: commit.to_owned() });
                }
                Some(object("tag", tag).await?)
            }
            None if object("-t", commit).await?.trim_ascii() == b"tag" => Some(object("tag", commit).await?),
            None => None,
        };
        Ok(GitObjects { commit: object("commit", commit).await?, tag })
    }
}

#[async_trait::async_trait]
impl Pinned for PinnedCommit {
    fn key(&self) -> String {
        let mut key = self.resolved.commit.clone();
        if self.spec.keep_git_dir {
            // The directory knows where it came from and under which name.
            key.push_str(&format!(".git#{} {}", self.resolved.name.as_deref().unwrap_or_default(), self.spec.shown()));
        }
        if !self.spec.subdir.is_empty() {
            key.push_str(&format!(":{}", self.spec.subdir));
        }
        if self.spec.submodules {
            // Their addresses may be relative to ours.
            key.push_str(&format!(" (submodules of {})", self.spec.shown()));
        }
        if self.spec.commit_times {
            key.push_str("(mtime=commit)");
        }
        key
    }

    fn reference(&self) -> Option<String> {
        self.resolved.name.clone()
    }

    fn tag(&self) -> Option<String> {
        self.resolved.tag.clone()
    }

    async fn objects(&self, request: &Request<'_>) -> Result<Option<GitObjects>, SourceError> {
        Ok(Some(self.read_objects(request).await?))
    }

    fn material(&self) -> Material {
        let mut uri = masked(&self.spec.remote);
        let short = |name: &str| {
            let name = name.strip_prefix("refs/heads/").or_else(|| name.strip_prefix("refs/tags/"));
            name.map(ToOwned::to_owned)
        };
        match &self.resolved.name {
            Some(name) if name != "HEAD" => uri.push_str(&format!("#{}", short(name).unwrap_or_else(|| name.clone()))),
            _ => {}
        }
        let algorithm = if self.resolved.commit.len() == 64 { "sha256" } else { "sha1" };
        Material { uri, digest: format!("{algorithm}:{}", self.resolved.commit) }
    }

    async fn time(&self, request: &Request<'_>) -> Result<Option<i64>, SourceError> {
        let access = self.source.access(&self.spec, request)?;
        let repository = self.source.repository(&self.spec, &self.resolved.commit).await?;
        let git = repository.open(&Git::new(&self.source.0.options, &access)).await?;
        repository.fetch(&git, &self.resolved).await?;
        Ok(Some(checkout::commit_time(&git, &self.resolved.commit).await?))
    }

    async fn materialise(&self, dest: &Path, request: &Request<'_>) -> Result<(), SourceError> {
        let access = self.source.access(&self.spec, request)?;
        let repository = self.source.repository(&self.spec, &self.resolved.commit).await?;
        let git = repository.open(&Git::new(&self.source.0.options, &access)).await?;
        repository.fetch(&git, &self.resolved).await?;
        self.source.say_trust(&access);
        Ok(checkout::check_out(&git, &self.spec, &self.resolved, dest).await?)
    }
}

/// A bare repository of the store.
struct Repository {
    dir: PathBuf,
    format: &'static str,
    _lock: CacheMount,
}

impl Repository {
    /// Makes it if it is new, and clears what a killed process left.
    async fn open<'a>(&self, git: &Git<'a>) -> Result<Git<'a>, GitError> {
        let git = git.at(&self.dir);
        if !self.dir.join("HEAD").is_file() || !git.says(&["rev-parse", "--git-dir"]).await? {
            let object_format = format!("--object-format={}", self.format);
            git.run("prepare a copy of", Patience::Short, &["init", "--quiet", "--bare", object_format.as_str()])
                .await?;
        }
        for left in ["shallow.lock", "index.lock", "packed-refs.lock"] {
            // The lock of the store says that nobody is at work.
            let _ = std::fs::remove_file(self.dir.join(left));
        }
        Ok(git)
    }

    async fn has(&self, git: &Git<'_>, commit: &str) -> Result<bool, GitError> {
        git.says(&["cat-file", "-e", &format!("{commit}^{{commit}}")]).await
    }

    /// Brings in a commit: by the name it was found under, else by itself, else with all there is (SPEC A7.04).
    async fn fetch(&self, git: &Git<'_>, wanted: &Resolved) -> Result<(), GitError> {
        let commit = wanted.commit.as_str();
        let tag_missing = match &wanted.tag {
            Some(tag) => !git.says(&["cat-file", "-e", tag.as_str()]).await?,
            None => false,
        };
        if !tag_missing && self.has(git, commit).await? {
            return self.keep(git, commit).await;
        }
        let mut failed = None;
        for what in wanted.name.as_deref().into_iter().chain([commit]) {
            let args =
                ["fetch", "--quiet", "--depth=1", "--no-tags", "--force", "--", git.access.remote.as_str(), what];
            match git.run("fetch remote", Patience::Long, &args).await {
                Ok(_) if self.has(git, commit).await? => return self.keep(git, commit).await,
                Ok(_) => {}
                Err(error) => failed = Some(error),
            }
        }
        // A server that cannot be reached will not be reached by asking for more.
        if let Some(error) = failed.filter(|e| e.kind() != crate::base::FaultKind::Remote) {
            return Err(error);
        }
        self.fetch_all(git).await?;
        if self.has(git, commit).await? {
            return self.keep(git, commit).await;
        }
        Err(GitError::NoRef { remote: git.access.remote.clone(), reference: commit.into() })
    }

    /// Everything that branches and tags reach.
    async fn fetch_all(&self, git: &Git<'_>) -> Result<(), GitError> {
        let mut args = vec!["fetch", "--quiet", "--force", "--no-tags"];
        if self.dir.join("shallow").is_file() {
            args.push("--unshallow");
        }
        args.extend([
            "--",
            git.access.remote.as_str(),
            "+refs/heads/*:refs/remotes/origin/*",
            "+refs/tags/*:refs/tags/*",
        ]);
        git.run("fetch remote", Patience::Long, &args).await.map(drop)
    }

    /// A ref of its own, so that the next fetch can say what is here.
    async fn keep(&self, git: &Git<'_>, commit: &str) -> Result<(), GitError> {
        let name = format!("refs/rbuild/{commit}");
        git.run("keep a commit of", Patience::Short, &["update-ref", name.as_str(), commit]).await.map(drop)
    }
}
