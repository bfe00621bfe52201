//! Debian's docker-registry on a loopback port of its own.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A running registry; ended with the test.
pub struct Registry {
    child: Child,
    /// `127.0.0.1:PORT`.
    pub host: String,
    dir: tempfile::TempDir,
}

impl Registry {
    /// Starts one without authentication; `Err` says why it cannot.
    pub fn start() -> Result<Self, String> {
        Self::with_auth(None)
    }

    /// Starts one that wants this user and password.
    pub fn with_auth(auth: Option<(&str, &str)>) -> Result<Self, String> {
        let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).map_err(|e| e.to_string())?.port();
        let host = format!("127.0.0.1:{port}");
        let mut config = format!(
            "version: 0.1\nstorage: {{ filesystem: {{ rootdirectory: {0}/data }}, delete: {{ enabled: true }} }}\nhttp: {{ addr: \"{host}\" }}\nlog: {{ level: error, accesslog: {{ disabled: true }} }}\n",
            dir.path().display()
        );
        if let Some((user, password)) = auth {
            let output = Command::new("htpasswd")
                .args(["-Bbn", user, password])
                .output()
                .map_err(|e| format!("htpasswd: {e}"))?;
            std::fs::write(dir.path().join("htpasswd"), output.stdout).map_err(|e| e.to_string())?;
            config.push_str(&format!(
                "auth: {{ htpasswd: {{ realm: test, path: {}/htpasswd }} }}\n",
                dir.path().display()
            ));
        }
        let path = dir.path().join("config.yml");
        std::fs::write(&path, config).map_err(|e| e.to_string())?;
        let child =
            Command::new("docker-registry").arg("serve").arg(&path).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let child = child.map_err(|e| format!("docker-registry: {e}"))?;
        let registry = Self { child, host, dir };
        let started = Instant::now();
        while TcpStream::connect(&registry.host).is_err() {
            if started.elapsed() > Duration::from_secs(20) {
                return Err("docker-registry did not start".into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(registry)
    }

    /// Copies an OCI layout into it with skopeo.
    #[track_caller]
    pub fn put(&self, layout: &Path, name: &str) {
        let target = format!("docker://{}/{name}", self.host);
        let status = Command::new("skopeo")
            .args(["copy", "-q", "--dest-tls-verify=false", &format!("oci:{}:latest", layout.display()), &target])
            .status()
            .unwrap();
        assert!(status.success(), "skopeo copy to {target}");
    }

    /// Fetches an image into an OCI layout with skopeo, which checks every digest.
    #[track_caller]
    pub fn get(&self, name: &str) -> super::image::Image {
        let dir = self.dir.path().join(format!("get-{}", name.replace(['/', ':', '@'], "-")));
        let output = Command::new("skopeo")
            .args([
                "copy",
                "-q",
                "--src-tls-verify=false",
                &format!("docker://{}/{name}", self.host),
                &format!("oci:{}:x", dir.display()),
            ])
            .output()
            .unwrap();
        assert!(output.status.success(), "skopeo copy: {}", String::from_utf8_lossy(&output.stderr));
        super::image::Image::open_dir(&dir)
    }

    /// Config of one platform's image, as skopeo reads it.
    pub fn inspect(&self, name: &str, architecture: &str) -> (bool, serde_json::Value) {
        let output = Command::new("skopeo")
            .args(["--override-os=linux", &format!("--override-arch={architecture}"), "inspect", "--config"])
            .args(["--tls-verify=false", &format!("docker://{}/{name}", self.host)])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.success(), serde_json::from_slice(&output.stdout).unwrap_or(text.into()))
    }

    /// A raw request; the whole answer as text.
    pub fn request(&self, method: &str, path: &str, headers: &str) -> String {
        let mut stream = TcpStream::connect(&self.host).unwrap();
        write!(stream, "{method} {path} HTTP/1.0\r\nHost: {}\r\n{headers}\r\n", self.host).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// Where its data is, to damage it.
    pub fn data(&self) -> std::path::PathBuf {
        self.dir.path().join("data")
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
