//! Plain progress in several files: of each platform what concerns it, and what concerns all (SPEC D3.31).

use std::collections::HashMap;
use std::fs::File;
use std::sync::{Arc, Mutex, PoisonError};

use super::{Mode, Progress, Style};
use crate::base::events::Event;
use crate::base::{Digest, Events};

/// The files, and who writes them.
pub struct Split {
    parts: Arc<[(String, Events)]>,
    writers: Vec<Progress>,
}

impl Split {
    /// One for each platform, by its name. If there is only one, everything concerns it.
    #[must_use]
    pub fn start(files: Vec<(String, File)>, style: &Style) -> Self {
        let (mut parts, mut writers) = (Vec::new(), Vec::new());
        for (platform, file) in files {
            let (progress, events) = Progress::start(Mode::Plain, file, style.clone());
            parts.push((platform, events));
            writers.push(progress);
        }
        Self { parts: parts.into(), writers }
    }

    /// Passes every event on to `events`, and to the files that it belongs in.
    #[must_use]
    pub fn tee(&self, events: Events) -> Events {
        let parts = Arc::clone(&self.parts);
        let owners: Mutex<HashMap<Digest, usize>> = Mutex::default();
        Events::new(move |event| {
            let owner = {
                let mut owners = owners.lock().unwrap_or_else(PoisonError::into_inner);
                if let Event::Vertex { id, name, .. } = &event
                    && let Some(owner) = parts.iter().position(|(platform, _)| concerns(platform, name))
                {
                    owners.entry(id.clone()).or_insert(owner);
                }
                vertex(&event).and_then(|id| owners.get(id).copied())
            };
            for (at, (_, part)) in parts.iter().enumerate() {
                if owner.is_none_or(|owner| owner == at) {
                    part.send(event.clone());
                }
            }
            events.send(event);
        })
    }

    /// Waits until all is written.
    pub fn finish(self) {
        drop(self.parts);
        for writer in self.writers {
            writer.finish(None);
        }
    }
}

/// Whether the name of a step begins with a platform: `[linux/arm64 build 2/3] RUN make`.
fn concerns(platform: &str, name: &str) -> bool {
    let rest = name.strip_prefix('[').and_then(|rest| rest.strip_prefix(platform));
    rest.is_some_and(|rest| rest.starts_with([' ', ']']))
}

fn vertex(event: &Event) -> Option<&Digest> {
    match event {
        Event::Vertex { id, .. }
        | Event::Started { id, .. }
        | Event::Completed { id, .. }
        | Event::Progress { id, .. }
        | Event::Log { id, .. } => Some(id),
        Event::Warning(warning) => warning.vertex.as_ref(),
        Event::Notice { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // SPEC D3.31
    #[test]
    fn d3_31_each_platform_has_its_own() {
        let files: Vec<_> = (0..2).map(|_| tempfile::NamedTempFile::new().expect("a file")).collect();
        let names = ["linux/arm", "linux/arm64"];
        let opened = files.iter().zip(names).map(|(file, name)| (name.to_owned(), file.reopen().expect("opens")));
        let split = Split::start(opened.collect(), &Style::default());
        let events = split.tee(Events::none());
        for name in ["[linux/arm64 1/1] RUN mine", "[linux/arm 1/1] RUN yours", "[internal] all of us"] {
            let id = Digest::sha256(name);
            events.vertex(&id, name.to_owned(), Vec::new());
            events.started(&id);
        }
        drop(events);
        split.finish();
        let texts: Vec<String> = files.iter().map(|file| std::fs::read_to_string(file.path()).expect("text")).collect();
        let has = |at: usize, what: &str| texts[at].contains(what);
        assert!(has(0, "yours") && !has(0, "mine") && has(0, "all of us"), "{texts:?}");
        assert!(has(1, "mine") && !has(1, "yours") && has(1, "all of us"), "{texts:?}");
    }
}
