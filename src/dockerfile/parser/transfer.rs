//! COPY and ADD.

use super::super::ast::{Switch, Transfer, TransferSource};
use super::super::diagnostic::Diagnostic;
use super::super::text::quote;
use super::heredoc;
use super::instruction::Input;
use super::words;

/// A6.02.
pub(super) fn copy(input: &Input<'_>) -> Result<Transfer, Diagnostic> {
    input.only_flags(&["from", "chown", "chmod", "link", "parents", "exclude"])?;
    let mut transfer = common(input)?;
    transfer.from = input.flag_once("from")?;
    transfer.parents = switch(input, "parents")?;
    Ok(transfer)
}

/// A6.03.
pub(super) fn add(input: &Input<'_>) -> Result<Transfer, Diagnostic> {
    input.only_flags(&["chown", "chmod", "link", "keep-git-dir", "checksum", "unpack", "exclude"])?;
    let mut transfer = common(input)?;
    transfer.checksum = input.flag_once("checksum")?;
    transfer.keep_git_dir = switch(input, "keep-git-dir")?;
    transfer.unpack = switch(input, "unpack")?;
    Ok(transfer)
}

fn common(input: &Input<'_>) -> Result<Transfer, Diagnostic> {
    let name = &input.name;
    let (mut sources, dest) = match input.json_words()? {
        Some(words) => {
            let mut sources: Vec<TransferSource> = words.into_iter().map(TransferSource::Path).collect();
            let dest = sources.pop();
            (sources, dest)
        }
        None => {
            let mut heredocs = input.logical.heredocs.iter();
            let ranges = words::blank_words(&input.logical.text, input.args.clone());
            let mut sources: Vec<TransferSource> = ranges
                .into_iter()
                .map(|range| match heredoc::opening(&input.logical.text, range.clone(), input.escape) {
                    Some(_) => heredocs.next().cloned().map_or_else(
                        || TransferSource::Path(input.word(range)),
                        TransferSource::Heredoc,
                    ),
                    None => TransferSource::Path(input.word(range)),
                })
                .collect();
            let dest = sources.pop();
            (sources, dest)
        }
    };
    let dest = match dest {
        None => return Err(input.error(format!("{name} requires at least two arguments"))),
        Some(_) if sources.is_empty() => {
            let message = format!(
                "{name} requires at least two arguments, but only one was provided. Destination could not be determined"
            );
            return Err(input.error(message));
        }
        Some(TransferSource::Heredoc(_)) => {
            return Err(input.error(format!("{name} cannot accept a heredoc as a destination")));
        }
        Some(TransferSource::Path(word)) => word,
    };
    sources.shrink_to_fit();
    Ok(Transfer {
        sources,
        dest: Some(dest),
        chown: input.flag_once("chown")?,
        chmod: input.flag_once("chmod")?,
        link: switch(input, "link")?,
        exclude: input.flag_list("exclude")?,
        ..Transfer::default()
    })
}

/// G.02: `--name`, `--name=true`, `--name=false`.
fn switch(input: &Input<'_>, name: &str) -> Result<Option<Switch>, Diagnostic> {
    let mut given = input.flags.iter().filter(|f| Input::flag(f).0 == name);
    let Some(flag) = given.next() else { return Ok(None) };
    if let Some(second) = given.next() {
        return Err(input.logical.error(format!("duplicate flag specified: --{name}"), &second.0));
    }
    let on = match Input::flag(flag).1 {
        None => true,
        Some("") => return Err(input.logical.error(format!("missing a value on flag: --{name}"), &flag.0)),
        Some(value) if value.eq_ignore_ascii_case("true") => true,
        Some(value) if value.eq_ignore_ascii_case("false") => false,
        Some(value) => {
            let message = format!("expecting boolean value for flag --{name}, not: {}", quote(value));
            return Err(input.logical.error(message, &flag.0));
        }
    };
    Ok(Some(Switch { on, span: input.logical.span_of(&flag.0) }))
}

