//! Public keys of either kind, and what they say of an object.

use super::object::Object;
use super::pgp::{Detached, Keys, Refused};
use super::ssh;

/// Why something does not count as signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unsigned {
    /// What was wanted is a tag's signature.
    #[error("a signed annotated tag is required, and the ref is none")]
    NoTag,
    /// It is no object of git.
    #[error("the object cannot be read: {0}")]
    Malformed(String),
    /// Nobody signed it.
    #[error("{what} is not signed, expected a signature by {expected}")]
    Unsigned {
        /// `the commit`
        what: String,
        /// Keys.
        expected: String,
    },
    /// Somebody else did.
    #[error("{what} is signed by {found}, expected {expected}")]
    OtherKey {
        /// `the commit`
        what: String,
        /// The key that the signature names.
        found: String,
        /// Keys.
        expected: String,
    },
    /// The signature or the key does not count.
    #[error("{what} is signed by {found}, which does not count: {reason}")]
    Bad {
        /// `the commit`
        what: String,
        /// The key that the signature names.
        found: String,
        /// Why not.
        reason: String,
    },
    /// Neither counts.
    #[error("{tag}; {commit}")]
    Both {
        /// What is wrong with the tag.
        tag: Box<Unsigned>,
        /// What is wrong with the commit.
        commit: Box<Unsigned>,
    },
}

/// Public keys whose signatures count.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SourceKeys {
    pgp: Keys,
    /// In SSH's wire format.
    ssh: Vec<Vec<u8>>,
}

impl SourceKeys {
    /// Reads armored PGP keys, and lines of `.pub` files of SSH.
    ///
    /// # Errors
    /// When there is none, or something that is no key.
    pub fn parse(text: &str) -> Result<Self, String> {
        let armored = Keys::are_in(text);
        let pgp = if armored { Keys::parse(text)? } else { Keys::default() };
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        // Around armor stands what people write there.
        let keys = lines.filter(|line| !armored || ssh::TYPES.iter().any(|kind| line.starts_with(&format!("{kind} "))));
        let ssh = keys.map(ssh::public_key).collect::<Result<Vec<_>, _>>()?;
        if pgp.is_empty() && ssh.is_empty() {
            return Err("it has no public key of PGP or SSH".into());
        }
        Ok(Self { pgp, ssh })
    }

    /// What these keys are, for messages.
    #[must_use]
    pub fn shown(&self) -> String {
        let pgp = self.pgp.ids().into_iter().map(|id| format!("PGP key {id}"));
        let ssh = self.ssh.iter().map(|key| format!("SSH key {}", ssh::fingerprint(key)));
        let mut all: Vec<String> = pgp.chain(ssh).collect();
        let more = all.len().saturating_sub(3);
        all.truncate(3);
        let more = if more > 0 { format!(" or {more} more") } else { String::new() };
        format!("{}{more}", all.join(" or "))
    }

    /// Whether one of them signed an object.
    ///
    /// # Errors
    /// Says what was found instead.
    pub fn verify_object(&self, object: &Object, reject_expired: bool) -> Result<(), Unsigned> {
        let what = object.shown();
        let Some(armored) = object.armored() else {
            return Err(Unsigned::Unsigned { what, expected: self.shown() });
        };
        if armored.trim_start().starts_with(ssh::BEGIN) {
            return self.verify_ssh(&what, object, armored);
        }
        let unknown = |reason| Unsigned::Bad { what: what.clone(), found: "something else".into(), reason };
        let signature = Detached::parse(armored.as_bytes()).map_err(unknown)?;
        let found = signature.key_id().map_or_else(|| "a PGP key".into(), |id| format!("PGP key {id}"));
        match signature.verify(&self.pgp, object.signed(), reject_expired) {
            Ok(()) => Ok(()),
            Err(Refused::OtherKey) => Err(Unsigned::OtherKey { what, found, expected: self.shown() }),
            Err(Refused::Bad(reason)) => Err(Unsigned::Bad { what, found, reason }),
        }
    }

    fn verify_ssh(&self, what: &str, object: &Object, armored: &str) -> Result<(), Unsigned> {
        let what = what.to_owned();
        let signature = match ssh::Signature::parse(armored) {
            Ok(signature) => signature,
            Err(reason) => return Err(Unsigned::Bad { what, found: "an SSH key".into(), reason }),
        };
        let found = format!("SSH key {}", ssh::fingerprint(&signature.key));
        if !self.ssh.contains(&signature.key) {
            return Err(Unsigned::OtherKey { what, found, expected: self.shown() });
        }
        signature.verify(object.signed()).map_err(|reason| Unsigned::Bad { what, found, reason })
    }
}
