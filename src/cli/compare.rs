//! `rbuild diff`: how two images differ, for people and for scripts.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::args::Diff;
use super::errors::Failure;
use super::image_commands::{failure, open, shown};
use super::print;
use super::worker::Inside;
use crate::images::compare::{Aspect, Change, Comparison, Difference, Excerpt, FileDifference, PlatformComparison};

/// The exit code for images that differ, as that of `diff`.
pub(super) const DIFFERENT: u8 = 1;
/// Files of a layer that are shown without `--all`.
const FEW: usize = 20;
/// Characters of a value or an instruction that are shown.
const WIDTH: usize = 100;

pub(super) fn diff(inside: &Inside, args: &Diff) -> Result<u8, Failure> {
    let (comparison, _) = shown(inside, &args.progress, async |events| {
        let (images, _lease) = open(inside, events)?;
        let first = images.find(&args.first).map_err(|e| failure(&e))?;
        let second = images.find(&args.second).map_err(|e| failure(&e))?;
        images.compare(&first, &second).await.map_err(|e| failure(&e))
    })?;
    say(&comparison, &Shown { first: &args.first, second: &args.second, json: args.format == "json", all: args.all })
}

/// How a comparison is shown.
pub(super) struct Shown<'a> {
    /// What the first image is called.
    pub(super) first: &'a str,
    /// What the second image is called.
    pub(super) second: &'a str,
    /// As JSON.
    pub(super) json: bool,
    /// All files.
    pub(super) all: bool,
}

/// Prints a comparison; the exit code says whether the images are the same.
pub(super) fn say(comparison: &Comparison, how: &Shown<'_>) -> Result<u8, Failure> {
    let text = if how.json { as_json(comparison, how) } else { as_text(comparison, how) };
    print(&text)?;
    Ok(if comparison.same() { 0 } else { DIFFERENT })
}

/// A comparison for programs.
pub(super) fn as_json(comparison: &Comparison, how: &Shown<'_>) -> String {
    let mut value = serde_json::to_value(comparison).unwrap_or_default();
    if let Value::Object(map) = &mut value {
        map.insert("first".into(), json!(how.first));
        map.insert("second".into(), json!(how.second));
        map.insert("same".into(), json!(comparison.same()));
        map.insert("causes".into(), json!(comparison.causes()));
    }
    format!("{value:#}\n")
}

fn as_text(comparison: &Comparison, how: &Shown<'_>) -> String {
    let mut out = String::new();
    for (whose, platforms) in [(how.first, &comparison.only_in_first), (how.second, &comparison.only_in_second)] {
        for platform in platforms {
            let _ = writeln!(out, "{platform}: only in {whose}");
        }
    }
    for platform in &comparison.platforms {
        put_platform(&mut out, platform, how);
    }
    let causes = comparison.causes();
    if !causes.is_empty() {
        out.push_str("\nwhere that often comes from:\n");
        for cause in causes {
            let _ = writeln!(out, "  {}: {}", cause.files, cause.remedy);
        }
    }
    out
}

fn put_platform(out: &mut String, platform: &PlatformComparison, how: &Shown<'_>) {
    let name = &platform.platform;
    let packed = platform.packed_differently.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    if platform.layers.is_empty() && platform.config.is_empty() && platform.manifest.is_empty() {
        let packing = match platform.packed_differently.len() {
            0 => String::new(),
            1 => format!(" (layer {packed} is compressed differently)"),
            _ => format!(" (layers {packed} are compressed differently)"),
        };
        let _ = writeln!(out, "{name}: the same{packing}");
        return;
    }
    let _ = writeln!(out, "{name}: different");
    for layer in &platform.layers {
        let by = one_line(&written(&layer.created_by));
        let by = if by.is_empty() { String::new() } else { format!(": {by}") };
        let _ = writeln!(out, "  layer {}{by}", layer.number);
        if layer.first.is_none() || layer.second.is_none() {
            let whose = if layer.first.is_some() { how.first } else { how.second };
            let _ = writeln!(out, "    only in {whose}");
            continue;
        }
        if layer.files.is_empty() {
            out.push_str("    the same files; the archives differ in the order or the form of their entries\n");
        }
        let shown = if how.all { layer.files.len() } else { FEW };
        for file in layer.files.iter().take(shown) {
            put_file(out, file, how);
        }
        if layer.files.len() > shown {
            let _ = writeln!(out, "    and {} more (--all shows them)", layer.files.len() - shown);
        }
    }
    for (what, differences) in [("config", &platform.config), ("manifest", &platform.manifest)] {
        if !differences.is_empty() {
            let _ = writeln!(out, "  {what}");
            for difference in differences {
                put_field(out, difference);
            }
        }
    }
}

fn put_file(out: &mut String, file: &FileDifference, how: &Shown<'_>) {
    let path = printable(&file.path.to_string_lossy());
    match file.change {
        Change::OnlyInFirst => _ = writeln!(out, "    /{path}: only in {}", how.first),
        Change::OnlyInSecond => _ = writeln!(out, "    /{path}: only in {}", how.second),
        Change::Changed => {
            let aspects: Vec<String> = file.aspects.iter().map(aspect).collect();
            let _ = writeln!(out, "    /{path}: {}", aspects.join(", "));
            match &file.excerpt {
                Some(Excerpt::Line { line, first, second }) => {
                    let _ = writeln!(out, "      line {line}\n        - {first}\n        + {second}");
                }
                Some(Excerpt::Byte { byte }) => _ = writeln!(out, "      from byte {byte}"),
                None => {}
            }
        }
    }
}

fn aspect(aspect: &Aspect) -> String {
    match aspect.name.as_str() {
        // Digests say nothing to people.
        "content" => "content".into(),
        name => format!("{name} {} / {}", printable(&aspect.first), printable(&aspect.second)),
    }
}

fn put_field(out: &mut String, difference: &Difference) {
    let shown = |value: &Option<Value>| value.as_ref().map_or_else(|| "none".into(), |v| one_line(&v.to_string()));
    let (first, second) = (shown(&difference.first), shown(&difference.second));
    let _ = writeln!(out, "    {}: {first} / {second}", printable(&difference.field));
}

/// An instruction as it stands in the Dockerfile, without what histories add.
fn written(created_by: &str) -> std::borrow::Cow<'_, str> {
    let text = created_by.strip_suffix(" # buildkit").unwrap_or(created_by);
    match text.strip_prefix("RUN /bin/sh -c ") {
        Some(command) => format!("RUN {command}").into(),
        None => text.into(),
    }
}

/// On one line, shortened.
fn one_line(text: &str) -> String {
    let text = printable(&text.split_whitespace().collect::<Vec<_>>().join(" "));
    match text.char_indices().nth(WIDTH) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

/// Without what a terminal would obey.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_shown_as_they_were_written() {
        assert_eq!(written("RUN /bin/sh -c make all # buildkit"), "RUN make all");
        assert_eq!(written("COPY a b # buildkit"), "COPY a b");
        assert_eq!(written("/bin/sh -c #(nop) CMD [\"sh\"]"), "/bin/sh -c #(nop) CMD [\"sh\"]");
    }

    #[test]
    fn a_terminal_obeys_nothing_of_an_image() {
        assert_eq!(one_line("a\u{1b}[2J\n  b"), "a\u{fffd}[2J b");
        assert_eq!(one_line(&"x".repeat(200)).chars().count(), WIDTH + 1);
    }
}
