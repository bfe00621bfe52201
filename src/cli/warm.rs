//! Directories that builds look into before they ask a registry: filled by `rbuild warm` (SPEC D1.48), named by `--pull-from` (SPEC D1.20).

use indexmap::IndexMap;

use super::args::Warm;
use super::errors::Failure;
use super::image_commands::{failure, platform, reference, shown, usage};
use super::print;
use super::worker::Inside;
use crate::base::FaultKind;
use crate::base::duration::parse_span;
use crate::base::values::csv_record;
use crate::base::wording::did_you_mean;
use crate::frontend::bases;
use crate::images::remote::RemoteImages;
use crate::oci::{Platform, Reference};
use crate::source::Nearby;

/// Reads `--pull-from DIR[,max-age=DURATION]`.
///
/// # Errors
/// Names the value and the rule.
pub(super) fn nearby(texts: &[String]) -> Result<Vec<Nearby>, Failure> {
    let one = |text: &String| {
        let fail = |why: &dyn std::fmt::Display| usage(format!("--pull-from {text}: {why}"));
        let mut fields = csv_record(text).map_err(|e| fail(&e))?.into_iter();
        let dir = fields.next().filter(|dir| !dir.is_empty()).ok_or_else(|| fail(&"it names no directory"))?;
        let path = std::path::absolute(&dir).map_err(|e| fail(&e))?;
        let mut max_age = None;
        for field in fields {
            match field.split_once('=') {
                Some(("max-age", age)) => max_age = Some(parse_span(age).map_err(|e| fail(&e))?),
                _ => {
                    let key = field.split('=').next().unwrap_or_default();
                    let near = did_you_mean(key, ["max-age"]);
                    return Err(fail(&format!("unknown attribute {key}{near}; expected DIR[,max-age=DURATION]")));
                }
            }
        }
        Ok(Nearby { path, max_age })
    };
    texts.iter().filter(|text| !text.is_empty()).map(one).collect()
}

pub(super) fn warm(inside: &Inside, args: &Warm) -> Result<u8, Failure> {
    let wanted = wanted(args)?;
    if wanted.is_empty() {
        return Err(usage("there is no image to fetch").hint("name some, or a Dockerfile with --file"));
    }
    let (digests, quiet) = shown(inside, &args.progress, async |events| {
        let images = RemoteImages::new(inside.client(events.clone())?, events.clone());
        let (mut digests, mut failed) = (Vec::new(), None);
        for (name, platform) in &wanted {
            match images.warm(&args.dir, name, platform, args.force).await {
                Ok(descriptor) => digests.push(descriptor.digest),
                Err(error) if args.keep_going => {
                    events.notice(format!("warm {name} {platform}"), format!("passing over {name}: {error}"));
                    failed = Some(failure(&error));
                }
                Err(error) => return Err(failure(&error)),
            }
        }
        match failed {
            Some(failed) if digests.is_empty() => Err(failed),
            _ => Ok(digests),
        }
    })?;
    if quiet { print(&digests.iter().map(|digest| format!("{digest}\n")).collect::<String>()) } else { Ok(0) }
}

/// Images with the platforms that they are wanted for, each once.
fn wanted(args: &Warm) -> Result<Vec<(Reference, Platform)>, Failure> {
    let platforms = match args.platform.as_slice() {
        [] => vec![platform(None)?],
        some => some.iter().map(|text| platform(Some(text))).collect::<Result<_, _>>()?,
    };
    let mut build_args = IndexMap::new();
    for text in &args.build_arg {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (text.as_str(), std::env::var(text).ok()),
        };
        if name.is_empty() {
            return Err(usage(format!("--build-arg: invalid key-value pair \"{text}\": empty key")));
        }
        build_args.extend(value.map(|value| (name.to_owned(), value)));
    }
    let mut all = Vec::new();
    for platform in &platforms {
        for name in &args.images {
            all.push((reference(name)?, platform.clone()));
        }
        for file in &args.file {
            let shown = file.display().to_string();
            let text =
                std::fs::read(file).map_err(|e| Failure::new(FaultKind::Input, format!("cannot read {shown}: {e}")))?;
            let found = bases(&shown, &text, &build_args, platform);
            all.extend(found.map_err(|e| Failure::of_front_end(&e, &shown, &text))?);
        }
    }
    let mut seen = std::collections::HashSet::new();
    all.retain(|(name, platform)| seen.insert((name.to_string(), platform.to_string())));
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    // SPEC D1.20
    #[test]
    fn d1_20_directories_near_by() {
        let read = |text: &str| nearby(&[text.to_owned()]);
        let found = read("/Cache,max-age=2h").expect("valid").pop().expect("one");
        assert_eq!((found.path.to_str(), found.max_age.map(|age| age.as_secs())), (Some("/Cache"), Some(7200)));
        assert!(read("cache").expect("valid")[0].path.is_absolute() && read("").expect("none").is_empty());
        for (text, rule) in [
            (",max-age=1h", "names no directory"),
            ("/c,max-age=x", "invalid duration"),
            ("/c,max-aeg=1h", "did you mean max-age?"),
        ] {
            assert!(read(text).is_err_and(|e| e.message.contains(rule)), "{text}");
        }
    }
}
