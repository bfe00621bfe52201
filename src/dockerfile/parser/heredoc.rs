//! Here-documents: finding them on the line and reading their bodies (SPEC A2).

use std::ops::Range;

use super::lines::{Cursor, Slice};
use super::problem::{Parse, Problem};
use super::words::blank_separated;
use crate::dockerfile::ast::Heredoc;
use crate::dockerfile::expand::delimiter;
use crate::dockerfile::text::is_blank;

/// `[n]<<[-]delimiter` on a line.
pub(super) struct Start<'a> {
    /// Where it stands in the arguments.
    pub(super) range: Range<usize>,
    slice: Slice<'a>,
    name: String,
    expand: bool,
    chomp: bool,
    fd: Option<u32>,
}

/// The heredocs that the arguments of an instruction open, in order. A `list` is no shell text: there a stray quote
/// does not matter.
pub(super) fn starts<'a>(args: &Slice<'a>, list: bool) -> Parse<Vec<Start<'a>>> {
    if !args.text().contains("<<") {
        return Ok(Vec::new());
    }
    let words = match shell_words(args.text()) {
        Some(words) => words,
        None if list => blank_separated(args).iter().map(|word| args.range_of(word)).collect(),
        None => Vec::new(),
    };
    let mut found = Vec::new();
    for range in words {
        let slice = args.part(range.clone());
        let Some((fd, chomp, raw)) = opening(slice.text()) else { continue };
        let names = delimiter(raw).map_err(|error| Problem::new(error.to_string()).at(slice.span()))?;
        let Some((name, quoted)) = names else { continue };
        let quotes = |text: &str| text.matches(['\'', '"']).count();
        let expand = quotes(&name) == quotes(&quoted);
        found.push(Start { range, slice, name, expand, chomp, fd });
    }
    Ok(found)
}

/// Whether the text of a command is a single heredoc and nothing else: `RUN <<EOF` (SPEC A2.06).
#[must_use]
pub fn is_one_heredoc(text: &str) -> bool {
    opening(text.trim()).is_some_and(|(_, _, raw)| matches!(delimiter(raw), Ok(Some(_))))
}

/// `^(\d*)<<(-?)\s*([^<]*)$`
fn opening(word: &str) -> Option<(Option<u32>, bool, &str)> {
    let (fd, rest) = word.split_once("<<")?;
    if !fd.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let (chomp, rest) = match rest.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    let name = rest.trim_start();
    (!name.is_empty() && !name.contains('<')).then_some((fd.parse().ok(), chomp, name))
}

/// Words as a shell separates them, quotes and escapes kept; white space behind `<<` belongs to the word. Text with
/// an open quote has no words: it cannot be told what is quoted.
fn shell_words(text: &str) -> Option<Vec<Range<usize>>> {
    let mut words = Vec::new();
    let mut start = None;
    let mut quote = None;
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        if quote.is_none() && c.is_whitespace() {
            words.extend(start.take().map(|from| from..at));
            continue;
        }
        start.get_or_insert(at);
        match c {
            // The shell's escape, whatever the directive says.
            '\\' if quote != Some('\'') => {
                chars.next();
            }
            '\'' | '"' if quote.is_none() => quote = Some(c),
            c if quote == Some(c) => quote = None,
            '<' if quote.is_none() && chars.next_if(|(_, c)| *c == '<').is_some() => {
                chars.next_if(|(_, c)| *c == '-');
                while chars.next_if(|(_, c)| is_blank(*c)).is_some() {}
            }
            _ => {}
        }
    }
    words.extend(start.map(|from| from..text.len()));
    quote.is_none().then_some(words)
}

impl Start<'_> {
    /// Reads the body from the lines below (SPEC A2.05). Also gives the end of the closing line.
    pub(super) fn read(&self, cursor: &mut Cursor<'_>) -> Parse<(Heredoc, usize)> {
        let start = cursor.position();
        while let Some(line) = cursor.next_line() {
            let text = if self.chomp { line.text.trim_start_matches('\t') } else { line.text };
            if text == self.name {
                let span = start..line.start;
                let body = cursor.source.text[span.clone()].to_owned();
                let Self { name, expand, chomp, fd, .. } = self;
                let heredoc = Heredoc { name: name.clone(), expand: *expand, chomp: *chomp, fd: *fd, body, span };
                return Ok((heredoc, line.text_end()));
            }
        }
        let mut problem = Problem::new("unterminated heredoc").at(self.slice.span());
        problem = match self.name.find(['>', '|', ';', '&', ')']) {
            Some(at) if at > 0 => problem.hint(format!("put a space behind the delimiter {}", &self.name[..at])),
            _ => problem.hint(format!("there must be a line that consists of {} only", self.name)),
        };
        Err(problem)
    }
}

#[cfg(test)]
mod tests {
    use super::super::lines::Logical;
    use super::{is_one_heredoc, starts};

    fn find(text: &str) -> Vec<(String, bool, bool, Option<u32>)> {
        let mut logical = Logical::default();
        logical.push(text, 0);
        let found = starts(&logical.slice(), false).map_err(|problem| problem.message).expect("valid");
        found.into_iter().map(|s| (s.name, s.expand, s.chomp, s.fd)).collect()
    }

    fn one(name: &str, expand: bool, chomp: bool, fd: Option<u32>) -> Vec<(String, bool, bool, Option<u32>)> {
        vec![(name.to_owned(), expand, chomp, fd)]
    }

    #[test]
    fn words_that_open_heredocs_a2_02() {
        assert_eq!(find("<<EOF"), one("EOF", true, false, None));
        assert_eq!(find("cat <<-EOF >x"), one("EOF", true, true, None));
        assert_eq!(find("3<<EOF"), one("EOF", true, false, Some(3)));
        assert_eq!(find("<<  EOF x"), one("EOF", true, false, None));
        assert_eq!(find("<<- EOF"), one("EOF", true, true, None));
        assert_eq!(find("<< -EOF"), one("-EOF", true, false, None));
        assert_eq!(find("<<$EOF"), one("$EOF", true, false, None));
        assert_eq!(find("cat <<A <<B").len(), 2);
        assert_eq!(find("<<É"), one("É", true, false, None));
    }

    #[test]
    fn a2_06_only_a_lone_heredoc_is_the_script() {
        for text in
            ["<<EOF", "<<-EOF ", "<<'EOF'", "<<\"EOF\"", "0<<E\"O\"F", "<< EOF", "<<E\\'F", "<<'E'\\'F", "<<'one two'"]
        {
            assert!(is_one_heredoc(text), "{text}");
        }
        for text in ["cat <<EOF", "<<EOF cat", "<<EOF > x", "<<<EOF", "<<"] {
            assert!(!is_one_heredoc(text), "{text}");
        }
    }

    #[test]
    fn words_that_do_not_a2_02() {
        for text in ["<<<EOF", "cat <<<x", "a<<EOF", "x << ", "<EOF", "'<<EOF'", "\"a <<EOF\"", "\\<<EOF", "<<\"\""] {
            assert_eq!(find(text), vec![], "{text}");
        }
        assert_eq!(find("echo $((1<<2))"), vec![]);
        assert_eq!(find("echo it's <<EOF"), vec![], "an open quote");
    }

    #[test]
    fn quoted_delimiters_a2_03() {
        assert_eq!(find("<<'E'"), one("E", false, false, None));
        assert_eq!(find("<<\"E\""), one("E", false, false, None));
        assert_eq!(find("<<E\"O\"F"), one("EOF", false, false, None));
        assert_eq!(find("<<'a b' x"), one("a b", false, false, None));
        assert_eq!(find("<<\\EOF"), one("EOF", true, false, None));
    }
}
