//! One CDI specification: a file of the machine's administrator that says what a device consists of (SPEC C5.14).
//!
//! JSON and YAML are read alike. What a step could not be given faithfully is kept as a reason, so that only who asks for
//! that device hears of it.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::base::yaml;

/// Larger files are no specifications.
const MAX_SPEC: u64 = 4 << 20;

/// A file.
#[derive(Debug)]
pub(super) struct Spec {
    pub(super) path: PathBuf,
    /// `vendor/class`.
    pub(super) kind: String,
    pub(super) devices: Vec<Device>,
    /// For each of its devices.
    pub(super) edits: RawEdits,
}

/// A device of a file.
#[derive(Debug)]
pub(super) struct Device {
    pub(super) name: String,
    /// The file's with its own.
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) edits: RawEdits,
}

#[derive(Debug, Deserialize)]
struct File {
    #[serde(rename = "cdiVersion")]
    version: String,
    kind: String,
    #[serde(default)]
    annotations: BTreeMap<String, Value>,
    devices: Vec<FileDevice>,
    #[serde(default, rename = "containerEdits")]
    edits: RawEdits,
}

#[derive(Debug, Deserialize)]
struct FileDevice {
    name: String,
    #[serde(default)]
    annotations: BTreeMap<String, Value>,
    #[serde(default, rename = "containerEdits")]
    edits: RawEdits,
}

/// What a device asks for, as the file has it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct RawEdits {
    pub(super) env: Vec<String>,
    pub(super) device_nodes: Vec<RawNode>,
    pub(super) mounts: Vec<RawMount>,
    #[serde(rename = "additionalGids")]
    pub(super) additional_gids: Vec<u32>,
    /// `hooks`, `intelRdt`, `netDevices`, and what later versions add.
    #[serde(flatten)]
    pub(super) other: Map<String, Value>,
}

/// A device node.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct RawNode {
    pub(super) path: PathBuf,
    pub(super) host_path: Option<PathBuf>,
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) major: u32,
    pub(super) minor: u32,
}

/// A mount.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct RawMount {
    pub(super) host_path: PathBuf,
    pub(super) container_path: PathBuf,
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) options: Vec<String>,
}

impl Spec {
    /// Reads a file.
    ///
    /// # Errors
    /// Says what is wrong with it, without its name.
    pub(super) fn read(path: &Path) -> Result<Self, String> {
        let mut text = String::new();
        let file = fs::File::open(path).map_err(|e| e.to_string())?;
        file.take(MAX_SPEC + 1).read_to_string(&mut text).map_err(|e| e.to_string())?;
        if text.len() as u64 > MAX_SPEC {
            return Err("it is larger than 4 MiB".into());
        }
        let json = path.extension().is_some_and(|e| e == "json");
        Self::parse(path, &text, json)
    }

    fn parse(path: &Path, text: &str, json: bool) -> Result<Self, String> {
        let value = if json { serde_json::from_str(text).map_err(|e| e.to_string())? } else { yaml::parse(text, &[])? };
        let file: File = serde_json::from_value(value).map_err(|e| e.to_string())?;
        if file.version.is_empty() {
            return Err("cdiVersion is empty".into());
        }
        if !matches!(file.kind.split_once('/'), Some((vendor, class)) if !vendor.is_empty() && !class.is_empty()) {
            return Err(format!("kind \"{}\" is not VENDOR/CLASS", file.kind));
        }
        let devices = file.devices.into_iter().map(|device| {
            if device.name.is_empty() {
                return Err("a device has no name".to_owned());
            }
            let annotations = file.annotations.iter().chain(&device.annotations);
            let annotations = annotations.map(|(key, value)| (key.clone(), plain(value))).collect();
            Ok(Device { name: device.name, annotations, edits: device.edits })
        });
        let devices = devices.collect::<Result<Vec<_>, String>>()?;
        Ok(Self { path: path.to_owned(), kind: file.kind, devices, edits: file.edits })
    }
}

/// An annotation is a text; YAML writes `true` without quotes.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    // SPEC A5.10, C5.14
    #[test]
    fn json_and_yaml_say_the_same() {
        let yaml = "---\ncdiVersion: \"0.6.0\"\nkind: vendor.com/gpu\nannotations: {a: true}\ndevices:\n- name: \"0\"\n  annotations:\n    b: x\n  containerEdits:\n    env: [A=1]\n    deviceNodes:\n    - {path: /dev/x, hostPath: /dev/null, type: c, major: 1}\n    hooks: []\ncontainerEdits:\n  mounts:\n  - hostPath: /h\n    containerPath: /c\n    options: [ro]\n";
        let json = r#"{"cdiVersion":"0.6.0","kind":"vendor.com/gpu","annotations":{"a":"true"},
            "devices":[{"name":"0","annotations":{"b":"x"},"containerEdits":{"env":["A=1"],
            "deviceNodes":[{"path":"/dev/x","hostPath":"/dev/null","type":"c","major":1}],"hooks":[]}}],
            "containerEdits":{"mounts":[{"hostPath":"/h","containerPath":"/c","options":["ro"]}]}}"#;
        let path = Path::new("f");
        let [yaml, json] = [Spec::parse(path, yaml, false), Spec::parse(path, json, true)];
        let yaml = yaml.expect("reads");
        assert_eq!(format!("{yaml:?}"), format!("{:?}", json.expect("reads")));
        let device = &yaml.devices[0];
        assert_eq!(device.annotations.get("a").map(String::as_str), Some("true"));
        assert_eq!(device.edits.device_nodes[0].host_path.as_deref(), Some(Path::new("/dev/null")));
        assert_eq!(device.edits.other.keys().collect::<Vec<_>>(), ["hooks"]);
        assert_eq!(yaml.edits.mounts[0].options, ["ro"]);
    }

    #[test]
    fn what_is_no_specification_says_why() {
        let parse = |text| Spec::parse(Path::new("f"), text, false).expect_err("fails");
        for (text, why) in [
            ("", "empty"),
            ("a: 1\n---\nb: 2\n", "2 documents"),
            ("kind: a/b\ndevices: []\n", "cdiVersion"),
            ("cdiVersion: \"1\"\nkind: gpu\ndevices: []\n", "VENDOR/CLASS"),
            ("cdiVersion: \"1\"\nkind: a/b\ndevices: [{name: \"\"}]\n", "no name"),
            ("cdiVersion: \"1\"\nkind: a/b\ndevices: {}\n", "sequence"),
            ("a: [\n", ""),
        ] {
            assert!(parse(text).contains(why), "{text:?}: {}", parse(text));
        }
    }
}
