//! Layer 6: a Dockerfile and options become an LLB definition and an image config.
//!
//! Owns what each instruction *means*. Knows nothing of how graphs are executed, stored or exported; reads neither
//! files nor the environment: the Dockerfile and ignore files come in as bytes, images are looked up through
//! [`FrontendHost`]. Start reading at [`dockerfile_to_llb`].

mod error;
mod options;
mod words;

pub use error::{FrontendError, Place};
pub use options::{FrontendInput, FrontendOptions, FrontendResult, NoCache, Warning};

use crate::llb::FrontendHost;

/// Turns a Dockerfile into the graph of its target stage and the config of the image.
///
/// # Errors
/// See [`FrontendError`]: mistakes in the Dockerfile, unusable options, base images that cannot be resolved.
pub async fn dockerfile_to_llb(
    input: FrontendInput<'_>,
    host: &dyn FrontendHost,
) -> Result<FrontendResult, FrontendError> {
    let _ = (input, host);
    Err(FrontendError::internal("not written yet"))
}
