//! Against stand-ins that check what the clouds' services would check. SPEC E1.14.

use super::super::fake_registry::stub::{Stub, field};
use super::*;
use base64::Engine as _;

fn keychain(variables: &[(&str, &str)]) -> CloudKeychain {
    let variables = variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let environment = CloudEnvironment { variables, ..CloudEnvironment::default() };
    CloudKeychain::new(environment, ClientOptions::default()).expect("a keychain")
}

const ECR: &str = "123456789012.dkr.ecr.eu-west-1.amazonaws.com";

fn ecr_token() -> String {
    let token = base64::engine::general_purpose::STANDARD.encode("AWS:temporary");
    format!(r#"{{"authorizationData":[{{"authorizationToken":"{token}","expiresAt":1}}]}}"#)
}

fn temporary() -> Option<Credential> {
    Some(Credential::Basic { username: "AWS".into(), password: "temporary".into() })
}

#[test]
fn registries_of_clouds_are_known_by_name() {
    let environment = CloudEnvironment::default();
    let of = |host: &str| Cloud::of(host, &environment);
    let region = |r: &str, suffix| Some(Cloud::Ecr { region: Some(r.to_owned()), suffix });
    assert_eq!(of(ECR), region("eu-west-1", "amazonaws.com"));
    assert_eq!(of("1.dkr.ecr-fips.us-gov-west-1.amazonaws.com"), region("us-gov-west-1", "amazonaws.com"));
    assert_eq!(of("1.dkr.ecr.cn-north-1.amazonaws.com.cn"), region("cn-north-1", "amazonaws.com.cn"));
    assert_eq!(of("public.ecr.aws"), Some(Cloud::Ecr { region: None, suffix: "amazonaws.com" }));
    for google in ["gcr.io", "eu.gcr.io", "europe-west1-docker.pkg.dev", "storage.googleapis.com"] {
        assert_eq!(of(google), Some(Cloud::Google), "{google}");
    }
    assert_eq!(of("team.azurecr.io"), Some(Cloud::Acr));
    // What merely looks like one gets no secrets.
    for other in [
        "x.dkr.ecr.eu-west-1.amazonaws.com",
        "1.dkr.ecr.r.amazonaws.com.evil.example",
        "evilgcr.io",
        "azurecr.io",
        "ghcr.io",
        "docker.io",
    ] {
        assert_eq!(of(other), None, "{other}");
    }
}

// SPEC E1.14, D1.49
#[tokio::test]
async fn ecr_with_keys_signs_its_request_and_asks_once() {
    let stub = Stub::start(|_| (200, ecr_token()));
    let keys = [
        ("AWS_ACCESS_KEY_ID", "AKID"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
        ("AWS_SESSION_TOKEN", "session"),
        ("AWS_ENDPOINT_URL_ECR", &stub.url()),
    ];
    let keychain = keychain(&keys);
    assert_eq!(keychain.credential(ECR).await, Ok(temporary()));
    assert_eq!(keychain.credential(ECR).await, Ok(temporary()));
    let requests = stub.requests();
    assert_eq!(requests.len(), 1, "an answer is used again");
    let request = &requests[0];
    assert_eq!((request.method.as_str(), request.target.as_str(), request.body.as_slice()), ("POST", "/", &b"{}"[..]));
    let target = "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken";
    assert_eq!(request.header("x-amz-target"), Some(target));
    assert_eq!(request.header("content-type"), Some("application/x-amz-json-1.1"));
    assert_eq!(request.header("x-amz-security-token"), Some("session"));
    // The signature is the one that the service would compute from what arrived.
    let time = request.header("x-amz-date").expect("dated").to_owned();
    let signed = sigv4::Signed {
        host: request.header("host").expect("a host"),
        region: "eu-west-1",
        service: "ecr",
        time: &time,
        headers: &[("content-type", "application/x-amz-json-1.1"), ("x-amz-target", target)],
        body: &request.body,
    };
    let keys = sigv4::Keys { id: "AKID".into(), secret: "secret".into(), session: Some("session".into()) };
    assert_eq!(request.header("authorization"), Some(signed.authorization(&keys).as_str()));
}

#[tokio::test]
async fn ecr_with_a_pod_s_web_identity() {
    let dir = tempfile::tempdir().expect("a directory");
    let token = dir.path().join("token");
    std::fs::write(&token, "jwt\n").expect("written");
    let stub = Stub::start(|request| {
        if String::from_utf8_lossy(&request.body).contains("AssumeRoleWithWebIdentity") {
            let keys =
                "<AccessKeyId>AK</AccessKeyId><SecretAccessKey>SK</SecretAccessKey><SessionToken>ST</SessionToken>";
            (200, format!("<R><Credentials>{keys}</Credentials></R>"))
        } else {
            (200, ecr_token())
        }
    });
    let keychain = keychain(&[
        ("AWS_WEB_IDENTITY_TOKEN_FILE", &token.display().to_string()),
        ("AWS_ROLE_ARN", "arn:aws:iam::1:role/x"),
        ("AWS_REGION", "eu-west-1"),
        ("AWS_ENDPOINT_URL", &stub.url()),
    ]);
    assert_eq!(keychain.credential(ECR).await, Ok(temporary()));
    let requests = stub.requests();
    let form = String::from_utf8_lossy(&requests[0].body).into_owned();
    assert_eq!(field(&form, "RoleArn").as_deref(), Some("arn:aws:iam::1:role/x"));
    assert_eq!(field(&form, "WebIdentityToken").as_deref(), Some("jwt"));
    assert_eq!(field(&form, "Version").as_deref(), Some("2011-06-15"));
    assert_eq!(requests[1].header("x-amz-security-token"), Some("ST"));
}

#[tokio::test]
async fn ecr_on_a_machine_with_a_role() {
    let stub = Stub::start(|request| match (request.method.as_str(), request.target.as_str()) {
        ("PUT", "/latest/api/token") => (200, "imds".into()),
        ("GET", "/latest/meta-data/iam/security-credentials/") => (200, "builder".into()),
        ("GET", "/latest/meta-data/iam/security-credentials/builder") => {
            (200, r#"{"AccessKeyId":"AK","SecretAccessKey":"SK","Token":"T"}"#.into())
        }
        ("POST", "/") => (200, ecr_token()),
        _ => (404, String::new()),
    });
    let url = stub.url();
    let keychain = keychain(&[("AWS_EC2_METADATA_SERVICE_ENDPOINT", &url), ("AWS_ENDPOINT_URL_ECR", &url)]);
    assert_eq!(keychain.credential(ECR).await, Ok(temporary()));
    let requests = stub.requests();
    assert_eq!(requests[0].header("x-aws-ec2-metadata-token-ttl-seconds"), Some("300"));
    assert!(requests[1..3].iter().all(|r| r.header("x-aws-ec2-metadata-token") == Some("imds")));
}

// In a task of ECS, and in a pod of EKS that has an identity.
#[tokio::test]
async fn ecr_in_a_container_with_credentials_of_its_own() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("token");
    std::fs::write(&file, "from a file").expect("written");
    let stub = Stub::start(|request| match request.target.as_str() {
        "/v1/credentials" => (200, r#"{"AccessKeyId":"AK","SecretAccessKey":"SK","Token":"T"}"#.into()),
        _ => (200, ecr_token()),
    });
    let (url, endpoint) = (format!("{}/v1/credentials", stub.url()), stub.url());
    let file = file.display().to_string();
    let place = ("AWS_CONTAINER_CREDENTIALS_FULL_URI", url.as_str());
    let ecr = ("AWS_ENDPOINT_URL_ECR", endpoint.as_str());
    for (token, wanted) in [
        (("AWS_CONTAINER_AUTHORIZATION_TOKEN", "as it is"), "as it is"),
        (("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", file.as_str()), "from a file"),
    ] {
        assert_eq!(keychain(&[place, ecr, token]).credential(ECR).await, Ok(temporary()));
        let requests = stub.requests();
        let (asked, used) = (&requests[requests.len() - 2], &requests[requests.len() - 1]);
        assert_eq!((asked.method.as_str(), asked.header("authorization")), ("GET", Some(wanted)));
        assert_eq!(used.header("x-amz-security-token"), Some("T"));
        assert!(used.header("authorization").is_some_and(|text| text.contains("Credential=AK/")));
    }
}

#[tokio::test]
async fn ecr_with_a_profile_of_the_shared_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("credentials");
    let text = "[default]\naws_access_key_id = OTHER\naws_secret_access_key = x\n\n[ci]\naws_access_key_id=MINE\naws_secret_access_key=y\n";
    std::fs::write(&file, text).expect("written");
    let stub = Stub::start(|_| (200, r#"{"authorizationData":{"authorizationToken":"QVdTOnRlbXBvcmFyeQ=="}}"#.into()));
    let (file, url) = (file.display().to_string(), stub.url());
    let variables = [("AWS_SHARED_CREDENTIALS_FILE", file.as_str()), ("AWS_PROFILE", "ci"), ("AWS_ENDPOINT_URL", &url)];
    // Amazon's public registry is in one region, and answers in another form.
    assert_eq!(keychain(&variables).credential("public.ecr.aws").await, Ok(temporary()));
    let request = &stub.requests()[0];
    assert_eq!(request.header("x-amz-target"), Some("SpencerFrontendService.GetAuthorizationToken"));
    let scope = request.header("authorization").unwrap_or_default();
    assert!(scope.contains("Credential=MINE/") && scope.contains("/us-east-1/ecr-public/aws4_request"), "{scope}");
}

#[tokio::test]
async fn ecr_with_nothing_to_sign_in_with_is_anonymous() {
    let keychain = keychain(&[("AWS_EC2_METADATA_DISABLED", "true")]);
    assert_eq!(keychain.credential("public.ecr.aws").await, Ok(None));
}

// SPEC E1.14, D1.49
#[tokio::test]
async fn google_by_the_metadata_service() {
    let stub = Stub::start(|_| (200, r#"{"access_token":"ya29","expires_in":3599,"token_type":"Bearer"}"#.into()));
    let keychain = keychain(&[("GCE_METADATA_HOST", &stub.host())]);
    let wanted = Credential::Basic { username: "oauth2accesstoken".into(), password: "ya29".into() };
    assert_eq!(keychain.credential("europe-docker.pkg.dev").await, Ok(Some(wanted)));
    let request = &stub.requests()[0];
    assert_eq!(request.target, "/computeMetadata/v1/instance/service-accounts/default/token");
    assert_eq!(request.header("metadata-flavor"), Some("Google"));
}

// SPEC E1.14, B5.14
#[tokio::test]
async fn google_with_a_service_account_s_key() {
    let stub = Stub::start(|_| (200, r#"{"access_token":"ya29","expires_in":3599}"#.into()));
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("key.json");
    let key = serde_json::json!({
        "type": "service_account", "client_email": "b@p.iam", "private_key_id": "k1", "token_uri": format!("{}/token", stub.url()),
        "private_key": include_str!("../../../tests/support/tls/service-account.key"),
    });
    std::fs::write(&file, key.to_string()).expect("written");
    let keychain = keychain(&[("GOOGLE_APPLICATION_CREDENTIALS", &file.display().to_string())]);
    assert!(keychain.credential("gcr.io").await.is_ok_and(|c| c.is_some()));
    let form = String::from_utf8_lossy(&stub.requests()[0].body).into_owned();
    assert_eq!(field(&form, "grant_type").as_deref(), Some("urn:ietf:params:oauth:grant-type:jwt-bearer"));
    let assertion = field(&form, "assertion").expect("an assertion");
    let parts: Vec<&str> = assertion.split('.').collect();
    let decode = |text: &str| base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text).expect("base64");
    let claims: serde_json::Value = serde_json::from_slice(&decode(parts[1])).expect("JSON");
    assert_eq!((&claims["iss"], &claims["aud"]), (&"b@p.iam".into(), &format!("{}/token", stub.url()).into()));
    // Signed with the key of the file.
    use rustls::pki_types::pem::PemObject as _;
    let der = rustls::pki_types::PrivatePkcs8KeyDer::from_pem_slice(include_bytes!(
        "../../../tests/support/tls/service-account.key"
    ));
    let pair = ring::signature::RsaKeyPair::from_pkcs8(der.expect("a key").secret_pkcs8_der()).expect("a key");
    let public =
        ring::signature::UnparsedPublicKey::new(&ring::signature::RSA_PKCS1_2048_8192_SHA256, pair.public().as_ref());
    let text = format!("{}.{}", parts[0], parts[1]);
    public.verify(text.as_bytes(), &decode(parts[2])).expect("a good signature");
}

#[tokio::test]
async fn google_with_another_provider_s_token() {
    let stub = Stub::start(|request| {
        if request.target.starts_with("/impersonate") {
            (200, r#"{"accessToken":"for-account","expireTime":"2030-01-01T00:00:00Z"}"#.into())
        } else {
            (200, r#"{"access_token":"federated","expires_in":3600}"#.into())
        }
    });
    let dir = tempfile::tempdir().expect("a directory");
    let (file, token) = (dir.path().join("wif.json"), dir.path().join("token"));
    std::fs::write(&token, r#"{"value":"oidc"}"#).expect("written");
    let key = serde_json::json!({
        "type": "external_account", "audience": "//iam/x", "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "token_url": format!("{}/sts", stub.url()), "service_account_impersonation_url": format!("{}/impersonate", stub.url()),
        "credential_source": {"file": token, "format": {"type": "json", "subject_token_field_name": "value"}},
    });
    std::fs::write(&file, key.to_string()).expect("written");
    let keychain = keychain(&[("GOOGLE_APPLICATION_CREDENTIALS", &file.display().to_string())]);
    let found = keychain.credential("gcr.io").await;
    assert_eq!(
        found,
        Ok(Some(Credential::Basic { username: "oauth2accesstoken".into(), password: "for-account".into() }))
    );
    let requests = stub.requests();
    let form = String::from_utf8_lossy(&requests[0].body).into_owned();
    assert_eq!(field(&form, "subject_token").as_deref(), Some("oidc"));
    assert_eq!(field(&form, "audience").as_deref(), Some("//iam/x"));
    assert_eq!(requests[1].header("authorization"), Some("Bearer federated"));
}

// As `gcloud auth application-default login` leaves it, alone and in place of a service account.
#[tokio::test]
async fn google_with_a_user_s_login() {
    let stub = Stub::start(|request| {
        if request.target.starts_with("/impersonate") {
            (200, r#"{"accessToken":"for-account","expireTime":"2030-01-01T00:00:00Z"}"#.into())
        } else {
            (200, r#"{"access_token":"user","expires_in":3600}"#.into())
        }
    });
    let dir = tempfile::tempdir().expect("a directory");
    let home = dir.path().join(".config/gcloud");
    std::fs::create_dir_all(&home).expect("a directory");
    let user = serde_json::json!({
        "type": "authorized_user", "client_id": "id", "client_secret": "s", "refresh_token": "r",
        "token_uri": format!("{}/token", stub.url()),
    });
    let account = serde_json::json!({
        "type": "impersonated_service_account", "source_credentials": user,
        "service_account_impersonation_url": format!("{}/impersonate", stub.url()),
    });
    for (key, wanted) in [(&user, "user"), (&account, "for-account")] {
        std::fs::write(home.join("application_default_credentials.json"), key.to_string()).expect("written");
        let environment = CloudEnvironment { home: Some(dir.path().into()), ..CloudEnvironment::default() };
        let keychain = CloudKeychain::new(environment, ClientOptions::default()).expect("a keychain");
        let found = keychain.credential("europe-docker.pkg.dev").await;
        let login = Credential::Basic { username: "oauth2accesstoken".into(), password: wanted.into() };
        assert_eq!(found, Ok(Some(login)));
    }
    let requests = stub.requests();
    let form = String::from_utf8_lossy(&requests[0].body).into_owned();
    for (name, value) in [("grant_type", "refresh_token"), ("client_id", "id"), ("refresh_token", "r")] {
        assert_eq!(field(&form, name).as_deref(), Some(value), "{form}");
    }
    assert_eq!(requests[2].header("authorization"), Some("Bearer user"));
}

#[tokio::test]
async fn google_with_a_token_that_a_server_of_the_pipeline_gives() {
    let stub = Stub::start(|request| match request.target.as_str() {
        "/oidc?audience=x" => (200, r#"{"value":"from-url"}"#.into()),
        _ => (200, r#"{"access_token":"federated","expires_in":3600}"#.into()),
    });
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("wif.json");
    let key = serde_json::json!({
        "type": "external_account", "audience": "//iam/x", "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "token_url": format!("{}/sts", stub.url()),
        "credential_source": {
            "url": format!("{}/oidc?audience=x", stub.url()), "headers": {"Authorization": "Bearer pipeline"},
            "format": {"type": "json", "subject_token_field_name": "value"},
        },
    });
    std::fs::write(&file, key.to_string()).expect("written");
    let keychain = keychain(&[("GOOGLE_APPLICATION_CREDENTIALS", &file.display().to_string())]);
    assert!(keychain.credential("gcr.io").await.is_ok_and(|c| c.is_some()));
    let requests = stub.requests();
    assert_eq!(requests[0].header("authorization"), Some("Bearer pipeline"));
    let form = String::from_utf8_lossy(&requests[1].body).into_owned();
    assert_eq!(field(&form, "subject_token").as_deref(), Some("from-url"));
    assert_eq!(field(&form, "grant_type").as_deref(), Some("urn:ietf:params:oauth:grant-type:token-exchange"));
}

#[tokio::test]
async fn azure_with_a_secret_and_with_a_service_s_endpoint() {
    let stub = Stub::start(|_| (200, r#"{"access_token":"aad"}"#.into()));
    let url = stub.url();
    let secret = [
        ("AZURE_TENANT_ID", "tenant"),
        ("AZURE_CLIENT_ID", "client"),
        ("AZURE_CLIENT_SECRET", "hush"),
        ("AZURE_AUTHORITY_HOST", url.as_str()),
    ];
    assert_eq!(keychain(&secret).directory_token("team.azurecr.us").await, Ok(Some("aad".into())));
    let endpoint = format!("{url}/msi/token");
    let service = [("IDENTITY_ENDPOINT", endpoint.as_str()), ("IDENTITY_HEADER", "key")];
    assert_eq!(keychain(&service).directory_token("team.azurecr.cn").await, Ok(Some("aad".into())));
    let requests = stub.requests();
    let form = String::from_utf8_lossy(&requests[0].body).into_owned();
    for (name, value) in [
        ("grant_type", "client_credentials"),
        ("client_id", "client"),
        ("client_secret", "hush"),
        // Each of Microsoft's clouds has its own.
        ("scope", "https://management.usgovcloudapi.net/.default"),
    ] {
        assert_eq!(field(&form, name).as_deref(), Some(value), "{form}");
    }
    let target = "/msi/token?api-version=2019-08-01&resource=https://management.chinacloudapi.cn/";
    assert_eq!((requests[1].target.as_str(), requests[1].header("x-identity-header")), (target, Some("key")));
}

// SPEC E1.14, D1.49
#[tokio::test]
async fn azure_exchanges_a_directory_token_for_the_registry_s() {
    let stub = Stub::start(|request| {
        if request.target == "/oauth2/exchange" {
            (200, r#"{"refresh_token":"registry"}"#.into())
        } else {
            (200, r#"{"access_token":"aad","expires_in":3599}"#.into())
        }
    });
    let dir = tempfile::tempdir().expect("a directory");
    let token = dir.path().join("token");
    std::fs::write(&token, "federated").expect("written");
    let keychain = keychain(&[
        ("AZURE_TENANT_ID", "tenant"),
        ("AZURE_CLIENT_ID", "client"),
        ("AZURE_FEDERATED_TOKEN_FILE", &token.display().to_string()),
        ("AZURE_AUTHORITY_HOST", &stub.url()),
    ]);
    let (found, _) = keychain.acr(&stub.host()).await.expect("signed in");
    assert_eq!(found, Some(Credential::IdentityToken("registry".into())));
    let requests = stub.requests();
    assert_eq!(requests[0].target, "/tenant/oauth2/v2.0/token");
    let form = String::from_utf8_lossy(&requests[0].body).into_owned();
    assert_eq!(field(&form, "client_assertion").as_deref(), Some("federated"));
    assert_eq!(field(&form, "scope").as_deref(), Some("https://management.azure.com/.default"));
    let form = String::from_utf8_lossy(&requests[1].body).into_owned();
    assert_eq!(field(&form, "grant_type").as_deref(), Some("access_token"));
    assert_eq!(field(&form, "service"), Some(stub.host()));
    assert_eq!(field(&form, "access_token").as_deref(), Some("aad"));
}

#[tokio::test]
async fn azure_on_a_machine_with_an_identity() {
    let stub = Stub::start(|_| (200, r#"{"access_token":"aad"}"#.into()));
    let keychain = keychain(&[("AZURE_POD_IDENTITY_AUTHORITY_HOST", &stub.url()), ("AZURE_CLIENT_ID", "mine")]);
    assert_eq!(keychain.directory_token("team.azurecr.io").await, Ok(Some("aad".into())));
    let request = &stub.requests()[0];
    assert!(
        request.target.starts_with("/metadata/identity/oauth2/token?api-version=2018-02-01&resource="),
        "{}",
        request.target
    );
    assert!(request.target.ends_with("&client_id=mine"));
    assert_eq!(request.header("metadata"), Some("true"));
}

#[tokio::test]
async fn a_refusal_is_told_and_holds_no_secret() {
    let stub = Stub::start(|_| (403, r#"{"message":"not  you"}"#.into()));
    let keys =
        [("AWS_ACCESS_KEY_ID", "AKID"), ("AWS_SECRET_ACCESS_KEY", "hunter2"), ("AWS_ENDPOINT_URL_ECR", &stub.url())];
    let error = keychain(&keys).credential(ECR).await.expect_err("refused");
    assert!(error.starts_with(&format!("cannot sign in to {ECR}: ")) && error.contains("403"), "{error}");
    assert!(!error.contains("hunter2"));
}

// SPEC E1.14, D1.49
#[tokio::test]
async fn pipelines_have_their_own_registries() {
    let git = keychain(&[("GITHUB_TOKEN", "t"), ("GITHUB_ACTOR", "me")]);
    let wanted = Credential::Basic { username: "me".into(), password: "t".into() };
    assert_eq!(git.credential("ghcr.io").await, Ok(Some(wanted)));
    assert_eq!(git.credential("docker.io").await, Ok(None));
    let lab = keychain(&[("CI_REGISTRY", "registry.gitlab.example"), ("CI_JOB_TOKEN", "job")]);
    let wanted = Credential::Basic { username: "gitlab-ci-token".into(), password: "job".into() };
    assert_eq!(lab.credential("registry.gitlab.example").await, Ok(Some(wanted)));
}

// SPEC D1.49: --credential-helpers, and variables that are named for a registry.
#[tokio::test]
async fn d1_49_helpers_are_chosen_and_variables_name_a_registry() {
    let basic = |user: &str| Ok(Some(Credential::Basic { username: user.into(), password: "p".into() }));
    let variables = [
        ("KANIKO_R_EXAMPLE_USER", "host"),
        ("KANIKO_R_EXAMPLE_PASSWORD", "p"),
        ("KANIKO_MY_TEAM_EXAMPLE_USER", "team"),
        ("KANIKO_MY_TEAM_EXAMPLE_PASSWORD", "p"),
        ("CI_REGISTRY", "lab.example"),
        ("CI_REGISTRY_USER", "lab"),
        ("CI_REGISTRY_PASSWORD", "p"),
    ];
    let all = keychain(&variables);
    for (host, user) in [
        ("r.example", "host"),
        ("r.example:5000", "host"),
        ("deep.r.example", "host"),
        ("my-team.example", "team"),
        ("lab.example", "lab"),
    ] {
        assert_eq!(all.credential(host).await, basic(user), "{host}");
    }
    assert_eq!(all.credential("example").await, Ok(None));
    assert!(variables.iter().all(|(name, _)| CloudEnvironment::wants(name)) && !CloudEnvironment::wants("KANIKO_DIR"));
    let chosen = |only: &[&str]| {
        let mut chosen = keychain(&variables);
        chosen.environment.only = Some(only.iter().map(|name| name.parse().expect("a name")).collect());
        chosen
    };
    assert_eq!(chosen(&["gitlab"]).credential("r.example").await, Ok(None));
    assert_eq!(chosen(&["gitlab"]).credential("lab.example").await, basic("lab"));
    assert_eq!(chosen(&["env"]).credential("lab.example").await, Ok(None));
    assert_eq!(chosen(&[]).credential("r.example").await, Ok(None));
    assert!("gitlap".parse::<Service>().is_err_and(|e| e.contains("did you mean gitlab?")));
}
