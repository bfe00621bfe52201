//! Whose exit codes a command ends with: a program that stands for another one ends as that one does, since pipelines look at it.

use super::Failure;
use crate::base::FaultKind;

/// A set of exit codes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExitCodes {
    /// Ours: one for each kind of failure.
    #[default]
    Kinds,
    /// kaniko's (`cmd/executor/cmd/root.go`): that of the command that failed, else 1.
    Kaniko,
    /// buildah's (`pkg/cli`, `ExecErrorCodeGeneric`): that of the command that failed, else 125.
    Buildah,
}

impl ExitCodes {
    /// The exit code of a failure.
    #[must_use]
    pub fn of(self, failure: &Failure) -> u8 {
        match (self, failure.kind, failure.exited) {
            (Self::Kaniko | Self::Buildah, FaultKind::Step, Some(code)) => code,
            _ => self.general(failure.code()),
        }
    }

    /// What an exit code of ours is here, whatever failed. Success and what the user stopped stay what they are.
    #[must_use]
    pub fn general(self, code: u8) -> u8 {
        match (self, code) {
            (_, 0 | 130) | (Self::Kinds, _) => code,
            (Self::Kaniko, _) => 1,
            (Self::Buildah, _) => 125,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d1_47_a_failure_ends_as_the_program_that_is_meant() {
        let failed = |exited| Failure { exited, ..Failure::new(FaultKind::Step, "x") };
        let other = Failure::new(FaultKind::Remote, "x");
        for (codes, step, general) in
            [(ExitCodes::Kinds, 9, 5), (ExitCodes::Kaniko, 42, 1), (ExitCodes::Buildah, 42, 125)]
        {
            assert_eq!((codes.of(&failed(Some(42))), codes.of(&other)), (step, general));
            assert_eq!((codes.general(0), codes.general(130)), (0, 130));
        }
        assert_eq!(ExitCodes::Kaniko.of(&failed(None)), 1, "nobody knows with what it ended");
    }
}
