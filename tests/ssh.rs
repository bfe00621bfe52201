//! `RUN --mount=type=ssh` and `--ssh` with a real ssh-agent and a real sshd (SPEC A5.07, B2.29).
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::print_stderr, reason = "skip reasons are collected by scripts/test")]
#![allow(missing_docs, unreachable_pub, reason = "a test program")]

mod support;

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use support::Bench;

/// Ends with the test.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn wait_for(what: &str, mut ready: impl FnMut() -> bool) {
    let started = Instant::now();
    while !ready() {
        assert!(started.elapsed() < Duration::from_secs(20), "{what} did not start");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn run(program: &str, args: &[&str], env: &[(&str, &Path)]) -> String {
    let output = Command::new(program).args(args).envs(env.iter().copied()).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn key(path: &Path, kind: &[&str]) {
    let mut args = vec!["-q", "-N", "", "-C", "somebody@somewhere", "-f", path.to_str().unwrap()];
    args.extend(kind);
    run("ssh-keygen", &args, &[]);
}

/// A real agent with one key.
fn agent(dir: &Path, key: &Path) -> (Daemon, PathBuf) {
    let socket = dir.join("agent-socket-outside");
    let child = Command::new("ssh-agent").args(["-D", "-a"]).arg(&socket).stdout(Stdio::null()).spawn().unwrap();
    let daemon = Daemon(child);
    wait_for("ssh-agent", || socket.exists());
    run("ssh-add", &["-q", key.to_str().unwrap()], &[("SSH_AUTH_SOCK", &socket)]);
    (daemon, socket)
}

/// A real server that lets these keys in.
fn server(dir: &Path, keys: &[&Path]) -> (Daemon, u16) {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    key(&dir.join("host"), &["-t", "ed25519"]);
    let allowed: String = keys.iter().map(|k| fs::read_to_string(k.with_extension("pub")).unwrap()).collect();
    fs::write(dir.join("allowed"), allowed).unwrap();
    let config = format!(
        "Port {port}\nListenAddress 127.0.0.1\nHostKey {0}/host\nAuthorizedKeysFile {0}/allowed\nPidFile none\n\
         StrictModes no\nUsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n",
        dir.display()
    );
    fs::write(dir.join("sshd_config"), config).unwrap();
    if rustix::process::getuid().is_root() {
        fs::create_dir_all("/run/sshd").unwrap();
    }
    let child = Command::new("/usr/sbin/sshd").args(["-D", "-q", "-f"]).arg(dir.join("sshd_config")).spawn().unwrap();
    let daemon = Daemon(child);
    wait_for("sshd", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    (daemon, port)
}

/// The machine's ssh programs with their libraries, as a directory of the context. `/bin/login` logs in.
fn client(bench: &Bench, port: u16) {
    let (bin, lib) = (bench.ctx().join("ssh/bin"), bench.ctx().join("ssh/lib"));
    for dir in [&bin, &lib] {
        fs::create_dir_all(dir).unwrap();
    }
    for program in ["ssh", "ssh-add"] {
        let path = format!("/usr/bin/{program}");
        fs::copy(&path, bin.join(program)).unwrap();
        for line in run("ldd", &[&path], &[]).lines() {
            let Some(library) = line.split_whitespace().find(|word| word.starts_with('/')) else { continue };
            let loader = library.contains("ld-linux");
            let to = if loader { lib.join("ld.so") } else { lib.join(library.rsplit('/').next().unwrap()) };
            fs::copy(library, to).unwrap();
        }
        let wrapper = format!("#!/bin/sh\nexec /ssh/lib/ld.so --library-path /ssh/lib /ssh/bin/{program} \"$@\"\n");
        bench.file(&format!("ssh/{program}"), wrapper).chmod(&format!("ssh/{program}"), 0o755);
    }
    // Who is asking has a name only in the image; who is asked for is the one who runs the server.
    let user = run("id", &["-un"], &[]);
    let login = format!(
        "#!/bin/sh\nexec /ssh/ssh -F none -p {port} -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null \
         -o LogLevel=ERROR -o BatchMode=yes {}@127.0.0.1 \"$@\"\n",
        user.trim()
    );
    bench.file("ssh/login", login).chmod("ssh/login", 0o755);
}

fn tools() -> Result<(), String> {
    for tool in ["/usr/bin/ssh", "/usr/bin/ssh-add", "/usr/bin/ssh-agent", "/usr/sbin/sshd"] {
        if !Path::new(tool).exists() {
            return Err(format!("{tool} is missing; run scripts/setup"));
        }
    }
    Ok(())
}

macro_rules! need_ssh {
    () => {
        need_run!();
        need!(tools());
    };
}

const HOST: [&str; 2] = ["--allow", "network.host"];

// SPEC A5.07, B2.29
#[test]
fn a5_07_a_step_logs_in_with_the_users_agent() {
    need_ssh!();
    let mut bench = Bench::new();
    let dir = bench.path("out");
    let id = dir.join("id");
    key(&id, &["-t", "ed25519"]);
    let (_agent, socket) = agent(&dir, &id);
    let (_server, port) = server(&dir, &[&id]);
    client(&bench, port);
    bench.env.push(("SSH_AUTH_SOCK".into(), socket.display().to_string()));
    bench.dockerfile(
        "FROM busybox AS work\n\
         COPY ssh /ssh\n\
         RUN --mount=type=ssh --network=host /ssh/login echo logged in > /out && /ssh/ssh-add -l | cut -d' ' -f4 >> /out && echo sock=$SSH_AUTH_SOCK >> /out && stat -c %u:%g:%a $SSH_AUTH_SOCK >> /out && ! /ssh/ssh-add -D 2>/dev/null && ! /ssh/ssh-add -x < /dev/null 2> /dev/null\n\
         RUN test -z \"$SSH_AUTH_SOCK\" && test ! -e /run/buildkit\n\
         FROM scratch\nCOPY --from=work /out /out\n",
    );
    let image = bench.build_image(&[&HOST[..], &["--ssh", "default"]].concat());
    assert_eq!(image.text("out"), "logged in\n(ED25519)\nsock=/run/buildkit/ssh_agent.0\n0:0:600\n");
    // The agent still has its key.
    assert!(run("ssh-add", &["-l"], &[("SSH_AUTH_SOCK", &socket)]).contains("somebody@somewhere"));

    // Nothing of it stays: not in the image of the step, not in the output.
    let again =
        bench.build(&[&HOST[..], &["--ssh", "default", "--target", "work", "-o", "type=oci,dest=work.tar"]].concat());
    let again = again.ok();
    assert_eq!(again.count("CACHED"), 3, "{}", again.stderr);
    assert!(!again.stderr.contains("agent-socket-outside"), "{}", again.stderr);
    let work = support::image::Image::open_tar(&bench.path("out/work.tar"));
    assert!(work.tree().keys().all(|path| !path.contains("ssh_agent") && !path.contains("buildkit")));
    assert!(!work.config["config"]["Env"].to_string().contains("SSH_AUTH_SOCK"), "{}", work.config);
    assert!(!work.config.to_string().contains("agent-socket-outside"), "{}", work.config);

    // Another agent is no other key: tokens rotate, and who builds changes nothing.
    let other = dir.join("other");
    key(&other, &["-t", "ed25519"]);
    let spec = format!("default={}", other.display());
    let again = bench.build(&[&HOST[..], &["--ssh", &spec, "--target", "work"]].concat()).ok();
    assert_eq!(again.count("CACHED"), 3, "{}", again.stderr);
}

// SPEC A5.07, B2.29: key files are an agent of our own; several ids; owner, mode and target of the socket.
#[test]
fn b2_29_key_files_serve_several_ids() {
    need_ssh!();
    let bench = Bench::new();
    let dir = bench.path("out");
    let (rsa, ec) = (dir.join("rsa"), dir.join("ec"));
    key(&rsa, &["-t", "rsa", "-b", "2048", "-m", "PEM"]);
    key(&ec, &["-t", "ecdsa"]);
    let (_server, port) = server(&dir, &[&rsa, &ec]);
    client(&bench, port);
    bench.dockerfile(
        "FROM busybox\n\
         COPY ssh /ssh\n\
         RUN --network=host --mount=type=ssh,id=old --mount=type=ssh,id=both,target=/agents/both,uid=1000,gid=50,mode=0660 \
         echo $SSH_AUTH_SOCK > /out && /ssh/login echo rsa >> /out && stat -c %u:%g:%a /agents/both >> /out && \
         export SSH_AUTH_SOCK=/agents/both && /ssh/ssh-add -l | wc -l >> /out && /ssh/login echo ec >> /out\n\
         RUN test ! -e /agents\n",
    );
    let old = format!("old={}", rsa.display());
    // A relative path is relative to where the command runs.
    let image = bench.build_image(&[&HOST[..], &["--ssh", &old, "--ssh", "both=ec,rsa"]].concat());
    assert_eq!(image.text("out"), "/run/buildkit/ssh_agent.0\nrsa\n1000:50:660\n2\nec\n");
}

// SPEC A5.07, A3.07: options of the mount are expanded; an agent that was not given.
#[test]
fn a5_07_required_agents_must_be_given() {
    need_run!();
    let bench = Bench::new();
    bench.dockerfile(
        "FROM busybox\nARG ID=deploy\nRUN --mount=type=ssh,id=$ID test ! -e $SSH_AUTH_SOCK\n\
         RUN --mount=type=ssh,id=$ID,required true\n",
    );
    bench.build(&[]).fails(4, &["ssh agent \"deploy\": not found", "hint: give it with --ssh deploy", "Dockerfile:4"]);
}

// SPEC B2.29
#[test]
fn b2_29_agents_that_cannot_be_had_are_named_before_anything_runs() {
    let bench = Bench::new();
    bench.dockerfile("FROM scratch\n");
    bench.file("text", "hello");
    let text = format!("default={}", bench.ctx().join("text").display());
    let cases: [(&str, &str); 6] = [
        ("default", "--ssh default: there is no agent: SSH_AUTH_SOCK is not set"),
        ("=x", "--ssh: invalid ssh forward \"=x\""),
        ("default=x,raw=maybe", "raw=maybe is neither true nor false"),
        ("default=/no/such", "--ssh default: cannot read /no/such: No such file or directory"),
        (&text, "it is not a private key in PEM format"),
        ("id=/no/such,raw=true", "cannot read /no/such"),
    ];
    for (spec, message) in cases {
        let mut command = bench.build_command(&["--ssh", spec]);
        command.env_remove("SSH_AUTH_SOCK");
        support::finish(command.output().unwrap()).fails(2, &[message]);
    }
    if tools().is_ok() {
        let locked = bench.path("out/locked");
        run("ssh-keygen", &["-q", "-t", "ed25519", "-N", "secret", "-f", locked.to_str().unwrap()], &[]);
        let spec = format!("default={}", locked.display());
        bench.build(&["--ssh", &spec]).fails(2, &["it is protected by a passphrase", "hint: add it to an agent"]);
    }
}
