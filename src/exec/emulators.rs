//! Emulators for steps of other architectures (SPEC A5.18, C5.13): named by the user, found on this machine, or out of an image
//! of the store. They are registered with the worker's own user namespace, never with the host.
//!
//! What comes out of an image is not executed by the worker, which has more rights than a step: steps alone run it.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rootless::binfmt::{Emulator, EmulatorError, Registrations};
use rootless::{Rung, WorkerContext};
use rustix::fs::{Mode, OFlags};
use tokio::sync::Mutex;

use super::emulation;
use crate::base::file::{open_dir, open_in_root};
use crate::oci::{Platform, Reference};
use crate::source::ImageSource;
use crate::store::{MountRequest, Store};

/// Images of the store that are looked through without being named: nothing else is in them.
const KNOWN_IMAGE: (&str, &str) = ("docker.io", "tonistiigi/binfmt");
/// Where images have emulators.
const PLACES: [&str; 5] = ["usr/bin", "usr/local/bin", "usr/libexec/qemu-binfmt", "bin", "."];

/// Where somebody says that emulators are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EmulatorSource {
    /// A file, or a directory of files, with the architecture it is for if its name does not tell.
    File {
        /// In Go's or qemu's words.
        architecture: Option<String>,
        /// Absolute, or relative to the working directory.
        path: PathBuf,
    },
    /// An image: of the store, or else of its registry.
    Image(Box<Reference>),
}

impl FromStr for EmulatorSource {
    type Err = String;

    /// `[ARCHITECTURE=]PATH`, a path beginning with `/` or `.`, or the name of an image.
    fn from_str(text: &str) -> Result<Self, String> {
        let (architecture, rest) = match text.split_once('=') {
            Some((architecture, rest)) => (Some(architecture), rest),
            None => (None, text),
        };
        if rest.starts_with(['/', '.']) {
            return Ok(Self::File { architecture: architecture.map(str::to_owned), path: rest.into() });
        }
        let expected = "expected PATH, ARCHITECTURE=PATH (paths begin with / or .) or the name of an image";
        match text.parse::<Reference>() {
            Ok(reference) if architecture.is_none() => Ok(Self::Image(Box::new(reference))),
            Ok(_) => Err(format!("\"{text}\": {expected}")),
            Err(e) => Err(format!("\"{text}\": {expected}: {e}")),
        }
    }
}

/// Why programs of a platform do not run here.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{reason}")]
pub struct NoEmulator {
    /// What is in the way.
    pub reason: String,
    /// What lifts it.
    pub hint: String,
}

/// Which foreign architectures run here. One per worker.
pub struct Emulators {
    state_dir: PathBuf,
    rung: Rung,
    /// Of files that were named, in order.
    files: Vec<Emulator>,
    images: Vec<Reference>,
    registrations: Registrations,
    /// By architecture: whether it runs, or why not.
    known: Mutex<HashMap<String, Result<(), NoEmulator>>>,
}

impl Emulators {
    /// What is named is looked at; nothing is registered.
    ///
    /// # Errors
    /// If a file that is named is no emulator.
    pub fn new(context: &WorkerContext, named: &[EmulatorSource]) -> Result<Self, EmulatorError> {
        let (mut files, mut images) = (Vec::new(), Vec::new());
        for source in named {
            match source {
                EmulatorSource::Image(reference) => images.push((**reference).clone()),
                EmulatorSource::File { architecture: None, path } if path.is_dir() => {
                    files.extend(Emulator::of_directory(path)?);
                }
                EmulatorSource::File { architecture, path } => {
                    files.push(Emulator::of_file(path, architecture.as_deref())?);
                }
            }
        }
        for file in &mut files {
            file.path = std::path::absolute(&file.path)
                .map_err(|source| EmulatorError::Io { path: file.path.clone(), source })?;
        }
        Ok(Self {
            state_dir: context.state_dir.clone(),
            rung: context.rung,
            files,
            images,
            registrations: Registrations::new(context.state_dir.join("binfmt")),
            known: Mutex::new(HashMap::new()),
        })
    }

    /// Makes programs of `platform` run in steps. The text is what the user should know about how they run, the first time.
    ///
    /// # Errors
    /// If they do not run here.
    pub async fn provide(
        &self,
        platform: &Platform,
        images: &ImageSource,
        store: &Store,
    ) -> Result<Option<String>, NoEmulator> {
        let host = Platform::host();
        if platform.os == host.os && platform.architecture == host.architecture {
            return Ok(None);
        }
        let mut known = self.known.lock().await;
        if let Some(found) = known.get(&platform.architecture) {
            return found.clone().map(|()| None);
        }
        let found = self.find(platform, images, store).await;
        known.insert(platform.architecture.clone(), found.as_ref().map(|_| ()).map_err(Clone::clone));
        found
    }

    /// The platforms whose programs run here, this machine's first; images are not looked into. Blocks for some
    /// milliseconds.
    #[must_use]
    pub fn platforms(&self) -> Vec<Platform> {
        if self.refusal().is_none() {
            if !self.files.is_empty() {
                // What cannot be registered does not run, and is not listed.
                let _ = self.registrations.add(&self.files);
            }
            self.registrations.add_this_machines();
        }
        emulation::platforms(&self.state_dir)
    }

    async fn find(
        &self,
        platform: &Platform,
        images: &ImageSource,
        store: &Store,
    ) -> Result<Option<String>, NoEmulator> {
        if platform.os != "linux" {
            return Err(NoEmulator {
                reason: "it runs programs of no other operating system".into(),
                hint: "keep RUN on Linux (FROM --platform=$BUILDPLATFORM …); for other systems images are put together with COPY alone"
                    .into(),
            });
        }
        let architecture = platform.architecture.as_str();
        let refusal = self.refusal();
        let no = |reason: String| NoEmulator { reason, hint: emulation::remedy(platform, refusal.is_none()) };
        if refusal.is_none() {
            // What somebody names goes before what is there anyway.
            let file = self.files.iter().find(|file| file.architecture == architecture);
            if let Some(file) = file {
                self.registrations.add(std::slice::from_ref(file)).map_err(|e| no(refused(&e)))?;
            } else {
                for image in &self.images {
                    let found = self.of_image(image, architecture, images, store).await;
                    let found = found.map_err(|e| no(format!("cannot use the emulators of {image}: {e}")))?;
                    if let Some(found) = found {
                        self.registrations.add(&[found]).map_err(|e| no(refused(&e)))?;
                        return Ok(Some(announcement(platform, image)));
                    }
                }
            }
            self.registrations.add_this_machines();
        }
        let (wanted, dir) = (platform.clone(), self.state_dir.clone());
        let runs = tokio::task::spawn_blocking(move || emulation::can_run(&wanted, &dir)).await;
        if runs.unwrap_or(false) {
            return Ok(None);
        }
        if let Some(refusal) = refusal {
            return Err(no(refusal.to_owned()));
        }
        if let Some(file) = self.files.iter().find(|file| file.architecture == architecture) {
            return Err(no(format!("{} does not run programs for {platform}", file.path.display())));
        }
        for image in known_images(store).map_err(|e| no(e.to_string()))? {
            // Nobody asked for it: what is wrong with it is no failure of its own.
            let Ok(Some(found)) = self.of_image(&image, architecture, images, store).await else { continue };
            self.registrations.add(&[found]).map_err(|e| no(refused(&e)))?;
            return Ok(Some(announcement(platform, &image)));
        }
        Err(no("no emulator was found on this machine, nor in the store".into()))
    }

    /// Why nothing can be registered for steps alone.
    fn refusal(&self) -> Option<&'static str> {
        match self.rung {
            Rung::Userns | Rung::UsernsOne => None,
            Rung::Root => Some(
                "isolation root has no user namespace of its own in which an emulator could be registered without changing the \
                 machine (--isolation userns has one)",
            ),
            Rung::Chroot => Some(
                "isolation chroot mounts nothing, so no emulator can be registered for its steps, and none is registered with \
                 the machine",
            ),
            Rung::Ptrace => Some("isolation ptrace runs programs of this machine's own architecture only"),
            Rung::None => Some("steps do not run here at all"),
        }
    }

    /// The emulator for an architecture in an image, as a file of ours.
    async fn of_image(
        &self,
        image: &Reference,
        architecture: &str,
        images: &ImageSource,
        store: &Store,
    ) -> Result<Option<Emulator>, String> {
        let chain = images.layers(&format!("docker-image://{image}"), &Platform::host()).await;
        let chain = chain.map_err(|e| e.to_string())?;
        images.ensure_unpacked(&chain, None).await.map_err(|e| e.to_string())?;
        let (store, dir, architecture) = (store.clone(), self.state_dir.join("emulators"), architecture.to_owned());
        let taken = tokio::task::spawn_blocking(move || {
            let mounted = store.mount(&chain, &MountRequest::read_only()).map_err(|e| e.to_string())?;
            take_out(mounted.root(), &architecture, &dir).map_err(|e| e.to_string())
        });
        taken.await.map_err(|e| e.to_string())?
    }
}

fn announcement(platform: &Platform, image: &Reference) -> String {
    format!("programs for {platform} run in the emulator of image {}", image.familiar())
}

fn refused(error: &io::Error) -> String {
    let known = error.kind() != io::ErrorKind::InvalidInput || error.raw_os_error().is_some();
    let why = if known { " (user namespaces have registrations of their own from Linux 6.7)" } else { "" };
    format!("no emulator can be registered: {error}{why}")
}

/// Images of the store that are made to hold emulators.
fn known_images(store: &Store) -> Result<Vec<Reference>, crate::store::StoreError> {
    let names = store.images()?.into_iter().filter_map(|image| image.name.parse::<Reference>().ok());
    Ok(names.filter(|name| (name.domain.as_str(), name.path.as_str()) == KNOWN_IMAGE).collect())
}

/// Copies the emulator for an architecture out of a root file system. What is a link there, or needs a loader, is none.
fn take_out(root: &Path, architecture: &str, dir: &Path) -> io::Result<Option<Emulator>> {
    let root = open_dir(root)?;
    for name in Emulator::file_names(architecture) {
        for place in PLACES {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let Ok(found) = open_in_root(&root, &Path::new(place).join(&name), flags, Mode::empty()) else { continue };
            let mut found = fs::File::from(found);
            if !found.metadata()?.is_file() {
                continue;
            }
            fs::create_dir_all(dir)?;
            let copy = dir.join(&name);
            let mut file = fs::File::create(&copy)?;
            io::copy(&mut found, &mut file)?;
            file.set_permissions(fs::Permissions::from_mode(0o755))?;
            drop(file);
            match Emulator::of_file(&copy, Some(architecture)) {
                Ok(emulator) => return Ok(Some(emulator)),
                Err(_) => fs::remove_file(&copy)?,
            }
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_named_is_a_path_or_an_image() {
        let parse = |text: &str| text.parse::<EmulatorSource>();
        let file = |architecture: Option<&str>, path: &str| {
            Ok(EmulatorSource::File { architecture: architecture.map(str::to_owned), path: path.into() })
        };
        assert_eq!(parse("/opt/qemu-aarch64"), file(None, "/opt/qemu-aarch64"));
        assert_eq!(parse("./qemu"), file(None, "./qemu"));
        assert_eq!(parse("arm64=../emulator"), file(Some("arm64"), "../emulator"));
        let image = parse("tonistiigi/binfmt").expect("an image");
        assert!(matches!(image, EmulatorSource::Image(name) if name.path == "tonistiigi/binfmt"));
        assert!(parse("arm64=image").is_err_and(|e| e.contains("paths begin with")));
        assert!(parse("Not An Image").is_err());
    }

    /// A link could lead to anything; what is found is copied, so that the image may go.
    #[test]
    fn emulators_are_taken_out_of_images() {
        let dir = tempfile::tempdir().expect("a directory");
        let (root, out) = (dir.path().join("root"), dir.path().join("out"));
        fs::create_dir_all(root.join("usr/bin")).expect("creates");
        std::os::unix::fs::symlink("/proc/self/exe", root.join("usr/bin/qemu-aarch64-static")).expect("links");
        fs::write(root.join("usr/bin/qemu-aarch64"), "#!/bin/sh\n").expect("writes");
        assert_eq!(take_out(&root, "arm64", &out).expect("looks"), None, "neither a link nor a script");
        assert_eq!(take_out(&root, "vax", &out).expect("looks"), None);
        let busybox = ["/bin/busybox", "/usr/bin/busybox"]
            .into_iter()
            .find(|p| Emulator::of_file(Path::new(p), Some("arm64")).is_ok());
        let Some(busybox) = busybox else { return };
        fs::copy(busybox, root.join("usr/bin/buildkit-qemu-aarch64")).expect("copies");
        let found = take_out(&root, "arm64", &out).expect("looks").expect("found");
        assert_eq!(found, Emulator { architecture: "arm64", path: out.join("buildkit-qemu-aarch64") });
    }
}
