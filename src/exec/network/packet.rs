//! IP packets as bytes: taken apart, and put together.

use std::net::{IpAddr, SocketAddr};

use smoltcp::wire::{IpProtocol, Ipv4Packet, Ipv6Packet};

pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMP_V6: u8 = 58;

/// A packet of the step.
pub(super) struct Packet<'a> {
    pub(super) from: IpAddr,
    pub(super) to: IpAddr,
    /// Number of what it carries.
    pub(super) protocol: u8,
    pub(super) payload: &'a [u8],
}

/// Takes a packet apart. `None` for what is not whole: fragments, IPv6 with extension headers, nonsense.
pub(super) fn parse(bytes: &[u8]) -> Option<Packet<'_>> {
    match bytes.first()? >> 4 {
        4 => {
            let packet = Ipv4Packet::new_checked(bytes).ok()?;
            let header = usize::from(packet.header_len());
            if packet.more_frags() || packet.frag_offset() != 0 || header < 20 {
                return None;
            }
            Some(Packet {
                from: packet.src_addr().into(),
                to: packet.dst_addr().into(),
                protocol: packet.next_header().into(),
                payload: bytes.get(header..usize::from(packet.total_len()))?,
            })
        }
        6 => {
            let packet = Ipv6Packet::new_checked(bytes).ok()?;
            let plain = matches!(packet.next_header(), IpProtocol::Tcp | IpProtocol::Udp);
            plain.then_some(())?;
            Some(Packet {
                from: packet.src_addr().into(),
                to: packet.dst_addr().into(),
                protocol: packet.next_header().into(),
                payload: bytes.get(40..40 + usize::from(packet.payload_len()))?,
            })
        }
        _ => None,
    }
}

/// A UDP packet. Its checksum is that of the pseudo header alone, see [`unfinished_checksum`]. `None` where the families
/// differ or it would be too large.
pub(super) fn udp(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Option<Vec<u8>> {
    let length = u16::try_from(payload.len() + 8).ok()?;
    let mut out = ip_header(from.ip(), to.ip(), UDP, usize::from(length))?;
    out.extend(from.port().to_be_bytes());
    out.extend(to.port().to_be_bytes());
    out.extend(length.to_be_bytes());
    out.extend([0, 0]);
    out.extend(payload);
    Some(out)
}

/// Why a packet goes nowhere.
#[derive(Debug, Clone, Copy)]
pub(super) enum Unreachable {
    Network,
    Host,
    Port,
    /// Somebody does not want it.
    Prohibited,
}

/// The ICMP answer to a packet, as if from where it was going.
pub(super) fn unreachable(original: &[u8], why: Unreachable) -> Option<Vec<u8>> {
    let packet = parse(original)?;
    let v4 = packet.to.is_ipv4();
    let (kind, code) = match (v4, why) {
        (true, Unreachable::Network) => (3, 0),
        (true, Unreachable::Host) => (3, 1),
        (true, Unreachable::Port) => (3, 3),
        (true, Unreachable::Prohibited) => (3, 13),
        (false, Unreachable::Network) => (1, 0),
        (false, Unreachable::Host) => (1, 3),
        (false, Unreachable::Port) => (1, 4),
        (false, Unreachable::Prohibited) => (1, 1),
    };
    // Enough to recognise the connection by.
    let quoted = &original[..original.len().min(if v4 { 20 + 40 + 8 } else { 40 + 20 })];
    let protocol = if v4 { ICMP } else { ICMP_V6 };
    let mut message = vec![kind, code, 0, 0, 0, 0, 0, 0];
    message.extend(quoted);
    let start = if v4 { 0 } else { u32::from(pseudo_sum(packet.to, packet.from, protocol, message.len())) };
    let checksum = !fold(add(start, &message));
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    let mut out = ip_header(packet.to, packet.from, protocol, message.len())?;
    out.extend(message);
    Some(out)
}

/// Where the checksum of a packet's TCP or UDP part begins, and where it is stored behind that. Puts the sum of the pseudo
/// header there, for whoever finishes it. `None` for packets that carry something else.
pub(super) fn unfinished_checksum(bytes: &mut [u8]) -> Option<(u16, u16)> {
    let packet = parse(bytes)?;
    let field = match packet.protocol {
        TCP => 16,
        UDP => 6,
        _ => return None,
    };
    let start = bytes.len() - packet.payload.len();
    let sum = pseudo_sum(packet.from, packet.to, packet.protocol, packet.payload.len());
    bytes.get_mut(start + field..start + field + 2)?.copy_from_slice(&sum.to_be_bytes());
    Some((u16::try_from(start).ok()?, u16::try_from(field).ok()?))
}

fn ip_header(from: IpAddr, to: IpAddr, protocol: u8, payload: usize) -> Option<Vec<u8>> {
    let mut out;
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let total = u16::try_from(payload + 20).ok()?.to_be_bytes();
            out = vec![0x45, 0, total[0], total[1], 0, 0, 0x40, 0, 64, protocol, 0, 0];
            out.extend(from.octets());
            out.extend(to.octets());
            let checksum = !fold(add(0, &out));
            out[10..12].copy_from_slice(&checksum.to_be_bytes());
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let length = u16::try_from(payload).ok()?.to_be_bytes();
            out = vec![0x60, 0, 0, 0, length[0], length[1], protocol, 64];
            out.extend(from.octets());
            out.extend(to.octets());
        }
        _ => return None,
    }
    Some(out)
}

fn pseudo_sum(from: IpAddr, to: IpAddr, protocol: u8, length: usize) -> u16 {
    let mut sum = u32::from(protocol) + u32::try_from(length).unwrap_or(0);
    for address in [from, to] {
        sum = match address {
            IpAddr::V4(ip) => add(sum, &ip.octets()),
            IpAddr::V6(ip) => add(sum, &ip.octets()),
        };
    }
    fold(sum)
}

fn add(sum: u32, bytes: &[u8]) -> u32 {
    bytes
        .chunks(2)
        .fold(sum, |sum, pair| sum.wrapping_add(u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0))))
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap_or(0xffff)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use smoltcp::wire::{Icmpv4Packet, UdpPacket};

    use super::*;

    fn addresses(v6: bool) -> (SocketAddr, SocketAddr) {
        let (from, to) = if v6 { ("[fd00::2]:1000", "[2001:db8::1]:53") } else { ("192.0.0.2:1000", "10.0.0.1:53") };
        (from.parse().expect("an address"), to.parse().expect("an address"))
    }

    #[test]
    fn what_is_put_together_comes_apart() {
        for v6 in [false, true] {
            let (from, to) = addresses(v6);
            let mut bytes = udp(from, to, b"question").expect("fits");
            let (start, field) = unfinished_checksum(&mut bytes).expect("udp");
            let (start, field) = (usize::from(start), usize::from(field));
            // Finish it as the kernel would.
            let checksum = !fold(add(0, &bytes[start..]));
            bytes[start + field..start + field + 2].copy_from_slice(&checksum.to_be_bytes());
            let packet = parse(&bytes).expect("whole");
            assert_eq!((packet.from, packet.to, packet.protocol), (from.ip(), to.ip(), UDP));
            let inner = UdpPacket::new_checked(packet.payload).expect("udp");
            assert!(inner.verify_checksum(&from.ip().into(), &to.ip().into()));
            assert_eq!((inner.src_port(), inner.dst_port(), inner.payload()), (1000, 53, &b"question"[..]));
            let answer = unreachable(&bytes, Unreachable::Port).expect("fits");
            assert_eq!(answer[0] >> 4, if v6 { 6 } else { 4 });
        }
        let (from, to) = addresses(false);
        let answer = unreachable(&udp(from, to, b"q").expect("fits"), Unreachable::Prohibited).expect("fits");
        assert!(Ipv4Packet::new_checked(&answer[..]).expect("whole").verify_checksum());
        assert!(Icmpv4Packet::new_checked(&answer[20..]).expect("whole").verify_checksum());
        assert!(udp(from, addresses(true).1, b"").is_none(), "two families");
        assert!(udp(from, to, &vec![0; 65_528]).is_none(), "too large");
    }

    #[test]
    fn fragments_are_nothing() {
        let (from, to) = addresses(false);
        let mut bytes = udp(from, to, b"question").expect("fits");
        bytes[6] = 0x20;
        assert!(parse(&bytes).is_none());
    }

    proptest! {
        /// A step may send anything at all.
        #[test]
        fn any_bytes_are_survived(mut bytes in proptest::collection::vec(any::<u8>(), 0..120), version in 0u8..8) {
            if let Some(first) = bytes.first_mut() {
                *first = version << 4 | (*first & 0xf);
            }
            if let Some(packet) = parse(&bytes) {
                prop_assert!(packet.payload.len() <= bytes.len());
            }
            let _ = unreachable(&bytes, Unreachable::Host);
            let _ = unfinished_checksum(&mut bytes);
        }
    }
}
