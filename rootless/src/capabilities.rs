//! The capabilities of a step's root (SPEC A5.14, D3.19).

use rustix::thread::CapabilitySet;
use serde::{Deserialize, Serialize};

/// Docker's default set: `a80425fb`.
const USUAL: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::NET_RAW)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::AUDIT_WRITE);

/// What is worthless to a step whose system calls are filtered as usual.
const FILTERED: CapabilitySet = CapabilitySet::SYS_ADMIN
    .union(CapabilitySet::SYS_MODULE)
    .union(CapabilitySet::SYS_BOOT)
    .union(CapabilitySet::SYS_PACCT)
    .union(CapabilitySet::SYS_RAWIO)
    .union(CapabilitySet::SYS_TIME)
    .union(CapabilitySet::SYS_TTY_CONFIG)
    .union(CapabilitySet::SYSLOG)
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::BPF)
    .union(CapabilitySet::PERFMON);

/// Those that root of a step has, as the kernel's bits. By default docker's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities(u64);

impl Default for Capabilities {
    fn default() -> Self {
        Self(USUAL.bits())
    }
}

impl Capabilities {
    /// The default, with those of `add` and without those of `drop`. `ALL` stands for every one; what is named goes before it.
    ///
    /// # Errors
    /// Names the one that does not exist, contradicts another, or is of no use.
    pub fn changed(add: &[String], drop: &[String]) -> Result<Self, String> {
        let (added, dropped) = (named(add)?, named(drop)?);
        if let Some(both) = added.names.intersection(dropped.names).iter_names().next() {
            return Err(format!("{} is both added and dropped", both.0));
        }
        if added.all && dropped.all {
            return Err("ALL is both added and dropped".into());
        }
        let useless = if added.all { FILTERED - dropped.names } else { FILTERED & added.names };
        if let Some((name, _)) = useless.iter_names().next() {
            return Err(format!(
                "{name} is of no use: the system calls that it allows are filtered \
                 (RUN --security=insecure has all capabilities and no filter, if --allow security.insecure permits it)"
            ));
        }
        let mut all = if dropped.all { CapabilitySet::empty() } else { USUAL };
        if added.all {
            all = CapabilitySet::all();
        }
        Ok(Self(((all | added.names) - dropped.names).bits()))
    }

    pub(crate) fn set(self) -> CapabilitySet {
        CapabilitySet::from_bits_truncate(self.0)
    }
}

struct Named {
    names: CapabilitySet,
    all: bool,
}

/// Capabilities by name, in any case, with `CAP_` or without.
fn named(texts: &[String]) -> Result<Named, String> {
    let mut out = Named { names: CapabilitySet::empty(), all: false };
    for text in texts.iter().map(|text| text.trim()).filter(|text| !text.is_empty()) {
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
        match CapabilitySet::from_name(name) {
            Some(one) => out.names |= one,
            None if name == "ALL" => out.all = true,
            None => return Err(format!("there is no capability \"{text}\"")),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(add: &[&str], drop: &[&str]) -> Result<CapabilitySet, String> {
        let texts = |all: &[&str]| all.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        Capabilities::changed(&texts(add), &texts(drop)).map(Capabilities::set)
    }

    #[test]
    fn the_default_capabilities_are_dockers() {
        assert_eq!(Capabilities::default().0, 0xa804_25fb);
    }

    // SPEC D3.19
    #[test]
    fn d3_19_capabilities_are_added_and_dropped() {
        assert_eq!(
            changed(&["net_admin"], &["CAP_CHOWN"]),
            Ok((USUAL | CapabilitySet::NET_ADMIN) - CapabilitySet::CHOWN)
        );
        assert_eq!(changed(&["KILL"], &["all"]), Ok(CapabilitySet::KILL));
        assert_eq!(changed(&[], &[]), Ok(USUAL));
        for (add, drop, rule) in [
            (&["NET_ADMNI"][..], &[][..], "no capability \"NET_ADMNI\""),
            (&["CHOWN"], &["CHOWN"], "CHOWN is both"),
            (&["SYS_ADMIN"], &[], "RUN --security=insecure"),
            (&["ALL"], &[], "filtered"),
        ] {
            assert!(changed(add, drop).is_err_and(|why| why.contains(rule)), "{rule}");
        }
    }
}
