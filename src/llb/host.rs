//! What a front end may ask of the builder while it turns its input into a graph.

use bytes::Bytes;

use super::op::SourceOp;
use crate::base::{Digest, FaultKind};
use crate::oci::Platform;

/// How image references are resolved (SPEC C2.01, B2.24).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ResolveMode {
    /// The store's own image if there is one under the tag that was pulled before, else the registry.
    #[default]
    Default,
    /// Always ask the registry.
    Pull,
    /// Never ask the registry.
    Local,
}

/// The attribute of an image source that says how its name is resolved (SPEC C2.01).
pub const RESOLVE_MODE: &str = "image.resolvemode";

impl ResolveMode {
    /// The value of [`RESOLVE_MODE`]; the usual mode has none.
    #[must_use]
    pub fn attribute(self) -> Option<&'static str> {
        match self {
            Self::Default => None,
            Self::Pull => Some("pull"),
            Self::Local => Some("local"),
        }
    }

    /// The mode of a value of [`RESOLVE_MODE`].
    #[must_use]
    pub fn named(value: &str) -> Option<Self> {
        match value {
            "" | "default" => Some(Self::Default),
            "pull" => Some(Self::Pull),
            "local" => Some(Self::Local),
            _ => None,
        }
    }
}

/// An image reference pinned down for one platform.
#[derive(Debug, Clone)]
pub struct ResolvedImage {
    /// Digest of what the reference names: the index where there is one, else the manifest.
    pub digest: Digest,
    /// The image config as stored.
    pub config: Bytes,
    /// The identifier that took the place of the one asked for (SPEC C9.02).
    pub converted: Option<String>,
}

/// An image that a named context stands for, as progress shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InContext {
    /// The context's name, with its platform if it has one.
    pub name: String,
    /// The image, in the user's words; of a layout all but the digest, which the host knows.
    pub image: String,
}

impl InContext {
    /// How progress calls the question what the image is (SPEC B6.02).
    #[must_use]
    pub fn title(&self, digest: Option<&Digest>) -> String {
        let digest = digest.map(|digest| format!("@{digest}")).unwrap_or_default();
        format!("[context {}] load metadata for {}{digest}", self.name, self.image)
    }
}

/// Why the host could not answer.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct HostError {
    /// For the exit code.
    pub kind: FaultKind,
    /// One line, complete: names the reference and the cause.
    pub message: String,
    /// The remedy, where known.
    pub hint: Option<String>,
    /// The source of another kind that a policy put in the place of an image: a named context can be that instead (SPEC C9.02).
    pub became: Option<String>,
}

/// The builder as seen from a front end.
#[async_trait::async_trait]
pub trait FrontendHost: Send + Sync {
    /// Resolves an image source identifier (`docker-image://…` or `oci-layout://…`) for `platform`. `context` is what it is, if
    /// it stands in a named context.
    ///
    /// # Errors
    /// When it does not exist, is not for this platform, or cannot be reached.
    async fn resolve_image(
        &self,
        identifier: &str,
        platform: &Platform,
        mode: ResolveMode,
        context: Option<&InContext>,
    ) -> Result<ResolvedImage, HostError>;

    /// The ignore file of a named context that is a directory was read for the build. A host that shows no progress does nothing.
    fn ignore_file_read(&self, context: &str) {
        let _ = context;
    }

    /// Seconds since 1970 at which the content of a source was made; `None` where that is not known (SPEC A4.18). A host
    /// without sources knows none.
    ///
    /// # Errors
    /// When the source cannot be had.
    async fn source_time(&self, source: &SourceOp) -> Result<Option<i64>, HostError> {
        let _ = source;
        Ok(None)
    }
}
