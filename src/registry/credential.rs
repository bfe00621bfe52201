//! What proves who we are, and the trait through which it is asked for.

use std::fmt;

/// One way to prove who we are to a registry.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// User name and password (or access token used as one).
    Basic {
        /// The user.
        username: String,
        /// The secret.
        password: String,
    },
    /// An OAuth2 refresh token (SPEC E1.06): exchanged for short-lived tokens.
    IdentityToken(String),
    /// Sent as it is, without an exchange (SPEC E1.07).
    RegistryToken(String),
}

impl Credential {
    /// The user name, where there is one.
    #[must_use]
    pub fn username(&self) -> Option<&str> {
        match self {
            Self::Basic { username, .. } => Some(username),
            _ => None,
        }
    }
}

/// Never shows a secret: credentials end up in error chains and traces sooner or later.
impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Basic { username, .. } => write!(f, "Basic({username}, …)"),
            Self::IdentityToken(_) => f.write_str("IdentityToken(…)"),
            Self::RegistryToken(_) => f.write_str("RegistryToken(…)"),
        }
    }
}

/// For what a credential is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted<'a> {
    /// A name as in image references, `docker.io` for Docker Hub.
    pub host: &'a str,
    /// Repository on the host.
    pub repository: Option<&'a str>,
    /// `pull`, `push`; empty if several repositories are concerned.
    pub actions: Vec<String>,
}

/// Where credentials come from: in a build the broker, which runs as the real user.
#[async_trait::async_trait]
pub trait CredentialProvider: Send + Sync {
    /// The credential for what is `wanted`. `None` is anonymous access.
    ///
    /// # Errors
    /// One line; the client reports it and goes on anonymously (SPEC E3.03).
    async fn credential(&self, wanted: &Wanted<'_>) -> Result<Option<Credential>, String>;
}

/// No credentials for anybody.
#[derive(Debug, Clone, Copy, Default)]
pub struct Anonymous;

#[async_trait::async_trait]
impl CredentialProvider for Anonymous {
    async fn credential(&self, _wanted: &Wanted<'_>) -> Result<Option<Credential>, String> {
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_printed() {
        let all = [
            Credential::Basic { username: "u".into(), password: "hunter2".into() },
            Credential::IdentityToken("hunter2".into()),
            Credential::RegistryToken("hunter2".into()),
        ];
        assert!(!format!("{all:?}").contains("hunter2"));
    }
}
