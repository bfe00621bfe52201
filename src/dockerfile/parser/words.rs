//! The ways instructions split their arguments (SPEC A1.17–A1.18).

use super::lines::Slice;
use super::problem::{Parse, Problem};
use crate::dockerfile::ast::Word;
use crate::dockerfile::text::is_blank;

/// Splits at blanks; quotes mean nothing. COPY, ADD, EXPOSE, FROM, VOLUME.
pub(super) fn blank_separated<'a>(args: &Slice<'a>) -> Vec<Slice<'a>> {
    let text = args.text();
    let mut words = Vec::new();
    let mut start = None;
    for (at, c) in text.char_indices() {
        match (is_blank(c), start) {
            (true, Some(from)) => {
                words.push(args.part(from..at));
                start = None;
            }
            (false, None) => start = Some(at),
            _ => {}
        }
    }
    if let Some(from) = start {
        words.push(args.from(from));
    }
    words
}

/// Splits at white space outside quotes; quotes and escapes are kept for the expander. ENV, LABEL, ARG.
pub(super) fn quoted_words<'a>(args: &Slice<'a>, escape: char) -> Vec<Slice<'a>> {
    let mut words = Vec::new();
    let mut start = None;
    let mut quote = None;
    let mut end = 0;
    let mut chars = args.text().char_indices();
    while let Some((at, c)) = chars.next() {
        end = at + c.len_utf8();
        if let (None, true) = (quote, c.is_whitespace()) {
            if let Some(from) = start.take() {
                words.push(args.part(from..at));
            }
            continue;
        }
        let from = *start.get_or_insert(at);
        if c == escape && quote != Some('\'') {
            match chars.next() {
                Some((at, escaped)) => end = at + escaped.len_utf8(),
                // An escape at the very end escapes nothing and is dropped.
                None => {
                    end = at;
                    if from == at {
                        start = None;
                    }
                }
            }
        } else if quote == Some(c) {
            quote = None;
        } else if quote.is_none() && (c == '\'' || c == '"') {
            quote = Some(c);
        }
    }
    if let Some(from) = start {
        words.push(args.part(from..end));
    }
    words
}

/// `["…", …]`; `None` if it is no JSON array and so is to be read as shell text or words.
pub(super) fn exec_form(args: &Slice<'_>) -> Parse<Option<Vec<String>>> {
    if !args.text().starts_with('[') {
        return Ok(None);
    }
    let Ok(values) = serde_json::from_str::<Vec<serde_json::Value>>(args.text()) else { return Ok(None) };
    let strings = values.into_iter().map(|value| match value {
        serde_json::Value::String(text) => Ok(text),
        _ => Err(Problem::new("when using JSON array syntax, arrays must be comprised of strings only")
            .at(args.span())
            .hint("put every element into double quotes")),
    });
    strings.collect::<Parse<Vec<String>>>().map(Some)
}

/// Paths: a JSON array or blank-separated words.
pub(super) fn list(args: &Slice<'_>) -> Parse<Vec<Word>> {
    Ok(match exec_form(args)? {
        Some(texts) => texts.into_iter().map(|text| Word { text, span: args.span() }).collect(),
        None => blank_separated(args).iter().map(Slice::word).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::lines::Logical;
    use super::{blank_separated, exec_form, quoted_words};

    fn split(text: &str, escape: char) -> Vec<String> {
        let mut logical = Logical::default();
        logical.push(text, 0);
        quoted_words(&logical.slice(), escape).iter().map(|word| word.text().to_owned()).collect()
    }

    #[test]
    fn quoted_splitting_a1_18() {
        assert_eq!(split("a=1  b=2\tc", '\\'), ["a=1", "b=2", "c"]);
        assert_eq!(split(r#"a="x y" b='p q'r"#, '\\'), [r#"a="x y""#, "b='p q'r"]);
        assert_eq!(split(r"a=x\ y b", '\\'), [r"a=x\ y", "b"]);
        assert_eq!(split(r#"a="x\" y" b"#, '\\'), [r#"a="x\" y""#, "b"]);
        assert_eq!(split(r"a='x\' b", '\\'), [r"a='x\'", "b"], "no escapes in single quotes");
        assert_eq!(split(r#""" ''"#, '\\'), [r#""""#, "''"]);
        assert_eq!(split(r#"a="open b"#, '\\'), [r#"a="open b"#]);
        assert_eq!(split(r"a=x\", '\\'), ["a=x"]);
        assert_eq!(split(r"a \", '\\'), ["a"]);
        assert_eq!(split("a=x` y C:\\", '`'), ["a=x` y", "C:\\"]);
        assert_eq!(split("", '\\'), [""; 0]);
    }

    #[test]
    fn blank_splitting_ignores_quotes_a1_18() {
        let mut logical = Logical::default();
        logical.push("\"a b\"\t\tc\u{b}d", 0);
        let words: Vec<_> = blank_separated(&logical.slice()).iter().map(|w| w.text()).collect();
        assert_eq!(words, ["\"a", "b\"", "c", "d"]);
    }

    #[test]
    fn exec_form_a1_17() {
        let read = |text: &str| {
            let mut logical = Logical::default();
            logical.push(text, 0);
            exec_form(&logical.slice()).map_err(|problem| problem.message)
        };
        assert_eq!(read(r#"["a", "b\u0041"]"#), Ok(Some(vec!["a".into(), "bA".into()])));
        assert_eq!(read("[]"), Ok(Some(vec![])));
        assert_eq!(read("['a']"), Ok(None), "single quotes are not JSON");
        assert_eq!(read(r#"["a",]"#), Ok(None));
        assert_eq!(read(r#"["a"] x"#), Ok(None));
        assert_eq!(read("[ -f x ]"), Ok(None));
        assert_eq!(read("a"), Ok(None));
        let error = Err("when using JSON array syntax, arrays must be comprised of strings only".to_owned());
        assert_eq!(read(r#"["a", 1]"#), error);
        assert_eq!(read("[null]"), error);
    }
}
