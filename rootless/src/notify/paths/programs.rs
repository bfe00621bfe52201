//! What a step executes: found in its root, and turned into what the kernel can execute without that root being its own.
//!
//! The kernel would look for the interpreter of a script, and for the loader that a dynamic program names, among the machine's
//! files. So scripts are taken apart here, and a dynamic program is an argument of its loader, which all C libraries' loaders
//! understand. The loader leaves its own name out of the arguments, and with it the program's: when it has opened the program, the
//! program's place among the arguments is given its name back ([`PathEmulation::loader_opened`]).

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use rustix::fs::{FileType, OFlags, Stat};

use super::permission::{By, EXECUTE};
use super::reach::Target;
use super::{PathEmulation, error, recorded};
use crate::notify::memory::{Ids, Memory};
use crate::ownership::{Record, by_descriptor};

/// The kernel's limit for the first line of a script.
const FIRST_LINE: usize = 256;
/// Interpreters of interpreters, as in the kernel.
const NESTED: usize = 5;
/// The kernel's limit for the name of a loader.
const LOADER_NAME: u64 = 4096;
/// Program headers that are looked at.
const MOST_HEADERS: u16 = 512;

/// How a program is executed.
#[derive(Debug)]
pub(crate) struct Program {
    /// What the kernel is to execute, by its name outside of the root.
    pub(crate) file: Vec<u8>,
    /// Arguments in the place of the first one.
    pub(crate) first: Vec<Vec<u8>>,
    /// It is the loader of a dynamic program, which is the second argument.
    pub(crate) loads: bool,
    /// The program, by its name in the root.
    pub(crate) path: Rc<[u8]>,
    stat: Stat,
    owner: (u32, u32),
}

/// A program whose loader runs.
#[derive(Debug)]
pub(super) struct Started {
    /// Where the kernel put the number of arguments, with the arguments behind it.
    stack: u64,
    /// The path of the program, which is the second argument.
    path: Rc<[u8]>,
}

impl PathEmulation {
    /// What is to be executed for a call; `first` is its first argument.
    ///
    /// # Errors
    /// As `execve`: above all `ENOENT`, `EACCES`, and `ENOEXEC` also for programs of other architectures.
    pub(crate) fn program(&mut self, tid: i32, dir: i32, path: u64, flags: i32, first: Vec<u8>) -> io::Result<Program> {
        self.procfs.proc().asks_the_stopped();
        let mut name = Self::string(tid, path)?;
        let found = match self.procfs.own_program(tid, &name) {
            Some(program) => {
                name = program.to_vec();
                Target { tid, dir, path: &name }.place(self.procfs.proc(), true)?
            }
            None => self.found(tid, dir, Some(path), flags)?,
        };
        let (mut file, mut arguments) = (found, vec![first]);
        if name.is_empty() || dir != libc::AT_FDCWD {
            name = self.inside(&file)?;
        }
        for _ in 0..=NESTED {
            let (stat, record) = self.executable(tid, &file)?;
            let opened = Self::reopened(&file, OFlags::RDONLY)?;
            let mut head = [0; FIRST_LINE];
            let length = rustix::io::pread(&opened, &mut head, 0)?;
            let head = &head[..length];
            if let Some(line) = head.strip_prefix(b"#!") {
                let (interpreter, argument) = first_line(line).ok_or_else(|| error(libc::ENOEXEC))?;
                let rest = arguments.split_off(1);
                arguments = vec![interpreter.to_vec()];
                arguments.extend(argument.map(<[u8]>::to_vec));
                arguments.push(name);
                arguments.extend(rest);
                name = interpreter.to_vec();
                file = Target { tid, dir: libc::AT_FDCWD, path: &name }.place(self.procfs.proc(), true)?;
                continue;
            }
            let path: Rc<[u8]> = self.inside(&file)?.into();
            let loader = Elf::read(head)?.loader(&opened)?;
            let loads = loader.is_some();
            if let Some(loader) = loader {
                file = Target { tid, dir: libc::AT_FDCWD, path: &loader }.place(self.procfs.proc(), true)?;
                self.executable(tid, &file)?;
                arguments.insert(1, path.to_vec());
            }
            let file = rustix::fs::readlink(by_descriptor(&file), Vec::new())?.into_bytes();
            return Ok(Program { file, first: arguments, loads, path, stat, owner: record.owner });
        }
        Err(error(libc::ELOOP))
    }

    fn executable(&mut self, tid: i32, file: &OwnedFd) -> io::Result<(Stat, Record)> {
        self.permit(tid, file, EXECUTE, By::Effective)?;
        let (stat, record) = recorded(file)?;
        // The kernel looks at the bit of the owner, which this user is.
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || stat.st_mode & 0o100 == 0 {
            return Err(error(libc::EACCES));
        }
        Ok((stat, record))
    }

    fn inside(&mut self, file: &OwnedFd) -> io::Result<Vec<u8>> {
        let path = rustix::fs::readlink(by_descriptor(file), Vec::new())?.into_bytes();
        // A file in memory, which no loader could open by its name.
        Ok(self.procfs.proc().inside(&path).ok_or_else(|| error(libc::EACCES))?.to_vec())
    }

    /// A thread's process has become a program. `stack` is its stack pointer.
    pub(crate) fn became(&mut self, tid: i32, program: Program, stack: u64) {
        // Without its ids it has those of before: nobody else would be told.
        let _ = self.creds.executes(self.procfs.proc(), tid, &program.stat, program.owner);
        self.procfs.runs(tid, Rc::clone(&program.path));
        self.loading.remove(&tid);
        if program.loads {
            self.loading.insert(tid, Started { stack, path: program.path });
        }
    }

    /// A process has made another one.
    pub(crate) fn forked(&mut self, tid: i32, child: i32) {
        if let Ok(pid) = self.procfs.proc().process_of(tid) {
            self.procfs.forked(pid, child);
        }
    }

    /// A process is no more.
    pub(crate) fn ended(&mut self, pid: i32) {
        self.procfs.ended(pid);
        self.given.remove(&pid);
        self.loading.remove(&pid);
    }

    /// A loader has opened something: if it was its program, that has its first argument from now on. Loaders of some
    /// versions have by then taken the first argument out already.
    pub(super) fn loader_opened(&mut self, tid: i32, path: &[u8]) -> io::Result<()> {
        let Some(started) = self.loading.get(&tid).filter(|started| &*started.path == path) else { return Ok(()) };
        let stack = started.stack;
        self.loading.remove(&tid);
        let memory = Memory::new(tid, Ids::ROOT);
        let words = memory.bytes(stack + 8, 16)?;
        let (words, _) = words.as_chunks::<8>();
        let [first, second] = [words[0], words[1]].map(u64::from_ne_bytes);
        if memory.string(second).is_ok_and(|text| text == path) {
            memory.write(stack + 16, &first.to_ne_bytes())?;
        }
        Ok(())
    }
}

/// The interpreter of a script and its one argument, from what is behind `#!`.
fn first_line(text: &[u8]) -> Option<(&[u8], Option<&[u8]>)> {
    let end = text.iter().position(|b| *b == b'\n');
    let is_space = |b: &u8| matches!(b, b' ' | b'\t');
    let line = text[..end.unwrap_or(text.len())].trim_ascii();
    let path_end = line.iter().position(is_space).unwrap_or(line.len());
    let (path, rest) = line.split_at(path_end);
    // A path that is cut off is another one.
    if path.is_empty() || end.is_none() && rest.is_empty() && text.len() >= FIRST_LINE - 2 {
        return None;
    }
    let argument = rest.trim_ascii();
    Some((path, (!argument.is_empty()).then_some(argument)))
}

/// What is needed of the header of an ELF file.
#[derive(Debug)]
struct Elf {
    headers: u64,
    size: u16,
    count: u16,
}

impl Elf {
    /// Only programs of this machine's architecture, 64-bit and little-endian.
    fn read(head: &[u8]) -> io::Result<Self> {
        const MACHINE: u16 = if cfg!(target_arch = "aarch64") { 183 } else { 62 };
        const KINDS: [u16; 2] = [2, 3];
        let half = |at: usize| head.get(at..at + 2).map(|b| u16::from_le_bytes([b[0], b[1]]));
        let long = |at: usize| Some(u64::from_le_bytes(head.get(at..at + 8)?.try_into().ok()?));
        let is_ours = head.starts_with(b"\x7fELF\x02\x01")
            && half(16).is_some_and(|kind| KINDS.contains(&kind))
            && half(18) == Some(MACHINE);
        match (is_ours, long(32), half(54), half(56)) {
            (true, Some(headers), Some(size), Some(count)) if size == 56 && count <= MOST_HEADERS => {
                Ok(Self { headers, size, count })
            }
            _ => Err(error(libc::ENOEXEC)),
        }
    }

    /// The loader that it names.
    fn loader(&self, file: &OwnedFd) -> io::Result<Option<Vec<u8>>> {
        const INTERPRETER: [u8; 4] = 3u32.to_le_bytes();
        let size = usize::from(self.size);
        let mut headers = vec![0; size * usize::from(self.count)];
        let length = rustix::io::pread(file, &mut headers[..], self.headers)?;
        let mut named = headers[..length].chunks_exact(size).filter(|header| header[..4] == INTERPRETER);
        if let Some(header) = named.next() {
            let long = |at: usize| header[at..at + 8].try_into().map_or(0, u64::from_le_bytes);
            let (offset, length) = (long(8), long(32));
            if length > LOADER_NAME {
                return Err(error(libc::ENOEXEC));
            }
            let mut name = vec![0; usize::try_from(length).unwrap_or(0)];
            let length = rustix::io::pread(file, &mut name[..], offset)?;
            name.truncate(length);
            let name = name.split(|b| *b == 0).next().unwrap_or_default();
            return Ok(Some(name.to_vec()));
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_lines_are_read_as_by_the_kernel() {
        assert_eq!(first_line(b"/bin/sh\n"), Some((b"/bin/sh" as &[u8], None)));
        assert_eq!(
            first_line(b" \t/usr/bin/env  python3 -u \nrest"),
            Some((b"/usr/bin/env" as &[u8], Some(b"python3 -u" as &[u8])))
        );
        assert_eq!(first_line(b"\n"), None);
        assert_eq!(first_line(&[b'x'; FIRST_LINE - 2]), None);
        assert_eq!(first_line(b"/bin/sh"), Some((b"/bin/sh" as &[u8], None)), "the file ends here");
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn programs_name_their_loader() {
        let mut head = b"\x7fELF\x02\x01\x01".to_vec();
        head.resize(64, 0);
        (head[16], head[18], head[32], head[54], head[56]) = (3, 62, 64, 56, 1);
        let mut file = tempfile::tempfile().expect("makes a file");
        let mut header = vec![0; 56];
        (header[0], header[8], header[32]) = (3, 120, 8);
        io::Write::write_all(&mut file, &[head.clone(), header, b"/lib/ld\0".to_vec()].concat()).expect("writes");
        let file = OwnedFd::from(file);
        let loader = |head: &[u8]| Elf::read(head).and_then(|elf| elf.loader(&file));
        assert_eq!(loader(&head).expect("reads"), Some(b"/lib/ld".to_vec()));
        head[4] = 1;
        assert_eq!(loader(&head).expect_err("32 bits").raw_os_error(), Some(libc::ENOEXEC));
        assert!(loader(b"text").is_err() && loader(b"").is_err());
    }
}
