//! The time in front of every line (SPEC D1.44).

use std::io::{self, Write};
use std::time::SystemTime;

/// Writes to another, with the time of its first byte before each line that says something.
pub(super) struct Stamped<W> {
    out: W,
    /// The next byte is the first of a line.
    begins: bool,
    now: fn() -> SystemTime,
}

impl<W: Write> Stamped<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out, begins: true, now: SystemTime::now }
    }
}

impl<W: Write> Write for Stamped<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            if self.begins && line != b"\n" {
                let time = jiff::Timestamp::try_from((self.now)()).unwrap_or_default();
                write!(self.out, "{} ", time.strftime("%Y-%m-%dT%H:%M:%SZ"))?;
            }
            self.out.write_all(line)?;
            self.begins = line.ends_with(b"\n");
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d1_44_lines_begin_with_the_time() {
        let mut stamped = Stamped { out: Vec::new(), begins: true, now: || SystemTime::UNIX_EPOCH };
        stamped.write_all(b"#1 one").expect("written");
        stamped.write_all(b" more\n\n#2 two\n").expect("written");
        let text = String::from_utf8(stamped.out).expect("text");
        assert_eq!(text, "1970-01-01T00:00:00Z #1 one more\n\n1970-01-01T00:00:00Z #2 two\n");
    }
}
