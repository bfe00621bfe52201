//! The arguments of a program, in the memory of whoever wants to execute it.

use std::io;

use super::memory::{Ids, Memory};

/// Pointers that are read at once; so many are never on more than two pages.
const AT_ONCE: usize = 64;
/// The kernel's limit for all arguments, in pointers to empty ones.
const MOST: usize = 1 << 18;
const PAGE: u64 = 4096;

/// Reads and writes arguments of one thread.
pub(crate) struct ArgumentReader(Memory);

impl ArgumentReader {
    pub(crate) fn new(tid: i32) -> Self {
        Self(Memory::new(tid, Ids::ROOT))
    }

    /// The first argument, and pointers to the others. Without any the first one is empty, as for the kernel.
    ///
    /// # Errors
    /// `EFAULT`, `E2BIG`.
    pub(crate) fn read(&self, argv: u64) -> io::Result<(Vec<u8>, Vec<u64>)> {
        let mut pointers = Vec::new();
        let mut at = argv;
        while at != 0 {
            let to_page_end = usize::try_from((PAGE - at % PAGE) / 8).unwrap_or(1).clamp(1, AT_ONCE);
            let bytes = self.0.bytes(at, 8 * to_page_end)?;
            let (words, _) = bytes.as_chunks::<8>();
            let found = words.iter().map(|word| u64::from_ne_bytes(*word)).take_while(|word| *word != 0).count();
            pointers.extend(words[..found].iter().map(|word| u64::from_ne_bytes(*word)));
            if pointers.len() > MOST {
                return Err(io::Error::from_raw_os_error(libc::E2BIG));
            }
            at = if found < words.len() { 0 } else { at + bytes.len() as u64 };
        }
        if pointers.is_empty() {
            return Ok((Vec::new(), pointers));
        }
        let rest = pointers.split_off(1);
        Ok((self.0.string(pointers[0])?, rest))
    }

    /// Writes all of `bytes`.
    ///
    /// # Errors
    /// `EFAULT`.
    pub(crate) fn write(&self, address: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write(address, bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_arguments_are_found() {
        let texts: Vec<_> = (0..1000).map(|n| std::ffi::CString::new(format!("{n}")).expect("no NUL")).collect();
        let pointers: Vec<u64> = texts.iter().map(|text| text.as_ptr() as u64).chain([0]).collect();
        let reader = ArgumentReader::new(rustix::process::getpid().as_raw_pid());
        match reader.read(pointers.as_ptr() as u64) {
            Ok((first, rest)) => assert_eq!((first, rest), (b"0".to_vec(), pointers[1..1000].to_vec())),
            // Some sandboxes forbid even this.
            Err(e) => return assert_eq!(e.raw_os_error(), Some(libc::EPERM), "{e}"),
        }
        assert_eq!(reader.read(0).expect("no arguments"), (Vec::new(), Vec::new()));
        assert!(reader.read(8).is_err());
    }
}
