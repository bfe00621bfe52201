//! What the front end does with containers, one scene for each rule: it asserts itself, and the build fails if it is wrong.

use rbuild::llb::containers::{
    ExecInput, ExecMessage, FdMessage, InitMessage, NewContainerRequest, ReleaseContainerRequest, ResizeMessage,
    SignalMessage,
};
use rbuild::llb::gateway::Empty;
use rbuild::llb::op::{CacheOpt, HostIp, Meta, Mount, MountType, SecretEnv, SecretOpt, TmpfsOpt};

use crate::client::{Client, Conversation, Refusal};

/// How long a process would run that nobody ends.
const LONG: &str = "sleep 600";

/// A process in a container.
struct Process(Conversation);

/// How it ended: its code, why that is a failure, and what it wrote to its descriptors 1 and 2.
struct End {
    code: u32,
    error: String,
    out: String,
    err: String,
}

fn root(reference: &str) -> Mount {
    Mount { dest: "/".into(), result_id: reference.into(), ..Mount::default() }
}

async fn open(client: &Client, request: NewContainerRequest) -> Result<(), Refusal> {
    client.call::<Empty>("NewContainer", &request).await.map(drop)
}

/// A container called `c` with nothing but a root.
async fn plain(client: &Client, reference: &str) -> Result<(), Refusal> {
    let mounts = vec![root(reference)];
    open(client, NewContainerRequest { container_id: "c".into(), mounts, ..NewContainerRequest::default() }).await
}

async fn release(client: &Client) -> Result<(), Refusal> {
    let request = ReleaseContainerRequest { container_id: "c".into() };
    client.call::<Empty>("ReleaseContainer", &request).await.map(drop)
}

fn init(script: &str) -> InitMessage {
    let args = ["/bin/sh", "-c", script].map(ToOwned::to_owned).to_vec();
    let meta = Meta { args, env: vec!["PATH=/bin".into()], ..Meta::default() };
    InitMessage { container_id: "c".into(), meta: Some(meta), fds: vec![0, 1, 2], ..InitMessage::default() }
}

impl Process {
    /// Starts a process and waits until it is told that it runs.
    async fn start(client: &Client, init: InitMessage) -> Result<Self, Refusal> {
        let mut process = Self(client.converse().await?);
        process.say(ExecInput::Init(init)).await;
        match process.0.hear().await? {
            Some(ExecMessage { input: Some(ExecInput::Started(_)), .. }) => Ok(process),
            other => panic!("{other:?}"),
        }
    }

    async fn say(&mut self, input: ExecInput) {
        self.0.say(&ExecMessage { process_id: "p".into(), input: Some(input) }).await;
    }

    async fn write(&mut self, data: &[u8], eof: bool) {
        self.say(ExecInput::File(FdMessage { fd: 0, eof, data: data.to_vec() })).await;
    }

    /// Waits until it has written this in one piece.
    async fn says(&mut self, text: &str) -> Result<(), Refusal> {
        loop {
            match self.0.hear().await?.expect("it is told when there is nothing more").input {
                Some(ExecInput::File(FdMessage { fd: 1, data, .. })) if data == text.as_bytes() => return Ok(()),
                Some(ExecInput::File(_)) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    async fn end(mut self) -> Result<End, Refusal> {
        let mut end = End { code: u32::MAX, error: String::new(), out: String::new(), err: String::new() };
        loop {
            let message = self.0.hear().await?.expect("it is told when there is nothing more");
            match message.input {
                Some(ExecInput::File(FdMessage { fd, data, .. })) => {
                    let text = String::from_utf8_lossy(&data).into_owned();
                    if fd == 1 { end.out.push_str(&text) } else { end.err.push_str(&text) }
                }
                Some(ExecInput::Exit(exit)) => {
                    end.code = exit.code;
                    end.error = exit.error.map(|error| error.message).unwrap_or_default();
                }
                Some(ExecInput::Done(_)) => return Ok(end),
                other => panic!("{other:?}"),
            }
        }
    }
}

async fn run(client: &Client, init: InitMessage) -> Result<End, Refusal> {
    Process::start(client, init).await?.end().await
}

/// Plays one scene with the tree of `reference`, which has a busybox.
pub(crate) async fn play(client: &Client, scene: &str, reference: &str) -> Result<(), Refusal> {
    match scene {
        "pipe" => {
            plain(client, reference).await?;
            let mut cat = Process::start(client, init("dd bs=1 count=3 2>/dev/null; wc -c; echo over >&2")).await?;
            for _ in 0..50 {
                cat.write(&[b'x'; 20_000], false).await;
            }
            cat.write(b"", true).await;
            let end = cat.end().await?;
            assert_eq!((end.code, end.out.as_str(), end.err.as_str()), (0, "xxx999997\n", "over\n"));
            assert_eq!(end.error, "");
        }
        "codes" => {
            plain(client, reference).await?;
            let first = Process::start(client, init(LONG)).await?;
            let end = run(client, init("exit 7")).await?;
            assert_eq!((end.code, end.error.as_str()), (7, "exit code: 7"));
            let mut missing = init("");
            missing.meta.as_mut().expect("a process").args = vec!["/nowhere".into()];
            let end = run(client, missing).await?;
            assert!(end.code == 127 && end.err.contains("/nowhere"), "{} {}", end.code, end.err);
            drop(first);
        }
        // Several are in one container: they see each other's files, and where there are namespaces each other.
        "several" => {
            plain(client, reference).await?;
            let first = Process::start(client, init(&format!("echo here > /first; {LONG}"))).await?;
            let script = "while ! [ -s /first ]; do sleep 0.1; done; cat /first; id -u; pwd; [ $$ != 1 ]; \
                          if [ $(hostname) = buildkitsandbox ]; then ps -o pid,args | grep -q 'slee[p] 600' && echo seen; \
                          else echo seen; fi";
            let end = run(client, init(script)).await?;
            assert_eq!((end.code, end.out.as_str()), (0, "here\n0\n/\nseen\n"), "{}", end.err);
            let mut other = init("id -u; pwd; echo $A");
            let meta = other.meta.as_mut().expect("a process");
            (meta.user, meta.cwd) = ("0:0".into(), "/bin".into());
            meta.env.push("A=b".into());
            let end = run(client, other).await?;
            assert_eq!((end.code, end.out.as_str()), (0, "0\n/bin\nb\n"), "{} {}", end.error, end.err);
            let mut first = first;
            first.say(ExecInput::Signal(SignalMessage { name: "SIGTERM".into() })).await;
            let end = first.end().await?;
            assert_eq!((end.code, end.error.as_str()), (143, "exit code: 143"));
            // It ended with its first process, or is about to.
            let after = run(client, init("true")).await?;
            let ended = after.code == 255 && after.error.contains("the container has ended");
            assert!(ended || after.code == 137, "{} {}", after.code, after.error);
        }
        "first-ends" => {
            plain(client, reference).await?;
            let mut first = Process::start(client, init("read x; exit 3")).await?;
            let mut second = Process::start(client, init(&format!("echo up; {LONG}"))).await?;
            // One that has not begun when the container ends is none that is killed.
            second.says("up\n").await?;
            first.write(b"", true).await;
            assert_eq!(first.end().await?.code, 3);
            assert_eq!(second.end().await?.code, 137);
        }
        "release" => {
            plain(client, reference).await?;
            let process = Process::start(client, init(LONG)).await?;
            release(client).await?;
            assert_eq!(process.end().await?.code, 137);
            let error = Process::start(client, init("true")).await.err().expect("released");
            assert!(error.1.contains("previously released"), "{error:?}");
            assert!(release(client).await.expect_err("released").1.contains("previously released"));
            plain(client, reference).await?;
        }
        // Whoever hangs up ends the process, and with the first one the container.
        "hang-up" => {
            plain(client, reference).await?;
            drop(Process::start(client, init(LONG)).await?);
            loop {
                match run(client, init("true")).await {
                    Ok(end) if end.code == 0 => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
                    Ok(end) => {
                        assert!([137, 255].contains(&end.code), "{}", end.code);
                        break;
                    }
                    Err(error) => panic!("{error:?}"),
                }
            }
        }
        "terminal" => {
            plain(client, reference).await?;
            let script = "[ -t 0 ] && [ -t 1 ] && [ -t 2 ] && echo all; read x; stty size; echo got $x >&2";
            let mut shell = Process::start(client, InitMessage { tty: true, ..init(script) }).await?;
            shell.say(ExecInput::Resize(ResizeMessage { rows: 40, cols: 100 })).await;
            shell.write(b"word\n", false).await;
            let end = shell.end().await?;
            assert_eq!(end.code, 0, "{}", end.out);
            for text in ["all\r\n", "40 100\r\n", "got word\r\n"] {
                assert!(end.out.contains(text), "{text:?} in {:?}", end.out);
            }
        }
        "mounts" => {
            let bind = |dest: &str, result: &str| Mount { dest: dest.into(), ..root(result) };
            let of = |kind: MountType, dest: &str| Mount { mount_type: kind as i32, ..bind(dest, "") };
            let secret = SecretOpt { id: "tok".into(), mode: 0o400, ..SecretOpt::default() };
            let cache = CacheOpt { id: "kept".into(), ..CacheOpt::default() };
            let mounts = vec![
                root(reference),
                Mount { selector: "/bin".into(), ..bind("/in", reference) },
                Mount { readonly: true, ..bind("/ro", reference) },
                bind("/empty", ""),
                Mount { tmpfs_opt: Some(TmpfsOpt { size: 1 << 20 }), ..of(MountType::Tmpfs, "/mem") },
                Mount { secret_opt: Some(secret), ..of(MountType::Secret, "/run/tok") },
                Mount { cache_opt: Some(cache), ..of(MountType::Cache, "/cache") },
            ];
            let extra_hosts = vec![HostIp { host: "db".into(), ip: "10.1.2.3".into() }];
            open(
                client,
                NewContainerRequest {
                    container_id: "c".into(),
                    mounts,
                    extra_hosts,
                    hostname: "box".into(),
                    network: 2,
                    ..NewContainerRequest::default()
                },
            )
            .await?;
            let script = "set -e; [ -x /in/sh ]; [ -x /ro/bin/sh ]; [ -z \"$(ls /empty)\" ]; cat /run/tok; \
                          echo $TOK; grep -q '10.1.2.3.*db' /etc/hosts; echo w > /written; echo w > /in/written; \
                          echo w > /empty/w; echo w > /mem/w; echo more >> /cache/log; wc -l < /cache/log";
            let secretenv = vec![SecretEnv { id: "tok".into(), name: "TOK".into(), optional: false }];
            let end = run(client, InitMessage { secretenv, ..init(script) }).await?;
            assert_eq!(end.code, 0, "{}{}", end.out, end.err);
            assert!(end.out.starts_with("s3cr3t\ns3cr3t\n"), "{}", end.out);
            eprintln!("cache lines: {}", end.out.lines().last().unwrap_or_default());
        }
        "refused" => {
            let request = || NewContainerRequest {
                container_id: "c".into(),
                mounts: vec![root(reference)],
                ..NewContainerRequest::default()
            };
            for (request, expected) in [
                (NewContainerRequest { network: 1, ..request() }, "network.host is not allowed"),
                (NewContainerRequest { network: 7, ..request() }, "the network 7"),
                (NewContainerRequest { mounts: vec![], ..request() }, "nothing is mounted at /"),
                (NewContainerRequest { mounts: vec![root("nobody")], ..request() }, "there is no result"),
                (NewContainerRequest { container_id: String::new(), ..request() }, "without a name"),
            ] {
                let error = open(client, request).await.expect_err(expected);
                assert!(error.1.contains(expected), "{error:?}");
            }
            plain(client, reference).await?;
            assert!(plain(client, reference).await.expect_err("again").1.contains("there is a container c"));
            let secretenv = vec![SecretEnv { id: "none".into(), name: "N".into(), optional: false }];
            let end = run(client, InitMessage { secretenv, ..init("true") }).await?;
            assert!(end.code == 255 && end.error.contains("secret none: not found"), "{}", end.error);
            for (init, expected) in [
                (InitMessage { security: 1, ..init("true") }, "security.insecure is not allowed"),
                (InitMessage { fds: vec![3], ..init("true") }, "there is no descriptor 3"),
                (InitMessage { meta: None, ..init("true") }, "a process without arguments"),
            ] {
                let error = Process::start(client, init).await.err().expect(expected);
                assert!(error.1.contains(expected), "{error:?}");
            }
        }
        // The build ends, and nothing of it stays.
        "leave" => {
            plain(client, reference).await?;
            let left = Process::start(client, init("sleep 86417")).await?;
            std::mem::forget(left);
            return Ok(());
        }
        other => panic!("no scene {other}"),
    }
    match release(client).await {
        Err((5, _)) | Ok(()) => Ok(()),
        Err(error) => Err(error),
    }
}
