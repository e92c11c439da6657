//! Bytes on their way: streams are cut into segments, each of which is late, lost and sent again, doubled, or
//! overtaken on its own; the receiving end puts them in order by their place in the stream.

use super::network::{Fin, Network};
use super::queue::{Event, Key};
use super::random::hash_bytes;
use super::trace::Tag;
use super::world::Shared;
use crate::operation::{Operation, OperationId};

/// Largest segment, in bytes: what a network card takes at once.
const SEGMENT_BYTES_MAX: usize = 64 << 10;
/// A lost segment is sent again after at most this many times the first wait.
const RETRANSMIT_GROWTH_MAX: u64 = 16;

pub(crate) struct Segment {
    from: Key,
    to: Key,
    from_node: u32,
    to_node: u32,
    /// Place in the stream of its first byte.
    sequence: u64,
    data: Vec<u8>,
    /// The stream ends behind it.
    fin: bool,
    /// When it was first sent.
    since: u64,
    /// Wait before it is sent again.
    wait: u64,
    /// Did not arrive: its event is the sender's timer.
    lost: bool,
    /// A second copy: nobody misses it.
    copy: bool,
}

impl Network {
    fn add_segment(&mut self, segment: Segment) -> u32 {
        match self.free_segments.pop() {
            Some(index) => {
                self.segments[index as usize] = segment;
                index
            }
            None => {
                self.segments.push(segment);
                u32::try_from(self.segments.len() - 1).expect("segments fit u32")
            }
        }
    }

    /// A buffer of a segment that is through.
    fn spare_buffer(&mut self) -> Vec<u8> {
        let index = self.free_segments.last().copied();
        index.map_or_else(Vec::new, |index| std::mem::take(&mut self.segments[index as usize].data))
    }

    fn free_segment(&mut self, index: u32) {
        self.segments[index as usize].data.clear();
        self.free_segments.push(index);
    }

    /// Bytes that the far end of `key` has room for, beyond what is under way.
    fn window(&mut self, key: Key) -> usize {
        let socket = self.socket(key).expect("the caller has it");
        let (peer, undelivered) = (socket.peer, socket.undelivered);
        let (node, remote_node) = (socket.node, socket.remote_node);
        let waiting =
            peer.and_then(|peer| self.socket(peer)).map_or(0, |peer| peer.incoming.len() + peer.early_bytes);
        let limit = self.links.get(node, remote_node).config.receive_buffer_bytes;
        limit.saturating_sub(waiting + undelivered)
    }
}

impl Shared {
    pub(crate) fn receive(&self, handle: u32, core: u32, id: OperationId) {
        let mut net = self.network.borrow_mut();
        let Some(key) = self.own(&mut net, handle, core) else {
            return self.finish(core, id, Err(libc::EBADF));
        };
        net.socket(key).expect("held").receives.push_back(id);
        self.serve_receives(&mut net, key);
    }

    pub(crate) fn send(&self, handle: u32, core: u32, id: OperationId) {
        let mut net = self.network.borrow_mut();
        let Some(key) = self.own(&mut net, handle, core) else {
            return self.finish(core, id, Err(libc::EBADF));
        };
        if let Some(core) = self.core(core)
            && let Operation::Send { buffer, start, end, .. } = core.table.borrow_mut().operation_mut(id)
        {
            let content = hash_bytes(&buffer[*start as usize..*end as usize]);
            self.trace.note(self.now(), Tag::Send, u64::from(handle), content);
        }
        net.socket(key).expect("held").sends.push_back((id, 0));
        self.progress(&mut net, key);
    }

    fn own(&self, net: &mut Network, handle: u32, core: u32) -> Option<Key> {
        let key = net.held(handle)?;
        let owner = net.socket(key).expect("held").core;
        assert!(owner == core, "a stream never leaves its core");
        Some(key)
    }

    /// Give waiting receives what has arrived.
    pub(crate) fn serve_receives(&self, net: &mut Network, key: Key) {
        let mut read = false;
        loop {
            let Some(socket) = net.socket(key) else { return };
            let Some(&id) = socket.receives.front() else { break };
            let (node, remote_node, core) = (socket.node, socket.remote_node, socket.core);
            let there = socket.incoming.len();
            let result = if socket.shut {
                Ok(0)
            } else if there > 0 {
                let Some(owner) = self.core(core) else { return };
                let mut table = owner.table.borrow_mut();
                let Operation::Receive { buffer, start, end, .. } = table.operation_mut(id) else {
                    panic!("a receive in flight is a receive in its table")
                };
                let to = &mut buffer[*start as usize..*end as usize];
                let mut count = there.min(to.len());
                let partial = net.links.get(remote_node, node).config.partial_ppm;
                if net.random.chance(partial) {
                    count = 1 + net.random.index(count);
                }
                let socket = net.socket(key).expect("seen above");
                let (first, second) = socket.incoming.as_slices();
                let head = count.min(first.len());
                to[..head].copy_from_slice(&first[..head]);
                to[head..count].copy_from_slice(&second[..count - head]);
                socket.incoming.drain(..count);
                read = true;
                Ok(u32::try_from(count).expect("a buffer's length fits u32"))
            } else if let Some(errno) = socket.error {
                Err(errno)
            } else if socket.fin_at == Some(socket.receive_next) {
                Ok(0)
            } else {
                break;
            };
            let socket = net.socket(key).expect("seen above");
            socket.receives.pop_front();
            let detail = u64::from(result.unwrap_or(u32::MAX));
            self.trace.note(self.now(), Tag::Receive, u64::from(key.index), detail);
            self.finish(core, id, result);
        }
        if read {
            self.announce_window(net, key);
        }
    }

    /// Tell a sender that waits for room that there is some.
    fn announce_window(&self, net: &mut Network, key: Key) {
        let Some(socket) = net.socket(key) else { return };
        let (node, remote_node, peer) = (socket.node, socket.remote_node, socket.peer);
        let Some(peer) = peer else { return };
        let Some(sender) = net.socket(peer) else { return };
        if !sender.outgoing.is_empty() && !sender.window_coming {
            sender.window_coming = true;
            let at = net.arrival(self.now(), node, remote_node, 64);
            self.push_at(at, Event::Window { socket: peer });
        }
    }

    pub(crate) fn window_due(&self, key: Key) {
        let mut net = self.network.borrow_mut();
        let Some(socket) = net.socket(key) else { return };
        let (node, remote_node) = (socket.node, socket.remote_node);
        if net.blocked(remote_node, node) {
            // The sender asks again from time to time.
            let wait = net.links.get(node, remote_node).config.retransmit_ns;
            self.push(wait, Event::Window { socket: key });
            return;
        }
        net.socket(key).expect("seen above").window_coming = false;
        self.progress(&mut net, key);
    }

    /// Hand over what waiting sends have, cut what may leave into segments, end the stream if that was asked for.
    pub(crate) fn progress(&self, net: &mut Network, key: Key) {
        loop {
            self.hand_over(net, key);
            if !self.cut(net, key) {
                break;
            }
        }
        let Some(socket) = net.socket(key) else { return };
        if socket.fin == Fin::Wanted && socket.outgoing.is_empty() && socket.error.is_none() {
            socket.fin = Fin::Sent;
            self.send_segment(net, key, Vec::new(), true);
        }
        self.forget_if_through(net, key);
    }

    /// A closed end goes once everything has arrived.
    fn forget_if_through(&self, net: &mut Network, key: Key) {
        if net.socket(key).is_some_and(|socket| {
            !socket.open && socket.fin == Fin::Sent && socket.undelivered == 0 && socket.outgoing.is_empty()
        }) {
            net.remove(key);
        }
    }

    /// From the buffers of sends into the socket's own.
    fn hand_over(&self, net: &mut Network, key: Key) {
        loop {
            let Some(socket) = net.socket(key) else { return };
            let Some(&(id, done)) = socket.sends.front() else { return };
            let (node, remote_node, core) = (socket.node, socket.remote_node, socket.core);
            if socket.shut || socket.error.is_some() {
                let errno = socket.error.unwrap_or(libc::EPIPE);
                socket.sends.pop_front();
                self.finish(core, id, if done > 0 { Ok(done) } else { Err(errno) });
                continue;
            }
            let limit = net.links.get(node, remote_node).config.send_buffer_bytes;
            let socket = net.socket(key).expect("seen above");
            let room = limit.saturating_sub(socket.outgoing.len());
            let Some(owner) = self.core(core) else { return };
            let mut table = owner.table.borrow_mut();
            let Operation::Send { buffer, start, end, .. } = table.operation_mut(id) else {
                panic!("a send in flight is a send in its table")
            };
            let left = &buffer[(*start + done) as usize..*end as usize];
            let count = left.len().min(room);
            socket.outgoing.extend(&left[..count]);
            let all = count == left.len();
            let done = done + u32::try_from(count).expect("a buffer's length fits u32");
            drop(table);
            if !all {
                socket.sends.front_mut().expect("seen above").1 = done;
                return;
            }
            socket.sends.pop_front();
            self.finish(core, id, Ok(done));
        }
    }

    /// Cut one segment if the far end has room. True if one left.
    fn cut(&self, net: &mut Network, key: Key) -> bool {
        let Some(socket) = net.socket(key) else { return false };
        let there = socket.outgoing.len();
        if there == 0 || socket.error.is_some() {
            return false;
        }
        let (node, remote_node) = (socket.node, socket.remote_node);
        let mut count = there.min(net.window(key)).min(SEGMENT_BYTES_MAX);
        if count == 0 {
            return false;
        }
        let config = &net.links.get(node, remote_node).config;
        let (tiny, reset) = (config.tiny_ppm, config.reset_ppm);
        if net.random.chance(reset) {
            self.faults.borrow_mut().count("connection_reset");
            let peer = net.socket(key).expect("seen above").peer;
            for key in std::iter::once(key).chain(peer) {
                let delay = net.random.below(1_000_000);
                self.push(delay, Event::Reset { socket: key });
            }
        }
        if net.random.chance(tiny) {
            count = 1 + net.random.index(count.min(64));
        } else if net.random.chance(250_000) {
            count = 1 + net.random.index(count);
        }
        let mut data = net.spare_buffer();
        let socket = net.socket(key).expect("seen above");
        // Slice by slice: a drained byte iterator costs more than everything else here.
        let (first, second) = socket.outgoing.as_slices();
        let head = count.min(first.len());
        data.extend_from_slice(&first[..head]);
        data.extend_from_slice(&second[..count - head]);
        socket.outgoing.drain(..count);
        self.send_segment(net, key, data, false);
        true
    }

    fn send_segment(&self, net: &mut Network, key: Key, data: Vec<u8>, fin: bool) {
        let socket = net.socket(key).expect("the caller has it");
        let Some(to) = socket.peer else { return };
        let sequence = socket.send_next;
        socket.send_next += data.len() as u64;
        socket.undelivered += data.len() + usize::from(fin);
        let (from_node, to_node) = (socket.node, socket.remote_node);
        let config = &net.links.get(from_node, to_node).config;
        let (wait, duplicate) = (config.retransmit_ns, config.duplicate_ppm);
        let since = self.now();
        let segment = Segment {
            from: key,
            to,
            from_node,
            to_node,
            sequence,
            data,
            fin,
            since,
            wait,
            lost: false,
            copy: false,
        };
        if net.random.chance(duplicate) {
            self.faults.borrow_mut().count("segment_duplicated");
            let copy = Segment { data: segment.data.clone(), copy: true, ..segment };
            let index = net.add_segment(copy);
            self.launch_segment(net, index);
        }
        let index = net.add_segment(segment);
        self.launch_segment(net, index);
    }

    /// Put a segment on the link, once more if it is not the first time.
    fn launch_segment(&self, net: &mut Network, index: u32) {
        let segment = &net.segments[index as usize];
        let (from, to, bytes) = (segment.from_node, segment.to_node, segment.data.len() + 64);
        let loss = net.links.get(from, to).config.loss_ppm;
        let lost = net.random.chance(loss);
        if lost {
            self.faults.borrow_mut().count("segment_lost");
        }
        if lost || net.blocked(from, to) {
            return self.lose_segment(net, index);
        }
        let at = net.arrival(self.now(), from, to, bytes);
        net.segments[index as usize].lost = false;
        self.push_at(at, Event::Segment { segment: index });
    }

    /// It does not arrive; its sender notices after a while.
    fn lose_segment(&self, net: &mut Network, index: u32) {
        let segment = &mut net.segments[index as usize];
        if segment.copy {
            return net.free_segment(index);
        }
        segment.lost = true;
        let wait = segment.wait;
        let first = net.links.get(segment.from_node, segment.to_node).config.retransmit_ns;
        segment.wait = (wait * 2).min(first * RETRANSMIT_GROWTH_MAX);
        self.push(wait, Event::Segment { segment: index });
    }

    pub(crate) fn segment_due(&self, index: u32) {
        let mut net = self.network.borrow_mut();
        let net = &mut *net;
        let now = self.now();
        let segment = &net.segments[index as usize];
        let (from, to, from_node, to_node) = (segment.from, segment.to, segment.from_node, segment.to_node);
        if segment.lost {
            let since = segment.since;
            if net.socket(from).is_none_or(|sender| sender.error.is_some()) {
                return net.free_segment(index);
            }
            if now - since > net.links.get(from_node, to_node).config.timeout_ns {
                net.free_segment(index);
                return self.fail(net, from, libc::ETIMEDOUT);
            }
            return self.launch_segment(net, index);
        }
        if self.is_dark(to_node) || net.blocked(from_node, to_node) {
            return self.lose_segment(net, index);
        }
        self.trace.note(now, Tag::Segment, u64::from(to.index), net.segments[index as usize].sequence);
        let data_bytes = net.segments[index as usize].data.len();
        // After an error nothing more comes in: what was dropped with it would be missing before.
        let listens = net
            .socket(to)
            .is_some_and(|socket| socket.error.is_none() && (socket.open && !socket.shut || data_bytes == 0));
        if !listens {
            // Nobody there any more: a reset goes back, and the end that lingered goes with it.
            net.free_segment(index);
            net.remove_if_closed(to);
            if !net.blocked(to_node, from_node) {
                let at = net.arrival(now, to_node, from_node, 64);
                self.push_at(at, Event::Reset { socket: from });
            }
            return;
        }
        self.take_in(net, index);
    }

    /// A segment has arrived at a socket that takes it.
    fn take_in(&self, net: &mut Network, index: u32) {
        let segment = &mut net.segments[index as usize];
        let (from, to, sequence, fin) = (segment.from, segment.to, segment.sequence, segment.fin);
        let data = std::mem::take(&mut segment.data);
        let bytes = data.len();
        let copy = segment.copy;
        let mut data = Some(data);
        let socket = net.socket(to).expect("the caller saw it");
        if bytes > 0 && sequence == socket.receive_next {
            socket.incoming.extend(data.as_ref().expect("not taken yet"));
            socket.receive_next += bytes as u64;
            while let Some(entry) = socket.early.first_entry() {
                if *entry.key() > socket.receive_next {
                    break;
                }
                let (at, early) = entry.remove_entry();
                socket.early_bytes -= early.len();
                // Segments are never cut again on their way, so that an early one fits or was there already.
                if at == socket.receive_next {
                    socket.incoming.extend(&early);
                    socket.receive_next += early.len() as u64;
                }
            }
        } else if bytes > 0 && sequence > socket.receive_next && !socket.early.contains_key(&sequence) {
            socket.early_bytes += bytes;
            socket.early.insert(sequence, data.take().expect("not taken yet"));
            crate::sometimes!("sim_segment_overtook");
        }
        if fin {
            socket.fin_at = Some(sequence + bytes as u64);
        }
        if let Some(data) = data {
            net.segments[index as usize].data = data;
        }
        net.free_segment(index);
        if !copy && let Some(sender) = net.socket(from) {
            sender.undelivered -= bytes + usize::from(fin);
            self.forget_if_through(net, from);
            // What was under way took room as well: a copy may have been read long before this one came.
            self.announce_window(net, to);
        }
        self.serve_receives(net, to);
    }
}
