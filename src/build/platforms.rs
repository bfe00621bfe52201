//! `--all-platforms`: a build for each platform that its base images are for (SPEC D3.21).

use super::gateway::Job;
use super::{BuildError, Inputs, definition, front_end};
use crate::base::FaultKind;
use crate::frontend::{FrontEnd, FrontendError};
use crate::llb::op::Kind;
use crate::oci::Platform;

/// The platforms that every image the target is made from is there for, in the order in which the first one has them. What the images
/// are is found out for the platform of this machine.
pub(super) async fn of_all_images(
    job: &Job<'_>,
    inputs: &Inputs,
    chosen: &FrontEnd,
) -> Result<Vec<Platform>, BuildError> {
    let fail = |text: &str| FrontendError::outside(FaultKind::Usage, format!("--all-platforms: {text}"), None);
    if job.request.graph.is_some() || !matches!(chosen, FrontEnd::BuiltIn) {
        return Err(fail("only the built-in front end tells which images a Dockerfile is about").into());
    }
    let front = front_end(job.host, definition(job.request, inputs, None, job.multi)).await?;
    let graph = job.gate.graph(&front.definition).await?;
    let mut common: Option<Vec<Platform>> = None;
    for vertex in graph.vertices.values() {
        let Some(Kind::Source(source)) = &vertex.op.kind else { continue };
        if !["docker-image://", "oci-layout://"].iter().any(|scheme| source.identifier.starts_with(scheme)) {
            continue;
        }
        let platform = vertex.op.platform.as_ref().map_or_else(Platform::host, Platform::from);
        let offered = job.builder.images.platforms(source, &platform).await.map_err(|e| fail(&e.to_string()))?;
        match &mut common {
            None => common = Some(offered),
            Some(common) => common.retain(|platform| offered.contains(platform)),
        }
    }
    match common {
        None => Err(fail("no base image says which they are").hint("name them with --platform").into()),
        Some(common) if common.is_empty() => Err(fail("there is none that all base images are for").into()),
        Some(common) => Ok(common),
    }
}
