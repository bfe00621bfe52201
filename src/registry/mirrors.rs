//! Where an image is really fetched from: mirrors in order, then the registry itself (SPEC E2.04).

use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::client::Inner;
use super::host::Host;
use super::{Fault, RegistryError};
use crate::base::FaultKind;
use crate::oci::Reference;

/// What is said about the names that begin with `prefix`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Route {
    /// `HOST[:PORT][/PATH]`, `*.DOMAIN`, or `*` for all names.
    pub prefix: String,
    /// What stands in for the prefix, for pulls and pushes.
    pub location: Option<String>,
    /// Nothing may be pulled from or pushed to it.
    pub blocked: bool,
    /// Asked in this order before the registry.
    pub mirrors: Vec<Mirror>,
    /// Do not ask the registry itself.
    pub mirrors_only: bool,
}

/// A place that has what the registry has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// `HOST[:PORT][/PATH]`; takes the place of the prefix.
    pub location: String,
    /// Ask it for digests only, or for tags only; `None` for both.
    pub only: Option<Pulls>,
    /// Tell it with `?ns=` which registry is meant.
    pub ns: bool,
}

/// What a mirror is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pulls {
    /// By digest.
    Digests,
    /// By tag.
    Tags,
}

impl Mirror {
    /// A mirror for everything.
    #[must_use]
    pub fn new(location: impl Into<String>) -> Self {
        Self { location: location.into(), only: None, ns: true }
    }
}

/// Which registries may be used, by the host of a name. A mirror is not asked for its own.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Permitted {
    /// These alone; `None` for all.
    pub allowed: Option<Vec<String>>,
    /// None of these.
    pub blocked: Vec<String>,
    /// Who says so, for messages.
    pub by: &'static str,
}

impl Permitted {
    fn check(&self, host: &str) -> Result<(), Fault> {
        let is = |named: &String| named == host;
        let why = match &self.allowed {
            _ if self.blocked.iter().any(is) => "blocks it",
            Some(allowed) if !allowed.iter().any(is) => "does not allow it",
            _ => return Ok(()),
        };
        Err(Fault::Setting(format!("the registry {host} must not be used: {} {why}", self.by)))
    }
}

/// One place to ask.
#[derive(Clone)]
pub(super) struct Endpoint {
    pub(super) host: Arc<Host>,
    /// Repository there.
    pub(super) repository: String,
    /// The registry that a mirror stands in for.
    pub(super) ns: Option<String>,
    pub(super) mirror: bool,
}

impl Route {
    /// How many bytes of `name` (`HOST/PATH`) the prefix covers; `None` if it does not fit.
    fn covers(&self, name: &str) -> Option<usize> {
        if self.prefix == "*" {
            return Some(0);
        }
        if let Some(domain) = self.prefix.strip_prefix('*') {
            let host = name.split('/').next().unwrap_or(name);
            return host.ends_with(domain).then_some(host.len());
        }
        let rest = name.strip_prefix(&self.prefix)?;
        (rest.is_empty() || rest.starts_with('/')).then_some(self.prefix.len())
    }
}

/// `location` with what `name` has behind its first `covered` bytes, as host and repository.
fn relocate(location: &str, name: &str, covered: usize) -> (String, String) {
    // The wildcards cover a host at most, and a location without a path takes the place of one.
    let covered = if covered == 0 { name.find('/').unwrap_or(name.len()) } else { covered };
    let whole = format!("{}{}", location.trim_end_matches('/'), &name[covered..]);
    let (host, path) = whole.split_once('/').unwrap_or((&whole, ""));
    (host.to_owned(), path.to_owned())
}

impl Inner {
    fn route(&self, name: &str) -> Option<(&Route, usize)> {
        let fitting = self.options.routes.iter().filter_map(|route| Some((route, route.covers(name)?)));
        // Of equal ones the first counts.
        fitting.rev().max_by_key(|(route, covered)| (*covered, route.prefix.len()))
    }

    /// The registry itself, where pushes go.
    pub(super) fn origin(&self, reference: &Reference) -> Result<Endpoint, Fault> {
        self.options.permitted.check(&reference.domain)?;
        let name = reference.repository();
        let Some((route, covered)) = self.route(&name) else { return Ok(self.endpoint(reference)) };
        if route.blocked {
            return Err(Fault::Setting(format!("{name} is blocked by the registry configuration")));
        }
        match &route.location {
            None => Ok(self.endpoint(reference)),
            Some(location) => {
                let (host, repository) = relocate(location, &name, covered);
                Ok(Endpoint { host: self.host(&host), repository, ns: None, mirror: false })
            }
        }
    }

    fn endpoint(&self, reference: &Reference) -> Endpoint {
        let (host, repository) = (self.host(&reference.domain), reference.path.clone());
        Endpoint { host, repository, ns: None, mirror: false }
    }

    /// Everywhere to look, in order; mirrors that did not answer before are left out.
    pub(super) fn places(&self, reference: &Reference, by_digest: bool) -> Result<Vec<Endpoint>, Fault> {
        let origin = self.origin(reference)?;
        let name = reference.repository();
        let Some((route, covered)) = self.route(&name) else { return Ok(vec![origin]) };
        let wanted = if by_digest { Pulls::Digests } else { Pulls::Tags };
        let mut places = Vec::new();
        for mirror in route.mirrors.iter().filter(|m| m.only.is_none_or(|only| only == wanted)) {
            let (host, repository) = relocate(&mirror.location, &name, covered);
            let host = self.host(&host);
            let ns = mirror.ns.then(|| reference.domain.clone());
            if !host.is_dead() {
                places.push(Endpoint { host, repository, ns, mirror: true });
            }
        }
        if !route.mirrors_only || places.is_empty() {
            places.push(origin);
        }
        Ok(places)
    }

    /// Asks one place after the other. Our own trouble ends it at once; what the last one says is the answer.
    pub(super) async fn first_of<'a, T>(
        &self,
        places: &'a [Endpoint],
        ask: impl Fn(&'a Endpoint) -> BoxFuture<'a, Result<T, Fault>>,
    ) -> Result<T, Fault> {
        let mut left = places;
        loop {
            let Some((place, rest)) = left.split_first() else {
                return Err(Fault::Setting("there is no place to ask".into()));
            };
            match ask(place).await {
                Err(fault) if !rest.is_empty() && self.go_on(place, &fault) => left = rest,
                other => return other,
            }
        }
    }

    /// Whether another place may know better. Says why a mirror was of no use.
    pub(super) fn go_on(&self, place: &Endpoint, fault: &Fault) -> bool {
        if matches!(fault.kind(), FaultKind::Store | FaultKind::NoSpace | FaultKind::Usage) {
            return false;
        }
        if matches!(fault, Fault::Unreachable { .. } | Fault::Silent { .. } | Fault::Broken { .. }) {
            place.host.set_dead();
        }
        if !matches!(fault, Fault::NotFound { .. }) {
            let name = &place.host.name;
            let text = format!("going on without the mirror {name}: {fault}");
            self.options.events.notice("registry-mirror", text);
        }
        true
    }
}

/// As the caller knows it.
pub(super) fn failed(attempt: String) -> impl FnOnce(Fault) -> RegistryError {
    move |fault| RegistryError::new(attempt, fault)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(prefix: &str) -> Route {
        Route { prefix: prefix.into(), ..Route::default() }
    }

    // SPEC E2.04
    #[test]
    fn prefixes_end_at_slashes_and_the_longest_counts() {
        assert_eq!(route("docker.io").covers("docker.io/library/x"), Some(9));
        assert_eq!(route("docker.io/lib").covers("docker.io/library/x"), None);
        assert_eq!(route("docker.io/library").covers("docker.io/library/x"), Some(17));
        assert_eq!(route("*.example").covers("r.example/x"), Some(9));
        assert_eq!(route("*.example").covers("example/x"), None);
        assert_eq!(route("*").covers("r/x"), Some(0));
    }

    // SPEC B5.13
    #[test]
    fn b5_13_only_permitted_registries_are_used() {
        let names = |all: &[&str]| all.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let permitted = |allowed: Option<&[&str]>, blocked: &[&str]| Permitted {
            allowed: allowed.map(names),
            blocked: names(blocked),
            by: "a rule",
        };
        assert!(Permitted::default().check("a").is_ok());
        let some = permitted(Some(&["a", "b"]), &["b"]);
        assert!(some.check("a").is_ok());
        let said = |host: &str| some.check(host).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(said("b").contains("the registry b must not be used: a rule blocks it"), "{}", said("b"));
        assert!(said("c").contains("a rule does not allow it"), "{}", said("c"));
    }

    #[test]
    fn locations_take_the_place_of_prefixes() {
        assert_eq!(relocate("m:5000", "docker.io/library/x", 9), ("m:5000".into(), "library/x".into()));
        assert_eq!(relocate("m/hub", "docker.io/library/x", 9), ("m".into(), "hub/library/x".into()));
        assert_eq!(relocate("m/hub/", "docker.io/library/x", 17), ("m".into(), "hub/x".into()));
        assert_eq!(relocate("m", "r.example/x", 0), ("m".into(), "x".into()));
    }
}
