//! The server's side of a connection.

use layout::units::Uuid;

use crate::frame::{
    BODY_BYTES_BEFORE_HELLO, BODY_BYTES_MAX, FrameError, FrameHeader, PROTOCOL_VERSION, bytes_wanted,
    next_frame,
};
use crate::operation::{Operation, REPLY_BIT};
use crate::outcome::{Limit, Outcome, Why};
use crate::peer::PeerHello;
use crate::reply::HelloReply;
use crate::request::{AuthMethod, FRAME_BYTES_MIN, Hello, Request};

/// What a server allows one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerLimits {
    /// The longest body after hello, bytes: 4 KiB to 4 MiB.
    pub frame_bytes: u32,
    /// Requests in flight after hello; before it there is one.
    pub in_flight: u32,
    /// From the connection's start to its whole hello, µs.
    pub hello_us: u64,
    /// From the first byte of a frame to its last, µs.
    pub frame_us: u64,
    /// Without a frame while nothing is in flight, µs; 0 = for ever.
    pub idle_us: u64,
}

impl Default for ServerLimits {
    fn default() -> ServerLimits {
        ServerLimits {
            frame_bytes: BODY_BYTES_MAX,
            in_flight: 1024,
            hello_us: 5_000_000,
            frame_us: 30_000_000,
            idle_us: 300_000_000,
        }
    }
}

/// Who a server is, for its hello.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerIdentity {
    /// The cluster it belongs to.
    pub cluster: Uuid,
    /// Its number in the cluster map.
    pub node: u32,
    /// Which start of the node this is.
    pub incarnation: u32,
    /// Features it can use, one bit each.
    pub features: u64,
}

/// Why a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    /// Bytes that are no frame.
    #[error("{0}")]
    Frame(FrameError),
    /// The first request was no good hello.
    #[error("no hello: {0}")]
    Hello(Outcome),
    /// A frame that a client may not send.
    #[error("{0}")]
    Misuse(Why),
    /// No hello in time.
    #[error("no hello in time")]
    HelloDeadline,
    /// A frame was begun and not ended in time.
    #[error("a frame was begun and not ended in time")]
    FrameDeadline,
    /// Nothing was asked for long.
    #[error("nothing was asked for long")]
    Idle,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step<'a> {
    /// Read until this many bytes are there in all.
    Need {
        /// Bytes from the start of the input, at least one more than there are.
        bytes: usize,
    },
    /// As many requests are in flight as agreed: read nothing until one is answered.
    Full,
    /// Carry out the request, then call [`ServerSession::answered`].
    Request {
        /// Its frame's header.
        header: FrameHeader,
        /// What is asked.
        request: Request<'a>,
        /// Bytes of the input it took.
        consumed: usize,
    },
    /// Send this answer; it does not count as in flight.
    Answer {
        /// The operation code of the answer's frame, reply bit included.
        code: u8,
        /// Its request number.
        request: u64,
        /// What it says.
        reply: SessionReply,
        /// Bytes of the input to drop.
        consumed: usize,
        /// Close when it is sent.
        close: Option<CloseReason>,
    },
    /// Another node calls: answer its hello; the connection is a [`crate::peer::PeerSession`]'s from here on.
    Peer {
        /// What it says.
        hello: PeerHello,
        /// Bytes of the input it took.
        consumed: usize,
    },
    /// Close without an answer.
    Close(CloseReason),
}

/// An answer that the session itself gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionReply {
    /// Hello was accepted: encode with [`crate::reply::encode_hello`].
    Hello(HelloReply),
    /// The request was refused: encode with [`crate::reply::encode_outcome`].
    Not(Outcome),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    BeforeHello,
    Open,
    /// Another node called, and the connection is no longer a client's.
    Handed,
    Closing(CloseReason),
}

/// The server's side of one connection.
#[derive(Debug, Clone)]
pub struct ServerSession {
    state: State,
    limits: ServerLimits,
    identity: ServerIdentity,
    /// As agreed in hello.
    frame_bytes: u32,
    in_flight_max: u32,
    client: u64,
    in_flight: u32,
    /// When the connection began or the last whole frame came, µs.
    last_frame_us: u64,
    /// When the first byte of an unfinished frame was seen, µs.
    partial_since_us: Option<u64>,
}

impl ServerSession {
    /// A connection accepted at `now_us` (any clock that does not run backwards).
    ///
    /// # Panics
    /// When `limits.frame_bytes` is outside 4 KiB..=4 MiB or `limits.in_flight` is 0: the configuration was checked.
    pub fn new(limits: ServerLimits, identity: ServerIdentity, now_us: u64) -> ServerSession {
        assert!(
            (FRAME_BYTES_MIN..=BODY_BYTES_MAX).contains(&limits.frame_bytes),
            "frame limit is 4 KiB to 4 MiB"
        );
        assert!(limits.in_flight > 0, "at least one request is in flight");
        ServerSession {
            state: State::BeforeHello,
            limits,
            identity,
            frame_bytes: BODY_BYTES_BEFORE_HELLO,
            in_flight_max: 1,
            client: 0,
            in_flight: 0,
            last_frame_us: now_us,
            partial_since_us: None,
        }
    }

    /// The next step for the bytes that are there. `map_epoch` is the node's. Call it again after dropping what was
    /// consumed, until it says `Need`, `Full` or `Close`.
    ///
    /// # Panics
    /// After [`Step::Peer`].
    pub fn next<'a>(&mut self, now_us: u64, map_epoch: u32, input: &'a [u8]) -> Step<'a> {
        assert!(self.state != State::Handed, "a connection between nodes is no client's");
        if let State::Closing(why) = self.state {
            return Step::Close(why);
        }
        if self.in_flight >= self.in_flight_max {
            self.partial_since_us = None;
            return Step::Full;
        }
        let frame = match next_frame(input, self.frame_bytes) {
            Ok(Some(frame)) => frame,
            Ok(None) => {
                if !input.is_empty() {
                    self.partial_since_us.get_or_insert(now_us);
                }
                return Step::Need { bytes: bytes_wanted(input) };
            }
            Err(error) => return self.refuse_frame(error, input.len()),
        };
        self.last_frame_us = now_us;
        self.partial_since_us = None;
        let header = frame.header;
        if header.is_reply {
            return self.misuse(&header, Why::NotARequest, frame.consumed);
        }
        let open = self.state == State::Open;
        match (open, header.operation) {
            (false, Operation::PeerHello) => return self.peer(&header, frame.body, frame.consumed),
            (true, operation) if operation.is_between_nodes() => {
                return self.misuse(&header, Why::UnknownOperation, frame.consumed);
            }
            (false, operation) if operation != Operation::Hello => {
                return self.misuse(&header, Why::HelloFirst, frame.consumed);
            }
            (true, Operation::Hello) => return self.misuse(&header, Why::HelloAgain, frame.consumed),
            _ => {}
        }
        match Request::decode(header.operation, frame.body) {
            Ok(Request::Hello(hello)) => self.hello(&header, &hello, map_epoch, frame.consumed),
            Ok(request) => {
                self.in_flight += 1;
                Step::Request { header, request, consumed: frame.consumed }
            }
            Err(error) => {
                // The framing holds, so the connection goes on; but a stranger gets one try.
                let close = (!open).then_some(CloseReason::Hello(error.outcome()));
                self.answer(header.code(), header.request, error.outcome(), frame.consumed, close)
            }
        }
    }

    fn peer<'a>(&mut self, header: &FrameHeader, body: &[u8], consumed: usize) -> Step<'a> {
        match PeerHello::decode(body) {
            Ok(hello) => {
                self.state = State::Handed;
                Step::Peer { hello, consumed }
            }
            Err(error) => {
                let close = Some(CloseReason::Hello(error.outcome()));
                self.answer(header.code(), header.request, error.outcome(), consumed, close)
            }
        }
    }

    fn hello<'a>(
        &mut self,
        header: &FrameHeader,
        hello: &Hello<'_>,
        map_epoch: u32,
        consumed: usize,
    ) -> Step<'a> {
        if let Some(outcome) = self.refuse_hello(hello) {
            let close = Some(CloseReason::Hello(outcome));
            return self.answer(header.code(), header.request, outcome, consumed, close);
        }
        self.state = State::Open;
        self.frame_bytes = hello.frame_bytes.min(self.limits.frame_bytes);
        self.in_flight_max = hello.in_flight.min(self.limits.in_flight);
        self.client = hello.client;
        let reply = HelloReply {
            protocol: PROTOCOL_VERSION,
            frame_bytes: self.frame_bytes,
            in_flight: self.in_flight_max,
            node: self.identity.node,
            features: hello.features & self.identity.features,
            cluster: self.identity.cluster,
            incarnation: self.identity.incarnation,
            map_epoch,
            idle_ms: u32::try_from(self.limits.idle_us.div_ceil(1000)).unwrap_or(u32::MAX),
        };
        Step::Answer {
            code: header.code() | REPLY_BIT,
            request: header.request,
            reply: SessionReply::Hello(reply),
            consumed,
            close: None,
        }
    }

    /// Why a hello is not accepted. This is the door where authentication stands: a method is accepted here or nowhere.
    fn refuse_hello(&self, hello: &Hello<'_>) -> Option<Outcome> {
        if !(hello.protocol_min..=hello.protocol_max).contains(&PROTOCOL_VERSION) {
            return Some(Outcome::BadRequest { why: Why::ProtocolVersion, at: 0 });
        }
        if hello.method != AuthMethod::None {
            return Some(Outcome::Unauthorized);
        }
        if hello.cluster != Uuid::default() && hello.cluster != self.identity.cluster {
            return Some(Outcome::BadRequest { why: Why::Cluster, at: 32 });
        }
        None
    }

    fn misuse<'a>(&mut self, header: &FrameHeader, why: Why, consumed: usize) -> Step<'a> {
        let close = Some(CloseReason::Misuse(why));
        self.answer(header.code(), header.request, Outcome::BadRequest { why, at: 0 }, consumed, close)
    }

    fn refuse_frame<'a>(&mut self, error: FrameError, input_bytes: usize) -> Step<'a> {
        let close = CloseReason::Frame(error);
        let bad = |why| Outcome::BadRequest { why, at: 0 };
        let outcome = match error {
            FrameError::BadMagic | FrameError::HeaderChecksum => {
                self.state = State::Closing(close);
                return Step::Close(close);
            }
            FrameError::BadVersion { .. } => bad(Why::ProtocolVersion),
            FrameError::UnknownOperation { .. } => bad(Why::UnknownOperation),
            FrameError::BadFlags { .. } => bad(Why::HeaderFlags),
            FrameError::TooLarge { .. } => Outcome::TooLarge { limit: Limit::Frame },
            FrameError::BodyChecksum { .. } => bad(Why::BodyChecksum),
        };
        let (code, request) = error.addressed().expect("all but the two above are addressed");
        self.answer(code, request, outcome, input_bytes, Some(close))
    }

    fn answer<'a>(
        &mut self,
        code: u8,
        request: u64,
        outcome: Outcome,
        consumed: usize,
        close: Option<CloseReason>,
    ) -> Step<'a> {
        if let Some(why) = close {
            self.state = State::Closing(why);
        }
        Step::Answer { code: code | REPLY_BIT, request, reply: SessionReply::Not(outcome), consumed, close }
    }

    /// A request given out by [`Step::Request`] has been answered.
    ///
    /// # Panics
    /// When none is in flight: each is answered once.
    pub fn answered(&mut self, now_us: u64) {
        assert!(self.in_flight > 0, "each request is answered once");
        self.in_flight -= 1;
        // Idle counts from the answer: a request that took long is no reason to hang up.
        self.last_frame_us = self.last_frame_us.max(now_us);
    }

    /// When [`ServerSession::expired`] is worth calling, µs; None = not before something happens.
    pub fn deadline_us(&self) -> Option<u64> {
        self.next_expiry().map(|(at, _)| at)
    }

    /// Why the connection is to be closed at `now_us`, if it is.
    pub fn expired(&mut self, now_us: u64) -> Option<CloseReason> {
        let (_, why) = self.next_expiry().filter(|(at, _)| *at <= now_us)?;
        self.state = State::Closing(why);
        Some(why)
    }

    fn next_expiry(&self) -> Option<(u64, CloseReason)> {
        match self.state {
            State::Closing(why) => Some((0, why)),
            State::Handed => None,
            State::BeforeHello => {
                Some((self.last_frame_us.saturating_add(self.limits.hello_us), CloseReason::HelloDeadline))
            }
            State::Open => {
                if let Some(since) = self.partial_since_us {
                    return Some((since.saturating_add(self.limits.frame_us), CloseReason::FrameDeadline));
                }
                let idles = self.in_flight == 0 && self.limits.idle_us > 0;
                idles.then(|| (self.last_frame_us.saturating_add(self.limits.idle_us), CloseReason::Idle))
            }
        }
    }

    /// The longest body in force, bytes: also the longest reply that may be sent.
    pub fn frame_bytes(&self) -> u32 {
        self.frame_bytes
    }

    /// Requests given out and not answered.
    pub fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// The client's number from its hello; 0 before it or when it does not write.
    pub fn client(&self) -> u64 {
        self.client
    }

    /// True after a good hello and before closing.
    pub fn is_open(&self) -> bool {
        self.state == State::Open
    }
}
