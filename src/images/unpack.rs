//! The files of an image, as a directory.

use std::path::Path;

use super::{ImageError, Images, blocking};
use crate::base::ChainId;
use crate::exporter::{BuildResult, Dest, ExportContext, ImageResult, OutputKind, OutputSpec, export};
use crate::oci::Platform;

impl Images {
    /// Writes the root file system of an image for a platform to a directory, as `--output type=local` does: files
    /// belong to the caller.
    ///
    /// # Errors
    /// If there is no such image, it is not for the platform, or the directory cannot be written.
    pub async fn unpack(&self, name: &str, platform: &Platform, dir: &Path) -> Result<(), ImageError> {
        let (this, name, platform) = (self.clone(), name.to_owned(), platform.clone());
        let image = blocking(move || this.result(&name, &platform)).await?;
        // Side by side; the mount would do it layer by layer.
        self.source.ensure_unpacked(&image.chain, None).await?;
        let spec = OutputSpec { dest: Some(Dest::Path(dir.to_owned())), ..OutputSpec::new(OutputKind::Local) };
        let context = ExportContext {
            store: &self.store,
            client: &self.client,
            source: &self.source,
            events: &self.events,
            epoch: None,
            threads: 1,
        };
        export(&context, &BuildResult { images: vec![image], multi: false }, &[spec]).await?;
        Ok(())
    }

    /// An image of the store as if it had just been built.
    pub(super) fn result(&self, name: &str, platform: &Platform) -> Result<ImageResult, ImageError> {
        let (_, manifest, config) = self.for_platform(name, platform)?;
        let mut chain = Vec::new();
        let mut below: Option<ChainId> = None;
        for (diff_id, layer) in config.rootfs.diff_ids.iter().zip(&manifest.layers) {
            let id = ChainId::extend(below.as_ref(), diff_id);
            chain.push(self.store.register_layer(&id, diff_id, layer, None)?);
            below = Some(id);
        }
        Ok(ImageResult {
            platform: config.platform(),
            base_layers: chain.len(),
            dated: None,
            chain,
            config,
            attestations: Vec::new(),
            annotations: Default::default(),
        })
    }
}
