//! What is fuzzed: functions of bytes that hold whatever the bytes are. cargo-fuzz drives them with a compiler that watches
//! (`fuzz_targets`), `tests/fuzz.rs` with mutations of good inputs in every run of the tests.

use std::fs;
use std::io::{Seek as _, Write as _};
use std::path::Path;

use rbuild::archive::{self, ApplyOptions, Buffered, Dialect, UnpackLimits};
use rbuild::dockerfile::excerpt::excerpt;
use rbuild::dockerfile::gitref::GitRef;
use rbuild::dockerfile::ignore::IgnoreFile;
use rbuild::dockerfile::lint::{CheckConfig, lint};
use rbuild::dockerfile::parser::{detect_check, detect_syntax, parse, parse_trigger};
use rbuild::dockerfile::print::print;
use rbuild::dockerfile::{Expander, Mode};
use rbuild::oci::manifest::{Document, parse_document, to_json_pretty};
use rbuild::oci::{ImageConfig, Reference};
use rbuild::registry::{answers, challenge};

/// A name and what is fuzzed.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: &[Target] = &[
    ("lexer", lexer),
    ("parser", parser),
    ("expansion", expansion),
    ("dockerignore", dockerignore),
    ("gitref", gitref),
    ("tar", tar),
    ("image", image),
    ("registry", registry),
];

/// Any bytes as lines, directives and heredocs: every span is inside of the file.
pub fn lexer(bytes: &[u8]) {
    let _ = detect_syntax(bytes);
    let _ = detect_check(bytes);
    let parsed = parse(bytes);
    for instruction in &parsed.dockerfile.instructions {
        assert!(instruction.span.start < instruction.span.end && instruction.span.end <= bytes.len());
        assert!(1 <= instruction.lines.0 && instruction.lines.0 <= instruction.lines.1);
    }
    for diagnostic in parsed.errors.iter().chain(&parsed.warnings) {
        assert!(diagnostic.span.as_ref().is_none_or(|span| span.start <= span.end && span.end <= bytes.len()));
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = parse_trigger(text, '\\');
    }
}

/// A Dockerfile to a tree, to text, to the same tree.
pub fn parser(bytes: &[u8]) {
    let parsed = parse(bytes);
    for error in &parsed.errors {
        if let Some(lines) = error.lines {
            let _ = excerpt("Dockerfile", bytes, lines, error.span.as_ref());
        }
    }
    if !parsed.errors.is_empty() {
        return;
    }
    let (tree, warnings) = (parsed.dockerfile, parsed.warnings);
    let config = tree.directives.check.as_ref().and_then(|word| CheckConfig::parse(&word.text).ok());
    let _ = lint(&tree, &warnings, &config.unwrap_or_default());
    let once = print(&tree);
    let again = parse(once.as_bytes());
    assert!(again.errors.is_empty(), "what was printed parses: {once}");
    assert_eq!(tree.instructions.len(), again.dockerfile.instructions.len(), "{once}");
    assert_eq!(once, print(&again.dockerfile));
}

/// A word with variables, and behind a zero byte the value of some of them; in every mode.
pub fn expansion(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (text, value) = text.split_once('\0').unwrap_or((&text, "a b"));
    let escape = if bytes.len() & 1 == 0 { '`' } else { '\\' };
    // Some variables are set, some are empty, the others unset.
    let lookup = |name: &str| match name.len() % 3 {
        0 => None,
        1 => Some(value.to_owned()),
        _ => Some(String::new()),
    };
    for mode in [Mode::Word, Mode::Heredoc, Mode::Display] {
        let _ = Expander::new(escape, mode).expand(text, &lookup);
    }
    if let Ok((words, _)) = Expander::words(escape).expand_words(text, &lookup) {
        assert!(words.iter().all(|word| !word.is_empty()));
    }
}

/// An ignore file, and behind zero bytes paths against it: what hides a path is a pattern of the file.
pub fn dockerignore(bytes: &[u8]) {
    let mut pieces = bytes.split(|byte| *byte == 0);
    let Ok(file) = IgnoreFile::parse(".dockerignore", pieces.next().unwrap_or_default()) else { return };
    for path in pieces.take(20) {
        if let Some(pattern) = file.excluded_by(path) {
            assert!(!pattern.text.starts_with(b"!"), "an exception hides nothing");
            assert!(file.patterns().contains(pattern));
        }
    }
}

/// Text that may be a reference to a git repository: none leads above it.
pub fn gitref(bytes: &[u8]) {
    if let Some(Ok(reference)) = GitRef::parse(&String::from_utf8_lossy(bytes)) {
        let _ = reference.host();
        assert!(!reference.subdir.split('/').any(|part| part == ".."), "{reference:?}");
        assert!(!reference.remote.is_empty() && !reference.remote.contains(['#', '?']), "{reference:?}");
    }
}

/// What unpacking in here may come to.
const LIMITS: UnpackLimits = UnpackLimits { bytes: 4 << 20, entries: 2_000 };

/// An archive, as a layer in both ways, as what ADD unpacks, and as one from a source: nothing beside its target is
/// different afterwards. Headers get checksums that fit, so that what is in them is read.
pub fn tar(bytes: &[u8]) {
    let mut bytes = bytes.to_vec();
    for header in bytes.chunks_exact_mut(512).filter(|block| block[257..262] == *b"ustar") {
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    let jail = tempfile::tempdir().expect("a directory");
    let outside = jail.path().join("outside");
    fs::create_dir(&outside).expect("a directory");
    fs::write(outside.join("canary"), "canary").expect("a file");
    let options = ApplyOptions { limits: LIMITS };
    for way in 0..4 {
        let target = jail.path().join(format!("target{way}"));
        fs::create_dir(&target).expect("a directory");
        // Where a symlink that was planted before leads.
        std::os::unix::fs::symlink("../outside", target.join("planted")).expect("a symlink");
        match way {
            0 => drop(archive::apply(&mut Buffered::hashed(&*bytes), &target, Dialect::Native, &[], &options)),
            1 => drop(archive::apply(&mut Buffered::hashed(&*bytes), &target, Dialect::Overlay, &[], &options)),
            2 => drop(archive::extract_plain(&mut &*bytes, &target)),
            _ => {
                let mut file = tempfile::tempfile().expect("a file");
                file.write_all(&bytes).and_then(|()| file.rewind()).expect("written");
                if let Ok(Some(format)) = archive::detect_archive(&file) {
                    let again = file.try_clone().expect("a descriptor");
                    drop(archive::newest_entry(again, format));
                    drop(archive::extract_archive(file, format, &target, Path::new("/planted"), Some((1, 1))));
                }
            }
        }
        unlock(&target);
    }
    let _ = archive::looks_like_archive(&bytes);
    drop(archive::index_layer(&mut &*bytes, &options));
    let names: Vec<_> = fs::read_dir(&outside).expect("readable").flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(names, ["canary"], "something was made or removed outside");
    assert_eq!(fs::read(outside.join("canary")).expect("readable"), b"canary");
}

/// Lets directories be removed whose modes forbid it.
fn unlock(dir: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    let _ = fs::set_permissions(dir, fs::Permissions::from_mode(0o700));
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            unlock(&entry.path());
        }
    }
}

/// Manifests, indexes, configs and references: what was understood can be written, and is understood the same again.
pub fn image(bytes: &[u8]) {
    for kind in ["application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.v2+json", ""]
    {
        let Ok(document) = parse_document(bytes, kind) else { continue };
        let (text, again) = match &document {
            Document::Manifest(manifest) => (to_json_pretty(manifest), "a manifest"),
            Document::Index(index) => (to_json_pretty(index), "an index"),
        };
        match (again, parse_document(&text, kind)) {
            ("a manifest", Ok(Document::Manifest(manifest))) => assert_eq!(to_json_pretty(&manifest), text),
            ("an index", Ok(Document::Index(index))) => assert_eq!(to_json_pretty(&index), text),
            (_, other) => panic!("{again} is written as {other:?}: {}", String::from_utf8_lossy(&text)),
        }
    }
    if let Ok(config) = serde_json::from_slice::<ImageConfig>(bytes) {
        let text = to_json_pretty(&config);
        let again: ImageConfig = serde_json::from_slice(&text).expect("what was written is understood");
        assert_eq!(to_json_pretty(&again), text);
        let _ = config.platform().normalised();
    }
    let text: String = String::from_utf8_lossy(bytes).chars().take(300).collect();
    if let Ok(reference) = Reference::parse_raw(&text) {
        assert!(!reference.repository().split('/').any(|part| matches!(part, "." | "..")), "{text:?}");
    }
}

/// Challenges, tokens, errors and links to further pages: a token's life can be added to any time, messages are one short
/// line without control characters, and pages are of the same repository.
pub fn registry(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for challenge in challenge::parse(&text) {
        assert!(!challenge.scheme.is_empty() && challenge.scheme.is_ascii());
        let _ = (challenge.param("realm"), challenge.param("scope"));
    }
    if let Ok(token) = answers::token(bytes) {
        assert!(!token.token.is_empty());
        assert!(std::time::Instant::now().checked_add(token.life).is_some() && token.life.as_secs() <= 24 * 3600);
    }
    let message = answers::error_message(bytes);
    assert!(message.chars().count() <= 300 && !message.contains(char::is_control), "{message:?}");
    let url = url::Url::parse("https://registry.example/v2/a/b/referrers/x").expect("a URL");
    if let Some(next) = answers::next_page(&text, &url, "a/b") {
        let next = url.join(&format!("/v2/a/b/{next}")).expect("a path");
        assert_eq!(next.host_str(), Some("registry.example"), "{text:?}");
        assert!(next.path().starts_with("/v2/a/b/"), "{text:?} leads to {next}");
    }
}
