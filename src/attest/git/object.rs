//! The text of commits and annotated tags.

use super::Unsigned;
use super::pgp;
use super::ssh;

/// Signatures of commits stand under these names, by the length of the repository's digests; a commit may have both.
const SIGNATURES: [(&str, usize); 2] = [("gpgsig", 40), ("gpgsig-sha256", 64)];
/// Where the signature of a tag begins, which stands behind its message.
const BEGINNINGS: [&str; 2] = [pgp::BEGIN, ssh::BEGIN];

/// Which of the two an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A commit.
    Commit,
    /// An annotated tag.
    Tag,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Commit => "commit",
            Self::Tag => "tag",
        }
    }

    /// What such an object cannot be without.
    fn required(self) -> &'static [&'static str] {
        match self {
            Self::Commit => &["tree", "author", "committer"],
            Self::Tag => &["object", "type", "tag"],
        }
    }
}

/// Who did something, and when.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Actor {
    /// The name.
    pub name: String,
    /// The address between the angle brackets.
    pub email: String,
    /// Seconds since 1970, and the zone in seconds east of Greenwich.
    pub when: Option<(i64, i32)>,
}

/// A commit or an annotated tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Which of them.
    pub kind: Kind,
    headers: Vec<(String, String)>,
    /// Without the signature.
    pub message: String,
    /// In its armor; empty where there is none.
    signature: String,
    /// What was signed.
    signed: Vec<u8>,
}

/// Who says to have signed, unverified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signature {
    /// PGP's: version, and the key's id in hexadecimal digits where it is told.
    Pgp {
        /// Of the packet.
        version: u8,
        /// Sixteen digits.
        key: Option<String>,
    },
    /// SSH's: version, and the key's fingerprint.
    Ssh {
        /// Of the format.
        version: u32,
        /// `SHA256:…`
        key: String,
    },
}

impl Object {
    /// Reads an object.
    ///
    /// # Errors
    /// When it lacks what each such object has.
    pub fn parse(raw: &[u8]) -> Result<Self, Unsigned> {
        let kind = if raw.starts_with(b"object ") { Kind::Tag } else { Kind::Commit };
        let (mut headers, mut signed) = (Vec::<(String, String)>::new(), Vec::with_capacity(raw.len()));
        let mut signature = Vec::<&[u8]>::new();
        // Whether the lines that go on are of a signature, and whether of the one that counts.
        let mut within: Option<bool> = None;
        let mut rest = raw;
        while let Some((line, after)) = next_line(rest) {
            if trimmed(line).is_empty() {
                break;
            }
            rest = after;
            if let Some(more) = line.strip_prefix(b" ") {
                match within {
                    Some(true) => signature.push(more),
                    Some(false) => {}
                    None => signed.extend_from_slice(line),
                }
                continue;
            }
            let text = String::from_utf8_lossy(trimmed(line));
            let (name, value) = text.split_once(' ').unwrap_or((&text, ""));
            let digest = headers.iter().find(|(name, _)| name == "tree").map_or(0, |(_, tree)| tree.len());
            let known = SIGNATURES.iter().find(|(known, _)| kind == Kind::Commit && *known == name);
            within = known.map(|(_, length)| *length == digest);
            if let Some(counts) = within {
                signature.extend(line.get(name.len() + 1..).filter(|_| counts));
                continue;
            }
            signed.extend_from_slice(line);
            headers.push((name.to_owned(), value.to_owned()));
        }
        let mut body = rest.strip_prefix(b"\n").unwrap_or(rest);
        signed.extend_from_slice(&rest[..rest.len() - body.len()]);
        if kind == Kind::Tag
            && let Some(at) = signature_at(body)
        {
            signature.push(&body[at..]);
            body = &body[..at];
        }
        signed.extend_from_slice(body);
        if let Some(missing) = kind.required().iter().find(|name| !headers.iter().any(|(known, _)| known == *name)) {
            return Err(Unsigned::Malformed(format!("the {} has no {missing}", kind.name())));
        }
        let message = String::from_utf8_lossy(body).into_owned();
        let signature = String::from_utf8_lossy(&signature.concat()).into_owned();
        Ok(Self { kind, headers, message, signature, signed })
    }

    /// `the commit` or `the tag v1`, for messages.
    #[must_use]
    pub fn shown(&self) -> String {
        match self.kind {
            Kind::Commit => "the commit".into(),
            Kind::Tag => format!("the tag {}", self.header("tag").unwrap_or_default()),
        }
    }

    /// The first header of this name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers(name).next()
    }

    /// All headers of this name.
    pub fn headers(&self, name: &str) -> impl Iterator<Item = &str> {
        self.headers.iter().filter(move |(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The signature in its armor, if there is one.
    #[must_use]
    pub fn armored(&self) -> Option<&str> {
        Some(self.signature.as_str()).filter(|text| !text.trim().is_empty())
    }

    /// What the signature is about.
    #[must_use]
    pub fn signed(&self) -> &[u8] {
        &self.signed
    }

    /// Who says to have signed it.
    #[must_use]
    pub fn signature(&self) -> Option<Signature> {
        let armored = self.armored()?;
        if armored.trim_start().starts_with(ssh::BEGIN) {
            let parsed = ssh::Signature::parse(armored).ok()?;
            return Some(Signature::Ssh { version: ssh::VERSION, key: ssh::fingerprint(&parsed.key) });
        }
        let parsed = pgp::Detached::parse(armored.as_bytes()).ok()?;
        Some(Signature::Pgp { version: parsed.version(), key: parsed.key_id() })
    }
}

/// `A Name <name@example.com> 1700000000 +0100`
impl From<&str> for Actor {
    fn from(text: &str) -> Self {
        let text = text.trim();
        // A name may have angle brackets too.
        let Some((name, (email, rest))) = text.rsplit_once('<').and_then(|(a, b)| Some((a, b.rsplit_once('>')?)))
        else {
            return Self { name: text.into(), ..Self::default() };
        };
        let mut words = rest.split_whitespace();
        let when = words.next().zip(words.next());
        let when = when.and_then(|(seconds, zone)| Some((seconds.parse().ok()?, offset(zone)?)));
        Self { name: name.trim().into(), email: email.trim().into(), when }
    }
}

/// `+0130` in seconds.
fn offset(zone: &str) -> Option<i32> {
    let (sign, digits) = match zone.split_at_checked(1)? {
        ("+", digits) => (1, digits),
        ("-", digits) => (-1, digits),
        _ => return None,
    };
    let number = |part: &str| part.parse::<i32>().ok().filter(|_| part.bytes().all(|byte| byte.is_ascii_digit()));
    let (hours, minutes) = digits.split_at_checked(2).filter(|(_, minutes)| minutes.len() == 2)?;
    Some(sign * (number(hours)? * 3600 + number(minutes)? * 60))
}

/// A line with its end, and what comes behind it.
fn next_line(text: &[u8]) -> Option<(&[u8], &[u8])> {
    if text.is_empty() {
        return None;
    }
    let end = text.iter().position(|byte| *byte == b'\n').map_or(text.len(), |at| at + 1);
    Some(text.split_at(end))
}

fn trimmed(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\n").unwrap_or(line)
}

/// Where the last signature of a tag begins, as git looks for it: at the beginning of a line.
fn signature_at(body: &[u8]) -> Option<usize> {
    let (mut found, mut at) = (None, 0);
    while let Some((line, _)) = next_line(&body[at..]) {
        if BEGINNINGS.iter().any(|begin| line.starts_with(begin.as_bytes())) {
            found = Some(at);
        }
        at += line.len();
    }
    found
}
