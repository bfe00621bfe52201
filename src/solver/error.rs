//! Why a graph could not be solved.

use std::fmt;
use std::sync::Arc;

use crate::base::{Digest, FaultKind};
use crate::llb::Vertex;

/// A failure, tied to the vertex it happened in. Cheap to clone: all who wait for a vertex get the same one.
#[derive(Debug, Clone)]
pub struct SolveError(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    kind: FaultKind,
    message: String,
    hint: Option<String>,
    vertex: Option<Place>,
    exit_code: Option<i32>,
    lost: bool,
    failed: Option<super::KeptFailure>,
}

#[derive(Debug)]
struct Place {
    digest: Digest,
    name: String,
    location: Option<(String, Vec<(u32, u32)>)>,
}

impl SolveError {
    /// A failure in `vertex`.
    pub(super) fn at(vertex: &Vertex, kind: FaultKind, message: impl Into<String>, hint: Option<String>) -> Self {
        let place = Place { digest: vertex.digest.clone(), name: vertex.name(), location: vertex.location.clone() };
        Self(Arc::new(Inner {
            kind,
            message: message.into(),
            hint,
            vertex: Some(place),
            exit_code: None,
            lost: false,
            failed: None,
        }))
    }

    /// A layer that a cache promised could not be had: another attempt does without it.
    pub(super) fn lost(vertex: &Vertex, kind: FaultKind, message: String, hint: Option<String>) -> Self {
        let place = Place { digest: vertex.digest.clone(), name: vertex.name(), location: vertex.location.clone() };
        Self(Arc::new(Inner { kind, message, hint, vertex: Some(place), exit_code: None, lost: true, failed: None }))
    }

    /// See [`SolveError::lost`].
    pub(super) fn is_lost(&self) -> bool {
        self.0.lost
    }

    /// A vertex that is refused before anything runs.
    #[must_use]
    pub fn refused(vertex: &Vertex, kind: FaultKind, message: String, hint: String) -> Self {
        Self::at(vertex, kind, message, Some(hint))
    }

    /// A step that ended with `code`, what is known of the reason, and what is kept of it.
    pub(super) fn exit(
        vertex: &Vertex,
        code: i32,
        message: String,
        hint: Option<String>,
        failed: Option<super::KeptFailure>,
    ) -> Self {
        let place = Place { digest: vertex.digest.clone(), name: vertex.name(), location: vertex.location.clone() };
        Self(Arc::new(Inner {
            kind: FaultKind::Step,
            message,
            hint,
            vertex: Some(place),
            exit_code: Some(code),
            lost: false,
            failed,
        }))
    }

    /// A defect of rbuild.
    pub(super) fn internal(message: impl Into<String>) -> Self {
        Self(Arc::new(Inner {
            kind: FaultKind::Internal,
            message: message.into(),
            hint: None,
            vertex: None,
            exit_code: None,
            lost: false,
            failed: None,
        }))
    }

    /// The build was stopped.
    pub(super) fn cancelled() -> Self {
        Self(Arc::new(Inner {
            kind: FaultKind::Interrupted,
            message: "canceled".into(),
            hint: None,
            vertex: None,
            exit_code: None,
            lost: false,
            failed: None,
        }))
    }

    /// For the exit code.
    #[must_use]
    pub fn kind(&self) -> FaultKind {
        self.0.kind
    }

    /// One line.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The remedy, where known.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// The vertex that failed.
    #[must_use]
    pub fn vertex(&self) -> Option<&Digest> {
        self.0.vertex.as_ref().map(|v| &v.digest)
    }

    /// Name of the vertex that failed.
    #[must_use]
    pub fn vertex_name(&self) -> Option<&str> {
        self.0.vertex.as_ref().map(|v| v.name.as_str())
    }

    /// File and 1-based inclusive line ranges of the instruction that failed.
    #[must_use]
    pub fn location(&self) -> Option<&(String, Vec<(u32, u32)>)> {
        self.0.vertex.as_ref()?.location.as_ref()
    }

    /// Exit code of the step that failed.
    #[must_use]
    pub fn exit_code(&self) -> Option<i32> {
        self.0.exit_code
    }

    /// What is kept of the step that failed.
    #[must_use]
    pub fn failed_step(&self) -> Option<&super::KeptFailure> {
        self.0.failed.as_ref()
    }

    /// Nothing of its own: something else failed or the user stopped the build.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.kind == FaultKind::Interrupted
    }
}

impl fmt::Display for SolveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for SolveError {}
