//! Lines, comments, directives, errors with places.

use super::{error, errors, good, one};
use crate::dockerfile::ast::Kind;
use crate::dockerfile::lint::Rule;
use crate::dockerfile::parser::parse;

fn originals(text: &str) -> Vec<String> {
    good(text).dockerfile.instructions.into_iter().map(|i| i.original).collect()
}

#[test]
fn directives_a1_01() {
    let directives =
        good("# syntax = docker/dockerfile:1 \n#Escape=`\n#check=skip=all\nFROM x\n").dockerfile.directives;
    let syntax = directives.syntax.expect("given");
    assert_eq!((syntax.text.as_str(), syntax.span), ("docker/dockerfile:1", 11..30));
    assert_eq!(directives.escape, Some('`'));
    assert_eq!(directives.check.expect("given").text, "skip=all");
}

#[test]
fn directives_end_at_anything_else_a1_01() {
    for before in ["\n", "# a comment\n", "# unknown=x\n", "FROM y\n", "#\n", "# escape=\n"] {
        let directives = good(&format!("{before}# escape=`\nFROM x\n")).dockerfile.directives;
        assert_eq!(directives.escape, None, "{before:?}");
    }
}

#[test]
fn directive_errors_a1_01_a1_02() {
    insta::assert_debug_snapshot!(errors("# syntax=a\n# syntax=b\nFROM x\n"), @r#"
    [
        "dockerfile parse error on line 2: only one syntax parser directive can be used",
    ]
    "#);
    insta::assert_debug_snapshot!(errors("# escape=x\nFROM x\n"), @r#"
    [
        "dockerfile parse error on line 1: invalid escape token 'x' does not match ` or \\",
    ]
    "#);
}

#[test]
fn the_escape_directive_rules_continuation_a1_02() {
    assert_eq!(originals("# escape=`\nFROM x\nCOPY a C:\\\nRUN a `\nb\n"), ["FROM x", "COPY a C:\\", "RUN a b"]);
}

#[test]
fn comments_are_dropped_a1_06() {
    assert_eq!(originals("  # c\nFROM x\n\t#c\nRUN a \\\n  # c \\\n# escape=x\n  && b #d\n")[1], "RUN a   && b #d",);
    assert_eq!(originals("# c \\\nFROM x\n"), ["FROM x"], "no continuation in comments");
}

#[test]
fn a_hash_inside_a_line_is_no_comment_a1_06() {
    let parsed = parse(b"FROM x # the base\n");
    assert_eq!(parsed.errors[0].hint.as_deref(), Some("a comment needs a line of its own"));
    assert_eq!(originals("FROM x\nRUN a # b\n")[1], "RUN a # b");
}

#[test]
fn comment_blocks_belong_to_the_instruction_below_a1_07() {
    let text = "# syntax=x\n# lost\n\n# base is it\n#  second \nFROM x AS base\n# gone\n#\n# kept\nARG A\nARG B\n";
    let comments: Vec<_> = good(text).dockerfile.instructions.into_iter().map(|i| i.comments).collect();
    assert_eq!(comments, [vec!["base is it", "second"], vec!["kept"], vec![]]);
    let from = &good(text).dockerfile.instructions[0];
    assert_eq!(from.description("base"), Some("is it"));
    assert_eq!(from.description("bas"), None);
}

#[test]
fn continuation_lines_keep_their_indent_a1_08() {
    assert_eq!(
        originals("  FROM x\nRUN a \\\n    b\\\t \nc\\\\\nRUN d\\ \\\n"),
        ["FROM x", "RUN a     bc\\\\", "RUN d\\"]
    );
    assert_eq!(originals("\\\nFROM x\n")[0], "FROM x", "a continuation mark alone on the first line");
    assert_eq!(originals("FROM \\\n\\\nx\n")[0], "FROM x");
}

#[test]
fn empty_continuation_lines_a1_09() {
    let parsed = good("FROM x\nRUN a \\\n\n  \n# c\n  b\nRUN c \\\n# c\nd\n");
    assert_eq!(parsed.dockerfile.instructions[1].original, "RUN a   b");
    let [warning] = parsed.warnings.as_slice() else { panic!("{:?}", parsed.warnings) };
    assert_eq!(warning.rule, Some(Rule::NoEmptyContinuation));
    assert_eq!(warning.lines, Some((6, 6)));
    assert_eq!(warning.span, Some(15..15));
}

#[test]
fn the_end_of_the_file_ends_an_instruction_a1_10() {
    assert_eq!(originals("FROM x\nRUN a \\")[1], "RUN a");
    assert_eq!(originals("FROM x\nRUN a \\\n")[1], "RUN a");
    assert_eq!(originals("FROM x\nRUN a \\\n\n# c")[1], "RUN a");
    assert_eq!(originals("FROM x\n\\\n \n").len(), 1);
}

#[test]
fn long_lines_are_no_problem_a1_11() {
    let text = format!("FROM x\nRUN {}\n", "a".repeat(1 << 20));
    assert_eq!(originals(&text)[1].len(), 4 + (1 << 20));
}

#[test]
fn encodings_a1_12() {
    let instructions = good("\u{feff}# escape=`\r\nFROM x `\r\n AS y\r\nRUN a\r\n").dockerfile.instructions;
    assert_eq!(instructions[0].original, "FROM x  AS y");
    assert_eq!(instructions[1].original, "RUN a");
    assert_eq!(instructions[1].span, 32..37);
    assert!(parse(b"# caf\xe9\nFROM x\nRUN a \\\n# caf\xe9\n b\n").errors.is_empty(), "comments may be anything");
    insta::assert_debug_snapshot!(errors(b"FROM x\nRUN caf\xe9\n"), @r#"
    [
        "dockerfile parse error on line 2: instruction is not valid UTF-8",
    ]
    "#);
}

#[test]
fn files_without_a_build_a1_13() {
    assert_eq!(errors(""), ["the Dockerfile cannot be empty"]);
    assert_eq!(errors("\n# c\n"), ["file with no instructions"]);
    assert_eq!(errors("ARG A\n"), ["dockerfile contains no stages to build"]);
}

#[test]
fn keywords_a1_14() {
    let instructions = good("from x\nRun a\n").dockerfile.instructions;
    assert!(matches!(instructions[1].kind, Kind::Run(_)));
    assert_eq!(instructions[1].keyword.text, "Run");
    insta::assert_debug_snapshot!(errors("FORM x\nRUN a\nRNU b\nINSTALL c\nruns\n"), @r#"
    [
        "dockerfile parse error on line 1: unknown instruction: FORM (did you mean FROM?)",
        "dockerfile parse error on line 3: unknown instruction: RNU (did you mean RUN?)",
        "dockerfile parse error on line 4: unknown instruction: INSTALL",
        "dockerfile parse error on line 5: unknown instruction: runs (did you mean run?)",
    ]
    "#);
}

#[test]
fn a_no_break_space_is_pointed_out_a1_14() {
    let parsed = parse("FROM x\nRUN\u{a0}a\n".as_bytes());
    assert_eq!(parsed.errors[0].hint.as_deref(), Some("the white space in it is U+00A0, not a plain space"));
}

#[test]
fn only_arg_before_from_a1_15() {
    insta::assert_debug_snapshot!(errors("ARG a\nRUN x\nENV a=b\nFROM x\n"), @r#"
    [
        "dockerfile parse error on line 2: no build stage in current context",
    ]
    "#);
}

#[test]
fn every_error_is_found_and_has_a_place_a1_19() {
    let text = "FROM a b\nRUN ok\nCOPY --form=x a \\\n  b\nENV x\n";
    let found: Vec<_> = parse(text.as_bytes())
        .errors
        .into_iter()
        .map(|error| (error.lines.expect("a place"), text[error.span.clone().expect("a place")].to_owned()))
        .collect();
    assert_eq!(found, [((1, 1), "FROM a b".into()), ((3, 4), "--form=x".into()), ((5, 5), "x".into())],);
}

#[test]
fn spans_cover_exactly_what_they_name() {
    let text = "\u{feff}  FROM --platform=$P \\\n # c\n alp\\\nine:3 AS b\n";
    let instruction = &good(text).dockerfile.instructions[0];
    let Kind::From { platform, base, name } = &instruction.kind else { panic!("{instruction:?}") };
    assert_eq!(&text[instruction.keyword.span.clone()], "FROM");
    assert_eq!(&text[instruction.span.clone()], text[5..].trim_end());
    assert_eq!(&text[platform.as_ref().expect("given").span.clone()], "--platform=$P");
    assert_eq!((base.text.as_str(), &text[base.span.clone()]), ("alpine:3", "alp\\\nine:3"));
    assert_eq!(&text[name.as_ref().expect("given").span.clone()], "b");
    assert_eq!(instruction.lines, (1, 4));
}

#[test]
fn flags_are_checked_for_every_instruction_a1_16() {
    for line in ["ENV --x=1 a=b", "USER --x u", "STOPSIGNAL --x 9", "VOLUME --x /a", "MAINTAINER --x me", "CMD --x a"] {
        assert!(error(line).starts_with("unknown flag: --x"), "{line}");
    }
    insta::assert_snapshot!(error("COPY --form=a b c"), @"unknown flag: --form (did you mean from?)");
    insta::assert_snapshot!(error("ADD --from=a b c"), @"unknown flag: --from");
    insta::assert_snapshot!(error("COPY --chown=1 --chown=2 b c"), @"duplicate flag specified: --chown");
    insta::assert_snapshot!(error("COPY --link= b c"), @"missing a value on flag: --link");
    assert_eq!(one("CMD -- --x").original, "CMD -- --x");
}

#[test]
fn parsing_is_linear() {
    let body = "RUN apt-get update && \\\n    # why\n\n    apt-get install -y $A ${B:-c} \"d e\"\nENV A=b C=\"d e\"\nCOPY --from=x a b\n";
    let text = format!("FROM x\n{}", body.repeat(20_000));
    let started = std::time::Instant::now();
    let parsed = good(&text);
    assert_eq!(parsed.dockerfile.instructions.len(), 60_001);
    // 120,000 lines; a quadratic parser would need minutes.
    assert!(started.elapsed().as_secs() < 20, "{:?}", started.elapsed());
}
