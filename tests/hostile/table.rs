//! The table of docs/SECURITY.md: every case on every rung. The tests compare what they run with these lists, and the document
//! with the table; `RBUILD_TEST_TABLE=FILE` writes it.

use super::tolerated;

pub(crate) const TRAPS: &[&str] = &[
    "a file through a symlink",
    "a file through dots",
    "a hard link to outside",
    "a hard link through a symlink",
    "a whiteout through a symlink",
    "a whiteout of dots",
    "an opaque mark through a symlink",
    "devices",
    "COPY to a symlink",
    "COPY to a relative symlink",
    "COPY from a symlink",
    "COPY of a symlinked directory",
    "a pattern through a symlink",
    "WORKDIR through a symlink",
    "ADD through a symlink",
    "a cache mount at a symlink",
    "a bind mount of a symlink",
    "a tmpfs at a symlink",
    "a secret at a symlink",
    "/etc is elsewhere",
    "/etc/resolv.conf is elsewhere",
    "/etc/hosts is elsewhere",
    "/proc, /dev and /sys are elsewhere",
    "/tmp is elsewhere",
    "users are elsewhere",
    "the shell is elsewhere",
];
pub(crate) const CALLS: &[&str] = &[
    "io_uring",
    "userfaultfd",
    "keyrings",
    "namespaces of others",
    "a clone with namespaces",
    "the new calls to mount",
    "programs for the kernel",
    "files by their handles",
    "the kernel's log, clock and modules",
    "another kernel",
    "quotas, accounting and swap",
    "ports of the machine",
    "sockets of the hypervisor and of the kernel's ciphers",
    "limits of the builder",
    "descriptors of the builder",
    "memory of the builder",
    "descriptors that nobody closed",
    "letters for the terminal (TIOCSTI, TIOCLINUX)",
    "abstract sockets of the machine",
];
pub(crate) const DOCUMENTS: &[&str] = &[
    "deep JSON",
    "deep annotations",
    "very many entries",
    "a million small entries",
    "negative size",
    "a size beyond everything",
    "a digest that is a path",
    "an unknown algorithm",
    "not JSON",
    "nothing",
    "numbers that are none",
];
pub(crate) const DOCKERFILES: &[&str] = &[
    "recursive arguments",
    "growing words",
    "deep words",
    "deep lists",
    "a stage of itself",
    "stages in a circle",
    "a heredoc without end",
    "many stages",
];
pub(crate) const ANSWERS: &[&str] = &[
    "a manifest that is none",
    "deep JSON",
    "HTML",
    "a manifest beyond the limit",
    "a length that is not kept",
    "no HTTP at all",
    "nothing",
    "a redirect to files",
    "a redirect to the metadata service",
    "a redirect to itself",
    "a token server that is a file",
    "a token server at the metadata service",
    "a token server that is no URL",
    "a header with a line break",
];
pub(crate) const LIES: &[&str] = &[
    "a manifest of another digest",
    "a layer of another digest",
    "a config of another digest",
    "a layer larger than announced",
    "a layer that never ends",
    "a config that never ends",
    "a manifest that never ends",
    "a layer at the metadata service",
    "a layer at the metadata service, by name",
    "a layer in a file",
    "a token server of another scheme",
    "a token server that is another registry",
    "a redirect to another registry, with a password",
    "a token with a line break",
    "a token that lives for ever",
    "a challenge without end",
    "a config of deep JSON",
    "a config with a million steps",
    "a manifest with very many layers",
];
pub(crate) const TREES: &[&str] = &[
    "a directory .git",
    "a directory .GIT",
    "a directory .git with an invisible letter",
    "a file .git",
    "a symlink .git",
    "a directory ..",
    "a name with slashes",
    "an absolute name",
    "a symlink and a directory of one name",
    "a symlink and a file of one name",
    "a symlink that leads out",
    "a Dockerfile elsewhere",
    "an ignore file elsewhere",
    "attributes elsewhere",
    "submodules elsewhere",
    "a submodule above",
    "a submodule with a dash",
    "a submodule from an option",
    "a submodule through a symlink",
    "a submodule into .git",
    "a repository in a repository",
];
/// Refs and addresses of repositories, in kinds.
const REFS: &[&str] = &[
    "a ref or query that is an option of git (8 of them)",
    "a subdirectory that leads out or is an option (4)",
    "a ref that is no commit (2)",
    "an address that is an option or a command (4)",
];
pub(crate) const FOREVER: &[&str] =
    &["a fork bomb without end, within a limit of processes", "a step that hangs and hears no signal"];
pub(crate) const CONTEXTS: &[&str] = &[
    "COPY of a symlink out of a named context",
    "COPY through a symlink out of a named context",
    "COPY of dots out of a named context",
    "COPY of a pattern through a symlink",
    "a bind mount of a symlink of a named context",
    "a bind mount of a named context, and its symlinks",
    "attributes in an archive",
    "a file of 8 EiB",
];
/// In tests/frontends.rs.
const FRONT_ENDS: &[&str] = &[
    "to read through symlinks, dots, pipes and devices of a result (7 ways)",
    "a flood of calls that are taken back",
    "headers without end",
    "a message without end",
    "layouts, directories and files of the machine, networks that are not allowed (5)",
];
/// Tests of one case each.
const SINGLE: &[(&str, [bool; 5])] = &[
    ("another step's environment and secret, while it runs", ALL),
    ("a tracer: attach, read, compare, take descriptors", ALL),
    ("secrets in records, logs, provenance, layers and memory dumps of programs that crash", ALL),
    ("processes that outlive their step", ALL),
    ("COPY and WORKDIR through symlinks, to /proc/self/fd", ALL),
    ("names, symlinks and dots of an archive of ADD", ALL),
    ("attributes of files of the context", ALL),
    ("a context that changes while it is copied", ALL),
    ("descriptors of a step's files, handed to another one that outlives it", [true, true, true, false, false]),
    ("a cache mount that changes while mounts are made in it", [true, true, true, false, false]),
    ("links between a cache mount and the step's tree", ALL),
    ("locks, leases, watches and mappings of a step's files", ALL),
    ("a tree that is deeper than names can say", ALL),
    ("zeros and empty files that compress well, by ADD and as layers (gzip, zstd, xz)", ALL),
    ("a disk that is full", [true, false, false, true, false]),
    ("ADD from the metadata service of a cloud, by address, by name, by redirect", ALL),
];

const ALL: [bool; 5] = [true; 5];
const RUNGS: [&str; 5] = ["root", "userns", "userns-one", "chroot", "ptrace"];

fn table() -> (usize, String) {
    let mut out = String::from(
        "| what is tried | `root` | `userns` | `userns-one` | `chroot` | `ptrace` |\n| --- | --- | --- | --- | --- | --- |\n",
    );
    let mut count = 0;
    let mut row = |name: &str, ran: [bool; 5]| {
        count += 1;
        let cells = RUNGS.iter().zip(ran).map(|(rung, ran)| match (ran, tolerated(rung, name)) {
            (false, _) => " – |",
            (true, true) => " let be |",
            (true, false) => " held |",
        });
        format!("| {name} |{}\n", cells.collect::<String>())
    };
    let attempts: Vec<&str> = super::ATTEMPTS.iter().map(|attempt| attempt.0).collect();
    for (group, names, ran) in [
        ("a step tries", &attempts[..], ALL),
        ("a step asks of the kernel", CALLS, ALL),
        ("a step never ends", FOREVER, ALL),
        ("a base image has", TRAPS, ALL),
        ("a named context or an archive has", CONTEXTS, ALL),
        ("a repository of git has", TREES, ALL),
        ("a reference to a repository is", REFS, ALL),
        ("a document of an image is", DOCUMENTS, ALL),
        ("a registry answers with", ANSWERS, ALL),
        ("a registry answers honestly, but for", LIES, ALL),
        ("a Dockerfile has", DOCKERFILES, ALL),
        ("a front end that is an image tries", FRONT_ENDS, ALL),
    ] {
        out += &format!("| **{group}** | | | | | |\n");
        names.iter().for_each(|name| out += &row(name, ran));
    }
    out += "| **and** | | | | | |\n";
    SINGLE.iter().for_each(|(name, ran)| out += &row(name, *ran));
    (count, out)
}

/// The document has the table of what is tried.
#[test]
fn the_table_in_the_document_is_of_these_cases() {
    let (count, table) = table();
    if let Some(path) = std::env::var_os("RBUILD_TEST_TABLE") {
        std::fs::write(path, format!("{count} cases.\n\n{table}")).unwrap();
    }
    let document = include_str!("../../docs/SECURITY.md");
    let shown = document.split("<!-- cases -->\n").nth(1).and_then(|rest| rest.split("<!-- end -->").next());
    assert!(count >= 60);
    assert_eq!(shown, Some(&*format!("{count} cases.\n\n{table}")), "docs/SECURITY.md");
}
