//! Names of servers to addresses, without those at which clouds give a machine's own credentials away: whoever owns a name can
//! let it lead there, also after it was looked at.

use std::io;
use std::net::{IpAddr, SocketAddr};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::host::{GOOGLE, is_metadata};

/// As the system resolves them, and less.
pub(super) struct Resolver;

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            Ok(Box::new(allowed(name.as_str(), found)?.into_iter()) as Addrs)
        })
    }
}

/// The addresses that may be spoken to under this name.
fn allowed(name: &str, mut found: Vec<SocketAddr>) -> io::Result<Vec<SocketAddr>> {
    if name == GOOGLE {
        // Asked for its credentials by ourselves; nobody else leads us there.
        return Ok(found);
    }
    let refused: Vec<IpAddr> = found.iter().map(SocketAddr::ip).filter(|ip| is_metadata(*ip)).collect();
    found.retain(|address| !refused.contains(&address.ip()));
    match refused.first() {
        Some(ip) if found.is_empty() => Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("{name} leads to {ip}, the metadata service of a cloud"),
        )),
        _ => Ok(found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_do_not_lead_to_the_credentials_of_a_cloud() {
        let resolve = |name: &str, addresses: &[&str]| {
            let found = addresses.iter().map(|a| SocketAddr::new(a.parse().expect("an address"), 0)).collect();
            allowed(name, found).map(|left| left.iter().map(|a| a.ip().to_string()).collect::<Vec<_>>())
        };
        let error = resolve("evil.example", &["169.254.169.254"]).expect_err("refused");
        assert_eq!(error.to_string(), "evil.example leads to 169.254.169.254, the metadata service of a cloud");
        for address in ["169.254.170.2", "fd00:ec2::254", "::ffff:169.254.169.254", "100.100.100.200"] {
            resolve("evil.example", &[address]).expect_err(address);
        }
        assert_eq!(resolve("both.example", &["169.254.169.254", "192.0.2.1"]).expect("one is left"), ["192.0.2.1"]);
        // Where some container engines have the machine they run on.
        assert_eq!(resolve("host.containers.internal", &["169.254.1.2"]).expect("kept"), ["169.254.1.2"]);
        assert_eq!(resolve(GOOGLE, &["169.254.169.254"]).expect("kept").len(), 1);
        assert_eq!(resolve("nothing.example", &[]).expect("none"), [""; 0]);
    }
}
