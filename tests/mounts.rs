//! `RUN --mount` of every type but ssh, with real steps (SPEC A5.02–A5.06, B2.27, C4.10, N2.04, N2.05).
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::print_stderr, reason = "skip reasons are collected by scripts/test")]
#![allow(missing_docs, unreachable_pub, reason = "a test program")]

mod support;

use support::{Bench, finish};

/// A step that is alone in `/c` or fails: what another one left there while it was at work would be seen.
const ALONE: &str = "test ! -e /c/busy && touch /c/busy && sleep 0.3 && rm /c/busy && echo x >> /c/count";

// SPEC A5.04, C4.10: shared caches of concurrent stages are one directory at one time.
#[test]
fn a5_04_shared_caches_are_shared_at_once() {
    need_run!();
    let bench = Bench::new();
    let wait = "for i in $(seq 200); do [ -e /c/other ] && exit 0; sleep 0.05; done; exit 1";
    let stage = |mine: &str, other: &str| {
        format!("RUN --mount=type=cache,target=/c,sharing=shared touch /c/{mine}; {}\n", wait.replace("other", other))
    };
    bench.dockerfile(&format!(
        "FROM busybox AS a\n{}FROM busybox AS b\n{}FROM scratch\nCOPY --from=a /etc/passwd /a\nCOPY --from=b /etc/passwd /b\n",
        stage("a", "b"),
        stage("b", "a"),
    ));
    bench.build(&[]).ok();
}

// SPEC A5.04, C4.10: locked caches are held by one step at a time, in one build and in several processes.
#[test]
fn a5_04_locked_caches_are_held_by_one_step() {
    need_run!();
    let bench = Bench::new();
    let mut dockerfile = String::new();
    for n in 0..3 {
        dockerfile += &format!(
            "FROM busybox AS s{n}\nARG WHO\nRUN --mount=type=cache,id=one,target=/c,sharing=locked {ALONE}; test $? = 0 # {n}\n"
        );
    }
    dockerfile += "FROM busybox\nCOPY --from=s0 /etc/passwd /0\nCOPY --from=s1 /etc/passwd /1\nCOPY --from=s2 /etc/passwd /2\n\
                   ARG WHO\nRUN --mount=type=cache,id=one,target=/c wc -l < /c/count > /count\n";
    bench.dockerfile(&dockerfile);
    let builds: Vec<_> =
        (0..2).map(|n| bench.build_command(&["--build-arg", &format!("WHO={n}")]).spawn().unwrap()).collect();
    for build in builds {
        finish(build.wait_with_output().unwrap()).ok();
    }
    assert_eq!(bench.build_image(&["--build-arg", "WHO=0", "--no-cache-filter", "stage-3"]).text("count"), "6\n");
}

// SPEC A5.04: two steps that want the same two locked caches at crossed places, and one cache at two places of one step.
#[test]
fn a5_04_locked_caches_never_wait_for_each_other() {
    need_run!();
    let bench = Bench::new();
    let step = |a: &str, b: &str| {
        format!(
            "RUN --mount=type=cache,id={a},target=/1,sharing=locked --mount=type=cache,id={b},target=/2,sharing=locked sleep 0.1\n"
        )
    };
    let mut dockerfile = String::new();
    for n in 0..4 {
        let order = if n % 2 == 0 { ("a", "b") } else { ("b", "a") };
        dockerfile += &format!("FROM busybox AS s{n}\nENV N={n}\n{}", step(order.0, order.1).repeat(2));
    }
    dockerfile += "FROM busybox\n";
    for n in 0..4 {
        dockerfile += &format!("COPY --from=s{n} /etc/passwd /p{n}\n");
    }
    dockerfile += &step("a", "a").replace("sleep 0.1", "touch /1/x && test -e /2/x");
    bench.dockerfile(&dockerfile);
    bench.build(&[]).ok();
}

// SPEC A5.04: a private cache in use is another directory for who comes second; it is found again later.
#[test]
fn a5_04_private_caches_are_new_when_in_use() {
    need_run!();
    let bench = Bench::new();
    // Each waits until the other one runs too, which they tell each other through a shared cache.
    let step = |mine: &str, other: &str| {
        format!(
            "RUN --mount=type=cache,target=/p,sharing=private --mount=type=cache,target=/s touch /s/{mine} && \
             for i in $(seq 200); do [ -e /s/{other} ] && break; sleep 0.05; done; touch /p/{mine} && ls /p > /seen && sleep 0.2\n"
        )
    };
    bench.dockerfile(&format!(
        "FROM busybox AS a\n{}FROM busybox AS b\n{}FROM busybox\nCOPY --from=a /seen /a\nCOPY --from=b /seen /b\n\
         RUN --mount=type=cache,target=/p,sharing=private ls /p > /later\n",
        step("x", "y"),
        step("y", "x"),
    ));
    let image = bench.build_image(&[]);
    assert_eq!((image.text("a").as_str(), image.text("b").as_str()), ("x\n", "y\n"));
    assert_eq!(image.text("later").len(), 2, "one of the two");
}

// SPEC A5.04: id, target as the default id, the namespace of ids, read-only, initial content, mode and owner.
#[test]
fn a5_04_options_of_caches() {
    need_run!();
    let bench = Bench::new();
    bench.file("seed/deep/f", "from context").file("seed/g", "g");
    bench.dockerfile(
        "FROM busybox AS stage\nRUN mkdir -p /data/sub && echo staged > /data/sub/f && chown -R 7:8 /data && chmod 750 /data/sub\n\
         FROM busybox\nWORKDIR /w\n\
         RUN --mount=type=cache,target=/one/../default/ echo by-target > /default/f\n\
         RUN --mount=type=cache,id=/default,target=/x cat /x/f >> /out\n\
         RUN --mount=type=cache,id=/default,target=rel,ro cat rel/f >> /out; ! touch rel/g 2>/dev/null\n\
         RUN --mount=type=cache,target=/m,mode=0700,uid=12,gid=34 stat -c %a:%u:%g /m >> /out\n\
         RUN --mount=type=cache,target=/m,mode=0711,uid=1,gid=1 stat -c %a:%u:%g /m >> /out && touch /m/of-1\n\
         RUN --mount=type=cache,target=/m stat -c %a:%u:%g /m >> /out && ls /m >> /out\n\
         RUN --mount=type=cache,target=/m,mode=0711,uid=1,gid=1 ls /m >> /out\n\
         RUN --mount=type=cache,target=/d stat -c %a:%u:%g /d >> /out\n\
         RUN --mount=type=cache,target=/ctx,from=dirctx,source=seed cat /ctx/deep/f >> /out && rm /ctx/deep/f\n\
         RUN --mount=type=cache,target=/ctx,from=dirctx,source=seed ls /ctx/deep | wc -l >> /out\n\
         RUN --mount=type=cache,target=/st,from=stage,source=/data/sub,uid=99 cat /st/f >> /out && stat -c %a:%u:%g /st /st/f >> /out\n\
         RUN --mount=type=cache,target=/whole,from=stage,uid=5 stat -c %u /whole >> /out && cat /whole/data/sub/f >> /out\n\
         USER 1000:1000\nRUN --mount=type=cache,target=/mine,uid=1000 touch /mine/x && stat -c %u /mine\n",
    );
    let context = format!("dirctx={}", bench.ctx().display());
    let image = bench.build_image(&["--build-context", &context]);
    assert_eq!(
        image.text("out"),
        "by-target\nby-target\n700:12:34\n711:1:1\n755:0:0\nof-1\n755:0:0\nfrom context0\n\
         staged\n750:7:8\n644:7:8\n5\nstaged\n"
    );
    for gone in ["default", "x", "w/rel", "m", "d", "ctx", "st", "whole", "mine"] {
        assert!(!image.has(gone), "{gone} entered a layer");
    }
    // Another namespace is another set of caches.
    bench.dockerfile("FROM busybox\nRUN --mount=type=cache,id=/default,target=/x ls /x | wc -l > /out\n");
    assert_eq!(bench.build_image(&["--build-arg", "BUILDKIT_CACHE_MOUNT_NS=other"]).text("out"), "0\n");
    assert_eq!(bench.build_image(&["--no-cache"]).text("out"), "1\n", "a cache is no part of the key");
}

// SPEC N2.05, A5.04: --no-cache runs the step again and leaves its cache alone; prune does not.
#[test]
fn n2_05_no_cache_does_not_clear_cache_mounts() {
    need_run!();
    let bench = Bench::new();
    bench.dockerfile("FROM busybox\nRUN --mount=type=cache,target=/c echo x >> /c/f; wc -l < /c/f > /count\n");
    assert_eq!(bench.build_image(&[]).text("count"), "1\n");
    assert_eq!(bench.build_image(&["--no-cache"]).text("count"), "2\n");
    assert!(bench.rbuild(&["du", "--verbose"]).ok().stdout.contains("exec.cachemount"));
    bench.rbuild(&["prune", "--force", "--filter", "type=exec.cachemount"]).ok();
    assert_eq!(bench.build_image(&["--no-cache"]).text("count"), "1\n");
}

// SPEC A5.03, N2.04: bind mounts from everywhere, of directories and of files; written to, they keep nothing.
#[test]
fn a5_03_bind_mounts() {
    need_run!();
    let bench = Bench::new();
    bench.file("dir/f", "context").file("dir/sub/g", "g").file("single", "one file").symlink("dir/f", "link");
    bench.file("other/h", "named").file(".dockerignore", "hidden\n").file("hidden", "x");
    bench.dockerfile(
        "FROM busybox AS stage\nRUN mkdir /made && echo staged > /made/f && ln -s made/f /l\n\
         FROM busybox\nWORKDIR /w\nARG SRC=dir\n\
         RUN --mount=target=/ctx cat /ctx/dir/f /ctx/single >> /out && test ! -e /ctx/hidden && ! touch /ctx/new 2>/dev/null\n\
         RUN --mount=source=$SRC,target=rel cat rel/f rel/sub/g >> /out\n\
         RUN --mount=source=single,target=/one cat /one >> /out && ! sh -c 'echo x > /one' 2>/dev/null\n\
         RUN --mount=source=link,target=/linked cat /linked >> /out\n\
         RUN --mount=from=stage,source=/made/f,target=/etc/from-stage cat /etc/from-stage >> /out\n\
         RUN --mount=from=stage,source=l,target=/l2 cat /l2 >> /out\n\
         RUN --mount=from=named,target=/n cat /n/h >> /out\n\
         RUN --mount=from=busybox,source=/bin,target=/img/bin /img/bin/busybox echo image >> /out\n\
         RUN --mount=source=dir,target=/rw,rw echo changed > /rw/f && touch /rw/new && cat /rw/f >> /out\n\
         RUN --mount=source=dir,target=/rw,rw cat /rw/f >> /out && test ! -e /rw/new\n\
         RUN --mount=source=single,target=/srw,rw echo file changed > /srw && cat /srw >> /out\n\
         RUN --mount=target=/a --mount=source=dir/sub,target=/a/other --mount=type=tmpfs,target=/a/dir cat /a/other/g >> /out && ls /a/dir | wc -l >> /out\n\
         RUN --mount=source=dir,target=/existing --mount=source=single,target=/etc/passwd,rw ls /existing >> /out && cat /etc/passwd >> /out\n",
    );
    let named = format!("named={}", bench.ctx().join("other").display());
    let image = bench.build_image(&["--build-context", &named]);
    assert_eq!(
        image.text("out"),
        "contextone filecontextgone filecontextstaged\nstaged\nnamedimage\nchanged\ncontextfile changed\ng0\nf\nsub\none file"
    );
    for gone in ["ctx", "w/rel", "one", "linked", "etc/from-stage", "n", "img", "rw", "srw", "a", "existing"] {
        assert!(!image.has(gone), "{gone} entered a layer");
    }
    assert!(image.text("etc/passwd").contains("root"), "what lay below the mount is untouched");
    assert_eq!(std::fs::read(bench.ctx().join("dir/f")).unwrap(), b"context");
    assert!(!bench.ctx().join("dir/new").exists());
}

// SPEC A5.03: content of a bind mount decides about the cache, what is not mounted does not.
#[test]
fn a5_03_bind_mounts_are_part_of_the_key() {
    need_run!();
    let bench = Bench::new();
    bench.file("src/f", "1").file("other", "1");
    bench.dockerfile("FROM busybox\nRUN --mount=source=src,target=/s cat /s/f > /out\n");
    assert_eq!(bench.build_image(&[]).text("out"), "1");
    bench.file("other", "2");
    assert_eq!(bench.build(&[]).ok().count("CACHED"), 1);
    bench.file("src/f", "2");
    assert_eq!(bench.build_image(&[]).text("out"), "2");
}

// SPEC A5.03: sources that are not there, and errors of options, point at the instruction.
#[test]
fn a5_02_errors_of_mounts() {
    need_run!();
    let bench = Bench::new();
    let cases: [(&str, &[&str]); 9] = [
        ("RUN --mount=source=nowhere,target=/x true", &["\"/nowhere\"", "not found", "Dockerfile:2"]),
        ("RUN --mount=from=busybox,source=/nowhere,target=/x true", &["nowhere", "Dockerfile:2"]),
        ("RUN --mount=target=/ true", &["invalid mount target \"/\""]),
        ("RUN --mount=type=cache,target=. true", &["invalid mount target \"/\""]),
        ("RUN --mount=type=tmpfs,target=/x,sharing=locked true", &["invalid cache sharing set for tmpfs mount"]),
        ("RUN --mount=type=cache,target=/x,size=1m true", &["unexpected key 'size' for mount type 'cache'"]),
        ("RUN --mount=type=secret,id=a,source=b true", &["both source and id can't be set"]),
        ("ARG F=busybox\nRUN --mount=from=$F,target=/x true", &["'from' doesn't support variable expansion"]),
        ("RUN --mount=from=later,target=/x true\nFROM busybox AS later", &["cannot mount from stage \"later\""]),
    ];
    for (text, messages) in cases {
        bench.dockerfile(&format!("FROM busybox AS first\n{text}\n"));
        bench.build(&["--target", "first"]).fails(4, messages);
    }
}

// SPEC A5.05
#[test]
fn a5_05_tmpfs() {
    need_run!();
    let bench = Bench::new();
    bench.dockerfile(
        "FROM busybox\nRUN mkdir /t && echo below > /t/f\n\
         RUN --mount=type=tmpfs,target=/t,size=1m ls /t | wc -l > /out && df -k /t | tail -n1 | tr -s ' ' | cut -d' ' -f2 >> /out && \
         ! dd if=/dev/zero of=/t/big bs=1M count=2 2>/dev/null && stat -c %a /t >> /out\n\
         RUN cat /t/f >> /out\n\
         USER 1000\nRUN --mount=type=tmpfs,target=/t/sub true\n",
    );
    assert_eq!(bench.build_image(&[]).text("out"), "0\n1024\n755\nbelow\n");
}

// SPEC A5.06, B2.27
#[test]
fn a5_06_secrets_as_files_and_variables() {
    need_run!();
    let mut bench = Bench::new();
    std::fs::write(bench.path("out/token"), "from-a-file").unwrap();
    std::fs::write(bench.path("out/BY_ID"), "file-named-like-the-id").unwrap();
    bench.env.push(("A_VARIABLE".into(), "from-a-variable".into()));
    bench.dockerfile(
        "FROM busybox\nWORKDIR /w\n\
         RUN --mount=type=secret,id=file cat /run/secrets/file > /out && stat -c :%a:%u:%g /run/secrets/file >> /out && ! sh -c 'echo x > /run/secrets/file' 2>/dev/null\n\
         RUN --mount=type=secret,id=dir/file,target=rel/s,mode=0440,uid=12,gid=34 cat rel/s >> /out && stat -c :%a:%u:%g rel/s >> /out\n\
         RUN --mount=type=secret,source=var cat /run/secrets/var >> /out\n\
         RUN --mount=type=secret,target=/etc/BY_ID cat /etc/BY_ID >> /out\n\
         RUN --mount=type=secret,id=var,env=NAME echo $NAME >> /out && test ! -e /run/secrets/var\n\
         RUN --mount=type=secret,id=var,env=NAME,target=/etc/both test \"$NAME\" = \"$(cat /etc/both)\"\n\
         ENV NAME=outer\nRUN --mount=type=secret,id=var,env=NAME echo $NAME >> /out\n\
         RUN --mount=type=secret,id=absent,env=NAME --mount=type=secret,id=absent2 echo $NAME >> /out && test ! -e /run/secrets/absent2\n\
         USER 1000\nRUN --mount=type=secret,id=file,uid=1000 test \"$(cat /run/secrets/file)\" = from-a-file\n\
         RUN --mount=type=secret,id=file ! cat /run/secrets/file 2>/dev/null\n",
    );
    let args = [
        ["--secret", "id=file,src=/no/such"],
        ["--secret", "id=file,src=token"],
        ["--secret", "type=file,id=dir/file,source=token"],
        ["--secret", "id=var,env=A_VARIABLE"],
        ["--secret", "id=BY_ID"],
    ];
    // The last of several with one id counts, but all must be readable.
    bench.build(&args.concat()).fails(2, &["--secret file: cannot read /no/such"]);
    std::fs::write(bench.path("out/first"), "the-first").unwrap();
    let mut args = args;
    args[0][1] = "id=file,src=first";
    let image = bench.build_image(&args.concat());
    assert_eq!(
        image.text("out"),
        "from-a-file:400:0:0\nfrom-a-file:440:12:34\nfrom-a-variablefile-named-like-the-idfrom-a-variable\nfrom-a-variable\nouter\n"
    );
    for gone in ["run/secrets", "w/rel", "etc/BY_ID", "etc/both"] {
        assert!(!image.has(gone), "{gone} entered a layer");
    }
}

// SPEC A5.06: a secret's value is nowhere but in its step: not in the image, the store, the log or the key.
#[test]
fn a5_06_secrets_leave_no_trace() {
    need_run!();
    let mut bench = Bench::new();
    let value = "rbuild-secret-4f2a9c";
    bench.env.push(("TOKEN".into(), value.into()));
    bench.dockerfile(
        "FROM busybox\nRUN --mount=type=secret,id=TOKEN,env=TOKEN --mount=type=secret,id=TOKEN,target=/t test -n \"$TOKEN\" && cp /t /dev/shm/t && echo \"$TOKEN\" | sha256sum | cut -c1-8 > /sum\n",
    );
    let tar = bench.path("image.tar");
    let dest = format!("type=oci,dest={}", tar.display());
    let run = bench.build(&["--secret", "id=TOKEN", "-o", &dest]).ok();
    assert!(run.stderr.contains("test -n \"****\""), "the variable is masked in the title:\n{}", run.stderr);
    assert!(!run.stderr.contains(value));
    // Another value is no reason to run again: tokens rotate.
    bench.env.push(("TOKEN".into(), "another".into()));
    let again = bench.build(&["--secret", "id=TOKEN"]).ok();
    assert_eq!(again.count("CACHED"), 1, "{}", again.stderr);
    for dir in [bench.store(), bench.path("out")] {
        let found = std::process::Command::new("grep").args(["-rlF", value]).arg(dir).output().unwrap();
        assert!(found.stdout.is_empty(), "{}", String::from_utf8_lossy(&found.stdout));
    }
    let image = support::image::Image::open_tar(&tar);
    assert!(!image.config.to_string().contains(value) && image.tree().values().all(|n| !contains(&n.content, value)));
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|w| w == text.as_bytes())
}

// SPEC A5.06, B2.27
#[test]
fn b2_27_secrets_that_cannot_be_had() {
    need_run!();
    let bench = Bench::new();
    bench.dockerfile("FROM busybox\nRUN --mount=type=secret,id=token,required true\n");
    bench.build(&[]).fails(4, &["secret token: not found", "hint: give it with --secret id=token", "Dockerfile:2"]);
    bench.dockerfile("FROM busybox\nRUN --mount=type=secret,id=token,env=T,required=true true\n");
    bench.build(&[]).fails(4, &["secret token: not found"]);
    std::fs::write(bench.path("out/big"), vec![b'x'; (500 << 10) + 1]).unwrap();
    std::fs::write(bench.path("out/fits"), vec![b'x'; 500 << 10]).unwrap();
    bench.build(&["--secret", "id=token,src=big"]).fails(2, &["secret token too big. max size 500KB"]);
    bench.build(&["--secret", "src=fits"]).fails(2, &["secret missing ID"]);
    bench.build(&["--secret", "id=a,from=fits"]).fails(2, &["unexpected key"]);
    bench.build(&["--secret", "id=a,env=NOT_SET_ANYWHERE"]).fails(2, &["NOT_SET_ANYWHERE is not set"]);
    bench.dockerfile("FROM busybox\nRUN --mount=type=secret,id=token wc -c < /run/secrets/token > /size\n");
    assert_eq!(bench.build_image(&["--secret", "id=token,src=fits"]).text("size"), "512000\n");
}
