//! Registries whose answers fit together, but for one of them: the wrong bytes, too many, or directions to where nobody should go.

use std::sync::{Arc, Mutex};

use super::support::Bench;
use super::support::web::{Answer, Reply, Request, Web};
use super::{raw_tar, table};

/// The image that an honest registry would have.
struct Image {
    layer: Vec<u8>,
    config: Vec<u8>,
    manifest: Vec<u8>,
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

fn digest(bytes: &[u8]) -> String {
    rbuild::base::Digest::sha256(bytes).to_string()
}

impl Image {
    fn new(config: Option<String>, layers: usize) -> Self {
        let layer = raw_tar(&[("f", tar::EntryType::Regular, "", b"fine")]);
        let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let honest = serde_json::json!({
            "architecture": arch, "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]}
        });
        let config = config.unwrap_or_else(|| honest.to_string()).into_bytes();
        let described = |kind: &str, bytes: &[u8]| {
            format!(
                r#"{{"mediaType":"application/vnd.oci.image.{kind}","digest":"{}","size":{}}}"#,
                digest(bytes),
                bytes.len()
            )
        };
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{},"layers":[{}]}}"#,
            described("config.v1+json", &config),
            vec![described("layer.v1.tar", &layer); layers].join(",")
        );
        Self { layer, config, manifest: manifest.into_bytes() }
    }

    /// What an honest registry answers.
    fn answer(&self, path: &str) -> Answer {
        let blob = |bytes: &[u8]| Answer::new(200).with_body("application/octet-stream", bytes.to_vec());
        match path {
            path if path.ends_with(&digest(&self.config)) => blob(&self.config),
            path if path.ends_with(&digest(&self.layer)) => blob(&self.layer),
            path if path.contains("/manifests/") => Answer::new(200).with_body(MANIFEST, self.manifest.clone()),
            "/v2/" => Answer::new(200).with_body("application/json", b"{}".to_vec()),
            _ => Answer::new(404),
        }
    }
}

fn redirect(place: &str) -> Answer {
    Answer::new(307).with("Location", place)
}

fn bearer(realm: &str) -> Answer {
    Answer::new(401).with("WWW-Authenticate", format!("Bearer realm=\"{realm}\",service=\"x\""))
}

fn token(text: &str) -> Answer {
    Answer::new(200).with_body("application/json", text.as_bytes().to_vec())
}

/// What a lie needs to know.
struct Scene {
    image: Image,
    layer: String,
    config: String,
    /// Another server, which has credentials of its own.
    other: String,
    own: Mutex<String>,
}

type Lie = fn(&Scene, &Request) -> Option<Reply>;

/// A lie, and what rbuild says about it; nothing where the build must work nonetheless.
const LIES: &[(&str, Lie, &str)] = &[
    (
        "a manifest of another digest",
        |_, r| {
            r.path().contains("/manifests/sha256:").then(|| Answer::new(200).with_body(MANIFEST, b"{}".to_vec()).into())
        },
        "is corrupt: expected sha256:",
    ),
    (
        "a layer of another digest",
        |s, r| {
            r.path().ends_with(&s.layer).then(|| {
                let mut bytes = s.image.layer.clone();
                bytes[520] ^= 1;
                Answer::new(200).with_body("application/octet-stream", bytes).into()
            })
        },
        "is corrupt: expected sha256:",
    ),
    (
        "a config of another digest",
        |s, r| {
            r.path().ends_with(&s.config).then(|| {
                let bytes = vec![b' '; s.image.config.len()];
                Answer::new(200).with_body("application/octet-stream", bytes).into()
            })
        },
        "is corrupt: expected sha256:",
    ),
    (
        "a layer larger than announced",
        |s, r| {
            r.path()
                .ends_with(&s.layer)
                .then(|| Answer::new(200).with_body("application/octet-stream", vec![0; 4 << 20]).into())
        },
        "",
    ),
    ("a layer that never ends", |s, r| r.path().ends_with(&s.layer).then_some(Reply::Endless), ""),
    ("a config that never ends", |s, r| r.path().ends_with(&s.config).then_some(Reply::Endless), ""),
    ("a manifest that never ends", |_, r| r.path().contains("/manifests/").then_some(Reply::Endless), ""),
    (
        "a layer at the metadata service",
        |s, r| r.path().ends_with(&s.layer).then(|| redirect("http://169.254.169.254/latest/meta-data/").into()),
        "link-local address 169.254.169.254",
    ),
    (
        "a layer at the metadata service, by name",
        |s, r| r.path().ends_with(&s.layer).then(|| redirect("http://metadata.google.internal/x").into()),
        "metadata.google.internal",
    ),
    ("a layer in a file", |s, r| r.path().ends_with(&s.layer).then(|| redirect("file:///etc/passwd").into()), "file"),
    ("a token server of another scheme", |_, _| Some(bearer("ftp://127.0.0.1/token").into()), "not an http URL"),
    ("a token server that is another registry", |s, _| Some(bearer(&format!("http://{}/token", s.other)).into()), ""),
    (
        "a redirect to another registry, with a password",
        |s, r| match r.header("authorization") {
            Some(_) => Some(redirect(&format!("http://{}/v2/x/manifests/latest", s.other)).into()),
            None => Some(Answer::new(401).with("WWW-Authenticate", "Basic realm=\"x\"").into()),
        },
        "",
    ),
    (
        "a token with a line break",
        |s, r| match r.path() {
            path if path.starts_with("/token") => Some(token("{\"token\":\"a\\r\\nX-Evil: yes\"}").into()),
            _ => Some(bearer(&format!("http://{}/token", s.own.lock().unwrap())).into()),
        },
        "",
    ),
    (
        "a token that lives for ever",
        |s, r| match (r.path(), r.header("authorization")) {
            (path, _) if path.starts_with("/token") => {
                Some(token("{\"token\":\"t\",\"expires_in\":18446744073709551615}").into())
            }
            (_, Some("Bearer t")) => None,
            _ => Some(bearer(&format!("http://{}/token", s.own.lock().unwrap())).into()),
        },
        "works",
    ),
    (
        "a challenge without end",
        |_, _| Some(Answer::new(401).with("WWW-Authenticate", "Bearer realm=\"".repeat(4_000)).into()),
        "",
    ),
];

/// Images that are bombs by themselves.
fn bombs() -> Vec<(&'static str, Image)> {
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let history = format!(
        r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":[]}},"history":[{}]}}"#,
        vec!["{}"; 1_000_000].join(",")
    );
    vec![
        ("a config of deep JSON", Image::new(Some(deep), 1)),
        ("a config with a million steps", Image::new(Some(history), 1)),
        ("a manifest with very many layers", Image::new(None, 20_000)),
    ]
}

#[test]
fn registries_that_lie_about_one_thing() {
    let mut names: Vec<&str> = LIES.iter().map(|lie| lie.0).collect();
    let bombs = bombs();
    names.extend(bombs.iter().map(|bomb| bomb.0));
    assert_eq!(names, table::LIES, "the table of cases");
    std::thread::scope(|scope| {
        for (at, (name, lie, said)) in LIES.iter().enumerate() {
            scope.spawn(move || one(name, Image::new(None, 1), *lie, said, at == 0));
        }
        for (name, image) in bombs {
            scope.spawn(move || one(name, image, |_, _| None, "", false));
        }
    });
}

fn one(name: &str, image: Image, lie: Lie, said: &str, by_digest: bool) {
    let reference = if by_digest { format!("x@{}", digest(&image.manifest)) } else { "x".into() };
    let other = Web::start(|_: &Request| Answer::new(401).with("WWW-Authenticate", "Basic realm=\"x\""));
    let scene = Arc::new(Scene {
        layer: digest(&image.layer),
        config: digest(&image.config),
        other: other.host.clone(),
        own: Mutex::default(),
        image,
    });
    let shared = Arc::clone(&scene);
    let web = Web::start(move |request: &Request| {
        lie(&shared, request).unwrap_or_else(|| shared.image.answer(request.path()).into())
    });
    web.host.clone_into(&mut scene.own.lock().unwrap());
    let bench = Bench::new();
    std::fs::create_dir_all(bench.path("home/.docker")).unwrap();
    // mine:own and other:else
    let auths = format!(
        r#"{{"auths":{{"{}":{{"auth":"bWluZTpvd24="}},"{}":{{"auth":"b3RoZXI6ZWxzZQ=="}}}}}}"#,
        web.host, other.host
    );
    std::fs::write(bench.path("home/.docker/config.json"), auths).unwrap();
    bench.dockerfile(&format!("FROM {}/{reference}\nCOPY Dockerfile /d\n", web.host));
    let run = bench.build(&["-o", &format!("type=tar,dest={}", bench.path("out.tar").display())]);
    if said == "works" {
        run.ok();
        return;
    }
    assert!(![0, 70, 101, 134, 139, -1].contains(&run.code), "{name}: exit code {}: {}", run.code, run.stderr);
    assert!(!run.stderr.contains("panicked") && run.stderr.contains("error: "), "{name}: {}", run.stderr);
    assert!(run.stderr.contains(said), "{name}: {}", run.stderr);
    assert!(!run.stderr.contains("root:x:0"), "{name}: {}", run.stderr);
    for secret in ["bWluZTpvd24", "b3RoZXI6ZWxzZQ", "other:else"] {
        assert!(!run.stderr.contains(secret), "{name}: {}", run.stderr);
    }
    for request in web.requests() {
        assert!(request.header("x-evil").is_none(), "{name}: a header came out of a token");
        assert_ne!(
            request.header("authorization"),
            Some("Basic b3RoZXI6ZWxzZQ=="),
            "{name}: another server's password"
        );
    }
    for request in other.requests() {
        let sent = request.header("authorization").unwrap_or_default();
        assert!(!sent.contains("b3RoZXI6ZWxzZQ"), "{name}: a password went where nobody asked for it");
        if name.starts_with("a redirect") {
            assert_eq!(sent, "", "{name}: the password went along");
        }
    }
}

/// What a Dockerfile fetches is not what the machine's cloud tells the machine: by address, by redirect, or by a name that
/// somebody lets lead there.
#[test]
fn metadata_services_are_not_for_builds() {
    let bench = Bench::new();
    let web = Web::start(|_: &Request| redirect("http://169.254.169.254/latest/meta-data/"));
    let wrong = "the metadata service of a cloud is not for builds";
    for (url, said) in [
        ("http://169.254.169.254/latest/meta-data/".to_owned(), wrong),
        ("http://[fd00:ec2::254]/latest/".to_owned(), wrong),
        ("http://metadata.google.internal/computeMetadata/v1/".to_owned(), wrong),
        (web.url("/x"), "redirect to the link-local address http://169.254.169.254/latest/meta-data/"),
    ] {
        bench.dockerfile(&format!("FROM scratch\nADD {url} /f\n"));
        let run = bench.build(&[]);
        assert!(![0, 70].contains(&run.code) && run.stderr.contains(said), "{url}: {}", run.stderr);
    }
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: a name that leads to a metadata service (a hosts file of one's own needs root)");
        return;
    }
    std::fs::write(bench.path("hosts"), "127.0.0.1 localhost\n169.254.169.254 evil.example\n").unwrap();
    for instructions in ["FROM scratch\nADD http://evil.example/x /f\n", "FROM evil.example/x\nCOPY Dockerfile /f\n"] {
        bench.dockerfile(instructions);
        let script = format!(
            "mount --bind {} /etc/hosts || exit 99; exec {} --root {} build --progress plain {}",
            bench.path("hosts").display(),
            super::support::rbuild_path().display(),
            bench.path("store-of-hosts").display(),
            bench.ctx().display()
        );
        let output = std::process::Command::new("unshare").args(["-m", "sh", "-c", &script]).output().unwrap();
        let run = super::support::finish(output);
        if run.code == 99 {
            eprintln!("skipped: a name that leads to a metadata service (nothing can be mounted here)");
            return;
        }
        let said = "evil.example leads to 169.254.169.254, the metadata service of a cloud";
        assert!(run.code != 0 && run.stderr.contains(said), "{instructions}: {}", run.stderr);
    }
}
