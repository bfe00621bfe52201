//! Annotations of manifests, indexes and the descriptors that point at them (SPEC B2.03, C6.12).

use std::collections::BTreeMap;

use super::SpecError;
use crate::base::wording::did_you_mean;
use crate::oci::Platform;

/// What an annotation is put on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// The image manifest.
    Manifest,
    /// The index over several manifests.
    Index,
    /// The manifest's entry in an index.
    ManifestDescriptor,
    /// The index's entry in the `index.json` of a layout.
    IndexDescriptor,
}

const LEVELS: &[(&str, Level)] = &[
    ("manifest", Level::Manifest),
    ("index", Level::Index),
    ("manifest-descriptor", Level::ManifestDescriptor),
    ("index-descriptor", Level::IndexDescriptor),
];

impl Level {
    fn is_index(self) -> bool {
        matches!(self, Self::Index | Self::IndexDescriptor)
    }

    /// A name of [`LEVELS`].
    fn parse(text: &str) -> Result<Self, SpecError> {
        LEVELS.iter().find(|(name, _)| *name == text).map(|(_, level)| *level).ok_or_else(|| {
            let known = LEVELS.iter().map(|(name, _)| *name);
            SpecError(format!("unknown annotation type \"{text}\"{}", did_you_mean(text, known)))
        })
    }
}

/// One annotation; without a platform it is for all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Annotation {
    level: Level,
    platform: Option<Platform>,
    name: String,
    value: String,
}

/// All annotations of an output, in the order given: of two with one name the later counts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Annotations(Vec<Annotation>);

impl Annotations {
    /// Adds `annotation[-LEVEL][[PLATFORM]].NAME` of an `--output`; false if `key` is no such attribute.
    ///
    /// # Errors
    /// For attributes that begin like this and are malformed.
    pub(super) fn attribute(&mut self, key: &str, value: &str) -> Result<bool, SpecError> {
        let Some(rest) = key.strip_prefix("annotation").filter(|r| r.starts_with(['.', '-', '['])) else {
            return Ok(false);
        };
        let fail = || SpecError(format!("invalid annotation \"{key}\": expected annotation[-TYPE][[PLATFORM]].NAME"));
        // A platform has no dots, so the first one outside of brackets ends the head.
        let (head, name) = match rest.split_once(']') {
            Some((head, tail)) if head.contains('[') => (head, tail.strip_prefix('.').ok_or_else(fail)?),
            _ => rest.split_once('.').ok_or_else(fail)?,
        };
        let (level, platform) = match head.split_once('[') {
            Some((level, platform)) => (level, Some(platform)),
            None => (head, None),
        };
        let level = match level.strip_prefix('-') {
            Some(level) => level,
            None if level.is_empty() => "manifest",
            None => return Err(fail()),
        };
        if name.is_empty() || name.contains(char::is_whitespace) {
            return Err(fail());
        }
        self.add(Level::parse(level)?, platform, name, value)?;
        Ok(true)
    }

    /// Adds a value of `--annotation`: `[TYPE[[PLATFORM]][,…]:]NAME=VALUE`.
    ///
    /// # Errors
    /// Names the annotation and the rule.
    pub fn flag(&mut self, text: &str) -> Result<(), SpecError> {
        let Some((key, value)) = text.split_once('=') else {
            return Err(SpecError(format!("invalid annotation \"{text}\", expected key=value")));
        };
        let (levels, name) = key.split_once(':').unwrap_or(("manifest", key));
        if name.is_empty() {
            return Err(SpecError(format!("invalid annotation \"{text}\", expected key=value")));
        }
        for part in levels.split(',') {
            let (level, platform) = match part.split_once('[') {
                None => (part, None),
                Some((level, rest)) => {
                    let platform = rest.strip_suffix(']').ok_or_else(|| {
                        SpecError(format!(
                            "invalid annotation type \"{part}\", expected type and optional platform in square brackets"
                        ))
                    })?;
                    (level, Some(platform))
                }
            };
            self.add(Level::parse(level)?, platform, name, value)?;
        }
        Ok(())
    }

    fn add(&mut self, level: Level, platform: Option<&str>, name: &str, value: &str) -> Result<(), SpecError> {
        let platform = match platform {
            None => None,
            Some(text) if level.is_index() => {
                return Err(SpecError(format!(
                    "annotation {name}: an index has no platform, so [{text}] has no meaning"
                )));
            }
            Some(text) => Some(text.parse().map_err(|e| SpecError(format!("annotation {name}: {e}")))?),
        };
        self.0.push(Annotation { level, platform, name: name.to_owned(), value: value.to_owned() });
        Ok(())
    }

    /// Whether there is one that needs an index.
    pub(super) fn need_index(&self) -> bool {
        self.0.iter().any(|a| a.level.is_index())
    }

    /// The first one for a platform that is not among `platforms`.
    pub(super) fn stray(&self, platforms: &[Platform]) -> Option<&Platform> {
        self.0.iter().filter_map(|a| a.platform.as_ref()).find(|p| !platforms.contains(p))
    }

    /// Whether there is one of a level.
    #[must_use]
    pub fn has(&self, level: Level) -> bool {
        self.0.iter().any(|a| a.level == level)
    }

    /// Those of a level, for a platform where it has one.
    #[must_use]
    pub fn of(&self, level: Level, platform: Option<&Platform>) -> BTreeMap<String, String> {
        let fits = |a: &&Annotation| a.level == level && (a.platform.is_none() || a.platform.as_ref() == platform);
        // What names a platform beats what does not (BuildKit merges in this order).
        let (general, special): (Vec<&Annotation>, Vec<&Annotation>) =
            self.0.iter().filter(fits).partition(|a| a.platform.is_none());
        general.into_iter().chain(special).map(|a| (a.name.clone(), a.value.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        text.parse().expect("valid")
    }

    // SPEC C6.12
    #[test]
    fn attributes_have_levels_platforms_and_names_with_dots() {
        let mut all = Annotations::default();
        for (key, value) in [
            ("annotation.org.Example", "plain"),
            ("annotation-manifest[linux/arm/v7].org.Example", "arm"),
            ("annotation-index.a.b", "1"),
            ("annotation[linux/amd64].x", "2"),
            ("annotation-index-descriptor.d", "3"),
        ] {
            assert_eq!(all.attribute(key, value), Ok(true), "{key}");
        }
        assert_eq!(all.attribute("annotations", "x"), Ok(false));
        let (arm, amd) = (platform("linux/arm/v7"), platform("linux/amd64"));
        assert_eq!(all.of(Level::Manifest, Some(&arm))["org.Example"], "arm");
        assert_eq!(all.of(Level::Manifest, Some(&amd))["org.Example"], "plain");
        assert_eq!(all.of(Level::Manifest, Some(&amd))["x"], "2");
        assert_eq!(all.of(Level::Index, None)["a.b"], "1");
        assert_eq!(all.of(Level::IndexDescriptor, None)["d"], "3");
        assert!(all.need_index());
        assert_eq!(all.stray(std::slice::from_ref(&amd)), Some(&arm));
    }

    // SPEC B2.03
    #[test]
    fn flags_name_several_levels_at_once() {
        let mut all = Annotations::default();
        all.flag("k=v=w").expect("valid");
        all.flag("index,manifest-descriptor[linux/arm64]:org.x=y").expect("valid");
        assert_eq!(all.of(Level::Manifest, None)["k"], "v=w");
        assert_eq!(all.of(Level::Index, None)["org.x"], "y");
        assert_eq!(all.of(Level::ManifestDescriptor, Some(&platform("linux/arm64")))["org.x"], "y");
        assert!(all.of(Level::ManifestDescriptor, Some(&platform("linux/amd64"))).is_empty());
    }

    // SPEC B2.03, G.06
    #[test]
    fn mistakes_are_named() {
        let flag = |text: &str| Annotations::default().flag(text).expect_err("refused").0;
        assert_eq!(flag("novalue"), "invalid annotation \"novalue\", expected key=value");
        assert_eq!(flag("manifset:a=b"), "unknown annotation type \"manifset\" (did you mean manifest?)");
        assert!(flag("manifest[linux/:a=b").starts_with("invalid annotation type"));
        assert!(flag("manifest[linux//x]:a=b").contains("is an invalid component of"));
        assert!(flag("index[linux/amd64]:a=b").contains("an index has no platform"));
        let attribute = |key: &str| Annotations::default().attribute(key, "v").expect_err("refused").0;
        assert!(attribute("annotation-manifest").starts_with("invalid annotation"));
        assert!(attribute("annotation-x.y").starts_with("unknown annotation type \"x\""));
    }
}
