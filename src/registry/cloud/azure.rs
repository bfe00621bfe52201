//! ACR: a token of Microsoft's directory is exchanged for a refresh token of the registry.

use std::time::Duration;

use serde::Deserialize;

use super::{Ask, CloudKeychain, METADATA_PATIENCE, PATIENCE, REUSE};
use crate::registry::Credential;
use crate::registry::host::is_loopback;

/// Who gives tokens, and whom they are for, in the cloud that a registry is in.
fn cloud(host: &str) -> (&'static str, &'static str) {
    match host.rsplit('.').next() {
        Some("cn") => ("https://login.chinacloudapi.cn", "https://management.chinacloudapi.cn/"),
        Some("us") => ("https://login.microsoftonline.us", "https://management.usgovcloudapi.net/"),
        _ => ("https://login.microsoftonline.com", "https://management.azure.com/"),
    }
}

const METADATA: &str = "http://169.254.169.254";

#[derive(Deserialize)]
struct Token {
    access_token: String,
}

impl CloudKeychain {
    pub(super) async fn acr(&self, host: &str) -> Result<(Option<Credential>, Duration), String> {
        let Some(token) = self.directory_token(host).await? else { return Ok((None, REUSE)) };
        #[derive(Deserialize)]
        struct Answer {
            refresh_token: String,
        }
        let mut fields = vec![("grant_type", "access_token"), ("service", host), ("access_token", token.as_str())];
        if let Some(tenant) = self.environment.get("AZURE_TENANT_ID") {
            fields.push(("tenant", tenant));
        }
        let scheme = if is_loopback(host) { "http" } else { "https" };
        let call = Ask::form(&format!("{scheme}://{host}/oauth2/exchange"), &fields)?;
        let answer: Answer = self.json(call, PATIENCE).await?;
        Ok((Some(Credential::IdentityToken(answer.refresh_token)), REUSE))
    }

    /// In the order of Microsoft's libraries: a secret, a federated token, a service's endpoint, the machine.
    pub(super) async fn directory_token(&self, host: &str) -> Result<Option<String>, String> {
        let env = &self.environment;
        let (authority, resource) = cloud(host);
        let authority = env.get("AZURE_AUTHORITY_HOST").unwrap_or(authority);
        let scope = format!("{resource}.default");
        if let (Some(tenant), Some(client)) = (env.get("AZURE_TENANT_ID"), env.get("AZURE_CLIENT_ID")) {
            let url = format!("{}/{tenant}/oauth2/v2.0/token", authority.trim_end_matches('/'));
            let mut fields =
                vec![("grant_type", "client_credentials"), ("client_id", client), ("scope", scope.as_str())];
            if let Some(secret) = env.get("AZURE_CLIENT_SECRET") {
                fields.push(("client_secret", secret));
                return self.token(Ask::form(&url, &fields)?).await.map(Some);
            }
            if let Some(assertion) = env.file("AZURE_FEDERATED_TOKEN_FILE")? {
                fields.push(("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"));
                fields.push(("client_assertion", assertion.trim()));
                return self.token(Ask::form(&url, &fields)?).await.map(Some);
            }
        }
        let client = env.get("AZURE_CLIENT_ID").map_or_else(String::new, |id| format!("&client_id={id}"));
        if let (Some(endpoint), Some(header)) = (env.get("IDENTITY_ENDPOINT"), env.get("IDENTITY_HEADER")) {
            let url = format!("{endpoint}?api-version=2019-08-01&resource={resource}{client}");
            return self.token(Ask::get(&url)?.header("x-identity-header", header)).await.map(Some);
        }
        let base = env.get("AZURE_POD_IDENTITY_AUTHORITY_HOST").unwrap_or(METADATA).trim_end_matches('/');
        let url = format!("{base}/metadata/identity/oauth2/token?api-version=2018-02-01&resource={resource}{client}");
        // No answer: no cloud.
        let answer = self.json::<Token>(Ask::get(&url)?.header("metadata", "true"), METADATA_PATIENCE).await;
        Ok(answer.ok().map(|token| token.access_token))
    }

    async fn token(&self, call: Ask) -> Result<String, String> {
        self.json::<Token>(call, PATIENCE).await.map(|token| token.access_token)
    }
}
