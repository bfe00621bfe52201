//! The cable to a step: packets in, packets out, and the device that smoltcp sees.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rootless::network::{CABLE_HEADER, OUTER_ADDRESS, STEP_ADDRESS};
use rustix::net::{RecvFlags, SendFlags};
use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;

use super::packet;

/// Largest packet: as few as possible for a lot of data.
pub(super) const MTU: usize = 65_520;
/// Of a `virtio_net_hdr`: the checksum is the receiver's to finish.
const NEEDS_CHECKSUM: u8 = 1;
/// Of a `virtio_net_hdr`: several UDP packets in one.
const MANY_UDP: u8 = 5;

/// Our end of the cable.
pub(super) struct Link {
    end: OwnedFd,
    /// The frame being sent.
    frame: Vec<u8>,
    /// The frame being received; once one came, with room for the largest the kernel makes.
    received: Vec<u8>,
}

/// A packet that came: its place among the received bytes.
pub(super) struct Received {
    /// The size of each, where it is several UDP packets in one.
    pub(super) pieces: Option<usize>,
    length: usize,
}

impl Link {
    pub(super) fn new(end: OwnedFd) -> Self {
        Self { end, frame: Vec::new(), received: Vec::new() }
    }

    /// The next packet that waits, if any.
    pub(super) fn receive(&mut self) -> io::Result<Option<Received>> {
        // Most steps send nothing.
        self.received.resize(CABLE_HEADER + (1 << 16), 0);
        match rustix::net::recv(&self.end, &mut self.received[..], RecvFlags::DONTWAIT) {
            Ok((length, _)) if length < CABLE_HEADER => Ok(Some(Received { pieces: None, length: 0 })),
            Ok((length, _)) => {
                let size = usize::from(u16::from_ne_bytes([self.received[4], self.received[5]]));
                let pieces = (self.received[1] & 0x7f == MANY_UDP && size > 0).then_some(size);
                Ok(Some(Received { pieces, length: length - CABLE_HEADER }))
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Takes the bytes of a packet out, for as long as they are looked at. (Give them back with [`Self::give_back`].)
    pub(super) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.received)
    }

    pub(super) fn give_back(&mut self, bytes: Vec<u8>) {
        self.received = bytes;
    }

    /// Sends a packet. Lost ones are the protocols' to send again.
    pub(super) fn send(&mut self, packet: &[u8]) {
        self.frame.resize(CABLE_HEADER + packet.len(), 0);
        self.frame[CABLE_HEADER..].copy_from_slice(packet);
        self.send_frame();
    }

    /// Completes the headers of `frame` and sends it.
    fn send_frame(&mut self) {
        let (header, packet) = self.frame.split_at_mut(CABLE_HEADER);
        header.fill(0);
        if let Some((start, field)) = packet::unfinished_checksum(packet) {
            header[0] = NEEDS_CHECKSUM;
            // Counted from the Ethernet header.
            header[6..8].copy_from_slice(&(start + 14).to_ne_bytes());
            header[8..10].copy_from_slice(&field.to_ne_bytes());
        }
        header[10..16].copy_from_slice(&STEP_ADDRESS);
        header[16..22].copy_from_slice(&OUTER_ADDRESS);
        let v6 = packet.first().is_some_and(|b| b >> 4 == 6);
        header[22..24].copy_from_slice(if v6 { &[0x86, 0xdd] } else { &[0x08, 0x00] });
        // An error means that the step is gone, or that the kernel is short of memory.
        let _ = rustix::net::send(&self.end, &self.frame, SendFlags::NOSIGNAL);
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.end.as_fd()
    }
}

impl Received {
    /// The packet within what [`Link::take`] gave.
    pub(super) fn packet<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        bytes.get(CABLE_HEADER..CABLE_HEADER + self.length).unwrap_or_default()
    }
}

/// What smoltcp works with: one packet that came, and the way out.
pub(super) struct Port<'a> {
    pub(super) incoming: Option<&'a [u8]>,
    pub(super) link: &'a mut Link,
}

impl Device for Port<'_> {
    type RxToken<'a>
        = Incoming<'a>
    where
        Self: 'a;
    type TxToken<'a>
        = Outgoing<'a>
    where
        Self: 'a;

    fn receive(&mut self, _: Instant) -> Option<(Incoming<'_>, Outgoing<'_>)> {
        Some((Incoming(self.incoming.take()?), Outgoing(self.link)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Outgoing<'_>> {
        Some(Outgoing(self.link))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut out = DeviceCapabilities::default();
        out.medium = Medium::Ip;
        out.max_transmission_unit = MTU;
        // What comes has not left this machine's memory; what goes is the receiver's to finish.
        out.checksum.ipv4 = Checksum::Tx;
        out.checksum.tcp = Checksum::None;
        out
    }
}

pub(super) struct Incoming<'a>(&'a [u8]);

impl RxToken for Incoming<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, look: F) -> R {
        look(self.0)
    }
}

pub(super) struct Outgoing<'a>(&'a mut Link);

impl TxToken for Outgoing<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: F) -> R {
        self.0.frame.resize(CABLE_HEADER + length, 0);
        let out = fill(&mut self.0.frame[CABLE_HEADER..]);
        self.0.send_frame();
        out
    }
}
