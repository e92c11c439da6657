//! Sockets of one core: listeners and streams by number, with the count of operations in flight on each.
//! Invariant: a descriptor is closed only when nothing is in flight on it, so that an operation that is still
//! queued never meets a descriptor number that has gone to somebody else.

use super::refusal::patiently;
use crate::operation::Errno;
use crate::stream::NetError;
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};
use std::collections::BTreeSet;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Mutex;

/// Connections the kernel holds until they are accepted; it lowers this to net.core.somaxconn.
const BACKLOG: i32 = 4096;

enum State {
    Free,
    Open,
    /// Closed by its owner; waits for what is in flight.
    Closing,
}

struct Entry {
    state: State,
    fd: Option<OwnedFd>,
    peer: Option<SocketAddr>,
    in_flight: u32,
    shut: bool,
    /// The last receive took all that had come.
    drained: bool,
}

/// Listeners and streams of one core.
#[derive(Default)]
pub(super) struct Sockets {
    entries: Vec<Entry>,
    free: Vec<u32>,
}

impl Sockets {
    pub(super) fn insert(&mut self, fd: OwnedFd) -> u32 {
        let entry =
            Entry { state: State::Open, fd: Some(fd), peer: None, in_flight: 0, shut: false, drained: false };
        match self.free.pop() {
            Some(number) => {
                let place = &mut self.entries[number as usize];
                assert!(matches!(place.state, State::Free), "a free socket is free");
                *place = entry;
                number
            }
            None => {
                self.entries.push(entry);
                u32::try_from(self.entries.len() - 1).expect("descriptors are far fewer")
            }
        }
    }

    fn open(&mut self, number: u32) -> &mut Entry {
        let entry = &mut self.entries[number as usize];
        assert!(matches!(entry.state, State::Open), "socket {number} belongs to whoever uses it");
        entry
    }

    fn raw(entry: &Entry) -> RawFd {
        entry.fd.as_ref().expect("held until nothing is in flight").as_raw_fd()
    }

    /// An operation on the socket begins. The descriptor stays until [`Sockets::end`].
    pub(super) fn begin(&mut self, number: u32) {
        self.open(number).in_flight += 1;
    }

    /// The descriptor of a socket with an operation in flight.
    pub(super) fn fd(&self, number: u32) -> RawFd {
        let entry = &self.entries[number as usize];
        assert!(entry.in_flight > 0, "asked for by an operation in flight");
        Sockets::raw(entry)
    }

    /// A receive has completed; `more` has come than it took.
    pub(super) fn received(&mut self, number: u32, more: bool) {
        self.entries[number as usize].drained = !more;
    }

    /// Nothing has come since the last receive, as far as is known.
    pub(super) fn is_drained(&self, number: u32) -> bool {
        self.entries[number as usize].drained
    }

    /// An operation on the socket has completed.
    pub(super) fn end(&mut self, number: u32) {
        let entry = &mut self.entries[number as usize];
        entry.in_flight = entry.in_flight.checked_sub(1).expect("each operation ends once");
        if matches!(entry.state, State::Closing) {
            self.close_if_quiet(number);
        }
    }

    fn close_if_quiet(&mut self, number: u32) {
        let entry = &mut self.entries[number as usize];
        if entry.in_flight == 0 {
            entry.fd = None;
            entry.state = State::Free;
            self.free.push(number);
        }
    }

    /// End both directions of a stream: operations in flight complete soon.
    pub(super) fn shutdown(&mut self, number: u32) {
        let entry = self.open(number);
        if !std::mem::replace(&mut entry.shut, true) {
            let fd = entry.fd.as_ref().expect("an open socket has its descriptor");
            // Not connected any more: the far end was faster.
            let _ = SockRef::from(fd).shutdown(Shutdown::Both);
        }
    }

    /// Shut down whatever is open and has operations in flight: the core ends.
    pub(super) fn shutdown_all(&mut self) {
        for entry in &mut self.entries {
            if let Some(fd) = &entry.fd
                && entry.in_flight > 0
            {
                let _ = SockRef::from(fd).shutdown(Shutdown::Both);
            }
        }
    }

    /// The owner is gone. Operations in flight are ended by `shutdown` (streams) or by cancelling (listeners).
    pub(super) fn close(&mut self, number: u32) {
        if self.open(number).in_flight > 0 {
            self.shutdown(number);
        }
        self.open(number).state = State::Closing;
        self.close_if_quiet(number);
    }

    /// The far end of a stream, if it is connected.
    pub(super) fn peer(&mut self, number: u32) -> Option<SocketAddr> {
        let entry = self.open(number);
        if entry.peer.is_none() {
            let fd = entry.fd.as_ref().expect("an open socket has its descriptor");
            entry.peer = SockRef::from(fd).peer_addr().ok().and_then(|address| address.as_socket());
        }
        entry.peer
    }
}

fn errno(error: &std::io::Error) -> Errno {
    Errno(error.raw_os_error().unwrap_or(libc::EIO))
}

/// Addresses that cores of this process have listened on. Sharing a port is for them alone: without this, a second
/// process on the same port would silently get half of the first one's connections.
static OWN_ADDRESSES: Mutex<BTreeSet<SocketAddr>> = Mutex::new(BTreeSet::new());

/// A socket that listens on `address` beside other cores of this process, and the address it got. Accepted streams
/// inherit its options.
pub(super) fn listen(address: SocketAddr) -> Result<(OwnedFd, SocketAddr), NetError> {
    let socket = |share: bool| -> std::io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(share)?;
        socket.set_tcp_nodelay(true)?;
        socket.bind(&SockAddr::from(address))?;
        Ok(socket)
    };
    let attempt = || -> std::io::Result<(OwnedFd, SocketAddr)> {
        let mut own = OWN_ADDRESSES.lock().expect("nothing panics while it holds this");
        if !own.contains(&address) {
            // Refused where anybody listens, also if that one would share.
            drop(socket(false)?);
        }
        let socket = socket(true)?;
        socket.listen(BACKLOG)?;
        let bound = socket.local_addr()?.as_socket().expect("an internet socket has an internet address");
        own.insert(bound);
        Ok((socket.into(), bound))
    };
    patiently(attempt, |error| error.raw_os_error() == Some(libc::EADDRINUSE)).map_err(|error| NetError {
        operation: "listen on",
        address: address.to_string(),
        errno: errno(&error),
    })
}

/// A socket to connect to `address` with.
pub(super) fn connecting(address: SocketAddr) -> Result<OwnedFd, Errno> {
    let attempt = || -> std::io::Result<OwnedFd> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_tcp_nodelay(true)?;
        Ok(socket.into())
    };
    attempt().map_err(|error| errno(&error))
}

/// Where nobody listens on a port of the ephemeral range, a connect may meet itself. That is a refusal.
pub(super) fn connected_to_itself(fd: &OwnedFd) -> bool {
    let socket = SockRef::from(fd);
    match (socket.local_addr(), socket.peer_addr()) {
        (Ok(local), Ok(peer)) => local.as_socket() == peer.as_socket(),
        _ => false,
    }
}
