//! What a front end hears and what becomes of what it says, without a process.

use bytes::Bytes;
use prost::Message;

use super::*;
use crate::base::Digest;
use crate::grpc::code;
use crate::grpc::server::Service as _;
use crate::llb::Builder;
use crate::llb::gateway::*;
use crate::llb::op::{Kind, Op, OpMetadata};
use crate::oci::ImageConfig;

/// Admits what can be read, has the image `base`, and a file in everything.
#[derive(Default)]
struct Fake(Vec<Platform>);

#[async_trait::async_trait]
impl GatewayHost for Fake {
    fn platforms(&self) -> &[Platform] {
        &self.0
    }

    async fn admit(&self, definition: Definition) -> Result<Solved, Status> {
        let graph = definition.graph().map_err(|e| Status::new(code::INVALID_ARGUMENT, e.to_string()))?;
        let definition = Arc::new(definition);
        Ok(Solved { told: Arc::clone(&definition), definition, graph: Arc::new(graph) })
    }

    async fn evaluate(&self, graph: &Arc<Graph>) -> Result<(), Status> {
        match graph.root {
            Some(_) => Ok(()),
            None => Err(Status::new(code::UNKNOWN, "nothing")),
        }
    }

    async fn read_file(&self, _: &Arc<Graph>, path: &str, (offset, most): (u64, u64)) -> Result<Vec<u8>, Status> {
        let data = if path == "/big" { vec![0; 17 << 20] } else { b"0123456789".to_vec() };
        Ok(data
            .into_iter()
            .skip(usize::try_from(offset).expect("small"))
            .take(usize::try_from(most).expect("small"))
            .collect())
    }

    async fn read_dir(&self, _: &Arc<Graph>, _: &str, _: Option<&str>) -> Result<Vec<Stat>, Status> {
        Ok(vec![Stat { path: "f".into(), ..Stat::default() }])
    }

    async fn stat(&self, _: &Arc<Graph>, path: &str) -> Result<Stat, Status> {
        Ok(Stat { path: path.into(), size: 10, ..Stat::default() })
    }

    async fn resolve_image(
        &self,
        source: SourceOp,
        _: &Platform,
        _: &str,
    ) -> Result<(SourceOp, ResolvedImage), Status> {
        if !source.identifier.ends_with("base") {
            return Err(Status::new(code::NOT_FOUND, format!("{}: not found", source.identifier)));
        }
        let found =
            ResolvedImage { digest: Digest::sha256("base"), config: Bytes::from_static(b"{}"), converted: None };
        Ok((source, found))
    }

    async fn pin(&self, source: SourceOp, _: &Platform, query: SourceQuery) -> Result<PinnedSource, Status> {
        let objects = query.objects.then(|| (b"commit".to_vec(), Some(b"tag".to_vec())));
        let digest = query.checksum.map(|wanted| format!("sha{}", wanted.algo));
        let reference = "refs/tags/v1".into();
        let (tag, file) = (Some("t".into()), Some(("f".into(), Some(7))));
        Ok(PinnedSource { source, checksum: "c".into(), reference, tag, file, objects, digest })
    }

    async fn attested(&self, _: SourceOp, _: &Platform, types: &[String]) -> Result<Option<AttestationChain>, Status> {
        Ok(Some(AttestationChain { root: types.join(","), ..AttestationChain::default() }))
    }

    async fn front_end(
        &self,
        name: &str,
        _: BTreeMap<String, String>,
        _: BTreeMap<String, Definition>,
    ) -> Result<Answer, Status> {
        Err(Status::new(code::INVALID_ARGUMENT, format!("no front end {name}")))
    }

    async fn open_container(
        &self,
        _: NewContainerRequest,
        _: Vec<(Mount, Option<Arc<Graph>>)>,
    ) -> Result<Arc<dyn GatewayContainer>, Status> {
        Err(Status::new(code::PERMISSION_DENIED, "no containers"))
    }

    fn warn(&self, _: Warning) {}
}

async fn call<M: Message + Default>(bridge: &Bridge<'_>, method: &str, message: &impl Message) -> Result<M, Status> {
    let answer = bridge.unary(&format!("/{SERVICE}/{method}"), message.encode_to_vec().into()).await?;
    Ok(M::decode(&*answer).expect("an answer"))
}

fn definition(identifier: &str) -> Definition {
    let mut builder = Builder::default();
    let source = SourceOp { identifier: identifier.into(), ..SourceOp::default() };
    let root = builder.add(&Op { kind: Some(Kind::Source(source)), ..Op::default() }, OpMetadata::default(), &[]);
    builder.finish(Some(&root))
}

async fn solved(bridge: &Bridge<'_>, array: bool) -> Result<Option<ResultRefs>, Status> {
    let request = SolveRequest {
        definition: Some(definition("docker-image://x").pb),
        allow_result_return: true,
        allow_result_array_ref: array,
        evaluate: true,
        ..SolveRequest::default()
    };
    Ok(call::<SolveResponse>(bridge, "Solve", &request).await?.result.expect("a result").refs)
}

// SPEC C3.08–C3.15
#[tokio::test]
async fn c3_11_results_have_names_and_are_looked_into() {
    let host = Fake(vec![Platform::new("linux", "arm64", "")]);
    let bridge = Bridge::new(&host, BTreeMap::from([("in".to_owned(), definition("docker-image://y"))]));
    let ping: PingResponse = call(&bridge, "Ping", &Empty {}).await.expect("answered");
    assert_eq!(ping.workers[0].platforms[0].architecture, "arm64");
    let announced = |id: &str| ping.frontend_api_caps.iter().any(|cap| cap.id == id);
    assert!(announced("gateway.exec.signals") && !announced("gateway.exec.filesystem"));
    let Ok(Some(ResultRefs::Ref(reference))) = solved(&bridge, true).await else { panic!("a reference") };
    assert_eq!(reference.def.as_ref().map(|def| def.def.len()), Some(2));
    let Ok(Some(ResultRefs::RefDeprecated(other))) = solved(&bridge, false).await else { panic!("a name") };
    assert!(reference.id != other && !other.is_empty());
    let range = Some(FileRange { offset: 2, length: 3 });
    let request = ReadFileRequest { reference: other.clone(), path: "/f".into(), range };
    assert_eq!(call::<ReadFileResponse>(&bridge, "ReadFile", &request).await.expect("read").data, b"234");
    let request = ReadFileRequest { path: "/big".into(), ..request };
    assert_eq!(call::<ReadFileResponse>(&bridge, "ReadFile", &request).await.expect("read").data.len(), 3);
    let error = call::<ReadFileResponse>(&bridge, "ReadFile", &ReadFileRequest { range: None, ..request }).await;
    assert_eq!(error.expect_err("too long").code, code::RESOURCE_EXHAUSTED);
    let request = StatFileRequest { reference: "nobody".into(), path: "/f".into() };
    let error = call::<StatFileResponse>(&bridge, "StatFile", &request).await.expect_err("unknown");
    assert_eq!((error.code, error.message.as_str()), (code::NOT_FOUND, "there is no result \"nobody\""));
    let request = ReadDirRequest { reference: other, ..ReadDirRequest::default() };
    assert_eq!(call::<ReadDirResponse>(&bridge, "ReadDir", &request).await.expect("read").entries[0].path, "f");
    let inputs: InputsResponse = call(&bridge, "Inputs", &Empty {}).await.expect("answered");
    assert_eq!(inputs.definitions["in"].def.len(), 2);
    let request = ResolveImageConfigRequest { reference: "base".into(), ..ResolveImageConfigRequest::default() };
    let found: ResolveImageConfigResponse = call(&bridge, "ResolveImageConfig", &request).await.expect("found");
    assert_eq!((found.reference.as_str(), found.config), ("base", b"{}".to_vec()));
    let source = Some(SourceOp { identifier: "git://h/r".into(), ..SourceOp::default() });
    let request = ResolveSourceMetaRequest { source, ..ResolveSourceMetaRequest::default() };
    let found: ResolveSourceMetaResponse = call(&bridge, "ResolveSourceMeta", &request).await.expect("found");
    let git = found.git.expect("a repository");
    assert_eq!(
        (git.checksum.as_str(), git.commit_checksum.as_str(), git.reference.as_str()),
        ("t", "c", "refs/tags/v1")
    );
    assert!(git.commit_object.is_empty() && git.tag_object.is_empty());
}

// SPEC C3.10
#[tokio::test]
async fn c3_10_more_is_told_of_sources_where_it_is_asked_for() {
    let host = Fake(vec![Platform::new("linux", "arm64", "")]);
    let bridge = Bridge::new(&host, BTreeMap::new());
    let ask = async |identifier: &str, request: ResolveSourceMetaRequest| {
        let source = Some(SourceOp { identifier: identifier.into(), ..SourceOp::default() });
        let request = ResolveSourceMetaRequest { source, ..request };
        call::<ResolveSourceMetaResponse>(&bridge, "ResolveSourceMeta", &request).await
    };
    let query = ResolveSourceMetaRequest { git: Some(GitQuery { return_object: true }), ..Default::default() };
    let git = ask("git://h/r", query).await.expect("found").git.expect("a repository");
    assert_eq!((git.commit_object, git.tag_object), (b"commit".to_vec(), b"tag".to_vec()));
    let plain = ask("https://h/f", ResolveSourceMetaRequest::default()).await.expect("found").http.expect("a file");
    assert_eq!((plain.filename.as_str(), plain.last_modified), ("f", Some(Moment { seconds: 7, nanos: 0 })));
    assert_eq!(plain.checksum_response, None);
    let wanted = ChecksumRequest { algo: 2, suffix: b"more".to_vec() };
    let query = HttpQuery { checksum_request: Some(wanted) };
    let query = ResolveSourceMetaRequest { http: Some(query), ..Default::default() };
    let file = ask("https://h/f", query).await.expect("found").http.expect("a file");
    let told = ChecksumResponse { digest: "sha2".into(), suffix: b"more".to_vec() };
    assert_eq!(file.checksum_response, Some(told));
    let wrong = HttpQuery { checksum_request: Some(ChecksumRequest { algo: 9, suffix: Vec::new() }) };
    let wrong = ResolveSourceMetaRequest { http: Some(wrong), ..Default::default() };
    assert_eq!(ask("https://h/f", wrong).await.expect_err("no such algorithm").code, code::INVALID_ARGUMENT);
    let query = ImageQuery { resolve_attestations: vec!["a".into(), "b".into()], ..ImageQuery::default() };
    let query = ResolveSourceMetaRequest { image: Some(query), ..Default::default() };
    let image = ask("docker-image://base", query).await.expect("found").image.expect("an image");
    assert_eq!(image.attestation_chain.map(|chain| chain.root), Some("a,b".into()));
    let image = ask("docker-image://base", Default::default()).await.expect("found").image.expect("an image");
    assert_eq!(image.attestation_chain, None);
}

// SPEC C3.12, C3.13
#[tokio::test]
async fn c3_13_it_returns_once() {
    let host = Fake::default();
    let bridge = Bridge::new(&host, BTreeMap::new());
    let error = call::<Empty>(&bridge, "Return", &ReturnRequest::default()).await.expect_err("empty");
    assert_eq!(error.code, code::INVALID_ARGUMENT);
    let refs = Some(ResultRefs::Ref(Ref { id: "nobody".into(), def: None }));
    let request = ReturnRequest { result: Some(ResultMessage { refs, ..ResultMessage::default() }), error: None };
    assert_eq!(call::<Empty>(&bridge, "Return", &request).await.expect_err("unknown").code, code::NOT_FOUND);
    let refs = Some(ResultRefs::Ref(Ref::default()));
    let request = ReturnRequest { result: Some(ResultMessage { refs, ..ResultMessage::default() }), error: None };
    call::<Empty>(&bridge, "Return", &request).await.expect("an empty tree");
    let again = call::<Empty>(&bridge, "Return", &request).await.expect_err("twice");
    assert_eq!(again.code, code::FAILED_PRECONDITION);
    bridge.ended().await;
    let answer = bridge.outcome().expect("returned").expect("a result");
    assert!(answer.refs[""].graph.root.is_none());
}

// SPEC C3.06, C3.16
#[tokio::test]
async fn c3_06_calls_that_make_no_sense_are_refused() {
    let host = Fake::default();
    let bridge = Bridge::new(&host, BTreeMap::new());
    for path in ["/x/Ping", &format!("/{SERVICE}/ReadFileContainer"), &format!("/{SERVICE}/"), ""] {
        let error = bridge.unary(path, Bytes::new()).await.expect_err(path);
        assert_eq!(error.code, code::UNIMPLEMENTED, "{path}");
    }
    let error =
        bridge.unary(&format!("/{SERVICE}/Solve"), Bytes::from_static(b"\xff\xff")).await.expect_err("nonsense");
    assert!(error.message.starts_with("a message that cannot be read"), "{error}");
    let mut bad = definition("docker-image://x");
    bad.pb.def.pop();
    let request = SolveRequest { definition: Some(bad.pb), ..SolveRequest::default() };
    let error = call::<SolveResponse>(&bridge, "Solve", &request).await.expect_err("no terminal");
    assert_eq!(error.code, code::INVALID_ARGUMENT);
    let health = bridge.unary("/grpc.health.v1.Health/Check", Bytes::new()).await.expect("healthy");
    assert_eq!(health, [8, 1]);
}

// SPEC C3.06
#[tokio::test]
async fn c3_06_what_is_no_conversation_is_told() {
    for (text, expected) in [
        (&b""[..], "it ended without saying what it made"),
        (b"PRI * HTTP", "it begins with \"PRI * HTTP\""),
        (b"usage: frontend [-h]\n", "it begins with \"usage: frontend [-h]\\n\""),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nno frames of any kind are here", "no conversation with a builder any more"),
    ] {
        let trouble = speak(text, tokio::io::sink(), &Fake::default(), BTreeMap::new(), None).await;
        let trouble = trouble.expect_err("nothing was made").to_string();
        assert!(trouble.contains(expected), "{trouble}");
    }
    // Nothing comes, and the pipe stays open.
    let (ours, _theirs) = tokio::io::duplex(1);
    let limit = Some(Duration::from_millis(1));
    let trouble = speak(ours, tokio::io::sink(), &Fake::default(), BTreeMap::new(), limit).await;
    assert!(matches!(trouble, Err(Trouble::Silent(_))));
}

#[test]
fn what_is_said_does_not_move_the_cursor() {
    assert_eq!(shown("a\tb\nc\u{1b}[2J\r"), "a\tb\nc\u{fffd}[2J\u{fffd}");
    assert_eq!(shown(&"x".repeat(100_000)).len(), 4096);
}

fn answer(refs: &[&str], metadata: &[(&str, &str)]) -> Answer {
    let solved = Solved::default();
    Answer {
        refs: refs.iter().map(|name| ((*name).to_owned(), solved.clone())).collect(),
        metadata: metadata.iter().map(|(k, v)| ((*k).to_owned(), v.as_bytes().to_vec())).collect(),
        attestations: Vec::new(),
    }
}

const BOTH: &str = r#"{"Platforms":[{"ID":"a","Platform":{"os":"linux","architecture":"arm64"}},{"ID":"b","Platform":{"os":"linux","architecture":"amd64"}}]}"#;

// SPEC C3.12, C3.20
#[test]
fn c3_20_what_is_returned_becomes_a_result_for_each_platform() {
    let (amd, arm) = (Platform::new("linux", "amd64", ""), Platform::new("linux", "arm64", ""));
    let config = |made: &result::Made| -> ImageConfig { made.result.config.clone() };
    let one = answer(
        &[""],
        &[("containerimage.config", r#"{"os":"linux","architecture":"riscv64"}"#), ("source.date.epoch", "7")],
    );
    let made = result::made(one, "f", &[]).expect("one");
    assert_eq!((made[0].result.platform.architecture.as_str(), made[0].result.epoch), ("riscv64", Some(7)));
    let metadata = [
        ("refs.platforms", BOTH),
        ("containerimage.config/a", r#"{"author":"A"}"#),
        ("containerimage.config", r#"{"author":"all"}"#),
    ];
    let made = result::made(answer(&["a", "b"], &metadata), "f", &[amd.clone(), arm.clone()]).expect("both");
    let told: Vec<_> =
        made.iter().map(|m| (m.result.platform.clone(), config(m).author, config(m).architecture)).collect();
    assert_eq!(told, [(amd.clone(), "all".into(), "amd64".into()), (arm.clone(), "A".into(), "arm64".into())]);
    let made = result::made(answer(&[""], &[]), "f", &[]).expect("nothing is known of it");
    assert_eq!(made[0].result.platform, Platform::host().normalised());
}

// SPEC C3.12, C3.20
#[test]
fn c3_20_answers_that_contradict_themselves_are_refused() {
    let (amd, arm) = (Platform::new("linux", "amd64", ""), Platform::new("linux", "arm64", ""));
    let both = [amd.clone(), arm];
    for (answer, wanted, expected) in [
        (answer(&[], &[]), &[][..], "returned no result"),
        (answer(&["a", "b"], &[]), &[], "several results without refs.platforms"),
        (answer(&["a"], &[("refs.platforms", BOTH)]), &[], "no result for b"),
        (answer(&["a", "b", "c"], &[("refs.platforms", BOTH)]), &[], "\"c\" that is not in refs.platforms"),
        (answer(&["a", "b"], &[("refs.platforms", BOTH)]), &[], "results for linux/arm64, linux/amd64; name those"),
        (answer(&["a", "b"], &[("refs.platforms", BOTH)]), &both[..1], "was asked for linux/amd64"),
        (answer(&[""], &[]), &both, "was asked for linux/amd64, linux/arm64"),
        (answer(&[""], &[("refs.platforms", "[")]), &[], "refs.platforms that cannot be read"),
        (answer(&[""], &[("containerimage.config", "x")]), &[], "malformed containerimage.config"),
        (answer(&[""], &[("source.date.epoch", "now")]), &[], "malformed source.date.epoch: \"now\""),
    ] {
        let error = result::made(answer, "example.com/f", wanted).map(drop).expect_err(expected);
        assert!(
            error.message.starts_with("the front end example.com/f ") && error.message.contains(expected),
            "{error}"
        );
    }
    let error = result::answer(&BTreeMap::new(), "f").expect_err("no answer");
    assert_eq!(error.message, "the front end f did not answer the question");
}
