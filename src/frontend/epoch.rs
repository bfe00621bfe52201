//! `SOURCE_DATE_EPOCH`: a number, or where to take one from (SPEC A4.18).

use indexmap::IndexMap;

use super::args::{Globals, Variables};
use super::contexts::{Content, Contexts};
use super::error::FrontendError;
use super::options::FrontendInput;
use super::remote::{self, Remote};
use super::words::{Lex, Mode};
use crate::dockerfile::ast::{Kind, TransferSource};
use crate::dockerfile::{Stage, Stages};
use crate::llb::FrontendHost;
use crate::llb::op::SourceOp;
use crate::oci::Platform;

/// The argument that sets the time of everything.
pub(super) const EPOCH: &str = "SOURCE_DATE_EPOCH";

/// What the value may refer to.
pub(super) struct Surroundings<'a> {
    pub(super) input: &'a FrontendInput<'a>,
    pub(super) globals: &'a Globals,
    pub(super) stages: &'a Stages<'a>,
    pub(super) contexts: &'a Contexts,
    pub(super) platform: &'a Platform,
    pub(super) lex: Lex,
}

/// Where a time comes from.
enum Origin {
    Number(i64),
    Source(SourceOp),
    /// A directory: it has no time of its own.
    None,
}

impl Surroundings<'_> {
    /// The epoch in force, and its effect on the arguments that stages see.
    pub(super) async fn epoch(
        &self,
        build_args: &mut IndexMap<String, String>,
        host: &dyn FrontendHost,
    ) -> Result<Option<i64>, FrontendError> {
        let given = self.input.options.epoch;
        let text = match (build_args.get(EPOCH), given, self.globals.values.get(EPOCH)) {
            (Some(text), _, _) => text.clone(),
            (None, Some(epoch), _) => epoch.to_string(),
            (None, None, Some(text)) => text.clone(),
            (None, None, None) => return Ok(None),
        };
        let epoch = match self.origin(&text, build_args)? {
            Origin::Number(epoch) => Some(epoch),
            Origin::Source(source) => host.source_time(&source).await?,
            Origin::None => None,
        };
        match epoch {
            None => {
                build_args.shift_remove(EPOCH);
            }
            Some(epoch) if build_args.contains_key(EPOCH) || given.is_some() => {
                build_args.insert(EPOCH.into(), epoch.to_string());
            }
            Some(_) => {}
        }
        Ok(epoch)
    }

    fn origin(&self, text: &str, build_args: &IndexMap<String, String>) -> Result<Origin, FrontendError> {
        if text.is_empty() {
            return Ok(Origin::None);
        }
        if let Ok(epoch) = text.parse::<i64>() {
            return Ok(Origin::Number(epoch));
        }
        if text == "context" {
            return Ok(match &self.input.context {
                Some(context) => Origin::Source(context.source.clone()),
                None => Origin::None,
            });
        }
        let invalid = || FrontendError::usage(format!("invalid SOURCE_DATE_EPOCH: {text}"));
        match self.contexts.find(text, self.platform)?.map(|context| context.content) {
            Some(Content::Remote(context)) => return Ok(Origin::Source(context.source)),
            Some(Content::Local(_)) => return Ok(Origin::None),
            Some(_) => return Err(invalid().hint("an image has no time to take: name a git or http context")),
            None => {}
        }
        let name = text.to_lowercase();
        let stage = self.stages.all().iter().rev().find(|stage| stage.name.as_ref() == Some(&name));
        let Some(stage) = stage else {
            return Err(invalid().hint(
                "give seconds since 1970, \"context\", the name of a git or http context, or that of a stage with one \
                 remote ADD",
            ));
        };
        match self.only_remote(stage, build_args)? {
            Some(source) => Ok(Origin::Source(source)),
            None => {
                let why = "SOURCE_DATE_EPOCH stage does not meet source-only requirements";
                Err(FrontendError::usage(format!("invalid SOURCE_DATE_EPOCH: {text}: {why}"))
                    .hint("a stage that gives the time is FROM scratch, ARGs, and exactly one remote ADD"))
            }
        }
    }

    /// The source of a stage that is nothing but one.
    fn only_remote(
        &self,
        stage: &Stage<'_>,
        build_args: &IndexMap<String, String>,
    ) -> Result<Option<SourceOp>, FrontendError> {
        let mut variables = Variables::new();
        let base = self.lex.expand(&stage.base.text, Mode::Word, &self.globals.values)?;
        let mut found = None;
        if base.text != "scratch" {
            return Ok(None);
        }
        for instruction in stage.instructions {
            match &instruction.kind {
                Kind::Arg(declarations) => {
                    for declaration in declarations {
                        let name = &self.lex.expand(&declaration.name.text, Mode::Word, &variables)?.text;
                        let own = match &declaration.value {
                            Some(word) => Some(self.lex.expand(&word.text, Mode::Word, &variables)?.text),
                            None => self.globals.values.get(name).cloned(),
                        };
                        if let Some(value) = build_args.get(name).cloned().or(own) {
                            variables.insert(name.clone(), value);
                        }
                    }
                }
                Kind::Add(add) if found.is_none() => {
                    let [TransferSource::Path(word)] = add.sources.as_slice() else { return Ok(None) };
                    let path = self.lex.expand(&word.text, Mode::Word, &variables)?.text;
                    let checksum = match &add.checksum {
                        Some(word) => Some(self.lex.expand(&word.text, Mode::Word, &variables)?.text),
                        None => None,
                    };
                    found = match Remote::of(&path).map_err(FrontendError::input)? {
                        Some(Remote::Url) => Some(remote::http(&path, &remote::file_name(&path), checksum.as_deref())),
                        Some(Remote::Git(mut reference)) => {
                            reference.checksum = checksum.or(reference.checksum);
                            Some(remote::git(&reference, true))
                        }
                        None => return Ok(None),
                    };
                }
                _ => return Ok(None),
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frontend::options::FrontendOptions;
    use crate::frontend::remote::RemoteContext;
    use crate::frontend::tests::Host;

    /// The epoch and what stages see.
    fn resolve(
        dockerfile: &str,
        given: Option<&str>,
        invocation: Option<i64>,
        context: Option<RemoteContext>,
    ) -> Result<(Option<i64>, Option<String>), FrontendError> {
        let parsed = crate::dockerfile::parse(dockerfile.as_bytes());
        let (stages, globals) = (Stages::new(&parsed.dockerfile), Globals::default());
        let named_contexts = [("repo", "https://h.example/r.git"), ("dir", "./x"), ("image", "docker-image://alpine")];
        let named_contexts = named_contexts.map(|(k, v)| (k.into(), v.into())).into();
        let options = FrontendOptions { epoch: invocation, named_contexts, ..FrontendOptions::default() };
        let input = FrontendInput { context, options, ..FrontendInput::default() };
        let contexts = Contexts::new(&input.options.named_contexts);
        let mut build_args: IndexMap<String, String> =
            given.map(|text| (EPOCH.into(), text.into())).into_iter().collect();
        let surroundings = Surroundings {
            input: &input,
            globals: &globals,
            stages: &stages,
            contexts: &contexts,
            platform: &Platform::host(),
            lex: Lex::new('\\'),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let epoch = runtime.block_on(surroundings.epoch(&mut build_args, &Host::default()))?;
        Ok((epoch, build_args.get(EPOCH).cloned()))
    }

    #[test]
    fn a4_18_numbers() {
        let resolve = |given, invocation| resolve("FROM scratch\n", given, invocation, None);
        assert_eq!(resolve(Some("07"), Some(1)), Ok((Some(7), Some("7".into()))));
        assert_eq!(resolve(None, Some(1)), Ok((Some(1), Some("1".into()))));
        assert_eq!(resolve(Some(""), None), Ok((None, None)));
        let error = resolve(Some("nonsense"), None).expect_err("refused");
        assert_eq!(error.message, "invalid SOURCE_DATE_EPOCH: nonsense");
    }

    #[test]
    fn a4_18_contexts_and_stages() {
        let taken = Ok((Some(1_234_567_890), Some("1234567890".into())));
        let file = "FROM scratch AS one\nARG V=1\nADD https://h.example/$V /\nFROM scratch AS two\nADD https://h/1 /\nADD https://h/2 /\nFROM alpine AS base\nADD https://h/1 /\nFROM scratch AS local\nADD x /\n";
        let of = |text| resolve(file, Some(text), None, None);
        for text in ["repo", "one", "ONE"] {
            assert_eq!(of(text), taken, "{text}");
        }
        for text in ["context", "dir"] {
            assert_eq!(of(text), Ok((None, None)), "{text}: a directory has no time");
        }
        for text in ["image", "two", "base", "local", "unknown"] {
            let error = of(text).expect_err(text);
            let is_stage = !matches!(text, "image" | "unknown");
            let why = if is_stage { ": SOURCE_DATE_EPOCH stage does not meet source-only requirements" } else { "" };
            assert_eq!(error.message, format!("invalid SOURCE_DATE_EPOCH: {text}{why}"));
            assert!(error.hint.is_some());
        }
        let context = RemoteContext::http("https://h.example/c.tar");
        assert_eq!(resolve(file, Some("context"), None, Some(context)), taken);
    }
}
