//! SPEC A3, form by form.

use super::{ExpandError, ExpandFault, Expander, Expansion, Mode};

fn env(name: &str) -> Option<String> {
    let value = match name {
        "foo" => "bar",
        "empty" => "",
        "words" => "a  b c",
        "path" => "/usr/local/lib/libx.so.1",
        "star" => "a*b?c\\d",
        "dotted" => "1.2.3",
        "fruit" => "banana",
        "é" => "accent",
        "1" => "one",
        _ => return None,
    };
    Some(value.to_owned())
}

fn full(text: &str) -> Result<Expansion, ExpandError> {
    Expander::words('\\').expand(text, &env)
}

fn ok(text: &str) -> String {
    full(text).unwrap_or_else(|error| panic!("{text}: {error}")).text
}

fn fails(text: &str) -> String {
    full(text).expect_err(text).to_string()
}

fn words(text: &str) -> Vec<String> {
    Expander::words('\\').expand_words(text, &env).expect("valid words").0
}

#[test]
fn plain_forms_a3_01() {
    assert_eq!(ok("$foo"), "bar");
    assert_eq!(ok("${foo}"), "bar");
    assert_eq!(ok("x$foo.y"), "xbar.y");
    assert_eq!(ok("$foo/$foo"), "bar/bar");
    assert_eq!(ok("${foo}x"), "barx");
    assert_eq!(ok("$é"), "accent");
    assert_eq!(ok("a $ b"), "a $ b");
    assert_eq!(ok("100$"), "100$");
    assert_eq!(ok("$(id)"), "$(id)");
}

#[test]
fn digit_and_special_names_a3_01() {
    assert_eq!(ok("$1x"), "onex");
    assert_eq!(ok("$12"), "");
    for special in ["$@", "$*", "$#", "$?", "$-", "$$", "$!", "$0", "${@}", "${?}"] {
        assert_eq!(ok(special), "", "{special}");
    }
    assert_eq!(ok("$$foo"), "foo");
}

#[test]
fn defaults_and_alternatives_a3_02() {
    assert_eq!(ok("${foo:-x}${none:-x}${empty:-x}"), "barxx");
    assert_eq!(ok("${foo-x}${none-x}${empty-x}"), "barx");
    assert_eq!(ok("${foo:+x}${none:+y}${empty:+z}"), "x");
    assert_eq!(ok("${foo+x}${none+y}${empty+z}"), "xz");
    assert_eq!(ok("${foo:?x}${foo?x}${empty?x}"), "barbar");
    assert_eq!(ok("${none:-${foo}}"), "bar");
    assert_eq!(ok("${none:-${none2:-deep}}"), "deep");
    assert_eq!(ok("${none:-'a}b'}"), "a}b");
    assert_eq!(ok("${none:-a\\}b}"), "a}b");
}

#[test]
fn required_variables_a3_02() {
    insta::assert_snapshot!(fails("${none:?}"), @r#"failed to process "${none:?}": none: is not allowed to be unset"#);
    insta::assert_snapshot!(fails("${empty:?}"), @r#"failed to process "${empty:?}": empty: is not allowed to be empty"#);
    insta::assert_snapshot!(fails("${none?give $foo}"), @r#"failed to process "${none?give $foo}": none: give bar"#);
}

#[test]
fn prefix_removal_a3_03() {
    assert_eq!(ok("${path#/*/}"), "local/lib/libx.so.1");
    assert_eq!(ok("${path##/*/}"), "libx.so.1");
    assert_eq!(ok("${path#*}"), "/usr/local/lib/libx.so.1");
    assert_eq!(ok("${path##*}"), "");
    assert_eq!(ok("${foo#b?}"), "r");
    assert_eq!(ok("${foo#x}"), "bar");
    assert_eq!(ok("${star#a\\*}"), "b?c\\d");
    assert_eq!(ok("${star#a\\*b\\?}"), "c\\d");
    assert_eq!(ok("${star##*\\\\}"), "d");
    assert_eq!(ok("${foo#$fruit}"), "bar");
    assert_eq!(ok("${foo#${foo}}"), "");
}

#[test]
fn suffix_removal_a3_03() {
    assert_eq!(ok("${path%.*}"), "/usr/local/lib/libx.so");
    assert_eq!(ok("${path%%.*}"), "/usr/local/lib/libx");
    assert_eq!(ok("${dotted%.*}"), "1.2");
    assert_eq!(ok("${dotted%%.*}"), "1");
    assert_eq!(ok("${fruit%a*}"), "banan");
    assert_eq!(ok("${fruit%%a*}"), "b");
    assert_eq!(ok("${fruit%?}"), "banan");
    assert_eq!(ok("${star%\\?c*}"), "a*b");
    assert_eq!(ok("${foo%[r]}"), "bar", "brackets are literal");
}

#[test]
fn bad_patterns_a3_03() {
    insta::assert_snapshot!(fails("${foo#\\a}"), @r#"failed to process "${foo#\\a}": invalid pattern (\a) in substitution: invalid escape '\a'"#);
    insta::assert_snapshot!(fails("${foo:#b}"), @r#"failed to process "${foo:#b}": unsupported modifier (:#) in substitution"#);
    insta::assert_snapshot!(fails("${foo:%b}"), @r#"failed to process "${foo:%b}": unsupported modifier (:%) in substitution"#);
}

#[test]
fn replacement_a3_04() {
    assert_eq!(ok("${fruit/an/AN}"), "bANana");
    assert_eq!(ok("${fruit//an/AN}"), "bANANa");
    assert_eq!(ok("${fruit//a/}"), "bnn");
    assert_eq!(ok("${fruit/a*n/-}"), "b-a", "the wildcard is greedy");
    assert_eq!(ok("${fruit//?/x}"), "xxxxxx");
    assert_eq!(ok("${path//\\//_}"), "_usr_local_lib_libx.so.1");
    assert_eq!(ok("${dotted/./-}"), "1-2.3", "a dot is a dot");
    assert_eq!(ok("${fruit/x/y}"), "banana");
    assert_eq!(ok("${fruit/${foo}/y}"), "banana");
    assert_eq!(ok("${fruit//an/${foo}}"), "bbarbara");
    assert_eq!(ok("${none/a/b}"), "");
}

#[test]
fn replacement_references_a3_04() {
    assert_eq!(ok("${fruit//an/'<$0>'}"), "b<an><an>a");
    assert_eq!(ok("${fruit//an/'[${0}]'}"), "b[an][an]a");
    assert_eq!(ok("${fruit//an/'$1'}"), "ba");
    assert_eq!(ok("${fruit//an/'$$'}"), "b$$a");
    assert_eq!(ok("${fruit/an/'$0'}"), "b$0ana", "single replacement is literal");
    assert_eq!(ok("${fruit//n/'$ '}"), "ba$ a$ a");
}

#[test]
fn empty_patterns_terminate_a3_04() {
    assert_eq!(ok("${foo///-}"), "-b-a-r-");
    assert_eq!(ok("${foo//''/-}"), "-b-a-r-");
    assert_eq!(ok("${foo//*/-}"), "-");
    assert_eq!(ok("${empty//*/-}"), "-");
}

#[test]
fn syntax_errors_a3_05() {
    insta::assert_snapshot!(fails("${}"), @r#"failed to process "${}": syntax error: bad substitution"#);
    insta::assert_snapshot!(fails("a${:x}"), @r#"failed to process "a${:x}": syntax error: bad substitution"#);
    insta::assert_snapshot!(fails("${{foo}}"), @r#"failed to process "${{foo}}": syntax error: bad substitution"#);
    insta::assert_snapshot!(fails("${"), @r#"failed to process "${": syntax error: missing '}'"#);
    insta::assert_snapshot!(fails("${foo"), @r#"failed to process "${foo": syntax error: missing '}'"#);
    insta::assert_snapshot!(fails("${foo:-x"), @r#"failed to process "${foo:-x": syntax error: missing '}'"#);
    insta::assert_snapshot!(fails("${foo:-'x}"), @r#"failed to process "${foo:-'x}": syntax error: missing '}'"#);
    insta::assert_snapshot!(fails("${foo@Q}"), @r#"failed to process "${foo@Q}": unsupported modifier (@) in substitution"#);
    insta::assert_snapshot!(fails("${foo:1}"), @r#"failed to process "${foo:1}": unsupported modifier (:1) in substitution"#);
    insta::assert_snapshot!(fails("${foo.}"), @r#"failed to process "${foo.}": unsupported modifier (.) in substitution"#);
    insta::assert_snapshot!(fails("${foo/a}"), @r#"failed to process "${foo/a}": syntax error: missing '/' in ${}"#);
    insta::assert_snapshot!(fails("${foo/a/b"), @r#"failed to process "${foo/a/b": syntax error: missing '}'"#);
}

#[test]
fn quotes_a3_06() {
    assert_eq!(ok("'$foo \\x'"), "$foo \\x");
    assert_eq!(ok("\"$foo x\""), "bar x");
    assert_eq!(ok("\"it's\""), "it's");
    assert_eq!(ok("'say \"x\"'"), "say \"x\"");
    assert_eq!(ok(r#""\"\$foo\\\n""#), r#""$foo\\n"#);
    assert_eq!(ok(r"\$foo \'x\' \\"), r"$foo 'x' \");
    assert_eq!(ok(r"a\b"), "ab");
    assert_eq!(ok("end\\"), "end");
    assert_eq!(ok("a'b'\"c\"d"), "abcd");
    insta::assert_snapshot!(fails("\"x"), @r#"failed to process "\"x": unexpected end of statement while looking for matching double-quote"#);
    insta::assert_snapshot!(fails("it's"), @r#"failed to process "it's": unexpected end of statement while looking for matching single-quote"#);
}

#[test]
fn the_escape_directive_changes_the_escape_a1_02() {
    let tick = Expander::words('`');
    assert_eq!(tick.expand("`$foo C:\\x", &env).expect("valid").text, "$foo C:\\x");
    assert_eq!(tick.expand("\"`$foo \\$foo\"", &env).expect("valid").text, "$foo \\bar");
}

#[test]
fn used_and_undefined_names_are_reported_a3_09() {
    let expansion = full("$foo $none ${none2} ${foo} ${empty} ${path%x} ${none3#x}").expect("valid");
    assert_eq!(expansion.used, ["foo", "empty", "path"]);
    assert_eq!(expansion.undefined, ["none", "none2", "none3"]);
    let provided = full("${a:-x} ${b-x} ${c+x} ${d:+x}").expect("valid");
    assert!(provided.undefined.is_empty(), "{:?}", provided.undefined);
}

#[test]
fn word_splitting_after_expansion_a3_07() {
    assert_eq!(words("80 $words"), ["80", "a", "b", "c"]);
    assert_eq!(words("x$words"), ["xa", "b", "c"]);
    assert_eq!(words("\"$words\" 'q q'"), ["a  b c", "q q"]);
    assert_eq!(words("a\\ b c"), ["a b", "c"]);
    assert_eq!(words("  $empty  '' "), [""; 0]);
}

#[test]
fn heredoc_mode_keeps_quotes_a2_08() {
    let expand = |text: &str| Expander::heredoc().expand(text, &env).expect("valid").text;
    assert_eq!(expand("\"$foo\" '$foo'\n"), "\"bar\" 'bar'\n");
    assert_eq!(expand("it's ${foo:-x} \\$foo \\\\\n"), "it's bar $foo \\\n");
    assert_eq!(expand("\\\n"), "\n");
}

#[test]
fn display_mode_keeps_what_is_written() {
    let display = Expander::new('\\', Mode::Display);
    let show = |text: &str| display.expand(text, &env).expect("valid").text;
    assert_eq!(show("echo \"$foo\" '$foo' \\$foo $none ${none}"), "echo \"bar\" '$foo' \\$foo $none ${none}");
    assert_eq!(show("${none:-x} ${none#y} ${none/a/b} ${none//a/b}"), "${none:-x} ${none#y} ${none/a/b} ${none//a/b}");
}

#[test]
fn hostile_words_end_in_errors() {
    let deep = "${a:-".repeat(100_000);
    assert_eq!(full(&deep).expect_err("too deep").fault, ExpandFault::TooDeep);
    let bomb = |_: &str| Some("x".repeat(1 << 20));
    let large = Expander::words('\\').expand(&"$a".repeat(100), &bomb).expect_err("too large");
    assert_eq!(large.fault, ExpandFault::TooLarge);
    let blown = Expander::words('\\').expand("${a//x/$a}", &bomb).expect_err("too large");
    assert_eq!(blown.fault, ExpandFault::TooLarge);
}

proptest::proptest! {
    #[test]
    fn nothing_panics(text in "[${}:#%/+?'\"\\\\`a-c* \\-\u{e9}\n]{0,60}", tick: bool) {
        for mode in [Mode::Word, Mode::Heredoc, Mode::Display] {
            let _ = Expander::new(if tick { '`' } else { '\\' }, mode).expand_words(&text, &env);
        }
    }

    #[test]
    fn words_without_magic_stay_as_they_are(text in "[a-z0-9 ./:=@_-]{0,40}") {
        proptest::prop_assert_eq!(ok(&text), text);
    }

    #[test]
    fn joined_words_are_the_text_without_blanks(text in "[a-c$ ]{0,30}") {
        let (words, expansion) = Expander::words('\\').expand_words(&text, &env).expect("no syntax in it");
        let without: String = expansion.text.chars().filter(|c| !c.is_whitespace()).collect();
        proptest::prop_assert_eq!(words.concat(), without);
    }
}

#[test]
fn a6_06_an_escaped_wildcard_stays_escaped_in_sources() {
    let source = |escape, text: &str| {
        Expander::new(escape, Mode::Source).expand(text, &|_| Some("*".into())).expect("it expands").text
    };
    assert_eq!(source('\\', r"\*\?\[x] a\ b \$c \\* $v"), r"\*\?\[x] a b $c \* *");
    assert_eq!(source('`', r"`*`a \*"), r"\*a \*");
    assert_eq!(Expander::words('\\').expand(r"\*", &|_| None).expect("it expands").text, "*");
}
