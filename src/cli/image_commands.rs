//! Commands on images of the store: images, pull, push, tag, rm, save, load, inspect, history (SPEC B8.15).

use std::io::{IsTerminal as _, Write as _};
use std::path::Path;

use serde_json::{Value, json};

use super::args::{History, Images as List, Inspect, Load, ProgressArgs, Pull, Push, Save, Unpack};
use super::errors::Failure;
use super::image_filters::ImageFilter;
use super::runtime::{interrupted, runtime};
use super::worker::{Inside, store_failure};
use super::{deliver, digest_files, print, settings, table};
use crate::base::budget::Budget;
use crate::base::{Events, FaultKind};
use crate::images::{Format, HistoryLine, ImageError, Images, Loaded};
use crate::oci::{Descriptor, Platform, PlatformError, Reference};
use crate::source::ImageSource;
use crate::store::{Lease, Store};
use crate::ui::Progress;

pub(super) fn usage(message: impl Into<String>) -> Failure {
    Failure::new(FaultKind::Usage, message)
}

pub(super) fn failure(error: &ImageError) -> Failure {
    let failure = Failure::new(error.kind(), error.to_string());
    match error.hint() {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

pub(super) fn reference(text: &str) -> Result<Reference, Failure> {
    text.parse().map_err(|e| usage(format!("invalid image name \"{text}\": {e}")))
}

pub(super) fn platform(text: Option<&String>) -> Result<Platform, Failure> {
    match text.map(String::as_str) {
        None | Some("local") => Ok(Platform::host()),
        Some(text) => text.parse().map_err(|e| usage(format!("--platform: {e}")).hint(PlatformError::HINT)),
    }
}

/// Images of the store, with a lease that keeps what is looked at.
pub(super) fn open(inside: &Inside, events: Events) -> Result<(Images, Lease), Failure> {
    let store = inside.store(events.clone())?;
    let lease = store.lease().map_err(|e| store_failure(&e))?;
    Ok((over(inside, store, events)?, lease))
}

/// Images of a store that is open, whose transfers are told to `events`.
pub(super) fn over(inside: &Inside, store: Store, events: Events) -> Result<Images, Failure> {
    let client = inside.client(events.clone())?;
    let source = ImageSource::new(store.clone(), client.clone(), events.clone());
    Ok(Images::new(store, client, source, events))
}

/// Runs work with progress, until it is done or somebody interrupts it; and whether only digests are to be said.
pub(super) fn shown<T>(
    inside: &Inside,
    args: &ProgressArgs,
    work: impl AsyncFnOnce(Events) -> Result<T, Failure>,
) -> Result<(T, bool), Failure> {
    let (mode, quiet, style) = settings::shown(args, &inside.config)?;
    let runtime = runtime(Budget::detect())?;
    let (progress, events) = Progress::start(mode, std::io::stderr(), style);
    let result = runtime.block_on(async {
        tokio::select! {
            result = work(events) => result,
            () = interrupted() => Err(Failure::new(FaultKind::Interrupted, "canceled")),
        }
    });
    progress.finish(None);
    runtime.shutdown_background();
    Ok((result?, quiet))
}

/// Runs a transfer with progress; prints the digest it gives where only that is wanted.
fn transfer(
    inside: &Inside,
    args: &ProgressArgs,
    work: impl AsyncFnOnce(&Images) -> Result<crate::base::Digest, ImageError>,
) -> Result<u8, Failure> {
    let (digest, quiet) = shown(inside, args, async |events| {
        let (images, _lease) = open(inside, events)?;
        work(&images).await.map_err(|e| failure(&e))
    })?;
    if quiet { print(&format!("{digest}\n")) } else { Ok(0) }
}

pub(super) fn images(inside: &Inside, args: &List) -> Result<u8, Failure> {
    let wanted: Vec<ImageFilter> = args.filter.iter().map(|text| ImageFilter::parse(text)).collect::<Result<_, _>>()?;
    let pattern = args.pattern.as_deref().map(ImageFilter::reference).transpose()?;
    let (images, _lease) = open(inside, Events::none())?;
    let wanted = wanted.into_iter().chain(pattern).map(|filter| filter.looked_up(&images));
    let wanted: Vec<ImageFilter> = wanted.collect::<Result<_, _>>()?;
    let records = inside.store(Events::none())?.images().map_err(|e| store_failure(&e))?;
    let (mut cells, mut rows, mut digests) = (Vec::new(), Vec::<Value>::new(), Vec::new());
    for record in &records {
        let (name, tag) = match record.name.parse::<Reference>() {
            Ok(r) => {
                let tag = r.tag.clone().unwrap_or_default();
                (Reference { tag: None, digest: None, ..r }.familiar(), tag)
            }
            Err(_) => (record.name.clone(), String::new()),
        };
        let digest = &record.descriptor.digest;
        let summary = images.summary(&record.descriptor).unwrap_or_default();
        let made = summary.created.unwrap_or(record.created);
        if !wanted.iter().all(|filter| filter.has(&name, &tag, made, &summary.labels)) {
            continue;
        }
        let since = jiff::Timestamp::try_from(made).map_or_else(|_| String::new(), table::ago);
        let platforms: Vec<String> = summary.platforms.iter().map(ToString::to_string).collect();
        let shown = if args.no_trunc { digest.to_string() } else { digest.short().to_owned() };
        cells.push(vec![
            name.clone(),
            tag.clone(),
            shown,
            platforms.join(","),
            since.clone(),
            table::size(summary.size),
        ]);
        rows.push(json!({
            "Repository": name, "Tag": tag, "Name": record.name, "Digest": digest, "Platforms": platforms,
            "CreatedAt": table::time(made), "CreatedSince": since, "Size": summary.size, "ID": digest.short(),
            "MediaType": record.descriptor.media_type, "Labels": summary.labels,
        }));
        // What has several names is one image.
        if !digests.contains(digest) {
            digests.push(digest.clone());
        }
    }
    if args.quiet {
        return print(&digests.iter().map(|digest| format!("{digest}\n")).collect::<String>());
    }
    print(&table::rows(&args.format, &["REPOSITORY", "TAG", "DIGEST", "PLATFORMS", "CREATED", "SIZE"], cells, &rows)?)
}

pub(super) fn pull(inside: &Inside, args: &Pull) -> Result<u8, Failure> {
    let name = reference(&args.image)?;
    let platform = if args.all_platforms { None } else { Some(platform(args.platform.as_ref())?) };
    transfer(inside, &args.progress, async |images| Ok(images.pull(&name, platform.as_ref()).await?.digest))
}

pub(super) fn push(inside: &Inside, args: &Push) -> Result<u8, Failure> {
    let own = (args.targets.is_empty() && !args.archive).then_some(&args.image);
    let targets: Vec<Reference> =
        args.targets.iter().chain(own).map(|name| reference(name)).collect::<Result<_, _>>()?;
    if targets.is_empty() {
        return Err(usage(format!("--archive: it is not said where to push {}", args.image)).hint("give HOST/NAME:TAG"));
    }
    if let Some(target) = targets.iter().find(|target| target.digest.is_some()) {
        return Err(usage(format!("cannot push to {target}: a digest is no name")).hint("give HOST/NAME:TAG"));
    }
    let (digest, quiet) = shown(inside, &args.progress, async |events| {
        let (images, _lease) = open(inside, events.clone())?;
        let image = if args.archive {
            only(Path::new(&args.image), images.read(Path::new(&args.image)).map_err(|e| failure(&e))?)?
        } else {
            images.find(&args.image).map_err(|e| failure(&e))?
        };
        if let Some(kind) = &args.format {
            check_kind(&args.image, &image, kind)?;
        }
        for target in &targets {
            match images.push_image(&image, target).await {
                Err(ImageError::Registry(error))
                    if args.push_ignore_immutable_tag_errors && error.is_immutable_tag() =>
                {
                    events.notice("immutable-tag", format!("{target} is immutable and stays as it is"));
                }
                done => drop(done.map_err(|e| failure(&e))?),
            }
        }
        let client = inside.client(Events::none())?;
        digest_files::write(&args.digests, &image.digest, &targets, &client).await?;
        if args.rm {
            images.remove(&args.image, true).map_err(|e| failure(&e))?;
        }
        Ok(image.digest)
    })?;
    if quiet { print(&format!("{digest}\n")) } else { Ok(0) }
}

/// Whether an image is of the kind that it is to be of where it goes.
fn check_kind(name: &str, image: &Descriptor, wanted: &str) -> Result<(), Failure> {
    let is = if image.media_type.starts_with("application/vnd.docker.") { "v2s2" } else { "oci" };
    if is == wanted {
        return Ok(());
    }
    let built = if wanted == "oci" { "true" } else { "false" };
    Err(usage(format!("--format {wanted}: {name} is {is}, and images are sent as they are"))
        .hint(format!("build it with `-o type=image,name=NAME,oci-mediatypes={built}`")))
}

/// The one image of an archive.
fn only(archive: &Path, found: Vec<Loaded>) -> Result<Descriptor, Failure> {
    match <[Loaded; 1]>::try_from(found) {
        Ok([image]) => Ok(image.descriptor),
        Err(found) => Err(usage(format!("{} holds {} images, and one is pushed", archive.display(), found.len()))
            .hint("`rbuild load` reads all of them; push each by its name then")),
    }
}

pub(super) fn tag(inside: &Inside, image: &str, targets: &[String]) -> Result<u8, Failure> {
    let mut names = Vec::new();
    for target in targets {
        let name = reference(target)?;
        if name.digest.is_some() {
            return Err(usage(format!("invalid image name \"{target}\": a tag must not contain a digest")));
        }
        names.push(name);
    }
    let (images, _lease) = open(inside, Events::none())?;
    for name in &names {
        images.tag(image, name).map_err(|e| failure(&e))?;
    }
    Ok(0)
}

pub(super) fn rm(inside: &Inside, names: &[String], all: bool, force: bool) -> Result<u8, Failure> {
    let (images, _lease) = open(inside, Events::none())?;
    let every;
    let names = match all {
        true => {
            let records = inside.store(Events::none())?.images().map_err(|e| store_failure(&e))?;
            every = records.into_iter().map(|record| record.name).collect::<Vec<_>>();
            &every
        }
        false => names,
    };
    // All or nothing: a misspelt name is seen before others are gone.
    for name in names.iter().filter(|_| !force) {
        images.find(name).map_err(|e| failure(&e))?;
    }
    for name in names {
        match images.remove(name, force) {
            Err(error @ ImageError::NotFound { .. }) if force => drop(writeln!(std::io::stderr(), "notice: {error}")),
            gone => gone
                .map_err(|e| failure(&e))?
                .iter()
                .try_for_each(|gone| print(&format!("untagged: {gone}\n")).map(drop))?,
        }
    }
    Ok(0)
}

pub(super) fn save(inside: &Inside, args: &Save) -> Result<u8, Failure> {
    let directory = args.format == "oci-dir";
    if !directory {
        deliver::check(args.output.as_deref())?;
    }
    let (images, _lease) = open(inside, Events::none())?;
    let runtime = runtime(Budget::detect())?;
    runtime.block_on(images.make_complete(&args.images)).map_err(|e| failure(&e))?;
    if directory {
        let Some(dir) = &args.output else {
            return Err(usage("--format oci-dir: it is not said where").hint("give a directory with -o DIR"));
        };
        images.save_layout(&args.images, dir).map_err(|e| failure(&e))?;
        return Ok(0);
    }
    let format = if args.format == "oci" { Format::Oci } else { Format::Docker };
    deliver::archive(args.output.as_deref(), |mut out| {
        images.save(&args.images, format, &mut out).map_err(|e| failure(&e))
    })
}

pub(super) fn load(inside: &Inside, args: &Load) -> Result<u8, Failure> {
    let name = args.tag.as_deref().map(reference).transpose()?;
    let (images, _lease) = open(inside, Events::none())?;
    let loaded = match args.input.as_deref().filter(|path| *path != Path::new("-")) {
        Some(path) => images.load(path),
        None if std::io::stdin().is_terminal() => {
            return Err(usage("there is no archive").hint("give one with -i FILE, or on standard input"));
        }
        None => images.load_stream(Path::new("standard input"), std::io::stdin()),
    };
    for image in loaded.map_err(|e| failure(&e))? {
        let mut names = image.names;
        if let (Some(name), true) = (&name, names.is_empty()) {
            images.name(&image.descriptor, name).map_err(|e| failure(&e))?;
            names.push(name.clone());
        }
        for name in &names {
            let said = if args.quiet { "" } else { "Loaded image: " };
            print(&format!("{said}{}\n", name.familiar()))?;
        }
        if names.is_empty() {
            return Err(usage(format!(
                "the image {} has no name, so it cannot be kept",
                image.descriptor.digest.short()
            ))
            .hint("give one with --tag NAME"));
        }
    }
    Ok(0)
}

pub(super) fn unpack(inside: &Inside, args: &Unpack) -> Result<u8, Failure> {
    let platform = platform(args.platform.as_ref())?;
    let (images, _lease) = open(inside, Events::none())?;
    let runtime = runtime(Budget::detect())?;
    runtime.block_on(images.unpack(&args.image, &platform, &args.output)).map_err(|e| failure(&e))?;
    Ok(0)
}

pub(super) fn inspect(inside: &Inside, args: &Inspect) -> Result<u8, Failure> {
    let (images, _lease) = open(inside, Events::none())?;
    let mut all = Vec::new();
    for name in &args.images {
        for one in images.inspect(name).map_err(|e| failure(&e))? {
            all.push(serde_json::to_value(one).map_err(|e| Failure::new(FaultKind::Internal, e.to_string()))?);
        }
    }
    if args.format == "json" {
        return print(&format!("{}\n", serde_json::to_string_pretty(&all).unwrap_or_default()));
    }
    print(&table::rows(&args.format, &[], Vec::new(), &all)?)
}

pub(super) fn history(inside: &Inside, args: &History) -> Result<u8, Failure> {
    let (images, _lease) = open(inside, Events::none())?;
    let lines = images.history(&args.image, &platform(args.platform.as_ref())?).map_err(|e| failure(&e))?;
    let shorten = |text: &str| -> String {
        let one_line = text.split_whitespace().collect::<Vec<_>>().join(" ");
        match one_line.char_indices().nth(60) {
            Some((at, _)) if !args.no_trunc => format!("{}…", &one_line[..at]),
            _ => one_line,
        }
    };
    let since = |text: &str| text.parse::<jiff::Timestamp>().map_or_else(|_| text.to_owned(), table::ago);
    let cells = lines
        .iter()
        .map(|l| vec![since(&l.created_at), shorten(&l.created_by), table::size(l.size), l.comment.clone()])
        .collect();
    let row = |line: &HistoryLine| {
        let mut row = serde_json::to_value(line).unwrap_or_default();
        row["CreatedSince"] = json!(since(&line.created_at));
        row
    };
    let rows: Vec<Value> = lines.iter().map(row).collect();
    print(&table::rows(&args.format, &["CREATED", "CREATED BY", "SIZE", "COMMENT"], cells, &rows)?)
}
