//! What the command lines of other builders ([`super::kaniko`], [`super::buildah`]) have in common: they are read by a definition
//! of their own and become words of ours, so that everything behind is checked in one place only.

use std::ffi::OsString;
use std::io::Write as _;

use clap::FromArgMatches;

use super::errors::{ExitCodes, Failure};

/// What a command line becomes.
#[derive(Debug, Default)]
pub(super) struct Translation {
    /// A command of ours with its flags.
    pub(super) words: Vec<String>,
    /// What is accepted and means something else here, or nothing.
    pub(super) notices: Vec<String>,
}

impl Translation {
    /// A build. Provenance is nothing that the other builders write if nobody asks for it.
    pub(super) fn build() -> Self {
        Self { words: vec!["build".into(), "--provenance=false".into()], notices: Vec::new() }
    }

    /// Adds a flag with its value.
    pub(super) fn add(&mut self, flag: &str, value: &str) {
        self.words.push(format!("--{flag}={value}"));
    }

    /// Adds a flag that is on or absent.
    pub(super) fn switch(&mut self, flag: &str, on: bool) {
        self.words.extend(on.then(|| format!("--{flag}")));
    }
}

/// Reads a command line by another builder's definition. What is wrong with it is printed, and the exit code is the error.
pub(super) fn parsed<T: FromArgMatches>(
    mut definition: clap::Command,
    program: &str,
    words: &[OsString],
) -> Result<T, u8> {
    let line = std::iter::once(OsString::from(program)).chain(words.iter().cloned());
    let found = definition.try_get_matches_from_mut(line).and_then(|found| T::from_arg_matches(&found));
    found.map_err(|error| {
        let _ = error.print();
        u8::from(error.use_stderr()) * 2
    })
}

/// Appends the words of a translation to a command line and says its notices. A failure is printed, and the exit code is the error.
pub(super) fn append(translated: Result<Translation, Failure>, out: &mut Vec<OsString>) -> Result<(), u8> {
    let Translation { words, notices } = translated.map_err(refused)?;
    notices.iter().for_each(|notice| say(notice));
    out.extend(words.into_iter().map(OsString::from));
    Ok(())
}

/// Says what is wrong; the exit code.
pub(super) fn refused(failure: Failure) -> u8 {
    super::finish(Err(failure), ExitCodes::Kinds).max(1)
}

/// Something that is accepted and has no effect.
pub(super) fn say(notice: &str) {
    let _ = writeln!(std::io::stderr(), "notice: {notice}");
}
