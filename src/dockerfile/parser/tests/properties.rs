//! What holds for any input.

use proptest::prelude::*;

use crate::dockerfile::ast::{Instruction, Kind};
use crate::dockerfile::parser::{detect_syntax, parse, parse_trigger};

/// Pieces that meet in real files, in any order.
fn fragments() -> impl Strategy<Value = String> {
    let pieces = prop_oneof![
        prop::sample::select(vec![
            "FROM ",
            "RUN ",
            "COPY ",
            "ENV ",
            "ARG ",
            "ONBUILD ",
            "HEALTHCHECK ",
            "SHELL ",
            "LABEL ",
            "VOLUME ",
            "\n",
            "\n",
            "\r\n",
            "\\\n",
            "\\ \n",
            "# ",
            "#escape=`\n",
            "# syntax=a\n",
            "`\n",
            " AS ",
            "a",
            "b=c",
            "<<EOF",
            "<<-'E'",
            "\nEOF\n",
            "\n\tE\n",
            "[\"a\",",
            "\"b\"]",
            "[1]",
            "--from=",
            "--mount=",
            "--x ",
            "'",
            "\"",
            "$",
            "${",
            "}",
            "\u{feff}",
            "\u{a0}",
            "é",
            "CMD ",
            "NONE",
            "\t",
            " ",
        ])
        .prop_map(str::to_owned),
        "[ -~]{0,6}",
    ];
    prop::collection::vec(pieces, 0..40).prop_map(|pieces| pieces.concat())
}

fn check_spans(instruction: &Instruction, len: usize) {
    assert!(instruction.span.start < instruction.span.end && instruction.span.end <= len, "{instruction:?}");
    assert!(instruction.lines.0 >= 1 && instruction.lines.0 <= instruction.lines.1, "{instruction:?}");
    assert!(instruction.keyword.span.end <= instruction.span.end, "{instruction:?}");
    if let Kind::Onbuild { instruction: trigger, .. } = &instruction.kind {
        assert!(instruction.span.start < trigger.span.start && trigger.span.end <= instruction.span.end);
        check_spans(trigger, len);
    }
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = parse(&bytes);
        let _ = detect_syntax(&bytes);
    }

    #[test]
    fn random_lines_never_panic_and_spans_are_sane(text in fragments()) {
        let parsed = parse(text.as_bytes());
        for instruction in &parsed.dockerfile.instructions {
            check_spans(instruction, text.len());
            let start = &text[instruction.keyword.span.clone()];
            prop_assert!(start.starts_with(&instruction.keyword.text[..1]));
        }
        for diagnostic in parsed.errors.iter().chain(&parsed.warnings) {
            if let Some(span) = &diagnostic.span {
                prop_assert!(span.start <= span.end && text.get(span.clone()).is_some(), "{diagnostic:?}");
                prop_assert!(diagnostic.lines.is_some());
            }
        }
        let _ = parse_trigger(&text, '`');
    }

    #[test]
    fn joining_continuation_lines_by_hand_changes_nothing(
        words in prop::collection::vec("[a-z0-9./=-]{1,8}", 1..8),
        tick: bool,
    ) {
        let escape = if tick { '`' } else { '\\' };
        let head = format!("# escape={escape}\nFROM x\nRUN ");
        let flat = parse(format!("{head}{}\n", words.join(" ")).as_bytes());
        let broken = parse(format!("{head}{}\n", words.join(&format!(" {escape}\n# c\n"))).as_bytes());
        let originals = |parsed: &crate::dockerfile::parser::Parsed| {
            parsed.dockerfile.instructions.iter().map(|i| i.original.clone()).collect::<Vec<_>>()
        };
        prop_assert_eq!(originals(&flat), originals(&broken));
    }
}
