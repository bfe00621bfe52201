//! Spans as OpenTelemetry's protocol has them (OTLP 1.x, `opentelemetry/proto/collector/trace/v1`), in both encodings; numbers
//! are in [`metrics`].

mod metrics;

use std::time::{SystemTime, UNIX_EPOCH};

use prost::Message as _;
use serde_json::{Value, json};

use super::trace::Span;
use crate::base::trace::{TraceContext, hex};

pub use metrics::metrics;

/// What a request says about who sends it.
#[derive(Debug, Clone, Default)]
pub struct Resource {
    /// Attributes such as `service.name`.
    pub attributes: Vec<(String, String)>,
    /// `TRACESTATE`
    pub state: String,
}

/// How a request is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// `http/protobuf`
    Protobuf,
    /// `http/json`
    Json,
}

impl Encoding {
    /// The media type.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Protobuf => "application/x-protobuf",
            Self::Json => "application/json",
        }
    }
}

/// The span of a build as a whole, that all others are in.
pub const BUILD: &str = "build";

/// A request to a collector of spans. No spans make a request that asks whether it is there.
#[must_use]
pub fn spans(context: &TraceContext, resource: &Resource, spans: &[Span], encoding: Encoding) -> Vec<u8> {
    let request = Request {
        resource_spans: vec![ResourceSpans {
            resource: Some(ResourceMessage::of(resource)),
            scope_spans: vec![ScopeSpans {
                scope: Some(Scope::here()),
                spans: spans.iter().map(|span| message(context, resource, span)).collect(),
            }],
        }],
    };
    let request = if spans.is_empty() { Request::default() } else { request };
    match encoding {
        Encoding::Protobuf => request.encode_to_vec(),
        Encoding::Json => request.json().to_string().into_bytes(),
    }
}

impl ResourceMessage {
    fn of(resource: &Resource) -> Self {
        Self { attributes: resource.attributes.iter().map(|(key, value)| text(key, value)).collect() }
    }
}

impl Scope {
    fn here() -> Self {
        Self { name: "rbuild".into(), version: env!("CARGO_PKG_VERSION").into() }
    }
}

fn message(context: &TraceContext, resource: &Resource, span: &Span) -> SpanMessage {
    let root = context.span(BUILD);
    let (id, parent) = match (&span.vertex, &span.item) {
        (None, _) => (root, context.parent),
        (Some(vertex), None) => (context.span(vertex.as_str()), Some(root)),
        (Some(vertex), Some(item)) => (context.span(&format!("{vertex} {item}")), Some(context.span(vertex.as_str()))),
    };
    let mut attributes = vec![text("rbuild.outcome", span.outcome)];
    attributes.extend(span.vertex.as_ref().map(|vertex| text("vertex", vertex.as_str())));
    attributes.extend(span.bytes.map(|bytes| KeyValue {
        key: "rbuild.bytes".into(),
        value: Some(AnyValue { text: None, number: Some(i64::try_from(bytes).unwrap_or(i64::MAX)) }),
    }));
    SpanMessage {
        trace_id: context.trace.to_vec(),
        span_id: id.to_vec(),
        trace_state: resource.state.clone(),
        parent_span_id: parent.map_or_else(Vec::new, |parent| parent.to_vec()),
        name: span.name.clone(),
        // Internal: it is neither a client's nor a server's.
        kind: 1,
        start_time_unix_nano: nanoseconds(span.from),
        end_time_unix_nano: nanoseconds(span.to),
        attributes,
        status: span.error.as_ref().map(|message| Status { message: message.clone(), code: 2 }),
        flags: u32::from(context.sampled),
    }
}

fn nanoseconds(at: SystemTime) -> u64 {
    u64::try_from(at.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos()).unwrap_or(u64::MAX)
}

fn text(key: &str, value: &str) -> KeyValue {
    KeyValue { key: key.into(), value: Some(AnyValue { text: Some(value.into()), number: None }) }
}

#[derive(Clone, PartialEq, prost::Message)]
struct Request {
    #[prost(message, repeated, tag = "1")]
    resource_spans: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<ResourceMessage>,
    #[prost(message, repeated, tag = "2")]
    scope_spans: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ResourceMessage {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ScopeSpans {
    #[prost(message, optional, tag = "1")]
    scope: Option<Scope>,
    #[prost(message, repeated, tag = "2")]
    spans: Vec<SpanMessage>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Scope {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    version: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct SpanMessage {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
    #[prost(string, tag = "3")]
    trace_state: String,
    #[prost(bytes = "vec", tag = "4")]
    parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(int32, tag = "6")]
    kind: i32,
    #[prost(fixed64, tag = "7")]
    start_time_unix_nano: u64,
    #[prost(fixed64, tag = "8")]
    end_time_unix_nano: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<KeyValue>,
    #[prost(message, optional, tag = "15")]
    status: Option<Status>,
    #[prost(fixed32, tag = "16")]
    flags: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Status {
    #[prost(string, tag = "2")]
    message: String,
    #[prost(int32, tag = "3")]
    code: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

/// One of these; a `oneof` looks the same on the wire.
#[derive(Clone, PartialEq, prost::Message)]
struct AnyValue {
    #[prost(string, optional, tag = "1")]
    text: Option<String>,
    #[prost(int64, optional, tag = "3")]
    number: Option<i64>,
}

/// The JSON mapping is protobuf's, but for identifiers, which are hexadecimal. 64-bit numbers are texts.
impl Request {
    fn json(&self) -> Value {
        json!({"resourceSpans": self.resource_spans.iter().map(ResourceSpans::json).collect::<Vec<_>>()})
    }
}

impl ResourceSpans {
    fn json(&self) -> Value {
        let scopes = self.scope_spans.iter().map(|scoped| {
            let scope = scoped.scope.clone().unwrap_or_default();
            json!({
                "scope": {"name": scope.name, "version": scope.version},
                "spans": scoped.spans.iter().map(SpanMessage::json).collect::<Vec<_>>(),
            })
        });
        let resource = self.resource.clone().unwrap_or_default();
        json!({"resource": {"attributes": attributes(&resource.attributes)}, "scopeSpans": scopes.collect::<Vec<_>>()})
    }
}

impl SpanMessage {
    fn json(&self) -> Value {
        let mut span = json!({
            "traceId": hex(&self.trace_id),
            "spanId": hex(&self.span_id),
            "parentSpanId": hex(&self.parent_span_id),
            "name": self.name,
            "kind": self.kind,
            "startTimeUnixNano": self.start_time_unix_nano.to_string(),
            "endTimeUnixNano": self.end_time_unix_nano.to_string(),
            "attributes": attributes(&self.attributes),
            "flags": self.flags,
        });
        if !self.trace_state.is_empty() {
            span["traceState"] = self.trace_state.clone().into();
        }
        if let Some(status) = &self.status {
            span["status"] = json!({"code": status.code, "message": status.message});
        }
        span
    }
}

fn attributes(all: &[KeyValue]) -> Value {
    let value = |value: &AnyValue| match value.number {
        Some(number) => json!({"intValue": number.to_string()}),
        None => json!({"stringValue": value.text}),
    };
    all.iter().map(|a| json!({"key": a.key, "value": a.value.as_ref().map(value)})).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::base::Digest;

    fn some() -> Vec<Span> {
        let at = |ms| UNIX_EPOCH + Duration::from_millis(ms);
        let vertex = Digest::sha256("v");
        let span = |name: &str, item: Option<&str>, error: Option<&str>| Span {
            vertex: Some(vertex.clone()),
            item: item.map(ToOwned::to_owned),
            name: name.into(),
            from: at(1),
            to: at(2),
            outcome: "done",
            error: error.map(ToOwned::to_owned),
            bytes: item.map(|_| 300),
        };
        let root = Span { vertex: None, item: None, ..span("rbuild build", None, None) };
        vec![span("sha256:x", Some("sha256:x"), None), span("RUN false", None, Some("exit code: 1")), root]
    }

    fn context() -> TraceContext {
        TraceContext { trace: [0xab; 16], parent: Some([0xcd; 8]), sampled: true }
    }

    // SPEC C9.12
    #[test]
    fn json_has_the_shape_of_the_protocol() {
        let resource = Resource { attributes: vec![("service.name".into(), "ci".into())], state: "a=b".into() };
        let value: Value =
            serde_json::from_slice(&spans(&context(), &resource, &some(), Encoding::Json)).expect("JSON");
        let group = &value["resourceSpans"][0];
        let name = json!({"attributes": [{"key": "service.name", "value": {"stringValue": "ci"}}]});
        assert_eq!(group["resource"], name);
        assert_eq!(group["scopeSpans"][0]["scope"]["name"], "rbuild");
        let spans = group["scopeSpans"][0]["spans"].as_array().expect("spans");
        let [item, step, root] = &spans[..] else { panic!("three spans") };
        assert_eq!(root["parentSpanId"], "cdcdcdcdcdcdcdcd");
        assert_eq!(root["traceId"], "abababababababababababababababab");
        assert_eq!((&root["traceState"], &root["kind"], &root["flags"]), (&json!("a=b"), &json!(1), &json!(1)));
        assert_eq!(step["parentSpanId"], root["spanId"]);
        assert_eq!(item["parentSpanId"], step["spanId"]);
        assert_eq!(step["startTimeUnixNano"], "1000000");
        assert_eq!(step["status"], json!({"code": 2, "message": "exit code: 1"}));
        assert_eq!(root.get("status"), None);
        let bytes = json!({"key": "rbuild.bytes", "value": {"intValue": "300"}});
        assert!(item["attributes"].as_array().is_some_and(|all| all.contains(&bytes)));
        assert_eq!(super::spans(&context(), &resource, &[], Encoding::Json), br#"{"resourceSpans":[]}"#);
    }

    /// The fields of a message on the wire: number and, for those with a length, content.
    fn fields(mut wire: &[u8]) -> Vec<(u64, Vec<u8>)> {
        fn varint(wire: &mut &[u8]) -> u64 {
            let (mut value, mut shift) = (0, 0);
            loop {
                let (byte, rest) = wire.split_first().expect("a byte");
                *wire = rest;
                value |= u64::from(byte & 0x7f) << shift;
                shift += 7;
                if byte & 0x80 == 0 {
                    return value;
                }
            }
        }
        let mut found = Vec::new();
        while !wire.is_empty() {
            let tag = varint(&mut wire);
            let length = match tag & 7 {
                0 => {
                    let value = varint(&mut wire);
                    found.push((tag >> 3, value.to_le_bytes().to_vec()));
                    continue;
                }
                1 => 8,
                2 => usize::try_from(varint(&mut wire)).expect("small"),
                5 => 4,
                other => panic!("wire type {other}"),
            };
            let (content, rest) = wire.split_at(length);
            found.push((tag >> 3, content.to_vec()));
            wire = rest;
        }
        found
    }

    // SPEC C9.12: numbers of fields as in opentelemetry-proto's trace.proto.
    #[test]
    fn protobuf_has_the_numbers_of_the_protocol() {
        let wire = spans(&context(), &Resource::default(), &some()[1..2], Encoding::Protobuf);
        let get = |wire: &[u8], number: u64| {
            fields(wire).into_iter().find(|(n, _)| *n == number).map(|(_, content)| content).unwrap_or_default()
        };
        let span = get(&get(&get(&wire, 1), 2), 2);
        assert_eq!(get(&span, 1), [0xab; 16]);
        assert_eq!(get(&span, 2), context().span(Digest::sha256("v").as_str()));
        assert_eq!(get(&span, 4), context().span(BUILD));
        assert_eq!(get(&span, 5), b"RUN false");
        assert_eq!(get(&span, 7), 1_000_000_u64.to_le_bytes());
        assert_eq!(get(&span, 8), 2_000_000_u64.to_le_bytes());
        assert_eq!(get(&get(&span, 15), 2), b"exit code: 1");
        assert_eq!(get(&get(&span, 15), 3), 2_u64.to_le_bytes());
        assert_eq!(get(&span, 16), 1_u32.to_le_bytes());
        assert_eq!(get(&get(&get(&span, 9), 2), 1), b"done");
        assert!(spans(&context(), &Resource::default(), &[], Encoding::Protobuf).is_empty());
    }
}
