//! Commands on images of the store: images, pull, push, tag, rm, save, load, inspect, history (SPEC B8.15).

use std::io::{IsTerminal as _, Write as _};
use std::path::Path;

use serde_json::{Value, json};

use super::args::{History, Images as List, Inspect, Load, ProgressArgs, Pull, Push, Save, Unpack};
use super::errors::Failure;
use super::worker::{Inside, store_failure};
use super::{deliver, print, settings, table};
use crate::base::budget::Budget;
use crate::base::values::boolean;
use crate::base::{Events, FaultKind};
use crate::dockerfile::pattern::matches;
use crate::images::{Format, ImageError, Images};
use crate::oci::{Platform, PlatformError, Reference};
use crate::source::ImageSource;
use crate::store::Lease;
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
    let client = inside.client(events.clone())?;
    let source = ImageSource::new(store.clone(), client.clone(), events.clone());
    Ok((Images::new(store, client, source, events), lease))
}

pub(super) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(Budget::detect().cpus.clamp(2, 4))
        .enable_all()
        .build()
        .map_err(|e| Failure::new(FaultKind::Internal, format!("cannot start threads: {e}")))
}

/// Runs work with progress, until it is done or somebody interrupts it; and whether only digests are to be said.
pub(super) fn shown<T>(
    inside: &Inside,
    args: &ProgressArgs,
    work: impl AsyncFnOnce(Events) -> Result<T, Failure>,
) -> Result<(T, bool), Failure> {
    let (mode, quiet) = settings::progress(args.kind.as_deref(), args.quiet, &inside.config)?;
    let runtime = runtime()?;
    let (progress, events) = Progress::start(mode, std::io::stderr(), settings::style()?);
    let result = runtime.block_on(async {
        tokio::select! {
            result = work(events) => result,
            () = super::build::interrupted() => Err(Failure::new(FaultKind::Interrupted, "canceled")),
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

/// Which of the images `rbuild images` lists, by patterns of a name or a name with its tag, as docker has them.
struct Wanted<'a> {
    patterns: Vec<&'a str>,
    unnamed: bool,
}

impl<'a> Wanted<'a> {
    fn new(args: &'a List) -> Result<Self, Failure> {
        let mut wanted = Self { patterns: args.pattern.as_deref().into_iter().collect(), unnamed: false };
        for filter in &args.filter {
            let bad = |rule: &str| usage(format!("--filter: invalid filter \"{filter}\": {rule}"));
            match filter.split_once('=') {
                Some(("reference", text)) => wanted.patterns.push(text),
                Some(("dangling", value)) => {
                    wanted.unnamed |= boolean(value).ok_or_else(|| bad("expected true or false"))?;
                }
                _ => return Err(bad("expected reference=PATTERN or dangling=BOOL")),
            }
        }
        for pattern in &wanted.patterns {
            matches(pattern.as_bytes(), b"").map_err(|e| usage(format!("invalid pattern \"{pattern}\": {e}")))?;
        }
        Ok(wanted)
    }

    fn has(&self, name: &str, tag: &str) -> bool {
        let full = format!("{name}:{tag}");
        let is = |pattern: &&str, text: &str| matches(pattern.as_bytes(), text.as_bytes()).unwrap_or(false);
        // Whatever the store lists has a name.
        !self.unnamed && self.patterns.iter().all(|pattern| is(pattern, name) || is(pattern, &full))
    }
}

pub(super) fn images(inside: &Inside, args: &List) -> Result<u8, Failure> {
    let wanted = Wanted::new(args)?;
    let (images, _lease) = open(inside, Events::none())?;
    let records = inside.store(Events::none())?.images().map_err(|e| store_failure(&e))?;
    let (mut cells, mut rows, mut digests) = (Vec::new(), Vec::<Value>::new(), String::new());
    for record in &records {
        let (name, tag) = match record.name.parse::<Reference>() {
            Ok(r) => {
                let tag = r.tag.clone().unwrap_or_default();
                (Reference { tag: None, digest: None, ..r }.familiar(), tag)
            }
            Err(_) => (record.name.clone(), String::new()),
        };
        if !wanted.has(&name, &tag) {
            continue;
        }
        let digest = &record.descriptor.digest;
        let (created, size, platforms) = images.summary(&record.descriptor).unwrap_or_default();
        let made = created.unwrap_or(record.created);
        let created = table::time(made);
        let since = jiff::Timestamp::try_from(made).map_or_else(|_| String::new(), table::ago);
        let platforms: Vec<String> = platforms.iter().map(ToString::to_string).collect();
        let shown = if args.no_trunc { digest.to_string() } else { digest.short().to_owned() };
        cells.push(vec![name.clone(), tag.clone(), shown, platforms.join(","), created.clone(), table::size(size)]);
        rows.push(json!({
            "Repository": name, "Tag": tag, "Name": record.name, "Digest": digest, "Platforms": platforms,
            "CreatedAt": created, "CreatedSince": since, "Size": size, "ID": digest.short(),
            "MediaType": record.descriptor.media_type,
        }));
        digests.push_str(&format!("{digest}\n"));
    }
    if args.quiet {
        return print(&digests);
    }
    print(&table::rows(&args.format, &["REPOSITORY", "TAG", "DIGEST", "PLATFORMS", "CREATED", "SIZE"], cells, &rows)?)
}

pub(super) fn pull(inside: &Inside, args: &Pull) -> Result<u8, Failure> {
    let name = reference(&args.image)?;
    let platform = if args.all_platforms { None } else { Some(platform(args.platform.as_ref())?) };
    transfer(inside, &args.progress, async |images| Ok(images.pull(&name, platform.as_ref()).await?.digest))
}

pub(super) fn push(inside: &Inside, args: &Push) -> Result<u8, Failure> {
    let target = reference(args.target.as_ref().unwrap_or(&args.image))?;
    if target.digest.is_some() {
        return Err(usage(format!("cannot push to {target}: a digest is no name")).hint("give HOST/NAME:TAG"));
    }
    transfer(inside, &args.progress, async |images| images.push(&args.image, &target).await)
}

pub(super) fn tag(inside: &Inside, image: &str, target: &str) -> Result<u8, Failure> {
    let name = reference(target)?;
    if name.digest.is_some() {
        return Err(usage(format!("invalid image name \"{target}\": a tag must not contain a digest")));
    }
    let (images, _lease) = open(inside, Events::none())?;
    images.tag(image, &name).map_err(|e| failure(&e))?;
    Ok(0)
}

pub(super) fn rm(inside: &Inside, names: &[String], force: bool) -> Result<u8, Failure> {
    let (images, _lease) = open(inside, Events::none())?;
    for name in names {
        match images.remove(name) {
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
    deliver::check(args.output.as_deref())?;
    let format = if args.format == "oci" { Format::Oci } else { Format::Docker };
    let (images, _lease) = open(inside, Events::none())?;
    let runtime = runtime()?;
    runtime.block_on(images.make_complete(&args.images)).map_err(|e| failure(&e))?;
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
    let runtime = runtime()?;
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
    let cells = lines
        .iter()
        .map(|l| vec![l.created_at.clone(), shorten(&l.created_by), table::size(l.size), l.comment.clone()])
        .collect();
    let rows: Vec<Value> = lines.iter().map(|l| serde_json::to_value(l).unwrap_or_default()).collect();
    print(&table::rows(&args.format, &["CREATED", "CREATED BY", "SIZE", "COMMENT"], cells, &rows)?)
}
