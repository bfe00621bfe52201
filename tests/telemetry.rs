//! Spans of builds at a collector (SPEC C9.12, B5.10): a stand-in that keeps what it is sent.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::print_stderr, reason = "skip reasons are collected by scripts/test")]
#![allow(missing_docs, unreachable_pub, reason = "a test program")]

mod support;

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

// SPEC C9.12: what a step is told is no part of its key.
#[test]
fn a_trace_changes_no_result() {
    need_run!();
    let collector = Web::start(|_| Answer::new(200));
    let mut bench = bench(&format!("http://{}", collector.host), &[]);
    bench.dockerfile(
        "FROM busybox\nRUN test -n \"$TRACEPARENT\" && touch /x\nENV TRACEPARENT=mine\nRUN test $TRACEPARENT = mine\n",
    );
    bench.build(&[]).ok();
    let requests = collector.requests();
    assert!(requests.iter().all(|r| r.header("content-type") == Some("application/x-protobuf")), "the usual encoding");
    assert!(requests.iter().any(|r| r.body.windows(12).any(|w| w == b"rbuild build")));
    bench.env.clear();
    assert_eq!(bench.build(&[]).ok().count("CACHED"), 2, "without a trace the same steps are cached");
}

// SPEC C9.12: telemetry that does not work is a notice.
#[test]
fn a_collector_that_is_away_or_refuses_never_fails_a_build() {
    let refusing = Web::start(|_| Answer::new(403));
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent_at = silent.local_addr().unwrap();
    for (endpoint, said) in [
        ("http://127.0.0.1:1".to_owned(), "spans did not reach http://127.0.0.1:1/v1/traces: "),
        (format!("http://{}", refusing.host), "it answers 403 Forbidden"),
        (format!("http://{silent_at}"), "it does not answer in time"),
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
