//! JSON lines of SolveStatus (SPEC B6.04).

use std::io::{self, Write};
use std::time::SystemTime;

use base64::Engine as _;
use serde_json::{Map, Value, json};

use super::Sink;
use super::state::{State, Vertex};
use crate::base::events::{Outcome, Stream};
use crate::base::{Digest, Event};

pub(super) struct RawJson;

impl Sink for RawJson {
    fn event(&mut self, event: &Event, state: &State, out: &mut dyn Write) -> io::Result<()> {
        let line = match event {
            Event::Vertex { id, .. } | Event::Started { id, .. } | Event::Completed { id, .. } => {
                json!({"vertexes": [vertex(id, state)]})
            }
            Event::Progress { id, item, current, total, done, at } => {
                let item_of = |vertex: &Vertex| vertex.items.iter().find(|known| known.name == *item).map(|i| i.begun);
                let begun = state.vertex(id).and_then(item_of).unwrap_or(*at);
                let mut status = json!({"id": item, "vertex": id, "current": current, "timestamp": time(*at), "started": time(begun)});
                if let Some(total) = total {
                    status["total"] = json!(total);
                }
                if *done {
                    status["completed"] = json!(time(*at));
                }
                json!({"statuses": [status]})
            }
            Event::Log { id, stream, data, at } => {
                let stream = if *stream == Stream::Stdout { 1 } else { 2 };
                let data = base64::engine::general_purpose::STANDARD.encode(data);
                json!({"logs": [{"vertex": id, "stream": stream, "data": data, "timestamp": time(*at)}]})
            }
            Event::Warning(w) => {
                let encode = |s: &str| base64::engine::general_purpose::STANDARD.encode(s);
                let mut warning = json!({"level": 1, "short": encode(&w.short), "detail": w.detail.iter().map(|d| encode(d)).collect::<Vec<_>>()});
                if let Some(id) = &w.vertex {
                    warning["vertex"] = json!(id);
                }
                if let Some(url) = &w.url {
                    warning["url"] = json!(url);
                }
                if let Some((file, from, to)) = &w.location {
                    warning["sourceInfo"] = json!({"filename": file});
                    warning["range"] = json!([{"start": {"line": from}, "end": {"line": to}}]);
                }
                json!({"warnings": [warning]})
            }
            Event::Notice { text, .. } => {
                let short = base64::engine::general_purpose::STANDARD.encode(text);
                json!({"warnings": [{"level": 0, "short": short}]})
            }
        };
        writeln!(out, "{line}")?;
        out.flush()
    }
}

fn vertex(id: &Digest, state: &State) -> Value {
    let mut map = Map::new();
    map.insert("digest".into(), json!(id));
    if let Some(vertex) = state.vertex(id) {
        if !vertex.inputs.is_empty() {
            map.insert("inputs".into(), json!(vertex.inputs));
        }
        map.insert("name".into(), json!(vertex.name));
        if let Some(at) = vertex.started {
            map.insert("started".into(), json!(time(at)));
        }
        if let Some(at) = vertex.completed {
            map.insert("completed".into(), json!(time(at)));
        }
        match &vertex.outcome {
            Some(Outcome::Cached) => {
                map.insert("cached".into(), json!(true));
            }
            Some(Outcome::Failed(message)) => {
                map.insert("error".into(), json!(message));
            }
            Some(Outcome::Canceled) => {
                map.insert("error".into(), json!("context canceled"));
            }
            _ => {}
        }
    }
    Value::Object(map)
}

fn time(at: SystemTime) -> String {
    jiff::Timestamp::try_from(at).map_or_else(|_| String::new(), |t| t.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(id: &Digest, current: u64, seconds: u64) -> Event {
        let at = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
        Event::Progress { id: id.clone(), item: "sha256:1".into(), current, total: Some(2), done: false, at }
    }

    #[test]
    fn b6_04_the_format() {
        let (id, base) = (Digest::sha256("a"), Digest::sha256("b"));
        let (mut state, mut out) = (State::default(), Vec::new());
        for event in [
            Event::Vertex { id: id.clone(), name: "n".into(), inputs: vec![base.clone()] },
            Event::Completed { id: id.clone(), at: SystemTime::UNIX_EPOCH, outcome: Outcome::Cached },
            Event::Log { id: id.clone(), stream: Stream::Stderr, data: "hi".into(), at: SystemTime::UNIX_EPOCH },
            progress(&id, 1, 0),
            progress(&id, 2, 1),
            Event::Vertex { id: base, name: "source".into(), inputs: vec![] },
        ] {
            state.take(&event);
            RawJson.event(&event, &state, &mut out).expect("a Vec takes everything");
        }
        let lines: Vec<Value> =
            String::from_utf8(out).expect("text").lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
        assert_eq!(lines[0]["vertexes"][0]["name"], "n");
        assert_eq!(lines[1]["vertexes"][0]["cached"], true);
        // Each message about a vertex says all that is known of it, what it builds on included.
        assert_eq!(lines[1]["vertexes"][0]["inputs"], lines[0]["vertexes"][0]["inputs"]);
        assert!(lines[0]["vertexes"][0]["inputs"].is_array() && lines[5]["vertexes"][0].get("inputs").is_none());
        let (first, second) = (&lines[3]["statuses"][0], &lines[4]["statuses"][0]);
        assert_eq!((&second["current"], &second["timestamp"]), (&json!(2), &json!("1970-01-01T00:00:01Z")));
        assert_eq!((&first["started"], &second["started"]), (&json!("1970-01-01T00:00:00Z"), &first["started"]));
        assert!(first.get("completed").is_none() && second["total"] == 2);
        assert_eq!(lines[1]["vertexes"][0]["completed"], "1970-01-01T00:00:00Z");
        assert_eq!(
            (lines[2]["logs"][0]["stream"].as_i64(), lines[2]["logs"][0]["data"].as_str()),
            (Some(2), Some("aGk="))
        );
    }
}
