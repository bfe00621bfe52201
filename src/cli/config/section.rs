//! Tables of the configuration file whose keys are taken out one by one; what nobody took is refused, or, in a
//! `buildkitd.toml`, said.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::keys;
use crate::base::wording::did_you_mean;
use crate::cli::errors::Failure;
use crate::cli::settings::usage;

/// A file that is being read.
pub(super) struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
    /// It is BuildKit's: only its keys count, and those without a meaning here are said.
    lenient: bool,
    notices: RefCell<Vec<String>>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(path: &'a Path, text: &'a str, lenient: bool) -> Self {
        Self { path, text, lenient, notices: RefCell::default() }
    }

    /// The whole file.
    pub(super) fn top(&'a self) -> Result<Section<'a>, Failure> {
        let table = DeTable::parse(self.text).map_err(|e| {
            let place = self.place(e.span().map_or(0, |span| span.start));
            usage(format!("{place}: {}", e.message()))
        })?;
        Ok(Section { reader: self, name: String::new(), pattern: String::new(), entries: entries(table.into_inner()) })
    }

    /// What was said about keys without a meaning.
    pub(super) fn notices(self) -> Vec<String> {
        self.notices.into_inner()
    }

    /// `FILE:LINE`
    fn place(&self, offset: usize) -> String {
        let line = self.text.as_bytes().iter().take(offset).filter(|b| **b == b'\n').count() + 1;
        format!("{}:{line}", self.path.display())
    }

    fn say(&self, at: usize, text: &str) {
        self.notices.borrow_mut().push(format!("{}: {text}", self.place(at)));
    }
}

struct Entry<'a> {
    key: String,
    /// Offset of the key.
    at: usize,
    value: DeValue<'a>,
}

fn entries(table: DeTable<'_>) -> Vec<Entry<'_>> {
    let entry = |(key, value): (toml::Spanned<_>, toml::Spanned<_>)| Entry {
        at: key.span().start,
        key: std::borrow::Cow::into_owned(key.into_inner()),
        value: value.into_inner(),
    };
    table.into_iter().map(entry).collect()
}

/// A table of the file.
pub(super) struct Section<'a> {
    reader: &'a Reader<'a>,
    /// As it is written: `registry."docker.io"`; empty for the top.
    name: String,
    /// As the list of keys has it: `registry.*`.
    pattern: String,
    entries: Vec<Entry<'a>>,
}

/// A value, and where it came from.
pub(super) struct Found<'a, T> {
    reader: &'a Reader<'a>,
    name: String,
    at: usize,
    pub(super) value: T,
}

impl<'a, T> Found<'a, T> {
    /// The complaint about it.
    pub(super) fn wrong(&self, why: impl std::fmt::Display) -> Failure {
        usage(format!("{}: {}: {why}", self.reader.place(self.at), self.name))
    }

    /// Complains about it; in a `buildkitd.toml` only says that it has no meaning.
    pub(super) fn strange(&self, why: impl std::fmt::Display) -> Result<(), Failure> {
        if !self.reader.lenient {
            return Err(self.wrong(why));
        }
        self.reader.say(self.at, &format!("{} has no meaning here: {why}", self.name));
        Ok(())
    }

    /// Makes something of it.
    pub(super) fn read<U, E: std::fmt::Display>(self, how: impl FnOnce(&T) -> Result<U, E>) -> Result<U, Failure> {
        how(&self.value).map_err(|e| self.wrong(e))
    }

    fn with<U>(self, value: U) -> Found<'a, U> {
        Found { reader: self.reader, name: self.name, at: self.at, value }
    }
}

impl<'a> Section<'a> {
    fn full(&self, key: &str) -> String {
        let plain = key.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
        let key = if plain { key.to_owned() } else { format!("\"{key}\"") };
        if self.name.is_empty() { key } else { format!("{}.{key}", self.name) }
    }

    /// The key as the list has it.
    fn listed(&self, key: &str) -> String {
        if self.pattern.is_empty() { key.to_owned() } else { format!("{}.{key}", self.pattern) }
    }

    fn take(&mut self, key: &str) -> Option<Found<'a, DeValue<'a>>> {
        let listed = self.listed(key);
        debug_assert!(keys::is_known(&listed), "{listed} is not in the list of keys");
        if self.reader.lenient && !keys::is_of_buildkit(&listed) {
            return None;
        }
        let index = self.entries.iter().position(|entry| entry.key == key)?;
        let entry = self.entries.remove(index);
        Some(Found { reader: self.reader, name: self.full(key), at: entry.at, value: entry.value })
    }

    /// A value of one type.
    fn typed<T>(
        &mut self,
        key: &str,
        expected: &str,
        read: impl FnOnce(&DeValue<'a>) -> Option<T>,
    ) -> Result<Option<Found<'a, T>>, Failure> {
        let Some(found) = self.take(key) else { return Ok(None) };
        match read(&found.value) {
            Some(value) => Ok(Some(found.with(value))),
            None => Err(found.wrong(format!("expected {expected}"))),
        }
    }

    pub(super) fn flag(&mut self, key: &str) -> Result<Option<bool>, Failure> {
        Ok(self.typed(key, "true or false", DeValue::as_bool)?.map(|found| found.value))
    }

    pub(super) fn text(&mut self, key: &str) -> Result<Option<Found<'a, String>>, Failure> {
        self.typed(key, "a text", |value| value.as_str().map(ToOwned::to_owned))
    }

    /// A whole number.
    pub(super) fn number(&mut self, key: &str) -> Result<Option<Found<'a, i64>>, Failure> {
        self.typed(key, "a whole number", number)
    }

    /// A text or a whole number, as a text.
    pub(super) fn quantity(&mut self, key: &str) -> Result<Option<Found<'a, String>>, Failure> {
        self.typed(key, "a number or a text", |value| {
            number(value).map(|n| n.to_string()).or_else(|| value.as_str().map(ToOwned::to_owned))
        })
    }

    pub(super) fn texts(&mut self, key: &str) -> Result<Option<Found<'a, Vec<String>>>, Failure> {
        self.typed(key, "a list of texts", |value| {
            let array = value.as_array()?;
            array.iter().map(|item| item.as_ref().as_str().map(ToOwned::to_owned)).collect()
        })
    }

    /// A path; relative ones are relative to the file.
    pub(super) fn path(&mut self, key: &str) -> Result<Option<PathBuf>, Failure> {
        let found = self.text(key)?;
        Ok(found.map(|found| self.resolve(&found.value)))
    }

    pub(super) fn paths(&mut self, key: &str) -> Result<Vec<PathBuf>, Failure> {
        let found = self.texts(key)?;
        Ok(found.map_or_else(Vec::new, |found| found.value.iter().map(|text| self.resolve(text)).collect()))
    }

    fn resolve(&self, text: &str) -> PathBuf {
        self.reader.path.parent().unwrap_or(Path::new("")).join(text)
    }

    /// The table below a key; an empty one if there is none.
    pub(super) fn table(&mut self, key: &str) -> Result<Section<'a>, Failure> {
        let (name, pattern) = (self.full(key), self.listed(key));
        let entries = match self.take(key) {
            None => Vec::new(),
            Some(Found { value: DeValue::Table(table), .. }) => entries(table),
            Some(found) => return Err(found.wrong("expected a table")),
        };
        Ok(Section { reader: self.reader, name, pattern, entries })
    }

    /// The tables below a key, by the names that the user gave them.
    pub(super) fn named(&mut self, key: &str) -> Result<Vec<(String, Section<'a>)>, Failure> {
        let parent = self.table(key)?;
        let mut all = Vec::new();
        for entry in parent.entries {
            let name =
                if parent.name.is_empty() { entry.key.clone() } else { format!("{}.\"{}\"", parent.name, entry.key) };
            let found = Found { reader: self.reader, name: name.clone(), at: entry.at, value: entry.value };
            let DeValue::Table(table) = found.value else { return Err(found.wrong("expected a table")) };
            let pattern = format!("{}.*", parent.pattern);
            all.push((entry.key, Section { reader: self.reader, name, pattern, entries: entries(table) }));
        }
        Ok(all)
    }

    /// A list of tables.
    pub(super) fn tables(&mut self, key: &str) -> Result<Option<Vec<Section<'a>>>, Failure> {
        let pattern = self.listed(key);
        let Some(found) = self.take(key) else { return Ok(None) };
        let wrong = found.wrong("expected a list of tables");
        let DeValue::Array(array) = found.value else { return Err(wrong) };
        let one = |value: toml::Spanned<DeValue<'a>>| match value.into_inner() {
            DeValue::Table(table) => Ok(Section {
                reader: self.reader,
                name: found.name.clone(),
                pattern: pattern.clone(),
                entries: entries(table),
            }),
            _ => Err(wrong.clone()),
        };
        array.into_iter().map(one).collect::<Result<_, _>>().map(Some)
    }

    /// A complaint about a key of this table, or about one that is missing.
    pub(super) fn wrong(&self, key: &str, why: &str) -> Failure {
        usage(format!("{}: {}: {why}", self.reader.path.display(), self.full(key)))
    }

    /// Refuses a key that asks for a protection which is not here (unless it says `false`), in a `buildkitd.toml` too: to go on without it would be worse.
    pub(super) fn never(&mut self, key: &str, why: &str, remedy: &str) -> Result<(), Failure> {
        match self.entries.iter().find(|entry| entry.key == key && entry.value.as_bool() != Some(false)) {
            None => Ok(()),
            Some(entry) => {
                Err(usage(format!("{}: {}: {why}", self.reader.place(entry.at), self.full(key))).hint(remedy))
            }
        }
    }

    /// Refuses what nobody took.
    pub(super) fn finish(self) -> Result<(), Failure> {
        for entry in &self.entries {
            let name = self.full(&entry.key);
            if self.reader.lenient {
                self.reader.say(entry.at, &format!("{name} has no meaning here"));
                continue;
            }
            let near = did_you_mean(&entry.key, keys::below(&self.pattern));
            return Err(usage(format!("{}: unknown key {name}{near}", self.reader.place(entry.at)))
                .hint("docs/cli/rbuild.toml.md lists the keys; BuildKit's other ones may stand in a file called buildkitd.toml"));
        }
        Ok(())
    }
}

fn number(value: &DeValue<'_>) -> Option<i64> {
    let number = value.as_integer()?;
    i64::from_str_radix(number.as_str(), number.radix()).ok()
}
