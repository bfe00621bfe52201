//! Services that caches and contexts live in, as `scripts/setup` installs them: moto for S3, azurite for Azure blobs, an emulator
//! of Google's storage.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A running service; ended with the test.
pub struct Service {
    child: Child,
    /// `127.0.0.1:PORT`.
    pub host: String,
    _dir: tempfile::TempDir,
}

fn tools() -> Result<PathBuf, String> {
    let bases = super::bases()?;
    Ok(bases.parent().ok_or("no test data")?.join("tools"))
}

fn launch(make: impl FnOnce(u16, &std::path::Path) -> Command) -> Result<Service, String> {
    let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
    let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).map_err(|e| e.to_string())?.port();
    let mut command = make(port, dir.path());
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let child = child.map_err(|e| format!("{command:?}: {e}"))?;
    let service = Service { child, host: format!("127.0.0.1:{port}"), _dir: dir };
    let started = Instant::now();
    while TcpStream::connect(&service.host).is_err() {
        if started.elapsed() > Duration::from_secs(60) {
            return Err("a service did not start".into());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(service)
}

impl Service {
    /// S3, with one bucket.
    pub fn s3(bucket: &str) -> Result<Self, String> {
        let python = tools()?.join("python");
        if !python.join("moto").is_dir() {
            return Err("moto is not installed; run scripts/setup".into());
        }
        let service = launch(|port, _| {
            let mut command = Command::new("/usr/bin/python3");
            command.env("PYTHONPATH", &python).args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &port.to_string()]);
            command
        })?;
        let answer = service.request("PUT", &format!("/{bucket}"), "Content-Length: 0\r\n");
        if answer.starts_with("HTTP/1.1 200") { Ok(service) } else { Err(format!("no bucket: {answer}")) }
    }

    /// Google's storage, with one bucket.
    pub fn google(bucket: &str) -> Result<Self, String> {
        let python = tools()?.join("python");
        if !python.join("gcp_storage_emulator").is_dir() {
            return Err("gcp-storage-emulator is not installed; run scripts/setup".into());
        }
        launch(|port, _| {
            let mut command = Command::new("/usr/bin/python3");
            command.env("PYTHONPATH", &python).args(["-m", "gcp_storage_emulator", "start", "--in-memory"]);
            command.args(["--host", "127.0.0.1", "--port", &port.to_string(), "--default-bucket", bucket]);
            command
        })
    }

    /// A cache in the bucket `caches` of an S3 service, as `--cache-to` has it.
    pub fn s3_cache(&self, more: &str) -> String {
        let host = &self.host;
        format!("type=s3,bucket=caches,region=eu-central-1,endpoint_url=http://{host},use_path_style=true,{more}")
    }

    /// A cache in the container `caches` of an Azure service.
    pub fn azure_cache(&self) -> String {
        let account = format!("account_url=http://{}/{AZURE_ACCOUNT},account_name={AZURE_ACCOUNT}", self.host);
        format!("type=azblob,{account},secret_access_key={AZURE_KEY},container=caches")
    }

    /// Azure blob storage with its well-known account.
    pub fn azure() -> Result<Self, String> {
        let script = tools()?.join("node/node_modules/azurite/dist/src/blob/main.js");
        if !script.is_file() {
            return Err("azurite is not installed; run scripts/setup".into());
        }
        launch(|port, dir| {
            let mut command = Command::new("node");
            command.arg(script).args(["--skipApiVersionCheck", "--silent", "--blobHost", "127.0.0.1", "--blobPort"]);
            command.arg(port.to_string()).arg("--location").arg(dir);
            command
        })
    }

    /// A raw request; the whole answer as text.
    pub fn request(&self, method: &str, path: &str, headers: &str) -> String {
        self.request_with(method, path, headers, b"")
    }

    /// The same with a body.
    pub fn request_with(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> String {
        let mut stream = TcpStream::connect(&self.host).unwrap();
        write!(stream, "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{headers}\r\n", self.host)
            .unwrap();
        stream.write_all(body).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The key of azurite's account, which its documentation prints.
pub const AZURE_KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
/// Its name.
pub const AZURE_ACCOUNT: &str = "devstoreaccount1";

/// Moto wants to see a signature, any signature.
pub const AUTHORIZED: &str = "Authorization: AWS4-HMAC-SHA256 Credential=id/20260101/eu-central-1/s3/aws4_request, SignedHeaders=host, Signature=x\r\n";
