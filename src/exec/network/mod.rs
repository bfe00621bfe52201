//! The network of steps: a namespace of their own, with everything behind it that this process can reach, except this
//! machine itself (SPEC C5.12).
//!
//! What a step sees: one interface with an address, name servers that are the machine's ([`addresses::NAME_SERVERS`]),
//! and, where it was asked for, an address that is the machine's loopback ([`addresses::HOST_V4`]). What it cannot see: the machine's
//! loopback otherwise, link-local addresses, the metadata services of clouds, abstract sockets, other steps. ICMP is
//! answered but not forwarded.

pub(super) mod addresses;
mod bridge;
mod link;
mod packet;
mod tcp;
mod udp;

use std::fs;
use std::io;
use std::net::{IpAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock};

use rootless::network::{Cable, CableMaker, CablePlan};

use super::spare::{self, Spare};
use addresses::Destinations;

/// What `default` means for the network of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DefaultNetwork {
    /// One of its own where that is possible, else the machine's.
    #[default]
    Auto,
    /// One of its own, or an error.
    Sandbox,
    /// The machine's.
    Host,
}

impl DefaultNetwork {
    /// The name in the configuration.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "auto" => Some(Self::Auto),
            "sandbox" => Some(Self::Sandbox),
            "host" => Some(Self::Host),
            _ => None,
        }
    }
}

/// Makes networks for steps.
#[derive(Debug, Default)]
pub(super) struct Networks {
    cables: CableMaker,
    /// One that was made in advance.
    spare: Spare<Cable>,
    /// Whether the machine has IPv6 to anywhere.
    v6: OnceLock<bool>,
}

/// A step's network. Dropping it ends every connection.
#[derive(Debug)]
pub(super) struct StepNetwork {
    namespace: OwnedFd,
    stop: OwnedFd,
    /// How many name servers it has.
    pub(super) name_servers: usize,
}

impl Networks {
    /// A network. `resolv_conf` names the machine's name servers; `host` makes its loopback reachable.
    pub(super) fn open(&self, resolv_conf: &str, host: bool) -> io::Result<StepNetwork> {
        let cable = self.spare.take().map_or_else(|| self.cable(), Ok)?;
        let resolvers = addresses::resolvers(resolv_conf, interface_number);
        let name_servers = resolvers.len();
        let stop = bridge::start(cable.end, Destinations { resolvers, host })?;
        Ok(StepNetwork { namespace: cable.namespace, stop, name_servers })
    }

    /// Makes what the next step needs: that takes milliseconds, most of them the kernel waiting for itself.
    pub(super) fn expect(self: &Arc<Self>) {
        spare::expect(self, |this| &this.spare, |this| this.cable().ok());
    }

    fn cable(&self) -> io::Result<Cable> {
        let mut plan = CablePlan {
            addresses: vec![addresses::STEP_V4.into()],
            mtu: u32::try_from(link::MTU).expect("because packets are small"),
        };
        if *self.v6.get_or_init(has_v6) {
            plan.addresses.push(addresses::STEP_V6.into());
        }
        self.cables.make(&plan).map_err(io::Error::other)
    }
}

impl StepNetwork {
    /// The network namespace.
    pub(super) fn namespace(&self) -> BorrowedFd<'_> {
        self.namespace.as_fd()
    }
}

impl Drop for StepNetwork {
    fn drop(&mut self) {
        // The counter of an eventfd that was never written to has room for a one.
        let _ = rustix::io::write(&self.stop, &1u64.to_ne_bytes());
    }
}

/// Whether there is a route to the IPv6 internet. (Nothing is sent.)
fn has_v6() -> bool {
    // Any address that is nobody's link and nobody's private network.
    UdpSocket::bind("[::]:0").and_then(|socket| socket.connect("[2000::1]:9")).is_ok()
}

fn interface_number(name: &str) -> Option<u32> {
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.@".contains(&b)) && !name.contains("..");
    plain.then(|| fs::read_to_string(format!("/sys/class/net/{name}/ifindex")).ok()?.trim().parse().ok()).flatten()
}

/// Whether a proxy setting names this machine's loopback: `http://127.0.0.1:3128`, `localhost:8080`.
pub(super) fn is_on_loopback(proxy: &str) -> bool {
    let rest = proxy.split_once("://").map_or(proxy, |(_, rest)| rest);
    let authority = rest.split('/').next().unwrap_or_default();
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let host = match host.strip_prefix('[').and_then(|h| h.split_once(']')) {
        Some((ip, _)) => ip,
        None => host.split(':').next().unwrap_or_default(),
    };
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_of_this_machine_are_recognised() {
        for proxy in
            ["http://127.0.0.1:3128", "localhost:80", "http://user:p@LOCALHOST/", "http://[::1]:8080", "127.1.2.3"]
        {
            assert!(is_on_loopback(proxy), "{proxy}");
        }
        for proxy in ["http://proxy.example:3128", "10.0.0.1:80", "http://localhost.example", "http://[fd00::1]:1", ""]
        {
            assert!(!is_on_loopback(proxy), "{proxy}");
        }
    }
}
