//! SPEC A2.

use super::{error, errors, good, kind, one};
use crate::dockerfile::ast::{CommandLine, Heredoc, Kind, TransferSource};
use crate::dockerfile::parser::{parse, parse_trigger};

fn run(text: &str) -> (String, Vec<Heredoc>) {
    match kind(text) {
        Kind::Run(run) => match run.line {
            CommandLine::Shell(line) => (line, run.heredocs),
            CommandLine::Exec(argv) => panic!("{argv:?}"),
        },
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_run_heredoc_a2_01_a2_05() {
    let text = "RUN <<EOF\necho a\n  # no comment\n\nRUN b \\\n EOF\nEOF\n";
    let (line, heredocs) = run(text);
    assert_eq!(line, "<<EOF");
    let [heredoc] = heredocs.as_slice() else { panic!("{heredocs:?}") };
    assert_eq!((heredoc.name.as_str(), heredoc.expand, heredoc.chomp, heredoc.fd), ("EOF", true, false, None));
    assert_eq!(heredoc.body, "echo a\n  # no comment\n\nRUN b \\\n EOF\n");
    assert_eq!(&format!("FROM x\n{text}")[heredoc.span.clone()], heredoc.body);
    let instruction = one(text);
    assert_eq!(instruction.lines, (2, 8));
    assert_eq!(instruction.span, 7..7 + text.len() - 1);
    assert_eq!(instruction.original, "RUN <<EOF");
}

#[test]
fn several_heredocs_follow_one_another_a2_05() {
    let (line, heredocs) = run("RUN cat <<A 3<<-\"B\" && \\\n  true\na\nA\n\tb\n\tB\n");
    assert_eq!(line, "cat <<A 3<<-\"B\" &&   true");
    let seen: Vec<_> = heredocs.iter().map(|h| (h.name.as_str(), h.body.as_str(), h.content())).collect();
    assert_eq!(seen, [("A", "a\n", "a\n".to_owned()), ("B", "\tb\n", "b\n".to_owned())]);
    assert_eq!((heredocs[1].fd, heredocs[1].expand, heredocs[1].chomp), (Some(3), false, true));
}

#[test]
fn chomped_terminators_may_be_indented_a2_04() {
    let (_, heredocs) = run("RUN <<-EOF\n\t\ta\n\t  b\n  EOF\n\t\tEOF\n");
    assert_eq!(heredocs[0].body, "\t\ta\n\t  b\n  EOF\n");
    assert_eq!(heredocs[0].content(), "a\n  b\n  EOF\n");
}

#[test]
fn dos_line_ends_are_kept_in_bodies_a2_05() {
    let (_, heredocs) = run("RUN <<EOF\r\na\r\nEOF\r\n");
    assert_eq!(heredocs[0].body, "a\r\n");
}

#[test]
fn the_last_line_needs_no_line_end() {
    let (_, heredocs) = run("RUN <<EOF\na\nEOF");
    assert_eq!(heredocs[0].body, "a\n");
}

#[test]
fn copy_heredocs_among_paths_a2_08() {
    let Kind::Copy(copy) = kind("COPY --chmod=755 a <<one <<'two 2' b /dest/\n1\none\n2\ntwo 2\n") else {
        panic!("not COPY")
    };
    let sources: Vec<_> = copy
        .sources
        .iter()
        .map(|source| match source {
            TransferSource::Path(path) => path.text.clone(),
            TransferSource::Heredoc(heredoc) => format!("{}={}", heredoc.name, heredoc.body.trim_end()),
        })
        .collect();
    assert_eq!(sources, ["a", "one=1", "two 2=2", "b"]);
    assert_eq!(copy.dest.expect("given").text, "/dest/");
    assert!(matches!(kind("ADD <<EOF /x\na\nEOF\n"), Kind::Add(add) if add.heredocs().count() == 1));
    assert!(matches!(kind("COPY don't <<EOF /x\na\nEOF\n"), Kind::Copy(copy) if copy.heredocs().count() == 1));
}

#[test]
fn a_heredoc_is_no_destination_a2_08() {
    insta::assert_snapshot!(error("COPY a <<EOF\nx\nEOF\n"), @"COPY cannot accept a heredoc as a destination");
    insta::assert_snapshot!(error("ADD a <<EOF\nx\nEOF\n"), @"ADD cannot accept a heredoc as a destination");
}

#[test]
fn json_form_and_other_instructions_have_none_a2_01() {
    assert!(matches!(kind("RUN [\"cat\", \"<<EOF\"]"), Kind::Run(run) if run.heredocs.is_empty()));
    assert!(matches!(kind("COPY [\"<<EOF\", \"/x\"]"), Kind::Copy(copy) if copy.heredocs().count() == 0));
    assert!(matches!(kind("CMD cat <<EOF"), Kind::Cmd(_)));
    assert!(matches!(kind("ENV a=<<EOF"), Kind::Env(_)));
    assert_eq!(run("RUN cat <<<EOF").1, []);
    assert_eq!(run("RUN echo $((1<<2))").1, []);
}

#[test]
fn unterminated_heredocs_a2_05() {
    let parsed = parse(b"FROM x\nRUN <<EOF\nx\n");
    insta::assert_snapshot!(parsed.errors[0], @"dockerfile parse error on line 2: unterminated heredoc");
    assert_eq!(parsed.errors[0].hint.as_deref(), Some("there must be a line that consists of EOF only"));
    assert_eq!(parsed.errors[0].span, Some(11..16));
    let glued = parse(b"FROM x\nRUN cat <<EOF>y\nx\nEOF\n");
    assert_eq!(glued.errors[0].hint.as_deref(), Some("put a space behind the delimiter EOF"));
}

#[test]
fn bodies_of_wrong_instructions_are_skipped() {
    insta::assert_debug_snapshot!(errors("FROM x\nRUN --bad <<EOF\none\nEOF\nRNU <<EOF\ntwo\nEOF\nRUN ok\n"), @r#"
    [
        "dockerfile parse error on line 2: unknown flag: --bad",
        "dockerfile parse error on line 5: unknown instruction: RNU (did you mean RUN?)",
    ]
    "#);
}

#[test]
fn triggers_keep_their_heredocs_a8_12() {
    let instruction = one("ONBUILD RUN <<-A cat <<\"B\"\n\ta\n\tA\nb\nB\n");
    assert_eq!(instruction.lines, (2, 6));
    assert_eq!(instruction.heredocs().len(), 2);
    let Kind::Onbuild { text, instruction } = instruction.kind else { panic!("not ONBUILD") };
    assert_eq!(text, "RUN <<-A cat <<\"B\"\n\ta\nA\nb\nB");
    let again = parse_trigger(&text, '\\').expect("what was stored can be read");
    let (Kind::Run(first), Kind::Run(second)) = (&instruction.kind, &again.kind) else { panic!("not RUN") };
    assert_eq!(first.line, second.line);
    let bodies = |run: &crate::dockerfile::ast::Run| run.heredocs.iter().map(Heredoc::content).collect::<Vec<_>>();
    assert_eq!(bodies(first), bodies(second));
}

#[test]
fn a_body_that_is_not_utf8_is_an_error() {
    insta::assert_debug_snapshot!(errors(b"FROM x\nCOPY <<A /\n\xff\nA\nRUN ok\n"), @r#"
    [
        "dockerfile parse error on line 2: heredoc is not valid UTF-8",
    ]
    "#);
    assert_eq!(good("FROM x\nCOPY <<A /\nA\n").dockerfile.instructions.len(), 2, "an empty body");
}
