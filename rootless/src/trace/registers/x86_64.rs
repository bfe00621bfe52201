//! The registers of x86-64.

use std::io;

use crate::trace::calls::{read_registers, write_registers};

/// The length of the instruction that makes a call.
const CALL: u64 = 2;

/// The registers of a stopped thread.
#[derive(Debug, Clone, Copy)]
pub(in crate::trace) struct Registers(libc::user_regs_struct);

impl Registers {
    pub(in crate::trace) fn of(tid: i32) -> io::Result<Self> {
        // SAFETY: all-zero is valid for this plain struct.
        let mut registers = Self(unsafe { std::mem::zeroed() });
        read_registers(tid, &mut registers.0)?;
        Ok(registers)
    }

    pub(in crate::trace) fn write(&self, tid: i32) -> io::Result<()> {
        write_registers(tid, libc::NT_PRSTATUS, &self.0)
    }

    /// The number of the call.
    pub(in crate::trace) fn call(&self) -> i64 {
        self.0.orig_rax.cast_signed()
    }

    pub(in crate::trace) fn arguments(&self) -> [u64; 6] {
        [self.0.rdi, self.0.rsi, self.0.rdx, self.0.r10, self.0.r8, self.0.r9]
    }

    /// What the call returns, or returned: an error is negative.
    pub(in crate::trace) fn result(&self) -> i64 {
        self.0.rax.cast_signed()
    }

    pub(in crate::trace) fn stack(&self) -> u64 {
        self.0.rsp
    }

    fn set_arguments(&mut self, arguments: [u64; 6]) {
        let r = &mut self.0;
        for (to, argument) in
            [&mut r.rdi, &mut r.rsi, &mut r.rdx, &mut r.r10, &mut r.r8, &mut r.r9].into_iter().zip(arguments)
        {
            *to = argument;
        }
    }

    /// These, at the beginning of a call, with another call in its place.
    pub(in crate::trace) fn instead(mut self, call: i64, arguments: [u64; 6]) -> Self {
        self.0.orig_rax = call.cast_unsigned();
        self.set_arguments(arguments);
        self
    }

    /// These, at the beginning of a call, which is not made and returns this.
    pub(in crate::trace) fn skipped(mut self, result: i64) -> Self {
        (self.0.orig_rax, self.0.rax) = (u64::MAX, result.cast_unsigned());
        self
    }

    /// These, where a signal is about to be delivered that has ended a call: the call is made again, whatever the signal does.
    pub(in crate::trace) fn restarting(mut self) -> Self {
        const ERESTARTNOINTR: i64 = 513;
        self.0.rax = (-ERESTARTNOINTR).cast_unsigned();
        self
    }

    /// These, at the end of a call, with another call to be made next.
    pub(in crate::trace) fn again(mut self, call: i64, arguments: [u64; 6]) -> Self {
        // No call that could be restarted.
        (self.0.orig_rax, self.0.rax) = (u64::MAX, call.cast_unsigned());
        self.0.rip -= CALL;
        self.set_arguments(arguments);
        self
    }

    /// These, at the end of a call, which has returned this.
    pub(in crate::trace) fn returned(mut self, result: i64) -> Self {
        (self.0.orig_rax, self.0.rax) = (u64::MAX, result.cast_unsigned());
        self
    }
}
