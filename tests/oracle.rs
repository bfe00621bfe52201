//! The corpus of Dockerfiles in tests/corpus: every case against what SPEC says of it, and beside Debian's buildah.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::print_stderr, reason = "skip reasons are collected by scripts/test")]
#![allow(missing_docs, unreachable_pub, reason = "a test program")]

mod corpus;
mod support;

const COPY: &str = include_str!("corpus/copy.txt");
const COPY_FLAGS: &str = include_str!("corpus/copy-flags.txt");
const ADD: &str = include_str!("corpus/add.txt");
const IGNORE: &str = include_str!("corpus/ignore.txt");
const STAGES: &str = include_str!("corpus/stages.txt");
const CONFIG: &str = include_str!("corpus/config.txt");
const RUN: &str = include_str!("corpus/run.txt");
const SUITES: &str = include_str!("corpus/suites.txt");
const HEREDOC: &str = include_str!("corpus/heredoc.txt");

const ALL: &[(&str, &str)] = &[
    ("copy", COPY),
    ("copy-flags", COPY_FLAGS),
    ("add", ADD),
    ("ignore", IGNORE),
    ("stages", STAGES),
    ("config", CONFIG),
    ("run", RUN),
    ("heredoc", HEREDOC),
    ("suites", SUITES),
];

// SPEC A1.17, A3.06, A3.07, A6.01, A6.04, A6.06, A6.07, A6.08, A6.09, A6.10, A6.11, A6.12, C6.08, C6.10, N2.01, N2.02
#[test]
fn copy_sources_and_destinations() {
    corpus::golden("copy", COPY);
}

// SPEC A3.07, A3.10, A4.04, A6.02, A6.03, A6.04, A6.05, A6.06, A6.08, A6.09, A6.10, A6.12, A6.13, A6.14, A6.15, A6.16,
// A9.01, C6.07, C6.08, C6.10, N2.01, N2.02
#[test]
fn copy_flags_and_origins() {
    corpus::golden("copy-flags", COPY_FLAGS);
}

// SPEC A6.03, A6.04, A6.05, A6.06, A6.08, A6.09, A6.10, A6.11, A6.17, A9.02, C6.07, N2.03
#[test]
fn add_and_archives() {
    corpus::golden("add", ADD);
}

// SPEC A6.06, A6.07, A6.10, A6.23, A9.01, A9.02, A9.03, A9.04, A9.05, A9.06
#[test]
fn ignore_files() {
    corpus::golden("ignore", IGNORE);
}

// SPEC A1.02, A1.06, A1.08, A1.09, A1.12, A1.13, A1.14, A1.15, A3.01, A3.02, A3.03, A3.04, A3.05, A3.06, A3.07, A3.08,
// A3.11, A4.01, A4.02, A4.03, A4.06, A4.07, A4.10, A4.11, A4.12, A4.13, A4.14, A4.15, A4.19, A6.16, N2.01
#[test]
fn stages_and_arguments() {
    corpus::golden("stages", STAGES);
}

// SPEC A1.17, A5.15, A8.01, A8.02, A8.03, A8.04, A8.05, A8.06, A8.07, A8.08, A8.09, A8.10, A8.11, A8.12, A8.13, A8.14,
// C6.06, C6.07, C6.08, N2.11
#[test]
fn configuration_and_history() {
    corpus::golden("config", CONFIG);
}

// SPEC A1.06, A1.08, A4.13, A5.01, A5.03, A5.04, A5.05, A5.15, A5.16, A6.11, A8.09, C5.18, C6.10, N2.04
#[test]
fn steps_and_layers() {
    corpus::golden("run", RUN);
}

// SPEC A2.01, A2.02, A2.04, A2.05, A2.06, A2.07, A2.08, A2.09, A3.07, A5.16, A6.01, A6.04, A6.05, A8.12
#[test]
fn heredocs() {
    corpus::golden("heredoc", HEREDOC);
}

// SPEC A1.10, A1.13, A1.14, A1.16, A1.17, A2.02, A2.03, A2.04, A2.06, A2.07, A2.08, A3.02, A3.06, A3.07, A3.11, A4.01,
// A4.10, A4.11, A5.01, A5.15, A6.02, A6.04, A6.06, A6.07, A6.08, A6.09, A6.10, A6.11, A6.12, A6.13, A6.17, A8.01,
// A8.02, A8.05, A8.06, A8.07, A8.08, A8.09, A9.03, B1.01, C6.10
#[test]
fn suites_of_others() {
    corpus::golden("suites", SUITES);
}

#[test]
fn buildah_makes_the_same_of_a_sample() {
    corpus::beside_buildah(ALL, 25);
}

#[test]
fn long_buildah_makes_the_same_of_every_case() {
    if std::env::var("RBUILD_TEST_LONG").unwrap_or_default().is_empty() {
        skip!("a long tier: scripts/test --long");
    }
    corpus::beside_buildah(ALL, 1);
}

#[test]
fn long_the_native_snapshotter_makes_the_same() {
    if std::env::var("RBUILD_TEST_LONG").unwrap_or_default().is_empty() {
        skip!("a long tier: scripts/test --long");
    }
    for (file, text) in ALL {
        corpus::golden_with(file, text, &["--snapshotter", "native"]);
    }
}

#[test]
fn comments_and_documents_say_what_the_corpus_says() {
    corpus::book::check("tests/oracle.rs", include_str!("oracle.rs"), |old| corpus::book::comments(ALL, old));
    let path = "docs/design/beside-buildah.md";
    corpus::book::check(path, include_str!("../docs/design/beside-buildah.md"), |_| corpus::book::differences(ALL));
}
