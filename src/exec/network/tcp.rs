//! One TCP connection of a step: smoltcp's socket towards the step, an ordinary one towards the world, and what is moved
//! between them.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType, sockopt};
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};

use super::packet::Unreachable;

/// What the step has sent and the world has not taken. Two packets of the largest kind: more in flight, and the packet
/// socket's own buffer overflows.
const FROM_STEP: usize = 128 << 10;
/// What the world has sent and the step has not taken.
const TO_STEP: usize = 512 << 10;

/// A connection. There is one for each SYN of the step that leads somewhere.
pub(super) struct Connection {
    pub(super) world: OwnedFd,
    pub(super) step: SocketAddr,
    /// As the step sees it.
    pub(super) peer: SocketAddr,
    pub(super) state: Progress,
    /// What the event queue watches for; `None` for nothing.
    pub(super) watched: Option<EventFlags>,
}

/// How far it is.
pub(super) enum Progress {
    /// The world has not answered. The step's SYN waits: it is answered as the world answers.
    Connecting { syn: Vec<u8> },
    /// Data goes both ways.
    Open {
        handle: SocketHandle,
        /// The world will send nothing more.
        world_ended: bool,
        /// The step will send nothing more, and the world has been told.
        step_ended: bool,
    },
}

/// Begins to connect.
pub(super) fn connect(to: SocketAddr) -> Result<OwnedFd, Errno> {
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    match rustix::net::connect(&socket, &to) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(e) => Err(e),
    }
}

/// What to tell a step about a failed connection; `None` to refuse it plainly.
pub(super) fn explain(error: Errno) -> Option<Unreachable> {
    match error {
        Errno::NETUNREACH | Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL => Some(Unreachable::Network),
        Errno::HOSTUNREACH | Errno::TIMEDOUT => Some(Unreachable::Host),
        Errno::ACCESS | Errno::PERM => Some(Unreachable::Prohibited),
        _ => None,
    }
}

/// A socket that answers the SYN which comes next.
pub(super) fn listener(peer: SocketAddr) -> Option<Socket<'static>> {
    let mut socket = Socket::new(SocketBuffer::new(vec![0; FROM_STEP]), SocketBuffer::new(vec![0; TO_STEP]));
    socket.set_nagle_enabled(false);
    socket.set_ack_delay(None);
    socket.listen(peer).ok()?;
    Some(socket)
}

/// Moves what can be moved. Returns what to watch the world's socket for.
pub(super) fn pump(
    world: &OwnedFd,
    socket: &mut Socket<'_>,
    world_ended: &mut bool,
    step_ended: &mut bool,
) -> EventFlags {
    let mut watch = EventFlags::empty();
    while socket.can_recv() {
        let moved = socket.recv(|bytes| match rustix::io::write(world, bytes) {
            Ok(n) => (n, Ok(())),
            Err(e) => (0, Err(e)),
        });
        match moved {
            Ok(Ok(())) => {}
            Ok(Err(Errno::AGAIN | Errno::INTR)) => {
                watch |= EventFlags::OUT;
                break;
            }
            _ => {
                socket.abort();
                return EventFlags::empty();
            }
        }
    }
    let finished =
        matches!(socket.state(), State::CloseWait | State::LastAck | State::Closing | State::TimeWait | State::Closed);
    if finished && !*step_ended && !socket.can_recv() {
        *step_ended = true;
        // An error means that the connection is broken, which reading tells too.
        let _ = rustix::net::shutdown(world, Shutdown::Write);
    }
    while !*world_ended && socket.can_send() {
        let moved = socket.send(|room| match rustix::io::read(world, room) {
            Ok(n) => (n, Ok(n)),
            Err(e) => (0, Err(e)),
        });
        match moved {
            Ok(Ok(0)) => {
                *world_ended = true;
                socket.close();
            }
            Ok(Ok(_)) => {}
            Ok(Err(Errno::AGAIN | Errno::INTR)) => {
                watch |= EventFlags::IN;
                break;
            }
            _ => {
                socket.abort();
                return EventFlags::empty();
            }
        }
    }
    watch
}

/// How an attempt to connect ended; `None` while it goes on.
pub(super) fn connected(world: &OwnedFd) -> Option<Result<(), Errno>> {
    match sockopt::socket_error(world) {
        Ok(Ok(())) => match rustix::net::getpeername(world) {
            Ok(_) => Some(Ok(())),
            Err(_) => None,
        },
        Ok(Err(e)) | Err(e) => Some(Err(e)),
    }
}
