//! `rbuild manifest`: lists of images in the store, put together one image at a time (SPEC B8.16, D3.34).

use std::collections::BTreeMap;

use serde_json::Value;

use super::args::{EntryArgs, Manifest, ManifestAdd, ManifestAnnotate, ManifestCreate, ManifestPush};
use super::errors::Failure;
use super::image_commands::{failure, open, over, reference, shown, usage};
use super::runtime::runtime;
use super::worker::{Inside, store_failure};
use super::{digest_files, print};
use crate::base::budget::Budget;
use crate::base::{Events, FaultKind};
use crate::images::list::{Amendment, add_member, remove_member};
use crate::images::remote::{Place, RemoteImages};
use crate::images::{ImageError, Images};
use crate::oci::media_type::Family;
use crate::oci::{Descriptor, Platform, Reference};

pub(super) fn run(inside: &Inside, command: &Manifest) -> Result<u8, Failure> {
    match command {
        Manifest::Create(args) => create(inside, args),
        Manifest::Add(args) => add(inside, args),
        Manifest::Annotate(args) => annotate(inside, args),
        Manifest::Inspect { list } => inspect(inside, list),
        Manifest::Push(args) => push(inside, args),
        Manifest::Remove { list, images } => remove(inside, list, images),
        Manifest::Rm { lists } => rm(inside, lists),
        Manifest::Exists { list } => exists(inside, list),
    }
}

/// What all these images add to a list, each of them in the store afterwards.
async fn members(images: &Images, names: &[String], all: bool) -> Result<Vec<Descriptor>, Failure> {
    let platform = (!all).then(Platform::host);
    let mut members = Vec::new();
    for name in names {
        members.extend(images.members(name, platform.as_ref()).await.map_err(|e| failure(&e))?);
    }
    Ok(members)
}

fn create(inside: &Inside, args: &ManifestCreate) -> Result<u8, Failure> {
    let names: Vec<Reference> =
        std::iter::once(&args.list).chain(&args.tag).map(|n| reference(n)).collect::<Result<_, _>>()?;
    if let Some(name) = names.iter().find(|name| name.digest.is_some()) {
        return Err(usage(format!("cannot make a list {name}: a digest is no name")));
    }
    let annotations = annotations(&args.annotation)?;
    let (digest, quiet) = shown(inside, &args.transfer.progress, async |events| {
        let store = inside.store(events.clone())?;
        let _lease = store.lease().map_err(|e| store_failure(&e))?;
        // Nothing is fetched for a list that cannot be made.
        for name in names.iter().filter(|_| !args.amend) {
            if store.image(name).map_err(|e| store_failure(&e))?.is_some() {
                return Err(failure(&ImageError::NameInUse { name: name.familiar() }));
            }
        }
        let images = over(inside, store, events)?;
        let members = members(&images, &args.images, args.all).await?;
        let made = images.create_list(&names, members, annotations, args.amend).map_err(|e| failure(&e))?;
        Ok(made.digest)
    })?;
    // The name stays when images are added, and the digest does not: scripts keep what is printed here.
    print(&if quiet { format!("{digest}\n") } else { format!("{}\n", names[0].familiar()) })
}

fn add(inside: &Inside, args: &ManifestAdd) -> Result<u8, Failure> {
    let amendment = amendment(&args.entry)?;
    let ((added, digest), quiet) = shown(inside, &args.transfer.progress, async |events| {
        let (images, _lease) = open(inside, events)?;
        images.list(&args.list).map_err(|e| failure(&e))?;
        let mut added = members(&images, &args.images, args.all).await?;
        added.iter_mut().filter(|entry| crate::images::parts::is_image(entry)).for_each(|entry| amendment.apply(entry));
        let put = |index: &mut _| {
            added.iter().cloned().for_each(|member| add_member(index, member));
            Ok(())
        };
        let list = images.change_list(&args.list, put).map_err(|e| failure(&e))?;
        Ok((added, list.digest))
    })?;
    if quiet {
        return print(&format!("{digest}\n"));
    }
    let added = added.iter().filter(|entry| crate::images::parts::is_image(entry));
    print(&added.map(|entry| format!("{}: {}\n", args.list, entry.digest)).collect::<String>())
}

fn annotate(inside: &Inside, args: &ManifestAnnotate) -> Result<u8, Failure> {
    let amendment = amendment(&args.entry)?;
    let (images, _lease) = open(inside, Events::none())?;
    let Some(image) = &args.image else {
        let say = |index: &mut crate::oci::Index| {
            index.annotations.extend(amendment.annotations);
            Ok(())
        };
        let list = images.change_list(&args.list, say).map_err(|e| failure(&e))?;
        return print(&format!("{}: {}\n", args.list, list.digest));
    };
    let runtime = runtime(Budget::detect())?;
    let digest = runtime.block_on(images.entry_of(&args.list, image)).map_err(|e| failure(&e))?;
    let say = |index: &mut crate::oci::Index| {
        index.manifests.iter_mut().filter(|entry| entry.digest == digest).for_each(|entry| amendment.apply(entry));
        Ok(())
    };
    images.change_list(&args.list, say).map_err(|e| failure(&e))?;
    print(&format!("{}: {digest}\n", args.list))
}

fn inspect(inside: &Inside, name: &str) -> Result<u8, Failure> {
    let (images, _lease) = open(inside, Events::none())?;
    let bytes = match images.document(name) {
        Ok(bytes) => bytes,
        Err(ImageError::NotFound { .. }) => {
            let place = Place::parse(name).map_err(|e| failure(&e))?;
            let remote = RemoteImages::new(inside.client(Events::none())?, Events::none());
            let runtime = runtime(Budget::detect())?;
            runtime.block_on(remote.look(&place)).map_err(|e| failure(&e))?.bytes
        }
        Err(error) => return Err(failure(&error)),
    };
    let shown: Value =
        serde_json::from_slice(&bytes).map_err(|e| Failure::new(FaultKind::Store, format!("{name}: {e}")))?;
    let mut out = Vec::new();
    let four = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut writer = serde_json::Serializer::with_formatter(&mut out, four);
    serde::Serialize::serialize(&shown, &mut writer).map_err(|e| Failure::new(FaultKind::Internal, e.to_string()))?;
    print(&format!("{}\n", String::from_utf8_lossy(&out)))
}

fn push(inside: &Inside, args: &ManifestPush) -> Result<u8, Failure> {
    if !args.all {
        return Err(usage("--all=false: a list whose images are not where it is cannot be pulled")
            .hint("leave it out, or take images away with `rbuild manifest remove`"));
    }
    let target = reference(args.target.as_ref().unwrap_or(&args.list))?;
    if target.digest.is_some() {
        return Err(usage(format!("cannot push to {target}: a digest is no name")).hint("give HOST/NAME:TAG"));
    }
    let family = args.format.as_deref().map(|kind| if kind == "oci" { Family::Oci } else { Family::Docker });
    let (digest, quiet) = shown(inside, &args.transfer.progress, async |events| {
        let (images, _lease) = open(inside, events)?;
        let list = match family {
            Some(family) => images.list_of_family(&args.list, family),
            None => images.list(&args.list).map(|(list, _)| list),
        };
        let list = list.map_err(|e| failure(&e))?;
        let digest = images.push_image(&list, &target).await.map_err(|e| failure(&e))?;
        let client = inside.client(Events::none())?;
        digest_files::write(&args.digests, &digest, std::slice::from_ref(&target), &client).await?;
        if args.rm {
            images.remove_list(&args.list).map_err(|e| failure(&e))?;
        }
        Ok(digest)
    })?;
    if quiet { print(&format!("{digest}\n")) } else { Ok(0) }
}

fn remove(inside: &Inside, list: &str, wanted: &[String]) -> Result<u8, Failure> {
    let (images, _lease) = open(inside, Events::none())?;
    let runtime = runtime(Budget::detect())?;
    let mut digests = Vec::new();
    for image in wanted {
        digests.push(runtime.block_on(images.entry_of(list, image)).map_err(|e| failure(&e))?);
    }
    let take = |index: &mut _| {
        digests.iter().for_each(|digest| remove_member(index, digest));
        Ok(())
    };
    images.change_list(list, take).map_err(|e| failure(&e))?;
    print(&digests.iter().map(|digest| format!("{list}: {digest}\n")).collect::<String>())
}

fn rm(inside: &Inside, lists: &[String]) -> Result<u8, Failure> {
    let (images, _lease) = open(inside, Events::none())?;
    // All or nothing: an image is not deleted by mistake.
    for name in lists {
        images.list(name).map_err(|e| failure(&e))?;
    }
    for name in lists {
        for gone in images.remove_list(name).map_err(|e| failure(&e))? {
            print(&format!("untagged: {gone}\n"))?;
        }
    }
    Ok(0)
}

fn exists(inside: &Inside, list: &str) -> Result<u8, Failure> {
    let (images, _lease) = open(inside, Events::none())?;
    match images.list(list) {
        Ok(_) => Ok(0),
        Err(ImageError::NotFound { .. } | ImageError::Usage(_)) => Ok(1),
        Err(error) => Err(failure(&error)),
    }
}

fn amendment(args: &EntryArgs) -> Result<Amendment, Failure> {
    Ok(Amendment {
        os: args.os.clone(),
        architecture: args.arch.clone(),
        variant: args.variant.clone(),
        os_version: args.os_version.clone(),
        os_features: args.os_features.clone(),
        annotations: annotations(&args.annotation)?,
    })
}

fn annotations(given: &[String]) -> Result<BTreeMap<String, String>, Failure> {
    let pair = |text: &String| match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(usage(format!("--annotation: expected KEY=VALUE, got \"{text}\""))),
    };
    given.iter().map(pair).collect()
}
