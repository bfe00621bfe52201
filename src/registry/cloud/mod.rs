//! Signing in to the registries of clouds with what their machines and pipelines have in the environment: no helper
//! programs, no `login` (SPEC E1.14).
//!
//! Only names of a cloud's registries are looked at, and only if no configuration file has credentials for them. What a
//! credential is made from is in [`CloudEnvironment`]; nothing here reads the environment.

mod aws;
mod azure;
mod google;
mod sigv4;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, Instant};

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, Request, Url};
use serde::de::DeserializeOwned;
use tokio::sync::Mutex;

use super::transport::Transport;
use super::{ClientOptions, Credential, Fault, HostOptions};
use crate::base::wording::did_you_mean;

/// Where Google keeps what is in buckets.
const STORAGE: &str = "storage.googleapis.com";
/// What the variables begin with that are named for a registry.
const OWN: &str = "KANIKO_";
/// How long an answer is used whose life is not known, and the longest that any is (SPEC E1.13).
const REUSE: Duration = Duration::from_secs(290);
/// How long to wait for the metadata service of a machine that may not be in a cloud.
const METADATA_PATIENCE: Duration = Duration::from_secs(2);
/// How long to wait for everybody else.
const PATIENCE: Duration = Duration::from_secs(30);

/// The variables that clouds set, and where their files are.
#[derive(Debug, Clone, Default)]
pub struct CloudEnvironment {
    /// Environment variables with names of interest ([`CloudEnvironment::wants`]).
    pub variables: BTreeMap<String, String>,
    /// The home directory.
    pub home: Option<PathBuf>,
    /// Whom to ask; `None` is everybody.
    pub only: Option<Vec<Service>>,
}

/// Whom to ask for credentials, under the names that kaniko has for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// Variables that are named for a registry.
    Env,
    /// Google's registries.
    Google,
    /// Amazon's.
    Ecr,
    /// Microsoft's.
    Acr,
    /// The one of the GitLab that the pipeline runs for.
    GitLab,
    /// GitHub's packages.
    GitHub,
}

impl FromStr for Service {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const NAMES: [(&str, Service); 6] = [
            ("env", Service::Env),
            ("google", Service::Google),
            ("ecr", Service::Ecr),
            ("acr", Service::Acr),
            ("gitlab", Service::GitLab),
            ("github", Service::GitHub),
        ];
        let found = NAMES.iter().find(|(name, _)| *name == text).map(|(_, service)| *service);
        found.ok_or_else(|| {
            let names = NAMES.map(|(name, _)| name);
            format!("unknown helper \"{text}\"{}; expected {}", did_you_mean(text, names), names.join(", "))
        })
    }
}

impl CloudEnvironment {
    /// Whether a variable is of interest.
    #[must_use]
    pub fn wants(name: &str) -> bool {
        let prefixes = ["AWS_", "AZURE_", "GOOGLE_", "GCE_", "CLOUDSDK_", "IDENTITY_", "CI_REGISTRY", "CI_JOB_TOKEN"];
        let own = name.starts_with(OWN) && (name.ends_with("_USER") || name.ends_with("_PASSWORD"));
        own || prefixes.iter().any(|p| name.starts_with(p))
            || matches!(name, "GITHUB_TOKEN" | "GITHUB_ACTOR" | "MSI_ENDPOINT")
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str).filter(|v| !v.is_empty())
    }

    /// Whether somebody may be asked.
    fn asks(&self, service: Service) -> bool {
        self.only.as_ref().is_none_or(|only| only.contains(&service))
    }

    /// `KANIKO_HOST_USER` and `KANIKO_HOST_PASSWORD`: of a registry, or of a domain that it is in.
    fn named(&self, host: &str) -> Option<Credential> {
        let name = host.split(':').next().unwrap_or(host).to_uppercase().replace('-', "_");
        let parts: Vec<&str> = name.split('.').collect();
        (0..parts.len()).find_map(|at| {
            let domain = format!("{OWN}{}", parts[at..].join("_"));
            let username = self.get(&format!("{domain}_USER"))?.to_owned();
            let password = self.get(&format!("{domain}_PASSWORD"))?.to_owned();
            Some(Credential::Basic { username, password })
        })
    }

    /// What a file named by a variable holds.
    fn file(&self, name: &str) -> Result<Option<String>, String> {
        let Some(path) = self.get(name) else { return Ok(None) };
        std::fs::read_to_string(path).map(Some).map_err(|e| format!("cannot read {path} ({name}): {e}"))
    }
}

/// Signs in.
pub struct CloudKeychain {
    environment: CloudEnvironment,
    transport: Transport,
    /// By host: the answer, and until when it is used.
    known: Mutex<HashMap<String, (Option<Credential>, Instant)>>,
}

/// Who is asked for a host.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Cloud {
    /// Amazon's, in a region; public ones have none.
    Ecr { region: Option<String>, suffix: &'static str },
    /// Google's.
    Google,
    /// Microsoft's.
    Acr,
    /// GitHub's packages.
    GitHub,
    /// The registry of a GitLab, by `CI_REGISTRY`.
    GitLab,
}

impl Cloud {
    fn of(host: &str, environment: &CloudEnvironment) -> Option<Self> {
        let name = host.split(':').next().unwrap_or(host);
        if name == "public.ecr.aws" {
            return Some(Self::Ecr { region: None, suffix: "amazonaws.com" });
        }
        // ACCOUNT.dkr.ecr[-fips].REGION.amazonaws.com[.cn]
        let parts: Vec<&str> = name.split('.').collect();
        if let [account, "dkr", "ecr" | "ecr-fips", region, "amazonaws", tail @ ..] = parts.as_slice()
            && account.bytes().all(|b| b.is_ascii_digit())
            && matches!(tail, ["com"] | ["com", "cn"])
        {
            let suffix = if tail.len() == 2 { "amazonaws.com.cn" } else { "amazonaws.com" };
            return Some(Self::Ecr { region: Some((*region).to_owned()), suffix });
        }
        // Its storage takes the same tokens (SPEC D2.04).
        if name == STORAGE || name == "gcr.io" || name.ends_with(".gcr.io") || name.ends_with("-docker.pkg.dev") {
            return Some(Self::Google);
        }
        if [".azurecr.io", ".azurecr.cn", ".azurecr.us"].iter().any(|tail| name.ends_with(tail)) {
            return Some(Self::Acr);
        }
        if name == "ghcr.io" && environment.get("GITHUB_TOKEN").is_some() && environment.get("GITHUB_ACTOR").is_some() {
            return Some(Self::GitHub);
        }
        (environment.get("CI_REGISTRY") == Some(host)).then_some(Self::GitLab)
    }

    fn service(&self) -> Service {
        match self {
            Self::Ecr { .. } => Service::Ecr,
            Self::Google => Service::Google,
            Self::Acr => Service::Acr,
            Self::GitHub => Service::GitHub,
            Self::GitLab => Service::GitLab,
        }
    }
}

impl CloudKeychain {
    /// Asks nobody yet. `options` say how to reach servers.
    ///
    /// # Errors
    /// When a proxy setting cannot be used.
    pub fn new(environment: CloudEnvironment, options: ClientOptions) -> Result<Self, Fault> {
        Ok(Self { environment, transport: Transport::new(options)?, known: Mutex::default() })
    }

    /// The credential for a registry; `None` if it is no cloud's, or this machine has nothing to sign in with.
    ///
    /// # Errors
    /// One line, when there is something to sign in with and it does not work.
    pub async fn credential(&self, host: &str) -> Result<Option<Credential>, String> {
        if self.environment.asks(Service::Env)
            && let Some(credential) = self.environment.named(host)
        {
            return Ok(Some(credential));
        }
        // The storage that a context may come from is no registry.
        let asked = |cloud: &Cloud| host == STORAGE || self.environment.asks(cloud.service());
        let Some(cloud) = Cloud::of(host, &self.environment).filter(asked) else { return Ok(None) };
        let mut known = self.known.lock().await;
        if let Some((credential, until)) = known.get(host)
            && *until > Instant::now()
        {
            return Ok(credential.clone());
        }
        let (credential, life) = match &cloud {
            Cloud::Ecr { region, suffix } => self.ecr(region.as_deref(), suffix).await,
            Cloud::Google => self.google().await,
            Cloud::Acr => self.acr(host).await,
            Cloud::GitHub => Ok((self.pair("GITHUB_ACTOR", "GITHUB_TOKEN"), REUSE)),
            Cloud::GitLab => Ok((self.gitlab(), REUSE)),
        }
        .map_err(|why| format!("cannot sign in to {host}: {why}"))?;
        known.insert(host.to_owned(), (credential.clone(), Instant::now() + life.min(REUSE)));
        Ok(credential)
    }

    fn pair(&self, user: &str, password: &str) -> Option<Credential> {
        let (username, password) = (self.environment.get(user)?.to_owned(), self.environment.get(password)?.to_owned());
        Some(Credential::Basic { username, password })
    }

    fn gitlab(&self) -> Option<Credential> {
        let job = || {
            let password = self.environment.get("CI_JOB_TOKEN")?.to_owned();
            Some(Credential::Basic { username: "gitlab-ci-token".into(), password })
        };
        self.pair("CI_REGISTRY_USER", "CI_REGISTRY_PASSWORD").or_else(job)
    }

    /// Sends a request and reads a JSON answer.
    async fn json<T: DeserializeOwned>(&self, call: Ask, patience: Duration) -> Result<T, String> {
        let url = call.url.clone();
        let text = self.text(call, patience).await?;
        serde_json::from_str(&text).map_err(|_| format!("the answer of {} is not the expected JSON", shown(&url)))
    }

    async fn text(&self, call: Ask, patience: Duration) -> Result<String, String> {
        let Ask { method, url, headers, body } = call;
        let mut request = Request::new(method, url.clone());
        *request.headers_mut() = headers;
        *request.body_mut() = body.map(Into::into);
        let exchange = async {
            let answer =
                self.transport.send(request, &HostOptions::default()).await.map_err(|e| e.fault.to_string())?;
            let status = answer.status();
            let text = answer.text().await.map_err(|_| format!("the answer of {} broke off", shown(&url)))?;
            if status.is_success() {
                return Ok(text);
            }
            // What a refusal says holds no secrets of ours.
            let words: String = text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(200).collect();
            Err(format!("{} answered {status}: {words}", shown(&url)))
        };
        let late = || Err(format!("{} did not answer within {} s", shown(&url), patience.as_secs()));
        tokio::time::timeout(patience, exchange).await.unwrap_or_else(|_| late())
    }
}

fn shown(url: &Url) -> String {
    super::host::show(url)
}

/// A request to a cloud.
struct Ask {
    method: Method,
    url: Url,
    headers: HeaderMap,
    body: Option<Vec<u8>>,
}

impl Ask {
    fn get(url: &str) -> Result<Self, String> {
        let url = Url::parse(url).map_err(|e| format!("\"{url}\" is not a URL: {e}"))?;
        Ok(Self { method: Method::GET, url, headers: HeaderMap::new(), body: None })
    }

    fn put(url: &str) -> Result<Self, String> {
        let body = Some(Vec::new());
        Ok(Self { method: Method::PUT, body, ..Self::get(url)? }.header("content-length", "0"))
    }

    /// A form.
    fn form(url: &str, fields: &[(&str, &str)]) -> Result<Self, String> {
        let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        Ok(Self::post(url, body.into_bytes())?.header("content-type", "application/x-www-form-urlencoded"))
    }

    fn post(url: &str, body: Vec<u8>) -> Result<Self, String> {
        Ok(Self { method: Method::POST, body: Some(body), ..Self::get(url)? })
    }

    fn header(mut self, name: &'static str, value: &str) -> Self {
        if let Ok(mut value) = HeaderValue::from_str(value.trim()) {
            value.set_sensitive(name == "authorization");
            self.headers.insert(HeaderName::from_static(name), value);
        }
        self
    }
}

#[cfg(test)]
mod tests;
