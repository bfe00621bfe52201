//! Spans of builds at a collector (SPEC C9.12, B5.10): a stand-in that keeps what it is sent.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::print_stderr, reason = "skip reasons are collected by scripts/test")]
#![allow(missing_docs, unreachable_pub, reason = "a test program")]

// Of use to nobody else.
#[path = "support/fake_registry/mod.rs"]
mod fake_registry;
#[path = "support/grpc.rs"]
mod grpc;
mod support;

use std::io::Read as _;

use fake_registry::FakeRegistry;
use grpc::Grpc;
use prost::Message as _;
use serde_json::Value;
use support::Bench;
use support::web::{Answer, Web};

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn bench(endpoint: &str, more: &[(&str, &str)]) -> Bench {
    let mut bench = Bench::new();
    bench.env.push(("OTEL_EXPORTER_OTLP_ENDPOINT".into(), endpoint.into()));
    bench.env.extend(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    bench.dockerfile("FROM scratch\nCOPY Dockerfile /\n");
    bench
}

/// All spans that arrived as JSON, with the resource of the last request.
fn spans(collector: &Web) -> (Vec<Value>, Value) {
    let (mut spans, mut resource) = (Vec::new(), Value::Null);
    for request in collector.requests() {
        assert_eq!((request.method.as_str(), request.path()), ("POST", "/v1/traces"));
        assert_eq!(request.header("content-type"), Some("application/json"));
        assert_eq!(request.header("api-key"), Some("secret words"));
        let body: Value = serde_json::from_slice(&request.body).unwrap();
        for group in body["resourceSpans"].as_array().unwrap() {
            resource = group["resource"].clone();
            spans.extend(group["scopeSpans"][0]["spans"].as_array().unwrap().iter().cloned());
        }
    }
    (spans, resource)
}

// SPEC C9.12, C5.17, B5.10
#[test]
fn a_collector_gets_the_spans_of_a_build_and_steps_their_parent() {
    need_run!();
    let collector = Web::start(|_| Answer::new(200).with_body("application/json", b"{}".to_vec()));
    let bench = bench(
        &format!("http://{}", collector.host),
        &[
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=secret%20words"),
            ("OTEL_SERVICE_NAME", "ci"),
            ("OTEL_RESOURCE_ATTRIBUTES", "team=build"),
            ("TRACEPARENT", PARENT),
            ("TRACESTATE", "vendor=x"),
        ],
    );
    bench.dockerfile("FROM busybox\nRUN echo \"inside:$TRACEPARENT\"\nRUN TRACEPARENT= false\n");
    let run = bench.build(&[]);
    assert_eq!(run.code, 9, "{}", run.stderr);
    let (spans, resource) = spans(&collector);
    let text = resource.to_string();
    assert!(text.contains(r#""key":"service.name","value":{"stringValue":"ci"}"#) && text.contains("team"), "{text}");
    let named = |name: &str| spans.iter().find(|s| s["name"].as_str().unwrap().contains(name)).unwrap();
    let (build, step, failed) = (named("rbuild build"), named("RUN echo"), named("RUN TRACEPARENT= false"));
    for span in &spans {
        assert_eq!((&span["traceId"], &span["traceState"]), (&build["traceId"], &"vendor=x".into()));
        let number = |key: &str| span[key].as_str().unwrap().parse::<u64>().unwrap();
        assert!(number("startTimeUnixNano") > 1_600_000_000_000_000_000);
        assert!(number("endTimeUnixNano") >= number("startTimeUnixNano"));
    }
    assert_eq!(build["traceId"], "0af7651916cd43dd8448eb211c80319c");
    assert_eq!(build["parentSpanId"], "b7ad6b7169203331");
    assert_eq!((&step["parentSpanId"], &failed["parentSpanId"]), (&build["spanId"], &build["spanId"]));
    assert_eq!((&failed["status"]["code"], &build["status"]["code"]), (&2.into(), &2.into()));
    assert_eq!(step.get("status"), None);
    let inside = format!("inside:00-0af7651916cd43dd8448eb211c80319c-{}-01", step["spanId"].as_str().unwrap());
    assert!(run.stderr.contains(&inside), "{inside} in {}", run.stderr);
}

/// What a program sends that speaks gRPC: HTTP/2's preface, settings, the headers of one call without any compression, its message.
fn call(path: &str, message: &[u8]) -> Vec<u8> {
    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    }
    let mut headers = Vec::new();
    for (name, value) in [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ] {
        // A literal that enters no table (RFC 7541, 6.2.2).
        headers.push(0);
        for text in [name, value] {
            let length = u8::try_from(text.len()).unwrap();
            assert!(length < 127, "one byte says it");
            headers.push(length);
            headers.extend_from_slice(text.as_bytes());
        }
    }
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    let body = [&[0], &length[..], message].concat();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    [preface.to_vec(), frame(4, 0, 0, &[]), frame(1, 4, 1, &headers), frame(0, 1, 1, &body)].concat()
}

/// Sends a file to the socket and waits for the end of the answer: a frame of headers that ends the stream.
const SENDER: &str = r#"
import os, socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(os.environ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"].removeprefix("unix://"))
s.sendall(open(sys.argv[1], "rb").read())
s.settimeout(20)
data = b""
while True:
    more = s.recv(65536)
    if not more: sys.exit("the connection ended")
    data += more
    rest = data
    while len(rest) >= 9 and len(rest) >= 9 + int.from_bytes(rest[:3], "big"):
        if rest[3] == 1 and rest[4] & 1: sys.exit(0)
        rest = rest[9 + int.from_bytes(rest[:3], "big"):]
"#;

#[test]
fn c5_17_steps_send_spans_through_a_socket_of_the_build() {
    need_run!();
    let collector = Grpc::start(0, "");
    let protocol = ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");
    let more = [protocol, ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=secret%20words")];
    let mut bench = bench(&format!("http://{}", collector.host), &more);
    let method = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
    bench.file("spans", call(method, b"what the step did")).file("send.py", SENDER);
    let mount = "--mount=target=/src";
    bench.dockerfile(&format!(
        "FROM python\nRUN {mount} test $OTEL_TRACES_EXPORTER$OTEL_EXPORTER_OTLP_TRACES_PROTOCOL = otlpgrpc && python3 /src/send.py /src/spans\n\
         USER 1234\nRUN {mount} python3 /src/send.py /src/spans && ! env | grep -q secret\n\
         ENV OTEL_SERVICE_NAME=mine\nRUN ! test -e /dev/otel-grpc.sock && test -z \"$OTEL_TRACES_EXPORTER\"\n"
    ));
    let image = bench.build_image(&[]);
    assert!(!image.has("dev/otel-grpc.sock"), "nothing of it is in the image");
    let told: Vec<_> = collector.calls().into_iter().filter(|call| call.message == b"what the step did").collect();
    assert_eq!(told.len(), 2, "as root and as another user");
    assert!(told.iter().all(|call| call.path == method && call.header("api-key") == Some("secret words")));
    // Without a collector there is neither socket nor variable, and the same steps are cached.
    bench.env.clear();
    assert_eq!(bench.build(&[]).ok().count("CACHED"), 3);
    bench.dockerfile("FROM busybox\nRUN ! test -e /dev/otel-grpc.sock && ! env | grep OTEL\n");
    bench.build(&[]).ok();
}

// SPEC C9.12: what a step is told is no part of its key.
#[test]
fn a_trace_changes_no_result() {
    need_run!();
    let collector = Web::start(|_| Answer::new(200));
    let protocol = ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf");
    let mut bench = bench(&format!("http://{}", collector.host), &[protocol]);
    bench.dockerfile(
        "FROM busybox\nRUN test -n \"$TRACEPARENT\" && touch /x\nENV TRACEPARENT=mine\nRUN test $TRACEPARENT = mine\n",
    );
    bench.build(&[]).ok();
    let requests = collector.requests();
    assert!(requests.iter().all(|r| r.header("content-type") == Some("application/x-protobuf")));
    assert!(requests.iter().any(|r| r.body.windows(12).any(|w| w == b"rbuild build")));
    bench.env.clear();
    assert_eq!(bench.build(&[]).ok().count("CACHED"), 2, "without a trace the same steps are cached");
}

// SPEC C9.12: telemetry that does not work is a notice.
#[test]
fn a_collector_that_is_away_or_refuses_never_fails_a_build() {
    let refusing = Web::start(|_| Answer::new(403));
    let denying = Grpc::start(16, "no%20key");
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent_at = silent.local_addr().unwrap();
    for (endpoint, said) in [
        ("http://127.0.0.1:1/v1".to_owned(), "spans did not reach http://127.0.0.1:1/v1/v1/traces: "),
        ("http://127.0.0.1:1".to_owned(), "spans did not reach http://127.0.0.1:1/opentelemetry.proto.collector"),
        (format!("http://{}/otlp", refusing.host), "it answers 403 Forbidden"),
        (format!("http://{silent_at}"), "it does not answer in time"),
        (format!("http://{}", denying.host), "it answers UNAUTHENTICATED: no key"),
        (
            "unix:///dev/otel-grpc.sock".into(),
            "no spans are sent: OTEL_EXPORTER_OTLP_ENDPOINT is not an http or https URL",
        ),
    ] {
        let mut bench = bench(&endpoint, &[]);
        let run = bench.build(&[]).ok();
        assert!(run.stderr.contains(said), "{said:?} in {}", run.stderr);
        bench.env.push(("OTEL_IGNORE_ERROR".into(), "1".into()));
        if endpoint.starts_with("http") {
            assert!(!bench.build(&[]).ok().stderr.contains("spans did not reach"));
        }
    }
}

/// The messages of opentelemetry-proto, as far as they are looked at.
mod proto {
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Traces {
        #[prost(message, repeated, tag = "1")]
        pub resources: Vec<Resource>,
    }

    /// ResourceSpans and ResourceMetrics.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Resource {
        #[prost(message, repeated, tag = "2")]
        pub scopes: Vec<Scope>,
    }

    /// ScopeSpans.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Scope {
        #[prost(message, repeated, tag = "2")]
        pub spans: Vec<Span>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Span {
        #[prost(bytes = "vec", tag = "1")]
        pub trace_id: Vec<u8>,
        #[prost(bytes = "vec", tag = "2")]
        pub span_id: Vec<u8>,
        #[prost(bytes = "vec", tag = "4")]
        pub parent_span_id: Vec<u8>,
        #[prost(string, tag = "5")]
        pub name: String,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Metrics {
        #[prost(message, repeated, tag = "1")]
        pub resources: Vec<ResourceMetrics>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct ResourceMetrics {
        #[prost(message, repeated, tag = "2")]
        pub scopes: Vec<ScopeMetrics>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct ScopeMetrics {
        #[prost(message, repeated, tag = "2")]
        pub metrics: Vec<Metric>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Metric {
        #[prost(string, tag = "1")]
        pub name: String,
        #[prost(message, optional, tag = "5")]
        pub gauge: Option<Gauge>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Gauge {
        #[prost(message, repeated, tag = "1")]
        pub points: Vec<Point>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Point {
        #[prost(double, tag = "4")]
        pub value: f64,
    }
}

// SPEC C9.12, B5.10
#[test]
fn c9_12_grpc_is_what_is_spoken_unless_something_says_http() {
    let collector = Grpc::start(0, "");
    for protocol in [None, Some(("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"))] {
        let before = collector.calls().len();
        let more = [("TRACEPARENT", PARENT), ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=secret%20words")];
        let more: Vec<_> = more.into_iter().chain(protocol).collect();
        let run = bench(&format!("http://{}", collector.host), &more).build(&[]).ok();
        assert!(!run.stderr.contains("spans"), "{}", run.stderr);
        let mut spans = Vec::new();
        for call in &collector.calls()[before..] {
            assert_eq!(call.path, "/opentelemetry.proto.collector.trace.v1.TraceService/Export");
            assert_eq!((call.header("content-type"), call.header("te")), (Some("application/grpc"), Some("trailers")));
            assert_eq!(call.header("api-key"), Some("secret words"));
            let message = proto::Traces::decode(call.message.as_slice()).unwrap();
            spans.extend(message.resources.into_iter().flat_map(|r| r.scopes).flat_map(|s| s.spans));
        }
        let named = |name: &str| spans.iter().find(|s| s.name.contains(name)).unwrap();
        let (build, step) = (named("rbuild build"), named("COPY Dockerfile"));
        assert_eq!(build.parent_span_id, [0xb7, 0xad, 0x6b, 0x71, 0x69, 0x20, 0x33, 0x31]);
        assert_eq!((&step.parent_span_id, &step.trace_id), (&build.span_id, &build.trace_id));
    }
}

// SPEC B5.10
#[test]
fn b5_10_metrics_are_sent_to_who_asks_for_them() {
    let (grpc, web) = (Grpc::start(0, ""), Web::start(|_| Answer::new(200)));
    let mut bench = bench(&format!("http://{}", grpc.host), &[("OTEL_TRACES_EXPORTER", "none")]);
    bench.build(&[]).ok();
    assert!(grpc.calls().is_empty(), "nobody asked");
    bench.env.push(("OTEL_METRICS_EXPORTER".into(), "otlp".into()));
    bench.build(&[]).ok();
    let [call] = &grpc.calls()[..] else { panic!("{:?}", grpc.calls()) };
    assert_eq!(call.path, "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export");
    let message = proto::Metrics::decode(call.message.as_slice()).unwrap();
    let metrics: Vec<_> = message.resources.into_iter().flat_map(|r| r.scopes).flat_map(|s| s.metrics).collect();
    let value = |name: &str| metrics.iter().find(|m| m.name == name).unwrap().gauge.as_ref().unwrap().points[0].value;
    assert_eq!(["rbuild.build.success", "rbuild.build.steps", "rbuild.build.steps.cached"].map(value), [1.0; 3]);
    bench.env.push(("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT".into(), format!("http://{}/m", web.host)));
    bench.env.push(("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL".into(), "http/json".into()));
    bench.dockerfile("FROM scratch\nCOPY missing /\n");
    assert_ne!(bench.build(&[]).code, 0);
    let [request] = &web.requests()[..] else { panic!("one request") };
    let body: Value = serde_json::from_slice(&request.body).unwrap();
    let first = &body["resourceMetrics"][0]["scopeMetrics"][0]["metrics"][0];
    assert_eq!(
        (&first["name"], &first["gauge"]["dataPoints"][0]["asDouble"]),
        (&"rbuild.build.success".into(), &0.0.into())
    );
    bench.env.push(("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT".into(), "http://127.0.0.1:1/m".into()));
    let run = bench.build(&[]);
    assert!(run.stderr.contains("notice: metrics did not reach http://127.0.0.1:1/m: "), "{}", run.stderr);
}

// SPEC B5.10: compressed by HTTP and by gRPC.
#[test]
fn b5_10_spans_are_compressed_where_that_is_asked_for() {
    let gzip = ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip");
    let web = Web::start(|_| Answer::new(200));
    let http = ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json");
    bench(&format!("http://{}", web.host), &[gzip, http]).build(&[]).ok();
    let last = web.requests().pop().unwrap();
    assert_eq!(last.header("content-encoding"), Some("gzip"));
    let mut text = String::new();
    flate2::read::GzDecoder::new(last.body.as_slice()).read_to_string(&mut text).unwrap();
    assert!(text.contains("rbuild build"), "{text}");
    let collector = Grpc::start(0, "");
    bench(&format!("http://{}", collector.host), &[gzip]).build(&[]).ok();
    let last = collector.calls().pop().unwrap();
    assert_eq!(last.header("grpc-encoding"), Some("gzip"));
    let message = proto::Traces::decode(last.message.as_slice()).unwrap();
    assert_eq!(message.resources[0].scopes[0].spans.last().unwrap().name, "rbuild build");
}

// SPEC B5.10: a collector with an authority of its own that wants a certificate. The stand-in knows no spans, and says so to those only
// whom it lets in.
#[test]
fn b5_10_a_collector_is_trusted_and_shown_a_certificate() {
    let collector = FakeRegistry::start_closed();
    let mut bench = bench(
        &format!("https://{}", collector.host()),
        &[("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"), ("OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "ca.pem")],
    );
    let texts: [&[u8]; 3] = [
        include_bytes!("support/tls/ca.crt"),
        include_bytes!("support/tls/client.crt"),
        include_bytes!("support/tls/client.key"),
    ];
    let missing = bench.build(&[]).ok();
    assert!(missing.stderr.contains("spans did not reach") && missing.stderr.contains("ca.pem"), "{}", missing.stderr);
    for (name, text) in ["ca.pem", "me.pem", "me.key"].iter().zip(texts) {
        std::fs::write(bench.path("out").join(name), text).unwrap();
    }
    let stranger = bench.build(&[]).ok();
    assert!(stranger.stderr.contains("CertificateRequired"), "{}", stranger.stderr);
    assert!(collector.requests().is_empty());
    bench.env.push(("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE".into(), "me.pem".into()));
    let keyless = bench.build(&[]).ok();
    assert!(keyless.stderr.contains("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE is set, and no key"), "{}", keyless.stderr);
    bench.env.push(("OTEL_EXPORTER_OTLP_CLIENT_KEY".into(), "me.key".into()));
    let known = bench.build(&[]).ok();
    assert!(known.stderr.contains("it answers 404"), "{}", known.stderr);
    assert!(collector.requests().iter().all(|r| r.target == "/v1/traces" && r.method == "POST"));
}
