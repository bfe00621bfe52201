//! A network namespace for a step, with one Ethernet cable whose other end is a descriptor of the caller's.
//!
//! What goes over the cable is the caller's business: here are no protocols. The cable is a pair of virtual interfaces and
//! a packet socket, which needs no device file: it can be had wherever namespaces can, in pods too.

mod netlink;

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{Mode, OFlags};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use crate::sys::{self, Context, SysError};
use netlink::{End, Netlink};

/// What the interface of the step is given.
#[derive(Debug, Clone)]
pub struct CablePlan {
    /// Addresses of the step, one for each family at most. All other addresses are behind the cable.
    pub addresses: Vec<IpAddr>,
    /// Largest packet, without the Ethernet header.
    pub mtu: u32,
}

/// A namespace and its cable.
#[derive(Debug)]
pub struct Cable {
    /// The network namespace of the step; goes away with its last process and descriptor.
    pub namespace: OwnedFd,
    /// Carries one packet a call, each behind [`CABLE_HEADER`] bytes.
    pub end: OwnedFd,
}

/// Length of what precedes each packet: a `virtio_net_hdr` of 10 bytes and an Ethernet header of 14.
pub const CABLE_HEADER: usize = 10 + 14;

/// Ethernet address of the step's end.
pub const STEP_ADDRESS: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// Ethernet address of the caller's end.
pub const OUTER_ADDRESS: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// Makes namespaces with cables. Their outer ends are in one more namespace, where nothing else is.
#[derive(Debug, Default)]
pub struct CableMaker {
    outer: Mutex<Outer>,
}

#[derive(Debug, Default)]
struct Outer {
    namespace: Option<OwnedFd>,
    /// Cables made so far; their names.
    count: u64,
}

impl CableMaker {
    /// Makes one. About a millisecond; callable from any thread.
    ///
    /// # Errors
    /// When namespaces, virtual interfaces or packet sockets are refused.
    pub fn make(&self, plan: &CablePlan) -> Result<Cable, SysError> {
        let mut outer = self.outer.lock().unwrap_or_else(PoisonError::into_inner);
        let outer = &mut *outer;
        outer.count += 1;
        // A namespace is a property of a thread: one that ends takes its change along.
        std::thread::scope(|scope| {
            let made = std::thread::Builder::new()
                .name("network".into())
                .spawn_scoped(scope, || make(outer, plan))
                .what(|| "start a thread".into())?;
            made.join().unwrap_or_else(|_| Err(io::Error::other("it panicked")).what(|| "make a network".into()))
        })
    }
}

fn make(outer: &mut Outer, plan: &CablePlan) -> Result<Cable, SysError> {
    let namespace = new_namespace()?;
    sys::loopback_up().what(|| "bring up the loopback interface".into())?;
    let name = format!("step{}", outer.count % 1_000_000_000);
    match &outer.namespace {
        Some(known) => enter(known.as_fd())?,
        None => outer.namespace = Some(new_namespace()?),
    }
    let mut requests = Netlink::open().what(|| "ask the kernel about networks".into())?;
    let here = End { name: &name, address: OUTER_ADDRESS };
    let there = End { name: "eth0", address: STEP_ADDRESS };
    requests
        .pair(&here, &there, namespace.as_raw_fd(), plan.mtu)
        .what(|| "make a pair of virtual interfaces (veth)".into())?;
    let interface = sys::interface_index(&name).what(|| "find a virtual interface".into())?;
    requests.up(interface).what(|| "bring up a virtual interface".into())?;
    let end = sys::packet_socket(interface).what(|| "open a packet socket".into())?;

    enter(namespace.as_fd())?;
    let mut requests = Netlink::open().what(|| "ask the kernel about networks".into())?;
    let interface = sys::interface_index("eth0").what(|| "find the step's interface".into())?;
    requests.up(interface).what(|| "bring up the step's interface".into())?;
    for address in &plan.addresses {
        requests.address(interface, *address).what(|| format!("give a step the address {address}"))?;
        requests.default_route(interface, *address).what(|| "set a step's default route".into())?;
    }
    Ok(Cable { namespace, end })
}

/// Moves this thread to a network namespace of its own; the descriptor keeps it alive.
fn new_namespace() -> Result<OwnedFd, SysError> {
    sys::unshare(UnshareFlags::NEWNET).what(|| "make a network namespace".into())?;
    rustix::fs::open("/proc/thread-self/ns/net", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .what(|| "open a network namespace".into())
}

/// Moves this thread, or this single-threaded process, to a network namespace.
pub(crate) fn enter(namespace: BorrowedFd<'_>) -> Result<(), SysError> {
    move_into_link_name_space(namespace, Some(LinkNameSpaceType::Network)).what(|| "enter a network namespace".into())
}
