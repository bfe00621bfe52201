//! What kaniko's words become.

use clap::FromArgMatches as _;

use super::*;

fn given(line: &[&str]) -> Executor {
    let words = std::iter::once("executor").chain(line.iter().copied());
    let found = args::switches(Executor::command()).try_get_matches_from(words).expect("parses");
    Executor::from_arg_matches(&found).expect("complete")
}

fn words(line: &[&str]) -> Vec<String> {
    words_with(line, &[])
}

fn words_with(line: &[&str], env: &[(&str, &str)]) -> Vec<String> {
    let env = |name: &str| env.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
    translate(&given(line), &env).expect("translates").words
}

fn error(line: &[&str]) -> String {
    translate(&given(line), &|_| None).expect_err("refused").message
}

const PUSH: &[&str] = &["-d", "r.example/app:1", "-c", "tar://stdin"];

fn pushed(more: &[&str]) -> Vec<String> {
    words(&[PUSH, more].concat())
}

// SPEC D1.05, D1.06, D1.08, D1.09, D1.24, D1.28
#[test]
fn d1_05_results() {
    let plain = pushed(&[]);
    assert!(plain.contains(&"--tag=r.example/app:1".into()) && plain.contains(&"--output=type=image,push=true".into()));
    assert_eq!(plain.last().map(String::as_str), Some("-"));
    let all =
        pushed(&["--no-push", "--tarPath", "a,b.tar", "--oci-layout-path=d", "--compression=zstd", "--reproducible"]);
    for expected in [
        "--output=type=image,push=false,compression=zstd,rewrite-timestamp=true",
        "--output=type=oci,tar=false,\"dest=d\",compression=zstd,rewrite-timestamp=true",
        "--output=type=docker,\"dest=a,b.tar\",rewrite-timestamp=true",
        "--build-arg=SOURCE_DATE_EPOCH=0",
    ] {
        assert!(all.contains(&expected.into()), "{expected}: {all:?}");
    }
    assert!(
        pushed(&["--compression-level", "9"])
            .contains(&"--output=type=image,push=true,compression=gzip,compression-level=9".into())
    );
    assert!(
        pushed(&["--image-format=docker"]).contains(&"--output=type=image,push=true,oci-mediatypes=false".into())
            && pushed(&["--image-format=oci"]) == plain
    );
    assert!(pushed(&["--secret=id=a,env=B", "--secret", "id=c"]).contains(&"--secret=id=a,env=B".into()));
    assert_eq!(error(&["-c", "tar://stdin"]), "you must provide --destination, or use --no-push");
    let env = [("KANIKO_NO_PUSH", "true"), ("BUILDER_OUTPUT", "/out")];
    let quiet = words_with(&["-c", "tar://stdin"], &env);
    assert!(
        quiet.contains(&"--output=type=image,push=false".into()) && quiet.contains(&"--images-file=/out/images".into())
    );
}

// SPEC D1.18, D1.19, D1.21, D1.07
#[test]
fn d1_18_caches() {
    assert!(pushed(&[]).contains(&"--no-cache".into()));
    let usual = pushed(&["--cache"]);
    for expected in [
        "--cache-from=type=registry,ref=r.example/app/cache",
        "--cache-to=type=registry,ref=r.example/app/cache,mode=max,ignore-error=true",
        "--cache-ttl=336h",
    ] {
        assert!(usual.contains(&expected.into()), "{expected}: {usual:?}");
    }
    let only_read = pushed(&["--cache=true", "--no-push-cache", "--cache-repo", "r.example/c"]);
    assert!(!only_read.iter().any(|word| word.starts_with("--cache-to")), "{only_read:?}");
    let refusal = "if using cache with --no-push, specify cache repo with --cache-repo";
    assert_eq!(error(&["--no-push", "--cache"]), refusal);
}

// SPEC D1.20, D1.48
#[test]
fn d1_20_directories_of_the_warmer() {
    let dir = tempfile::tempdir().expect("a directory");
    let flag = format!("--cache-dir={}", dir.path().display());
    let has = |words: &[String]| words.iter().any(|word| word.starts_with("--pull-from"));
    assert!(!has(&pushed(&["--cache", &flag])), "it is none yet");
    std::fs::write(dir.path().join("oci-layout"), "{}").expect("written");
    let expected = format!("--pull-from=\"{}\",max-age=1h", dir.path().display());
    assert!(pushed(&["--cache", &flag, "--cache-ttl=1h"]).contains(&expected));
    assert!(!has(&pushed(&[&flag])), "kaniko reads it with its cache only");
    let line = ["warmer", "-i", "a", "--image=b", "-d", "F", "--build-arg=A=b", "-f", "--registry-mirror=m.example"];
    let found = args::switches(Warmer::command()).try_get_matches_from(line).expect("parses");
    let words = warmer::translate(&Warmer::from_arg_matches(&found).expect("complete")).expect("translates").words;
    let usual = ["warm", "--keep-going", "--progress=auto", "--build-arg=A=b", "--file=F", "--force"];
    let rest = ["--registry=docker.io,mirror=m.example", "--", "/cache", "a", "b"];
    assert_eq!(words, [&usual[..], &rest[..]].concat());
}

// SPEC D1.36–D1.41
#[test]
fn d1_36_registries() {
    let flags = pushed(&[
        "--insecure",
        "--skip-tls-verify-pull",
        "--insecure-registry=i.example",
        "--registry-certificate=c.example=/ca.crt",
        "--registry-client-cert",
        "c.example=/c,/k",
        "--registry-mirror=m.example",
        "--registry-map=index.docker.io=n.example;gcr.io=g.example/x",
        "--skip-default-registry-fallback",
        "--push-retry=9",
    ]);
    for expected in [
        "--registry=r.example,insecure=true",
        "--registry=*,insecure=true,http=false",
        "--registry=i.example,insecure=true",
        "--registry=c.example,\"ca=/ca.crt\"",
        "--registry=c.example,\"cert=/c\",\"key=/k\"",
        "--registry=docker.io,mirror=m.example",
        "--registry=docker.io,mirror=n.example",
        "--registry=gcr.io,mirror=g.example/x",
        "--registry=gcr.io,only-mirrors=true",
        "--retry=9",
    ] {
        assert!(flags.contains(&expected.into()), "{expected}: {flags:?}");
    }
    assert!(error(&[PUSH, &["--registry-map=x"]].concat()).contains("expected REGISTRY=MIRROR"));
}

// SPEC D1.44, D1.49
#[test]
fn d1_44_messages_and_helpers() {
    for (line, kind) in [
        (&["--log-timestamp"][..], "plain"),
        (&[][..], "auto"),
        (&["--log-format=json", "--log-timestamp"][..], "rawjson"),
        (&["-v=fatal", "--log-timestamp"][..], "none"),
    ] {
        assert!(pushed(line).contains(&format!("--progress={kind}")), "{line:?}");
    }
    let helpers = pushed(&["--credential-helpers=ecr", "--credential-helpers", ""]);
    assert!(helpers.contains(&"--credential-helpers=ecr".into()) && helpers.contains(&"--credential-helpers=".into()));
    assert!(error(&["--no-push", "--image-name-with-digest-file=f"]).contains("provide --destination if setting"));
}

// SPEC D1.35, D2.02, D2.05–D2.08
#[test]
fn d2_08_contexts() {
    let last = |context: &str, more: &[&str]| {
        let line = [&["--no-push", "-c", context], more].concat();
        words_with(&line, &[("AZURE_STORAGE_ACCESS_KEY", "k")]).pop().unwrap_or_default()
    };
    for (context, more, expected) in [
        ("git://h.example/a", &[][..], "git+https://h.example/a?submodules=false"),
        (
            "git://h.example/a.git#refs/heads/b#0123456",
            &["--context-sub-path=x/y"][..],
            "git+https://h.example/a.git?ref=refs%2Fheads%2Fb&checksum=0123456&subdir=x%2Fy&submodules=false",
        ),
        (
            "git://h.example/a",
            &["--git", "branch=main,single-branch=true,recurse-submodules=true,depth=1"][..],
            "git+https://h.example/a?ref=refs%2Fheads%2Fmain&submodules=true",
        ),
        ("tar:///x.tar.gz", &[][..], "tar:///x.tar.gz"),
        ("https://h.example/x.tar.gz", &[][..], "https://h.example/x.tar.gz"),
        ("s3://b/x.tar.gz", &[][..], "s3://b/x.tar.gz"),
        ("https://a.blob.core.windows.net/c/x.tar.gz", &[][..], "azblob://a.blob.core.windows.net/c/x.tar.gz"),
        ("x.tar.gz", &["--bucket=b"][..], "gs://b/x.tar.gz"),
        ("/workspace/", &["--bucket=b"][..], "gs://b/context.tar.gz"),
        ("/workspace/", &["--bucket=s3://b"][..], "s3://b/context.tar.gz"),
        ("x.tar.gz", &["--bucket=s3://b/dir/"][..], "s3://b/dir/x.tar.gz"),
        ("/workspace/", &["--bucket=gs://b/x.tar.gz"][..], "gs://b/x.tar.gz"),
        ("gs://b", &[][..], "gs://b/context.tar.gz"),
        ("s3://b/", &[][..], "s3://b/context.tar.gz"),
    ] {
        assert_eq!(last(context, more), expected, "{context}");
    }
    let skipping = ["--no-push", "-c", "git://u@h.example:8443/a", "--git=insecure-skip-tls=true"];
    assert!(words(&skipping).contains(&"--git-unverified=h.example:8443".into()));
    for (line, rule) in [
        (&["-c", "ftp://x"][..], "unknown build context prefix ftp://"),
        (&["-c", "https://a.blob.core.windows.net/c/x"][..], "AZURE_STORAGE_ACCESS_KEY is not set"),
        (&["-c", "git://h/a", "--git=brunch=x"][..], "did you mean branch?"),
        (&["-c", "git://h/a", "--git=depth=all"][..], "--git depth=all: expected a number of commits"),
    ] {
        assert!(error(&[&["--no-push"], line].concat()).contains(rule), "{line:?}");
    }
}
