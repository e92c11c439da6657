//! The door of a core: routes a request to the core that owns its tablet, and answers it there. One path for requests
//! that came over a connection of this core and for those passed on by another; they differ in where the answer is
//! written.

use crate::ahead::Seen;
use crate::apply::Decided;
use crate::cluster;
use crate::connection::Connection;
use crate::core::{Phase, Shard};
use crate::gather;
use crate::get::{self, Asked, Looked};
use crate::mesh::Kind;
use crate::parked::Work;
use crate::put::{self, Admitted, Wanted};
use crate::reply::{ReplyTo, SMALL_REPLY_BYTES};
use crate::scan::{self, Span};
use layout::units::{LogTime, TabletIndex};
use net::frame::HEADER_BYTES;
use net::operation::Operation;
use net::outcome::{Limit, Outcome, Why};
use net::reply::{
    encode_batch_written, encode_echo, encode_get_ok, encode_map, encode_outcome, encode_status,
    encode_written, reply_bytes_get_ok, reply_bytes_payload,
};
use net::request::{Get, Request, Streams};
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;

/// What the door did with a request of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Served {
    /// It is answered, or will be.
    Done,
    /// There is no room for the answer now: nothing was done, ask again.
    NoRoom,
}

/// Bytes of records in one page of a scan when the client sets no limit.
const PAGE_BYTES: usize = 256 << 10;

/// Where an answer is written.
#[derive(Clone, Copy)]
enum Out<'a> {
    /// Into the outbox of a connection of this core.
    Here(&'a Connection),
    /// Onto the ring of the core that holds the connection.
    There,
}

/// Serve a request that came over `connection`; `body` are its bytes, `seen` what looking ahead has found out.
pub(crate) fn serve(
    shard: &Rc<Shard>,
    connection: &Connection,
    to: &ReplyTo,
    request: &Request<'_>,
    body: &[u8],
    seen: Option<Seen>,
) -> Served {
    if let Some(Seen { tablet, .. }) = seen {
        return answer(shard, Out::Here(connection), to, request, Some(tablet), seen);
    }
    if let Request::MultiGet(many) = request {
        return gather::serve(shard, connection, to, many);
    }
    match tablet_of(request) {
        Some(tablet) if !shard.facts.group.holds(tablet) => {
            ioengine::sometimes!("a request is not for this node");
            let wrong = Outcome::WrongGroup { epoch: shard.facts.map_epoch() };
            outcome(shard, Out::Here(connection), to, LogTime(0), &wrong)
        }
        Some(tablet) if !shard.owns(tablet) => {
            forward(shard, connection, to, body, shard.facts.owner(tablet))
        }
        tablet => answer(shard, Out::Here(connection), to, request, tablet, None),
    }
}

/// Serve a request that another core passed on: its body, for a tablet of this core.
pub(crate) fn serve_forwarded(shard: &Rc<Shard>, to: &ReplyTo, body: &[u8]) {
    let request = Request::decode(to.operation, body).expect("the other core has decoded it before");
    let tablet = tablet_of(&request);
    if answer(shard, Out::There, to, &request, tablet, None) == Served::NoRoom {
        ioengine::sometimes!("a ring has no room for an answer");
        shard.counters.replies_refused.add(1);
        let busy = Outcome::Busy { limit: Limit::ReplyBuffers, hint_ms: 5 };
        tell(shard, to, |out| encode_outcome(out, LogTime(0), &busy));
    }
}

/// The tablet whose owner answers; `None` when any core can.
fn tablet_of(request: &Request<'_>) -> Option<TabletIndex> {
    match request {
        Request::Streams(streams) => Some(streams.tablet),
        other => other
            .stream()
            .map(|(space, stream)| layout::key::tablet_of(layout::key::bucket_of(space, stream))),
    }
}

fn forward(shard: &Shard, connection: &Connection, to: &ReplyTo, body: &[u8], owner: u16) -> Served {
    if !connection.outbox.borrow_mut().reserve(&shard.io) {
        return Served::NoRoom;
    }
    if shard.peers.ask(shard, owner, Kind::Request, to, &[body]) {
        return Served::Done;
    }
    ioengine::sometimes!("a ring is full");
    connection.outbox.borrow_mut().release();
    outcome(shard, Out::Here(connection), to, LogTime(0), &Outcome::Busy { limit: Limit::Queue, hint_ms: 2 })
}

/// Answer on this core: the tablet is its own, or there is none.
fn answer(
    shard: &Rc<Shard>,
    out: Out<'_>,
    to: &ReplyTo,
    request: &Request<'_>,
    tablet: Option<TabletIndex>,
    seen: Option<Seen>,
) -> Served {
    if let Some(tablet) = tablet.filter(|_| shard.logs.is_some() && is_strong(request)) {
        return wait_for_tip(shard, out, to, request, tablet);
    }
    match request {
        Request::Get(get) => {
            let tablet = tablet.expect("a get is of a stream, and so of a tablet");
            answer_get(shard, out, to, get, tablet, seen)
        }
        Request::Put(put) => answer_write(shard, out, to, &Wanted::Put(*put)),
        Request::Delete(delete) => answer_write(shard, out, to, &Wanted::Delete(*delete)),
        Request::CompareAndSet(compare) => answer_write(shard, out, to, &Wanted::CompareAndSet(*compare)),
        Request::Batch(batch) => answer_write(shard, out, to, &Wanted::Batch(*batch)),
        Request::Scan(scan) => answer_span(shard, out, to, &Span::from(*scan), request),
        Request::Head(head) => answer_span(shard, out, to, &Span::from(*head), request),
        Request::Streams(streams) => answer_streams(shard, out, to, streams),
        Request::Ping(echo) => {
            write(shard, out, to, reply_bytes_payload(echo.len()), |bytes| Some(encode_echo(bytes, echo)))
                .served()
        }
        Request::Map(map) if map.known_epoch == shard.facts.map_epoch() => {
            outcome(shard, out, to, LogTime(0), &Outcome::NotModified)
        }
        Request::Map(_) => {
            let map = shard.facts.maps.current();
            let map = &map.bytes;
            write(shard, out, to, reply_bytes_payload(map.len()), |bytes| Some(encode_map(bytes, map)))
                .served()
        }
        Request::SetMap(map) => answer_said(shard, out, to, map),
        Request::Status | Request::Verify => {
            if *request == Request::Verify {
                shard.facts.verifies_asked.fetch_add(1, Relaxed);
            }
            let text = crate::status::text(shard);
            write(shard, out, to, reply_bytes_payload(text.len()), |bytes| Some(encode_status(bytes, &text)))
                .served()
        }
        Request::Hot => {
            let boards = shard.facts.counters.iter().map(|counters| &counters.hot);
            let text = crate::hot::text(shard.facts.node, "store", boards, payload_bytes_max(to));
            write(shard, out, to, reply_bytes_payload(text.len()), |bytes| Some(encode_status(bytes, &text)))
                .served()
        }
        // No cold disk is here.
        Request::Cold(_) => {
            let wrong = Outcome::WrongGroup { epoch: shard.facts.map_epoch() };
            outcome(shard, out, to, LogTime(0), &wrong)
        }
        Request::Hello(_) | Request::MultiGet(_) => panic!("the session and the gather have taken these"),
    }
}

/// Somebody says where reads go: a client, which came to this core, or another node.
fn answer_said(shard: &Rc<Shard>, out: Out<'_>, to: &ReplyTo, map: &[u8]) -> Served {
    let Out::Here(connection) = out else { panic!("what is of no tablet is not passed on") };
    if !connection.outbox.borrow_mut().reserve(&shard.io) {
        return Served::NoRoom;
    }
    cluster::hear_map(shard, to, map);
    Served::Done
}

fn answer_get(
    shard: &Shard,
    out: Out<'_>,
    to: &ReplyTo,
    get: &Get<'_>,
    tablet: TabletIndex,
    seen: Option<Seen>,
) -> Served {
    if let Some(asked) = get.if_newer
        && get::is_unmodified(&mut shard.state.borrow_mut(), tablet, get.key, asked)
    {
        shard.count_get(&get.key);
        shard.counters.gets_not_modified.add(1);
        let log_time = shard.state.borrow().tablet(tablet).log_time;
        return outcome(shard, out, to, log_time, &Outcome::NotModified);
    }
    let state = shard.state.borrow();
    let log_time = state.tablet(tablet).log_time;
    let (hash, aim) = (seen.map(|seen| seen.hash), seen.and_then(|seen| seen.aim));
    let served = match get::look(
        &state,
        tablet,
        get.key,
        Asked { if_newer: get.if_newer, local: get.local, hash, aim },
    ) {
        Looked::Disk => {
            drop(state);
            return park(shard, out, to, &Request::Get(*get));
        }
        Looked::Found(found) => {
            if get::wants_tick(&found, || shard.clock(state.tablet(tablet))) {
                shard.want_tick(tablet);
            }
            write(shard, out, to, reply_bytes_get_ok(found.value.len()), |bytes| {
                Some(encode_get_ok(bytes, log_time, found.version, found.expiry_us, found.value))
            })
            .served()
        }
        Looked::Not(other) => outcome(shard, out, to, log_time, &other),
    };
    let wants_directory = state.tables.wants_directory();
    drop(state);
    if wants_directory {
        shard.state.borrow_mut().tables.make_directory();
    }
    if served == Served::Done {
        shard.count_get(&get.key);
    }
    served
}

/// Does it ask for the newest, whatever this replica has seen?
fn is_strong(request: &Request<'_>) -> bool {
    match request {
        Request::Get(get) => !get.local,
        Request::Scan(scan) => !scan.local,
        Request::Head(head) => !head.local,
        Request::Streams(_) => true,
        _ => false,
    }
}

/// Let a read of a group wait until a majority has said what is the newest.
fn wait_for_tip(
    shard: &Shard,
    out: Out<'_>,
    to: &ReplyTo,
    request: &Request<'_>,
    tablet: TabletIndex,
) -> Served {
    if !shard.parking.has_room(request.encoded_bytes()) {
        let busy = Outcome::Busy { limit: Limit::Queue, hint_ms: 5 };
        return outcome(shard, out, to, LogTime(0), &busy);
    }
    if let Out::Here(connection) = out
        && !connection.outbox.borrow_mut().reserve(&shard.io)
    {
        return Served::NoRoom;
    }
    let work = Work::Request;
    crate::log::wait_for_tip(shard, to, work, std::iter::once(tablet), |body| request.encode(body));
    Served::Done
}

/// Park a request: the disk has to be asked.
fn park(shard: &Shard, out: Out<'_>, to: &ReplyTo, request: &Request<'_>) -> Served {
    if !shard.parking.has_room(request.encoded_bytes()) {
        ioengine::sometimes!("no place for one more disk read");
        let busy = Outcome::Busy { limit: Limit::Queue, hint_ms: 5 };
        return outcome(shard, out, to, LogTime(0), &busy);
    }
    if let Out::Here(connection) = out
        && !connection.outbox.borrow_mut().reserve(&shard.io)
    {
        return Served::NoRoom;
    }
    shard.parking.park(*to, Work::Request, shard.io.now(), |body| request.encode(body));
    Served::Done
}

/// Bytes of a payload that fits a frame to who asks.
pub(crate) fn payload_bytes_max(to: &ReplyTo) -> usize {
    (to.frame_bytes as usize).saturating_sub(reply_bytes_payload(0))
}

/// Bytes of a page of an answer to `to`: what was asked for, or the usual, as far as a frame holds it.
pub(crate) fn page_bytes(to: &ReplyTo, byte_limit: u32) -> usize {
    let wanted = if byte_limit == 0 { PAGE_BYTES } else { byte_limit as usize };
    let agreed = if ioengine::canary("page_larger_than_agreed") { u32::MAX } else { to.frame_bytes };
    wanted.max(net::request::FRAME_BYTES_MIN as usize).min(agreed as usize)
}

fn answer_span(shard: &Shard, out: Out<'_>, to: &ReplyTo, span: &Span<'_>, request: &Request<'_>) -> Served {
    let state = shard.state.borrow();
    let tablet = span.tablet();
    if state.tables.overlap(tablet, span.from, span.to)
        && (span.local || state.tablet(tablet).damage.is_none())
    {
        return park(shard, out, to, request);
    }
    let log_time = state.tablet(tablet).log_time;
    // A page if possible, else all that a frame can hold: one record may be larger than a page.
    for bytes in [page_bytes(to, span.byte_limit), to.frame_bytes as usize] {
        let mut refused = None;
        let wrote = write(shard, out, to, bytes, |room| match scan::records(&state, span, room)? {
            Ok(bytes) => Some(bytes),
            Err(other) => {
                refused = Some(other);
                None
            }
        });
        if let Some(other) = refused {
            return outcome(shard, out, to, log_time, &other);
        }
        match wrote {
            Wrote::Done => {
                shard.counters.scans.add(1);
                return Served::Done;
            }
            Wrote::NoRoom => return Served::NoRoom,
            Wrote::Nothing => {}
        }
    }
    outcome(shard, out, to, log_time, &Outcome::TooLarge { limit: Limit::Frame })
}

fn answer_streams(shard: &Shard, out: Out<'_>, to: &ReplyTo, asked: &Streams<'_>) -> Served {
    if asked.group != 0 {
        let epoch = shard.facts.map_epoch();
        return outcome(shard, out, to, LogTime(0), &Outcome::WrongGroup { epoch });
    }
    let state = shard.state.borrow();
    if state.tables.overlap(asked.tablet, 0, u64::MAX) && state.tablet(asked.tablet).damage.is_none() {
        return park(shard, out, to, &Request::Streams(*asked));
    }
    let mut refused = None;
    let bytes = page_bytes(to, 0);
    let wrote = write(shard, out, to, bytes, |room| match scan::streams(&state, asked, room) {
        Ok(bytes) => Some(bytes),
        Err(other) => {
            refused = Some(other);
            None
        }
    });
    match refused {
        Some(other) => outcome(shard, out, to, state.tablet(asked.tablet).log_time, &other),
        None => {
            shard.counters.scans.add(1);
            wrote.served()
        }
    }
}

fn answer_write(shard: &Rc<Shard>, out: Out<'_>, to: &ReplyTo, wanted: &Wanted<'_>) -> Served {
    if shard.phase.get() == Phase::Draining {
        let busy = Outcome::Busy { limit: Limit::Draining, hint_ms: 1000 };
        return outcome(shard, out, to, LogTime(0), &busy);
    }
    if let Out::Here(connection) = out
        && !connection.outbox.borrow_mut().reserve(&shard.io)
    {
        return Served::NoRoom;
    }
    let mut admitted = put::admit(shard, wanted, *to, None);
    // What a replica of a group has may be old: it says that the version is another only when it is known to have the newest.
    let must_ask = match &admitted {
        Admitted::Disk => true,
        Admitted::Decided(Decided::Mismatch(_)) => shard.logs.is_some(),
        _ => false,
    };
    if let (true, Wanted::CompareAndSet(compare)) = (must_ask, wanted) {
        let request = Request::CompareAndSet(*compare);
        if shard.parking.has_room(request.encoded_bytes()) {
            let fill = |body: &mut Vec<u8>| request.encode(body);
            if shard.logs.is_some() {
                let tablets = std::iter::once(wanted.tablet());
                crate::log::wait_for_tip(shard, to, Work::Request, tablets, fill);
            } else {
                shard.parking.park(*to, Work::Request, shard.io.now(), fill);
            }
            return Served::Done;
        }
        admitted = Admitted::Refused(Outcome::Busy { limit: Limit::Queue, hint_ms: 5 });
    }
    end_write(shard, to, wanted, admitted);
    Served::Done
}

/// A write has been to the door, and room for its answer is reserved: answer it unless its entry will.
pub(crate) fn end_write(shard: &Shard, to: &ReplyTo, wanted: &Wanted<'_>, admitted: Admitted) {
    let refused = match admitted {
        Admitted::Staged => return shard.counters.writes_staged.add(1),
        Admitted::Decided(decided) => {
            return answer_decided(shard, to, decided, wanted.tablet(), wanted.operation_count());
        }
        Admitted::Refused(outcome) => outcome,
        Admitted::Disk => panic!("only a compare-and-set reads, and its record was read"),
    };
    shard.counters.writes_refused.add(1);
    let log_time = shard.state.borrow().tablet(wanted.tablet()).log_time;
    tell(shard, to, |out| encode_outcome(out, log_time, &refused));
}

/// Answer a write that was decided: at the door, or when its entry was applied. The tablets' state is borrowed by the
/// caller in the latter case, so log time comes with [`tell_decided`].
fn answer_decided(shard: &Shard, to: &ReplyTo, decided: Decided, tablet: TabletIndex, operation_count: u32) {
    let log_time = shard.state.borrow().tablet(tablet).log_time;
    tell_decided(shard, to, decided, log_time, operation_count);
}

/// Tell who waits what became of the write.
pub(crate) fn tell_decided(
    shard: &Shard,
    to: &ReplyTo,
    decided: Decided,
    log_time: LogTime,
    operation_count: u32,
) {
    let counters = &shard.counters;
    let outcome = match decided {
        Decided::Applied(version) | Decided::Repeated(version) => {
            let repeated = matches!(decided, Decided::Repeated(_));
            if repeated {
                counters.writes_repeated.add(1)
            } else {
                counters.writes_applied.add(1)
            }
            return tell(shard, to, |out| match to.operation {
                Operation::Batch => encode_batch_written(out, log_time, version, operation_count, repeated),
                _ => encode_written(out, log_time, version, repeated),
            });
        }
        Decided::Mismatch(current) => {
            counters.writes_mismatched.add(1);
            Outcome::VersionMismatch { current }
        }
        Decided::TooOld => {
            counters.writes_unknown.add(1);
            Outcome::TooOld
        }
        Decided::Ahead => {
            let at = net::request::request_id_at(to.operation).expect("only writes have a request id");
            Outcome::BadRequest { why: Why::RequestId, at }
        }
        Decided::IdsFull => Outcome::Busy { limit: Limit::RequestIds, hint_ms: 1000 },
        Decided::Ticked | Decided::Verified | Decided::Sealed => return,
    };
    tell(shard, to, |out| encode_outcome(out, log_time, &outcome));
}

/// Send a small answer whose room was reserved with the connection.
pub(crate) fn tell(shard: &Shard, to: &ReplyTo, encode: impl FnOnce(&mut [u8]) -> usize) {
    let epoch = shard.facts.map_epoch();
    if to.core != shard.index {
        let mut frame = [0; SMALL_REPLY_BYTES];
        let bytes = to.frame(epoch, &mut frame, encode);
        return shard.peers.tell(to.core, Kind::Reply, to, &frame[..bytes]);
    }
    // Gone: the client has closed its connection, and learns nothing.
    let Some(connection) = shard.connections.find(to) else { return };
    let mut outbox = connection.outbox.borrow_mut();
    outbox.release();
    let bytes = to.frame(epoch, outbox.room(), encode);
    outbox.advance(bytes);
    drop(outbox);
    connection.answered(shard);
    connection.wake_writer();
}

/// What came of writing an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wrote {
    Done,
    NoRoom,
    /// The encoder has declined: nothing was written.
    Nothing,
}

impl Wrote {
    /// For encoders that never decline.
    fn served(self) -> Served {
        match self {
            Wrote::Done => Served::Done,
            Wrote::NoRoom => Served::NoRoom,
            Wrote::Nothing => panic!("this encoder never declines"),
        }
    }
}

/// Write an answer whose body takes at most `bytes_max`.
#[inline]
fn write(
    shard: &Shard,
    out: Out<'_>,
    to: &ReplyTo,
    bytes_max: usize,
    encode: impl FnOnce(&mut [u8]) -> Option<usize>,
) -> Wrote {
    if bytes_max > to.frame_bytes as usize {
        // Only answers whose size is the data's, not the request's, come here: a record, an echo.
        let large = Outcome::TooLarge { limit: Limit::Frame };
        let small = SMALL_REPLY_BYTES - HEADER_BYTES;
        return write_fitting(shard, out, to, small, |body| Some(encode_outcome(body, LogTime(0), &large)));
    }
    write_fitting(shard, out, to, bytes_max, encode)
}

/// Write an answer that fits the frame agreed on.
#[inline]
fn write_fitting(
    shard: &Shard,
    out: Out<'_>,
    to: &ReplyTo,
    bytes_max: usize,
    encode: impl FnOnce(&mut [u8]) -> Option<usize>,
) -> Wrote {
    let epoch = shard.facts.map_epoch();
    match out {
        Out::Here(connection) => {
            let mut outbox = connection.outbox.borrow_mut();
            if !outbox.make_room(&shard.io, HEADER_BYTES + bytes_max) {
                return Wrote::NoRoom;
            }
            let Some(bytes) = to.try_frame(epoch, &mut outbox.room()[..HEADER_BYTES + bytes_max], encode)
            else {
                return Wrote::Nothing;
            };
            outbox.advance(bytes);
            drop(outbox);
            connection.answered(shard);
            Wrote::Done
        }
        Out::There => {
            shard.peers.answer(shard, to.core, Kind::Reply, to, HEADER_BYTES + bytes_max, |frame| {
                to.try_frame(epoch, frame, encode)
            })
        }
    }
}

/// Write a late answer, whose small room was reserved when its request was parked.
pub(crate) fn write_late(
    shard: &Shard,
    to: &ReplyTo,
    bytes_max: usize,
    encode: impl FnOnce(&mut [u8]) -> Option<usize>,
) -> Wrote {
    let epoch = shard.facts.map_epoch();
    if bytes_max > to.frame_bytes as usize {
        let large = Outcome::TooLarge { limit: Limit::Frame };
        tell(shard, to, |out| encode_outcome(out, LogTime(0), &large));
        return Wrote::Done;
    }
    if to.core != shard.index {
        return shard.peers.answer(shard, to.core, Kind::Reply, to, HEADER_BYTES + bytes_max, |frame| {
            to.try_frame(epoch, frame, encode)
        });
    }
    // Gone: the client has closed its connection, and learns nothing.
    let Some(connection) = shard.connections.find(to) else { return Wrote::Done };
    let mut outbox = connection.outbox.borrow_mut();
    if !outbox.make_room(&shard.io, HEADER_BYTES + bytes_max) {
        return Wrote::NoRoom;
    }
    let Some(bytes) = to.try_frame(epoch, &mut outbox.room()[..HEADER_BYTES + bytes_max], encode) else {
        return Wrote::Nothing;
    };
    outbox.advance(bytes);
    outbox.release();
    drop(outbox);
    connection.answered(shard);
    connection.wake_writer();
    Wrote::Done
}

fn outcome(shard: &Shard, out: Out<'_>, to: &ReplyTo, log_time: LogTime, outcome: &Outcome) -> Served {
    write(shard, out, to, SMALL_REPLY_BYTES - HEADER_BYTES, |body| {
        Some(encode_outcome(body, log_time, outcome))
    })
    .served()
}

/// Give up on room for an answer: say `Busy` instead. False when there is not even room for that.
pub(crate) fn refuse(shard: &Shard, connection: &Connection, to: &ReplyTo) -> bool {
    let busy = Outcome::Busy { limit: Limit::ReplyBuffers, hint_ms: 100 };
    outcome(shard, Out::Here(connection), to, LogTime(0), &busy) == Served::Done
}
