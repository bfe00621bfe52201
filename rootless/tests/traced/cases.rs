//! The checks.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use rootless::step::StepMount;

use crate::support::{Bench, Case};

pub(crate) const ALL: &[Case] = &[
    ("exit_codes_and_output", exit_codes_and_output),
    ("ids_are_pretended", ids_are_pretended),
    ("owners_are_recorded", owners_are_recorded),
    ("owners_of_links_follow_their_names", owners_of_links_follow_their_names),
    ("directories", directories),
    ("modes_do_not_keep_root_out", modes_do_not_keep_root_out),
    ("modes_are_recorded_where_they_keep_their_owner_out", modes_are_recorded_where_they_keep_their_owner_out),
    ("closed_files_are_open_to_root_alone", closed_files_are_open_to_root_alone),
    ("scripts", scripts),
    ("devices", devices),
    ("pipes_wait_for_the_other_side", pipes_wait_for_the_other_side),
    ("what_a_process_runs", what_a_process_runs),
    ("nothing_of_the_machine_is_found", nothing_of_the_machine_is_found),
    ("signals_and_groups", signals_and_groups),
    ("signals_come_before_calls_or_after", signals_come_before_calls_or_after),
    ("mounts_are_refused", mounts_are_refused),
    ("everything_ends_with_the_program", everything_ends_with_the_program),
];

fn out(b: &Bench, script: &str) -> String {
    let ran = b.run(&b.sh(script));
    assert_eq!(ran.code(), 0, "{script}: {ran:?}");
    assert_eq!(ran.err, "", "{script}");
    ran.out
}

fn exit_codes_and_output(b: &Bench) {
    let ran = b.run(&b.sh("echo out; echo err >&2; exit 7"));
    assert_eq!((ran.code(), ran.out.as_str(), ran.err.as_str()), (7, "out\n", "err\n"));
    assert_eq!(b.run(&b.spec(&["true"])).code(), 0);
    let ran = b.run(&b.spec(&["nonsense"]));
    assert_eq!((ran.code(), ran.err.contains("not found in $PATH")), (127, true), "{ran:?}");
    assert_eq!(out(b, "i=0; while [ $i -lt 300 ]; do i=$((i+1)); true; /bin/true; done; echo $i"), "300\n");
}

fn ids_are_pretended(b: &Bench) {
    assert_eq!(out(b, "id; stat -c '%u:%g %a' / /etc/passwd"), "uid=0(root) gid=0 groups=0\n0:0 755\n0:0 644\n");
    let mut spec = b.sh("id; touch /tmp/u; stat -c %u:%g /tmp/u; chown 0:0 /tmp/u");
    (spec.uid, spec.gid, spec.groups) = (1000, 1001, vec![1001, 27]);
    let ran = b.run(&spec);
    assert!(ran.out.contains("uid=1000(app) gid=1001 groups=1001,27\n1000:1001\n"), "{ran:?}");
    assert!(ran.code() != 0 && ran.err.contains("not permitted"), "{ran:?}");
    out(b, "rm /tmp/u");
}

fn owners_are_recorded(b: &Bench) {
    let script = "cd /tmp; mkdir d; echo x > f; ln -s f l; chown 33:44 d f; chown -h 5:6 l; chmod 4755 f
        stat -c '%n %u:%g %a %F' d f l; chown 1 f; stat -c '%u:%g %a' f; touch -d @5 f; stat -c %Y f; cp -a f g; stat -c %u:%g g";
    let want = "d 33:44 755 directory\nf 33:44 4755 regular file\nl 5:6 777 symbolic link\n1:44 755\n5\n1:44\n";
    assert_eq!(out(b, script), want);
    out(b, "rm -r /tmp/d /tmp/f /tmp/l /tmp/g");
}

/// Their record is in the directory.
fn owners_of_links_follow_their_names(b: &Bench) {
    let script = "cd /tmp; mkdir d; ln -s x l; chown -h 5:6 l; mv l d/m; ln -s y l; stat -c %u:%g l d/m
        ln d/m n; rm d/m; ln -s z d/m; stat -c %u:%g n d/m; chown -h 7 d/m; mv d e; stat -c %u:%g e/m";
    assert_eq!(out(b, script), "0:0\n5:6\n5:6\n0:0\n7:0\n");
    out(b, "rm -r /tmp/e /tmp/l /tmp/n");
}

fn directories(b: &Bench) {
    let script = "pwd; mkdir -p /tmp/a/b; cd /tmp/a/b; pwd; cd ..; pwd; ln -s /tmp/a /tmp/s; cd /tmp/s/b; pwd -P; cat ../../../etc/passwd | wc -l
        cd /; cd ../../..; pwd; readlink /tmp/s; cd /nowhere 2>/dev/null || echo no; cd /etc/passwd 2>/dev/null || echo no";
    assert_eq!(out(b, script), "/\n/tmp/a/b\n/tmp/a\n/tmp/a/b\n2\n/\n/tmp/a\nno\nno\n");
    let mut spec = b.sh("pwd");
    spec.cwd = "/work".into();
    assert_eq!(b.run(&spec).out, "/work\n");
    out(b, "rm -r /tmp/a /tmp/s");
}

fn modes_do_not_keep_root_out(b: &Bench) {
    let script =
        "cd /tmp; mkdir d; echo x > d/f; chmod 0 d/f; chown 3 d/f; chmod 0555 d; cat d/f; echo y > d/f; cat d/f
        echo z > d/g; chmod 0 d; ls d; stat -c '%a %u' d d/f; mv d e; rm -r e";
    assert_eq!(out(b, script), "x\ny\nf\ng\n0 0\n0 3\n");
}

/// Layers are made by a process that has no privileges either: what it reads must be open to it all the time.
fn modes_are_recorded_where_they_keep_their_owner_out(b: &Bench) {
    let script = "cd /tmp; echo x > f; mkdir d; chmod 0 f; chmod 0311 d; chown 3 f; echo run > p; chmod 4111 p; chown 0:5 p; chmod 4111 p
        (umask 0777; echo u > u; mkdir v; cp f w); exec 3> e; chmod 0 /proc/self/fd/3; echo late >&3; mv f g; ln g h; cat g u e
        stat -c '%n %a %u:%g' d e g h p u v w";
    let want = "x\nu\nlate\nd 311 0:0\ne 0 0:0\ng 0 3:0\nh 0 3:0\np 4111 0:5\nu 0 0:0\nv 0 0:0\nw 0 0:0\n";
    assert_eq!(out(b, script), want);
    let mode = |name: &str| fs::metadata(b.root.join("tmp").join(name)).expect("there").permissions().mode() & 0o7777;
    assert_eq!(["d", "e", "g", "p", "u", "v"].map(mode), [0o711, 0o600, 0o600, 0o4711, 0o600, 0o700]);
    // A mode that keeps nobody out is the file's own again.
    assert_eq!(
        out(b, "cd /tmp; chmod 604 u g; chmod 700 v; stat -c '%a %u' u g v; rm -r d e g h p v w"),
        "604 0\n604 3\n700 0\n"
    );
    let mut names = [0; 64];
    let length = rustix::fs::listxattr(b.root.join("tmp/u"), &mut names[..]).expect("lists");
    assert!(!names[..length].starts_with(b"user.rootlesscontainers"), "nothing is left to be recorded");
    out(b, "rm /tmp/u");
}

fn closed_files_are_open_to_root_alone(b: &Bench) {
    out(b, "cd /tmp; echo x > f; chmod 0 f; echo y > g; chown 9:1001 g; chmod 0040 g; echo z > h; chown 1000 h; chmod 0 h; mkdir d; chmod 0311 d; echo t > d/t
        cp /bin/busybox true; chmod 4111 true; cat f g h > /dev/null; [ -r f ] && ls d > /dev/null; echo x > f");
    let mut spec = b.sh("cd /tmp; cat f; cat g; cat h; echo x > f; ls d; ./true; [ -r f ] || echo closed; [ -r g ] && echo open; cat true; cd d && cat t; chmod 400 ../h; cat ../h");
    (spec.uid, spec.gid, spec.groups) = (1000, 1001, vec![1001]);
    let ran = b.run(&spec);
    assert_eq!(ran.out, "y\nclosed\nopen\nt\nz\n", "{ran:?}");
    assert_eq!(ran.err.matches("ermission denied").count(), 5, "{ran:?}");
    out(b, "cd /tmp; rm -r f g h d true");
}

fn scripts(b: &Bench) {
    let script = "cd /tmp; printf '#!/bin/sh -e\\necho $0 $# $1\\n' > s; printf '#! /tmp/s\\n' > t; chmod 755 s t; ./s one; /tmp/t x
        echo 'echo none' > n; chmod 755 n; ./n; chmod 644 s; ./s 2>/dev/null || echo no; rm s t n";
    assert_eq!(out(b, script), "./s 1 one\n/tmp/s 2 /tmp/t\nnone\nno\n");
}

fn devices(b: &Bench) {
    let script = "stat -c '%F %t:%T %a %u' /dev/null; echo x > /dev/null; head -c 4 /dev/zero | wc -c; cat /dev/null; mknod /tmp/n c 1 3
        echo y > /tmp/n; stat -c '%F %u' /tmp/n; rm /tmp/n; mknod /tmp/d b 8 0; stat -c '%F %t' /tmp/d; cat /tmp/d 2>/dev/null || echo no; rm /tmp/d
        echo a | cat /dev/stdin; echo b > /dev/stdout; (exec 3</etc/hosts; ls /proc/self/fd | wc -l) >/dev/null";
    let want = "character special file 1:3 666 0\n4\ncharacter special file 0\nblock special file 8\nno\na\nb\n";
    assert_eq!(out(b, script), want);
}

fn pipes_wait_for_the_other_side(b: &Bench) {
    let script = "cd /tmp; /bin/busybox mkfifo -m 640 p; (sleep 0.2; echo late > p) & cat p; (sleep 0.2; cat p) & echo other > p; wait; rm p";
    assert_eq!(out(b, script), "late\nother\n");
    // Nobody but the step holds a pipe: a writer that comes too early would find the last reader, and its line would be lost.
    let script = "cd /tmp; /bin/busybox mkfifo p; i=0; while [ $i -lt 200 ]; do i=$((i+1)); cat p & echo $i > p; wait; done | wc -l; rm p";
    assert_eq!(out(b, script), "200\n");
}

fn what_a_process_runs(b: &Bench) {
    assert_eq!(
        out(b, "readlink /proc/self/exe; readlink /proc/self/cwd; cat /proc/self/comm"),
        "/bin/busybox\n/\nbusybox\n"
    );
    // What runs is busybox, by a name that it has no applet for.
    let ran = b.run(&b.sh("/proc/self/exe echo again"));
    assert_eq!((ran.code(), ran.err.as_str()), (127, "exe: applet not found\n"));
}

fn nothing_of_the_machine_is_found(b: &Bench) {
    let outside = b.root.parent().expect("a directory above");
    fs::write(outside.join("secret"), "hush").expect("writes");
    fs::set_permissions(outside.join("secret"), fs::Permissions::from_mode(0o644)).expect("ours");
    let path = outside.join("secret");
    let shown = path.display();
    let script = format!(
        "cat {shown}; stat {shown}; chmod 600 {shown}; touch {shown}; ln -s {shown} /tmp/l; cat /tmp/l; cat ../secret; ls ..; \
         cd {}; cat /proc/1/environ; {shown}",
        outside.display()
    );
    let ran = b.run(&b.sh(&script));
    assert!(!ran.out.contains("hush") && !ran.out.contains("passwd"), "{ran:?}");
    assert!(ran.out.contains("etc"), "the directory above the root is the root: {ran:?}");
    assert_eq!(fs::metadata(&path).expect("still there").permissions().mode() & 0o777, 0o644);
    let ran = b.run(
        &b.sh("unshare -U true; echo $?; mount -t tmpfs tmpfs /tmp; echo $?; /bin/busybox chroot / true; echo $?"),
    );
    assert_eq!(ran.out, "1\n1\n1\n", "{ran:?}");
    out(b, "rm /tmp/l");
}

fn signals_and_groups(b: &Bench) {
    assert_eq!(out(b, "sh -c 'kill -TERM $$' 2>/dev/null; echo $?"), "143\n");
    assert_eq!(out(b, "trap 'echo got' USR1; kill -USR1 $$; sleep 0.1; echo end"), "got\nend\n");
    assert_eq!(b.run(&b.sh("kill -9 $$; exit 3")).code(), 137);
    // A stopped one is in a tracer's stop.
    let script =
        "sleep 0.3 & kill -STOP $!; sleep 0.6; grep -c 'State:.[Tt]' /proc/$!/status; kill -CONT $!; wait $!; echo $?";
    assert_eq!(out(b, script), "1\n0\n");
}

fn signals_come_before_calls_or_after(b: &Bench) {
    // The kernel has a call that waits for an answer fail with EINTR, as no call for a file does.
    let script = "trap : CHLD; cd /tmp; i=0; while [ $i -lt 300 ]; do i=$((i+1)); true & : > f; [ -e f ]; cd /; cd /tmp; done; wait; pwd; rm f";
    assert_eq!(out(b, script), "/tmp\n");
    let script = "cd /tmp; /bin/busybox mkfifo p; (/bin/busybox timeout 0.2 cat p; echo $?) 2>/dev/null
        trap 'echo seen' ALRM; (sleep 0.2; kill -ALRM $$) & echo x 2>/dev/null > p; trap - ALRM; wait; rm p; echo end";
    assert_eq!(out(b, script), "143\nseen\nend\n");
}

fn mounts_are_refused(b: &Bench) {
    let mut spec = b.spec(&["true"]);
    spec.mounts = vec![StepMount::Tmpfs { target: "/tmp".into(), size: 0, mode: 0o755 }];
    assert!(b.run(&spec).failure().contains("without a mount namespace"));
}

fn everything_ends_with_the_program(b: &Bench) {
    let ran = b.run(&b.sh("setsid sleep 1000 & sleep 1000 & echo started"));
    assert_eq!((ran.code(), ran.out.as_str()), (0, "started\n"));
}
