//! Variables of other builders that pipelines bring along (SPEC B5.09, B5.13, B5.14): those that say something about a build here
//! count, below flags and above the configuration file; those that cannot are said.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;

use super::errors::Failure;
use super::settings::usage;
use crate::base::values::boolean;
use crate::dockerfile::gitref;
use crate::registry::{Mirror, Permitted, Route};
use crate::source::SecretValues;

/// The environment.
pub(super) type Variables<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// What they say about one build.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Foreign {
    /// Images are Docker's, not OCI's, where an output does not say.
    pub(super) docker_format: bool,
    /// No step is taken from the cache.
    pub(super) no_cache: bool,
    /// `--push` pushes nothing.
    pub(super) no_push: bool,
}

/// The file of `containers.conf` that counts.
pub(super) const CONTAINERS_CONF: &str = "CONTAINERS_CONF";
/// For the C preprocessor.
pub(super) const CPP_FLAGS: &str = "BUILDAH_CPPFLAGS";

/// Variables that have no meaning, and why.
const MEANINGLESS: [(&str, &str); 7] = [
    ("BUILDKIT_HOST", "there is no daemon to talk to"),
    ("BUILDKIT_WORKERS", "there is one worker"),
    ("BUILDAH_RUNTIME", "steps are run without a runtime's program"),
    (CPP_FLAGS, "only `rbuild buildah build` preprocesses, and only files whose names end in .in"),
    (CONTAINERS_CONF, "only `rbuild buildah build` reads it; rbuild.toml is what is read"),
    ("STORAGE_DRIVER", "what the machine can do is found out; --snapshotter chooses"),
    ("JAEGER_TRACE", "Jaeger takes OTLP: OTEL_EXPORTER_OTLP_ENDPOINT"),
];

impl Foreign {
    /// # Errors
    /// Names the variable that is malformed.
    pub(super) fn new(variable: &Variables<'_>, notices: &mut Vec<String>) -> Result<Self, Failure> {
        for (name, why) in MEANINGLESS {
            if variable(name).is_some() {
                notices.push(format!("{name} has no meaning here: {why}"));
            }
        }
        let docker_format = match variable("BUILDAH_FORMAT").as_deref() {
            None | Some("oci") => false,
            Some("docker") => true,
            Some(other) => return Err(usage(format!("BUILDAH_FORMAT={other}: expected oci or docker"))),
        };
        let no_cache = flag(variable, "BUILDAH_LAYERS")? == Some(false);
        if no_cache {
            notices.push("BUILDAH_LAYERS=false: no step is taken from the cache".into());
        }
        Ok(Self { docker_format, no_cache, no_push: flag(variable, "KANIKO_NO_PUSH")? == Some(true) })
    }
}

/// A variable that is on or off.
pub(super) fn flag(variable: &Variables<'_>, name: &str) -> Result<Option<bool>, Failure> {
    let Some(text) = variable(name) else { return Ok(None) };
    boolean(&text).map(Some).ok_or_else(|| usage(format!("{name}={text}: expected true or false")))
}

/// `BUILDAH_ISOLATION`: the rung, if one is meant.
///
/// # Errors
/// For isolations that do not exist.
pub(super) fn isolation(variable: &Variables<'_>) -> Result<Option<String>, Failure> {
    match variable("BUILDAH_ISOLATION").as_deref() {
        // Both leave to buildah what is needed for it.
        None | Some("oci" | "rootless") => Ok(None),
        Some("chroot") => Ok(Some("chroot".into())),
        Some(other) => Err(usage(format!("BUILDAH_ISOLATION={other}: expected oci, rootless or chroot"))),
    }
}

/// What they say about registries.
#[derive(Debug, Default)]
pub(super) struct Registries {
    /// `KANIKO_REGISTRY_MIRROR` and `KANIKO_REGISTRY_MAP`.
    pub(super) routes: Vec<Route>,
    /// `BUILD_REGISTRY_SOURCES`
    pub(super) permitted: Permitted,
    /// Hosts whose certificates are not looked at.
    pub(super) insecure: Vec<String>,
}

/// What OpenShift tells buildah: `RegistrySources` of its image configuration.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Sources {
    insecure_registries: Vec<String>,
    blocked_registries: Vec<String>,
    allowed_registries: Vec<String>,
}

/// # Errors
/// Names the variable that is malformed: rules that are not applied protect nobody.
pub(super) fn registries(variable: &Variables<'_>) -> Result<Registries, Failure> {
    let mut mirrors: BTreeMap<String, Vec<Mirror>> = BTreeMap::new();
    let mut add = |host: &str, location: &str| mirrors.entry(host.to_owned()).or_default().push(Mirror::new(location));
    for location in words(variable("KANIKO_REGISTRY_MIRROR").as_deref().unwrap_or_default()) {
        add("docker.io", location_of("KANIKO_REGISTRY_MIRROR", location)?);
    }
    for pair in words(variable("KANIKO_REGISTRY_MAP").as_deref().unwrap_or_default()) {
        let (host, location) = pair
            .split_once('=')
            .filter(|(host, location)| !host.is_empty() && !location.is_empty())
            .ok_or_else(|| usage(format!("KANIKO_REGISTRY_MAP: \"{pair}\" is not REGISTRY=MIRROR")))?;
        let host = if host == "index.docker.io" { "docker.io" } else { host };
        add(host, location_of("KANIKO_REGISTRY_MAP", location)?);
    }
    const SOURCES: &str = "BUILD_REGISTRY_SOURCES";
    let sources: Sources = match variable(SOURCES) {
        None => Sources::default(),
        Some(text) => serde_json::from_str(&text).map_err(|e| usage(format!("{SOURCES}: {e}")))?,
    };
    Ok(Registries {
        routes: mirrors.into_iter().map(|(prefix, mirrors)| Route { prefix, mirrors, ..Route::default() }).collect(),
        permitted: Permitted {
            allowed: Some(sources.allowed_registries).filter(|all| !all.is_empty()),
            blocked: sources.blocked_registries,
            by: SOURCES,
        },
        insecure: sources.insecure_registries,
    })
}

/// kaniko separates several by semicolons; commas are what people try.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split([';', ',']).map(str::trim).filter(|word| !word.is_empty())
}

fn location_of<'a>(name: &str, text: &'a str) -> Result<&'a str, Failure> {
    match text.contains("://") || text.contains(char::is_whitespace) {
        true => Err(usage(format!("{name}: \"{text}\" is not HOST[:PORT][/PATH]"))),
        false => Ok(text.trim_end_matches('/')),
    }
}

/// Credentials for the repository that is the context: `GIT_TOKEN`, or `GIT_USERNAME` and `GIT_PASSWORD`, for its host alone. What
/// `--secret` gives goes before them. Steps never get them.
pub(super) fn git_login(variable: &Variables<'_>, remote: &str, given: &SecretValues) -> Option<SecretValues> {
    use base64::Engine as _;
    let rest = remote.strip_prefix("https://").or_else(|| remote.strip_prefix("http://"))?;
    let known = |id: &str| ["GIT_AUTH_TOKEN", "GIT_AUTH_HEADER"].iter().any(|name| id.starts_with(name));
    if rest.split('/').next().is_some_and(|authority| authority.contains('@')) || given.keys().any(|id| known(id)) {
        return None;
    }
    let host = gitref::host(remote);
    let (id, value) = match (variable("GIT_TOKEN"), variable("GIT_USERNAME"), variable("GIT_PASSWORD")) {
        (Some(token), _, _) => (format!("GIT_AUTH_TOKEN.{host}"), token),
        (None, user, Some(password)) => {
            let pair = format!("{}:{password}", user.unwrap_or_default());
            let header = format!("basic {}", base64::engine::general_purpose::STANDARD.encode(pair));
            (format!("GIT_AUTH_HEADER.{host}"), header)
        }
        _ => return None,
    };
    let mut all = given.clone();
    all.insert(id, Arc::new(value.into_bytes()));
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given<'a>(variables: &'a [(&str, &str)]) -> impl Fn(&str) -> Option<String> + 'a {
        |name| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned())
    }

    // SPEC B5.09, B5.13, B5.14
    #[test]
    fn b5_13_variables_about_a_build() {
        let mut notices = Vec::new();
        let all = [("BUILDAH_FORMAT", "docker"), ("BUILDAH_LAYERS", "false"), ("KANIKO_NO_PUSH", "1")];
        let found = Foreign::new(&given(&all), &mut notices).expect("valid");
        assert_eq!(found, Foreign { docker_format: true, no_cache: true, no_push: true });
        assert_eq!(notices.len(), 1);
        let usual = [("BUILDAH_FORMAT", "oci"), ("BUILDAH_LAYERS", "true"), ("KANIKO_NO_PUSH", "false")];
        assert_eq!(Foreign::new(&given(&usual), &mut notices).expect("valid"), Foreign::default());
        let mut notices = Vec::new();
        Foreign::new(&given(&[("BUILDKIT_HOST", "tcp://b"), ("STORAGE_DRIVER", "vfs")]), &mut notices).expect("valid");
        assert!(notices[0].starts_with("BUILDKIT_HOST has no meaning here") && notices.len() == 2, "{notices:?}");
        assert_eq!(isolation(&given(&[("BUILDAH_ISOLATION", "chroot")])).expect("valid").as_deref(), Some("chroot"));
        assert_eq!(isolation(&given(&[("BUILDAH_ISOLATION", "rootless")])).expect("valid"), None);
    }

    // SPEC B5.14, B5.13
    #[test]
    fn b5_14_mirrors_and_maps() {
        let all = [
            ("KANIKO_REGISTRY_MIRROR", "m.example;n.example:5000/hub/"),
            ("KANIKO_REGISTRY_MAP", "index.docker.io=o.example;gcr.io=m.example/gcr"),
            ("BUILD_REGISTRY_SOURCES", r#"{"insecureRegistries":["i.example"],"blockedRegistries":["b.example"]}"#),
        ];
        let found = registries(&given(&all)).expect("valid");
        let routes: Vec<(&str, Vec<&str>)> = found
            .routes
            .iter()
            .map(|r| (r.prefix.as_str(), r.mirrors.iter().map(|m| m.location.as_str()).collect()))
            .collect();
        assert_eq!(
            routes,
            [("docker.io", vec!["m.example", "n.example:5000/hub", "o.example"]), ("gcr.io", vec!["m.example/gcr"])]
        );
        assert_eq!((&found.insecure[..], found.permitted.allowed), (&["i.example".to_owned()][..], None));
        assert_eq!(found.permitted.blocked, ["b.example"]);
        for (name, value) in [
            ("KANIKO_REGISTRY_MIRROR", "https://m.example"),
            ("KANIKO_REGISTRY_MAP", "gcr.io"),
            ("BUILD_REGISTRY_SOURCES", "{"),
        ] {
            assert!(registries(&given(&[(name, value)])).is_err_and(|e| e.message.starts_with(name)), "{name}");
        }
    }

    // SPEC B5.14
    #[test]
    fn b5_14_git_credentials_are_for_the_contexts_host() {
        let none = SecretValues::new();
        let token = [("GIT_TOKEN", "t")];
        let text = |values: &SecretValues, id: &str| String::from_utf8(values[id].to_vec()).expect("text");
        let found = git_login(&given(&token), "https://h.example:8443/a.git", &none).expect("found");
        assert_eq!(text(&found, "GIT_AUTH_TOKEN.h.example:8443"), "t");
        let pair = [("GIT_USERNAME", "u"), ("GIT_PASSWORD", "p")];
        let found = git_login(&given(&pair), "https://h.example/a.git", &none).expect("found");
        assert_eq!(text(&found, "GIT_AUTH_HEADER.h.example"), "basic dTpw");
        for remote in ["ssh://git@h.example/a.git", "git@h.example:a.git", "https://u:p@h.example/a.git"] {
            assert_eq!(git_login(&given(&token), remote, &none), None, "{remote}");
        }
        let secret = SecretValues::from([("GIT_AUTH_TOKEN".to_owned(), Arc::new(b"s".to_vec()))]);
        assert_eq!(git_login(&given(&token), "https://h.example/a.git", &secret), None);
        assert_eq!(git_login(&given(&[("GIT_USERNAME", "u")]), "https://h.example/a.git", &none), None);
    }
}
