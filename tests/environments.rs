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
    Environment { name: "root pod, seccomp unconfined", rung: "userns", place: Pod(&["--seccomp", "unconfined"]) },
    Environment {
        name: "root pod, seccomp unconfined, store on a volume",
        rung: "userns",
        place: Pod(&["--seccomp", "unconfined", "--tmpfs", "/root/.local/share"]),
    },
    Environment { name: "root pod, stock, no CAP_MKNOD", rung: "none", place: Pod(&["--caps", "default,-MKNOD"]) },
    Environment { name: "root pod, all capabilities dropped", rung: "none", place: Pod(&["--caps", "none"]) },
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
        name: "non-root pod, stock",
        rung: "none",
        place: Pod(&["--user", "1000", "--no-new-privs", "--tmpfs", "/h"]),
    },
];

/// What cannot be made here, and is therefore not known.
const UNTESTED: &[&str] = &[
    "AppArmor enforcing (Ubuntu, GKE)",
    "SELinux enforcing (OpenShift, Fedora)",
    "gVisor nodes",
    "kernels before 6.18",
    "real kubelets, cgroup delegation",
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

#[test]
fn every_environment_has_its_rung_and_builds() {
    if !rustix::process::geteuid().is_root() {
        skip!("environments need root");
    }
    let bases = match support::bases() {
        Ok(bases) => bases,
        Err(why) => skip!("{why}"),
    };
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
        for Case(name, fast, run, _) in CASES.iter().filter(|c| c.1 || long) {
            let code = results.get(*name).map_or("?", String::as_str);
            let wanted = if *run && environment.rung == "none" { "10" } else { "0" };
            if code != wanted {
                let excerpt = text.split(&format!("BEGIN {name}\n")).nth(1).unwrap_or(&text);
                let excerpt: String = excerpt.split("RESULT").next().unwrap_or("").chars().take(3000).collect();
                wrong.push(format!("{}: {name} ended with {code}, expected {wanted}\n{excerpt}", environment.name));
            }
            let _ = fast;
            table.insert((at, *name), (code.to_owned(), wanted));
        }
    }
    if let Some(path) = std::env::var_os("RBUILD_TEST_TABLE") {
        fs::write(path, markdown(&table, long)).unwrap();
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
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

fn markdown(table: &BTreeMap<(usize, &str), (String, &str)>, long: bool) -> String {
    let command = |args: &[&str]| {
        let output = Command::new(args[0]).args(&args[1..]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    let mut out = format!(
        "Run on {} with Linux {}{}. ✓ works; – refused with the remedy, as it must be; ✗ fails.\n\n",
        command(&["date", "+%Y-%m-%d"]),
        command(&["uname", "-r"]),
        if long { "" } else { ", the fast Dockerfiles only" }
    );
    let _ = writeln!(
        out,
        "| environment | rung |{}",
        CASES.iter().filter(|c| c.1 || long).map(|c| format!(" {} |", c.0)).collect::<String>()
    );
    let _ =
        writeln!(out, "| --- | --- |{}", CASES.iter().filter(|c| c.1 || long).map(|_| " --- |").collect::<String>());
    for (at, environment) in ENVIRONMENTS.iter().enumerate() {
        let _ = write!(out, "| {} | `{}` |", environment.name, environment.rung);
        for Case(name, ..) in CASES.iter().filter(|c| c.1 || long) {
            let mark = match table.get(&(at, *name)) {
                Some((code, wanted)) if code == wanted => {
                    if *wanted == "0" {
                        "✓"
                    } else {
                        "–"
                    }
                }
                Some(_) => "✗",
                None => "not run",
            };
            let _ = write!(out, " {mark} |");
        }
        out.push('\n');
    }
    let _ = writeln!(out, "\nUntested, because it cannot be made here: {}.", UNTESTED.join("; "));
    out
}
