//! The image config and its history (SPEC A8, C6.07).

use super::*;

#[test]
fn a8_every_instruction() {
    let text = r#"FROM user
MAINTAINER Someone <a@b>
LABEL one=1 two="a b" one=again
ENV A=1 B="x y"
ENV legacy some words
EXPOSE 443 80/udp 8000-8001 80/udp
VOLUME /data /more
USER app:staff
WORKDIR rel
WORKDIR /abs
STOPSIGNAL SIGTERM
SHELL ["/bin/ash", "-e", "-c"]
HEALTHCHECK --interval=30s --retries=3 CMD curl -f localhost
ENTRYPOINT run me
CMD ["a\"b", "c"]
ONBUILD RUN later
"#;
    let result = convert(text);
    insta::assert_snapshot!("every_instruction", config(&result));
}

#[test]
fn a8_04_entrypoint_resets_an_inherited_command() {
    let cmd = |text: &str| convert(text).config.config.cmd;
    assert_eq!(cmd("FROM user\n"), Some(vec!["sh".into()]));
    assert_eq!(cmd("FROM user\nENTRYPOINT [\"x\"]\n"), None);
    assert_eq!(cmd("FROM user\nCMD [\"y\"]\nENTRYPOINT [\"x\"]\n"), Some(vec!["y".into()]));
    assert_eq!(cmd("FROM user AS a\nCMD [\"y\"]\nFROM a\nENTRYPOINT [\"x\"]\n"), None);
    assert_eq!(cmd("FROM user\nCMD []\n"), None);
    assert_eq!(convert("FROM user\nENTRYPOINT []\n").config.config.entrypoint, None);
    assert_eq!(history(&convert("FROM alpine\nCMD []\n")), ["(CMD [])"]);
}

#[test]
fn a8_06_workdir_belongs_to_the_user() {
    let result = convert("FROM user\nWORKDIR /\nWORKDIR $LANG\nUSER 7\nWORKDIR ../d\n");
    let text = graph(&result);
    assert!(text.contains("mkdir /C mode=0755 parents owner=app ->"), "{text}");
    assert!(text.contains("mkdir /d mode=0755 parents owner=7 ->"), "{text}");
    assert_eq!(history(&result)[1..], ["(WORKDIR /)", "WORKDIR /C", "(USER 7)", "WORKDIR /d"]);
}

#[test]
fn a8_11_health_checks() {
    let result = convert("FROM alpine\nHEALTHCHECK NONE\n");
    let check = result.config.config.healthcheck.clone().expect("set");
    assert_eq!(check.test, ["NONE"]);
    assert_eq!(history(&result), [r#"(HEALTHCHECK &{["NONE"] "0s" "0s" "0s" "0s" '\x00'})"#]);
    let exec = convert("FROM alpine\nHEALTHCHECK --timeout=1m30s CMD [\"a\", \"b\"]\n");
    assert_eq!(history(&exec), [r#"(HEALTHCHECK &{["CMD" "a" "b"] "0s" "1m30s" "0s" "0s" '\x00'})"#]);
}

#[test]
fn b2_13_labels_of_the_command_line_come_last() {
    let labels = [("a".to_owned(), "cli".to_owned()), ("b".to_owned(), String::new())].into_iter().collect();
    let options = FrontendOptions { labels, ..options() };
    let result = convert_with("FROM alpine\nLABEL a=file c=file\n", options, None, &Host::default()).expect("fine");
    let labels: Vec<String> = result.config.config.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(labels, ["a=cli", "b=", "c=file"]);
}

#[test]
fn c6_06_unknown_members_of_the_base_survive() {
    let name = "docker-image://docker.io/library/odd:latest";
    let host =
        Host::default().with(name, r#""docker_version":"1","created":"2020-01-01T00:00:00Z","config":{"X-Own":1}"#);
    let result = convert_with("FROM odd\nENV A=1\n", options(), None, &host).expect("fine");
    let value = serde_json::to_value(&result.config).expect("serialises");
    assert_eq!((&value["docker_version"], &value["config"]["X-Own"]), (&"1".into(), &1.into()));
    assert_eq!(result.config.created, None);
    assert_eq!(result.base_config.and_then(|base| base.created).as_deref(), Some("2020-01-01T00:00:00Z"));
}

#[test]
fn a8_errors() {
    let all: Vec<String> = [
        "FROM alpine\nSTOPSIGNAL SIGNOPE\n",
        "FROM alpine\nEXPOSE 99999\n",
        "FROM alpine\nEXPOSE 80/icmp\n",
        "FROM alpine\nVOLUME $NOTHING\n",
        "FROM alpine\nENV A=${A?needed}\n",
    ]
    .iter()
    .map(|text| error_of(text))
    .collect();
    insta::assert_snapshot!("config_errors", all.join("\n"));
}

#[test]
fn a10_checks() {
    let text = "FROM alpine AS x\nARG GITHUB_TOKEN\nENV API_KEY=1\nWORKDIR a\nWORKDIR b\nENV a b\nCMD x\nCMD [\"y\"]\nEXPOSE 1:80/TCP\n";
    insta::assert_snapshot!("checks", warnings(&convert(text)).join("\n"));
    assert_eq!(warnings(&convert(&format!("# check=skip=all\n{text}"))).len(), 0);
    let error = error_of(&format!("# check=skip=all;error=true\n{text}").replace("skip=all;", ""));
    assert!(error.contains("lint violation found for rules: "), "{error}");
    let event = convert("FROM alpine\nWORKDIR a\n").warnings[0].to_event("Dockerfile");
    assert!(event.short.ends_with("(line 2)") && event.location == Some(("Dockerfile".into(), 2, 2)), "{event:?}");
    let skipped = convert("FROM alpine\n# check=skip=WorkdirRelativePath\nWORKDIR a\n");
    assert_eq!(warnings(&skipped).len(), 0);
}

#[test]
fn equal_input_gives_equal_bytes() {
    let text = "FROM alpine AS a\nRUN --mount=type=secret,id=s x\nFROM alpine\nCOPY --link --from=a /x /\nCOPY . /\n";
    let (one, two) = (convert(text), convert(text));
    assert_eq!(one.definition.pb, two.definition.pb);
}

#[test]
fn a1_19_errors_point_at_the_word() {
    let text = "FROM alpine\nENV a=1 \\\n  b=${c?gone}\n";
    let error = convert_with(text, options(), None, &Host::default()).expect_err("fails");
    let place = error.place.expect("known");
    assert_eq!(place.lines, (2, 3));
    assert_eq!(place.span.map(|span| &text[span]), Some("${c?gone}"));
    // The words of an image's trigger are not in the file.
    let name = "docker-image://docker.io/library/bad:latest";
    let host = Host::default().with(name, r#""config":{"OnBuild":["USER ${x?gone}"]}"#);
    let error = convert_with("FROM bad\n", options(), None, &host).expect_err("fails");
    assert_eq!(error.place, Some(crate::frontend::Place { lines: (1, 1), span: None }));
}
