//! `--context`, `--context-sub-path`, `--git` and `--dockerfile` (SPEC D1.01–D1.04, D1.35, D2).

use std::path::{Path, PathBuf};

use super::flags::Executor;
use crate::base::values::{boolean, csv_record};
use crate::base::wording::did_you_mean;
use crate::cli::errors::Failure;
use crate::cli::foreign::Variables;
use crate::cli::settings::usage;
use crate::cli::translation::Translation;
use crate::frontend::remote::is_url;

/// The context if none is named.
pub(super) const WORKSPACE: &str = "/workspace/";
/// Hosts of Azure's blob storage, in all its clouds.
const AZURE: [&str; 4] =
    [".blob.core.windows.net", ".blob.core.usgovcloudapi.net", ".blob.core.chinacloudapi.cn", ".blob.core.cloudapi.de"];

/// Adds the Dockerfile and the context, which comes last.
pub(super) fn add(given: &Executor, env: &Variables<'_>, out: &mut Translation) -> Result<(), Failure> {
    let text = match &given.bucket {
        Some(bucket) if !bucket.is_empty() => {
            let object = if given.context == WORKSPACE { "" } else { given.context.trim_start_matches('/') };
            // Google's, if nothing else is said.
            let bucket = if bucket.contains("://") { bucket.clone() } else { format!("gs://{bucket}") };
            if object.is_empty() { bucket } else { format!("{}/{object}", bucket.trim_end_matches('/')) }
        }
        _ => given.context.clone(),
    };
    let sub = given.context_sub_path.trim_matches('/');
    let (scheme, rest) = text.split_once("://").unwrap_or(("dir", &text));
    let context = match scheme {
        "dir" => {
            let dir = if sub.is_empty() { PathBuf::from(rest) } else { Path::new(rest).join(sub) };
            out.add("file", &local_dockerfile(&given.dockerfile, &dir)?);
            out.words.push(dir.display().to_string());
            return Ok(());
        }
        "tar" if rest == "stdin" => "-".to_owned(),
        "tar" => text.clone(),
        "git" => return git(given, rest, sub, env, out),
        // A bucket alone has one context.
        "gs" | "s3" if rest.trim_end_matches('/').split('/').count() == 1 => {
            format!("{scheme}://{}/context.tar.gz", rest.trim_end_matches('/'))
        }
        "s3" | "gs" => text.clone(),
        "https" if is_azure(rest) => {
            if env("AZURE_STORAGE_ACCESS_KEY").is_none() {
                return Err(usage(format!("--context {text}: AZURE_STORAGE_ACCESS_KEY is not set"))
                    .hint("a URL that is signed (SAS) needs no key: give it to `rbuild build` as the context"));
            }
            format!("azblob://{rest}")
        }
        "https" => text.clone(),
        other => {
            return Err(usage(format!("--context {text}: unknown build context prefix {other}://"))
                .hint("expected dir://, tar://, git://, https://, s3:// or gs://"));
        }
    };
    if !sub.is_empty() {
        out.add("context-sub-path", sub);
    }
    out.words.extend(remote_dockerfile(&given.dockerfile));
    out.words.push(context);
    Ok(())
}

fn is_azure(rest: &str) -> bool {
    let host = rest.split(['/', ':']).next().unwrap_or_default();
    AZURE.iter().any(|suffix| host.ends_with(suffix))
}

/// In the context, or else as it is written.
fn local_dockerfile(file: &str, context: &Path) -> Result<String, Failure> {
    if is_url(file) {
        return Ok(file.to_owned());
    }
    let inside = context.join(file.trim_start_matches('/'));
    let found = [inside, PathBuf::from(file)].into_iter().find(|path| path.is_file());
    // A context that is not there at all is the better error.
    match found {
        Some(path) => Ok(path.display().to_string()),
        None if !context.is_dir() => Ok(file.to_owned()),
        None => Err(usage(format!("error resolving dockerfile path: there is no {file} in {}", context.display()))
            .hint("give a path in the context with --dockerfile")),
    }
}

/// What is in the context is not known yet.
fn remote_dockerfile(file: &str) -> Option<String> {
    let path = Path::new(file);
    match file {
        "Dockerfile" => None,
        file if is_url(file) || (path.is_absolute() && path.is_file()) => Some(format!("--file={file}")),
        file => Some(format!("--file={}", file.trim_start_matches('/'))),
    }
}

/// `git://host/repo[#ref[#commit]]`: by https, or as `GIT_PULL_METHOD` says. Submodules come only if asked for.
fn git(given: &Executor, rest: &str, sub: &str, env: &Variables<'_>, out: &mut Translation) -> Result<(), Failure> {
    let method = match env("GIT_PULL_METHOD").as_deref() {
        None | Some("https") => "https",
        Some("http") => "http",
        Some(other) => return Err(usage(format!("GIT_PULL_METHOD={other}: expected https or http"))),
    };
    let options = options(&given.git)?;
    let mut parts = rest.splitn(3, '#');
    let repository = parts.next().unwrap_or_default();
    if options.skip_tls {
        // Without the user, who may have a password.
        let authority = repository.split('/').next().unwrap_or_default();
        let host = authority.rsplit('@').next().unwrap_or_default();
        out.words.push(format!("--git-unverified={host}"));
    }
    let reference = parts.next().filter(|part| !part.is_empty()).map(ToOwned::to_owned);
    let reference = reference.or(options.branch.map(|branch| format!("refs/heads/{branch}")));
    let commit = parts.next().filter(|part| !part.is_empty());
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    for (name, value) in [("ref", reference.as_deref()), ("checksum", commit)] {
        query.extend_pairs(value.map(|value| (name, value)));
    }
    if !sub.is_empty() {
        query.append_pair("subdir", sub);
    }
    query.append_pair("submodules", if options.submodules { "true" } else { "false" });
    out.words.extend(remote_dockerfile(&given.dockerfile));
    out.words.push(format!("git+{method}://{repository}?{}", query.finish()));
    Ok(())
}

/// What `--git` says.
#[derive(Debug, Default)]
struct GitOptions {
    branch: Option<String>,
    submodules: bool,
    skip_tls: bool,
}

fn options(texts: &[String]) -> Result<GitOptions, Failure> {
    const KEYS: [&str; 5] = ["branch", "single-branch", "recurse-submodules", "insecure-skip-tls", "depth"];
    let mut options = GitOptions::default();
    for text in texts {
        for field in csv_record(text).map_err(|e| usage(format!("--git {text}: {e}")))? {
            let (key, value) = field.split_once('=').unwrap_or((field.as_str(), ""));
            let switch = || boolean(value).ok_or_else(|| usage(format!("--git {key}={value}: expected true or false")));
            match key {
                "branch" => options.branch = (!value.is_empty()).then(|| value.to_owned()),
                // One commit is fetched, whatever it says.
                "single-branch" => drop(switch()?),
                "depth" if value.parse::<u32>().is_ok() => {}
                "depth" => return Err(usage(format!("--git depth={value}: expected a number of commits"))),
                "recurse-submodules" => options.submodules = switch()?,
                "insecure-skip-tls" => options.skip_tls = switch()?,
                other => return Err(usage(format!("--git: unknown option {other}{}", did_you_mean(other, KEYS)))),
            }
        }
    }
    Ok(options)
}
