//! What buildah's words become.

use clap::FromArgMatches as _;

use super::*;

pub(super) fn given(line: &[&str]) -> Build {
    let words = std::iter::once("build").chain(line.iter().copied());
    let found = definition().try_get_matches_from(words).expect("parses");
    Build::from_arg_matches(&found).expect("complete")
}

fn translated(line: &[&str], env: &[(&str, &str)]) -> Result<Translation, Failure> {
    let env = |name: &str| env.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
    translate(&given(line), Dialect::Buildah, &env)
}

fn words(line: &[&str]) -> Vec<String> {
    translated(line, &[]).expect("translates").words
}

fn error(line: &[&str]) -> String {
    translated(line, &[]).expect_err("refused").message
}

/// Every expected word is there.
#[track_caller]
fn has(line: &[&str], env: &[(&str, &str)], expected: &[&str]) {
    let words = translated(line, env).expect("translates").words;
    for one in expected {
        assert!(words.contains(&(*one).to_owned()), "{line:?}: {one} is not in {words:?}");
    }
}

// SPEC D3.35, D3.22, D3.04, D3.23, D3.31
#[test]
fn d3_35_places() {
    let output = |line: &[&str]| {
        let all = words(line);
        all.iter().filter_map(|word| word.strip_prefix("--output=")).collect::<Vec<_>>().join(" ")
    };
    for (line, expected) in [
        (&[][..], "type=image,dangling-name-prefix=localhost/none"),
        (&["-t", "app"], "type=image,\"name=app,localhost/app\""),
        (&["-t", "quay.io/me/app:1"], "type=image,\"name=quay.io/me/app:1\""),
        (&["-t", "docker://r.example/a"], "type=image,push=true,\"name=r.example/a\""),
        (&["-t", "oci:d,1:x"], "type=oci,tar=false,\"dest=d,1\",\"name=image:x\""),
        (&["-t", "oci-archive:f", "-D"], "type=oci,tar=true,\"dest=f\",compression=uncompressed"),
        (&["-t", "docker-archive:f:a:1"], "type=docker,\"dest=f\",\"name=a:1\""),
        (&["-t", "docker-daemon:a:1"], "type=docker,\"name=a:1\""),
        (&["-t", "containers-storage:[overlay@/x]q.io/a"], "type=image,\"name=q.io/a\""),
        (&["--format=docker"], "type=image,dangling-name-prefix=localhost/none,oci-mediatypes=false"),
        (&["--format=docker", "-t", "oci:d"], "type=oci,tar=false,\"dest=d\""),
        (
            &["--timestamp=5"],
            "type=image,dangling-name-prefix=localhost/none,source-date-epoch=5,rewrite-timestamp=all",
        ),
        (
            &["--compression-format=zstd", "--compression-level=3"],
            "type=image,dangling-name-prefix=localhost/none,compression=zstd,compression-level=3",
        ),
        (&["-o", "dir"], "dir"),
    ] {
        assert_eq!(output(line), expected, "{line:?}");
    }
    assert!(words(&[]).contains(&"--print-id".into()) && !words(&["-o", "-"]).contains(&"--print-id".into()));
    assert!(error(&["-t", "dir:x"]).contains("not written in this form"));
    assert!(error(&["-t", "dokcer://x"]).contains("did you mean docker?"));
    assert!(error(&["-t", "oci:"]).contains("there is no path"));
    assert!(error(&["--format=v2s1"]).contains("expected oci or docker"));
    has(
        &[],
        &[("BUILDAH_FORMAT", "docker")],
        &["--output=type=image,dangling-name-prefix=localhost/none,oci-mediatypes=false"],
    );
}

// SPEC D3.01, D3.02, D3.05, D3.07, D3.11, D3.21
#[test]
fn d3_02_images() {
    has(&["--squash"], &[], &["--single-layer=all"]);
    let podman = translate(&given(&["--squash"]), Dialect::Podman, &|_| None).expect("translates").words;
    assert!(podman.contains(&"--single-layer=new".into()), "{podman:?}");
    has(
        &["--squash-all", "--omit-history", "--inherit-labels=false"],
        &[],
        &["--single-layer=all", "--omit-history", "--inherit-labels=false"],
    );
    has(
        &["--created-annotation", "-t", "oci:d"],
        &[],
        &["--output=type=oci,tar=false,\"dest=d\",created-annotation=true"],
    );
    has(&["--layers=false"], &[], &["--single-layer=new", "--no-cache"]);
    has(&[], &[("BUILDAH_LAYERS", "0")], &["--single-layer=new"]);
    assert!(!words(&["--layers"]).iter().any(|word| word.contains("layer") || word == "--no-cache"));
    has(&["--from", "docker://a:1"], &[], &["--from=a:1"]);
    has(&["--arch=arm64", "--variant=v8"], &[], &["--platform=linux/arm64/v8"]);
    has(
        &["--manifest=m", "--platform=linux/amd64,linux/arm64"],
        &[],
        &[
            "--build-arg=BUILDKIT_MULTI_PLATFORM=true",
            "--platform=linux/arm64",
            "--output=type=image,append=true,\"name=m,localhost/m\"",
        ],
    );
    assert!(error(&["--arch=arm64", "--platform=linux/amd64"]).contains("may not be used with"));
    has(
        &["--source-date-epoch=9", "--rewrite-timestamp"],
        &[],
        &[
            "--build-arg=SOURCE_DATE_EPOCH=9",
            "--output=type=image,dangling-name-prefix=localhost/none,rewrite-timestamp=true",
        ],
    );
}

// SPEC D3.10, D3.17, D3.18, D3.19, D3.20, D3.16, D3.33, D3.06, D3.09
#[test]
fn d3_17_steps() {
    has(
        &["-v", "/a:/b:ro,z,rprivate", "--device=/dev/fuse:/dev/f:rw", "--isolation=chroot"],
        &[],
        &["--volume=/a:/b:ro", "--volume=/dev/fuse:/dev/f", "--isolation=chroot"],
    );
    let proxies = [("http_proxy", "p"), ("NO_PROXY", "n")];
    has(&["--build-arg=NO_PROXY=mine"], &proxies, &["--build-arg=http_proxy", "--build-arg=NO_PROXY=mine"]);
    assert!(
        !translated(&["--http-proxy=false"], &proxies).expect("fine").words.iter().any(|word| word.contains("proxy"))
    );
    has(&["--net=host"], &[], &["--network=host"]);
    for mode in ["private", "slirp4netns", "pasta:--ipv4-only", "default"] {
        assert!(!words(&["--network", mode]).iter().any(|word| word.starts_with("--network")), "{mode}");
    }
    for (line, rule) in [
        (&["--volume=/a"][..], "expected SOURCE:TARGET"),
        (&["--volume=/a:/b:U"], "the option \"U\" is not supported"),
        (&["--device=vendor.com/gpu=0"], "expected /dev/NAME"),
        (&["--network=ns:/x"], "not joined"),
        (&["--network=podman1"], "no network \"podman1\""),
        (&["--security-opt=seccomp=/f"], "confined in one way"),
        (&["--pid=host"], "--pid host: steps have a namespace of their own"),
        (&["--userns=ns:/x"], "--userns ns"),
        (&["--isolation=roootless"], "did you mean rootless?"),
        (&["--skip-unused-stages=false"], "never built"),
        (&["--compat-volumes"], "below a VOLUME"),
        (&["--identity-label"], "who built"),
        (&["--group-add=keep-groups"], "--group-add keep-groups: "),
        (&["--userns-uid-map=0:1:2"], "/etc/subuid"),
    ] {
        assert!(error(line).contains(rule), "{line:?}: {}", error(line));
    }
    let idle = ["--runtime=runc", "--security-opt=seccomp=unconfined", "--layer-label=a=b"];
    let said = translated(&idle, &[]).expect("fine").notices;
    assert_eq!(said.len(), idle.len(), "{said:?}");
    words(&["--jobs=0", "--rm=false", "--force-rm", "--ipc=private", "--userns=auto", "--security-opt=label=disable"]);
}

// SPEC D3.24, D3.26, D3.27, D3.31
#[test]
fn d3_24_registries_and_caches() {
    for (line, expected) in [
        (&["--pull"][..], None),
        (&["--pull=always"], Some("--pull")),
        (&["--pull=newer"], Some("--pull")),
        (&["--pull-always"], Some("--pull")),
        (&["--pull=never"], Some("--pull-never")),
        (&["--pull=missing"], None),
        (&["--pull=false"], Some("--pull-never")),
    ] {
        assert_eq!(
            words(line).iter().find(|word| word.starts_with("--pull")).map(String::as_str),
            expected,
            "{line:?}"
        );
    }
    assert!(error(&["--pull=nevr"]).contains("did you mean never?"));
    has(
        &["--cache-from=r.example/c", "--cache-to=r.example/c", "--cache-ttl=2h", "--tls-verify=false", "--cert-dir=d"],
        &[],
        &[
            "--cache-from=type=registry,\"ref=r.example/c\"",
            "--cache-to=type=registry,\"ref=r.example/c\",mode=max",
            "--cache-ttl=2h",
            "--registry=*,insecure=true",
            "--registry=*,\"certs=d\"",
        ],
    );
    has(&["--cache-ttl=0s"], &[], &["--no-cache"]);
    has(&["-q"], &[], &["--progress=none", "--print-id"]);
}

// SPEC D3.26
#[test]
fn d3_26_a_policy_about_signatures_is_the_build_s() {
    has(&["--signature-policy=p.json"], &[], &["--signature-policy=p.json"]);
}

// SPEC D3.28
#[test]
fn d3_28_scanners_by_name() {
    has(
        &["--sbom", "--sbom-output=f"],
        &[],
        &[
            "--sbom-scanner-image=ghcr.io/anchore/syft",
            "--sbom-scanner-command=/syft scan -q dir:{ROOTFS} --output cyclonedx-json={OUTPUT}",
            "--sbom-scanner-command=/syft scan -q dir:{CONTEXT} --output cyclonedx-json={OUTPUT}",
            "--sbom-merge-strategy=merge-cyclonedx-by-component-name-and-version",
            "--sbom-output=f",
        ],
    );
    has(
        &["--sbom=trivy-spdx", "--sbom-scanner-image=own", "--sbom-image-purl-output=/p"],
        &[],
        &[
            "--sbom-scanner-image=own",
            "--sbom-scanner-command=trivy filesystem -q {ROOTFS} --format spdx-json --output {OUTPUT}",
            "--sbom-merge-strategy=merge-spdx-by-package-name-and-versioninfo",
            "--sbom-image-purl-output=/p",
        ],
    );
    assert!(error(&["--sbom=syfft"]).contains("did you mean syft?"));
    let own = words(&["--sbom-scanner-image=i", "--sbom-scanner-command=c {OUTPUT}", "--sbom-output=o"]);
    assert_eq!(own.iter().filter(|word| word.starts_with("--sbom")).count(), 3);
}

// SPEC D3.29, D3.34
#[test]
fn d3_34_what_cannot_be_is_refused_by_name() {
    for (flag, rule) in [("--cw=type=SNP", "confidential"), ("--sign-by=x", "not signed")] {
        let name = flag.split('=').next().unwrap_or_default();
        assert!(
            error(&[flag]).starts_with(&format!("{name}: ")) && error(&[flag]).contains(rule),
            "{}",
            error(&[flag])
        );
    }
    let line = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
    let becomes = |text: &str| {
        let words = ours(&line(text)).expect("fine").unwrap_or_else(|| line(text));
        words.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
    };
    for (typed, expected) in [
        ("rbuild buildah images -q", "rbuild images --quiet"),
        ("rbuild --root /s buildah rmi a", "rbuild --root /s rm a"),
        ("/usr/bin/buildah --root /s tag a b c", "/usr/bin/buildah --root /s tag a b c"),
        ("buildah pull docker://r.example/a", "buildah pull r.example/a"),
        ("buildah push a docker://r.example/a:1", "buildah push a r.example/a:1"),
        ("buildah push a oci-archive:f", "buildah save --format=oci --output=f a"),
        ("buildah push a docker-archive:f", "buildah save --format=docker --output=f a"),
        ("buildah --version", "buildah version"),
        ("buildah --storage-driver vfs --log-level=debug --cgroup-manager cgroupfs images", "buildah images"),
        ("rbuild podman --runtime crun --syslog rmi a", "rbuild rm a"),
        ("rbuild podman image ls", "rbuild images"),
        ("rbuild podman image rm a", "rbuild rm a"),
        ("rbuild podman image inspect a", "rbuild inspect a"),
        ("rbuild buildah", "rbuild buildah"),
        ("rbuild .", "rbuild ."),
    ] {
        assert_eq!(becomes(typed), expected, "{typed}");
    }
    for typed in ["rbuild podman buildx build .", "rbuild podman image build .", "rbuild podman --runtime=crun build ."]
    {
        assert_eq!(becomes(typed), becomes("rbuild podman build ."), "{typed}");
    }
    for refused in [
        "rbuild buildah commit x",
        "rbuild buildah image ls",
        "rbuild podman rm x",
        "rbuild podman --remote build .",
        "buildah --userns-uid-map 0:1:2 bud .",
        "buildah --no-such-option bud .",
    ] {
        assert_eq!(ours(&line(refused)), Err(2), "{refused}");
    }
    assert_eq!(ours(&line("rbuild buildah imagse")), Err(2));
}

// SPEC D3.08, D3.09, D3.12, D3.25, D3.30, D3.32
#[test]
fn d3_32_what_has_the_same_name() {
    let same = [
        "--build-arg=A=1",
        "--build-arg-file=f",
        "--target=t",
        "--label=a=b",
        "--annotation=a=b",
        "--unsetenv=A",
        "--unsetlabel=a",
        "--env=A",
        "--secret=id=x",
        "--ssh=default",
        "--add-host=a:1.2.3.4",
        "--ulimit=nofile=1:2",
        "--shm-size=1m",
        "--memory=1g",
        "--memory-swap=-1",
        "--cpu-shares=2",
        "--cgroup-parent=/x",
        "--source-policy-file=p",
        "--metadata-file=m",
        "--output=-",
        "--retry=2",
        "--retry-delay=3s",
        "--creds=a:b",
        "--authfile=f",
        "--build-context=a=dir",
    ];
    has(&same, &[], &same);
    has(&["--build-context=a=docker://x:1"], &[], &["--build-context=a=docker-image://x:1"]);
    let line = words(&["--label=a=b", "dir"]);
    assert_eq!((line[0].as_str(), line.last().map(String::as_str)), ("build", Some("dir")));
    assert_eq!(words(&[]).last().map(String::as_str), Some("."));
    // Each becomes a command line that our own parser takes.
    let ours = std::iter::once("rbuild".to_owned()).chain(words(&same));
    args::Cli::parse_words(ours).expect("is understood");
}
