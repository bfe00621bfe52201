//! Results as files: a directory or a tar (SPEC B3.01, B3.02, C6.14).

use super::layout::write_file;
use super::{Dest, ExportContext, ExportError, ImageResult, OutputSpec, blocking, fetch};
use crate::archive::{LayerOptions, LayerWriter, diff_trees};
use crate::base::Digest;
use crate::exec::file;
use crate::llb::op::FileActionCopy;
use crate::oci::media_type::Codec;
use crate::store::MountRequest;
use crate::tree::CopySource;

pub(super) async fn local(
    context: &ExportContext<'_>,
    result: &ImageResult,
    spec: &OutputSpec,
    id: &Digest,
) -> Result<(), ExportError> {
    let Some(Dest::Path(dir)) = spec.dest.clone() else {
        return Err(ExportError::Usage("dest is required for local output".into()));
    };
    fetch(context, &result.chain, id).await?;
    let (store, chain, epoch) = (context.store.clone(), result.chain.clone(), context.epoch);
    blocking(move || {
        std::fs::create_dir_all(&dir).map_err(ExportError::io("create", &dir))?;
        let mounted = store.mount(&chain, &MountRequest::read_only())?;
        let everything = FileActionCopy {
            src: "/".into(),
            dest: "/".into(),
            mode: -1,
            timestamp: epoch.map_or(-1, |s| s.saturating_mul(1_000_000_000)),
            dir_copy_contents: true,
            ..FileActionCopy::default()
        };
        // Files belong to the caller, who is uid 0 in here.
        file::copy(&CopySource::plain(mounted.root()), &dir, &everything, Some((0, 0)))?;
        Ok(())
    })
    .await?;
    context.events.progress(id, "copying files", 0, None, true);
    Ok(())
}

pub(super) async fn tar(
    context: &ExportContext<'_>,
    result: &ImageResult,
    spec: &OutputSpec,
    id: &Digest,
) -> Result<(), ExportError> {
    let dest = spec.dest.clone().ok_or_else(|| ExportError::Usage("dest is required for tar output".into()))?;
    fetch(context, &result.chain, id).await?;
    let (store, chain) = (context.store.clone(), result.chain.clone());
    let options =
        LayerOptions { codec: Codec::Uncompressed, level: None, epoch: context.epoch, threads: context.threads };
    blocking(move || {
        let mounted = store.mount(&chain, &MountRequest::read_only())?;
        write_file(&dest, |out| {
            let mut writer = LayerWriter::new(out, &options)?;
            diff_trees(None, mounted.root(), &mut writer)?;
            writer.finish()?;
            Ok(())
        })
    })
    .await?;
    context.events.progress(id, "sending tarball", 0, None, true);
    Ok(())
}
