//! Which keys a compose file may have (compose-spec, `schema/compose-spec.json`): one that is misspelt would be a build that is
//! left out, or another one. As with buildx, only what says how to build has to be known: a service that uses what this program
//! has never heard of can be built all the same, and the key is told.

use serde_json::Value;

use crate::base::wording::did_you_mean;

/// Keys of the file itself.
const TOP: &[&str] = &["configs", "include", "models", "name", "networks", "secrets", "services", "version", "volumes"];

/// Keys of a service.
#[rustfmt::skip]
const SERVICE: &[&str] = &[
    "annotations", "attach", "blkio_config", "build", "cap_add", "cap_drop", "cgroup", "cgroup_parent", "command", "configs",
    "container_name", "cpu_count", "cpu_percent", "cpu_period", "cpu_quota", "cpu_rt_period", "cpu_rt_runtime", "cpu_shares",
    "cpus", "cpuset", "credential_spec", "depends_on", "deploy", "develop", "device_cgroup_rules", "devices", "dns", "dns_opt",
    "dns_search", "domainname", "entrypoint", "env_file", "environment", "expose", "extends", "external_links", "extra_hosts",
    "gpus", "group_add", "healthcheck", "hostname", "image", "init", "ipc", "isolation", "label_file", "labels", "links",
    "logging", "mac_address", "mem_limit", "mem_reservation", "mem_swappiness", "memswap_limit", "models", "network_mode",
    "networks", "oom_kill_disable", "oom_score_adj", "pid", "pids_limit", "platform", "ports", "post_start", "pre_stop",
    "privileged", "profiles", "provider", "pull_policy", "pull_refresh_after", "read_only", "restart", "runtime", "scale",
    "secrets", "security_opt", "shm_size", "stdin_open", "stop_grace_period", "stop_signal", "storage_opt", "sysctls", "tmpfs",
    "tty", "ulimits", "use_api_socket", "user", "userns_mode", "uts", "volumes", "volumes_from", "working_dir",
];

/// Keys of a secret.
const SECRET: &[&str] =
    &["driver", "driver_opts", "environment", "external", "file", "labels", "name", "template_driver"];

/// Keys of `build`.
#[rustfmt::skip]
const BUILD: &[&str] = &[
    "additional_contexts", "args", "cache_from", "cache_to", "context", "dockerfile", "dockerfile_inline", "entitlements",
    "extra_hosts", "isolation", "labels", "network", "no_cache", "no_cache_filter", "platforms", "privileged", "provenance",
    "pull", "sbom", "secrets", "shm_size", "ssh", "tags", "target", "ulimits",
];

/// Looks at a file; `ignored` is told of keys that mean nothing.
///
/// # Errors
/// Names the first key that says how to build, and that no compose file has.
pub(super) fn check(file: &Value, ignored: &dyn Fn(String)) -> Result<(), String> {
    if let Some(unknown) = unknown("(root)", file, TOP) {
        ignored(unknown);
    }
    for (name, service) in untagged(&file["services"]).as_object().into_iter().flatten() {
        let service = untagged(service);
        let place = format!("services.{name}");
        if let Some(unknown) = unknown(&place, service, SERVICE) {
            ignored(unknown);
        }
        known(&format!("{place}.build"), untagged(&service["build"]), BUILD)?;
    }
    for (name, secret) in untagged(&file["secrets"]).as_object().into_iter().flatten() {
        known(&format!("secrets.{name}"), untagged(secret), SECRET)?;
    }
    Ok(())
}

/// The first key of a service that is none, for a service that lacks something.
pub(super) fn unknown_of_service(service: &Value) -> Option<String> {
    unknown("", service, SERVICE)
}

/// What a tag is about: the value that takes another's place, or nothing.
pub(super) fn untagged(value: &Value) -> &Value {
    match value.get("!override") {
        Some(inner) => inner,
        None if value.get("!reset").is_some() => &Value::Null,
        None => value,
    }
}

fn known(place: &str, value: &Value, keys: &[&str]) -> Result<(), String> {
    unknown(place, value, keys).map_or(Ok(()), Err)
}

/// `x-…` is everybody's own.
fn unknown(place: &str, value: &Value, keys: &[&str]) -> Option<String> {
    let own = |key: &&String| !key.starts_with("x-") && !keys.contains(&key.as_str());
    let key = value.as_object().and_then(|fields| fields.keys().find(own))?;
    let place = if place.is_empty() { String::new() } else { format!("{place}: ") };
    let close = did_you_mean(key, keys.iter().copied());
    Some(format!("{place}additional property \"{key}\" is not allowed{close}"))
}
