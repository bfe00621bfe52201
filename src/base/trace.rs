//! The place of a build in somebody's trace (W3C Trace Context, SPEC C9.12).

use std::fmt::Write as _;
use std::path::PathBuf;

use super::Digest;

/// A trace that a build is part of. Spans of the build have identifiers that follow from what they are about, so that a
/// step can be told its own before it exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    /// All spans of a trace have the same.
    pub trace: [u8; 16],
    /// The span that the build happens in.
    pub parent: Option<[u8; 8]>,
    /// Somebody records it.
    pub sampled: bool,
}

/// What steps have of a trace (SPEC C5.17).
#[derive(Debug, Clone)]
pub struct StepTrace {
    /// The trace.
    pub context: TraceContext,
    /// A socket that takes their own spans by OTLP over gRPC, if there is one.
    pub socket: Option<PathBuf>,
}

impl TraceContext {
    /// Reads `TRACEPARENT`. `None` if it is malformed: then there is none, says the standard.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.trim().split('-');
        let version = bytes::<1>(parts.next()?)?;
        let (trace, parent, flags) = (bytes(parts.next()?)?, bytes(parts.next()?)?, bytes::<1>(parts.next()?)?);
        let more = parts.next().is_some();
        if version == [0xff] || (version == [0] && more) || trace == [0; 16] || parent == [0; 8] {
            return None;
        }
        Some(Self { trace, parent: Some(parent), sampled: flags[0] & 1 == 1 })
    }

    /// A trace that begins here.
    #[must_use]
    pub fn root() -> Self {
        use std::hash::{BuildHasher as _, RandomState};
        let mut trace = [0; 16];
        // Each state is seeded from the system's random source.
        trace[..8].copy_from_slice(&RandomState::new().hash_one(0).to_be_bytes());
        trace[8..].copy_from_slice(&(RandomState::new().hash_one(1) | 1).to_be_bytes());
        Self { trace, parent: None, sampled: true }
    }

    /// The span about something. Other builds of the same trace have others.
    #[must_use]
    pub fn span(&self, about: &str) -> [u8; 8] {
        let mut key = hex(&self.trace);
        if let Some(parent) = &self.parent {
            key.push_str(&hex(parent));
        }
        let digest = Digest::sha256(format!("{key} {about}"));
        // A digest begins with other bytes than zero.
        bytes(&digest.hex()[..16]).unwrap_or([1; 8])
    }

    /// `TRACEPARENT` for what happens inside a span of this trace.
    #[must_use]
    pub fn traceparent(&self, span: [u8; 8]) -> String {
        format!("00-{}-{}-{:02x}", hex(&self.trace), hex(&span), u8::from(self.sampled))
    }
}

/// Lower-case hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        let _ = write!(out, "{byte:02x}");
    }
    out
}

fn bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    let lower = text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    if text.len() != N * 2 || !lower {
        return None;
    }
    let mut out = [0; N];
    for (at, byte) in out.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[at * 2..at * 2 + 2], 16).ok()?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIVEN: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    // SPEC C9.12, B5.10
    #[test]
    fn traceparent_is_read_as_the_standard_has_it() {
        let context = TraceContext::parse(GIVEN).expect("the example of the standard");
        assert_eq!(context.traceparent(context.parent.expect("given")), GIVEN);
        assert!(!TraceContext::parse(&GIVEN.replace("-01", "-00")).expect("fine").sampled);
        assert!(TraceContext::parse(&GIVEN.replace("00-", "cc-")).is_some(), "a later version");
        assert!(TraceContext::parse(&GIVEN.replace("00-", "01-").replace("-01", "-01-more")).is_some());
        for bad in [
            "",
            "00-1-2-01",
            &GIVEN.to_uppercase(),
            &GIVEN.replace("00-0", "ff-0"),
            &format!("{GIVEN}-more"),
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        ] {
            assert_eq!(TraceContext::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn spans_follow_from_what_they_are_about() {
        let (one, other) = (TraceContext::root(), TraceContext::root());
        assert_ne!(one.trace, other.trace);
        assert_eq!(one.span("a"), one.span("a"));
        assert_ne!(one.span("a"), one.span("b"));
        assert_ne!(one.span("a"), other.span("a"));
    }
}
