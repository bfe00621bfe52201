//! ADD of files from web servers, with a real server on loopback.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::print_stderr, reason = "skip reasons are collected by scripts/test")]
#![allow(missing_docs, unreachable_pub, reason = "a test program")]

mod support;

use std::io::Write as _;

use support::Bench;
use support::web::{Answer, Web};

const MODIFIED: &str = "Sat, 02 Mar 2024 10:00:00 GMT";
const MODIFIED_SECONDS: u64 = 1_709_373_600;

/// A gzipped tar with these files.
fn tar_gz(files: &[(&str, &str)]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let mut tar = tar::Builder::new(Vec::new());
    for (path, text) in files {
        let mut header = tar::Header::new_gnu();
        // Set by hand: the writer refuses hostile names.
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_size(text.len() as u64);
        header.set_mode(0o640);
        header.set_cksum();
        tar.append(&header, text.as_bytes()).unwrap();
    }
    out.write_all(&tar.into_inner().unwrap()).unwrap();
    out.finish().unwrap()
}

#[test]
fn a6_18_a_file_from_a_server() {
    let web = Web::start(|request| {
        let answer = Answer::new(200).with_body("text/plain", format!("this is {}\n", request.path()).into());
        if request.path() == "/dated.txt" { answer.with("Last-Modified", MODIFIED) } else { answer }
    });
    let bench = Bench::new();
    let image = bench.image_of(&format!(
        "FROM scratch\nADD {0} /plain/\nADD --chmod=755 --chown=5:6 {1} /renamed\nADD {0} {1} /both/\nADD {2} {3} /root/\n",
        web.url("/dated.txt?x=1"),
        web.url("/b/undated"),
        web.url("/"),
        web.url("/a-1%2Bb%20c"),
    ));
    let node = image.node("plain/dated.txt");
    assert_eq!((node.mode, node.uid, node.gid, node.mtime), (0o600, 0, 0, MODIFIED_SECONDS));
    assert_eq!(image.text("plain/dated.txt"), "this is /dated.txt\n");
    let node = image.node("renamed");
    assert_eq!((node.mode, node.uid, node.gid, node.mtime), (0o755, 5, 6, 0));
    assert_eq!(image.text("both/undated"), "this is /b/undated\n");
    assert!(image.has("both/dated.txt") && image.has("root/__unnamed__"));
    assert!(image.has("root/a-1+b c"), "what is escaped in a URL is not in the name");
    let history = image.config["history"].to_string();
    assert!(history.contains("ADD http://127.0.0.1"), "{history}");
}

// SPEC A6.18
#[test]
fn a6_18_a_second_build_asks_once_and_downloads_only_what_changed() {
    let tag = std::sync::Arc::new(std::sync::Mutex::new("\"1\"".to_owned()));
    let current = tag.clone();
    let web = Web::start(move |request| {
        let tag = current.lock().unwrap().clone();
        match request.header("if-none-match") {
            Some(known) if known.contains(&tag) => Answer::new(304).with("ETag", tag),
            _ => Answer::new(200).with_body("text/plain", format!("body {tag}").into()).with("ETag", tag),
        }
    });
    let bench = Bench::new();
    bench.dockerfile(&format!("FROM scratch\nADD {} /f\n", web.url("/f")));
    assert_eq!(bench.build_image(&[]).text("f"), "body \"1\"");
    assert_eq!(web.asked(), ["GET /f"]);
    web.forget();
    let again = bench.build(&[]).ok();
    assert_eq!((again.count("CACHED"), web.asked()), (1, vec!["HEAD /f".to_owned()]), "{}", again.stderr);
    *tag.lock().unwrap() = "\"2\"".into();
    web.forget();
    assert_eq!(bench.build_image(&[]).text("f"), "body \"2\"");
    assert_eq!(web.asked(), ["HEAD /f", "GET /f"]);
    // Two tags are known now: either of them is the same as before.
    *tag.lock().unwrap() = "\"1\"".into();
    web.forget();
    assert_eq!(bench.build_image(&[]).text("f"), "body \"1\"");
    assert_eq!(web.asked(), ["HEAD /f"]);
}

#[test]
fn a6_19_checksums() {
    let web = Web::file("content", &[]);
    let right = rbuild::base::Digest::sha256(b"content").to_string();
    let wrong = rbuild::base::Digest::sha256(b"other").to_string();
    let bench = Bench::new();
    let add = |checksum: &str| format!("FROM scratch\nADD --checksum={checksum} {} /f\n", web.url("/f"));
    bench.dockerfile(&add(&wrong));
    bench.build(&[]).fails(4, &["digest mismatch for", &right, &format!("(expected: {wrong})"), "Dockerfile:2"]);
    assert_eq!(bench.image_of(&add(&right)).text("f"), "content");
    web.forget();
    bench.build(&[]).ok();
    assert!(web.asked().is_empty(), "a known checksum needs no network: {:?}", web.asked());
    for (dockerfile, error) in [
        (add("sha256:12"), "invalid checksum"),
        (format!("FROM scratch\nADD --checksum={right} a /\n"), "checksum requires HTTP(S) or Git sources"),
        (
            format!("FROM scratch\nADD --checksum={right} {} a /b/\n", web.url("/f")),
            "checksum can't be specified for multiple sources",
        ),
        (format!("FROM scratch\nCOPY {} /f\n", web.url("/f")), "source can't be a URL for COPY"),
    ] {
        bench.dockerfile(&dockerfile);
        bench.build(&[]).fails(4, &[error]);
    }
}

#[test]
fn n2_03_archives_of_servers_are_unpacked_on_request_only() {
    let body = tar_gz(&[("in/file", "text")]);
    let sent = body.clone();
    let web = Web::start(move |_| Answer::new(200).with_body("application/gzip", sent.clone()));
    let bench = Bench::new();
    let url = web.url("/a.tar.gz");
    let image =
        bench.image_of(&format!("FROM scratch\nADD {url} /packed/\nADD --unpack=true --chown=7:8 {url} /unpacked/\n"));
    assert_eq!(image.node("packed/a.tar.gz").content, body);
    let node = image.node("unpacked/in/file");
    assert_eq!((node.content.as_slice(), node.mode, node.uid, node.gid), (&b"text"[..], 0o640, 7, 8));
}

// SPEC A6.18
#[test]
fn an_archive_that_wants_to_escape_does_not() {
    let web = Web::start(|_| {
        Answer::new(200).with_body("application/gzip", tar_gz(&[("../../escaped", "x"), ("/absolute", "y")]))
    });
    let bench = Bench::new();
    bench.dockerfile(&format!("FROM scratch\nADD --unpack=true {} /in/\n", web.url("/a.tgz")));
    let run = bench.build(&["-o", &format!("type=local,dest={}", bench.path("out/tree").display())]);
    assert!(!bench.path("escaped").exists() && !bench.path("out/escaped").exists(), "{}", run.stderr);
    assert!(!std::path::Path::new("/absolute").exists());
}

// SPEC A6.20
#[test]
fn a6_20_tokens_reach_the_server_and_nothing_else() {
    let web = Web::start(|request| match request.header("authorization") {
        Some("Bearer s3cr3t-t0ken") => Answer::new(200).with_body("text/plain", b"private".to_vec()),
        _ => Answer::new(401),
    });
    let mut bench = Bench::new();
    bench.dockerfile(&format!("FROM scratch\nADD {} /f\n", web.url("/f")));
    bench.build(&[]).fails(6, &["invalid response status 401", "hint:", "HTTP_AUTH_TOKEN_127.0.0.1"]);
    bench.env.push(("TOKEN".into(), "s3cr3t-t0ken".into()));
    let tar = format!("type=oci,dest={}", bench.path("i.tar").display());
    let run = bench.build(&["--secret", "id=HTTP_AUTH_TOKEN_127.0.0.1,env=TOKEN", "-o", &tar]).ok();
    assert!(!run.stderr.contains("s3cr3t"), "{}", run.stderr);
    for entry in walkdir::WalkDir::new(bench.store()).into_iter().flatten().filter(|e| e.file_type().is_file()) {
        let bytes = std::fs::read(entry.path()).unwrap_or_default();
        assert!(!bytes.windows(12).any(|w| w == b"s3cr3t-t0ken"), "the token is in {}", entry.path().display());
    }
}

// SPEC A6.18, C2.05
#[test]
fn errors_of_servers_name_the_instruction() {
    let bench = Bench::new();
    bench.dockerfile("FROM scratch\nADD http://127.0.0.1:1/f /f\n");
    bench.build(&[]).fails(7, &["failed to load http://127.0.0.1:1/f", "Dockerfile:2", "hint:"]);
    let web = Web::start(|_| Answer::new(404));
    bench.dockerfile(&format!("FROM scratch\nADD {} /f\n", web.url("/f")));
    bench.build(&[]).fails(5, &["invalid response status 404 Not Found", "Dockerfile:2"]);
}

#[test]
fn c1_09_link_and_exclude_apply_to_remote_sources() {
    let web = Web::file("x", &[]);
    let bench = Bench::new();
    let image = bench.image_of(&format!("FROM scratch\nCOPY Dockerfile /d/\nADD --link {} /d/f\n", web.url("/f")));
    assert_eq!(image.top(), ["d", "d/f"]);
    assert_eq!(image.text("d/f"), "x");
}
