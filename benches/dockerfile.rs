//! How long the language takes: a Dockerfile of 10,000 lines, and what is done with it before anything is built.
//! docs/PERFORMANCE.md promises a number for the first.
#![allow(missing_docs, reason = "a benchmark")]

use rbuild::dockerfile::ignore::IgnoreFile;
use rbuild::dockerfile::lint::{CheckConfig, lint};
use rbuild::dockerfile::{Expander, parse, print};

fn main() {
    divan::main();
}

/// As people write them: stages, long RUN lines, comments, heredocs, variables.
fn ten_thousand_lines() -> String {
    let stage = "\
FROM alpine:3 AS base
ARG VERSION=1.2.3
# what it needs
RUN --mount=type=cache,target=/var/cache/apk \\
    apk add --no-cache \\
      # for the build
      build-base \\
      curl \\
      git=${GIT_VERSION:-2}
ENV PATH=/opt/app/bin:$PATH \\
    LANG=C.UTF-8 NAME=\"two words\"
COPY --from=base --chown=1000:1000 /src/a /src/b /opt/app/
COPY <<EOF /etc/app.conf
listen = ${PORT:-8080}
EOF
WORKDIR /opt/app
EXPOSE 8080/tcp
HEALTHCHECK --interval=30s CMD [\"/opt/app/bin/check\", \"--fast\"]
ENTRYPOINT [\"/opt/app/bin/app\"]
USER app
";
    stage.repeat(10_000 / stage.lines().count())
}

#[divan::bench(max_time = 2)]
fn parse_10_000_lines(bencher: divan::Bencher<'_, '_>) {
    let text = ten_thousand_lines();
    assert_eq!(text.lines().count(), 10_000);
    assert!(parse(text.as_bytes()).errors.is_empty());
    bencher.bench(|| parse(text.as_bytes()));
}

#[divan::bench(max_time = 2)]
fn lint_10_000_lines(bencher: divan::Bencher<'_, '_>) {
    let text = ten_thousand_lines();
    let parsed = parse(text.as_bytes());
    bencher.bench(|| lint(&parsed.dockerfile, &parsed.warnings, &CheckConfig::default()));
}

#[divan::bench(max_time = 2)]
fn print_10_000_lines(bencher: divan::Bencher<'_, '_>) {
    let text = ten_thousand_lines();
    let parsed = parse(text.as_bytes());
    bencher.bench(|| print::print(&parsed.dockerfile));
}

#[divan::bench(max_time = 2)]
fn expand_a_word(bencher: divan::Bencher<'_, '_>) {
    let value = |name: &str| (name == "PATH").then(|| "/usr/bin:/bin".to_owned());
    bencher.bench(|| Expander::words('\\').expand("/opt/${NAME:-app}/bin:$PATH", &value));
}

#[divan::bench(max_time = 2)]
fn ignore_1_000_paths(bencher: divan::Bencher<'_, '_>) {
    let file = IgnoreFile::parse(".dockerignore", b"**/*.log\nnode_modules\n.git\n!keep.log\nbuild/**\n");
    let file = file.expect("a valid file");
    let path = |i: usize| format!("src/d{}/file{i}.{}", i % 30, if i.is_multiple_of(7) { "log" } else { "rs" });
    let paths: Vec<String> = (0..1000).map(path).collect();
    bencher.bench(|| paths.iter().filter(|path| file.excluded_by(path.as_bytes()).is_some()).count());
}
