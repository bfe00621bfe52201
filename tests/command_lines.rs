//! Command lines as they stand in workflows, pipelines, Makefiles and documentation, with `rbuild` in place of `docker`: what
//! they say goes where it says, and they end as they end there (SPEC B1.01, B2, B3).
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::print_stderr, reason = "skip reasons are collected by scripts/test")]
#![allow(missing_docs, unreachable_pub, reason = "a test program")]

#[path = "support/fake_registry/mod.rs"]
mod fake_registry;
mod support;

use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::process::Command;

use fake_registry::FakeRegistry;
use serde_json::Value;
use support::{Bench, rbuild_path};

/// What has to be so afterwards.
enum After {
    /// The registry has this name.
    Pushed(&'static str),
    /// The index that the registry has under this name has so many images.
    Index(&'static str, usize),
    /// The store has this name.
    Kept(&'static str),
    /// There is such a file, relative to the context.
    File(&'static str),
    /// The file holds JSON with these keys.
    Keys(&'static str, &'static [&'static str]),
    /// Standard output begins so.
    Says(&'static str),
    /// The image ID alone is printed.
    Id,
    /// It ends with this code, naming this.
    Refused(u8, &'static str),
}
use After::{File, Id, Index, Kept, Keys, Pushed, Refused, Says};

/// `HOST` is a registry; the context is the current directory.
#[rustfmt::skip]
const LINES: &[(&str, &[After])] = &[
    // docker/setup-buildx-action and docker/build-push-action
    ("docker buildx version", &[Says("github.com/docker/buildx v0.")]),
    ("docker buildx create --name builder-8a2c --driver docker-container --buildkitd-flags --allow-insecure-entitlement=network.host --use", &[Says("builder-8a2c\n")]),
    ("docker buildx inspect --bootstrap --builder builder-8a2c", &[Says("Name:")]),
    ("docker buildx build --iidfile out/iid --tag HOST/gha:1 --tag HOST/gha:latest --metadata-file out/gha.json --push .",
        &[Pushed("gha:1"), Pushed("gha:latest"), File("out/iid"), Keys("out/gha.json", &["buildx.build.provenance", "containerimage.digest", "containerimage.descriptor", "image.name", "buildx.build.ref"])]),
    ("docker buildx build --builder builder-8a2c --cache-from type=registry,ref=HOST/gha:cache --cache-to type=registry,ref=HOST/gha:cache,mode=max --file Dockerfile --label org.opencontainers.image.revision=abc --platform linux/amd64,linux/arm64 --provenance false --sbom=false --secret id=GIT_AUTH_TOKEN,src=token --tag HOST/multi:1 --metadata-file out/multi.json --push .",
        &[Index("multi:1", 2), Pushed("gha:cache"), Keys("out/multi.json", &["cache.manifest", "containerimage.digest", "image.name"])]),
    ("docker buildx build --platform linux/amd64 --output type=image,name=HOST/bydigest,push-by-digest=true,name-canonical=true,push=true --metadata-file out/d.json .", &[Keys("out/d.json", &["containerimage.digest"])]),
    ("docker buildx build --output type=docker,dest=out/image.tar --tag myimage:latest .", &[File("out/image.tar")]),
    ("docker buildx build --annotation manifest:org.opencontainers.image.title=x --attest type=provenance,disabled=true --push --tag HOST/annotated:1 .", &[Pushed("annotated:1")]),
    ("docker buildx build --cache-from type=local,src=out/cache --cache-to type=local,dest=out/cache,mode=max --load --tag app:ci .", &[File("out/cache/index.json"), Kept("app")]),
    ("docker buildx --builder builder-8a2c build -q .", &[Id]),
    ("docker buildx --builder=builder-8a2c inspect --bootstrap --timeout 20s", &[Says("Name:          builder-8a2c")]),
    ("docker buildx history inspect --builder builder-8a2c --format {{.Status}}", &[Says("completed")]),
    ("docker buildx --builder builder-8a2c history export -o out/record.dockerbuild", &[File("out/record.dockerbuild")]),
    ("docker buildx rm builder-8a2c", &[]),
    // GitLab
    ("docker build --pull -t HOST/group/project:main .", &[Kept("group/project")]),
    ("docker build --cache-from HOST/group/project:latest --build-arg BUILDKIT_INLINE_CACHE=1 -t HOST/group/project:sha -t HOST/group/project:latest .", &[Kept("group/project")]),
    ("docker push HOST/group/project:sha", &[Pushed("group/project:sha")]),
    ("docker buildx build --push --provenance=false --cache-to type=inline --tag=HOST/inline:1 --progress=plain .", &[Pushed("inline:1")]),
    // Makefiles and scripts
    ("docker buildx create --use", &[Says("rbuild")]),
    ("docker buildx create --name container --driver=docker-container --use --bootstrap", &[Says("container\n")]),
    ("docker buildx create --name arm --node arm0 --config buildkitd.toml --use", &[Says("arm\n"), File("../home/.config/rbuild/buildkitd.toml")]),
    ("docker buildx use arm", &[]),
    ("docker buildx ls", &[Says("NAME/NODE")]),
    ("docker buildx build --platform linux/amd64,linux/arm64/v8 --output=type=image,push=true --tag HOST/node .", &[Index("node:latest", 4)]),
    ("docker buildx build --no-cache --progress=plain --push --platform linux/amd64,linux/arm64 --rm -t HOST/ap:3.7 -t HOST/ap:latest .", &[Index("ap:3.7", 4), Index("ap:latest", 4)]),
    ("docker buildx build . -t HOST/ctx-first:1 --build-arg BUILDKIT_CONTEXT_KEEP_GIT_DIR=1 --push", &[Pushed("ctx-first:1")]),
    ("docker buildx build -f Dockerfile --iidfile=out/img --load --tag kind .", &[File("out/img"), Kept("kind")]),
    ("docker buildx build --load --metadata-file out/raw -t ghcr.example/x:dev .", &[Keys("out/raw", &["containerimage.digest"]), Kept("ghcr.example/x")]),
    ("docker build --build-arg A=1 --build-arg=B --file ./Dockerfile --output . .", &[File("f")]),
    ("docker build --target=export --progress=plain --output type=local,dest=out/ .", &[File("out/f")]),
    ("docker buildx build --progress=plain --target export --output type=tar,dest=out/files.tar .", &[File("out/files.tar")]),
    ("docker build -q .", &[Id]),
    ("docker build --quiet --no-cache --force-rm=true -t quiet .", &[Id, Kept("quiet")]),
    ("docker image build --compress -t squashed --squash .", &[Kept("squashed")]),
    ("docker builder build -t builder-build --network=host --add-host=db:10.0.0.1 --shm-size=1g --ulimit nofile=1024:1024 .", &[Kept("builder-build")]),
    ("docker build -t HOST/named/context:1 --build-context other=docker-image://HOST/gha:1 --push --label a=b --label=c .", &[Pushed("named/context:1")]),
    ("docker build --secret id=token,src=token --secret=id=HOME,env=HOME -t secrets .", &[Kept("secrets")]),
    ("docker buildx build --output type=oci,dest=out/oci.tar,compression=zstd,compression-level=3,force-compression=true --tag HOST/oci:1 .", &[File("out/oci.tar")]),
    ("docker buildx build --output type=registry,name=HOST/registry:1,oci-mediatypes=false --platform=linux/amd64 .", &[Pushed("registry:1")]),
    ("docker buildx build --output=type=image,\"name=HOST/many:1,HOST/many:2\",push=true .", &[Pushed("many:1"), Pushed("many:2")]),
    ("docker buildx build --output type=cacheonly .", &[]),
    ("docker buildx build --check .", &[Says("Check complete, no warnings found.")]),
    ("docker buildx build --call=targets .", &[Says("TARGET")]),
    ("docker buildx du", &[]),
    ("docker buildx du --builder container --timeout 20s", &[]),
    ("docker buildx ls --format {{.Name}}", &[Says("rbuild\n")]),
    ("docker buildx help build", &[Says("Build an image")]),
    ("docker images --filter reference=quiet --format {{.Repository}}:{{.Tag}}", &[Says("quiet:latest\n")]),
    ("docker images --filter label=a --filter before=quiet --filter since=quiet --format {{.Tag}}", &[]),
    ("docker images --filter label=a --filter reference=quiet --format {{.Repository}}", &[Says("quiet\n")]),
    ("docker images -q quiet", &[Says("sha256:")]),
    ("docker image inspect --format {{.Config.Labels}} quiet", &[Says("map[a:]\n")]),
    ("docker save -o - quiet", &[Says("blobs/")]),
    ("docker rmi -f never-built", &[]),
    ("docker system df", &[]),
    ("docker buildx prune --all --force --filter until=24h", &[]),
    ("docker builder prune -f --keep-storage 10GB", &[]),
    ("docker images", &[Says("REPOSITORY")]),
    ("docker tag quiet HOST/tagged:1", &[]),
    ("docker push HOST/tagged:1", &[Pushed("tagged:1")]),
    ("docker pull HOST/gha:1", &[]),
    ("docker buildx imagetools create -t HOST/again:1 HOST/gha:1", &[Pushed("again:1")]),
    ("docker buildx imagetools inspect HOST/again:1", &[Says("Name: ")]),
    ("docker image inspect quiet", &[Says("[")]),
    ("docker save -o out/saved.tar quiet", &[File("out/saved.tar")]),
    ("docker load -i out/saved.tar", &[]),
    ("docker login -u me -p pw HOST", &[Says("Login Succeeded")]),
    ("docker logout HOST", &[]),
    // What is refused says so, by name.
    ("docker image prune -f", &[Refused(2, "image prune")]),
    ("docker buildx history open", &[Refused(2, "Docker Desktop")]),
    ("docker images --filter labels=x", &[Refused(2, "did you mean label?")]),
    ("docker save -o out quiet", &[Refused(2, "is a directory")]),
    ("docker buildx bake --push", &[Refused(4, "bake definition")]),
    ("docker buildx build --push .", &[Refused(2, "tag is needed when pushing to registry")]),
    ("docker buildx build -t x", &[Refused(2, "context")]),
    ("docker buildx build -t x nowhere", &[Refused(2, "nowhere")]),
    ("docker build -f missing.Dockerfile .", &[Refused(4, "missing.Dockerfile")]),
];

/// A line's words, as a shell would hand them on.
fn words(line: &str, host: &str) -> Vec<String> {
    line.replace("HOST", host).split(' ').skip(1).map(ToOwned::to_owned).collect()
}

fn check(
    bench: &Bench,
    registry: &FakeRegistry,
    line: &str,
    after: &After,
    code: u8,
    out: &str,
    err: &str,
) -> Result<(), String> {
    let tagged = |name: &str| {
        let (repository, tag) = name.rsplit_once(':').unwrap();
        let state = registry.state();
        let found = state.repositories.get(repository)?;
        Some(found.manifests[found.tags.get(tag)?].1.clone())
    };
    let good = match after {
        Pushed(name) => tagged(name).is_some(),
        Index(name, count) => tagged(name)
            .and_then(|bytes| {
                Some(serde_json::from_slice::<Value>(&bytes).ok()?["manifests"].as_array()?.len() == *count)
            })
            .unwrap_or(false),
        Kept(name) => {
            let mut images = Command::new(rbuild_path());
            let images =
                images.args(["images", "--format", "{{.Repository}}"]).env("XDG_DATA_HOME", bench.path("data"));
            String::from_utf8_lossy(&images.output().unwrap().stdout).lines().any(|line| line.ends_with(name))
        }
        File(name) => bench.ctx().join(name).is_file(),
        Keys(name, keys) => {
            let value: Value =
                serde_json::from_slice(&std::fs::read(bench.ctx().join(name)).unwrap_or_default()).unwrap_or_default();
            keys.iter().all(|key| value.get(key).is_some())
        }
        Says(text) => out.starts_with(text),
        Id => out.starts_with("sha256:") && out.len() == "sha256:".len() + 64 + 1 && err.is_empty(),
        Refused(expected, text) => code == *expected && err.contains(text),
    };
    let expected = match after {
        Refused(code, _) => *code,
        _ => 0,
    };
    if good && code == expected { Ok(()) } else { Err(format!("{line}\n  ended with {code}\n  {out}\n  {err}")) }
}

/// Runs them all, with another beginning of the command.
fn run_all(start: impl Fn(&[String]) -> Option<Command>) {
    if ["/var/run/docker.sock", "/run/podman/podman.sock"].iter().any(|path| UnixStream::connect(path).is_ok()) {
        skip!("an engine listens on this machine: images would be loaded there");
    }
    let registry = FakeRegistry::start();
    let bench = Bench::new();
    bench.file("f", "x").file("token", "t").file("buildkitd.toml", "[worker.oci]\nmax-parallelism = 4\n");
    bench.dockerfile("FROM scratch AS export\nARG A\nARG B\nCOPY f /f\nFROM export\nLABEL a=$A\n");
    std::fs::create_dir(bench.ctx().join("out")).unwrap();
    let mut wrong = Vec::new();
    for (line, expected) in LINES {
        let Some(mut command) = start(&words(line, &registry.host())) else { continue };
        command
            .current_dir(bench.ctx())
            .env("HOME", bench.path("home"))
            .env("XDG_CONFIG_HOME", bench.path("home/.config"));
        command
            .env_remove("DOCKER_CONFIG")
            .env("DOCKER_HOST", "")
            .env("NO_COLOR", "1")
            .stdin(std::process::Stdio::null());
        command.env("XDG_DATA_HOME", bench.path("data"));
        let output = command.output().unwrap();
        let code = output.status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(255);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let after: &[After] = if expected.is_empty() { &[Says("")] } else { expected };
        wrong.extend(after.iter().filter_map(|after| check(&bench, &registry, line, after, code, &out, &err).err()));
    }
    let _ = Command::new(rbuild_path())
        .args(["system", "reset", "--force"])
        .env("XDG_DATA_HOME", bench.path("data"))
        .output();
    assert!(wrong.is_empty(), "{} are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn b1_01_lines_of_workflows_pipelines_and_makefiles() {
    run_all(|words| {
        let mut command = Command::new(rbuild_path());
        command.args(words);
        Some(command)
    });
}

// SPEC B8.14: the same where docker starts us as its plugin.
#[test]
fn b8_14_lines_that_docker_hands_to_its_plugin() {
    let dir = tempfile::tempdir().unwrap();
    let plugin = dir.path().join("docker-buildx");
    symlink(rbuild_path(), &plugin).unwrap();
    run_all(|words| {
        // Docker itself keeps what is not buildx's; `docker build` reaches the plugin as `buildx build`.
        let words: Vec<&str> = match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            ["buildx", rest @ ..] | ["builder", rest @ ..] => [&["buildx"], rest].concat(),
            ["image", "build", rest @ ..] | ["build", rest @ ..] => [&["buildx", "build"], rest].concat(),
            [
                "push" | "pull" | "images" | "tag" | "save" | "load" | "login" | "logout" | "image" | "rmi" | "system",
                ..,
            ] => return None,
            other => other.to_vec(),
        };
        let mut command = Command::new(&plugin);
        command.args(words);
        Some(command)
    });
}
