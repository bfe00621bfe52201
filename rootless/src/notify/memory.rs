//! Reading and writing the memory of a process that waits for an answer.

use std::io;

use crate::sys;

/// Memory is mapped in pieces of at least this size; a read must not run into a piece that is not there.
const PAGE: u64 = 4096;
/// The longest path, with its end.
const PATH_MAX: usize = 4096;

/// Ids that decide whether a process may look into another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ids {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl Ids {
    pub(super) const ROOT: Self = Self { uid: 0, gid: 0 };
}

/// The memory of one process.
#[derive(Debug, Clone, Copy)]
pub(super) struct Memory {
    tid: i32,
    ids: Ids,
}

impl Memory {
    /// `ids` are the process's real ones where they differ from ours.
    pub(super) fn new(tid: i32, ids: Ids) -> Self {
        Self { tid, ids }
    }

    fn with<T>(self, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        if self.ids == Ids::ROOT { work() } else { sys::as_real_ids(self.ids.uid, self.ids.gid, work) }
    }

    /// The NUL-terminated string at `address`, without its end.
    pub(super) fn string(self, address: u64) -> io::Result<Vec<u8>> {
        self.with(|| {
            let mut out = Vec::new();
            let mut buffer = [0; 256];
            let mut at = address;
            while out.len() < PATH_MAX {
                let to_page_end = PAGE - at % PAGE;
                let want = usize::try_from(to_page_end).unwrap_or(1).min(buffer.len());
                let got = sys::read_memory(self.tid, at, &mut buffer[..want])?;
                if let Some(end) = buffer[..got].iter().position(|b| *b == 0) {
                    out.extend_from_slice(&buffer[..end]);
                    return Ok(out);
                }
                if got == 0 {
                    break;
                }
                out.extend_from_slice(&buffer[..got]);
                at = at.checked_add(got as u64).ok_or_else(|| io::Error::from_raw_os_error(libc::EFAULT))?;
            }
            Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG))
        })
    }

    /// Exactly `length` bytes.
    pub(super) fn bytes(self, address: u64, length: usize) -> io::Result<Vec<u8>> {
        self.with(|| {
            let mut out = vec![0; length];
            match sys::read_memory(self.tid, address, &mut out)? {
                got if got == length => Ok(out),
                _ => Err(io::Error::from_raw_os_error(libc::EFAULT)),
            }
        })
    }

    /// Writes all of `bytes`.
    pub(super) fn write(self, address: u64, bytes: &[u8]) -> io::Result<()> {
        self.with(|| match sys::write_memory(self.tid, address, bytes)? {
            got if got == bytes.len() => Ok(()),
            _ => Err(io::Error::from_raw_os_error(libc::EFAULT)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_end_at_their_end_and_not_before() {
        let own = Memory::new(rustix::process::getpid().as_raw_pid(), Ids::ROOT);
        let text: Vec<u8> = [vec![b'x'; 3000], vec![0, b'y']].concat();
        match own.string(text.as_ptr() as u64) {
            Ok(got) => assert_eq!(got, &text[..3000]),
            // Some sandboxes forbid even this.
            Err(e) => assert_eq!(e.raw_os_error(), Some(libc::EPERM), "{e}"),
        }
        assert!(own.string(1).is_err());
    }
}
