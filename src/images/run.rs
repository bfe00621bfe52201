//! Running a program in an image, to try what was built.
//!
//! The layers are below a throw-away one: nothing the program does changes the store.

use std::path::PathBuf;

use crate::exec::run::{self, Attachment, RunRequest, RunResult, Runner};
use crate::llb::op::{Meta, NetMode, SecurityMode};
use crate::oci::{ImageConfig, Platform};
use crate::store::{LayerId, MountRequest, Stub};

use rootless::step::StepMount;

use super::{ImageError, Images, blocking};

/// What to run.
#[derive(Debug, Clone)]
pub struct Program {
    /// Arguments, environment, user, working directory, host name.
    pub meta: Meta,
    /// Network mode.
    pub network: NetMode,
    /// What of this machine it sees.
    pub mounts: Vec<StepMount>,
    /// What VOLUME names: directories that are there whether or not the image has them, as engines see to it.
    pub volumes: Vec<PathBuf>,
}

impl Images {
    /// The layers of an image for a platform, all of them here, and how it wants to be run.
    ///
    /// # Errors
    /// If there is no such image, it is not for the platform, or parts of it cannot be had.
    pub async fn layers(&self, name: &str, platform: &Platform) -> Result<(Vec<LayerId>, ImageConfig), ImageError> {
        self.make_complete(&[name.to_owned()]).await?;
        let (this, name, platform) = (self.clone(), name.to_owned(), platform.clone());
        let image = blocking(move || this.result(&name, &platform)).await?;
        // Side by side; the mount would do it layer by layer.
        self.source.ensure_unpacked(&image.chain, None).await?;
        Ok((image.chain, image.config))
    }

    /// Runs a program over layers to its end.
    ///
    /// # Errors
    /// If it could not be started. An exit code is not an error.
    pub async fn run(
        &self,
        runner: &Runner,
        layers: &[LayerId],
        platform: &Platform,
        program: Program,
        attachment: Attachment,
    ) -> Result<RunResult, ImageError> {
        let provided = runner.emulators().provide(platform, &self.source, &self.store).await;
        if let Some(note) = provided.map_err(|why| ImageError::Foreign(Box::new(platform.clone()), why))? {
            self.events.notice("emulator", note);
        }
        let Program { meta, network, mounts, volumes } = program;
        let stubs = run::required_stubs(&meta, &mounts);
        let mut stubs: Vec<Stub> = stubs.into_iter().map(|s| Stub { path: s.path, dir: s.dir }).collect();
        for volume in volumes {
            if !stubs.iter().any(|stub| stub.dir && volume.starts_with(&stub.path)) {
                stubs.push(Stub { path: volume, dir: true });
            }
        }
        let (store, layers) = (self.store.clone(), layers.to_vec());
        let mounted = blocking(move || Ok(store.mount(&layers, &MountRequest::writable(stubs))?)).await?;
        let aside = match runner.context().rung.can_mount() {
            true => None,
            false => Some(mounted.aside().map_err(ImageError::io("create a directory beside", mounted.root()))?),
        };
        let request = RunRequest {
            meta: &meta,
            network,
            security: SecurityMode::Sandbox,
            root: mounted.root(),
            mounts,
            extra_env: Vec::new(),
            extra_groups: Vec::new(),
            shm_size: 0,
            confidential: false,
            aside,
            caches: Vec::new(),
            followed: false,
        };
        Ok(runner.run_attached(request, &self.events, attachment, std::future::pending()).await?)
    }
}
