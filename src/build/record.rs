//! Build records: what a build was asked for, what it did and how it ended (SPEC B8.06, B8.07).
//!
//! A record is a journal of [`Entry`] lines, written as things happen. [`BuildRecord`] is what a journal says; one whose
//! process was killed simply has no end.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use indexmap::IndexMap;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::base::events::Outcome;
use crate::base::{Digest, Event, Events};
use crate::solver::KeptFailure;
use crate::store::{BuildHistory, KeptBuild, Store, StoreError};

use super::attachments::Attachment;

/// More records than this are never kept, unless somebody asks for more.
const MOST: usize = 500;
/// Of so many failed builds the failed step can be entered again.
const KEPT_FAILURES: usize = 3;

/// What is kept of builds that were (SPEC B8.08, C9.08).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryLimits {
    /// So many records stay however old they are.
    pub entries: usize,
    /// The others until they are so old.
    pub age: Duration,
}

impl Default for HistoryLimits {
    fn default() -> Self {
        Self { entries: 50, age: Duration::from_secs(48 * 3600) }
    }
}

/// What was asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Head {
    /// Identifies the build.
    pub id: String,
    /// What people call it: the context and the target.
    pub name: String,
    /// When it began, RFC 3339.
    pub started: Timestamp,
    /// The context as it was given.
    pub context: String,
    /// The directory that the context is, made absolute.
    pub directory: Option<String>,
    /// The git repository that the context is in, or is.
    pub repository: Option<String>,
    /// The commit that is checked out there.
    pub revision: Option<String>,
    /// The Dockerfile as it was given.
    pub dockerfile: String,
    /// `--target`
    pub target: Option<String>,
    /// `--platform`
    pub platforms: Vec<String>,
    /// `--build-arg`
    pub build_args: BTreeMap<String, String>,
    /// `--label`
    pub labels: BTreeMap<String, String>,
    /// `--build-context`, by name.
    pub named_contexts: BTreeMap<String, String>,
    /// `--tag`
    pub tags: Vec<String>,
    /// `--no-cache`
    pub no_cache: bool,
    /// `--no-cache-filter`
    pub no_cache_filter: Vec<String>,
    /// `--network`
    pub network: Option<String>,
    /// `--add-host`
    pub extra_hosts: Vec<String>,
    /// `--pull`
    pub pull: bool,
    /// The host name of steps.
    pub hostname: Option<String>,
    /// `--shm-size`
    pub shm_size: Option<String>,
    /// `--ulimit`
    pub ulimits: Vec<String>,
    /// `--cgroup-parent`
    pub cgroup_parent: Option<String>,
    /// Version of rbuild.
    pub version: String,
}

/// How a build ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// When, RFC 3339.
    pub at: Timestamp,
    /// How.
    pub status: Status,
    /// Why not, in one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The lines of the Dockerfile that the error is about, marked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub excerpt: Option<String>,
    /// What was made.
    #[serde(default)]
    pub images: Vec<MadeImage>,
}

/// An image that a build made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MadeImage {
    /// Digest of the manifest or index.
    pub digest: Digest,
    /// Its media type.
    pub media_type: String,
    /// Bytes of the manifest or index.
    pub size: u64,
    /// Names it was given.
    pub names: Vec<String>,
}

/// States of a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It is under way.
    Running,
    /// It succeeded.
    Completed,
    /// It failed.
    Error,
    /// The user stopped it.
    Canceled,
    /// Its process was killed, or the machine went down.
    Interrupted,
}

impl Status {
    /// In lower case, as filters name it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Error => "error",
            Self::Canceled => "canceled",
            Self::Interrupted => "interrupted",
        }
    }
}

/// A line of a journal.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Entry {
    Head(Head),
    Vertex { id: Digest, name: String, inputs: Vec<Digest> },
    Started { id: Digest, at: Timestamp },
    Completed { id: Digest, at: Timestamp, outcome: String },
    Log { id: Digest, number: u32 },
    Warning(crate::base::events::Warning),
    Failed(KeptFailure),
    Attachment(Attachment),
    End(End),
}

/// A step of a build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepRecord {
    /// Its digest.
    pub id: Digest,
    /// Its name, as progress shows it.
    pub name: String,
    /// Digests of what it builds on.
    pub inputs: Vec<Digest>,
    /// When it began.
    pub started: Option<Timestamp>,
    /// When and how it ended.
    pub completed: Option<(Timestamp, Outcome)>,
    /// Number of its log.
    pub log: Option<u32>,
}

/// What is known of a build.
#[derive(Debug, Clone)]
pub struct BuildRecord {
    /// What was asked for.
    pub head: Head,
    /// Its steps, in the order in which they were announced.
    pub steps: Vec<StepRecord>,
    /// Warnings.
    pub warnings: Vec<crate::base::events::Warning>,
    /// What is kept of the step that failed.
    pub failed: Option<KeptFailure>,
    /// Documents that are kept: of its images, and about its results.
    pub attachments: Vec<Attachment>,
    /// How it ended.
    pub end: Option<End>,
    /// Its files.
    pub kept: KeptBuild,
}

impl BuildRecord {
    /// Reads the record of a build; `None` for one that has none.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn read(kept: KeptBuild) -> Result<Option<Self>, StoreError> {
        let journal = kept.journal()?;
        let mut head = None;
        let mut steps: IndexMap<Digest, StepRecord> = IndexMap::new();
        let (mut warnings, mut failed, mut attachments, mut end) = (Vec::new(), None, Vec::new(), None);
        for line in journal.lines() {
            // Of a later version's lines those that are understood count.
            let Ok(entry) = serde_json::from_str::<Entry>(line) else { continue };
            match entry {
                Entry::Head(found) => head = Some(found),
                Entry::Vertex { id, name, inputs } => {
                    steps.entry(id.clone()).or_insert(StepRecord {
                        id,
                        name,
                        inputs,
                        started: None,
                        completed: None,
                        log: None,
                    });
                }
                Entry::Started { id, at } => {
                    if let Some(step) = steps.get_mut(&id) {
                        step.started.get_or_insert(at);
                    }
                }
                Entry::Completed { id, at, outcome } => {
                    if let Some(step) = steps.get_mut(&id) {
                        step.started.get_or_insert(at);
                        step.completed = Some((at, named(&outcome)));
                    }
                }
                Entry::Log { id, number } => {
                    if let Some(step) = steps.get_mut(&id) {
                        step.log = Some(number);
                    }
                }
                Entry::Warning(warning) => warnings.push(warning),
                Entry::Failed(step) => failed = Some(step),
                Entry::Attachment(attachment) => attachments.push(attachment),
                Entry::End(found) => end = Some(found),
            }
        }
        let steps = steps.into_values().collect();
        Ok(head.map(|head| Self { head, steps, warnings, failed, attachments, end, kept }))
    }

    /// How it is or ended.
    #[must_use]
    pub fn status(&self) -> Status {
        match &self.end {
            Some(end) => end.status,
            None if self.kept.alive => Status::Running,
            None => Status::Interrupted,
        }
    }

    /// When it ended, as far as is known: the last thing that is known of a build that was killed.
    #[must_use]
    pub fn ended(&self) -> Option<Timestamp> {
        match (&self.end, self.status()) {
            (Some(end), _) => Some(end.at),
            (None, Status::Running) => None,
            (None, _) => {
                let times =
                    self.steps.iter().flat_map(|s| s.started.into_iter().chain(s.completed.as_ref().map(|c| c.0)));
                Some(times.max().unwrap_or(self.head.started))
            }
        }
    }

    /// How long it ran, or has been running.
    #[must_use]
    pub fn duration(&self) -> Duration {
        let end = self.ended().unwrap_or_else(Timestamp::now);
        Duration::try_from(end - self.head.started).unwrap_or_default()
    }

    /// Why it failed.
    #[must_use]
    pub fn error(&self) -> Option<&str> {
        match (&self.end, self.status()) {
            (Some(end), _) => end.error.as_deref(),
            (None, Status::Interrupted) => Some("the process ended before the build did"),
            (None, _) => None,
        }
    }

    /// The lines of the Dockerfile that the error is about, marked; `None` where it is about no line.
    #[must_use]
    pub fn excerpt(&self) -> Option<&str> {
        self.end.as_ref()?.excerpt.as_deref()
    }

    /// Steps in all, those that ended well, and those of them that were in the cache.
    #[must_use]
    pub fn counts(&self) -> (usize, usize, usize) {
        let count = |wanted: fn(&Outcome) -> bool| {
            self.steps.iter().filter(|s| s.completed.as_ref().is_some_and(|(_, outcome)| wanted(outcome))).count()
        };
        let done = count(|o| matches!(o, Outcome::Done | Outcome::Cached));
        (self.steps.len(), done, count(|o| *o == Outcome::Cached))
    }

    /// The journal of a record, for somebody else's store.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn portable_journal(&self) -> Result<String, StoreError> {
        Ok(without_failure(&self.kept.journal()?))
    }

    /// The end of a step's log, in lines.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn last_lines(&self, number: u32, count: usize) -> Result<Vec<String>, StoreError> {
        let mut lines = std::collections::VecDeque::with_capacity(count + 1);
        for line in io::BufRead::split(io::BufReader::new(self.kept.log(number)?), b'\n') {
            let line = line.map_err(|e| StoreError::io("read", self.kept.log_path(number))(e))?;
            lines.push_back(String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(&line)).into_owned());
            if lines.len() > count {
                lines.pop_front();
            }
        }
        Ok(lines.into())
    }

    /// What happened, for a progress display. The times of the lines of a step's log are not known: they come when the
    /// step began.
    ///
    /// # Errors
    /// If a log cannot be read.
    pub fn replay(&self, events: &Events) -> Result<(), StoreError> {
        for step in &self.steps {
            events.vertex(&step.id, step.name.clone(), step.inputs.clone());
        }
        let mut ran: Vec<&StepRecord> = self.steps.iter().filter(|step| step.started.is_some()).collect();
        ran.sort_by_key(|step| step.started);
        for step in ran {
            let Some(started) = step.started.map(SystemTime::from) else { continue };
            events.send(Event::Started { id: step.id.clone(), at: started });
            if let Some(number) = step.log {
                let mut log = self.kept.log(number)?;
                let mut buffer = vec![0; 64 << 10];
                loop {
                    let count = std::io::Read::read(&mut log, &mut buffer)
                        .map_err(|e| StoreError::io("read", self.kept.log_path(number))(e))?;
                    if count == 0 {
                        break;
                    }
                    events.send(Event::Log {
                        id: step.id.clone(),
                        stream: crate::base::events::Stream::Stdout,
                        data: bytes::Bytes::copy_from_slice(&buffer[..count]),
                        at: started,
                    });
                }
            }
            if let Some((at, outcome)) = &step.completed {
                let (id, at, outcome) = (step.id.clone(), SystemTime::from(*at), outcome.clone());
                events.send(Event::Completed { id, at, outcome });
            }
        }
        for warning in &self.warnings {
            events.send(Event::Warning(warning.clone()));
        }
        Ok(())
    }
}

fn name(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Done => "done".into(),
        Outcome::Cached => "cached".into(),
        Outcome::Canceled => "canceled".into(),
        Outcome::Failed(why) => format!("failed: {why}"),
    }
}

fn named(text: &str) -> Outcome {
    match text {
        "done" => Outcome::Done,
        "cached" => Outcome::Cached,
        "canceled" => Outcome::Canceled,
        other => Outcome::Failed(other.strip_prefix("failed: ").unwrap_or(other).to_owned()),
    }
}

/// Records of a store, the newest first.
///
/// # Errors
/// If the store cannot be read.
pub fn records(store: &Store) -> Result<Vec<BuildRecord>, StoreError> {
    store.builds()?.into_iter().filter_map(|kept| BuildRecord::read(kept).transpose()).collect()
}

/// A journal without the failed step: its layers are nobody else's, and nobody else says what `rbuild debug` runs here.
fn without_failure(journal: &str) -> String {
    let stays = |line: &&str| !matches!(serde_json::from_str(line), Ok(Entry::Failed(_)));
    journal.lines().filter(stays).flat_map(|line| [line, "\n"]).collect()
}

/// A journal that came from elsewhere.
#[derive(Debug)]
pub struct ForeignJournal {
    /// The build's ID.
    pub id: String,
    /// When it began.
    pub begun: SystemTime,
    /// The numbers of its logs.
    pub logs: Vec<u32>,
    /// The documents that were kept of it.
    pub attachments: Vec<Digest>,
    /// What may be kept of it.
    pub text: String,
}

/// Reads a journal that came from elsewhere; `None` for what is none.
#[must_use]
pub fn foreign_journal(text: &str) -> Option<ForeignJournal> {
    let entries = text.lines().filter_map(|line| serde_json::from_str::<Entry>(line).ok());
    let (mut head, mut logs, mut attachments) = (None, Vec::new(), Vec::new());
    for entry in entries {
        match entry {
            Entry::Head(found) => head = Some(found),
            Entry::Log { number, .. } => logs.push(number),
            Entry::Attachment(attachment) => attachments.push(attachment.digest),
            _ => {}
        }
    }
    let head = head.filter(|head: &Head| !head.id.is_empty())?;
    Some(ForeignJournal { id: head.id, begun: head.started.into(), logs, attachments, text: without_failure(text) })
}

/// Forgets a build, and what is kept of its failed step. One that runs stays; whether it is gone.
///
/// # Errors
/// If the store cannot be changed.
pub fn forget(store: &Store, record: &BuildRecord) -> Result<bool, StoreError> {
    let gone = store.forget_build(&record.kept)?;
    if let (true, Some(failed)) = (gone, &record.failed) {
        store.discard_layer(&failed.written)?;
    }
    Ok(gone)
}

/// Forgets what is too old or too much. `failed`: there is one more failed step than before.
///
/// # Errors
/// If the store cannot be changed.
pub fn tidy(store: &Store, failed: bool, limits: HistoryLimits) -> Result<(), StoreError> {
    let builds = store.builds()?;
    let old = |build: &KeptBuild| build.begun.elapsed().is_ok_and(|age| age > limits.age);
    for (at, build) in builds.iter().enumerate().skip(limits.entries) {
        if at < MOST && !old(build) {
            continue;
        }
        match BuildRecord::read(build.clone())? {
            Some(record) => forget(store, &record)?,
            None => store.forget_build(build)?,
        };
    }
    if failed {
        let failures = builds.into_iter().take(MOST).filter_map(|build| BuildRecord::read(build).ok()??.failed);
        for step in failures.skip(KEPT_FAILURES) {
            store.discard_layer(&step.written)?;
        }
    }
    Ok(())
}

/// Writes the record of a build that is under way. A record that cannot be written is announced once and stops nothing.
#[derive(Clone, Default)]
pub struct Recorder(Arc<Inner>);

#[derive(Default)]
struct Inner {
    history: OnceLock<Arc<BuildHistory>>,
    broken: AtomicBool,
}

impl Recorder {
    /// From now on things are written.
    pub fn begin(&self, history: Arc<BuildHistory>, head: Head, events: &Events) {
        let _ = self.0.history.set(history);
        self.write(&Entry::Head(head), events);
    }

    /// Events that pass through here on their way to `events`.
    #[must_use]
    pub fn before(&self, events: Events) -> Events {
        let this = self.clone();
        Events::new(move |event| {
            if let Some(entry) = entry(&event) {
                this.write(&entry, &events);
            }
            events.send(event);
        })
    }

    /// The log of a step is the build's log of this number.
    pub fn log(&self, id: &Digest, number: u32, events: &Events) {
        self.write(&Entry::Log { id: id.clone(), number }, events);
    }

    /// What is kept of the step that failed.
    pub fn failed(&self, step: &KeptFailure, events: &Events) {
        self.write(&Entry::Failed(step.clone()), events);
    }

    /// A document of the build.
    pub fn attach(&self, attachment: &Attachment, bytes: &[u8], events: &Events) {
        let Some(history) = self.0.history.get() else { return };
        match history.attach(&attachment.digest, bytes) {
            Ok(true) => self.write(&Entry::Attachment(attachment.clone()), events),
            Ok(false) => {
                let text = format!("the record of this build is without {}: it is too large", attachment.kind());
                events.notice("build-record", text);
            }
            Err(e) => self.broke(&e, events),
        }
    }

    /// The end.
    pub fn end(&self, end: End, events: &Events) {
        self.write(&Entry::End(end), events);
    }

    fn write(&self, entry: &Entry, events: &Events) {
        let Some(history) = self.0.history.get() else { return };
        if self.0.broken.load(Ordering::Relaxed) {
            return;
        }
        let line = serde_json::to_string(entry).unwrap_or_default();
        if let Err(e) = history.note(&line) {
            self.broke(&e, events);
        }
    }

    fn broke(&self, error: &StoreError, events: &Events) {
        if !self.0.broken.swap(true, Ordering::Relaxed) {
            events.notice("build-record", format!("no record of this build is kept: {error}"));
        }
    }
}

/// What of an event is kept.
fn entry(event: &Event) -> Option<Entry> {
    let time = |at: SystemTime| Timestamp::try_from(at).unwrap_or_default();
    match event {
        Event::Vertex { id, name, inputs } => {
            Some(Entry::Vertex { id: id.clone(), name: name.clone(), inputs: inputs.clone() })
        }
        Event::Started { id, at } => Some(Entry::Started { id: id.clone(), at: time(*at) }),
        Event::Completed { id, at, outcome } => {
            Some(Entry::Completed { id: id.clone(), at: time(*at), outcome: name(outcome) })
        }
        Event::Warning(warning) => Some(Entry::Warning(warning.clone())),
        Event::Log { .. } | Event::Progress { .. } | Event::Notice { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::store;

    fn write(store: &Store, id: &str, end: bool) -> Arc<BuildHistory> {
        let history = Arc::new(store.build_history());
        let recorder = Recorder::default();
        let head = Head { id: id.into(), started: Timestamp::now(), ..Head::default() };
        recorder.begin(Arc::clone(&history), head, &Events::none());
        let events = recorder.before(Events::none());
        for (name, outcome) in [("one", Outcome::Cached), ("two", Outcome::Failed("it broke".into()))] {
            let step = Digest::sha256(name);
            events.vertex(&step, name, Vec::new());
            events.started(&step);
            events.completed(&step, outcome);
        }
        if end {
            let end = End {
                at: Timestamp::now(),
                status: Status::Error,
                error: Some("no".into()),
                excerpt: None,
                images: Vec::new(),
            };
            recorder.end(end, &events);
        }
        history
    }

    // SPEC B8.06, B8.07
    #[test]
    fn b8_06_a_record_says_what_happened_until_its_end() {
        let (_dir, store) = store();
        let running = write(&store, "first", false);
        let record = records(&store).expect("reads").remove(0);
        assert_eq!((record.status(), record.counts()), (Status::Running, (2, 1, 1)));
        drop(running);
        let record = records(&store).expect("reads").remove(0);
        assert_eq!(record.status(), Status::Interrupted);
        assert!(record.ended().is_some() && record.error().is_some_and(|e| e.contains("process ended")));
        write(&store, "second", true);
        let all = records(&store).expect("reads");
        assert_eq!(all.iter().map(|r| r.head.id.as_str()).collect::<Vec<_>>(), ["second", "first"]);
        assert_eq!((all[0].status(), all[0].error()), (Status::Error, Some("no")));
        assert_eq!(all[0].steps[1].completed.as_ref().map(|c| &c.1), Some(&Outcome::Failed("it broke".into())));
        assert!(forget(&store, &all[1]).expect("forgets"));
        assert_eq!(records(&store).expect("reads").len(), 1);
    }

    // What is run by `rbuild debug` is never what an archive says.
    #[test]
    fn b8_08_a_journal_from_elsewhere_has_no_failed_step() {
        let failed = r#"{"failed":{"name":"RUN x","code":1,"written":"l1","op":"","chains":[["l1"]]}}"#;
        assert!(matches!(serde_json::from_str(failed), Ok(Entry::Failed(_))), "it is one");
        let head = Head { id: "abc".into(), started: Timestamp::now(), ..Head::default() };
        let head = serde_json::to_string(&Entry::Head(head)).expect("writes");
        let read = foreign_journal(&format!("{head}\n{failed}\n")).expect("is a journal");
        assert_eq!((read.id.as_str(), read.text.as_str()), ("abc", format!("{head}\n").as_str()));
        assert!(foreign_journal(failed).is_none());
    }

    // SPEC B8.08
    #[test]
    fn b8_08_too_many_records_are_too_much() {
        let (_dir, store) = store();
        for _ in 0..MOST + 3 {
            store.build_history().note("{}").expect("writes");
        }
        tidy(&store, false, HistoryLimits::default()).expect("tidies");
        assert_eq!(store.builds().expect("lists").len(), MOST, "young ones stay up to a limit");
        tidy(&store, false, HistoryLimits { entries: 7, age: Duration::ZERO }).expect("tidies");
        assert_eq!(store.builds().expect("lists").len(), 7, "those stay however old they are");
    }
}
