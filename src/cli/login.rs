//! `rbuild login` and `rbuild logout` (SPEC E1.15, E1.16). Run as the user himself, without a worker.

use std::io::{IsTerminal as _, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::args::{Global, Login, Logout};
use super::config::Config;
use super::errors::Failure;
use super::settings::{self, usage};
use crate::base::{Events, FaultKind};
use crate::registry::docker_config::{DockerConfig, server_url};
use crate::registry::helper::Helpers;
use crate::registry::{Client, Credential, CredentialProvider, Wanted, login as edit};

/// The one credential that was typed.
struct Typed(Credential);

#[async_trait::async_trait]
impl CredentialProvider for Typed {
    async fn credential(&self, _wanted: &Wanted<'_>) -> Result<Option<Credential>, String> {
        Ok(Some(self.0.clone()))
    }
}

/// `HOST[:PORT]` of what people type: a URL, a host, an image name.
fn host_of(text: Option<&str>) -> String {
    let text = text.unwrap_or("docker.io");
    let text = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).unwrap_or(text);
    let host = text.split('/').next().unwrap_or(text);
    match host {
        "index.docker.io" | "registry-1.docker.io" | "" => "docker.io".into(),
        other => other.to_owned(),
    }
}

/// Where the entry goes: `--authfile`, `REGISTRY_AUTH_FILE`, docker's configuration.
fn file(authfile: Option<&PathBuf>) -> Result<PathBuf, Failure> {
    authfile
        .cloned()
        .or_else(|| settings::variable("REGISTRY_AUTH_FILE").map(PathBuf::from))
        .or_else(|| settings::docker_config_dir().map(|dir| dir.join("config.json")))
        .ok_or_else(|| {
            usage("there is no home directory to keep the login in")
                .hint("set HOME or DOCKER_CONFIG, or give --authfile")
        })
}

fn read(path: &Path) -> Result<String, Failure> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(text),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        Err(e) => Err(store(format!("cannot read {}: {e}", path.display()))),
    }
}

fn store(text: String) -> Failure {
    Failure::new(FaultKind::Store, text)
}

/// Replaces the file, or what it is a link to; readable by its owner only.
fn write(path: &Path, text: &str) -> Result<(), Failure> {
    use std::os::unix::fs::DirBuilderExt as _;
    let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let dir = real.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let fail = |e: &dyn std::fmt::Display| store(format!("cannot write {}: {e}", real.display()));
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|e| fail(&e))?;
    // Such files are made with mode 0600.
    let mut temp = tempfile::Builder::new().prefix(".rbuild-").tempfile_in(dir).map_err(|e| fail(&e))?;
    temp.write_all(text.as_bytes()).and_then(|()| temp.as_file().sync_all()).map_err(|e| fail(&e))?;
    temp.persist(&real).map_err(|e| fail(&e.error))?;
    Ok(())
}

pub(super) fn login(global: &Global, args: &Login) -> Result<u8, Failure> {
    let host = host_of(args.registry.as_deref());
    let path = file(args.authfile.as_ref())?;
    let text = read(&path)?;
    let known = DockerConfig::parse(&path.display().to_string(), if text.trim().is_empty() { "{}" } else { &text })
        .map_err(|e| Failure::new(FaultKind::Usage, e.to_string()))?;
    if args.get_login {
        return get_login(&known, &host);
    }
    let credential = typed(args, &host)?;
    verify(global, &host, &credential, args.insecure)?;
    let helper = known.helper(&host, None);
    if let Some(name) = helper {
        let helpers = Helpers::default();
        helpers.store(name, &server_url(&host), &credential).map_err(|e| store(e.to_string()))?;
    }
    let broken = |e: &dyn std::fmt::Display| store(format!("cannot change {}: {e}", path.display()));
    let new = edit::with_login(&text, &host, &credential, helper.is_some()).map_err(|e| broken(&e))?;
    write(&path, &new)?;
    if helper.is_none() {
        let text = "the password is kept unencrypted; a credential helper (\"credsStore\") would change that";
        let _ = writeln!(std::io::stderr(), "notice: {}: {text}", path.display());
    }
    super::print("Login Succeeded\n")
}

fn get_login(known: &DockerConfig, host: &str) -> Result<u8, Failure> {
    let found = match known.helper(host, None) {
        Some(name) => Helpers::default().get(name, &server_url(host)).map_err(|e| store(e.to_string()))?,
        None => known.stored(host, None).map_err(|e| store(e.to_string()))?,
    };
    match found.as_ref().map(Credential::username) {
        Some(name) => super::print(&format!("{}\n", name.unwrap_or("<token>"))),
        None => Err(Failure::new(FaultKind::Auth, format!("not logged into {host}"))),
    }
}

fn typed(args: &Login, host: &str) -> Result<Credential, Failure> {
    if args.password_stdin && args.password.is_some() {
        return Err(usage("--password and --password-stdin are mutually exclusive"));
    }
    if args.password_stdin && args.username.is_none() {
        return Err(usage("Must provide --username with --password-stdin"));
    }
    let terminal = std::io::stdin().is_terminal();
    let username = match &args.username {
        Some(name) => name.clone(),
        None if terminal => ask(&format!("Username for {host}: "), false)?,
        None => return Err(usage("--username is missing, and there is nobody to ask")),
    };
    let password = match &args.password {
        Some(password) => {
            let text = "a password on the command line is seen by everybody on this machine; use --password-stdin";
            let _ = writeln!(std::io::stderr(), "notice: {text}");
            password.clone()
        }
        None if args.password_stdin => {
            let mut text = String::new();
            let read = std::io::stdin().take(64 << 10).read_to_string(&mut text);
            read.map_err(|e| usage(format!("cannot read the password from standard input: {e}")))?;
            text.trim_end_matches(['\r', '\n']).to_owned()
        }
        None if terminal => ask("Password: ", true)?,
        None => return Err(usage("there is nobody to ask for the password").hint("give --password-stdin")),
    };
    if username.is_empty() || password.is_empty() {
        return Err(usage("user name and password must not be empty"));
    }
    Ok(Credential::Basic { username, password })
}

/// Asks at the terminal; passwords are not shown.
pub(super) fn ask(prompt: &str, secret: bool) -> Result<String, Failure> {
    use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
    let stdin = std::io::stdin();
    let _ = write!(std::io::stderr(), "{prompt}");
    let before = if secret { tcgetattr(&stdin).ok() } else { None };
    if let Some(before) = &before {
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        let _ = tcsetattr(&stdin, OptionalActions::Now, &silent);
    }
    let mut line = String::new();
    let read = stdin.read_line(&mut line);
    if let Some(before) = &before {
        let _ = tcsetattr(&stdin, OptionalActions::Now, before);
        let _ = writeln!(std::io::stderr());
    }
    read.map_err(|e| usage(format!("cannot read from the terminal: {e}")))?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

fn verify(global: &Global, host: &str, credential: &Credential, insecure: bool) -> Result<(), Failure> {
    let config = Config::load(global)?;
    let mut options = super::registries::client_options(&config, Arc::new(Typed(credential.clone())), Events::none())?;
    options.hosts.entry(host.to_owned()).or_default().insecure |= insecure;
    let client = Client::new(options).map_err(|e| Failure::new(e.kind(), e.to_string()))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| Failure::new(FaultKind::Internal, format!("cannot start: {e}")))?;
    runtime.block_on(client.check_login(host)).map_err(|e| {
        let failure = Failure::new(e.kind(), e.to_string());
        // The usual hint is to log in.
        if e.kind() == FaultKind::Auth { failure.hint("check user name and password") } else { failure }
    })
}

pub(super) fn logout(args: &Logout) -> Result<u8, Failure> {
    if args.all && args.registry.is_some() {
        return Err(usage("--all and a registry contradict each other"));
    }
    let path = file(args.authfile.as_ref())?;
    let text = read(&path)?;
    let broken = |e: &dyn std::fmt::Display| store(format!("cannot change {}: {e}", path.display()));
    let known = DockerConfig::parse(&path.display().to_string(), if text.trim().is_empty() { "{}" } else { &text })
        .map_err(|e| Failure::new(FaultKind::Usage, e.to_string()))?;
    let host = host_of(args.registry.as_deref());
    let hosts = if args.all { edit::logged_in(&text).map_err(|e| broken(&e))? } else { vec![host.clone()] };
    let mut erased = false;
    for host in &hosts {
        let host = host_of(Some(host));
        if let Some(name) = known.helper(&host, None) {
            erased |= Helpers::default().erase(name, &server_url(&host)).is_ok();
        }
    }
    let wanted = (!args.all).then_some(host.as_str());
    match edit::without_login(&text, wanted).map_err(|e| broken(&e))? {
        Some(new) => write(&path, &new)?,
        None if erased => {}
        // As docker: nothing to do is no failure.
        None if args.all => return super::print("Not logged in anywhere\n"),
        None => return super::print(&format!("Not logged in to {host}\n")),
    }
    super::print(&match args.all {
        true => "Removed all login credentials\n".to_owned(),
        false => format!("Removing login credentials for {host}\n"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn e1_15_what_people_type_for_a_registry() {
        assert_eq!(host_of(None), "docker.io");
        assert_eq!(host_of(Some("https://index.docker.io/v1/")), "docker.io");
        assert_eq!(host_of(Some("ghcr.io/owner")), "ghcr.io");
        assert_eq!(host_of(Some("http://localhost:5000")), "localhost:5000");
    }

    #[test]
    fn the_file_is_private_and_links_stay() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().expect("a directory");
        let real = dir.path().join("deep/config.json");
        write(&real, "{}").expect("written");
        let link = dir.path().join("link.json");
        std::os::unix::fs::symlink(&real, &link).expect("linked");
        write(&link, "{\"a\":1}").expect("written");
        assert_eq!(std::fs::read_to_string(&real).expect("readable"), "{\"a\":1}");
        assert!(std::fs::symlink_metadata(&link).expect("there").is_symlink());
        let mode = |p: &Path| std::fs::metadata(p).expect("there").permissions().mode() & 0o777;
        assert_eq!((mode(&real), mode(&dir.path().join("deep"))), (0o600, 0o700));
    }
}
