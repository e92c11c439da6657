//! Links to the other nodes of the group: of each core one connection to each of them, which carries messages one way.
//!
//! Must never wait for a peer and never hold more for one than its frames may: what does not fit is dropped and counted.
//! Invariant: a link is up only between a hello that was accepted and the end of its connection.
//!
//! ```text
//! down ──connect, hello accepted──► up ──an error, the far end closes, an answer takes too long──► down, wait, again
//! ```

use super::Peer;
use super::disks;
use super::frames::Frames;
use crate::core::Shard;
use crate::counters::Counters;
use crate::log;
use ioengine::stream::NetError;
use ioengine::sync::{Either, Notify, race};
use ioengine::{Buf, Instant, Io, Stream};
use layout::units::TabletIndex;
use net::frame::{BODY_BYTES_BEFORE_HELLO, HEADER_BYTES, PROTOCOL_VERSION};
use net::peer::{PeerAnswer, PeerBroken, PeerHello, PeerHelloReply, PeerVersions, Refusal, next_answer};
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Waits before the next try: doubled from the first to the last, half of each drawn.
const WAIT_FIRST: Duration = Duration::from_millis(20);
const WAIT_LAST: Duration = Duration::from_secs(1);
/// Longest time for a connection and its hello, and for an answer on a link that is up.
const ANSWER_DEADLINE: Duration = Duration::from_secs(3);
/// How often an answer is asked for: without it a peer that lost its power would be sent to for minutes.
const ASK_EVERY: Duration = Duration::from_millis(500);
/// A link that is down for so long is worth a line in the log.
const TELL_AFTER: Duration = Duration::from_secs(2);
/// For hellos and answers: more than the longest frame that is looked at.
const RECEIVE_BYTES: usize = 8192;
const _: () = assert!(RECEIVE_BYTES > HEADER_BYTES + BODY_BYTES_BEFORE_HELLO as usize, "an answer fits");

/// Why there is no link.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    #[error(transparent)]
    Net(#[from] NetError),
    #[error("no answer in time")]
    Silent,
    #[error("the far end closed")]
    Closed,
    #[error("refused: {0}")]
    Refused(Refusal),
    #[error("this node refuses it: {0}")]
    NotTaken(Refusal),
    #[error("{0}")]
    Broken(#[from] PeerBroken),
    #[error("the answer is to a question that was not asked")]
    NeverAsked,
    #[error("no buffer")]
    NoBuffer,
}

/// The link of this core to one peer.
struct Link {
    peer: Peer,
    frames: RefCell<Frames>,
    up: Cell<bool>,
    /// The first message was put where none waited.
    filled: Notify,
    /// Something was taken to be sent, or the link has gone down.
    taken: Notify,
    /// Version of the messages on it.
    spoken: Cell<u8>,
    /// Number of the last question, and when it was asked if it is not answered.
    asked: Cell<(u64, Option<Instant>)>,
}

/// How often each other node has called and was let in, whatever core it came to. Who calls can be called: without it a node that comes
/// back waits for whoever tries it once a second, and what it asks meanwhile is answered on a link that is not there.
pub(crate) struct Calls(Vec<(u32, AtomicU64)>);

impl Calls {
    /// Of these nodes; none has called.
    pub(crate) fn new(peers: &[Peer]) -> Calls {
        Calls(peers.iter().map(|peer| (peer.node, AtomicU64::new(0))).collect())
    }

    fn of(&self, node: u32) -> Option<&AtomicU64> {
        self.0.iter().find(|(peer, _)| *peer == node).map(|(_, count)| count)
    }

    /// It has called.
    pub(super) fn add(&self, node: u32) {
        if let Some(count) = self.of(node) {
            // Only a number: nothing else is read by it.
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn count(&self, node: u32) -> u64 {
        self.of(node).map_or(0, |count| count.load(Ordering::Relaxed))
    }
}

/// The links of a core.
pub(crate) struct Links {
    io: Io,
    counters: Arc<Counters>,
    links: Vec<Link>,
}

impl Links {
    /// To these nodes, ascending; all down.
    pub(crate) fn new(
        io: &Io,
        peers: &[Peer],
        frame_bytes: u32,
        map_epoch: u32,
        counters: &Arc<Counters>,
    ) -> Links {
        let link = |peer: &Peer| Link {
            peer: *peer,
            frames: RefCell::new(Frames::new(frame_bytes as usize, map_epoch)),
            up: Cell::new(false),
            filled: Notify::new(),
            taken: Notify::new(),
            spoken: Cell::new(PeerVersions::FIRST.newest()),
            asked: Cell::new((0, None)),
        };
        Links { io: io.clone(), counters: Arc::clone(counters), links: peers.iter().map(link).collect() }
    }

    /// Send a message made of `parts` to the core of `node` that owns the tablet. False: it was dropped, because the link is down,
    /// has no room, the message is longer than a frame, or the peer does not speak its version. True: it will arrive if nothing
    /// happens to the connection.
    pub(crate) fn send(&self, node: u32, tablet: TabletIndex, kind: u8, parts: &[&[u8]]) -> bool {
        let link = self.link(node);
        let mut frames = link.frames.borrow_mut();
        let was_empty = frames.is_empty();
        let is_spoken = log::version_of(kind) <= link.spoken.get();
        let may = link.up.get() && (is_spoken || ioengine::canary("say_what_is_not_spoken"));
        if !may || !frames.push(&self.io, tablet, kind, parts) {
            self.counters.peer_dropped.add(1);
            return false;
        }
        self.counters.peer_sent.add(1);
        if was_empty {
            link.filled.notify();
        }
        true
    }

    /// True when messages to `node` have a way.
    pub(crate) fn is_up(&self, node: u32) -> bool {
        let at = self.links.binary_search_by_key(&node, |link| link.peer.node);
        at.is_ok_and(|at| self.links[at].up.get())
    }

    /// Does `node` speak this version of the messages, as far as is known? While the link is down it does not.
    pub(crate) fn speaks(&self, node: u32, version: u8) -> bool {
        let link = self.link(node);
        link.up.get() && (link.spoken.get() >= version || ioengine::canary("say_what_is_not_spoken"))
    }

    /// Wait until little waits for `node`, so that what is sent then delays nothing for long. False: the link is down, or it takes
    /// too long.
    pub(crate) async fn until_idle(&self, node: u32) -> bool {
        let link = self.link(node);
        let by = self.io.now().after(ANSWER_DEADLINE);
        loop {
            let taken = link.taken.notified();
            if !link.up.get() || self.io.now() >= by {
                return false;
            }
            if link.frames.borrow().waits_for_little() {
                return true;
            }
            race(taken, self.io.sleep(ANSWER_DEADLINE)).await;
        }
    }

    fn link(&self, node: u32) -> &Link {
        let at = self.links.binary_search_by_key(&node, |link| link.peer.node);
        &self.links[at.expect("messages go to other nodes of the group")]
    }
}

/// Keep the link to the peer at `place` up, for as long as the core lives.
pub(crate) async fn run(shard: Rc<Shard>, place: usize) {
    let link = &shard.links.links[place];
    let node = link.peer.node;
    let mut wait = WAIT_FIRST;
    let mut told = String::new();
    // Nobody hears of this start before the superblock calls it one that served: a journal that is lost after that is missed.
    while shard.facts.map_epoch() == 0 {
        shard.io.sleep(WAIT_FIRST / 10).await;
    }
    let mut down_since = shard.io.now();
    loop {
        let calls = shard.facts.calls.count(node);
        let trouble = match dial(&shard, &link.peer).await {
            Ok((stream, reply)) => {
                tracing::info!(node, incarnation = reply.introduction.incarnation.0, "link up");
                let since = shard.io.now();
                let trouble = carry(&shard, place, &stream, &reply).await;
                ioengine::sometimes!("a link goes down");
                tracing::info!(node, %trouble, "link down");
                if shard.io.now().since(since) > WAIT_LAST {
                    wait = WAIT_FIRST;
                }
                told.clear();
                down_since = shard.io.now();
                None
            }
            Err(trouble) => Some(trouble),
        };
        if let Some(Trouble::Refused(refusal)) = &trouble
            && refusal.is_of_disk()
        {
            log::cast_out(&shard, node, *refusal);
        }
        // Nodes that start together miss each other at first: that is no news.
        let lasts = shard.io.now().since(down_since) > TELL_AFTER;
        let text = trouble.filter(|_| lasts).map(|trouble| trouble.to_string());
        if let Some(text) = text.filter(|text| *text != told) {
            tracing::warn!(node, address = %link.peer.address, trouble = %text, "no link to a node of the group");
            told = text;
        }
        let half = wait.as_micros() as u64 / 2;
        let drawn = Duration::from_micros(half + shard.io.random() % half);
        wait = if called_within(&shard, node, calls, drawn).await {
            ioengine::sometimes!("a node is called because it has called");
            WAIT_FIRST
        } else {
            (2 * wait).min(WAIT_LAST)
        };
    }
}

/// Wait for so long, or until the node has called more often than `calls` times: then true.
async fn called_within(shard: &Shard, node: u32, calls: u64, wait: Duration) -> bool {
    let by = shard.io.now().after(wait);
    loop {
        let now = shard.io.now();
        if now >= by {
            return false;
        }
        shard.io.sleep(by.since(now).min(WAIT_FIRST)).await;
        if shard.facts.calls.count(node) != calls {
            return true;
        }
    }
}

/// Call a peer and say who this is. Both sides remember the other before anything else is said.
async fn dial(shard: &Rc<Shard>, peer: &Peer) -> Result<(Stream, PeerHelloReply), Trouble> {
    let facts = &shard.facts;
    let hello = PeerHello {
        protocol: PROTOCOL_VERSION,
        shard_count: facts.core_count,
        node: facts.node,
        to: peer.node,
        map_epoch: facts.settings_epoch,
        frame_bytes: shard.limits.frame_bytes_max,
        versions: facts.versions,
        cluster: facts.cluster,
        introduction: facts.disks.introduction(),
    };
    let greeting = greeting(&shard.io, peer.address, &hello);
    let (stream, reply) =
        shard.io.timeout(ANSWER_DEADLINE, greeting).await.unwrap_or(Err(Trouble::Silent))?;
    let is_peer = reply.node == peer.node && reply.cluster == facts.cluster;
    let not_taken = if is_peer { disks::meet(shard, peer.node, &reply.introduction) } else { None };
    match (reply.refusal, not_taken) {
        (Some(refusal), _) => Err(Trouble::Refused(refusal)),
        (None, Some(refusal)) => Err(Trouble::NotTaken(refusal)),
        (None, None) if !is_peer => Err(Trouble::NotTaken(Refusal::Node)),
        (None, None) => Ok((stream, reply)),
    }
}

/// Connect, say hello, hear the answer. A build that knows the first version alone takes what it does not know for a mistake: it is
/// called again, as one of its kind.
pub(super) async fn greeting(
    io: &Io,
    address: SocketAddr,
    hello: &PeerHello,
) -> Result<(Stream, PeerHelloReply), Trouble> {
    match say_hello(io, address, hello).await {
        Err(Trouble::Broken(PeerBroken::Answer) | Trouble::Closed)
            if hello.versions != PeerVersions::FIRST =>
        {
            ioengine::sometimes!("a node is called as one of the first version");
            say_hello(io, address, &PeerHello { versions: PeerVersions::FIRST, ..*hello }).await
        }
        answered => answered,
    }
}

async fn say_hello(
    io: &Io,
    address: SocketAddr,
    hello: &PeerHello,
) -> Result<(Stream, PeerHelloReply), Trouble> {
    let stream = io.connect(address).await?;
    let mut buffer = io.buffer(RECEIVE_BYTES).ok_or(Trouble::NoBuffer)?;
    let frame = hello.frame();
    buffer[..frame.len()].copy_from_slice(&frame);
    let (sent, back) = stream.send(buffer, 0..frame.len()).await;
    sent?;
    let mut input = Input { buffer: Some(back), filled: 0 };
    loop {
        match next_answer(input.bytes(), false)? {
            PeerAnswer::Hello { reply, .. } if reply.spoken <= hello.versions.newest() => {
                return Ok((stream, reply));
            }
            PeerAnswer::Hello { .. } => return Err(Trouble::Broken(PeerBroken::Answer)),
            PeerAnswer::Read { .. } => return Err(Trouble::NeverAsked),
            PeerAnswer::Need { .. } => input.more(&stream).await?,
        }
    }
}

/// What came back and was not looked at yet.
struct Input {
    buffer: Option<Buf>,
    filled: usize,
}

impl Input {
    fn bytes(&self) -> &[u8] {
        self.buffer.as_ref().map_or(&[], |buffer| &buffer[..self.filled])
    }

    fn drop_first(&mut self, bytes: usize) {
        let filled = self.filled;
        if let Some(buffer) = &mut self.buffer {
            buffer.copy_within(bytes..filled, 0);
        }
        self.filled -= bytes;
    }

    async fn more(&mut self, stream: &Stream) -> Result<(), Trouble> {
        let buffer = self.buffer.take().expect("it comes back from each receive");
        let end = buffer.len();
        assert!(self.filled < end, "a longer answer was refused by its length");
        let (result, back) = stream.receive(buffer, self.filled..end).await;
        self.buffer = Some(back);
        match result? {
            0 => Err(Trouble::Closed),
            count => {
                self.filled += count;
                Ok(())
            }
        }
    }
}

/// The link is up until something ends it.
async fn carry(shard: &Shard, place: usize, stream: &Stream, reply: &PeerHelloReply) -> Trouble {
    let link = &shard.links.links[place];
    let agreed = reply.frame_bytes.min(shard.limits.frame_bytes_max);
    link.frames.borrow_mut().begin(agreed as usize);
    link.asked.set((link.asked.get().0, None));
    let counters = &shard.counters;
    link.spoken.set(reply.spoken);
    if reply.spoken < shard.facts.versions.newest() {
        ioengine::sometimes!("two nodes speak an older version");
    }
    link.up.set(true);
    counters.peers[place].up.set(1);
    counters.peers[place].incarnation.set(u64::from(reply.introduction.incarnation.0));
    let ended = race(write(shard, link, stream), listen(shard, link, stream)).await;
    link.up.set(false);
    counters.peers[place].up.set(0);
    counters.peers[place].downs.add(1);
    link.frames.borrow_mut().begin(agreed as usize);
    link.taken.notify();
    stream.shutdown();
    match ended {
        Either::First(Err(trouble)) | Either::Second(Err(trouble)) => trouble,
        Either::First(Ok(never)) | Either::Second(Ok(never)) => match never {},
    }
}

/// Nothing: a link ends by trouble only.
enum Never {}

/// What waits, one send at a time; and a question now and then.
async fn write(shard: &Shard, link: &Link, stream: &Stream) -> Result<Never, Trouble> {
    let mut ask_at = shard.io.now();
    loop {
        let filled = link.filled.notified();
        let now = shard.io.now();
        let (last, asked_at) = link.asked.get();
        if asked_at.is_some_and(|at| now >= at.after(ANSWER_DEADLINE)) {
            return Err(Trouble::Silent);
        }
        let asks = asked_at.is_none() && now >= ask_at;
        let taken = link.frames.borrow_mut().take(&shard.io, if asks { last + 1 } else { 0 });
        let Some((buffer, bytes)) = taken else {
            race(filled, shard.io.sleep(ASK_EVERY)).await;
            continue;
        };
        link.taken.notify();
        if asks {
            link.asked.set((last + 1, Some(now)));
            ask_at = now.after(ASK_EVERY);
        }
        let sending = stream.send(buffer, 0..bytes);
        let (result, buffer) =
            shard.io.timeout(ANSWER_DEADLINE, sending).await.map_err(|_| Trouble::Silent)?;
        result?;
        shard.counters.peer_sent_bytes.add(bytes as u64);
        let mut frames = link.frames.borrow_mut();
        frames.give_back(buffer);
        frames.sent(bytes, shard.io.now().since(now));
    }
}

/// Answers.
async fn listen(shard: &Shard, link: &Link, stream: &Stream) -> Result<Never, Trouble> {
    let buffer = shard.io.buffer(RECEIVE_BYTES).ok_or(Trouble::NoBuffer)?;
    let mut input = Input { buffer: Some(buffer), filled: 0 };
    loop {
        match next_answer(input.bytes(), true)? {
            PeerAnswer::Need { .. } => input.more(stream).await?,
            PeerAnswer::Hello { .. } => return Err(Trouble::NeverAsked),
            PeerAnswer::Read { number, consumed } => {
                input.drop_first(consumed);
                match link.asked.get() {
                    (asked, Some(_)) if asked == number => link.asked.set((asked, None)),
                    _ => return Err(Trouble::NeverAsked),
                }
            }
        }
    }
}
