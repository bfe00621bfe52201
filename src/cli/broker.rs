//! The broker's side and the worker's side of their one conversation: credentials and SSH agents (DESIGN section 2).
//!
//! Credential helpers and agents misbehave towards uid 0 of a user namespace, so the broker, who is still the real user,
//! runs the one and talks to the other. One JSON line asks, one JSON line answers, with a connection attached where that
//! was asked for. Tokens are in the worker's memory only; SSH keys never leave the broker's.

use std::collections::HashMap;
use std::io::{self, BufRead as _, BufReader, IoSlice, IoSliceMut, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use serde::{Deserialize, Serialize};

use super::errors::Failure;
use super::{scoped, settings};
use crate::base::Events;
use crate::registry::cloud::{CloudEnvironment, CloudKeychain, Service};
use crate::registry::docker_config::{DockerConfig, Keyring};
use crate::registry::{ClientOptions, Credential, CredentialProvider, Wanted};
use crate::ssh::{Agent, AgentSource, AgentSpec};

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Question {
    /// Who we are to a registry.
    Credential {
        host: String,
        repository: Option<String>,
        /// See [`Wanted::actions`].
        actions: Vec<String>,
    },
    /// A connection to an agent.
    Agent(AgentSpec),
    /// No question: the command is done, with this exit code. What the worker still does concerns nobody.
    Finished(u8),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Answer {
    None,
    Basic {
        username: String,
        password: String,
    },
    IdentityToken(String),
    RegistryToken(String),
    /// The connection comes with it.
    Agent,
    Trouble {
        message: String,
        hint: Option<String>,
    },
}

/// A connected pair: ours, and the one the worker inherits.
pub(super) fn pair() -> io::Result<(UnixStream, OwnedFd)> {
    let (ours, theirs) = UnixStream::pair()?;
    Ok((ours, theirs.into()))
}

/// Answers questions on a thread until the worker is gone. Credentials are those of `authfile`, if there is one.
pub(super) fn serve(stream: UnixStream, authfile: Option<PathBuf>) -> io::Result<()> {
    std::thread::Builder::new().name("broker".into()).spawn(move || {
        // A broken conversation ends it; the worker reports what it could not learn.
        let _ = answer_all(&stream, authfile.as_deref());
    })?;
    Ok(())
}

fn answer_all(stream: &UnixStream, authfile: Option<&Path>) -> io::Result<()> {
    let mut agents = HashMap::new();
    for line in BufReader::new(stream).lines() {
        match serde_json::from_str(&line?)? {
            Question::Credential { host, repository, actions } => {
                send(stream, &credential(authfile, &host, repository.as_deref(), &actions), None)?;
            }
            Question::Agent(spec) => match agent(&mut agents, spec) {
                Ok(connection) => send(stream, &Answer::Agent, Some(&connection))?,
                Err(trouble) => send(stream, &trouble, None)?,
            },
            Question::Finished(code) => std::process::exit(i32::from(code)),
        }
    }
    Ok(())
}

/// One line, and perhaps a descriptor with its first byte.
fn send(stream: &UnixStream, answer: &Answer, attached: Option<&UnixStream>) -> io::Result<()> {
    let mut text = serde_json::to_vec(answer)?;
    text.push(b'\n');
    let Some(attached) = attached else { return (&*stream).write_all(&text) };
    let fds = [attached.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&fds));
    let sent = rustix::net::sendmsg(stream, &[IoSlice::new(&text)], &mut control, SendFlags::NOSIGNAL)?;
    (&*stream).write_all(&text[sent..])
}

fn credential(authfile: Option<&Path>, host: &str, repository: Option<&str>, actions: &[String]) -> Answer {
    let keyring = match authfile {
        Some(file) => only(file),
        None => keyring(host, repository, actions),
    };
    match keyring.and_then(|k| k.credential(host, repository).map_err(|e| e.to_string())) {
        Ok(None) => Answer::None,
        Ok(Some(Credential::Basic { username, password })) => Answer::Basic { username, password },
        Ok(Some(Credential::IdentityToken(token))) => Answer::IdentityToken(token),
        Ok(Some(Credential::RegistryToken(token))) => Answer::RegistryToken(token),
        Err(message) => Answer::Trouble { message, hint: None },
    }
}

/// A new connection, served by a thread of its own. Keys are read once: what the build started with is what it has.
fn agent(agents: &mut HashMap<AgentSpec, Arc<AgentSource>>, spec: AgentSpec) -> Result<UnixStream, Answer> {
    let source = match agents.get(&spec) {
        Some(source) => Arc::clone(source),
        None => {
            let source = AgentSource::open(&spec).map_err(|e| {
                let hint = e.hint().map(ToOwned::to_owned);
                Answer::Trouble { message: e.to_string(), hint }
            })?;
            let source = Arc::new(source);
            agents.insert(spec, Arc::clone(&source));
            source
        }
    };
    let start = || {
        let (ours, theirs) = UnixStream::pair()?;
        std::thread::Builder::new().name("ssh agent".into()).spawn(move || {
            // What goes wrong here ends the connection, and that is what the step sees.
            let _ = source.serve(ours);
        })?;
        Ok::<_, io::Error>(theirs)
    };
    start().map_err(|e| Answer::Trouble { message: format!("cannot serve the agent: {e}"), hint: None })
}

/// What one file holds.
fn only(file: &Path) -> Result<Keyring, String> {
    let text = std::fs::read_to_string(file).map_err(|e| format!("cannot read {}: {e}", file.display()))?;
    let config = DockerConfig::parse(&file.display().to_string(), &text).map_err(|e| e.to_string())?;
    Ok(Keyring { configs: vec![config], ..Keyring::default() })
}

/// Every place that may hold credentials, read anew for each question: long builds outlive short tokens (E1.13).
fn keyring(host: &str, repository: Option<&str>, actions: &[String]) -> Result<Keyring, String> {
    let mut configs = Vec::new();
    if let Some(file) = scoped::find(host, repository, actions) {
        return only(&file);
    }
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

    fn ask(&self, question: &Question) -> io::Result<(Answer, Option<OwnedFd>)> {
        let stream = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut text = serde_json::to_vec(question)?;
        text.push(b'\n');
        (&*stream).write_all(&text)?;
        receive(&stream)
    }

    /// Ends the broker.
    pub(super) fn finished(&self, code: u8) -> io::Result<()> {
        let stream = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut text = serde_json::to_vec(&Question::Finished(code))?;
        text.push(b'\n');
        (&*stream).write_all(&text)
    }

    fn credential(&self, question: &Question) -> Result<Option<Credential>, String> {
        let (answer, _) = self.ask(question).map_err(|e| format!("cannot ask for credentials: {e}"))?;
        match answer {
            Answer::None => Ok(None),
            Answer::Basic { username, password } => Ok(Some(Credential::Basic { username, password })),
            Answer::IdentityToken(token) => Ok(Some(Credential::IdentityToken(token))),
            Answer::RegistryToken(token) => Ok(Some(Credential::RegistryToken(token))),
            Answer::Trouble { message, .. } => Err(message),
            Answer::Agent => Err("cannot ask for credentials: the answer is about something else".into()),
        }
    }

    /// A connection to an agent; what is wrong with it and what can be done, if it cannot be had.
    pub(super) fn agent(&self, spec: &AgentSpec) -> Result<UnixStream, (String, Option<String>)> {
        match self.ask(&Question::Agent(spec.clone())) {
            Ok((Answer::Agent, Some(fd))) => Ok(fd.into()),
            Ok((Answer::Trouble { message, hint }, _)) => Err((message, hint)),
            Ok(_) => Err(("cannot ask for an ssh agent: the answer is about something else".into(), None)),
            Err(e) => Err((format!("cannot ask for an ssh agent: {e}"), None)),
        }
    }
}

/// Reads one line and what is attached to it. Nothing comes behind it: there is one answer to one question.
fn receive(stream: &UnixStream) -> io::Result<(Answer, Option<OwnedFd>)> {
    let mut line = Vec::new();
    let mut attached = None;
    while line.last() != Some(&b'\n') {
        let mut buffer = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut buffers = [IoSliceMut::new(&mut buffer)];
        let message = rustix::net::recvmsg(stream, &mut buffers, &mut control, RecvFlags::CMSG_CLOEXEC)?;
        for item in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = item {
                attached = attached.or(fds.last());
            }
        }
        if message.bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        line.extend(&buffer[..message.bytes]);
    }
    Ok((serde_json::from_slice(&line)?, attached))
}

/// An agent of the user's, through the broker.
pub(super) struct BrokeredAgent {
    pub(super) client: Arc<BrokerClient>,
    pub(super) spec: AgentSpec,
}

impl std::fmt::Debug for BrokeredAgent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("BrokeredAgent").field(&self.spec.id).finish()
    }
}

impl Agent for BrokeredAgent {
    fn connect(&self) -> io::Result<UnixStream> {
        self.client.agent(&self.spec).map_err(|(message, _)| io::Error::other(message))
    }
}

/// The same from async code; where the user has nothing, what the machine's cloud offers (SPEC E1.14).
pub(super) struct Broker {
    client: Arc<BrokerClient>,
    cloud: CloudKeychain,
    events: Events,
}

impl Broker {
    /// `options` are for what a cloud is asked, with nobody's credentials; `helpers` are those that may be, everybody without.
    pub(super) fn new(
        client: Arc<BrokerClient>,
        options: ClientOptions,
        helpers: Option<&[Service]>,
        events: &Events,
    ) -> Result<Self, Failure> {
        let options = ClientOptions { events: Events::none(), ..options };
        let environment = CloudEnvironment { only: helpers.map(<[_]>::to_vec), ..settings::cloud() };
        let cloud = CloudKeychain::new(environment, options);
        let cloud = cloud.map_err(|e| Failure::new(e.kind(), e.to_string()))?;
        Ok(Self { client, cloud, events: events.clone() })
    }
}

#[async_trait::async_trait]
impl CredentialProvider for Broker {
    async fn credential(&self, wanted: &Wanted<'_>) -> Result<Option<Credential>, String> {
        let host = wanted.host;
        let question = Question::Credential {
            host: host.to_owned(),
            repository: wanted.repository.map(ToOwned::to_owned),
            actions: wanted.actions.clone(),
        };
        let client = self.client.clone();
        let own = tokio::task::spawn_blocking(move || client.credential(&question))
            .await
            .map_err(|e| format!("cannot ask for credentials: {e}"))?;
        if let Ok(Some(credential)) = own {
            return Ok(Some(credential));
        }
        match self.cloud.credential(host).await {
            Ok(None) => own,
            Ok(Some(credential)) => {
                let text = format!("signed in to {host} with what the environment has for it");
                self.events.notice("registry-cloud", text);
                Ok(Some(credential))
            }
            Err(trouble) => own.and(Err(trouble)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::unix::net::UnixListener;

    use super::*;

    /// SPEC A5.07: the worker gets connections, and no two share one.
    #[test]
    fn a5_07_connections_travel_with_the_answer() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("agent");
        let listener = UnixListener::bind(&path).expect("listens");
        let (ours, theirs) = pair().expect("a pair");
        serve(ours, None).expect("serves");
        let client = Arc::new(BrokerClient::new(theirs));
        let spec = AgentSpec { id: "default".into(), paths: vec![path], raw: true };
        let agent = BrokeredAgent { client: Arc::clone(&client), spec };
        let (mut first, mut second) = (agent.connect().expect("connects"), agent.connect().expect("connects"));
        first.write_all(b"1").expect("writes");
        second.write_all(b"2").expect("writes");
        drop((first, second));
        // The first connection is the one that looked whether somebody is there.
        let mut seen: Vec<String> = (0..3)
            .map(|_| {
                let mut text = String::new();
                let (mut connection, _) = listener.accept().expect("accepts");
                connection.read_to_string(&mut text).expect("reads");
                text
            })
            .collect();
        seen.sort_unstable();
        assert_eq!(seen, ["", "1", "2"]);
        let missing = AgentSpec { id: "x".into(), paths: vec!["/no/such".into()], raw: false };
        assert!(client.agent(&missing).expect_err("refused").0.starts_with("cannot read /no/such"));
    }
}
