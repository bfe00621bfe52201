//! `--name=value` behind the keyword (SPEC A1.16, G.02).

use super::lines::Slice;
use super::problem::{Parse, Problem};
use crate::dockerfile::ast::{Flag, Switch, Word};

/// What a flag takes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Takes {
    /// Nothing, `true` or `false`.
    Switch,
    /// A text, at most once.
    Text,
    /// A text, any number of times.
    List,
}

/// Splits what follows the keyword into flags and the rest, without white space around.
pub(super) fn extract<'a>(rest: &Slice<'a>, escape: char) -> (Vec<Flag>, Slice<'a>) {
    let mut flags = Vec::new();
    let mut rest = rest.trim();
    while rest.text().starts_with("--") {
        let (text, len) = flag_word(rest.text(), escape);
        let word = rest.part(0..len);
        rest = rest.from(len).trim();
        if text == "--" {
            break;
        }
        let (name, value) = match text[2..].split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (text[2..].to_owned(), None),
        };
        flags.push(Flag { name, value, span: word.span() });
    }
    (flags, rest)
}

/// The first word without quotes and escapes, and its length as written.
fn flag_word(text: &str, escape: char) -> (String, usize) {
    let mut out = String::new();
    let mut quote = None;
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match quote {
            None if c.is_whitespace() => return (out, at),
            None if c == '\'' || c == '"' => quote = Some(c),
            Some(open) if c == open => quote = None,
            _ if c == escape => out.extend(chars.next().map(|(_, escaped)| escaped)),
            _ => out.push(c),
        }
    }
    (out, text.len())
}

/// Flags checked against what the instruction knows; taken out one by one.
#[derive(Debug)]
pub(super) struct Flags(Vec<Flag>);

impl Flags {
    pub(super) fn check(flags: Vec<Flag>, known: &[(&str, Takes)]) -> Parse<Self> {
        for (i, flag) in flags.iter().enumerate() {
            let name = &flag.name;
            let fail = |message: String| Problem::new(message).at(flag.span.clone());
            let Some((_, takes)) = known.iter().find(|(known, _)| known == name) else {
                let problem = fail(format!("unknown flag: --{name}")).suggest(name, known.iter().map(|k| k.0));
                return Err(match (&problem.suggestion, known) {
                    (Some(_), _) => problem,
                    (None, []) => problem.hint("this instruction has no flags; put -- in front of what is not one"),
                    (None, known) => {
                        let names: Vec<String> = known.iter().map(|(name, _)| format!("--{name}")).collect();
                        problem.hint(format!("the flags of this instruction are {}", names.join(", ")))
                    }
                });
            };
            if *takes != Takes::List && flags[..i].iter().any(|earlier| earlier.name == *name) {
                return Err(fail(format!("duplicate flag specified: --{name}")));
            }
            match (takes, flag.value.as_deref()) {
                (Takes::Switch, None) => {}
                (Takes::Switch, Some("")) | (_, None) => {
                    let problem = fail(format!("missing a value on flag: --{name}"));
                    return Err(problem.hint(format!("write --{name}=VALUE")));
                }
                (Takes::Switch, Some(value)) if boolean(value).is_none() => {
                    return Err(fail(format!("expecting boolean value for flag --{name}, not: {value}")));
                }
                _ => {}
            }
        }
        Ok(Self(flags))
    }

    /// The value of a text flag; an empty one counts as not given.
    pub(super) fn text(&mut self, name: &str) -> Option<Word> {
        self.list(name).pop().filter(|word| !word.text.is_empty())
    }

    pub(super) fn list(&mut self, name: &str) -> Vec<Word> {
        let word = |flag: Flag| Word { text: flag.value.unwrap_or_default(), span: flag.span };
        self.0.extract_if(.., |flag| flag.name == name).map(word).collect()
    }

    pub(super) fn switch(&mut self, name: &str) -> Option<Switch> {
        let flag = self.0.extract_if(.., |flag| flag.name == name).last()?;
        Some(Switch { on: flag.value.as_deref().is_none_or(|value| boolean(value) == Some(true)), span: flag.span })
    }
}

fn boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::lines::Logical;
    use super::{Flags, Takes, extract};

    type Found = (Vec<(String, Option<String>)>, String);

    fn split(text: &str, escape: char) -> Found {
        let mut logical = Logical::default();
        logical.push(text, 0);
        let (flags, rest) = extract(&logical.slice(), escape);
        (flags.into_iter().map(|flag| (flag.name, flag.value)).collect(), rest.text().to_owned())
    }

    fn found(flags: &[(&str, Option<&str>)], rest: &str) -> Found {
        (flags.iter().map(|(n, v)| ((*n).to_owned(), v.map(str::to_owned))).collect(), rest.to_owned())
    }

    #[test]
    fn extraction_a1_16() {
        assert_eq!(split("--a=1 --b x --c", '\\'), found(&[("a", Some("1")), ("b", None)], "x --c"));
        assert_eq!(split("x --a", '\\'), found(&[], "x --a"));
        assert_eq!(split("--a -- --b x", '\\'), found(&[("a", None)], "--b x"));
        assert_eq!(split("--a=\"x y\" z", '\\'), found(&[("a", Some("x y"))], "z"));
        assert_eq!(split("--a='x \"y' z", '\\'), found(&[("a", Some("x \"y"))], "z"));
        assert_eq!(split("--a=x\\ y z", '\\'), found(&[("a", Some("x y"))], "z"));
        assert_eq!(split("--a=x` y\\ z", '`'), found(&[("a", Some("x y\\"))], "z"));
        assert_eq!(split("--a=\"\"", '\\'), found(&[("a", Some(""))], ""));
        assert_eq!(split("--a=x=y z", '\\'), found(&[("a", Some("x=y"))], "z"));
        assert_eq!(split("-a", '\\'), found(&[], "-a"));
        assert_eq!(split("", '\\'), found(&[], ""));
    }

    #[test]
    fn checking_g02() {
        const KNOWN: &[(&str, Takes)] = &[("link", Takes::Switch), ("from", Takes::Text), ("mount", Takes::List)];
        let check = |text: &str| {
            let mut logical = Logical::default();
            logical.push(text, 0);
            let flags = Flags::check(extract(&logical.slice(), '\\').0, KNOWN);
            flags.map_err(|p| (p.message, p.suggestion, p.span))
        };
        let fails = |text: &str| check(text).expect_err(text);
        assert_eq!(fails("--links x"), ("unknown flag: --links".into(), Some("link".into()), Some(0..7)));
        assert_eq!(fails("--xyzzy x"), ("unknown flag: --xyzzy".into(), None, Some(0..7)));
        assert_eq!(fails("--from=a --from=b x").0, "duplicate flag specified: --from");
        assert_eq!(fails("--link --link=false x").0, "duplicate flag specified: --link");
        assert_eq!(fails("--link= x").0, "missing a value on flag: --link");
        assert_eq!(fails("--from x").0, "missing a value on flag: --from");
        assert_eq!(fails("--mount x").0, "missing a value on flag: --mount");
        assert_eq!(fails("--link=1 x").0, "expecting boolean value for flag --link, not: 1");

        let mut flags = check("--link=False --mount=a --mount=b --from= x").expect("valid");
        assert!(!flags.switch("link").expect("given").on);
        assert_eq!(flags.list("mount").iter().map(|w| w.text.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(flags.text("from"), None, "an empty value is no value");
        assert!(check("--link x").expect("valid").switch("link").expect("given").on);
    }
}
