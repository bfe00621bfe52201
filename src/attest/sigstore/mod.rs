//! Signatures by certificates of Sigstore, verified without asking anybody (SPEC B8.09, B8.10, C8.16, D3.26).
//!
//! A certificate lives for minutes: that it was valid when something was signed is what a log of transparency, or an authority for
//! timestamps, says. [`Trust`] is whom to believe: authorities, logs, and logs of certificates. [`Evidence`] is what stands beside a
//! signature; [`Trust::verify`] makes a [`Signer`] of it. Whether that signer may sign, policies say.

mod certificate;
mod evidence;
mod log;
#[cfg(test)]
#[path = "../../../tests/support/sigstore.rs"]
pub(crate) mod maker;
#[cfg(test)]
mod tests;
mod timestamp;
mod trust;

pub use certificate::{FIELDS, Identity};
pub use evidence::{Evidence, Signed};
pub use trust::Trust;

/// Who signed something, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signer {
    /// What the certificate says.
    pub identity: Identity,
    /// Who says when: the address or name of a log or an authority, and seconds since 1970.
    pub times: Vec<Time>,
}

/// A moment at which something was signed already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Time {
    /// Whether a log says so; else an authority for timestamps.
    pub log: bool,
    /// Its address.
    pub uri: String,
    /// Seconds since 1970.
    pub at: i64,
}

/// RFC 3339, for messages.
fn shown(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).map_or_else(|_| seconds.to_string(), |time| time.to_string())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
