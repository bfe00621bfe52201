//! Finding docker or podman on this machine (SPEC B2.14, B3.04, B5.03).

use std::path::{Path, PathBuf};

use super::errors::Failure;
use super::settings::{docker_config_dir, usage, variable};
use crate::base::Digest;
use crate::base::FaultKind;
use crate::engine::Endpoint;

/// The engine to load into. `context` is what an output names; else `DOCKER_HOST`, `DOCKER_CONTEXT`, docker's current
/// context, and then the usual sockets are tried. `None` if nothing answers and nobody insisted.
pub(super) fn find(context: Option<&str>) -> Result<Option<Endpoint>, Failure> {
    if let Some(name) = context {
        return of_context(name).map(Some);
    }
    if let Some(host) = variable("DOCKER_HOST") {
        let certificates = if variable("DOCKER_TLS_VERIFY").is_some() || variable("DOCKER_TLS").is_some() {
            variable("DOCKER_CERT_PATH").map(PathBuf::from).or_else(docker_config_dir)
        } else {
            None
        };
        let endpoint = Endpoint::parse(&host, certificates).map_err(|e| usage(format!("DOCKER_HOST: {e}")))?;
        return insisted(endpoint, "DOCKER_HOST").map(Some);
    }
    let current = variable("DOCKER_CONTEXT").or_else(current_context).filter(|name| name != "default");
    if let Some(name) = current {
        return of_context(&name).map(Some);
    }
    let runtime = variable("XDG_RUNTIME_DIR").map(PathBuf::from);
    let candidates = [
        Some(PathBuf::from("/var/run/docker.sock")),
        runtime.as_ref().map(|d| d.join("docker.sock")),
        runtime.as_ref().map(|d| d.join("podman/podman.sock")),
        Some(PathBuf::from("/run/podman/podman.sock")),
    ];
    Ok(candidates.into_iter().flatten().map(Endpoint::Unix).find(Endpoint::answers))
}

fn insisted(endpoint: Endpoint, who: &str) -> Result<Endpoint, Failure> {
    if endpoint.answers() {
        return Ok(endpoint);
    }
    let text = format!("nothing answers at {endpoint}, which {who} names");
    Err(Failure::new(FaultKind::Network, text)
        .hint("start the engine, or leave out --load to keep the image in rbuild's own store"))
}

/// `currentContext` of docker's configuration.
fn current_context() -> Option<String> {
    let text = std::fs::read(docker_config_dir()?.join("config.json")).ok()?;
    let config: serde_json::Value = serde_json::from_slice(&text).ok()?;
    config.get("currentContext")?.as_str().filter(|name| !name.is_empty()).map(ToOwned::to_owned)
}

fn of_context(name: &str) -> Result<Endpoint, Failure> {
    let unknown = |why: &str| usage(format!("--load: docker context \"{name}\" {why}"));
    let dir = docker_config_dir().ok_or_else(|| unknown("cannot be looked up: there is no home directory"))?;
    let endpoint = read_context(&dir, name).map_err(|why| unknown(&why))?;
    insisted(endpoint, &format!("docker context \"{name}\""))
}

/// Docker keeps contexts under the sha256 of their names.
fn read_context(config: &Path, name: &str) -> Result<Endpoint, String> {
    let id = Digest::sha256(name);
    let file = config.join("contexts/meta").join(id.hex()).join("meta.json");
    let text = std::fs::read(&file).map_err(|e| format!("cannot be read from {}: {e}", file.display()))?;
    let meta: serde_json::Value =
        serde_json::from_slice(&text).map_err(|e| format!("is not understood ({}): {e}", file.display()))?;
    let host = meta.pointer("/Endpoints/docker/Host").and_then(|h| h.as_str()).unwrap_or_default();
    let certificates = config.join("contexts/tls").join(id.hex()).join("docker");
    let certificates = certificates.is_dir().then_some(certificates);
    Endpoint::parse(host, certificates).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    // SPEC B3.04
    #[test]
    fn contexts_are_read_as_docker_writes_them() {
        let dir = tempfile::tempdir().expect("a directory");
        let meta = dir.path().join("contexts/meta").join(Digest::sha256("rootless").hex());
        std::fs::create_dir_all(&meta).expect("created");
        let text = r#"{"Name":"rootless","Metadata":{},"Endpoints":{"docker":{"Host":"unix:///run/user/1/docker.sock","SkipTLSVerify":false}}}"#;
        std::fs::write(meta.join("meta.json"), text).expect("written");
        let found = read_context(dir.path(), "rootless");
        assert_eq!(found, Ok(Endpoint::Unix("/run/user/1/docker.sock".into())));
        assert!(read_context(dir.path(), "other").is_err_and(|e| e.starts_with("cannot be read from")));
    }
}
