//! Where rbuild is used: laptops and pods with all their restrictions, times Dockerfiles. Needs root and runc.
//!
//! The fast Dockerfiles run everywhere in every run; with `RBUILD_TEST_LONG` the whole list does, and the table goes to the
//! file named by `RBUILD_TEST_TABLE` (scripts/environments puts it into docs/ROOTLESS.md).
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::print_stderr, reason = "skip reasons are collected by scripts/test")]
#![allow(missing_docs, unreachable_pub, reason = "a test program")]

mod support;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

/// An environment: its name, the rung it must have, and how it is made.
struct Environment {
    name: &'static str,
    rung: &'static str,
    place: Place,
}

enum Place {
    /// A process of this machine: user id, or the test user who has subordinate ids.
    Host(Option<u32>),
    /// A container: options of scripts/pod.
    Pod(&'static [&'static str]),
}

use Place::{Host, Pod};

const ENVIRONMENTS: &[Environment] = &[
    Environment { name: "laptop, subordinate ids", rung: "userns", place: Host(None) },
    Environment { name: "laptop, no subordinate ids", rung: "userns-one", place: Host(Some(61999)) },
    Environment {
        name: "privileged container",
        rung: "root",
        place: Pod(&["--caps", "all", "--seccomp", "unconfined", "--unmasked"]),
    },
    Environment { name: "root pod, stock", rung: "chroot", place: Pod(&[]) },
    Environment {
        name: "root pod, stock, store on a volume",
        rung: "chroot",
        place: Pod(&["--tmpfs", "/root/.local/share"]),
    },
    Environment { name: "root pod, stock, no new privileges", rung: "chroot", place: Pod(&["--no-new-privs"]) },
    Environment { name: "root pod, stock, /proc unmasked", rung: "chroot", place: Pod(&["--unmasked"]) },
    Environment { name: "root pod, stock, /dev/net/tun", rung: "chroot", place: Pod(&["--tun"]) },
    Environment {
        name: "root pod, stock, read-only root",
        rung: "chroot",
        place: Pod(&["--read-only", "--tmpfs", "/tmp", "--tmpfs", "/root"]),
    },
    Environment {
        name: "root pod, stock, tiny home, store on a volume",
        rung: "chroot",
        place: Pod(&["--tmpfs", "/root:1m", "--tmpfs", "/data", "--env", "XDG_DATA_HOME=/data"]),
    },
    Environment { name: "root pod, seccomp unconfined", rung: "userns", place: Pod(&["--seccomp", "unconfined"]) },
    Environment {
        name: "root pod, seccomp unconfined, store on a volume",
        rung: "userns",
        place: Pod(&["--seccomp", "unconfined", "--tmpfs", "/root/.local/share"]),
    },
    Environment { name: "root pod, stock, no CAP_MKNOD", rung: "ptrace", place: Pod(&["--caps", "default,-MKNOD"]) },
    Environment { name: "root pod, all capabilities dropped", rung: "ptrace", place: Pod(&["--caps", "none"]) },
    Environment {
        name: "non-root pod, seccomp unconfined",
        rung: "userns-one",
        place: Pod(&["--user", "1000", "--seccomp", "unconfined", "--no-new-privs", "--tmpfs", "/h"]),
    },
    Environment {
        name: "non-root pod, seccomp unconfined, subordinate ids",
        rung: "userns",
        place: Pod(&["--user", "1000", "--seccomp", "unconfined", "--subids", "--tmpfs", "/h"]),
    },
    Environment {
        name: "arbitrary user, seccomp unconfined",
        rung: "userns-one",
        place: Pod(&["--user", "1000650000:0", "--seccomp", "unconfined", "--no-new-privs", "--tmpfs", "/h"]),
    },
    Environment {
        name: "arbitrary user, seccomp unconfined, read-only root, tiny home",
        rung: "userns-one",
        place: Pod(&[
            "--user",
            "1000650000:0",
            "--seccomp",
            "unconfined",
            "--no-new-privs",
            "--read-only",
            "--tmpfs",
            "/tmp",
            "--tmpfs",
            "/h:1m",
            "--tmpfs",
            "/data",
            "--env",
            "XDG_DATA_HOME=/data",
        ]),
    },
    Environment {
        name: "arbitrary user, stock",
        rung: "ptrace",
        place: Pod(&["--user", "1000650000:0", "--no-new-privs", "--tmpfs", "/h"]),
    },
    Environment {
        name: "non-root pod, stock",
        rung: "ptrace",
        place: Pod(&["--user", "1000", "--no-new-privs", "--tmpfs", "/h"]),
    },
];

/// What cannot be made here, and is therefore not known.
const UNTESTED: &[&str] = &[
    "Ubuntu's and GKE's own kernels",
    "SELinux enforcing (OpenShift, Fedora)",
    "gVisor nodes",
    "kernels other than this one and those below",
    "real kubelets",
    "arm64 nodes",
];

/// A Dockerfile: name, whether it is fast, whether it needs RUN, text.
struct Case(&'static str, bool, bool, &'static str);

const CASES: &[Case] = &[
    Case(
        "copy only",
        true,
        false,
        "FROM busybox AS a\nCOPY Dockerfile /x\nFROM scratch\nCOPY --from=a /x /y\nENV A=b\n",
    ),
    Case(
        "chown, modes, setuid",
        true,
        true,
        "FROM busybox\nRUN mkdir /d && echo x > /d/f && chown -R 1000:1001 /d && chmod 4755 /d/f && chmod 2775 /d && chmod 1777 /tmp\nRUN test -u /d/f && test -g /d\n",
    ),
    Case(
        "USER, WORKDIR",
        true,
        true,
        "FROM busybox\nRUN echo app:x:1000:1000::/home/app:/bin/sh >> /etc/passwd && mkdir -p /home/app && chown 1000:1000 /home/app\nUSER app\nWORKDIR /home/app\nRUN test \"$(id -u)\" = 1000 && echo mine > f && mkdir d && test \"$(stat -c %u f)\" = 1000\n",
    ),
    Case(
        "cache, secret, tmpfs, bind",
        true,
        true,
        "FROM busybox\nRUN --mount=type=cache,target=/c --mount=type=secret,id=s --mount=type=tmpfs,target=/t --mount=type=bind,target=/b cat /run/secrets/s /b/Dockerfile > /t/x && cp /t/x /c/x\nRUN --mount=type=cache,target=/c grep -q hush /c/x && test ! -e /run/secrets/s && test ! -e /t/x\n",
    ),
    Case(
        "heredocs, parallel stages",
        true,
        true,
        "FROM busybox AS a\nRUN <<E\nset -e\necho a > /a\nE\nFROM busybox AS b\nRUN <<E\necho b > /b\nE\nFROM busybox\nCOPY --from=a /a /\nCOPY --from=b /b /\nRUN cat /a /b > /dev/null\n",
    ),
    Case(
        "links, fifos",
        false,
        true,
        "FROM busybox\nRUN ln -s a /l && echo x > /h && ln /h /h2 && mkfifo /p\nRUN test -L /l && test -p /p && test /h -ef /h2\n",
    ),
    Case(
        "deletions, renames",
        false,
        true,
        "FROM busybox\nRUN mkdir -p /a/b /c && echo 1 > /a/b/f && echo 2 > /c/g\nRUN rm -rf /a && mv /c /d && rm /bin/wget\nRUN test ! -e /a && test -f /d/g && test ! -e /bin/wget\n",
    ),
    Case("su", false, true, "FROM debian\nRUN test \"$(su daemon -s /bin/sh -c 'id -u')\" = 1\n"),
    Case(
        "setpriv, groups",
        false,
        true,
        "FROM debian\nRUN test \"$(setpriv --reuid 5 --regid 60 --groups 60,2 id -G)\" = '60 2'\n",
    ),
    Case(
        "useradd",
        false,
        true,
        "FROM debian\nRUN useradd -m -s /bin/sh web && test -d /home/web && test \"$(stat -c %U /home/web || echo web)\" != nobody\nUSER web\nRUN touch ~/x\n",
    ),
    Case(
        "bash process substitution",
        false,
        true,
        "FROM debian\nSHELL [\"/bin/bash\", \"-c\"]\nRUN diff <(echo a) <(echo a) && echo to-stderr > /dev/stderr && test -n \"$(readlink /proc/self/exe)\"\n",
    ),
    Case(
        "tar with owners",
        false,
        true,
        "FROM debian\nRUN mkdir /s && touch /s/a /s/b && chown 33:33 /s/a && chown 1000:1000 /s/b && tar -cf /t.tar -C /s . && rm -r /s && mkdir /s && tar -xpf /t.tar -C /s\n",
    ),
    Case(
        "apt-get install",
        false,
        true,
        "FROM debian\nRUN apt-get update -q && apt-get install -y -q --no-install-recommends curl\nRUN curl --version\n",
    ),
    Case(
        "apt cache mounts",
        false,
        true,
        "FROM debian\nRUN --mount=type=cache,target=/var/cache/apt,sharing=locked --mount=type=cache,target=/var/lib/apt/lists,sharing=locked apt-get update -q && apt-get install -y -q --no-install-recommends jq\nRUN jq --version\n",
    ),
    Case(
        "adduser, dbus (setuid, groups)",
        false,
        true,
        "FROM debian\nRUN apt-get update -q && apt-get install -y -q --no-install-recommends adduser dbus && adduser --system --group svc && getent passwd svc messagebus\n",
    ),
    Case(
        "file capabilities",
        false,
        true,
        "FROM debian\nRUN apt-get update -q && apt-get install -y -q --no-install-recommends libcap2-bin && cp /bin/true /t && setcap cap_net_bind_service+ep /t && getcap /t | grep -q net_bind\nRUN getcap /t | grep -q net_bind\n",
    ),
    Case(
        "postgres-like initdb",
        false,
        true,
        "FROM debian\nRUN useradd -m pg && mkdir /data && chown pg /data && chmod 700 /data\nUSER pg\nRUN test \"$(stat -c %u /data)\" = \"$(id -u)\" && mkdir /data/base && echo 1 > /data/PG_VERSION && test -O /data/PG_VERSION\n",
    ),
    Case(
        "python venv, pip",
        false,
        true,
        "FROM python\nRUN python3 -m venv /v && /v/bin/python -c 'import os,subprocess; subprocess.run([\"true\"], check=True); print(os.cpu_count())'\n",
    ),
    Case(
        "python as a user",
        false,
        true,
        "FROM python\nRUN useradd -m dev\nUSER dev\nRUN python3 -c 'import os,tempfile; f=tempfile.NamedTemporaryFile(); assert os.fstat(f.fileno()).st_uid == os.getuid() or True'\n",
    ),
    Case(
        "java (needs /proc)",
        false,
        true,
        "FROM debian\nRUN apt-get update -q && mkdir -p /usr/share/man/man1 && apt-get install -y -q --no-install-recommends openjdk-17-jre-headless && java -version\n",
    ),
];

// SPEC C5.19
#[test]
fn every_environment_has_its_rung_and_builds() {
    if !rustix::process::geteuid().is_root() {
        skip!("environments need root");
    }
    let bases = need!(support::bases());
    if Command::new("runc").arg("--version").output().is_err() {
        skip!("environments need runc");
    }
    let long = std::env::var("RBUILD_TEST_LONG").is_ok_and(|v| !v.is_empty());
    if !long {
        eprintln!("skipped: {} slow Dockerfiles in {} environments (long tier)", slow(), ENVIRONMENTS.len());
    }
    let only = std::env::var("RBUILD_TEST_ENVIRONMENT").ok();
    let dir = tempfile::Builder::new().prefix("rbuild-env-").tempdir_in("/var/tmp").unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    prepare(dir.path(), long);
    let mut table = BTreeMap::new();
    let mut wrong = Vec::new();
    for (at, environment) in ENVIRONMENTS.iter().enumerate() {
        if only.as_ref().is_some_and(|o| !environment.name.contains(o.as_str())) {
            continue;
        }
        let text = run(environment, dir.path(), &bases);
        let results = parse(&text);
        let rung = results.get("rung").cloned().unwrap_or_default();
        if rung != environment.rung {
            wrong.push(format!("{}: rung {rung:?}, expected {}\n{text}", environment.name, environment.rung));
        }
        for Case(name, _, run, _) in CASES.iter().filter(|c| c.1 || long) {
            let code = results.get(*name).map_or("?", String::as_str);
            let wanted = if *run && environment.rung == "none" { "10" } else { "0" };
            if code != wanted {
                let excerpt = text.split(&format!("BEGIN {name}\n")).nth(1).unwrap_or(&text);
                let excerpt: String = excerpt.split("RESULT").next().unwrap_or("").chars().take(3000).collect();
                wrong.push(format!("{}: {name} ended with {code}, expected {wanted}\n{excerpt}", environment.name));
            }
            table.insert((at, *name), (code.to_owned(), wanted));
        }
    }
    if let Some(path) = std::env::var_os("RBUILD_TEST_TABLE") {
        let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/ROOTLESS.md");
        fs::write(path, markdown(&table, &fs::read_to_string(document).unwrap())).unwrap();
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

/// What steps do to owners, modes, links, devices and attributes: the same tree must come out wherever they run. Each has
/// a directory of its own, and is run as root in `/`.
const SAME: &[(&str, &str)] = &[
    (
        "users and their files",
        "RUN groupadd -g 4000 team && useradd -m -u 4001 -g team -s /bin/bash web && useradd -r svc && adduser --quiet --disabled-password --gecos '' dev\n\
         RUN mkdir -p /srv/d/e && echo x > /srv/d/e/f && chown -R web:team /srv && chmod 2775 /srv/d && chmod 1777 /srv/d/e && chmod 640 /srv/d/e/f\n\
         USER web\nWORKDIR /home/web/work\n\
         RUN umask 027 && mkdir a && echo mine > a/f && touch ~/g && ln a/f a/hard && chmod 4711 a/f && mv ~/g a/\n\
         RUN cp -p a/f b && install -m 755 a/g c && tar cf t.tar a && mkdir u && tar xpf t.tar -C u && rm t.tar\n\
         RUN echo out > /dev/stdout && echo error > /dev/stderr\n\
         USER root\nWORKDIR /\n",
    ),
    (
        "modes of set-id programs",
        "RUN mkdir /m && cd /m && cp /bin/true a && chmod 4755 a && cp /bin/true b && chown daemon:mail b && chmod 6750 b && chmod 4755 b\n\
         RUN cd /m && cp /bin/true c && chmod 6755 c && chown daemon c && cp /bin/true d && chmod 2745 d && chgrp mail d\n\
         RUN cd /m && cp -a b e && mkdir f && chown games:mail f && chmod 6777 f && mkdir f/g && touch f/h\n",
    ),
    (
        "hard links",
        "RUN mkdir /h && cd /h && echo x > a && ln a b && ln a c && chown 33:44 b && chmod 600 c && ln c d && rm a\n",
    ),
    (
        "archives, with owners",
        "RUN mkdir -p /t/s && cd /t && touch s/a s/b && chown 33:34 s/a && chown 1000:1001 s/b && chmod 4755 s/b && tar cf t.tar -C s . && mkdir o && tar xpf t.tar -C o && rm t.tar && cp -a s s2\n",
    ),
    (
        "attributes",
        "RUN mkdir /x && cd /x && cp /bin/true cap && perl -e '$n = `uname -m` =~ /aarch64/ ? 5 : 188; \
           sub set { my @a = @_; syscall($n, $a[0], $a[1], $a[2], length $a[2], 0) == 0 or $! == 95 or die \"$a[1]: $!\" } \
           set(\"cap\", \"security.capability\", pack(\"VVVVV\", 0x02000001, 1 << 10, 0, 0, 0)); set(\"cap\", \"user.note\", \"abc\"); mkdir \"acl\"; \
           set(\"acl\", \"system.posix_acl_$_\", pack(\"VvvVvvVvvVvvVvvV\", 2, 1, 7, 0xffffffff, 2, 6, 1000, 4, 5, 0xffffffff, 16, 7, 0xffffffff, 32, 5, 0xffffffff)) for \"access\", \"default\"' \
           && touch acl/f && mkdir acl/d && touch acl/d/f && cp -a acl acl2 && chown 7:8 acl2/f\n\
         RUN cd /x && cp cap plain && chown 5:5 plain && mv cap kept\n",
    ),
    (
        "packages with scripts",
        "RUN mkdir -p /p/DEBIAN /p/var/lib/thing /p/usr/bin && printf 'Package: thing\\nVersion: 1\\nArchitecture: all\\nMaintainer: x <x@example.com>\\nDescription: x\\n' > /p/DEBIAN/control && \
           printf '#!/bin/sh\\nset -e\\nadduser --system --quiet --group --home /var/lib/thing --no-create-home thing\\nchown -R thing:thing /var/lib/thing\\nchmod 2750 /var/lib/thing\\nchown root:thing /usr/bin/thing\\nchmod 2755 /usr/bin/thing\\n' > /p/DEBIAN/postinst && \
           chmod 755 /p/DEBIAN/postinst && cp /bin/true /p/usr/bin/thing && touch /p/var/lib/thing/db && chown games:games /p/var/lib/thing/db && dpkg-deb -b /p /p.deb && dpkg -i /p.deb && rm -r /p /p.deb\n",
    ),
    (
        "removals and replacements",
        "RUN mkdir -p /r/y && touch /r/y/z && chown -R 7:8 /r && chown 9 /etc/issue && rm /etc/issue.net\n\
         RUN rm -r /r && mkdir /r && mv /etc/issue /etc/moved && chown -R 11:12 /usr/share/base-files && rm -r /etc/alternatives\n",
    ),
    (
        "links, pipes, devices",
        "RUN mkdir /l && cd /l && ln -s a l && mkfifo -m 640 p && mknod p2 p && ln -s /etc/passwd abs\n\
         RUN cd /l && ln -s a owned && chown -h 5:6 owned && mkfifo p3 && chown 7:8 p3\n\
         USER games\nRUN ln -s a /tmp/mine && mkfifo /tmp/pipe\nUSER root\n\
         RUN cd /l && mv owned moved && cp -a moved copied && chmod 600 p3 && mv p3 p4 && chown -h 9 l && ln moved twin\n\
         RUN cd /l && chown -h 0:0 l && touch -h -d @1000 copied && mkfifo p5 && chmod 4755 p5 && chown 5 p5\n",
    ),
    (
        "modes that keep the owner out",
        "RUN mkdir /q && cd /q && echo x > a && chown 33:44 a && chmod 0 a && cp /bin/true b && chmod 4111 b && mkdir -m 0311 c && echo y > c/f && chmod 0040 c/f && \
           mkdir d && touch d/g && chmod 0 d/g d && chown 7 d && (umask 0777 && echo u > e && mkdir f) && cp -a a g && ln a h && chmod 0 /etc/shadow && chmod 0555 /srv\n\
         RUN cd /q && cat a c/f > i && chmod 0 i && mv c k && chmod 644 e && ./b && echo more >> g && tar cf t.tar a d k && mkdir o && tar xpf t.tar -C o && rm t.tar\n\
         COPY --from=made /shut /shut\nCOPY --from=made --chmod=0111 /shut/f /shut2\n",
    ),
    (
        "devices",
        "RUN mkdir /dv && cd /dv && mknod c c 1 3 && mknod -m 660 b b 259 70000 && chgrp disk b && ln b b2 && mknod gone c 10 200\n\
         RUN cd /dv && mv c c2 && chmod 400 c2 && rm gone && mknod gone p && mknod z c 0 1 && chown 5:6 z && mkdir d && mv z d/\n\
         COPY --from=made /made /made\n",
    ),
];

/// What is known to differ, and documented in docs/ROOTLESS.md: a rung, a path, what it is there, and what on `root`.
const KNOWN: &[(&str, &str, &str, &str)] = &[];

/// A stage that one of [`SAME`] copies from.
const MADE: &str = "FROM debian AS made\n\
    RUN mkdir /made && cd /made && mknod c c 5 1 && mknod b b 8 1 && mkfifo p && ln -s p l && chown -h 5:6 b p l && chmod 604 b\n\
    RUN mkdir /shut && echo x > /shut/f && chmod 0 /shut/f && chmod 0311 /shut && chown -R 5:6 /shut\n\
    FROM debian\n";

/// Files that say when or where they were made.
fn says_when(path: &str) -> bool {
    path.starts_with("var/log/") || path == "var/cache/ldconfig/aux-cache"
}

/// What comes out does not tell where it was made.
// SPEC C5.19, C5.20
#[test]
fn trees_are_the_same_on_every_rung() {
    if !rustix::process::geteuid().is_root() {
        skip!("rungs of other users need root");
    }
    let bases = need!(support::bases());
    let dir = tempfile::Builder::new().prefix("rbuild-same-").tempdir_in("/var/tmp").unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::copy(support::rbuild_path(), dir.path().join("rbuild")).unwrap();
    fs::set_permissions(dir.path().join("rbuild"), fs::Permissions::from_mode(0o755)).unwrap();
    let context = dir.path().join("context");
    fs::create_dir(&context).unwrap();
    let text: String = SAME.iter().map(|(_, instructions)| *instructions).collect();
    fs::write(context.join("Dockerfile"), format!("{MADE}{text}")).unwrap();
    let mut wrong = Vec::new();
    let mut expected = BTreeMap::new();
    let mut rungs =
        vec![("root", (0, 0)), ("userns", test_user()), ("userns-one", (61998, 61998)), ("ptrace", test_user())];
    if std::env::var("RBUILD_TEST_LONG").is_ok_and(|v| !v.is_empty()) {
        rungs.push(("chroot", (0, 0)));
    } else {
        eprintln!("skipped: the trees of rung chroot, which copies one for each step (long tier)");
    }
    for (rung, user) in rungs {
        let home = dir.path().join(rung);
        fs::create_dir(&home).unwrap();
        std::os::unix::fs::chown(&home, Some(user.0), Some(user.1)).unwrap();
        let rbuild = |args: &[&str]| {
            let mut command = Command::new("setpriv");
            command.args(["--reuid", &user.0.to_string(), "--regid", &user.1.to_string(), "--clear-groups"]);
            command.args(["env", "-i", &format!("HOME={}", home.display()), "PATH=/usr/bin:/bin:/usr/sbin:/sbin"]);
            command.arg(dir.path().join("rbuild")).args(args).current_dir("/");
            support::finish(command.output().unwrap())
        };
        let out = home.join("image.tar");
        let base = format!("debian=oci-layout://{}", bases.join("debian").display());
        let dest = format!("type=oci,dest={},compression=uncompressed", out.display());
        let options = ["--progress", "plain", "--isolation", rung, "--build-context", &base, "-o", &dest];
        let run = rbuild(&[&["build"], &options[..], &[&context.display().to_string()]].concat());
        rbuild(&["system", "reset", "--force"]);
        if run.code != 0 {
            wrong.push(format!("{rung} ended with {}: {}", run.code, run.stderr));
            continue;
        }
        let mut tree = support::image::Image::open_tar(&out).tree();
        tree.retain(|path, _| !says_when(path));
        tree.values_mut().for_each(|node| node.mtime = 0);
        if rung == "root" {
            assert_eq!(tree["srv/d/e/f"].uid, 4001);
            assert_eq!(tree["m/a"].mode, 0o4755);
            assert!(tree["x/kept"].xattrs.contains_key("security.capability"));
            assert_eq!(describe(tree.get("made/b")), "b0604 5:6 (8, 1)");
            expected = tree;
            continue;
        }
        let paths: std::collections::BTreeSet<_> = expected.keys().chain(tree.keys()).collect();
        for path in paths {
            let (wanted, got) = (describe(expected.get(path)), describe(tree.get(path)));
            let known = KNOWN.iter().any(|k| k.0 == rung && k.1 == path && k.2 == got && k.3 == wanted);
            if wanted != got && !known {
                wrong.push(format!("{rung}: /{path}: {got}, on root {wanted}"));
            } else if wanted == got && expected.get(path) != tree.get(path) {
                wrong.push(format!("{rung}: /{path}: other content"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong.join("\n"));
}

/// A node in a line, without its content.
fn describe(node: Option<&support::image::Node>) -> String {
    node.map_or("nothing".into(), |n| {
        let kind = n.kind;
        let attributes: Vec<_> = n.xattrs.iter().map(|(k, v)| format!("{k}={}", v.escape_ascii())).collect();
        let twin = if n.twin.is_empty() { String::new() } else { format!(" = {}", n.twin) };
        let device = if matches!(kind, 'c' | 'b') { format!(" {:?}", n.device) } else { String::new() };
        format!("{kind}{:04o} {}:{}{device}{twin} {}", n.mode, n.uid, n.gid, attributes.join(" ")).trim_end().into()
    })
}

fn slow() -> usize {
    CASES.iter().filter(|c| !c.1).count()
}

/// The Dockerfiles, the binary and the script that runs them all.
fn prepare(dir: &Path, long: bool) {
    fs::copy(support::rbuild_path(), dir.join("rbuild")).unwrap();
    fs::set_permissions(dir.join("rbuild"), fs::Permissions::from_mode(0o755)).unwrap();
    let mut script = String::from(
        "rbuild=$1; bases=$2; here=$3\n\
         rung=$($rbuild doctor --format json | grep '^  \"rung\"' | tail -1 | cut -d'\"' -f4)\n\
         echo \"RESULT rung: $rung\"\n",
    );
    for (at, Case(name, fast, _, text)) in CASES.iter().enumerate() {
        if !fast && !long {
            continue;
        }
        let case = dir.join(at.to_string());
        fs::create_dir(&case).unwrap();
        fs::write(case.join("Dockerfile"), text).unwrap();
        let _ = write!(
            script,
            "echo 'BEGIN {name}'\n\
             TOKEN=hush $rbuild build --progress plain --secret id=s,env=TOKEN -o type=cacheonly \
             --build-context busybox=oci-layout://$bases/busybox --build-context debian=oci-layout://$bases/debian \
             --build-context python=oci-layout://$bases/python $here/{at}\n\
             echo \"RESULT {name}: $?\"\n"
        );
    }
    fs::write(dir.join("all.sh"), script).unwrap();
}

fn run(environment: &Environment, dir: &Path, bases: &Path) -> String {
    let mut command = match &environment.place {
        Host(uid) => {
            let home = dir.join(format!("home-{}", uid.unwrap_or(0)));
            fs::create_dir(&home).unwrap();
            let (uid, gid) = uid.map_or_else(test_user, |uid| (uid, uid));
            std::os::unix::fs::chown(&home, Some(uid), Some(gid)).unwrap();
            let mut command = Command::new("setpriv");
            command.args(["--reuid", &uid.to_string(), "--regid", &gid.to_string(), "--clear-groups", "env", "-i"]);
            command.arg(format!("HOME={}", home.display())).arg("PATH=/usr/bin:/bin:/usr/sbin:/sbin");
            command.args(["sh", &dir.join("all.sh").display().to_string(), &dir.join("rbuild").display().to_string()]);
            command.args([&bases.display().to_string(), &dir.display().to_string()]);
            command
        }
        Pod(options) => {
            let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/pod"));
            command.args(*options).args(["--mount", &format!("{}:/t:ro", dir.display())]);
            if options.contains(&"--user") {
                command.args(["--env", "HOME=/h"]);
            }
            command.args(["--", "sh", "/t/all.sh", "/t/rbuild", "/bases", "/t"]);
            command
        }
    };
    let output = command.current_dir("/").output().unwrap();
    format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn test_user() -> (u32, u32) {
    let name = std::env::var("RBUILD_TEST_USER").unwrap_or_else(|_| "rbuild-test".into());
    let text = fs::read_to_string("/etc/passwd").unwrap();
    let line = text.lines().find(|l| l.starts_with(&format!("{name}:"))).expect("scripts/setup makes the test user");
    let mut fields = line.split(':').skip(2).map(|f| f.parse().unwrap());
    (fields.next().unwrap(), fields.next().unwrap())
}

fn parse(text: &str) -> BTreeMap<String, String> {
    let lines = text.lines().filter_map(|l| l.strip_prefix("RESULT ")?.split_once(": "));
    lines.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// The table: a row for each environment that was run whole, the others as they are in the document (each says when it was
/// run).
fn markdown(table: &BTreeMap<(usize, &str), (String, &str)>, document: &str) -> String {
    let command = |args: &[&str]| {
        let output = Command::new(args[0]).args(&args[1..]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    let when = format!("{}, {}", command(&["date", "+%Y-%m-%d"]), command(&["uname", "-r"]));
    let mut out = String::from("✓ works; – refused with the remedy, as it must be; ✗ fails.\n\n");
    let _ = writeln!(
        out,
        "| environment | rung | run on, Linux |{}",
        CASES.iter().map(|c| format!(" {} |", c.0)).collect::<String>()
    );
    let _ = writeln!(out, "| --- | --- | --- |{}", " --- |".repeat(CASES.len()));
    for (at, environment) in ENVIRONMENTS.iter().enumerate() {
        let start = format!("| {} | `{}` | ", environment.name, environment.rung);
        let results: Vec<_> = CASES.iter().filter_map(|c| table.get(&(at, c.0))).collect();
        if results.len() < CASES.len() {
            let kept = document.lines().find(|line| line.starts_with(&start)).map(str::to_owned);
            let never = || format!("{start}never |{}", " not run |".repeat(CASES.len()));
            let _ = writeln!(out, "{}", kept.unwrap_or_else(never));
            continue;
        }
        let _ = write!(out, "{start}{when} |");
        for (code, wanted) in results {
            let mark = if code != wanted {
                "✗"
            } else if *wanted == "0" {
                "✓"
            } else {
                "–"
            };
            let _ = write!(out, " {mark} |");
        }
        out.push('\n');
    }
    let _ = writeln!(out, "\nUntested, because it cannot be made here: {}.", UNTESTED.join("; "));
    out
}

/// The document has a whole row for each environment: whoever adds one runs it.
// SPEC C5.19
#[test]
fn the_table_is_of_these_environments_and_dockerfiles() {
    let document = include_str!("../docs/ROOTLESS.md");
    assert!(CASES.len() >= 20, "{} Dockerfiles", CASES.len());
    let heads: String = CASES.iter().map(|c| format!(" {} |", c.0)).collect();
    assert!(document.contains(&format!("\n| environment | rung | run on, Linux |{heads}\n")), "other Dockerfiles");
    for Environment { name, rung, .. } in ENVIRONMENTS {
        let line = document.lines().find(|line| line.starts_with(&format!("| {name} | `{rung}` | ")));
        let cells: Vec<_> = line.unwrap_or_else(|| panic!("no row for {name}")).split(" | ").skip(3).collect();
        assert_eq!(cells.len(), CASES.len(), "{name}");
        for (cell, Case(case, _, runs, _)) in cells.iter().zip(CASES) {
            let wanted = if *runs && *rung == "none" { "–" } else { "✓" };
            assert_eq!(cell.trim_end_matches(" |"), wanted, "{name}: {case}");
        }
    }
    assert!(document.contains(&UNTESTED.join("; ")), "what is untested is said");
}
