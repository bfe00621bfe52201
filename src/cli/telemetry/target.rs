//! Where one signal of OpenTelemetry goes, and how it is sent there.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, Request, Url};

use crate::registry::Client;
use crate::registry::web::{self, Peer};
use crate::ui::otlp::Encoding;

/// The environment.
pub(super) type Variables<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// A kind of what is sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Signal {
    /// In names of variables.
    name: &'static str,
    /// Below the endpoint, by HTTP.
    path: &'static str,
    /// By gRPC.
    method: &'static str,
}

pub(super) const TRACES: Signal =
    Signal { name: "TRACES", path: "v1/traces", method: "opentelemetry.proto.collector.trace.v1.TraceService/Export" };

pub(super) const METRICS: Signal = Signal {
    name: "METRICS",
    path: "v1/metrics",
    method: "opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
};

impl Signal {
    /// The method that takes it by gRPC: `package.Service/Method`.
    pub(super) fn method(&self) -> &'static str {
        self.method
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Grpc,
    Http(Encoding),
}

/// A collector.
#[derive(Debug, Clone)]
pub(super) struct Target {
    url: Url,
    protocol: Protocol,
    headers: HeaderMap,
    /// Who it has to be and who we are, where the environment says so.
    peer: Option<Peer>,
    /// What is sent is compressed with gzip.
    gzip: bool,
    /// For one request.
    pub(super) timeout: Duration,
}

/// The variable of the signal, or that of all signals, with its name.
pub(super) fn either(variable: &Variables<'_>, signal: Signal, name: &str) -> Option<(String, String)> {
    let one = format!("OTEL_EXPORTER_OTLP_{}_{name}", signal.name);
    let all = format!("OTEL_EXPORTER_OTLP_{name}");
    variable(&one).map(|text| (one, text)).or_else(|| Some((all.clone(), variable(&all)?)))
}

impl Target {
    /// # Errors
    /// Names the variable that is malformed.
    pub(super) fn new(variable: &Variables<'_>, signal: Signal) -> Result<Self, String> {
        let endpoint = either(variable, signal, "ENDPOINT").map(|(name, text)| endpoint(variable, signal, name, &text));
        let (endpoint, whole) = endpoint.transpose()?.unzip();
        let protocol = match either(variable, signal, "PROTOCOL") {
            None => usual(endpoint.as_ref()),
            Some((name, text)) => match text.as_str() {
                "grpc" => Protocol::Grpc,
                "http/protobuf" => Protocol::Http(Encoding::Protobuf),
                "http/json" => Protocol::Http(Encoding::Json),
                _ => return Err(format!("{name}={text}: expected grpc, http/protobuf or http/json")),
            },
        };
        let here = |port: u16| Url::parse(&format!("http://localhost:{port}")).map_err(|e| e.to_string());
        let mut url = match (endpoint, protocol) {
            (Some(url), _) => url,
            (None, Protocol::Grpc) => here(4317)?,
            (None, Protocol::Http(_)) => here(4318)?,
        };
        match protocol {
            // A method has no place below another path.
            Protocol::Grpc => url.set_path(signal.method),
            Protocol::Http(_) if whole == Some(true) => {}
            Protocol::Http(_) => url.set_path(&format!("{}/{}", url.path().trim_end_matches('/'), signal.path)),
        }
        let mut headers = HeaderMap::new();
        if let Some((name, text)) = either(variable, signal, "HEADERS") {
            for (key, value) in pairs(&text).ok_or_else(|| format!("{name}: expected KEY=VALUE[,KEY=VALUE]"))? {
                let key =
                    HeaderName::from_bytes(key.as_bytes()).map_err(|_| format!("{name}: a key is no header name"))?;
                let value =
                    HeaderValue::from_str(&value).map_err(|_| format!("{name}: the value of {key} is no header"))?;
                headers.insert(key, value);
            }
        }
        let timeout = match either(variable, signal, "TIMEOUT") {
            None => Duration::from_secs(10),
            Some((name, text)) => {
                Duration::from_millis(text.parse().map_err(|_| format!("{name}={text}: expected milliseconds"))?)
            }
        };
        let gzip = match either(variable, signal, "COMPRESSION") {
            None => false,
            Some((name, text)) => match text.as_str() {
                "gzip" => true,
                "none" => false,
                _ => return Err(format!("{name}={text}: expected gzip or none")),
            },
        };
        Ok(Self { url, protocol, headers, peer: peer(variable, signal)?, gzip, timeout })
    }

    /// A client that connects as this collector wants it.
    pub(super) fn client(&self, usual: &Client) -> Client {
        self.peer.as_ref().map_or_else(|| usual.clone(), |peer| usual.for_peer(&self.url, peer))
    }

    /// How its messages are written.
    pub(super) fn encoding(&self) -> Encoding {
        match self.protocol {
            Protocol::Grpc => Encoding::Protobuf,
            Protocol::Http(encoding) => encoding,
        }
    }

    /// For messages to people.
    pub(super) fn show(&self) -> String {
        web::show(&self.url)
    }

    /// Sends one message.
    ///
    /// # Errors
    /// What the collector says against it, in a few words.
    pub(super) async fn send(&self, client: &Client, body: Vec<u8>) -> Result<(), String> {
        let Protocol::Http(encoding) = self.protocol else {
            return client.call(&self.url, &self.headers, &body, self.gzip).await.map_err(|e| e.to_string());
        };
        let mut request = Request::new(Method::POST, self.url.clone());
        *request.headers_mut() = self.headers.clone();
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(encoding.content_type()));
        let body = if self.gzip {
            request.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            zipped(&body)
        } else {
            body
        };
        *request.body_mut() = Some(body.into());
        match client.web(request).await {
            Err(e) => Err(e.fault.to_string()),
            Ok(answer) if answer.status().is_success() => Ok(()),
            Ok(answer) => Err(format!("it answers {}", answer.status())),
        }
    }
}

fn zipped(body: &[u8]) -> Vec<u8> {
    let mut out = GzEncoder::new(Vec::new(), Compression::fast());
    let written = out.write_all(body).and_then(|()| out.finish());
    written.expect("because memory takes whatever is written to it")
}

/// The variables about TLS. Files are looked at when there is a connection.
fn peer(variable: &Variables<'_>, signal: Signal) -> Result<Option<Peer>, String> {
    let file = |name| {
        let set = either(variable, signal, name).filter(|(_, text)| !text.is_empty());
        set.map(|(name, text)| (name, PathBuf::from(text)))
    };
    let identity = match (file("CLIENT_CERTIFICATE"), file("CLIENT_KEY")) {
        (Some((_, certificate)), Some((_, key))) => Some((certificate, key)),
        (None, None) => None,
        (Some((name, _)), None) => return Err(format!("{name} is set, and no key for it")),
        (None, Some((name, _))) => return Err(format!("{name} is set, and no certificate for it")),
    };
    let root = file("CERTIFICATE").map(|(_, path)| path);
    Ok((root.is_some() || identity.is_some()).then_some(Peer { root, identity }))
}

/// The URL of an endpoint, and whether nothing is to be added to its path.
fn endpoint(variable: &Variables<'_>, signal: Signal, name: String, text: &str) -> Result<(Url, bool), String> {
    // Endpoints of gRPC were HOST:PORT once, and whether there is TLS a variable of its own.
    let text = match text.contains("://") {
        true => text.to_owned(),
        false => {
            let plain = either(variable, signal, "INSECURE").is_some_and(|(_, text)| text.eq_ignore_ascii_case("true"));
            format!("{}://{text}", if plain { "http" } else { "https" })
        }
    };
    let url = Url::parse(&text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    let url = url.ok_or_else(|| format!("{name} is not an http or https URL"))?;
    Ok((url, name.contains(signal.name)))
}

/// What is spoken where nobody says: gRPC, as BuildKit does, but where an endpoint shows that it is HTTP's, by its port or a path.
fn usual(endpoint: Option<&Url>) -> Protocol {
    match endpoint {
        Some(url) if url.port() == Some(4318) || url.path() != "/" => Protocol::Http(Encoding::Protobuf),
        _ => Protocol::Grpc,
    }
}

/// `k=v,k=v`, percent-encoded.
pub(super) fn pairs(text: &str) -> Option<Vec<(String, String)>> {
    let decode = |text: &str| {
        // The only decoder at hand takes `+` for a space, which it is not here.
        let text = format!("x={}", text.trim().replace('+', "%2B"));
        url::form_urlencoded::parse(text.as_bytes()).next().map(|(_, value)| value.into_owned())
    };
    let fields = text.split(',').filter(|field| !field.trim().is_empty());
    fields
        .map(|field| {
            let (key, value) = field.split_once('=')?;
            Some((decode(key)?, decode(value)?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(signal: Signal, variables: &[(&str, &str)]) -> Target {
        let variable = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
        Target::new(&variable, signal).expect("well-formed")
    }

    // SPEC B5.10, C9.12
    #[test]
    fn c9_12_grpc_is_spoken_where_nothing_says_http() {
        const GRPC: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
        const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
        const PROTOCOL: &str = "OTEL_EXPORTER_OTLP_PROTOCOL";
        let grpc = |at: &str| (Protocol::Grpc, format!("{at}{GRPC}"));
        let http = |at: &str| (Protocol::Http(Encoding::Protobuf), at.to_owned());
        for (variables, expected) in [
            (&[][..], grpc("http://localhost:4317")),
            (&[(PROTOCOL, "http/protobuf")], http("http://localhost:4318/v1/traces")),
            (&[(ENDPOINT, "http://c:4317")], grpc("http://c:4317")),
            (&[(ENDPOINT, "https://c.example/")], grpc("https://c.example")),
            (&[(ENDPOINT, "http://c:4318")], http("http://c:4318/v1/traces")),
            (&[(ENDPOINT, "https://c.example/otlp/")], http("https://c.example/otlp/v1/traces")),
            (&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://c:1/t")], http("http://c:1/t")),
            (&[(ENDPOINT, "c:4317")], grpc("https://c:4317")),
            (&[(ENDPOINT, "c:4317"), ("OTEL_EXPORTER_OTLP_INSECURE", "true")], grpc("http://c:4317")),
            (&[(ENDPOINT, "http://c:4318"), (PROTOCOL, "grpc")], grpc("http://c:4318")),
        ] {
            let found = target(TRACES, variables);
            assert_eq!((found.protocol, found.url.to_string()), expected, "{variables:?}");
        }
        let numbers =
            target(METRICS, &[(ENDPOINT, "http://c:4317"), ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://t")]);
        assert_eq!(
            numbers.url.as_str(),
            "http://c:4317/opentelemetry.proto.collector.metrics.v1.MetricsService/Export"
        );
    }

    // SPEC B5.10
    #[test]
    fn b5_10_what_is_said_of_one_signal_goes_before_what_is_said_of_all() {
        let found = target(
            TRACES,
            &[
                ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
                ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json"),
                ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=a%20b, x=1+1"),
                ("OTEL_EXPORTER_OTLP_TIMEOUT", "1500"),
                ("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "7"),
            ],
        );
        assert_eq!((found.protocol, found.timeout), (Protocol::Http(Encoding::Json), Duration::from_millis(1500)));
        let header = |name: &str| found.headers[name].to_str().expect("text").to_owned();
        assert_eq!((header("api-key"), header("x")), ("a b".into(), "1+1".into()));
    }

    // SPEC B5.10
    #[test]
    fn b5_10_a_signal_has_its_own_certificates_and_compression() {
        let common = [
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/ca.pem"),
            ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "/me.pem"),
            ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/me.key"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
            ("OTEL_EXPORTER_OTLP_METRICS_CERTIFICATE", "/other.pem"),
            ("OTEL_EXPORTER_OTLP_METRICS_COMPRESSION", "none"),
        ];
        let (spans, numbers) = (target(TRACES, &common), target(METRICS, &common));
        let me = Some((PathBuf::from("/me.pem"), PathBuf::from("/me.key")));
        assert_eq!(spans.peer, Some(Peer { root: Some("/ca.pem".into()), identity: me.clone() }));
        assert_eq!(numbers.peer, Some(Peer { root: Some("/other.pem".into()), identity: me }));
        assert_eq!((spans.gzip, numbers.gzip), (true, false));
        assert_eq!(target(TRACES, &[("OTEL_EXPORTER_OTLP_CERTIFICATE", "")]).peer, None, "empty is unset");
        for (name, value, said) in [
            ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/me.key", "OTEL_EXPORTER_OTLP_CLIENT_KEY is set, and no certificate"),
            ("OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE", "/me.pem", "TRACES_CLIENT_CERTIFICATE is set, and no key"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd", "COMPRESSION=zstd: expected gzip or none"),
        ] {
            let variable = |asked: &str| (asked == name).then(|| value.to_owned());
            let error = Target::new(&variable, TRACES).expect_err("malformed");
            assert!(error.contains(said), "{error}");
        }
    }
}
