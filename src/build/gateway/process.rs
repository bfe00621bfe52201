//! A front end's process: its image, pinned, run beside the build with its standard input and output in our hands.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::FusedFuture as _;
use prost::Message as _;
use rootless::StepIo;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;

use super::ends::{from_program, to_program};
use super::host::FrontHost;
use crate::attest::Material;
use crate::base::events::{Outcome, Stream};
use crate::base::{Digest, Events, FaultKind};
use crate::build::{BuildError, config_title, internal, new_id};
use crate::exec::run::{Attachment, RunResult};
use crate::frontend::FrontendError;
use crate::frontend::gateway::options::{environment, missing_ability, wants_no_network};
use crate::frontend::gateway::{Answer, GatewayHost as _, Trouble, shown, speak};
use crate::llb::host::RESOLVE_MODE;
use crate::llb::op::{ExecOp, Kind, Meta, Mount, NetMode, Op, OpMetadata, SourceOp};
use crate::llb::{Builder, Definition};
use crate::oci::{ImageConfig, Platform};
use crate::solver::{GivenFile, SolveError};

/// Where a front end finds the graph that its own image is.
const METADATA: &str = "/run/config/buildkit/metadata/frontend.bin";
/// How long a front end may ask for nothing, where nobody said how long steps may take.
const PATIENCE: Duration = Duration::from_secs(600);
/// How long it may take to end once it is over.
const GRACE: Duration = Duration::from_secs(5);
/// How long one may take that closed its standard output.
const PARTING: Duration = Duration::from_secs(60);
/// How much of what it wrote to standard error is told again when it fails.
const TAIL: usize = 2 << 10;

/// A front end to run.
pub(super) struct Program<'a> {
    /// The source of its image.
    pub(super) identifier: &'a str,
    /// How it is called.
    pub(super) name: &'a str,
}

impl FrontHost<'_> {
    /// Runs a front end to its end. What it was made from is the second part.
    pub(super) async fn run(
        &self,
        program: &Program<'_>,
        options: &BTreeMap<String, String>,
        inputs: BTreeMap<String, Definition>,
    ) -> Result<(Answer, Material), BuildError> {
        let job = self.job;
        let fail = |kind: FaultKind, text: String| FrontendError::outside(kind, text, None);
        let platform = Platform::host();
        let mut asked = SourceOp { identifier: program.identifier.to_owned(), ..SourceOp::default() };
        let mode = job.request.options.image_resolve_mode;
        asked.attrs.extend(mode.attribute().map(|mode| (RESOLVE_MODE.to_owned(), mode.to_owned())));
        let had = |e: crate::llb::HostError| {
            let error = fail(e.kind, format!("the front end {} cannot be had: {}", program.name, e.message));
            error.hint(e.hint.unwrap_or_else(|| {
                "`# syntax=` or BUILDKIT_SYNTAX asks for it; --build-arg BUILDKIT_SYNTAX=dockerfile.v0 takes the file for a \
                 Dockerfile"
                    .to_owned()
            }))
        };
        let source = job.gate.source(&asked, &platform, true).await.map_err(had)?;
        let found = job.host.known(&source, &platform, &config_title(program.identifier)).await.map_err(had)?;
        let config: ImageConfig = serde_json::from_slice(&found.config).map_err(|e| {
            fail(FaultKind::Input, format!("the config of the front end {} is malformed: {e}", program.name))
        })?;
        let mut options = options.clone();
        super::with_inputs(&mut options, &inputs);
        let caps = options.get("frontend.caps").map(String::as_str).unwrap_or_default();
        if let Some(name) = missing_ability(&config, caps) {
            let text = format!(
                "unsupported frontend capability {name}: the front end {} does not say it has it",
                program.name
            );
            return Err(fail(FaultKind::Input, text)
                .hint("named contexts and questions are only for front ends that know of them")
                .into());
        }
        let material = Material::image(&source.identifier, &found.digest, &platform);
        let mut pinned = source.clone();
        if source.identifier.starts_with("docker-image://") {
            pinned.attrs.insert("image.checksum".into(), found.digest.to_string());
        }
        pinned.attrs.insert("image.recordtype".into(), "frontend".into());
        let mut builder = Builder::default();
        let op = Op { kind: Some(Kind::Source(pinned)), platform: Some((&platform).into()), ..Op::default() };
        let root = builder.add(&op, OpMetadata::named(format!("[frontend] {}", program.name)), &[]);
        let definition = builder.finish(Some(&root));
        let graph = definition.graph().map_err(|e| BuildError::Internal(e.to_string()))?;
        let files = [GivenFile { path: METADATA.into(), content: definition.pb.encode_to_vec() }];
        let exec = process(&config, environment(&options, &new_id(), self.platforms()));

        let id = internal(&job.builder.events, &format!("[frontend] run {}", program.name));
        let ends = Ends::new().map_err(|e| {
            fail(FaultKind::of_io(&e, FaultKind::Internal), format!("cannot run the front end {}: {e}", program.name))
        })?;
        let Ends { attachment, stdin, stdout, stderr, _signals } = ends;
        let tail = Mutex::new(Vec::new());
        let graph = Arc::new(graph);
        let program_runs = job.solver.run_beside(&graph, &exec, &files, attachment);
        let listens = listen(stderr, &job.builder.events, &id, &tail);
        let limit = job.builder.steps.as_ref().ok().and_then(|runner| runner.timeout());
        let patience = Some(limit.unwrap_or(PATIENCE)).filter(|limit| !limit.is_zero());
        let conversation = speak(stdout, stdin, self, inputs, patience);
        let (said, end) = both(conversation, program_runs, listens).await;
        let tail = tail.into_inner().unwrap_or_else(PoisonError::into_inner);
        let result = self.verdict(program.name, said, end, &tail);
        let outcome = match &result {
            Ok(_) => Outcome::Done,
            Err(_) if job.builder.cancel.is_cancelled() => Outcome::Canceled,
            Err(error) => Outcome::Failed(error.to_string()),
        };
        job.builder.events.completed(&id, outcome);
        Ok((result?, material))
    }

    /// What came of it all.
    fn verdict(
        &self,
        name: &str,
        said: Result<Answer, Trouble>,
        end: Option<Result<RunResult, SolveError>>,
        tail: &[u8],
    ) -> Result<Answer, BuildError> {
        let trouble = match said {
            Ok(answer) => return Ok(answer),
            Err(trouble) => trouble,
        };
        let words = shown(&String::from_utf8_lossy(tail));
        let words: Vec<&str> = words.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
        let words = words[words.len().saturating_sub(3)..].join(" | ");
        let hint = (!words.is_empty()).then(|| format!("the last it wrote to standard error: {words}"));
        let fail = |kind, text: String, hint| BuildError::Frontend(FrontendError::outside(kind, text, hint));
        match (trouble, end) {
            // It passes on what we told it: the failure itself knows more.
            (Trouble::Said(status), _) => match self.failure_in(&status.message) {
                Some(failure) => Err(failure.into()),
                None => Err(fail(FaultKind::Input, format!("{name}: {}", shown(&status.message)), hint)),
            },
            (_, Some(Err(error))) if error.is_cancelled() => Err(error.into()),
            (Trouble::Closed, Some(Err(error))) => {
                let hint = error.hint().map(ToOwned::to_owned).or(hint);
                Err(fail(error.kind(), format!("the front end {name} cannot be run: {error}"), hint))
            }
            (Trouble::Closed, Some(Ok(end))) if end.code != 0 => {
                let text = format!("the front end {name} failed: exit code: {}", end.code);
                Err(fail(FaultKind::Input, text, hint))
            }
            (trouble, _) => {
                let text = format!("the front end {name} does not do what front ends do: {trouble}");
                let hint = match trouble {
                    Trouble::Silent(_) => Some(with("--step-timeout says how long it may ask for nothing", hint)),
                    _ => hint,
                };
                Err(fail(FaultKind::Input, text, hint))
            }
        }
    }
}

/// A remedy and what more is known.
fn with(remedy: &str, more: Option<String>) -> String {
    more.map_or_else(|| remedy.to_owned(), |more| format!("{remedy}; {more}"))
}

/// Waits until the conversation is over, then a moment for the program.
async fn both(
    conversation: impl Future<Output = Result<Answer, Trouble>>,
    program: impl Future<Output = Result<RunResult, SolveError>>,
    listens: impl Future<Output = ()>,
) -> (Result<Answer, Trouble>, Option<Result<RunResult, SolveError>>) {
    let mut program = std::pin::pin!(program.fuse());
    let mut conversation = std::pin::pin!(conversation);
    let mut listens = std::pin::pin!(listens.fuse());
    let mut end = None;
    let said = loop {
        tokio::select! {
            biased;
            said = &mut conversation => break said,
            ended = &mut program => end = Some(ended),
            () = &mut listens => {}
        }
    };
    let rest = async {
        loop {
            // What is over is left out: nothing comes of it any more, and `else` is for when nothing is left.
            tokio::select! {
                ended = &mut program, if !program.is_terminated() => end = Some(ended),
                () = &mut listens, if !listens.is_terminated() => {}
                else => break,
            }
        }
    };
    // Whoever does not end is ended: dropping does it.
    if matches!(said, Err(Trouble::Silent(_))) {
        return (said, None);
    }
    // One that has nothing more to say is about to end, and how it does is what there is to tell.
    let grace = if matches!(said, Err(Trouble::Closed)) { PARTING } else { GRACE };
    let _ = tokio::time::timeout(grace, rest).await;
    (said, end)
}

/// Our ends of a program's descriptors.
struct Ends {
    attachment: Attachment,
    stdin: pipe::Sender,
    stdout: pipe::Receiver,
    stderr: pipe::Receiver,
    _signals: tokio::sync::mpsc::UnboundedSender<rootless::StepSignal>,
}

impl Ends {
    fn new() -> std::io::Result<Self> {
        let (to, stdin) = to_program()?;
        let (stdout, from) = from_program()?;
        let (stderr, errors) = from_program()?;
        let (sender, signals) = tokio::sync::mpsc::unbounded_channel();
        let io = StepIo { stdin: to, stdout: from, stderr: errors };
        Ok(Self {
            attachment: Attachment { io, terminal: false, console: None, signals },
            stdin,
            stdout,
            stderr,
            _signals: sender,
        })
    }
}

/// Passes on what a program writes to standard error.
async fn listen(mut from: pipe::Receiver, events: &Events, id: &Digest, tail: &Mutex<Vec<u8>>) {
    let mut buffer = vec![0; 8 << 10];
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        events.log(id, Stream::Stderr, bytes::Bytes::copy_from_slice(&buffer[..n]));
        let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
        tail.extend_from_slice(&buffer[..n]);
        let extra = tail.len().saturating_sub(TAIL);
        tail.drain(..extra);
    }
}

/// How an image's front end is run (SPEC C3.03).
fn process(config: &ImageConfig, more: Vec<String>) -> ExecOp {
    let run = &config.config;
    let args = run.entrypoint.clone().filter(|args| !args.is_empty()).unwrap_or_else(|| vec!["/run".to_owned()]);
    let network = if wants_no_network(config) { NetMode::None } else { NetMode::Unset };
    ExecOp {
        meta: Some(Meta {
            args,
            env: run.env.iter().cloned().chain(more).collect(),
            cwd: if run.working_dir.is_empty() { "/".into() } else { run.working_dir.clone() },
            remove_mount_stubs_recursive: true,
            ..Meta::default()
        }),
        mounts: vec![Mount { dest: "/".into(), input: 0, output: -1, ..Mount::default() }],
        network: network as i32,
        ..ExecOp::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // SPEC C3.06: a build does not wait for the end of a grace once everything is over.
    #[tokio::test]
    async fn c3_06_what_has_ended_is_not_waited_for() {
        use std::future::ready;
        let ended = || ready(Ok(RunResult { code: 7, usage: rootless::step::Usage::default(), out_of_memory: false }));
        let good = both(ready(Ok(Answer::default())), ended(), ready(())).now_or_never();
        assert!(matches!(good, Some((Ok(_), Some(Ok(_))))), "a front end that said what it made");
        let closed = both(ready(Err(Trouble::Closed)), ended(), ready(())).now_or_never();
        assert!(matches!(closed, Some((Err(Trouble::Closed), Some(Ok(_))))), "one that crashed");
        // It ends before the conversation is known to be over.
        let (hang_up, conversation) = tokio::sync::oneshot::channel();
        let conversation = async { conversation.await.expect("sent") };
        let mut late = std::pin::pin!(both(conversation, ended(), ready(())));
        assert!(late.as_mut().now_or_never().is_none());
        assert!(hang_up.send(Err(Trouble::Closed)).is_ok());
        assert!(matches!(late.now_or_never(), Some((Err(Trouble::Closed), Some(_)))), "one that ended first");
    }

    // SPEC C3.03
    #[test]
    fn c3_03_what_runs_is_the_entrypoint_or_run() {
        let mut config = ImageConfig::default();
        config.config.cmd = Some(vec!["ignored".into()]);
        let meta = |config: &ImageConfig| process(config, vec!["A=1".into()]).meta.expect("a process");
        let plain = meta(&config);
        assert_eq!(
            (plain.args, plain.cwd, plain.env, plain.user),
            (vec!["/run".to_owned()], "/".into(), vec!["A=1".to_owned()], String::new())
        );
        config.config.entrypoint = Some(vec!["/f".into(), "-x".into()]);
        config.config.working_dir = "/w".into();
        config.config.env = vec!["B=2".into()];
        config.config.user = "app".into();
        let full = meta(&config);
        assert_eq!((full.args, full.cwd, full.user), (vec!["/f".to_owned(), "-x".into()], "/w".into(), String::new()));
        assert_eq!(full.env, ["B=2", "A=1"]);
        assert_eq!(process(&config, Vec::new()).network, NetMode::Unset as i32);
        config.config.labels.insert("moby.buildkit.frontend.network.none".into(), "1".into());
        assert_eq!(process(&config, Vec::new()).network, NetMode::None as i32);
    }
}
