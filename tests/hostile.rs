//! A Dockerfile is hostile input: none of these may see or touch anything outside.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::print_stderr, reason = "skip reasons are collected by scripts/test")]
#![allow(missing_docs, unreachable_pub, reason = "a test program")]
#![allow(clippy::type_complexity, reason = "shapes are compared, not kept")]

#[path = "hostile/bombs.rs"]
mod bombs;
#[path = "hostile/calls.rs"]
mod calls;
#[path = "hostile/git.rs"]
mod git;
#[path = "hostile/limits.rs"]
mod limits;
#[path = "hostile/races.rs"]
mod races;
#[path = "hostile/registries.rs"]
mod registries;
#[path = "hostile/secrets.rs"]
mod secrets;
mod support;
#[path = "hostile/table.rs"]
mod table;

use std::io::Write as _;

use support::Bench;

// SPEC A5.06, C5.08
#[test]
fn one_step_cannot_read_another_steps_environment_or_secret() {
    need_run!();
    for (rung, bench) in rungs().iter().zip(benches()) {
        std::fs::write(bench.path("token"), "top-s3cret-value").unwrap();
        const SECRETS: &str = "--mount=type=secret,id=t --mount=type=secret,id=t,env=TOKEN";
        const LOOK: &str =
            "for p in /proc/[0-9]*; do cat $p/environ $p/root/run/secrets/t $p/cwd/run/secrets/t; ls $p/fd; done";
        // Two steps that wait for each other through a cache mount; the second one searches /proc while the first holds a secret.
        let (holder, thief) = if races::mounts(rung) {
            (
                format!(
                    "--mount=type=cache,target=/c {SECRETS} touch /c/up; for i in $(seq 200); do [ -e /c/done ] && break; sleep 0.1; done"
                ),
                format!(
                    "--mount=type=cache,target=/c for i in $(seq 100); do [ -e /c/up ] && break; sleep 0.1; done; {{ {LOOK}; }} > /loot 2>/dev/null; touch /c/done"
                ),
            )
        } else {
            // One step at a time has a cache there: for as long as the first one lasts the other one goes on looking.
            (
                format!("{SECRETS} sleep 4"),
                format!("for i in $(seq 25); do {LOOK}; sleep 0.2; done > /loot 2>/dev/null"),
            )
        };
        bench.dockerfile(&format!(
            "FROM busybox AS holder\nRUN {holder}\nFROM busybox AS thief\nRUN {thief}\n\
             FROM scratch\nCOPY --from=thief /loot /loot\nCOPY --from=holder /etc/passwd /p\n"
        ));
        let secret = format!("id=t,src={}", bench.path("token").display());
        let image = bench.build_image(&["--secret", &secret]);
        let loot = String::from_utf8_lossy(&image.node("loot").content).into_owned();
        assert!(!loot.contains("top-s3cret-value"), "{rung}: the secret leaked");
        assert!(!loot.contains("TOKEN="), "{rung}: another step's environment is readable");
    }
}

// SPEC C5.06
#[test]
fn steps_see_no_credentials_store_or_builder() {
    need_run!();
    for bench in benches() {
        std::fs::create_dir_all(bench.path("home/.docker")).unwrap();
        std::fs::write(
            bench.path("home/.docker/config.json"),
            r#"{"auths":{"example.com":{"auth":"Y2FuYXJ5OmNhbmFyeQ=="}}}"#,
        )
        .unwrap();
        let store = bench.store().display().to_string();
        let home = bench.path("home").display().to_string();
        bench.dockerfile(&format!(
            "FROM busybox\nRUN {{ env; cat /proc/1/environ /proc/1/cmdline /proc/self/mountinfo; ls -la /proc/1/fd /proc/self/fd; ls {store} {home} && echo VISI''BLE; }} > /seen 2>&1; true\n"
        ));
        let image = bench.build_image(&[]);
        let seen = String::from_utf8_lossy(&image.node("seen").content).into_owned();
        assert!(!seen.contains("VISIBLE") && !seen.contains("Y2FuYXJ5"), "{seen}");
        assert!(!seen.contains("socket:"), "a step inherited a socket: {seen}");
    }
}

// SPEC A6.10, A8.06
#[test]
fn copy_and_workdir_do_not_leave_the_root() {
    need_run!();
    for bench in benches() {
        let outside = bench.path("outside");
        std::fs::write(&outside, "OUTSIDE").unwrap();
        bench
            .file("ok", "fine")
            .symlink(&outside.display().to_string(), "abs")
            .symlink("../outside", "up")
            .symlink("/proc/self/fd", "fds");
        // Links inside a copied tree are copied as links; a link as the source itself is resolved inside the context.
        for source in ["abs", "up", "fds/0", "../outside"] {
            bench.dockerfile(&format!("FROM busybox\nCOPY {source} /got\n"));
            let run = bench.build(&["-o", &format!("type=oci,dest={}", bench.path("x.tar").display())]);
            if run.code == 0 {
                let image = support::image::Image::open_tar(&bench.path("x.tar"));
                assert!(
                    !image.has("got") || !String::from_utf8_lossy(&image.node("got").content).contains("OUTSIDE"),
                    "COPY {source} escaped"
                );
            }
        }
        // Destinations through links planted in the image.
        bench.dockerfile(&format!(
            "FROM busybox\nRUN ln -s {} /evil && ln -s /proc/self/fd /fds && ln -s ../../../../../../../../../tmp /up\nCOPY ok /evil/x\nCOPY ok /up/planted\n",
            bench.path("out").display()
        ));
        bench.build(&[]);
        assert!(!bench.path("out/x").exists(), "COPY wrote through a link of the image");
        assert!(!std::path::Path::new("/tmp/planted").exists());
        bench.dockerfile("FROM busybox\nWORKDIR /proc/self/fd/3\nRUN pwd\n");
        let run = bench.build(&[]);
        assert!(!run.stderr.contains("OUTSIDE"));
        bench.dockerfile("FROM busybox\nSHELL [\"/proc/self/exe\", \"-c\"]\nRUN __step\n");
        assert_ne!(bench.build(&[]).code, 0);
    }
}

// SPEC A6.17
#[test]
fn archives_do_not_leave_the_root() {
    need_run!();
    for bench in benches() {
        let mut tar = tar::Builder::new(Vec::new());
        let target = bench.path("out").display().to_string();
        let mut link = |name: &str, to: &str, kind: tar::EntryType| {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_size(0);
            header.set_mode(0o777);
            header.set_link_name_literal(to).unwrap();
            header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            tar.append(&header, std::io::empty()).unwrap();
        };
        link("a/link", &target, tar::EntryType::Symlink);
        link("dots", "../../../../../../../..", tar::EntryType::Symlink);
        let mut file = |name: &str| {
            let mut header = tar::Header::new_gnu();
            header.set_size(4);
            header.set_mode(0o644);
            header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            tar.append(&header, &b"evil"[..]).unwrap();
        };
        file("a/link/escaped");
        file("../../../../../../../tmp/rbuild-escaped");
        file("/tmp/rbuild-escaped-absolute");
        file("dots/tmp/rbuild-escaped-dots");
        let bytes = tar.into_inner().unwrap();
        std::fs::File::create(bench.ctx().join("evil.tar")).unwrap().write_all(&bytes).unwrap();
        bench.dockerfile("FROM busybox\nADD evil.tar /x/\n");
        bench.build(&[]);
        assert!(!bench.path("out/escaped").exists());
        for name in ["rbuild-escaped", "rbuild-escaped-absolute", "rbuild-escaped-dots"] {
            assert!(!std::path::Path::new("/tmp").join(name).exists(), "{name}");
        }
    }
}

// SPEC A6.11, C6.10
#[test]
fn smuggled_attributes_are_not_taken_at_face_value() {
    need_run!();
    for bench in benches() {
        bench.file("d/f", "x").file("d/g", "y");
        let set = |name: &str, value: &str, path: &str| {
            std::process::Command::new("setfattr")
                .args(["-n", name, "-v", value])
                .arg(bench.ctx().join(path))
                .status()
                .is_ok_and(|s| s.success())
        };
        if !set("user.overlay.opaque", "y", "d") || !set("user.rootlesscontainers", "0sCAE=", "d/f") {
            skip!("this file system has no user xattrs");
        }
        set("user.overlay.whiteout", "y", "d/g");
        set("user.mine", "kept", "d/f");
        bench.dockerfile("FROM busybox AS lower\nRUN mkdir /d && echo old > /d/old\nFROM lower\nCOPY d /d\n");
        let image = bench.build_image(&[]);
        assert!(image.has("d/old"), "an opaque mark came from the context");
        assert!(image.has("d/g"), "a whiteout mark came from the context");
        assert_eq!(image.node("d/f").uid, 0);
        for layer in &image.layers {
            for (path, node) in layer {
                assert!(
                    !node.xattrs.keys().any(|k| k.starts_with("user.overlay.") || k.starts_with("user.rootless")),
                    "{path}"
                );
            }
        }
    }
}

// SPEC C5.08
#[test]
fn leftovers_die_with_their_step() {
    need_run!();
    for bench in benches() {
        bench.dockerfile(
            "FROM busybox\nRUN (setsid sleep 3141 &) ; (trap '' TERM HUP INT; sleep 3142) & sleep 0.1; echo ok > /ok\n",
        );
        assert_eq!(bench.build_image(&[]).text("ok"), "ok\n");
        let running = std::process::Command::new("pgrep").args(["-f", "^sleep 314[12]"]).output().unwrap();
        assert!(running.stdout.is_empty(), "processes survived their step");
    }
}

/// What a step tries: a name, and a line of shell. What it prints is searched for the canary.
const ATTEMPTS: &[(&str, &str)] = &[
    // Credentials, environment, the builder's memory and descriptors.
    ("environment", "env"),
    ("environments of all processes", "cat /proc/*/environ /proc/*/task/*/environ"),
    ("command lines", "cat /proc/*/cmdline"),
    ("roots of all processes", "cat /proc/[0-9]*/root$HOST_FILE"),
    ("directories of all processes", "for p in /proc/[0-9]*; do cat $p/cwd/host-file $p/cwd/../host-file; done"),
    (
        "descriptors of all processes",
        "for p in /proc/[0-9]*; do for f in $p/fd/*; do case $(readlink $f) in pipe:*|socket:*|/dev/*|anon*) ;; *) timeout 1 head -c 4096 $f;; esac; done; done",
    ),
    ("descriptor as directory", "for n in 3 4 5 6 7 8 9; do cat /proc/self/fd/$n/../../../../../../..$HOST_FILE; done"),
    ("memory of the parent", "dd if=/proc/1/mem bs=4096 skip=1024 count=64; dd if=/proc/$PPID/mem bs=4096 count=1"),
    ("maps and stacks", "cat /proc/1/maps /proc/1/auxv /proc/1/stack /proc/1/syscall | grep CANARY"),
    ("home", "cat $HOST_HOME/.docker/config.json /root/.docker/config.json ~/.docker/config.json"),
    ("agent", "echo $SSH_AUTH_SOCK; ls /run/buildkit; cat /run/secrets/*"),
    // Files of the machine and of the store.
    ("absolute name", "cat $HOST_FILE"),
    ("upwards", "cat ../../../../../../../../../..$HOST_FILE"),
    ("symlink", "ln -s $HOST_FILE /tmp/l && cat /tmp/l"),
    ("hard link", "ln $HOST_FILE /tmp/h && cat /tmp/h"),
    ("symlink to proc", "ln -s /proc/1/root /tmp/r && cat /tmp/r$HOST_FILE"),
    ("store", "ls $HOST_STORE && echo CANARY-STORE; cat $HOST_STORE/meta.db"),
    (
        "mountinfo paths",
        "for d in $(grep -o 'lowerdir=[^,]*' /proc/self/mountinfo | cut -d= -f2 | tr : ' '); do ls $d/../.. && echo CANARY-STORE; done",
    ),
    (
        "magic links",
        "cat /proc/self/root$HOST_FILE /proc/thread-self/root$HOST_FILE /proc/self/cwd/..$HOST_FILE /dev/fd/3/..$HOST_FILE",
    ),
    ("write outside", "echo evil > $HOST_FILE; echo evil >> /proc/1/root$HOST_FILE"),
    ("remove outside", "rm -rf $HOST_HOME $HOST_FILE"),
    // Leaving the root.
    (
        "chroot, the classic",
        "mkdir /tmp/c; chroot /tmp/c /bin/sh -c 'cd ../../../../..; cat .'$HOST_FILE; cp /bin/busybox /tmp/c/sh; mkdir -p /tmp/c/d; chroot /tmp/c /sh -c : ",
    ),
    ("mount bind", "mkdir -p /tmp/m; mount --bind / /tmp/m && echo CANARY-MOUNT"),
    ("mount proc", "mkdir -p /tmp/p; mount -t proc proc /tmp/p && echo CANARY-MOUNT"),
    ("mount tmpfs", "mkdir -p /tmp/t; mount -t tmpfs x /tmp/t && echo CANARY-MOUNT"),
    (
        "remount sys",
        "mount -o remount,rw /proc/sys && echo CANARY-MOUNT; mount -o remount,rw /sys && echo CANARY-MOUNT",
    ),
    ("unmask", "umount /proc/kcore /proc/keys /proc/sys && echo CANARY-MOUNT; umount -l /proc && echo CANARY-MOUNT"),
    ("pivot_root", "mkdir -p /tmp/n/o; pivot_root /tmp/n /tmp/n/o && echo CANARY-PIVOT"),
    (
        "user namespace",
        "unshare -Ur id && echo CANARY-NS; unshare -m true && echo CANARY-NS; unshare -n true && echo CANARY-NS",
    ),
    ("other namespaces", "nsenter -t 1 -m -p -n cat $HOST_FILE; nsenter --mount=/proc/1/ns/mnt cat $HOST_FILE"),
    (
        "cgroup release agent",
        "mkdir -p /tmp/g; mount -t cgroup -o memory x /tmp/g && echo CANARY-CGROUP; echo 1 > /sys/fs/cgroup/cgroup.procs && echo CANARY-CGROUP; mkdir /sys/fs/cgroup/x && echo CANARY-CGROUP",
    ),
    // Devices and the kernel.
    (
        "block devices",
        "for n in 0 16 1; do mknod /tmp/b$n b 8 $n; dd if=/tmp/b$n bs=512 count=1 && echo CANARY-DISK; mknod /tmp/v$n b 254 $n; dd if=/tmp/v$n bs=512 count=1 | head -c 1 | grep -q . && echo CANARY-DISK; done",
    ),
    (
        "memory devices",
        "mknod /tmp/mem c 1 1; mknod /tmp/kmem c 1 2; dd if=/tmp/mem bs=512 count=1 && echo CANARY-MEM; dd if=/dev/mem bs=1 count=1 && echo CANARY-MEM",
    ),
    ("kernel core", "head -c 16 /proc/kcore | grep -q . && echo CANARY-KCORE"),
    ("kernel keys", "grep . /proc/keys && echo CANARY-KEYS"),
    ("kernel symbols", "grep -v '^0000000000000000' /proc/kallsyms | head -n 1 | grep . && echo CANARY-KALLSYMS"),
    ("sysrq", "echo h > /proc/sysrq-trigger && echo CANARY-SYSRQ"),
    ("core pattern", "echo '|/x' > /proc/sys/kernel/core_pattern && echo CANARY-SYSCTL"),
    (
        "modprobe path",
        "echo /x > /proc/sys/kernel/modprobe && echo CANARY-SYSCTL; echo 1 > /proc/sys/vm/drop_caches && echo CANARY-SYSCTL",
    ),
    (
        "sys",
        "for f in /sys/kernel/uevent_helper /sys/power/state /sys/module/*/parameters/*; do (echo 0 > $f) && echo CANARY-SYS $f; done",
    ),
    ("modules", "insmod /bin/busybox && echo CANARY-MODULE; modprobe dummy && echo CANARY-MODULE"),
    ("clock", "date -s '2001-01-01'; hwclock -w; [ $(date +%Y) = 2001 ] && echo CANARY-CLOCK"),
    ("swap and loop", "swapoff -a && echo CANARY-SWAP; losetup /dev/loop0 /bin/busybox && echo CANARY-LOOP"),
    ("reboot", "reboot -f && echo CANARY-REBOOT"),
    ("attributes of trust", "touch /tmp/x; setfattr -n trusted.overlay.opaque -v y /tmp/x && echo CANARY-TRUSTED"),
    (
        "interfaces",
        "ip link set lo down && echo CANARY-NET; ip link add d type dummy && echo CANARY-NET; ip addr add 10.9.9.9/24 dev lo && echo CANARY-NET; iptables -L && echo CANARY-NET",
    ),
    // The builder and other processes.
    (
        "the program itself",
        "for p in /proc/1/exe /proc/self/exe /proc/$PPID/exe; do (echo evil > $p) && echo CANARY-EXE; done; true",
    ),
    (
        "signals",
        "K=$(grep PPid /proc/$PPID/status | tr -dc 0-9); [ ${K:-0} -gt 1 ] && kill -9 $K; for p in $(ls /proc | grep '^[0-9]*$'); do [ $p = $$ ] || [ $p = $PPID ] || kill -9 $p; done",
    ),
    ("priorities", "renice -20 1 && renice -20 $$ && echo CANARY-NICE; chrt -f 99 true && echo CANARY-NICE"),
    // Other steps: their caches, their memory, what is left of them.
    ("other caches", "cat /cache/loot /other/loot; find / -xdev -name loot -exec cat {} +"),
    ("shared memory", "cat /dev/shm/loot; ls /dev/mqueue | grep loot && echo CANARY-QUEUE"),
    (
        "names of others",
        "(echo evil > /etc/hosts) && echo CANARY-HOSTS; (echo evil > /etc/resolv.conf) && echo CANARY-RESOLV; hostname evil && echo CANARY-NAME",
    ),
    (
        "terminals",
        "for t in /dev/pts/* /dev/tty /dev/console; do timeout 1 head -c 1 $t > /tmp/tty-out; done; [ -c /dev/console ] && (echo x > /dev/console) && echo CANARY-CONSOLE",
    ),
    // Leftovers and floods.
    ("left-over processes", "(setsid sleep 1618 &) ; (trap '' TERM HUP INT; setsid sleep 1618 &)"),
    ("fork bomb of a size", "(for i in $(seq 200); do sleep 1618 & done) 2> /tmp/bomb"),
    (
        "files that cannot be removed",
        "mkdir -p /tmp/deep; cd /tmp/deep; for i in $(seq 60); do mkdir ddddddddddddddddddddddddddddddddddd && cd ddddddddddddddddddddddddddddddddddd || break; done; chmod 0 /tmp/deep",
    ),
    ("log flood", "yes flood | head -c 3000000 >&2"),
    ("names with control characters", "touch \"/tmp/$(printf 'a\\033]0;evil\\007\\n-rf')\""),
];

/// The rungs this user can pin.
fn rungs() -> &'static [&'static str] {
    if rustix::process::geteuid().is_root() { &["root", "chroot"] } else { &["userns", "userns-one", "ptrace"] }
}

/// A bench on each of them.
fn benches() -> impl Iterator<Item = Bench> {
    rungs().iter().map(|rung| {
        let mut bench = Bench::new();
        bench.args.extend(["--isolation".into(), (*rung).into()]);
        bench
    })
}

/// Every attempt on every rung: nothing may come out, and nothing may be different afterwards.
// SPEC C5.06, C5.19
#[test]
fn steps_get_nothing_out_on_any_rung() {
    need_run!();
    for rung in rungs() {
        let mut bench = Bench::new();
        std::fs::create_dir_all(bench.path("home/.docker")).unwrap();
        let host_file = bench.path("host-file");
        std::fs::write(&host_file, "CANARY-FILE").unwrap();
        std::fs::write(
            bench.path("home/.docker/config.json"),
            r#"{"auths":{"example.com":{"auth":"Q0FOQVJZOkNBTkFSWQ=="}},"note":"CANARY-CREDENTIAL"}"#,
        )
        .unwrap();
        std::fs::write(bench.path("token"), "CANARY-SECRET").unwrap();
        bench.env.push(("HOSTILE_ENVIRONMENT".into(), "CANARY-ENVIRONMENT".into()));
        // One step has secrets and fills a cache; the next has neither.
        let mut text = String::from(
            "FROM busybox AS victim\nRUN --mount=type=cache,id=private,target=/cache --mount=type=secret,id=t --mount=type=secret,id=t,env=TOKEN \
               cp /run/secrets/t /cache/loot; echo CANARY-SHM > /dev/shm/loot\n\
             FROM busybox\nCOPY --from=victim /etc/passwd /tmp/order\nRUN --mount=type=bind,source=attempts,target=/attempts sh /attempts || true\n",
        );
        text.push_str("RUN echo done > /done\n");
        bench.dockerfile(&text);
        let mut script = format!(
            "HOST_FILE={} HOST_HOME={} HOST_STORE={}\nmkdir -p /r\n",
            host_file.display(),
            bench.path("home").display(),
            bench.store().display()
        );
        for (at, (_, line)) in ATTEMPTS.iter().enumerate() {
            script.push_str(&format!("( cd /; {line} ) > /r/{at} 2>&1 < /dev/null\n"));
        }
        bench.file("attempts", &script);
        let secret = format!("id=t,src={}", bench.path("token").display());
        let before = std::fs::read(support::rbuild_path()).unwrap();
        let image = bench.build_image(&["--isolation", rung, "--secret", &secret]);
        assert_eq!(image.text("done"), "done\n", "{rung}: the build went on");
        let tree = image.tree();
        let (mut ran, mut leaks) = (0, Vec::new());
        for (at, (name, line)) in ATTEMPTS.iter().enumerate() {
            let Some(node) = tree.get(&format!("r/{at}")) else { panic!("{rung}: {name} did not run") };
            let out = String::from_utf8_lossy(&node.content);
            // The line itself is in the environment of nobody, but in the arguments of the shell.
            let leaked =
                out.lines().find(|l| l.contains("CANARY") && !l.contains("echo CANARY") && !l.contains("grep CANARY"));
            if let Some(leaked) = leaked.filter(|_| !tolerated(rung, name)) {
                leaks.push(format!("{name} ({line}): {leaked}"));
            }
            ran += 1;
        }
        assert!(leaks.is_empty(), "{rung}:\n{}", leaks.join("\n"));
        assert!(
            tree.iter()
                .all(|(path, node)| path.starts_with("r/")
                    || !String::from_utf8_lossy(&node.content).contains("CANARY-")),
            "{rung}: a secret is in the image"
        );
        assert_eq!(std::fs::read_to_string(&host_file).unwrap(), "CANARY-FILE", "{rung}: a file of the machine");
        assert!(bench.path("home/.docker/config.json").exists(), "{rung}: the home was removed");
        assert!(before == std::fs::read(support::rbuild_path()).unwrap(), "{rung}: the program was changed");
        let running = std::process::Command::new("pgrep").args(["-f", "^sleep 1618"]).output().unwrap();
        assert!(running.stdout.is_empty(), "{rung}: processes survived their step");
        eprintln!("hostile: {ran} attempts on rung {rung}, none got anything");
    }
}

/// What a rung is documented not to keep from steps (docs/SECURITY.md).
fn tolerated(rung: &str, name: &str) -> bool {
    // Docker's capabilities have MKNOD, and no device cgroup is promised: what is behind a node is the machine's matter.
    matches!((rung, name), ("root" | "chroot", "block devices"))
        // Its `/proc`, `/etc/hosts` and `/etc/resolv.conf` are files of the step's own tree, which are thrown away with it.
        || matches!((rung, name), ("chroot" | "ptrace", "names of others" | "sysrq" | "the program itself"))
}

/// An image layout with these layers.
fn layout(dir: &std::path::Path, layers: &[Vec<u8>]) {
    let plain: Vec<_> = layers.iter().map(|l| (l.clone(), "tar", l.clone())).collect();
    layout_of(dir, &plain);
}

/// An image layout with these layers: the blob, the end of its media type, and what it unpacks to.
fn layout_of(dir: &std::path::Path, layers: &[(Vec<u8>, &str, Vec<u8>)]) {
    let blobs = dir.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    let digest = |bytes: &[u8]| rbuild::base::Digest::sha256(bytes).to_string();
    let put = |bytes: &[u8]| {
        let digest = digest(bytes);
        std::fs::write(blobs.join(digest.trim_start_matches("sha256:")), bytes).unwrap();
        digest
    };
    let ids: Vec<String> = layers.iter().map(|(_, _, tar)| digest(tar)).collect();
    let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let config = serde_json::json!({
        "architecture": arch, "os": "linux", "config": {"Env": ["PATH=/bin"]}, "rootfs": {"type": "layers", "diff_ids": ids}
    });
    let config = config.to_string();
    let descriptors: Vec<_> = layers
        .iter()
        .map(|(blob, kind, _)| {
            let kind = format!("application/vnd.oci.image.layer.v1.{kind}");
            serde_json::json!({"mediaType": kind, "digest": put(blob), "size": blob.len()})
        })
        .collect();
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": put(config.as_bytes()), "size": config.len()},
        "layers": descriptors
    })
    .to_string();
    let index = serde_json::json!({
        "schemaVersion": 2,
        "manifests": [{"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": put(manifest.as_bytes()), "size": manifest.len(),
                       "annotations": {"org.opencontainers.image.ref.name": "latest"}}]
    });
    std::fs::write(dir.join("index.json"), index.to_string()).unwrap();
    std::fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}

/// A tar of entries with names and links as they are written, however wrong.
fn raw_tar(entries: &[(&str, tar::EntryType, &str, &[u8])]) -> Vec<u8> {
    let mut out = tar::Builder::new(Vec::new());
    for (name, kind, link, content) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_size(content.len() as u64);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_mode(if kind.is_dir() { 0o755 } else { 0o777 });
        if !link.is_empty() {
            header.set_link_name_literal(link).unwrap();
        }
        if matches!(kind, tar::EntryType::Char | tar::EntryType::Block) {
            header.set_device_major(1).unwrap();
            header.set_device_minor(3).unwrap();
        }
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        out.append(&header, *content).unwrap();
    }
    out.into_inner().unwrap()
}

/// Base images that are traps, and what a Dockerfile does on them: the directory beside them must stay as it is.
// SPEC C2.01
#[test]
fn base_images_that_are_traps() {
    use tar::EntryType::{Block, Char, Directory, Fifo, Link, Regular, Symlink};
    need_run!();
    let busybox = std::fs::read("/bin/busybox").unwrap();
    for rung in rungs() {
        let bench = Bench::new();
        let outside = bench.path("outside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("canary"), "CANARY-OUTSIDE").unwrap();
        std::fs::write(outside.join("passwd"), "evil:x:0:0::/:/bin/sh\n").unwrap();
        let out = outside.display().to_string();
        let canary = format!("{out}/canary");
        let up = format!("../../../../../../../../../..{out}");
        let sh: &[(&str, tar::EntryType, &str, &[u8])] =
            &[("bin", Directory, "", b""), ("bin/sh", Regular, "", &busybox), ("bin/cat", Link, "bin/sh", b"")];
        type Trap<'a> = (&'a str, Vec<(&'a str, tar::EntryType, &'a str, &'a [u8])>, &'a str);
        let traps: Vec<Trap<'_>> = vec![
            (
                "a file through a symlink",
                vec![("l", Symlink, &out, b""), ("l/planted", Regular, "", b"x")],
                "COPY f /f",
            ),
            ("a file through dots", vec![("../../../../planted", Regular, "", b"x")], "COPY f /f"),
            ("a hard link to outside", vec![("h", Link, &canary, b"")], "COPY --from=trap /h /f"),
            (
                "a hard link through a symlink",
                vec![("l", Symlink, &out, b""), ("h", Link, "l/canary", b"")],
                "COPY --from=trap /h /f",
            ),
            (
                "a whiteout through a symlink",
                vec![("l", Symlink, &out, b""), ("l/.wh.canary", Regular, "", b"")],
                "COPY f /f",
            ),
            ("a whiteout of dots", vec![(".wh...", Regular, "", b""), ("d/.wh..", Regular, "", b"")], "COPY f /f"),
            (
                "an opaque mark through a symlink",
                vec![("l", Symlink, &out, b""), ("l/.wh..wh..opq", Regular, "", b"")],
                "COPY f /f",
            ),
            (
                "devices",
                vec![("c", Char, "", b""), ("b", Block, "", b""), ("p", Fifo, "", b"")],
                "COPY --from=trap /c /b /d/",
            ),
            ("COPY to a symlink", vec![("l", Symlink, &out, b"")], "COPY f /l/planted"),
            ("COPY to a relative symlink", vec![("l", Symlink, &up, b"")], "COPY f /l/planted"),
            ("COPY from a symlink", vec![("l", Symlink, &canary, b"")], "COPY --from=trap /l /f"),
            ("COPY of a symlinked directory", vec![("l", Symlink, &out, b"")], "COPY --from=trap /l/ /f/"),
            ("a pattern through a symlink", vec![("l", Symlink, &out, b"")], "COPY --from=trap /l/c* /f/"),
            ("WORKDIR through a symlink", vec![("l", Symlink, &out, b"")], "WORKDIR /l/planted"),
            ("ADD through a symlink", vec![("l", Symlink, &out, b"")], "ADD a.tar /l/"),
            (
                "a cache mount at a symlink",
                vec![("l", Symlink, &out, b"")],
                "RUN --mount=type=cache,target=/l/planted echo x > /l/planted/x",
            ),
            (
                "a bind mount of a symlink",
                vec![("l", Symlink, &out, b"")],
                "RUN --mount=from=trap,source=/l,target=/m cat /m/canary > /f; true",
            ),
            (
                "a tmpfs at a symlink",
                vec![("l", Symlink, &out, b"")],
                "RUN --mount=type=tmpfs,target=/l cat /l/canary > /f; true",
            ),
            (
                "a secret at a symlink",
                vec![("run", Directory, "", b""), ("run/secrets", Symlink, &out, b"")],
                "RUN --mount=type=secret,id=t true",
            ),
            ("/etc is elsewhere", vec![("etc", Symlink, &out, b"")], "RUN echo evil > /etc/canary; true"),
            (
                "/etc/resolv.conf is elsewhere",
                vec![("etc", Directory, "", b""), ("etc/resolv.conf", Symlink, &canary, b"")],
                "RUN echo evil > /etc/resolv.conf; true",
            ),
            (
                "/etc/hosts is elsewhere",
                vec![("etc", Directory, "", b""), ("etc/hosts", Symlink, &up, b"")],
                "RUN echo evil > /etc/hosts; true",
            ),
            (
                "/proc, /dev and /sys are elsewhere",
                vec![("proc", Symlink, &out, b""), ("dev", Symlink, &out, b""), ("sys", Symlink, &out, b"")],
                "RUN cat /proc/canary /dev/canary /sys/canary > /f; true",
            ),
            ("/tmp is elsewhere", vec![("tmp", Symlink, &out, b"")], "RUN echo evil > /tmp/planted; true"),
            ("users are elsewhere", vec![("etc", Symlink, &out, b"")], "USER evil\nRUN true"),
            ("the shell is elsewhere", vec![("bin2", Symlink, "/proc/self/exe", b"")], "SHELL [\"/bin2\"]\nRUN __step"),
        ];
        assert_eq!(traps.iter().map(|trap| trap.0).collect::<Vec<_>>(), table::TRAPS, "the table of cases");
        bench.file("f", "mine");
        std::fs::write(bench.ctx().join("a.tar"), raw_tar(&[("planted", Regular, "", b"x")])).unwrap();
        std::fs::write(bench.path("token"), "t").unwrap();
        let secret = format!("id=t,src={}", bench.path("token").display());
        let before = listing(&outside);
        for (name, entries, instruction) in &traps {
            let dir = bench.path("trap");
            let _ = std::fs::remove_dir_all(&dir);
            layout(&dir, &[raw_tar(sh), raw_tar(entries)]);
            let context = format!("trap=oci-layout://{}", dir.display());
            bench.dockerfile(&format!("FROM trap\n{instruction}\n"));
            let tar = bench.path("trap.tar");
            let dest = format!("type=oci,dest={}", tar.display());
            let run =
                bench.build(&["--isolation", rung, "--build-context", &context, "--secret", &secret, "-o", &dest]);
            assert!(!run.stderr.contains("panicked") && run.code != 70, "{rung}: {name}: {}", run.stderr);
            assert_eq!(listing(&outside), before, "{rung}: {name}: something outside is different");
            assert!(!run.stderr.contains("CANARY-OUTSIDE"), "{rung}: {name}: {}", run.stderr);
            if run.code == 0 {
                let image = support::image::Image::open_tar(&tar);
                let leaked = image
                    .tree()
                    .into_iter()
                    .find(|(_, n)| String::from_utf8_lossy(&n.content).contains("CANARY-OUTSIDE"));
                assert!(leaked.is_none(), "{rung}: {name}: {:?}", leaked.map(|(path, _)| path));
            }
        }
        eprintln!("hostile: {} traps on rung {rung}, none caught anything", traps.len());
    }
}

/// Names and contents below a directory.
fn listing(dir: &std::path::Path) -> Vec<(std::ffi::OsString, Vec<u8>)> {
    let mut out: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            (entry.file_name(), std::fs::read(entry.path()).unwrap_or_default())
        })
        .collect();
    out.sort();
    out
}

/// Documents that are bombs: each is refused in little time and memory, and never by a crash.
// SPEC E4.10
#[test]
fn documents_that_are_bombs() {
    need!(support::bases());
    let bench = Bench::new();
    let dir = bench.path("bomb");
    let empty = raw_tar(&[("d", tar::EntryType::Directory, "", b"")]);
    let deep = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
    let entry = format!(
        r#"{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:{}","size":2}}"#,
        "0".repeat(64)
    );
    let long = long();
    let many = format!(
        r#"{{"schemaVersion":2,"manifests":[{}]}}"#,
        vec![entry.as_str(); if long { 1_000_000 } else { 100_000 }].join(",")
    );
    let documents: Vec<(&str, String)> = vec![
        ("deep JSON", deep.clone()),
        ("deep annotations", format!(r#"{{"schemaVersion":2,"manifests":[],"annotations":{deep}}}"#)),
        ("very many entries", many),
        (
            "a million small entries",
            format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, vec!["{}"; 1_000_000].join(",")),
        ),
        ("negative size", entry.replace("\"size\":2", "\"size\":-1")),
        (
            "a size beyond everything",
            format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entry.replace(":2}", ":18446744073709551615}")),
        ),
        (
            "a digest that is a path",
            format!(
                r#"{{"schemaVersion":2,"manifests":[{}]}}"#,
                entry.replace(&"0".repeat(64), "../../../../etc/passwd")
            ),
        ),
        ("an unknown algorithm", format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entry.replace("sha256", "md5"))),
        ("not JSON", "\u{0}\u{1}".into()),
        ("nothing", String::new()),
        ("numbers that are none", r#"{"schemaVersion":1e999,"manifests":[]}"#.into()),
    ];
    assert_eq!(documents.iter().map(|d| d.0).collect::<Vec<_>>(), table::DOCUMENTS, "the table of cases");
    bench.dockerfile("FROM bomb\nCOPY Dockerfile /f\n");
    let context = format!("bomb=oci-layout://{}", dir.display());
    for (name, text) in &documents {
        let _ = std::fs::remove_dir_all(&dir);
        layout(&dir, std::slice::from_ref(&empty));
        std::fs::write(dir.join("index.json"), text).unwrap();
        let run = bench.build(&["--build-context", &context]);
        assert!(![0, 70, 101, 134, 139, -1].contains(&run.code), "{name}: exit code {}: {}", run.code, run.stderr);
        assert!(!run.stderr.contains("panicked") && run.stderr.contains("error: "), "{name}: {}", run.stderr);
        assert!(!run.stderr.contains("root:x:0"), "{name}: a file of the machine was shown");
    }
    // Dockerfiles, beside an image that is none of this.
    let _ = std::fs::remove_dir_all(&dir);
    layout(&dir, &[empty]);
    let dockerfiles = [
        ("recursive arguments", "ARG a=${b}\nARG b=${a}${a}\nFROM scratch\nENV x=$a$b\n".to_owned()),
        (
            "growing words",
            format!(
                "FROM scratch\nENV a0=xxxxxxxxxx\n{}",
                (0..40).map(|n| format!("ENV a{}=$a{n}$a{n}$a{n}$a{n}\n", n + 1)).collect::<String>()
            ),
        ),
        ("deep words", format!("FROM scratch\nENV x={}1{}\n", "${a:-".repeat(20_000), "}".repeat(20_000))),
        ("deep lists", format!("FROM scratch\nCMD {deep}\n")),
        ("a stage of itself", "FROM a AS a\nCOPY --from=a / /\n".to_owned()),
        (
            "stages in a circle",
            "FROM scratch AS a\nCOPY --from=b / /\nFROM scratch AS b\nCOPY --from=a / /\n".to_owned(),
        ),
        ("a heredoc without end", "FROM scratch\nCOPY <<EOF /f\nx\n".to_owned()),
        ("many stages", (0..3_000).map(|n| format!("FROM scratch AS s{n}\n")).collect()),
    ];
    assert_eq!(dockerfiles.iter().map(|d| d.0).collect::<Vec<_>>(), table::DOCKERFILES, "the table of cases");
    for (name, text) in dockerfiles {
        bench.dockerfile(&text);
        let run = bench.build(&[]);
        assert!(![70, 101, 134, 139, -1].contains(&run.code), "{name}: exit code {}: {}", run.code, run.stderr);
        assert!(!run.stderr.contains("panicked"), "{name}: {}", run.stderr);
    }
}

/// Whether there is time for everything.
fn long() -> bool {
    std::env::var_os("RBUILD_TEST_LONG").is_some_and(|v| !v.is_empty())
}

/// A web server that answers everything with the same bytes.
fn server(answer: Vec<u8>) -> (String, std::sync::Arc<std::sync::Mutex<Vec<String>>>) {
    use std::io::{BufRead as _, BufReader};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let seen = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let log = std::sync::Arc::clone(&seen);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut head = String::new();
            let mut lines = BufReader::new(stream.try_clone().unwrap());
            while lines.read_line(&mut head).is_ok_and(|n| n > 2) {}
            log.lock().unwrap().push(head);
            let _ = stream.write_all(&answer);
        }
    });
    (host, seen)
}

/// Registries that answer with malice: an error each, soon, and nothing of the user's goes where it should not.
// SPEC E3.06, E3.14
#[test]
fn registries_that_lie() {
    let ok = |kind: &str, body: &str| {
        format!(
            "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )
        .into_bytes()
    };
    let to = |place: &str| {
        format!("HTTP/1.1 307 X\r\nLocation: {place}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").into_bytes()
    };
    let wants = |realm: &str| {
        format!("HTTP/1.1 401 X\r\nWWW-Authenticate: Bearer realm=\"{realm}\",service=\"x\"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            .into_bytes()
    };
    let manifest = "application/vnd.oci.image.manifest.v1+json";
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let answers: Vec<(&str, Vec<u8>)> = vec![
        ("a manifest that is none", ok(manifest, "{}")),
        ("deep JSON", ok(manifest, &deep)),
        ("HTML", ok("text/html", "<html>")),
        ("a manifest beyond the limit", ok(manifest, &format!("{{\"x\":\"{}\"}}", "x".repeat(20 << 20)))),
        ("a length that is not kept", b"HTTP/1.1 200 OK\r\nContent-Type: application/vnd.oci.image.manifest.v1+json\r\nContent-Length: 1000\r\nConnection: close\r\n\r\n{".to_vec()),
        ("no HTTP at all", b"SSH-2.0-evil\r\n\r\n".to_vec()),
        ("nothing", Vec::new()),
        ("a redirect to files", to("file:///etc/passwd")),
        ("a redirect to the metadata service", to("http://169.254.169.254/latest/meta-data/")),
        ("a redirect to itself", to("/v2/")),
        ("a token server that is a file", wants("file:///etc/passwd")),
        ("a token server at the metadata service", wants("http://169.254.169.254/token")),
        ("a token server that is no URL", wants("::::")),
        ("a header with a line break", b"HTTP/1.1 200 OK\r\nDocker-Content-Digest: sha256:x\r\n evil: y\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}".to_vec()),
    ];
    assert_eq!(answers.iter().map(|answer| answer.0).collect::<Vec<_>>(), table::ANSWERS, "the table of cases");
    // Those that may be the network's fault are asked again, with pauses.
    let long = long();
    let patient = ["a length that is not kept", "no HTTP at all", "nothing"];
    if !long {
        eprintln!(
            "skipped: registries that say nothing sensible at all: they are asked again for a while (scripts/test --long)"
        );
    }
    std::thread::scope(|scope| {
        for (name, answer) in answers.into_iter().filter(|(name, _)| long || !patient.contains(name)) {
            scope.spawn(move || registry_that_lies(name, answer));
        }
    });
}

fn registry_that_lies(name: &str, answer: Vec<u8>) {
    let bench = Bench::new();
    let (host, seen) = server(answer);
    std::fs::create_dir_all(bench.path("home/.docker")).unwrap();
    let auth = format!(r#"{{"auths":{{"{host}":{{"auth":"Q0FOQVJZOkNBTkFSWQ=="}}}}}}"#);
    std::fs::write(bench.path("home/.docker/config.json"), auth).unwrap();
    bench.dockerfile(&format!("FROM {host}/x\nCOPY Dockerfile /f\n"));
    let run = bench.build(&[]);
    assert!(![0, 70, 101, 134, 139, -1].contains(&run.code), "{name}: exit code {}: {}", run.code, run.stderr);
    assert!(!run.stderr.contains("panicked") && run.stderr.contains("error: "), "{name}: {}", run.stderr);
    assert!(!run.stderr.contains("root:x:0") && !run.stderr.contains("Q0FOQVJZ"), "{name}: {}", run.stderr);
    if name.contains("metadata service") {
        assert!(run.stderr.contains("link-local address 169.254.169.254"), "{name}: {}", run.stderr);
    }
    // Credentials are for a server that asks with a challenge it can be given an answer to.
    let unasked = seen.lock().unwrap().iter().any(|head| head.to_lowercase().contains("authorization: basic"));
    assert!(!unasked, "{name}: credentials were sent unasked");
}
