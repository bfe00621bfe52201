//! The broker's side and the worker's side of their one conversation: credentials (DESIGN section 2).
//!
//! Helpers misbehave as uid 0 of a user namespace, so the broker, who is still the real user, runs them. One JSON line
//! asks, one JSON line answers; secrets are in the worker's memory only.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

use super::settings;
use crate::registry::docker_config::{DockerConfig, Keyring};
use crate::registry::{Credential, CredentialProvider};

#[derive(Serialize, Deserialize)]
struct Question {
    host: String,
    repository: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Answer {
    None,
    Basic { username: String, password: String },
    IdentityToken(String),
    RegistryToken(String),
    Trouble(String),
}

/// A connected pair: ours, and the one the worker inherits.
pub(super) fn pair() -> io::Result<(UnixStream, OwnedFd)> {
    let (ours, theirs) = UnixStream::pair()?;
    Ok((ours, theirs.into()))
}

/// Answers questions on a thread until the worker is gone.
pub(super) fn serve(stream: UnixStream) -> io::Result<()> {
    std::thread::Builder::new().name("broker".into()).spawn(move || {
        // A broken conversation ends it; the worker reports what it could not learn.
        let _ = answer_all(&stream);
    })?;
    Ok(())
}

fn answer_all(stream: &UnixStream) -> io::Result<()> {
    let mut out = stream;
    for line in BufReader::new(stream).lines() {
        let question: Question = serde_json::from_str(&line?)?;
        let answer = match keyring()
            .and_then(|k| k.credential(&question.host, question.repository.as_deref()).map_err(|e| e.to_string()))
        {
            Ok(None) => Answer::None,
            Ok(Some(Credential::Basic { username, password })) => Answer::Basic { username, password },
            Ok(Some(Credential::IdentityToken(token))) => Answer::IdentityToken(token),
            Ok(Some(Credential::RegistryToken(token))) => Answer::RegistryToken(token),
            Err(trouble) => Answer::Trouble(trouble),
        };
        let mut text = serde_json::to_vec(&answer)?;
        text.push(b'\n');
        out.write_all(&text)?;
    }
    Ok(())
}

/// Every place that may hold credentials, read anew for each question: long builds outlive short tokens (E1.13).
fn keyring() -> Result<Keyring, String> {
    let mut configs = Vec::new();
    if let Some(text) = settings::variable("DOCKER_AUTH_CONFIG") {
        configs.push(DockerConfig::parse_env(&text).map_err(|e| e.to_string())?);
    }
    // Docker's file first, then those of the containers tools (E1.01, E1.11).
    let mut files: Vec<PathBuf> = Vec::new();
    files.extend(settings::variable("REGISTRY_AUTH_FILE").map(PathBuf::from));
    files.extend(settings::docker_config_dir().map(|d| d.join("config.json")));
    files.extend(settings::variable("XDG_RUNTIME_DIR").map(|d| PathBuf::from(d).join("containers/auth.json")));
    let config =
        settings::variable("XDG_CONFIG_HOME").map(PathBuf::from).or_else(|| Some(settings::home()?.join(".config")));
    files.extend(config.map(|d| d.join("containers/auth.json")));
    for file in files {
        match std::fs::read_to_string(&file) {
            Ok(text) => {
                let parsed = DockerConfig::parse(&file.display().to_string(), &text);
                configs.push(parsed.map_err(|e| e.to_string())?);
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(format!("cannot read {}: {e}", file.display())),
        }
    }
    Ok(Keyring { configs, ..Keyring::default() })
}

/// Asks the broker.
pub(super) struct BrokerClient(Mutex<UnixStream>);

impl BrokerClient {
    /// Talks over the socket the worker inherited.
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self(Mutex::new(socket.into()))
    }

    fn ask(&self, host: &str, repository: Option<&str>) -> Result<Option<Credential>, String> {
        let stream = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let question = Question { host: host.to_owned(), repository: repository.map(ToOwned::to_owned) };
        let exchange = || -> io::Result<Answer> {
            let mut text = serde_json::to_vec(&question)?;
            text.push(b'\n');
            (&*stream).write_all(&text)?;
            let mut line = String::new();
            BufReader::new(&*stream).read_line(&mut line)?;
            Ok(serde_json::from_str(&line)?)
        };
        match exchange().map_err(|e| format!("cannot ask for credentials: {e}"))? {
            Answer::None => Ok(None),
            Answer::Basic { username, password } => Ok(Some(Credential::Basic { username, password })),
            Answer::IdentityToken(token) => Ok(Some(Credential::IdentityToken(token))),
            Answer::RegistryToken(token) => Ok(Some(Credential::RegistryToken(token))),
            Answer::Trouble(trouble) => Err(trouble),
        }
    }
}

/// The same from async code.
pub(super) struct Broker(pub(super) std::sync::Arc<BrokerClient>);

#[async_trait::async_trait]
impl CredentialProvider for Broker {
    async fn credential(&self, host: &str, repository: Option<&str>) -> Result<Option<Credential>, String> {
        let (client, host, repository) = (self.0.clone(), host.to_owned(), repository.map(ToOwned::to_owned));
        tokio::task::spawn_blocking(move || client.ask(&host, repository.as_deref()))
            .await
            .map_err(|e| format!("cannot ask for credentials: {e}"))?
    }
}
