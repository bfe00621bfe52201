//! The corpus of Dockerfiles in tests/corpus: every case against what SPEC says of it, and beside Debian's buildah.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::print_stderr, reason = "skip reasons are collected by scripts/test")]
#![allow(missing_docs, unreachable_pub, reason = "a test program")]

mod corpus;
mod support;

const COPY: &str = include_str!("corpus/copy.txt");
const COPY_FLAGS: &str = include_str!("corpus/copy-flags.txt");
const ADD: &str = include_str!("corpus/add.txt");

const ALL: &[(&str, &str)] = &[("copy", COPY), ("copy-flags", COPY_FLAGS), ("add", ADD)];

// SPEC A3.01, A3.06, A3.07, A6.01, A6.04, A6.06, A6.07, A6.08, A6.09, A6.10, A6.11, A6.12, C6.08, C6.10, N2.01, N2.02
#[test]
fn copy_sources_and_destinations() {
    corpus::golden("copy", COPY);
}

// SPEC A3.07, A3.10, A4.04, A4.05, A4.06, A6.02, A6.03, A6.04, A6.05, A6.06, A6.08, A6.09, A6.10, A6.12, A6.13, A6.14,
// A6.15, A6.16, A9.01, C6.07, C6.08, C6.10, N2.01, N2.02
#[test]
fn copy_flags_and_origins() {
    corpus::golden("copy-flags", COPY_FLAGS);
}

// SPEC A6.03, A6.04, A6.05, A6.06, A6.08, A6.09, A6.10, A6.11, A6.17, A9.02, C6.07, N2.03
#[test]
fn add_and_archives() {
    corpus::golden("add", ADD);
}

#[test]
fn buildah_makes_the_same_of_a_sample() {
    corpus::beside_buildah(ALL, 20);
}

#[test]
fn long_buildah_makes_the_same_of_every_case() {
    if std::env::var("RBUILD_TEST_LONG").unwrap_or_default().is_empty() {
        skip!("a long tier: scripts/test --long");
    }
    corpus::beside_buildah(ALL, 1);
}

#[test]
fn comments_and_documents_say_what_the_corpus_says() {
    corpus::book::check("tests/oracle.rs", include_str!("oracle.rs"), |old| corpus::book::comments(ALL, old));
    let path = "docs/design/beside-buildah.md";
    corpus::book::check(path, include_str!("../docs/design/beside-buildah.md"), |_| corpus::book::differences(ALL));
}
