//! The network of RUN steps: one of their own, from which the world can be reached and this machine cannot
//! (SPEC A5.08, B2.01, B2.17, C5.02, C5.03, C5.12, C5.15).
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::print_stderr, reason = "skip reasons are collected by scripts/test")]
#![allow(missing_docs, unreachable_pub, reason = "a test program")]

mod support;

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use sha2::Digest as _;
use support::Bench;

/// Where the machine has networks for steps; says why the test is skipped.
fn bench() -> Option<Bench> {
    if let Err(why) = support::can_run() {
        eprintln!("skipped: {why}");
        return None;
    }
    let bench = Bench::new();
    bench.dockerfile("FROM busybox\nRUN true\n");
    let run = bench.build(&["--network", "sandbox"]);
    if run.code != 0 {
        eprintln!("skipped: {}", run.stderr.lines().find(|l| l.starts_with("error:")).unwrap_or("no network"));
        return None;
    }
    Some(bench)
}

/// An address of this machine that is not its loopback.
fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("198.51.100.1:9").ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|ip| !ip.is_loopback())
}

/// Sends a greeting to whoever connects, then what comes back to it, until it ends.
struct Echo {
    address: SocketAddr,
    met: Arc<AtomicUsize>,
}

fn echo(ip: IpAddr) -> Echo {
    let listener = TcpListener::bind((ip, 0)).unwrap();
    let (address, met) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&met);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            count.fetch_add(1, Ordering::SeqCst);
            std::thread::spawn(move || {
                let mut from = stream.try_clone()?;
                stream.write_all(b"REACHED\n")?;
                std::io::copy(&mut from, &mut stream)?;
                stream.shutdown(std::net::Shutdown::Write)
            });
        }
    });
    Echo { address, met }
}

// SPEC A5.08, C5.12: neither loopback nor anything else of the machine, nor a cloud's metadata service.
#[test]
fn c5_12_the_machines_loopback_is_out_of_reach() {
    let Some(bench) = bench() else { return };
    let server = echo("127.0.0.1".parse().unwrap());
    let port = server.address.port();
    bench.dockerfile(&format!(
        "FROM busybox\nRUN for a in 127.0.0.1 0.0.0.0 192.0.0.1 192.0.0.2 192.0.0.3 169.254.169.254 100.100.100.200; do echo hello | nc -w 3 $a {port}; done > /got 2>&1; \
           ip -o link | cut -d: -f2 > /links; ls /sys/class/net > /sys-links 2>/dev/null; cat /proc/net/unix > /sockets; cat /etc/resolv.conf > /servers\n"
    ));
    let image = bench.build_image(&["--network", "sandbox"]);
    let got = image.text("got");
    assert!(!got.contains("REACHED") && server.met.load(Ordering::SeqCst) == 0, "{got}");
    // It is told at once, not left to wait.
    assert!(got.contains("169.254.169.254): No route to host"), "{got}");
    assert!(got.contains("127.0.0.1): Connection refused"), "{got}");
    let links = image.text("links");
    assert!(links.contains("lo") && links.contains("eth0") && links.lines().count() == 2, "{links}");
    let visible = image.text("sys-links");
    assert!(visible.lines().all(|l| ["lo", "eth0"].contains(&l)), "the machine's interfaces are named: {visible}");
    assert!(!image.text("sockets").contains('@'), "abstract sockets of the machine are visible");
    assert!(image.text("servers").contains("nameserver 192.0.0.1"), "{}", image.text("servers"));
}

// SPEC B2.01, C5.02: `host-gateway` is this machine, for those who ask for it and nobody else.
#[test]
fn b2_01_host_gateway_reaches_the_machine() {
    let Some(bench) = bench() else { return };
    let server = echo("127.0.0.1".parse().unwrap());
    let port = server.address.port();
    bench.dockerfile(&format!(
        "FROM busybox\nRUN echo hello | nc -w 5 machine {port} > /got; grep machine /etc/hosts > /hosts\n"
    ));
    let image = bench.build_image(&["--network", "sandbox", "--add-host", "machine:host-gateway"]);
    assert_eq!(image.text("got"), "REACHED\nhello\n");
    assert_eq!(image.text("hosts"), "192.0.0.3\tmachine\n");
    // The address is no part of the step's identity, as with every other (C4.03).
    let again = bench.build(&["--add-host", "machine:10.0.0.1"]).ok();
    assert_eq!(again.count("CACHED"), 1, "{}", again.stderr);
    // On the machine's own network it is the machine as well.
    let image = bench.build_image(&["--no-cache", "--network", "host", "--add-host", "machine=host-gateway"]);
    assert_eq!((image.text("got"), image.text("hosts")), ("REACHED\nhello\n".into(), "127.0.0.1\tmachine\n".into()));
}

// SPEC A5.08, B2.17, C5.15
#[test]
fn c5_15_the_machines_network_has_to_be_allowed() {
    let Some(bench) = bench() else { return };
    let server = echo("127.0.0.1".parse().unwrap());
    let port = server.address.port();
    bench.dockerfile(&format!("FROM busybox\nRUN --network=host echo | nc -w 5 127.0.0.1 {port} > /got\n"));
    bench.build(&[]).fails(4, &["network.host is not allowed", "--allow network.host"]);
    assert_eq!(bench.build_image(&["--allow", "network.host"]).text("got"), "REACHED\n\n");
    bench.dockerfile(&format!(
        "FROM busybox\nRUN --network=none ! echo | nc -w 5 127.0.0.1 {port} 2> /got; ip -o link | wc -l > /links\n"
    ));
    let image = bench.build_image(&[]);
    assert!(image.text("got").contains("refused") && image.text("links").trim() == "1", "{}", image.text("got"));
    bench.build(&["--network", "bridge"]).fails(2, &["network mode \"bridge\" not supported"]);
}

// SPEC C5.12: what is sent arrives, both ways, also when one side has finished.
#[test]
fn c5_12_connections_carry_everything() {
    let Some(bench) = bench() else { return };
    let Some(own) = own_address() else { skip!("this machine has no address but its loopback") };
    let server = echo(own);
    let (ip, port) = (server.address.ip(), server.address.port());
    let noise: Vec<u8> = (0u32..3 << 20).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    bench.file("noise", &noise);
    bench.dockerfile(&format!(
        "FROM busybox\nCOPY noise /noise\n\
         RUN nc -w 20 {ip} {port} < /noise | tail -c +9 | sha256sum | cut -d' ' -f1 > /sum\n\
         RUN for i in $(seq 40); do (echo $i | nc -w 20 {ip} {port} > /part$i) & done; wait; cat /part* | grep -v REACHED | sort -n | tr '\\n' ' ' > /parts\n\
         RUN nc -w 2 {ip} 1 2> /refused; true\n"
    ));
    let image = bench.build_image(&["--network", "sandbox"]);
    let sum: String = sha2::Sha256::digest(&noise).iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(image.text("sum").trim(), sum);
    let numbers: Vec<String> = (1..=40).map(|n| n.to_string()).collect();
    assert_eq!(image.text("parts").trim(), numbers.join(" "));
    assert_eq!(server.met.load(Ordering::SeqCst), 41);
    assert!(image.text("refused").contains("Connection refused"), "{}", image.text("refused"));
}

// SPEC C5.12: UDP, of which names are the most part.
#[test]
fn c5_12_datagrams_are_answered() {
    let Some(bench) = bench() else { return };
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    // A file server of the smallest kind: one question with a name in it, one block as the answer.
    std::thread::spawn(move || {
        let mut bytes = [0; 2000];
        while let Ok((n, from)) = server.recv_from(&mut bytes) {
            if n > 2 && bytes[1] == 1 {
                let name = bytes[2..n].split(|b| *b == 0).next().unwrap_or_default();
                let _ = server.send_to(&[b"\0\x03\0\x01answer to ", name].concat(), from);
            }
        }
    });
    bench.dockerfile(&format!("FROM busybox\nRUN cd / && tftp -g -r question -l got machine {port}\n"));
    let image = bench.build_image(&["--network", "sandbox", "--add-host", "machine:host-gateway"]);
    assert_eq!(image.text("got"), "answer to question");
}

// SPEC C5.12: two steps do not meet on their loopback.
#[test]
fn c5_12_steps_do_not_meet() {
    let Some(bench) = bench() else { return };
    bench.dockerfile(
        "FROM busybox AS server\nRUN --mount=type=cache,target=/c (echo SECRET | timeout 20 nc -l -p 4321) & for i in $(seq 150); do [ -e /c/done ] && break; sleep 0.1; done\n\
         FROM busybox AS client\nRUN --mount=type=cache,target=/c for i in $(seq 5); do nc -w 1 127.0.0.1 4321; nc -w 1 192.0.0.2 4321; sleep 0.1; done > /got 2>&1; touch /c/done\n\
         FROM scratch\nCOPY --from=client /got /got\nCOPY --from=server /etc/passwd /p\n",
    );
    let image = bench.build_image(&["--network", "sandbox"]);
    assert!(!image.text("got").contains("SECRET"), "{}", image.text("got"));
}

// Builds that only work on the machine's network keep working, and say so.
// SPEC C5.11, C5.12
#[test]
fn a_proxy_on_loopback_keeps_the_machines_network() {
    let Some(bench) = bench() else { return };
    let server = echo("127.0.0.1".parse().unwrap());
    let port = server.address.port();
    bench.dockerfile(&format!("FROM busybox\nRUN echo | nc -w 5 127.0.0.1 {port} > /got\n"));
    let proxy = format!("http_proxy=http://127.0.0.1:{port}");
    let run = bench.build(&["--build-arg", &proxy]).ok();
    assert_eq!(run.count("notice: steps share the network of this machine: the proxy"), 1, "{}", run.stderr);
    assert_eq!(server.met.load(Ordering::SeqCst), 1);
    bench
        .build(&["--no-cache", "--network", "sandbox", "--build-arg", &proxy])
        .fails(10, &["steps cannot have a network of their own here: the proxy HTTP_PROXY is on its loopback"]);
}

// SPEC C9.10: the configuration decides what `default` is, and which name servers there are.
#[test]
fn c9_10_the_configuration_decides() {
    let Some(bench) = bench() else { return };
    let config = bench.path("rbuild.toml");
    std::fs::write(
        &config,
        "[steps]\nnetwork = \"host\"\n[dns]\nnameservers = [\"10.1.2.3\"]\nsearchDomains = [\"lan\"]\n",
    )
    .unwrap();
    let config = config.display().to_string();
    let server = echo("127.0.0.1".parse().unwrap());
    bench.dockerfile(&format!(
        "FROM busybox\nRUN echo | nc -w 5 127.0.0.1 {} > /got; cat /etc/resolv.conf > /servers\n",
        server.address.port()
    ));
    let image = bench.build_image(&["--config", &config]);
    assert_eq!(image.text("got"), "REACHED\n\n");
    let servers = image.text("servers");
    let named: Vec<&str> = servers.lines().filter(|l| l.starts_with("nameserver")).collect();
    assert!(named == ["nameserver 10.1.2.3"] && servers.contains("search lan"), "{servers}");
}

// A rung without namespaces shares the network, and says so once.
// SPEC C5.12, C5.19
#[test]
fn the_chroot_rung_shares_the_network() {
    if !rustix::process::geteuid().is_root() {
        skip!("the chroot rung needs root");
    }
    need!(support::bases());
    let bench = Bench::new();
    bench.dockerfile("FROM busybox\nRUN true\nRUN echo 2\n");
    let run = bench.build(&["--isolation", "chroot"]).ok();
    assert_eq!(run.count("notice: steps share the network of this machine: isolation chroot"), 1, "{}", run.stderr);
    bench
        .build(&["--isolation", "chroot", "--no-cache", "--network", "sandbox"])
        .fails(10, &["isolation chroot has no namespaces"]);
}

// SPEC C5.12
#[test]
fn greetings_are_read() {
    // The server of these tests does what they think it does.
    let server = echo("127.0.0.1".parse().unwrap());
    let mut stream = std::net::TcpStream::connect(server.address).unwrap();
    stream.write_all(b"x").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert_eq!(text, "REACHED\nx");
}
