//! Names of images without a registry, where somebody else's rules say what they are short for (SPEC D3.36).
//!
//! Without such rules they are Docker Hub's, as everywhere in a Dockerfile.

use std::collections::{BTreeMap, HashSet};

use super::base::base_platform;
use super::error::FrontendError;
use super::plan::{Origin, Outlook, Plan, StageId};
use crate::base::FaultKind;
use crate::llb::{FrontendHost, ResolveMode};
use crate::oci::Reference;

/// Where images are that were built here under a name without a registry.
const LOCAL: &str = "localhost";

/// The rules.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ShortNames {
    /// What a name stands for, both without tags.
    pub aliases: BTreeMap<String, String>,
    /// Registries, and perhaps a path in them, that are asked for others, in this order.
    pub search: Vec<String>,
}

impl ShortNames {
    /// What `name` may be, the likeliest first; nothing if it says itself which registry is meant, or no rule is about it.
    fn candidates(&self, name: &str, meant: &Reference) -> Vec<Reference> {
        let says_itself = ["docker.io/", "index.docker.io/"].iter().any(|host| name.starts_with(host));
        if meant.domain != "docker.io" || says_itself {
            return Vec::new();
        }
        let end = name.find(['@', ':']).unwrap_or(name.len());
        let (bare, suffix) = name.split_at(end);
        let full = match self.aliases.get(bare) {
            Some(alias) => vec![format!("{alias}{suffix}")],
            None => self.search.iter().map(|host| format!("{host}/{name}")).collect(),
        };
        if full.is_empty() {
            return Vec::new();
        }
        // What cannot be a name is none that anybody could ask for.
        std::iter::once(format!("{LOCAL}/{name}")).chain(full).filter_map(|text| text.parse().ok()).collect()
    }
}

/// Decides which images the short names of stages mean: an image that was built here, else the first that there is. `chosen` are stages
/// for which that is done.
pub(super) async fn choose(
    plan: &mut Plan,
    outlook: &Outlook<'_>,
    host: &dyn FrontendHost,
    (names, mode): (&ShortNames, ResolveMode),
    chosen: &mut HashSet<StageId>,
) -> Result<(), FrontendError> {
    let reachable = plan.reachable();
    for id in (0..reachable.len()).filter(|id| reachable[*id]) {
        let Origin::Image(meant) = &plan.stages[id].origin else { continue };
        let candidates = names.candidates(&plan.stages[id].base, meant);
        if candidates.is_empty() || !chosen.insert(id) {
            continue;
        }
        let platform = base_platform(plan, id, outlook);
        let mut failed = Vec::new();
        for candidate in candidates {
            let local = candidate.domain == LOCAL;
            if local && mode == ResolveMode::Pull {
                continue;
            }
            let how = if local { ResolveMode::Local } else { mode };
            match host.resolve_image(&format!("docker-image://{candidate}"), &platform, how, None).await {
                Ok(_) => {
                    plan.stages[id].origin = Origin::Image(candidate);
                    failed.clear();
                    break;
                }
                Err(_) if local => {}
                Err(error) => failed.push(error),
            }
        }
        let stage = &plan.stages[id];
        if let Some(last) = failed.pop() {
            let told: Vec<&str> = failed.iter().chain([&last]).map(|error| error.message.as_str()).collect();
            let text = format!("no registry has {}: {}", stage.base, told.join("; "));
            let kind = if told.len() == 1 { last.kind } else { FaultKind::Remote };
            return Err(FrontendError::outside(kind, text, last.hint).at(&stage.place));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    // SPEC D3.36
    #[test]
    fn d3_36_what_short_names_may_mean() {
        let names = ShortNames {
            aliases: BTreeMap::from([("fedora".to_owned(), "registry.example/fedora".to_owned())]),
            search: vec!["quay.example".into(), "docker.io".into()],
        };
        let told = |name: &str| {
            let all = names.candidates(name, &name.parse().expect("a name"));
            all.iter().map(Reference::familiar).collect::<Vec<_>>()
        };
        assert_eq!(told("fedora:40"), ["localhost/fedora:40", "registry.example/fedora:40"]);
        assert_eq!(told("me/app"), ["localhost/me/app:latest", "quay.example/me/app:latest", "me/app:latest"]);
        for own in ["docker.io/fedora", "docker.io/library/x", "r.example/fedora", "localhost/x", "localhost:5000/x"] {
            assert_eq!(told(own), [""; 0], "{own}");
        }
        assert!(ShortNames::default().candidates("x", &"x".parse().expect("a name")).is_empty());
    }
}
