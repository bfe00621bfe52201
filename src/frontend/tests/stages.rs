//! FROM, stages, targets, named contexts, platforms (SPEC A4, B6.02).

use super::*;

#[test]
fn a4_01_a_multi_stage_build_and_its_names() {
    let result = convert(
        "FROM golang:1 AS build\nWORKDIR /src\nCOPY go.mod .\nRUN go build -o /app\nFROM alpine\nCOPY --from=build /app /bin/app\nCMD [\"/bin/app\"]\n",
    );
    insta::assert_snapshot!("multi_stage", graph(&result));
}

// SPEC N2.14
#[test]
fn a4_06_only_what_the_target_needs_is_looked_up() {
    let host = Host::default();
    let text = "FROM golang:1 AS a\nFROM missing AS b\nFROM alpine AS c\nCOPY --from=a /x /x\nFROM missing\n";
    let options = FrontendOptions { target: Some("C".into()), ..options() };
    let result = convert_with(text, options, None, &host).expect("fine");
    assert_eq!(
        host.asked(),
        [
            "docker-image://docker.io/library/alpine:latest linux/amd64",
            "docker-image://docker.io/library/golang:1 linux/amd64"
        ]
    );
    assert!(names(&result).iter().all(|name| !name.contains("missing")));
}

#[test]
fn a4_03_scratch() {
    let result = convert("FROM scratch\nCOPY a /\n");
    insta::assert_snapshot!("scratch", format!("{}{}", graph(&result), config(&result)));
    let nothing = convert("FROM scratch\n");
    assert!(nothing.definition.is_scratch());
    assert_eq!(nothing.base_layers, 0);
}

#[test]
fn a4_03_images_without_layers_are_empty_trees() {
    assert!(convert("FROM empty\nENV A=1\n").definition.is_scratch());
}

#[test]
fn a4_04_sources_by_index_name_and_image() {
    let result = convert(
        "FROM alpine AS one\nRUN a\nFROM alpine\nCOPY --from=0 /a /\nCOPY --from=ONE /b /\nCOPY --from=busybox /c /\nCOPY --from=scratch / /\n",
    );
    insta::assert_snapshot!("sources", graph(&result));
}

#[test]
fn a4_19_the_last_of_equal_names_before_the_user_counts() {
    let result = convert("FROM alpine AS x\nRUN first\nFROM x AS x\nRUN second\nFROM x AS y\nFROM scratch AS x\n");
    assert!(result.definition.is_scratch());
    let options = FrontendOptions { target: Some("y".into()), ..options() };
    let text = "FROM alpine AS x\nRUN first\nFROM x AS x\nRUN second\nFROM x AS y\nFROM scratch AS x\n";
    let result = convert_with(text, options, None, &Host::default()).expect("fine");
    assert_eq!(names(&result)[1..], ["[x 2/2] RUN first", "[x 1/1] RUN second"]);
}

#[test]
fn a4_stage_errors() {
    let all: Vec<String> = [
        "FROM missing\n",
        "FROM alpine AS builder\nFROM buidler\n",
        "FROM alpine AS offline\nFROM offlien\n",
        "FROM alpine AS a\nCOPY --from=b /x /\nFROM alpine AS b\nFROM a\n",
        "FROM alpine AS a\nCOPY --from=1 /x /\nFROM alpine AS b\nFROM a\n",
        "FROM alpine AS a\nRUN --mount=from=b,target=/x true\nFROM alpine AS b\nFROM a\n",
        "FROM alpine AS a\nCOPY --from=7 /x /\n",
        "FROM alpine AS a\nCOPY --from=$X /x /\n",
        "FROM alpine AS a\nRUN --mount=from=$X,target=/x true\n",
        "FROM alpine AS a\nCOPY --from=a /x /\n",
        "FROM alpine AS a\nCOPY --from=b /x /\nFROM alpine AS b\nCOPY --from=a /y /\n",
        "ARG X\nFROM $X\n",
        "FROM --platform=$NOPE alpine\n",
        "FROM --platform=what/is/this/really alpine\n",
        "FROM UPPER\n",
        "ARG X=1\n",
    ]
    .iter()
    .map(|text| error_of(text))
    .collect();
    insta::assert_snapshot!("stage_errors", all.join("\n"));
}

#[test]
fn a4_07_targets() {
    let target = |name: &str| {
        let options = FrontendOptions { target: Some(name.into()), ..options() };
        convert_with("FROM alpine AS first\nRUN a\nFROM alpine AS second\n", options, None, &Host::default())
    };
    assert_eq!(names(&target("FIRST").expect("found")).last().map(String::as_str), Some("[first 2/2] RUN a"));
    let error = target("frist").expect_err("not found");
    assert_eq!(error.message, "target stage \"frist\" could not be found (did you mean first?)");
    assert_eq!(error.kind, FaultKind::Usage);
}

#[test]
fn a4_08_platforms() {
    let host = Host::default();
    let options =
        FrontendOptions { platform: Some(Platform::new("linux", "arm64", "")), multi_platform: true, ..options() };
    let text = "FROM --platform=$BUILDPLATFORM golang:1 AS build\nARG TARGETARCH\nRUN build $TARGETARCH\nFROM alpine\nCOPY --from=build /x /x\n";
    let result = convert_with(text, options, None, &host).expect("fine");
    insta::assert_snapshot!("platforms", graph(&result));
    assert_eq!(result.platform.to_string(), "linux/arm64");
    assert_eq!(host.asked()[1], "docker-image://docker.io/library/golang:1 linux/amd64");
}

#[test]
fn a4_09_the_result_s_platform() {
    let text = "FROM alpine\n";
    let wanted = FrontendOptions { platform: Some("linux/arm/v6".parse().expect("valid")), ..options() };
    let result = convert_with(text, wanted, None, &Host::default()).expect("fine");
    assert_eq!(result.platform.to_string(), "linux/arm/v6");
    // Nothing asked for: the base decides, here one that this machine runs too.
    let free = FrontendOptions {
        platform: None,
        build_platforms: vec![Platform::new("linux", "amd64", ""), Platform::new("linux", "s390x", "")],
        ..options()
    };
    let host = Host { only: Some(Platform::new("linux", "s390x", "")), ..Host::default() };
    let result = convert_with("FROM alpine\nRUN x\n", free.clone(), None, &host).expect("fine");
    assert_eq!(result.platform.to_string(), "linux/s390x");
    assert_eq!(graph(&result).matches("platform linux/s390x").count(), 2);
    assert_eq!(warnings(&result).len(), 0);
    // One that it does not run.
    let free = FrontendOptions { build_platforms: vec![Platform::new("linux", "amd64", "")], ..free };
    let result = convert_with("FROM alpine\nRUN x\n", free, None, &host).expect("fine");
    assert_eq!(
        warnings(&result),
        [
            "InvalidBaseImagePlatform: Base image alpine was pulled with platform \"linux/s390x\", expected \"linux/amd64\" for current build (line 1)"
        ]
    );
}

#[test]
fn a4_02_named_contexts() {
    let contexts = [
        ("alpine", "docker-image://busybox"),
        ("tools", "./tools"),
        ("layout", "oci-layout:///images/base:1"),
        ("lib", "docker-image://golang:1"),
    ];
    let named_contexts = contexts.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
    let host = Host::default().with("oci-layout:///images/base:1", r#""config":{"Env":["FROM_LAYOUT=1"]}"#);
    let input = FrontendInput {
        filename: "Dockerfile",
        source: b"FROM missing AS lib\nRUN never\nFROM layout AS two\nCOPY --from=tools a b /\nRUN --mount=from=tools,source=c,target=/c x\nFROM alpine:latest\nCOPY --from=lib /l /\nCOPY --from=two / /\n",
        context_ignores: BTreeMap::from([("tools".into(), (".dockerignore".into(), b"*.md\n".to_vec()))]),
        options: FrontendOptions { named_contexts, ..options() },
        ..FrontendInput::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let result = runtime.block_on(dockerfile_to_llb(input, &host)).expect("fine");
    insta::assert_snapshot!("named_contexts", graph(&result));
    let mut titles = host.titles.lock().expect("no panic while locked").clone();
    titles.sort();
    let expected = [
        "[context alpine] load metadata for busybox",
        "[context layout] load metadata for docker.io/library/layout",
        "[context lib] load metadata for golang:1",
    ];
    assert_eq!(titles, expected);
    assert_eq!(*host.ignored.lock().expect("no panic while locked"), ["tools"]);
    assert!(host.asked().iter().all(|asked| !asked.contains("missing")));
}

#[test]
fn b2_24_resolve_mode() {
    let options = FrontendOptions { image_resolve_mode: ResolveMode::Pull, ..options() };
    let result = convert_with("FROM alpine\n", options, None, &Host::default()).expect("fine");
    assert!(graph(&result).contains("image.resolvemode = pull"));
}

#[test]
fn all_parse_errors_are_given() {
    let error = convert_with("FROM alpine\nCOPPY a b\nRUN x\nUSER\n", options(), None, &Host::default());
    let error = error.expect_err("fails");
    let all: Vec<String> = std::iter::once(&error).chain(&error.others).map(show_error).collect();
    insta::assert_snapshot!(all.join("\n"));
}

#[test]
fn a4_02_a_replaced_stage_can_be_the_target() {
    let named_contexts = [("out".to_owned(), "docker-image://user".to_owned())].into_iter().collect();
    let options = FrontendOptions { named_contexts, ..options() };
    let result = convert_with("FROM missing AS out\nRUN x\n", options, None, &Host::default()).expect("fine");
    assert_eq!(names(&result).len(), 1);
    assert_eq!(names(&result)[0], "[context out] user");
    assert_eq!(result.config.config.user, "app");
    assert_eq!(result.base_layers, 1);
}

#[test]
fn a4_05_triggers_can_close_a_circle() {
    let name = "docker-image://docker.io/library/round:latest";
    let host = Host::default().with(name, r#""config":{"OnBuild":["COPY --from=last /x /"]}"#);
    let text = "FROM round AS first\nFROM first AS last\n";
    let error = convert_with(text, options(), None, &host).expect_err("fails");
    assert_eq!(error.message, "circular dependency detected on stage: first");
}
