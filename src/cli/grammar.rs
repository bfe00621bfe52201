//! Values of flags (SPEC G): CSV records, booleans, sizes, durations, limits, hosts, secrets.

pub use crate::base::values::boolean;
use crate::base::values::{byte_size, csv_record};
pub use crate::base::wording::did_you_mean;
use crate::exec::run::Resources;
use crate::frontend::Call;
use crate::llb::op::{HostIp, Ulimit};
use crate::llb::spelling;
use crate::store::Space;

/// Why a value is refused: names the value and the rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ValueError(pub String);

fn fail<T>(text: impl Into<String>) -> Result<T, ValueError> {
    Err(ValueError(text.into()))
}

/// The `key=value` fields of one CSV record; keys are lower-cased (G.01).
///
/// # Errors
/// For records that are not CSV.
pub fn fields(text: &str) -> Result<Vec<(String, Option<String>)>, ValueError> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let record = csv_record(text).map_err(|e| ValueError(format!("\"{text}\" is not a list of key=value: {e}")))?;
    let pair = |field: &str| match field.split_once('=') {
        Some((key, value)) => (key.trim().to_lowercase(), Some(value.to_owned())),
        None => (field.trim().to_lowercase(), None),
    };
    Ok(record.iter().map(|field| pair(field)).collect())
}

/// Bytes: a number with an optional unit, powers of 1024 (G.04).
///
/// # Errors
/// For anything else.
pub fn bytes(text: &str) -> Result<u64, ValueError> {
    byte_size(text).ok_or_else(|| {
        ValueError(format!("invalid size \"{text}\": expected a number with an optional unit b, k, m, g, t or p"))
    })
}

/// Bytes, or a share of the disk: `10%` (SPEC C9.04).
///
/// # Errors
/// For anything else.
pub fn space(text: &str) -> Result<Space, ValueError> {
    match text.strip_suffix('%') {
        None => bytes(text).map(Space::Bytes),
        Some(percent) => match percent.trim().parse() {
            Ok(percent) if percent <= 100 => Ok(Space::Percent(percent)),
            _ => fail(format!("invalid size \"{text}\": expected 0% to 100%")),
        },
    }
}

/// `name=soft[:hard]` (B2.32).
///
/// # Errors
/// See [`spelling::ulimit`].
pub fn ulimit(text: &str) -> Result<Ulimit, ValueError> {
    spelling::ulimit(text).map_err(ValueError)
}

/// Docker's least memory of a container.
const LEAST_MEMORY: u64 = 6 << 20;

/// What [`resource`] knows.
pub const RESOURCES: [&str; 7] =
    ["memory", "memory-swap", "cpu-shares", "cpu-period", "cpu-quota", "cpuset-cpus", "cpuset-mems"];

/// One limit of a step by buildx's name (B2.26).
///
/// # Errors
/// For unknown names and values that are none.
pub fn resource(key: &str, value: &str, into: &mut Resources) -> Result<(), ValueError> {
    let signed = |n: Result<u64, ValueError>| {
        if value == "-1" { Ok(-1) } else { n.map(|n| i64::try_from(n).unwrap_or(i64::MAX)) }
    };
    let number =
        || value.parse::<u64>().map_err(|_| ValueError(format!("invalid {key} \"{value}\": expected a number")));
    // What the kernel refuses, or no process can begin with; 0 is no limit, as docker has it.
    let within = |n: u64, least: u64, most: u64, range: &str| match n {
        0 => Ok(None),
        n if (least..=most).contains(&n) => Ok(Some(n)),
        _ => fail(format!("invalid {key} \"{value}\": expected {range}")),
    };
    let list = || {
        let valid = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit() || b"-,".contains(&b));
        if valid { Ok(value.to_owned()) } else { fail(format!("invalid {key} \"{value}\": expected e.g. 0-2")) }
    };
    match key {
        "memory" => into.memory = within(bytes(value)?, LEAST_MEMORY, u64::MAX, "at least 6m")?,
        "memory-swap" => into.memory_swap = Some(signed(bytes(value))?).filter(|bytes| *bytes != 0),
        "cpu-shares" => into.cpu_shares = within(number()?, 2, 262_144, "2 to 262144")?,
        "cpu-period" => into.cpu_period = within(number()?, 1000, 1_000_000, "1000 to 1000000 microseconds")?,
        "cpu-quota" if value == "-1" => into.cpu_quota = Some(-1),
        "cpu-quota" => {
            let quota = within(number()?, 1000, u64::MAX, "at least 1000 microseconds")?;
            into.cpu_quota = quota.map(|n| i64::try_from(n).unwrap_or(i64::MAX));
        }
        "cpuset-cpus" => into.cpuset_cpus = Some(list()?),
        "cpuset-mems" => into.cpuset_mems = Some(list()?),
        _ => return fail(format!("unknown resource \"{key}\"{}", did_you_mean(key, RESOURCES))),
    }
    Ok(())
}

/// What limits say against each other.
///
/// # Errors
/// For swap that is less than the memory it includes, or includes none.
pub fn resources_agree(resources: &Resources) -> Result<(), ValueError> {
    match (resources.memory, resources.memory_swap.and_then(|bytes| u64::try_from(bytes).ok())) {
        (None, Some(_)) => fail("memory-swap is memory and swap together: it needs memory, too"),
        (Some(memory), Some(both)) if both < memory => {
            fail(format!("memory-swap is memory and swap together: {both} bytes are less than the {memory} of memory"))
        }
        _ => Ok(()),
    }
}

/// `host:ip` or `host=ip`, several addresses joined by commas (B2.01).
///
/// # Errors
/// See [`spelling::hosts`].
pub fn hosts(text: &str) -> Result<Vec<HostIp>, ValueError> {
    spelling::hosts(text).map_err(ValueError)
}

/// `default|<id>[=<socket>|<key>[,<key>]][,raw=bool]` (B2.29): the id, the paths as written, and whether it is raw.
///
/// # Errors
/// For an empty id and a `raw` that is neither true nor false.
pub fn ssh(text: &str) -> Result<(String, Vec<String>, bool), ValueError> {
    let (head, rest) = text.split_once(',').unwrap_or((text, ""));
    let (id, first) = head.split_once('=').unwrap_or((head, ""));
    if id.is_empty() {
        return fail(format!("invalid ssh forward \"{text}\": expected ID, ID=SOCKET or ID=KEY[,KEY]"));
    }
    let (mut paths, mut raw) = (Vec::new(), false);
    for part in std::iter::once(first).chain(rest.split(',')).filter(|part| !part.is_empty()) {
        match part.strip_prefix("raw=") {
            Some(value) => {
                raw = boolean(value).ok_or_else(|| {
                    ValueError(format!("invalid ssh forward \"{text}\": raw={value} is neither true nor false"))
                })?;
            }
            None => paths.push(part.to_owned()),
        }
    }
    Ok((id.to_owned(), paths, raw))
}

/// Where a secret comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// A file.
    File(String),
    /// An environment variable.
    Variable(String),
    /// A variable named like the id if it is set, else a file of that name.
    Either,
}

/// `[type=file|env,]id=ID[,src|source=PATH][,env=VAR]` (B2.27).
///
/// # Errors
/// For a missing id and unknown keys.
pub fn secret(text: &str) -> Result<(String, SecretSource), ValueError> {
    let (mut id, mut source, mut variable, mut kind) = (None, None, None, None);
    for (key, value) in fields(text)? {
        let Some(value) = value else {
            return fail(format!("invalid field \"{key}\" in secret \"{text}\": must be key=value"));
        };
        match key.as_str() {
            "id" => id = Some(value),
            "src" | "source" => source = Some(value),
            "env" => variable = Some(value),
            "type" if value == "file" || value == "env" => kind = Some(value),
            "type" => return fail(format!("unsupported secret type \"{value}\": expected file or env")),
            _ => {
                return fail(format!(
                    "unexpected key '{key}' in secret \"{text}\"{}",
                    did_you_mean(&key, ["id", "src", "source", "env", "type"])
                ));
            }
        }
    }
    let Some(id) = id.filter(|id| !id.is_empty()) else { return fail(format!("secret missing ID: \"{text}\"")) };
    let source = match (kind.as_deref(), source, variable) {
        (Some("env"), source, variable) => SecretSource::Variable(variable.or(source).unwrap_or_else(|| id.clone())),
        (_, None, Some(variable)) => SecretSource::Variable(variable),
        (_, Some(source), _) => SecretSource::File(source),
        (Some(_), None, None) => SecretSource::File(id.clone()),
        (None, None, None) => SecretSource::Either,
    };
    Ok((id, source))
}

/// `--call` (SPEC A10.26).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallOptions {
    /// The question.
    pub call: Call,
    /// The answer as JSON.
    pub json: bool,
    /// Exit with 0 whatever the answer.
    pub ignore_status: bool,
}

impl CallOptions {
    /// A question whose answer is shown as text.
    #[must_use]
    pub fn new(call: Call) -> Self {
        Self { call, json: false, ignore_status: false }
    }
}

/// Reads `METHOD[,format=json|text][,ignorestatus=BOOL]`; `build` is no question.
///
/// # Errors
/// Unknown methods, options and formats.
pub fn call(text: &str) -> Result<Option<CallOptions>, ValueError> {
    let fields = fields(text)?;
    let mut method = None;
    let (mut json, mut ignore_status) = (false, false);
    for (key, value) in &fields {
        match (key.as_str(), value.as_deref()) {
            (name, None) if method.is_none() => method = Some(name),
            ("format", Some("json")) => json = true,
            ("format", Some("text")) => json = false,
            ("format", Some(other)) => {
                return fail(format!("unknown format \"{other}\"{}", did_you_mean(other, ["json", "text"])));
            }
            ("ignorestatus", value) => {
                let value = value.unwrap_or("true");
                let known = boolean(value);
                ignore_status = known.ok_or_else(|| ValueError(format!("invalid ignorestatus value \"{value}\"")))?;
            }
            (other, _) => {
                return fail(format!(
                    "unknown option \"{other}\"{}; expected format or ignorestatus",
                    did_you_mean(other, ["format", "ignorestatus"])
                ));
            }
        }
    }
    match method {
        None => fail(format!("no method in \"{text}\"")),
        Some("build") => Ok(None),
        Some(name) => match Call::named(name) {
            Some(call) => Ok(Some(CallOptions { call, json, ignore_status })),
            None => {
                let known = ["build", "check"].into_iter().chain(Call::ALL.map(Call::name));
                fail(format!("unknown method \"{name}\"{}", did_you_mean(name, known)))
            }
        },
    }
}

/// `key=value` as a field of a CSV record: quoted, so that it may hold a comma.
#[must_use]
pub fn csv_field(key: &str, value: &str) -> String {
    format!("\"{key}={}\"", value.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g04_sizes() {
        assert_eq!(bytes("128m"), Ok(128 << 20));
        assert_eq!(bytes("1.5 GiB"), Ok(3 << 29));
        assert_eq!(bytes("12"), Ok(12));
        assert!(bytes("12x").is_err() && bytes("").is_err() && bytes("-1").is_err());
    }

    #[test]
    fn b2_27_secrets() {
        assert_eq!(secret("id=a,src=f"), Ok(("a".into(), SecretSource::File("f".into()))));
        assert_eq!(secret("id=a,env=V"), Ok(("a".into(), SecretSource::Variable("V".into()))));
        assert_eq!(secret("type=env,id=a,src=V"), Ok(("a".into(), SecretSource::Variable("V".into()))));
        assert_eq!(secret("id=a"), Ok(("a".into(), SecretSource::Either)));
        assert_eq!(secret("src=f").map_err(|e| e.0), Err("secret missing ID: \"src=f\"".into()));
        assert!(secret("id=a,sorce=f").is_err_and(|e| e.0.contains("did you mean source?")));
    }
}
