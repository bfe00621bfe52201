//! The four requests of rtnetlink that make an interface usable, and a socket to send them over.

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};

const NEWLINK: u16 = 16;
const NEWADDR: u16 = 20;
const NEWROUTE: u16 = 24;

const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const EXCLUSIVE: u16 = 0x200;
const CREATE: u16 = 0x400;

/// Addresses are not looked for, the interface is up.
const UP_WITHOUT_ARP: u32 = 0x80 | 0x1;

/// One end of a pair of Ethernet interfaces.
pub(super) struct End<'a> {
    pub(super) name: &'a str,
    pub(super) address: [u8; 6],
}

/// Requests one after the other, each answered before the next is sent.
pub(super) struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    /// Talks about the network namespace of the calling thread.
    pub(super) fn open() -> io::Result<Self> {
        // Protocol 0 is rtnetlink.
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Makes a pair: `here` in this namespace, `there` in the one of the descriptor.
    pub(super) fn pair(&mut self, here: &End<'_>, there: &End<'_>, namespace: i32, mtu: u32) -> io::Result<()> {
        let mut message = Message::new(NEWLINK, CREATE | EXCLUSIVE);
        message.bytes(&link_header(0, 0));
        message.text(IFLA_IFNAME, here.name);
        message.attribute(IFLA_ADDRESS, &here.address);
        message.attribute(IFLA_MTU, &mtu.to_ne_bytes());
        message.nested(IFLA_LINKINFO, |info| {
            info.text(IFLA_INFO_KIND, "veth");
            info.nested(IFLA_INFO_DATA, |data| {
                data.nested(VETH_INFO_PEER, |peer| {
                    peer.bytes(&link_header(0, 0));
                    peer.text(IFLA_IFNAME, there.name);
                    peer.attribute(IFLA_ADDRESS, &there.address);
                    peer.attribute(IFLA_MTU, &mtu.to_ne_bytes());
                    peer.attribute(IFLA_NET_NS_FD, &namespace.to_ne_bytes());
                });
            });
        });
        self.ask(message)
    }

    /// Brings an interface up that looks for no addresses. (Not at once with [`Self::pair`]: an end cannot be up before the
    /// other one is there.)
    pub(super) fn up(&mut self, interface: u32) -> io::Result<()> {
        let mut message = Message::new(NEWLINK, 0);
        message.bytes(&link_header(interface, UP_WITHOUT_ARP));
        self.ask(message)
    }

    /// Gives an interface its only address.
    pub(super) fn address(&mut self, interface: u32, address: IpAddr) -> io::Result<()> {
        /// It is nobody else's: IPv6 need not ask first.
        const NO_DETECTION: u8 = 0x02;
        let (family, bytes, bits) = parts(address);
        let mut message = Message::new(NEWADDR, CREATE | EXCLUSIVE);
        message.bytes(&[family, bits, if address.is_ipv6() { NO_DETECTION } else { 0 }, 0]);
        message.bytes(&interface.to_ne_bytes());
        message.attribute(IFA_ADDRESS, &bytes);
        message.attribute(IFA_LOCAL, &bytes);
        self.ask(message)
    }

    /// Sends everything of one address family through an interface.
    pub(super) fn default_route(&mut self, interface: u32, like: IpAddr) -> io::Result<()> {
        const MAIN: u8 = 254;
        const STATIC: u8 = 4;
        const ON_LINK: u8 = 253;
        const UNICAST: u8 = 1;
        let scope = if like.is_ipv6() { 0 } else { ON_LINK };
        let mut message = Message::new(NEWROUTE, CREATE | EXCLUSIVE);
        message.bytes(&[parts(like).0, 0, 0, 0, MAIN, STATIC, scope, UNICAST, 0, 0, 0, 0]);
        message.attribute(RTA_OIF, &interface.to_ne_bytes());
        self.ask(message)
    }

    fn ask(&mut self, message: Message) -> io::Result<()> {
        self.sequence += 1;
        let bytes = message.finish(self.sequence);
        send(&self.socket, &bytes, SendFlags::empty())?;
        let mut answer = [0u8; 4096];
        let (_, length) = recv(&self.socket, &mut answer[..], RecvFlags::empty())?;
        // An error message: header, then a negative error number, 0 for success.
        let word = |at: usize| answer.get(at..at + 4).and_then(|b| b.try_into().ok()).map(i32::from_ne_bytes);
        match word(16).filter(|_| length >= 20) {
            Some(0) => Ok(()),
            Some(code) => Err(io::Error::from_raw_os_error(code.wrapping_neg())),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_OIF: u16 = 4;

/// An `ifinfomsg` that sets `flags`.
fn link_header(interface: u32, flags: u32) -> [u8; 16] {
    let mut out = [0; 16];
    out[4..8].copy_from_slice(&interface.to_ne_bytes());
    out[8..12].copy_from_slice(&flags.to_ne_bytes());
    out[12..].copy_from_slice(&flags.to_ne_bytes());
    out
}

/// Address family, bytes and number of bits.
fn parts(address: IpAddr) -> (u8, Vec<u8>, u8) {
    match address {
        IpAddr::V4(ip) => (2, ip.octets().to_vec(), 32),
        IpAddr::V6(ip) => (10, ip.octets().to_vec(), 128),
    }
}

/// A request under construction.
struct Message(Vec<u8>);

impl Message {
    fn new(kind: u16, flags: u16) -> Self {
        let mut out = Self(vec![0; 16]);
        out.0[4..6].copy_from_slice(&kind.to_ne_bytes());
        out.0[6..8].copy_from_slice(&(flags | REQUEST | ACK).to_ne_bytes());
        out
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend(bytes);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.nested(kind, |message| message.0.extend(value));
    }

    fn text(&mut self, kind: u16, value: &str) {
        self.attribute(kind, &[value.as_bytes(), b"\0"].concat());
    }

    fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let start = self.0.len();
        self.0.extend([0, 0]);
        self.0.extend(kind.to_ne_bytes());
        fill(self);
        let length = u16::try_from(self.0.len() - start).expect("because requests are small");
        self.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn finish(mut self, sequence: u32) -> Vec<u8> {
        let length = u32::try_from(self.0.len()).expect("because requests are small");
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self.0[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.0
    }
}
