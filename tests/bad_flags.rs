//! Every malformed or contradictory flag is refused before any work, by its name and with the rule.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(missing_docs, unreachable_pub, reason = "a test program")]

mod support;

use support::Bench;

/// A command line, what it breaks, and words of the rule.
type Case = (&'static [&'static str], &'static str, &'static str);

#[rustfmt::skip]
const CASES: &[Case] = &[
    // Names
    (&["-t", "UPPER"], "--tag", "repository name must be lowercase"),
    (&["-t", "a:b:c"], "--tag", "invalid reference format"),
    (&["-t", ""], "--tag", "invalid reference format"),
    (&["-t", "a@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"], "--tag", "must not contain a digest"),
    (&["--platform", "linux/"], "--platform", "invalid argument"),
    (&["--platform", ""], "--platform", "invalid argument"),
    (&["--platform", "linux/amd64,a/b/c/d/e"], "--platform", "invalid argument"),
    // Arguments, labels, annotations
    (&["--build-arg", "=x"], "--build-arg", "empty key"),
    (&["--build-arg", "BUILDKIT_MULTI_PLATFORM=maybe"], "--build-arg", "invalid boolean value"),
    (&["--build-arg", "BUILDKIT_INLINE_CACHE=maybe"], "--build-arg", "invalid boolean value"),
    (&["--build-arg", "BUILDKIT_MULTI_PLATFORM=0", "--platform", "linux/amd64,linux/arm64"], "--build-arg", "contradicts several platforms"),
    (&["--label", "=x"], "--label", "invalid key-value pair \"=x\": empty key"),
    (&["--annotation", "x=y"], "--annotation", "no image to annotate"),
    (&["-t", "a", "--annotation", "x"], "--annotation", "expected key=value"),
    (&["-t", "a", "--annotation", "indx:x=y"], "--annotation", "unknown annotation type \"indx\""),
    (&["-t", "a", "--annotation", "index:x=y"], "--annotation", "not supported for single platform"),
    // Policies
    (&["--source-policy-file", "/nowhere/policy.json"], "--source-policy-file", "No such file"),
    (&["--source-policy-file", "/dev/null"], "--source-policy-file", "EOF"),
    // Outputs
    (&["-o", ""], "--output", "an output is empty"),
    (&["-o", "type="], "--output", "unknown output type"),
    (&["-o", "type=oco,dest=x"], "--output", "did you mean oci?"),
    (&["-o", "type=oci,tar=false"], "--output", "dest is required"),
    (&["-o", "type=oci,dest="], "--output", "dest is empty"),
    (&["-o", "type=oci,dest"], "--output", "expected key=value"),
    (&["-o", "dest=x,name=y"], "--output", "has no type"),
    (&["-o", "type=oci,dest=x,dst=y"], "--output", "unknown attribute \"dst\""),
    (&["-o", "type=oci,\"dest=x"], "--output", "a quote is not closed"),
    (&["-o", "type=oci,dest=\"x\""], "--output", "a quote stands inside of a field"),
    (&["-o", "type=oci,dest=x,compression=lzma"], "--output", "expected gzip, zstd, estargz or uncompressed"),
    (&["-o", "type=oci,dest=x,compression-level=high"], "--output", "is not a number"),
    (&["-o", "type=oci,dest=x,compression=gzip,compression-level=99"], "--output", "between 0 and 9"),
    (&["-o", "type=oci,dest=x,tar=maybe"], "--output", "non-bool value \"maybe\""),
    (&["-o", "type=oci,dest=x,force-compression=2"], "--output", "non-bool value \"2\""),
    (&["-o", "type=oci,dest=x,push=true"], "--output", "no meaning for output type oci"),
    (&["-o", "type=image,name=UP"], "--output", "repository name must be lowercase"),
    (&["-o", "type=image,dest=x"], "--output", "no meaning for output type image"),
    (&["-o", "type=image,name=*"], "--output", "name=* has no meaning"),
    (&["-o", "type=image,name=a,source-date-epoch=x"], "--output", "invalid SOURCE_DATE_EPOCH"),
    (&["-o", "type=image,name=a,rewrite-timestamp=true,unpack=true"], "--output", "conflicts with unpack"),
    (&["-o", "type=image,name=a,compatibility-version=40"], "--output", "expected 10, 20 or 30"),
    (&["-o", "type=image,name=a,dangling-name-prefix=B:1"], "--output", "not an image name without a tag"),
    (&["-o", "type=local"], "--output", "dest is required"),
    (&["-o", "type=local,dest=out,mode=mirror"], "--output", "expected copy or delete"),
    (&["-o", "type=local,dest=out,compression=gzip"], "--output", "no meaning for output type local"),
    (&["-o", "type=local,dest=out,platform-split=x"], "--output", "non-bool value"),
    // SPEC E2.03
    (&["--registry", "h.example,ca=/none.crt"], "--registry", "ca=/none.crt: cannot read it: No such file"),
    (&["--registry", "h.example,cert=/none.crt,key=/none.key"], "--registry", "cert=/none.crt: cannot read it"),
    (&["-o", "type=local,dest=/elsewhere,mode=delete"], "--output", "not below the current directory"),
    (&["-o", "type=local,dest=file"], "--output", "is a file, not a directory"),
    (&["-o", "type=tar,dest=dir"], "--output", "is a directory"),
    (&["-o", "type=tar,dest=a,name=b"], "--output", "no meaning for output type tar"),
    (&["-o", "type=cacheonly,dest=x"], "--output", "no meaning for output type cacheonly"),
    (&["-o", "type=docker,dest=x,context=y"], "--output", "contradict each other"),
    // Outputs and flags that contradict each other
    (&["-o", "a", "-o", "a"], "--output", "two outputs go to a"),
    (&["-o", "-", "-o", "type=tar,dest=-"], "--output", "only one output can go to standard output"),
    (&["--platform", "linux/amd64,linux/arm64", "-o", "type=docker,dest=x"], "--output", "manifest lists"),
    (&["-o", "type=image,push=true"], "--output", "tag is needed when pushing"),
    (&["-o", "type=image,name=r.example/a:1,push=true,push-by-digest=true"], "--output", "can't push tagged ref"),
    (&["-t", "r.example/a:1", "-o", "type=image,push=true,push-by-digest=true"], "--output", "can't push tagged ref"),
    (&["-o", "type=image,name=a,push-by-digest=true"], "--output", "without push=true"),
    (&["--push"], "--push", "tag is needed when pushing"),
    (&["--push", "-o", "type=local,dest=out"], "--push", "there is nothing to push"),
    (&["--push", "-o", "type=oci,dest=x"], "--push", "there is nothing to push"),
    (&["--push", "-t", "r.example/a", "-o", "type=image,push=false"], "--push", "contradicts push=false"),
    (&["--load"], "--load", "needs a name"),
    (&["--push", "--load"], "--push", "tag is needed when pushing"),
    (&["--load", "-t", "a", "--platform", "linux/amd64,linux/arm64", "-o", "type=docker,dest=x"], "--output", "manifest lists"),
    (&["--iidfile", "x", "-o", "out"], "--iidfile", "incompatible with image ID file"),
    (&["--iidfile", "missing/x"], "--iidfile", "there is no directory missing"),
    (&["--metadata-file", "missing/x"], "--metadata-file", "there is no directory missing"),
    (&["--metadata-file", "dir"], "--metadata-file", "is a directory"),
    (&["--summary-file", "missing/x"], "--summary-file", "there is no directory missing"),
    (&["--trace", "missing/x"], "--trace", "there is no directory missing"),
    // Caches
    (&["--cache-from", "type=x"], "--cache-from", "x"),
    (&["--cache-from", "type=registry"], "--cache-from", "requires ref"),
    (&["--cache-from", "type=registry,ref=UP"], "--cache-from", "lowercase"),
    (&["--cache-from", "type=registry,ref=a,rf=y"], "--cache-from", "rf"),
    (&["--cache-from", "type=local"], "--cache-from", "requires src"),
    (&["--cache-to", "type=local"], "--cache-to", "requires dest"),
    (&["--cache-to", "type=registry,ref=a,mode=mid"], "--cache-to", "mid"),
    (&["--cache-to", "type=registry,ref=a,ignore-error=maybe"], "--cache-to", "expected true or false"),
    (&["--cache-to", "type=\"x"], "--cache-to", "quote"),
    (&["--cache-to", "type=s3"], "--cache-to", "s3"),
    // Steps
    (&["--network", "bridge"], "--network", "expected default, sandbox, host or none"),
    (&["--secret", "src=x"], "--secret", "secret missing ID"),
    (&["--secret", "id=a,src=/nonexistent"], "--secret", "cannot read /nonexistent"),
    (&["--secret", "id=a,env=NO_SUCH_VARIABLE"], "--secret", "is not set"),
    (&["--secret", "id=a,type=x"], "--secret", "expected file or env"),
    (&["--secret", "id=a,sorce=y"], "--secret", "did you mean source?"),
    (&["--ssh", "=x"], "--ssh", "expected ID"),
    (&["--ssh", "a=/nonexistent"], "--ssh", "cannot read /nonexistent"),
    (&["--ssh", "a=b,raw=x"], "--ssh", "neither true nor false"),
    (&["--add-host", "x"], "--add-host", "expected HOST=IP"),
    (&["--add-host", "x:y"], "--add-host", "not an IP address"),
    (&["--add-host", "=1.2.3.4"], "--add-host", "the name is empty"),
    (&["--shm-size", "much"], "--shm-size", "expected a number"),
    (&["--ulimit", "x"], "--ulimit", "expected name=soft[:hard]"),
    (&["--ulimit", "nofile=x"], "--ulimit", "is not a number"),
    (&["--ulimit", "nofile=5:3"], "--ulimit", "must not exceed the hard limit"),
    (&["--ulimit", "nofiles=1"], "--ulimit", "did you mean nofile?"),
    (&["--allow", "network.hots"], "--allow", "did you mean network.host?"),
    (&["--allow", "devise"], "--allow", "did you mean device?"),
    (&["--allow", "device="], "--allow", "no device in"),
    (&["--allow", "network.host=x"], "--allow", "unknown entitlement"),
    // Limits of steps
    (&["--resource", "x"], "--resource", "unknown resource \"x\""),
    (&["--resource", "memroy=1g"], "--resource", "did you mean memory?"),
    (&["--resource", "memory=x"], "--resource", "expected a number"),
    (&["--resource", "memory=1"], "--resource", "expected at least 6m"),
    (&["--resource", "memory=2g,memory-swap=1g"], "--resource", "less than the"),
    (&["--memory", "lots"], "--memory", "expected a number"),
    (&["-m", "2"], "--memory", "expected at least 6m"),
    (&["--memory", "-1"], "--memory", "expected a number"),
    (&["--memory", "1g", "--resource", "memory=2g"], "--resource", "contradicts --memory 1g"),
    (&["--memory-swap", "x"], "--memory-swap", "expected a number"),
    (&["--memory-swap", "1g"], "--memory-swap", "it needs memory, too"),
    (&["--memory", "2g", "--memory-swap", "1g"], "--memory-swap", "less than the"),
    (&["--cpu-shares", "x"], "--cpu-shares", "expected a number"),
    (&["--cpu-shares", "1"], "--cpu-shares", "expected 2 to 262144"),
    (&["--cpu-period", "5"], "--cpu-period", "expected 1000 to 1000000"),
    (&["--cpu-period", "-1"], "--cpu-period", "expected a number"),
    (&["--cpu-quota", "5"], "--cpu-quota", "expected at least 1000"),
    (&["--cpu-quota", "-2"], "--cpu-quota", "expected a number"),
    (&["--cpuset-cpus", "x"], "--cpuset-cpus", "expected e.g. 0-2"),
    (&["--cpuset-mems", ""], "--cpuset-mems", "expected e.g. 0-2"),
    (&["--pids-limit", "x"], "--pids-limit", "invalid digit"),
    (&["--pids-limit", "0"], "--pids-limit", "0 is not in 1.."),
    (&["--pids-limit", "-1"], "--pids-limit", "invalid value '-1'"),
    (&["--step-timeout", "10"], "--step-timeout", "invalid duration"),
    (&["--step-timeout", "-5s"], "--step-timeout", "invalid duration"),
    (&["--shm-size", "-1"], "--shm-size", "expected a number"),
    (&["--cgroup-parent", "../x"], "--cgroup-parent", "names no control group"),
    (&["--cgroup-parent", ""], "--cgroup-parent", "names no control group"),
    (&["--on-error", "fish"], "--on-error", "possible values: shell"),
    (&["--on-error", "shell"], "--on-error", "there is no terminal"),
    (&["--emulator", ""], "--emulator", "expected PATH"),
    // Registries
    (&["--creds", "a:b"], "--creds", "no image name"),
    (&["-t", "r.example/a", "--creds", ":b"], "--creds", "must not be empty"),
    (&["-t", "r.example/a", "--creds", "a:"], "--creds", "must not be empty"),
    (&["-t", "r.example/a", "--creds", "a"], "--creds", "the password is missing"),
    (&["--push-chunk-size", "x"], "--push-chunk-size", "expected a number"),
    (&["--push-chunk-size", "1k"], "--push-chunk-size", "at least 64k"),
    // What is said of images
    (&["--provenance", "maybe"], "--provenance", "expected key=value"),
    (&["--provenance", "mode=mid"], "--provenance", "expected min or max"),
    (&["--provenance", "mod=min"], "--provenance", "did you mean mode?"),
    (&["--provenance", "version=v3"], "--provenance", "expected v1 or v0.2"),
    (&["--provenance", "filename=a/b"], "--provenance", "a name without a slash"),
    (&["--sbom", "maybe"], "--sbom", "expected key=value"),
    (&["--sbom", "generatr=x"], "--sbom", "did you mean generator?"),
    (&["--sbom", "generator=UP"], "--sbom", "repository name must be lowercase"),
    (&["--sbom", "generator=builtin,depth=3"], "--sbom", "has no parameters"),
    (&["--attest", "x"], "--attest", "expected key=value"),
    (&["--attest", "mode=max"], "--attest", "type not specified"),
    (&["--attest", "type=sbmo"], "--attest", "did you mean sbom?"),
    (&["--attest", "type=provenance,mode=x"], "--attest", "expected min or max"),
    (&["--attest", "type=provenance,disabled=maybe"], "--attest", "invalid boolean value"),
    // Policies in Rego
    (&["--policy", "filenam=x"], "--policy", "did you mean filename?"),
    (&["--policy", "filename="], "--policy", "a file is missing"),
    (&["--policy", "filename=/nowhere.rego"], "--policy", "no such file"),
    (&["--policy", "strict=maybe"], "--policy", "true or false"),
    (&["--policy", "log-level=loud"], "--policy", "panic, fatal, error"),
    (&["--policy", "disabled=true", "--policy", "filename=x"], "--policy", "cannot be combined"),
    // Files that are written
    (&["--metrics-file", "missing/x"], "--metrics-file", "there is no directory missing"),
    (&["--metrics-file", "dir"], "--metrics-file", "is a directory"),
    (&["--iidfile", "dir"], "--iidfile", "is a directory"),
    (&["--iidfile", "x", "--metadata-file", "x"], "--metadata-file", "--iidfile writes x, too"),
    // Switches
    (&["--no-cache=perhaps"], "--no-cache", "expected true or false"),
    (&["--load=perhaps"], "--load", "expected true or false"),
    (&["--quiet=perhaps"], "--quiet", "expected true or false"),
    (&["--debug=perhaps"], "--debug", "expected true or false"),
    (&["--check=perhaps"], "--check", "expected true or false"),
    // Contexts
    (&["--frontend", "dockerfile"], "--frontend", "expected auto, image, builtin or llb"),
    (&["--frontend-opt", "x"], "--frontend-opt", "expected KEY=VALUE"),
    (&["--build-context", "x"], "--build-context", "expected key=value"),
    (&["--build-context", "=x"], "--build-context", "invalid context name"),
    (&["--build-context", "x=/nonexistent"], "--build-context", "not found"),
    (&["--build-context", "x=docker-image://UP"], "--build-context", "repository name must be lowercase"),
    (&["--build-context", "x=oci-layout://"], "--build-context", "it names no directory"),
    (&["--build-context", "x=oci-layout:///nowhere"], "--build-context", "could not be resolved"),
    (&["--build-context", "x=oci-layout://.:1"], "--build-context", "could not be resolved"),
    (&["--annotation", "x"], "--annotation", "expected key=value"),
    // Messages
    (&["--progress", "loud"], "--progress", "invalid progress mode"),
    (&["--quiet", "--progress", "plain"], "quiet", "cannot be used together"),
    (&["--call", "outlin"], "--call", "did you mean outline?"),
    (&["--call", "check,format=xml"], "--call", "unknown format"),
    (&["--call", "check,forma=json"], "--call", "did you mean format?"),
    (&["--check", "--call", "outline"], "--check", "different things"),
    // What every command has
    (&["--isolation", "usrns"], "--isolation", "did you mean userns?"),
    (&["--snapshotter", "zfs"], "--snapshotter", "overlay"),
    (&["--config", "missing.toml"], "missing.toml", "there is no such file"),
    (&["--pull=perhaps"], "--pull", "expected true or false"),
    (&["--push=perhaps"], "--push", "expected true or false"),
    (&["--no-such-flag"], "--no-such-flag", "unexpected argument"),
];

// SPEC G.01–G.06, B2.01, B2.02, B2.04–B2.07, B2.09, B2.11, B2.12, B2.14–B2.17, B2.21–B2.23, B2.26–B2.29, B2.32, C6.05
#[test]
fn every_bad_flag_is_refused_by_name_before_any_work() {
    let mut bench = Bench::new();
    bench.dockerfile("FROM scratch\nCOPY Dockerfile /\n");
    bench.args.clear();
    std::fs::write(bench.path("out/file"), "as it was").unwrap();
    std::fs::create_dir(bench.path("out/dir")).unwrap();
    assert!(CASES.len() >= 60, "{} cases", CASES.len());
    let mut wrong = Vec::new();
    for (flags, flag, rule) in CASES {
        let mut args = vec!["build"];
        args.extend(*flags);
        args.push("../ctx");
        let run = bench.rbuild(&args);
        let message: String =
            run.stderr.lines().filter(|line| !line.starts_with("hint:")).collect::<Vec<_>>().join("\n");
        if run.code != 2 || !message.contains(flag) || !message.contains(rule) || message.contains("panicked") {
            wrong.push(format!("{flags:?}: expected 2, {flag:?} and {rule:?}, got {}: {message}", run.code));
        }
        // Looking at the flags takes no store, and the outputs are as they were.
        if bench.store().exists() {
            wrong.push(format!("{flags:?}: there was work before the refusal"));
            bench.rbuild(&["system", "reset", "--force"]);
        }
    }
    let left: Vec<_> = std::fs::read_dir(bench.path("out")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

// SPEC B5.03, B5.04, B5.06, B5.08, B5.09, B5.13, B5.14
#[test]
fn bad_variables_are_named() {
    for (name, value) in [
        ("DOCKER_DEFAULT_PLATFORM", "linux/"),
        ("BUILDKIT_PROGRESS", "loud"),
        ("BUILDKIT_COLORS", "run=purplish"),
        ("BUILDKIT_TTY_LOG_LINES", "many"),
        ("TTY_DISPLAY_RATE", "fast"),
        ("BUILDKIT_STEP_LOG_MAX_SIZE", "big"),
        ("BUILDKIT_STEP_LOG_MAX_SPEED", "-2"),
        ("EXPERIMENTAL_BUILDKIT_SOURCE_POLICY", "policy.json"),
        ("BUILDX_DEFAULT_POLICY", "policy.rego"),
        ("BUILDAH_FORMAT", "v2s2"),
        ("BUILDAH_ISOLATION", "vm"),
        ("BUILDAH_LAYERS", "some"),
        ("BUILD_REGISTRY_SOURCES", "{\"allowedRegistries\": 1}"),
        ("KANIKO_NO_PUSH", "perhaps"),
        ("KANIKO_REGISTRY_MAP", "gcr.io"),
        ("KANIKO_REGISTRY_MIRROR", "https://m.example"),
    ] {
        let mut bench = Bench::new();
        bench.dockerfile("FROM scratch\nCOPY Dockerfile /\n");
        bench.env = vec![("NO_COLOR".into(), String::new()), (name.into(), value.into())];
        let run = bench.rbuild(&["build", "../ctx"]);
        assert_eq!(run.code, 2, "{name}: {}", run.stderr);
        assert!(run.stderr.contains(name), "{name}: {}", run.stderr);
        assert!(!bench.store().exists(), "{name}");
    }
}

// SPEC G.06
#[test]
fn g_06_mistyped_commands_and_directories_are_pointed_out() {
    let bench = Bench::new();
    bench.rbuild(&["imges"]).fails(2, &["path \"imges\" not found", "hint: did you mean the command images?"]);
    assert!(!bench.rbuild(&["nowhere/at/all"]).stderr.contains("did you mean"));
    bench.rbuild(&["build", "-f", "../ctx", "../ctx"]).fails(4, &["is a directory", "hint: -f names the file"]);
}
