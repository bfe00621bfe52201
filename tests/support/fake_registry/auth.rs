//! Who may do what, and the token server.

use std::time::{Duration, Instant};

use super::State;
use super::http::{Answer, Request, get};

/// The registry's policy.
#[derive(Debug, Clone, Default)]
pub(crate) enum Auth {
    /// Everybody may do everything.
    #[default]
    Open,
    /// One account; no anonymous access.
    Basic { user: &'static str, password: &'static str },
    /// Tokens from `/token` on this server.
    Token(Tokens),
}

/// A token server's policy.
#[derive(Debug, Clone)]
pub(crate) struct Tokens {
    pub(crate) user: &'static str,
    pub(crate) password: &'static str,
    /// Accepted as a refresh token.
    pub(crate) identity: &'static str,
    /// Seconds; 0 leaves `expires_in` out of the answer.
    pub(crate) life: u64,
    /// Tokens without an account may pull.
    pub(crate) anonymous_pull: bool,
    /// What the OAuth2 form of the request is answered with, 200 for a token.
    pub(crate) post_status: u16,
    /// Repositories the account may not push to.
    pub(crate) read_only: Vec<&'static str>,
    /// How often the first token of a scope set is given out without its actions.
    pub(crate) stingy: usize,
}

impl Default for Tokens {
    fn default() -> Self {
        Self {
            user: "user",
            password: "secret",
            identity: "identity",
            life: 300,
            anonymous_pull: true,
            post_status: 200,
            read_only: Vec::new(),
            stingy: 0,
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Issued {
    token: String,
    /// `repository:action`.
    grants: Vec<String>,
    until: Instant,
}

impl State {
    /// The refusal of a request, if it is refused.
    pub(super) fn refusal(&mut self, request: &Request, repository: &str, action: &str) -> Option<Answer> {
        let sent = request.header("authorization").unwrap_or_default();
        match &self.auth {
            Auth::Open => None,
            Auth::Basic { user, password } => {
                if sent == basic(user, password) {
                    return None;
                }
                Some(unauthorized("Basic realm=\"fake, registry\""))
            }
            Auth::Token(_) => {
                let wanted = format!("{repository}:{action}");
                let token = sent.strip_prefix("Bearer ").unwrap_or_default();
                let known = self.tokens.iter().find(|t| t.token == token && t.until > Instant::now());
                if known.is_some_and(|t| t.grants.contains(&wanted)) {
                    return None;
                }
                let actions = if action == "push" { "pull,push" } else { "pull" };
                let error = match (known, sent) {
                    (Some(_), _) => ",error=\"insufficient_scope\"",
                    (None, "") => "",
                    (None, _) => ",error=\"invalid_token\"",
                };
                let realm = format!("{}://{}/token", self.scheme, self.address);
                Some(unauthorized(&format!(
                    "Bearer realm=\"{realm}\",service=\"fake\",scope=\"repository:{repository}:{actions}\"{error}"
                )))
            }
        }
    }

    /// `/token`.
    pub(super) fn token(&mut self, request: &Request) -> Answer {
        let Auth::Token(policy) = self.auth.clone() else { return Answer::new(404) };
        let post = request.method == "POST";
        if post && policy.post_status != 200 {
            return Answer::error(policy.post_status, "UNSUPPORTED", "no form here");
        }
        let fields = if post { request.form() } else { request.query() };
        if get(&fields, "service") != Some("fake") {
            return Answer::error(400, "BAD", "missing service");
        }
        let account = match (post, request.header("authorization")) {
            (true, _) => match get(&fields, "grant_type") {
                Some("password") => {
                    get(&fields, "username") == Some(policy.user) && get(&fields, "password") == Some(policy.password)
                }
                Some("refresh_token") => get(&fields, "refresh_token") == Some(policy.identity),
                _ => false,
            },
            (false, Some(sent)) => sent == basic(policy.user, policy.password),
            (false, None) => {
                if !policy.anonymous_pull {
                    return Answer::error(401, "UNAUTHORIZED", "log in first");
                }
                return self.issue(&policy, &fields, false);
            }
        };
        if !account {
            return Answer::new(401)
                .with_body("application/json", br#"{"details":"incorrect username or password"}"#.to_vec());
        }
        self.issue(&policy, &fields, true)
    }

    fn issue(&mut self, policy: &Tokens, fields: &[(String, String)], account: bool) -> Answer {
        let mut grants = Vec::new();
        for (_, scope) in fields.iter().filter(|(k, _)| k == "scope") {
            for scope in scope.split(' ') {
                let parts: Vec<&str> = scope.splitn(3, ':').collect();
                let [_, repository, actions] = parts.as_slice() else { continue };
                for action in actions.split(',') {
                    let allowed = match action {
                        "pull" => account || policy.anonymous_pull,
                        _ => account && !policy.read_only.contains(repository),
                    };
                    if allowed {
                        grants.push(format!("{repository}:{action}"));
                    }
                }
            }
        }
        if let Auth::Token(policy) = &mut self.auth
            && policy.stingy > 0
        {
            policy.stingy -= 1;
            grants.retain(|grant| !grant.ends_with(":push"));
        }
        self.counter += 1;
        let token = format!("token-{}", self.counter);
        let life = Duration::from_secs(if policy.life == 0 { 60 } else { policy.life });
        self.tokens.push(Issued { token: token.clone(), grants, until: Instant::now() + life });
        // The two spellings in turn.
        let key = if self.counter.is_multiple_of(2) { "access_token" } else { "token" };
        let life = if policy.life == 0 { String::new() } else { format!(r#","expires_in":{}"#, policy.life) };
        let body = format!(r#"{{"{key}":"{token}"{life}}}"#);
        Answer::new(200).with_body("application/json", body.into_bytes())
    }
}

fn unauthorized(challenge: &str) -> Answer {
    Answer::error(401, "UNAUTHORIZED", "authentication required").with("WWW-Authenticate", challenge)
}

fn basic(user: &str, password: &str) -> String {
    use base64::Engine as _;
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}")))
}
