//! Commits and annotated tags of git as git keeps them, and who signed them (SPEC A7.07, B8.09).
//!
//! [`Object`] is read from the bytes of one object. [`SourceKeys`] are public keys of a person or a project, of PGP or SSH; they say
//! whether an object, or a file, was signed by one of them. Nothing is looked up anywhere: the keys that are given are all that is trusted.

mod keys;
mod object;
pub mod pgp;
mod ssh;
#[cfg(test)]
mod tests;

pub use keys::{SourceKeys, Unsigned};
pub use object::{Actor, Kind, Object, Signature};

/// What git keeps of a commit, as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitObjects {
    /// The commit.
    pub commit: Vec<u8>,
    /// The annotated tag that leads to it.
    pub tag: Option<Vec<u8>>,
}

/// What is asked of a repository's signatures (LLB attributes `git.sig.…`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Whose signatures count.
    pub keys: SourceKeys,
    /// Keys that have expired since do not count.
    pub reject_expired: bool,
    /// The signature has to be that of an annotated tag.
    pub require_tag: bool,
    /// Only the commit's signature counts.
    pub ignore_tag: bool,
}

impl Wanted {
    /// Holds what a ref led to, to this: the tag's signature counts, or the commit's.
    ///
    /// # Errors
    /// Says what was found instead.
    pub fn check(&self, objects: &GitObjects) -> Result<(), Unsigned> {
        let verify = |bytes: &[u8]| self.keys.verify_object(&Object::parse(bytes)?, self.reject_expired);
        let tag = match &objects.tag {
            Some(_) if self.ignore_tag => Err(Unsigned::NoTag),
            Some(tag) => verify(tag),
            None => Err(Unsigned::NoTag),
        };
        let Err(of_tag) = tag else { return Ok(()) };
        if self.require_tag {
            return Err(of_tag);
        }
        verify(&objects.commit).map_err(|of_commit| match of_tag {
            Unsigned::NoTag => of_commit,
            of_tag => Unsigned::Both { tag: Box::new(of_tag), commit: Box::new(of_commit) },
        })
    }
}
