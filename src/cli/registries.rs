//! How registries are reached: our own configuration, then what the machine has for other tools: `hosts.toml` and
//! `certs.d` of docker and containerd, `registries.conf` of podman and buildah, docker's `daemon.json` (SPEC E2.02–E2.05).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::{Table, Value};

use super::config::Config;
use super::errors::Failure;
use super::foreign;
use super::settings::{self, home, variable};
use crate::base::Events;
use crate::registry::{ClientOptions, CredentialProvider, HostOptions, Mirror, Pulls, Route};

/// Options of a client that knows all of it.
pub(super) fn client_options(
    config: &Config,
    credentials: Arc<dyn CredentialProvider>,
    events: Events,
) -> Result<ClientOptions, Failure> {
    let mut found = Found::default();
    let foreign = foreign::registries(&variable)?;
    found.foreign(foreign.routes, &foreign.insecure);
    found.own(config);
    found.machine();
    for notice in &found.notices {
        events.notice(format!("registry-configuration {notice}"), notice.clone());
    }
    let usual = ClientOptions::default();
    Ok(ClientOptions {
        credentials,
        events,
        hosts: found.hosts,
        routes: found.routes,
        permitted: foreign.permitted,
        proxies: settings::proxies(),
        trust: settings::trust(),
        parallel: config.registry_parallel.unwrap_or(usual.parallel),
        ..usual
    })
}

/// `registries.conf` and what lies beside it, in the order in which podman reads them.
pub(super) fn registries_conf_files() -> Vec<PathBuf> {
    let named = variable("CONTAINERS_REGISTRIES_CONF").map(PathBuf::from);
    let config = variable("XDG_CONFIG_HOME").map(PathBuf::from).or_else(|| Some(home()?.join(".config")));
    let own = config.map(|dir| dir.join("containers"));
    let user = own.as_ref().map(|dir| dir.join("registries.conf")).filter(|file| file.exists());
    let main = named.or(user).unwrap_or_else(|| "/etc/containers/registries.conf".into());
    let mut files = vec![main];
    let drop_ins = own.into_iter().chain([PathBuf::from("/etc/containers")]).map(|dir| dir.join("registries.conf.d"));
    for dir in drop_ins {
        let mut more: Vec<PathBuf> =
            list(&dir).into_iter().filter(|path| path.extension().is_some_and(|e| e == "conf")).collect();
        more.sort();
        files.extend(more);
    }
    files
}

/// What the files say. What is found first counts.
#[derive(Default)]
struct Found {
    hosts: BTreeMap<String, HostOptions>,
    routes: Vec<Route>,
    /// Hosts whose mirrors our own configuration names.
    settled: Vec<String>,
    notices: Vec<String>,
}

impl Found {
    /// What the environment says goes before all files.
    fn foreign(&mut self, routes: Vec<Route>, insecure: &[String]) {
        self.settled.extend(routes.iter().map(|route| route.prefix.clone()));
        self.routes.extend(routes);
        insecure.iter().for_each(|host| self.insecure(host));
    }

    fn own(&mut self, config: &Config) {
        for (host, section) in &config.registries {
            let options = HostOptions {
                plain_http: section.http,
                insecure: section.insecure.unwrap_or(false),
                roots: section.ca.clone(),
                identity: section.keypair.clone().map(|(key, cert)| (cert, key)),
                cert_dirs: section.tlsconfigdir.clone(),
            };
            self.hosts.insert(host.clone(), options);
            if let Some(mirrors) = &section.mirrors {
                let mirrors = mirrors.iter().map(Mirror::new).collect();
                self.routes.push(Route { prefix: host.clone(), mirrors, ..Route::default() });
                self.settled.push(host.clone());
            }
        }
    }

    fn machine(&mut self) {
        let config = variable("XDG_CONFIG_HOME").map(PathBuf::from).or_else(|| Some(home()?.join(".config")));
        let mut dirs: Vec<PathBuf> = config.iter().map(|c| c.join("docker/certs.d")).collect();
        dirs.extend(["/etc/docker/certs.d", "/etc/containerd/certs.d"].map(PathBuf::from));
        for dir in dirs {
            self.hosts_dir(&dir);
        }
        for file in registries_conf_files() {
            if let Some(text) = self.read(&file) {
                self.registries_conf(&file, &text);
            }
        }
        let daemon = config.map(|c| c.join("docker/daemon.json"));
        for file in daemon.into_iter().chain([PathBuf::from("/etc/docker/daemon.json")]) {
            if let Some(text) = self.read(&file) {
                self.daemon_json(&file, &text);
            }
        }
    }

    /// Other people's files: one that cannot be read is none.
    fn read(&mut self, path: &Path) -> Option<String> {
        std::fs::read_to_string(path).ok()
    }

    fn add(&mut self, route: Route) {
        let host = route.prefix.split('/').next().unwrap_or_default();
        if !self.settled.iter().any(|settled| settled == host) {
            self.routes.push(route);
        }
    }

    fn insecure(&mut self, location: &str) {
        let host = location.split('/').next().unwrap_or(location).to_owned();
        self.hosts.entry(host).or_insert(HostOptions { insecure: true, ..HostOptions::default() });
    }

    /// `DIR/HOST/hosts.toml`.
    fn hosts_dir(&mut self, dir: &Path) {
        let mut dirs = list(dir);
        dirs.sort();
        for dir in dirs {
            let Some(name) = dir.file_name().and_then(|n| n.to_str()) else { continue };
            let prefix = if name == "_default" { "*".to_owned() } else { port_of(name) };
            let file = dir.join("hosts.toml");
            if let Some(text) = self.read(&file) {
                self.hosts_toml(&file, &prefix, &text);
            }
        }
    }

    fn hosts_toml(&mut self, file: &Path, prefix: &str, text: &str) {
        let table: Table = match text.parse() {
            Ok(table) => table,
            Err(e) => return self.ignored(file, &e),
        };
        let mut route = Route { prefix: prefix.to_owned(), ..Route::default() };
        let server = table.get("server").and_then(Value::as_str).and_then(split_url);
        // What stands at the top is about the server; without one that is the registry itself.
        let options = host_options(file, &table, server.as_ref().is_some_and(|(_, http)| *http));
        let host = server.as_ref().map_or(prefix, |(location, _)| location.split('/').next().unwrap_or(location));
        if options != HostOptions::default() {
            if host == "*" {
                self.notices
                    .push(format!("{}: ca, client and skip_verify are left out: they need a server", file.display()));
            } else {
                self.hosts.entry(host.to_owned()).or_insert(options);
            }
        }
        if let Some((location, _)) = server {
            let usual = location == prefix || (prefix == "docker.io" && location == "registry-1.docker.io");
            route.location = (!usual && prefix != "*").then_some(location);
        }
        let hosts = table.get("host").and_then(Value::as_table);
        for (url, entry) in hosts.into_iter().flatten() {
            let Some(entry) = entry.as_table() else { continue };
            match self.hosts_entry(file, url, entry) {
                Ok(Some(mirror)) => route.mirrors.push(mirror),
                Ok(None) => {}
                Err(why) => self.notices.push(format!("{}: the mirror {url} is left out: {why}", file.display())),
            }
        }
        if route.location.is_some() || !route.mirrors.is_empty() {
            self.add(route);
        }
    }

    fn hosts_entry(&mut self, file: &Path, url: &str, entry: &Table) -> Result<Option<Mirror>, String> {
        let can = |what: &str| match entry.get("capabilities").and_then(Value::as_array) {
            None => true,
            Some(list) => list.iter().any(|v| v.as_str() == Some(what)),
        };
        let only = match (can("pull"), can("resolve")) {
            (true, true) => None,
            (true, false) => Some(Pulls::Digests),
            (false, true) => Some(Pulls::Tags),
            (false, false) => return Ok(None),
        };
        let (location, http) = split_url(url).ok_or("it is not a URL")?;
        let (host, path) = location.split_once('/').unwrap_or((&location, ""));
        let own_path = entry.get("override_path").and_then(Value::as_bool).unwrap_or(false);
        // With override_path the URL is the API's root; only one below /v2 can be expressed as a repository prefix.
        let location = match (own_path, path.trim_end_matches('/')) {
            (false, "") | (true, "v2") => host.to_owned(),
            (true, path) => format!("{host}/{}", path.strip_prefix("v2/").ok_or("its path is not below /v2")?),
            (false, _) => return Err("an API below another path than /v2 is not supported".into()),
        };
        let options = host_options(file, entry, http);
        if options != HostOptions::default() {
            self.hosts.entry(host.to_owned()).or_insert(options);
        }
        Ok(Some(Mirror { only, ..Mirror::new(location) }))
    }

    /// Version 2 of the format; the search list is no matter of mirrors ([`super::short_names`]).
    fn registries_conf(&mut self, file: &Path, text: &str) {
        let table: Table = match text.parse() {
            Ok(table) => table,
            Err(e) => return self.ignored(file, &e),
        };
        if table.contains_key("registries") {
            self.notices.push(format!("{}: version 1 of the format is not read", file.display()));
        }
        for entry in table.get("registry").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_table) {
            let text = |key: &str| entry.get(key).and_then(Value::as_str).filter(|t| !t.is_empty());
            let flag = |key: &str| entry.get(key).and_then(Value::as_bool).unwrap_or(false);
            let Some(prefix) = text("prefix").or_else(|| text("location")) else { continue };
            let location = text("location").filter(|l| *l != prefix).map(ToOwned::to_owned);
            if flag("insecure") {
                self.insecure(location.as_deref().unwrap_or(prefix));
            }
            let digests = flag("mirror-by-digest-only");
            let mut mirrors = Vec::new();
            for mirror in
                entry.get("mirror").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_table)
            {
                let Some(location) = mirror.get("location").and_then(Value::as_str) else { continue };
                if mirror.get("insecure").and_then(Value::as_bool).unwrap_or(false) {
                    self.insecure(location);
                }
                let only = match mirror.get("pull-from-mirror").and_then(Value::as_str) {
                    Some("digest-only") => Some(Pulls::Digests),
                    Some("tag-only") => Some(Pulls::Tags),
                    _ => digests.then_some(Pulls::Digests),
                };
                mirrors.push(Mirror { location: location.to_owned(), only, ns: false });
            }
            let route =
                Route { prefix: prefix.to_owned(), location, blocked: flag("blocked"), mirrors, mirrors_only: false };
            if route.blocked || route.location.is_some() || !route.mirrors.is_empty() {
                self.add(route);
            }
        }
    }

    /// `registry-mirrors` are for Docker Hub; networks among `insecure-registries` are not looked at.
    fn daemon_json(&mut self, file: &Path, text: &str) {
        let value: serde_json::Value = match serde_json::from_str(text) {
            Ok(value) => value,
            Err(e) => return self.ignored(file, &e),
        };
        let list = |key: &str| value[key].as_array().cloned().unwrap_or_default();
        for host in list("insecure-registries").iter().filter_map(|v| v.as_str()).filter(|h| !h.contains('/')) {
            self.insecure(host);
        }
        let mut mirrors = Vec::new();
        for url in list("registry-mirrors").iter().filter_map(|v| v.as_str()) {
            let Some((location, http)) = split_url(url) else { continue };
            if http {
                let options = HostOptions { plain_http: Some(true), ..HostOptions::default() };
                self.hosts.entry(location.clone()).or_insert(options);
            }
            mirrors.push(Mirror { ns: false, ..Mirror::new(location) });
        }
        if !mirrors.is_empty() {
            self.add(Route { prefix: "docker.io".into(), mirrors, ..Route::default() });
        }
    }

    fn ignored(&mut self, file: &Path, why: &dyn std::fmt::Display) {
        let why: String = why.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        self.notices.push(format!("{} is ignored: {why}", file.display()));
    }
}

fn list(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir).into_iter().flatten().filter_map(|e| Some(e.ok()?.path())).collect()
}

/// `HOST[:PORT][/PATH]` of a URL, and whether it is plain HTTP. Without a scheme it is HTTPS.
fn split_url(url: &str) -> Option<(String, bool)> {
    let (http, rest) = match url.split_once("://") {
        Some(("http", rest)) => (true, rest),
        Some(("https", rest)) => (false, rest),
        Some(_) => return None,
        None => (false, url),
    };
    let rest = rest.trim_end_matches('/');
    (!rest.is_empty()).then(|| (rest.to_owned(), http))
}

/// Containerd writes `host_5000_` where a colon is not possible.
fn port_of(name: &str) -> String {
    match name.strip_suffix('_').and_then(|n| n.rsplit_once('_')) {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => format!("{host}:{port}"),
        _ => name.to_owned(),
    }
}

/// How to speak with a server, as a table of a `hosts.toml` says it; its files are beside that.
fn host_options(file: &Path, table: &Table, http: bool) -> HostOptions {
    let dir = file.parent().unwrap_or(Path::new(""));
    let paths = |key: &str| -> Vec<PathBuf> {
        match table.get(key) {
            Some(Value::String(one)) => vec![dir.join(one)],
            Some(Value::Array(all)) => all.iter().filter_map(Value::as_str).map(|p| dir.join(p)).collect(),
            _ => Vec::new(),
        }
    };
    let identity = match table.get("client").and_then(Value::as_array).map(Vec::as_slice) {
        Some([Value::Array(pair)]) => match pair.as_slice() {
            [Value::String(cert), Value::String(key)] => Some((dir.join(cert), dir.join(key))),
            _ => None,
        },
        _ => paths("client").first().map(|both| (both.clone(), both.clone())),
    };
    HostOptions {
        plain_http: http.then_some(true),
        insecure: table.get("skip_verify").and_then(Value::as_bool).unwrap_or(false),
        roots: paths("ca"),
        identity,
        cert_dirs: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mirrors(found: &Found) -> Vec<(&str, Vec<&str>)> {
        found
            .routes
            .iter()
            .map(|r| (r.prefix.as_str(), r.mirrors.iter().map(|m| m.location.as_str()).collect()))
            .collect()
    }

    // SPEC E2.05
    #[test]
    fn hosts_toml_as_containerd_reads_it() {
        let mut found = Found::default();
        let text = r#"
server = "https://registry-1.docker.io"
[host."https://first.example:5000"]
  capabilities = ["pull", "resolve"]
  ca = "ca.crt"
  client = [["c.crt", "c.key"]]
[host."http://second.example/v2/hub"]
  capabilities = ["pull"]
  override_path = true
[host."https://push.example"]
  capabilities = ["push"]
[host."https://deep.example/api"]
"#;
        found.hosts_toml(Path::new("/certs.d/docker.io/hosts.toml"), "docker.io", text);
        assert_eq!(mirrors(&found), [("docker.io", vec!["first.example:5000", "second.example/hub"])]);
        assert_eq!(found.routes[0].location, None);
        assert_eq!(found.routes[0].mirrors[1].only, Some(Pulls::Digests));
        let first = &found.hosts["first.example:5000"];
        assert_eq!(first.roots, [Path::new("/certs.d/docker.io/ca.crt")]);
        assert_eq!(first.identity, Some(("/certs.d/docker.io/c.crt".into(), "/certs.d/docker.io/c.key".into())));
        assert_eq!(found.hosts["second.example"].plain_http, Some(true));
        assert_eq!(found.notices.len(), 1, "{:?}", found.notices);
        assert_eq!(port_of("r.example_5000_"), "r.example:5000");
        assert_eq!(port_of("r.example"), "r.example");
    }

    // SPEC E2.05: what is said of the server itself.
    #[test]
    fn hosts_toml_says_how_to_speak_with_the_server() {
        let mut found = Found::default();
        let text = "server = \"https://s.example:5000\"\nca = \"ca.crt\"\nclient = \"both.pem\"\n";
        found.hosts_toml(Path::new("/certs.d/r.example/hosts.toml"), "r.example", text);
        let server = &found.hosts["s.example:5000"];
        assert_eq!(server.roots, [Path::new("/certs.d/r.example/ca.crt")]);
        let both = PathBuf::from("/certs.d/r.example/both.pem");
        assert_eq!(server.identity, Some((both.clone(), both)));
        assert_eq!(found.routes[0].location.as_deref(), Some("s.example:5000"));
        found.hosts_toml(Path::new("/certs.d/own.example/hosts.toml"), "own.example", "skip_verify = true\n");
        assert!(found.hosts["own.example"].insecure && found.notices.is_empty());
        found.hosts_toml(Path::new("/certs.d/_default/hosts.toml"), "*", "skip_verify = true\n");
        assert!(!found.hosts.contains_key("*") && found.notices[0].contains("need a server"), "{:?}", found.notices);
        found.hosts_toml(Path::new("/certs.d/h.example/hosts.toml"), "h.example", "server = \"http://h.example\"\n");
        assert_eq!(found.hosts["h.example"].plain_http, Some(true));
    }

    // SPEC D3.36, E2.04, PAIN 95
    #[test]
    fn registries_conf_as_podman_reads_it() {
        let mut found = Found::default();
        let text = r#"
unqualified-search-registries = ["docker.io"]
[[registry]]
prefix = "docker.io/library"
location = "internal.example/hub"
insecure = true
[[registry.mirror]]
location = "m.example/x"
pull-from-mirror = "digest-only"
[[registry]]
location = "bad.example"
blocked = true
[[registry]]
location = "plain.example"
insecure = true
"#;
        found.registries_conf(Path::new("registries.conf"), text);
        assert_eq!(mirrors(&found), [("docker.io/library", vec!["m.example/x"]), ("bad.example", vec![])]);
        assert_eq!(found.routes[0].location.as_deref(), Some("internal.example/hub"));
        assert_eq!(found.routes[0].mirrors[0].only, Some(Pulls::Digests));
        assert!(found.routes[1].blocked);
        assert!(found.hosts["internal.example"].insecure && found.hosts["plain.example"].insecure);
    }

    #[test]
    fn daemon_json_has_mirrors_of_docker_hub() {
        let mut found = Found::default();
        let text = r#"{"registry-mirrors":["https://m.example/","http://n.example:5000"],"insecure-registries":["i.example:1","10.0.0.0/8"]}"#;
        found.daemon_json(Path::new("daemon.json"), text);
        assert_eq!(mirrors(&found), [("docker.io", vec!["m.example", "n.example:5000"])]);
        assert!(found.hosts["i.example:1"].insecure && found.hosts.len() == 2);
        found.daemon_json(Path::new("daemon.json"), "{");
        assert!(found.notices[0].starts_with("daemon.json is ignored: "));
    }

    #[test]
    fn our_own_mirrors_replace_those_of_other_tools() {
        let mut found = Found::default();
        let registry =
            super::super::config::Registry { mirrors: Some(vec!["own.example".into()]), ..Default::default() };
        found.own(&Config { registries: [("docker.io".into(), registry)].into(), ..Config::default() });
        found.daemon_json(Path::new("daemon.json"), r#"{"registry-mirrors":["https://m.example"]}"#);
        assert_eq!(mirrors(&found), [("docker.io", vec!["own.example"])]);
    }
}
