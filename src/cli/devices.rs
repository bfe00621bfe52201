//! Which devices of the machine a build may have: `--allow device` and `[cdi]` of the configuration (SPEC A5.10, C5.14).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::args::Build;
use super::config::Config;
use super::errors::Failure;
use super::grammar;
use super::settings::usage;
use crate::base::wording::did_you_mean;
use crate::exec::cdi::{Devices, Grants, SPEC_DIRS};

/// The entitlement.
pub(super) const DEVICE: &str = "device";

/// `[cdi]`
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CdiConfig {
    /// `disabled`: no device is known.
    pub disabled: bool,
    /// `specDirs`; `None` for the usual ones.
    pub spec_dirs: Option<Vec<PathBuf>>,
    /// `autoAllowed`: names and kinds that need no `--allow`.
    pub auto_allowed: Vec<String>,
}

/// Names that Dockerfiles use, and the devices they stand for.
type Aliases = BTreeMap<String, String>;

/// What `--allow` says of devices: `device`, or `device=NAME[,alias=NAME]`.
fn grants(allow: &[String]) -> Result<(Grants, Aliases), String> {
    let (mut grants, mut aliases) = (Grants::default(), Aliases::new());
    for value in allow {
        let Some(rest) = value.strip_prefix(DEVICE) else { continue };
        let Some(rest) = rest.strip_prefix('=') else {
            grants.all |= rest.is_empty();
            continue;
        };
        // The name has a `=` of its own.
        let (name, options) = rest.split_once(',').map_or((rest, None), |(name, options)| (name, Some(options)));
        if name.is_empty() {
            return Err(format!("no device in \"{value}\""));
        }
        let mut alias = None;
        for (key, text) in options.map(grammar::fields).transpose().map_err(|e| e.0)?.unwrap_or_default() {
            match (key.as_str(), text) {
                ("alias", Some(text)) if !text.is_empty() => alias = Some(text),
                ("alias", _) => return Err(format!("no alias in \"{value}\"")),
                (other, _) => {
                    return Err(format!(
                        "unknown option \"{other}\"{}; expected alias",
                        did_you_mean(other, ["alias"])
                    ));
                }
            }
        }
        grants.devices.insert(name.to_owned());
        aliases.extend(alias.map(|alias| (alias, name.to_owned())));
    }
    Ok((grants, aliases))
}

/// The machine's devices as a build may have them, and what else they are called there.
pub(super) fn of_build(args: &Build, config: &Config) -> Result<(Arc<Devices>, Aliases), Failure> {
    let (grants, aliases) = grants(&args.allow).map_err(|e| usage(format!("--allow: {e}")))?;
    if grants != Grants::default() {
        config.permits(DEVICE)?;
    }
    Ok((known(config, grants), aliases))
}

/// All may be had, for somebody who goes into a step: it names its own, and is given no others.
pub(super) fn all(config: &Config) -> Arc<Devices> {
    known(config, Grants { all: true, ..Grants::default() })
}

fn known(config: &Config, grants: Grants) -> Arc<Devices> {
    let cdi = &config.cdi;
    let dirs = match &cdi.spec_dirs {
        _ if cdi.disabled => Vec::new(),
        Some(dirs) => dirs.clone(),
        None => SPEC_DIRS.map(PathBuf::from).into(),
    };
    Arc::new(Devices::new(dirs, cdi.auto_allowed.clone(), grants))
}

#[cfg(test)]
mod tests {
    use super::*;

    // SPEC B2.02, C5.14
    #[test]
    fn b2_02_devices_are_allowed_all_by_name_or_under_another_name() {
        let read = |values: &[&str]| grants(&values.iter().map(|v| (*v).to_owned()).collect::<Vec<_>>());
        assert_eq!(read(&["network.host"]), Ok((Grants::default(), Aliases::new())));
        assert!(read(&["device"]).is_ok_and(|(grants, _)| grants.all));
        let (some, aliases) = read(&["device=v.com/d=x", "device=v.com/d=y,alias=gpu"]).expect("reads");
        assert!(!some.all && some.devices.iter().eq(["v.com/d=x", "v.com/d=y"]));
        assert_eq!(aliases, Aliases::from([("gpu".into(), "v.com/d=y".into())]));
        for (value, why) in [
            ("device=", "no device in"),
            ("device=,alias=x", "no device in"),
            ("device=a/b=c,alias=", "no alias in"),
            ("device=a/b=c,alais=x", "did you mean alias?"),
        ] {
            assert!(read(&[value]).is_err_and(|e| e.contains(why)), "{value}");
        }
    }
}
