//! `rbuild images --filter`: as docker's (SPEC B8.15, B8.16).

use std::collections::BTreeMap;
use std::time::SystemTime;

use super::errors::Failure;
use super::image_commands::{failure, usage};
use crate::base::duration::parse_span;
use crate::base::values::boolean;
use crate::base::wording::did_you_mean;
use crate::dockerfile::pattern::matches;
use crate::images::Images;

/// What can be asked of an image.
const KEYS: [&str; 6] = ["reference", "dangling", "label", "before", "since", "until"];

/// What an image of a list has to be.
#[derive(Debug)]
pub(super) enum ImageFilter {
    /// A name, or a name with its tag, with wildcards.
    Reference(String),
    /// Without a name; nothing that the store lists is.
    Unnamed(bool),
    /// A label, perhaps with a value.
    Label(String, Option<String>),
    /// Older or newer than another image.
    Beside { image: String, older: bool },
    /// Made before or after a moment.
    Made { at: SystemTime, before: bool },
}

impl ImageFilter {
    /// # Errors
    /// Names the filter and what is wrong with it.
    pub(super) fn parse(text: &str) -> Result<Self, Failure> {
        let bad = |rule: String| usage(format!("--filter: invalid filter \"{text}\": {rule}"));
        let Some((key, value)) = text.split_once('=') else {
            return Err(bad(format!("expected KEY=VALUE, the key being one of {}", KEYS.join(", "))));
        };
        Ok(match key {
            "reference" => Self::reference(value)?,
            "dangling" => Self::Unnamed(boolean(value).ok_or_else(|| bad("expected true or false".into()))?),
            "label" => match value.split_once('=') {
                Some((name, value)) => Self::Label(name.to_owned(), Some(value.to_owned())),
                None => Self::Label(value.to_owned(), None),
            },
            "before" | "since" => Self::Beside { image: value.to_owned(), older: key == "before" },
            "until" => Self::Made { at: moment(value).map_err(bad)?, before: true },
            other => {
                let near = did_you_mean(other, KEYS);
                return Err(bad(format!("unknown key \"{other}\"{near}, expected one of {}", KEYS.join(", "))));
            }
        })
    }

    /// # Errors
    /// If the pattern is none.
    pub(super) fn reference(pattern: &str) -> Result<Self, Failure> {
        matches(pattern.as_bytes(), b"").map_err(|e| usage(format!("invalid pattern \"{pattern}\": {e}")))?;
        Ok(Self::Reference(pattern.to_owned()))
    }

    /// The same with the times of the images that it names.
    ///
    /// # Errors
    /// If there is no such image, or it does not say when it was made.
    pub(super) fn looked_up(self, images: &Images) -> Result<Self, Failure> {
        let Self::Beside { image, older } = self else { return Ok(self) };
        let at = images.created(&image).map_err(|e| failure(&e))?;
        let at = at.ok_or_else(|| usage(format!("--filter: the image {image} does not say when it was made")))?;
        Ok(Self::Made { at, before: older })
    }

    pub(super) fn has(&self, name: &str, tag: &str, made: SystemTime, labels: &BTreeMap<String, String>) -> bool {
        let is = |pattern: &str, text: &str| matches(pattern.as_bytes(), text.as_bytes()).unwrap_or(false);
        match self {
            Self::Reference(pattern) => is(pattern, name) || is(pattern, &format!("{name}:{tag}")),
            Self::Unnamed(unnamed) => !unnamed,
            Self::Label(label, value) => {
                labels.get(label).is_some_and(|found| value.as_ref().is_none_or(|value| value == found))
            }
            Self::Made { at, before: true } => made < *at,
            Self::Made { at, before: false } => made > *at,
            Self::Beside { .. } => false,
        }
    }
}

/// So long ago, or a time.
fn moment(text: &str) -> Result<SystemTime, String> {
    let midnight = |day: jiff::civil::Date| day.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|at| at.timestamp());
    if let Ok(span) = parse_span(text) {
        return SystemTime::now().checked_sub(span).ok_or_else(|| "that is too long ago".to_owned());
    }
    let at = text.parse::<jiff::Timestamp>().ok().or_else(|| text.parse().ok().and_then(midnight));
    at.map(SystemTime::from)
        .ok_or_else(|| "expected a duration such as 24h, or a time such as 2026-01-02T15:04:05Z".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has(filter: &str) -> bool {
        let labels = BTreeMap::from([("team".to_owned(), "a".to_owned())]);
        let made = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
        ImageFilter::parse(filter).map_err(|e| e.message).expect(filter).has("host/app", "v1", made, &labels)
    }

    #[test]
    fn b8_16_images_are_filtered_as_docker_does() {
        for filter in [
            "reference=host/*",
            "reference=host/app:v?",
            "dangling=false",
            "label=team",
            "label=team=a",
            "until=24h",
            "until=2001-09-10",
            "until=2001-09-09T01:46:41Z",
        ] {
            assert!(has(filter), "{filter}");
        }
        for filter in [
            "reference=app",
            "reference=host/app:v2",
            "dangling=true",
            "label=tea",
            "label=team=b",
            "label=team=",
            "until=2001-09-09T01:46:40Z",
        ] {
            assert!(!has(filter), "{filter}");
        }
        for (filter, said) in [
            ("label", "expected KEY=VALUE"),
            ("lable=x", "did you mean label?"),
            ("dangling=maybe", "true or false"),
            ("until=soon", "24h"),
            ("reference=[", "pattern"),
        ] {
            let error = ImageFilter::parse(filter).expect_err(filter).message;
            assert!(error.contains(said), "{filter}: {error}");
        }
    }
}
