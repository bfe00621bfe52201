//! Errors of file actions. Paths are those inside the trees, never of the machine.

use std::io;

use crate::tree::Exclusion;

/// Why a file action failed.
#[derive(Debug, thiserror::Error)]
pub enum FileOpError {
    /// A literal source is not there (SPEC A6.07); the caller words the whole message.
    #[error("\"{path}\": not found{}", excluded(.excluded_by.as_ref()))]
    NotFound {
        /// The path as asked for.
        path: String,
        /// Set when it exists but an ignore pattern hides it.
        excluded_by: Option<Exclusion>,
        /// Something that is there and has nearly that name.
        near: Option<String>,
    },
    /// A directory where something else stands (SPEC A6.08).
    #[error("cannot copy to non-directory: {path}")]
    NonDirectory {
        /// Destination.
        path: String,
    },
    /// Something else where a directory stands (SPEC A6.08).
    #[error("cannot replace to directory {path} with file")]
    ReplaceDirectory {
        /// Destination.
        path: String,
    },
    /// A pattern is malformed.
    #[error("invalid pattern \"{pattern}\": syntax error in pattern")]
    Pattern {
        /// The pattern.
        pattern: String,
    },
    /// A mode is malformed (SPEC A6.05).
    #[error("invalid mode \"{mode}\": expected octal digits or a symbolic mode such as u=rwX,go=rX")]
    Mode {
        /// The mode.
        mode: String,
    },
    /// A user name is unknown (SPEC A6.04).
    #[error("unable to find user {name}: no such entry in /etc/passwd")]
    UnknownUser {
        /// The name.
        name: String,
    },
    /// A group name is unknown (SPEC A6.04).
    #[error("unable to find group {name}: no such entry in /etc/group")]
    UnknownGroup {
        /// The name.
        name: String,
    },
    /// A name can only be looked up in a tree, and there is none.
    #[error("cannot look up {name}: no file system to read /etc/passwd and /etc/group from; use numeric ids")]
    NoRoot {
        /// The name.
        name: String,
    },
    /// The file system refused.
    #[error("failed to {attempt} {path}: {error}")]
    Io {
        /// What was attempted.
        attempt: &'static str,
        /// Path inside the tree.
        path: String,
        /// The system's reason.
        error: io::Error,
    },
    /// What is asked for makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// An archive cannot be unpacked.
    #[error("failed to unpack {path}: {reason}")]
    Unpack {
        /// Path of the archive inside its tree.
        path: String,
        /// Why.
        reason: String,
    },
}

impl FileOpError {
    pub(super) fn io(attempt: &'static str, path: impl Into<String>, error: io::Error) -> Self {
        Self::Io { attempt, path: path.into(), error }
    }
}

fn excluded(by: Option<&Exclusion>) -> String {
    match by {
        Some(Exclusion { line: Some(line), .. }) => format!(" (excluded by .dockerignore line {line})"),
        Some(by) => format!(" (excluded by the ignore pattern \"{}\")", by.pattern),
        None => String::new(),
    }
}
