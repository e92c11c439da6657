//! The client's side of a connection: hello, then requests in flight by number, answered in any order.

use thiserror::Error;

use crate::frame::{
    BODY_BYTES_BEFORE_HELLO, FrameError, HEADER_BYTES, PROTOCOL_VERSION, bytes_wanted, next_frame, seal,
};
use crate::operation::{Operation, REPLY_BIT};
use crate::outcome::Outcome;
use crate::reply::{Answer, HelloReply, Reply, ReplyError};
use crate::request::{FRAME_BYTES_MIN, Hello, Request};

/// Bits of a request number that name its slot.
const SLOT_BITS: u32 = 16;

/// Why a connection cannot be used any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SessionBroken {
    /// Bytes that are no frame.
    #[error("{0}")]
    Frame(#[from] FrameError),
    /// A body that is no reply.
    #[error("{0}")]
    Reply(#[from] ReplyError),
    /// A request came from the server, or an answer to a request that was never sent.
    #[error("an answer to request {request}, which was never sent")]
    NeverSent {
        /// The number in the frame.
        request: u64,
    },
    /// The answer is of another operation than the request.
    #[error("request {request} was {sent:?} and the answer is of {answered:?}")]
    OtherOperation {
        /// The number in the frame.
        request: u64,
        /// What was asked.
        sent: Operation,
        /// What was answered.
        answered: Operation,
    },
    /// The server agreed to what was not offered.
    #[error("the server's hello does not fit ours: {field}")]
    HelloMismatch {
        /// The field of its hello.
        field: &'static str,
    },
    /// The server refused the connection.
    #[error("the server refused the connection: {0}")]
    Refused(Outcome),
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientStep<'a> {
    /// Read until this many bytes are there in all.
    Need {
        /// Bytes from the start of the input, at least one more than there are.
        bytes: usize,
    },
    /// The server accepted hello; requests can be sent.
    Hello {
        /// What it agreed to.
        reply: HelloReply,
        /// Bytes of the input it took.
        consumed: usize,
    },
    /// A request was answered; it is no longer in flight.
    Reply {
        /// The caller's mark from [`ClientSession::begin`].
        tag: u64,
        /// The operation.
        operation: Operation,
        /// Epoch of the server's cluster map.
        map_epoch: u32,
        /// The answer.
        reply: Reply<'a>,
        /// Bytes of the input it took.
        consumed: usize,
    },
    /// The answer to a request that was given up: drop it.
    Late {
        /// Bytes of the input it took.
        consumed: usize,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Fresh,
    HelloSent { frame_bytes: u32, in_flight: u32, features: u64, cluster: [u8; 16] },
    Open,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    /// The number last given out with this slot; 0 = never.
    request: u64,
    /// None: free.
    operation: Option<Operation>,
    deadline_us: u64,
    tag: u64,
}

/// The client's side of one connection. Its table of requests in flight has a fixed size.
#[derive(Debug, Clone)]
pub struct ClientSession {
    state: State,
    frame_bytes: u32,
    in_flight_max: usize,
    slots: Box<[Slot]>,
    /// Slots that are free, last freed on top.
    free: Vec<u16>,
    next_number: u64,
}

impl ClientSession {
    /// A connection that wants up to `in_flight` requests at once.
    ///
    /// # Panics
    /// When `in_flight` is 0 or over 65,536.
    pub fn new(in_flight: u32) -> ClientSession {
        assert!((1..=1 << SLOT_BITS).contains(&in_flight), "1 to 65536 requests in flight");
        let slot = Slot { request: 0, operation: None, deadline_us: 0, tag: 0 };
        ClientSession {
            state: State::Fresh,
            frame_bytes: BODY_BYTES_BEFORE_HELLO,
            in_flight_max: 1,
            slots: vec![slot; in_flight as usize].into_boxed_slice(),
            free: (0..in_flight).rev().map(|slot| slot as u16).collect(),
            next_number: 1,
        }
    }

    /// Appends the hello frame. `hello.in_flight` must be what `new` got.
    ///
    /// # Panics
    /// When called twice: a connection has one hello.
    pub fn send_hello(&mut self, hello: &Hello<'_>, out: &mut Vec<u8>) {
        assert!(self.state == State::Fresh, "a connection has one hello");
        assert!(hello.in_flight as usize == self.slots.len(), "hello asks for what the table holds");
        append_frame(&Request::Hello(*hello), 0, 0, out);
        self.state = State::HelloSent {
            frame_bytes: hello.frame_bytes,
            in_flight: hello.in_flight,
            features: hello.features,
            cluster: hello.cluster.0,
        };
    }

    /// Takes a slot for a request; None when the table or what the server agreed to is full, or before hello is answered.
    /// `tag` comes back with the answer.
    #[must_use]
    pub fn begin(&mut self, operation: Operation, deadline_us: u64, tag: u64) -> Option<u64> {
        if self.state != State::Open || self.in_flight() >= self.in_flight_max {
            return None;
        }
        let slot = self.free.pop()?;
        let request = self.next_number << SLOT_BITS | u64::from(slot);
        self.next_number += 1;
        self.slots[slot as usize] = Slot { request, operation: Some(operation), deadline_us, tag };
        Some(request)
    }

    /// [`ClientSession::begin`] and the frame in one: appends the request to `out`. None as there, and nothing appended.
    ///
    /// # Panics
    /// When the body is longer than agreed: ask [`ClientSession::frame_bytes`] first.
    #[must_use]
    pub fn send(
        &mut self,
        request: &Request<'_>,
        map_epoch: u32,
        deadline_us: u64,
        tag: u64,
        out: &mut Vec<u8>,
    ) -> Option<u64> {
        assert!(
            request.encoded_bytes() <= self.frame_bytes as usize,
            "the caller has checked the body's length"
        );
        let number = self.begin(request.operation(), deadline_us, tag)?;
        append_frame(request, number, map_epoch, out);
        Some(number)
    }

    /// Gives a request up; its answer will be dropped. Returns its tag when it was in flight.
    pub fn give_up(&mut self, request: u64) -> Option<u64> {
        let index = (request & ((1 << SLOT_BITS) - 1)) as usize;
        let slot =
            self.slots.get_mut(index).filter(|slot| slot.request == request && slot.operation.is_some())?;
        slot.operation = None;
        self.free.push(index as u16);
        Some(slot.tag)
    }

    /// A request whose deadline is at or before `now_us`, with its tag; give it up before asking for the next.
    pub fn overdue(&self, now_us: u64) -> Option<(u64, u64)> {
        self.in_flight_slots().find(|slot| slot.deadline_us <= now_us).map(|slot| (slot.request, slot.tag))
    }

    /// The earliest deadline in flight, µs.
    pub fn deadline_us(&self) -> Option<u64> {
        self.in_flight_slots().map(|slot| slot.deadline_us).min()
    }

    /// Tags of all requests in flight, for a connection that was lost.
    pub fn tags(&self) -> impl Iterator<Item = u64> {
        self.in_flight_slots().map(|slot| slot.tag)
    }

    fn in_flight_slots(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter().filter(|slot| slot.operation.is_some())
    }

    /// Requests in flight.
    pub fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// The longest body that may be sent, bytes.
    pub fn frame_bytes(&self) -> u32 {
        self.frame_bytes
    }

    /// True after hello was answered.
    pub fn is_open(&self) -> bool {
        self.state == State::Open
    }

    /// How many more requests can be in flight.
    pub fn room(&self) -> usize {
        if self.is_open() { self.in_flight_max.saturating_sub(self.in_flight()) } else { 0 }
    }

    /// The next step for the bytes that are there. Call it again after dropping what was consumed, until it says `Need`.
    ///
    /// # Errors
    /// When the connection cannot be used any more; every request in flight is then without an answer.
    pub fn next<'a>(&mut self, input: &'a [u8]) -> Result<ClientStep<'a>, SessionBroken> {
        let Some(frame) = next_frame(input, self.frame_bytes)? else {
            return Ok(ClientStep::Need { bytes: bytes_wanted(input) });
        };
        let (header, consumed) = (frame.header, frame.consumed);
        if !header.is_reply {
            return Err(SessionBroken::NeverSent { request: header.request });
        }
        if let State::HelloSent { .. } = self.state {
            if header.operation != Operation::Hello || header.request != 0 {
                return Err(SessionBroken::NeverSent { request: header.request });
            }
            let reply = self.hello_answered(Reply::decode(Operation::Hello, frame.body)?.answer)?;
            return Ok(ClientStep::Hello { reply, consumed });
        }
        let index = (header.request & ((1 << SLOT_BITS) - 1)) as usize;
        let sent = self.slots.get(index).copied().filter(|_| header.request >> SLOT_BITS < self.next_number);
        let Some(slot) =
            sent.filter(|slot| slot.request >= header.request && header.request >> SLOT_BITS > 0)
        else {
            return Err(SessionBroken::NeverSent { request: header.request });
        };
        // The slot may have been given up and used again since.
        let Some(operation) = slot.operation.filter(|_| slot.request == header.request) else {
            return Ok(ClientStep::Late { consumed });
        };
        if operation != header.operation {
            let (request, answered) = (header.request, header.operation);
            return Err(SessionBroken::OtherOperation { request, sent: operation, answered });
        }
        let reply = Reply::decode(operation, frame.body)?;
        let tag = self.give_up(header.request).expect("the slot was found in flight above");
        Ok(ClientStep::Reply { tag, operation, map_epoch: header.map_epoch, reply, consumed })
    }

    fn hello_answered(&mut self, answer: Answer<'_>) -> Result<HelloReply, SessionBroken> {
        let State::HelloSent { frame_bytes, in_flight, features, cluster } = self.state else {
            unreachable!("called only while hello waits for its answer");
        };
        let reply = match answer {
            Answer::Hello(reply) => reply,
            Answer::Not(outcome) => return Err(SessionBroken::Refused(outcome)),
            _ => return Err(SessionBroken::HelloMismatch { field: "outcome" }),
        };
        let fits = [
            ("protocol", reply.protocol == PROTOCOL_VERSION),
            ("frame_bytes", (FRAME_BYTES_MIN..=frame_bytes).contains(&reply.frame_bytes)),
            ("in_flight", reply.in_flight <= in_flight),
            ("features", reply.features & !features == 0),
            ("cluster", cluster == [0; 16] || reply.cluster.0 == cluster),
        ];
        if let Some((field, _)) = fits.into_iter().find(|(_, fits)| !fits) {
            return Err(SessionBroken::HelloMismatch { field });
        }
        self.state = State::Open;
        self.frame_bytes = reply.frame_bytes;
        self.in_flight_max = reply.in_flight as usize;
        Ok(reply)
    }
}

/// Appends the frame of a request.
pub fn append_frame(request: &Request<'_>, number: u64, map_epoch: u32, out: &mut Vec<u8>) {
    let start = out.len();
    out.reserve(HEADER_BYTES + request.encoded_bytes());
    out.resize(start + HEADER_BYTES, 0);
    request.encode(out);
    let code = request.operation().code();
    assert!(code & REPLY_BIT == 0, "requests have no reply bit");
    seal(&mut out[start..], code, number, map_epoch);
}
