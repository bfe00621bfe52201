//! The configuration file: `--config FILE`, else `$XDG_CONFIG_HOME/rbuild/rbuild.toml`, else `~/.config/rbuild/rbuild.toml`.
//!
//! Keys are BuildKit's where it has them (SPEC C9.11). Every key is read through [`Section`], which refuses what nobody
//! asked for: a misspelt key must not be ignored.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::args::Global;
use super::errors::Failure;
use super::settings::{self, usage};
use crate::base::FaultKind;
use crate::base::wording::did_you_mean;
use crate::exec::run::{DefaultNetwork, DnsOptions, StepOptions};

/// The larger part of a configuration file is a mistake.
const MAX_SIZE: u64 = 1 << 20;

/// What the file says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Config {
    /// `[registry."HOST"]`.
    pub registries: BTreeMap<String, Registry>,
    /// `[dns]` and `[steps]`.
    pub steps: StepOptions,
}

/// How one registry is spoken to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Registry {
    /// Asked before it, in order: `HOST[:PORT][/PATH]`.
    pub mirrors: Option<Vec<String>>,
    /// Plain HTTP.
    pub http: Option<bool>,
    /// Any certificate.
    pub insecure: Option<bool>,
    /// Further roots.
    pub ca: Vec<PathBuf>,
    /// Client key and certificate.
    pub keypair: Option<(PathBuf, PathBuf)>,
    /// Directories in the manner of `certs.d/HOST`.
    pub tlsconfigdir: Vec<PathBuf>,
}

impl Config {
    /// Reads the file; without one everything is as usual.
    ///
    /// # Errors
    /// Names the file, the key and the rule.
    pub fn load(global: &Global) -> Result<Self, Failure> {
        let home = settings::variable("XDG_CONFIG_HOME").map(PathBuf::from);
        let default = home.or_else(|| Some(settings::home()?.join(".config"))).map(|d| d.join("rbuild/rbuild.toml"));
        let (path, asked) = match (&global.config, default) {
            (Some(path), _) => (path.clone(), true),
            (None, Some(path)) => (path, false),
            (None, None) => return Ok(Self::default()),
        };
        match settings::read_limited(&path, MAX_SIZE) {
            Ok(bytes) => {
                let text =
                    String::from_utf8(bytes).map_err(|_| usage(format!("{}: it is not text", path.display())))?;
                Self::parse(&path, &text)
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && !asked => Ok(Self::default()),
            Err(e) => Err(Failure::new(FaultKind::Usage, format!("cannot read {}: {e}", path.display()))),
        }
    }

    fn parse(path: &Path, text: &str) -> Result<Self, Failure> {
        let table: Table = text.parse().map_err(|e: toml::de::Error| {
            let line = e.span().map(|s| text[..s.start.min(text.len())].lines().count().max(1));
            let place = line.map_or_else(String::new, |n| format!(" line {n}"));
            usage(format!("{}{place}: {}", path.display(), e.message()))
        })?;
        let mut top = Section { path, name: String::new(), table };
        let mut config = Self::default();
        for (host, section) in top.sections("registry")? {
            config.registries.insert(host, Registry::read(section)?);
        }
        if let Some(section) = top.section("dns")? {
            config.steps.dns = dns(section)?;
        }
        if let Some(section) = top.section("steps")? {
            steps(section, &mut config.steps)?;
        }
        top.finish(&["registry", "dns", "steps"])?;
        Ok(config)
    }
}

/// `[dns]`: BuildKit's names (SPEC C9.10).
fn dns(mut section: Section<'_>) -> Result<DnsOptions, Failure> {
    let mut nameservers = Vec::new();
    for text in section.texts("nameservers")?.unwrap_or_default() {
        nameservers
            .push(text.parse().map_err(|_| section.wrong("nameservers", &format!("\"{text}\" is not an address")))?);
    }
    let dns = DnsOptions {
        nameservers,
        options: section.texts("options")?.unwrap_or_default(),
        search: section.texts("searchDomains")?.unwrap_or_default(),
    };
    section.finish(&["nameservers", "options", "searchDomains"])?;
    Ok(dns)
}

/// `[steps]`: what holds for RUN steps unless the command line says otherwise.
fn steps(mut section: Section<'_>, into: &mut StepOptions) -> Result<(), Failure> {
    if let Some(text) = section.text("network")? {
        into.network = DefaultNetwork::from_name(&text)
            .ok_or_else(|| section.wrong("network", &format!("\"{text}\" is not auto, sandbox or host")))?;
    }
    section.finish(&["network"])
}

impl Registry {
    fn read(mut section: Section<'_>) -> Result<Self, Failure> {
        let mirrors = section.texts("mirrors")?;
        for mirror in mirrors.iter().flatten() {
            if mirror.contains("://") || mirror.is_empty() {
                return Err(section.wrong("mirrors", &format!("\"{mirror}\" is not HOST[:PORT][/PATH]")));
            }
        }
        let mut keypair = None;
        for mut pair in section.tables("keypair")? {
            let (key, cert) = (pair.path("key")?, pair.path("cert")?);
            let (Some(key), Some(cert)) = (key, cert) else {
                return Err(section.wrong("keypair", "it needs key and cert"));
            };
            pair.finish(&["key", "cert"])?;
            if keypair.replace((key, cert)).is_some() {
                return Err(section.wrong("keypair", "only one pair can be used"));
            }
        }
        let read = Self {
            mirrors,
            http: section.flag("http")?,
            insecure: section.flag("insecure")?,
            ca: section.paths("ca")?,
            keypair,
            tlsconfigdir: section.paths("tlsconfigdir")?,
        };
        section.finish(&["mirrors", "http", "insecure", "ca", "keypair", "tlsconfigdir"])?;
        Ok(read)
    }
}

/// A table of the file whose keys are taken out one by one.
struct Section<'a> {
    path: &'a Path,
    /// As it is written: `registry."docker.io"`; empty for the top.
    name: String,
    table: Table,
}

impl<'a> Section<'a> {
    fn full(&self, key: &str) -> String {
        let plain = key.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
        let key = if plain { key.to_owned() } else { format!("\"{key}\"") };
        if self.name.is_empty() { key } else { format!("{}.{key}", self.name) }
    }

    fn wrong(&self, key: &str, why: &str) -> Failure {
        usage(format!("{}: {}: {why}", self.path.display(), self.full(key)))
    }

    fn child(&self, key: &str, value: Value) -> Result<Section<'a>, Failure> {
        match value {
            Value::Table(table) => Ok(Section { path: self.path, name: self.full(key), table }),
            _ => Err(self.wrong(key, "expected a table")),
        }
    }

    fn flag(&mut self, key: &str) -> Result<Option<bool>, Failure> {
        match self.table.remove(key) {
            None => Ok(None),
            Some(Value::Boolean(flag)) => Ok(Some(flag)),
            Some(_) => Err(self.wrong(key, "expected true or false")),
        }
    }

    fn text(&mut self, key: &str) -> Result<Option<String>, Failure> {
        match self.table.remove(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.wrong(key, "expected a text")),
        }
    }

    fn texts(&mut self, key: &str) -> Result<Option<Vec<String>>, Failure> {
        let wrong = |this: &Self| this.wrong(key, "expected a list of texts");
        match self.table.remove(key) {
            None => Ok(None),
            Some(Value::Array(values)) => {
                let texts = values.into_iter().map(|v| match v {
                    Value::String(text) => Ok(text),
                    _ => Err(wrong(self)),
                });
                texts.collect::<Result<_, _>>().map(Some)
            }
            Some(_) => Err(wrong(self)),
        }
    }

    /// A path; relative ones are relative to the file.
    fn path(&mut self, key: &str) -> Result<Option<PathBuf>, Failure> {
        Ok(self.text(key)?.map(|text| self.resolve(&text)))
    }

    fn paths(&mut self, key: &str) -> Result<Vec<PathBuf>, Failure> {
        let texts = self.texts(key)?.unwrap_or_default();
        Ok(texts.iter().map(|text| self.resolve(text)).collect())
    }

    fn resolve(&self, text: &str) -> PathBuf {
        self.path.parent().unwrap_or(Path::new("")).join(text)
    }

    /// The table at a key.
    fn section(&mut self, key: &str) -> Result<Option<Section<'a>>, Failure> {
        let Some(value) = self.table.remove(key) else { return Ok(None) };
        self.child(key, value).map(Some)
    }

    /// The tables below a key, by name.
    fn sections(&mut self, key: &str) -> Result<Vec<(String, Section<'a>)>, Failure> {
        let Some(value) = self.table.remove(key) else { return Ok(Vec::new()) };
        let parent = self.child(key, value)?;
        let children = parent.table.clone().into_iter();
        children.map(|(name, value)| Ok((name.clone(), parent.child(&name, value)?))).collect()
    }

    /// A list of tables.
    fn tables(&mut self, key: &str) -> Result<Vec<Section<'a>>, Failure> {
        match self.table.remove(key) {
            None => Ok(Vec::new()),
            Some(Value::Array(values)) => values.into_iter().map(|value| self.child(key, value)).collect(),
            Some(_) => Err(self.wrong(key, "expected a list of tables")),
        }
    }

    /// Refuses what nobody took.
    fn finish(&self, known: &[&str]) -> Result<(), Failure> {
        let Some(key) = self.table.keys().next() else { return Ok(()) };
        let hint = did_you_mean(key, known.iter().copied());
        Err(usage(format!("{}: unknown key {}{hint}", self.path.display(), self.full(key))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(Path::new("/c/rbuild.toml"), text).map_err(|e| e.message)
    }

    // SPEC C9.11, E2.02–E2.04
    #[test]
    fn registries_are_written_as_for_buildkit() {
        let text = r#"
[registry."docker.io"]
  mirrors = ["mirror.gcr.io", "m.example:5000/hub"]
[registry."m.example:5000"]
  http = true
  insecure = false
  ca = ["ca.pem"]
  tlsconfigdir = ["/etc/certs.d/m"]
  [[registry."m.example:5000".keypair]]
    key = "/k.pem"
    cert = "c.pem"
"#;
        let config = parse(text).expect("fine");
        let hub = &config.registries["docker.io"];
        assert_eq!(hub.mirrors.as_deref(), Some(&["mirror.gcr.io".to_owned(), "m.example:5000/hub".to_owned()][..]));
        let mirror = &config.registries["m.example:5000"];
        assert_eq!((mirror.http, mirror.insecure), (Some(true), Some(false)));
        assert_eq!(mirror.ca, [Path::new("/c/ca.pem")], "relative to the file");
        assert_eq!(mirror.keypair, Some(("/k.pem".into(), "/c/c.pem".into())));
    }

    // SPEC C9.10, C5.03
    #[test]
    fn c9_10_names_and_networks_of_steps() {
        let text =
            "[dns]\nnameservers = [\"10.0.0.1\", \"::1\"]\nsearchDomains = [\"lan\"]\n[steps]\nnetwork = \"host\"\n";
        let steps = parse(text).expect("fine").steps;
        assert_eq!(
            steps.dns.nameservers,
            ["10.0.0.1".parse::<std::net::IpAddr>().expect("one"), "::1".parse().expect("one")]
        );
        assert_eq!((steps.dns.search, steps.network), (vec!["lan".to_owned()], DefaultNetwork::Host));
        let error = |text: &str| parse(text).expect_err("refused");
        assert_eq!(error("[dns]\nnameservers = [\"x\"]"), "/c/rbuild.toml: dns.nameservers: \"x\" is not an address");
        assert!(error("[steps]\nnetwork = \"none\"").ends_with("\"none\" is not auto, sandbox or host"));
        assert!(error("[steps]\nnetwrk = \"host\"").contains("unknown key steps.netwrk (did you mean network?)"));
    }

    // SPEC G.06
    #[test]
    fn mistakes_name_file_and_key() {
        let error = |text: &str| parse(text).expect_err("refused");
        assert_eq!(error("registy = 1"), "/c/rbuild.toml: unknown key registy (did you mean registry?)");
        assert_eq!(
            error("[registry.\"a.b\"]\nmirors = []"),
            "/c/rbuild.toml: unknown key registry.\"a.b\".mirors (did you mean mirrors?)"
        );
        assert_eq!(error("[registry.a]\nhttp = \"yes\""), "/c/rbuild.toml: registry.a.http: expected true or false");
        assert!(error("[registry.a]\nmirrors = [\"https://x\"]").ends_with("\"https://x\" is not HOST[:PORT][/PATH]"));
        assert!(error("x = \n").starts_with("/c/rbuild.toml line 1: "));
        assert_eq!(parse(""), Ok(Config::default()));
    }
}
