//! Spans and numbers to an OpenTelemetry collector (SPEC C9.12, B5.10).
//!
//! A collector that is slow, away or confused costs a build nothing but one notice: spans are sent beside the build, and at
//! its end, with what it came to in numbers, for a moment only.

mod relay;
mod target;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::task::JoinHandle;

use crate::base::socket::ServedSocket;
use crate::base::{Events, StepTrace, TraceContext};
use crate::registry::Client;
use crate::ui::otlp::{self, Resource};
use crate::ui::{Span, Summary, Trace};
use target::{METRICS, TRACES, Target, Variables};

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
    pub(super) spans: Option<SpanExporter>,
    /// Where numbers go, if anywhere.
    pub(super) metrics: Option<MetricsExporter>,
    /// What is not done, and why.
    pub(super) notices: Vec<String>,
}

/// Where spans go and how.
#[derive(Debug, Clone)]
pub(super) struct SpanExporter {
    /// The trace.
    pub(super) context: TraceContext,
    target: Target,
    resource: Resource,
    /// `OTEL_IGNORE_ERROR`: do not say that spans were lost.
    silent: bool,
}

/// Where the numbers of a build go.
#[derive(Debug, Clone)]
pub(super) struct MetricsExporter {
    target: Target,
    resource: Resource,
    silent: bool,
}

impl Plan {
    /// Reads the variables. Nothing here fails a build: what is malformed is said.
    pub(super) fn new(variable: &Variables<'_>) -> Self {
        let mut plan = Self::default();
        match spans(variable) {
            Ok(exporter) => plan.spans = exporter,
            Err(why) => plan.notices.push(format!("no spans are sent: {why}")),
        }
        match metrics(variable) {
            Ok(exporter) => plan.metrics = exporter,
            Err(why) => plan.notices.push(format!("no metrics are sent: {why}")),
        }
        plan
    }
}

fn spans(variable: &Variables<'_>) -> Result<Option<SpanExporter>, String> {
    let endpoint = target::either(variable, TRACES, "ENDPOINT");
    if switched_off(variable) {
        return Ok(None);
    }
    match variable("OTEL_TRACES_EXPORTER").as_deref() {
        Some("none") => return Ok(None),
        // BuildKit's daemon gives its spans to who asked it for the build, who sends them on if there is an endpoint.
        None | Some("delegated") if endpoint.is_none() => return Ok(None),
        Some("otlp" | "delegated") | None => {}
        Some(other) => {
            return Err(format!("OTEL_TRACES_EXPORTER={other}: only otlp, delegated and none exist here"));
        }
    }
    let target = Target::new(variable, TRACES)?;
    let given = variable("TRACEPARENT").as_deref().and_then(TraceContext::parse);
    let state = variable("TRACESTATE").filter(|_| given.is_some()).unwrap_or_default();
    let context = given.unwrap_or_else(TraceContext::root);
    if !context.sampled {
        // Who began the trace does not record it.
        return Ok(None);
    }
    let resource = Resource { attributes: attributes(variable)?, state };
    Ok(Some(SpanExporter { context, target, resource, silent: silent(variable) }))
}

/// Only who asks for them gets them: of collectors that take spans, many take nothing else.
fn metrics(variable: &Variables<'_>) -> Result<Option<MetricsExporter>, String> {
    if switched_off(variable) {
        return Ok(None);
    }
    match variable("OTEL_METRICS_EXPORTER").as_deref() {
        Some("none") => return Ok(None),
        None if variable("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT").is_none() => return Ok(None),
        Some("otlp") | None => {}
        Some("prometheus") => {
            return Err("OTEL_METRICS_EXPORTER=prometheus: there is no daemon to be asked; --metrics-file writes Prometheus's text".into());
        }
        Some(other) => return Err(format!("OTEL_METRICS_EXPORTER={other}: only otlp and none exist here")),
    }
    let target = Target::new(variable, METRICS)?;
    let resource = Resource { attributes: attributes(variable)?, state: String::new() };
    Ok(Some(MetricsExporter { target, resource, silent: silent(variable) }))
}

fn switched_off(variable: &Variables<'_>) -> bool {
    variable("OTEL_SDK_DISABLED").is_some_and(|text| text.eq_ignore_ascii_case("true"))
}

fn silent(variable: &Variables<'_>) -> bool {
    variable("OTEL_IGNORE_ERROR").is_some_and(|text| text != "0" && text != "false")
}

/// What is said of who sends.
fn attributes(variable: &Variables<'_>) -> Result<Vec<(String, String)>, String> {
    let mut attributes = match variable("OTEL_RESOURCE_ATTRIBUTES") {
        Some(text) => target::pairs(&text).ok_or("OTEL_RESOURCE_ATTRIBUTES: expected KEY=VALUE[,KEY=VALUE]")?,
        None => Vec::new(),
    };
    let service = variable("OTEL_SERVICE_NAME");
    if service.is_some() || !attributes.iter().any(|(key, _)| key == "service.name") {
        attributes.retain(|(key, _)| key != "service.name");
        attributes.push(("service.name".into(), service.unwrap_or_else(|| "rbuild".into())));
    }
    attributes.push(("service.version".into(), env!("CARGO_PKG_VERSION").into()));
    Ok(attributes)
}

impl MetricsExporter {
    /// Sends what a build came to; why that did not work, if somebody wants to know. Waits no longer than for the last spans.
    pub(super) async fn send(self, client: &Client, summary: &Summary, succeeded: bool) -> Option<String> {
        let client = &self.target.client(client);
        let body = otlp::metrics(&self.resource, &summary.gauges(succeeded), SystemTime::now(), self.target.encoding());
        let sent = tokio::time::timeout(LAST.min(self.target.timeout), self.target.send(client, body)).await;
        let trouble = sent.unwrap_or_else(|_| Err("it does not answer in time".into())).err()?;
        (!self.silent).then(|| format!("metrics did not reach {}: {trouble}", self.target.show()))
    }
}

/// Spans on their way.
pub(super) struct Telemetry {
    exporter: SpanExporter,
    trace: Trace,
    client: Client,
    began: SystemTime,
    state: Arc<Mutex<State>>,
    task: JoinHandle<()>,
    /// Takes the spans of steps.
    socket: Option<ServedSocket>,
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
    /// Asks whether the collector is there, and sends what ends. Runs on the runtime it is called on. Sockets of steps are in `dir`.
    pub(super) fn start(exporter: SpanExporter, trace: Trace, client: &Client, dir: &Path) -> Self {
        // Steps do without where there can be none: that costs their spans, not the build.
        let socket = relay::listen(dir, &exporter.target, client).ok().flatten();
        let client = exporter.target.client(client);
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
        Self { exporter, trace, client, began: SystemTime::now(), state, task, socket }
    }

    /// What steps have of the trace.
    pub(super) fn for_steps(&self) -> StepTrace {
        let socket = self.socket.as_ref().map(|socket| socket.path().to_owned());
        StepTrace { context: self.exporter.context, socket }
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
                match tokio::time::timeout(patience.min(self.exporter.target.timeout), sent).await {
                    Ok(()) => lock(&self.state).trouble.clone(),
                    Err(_) => Some("it does not answer in time".into()),
                }
            }
        };
        if let Some(trouble) = trouble.filter(|_| !self.exporter.silent) {
            events.notice("telemetry", format!("spans did not reach {}: {trouble}", self.exporter.target.show()));
        }
    }
}

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sends what waits and `more`; it waits again if that fails.
async fn send(exporter: &SpanExporter, client: &Client, state: &Mutex<State>, more: Vec<Span>) {
    let spans = {
        let mut state = lock(state);
        state.waiting.extend(more);
        state.waiting.clone()
    };
    let target = &exporter.target;
    let body = otlp::spans(&exporter.context, &exporter.resource, &spans, target.encoding());
    let answer = tokio::time::timeout(target.timeout, target.send(client, body)).await;
    let mut state = lock(state);
    state.trouble = answer.unwrap_or_else(|_| Err("it does not answer in time".into())).err();
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

    const ON: (&str, &str) = ("OTEL_TRACES_EXPORTER", "otlp");

    // SPEC B5.10
    #[test]
    fn variables_of_opentelemetry_mean_what_they_mean_elsewhere() {
        let nothing = plan(&[]);
        assert!(nothing.spans.is_none() && nothing.metrics.is_none());
        let usual = plan(&[ON]).spans.expect("on");
        assert!(usual.resource.attributes.contains(&("service.name".into(), "rbuild".into())));
        let all = plan(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector.example"),
            ("OTEL_SERVICE_NAME", "ci"),
            ("OTEL_RESOURCE_ATTRIBUTES", "service.name=other,team=build"),
            ("TRACEPARENT", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
            ("TRACESTATE", "a=b"),
        ]);
        let spans = all.spans.expect("on");
        assert_eq!(
            spans.resource.attributes[..2],
            [("team".into(), "build".into()), ("service.name".into(), "ci".into())]
        );
        assert_eq!((spans.resource.state.as_str(), spans.context.parent.is_some()), ("a=b", true));
        assert!(all.metrics.is_none(), "who takes spans need not take numbers");
        let delegated = ("OTEL_TRACES_EXPORTER", "delegated");
        assert!(plan(&[delegated]).spans.is_none());
        assert!(plan(&[delegated, ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4317")]).spans.is_some());
        for variable in
            [("OTEL_METRICS_EXPORTER", "otlp"), ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://c:4318/v1/metrics")]
        {
            let plan = plan(&[variable]);
            assert!(plan.spans.is_none() && plan.metrics.is_some(), "{variable:?}");
        }
    }

    #[test]
    fn what_is_not_done_is_said_and_never_an_error() {
        for (variable, said) in [
            (("OTEL_EXPORTER_OTLP_PROTOCOL", "thrift"), "expected grpc, http/protobuf or http/json"),
            (("OTEL_EXPORTER_OTLP_ENDPOINT", "unix:///dev/otel-grpc.sock"), "not an http or https URL"),
            (("OTEL_EXPORTER_OTLP_HEADERS", "x"), "expected KEY=VALUE"),
            (("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"), "expected milliseconds"),
            (("OTEL_RESOURCE_ATTRIBUTES", "x"), "expected KEY=VALUE"),
        ] {
            let plan = plan(&[ON, variable]);
            assert!(plan.spans.is_none() && plan.notices[0].contains(said), "{:?}", plan.notices);
        }
        assert!(plan(&[("OTEL_TRACES_EXPORTER", "jaeger")]).notices[0].contains("only otlp, delegated and none"));
        assert!(plan(&[("OTEL_METRICS_EXPORTER", "prometheus")]).notices[0].contains("--metrics-file"));
        let unsampled = ("TRACEPARENT", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00");
        for quiet in [
            [ON, unsampled],
            [ON, ("OTEL_SDK_DISABLED", "true")],
            [("OTEL_TRACES_EXPORTER", "none"), ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c")],
        ] {
            let plan = plan(&quiet);
            assert!(plan.spans.is_none() && plan.notices.is_empty());
        }
        assert!(plan(&[ON, ("TRACEPARENT", "nonsense")]).spans.is_some_and(|e| e.context.parent.is_none()));
    }
}
