//! Numbers as OpenTelemetry's protocol has them (`opentelemetry/proto/collector/metrics/v1`): each is a gauge with one point.

use std::time::SystemTime;

use prost::Message as _;
use serde_json::{Value, json};

use super::{Encoding, KeyValue, Resource, ResourceMessage, Scope, attributes, nanoseconds};
use crate::ui::summary::Gauge;

/// A request to a collector of metrics: what these numbers were at this time.
#[must_use]
pub fn metrics(resource: &Resource, gauges: &[Gauge], at: SystemTime, encoding: Encoding) -> Vec<u8> {
    let metric = |gauge: &Gauge| MetricMessage {
        name: format!("rbuild.{}", gauge.name),
        description: gauge.help.into(),
        unit: gauge.unit.into(),
        gauge: Some(GaugeMessage {
            points: vec![Point { attributes: Vec::new(), time_unix_nano: nanoseconds(at), value: Some(gauge.value) }],
        }),
    };
    let request = Request {
        resource_metrics: vec![ResourceMetrics {
            resource: Some(ResourceMessage::of(resource)),
            scope_metrics: vec![ScopeMetrics {
                scope: Some(Scope::here()),
                metrics: gauges.iter().map(metric).collect(),
            }],
        }],
    };
    match encoding {
        Encoding::Protobuf => request.encode_to_vec(),
        Encoding::Json => request.json().to_string().into_bytes(),
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct Request {
    #[prost(message, repeated, tag = "1")]
    resource_metrics: Vec<ResourceMetrics>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ResourceMetrics {
    #[prost(message, optional, tag = "1")]
    resource: Option<ResourceMessage>,
    #[prost(message, repeated, tag = "2")]
    scope_metrics: Vec<ScopeMetrics>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ScopeMetrics {
    #[prost(message, optional, tag = "1")]
    scope: Option<Scope>,
    #[prost(message, repeated, tag = "2")]
    metrics: Vec<MetricMessage>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct MetricMessage {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    description: String,
    #[prost(string, tag = "3")]
    unit: String,
    #[prost(message, optional, tag = "5")]
    gauge: Option<GaugeMessage>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct GaugeMessage {
    #[prost(message, repeated, tag = "1")]
    points: Vec<Point>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Point {
    #[prost(fixed64, tag = "3")]
    time_unix_nano: u64,
    #[prost(double, optional, tag = "4")]
    value: Option<f64>,
    #[prost(message, repeated, tag = "7")]
    attributes: Vec<KeyValue>,
}

impl Request {
    fn json(&self) -> Value {
        json!({"resourceMetrics": self.resource_metrics.iter().map(ResourceMetrics::json).collect::<Vec<_>>()})
    }
}

impl ResourceMetrics {
    fn json(&self) -> Value {
        let scopes = self.scope_metrics.iter().map(|scoped| {
            let scope = scoped.scope.clone().unwrap_or_default();
            json!({
                "scope": {"name": scope.name, "version": scope.version},
                "metrics": scoped.metrics.iter().map(MetricMessage::json).collect::<Vec<_>>(),
            })
        });
        let resource = self.resource.clone().unwrap_or_default();
        json!({"resource": {"attributes": attributes(&resource.attributes)}, "scopeMetrics": scopes.collect::<Vec<_>>()})
    }
}

impl MetricMessage {
    fn json(&self) -> Value {
        let points = self.gauge.iter().flat_map(|gauge| &gauge.points);
        let points = points.map(|p| json!({"timeUnixNano": p.time_unix_nano.to_string(), "asDouble": p.value}));
        json!({
            "name": self.name,
            "description": self.description,
            "unit": self.unit,
            "gauge": {"dataPoints": points.collect::<Vec<_>>()},
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    // SPEC B5.10: names and numbers of fields as in opentelemetry-proto's metrics.proto.
    #[test]
    fn b5_10_a_gauge_has_the_shape_of_the_protocol() {
        let gauges = [Gauge { name: "build.duration", unit: "s", help: "How long.", value: 1.5 }];
        let resource = Resource { attributes: vec![("service.name".into(), "ci".into())], state: String::new() };
        let at = UNIX_EPOCH + Duration::from_nanos(7);
        let text = metrics(&resource, &gauges, at, Encoding::Json);
        let value: Value = serde_json::from_slice(&text).expect("JSON");
        let metric = &value["resourceMetrics"][0]["scopeMetrics"][0]["metrics"][0];
        assert_eq!(
            *metric,
            json!({
                "name": "rbuild.build.duration", "description": "How long.", "unit": "s",
                "gauge": {"dataPoints": [{"timeUnixNano": "7", "asDouble": 1.5}]},
            })
        );
        let wire = metrics(&resource, &gauges, at, Encoding::Protobuf);
        // Gauge (5), its point (1), time (3, fixed), value (4, double).
        let point = [&[0x2a, 20, 0x0a, 18, 0x19, 7, 0, 0, 0, 0, 0, 0, 0, 0x21][..], &1.5_f64.to_le_bytes()].concat();
        assert!(wire.ends_with(&point), "{wire:x?}");
    }
}
