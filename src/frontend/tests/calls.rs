//! Questions about a Dockerfile.

use super::{Host, options, with_args};
use crate::frontend::{Answer, Call, FrontendError, FrontendInput, FrontendOptions, call};

fn ask_with(question: Call, text: &str, options: FrontendOptions) -> Result<Answer, FrontendError> {
    let input = FrontendInput { filename: "Dockerfile", source: text.as_bytes(), options, ..FrontendInput::default() };
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(call(question, &input, &Host::default()))
}

fn ask(question: Call, text: &str) -> Answer {
    ask_with(question, text, options()).unwrap_or_else(|error| panic!("{error}"))
}

/// The answer without what repeats the file.
fn json(mut answer: Answer) -> String {
    if let Some(object) = answer.json.as_object_mut() {
        assert!(object.shift_remove("sources").is_some_and(|sources| sources.is_array()));
    }
    serde_json::to_string_pretty(&answer.json).expect("serialises")
}

const FILE: &str = "\
# VERSION of the base
ARG VERSION=3
ARG TAG=v$VERSION
ARG UNUSED=1
FROM alpine AS tools
ARG VERSION
# FLAVOUR of the tools
ARG FLAVOUR=sweet TARGETARCH
RUN --mount=type=secret,id=npm,required --mount=type=cache,target=/cache x
# app is what we ship
FROM golang:${TAG:+1} AS app
COPY --from=tools /x /
RUN --mount=type=ssh --mount=type=secret,target=/run/own y
FROM app
RUN z
";

#[test]
fn a10_28_outlines() {
    let target = |name: &str| FrontendOptions { target: Some(name.into()), ..options() };
    let app = ask_with(Call::Outline, FILE, target("app")).expect("fine");
    insta::assert_snapshot!("outline_text", app.text);
    insta::assert_snapshot!("outline_json", json(app));
    let given = FrontendOptions { target: Some("tools".into()), ..with_args(&[("VERSION", "9"), ("FLAVOUR", "sour")]) };
    insta::assert_snapshot!(ask_with(Call::Outline, FILE, given).expect("fine").text, @r"
    TARGET:   tools

    BUILD ARG   VALUE   DESCRIPTION
    VERSION     9
    FLAVOUR     sour    of the tools

    SECRET   REQUIRED
    npm      true
    ");
    // SPEC A10.28: a default value means what was declared before it.
    let again = "ARG A=1\nARG B=2\nARG C=3\nARG A=${A}${B}\nFROM alpine\nARG A\nARG X=1\nARG X=${X}2\n";
    insta::assert_snapshot!(ask(Call::Outline, again).text, @r"
    BUILD ARG   VALUE   DESCRIPTION
    B           2
    A           12
    X           12
    ");
    let bare = ask(Call::Outline, "FROM alpine\n");
    assert_eq!((bare.text.as_str(), bare.status), ("", 0));
}

#[test]
fn a10_29_targets() {
    let answer =
        ask(Call::Targets, "FROM --platform=$BUILDPLATFORM a AS Base\n# test runs it\nFROM base AS test\nFROM b\n");
    insta::assert_snapshot!(answer.text, @r"
    TARGET      DESCRIPTION
    base
    test        runs it
    (default)
    ");
    insta::assert_snapshot!("targets_json", json(answer));
    let named = ask(Call::Targets, "FROM a AS x\n");
    assert_eq!(named.text, "TARGET        DESCRIPTION\nx (default)\n");
}

#[test]
fn a10_30_descriptions() {
    let answer = ask(Call::Describe, "not even a Dockerfile");
    insta::assert_snapshot!("describe_text", answer.text);
    insta::assert_snapshot!("describe_json", serde_json::to_string_pretty(&answer.json).expect("serialises"));
}

#[test]
fn a10_30_the_graph_as_json() {
    let text = "FROM scratch AS unused\nCOPY x /\nFROM scratch\nCOPY --chown=1 --link a /b/\n";
    let answer = ask(Call::named("frontend.convertllb").expect("a call"), text);
    let def = answer.json["def"].as_object().expect("an object").clone();
    let find = |name: &str| def.values().find(|op| op.get(name).is_some());
    let copy = &find("file").expect("a copy")["file"]["actions"][0];
    assert_eq!(copy["copy"]["src"], "/a");
    assert_eq!(copy["copy"]["owner"]["user"], serde_json::json!({"byID": 1}));
    assert_eq!(find("source").expect("the context")["source"]["identifier"], "local://context");
    // Operations, metadata and places go by the digests that inputs name.
    let copied =
        def.iter().find(|(_, op)| op.get("file").is_some()).map(|(digest, _)| digest.as_str()).expect("a copy");
    let end = def.values().filter_map(|op| op["inputs"][0]["digest"].as_str()).any(|input| input == copied);
    assert!(end, "{}", answer.text);
    assert_eq!(
        answer.json["metadata"][copied]["description"]["llb.customname"],
        "[stage-1 1/1] COPY --chown=1 --link a /b/"
    );
    assert_eq!(answer.json["source"]["locations"][copied]["locations"][0]["ranges"][0]["start"]["line"], 4);
    assert!(!answer.text.contains("\"/x\""), "only what the target needs: {}", answer.text);
    assert_eq!(serde_json::from_str::<serde_json::Value>(&answer.text).expect("JSON for people too"), answer.json);
}

#[test]
fn a10_25_lint_as_text() {
    let clean = ask(Call::Lint, "FROM alpine\n");
    assert_eq!((clean.text.as_str(), clean.status), ("Check complete, no warnings found.\n", 0));
    let one = ask(Call::Lint, "FROM alpine AS Base\n");
    assert_eq!(one.status, 1);
    insta::assert_snapshot!(one.text, @r"
    Check complete, 1 warning has been found!

    WARNING: StageNameCasing - https://docs.docker.com/go/dockerfile/rule/stage-name-casing/
    Stage name 'Base' should be lowercase
    Dockerfile:1
    --------------------
       1 | >>> FROM alpine AS Base
    --------------------
    ");
    let broken = ask(Call::Lint, "FROM alpine AS Base\nRUN --mount=type=bnd x\nFROM alpine\nENTRYPOINT y\n");
    assert_eq!(broken.status, 1);
    insta::assert_snapshot!("lint_broken", broken.text);
    let unreadable = ask(Call::Lint, "FROM alpine\nRUM x\nCOPY a\n");
    insta::assert_snapshot!("lint_unreadable", unreadable.text);
}

#[test]
fn a10_25_every_stage_is_checked_unless_a_target_is_named() {
    let text = "FROM alpine AS one\nENTRYPOINT x\nFROM alpine AS two\nENTRYPOINT y\n";
    let lines = |options: FrontendOptions| -> Vec<i64> {
        let answer = ask_with(Call::Lint, text, options).expect("fine");
        let warnings = answer.json["warnings"].as_array().expect("a list").clone();
        warnings.iter().filter_map(|w| w["location"]["ranges"][0]["start"]["line"].as_i64()).collect()
    };
    assert_eq!(lines(options()), [2, 4]);
    assert_eq!(lines(FrontendOptions { target: Some("one".into()), ..options() }), [2]);
}

#[test]
fn a10_27_lint_as_json() {
    let answer = ask(Call::Lint, "FROM alpine AS Base\nUSER ${x?gone}\n");
    let source = &answer.json["sources"][0];
    assert_eq!(source["filename"], "Dockerfile");
    assert_eq!(source["language"], "Dockerfile");
    assert_eq!(source["data"], "RlJPTSBhbHBpbmUgQVMgQmFzZQpVU0VSICR7eD9nb25lfQo=");
    assert_eq!(source["definition"]["def"].as_array().map(Vec::len), Some(2));
    insta::assert_snapshot!("lint_json", json(answer));
}

// SPEC A1.04
#[test]
fn a10_24_a_call_tells_that_checks_would_fail_the_build() {
    let answer = ask(Call::Lint, "# check=error=true\nFROM alpine AS Base\n");
    assert_eq!(answer.json["buildError"]["message"], "lint violation found for rules: StageNameCasing");
    assert_eq!(answer.json["buildError"]["location"]["ranges"][0]["start"]["line"], 2);
    assert_eq!(answer.json["warnings"].as_array().map(Vec::len), Some(1));
    assert!(answer.text.contains("\nERROR: lint violation found for rules: StageNameCasing\n"), "{}", answer.text);
}

#[test]
fn a10_25_what_stands_before_a_mistake_is_checked() {
    let answer = ask(Call::Lint, "FROM alpine AS Base\nMAINTAINER me\nBADCMD\nMAINTAINER you\n");
    let rules: Vec<&str> =
        answer.json["warnings"].as_array().expect("a list").iter().filter_map(|w| w["ruleName"].as_str()).collect();
    assert_eq!(rules, ["StageNameCasing", "MaintainerDeprecated"]);
    assert_eq!(answer.json["buildError"]["message"], "dockerfile parse error on line 3: unknown instruction: BADCMD");
}
