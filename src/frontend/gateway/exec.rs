//! Containers of front ends, and the conversations about processes in them (SPEC C3.16).

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::future::{BoxFuture, join_all};
use prost::Message as _;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::grpc::{Any, Status, code};
use crate::llb::containers::{
    DoneMessage, ExecInput, ExecMessage, ExitMessage, FdMessage, InitMessage, ResizeMessage, SignalMessage,
    StartedMessage,
};

/// Containers that a front end may have at a time.
const MAX_CONTAINERS: usize = 64;
/// Processes that one conversation may be about.
const MAX_PROCESSES: usize = 64;
/// What is told of output at a time, in bytes.
const CHUNK: usize = 32 << 10;
/// Messages for a process that it has not read.
const QUEUE: usize = 16;
/// The exit code of a process that has none, in the protocol.
const UNKNOWN_EXIT: u32 = 255;
/// What details of a failed process are called: their form is JSON.
const EXIT_DETAIL: &str = "github.com/moby/buildkit/gatewayapi.ExitMessage+json";

/// Something that bytes are written to.
pub type Input = Pin<Box<dyn AsyncWrite + Send>>;
/// Something that bytes come from.
pub type Output = Pin<Box<dyn AsyncRead + Send>>;

/// A container as its front end has it.
#[async_trait::async_trait]
pub trait GatewayContainer: Send + Sync {
    /// Starts a process.
    async fn start(&self, init: InitMessage) -> Result<Running, Status>;

    /// Ends it, and waits until it is gone.
    async fn end(&self);
}

/// A process that was started.
pub struct Running {
    /// Its standard input, if somebody writes to it.
    pub input: Option<Input>,
    /// Its other descriptors that somebody reads.
    pub outputs: Vec<(u32, Output)>,
    /// Tells it something.
    pub control: Box<dyn Fn(Control) + Send + Sync>,
    /// Its exit code. It is killed if this is dropped.
    pub end: BoxFuture<'static, Result<u32, Status>>,
}

/// What a process is told beside its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// The size of its terminal: lines and columns.
    Resize(u16, u16),
    /// A signal, by its number.
    Signal(u8),
}

/// The containers of one front end.
#[derive(Default)]
pub(super) struct Containers(Mutex<BTreeMap<String, Arc<dyn GatewayContainer>>>);

fn invalid(message: impl Into<String>) -> Status {
    Status::new(code::INVALID_ARGUMENT, message)
}

impl Containers {
    fn all(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Arc<dyn GatewayContainer>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a container of this name may be made.
    pub(super) fn check(&self, name: &str) -> Result<(), Status> {
        let all = self.all();
        if name.is_empty() {
            return Err(invalid("NewContainer: a container without a name"));
        }
        if all.contains_key(name) {
            return Err(invalid(format!("NewContainer: there is a container {name}")));
        }
        if all.len() >= MAX_CONTAINERS {
            return Err(Status::new(code::RESOURCE_EXHAUSTED, format!("more than {MAX_CONTAINERS} containers")));
        }
        Ok(())
    }

    /// Keeps a container that was made. One that another call has made meanwhile stays, and this one ends.
    pub(super) async fn keep(&self, name: String, container: Arc<dyn GatewayContainer>) -> Result<(), Status> {
        if let Err(status) = self.check(&name) {
            container.end().await;
            return Err(status);
        }
        self.all().insert(name, container);
        Ok(())
    }

    /// Ends one.
    pub(super) async fn release(&self, name: &str) -> Result<(), Status> {
        let container = self.all().remove(name);
        container.ok_or_else(|| unknown(name))?.end().await;
        Ok(())
    }

    /// Ends all.
    pub(super) async fn release_all(&self) {
        let all = std::mem::take(&mut *self.all());
        join_all(all.values().map(|container| container.end())).await;
    }

    /// Answers a conversation until it is over, or nothing that it is about runs any more. Processes end with it.
    pub(super) async fn converse(
        &self,
        mut messages: mpsc::Receiver<Bytes>,
        answers: mpsc::Sender<Vec<u8>>,
    ) -> Result<(), Status> {
        let mut processes: BTreeMap<String, Process> = BTreeMap::new();
        let mut driven = JoinSet::new();
        while let Some(message) = messages.recv().await {
            let message = ExecMessage::decode(message)
                .map_err(|e| invalid(format!("ExecProcess: a message that cannot be read: {e}")))?;
            let id = message.process_id;
            if id.is_empty() {
                return Err(invalid("ExecProcess: a message without a process ID"));
            }
            if let Some(ExecInput::Init(init)) = message.input {
                if processes.contains_key(&id) {
                    return Err(invalid(format!("ExecProcess: there is a process {id}")));
                }
                if processes.len() >= MAX_PROCESSES {
                    let text = format!("more than {MAX_PROCESSES} processes in one conversation");
                    return Err(Status::new(code::RESOURCE_EXHAUSTED, text));
                }
                let container = self.all().get(&init.container_id).cloned();
                let container = container.ok_or_else(|| unknown(&init.container_id))?;
                let running = container.start(init).await?;
                let (process, input) = Process::new(running.control);
                let said = Said { id: id.clone(), answers: answers.clone() };
                processes.insert(id, process);
                driven.spawn(said.drive(running.input, running.outputs, running.end, input));
                continue;
            }
            let process = processes.get(&id);
            let process = process.ok_or_else(|| invalid(format!("ExecProcess: there is no process {id}")))?;
            process.hear(message.input).await?;
        }
        // The front end has said all that it has to say; the processes go on.
        drop(processes);
        while driven.join_next().await.is_some() {}
        Ok(())
    }
}

fn unknown(name: &str) -> Status {
    Status::new(code::NOT_FOUND, format!("container \"{name}\" previously released or not created"))
}

/// A process as its conversation has it.
struct Process {
    control: Box<dyn Fn(Control) + Send + Sync>,
    /// Bytes for its standard input; nothing is the end of them.
    input: mpsc::Sender<Option<Vec<u8>>>,
}

impl Process {
    fn new(control: Box<dyn Fn(Control) + Send + Sync>) -> (Self, mpsc::Receiver<Option<Vec<u8>>>) {
        let (input, bytes) = mpsc::channel(QUEUE);
        (Self { control, input }, bytes)
    }

    async fn hear(&self, input: Option<ExecInput>) -> Result<(), Status> {
        match input {
            Some(ExecInput::File(FdMessage { fd: 0, eof, data })) => {
                // One that has ended reads nothing any more.
                if !data.is_empty() {
                    let _ = self.input.send(Some(data)).await;
                }
                if eof {
                    let _ = self.input.send(None).await;
                }
            }
            Some(ExecInput::File(FdMessage { fd, .. })) => {
                return Err(invalid(format!("ExecProcess: nothing can be written to descriptor {fd}")));
            }
            Some(ExecInput::Resize(ResizeMessage { rows, cols })) => {
                let size = |value: u32| u16::try_from(value).unwrap_or(u16::MAX);
                (self.control)(Control::Resize(size(rows), size(cols)));
            }
            Some(ExecInput::Signal(SignalMessage { name })) => {
                let number = crate::frontend::text::signal_number(&name);
                let number = number.ok_or_else(|| invalid(format!("ExecProcess: there is no signal \"{name}\"")))?;
                (self.control)(Control::Signal(number));
            }
            _ => return Err(invalid("ExecProcess: a message that is not for the host")),
        }
        Ok(())
    }
}

/// What is said of a process.
struct Said {
    id: String,
    answers: mpsc::Sender<Vec<u8>>,
}

impl Said {
    async fn say(&self, input: ExecInput) {
        let message = ExecMessage { process_id: self.id.clone(), input: Some(input) };
        // Nobody may listen any more; then all of this ends.
        let _ = self.answers.send(message.encode_to_vec()).await;
    }

    /// Carries bytes to and fro until the process has ended and all that it wrote was told.
    async fn drive(
        self,
        input: Option<Input>,
        outputs: Vec<(u32, Output)>,
        end: BoxFuture<'static, Result<u32, Status>>,
        bytes: mpsc::Receiver<Option<Vec<u8>>>,
    ) {
        self.say(ExecInput::Started(StartedMessage {})).await;
        let typing = async {
            type_in(input, bytes).await;
            std::future::pending::<()>().await;
        };
        let said = &self;
        let told = join_all(outputs.into_iter().map(|(fd, output)| said.pass_on(fd, output)));
        let ended = async {
            let exit = exit_message(end.await);
            said.say(ExecInput::Exit(exit)).await;
        };
        tokio::select! {
            () = typing => {}
            _ = async { tokio::join!(told, ended) } => {}
        }
        self.say(ExecInput::Done(DoneMessage {})).await;
    }

    /// Tells what a process writes to a descriptor.
    async fn pass_on(&self, fd: u32, mut output: Output) {
        let mut buffer = vec![0; CHUNK];
        // A terminal whose other end nobody has any more gives an error.
        while let Ok(n @ 1..) = output.read(&mut buffer).await {
            let data = buffer[..n].to_vec();
            self.say(ExecInput::File(FdMessage { fd, eof: false, data })).await;
        }
        self.say(ExecInput::File(FdMessage { fd, eof: true, data: Vec::new() })).await;
    }
}

/// Writes what comes until its end. What comes later, or is not read, is thrown away, so that the conversation goes on.
async fn type_in(mut input: Option<Input>, mut bytes: mpsc::Receiver<Option<Vec<u8>>>) {
    while let Some(data) = bytes.recv().await {
        let Some(to) = &mut input else { continue };
        let goes_on = match data {
            Some(data) => to.write_all(&data).await.is_ok() && to.flush().await.is_ok(),
            None => false,
        };
        if !goes_on {
            input = None;
        }
    }
}

/// How a process ended, as BuildKit tells it: the failure's words, and its code for programs.
fn exit_message(end: Result<u32, Status>) -> ExitMessage {
    match end {
        Ok(0) => ExitMessage { code: 0, error: None },
        Ok(exit) => {
            let value = serde_json::json!({ "Code": exit }).to_string().into_bytes();
            let details = vec![Any { type_url: EXIT_DETAIL.to_owned(), value }];
            let error = Status { code: code::UNKNOWN, message: format!("exit code: {exit}"), details };
            ExitMessage { code: exit, error: Some(error) }
        }
        Err(status) => ExitMessage { code: UNKNOWN_EXIT, error: Some(status) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Starts what echoes its input, and ends with the number that a signal has.
    struct Echo;

    #[async_trait::async_trait]
    impl GatewayContainer for Echo {
        async fn start(&self, _: InitMessage) -> Result<Running, Status> {
            let (signal, mut signals) = mpsc::unbounded_channel();
            let (reader, writer) = tokio::io::duplex(64);
            let control = move |control| {
                let Control::Signal(number) = control else { return };
                let _ = signal.send(number);
            };
            let end = async move { Ok(u32::from(signals.recv().await.unwrap_or_default())) };
            Ok(Running {
                input: Some(Box::pin(writer)),
                outputs: vec![(1, Box::pin(reader))],
                control: Box::new(control),
                end: Box::pin(end),
            })
        }

        async fn end(&self) {}
    }

    fn message(input: ExecInput) -> Bytes {
        ExecMessage { process_id: "p".into(), input: Some(input) }.encode_to_vec().into()
    }

    async fn talk(said: Vec<ExecInput>) -> (Result<(), Status>, Vec<ExecInput>) {
        let containers = Containers::default();
        containers.keep("c".into(), Arc::new(Echo)).await.expect("kept");
        let (to, messages) = mpsc::channel(16);
        let (answers, mut from) = mpsc::channel(64);
        for input in said {
            to.send(message(input)).await.expect("room");
        }
        drop(to);
        let result = containers.converse(messages, answers).await;
        let mut heard = Vec::new();
        while let Some(bytes) = from.recv().await {
            heard.extend(ExecMessage::decode(&*bytes).expect("a message").input);
        }
        (result, heard)
    }

    fn init(container: &str) -> ExecInput {
        ExecInput::Init(InitMessage { container_id: container.into(), fds: vec![0, 1], ..InitMessage::default() })
    }

    fn bytes(fd: u32, data: &[u8], eof: bool) -> ExecInput {
        ExecInput::File(FdMessage { fd, eof, data: data.to_vec() })
    }

    // SPEC C3.16
    #[tokio::test]
    async fn c3_16_a_process_is_started_talked_with_and_ends() {
        let signal = ExecInput::Signal(SignalMessage { name: "USR1".into() });
        let (result, heard) = talk(vec![init("c"), bytes(0, b"abc", true), signal]).await;
        assert_eq!(result, Ok(()));
        assert_eq!(heard.first(), Some(&ExecInput::Started(StartedMessage {})));
        assert_eq!(heard.last(), Some(&ExecInput::Done(DoneMessage {})));
        assert!(heard.contains(&bytes(1, b"abc", false)) && heard.contains(&bytes(1, b"", true)));
        let exit = heard.iter().find_map(|input| match input {
            ExecInput::Exit(exit) => Some(exit.clone()),
            _ => None,
        });
        let exit = exit.expect("it ended");
        let error = exit.error.expect("it failed");
        assert_eq!((exit.code, error.message.as_str()), (10, "exit code: 10"));
        assert_eq!(
            (error.details[0].type_url.as_str(), error.details[0].value.as_slice()),
            (EXIT_DETAIL, &br#"{"Code":10}"#[..])
        );
    }

    // SPEC C3.16
    #[tokio::test]
    async fn c3_16_what_makes_no_sense_ends_the_conversation() {
        let signal = |name: &str| ExecInput::Signal(SignalMessage { name: name.into() });
        for (said, expected) in [
            (vec![init("d")], "container \"d\" previously released or not created"),
            (vec![bytes(0, b"x", false)], "there is no process p"),
            (vec![init("c"), init("c")], "there is a process p"),
            (vec![init("c"), bytes(1, b"x", false)], "nothing can be written to descriptor 1"),
            (vec![init("c"), signal("NONE")], "there is no signal \"NONE\""),
            (vec![init("c"), ExecInput::Done(DoneMessage {})], "not for the host"),
        ] {
            let (result, _) = talk(said).await;
            assert!(result.expect_err(expected).message.contains(expected), "{expected}");
        }
        let containers = Containers::default();
        assert_eq!(containers.release("c").await.expect_err("unknown").code, code::NOT_FOUND);
        containers.keep("c".into(), Arc::new(Echo)).await.expect("kept");
        assert!(containers.check("c").is_err() && containers.check("").is_err() && containers.check("d").is_ok());
        containers.release_all().await;
        assert!(containers.check("c").is_ok());
    }
}
