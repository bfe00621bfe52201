//! Port specifications of EXPOSE (SPEC A8.08).

use std::collections::BTreeMap;
use std::net::IpAddr;

/// One parsed word of EXPOSE.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Exposed {
    /// First and last port.
    pub(super) range: (u16, u16),
    /// In lower case.
    pub(super) protocol: &'static str,
}

/// Parses `[[ip:]host:]port[-port][/protocol]`.
pub(super) fn parse(spec: &str) -> Result<Exposed, String> {
    let (host, container) = match spec.rsplit_once(':') {
        Some((host, container)) => (Some(host), container),
        None => (None, spec),
    };
    let (range, protocol) = container.split_once('/').unwrap_or((container, ""));
    if range.is_empty() {
        return Err(format!("no port specified: {spec}<empty>"));
    }
    let lower = protocol.to_ascii_lowercase();
    let known = match lower.as_str() {
        "" | "tcp" => "tcp",
        "udp" => "udp",
        "sctp" => "sctp",
        _ => return Err(format!("invalid proto: {lower}")),
    };
    let (first, last) = parse_range(range).ok_or_else(|| format!("invalid containerPort: {range}"))?;
    if let Some(host) = host {
        check_host(host, range, u32::from(last - first))?;
    }
    Ok(Exposed { range: (first, last), protocol: known })
}

/// All ports as `80/tcp`, in their order, each once. Takes no more time for ranges that overlap.
pub(super) fn ports(exposed: &[Exposed]) -> Vec<String> {
    let mut out = Vec::new();
    // By protocol: for each port the next one that is not in `out`, as far as is known.
    let mut protocols: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for Exposed { range: (first, last), protocol } in exposed {
        let free = protocols.entry(protocol).or_insert_with(|| (0..=usize::from(u16::MAX) + 1).collect());
        let mut port = next_free(free, (*first).into());
        while port <= usize::from(*last) {
            out.push(format!("{port}/{protocol}"));
            free[port] = port + 1;
            port = next_free(free, port + 1);
        }
    }
    out
}

/// Follows the chain from `port`, and shortens it for whoever comes next.
fn next_free(free: &mut [usize], mut port: usize) -> usize {
    while free[port] != port {
        free[port] = free[free[port]];
        port = free[port];
    }
    port
}

fn check_host(host: &str, range: &str, width: u32) -> Result<(), String> {
    let (ip, port) = match host.rsplit_once(':') {
        Some((ip, port)) => (ip, port),
        None => ("", host),
    };
    let bare = ip.strip_prefix('[').and_then(|ip| ip.strip_suffix(']')).unwrap_or(ip);
    if !bare.is_empty() && bare.parse::<IpAddr>().is_err() {
        return Err(format!("invalid IP address: {ip}"));
    }
    if port.is_empty() {
        return Ok(());
    }
    let (first, last) = parse_range(port).ok_or_else(|| format!("invalid hostPort: {port}"))?;
    if u32::from(last - first) != width && width != 0 {
        return Err(format!("invalid ranges specified for container and host Ports: {range} and {port}"));
    }
    Ok(())
}

fn parse_range(text: &str) -> Option<(u16, u16)> {
    let number = |text: &str| text.parse::<u16>().ok().filter(|_| !text.starts_with('+'));
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (number(first)?, number(last)?),
        None => (number(text)?, number(text)?),
    };
    (first <= last).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(spec: &str) -> String {
        match parse(spec) {
            Ok(exposed) => super::ports(&[exposed]).join(" "),
            Err(error) => error,
        }
    }

    #[test]
    fn a8_08_overlapping_ranges_count_once() {
        let all: Vec<_> = ["80-82", "81/udp", "82-83", "80"].map(|s| parse(s).expect("valid")).into();
        assert_eq!(super::ports(&all), ["80/tcp", "81/tcp", "82/tcp", "81/udp", "83/tcp"]);
        let all: Vec<_> = ["90-91", "0-65535", "1-65535"].map(|s| parse(s).expect("valid")).into();
        assert_eq!(super::ports(&all).len(), 65536);
    }

    #[test]
    fn a8_08_ports() {
        assert_eq!(ports("80"), "80/tcp");
        assert_eq!(ports("53/UDP"), "53/udp");
        assert_eq!(ports("8000-8002/sctp"), "8000/sctp 8001/sctp 8002/sctp");
        assert_eq!(ports("127.0.0.1:80:8080"), "8080/tcp");
        assert_eq!(ports("[::1]:80:8080/udp"), "8080/udp");
        assert_eq!(ports("::8080"), "8080/tcp");
        assert_eq!(ports("0"), "0/tcp");
    }

    #[test]
    fn a8_08_errors() {
        assert_eq!(ports("x"), "invalid containerPort: x");
        assert_eq!(ports("65536"), "invalid containerPort: 65536");
        assert_eq!(ports("9-8"), "invalid containerPort: 9-8");
        assert_eq!(ports("80/icmp"), "invalid proto: icmp");
        assert_eq!(ports("/tcp"), "no port specified: /tcp<empty>");
        assert_eq!(ports("a.b:80:80"), "invalid IP address: a.b");
        assert_eq!(ports("1-2:3-5"), "invalid ranges specified for container and host Ports: 3-5 and 1-2");
        assert_eq!(ports("80/TCP"), "80/tcp");
    }
}
