//! What a program without a root of its own can only do itself, with other arguments than it has: to become another program, and to
//! enter a directory.
//!
//! The filter stops a thread that makes such a call (`SECCOMP_RET_TRACE`). What it names is found in the step's root
//! ([`crate::notify::PathEmulation`]), and the thread makes other calls in its place:
//!
//! - for `chdir` one that the supervisor answers with a descriptor, `fchdir`, `close`: no name is used twice;
//! - for `execve` `mmap`, for new arguments, and `execve` with a name outside of the root. Another thread could exchange that name;
//!   Landlock keeps every execution inside the root. Memory that a parent has lent (`vfork`) is given back when it goes on.
//!
//! Signals that come between the calls wait for their end. One that comes before the supervisor has heard of a call comes before that
//! call, which is made when the signal has been seen to: `open` of a file never fails because a child has ended (the kernel would
//! have it fail). Everything else about traced processes is as if they were not.

mod calls;
mod registers;

use std::collections::HashMap;
use std::io;

use crate::notify::{ArgumentReader, PathEmulation, Planned};
use crate::seccomp::CallNames;
pub(crate) use calls::{Change, next_change, seize};
use calls::{Until, event_message, resume, signal_thread};
use registers::Registers;

/// Signals that stop a process.
const STOPPING: [i32; 4] = [libc::SIGSTOP, libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU];
/// Of a stop at the beginning or end of a call.
const AT_CALL: i32 = libc::SIGTRAP | 0x80;
/// What the kernel notes where a signal ends a call: it is made again, unless the signal has a handler without `SA_RESTART`.
const ERESTARTSYS: i64 = 512;

/// Memory of a traced process that is ours.
#[derive(Debug, Clone, Copy)]
struct Area {
    address: u64,
    length: u64,
}

/// Where a thread is that makes calls in the place of one.
enum State {
    /// Makes memory for the arguments of a program.
    Mapping { plan: Box<Execution>, length: u64 },
    /// Executes; `seen` when its call has come by.
    Executing { plan: Box<Execution>, area: Area, seen: bool },
    /// Receives the descriptor of a directory; `again` until a call that a signal came before has begun once more.
    Receiving { again: bool },
    /// Enters the directory; `begun` when its call has begun.
    Entering { number: u64, begun: bool },
    /// Closes a descriptor or gives memory back, and then returns.
    Ending { result: i64, begun: bool },
    /// Is about to return from `vfork`, and has memory of ours.
    Returning { area: Area },
}

/// A thread between two calls.
struct Busy {
    state: State,
    /// Its registers at the call it made itself.
    saved: Registers,
    /// Signals that have come meanwhile.
    signals: Vec<i32>,
}

/// A program that is to be executed, and its arguments.
struct Execution {
    program: Planned,
    /// Arguments behind the first one, as pointers of the caller's; `None` if all stay where they are.
    rest: Option<Vec<u64>>,
    argv: u64,
    envp: u64,
}

/// Traces the processes of one step.
pub(crate) struct Tracer {
    /// Calls that the supervisor answers, and that wait for nothing else.
    answered: CallNames,
    busy: HashMap<i32, Busy>,
    /// Who waits for a process that works in his memory.
    lenders: HashMap<i32, i32>,
    /// Memory of ours in the processes of those.
    left: HashMap<i32, Area>,
}

impl Tracer {
    pub(crate) fn new() -> Self {
        let answered = CallNames::new(PathEmulation::answered_at_once());
        Self { answered, busy: HashMap::new(), lenders: HashMap::new(), left: HashMap::new() }
    }

    /// Sees to one change; what has ended is forgotten.
    pub(crate) fn handle(&mut self, change: &Change, paths: &mut PathEmulation) {
        let (tid, status) = (change.pid, change.status);
        if !libc::WIFSTOPPED(status) {
            self.busy.remove(&tid);
            self.lenders.remove(&tid);
            self.left.remove(&tid);
            paths.ended(tid);
            return;
        }
        // Errors mean that the thread has been killed meanwhile: nothing can be done for it, and its end will be told.
        let _ = match (libc::WSTOPSIG(status), status >> 16) {
            (AT_CALL, 0) => self.at_call(tid),
            (signal, 0) => self.deliver(tid, signal),
            (_, libc::PTRACE_EVENT_SECCOMP) => self.called(tid, paths),
            (_, libc::PTRACE_EVENT_EXEC) => self.executed(tid, paths),
            (_, event @ (libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_VFORK | libc::PTRACE_EVENT_CLONE)) => {
                self.forked(tid, event == libc::PTRACE_EVENT_VFORK, paths)
            }
            (_, libc::PTRACE_EVENT_VFORK_DONE) => self.lent_memory_is_back(tid),
            (signal, libc::PTRACE_EVENT_STOP) if STOPPING.contains(&signal) => {
                resume(tid, Until::Continued, 0);
                Ok(())
            }
            _ => {
                self.go_on(tid);
                Ok(())
            }
        };
    }

    /// Lets a thread go on to where it is seen next.
    fn go_on(&self, tid: i32) {
        let until = match self.busy.get(&tid).map(|busy| &busy.state) {
            None | Some(State::Executing { seen: false, .. }) => Until::Event,
            Some(_) => Until::Call,
        };
        resume(tid, until, 0);
    }

    fn deliver(&mut self, tid: i32, signal: i32) -> io::Result<()> {
        if let Some(busy) = self.busy.get_mut(&tid) {
            busy.signals.push(signal);
            self.go_on(tid);
            return Ok(());
        }
        let registers = Registers::of(tid)?;
        if registers.result() == -ERESTARTSYS && self.answered.has_native(registers.call()) {
            registers.restarting().write(tid)?;
        }
        resume(tid, Until::Event, signal);
        Ok(())
    }

    fn begin(&mut self, tid: i32, saved: Registers, state: State, next: Registers) -> io::Result<()> {
        next.write(tid)?;
        self.busy.insert(tid, Busy { state, saved, signals: Vec::new() });
        self.go_on(tid);
        Ok(())
    }

    /// A thread has made a call of those that are stopped.
    fn called(&mut self, tid: i32, paths: &mut PathEmulation) -> io::Result<()> {
        let registers = Registers::of(tid)?;
        if let Some(Busy { state: State::Executing { area, seen, .. }, .. }) = self.busy.get_mut(&tid) {
            let ours = registers.call() == libc::SYS_execve && registers.arguments()[0] == area.address;
            if ours {
                *seen = true;
                self.go_on(tid);
                return Ok(());
            }
        }
        let begun = match registers.call() {
            libc::SYS_chdir => self.chdir(tid, registers, paths),
            libc::SYS_execve | libc::SYS_execveat => self.execve(tid, registers, paths),
            // Stopped by a filter of the step's own, where there is nothing for us to do.
            _ => {
                self.go_on(tid);
                return Ok(());
            }
        };
        if let Err(e) = begun {
            registers.skipped(-i64::from(e.raw_os_error().unwrap_or(libc::EPERM))).write(tid)?;
            self.go_on(tid);
        }
        Ok(())
    }

    fn chdir(&mut self, tid: i32, registers: Registers, paths: &mut PathEmulation) -> io::Result<()> {
        let directory = paths.directory(tid, registers.arguments()[0])?;
        // Any call that the supervisor answers: it gives the descriptor, whatever the arguments are.
        paths.give(tid, directory);
        self.begin(tid, registers, State::Receiving { again: false }, registers.instead(libc::SYS_openat, [0; 6]))
    }

    fn execve(&mut self, tid: i32, registers: Registers, paths: &mut PathEmulation) -> io::Result<()> {
        let a = registers.arguments();
        let (dir, path, argv, envp, flags) = match registers.call() {
            libc::SYS_execve => (libc::AT_FDCWD, a[0], a[1], a[2], 0),
            _ => (int(a[0]), a[1], a[2], a[3], int(a[4])),
        };
        let (first, rest) = ArgumentReader::new(tid).read(argv)?;
        let program = paths.program(tid, dir, path, flags, first.clone())?;
        let unchanged = program.first == [first];
        let plan = Execution { program, rest: (!unchanged).then_some(rest), argv, envp };
        let length = plan.length().next_multiple_of(4096);
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        let flags = u64::from(flags.cast_unsigned());
        let map = [0, length, u64::from(protection.cast_unsigned()), flags, u64::MAX, 0];
        let state = State::Mapping { plan: Box::new(plan), length };
        self.begin(tid, registers, state, registers.instead(libc::SYS_mmap, map))
    }

    /// A thread is at the beginning or end of a call.
    fn at_call(&mut self, tid: i32) -> io::Result<()> {
        let registers = Registers::of(tid)?;
        let result = registers.result();
        let Some(busy) = self.busy.get_mut(&tid) else {
            resume(tid, Until::Event, 0);
            return Ok(());
        };
        match &mut busy.state {
            State::Entering { begun, .. } | State::Ending { begun, .. } if !*begun => *begun = true,
            State::Receiving { again } if *again || result == -ERESTARTSYS => *again = !*again,
            State::Mapping { .. } | State::Receiving { .. } if result < 0 => return self.end(tid, result),
            State::Mapping { .. } => return self.mapped(tid, result.cast_unsigned()),
            State::Receiving { .. } => {
                let number = result.cast_unsigned();
                busy.state = State::Entering { number, begun: false };
                busy.saved.again(libc::SYS_fchdir, [number, 0, 0, 0, 0, 0]).write(tid)?;
            }
            State::Entering { number, .. } => {
                busy.saved.again(libc::SYS_close, [*number, 0, 0, 0, 0, 0]).write(tid)?;
                busy.state = State::Ending { result, begun: false };
            }
            State::Ending { result, .. } => {
                let result = *result;
                return self.end(tid, result);
            }
            // Not executed.
            State::Executing { area, .. } => {
                busy.saved.again(libc::SYS_munmap, [area.address, area.length, 0, 0, 0, 0]).write(tid)?;
                busy.state = State::Ending { result, begun: false };
            }
            State::Returning { area } => {
                busy.saved = registers;
                registers.again(libc::SYS_munmap, [area.address, area.length, 0, 0, 0, 0]).write(tid)?;
                busy.state = State::Ending { result, begun: false };
            }
        }
        self.go_on(tid);
        Ok(())
    }

    /// There is memory for what is to be executed.
    fn mapped(&mut self, tid: i32, address: u64) -> io::Result<()> {
        let Some(Busy { state: State::Mapping { plan, length }, saved, signals }) = self.busy.remove(&tid) else {
            return Ok(());
        };
        let area = Area { address, length };
        let (bytes, argv) = plan.bytes(address);
        let envp = plan.envp;
        // Nobody has changed the protection of what was made just now, or it fails as with arguments that cannot be read.
        let written = ArgumentReader::new(tid).write(address, &bytes);
        let (state, next) = match written {
            Ok(()) => {
                let next = saved.again(libc::SYS_execve, [address, argv, envp, 0, 0, 0]);
                (State::Executing { plan, area, seen: false }, next)
            }
            Err(_) => {
                let next = saved.again(libc::SYS_munmap, [address, length, 0, 0, 0, 0]);
                (State::Ending { result: -i64::from(libc::EFAULT), begun: false }, next)
            }
        };
        next.write(tid)?;
        self.busy.insert(tid, Busy { state, saved, signals });
        self.go_on(tid);
        Ok(())
    }

    /// The call that the thread made itself has returned.
    fn end(&mut self, tid: i32, result: i64) -> io::Result<()> {
        let Some(busy) = self.busy.remove(&tid) else { return Ok(()) };
        busy.saved.returned(result).write(tid)?;
        busy.signals.iter().for_each(|signal| signal_thread(tid, *signal));
        self.go_on(tid);
        Ok(())
    }

    fn executed(&mut self, tid: i32, paths: &mut PathEmulation) -> io::Result<()> {
        // A thread that is not the first one takes that one's number.
        let former = event_message(tid)?;
        let busy = self.busy.remove(&former);
        self.busy.remove(&tid);
        if let Some(Busy { state: State::Executing { plan, area, .. }, signals, .. }) = busy {
            paths.became(tid, plan.program, Registers::of(tid)?.stack());
            if let Some(lender) = self.lenders.remove(&former) {
                self.left.insert(lender, area);
            }
            signals.iter().for_each(|signal| signal_thread(tid, *signal));
        }
        self.go_on(tid);
        Ok(())
    }

    fn forked(&mut self, tid: i32, lends: bool, paths: &mut PathEmulation) -> io::Result<()> {
        let child = event_message(tid)?;
        paths.forked(tid, child);
        if lends {
            self.lenders.insert(child, tid);
        }
        self.go_on(tid);
        Ok(())
    }

    fn lent_memory_is_back(&mut self, tid: i32) -> io::Result<()> {
        if let Some(area) = self.left.remove(&tid) {
            let saved = Registers::of(tid)?;
            self.busy.insert(tid, Busy { state: State::Returning { area }, saved, signals: Vec::new() });
        }
        self.go_on(tid);
        Ok(())
    }
}

impl Execution {
    /// Bytes of memory for the name and the arguments.
    fn length(&self) -> u64 {
        let name = self.program.file.len() + 1;
        let arguments = match &self.rest {
            None => 0,
            Some(rest) => {
                let texts: usize = self.program.first.iter().map(|text| text.len() + 1).sum();
                texts + 8 * (self.program.first.len() + rest.len() + 2)
            }
        };
        (name + arguments) as u64
    }

    /// What is to be in the memory at `address`, and where the arguments are; the name is at its beginning.
    fn bytes(&self, address: u64) -> (Vec<u8>, u64) {
        let mut out = self.program.file.clone();
        out.push(0);
        let Some(rest) = &self.rest else { return (out, self.argv) };
        let mut pointers = Vec::new();
        for text in &self.program.first {
            pointers.push(address + out.len() as u64);
            out.extend(text);
            out.push(0);
        }
        out.resize(out.len().next_multiple_of(8), 0);
        let argv = address + out.len() as u64;
        for pointer in pointers.iter().chain(rest).chain(&[0]) {
            out.extend(pointer.to_ne_bytes());
        }
        (out, argv)
    }
}

/// An argument that is a C `int`.
fn int(argument: u64) -> i32 {
    #[allow(clippy::cast_possible_truncation)] // The register's low half is the argument.
    let low = argument as u32;
    low.cast_signed()
}
