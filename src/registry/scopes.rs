//! Scopes of the token protocol (SPEC E3.04).

use std::collections::{BTreeMap, BTreeSet};

/// What a request needs to be allowed, e.g. `repository:a/b:pull,push`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Scopes(BTreeMap<String, BTreeSet<String>>);

impl Scopes {
    /// To read from a repository.
    pub(super) fn pull(repository: &str) -> Self {
        let mut scopes = Self::default();
        scopes.merge(&format!("repository:{repository}:pull"));
        scopes
    }

    /// To write to a repository.
    pub(super) fn push(repository: &str) -> Self {
        let mut scopes = Self::default();
        scopes.merge(&format!("repository:{repository}:pull,push"));
        scopes
    }

    /// Adds scopes in the notation of challenges: blanks between scopes, commas between actions.
    pub(super) fn merge(&mut self, text: &str) {
        for scope in text.split_ascii_whitespace() {
            let (resource, actions) = scope.rsplit_once(':').unwrap_or((scope, ""));
            let entry = self.0.entry(resource.to_owned()).or_default();
            entry.extend(actions.split(',').filter(|a| !a.is_empty()).map(ToOwned::to_owned));
        }
    }

    /// One entry per resource.
    pub(super) fn list(&self) -> Vec<String> {
        let action_list = |actions: &BTreeSet<String>| actions.iter().map(String::as_str).collect::<Vec<_>>().join(",");
        self.0.iter().map(|(resource, actions)| format!("{resource}:{}", action_list(actions))).collect()
    }

    /// The actions, where there is one resource only.
    pub(super) fn only_actions(&self) -> Vec<String> {
        let mut all = self.0.values();
        match (all.next(), all.next()) {
            (Some(actions), None) => actions.iter().cloned().collect(),
            _ => Vec::new(),
        }
    }

    /// All entries, separated by blanks.
    pub(super) fn text(&self) -> String {
        self.list().join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn e3_04_scopes_merge_by_repository() {
        let mut scopes = Scopes::pull("a/b");
        scopes.merge("repository:a/b:push,pull repository:c:pull");
        assert_eq!(scopes.text(), "repository:a/b:pull,push repository:c:pull");
        assert_eq!(Scopes::push("x").only_actions(), ["pull", "push"]);
        assert!(scopes.only_actions().is_empty());
        scopes.merge("registry:catalog:*");
        assert_eq!(scopes.list().len(), 3);
        assert_eq!(Scopes::push("x").text(), "repository:x:pull,push");
    }
}
