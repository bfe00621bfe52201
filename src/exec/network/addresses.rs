//! The addresses a step sees, and where each of them really leads.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The step itself. RFC 7335 keeps 192.0.0.0/29 for translators at a host's own end: nobody's network has them.
pub(super) const STEP_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 2);
/// The machine's loopback, for steps that were given `host-gateway`.
pub(in crate::exec) const HOST_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 3);
/// The machine's name servers, in its order; a C library asks no more than three.
pub(in crate::exec) const NAME_SERVERS: [Ipv4Addr; 3] =
    [Ipv4Addr::new(192, 0, 0, 1), Ipv4Addr::new(192, 0, 0, 4), Ipv4Addr::new(192, 0, 0, 5)];
/// Our end of the cable.
pub(super) const OWN_V4: Ipv4Addr = NAME_SERVERS[0];
/// The step, where the machine has IPv6: an address of a private network.
pub(super) const STEP_V6: Ipv6Addr = Ipv6Addr::new(0xfd72, 0x6275, 0x696c, 0x64, 0, 0, 0, 2);
/// Our end of the cable.
pub(super) const OWN_V6: Ipv6Addr = Ipv6Addr::new(0xfd72, 0x6275, 0x696c, 0x64, 0, 0, 0, 1);

/// An address that steps do not reach.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refused;

/// What is behind the cable.
#[derive(Debug, Clone)]
pub(super) struct Destinations {
    /// The machine's name servers.
    pub(super) resolvers: Vec<SocketAddr>,
    /// [`HOST_V4`] is the machine's loopback.
    pub(super) host: bool,
}

impl Destinations {
    /// Where a packet to `to` goes.
    pub(super) fn find(&self, to: SocketAddr) -> Result<SocketAddr, Refused> {
        if let IpAddr::V4(ip) = to.ip() {
            if let Some(at) = NAME_SERVERS.iter().position(|server| *server == ip) {
                return self.resolvers.get(at).copied().filter(|_| to.port() == 53).ok_or(Refused);
            }
            if ip == HOST_V4 && self.host {
                return Ok(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), to.port()));
            }
        }
        if is_out_of_bounds(to.ip()) { Err(Refused) } else { Ok(to) }
    }
}

/// The machine itself, its neighbours without a router between, and the clouds' metadata services, which hand out
/// credentials to whoever asks from the machine.
fn is_out_of_bounds(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            ip.is_loopback()
                || a == 0
                || ip.is_link_local()
                || a >= 224
                || (a, b, c) == (192, 0, 0) && (d < 8 || d == 192)
                || METADATA_V4.contains(&ip)
        }
        IpAddr::V6(ip) => {
            let translated = match ip.segments() {
                // Written as IPv6, but IPv4: mapped, compatible, and what a NAT64 translates.
                [0, 0, 0, 0, 0, 0 | 0xffff, _, _] => return true,
                [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low))),
                _ => None,
            };
            ip.is_unicast_link_local()
                || ip.is_multicast()
                || ip.segments()[..4] == OWN_V6.segments()[..4]
                || METADATA_V6.contains(&ip)
                || translated.is_some_and(|ip| is_out_of_bounds(ip.into()))
        }
    }
}

/// Those outside of the link-local range: Azure's and Alibaba's.
const METADATA_V4: [Ipv4Addr; 2] = [Ipv4Addr::new(168, 63, 129, 16), Ipv4Addr::new(100, 100, 100, 200)];
/// Amazon's and Google's.
const METADATA_V6: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)];

/// The name servers of a resolv.conf, as many as a C library asks. `zone` tells the number of an interface.
pub(super) fn resolvers(resolv_conf: &str, zone: impl Fn(&str) -> Option<u32>) -> Vec<SocketAddr> {
    let mut out: Vec<SocketAddr> = resolv_conf
        .lines()
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            (words.next() == Some("nameserver")).then(|| words.next()).flatten()
        })
        .filter_map(|server| {
            let (address, interface) = server.split_once('%').unwrap_or((server, ""));
            match address.parse().ok()? {
                IpAddr::V6(ip) if !interface.is_empty() => {
                    Some(std::net::SocketAddrV6::new(ip, 53, 0, zone(interface)?).into())
                }
                ip => Some(SocketAddr::new(ip, 53)),
            }
        })
        .collect();
    out.truncate(NAME_SERVERS.len());
    if out.is_empty() {
        // What the C library does.
        out.push(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 53));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(host: bool, to: &str) -> Result<String, Refused> {
        let destinations = Destinations { resolvers: vec!["127.0.0.53:53".parse().expect("an address")], host };
        destinations.find(to.parse().expect("an address")).map(|a| a.to_string())
    }

    /// SPEC C5.12: neither the machine nor its metadata service is reachable, however it is written.
    #[test]
    fn c5_12_the_machine_is_out_of_bounds() {
        for address in [
            "127.0.0.1:80",
            "127.8.8.8:80",
            "0.0.0.0:80",
            "0.1.2.3:80",
            "169.254.169.254:80",
            "169.254.170.2:80",
            "168.63.129.16:80",
            "100.100.100.200:80",
            "192.0.0.192:80",
            "192.0.0.2:80",
            "192.0.0.3:80",
            "192.0.0.1:80",
            "192.0.0.4:53",
            "224.0.0.251:5353",
            "255.255.255.255:67",
            "240.0.0.1:80",
            "[::1]:80",
            "[::]:80",
            "[::ffff:127.0.0.1]:80",
            "[::ffff:10.0.0.1]:80",
            "[::7f00:1]:80",
            "[64:ff9b::7f00:1]:80",
            "[64:ff9b::a9fe:a9fe]:80",
            "[fe80::1]:80",
            "[ff02::1]:80",
            "[fd00:ec2::254]:80",
            "[fd20:ce::254]:80",
            "[fd72:6275:696c:64::1]:80",
        ] {
            assert_eq!(find(false, address), Err(Refused), "{address}");
        }
        for address in ["10.0.0.1:80", "192.0.1.1:1", "8.8.8.8:53", "[2001:db8::1]:443", "[64:ff9b::808:808]:53"] {
            assert_eq!(find(false, address), Ok(address.to_owned()));
        }
    }

    #[test]
    fn names_and_the_host_have_addresses_of_their_own() {
        assert_eq!(find(false, "192.0.0.1:53"), Ok("127.0.0.53:53".into()));
        assert_eq!(find(true, "192.0.0.3:8080"), Ok("127.0.0.1:8080".into()));
        assert_eq!(find(true, "127.0.0.1:8080"), Err(Refused));
    }

    #[test]
    fn name_servers_are_the_machines() {
        let zone = |name: &str| (name == "wlan0").then_some(7);
        let found = |text: &str| resolvers(text, zone).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(
            found("# x\nnameserver 127.0.0.53\nsearch lan\nnameserver fe80::1%wlan0\nnameserver fe80::2%gone\n"),
            ["127.0.0.53:53", "[fe80::1%7]:53"]
        );
        assert_eq!(found("nameserver nonsense\n"), ["127.0.0.1:53"]);
        assert_eq!(found("nameserver 1.1.1.1\nnameserver 1.1.1.2\nnameserver 1.1.1.3\nnameserver 1.1.1.4\n").len(), 3);
    }
}
