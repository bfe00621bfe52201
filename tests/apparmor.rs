//! Where AppArmor restricts who may have a user namespace, and what a container may mount: the rung, what doctor says, and that its
//! remedy is one (SPEC C5.19). Changes the machine's policy, so it runs in the machine of `scripts/kernels` alone.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::print_stderr, reason = "skip reasons are collected by scripts/test")]
#![allow(missing_docs, unreachable_pub, reason = "a test program")]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use support::Run;

/// The profile that container engines put their containers under, in our words: files and the network as before, no mounts, nothing of
/// others.
const CONTAINER: &str = "
#include <tunables/global>
profile rbuild-test-container flags=(attach_disconnected,mediate_deleted) {
  #include <abstractions/base>
  network,
  capability,
  file,
  umount,
  signal (receive) peer=unconfined,
  signal (receive) peer=runc,
  signal (send,receive) peer=rbuild-test-container,
  ptrace (trace,read,tracedby,readby) peer=rbuild-test-container,
  deny mount,
  deny @{PROC}/* w,
  deny @{PROC}/{[^1-9],[^1-9][^0-9],[^1-9s][^0-9y][^0-9s],[^1-9][^0-9][^0-9][^0-9]*}/** w,
  deny @{PROC}/sys/[^k]** w,
  deny @{PROC}/sysrq-trigger rwklx,
  deny @{PROC}/kcore rwklx,
  deny /sys/[^f]*/** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/kernel/security/** rwklx,
}
";

/// The Dockerfile that is built everywhere.
const DOCKERFILE: &str = "FROM busybox\n\
    RUN --mount=type=cache,target=/c --mount=type=tmpfs,target=/t echo x > /c/x && echo y > /t/y && mkdir /d && chown 1000:1001 /d\n\
    USER 1000\nRUN test \"$(id -u)\" = 1000 && test \"$(stat -c %u:%g /d)\" = 1000:1001 && echo z > /tmp/z && cat /proc/self/status > /dev/null\n";

/// Why nothing can be tried, or `None`.
fn missing() -> Option<&'static str> {
    let is_emulated = std::env::var("RBUILD_TEST_EMULATED").is_ok_and(|v| !v.is_empty());
    let has = |path: &str| Path::new(path).exists();
    match () {
        () if !is_emulated => Some("changes the machine's AppArmor policy: `scripts/kernels root:apparmor` runs it"),
        () if !has("/sys/kernel/security/apparmor/profiles") => Some("the kernel has no AppArmor"),
        () => None,
    }
}

/// Loads a profile (`--replace`) or takes it away (`--remove`).
fn load(how: &str, profile: &str) {
    let mut parser = Command::new("apparmor_parser").arg(how).stdin(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut parser.stdin.take().unwrap(), profile.as_bytes()).unwrap();
    assert!(parser.wait().unwrap().success(), "{profile}");
}

fn open_to_all(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// A place that everybody can read: the program and the context.
fn stage() -> tempfile::TempDir {
    let dir = tempfile::Builder::new().prefix("rbuild-apparmor-").tempdir_in("/var/tmp").unwrap();
    open_to_all(dir.path());
    fs::copy(support::rbuild_path(), dir.path().join("rbuild")).unwrap();
    open_to_all(&dir.path().join("rbuild"));
    fs::create_dir(dir.path().join("context")).unwrap();
    fs::write(dir.path().join("context/Dockerfile"), DOCKERFILE).unwrap();
    dir
}

/// rbuild as the test user, who has subordinate ids.
fn as_user(dir: &Path, args: &[&str]) -> Run {
    let user = std::env::var("RBUILD_TEST_USER").unwrap();
    let mut command = Command::new("setpriv");
    command.args([
        "--reuid",
        &user,
        "--regid",
        &user,
        "--init-groups",
        "env",
        "-i",
        "PATH=/usr/bin:/bin:/usr/sbin:/sbin",
    ]);
    command.arg(format!("HOME=/home/{user}")).arg(dir.join("rbuild")).args(args).current_dir("/");
    support::finish(command.output().unwrap())
}

fn build(dir: &Path, bases: &Path) -> Run {
    let base = format!("busybox=oci-layout://{}", bases.join("busybox").display());
    let context = dir.join("context").display().to_string();
    as_user(
        dir,
        &["build", "--no-cache", "--progress", "plain", "--build-context", &base, "-o", "type=cacheonly", &context],
    )
}

fn doctor(dir: &Path) -> Value {
    let run = as_user(dir, &["doctor", "--format", "json"]);
    serde_json::from_str(&run.stdout).unwrap_or_else(|e| panic!("{e}: {}", run.stdout))
}

// SPEC C5.19
#[test]
fn c5_19_a_profile_without_user_namespaces_is_named_and_its_remedy_helps() {
    if let Some(why) = missing() {
        skip!("{why}");
    }
    let mask = fs::read_to_string("/sys/kernel/security/apparmor/features/namespaces/mask").unwrap_or_default();
    if !mask.contains("userns_create") {
        skip!("the kernel's AppArmor does not mediate user namespaces");
    }
    let bases: PathBuf = need!(support::bases());
    let dir = stage();
    assert_eq!(doctor(dir.path())["probe"]["rung"], "userns", "before");
    // A profile of these rules lets a program do all but what it does not name.
    let rules = "file,\n capability,\n network,\n mount,\n umount,\n pivot_root,\n signal,\n ptrace,\n unix,\n";
    let program = dir.path().join("rbuild");
    let strict = format!("abi <abi/4.0>,\nprofile rbuild-test-strict {} {{\n {rules}}}\n", program.display());
    load("--replace", &strict);
    let report = doctor(dir.path());
    let rungs = report["rungs"].as_array().unwrap();
    let blocker = &rungs.iter().find(|rung| rung["rung"] == "userns").unwrap()["blockers"][0];
    let what = blocker["what"].as_str().unwrap();
    assert_eq!(what, "the AppArmor profile rbuild-test-strict forbids user namespaces", "{report:#}");
    // Without anybody's help it builds all the same.
    assert_eq!(report["probe"]["rung"], "ptrace", "{report:#}");
    let run = build(dir.path(), &bases);
    assert_eq!(run.code, 0, "{}", run.stderr);
    // The remedy is a command: what stands between its markers is the profile.
    load("--remove", &strict);
    let (_, rest) = blocker["remedy"].as_str().unwrap().split_once("<<'EOF'").unwrap();
    let (_, rest) = rest.split_once('\n').unwrap();
    let (profile, _) = rest.split_once("\nEOF").unwrap();
    load("--replace", &format!("{profile}\n"));
    let report = doctor(dir.path());
    let run = build(dir.path(), &bases);
    load("--remove", &format!("{profile}\n"));
    assert_eq!(report["probe"]["rung"], "userns", "{report:#}");
    let facts = report["facts"].as_array().unwrap();
    assert!(facts.iter().any(|fact| fact["value"] == "rbuild (unconfined)"), "{report:#}");
    assert_eq!(run.code, 0, "{}", run.stderr);
}

// SPEC C5.19
#[test]
fn c5_19_containers_whose_profile_forbids_mounts_build() {
    if let Some(why) = missing() {
        skip!("{why}");
    }
    need!(support::bases());
    load("--replace", CONTAINER);
    let dir = stage();
    let script = "$1 doctor; $1 build --no-cache --progress plain --build-context busybox=oci-layout:///bases/busybox -o type=cacheonly /t/context
        echo \"RESULT $? $($1 doctor --format json | grep '\"rung\"' | head -1)\"";
    fs::write(dir.path().join("all.sh"), script).unwrap();
    let pods: [(&[&str], &str); 4] = [
        (&[], "chroot"),
        (&["--seccomp", "unconfined"], "chroot"),
        (&["--user", "1000", "--no-new-privs", "--tmpfs", "/h", "--env", "HOME=/h"], "ptrace"),
        (&["--user", "1000", "--seccomp", "unconfined", "--tmpfs", "/h", "--env", "HOME=/h"], "ptrace"),
    ];
    let mut wrong = Vec::new();
    for (options, rung) in pods {
        let mut pod = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/pod"));
        pod.args(["--apparmor", "rbuild-test-container"]).args(options);
        pod.args(["--mount", &format!("{}:/t:ro", dir.path().display()), "--", "sh", "/t/all.sh", "/t/rbuild"]);
        let run = support::finish(pod.current_dir("/").output().unwrap());
        if !run.stdout.contains(&format!("RESULT 0     \"rung\": \"{rung}\",")) {
            wrong.push(format!("{options:?}: not built on {rung}\n{}\n{}", run.stdout, run.stderr));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}
