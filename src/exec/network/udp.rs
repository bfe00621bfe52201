//! What a step says over UDP: a socket for each pair of ends, forgotten when it has been silent.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// Conversations at a time; the longest silent one makes room for another.
const MOST: usize = 256;

/// One conversation.
pub(super) struct Flow {
    world: OwnedFd,
    pub(super) step: SocketAddr,
    /// As the step sees it.
    pub(super) peer: SocketAddr,
    last: Instant,
}

impl Flow {
    /// Sends; an error is what the world said about an earlier packet.
    pub(super) fn send(&mut self, payload: &[u8], now: Instant) -> Result<(), Errno> {
        self.last = now;
        match rustix::net::send(&self.world, payload, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(_) | Err(Errno::AGAIN | Errno::NOBUFS) => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// The next answer, if one waits.
    pub(super) fn receive(&mut self, into: &mut [u8], now: Instant) -> Result<Option<usize>, Errno> {
        match rustix::net::recv(&self.world, into, RecvFlags::DONTWAIT) {
            Ok((n, _)) => {
                self.last = now;
                Ok(Some(n))
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Names are answered soon or not at all.
    fn patience(&self) -> Duration {
        Duration::from_secs(if self.peer.port() == 53 { 20 } else { 120 })
    }
}

/// All conversations of a step.
#[derive(Default)]
pub(super) struct Flows {
    flows: HashMap<u64, Flow>,
    by_ends: HashMap<(SocketAddr, SocketAddr), u64>,
}

impl Flows {
    pub(super) fn find(&mut self, step: SocketAddr, peer: SocketAddr) -> Option<&mut Flow> {
        let id = self.by_ends.get(&(step, peer))?;
        self.flows.get_mut(id)
    }

    pub(super) fn get(&mut self, id: u64) -> Option<&mut Flow> {
        self.flows.get_mut(&id)
    }

    /// Begins a conversation with `to`; `watch` puts its socket into the event queue.
    pub(super) fn begin(
        &mut self,
        id: u64,
        (step, peer, to): (SocketAddr, SocketAddr, SocketAddr),
        watch: impl FnOnce(&OwnedFd) -> Result<(), Errno>,
    ) -> Result<&mut Flow, Errno> {
        let now = Instant::now();
        if self.flows.len() >= MOST
            && let Some(oldest) = self.flows.iter().min_by_key(|(_, flow)| flow.last).map(|(id, _)| *id)
        {
            self.end(oldest);
        }
        let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let world = rustix::net::socket_with(family, SocketType::DGRAM, flags, None)?;
        rustix::net::connect(&world, &to)?;
        watch(&world)?;
        self.by_ends.insert((step, peer), id);
        Ok(self.flows.entry(id).or_insert(Flow { world, step, peer, last: now }))
    }

    /// Forgets one; its socket leaves the event queue as it is closed.
    pub(super) fn end(&mut self, id: u64) {
        if let Some(flow) = self.flows.remove(&id) {
            self.by_ends.remove(&(flow.step, flow.peer));
        }
    }

    /// Forgets those that have been silent.
    pub(super) fn sweep(&mut self, now: Instant) {
        let silent = |flow: &Flow| now.saturating_duration_since(flow.last) > flow.patience();
        let gone: Vec<u64> = self.flows.iter().filter(|(_, flow)| silent(flow)).map(|(id, _)| *id).collect();
        gone.into_iter().for_each(|id| self.end(id));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }
}
