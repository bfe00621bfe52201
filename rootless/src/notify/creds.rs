//! The ids that the processes of a step believe to have, where there is one id only: which they are is kept in a table here, and
//! the calls that tell or change them are answered from it.

use std::collections::HashMap;
use std::io;

use rustix::fs::{FileType, Stat};

use super::Call;
use super::files::Proc;
use super::memory::{Ids as MemoryIds, Memory};
use crate::seccomp::{Action, Trap, When};
use crate::step::StepSpec;
use crate::sys::Answer;

/// Calls that tell or change ids.
pub(super) fn traps() -> impl Iterator<Item = Trap> {
    let always = SET_IDS.iter().chain(&SET_GROUPS).chain(&GET_IDS).map(|name| (*name, When::Always, Action::Notify));
    always.chain([("prctl", When::Masked(0, u32::MAX, &[PR_SET_KEEPCAPS, PR_SET_SECUREBITS]), Action::Notify)])
}

/// Calls that change ids, but for groups.
pub(super) const SET_IDS: [&str; 16] = [
    "setuid",
    "setgid",
    "setreuid",
    "setregid",
    "setresuid",
    "setresgid",
    "setfsuid",
    "setfsgid",
    "setuid32",
    "setgid32",
    "setreuid32",
    "setregid32",
    "setresuid32",
    "setresgid32",
    "setfsuid32",
    "setfsgid32",
];
/// Calls that change supplementary groups.
pub(super) const SET_GROUPS: [&str; 2] = ["setgroups", "setgroups32"];
const GET_IDS: [&str; 14] = [
    "getgroups",
    "getgroups32",
    "getuid",
    "geteuid",
    "getgid",
    "getegid",
    "getuid32",
    "geteuid32",
    "getgid32",
    "getegid32",
    "getresuid",
    "getresgid",
    "getresuid32",
    "getresgid32",
];

/// What a program says before it gives up root, to change its groups afterwards.
pub(super) const PR_SET_KEEPCAPS: u32 = 8;
pub(super) const PR_SET_SECUREBITS: u32 = 28;
/// `SECBIT_NO_SETUID_FIXUP | SECBIT_KEEP_CAPS`.
const KEEPING_BITS: u64 = 0x14;

/// "Leave it as it is."
pub(super) const KEEP: u32 = u32::MAX;

/// The ids a process believes to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Creds {
    /// Real, effective, saved.
    pub(super) uid: [u32; 3],
    pub(super) gid: [u32; 3],
    pub(super) groups: Vec<u32>,
    /// It asked to keep root's capabilities when it becomes somebody else.
    keep: bool,
}

impl Creds {
    /// Of a program that starts with one user and one group.
    pub(super) fn new(uid: u32, gid: u32, groups: Vec<u32>) -> Self {
        Self { uid: [uid; 3], gid: [gid; 3], groups, keep: false }
    }

    /// Whether it may take any group.
    fn may_set_groups(&self) -> bool {
        self.uid[1] == 0 || self.keep
    }

    /// Whether it may change the owner of a file from `now` to these ids ([`KEEP`] for those that stay).
    pub(super) fn may_change_owner(&self, now: (u32, u32), uid: u32, gid: u32) -> bool {
        self.uid[1] == 0
            || self.uid[1] == now.0
                && (uid == KEEP || uid == now.0)
                && (gid == KEEP || gid == now.1 || self.gid[1] == gid || self.groups.contains(&gid))
    }
}

/// What is known of the process with a number.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    /// When it started: a number is given again.
    start: u64,
    /// Its directory in `/proc` when it was last asked about. The next process with its number has another one; the same process
    /// can have another one, too.
    inode: u64,
    creds: Creds,
}

/// The ids of all processes of one step.
pub(super) struct CredTable {
    initial: Creds,
    table: HashMap<i32, Known>,
    /// When the table has so many entries, those of ended processes are thrown away.
    sweep_at: usize,
}

const FIRST_SWEEP: usize = 1024;

/// `/proc/<pid>/stat`: parent and start time.
struct Life {
    parent: i32,
    start: u64,
}

impl CredTable {
    /// Of a step whose program has not started yet.
    pub(super) fn new(spec: &StepSpec) -> Self {
        Self::starting_with(Creds::new(spec.uid, spec.gid, spec.groups.clone()))
    }

    pub(super) fn starting_with(initial: Creds) -> Self {
        Self { initial, table: HashMap::new(), sweep_at: FIRST_SWEEP }
    }

    /// Answers a call about ids; `None` if it is about something else.
    pub(super) fn answer(&mut self, proc: &Proc, call: &Call) -> Option<io::Result<Answer>> {
        // The 16-bit calls of i386 end where their 32-bit ones have a suffix.
        let (name, narrow) = match call.name.strip_suffix("32") {
            Some(name) => (name, false),
            None => (call.name, call.narrow),
        };
        Some(match name {
            "getuid" => self.tell(proc, call, narrow, |c| c.uid[0]),
            "geteuid" => self.tell(proc, call, narrow, |c| c.uid[1]),
            "getgid" => self.tell(proc, call, narrow, |c| c.gid[0]),
            "getegid" => self.tell(proc, call, narrow, |c| c.gid[1]),
            // Nobody but NFS servers uses them; they tell the old value.
            "setfsuid" => self.tell(proc, call, narrow, |c| c.uid[1]),
            "setfsgid" => self.tell(proc, call, narrow, |c| c.gid[1]),
            "getresuid" | "getresgid" => self.tell_three(proc, call, name == "getresuid", narrow),
            "getgroups" => self.tell_groups(proc, call, narrow),
            "setgroups" => self.set_groups(proc, call, narrow),
            "setuid" | "setgid" => self.set_one(proc, call, name == "setuid", narrow),
            "setreuid" | "setregid" | "setresuid" | "setresgid" => self.set_several(proc, call, name, narrow),
            "prctl" => self.keep_capabilities(proc, call),
            _ => return None,
        })
    }

    fn tell(&mut self, proc: &Proc, call: &Call, narrow: bool, which: impl Fn(&Creds) -> u32) -> io::Result<Answer> {
        let id = which(&self.of(proc, call.tid)?);
        Ok(Answer::Value(i64::from(if narrow { id & 0xffff } else { id })))
    }

    fn tell_three(&mut self, proc: &Proc, call: &Call, users: bool, narrow: bool) -> io::Result<Answer> {
        let creds = self.of(proc, call.tid)?;
        let ids = if users { creds.uid } else { creds.gid };
        let memory = Memory::new(call.tid, MemoryIds::ROOT);
        for (address, id) in call.args.iter().zip(ids) {
            proc.still_waits()?;
            memory.write(*address, &id.to_ne_bytes()[..width(narrow)])?;
        }
        Ok(Answer::Value(0))
    }

    fn tell_groups(&mut self, proc: &Proc, call: &Call, narrow: bool) -> io::Result<Answer> {
        let groups = self.of(proc, call.tid)?.groups;
        let room = usize::try_from(call.int(0)).map_err(|_| error(libc::EINVAL))?;
        if room > 0 {
            if room < groups.len() {
                return Err(error(libc::EINVAL));
            }
            let bytes: Vec<u8> = groups.iter().flat_map(|g| g.to_ne_bytes()[..width(narrow)].to_vec()).collect();
            proc.still_waits()?;
            Memory::new(call.tid, MemoryIds::ROOT).write(call.args[1], &bytes)?;
        }
        Ok(Answer::Value(i64::try_from(groups.len()).unwrap_or(0)))
    }

    fn set_groups(&mut self, proc: &Proc, call: &Call, narrow: bool) -> io::Result<Answer> {
        let count = usize::try_from(call.int(0)).ok().filter(|n| *n <= 65536).ok_or_else(|| error(libc::EINVAL))?;
        let width = width(narrow);
        let bytes = Memory::new(call.tid, MemoryIds::ROOT).bytes(call.args[1], count * width)?;
        let groups = bytes
            .chunks_exact(width)
            .map(|c| {
                let mut word = [0; 4];
                word[..width].copy_from_slice(c);
                u32::from_le_bytes(word)
            })
            .collect();
        self.change(proc, call.tid, |creds| {
            if !creds.may_set_groups() {
                return Err(error(libc::EPERM));
            }
            creds.groups = groups;
            Ok(0)
        })
    }

    fn set_one(&mut self, proc: &Proc, call: &Call, user: bool, narrow: bool) -> io::Result<Answer> {
        let id = id(call, narrow, 0);
        self.change(proc, call.tid, |creds| {
            let root = if user { creds.uid[1] == 0 } else { creds.may_set_groups() };
            let ids = if user { &mut creds.uid } else { &mut creds.gid };
            match (root, ids[0] == id || ids[2] == id) {
                (true, _) => *ids = [id; 3],
                (false, true) => ids[1] = id,
                (false, false) => return Err(error(libc::EPERM)),
            }
            Ok(0)
        })
    }

    fn set_several(&mut self, proc: &Proc, call: &Call, name: &str, narrow: bool) -> io::Result<Answer> {
        let (three, users) = (name.starts_with("setres"), name.ends_with("uid"));
        let (real, effective) = (id(call, narrow, 0), id(call, narrow, 1));
        let saved = if three { id(call, narrow, 2) } else { KEEP };
        self.change(proc, call.tid, |creds| {
            let root = if users { creds.uid[1] == 0 } else { creds.may_set_groups() };
            let ids = if users { &mut creds.uid } else { &mut creds.gid };
            // The real one of two cannot become the saved one.
            let for_real = if three { &ids[..] } else { &ids[..2] };
            let may = |id: u32, of: &[u32]| root || id == KEEP || of.contains(&id);
            if !(may(real, for_real) && may(effective, &ids[..]) && may(saved, &ids[..])) {
                return Err(error(libc::EPERM));
            }
            let old_real = ids[0];
            for (slot, id) in ids.iter_mut().zip([real, effective, saved]) {
                if id != KEEP {
                    *slot = id;
                }
            }
            if !three && (real != KEEP || (effective != KEEP && effective != old_real)) {
                ids[2] = ids[1];
            }
            Ok(0)
        })
    }

    fn keep_capabilities(&mut self, proc: &Proc, call: &Call) -> io::Result<Answer> {
        let value = call.args[1];
        let keep = if call.word(0) == PR_SET_KEEPCAPS { value != 0 } else { value & KEEPING_BITS != 0 };
        self.change(proc, call.tid, |creds| {
            creds.keep = keep;
            Ok(0)
        })?;
        Ok(Answer::Continue)
    }

    /// A program is executed whose file is `stat` and belongs to `owner`: set-id bits give their ids.
    pub(super) fn executes(&mut self, proc: &Proc, tid: i32, stat: &Stat, owner: (u32, u32)) -> io::Result<()> {
        if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && stat.st_mode & 0o111 != 0 {
            self.change(proc, tid, |creds| {
                creds.keep = false;
                if stat.st_mode & 0o4000 != 0 {
                    (creds.uid[1], creds.uid[2]) = (owner.0, owner.0);
                }
                if stat.st_mode & 0o2000 != 0 {
                    (creds.gid[1], creds.gid[2]) = (owner.1, owner.1);
                }
                Ok(0)
            })?;
        }
        Ok(())
    }

    /// What a thread's process believes to be: its own entry, or the one of the nearest ancestor that has one.
    pub(super) fn of(&mut self, proc: &Proc, tid: i32) -> io::Result<Creds> {
        // Nobody has changed anything yet, which is how most steps end.
        if self.table.is_empty() {
            return Ok(self.initial.clone());
        }
        // The first thread of a process has the process's number, and most have one only.
        if let Some(known) = self.table.get(&tid) {
            let inode = proc.inode(tid)?;
            if known.inode == inode {
                return Ok(known.creds.clone());
            }
            let start = life(proc, tid)?.start;
            if let Some(known) = self.table.get_mut(&tid).filter(|known| known.start == start) {
                known.inode = inode;
                return Ok(known.creds.clone());
            }
        }
        let own = proc.process_of(tid)?;
        // In this order: if the number changes hands between, nobody is taken for the older one.
        let inode = proc.inode(own)?;
        let start = life(proc, own)?.start;
        let creds = self.inherited(proc, own)?;
        self.forget_the_dead(proc);
        // From now on its own: the parent may change, or end.
        self.table.insert(own, Known { start, inode, creds: creds.clone() });
        Ok(creds)
    }

    /// What a process has by its own entry or the one of its nearest ancestor.
    fn inherited(&mut self, proc: &Proc, own: i32) -> io::Result<Creds> {
        let mut pid = own;
        for _ in 0..1000 {
            let life = life(proc, pid)?;
            match self.table.get(&pid) {
                Some(known) if known.start == life.start => return Ok(known.creds.clone()),
                // The number belongs to somebody else now.
                Some(_) => drop(self.table.remove(&pid)),
                None => {}
            }
            if life.parent <= 1 || life.parent == rustix::process::getpid().as_raw_pid() {
                break;
            }
            pid = life.parent;
        }
        Ok(self.initial.clone())
    }

    /// Entries of processes that have ended are of no use to anybody.
    fn forget_the_dead(&mut self, proc: &Proc) {
        if self.table.len() >= self.sweep_at {
            self.table.retain(|pid, known| life(proc, *pid).is_ok_and(|life| life.start == known.start));
            self.sweep_at = FIRST_SWEEP.max(2 * self.table.len());
        }
    }

    fn change(
        &mut self,
        proc: &Proc,
        tid: i32,
        work: impl FnOnce(&mut Creds) -> io::Result<i64>,
    ) -> io::Result<Answer> {
        let old = self.of(proc, tid)?;
        let mut new = old.clone();
        let value = work(&mut new)?;
        if new != old {
            let pid = proc.process_of(tid)?;
            // Children that were not heard of yet have what their parent had when it made them.
            let children = proc.read(&format!("{pid}/task/{pid}/children")).unwrap_or_default();
            for child in children.split_ascii_whitespace().filter_map(|c| c.parse::<i32>().ok()) {
                if let (false, Ok(life)) = (self.table.contains_key(&child), life(proc, child)) {
                    self.table.insert(child, Known { start: life.start, inode: 0, creds: old.clone() });
                }
            }
            let inode = proc.inode(pid)?;
            let start = life(proc, pid)?.start;
            self.table.insert(pid, Known { start, inode, creds: new });
        }
        Ok(Answer::Value(value))
    }
}

/// The bytes of an id in memory.
fn width(narrow: bool) -> usize {
    if narrow { 2 } else { 4 }
}

/// An argument that is an id; a 16-bit one has its own "leave it as it is".
pub(super) fn id(call: &Call, narrow: bool, index: usize) -> u32 {
    match (narrow, call.word(index)) {
        (true, word) if word & 0xffff == 0xffff => KEEP,
        (true, word) => word & 0xffff,
        (false, word) => word,
    }
}

fn life(proc: &Proc, pid: i32) -> io::Result<Life> {
    let text = proc.read(&format!("{pid}/stat"))?;
    let (_, rest) = text.rsplit_once(')').ok_or_else(|| error(libc::ESRCH))?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let field = |at: usize| fields.get(at).copied().unwrap_or_default();
    Ok(Life { parent: field(1).parse().unwrap_or(0), start: field(19).parse().unwrap_or(0) })
}

fn error(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(name: &'static str, args: [u64; 6]) -> Call {
        Call { name, tid: rustix::process::getpid().as_raw_pid(), args, narrow: false, compat: false }
    }

    struct Asked {
        proc: Proc,
        table: CredTable,
    }

    impl Asked {
        fn new(uid: u32) -> Self {
            let table = CredTable::starting_with(Creds::new(uid, uid, vec![uid]));
            Self { proc: Proc::open().expect("a /proc"), table }
        }

        fn value(&mut self, call: &Call) -> i64 {
            match self.table.answer(&self.proc, call).expect("is about ids") {
                Ok(Answer::Value(value)) => value,
                Err(e) => -i64::from(e.raw_os_error().expect("the kernel's")),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn ids_change_as_the_kernel_would() {
        let mut e = Asked::new(0);
        let keep = u64::from(KEEP);
        assert_eq!(e.value(&call("getuid", [0; 6])), 0);
        assert_eq!(e.value(&call("setresuid", [keep, 101, 0, 0, 0, 0])), 0);
        assert_eq!(e.value(&call("geteuid", [0; 6])), 101);
        assert_eq!(e.value(&call("getuid", [0; 6])), 0);
        assert_eq!(e.value(&call("setuid", [7, 0, 0, 0, 0, 0])), -i64::from(libc::EPERM));
        assert_eq!(e.value(&call("setuid", [0; 6])), 0, "the real id may come back");
        assert_eq!(e.value(&call("geteuid", [0; 6])), 0);
        assert_eq!(e.value(&call("setuid", [7, 0, 0, 0, 0, 0])), 0);
        assert_eq!(e.value(&call("setuid", [0; 6])), -i64::from(libc::EPERM), "root is given up for good");
        assert_eq!(e.value(&call("setgid", [5, 0, 0, 0, 0, 0])), -i64::from(libc::EPERM));
    }

    #[test]
    fn sixteen_bit_calls_have_their_own_minus_one() {
        let mut e = Asked::new(0);
        let mut narrow = call("setresuid", [0xffff, 101, 0xffff, 0, 0, 0]);
        narrow.narrow = true;
        assert_eq!(e.value(&narrow), 0);
        assert_eq!(e.value(&call("getuid", [0; 6])), 0);
        assert_eq!(e.value(&call("geteuid32", [0; 6])), 101);
    }
}
