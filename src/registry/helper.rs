//! Runs `docker-credential-NAME` programs (SPEC E1.05). Blocking, without threads.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Deserialize, Serialize};

use super::Credential;

/// The most a helper may say.
const MAX_OUTPUT: usize = 1 << 20;

/// How helpers are run.
#[derive(Debug, Clone)]
pub struct Helpers {
    /// Where to look for them; the process's own `PATH` when absent.
    pub path: Option<OsString>,
    /// How long one may take: some ask the user or a far-away server.
    pub patience: Duration,
}

impl Default for Helpers {
    fn default() -> Self {
        Self { path: None, patience: Duration::from_secs(60) }
    }
}

/// Why a helper was of no help.
#[derive(Debug, thiserror::Error)]
pub enum HelperError {
    /// The program does not exist, or cannot be run.
    #[error("cannot run {program}: {source}")]
    Run {
        /// The program.
        program: String,
        /// Why not.
        source: io::Error,
    },
    /// A name that is no name.
    #[error("\"{0}\" is not the name of a credential helper")]
    Name(String),
    /// It failed; these are its words.
    #[error("{program} {action} failed for {server}: {message}")]
    Failed {
        /// The program.
        program: String,
        /// The action.
        action: &'static str,
        /// The registry.
        server: String,
        /// Its words, or its exit status.
        message: String,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    #[serde(rename = "ServerURL", default)]
    server_url: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    secret: String,
}

impl Helpers {
    /// Asks for the credential of `server`; `None` when the helper has none.
    ///
    /// # Errors
    /// When it cannot be run or fails.
    pub fn get(&self, name: &str, server: &str) -> Result<Option<Credential>, HelperError> {
        let output = match self.run(name, "get", server, server.as_bytes())? {
            Ok(output) => output,
            Err(message) if is_missing(&message) => return Ok(None),
            Err(message) => return Err(failed(name, "get", server, message)),
        };
        let answer: Answer = serde_json::from_slice(&output)
            .map_err(|_| failed(name, "get", server, "its answer is not the expected JSON".into()))?;
        if answer.secret.is_empty() && answer.username.is_empty() {
            return Ok(None);
        }
        Ok(Some(if answer.username == "<token>" {
            Credential::IdentityToken(answer.secret)
        } else {
            Credential::Basic { username: answer.username, password: answer.secret }
        }))
    }

    /// Hands over a credential to keep.
    ///
    /// # Errors
    /// When it cannot be run or fails.
    pub fn store(&self, name: &str, server: &str, credential: &Credential) -> Result<(), HelperError> {
        let (username, secret) = match credential {
            Credential::Basic { username, password } => (username.as_str(), password),
            Credential::IdentityToken(token) | Credential::RegistryToken(token) => ("<token>", token),
        };
        let input = Answer { server_url: server.into(), username: username.into(), secret: secret.clone() };
        let input = serde_json::to_vec(&input).expect("because the keys are strings");
        let outcome = self.run(name, "store", server, &input)?;
        outcome.map(|_| ()).map_err(|message| failed(name, "store", server, message))
    }

    /// Makes it forget a credential; false when it had none.
    ///
    /// # Errors
    /// When it cannot be run or fails.
    pub fn erase(&self, name: &str, server: &str) -> Result<bool, HelperError> {
        match self.run(name, "erase", server, server.as_bytes())? {
            Ok(_) => Ok(true),
            Err(message) if is_missing(&message) => Ok(false),
            Err(message) => Err(failed(name, "erase", server, message)),
        }
    }

    /// The inner result is what the helper says: its output, or its complaint.
    fn run(
        &self,
        name: &str,
        action: &'static str,
        server: &str,
        input: &[u8],
    ) -> Result<Result<Vec<u8>, String>, HelperError> {
        // A name comes from a file; as a path it could run anything.
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) {
            return Err(HelperError::Name(name.to_owned()));
        }
        let program = program(name);
        let fail = |source| HelperError::Run { program: program.clone(), source };
        let mut command = Command::new(&program);
        command.arg(action).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if let Some(path) = &self.path {
            command.env("PATH", path);
        }
        let mut child = command.spawn().map_err(fail)?;
        let (stdout, stderr) = match converse(&mut child, input, Instant::now() + self.patience) {
            Ok(output) => output,
            Err(error) => {
                // Whatever the trouble was, the helper is not left behind.
                let _ = child.kill();
                let _ = child.wait();
                if error.kind() != io::ErrorKind::TimedOut {
                    return Err(fail(error));
                }
                let message = format!("no answer within {} s", self.patience.as_secs());
                return Err(failed(name, action, server, message));
            }
        };
        let status = child.wait().map_err(fail)?;
        if status.success() {
            return Ok(Ok(stdout));
        }
        // Helpers complain on stdout; what is below them, on stderr.
        let text = |bytes: &[u8]| {
            let line = String::from_utf8_lossy(bytes).split_whitespace().collect::<Vec<_>>().join(" ");
            line.chars().filter(|c| !c.is_control()).take(300).collect::<String>()
        };
        let message = match (text(&stdout), text(&stderr)) {
            (out, _) if !out.is_empty() => out,
            (_, err) if !err.is_empty() => err,
            _ => status.to_string(),
        };
        Ok(Err(message))
    }
}

/// Feeds the helper its input and collects what it says until it closes both outputs.
fn converse(child: &mut Child, input: &[u8], deadline: Instant) -> io::Result<(Vec<u8>, Vec<u8>)> {
    if let Some(mut stdin) = child.stdin.take() {
        // A few hundred bytes fit into the pipe. A helper that does not read them is no error.
        match stdin.write_all(input) {
            Err(e) if e.kind() != io::ErrorKind::BrokenPipe => return Err(e),
            _ => {}
        }
    }
    let (mut out, mut err) = (child.stdout.take(), child.stderr.take());
    let (mut said, mut complained) = (Vec::new(), Vec::new());
    while out.is_some() || err.is_some() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || said.len() + complained.len() > MAX_OUTPUT {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let mut readable = {
            let mut fds: Vec<PollFd<'_>> = Vec::new();
            fds.extend(out.as_ref().map(|o| PollFd::from_borrowed_fd(o.as_fd(), PollFlags::IN)));
            fds.extend(err.as_ref().map(|e| PollFd::from_borrowed_fd(e.as_fd(), PollFlags::IN)));
            let timeout = Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: i64::from(left.subsec_nanos()),
            };
            match poll(&mut fds, Some(&timeout)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
            fds.iter().map(|fd| !fd.revents().is_empty()).collect::<Vec<_>>().into_iter()
        };
        let out_ready = out.is_some() && readable.next() == Some(true);
        let err_ready = err.is_some() && readable.next() == Some(true);
        if out_ready {
            drain(&mut out, &mut said)?;
        }
        if err_ready {
            drain(&mut err, &mut complained)?;
        }
    }
    Ok((said, complained))
}

/// One read; the stream is dropped at its end.
fn drain<R: Read>(stream: &mut Option<R>, into: &mut Vec<u8>) -> io::Result<()> {
    let mut piece = [0; 4096];
    let Some(reader) = stream else { return Ok(()) };
    match reader.read(&mut piece) {
        Ok(0) => *stream = None,
        Ok(n) => into.extend_from_slice(&piece[..n]),
        Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
        Err(e) => return Err(e),
    }
    Ok(())
}

fn program(name: &str) -> String {
    format!("docker-credential-{name}")
}

fn failed(name: &str, action: &'static str, server: &str, message: String) -> HelperError {
    HelperError::Failed { program: program(name), action, server: server.to_owned(), message }
}

fn is_missing(message: &str) -> bool {
    message.contains("credentials not found in native keychain")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use super::super::docker_config::{DockerConfig, Keyring};
    use super::*;

    /// A directory with a helper that is this shell script.
    fn helper(script: &str) -> (tempfile::TempDir, Helpers) {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("docker-credential-test");
        std::fs::write(&file, format!("#!/bin/sh\n{script}\n")).expect("written");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).expect("executable");
        let path = std::env::join_paths([dir.path(), Path::new("/usr/bin"), Path::new("/bin")]).expect("a PATH");
        (dir, Helpers { path: Some(path), ..Helpers::default() })
    }

    /// Another test of this process may fork while the script is still open for writing there.
    fn patiently<T>(mut run: impl FnMut() -> Result<T, HelperError>) -> Result<T, HelperError> {
        loop {
            match run() {
                Err(HelperError::Run { source, .. }) if source.kind() == io::ErrorKind::ExecutableFileBusy => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                other => return other,
            }
        }
    }

    #[test]
    fn e1_05_get() {
        let (_dir, helpers) = helper(
            r#"read -r url || :; echo "noise" >&2; printf '{"ServerURL":"%s","Username":"%s","Secret":"s"}' "$url" "$1""#,
        );
        let got = patiently(|| helpers.get("test", "r.example")).expect("answers");
        assert_eq!(got, Some(Credential::Basic { username: "get".into(), password: "s".into() }));
        let (_dir, helpers) = helper(r#"cat >/dev/null; echo '{"Username":"<token>","Secret":"refresh"}'"#);
        let got = patiently(|| helpers.get("test", "r.example")).expect("answers");
        assert_eq!(got, Some(Credential::IdentityToken("refresh".into())));
    }

    #[test]
    fn e1_05_not_found_is_anonymous_and_other_failures_are_told() {
        let (_dir, helpers) = helper("echo 'credentials not found in native keychain'; exit 1");
        assert_eq!(patiently(|| helpers.get("test", "r.example")).expect("no error"), None);
        let (_dir, helpers) = helper("echo 'token expired,'; echo 'log in'; exit 3");
        let error = patiently(|| helpers.get("test", "r.example")).expect_err("fails").to_string();
        assert_eq!(error, "docker-credential-test get failed for r.example: token expired, log in");
        let (_dir, helpers) = helper("echo 'only here' >&2; exit 1");
        assert!(patiently(|| helpers.get("test", "r")).expect_err("fails").to_string().ends_with(": only here"));
        let (_dir, helpers) = helper("echo '{\"Secret\":\"hunter2'");
        let error = patiently(|| helpers.get("test", "r")).expect_err("nonsense").to_string();
        assert!(error.contains("not the expected JSON") && !error.contains("hunter2"), "{error}");
    }

    #[test]
    fn e1_05_store_and_erase() {
        let dir = tempfile::tempdir().expect("a directory");
        let kept = dir.path().join("kept");
        let (_dir, helpers) = helper(&format!("cat >{}; [ $1 = store ]", kept.display()));
        let credential = Credential::Basic { username: "u".into(), password: "p\"q".into() };
        patiently(|| helpers.store("test", "r.example", &credential)).expect("stored");
        let value: serde_json::Value = serde_json::from_slice(&std::fs::read(&kept).expect("written")).expect("JSON");
        assert_eq!(value, serde_json::json!({"ServerURL":"r.example","Username":"u","Secret":"p\"q"}));
        assert!(patiently(|| helpers.erase("test", "r.example")).is_err());
        assert_eq!(std::fs::read(&kept).expect("written"), b"r.example");
    }

    #[test]
    fn a_helper_that_hangs_or_is_missing_is_named() {
        let (_dir, mut helpers) = helper("exec sleep 60");
        helpers.patience = Duration::from_millis(200);
        let begin = Instant::now();
        let error = patiently(|| helpers.get("test", "r")).expect_err("hangs").to_string();
        assert!(error.contains("docker-credential-test get failed") && error.contains("no answer"), "{error}");
        assert!(begin.elapsed() < Duration::from_secs(10));
        let error = helpers.get("absent", "r").expect_err("missing").to_string();
        assert!(error.starts_with("cannot run docker-credential-absent: "), "{error}");
        for name in ["", "../x", "a/b", "a b"] {
            assert!(matches!(helpers.get(name, "r"), Err(HelperError::Name(_))), "{name}");
        }
    }

    #[test]
    fn a_helper_with_much_to_say_does_not_block() {
        let (_dir, helpers) = helper(
            "i=0; while [ $i -lt 3000 ]; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx >&2; i=$((i+1)); done; echo '{\"Username\":\"u\",\"Secret\":\"s\"}'",
        );
        assert!(patiently(|| helpers.get("test", "r")).expect("answers").is_some());
    }

    /// osscontainertools/kaniko#280: a helper that knows nothing must not hide what the file says.
    #[test]
    fn e1_04_the_file_is_asked_after_the_helper() {
        let (_dir, helpers) = helper("echo 'credentials not found in native keychain'; exit 1");
        let text = r#"{"credsStore":"test","auths":{"r.example":{"username":"u","password":"p"},"docker.io":{}}}"#;
        let keyring = Keyring {
            configs: vec![DockerConfig::parse("config.json", text).expect("parses")],
            helpers: helpers.clone(),
        };
        let ask = |host: &str| loop {
            match keyring.credential(host, None) {
                Err(e) if e.to_string().contains("busy") => {}
                other => break other,
            }
        };
        assert_eq!(ask("r.example").expect("found").as_ref().and_then(Credential::username), Some("u"));
        assert_eq!(ask("docker.io").expect("anonymous"), None);

        let broken = r#"{"credHelpers":{"r.example":"absent"}}"#;
        let second = r#"{"auths":{"r.example":{"username":"second","password":"p"}}}"#;
        let configs = vec![
            DockerConfig::parse("one.json", broken).expect("parses"),
            DockerConfig::parse("two.json", second).expect("parses"),
        ];
        let keyring = Keyring { configs, helpers };
        let found = keyring.credential("r.example", None).expect("the second file knows");
        assert_eq!(found.as_ref().and_then(Credential::username), Some("second"));
        let keyring = Keyring { configs: keyring.configs[..1].to_vec(), ..keyring };
        let error = keyring.credential("r.example", None).expect_err("nobody knows").to_string();
        assert!(error.contains("docker-credential-absent") && error.contains("one.json"), "{error}");
    }
}
