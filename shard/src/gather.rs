//! Multi-gets: the keys of one request may belong to several cores. Each core answers its part as finished items; the
//! core that holds the connection puts them behind one head. A part that does not come in time ends the whole in
//! `Timeout`; nothing is answered twice, because a gather has a generation like a connection.

use crate::budget::Held;
use crate::connection::Connection;
use crate::core::Shard;
use crate::door::{self, Served, Wrote};
use crate::get::{self, Asked, Looked};
use crate::log;
use crate::mesh::Kind;
use crate::parked::Work;
use crate::reply::ReplyTo;
use ioengine::Instant;
use layout::units::LogTime;
use net::frame::HEADER_BYTES;
use net::operation::Operation;
use net::outcome::{Limit, Outcome};
use net::reply::{
    MultiGetWriter, encode_outcome, patch_multi_get_head, reply_bytes_get_ok, reply_bytes_multi_get,
    reply_bytes_outcome,
};
use net::request::{Get, MultiGet, Request};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

/// A multi-get whose parts are under way.
struct Gather {
    to: ReplyTo,
    count: usize,
    /// Reply body so far: room for the head, then items.
    body: Vec<u8>,
    /// The bytes of the body.
    held: Held,
    parts_left: u32,
    /// A part could not be given.
    failed: Option<NoPart>,
    since: Instant,
}

/// Why a part has no items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoPart {
    /// There was no room for it: ask again.
    Busy,
    /// It is more than the answer's frame holds.
    TooLarge,
    /// This replica cannot say what is the newest: another one may.
    NotCurrent,
}

/// The gathers of a core, by a number that is never reused.
#[derive(Default)]
pub(crate) struct Gathers {
    next: RefCell<u64>,
    open: RefCell<BTreeMap<u64, Gather>>,
}

/// Serve a multi-get of a connection.
pub(crate) fn serve(shard: &Rc<Shard>, connection: &Connection, to: &ReplyTo, many: &MultiGet<'_>) -> Served {
    if !connection.outbox.borrow_mut().reserve(&shard.io) {
        return Served::NoRoom;
    }
    let head_bytes = reply_bytes_multi_get(0, 0);
    // With one key on the disk, or of a tablet whose tip has to be asked for, all keys of this core become a part of its own.
    let group = &shard.facts.group;
    let here = |get: &Get<'_>| shard.owns(get.key.tablet()) && group.holds(get.key.tablet());
    let waits = shard.logs.is_some() && many.gets().any(|get| !get.local);
    // What the version cell answers needs no other look, neither at the memtables nor at the disk.
    let unmodified: Vec<bool> =
        many.gets().map(|get| !waits && here(&get) && is_unmodified(shard, &get)).collect();
    let is_late = |(get, known): (Get<'_>, &bool)| !known && here(&get) && needs_disk(shard, &get);
    let late = waits || many.gets().zip(&unmodified).any(is_late);
    let own = |get: &Get<'_>| !late && here(get);
    let elsewhere = Outcome::WrongGroup { epoch: shard.facts.map_epoch() };
    let bytes_of = |(get, known): (Get<'_>, &bool)| match group.holds(get.key.tablet()) {
        true if own(&get) => item_bytes(shard, &get, *known),
        true => 0,
        false => item_bytes_of(reply_bytes_outcome(&elsewhere)),
    };
    let bytes = head_bytes + many.gets().zip(&unmodified).map(bytes_of).sum::<usize>();
    if bytes > to.frame_bytes as usize {
        refuse(shard, to, NoPart::TooLarge);
        return Served::Done;
    }
    let Some(held) = shard.waiting.take(bytes) else {
        ioengine::sometimes!("no room for one more multi-get");
        refuse(shard, to, NoPart::Busy);
        return Served::Done;
    };
    let mut gather = Gather {
        to: *to,
        count: many.count(),
        body: vec![0; bytes],
        held,
        parts_left: 0,
        failed: None,
        since: shard.io.now(),
    };
    let mut parts: BTreeMap<u16, Vec<u8>> = BTreeMap::new();
    let mut writer = MultiGetWriter::items_only(&mut gather.body[head_bytes..]);
    for ((index, get), known) in (0..).zip(many.gets()).zip(&unmodified) {
        if !group.holds(get.key.tablet()) {
            assert!(writer.outcome(index, LogTime(0), &elsewhere), "room was measured");
        } else if own(&get) {
            assert!(item(shard, &mut writer, index, &get, *known), "room was measured");
        } else {
            let part = parts.entry(shard.facts.owner(get.key.tablet())).or_default();
            let request = Request::Get(get);
            part.extend_from_slice(&index.to_le_bytes());
            let bytes = u16::try_from(request.encoded_bytes()).expect("a get is short");
            part.extend_from_slice(&bytes.to_le_bytes());
            request.encode(part);
        }
    }
    let bytes = head_bytes + writer.finish();
    gather.body.truncate(bytes);
    ask_parts(shard, &mut gather, to, &parts);
    if gather.parts_left == 0 {
        finish(shard, gather);
    } else {
        let number = shard.gathers.number();
        shard.gathers.open.borrow_mut().insert(number, gather);
    }
    Served::Done
}

fn ask_parts(shard: &Shard, gather: &mut Gather, to: &ReplyTo, parts: &BTreeMap<u16, Vec<u8>>) {
    let number = *shard.gathers.next.borrow();
    for (&owner, part) in parts {
        // The destination of the parts is this gather; the operation tells what they are made of.
        let part_to = ReplyTo {
            core: shard.index,
            slot: 0,
            generation: 0,
            request: number,
            frame_bytes: to.frame_bytes,
            operation: Operation::MultiGet,
        };
        if owner == shard.index {
            if shard.parking.has_room(part.len()) {
                park_part(shard, &part_to, part);
                gather.parts_left += 1;
            } else {
                gather.failed = Some(NoPart::Busy);
            }
        } else if shard.peers.ask(shard, owner, Kind::Part, &part_to, &[part]) {
            gather.parts_left += 1;
        } else {
            ioengine::sometimes!("a part of a multi-get finds a full ring");
            gather.failed = Some(NoPart::Busy);
        }
    }
    assert_eq!(to.operation, Operation::MultiGet, "parts are of multi-gets");
}

impl Gathers {
    fn number(&self) -> u64 {
        let mut next = self.next.borrow_mut();
        *next += 1;
        *next - 1
    }
}

/// Whether the version cell says that there is nothing newer.
fn is_unmodified(shard: &Shard, get: &Get<'_>) -> bool {
    get.if_newer.is_some_and(|asked| {
        get::is_unmodified(&mut shard.state.borrow_mut(), get.key.tablet(), get.key, asked)
    })
}

/// Bytes that an item takes.
fn item_bytes(shard: &Shard, get: &Get<'_>, unmodified: bool) -> usize {
    if unmodified {
        return item_bytes_of(reply_bytes_outcome(&Outcome::NotModified));
    }
    let state = shard.state.borrow();
    item_bytes_of(match get::look(&state, get.key.tablet(), get.key, asked(get)) {
        Looked::Found(found) => reply_bytes_get_ok(found.value.len()),
        Looked::Not(outcome) => reply_bytes_outcome(&outcome),
        Looked::Disk => 0,
    })
}

/// Bytes that an item with a result of this size takes.
pub(crate) fn item_bytes_of(result_bytes: usize) -> usize {
    reply_bytes_multi_get(1, result_bytes) - reply_bytes_multi_get(0, 0)
}

fn asked(get: &Get<'_>) -> Asked {
    Asked { if_newer: get.if_newer, local: get.local, ..Asked::default() }
}

fn needs_disk(shard: &Shard, get: &Get<'_>) -> bool {
    get::look(&shard.state.borrow(), get.key.tablet(), get.key, asked(get)) == Looked::Disk
}

fn item(shard: &Shard, writer: &mut MultiGetWriter<'_>, index: u16, get: &Get<'_>, unmodified: bool) -> bool {
    let tablet = get.key.tablet();
    shard.count_get(&get.key);
    let state = shard.state.borrow();
    let log_time = state.tablet(tablet).log_time;
    if unmodified {
        return writer.outcome(index, log_time, &Outcome::NotModified);
    }
    match get::look(&state, tablet, get.key, asked(get)) {
        Looked::Disk => panic!("parts with keys on the disk are parked"),
        Looked::Found(found) => {
            if get::wants_tick(&found, || shard.clock(state.tablet(tablet))) {
                shard.want_tick(tablet);
            }
            writer.record(index, log_time, found.version, found.expiry_us, found.value)
        }
        Looked::Not(other) => writer.outcome(index, log_time, &other),
    }
}

/// Park a part: for its tips, if any of it is a strong read of a group, else for the disk.
fn park_part(shard: &Shard, to: &ReplyTo, part: &[u8]) {
    if needs_tip(shard, part) {
        let tablets = part_gets(part).filter(|(_, get)| !get.local).map(|(_, get)| get.key.tablet());
        return log::wait_for_tip(shard, to, Work::Part, tablets, |body| body.extend_from_slice(part));
    }
    shard.parking.park(*to, Work::Part, shard.io.now(), |body| body.extend_from_slice(part));
}

fn needs_tip(shard: &Shard, part: &[u8]) -> bool {
    shard.logs.is_some() && part_gets(part).any(|(_, get)| !get.local)
}

/// A part of another core's multi-get: keys of this core's tablets.
pub(crate) fn serve_part(shard: &Rc<Shard>, to: &ReplyTo, part: &[u8]) {
    let waits = needs_tip(shard, part);
    let unmodified: Vec<bool> =
        part_gets(part).map(|(_, get)| !waits && is_unmodified(shard, &get)).collect();
    let is_late = |((_, get), known): ((u16, Get<'_>), &bool)| !known && needs_disk(shard, &get);
    if waits || part_gets(part).zip(&unmodified).any(is_late) {
        if shard.parking.has_room(part.len()) {
            park_part(shard, to, part);
        } else {
            give_no_part(shard, to, NoPart::Busy);
        }
        return;
    }
    let bytes_max =
        part_gets(part).zip(&unmodified).map(|((_, get), known)| item_bytes(shard, &get, *known)).sum();
    if bytes_max > to.frame_bytes as usize {
        return give_no_part(shard, to, NoPart::TooLarge);
    }
    let wrote = shard.peers.answer(shard, to.core, Kind::PartReply, to, bytes_max, |out| {
        let mut writer = MultiGetWriter::items_only(out);
        for ((index, get), known) in part_gets(part).zip(&unmodified) {
            assert!(item(shard, &mut writer, index, &get, *known), "room was measured");
        }
        Some(writer.finish())
    });
    if wrote != Wrote::Done {
        give_no_part(shard, to, NoPart::Busy);
    }
}

/// Items that were found, to the core that asked.
pub(crate) fn give_part(shard: &Shard, to: &ReplyTo, items: &[u8]) {
    if to.core == shard.index {
        return take_part(shard, to, Ok(items));
    }
    let wrote = shard.peers.answer(shard, to.core, Kind::PartReply, to, items.len(), |out| {
        out[..items.len()].copy_from_slice(items);
        Some(items.len())
    });
    if wrote != Wrote::Done {
        give_no_part(shard, to, NoPart::Busy);
    }
}

/// A part cannot be given to the core that asked.
pub(crate) fn give_no_part(shard: &Shard, to: &ReplyTo, why: NoPart) {
    if to.core == shard.index {
        return take_part(shard, to, Err(why));
    }
    let kind = match why {
        NoPart::Busy => Kind::PartBusy,
        NoPart::TooLarge => Kind::PartTooLarge,
        NoPart::NotCurrent => Kind::PartNotCurrent,
    };
    shard.peers.tell(to.core, kind, to, &[]);
}

/// The gets of a part, each with its place in the whole.
pub(crate) fn part_gets(part: &[u8]) -> impl Iterator<Item = (u16, Get<'_>)> {
    let mut rest = part;
    std::iter::from_fn(move || {
        let (head, tail) = rest.split_first_chunk::<4>()?;
        let index = u16::from_le_bytes([head[0], head[1]]);
        let (get, tail) = tail.split_at(usize::from(u16::from_le_bytes([head[2], head[3]])));
        rest = tail;
        match Request::decode(Operation::Get, get) {
            Ok(Request::Get(get)) => Some((index, get)),
            other => panic!("the other core has encoded gets, not {other:?}"),
        }
    })
}

/// A part came, from another core or a reader of this one.
pub(crate) fn take_part(shard: &Shard, to: &ReplyTo, part: Result<&[u8], NoPart>) {
    let mut open = shard.gathers.open.borrow_mut();
    // Gone: it was answered for want of time.
    let Some(gather) = open.get_mut(&to.request) else { return };
    gather.take(part);
    if gather.parts_left == 0
        && let Some(gather) = open.remove(&to.request)
    {
        drop(open);
        finish(shard, gather);
    }
}

impl Gather {
    fn take(&mut self, part: Result<&[u8], NoPart>) {
        self.parts_left -= 1;
        let taken = part.and_then(|items| {
            if self.body.len() + items.len() > self.to.frame_bytes as usize {
                return Err(NoPart::TooLarge);
            }
            if !self.held.grow(items.len()) {
                return Err(NoPart::Busy);
            }
            self.body.extend_from_slice(items);
            Ok(())
        });
        if let Err(why) = taken {
            // What cannot be whatever the others say, is said before what may be later.
            if self.failed != Some(NoPart::TooLarge) {
                self.failed = Some(why);
            }
        }
    }
}

fn refuse(shard: &Shard, to: &ReplyTo, why: NoPart) {
    let outcome = match why {
        NoPart::Busy => Outcome::Busy { limit: Limit::Queue, hint_ms: 5 },
        NoPart::TooLarge => Outcome::TooLarge { limit: Limit::Frame },
        NoPart::NotCurrent => Outcome::NotCurrent,
    };
    door::tell(shard, to, |out| encode_outcome(out, LogTime(0), &outcome));
}

fn finish(shard: &Shard, mut gather: Gather) {
    let Some(connection) = shard.connections.find(&gather.to) else { return };
    if let Some(why) = gather.failed {
        return refuse(shard, &gather.to, why);
    }
    patch_multi_get_head(&mut gather.body, gather.count);
    let bytes = HEADER_BYTES + gather.body.len();
    let mut outbox = connection.outbox.borrow_mut();
    if !outbox.make_room(&shard.io, bytes) {
        drop(outbox);
        let busy = Outcome::Busy { limit: Limit::ReplyBuffers, hint_ms: 20 };
        return door::tell(shard, &gather.to, |out| encode_outcome(out, LogTime(0), &busy));
    }
    outbox.release();
    let written = gather.to.frame(shard.facts.map_epoch(), &mut outbox.room()[..bytes], |out| {
        out.copy_from_slice(&gather.body);
        gather.body.len()
    });
    outbox.advance(written);
    drop(outbox);
    connection.answered(shard);
    connection.wake_writer();
}

/// Answer gathers whose parts are overdue.
pub(crate) fn answer_overdue(shard: &Shard, now: Instant) {
    let overdue: Vec<u64> = shard
        .gathers
        .open
        .borrow()
        .iter()
        .filter(|(_, gather)| now.since(gather.since) > shard.limits.request_deadline)
        .map(|(number, _)| *number)
        .collect();
    for number in overdue {
        let gather = shard.gathers.open.borrow_mut().remove(&number);
        if let Some(gather) = gather {
            door::tell(shard, &gather.to, |out| encode_outcome(out, LogTime(0), &Outcome::Timeout));
        }
    }
}
