//! What names without a registry are short for, by `registries.conf`: for buildah's command line alone (SPEC D3.36).

use std::path::PathBuf;

use toml::{Table, Value};

use super::errors::Failure;
use super::registries::registries_conf_files;
use super::settings::{home, usage, variable};
use crate::frontend::ShortNames;

/// Where podman writes down what somebody chose.
const CHOSEN: &str = "containers/short-name-aliases.conf";

/// Reads the machine's files, the user's, and what podman remembers.
///
/// # Errors
/// For a mode that does not exist. Files that cannot be read are none, as for mirrors.
pub(super) fn read() -> Result<ShortNames, Failure> {
    let cache = variable("XDG_CACHE_HOME").map(PathBuf::from).or_else(|| Some(home()?.join(".cache")));
    let chosen = cache.map(|dir| dir.join(CHOSEN));
    let mut files = registries_conf_files().into_iter();
    let main = files.next();
    // Mirrors take what they find first, names what they find last: the user's own.
    let (machine, own): (Vec<_>, Vec<_>) = files.partition(|file| file.starts_with("/etc"));
    let texts = main.into_iter().chain(machine).chain(own).chain(chosen).filter_map(|file| {
        let text = std::fs::read_to_string(&file).ok()?;
        Some((file, text))
    });
    let mut names = ShortNames::default();
    for (file, text) in texts {
        // Who reads the mirrors says what is wrong with it.
        let Ok(table) = text.parse::<Table>() else { continue };
        add(&mut names, &table).map_err(|e| usage(format!("{}: {e}", file.display())))?;
    }
    Ok(names)
}

/// Adds what one file says: its list is in place of earlier ones, its aliases go before them, and an empty one takes an alias away.
fn add(names: &mut ShortNames, table: &Table) -> Result<(), String> {
    let texts = |value: &Value| -> Option<Vec<String>> {
        value.as_array()?.iter().map(|text| text.as_str().map(ToOwned::to_owned)).collect()
    };
    if let Some(value) = table.get("unqualified-search-registries") {
        names.search = texts(value).ok_or("unqualified-search-registries: expected a list of texts")?;
    }
    match table.get("short-name-mode").and_then(Value::as_str) {
        // Nobody is there who could be asked which one is meant.
        None | Some("permissive" | "enforcing" | "") => {}
        Some("disabled") => names.aliases.clear(),
        Some(other) => return Err(format!("short-name-mode: unknown mode \"{other}\"")),
    }
    for (name, value) in table.get("aliases").and_then(Value::as_table).into_iter().flatten() {
        let value = value.as_str().ok_or(format!("alias {name}: expected a text"))?;
        match value {
            "" => drop(names.aliases.remove(name)),
            value => drop(names.aliases.insert(name.clone(), value.to_owned())),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    // SPEC D3.36
    #[test]
    fn d3_36_rules_of_several_files() {
        let mut names = ShortNames::default();
        for text in [
            "unqualified-search-registries = [\"a.example\"]\n[aliases]\n\"x\" = \"a.example/x\"\n\"y\" = \"a.example/y\"\n",
            "unqualified-search-registries = [\"b.example\", \"docker.io\"]\nshort-name-mode = \"enforcing\"\n[aliases]\n\"x\" = \"b.example/x\"\n\"y\" = \"\"\n",
        ] {
            add(&mut names, &text.parse().expect("TOML")).expect("well-formed");
        }
        assert_eq!(names.search, ["b.example", "docker.io"]);
        assert_eq!(names.aliases.into_iter().collect::<Vec<_>>(), [("x".to_owned(), "b.example/x".to_owned())]);
        for text in ["unqualified-search-registries = \"x\"", "short-name-mode = \"x\"", "[aliases]\nx = 1"] {
            assert!(add(&mut ShortNames::default(), &text.parse().expect("TOML")).is_err(), "{text}");
        }
    }
}
