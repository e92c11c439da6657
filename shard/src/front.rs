//! Connections of clients to a core of a node without tablets, a cache or a cold node: a reader and a writer task each, between them the outbox,
//! and how an answer finds its way there.
//!
//! Must never take a request without room for a small answer to it. Invariant: a request is answered once, over the connection it
//! came from, if that is still there.

use crate::outbox::Outbox;
use crate::reply::{ReplyTo, SMALL_REPLY_BYTES};
use ioengine::sync::{Notify, race};
use ioengine::{Instant, Io, Queue, Stream};
use layout::units::LogTime;
use net::frame::HEADER_BYTES;
use net::outcome::{Limit, Outcome};
use net::reply::{encode_hello, encode_outcome, reply_bytes_hello};
use net::request::Request;
use net::session::{ServerIdentity, ServerLimits, ServerSession, SessionReply, Step};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

/// Bytes of a receive.
const RECEIVE_BYTES: usize = 16 << 10;
/// Longest time that a far end may leave what was sent unread.
const SEND_DEADLINE: Duration = Duration::from_secs(30);
/// How long an answer waits for room before it is looked for again.
const ROOM_RETRY: Duration = Duration::from_millis(5);

/// Bounds of the connections of a core.
#[derive(Clone, Debug)]
pub(crate) struct FrontLimits {
    /// Connections.
    pub(crate) connection_count_max: usize,
    /// Longest body of a frame, bytes.
    pub(crate) frame_bytes_max: u32,
    /// Requests in flight on a connection.
    pub(crate) in_flight_max: u32,
    /// Answers that wait to be sent on a connection, bytes.
    pub(crate) outbox_bytes_max: usize,
    /// From the begin of a connection to its hello.
    pub(crate) hello_deadline: Duration,
    /// From a request to its answer.
    pub(crate) request_deadline: Duration,
}

/// A core of a node that clients connect to. What it does with a request is its own.
pub(crate) trait Front: Sized + 'static {
    fn io(&self) -> &Io;
    /// Index of the core.
    fn index(&self) -> u16;
    fn front_limits(&self) -> &FrontLimits;
    fn identity(&self) -> ServerIdentity;
    /// Epoch of the cluster map that it knows; 0 when none.
    fn epoch(&self) -> u32;
    fn connections(&self) -> &Connections;
    /// A connection was refused for want of room.
    fn refused(&self);
    /// A request and its body, for whose answer a small room is reserved: answered now or later, once.
    fn take(self: &Rc<Self>, to: &ReplyTo, request: &Request<'_>, body: &[u8]);

    /// Bring near what the requests that `input` begins with will read. How many bytes were looked at, at least 1: then it is asked again.
    /// Nothing is checked yet.
    fn look_ahead(&self, input: &[u8]) -> usize {
        input.len().max(1)
    }

    /// A small answer, whose room was reserved with the request.
    fn tell(&self, to: &ReplyTo, encode: impl FnOnce(&mut [u8]) -> usize) {
        tell_sized(self, to, SMALL_REPLY_BYTES - HEADER_BYTES, encode);
    }

    /// An answer of just `bytes`; a small one in its place when it does not fit the frame agreed on, or there is no room.
    fn write(&self, to: &ReplyTo, bytes: usize, encode: impl FnOnce(&mut [u8]) -> usize) {
        if bytes + HEADER_BYTES <= SMALL_REPLY_BYTES {
            return tell_sized(self, to, bytes, encode);
        }
        let Some(connection) = self.connections().find(to) else { return };
        let refusal = if bytes > to.frame_bytes as usize {
            Some(Outcome::TooLarge { limit: Limit::Frame })
        } else if !connection.outbox.borrow_mut().make_room(self.io(), HEADER_BYTES + bytes) {
            ioengine::sometimes!("a cache has no room for an answer");
            Some(Outcome::Busy { limit: Limit::ReplyBuffers, hint_ms: 20 })
        } else {
            None
        };
        if let Some(outcome) = refusal {
            return self.tell(to, |out| encode_outcome(out, LogTime(0), &outcome));
        }
        let mut outbox = connection.outbox.borrow_mut();
        let written = to.frame(self.epoch(), &mut outbox.room()[..HEADER_BYTES + bytes], encode);
        outbox.advance(written);
        outbox.release();
        drop(outbox);
        connection.answered(self);
    }
}

fn tell_sized<F: Front>(front: &F, to: &ReplyTo, bytes: usize, encode: impl FnOnce(&mut [u8]) -> usize) {
    // Gone: the client has closed its connection, and learns nothing.
    let Some(connection) = front.connections().find(to) else { return };
    let mut outbox = connection.outbox.borrow_mut();
    outbox.release();
    let bytes = to.frame(front.epoch(), &mut outbox.room()[..HEADER_BYTES + bytes], encode);
    outbox.advance(bytes);
    drop(outbox);
    connection.answered(front);
}

/// One client's connection.
pub(crate) struct Connection {
    slot: u32,
    generation: u32,
    stream: Stream,
    pub(crate) outbox: RefCell<Outbox>,
    session: RefCell<ServerSession>,
    /// Something was put into the outbox, or the connection ends.
    filled: Notify,
    /// Something was sent, or answered.
    drained: Notify,
    closing: Cell<bool>,
    /// When the send in flight began.
    sending_since: Cell<Option<Instant>>,
}

impl Connection {
    /// A request that was given out has been answered.
    pub(crate) fn answered<F: Front>(&self, front: &F) {
        self.session.borrow_mut().answered(front.io().now().ns / 1000);
        self.drained.notify();
        self.filled.notify();
    }

    /// Its time is up.
    pub(crate) fn expired(&self, now: Instant) -> bool {
        let stuck = self.sending_since.get().is_some_and(|since| now.since(since) > SEND_DEADLINE);
        stuck || self.session.borrow_mut().expired(now.ns / 1000).is_some()
    }

    /// The reader ends at once, the writer after what waits.
    fn close(&self) {
        self.closing.set(true);
        self.filled.notify();
        self.drained.notify();
    }

    /// Both end.
    pub(crate) fn end(&self) {
        self.close();
        self.stream.shutdown();
    }
}

/// The connections of a core, by slot.
#[derive(Default)]
pub(crate) struct Connections {
    slots: RefCell<Vec<(u32, Option<Rc<Connection>>)>>,
}

impl Connections {
    pub(crate) fn count(&self) -> usize {
        self.slots.borrow().iter().filter(|(_, connection)| connection.is_some()).count()
    }

    /// The connection that an answer is for, if it is still the same.
    pub(crate) fn find(&self, to: &ReplyTo) -> Option<Rc<Connection>> {
        let slots = self.slots.borrow();
        let (generation, connection) = slots.get(to.slot as usize)?;
        connection.as_ref().filter(|_| *generation == to.generation).cloned()
    }

    fn add(&self, make: impl FnOnce(u32, u32) -> Connection) -> Rc<Connection> {
        let mut slots = self.slots.borrow_mut();
        let free = slots.iter().position(|(_, connection)| connection.is_none());
        let number = free.unwrap_or_else(|| {
            slots.push((0, None));
            slots.len() - 1
        });
        let (generation, place) = &mut slots[number];
        *generation = generation.wrapping_add(1);
        let connection = Rc::new(make(u32::try_from(number).expect("bounded by the config"), *generation));
        *place = Some(Rc::clone(&connection));
        connection
    }

    fn remove(&self, connection: &Connection) {
        self.slots.borrow_mut()[connection.slot as usize].1 = None;
    }

    /// Every connection that there is.
    pub(crate) fn all(&self) -> Vec<Rc<Connection>> {
        self.slots.borrow().iter().filter_map(|(_, connection)| connection.clone()).collect()
    }

    /// Let every reader end; writers send what waits.
    pub(crate) fn close_readers(&self) {
        self.all().iter().for_each(|connection| connection.close());
    }

    /// End them all.
    pub(crate) fn close_all(&self) {
        self.all().iter().for_each(|connection| connection.end());
    }
}

/// Take over an accepted stream.
pub(crate) fn serve<F: Front>(front: &Rc<F>, stream: Stream) {
    if front.connections().count() >= front.front_limits().connection_count_max {
        ioengine::sometimes!("connections of a cache are full");
        front.refused();
        return;
    }
    let limits = ServerLimits {
        frame_bytes: front.front_limits().frame_bytes_max,
        in_flight: front.front_limits().in_flight_max,
        hello_us: front.front_limits().hello_deadline.as_micros() as u64,
        ..ServerLimits::default()
    };
    let session = ServerSession::new(limits, front.identity(), front.io().now().ns / 1000);
    let connection = front.connections().add(|slot, generation| Connection {
        slot,
        generation,
        stream,
        outbox: RefCell::new(Outbox::new(front.front_limits().outbox_bytes_max)),
        session: RefCell::new(session),
        filled: Notify::new(),
        drained: Notify::new(),
        closing: Cell::new(false),
        sending_since: Cell::new(None),
    });
    let (of_reader, of_writer, reader) = (Rc::clone(front), Rc::clone(front), Rc::clone(&connection));
    front.io().spawn(Queue::Foreground, async move {
        read(&of_reader, &reader).await;
        reader.close();
    });
    front.io().spawn(Queue::Foreground, async move {
        write(&of_writer, &connection).await;
        connection.end();
        of_writer.connections().remove(&connection);
    });
}

/// The reader: everything that arrives, until the far end, the protocol or the node ends it.
async fn read<F: Front>(front: &Rc<F>, connection: &Rc<Connection>) {
    let Some(mut buffer) = front.io().buffer(RECEIVE_BYTES) else {
        return front.refused();
    };
    let mut filled = 0;
    while !connection.closing.get() {
        let end = buffer.len();
        let (result, back) = connection.stream.receive(buffer, filled..end).await;
        buffer = back;
        match result {
            Ok(0) | Err(_) => return,
            Ok(count) => filled += count,
        }
        let Some((taken, want)) = walk(front, connection, &buffer[..filled]).await else { return };
        connection.filled.notify();
        buffer.copy_within(taken..filled, 0);
        filled -= taken;
        let size = want.max(RECEIVE_BYTES);
        if size > end || (end > RECEIVE_BYTES && filled == 0) {
            let deadline = front.io().now().after(front.front_limits().request_deadline);
            let mut other = loop {
                if let Some(other) = front.io().buffer(size) {
                    break other;
                }
                if front.io().now() >= deadline {
                    return;
                }
                front.io().sleep(ROOM_RETRY).await;
            };
            other[..filled].copy_from_slice(&buffer[..filled]);
            buffer = other;
        }
    }
}

/// Walk through the frames that are there. Bytes taken, and bytes that the next frame needs in all; `None` when the connection ends.
async fn walk<F: Front>(front: &Rc<F>, connection: &Connection, input: &[u8]) -> Option<(usize, usize)> {
    let (mut at, mut looked) = (0, 0);
    loop {
        if at >= looked {
            looked = at + front.look_ahead(&input[at..]);
        }
        let drained = connection.drained.notified();
        let now_us = front.io().now().ns / 1000;
        let step = connection.session.borrow_mut().next(now_us, front.epoch(), &input[at..]);
        match step {
            Step::Need { bytes } => return Some((at, bytes)),
            Step::Full => {
                ioengine::sometimes!("a connection to a cache has all it may have in flight");
                drained.await;
                if connection.closing.get() {
                    return None;
                }
            }
            Step::Request { header, request, consumed } => {
                let to = ReplyTo {
                    core: front.index(),
                    slot: connection.slot,
                    generation: connection.generation,
                    request: header.request,
                    frame_bytes: connection.session.borrow().frame_bytes(),
                    operation: header.operation,
                };
                reserve(&**front, connection).await?;
                front.take(&to, &request, &input[at + HEADER_BYTES..at + consumed]);
                at += consumed;
            }
            Step::Answer { code, request, reply, consumed, close } => {
                answer_of_session(&**front, connection, code, request, &reply);
                at += consumed;
                if close.is_some() {
                    return None;
                }
            }
            // No node has business here.
            Step::Peer { .. } | Step::Close(_) => return None,
        }
    }
}

/// Wait for room for a small answer; `None` when the connection ends first, or none comes in time.
async fn reserve<F: Front>(front: &F, connection: &Connection) -> Option<()> {
    let deadline = front.io().now().after(front.front_limits().request_deadline);
    loop {
        let drained = connection.drained.notified();
        if connection.outbox.borrow_mut().reserve(front.io()) {
            return Some(());
        }
        ioengine::sometimes!("an answer of a cache waits for room");
        connection.filled.notify();
        race(drained, front.io().sleep(ROOM_RETRY)).await;
        if connection.closing.get() || front.io().now() >= deadline {
            return None;
        }
    }
}

fn answer_of_session<F: Front>(
    front: &F,
    connection: &Connection,
    code: u8,
    request: u64,
    reply: &SessionReply,
) {
    let mut outbox = connection.outbox.borrow_mut();
    let bytes_max = HEADER_BYTES + reply_bytes_hello().max(SMALL_REPLY_BYTES);
    if outbox.make_room(front.io(), bytes_max) {
        let out = outbox.room();
        let body = &mut out[HEADER_BYTES..];
        let bytes = HEADER_BYTES
            + match reply {
                SessionReply::Hello(hello) => encode_hello(body, hello),
                SessionReply::Not(outcome) => encode_outcome(body, LogTime(0), outcome),
            };
        net::frame::seal(&mut out[..bytes], code, request, front.epoch());
        outbox.advance(bytes);
    }
    drop(outbox);
    connection.filled.notify();
}

/// The writer: whatever waits in the outbox, one send at a time.
async fn write<F: Front>(front: &Rc<F>, connection: &Rc<Connection>) {
    let mut close_by = None;
    loop {
        let filled = connection.filled.notified();
        let taken = connection.outbox.borrow_mut().take(front.io());
        if let Some((buffer, bytes)) = taken {
            connection.sending_since.set(Some(front.io().now()));
            let (result, buffer) = connection.stream.send(buffer, 0..bytes).await;
            connection.sending_since.set(None);
            connection.outbox.borrow_mut().give_back(buffer);
            connection.drained.notify();
            if result.is_err() {
                return;
            }
            continue;
        }
        let (waits, in_flight) = {
            let mut outbox = connection.outbox.borrow_mut();
            outbox.rest();
            (outbox.len() > 0, outbox.in_flight > 0)
        };
        if connection.closing.get() {
            let close_by =
                *close_by.get_or_insert(front.io().now().after(front.front_limits().request_deadline));
            if (!waits && !in_flight) || front.io().now() >= close_by {
                return;
            }
            race(filled, front.io().sleep(Duration::from_millis(10))).await;
        } else if waits {
            // No second buffer to go on with: others give theirs back soon.
            front.io().sleep(Duration::from_millis(1)).await;
        } else {
            filled.await;
        }
    }
}
