//! `RUN --mount=`: the option text (SPEC A5.02–A5.07).

use super::error::FrontendError;
use super::text::csv_fields;
use crate::base::values::{boolean, byte_size};

/// Kinds of mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum MountKind {
    /// A tree.
    #[default]
    Bind,
    /// A persistent directory.
    Cache,
    /// Memory.
    Tmpfs,
    /// A secret.
    Secret,
    /// An agent socket.
    Ssh,
}

const KINDS: [(&str, MountKind); 5] = [
    ("bind", MountKind::Bind),
    ("cache", MountKind::Cache),
    ("tmpfs", MountKind::Tmpfs),
    ("secret", MountKind::Secret),
    ("ssh", MountKind::Ssh),
];

/// Sharing modes of a cache, at the index that LLB gives them.
const SHARING: [&str; 3] = ["shared", "private", "locked"];

/// buildah's words for a label that several containers share, or one alone has.
const RELABEL: [&str; 2] = ["z", "Z"];

/// Ways in which mounts made below a mount reach others: none are made, and nobody else is there.
const PROPAGATION: [&str; 6] = ["private", "rprivate", "slave", "rslave", "shared", "rshared"];

const KEYS: [&str; 19] = [
    "type",
    "from",
    "source",
    "target",
    "readonly",
    "id",
    "sharing",
    "required",
    "mode",
    "uid",
    "gid",
    "src",
    "dst",
    "destination",
    "ro",
    "rw",
    "readwrite",
    "size",
    "env",
];

impl MountKind {
    fn name(self) -> &'static str {
        KINDS.iter().find(|(_, kind)| *kind == self).map_or("", |(name, _)| name)
    }
}

/// One parsed `--mount`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct MountSpec {
    /// `type`
    pub(super) kind: MountKind,
    /// `from`
    pub(super) from: Option<String>,
    /// `source`
    pub(super) source: String,
    /// `target`
    pub(super) target: String,
    /// `ro`, or the default of the kind.
    pub(super) readonly: bool,
    /// `id`
    pub(super) id: String,
    /// `sharing`: 0 shared, 1 private, 2 locked.
    pub(super) sharing: Option<i32>,
    /// `required`
    pub(super) required: bool,
    /// `env`
    pub(super) env: Option<String>,
    /// `size`
    pub(super) size: i64,
    /// `mode`
    pub(super) mode: Option<u32>,
    /// `uid`
    pub(super) uid: Option<u32>,
    /// `gid`
    pub(super) gid: Option<u32>,
}

/// What `from` says, before any expansion: it decides what the stage depends on.
pub(super) fn from_of(text: &str) -> Result<Option<String>, FrontendError> {
    let mut from = None;
    for field in fields(text)? {
        let Some((key, value)) = field.split_once('=') else { continue };
        if key.eq_ignore_ascii_case("from") {
            if value.chars().zip(value.chars().skip(1)).any(|(c, _)| c == '$') {
                return Err(FrontendError::input(
                    "'from' doesn't support variable expansion, define alias stage instead",
                ));
            }
            from = Some(value.to_owned()).filter(|value| !value.is_empty());
        }
    }
    Ok(from)
}

/// Parses the option text; `expand` is applied to every value but that of `from`.
pub(super) fn parse(
    text: &str,
    expand: &mut dyn FnMut(&str) -> Result<String, FrontendError>,
) -> Result<MountSpec, FrontendError> {
    let mut out = MountSpec { from: from_of(text)?, ..MountSpec::default() };
    let mut options = Vec::new();
    for field in fields(text)? {
        let (key, value) = match field.split_once('=') {
            None => (field.to_ascii_lowercase(), None),
            Some((key, value)) if key.eq_ignore_ascii_case("from") => (key.to_ascii_lowercase(), Some(value.into())),
            Some((key, value)) => (key.to_ascii_lowercase(), Some(expand(value)?)),
        };
        options.push((field, key, value));
    }
    // Which keys are allowed depends on the type, which may come last.
    for (_, _, value) in options.iter().filter(|(_, key, _)| key == "type") {
        let Some(value) = value else { break };
        let lower = value.to_ascii_lowercase();
        out.kind = KINDS.iter().find(|(name, _)| *name == lower).map(|(_, kind)| *kind).ok_or_else(|| {
            FrontendError::input(format!("unsupported mount type \"{value}\""))
                .suggest(value, KINDS.iter().map(|(name, _)| *name))
                .hint("the types are bind, cache, tmpfs, secret and ssh")
        })?;
    }
    let mut readonly = None;
    for (field, key, value) in &options {
        match value {
            Some(value) => with_value(&mut out, &mut readonly, field, key, value)?,
            None => bare(&mut out, &mut readonly, field, key)?,
        }
    }
    out.readonly = readonly.unwrap_or(!matches!(out.kind, MountKind::Cache | MountKind::Tmpfs));
    validate(&out)?;
    Ok(out)
}

fn fields(text: &str) -> Result<Vec<String>, FrontendError> {
    csv_fields(text).map_err(|error| FrontendError::input(format!("failed to parse csv mounts: {error}")))
}

fn bare(out: &mut MountSpec, readonly: &mut Option<bool>, field: &str, key: &str) -> Result<(), FrontendError> {
    match key {
        "readonly" | "ro" => *readonly = Some(true),
        "readwrite" | "rw" => *readonly = Some(false),
        "required" => {
            allowed(out.kind, key, &[MountKind::Secret, MountKind::Ssh])?;
            out.required = true;
        }
        // buildah's way to say that SELinux shall let the step in (SPEC A5.03): here it always may.
        // buildah's way to say that what is written is thrown away, which is so here.
        _ if field == "O" => {
            allowed(out.kind, field, &[MountKind::Bind])?;
            *readonly = Some(false);
        }
        _ if PROPAGATION.contains(&field) => allowed(out.kind, field, &[MountKind::Bind, MountKind::Cache])?,
        _ if RELABEL.contains(&field) => allowed(out.kind, field, &[MountKind::Bind, MountKind::Cache])?,
        _ => {
            let known = KEYS.contains(&key).then(|| format!("write {key}=VALUE"));
            let error = FrontendError::input(format!("invalid field '{field}' must be a key=value pair"));
            return Err(match known {
                Some(hint) => error.hint(hint),
                None => error.suggest(key, KEYS),
            });
        }
    }
    Ok(())
}

fn with_value(
    out: &mut MountSpec,
    readonly: &mut Option<bool>,
    field: &str,
    key: &str,
    value: &str,
) -> Result<(), FrontendError> {
    let flag = || boolean(value).ok_or_else(|| FrontendError::input(format!("invalid value for {key}: {value}")));
    let number = |radix: u32| {
        u32::from_str_radix(value, radix).map_err(|_| FrontendError::input(format!("invalid value {value} for {key}")))
    };
    match key {
        // Read beforehand.
        "type" | "from" => {}
        "source" | "src" => out.source = value.into(),
        "target" | "dst" | "destination" => out.target = value.into(),
        "readonly" | "ro" => *readonly = Some(flag()?),
        "readwrite" | "rw" => *readonly = Some(!flag()?),
        "required" => {
            allowed(out.kind, key, &[MountKind::Secret, MountKind::Ssh])?;
            out.required = flag()?;
        }
        "size" | "tmpfs-size" => {
            allowed(out.kind, key, &[MountKind::Tmpfs])?;
            out.size = byte_size(value).and_then(|size| i64::try_from(size).ok()).ok_or_else(|| {
                FrontendError::input(format!("invalid value for {key}: {value}"))
                    .hint("write bytes, with a unit if you like: 64m, 1g")
            })?;
        }
        "env" => {
            allowed(out.kind, key, &[MountKind::Secret])?;
            out.env = Some(value.into());
        }
        "id" => out.id = value.into(),
        "sharing" => {
            let lower = value.to_ascii_lowercase();
            let index = SHARING.iter().position(|name| *name == lower).and_then(|index| i32::try_from(index).ok());
            out.sharing = Some(index.ok_or_else(|| {
                FrontendError::input(format!("unsupported sharing value \"{value}\""))
                    .suggest(value, SHARING)
                    .hint("the values are shared, private and locked")
            })?);
        }
        "relabel" if matches!(value, "shared" | "private") => {
            allowed(out.kind, key, &[MountKind::Bind, MountKind::Cache])?;
        }
        "bind-propagation" if PROPAGATION.contains(&value) => {
            allowed(out.kind, key, &[MountKind::Bind, MountKind::Cache])?;
        }
        "mode" => out.mode = Some(number(8)?),
        "uid" => out.uid = Some(number(10)?),
        "gid" => out.gid = Some(number(10)?),
        _ => return Err(FrontendError::input(format!("unexpected key '{key}' in '{field}'")).suggest(key, KEYS)),
    }
    Ok(())
}

fn allowed(kind: MountKind, key: &str, kinds: &[MountKind]) -> Result<(), FrontendError> {
    if kinds.contains(&kind) {
        return Ok(());
    }
    Err(FrontendError::input(format!("unexpected key '{key}' for mount type '{}'", kind.name())))
}

fn validate(mount: &MountSpec) -> Result<(), FrontendError> {
    let kind = mount.kind;
    if matches!(kind, MountKind::Bind | MountKind::Tmpfs) {
        for (key, given) in [("mode", mount.mode), ("uid", mount.uid), ("gid", mount.gid)] {
            if given.is_some() {
                return Err(FrontendError::input(format!("{key} not allowed for \"{}\" type mounts", kind.name())));
            }
        }
    }
    if kind == MountKind::Secret {
        let refuse = |message: &str| {
            Err(FrontendError::input(message).hint("write --mount=type=secret,id=NAME[,target=PATH][,env=VARIABLE]"))
        };
        if mount.from.is_some() {
            return refuse("secret mount should not have a from");
        }
        if mount.sharing.is_some() {
            return refuse("secret mount should not define sharing");
        }
        if mount.source.is_empty() && mount.target.is_empty() && mount.id.is_empty() {
            return refuse("invalid secret mount. one of source, target required");
        }
        if !mount.source.is_empty() && !mount.id.is_empty() {
            return refuse("both source and id can't be set");
        }
    }
    if kind == MountKind::Ssh && !mount.source.is_empty() {
        return Err(FrontendError::input("ssh does not support source"));
    }
    if mount.sharing.is_some() && kind != MountKind::Cache {
        return Err(FrontendError::input(format!("invalid cache sharing set for {} mount", kind.name())));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ok(text: &str) -> MountSpec {
        parse(text, &mut |value| Ok(value.replace("$X", "expanded"))).expect("valid")
    }

    fn error(text: &str) -> String {
        parse(text, &mut |value| Ok(value.into())).expect_err("invalid").message
    }

    #[test]
    fn a5_02_defaults_and_aliases() {
        let bind = ok("target=/x");
        assert_eq!((bind.kind, bind.readonly), (MountKind::Bind, true));
        let bind = ok("type=bind,src=$X,dst=/y,rw");
        assert_eq!((bind.source.as_str(), bind.target.as_str(), bind.readonly), ("expanded", "/y", false));
        assert!(!ok("destination=/x,readonly=false").readonly);
        assert!(!ok("type=cache,target=/x").readonly);
        assert_eq!(ok("type=cache,target=/x,sharing=Locked,mode=0700,uid=1").sharing, Some(2));
        assert_eq!(ok("size=1k,type=tmpfs,target=/x").size, 1024);
        assert!(ok("required,type=secret,id=a").required);
        assert_eq!(ok("type=secret,id=a,env=TOKEN").env.as_deref(), Some("TOKEN"));
        assert_eq!(ok("from=$,target=/x").from.as_deref(), Some("$"));
        assert_eq!(ok("\"target=/a,b\"").target, "/a,b");
    }

    #[test]
    fn a5_03_labels_of_selinux_are_taken() {
        let plain = ok("type=bind,target=/x");
        for label in ["z", "Z", "relabel=shared", "relabel=private"] {
            assert_eq!(ok(&format!("type=bind,target=/x,{label}")), plain, "{label}");
            assert_eq!(ok(&format!("type=cache,target=/x,{label}")), ok("type=cache,target=/x"), "{label}");
        }
        assert_eq!(error("type=tmpfs,target=/x,Z"), "unexpected key 'Z' for mount type 'tmpfs'");
        assert_eq!(error("target=/x,relabel=no"), "unexpected key 'relabel' in 'relabel=no'");
    }

    // SPEC A5.03, A5.05
    #[test]
    fn a5_03_words_of_buildah_that_change_nothing() {
        let plain = ok("type=bind,target=/x");
        for word in ["private", "rshared", "bind-propagation=rprivate"] {
            assert_eq!(ok(&format!("type=bind,target=/x,{word}")), plain, "{word}");
        }
        assert_eq!(ok("type=bind,target=/x,O"), ok("type=bind,target=/x,rw"));
        assert_eq!(ok("type=tmpfs,target=/x,tmpfs-size=1k"), ok("type=tmpfs,target=/x,size=1k"));
        assert_eq!(
            error("target=/x,bind-propagation=suid"),
            "unexpected key 'bind-propagation' in 'bind-propagation=suid'"
        );
        assert_eq!(error("type=tmpfs,target=/x,O"), "unexpected key 'O' for mount type 'tmpfs'");
    }

    #[test]
    fn a5_02_to_a5_07_error_texts() {
        let texts = [
            "foo=1",
            "tagret=/x",
            "foo",
            "type=bin,target=/x",
            "target=/x,mode=1",
            "type=tmpfs,uid=1",
            "size=1",
            "required",
            "type=cache,env=X",
            "type=cache,sharing=lock",
            "type=cache,mode=9",
            "ro=maybe",
            "type=tmpfs,size=x",
            "type=secret",
            "type=secret,source=a,id=b",
            "type=secret,id=a,from=x",
            "type=secret,id=a,sharing=shared",
            "type=ssh,source=a",
            "sharing=shared",
            "from=$X",
            "a\"b",
        ];
        let all: Vec<String> = texts.iter().map(|text| format!("{text} => {}", error(text))).collect();
        insta::assert_snapshot!(all.join("\n"));
    }
}
