//! `--filter` of `rbuild builds ls`: `ref`, `repository` and `status` with `=` and `!=`, `startedAt`, `completedAt` and
//! `duration` with `<`, `<=`, `>` and `>=` (SPEC B8.06). Of a reference or a repository a part is enough for `=`.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use jiff::Timestamp;

use crate::base::duration::parse_span;
use crate::base::wording::did_you_mean;
use crate::build::record::BuildRecord;

/// One condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Filter {
    /// A text, whether it must match or must not, and what it is compared with.
    Text(Text, bool, String),
    /// A time, how it is compared, and with what.
    Time(Time, Compare, Timestamp),
    /// The duration.
    Duration(Compare, Duration),
    /// The context is in this directory.
    Below(PathBuf),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Text {
    Ref,
    Repository,
    Status,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Time {
    Started,
    Completed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compare {
    Less,
    AtMost,
    More,
    AtLeast,
}

impl Compare {
    fn holds<T: PartialOrd>(self, left: &T, right: &T) -> bool {
        match self {
            Self::Less => left < right,
            Self::AtMost => left <= right,
            Self::More => left > right,
            Self::AtLeast => left >= right,
        }
    }
}

impl FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = |why: &str| format!("invalid filter \"{text}\": {why}");
        let at =
            text.find(['=', '!', '<', '>']).ok_or_else(|| bad("expected for example status=error or duration>30s"))?;
        let (key, rest) = text.split_at(at);
        let operator = ["!=", "==", "<=", ">=", "=", "<", ">"].into_iter().find(|o| rest.starts_with(o));
        let operator = operator.ok_or_else(|| bad("unknown operator"))?;
        let value = &rest[operator.len()..];
        let equal = match operator {
            "=" | "==" => Some(true),
            "!=" => Some(false),
            _ => None,
        };
        let compare = match operator {
            "<" => Some(Compare::Less),
            "<=" => Some(Compare::AtMost),
            ">" => Some(Compare::More),
            ">=" => Some(Compare::AtLeast),
            _ => None,
        };
        let of_text = |what: Text| {
            let equal = equal.ok_or_else(|| bad("it takes = or !="))?;
            Ok(Self::Text(what, equal, value.to_owned()))
        };
        let of_time = |what: Time| {
            let compare = compare.ok_or_else(|| bad("it takes <, <=, > or >="))?;
            Ok(Self::Time(
                what,
                compare,
                time(value)
                    .ok_or_else(|| bad("expected a time like 2026-01-31T12:00:00Z, or how long ago, like 24h"))?,
            ))
        };
        match key {
            "ref" => of_text(Text::Ref),
            "repository" => of_text(Text::Repository),
            "status" => {
                let known = ["running", "completed", "error", "canceled", "interrupted"];
                if !known.contains(&value) {
                    return Err(bad(&format!("unknown status{}", did_you_mean(value, known))));
                }
                of_text(Text::Status)
            }
            "startedAt" => of_time(Time::Started),
            "completedAt" => of_time(Time::Completed),
            "duration" => {
                let compare = compare.ok_or_else(|| bad("it takes <, <=, > or >="))?;
                Ok(Self::Duration(compare, parse_span(value).map_err(|e| bad(&e.to_string()))?))
            }
            other => {
                let known = ["ref", "repository", "status", "startedAt", "completedAt", "duration"];
                Err(bad(&format!("unknown key \"{other}\"{}", did_you_mean(other, known))))
            }
        }
    }
}

/// RFC 3339, a date, or how long ago.
fn time(text: &str) -> Option<Timestamp> {
    if let Ok(ago) = parse_span(text) {
        return Timestamp::now().checked_sub(ago).ok();
    }
    text.parse().or_else(|_| format!("{text}T00:00:00Z").parse()).ok()
}

impl Filter {
    /// Whether a build fulfils it.
    pub(super) fn matches(&self, record: &BuildRecord) -> bool {
        match self {
            Self::Text(what, equal, wanted) => {
                let (value, part) = match what {
                    Text::Ref => (record.head.id.as_str(), true),
                    Text::Repository => (record.head.repository.as_deref().unwrap_or_default(), true),
                    Text::Status => (record.status().as_str(), false),
                };
                if *equal && part { value.contains(wanted.as_str()) } else { (value == wanted) == *equal }
            }
            Self::Time(Time::Started, compare, wanted) => compare.holds(&record.head.started, wanted),
            Self::Time(Time::Completed, compare, wanted) => {
                record.ended().is_some_and(|ended| compare.holds(&ended, wanted))
            }
            Self::Duration(compare, wanted) => compare.holds(&record.duration(), wanted),
            Self::Below(dir) => record.head.directory.as_ref().is_some_and(|own| Path::new(own).starts_with(dir)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // SPEC B8.06, G.03
    #[test]
    fn b8_06_filters_are_buildxs() {
        let parse = |text: &str| text.parse::<Filter>();
        assert_eq!(parse("status=error"), Ok(Filter::Text(Text::Status, true, "error".into())));
        assert_eq!(parse("ref!=abc"), Ok(Filter::Text(Text::Ref, false, "abc".into())));
        assert_eq!(parse("duration>=1m30s"), Ok(Filter::Duration(Compare::AtLeast, Duration::from_secs(90))));
        let day = "2026-01-31T00:00:00Z".parse().expect("a time");
        assert_eq!(parse("startedAt<2026-01-31"), Ok(Filter::Time(Time::Started, Compare::Less, day)));
        assert!(matches!(parse("completedAt>24h"), Ok(Filter::Time(Time::Completed, Compare::More, _))));
        for (wrong, why) in [
            ("status", "expected for example"),
            ("status=success", "unknown status"),
            ("status=eror", "did you mean error?"),
            ("status>error", "it takes = or !="),
            ("duration=3s", "it takes <"),
            ("duration>soon", "invalid duration"),
            ("startedAt>yesterday", "expected a time"),
            ("stauts=error", "did you mean status?"),
        ] {
            let error = parse(wrong).expect_err(wrong);
            assert!(error.contains(why), "{wrong}: {error}");
        }
    }
}
