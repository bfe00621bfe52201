//! `--registry`, `--retry` and `--retry-delay`: how registries are reached, this time only.

use std::str::FromStr as _;
use std::time::Duration;

use super::args::RegistryArgs;
use super::errors::Failure;
use super::grammar;
use super::settings::usage;
use crate::base::duration::parse_span;
use crate::base::wording::did_you_mean;
use crate::registry::cloud::Service;
use crate::registry::{ClientOptions, HostOptions, Mirror, Route};

const KEYS: [&str; 8] = ["http", "insecure", "ca", "cert", "key", "certs", "mirror", "only-mirrors"];

/// All values together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct RegistryFlags {
    hosts: Vec<(String, Exceptions)>,
    retries: Option<u32>,
    delay: Option<Duration>,
    /// Who may be asked for credentials; `None` is everybody.
    helpers: Option<Vec<Service>>,
}

/// What is said about one host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Exceptions {
    http: Option<bool>,
    insecure: Option<bool>,
    rest: HostOptions,
    mirrors: Vec<Mirror>,
    only_mirrors: bool,
}

impl RegistryFlags {
    /// # Errors
    /// Names the value and the rule.
    pub(super) fn new(args: &RegistryArgs) -> Result<Self, Failure> {
        let mut all = Self { retries: args.retry, ..Self::default() };
        for text in &args.registry {
            all.add(text).map_err(|e| usage(format!("--registry {text}: {e}")))?;
        }
        all.check_files()?;
        if let Some(path) = args.authfile.as_ref().filter(|path| !path.exists()) {
            return Err(usage(format!("--authfile: cannot read {}: no such file or directory", path.display())));
        }
        let delay = args.retry_delay.as_deref().map(parse_span).transpose();
        all.delay = delay.map_err(|e| usage(format!("--retry-delay: {e}")))?;
        let helpers = args.credential_helpers.iter().map(String::as_str).filter(|name| !name.is_empty());
        let helpers = helpers.map(Service::from_str).collect::<Result<Vec<_>, _>>();
        let helpers = helpers.map_err(|e| usage(format!("--credential-helpers: {e}")))?;
        all.helpers = (!args.credential_helpers.is_empty()).then_some(helpers);
        Ok(all)
    }

    /// Who may be asked for credentials that no file has; `None` is everybody.
    pub(super) fn helpers(&self) -> Option<&[Service]> {
        self.helpers.as_deref()
    }

    /// Certificates are looked at when a connection is made, which may be at the end of a long build.
    fn check_files(&self) -> Result<(), Failure> {
        for (host, own) in &self.hosts {
            let identity = own.rest.identity.iter().flat_map(|(cert, key)| [("cert", cert), ("key", key)]);
            for (name, path) in own.rest.roots.iter().map(|path| ("ca", path)).chain(identity) {
                if let Err(e) = std::fs::File::open(path) {
                    let text = format!("--registry {host},{name}={}: cannot read it: {e}", path.display());
                    return Err(usage(text).hint("a file in PEM format on this machine"));
                }
            }
        }
        Ok(())
    }

    fn add(&mut self, text: &str) -> Result<(), String> {
        let mut fields = grammar::fields(text).map_err(|e| e.to_string())?.into_iter();
        let host = match fields.next() {
            Some((host, None)) if !host.is_empty() && !host.contains('/') => host,
            _ => return Err("expected HOST, and then what holds for it".into()),
        };
        let at = self.hosts.iter().position(|(known, _)| *known == host).unwrap_or(self.hosts.len());
        if at == self.hosts.len() {
            self.hosts.push((host, Exceptions::default()));
        }
        let own = &mut self.hosts[at].1;
        let (mut cert, mut key) = (None, None);
        for (name, value) in fields {
            let value = value.as_deref();
            let switch = || grammar::boolean(value.unwrap_or("true")).ok_or(format!("{name}: expected true or false"));
            let given = || value.filter(|v| !v.is_empty()).ok_or(format!("{name} has no value"));
            match name.as_str() {
                "http" => own.http = Some(switch()?),
                "insecure" => own.insecure = Some(switch()?),
                "only-mirrors" => own.only_mirrors = switch()?,
                "ca" => own.rest.roots.push(given()?.into()),
                "certs" => own.rest.cert_dirs.push(given()?.into()),
                "cert" => cert = Some(given()?.into()),
                "key" => key = Some(given()?.into()),
                "mirror" => match given()?.trim_end_matches('/') {
                    url if url.contains("://") => return Err(format!("mirror {url} is not HOST[:PORT][/PATH]")),
                    location => own.mirrors.push(Mirror::new(location)),
                },
                other => return Err(format!("unknown attribute {other}{}", did_you_mean(other, KEYS))),
            }
        }
        match (cert, key) {
            (None, None) => {}
            (Some(cert), Some(key)) => own.rest.identity = Some((cert, key)),
            _ => return Err("cert and key belong together".into()),
        }
        Ok(())
    }

    /// These go before what files and variables say.
    pub(super) fn apply(&self, options: &mut ClientOptions) {
        for (host, own) in &self.hosts {
            if own.http.is_some() || own.insecure.is_some() || own.rest != HostOptions::default() {
                // What holds for all holds for this one too, unless it says otherwise.
                let usual = options.hosts.get("*").cloned().unwrap_or_default();
                let known = options.hosts.entry(host.clone()).or_insert(usual);
                known.plain_http = own.http.or(known.plain_http);
                known.insecure = own.insecure.unwrap_or(known.insecure);
                known.roots.extend(own.rest.roots.iter().cloned());
                known.cert_dirs.extend(own.rest.cert_dirs.iter().cloned());
                known.identity = own.rest.identity.clone().or(known.identity.take());
            }
            if own.mirrors.is_empty() && !own.only_mirrors {
                continue;
            }
            let at = options.routes.iter().position(|route| route.prefix == *host).unwrap_or_else(|| {
                options.routes.insert(0, Route { prefix: host.clone(), ..Route::default() });
                0
            });
            let route = &mut options.routes[at];
            route.mirrors.splice(0..0, own.mirrors.iter().cloned());
            route.mirrors_only |= own.only_mirrors;
        }
        options.retry.retries = self.retries.unwrap_or(options.retry.retries);
        options.retry.base = self.delay.unwrap_or(options.retry.base);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(values: &[&str]) -> Result<RegistryFlags, Failure> {
        let mut all = RegistryFlags::default();
        for value in values {
            all.add(value).map_err(usage)?;
        }
        Ok(all)
    }

    // SPEC D1.37–D1.40
    #[test]
    fn what_is_said_about_a_host_adds_up_and_goes_first() {
        let mut options = ClientOptions::default();
        options.routes.push(Route {
            prefix: "docker.io".into(),
            mirrors: vec![Mirror::new("old.example")],
            ..Route::default()
        });
        let all = [
            "*,insecure",
            "r.example:5000,insecure=true,http=false",
            "r.example:5000,ca=/a.crt",
            "r.example:5000,cert=/c,key=/k",
            "docker.io,mirror=m.example/hub/",
            "docker.io,only-mirrors",
        ];
        flags(&all).expect("valid").apply(&mut options);
        let own = &options.hosts["r.example:5000"];
        assert!(own.insecure && own.plain_http == Some(false) && own.roots.len() == 1 && own.identity.is_some());
        assert!(options.hosts["*"].insecure);
        assert_eq!(options.routes.len(), 1);
        let mirrors: Vec<&str> = options.routes[0].mirrors.iter().map(|m| m.location.as_str()).collect();
        assert_eq!((mirrors, options.routes[0].mirrors_only), (vec!["m.example/hub", "old.example"], true));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (value, rule) in [
            ("", "expected HOST"),
            ("http=true", "expected HOST"),
            ("h/x,http", "expected HOST"),
            ("h,htpp=true", "did you mean http?"),
            ("h,insecure=maybe", "expected true or false"),
            ("h,cert=/c", "belong together"),
            ("h,mirror=https://m", "is not HOST"),
            ("h,ca", "has no value"),
        ] {
            assert!(flags(&[value]).is_err_and(|e| e.message.contains(rule)), "{value}");
        }
    }
}
