//! `rbuild run`: trying what was built.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::print_stderr, reason = "skip reasons are collected by scripts/test")]
#![allow(missing_docs, unreachable_pub, reason = "a test program")]

mod support;

use std::io::{BufRead as _, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};

use support::Bench;
use support::registry::Registry;
use support::terminal::Terminal;

const DOCKERFILE: &str = "FROM busybox\nRUN echo built > /built && echo 'app:x:1000:1000::/tmp:/bin/sh' >> /etc/passwd\n\
    ENV A=image B=image\nWORKDIR /work\nENTRYPOINT [\"echo\", \"entry\"]\nCMD [\"default\"]\n";

fn with_app() -> Bench {
    let bench = Bench::new();
    bench.dockerfile(DOCKERFILE);
    bench.build(&["-t", "app"]).ok();
    bench
}

// SPEC B8.15
#[test]
fn b8_15_run_follows_the_image_and_the_command_line() {
    need_run!();
    let bench = with_app();
    assert_eq!(bench.rbuild(&["run", "app"]).ok().stdout, "entry default\n");
    assert_eq!(bench.rbuild(&["run", "--rm", "app", "-n", "x"]).ok().stdout, "entry -n x\n");
    let run = bench.rbuild(&["run", "--entrypoint", "sh", "app", "-c", "cat /built; pwd; echo $A$B; id -u; exit 7"]);
    assert_eq!((run.code, run.stdout.as_str()), (7, "built\n/work\nimageimage\n0\n"), "{}", run.stderr);
    bench.file("env", "# a comment\nB=file\nC=file\n");
    let env_file = bench.ctx().join("env");
    let mut command = bench.command([
        "run", "-u", "app", "-w", "/tmp/new", "--hostname", "me", "--add-host", "there:10.1.2.3", "--env-file",
        env_file.to_str().unwrap(), "-e", "C=line", "-e", "FROM_HERE", "-e", "NOWHERE", "--tmpfs", "/mem", "--entrypoint",
        "", "app", "sh", "-c",
        "id -u; pwd; hostname; grep there /etc/hosts; echo $A $B $C $FROM_HERE ${NOWHERE-unset}; touch /mem/x && echo fine",
    ]);
    let run = support::finish(command.env("FROM_HERE", "here").output().unwrap()).ok();
    assert_eq!(run.stdout, "1000\n/tmp/new\nme\n10.1.2.3\tthere\nimage file line here unset\nfine\n", "{}", run.stderr);
    // What VOLUME names is there; the image has no such directory.
    bench.dockerfile("FROM busybox\nVOLUME [\"/data/deep\", \"/work\"]\nCMD touch /data/deep/f /work/f && ls -ld /data/deep | cut -c1-10\n");
    bench.build(&["-t", "volumes"]).ok();
    assert_eq!(bench.rbuild(&["run", "volumes"]).ok().stdout, "drwxr-xr-x\n");
    assert_eq!(bench.rbuild(&["run", "--tmpfs", "/data", "volumes", "ls", "/data"]).ok().stdout, "");
    // Nothing stays.
    bench.rbuild(&["run", "--entrypoint", "touch", "app", "/left"]).ok();
    assert_ne!(bench.rbuild(&["run", "--entrypoint", "ls", "app", "/left"]).code, 0);
    bench.rbuild(&["run", "--entrypoint", "no-such-program", "app"]).fails(127, &["executable file not found"]);
    let alone = ["run", "--network", "none", "--entrypoint", "grep", "app", "-c", ":", "/proc/net/dev"];
    assert_eq!(bench.rbuild(&alone).ok().stdout, "1\n", "the loopback interface alone");
}

// SPEC B8.15
#[test]
fn b8_15_run_refuses_what_it_cannot_do() {
    need_run!();
    let bench = with_app();
    let port = ["run", "-p", "127.0.0.1:8080:8080", "app"];
    for (args, texts) in [
        (&["run", "-d", "app"][..], &["--detach", "no daemon"][..]),
        (&["run", "--name", "x", "app"], &["--name"]),
        (&["run", "-it", "app"], &["--tty: standard input is not a terminal"]),
        (&["run", "-v", "data:/data", "app"], &["volumes with names", "./data"]),
        (&["run", "-v", "/no/such:/x", "app"], &["cannot find /no/such"]),
        (&["run", "-v", "/tmp:x", "app"], &["not an absolute path"]),
        (&["run", "-v", "/tmp:/x:rx", "app"], &["unknown option \"rx\""]),
        (&["run", "-p", "53:53/udp", "app"], &["udp ports"]),
        (&["run", "-p", "8080:80", "--network", "none", "app"], &["--network none"]),
        (&port, &["chooses its address itself"]),
        (&["run", "--network", "bridge", "app"], &["expected host, sandbox or none"]),
        (&["run", "-e", "=x", "app"], &["--env: invalid variable"]),
    ] {
        bench.rbuild(args).fails(2, texts);
    }
    // A port that nobody listens on stands for a registry that cannot be reached.
    bench.build(&["-t", "localhost:1/app"]).ok();
    bench.rbuild(&["run", "localhost:1/ap:latest"]).fails(7, &["did you mean localhost:1/app:latest?"]);
    bench.dockerfile("FROM scratch\nCOPY Dockerfile /\n");
    bench.build(&["-t", "empty"]).ok();
    bench.rbuild(&["run", "empty"]).fails(2, &["does not say what to run"]);
}

// SPEC B8.15
#[test]
fn b8_15_run_passes_files_input_and_output_on() {
    need_run!();
    let bench = with_app();
    bench.file("shared/in", "from outside");
    let shared = bench.ctx().join("shared").display().to_string();
    let (writable, readonly) = (format!("{shared}:/data"), format!("{shared}:/ro:ro"));
    let script = "cat /data/in; echo; echo inside > /data/out; touch /ro/x || echo refused; cat; echo err >&2";
    let args = ["run", "-i", "-v", &writable, "-v", &readonly, "--entrypoint", "sh", "app", "-c", script];
    let mut child = bench.command(args).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"input\n").unwrap();
    let run = support::finish(child.wait_with_output().unwrap()).ok();
    assert_eq!(run.stdout, "from outside\nrefused\ninput\n");
    assert!(run.stderr.ends_with("err\n"), "{}", run.stderr);
    assert_eq!(std::fs::read_to_string(bench.ctx().join("shared/out")).unwrap(), "inside\n");
    // Without -i there is nothing to read, and a flood arrives whole.
    let script = "cat; i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done";
    let run = bench.rbuild(&["run", "--entrypoint", "sh", "app", "-c", script]).ok();
    assert!(run.stdout.lines().count() == 20_000 && run.stdout.ends_with("line 19999\n"));
}

// SPEC B8.15
#[test]
fn b8_15_run_passes_signals_on() {
    need_run!();
    let bench = with_app();
    let handled = "trap 'echo handled; exit 9' TERM; echo ready; while :; do sleep 0.1; done";
    for (program, code) in [(&["sh", "-c", handled][..], 9), (&["sh", "-c", "echo ready; exec sleep 1000"], 143)] {
        let args: Vec<&str> = ["run", "--entrypoint", "", "app"].iter().chain(program).copied().collect();
        let mut child = bench.command(args).spawn().unwrap();
        let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
        assert_eq!(child.wait().unwrap().code(), Some(code), "{program:?}");
    }
}

// SPEC B8.15
#[test]
fn b8_15_run_gives_a_terminal() {
    need_run!();
    let bench = with_app();
    let mut terminal = Terminal::start(bench.command(["run", "-it", "--entrypoint", "", "app", "sh"]));
    terminal.wait_for("/work # ");
    terminal.keys("tty; echo $TERM; cat /proc/version -\n");
    terminal.wait_for("/dev/console");
    terminal.wait_for("xterm");
    // What it says shows that it is in front, where a key before that would be the shell's.
    terminal.wait_for("Linux version");
    // Ctrl-C is for the program in front, not for the shell and not for us.
    terminal.keys("\u{3}");
    terminal.wait_for("# ");
    terminal.keys("echo $((40+2)); exit 5\n");
    terminal.wait_for("42");
    assert_eq!(terminal.end(), 5);
    // The first process of a container would not even notice. (A shell would not do here: on its way to another program it may
    // have caught the signal, and forget it.)
    let cat = ["run", "-it", "--entrypoint", "", "app", "cat", "/proc/version", "-"];
    let mut terminal = Terminal::start(bench.command(cat));
    terminal.wait_for("Linux version");
    terminal.keys("\u{3}");
    assert_eq!(terminal.end(), 130);
}

// SPEC B8.15
#[test]
fn b8_15_run_publishes_ports() {
    need_run!();
    let bench = with_app();
    // Free ones, for as long as nobody else takes them: both are closed again just before.
    let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (outside, inside) = (free(), free());
    let publish = format!("127.0.0.1:{outside}:{inside}");
    let serve = format!("echo ready; echo hello | nc -l -p {inside} > /dev/null");
    let mut child = bench.command(["run", "-p", &publish, "--entrypoint", "sh", "app", "-c", &serve]).spawn().unwrap();
    let mut text = String::new();
    // It listens a moment after it says so; a connection that comes too early is closed without a word.
    while text.is_empty() && child.try_wait().unwrap().is_none() {
        if let Ok(mut connection) = TcpStream::connect(("127.0.0.1", outside)) {
            let _ = connection.shutdown(std::net::Shutdown::Write);
            let _ = connection.read_to_string(&mut text);
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert_eq!(text, "hello\n");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

// SPEC B8.15
#[test]
fn b8_15_run_pulls_what_is_not_here() {
    need_run!();
    let registry = need!(Registry::start());
    let bench = with_app();
    let name = format!("{}/team/app:1", registry.host);
    bench.rbuild(&["push", "app", &name]).ok();
    let other = Bench::new();
    let run = other.rbuild(&["run", &name]).ok();
    assert_eq!(run.stdout, "entry default\n");
    assert!(run.stderr.contains("pulling "), "{}", run.stderr);
    assert!(!other.rbuild(&["run", &name]).ok().stderr.contains("pulling "));
}
