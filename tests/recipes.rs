//! Commands that the documentation shows are commands that the program takes (docs/CACHE.md, SPEC B4).
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(missing_docs, reason = "a test program")]

use rbuild::cli::args::{Cli, Command};
use rbuild::cli::config::Config;
use rbuild::cli::settings::BuildSettings;

const CACHE: &str = include_str!("../docs/CACHE.md");

/// What the variables of the recipes could be.
const VARIABLES: &[(&str, &str)] = &[
    ("$CI_REGISTRY_IMAGE", "registry.example.com/group/project"),
    ("$CI_COMMIT_SHA", "0123456789abcdef0123456789abcdef01234567"),
    ("$CI_COMMIT_REF_SLUG", "a-branch"),
    ("$CI_DEFAULT_BRANCH", "main"),
    ("$IMAGE", "ghcr.io/owner/app:latest"),
];

/// Every `rbuild …` of the fenced blocks, with its continued lines, as words.
fn commands(text: &str) -> Vec<Vec<String>> {
    let mut found: Vec<String> = Vec::new();
    let (mut fenced, mut open) = (false, false);
    for line in text.lines() {
        if line.starts_with("```") {
            (fenced, open) = (!fenced, false);
            continue;
        }
        let line = line.trim();
        let begins = ["", "- ", "- run: "].iter().find_map(|lead| line.strip_prefix(lead)?.strip_prefix("rbuild "));
        if let (true, Some(rest)) = (fenced, begins) {
            found.push(format!("rbuild {rest}"));
            open = true;
        } else if fenced && open && line.starts_with('-') {
            // YAML folds lines that are indented; a shell wants a backslash, which ended the one before.
            let last = found.last_mut().unwrap();
            *last = format!("{} {line}", last.trim_end_matches('\\').trim_end());
        } else {
            open = false;
        }
    }
    let expand = |command: String| VARIABLES.iter().fold(command, |text, (name, value)| text.replace(name, value));
    found.into_iter().map(expand).map(|c| c.split_whitespace().map(ToOwned::to_owned).collect()).collect()
}

// SPEC B4.03, B4.05, B4.07
#[test]
fn every_recipe_is_a_command() {
    let commands = commands(CACHE);
    let all = commands.concat().join(" ");
    for kind in ["type=gha", "type=registry", "type=s3", "mounts=true"] {
        assert!(all.contains(kind), "{kind} is not in {all}");
    }
    assert!(commands.len() >= 4, "{commands:?}");
    let context = tempfile::tempdir().unwrap();
    std::fs::write(context.path().join("Dockerfile"), "FROM scratch\n").unwrap();
    for words in commands {
        let shown = words.join(" ");
        assert!(!shown.contains('$'), "what is the variable in {shown}?");
        // `rbuild PATH` is `rbuild build PATH`, which the program's own first look makes of it.
        let mut words = [&["rbuild".to_owned(), "build".to_owned()], &words[1..]].concat();
        assert_eq!(words.pop().unwrap(), ".", "{shown}");
        words.push(context.path().display().to_string());
        let cli = Cli::parse_words(&words).unwrap_or_else(|e| panic!("{shown}: {e}"));
        let Command::Build(args) = cli.command else { panic!("{shown} is no build") };
        let settings = BuildSettings::new(&args, &Config::default());
        let settings = settings.unwrap_or_else(|e| panic!("{shown}: {}", e.message));
        // Outside of a workflow the service of GitHub is left out, and that is said.
        let expected = usize::from(!shown.contains("type=gha"));
        assert!(settings.request.cache_to.len() == expected, "{shown}");
        assert!(settings.request.cache_from.len() >= expected, "{shown}");
    }
}
