//! Proving who we are: scopes, tokens, and what to do about a 401 (SPEC E3.01–E3.04).

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{Method, Url};
use tokio::time::{Duration, Instant};

use super::answers::{self, error_message};
use super::challenge::{self, Challenge};
use super::client::Inner;
use super::host::{self, Host};
use super::request::{Answer, Backoff, Payload, Wire};
use super::scopes::Scopes;
use super::transport::SendError;
use super::{Credential, Fault, Wanted};

/// How often one request may be answered with 401: no credentials, an old token, one without the scope.
const MAX_REFUSALS: u32 = 4;

#[derive(Debug, Clone, PartialEq, Eq, Default)]
enum Mode {
    /// Nothing was sent yet.
    #[default]
    Unknown,
    /// It answered without asking who we are.
    Open,
    Basic,
    Bearer {
        realm: Url,
        service: Option<String>,
    },
}

/// A token, or why there is none.
#[derive(Default)]
struct Slot {
    token: Option<Token>,
    /// Shared with those who were waiting when it happened.
    failed: Option<(Fault, Instant)>,
}

#[derive(Clone)]
struct Token {
    header: HeaderValue,
    expires: Instant,
    anonymous: bool,
}

/// What one host is known to want.
#[derive(Default)]
pub(super) struct HostAuth {
    mode: Mutex<Mode>,
    /// The first request to a host goes alone: otherwise each of many would be answered with a 401.
    first: tokio::sync::Mutex<()>,
    tokens: Mutex<HashMap<String, Arc<tokio::sync::Mutex<Slot>>>>,
    /// By repository.
    basic: Mutex<HashMap<String, Credential>>,
    /// The token server does not know the POST form: do not ask it each time.
    no_post: AtomicBool,
}

/// What a request was sent with.
#[derive(Clone, Default)]
pub(super) struct Proof {
    pub(super) header: Option<HeaderValue>,
    used: Used,
}

impl Proof {
    /// Whether the server was not told who we are.
    pub(super) fn is_anonymous(&self) -> bool {
        matches!(self.used, Used::Nothing | Used::Token { anonymous: true })
    }
}

#[derive(Clone, Default)]
enum Used {
    #[default]
    Nothing,
    Basic(Credential),
    Token {
        anonymous: bool,
    },
}

/// One request's dealings with authentication.
pub(super) struct Session<'a> {
    pub(super) host: &'a Host,
    pub(super) repository: &'a str,
    pub(super) action: &'static str,
    scopes: Scopes,
    /// Under which tokens are kept: the scopes first asked for, whatever a challenge adds.
    key: String,
    /// A token made for this very request was refused: there is no point in a third.
    fresh: bool,
    merged: bool,
    /// Refusals so far: a server that changes its mind each time is not followed for ever.
    refusals: u32,
    lookup: Option<String>,
}

impl<'a> Session<'a> {
    pub(super) fn new(host: &'a Host, repository: &'a str, action: &'static str, scopes: Scopes) -> Self {
        let key = scopes.text();
        Self { host, repository, action, scopes, key, fresh: false, merged: false, refusals: 0, lookup: None }
    }

    /// Holds back further requests while the first one finds out what the host wants.
    pub(super) async fn first(&self) -> Option<tokio::sync::MutexGuard<'a, ()>> {
        if self.host.auth.mode() != Mode::Unknown {
            return None;
        }
        let guard = self.host.auth.first.lock().await;
        (self.host.auth.mode() == Mode::Unknown).then_some(guard)
    }

    /// Notes that the host answered with something else than 401.
    pub(super) fn accepted(&self) {
        let mut mode = self.host.auth.mode.lock().unwrap_or_else(PoisonError::into_inner);
        if *mode == Mode::Unknown {
            *mode = Mode::Open;
        }
    }

    /// What to send along, from what is known.
    pub(super) async fn proof(&mut self, inner: &Inner) -> Result<Proof, SendError> {
        match self.host.auth.mode() {
            Mode::Unknown | Mode::Open => Ok(Proof::default()),
            Mode::Basic => {
                let known = {
                    let basic = self.host.auth.basic.lock().unwrap_or_else(PoisonError::into_inner);
                    basic.get(self.repository).cloned()
                };
                let credential = match known {
                    Some(credential) => Some(credential),
                    None => self.credential(inner).await,
                };
                Ok(credential.map_or_else(Proof::default, |c| self.basic(c)))
            }
            Mode::Bearer { realm, service } => {
                let token = self.token(inner, &realm, service.as_deref()).await?;
                Ok(Proof { header: Some(token.header), used: Used::Token { anonymous: token.anonymous } })
            }
        }
    }

    /// Decides what to do about a 401: `Ok` with another proof to try, or the final refusal.
    pub(super) async fn challenged(
        &mut self,
        inner: &Inner,
        sent: &Proof,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<Proof, SendError> {
        let challenges: Vec<Challenge> = headers
            .get_all(WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(challenge::parse)
            .collect();
        let find = |scheme: &str| challenges.iter().find(|c| c.scheme == scheme);
        let mut detail = error_message(body);
        self.refusals += 1;
        if self.refusals > MAX_REFUSALS {
            return Err(SendError::fatal(self.refused(sent, detail)));
        }
        if let Some(bearer) = find("bearer") {
            let realm = bearer.param("realm").unwrap_or_default();
            let realm = self.realm(inner, realm).await?;
            let service = bearer.param("service").map(ToOwned::to_owned);
            let insufficient = bearer.param("error") == Some("insufficient_scope");
            if detail.is_empty() {
                detail = bearer.param("error").unwrap_or_default().to_owned();
            }
            self.host.auth.set_mode(Mode::Bearer { realm: realm.clone(), service: service.clone() });
            if matches!(sent.used, Used::Token { .. }) {
                // Expired, revoked, or not enough: never use it again.
                self.host.auth.forget(&self.key, sent).await;
                if self.fresh && (self.merged || !insufficient) {
                    return Err(SendError::fatal(self.refused(sent, detail)));
                }
                self.merged |= insufficient;
            }
            self.fresh = true;
            if let Some(scope) = bearer.param("scope") {
                self.scopes.merge(scope);
            }
            return self.proof(inner).await;
        }
        if find("basic").is_some() {
            self.host.auth.set_mode(Mode::Basic);
            let credential = self.credential(inner).await;
            return match (credential, &sent.used) {
                (Some(now), Used::Basic(before)) if now == *before || self.fresh => {
                    Err(SendError::fatal(self.refused(sent, detail)))
                }
                (Some(now), used) => {
                    self.fresh = matches!(used, Used::Basic(_));
                    Ok(self.basic(now))
                }
                (None, _) => Err(SendError::fatal(self.refused(sent, detail))),
            };
        }
        Err(SendError::fatal(self.refused(sent, detail)))
    }

    fn refused(&self, sent: &Proof, detail: String) -> Fault {
        match &sent.used {
            Used::Basic(credential) => Fault::BadCredentials {
                host: self.host.name.clone(),
                username: credential.username().map(ToOwned::to_owned),
                detail,
            },
            Used::Token { anonymous: false } => self.denied(false, detail),
            _ => self.denied(true, detail),
        }
    }

    fn denied(&self, anonymous: bool, detail: String) -> Fault {
        Fault::Denied {
            action: self.action,
            host: self.host.name.clone(),
            anonymous,
            lookup: self.lookup.clone(),
            detail,
        }
    }

    /// Asks the provider. A failure is told and counts as "none": public images must stay reachable (SPEC E3.03).
    async fn credential(&mut self, inner: &Inner) -> Option<Credential> {
        let repository = Some(self.repository).filter(|r| !r.is_empty());
        let wanted = Wanted { host: &self.host.name, repository, actions: self.scopes.only_actions() };
        match inner.options.credentials.credential(&wanted).await {
            Ok(found) => found,
            Err(cause) => {
                inner.options.events.notice(
                    "registry-credentials",
                    format!("going on without credentials for {}: {cause}", self.host.name),
                );
                self.lookup = Some(cause);
                None
            }
        }
    }

    fn basic(&self, credential: Credential) -> Proof {
        let text = match &credential {
            Credential::Basic { username, password } => format!("{username}:{password}"),
            Credential::IdentityToken(token) | Credential::RegistryToken(token) => format!("<token>:{token}"),
        };
        let mut basic = self.host.auth.basic.lock().unwrap_or_else(PoisonError::into_inner);
        basic.insert(self.repository.to_owned(), credential.clone());
        Proof { header: Some(basic_header(&text)), used: Used::Basic(credential) }
    }

    async fn realm(&self, inner: &Inner, text: &str) -> Result<Url, SendError> {
        let base = self.host.base(&inner.transport).await?;
        let invalid = |reason: String| SendError::fatal(Fault::Invalid { url: host::show(&base), reason });
        let realm = Url::parse(text).map_err(|e| invalid(format!("token server \"{text}\" is not a URL: {e}")))?;
        if !matches!(realm.scheme(), "http" | "https") {
            return Err(invalid(format!("token server \"{text}\" is not an http URL")));
        }
        // A registry spoken to over TLS must not talk us into sending a password in the clear.
        if base.scheme() == "https" && realm.scheme() == "http" && !host::is_loopback(&host::authority(&realm)) {
            return Err(invalid(format!("it wants credentials sent to {} without TLS", host::show(&realm))));
        }
        if host::is_link_local(&realm) && !host::is_link_local(&base) {
            return Err(invalid(format!("its token server is the link-local address {}", host::authority(&realm))));
        }
        Ok(realm)
    }

    /// A token for the scopes: the cached one, or a new one. Those who want the same wait for each other.
    async fn token(&mut self, inner: &Inner, realm: &Url, service: Option<&str>) -> Result<Token, SendError> {
        let since = Instant::now();
        let slot = self.host.auth.slot(&self.key);
        let mut slot = slot.lock().await;
        if let Some(token) = slot.token.as_ref().filter(|t| t.expires > Instant::now()) {
            return Ok(token.clone());
        }
        if let Some((fault, _)) = slot.failed.as_ref().filter(|(_, at)| *at >= since) {
            return Err(SendError::fatal(fault.clone()));
        }
        self.fresh = true;
        match self.fetch(inner, realm, service).await {
            Ok(token) => {
                *slot = Slot { token: Some(token.clone()), failed: None };
                Ok(token)
            }
            Err(error) => {
                *slot = Slot { token: None, failed: Some((error.fault.clone(), Instant::now())) };
                Err(error)
            }
        }
    }

    async fn fetch(&mut self, inner: &Inner, realm: &Url, service: Option<&str>) -> Result<Token, SendError> {
        let credential = self.credential(inner).await;
        if let Some(Credential::RegistryToken(token)) = &credential {
            // Nothing to exchange; if it is refused, asking again will not help.
            return Ok(Token {
                header: bearer_header(token),
                expires: Instant::now() + Duration::from_secs(3600),
                anonymous: false,
            });
        }
        if let Some(credential) = &credential
            && (!self.host.auth.no_post.load(Ordering::Relaxed) || matches!(credential, Credential::IdentityToken(_)))
        {
            let (status, body) = self.ask(inner, self.post(realm, service, credential)).await?;
            match status {
                200..=299 => return self.answer(realm, &body, Some(credential)),
                // SPEC E3.02 names 401, 404 and 405; any refusal of the form deserves the older way.
                _ if credential.username().is_some() => {}
                _ => return Err(SendError::fatal(self.token_refused(realm, status, &body, Some(credential)))),
            }
        }
        let (status, body) = self.ask(inner, self.get(realm, service, credential.as_ref())).await?;
        if !(200..=299).contains(&status) {
            return Err(SendError::fatal(self.token_refused(realm, status, &body, credential.as_ref())));
        }
        let token = self.answer(realm, &body, credential.as_ref())?;
        self.host.auth.no_post.store(credential.is_some(), Ordering::Relaxed);
        Ok(token)
    }

    fn post(&self, realm: &Url, service: Option<&str>, credential: &Credential) -> Wire {
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        form.append_pair("client_id", "rbuild");
        form.append_pair("service", service.unwrap_or_default());
        if !self.scopes.list().is_empty() {
            form.append_pair("scope", &self.scopes.text());
        }
        match credential {
            Credential::Basic { username, password } => {
                form.append_pair("grant_type", "password");
                form.append_pair("username", username);
                form.append_pair("password", password);
            }
            Credential::IdentityToken(token) | Credential::RegistryToken(token) => {
                form.append_pair("grant_type", "refresh_token");
                form.append_pair("refresh_token", token);
            }
        }
        let mut wire = Wire::new(Method::POST, realm.clone());
        wire.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        wire.payload = Payload::Bytes(form.finish().into());
        wire
    }

    fn get(&self, realm: &Url, service: Option<&str>, credential: Option<&Credential>) -> Wire {
        let mut url = realm.clone();
        {
            let mut query = url.query_pairs_mut();
            if let Some(service) = service {
                query.append_pair("service", service);
            }
            for scope in self.scopes.list() {
                query.append_pair("scope", &scope);
            }
            if let Some(username) = credential.and_then(Credential::username) {
                query.append_pair("account", username);
            }
        }
        let mut wire = Wire::new(Method::GET, url);
        if let Some(Credential::Basic { username, password }) = credential {
            wire.headers.insert(AUTHORIZATION, basic_header(&format!("{username}:{password}")));
        }
        wire
    }

    /// Sends a token request; server faults are tried again, everything else comes back.
    async fn ask(&self, inner: &Inner, wire: Wire) -> Result<(u16, Vec<u8>), SendError> {
        let mut backoff = Backoff::new(inner, self.host);
        loop {
            let outcome = async {
                let (response, _) = inner.exchange(self.host, &wire).await?;
                let answer = Answer::new(response, wire.url.clone());
                let status = answer.status().as_u16();
                if let Some(error) = answer.transient(self.host) {
                    return Err(error);
                }
                Ok((status, answer.read(1 << 20, inner.options.timeouts.stall).await?.to_vec()))
            };
            match outcome.await {
                Ok(answer) => return Ok(answer),
                Err(error) => backoff.again(error).await.map_err(SendError::fatal)?,
            }
        }
    }

    fn token_refused(&self, realm: &Url, status: u16, body: &[u8], credential: Option<&Credential>) -> Fault {
        let detail = error_message(body);
        match (status, credential) {
            (400 | 401, Some(credential)) => Fault::BadCredentials {
                host: self.host.name.clone(),
                username: credential.username().map(ToOwned::to_owned),
                detail,
            },
            (401 | 403, credential) => self.denied(credential.is_none(), detail),
            _ => Fault::status("token", realm, status, detail),
        }
    }

    fn answer(&self, realm: &Url, body: &[u8], credential: Option<&Credential>) -> Result<Token, SendError> {
        let reason = |reason: &str| SendError::fatal(Fault::Invalid { url: host::show(realm), reason: reason.into() });
        let answers::TokenAnswer { token, life } = answers::token(body).map_err(reason)?;
        // A little less, for the time a request is on its way. Lives are counted from now on our own clock, so a
        // skewed clock on either side does no harm.
        let margin = (life / 10).min(Duration::from_secs(10));
        Ok(Token {
            header: bearer_header(&token),
            expires: Instant::now() + (life - margin),
            anonymous: credential.is_none(),
        })
    }
}

impl HostAuth {
    fn mode(&self) -> Mode {
        self.mode.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_mode(&self, mode: Mode) {
        *self.mode.lock().unwrap_or_else(PoisonError::into_inner) = mode;
    }

    fn slot(&self, key: &str) -> Arc<tokio::sync::Mutex<Slot>> {
        Arc::clone(self.tokens.lock().unwrap_or_else(PoisonError::into_inner).entry(key.to_owned()).or_default())
    }

    /// Drops the token `sent` used, unless somebody already replaced it.
    async fn forget(&self, key: &str, sent: &Proof) {
        let slot = self.slot(key);
        let mut slot = slot.lock().await;
        if slot.token.as_ref().map(|t| &t.header) == sent.header.as_ref() {
            *slot = Slot::default();
        }
    }
}

fn basic_header(text: &str) -> HeaderValue {
    secret(&format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(text)))
}

fn bearer_header(token: &str) -> HeaderValue {
    secret(&format!("Bearer {token}"))
}

/// A header that debug output does not show. Tokens with control characters become useless, not an injection.
fn secret(text: &str) -> HeaderValue {
    let mut value = HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static("Bearer"));
    value.set_sensitive(true);
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_cannot_inject_headers() {
        assert_eq!(bearer_header("a\r\nX: y"), "Bearer");
        assert!(bearer_header("abc").is_sensitive());
    }
}
