//! What a git source op says (SPEC C2.04).

use super::error::GitError;
use crate::attest::git::{SourceKeys, Wanted};
use crate::dockerfile::gitref;
use crate::llb::op::SourceOp;

/// A repository and what of it is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct GitSpec {
    /// What git is given, still with credentials if the URL has some.
    pub(super) remote: String,
    /// Empty for the default branch.
    pub(super) reference: String,
    /// Clean; empty for all.
    pub(super) subdir: String,
    pub(super) checksum: Option<String>,
    pub(super) keep_git_dir: bool,
    pub(super) submodules: bool,
    /// Files get the time of the commit.
    pub(super) commit_times: bool,
    pub(super) fetch_by_commit: bool,
    /// Ids of secrets.
    pub(super) header_secret: String,
    pub(super) token_secret: String,
    /// Lines in the manner of `known_hosts`.
    pub(super) known_hosts: Option<String>,
    /// Id of the agent.
    pub(super) ssh: Option<String>,
    /// Who has to have signed it (SPEC A7.07).
    pub(super) signed: Option<Wanted>,
}

impl GitSpec {
    pub(super) fn parse(op: &SourceOp) -> Result<Self, GitError> {
        let get = |name: &str| op.attrs.get(name).map(String::as_str).filter(|v| !v.is_empty());
        for (name, what) in [("git.bundle", "git.bundle"), ("git.checkoutbundle", "git.checkoutbundle")] {
            if get(name).is_some() {
                return Err(GitError::Unsupported(what));
            }
        }
        let rest = op.identifier.strip_prefix("git://").unwrap_or(&op.identifier);
        let (address, fragment) = rest.split_once('#').unwrap_or((rest, ""));
        let (reference, subdir) = fragment.split_once(':').unwrap_or((fragment, ""));
        let remote = get("git.fullurl").unwrap_or(address);
        let remote =
            if remote.contains("://") || is_scp_like(remote) { remote.to_owned() } else { format!("https://{remote}") };
        let checksum = get("git.checksum").map(str::to_lowercase);
        if let Some(checksum) = &checksum
            && (checksum.len() > 64 || !is_hex(checksum))
        {
            return Err(GitError::InvalidChecksum { checksum: checksum.clone() });
        }
        let spec = Self {
            reference: reference.into(),
            subdir: clean(subdir),
            checksum,
            keep_git_dir: get("git.keepgitdir") == Some("true"),
            submodules: get("git.skipsubmodules") != Some("true"),
            commit_times: get("git.mtime") == Some("commit"),
            fetch_by_commit: get("git.fetchbycommit") == Some("true"),
            header_secret: get("git.authheadersecret").unwrap_or("GIT_AUTH_HEADER").into(),
            token_secret: get("git.authtokensecret").unwrap_or("GIT_AUTH_TOKEN").into(),
            known_hosts: get("git.knownsshhosts").map(Into::into),
            ssh: get("git.mountsshsock").map(Into::into),
            signed: signed(op)?,
            remote,
        };
        spec.check_remote()?;
        check_ref(&spec.reference)?;
        Ok(spec)
    }

    fn check_remote(&self) -> Result<(), GitError> {
        let fail = |reason| Err(GitError::Remote { remote: self.shown(), reason });
        match self.remote.split_once("://") {
            Some(("http" | "https" | "git" | "ssh", _)) => {}
            Some(_) => return fail("expected http, https, git or ssh"),
            None if self.remote.starts_with('-') => return fail("it begins with a dash"),
            None => {}
        }
        // A host that begins with a dash would be an option of ssh.
        let host = gitref::host(&self.remote);
        if host.is_empty() || host.starts_with('-') {
            return fail("there is no usable host");
        }
        if self.remote.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return fail("it has blanks or control characters");
        }
        Ok(())
    }

    /// The remote for messages.
    pub(super) fn shown(&self) -> String {
        match self.remote.split_once("://") {
            Some((scheme, rest)) => {
                let end = rest.find('/').unwrap_or(rest.len());
                let (authority, path) = rest.split_at(end);
                match authority.rsplit_once('@') {
                    // The user of an ssh URL is part of the address.
                    Some((user, host)) if scheme == "ssh" => {
                        format!("{scheme}://{}@{host}{path}", user.split(':').next().unwrap_or_default())
                    }
                    Some((_, host)) => format!("{scheme}://{host}{path}"),
                    None => self.remote.clone(),
                }
            }
            None => self.remote.clone(),
        }
    }

    /// It is reached by ssh.
    pub(super) fn is_ssh(&self) -> bool {
        self.remote.starts_with("ssh://") || !self.remote.contains("://")
    }
}

/// `git.sig.…`. Whoever asks for a signature must not get a checkout that nobody verified: what is not known is refused.
fn signed(op: &SourceOp) -> Result<Option<Wanted>, GitError> {
    let fail = |name: &str, reason: String| GitError::InvalidSignature { name: name.to_owned(), reason };
    let (mut keys, mut asked) = (None, None);
    let (mut reject_expired, mut require_tag, mut ignore_tag) = (false, false, false);
    for (name, value) in op.attrs.iter().filter(|(name, value)| name.starts_with("git.sig.") && !value.is_empty()) {
        let flag = || match value.as_str() {
            "true" => Ok(true),
            "false" => Ok(false),
            other => Err(fail(name, format!("\"{other}\" is not true or false"))),
        };
        match name.as_str() {
            "git.sig.pubkey" => keys = Some(SourceKeys::parse(value).map_err(|reason| fail(name, reason))?),
            "git.sig.rejectexpired" => reject_expired = flag()?,
            "git.sig.requiresignedtag" => require_tag = flag()?,
            "git.sig.ignoresignedtag" => ignore_tag = flag()?,
            _ => return Err(fail(name, "it is not known".into())),
        }
        asked = Some(name);
    }
    match (keys, asked) {
        (Some(_), _) if require_tag && ignore_tag => {
            Err(fail("git.sig.ignoresignedtag", "git.sig.requiresignedtag wants the opposite".into()))
        }
        (Some(keys), _) => Ok(Some(Wanted { keys, reject_expired, require_tag, ignore_tag })),
        (None, Some(name)) => Err(fail(name, "it needs a key in git.sig.pubkey".into())),
        (None, None) => Ok(None),
    }
}

fn is_scp_like(text: &str) -> bool {
    text.split_once('@')
        .is_some_and(|(_, rest)| rest.contains(':') && !text.split('@').next().unwrap_or_default().contains('/'))
}

pub(super) fn is_hex(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// A whole commit, of either kind of repository (SPEC A7.09).
pub(super) fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && is_hex(text)
}

/// The rules of `git check-ref-format` that matter here: the name reaches git's command line.
fn check_ref(name: &str) -> Result<(), GitError> {
    let reason = if name.starts_with('-') {
        "it begins with a dash"
    } else if name.len() > 1024 {
        "it is longer than 1024 bytes"
    } else if name.chars().any(|c| c.is_control() || " ~^:?*[\\".contains(c)) {
        "it has a character that no ref can have"
    } else if name.contains("..") || name.contains("@{") || name.ends_with(".lock") {
        "no ref can be called so"
    } else {
        return Ok(());
    };
    Err(GitError::InvalidRef { reference: name.chars().take(80).collect(), reason })
}

fn clean(path: &str) -> String {
    let parts: Vec<&str> = path.split('/').filter(|part| !matches!(*part, "" | "." | "..")).collect();
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(identifier: &str, pairs: &[(&str, &str)]) -> Result<GitSpec, GitError> {
        let attrs = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        GitSpec::parse(&SourceOp { identifier: identifier.into(), attrs })
    }

    #[test]
    fn c2_04_attributes() {
        let spec = parse(
            "git://h.example/a.git#v1:sub/dir",
            &[
                ("git.fullurl", "http://u:secret@h.example/a.git"),
                ("git.keepgitdir", "true"),
                ("git.skipsubmodules", "true"),
                ("git.checksum", "ABC"),
                ("git.mtime", "commit"),
                ("git.authtokensecret", "T"),
            ],
        )
        .expect("valid");
        assert_eq!((spec.reference.as_str(), spec.subdir.as_str()), ("v1", "sub/dir"));
        assert_eq!(spec.shown(), "http://h.example/a.git");
        assert!(spec.keep_git_dir && !spec.submodules && spec.commit_times && !spec.is_ssh());
        assert_eq!((spec.checksum.as_deref(), spec.token_secret.as_str()), (Some("abc"), "T"));
        assert_eq!(spec.header_secret, "GIT_AUTH_HEADER");
        assert_eq!(parse("git://h.example/a", &[]).expect("valid").remote, "https://h.example/a");
        assert!(parse("git://h/a", &[("git.fullurl", "git@h:a")]).expect("valid").is_ssh());
    }

    #[test]
    fn a7_07_what_cannot_be_verified_is_refused_not_ignored() {
        let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIN+JBdvc6BUzq9bIYwwf2ZvzSDvHgkwMGAHqrOCK91RT a key";
        for (attributes, said) in [
            (&[("git.sig.pubkey", "true")][..], "a line begins with \"true\", expected the type of an SSH key"),
            (&[("git.sig.requiresignedtag", "true")], "it needs a key in git.sig.pubkey"),
            (&[("git.sig.pubkey", key), ("git.sig.rejectexpired", "yes")], "\"yes\" is not true or false"),
            (&[("git.sig.pubkey", key), ("git.sig.newer", "true")], "invalid git.sig.newer of a git source"),
            (
                &[("git.sig.pubkey", key), ("git.sig.requiresignedtag", "true"), ("git.sig.ignoresignedtag", "true")],
                "wants the opposite",
            ),
            (&[("git.sig.pubkey", "-----BEGIN PGP PRIVATE KEY BLOCK-----")], "it has a private key"),
            (&[("git.sig.pubkey", "ssh-ed25519 AAAA")], "the ssh-ed25519 key"),
        ] {
            let error = parse("git://h/a", attributes).expect_err(said).to_string();
            assert!(error.contains(said), "{error}");
        }
        let spec = parse("git://h/a", &[("git.sig.pubkey", key), ("git.sig.requiresignedtag", "true")]);
        let wanted = spec.expect("valid").signed.expect("wanted");
        assert!(wanted.require_tag && !wanted.ignore_tag && !wanted.reject_expired);
        assert_eq!(parse("git://h/a", &[("git.sig.pubkey", "")]).expect("valid").signed, None);
    }

    #[test]
    fn a6_21_checksums_are_hex() {
        for bad in ["foobar", "sha256:abc", "x"] {
            let error = parse("git://h/a", &[("git.checksum", bad)]).expect_err(bad).to_string();
            assert!(error.contains("invalid checksum") && error.contains("expected hex commit hash"), "{error}");
        }
    }

    #[test]
    fn hostile_names_never_reach_git() {
        for reference in ["-x", "--upload-pack=sh", "a b", "a..b", "a\tb", "a:b", "x@{1}", "a*"] {
            let identifier = format!("git://h/a#{}", reference.replace(':', "\\"));
            assert!(parse(&identifier, &[]).is_err(), "{reference}");
        }
        assert!(parse(&format!("git://h/a#{}", "x".repeat(5000)), &[]).is_err());
        for remote in [
            "ext::sh -c id",
            "file:///etc",
            "-oProxyCommand=id@h:x",
            "ssh://-oProxyCommand=id/x",
            "ext://x/y",
            "http:///x",
        ] {
            assert!(parse("git://h/a", &[("git.fullurl", remote)]).is_err(), "{remote}");
        }
    }
}
