//! A Dockerfile as its stages (SPEC A4). What a name means is the front end's business.

use super::ast::{Dockerfile, Instruction, Kind, Word};

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
}

#[cfg(test)]
mod tests {
    use super::Stages;
    use crate::dockerfile::parser::parse;

    #[test]
    fn a4_11_stages_and_global_arguments() {
        let text = "ARG A=1 B\nARG C\nFROM alpine AS Base\nRUN one\nFROM base AS test\nFROM --platform=$P scratch\nCOPY x /\nRUN y\n";
        let (tree, _) = parse(text.as_bytes()).into_result().expect("valid Dockerfile");
        let stages = Stages::new(&tree);
        let seen: Vec<_> =
            stages.all().iter().map(|s| (s.name.as_deref(), s.base.text.as_str(), s.instructions.len())).collect();
        assert_eq!(seen, [(Some("base"), "alpine", 1), (Some("test"), "base", 0), (None, "scratch", 2)]);
        assert_eq!(stages.all()[1].position, 4);
        assert_eq!(stages.all()[2].platform.map(|word| word.text.as_str()), Some("$P"));
        assert_eq!(stages.global_args().len(), 2);
    }
}
