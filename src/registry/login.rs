//! Whether a registry accepts a credential, and where `login` keeps it (SPEC E1.15, E1.16).

use reqwest::{Method, StatusCode};
use serde_json::{Map, Value};

use super::client::Client;
use super::docker_config::server_url;
use super::mirrors::failed;
use super::request::{Call, Target};
use super::{Credential, Fault, RegistryError};

impl Client {
    /// Asks the registry `host` whether it knows who the credential provider says we are.
    ///
    /// # Errors
    /// [`Fault::BadCredentials`] if it does not.
    pub async fn check_login(&self, host: &str) -> Result<(), RegistryError> {
        let state = self.0.host(host);
        let mut call = Call::pull(Method::GET, "", String::new());
        (call.target, call.scopes) = (Target::Root, super::scopes::Scopes::default());
        let checked = async {
            let answer = self.0.small(&state, &call, 1 << 20).await?;
            match answer.status {
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                    Err(Fault::BadCredentials { host: host.to_owned(), username: None, detail: answer.words() })
                }
                // Some put a page there that needs no login, or nothing at all.
                _ => Ok(()),
            }
        };
        checked.await.map_err(failed(format!("failed to log in to {host}")))
    }
}

/// Why a configuration file cannot be changed.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// Not JSON, or of another shape: it is left alone.
    #[error("it is not a docker configuration file: {0}")]
    Shape(String),
}

fn parse(text: &str) -> Result<Map<String, Value>, EditError> {
    if text.trim().is_empty() {
        return Ok(Map::new());
    }
    serde_json::from_str(text).map_err(|e| EditError::Shape(e.to_string()))
}

fn print(config: &Map<String, Value>) -> String {
    // Docker writes tabs.
    let mut out = Vec::new();
    let format = serde_json::ser::PrettyFormatter::with_indent(b"\t");
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, format);
    serde::Serialize::serialize(config, &mut serializer).expect("because the keys are strings");
    out.push(b'\n');
    String::from_utf8(out).expect("because JSON is UTF-8")
}

/// The text of a configuration file with a credential in it. Everything else in it stays. With `helper` the credential
/// itself is elsewhere, and an empty entry marks the host.
///
/// # Errors
/// When `text` is no configuration file.
pub fn with_login(text: &str, host: &str, credential: &Credential, helper: bool) -> Result<String, EditError> {
    use base64::Engine as _;
    let mut config = parse(text)?;
    let auths = config.entry("auths").or_insert_with(|| Value::Object(Map::new()));
    if auths.is_null() {
        *auths = Value::Object(Map::new());
    }
    let auths = auths.as_object_mut().ok_or_else(|| EditError::Shape("\"auths\" is no object".into()))?;
    let mut entry = Map::new();
    if !helper {
        match credential {
            Credential::Basic { username, password } => {
                let text = base64::engine::general_purpose::STANDARD.encode(format!("{username}:{password}"));
                entry.insert("auth".into(), text.into());
            }
            Credential::IdentityToken(token) => drop(entry.insert("identitytoken".into(), token.as_str().into())),
            Credential::RegistryToken(token) => drop(entry.insert("registrytoken".into(), token.as_str().into())),
        }
    }
    auths.insert(server_url(host), Value::Object(entry));
    Ok(print(&config))
}

/// The text without the credential of `host`, or of all hosts; `None` if there was none.
///
/// # Errors
/// When `text` is no configuration file.
pub fn without_login(text: &str, host: Option<&str>) -> Result<Option<String>, EditError> {
    let mut config = parse(text)?;
    let Some(auths) = config.get_mut("auths").and_then(Value::as_object_mut) else { return Ok(None) };
    let before = auths.len();
    match host {
        None => auths.clear(),
        Some(host) => {
            let keys = [server_url(host), host.to_owned(), format!("https://{host}"), format!("https://{host}/v1/")];
            auths.retain(|key, _| !keys.contains(key));
        }
    }
    if auths.len() == before {
        return Ok(None);
    }
    Ok(Some(print(&config)))
}

/// The hosts that have an entry.
///
/// # Errors
/// When `text` is no configuration file.
pub fn logged_in(text: &str) -> Result<Vec<String>, EditError> {
    let config = parse(text)?;
    let auths = config.get("auths").and_then(Value::as_object);
    Ok(auths.map(|a| a.keys().cloned().collect()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    // SPEC E1.15, E1.16
    #[test]
    fn a_login_changes_its_own_entry_only() {
        let user = Credential::Basic { username: "u".into(), password: "p".into() };
        let old = r#"{"credsStore":"","auths":{"other.example":{"auth":"eDp5"}},"psFormat":"table"}"#;
        let new = with_login(old, "docker.io", &user, false).expect("edits");
        let value: Value = serde_json::from_str(&new).expect("JSON");
        assert_eq!(value["auths"]["https://index.docker.io/v1/"]["auth"], "dTpw");
        assert_eq!(value["auths"]["other.example"]["auth"], "eDp5");
        assert_eq!(value["psFormat"], "table");
        let gone = without_login(&new, Some("docker.io")).expect("edits").expect("was there");
        let value: Value = serde_json::from_str(&gone).expect("JSON");
        assert_eq!(value["auths"].as_object().map(Map::len), Some(1));
        assert_eq!(without_login(&gone, Some("docker.io")).expect("edits"), None);
        assert_eq!(logged_in(&gone).expect("reads"), ["other.example"]);
        assert!(without_login(&gone, None).expect("edits").is_some());
    }

    #[test]
    fn with_a_helper_the_file_holds_a_marker() {
        let user = Credential::Basic { username: "u".into(), password: "p".into() };
        let new = with_login("", "r.example:5000", &user, true).expect("edits");
        let value: Value = serde_json::from_str(&new).expect("JSON");
        assert_eq!(value["auths"]["r.example:5000"], serde_json::json!({}));
        assert!(with_login("[]", "r", &user, false).is_err());
        assert!(with_login(r#"{"auths":3}"#, "r", &user, false).is_err());
    }
}
