//! The syntax tree: what was written, before any expansion of variables.
//!
//! Every piece of text that a later stage may complain about carries its [`Span`].

use std::ops::Range;

/// Byte range in the Dockerfile.
pub type Span = Range<usize>;

/// A piece of text and where it stands. Variables in it are not expanded, quotes not removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    /// The text as the instruction's own splitting rule gives it, continuation lines joined.
    pub text: String,
    /// Where it starts and ends in the file; covers continuation lines.
    pub span: Span,
}

/// A whole Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Dockerfile {
    /// Parser directives (SPEC A1.01–A1.04).
    pub directives: Directives,
    /// In order.
    pub instructions: Vec<Instruction>,
}

/// Parser directives.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Directives {
    /// `# syntax=`.
    pub syntax: Option<Word>,
    /// `# escape=`: a backslash or a backtick.
    pub escape: Option<char>,
    /// `# check=`.
    pub check: Option<Word>,
    /// 1-based line of `# check=`; 0 without one.
    pub check_line: u32,
}

impl Directives {
    /// The escape character in force.
    #[must_use]
    pub fn escape_char(&self) -> char {
        self.escape.unwrap_or('\\')
    }
}

/// One instruction with what surrounds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instruction {
    /// What it says.
    pub kind: Kind,
    /// The keyword as written.
    pub keyword: Word,
    /// The whole instruction, heredoc bodies included.
    pub span: Span,
    /// 1-based first and last line, heredoc bodies included.
    pub lines: (u32, u32),
    /// The instruction with continuation lines joined and comments dropped, without heredoc bodies: what progress
    /// and history show.
    pub original: String,
    /// The comment block directly above it, one line each without the marker (SPEC A1.07).
    pub comments: Vec<String>,
}

impl Instruction {
    /// What the comments above say of a stage or an argument: the rest of the line that begins with its name
    /// (SPEC A1.07).
    #[must_use]
    pub fn description(&self, name: &str) -> Option<&str> {
        self.comments.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
    }

    /// Its heredocs in order of appearance; those of the trigger for ONBUILD.
    #[must_use]
    pub fn heredocs(&self) -> Vec<&Heredoc> {
        match &self.kind {
            Kind::Run(run) => run.heredocs.iter().collect(),
            Kind::Copy(transfer) | Kind::Add(transfer) => transfer.heredocs().collect(),
            Kind::Onbuild { instruction, .. } => instruction.heredocs(),
            _ => Vec::new(),
        }
    }
}

/// The instructions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// `FROM [--platform=P] base [AS name]`
    From {
        /// `--platform`, unexpanded.
        platform: Option<Word>,
        /// Base name, unexpanded.
        base: Word,
        /// Stage name as written.
        name: Option<Word>,
    },
    /// `ARG name[=value] …`
    Arg(Vec<ArgDeclaration>),
    /// `ENV`
    Env(Vec<Assignment>),
    /// `LABEL`
    Label(Vec<Assignment>),
    /// `COPY`
    Copy(Transfer),
    /// `ADD`
    Add(Transfer),
    /// `RUN`
    Run(Run),
    /// `CMD`
    Cmd(Command),
    /// `ENTRYPOINT`
    Entrypoint(Command),
    /// `SHELL ["…"]`
    Shell(Vec<String>),
    /// `USER`
    User(Word),
    /// `WORKDIR`
    Workdir(Word),
    /// `EXPOSE`
    Expose(Vec<Word>),
    /// `VOLUME`
    Volume(Vec<Word>),
    /// `STOPSIGNAL`
    StopSignal(Word),
    /// `HEALTHCHECK`
    Healthcheck(Healthcheck),
    /// `ONBUILD`: the trigger's text (heredocs included) and the instruction parsed from it.
    Onbuild {
        /// What goes into the image config (SPEC A8.12).
        text: String,
        /// Parsed to find errors early.
        instruction: Box<Instruction>,
    },
    /// `MAINTAINER`
    Maintainer(String),
}

/// One `name[=value]` of ARG.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArgDeclaration {
    /// Name.
    pub name: Word,
    /// Default, quotes and variables unprocessed.
    pub value: Option<Word>,
}

/// One `key=value` of ENV or LABEL; both sides may hold variables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// Key.
    pub key: Word,
    /// Value, quotes and variables unprocessed.
    pub value: Word,
    /// Written as `ENV key value` (SPEC A8.01).
    pub legacy: bool,
}

/// An instruction flag `--name=value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flag {
    /// Without dashes.
    pub name: String,
    /// `None` for a bare `--name`.
    pub value: Option<String>,
    /// The whole flag.
    pub span: Span,
}

/// COPY or ADD.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Transfer {
    /// Sources in order: paths, URLs or heredocs. Unexpanded.
    pub sources: Vec<TransferSource>,
    /// Destination, unexpanded.
    pub dest: Option<Word>,
    /// `--from` (COPY only).
    pub from: Option<Word>,
    /// `--chown`, unexpanded.
    pub chown: Option<Word>,
    /// `--chmod`, unexpanded.
    pub chmod: Option<Word>,
    /// `--link`.
    pub link: Option<Switch>,
    /// `--parents` (COPY only).
    pub parents: Option<Switch>,
    /// `--exclude`, unexpanded.
    pub exclude: Vec<Word>,
    /// `--checksum` (ADD only), unexpanded.
    pub checksum: Option<Word>,
    /// `--keep-git-dir` (ADD only).
    pub keep_git_dir: Option<Switch>,
    /// `--unpack` (ADD only).
    pub unpack: Option<Switch>,
}

impl Transfer {
    /// The inline files among the sources.
    pub fn heredocs(&self) -> impl Iterator<Item = &Heredoc> {
        self.sources.iter().filter_map(|source| match source {
            TransferSource::Heredoc(heredoc) => Some(heredoc),
            TransferSource::Path(_) => None,
        })
    }
}

/// A boolean flag as given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Switch {
    /// Its value.
    pub on: bool,
    /// The whole flag.
    pub span: Span,
}

/// One source of COPY or ADD.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TransferSource {
    /// A path, pattern or URL.
    Path(Word),
    /// An inline file.
    Heredoc(Heredoc),
}

/// A here-document (SPEC A2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heredoc {
    /// Delimiter without quotes: the file's name in COPY.
    pub name: String,
    /// Variables are expanded: no part of the delimiter was quoted.
    pub expand: bool,
    /// `<<-`: leading tabs are removed from the body.
    pub chomp: bool,
    /// File descriptor in front of `<<`, if any.
    pub fd: Option<u32>,
    /// The body as written, tabs kept, with its final newline.
    pub body: String,
    /// The body's place in the file.
    pub span: Span,
}

impl Heredoc {
    /// The body with leading tabs removed if the heredoc asks for it (SPEC A2.04).
    #[must_use]
    pub fn content(&self) -> String {
        if !self.chomp {
            return self.body.clone();
        }
        self.body.split_inclusive('\n').map(|line| line.trim_start_matches('\t')).collect()
    }
}

/// A command line in shell or exec form (SPEC A1.17).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandLine {
    /// JSON array.
    Exec(Vec<String>),
    /// Text for the shell.
    Shell(String),
}

/// CMD or ENTRYPOINT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// The command; an empty exec form is kept as such.
    pub line: CommandLine,
}

/// RUN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// The command; in shell form without heredoc bodies.
    pub line: CommandLine,
    /// Heredocs in order of appearance.
    pub heredocs: Vec<Heredoc>,
    /// `--mount` values, unexpanded.
    pub mounts: Vec<Word>,
    /// `--network`.
    pub network: Option<Word>,
    /// `--security`.
    pub security: Option<Word>,
    /// `--device` values.
    pub devices: Vec<Word>,
}

/// HEALTHCHECK (SPEC A8.11). Durations are nanoseconds, 0 where not given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Healthcheck {
    /// `HEALTHCHECK NONE`
    None,
    /// `HEALTHCHECK [options] CMD …`
    Cmd {
        /// The command.
        line: CommandLine,
        /// `--interval`
        interval: i64,
        /// `--timeout`
        timeout: i64,
        /// `--start-period`
        start_period: i64,
        /// `--start-interval`
        start_interval: i64,
        /// `--retries`
        retries: i64,
    },
}

impl CommandLine {
    /// There is nothing to run.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        match self {
            CommandLine::Exec(argv) => argv.is_empty(),
            CommandLine::Shell(text) => text.is_empty(),
        }
    }
}
