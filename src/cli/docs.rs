//! The reference of the command line, made from its one definition: Markdown for docs/cli, man pages, completions.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use clap::{Arg, Command as Clap};

use super::args::{Cli, Docs};
use super::errors::Failure;
use crate::base::{FaultKind, file};

/// Prints the completion script of a shell.
pub(super) fn completion(shell: clap_complete::Shell) -> Result<u8, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::definition(), "rbuild", &mut script);
    super::print(&String::from_utf8_lossy(&script))
}

/// Writes the reference into a directory.
pub(super) fn write(options: &Docs) -> Result<u8, Failure> {
    let fail = |e: std::io::Error, path: &Path| {
        Failure::new(FaultKind::of_io(&e, FaultKind::Store), format!("cannot write {}: {e}", path.display()))
    };
    std::fs::create_dir_all(&options.dir).map_err(|e| fail(e, &options.dir))?;
    let pages = if options.kind == "man" { man().map_err(|e| fail(e, &options.dir))? } else { markdown() };
    for (name, text) in pages {
        let path = options.dir.join(name);
        file::write_atomic(&path, &text).map_err(|e| fail(e, &path))?;
    }
    Ok(0)
}

/// The commands people see, with their full names, those of commands without subcommands only.
fn commands() -> Vec<(String, Clap)> {
    let mut root = Cli::definition();
    root.build();
    let mut found = Vec::new();
    let mut stack: Vec<(String, Clap)> = vec![("rbuild".into(), root)];
    while let Some((name, command)) = stack.pop() {
        if command.is_hide_set() {
            continue;
        }
        for sub in command.get_subcommands().collect::<Vec<_>>().into_iter().rev() {
            stack.push((format!("{name} {}", sub.get_name()), sub.clone()));
        }
        found.push((name, command));
    }
    // Other builders' command lines, which are translated before ours is parsed.
    for (name, mut command) in
        [("rbuild buildah build", super::buildah::definition()), ("rbuild kaniko", super::kaniko::definition())]
    {
        command.build();
        found.push((name.into(), command));
    }
    found
}

fn man() -> std::io::Result<Vec<(String, Vec<u8>)>> {
    let mut pages = Vec::new();
    for (name, command) in commands() {
        let title = name.replace(' ', "-");
        let mut page = Vec::new();
        clap_mangen::Man::new(command.name(title.clone()).disable_help_subcommand(true)).render(&mut page)?;
        page.flush()?;
        pages.push((format!("{title}.1"), page));
    }
    Ok(pages)
}

/// One page per command.
fn markdown() -> Vec<(String, Vec<u8>)> {
    let page = |(name, command): (String, Clap)| {
        (format!("{}.md", name.replace(' ', "-")), page(&name, &command).into_bytes())
    };
    let mut pages: Vec<_> = commands().into_iter().map(page).collect();
    pages.push(("rbuild.toml.md".into(), super::config::page().into_bytes()));
    pages
}

fn page(name: &str, command: &Clap) -> String {
    let mut out = format!("<!-- made by `rbuild docs markdown docs/cli`; do not edit -->\n\n# {name}\n\n");
    if let Some(about) = command.get_about() {
        let _ = writeln!(out, "{about}.\n");
    }
    let usage = command.clone().render_usage().to_string();
    let _ = writeln!(out, "```\n{}\n```", usage.trim_start_matches("Usage: ").trim());
    let subcommands: Vec<_> = command.get_subcommands().filter(|c| !c.is_hide_set()).collect();
    if !subcommands.is_empty() {
        out.push_str("\n| command | |\n| --- | --- |\n");
        for sub in subcommands {
            let link = format!("{name} {}", sub.get_name()).replace(' ', "-");
            let _ = writeln!(out, "| [{}]({link}.md) | {} |", sub.get_name(), text(sub.get_about()));
        }
    }
    let mut headings: Vec<Option<&str>> = Vec::new();
    for arg in shown(command) {
        if !headings.contains(&arg.get_help_heading()) {
            headings.push(arg.get_help_heading());
        }
    }
    for heading in headings {
        let _ = writeln!(out, "\n## {}\n\n| | |\n| --- | --- |", heading.unwrap_or("Arguments and options"));
        for arg in shown(command).filter(|a| a.get_help_heading() == heading) {
            let _ = writeln!(out, "| `{}` | {} |", spelled(arg).replace('|', "\\|"), text(arg.get_help()));
        }
    }
    out
}

fn text(styled: Option<&clap::builder::StyledStr>) -> String {
    styled.map_or_else(String::new, |s| s.to_string().replace('|', "\\|"))
}

fn shown(command: &Clap) -> impl Iterator<Item = &Arg> {
    command.get_arguments().filter(|a| !a.is_hide_set() && a.get_id() != "help" && a.get_id() != "version")
}

/// `-t, --tag NAME`.
fn spelled(arg: &Arg) -> String {
    let values = arg.get_value_names().map_or_else(String::new, |names| names.join(" "));
    if arg.is_positional() {
        return values;
    }
    let mut names = Vec::new();
    names.extend(arg.get_short().map(|s| format!("-{s}")));
    names.extend(arg.get_long().map(|l| format!("--{l}")));
    let names = names.join(", ");
    if arg.get_action().takes_values() && !arg.is_require_equals_set() { format!("{names} {values}") } else { names }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_in_docs_is_the_present_one() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/cli");
        for (name, text) in markdown() {
            let kept = std::fs::read(dir.join(&name)).unwrap_or_default();
            assert!(
                kept == text,
                "docs/cli/{name} is not what the parser says; run `cargo run -- docs markdown docs/cli` and look at the difference"
            );
        }
    }

    #[test]
    fn every_shell_has_completions_and_every_command_a_man_page() {
        for shell in [clap_complete::Shell::Bash, clap_complete::Shell::Zsh, clap_complete::Shell::Fish] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::definition(), "rbuild", &mut script);
            assert!(String::from_utf8_lossy(&script).contains("build-arg"), "{shell}");
        }
        let pages = man().expect("a Vec takes everything");
        assert!(pages.iter().any(|(name, text)| name == "rbuild-build.1" && !text.is_empty()), "{}", pages.len());
    }

    /// Commands of rbuild in a page: in code spans and in blocks, as a shell would hand them on.
    fn commands(page: &str) -> Vec<Vec<String>> {
        let (mut found, mut block) = (Vec::new(), false);
        for line in page.lines() {
            if line.starts_with("```") {
                block = !block;
                continue;
            }
            let spans: Vec<&str> = match block {
                true => line.split("; ").collect(),
                // A span with a pipe in a table has it escaped.
                false => line.split('`').skip(1).step_by(2).collect(),
            };
            found.extend(spans.into_iter().filter_map(words));
        }
        found
    }

    fn words(text: &str) -> Option<Vec<String>> {
        let (mut words, mut word, mut quoted) = (Vec::new(), String::new(), None);
        for c in text.trim().chars().chain([' ']) {
            match (c, quoted) {
                (c, Some(quote)) if c == quote => quoted = None,
                ('\'' | '"', None) => quoted = Some(c),
                (' ', None) if word.is_empty() => {}
                (' ', None) => words.push(std::mem::take(&mut word)),
                (c, _) => word.push(c),
            }
        }
        let begin = words.iter().position(|word| word == "rbuild")?;
        // A prompt or variables may come before it.
        let variable = |word: &String| word == "$" || word.contains('=');
        let ends = |word: &String| ["#", ">", "<", "|", "2>"].contains(&word.as_str());
        let words: Vec<String> =
            if words[..begin].iter().all(variable) { words.split_off(begin) } else { return None };
        let end = words.iter().position(ends).unwrap_or(words.len());
        // What a shell would make of other commands is not known here; `…` stands for something.
        let plain = words[..end].iter().all(|word| !word.contains("$(") && !word.contains('…'));
        (plain && end > 1).then(|| words[..end].to_vec())
    }

    // SPEC B1.01
    #[test]
    fn commands_of_the_pages_for_newcomers_are_understood() {
        let mut count = 0;
        for page in ["README.md", "docs/from-kaniko.md", "docs/from-buildah.md"] {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(page);
            let text = std::fs::read_to_string(&path).expect("the page");
            for command in commands(&text) {
                let args = command.iter().map(std::ffi::OsString::from).collect();
                let (args, _) =
                    super::super::translated(args).unwrap_or_else(|code| panic!("{page}: {command:?}: {code}"));
                let args =
                    super::super::spelling::ours(args).unwrap_or_else(|e| panic!("{page}: {command:?}: {}", e.message));
                let parsed = Cli::parse_words(args);
                if let Err(error) = parsed
                    && error.use_stderr()
                {
                    panic!("{page}: {command:?}: {error}");
                }
                count += 1;
            }
        }
        assert!(count > 60, "{count} commands");
    }
}
