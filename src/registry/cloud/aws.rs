//! ECR: temporary passwords for an AWS identity, found as Amazon's tools find it.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use serde::Deserialize;

use super::sigv4::{Keys, Signed};
use super::{Ask, CloudEnvironment, CloudKeychain, METADATA_PATIENCE, PATIENCE, REUSE};
use crate::registry::Credential;

/// Where the metadata service of a machine is.
const METADATA: &str = "http://169.254.169.254";
/// Where that of a container is.
const CONTAINER: &str = "http://169.254.170.2";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Session {
    access_key_id: String,
    secret_access_key: String,
    #[serde(default)]
    token: Option<String>,
}

impl From<Session> for Keys {
    fn from(s: Session) -> Self {
        Self { id: s.access_key_id, secret: s.secret_access_key, session: s.token }
    }
}

impl CloudEnvironment {
    /// What Amazon's variables would say if they said what `~/.aws/credentials` does: keys, under the names of variables. Nothing
    /// where variables have keys, or an identity to get some for.
    ///
    /// # Errors
    /// When the file cannot be read, or has no keys for the profile that `AWS_PROFILE` names.
    pub fn aws_profile(&self) -> Result<BTreeMap<&'static str, String>, String> {
        if self.get("AWS_ACCESS_KEY_ID").is_some() || self.get("AWS_WEB_IDENTITY_TOKEN_FILE").is_some() {
            return Ok(BTreeMap::new());
        }
        let Some(keys) = self.shared_aws_keys()? else {
            return match self.get("AWS_PROFILE") {
                None => Ok(BTreeMap::new()),
                Some(profile) => Err(format!(
                    "no keys for AWS_PROFILE={profile} in the shared credentials file; for SSO and roles run `eval \"$(aws configure \
                     export-credentials --format env)\"` before"
                )),
            };
        };
        let known = [("AWS_ACCESS_KEY_ID", Some(keys.id)), ("AWS_SECRET_ACCESS_KEY", Some(keys.secret))];
        let all = known.into_iter().chain([("AWS_SESSION_TOKEN", keys.session)]);
        Ok(all.filter_map(|(name, value)| Some((name, value?))).collect())
    }

    /// `~/.aws/credentials`.
    fn shared_aws_keys(&self) -> Result<Option<Keys>, String> {
        let named = self.get("AWS_SHARED_CREDENTIALS_FILE").map(std::path::PathBuf::from);
        let Some(path) = named.or_else(|| Some(self.home.as_ref()?.join(".aws/credentials"))) else { return Ok(None) };
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(format!("cannot read {}: {e}", path.display())),
        };
        let profile = self.get("AWS_PROFILE").unwrap_or("default");
        Ok(read_profile(&text, profile))
    }
}

impl CloudKeychain {
    pub(super) async fn ecr(
        &self,
        region: Option<&str>,
        suffix: &str,
    ) -> Result<(Option<Credential>, Duration), String> {
        // Public images need no account.
        let Some(keys) = self.aws_keys(region, suffix).await? else { return Ok((None, REUSE)) };
        let (region, service, target, default) = match region {
            Some(region) => (
                region,
                "ecr",
                "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken",
                format!("https://api.ecr.{region}.{suffix}"),
            ),
            None => (
                "us-east-1",
                "ecr-public",
                "SpencerFrontendService.GetAuthorizationToken",
                "https://api.ecr-public.us-east-1.amazonaws.com".to_owned(),
            ),
        };
        let own = if service == "ecr" { "AWS_ENDPOINT_URL_ECR" } else { "AWS_ENDPOINT_URL_ECR_PUBLIC" };
        let base = self.aws_endpoint(own).unwrap_or(default);
        let body = b"{}".to_vec();
        let kind = "application/x-amz-json-1.1";
        let mut call = Ask::post(&format!("{}/", base.trim_end_matches('/')), body.clone())?;
        let time = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
        let host = crate::registry::host::authority(&call.url);
        let signed = Signed {
            host: &host,
            region,
            service,
            time: &time,
            headers: &[("content-type", kind), ("x-amz-target", target)],
            body: &body,
        };
        let authorization = signed.authorization(&keys);
        call = call.header("content-type", kind).header("x-amz-target", target).header("x-amz-date", &time);
        if let Some(session) = &keys.session {
            call = call.header("x-amz-security-token", session);
        }
        let answer: serde_json::Value = self.json(call.header("authorization", &authorization), PATIENCE).await?;
        // One object for public registries, a list for private ones.
        let data = &answer["authorizationData"];
        let data = if data.is_array() { &data[0] } else { data };
        let token = data["authorizationToken"].as_str().unwrap_or_default();
        let text = base64::engine::general_purpose::STANDARD.decode(token).ok().and_then(|t| String::from_utf8(t).ok());
        let pair = text.as_deref().and_then(|t| t.split_once(':'));
        let (username, password) = pair.ok_or("Amazon's answer holds no token")?;
        let credential = Credential::Basic { username: username.to_owned(), password: password.to_owned() };
        Ok((Some(credential), REUSE))
    }

    fn aws_endpoint(&self, own: &str) -> Option<String> {
        self.environment.get(own).or_else(|| self.environment.get("AWS_ENDPOINT_URL")).map(ToOwned::to_owned)
    }

    /// In the order of Amazon's own tools: variables, a web identity, the shared file, a container, the machine.
    async fn aws_keys(&self, region: Option<&str>, suffix: &str) -> Result<Option<Keys>, String> {
        let env = &self.environment;
        if let (Some(id), Some(secret)) = (env.get("AWS_ACCESS_KEY_ID"), env.get("AWS_SECRET_ACCESS_KEY")) {
            let session = env.get("AWS_SESSION_TOKEN").map(ToOwned::to_owned);
            return Ok(Some(Keys { id: id.to_owned(), secret: secret.to_owned(), session }));
        }
        if let (Some(token), Some(role)) = (env.file("AWS_WEB_IDENTITY_TOKEN_FILE")?, env.get("AWS_ROLE_ARN")) {
            return self.web_identity(token.trim(), role, region, suffix).await.map(Some);
        }
        if let Some(keys) = env.shared_aws_keys()? {
            return Ok(Some(keys));
        }
        let container =
            match (env.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"), env.get("AWS_CONTAINER_CREDENTIALS_FULL_URI")) {
                (Some(path), _) => Some(format!("{CONTAINER}{path}")),
                (None, full) => full.map(ToOwned::to_owned),
            };
        if let Some(url) = container {
            let token = match env.file("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")? {
                Some(token) => Some(token),
                None => env.get("AWS_CONTAINER_AUTHORIZATION_TOKEN").map(ToOwned::to_owned),
            };
            let mut call = Ask::get(&url)?;
            if let Some(token) = token {
                call = call.header("authorization", &token);
            }
            return self.json::<Session>(call, PATIENCE).await.map(|s| Some(s.into()));
        }
        self.machine().await
    }

    /// A token of a pod or pipeline for a role.
    async fn web_identity(&self, token: &str, role: &str, region: Option<&str>, suffix: &str) -> Result<Keys, String> {
        let env = &self.environment;
        let region = env.get("AWS_REGION").or_else(|| env.get("AWS_DEFAULT_REGION")).or(region);
        let default = match region {
            Some(region) => format!("https://sts.{region}.{suffix}"),
            None => "https://sts.amazonaws.com".to_owned(),
        };
        let base = self.aws_endpoint("AWS_ENDPOINT_URL_STS").unwrap_or(default);
        let fields = [
            ("Action", "AssumeRoleWithWebIdentity"),
            ("Version", "2011-06-15"),
            ("RoleArn", role),
            ("RoleSessionName", env.get("AWS_ROLE_SESSION_NAME").unwrap_or("rbuild")),
            ("WebIdentityToken", token),
        ];
        let answer = self.text(Ask::form(&format!("{}/", base.trim_end_matches('/')), &fields)?, PATIENCE).await?;
        let element = |name: &str| {
            let (_, rest) = answer.split_once(&format!("<{name}>"))?;
            rest.split_once(&format!("</{name}>")).map(|(text, _)| text.trim().to_owned())
        };
        match (element("AccessKeyId"), element("SecretAccessKey"), element("SessionToken")) {
            (Some(id), Some(secret), session) => Ok(Keys { id, secret, session }),
            _ => Err("the token service's answer holds no keys".into()),
        }
    }

    /// The role of the machine, by the metadata service's second version.
    async fn machine(&self) -> Result<Option<Keys>, String> {
        let env = &self.environment;
        if env.get("AWS_EC2_METADATA_DISABLED").is_some_and(|v| v.eq_ignore_ascii_case("true")) {
            return Ok(None);
        }
        let base = env.get("AWS_EC2_METADATA_SERVICE_ENDPOINT").unwrap_or(METADATA).trim_end_matches('/');
        let call = Ask::put(&format!("{base}/latest/api/token"))?.header("x-aws-ec2-metadata-token-ttl-seconds", "300");
        // No answer: no cloud.
        let Ok(token) = self.text(call, METADATA_PATIENCE).await else { return Ok(None) };
        let ask = |path: &str| {
            Ok::<_, String>(
                Ask::get(&format!("{base}/latest/meta-data/iam/security-credentials/{path}"))?
                    .header("x-aws-ec2-metadata-token", &token),
            )
        };
        let Ok(role) = self.text(ask("")?, PATIENCE).await else { return Ok(None) };
        let Some(role) = role.lines().next().map(str::trim).filter(|r| !r.is_empty()) else { return Ok(None) };
        self.json::<Session>(ask(role)?, PATIENCE).await.map(|s| Some(s.into()))
    }
}

/// One section of an ini file.
fn read_profile(text: &str, profile: &str) -> Option<Keys> {
    let (mut inside, mut id, mut secret, mut session) = (false, None, None, None);
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            inside = name.trim() == profile;
        } else if let (true, Some((key, value))) = (inside, line.split_once('=')) {
            let value = Some(value.trim().to_owned());
            match key.trim() {
                "aws_access_key_id" => id = value,
                "aws_secret_access_key" => secret = value,
                "aws_session_token" => session = value,
                _ => {}
            }
        }
    }
    Some(Keys { id: id?, secret: secret?, session })
}
