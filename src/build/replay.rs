//! What provenance says a build was made from, as the only sources that the same build may have again.

use std::collections::BTreeMap;

use crate::attest::Recipe;
use crate::attest::recipe::MaterialKind;
use crate::dockerfile::gitref::GitRef;
use crate::frontend::remote::RemoteContext;
use crate::llb::SourcePolicy;
use crate::llb::policy::Pin;
use crate::oci::Reference;

/// The policy that lets a build have the materials of `recipe`, each with its digest, and nothing else. `origin` says whose they
/// are, for messages.
///
/// # Errors
/// Where one name stands for two different things: which of them was meant is not recorded.
pub fn pins(recipe: &Recipe, origin: &str) -> Result<SourcePolicy, String> {
    let mut pins: BTreeMap<String, Pin> = BTreeMap::new();
    for material in &recipe.materials {
        for pin in of_material(&material.uri, &material.digest, &material.kind()) {
            match pins.get(&pin.identifier) {
                Some(known) if *known != pin => {
                    return Err(format!("{} is recorded with two digests, and not which is which", material.uri));
                }
                _ => drop(pins.insert(pin.identifier.clone(), pin)),
            }
        }
    }
    Ok(SourcePolicy::pinned(pins.into_values(), origin))
}

fn of_material(uri: &str, digest: &str, kind: &MaterialKind) -> Vec<Pin> {
    let attr = |name: &str, value: &str| BTreeMap::from([(name.to_owned(), value.to_owned())]);
    match kind {
        MaterialKind::Image(name, _) => {
            let Ok(digest) = digest.parse() else { return Vec::new() };
            let identifier = |name: &Reference| format!("docker-image://{name}");
            let pinned = name.with_digest(digest);
            let by_digest = Pin {
                identifier: identifier(&Reference { tag: None, ..pinned.clone() }),
                below: false,
                becomes: None,
                attrs: BTreeMap::new(),
            };
            let by_name = pinned.tag.is_some().then(|| Pin {
                identifier: identifier(&Reference { digest: None, ..pinned.clone() }),
                becomes: Some(identifier(&pinned)),
                ..by_digest.clone()
            });
            by_name.into_iter().chain([by_digest]).collect()
        }
        MaterialKind::Http => {
            let attrs = attr("http.checksum", digest);
            vec![Pin { identifier: uri.to_owned(), below: false, becomes: None, attrs }]
        }
        MaterialKind::Git => {
            let Some(Ok(reference)) = GitRef::parse(uri) else { return Vec::new() };
            let commit = digest.rsplit(':').next().unwrap_or_default();
            let mut identifiers = vec![RemoteContext::git(&reference, false).source.identifier];
            // Asked for by its full name it is recorded by the short one.
            if !reference.reference.is_empty() {
                for kind in ["refs/heads/", "refs/tags/"] {
                    let full = GitRef { reference: format!("{kind}{}", reference.reference), ..reference.clone() };
                    identifiers.push(RemoteContext::git(&full, false).source.identifier);
                }
                // Or by its commit, of which the name is found out.
                let commit = GitRef { reference: commit.to_owned(), ..reference.clone() };
                identifiers.push(RemoteContext::git(&commit, false).source.identifier);
            }
            let pin = |identifier| Pin { identifier, below: true, becomes: None, attrs: attr("git.checksum", commit) };
            identifiers.into_iter().map(pin).collect()
        }
        // A directory of another machine, or nothing that is known here: it stays forbidden.
        MaterialKind::Layout | MaterialKind::Unknown => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attest::Material;
    use crate::base::Digest;
    use crate::llb::op::SourceOp;

    #[test]
    fn every_kind_of_material_is_pinned_under_the_names_it_may_be_asked_for() {
        let (digest, commit) = (Digest::sha256("x"), "0123456789012345678901234567890123456789");
        let material = |uri: &str, digest: &str| Material { uri: uri.into(), digest: digest.into() };
        let materials = vec![
            material("pkg:docker/alpine@3?platform=linux%2Famd64", digest.as_str()),
            material("pkg:docker/alpine@3?platform=linux%2Farm64", digest.as_str()),
            material("https://h.example/f", digest.as_str()),
            material("https://h.example/r.git#v1", &format!("sha1:{commit}")),
            material("pkg:oci/layout", digest.as_str()),
        ];
        let recipe = Recipe { materials, ..Recipe::default() };
        let policy = pins(&recipe, "it").expect("unambiguous");
        let becomes = |identifier: &str| {
            let source = SourceOp { identifier: identifier.into(), ..SourceOp::default() };
            policy.apply(&source).map(std::borrow::Cow::into_owned).map_err(|e| e.to_string())
        };
        let pinned = format!("docker-image://docker.io/library/alpine:3@{digest}");
        assert_eq!(becomes("docker-image://docker.io/library/alpine:3").expect("allowed").identifier, pinned);
        assert!(becomes(&pinned).is_ok());
        assert!(becomes(&format!("docker-image://docker.io/library/alpine@{digest}")).is_ok());
        assert_eq!(becomes("https://h.example/f").expect("allowed").attrs["http.checksum"], digest.as_str());
        for name in ["v1", "refs/tags/v1", "v1:dir", commit] {
            let found = becomes(&format!("git://h.example/r.git#{name}")).expect(name);
            assert_eq!(found.attrs["git.checksum"], commit);
        }
        for other in [
            "docker-image://docker.io/library/alpine:4",
            "git://h.example/r.git",
            "local://context",
            "oci-layout:///layout",
        ] {
            assert!(becomes(other).is_err_and(|e| e.contains("not among the materials of it")), "{other}");
        }
        let mut twice = recipe;
        twice.materials.push(material("pkg:docker/alpine@3", Digest::sha256("y").as_str()));
        assert!(pins(&twice, "it").is_err_and(|e| e.contains("two digests")));
    }
}
