//! The text form of a case.
//!
//! ```text
//! === name, a few words
//! rows A6.06, A6.07
//! context
//!     touch a.txt; ln -s a.txt l        # `sh -eu` in the context directory, umask 022
//! dockerfile
//!     FROM scratch
//!     COPY *.txt /g/
//! tree
//!     g/ 755 @new
//!     g/a.txt 644 ""
//! ```
//!
//! Sections, each at the start of a line, its content indented by four blanks:
//! - `rows`, on the same line: the rows of SPEC that the case shows.
//! - `context`: a shell script. `$DIR` is the directory above the context. What it leaves without a time in the past gets
//!   the time 1000000000.
//! - `dockerfile`; where there is none, the script writes it.
//! - `args`: arguments of the build, one a line; `$CTX` and `$DIR` stand for the directories.
//! - `tree`: what the image has beyond its base (see `show`). `config`, `history`, `layers`: checked where they are given.
//! - `fails`: the build must fail, and each line must be in what it says. `warns`: the build says each line and goes on.
//! - `silent`: no line of it is in what the build says.
//! - `buildah`, on the same line: `no: WHY` where buildah 1.28 cannot be asked, `differs: WHY` where it does otherwise.

/// How buildah stands to a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// It makes the same image.
    Same,
    /// It cannot be asked.
    No(String),
    /// It makes another image, or fails where we do not, or the reverse.
    Differs(String),
}

/// One behaviour.
#[derive(Clone, Debug)]
pub struct Case {
    pub name: String,
    pub rows: Vec<String>,
    pub context: String,
    pub dockerfile: String,
    pub args: Vec<String>,
    pub tree: Option<Vec<String>>,
    pub config: Option<Vec<String>>,
    pub history: Option<Vec<String>>,
    pub layers: Option<Vec<String>>,
    pub fails: Option<Vec<String>>,
    pub warns: Vec<String>,
    pub silent: Vec<String>,
    pub peer: Peer,
}

impl Case {
    /// Whether a step must run.
    pub fn runs(&self) -> bool {
        let text = self.dockerfile.to_uppercase();
        text.lines().any(|l| l.trim_start().starts_with("RUN ") || l.contains("ONBUILD RUN "))
            || self.context.contains("RUN ")
    }
}

/// The cases of a file.
#[track_caller]
pub fn parse(text: &str) -> Vec<Case> {
    text.split("\n=== ").skip(1).map(one).collect()
}

#[track_caller]
fn one(text: &str) -> Case {
    let (name, body) = text.split_once('\n').unwrap_or((text, ""));
    let mut case = Case {
        name: name.trim().to_owned(),
        rows: Vec::new(),
        context: String::new(),
        dockerfile: String::new(),
        args: Vec::new(),
        tree: None,
        config: None,
        history: None,
        layers: None,
        fails: None,
        warns: Vec::new(),
        silent: Vec::new(),
        peer: Peer::Same,
    };
    for (head, lines) in sections(body) {
        let (word, rest) = head.split_once(' ').unwrap_or((&head, ""));
        let joined = || lines.iter().map(|l| format!("{l}\n")).collect::<String>();
        match word {
            "rows" => case.rows = rest.split(',').map(|r| r.trim().to_owned()).collect(),
            "context" => case.context = joined(),
            "dockerfile" => case.dockerfile = joined(),
            "args" => case.args = lines,
            "tree" => case.tree = Some(lines),
            "config" => case.config = Some(lines),
            "history" => case.history = Some(lines),
            "layers" => case.layers = Some(lines),
            "fails" => case.fails = Some(lines),
            "warns" => case.warns = lines,
            "silent" => case.silent = lines,
            "buildah" => {
                case.peer = match rest.split_once(": ") {
                    Some(("no", why)) => Peer::No(why.to_owned()),
                    Some(("differs", why)) => Peer::Differs(why.to_owned()),
                    _ => panic!("{name}: buildah {rest:?} is neither `no: WHY` nor `differs: WHY`"),
                }
            }
            other => panic!("{name}: there is no section {other:?}"),
        }
    }
    assert!(!case.rows.is_empty(), "{name}: no rows");
    case
}

/// Head lines with the lines below them, without their indentation.
pub fn sections(body: &str) -> Vec<(String, Vec<String>)> {
    let mut out: Vec<(String, Vec<String>)> = Vec::new();
    for line in body.lines() {
        match (line.strip_prefix("    "), out.last_mut()) {
            (Some(line), Some((_, lines))) => lines.push(line.to_owned()),
            // A comment, or an empty line; one inside a section is written with its indentation.
            _ if line.trim().is_empty() || line.starts_with('#') => {}
            _ => out.push((line.trim_end().to_owned(), Vec::new())),
        }
    }
    out
}
