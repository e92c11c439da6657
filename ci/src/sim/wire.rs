//! A client's connection in the simulated world: one stream, many requests in flight, answers in any order, made anew
//! when it is lost. Knows the protocol (by `net`'s client session), nothing of records, retries or histories.
//!
//! Answers become owned values here. A server that breaks the protocol is noted as trouble: streams in the simulated
//! world lose no bytes, so it can only be the server's bug.

use super::history::History;
use ioengine::sync::{Either, Notify, race};
use ioengine::{Io, Queue, Stream};
use layout::units::{LogIndex, LogTime, Space, Uuid, Version};
use net::outcome::Outcome;
use net::redirect::{FEATURE_REDIRECT, Redirect};
use net::reply::{Answer, Reply};
use net::request::{AuthMethod, Hello, Request};
use net::session::{ClientSession, ClientStep, SessionBroken};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

/// A record, as it came.
#[derive(Clone, Debug)]
pub(crate) struct Came {
    pub(crate) version: Version,
    pub(crate) expiry: u64,
    pub(crate) value: Vec<u8>,
}

/// What an answer says, owned.
#[derive(Clone, Debug)]
pub(crate) enum Heard {
    Not(Outcome),
    Record(Came),
    Redirect(Redirect),
    Many(Vec<(u16, LogTime, Result<Came, Outcome>)>),
    Written { first: Version, repeated: bool },
    Records { log_index: LogIndex, resume: Option<u64>, records: Vec<(u64, Came)> },
    Streams { more: bool, streams: Vec<(Space, Vec<u8>)> },
    Status(String),
    Other,
}

/// An answer.
#[derive(Clone, Debug)]
pub(crate) struct Answered {
    pub(crate) log_time: LogTime,
    pub(crate) heard: Heard,
}

/// Why there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lost {
    /// The request never left.
    NotSent,
    /// It may have arrived.
    Silence,
}

/// How a client behaves on the wire.
#[derive(Clone, Debug)]
pub(crate) struct WireLimits {
    pub(crate) in_flight: u32,
    pub(crate) frame_bytes: u32,
    /// How long to wait for a connection and its hello.
    pub(crate) connect: Duration,
    /// Pause between two looks at what came.
    pub(crate) read_pause: Duration,
}

struct Connection {
    stream: Stream,
    session: RefCell<ClientSession>,
    out: RefCell<Vec<u8>>,
    to_send: Notify,
    /// By tag: answers that nobody has taken yet.
    answers: RefCell<BTreeMap<u64, Answered>>,
    /// An answer came, room came, or it broke.
    moved: Notify,
    open: Cell<bool>,
    broken: Cell<bool>,
}

impl Connection {
    fn end(&self) {
        self.broken.set(true);
        self.stream.shutdown();
        self.to_send.notify();
        self.moved.notify();
    }
}

/// A client's way to the node.
pub(crate) struct Wire {
    io: Io,
    address: SocketAddr,
    limits: WireLimits,
    client: u64,
    history: Rc<RefCell<History>>,
    connection: RefCell<Option<Rc<Connection>>>,
    connecting: Cell<bool>,
    connected: Notify,
    next_tag: Cell<u64>,
    /// Frame bytes of the newest connection.
    agreed: Cell<usize>,
}

impl Wire {
    pub(crate) fn new(
        io: Io,
        address: SocketAddr,
        limits: WireLimits,
        client: u64,
        history: Rc<RefCell<History>>,
    ) -> Wire {
        Wire {
            io,
            address,
            agreed: Cell::new(limits.frame_bytes as usize),
            limits,
            client,
            history,
            connection: RefCell::new(None),
            connecting: Cell::new(false),
            connected: Notify::new(),
            next_tag: Cell::new(0),
        }
    }

    /// Longest body that may be sent or come: what was agreed on last.
    pub(crate) fn frame_bytes(&self) -> usize {
        self.agreed.get()
    }

    /// Drop the connection; the next request makes another.
    pub(crate) fn hang_up(&self) {
        if let Some(connection) = self.connection.borrow_mut().take() {
            connection.end();
        }
    }

    /// Ask once and wait so long for the answer. A connection is made first if there is none.
    pub(crate) async fn ask(&self, request: &Request<'_>, wait: Duration) -> Result<Answered, Lost> {
        let until = self.io.now().after(wait);
        let connection = match self.get(until).await {
            Some(connection) => connection,
            None => return Err(Lost::NotSent),
        };
        if request.encoded_bytes() > connection.session.borrow().frame_bytes() as usize {
            return Err(Lost::NotSent);
        }
        let tag = self.next_tag.get();
        self.next_tag.set(tag + 1);
        let number = loop {
            let moved = connection.moved.notified();
            let sent = connection.session.borrow_mut().send(
                request,
                0,
                u64::MAX,
                tag,
                &mut connection.out.borrow_mut(),
            );
            if let Some(number) = sent {
                break number;
            }
            if connection.broken.get() {
                return Err(Lost::NotSent);
            }
            if let Either::Second(()) = race(moved, self.io.sleep_until(until)).await {
                return Err(Lost::NotSent);
            }
        };
        connection.to_send.notify();
        loop {
            let moved = connection.moved.notified();
            if let Some(answered) = connection.answers.borrow_mut().remove(&tag) {
                return Ok(answered);
            }
            if connection.broken.get() {
                return Err(Lost::Silence);
            }
            if let Either::Second(()) = race(moved, self.io.sleep_until(until)).await {
                connection.session.borrow_mut().give_up(number);
                // It may have come in this very turn.
                return connection.answers.borrow_mut().remove(&tag).ok_or(Lost::Silence);
            }
        }
    }

    /// The connection, made if need be.
    async fn get(&self, until: ioengine::Instant) -> Option<Rc<Connection>> {
        loop {
            let known = self.connection.borrow().clone();
            if let Some(connection) = known.filter(|one| !one.broken.get()) {
                return Some(connection);
            }
            if self.connecting.get() {
                let connected = self.connected.notified();
                if let Either::Second(()) = race(connected, self.io.sleep_until(until)).await {
                    return None;
                }
                continue;
            }
            self.connecting.set(true);
            let made = self.io.timeout(self.limits.connect, self.connect()).await;
            self.connecting.set(false);
            let made = made.ok().flatten();
            *self.connection.borrow_mut() = made.clone();
            self.connected.notify();
            if made.is_some() {
                return made;
            }
            if self.io.now() >= until {
                return None;
            }
            // Refused or silent: not again at once.
            self.io.sleep(Duration::from_millis(1 + self.io.random() % 40)).await;
        }
    }

    async fn connect(&self) -> Option<Rc<Connection>> {
        let stream = self.io.connect(self.address).await.ok()?;
        let mut session = ClientSession::new(self.limits.in_flight);
        let hello = Hello {
            protocol_min: 1,
            protocol_max: 1,
            method: AuthMethod::None,
            auth: &[],
            features: FEATURE_REDIRECT,
            frame_bytes: self.limits.frame_bytes,
            in_flight: self.limits.in_flight,
            client: self.client,
            cluster: Uuid::default(),
        };
        let mut out = Vec::new();
        session.send_hello(&hello, &mut out);
        let connection = Rc::new(Connection {
            stream,
            session: RefCell::new(session),
            out: RefCell::new(out),
            to_send: Notify::new(),
            answers: RefCell::default(),
            moved: Notify::new(),
            open: Cell::new(false),
            broken: Cell::new(false),
        });
        // A connection that is not taken in the end is ended here, whoever gave up waiting for it.
        let mut guard = Guard(Some(Rc::clone(&connection)));
        let history = Rc::clone(&self.history);
        let pause = self.limits.read_pause;
        self.io.spawn(Queue::Foreground, receive(self.io.clone(), Rc::clone(&connection), history, pause));
        self.io.spawn(Queue::Foreground, send(self.io.clone(), Rc::clone(&connection)));
        while !connection.open.get() {
            let moved = connection.moved.notified();
            if connection.broken.get() {
                return None;
            }
            moved.await;
        }
        self.agreed.set(connection.session.borrow().frame_bytes() as usize);
        guard.0.take()
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.hang_up();
    }
}

struct Guard(Option<Rc<Connection>>);

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(connection) = &self.0 {
            connection.end();
        }
    }
}

async fn send(io: Io, connection: Rc<Connection>) {
    const CHUNK_BYTES: usize = 64 << 10;
    while !connection.broken.get() {
        let more = connection.to_send.notified();
        let waiting = connection.out.borrow().len().min(CHUNK_BYTES);
        if waiting == 0 {
            more.await;
            continue;
        }
        let Some(mut buffer) = io.buffer(waiting) else {
            io.sleep(Duration::from_millis(1)).await;
            continue;
        };
        buffer[..waiting].copy_from_slice(&connection.out.borrow()[..waiting]);
        connection.out.borrow_mut().drain(..waiting);
        if connection.stream.send(buffer, 0..waiting).await.0.is_err() {
            return connection.end();
        }
    }
}

async fn receive(io: Io, connection: Rc<Connection>, history: Rc<RefCell<History>>, pause: Duration) {
    const PIECE_BYTES: usize = 16 << 10;
    let mut input = Vec::new();
    let Some(mut buffer) = io.buffer(PIECE_BYTES) else { return connection.end() };
    loop {
        let (result, back) = connection.stream.receive(buffer, 0..PIECE_BYTES).await;
        buffer = back;
        let count = match result {
            Ok(0) | Err(_) => return connection.end(),
            Ok(count) => count,
        };
        if connection.broken.get() {
            return;
        }
        input.extend_from_slice(&buffer[..count]);
        match walk(&connection, &input) {
            Ok(taken) => drop(input.drain(..taken)),
            Err(broken) => {
                if !matches!(broken, SessionBroken::Refused(Outcome::Busy { .. })) {
                    let text = format!("the server broke the protocol: {broken}");
                    history.borrow_mut().trouble("protocol", None, text);
                }
                return connection.end();
            }
        }
        connection.moved.notify();
        if !pause.is_zero() {
            io.sleep(pause).await;
        }
    }
}

/// Take every whole frame; how many bytes that was.
fn walk(connection: &Connection, input: &[u8]) -> Result<usize, SessionBroken> {
    let mut at = 0;
    let mut session = connection.session.borrow_mut();
    loop {
        match session.next(&input[at..])? {
            ClientStep::Need { .. } => return Ok(at),
            ClientStep::Hello { consumed, .. } => {
                connection.open.set(true);
                at += consumed;
            }
            ClientStep::Reply { tag, reply, consumed, .. } => {
                let answered = Answered { log_time: reply.log_time, heard: own(&reply) };
                connection.answers.borrow_mut().insert(tag, answered);
                at += consumed;
            }
            ClientStep::Late { consumed } => at += consumed,
        }
    }
}

fn own(reply: &Reply<'_>) -> Heard {
    match reply.answer {
        Answer::Not(outcome) => Heard::Not(outcome),
        Answer::Record { version, expiry, value } => {
            Heard::Record(Came { version, expiry, value: value.to_vec() })
        }
        Answer::Redirect(redirect) => Heard::Redirect(redirect),
        Answer::MultiGet(many) => Heard::Many(
            many.items()
                .map(|item| {
                    let came = match own(&item.reply) {
                        Heard::Record(came) => Ok(came),
                        Heard::Not(outcome) => Err(outcome),
                        other => panic!("an item of a multi-get is the answer to a get: {other:?}"),
                    };
                    (item.index, item.reply.log_time, came)
                })
                .collect(),
        ),
        Answer::Written(written) | Answer::BatchWritten { first: written, .. } => {
            Heard::Written { first: written.version, repeated: written.repeated }
        }
        Answer::Records(records) => {
            let list = records.iter().map(|record| {
                let came =
                    Came { version: record.version, expiry: record.expiry, value: record.value.to_vec() };
                (record.time, came)
            });
            let list = list.collect();
            Heard::Records { log_index: records.log_index, resume: records.resume, records: list }
        }
        Answer::Streams(list) => Heard::Streams {
            more: list.more,
            streams: list.iter().map(|(space, name)| (space, name.to_vec())).collect(),
        },
        Answer::Status(text) => Heard::Status(text.to_owned()),
        Answer::Hello(_) | Answer::Echo(_) | Answer::Map(_) | Answer::Cold(_) => Heard::Other,
    }
}
