//! Layer 10: work on images that exist already: pull, push, load, save, look into them (SPEC B8.15).
//!
//! Nothing here builds or assembles: documents keep their exact bytes, so an image keeps its digest wherever it goes.
//! Start reading at [`Images`]; [`parts`] walks from a manifest or an index to everything it consists of.

pub mod compare;
mod error;
mod inspect;
pub mod list;
mod load;
pub mod parts;
mod publish;
pub mod remote;
mod run;
mod save;
mod transfer;
mod unpack;

pub use error::ImageError;
pub use inspect::{HistoryLine, Inspection, Summary};
pub use load::Loaded;
pub use publish::Published;
pub use run::Program;
pub use save::Format;

use crate::base::Events;
use crate::oci::{Descriptor, Reference};
use crate::registry::Client;
use crate::source::ImageSource;
use crate::store::Store;

/// Images of a store. Cheap to clone.
#[derive(Clone)]
pub struct Images {
    store: Store,
    client: Client,
    source: ImageSource,
    events: Events,
}

impl Images {
    /// Over a store and a registry client.
    #[must_use]
    pub fn new(store: Store, client: Client, source: ImageSource, events: Events) -> Self {
        Self { store, client, source, events }
    }

    /// What an image of the store is: by name, or by (the beginning of) the digest of its manifest or config.
    ///
    /// # Errors
    /// [`ImageError::NotFound`], [`ImageError::Ambiguous`].
    pub fn find(&self, name: &str) -> Result<Descriptor, ImageError> {
        if let Ok(reference) = name.parse::<Reference>()
            && let Some(record) = self.store.image(&reference)?
        {
            return Ok(record.descriptor);
        }
        let wanted = name.trim_start_matches("sha256:");
        let digest_like = wanted.len() >= 4 && wanted.len() <= 64 && wanted.bytes().all(|b| b.is_ascii_hexdigit());
        let mut found: Vec<Descriptor> = Vec::new();
        for record in if digest_like { self.store.images()? } else { Vec::new() } {
            let mut digests = vec![record.descriptor.digest.clone()];
            if let Ok(parts) = parts::Parts::collect(&self.store, &record.descriptor) {
                digests.extend(parts.configs.iter().map(|c| c.digest.clone()));
            }
            if digests.iter().any(|d| d.hex().starts_with(wanted))
                && !found.iter().any(|f| f.digest == record.descriptor.digest)
            {
                found.push(record.descriptor);
            }
        }
        match found.len() {
            0 => Err(ImageError::NotFound { name: name.to_owned(), near: self.near(name)? }),
            1 => Ok(found.remove(0)),
            _ => Err(ImageError::Ambiguous { name: name.to_owned() }),
        }
    }

    /// A name in the store that is close to one that is not.
    fn near(&self, name: &str) -> Result<Option<String>, ImageError> {
        let names = self.store.images()?.into_iter().filter_map(|i| Some(i.name.parse::<Reference>().ok()?.familiar()));
        let nearest = names.map(|n| (strsim::levenshtein(&n, name), n)).min();
        Ok(nearest.filter(|(distance, _)| *distance <= 3).map(|(_, n)| n))
    }

    /// Gives an image another name.
    ///
    /// # Errors
    /// If there is no such image, or the store cannot be written.
    pub fn tag(&self, name: &str, target: &Reference) -> Result<(), ImageError> {
        let descriptor = self.find(name)?;
        self.name(&descriptor, target)
    }

    /// Gives what a descriptor describes a name.
    ///
    /// # Errors
    /// If the store cannot be written.
    pub fn name(&self, image: &Descriptor, name: &Reference) -> Result<(), ImageError> {
        Ok(self.store.tag_image(name, image)?)
    }

    /// Takes a name away. By a digest, the name of that image goes; several only with `force`.
    ///
    /// # Errors
    /// If there is no such image, it has several names, or the store cannot be written.
    pub fn remove(&self, name: &str, force: bool) -> Result<Vec<String>, ImageError> {
        if let Ok(reference) = name.parse::<Reference>()
            && self.store.untag_image(&reference)?
        {
            return Ok(vec![reference.familiar()]);
        }
        let descriptor = self.find(name)?;
        let same = self.store.images()?.into_iter().filter(|i| i.descriptor.digest == descriptor.digest);
        let names: Vec<Reference> = same.filter_map(|record| record.name.parse().ok()).collect();
        if names.len() > 1 && !force {
            let names = names.iter().map(Reference::familiar).collect();
            return Err(ImageError::SeveralNames { image: name.to_owned(), names });
        }
        let mut removed = Vec::new();
        for reference in names {
            if self.store.untag_image(&reference)? {
                removed.push(reference.familiar());
            }
        }
        Ok(removed)
    }
}

/// Runs blocking work off the async threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
) -> Result<T, ImageError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(panic) => Err(ImageError::Internal(format!("a task ended unexpectedly: {panic}"))),
    }
}
