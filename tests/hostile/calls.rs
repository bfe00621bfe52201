//! What a step asks of the kernel itself: calls that have made holes into containers elsewhere, and what it was given without
//! being asked.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};

use super::{Bench, rungs, support, table};
use crate::{need_run, skip};

/// A name, and lines of Python that print CANARY if there is something.
const CALLS: &[(&str, &str)] = &[
    // A call that is refused says EPERM or that there is no such call; any other answer is one of the kernel's own.
    ("io_uring", "reached(425, 8, buffer)"),
    ("userfaultfd", "reached(323, 0)"),
    (
        "keyrings",
        "reached(248, b'user\\0', b'canary\\0', b'x', 1, -3); reached(249, b'user\\0', b'x\\0', 0, -3); reached(250, 0, -3, 1)",
    ),
    ("namespaces of others", "reached(308, 0, 0); reached(272, 0x10000000); reached(272, 0x20000)"),
    (
        "a clone with namespaces",
        "reached(56, 0x10000011, 0, 0, 0, 0) == 0 and os._exit(0); reached(435, buffer, 64) == 0 and os._exit(0)",
    ),
    ("the new calls to mount", "[reached(n, -1, buffer, 0, 0, 0) for n in (428, 429, 430, 431, 432, 433, 442, 467)]"),
    ("programs for the kernel", "reached(321, 0, buffer, 64); reached(298, buffer, 0, -1, -1, 0)"),
    ("files by their handles", "reached(304, -100, buffer, 0); reached(300, 0, 0)"),
    (
        "the kernel's log, clock and modules",
        "reached(103, 3, buffer, 64); reached(164, buffer, 0); reached(175, buffer, 1, buffer); reached(313, 0, buffer, 0)",
    ),
    (
        "another kernel",
        "reached(246, 0, 0, 0, 0); reached(320, 0, 0, 0, 0, 0); reached(169, 0xfee1dead, 672274793, 0, 0)",
    ),
    ("quotas, accounting and swap", "reached(179, 0, 0, 0, 0); reached(163, 0); reached(167, b'/x\\0', 0)"),
    ("ports of the machine", "reached(172, 3); reached(173, 0, 1, 1)"),
    (
        "sockets of the hypervisor and of the kernel's ciphers",
        "for family in (38, 40):\n  try: socket.socket(family, socket.SOCK_SEQPACKET); print('CANARY')\n  except OSError as e: e.errno in refused or e.errno in (93, 94, 97, 22) or print('CANARY', e)",
    ),
    // The builder, where its number can be seen.
    (
        "limits of the builder",
        "for pid in others():\n  try: resource.prlimit(pid, resource.RLIMIT_NOFILE, resource.prlimit(pid, resource.RLIMIT_NOFILE)); print('CANARY', pid)\n  except OSError: pass",
    ),
    (
        "descriptors of the builder",
        "for pid in others():\n  try: fd = os.pidfd_open(pid)\n  except OSError: continue\n  [reached(438, fd, n, 0) for n in range(8)]\n  reached(440, fd, 0, 0, 0, 0)",
    ),
    (
        "memory of the builder",
        "for pid in others():\n  for name in ('mem', 'environ', 'maps', 'root/etc/hostname', 'fd/0', 'cwd/.'):\n    try: open(f'/proc/{pid}/{name}', 'rb').read(1); print('CANARY', name)\n    except OSError: pass",
    ),
    // What it was given.
    (
        "descriptors that nobody closed",
        "for n in range(3, 4096):\n  try: os.fstat(n); print('CANARY', n, os.readlink(f'/proc/self/fd/{n}'))\n  except OSError: pass",
    ),
    (
        "letters for the terminal (TIOCSTI, TIOCLINUX)",
        "for name in (0, 1, 2, '/dev/tty', '/dev/console', '/dev/tty0', '/dev/tty1', '/dev/ptmx', '/dev/pts/0'):\n  for call in (0x5412, 0x541c):\n    try:\n      fd = name if name in (0, 1, 2) else os.open(name, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)\n      name == '/dev/ptmx' or (fcntl.ioctl(fd, call, b'x'), print('CANARY', name))\n    except OSError: pass",
    ),
    (
        "abstract sockets of the machine",
        "s = socket.socket(socket.AF_UNIX)\ntry: s.connect(b'\\0' + ABSTRACT); print('CANARY')\nexcept OSError: pass",
    ),
];

/// Numbers are those of x86-64.
const PRELUDE: &str = r"
import builtins, ctypes, fcntl, functools, os, resource, socket, traceback
print = functools.partial(builtins.print, flush=True)
refused = (1, 38)
buffer = ctypes.create_string_buffer(4096)
libc = ctypes.CDLL(None, use_errno=True)
def reached(number, *args):
  args = [ctypes.c_long(a) if isinstance(a, int) else a for a in args]
  got = libc.syscall(ctypes.c_long(number), *args)
  if got >= 0 or ctypes.get_errno() not in refused:
    print('CANARY', number, got, ctypes.get_errno())
  return got
def others():
  # What is above the step's own processes, where there is something: those of which /proc says nothing.
  out, pid = [], os.getppid()
  while pid > 1:
    try: pid = int(next(l for l in open(f'/proc/{pid}/status') if l.startswith('PPid:')).split()[1])
    except OSError: out.append(pid); break
  return out + [int(n) for n in BUILDER]
";

/// Every call on every rung.
#[test]
fn calls_that_have_been_holes() {
    need_run!();
    if !cfg!(target_arch = "x86_64") {
        skip!("the numbers of the calls are those of x86-64");
    }
    if support::bases().is_ok_and(|bases| !bases.join("python/index.json").is_file()) {
        skip!("no base image python");
    }
    assert_eq!(CALLS.iter().map(|call| call.0).collect::<Vec<_>>(), table::CALLS, "the table of cases");
    let name = format!("rbuild-hostile-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let _listening = UnixListener::bind_addr(&address).unwrap();
    for rung in rungs() {
        let bench = Bench::new();
        let mut script = PRELUDE.replace("BUILDER", "os.environ.get('BUILDER', '').split()");
        script += &format!("ABSTRACT = b'{name}'\n");
        for (at, (_, lines)) in CALLS.iter().enumerate() {
            // One that kills its process is no hole.
            script += &format!(
                "print('case {at}')\nif os.fork() == 0:\n try: exec({lines:?})\n except BaseException: traceback.print_exc()\n finally: os._exit(0)\nos.wait()\n"
            );
        }
        script += "print('all')\n";
        bench.file("calls", &script);
        // The program that runs the tests stands for everything that is not of the step.
        bench.dockerfile(&format!(
            "FROM python\nCOPY calls /calls\nRUN BUILDER={} python3 -c 'exec(open(\"/calls\").read())' > /out 2>&1; true\n",
            std::process::id()
        ));
        let run = bench.build(&["--isolation", rung]);
        if run.stderr.contains("does not work here") {
            eprintln!("skipped: no isolation {rung} here");
            continue;
        }
        let out = bench.build_image(&["--isolation", rung]).text("out");
        assert!(out.ends_with("all\n"), "{rung}: {out}");
        let mut found = Vec::new();
        for part in out.split("case ").filter(|part| part.contains("CANARY") || part.contains("Traceback")) {
            let at: usize = part.lines().next().and_then(|n| n.trim().parse().ok()).unwrap();
            found.push(format!("{}: {part}", CALLS[at].0));
        }
        assert!(found.is_empty(), "{rung}:\n{}", found.join("\n"));
    }
}
