//! Mistakes in Dockerfiles as a user sees them.

use super::Failure;
use crate::base::{Digest, FaultKind};
use crate::build::BuildError;
use crate::frontend::{FrontendInput, FrontendOptions, dockerfile_to_llb};
use crate::llb::{FrontendHost, HostError, InContext, ResolveMode, ResolvedImage};
use crate::oci::Platform;

/// Has the image alpine only.
struct Alpine;

#[async_trait::async_trait]
impl FrontendHost for Alpine {
    async fn resolve_image(
        &self,
        identifier: &str,
        platform: &Platform,
        _: ResolveMode,
        _: Option<&InContext>,
    ) -> Result<ResolvedImage, HostError> {
        if identifier != "docker-image://docker.io/library/alpine:latest" {
            let name = identifier.trim_start_matches("docker-image://");
            let message = format!("{name}: not found");
            return Err(HostError { kind: FaultKind::Remote, message, hint: None, became: None });
        }
        let config = format!(
            r#"{{"architecture":"{}","os":"{}","config":{{"Env":["PATH=/bin"]}},"rootfs":{{"type":"layers","diff_ids":["{}"]}}}}"#,
            platform.architecture,
            platform.os,
            Digest::sha256(b"layer"),
        );
        Ok(ResolvedImage { digest: Digest::sha256(identifier), config: config.into(), converted: None })
    }
}

/// What is printed.
fn shown(text: &str, ignore: Option<&str>, options: FrontendOptions) -> String {
    let platform = Platform::new("linux", "amd64", "");
    let input = FrontendInput {
        filename: "Dockerfile",
        source: text.as_bytes(),
        ignore: ignore.map(|text| (".dockerignore".into(), text.as_bytes().to_vec())),
        options: FrontendOptions { build_platforms: vec![platform], ..options },
        ..FrontendInput::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let error = match runtime.block_on(dockerfile_to_llb(input, &Alpine)) {
        Ok(_) => return "built".into(),
        Err(error) => BuildError::Frontend(error),
    };
    let mut out = Vec::new();
    Failure::of_build(&error, "Dockerfile", text.as_bytes(), &[])
        .print(&mut out, &super::Aftermath::default())
        .expect("memory is writable");
    String::from_utf8(out).expect("text")
}

/// The mistakes are in the snapshot anyway.
macro_rules! snapshot {
    ($($argument:expr),*) => {
        insta::with_settings!({omit_expression => true}, { insta::assert_snapshot!($($argument),*) })
    };
}

/// Snapshots of one topic below each other, each behind what was written.
fn all(mistakes: &[&str]) -> String {
    let mut out = String::new();
    for text in mistakes {
        let seen = shown(text, None, FrontendOptions::default());
        assert!(seen.contains("error: "), "{text:?} is no mistake: {seen}");
        out.push_str(&format!("{seen}\n========\n"));
    }
    out
}

// SPEC A1.19, A1.14, A1.15, A1.13
#[test]
fn keywords_and_structure() {
    snapshot!(all(&[
        "FROM alpine\nRNU make\nCMD [\"sh\"]\n",
        "FROM alpine\napt-get install curl\n",
        "FROM alpine\nRUN\u{a0}x\n",
        "RUN make\nFROM alpine\n",
        "ARG A\n",
        "",
        "# nothing\n",
        "FROM alpine\nFORM alpine\nRUM x\nCOPY a\n",
    ]));
}

// SPEC A1.01, A1.02, A1.04
#[test]
fn directives() {
    snapshot!(all(&[
        "# escape=x\nFROM alpine\n",
        "# escape=`\n# escape=`\nFROM alpine\n",
        "# check=skp=all\nFROM alpine\n",
        "# check=error=perhaps\nFROM alpine\n",
    ]));
}

// SPEC A1.16
#[test]
fn flags() {
    snapshot!(all(&[
        "FROM alpine\nCOPY --form=base a b\n",
        "FROM alpine\nCOPY --chown=1 --chown=2 a b\n",
        "FROM alpine\nRUN --network=nome make\n",
        "FROM alpine\nRUN --security=insecur make\n",
        "FROM alpine\nCOPY --link=yes a b\n",
        "FROM alpine\nCOPY --from a b\n",
        "FROM alpine\nADD --from=x a b\n",
        "FROM alpine\nENV --global A=b\n",
        "FROM --platfrom=linux/arm64 alpine\n",
        "FROM alpine\nHEALTHCHECK --intervall=5s CMD x\n",
    ]));
}

// SPEC A1.17, A1.18, A8.01–A8.12
#[test]
fn arguments() {
    snapshot!(all(&[
        "FROM alpine\nCOPY only-one\n",
        "FROM alpine\nCMD [\"a\", 1]\n",
        "FROM alpine\nSHELL /bin/bash -c\n",
        "FROM alpine\nENV A=b c\n",
        "FROM alpine\nENV A\n",
        "FROM alpine\nENV =b\n",
        "FROM alpine AS\n",
        "FROM alpine AS 1x\n",
        "FROM alpine # the base\n",
        "FROM alpine\nONBUILD FROM x\n",
        "FROM alpine\nONBUILD ONBUILD RUN x\n",
        "FROM alpine\nHEALTHCHECK CND x\n",
        "FROM alpine\nHEALTHCHECK --interval=5 CMD x\n",
        "FROM alpine\nEXPOSE 80/icmp\n",
        "FROM alpine\nEXPOSE 1-99999\n",
        "FROM alpine\nSTOPSIGNAL SIGNOPE\n",
        "FROM alpine\nWORKDIR\n",
        "FROM alpine\nADD --checksum=md5:1 https://example.com/x /\n",
        "FROM alpine\nCOPY --chmod=u+q a b\n",
    ]));
}

// SPEC A2.05, A2.08
#[test]
fn heredocs() {
    snapshot!(all(&[
        "FROM alpine\nRUN <<EOF\necho\n",
        "FROM alpine\nRUN <<EOF|sh\necho\nEOF\n",
        "FROM alpine\nCOPY a <<EOF\nx\nEOF\n",
        "FROM alpine\nCOPY <<EOF /x\n${A:?no A}\nEOF\n",
    ]));
}

// SPEC A3.02, A3.05, A3.06, A3.10
#[test]
fn variables() {
    snapshot!(all(&[
        "FROM alpine\nENV A=${}\n",
        "FROM alpine\nENV A=\"open\n",
        "FROM alpine\nENV A=1 B=${A\n",
        "FROM alpine\nLABEL a=1 \\\n  b=${X:?must be given} \\\n  c=2\n",
        "FROM alpine\nUSER ${A@Q}\n",
        "FROM alpine\nARG V\nCOPY --from=$V a b\n",
        "FROM alpine\nARG V\nRUN --mount=from=$V,target=/x y\n",
        "ARG TAG\nFROM $TAG\n",
        "ARG VERSION=latest\nFROM --platform=$PLATFROM alpine:$VERSION\n",
    ]));
}

// SPEC A4.02, A4.04, A4.05, A4.07
#[test]
fn stages() {
    snapshot!(all(&[
        "FROM alpine AS builder\nFROM alpine\nCOPY --from=bulider /x /\n",
        "FROM alpine AS one\nCOPY --from=two /x /\nFROM alpine AS two\nFROM one\n",
        "FROM alpine\nCOPY --from=3 /x /\n",
        "FROM alpine AS a\nCOPY --from=a /x /\n",
        "FROM alpine AS one\nRUN --mount=from=two,target=/x y\nFROM alpine AS two\nFROM one\n",
        "FROM Alpine\n",
        "FROM alpine:bad tag\n",
        "FROM https://example.com/x\n",
        "FROM alpin\n",
        "FROM alpine AS one\nFROM tow AS two\nFROM two\n",
    ]));
    let target = FrontendOptions { target: Some("tset".into()), ..FrontendOptions::default() };
    snapshot!("target", shown("FROM alpine AS test\nFROM test AS other\n", None, target));
}

// SPEC A5.02–A5.10
#[test]
fn mounts() {
    snapshot!(all(&[
        "FROM alpine\nRUN --mount=type=cahce,target=/x y\n",
        "FROM alpine\nRUN --mount=type=cache,tagret=/x y\n",
        "FROM alpine\nRUN --mount=type=cache,target=/x,sharing=lock y\n",
        "FROM alpine\nRUN --mount=type=secret y\n",
        "FROM alpine\nRUN --mount=type=bind,target=/ y\n",
        "FROM alpine\nRUN --mount=type=tmpfs,target=/x,size=big y\n",
        "FROM alpine\nRUN --mount=target y\n",
    ]));
}

// SPEC A9.02, A9.04
#[test]
fn ignore_files() {
    let of = |ignore: &str| shown("FROM alpine\nCOPY a b\n", Some(ignore), FrontendOptions::default());
    snapshot!([of("ok\n!\n"), of("# c\na[\n")].join("\n========\n"));
}

// Part of the interface: scripts rely on them.
#[test]
fn exit_codes_are_those_of_the_page() {
    use crate::base::FaultKind;
    let kinds = [
        FaultKind::Internal,
        FaultKind::Usage,
        FaultKind::Input,
        FaultKind::Remote,
        FaultKind::Auth,
        FaultKind::Network,
        FaultKind::Store,
        FaultKind::NoSpace,
        FaultKind::Step,
        FaultKind::Isolation,
        FaultKind::Interrupted,
    ];
    let mut codes: Vec<u8> = kinds.map(super::exit_code).into_iter().chain([0]).collect();
    codes.sort_unstable();
    codes.dedup();
    let page = include_str!("../../../docs/cli/exit-codes.md");
    let documented: Vec<u8> =
        page.lines().filter_map(|line| line.strip_prefix("| ")?.split(' ').next()?.parse().ok()).collect();
    assert_eq!(documented, codes);
}
