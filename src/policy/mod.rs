//! Layer 5: build policies in Rego: which sources a build may have, by rules that look at what a source is (SPEC B2.22, B8.09, C9.03).
//!
//! A policy is asked about each source and answers with `data.docker.decision`. [`input`] makes what it sees, [`engine`] evaluates it. [`containers`]
//! has the other policy about images, podman's.
//! Facts that have to be asked for (digests, configurations) are found only where the text of a policy speaks of them. Nothing
//! here reaches the network: [`Facts`] is the builder's.

mod cases;
mod containers;
mod engine;
mod input;
mod provenance;
mod schema;
mod signatures;
mod sources;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use tokio::sync::OnceCell;

use crate::attest::git::GitObjects;
use crate::attest::git::pgp::SignedDigest;
use crate::attest::signature::Signatures;
use crate::attest::sigstore::Trust;
use crate::base::Digest;
use crate::llb::HostError;
use crate::llb::op::SourceOp;
use crate::oci::{Platform, Reference};
use engine::Engine;
use sources::Known;

pub use containers::SignaturePolicy;
pub use engine::PolicyTest;
pub use input::{FIELDS, Input, unresolved};
pub use provenance::Provenance;
pub use schema::schema;

/// What turns on the policy of buildx, and how it is called.
const OF_BUILDX: &str = "BUILDX_DEFAULT_POLICY";
/// A policy that needs more and more of a download each time it is asked is not asked any more.
const MAX_ROUNDS: usize = 10;

/// A policy file.
#[derive(Debug, Clone)]
pub struct PolicyFile {
    /// How it is called in messages.
    pub name: String,
    /// Its text.
    pub text: String,
    /// Where what it imports and reads is; nowhere for a policy that came with a remote context.
    pub root: Option<PathBuf>,
}

impl PolicyFile {
    /// Where it is, as far as that is known.
    #[must_use]
    pub fn place(&self) -> String {
        match &self.root {
            Some(root) if root != Path::new(".") => root.join(&self.name).display().to_string(),
            _ => self.name.clone(),
        }
    }

    /// The policy that buildx brings along and `BUILDX_DEFAULT_POLICY` turns on (SPEC B8.10): tags of Docker's own build images need a
    /// signature.
    #[must_use]
    pub fn of_buildx() -> Self {
        Self { name: OF_BUILDX.into(), text: include_str!("default.rego").into(), root: None }
    }
}

/// What policies learn of the build.
#[derive(Debug, Clone, Default)]
pub struct Env {
    /// Build arguments of the command line.
    pub args: std::collections::BTreeMap<String, String>,
    /// Labels of the command line.
    pub labels: std::collections::BTreeMap<String, String>,
    /// The Dockerfile's name.
    pub filename: String,
    /// The target stage, if one was named.
    pub target: Option<String>,
}

/// What is known of an image once it was asked for.
#[derive(Debug, Clone)]
pub struct ImageFacts {
    /// Of the index where there is one, else of the manifest.
    pub digest: Digest,
    /// The configuration of the platform's image.
    pub config: bytes::Bytes,
}

/// What is known of a repository or a download once it was asked for.
#[derive(Debug, Clone, Default)]
pub struct Pin {
    /// `sha256:…` of a file, the commit of a repository.
    pub checksum: String,
    /// The full name of the ref, `refs/heads/main`.
    pub reference: Option<String>,
    /// The object of an annotated tag that leads to the commit.
    pub tag: Option<String>,
}

/// Finds out what a policy asks for.
#[async_trait::async_trait]
pub trait Facts: Send + Sync {
    /// Digest and configuration of an image.
    ///
    /// # Errors
    /// When it cannot be had.
    async fn image(&self, source: &SourceOp, platform: &Platform) -> Result<ImageFacts, HostError>;

    /// The provenance that stands beside an image, if there is one.
    ///
    /// # Errors
    /// When that cannot be found out.
    async fn provenance(&self, source: &SourceOp, platform: &Platform) -> Result<Option<Provenance>, HostError>;

    /// The signatures that stand beside an image, as they were found.
    ///
    /// # Errors
    /// When that cannot be found out.
    async fn signatures(&self, source: &SourceOp, platform: &Platform) -> Result<Signatures, HostError>;

    /// The signatures of what is attested of an image, as they were found beside that.
    ///
    /// # Errors
    /// When that cannot be found out.
    async fn attestation_signatures(&self, source: &SourceOp, platform: &Platform) -> Result<Signatures, HostError>;

    /// Who is believed about certificates: Sigstore's public instance.
    ///
    /// # Errors
    /// When what is shipped cannot be read.
    fn trust(&self) -> Result<Trust, String> {
        Trust::public()
    }

    /// What a download or a ref is now.
    ///
    /// # Errors
    /// When it cannot be had.
    async fn pin(&self, source: &SourceOp) -> Result<Pin, HostError>;

    /// What git keeps of a commit, and of the annotated tag that led to it.
    ///
    /// # Errors
    /// When it cannot be had.
    async fn objects(&self, source: &SourceOp) -> Result<Option<GitObjects>, HostError>;

    /// The digest that a signature signs of a download; `None` of what is no file.
    ///
    /// # Errors
    /// When the file cannot be had.
    async fn signed_digest(&self, source: &SourceOp, wanted: &SignedDigest) -> Result<Option<Vec<u8>>, HostError>;
}

/// What is wrong with a policy.
#[derive(Debug, thiserror::Error)]
pub enum RegoError {
    /// It does not compile, needs what is not here, or fails when it is evaluated.
    #[error("policy {name}: {reason}")]
    Policy {
        /// The file.
        name: String,
        /// Why.
        reason: String,
    },
    /// It says no.
    #[error("source \"{identifier}\" not allowed by policy: action DENY{}", listed(messages))]
    Denied {
        /// The source.
        identifier: String,
        /// The file.
        name: String,
        /// What `deny_msg` said.
        messages: Vec<String>,
    },
    /// What it asked for cannot be had.
    #[error("{0}")]
    Facts(#[from] HostError),
    /// An object of git that is none.
    #[error("{0}")]
    Object(String),
}

fn listed(messages: &[String]) -> String {
    if messages.is_empty() { String::new() } else { format!(": {}", messages.join("; ")) }
}

impl RegoError {
    /// The remedy, where there is one.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Denied { name, .. } => {
                Some(format!("{name} says so; --policy log-level=debug shows what it looked at"))
            }
            Self::Policy { .. } => Some("rbuild policy eval SOURCE evaluates a policy alone".into()),
            Self::Facts(error) => error.hint.clone(),
            Self::Object(_) => None,
        }
    }
}

/// How much is told about policies (SPEC B2.22 `log-level`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum LogLevel {
    /// Nothing.
    Quiet,
    /// What was asked and decided.
    #[default]
    Info,
    /// Also what policies looked at.
    Debug,
}

/// Says what policies do.
pub type Log<'a> = &'a (dyn Fn(LogLevel, &str) + Send + Sync);

/// What was decided about a source that may be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// As it is.
    Allow,
    /// As this one: the policy pinned it.
    Convert(SourceOp),
}

/// Policies of a build, all of which have to allow a source. None allow everything.
#[derive(Debug, Clone, Default)]
pub struct Policies {
    engines: Vec<Engine>,
    signed: Option<Arc<SignaturePolicy>>,
    env: Env,
}

impl Policies {
    /// Compiles policies; the files of one belong together.
    ///
    /// # Errors
    /// When one cannot be applied as it is.
    pub fn new(policies: &[Vec<PolicyFile>], env: Env) -> Result<Self, RegoError> {
        let engines = policies.iter().map(|files| Engine::new(files)).collect::<Result<Vec<_>, _>>()?;
        let policies = Self { engines, signed: None, env };
        for engine in &policies.engines {
            engine.refuse_capabilities(&policies.input(Input::default()))?;
        }
        Ok(policies)
    }

    /// Holds images to this policy, too, before the others are asked (SPEC D3.26).
    #[must_use]
    pub fn with_signed(mut self, signed: Option<Arc<SignaturePolicy>>) -> Self {
        self.signed = signed;
        self
    }

    /// Whether there is nothing to ask.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.engines.is_empty() && self.signed.is_none()
    }

    /// Asks all policies about a source for `platform`.
    ///
    /// # Errors
    /// When one says no or cannot be evaluated, or when what it looks at cannot be had.
    pub async fn check(
        &self,
        source: &SourceOp,
        platform: &Platform,
        facts: &dyn Facts,
        log: Log<'_>,
    ) -> Result<Decision, RegoError> {
        // Looked for once, by the first who asks.
        let beside = OnceCell::new();
        let signatures = || beside.get_or_try_init(|| found(source, platform, facts, log));
        if let (Some(policy), Some(image)) = (&self.signed, image(source)) {
            let denied = |why: String| RegoError::Denied {
                identifier: source.identifier.clone(),
                name: policy.name().to_owned(),
                messages: vec![why],
            };
            let image = image.map_err(denied)?;
            let signatures = if policy.verifies(&image) { Arc::clone(signatures().await?) } else { Arc::default() };
            policy.check(&image, &signatures).map_err(denied)?;
        }
        for engine in &self.engines {
            let shown = input::shown(source, platform);
            log(LogLevel::Info, &format!("checking policy for source {shown}"));
            let mut input = Input::new(source, platform).map_err(|reason| engine.fault(reason))?;
            // It is asked about every image, and looks at those of its own only.
            if engine.name() == OF_BUILDX && !engine.holds("data.docker.needed", &self.input(input.clone()))? {
                continue;
            }
            input.resolve(source, platform, facts, &|field| engine.wants(field)).await?;
            let known = Known { objects: input.objects.take(), ..Known::default() };
            let notes = std::mem::take(&mut input.notes);
            let value = self.input(input);
            log(LogLevel::Debug, &format!("policy input: {value:#}"));
            let signatures = match value.get("image").is_some() && engine.verifies_images() {
                true => Arc::clone(signatures().await?),
                false => Arc::default(),
            };
            let mut known = Arc::new(known);
            let mut answer = engine.decide(&value, Arc::clone(&signatures), Arc::clone(&known), log)?;
            for _ in 0..MAX_ROUNDS {
                let needs: Vec<_> = answer.needs.iter().filter(|need| !known.digests.contains_key(need)).collect();
                if needs.is_empty() {
                    break;
                }
                let mut digests = known.digests.clone();
                for need in needs {
                    digests.insert(need.clone(), facts.signed_digest(source, need).await?.unwrap_or_default());
                }
                known = Arc::new(Known { objects: known.objects.clone(), digests });
                answer = engine.decide(&value, Arc::clone(&signatures), Arc::clone(&known), log)?;
            }
            if !answer.allow {
                log(LogLevel::Info, &format!("policy decision for source {shown}: DENY"));
                // What functions found is why, where a policy asked them.
                let messages = [answer.messages, answer.notes, notes].concat();
                for message in &messages {
                    log(LogLevel::Info, &format!(" - {message}"));
                }
                let (identifier, name) = (source.identifier.clone(), engine.name().to_owned());
                return Err(RegoError::Denied { identifier, name, messages });
            }
            match answer.pins.as_slice() {
                [] => log(LogLevel::Info, &format!("policy decision for source {shown}: ALLOW")),
                [pin] => {
                    let pinned = pinned(source, pin).map_err(|reason| engine.fault(reason))?;
                    log(
                        LogLevel::Info,
                        &format!("policy decision for source {shown}: convert to {}", pinned.identifier),
                    );
                    // What is asked next is the pinned one; the others are asked about that one then.
                    return Ok(if pinned == *source { Decision::Allow } else { Decision::Convert(pinned) });
                }
                _ => return Err(engine.fault(format!("multiple image pins set to {shown}"))),
            }
        }
        Ok(Decision::Allow)
    }

    /// Evaluates the rules called `test_…` of more files beside the policies (SPEC B8.09 `policy test`).
    ///
    /// # Errors
    /// When a file does not compile, or a test cannot be evaluated.
    pub fn tests(&self, files: &[PolicyFile], only: Option<&str>) -> Result<Vec<PolicyTest>, RegoError> {
        let mut all = Vec::new();
        for engine in &self.engines {
            all.extend(engine.tests(files, only)?);
        }
        Ok(all)
    }

    fn input(&self, input: Input) -> Value {
        input.into_value(&self.env)
    }
}

/// The signatures beside an image; that they were looked for is told.
async fn found(
    source: &SourceOp,
    platform: &Platform,
    facts: &dyn Facts,
    log: Log<'_>,
) -> Result<Arc<Signatures>, RegoError> {
    let signatures = facts.signatures(source, platform).await?;
    let shown = input::shown(source, platform);
    log(LogLevel::Debug, &format!("signatures beside {shown}: {}", signatures.count()));
    Ok(Arc::new(signatures))
}

/// The name of an image that comes from a registry; `None` of other sources.
fn image(source: &SourceOp) -> Option<Result<Reference, String>> {
    let name = source.identifier.strip_prefix("docker-image://")?;
    Some(Reference::parse_raw(name).map_err(|e| e.to_string()))
}

/// An image source by digest.
fn pinned(source: &SourceOp, digest: &Digest) -> Result<SourceOp, String> {
    let reference = image(source).ok_or("only images can be pinned")??;
    match &reference.digest {
        Some(known) if known != digest => {
            Err(format!("{} is to be pinned to {digest}, and has another digest", source.identifier))
        }
        _ => {
            let identifier = format!("docker-image://{}", reference.with_digest(digest.clone()));
            Ok(SourceOp { identifier, ..source.clone() })
        }
    }
}
