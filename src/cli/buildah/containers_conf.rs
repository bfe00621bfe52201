//! `containers.conf`: what it says of builds are the defaults of flags, for buildah's command line alone (SPEC D3.36).
//!
//! Read in the order that podman has, later files over earlier ones, key by key; an array adds to the earlier one where it says so
//! (`{append=true}`). Keys that speak of running containers, of the engine or of its storage mean nothing to a build here.

use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::flags::Build;
use crate::base::FaultKind;
use crate::cli::errors::Failure;
use crate::cli::foreign::{CONTAINERS_CONF, Variables};
use crate::cli::settings::{read_limited, usage};

/// A larger file is a mistake.
const MAX_SIZE: u64 = 1 << 20;
/// Files in place of all others, and one over all others.
pub(super) const ONLY: &str = CONTAINERS_CONF;
const OVER: &str = "CONTAINERS_CONF_OVERRIDE";

/// What the files say together.
#[derive(Debug, Default)]
pub(super) struct ContainersConf {
    table: Table,
    /// The last file that was read, for messages.
    path: PathBuf,
}

impl ContainersConf {
    /// Reads the machine's files and the user's.
    ///
    /// # Errors
    /// When a file is named and not there, or cannot be read as TOML.
    pub(super) fn read(env: &Variables<'_>) -> Result<Self, Failure> {
        let mut conf = Self::default();
        let named = |name: &str| env(name).filter(|path| !path.is_empty()).map(PathBuf::from);
        match named(ONLY) {
            Some(path) => conf.add(&path, true)?,
            None => {
                conf.add(Path::new("/usr/share/containers/containers.conf"), false)?;
                let user = named("XDG_CONFIG_HOME").or_else(|| named("HOME").map(|home| home.join(".config")));
                let user = user.map(|dir| dir.join("containers"));
                for dir in std::iter::once(PathBuf::from("/etc/containers")).chain(user) {
                    conf.add(&dir.join("containers.conf"), false)?;
                    conf.add_all(&dir.join("containers.conf.d"))?;
                }
            }
        }
        if let Some(path) = named(OVER) {
            conf.add(&path, true)?;
        }
        Ok(conf)
    }

    fn add_all(&mut self, dir: &Path) -> Result<(), Failure> {
        let Ok(entries) = std::fs::read_dir(dir) else { return Ok(()) };
        let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        files.retain(|path| path.extension().is_some_and(|extension| extension == "conf"));
        files.sort();
        files.iter().try_for_each(|path| self.add(path, false))
    }

    fn add(&mut self, path: &Path, needed: bool) -> Result<(), Failure> {
        let shown = path.display();
        let bytes = match read_limited(path, MAX_SIZE) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && !needed => return Ok(()),
            Err(e) => return Err(Failure::new(FaultKind::Usage, format!("cannot read {shown}: {e}"))),
        };
        let text = String::from_utf8(bytes).map_err(|_| usage(format!("{shown}: it is not text")))?;
        let table: Table = text.parse().map_err(|e| usage(format!("{shown}: {e}")))?;
        merge(&mut self.table, table);
        path.clone_into(&mut self.path);
        Ok(())
    }

    fn get(&self, section: &str, key: &str) -> Option<&Value> {
        self.table.get(section)?.as_table()?.get(key)
    }

    fn wrong(&self, section: &str, key: &str, expected: &str) -> Failure {
        usage(format!("{}: {key} of [{section}]: expected {expected}", self.path.display()))
    }

    fn flag(&self, key: &str) -> Result<Option<bool>, Failure> {
        let wrong = || self.wrong("containers", key, "true or false");
        self.get("containers", key).map(|value| value.as_bool().ok_or_else(wrong)).transpose()
    }

    /// A text; an empty one is none.
    fn text(&self, section: &str, key: &str) -> Result<Option<String>, Failure> {
        match self.get(section, key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone()).filter(|text| !text.is_empty())),
            Some(Value::Integer(number)) => Ok(Some(number.to_string())),
            Some(_) => Err(self.wrong(section, key, "a text")),
        }
    }

    fn texts(&self, key: &str) -> Result<Vec<String>, Failure> {
        let wrong = || self.wrong("containers", key, "a list of texts");
        let Some(value) = self.get("containers", key) else { return Ok(Vec::new()) };
        let all = value.as_array().ok_or_else(wrong)?.iter().filter(|value| !value.is_table());
        all.map(|value| value.as_str().map(ToOwned::to_owned).ok_or_else(wrong)).collect()
    }

    /// Fills in what the command line leaves open.
    ///
    /// # Errors
    /// For keys with values of another kind.
    pub(super) fn complete(&self, given: &mut Build) -> Result<(), Failure> {
        let (same, steps) = (&mut given.same, &mut given.steps);
        for (key, flag) in [
            ("dns_servers", &mut same.dns),
            ("dns_searches", &mut same.dns_search),
            ("dns_options", &mut same.dns_option),
        ] {
            let usual = self.texts(key)?;
            if flag.is_empty() && steps.network.as_deref() != Some("none") {
                *flag = usual;
            }
        }
        // Those of the command line go before others of the same name, and are added to the rest.
        let name = |limit: &String| limit.split('=').next().unwrap_or_default().to_owned();
        let mut limits = self.texts("default_ulimits")?;
        limits.retain(|usual| !same.ulimit.iter().any(|own| name(own) == name(usual)));
        same.ulimit.splice(0..0, limits);
        steps.volume.splice(0..0, self.texts("volumes")?);
        steps.device.splice(0..0, self.texts("devices")?);
        steps.step_env = self.texts("env")?;
        steps.http_proxy = steps.http_proxy.or(self.flag("http_proxy")?);
        steps.no_hosts |= self.flag("no_hosts")? == Some(true) && same.add_host.is_empty();
        let capabilities = self.texts("default_capabilities")?;
        if !capabilities.is_empty() {
            let dropped =
                |name: &String| same.cap_drop.iter().any(|drop| is_same(drop, name) || drop == "all" || drop == "ALL");
            let kept: Vec<String> = capabilities.into_iter().filter(|name| !dropped(name)).collect();
            same.cap_add.splice(0..0, kept);
            same.cap_drop = vec!["ALL".into()];
        }
        if same.shm_size.is_empty() {
            same.shm_size.extend(self.text("containers", "shm_size")?);
        }
        if steps.network.is_none() {
            // Networks with names are podman's, and not for builds.
            let modes = ["host", "none", "private"];
            steps.network = self.text("containers", "netns")?.filter(|mode| modes.contains(&mode.as_str()));
        }
        for (key, flag) in [("retry", &mut same.retry), ("retry_delay", &mut same.retry_delay)] {
            if flag.is_empty() {
                flag.extend(self.text("engine", key)?);
            }
        }
        Ok(())
    }
}

/// The same capability, with or without its prefix.
fn is_same(a: &str, b: &str) -> bool {
    let name = |text: &str| text.to_ascii_uppercase().trim_start_matches("CAP_").to_owned();
    name(a) == name(b)
}

/// Puts a later file over earlier ones.
fn merge(under: &mut Table, over: Table) {
    for (key, value) in over {
        match (under.get_mut(&key), value) {
            (Some(Value::Table(under)), Value::Table(over)) => merge(under, over),
            (Some(Value::Array(under)), Value::Array(over)) if appends(&over) => under.extend(over),
            (_, value) => drop(under.insert(key, value)),
        }
    }
}

/// Whether a list says that it is added to an earlier one.
fn appends(list: &[Value]) -> bool {
    let says = |value: &Value| value.as_table()?.get("append")?.as_bool();
    list.iter().any(|value| says(value) == Some(true))
}

#[cfg(test)]
mod tests {
    use super::super::tests::given;
    use super::*;

    fn read(files: &[&str]) -> Result<ContainersConf, Failure> {
        let dir = tempfile::tempdir().expect("a directory");
        let (one, two) = (dir.path().join("one.conf"), dir.path().join("two.conf"));
        std::fs::write(&one, files[0]).expect("written");
        std::fs::write(&two, files.get(1).unwrap_or(&"")).expect("written");
        ContainersConf::read(&|name| match name {
            ONLY => Some(one.display().to_string()),
            OVER => Some(two.display().to_string()),
            _ => None,
        })
    }

    // SPEC D3.36
    #[test]
    fn d3_36_what_flags_leave_open() {
        let conf = read(&[
            "[containers]\ndns_servers=[\"192.0.2.1\"]\ndefault_ulimits=[\"nofile=9:9\",\"core=0:0\"]\nvolumes=[\"/a:/b\"]\nhttp_proxy=false\nnetns=\"host\"\ndefault_capabilities=[\"CHOWN\",\"CAP_KILL\"]\nenv=[\"A=1\"]\npids_limit=9\n[engine]\nretry=7\n",
            "[containers]\nvolumes=[\"/c:/d\",{append=true}]\nenv=[\"B=2\"]\n",
        ]);
        let conf = conf.expect("readable");
        let mut plain = given(&[]);
        conf.complete(&mut plain).expect("well-formed");
        assert_eq!(
            (&plain.same.dns[..], &plain.steps.volume[..]),
            (&["192.0.2.1".to_owned()][..], &["/a:/b".to_owned(), "/c:/d".into()][..])
        );
        assert_eq!((plain.steps.http_proxy, plain.steps.network.as_deref()), (Some(false), Some("host")));
        assert_eq!(
            (&plain.same.cap_add[..], &plain.same.cap_drop[..]),
            (&["CHOWN".to_owned(), "CAP_KILL".into()][..], &["ALL".to_owned()][..])
        );
        assert_eq!(
            (&plain.steps.step_env[..], &plain.same.retry[..]),
            (&["B=2".to_owned()][..], &["7".to_owned()][..])
        );
        let line = [
            "--dns=192.0.2.9",
            "--ulimit=nofile=1:1",
            "--http-proxy",
            "--network=none",
            "--cap-drop=kill",
            "-v=/e:/f",
            "--retry=1",
        ];
        let mut own = given(&line);
        conf.complete(&mut own).expect("well-formed");
        assert_eq!(
            (&own.same.dns[..], &own.same.ulimit[..]),
            (&["192.0.2.9".to_owned()][..], &["core=0:0".to_owned(), "nofile=1:1".into()][..])
        );
        assert_eq!((own.steps.http_proxy, own.steps.network.as_deref()), (Some(true), Some("none")));
        assert_eq!(
            (&own.same.cap_add[..], own.steps.volume.len(), &own.same.retry[..]),
            (&["CHOWN".to_owned()][..], 3, &["1".to_owned()][..])
        );
    }

    // SPEC D3.36
    #[test]
    fn d3_36_what_is_malformed_is_told() {
        for (text, rule) in [
            ("[containers]\nvolumes=\"x\"\n", "volumes of [containers]: expected a list of texts"),
            ("[containers]\nhttp_proxy=\"x\"\n", "expected true or false"),
        ] {
            let failed = read(&[text]).expect("TOML").complete(&mut given(&[]));
            assert!(failed.is_err_and(|e| e.message.contains(rule)), "{text}");
        }
        assert!(read(&["[containers"]).is_err());
        let missing = |name: &str| (name == ONLY).then(|| "/no/such".to_owned());
        assert!(ContainersConf::read(&missing).is_err_and(|e| e.message.contains("cannot read /no/such")));
        assert!(ContainersConf::read(&|_| None).is_ok());
    }
}
