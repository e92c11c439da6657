//! Between the nodes of a group: who calls, and frames of messages that belong to tablets.
//!
//! Owns the bodies of PeerHello and PeerBatch and both ends of a peer connection, sans-io. Must never look into a message:
//! its payload is the log's. Invariant: a batch that was decoded is right as a whole, and no batch is taken from a connection
//! whose hello was refused.
//!
//! ```text
//! who calls                              who is called
//!   | -- PeerHello -------------------------> |
//!   | <------------------- PeerHello reply -- |   accepted, or why not, and closed
//!   | -- PeerBatch (0) -- PeerBatch (7) ----> |   one way
//!   | <----------------- PeerBatch reply (7)- |   only to numbers other than 0: "this far was read"
//! ```

use layout::superblock_peers::{LIVES_BYTES, Lives, Origin};
use layout::units::{Incarnation, TABLET_COUNT, TabletIndex, Uuid};
use thiserror::Error;

use crate::field::{Read, Table, Write, wire_table};
use crate::frame::{
    BODY_BYTES_BEFORE_HELLO, BODY_BYTES_MAX, FrameError, HEADER_BYTES, PROTOCOL_VERSION, bytes_wanted,
    next_frame, seal,
};
use crate::operation::{Operation, REPLY_BIT};
use crate::outcome::Why;
use crate::request::{Body, FRAME_BYTES_MIN, RequestError};
use crate::route::ClusterMap;

wire_table! {
    hello = "PeerHello", 192;
    PROTOCOL = "protocol", 0, 1;
    ORIGIN = "origin", 1, 1;
    SHARD_COUNT = "shard_count", 2, 2;
    NODE = "node", 4, 4;
    TO = "to", 8, 4;
    INCARNATION = "incarnation", 12, 4;
    MAP_EPOCH = "map_epoch", 16, 4;
    FRAME_BYTES = "frame_bytes", 20, 4;
    CLUSTER = "cluster", 24, 16;
    DEVICE = "device", 40, 16;
    BIRTH = "birth", 56, 4;
    OLDEST = "oldest", 60, 1;
    NEWEST = "newest", 61, 1;
    RESERVED = "reserved", 62, 2;
    LIVES = "lives", 64, 128;
}
wire_table! {
    answer = "PeerHello reply", 192;
    REFUSAL = "refusal", 0, 1;
    ORIGIN = "origin", 1, 1;
    SPOKEN = "spoken", 2, 1;
    RESERVED = "reserved", 3, 1;
    NODE = "node", 4, 4;
    INCARNATION = "incarnation", 8, 4;
    MAP_EPOCH = "map_epoch", 12, 4;
    FRAME_BYTES = "frame_bytes", 16, 4;
    KNOWN = "known", 20, 4;
    CLUSTER = "cluster", 24, 16;
    DEVICE = "device", 40, 16;
    BIRTH = "birth", 56, 4;
    RESERVED_2 = "reserved", 60, 4;
    LIVES = "lives", 64, 128;
}
wire_table! {
    message = "message", 8;
    TABLET = "tablet", 0, 1;
    KIND = "kind", 1, 1;
    RESERVED = "reserved", 2, 2;
    BYTES_OF = "bytes", 4, 4;
}

/// The tables of this file for the test that reads the document.
pub(crate) fn tables() -> [&'static Table; 3] {
    [&hello::TABLE, &answer::TABLE, &message::TABLE]
}

/// Bytes of a hello and of its answer, frame header included.
pub const HELLO_FRAME_BYTES: usize = HEADER_BYTES + hello::BYTES;
const _: () = assert!(answer::BYTES == hello::BYTES, "both are sent from one buffer");
/// Bytes before each message of a batch.
pub const MESSAGE_HEAD_BYTES: usize = message::BYTES;
/// A connection on which nothing came for so long is closed by who was called, µs. Who calls asks for an answer more often.
pub const SILENCE_US: u64 = 10_000_000;

/// Which versions of the messages between nodes a node speaks: from 1 on, all from the oldest to the newest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerVersions {
    oldest: u8,
    newest: u8,
}

impl PeerVersions {
    /// The first alone: of builds that know of no other, whose hello says nothing of versions.
    pub const FIRST: PeerVersions = PeerVersions { oldest: 1, newest: 1 };
    /// All that this build speaks. 2: sealed tables as files, and copies without them.
    pub const ALL: PeerVersions = PeerVersions { oldest: 1, newest: 2 };

    /// Those of this build up to `newest`; None when it speaks none of them.
    pub fn up_to(newest: u8) -> Option<PeerVersions> {
        let all = PeerVersions::ALL;
        (all.oldest..=all.newest).contains(&newest).then_some(PeerVersions { newest, ..all })
    }

    /// The newest of them.
    pub fn newest(self) -> u8 {
        self.newest
    }

    /// The highest that both speak; None when there is none.
    pub fn common(self, other: PeerVersions) -> Option<u8> {
        let newest = self.newest.min(other.newest);
        (newest >= self.oldest.max(other.oldest)).then_some(newest)
    }

    /// As a hello says it: nothing, or the oldest and the newest.
    fn to_bytes(self) -> [u8; 2] {
        if self == PeerVersions::FIRST { [0, 0] } else { [self.oldest, self.newest] }
    }

    fn from_bytes(oldest: u8, newest: u8) -> Option<PeerVersions> {
        match (oldest, newest) {
            (0, 0) => Some(PeerVersions::FIRST),
            (1.., 2..) if oldest <= newest => Some(PeerVersions { oldest, newest }),
            _ => None,
        }
    }
}

/// Why a node does not take another one's messages. A code is given once and never reused; 0 = accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[repr(u8)]
pub enum Refusal {
    /// Another version of the protocol.
    #[error("it speaks another version of the protocol")]
    Protocol = 1,
    /// Another cluster.
    #[error("it belongs to another cluster")]
    Cluster = 2,
    /// Somebody else was meant: the map of who calls has another node at this address.
    #[error("it is another node than the map says")]
    Node = 3,
    /// Its map has another epoch.
    #[error("its cluster map has another epoch")]
    MapEpoch = 4,
    /// Who calls is no other node of the group.
    #[error("its map does not have this node in the group")]
    Stranger = 5,
    /// Who calls has another number of shards than the map says.
    #[error("its map says that this node has another number of shards")]
    Shards = 6,
    /// The node is being stopped or has no room.
    #[error("it takes no more connections now")]
    Busy = 7,
    /// The disk of who calls is not the one known of its node.
    #[error(
        "its disk is not the one that this node knows of it: bring that one back, or format this one with \
         `thermocline disk format --recover`"
    )]
    Disk = 8,
    /// What the disk of who calls remembers of its starts is older than what is known of them.
    #[error(
        "its disk is older than what this node knows of it: bring its newest state back, or format it with \
         `thermocline disk format --recover`"
    )]
    RolledBack = 9,
    /// The disk of who calls took another one's place: it has to take an incarnation above the one answered first.
    #[error("its disk is new, and takes an incarnation above the former one's first")]
    Unborn = 10,
    /// Which disk who calls has is being written down: it calls again.
    #[error("which disk it has is being written down")]
    NotYet = 11,
}

impl Refusal {
    /// All of them, in order of their codes.
    pub const ALL: [Refusal; 11] = [
        Refusal::Protocol,
        Refusal::Cluster,
        Refusal::Node,
        Refusal::MapEpoch,
        Refusal::Stranger,
        Refusal::Shards,
        Refusal::Busy,
        Refusal::Disk,
        Refusal::RolledBack,
        Refusal::Unborn,
        Refusal::NotYet,
    ];

    /// Calling again is all that helps, and soon does.
    #[must_use]
    pub fn is_for_now(self) -> bool {
        matches!(self, Refusal::Unborn | Refusal::NotYet)
    }

    /// Who is told so may have forgotten what it promised, and takes part in nothing any more.
    #[must_use]
    pub fn is_of_disk(self) -> bool {
        matches!(self, Refusal::Disk | Refusal::RolledBack)
    }

    /// The one with this code; None when nobody has it.
    pub fn from_code(code: u8) -> Option<Refusal> {
        Refusal::ALL.into_iter().find(|refusal| *refusal as u8 == code)
    }
}

/// What a node says of its disk, and of the start that it lives in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Introduction {
    /// Which start of it this is; 0 = its disk is not born yet.
    pub incarnation: Incarnation,
    /// Its disk.
    pub device: Uuid,
    /// How that came to the node.
    pub origin: Origin,
    /// Names of its last starts.
    pub lives: Lives,
}

impl Introduction {
    fn of(
        origin: u8,
        birth: u32,
        device: [u8; 16],
        incarnation: u32,
        lives: &[u8; LIVES_BYTES],
    ) -> Option<Introduction> {
        let origin = Origin::from_numbers(u32::from(origin), birth)?;
        let incarnation = Incarnation(incarnation);
        Some(Introduction { incarnation, device: Uuid(device), origin, lives: Lives::from_bytes(lives) })
    }

    fn origin_bytes(&self) -> ([u8; 1], [u8; 4]) {
        let (origin, birth) = self.origin.to_numbers();
        ([origin as u8], birth.to_le_bytes())
    }
}

/// The first frame of a peer connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerHello {
    /// The protocol version that who calls speaks.
    pub protocol: u8,
    /// Its shards.
    pub shard_count: u16,
    /// Its number in the cluster map.
    pub node: u32,
    /// The node that it means to call.
    pub to: u32,
    /// Epoch of its cluster map.
    pub map_epoch: u32,
    /// The longest body that it wants to send, bytes.
    pub frame_bytes: u32,
    /// The versions of messages that it speaks.
    pub versions: PeerVersions,
    /// Its cluster.
    pub cluster: Uuid,
    /// Its disk, and which start of it this is.
    pub introduction: Introduction,
}

/// The answer to a [`PeerHello`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerHelloReply {
    /// Why not; None = accepted.
    pub refusal: Option<Refusal>,
    /// Who answers.
    pub node: u32,
    /// Epoch of its cluster map.
    pub map_epoch: u32,
    /// The longest body that it takes, bytes; at most what was asked for.
    pub frame_bytes: u32,
    /// The version of the messages on this connection: the highest that both speak.
    pub spoken: u8,
    /// The highest incarnation that it knows of who calls; 0 = none.
    pub known: Incarnation,
    /// Its cluster.
    pub cluster: Uuid,
    /// Its disk, and which start of it this is.
    pub introduction: Introduction,
}

impl PeerHello {
    /// Decodes a body.
    ///
    /// # Errors
    /// One thing that is wrong.
    pub fn decode(bytes: &[u8]) -> Result<PeerHello, RequestError> {
        let mut body = Body::new(bytes);
        let fixed = body.head::<{ hello::BYTES }>()?;
        if !fixed.is_zero(hello::RESERVED) {
            return Err(body.bad(Why::Reserved, hello::RESERVED.offset));
        }
        let frame_bytes = fixed.u32(hello::FRAME_BYTES);
        if !(FRAME_BYTES_MIN..=BODY_BYTES_MAX).contains(&frame_bytes) {
            return Err(body.bad(Why::HelloLimits, hello::FRAME_BYTES.offset));
        }
        let introduction = Introduction::of(
            fixed.u8(hello::ORIGIN),
            fixed.u32(hello::BIRTH),
            fixed.bytes(hello::DEVICE),
            fixed.u32(hello::INCARNATION),
            &fixed.bytes(hello::LIVES),
        );
        let introduction = introduction.ok_or(body.bad(Why::HelloLimits, hello::ORIGIN.offset))?;
        let versions = PeerVersions::from_bytes(fixed.u8(hello::OLDEST), fixed.u8(hello::NEWEST));
        let versions = versions.ok_or(body.bad(Why::HelloLimits, hello::OLDEST.offset))?;
        body.skip(hello::BYTES);
        body.end()?;
        Ok(PeerHello {
            protocol: fixed.u8(hello::PROTOCOL),
            shard_count: fixed.u16(hello::SHARD_COUNT),
            node: fixed.u32(hello::NODE),
            to: fixed.u32(hello::TO),
            map_epoch: fixed.u32(hello::MAP_EPOCH),
            frame_bytes,
            versions,
            cluster: Uuid(fixed.bytes(hello::CLUSTER)),
            introduction,
        })
    }

    /// The whole frame.
    pub fn frame(&self) -> [u8; HELLO_FRAME_BYTES] {
        let (origin, birth) = self.introduction.origin_bytes();
        let body = [0; hello::BYTES]
            .set(hello::ORIGIN, origin)
            .set(hello::BIRTH, birth)
            .set(hello::DEVICE, self.introduction.device.0)
            .set(hello::LIVES, self.introduction.lives.to_bytes())
            .set(hello::OLDEST, [self.versions.to_bytes()[0]])
            .set(hello::NEWEST, [self.versions.to_bytes()[1]])
            .set(hello::PROTOCOL, [self.protocol])
            .set(hello::SHARD_COUNT, self.shard_count.to_le_bytes())
            .set(hello::NODE, self.node.to_le_bytes())
            .set(hello::TO, self.to.to_le_bytes())
            .set(hello::INCARNATION, self.introduction.incarnation.0.to_le_bytes())
            .set(hello::MAP_EPOCH, self.map_epoch.to_le_bytes())
            .set(hello::FRAME_BYTES, self.frame_bytes.to_le_bytes())
            .set(hello::CLUSTER, self.cluster.0);
        framed(&body, Operation::PeerHello.code(), self.map_epoch)
    }

    /// The version of the messages if a node that speaks `own` is called; None when there is none that both speak.
    pub fn spoken(&self, own: PeerVersions) -> Option<u8> {
        own.common(self.versions).filter(|_| self.protocol == PROTOCOL_VERSION)
    }

    /// Why node `own` of `map`, which speaks `versions`, does not take messages of who sent this; None when it does.
    pub fn refusal(&self, map: &ClusterMap, own: u32, versions: PeerVersions) -> Option<Refusal> {
        if self.spoken(versions).is_none() {
            return Some(Refusal::Protocol);
        }
        if self.cluster != map.cluster {
            return Some(Refusal::Cluster);
        }
        if self.to != own {
            return Some(Refusal::Node);
        }
        if self.map_epoch != map.epoch {
            return Some(Refusal::MapEpoch);
        }
        let together =
            map.groups.iter().any(|group| group.members.contains(&self.node) && group.members.contains(&own));
        match map.node(self.node).filter(|_| together && self.node != own) {
            None => Some(Refusal::Stranger),
            Some(node) => (node.shard_count != self.shard_count).then_some(Refusal::Shards),
        }
    }
}

impl PeerHelloReply {
    fn decode(bytes: &[u8]) -> Option<PeerHelloReply> {
        let fixed: &[u8; answer::BYTES] = bytes.try_into().ok()?;
        let refusal = match fixed.u8(answer::REFUSAL) {
            0 => None,
            code => Some(Refusal::from_code(code)?),
        };
        let reserved = fixed.is_zero(answer::RESERVED) && fixed.is_zero(answer::RESERVED_2);
        let frame_bytes = fixed.u32(answer::FRAME_BYTES);
        let spoken = match fixed.u8(answer::SPOKEN) {
            0 => PeerVersions::FIRST.newest,
            1 => return None,
            spoken => spoken,
        };
        if !reserved || !(FRAME_BYTES_MIN..=BODY_BYTES_MAX).contains(&frame_bytes) {
            return None;
        }
        Some(PeerHelloReply {
            refusal,
            node: fixed.u32(answer::NODE),
            map_epoch: fixed.u32(answer::MAP_EPOCH),
            frame_bytes,
            spoken,
            known: Incarnation(fixed.u32(answer::KNOWN)),
            cluster: Uuid(fixed.bytes(answer::CLUSTER)),
            introduction: Introduction::of(
                fixed.u8(answer::ORIGIN),
                fixed.u32(answer::BIRTH),
                fixed.bytes(answer::DEVICE),
                fixed.u32(answer::INCARNATION),
                &fixed.bytes(answer::LIVES),
            )?,
        })
    }

    /// The whole frame.
    pub fn frame(&self) -> [u8; HELLO_FRAME_BYTES] {
        let (origin, birth) = self.introduction.origin_bytes();
        let body = [0; answer::BYTES]
            .set(answer::ORIGIN, origin)
            .set(answer::BIRTH, birth)
            .set(answer::DEVICE, self.introduction.device.0)
            .set(answer::LIVES, self.introduction.lives.to_bytes())
            .set(answer::SPOKEN, [if self.spoken == PeerVersions::FIRST.newest { 0 } else { self.spoken }])
            .set(answer::KNOWN, self.known.0.to_le_bytes())
            .set(answer::REFUSAL, [self.refusal.map_or(0, |refusal| refusal as u8)])
            .set(answer::NODE, self.node.to_le_bytes())
            .set(answer::INCARNATION, self.introduction.incarnation.0.to_le_bytes())
            .set(answer::MAP_EPOCH, self.map_epoch.to_le_bytes())
            .set(answer::FRAME_BYTES, self.frame_bytes.to_le_bytes())
            .set(answer::CLUSTER, self.cluster.0);
        framed(&body, Operation::PeerHello.code() | REPLY_BIT, self.map_epoch)
    }
}

fn framed(body: &[u8; hello::BYTES], code: u8, map_epoch: u32) -> [u8; HELLO_FRAME_BYTES] {
    let mut frame = [0; HELLO_FRAME_BYTES];
    frame[HEADER_BYTES..].copy_from_slice(body);
    seal(&mut frame, code, 0, map_epoch);
    frame
}

/// The bytes before a message with this many bytes of payload.
pub fn message_head(tablet: TabletIndex, kind: u8, bytes: u32) -> [u8; MESSAGE_HEAD_BYTES] {
    [0; message::BYTES]
        .set(message::TABLET, [tablet.get()])
        .set(message::KIND, [kind])
        .set(message::BYTES_OF, bytes.to_le_bytes())
}

/// Writes the header of a batch whose messages stand at `frame[32..]`; `number` other than 0 asks for an answer.
pub fn seal_batch(frame: &mut [u8], number: u64, map_epoch: u32) {
    seal(frame, Operation::PeerBatch.code(), number, map_epoch);
}

/// The answer to a batch with this number.
pub fn batch_answer(number: u64, map_epoch: u32) -> [u8; HEADER_BYTES] {
    let mut frame = [0; HEADER_BYTES];
    seal(&mut frame, Operation::PeerBatch.code() | REPLY_BIT, number, map_epoch);
    frame
}

/// One message of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// The tablet whose log it belongs to.
    pub tablet: TabletIndex,
    /// What it is: the log's to say.
    pub kind: u8,
    /// Its bytes.
    pub payload: &'a [u8],
}

/// The messages of a batch, in order; checked as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Messages<'a> {
    body: Body<'a>,
}

impl<'a> Messages<'a> {
    /// Checks a body.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn decode(bytes: &'a [u8]) -> Result<Messages<'a>, RequestError> {
        let mut body = Body::new(bytes);
        while !body.rest().is_empty() {
            take(&mut body)?;
        }
        Ok(Messages { body: Body::new(bytes) })
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let any = !self.body.rest().is_empty();
        any.then(|| take(&mut self.body).expect("the batch was checked as a whole"))
    }
}

fn take<'a>(body: &mut Body<'a>) -> Result<Message<'a>, RequestError> {
    let fixed = body.head::<{ message::BYTES }>()?;
    let tablet = fixed.u8(message::TABLET);
    if usize::from(tablet) >= TABLET_COUNT {
        return Err(body.bad(Why::Tablet, message::TABLET.offset));
    }
    if !fixed.is_zero(message::RESERVED) {
        return Err(body.bad(Why::Reserved, message::RESERVED.offset));
    }
    body.skip(message::BYTES);
    let payload = body.take(fixed.u32(message::BYTES_OF) as usize)?;
    let tablet = TabletIndex::new(tablet).expect("compared with the count above");
    Ok(Message { tablet, kind: fixed.u8(message::KIND), payload })
}

/// Why a peer connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PeerBroken {
    /// Bytes that are no frame.
    #[error("{0}")]
    Frame(#[from] FrameError),
    /// A frame that does not belong here.
    #[error("a frame with code {code:#04x} does not belong on a connection between nodes")]
    Misplaced {
        /// Its operation code, reply bit included.
        code: u8,
    },
    /// A batch that is wrong.
    #[error("a batch is wrong: {0}")]
    Batch(RequestError),
    /// The answer to a hello is wrong.
    #[error("the answer to the hello is wrong")]
    Answer,
}

/// What who was called does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerStep<'a> {
    /// Read until this many bytes are there in all.
    Need {
        /// Bytes from the start of the input, at least one more than there are.
        bytes: usize,
    },
    /// Pass the messages on.
    Batch {
        /// They.
        messages: Messages<'a>,
        /// Send [`batch_answer`] with this number.
        answer: Option<u64>,
        /// Bytes of the input it took.
        consumed: usize,
    },
    /// Close.
    Close(PeerBroken),
}

/// The called side of a peer connection, after its hello was accepted.
#[derive(Debug, Clone)]
pub struct PeerSession {
    /// Who calls.
    pub node: u32,
    frame_bytes: u32,
    heard_us: u64,
    broken: Option<PeerBroken>,
}

impl PeerSession {
    /// `frame_bytes` as agreed in hello.
    pub fn new(node: u32, frame_bytes: u32, now_us: u64) -> PeerSession {
        PeerSession { node, frame_bytes, heard_us: now_us, broken: None }
    }

    /// The next step for the bytes that are there. Call it again after dropping what was consumed, until it says `Need` or
    /// `Close`.
    pub fn next<'a>(&mut self, now_us: u64, input: &'a [u8]) -> PeerStep<'a> {
        if let Some(broken) = self.broken {
            return PeerStep::Close(broken);
        }
        self.heard_us = self.heard_us.max(now_us);
        match batch(input, self.frame_bytes) {
            Ok(step) => step,
            Err(broken) => {
                self.broken = Some(broken);
                PeerStep::Close(broken)
            }
        }
    }

    /// True when nothing was heard for too long.
    pub fn expired(&self, now_us: u64) -> bool {
        now_us.saturating_sub(self.heard_us) > SILENCE_US
    }
}

fn batch(input: &[u8], frame_bytes: u32) -> Result<PeerStep<'_>, PeerBroken> {
    let Some(frame) = next_frame(input, frame_bytes)? else {
        return Ok(PeerStep::Need { bytes: bytes_wanted(input) });
    };
    if frame.header.code() != Operation::PeerBatch.code() {
        return Err(PeerBroken::Misplaced { code: frame.header.code() });
    }
    let messages = Messages::decode(frame.body).map_err(PeerBroken::Batch)?;
    let answer = (frame.header.request != 0).then_some(frame.header.request);
    Ok(PeerStep::Batch { messages, answer, consumed: frame.consumed })
}

/// What came back to who calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerAnswer {
    /// Read until this many bytes are there in all.
    Need {
        /// Bytes from the start of the input, at least one more than there are.
        bytes: usize,
    },
    /// Hello was answered.
    Hello {
        /// How.
        reply: PeerHelloReply,
        /// Bytes of the input it took.
        consumed: usize,
    },
    /// All up to the batch with this number was read.
    Read {
        /// The number.
        number: u64,
        /// Bytes of the input it took.
        consumed: usize,
    },
}

/// The next answer among `input`; `greeted` once hello was answered.
///
/// # Errors
/// What is wrong with the bytes: the connection is over.
pub fn next_answer(input: &[u8], greeted: bool) -> Result<PeerAnswer, PeerBroken> {
    let Some(frame) = next_frame(input, BODY_BYTES_BEFORE_HELLO)? else {
        return Ok(PeerAnswer::Need { bytes: bytes_wanted(input) });
    };
    let (header, consumed) = (frame.header, frame.consumed);
    match (header.operation, header.is_reply, greeted) {
        (Operation::PeerHello, true, false) => {
            let reply = PeerHelloReply::decode(frame.body).ok_or(PeerBroken::Answer)?;
            Ok(PeerAnswer::Hello { reply, consumed })
        }
        (Operation::PeerBatch, true, true) if frame.body.is_empty() => {
            Ok(PeerAnswer::Read { number: header.request, consumed })
        }
        _ => Err(PeerBroken::Misplaced { code: header.code() }),
    }
}
