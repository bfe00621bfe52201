//! Where a build's time went, for people, for scripts (JSON) and for fleets (Prometheus text).

use std::collections::HashSet;
use std::fmt::Write as _;
use std::time::SystemTime;

use serde::Serialize;

use super::state::{State, is_instruction};
use super::tty::fit;
use crate::base::events::{Outcome, SAVED};
use crate::base::wording::size;

/// Steps that are named as the slowest.
const SLOWEST: usize = 3;

/// One step.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StepSummary {
    /// Name, as progress shows it.
    pub name: String,
    /// Seconds.
    pub seconds: f64,
    /// `done`, `cached`, `failed`, `canceled` or `running`.
    pub outcome: &'static str,
    /// It is an instruction of the Dockerfile; the others are around them.
    pub instruction: bool,
}

/// A build in numbers. The JSON form is kept stable: fields are added, never changed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// Wall-clock seconds.
    pub seconds: f64,
    /// Steps of the Dockerfile and around it.
    pub steps: Vec<StepSummary>,
    /// How many of them are instructions of the Dockerfile.
    pub instructions: usize,
    /// How many of these were found in a cache.
    pub cached: usize,
    /// Bytes that came from registries and other servers.
    pub bytes_pulled: u64,
    /// Bytes that went to registries.
    pub bytes_pushed: u64,
    /// Bytes of layers that did not have to go there: the registry has them, or took them from another repository.
    pub bytes_saved: u64,
}

/// A number about a build, for whoever collects numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct Gauge {
    /// With dots, as OpenTelemetry has it.
    pub name: &'static str,
    /// As OpenTelemetry has it: `s`, `By`, or nothing.
    pub unit: &'static str,
    /// A sentence.
    pub help: &'static str,
    /// In this unit.
    pub value: f64,
}

impl Summary {
    pub(super) fn of(state: &State, now: SystemTime) -> Self {
        let seconds = state.begun.and_then(|b| now.duration_since(b).ok()).map_or(0.0, |d| d.as_secs_f64());
        let steps: Vec<StepSummary> = state
            .all()
            .filter(|v| v.started.is_some())
            .map(|v| StepSummary {
                name: v.name.clone(),
                seconds: v.seconds(now),
                outcome: match &v.outcome {
                    Some(Outcome::Done) => "done",
                    Some(Outcome::Cached) => "cached",
                    Some(Outcome::Failed(_)) => "failed",
                    Some(Outcome::Canceled) => "canceled",
                    None => "running",
                },
                instruction: is_instruction(&v.name),
            })
            .collect();
        let items = || state.all().flat_map(|v| &v.items);
        // A layer that was sent ahead is there when its image is pushed: that saved nothing.
        let sent: HashSet<&str> = items().filter_map(|i| i.name.strip_prefix("pushing ")).collect();
        let saved = items().filter_map(|i| Some((i, SAVED.iter().find_map(|how| i.name.strip_prefix(how))?)));
        Self {
            seconds,
            instructions: steps.iter().filter(|s| s.instruction).count(),
            cached: steps.iter().filter(|s| s.instruction && s.outcome == "cached").count(),
            steps,
            bytes_pulled: items().filter(|i| i.name.starts_with("sha256:")).map(|i| i.current).sum(),
            bytes_pushed: items().filter(|i| i.name.starts_with("pushing sha256:")).map(|i| i.current).sum(),
            bytes_saved: saved.filter(|(_, layer)| !sent.contains(layer)).map(|(i, _)| i.current).sum(),
        }
    }

    /// A line for people, and the slowest steps where there are several slow ones, in so many columns.
    #[must_use]
    pub fn text(&self, width: usize) -> String {
        let mut out = format!("built in {:.1}s", self.seconds);
        match self.instructions {
            // Nothing but metadata.
            0 => {}
            1 if self.cached == 1 => out.push_str(": its step was cached"),
            1 => out.push_str(": 1 step"),
            all => {
                let _ = write!(out, ": {} of {all} steps cached", self.cached);
            }
        }
        let transfers = [(self.bytes_pulled, "pulled"), (self.bytes_pushed, "pushed"), (self.bytes_saved, "saved")];
        for (bytes, what) in transfers {
            if bytes > 0 {
                let _ = write!(out, ", {} {what}", size(bytes));
            }
        }
        let mut slow: Vec<&StepSummary> = self.steps.iter().filter(|s| s.seconds >= 0.5).collect();
        slow.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        if slow.len() > 1 {
            for step in slow.iter().take(SLOWEST) {
                let time = format!("  {:>6.1}s ", step.seconds);
                let _ = write!(out, "\n{time}{}", fit(&step.name, width.saturating_sub(time.len())));
            }
        }
        out
    }

    /// The same for scripts.
    #[must_use]
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// What it came to in numbers.
    #[must_use]
    pub fn gauges(&self, succeeded: bool) -> Vec<Gauge> {
        #[expect(clippy::cast_precision_loss, reason = "nobody has 2^53 of them")]
        let gauge = |name, unit, help, value: u64| Gauge { name, unit, help, value: value as f64 };
        let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        let seconds = (self.seconds * 1000.0).round() / 1000.0;
        vec![
            gauge("build.success", "", "1 if the last build succeeded.", succeeded.into()),
            Gauge { name: "build.duration", unit: "s", help: "Wall-clock time of the last build.", value: seconds },
            gauge("build.steps", "", "Instructions the last build came to.", count(self.instructions)),
            gauge("build.steps.cached", "", "Instructions of the last build found in a cache.", count(self.cached)),
            gauge("build.pulled", "By", "Bytes the last build downloaded.", self.bytes_pulled),
            gauge("build.pushed", "By", "Bytes the last build uploaded.", self.bytes_pushed),
            gauge("build.saved", "By", "Bytes of layers the last build did not have to upload.", self.bytes_saved),
        ]
    }

    /// The same in Prometheus's text format, for node_exporter's textfile collector.
    #[must_use]
    pub fn prometheus(&self, succeeded: bool) -> String {
        let mut out = String::new();
        for Gauge { name, unit, help, value } in self.gauges(succeeded) {
            let unit = match unit {
                "s" => "_seconds",
                "By" => "_bytes",
                _ => "",
            };
            let name = format!("rbuild_{}{unit}", name.replace('.', "_"));
            let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}\n");
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::base::{Digest, Event};

    fn summary() -> Summary {
        let mut state = State::default();
        let start = SystemTime::now();
        for (i, (name, seconds, outcome)) in [
            ("[1/3] FROM x", 0.0, Outcome::Cached),
            ("[2/3] RUN slow", 9.0, Outcome::Done),
            ("[3/3] RUN quick", 1.0, Outcome::Done),
            ("[internal] load build context", 0.0, Outcome::Done),
        ]
        .into_iter()
        .enumerate()
        {
            let id = Digest::sha256(i.to_string());
            state.take(&Event::Vertex { id: id.clone(), name: name.into(), inputs: vec![] });
            state.take(&Event::Started { id: id.clone(), at: start });
            for item in ["sha256:00", "pushing sha256:00", "already there: sha256:00", "mounted: sha256:11"] {
                state.take(&Event::Progress {
                    id: id.clone(),
                    item: item.into(),
                    current: 500_000,
                    total: None,
                    done: true,
                    at: start,
                });
            }
            state.take(&Event::Completed { id, at: start + Duration::from_secs_f64(seconds), outcome });
        }
        state.begun = Some(start);
        Summary::of(&state, start + Duration::from_secs(10))
    }

    #[test]
    fn for_people() {
        assert_eq!(
            summary().text(80),
            "built in 10.0s: 1 of 3 steps cached, 2.00MB pulled, 2.00MB pushed, 2.00MB saved\n     9.0s [2/3] RUN slow\n     1.0s [3/3] RUN quick"
        );
    }

    #[test]
    fn for_machines() {
        let json: serde_json::Value = serde_json::from_str(&summary().json()).expect("JSON");
        assert_eq!((json["cached"].as_u64(), json["steps"][1]["outcome"].as_str()), (Some(1), Some("done")));
        assert_eq!((&json["instructions"], &json["steps"][3]["instruction"]), (&3.into(), &false.into()));
        let text = summary().prometheus(true);
        assert!(text.contains("# TYPE rbuild_build_success gauge\nrbuild_build_success 1\n"), "{text}");
        assert!(text.contains("rbuild_build_duration_seconds 10\n"), "{text}");
        assert!(
            text.contains("\nrbuild_build_steps_cached 1\n") && text.contains("\nrbuild_build_saved_bytes 2000000\n")
        );
    }
}
