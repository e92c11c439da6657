//! Connections of the simulated world, as the kernels of its nodes keep them: listeners, connection requests,
//! sockets, and what becomes of them when a process or a machine dies. Bytes move in `segment`.

use super::link::{LinkConfig, Links};
use super::node::ProcessState;
use super::queue::{Event, Key};
use super::random::Random;
use super::segment::Segment;
use super::trace::Tag;
use super::world::{Shared, World};
use crate::operation::{Errno, OperationId};
use crate::stream::NetError;
use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;

/// Accepted by nobody yet at most; more requests are not answered.
const BACKLOG_MAX: usize = 128;
/// First wait before a connection request is sent again, in nanoseconds.
const SYN_RETRY_NS: u64 = 1_000_000_000;
/// Owner of a socket that waits in a backlog.
pub(crate) const NO_CORE: u32 = u32::MAX;
/// Node behind an address that nobody has.
const NO_NODE: u32 = u32::MAX;

struct Listener {
    node: u32,
    process: u32,
    core: u32,
    address: SocketAddr,
    accepts: VecDeque<OperationId>,
    backlog: VecDeque<Key>,
}

#[derive(Clone, Copy)]
pub(crate) struct Connecting {
    pub(crate) id: OperationId,
    since: u64,
    wait: u64,
}

/// The closing mark behind the last byte.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fin {
    No,
    Wanted,
    Sent,
}

/// One end of a connection.
pub(crate) struct Socket {
    pub(crate) node: u32,
    process: u32,
    pub(crate) core: u32,
    remote: SocketAddr,
    pub(crate) remote_node: u32,
    /// The other end; its generation tells whether it still is there.
    pub(crate) peer: Option<Key>,
    pub(crate) connecting: Option<Connecting>,
    /// Somebody above holds it, or it waits in a backlog.
    pub(crate) open: bool,
    pub(crate) shut: bool,
    pub(crate) error: Option<i32>,
    /// Handed over, not yet cut into segments.
    pub(crate) outgoing: VecDeque<u8>,
    /// Place in the stream of the first byte of `outgoing`.
    pub(crate) send_next: u64,
    /// Bytes (the closing mark counts as one) in segments that have not arrived.
    pub(crate) undelivered: usize,
    /// Sends in progress and how many bytes of each were handed over.
    pub(crate) sends: VecDeque<(OperationId, u32)>,
    pub(crate) fin: Fin,
    /// A notice of room is on its way.
    pub(crate) window_coming: bool,
    /// Arrived in order, not yet read.
    pub(crate) incoming: VecDeque<u8>,
    /// Place in the stream of the next byte to arrive.
    pub(crate) receive_next: u64,
    /// Arrived too early, by place.
    pub(crate) early: BTreeMap<u64, Vec<u8>>,
    pub(crate) early_bytes: usize,
    /// Length of the whole stream, once known.
    pub(crate) fin_at: Option<u64>,
    pub(crate) receives: VecDeque<OperationId>,
}

impl Socket {
    fn new(node: u32, process: u32, core: u32, remote: SocketAddr, remote_node: u32) -> Socket {
        Socket {
            node,
            process,
            core,
            remote,
            remote_node,
            peer: None,
            connecting: None,
            open: true,
            shut: false,
            error: None,
            outgoing: VecDeque::new(),
            send_next: 0,
            undelivered: 0,
            sends: VecDeque::new(),
            fin: Fin::No,
            window_coming: false,
            incoming: VecDeque::new(),
            receive_next: 0,
            early: BTreeMap::new(),
            early_bytes: 0,
            fin_at: None,
            receives: VecDeque::new(),
        }
    }
}

#[derive(Default)]
struct Place {
    generation: u32,
    socket: Option<Socket>,
}

pub(crate) struct Network {
    pub(crate) links: Links,
    pub(crate) random: Random,
    listeners: Vec<Option<Listener>>,
    places: Vec<Place>,
    free: Vec<u32>,
    pub(crate) segments: Vec<Segment>,
    pub(crate) free_segments: Vec<u32>,
}

impl Network {
    pub(crate) fn new(random: Random, link: LinkConfig) -> Network {
        Network {
            links: Links::new(link),
            random,
            listeners: Vec::new(),
            places: Vec::new(),
            free: Vec::new(),
            segments: Vec::new(),
            free_segments: Vec::new(),
        }
    }

    pub(crate) fn grow(&mut self, node_count: usize) {
        self.links.grow(node_count);
    }

    fn add(&mut self, socket: Socket) -> Key {
        let index = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place::default());
            u32::try_from(self.places.len() - 1).expect("sockets fit u32")
        });
        let place = &mut self.places[index as usize];
        place.socket = Some(socket);
        Key { index, generation: place.generation }
    }

    pub(crate) fn remove(&mut self, key: Key) {
        let place = &mut self.places[key.index as usize];
        if place.generation == key.generation && place.socket.take().is_some() {
            place.generation = place.generation.wrapping_add(1);
            self.free.push(key.index);
        }
    }

    /// Forget an end that nobody holds, whatever it still had to send.
    pub(crate) fn remove_if_closed(&mut self, key: Key) {
        if self.socket(key).is_some_and(|socket| !socket.open) {
            self.remove(key);
        }
    }

    pub(crate) fn socket(&mut self, key: Key) -> Option<&mut Socket> {
        let place = &mut self.places[key.index as usize];
        if place.generation == key.generation { place.socket.as_mut() } else { None }
    }

    /// The socket behind a handle that somebody above holds.
    pub(crate) fn held(&self, handle: u32) -> Option<Key> {
        let place = self.places.get(handle as usize)?;
        place.socket.as_ref().filter(|socket| socket.open)?;
        Some(Key { index: handle, generation: place.generation })
    }

    /// Nobody of this process listens any more; gives the ends that it held.
    pub(crate) fn forget_listeners(&mut self, process: u32) -> Vec<Key> {
        for listener in &mut self.listeners {
            if listener.as_ref().is_some_and(|listener| listener.process == process) {
                *listener = None;
            }
        }
        let mine = |place: &Place| place.socket.as_ref().is_some_and(|socket| socket.process == process);
        (0_u32..)
            .zip(&self.places)
            .filter(|(_, place)| mine(place))
            .map(|(index, place)| Key { index, generation: place.generation })
            .collect()
    }

    /// Between these nodes nothing comes through in this direction.
    pub(crate) fn blocked(&mut self, from: u32, to: u32) -> bool {
        from == NO_NODE || to == NO_NODE || self.links.get(from, to).blocked
    }

    pub(crate) fn arrival(&mut self, now: u64, from: u32, to: u32, bytes: usize) -> u64 {
        self.links.get(from, to).arrival(now, bytes, &mut self.random)
    }
}

impl Shared {
    fn node_of(&self, from: u32, address: IpAddr) -> u32 {
        if address.is_loopback() || address.is_unspecified() {
            return from;
        }
        let nodes = self.nodes.borrow();
        let found = nodes.iter().position(|node| node.address == address);
        found.map_or(NO_NODE, |at| u32::try_from(at).expect("nodes fit u32"))
    }

    fn is_up(&self, node: u32) -> bool {
        self.nodes.borrow().get(node as usize).is_some_and(|node| node.up)
    }

    fn port(&self, node: u32) -> u16 {
        let node = &mut self.nodes.borrow_mut()[node as usize];
        node.next_port = if node.next_port >= 60_999 { 32_768 } else { node.next_port + 1 };
        node.next_port
    }

    pub(crate) fn finish(&self, core: u32, id: OperationId, result: Result<u32, i32>) {
        if let Some(core) = self.core(core) {
            core.complete(self, id, result.map_err(Errno));
        }
    }

    pub(crate) fn listen(
        &self,
        address: SocketAddr,
        core: u32,
        node: u32,
        process: &ProcessState,
    ) -> Result<(u32, SocketAddr), NetError> {
        let refuse =
            |errno| NetError { operation: "listen on", address: address.to_string(), errno: Errno(errno) };
        if self.node_of(node, address.ip()) != node {
            return Err(refuse(libc::EADDRNOTAVAIL));
        }
        let mut bound = address;
        if bound.port() == 0 {
            bound.set_port(self.port(node));
        }
        let mut net = self.network.borrow_mut();
        let others = net.listeners.iter().flatten();
        if others
            .clone()
            .any(|other| other.node == node && other.address == bound && other.process != process.id)
        {
            return Err(refuse(libc::EADDRINUSE));
        }
        let at = net.listeners.iter().position(Option::is_none).unwrap_or_else(|| {
            net.listeners.push(None);
            net.listeners.len() - 1
        });
        net.listeners[at] = Some(Listener {
            node,
            process: process.id,
            core,
            address: bound,
            accepts: VecDeque::new(),
            backlog: VecDeque::new(),
        });
        Ok((u32::try_from(at).expect("listeners are few"), bound))
    }

    pub(crate) fn listener_close(&self, handle: u32) {
        let mut net = self.network.borrow_mut();
        let Some(listener) = net.listeners[handle as usize].take() else { return };
        for id in listener.accepts {
            self.finish(listener.core, id, Err(libc::ECANCELED));
        }
        for key in listener.backlog {
            self.abort(&mut net, key);
        }
    }

    pub(crate) fn accept(&self, handle: u32, core: u32, id: OperationId) {
        let mut net = self.network.borrow_mut();
        match &mut net.listeners[handle as usize] {
            Some(listener) => listener.accepts.push_back(id),
            None => return self.finish(core, id, Err(libc::EINVAL)),
        }
        self.serve_accepts(&mut net, handle);
    }

    pub(crate) fn accept_cancel(&self, handle: u32, core: u32, id: OperationId) {
        let mut net = self.network.borrow_mut();
        let Some(listener) = &mut net.listeners[handle as usize] else { return };
        if let Some(at) = listener.accepts.iter().position(|&known| known == id) {
            listener.accepts.remove(at);
            self.finish(core, id, Err(libc::ECANCELED));
        }
    }

    fn serve_accepts(&self, net: &mut Network, handle: u32) {
        while let Some(listener) = &mut net.listeners[handle as usize] {
            if listener.accepts.is_empty() || listener.backlog.is_empty() {
                return;
            }
            let key = listener.backlog.pop_front().expect("seen above");
            let core = listener.core;
            let Some(socket) = net.socket(key) else { continue };
            socket.core = core;
            let listener = net.listeners[handle as usize].as_mut().expect("seen above");
            let id = listener.accepts.pop_front().expect("seen above");
            self.trace.note(self.now(), Tag::Accept, u64::from(core), u64::from(key.index));
            self.finish(core, id, Ok(key.index));
        }
    }

    pub(crate) fn connect(
        &self,
        address: SocketAddr,
        core: u32,
        node: u32,
        process: &Rc<ProcessState>,
        id: OperationId,
    ) {
        let target = self.node_of(node, address.ip());
        let now = self.now();
        self.trace.note(now, Tag::Connect, u64::from(core), u64::from(address.port()));
        let mut net = self.network.borrow_mut();
        let mut socket = Socket::new(node, process.id, core, address, target);
        socket.connecting = Some(Connecting { id, since: now, wait: SYN_RETRY_NS });
        let key = net.add(socket);
        let at = if target == NO_NODE { now + SYN_RETRY_NS } else { net.arrival(now, node, target, 64) };
        self.push_at(at, Event::Syn { socket: key });
    }

    pub(crate) fn connect_cancel(&self, core: u32, id: OperationId) {
        let mut net = self.network.borrow_mut();
        let found = net.places.iter().enumerate().find_map(|(index, place)| {
            let socket = place.socket.as_ref()?;
            let connecting = socket.connecting.as_ref()?;
            let index = u32::try_from(index).expect("sockets fit u32");
            (socket.core == core && connecting.id == id)
                .then_some(Key { index, generation: place.generation })
        });
        if let Some(key) = found {
            self.abort(&mut net, key);
            self.finish(core, id, Err(libc::ECANCELED));
        }
    }

    /// A request or its answer did not come through: again later, or give up.
    fn connect_again(&self, net: &mut Network, key: Key, event: Event) {
        let now = self.now();
        let socket = net.socket(key).expect("the caller has it");
        let (node, target, core) = (socket.node, socket.remote_node, socket.core);
        let connecting = socket.connecting.as_mut().expect("the caller has it");
        let (since, wait, id) = (connecting.since, connecting.wait, connecting.id);
        connecting.wait = wait * 2;
        let timeout = net.links.get(node, if target == NO_NODE { node } else { target }).config.timeout_ns;
        if now - since > timeout {
            self.abort(net, key);
            self.finish(core, id, Err(libc::ETIMEDOUT));
        } else {
            self.push(wait, event);
        }
    }

    pub(crate) fn syn_due(&self, key: Key) {
        let mut net = self.network.borrow_mut();
        let net = &mut *net;
        let Some(socket) = net.socket(key) else { return };
        let (node, target, remote, core) = (socket.node, socket.remote_node, socket.remote, socket.core);
        if net.blocked(node, target) || net.blocked(target, node) || !self.is_up(target) {
            return self.connect_again(net, key, Event::Syn { socket: key });
        }
        let (loss, refuse) = {
            let config = &net.links.get(node, target).config;
            (config.loss_ppm, config.refuse_ppm)
        };
        if net.random.chance(loss) {
            self.faults.borrow_mut().count("segment_lost");
            return self.connect_again(net, key, Event::Syn { socket: key });
        }
        let listening = |listener: &Listener| {
            listener.node == target
                && listener.address.port() == remote.port()
                && (listener.address.ip() == remote.ip() || listener.address.ip().is_unspecified())
        };
        let matching: Vec<usize> = net
            .listeners
            .iter()
            .enumerate()
            .filter(|(_, listener)| listener.as_ref().is_some_and(listening))
            .map(|(at, _)| at)
            .collect();
        let refused = net.random.chance(refuse);
        if refused {
            self.faults.borrow_mut().count("connect_refused");
        }
        if matching.is_empty() || refused {
            let at = net.arrival(self.now(), target, node, 64);
            self.push_at(at, Event::Reset { socket: key });
            return;
        }
        let handle = *net.random.pick(&matching);
        let listener = net.listeners[handle].as_ref().expect("found above");
        if listener.backlog.len() >= BACKLOG_MAX {
            return self.connect_again(net, key, Event::Syn { socket: key });
        }
        let process = listener.process;
        let from = self.client_address(node, remote.ip());
        let mut accepted = Socket::new(target, process, NO_CORE, from, node);
        accepted.peer = Some(key);
        let accepted = net.add(accepted);
        net.socket(key).expect("seen above").peer = Some(accepted);
        net.listeners[handle].as_mut().expect("found above").backlog.push_back(accepted);
        let at = net.arrival(self.now(), target, node, 64);
        self.trace.note(self.now(), Tag::Connect, u64::from(core), u64::from(accepted.index) << 32);
        self.push_at(at, Event::SynAck { socket: key });
        self.serve_accepts(net, u32::try_from(handle).expect("listeners are few"));
    }

    /// What the far end sees as the address of a connection from `node`.
    fn client_address(&self, node: u32, target: IpAddr) -> SocketAddr {
        let port = self.port(node);
        if target.is_loopback() || target.is_unspecified() {
            return SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        }
        SocketAddr::new(self.nodes.borrow()[node as usize].address, port)
    }

    pub(crate) fn syn_ack_due(&self, key: Key) {
        let mut net = self.network.borrow_mut();
        let net = &mut *net;
        let Some(socket) = net.socket(key) else { return };
        let (node, target, core) = (socket.node, socket.remote_node, socket.core);
        if net.blocked(target, node) {
            return self.connect_again(net, key, Event::SynAck { socket: key });
        }
        let socket = net.socket(key).expect("seen above");
        if let Some(connecting) = socket.connecting.take() {
            self.finish(core, connecting.id, Ok(key.index));
        }
    }

    /// Arrived at a machine that is off.
    pub(crate) fn is_dark(&self, node: u32) -> bool {
        !self.is_up(node)
    }

    pub(crate) fn stream_peer(&self, handle: u32) -> Option<SocketAddr> {
        let mut net = self.network.borrow_mut();
        let key = net.held(handle)?;
        net.socket(key).map(|socket| socket.remote)
    }
}

impl World {
    /// Connections that exist now, counted by ends.
    #[must_use]
    pub fn socket_count(&self) -> usize {
        let net = self.shared.network.borrow();
        net.places.len() - net.free.len()
    }
}
