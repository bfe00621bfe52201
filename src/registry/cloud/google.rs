//! Artifact Registry and Container Registry: access tokens of a Google identity, by application default credentials.

use std::time::Duration;

use base64::Engine as _;
use serde::Deserialize;

use super::{Ask, CloudKeychain, METADATA_PATIENCE, PATIENCE, REUSE};
use crate::registry::Credential;

const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";
const TOKEN_SERVER: &str = "https://oauth2.googleapis.com/token";

/// The JSON files of Google's tools.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Key {
    ServiceAccount {
        client_email: String,
        private_key: String,
        #[serde(default)]
        private_key_id: String,
        token_uri: Option<String>,
    },
    AuthorizedUser {
        client_id: String,
        client_secret: String,
        refresh_token: String,
        token_uri: Option<String>,
    },
    ExternalAccount {
        audience: String,
        subject_token_type: String,
        token_url: String,
        credential_source: Source,
        service_account_impersonation_url: Option<String>,
    },
    ImpersonatedServiceAccount {
        service_account_impersonation_url: String,
        source_credentials: Box<Key>,
    },
}

/// Where the token of another identity provider is.
#[derive(Deserialize)]
struct Source {
    file: Option<String>,
    url: Option<String>,
    #[serde(default)]
    headers: std::collections::BTreeMap<String, String>,
    format: Option<Format>,
}

#[derive(Deserialize)]
struct Format {
    subject_token_field_name: Option<String>,
}

#[derive(Deserialize)]
struct Token {
    access_token: String,
    #[serde(default)]
    expires_in: u64,
}

impl CloudKeychain {
    pub(super) async fn google(&self) -> Result<(Option<Credential>, Duration), String> {
        let env = &self.environment;
        if let Some(token) = env.get("CLOUDSDK_AUTH_ACCESS_TOKEN") {
            return Ok(login(token.to_owned(), 0));
        }
        let default = env.home.as_ref().map(|h| h.join(".config/gcloud/application_default_credentials.json"));
        let text = match env.file("GOOGLE_APPLICATION_CREDENTIALS")? {
            Some(text) => Some(text),
            None => default.and_then(|path| std::fs::read_to_string(path).ok()),
        };
        if let Some(text) = text {
            let key: Key = serde_json::from_str(&text)
                .map_err(|_| "the application default credentials are not the expected JSON".to_owned())?;
            let token = self.of_key(key).await?;
            return Ok(login(token.access_token, token.expires_in));
        }
        let host = env.get("GCE_METADATA_HOST").unwrap_or("metadata.google.internal");
        let url = format!("http://{host}/computeMetadata/v1/instance/service-accounts/default/token");
        let call = Ask::get(&url)?.header("metadata-flavor", "Google");
        // No answer: no cloud.
        match self.json::<Token>(call, METADATA_PATIENCE).await {
            Ok(token) => Ok(login(token.access_token, token.expires_in)),
            Err(_) => Ok((None, REUSE)),
        }
    }

    async fn of_key(&self, key: Key) -> Result<Token, String> {
        match key {
            Key::ServiceAccount { client_email, private_key, private_key_id, token_uri } => {
                let server = token_uri.unwrap_or_else(|| TOKEN_SERVER.into());
                let now = jiff::Timestamp::now().as_second();
                let assertion = sign(&client_email, &private_key, &private_key_id, &server, now)?;
                let fields =
                    [("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"), ("assertion", assertion.as_str())];
                self.json(Ask::form(&server, &fields)?, PATIENCE).await
            }
            Key::AuthorizedUser { client_id, client_secret, refresh_token, token_uri } => {
                let fields = [
                    ("grant_type", "refresh_token"),
                    ("client_id", client_id.as_str()),
                    ("client_secret", client_secret.as_str()),
                    ("refresh_token", refresh_token.as_str()),
                ];
                self.json(Ask::form(&token_uri.unwrap_or_else(|| TOKEN_SERVER.into()), &fields)?, PATIENCE).await
            }
            Key::ExternalAccount {
                audience,
                subject_token_type,
                token_url,
                credential_source,
                service_account_impersonation_url,
            } => {
                let subject = self.subject_token(&credential_source).await?;
                let fields = [
                    ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
                    ("requested_token_type", "urn:ietf:params:oauth:token-type:access_token"),
                    ("audience", audience.as_str()),
                    ("scope", SCOPE),
                    ("subject_token_type", subject_token_type.as_str()),
                    ("subject_token", subject.as_str()),
                ];
                let token: Token = self.json(Ask::form(&token_url, &fields)?, PATIENCE).await?;
                match service_account_impersonation_url {
                    None => Ok(token),
                    Some(url) => self.impersonate(&url, &token.access_token).await,
                }
            }
            Key::ImpersonatedServiceAccount { service_account_impersonation_url, source_credentials } => {
                let token = Box::pin(self.of_key(*source_credentials)).await?;
                self.impersonate(&service_account_impersonation_url, &token.access_token).await
            }
        }
    }

    async fn impersonate(&self, url: &str, token: &str) -> Result<Token, String> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Answer {
            access_token: String,
        }
        let body = serde_json::json!({ "scope": [SCOPE] }).to_string().into_bytes();
        let call = Ask::post(url, body)?
            .header("content-type", "application/json")
            .header("authorization", &format!("Bearer {token}"));
        let answer: Answer = self.json(call, PATIENCE).await?;
        Ok(Token { access_token: answer.access_token, expires_in: 0 })
    }

    async fn subject_token(&self, source: &Source) -> Result<String, String> {
        let text = match (&source.file, &source.url) {
            (Some(file), _) => std::fs::read_to_string(file).map_err(|e| format!("cannot read {file}: {e}"))?,
            (None, Some(url)) => {
                let mut call = Ask::get(url)?;
                for (name, value) in &source.headers {
                    let name = reqwest::header::HeaderName::from_bytes(name.as_bytes());
                    if let (Ok(name), Ok(value)) = (name, reqwest::header::HeaderValue::from_str(value)) {
                        call.headers.insert(name, value);
                    }
                }
                self.text(call, PATIENCE).await?
            }
            (None, None) => return Err("the external account names neither a file nor a URL".into()),
        };
        let field = source.format.as_ref().and_then(|f| f.subject_token_field_name.as_deref());
        match field {
            None => Ok(text.trim().to_owned()),
            Some(field) => {
                let value: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
                value[field]
                    .as_str()
                    .map(ToOwned::to_owned)
                    .ok_or_else(|| format!("the subject token has no field {field}"))
            }
        }
    }
}

fn login(token: String, life: u64) -> (Option<Credential>, Duration) {
    let life = if life == 0 { REUSE } else { Duration::from_secs(life.saturating_sub(60)) };
    (Some(Credential::Basic { username: "oauth2accesstoken".into(), password: token }), life)
}

/// A JSON web token, signed with the account's key (RFC 7523).
fn sign(email: &str, key: &str, key_id: &str, server: &str, now: i64) -> Result<String, String> {
    use rustls::pki_types::PrivatePkcs8KeyDer;
    use rustls::pki_types::pem::PemObject;
    let encode = |text: &[u8]| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text);
    let bad = || "the private key of the service account cannot be used".to_owned();
    let der = PrivatePkcs8KeyDer::from_pem_slice(key.as_bytes()).map_err(|_| bad())?;
    let pair = ring::signature::RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()).map_err(|_| bad())?;
    let head = serde_json::json!({"alg": "RS256", "typ": "JWT", "kid": key_id}).to_string();
    let claims = serde_json::json!({
        "iss": email, "scope": SCOPE, "aud": server, "iat": now, "exp": now + 3600,
    });
    let text = format!("{}.{}", encode(head.as_bytes()), encode(claims.to_string().as_bytes()));
    let mut signature = vec![0; pair.public().modulus_len()];
    let random = ring::rand::SystemRandom::new();
    pair.sign(&ring::signature::RSA_PKCS1_SHA256, &random, text.as_bytes(), &mut signature).map_err(|_| bad())?;
    Ok(format!("{text}.{}", encode(&signature)))
}
