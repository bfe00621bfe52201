//! The layer rule of `docs/ARCHITECTURE.md`: a module imports from strictly lower layers only; and what else is true of the
//! source as a whole.

#[path = "architecture/hints.rs"]
mod hints;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Layer numbers; a module may use modules with smaller numbers and itself.
const LAYERS: &[(&str, u32)] = &[
    ("base", 0),
    ("bake", 1),
    ("oci", 1),
    ("dockerfile", 1),
    ("archive", 1),
    ("llb", 1),
    ("store", 2),
    ("tree", 2),
    ("policy", 2),
    ("attest", 3),
    ("registry", 3),
    ("engine", 4),
    ("source", 4),
    ("exec", 4),
    ("cache", 4),
    ("solver", 5),
    ("frontend", 6),
    ("exporter", 7),
    ("build", 8),
    ("images", 8),
    ("cli", 10),
    ("ui", 10),
];

/// Edges inside one layer that are settled: plain data that another plain-data module is made of.
const SIBLINGS: &[(&str, &str)] =
    &[("llb", "oci"), ("archive", "oci"), ("exec", "source"), ("source", "exec"), ("cache", "source"), ("cli", "ui")];

fn layers() -> BTreeMap<&'static str, u32> {
    LAYERS.iter().copied().collect()
}

fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut stack = vec![dir.to_path_buf()];
    while let Some(dir) = stack.pop() {
        for entry in fs::read_dir(&dir).expect("the source tree is readable") {
            let path = entry.expect("the source tree is readable").path();
            if path.is_dir() {
                stack.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Tests may do what the code must not.
fn is_test(path: &Path) -> bool {
    let name = path.file_stem().expect("a file").to_string_lossy().into_owned();
    path.components().any(|c| c.as_os_str() == "tests") || name.ends_with("tests") || name == "testing"
}

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Top-level module a file belongs to, e.g. `store` for `src/store/gc/lru.rs`.
fn module_of(path: &Path) -> String {
    let relative = path.strip_prefix(src()).expect("below src");
    let first = relative.components().next().expect("not empty").as_os_str().to_string_lossy();
    first.trim_end_matches(".rs").to_owned()
}

#[test]
fn modules_import_from_lower_layers_only() {
    let layers = layers();
    let mut wrong = Vec::new();
    for path in sources(&src()) {
        let module = module_of(&path);
        if module == "main" || module == "lib" || is_test(&path) {
            continue;
        }
        let Some(&own) = layers.get(module.as_str()) else {
            wrong.push(format!("{}: module {module} has no layer", path.display()));
            continue;
        };
        let text = fs::read_to_string(&path).expect("sources are UTF-8");
        let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        for (number, line) in text.lines().enumerate() {
            for rest in line.split("crate::").skip(1) {
                let used: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                let Some(&layer) = layers.get(used.as_str()) else { continue };
                let sibling = SIBLINGS.contains(&(module.as_str(), used.as_str()));
                if used != module && layer >= own && !sibling {
                    wrong.push(format!("{}:{}: {module} ({own}) uses {used} ({layer})", path.display(), number + 1));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "edges against the layer rule:\n{}", wrong.join("\n"));
}

#[test]
fn only_cli_and_main_read_the_environment() {
    let mut wrong = Vec::new();
    for path in sources(&src()) {
        let module = module_of(&path);
        if ["main", "cli"].contains(&module.as_str()) || is_test(&path) {
            continue;
        }
        let text = fs::read_to_string(&path).expect("sources are UTF-8");
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for (number, line) in code.lines().enumerate() {
            let asks = ["std::env::var", "env::vars", "std::process::exit", "println!", "eprintln!"];
            if asks.iter().any(|a| line.contains(a)) && !line.trim_start().starts_with("//") {
                wrong.push(format!("{}:{}: {}", path.display(), number + 1, line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "below cli nothing reads the environment, prints or exits:\n{}", wrong.join("\n"));
}

#[test]
fn unsafe_code_stays_in_rootless() {
    let mut wrong = Vec::new();
    for path in sources(&src()) {
        let text = fs::read_to_string(&path).expect("sources are UTF-8");
        if text.lines().any(|l| l.contains("unsafe ") && !l.trim_start().starts_with("//")) {
            wrong.push(path.display().to_string());
        }
    }
    assert!(wrong.is_empty(), "unsafe outside rootless/: {wrong:?}");
    let rootless = Path::new(env!("CARGO_MANIFEST_DIR")).join("rootless/src");
    for path in sources(&rootless) {
        let text = fs::read_to_string(&path).expect("sources are UTF-8");
        let blocks = text.matches("unsafe {").count();
        let reasons = text.matches("SAFETY:").count();
        assert!(reasons >= blocks, "{}: {blocks} unsafe blocks but {reasons} SAFETY comments", path.display());
    }
}

#[test]
fn no_module_is_called_utils_and_every_file_says_what_it_owns() {
    let rootless = Path::new(env!("CARGO_MANIFEST_DIR")).join("rootless/src");
    for path in sources(&src()).into_iter().chain(sources(&rootless)) {
        let name = path.file_stem().expect("a file").to_string_lossy().into_owned();
        assert!(!["utils", "util", "helpers", "misc", "common"].contains(&name.as_str()), "{}", path.display());
        let text = fs::read_to_string(&path).expect("sources are UTF-8");
        assert!(text.starts_with("//!"), "{} does not start with a module doc", path.display());
        let lines = text.lines().count();
        assert!(lines <= 1000, "{} has {lines} lines; split it by subject", path.display());
    }
}
