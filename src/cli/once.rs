//! What holds for the registries of this one command: `--creds` (SPEC E1.12), `--push-chunk-size` (SPEC E3.08), and
//! `--registry` with its like ([`super::registry_flags`]).

use std::io::IsTerminal as _;
use std::sync::Arc;

use super::args::{Build, Command, Manifest};
use super::errors::Failure;
use super::grammar;
use super::login;
use super::registry_flags::RegistryFlags;
use super::settings::usage;
use crate::exporter::OutputSpec;
use crate::oci::Reference;
use crate::registry::cloud::Service;
use crate::registry::{ClientOptions, Credential, CredentialProvider, Wanted};

/// Bytes of the smallest pieces: below that nothing but requests would be sent.
const LEAST_CHUNK: u64 = 64 << 10;

/// What the command line says about registries.
#[derive(Debug, Clone, Default)]
pub(super) struct Once {
    /// Who to be, and for which hosts.
    creds: Option<(Vec<String>, Credential)>,
    /// Bytes of an upload's pieces.
    chunk: Option<u64>,
    /// How they are reached.
    registries: RegistryFlags,
}

impl Once {
    /// # Errors
    /// For values that are malformed, and credentials that are nobody's.
    pub(super) fn new(command: &Command) -> Result<Self, Failure> {
        let registries = command.registries().map_or_else(|| Ok(RegistryFlags::default()), RegistryFlags::new)?;
        let (creds, chunk, hosts) = match (command, command.build()) {
            (_, Some(args)) => (&args.creds, &args.push_chunk_size, named(args)),
            (Command::Pull(args), _) => (&args.creds, &None, hosts([args.image.as_str()])),
            (Command::Push(args), _) => {
                let own = (args.targets.is_empty() && !args.archive).then_some(&args.image);
                (&args.creds, &args.push_chunk_size, hosts(args.targets.iter().chain(own).map(String::as_str)))
            }
            (Command::Manifest { command: list }, _) => {
                let Some(transfer) = list.transfer() else { return Ok(Self::default()) };
                let (chunk, names) = of_list(list);
                (&transfer.creds, chunk, hosts(names))
            }
            _ => return Ok(Self { registries, ..Self::default() }),
        };
        let chunk = chunk.as_ref().map(|text| bytes(text)).transpose()?;
        let Some(text) = creds else { return Ok(Self { creds: None, chunk, registries }) };
        if hosts.is_empty() {
            return Err(usage("--creds: there is no image name that would say for which registry")
                .hint("give a name with -t HOST/NAME, or use `rbuild login HOST`"));
        }
        Ok(Self { creds: Some((hosts, credential(text)?)), chunk, registries })
    }

    /// Who may be asked for credentials that no file has; `None` is everybody.
    pub(super) fn helpers(&self) -> Option<&[Service]> {
        self.registries.helpers()
    }

    /// Options of a client, with this.
    pub(super) fn apply(&self, options: ClientOptions) -> ClientOptions {
        let credentials: Arc<dyn CredentialProvider> = match &self.creds {
            Some((hosts, credential)) => Arc::new(Given {
                hosts: hosts.clone(),
                credential: credential.clone(),
                otherwise: Arc::clone(&options.credentials),
            }),
            None => Arc::clone(&options.credentials),
        };
        let mut options = ClientOptions { credentials, chunk: self.chunk, ..options };
        self.registries.apply(&mut options);
        options
    }
}

/// The registries that a build's images are named for. Names that are none are refused later.
fn named(args: &Build) -> Vec<String> {
    let outputs = args.output.iter().filter_map(|text| OutputSpec::parse(text).ok());
    let mut all = hosts(args.tag.iter().map(String::as_str));
    all.extend(outputs.flat_map(|output| output.names).map(|name| name.domain));
    all
}

/// The size of pieces that a command on a list asks for, and the names of images that it fetches or sends.
fn of_list(command: &Manifest) -> (&Option<String>, Vec<&str>) {
    fn plain(names: &[String]) -> Vec<&str> {
        names.iter().map(|name| name.strip_prefix("docker-image://").unwrap_or(name)).collect()
    }
    match command {
        Manifest::Create(args) => (&None, plain(&args.images)),
        Manifest::Add(args) => (&None, plain(&args.images)),
        Manifest::Push(args) => (&args.push_chunk_size, vec![args.target.as_ref().unwrap_or(&args.list)]),
        _ => (&None, Vec::new()),
    }
}

fn hosts<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    names.into_iter().filter_map(|name| Some(name.parse::<Reference>().ok()?.domain)).collect()
}

fn bytes(text: &str) -> Result<u64, Failure> {
    let bytes = grammar::bytes(text).map_err(|e| usage(format!("--push-chunk-size: {e}")))?;
    if bytes < LEAST_CHUNK {
        return Err(usage(format!("--push-chunk-size: {bytes} bytes are too few; expected at least 64k")));
    }
    Ok(bytes)
}

fn credential(text: &str) -> Result<Credential, Failure> {
    let (username, password) = match text.split_once(':') {
        Some((username, password)) => (username, password.to_owned()),
        None if std::io::stdin().is_terminal() => (text, login::ask("Password: ", true)?),
        None => {
            return Err(usage("--creds: the password is missing, and there is nobody to ask")
                .hint("give USER:PASSWORD, or use `rbuild login --password-stdin`"));
        }
    };
    if username.is_empty() || password.is_empty() {
        return Err(usage("--creds: user name and password must not be empty"));
    }
    Ok(Credential::Basic { username: username.to_owned(), password })
}

/// The credential of the command line for its hosts; the others' are looked up as ever.
struct Given {
    hosts: Vec<String>,
    credential: Credential,
    otherwise: Arc<dyn CredentialProvider>,
}

#[async_trait::async_trait]
impl CredentialProvider for Given {
    async fn credential(&self, wanted: &Wanted<'_>) -> Result<Option<Credential>, String> {
        if self.hosts.iter().any(|host| host == wanted.host) {
            return Ok(Some(self.credential.clone()));
        }
        self.otherwise.credential(wanted).await
    }
}

#[cfg(test)]
mod tests {
    use super::super::args::Cli;
    use super::*;

    fn once(line: &str) -> Result<Once, String> {
        let cli = Cli::parse_words(line.split(' ')).expect("parses");
        Once::new(&cli.command).map_err(|e| e.message)
    }

    #[tokio::test]
    async fn e1_12_credentials_go_to_the_registries_of_the_names_only() {
        let line = "rbuild build --creds me:se:cret -t r.example/a -o type=image,name=q.example:5000/b .";
        let options = once(line).expect("fine").apply(ClientOptions::default());
        for (host, expected) in [("r.example", true), ("q.example:5000", true), ("docker.io", false)] {
            let wanted = Wanted { host, repository: None, actions: Vec::new() };
            let found = options.credentials.credential(&wanted).await.expect("no trouble");
            let known = Credential::Basic { username: "me".into(), password: "se:cret".into() };
            assert_eq!(found, expected.then_some(known), "{host}");
        }
        for line in ["rbuild pull --creds a:b r.example/a", "rbuild push --creds a:b x r.example/a"] {
            assert_eq!(once(line).expect("fine").creds.expect("given").0, ["r.example"], "{line}");
        }
        for (line, rule) in [
            ("rbuild build --creds a:b .", "no image name"),
            ("rbuild pull --creds :b r.example/a", "must not be empty"),
            ("rbuild pull --creds a: r.example/a", "must not be empty"),
        ] {
            assert!(once(line).is_err_and(|e| e.contains(rule)), "{line}");
        }
    }

    #[test]
    fn e3_08_sizes_of_pieces() {
        assert_eq!(once("rbuild push --push-chunk-size 50m x").expect("fine").chunk, Some(50 << 20));
        assert!(once("rbuild push --push-chunk-size 1k x").is_err_and(|e| e.contains("at least 64k")));
        assert!(once("rbuild push --push-chunk-size much x").is_err_and(|e| e.contains("--push-chunk-size")));
    }
}
