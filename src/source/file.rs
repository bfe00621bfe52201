//! Trees that are one file: attributes that HTTP and blob sources share (SPEC C2.03, C2.05), and the file itself.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::Mode;

use super::SourceError;
use super::kind::{Algorithm, Checksum};
use crate::archive;
use crate::base::{Digest, owner};
use crate::llb::op::SourceOp;
use crate::store::Store;

/// How the file is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FileAttributes {
    /// `http.filename`.
    pub(super) name: Option<String>,
    /// `http.perm`; 0600 where it is not given.
    pub(super) mode: u32,
    /// `http.uid`.
    pub(super) uid: u32,
    /// `http.gid`.
    pub(super) gid: u32,
    /// `http.checksum`.
    pub(super) checksum: Option<Digest>,
}

impl FileAttributes {
    pub(super) fn parse(op: &SourceOp) -> Result<Self, SourceError> {
        let get = |name: &'static str| op.attrs.get(name).filter(|v| !v.is_empty()).map(|v| (name, v));
        let fail = |(name, value): (&'static str, &String)| SourceError::Attribute { name, value: value.clone() };
        let number = |attribute: Option<(&'static str, &String)>, radix: u32, max: u32, default: u32| match attribute {
            None => Ok(default),
            Some(given) => u32::from_str_radix(given.1, radix).ok().filter(|n| *n <= max).ok_or_else(|| fail(given)),
        };
        Ok(Self {
            name: get("http.filename").and_then(|(_, name)| safe_name(name)),
            mode: number(get("http.perm"), 8, 0o7777, 0o600)?,
            uid: number(get("http.uid"), 10, u32::MAX - 1, 0)?,
            gid: number(get("http.gid"), 10, u32::MAX - 1, 0)?,
            checksum: match get("http.checksum") {
                Some(given) => Some(given.1.parse().map_err(|_| fail(given))?),
                None => None,
            },
        })
    }

    /// Copies the blob to `dest/name`.
    pub(super) fn write(
        &self,
        store: &Store,
        digest: &Digest,
        dest: &Path,
        name: &str,
        modified: i64,
    ) -> Result<(), SourceError> {
        let mut blob = store.open_blob(digest)?;
        let path = dest.join(name);
        let io = |source: io::Error| SourceError::Io { path: path.clone(), source };
        let mut file: File = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(io)?;
        io::copy(&mut blob, &mut file).map_err(io)?;
        if rustix::process::geteuid().is_root() || owner::are_recorded() {
            owner::set_fd(&file, self.uid, self.gid).map_err(|e| io(e.into()))?;
        }
        owner::set_mode(&file, Mode::from_raw_mode(self.mode)).map_err(|e| io(e.into()))?;
        file.set_modified(time(modified)).map_err(io)
    }
}

/// The digest of a blob with something behind it.
pub(super) fn checksum(store: &Store, digest: &Digest, wanted: &Checksum) -> Result<String, SourceError> {
    fn made<H: sha2::Digest>(name: &str, blob: &mut impl io::Read, suffix: &[u8]) -> io::Result<String> {
        let (mut hasher, mut piece) = (H::new(), vec![0; 256 << 10]);
        loop {
            match blob.read(&mut piece) {
                Ok(0) => break,
                Ok(n) => hasher.update(&piece[..n]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        hasher.update(suffix);
        let hex: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(format!("{name}:{hex}"))
    }
    let mut blob = store.open_blob(digest)?;
    let suffix = wanted.suffix.as_slice();
    let made = match wanted.algorithm {
        Algorithm::Sha256 => made::<sha2::Sha256>("sha256", &mut blob, suffix),
        Algorithm::Sha384 => made::<sha2::Sha384>("sha384", &mut blob, suffix),
        Algorithm::Sha512 => made::<sha2::Sha512>("sha512", &mut blob, suffix),
    };
    made.map_err(|source| SourceError::Io { path: digest.to_string().into(), source })
}

/// Of a blob that is an archive the time of its newest entry (SPEC A4.18).
pub(super) fn newest_entry(store: &Store, digest: &Digest) -> Result<Option<i64>, SourceError> {
    let broken = |e: archive::ArchiveError| SourceError::Archive { digest: digest.clone(), reason: e.to_string() };
    match archive::detect_archive(&store.open_blob(digest)?).map_err(broken)? {
        Some(format) => archive::newest_entry(store.open_blob(digest)?, format).map_err(broken),
        None => Ok(None),
    }
}

/// A moment in seconds since 1970.
fn time(seconds: i64) -> SystemTime {
    let distance = Duration::from_secs(seconds.unsigned_abs());
    if seconds < 0 { UNIX_EPOCH - distance } else { UNIX_EPOCH + distance }
}

/// The last component of a path, unless it is one that means another place.
pub(super) fn safe_name(path: &str) -> Option<String> {
    let name = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    (!matches!(name, "" | "." | "..") && !name.contains('\0') && name.len() <= 255).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<FileAttributes, SourceError> {
        let attrs = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        FileAttributes::parse(&SourceOp { identifier: "https://h/x".into(), attrs })
    }

    #[test]
    fn c2_05_attributes_of_a_file() {
        let plain = parse(&[]).expect("valid");
        assert_eq!((plain.name, plain.mode, plain.uid, plain.gid), (None, 0o600, 0, 0));
        let digest = Digest::sha256(b"x");
        let all = parse(&[
            ("http.filename", "a.txt"),
            ("http.perm", "0755"),
            ("http.uid", "5"),
            ("http.gid", "6"),
            ("http.checksum", digest.as_str()),
        ]);
        let expected =
            FileAttributes { name: Some("a.txt".into()), mode: 0o755, uid: 5, gid: 6, checksum: Some(digest) };
        assert_eq!(all.expect("valid"), expected);
        for bad in [("http.perm", "99"), ("http.perm", "10000"), ("http.uid", "-1"), ("http.checksum", "md5:1")] {
            assert!(parse(&[bad]).expect_err("invalid").to_string().contains(bad.0), "{bad:?}");
        }
    }

    #[test]
    fn names_cannot_mean_another_place() {
        for (text, name) in [("a", Some("a")), ("/a/b/", Some("b")), ("../../etc/passwd", Some("passwd"))] {
            assert_eq!(safe_name(text).as_deref(), name, "{text}");
        }
        for bad in ["", "/", ".", "a/..", "..", "x\0y"] {
            assert_eq!(safe_name(bad), None, "{bad:?}");
        }
    }
}
