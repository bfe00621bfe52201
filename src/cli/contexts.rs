//! Where the build context and the Dockerfile are (SPEC B1.01–B1.07), as the command line says.
//!
//! Directories and files of this machine are looked at here; what has to be fetched is only named.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::CommandFactory as _;

use super::args::{Build, Cli};
use super::errors::Failure;
use super::graphs;
use super::settings::{read_limited, usage};
use crate::archive::looks_like_archive;
use crate::base::wording::closest;
use crate::base::{FaultKind, file};
use crate::build::{BuildRequest, DockerfileAt, MainContext, Stream};
use crate::dockerfile::gitref::GitRef;
use crate::dockerfile::ignore::IgnoreFile;
use crate::frontend::remote::{ArchiveRef, is_url};
use crate::oci::Reference;
use crate::solver::ContextDir;
use crate::source::oci_layout::Layout;

/// Larger Dockerfiles are refused.
const MAX_DOCKERFILE: u64 = crate::build::MAX_DOCKERFILE;
/// Docker's name, and podman's where that is not (SPEC D3.13).
const IGNORE_FILES: [&str; 2] = [".dockerignore", ".containerignore"];
/// How much of standard input decides what it is (B1.02).
const PEEK: u64 = 1024;

fn input(message: String) -> Failure {
    Failure::new(FaultKind::Input, message)
}

/// The context and the Dockerfile; where that is, if it is a file of this machine.
pub(super) fn main_context(
    args: &Build,
    context: &str,
    request: &mut BuildRequest,
) -> Result<Option<PathBuf>, Failure> {
    if is_graph(args) {
        return graph_from_stdin(args, context, request).map(|()| None);
    }
    if context == "-" {
        request.context_subdir.clone_from(&args.drop_in.context_sub_path);
        return from_stdin(args, request).map(|()| None);
    }
    let below = args.drop_in.context_sub_path.as_deref().map(|dir| dir.trim_matches('/')).filter(|dir| !dir.is_empty());
    request.context_subdir = below.map(ToOwned::to_owned);
    let reference = GitRef::parse(context).transpose();
    let reference = reference.map_err(|reason| usage(format!("unable to prepare context: {context}: {reason}")))?;
    // `github.com/x/y` may also be a directory.
    if let Some(mut reference) = reference.filter(|r| !r.like_a_path || !Path::new(context).exists()) {
        if let Some(below) = below {
            let subdir =
                if reference.subdir.is_empty() { below.to_owned() } else { format!("{}/{below}", reference.subdir) };
            reference.subdir = subdir;
        }
        request.context = MainContext::Git(Box::new(reference));
        return remote_dockerfile(args, request).map(|()| None);
    }
    if let Some(archive) = ArchiveRef::parse(context) {
        let dirs = archive.dir().into_iter().chain(below).collect::<Vec<_>>().join("/");
        request.context_subdir = Some(dirs).filter(|dir| !dir.is_empty());
        request.context = MainContext::Url(archive.url);
        return remote_dockerfile(args, request).map(|()| None);
    }
    if is_url(context) {
        request.context = MainContext::Url(context.into());
        return remote_dockerfile(args, request).map(|()| None);
    }
    if let Some(file) = context.strip_prefix("tar://") {
        let opened = std::fs::File::open(file);
        let opened = opened.map_err(|e| usage(format!("unable to prepare context: cannot open {file}: {e}")))?;
        request.context = MainContext::Archive(Stream::new(file, opened));
        return remote_dockerfile(args, request).map(|()| None);
    }
    if let Some(stream) = super::object_contexts::find(context)? {
        request.context = MainContext::Archive(stream);
        return remote_dockerfile(args, request).map(|()| None);
    }
    let joined = Path::new(context).join(below.unwrap_or_default());
    let dir = if below.is_some() { joined.as_path() } else { Path::new(context) };
    if !dir.is_dir() {
        let what = if dir.exists() { "is not a directory" } else { "not found" };
        let failure = usage(format!("unable to prepare context: path \"{context}\" {what}"));
        // `rbuild PATH` builds, so a command that is mistyped is a path that is not there.
        let cli = Cli::command();
        let commands = cli.get_subcommands().filter(|command| !command.is_hide_set());
        return Err(match closest(context, commands.map(clap::Command::get_name)) {
            Some(close) if !dir.exists() => failure.hint(format!("did you mean the command {close}?")),
            _ => failure,
        });
    }
    let dir = dir.canonicalize().map_err(|e| usage(format!("unable to prepare context: path \"{context}\": {e}")))?;
    let path = match args.file.as_deref() {
        Some("-") => {
            given(request, dockerfile_from_stdin(&[])?);
            None
        }
        Some(url) if is_url(url) => {
            request.dockerfile_at = DockerfileAt::Url(url.into());
            None
        }
        Some(file) => Some(PathBuf::from(file)),
        None => {
            // SPEC D3.14: podman's name, where docker's is not.
            let usual = ["Dockerfile", "dockerfile", "Containerfile"].map(|name| dir.join(name));
            let [first, ..] = &usual;
            Some(usual.iter().find(|path| path.exists()).unwrap_or(first).clone())
        }
    };
    let mut ignore = None;
    if let Some(file) = &args.drop_in.ignorefile {
        let missing = || usage(format!("--ignorefile: there is no {}", file.display()));
        ignore = Some(read_ignore(file)?.ok_or_else(missing)?);
    }
    if let Some(path) = &path {
        local_dockerfile(path, args.file.is_some(), request)?;
        // SPEC A9.01: an ignore file beside the Dockerfile goes before the context's own.
        for suffix in IGNORE_FILES {
            let mut own = path.clone().into_os_string();
            own.push(suffix);
            let own = Path::new(&own);
            let beside = own.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let name = own.file_name().unwrap_or_default();
            ignore = ignore.map_or_else(|| read_ignore_below(beside, name.as_ref()), |found| Ok(Some(found)))?;
        }
    }
    ignore = ignore.map_or_else(|| ignore_of(&dir), |found| Ok(Some(found)))?;
    request.contexts.insert("context".into(), context_dir(&dir, ignore.as_ref())?);
    request.ignore = ignore;
    Ok(path)
}

/// Whether standard input is a definition (SPEC S2.22).
pub(super) fn is_graph(args: &Build) -> bool {
    matches!(args.frontend.as_deref(), Some("llb" | ""))
}

/// A definition, and the directory that it may call `context`.
fn graph_from_stdin(args: &Build, context: &str, request: &mut BuildRequest) -> Result<(), Failure> {
    let given = [
        ("--file", args.file.is_some()),
        ("--call", args.call.is_some()),
        ("--check", args.check),
        ("--target", args.target.is_some()),
        ("--frontend-opt", !args.frontend_opt.is_empty()),
    ];
    if let Some((flag, _)) = given.iter().find(|(_, given)| *given) {
        return Err(usage(format!("{flag} means nothing with --frontend llb: no file is read")));
    }
    if !context.is_empty() {
        let dir = Path::new(context);
        let dir = dir.canonicalize().ok().filter(|dir| dir.is_dir());
        let dir = dir.ok_or_else(|| usage(format!("unable to prepare context: \"{context}\" is no directory")))?;
        request.contexts.insert("context".into(), ContextDir { dir, ..ContextDir::default() });
    }
    request.graph = Some(graphs::read(std::io::stdin(), "standard input")?);
    request.filename = "standard input".into();
    Ok(())
}

/// An archive, or a Dockerfile without a context (B1.02).
fn from_stdin(args: &Build, request: &mut BuildRequest) -> Result<(), Failure> {
    if args.file.as_deref() == Some("-") {
        return Err(usage("invalid argument: can't use stdin for both build context and dockerfile"));
    }
    let mut head = Vec::new();
    let read = std::io::stdin().take(PEEK).read_to_end(&mut head);
    read.map_err(|e| input(format!("cannot read standard input: {e}")))?;
    if looks_like_archive(&head) {
        let all = std::io::Cursor::new(head).chain(std::io::stdin());
        request.context = MainContext::Archive(Stream::new("standard input", all));
        return remote_dockerfile(args, request);
    }
    if args.file.is_some() {
        return Err(usage("ambiguous Dockerfile source: both stdin and flag correspond to Dockerfiles"));
    }
    given(request, dockerfile_from_stdin(&head)?);
    Ok(())
}

/// The Dockerfile of a context that is not a directory: in it, unless `-f` names one of this machine (B1.03).
fn remote_dockerfile(args: &Build, request: &mut BuildRequest) -> Result<(), Failure> {
    match args.file.as_deref() {
        None => request.dockerfile_at = DockerfileAt::InContext(None),
        Some("-") => given(request, dockerfile_from_stdin(&[])?),
        Some(url) if is_url(url) => request.dockerfile_at = DockerfileAt::Url(url.into()),
        Some(path) if Path::new(path).is_absolute() => local_dockerfile(Path::new(path), true, request)?,
        Some(path) => request.dockerfile_at = DockerfileAt::InContext(Some(path.into())),
    }
    Ok(())
}

fn given(request: &mut BuildRequest, dockerfile: Vec<u8>) {
    request.dockerfile = dockerfile;
    request.filename = "Dockerfile".into();
}

/// Standard input to its end; `head` was read before.
fn dockerfile_from_stdin(head: &[u8]) -> Result<Vec<u8>, Failure> {
    let mut bytes = head.to_vec();
    let read = std::io::stdin().take(MAX_DOCKERFILE + 1).read_to_end(&mut bytes);
    read.map_err(|e| input(format!("cannot read standard input: {e}")))?;
    if bytes.len() as u64 > MAX_DOCKERFILE {
        return Err(input(
            "the Dockerfile on standard input exceeds maximum allowed size: it is larger than 16 MiB".into(),
        ));
    }
    Ok(bytes)
}

fn local_dockerfile(path: &Path, named: bool, request: &mut BuildRequest) -> Result<(), Failure> {
    if path.is_dir() {
        let failure = input(format!("failed to read dockerfile: {} is a directory", path.display()));
        return Err(failure.hint(if named {
            "-f names the file, and what comes last is the context"
        } else {
            "give another one with -f FILE"
        }));
    }
    let bytes = read_limited(path, MAX_DOCKERFILE).map_err(|e| {
        let why =
            if e.kind() == std::io::ErrorKind::NotFound { "no such file or directory".into() } else { e.to_string() };
        let failure = input(format!("failed to read dockerfile: open {}: {why}", path.display()));
        if named {
            failure.hint("-f is relative to the current directory, not to the context")
        } else {
            failure.hint("give another one with -f FILE")
        }
    })?;
    if bytes.len() as u64 > MAX_DOCKERFILE {
        return Err(input(format!(
            "Dockerfile exceeds maximum allowed size: {} is larger than 16 MiB",
            path.display()
        )));
    }
    request.dockerfile = bytes;
    request.filename = path.file_name().map_or_else(|| "Dockerfile".into(), |n| n.to_string_lossy().into_owned());
    Ok(())
}

/// Whether a context is a repository that is reached by ssh.
pub(super) fn want_agent(request: &BuildRequest) -> bool {
    let main = match &request.context {
        MainContext::Git(reference) => Some(reference.remote.clone()),
        _ => None,
    };
    let named = request.options.named_contexts.values();
    let named = named.filter_map(|value| Some(GitRef::parse(value)?.ok()?.remote));
    main.into_iter().chain(named).any(|remote| remote.starts_with("ssh://") || !remote.contains("://"))
}

/// The ignore file of a context.
fn ignore_of(dir: &Path) -> Result<Option<(String, Vec<u8>)>, Failure> {
    for name in IGNORE_FILES {
        if let Some(found) = read_ignore_below(dir, name.as_ref())? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// An ignore file of a directory that is transferred: a link in it leads to nowhere outside.
fn read_ignore_below(dir: &Path, name: &Path) -> Result<Option<(String, Vec<u8>)>, Failure> {
    let path = dir.join(name);
    let found = file::open_dir(dir).and_then(|root| file::read_in_root(root, name, MAX_DOCKERFILE));
    let found = read_ignore_as(&path, found)?;
    if found.is_none() && path.is_file() {
        super::translation::say(&format!("{}: it leads out of its directory, so it is not read", path.display()));
    }
    Ok(found)
}

/// An ignore file that somebody names.
fn read_ignore(path: &Path) -> Result<Option<(String, Vec<u8>)>, Failure> {
    read_ignore_as(path, std::fs::read(path))
}

fn read_ignore_as(path: &Path, read: std::io::Result<Vec<u8>>) -> Result<Option<(String, Vec<u8>)>, Failure> {
    match read {
        Ok(bytes) => {
            let name = path.file_name().map_or_else(|| ".dockerignore".into(), |n| n.to_string_lossy().into_owned());
            Ok(Some((name, bytes)))
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Failure::new(FaultKind::Input, format!("cannot read {}: {e}", path.display()))),
    }
}

fn context_dir(dir: &Path, ignore: Option<&(String, Vec<u8>)>) -> Result<ContextDir, Failure> {
    let mut context = ContextDir { dir: dir.to_path_buf(), ..ContextDir::default() };
    if let Some((name, text)) = ignore {
        let parsed = IgnoreFile::parse(name, text)
            .map_err(|e| Failure::new(FaultKind::Input, format!("failed parsing {name}: {e}")))?;
        context.ignore_lines = parsed.texts_and_lines().1;
        context.ignore_name = Some(name.clone());
    }
    Ok(context)
}

/// What a context of this name is called when the file asks for it: as images are, with the platform it is for, if any.
/// Names of stages know no case, so that of the name is dropped; a tag's and a digest's is kept.
///
/// # Errors
/// For a name that no image could have.
pub(super) fn context_key(name: &str) -> Result<String, Failure> {
    let (plain, platform) = name.split_once("::").map_or((name, None), |(plain, platform)| (plain, Some(platform)));
    let repository = plain.split('@').next().unwrap_or_default();
    let repository = match repository.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => repository,
    };
    let reference: Reference = format!("{}{}", repository.to_lowercase(), &plain[repository.len()..])
        .parse()
        .map_err(|e| usage(format!("--build-context: invalid context name {name}: {e}")))?;
    let familiar = reference.familiar();
    let key = familiar.strip_suffix(":latest").unwrap_or(&familiar);
    Ok(platform.map_or_else(|| key.to_owned(), |platform| format!("{key}::{platform}")))
}

/// `name=value` of `--build-context` (SPEC B1.06).
pub(super) fn named_contexts(args: &Build, request: &mut BuildRequest) -> Result<(), Failure> {
    for text in &args.build_context {
        let Some((name, value)) = text.split_once('=') else {
            return Err(usage(format!("--build-context: invalid context value: {text}, expected key=value")));
        };
        let key = context_key(name)?;
        let image = value.strip_prefix("docker-image://").map(|image| image.parse::<Reference>());
        if let Some(Err(e)) = image {
            return Err(usage(format!("--build-context {name}: {value}: {e}")));
        }
        if let Some(text) = value.strip_prefix("oci-layout://") {
            // As with buildx it is looked at whether or not the file needs it: a wrong path is no reason to ask a registry.
            let fail = |why: &dyn std::fmt::Display| {
                usage(format!("--build-context {name}: oci-layout reference \"{value}\" could not be resolved: {why}"))
                    .hint("write oci-layout://DIRECTORY[:TAG][@DIGEST]")
            };
            Layout::parse(text).map_err(|e| fail(&e))?.root().map_err(|e| fail(&e))?;
        }
        if image.is_some() || value.starts_with("oci-layout://") {
            request.options.named_contexts.insert(key, value.to_owned());
            continue;
        }
        let reference = GitRef::parse(value)
            .transpose()
            .map_err(|reason| usage(format!("--build-context {name}: {value}: {reason}")))?;
        // `github.com/x/y` may also be a directory.
        let archive = ArchiveRef::parse(value).is_some();
        let remote =
            reference.is_some_and(|r| !r.like_a_path || !Path::new(value).exists()) || is_url(value) || archive;
        if remote {
            request.options.named_contexts.insert(key, value.to_owned());
            continue;
        }
        if value.contains("://") || value.starts_with("target:") {
            return Err(usage(format!("--build-context {name}: \"{value}\" is not supported yet"))
                .hint("use a directory, a git or http URL, docker-image://REFERENCE or oci-layout://DIRECTORY"));
        }
        let dir = Path::new(value).canonicalize().ok().filter(|d| d.is_dir());
        let dir = dir.ok_or_else(|| {
            usage(format!("--build-context: failed to find local context {name}: path \"{value}\" not found"))
        })?;
        let ignore = ignore_of(&dir)?;
        request.contexts.insert(key.clone(), context_dir(&dir, ignore.as_ref())?);
        if let Some(ignore) = ignore {
            request.context_ignores.insert(key.clone(), ignore);
        }
        request.options.named_contexts.insert(key, dir.display().to_string());
    }
    Ok(())
}
