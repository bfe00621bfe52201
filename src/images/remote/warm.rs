//! Puts images into a directory where builds find them before they ask a registry (SPEC D1.48).

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};

use super::super::parts::{MAX_DEPTH, document};
use super::super::transfer::PARALLEL;
use super::super::{ImageError, blocking};
use super::{Place, RemoteImages};
use crate::base::Digest;
use crate::base::events::Outcome;
use crate::exporter::layout;
use crate::oci::manifest::Document;
use crate::oci::{Descriptor, Platform, Reference, media_type};
use crate::source::below;

/// The name of an image in `index.json`.
const IMAGE_NAME: &str = "io.containerd.image.name";

impl RemoteImages {
    /// Brings the image of a name for one platform into a layout, where it has the whole name. What is there already and is what its
    /// digest says stays, unless everything is to be fetched anew.
    ///
    /// # Errors
    /// If it does not exist, is not for the platform, or cannot be written; it has no name there then.
    pub async fn warm(
        &self,
        dir: &Path,
        reference: &Reference,
        platform: &Platform,
        anew: bool,
    ) -> Result<Descriptor, ImageError> {
        let id = Digest::sha256(format!("warm {reference} {platform}"));
        self.events.vertex(&id, format!("warming {reference} for {platform}"), Vec::new());
        self.events.started(&id);
        let result = self.bring(dir, reference, platform, anew, &id).await;
        let outcome = result.as_ref().map_or_else(|e| Outcome::Failed(e.to_string()), |_| Outcome::Done);
        self.events.completed(&id, outcome);
        result
    }

    async fn bring(
        &self,
        dir: &Path,
        reference: &Reference,
        platform: &Platform,
        anew: bool,
        id: &Digest,
    ) -> Result<Descriptor, ImageError> {
        let name = reference.to_string();
        let mut documents: Vec<(Descriptor, Bytes)> = Vec::new();
        let mut place = Place::Registry(reference.clone());
        for depth in 0.. {
            // The registry says what the name means now, whatever the directory has.
            let (descriptor, bytes) = place.root(&self.client).await?;
            let next = below(&name, &bytes, &descriptor.media_type, platform)?;
            let at = descriptor.digest.clone();
            documents.push((descriptor, bytes));
            match next {
                Some(_) if depth == MAX_DEPTH => {
                    let reason = "indexes are nested too deep".into();
                    return Err(ImageError::Document { digest: at, reason });
                }
                Some(next) => place = place.at(&next.digest),
                None => break,
            }
        }
        if let Some((descriptor, bytes)) = documents.last()
            && let Document::Manifest(manifest) = document(&descriptor.digest, bytes, &descriptor.media_type)?
        {
            let mut blobs = manifest.layers;
            blobs.retain(|layer| !media_type::is_foreign(&layer.media_type));
            blobs.push(manifest.config);
            let from = Place::Registry(reference.clone());
            let wanted = blobs.iter().map(|blob| self.bring_blob(&from, blob, dir, anew, id));
            stream::iter(wanted).buffer_unordered(PARALLEL).try_collect::<Vec<()>>().await?;
        }
        let (dir, name) = (dir.to_owned(), Reference { digest: None, ..reference.clone() });
        let named = reference.digest.is_none().then(|| name.to_string());
        self.events.progress(id, format!("naming to {reference}"), 0, None, true);
        blocking(move || {
            // Written anew each time: that is when the name was last looked up.
            for (descriptor, bytes) in documents.iter().rev() {
                layout::put_blob(&dir, &descriptor.digest, &mut bytes.as_ref())?;
            }
            let mut root = documents.swap_remove(0).0;
            root.annotations.extend(named.map(|name| (IMAGE_NAME.to_owned(), name)));
            layout::name(&dir, &[root.clone()])?;
            Ok(root)
        })
        .await
    }

    async fn bring_blob(
        &self,
        from: &Place,
        blob: &Descriptor,
        dir: &Path,
        anew: bool,
        id: &Digest,
    ) -> Result<(), ImageError> {
        let source = from.blob(&self.client, blob);
        let (dir, descriptor) = (dir.to_owned(), blob.clone());
        let item = format!("fetching {}", blob.digest);
        self.events.progress(id, item.clone(), 0, Some(blob.size), false);
        blocking(move || {
            let path = layout::path_of(&dir, &descriptor.digest);
            if !anew && is_intact(&path, &descriptor) {
                return Ok(());
            }
            let mut bytes = source.open().map_err(ImageError::io("read", &path))?;
            Ok(layout::put_blob(&dir, &descriptor.digest, &mut bytes)?)
        })
        .await?;
        self.events.progress(id, item, blob.size, Some(blob.size), true);
        Ok(())
    }
}

/// Whether a file is what its digest says.
fn is_intact(path: &PathBuf, blob: &Descriptor) -> bool {
    let intact = || -> io::Result<bool> {
        let mut file = File::open(path)?;
        if file.metadata()?.len() != blob.size {
            return Ok(false);
        }
        let (mut hasher, mut piece) = (blob.digest.hasher(), vec![0; 256 << 10]);
        loop {
            match file.read(&mut piece)? {
                0 => return Ok(hasher.finish() == blob.digest),
                read => hasher.update(&piece[..read]),
            }
        }
    };
    intact().unwrap_or(false)
}
