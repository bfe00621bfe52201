//! What registries and token servers answer, as data: pure, because it comes from strangers and is fuzzed.

use std::time::Duration;

use url::Url;

/// How long a token lives whose server does not say (SPEC E3.02).
const DEFAULT_LIFE: Duration = Duration::from_secs(60);
/// How long a token lives at most, whatever its server says. A new one costs one request.
const LONGEST_LIFE: Duration = Duration::from_secs(24 * 3600);

/// A token server's answer.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenAnswer {
    /// The token: a secret.
    pub token: String,
    /// How long it may be used.
    pub life: Duration,
}

/// Parses a token server's answer (SPEC E3.02).
///
/// # Errors
/// What is wrong with it, without any of it: it holds the token.
pub fn token(body: &[u8]) -> Result<TokenAnswer, &'static str> {
    #[derive(serde::Deserialize)]
    struct Body {
        #[serde(default)]
        token: String,
        #[serde(default)]
        access_token: String,
        #[serde(default)]
        expires_in: u64,
    }
    let body: Body = serde_json::from_slice(body).map_err(|_| "the token server's answer is not the expected JSON")?;
    let token = if body.token.is_empty() { body.access_token } else { body.token };
    if token.is_empty() {
        return Err("the token server's answer holds no token");
    }
    let life = if body.expires_in == 0 { DEFAULT_LIFE } else { Duration::from_secs(body.expires_in) };
    Ok(TokenAnswer { token, life: life.min(LONGEST_LIFE) })
}

/// The path behind `/v2/REPOSITORY/` of `Link: <…>; rel="next"`, of an answer that came from `url`.
#[must_use]
pub fn next_page(link: &str, url: &Url, repository: &str) -> Option<String> {
    let (target, rest) = link.strip_prefix('<')?.split_once('>')?;
    if !rest.contains("next") {
        return None;
    }
    let url = url.join(target).ok()?;
    // Of other schemes `..` would still be in the path.
    if !matches!(url.scheme(), "http" | "https") {
        return None;
    }
    let path = url.path().split_once(&format!("/v2/{repository}/"))?.1;
    Some(url.query().map_or_else(|| path.to_owned(), |query| format!("{path}?{query}")))
}

/// The server's own words out of an error body (SPEC E3.14): one line, at most a few hundred characters.
#[must_use]
pub fn error_message(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Entry {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    #[derive(serde::Deserialize)]
    struct Body {
        #[serde(default)]
        errors: Vec<Entry>,
        // Token servers use one of these instead.
        #[serde(default)]
        details: String,
        #[serde(default)]
        error_description: String,
    }
    let text = match serde_json::from_slice::<Body>(body) {
        Ok(parsed) if !parsed.errors.is_empty() => {
            let entries: Vec<String> = parsed
                .errors
                .iter()
                .map(|e| match (e.code.to_lowercase(), e.message.as_str()) {
                    (code, "") => code,
                    (code, message) if code.is_empty() => message.to_owned(),
                    // Many a registry says everything twice.
                    (code, message) if code.replace('_', " ") == message.to_lowercase() => message.to_owned(),
                    (code, message) => format!("{}: {message}", code.replace('_', " ")),
                })
                .collect();
            entries.join("; ")
        }
        Ok(parsed) if !parsed.details.is_empty() => parsed.details,
        Ok(parsed) => parsed.error_description,
        // A proxy's HTML page helps nobody.
        Err(_) if body.trim_ascii_start().starts_with(b"<") => String::new(),
        Err(_) => String::from_utf8_lossy(body).into_owned(),
    };
    let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    // Terminal control sequences have no place in a message.
    line.chars().filter(|c| !c.is_control()).take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn e3_14_bodies_become_one_line() {
        let body = br#"{"errors":[{"code":"DENIED","message":"no \u001b[31maccess\n here","detail":{}},{"code":"NAME_UNKNOWN"}]}"#;
        assert_eq!(error_message(body), "denied: no [31maccess here; name_unknown");
        assert_eq!(error_message(br#"{"details":"incorrect username or password"}"#), "incorrect username or password");
        assert_eq!(error_message(b"<html><body>502</body></html>"), "");
        assert_eq!(error_message(b" plain\ntext "), "plain text");
        assert_eq!(error_message(b""), "");
    }

    #[test]
    fn e3_15_further_pages_are_of_the_same_repository() {
        let url = Url::parse("https://registry.example/v2/a/b/referrers/x").expect("a URL");
        let next = |link: &str| next_page(link, &url, "a/b");
        assert_eq!(next("</v2/a/b/referrers/x?n=2>; rel=\"next\"").as_deref(), Some("referrers/x?n=2"));
        assert_eq!(
            next("<https://other.example/v2/a/b/y>; rel=next").as_deref(),
            Some("y"),
            "asked of the same server"
        );
        assert_eq!(next("</v2/a/b/../../c/d/y>; rel=next"), None);
        assert_eq!(next("<x:/v2/a/b/../../c/d/y>; rel=next"), None);
        assert_eq!(next("</v2/a/b/y>; rel=\"prev\""), None);
    }

    #[test]
    fn e3_02_a_token_lives_no_longer_than_a_day() {
        let life = |text: &str| token(text.as_bytes()).map(|t| t.life.as_secs());
        assert_eq!(life(r#"{"token":"t","expires_in":300}"#), Ok(300));
        assert_eq!(life(r#"{"access_token":"t"}"#), Ok(60));
        // Added to the time of day this would overflow.
        assert_eq!(life(r#"{"token":"t","expires_in":18446744073709551615}"#), Ok(24 * 3600));
        assert_eq!(life(r#"{"token":""}"#), Err("the token server's answer holds no token"));
        assert_eq!(
            life(r#"{"token":"secret","expires_in":-1}"#),
            Err("the token server's answer is not the expected JSON")
        );
    }
}
