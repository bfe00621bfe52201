//! Tests of policies, as far as their text says it: where a test ends, and what it says that policies see.

use std::collections::BTreeSet;

use serde_json::Value;

use super::engine::{Part, parts};

/// Fields of `input` that a policy speaks of: `image.repo`.
pub(super) fn fields(text: &str) -> BTreeSet<String> {
    let Ok(field) = regex::Regex::new(r"(?:^|[^.\w])input\.([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)") else {
        return BTreeSet::new();
    };
    let code: String = parts(text).into_iter().filter(|(part, _)| *part == Part::Code).map(|(_, text)| text).collect();
    field.captures_iter(&code).map(|found| found[1].to_owned()).collect()
}

/// Whether a value has `image.repo`.
pub(super) fn has(value: &Value, field: &str) -> bool {
    field.split('.').try_fold(value, |value, name| value.get(name)).is_some()
}

/// The rule that begins here, to the end of its body.
pub(super) fn rule_at(code: &str, start: usize) -> &str {
    let rest = &code[start..];
    &rest[..balanced(rest, |c| c == '\n')]
}

/// Where the first character is that ends something and stands in no brackets and no string.
fn balanced(text: &str, ends: impl Fn(char) -> bool) -> usize {
    let (mut at, mut depth) = (0, 0_usize);
    for (part, piece) in parts(text) {
        if part == Part::Code {
            for (offset, c) in piece.char_indices() {
                match c {
                    _ if depth == 0 && ends(c) => return at + offset,
                    '{' | '[' | '(' => depth += 1,
                    '}' | ']' | ')' => depth = depth.saturating_sub(1),
                    _ => {}
                }
            }
        }
        at += piece.len();
    }
    text.len()
}

/// What a test says that policies see: the expressions behind `with input as`.
pub(super) fn inputs_of(rule: &str) -> Vec<String> {
    let Ok(with) = regex::Regex::new(r"\bwith\s+input\s+as\s+") else { return Vec::new() };
    let after = with.find_iter(rule).map(|found| &rule[found.end()..]);
    after.map(|rest| rest[..balanced(rest, |c| c.is_whitespace() || c == ';' || c == '}')].to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b8_09_what_tests_say_of_their_input() {
        let code = "test_a if {\n  x := \"}\"\n  d with input as {\"image\": {\"repo\": \"a}\"}}\n}\ntest_b if d with input as data.x.y\nz := 1\n";
        let rule = rule_at(code, 0);
        assert!(rule.ends_with("}}\n}"), "{rule}");
        assert_eq!(inputs_of(rule), ["{\"image\": {\"repo\": \"a}\"}}"]);
        assert_eq!(inputs_of(rule_at(code, code.find("test_b").expect("there"))), ["data.x.y"]);
        assert_eq!(inputs_of("test_c if { d with input as data.x }"), ["data.x"]);
        assert!(inputs_of("test_d if true").is_empty());
    }

    #[test]
    fn b8_09_fields_that_a_policy_speaks_of() {
        let text =
            "allow if input.image.repo == \"input.no.field\" # input.comment\nb if not input.git\nc if my_input.x";
        assert_eq!(fields(text).into_iter().collect::<Vec<_>>(), ["git", "image.repo"]);
        let value = serde_json::json!({"image": {"repo": null}});
        assert!(has(&value, "image.repo") && has(&value, "image") && !has(&value, "git"));
    }
}
