//! The context, its Containerfiles and its ignore file, where buildah looks for them (SPEC D3.13, D3.14).

use std::path::{Path, PathBuf};

use super::flags::Build;
use crate::cli::errors::Failure;
use crate::cli::foreign::{CPP_FLAGS, Variables};
use crate::cli::settings::usage;
use crate::cli::translation::Translation;
use crate::frontend::remote::is_url;

/// podman's name goes before docker's.
const NAMES: [&str; 2] = ["Containerfile", "Dockerfile"];

/// Adds the files; the context is the answer.
pub(super) fn add(given: &Build, env: &Variables<'_>, out: &mut Translation) -> Result<String, Failure> {
    let mut context = given.context.clone().filter(|text| !text.is_empty()).unwrap_or_else(|| ".".into());
    let mut files = Vec::new();
    if given.file.is_empty() && Path::new(&context).is_file() {
        // A Containerfile in the place of a context is one in its own directory.
        let dir = Path::new(&context).parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let dir = dir.display().to_string();
        files.push(std::mem::replace(&mut context, dir));
    }
    let dir = Some(Path::new(&context)).filter(|path| path.is_dir());
    for file in &given.file {
        files.push(find(file, dir)?);
    }
    if let (Some(dir), true) = (dir, files.is_empty()) {
        files.extend(usual(dir).map(|path| path.display().to_string()));
    }
    out.switch("containerfile-first", files.is_empty());
    let mut rest = files.iter();
    if let Some(first) = rest.next() {
        out.add("file", first);
    }
    for file in rest {
        if file == "-" || is_url(file) {
            return Err(usage(format!("--file {file}: only the first of several files can be elsewhere")));
        }
        out.add("append-file", file);
    }
    if files.iter().any(|file| file.ends_with(".in")) {
        let variable = env(CPP_FLAGS).unwrap_or_default();
        out.add("preprocess", "");
        let flags = variable.split_ascii_whitespace().chain(given.steps.cpp_flag.iter().map(String::as_str));
        flags.for_each(|flag| out.add("preprocess", flag));
    }
    ignore(given, dir, files.first().map(String::as_str), out);
    Ok(context)
}

/// Where a file is: here, or else in the context.
fn find(file: &str, dir: Option<&Path>) -> Result<String, Failure> {
    if file == "-" || is_url(file) {
        return Ok(file.to_owned());
    }
    let here = PathBuf::from(file);
    let found = match dir {
        Some(dir) if !here.exists() && dir.join(file).exists() => dir.join(file),
        _ => here,
    };
    if found.is_dir() {
        return Err(usage(format!("--file {file}: it cannot be a path to a directory")));
    }
    Ok(found.display().to_string())
}

fn usual(dir: &Path) -> Option<PathBuf> {
    NAMES.iter().map(|name| dir.join(name)).find(|path| path.is_file())
}

/// An ignore file of the context in podman's name goes before docker's, and one beside the Containerfile before both.
fn ignore(given: &Build, dir: Option<&Path>, file: Option<&str>, out: &mut Translation) {
    if let Some(file) = given.same.ignorefile.last() {
        out.add("ignorefile", file);
        return;
    }
    let own = |file: &str| {
        [".containerignore", ".dockerignore"].iter().any(|end| Path::new(&format!("{file}{end}")).exists())
    };
    let path = dir.map(|dir| dir.join(".containerignore")).filter(|path| path.is_file());
    // A link that leads out of the context is no ignore file of it.
    let inside = |path: &PathBuf| match (path.canonicalize(), dir.map(Path::canonicalize)) {
        (Ok(path), Some(Ok(dir))) => path.starts_with(dir),
        _ => false,
    };
    if let Some(path) = path.filter(inside).filter(|_| !file.is_some_and(own)) {
        out.add("ignorefile", &path.display().to_string());
    }
}
