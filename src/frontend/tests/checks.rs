//! The build checks that need values, images or the ignore file (SPEC A10).

use super::{Host, convert, convert_with, options, warnings, with_args};
use crate::frontend::FrontendOptions;
use crate::oci::Platform;

fn found(text: &str) -> Vec<String> {
    warnings(&convert(text))
}

const NOTHING: [&str; 0] = [];

#[test]
fn a10_07_shell_form_unless_a_shell_was_chosen() {
    let text = "FROM alpine AS x\ncmd b\nFROM alpine AS y\nSHELL [\"/bin/bash\", \"-c\"]\nENTRYPOINT d\nFROM y\nCMD e\nFROM user\nENTRYPOINT g\nFROM x\nCOPY --from=y a b\nCOPY --from=2 a b\nCOPY --from=3 a b\nENTRYPOINT [\"h\"]\n";
    assert_eq!(
        found(text).into_iter().filter(|w| w.starts_with("JSON")).collect::<Vec<_>>(),
        [
            "JSONArgsRecommended: JSON arguments recommended for cmd to prevent unintended behavior related to OS signals (line 2)"
        ],
    );
}

#[test]
fn a10_09_undeclared_arguments_in_from() {
    assert_eq!(
        found("ARG TAG=latest\nFROM alpine:${TGA:-latest} AS a\nFROM alpine:latest$TGA\n"),
        ["UndefinedArgInFrom: FROM argument 'TGA' is not declared (did you mean TAG?) (line 3)"],
    );
}

#[test]
fn a10_10_the_first_relative_workdir() {
    assert_eq!(
        found("FROM alpine AS a\nWORKDIR b\nWORKDIR c\nFROM a\nWORKDIR d\n"),
        ["WorkdirRelativePath: Relative workdir \"b\" can have unexpected results if the base image changes (line 2)"],
    );
    assert_eq!(found("FROM alpine\nARG D=e\nWORKDIR $D\n").len(), 1, "what a variable holds counts");
    assert_eq!(found("FROM alpine\nARG D=/e\nWORKDIR $D\nWORKDIR f\n"), NOTHING);
    assert_eq!(found("FROM user\nWORKDIR g\n").len(), 1, "the directory of a base image does not count");
}

#[test]
fn a10_11_undefined_variables() {
    assert_eq!(
        found("ARG VERSION=1\nFROM alpine\nARG NAME\nLABEL a=$VERSOIN b=$NAME c=$PAHT d=${x:-y}\n"),
        [
            "UndefinedVar: Usage of undefined variable '$VERSOIN' (did you mean $VERSION?) (line 4)",
            "UndefinedVar: Usage of undefined variable '$PAHT' (did you mean $PATH?) (line 4)",
        ],
    );
}

#[test]
fn a10_14_base_images_of_another_platform() {
    let host = Host { only: Some(Platform::new("linux", "arm64", "")), ..Host::default() };
    let result = convert_with("FROM alpine\n", options(), None, &host).expect("fine");
    assert_eq!(
        warnings(&result),
        [
            "InvalidBaseImagePlatform: Base image alpine was pulled with platform \"linux/arm64\", expected \"linux/amd64\" for current build (line 1)"
        ],
    );
    assert_eq!(found("FROM alpine\n"), NOTHING);
}

#[test]
fn a10_15_a10_18_platforms() {
    let text = "FROM --platform=$TARGETPLATFORM alpine\nFROM --platform=linux/x86_64 alpine\nFROM --platform=linux/arm64 alpine AS x-arm64\nFROM --platform=$BUILDPLATFORM alpine AS d\nFROM --platform=linux/${TARGETARCH} alpine\n";
    assert_eq!(
        found(text),
        [
            "RedundantTargetPlatform: Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior (line 1)",
            "FromPlatformFlagConstDisallowed: FROM --platform flag should not use constant value \"linux/x86_64\" (line 2)",
        ],
        "stages that are not built count too",
    );
}

#[test]
fn a10_17_names_that_only_build_arguments_make_valid() {
    let text = "ARG TAG BASE=\nFROM alpine:$TAG AS a\nFROM ${BASE}\nFROM a\n";
    let result = convert_with(text, with_args(&[("TAG", "latest"), ("BASE", "busybox")]), None, &Host::default());
    let all = warnings(&result.expect("fine"));
    assert_eq!(
        all,
        [
            "InvalidDefaultArgInFrom: Default value for ARG alpine:$TAG results in empty or invalid base image name (line 2)",
            "InvalidDefaultArgInFrom: Default value for ARG ${BASE} results in empty or invalid base image name (line 3)",
        ],
    );
}

// SPEC A10.19, A6.23
#[test]
fn copies_of_ignored_files() {
    let text = "FROM alpine\nCOPY a /\nADD dir/b /\nCOPY . /\nCOPY kept /\n";
    let with = |ignore: &str| warnings(&convert_with(text, options(), Some(ignore), &Host::default()).expect("fine"));
    assert_eq!(
        with("a\ndir\n"),
        [
            "CopyIgnoredFile: Attempting to Copy file \"a\" that is excluded by .dockerignore (line 2)",
            "CopyIgnoredFile: Attempting to Add file \"dir/b\" that is excluded by .dockerignore (line 3)",
        ],
    );
    assert_eq!(with("a\n!kept\n").len(), 1, "the exception is about another file");
    assert_eq!(with("*\n!a\n!dir/b\n!kept\n"), NOTHING);
    assert_eq!(with("!a\n!dir/b\n*\n").len(), 4, "what comes last wins");
    assert_eq!(with("**\n").len(), 4);
}

#[test]
fn a10_21_a10_22_ports() {
    assert_eq!(
        found("FROM alpine\nARG P=83\nEXPOSE 80/TCP 127.0.0.1:80:8080 81:82 $P:84/UDP 90/udp\n"),
        // In the order of the words, as the ports are in the history.
        [
            "ExposeProtoCasing: Defined protocol '83:84/UDP' in EXPOSE instruction should be lowercase (line 3)",
            "ExposeInvalidFormat: EXPOSE instruction should not define an IP address or host-port mapping, found '83:84/UDP' (line 3)",
            "ExposeInvalidFormat: EXPOSE instruction should not define an IP address or host-port mapping, found '127.0.0.1:80:8080' (line 3)",
            "ExposeProtoCasing: Defined protocol '80/TCP' in EXPOSE instruction should be lowercase (line 3)",
            "ExposeInvalidFormat: EXPOSE instruction should not define an IP address or host-port mapping, found '81:82' (line 3)",
        ],
    );
}

// SPEC A1.04, A1.05
#[test]
fn checks_are_skipped_for_the_file_a_stage_or_an_instruction() {
    let text = "FROM alpine\nWORKDIR a\nCMD b\nEXPOSE 80/TCP\n";
    assert_eq!(found(text).len(), 3);
    assert_eq!(found(&format!("# check=skip=JSONArgsRecommended,ExposeProtoCasing\n{text}")).len(), 1);
    assert_eq!(found(&format!("# check=skip=all\n\n{text}")), NOTHING);
    assert_eq!(found(&format!("# hello\n# check=skip=all\n{text}")), NOTHING, "above a stage");
    let one = text.replace("CMD", "# check=skip=JSONArgsRecommended;error=true\nCMD");
    assert_eq!(found(&one).len(), 2, "error= above an instruction means nothing");
    let argument = FrontendOptions {
        build_args: [("BUILDKIT_DOCKERFILE_CHECK".to_owned(), "skip=WorkdirRelativePath".to_owned())]
            .into_iter()
            .collect(),
        ..options()
    };
    let result = convert_with(&format!("# check=skip=all\n\n{text}"), argument, None, &Host::default());
    assert_eq!(warnings(&result.expect("fine")).len(), 2, "the argument goes before the directive");
}
