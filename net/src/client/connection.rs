//! One connection of the client: a task that sends, a task that receives, one that watches for silence, and
//! the calls in flight between them.
//!
//! Owns the stream, the session and the bytes on their way. Must never decide about retries: a call ends with the server's
//! answer or with how the connection was lost. Invariant: each call that was put into the outbox is ended exactly once, by
//! its answer, by the loss of the connection, or by its caller going away.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use ioengine::sync::{Either, Notify, race};
use ioengine::{Instant, Io, Queue, Stream};

use super::error::ClientError;
use super::turnstile::Turnstile;
use crate::frame::HEADER_BYTES;
use crate::redirect::FEATURE_REDIRECT;
use crate::reply::HelloReply;
use crate::request::{Get, Hello, Request};
use crate::session::{ClientSession, ClientStep, SessionBroken};

/// Bytes of the receive buffer and of the send buffer of a connection.
const BUFFER_BYTES: usize = 256 << 10;
/// What a connection takes of a core's arena: what it hears in, and what it says from.
pub const CONNECTION_ARENA_BYTES: usize = 2 * BUFFER_BYTES;
/// Calls wait while this much is still to be sent: a slow server must not grow the client.
const OUTBOX_BYTES_MAX: usize = 8 << 20;

/// An answer as it came: its body was checked by the session.
pub(super) struct Answered {
    pub(super) map_epoch: u32,
    pub(super) body: Vec<u8>,
}

/// How a call ended without an answer.
pub(super) struct CallError {
    /// The request may have reached the server.
    pub(super) sent: bool,
    pub(super) error: CallEnd,
}

pub(super) enum CallEnd {
    /// The connection.
    Lost(ClientError),
    /// The caller's patience or deadline.
    Late,
    /// The request does not fit into a frame as agreed.
    TooLarge,
}

/// One call in flight, by tag.
enum Slot {
    Free,
    Waiting(Option<Waker>),
    Answered(Answered),
}

/// A connection after a good hello.
pub(super) struct Connection {
    io: Io,
    stream: Stream,
    pub(super) address: SocketAddr,
    pub(super) hello: HelloReply,
    session: RefCell<ClientSession>,
    outbox: RefCell<Vec<u8>>,
    slots: RefCell<Vec<Slot>>,
    free: RefCell<Vec<usize>>,
    lost: RefCell<Option<ClientError>>,
    /// How long a server that owes an answer may be silent.
    patience: Duration,
    /// Since when something is owed and nothing came. A request that was given up is owed, too. (Failing history: who had one request
    /// at a time gave it up just before the server would have been asked for an echo, and never learned that it was dead.)
    silent_since: Cell<Option<Instant>>,
    /// The outbox has bytes, or the connection is lost.
    to_send: Notify,
    /// Calls that wait for room in the outbox and in the table.
    room: Turnstile,
}

impl Connection {
    /// Connects, says hello and starts its tasks, all within `patience`.
    pub(super) async fn open(
        io: &Io,
        address: SocketAddr,
        hello: Hello<'_>,
        patience: Duration,
    ) -> Result<Rc<Connection>, ClientError> {
        let unreachable = |cause: String| ClientError::Unreachable { address, cause: cause.into() };
        match io.timeout(patience, Connection::greet(io, address, hello, patience)).await {
            Ok(Ok((connection, rest))) => {
                io.spawn(Queue::Foreground, Rc::clone(&connection).send());
                io.spawn(Queue::Foreground, Rc::clone(&connection).receive(rest));
                io.spawn(Queue::Foreground, Rc::clone(&connection).watch());
                Ok(connection)
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(unreachable(format!("no hello within {patience:?}"))),
        }
    }

    async fn greet(
        io: &Io,
        address: SocketAddr,
        hello: Hello<'_>,
        patience: Duration,
    ) -> Result<(Rc<Connection>, Vec<u8>), ClientError> {
        let unreachable = |cause: String| ClientError::Unreachable { address, cause: cause.into() };
        let stream = io.connect(address).await.map_err(|error| unreachable(error.errno.to_string()))?;
        let mut session = ClientSession::new(hello.in_flight);
        let mut frame = Vec::new();
        session.send_hello(&hello, &mut frame);
        let mut buffer = io.buffer(frame.len()).ok_or(ClientError::NoBuffer { bytes: frame.len() })?;
        buffer[..frame.len()].copy_from_slice(&frame);
        let (sent, mut buffer) = stream.send(buffer, 0..frame.len()).await;
        sent.map_err(|error| unreachable(error.errno.to_string()))?;
        let mut inbox = Vec::new();
        loop {
            let bytes = buffer.len();
            let (received, back) = stream.receive(buffer, 0..bytes).await;
            buffer = back;
            let count = received.map_err(|error| unreachable(error.errno.to_string()))?;
            if count == 0 {
                return Err(unreachable("it closed the connection before its hello".to_owned()));
            }
            inbox.extend_from_slice(&buffer[..count]);
            match session.next(&inbox) {
                Ok(ClientStep::Need { .. }) => {}
                Ok(ClientStep::Hello { reply, consumed }) => {
                    inbox.drain(..consumed);
                    return Ok((Connection::new(io, stream, address, reply, session, patience), inbox));
                }
                Ok(_) => unreachable!("nothing else was asked"),
                Err(SessionBroken::Refused(outcome)) => {
                    return Err(ClientError::Refused { address, outcome });
                }
                Err(cause) => return Err(ClientError::NotThermocline { address, cause }),
            }
        }
    }

    fn new(
        io: &Io,
        stream: Stream,
        address: SocketAddr,
        hello: HelloReply,
        session: ClientSession,
        patience: Duration,
    ) -> Rc<Connection> {
        Rc::new(Connection {
            io: io.clone(),
            stream,
            address,
            hello,
            session: RefCell::new(session),
            outbox: RefCell::default(),
            slots: RefCell::default(),
            free: RefCell::default(),
            lost: RefCell::new(None),
            patience,
            silent_since: Cell::new(None),
            to_send: Notify::new(),
            room: Turnstile::default(),
        })
    }

    /// How the connection was lost, if it was.
    pub(super) fn lost(&self) -> Option<ClientError> {
        self.lost.borrow().clone()
    }

    /// Something was owed for all of the patience, and nothing came: the server may be dead.
    pub(super) fn is_silent(&self) -> bool {
        self.silent_since.get().is_some_and(|since| self.io.now() >= since.after(self.patience))
    }

    /// How long nothing has come though something is owed.
    pub(super) fn silent_for(&self) -> Option<Duration> {
        self.silent_since.get().map(|since| self.io.now().since(since))
    }

    /// The longest body that may be sent, bytes.
    pub(super) fn frame_bytes(&self) -> usize {
        self.session.borrow().frame_bytes() as usize
    }

    /// Ends the connection; every call in flight learns it.
    pub(super) fn close(&self, cause: &str) {
        if self.lost.borrow().is_some() {
            return;
        }
        *self.lost.borrow_mut() = Some(ClientError::Lost { address: self.address, cause: cause.into() });
        self.stream.shutdown();
        self.to_send.notify();
        self.room.call(usize::MAX);
        for slot in self.slots.borrow_mut().iter_mut() {
            if let Slot::Waiting(waker) = slot
                && let Some(waker) = waker.take()
            {
                waker.wake();
            }
        }
    }

    /// Sends a request and waits for its answer until `until`.
    pub(super) async fn call(
        self: &Rc<Self>,
        request: &Request<'_>,
        map_epoch: u32,
        until: Instant,
    ) -> Result<Answered, CallError> {
        let request = &self.spoken(request);
        let waiting =
            self.put(request, map_epoch, until).await.map_err(|error| CallError { sent: false, error })?;
        match race(waiting, self.io.sleep_until(until)).await {
            Either::First(Ok(answered)) => Ok(answered),
            Either::First(Err(lost)) => Err(CallError { sent: true, error: CallEnd::Lost(lost) }),
            Either::Second(()) => Err(CallError { sent: true, error: CallEnd::Late }),
        }
    }

    /// The request without what the server does not know.
    fn spoken<'a>(&self, request: &Request<'a>) -> Request<'a> {
        match request {
            Request::Get(get) => {
                let redirect = get.redirect && self.hello.features & FEATURE_REDIRECT != 0;
                Request::Get(Get { redirect, ..*get })
            }
            other => *other,
        }
    }

    /// Puts a request into the outbox once there is room.
    async fn put(
        self: &Rc<Self>,
        request: &Request<'_>,
        map_epoch: u32,
        until: Instant,
    ) -> Result<Waiting, CallEnd> {
        // Behind those who wait already.
        let mut may_try = self.room.is_empty();
        loop {
            if let Some(lost) = self.lost() {
                return Err(CallEnd::Lost(lost));
            }
            if may_try && let Some(waiting) = self.try_put(request, map_epoch, until)? {
                return Ok(waiting);
            }
            if let Either::Second(()) = race(self.room.wait(), self.io.sleep_until(until)).await {
                return Err(CallEnd::Late);
            }
            may_try = true;
        }
    }

    /// Calls as many of those who wait as there is room for.
    fn call_waiting(&self) {
        if !self.room.is_empty() {
            let free = self.session.borrow().room();
            self.room.call(free);
        }
    }

    fn try_put(
        self: &Rc<Self>,
        request: &Request<'_>,
        map_epoch: u32,
        until: Instant,
    ) -> Result<Option<Waiting>, CallEnd> {
        let mut session = self.session.borrow_mut();
        if request.encoded_bytes() > session.frame_bytes() as usize {
            return Err(CallEnd::TooLarge);
        }
        let mut outbox = self.outbox.borrow_mut();
        if outbox.len() >= OUTBOX_BYTES_MAX || session.room() == 0 {
            return Ok(None);
        }
        let mut slots = self.slots.borrow_mut();
        let tag = self.free.borrow_mut().pop().unwrap_or_else(|| {
            slots.push(Slot::Free);
            slots.len() - 1
        });
        slots[tag] = Slot::Waiting(None);
        let until_us = until.ns / 1000;
        let number = session
            .send(request, map_epoch, until_us, tag as u64, &mut outbox)
            .expect("the session said that it has room");
        if self.silent_since.get().is_none() {
            self.silent_since.set(Some(self.io.now()));
        }
        self.to_send.notify();
        Ok(Some(Waiting { connection: Rc::clone(self), tag, number }))
    }

    /// A dead server and a slow one look the same to a call: no answer. So a server that owes answers and was not heard
    /// for a while is asked for an echo, which no disk delays; without it within as long again the connection is given up,
    /// and the calls go elsewhere.
    async fn watch(self: Rc<Self>) {
        loop {
            if self.lost.borrow().is_some() {
                return;
            }
            let more = self.to_send.notified();
            let Some(since) = self.silent_since.get() else {
                more.await;
                continue;
            };
            if !self.is_silent() {
                self.io.sleep_until(since.after(self.patience)).await;
                continue;
            }
            let until = self.io.now().after(self.patience);
            if let Err(CallError { error: CallEnd::Late, .. }) =
                self.call(&Request::Ping(b""), 0, until).await
            {
                return self.close("the server was not heard");
            }
        }
    }

    async fn send(self: Rc<Self>) {
        let Some(mut buffer) = self.io.buffer(BUFFER_BYTES) else {
            return self.close("the core has no buffer to send from");
        };
        let mut sending = Vec::new();
        loop {
            if self.lost.borrow().is_some() {
                return;
            }
            let more = self.to_send.notified();
            std::mem::swap(&mut sending, &mut *self.outbox.borrow_mut());
            if sending.is_empty() {
                more.await;
                continue;
            }
            for piece in sending.chunks(BUFFER_BYTES) {
                buffer[..piece.len()].copy_from_slice(piece);
                let (sent, back) = self.stream.send(buffer, 0..piece.len()).await;
                buffer = back;
                if let Err(error) = sent {
                    return self.close(&error.errno.to_string());
                }
            }
            sending.clear();
            self.call_waiting();
        }
    }

    async fn receive(self: Rc<Self>, mut inbox: Vec<u8>) {
        let Some(mut buffer) = self.io.buffer(BUFFER_BYTES) else {
            return self.close("the core has no buffer to receive into");
        };
        loop {
            // What is left of the last receive is the front of a frame; most often nothing is.
            let (received, back) = self.stream.receive(buffer, 0..BUFFER_BYTES).await;
            buffer = back;
            let count = match received {
                Ok(0) => return self.close("the server closed it"),
                Ok(count) => count,
                Err(error) => return self.close(&error.errno.to_string()),
            };
            let taken = if inbox.is_empty() {
                let taken = self.take(&buffer[..count]);
                if let Ok(bytes) = taken {
                    inbox.extend_from_slice(&buffer[bytes..count]);
                }
                taken
            } else {
                inbox.extend_from_slice(&buffer[..count]);
                let taken = self.take(&inbox);
                if let Ok(bytes) = taken {
                    inbox.drain(..bytes);
                }
                taken
            };
            let is_owed = self.session.borrow().in_flight() > 0;
            self.silent_since.set(is_owed.then(|| self.io.now()));
            if let Err(broken) = taken {
                return self.close(&broken.to_string());
            }
        }
    }

    /// Ends the calls whose answers are whole in `input`. Returns the bytes taken.
    fn take(&self, input: &[u8]) -> Result<usize, SessionBroken> {
        let mut at = 0;
        let mut session = self.session.borrow_mut();
        loop {
            match session.next(&input[at..])? {
                ClientStep::Need { .. } => break,
                ClientStep::Reply { tag, map_epoch, consumed, .. } => {
                    let body = input[at + HEADER_BYTES..at + consumed].to_vec();
                    let mut slots = self.slots.borrow_mut();
                    let slot = std::mem::replace(
                        &mut slots[tag as usize],
                        Slot::Answered(Answered { map_epoch, body }),
                    );
                    let Slot::Waiting(waker) = slot else {
                        unreachable!("the session answers only who waits")
                    };
                    if let Some(waker) = waker {
                        waker.wake();
                    }
                    at += consumed;
                }
                ClientStep::Late { consumed } | ClientStep::Hello { consumed, .. } => at += consumed,
            }
        }
        drop(session);
        if at > 0 {
            self.call_waiting();
        }
        Ok(at)
    }
}

/// A call that waits for its answer. Dropping it gives the call up.
struct Waiting {
    connection: Rc<Connection>,
    tag: usize,
    number: u64,
}

impl Future for Waiting {
    type Output = Result<Answered, ClientError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut slots = self.connection.slots.borrow_mut();
        let slot = &mut slots[self.tag];
        match slot {
            Slot::Answered(_) => {
                let Slot::Answered(answered) = std::mem::replace(slot, Slot::Free) else {
                    unreachable!("matched above");
                };
                Poll::Ready(Ok(answered))
            }
            Slot::Waiting(waker) => {
                if let Some(lost) = self.connection.lost() {
                    return Poll::Ready(Err(lost));
                }
                *waker = Some(context.waker().clone());
                Poll::Pending
            }
            Slot::Free => unreachable!("a call is not polled after it has ended"),
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // Answered or not, the tag is free again; a late answer finds its number given up.
        self.connection.slots.borrow_mut()[self.tag] = Slot::Free;
        self.connection.free.borrow_mut().push(self.tag);
        if self.connection.session.borrow_mut().give_up(self.number).is_some() {
            self.connection.call_waiting();
        }
    }
}
