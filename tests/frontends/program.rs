//! A front end for a small language: one word and its arguments on each line. It runs in an image, speaks with the builder over
//! its standard input and a descriptor that was its standard output, and misbehaves where it is told to.

use std::collections::BTreeMap;

use rbuild::grpc::Status;
use rbuild::llb::definition::PbDefinition;
use rbuild::llb::gateway::{
    Attestation, Attestations, ChecksumRequest, Empty, EvaluateRequest, GitQuery, HttpQuery, ImageQuery,
    InputsResponse, PingResponse, ReadDirRequest, ReadDirResponse, ReadFileRequest, ReadFileResponse, Ref, RefMap,
    ResolveImageConfigRequest, ResolveImageConfigResponse, ResolveSourceMetaRequest, ResolveSourceMetaResponse,
    ResultMessage, ResultRefs, ReturnRequest, SolveRequest, SolveResponse, Stat, StatFileRequest, StatFileResponse,
    WarnRequest,
};
use rbuild::llb::op::{
    BuildInput, BuildOp, DiffOp, ExecOp, FileAction, FileActionCopy, FileActionKind, FileActionMkDir, FileActionMkFile,
    FileActionRm, FileActionSymlink, FileOp, Kind, MergeOp, Meta, Mount, MountType, Op, OpMetadata, SourceOp,
};
use rbuild::llb::{Builder, Edge};

use crate::client::{Client, Refusal};

/// What it was told.
struct Told(BTreeMap<String, String>);

impl Told {
    fn read() -> Self {
        let pair = |text: String| text.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned()));
        let options = (0..).map_while(|i| std::env::var(format!("BUILDKIT_FRONTEND_OPT_{i}")).ok());
        Self(options.filter_map(pair).collect())
    }

    fn get(&self, name: &str) -> &str {
        self.0.get(name).map(String::as_str).unwrap_or_default()
    }
}

/// Runs if this process is one.
pub(crate) fn run() {
    if std::env::var_os("BUILDKIT_SESSION_ID").is_none() {
        return;
    }
    let told = Told::read();
    eprintln!("the front end was asked for as {}", told.get("cmdline"));
    let path = "/proc/self/fd/3";
    let out = std::fs::OpenOptions::new().write(true).open(path).expect("what was standard output");
    match told.get("build-arg:MISBEHAVE") {
        "" => {}
        "nonsense" => {
            use std::io::Write as _;
            (&out).write_all(b"hello, I am no front end\n").expect("written");
            std::process::exit(0);
        }
        "crash" => {
            eprintln!("about to crash");
            std::process::exit(7);
        }
        "silent" => loop {
            std::thread::sleep(std::time::Duration::from_secs(3600));
        },
        "leave" => std::process::exit(0),
        "calls" | "headers" | "message" => {
            let _ = flood(&mut &out, told.get("build-arg:MISBEHAVE"));
            // The builder has enough of it, or is dead: it decides.
            std::thread::sleep(std::time::Duration::from_secs(3600));
        }
        // Later.
        _ => {}
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    // What is left of the runtime would wait for the builder, which waits for this program.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        hook(panic);
        std::process::exit(101);
    }));
    runtime.block_on(async {
        let stdin = std::fs::File::open("/proc/self/fd/0").expect("standard input");
        let io = tokio::io::join(tokio::fs::File::from_std(stdin), tokio::fs::File::from_std(out));
        let client = Client::connect(io).await;
        let end = match make(&client, &told).await {
            Ok(result) => ReturnRequest { result: Some(result), error: None },
            Err((code, message)) => {
                let error = Status { code: code.max(2), message: plain(&message), details: Vec::new() };
                ReturnRequest { result: None, error: Some(error) }
            }
        };
        client.call::<Empty>("Return", &end).await.expect("returned");
    });
    std::process::exit(0);
}

/// Frames of HTTP/2 until nobody takes them any more: calls that are taken back at once, headers or a message that do not end.
fn flood(out: &mut impl std::io::Write, how: &str) -> std::io::Result<()> {
    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    }
    let (data, headers, reset, settings, continuation) = (0, 1, 3, 4, 9);
    const END_OF_HEADERS: u8 = 4;
    // POST, http, and a path and an authority, without compression.
    let method = format!("/{}/Ping", rbuild::llb::gateway::SERVICE);
    let text = |at: u8, text: &str| [&[at, u8::try_from(text.len()).expect("short")], text.as_bytes()].concat();
    let head = [vec![0x83, 0x86], text(0x04, &method), text(0x01, "localhost")].concat();
    out.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")?;
    out.write_all(&frame(settings, 0, 0, &[]))?;
    match how {
        "calls" => {
            for stream in (1..).step_by(2) {
                out.write_all(&frame(headers, END_OF_HEADERS, stream, &head))?;
                out.write_all(&frame(reset, 0, stream, &[0, 0, 0, 8]))?;
            }
        }
        "headers" => {
            out.write_all(&frame(headers, 0, 1, &head))?;
            loop {
                out.write_all(&frame(continuation, 0, 1, &text(0x40, "x").repeat(1000)))?;
            }
        }
        _ => {
            out.write_all(&frame(headers, END_OF_HEADERS, 1, &head))?;
            out.write_all(&frame(data, 0, 1, &[0, 0xff, 0xff, 0xff, 0xff]))?;
            loop {
                out.write_all(&frame(data, 0, 1, &[0; 16_000]))?;
            }
        }
    }
    Ok(())
}

/// A message as it was before it went through a header.
fn plain(text: &str) -> String {
    String::from_utf8_lossy(&percent_encoding::percent_decode_str(text).collect::<Vec<u8>>()).into_owned()
}

/// A solved graph's name.
async fn solve(client: &Client, definition: PbDefinition, evaluate: bool) -> Result<String, Refusal> {
    let request = SolveRequest {
        definition: Some(definition),
        allow_result_return: true,
        allow_result_array_ref: true,
        evaluate,
        ..SolveRequest::default()
    };
    let response: SolveResponse = client.call("Solve", &request).await?;
    match response.result.and_then(|result| result.refs) {
        Some(ResultRefs::Ref(reference)) => Ok(reference.id),
        other => panic!("{other:?}"),
    }
}

fn source(identifier: &str, attrs: &[(&str, &str)]) -> Op {
    let attrs = attrs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    Op { kind: Some(Kind::Source(SourceOp { identifier: identifier.into(), attrs })), ..Op::default() }
}

fn file(base: Option<&Edge>, from: Option<&Edge>, action: FileActionKind) -> Op {
    let inputs: Vec<_> = base.into_iter().chain(from).map(Builder::input).collect();
    let (input, secondary_input) = match (base, from) {
        (Some(_), Some(_)) => (0, 1),
        (Some(_), None) => (0, -1),
        (None, Some(_)) => (-1, 0),
        (None, None) => (-1, -1),
    };
    let action = FileAction { input, secondary_input, output: 0, action: Some(action) };
    Op { inputs, kind: Some(Kind::File(FileOp { actions: vec![action] })), ..Op::default() }
}

async fn make(client: &Client, told: &Told) -> Result<ResultMessage, Refusal> {
    let ping: PingResponse = client.call("Ping", &Empty {}).await?;
    assert!(ping.frontend_api_caps.iter().any(|cap| cap.id == "solve.base" && cap.enabled));
    assert!(ping.llb_caps.iter().any(|cap| cap.id == "soruce.http.uidgid"));
    assert_eq!(ping.workers[0].platforms[0].os, "linux");
    let metadata = std::fs::read("/run/config/buildkit/metadata/frontend.bin").expect("its own definition");
    let own = <PbDefinition as prost::Message>::decode(&*metadata).expect("a definition");
    assert_eq!(own.def.len(), 2);
    let workers: serde_json::Value =
        serde_json::from_str(&std::env::var("BUILDKIT_WORKERS").expect("workers")).expect("JSON");
    assert_eq!(workers[0]["platforms"][0]["os"], "linux");

    let name = told.get("filename");
    let mut builder = Builder::default();
    let paths = format!("[\"{name}\"]");
    let local =
        builder.add(&source("local://dockerfile", &[("local.followpaths", &paths)]), OpMetadata::default(), &[]);
    let reference = solve(client, builder.finish(Some(&local)).pb, false).await?;
    let request = ReadFileRequest { reference: reference.clone(), path: name.into(), range: None };
    let text: ReadFileResponse = client.call("ReadFile", &request).await?;
    let text = String::from_utf8(text.data).expect("text");

    if !told.get("requestid").is_empty() {
        let answer = format!("{{\"question\": \"{}\"}}", told.get("requestid"));
        let metadata = [("result.json", answer.as_str()), ("result.txt", "an answer\n"), ("version", "1.0.0")];
        let metadata = metadata.map(|(name, text)| (name.to_owned(), text.as_bytes().to_vec())).into();
        return Ok(ResultMessage { metadata, ..ResultMessage::default() });
    }
    let config = serde_json::json!({"config": {}});
    let builder = Builder::default();
    let mut page = Page { client, told, reference, builder, edge: None, mark: None, config, attested: Vec::new() };
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        page.line(line).await?;
    }
    page.finish().await
}

/// What was read so far.
struct Page<'a> {
    client: &'a Client,
    told: &'a Told,
    /// The file's own tree.
    reference: String,
    builder: Builder,
    /// The tree so far.
    edge: Option<Edge>,
    /// A tree that was remembered.
    mark: Option<Edge>,
    config: serde_json::Value,
    attested: Vec<Attestation>,
}

impl Page<'_> {
    /// Adds an operation on the tree so far.
    fn add(&mut self, name: &str, make: impl FnOnce(&mut Builder, Option<&Edge>) -> Op) {
        let base = self.edge.take();
        let op = make(&mut self.builder, base.as_ref());
        self.edge = Some(self.builder.add(&op, OpMetadata::named(name), &[]));
    }

    async fn solved(&self, evaluate: bool) -> Result<String, Refusal> {
        match &self.edge {
            Some(edge) => solve(self.client, self.builder.finish(Some(edge)).pb, evaluate).await,
            None => Ok(String::new()),
        }
    }

    async fn line(&mut self, line: &str) -> Result<(), Refusal> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let (first, second) = rest.split_once(' ').unwrap_or((rest, ""));
        match word {
            "from" => {
                let context = self.told.get(&format!("context:{rest}")).to_owned();
                let identifier = if context.is_empty() { format!("docker-image://{rest}") } else { context };
                let request = match identifier.split_once("://") {
                    Some(("oci-layout", name)) => ResolveImageConfigRequest {
                        reference: name.into(),
                        resolver_type: 1,
                        ..ResolveImageConfigRequest::default()
                    },
                    _ => ResolveImageConfigRequest { reference: rest.into(), ..ResolveImageConfigRequest::default() },
                };
                let found: ResolveImageConfigResponse = self.client.call("ResolveImageConfig", &request).await?;
                assert!(found.digest.starts_with("sha256:"));
                self.config = serde_json::from_slice(&found.config).expect("a config");
                self.edge = None;
                self.add(line, |_, _| source(&identifier, &[]));
            }
            // Of the build context, what is named only.
            "copy" => {
                let (src, dest) = (first.to_owned(), second.to_owned());
                self.add(line, |builder, base| {
                    let paths = format!("[\"{src}\"]");
                    let context = source("local://context", &[("local.followpaths", &paths), ("local.session", "s")]);
                    let context = builder.add(&context, OpMetadata::default(), &[]);
                    let copy = FileActionCopy {
                        src: format!("/{src}"),
                        dest,
                        mode: -1,
                        timestamp: -1,
                        create_dest_path: true,
                        dir_copy_contents: true,
                        ..FileActionCopy::default()
                    };
                    file(base, Some(&context), FileActionKind::Copy(copy))
                });
            }
            "mkdir" => {
                let mkdir =
                    FileActionMkDir { path: rest.into(), mode: 0o750, make_parents: true, timestamp: -1, owner: None };
                self.add(line, |_, base| file(base, None, FileActionKind::Mkdir(mkdir)));
            }
            "mkfile" => {
                let data = format!("{second}\n").into_bytes();
                let mkfile = FileActionMkFile { path: first.into(), mode: 0o640, data, owner: None, timestamp: -1 };
                self.add(line, |_, base| file(base, None, FileActionKind::Mkfile(mkfile)));
            }
            "rm" => {
                let rm = FileActionRm { path: rest.into(), allow_not_found: false, allow_wildcard: false };
                self.add(line, |_, base| file(base, None, FileActionKind::Rm(rm)));
            }
            "symlink" => {
                let link =
                    FileActionSymlink { oldpath: first.into(), newpath: second.into(), owner: None, timestamp: -1 };
                self.add(line, |_, base| file(base, None, FileActionKind::Symlink(link)));
            }
            "run" => self.run(line, rest, Vec::new(), 0),
            "cached" => {
                let mount = Mount {
                    input: -1,
                    dest: "/cache".into(),
                    output: -1,
                    mount_type: MountType::Cache as i32,
                    ..Mount::default()
                };
                self.run(line, rest, vec![mount], 0);
            }
            // As on the machine itself.
            "host" => self.run(line, rest, Vec::new(), 1),
            "env" => {
                let env = &mut self.config["config"]["Env"];
                if !env.is_array() {
                    *env = serde_json::json!([]);
                }
                env.as_array_mut().expect("a list").push(rest.into());
            }
            // Makes it now; a failure is told and forgotten.
            "try" => {
                let before = self.edge.clone();
                self.run(line, rest, Vec::new(), 0);
                if let Err((_, message)) = self.solved(true).await {
                    eprintln!("tried in vain: {}", plain(&message));
                    self.edge = before;
                }
            }
            "scratch" => self.edge = None,
            "mark" => self.mark.clone_from(&self.edge),
            // What differs between the tree that was remembered and the one so far.
            "diff" => {
                let lower = self.mark.clone().expect("a mark");
                let side = |input| Some(BuildInput { input });
                self.add(line, |_, base| Op {
                    inputs: [&lower].into_iter().chain(base).map(Builder::input).collect(),
                    kind: Some(Kind::Diff(DiffOp { lower: side(0), upper: side(1) })),
                    ..Op::default()
                });
            }
            // The tree that was remembered with the one so far on top.
            "merge" => {
                let lower = self.mark.clone().expect("a mark");
                let inputs = vec![BuildInput { input: 0 }, BuildInput { input: 1 }];
                self.add(line, |_, base| Op {
                    inputs: [&lower].into_iter().chain(base).map(Builder::input).collect(),
                    kind: Some(Kind::Merge(MergeOp { inputs })),
                    ..Op::default()
                });
            }
            // A step whose result is what it writes to a directory.
            "into" => {
                let args = ["/bin/sh", "-c", second].map(ToOwned::to_owned).to_vec();
                let meta = Meta { args, cwd: "/".into(), env: vec!["PATH=/bin".into()], ..Meta::default() };
                let root = Mount { input: 0, dest: "/".into(), output: -1, ..Mount::default() };
                let place = Mount { input: -1, dest: first.into(), output: 0, ..Mount::default() };
                let exec = ExecOp { meta: Some(meta), mounts: vec![root, place], ..ExecOp::default() };
                self.add(line, |_, base| Op {
                    inputs: base.into_iter().map(Builder::input).collect(),
                    kind: Some(Kind::Exec(exec)),
                    ..Op::default()
                });
            }
            // A file of the result so far is a predicate.
            "attest" => {
                let id = self.solved(false).await?;
                self.attested.push(Attestation {
                    reference: Some(Ref { id, def: None }),
                    path: first.into(),
                    predicate_type: second.into(),
                    ..Attestation::default()
                });
            }
            // What is in a file of the result so far, as a variable.
            "read" => {
                let reference = self.solved(false).await?;
                self.client.call::<Empty>("Evaluate", &EvaluateRequest { reference: reference.clone() }).await?;
                let request = ReadFileRequest { reference, path: second.into(), range: None };
                let data: ReadFileResponse = self.client.call("ReadFile", &request).await?;
                let text = String::from_utf8(data.data).expect("text");
                Box::pin(self.line(&format!("env {first}={}", text.trim()))).await?;
            }
            "list" => {
                let reference = if first == "own" { self.reference.clone() } else { self.solved(false).await? };
                let request = ReadDirRequest { reference, path: second.into(), include_pattern: String::new() };
                let listed: ReadDirResponse = self.client.call("ReadDir", &request).await?;
                let names: Vec<String> = listed.entries.iter().map(|e| format!("{}:{:o}", e.path, e.mode)).collect();
                eprintln!("listed: {}", names.join(" "));
            }
            "stat" => {
                let reference = self.solved(false).await?;
                let request = StatFileRequest { reference, path: rest.into() };
                let found: StatFileResponse = self.client.call("StatFile", &request).await?;
                let stat = found.stat.expect("a file");
                eprintln!("found: {} {:o} {}", stat.path, stat.mode, stat.size);
            }
            "warn" => {
                let request = WarnRequest { short: rest.as_bytes().to_vec(), level: 1, ..WarnRequest::default() };
                self.client.call::<Empty>("Warn", &request).await?;
            }
            "inputs" => {
                let found: InputsResponse = self.client.call("Inputs", &Empty {}).await?;
                eprintln!("inputs: {:?}", found.definitions.keys().collect::<Vec<_>>());
            }
            "source" => {
                self.edge = None;
                let attrs: Vec<(&str, &str)> =
                    second.split_whitespace().filter_map(|pair| pair.split_once('=')).collect();
                self.add(line, |_, _| source(first, &attrs));
            }
            // What is known of a source.
            "meta" => {
                let attrs = second.split_whitespace().filter_map(|pair| pair.split_once('='));
                let attrs = attrs.map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
                let types = ["https://slsa.dev/provenance/v1", "https://slsa.dev/provenance/v0.2"];
                let image = ImageQuery {
                    no_config: true,
                    attestation_chain: true,
                    resolve_attestations: types.map(ToOwned::to_owned).to_vec(),
                };
                let wanted = ChecksumRequest { algo: 2, suffix: b"more".to_vec() };
                let request = ResolveSourceMetaRequest {
                    source: Some(SourceOp { identifier: first.into(), attrs }),
                    git: Some(GitQuery { return_object: true }),
                    http: Some(HttpQuery { checksum_request: Some(wanted) }),
                    image: Some(image),
                    ..ResolveSourceMetaRequest::default()
                };
                let found: ResolveSourceMetaResponse = self.client.call("ResolveSourceMeta", &request).await?;
                if let Some(git) = found.git {
                    let line =
                        |object: &[u8]| String::from_utf8_lossy(object).lines().next().unwrap_or_default().to_owned();
                    let objects = format!("{} | {}", line(&git.commit_object), line(&git.tag_object));
                    eprintln!("git: {} {} {} | {objects}", git.checksum, git.reference, git.commit_checksum);
                }
                if let Some(file) = found.http {
                    let at = file.last_modified.map(|at| at.seconds);
                    let digest = file.checksum_response.map(|response| response.digest);
                    eprintln!("file: {} {at:?} {digest:?}", file.filename);
                }
                if let Some(chain) = found.image.and_then(|image| image.attestation_chain) {
                    for (name, blob) in &chain.blobs {
                        assert_eq!(*name, rbuild::base::Digest::sha256(&blob.data).to_string());
                        let descriptor = blob.descriptor.as_ref().expect("a descriptor");
                        if let Some(kind) = descriptor.annotations.get("in-toto.io/predicate-type") {
                            eprintln!("attested: {kind}");
                        }
                    }
                    let own = [&chain.root, &chain.image_manifest, &chain.attestation_manifest];
                    assert!(own.iter().all(|name| chain.blobs.contains_key(*name)));
                    eprintln!("chain: {} documents, {} signatures", chain.blobs.len(), chain.signature_manifests.len());
                }
            }
            // What stands in the list of a directory.
            "listing" => {
                let reference = self.solved(false).await?;
                let request = ReadFileRequest { reference, path: "/.fsutil-metadata".into(), range: None };
                let data: ReadFileResponse = self.client.call("ReadFile", &request).await?;
                let (mut rest, mut told) = (data.data.as_slice(), Vec::new());
                while let Some((length, more)) = rest.split_first_chunk::<4>() {
                    let (one, more) = more.split_at(usize::try_from(u32::from_le_bytes(*length)).expect("short"));
                    let stat = <Stat as prost::Message>::decode(one).expect("an entry");
                    told.push(format!("{}:{:o}:{}:{}", stat.path, stat.mode & 0o777, stat.size, stat.linkname));
                    rest = more;
                }
                eprintln!("listing: {}", told.join(" "));
            }
            // Lets the built-in front end make the tree of a Dockerfile; the tree that was remembered is its context "mark".
            "dockerfile" => {
                let mut options: BTreeMap<String, String> = second
                    .split_whitespace()
                    .filter_map(|pair| pair.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned())))
                    .collect();
                options.insert("filename".into(), first.into());
                // Where images are that the file names.
                options.extend(
                    self.told
                        .0
                        .iter()
                        .filter(|(name, _)| name.starts_with("context:"))
                        .map(|(k, v)| (k.clone(), v.clone())),
                );
                let mut inputs = BTreeMap::new();
                if let Some(mark) = &self.mark {
                    let name = options.get("as").cloned().unwrap_or_else(|| "mark".to_owned());
                    inputs.insert(name.clone(), self.builder.finish(Some(mark)).pb);
                    options.insert("context:mark".into(), format!("input:{name}"));
                }
                let request = SolveRequest {
                    frontend: "dockerfile.v0".into(),
                    frontend_opt: options,
                    frontend_inputs: inputs,
                    allow_result_return: true,
                    allow_result_array_ref: true,
                    evaluate: true,
                    ..SolveRequest::default()
                };
                let response: SolveResponse = self.client.call("Solve", &request).await?;
                self.take(response.result.expect("a result"));
            }
            // A scene with the tree so far in a container.
            "play" => {
                let reference = self.solved(false).await?;
                crate::containers::play(self.client, rest, &reference).await?;
                eprintln!("played: {rest}");
            }
            // The tree that a definition in a file stands for; the definition is that of the tree so far.
            "nest" => {
                let definition = self.builder.finish(self.edge.as_ref()).pb;
                let data = prost::Message::encode_to_vec(&definition);
                let (name, attrs) = match first {
                    "" => ("buildkit.llb.definition", BTreeMap::new()),
                    name => (name, [("llbbuild.filename".to_owned(), name.to_owned())].into()),
                };
                let mkfile =
                    FileActionMkFile { path: format!("/{name}"), mode: 0o644, data, owner: None, timestamp: -1 };
                self.edge = None;
                self.add("the graph", |_, _| file(None, None, FileActionKind::Mkfile(mkfile)));
                let inputs = [("buildkit.llb.definition".to_owned(), BuildInput { input: 0 })].into();
                let build = BuildOp { builder: -1, inputs, def: None, attrs };
                self.add("what it stands for", |_, base| Op {
                    inputs: base.into_iter().map(Builder::input).collect(),
                    kind: Some(Kind::Build(build)),
                    ..Op::default()
                });
            }
            "call" => {
                self.client.call::<Empty>(rest, &Empty {}).await?;
            }
            "fail" => return Err((3, rest.to_owned())),
            other => return Err((3, format!("unknown word \"{other}\""))),
        }
        Ok(())
    }

    /// Goes on with what another front end made.
    fn take(&mut self, result: ResultMessage) {
        let text = |key: &str| result.metadata.get(key).map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        eprintln!("told: {}", result.metadata.keys().cloned().collect::<Vec<_>>().join(" "));
        if let Some(text) = text("result.txt") {
            eprintln!("answered: {text}");
        }
        let reference = match result.refs {
            Some(ResultRefs::Ref(reference)) => reference,
            Some(ResultRefs::Refs(map)) => {
                eprintln!("several: {}", map.refs.keys().cloned().collect::<Vec<_>>().join(" "));
                return;
            }
            _ => return,
        };
        let definition = rbuild::llb::Definition { pb: reference.def.expect("what it is made of") };
        for bytes in &definition.pb.def {
            assert!(!String::from_utf8_lossy(bytes).contains("rbuild-front-end-"), "no paths of the machine");
        }
        self.edge = self.builder.include(&definition);
        self.config = serde_json::from_slice(&result.metadata["containerimage.config"]).expect("a config");
    }

    fn run(&mut self, line: &str, script: &str, more: Vec<Mount>, network: i32) {
        let args = ["/bin/sh", "-c", script].map(ToOwned::to_owned).to_vec();
        let mut mounts = vec![Mount { input: 0, dest: "/".into(), output: 0, ..Mount::default() }];
        mounts.extend(more);
        let meta = Meta { args, cwd: "/".into(), env: vec!["PATH=/bin".into()], ..Meta::default() };
        let exec = ExecOp { meta: Some(meta), mounts, network, ..ExecOp::default() };
        self.add(line, |_, base| Op {
            inputs: base.into_iter().map(Builder::input).collect(),
            kind: Some(Kind::Exec(exec)),
            ..Op::default()
        });
    }

    async fn finish(self) -> Result<ResultMessage, Refusal> {
        let id = self.solved(false).await?;
        let mut metadata = BTreeMap::new();
        let asked = self.told.get("platform");
        if asked.contains(',') {
            let mut platforms = Vec::new();
            let mut refs = BTreeMap::new();
            for name in asked.split(',') {
                let mut parts = name.split('/');
                let (os, architecture) = (parts.next().expect("an os"), parts.next().expect("an architecture"));
                platforms.push(serde_json::json!({"ID": name, "Platform": {"os": os, "architecture": architecture}}));
                refs.insert(name.to_owned(), Ref { id: id.clone(), def: None });
                let mut config = self.config.clone();
                config["os"] = os.into();
                config["architecture"] = architecture.into();
                metadata.insert(format!("containerimage.config/{name}"), config.to_string().into_bytes());
            }
            let platforms = serde_json::json!({"Platforms": platforms}).to_string();
            metadata.insert("refs.platforms".into(), platforms.into_bytes());
            let refs = Some(ResultRefs::Refs(RefMap { refs }));
            return Ok(ResultMessage { refs, metadata, ..ResultMessage::default() });
        }
        metadata.insert("containerimage.config".into(), self.config.to_string().into_bytes());
        let refs = Some(ResultRefs::Ref(Ref { id, def: None }));
        let mut attestations = BTreeMap::new();
        if !self.attested.is_empty() {
            attestations.insert(String::new(), Attestations { attestation: self.attested });
        }
        Ok(ResultMessage { refs, metadata, attestations })
    }
}
