//! SPEC A10, rule by rule.

use super::{CheckConfig, Rule, Violation, lint};
use crate::dockerfile::parser::parse;

fn run(text: &str, check: &str) -> Vec<Violation> {
    let (dockerfile, warnings) = parse(text.as_bytes()).into_result().expect("valid Dockerfile");
    lint(&dockerfile, &warnings, &CheckConfig::parse(check).expect("valid check"))
}

fn found(text: &str) -> Vec<String> {
    run(text, "").iter().map(|v| format!("{}: {} (line {})", v.rule, v.message, v.lines.0)).collect()
}

#[test]
fn a_tidy_file_is_left_alone() {
    let text = "ARG V=1\nFROM alpine:$V AS base\nWORKDIR /x\nWORKDIR y\nENV a=b\nEXPOSE 80/tcp\nCMD [\"x\"]\nFROM base\nWORKDIR z\n";
    assert_eq!(found(text), [""; 0]);
}

#[test]
fn casing_a10_01_a10_02_a10_04() {
    insta::assert_debug_snapshot!(found("FROM a AS Base\nfrom b AS c\nFROM d as e\nRun x\nFrom f as g\n"), @r#"
    [
        "StageNameCasing: Stage name 'Base' should be lowercase (line 1)",
        "FromAsCasing: 'AS' and 'from' keywords' casing do not match (line 2)",
        "ConsistentInstructionCasing: Command 'from' should match the case of the command majority (uppercase) (line 2)",
        "FromAsCasing: 'as' and 'FROM' keywords' casing do not match (line 3)",
        "ConsistentInstructionCasing: Command 'Run' should match the case of the command majority (uppercase) (line 4)",
        "ConsistentInstructionCasing: Command 'From' should match the case of the command majority (uppercase) (line 5)",
    ]
    "#);
    assert_eq!(
        found("from a\nrun b\nRUN c\n"),
        [
            "ConsistentInstructionCasing: Command 'RUN' should match the case of the command majority (lowercase) (line 3)"
        ],
    );
    assert_eq!(
        found("from a\nRUN c\n"),
        [
            "ConsistentInstructionCasing: Command 'from' should match the case of the command majority (uppercase) (line 1)"
        ],
        "a tie is upper case",
    );
    assert_eq!(found("arg a\narg b\nFROM c\nRUN d\n"), [""; 0], "global arguments do not count");
}

#[test]
fn empty_continuations_a10_03() {
    assert_eq!(found("FROM a\nRUN b \\\n\n c\n"), ["NoEmptyContinuation: Empty continuation line (line 4)"]);
}

#[test]
fn stage_names_a10_05_a10_06() {
    insta::assert_debug_snapshot!(found("FROM a AS x\nFROM b AS x\nFROM c AS scratch\nFROM d AS context\n"), @r#"
    [
        "DuplicateStageName: Duplicate stage name \"x\", stage names should be unique (line 2)",
        "ReservedStageName: Stage name should not use the same name as reserved stage \"scratch\" (line 3)",
        "ReservedStageName: Stage name should not use the same name as reserved stage \"context\" (line 4)",
    ]
    "#);
}

#[test]
fn old_forms_a10_08_a10_13() {
    insta::assert_debug_snapshot!(found("FROM a\nMAINTAINER me\nENV a b\nLABEL c d\n"), @r#"
    [
        "MaintainerDeprecated: Maintainer instruction is deprecated in favor of using label (line 2)",
        "LegacyKeyValueFormat: \"ENV key=value\" should be used instead of legacy \"ENV key value\" format (line 3)",
        "LegacyKeyValueFormat: \"LABEL key=value\" should be used instead of legacy \"LABEL key value\" format (line 4)",
    ]
    "#);
}

#[test]
fn repeated_instructions_a10_12() {
    let text =
        "FROM a\nCMD [\"b\"]\nHEALTHCHECK NONE\nCMD [\"c\"]\nHEALTHCHECK NONE\nCMD [\"d\"]\nFROM e\nCMD [\"f\"]\n";
    insta::assert_debug_snapshot!(found(text), @r#"
    [
        "MultipleInstructionsDisallowed: Multiple CMD instructions should not be used in the same stage because only the last one will be used (line 2)",
        "MultipleInstructionsDisallowed: Multiple HEALTHCHECK instructions should not be used in the same stage because only the last one will be used (line 3)",
        "MultipleInstructionsDisallowed: Multiple CMD instructions should not be used in the same stage because only the last one will be used (line 4)",
    ]
    "#);
}

#[test]
fn secrets_a10_16() {
    let text =
        "ARG NPM_TOKEN\nFROM a\nENV a=b AWS_SECRET=x auth=y\nARG API_KEY_FILE TOKENS PUBLIC_KEY\nARG GIT_PASSWD=x\n";
    insta::assert_debug_snapshot!(found(text), @r#"
    [
        "SecretsUsedInArgOrEnv: Do not use ARG or ENV instructions for sensitive data (ARG \"NPM_TOKEN\") (line 1)",
        "SecretsUsedInArgOrEnv: Do not use ARG or ENV instructions for sensitive data (ENV \"AWS_SECRET\") (line 3)",
        "SecretsUsedInArgOrEnv: Do not use ARG or ENV instructions for sensitive data (ENV \"auth\") (line 3)",
        "SecretsUsedInArgOrEnv: Do not use ARG or ENV instructions for sensitive data (ARG \"GIT_PASSWD\") (line 5)",
    ]
    "#);
}

#[test]
fn descriptions_are_experimental_a10_20() {
    let text = "# V is good\nARG V\n# bad\nARG W\n# x\nARG Y Z\n# base does it\nFROM a AS base\n# bad\nFROM b AS c\n# fine\nFROM d\n";
    assert_eq!(found(text), [""; 0]);
    let on: Vec<_> = run(text, "experimental=all").into_iter().map(|v| (v.message, v.lines.0)).collect();
    insta::assert_debug_snapshot!(on, @r#"
    [
        (
            "Comment for ARG should follow the format: `# W <description>`",
            4,
        ),
        (
            "Comment for ARG should follow the format: `# <arg_key> <description>`",
            6,
        ),
        (
            "Comment for FROM should follow the format: `# c <description>`",
            10,
        ),
    ]
    "#);
}

#[test]
fn skipping_a1_04_a1_05() {
    let text = "FROM a AS Base\n# check=skip=MaintainerDeprecated\nMAINTAINER a\n\n# check=skip=LegacyKeyValueFormat\nFROM b\nENV a b\nENV TOKEN=c\n";
    let rules = |check: &str| run(text, check).into_iter().map(|v| (v.rule, v.lines.0, v.stage)).collect::<Vec<_>>();
    assert_eq!(rules(""), [(Rule::StageNameCasing, 1, None), (Rule::SecretsUsedInArgOrEnv, 8, Some(1))],);
    assert_eq!(rules("skip=StageNameCasing"), [(Rule::SecretsUsedInArgOrEnv, 8, Some(1))]);
    assert_eq!(rules("skip=all"), []);
}

#[test]
fn warnings_as_events_a10_24() {
    let violations = run("FROM a AS Base\n", "");
    let warning = violations[0].to_warning("Dockerfile");
    assert_eq!(warning.short, "StageNameCasing: Stage name 'Base' should be lowercase (line 1)");
    assert_eq!(warning.detail, ["Stage names should be lowercase"]);
    assert_eq!(warning.url.as_deref(), Some("https://docs.docker.com/go/dockerfile/rule/stage-name-casing/"));
    assert_eq!(warning.location, Some(("Dockerfile".into(), 1, 1)));
}

#[test]
fn pages_a10_23() {
    let page = |rule: Rule| rule.url().expect("has a page").rsplit('/').nth(1).map(str::to_owned).expect("a path");
    assert_eq!(page(Rule::JSONArgsRecommended), "json-args-recommended");
    assert_eq!(page(Rule::SecretsUsedInArgOrEnv), "secrets-used-in-arg-or-env");
    assert_eq!(page(Rule::FromAsCasing), "from-as-casing");
    assert_eq!(Rule::InvalidBaseImagePlatform.url(), None);
    for rule in Rule::ALL {
        assert_eq!(Rule::named(rule.name()), Some(rule));
    }
}

#[test]
fn messages_of_the_front_end() {
    assert_eq!(Rule::undefined_var("PAHT", Some("PATH")), "Usage of undefined variable '$PAHT' (did you mean $PATH?)",);
    assert_eq!(Rule::undefined_arg_in_from("X", None), "FROM argument 'X' is not declared");
    assert_eq!(
        Rule::copy_ignored_file("Copy", "a/b"),
        "Attempting to Copy file \"a/b\" that is excluded by .dockerignore",
    );
}
