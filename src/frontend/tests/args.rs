//! ARG and ENV scoping (SPEC A3.08, A3.11, A4.10–A4.18).

use super::*;

/// The environment of the last step.
fn env(result: &FrontendResult) -> Vec<String> {
    let text = graph(result);
    let last = text.split("\n#").last().unwrap_or_default();
    last.lines().filter_map(|line| line.trim().strip_prefix("env ")).map(str::to_owned).collect()
}

fn with(text: &str, args: &[(&str, &str)]) -> FrontendResult {
    convert_with(text, with_args(args), None, &Host::default()).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn a4_11_global_arguments_need_a_declaration() {
    let text = "ARG V=1\nARG W=${V}w\nFROM alpine\nARG W\nRUN x\n";
    let result = convert(text);
    assert_eq!(env(&result), ["PATH=/bin", "W=1w"]);
    assert_eq!(history(&result), ["(ARG W=1w)", "RUN |1 W=1w /bin/sh -c x # buildkit"]);
    assert_eq!(env(&with(text, &[("V", "2")])), ["PATH=/bin", "W=2w"]);
    assert_eq!(env(&with("ARG V=1\nFROM alpine\nARG V=stage\nRUN x\n", &[])), ["PATH=/bin", "V=stage"]);
    assert_eq!(env(&with("ARG V=1\nFROM alpine\nARG V=stage\nRUN x\n", &[("V", "cli")])), ["PATH=/bin", "V=cli"]);
    assert_eq!(env(&with("ARG V=1\nFROM alpine\nRUN x\n", &[("V", "cli")])), ["PATH=/bin"]);
}

#[test]
fn a4_10_several_on_a_line_and_values_from_before() {
    let result = convert("FROM alpine\nARG A=1\nARG A=2 B=$A C\nRUN x\n");
    assert_eq!(env(&result), ["PATH=/bin", "A=2", "B=1"]);
    assert_eq!(history(&result)[1], "(ARG A=2 B=1 C)");
    assert_eq!(history(&result)[2], "RUN |3 A=2 B=1 C= /bin/sh -c x # buildkit");
}

#[test]
fn a3_08_one_env_instruction_sees_the_values_of_before() {
    let result = convert("FROM alpine\nENV a=1\nENV a=2 b=$a\nRUN x\n");
    assert_eq!(env(&result), ["PATH=/bin", "a=2", "b=1"]);
    assert_eq!(history(&result)[1], "(ENV a=2 b=1)");
}

#[test]
fn a3_11_env_goes_before_arg() {
    let result = with("FROM alpine\nENV A=env\nARG A=arg\nLABEL l=$A\nRUN x\n", &[("A", "cli")]);
    assert_eq!(env(&result), ["PATH=/bin", "A=env"]);
    assert_eq!(result.config.config.labels["l"], "env");
    assert_eq!(history(&result)[3], "RUN |1 A=env /bin/sh -c x # buildkit");
}

#[test]
fn a4_12_stages_inherit_arguments() {
    let result = convert("FROM alpine AS a\nARG X=1\nENV Y=2\nFROM a\nRUN x\n");
    assert_eq!(env(&result), ["PATH=/bin", "Y=2", "X=1"]);
    assert_eq!(history(&result).last().map(String::as_str), Some("RUN |1 X=1 /bin/sh -c x # buildkit"));
    assert_eq!(result.config.config.env, ["PATH=/bin", "Y=2"]);
}

#[test]
fn a4_14_proxies_are_outside_of_everything() {
    let result = with("FROM alpine\nRUN x\n", &[("HTTP_PROXY", "http://p"), ("no_proxy", "n")]);
    assert_eq!(env(&result), ["PATH=/bin"]);
    assert_eq!(history(&result), ["RUN /bin/sh -c x # buildkit"]);
    assert!(graph(&result).contains(r#"http_proxy: "http://p""#));
    let declared = with("FROM alpine\nARG HTTP_PROXY\nRUN x\n", &[("HTTP_PROXY", "http://p")]);
    assert_eq!(env(&declared), ["PATH=/bin", "HTTP_PROXY=http://p"]);
    assert_eq!(history(&declared)[1], "RUN |1 HTTP_PROXY=http://p /bin/sh -c x # buildkit");
}

#[test]
fn a4_15_automatic_arguments_need_a_declaration() {
    let result = convert("FROM alpine AS rel\nARG TARGETARCH TARGETSTAGE BUILDPLATFORM TARGETVARIANT\nRUN x\n");
    assert_eq!(
        env(&result),
        ["PATH=/bin", "TARGETARCH=amd64", "TARGETSTAGE=rel", "BUILDPLATFORM=linux/amd64", "TARGETVARIANT="]
    );
}

#[test]
fn a4_17_arguments_for_the_builder() {
    let args = [("BUILDKIT_SANDBOX_HOSTNAME", "box"), ("BUILDKIT_CACHE_MOUNT_NS", "ns")];
    let result = with("FROM alpine\nARG BUILDKIT_SBOM_SCAN_STAGE=true\nRUN --mount=type=cache,target=/c x\n", &args);
    let text = graph(&result);
    assert!(text.contains("hostname box") && text.contains("id=ns//c sharing=shared"), "{text}");
    assert_eq!(env(&result), ["PATH=/bin"]);
}

// SPEC A4.17, C8.13
#[test]
fn c8_13_arguments_say_what_is_scanned() {
    let names = |text: &str, args: &[(&str, &str)]| -> Vec<String> {
        with(text, args).scanned.into_iter().map(|(name, _)| name).collect()
    };
    let file = |globals: &str| {
        format!(
            "{globals}FROM alpine AS one\nFROM alpine AS two\nFROM scratch AS end\nCOPY --from=one /a /\nCOPY --from=two /b /\n"
        )
    };
    let none: [&str; 0] = [];
    assert_eq!(names(&file(""), &[]), none);
    assert_eq!(names(&file(""), &[("BUILDKIT_SBOM_SCAN_STAGE", "true")]), ["one", "two"]);
    assert_eq!(names(&file("ARG BUILDKIT_SBOM_SCAN_STAGE=two,other\n"), &[]), ["two"]);
    assert_eq!(names(&file("ARG BUILDKIT_SBOM_SCAN_STAGE=two\n"), &[("BUILDKIT_SBOM_SCAN_STAGE", "false")]), none);
    assert_eq!(names(&file("ARG BUILDKIT_SBOM_SCAN_CONTEXT=true\n"), &[]), ["context"]);
    assert_eq!(names(&file(""), &[("BUILDKIT_SBOM_SCAN_CONTEXT", "end")]), ["context"]);
    assert_eq!(names(&file(""), &[("BUILDKIT_SBOM_SCAN_CONTEXT", "one")]), none, "it counts for the target");
    // What is scanned is what COPY could have taken; the result stays as it is.
    let scanned = with("FROM scratch\nCOPY x /\n", &[("BUILDKIT_SBOM_SCAN_CONTEXT", "1")]);
    let context = dump::to_text(&scanned.scanned[0].1).expect("a valid definition");
    assert!(context.contains("local://context") && !context.contains("followpaths"), "{context}");
    assert!(graph(&scanned).contains("[1/1] COPY x /"), "{}", graph(&scanned));
}

#[test]
fn a4_18_the_epoch_reaches_stages_and_what_the_builder_writes() {
    let text = "ARG SOURCE_DATE_EPOCH=0100\nFROM alpine\nARG SOURCE_DATE_EPOCH\nWORKDIR /w\nCOPY <<F /f\nF\nRUN x\n";
    let result = convert(text);
    assert_eq!(result.epoch, Some(100));
    assert_eq!(env(&result), ["PATH=/bin", "SOURCE_DATE_EPOCH=100"]);
    assert_eq!(graph(&result).matches("time=100000000000").count(), 2);
    let result = with(text, &[("SOURCE_DATE_EPOCH", "5")]);
    assert_eq!((result.epoch, env(&result)[1].as_str()), (Some(5), "SOURCE_DATE_EPOCH=5"));
}

#[test]
fn a3_09_undefined_variables_are_empty_and_warned_of() {
    let result = convert("FROM alpine\nENV GOPATH=/go\nLABEL a=$GOPTH b=${NOPE:-x} c=$UNSET_THING\nARG P\nUSER $P\n");
    assert_eq!(result.config.config.labels["a"], "");
    assert_eq!(result.config.config.labels["b"], "x");
    insta::assert_snapshot!(warnings(&result).join("\n"));
}

#[test]
fn a10_09_undefined_arguments_in_from() {
    let result = convert("ARG VERSION=1\nFROM golang:1$VERSON\n");
    assert_eq!(
        warnings(&result),
        ["UndefinedArgInFrom: FROM argument 'VERSON' is not declared (did you mean VERSION?) (line 2)"]
    );
}

#[test]
fn a10_17_bases_that_need_a_build_argument() {
    let result = with("ARG BASE\nFROM $BASE\n", &[("BASE", "alpine")]);
    assert_eq!(
        warnings(&result),
        ["InvalidDefaultArgInFrom: Default value for ARG $BASE results in empty or invalid base image name (line 2)"]
    );
}
