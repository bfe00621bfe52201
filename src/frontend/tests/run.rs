//! RUN (SPEC A5, A2.06–A2.09).

use super::*;

#[test]
fn a5_01_forms_and_the_process() {
    let options = FrontendOptions {
        add_hosts: vec![crate::llb::op::HostIp { host: "db".into(), ip: "10.0.0.1".into() }],
        shm_size: Some(1 << 20),
        ulimits: vec![crate::llb::op::Ulimit { name: "nofile".into(), soft: 1, hard: 2 }],
        hostname: Some("builder".into()),
        cgroup_parent: Some("/x".into()),
        ..options()
    };
    let text = "FROM user\nRUN echo \"$LANG\" $UNSET\nRUN [\"echo\", \"$HOME\"]\nRUN --network=none --security=insecure a\nUSER 5:6\nWORKDIR sub\nRUN --network=host \\\n  b\n";
    let result = convert_with(text, options, None, &Host::default()).expect("fine");
    insta::assert_snapshot!("processes", graph(&result));
    insta::assert_snapshot!("processes_history", history(&result).join("\n"));
    assert_eq!((result.base_layers, result.base_history), (1, 1));
}

// SPEC A10.16: what the check warns about is in the step's environment, not in what is told of the step.
#[test]
fn a10_16_values_of_secret_variables_are_not_shown() {
    let text = "FROM alpine\nARG SSH_PRIVATE_KEY=hidden\nARG PUBLIC_KEY=shown\nARG API_TOKEN\nRUN echo $SSH_PRIVATE_KEY $PUBLIC_KEY $API_TOKEN\n";
    let graph = graph(&convert(text));
    assert!(graph.contains("RUN echo **** shown $API_TOKEN"), "{graph}");
    assert!(graph.contains("SSH_PRIVATE_KEY=hidden"), "{graph}");
}

#[test]
fn a5_02_all_kinds_of_mounts() {
    let result = convert(
        r"FROM alpine AS src
FROM alpine
WORKDIR /w
ARG ID=from-arg
RUN --mount=target=ctx \
    --mount=type=bind,from=src,source=/lib,target=/lib,rw \
    --mount=type=bind,from=busybox,target=/bb \
    --mount=type=cache,target=/root/.cache \
    --mount=type=cache,id=$ID,target=/c2,sharing=locked,mode=0700,uid=1,gid=2 \
    --mount=type=cache,target=/c3,from=src,source=/seed,ro \
    --mount=type=tmpfs,target=/tmp,size=1m \
    --mount=type=secret,id=plain \
    --mount=type=secret,id=tok,env=TOKEN \
    --mount=type=secret,target=/etc/both,env=BOTH,required,mode=0444,uid=7 \
    --mount=type=ssh \
    --mount=type=ssh,id=other,target=/agent,required=true \
    use $TOKEN
",
    );
    insta::assert_snapshot!("mounts", graph(&result));
    assert_eq!(history(&result)[2], "RUN |1 ID=from-arg /bin/sh -c use $TOKEN # buildkit");
}

#[test]
fn a5_mount_errors() {
    let all: Vec<String> = [
        "FROM alpine\nRUN --mount=target=/ x\n",
        "FROM alpine\nRUN --mount=type=cache x\n",
        "FROM alpine\nRUN --mount=type=cache,source=sub,target=/x x\n",
        "FROM alpine\nRUN --mount=tpye=cache,target=/x x\n",
        "FROM alpine\nRUN --mount=type=tmfps,target=/x x\n",
        "FROM alpine\nRUN --network=bridge x\n",
        "FROM alpine\nRUN --security=none x\n",
        "FROM alpine\nRUN --device=gpu,required=perhaps x\n",
        // SPEC A5.01
        "FROM alpine\nRUN []\n",
        "FROM alpine\nRUN --network=none [ ]\n",
    ]
    .iter()
    .map(|text| error_of(text))
    .collect();
    insta::assert_snapshot!("mount_errors", all.join("\n"));
}

#[test]
fn a2_06_a2_07_heredocs() {
    let result = convert(
        "FROM alpine\nRUN <<EOF\necho $a\necho b\nEOF\nRUN <<-E\n\techo tab\nE\nRUN <<PY\n#!/usr/bin/python3\nprint(1)\nPY\nRUN cat <<A <<-B\na\nA\n\tb\nB\n",
    );
    insta::assert_snapshot!("heredocs", graph(&result));
    insta::assert_snapshot!("heredocs_history", history(&result).join("\n---\n"));
}

#[test]
fn b2_18_b2_19_no_cache() {
    let text = "FROM alpine AS a\nWORKDIR /w\nRUN x\nFROM a AS b\nCOPY x /\n";
    let count = |no_cache: crate::frontend::NoCache| {
        let options = FrontendOptions { no_cache, ..options() };
        let result = convert_with(text, options, None, &Host::default()).expect("fine");
        graph(&result).matches("ignore cache").count()
    };
    assert_eq!(count(crate::frontend::NoCache::None), 0);
    assert_eq!(count(crate::frontend::NoCache::All), 2);
    assert_eq!(count(crate::frontend::NoCache::Stages(vec!["B".into()])), 1);
}

// SPEC D1.22
#[test]
fn d1_22_only_what_runs_is_fresh() {
    let text = "FROM alpine\nWORKDIR /w\nRUN x\nCOPY x /\nRUN y\n";
    let options = FrontendOptions { fresh_runs: true, ..options() };
    let result = convert_with(text, options, None, &Host::default()).expect("fine");
    assert_eq!(graph(&result).matches("ignore cache").count(), 2);
}

#[test]
fn a8_12_triggers_of_images_and_stages() {
    let result = convert("FROM onbuild AS child\nRUN two\n");
    insta::assert_snapshot!("triggers", graph(&result));
    assert!(result.config.config.on_build.is_empty());
    let result = convert(
        "FROM alpine AS base\nONBUILD ARG X=1\nONBUILD RUN trigger\nRUN own\nFROM base AS child\nRUN child\nFROM child\nRUN grandchild\n",
    );
    assert_eq!(
        history(&result),
        [
            "RUN /bin/sh -c own # buildkit",
            "(ARG X=1)",
            "RUN |1 X=1 /bin/sh -c trigger # buildkit",
            "RUN |1 X=1 /bin/sh -c child # buildkit",
            "RUN |1 X=1 /bin/sh -c grandchild # buildkit"
        ]
    );
    assert!(names(&result).contains(&"[child 1/2] ONBUILD RUN trigger".to_owned()));
    let stored = convert("FROM alpine\nONBUILD RUN <<E\nx\nE\n");
    assert_eq!(stored.config.config.on_build, ["RUN <<E\nx\nE"]);
    assert!(stored.config.history.is_empty());
}

#[test]
fn a8_12_bad_triggers_point_at_the_from() {
    let name = "docker-image://docker.io/library/bad:latest";
    let host = Host::default().with(name, r#""config":{"OnBuild":["NONSENSE x"]}"#);
    let error = convert_with("# c\nFROM bad\n", options(), None, &host).expect_err("fails");
    assert_eq!(error.place.as_ref().map(|place| place.lines), Some((2, 2)));
    assert!(error.message.contains("NONSENSE") && error.message.contains("bad"), "{}", error.message);
}
