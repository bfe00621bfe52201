//! What a bake file wants of this machine beyond the directory it is used in, and whether that was allowed (SPEC B7.22).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use indexmap::IndexMap;

use crate::bake::Target;
use crate::base::FaultKind;
use crate::base::values::{boolean, csv_record};
use crate::cli::errors::Failure;
use crate::cli::image_commands::usage;
use crate::cli::outputs::LOCAL_DELETE;
use crate::cli::settings::variable;
use crate::dockerfile::gitref::GitRef;

/// Something that has to be allowed: what is said of it, and the flag.
type Wanted = BTreeSet<(String, String)>;

/// What was allowed.
pub(super) struct Allowed<'a> {
    /// `--allow`.
    pub(super) flags: &'a [String],
    /// Overrides of the command line: whoever names a path there may use it.
    pub(super) set: &'a [String],
    /// The definition is somebody else's.
    pub(super) elsewhere: bool,
}

impl Allowed<'_> {
    /// Whether `--set` names a path, itself or as a field of what it says. What is not there yet has to be allowed.
    fn names(&self, path: &str) -> bool {
        let said = |text: &String| {
            let (_, value) = text.split_once('=').unwrap_or_default();
            let fields = csv_record(value).unwrap_or_default();
            value == path || fields.iter().any(|field| field.split_once('=').is_some_and(|(_, value)| value == path))
        };
        self.set.iter().any(said) && Path::new(path).exists()
    }
}

/// Whether a variable says yes.
fn yes(name: &str) -> bool {
    variable(name).and_then(|text| boolean(&text)) == Some(true)
}

/// Refuses what was not allowed, and says how it would be.
pub(super) fn check(targets: &IndexMap<String, Target>, allowed: &Allowed<'_>) -> Result<(), Failure> {
    for flag in allowed.flags {
        let (name, value) = flag.split_once('=').map_or((flag.as_str(), None), |(name, value)| (name, Some(value)));
        if name == LOCAL_DELETE && value.is_some() {
            return Err(usage(format!("--allow: {name} does not accept a value")));
        }
        let known = [
            "fs",
            "fs.read",
            "fs.write",
            "ssh",
            "network.host",
            "security.insecure",
            "device",
            LOCAL_DELETE,
            "image.push",
            "image.load",
        ];
        if !known.contains(&name) {
            return Err(usage(format!("--allow: unknown entitlement \"{flag}\"")));
        }
    }
    let files = variable("BUILDX_BAKE_ENTITLEMENTS_FS").is_none_or(|text| boolean(&text) != Some(false));
    let files = files && !(allowed.elsewhere && yes("BAKE_ALLOW_REMOTE_FS_ACCESS"));
    let mut wanted = Wanted::new();
    for target in targets.values() {
        entitlements(target, allowed.flags, &mut wanted);
        if files {
            let (reads, writes) = paths(target);
            add(reads, "Read", "fs.read", allowed, &mut wanted);
            add(writes, "Write", "fs.write", allowed, &mut wanted);
        }
    }
    if wanted.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = wanted.iter().map(|(what, _)| format!("\n - {what}")).collect();
    let flags: Vec<String> = wanted.iter().map(|(_, flag)| format!("--allow={flag}")).collect();
    let message =
        format!("additional privileges requested: the bake file asks for what was not allowed:{}", lines.concat());
    Err(Failure::new(FaultKind::Usage, message).hint(format!("pass \"{}\" to allow it", flags.join(" "))))
}

fn entitlements(target: &Target, allowed: &[String], wanted: &mut Wanted) {
    let mut want = |name: &str, what: &str| {
        if !allowed.iter().any(|flag| flag == name) {
            wanted.insert((what.to_owned(), name.to_owned()));
        }
    };
    let asked = target.arguments();
    for name in ["network.host", "security.insecure"] {
        let network = name == "network.host" && target.text("network") == Some("host");
        if network || asked.iter().any(|flag| *flag == format!("--allow={name}")) {
            want(
                name,
                if name == "network.host" {
                    "running steps in the network of the host"
                } else {
                    "running steps without a sandbox"
                },
            );
        }
    }
    // Keys that are named are files like others.
    if target.specs("ssh").iter().any(|key| !key.contains_key("paths")) {
        want("ssh", "Forwarding default SSH agent socket");
    }
    let deletes = |output: &BTreeMap<String, String>| {
        let field = |key: &str| output.get(key).map(String::as_str);
        field("type") == Some("local") && field("mode") == Some("delete")
    };
    if target.specs("output").iter().any(deletes) {
        want(LOCAL_DELETE, "Deleting what is in a directory that is written to");
    }
}

/// Files and directories of this machine that a target reads, and that it writes.
fn paths(target: &Target) -> (Vec<String>, Vec<String>) {
    let local = |text: &String| !text.contains("://") && GitRef::parse(text).is_none();
    let context = target.text("context").unwrap_or(".");
    let context = context.to_owned();
    let mut reads: Vec<String> =
        target.map("contexts").into_values().filter(|value| local(value) && !value.starts_with("target:")).collect();
    if let Some(dockerfile) = target.text("dockerfile").filter(|_| target.text("dockerfile-inline").is_none()) {
        match dockerfile.strip_prefix("cwd://") {
            Some(outside) => reads.push(outside.to_owned()),
            None if local(&context) && context != "-" => {
                reads.push(Path::new(&context).join(dockerfile).display().to_string());
            }
            None => {}
        }
    }
    if local(&context) && context != "-" {
        reads.push(context);
    }
    let field = |specs: Vec<BTreeMap<String, String>>, names: &[&str], kinds: &[&str]| {
        let specs = specs
            .into_iter()
            .filter(|spec| kinds.is_empty() || spec.get("type").is_some_and(|kind| kinds.contains(&kind.as_str())));
        specs.filter_map(|spec| names.iter().find_map(|name| spec.get(*name).cloned())).collect::<Vec<_>>()
    };
    reads.extend(field(target.specs("secret"), &["src", "source"], &[]));
    let keys = target.specs("ssh").into_iter().filter_map(|key| key.get("paths").cloned());
    reads.extend(keys.flat_map(|paths| paths.split(',').map(ToOwned::to_owned).collect::<Vec<_>>()));
    reads.extend(field(target.specs("cache-from"), &["src"], &["local"]));
    reads.extend(field(target.specs("policy"), &["filename"], &[]));
    let mut writes = field(target.specs("cache-to"), &["dest"], &["local"]);
    writes.extend(field(target.specs("output"), &["dest"], &["local", "tar", "oci", "docker"]));
    writes.retain(|path| path != "-");
    (reads, writes)
}

fn add(paths: Vec<String>, verb: &str, kind: &str, allowed: &Allowed<'_>, wanted: &mut Wanted) {
    let here = real(Path::new("."));
    for path in paths {
        let place = real(Path::new(&path));
        let granted = allowed.names(&path)
            || allowed.flags.iter().any(|flag| {
                let (name, value) = flag.split_once('=').unwrap_or((flag, ""));
                (name == "fs" || name == kind)
                    && (value == "*" || (!value.is_empty() && place.starts_with(real(Path::new(value)))))
            });
        if !granted && !place.starts_with(&here) {
            wanted.insert((format!("{verb} access to path {path}"), format!("{kind}={path}")));
        }
    }
}

/// Where a path leads, as far as it exists.
fn real(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut out = PathBuf::new();
    for part in absolute.components() {
        match part {
            Component::ParentDir => {
                out.pop();
            }
            part => out.push(part),
        }
        // Step by step, so that `..` behind a link leaves what the link leads to.
        out = out.canonicalize().unwrap_or(out);
    }
    out
}
