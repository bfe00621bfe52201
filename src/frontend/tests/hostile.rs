//! Files that try to break the front end.

use super::*;

#[test]
fn many_stages_do_not_exhaust_the_stack() {
    let mut text = String::from("FROM scratch AS s0\n");
    for i in 1..5_000 {
        let _ = writeln!(text, "FROM s{} AS s{i}", i - 1);
    }
    assert!(convert(&text).definition.is_scratch());
}

#[test]
fn port_ranges_are_bounded() {
    let text = format!("FROM alpine\nEXPOSE{}\n", " 0-65535".repeat(50));
    assert_eq!(convert(&text).config.config.exposed_ports.len(), 65536);
}

#[test]
fn paths_stay_inside() {
    let result = convert("FROM alpine\nCOPY ../../../etc/passwd /../../x\nRUN --mount=source=../../s,target=../m x\n");
    let text = graph(&result);
    assert!(text.contains("copy #2 /etc/passwd to /x"), "{text}");
    assert!(text.contains(r#"["etc/passwd","s"]"#), "{text}");
    assert!(text.contains("mount /m bind #2 selector=/s ro"), "{text}");
}

/// Pieces that go together in all sorts of wrong ways.
const LINES: [&str; 34] = [
    "FROM alpine",
    "FROM alpine AS a",
    "FROM a AS b",
    "FROM ${V:-scratch} AS c",
    "FROM --platform=$BUILDPLATFORM busybox",
    "FROM onbuild AS a",
    "ARG V",
    "ARG V=1 W=$V",
    "ENV V=2 X=${W:-$V}",
    "ENV x y z",
    "RUN echo $V",
    "RUN [\"a\", \"$V\"]",
    "RUN <<E\n#!/x\ny\nE",
    "RUN cat <<A <<B\na\nA\nb\nB",
    "RUN --mount=type=cache,target=$V x",
    "RUN --mount=from=a,source=../x,target=../../y x",
    "RUN --mount=type=secret,id=s,env=V --mount=type=ssh x",
    "RUN --mount=\"a\"\"b\" x",
    "COPY a b /",
    "COPY --from=0 / /",
    "COPY --from=a --link . ./",
    "COPY --from=c --parents **/x/./y z",
    "COPY --chown=a:b --chmod=$V <<E /x\n$V\nE",
    "ADD --exclude=** . $V",
    "ADD https://example.com/x /",
    "WORKDIR $V",
    "WORKDIR ../..",
    "USER $V",
    "EXPOSE $V 1-2/udp",
    "VOLUME [\"/v\", \"$V\"]",
    "ONBUILD COPY --from=a /x /y",
    "HEALTHCHECK CMD x",
    "ENTRYPOINT x",
    "LABEL a=\"b c\" $V=1",
];

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn nonsense_gives_an_error_or_a_valid_graph(picks in proptest::collection::vec(0..LINES.len(), 1..14)) {
        let text: String = picks.iter().map(|pick| format!("{}\n", LINES[*pick])).collect();
        match convert_with(&text, options(), Some("*.log\n"), &Host::default()) {
            Ok(result) => {
                let graph = result.definition.graph().expect("a valid definition");
                proptest::prop_assert!(graph.vertices.values().all(|vertex| !vertex.name().is_empty()));
                let layers = result.config.history.iter().filter(|entry| !entry.empty_layer).count();
                proptest::prop_assert!(layers <= graph.vertices.len() * 2);
            }
            Err(error) => proptest::prop_assert!(error.kind != FaultKind::Internal, "{error}"),
        }
    }
}
