//! How values of operations are spelt where people write them, and in the options of front ends (SPEC B2.01, B2.32, C3.19).

use std::net::IpAddr;

use super::op::{HostIp, Ulimit};
use crate::base::wording::did_you_mean;

const ULIMITS: &[&str] = &[
    "as",
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// `name=soft[:hard]` (B2.32).
///
/// # Errors
/// For unknown names and limits that are no numbers or contradict each other.
pub fn ulimit(text: &str) -> Result<Ulimit, String> {
    let Some((name, limits)) = text.split_once('=') else {
        return Err(format!("invalid ulimit \"{text}\": expected name=soft[:hard]"));
    };
    if !ULIMITS.contains(&name) {
        return Err(format!("invalid ulimit type \"{name}\"{}", did_you_mean(name, ULIMITS)));
    }
    let number = |n: &str| n.parse::<i64>().map_err(|_| format!("invalid ulimit \"{text}\": \"{n}\" is not a number"));
    let (soft, hard) = match limits.split_once(':') {
        Some((soft, hard)) => (number(soft)?, number(hard)?),
        None => (number(limits)?, number(limits)?),
    };
    if hard != -1 && (soft == -1 || soft > hard) {
        return Err(format!("invalid ulimit \"{text}\": the soft limit must not exceed the hard limit"));
    }
    Ok(Ulimit { name: name.into(), soft, hard })
}

/// `host:ip` or `host=ip`, several addresses joined by commas (B2.01).
///
/// # Errors
/// For a missing or malformed address.
pub fn hosts(text: &str) -> Result<Vec<HostIp>, String> {
    let Some((host, addresses)) = text.split_once('=').or_else(|| text.split_once(':')) else {
        return Err(format!("invalid host {text}: expected HOST=IP or HOST:IP"));
    };
    if host.is_empty() {
        return Err(format!("invalid host {text}: the name is empty"));
    }
    let one = |address: &str| {
        if address == "host-gateway" {
            return Ok(HostIp { host: host.to_lowercase(), ip: address.to_owned() });
        }
        let address = address.strip_prefix('[').and_then(|a| a.strip_suffix(']')).unwrap_or(address);
        match address.parse::<IpAddr>() {
            Ok(ip) => Ok(HostIp { host: host.to_lowercase(), ip: ip.to_string() }),
            Err(_) => Err(format!("invalid host {text}: \"{address}\" is not an IP address")),
        }
    };
    addresses.split(',').map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b2_01_hosts() {
        let all = hosts("Db:10.0.0.1,10.0.0.2").expect("valid");
        assert_eq!((all[0].host.as_str(), all[1].ip.as_str()), ("db", "10.0.0.2"));
        assert_eq!(hosts("v6=[::1]").expect("valid")[0].ip, "::1");
        assert!(hosts("x").is_err() && hosts("x:y").is_err());
    }

    #[test]
    fn b2_32_ulimits() {
        assert_eq!(ulimit("nofile=10:20"), Ok(Ulimit { name: "nofile".into(), soft: 10, hard: 20 }));
        assert!(
            ulimit("nofile=30:20").is_err() && ulimit("nofiles=1").is_err_and(|e| e.contains("did you mean nofile?"))
        );
    }
}
