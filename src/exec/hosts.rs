//! `/etc/hosts` and `/etc/resolv.conf` of steps, as text (SPEC C5.02, C5.03).

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};

use crate::llb::op::HostIp;

/// DNS settings beyond the machine's own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DnsOptions {
    /// Replaces the name servers.
    pub nameservers: Vec<IpAddr>,
    /// Replaces the options.
    pub options: Vec<String>,
    /// Replaces the search domains.
    pub search: Vec<String>,
}

/// The address in `--add-host` that stands for this machine.
pub(crate) const HOST_GATEWAY: &str = "host-gateway";

/// The hosts file of a step; `gateway` is what [`HOST_GATEWAY`] stands for.
pub(super) fn hosts(hostname: &str, extra: &[HostIp], gateway: Ipv4Addr) -> String {
    let mut out = format!("127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    for host in extra {
        let _ = match host.ip.as_str() {
            HOST_GATEWAY => writeln!(out, "{gateway}\t{}", host.host),
            ip => writeln!(out, "{ip}\t{}", host.host),
        };
    }
    out
}

/// Google's, for networks in which a loopback server cannot be reached and none else is known.
const DEFAULT_SERVERS: [&str; 4] = ["8.8.8.8", "8.8.4.4", "2001:4860:4860::8888", "2001:4860:4860::8844"];

/// Which name servers a step can reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Servers<'a> {
    /// All: it shares the machine's network.
    All,
    /// Those that are not this machine.
    NotLoopback,
    /// These, which stand for the machine's.
    These(&'a [Ipv4Addr]),
}

/// The resolv.conf of a step.
///
/// `system` is the machine's file; `upstream` that of systemd-resolved, which names the servers behind its stub.
pub(super) fn resolv_conf(system: &str, upstream: Option<&str>, reach: Servers<'_>, dns: &DnsOptions) -> String {
    let host_network = reach == Servers::All;
    let stub_only = servers(system) == ["127.0.0.53"];
    let base = if reach == Servers::NotLoopback && stub_only { upstream.unwrap_or(system) } else { system };
    let own = match reach {
        Servers::These(own) if dns.nameservers.is_empty() => own,
        _ => &[],
    };
    let replaced = |keyword: &str| match keyword {
        "nameserver" => !dns.nameservers.is_empty() || !own.is_empty(),
        "options" => !dns.options.is_empty(),
        "search" | "domain" => !dns.search.is_empty(),
        _ => false,
    };
    let mut out = String::new();
    let mut any_server = !dns.nameservers.is_empty() || !own.is_empty();
    for line in base.lines() {
        let keyword = line.split_ascii_whitespace().next().unwrap_or_default();
        if replaced(keyword) {
            continue;
        }
        if keyword == "nameserver" {
            let server = line.split_ascii_whitespace().nth(1).unwrap_or_default();
            if !host_network && is_loopback(server) {
                continue;
            }
            any_server = true;
        }
        let _ = writeln!(out, "{line}");
    }
    if !dns.search.is_empty() {
        let _ = writeln!(out, "search {}", dns.search.join(" "));
    }
    for server in &dns.nameservers {
        let _ = writeln!(out, "nameserver {server}");
    }
    for server in own {
        let _ = writeln!(out, "nameserver {server}");
    }
    if !any_server && !host_network {
        for server in DEFAULT_SERVERS {
            let _ = writeln!(out, "nameserver {server}");
        }
    }
    if !dns.options.is_empty() {
        let _ = writeln!(out, "options {}", dns.options.join(" "));
    }
    out
}

fn servers(text: &str) -> Vec<&str> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            (words.next() == Some("nameserver")).then(|| words.next()).flatten()
        })
        .collect()
}

fn is_loopback(server: &str) -> bool {
    // A zone (`fe80::1%eth0`) is not part of the address.
    let address = server.split('%').next().unwrap_or_default();
    address.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SPEC C5.02.
    #[test]
    fn hosts_has_localhost_and_the_extra_ones() {
        let extra =
            [("db", "10.0.0.2"), ("me", HOST_GATEWAY)].map(|(host, ip)| HostIp { host: host.into(), ip: ip.into() });
        assert_eq!(
            hosts("buildkitsandbox", &extra, Ipv4Addr::new(192, 0, 0, 3)),
            "127.0.0.1\tlocalhost buildkitsandbox\n::1\tlocalhost ip6-localhost ip6-loopback\n10.0.0.2\tdb\n192.0.0.3\tme\n"
        );
    }

    const STUB: &str = "# made by systemd\nnameserver 127.0.0.53\noptions edns0\nsearch lan\n";

    /// SPEC C5.03.
    #[test]
    fn the_hosts_network_uses_the_hosts_file_as_it_is() {
        assert_eq!(resolv_conf(STUB, Some("nameserver 1.2.3.4\n"), Servers::All, &DnsOptions::default()), STUB);
        assert_eq!(resolv_conf("", None, Servers::All, &DnsOptions::default()), "");
    }

    #[test]
    fn another_network_cannot_reach_loopback_servers() {
        let none = DnsOptions::default();
        assert_eq!(
            resolv_conf(STUB, Some("nameserver 1.2.3.4\n"), Servers::NotLoopback, &none),
            "nameserver 1.2.3.4\n"
        );
        let mixed = "nameserver 127.0.0.1\nnameserver ::1\nnameserver 9.9.9.9\nsearch lan\n";
        assert_eq!(resolv_conf(mixed, None, Servers::NotLoopback, &none), "nameserver 9.9.9.9\nsearch lan\n");
        let out = resolv_conf("nameserver 127.0.0.1\n", None, Servers::NotLoopback, &none);
        assert_eq!(servers(&out), DEFAULT_SERVERS);
    }

    /// SPEC C5.03: a network of one's own has servers that stand for the machine's, whatever those are.
    #[test]
    fn c5_03_a_network_of_ones_own_has_its_own_servers() {
        let own = [Ipv4Addr::new(192, 0, 0, 1), Ipv4Addr::new(192, 0, 0, 4)];
        let out = resolv_conf(STUB, Some("nameserver 1.2.3.4\n"), Servers::These(&own), &DnsOptions::default());
        assert_eq!(out, "# made by systemd\noptions edns0\nsearch lan\nnameserver 192.0.0.1\nnameserver 192.0.0.4\n");
        let dns = DnsOptions { nameservers: vec![own[1].into()], ..DnsOptions::default() };
        assert_eq!(servers(&resolv_conf(STUB, None, Servers::These(&own), &dns)), ["192.0.0.4"]);
    }

    #[test]
    fn settings_replace_what_the_machine_says() {
        let dns = DnsOptions {
            nameservers: vec!["10.1.1.1".parse().expect("an address")],
            options: vec!["ndots:1".into()],
            search: vec!["a.example".into(), "b.example".into()],
        };
        assert_eq!(
            resolv_conf(STUB, None, Servers::All, &dns),
            "# made by systemd\nsearch a.example b.example\nnameserver 10.1.1.1\noptions ndots:1\n"
        );
    }
}
