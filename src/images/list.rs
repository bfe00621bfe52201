//! Image indexes of the store that are put together one image at a time, as `podman manifest` does (SPEC B8.16, D3.34).
//!
//! A list is an index with a name. It cannot be changed, only replaced: then every name that it had means the new one, as if it were
//! one thing with several names.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;

use super::parts::{Parts, document, is_image};
use super::{ImageError, Images, blocking};
use crate::attest::manifest;
use crate::base::Digest;
use crate::oci::manifest::{Document, to_json_pretty};
use crate::oci::media_type::Family;
use crate::oci::{Descriptor, ImageConfig, Index, Platform, Reference};
use crate::source::choose;

/// Only a registry is asked for what follows this.
const REGISTRY: &str = "docker-image://";
/// What follows this is a directory or an archive.
const LAYOUT: &str = "oci-layout://";

/// What is to be said of an entry of a list.
#[derive(Debug, Clone, Default)]
pub struct Amendment {
    /// Another operating system.
    pub os: Option<String>,
    /// Another architecture.
    pub architecture: Option<String>,
    /// Another variant of the architecture.
    pub variant: Option<String>,
    /// Another version of the operating system.
    pub os_version: Option<String>,
    /// Other features of the operating system; none leaves those that are there.
    pub os_features: Vec<String>,
    /// Annotations that are added, or replace those of the same name.
    pub annotations: BTreeMap<String, String>,
}

impl Amendment {
    /// Says it of an entry.
    pub fn apply(&self, entry: &mut Descriptor) {
        entry.annotations.extend(self.annotations.clone());
        let named = [&self.os, &self.architecture, &self.variant, &self.os_version].into_iter().any(Option::is_some);
        if !named && self.os_features.is_empty() {
            return;
        }
        let platform = entry.platform.get_or_insert_with(Platform::default);
        for (field, given) in [
            (&mut platform.os, &self.os),
            (&mut platform.architecture, &self.architecture),
            (&mut platform.variant, &self.variant),
            (&mut platform.os_version, &self.os_version),
        ] {
            if let Some(given) = given {
                field.clone_from(given);
            }
        }
        if !self.os_features.is_empty() {
            platform.os_features.clone_from(&self.os_features);
        }
    }
}

impl Images {
    /// A list, and what it says.
    ///
    /// # Errors
    /// [`ImageError::NotFound`]; [`ImageError::Usage`] for a single image.
    pub fn list(&self, name: &str) -> Result<(Descriptor, Index), ImageError> {
        let root = self.find(name)?;
        match self.stored(&root)? {
            Document::Index(index) => Ok((root, index)),
            Document::Manifest(_) => Err(ImageError::Usage(format!("{name} is a single image, not a list of images"))),
        }
    }

    /// Makes a list under some names. The list that has the first of them already is added to with `amend`.
    ///
    /// # Errors
    /// If a name is in use, or the store cannot be written.
    pub fn create_list(
        &self,
        names: &[Reference],
        members: Vec<Descriptor>,
        annotations: BTreeMap<String, String>,
        amend: bool,
    ) -> Result<Descriptor, ImageError> {
        let _turn = self.store.lock_names()?;
        let mut index = Index::new(Vec::new());
        for name in names {
            let used = self.store.image(name)?;
            match used {
                Some(_) if !amend => return Err(ImageError::NameInUse { name: name.familiar() }),
                Some(_) if index.manifests.is_empty() => index = self.list(&name.to_string())?.1,
                _ => {}
            }
        }
        members.into_iter().for_each(|member| add_member(&mut index, member));
        index.annotations.extend(annotations);
        let made = self.written(index)?;
        for name in names {
            self.store.tag_image(name, &made)?;
        }
        Ok(made)
    }

    /// Replaces a list by what `change` makes of it, under all names that it has.
    ///
    /// # Errors
    /// As [`Images::list`], those of `change`, and if the store cannot be written. Nothing has changed then.
    pub fn change_list(
        &self,
        name: &str,
        change: impl FnOnce(&mut Index) -> Result<(), ImageError>,
    ) -> Result<Descriptor, ImageError> {
        let _turn = self.store.lock_names()?;
        let (old, mut index) = self.list(name)?;
        change(&mut index)?;
        let new = self.written(index)?;
        for record in self.store.images()?.into_iter().filter(|record| record.descriptor.digest == old.digest) {
            if let Ok(reference) = record.name.parse::<Reference>() {
                self.store.tag_image(&reference, &new)?;
            }
        }
        Ok(new)
    }

    /// Deletes a list: takes all its names away.
    ///
    /// # Errors
    /// As [`Images::list`], and if the store cannot be written.
    pub fn remove_list(&self, name: &str) -> Result<Vec<String>, ImageError> {
        let (root, _) = self.list(name)?;
        self.remove(root.digest.hex(), true)
    }

    /// A list as the index of a family, which has no name of its own then.
    ///
    /// # Errors
    /// As [`Images::list`]; [`ImageError::Usage`] if its images or annotations are not for that family.
    pub fn list_of_family(&self, name: &str, family: Family) -> Result<Descriptor, ImageError> {
        let (root, mut index) = self.list(name)?;
        let kind = family.index();
        if root.media_type == kind {
            return Ok(root);
        }
        if family == Family::Docker && !is_docker(&index) {
            return Err(ImageError::Usage(format!("{name} has images or annotations that docker's lists cannot hold")));
        }
        index.media_type = kind.into();
        let bytes = to_json_pretty(&index);
        self.store.put_blob(&bytes)?;
        Ok(Descriptor::of_bytes(kind, &bytes))
    }

    /// Brings an image into the store without a name, and gives the entries that it adds to a list: the one for `platform` with what
    /// is attested of it, or all that there are without a platform. A name of the store goes before one of a registry;
    /// `docker-image://` is always a registry's, and `oci-layout://` a directory or an archive.
    ///
    /// # Errors
    /// If it does not exist, cannot be had completely, or is not for the platform.
    pub async fn members(&self, image: &str, platform: Option<&Platform>) -> Result<Vec<Descriptor>, ImageError> {
        let (this, text) = (self.clone(), image.to_owned());
        let reference = match blocking(move || this.local(&text)).await? {
            Ok(root) => return self.entries(image, root, platform).await,
            Err(reference) => reference,
        };
        let id = Digest::sha256(format!("list {image}"));
        self.events.vertex(&id, format!("pulling {image}"), Vec::new());
        self.events.started(&id);
        let entries = self.fetched(&reference, platform, &id).await;
        self.end(&id, &entries);
        entries
    }

    /// The entries of an image in a registry, which are in the store then.
    async fn fetched(
        &self,
        from: &Reference,
        platform: Option<&Platform>,
        id: &Digest,
    ) -> Result<Vec<Descriptor>, ImageError> {
        let root = self.client.manifest(from).await?;
        let (store, bytes) = (self.store.clone(), root.bytes);
        blocking(move || Ok(store.put_blob(&bytes)?)).await?;
        let single = vec![root.descriptor.clone()];
        let wanted = self.chosen(&from.familiar(), &root.descriptor, platform)?.unwrap_or(single);
        for entry in wanted {
            self.complete(from.clone(), entry, id.clone()).await?;
        }
        self.entries(&from.familiar(), root.descriptor, platform).await
    }

    /// The entries of an image that the store has.
    async fn entries(
        &self,
        name: &str,
        root: Descriptor,
        platform: Option<&Platform>,
    ) -> Result<Vec<Descriptor>, ImageError> {
        let (this, name, platform) = (self.clone(), name.to_owned(), platform.cloned());
        blocking(move || match this.chosen(&name, &root, platform.as_ref())? {
            Some(entries) => Ok(entries),
            None => Ok(vec![this.entry(root)?]),
        })
        .await
    }

    /// Those entries of an index that are meant; `None` for a single image.
    fn chosen(
        &self,
        name: &str,
        root: &Descriptor,
        platform: Option<&Platform>,
    ) -> Result<Option<Vec<Descriptor>>, ImageError> {
        let Document::Index(index) = self.stored(root)? else { return Ok(None) };
        let Some(platform) = platform else { return Ok(Some(index.manifests)) };
        let Some(entry) = choose(&index, platform) else {
            return Err(ImageError::Usage(format!("{name} is not for {platform}; --all adds what it is for")));
        };
        let about = manifest::about(&index.manifests, entry).cloned();
        Ok(Some(std::iter::once(entry.clone()).chain(about).collect()))
    }

    /// Which entry of a list an image is: by its digest, or by a name under which the store or a registry has it.
    ///
    /// # Errors
    /// If it is none of them, or several.
    pub async fn entry_of(&self, list: &str, image: &str) -> Result<Digest, ImageError> {
        let (this, name) = (self.clone(), list.to_owned());
        let (_, index) = blocking(move || this.list(&name)).await?;
        let wanted = image.rsplit_once('@').map_or(image, |(_, digest)| digest);
        let hex = wanted.trim_start_matches("sha256:");
        let mut found: Vec<&Descriptor> =
            index.manifests.iter().filter(|entry| hex.len() >= 4 && entry.digest.hex().starts_with(hex)).collect();
        if found.is_empty() && wanted == image {
            let (this, text) = (self.clone(), image.to_owned());
            let (root, below) = match blocking(move || this.local(&text)).await? {
                Ok(root) => {
                    let this = self.clone();
                    let parts = blocking(move || Parts::collect(&this.store, &root).map(|parts| (root, parts)));
                    let (root, parts) = parts.await?;
                    (root.digest, parts.manifests.into_iter().map(|(descriptor, _)| descriptor.digest).collect())
                }
                Err(reference) => (self.client.resolve(&reference).await?.digest, Vec::new()),
            };
            let is = |entry: &&Descriptor| entry.digest == root || below.contains(&entry.digest);
            found = index.manifests.iter().filter(is).filter(|entry| is_image(entry)).collect();
        }
        match found.as_slice() {
            [one] => Ok(one.digest.clone()),
            [] => Err(ImageError::Usage(format!("{image} is no entry of {list}"))),
            _ => Err(ImageError::Usage(format!("{image} is several entries of {list}; name one by its digest"))),
        }
    }

    /// What the store has under a name, or in a file that is named; else the name in a registry.
    fn local(&self, image: &str) -> Result<Result<Descriptor, Reference>, ImageError> {
        let reference = |text: &str| {
            text.parse::<Reference>().map_err(|e| ImageError::Usage(format!("invalid image name \"{text}\": {e}")))
        };
        if let Some(name) = image.strip_prefix(REGISTRY) {
            return reference(name).map(Err);
        }
        if let Some(path) = image.strip_prefix(LAYOUT) {
            return match self.read(Path::new(path))?.as_slice() {
                [one] => Ok(Ok(one.descriptor.clone())),
                found => Err(ImageError::Usage(format!("{path} holds {} images, and one is added", found.len()))),
            };
        }
        match self.find(image) {
            Ok(root) => Ok(Ok(root)),
            Err(ImageError::NotFound { .. }) => reference(image).map(Err),
            Err(error) => Err(error),
        }
    }

    pub(super) fn bytes(&self, at: &Descriptor) -> Result<Bytes, ImageError> {
        if self.store.has_blob(&at.digest)?.is_none() {
            return Err(ImageError::Incomplete { what: "manifest", digest: at.digest.clone() });
        }
        Ok(self.store.read_blob(&at.digest)?.into())
    }

    fn stored(&self, at: &Descriptor) -> Result<Document, ImageError> {
        document(&at.digest, &self.bytes(at)?, &at.media_type)
    }

    /// The entry for a single image: for the platform of its config.
    fn entry(&self, image: Descriptor) -> Result<Descriptor, ImageError> {
        let Document::Manifest(manifest) = self.stored(&image)? else { return Ok(image) };
        let kind = if manifest.media_type.is_empty() { image.media_type.clone() } else { manifest.media_type };
        let config: Option<ImageConfig> = serde_json::from_slice(&self.bytes(&manifest.config)?).ok();
        let platform = config.map(|config| config.platform()).filter(|platform| !platform.architecture.is_empty());
        Ok(Descriptor { platform, ..Descriptor::new(kind, image.digest, image.size) })
    }

    /// Writes a list, of the family of its images. Annotations are OCI's alone.
    fn written(&self, mut index: Index) -> Result<Descriptor, ImageError> {
        let docker = !index.manifests.is_empty() && is_docker(&index);
        let kind = if docker { Family::Docker.index() } else { Family::Oci.index() };
        index.media_type = kind.into();
        let bytes = to_json_pretty(&index);
        self.store.put_blob(&bytes)?;
        Ok(Descriptor::of_bytes(kind, &bytes))
    }
}

/// Whether docker's kind of index can say it all.
fn is_docker(index: &Index) -> bool {
    let docker = |entry: &Descriptor| entry.media_type.starts_with("application/vnd.docker.");
    let plain = |entry: &Descriptor| entry.annotations.is_empty();
    index.annotations.is_empty() && index.manifests.iter().all(|entry| docker(entry) && plain(entry))
}

/// Puts an image into a list; of one digest there is one entry.
pub fn add_member(index: &mut Index, member: Descriptor) {
    match index.manifests.iter_mut().find(|known| known.digest == member.digest) {
        None => index.manifests.push(member),
        Some(known) => {
            known.platform = member.platform.or(known.platform.take());
            known.annotations.extend(member.annotations);
        }
    }
}

/// Takes an image out of a list, and what is attested of it.
pub fn remove_member(index: &mut Index, image: &Digest) {
    let about = index.manifests.iter().find(|entry| entry.digest == *image);
    let about = about.and_then(|entry| manifest::about(&index.manifests, entry)).map(|entry| entry.digest.clone());
    index.manifests.retain(|entry| entry.digest != *image && Some(&entry.digest) != about.as_ref());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::media_type;

    fn entry(text: &str, architecture: &str) -> Descriptor {
        Descriptor {
            platform: Some(Platform::new("linux", architecture, "")),
            ..Descriptor::of_bytes(media_type::OCI_MANIFEST, text.as_bytes())
        }
    }

    // SPEC D3.34
    #[test]
    fn d3_34_an_image_is_once_in_a_list_and_goes_with_what_is_attested_of_it() {
        let mut index = Index::new(Vec::new());
        add_member(&mut index, entry("a", "amd64"));
        add_member(&mut index, entry("b", "arm64"));
        add_member(&mut index, entry("a", "386"));
        let architectures = |index: &Index| -> Vec<String> {
            index.manifests.iter().map(|entry| entry.platform.clone().unwrap_or_default().architecture).collect()
        };
        assert_eq!(architectures(&index), ["386", "arm64"]);
        let about = manifest::manifest(&index.manifests[0], &[], Family::Oci, true).descriptor;
        add_member(&mut index, about);
        remove_member(&mut index, &Digest::sha256("a"));
        assert_eq!(architectures(&index), ["arm64"]);
    }

    // SPEC D3.34
    #[test]
    fn d3_34_what_is_said_of_an_entry_replaces_only_what_it_names() {
        let mut changed = entry("a", "arm");
        let amendment = Amendment {
            variant: Some("v7".into()),
            annotations: [("k".to_owned(), "v".to_owned())].into(),
            ..Amendment::default()
        };
        amendment.apply(&mut changed);
        assert_eq!(changed.platform.as_ref().map(ToString::to_string).as_deref(), Some("linux/arm/v7"));
        assert_eq!(changed.annotations["k"], "v");
        let mut untouched = Descriptor { platform: None, ..entry("a", "arm") };
        Amendment::default().apply(&mut untouched);
        assert_eq!(untouched.platform, None);
    }
}
