//! Why something was not found: what is remembered of each step, and the first thing about it that differs.
//!
//! A [`Trace`] holds what went into a step's key: the instruction in named parts, and its inputs, down to the files
//! where they were looked at. Values of variables are kept as hashes only.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::base::Digest;

/// What is remembered of the steps of one project.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    /// Steps, by stage and instruction.
    pub traces: Vec<Trace>,
    /// What was selected from inputs, by the digest of the selection, the newest first.
    pub listings: Vec<(Digest, Vec<TraceEntry>)>,
    /// What the last build said about its steps.
    pub last: Vec<Explained>,
}

/// What went into the key of a step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trace {
    /// Name of the stage.
    pub stage: String,
    /// Which of its steps it is.
    pub number: u32,
    /// The instruction.
    pub text: String,
    /// Its key.
    pub key: Digest,
    /// Named parts of the operation: what they are called, and a text or a hash.
    pub facts: BTreeMap<String, String>,
    /// Its inputs, in order.
    pub inputs: Vec<TraceInput>,
}

/// An input of a step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TraceInput {
    /// What it is, for people.
    pub what: String,
    /// Its key, or the digest of what is selected from it.
    pub digest: Digest,
    /// What was selected, entry by entry, if it was looked at and is not too much.
    #[serde(skip)]
    pub entries: Option<Vec<TraceEntry>>,
}

/// A selected file or directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TraceEntry(
    /// Its path.
    pub String,
    /// Type and permission bits.
    pub u32,
    /// User and group.
    pub (u32, u32),
    /// Hash of content, link target or device.
    pub u64,
);

/// Why a step was not found in the cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "kebab-case")]
pub enum Reason {
    /// Nothing like it was built here before.
    New,
    /// The cache was not to be used.
    NoCache,
    /// Nothing changed, but the result is not in the store any more, and in no other cache.
    Evicted,
    /// Something changed.
    Changed {
        /// Kind of thing: `instruction`, `variable`, `file`, `mount`, `base image`, `step`, …
        input: String,
        /// Which one.
        name: String,
        /// What about it.
        detail: String,
    },
}

/// A step of a build and what was said about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explained {
    /// Its name.
    pub step: String,
    /// It was found in a cache.
    pub cached: bool,
    /// Why not.
    #[serde(flatten)]
    pub reason: Option<Reason>,
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::New => f.write_str("not built here before"),
            Self::NoCache => f.write_str("the cache was not to be used"),
            Self::Evicted => f.write_str("nothing changed, but its result was evicted from the cache"),
            Self::Changed { input, name, detail } if name.is_empty() => write!(f, "{input} {detail}"),
            Self::Changed { input, name, detail } => write!(f, "{input} {name} {detail}"),
        }
    }
}

impl Memory {
    /// What is remembered of a step: the same instruction of the stage, else the one at its place.
    #[must_use]
    pub fn find(&self, stage: &str, number: u32, text: &str) -> Option<Trace> {
        let mut same = self.traces.iter().filter(|t| t.stage == stage && t.text == text);
        let exact = same.clone().find(|t| t.number == number).or_else(|| same.next());
        // A place is only the same step if what was there is not still in the file under another number.
        let mut found = exact.or_else(|| self.traces.iter().find(|t| t.stage == stage && t.number == number))?.clone();
        for input in &mut found.inputs {
            let listing = self.listings.iter().find(|(digest, _)| *digest == input.digest);
            input.entries = listing.map(|(_, entries)| entries.clone());
        }
        Some(found)
    }
}

impl Trace {
    /// The first thing that differs between what is remembered and what is now.
    #[must_use]
    pub fn compare(&self, now: &Self) -> Reason {
        let changed = |input: &str, name: &str, detail: &str| Reason::Changed {
            input: input.into(),
            name: name.into(),
            detail: detail.into(),
        };
        if self.key == now.key {
            return Reason::Evicted;
        }
        for (name, value) in &now.facts {
            match self.facts.get(name) {
                Some(old) if old == value => {}
                Some(old) => return fact(name, Some(old), Some(value)),
                None => return fact(name, None, Some(value)),
            }
        }
        if let Some((name, old)) = self.facts.iter().find(|(name, _)| !now.facts.contains_key(*name)) {
            return fact(name, Some(old), None);
        }
        for (old, new) in self.inputs.iter().zip(&now.inputs) {
            if old.digest == new.digest {
                continue;
            }
            if let (Some(before), Some(after)) = (&old.entries, &new.entries)
                && let Some((path, detail)) = first_difference(before, after)
            {
                return changed("file", &path, &detail);
            }
            if old.what != new.what {
                return changed("input", &new.what, &format!("instead of {}", old.what));
            }
            let (kind, name) = new.what.split_once(": ").unwrap_or(("input", &new.what));
            return changed(kind, name, "changed");
        }
        if self.inputs.len() != now.inputs.len() {
            return changed("input", "", "came or went");
        }
        changed("instruction", "", "changed in a way that its text does not show")
    }
}

/// A named part that differs. `instruction` and the like show their text; hashes are not for reading.
fn fact(name: &str, old: Option<&String>, new: Option<&String>) -> Reason {
    let (input, name) = name.split_once(' ').unwrap_or((name, ""));
    let readable = input != "variable";
    let detail = match (old, new) {
        (Some(old), Some(new)) if readable && old.len() + new.len() < 200 => format!("was \"{old}\", is \"{new}\""),
        (Some(_), Some(_)) => "has another value".to_owned(),
        (None, _) => "is new".to_owned(),
        (Some(_), None) => "is gone".to_owned(),
    };
    Reason::Changed { input: input.into(), name: name.into(), detail }
}

/// The first entry, in the order of paths, that differs, and what about it.
fn first_difference(before: &[TraceEntry], after: &[TraceEntry]) -> Option<(String, String)> {
    let old: BTreeMap<&str, &TraceEntry> = before.iter().map(|e| (e.0.as_str(), e)).collect();
    let new: BTreeMap<&str, &TraceEntry> = after.iter().map(|e| (e.0.as_str(), e)).collect();
    let mut paths: Vec<&str> = old.keys().chain(new.keys()).copied().collect();
    paths.sort_unstable();
    paths.dedup();
    paths.into_iter().find_map(|path| {
        let detail = match (old.get(path), new.get(path)) {
            (None, _) => "is new".to_owned(),
            (_, None) => "is gone".to_owned(),
            (Some(a), Some(b)) if a.1 >> 12 != b.1 >> 12 => {
                format!("was a {}, is a {}", kind(a.1), kind(b.1))
            }
            (Some(a), Some(b)) if a.1 != b.1 => {
                format!("has mode {:o} instead of {:o}", b.1 & 0o7777, a.1 & 0o7777)
            }
            (Some(a), Some(b)) if a.2 != b.2 => {
                format!("has owner {}:{} instead of {}:{}", b.2.0, b.2.1, a.2.0, a.2.1)
            }
            (Some(a), Some(b)) if a.3 != b.3 && kind(b.1) == "symlink" => "points elsewhere".to_owned(),
            (Some(a), Some(b)) if a.3 != b.3 && kind(b.1) == "directory" => "has other attributes".to_owned(),
            (Some(a), Some(b)) if a.3 != b.3 => "has other content".to_owned(),
            _ => return None,
        };
        Some((path.to_owned(), detail))
    })
}

fn kind(mode: u32) -> &'static str {
    match mode >> 12 {
        0o04 => "directory",
        0o10 => "file",
        0o12 => "symlink",
        0o02 | 0o06 => "device",
        0o01 => "fifo",
        _ => "special file",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(key: &str) -> Trace {
        Trace {
            stage: "build".into(),
            number: 2,
            text: "COPY src /src".into(),
            key: Digest::sha256(key),
            facts: BTreeMap::from([("instruction".into(), "COPY src /src".into()), ("variable V".into(), "h1".into())]),
            inputs: vec![TraceInput {
                what: "context".into(),
                digest: Digest::sha256(key),
                entries: Some(vec![
                    TraceEntry("src/a".into(), 0o100_644, (0, 0), 1),
                    TraceEntry("src/l".into(), 0o120_777, (0, 0), 5),
                ]),
            }],
        }
    }

    fn said(change: impl Fn(&mut Trace)) -> String {
        let mut now = trace("new");
        change(&mut now);
        trace("old").compare(&now).to_string()
    }

    #[test]
    fn the_first_thing_that_differs_is_named() {
        assert_eq!(trace("old").compare(&trace("old")), Reason::Evicted);
        let entry = |t: &mut Trace, at: usize, change: fn(&mut TraceEntry)| {
            change(&mut t.inputs[0].entries.as_mut().expect("entries")[at]);
        };
        assert_eq!(said(|t| entry(t, 0, |e| e.3 = 2)), "file src/a has other content");
        assert_eq!(said(|t| entry(t, 0, |e| e.1 = 0o100_755)), "file src/a has mode 755 instead of 644");
        assert_eq!(said(|t| entry(t, 0, |e| e.2 = (1, 2))), "file src/a has owner 1:2 instead of 0:0");
        assert_eq!(said(|t| entry(t, 0, |e| e.1 = 0o040_755)), "file src/a was a file, is a directory");
        assert_eq!(said(|t| entry(t, 0, |e| e.0 = "src/b".into())), "file src/a is gone");
        assert_eq!(said(|t| entry(t, 1, |e| e.3 = 6)), "file src/l points elsewhere");
        assert_eq!(said(|t| drop(t.facts.insert("variable V".into(), "h2".into()))), "variable V has another value");
        assert_eq!(said(|t| drop(t.facts.insert("variable W".into(), "h".into()))), "variable W is new");
        assert_eq!(said(|t| drop(t.facts.remove("variable V"))), "variable V is gone");
        assert_eq!(
            said(|t| drop(t.facts.insert("instruction".into(), "COPY src /x".into()))),
            "instruction was \"COPY src /src\", is \"COPY src /x\""
        );
        assert_eq!(said(|t| t.inputs[0].entries = None), "input context changed");
        assert_eq!(said(|t| t.inputs.clear()), "input came or went");
    }

    #[test]
    fn a_step_is_known_by_its_text_before_its_place() {
        let mut moved = trace("a");
        moved.number = 5;
        let mut other = trace("b");
        other.text = "RUN x".into();
        let memory = Memory { traces: vec![other, moved], ..Memory::default() };
        let text = |number, text| memory.find("build", number, text).map(|t| t.text);
        assert_eq!(text(2, "COPY src /src").as_deref(), Some("COPY src /src"));
        assert_eq!(text(2, "RUN y").as_deref(), Some("RUN x"));
        assert_eq!(text(3, "RUN y"), None);
    }
}
