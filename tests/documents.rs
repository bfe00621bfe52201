//! What docs/SECURITY.md and docs/ROOTLESS.md say is what the code has, and what can be copied out of them can be read.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(missing_docs, unreachable_pub, reason = "a test program")]

use std::collections::BTreeSet;

use yaml_rust2::{Yaml, YamlLoader};

const SECURITY: &str = include_str!("../docs/SECURITY.md");
const ROOTLESS: &str = include_str!("../docs/ROOTLESS.md");

/// Between two marks.
fn between<'a>(text: &'a str, start: &str, end: &str) -> &'a str {
    text.split_once(start).and_then(|(_, rest)| rest.split_once(end)).unwrap_or_else(|| panic!("no {start}")).0
}

/// The blocks of code of a language.
fn blocks<'a>(text: &'a str, language: &str) -> Vec<&'a str> {
    let start = format!("```{language}\n");
    text.split(&start[..]).skip(1).map(|rest| rest.split_once("```").unwrap().0).collect()
}

// SPEC A5.14
#[test]
fn a5_14_capabilities_and_system_calls_are_those_of_the_document() {
    let source = include_str!("../rootless/src/capabilities.rs");
    let list = between(source, "USUAL: CapabilitySet =", ";");
    let code: BTreeSet<&str> = list
        .split("CapabilitySet::")
        .skip(1)
        .map(|rest| rest.split(|c: char| !c.is_ascii_uppercase() && c != '_').next().unwrap())
        .collect();
    let said = between(SECURITY, "Docker's fourteen (`a80425fb`):", ";");
    assert_eq!(said.split_whitespace().collect::<BTreeSet<_>>(), code, "capabilities");
    assert_eq!(code.len(), 14);

    let profile = include_str!("../rootless/src/seccomp/profile.rs");
    let allowed: Vec<&str> =
        profile.lines().filter_map(|line| line.strip_prefix("    (\"")?.split('"').next()).collect();
    let said: Vec<&str> = between(SECURITY, "<!-- calls -->\n```text\n", "\n```").split_whitespace().collect();
    assert!(allowed.len() > 300);
    assert_eq!(said, allowed, "system calls that are always allowed");
    for refused in between(SECURITY, "**seccomp**:", "- **Landlock**").split('`').skip(1).step_by(2) {
        let name = refused.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap();
        let conditional =
            ["clone", "rootless", "chroot", "pivot_root", "ptrace", "process_vm_readv", "process_vm_writev", "docs"];
        assert!(
            conditional.contains(&name) || refused.starts_with("--") || !allowed.contains(&name),
            "{name} is allowed"
        );
    }
    for (word, what) in [
        ("## Reporting", "how to report"),
        ("```mermaid", "the boundaries, drawn"),
        ("## What each rung promises", "promises"),
        ("## What is not promised", "what is not"),
    ] {
        assert!(SECURITY.contains(word), "{what}");
    }
}

/// The documents of a YAML stream.
fn yaml(text: &str) -> Vec<Yaml> {
    YamlLoader::load_from_str(text).unwrap_or_else(|e| panic!("{e}:\n{text}"))
}

#[test]
fn what_is_copied_out_of_the_documents_can_be_read() {
    let all: Vec<Yaml> = blocks(ROOTLESS, "yaml").into_iter().flat_map(yaml).collect();
    assert!(all.iter().all(|document| document.as_hash().is_some_and(|hash| !hash.is_empty())));
    let kinds: Vec<&str> = all.iter().filter_map(|document| document["kind"].as_str()).collect();
    for kind in ["Pod", "Task", "SecurityContextConstraints", "RoleBinding", "ServiceAccount"] {
        assert!(kinds.contains(&kind), "{kind} of {kinds:?}");
    }
    // Whatever has containers or steps runs rbuild, with privileges that are said to be enough.
    let mut containers = 0;
    for document in &all {
        let spec = &document["spec"];
        for place in [&spec["containers"], &spec["steps"], &document["template"]["spec"]["containers"]] {
            for container in place.as_vec().into_iter().flatten() {
                containers += 1;
                assert!(container["image"].as_str().is_some_and(|image| image.contains("rbuild")), "{container:?}");
                assert!(container["securityContext"]["privileged"].as_bool().is_none(), "{container:?}");
                for mount in container["volumeMounts"].as_vec().into_iter().flatten() {
                    let volumes = if spec["volumes"].is_badvalue() {
                        &document["template"]["spec"]["volumes"]
                    } else {
                        &spec["volumes"]
                    };
                    let named = volumes.as_vec().into_iter().flatten().any(|volume| volume["name"] == mount["name"]);
                    assert!(named, "{mount:?} names no volume");
                }
            }
        }
    }
    assert!(containers >= 5, "{containers} containers");
    for text in blocks(ROOTLESS, "toml") {
        text.parse::<toml::Table>().unwrap_or_else(|e| panic!("{e}:\n{text}"));
    }
}
