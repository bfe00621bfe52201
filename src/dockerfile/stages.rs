//! Which stage a name, a number or a target means (SPEC A4).
//!
//! Works on the tree and on base names that the caller has expanded; knows nothing of images and named contexts.

use std::collections::BTreeSet;

use super::ast::{ArgDeclaration, Dockerfile, Instruction, Kind, Span, Word};
use super::mount::mount_from;
use crate::base::wording::closest;
use crate::base::wording::quote;

/// Names that a stage should not have (SPEC A4.19).
pub const RESERVED: [&str; 2] = ["context", "scratch"];

/// A FROM and what follows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage<'a> {
    /// 0-based, over all FROMs.
    pub index: usize,
    /// In lower case; names are compared like that.
    pub name: Option<String>,
    /// `--platform`, unexpanded.
    pub platform: Option<&'a Word>,
    /// Base, unexpanded.
    pub base: &'a Word,
    /// The FROM instruction.
    pub from: &'a Instruction,
    /// Where it stands in `Dockerfile::instructions`.
    pub position: usize,
    /// The instructions behind FROM.
    pub instructions: &'a [Instruction],
}

impl Stage<'_> {
    /// How progress and errors call it: its name or `stage-N`.
    #[must_use]
    pub fn label(&self) -> String {
        self.name.clone().unwrap_or_else(|| format!("stage-{}", self.index))
    }
}

/// A reference that leads nowhere.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StageError {
    /// A number outside the file.
    #[error("invalid stage index {0}")]
    InvalidIndex(i64),
    /// COPY from a later stage or from itself.
    #[error(
        "cannot copy from stage {}, it needs to be defined before current stage {}", quote(.from), quote(.stage)
    )]
    CopyFromLater {
        /// What was asked for.
        from: String,
        /// The stage that asked.
        stage: String,
    },
    /// A mount from a later stage or from itself.
    #[error(
        "cannot mount from stage {} to {}, stage needs to be defined before current command",
        quote(.from), quote(.target)
    )]
    MountFromLater {
        /// What was asked for.
        from: String,
        /// Where it was to appear.
        target: String,
    },
    /// `--target`.
    #[error("target stage {} could not be found{}", quote(.name), did_you_mean(.suggestion))]
    TargetNotFound {
        /// What was asked for.
        name: String,
        /// A similar stage.
        suggestion: Option<String>,
    },
    /// A stage that needs itself.
    #[error("circular dependency detected on stage: {0}")]
    Cycle(String),
}

fn did_you_mean(suggestion: &Option<String>) -> String {
    suggestion.as_ref().map_or_else(String::new, |word| format!(" (did you mean {word}?)"))
}

/// What a reference means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A stage of this file.
    Stage(usize),
    /// Something else: `scratch`, a named context or an image.
    Other(String),
}

/// One `COPY --from` or `RUN --mount=…,from=`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// The name or number as written.
    pub from: String,
    /// It is a mount; those know no numbers.
    pub mount: bool,
    /// The flag.
    pub span: Span,
}

/// The stages of a Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stages<'a> {
    globals: &'a [Instruction],
    stages: Vec<Stage<'a>>,
}

impl<'a> Stages<'a> {
    /// Splits a file at its FROMs.
    #[must_use]
    pub fn new(dockerfile: &'a Dockerfile) -> Self {
        let all = &dockerfile.instructions;
        let froms: Vec<usize> = all
            .iter()
            .enumerate()
            .filter_map(|(at, instruction)| matches!(instruction.kind, Kind::From { .. }).then_some(at))
            .collect();
        let ends = froms.iter().skip(1).copied().chain([all.len()]);
        let mut stages = Vec::with_capacity(froms.len());
        for (index, (&position, end)) in froms.iter().zip(ends).enumerate() {
            let from = &all[position];
            let Kind::From { platform, base, name } = &from.kind else { continue };
            stages.push(Stage {
                index,
                name: name.as_ref().map(|name| name.text.to_lowercase()),
                platform: platform.as_ref(),
                base,
                from,
                position,
                instructions: &all[position + 1..end],
            });
        }
        Self { globals: &all[..froms.first().copied().unwrap_or(all.len())], stages }
    }

    /// Every stage in order.
    #[must_use]
    pub fn all(&self) -> &[Stage<'a>] {
        &self.stages
    }

    /// The ARG instructions before the first FROM (SPEC A4.11).
    #[must_use]
    pub fn global_args(&self) -> &'a [Instruction] {
        self.globals
    }

    /// What they declare, in order.
    pub fn global_declarations(&self) -> impl Iterator<Item = &'a ArgDeclaration> {
        self.globals.iter().flat_map(|instruction| match &instruction.kind {
            Kind::Arg(declarations) => declarations.as_slice(),
            _ => &[],
        })
    }

    /// The last stage before `limit` with this name.
    fn named(&self, name: &str, limit: usize) -> Option<usize> {
        let name = name.to_lowercase();
        self.stages[..limit].iter().rposition(|stage| stage.name.as_ref() == Some(&name))
    }

    /// The earlier stage that the expanded base name of stage `index` means (SPEC A4.02).
    #[must_use]
    pub fn base(&self, index: usize, base: &str) -> Option<usize> {
        self.named(base, index)
    }

    /// What `COPY --from` in stage `index` means (SPEC A4.04): of several stages with the name the nearest earlier.
    pub fn copy_source(&self, index: usize, from: &str) -> Result<Origin, StageError> {
        let later = || StageError::CopyFromLater { from: from.to_owned(), stage: self.stages[index].label() };
        if let Ok(number) = from.parse::<i64>() {
            return match usize::try_from(number) {
                Ok(number) if number < index => Ok(Origin::Stage(number)),
                Ok(number) if number < self.stages.len() => Err(later()),
                _ => Err(StageError::InvalidIndex(number)),
            };
        }
        self.earlier(index, from, later)
    }

    /// What `from=` of a mount at `target` in stage `index` means. A number is an image name here.
    pub fn mount_source(&self, index: usize, from: &str, target: &str) -> Result<Origin, StageError> {
        self.earlier(index, from, || StageError::MountFromLater { from: from.to_owned(), target: target.to_owned() })
    }

    fn earlier(&self, index: usize, from: &str, later: impl Fn() -> StageError) -> Result<Origin, StageError> {
        match self.named(from, index) {
            Some(stage) => Ok(Origin::Stage(stage)),
            None if self.named(from, self.stages.len()).is_some() => Err(later()),
            None => Ok(Origin::Other(from.to_owned())),
        }
    }

    /// The stage to build: by name, or the last one (SPEC A4.07).
    pub fn target(&self, name: Option<&str>) -> Result<usize, StageError> {
        let name = name.unwrap_or_default();
        let found =
            if name.is_empty() { self.stages.len().checked_sub(1) } else { self.named(name, self.stages.len()) };
        found.ok_or_else(|| {
            let names = self.stages.iter().filter_map(|stage| stage.name.as_deref());
            let suggestion = closest(name, names).map(str::to_owned);
            StageError::TargetNotFound { name: name.to_owned(), suggestion }
        })
    }

    /// As [`Stages::target`], but a number is an index, as buildah and kaniko have it.
    pub fn target_or_index(&self, name: &str) -> Result<usize, StageError> {
        match name.parse::<usize>() {
            Ok(index) if index < self.stages.len() => Ok(index),
            _ => self.target(Some(name)),
        }
    }

    /// Value of `TARGETSTAGE` (SPEC A4.15).
    #[must_use]
    pub fn target_stage_arg(&self, target: usize) -> &str {
        self.stages.get(target).and_then(|stage| stage.name.as_deref()).unwrap_or("default")
    }

    /// The stages that stage `index` needs directly, given its expanded base name. Triggers of an in-file base are
    /// the caller's to add.
    pub fn dependencies(&self, index: usize, base: &str) -> Result<BTreeSet<usize>, StageError> {
        let mut needed: BTreeSet<usize> = self.base(index, base).into_iter().collect();
        for reference in self.stages[index].instructions.iter().flat_map(references) {
            let origin = if reference.mount {
                self.mount_source(index, &reference.from, "")
            } else {
                self.copy_source(index, &reference.from)
            };
            if let Origin::Stage(stage) = origin? {
                needed.insert(stage);
            }
        }
        Ok(needed)
    }

    /// The stages to build for `target`, each behind everything it needs (SPEC A4.05–A4.06). `needs` gives direct
    /// dependencies.
    pub fn order(&self, target: usize, needs: impl Fn(usize) -> Vec<usize>) -> Result<Vec<usize>, StageError> {
        #[derive(Clone, Copy, PartialEq)]
        enum State {
            New,
            Open,
            Done,
        }
        let mut states = vec![State::New; self.stages.len()];
        let mut order = Vec::new();
        // A stage and those of its needs that are still to be looked at.
        let mut path = vec![(target, needs(target))];
        states[target] = State::Open;
        while let Some((stage, open)) = path.last_mut() {
            let stage = *stage;
            match open.pop() {
                Some(need) => match states[need] {
                    State::Done => {}
                    State::Open => return Err(StageError::Cycle(self.stages[need].label())),
                    State::New => {
                        states[need] = State::Open;
                        path.push((need, needs(need)));
                    }
                },
                None => {
                    states[stage] = State::Done;
                    order.push(stage);
                    path.pop();
                }
            }
        }
        Ok(order)
    }
}

/// The stages, contexts and images that an instruction takes files from. ONBUILD has none until it is triggered.
#[must_use]
pub fn references(instruction: &Instruction) -> Vec<Reference> {
    match &instruction.kind {
        Kind::Copy(copy) => {
            let reference = |from: &Word| Reference { from: from.text.clone(), mount: false, span: from.span.clone() };
            copy.from.iter().map(reference).collect()
        }
        Kind::Run(run) => {
            let reference = |mount: &Word| {
                Some(Reference { from: mount_from(&mount.text)?, mount: true, span: mount.span.clone() })
            };
            run.mounts.iter().filter_map(reference).collect()
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::{Origin, StageError, Stages, references};
    use crate::dockerfile::ast::Dockerfile;
    use crate::dockerfile::parser::parse;

    fn tree(text: &str) -> Dockerfile {
        parse(text.as_bytes()).into_result().expect("valid Dockerfile").0
    }

    const FILE: &str = "\
ARG A=1 B
ARG C
FROM alpine AS Base
RUN one
FROM base AS test
RUN --mount=type=bind,from=base,target=/b --mount=from=tools,target=/t two
FROM scratch
COPY --from=0 /a /
COPY --from=test /a /
COPY --from=busybox /a /
COPY x /
";

    #[test]
    fn stages_and_global_arguments_a4_11() {
        let tree = tree(FILE);
        let stages = Stages::new(&tree);
        let names: Vec<_> = stages.global_declarations().map(|arg| arg.name.text.as_str()).collect();
        assert_eq!(names, ["A", "B", "C"]);
        let seen: Vec<_> =
            stages.all().iter().map(|s| (s.label(), s.base.text.as_str(), s.instructions.len())).collect();
        assert_eq!(seen, [("base".into(), "alpine", 1), ("test".into(), "base", 1), ("stage-2".into(), "scratch", 4)],);
        assert_eq!(stages.all()[1].position, 4);
        assert_eq!(stages.global_args().len(), 2);
    }

    #[test]
    fn base_and_copy_references_a4_02_a4_04() {
        let tree = tree(FILE);
        let stages = Stages::new(&tree);
        assert_eq!(stages.base(1, "BASE"), Some(0));
        assert_eq!(stages.base(0, "base"), None, "a stage is not its own base");
        assert_eq!(stages.copy_source(2, "1"), Ok(Origin::Stage(1)));
        assert_eq!(stages.copy_source(2, "Test"), Ok(Origin::Stage(1)));
        assert_eq!(stages.copy_source(2, "busybox"), Ok(Origin::Other("busybox".into())));
        let message = |index, from| stages.copy_source(index, from).expect_err(from).to_string();
        insta::assert_snapshot!(message(2, "3"), @"invalid stage index 3");
        insta::assert_snapshot!(message(2, "-1"), @"invalid stage index -1");
        insta::assert_snapshot!(message(0, "test"), @r#"cannot copy from stage "test", it needs to be defined before current stage "base""#);
        insta::assert_snapshot!(message(2, "2"), @r#"cannot copy from stage "2", it needs to be defined before current stage "stage-2""#);
        assert_eq!(stages.mount_source(2, "0", "/x"), Ok(Origin::Other("0".into())));
        let mount = stages.mount_source(0, "test", "/x").expect_err("later").to_string();
        insta::assert_snapshot!(mount, @r#"cannot mount from stage "test" to "/x", stage needs to be defined before current command"#);
    }

    #[test]
    fn targets_a4_07_a4_15() {
        let tree = tree(FILE);
        let stages = Stages::new(&tree);
        assert_eq!(stages.target(None), Ok(2));
        assert_eq!(stages.target(Some("")), Ok(2));
        assert_eq!(stages.target(Some("TEST")), Ok(1));
        assert_eq!(stages.target_or_index("0"), Ok(0));
        assert_eq!(stages.target_or_index("test"), Ok(1));
        let message = |name| stages.target(Some(name)).expect_err(name).to_string();
        insta::assert_snapshot!(message("tset"), @r#"target stage "tset" could not be found (did you mean test?)"#);
        insta::assert_snapshot!(message("1"), @r#"target stage "1" could not be found"#);
        assert_eq!(stages.target_stage_arg(0), "base");
        assert_eq!(stages.target_stage_arg(2), "default");
    }

    #[test]
    fn later_names_shadow_earlier_ones_a4_19() {
        let tree = tree("FROM a AS x\nFROM x AS y\nFROM b AS x\nFROM x\nCOPY --from=x a b\n");
        let stages = Stages::new(&tree);
        assert_eq!(stages.base(1, "x"), Some(0));
        assert_eq!(stages.base(3, "x"), Some(2));
        assert_eq!(stages.copy_source(1, "x"), Ok(Origin::Stage(0)));
        assert_eq!(stages.target(Some("x")), Ok(2));
    }

    #[test]
    fn only_what_is_needed_is_ordered_a4_06() {
        let tree = tree(FILE);
        let stages = Stages::new(&tree);
        let needs = |index: usize| {
            let base = &stages.all()[index].base.text;
            stages.dependencies(index, base).expect("valid references").into_iter().collect::<Vec<_>>()
        };
        assert_eq!(needs(0), [0usize; 0]);
        assert_eq!(needs(1), [0]);
        assert_eq!(needs(2), [0, 1]);
        assert_eq!(stages.order(2, needs), Ok(vec![0, 1, 2]));
        assert_eq!(stages.order(0, needs), Ok(vec![0]));
    }

    #[test]
    fn cycles_are_found_a4_05() {
        let tree = tree("FROM a AS x\nFROM b AS y\n");
        let stages = Stages::new(&tree);
        assert_eq!(stages.order(0, |index| vec![1 - index]), Err(StageError::Cycle("x".into())));
        assert_eq!(
            stages.order(1, |_| vec![1]).expect_err("needs itself").to_string(),
            "circular dependency detected on stage: y"
        );
    }

    #[test]
    fn references_of_instructions() {
        let tree = tree(FILE);
        let run = references(&tree.instructions[5]);
        let seen: Vec<_> = run.iter().map(|r| (r.from.as_str(), r.mount, &FILE[r.span.clone()])).collect();
        assert_eq!(
            seen,
            [("base", true, "--mount=type=bind,from=base,target=/b"), ("tools", true, "--mount=from=tools,target=/t"),],
        );
        assert!(references(&tree.instructions[10]).is_empty());
    }

    #[test]
    fn a_long_chain_of_stages_is_no_problem() {
        let tree = tree(&"FROM x\n".repeat(5000));
        let stages = Stages::new(&tree);
        let order = stages.order(4999, |index| index.checked_sub(1).into_iter().collect()).expect("a chain");
        assert_eq!(order.len(), 5000);
    }
}
