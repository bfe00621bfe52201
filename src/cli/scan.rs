//! Lists of software by a scanner of the user's own: `--sbom-scanner-image` and what belongs to it (SPEC C8.14, D3.28).
//!
//! The scanner's commands are further stages behind those of the Dockerfile: steps like any others, isolated and cached, that see the
//! image's files and the context as mounts. What they write is merged here; what is to be in the image is copied by the build itself.

use std::ops::ControlFlow;
use std::path::Path;

use super::args::{Build, ScanArgs};
use super::errors::Failure;
use super::invocation::Invocation;
use super::settings::usage;
use super::stages::{forget, known, outline};
use super::verify::exported;
use super::worker::Inside;
use crate::attest::merge::{Strategy, merge, package_urls};
use crate::base::wording::did_you_mean;
use crate::base::{FaultKind, file};
use crate::cli::grammar::csv_field;
use crate::frontend::StageOutline;

/// Stages and contexts of ours.
const SCAN: &str = "rbuild-sbom-scan";
const TARGET: &str = "rbuild-sbom-target";
const LISTS: &str = "rbuild-sbom-lists";
const FILES: &str = "rbuild-sbom-files";
/// Names of what is put into the image, in that context.
const LIST: &str = "list";
const URLS: &str = "urls";
/// Where a scanner finds what it scans, and writes.
const ROOTFS: &str = "/.rootfs";
const CONTEXT: &str = "/.context";
const OUTPUT: &str = "/.scans";

/// What is asked for.
pub(super) struct Scan {
    args: ScanArgs,
    image: String,
    commands: Vec<Vec<String>>,
    strategy: Strategy,
    /// What the image gets, until the build is over.
    files: tempfile::TempDir,
}

impl Scan {
    /// Reads the flags; `None` if there is nothing to scan.
    ///
    /// # Errors
    /// For flags that need others, and values that mean nothing.
    pub(super) fn wanted(args: &Build) -> Result<Option<Self>, Failure> {
        let scan = &args.drop_in.scan;
        let places = scan.sbom_output.is_some()
            || scan.sbom_purl_output.is_some()
            || scan.sbom_image_output.is_some()
            || scan.sbom_image_purl_output.is_some();
        if scan.sbom_scanner_image.is_none() && scan.sbom_scanner_command.is_empty() && !places {
            return Ok(None);
        }
        let image = scan.sbom_scanner_image.clone().filter(|image| !image.is_empty());
        let (Some(image), false) = (image, scan.sbom_scanner_command.is_empty()) else {
            return Err(usage("a list of software needs --sbom-scanner-image and --sbom-scanner-command"));
        };
        if !places {
            return Err(usage("--sbom-scanner-image: the list goes nowhere")
                .hint("give --sbom-output, --sbom-purl-output, --sbom-image-output or --sbom-image-purl-output"));
        }
        let strategy = match scan.sbom_merge_strategy.as_deref().filter(|name| !name.is_empty()) {
            Some(name) => Strategy::named(name).ok_or_else(|| {
                let near = did_you_mean(name, Strategy::NAMES);
                let known = Strategy::NAMES.join(", ");
                usage(format!("--sbom-merge-strategy: unknown strategy \"{name}\"{near}; expected {known}"))
            })?,
            None if scan.sbom_scanner_command.len() > 1 => {
                return Err(usage("several commands need --sbom-merge-strategy"));
            }
            None => Strategy::Concatenate,
        };
        for (flag, path) in
            [("sbom-image-output", &scan.sbom_image_output), ("sbom-image-purl-output", &scan.sbom_image_purl_output)]
        {
            if let Some(path) = path.as_ref().filter(|path| !path.starts_with('/') || path.contains('$')) {
                return Err(usage(format!("--{flag} {path}: expected an absolute path, without $")));
            }
        }
        if args.platform.len() > 1 || args.platform.iter().any(|text| text.contains(',')) || args.drop_in.all_platforms
        {
            return Err(usage("a list of software is made for one platform at a time"));
        }
        let words = |text: &String| split(text).map_err(|e| usage(format!("--sbom-scanner-command {text}: {e}")));
        let commands = scan.sbom_scanner_command.iter().map(words).collect::<Result<_, _>>()?;
        let files = tempfile::tempdir().map_err(|e| {
            Failure::new(FaultKind::of_io(&e, FaultKind::Store), format!("cannot make a directory: {e}"))
        })?;
        Ok(Some(Self { args: scan.clone(), image, commands, strategy, files }))
    }

    /// Scans, and writes the lists; the build that is left to do, or the exit code of one that failed and has said why.
    ///
    /// # Errors
    /// When the Dockerfile is not here, a list is none, or a file cannot be written.
    pub(super) fn run(&self, inside: &Inside, args: &Build) -> Result<ControlFlow<u8, Invocation>, Failure> {
        let found = self.files.path().join("found");
        let mut scanning = args.clone();
        forget(&mut scanning);
        scanning.output = vec![format!("type=local,{}", csv_field("dest", &found.display().to_string()))];
        let mut scanning = Invocation::new(inside, scanning)?;
        known("--sbom-scanner-image", &scanning)?;
        let all = outline(&scanning)?;
        let target = all.iter().find(|stage| stage.is_target);
        let target = target.ok_or_else(|| Failure::new(FaultKind::Internal, "the target is no stage"))?;
        let request = &mut scanning.settings.request;
        let (text, name) = named(target, until_end_of(target, &request.dockerfile));
        request.dockerfile = [text, self.stages(&name).into_bytes()].concat();
        request.options.target = Some(LISTS.into());
        if let ControlFlow::Break(code) = exported(inside, scanning, "scanning for software")? {
            return Ok(ControlFlow::Break(code));
        }
        let lists = self.lists(&found)?;
        let list = merge(self.strategy, &lists)
            .map_err(|e| Failure::new(FaultKind::Input, format!("--sbom-merge-strategy: {e}")))?;
        let urls = package_urls(&lists);
        let put = |path: &Path, bytes: &[u8]| {
            file::write_atomic(path, bytes).map_err(|e| {
                Failure::new(FaultKind::of_io(&e, FaultKind::Store), format!("cannot write {}: {e}", path.display()))
            })
        };
        for (path, bytes) in [(&self.args.sbom_output, &list), (&self.args.sbom_purl_output, &urls)] {
            path.as_deref().map_or(Ok(()), |path| put(path, bytes))?;
        }
        let mut copies = String::new();
        let into = self.files.path().join("into");
        for (name, path, bytes) in
            [(LIST, &self.args.sbom_image_output, &list), (URLS, &self.args.sbom_image_purl_output, &urls)]
        {
            let Some(path) = path else { continue };
            std::fs::create_dir_all(&into)
                .map_err(|e| Failure::new(FaultKind::Store, format!("cannot make a directory: {e}")))?;
            put(&into.join(name), bytes)?;
            copies += &format!("COPY --from={FILES} {}\n", json(&[format!("/{name}"), path.clone()]));
        }
        let mut rest = args.clone();
        if copies.is_empty() {
            return Invocation::new(inside, rest).map(ControlFlow::Continue);
        }
        rest.build_context.push(format!("{FILES}={}", into.display()));
        let mut rest = Invocation::new(inside, rest)?;
        let request = &mut rest.settings.request;
        request.dockerfile = [until_end_of(target, &request.dockerfile), copies.into_bytes()].concat();
        Ok(ControlFlow::Continue(rest))
    }

    /// The stages that scan.
    fn stages(&self, target: &str) -> String {
        let mut text = format!("FROM --platform=$BUILDPLATFORM {} AS {SCAN}\nUSER 0:0\nWORKDIR {OUTPUT}\n", self.image);
        for (number, command) in self.commands.iter().enumerate() {
            let output = format!("{OUTPUT}/{number}");
            let reads = |what: &str| command.iter().any(|word| word.contains(what));
            let words: Vec<String> = command
                .iter()
                .map(|word| word.replace("{ROOTFS}", ROOTFS).replace("{CONTEXT}", CONTEXT).replace("{OUTPUT}", &output))
                .collect();
            text += "RUN ";
            if reads("{ROOTFS}") {
                text += &format!("--mount=type=bind,from={target},target={ROOTFS} ");
            }
            if reads("{CONTEXT}") {
                text += &format!("--mount=type=bind,target={CONTEXT} ");
            }
            text += &json(&words);
            text.push('\n');
        }
        text + &format!("FROM scratch AS {LISTS}\nCOPY --from={SCAN} {OUTPUT}/ /\n")
    }

    fn lists(&self, found: &Path) -> Result<Vec<Vec<u8>>, Failure> {
        let one = |number: usize| {
            let path = found.join(number.to_string());
            std::fs::read(path).map_err(|_| {
                let command = self.args.sbom_scanner_command.get(number).map(String::as_str).unwrap_or_default();
                Failure::new(FaultKind::Input, format!("--sbom-scanner-command {command}: it wrote no list"))
                    .hint("the file that it is to write is {OUTPUT} in the command")
            })
        };
        (0..self.commands.len()).map(one).collect()
    }
}

/// The file as far as a stage reaches. What comes after it is not needed for it.
fn until_end_of(stage: &StageOutline, text: &[u8]) -> Vec<u8> {
    let lines = text.split_inclusive(|byte| *byte == b'\n');
    let count = stage.next.map_or(usize::MAX, |line| (line as usize).saturating_sub(1));
    let mut kept = lines.take(count).collect::<Vec<_>>().concat();
    if !kept.ends_with(b"\n") {
        kept.push(b'\n');
    }
    kept
}

/// The file with a name for a stage, which mounts want, and the name.
fn named(stage: &StageOutline, text: Vec<u8>) -> (Vec<u8>, String) {
    if let Some(name) = &stage.name {
        return (text, name.clone());
    }
    let mut out = Vec::with_capacity(text.len() + TARGET.len() + 4);
    for (line, number) in text.split_inclusive(|byte| *byte == b'\n').zip(1..) {
        if number == stage.from {
            out.extend_from_slice(line.trim_ascii_end());
            out.extend_from_slice(format!(" AS {TARGET}\n").as_bytes());
        } else {
            out.extend_from_slice(line);
        }
    }
    (out, TARGET.to_owned())
}

fn json(words: &[String]) -> String {
    serde_json::Value::from(words.to_vec()).to_string()
}

/// A command as words, as a shell would split it; nothing is expanded.
fn split(text: &str) -> Result<Vec<String>, String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (Some(end), c) if c == end => quote = None,
            (None | Some('"'), '\\') => word.get_or_insert_default().extend(chars.next()),
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err("a quote is not closed".into());
    }
    words.extend(word);
    if words.is_empty() { Err("it is empty".into()) } else { Ok(words) }
}

#[cfg(test)]
mod tests {
    use super::*;

    // SPEC D3.28
    #[test]
    fn d3_28_commands_are_words() {
        assert_eq!(
            split("/s scan -q dir:{ROOTFS} --o 'a b'c \"\" d\\ e"),
            Ok(["/s", "scan", "-q", "dir:{ROOTFS}", "--o", "a bc", "", "d e"].map(ToOwned::to_owned).to_vec())
        );
        assert!(split("'a").is_err() && split(" ").is_err());
    }

    // SPEC D3.28
    #[test]
    fn d3_28_only_what_the_target_needs_is_left() {
        let base = "a".to_owned();
        let stage = |next| {
            let base = base.clone();
            StageOutline { index: 0, name: None, base, below: None, is_target: true, from: 1, next }
        };
        let text = b"FROM a\nRUN b\nFROM c";
        assert_eq!(until_end_of(&stage(Some(3)), text), b"FROM a\nRUN b\n");
        assert_eq!(until_end_of(&stage(None), text), b"FROM a\nRUN b\nFROM c\n");
        let (text, name) = named(&stage(None), b"FROM a \nRUN b\n".to_vec());
        assert_eq!((text.as_slice(), name.as_str()), (&b"FROM a AS rbuild-sbom-target\nRUN b\n"[..], TARGET));
        let own = StageOutline { name: Some("own".into()), ..stage(None) };
        assert_eq!(named(&own, b"FROM a AS own\n".to_vec()), (b"FROM a AS own\n".to_vec(), "own".to_owned()));
    }
}
