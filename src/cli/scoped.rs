//! buildx's credentials for one repository or action: `$BUILDX_CONFIG/config/HOST[/REPOSITORY][@ACTION[,ACTION]]/config.json`
//! (SPEC E1.09).

use std::path::{Path, PathBuf};

use super::settings::{docker_config_dir, variable};

/// The most specific `config.json` for a request; `None` if only the usual files apply.
pub(super) fn find(host: &str, repository: Option<&str>, actions: &[String]) -> Option<PathBuf> {
    let root = variable("BUILDX_CONFIG").map(PathBuf::from).or_else(|| Some(docker_config_dir()?.join("buildx")))?;
    search(&root.join("config"), host, repository, actions)
}

fn search(root: &Path, host: &str, repository: Option<&str>, actions: &[String]) -> Option<PathBuf> {
    // A request for several repositories at once has no actions of its own and matches nothing.
    if actions.is_empty() {
        return None;
    }
    let named = repository.filter(|r| !r.is_empty()).map(|repository| format!("{host}/{repository}"));
    // With the repository wins over without, more actions over fewer.
    named.into_iter().chain([host.to_owned()]).find_map(|place| best(root, &place, actions))
}

fn best(root: &Path, place: &str, actions: &[String]) -> Option<PathBuf> {
    let path = root.join(place);
    let (parent, name) = (path.parent()?, path.file_name()?.to_str()?);
    let mut found: Vec<(usize, PathBuf)> = Vec::new();
    for entry in std::fs::read_dir(parent).ok()?.filter_map(Result::ok) {
        let own = entry.file_name();
        let Some(own) = own.to_str() else { continue };
        let listed: Vec<&str> = match own.strip_prefix(name) {
            Some("") => Vec::new(),
            Some(rest) => match rest.strip_prefix('@') {
                Some(list) => list.split(',').collect(),
                None => continue,
            },
            None => continue,
        };
        let file = entry.path().join("config.json");
        if listed.iter().all(|a| actions.iter().any(|wanted| wanted == a)) && file.is_file() {
            found.push((listed.len(), file));
        }
    }
    found.into_iter().max().map(|(_, file)| file)
}

#[cfg(test)]
mod tests {
    use super::*;

    // SPEC E1.09, N2.18
    #[test]
    fn the_most_specific_directory_counts() {
        let dir = tempfile::tempdir().expect("a directory");
        let put = |place: &str| {
            let dir = dir.path().join(place);
            std::fs::create_dir_all(&dir).expect("created");
            std::fs::write(dir.join("config.json"), "{}").expect("written");
        };
        for place in
            ["r.example", "r.example@push", "r.example/team/app@push", "r.example/team/app@push,pull", "other@pull"]
        {
            put(place);
        }
        let find = |host: &str, repository: &str, actions: &[&str]| {
            let actions: Vec<String> = actions.iter().map(|a| (*a).to_owned()).collect();
            let found = search(dir.path(), host, Some(repository), &actions)?;
            Some(found.parent()?.strip_prefix(dir.path()).ok()?.display().to_string())
        };
        assert_eq!(find("r.example", "team/app", &["pull", "push"]).as_deref(), Some("r.example/team/app@push,pull"));
        assert_eq!(find("r.example", "team/app", &["push"]).as_deref(), Some("r.example/team/app@push"));
        assert_eq!(find("r.example", "team/app", &["pull"]).as_deref(), Some("r.example"));
        assert_eq!(find("r.example", "x", &["pull", "push"]).as_deref(), Some("r.example@push"));
        assert_eq!(find("other", "x", &["push"]), None);
        assert_eq!(find("r.example", "team/app", &[]), None);
    }
}
