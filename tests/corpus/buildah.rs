//! The other half of the oracle: the same cases through Debian's buildah.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::support::image::{Image, Node};
use crate::support::{self};

/// A buildah with a store of its own that knows the busybox base.
pub struct Buildah {
    dir: PathBuf,
}

impl Buildah {
    /// Sets it up; the reason if it does not work here.
    pub fn new(dir: &Path) -> Result<Self, String> {
        let buildah = Self { dir: dir.to_owned() };
        std::fs::create_dir_all(dir).map_err(|e| e.to_string())?;
        let base = format!("oci:{}:latest", support::bases()?.join("busybox").display());
        let id = buildah.run(&["pull", "-q", &base])?;
        buildah.run(&["tag", &id, "localhost/busybox"])?;
        Ok(buildah)
    }

    fn run(&self, args: &[&str]) -> Result<String, String> {
        let output = Command::new("buildah")
            .arg("--root")
            .arg(self.dir.join("root"))
            .arg("--runroot")
            .arg(self.dir.join("run"))
            .args(["--storage-driver", "vfs"])
            .args(args)
            .current_dir("/")
            .env("HOME", &self.dir)
            .output()
            .map_err(|e| format!("buildah: {e}"))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
        }
        Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }

    /// Builds a context; `number` names the result.
    pub fn build(&self, number: &str, args: &[String], context: &Path) -> Result<Image, String> {
        let out = self.dir.join(number);
        let destination = format!("dir:{}", out.display());
        let context = context.display().to_string();
        let mut all =
            vec!["bud", "-q", "--format", "docker", "--isolation", "chroot", "--layers=false", "-t", &destination];
        all.extend(args.iter().map(String::as_str));
        all.push(&context);
        self.run(&all)?;
        let image = Image::open_blobs(&out);
        let _ = std::fs::remove_dir_all(out);
        Ok(image)
    }
}

impl Drop for Buildah {
    fn drop(&mut self) {
        let _ = Command::new("buildah").args(["unshare", "rm", "-rf"]).arg(&self.dir).current_dir("/").output();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// What buildah leaves behind in the layer of a step, where we leave nothing (SPEC C5.18).
const STUBS: [&str; 8] =
    ["dev", "proc", "sys", "run", "etc/hosts", "etc/resolv.conf", "etc/hostname", "run/.containerenv"];

/// Where two images differ; the first is ours.
pub fn differences(ours: &Image, theirs: &Image) -> Vec<String> {
    let mut out = Vec::new();
    let (a, b) = (super::show::normal(ours), super::show::normal(theirs));
    for path in a.keys().chain(b.keys()).collect::<std::collections::BTreeSet<_>>() {
        let (one, other) = (comparable(&a, path), comparable(&b, path));
        if one != other && !STUBS.contains(&path.as_str()) {
            let show = |n: Option<Node>| n.map_or_else(|| "nothing".to_owned(), |n| super::show::entry(path, &n));
            out.push(format!("rbuild {}, buildah {}", show(one), show(other)));
        }
    }
    for key in [
        "Env",
        "Cmd",
        "Entrypoint",
        "WorkingDir",
        "User",
        "Volumes",
        "ExposedPorts",
        "Labels",
        "StopSignal",
        "OnBuild",
        "Shell",
        "Healthcheck",
    ] {
        let (one, other) = (setting(&ours.config, key), setting(&theirs.config, key));
        if one != other {
            out.push(format!("{key}: rbuild {one}, buildah {other}"));
        }
    }
    out
}

/// A node as far as two builders can agree on it: not the time of what the build itself makes.
fn comparable(tree: &BTreeMap<String, Node>, path: &str) -> Option<Node> {
    let mut node = tree.get(path)?.clone();
    // A directory that something was put in has another time, whoever does it.
    if node.mtime >= super::show::NEW || node.kind == 'd' {
        node.mtime = super::show::NEW;
    }
    Some(node)
}

/// A setting as far as two builders can agree on it.
fn setting(config: &Value, key: &str) -> Value {
    let mut value = config["config"][key].clone();
    if let Some(map) = value.as_object_mut() {
        // buildah labels every image with its version.
        map.remove("io.buildah.version");
    }
    if super::show::is_unset(&value) {
        value = Value::Null;
    }
    // No working directory is `/` (SPEC A4.03).
    if key == "WorkingDir" && value.is_null() { "/".into() } else { value }
}
