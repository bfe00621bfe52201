//! Filters of `du` and `prune` (SPEC B8.05): `key<op>value` with `=`, `==`, `!=` and `~=` (a regular expression).

use std::time::{Duration, SystemTime};

use regex::Regex;

use super::UsageRecord;
use crate::base::duration::parse_span;
use crate::store::StoreError;

/// One condition. Several are ANDed.
#[derive(Debug, Clone)]
pub struct Filter {
    text: String,
    key: Key,
    test: Test,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    Until,
    Id,
    Parents,
    Description,
    InUse,
    Mutable,
    Immutable,
    Shared,
    Private,
    Type,
}

#[derive(Debug, Clone)]
enum Test {
    /// `key` alone: it is true, or not empty.
    Present,
    Equal(String),
    Unequal(String),
    Matches(Regex),
    /// Not used for so long.
    Unused(Duration),
}

impl std::fmt::Display for Filter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl Filter {
    /// Parses one filter.
    ///
    /// # Errors
    /// [`StoreError::Filter`] for an unknown key, a bad expression or a bad duration.
    pub fn parse(text: &str) -> Result<Self, StoreError> {
        let fail = |reason: String| StoreError::Filter { text: text.to_owned(), reason };
        let end = text.find(['=', '!', '~']).unwrap_or(text.len());
        let (key, rest) = text.split_at(end);
        let key = match key {
            "until" | "unused-for" => Key::Until,
            "id" => Key::Id,
            "parents" | "parent" => Key::Parents,
            "description" => Key::Description,
            "inuse" => Key::InUse,
            "mutable" => Key::Mutable,
            "immutable" => Key::Immutable,
            "shared" => Key::Shared,
            "private" => Key::Private,
            "type" => Key::Type,
            _ => {
                return Err(fail(format!(
                    "unknown key \"{key}\" (expected until, id, parents, description, inuse, mutable, immutable, shared, private or type)"
                )));
            }
        };
        let test = if rest.is_empty() {
            Test::Present
        } else if let Some(value) = rest.strip_prefix("!=") {
            Test::Unequal(value.to_owned())
        } else if let Some(value) = rest.strip_prefix("~=") {
            Test::Matches(Regex::new(value).map_err(|e| fail(e.to_string()))?)
        } else if let Some(value) = rest.strip_prefix("==").or_else(|| rest.strip_prefix('=')) {
            Test::Equal(value.to_owned())
        } else {
            return Err(fail("expected =, ==, != or ~= after the key".into()));
        };
        let test = match (key, test) {
            (Key::Until, Test::Equal(value)) => Test::Unused(
                duration(&value).ok_or_else(|| fail(format!("\"{value}\" is not a duration such as 24h")))?,
            ),
            (Key::Until, _) => return Err(fail("expected until=<duration>".into())),
            (_, test) => test,
        };
        Ok(Self { text: text.to_owned(), key, test })
    }

    /// Parses several in one text, as BuildKit has them: a comma ends a filter where another one follows it. Others are part of
    /// a value (`description~=a{1,2}`).
    ///
    /// # Errors
    /// As [`Self::parse`], for any of them.
    pub fn parse_all(text: &str) -> Result<Vec<Self>, StoreError> {
        let mut out = Vec::new();
        let mut rest = text;
        let ends = |rest: &str, at: usize| {
            let next = rest[at + 1..].split(',').next().unwrap_or_default();
            let key = next.find(['=', '!', '~']).map_or("", |end| &next[..end]);
            // A misspelt key is one, too.
            let keyed = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphabetic() || b == b'-');
            keyed || Self::parse(next).is_ok()
        };
        while let Some((at, _)) = rest.match_indices(',').find(|(at, _)| ends(rest, *at)) {
            out.push(Self::parse(&rest[..at])?);
            rest = &rest[at + 1..];
        }
        out.push(Self::parse(rest)?);
        Ok(out)
    }

    /// Whether a record fulfils the condition.
    #[must_use]
    pub fn matches(&self, record: &UsageRecord) -> bool {
        let flag = |value: bool| self.test(if value { "true" } else { "false" }, value);
        match self.key {
            Key::Until => match self.test {
                Test::Unused(duration) => {
                    SystemTime::now().duration_since(record.last_used).is_ok_and(|unused| unused >= duration)
                }
                _ => true,
            },
            Key::Id => self.test(&record.id, !record.id.is_empty()),
            Key::Description => self.test(&record.description, !record.description.is_empty()),
            Key::Type => self.test(record.kind.name(), true),
            Key::InUse => flag(record.in_use),
            Key::Mutable => flag(record.mutable),
            Key::Immutable => flag(!record.mutable),
            Key::Shared => flag(record.shared),
            Key::Private => flag(!record.shared),
            // A `;` separated list of parents that must all be there; `!=`: none of them.
            Key::Parents => match &self.test {
                Test::Equal(wanted) => wanted.split(';').all(|w| record.parents.iter().any(|p| p == w)),
                Test::Unequal(wanted) => wanted.split(';').all(|w| record.parents.iter().all(|p| p != w)),
                Test::Matches(regex) => record.parents.iter().any(|p| regex.is_match(p)),
                Test::Present | Test::Unused(_) => !record.parents.is_empty(),
            },
        }
    }

    fn test(&self, value: &str, present: bool) -> bool {
        match &self.test {
            Test::Present | Test::Unused(_) => present,
            Test::Equal(wanted) => value == wanted,
            Test::Unequal(other) => value != other,
            Test::Matches(regex) => regex.is_match(value),
        }
    }
}

/// Go's durations, and days before them: `7d`, `1d12h`.
fn duration(text: &str) -> Option<Duration> {
    let Some((days, rest)) = text.split_once('d') else { return parse_span(text).ok() };
    let days = Duration::from_secs(days.parse::<u64>().ok()?.checked_mul(86_400)?);
    if rest.is_empty() { Some(days) } else { days.checked_add(parse_span(rest).ok()?) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::UsageKind;

    fn record() -> UsageRecord {
        let hour_ago = SystemTime::now() - Duration::from_secs(3600);
        UsageRecord {
            id: "abc".into(),
            kind: UsageKind::CacheMount,
            description: "cache mount /root/.cache".into(),
            size: 1,
            reclaimable: 1,
            created: hour_ago,
            last_used: hour_ago,
            usage: 1,
            in_use: false,
            mutable: true,
            shared: false,
            parents: vec!["p1".into(), "p2".into()],
        }
    }

    #[test]
    fn b8_05_several_filters_in_one_text() {
        let texts =
            |text: &str| Filter::parse_all(text).map(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(texts("type=regular,until=1h,private").expect("parses"), ["type=regular", "until=1h", "private"]);
        assert_eq!(texts("description~=a{1,2},id=x").expect("parses"), ["description~=a{1,2}", "id=x"]);
        assert_eq!(texts("description=a, b").expect("parses"), ["description=a, b"]);
        assert!(texts("colour=red,type=regular").is_err() && texts("type=regular,colour=red").is_err());
    }

    #[test]
    fn b8_05_filters() {
        for (text, expected) in [
            ("id=abc", true),
            ("id==abc", true),
            ("id!=abc", false),
            ("id~=^a.c$", true),
            ("type=exec.cachemount", true),
            ("type==regular", false),
            ("description~=\\.cache", true),
            ("inuse", false),
            ("inuse=false", true),
            ("mutable", true),
            ("immutable", false),
            ("shared=true", false),
            ("private", true),
            ("parents=p1;p2", true),
            ("parents=p1;p3", false),
            ("parents!=p3", true),
            ("until=30m", true),
            ("until=1h30m", false),
            ("until=1d", false),
        ] {
            assert_eq!(Filter::parse(text).expect(text).matches(&record()), expected, "{text}");
        }
    }

    #[test]
    fn b8_05_bad_filters_are_named() {
        for text in ["color=red", "until", "until=soon", "until=", "id~=(", "id!abc", ""] {
            let error = Filter::parse(text).expect_err(text);
            assert!(matches!(error, StoreError::Filter { .. }), "{error}");
        }
    }
}
