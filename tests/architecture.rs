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
    ("dockerfile", 1),
    ("grpc", 1),
    ("oci", 1),
    ("ssh", 1),
    ("archive", 2),
    ("llb", 2),
    ("store", 3),
    ("tree", 3),
    ("attest", 4),
    ("registry", 4),
    ("engine", 5),
    ("policy", 5),
    ("source", 5),
    ("cache", 6),
    ("exec", 6),
    ("solver", 7),
    ("frontend", 8),
    ("exporter", 9),
    ("build", 10),
    ("images", 10),
    ("ui", 11),
    ("cli", 12),
];

fn layers() -> BTreeMap<&'static str, u32> {
    LAYERS.iter().copied().collect()
}

fn sources(dir: &Path) -> Vec<PathBuf> {
    files(dir, "rs")
}

/// All files below a directory whose names end so.
fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut stack = vec![dir.to_path_buf()];
    while let Some(dir) = stack.pop() {
        for entry in fs::read_dir(&dir).expect("the tree is readable") {
            let path = entry.expect("the tree is readable").path();
            if path.is_dir() {
                stack.push(path);
            } else if path.extension().is_some_and(|e| e == extension) {
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

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn src() -> PathBuf {
    root().join("src")
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
                if used != module && layer >= own {
                    wrong.push(format!("{}:{}: {module} ({own}) uses {used} ({layer})", path.display(), number + 1));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "edges against the layer rule:\n{}", wrong.join("\n"));
}

#[test]
fn documents_and_modules_name_the_same_layers() {
    for (module, layer) in LAYERS {
        let [dir, file] = ["/mod.rs", ".rs"].map(|end| src().join(format!("{module}{end}")));
        let text = fs::read_to_string(dir).or_else(|_| fs::read_to_string(file)).expect("a module of the table");
        assert!(text.starts_with(&format!("//! Layer {layer}: ")), "{module} does not begin with its layer, {layer}");
    }
    let page = fs::read_to_string(root().join("docs/ARCHITECTURE.md")).expect("the page is there");
    let mut told = BTreeMap::new();
    for line in page.lines() {
        let mut cells = line.trim_matches('|').split('|').map(str::trim);
        let Some(Ok(layer)) = cells.next().map(str::parse::<u32>) else { continue };
        let Some(module) = cells.next() else { continue };
        told.insert(module.trim_matches('`').to_owned(), layer);
    }
    let known: BTreeMap<_, _> = LAYERS.iter().map(|(module, layer)| ((*module).to_owned(), *layer)).collect();
    assert_eq!(told, known, "the table of docs/ARCHITECTURE.md (left) and the layers");
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut pages = files(&root().join("docs"), "md");
    pages.push(root().join("README.md"));
    let mut wrong = Vec::new();
    for page in pages {
        let text = fs::read_to_string(&page).expect("documents are UTF-8");
        let here = page.parent().expect("below the root");
        for link in text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link) {
            if link.contains("://") || link.contains(char::is_whitespace) {
                continue;
            }
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { page.clone() } else { here.join(file) };
            let reached = match fs::read_to_string(&target) {
                Ok(text) => heading.is_empty() || text.lines().any(|line| anchor(line).as_deref() == Some(heading)),
                Err(_) => target.is_dir(),
            };
            if !reached {
                wrong.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "links that lead nowhere:\n{}", wrong.join("\n"));
}

#[test]
fn figures_of_the_readme_are_those_of_the_performance_page() {
    let cells = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    let read = |page: &str| fs::read_to_string(root().join(page)).expect("the page is there");
    let measured = read("docs/PERFORMANCE.md");
    let readme = read("README.md");
    let rows: Vec<_> = readme.lines().filter(|line| line.starts_with("| W")).map(cells).collect();
    assert!(rows.len() >= 4, "the table is there");
    for row in rows {
        let (workload, _) = row[0].split_once(':').expect("the workload comes first");
        let of_it = |line: &&str| line.starts_with(&format!("| {workload} "));
        let measured = cells(measured.lines().find(of_it).expect("every row is one of the page"));
        for (shown, measured) in row[1..].iter().zip(&measured[1..]) {
            assert!(measured.split(", ").any(|one| one == shown), "{workload}: {shown} is not of \"{measured}\"");
        }
    }
}

/// What a heading is called in links, as forges make it: lower case, hyphens for spaces, no punctuation.
fn anchor(line: &str) -> Option<String> {
    let title = line.strip_prefix('#')?.trim_start_matches('#').strip_prefix(' ')?;
    let kept = title.trim().chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    Some(kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect())
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
    let rootless = root().join("rootless/src");
    for path in sources(&rootless) {
        let text = fs::read_to_string(&path).expect("sources are UTF-8");
        let blocks = text.matches("unsafe {").count();
        let reasons = text.matches("SAFETY:").count();
        assert!(reasons >= blocks, "{}: {blocks} unsafe blocks but {reasons} SAFETY comments", path.display());
    }
}

#[test]
fn no_module_is_called_utils_and_every_file_says_what_it_owns() {
    let rootless = root().join("rootless/src");
    for path in sources(&src()).into_iter().chain(sources(&rootless)) {
        let name = path.file_stem().expect("a file").to_string_lossy().into_owned();
        assert!(!["utils", "util", "helpers", "misc", "common"].contains(&name.as_str()), "{}", path.display());
        let text = fs::read_to_string(&path).expect("sources are UTF-8");
        assert!(text.starts_with("//!"), "{} does not start with a module doc", path.display());
        let lines = text.lines().count();
        assert!(lines <= 1000, "{} has {lines} lines; split it by subject", path.display());
    }
}
