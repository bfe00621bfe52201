//! `/proc` for steps that cannot have one mounted: opens and link look-ups below it are answered from the builder's own.
//!
//! The step's root has a skeleton of empty files ([`crate::furnish_proc`]), so that `stat`, `access` and directory
//! listings find something without costing a round trip; only opening and `readlink` come here. Given out are files,
//! never directories: a directory outside of the root is a way out of a chroot. Of other processes only those of the step
//! exist, and only what every user may read of them. What is done to open files is [`open_files`]'s.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{AtFlags, CWD, MemfdFlags, Mode, OFlags, ResolveFlags};

use super::files::{Proc, components};
use super::memory::{Ids, Memory};
use super::{Call, looks, open_files, signals};
use crate::seccomp::{Action, Trap, When};
use crate::sys::{self, Answer};

/// Every way to open a file, read a link or look at a file, what is done to open files by their names, and signals where Landlock
/// does not keep them inside.
pub(super) fn traps() -> Vec<Trap> {
    OPENING.into_iter().chain(open_files::traps()).chain(looks::traps()).chain(signals::traps()).collect()
}

const OPENING: [Trap; 5] = [
    ("open", When::Always, Action::Notify),
    ("openat", When::Always, Action::Notify),
    ("openat2", When::Always, Action::Notify),
    ("readlink", When::Always, Action::Notify),
    ("readlinkat", When::Always, Action::Notify),
];

/// Whether a call is one of those that are answered here, as far as its path is below `/proc`, or one that signals.
pub(super) fn is_about_paths(call: &Call) -> bool {
    OPENING.iter().any(|(name, _, _)| *name == call.name)
        || open_files::place(call).is_some()
        || looks::is_one(call)
        || signals::is_one(call)
}

/// Files of the machine that steps may read.
pub(crate) const MACHINE_FILES: [&str; 20] = [
    "cgroups",
    "cmdline",
    "consoles",
    "cpuinfo",
    "crypto",
    "devices",
    "diskstats",
    "filesystems",
    "loadavg",
    "locks",
    "meminfo",
    "misc",
    "modules",
    "partitions",
    "stat",
    "swaps",
    "uptime",
    "version",
    "vmstat",
    "zoneinfo",
];
/// Files of a process that everybody may read.
pub(crate) const PUBLIC_FILES: [&str; 12] = [
    "cgroup",
    "cmdline",
    "comm",
    "limits",
    "loginuid",
    "oom_adj",
    "oom_score",
    "oom_score_adj",
    "sched",
    "stat",
    "statm",
    "status",
];
/// Files of a process for itself.
pub(crate) const PRIVATE_FILES: [&str; 12] = [
    "auxv",
    "environ",
    "gid_map",
    "io",
    "maps",
    "pagemap",
    "personality",
    "schedstat",
    "setgroups",
    "smaps",
    "smaps_rollup",
    "uid_map",
];
/// Files made up, because the real ones speak of the builder's mounts.
pub(crate) const MADE_UP_FILES: [&str; 2] = ["mounts", "mountinfo"];
/// Files of a process that it may write.
const WRITABLE_FILES: [&str; 3] = ["comm", "oom_score_adj", "loginuid"];

/// Listings of descriptors that are kept; programs close them at once.
const LISTINGS: usize = 16;

/// The emulation for one step.
pub(crate) struct ProcEmulation {
    proc: Proc,
    /// The step's root.
    root: OwnedFd,
    /// `/proc` in it.
    skeleton: Option<OwnedFd>,
    listings: VecDeque<(String, OwnedFd, Vec<String>)>,
    made: u64,
    own_pid: i32,
    /// What processes run, where the kernel thinks that it is something else: by a path in the step's root.
    programs: HashMap<i32, Rc<[u8]>>,
}

/// Something below `/proc`.
#[derive(Debug, PartialEq, Eq)]
enum Entry<'a> {
    /// A file of the machine, by its path below `/proc`.
    Machine(String),
    /// A process's file, by components.
    Process(i32, Vec<&'a str>),
    /// Nothing that is emulated.
    Other,
}

impl ProcEmulation {
    pub(crate) fn new(rootfs: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(CWD, rootfs, flags, Mode::empty())?;
        let mut proc = Proc::open()?;
        proc.name_root(std::fs::canonicalize(rootfs)?.into_os_string().into_vec());
        let skeleton = rustix::fs::openat(
            &root,
            "proc",
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .ok();
        Ok(Self {
            proc,
            root,
            skeleton,
            listings: VecDeque::new(),
            made: 0,
            own_pid: rustix::process::getpid().as_raw_pid(),
            programs: HashMap::new(),
        })
    }

    /// A process runs this program from now on.
    pub(super) fn runs(&mut self, pid: i32, program: Rc<[u8]>) {
        self.programs.insert(pid, program);
    }

    /// What a thread's process runs, if `path` is the name of that in `/proc`.
    pub(super) fn own_program(&self, tid: i32, path: &[u8]) -> Option<Rc<[u8]>> {
        let process = path.strip_prefix(b"/proc/")?.strip_suffix(b"/exe")?;
        let own = self.proc.process_of(tid).ok()?;
        let is_own = process == b"self" || process == own.to_string().as_bytes();
        self.programs.get(&own).filter(|_| is_own).cloned()
    }

    /// A process has made another one, which runs the same program.
    pub(super) fn forked(&mut self, pid: i32, child: i32) {
        if let Some(program) = self.programs.get(&pid) {
            self.programs.insert(child, Rc::clone(program));
        }
    }

    /// A process is no more.
    pub(super) fn ended(&mut self, pid: i32) {
        self.programs.remove(&pid);
    }

    pub(super) fn root(&self) -> &OwnedFd {
        &self.root
    }

    pub(super) fn proc(&mut self) -> &mut Proc {
        &mut self.proc
    }

    pub(crate) fn answer(&mut self, call: &Call) -> Answer {
        if let Some(answer) = signals::answer(&self.proc, call, &|pid| self.is_of_step(pid)) {
            return answer;
        }
        let on_open_file = open_files::place(call);
        let look = looks::place(call);
        if look.is_none() && looks::is_one(call) {
            return Answer::Continue;
        }
        let (dir, path) = match (on_open_file.or(look), call.name) {
            (Some(place), _) => place,
            (None, "open" | "readlink") => (libc::AT_FDCWD, call.args[0]),
            (None, _) => (call.int(0), call.args[1]),
        };
        let Some((memory, path)) = self.read_path(call.tid, path) else { return Answer::Continue };
        let Some(path) = self.absolute(call.tid, dir, path) else { return Answer::Continue };
        let parts = components(&path);
        let Some(parts) = below_proc(&parts) else { return Answer::Continue };
        let entry = self.entry(call.tid, &parts);
        if entry == Entry::Other {
            return Answer::Continue;
        }
        let result = match call.name {
            "readlink" => self.readlink(call.tid, &parts, &entry, memory, call.args[1], call.args[2]),
            "readlinkat" => self.readlink(call.tid, &parts, &entry, memory, call.args[2], call.args[3]),
            "openat2" => match memory.bytes(call.args[2], 8) {
                Ok(how) => {
                    let flags = how.try_into().map_or(0, u64::from_ne_bytes);
                    self.open(call.tid, &entry, u32::try_from(flags).unwrap_or(u32::MAX))
                }
                Err(e) => Err(e),
            },
            "open" => self.open(call.tid, &entry, call.word(1)),
            _ if look.is_some() => self.look(call, &parts, &entry, memory),
            _ if on_open_file.is_some() => self.on_open_file(call, &entry, memory),
            _ => self.open(call.tid, &entry, call.word(2)),
        };
        result.unwrap_or_else(|e| Answer::Error(e.raw_os_error().unwrap_or(libc::EIO)))
    }

    /// The path at `address`; `None` where the caller's memory is closed to us. (A program that has changed its user id
    /// and not executed anything since is closed even to root without CAP_SYS_PTRACE.)
    fn read_path(&self, tid: i32, address: u64) -> Option<(Memory, Vec<u8>)> {
        let memory = Memory::new(tid, Ids::ROOT);
        match memory.string(address) {
            Ok(path) => Some((memory, path)),
            Err(e) if e.raw_os_error() == Some(libc::EPERM) => {
                let memory = Memory::new(tid, self.proc.owner(tid).ok()?);
                memory.string(address).ok().map(|path| (memory, path))
            }
            Err(_) => None,
        }
    }

    /// The path from the root of the step, if it can lead to `/proc` or `/dev`.
    fn absolute(&self, tid: i32, dir: i32, path: Vec<u8>) -> Option<Vec<u8>> {
        if path.first() == Some(&b'/') {
            return Some(path);
        }
        if path.is_empty() {
            return None;
        }
        let link = if dir == libc::AT_FDCWD { format!("{tid}/cwd") } else { format!("{tid}/fd/{dir}") };
        let base = self.proc.link(&link).ok()?;
        let base = self.proc.inside(&base)?;
        (base.starts_with(b"/proc") || base.starts_with(b"/dev")).then(|| [base, b"/", path.as_slice()].concat())
    }

    fn entry<'a>(&self, tid: i32, parts: &[&'a str]) -> Entry<'a> {
        let Some((first, rest)) = parts.split_first() else { return Entry::Other };
        let process = match *first {
            "self" | "thread-self" => self.proc.process_of(tid).ok(),
            "mounts" if rest.is_empty() => {
                return self.proc.process_of(tid).map_or(Entry::Other, |pid| Entry::Process(pid, vec!["mounts"]));
            }
            "net" => return Entry::Process(tid, parts.to_vec()),
            "sys" if !rest.is_empty() => return Entry::Machine(parts.join("/")),
            name if rest.is_empty() && MACHINE_FILES.contains(&name) => return Entry::Machine(name.to_owned()),
            number => match number.parse::<i32>() {
                Ok(pid) if self.is_of_step(pid) => Some(pid),
                _ => None,
            },
        };
        process.map_or(Entry::Other, |pid| Entry::Process(pid, rest.to_vec()))
    }

    /// Whether a process descends from this one.
    fn is_of_step(&self, pid: i32) -> bool {
        let mut pid = pid;
        for _ in 0..1000 {
            match self.proc.status_numbers(pid, "PPid").ok().and_then(|n| i32::try_from(*n.first()?).ok()) {
                Some(parent) if parent == self.own_pid => return true,
                Some(parent) if parent > 1 => pid = parent,
                _ => return false,
            }
        }
        false
    }

    fn open(&mut self, tid: i32, entry: &Entry<'_>, flags: u32) -> io::Result<Answer> {
        let flags = OFlags::from_bits_retain(flags);
        if flags.contains(OFlags::PATH) {
            return Ok(Answer::Continue);
        }
        let cloexec = flags.contains(OFlags::CLOEXEC);
        let writing = flags.intersects(OFlags::WRONLY | OFlags::RDWR);
        let give = |fd| Ok(Answer::Fd { fd, cloexec });
        match entry {
            Entry::Machine(path) => {
                if writing {
                    return Err(error(libc::EACCES));
                }
                // No links, or a directory of ours could be reached; and directories are the skeleton's.
                let how = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS;
                let open = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
                let fd = rustix::fs::openat2(self.proc.fd(), path.as_str(), open, Mode::empty(), how)?;
                if is_directory(&fd)? { Ok(Answer::Continue) } else { give(fd) }
            }
            Entry::Process(pid, parts) => {
                let owner = self.proc.owner(*pid)?;
                let asking = self.proc.owner(tid)?;
                let own = self.proc.process_of(tid)? == *pid || asking.uid == 0;
                let as_owner = |work: &dyn Fn() -> io::Result<OwnedFd>| sys::as_file_ids(owner.uid, owner.gid, work);
                match parts.as_slice() {
                    ["mounts"] | ["task", _, "mounts"] => {
                        give(memfd("rootfs / rootfs rw 0 0\nproc /proc proc rw 0 0\n")?)
                    }
                    ["mountinfo"] | ["task", _, "mountinfo"] => {
                        give(memfd("1 0 0:2 / / rw - rootfs rootfs rw\n2 1 0:3 / /proc rw - proc proc rw\n")?)
                    }
                    ["fd"] if own => self.list_descriptors(*pid, cloexec),
                    ["fd", number] if own => {
                        let number: u32 = number.parse().map_err(|_| error(libc::ENOENT))?;
                        give(self.reopen(*pid, number, flags, owner)?)
                    }
                    ["exe"] if own && !writing => {
                        if let Some(program) = self.programs.get(pid) {
                            let (path, open) = (&program[1..], OFlags::RDONLY | OFlags::CLOEXEC);
                            let how = ResolveFlags::IN_ROOT;
                            return give(rustix::fs::openat2(&self.root, path, open, Mode::empty(), how)?);
                        }
                        give(as_owner(&|| self.open_file(&format!("{pid}/exe"), OFlags::RDONLY))?)
                    }
                    ["cwd"] | ["root"] if own && !writing => {
                        let text =
                            sys::as_file_ids(owner.uid, owner.gid, || self.proc.link(&format!("{pid}/{}", parts[0])))?;
                        let path = self.proc.inside(&text).ok_or_else(|| error(libc::EACCES))?;
                        let path = Path::new(std::ffi::OsStr::from_bytes(path));
                        let path = path.strip_prefix("/").map_or_else(|_| PathBuf::from("."), PathBuf::from);
                        let path = if path.as_os_str().is_empty() { ".".into() } else { path };
                        let open = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                        give(as_owner(&|| {
                            Ok(rustix::fs::openat2(&self.root, &path, open, Mode::empty(), ResolveFlags::IN_ROOT)?)
                        })?)
                    }
                    ["net", name] if !writing => give(self.open_file(&format!("{tid}/net/{name}"), OFlags::RDONLY)?),
                    [name] | ["task", _, name] => {
                        let public = PUBLIC_FILES.contains(name);
                        if !public && !PRIVATE_FILES.contains(name) {
                            return Ok(Answer::Continue);
                        }
                        if !(public || own) || writing && !(own && WRITABLE_FILES.contains(name)) {
                            return Err(error(libc::EACCES));
                        }
                        let path = match parts.as_slice() {
                            ["task", thread, _] => {
                                let thread: u32 = thread.parse().map_err(|_| error(libc::ENOENT))?;
                                format!("{pid}/task/{thread}/{name}")
                            }
                            _ => format!("{pid}/{name}"),
                        };
                        let mode = flags & (OFlags::WRONLY | OFlags::RDWR);
                        give(as_owner(&|| self.open_file(&path, mode))?)
                    }
                    _ => Ok(Answer::Continue),
                }
            }
            Entry::Other => Ok(Answer::Continue),
        }
    }

    fn open_file(&self, path: &str, mode: OFlags) -> io::Result<OwnedFd> {
        let fd = rustix::fs::openat(self.proc.fd(), path, mode | OFlags::CLOEXEC | OFlags::NOCTTY, Mode::empty())?;
        if is_directory(&fd)? { Err(error(libc::EACCES)) } else { Ok(fd) }
    }

    /// Opens again what a descriptor of the process stands for, with its own rights and no more than the descriptor's.
    fn reopen(&self, pid: i32, number: u32, flags: OFlags, owner: Ids) -> io::Result<OwnedFd> {
        let info = sys::as_file_ids(owner.uid, owner.gid, || self.proc.read(&format!("{pid}/fdinfo/{number}")))?;
        let had = info
            .lines()
            .find_map(|l| l.strip_prefix("flags:"))
            .and_then(|f| u32::from_str_radix(f.trim(), 8).ok())
            .map(OFlags::from_bits_retain)
            .ok_or_else(|| error(libc::ENOENT))?;
        let access = OFlags::WRONLY | OFlags::RDWR;
        if !(had & access == OFlags::RDWR || had & access == flags & access) {
            return Err(error(libc::EACCES));
        }
        let keep = access | OFlags::APPEND | OFlags::TRUNC | OFlags::NONBLOCK;
        let open = (flags & keep) | OFlags::CLOEXEC | OFlags::NOCTTY;
        let fd = sys::as_file_ids(owner.uid, owner.gid, || {
            rustix::fs::openat(self.proc.fd(), format!("{pid}/fd/{number}"), open, Mode::empty())
        })?;
        // A directory is given again only if it is in the root already, as every one the process can have.
        Ok(fd)
    }

    /// A call on an open file, by its name in `/proc`: the skeleton's file of that name is another one.
    fn on_open_file(&self, call: &Call, entry: &Entry<'_>, memory: Memory) -> io::Result<Answer> {
        let Entry::Process(pid, parts) = entry else { return Ok(Answer::Continue) };
        let ["fd", number] = parts.as_slice() else { return Ok(Answer::Continue) };
        let number: u32 = number.parse().map_err(|_| error(libc::ENOENT))?;
        if self.proc.process_of(call.tid)? != *pid {
            return Err(error(libc::EACCES));
        }
        open_files::answer(&self.proc, call, memory, *pid, number)
    }

    /// `stat` or `access`. What the skeleton has is right but for open files and the program, and has no other processes.
    fn look(&self, call: &Call, parts: &[&str], entry: &Entry<'_>, memory: Memory) -> io::Result<Answer> {
        let Entry::Process(pid, rest) = entry else { return Ok(Answer::Continue) };
        let (owner, asking) = (self.proc.owner(*pid)?, self.proc.owner(call.tid)?);
        let own = asking.uid == 0 || self.proc.process_of(call.tid)? == *pid;
        let path = match rest.as_slice() {
            ["fd", number] => {
                let number: u32 = number.parse().map_err(|_| error(libc::ENOENT))?;
                format!("{pid}/fd/{number}")
            }
            ["exe"] => format!("{pid}/exe"),
            _ if matches!(parts[0], "self" | "thread-self" | "mounts" | "net") => return Ok(Answer::Continue),
            [] => pid.to_string(),
            ["fd" | "task"] => format!("{pid}/{}", rest[0]),
            [name] if PUBLIC_FILES.contains(name) || PRIVATE_FILES.contains(name) || MADE_UP_FILES.contains(name) => {
                format!("{pid}/{name}")
            }
            _ => return Ok(Answer::Continue),
        };
        if !own && matches!(rest.first(), Some(&"fd" | &"exe")) {
            return Err(error(libc::EACCES));
        }
        looks::answer(&self.proc, call, memory, &path, owner, asking)
    }

    /// A directory inside of the root that lists the process's descriptors.
    fn list_descriptors(&mut self, pid: i32, cloexec: bool) -> io::Result<Answer> {
        let Some(skeleton) = &self.skeleton else { return Ok(Answer::Continue) };
        let owner = self.proc.owner(pid)?;
        let links = sys::as_file_ids(owner.uid, owner.gid, || -> io::Result<Vec<(String, Vec<u8>)>> {
            let open = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let dir = rustix::fs::openat(self.proc.fd(), format!("{pid}/fd"), open, Mode::empty())?;
            let mut out = Vec::new();
            for entry in rustix::fs::Dir::new(dir)? {
                let name = entry?.file_name().to_string_lossy().into_owned();
                if name.starts_with('.') {
                    continue;
                }
                // Closed meanwhile by another thread.
                let Ok(text) = self.proc.link(&format!("{pid}/fd/{name}")) else { continue };
                out.push((name, text));
            }
            Ok(out)
        })?;
        self.made += 1;
        let name = format!(".fd-{}-{}", self.own_pid, self.made);
        rustix::fs::mkdirat(skeleton, name.as_str(), Mode::from_raw_mode(0o755))?;
        let open = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = rustix::fs::openat(skeleton, name.as_str(), open, Mode::empty())?;
        let mut names = Vec::new();
        for (number, text) in links {
            let text = self.proc.inside(&text).unwrap_or(&text);
            rustix::fs::symlinkat(std::ffi::OsStr::from_bytes(text), &dir, number.as_str())?;
            names.push(number);
        }
        let again = rustix::fs::openat(&dir, ".", open, Mode::empty())?;
        self.listings.push_back((name, dir, names));
        if self.listings.len() > LISTINGS
            && let (Some((name, dir, names)), Some(skeleton)) = (self.listings.pop_front(), &self.skeleton)
        {
            // The step can have changed them; then they stay until the whole skeleton goes.
            for name in names {
                let _ = rustix::fs::unlinkat(&dir, name.as_str(), AtFlags::empty());
            }
            let _ = rustix::fs::unlinkat(skeleton, name.as_str(), AtFlags::REMOVEDIR);
        }
        Ok(Answer::Fd { fd: again, cloexec })
    }

    fn readlink(
        &self,
        tid: i32,
        parts: &[&str],
        entry: &Entry<'_>,
        memory: Memory,
        buffer: u64,
        size: u64,
    ) -> io::Result<Answer> {
        let Entry::Process(pid, rest) = entry else { return Ok(Answer::Continue) };
        let text: Vec<u8> = match (parts, rest.as_slice()) {
            (["mounts"], _) => b"self/mounts".to_vec(),
            (["net"], _) => b"self/net".to_vec(),
            (["self"], []) => pid.to_string().into_bytes(),
            (["thread-self"], []) => format!("{pid}/task/{tid}").into_bytes(),
            (_, ["exe" | "cwd" | "root"] | ["fd", _]) => {
                if rest.len() == 2 && rest[1].parse::<u32>().is_err() {
                    return Err(error(libc::ENOENT));
                }
                let owner = self.proc.owner(*pid)?;
                let asking = self.proc.owner(tid)?;
                if asking.uid != 0 && asking != owner {
                    return Err(error(libc::EACCES));
                }
                let link = format!("{pid}/{}", rest.join("/"));
                let program = self.programs.get(pid).filter(|_| **rest == ["exe"]);
                let text = match program {
                    Some(program) => program.to_vec(),
                    None => sys::as_file_ids(owner.uid, owner.gid, || self.proc.link(&link))?,
                };
                self.proc.inside(&text).filter(|_| program.is_none()).map_or(text.clone(), <[u8]>::to_vec)
            }
            // Directories and files, of which a number's exist only here.
            _ if parts[0].parse::<u32>().is_ok() => return Err(error(libc::EINVAL)),
            _ => return Ok(Answer::Continue),
        };
        let length = text.len().min(usize::try_from(size).unwrap_or(usize::MAX));
        self.proc.still_waits()?;
        memory.write(buffer, &text[..length])?;
        Ok(Answer::Value(i64::try_from(length).unwrap_or(0)))
    }
}

fn error(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

fn is_directory(fd: &OwnedFd) -> io::Result<bool> {
    let stat = rustix::fs::fstat(fd.as_fd())?;
    Ok(rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Directory)
}

fn memfd(text: &str) -> io::Result<OwnedFd> {
    let fd = rustix::fs::memfd_create(c"proc", MemfdFlags::CLOEXEC)?;
    rustix::io::pwrite(&fd, text.as_bytes(), 0)?;
    Ok(fd)
}

/// The components below `/proc` of a path there, or of one of the names in `/dev` that lead there.
fn below_proc<'a>(parts: &[&'a [u8]]) -> Option<Vec<&'a str>> {
    let parts: Vec<&str> = parts.iter().map(|p| std::str::from_utf8(p).ok()).collect::<Option<_>>()?;
    match parts.as_slice() {
        ["proc", rest @ ..] => Some(rest.to_vec()),
        ["dev", "stdin"] => Some(vec!["self", "fd", "0"]),
        ["dev", "stdout"] => Some(vec!["self", "fd", "1"]),
        ["dev", "stderr"] => Some(vec!["self", "fd", "2"]),
        ["dev", "fd", rest @ ..] => Some([&["self", "fd"], rest].concat()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_dev_lead_to_proc() {
        let at = |path: &'static str| below_proc(&components(path.as_bytes())).map(|p| p.join("/"));
        assert_eq!(at("/proc/self/status").as_deref(), Some("self/status"));
        assert_eq!(at("/dev/fd/63").as_deref(), Some("self/fd/63"));
        assert_eq!(at("/dev/stdout").as_deref(), Some("self/fd/1"));
        assert_eq!(at("/dev/null"), None);
        assert_eq!(at("/processes"), None);
        assert_eq!(at("/usr/../proc/cpuinfo").as_deref(), Some("cpuinfo"));
    }

    #[test]
    fn only_processes_of_the_step_exist() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let emulation = ProcEmulation::new(dir.path()).expect("an emulation");
        let own = rustix::process::getpid().as_raw_pid();
        assert_eq!(emulation.entry(own, &["1", "environ"]), Entry::Other);
        assert_eq!(emulation.entry(own, &["self", "maps"]), Entry::Process(own, vec!["maps"]));
        assert_eq!(emulation.entry(own, &["meminfo"]), Entry::Machine("meminfo".into()));
        assert_eq!(emulation.entry(own, &["kcore"]), Entry::Other);
        assert_eq!(emulation.proc.inside(b"/elsewhere"), None);
    }
}
