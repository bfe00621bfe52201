//! The network of one step: a thread that takes the step's packets apart and speaks for it to the world.
//!
//! TCP ends here, in smoltcp, and continues in a socket of this process; UDP packets are sent from sockets as well. So
//! the step has every network this process has, except what [`Destinations`] refuses, and no privilege is needed.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};
use rustix::io::Errno;
use smoltcp::iface::{Config, Interface, PollResult, SocketSet};
use smoltcp::socket::tcp::{Socket, State};
use smoltcp::wire::{HardwareAddress, IpCidr, TcpPacket, UdpPacket};

use super::addresses::{Destinations, OWN_V4, OWN_V6, STEP_V4, STEP_V6};
use super::link::{Link, Port};
use super::packet::{self, Packet, Unreachable};
use super::tcp::{self, Connection, Progress};
use super::udp::Flows;

/// Connections of one step at a time; more are refused.
const MOST: usize = 512;
/// Packets taken from the cable before anything else has its turn.
const BATCH: usize = 64;
/// How often silent conversations are looked for.
const SWEEP: Duration = Duration::from_secs(10);

const STOP: u64 = 0;
const CABLE: u64 = 1;

pub(super) struct Bridge {
    link: Link,
    events: OwnedFd,
    interface: Interface,
    sockets: SocketSet<'static>,
    connections: HashMap<u64, Connection>,
    by_ends: HashMap<(SocketAddr, SocketAddr), u64>,
    /// Connections in which something may have changed.
    touched: BTreeSet<u64>,
    flows: Flows,
    destinations: Destinations,
    next: u64,
    begun: Instant,
    scratch: Vec<u8>,
}

/// Starts the thread. It ends when the descriptor is written to; with it every socket is closed.
pub(super) fn start(end: OwnedFd, destinations: Destinations) -> io::Result<OwnedFd> {
    let stop = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let mut bridge = Bridge::new(end, &stop, destinations)?;
    let kept = stop.try_clone()?;
    std::thread::Builder::new().name("step network".into()).spawn(move || {
        // What goes wrong here is what a network does: connections end.
        let _ = bridge.run();
        drop(kept);
    })?;
    Ok(stop)
}

impl Bridge {
    fn new(end: OwnedFd, stop: &OwnedFd, destinations: Destinations) -> io::Result<Self> {
        let events = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&events, stop, epoll::EventData::new_u64(STOP), epoll::EventFlags::IN)?;
        let mut link = Link::new(end);
        epoll::add(&events, &link, epoll::EventData::new_u64(CABLE), epoll::EventFlags::IN)?;
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0);
        let mut port = Port { incoming: None, link: &mut link };
        let mut interface = Interface::new(config, &mut port, smoltcp::time::Instant::ZERO);
        interface.update_ip_addrs(|addresses| {
            // There is room for two.
            let _ = addresses.push(IpCidr::new(OWN_V4.into(), 32));
            let _ = addresses.push(IpCidr::new(OWN_V6.into(), 128));
        });
        // Every address is ours: the step's peers are all played here.
        interface.set_any_ip(true);
        let full = |_| io::Error::other("smoltcp has no room for two routes");
        interface.routes_mut().add_default_ipv4_route(OWN_V4).map_err(full)?;
        interface.routes_mut().add_default_ipv6_route(OWN_V6).map_err(full)?;
        Ok(Self {
            link,
            events,
            interface,
            sockets: SocketSet::new(Vec::new()),
            connections: HashMap::new(),
            by_ends: HashMap::new(),
            touched: BTreeSet::new(),
            flows: Flows::default(),
            destinations,
            next: CABLE + 1,
            begun: Instant::now(),
            scratch: Vec::new(),
        })
    }

    fn run(&mut self) -> io::Result<()> {
        let mut ready = Vec::with_capacity(256);
        let mut swept = Instant::now();
        loop {
            ready.clear();
            let patience = self.patience();
            match epoll::wait(&self.events, rustix::buffer::spare_capacity(&mut ready), patience.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
            for event in &ready {
                match event.data.u64() {
                    STOP => return Ok(()),
                    CABLE => self.hear_step(),
                    id => self.hear_world(id),
                }
            }
            self.pump();
            while self.egress() == PollResult::SocketStateChanged {}
            self.bury();
            let now = Instant::now();
            if now.saturating_duration_since(swept) > SWEEP {
                swept = now;
                self.flows.sweep(now);
            }
        }
    }

    fn now(&self) -> smoltcp::time::Instant {
        smoltcp::time::Instant::from_micros(i64::try_from(self.begun.elapsed().as_micros()).unwrap_or(i64::MAX))
    }

    /// How long nothing has to be done unless something happens.
    fn patience(&mut self) -> Option<Timespec> {
        let now = self.now();
        let delay = self.interface.poll_delay(now, &self.sockets).map(|d| Duration::from_micros(d.total_micros()));
        let sweep = (!self.flows.is_empty()).then_some(SWEEP);
        let least = delay.into_iter().chain(sweep).min()?;
        Some(Timespec {
            tv_sec: i64::try_from(least.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: least.subsec_nanos().into(),
        })
    }

    fn egress(&mut self) -> PollResult {
        let now = self.now();
        let mut port = Port { incoming: None, link: &mut self.link };
        self.interface.poll_egress(now, &mut port, &mut self.sockets)
    }

    /// Packets of the step.
    fn hear_step(&mut self) {
        for _ in 0..BATCH {
            let received = match self.link.receive() {
                Ok(Some(received)) => received,
                Ok(None) => return,
                Err(_) => {
                    // The step's namespace is gone, and with it the interface.
                    let _ = epoll::delete(&self.events, &self.link);
                    return;
                }
            };
            let bytes = self.link.take();
            self.packet(received.packet(&bytes), received.pieces);
            self.link.give_back(bytes);
        }
    }

    fn packet(&mut self, bytes: &[u8], pieces: Option<usize>) {
        let Some(packet) = packet::parse(bytes) else { return };
        // Nobody but the step is on the cable, but the step can write any sender.
        if packet.from != STEP_V4 && packet.from != STEP_V6 || packet.to.is_multicast() {
            return;
        }
        match packet.protocol {
            packet::TCP => self.tcp(bytes, &packet),
            packet::UDP => self.udp(bytes, &packet, pieces),
            _ => {}
        }
    }

    fn tcp(&mut self, bytes: &[u8], packet: &Packet<'_>) {
        let Ok(segment) = TcpPacket::new_checked(packet.payload) else { return };
        let step = SocketAddr::new(packet.from, segment.src_port());
        let peer = SocketAddr::new(packet.to, segment.dst_port());
        match self.by_ends.get(&(step, peer)).copied() {
            Some(id) => {
                let waiting = self.connections.get(&id).is_some_and(|c| matches!(c.state, Progress::Connecting { .. }));
                if !waiting {
                    self.touched.insert(id);
                    self.feed(bytes);
                } else if segment.rst() {
                    self.forget(id);
                }
            }
            None if segment.syn() && !segment.ack() => self.begin(bytes, step, peer),
            // Refused by smoltcp.
            None => self.feed(bytes),
        }
    }

    /// Hands a packet to smoltcp.
    fn feed(&mut self, bytes: &[u8]) {
        let now = self.now();
        let mut port = Port { incoming: Some(bytes), link: &mut self.link };
        self.interface.poll_ingress_single(now, &mut port, &mut self.sockets);
    }

    fn begin(&mut self, syn: &[u8], step: SocketAddr, peer: SocketAddr) {
        let Ok(to) = self.destinations.find(peer) else { return self.deny(syn, Unreachable::Prohibited) };
        if self.connections.len() >= MOST {
            return self.feed(syn);
        }
        let id = self.next;
        self.next += 1;
        let watch = epoll::EventFlags::OUT;
        let begun = tcp::connect(to).and_then(|world| {
            epoll::add(&self.events, &world, epoll::EventData::new_u64(id), watch)?;
            Ok(world)
        });
        match begun {
            Ok(world) => {
                let state = Progress::Connecting { syn: syn.to_vec() };
                self.connections.insert(id, Connection { world, step, peer, state, watched: Some(watch) });
                self.by_ends.insert((step, peer), id);
            }
            Err(error) => self.not_connected(syn, error),
        }
    }

    fn not_connected(&mut self, syn: &[u8], error: Errno) {
        match tcp::explain(error) {
            Some(why) => self.deny(syn, why),
            None => self.feed(syn),
        }
    }

    fn deny(&mut self, bytes: &[u8], why: Unreachable) {
        if let Some(answer) = packet::unreachable(bytes, why) {
            self.link.send(&answer);
        }
    }

    fn udp(&mut self, bytes: &[u8], packet: &Packet<'_>, pieces: Option<usize>) {
        let Ok(datagram) = UdpPacket::new_checked(packet.payload) else { return };
        let step = SocketAddr::new(packet.from, datagram.src_port());
        let peer = SocketAddr::new(packet.to, datagram.dst_port());
        let payload = datagram.payload();
        let now = Instant::now();
        let send = |flow: &mut super::udp::Flow| match pieces {
            Some(size) => payload.chunks(size).try_for_each(|piece| flow.send(piece, now)),
            None => flow.send(payload, now),
        };
        let sent = match self.flows.find(step, peer) {
            Some(flow) => send(flow),
            None => {
                let Ok(to) = self.destinations.find(peer) else { return self.deny(bytes, Unreachable::Prohibited) };
                let id = self.next;
                self.next += 1;
                let watch = |world: &OwnedFd| {
                    epoll::add(&self.events, world, epoll::EventData::new_u64(id), epoll::EventFlags::IN)
                };
                self.flows.begin(id, (step, peer, to), watch).and_then(send)
            }
        };
        if let Err(error) = sent {
            self.deny(bytes, tcp::explain(error).unwrap_or(Unreachable::Port));
        }
    }

    fn hear_world(&mut self, id: u64) {
        let Some(connection) = self.connections.get(&id) else { return self.answers(id) };
        if !matches!(connection.state, Progress::Connecting { .. }) {
            self.touched.insert(id);
            return;
        }
        match tcp::connected(&connection.world) {
            None => {}
            Some(Ok(())) => self.open(id),
            Some(Err(error)) => {
                if let Some(Connection { state: Progress::Connecting { syn }, .. }) = self.forget(id) {
                    self.not_connected(&syn, error);
                }
            }
        }
    }

    /// The world has answered: so is the step.
    fn open(&mut self, id: u64) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let Some(socket) = tcp::listener(connection.peer) else { return };
        let handle = self.sockets.add(socket);
        let open = Progress::Open { handle, world_ended: false, step_ended: false };
        if let Progress::Connecting { syn } = std::mem::replace(&mut connection.state, open) {
            self.feed(&syn);
            self.touched.insert(id);
        }
    }

    /// Passes answers on to the step.
    fn answers(&mut self, id: u64) {
        let mut scratch = std::mem::take(&mut self.scratch);
        // Most steps ask nobody anything.
        scratch.resize(1 << 16, 0);
        for _ in 0..BATCH {
            let Some(flow) = self.flows.get(id) else { break };
            let (step, peer) = (flow.step, flow.peer);
            match flow.receive(&mut scratch, Instant::now()) {
                Ok(None) => break,
                Ok(Some(length)) => {
                    if let Some(packet) = packet::udp(peer, step, &scratch[..length]) {
                        self.link.send(&packet);
                    }
                }
                Err(error) => {
                    let why = tcp::explain(error).unwrap_or(Unreachable::Port);
                    if let Some(asked) = packet::udp(step, peer, &[]) {
                        self.deny(&asked, why);
                    }
                    self.flows.end(id);
                }
            }
        }
        self.scratch = scratch;
    }

    /// Moves data in the connections in which something happened.
    fn pump(&mut self) {
        for id in std::mem::take(&mut self.touched) {
            let Some(connection) = self.connections.get_mut(&id) else { continue };
            let Progress::Open { handle, world_ended, step_ended } = &mut connection.state else { continue };
            let socket = self.sockets.get_mut::<Socket<'_>>(*handle);
            let wanted = tcp::pump(&connection.world, socket, world_ended, step_ended);
            let wanted = (!wanted.is_empty()).then_some(wanted);
            watch(&self.events, connection.world.as_fd(), id, connection.watched, wanted);
            connection.watched = wanted;
        }
    }

    /// Forgets connections that are over.
    fn bury(&mut self) {
        let over: Vec<u64> = self
            .connections
            .iter()
            .filter(|(_, connection)| match &connection.state {
                Progress::Connecting { .. } => false,
                // The step's own kernel waits out what has to be waited out.
                Progress::Open { handle, .. } => {
                    matches!(self.sockets.get::<Socket<'_>>(*handle).state(), State::Closed | State::TimeWait)
                }
            })
            .map(|(id, _)| *id)
            .collect();
        for id in over {
            self.forget(id);
        }
    }

    fn forget(&mut self, id: u64) -> Option<Connection> {
        self.touched.remove(&id);
        let connection = self.connections.remove(&id)?;
        self.by_ends.remove(&(connection.step, connection.peer));
        if let Progress::Open { handle, .. } = &connection.state {
            self.sockets.remove(*handle);
        }
        // A descriptor that was duplicated by nobody leaves the queue as it is closed.
        Some(connection)
    }
}

/// Changes what the queue watches a socket for. One that nothing is wanted of is taken out: the queue would report its
/// end again and again.
fn watch(
    events: &OwnedFd,
    socket: BorrowedFd<'_>,
    id: u64,
    before: Option<epoll::EventFlags>,
    wanted: Option<epoll::EventFlags>,
) {
    let data = epoll::EventData::new_u64(id);
    // None of these fails for a socket that is open and a queue that has, or has not, got it.
    let _ = match (before, wanted) {
        (None, None) => Ok(()),
        (None, Some(flags)) => epoll::add(events, socket, data, flags),
        (Some(before), Some(flags)) if before == flags => Ok(()),
        (Some(_), Some(flags)) => epoll::modify(events, socket, data, flags),
        (Some(_), None) => epoll::delete(events, socket),
    };
}
