//! Whether the machine describes a CDI device (SPEC A5.10, C5.14). Steps are not given any yet, so that is all there is to
//! know.

use std::fs;
use std::path::{Path, PathBuf};

/// Where specifications are.
pub const SPEC_DIRS: [&str; 3] = ["/etc/cdi", "/var/run/cdi", "/etc/buildkit/cdi"];
/// Larger files are no specifications.
const MAX_SPEC: u64 = 4 << 20;

/// The first specification in `dirs` whose kind is that of `device` (`vendor/class=name`, `vendor/class`, or the class
/// alone).
#[must_use]
pub fn find<P: AsRef<Path>>(dirs: &[P], device: &str) -> Option<PathBuf> {
    let wanted = device.split('=').next().unwrap_or(device);
    let mut files: Vec<PathBuf> = dirs
        .iter()
        .filter_map(|dir| fs::read_dir(dir).ok())
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "json" || e == "yaml" || e == "yml"))
        .filter(|path| fs::metadata(path).is_ok_and(|m| m.is_file() && m.len() <= MAX_SPEC))
        .collect();
    files.sort_unstable();
    files.into_iter().find(|path| {
        let text = fs::read_to_string(path).unwrap_or_default();
        kinds(&text).any(|kind| kind == wanted || kind.split('/').next_back() == Some(wanted))
    })
}

/// The values of `kind` in JSON and YAML alike: a quoted or bare `vendor/class` behind the key.
fn kinds(text: &str) -> impl Iterator<Item = &str> {
    text.split("kind").skip(1).filter_map(|rest| {
        let rest = rest.trim_start_matches(['"', '\'']).trim_start().strip_prefix(':')?.trim_start();
        let rest = rest.trim_start_matches(['"', '\'']);
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || "./-_".contains(c))).unwrap_or(rest.len());
        Some(&rest[..end]).filter(|kind| kind.contains('/'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a5_10_devices_are_found_by_kind() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let json = r#"{"cdiVersion":"0.6.0","kind": "vendor.com/gpu","devices":[{"name":"0","containerEdits":{}}]}"#;
        fs::write(dir.path().join("a.json"), json).expect("writes");
        fs::write(dir.path().join("b.yaml"), "cdiVersion: 0.6.0\nkind: other.org/fpga\ndevices: []\n").expect("writes");
        fs::write(dir.path().join("c.txt"), "kind: no.spec/tape\n").expect("writes");
        let dirs = [dir.path(), Path::new("/no/such")];
        for (device, file) in [
            ("vendor.com/gpu=0", Some("a.json")),
            ("vendor.com/gpu", Some("a.json")),
            ("gpu", Some("a.json")),
            ("other.org/fpga=all", Some("b.yaml")),
            ("no.spec/tape", None),
            ("vendor.com/g", None),
        ] {
            assert_eq!(find(&dirs, device), file.map(|f| dir.path().join(f)), "{device}");
        }
    }
}
