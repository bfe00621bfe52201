//! Capabilities that a process believes to have: root's are those of a step, everybody else has none.
//!
//! What is changed is not remembered, and always works: nothing depends on capabilities here, and programs that lower theirs or take
//! back what they kept for another user (`setcap`, `setpriv`) only ask whether it worked.

use std::io;

use super::PathEmulation;
use crate::notify::Call;
use crate::notify::memory::{Ids, Memory};
use crate::sys::Answer;

/// `_LINUX_CAPABILITY_VERSION_3`, which all C libraries use; the kernel answers others.
const VERSION: u32 = 0x2008_0522;
/// `struct __user_cap_header_struct`: the version, and whose capabilities.
const HEADER: usize = 8;

impl PathEmulation {
    pub(super) fn capget(&mut self, call: &Call) -> io::Result<Answer> {
        let (memory, data) = (Memory::new(call.tid, Ids::ROOT), call.args[1]);
        if !has_version(memory, call.args[0])? || data == 0 {
            return Ok(Answer::Continue);
        }
        let own = if self.is_root(call.tid)? { self.capabilities.set().bits() } else { 0 };
        // Effective and permitted ones, none that are inherited; the low halves first.
        let mut out = Vec::with_capacity(24);
        for half in [own & 0xffff_ffff, own >> 32] {
            for word in [half, half, 0] {
                out.extend_from_slice(&u32::try_from(word).unwrap_or(0).to_ne_bytes());
            }
        }
        self.procfs.proc().still_waits()?;
        memory.write(data, &out)?;
        Ok(Answer::Value(0))
    }

    pub(super) fn capset(call: &Call) -> io::Result<Answer> {
        let memory = Memory::new(call.tid, Ids::ROOT);
        if !has_version(memory, call.args[0])? {
            return Ok(Answer::Continue);
        }
        Ok(Answer::Value(0))
    }

    fn is_root(&mut self, tid: i32) -> io::Result<bool> {
        Ok(self.creds.of(self.procfs.proc(), tid)?.uid[1] == 0)
    }
}

fn has_version(memory: Memory, header: u64) -> io::Result<bool> {
    let header = memory.bytes(header, HEADER)?;
    Ok(header[..4] == VERSION.to_ne_bytes())
}
