//! Where commands write an archive to: a file that is complete or as it was, or standard output.

use std::io::{self, BufWriter, IsTerminal as _, Write};
use std::path::Path;

use super::errors::Failure;
use super::image_commands::usage;
use crate::base::{FaultKind, file};
use crate::exporter::layout::PIECE;

/// Whether an archive can go there at all, before anything is done for it.
///
/// # Errors
/// For a terminal, a directory, and a file of a directory that is not there.
pub(super) fn check(output: Option<&Path>) -> Result<(), Failure> {
    match output.filter(|path| *path != Path::new("-")) {
        None if io::stdout().is_terminal() => {
            Err(usage("refusing to write an archive to a terminal").hint("redirect standard output, or give -o FILE"))
        }
        Some(path) if path.is_dir() => {
            Err(usage(format!("--output: {} is a directory", path.display())).hint("name a file in it"))
        }
        Some(path) => match path.parent().filter(|dir| !dir.as_os_str().is_empty() && !dir.is_dir()) {
            Some(dir) => Err(usage(format!("--output: there is no directory {}", dir.display()))),
            None => Ok(()),
        },
        None => Ok(()),
    }
}

/// Lets `write` write to the file, or to standard output for `-` and none. A failed write leaves an old file as it was.
///
/// # Errors
/// As [`check`], for a file that cannot be written, and whatever `write` says.
pub(super) fn archive(
    output: Option<&Path>,
    write: impl FnOnce(&mut dyn Write) -> Result<(), Failure>,
) -> Result<u8, Failure> {
    let fail = |e: &io::Error, path: &Path| {
        Failure::new(FaultKind::of_io(e, FaultKind::Store), format!("cannot write {}: {e}", path.display()))
    };
    check(output)?;
    let Some(path) = output.filter(|path| *path != Path::new("-")) else {
        let mut out = BufWriter::with_capacity(PIECE, io::stdout());
        write(&mut out)?;
        out.flush().map_err(|e| fail(&e, Path::new("standard output")))?;
        return Ok(0);
    };
    let temp = file::beside(path).map_err(|e| fail(&e, path))?;
    let mut out = BufWriter::with_capacity(PIECE, temp.as_file());
    write(&mut out)?;
    out.flush().map_err(|e| fail(&e, path))?;
    drop(out);
    file::publish(temp, path).map_err(|e| fail(&e, path))?;
    Ok(0)
}
