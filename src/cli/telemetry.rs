//! Spans to an OpenTelemetry collector (SPEC C9.12, B5.10).
//!
//! A collector that is slow, away or confused costs a build nothing but one notice: spans are sent beside the build, and at
//! its end for a moment only.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, Request, Url};
use tokio::task::JoinHandle;

use crate::base::{Events, TraceContext};
use crate::registry::Client;
use crate::registry::web;
use crate::ui::otlp::{self, Encoding, Resource};
use crate::ui::{Span, Trace};

/// Pause between two requests during a build.
const EVERY: Duration = Duration::from_secs(5);
/// How long the last spans may take, if the collector has answered before.
const LAST: Duration = Duration::from_secs(3);
/// The same if it has not.
const UNKNOWN: Duration = Duration::from_secs(1);
/// What may wait for a collector that does not answer, in spans.
const WAITING: usize = 10_000;

/// What the environment says.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Where spans go, if anywhere.
    pub(super) exporter: Option<Exporter>,
    /// What is not done, and why.
    pub(super) notices: Vec<String>,
}

/// Where spans go and how.
#[derive(Debug, Clone)]
pub(super) struct Exporter {
    /// The trace.
    pub(super) context: TraceContext,
    url: Url,
    encoding: Encoding,
    headers: HeaderMap,
    timeout: Duration,
    resource: Resource,
    /// `OTEL_IGNORE_ERROR`: do not say that spans were lost.
    silent: bool,
}

impl Plan {
    /// Reads the variables. Nothing here fails a build: what is malformed is said.
    pub(super) fn new(variable: &dyn Fn(&str) -> Option<String>) -> Self {
        match exporter(variable) {
            Ok(exporter) => Self { exporter, notices: Vec::new() },
            Err(why) => Self { exporter: None, notices: vec![format!("no spans are sent: {why}")] },
        }
    }
}

fn exporter(variable: &dyn Fn(&str) -> Option<String>) -> Result<Option<Exporter>, String> {
    let either = |name: &str| {
        let of_traces = format!("OTEL_EXPORTER_OTLP_TRACES_{name}");
        let of_all = format!("OTEL_EXPORTER_OTLP_{name}");
        variable(&of_traces).map(|text| (of_traces, text)).or_else(|| Some((of_all.clone(), variable(&of_all)?)))
    };
    let endpoint = either("ENDPOINT");
    if variable("OTEL_SDK_DISABLED").is_some_and(|text| text.eq_ignore_ascii_case("true")) {
        return Ok(None);
    }
    match variable("OTEL_TRACES_EXPORTER").as_deref() {
        Some("none") => return Ok(None),
        None if endpoint.is_none() => return Ok(None),
        Some("otlp") | None => {}
        Some(other) => return Err(format!("OTEL_TRACES_EXPORTER={other}: only otlp and none exist here")),
    }
    let encoding = match either("PROTOCOL") {
        None => Encoding::Protobuf,
        Some((_, text)) if text == "http/protobuf" => Encoding::Protobuf,
        Some((_, text)) if text == "http/json" => Encoding::Json,
        Some((name, text)) => {
            return Err(format!(
                "{name}={text}: expected http/protobuf or http/json, which collectors take at port 4318"
            ));
        }
    };
    let url = match endpoint {
        None => "http://localhost:4318/v1/traces".to_owned(),
        Some((name, text)) if name.contains("TRACES") => text,
        Some((_, text)) => format!("{}/v1/traces", text.trim_end_matches('/')),
    };
    let url = Url::parse(&url).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    let url = url.ok_or("OTEL_EXPORTER_OTLP_ENDPOINT is not an http or https URL")?;
    let mut headers = HeaderMap::new();
    if let Some((name, text)) = either("HEADERS") {
        for (key, value) in pairs(&text).ok_or_else(|| format!("{name}: expected KEY=VALUE[,KEY=VALUE]"))? {
            let key = HeaderName::from_bytes(key.as_bytes()).map_err(|_| format!("{name}: a key is no header name"))?;
            let value =
                HeaderValue::from_str(&value).map_err(|_| format!("{name}: the value of {key} is no header"))?;
            headers.insert(key, value);
        }
    }
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(encoding.content_type()));
    let timeout = match either("TIMEOUT") {
        None => Duration::from_secs(10),
        Some((name, text)) => {
            Duration::from_millis(text.parse().map_err(|_| format!("{name}={text}: expected milliseconds"))?)
        }
    };
    let mut attributes = match variable("OTEL_RESOURCE_ATTRIBUTES") {
        Some(text) => pairs(&text).ok_or("OTEL_RESOURCE_ATTRIBUTES: expected KEY=VALUE[,KEY=VALUE]")?,
        None => Vec::new(),
    };
    let service = variable("OTEL_SERVICE_NAME");
    if service.is_some() || !attributes.iter().any(|(key, _)| key == "service.name") {
        attributes.retain(|(key, _)| key != "service.name");
        attributes.push(("service.name".into(), service.unwrap_or_else(|| "rbuild".into())));
    }
    attributes.push(("service.version".into(), env!("CARGO_PKG_VERSION").into()));
    let given = variable("TRACEPARENT").as_deref().and_then(TraceContext::parse);
    let state = variable("TRACESTATE").filter(|_| given.is_some()).unwrap_or_default();
    let context = given.unwrap_or_else(TraceContext::root);
    if !context.sampled {
        // Who began the trace does not record it.
        return Ok(None);
    }
    let silent = variable("OTEL_IGNORE_ERROR").is_some_and(|text| text != "0" && text != "false");
    let resource = Resource { attributes, state };
    Ok(Some(Exporter { context, url, encoding, headers, timeout, resource, silent }))
}

/// `k=v,k=v`, percent-encoded.
fn pairs(text: &str) -> Option<Vec<(String, String)>> {
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

/// Spans on their way.
pub(super) struct Telemetry {
    exporter: Exporter,
    trace: Trace,
    client: Client,
    began: SystemTime,
    state: Arc<Mutex<State>>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct State {
    /// Spans that no request has carried yet.
    waiting: Vec<Span>,
    /// The collector has answered.
    heard: bool,
    /// The last request failed.
    trouble: Option<String>,
}

impl Telemetry {
    /// Asks whether the collector is there, and sends what ends. Runs on the runtime it is called on.
    pub(super) fn start(exporter: Exporter, trace: Trace, client: Client) -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let task = tokio::spawn({
            let (exporter, trace, client, state) =
                (exporter.clone(), trace.clone(), client.clone(), Arc::clone(&state));
            async move {
                loop {
                    send(&exporter, &client, &state, Vec::new()).await;
                    tokio::time::sleep(EVERY).await;
                    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
                    state.waiting.extend(trace.take_new());
                    let excess = state.waiting.len().saturating_sub(WAITING);
                    state.waiting.drain(..excess);
                }
            }
        });
        Self { exporter, trace, client, began: SystemTime::now(), state, task }
    }

    /// Sends the rest and the span of the whole build; says once if that did not work.
    pub(super) async fn finish(self, error: Option<String>, events: &Events) {
        let heard = {
            let state = lock(&self.state);
            state.heard
        };
        self.task.abort();
        // What it was sending is in the state again, or has arrived.
        let _ = self.task.await;
        let mut rest = self.trace.take_new();
        rest.push(Span::of_build(self.began, SystemTime::now(), error));
        let trouble = lock(&self.state).trouble.clone();
        let trouble = match trouble {
            // It was away a moment ago.
            Some(trouble) => Some(trouble),
            None => {
                let patience = if heard { LAST } else { UNKNOWN };
                let sent = send(&self.exporter, &self.client, &self.state, rest);
                match tokio::time::timeout(patience.min(self.exporter.timeout), sent).await {
                    Ok(()) => lock(&self.state).trouble.clone(),
                    Err(_) => Some("it does not answer in time".into()),
                }
            }
        };
        if let Some(trouble) = trouble.filter(|_| !self.exporter.silent) {
            events.notice("telemetry", format!("spans did not reach {}: {trouble}", web::show(&self.exporter.url)));
        }
    }
}

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sends what waits and `more`; it waits again if that fails.
async fn send(exporter: &Exporter, client: &Client, state: &Mutex<State>, more: Vec<Span>) {
    let spans = {
        let mut state = lock(state);
        state.waiting.extend(more);
        state.waiting.clone()
    };
    let body = otlp::request(&exporter.context, &exporter.resource, &spans, exporter.encoding);
    let mut request = Request::new(Method::POST, exporter.url.clone());
    *request.headers_mut() = exporter.headers.clone();
    *request.body_mut() = Some(body.into());
    let answer = tokio::time::timeout(exporter.timeout, client.web(request)).await;
    let mut state = lock(state);
    state.trouble = match answer {
        Err(_) => Some("it does not answer in time".into()),
        Ok(Err(e)) => Some(e.fault.to_string()),
        Ok(Ok(answer)) if answer.status().is_success() => None,
        Ok(Ok(answer)) => Some(format!("it answers {}", answer.status())),
    };
    state.heard = state.trouble.is_none();
    if state.heard {
        state.waiting.drain(..spans.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(variables: &[(&str, &str)]) -> Plan {
        Plan::new(&|name| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned()))
    }

    // SPEC B5.10
    #[test]
    fn variables_of_opentelemetry_mean_what_they_mean_elsewhere() {
        assert!(plan(&[]).exporter.is_none());
        let usual = plan(&[("OTEL_TRACES_EXPORTER", "otlp")]).exporter.expect("on");
        assert_eq!(usual.url.as_str(), "http://localhost:4318/v1/traces");
        assert_eq!((usual.encoding, usual.timeout), (Encoding::Protobuf, Duration::from_secs(10)));
        assert!(usual.resource.attributes.contains(&("service.name".into(), "rbuild".into())));
        let all = plan(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector.example/otlp/"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=a%20b, x=1+1"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "1500"),
            ("OTEL_SERVICE_NAME", "ci"),
            ("OTEL_RESOURCE_ATTRIBUTES", "service.name=other,team=build"),
            ("TRACEPARENT", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
            ("TRACESTATE", "a=b"),
        ])
        .exporter
        .expect("on");
        assert_eq!(all.url.as_str(), "https://collector.example/otlp/v1/traces");
        assert_eq!((all.encoding, all.timeout), (Encoding::Json, Duration::from_millis(1500)));
        assert_eq!(
            (&all.headers["api-key"], &all.headers["x"]),
            (&"a b".parse().expect("fine"), &"1+1".parse().expect("fine"))
        );
        assert_eq!(
            all.resource.attributes[..2],
            [("team".into(), "build".into()), ("service.name".into(), "ci".into())]
        );
        assert_eq!((all.resource.state.as_str(), all.context.parent.is_some()), ("a=b", true));
        let exact = plan(&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://c:1/t")]).exporter.expect("on");
        assert_eq!(exact.url.as_str(), "http://c:1/t");
    }

    #[test]
    fn what_is_not_done_is_said_and_never_an_error() {
        const ON: (&str, &str) = ("OTEL_TRACES_EXPORTER", "otlp");
        for (variable, said) in [
            (("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"), "expected http/protobuf or http/json"),
            (("OTEL_EXPORTER_OTLP_ENDPOINT", "unix:///dev/otel-grpc.sock"), "not an http or https URL"),
            (("OTEL_EXPORTER_OTLP_HEADERS", "x"), "expected KEY=VALUE"),
            (("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"), "expected milliseconds"),
            (("OTEL_RESOURCE_ATTRIBUTES", "x"), "expected KEY=VALUE"),
        ] {
            let plan = plan(&[ON, variable]);
            assert!(plan.exporter.is_none() && plan.notices[0].contains(said), "{:?}", plan.notices);
        }
        assert!(plan(&[("OTEL_TRACES_EXPORTER", "jaeger")]).notices[0].contains("only otlp and none"));
        let unsampled = ("TRACEPARENT", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00");
        for quiet in [
            [ON, unsampled],
            [ON, ("OTEL_SDK_DISABLED", "true")],
            [("OTEL_TRACES_EXPORTER", "none"), ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c")],
        ] {
            let plan = plan(&quiet);
            assert!(plan.exporter.is_none() && plan.notices.is_empty());
        }
        assert!(plan(&[ON, ("TRACEPARENT", "nonsense")]).exporter.is_some_and(|e| e.context.parent.is_none()));
    }
}
