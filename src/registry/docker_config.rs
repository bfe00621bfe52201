//! Docker's `config.json`, containers' `auth.json` and `DOCKER_AUTH_CONFIG`: who has credentials for which registry
//! (SPEC E1).
//!
//! Parsing is pure; [`Keyring`] asks credential helpers where a file names one. Blocking, single-threaded and meant for
//! the process that runs as the real user: helpers misbehave as uid 0 of a user namespace.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;

use super::Credential;
use super::helper::{HelperError, Helpers};

/// The key under which Docker keeps the credentials of Docker Hub.
pub const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";

/// Why a file is of no use.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not JSON, or of another shape.
    #[error("parsing config file ({source_name}): {source}")]
    Json {
        /// File or variable.
        source_name: String,
        /// Why not.
        source: serde_json::Error,
    },
    /// An entry that holds no user name and password.
    #[error("parsing config file ({source_name}): invalid auth configuration file: entry \"{key}\": {reason}")]
    Entry {
        /// File or variable.
        source_name: String,
        /// The entry.
        key: String,
        /// Why not.
        reason: &'static str,
    },
    /// SPEC E1.08.
    #[error("DOCKER_AUTH_CONFIG environment variable is missing key `auth` for {0}")]
    MissingAuth(String),
}

/// One parsed file.
#[derive(Debug, Clone, Default)]
pub struct DockerConfig {
    source: String,
    auths: BTreeMap<String, Entry>,
    helpers: BTreeMap<String, String>,
    store: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    #[serde(default)]
    auths: Option<BTreeMap<String, Option<Entry>>>,
    #[serde(default)]
    cred_helpers: Option<BTreeMap<String, String>>,
    #[serde(default)]
    creds_store: Option<String>,
}

#[derive(Clone, Default, Deserialize)]
struct Entry {
    #[serde(default)]
    auth: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    identitytoken: String,
    #[serde(default)]
    registrytoken: String,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Entry(…)")
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EnvFile {
    auths: BTreeMap<String, EnvEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EnvEntry {
    #[serde(default)]
    auth: String,
}

impl DockerConfig {
    /// Parses a `config.json` or `auth.json`. `source` is its path, for messages. Fields that have nothing to do with
    /// credentials are ignored.
    ///
    /// # Errors
    /// When it is not JSON of the expected shape.
    pub fn parse(source: &str, text: &str) -> Result<Self, ConfigError> {
        let file: File =
            serde_json::from_str(text).map_err(|e| ConfigError::Json { source_name: source.to_owned(), source: e })?;
        // Empty entries mark hosts whose credentials are in the helper.
        let auths = file.auths.unwrap_or_default().into_iter().map(|(k, v)| (normalise(&k), v.unwrap_or_default()));
        let helpers = file.cred_helpers.unwrap_or_default().into_iter().map(|(k, v)| (normalise(&k), v));
        Ok(Self {
            source: source.to_owned(),
            auths: auths.collect(),
            helpers: helpers.collect(),
            store: file.creds_store.filter(|name| !name.is_empty()),
        })
    }

    /// Parses the value of `DOCKER_AUTH_CONFIG` (SPEC E1.08): one object, nothing but `auths` with `auth`.
    ///
    /// # Errors
    /// When there is anything else in it.
    pub fn parse_env(text: &str) -> Result<Self, ConfigError> {
        let source = "DOCKER_AUTH_CONFIG";
        let file: EnvFile =
            serde_json::from_str(text).map_err(|e| ConfigError::Json { source_name: source.to_owned(), source: e })?;
        let mut auths = BTreeMap::new();
        for (key, entry) in file.auths {
            if entry.auth.is_empty() {
                return Err(ConfigError::MissingAuth(key));
            }
            auths.insert(normalise(&key), Entry { auth: entry.auth, ..Entry::default() });
        }
        Ok(Self { source: source.to_owned(), auths, ..Self::default() })
    }

    /// The helper responsible for a repository: the one named for it, else the general one.
    #[must_use]
    pub fn helper(&self, host: &str, repository: Option<&str>) -> Option<&str> {
        let named = lookup_keys(host, repository).into_iter().find_map(|key| self.helpers.get(&key));
        // An empty name switches the general helper off for this host.
        named.or(self.store.as_ref()).map(String::as_str).filter(|name| !name.is_empty())
    }

    /// The credential written in the file itself; the longest matching key counts (SPEC E1.11).
    ///
    /// # Errors
    /// When the entry is broken.
    pub fn stored(&self, host: &str, repository: Option<&str>) -> Result<Option<Credential>, ConfigError> {
        for key in lookup_keys(host, repository) {
            if let Some(entry) = self.auths.get(&key)
                && let Some(credential) = self.credential(&key, entry)?
            {
                return Ok(Some(credential));
            }
        }
        Ok(None)
    }

    fn credential(&self, key: &str, entry: &Entry) -> Result<Option<Credential>, ConfigError> {
        let fail = |reason| ConfigError::Entry { source_name: self.source.clone(), key: key.to_owned(), reason };
        if !entry.registrytoken.is_empty() {
            return Ok(Some(Credential::RegistryToken(entry.registrytoken.clone())));
        }
        if !entry.identitytoken.is_empty() {
            return Ok(Some(Credential::IdentityToken(entry.identitytoken.clone())));
        }
        if entry.auth.is_empty() {
            let (username, password) = (entry.username.clone(), entry.password.clone());
            let named = !username.is_empty() || !password.is_empty();
            return Ok(named.then_some(Credential::Basic { username, password }));
        }
        let lenient = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
        let engine = GeneralPurpose::new(&base64::alphabet::STANDARD, lenient);
        let raw = engine.decode(entry.auth.trim()).map_err(|_| fail("\"auth\" is not base64"))?;
        let text = String::from_utf8(raw).map_err(|_| fail("\"auth\" is not text"))?;
        let (username, password) = text.split_once(':').ok_or_else(|| fail("\"auth\" holds no user:password"))?;
        let password = password.trim_end_matches('\0').to_owned();
        Ok(Some(Credential::Basic { username: username.to_owned(), password }))
    }
}

/// Several files, asked in order, and the helpers they name.
#[derive(Debug, Clone, Default)]
pub struct Keyring {
    /// First come, first asked.
    pub configs: Vec<DockerConfig>,
    /// How helpers are run.
    pub helpers: Helpers,
}

/// Why credentials could not be looked up.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// A file.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A helper.
    #[error("{source} (named in {config})")]
    Helper {
        /// What went wrong.
        source: HelperError,
        /// The file that names the helper.
        config: String,
    },
}

impl Keyring {
    /// The credential for a repository: per file first its helper, then what is written in it. Trouble with one place
    /// does not hide what another one knows.
    ///
    /// # Errors
    /// The first trouble, when nothing was found.
    pub fn credential(&self, host: &str, repository: Option<&str>) -> Result<Option<Credential>, KeyringError> {
        let mut trouble = None;
        for config in &self.configs {
            if let Some(name) = config.helper(host, repository) {
                match self.helpers.get(name, &server_url(host)) {
                    Ok(Some(credential)) => return Ok(Some(credential)),
                    Ok(None) => {}
                    Err(source) => {
                        trouble.get_or_insert(KeyringError::Helper { source, config: config.source.clone() });
                    }
                }
            }
            match config.stored(host, repository) {
                Ok(Some(credential)) => return Ok(Some(credential)),
                Ok(None) => {}
                Err(error) => {
                    trouble.get_or_insert(error.into());
                }
            }
        }
        trouble.map_or(Ok(None), Err)
    }
}

/// What helpers call a registry.
#[must_use]
pub fn server_url(host: &str) -> String {
    if canonical_host(host) == "docker.io" { DOCKER_HUB_KEY.to_owned() } else { host.to_owned() }
}

/// The keys that cover a repository, the most specific first.
fn lookup_keys(host: &str, repository: Option<&str>) -> Vec<String> {
    let host = canonical_host(host);
    let mut keys = Vec::new();
    let mut path = repository.unwrap_or_default().trim_matches('/');
    while !path.is_empty() {
        keys.push(format!("{host}/{path}"));
        path = path.rsplit_once('/').map_or("", |(parent, _)| parent);
    }
    keys.push(host.to_owned());
    keys
}

/// `host[:port][/path]` of a key; legacy URLs lose their scheme and path.
fn normalise(key: &str) -> String {
    let (rest, is_url) = match key.split_once("://") {
        Some(("http" | "https", rest)) => (rest, true),
        _ => (key, false),
    };
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let host = canonical_host(host);
    let path = path.trim_matches('/');
    // `/v1/` and `/v2/` are API roots, not namespaces.
    if is_url || path.is_empty() || matches!(path, "v1" | "v2") { host.to_owned() } else { format!("{host}/{path}") }
}

fn canonical_host(host: &str) -> &str {
    match host {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn b64(text: &str) -> String {
        base64::engine::general_purpose::STANDARD.encode(text)
    }

    fn config(text: &str) -> DockerConfig {
        DockerConfig::parse("config.json", text).expect("parses")
    }

    fn basic(username: &str, password: &str) -> Option<Credential> {
        Some(Credential::Basic { username: username.into(), password: password.into() })
    }

    #[test]
    fn e1_02_auths_of_all_forms() {
        let c = config(&format!(
            r#"{{"auths":{{
                "https://index.docker.io/v1/":{{"auth":"{}","email":"x@y"}},
                "http://legacy.example:5000/v2/":{{"auth":"{}"}},
                "plain.example":{{"username":"u","password":"p"}},
                "id.example":{{"auth":"{}","identitytoken":"refresh"}},
                "reg.example":{{"registrytoken":"bearer"}},
                "marker.example":{{}},
                "null.example":null
            }},"HttpHeaders":{{"X":"y"}},"psFormat":"table"}}"#,
            b64("hub:pa:ss"),
            b64("old:secret\0\0"),
            b64("00000000-0000-0000-0000-000000000000:"),
        ));
        for alias in ["docker.io", "index.docker.io", "registry-1.docker.io"] {
            assert_eq!(c.stored(alias, Some("library/x")).expect("ok"), basic("hub", "pa:ss"), "{alias}");
        }
        assert_eq!(c.stored("legacy.example:5000", None).expect("ok"), basic("old", "secret"));
        assert_eq!(c.stored("legacy.example", None).expect("ok"), None, "the port belongs to the name");
        assert_eq!(c.stored("plain.example", Some("a")).expect("ok"), basic("u", "p"));
        assert_eq!(c.stored("id.example", None).expect("ok"), Some(Credential::IdentityToken("refresh".into())));
        assert_eq!(c.stored("reg.example", None).expect("ok"), Some(Credential::RegistryToken("bearer".into())));
        assert_eq!(c.stored("marker.example", None).expect("ok"), None);
        assert_eq!(c.stored("null.example", None).expect("ok"), None);
    }

    #[test]
    fn e1_02_a_broken_entry_is_an_error_for_its_host_only() {
        let c = config(&format!(
            r#"{{"auths":{{"a.example":{{"auth":"{}"}},"b.example":{{"auth":"%%%"}},"c.example":{{"auth":"{}"}}}}}}"#,
            b64("nocolon"),
            b64("u:p"),
        ));
        let error = c.stored("a.example", None).expect_err("no colon").to_string();
        assert!(
            error.contains("(config.json): invalid auth configuration file") && error.contains("a.example"),
            "{error}"
        );
        assert!(c.stored("b.example", None).is_err());
        assert_eq!(c.stored("c.example", None).expect("ok"), basic("u", "p"));
    }

    #[test]
    fn e1_01_malformed_json_names_the_file() {
        let error = DockerConfig::parse("/home/u/.docker/config.json", "{\"auths\":[").expect_err("malformed");
        assert!(error.to_string().starts_with("parsing config file (/home/u/.docker/config.json): "), "{error}");
        assert!(DockerConfig::parse("x", "{}").is_ok());
        assert!(DockerConfig::parse("x", r#"{"auths":null,"credHelpers":null,"credsStore":""}"#).is_ok());
    }

    #[test]
    fn e1_11_the_longest_prefix_wins() {
        let c = config(&format!(
            r#"{{"auths":{{"r.example":{{"auth":"{}"}},"r.example/team":{{"auth":"{}"}},"r.example/team/app":{{"auth":"{}"}}}}}}"#,
            b64("host:1"),
            b64("team:2"),
            b64("app:3"),
        ));
        for (repository, user) in
            [("team/app", "app"), ("team/app/x", "app"), ("team/apple", "team"), ("team", "team"), ("teams", "host")]
        {
            let found = c.stored("r.example", Some(repository)).expect("ok");
            assert_eq!(found.as_ref().and_then(|c| c.username()), Some(user), "{repository}");
        }
        assert_eq!(c.stored("r.example", None).expect("ok").as_ref().and_then(|c| c.username()), Some("host"));
    }

    #[test]
    fn e1_03_a_named_helper_beats_the_general_one() {
        let c = config(
            r#"{"credsStore":"desktop","credHelpers":{"gcr.io":"gcloud","https://index.docker.io/v1/":"hub","r.example/team":"team","off.example":""}}"#,
        );
        assert_eq!(c.helper("gcr.io", Some("x")), Some("gcloud"));
        assert_eq!(c.helper("docker.io", None), Some("hub"));
        assert_eq!(c.helper("r.example", Some("team/app")), Some("team"));
        assert_eq!(c.helper("r.example", Some("other")), Some("desktop"));
        assert_eq!(c.helper("off.example", None), None);
        assert_eq!(config("{}").helper("x", None), None);
    }

    #[test]
    fn e1_08_the_environment_variable_is_strict() {
        let good = format!(r#"{{"auths":{{"r.example":{{"auth":"{}"}}}}}}"#, b64("u:p"));
        assert_eq!(DockerConfig::parse_env(&good).expect("ok").stored("r.example", None).expect("ok"), basic("u", "p"));
        let missing = DockerConfig::parse_env(r#"{"auths":{"r.example":{}}}"#).expect_err("no auth").to_string();
        assert_eq!(missing, "DOCKER_AUTH_CONFIG environment variable is missing key `auth` for r.example");
        for bad in [
            r#"{"auths":{},"credsStore":"x"}"#,
            r#"{"auths":{"r":{"auth":"eDp5","username":"x"}}}"#,
            r#"{"auths":{}}{"auths":{}}"#,
            "",
        ] {
            assert!(DockerConfig::parse_env(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn debug_output_holds_no_secret() {
        let c =
            config(&format!(r#"{{"auths":{{"r.example":{{"auth":"{}","password":"hunter2"}}}}}}"#, b64("u:hunter2")));
        let shown = format!("{c:?}");
        assert!(!shown.contains("hunter2") && !shown.contains(&b64("u:hunter2")), "{shown}");
    }
}
