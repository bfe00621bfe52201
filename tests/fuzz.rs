//! The targets of `fuzz/`, driven by mutations of good inputs: the same ones in every run, more of them in the long tier.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::print_stderr, reason = "what was done is said")]
#![allow(missing_docs, unreachable_pub, reason = "a test program")]

#[path = "../src/base/mutation.rs"]
mod mutation;
#[path = "../fuzz/src/targets.rs"]
mod targets;

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Shows a target its seeds and mutations of them; an input that it does not survive is shown.
fn drive(name: &str, seeds: &[&[u8]], rounds: u32) {
    let (_, target) = targets::TARGETS.iter().find(|target| target.0 == name).expect("a target of this name");
    let long = std::env::var("RBUILD_TEST_LONG").is_ok_and(|v| !v.is_empty());
    let rounds = if long { rounds * 30 } else { rounds };
    let mut seen = 0_u32;
    mutation::each(seeds, rounds, |bytes| {
        seen += 1;
        if catch_unwind(AssertUnwindSafe(|| target(bytes))).is_err() {
            panic!("{name} does not survive input {seen}: \"{}\"", bytes.escape_ascii());
        }
    });
    eprintln!("fuzz: {name}: {seen} inputs");
}

#[test]
fn every_target_is_one_of_cargo_fuzz_and_driven_here() {
    let (here, manifest) = (include_str!("fuzz.rs"), include_str!("../fuzz/Cargo.toml"));
    for (name, _) in targets::TARGETS {
        assert!(
            here.contains(&format!("drive(\"{name}\"")) || here.contains(&format!("drive(\n        \"{name}\"")),
            "{name}"
        );
        assert!(manifest.contains(&format!("name = \"{name}\"\npath = \"fuzz_targets/{name}.rs\"")), "{name}");
    }
}

const DOCKERFILES: &[&[u8]] = &[
    b"# syntax=docker/dockerfile:1\n# check=skip=all\n# escape=\\\nARG V=1\nFROM busybox:${V} AS a\nRUN --mount=type=cache,target=/c,id=x \\\n  echo a && \\\n# comment\n  echo b\nCOPY --from=a --chmod=755 [\"x y\", \"/z\"]\n",
    b"FROM scratch\nCOPY <<-\"E\" <<F /d/\n\ta $b\n\tE\nf\nF\nRUN <<EOF sh\nset -e\nEOF\nHEALTHCHECK --interval=5s CMD [\"a\"]\nONBUILD ADD --checksum=sha256:00 http://a/b /c\n",
    b"FROM a\nENV A=\"b c\" D='e' F=g\\ h\nLABEL a=b \"c d\"=e\nEXPOSE 80/tcp 90-99\nVOLUME [\"/a\"]\nUSER a:b\nWORKDIR /x\nSTOPSIGNAL 9\nSHELL [\"sh\",\"-c\"]\nENTRYPOINT a b\nMAINTAINER x\n",
];

#[test]
fn dockerfiles() {
    drive("lexer", DOCKERFILES, 12_000);
    drive("parser", DOCKERFILES, 6_000);
}

#[test]
fn words_patterns_and_git_references() {
    drive(
        "expansion",
        &[
            b"a$b${c}${d:-e f}${g:+h}${i-j}${k+l}\0v w",
            b"\"$a b\" 'c $d' e\\ f ${g#h*}${i%%j}${k/l/m}${n//o/p}\0x*y",
            b"${a:-${b:+${c:-d}}} ${e:?message} ${f##*/}\0/a/b/c",
        ],
        12_000,
    );
    drive(
        "dockerignore",
        &[
            b"# comment\n*.md\n!README.md\n**/node_modules\n/a/**/b?[c-e]\n\\#x\0a/b\0README.md\0x/node_modules/y",
            b"*\n!src/**\nsrc/[^a]*\n./x/../y\n\0src/a\0src/b/c\0y",
        ],
        12_000,
    );
    drive(
        "gitref",
        &[
            b"https://github.com/a/b.git#main:sub/dir",
            b"git@github.com:a/b.git#refs/heads/x",
            b"https://a.example/b.git?ref=v1&subdir=c/d&keep-git-dir=1&checksum=0123456789abcdef&submodules=false",
            b"ssh://git@a:22/b#:../..",
        ],
        12_000,
    );
}

/// An archive with entries of every kind.
fn archive() -> Vec<u8> {
    use tar::EntryType::{Block, Char, Directory, Fifo, GNUSparse, Link, Regular, Symlink};
    let mut out = tar::Builder::new(Vec::new());
    for (name, kind, link, content) in [
        ("d", Directory, "", &b""[..]),
        ("d/f", Regular, "", &[7; 700]),
        ("l", Symlink, "../outside", b""),
        ("l/g", Regular, "", b"evil"),
        ("planted/h", Regular, "", b"evil"),
        ("h", Link, "d/f", b""),
        ("h2", Link, "planted/canary", b""),
        ("d/.wh.f", Regular, "", b""),
        ("planted/.wh..wh..opq", Regular, "", b""),
        ("c", Char, "", b""),
        ("b", Block, "", b""),
        ("p", Fifo, "", b""),
        ("s", GNUSparse, "", b""),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        header.set_mode(0o755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1);
        if !link.is_empty() {
            header.set_link_name_literal(link).unwrap();
        }
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        out.append(&header, content).unwrap();
    }
    out.append_pax_extensions([
        ("path", &b"long/name"[..]),
        ("SCHILY.xattr.user.overlay.opaque", b"y"),
        ("size", b"3"),
    ])
    .unwrap();
    let mut header = tar::Header::new_ustar();
    header.set_size(3);
    header.set_mode(0o4755);
    header.set_path("short").unwrap();
    header.set_cksum();
    out.append(&header, &b"abc"[..]).unwrap();
    out.into_inner().unwrap()
}

#[test]
fn archives() {
    use std::io::Write as _;
    let plain = archive();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(&plain).unwrap();
    let (gzip, zstd) = (gzip.finish().unwrap(), zstd::encode_all(&plain[..], 3).unwrap());
    // Most are not compressed: a damaged stream ends soon.
    drive("tar", &[&plain, &plain, &plain, &gzip, &zstd], 800);
}

#[test]
fn documents_of_images() {
    let digest = format!("sha256:{}", "0123456789abcdef".repeat(4));
    let layer = format!(
        r#"{{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"{digest}","size":1,"annotations":{{"a":"b"}},"platform":{{"os":"linux","architecture":"arm","variant":"v7"}}}}"#
    );
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{layer},"layers":[{layer},{layer}],"subject":{layer}}}"#
    );
    let index = format!(r#"{{"schemaVersion":2,"manifests":[{layer}],"annotations":{{"x":"y"}}}}"#);
    let config = format!(
        r#"{{"created":"2025-01-01T00:00:00Z","architecture":"amd64","os":"linux","variant":"v8","config":{{"Env":["A=b"],"Cmd":["x"],
           "ExposedPorts":{{"80/tcp":{{}}}},"Healthcheck":{{"Test":["NONE"],"Interval":1}},"Labels":{{"l":"v"}},"Volumes":{{"/v":{{}}}}}},
           "rootfs":{{"type":"layers","diff_ids":["{digest}"]}},"history":[{{"created_by":"x","empty_layer":true}}]}}"#
    );
    let reference = format!("registry.example:5000/a/b.c__d:v1@{digest}");
    drive("image", &[manifest.as_bytes(), index.as_bytes(), config.as_bytes(), reference.as_bytes()], 10_000);
}

#[test]
fn answers_of_registries() {
    drive(
        "registry",
        &[
            br#"Bearer realm="https://auth.example/token",service="registry.example",scope="repository:a/b:pull,push""#,
            br#"Basic realm="x \" y", Bearer realm=https://a/b , error="insufficient_scope""#,
            br#"{"token":"t","access_token":"u","expires_in":300,"issued_at":"2025-01-01T00:00:00Z"}"#,
            br#"{"token":"t","expires_in":18446744073709551615}"#,
            br#"{"errors":[{"code":"DENIED","message":"no \u001b[31maccess\n","detail":{}},{"code":"NAME_UNKNOWN"}]}"#,
            br#"{"details":"incorrect"}"#,
            br#"</v2/a/b/referrers/x?n=2&last=y>; rel="next""#,
            br#"<https://elsewhere.example/v2/a/b/../../../x?y=..>; rel="next""#,
        ],
        20_000,
    );
}
