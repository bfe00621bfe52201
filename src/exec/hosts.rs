//! `/etc/hosts` and `/etc/resolv.conf` of steps, as text (SPEC C5.02, C5.03).

use std::fmt::Write as _;
use std::net::IpAddr;

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

/// The hosts file of a step.
pub(super) fn hosts(hostname: &str, extra: &[HostIp]) -> String {
    let mut out = format!("127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    for host in extra {
        let _ = writeln!(out, "{}\t{}", host.ip, host.host);
    }
    out
}

/// Google's, for networks in which a loopback server cannot be reached and none else is known.
const DEFAULT_SERVERS: [&str; 4] = ["8.8.8.8", "8.8.4.4", "2001:4860:4860::8888", "2001:4860:4860::8844"];

/// The resolv.conf of a step that shares the machine's network (`host_network`) or has its own.
///
/// `system` is the machine's file; `upstream` that of systemd-resolved, which names the servers behind its stub.
pub(super) fn resolv_conf(system: &str, upstream: Option<&str>, host_network: bool, dns: &DnsOptions) -> String {
    let stub_only = servers(system) == ["127.0.0.53"];
    let base = if !host_network && stub_only { upstream.unwrap_or(system) } else { system };
    let replaced = |keyword: &str| match keyword {
        "nameserver" => !dns.nameservers.is_empty(),
        "options" => !dns.options.is_empty(),
        "search" | "domain" => !dns.search.is_empty(),
        _ => false,
    };
    let mut out = String::new();
    let mut any_server = !dns.nameservers.is_empty();
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
        let extra = [HostIp { host: "db".into(), ip: "10.0.0.2".into() }];
        assert_eq!(
            hosts("buildkitsandbox", &extra),
            "127.0.0.1\tlocalhost buildkitsandbox\n::1\tlocalhost ip6-localhost ip6-loopback\n10.0.0.2\tdb\n"
        );
    }

    const STUB: &str = "# made by systemd\nnameserver 127.0.0.53\noptions edns0\nsearch lan\n";

    /// SPEC C5.03.
    #[test]
    fn the_hosts_network_uses_the_hosts_file_as_it_is() {
        assert_eq!(resolv_conf(STUB, Some("nameserver 1.2.3.4\n"), true, &DnsOptions::default()), STUB);
        assert_eq!(resolv_conf("", None, true, &DnsOptions::default()), "");
    }

    #[test]
    fn another_network_cannot_reach_loopback_servers() {
        let none = DnsOptions::default();
        assert_eq!(resolv_conf(STUB, Some("nameserver 1.2.3.4\n"), false, &none), "nameserver 1.2.3.4\n");
        let mixed = "nameserver 127.0.0.1\nnameserver ::1\nnameserver 9.9.9.9\nsearch lan\n";
        assert_eq!(resolv_conf(mixed, None, false, &none), "nameserver 9.9.9.9\nsearch lan\n");
        let out = resolv_conf("nameserver 127.0.0.1\n", None, false, &none);
        assert_eq!(servers(&out), DEFAULT_SERVERS);
    }

    #[test]
    fn settings_replace_what_the_machine_says() {
        let dns = DnsOptions {
            nameservers: vec!["10.1.1.1".parse().expect("an address")],
            options: vec!["ndots:1".into()],
            search: vec!["a.example".into(), "b.example".into()],
        };
        assert_eq!(
            resolv_conf(STUB, None, true, &dns),
            "# made by systemd\nsearch a.example b.example\nnameserver 10.1.1.1\noptions ndots:1\n"
        );
    }
}
