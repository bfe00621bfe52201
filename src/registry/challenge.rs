//! `WWW-Authenticate`, as servers really write it (SPEC E3.01).

/// One challenge of a 401 answer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Challenge {
    /// Lower case, e.g. `bearer`.
    pub scheme: String,
    /// Names in lower case; values without their quotes.
    pub params: Vec<(String, String)>,
}

impl Challenge {
    /// A parameter's value.
    #[must_use]
    pub fn param(&self, name: &str) -> Option<&str> {
        self.params.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// Parses one header value, which may hold several challenges. What cannot be understood is skipped: a server's
/// odd extra challenge must not hide the usable one.
#[must_use]
pub fn parse(header: &str) -> Vec<Challenge> {
    let mut out: Vec<Challenge> = Vec::new();
    let mut rest = header;
    loop {
        rest = rest.trim_start_matches(|c: char| c == ',' || c.is_ascii_whitespace());
        if rest.is_empty() {
            return out;
        }
        let (word, after) = token(rest);
        if word.is_empty() {
            // Not a token character: skip it, quoted strings as a whole.
            let (_, after) = value(rest);
            rest = if after.len() < rest.len() { after } else { skip_char(rest) };
            continue;
        }
        // `name=value` belongs to the challenge before; a token68 (`Negotiate abc==`) has no name, but looks alike
        // at its padding only.
        let behind = after.trim_start();
        match behind.strip_prefix('=') {
            Some(text) if !out.is_empty() => {
                let (text, after) = value(text.trim_start());
                if let Some(challenge) = out.last_mut() {
                    challenge.params.push((word.to_ascii_lowercase(), text));
                }
                rest = after;
            }
            Some(text) => rest = text,
            None => {
                out.push(Challenge { scheme: word.to_ascii_lowercase(), params: Vec::new() });
                rest = after;
            }
        }
    }
}

/// Splits off the leading token (RFC 9110).
fn token(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~/".contains(c))).unwrap_or(text.len());
    text.split_at(end)
}

/// Splits off a quoted string or a bare value.
fn value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        // Bare values stop at a comma or blank; some servers leave URLs unquoted.
        let end = text.find(|c: char| c == ',' || c.is_ascii_whitespace()).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut out = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (out, &quoted[at + 1..]),
            '\\' => out.extend(chars.next().map(|(_, c)| c)),
            c => out.push(c),
        }
    }
    (out, "")
}

fn skip_char(text: &str) -> &str {
    let mut chars = text.chars();
    chars.next();
    chars.as_str()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn e3_01_the_usual_bearer_challenge() {
        let all = parse(
            r#"Bearer realm="https://auth.example/token",service="registry.example",scope="repository:a/b:pull,push""#,
        );
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].scheme, "bearer");
        assert_eq!(all[0].param("realm"), Some("https://auth.example/token"));
        assert_eq!(all[0].param("scope"), Some("repository:a/b:pull,push"), "commas inside quotes do not split");
    }

    #[test]
    fn e3_01_several_challenges_in_one_header() {
        let all = parse(r#"Negotiate, Basic realm="a \"b\", c" , BEARER Realm = "x",error="invalid_token""#);
        let schemes: Vec<&str> = all.iter().map(|c| c.scheme.as_str()).collect();
        assert_eq!(schemes, ["negotiate", "basic", "bearer"]);
        assert_eq!(all[1].param("realm"), Some("a \"b\", c"));
        assert_eq!(all[2].param("realm"), Some("x"));
        assert_eq!(all[2].param("error"), Some("invalid_token"));
    }

    #[test]
    fn odd_headers_do_not_hide_the_usable_challenge() {
        assert_eq!(parse(r#"Bearer realm=https://a.example/t?x=1,service=s"#)[0].param("service"), Some("s"));
        assert!(parse(r#"Negotiate YII==, Basic realm="r""#).iter().any(|c| c.param("realm") == Some("r")));
        assert_eq!(parse("Basic")[0].scheme, "basic");
        for broken in ["", ",,,", "\"", "=\"x", "Bearer realm=\"open", "é é=é", "\u{7f}\"a\" b"] {
            let _ = parse(broken);
        }
    }

    proptest::proptest! {
        #[test]
        fn never_panics_and_always_ends(text in "[ -~é]{0,60}") {
            let _ = parse(&text);
        }
    }

    /// Whatever a server writes there, and whatever is in a configuration file: an answer, never a panic.
    #[test]
    fn mutated_answers_are_survived() {
        let seeds: [&[u8]; 4] = [
            br#"Bearer realm="https://auth.example/token",service="registry.example",scope="repository:a/b:pull,push""#,
            br#"Basic realm="x \" y", Bearer realm=https://a/b , error="insufficient_scope""#,
            br#"{"auths":{"https://index.docker.io/v1/":{"auth":"YTpi","identitytoken":"t"}},"credHelpers":{"a":"b"},"credsStore":"c"}"#,
            br#"{"auths":{"a:5000/x":{"username":"u","password":"p"}},"proxies":{"default":{"httpProxy":"http://p"}}}"#,
        ];
        crate::base::mutation::each(&seeds, 6_000, |bytes| {
            let text = String::from_utf8_lossy(bytes);
            for challenge in parse(&text) {
                let _ = (challenge.param("realm"), challenge.param("scope"));
            }
            let _ = crate::registry::docker_config::DockerConfig::parse("test", &text);
        });
    }
}
