//! What is installed for, or locked by, the package managers of languages.

use std::path::Path;

use serde_json::Value;
use walkdir::WalkDir;

use super::{Package, Tree, purl};

/// Deeper is no project.
const DEPTH: usize = 24;

pub(super) fn packages(tree: &Tree<'_>) -> Vec<Package> {
    let mut found = Vec::new();
    // Links are not followed, so nothing outside is seen.
    let walk = WalkDir::new(tree.root).max_depth(DEPTH).sort_by_file_name().into_iter();
    let kernel = |path: &Path| path.parent() == Some(tree.root) && matches!(name(path), "proc" | "sys" | "dev");
    for entry in walk.filter_entry(|entry| !kernel(entry.path())).flatten() {
        if !entry.file_type().is_file() {
            continue;
        }
        let Some(read) = reader(entry.path()) else { continue };
        let Some(path) = entry.path().strip_prefix(tree.root).ok().and_then(Path::to_str) else { continue };
        if let Some(text) = tree.text(path) {
            found.extend(read(&text).into_iter().map(|found| Package { found_in: path.to_owned(), ..found }));
        }
    }
    found
}

fn name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

/// Reads the packages that a file names.
type Reader = fn(&str) -> Vec<Package>;

fn reader(path: &Path) -> Option<Reader> {
    let parent = path.parent().map(name).unwrap_or_default();
    let above = |levels: usize| path.ancestors().nth(levels).map(name).unwrap_or_default();
    Some(match name(path) {
        "package-lock.json" | ".package-lock.json" => npm_lock,
        // `node_modules/NAME/package.json`, `node_modules/@SCOPE/NAME/package.json`
        "package.json" if above(2) == "node_modules" || (above(2).starts_with('@') && above(3) == "node_modules") => {
            npm_package
        }
        "METADATA" if parent.ends_with(".dist-info") => python,
        "PKG-INFO" if parent.ends_with(".egg-info") => python,
        "Cargo.lock" => cargo,
        "go.mod" => go,
        "Gemfile.lock" => gems,
        "composer.lock" => composer,
        _ => return None,
    })
}

fn package(kind: &str, full: &str, version: &str, licence: Option<&str>) -> Package {
    let (namespace, name) = full.rsplit_once('/').unwrap_or(("", full));
    Package {
        name: full.to_owned(),
        version: version.to_owned(),
        purl: purl(kind, namespace, name, version, &[]),
        licence: licence.map(ToOwned::to_owned),
        found_in: String::new(),
    }
}

fn text<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    value.get(key)?.as_str().filter(|text| !text.is_empty())
}

fn npm_package(json: &str) -> Vec<Package> {
    let Ok(value) = serde_json::from_str::<Value>(json) else { return Vec::new() };
    let (Some(name), Some(version)) = (text(&value, "name"), text(&value, "version")) else { return Vec::new() };
    vec![package("npm", name, version, text(&value, "license"))]
}

/// `packages` by path (npm 7 and later), or `dependencies` by name.
fn npm_lock(json: &str) -> Vec<Package> {
    let Ok(value) = serde_json::from_str::<Value>(json) else { return Vec::new() };
    let empty = serde_json::Map::new();
    let object = |key: &str| value.get(key).and_then(Value::as_object);
    if let Some(packages) = object("packages") {
        let installed = packages.iter().filter_map(|(path, value)| {
            let (_, name) = path.rsplit_once("node_modules/")?;
            Some(package("npm", text(value, "name").unwrap_or(name), text(value, "version")?, text(value, "license")))
        });
        return installed.collect();
    }
    let dependencies = object("dependencies").unwrap_or(&empty);
    dependencies.iter().filter_map(|(name, value)| Some(package("npm", name, text(value, "version")?, None))).collect()
}

/// Headers as in mail.
fn python(text: &str) -> Vec<Package> {
    let header = |name: &str| {
        let mut lines = text.lines().take_while(|line| !line.is_empty());
        lines.find_map(|line| line.strip_prefix(name)).map(str::trim).filter(|value| !value.is_empty())
    };
    let (Some(name), Some(version)) = (header("Name:"), header("Version:")) else { return Vec::new() };
    let normal = name.to_lowercase().replace('_', "-");
    let licence = header("License-Expression:");
    vec![Package { name: name.to_owned(), ..package("pypi", &normal, version, licence) }]
}

fn cargo(text: &str) -> Vec<Package> {
    let Ok(lock) = text.parse::<toml::Table>() else { return Vec::new() };
    let packages = lock.get("package").and_then(toml::Value::as_array);
    let one = |value: &toml::Value| {
        // What has no source is the project's own.
        value.get("source")?;
        let text = |key: &str| value.get(key)?.as_str();
        Some(package("cargo", text("name")?, text("version")?, None))
    };
    packages.into_iter().flatten().filter_map(one).collect()
}

/// `require NAME VERSION`, alone or in a block.
fn go(text: &str) -> Vec<Package> {
    let mut found = Vec::new();
    let mut block = false;
    for line in text.lines() {
        let line = line.split("//").next().unwrap_or_default().trim();
        let entry = match line.strip_prefix("require") {
            Some(rest) if rest.trim() == "(" => {
                block = true;
                continue;
            }
            Some(rest) => rest.trim(),
            None if line == ")" => {
                block = false;
                continue;
            }
            None if block => line,
            None => continue,
        };
        if let Some((name, version)) = entry.split_once(' ') {
            found.push(package("golang", name, version.trim(), None));
        }
    }
    found
}

/// Entries of `specs:` have four blanks, what they need has six.
fn gems(text: &str) -> Vec<Package> {
    let one = |line: &str| {
        let entry = line.strip_prefix("    ").filter(|rest| !rest.starts_with(' '))?;
        let (name, version) = entry.split_once(" (")?;
        Some(package("gem", name, version.strip_suffix(')')?, None))
    };
    text.lines().filter_map(one).collect()
}

fn composer(json: &str) -> Vec<Package> {
    let Ok(value) = serde_json::from_str::<Value>(json) else { return Vec::new() };
    let packages = value.get("packages").and_then(Value::as_array);
    let one = |value: &Value| {
        let licence = value.get("license").and_then(|list| list.get(0)).and_then(Value::as_str);
        Some(package("composer", text(value, "name")?, text(value, "version")?, licence))
    };
    packages.into_iter().flatten().filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    // SPEC C8.15
    #[test]
    fn c8_15_lock_files_name_packages() {
        let dir = tempfile::tempdir().expect("a directory");
        let put = |path: &str, text: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            std::fs::write(path, text).expect("written");
        };
        put(
            "app/package-lock.json",
            r#"{"packages": {"": {"version": "1"}, "node_modules/@a/b": {"version": "2.0.0", "license": "MIT"}}}"#,
        );
        put("app/node_modules/@a/b/package.json", r#"{"name": "@a/b", "version": "2.0.0", "license": "MIT"}"#);
        put("app/src/package.json", r#"{"name": "own", "version": "1"}"#);
        put("usr/lib/python3/Flask_X-1.dist-info/METADATA", "Name: Flask_X\nVersion: 1.0\n\nVersion: 9\n");
        put(
            "src/Cargo.lock",
            "[[package]]\nname = \"own\"\nversion = \"0.1.0\"\n[[package]]\nname = \"serde\"\nversion = \"1.0.1\"\nsource = \"registry+x\"\n",
        );
        put(
            "src/go.mod",
            "module x\n\nrequire github.com/a/b v1.2.3 // indirect\nrequire (\n\texample.org/c v0.1.0\n)\n",
        );
        put("src/Gemfile.lock", "GEM\n  specs:\n    rack (3.0)\n      dep (>= 1)\n");
        put("src/composer.lock", r#"{"packages": [{"name": "o/p", "version": "1.1", "license": ["MIT"]}]}"#);
        put("proc/go.mod", "require never v1\n");
        std::os::unix::fs::symlink("/etc", dir.path().join("link")).expect("linked");
        let found = packages(&Tree { root: dir.path() });
        let mut purls: Vec<&str> = found.iter().map(|package| package.purl.as_str()).collect();
        purls.sort_unstable();
        assert_eq!(
            purls,
            [
                "pkg:cargo/serde@1.0.1",
                "pkg:composer/o/p@1.1",
                "pkg:gem/rack@3.0",
                "pkg:golang/example.org/c@v0.1.0",
                "pkg:golang/github.com/a/b@v1.2.3",
                "pkg:npm/%40a/b@2.0.0",
                "pkg:npm/%40a/b@2.0.0",
                "pkg:pypi/flask-x@1.0",
            ]
        );
    }
}
