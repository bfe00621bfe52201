//! `--volume`: what steps and programs see of this machine (SPEC D3.10).

use std::path::{Component, Path, PathBuf};

use rootless::step::StepMount;

use super::errors::Failure;
use super::settings::usage;
use crate::exec::run::StepOptions;

/// A path of the container.
pub(super) fn absolute(text: &str) -> Option<PathBuf> {
    let path = Path::new(text);
    let plain = path.components().all(|c| !matches!(c, Component::ParentDir));
    (path.is_absolute() && plain && path != Path::new("/")).then(|| path.components().collect())
}

/// A volume of steps: as [`volume`], or with the option `O` a directory that each step may change for itself.
///
/// # Errors
/// As [`volume`], and if it is no directory.
pub(super) fn step_volume(text: &str, options: &mut StepOptions) -> Result<(), Failure> {
    let (rest, flags) = match text.splitn(3, ':').collect::<Vec<_>>()[..] {
        [source, target, flags] => (format!("{source}:{target}"), flags),
        _ => (text.to_owned(), ""),
    };
    if !flags.split(',').any(|flag| flag == "O") {
        options.volumes.push(volume(text)?);
        return Ok(());
    }
    let StepMount::Bind { source, target, .. } = volume(&rest)? else { return Ok(()) };
    if let Some(other) = flags.split(',').find(|flag| *flag != "O") {
        return Err(usage(format!("--volume {text}: the option \"{other}\" does not go together with O")));
    }
    if !source.is_dir() {
        return Err(usage(format!("--volume {text}: O is for directories")));
    }
    options.private_volumes.push((source, target));
    Ok(())
}

/// `SOURCE:TARGET[:ro]`.
///
/// # Errors
/// Names the rule, or the source that is not there.
pub(super) fn volume(text: &str) -> Result<StepMount, Failure> {
    let fail = |why: String| usage(format!("--volume {text}: {why}"));
    let mut parts = text.split(':');
    let (source, target, flags) = match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(source), Some(target), flags, None) => (source, target, flags.unwrap_or("rw")),
        _ => return Err(fail("expected SOURCE:TARGET[:ro]".into())),
    };
    let mut readonly = false;
    for flag in flags.split(',') {
        match flag {
            "rw" => readonly = false,
            "ro" => readonly = true,
            "z" | "Z" => return Err(fail(format!("{flag}: files are not labelled for SELinux here"))),
            other => return Err(fail(format!("unknown option \"{other}\", expected ro or rw"))),
        }
    }
    if !source.contains('/') && source != "." && source != ".." {
        return Err(
            fail("volumes with names are not kept here".into()).hint(format!("for a directory write ./{source}"))
        );
    }
    let source = std::fs::canonicalize(source).map_err(|e| fail(format!("cannot find {source}: {e}")))?;
    let target = absolute(target).ok_or_else(|| fail(format!("\"{target}\" is not an absolute path below /")))?;
    Ok(StepMount::Bind { source, target, readonly })
}
