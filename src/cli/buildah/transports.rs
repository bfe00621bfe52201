//! Where results go: names, and places of other kinds that stand before a colon (SPEC D3.35).

use super::flags::Build;
use crate::cli::errors::Failure;
use crate::cli::foreign::Variables;
use crate::cli::grammar::{csv_field, did_you_mean};
use crate::cli::settings::usage;
use crate::cli::translation::Translation;
use crate::oci::Reference;

const KNOWN: [&str; 8] =
    ["docker", "oci", "oci-archive", "docker-archive", "docker-daemon", "containers-storage", "dir", "sif"];

/// A place for an image.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place<'a> {
    /// A name in the store.
    Name(&'a str),
    /// A registry.
    Registry(&'a str),
    /// A layout, in a directory or an archive, and the image's name in it.
    Oci { path: &'a str, tar: bool, name: Option<&'a str> },
    /// A docker archive.
    Docker { path: &'a str, name: Option<&'a str> },
    /// Docker itself.
    Daemon(&'a str),
}

pub(super) fn place(text: &str) -> Result<Place<'_>, Failure> {
    let (transport, rest) = text.split_once(':').unwrap_or((text, ""));
    let file = || match rest.split_once(':') {
        _ if rest.is_empty() => Err(usage(format!("{text}: there is no path"))),
        Some((path, name)) => Ok((path, Some(name).filter(|name| !name.is_empty()))),
        None => Ok((rest, None)),
    };
    Ok(match transport {
        "docker" if rest.starts_with("//") => Place::Registry(&rest[2..]),
        "oci" | "oci-archive" => {
            let (path, name) = file()?;
            Place::Oci { path, tar: transport == "oci-archive", name }
        }
        "docker-archive" => {
            let (path, name) = file()?;
            Place::Docker { path, name }
        }
        "docker-daemon" => Place::Daemon(rest),
        "containers-storage" => Place::Name(rest.rsplit_once(']').map_or(rest, |(_, name)| name)),
        "dir" | "sif" => {
            return Err(usage(format!("{text}: images are not written in this form"))
                .hint("expected oci:DIR, oci-archive:FILE, docker-archive:FILE or docker://NAME"));
        }
        _ if rest.starts_with("//") => {
            return Err(usage(format!("{text}: unknown transport {transport}{}", did_you_mean(transport, KNOWN))));
        }
        _ => Place::Name(text),
    })
}

/// The names by which the store has an image: buildah puts localhost/ in front of a short one, and finds it under both.
pub(super) fn names(text: &str) -> Result<Vec<String>, Failure> {
    let reference: Reference = text.parse().map_err(|e| usage(format!("--tag {text}: {e}")))?;
    let short = reference.domain == "docker.io" && !text.contains("docker.io/") && !text.contains('/');
    let local = short.then(|| format!("localhost/{text}"));
    Ok(std::iter::once(text.to_owned()).chain(local).collect())
}

/// `--output` values and names of a build.
pub(super) fn outputs(given: &Build, env: &Variables<'_>, out: &mut Translation) -> Result<(), Failure> {
    let image = &given.image;
    let (mut form, mut docker) = (String::new(), "");
    match image.format.clone().or_else(|| env("BUILDAH_FORMAT")).as_deref() {
        None | Some("oci") => {}
        Some("docker") => docker = ",oci-mediatypes=false",
        Some(other) => {
            return Err(usage(format!("--format: unknown format \"{other}\"; expected oci or docker")));
        }
    }
    let codec = image.compression_format.as_deref().or(image.compression_level.map(|_| "gzip"));
    if let Some(codec) = codec {
        form += &format!(",compression={codec}");
    }
    if let Some(level) = image.compression_level {
        form += &format!(",compression-level={level}");
    }
    if image.force_compression {
        form += ",force-compression=true";
    }
    if image.created_annotation == Some(true) {
        form += ",created-annotation=true";
    }
    let mut times = String::new();
    if let Some(seconds) = image.timestamp {
        times = format!(",source-date-epoch={seconds},rewrite-timestamp=all");
    } else if image.rewrite_timestamp {
        times = ",rewrite-timestamp=true".into();
    }
    // Archives have layers as they are, if so wanted.
    let plain = if image.disable_compression && codec.is_none() { ",compression=uncompressed" } else { "" };
    let mut stored = Vec::new();
    let mut elsewhere = false;
    let mut joined = Vec::new();
    let tags = given.tag.iter().map(|text| (text, false));
    for (text, joins) in tags.chain(image.manifest.iter().map(|text| (text, true))) {
        let named = |name: Option<&str>| match name {
            // A layout names an image by its tag alone.
            Some(name) if name.contains(['/', ':']) => format!(",{}", csv_field("name", name)),
            Some(tag) => format!(",{}", csv_field("name", &format!("image:{tag}"))),
            None => String::new(),
        };
        let output = match place(text)? {
            Place::Name(name) => {
                let list = if joins { &mut joined } else { &mut stored };
                list.extend(names(name)?);
                continue;
            }
            Place::Registry(name) => format!("type=image,push=true,{}{docker}{form}{times}", csv_field("name", name)),
            Place::Oci { path, tar, name } => {
                format!("type=oci,tar={tar},{}{}{form}{plain}{times}", csv_field("dest", path), named(name))
            }
            Place::Docker { path, name } => {
                let name = name.map(|name| format!(",{}", csv_field("name", name))).unwrap_or_default();
                format!("type=docker,{}{name}{times}", csv_field("dest", path))
            }
            Place::Daemon(name) => format!("type=docker,{}{times}", csv_field("name", name)),
        };
        elsewhere = true;
        out.add("output", &output);
    }
    // The list has both names and stays one.
    if !joined.is_empty() {
        elsewhere = true;
        let names = csv_field("name", &joined.join(","));
        out.add("output", &format!("type=image,append=true,{names}{docker}{form}{times}"));
    }
    // Without a place it is in the store, where its ID finds it.
    if !stored.is_empty() || (!elsewhere && given.same.output.is_empty()) {
        let names = stored.join(",");
        let names = match names.as_str() {
            "" => "dangling-name-prefix=localhost/none".to_owned(),
            names => csv_field("name", names),
        };
        out.add("output", &format!("type=image,{names}{docker}{form}{times}"));
    }
    out.switch("print-id", given.same.output.is_empty());
    Ok(())
}
