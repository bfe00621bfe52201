//! Loading into docker or podman (SPEC B2.14, B3.04, N2.13).

use super::assembly::Assembly;
use super::layout::Content;
use super::{ExportContext, ExportError, Ready};
use crate::base::Digest;
use crate::engine::{Endpoint, Engine, LoadError};
use crate::oci::Reference;

/// An archive ready to be sent.
pub(super) struct Load {
    engine: Engine,
    endpoint: Endpoint,
    content: Content,
    /// What a docker that knows no OCI layouts reads.
    manifest: Option<Vec<u8>>,
}

pub(super) async fn prepare(
    context: &ExportContext<'_>,
    assembly: &Assembly,
    endpoint: &Endpoint,
    names: &[Reference],
    id: &Digest,
) -> Result<Ready, ExportError> {
    let engine = Engine::new(endpoint.clone())?;
    if assembly.index.is_some() && !engine.keeps_indexes().await? {
        let text = "docker exporter does not currently support exporting manifest lists";
        return Err(ExportError::Usage(format!("{text}: {endpoint} does not use the containerd image store")));
    }
    let content = Content::gather(context, assembly, names, id).await?;
    let manifest = content.docker_manifest(assembly, names)?;
    Ok(Ready::Load(Box::new(Load { engine, endpoint: endpoint.clone(), content, manifest })))
}

impl Load {
    pub(super) async fn publish(self, context: &ExportContext<'_>, id: &Digest) -> Result<(), ExportError> {
        let Self { engine, endpoint, content, manifest } = self;
        let loaded = engine.load(move |out| content.write_tar(manifest.as_deref(), out, "the engine")).await;
        let loaded = loaded.map_err(|e| match e {
            LoadError::Engine(e) => ExportError::Engine(e),
            LoadError::Writer(e) => e,
        })?;
        context.events.progress(id, format!("loaded into {endpoint}"), 0, None, true);
        for line in loaded {
            context.events.progress(id, line, 0, None, true);
        }
        Ok(())
    }
}
