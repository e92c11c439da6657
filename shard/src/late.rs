//! Life of a request that memory alone cannot answer: reads the disk, then ends as its quick sibling would. Each kind of
//! request is one async function that reads top-down; what it decides, it decides with the functions of `get`, `scan`
//! and `put`.
//!
//! What is read from the disk was true when its tables were looked up; what has been written since lies in the
//! memtables. A get answers for the moment of the look-up, which lies inside the request. A page joins both in one turn,
//! and begins again if records have moved from a memtable into tables in between.

use crate::apply::State;
use crate::core::Shard;
use crate::door::{self, Wrote};
use crate::gather::{self, NoPart};
use crate::get::{self, Asked, Looked, Visible};
use crate::log;
use crate::lsm::{self, Fetched, ReadError, Reader, Told};
use crate::memtable::Record;
use crate::parked::{Parked, Work};
use crate::put::{self, Admitted, Observed, Wanted};
use crate::reply::ReplyTo;
use crate::scan::{self, Span};
use crate::versions::FillToken;
use layout::key::Key;
use layout::units::{LogTime, TabletIndex, Version};
use net::outcome::{Limit, Outcome};
use net::redirect::{Redirect, encode_redirect};
use net::reply::{MultiGetWriter, encode_get_ok, encode_outcome, reply_bytes_get_ok, reply_bytes_outcome};
use net::request::{CompareAndSet, Get, Request, Streams};
use std::rc::Rc;
use std::time::Duration;

/// How long to wait before room for an answer is asked for again.
const ROOM_RETRY: Duration = Duration::from_millis(2);

/// Serve a parked request to its end.
pub(crate) async fn serve(shard: &Rc<Shard>, parked: &Parked, reader: &mut Reader) {
    let to = &parked.to;
    if parked.work == Work::Part {
        return part(shard, to, &parked.body, reader).await;
    }
    match Request::decode(to.operation, &parked.body).expect("the door has decoded it before") {
        Request::Get(get) => record(shard, to, &get, reader).await,
        Request::CompareAndSet(compare) => compare_and_set(shard, to, &compare, reader).await,
        Request::Scan(scan) => span(shard, to, &Span::from(scan), reader).await,
        Request::Head(head) => span(shard, to, &Span::from(head), reader).await,
        Request::Streams(asked) => streams(shard, to, &asked, reader).await,
        other => panic!("nothing of {other:?} lies on a disk"),
    }
}

/// What is found of a key.
enum Found {
    /// Version and expiry of its record; the value is in `reader.value`.
    Record(Version, u64),
    /// There is none to show, and this is why.
    Not(Outcome),
    /// Who may be redirected finds it there.
    Elsewhere(Redirect),
}

impl Found {
    /// For who may not be redirected.
    fn here(self) -> Result<(Version, u64), Outcome> {
        match self {
            Found::Record(version, expiry_us) => Ok((version, expiry_us)),
            Found::Not(outcome) => Err(outcome),
            Found::Elsewhere(redirect) => panic!("nobody asked for {redirect:?}"),
        }
    }
}

/// The newest record of a key, wherever it lies. Its value is in `reader.value`.
async fn find(
    shard: &Shard,
    key: Key<'_>,
    asked: Asked,
    redirect: bool,
    reader: &mut Reader,
) -> (LogTime, Found) {
    let tablet = key.tablet();
    let (log_time, fill) = {
        let state = shard.state.borrow();
        let own = state.tablet(tablet);
        match get::look(&state, tablet, key, asked) {
            Looked::Found(found) => {
                let (version, expiry_us) = reader.keep(&found);
                return (own.log_time, Found::Record(version, expiry_us));
            }
            Looked::Not(outcome) => return (own.log_time, Found::Not(outcome)),
            Looked::Disk => state.tables.list(tablet, key.time, reader),
        }
        // What a damaged tablet still has may not be the newest.
        let is_whole = own.damage.is_none();
        (own.log_time, is_whole.then(|| state.versions.begin_fill(state.versions.place(tablet, key))))
    };
    let told = match lsm::fetch(shard, key, redirect, reader).await {
        Ok(Told::Elsewhere(redirect)) => return (log_time, Found::Elsewhere(redirect)),
        Ok(Told::Record(found)) => Ok(Some(found)),
        Ok(Told::Absent) => Ok(None),
        Err(error) => Err(error),
    };
    let judged = match told {
        Ok(found) => {
            if let (Some(found), Some(token)) = (&found, fill) {
                fill_cell(shard, found, token);
            }
            let record = found.map(|found| Record {
                version: found.version,
                expiry_us: found.expiry_us,
                value: (!found.is_tombstone).then_some(reader.value.as_slice()),
            });
            match get::judge(record, log_time, asked.if_newer) {
                Looked::Found(Visible { version, expiry_us, .. }) => Found::Record(version, expiry_us),
                Looked::Not(outcome) => Found::Not(outcome),
                Looked::Disk => panic!("the disk was asked"),
            }
        }
        Err(error) => {
            shard.counters.disk_read_errors.add(1);
            tracing::error!(%error, tablet = tablet.get(), "a record cannot be read");
            Found::Not(log::cannot_read(shard, tablet, &error))
        }
    };
    (log_time, judged)
}

/// The version cache learns what the disk said: the next to ask whether it has changed needs no disk. A cell holds no record
/// that expires.
fn fill_cell(shard: &Shard, found: &Fetched, token: FillToken) {
    if !found.is_tombstone && found.expiry_us == 0 {
        ioengine::sometimes!("a read fills a version cell");
        shard.state.borrow_mut().versions.fill(token, found.version);
    }
}

/// Log time, if the version cell alone says that the record is the one asked about.
fn unmodified(shard: &Shard, get: &Get<'_>) -> Option<LogTime> {
    let (tablet, asked) = (get.key.tablet(), get.if_newer?);
    let mut state = shard.state.borrow_mut();
    if !get::is_unmodified(&mut state, tablet, get.key, asked) {
        return None;
    }
    shard.counters.gets_not_modified.add(1);
    Some(state.tablet(tablet).log_time)
}

async fn record(shard: &Rc<Shard>, to: &ReplyTo, get: &Get<'_>, reader: &mut Reader) {
    let asked = Asked { if_newer: get.if_newer, local: get.local, ..Asked::default() };
    if let Some(log_time) = unmodified(shard, get)
        && shard.parking.claim(reader.number)
    {
        shard.count_get(&get.key);
        return door::tell(shard, to, |out| encode_outcome(out, log_time, &Outcome::NotModified));
    }
    let (log_time, found) = find(shard, get.key, asked, get.redirect, reader).await;
    if !shard.parking.claim(reader.number) {
        return;
    }
    shard.count_get(&get.key);
    match found {
        Found::Record(version, expiry_us) => {
            let value = std::mem::take(&mut reader.value);
            wants_tick(shard, get.key, Visible { version, expiry_us, value: &value });
            answer(shard, to, reply_bytes_get_ok(value.len()), |out| {
                encode_get_ok(out, log_time, version, expiry_us, &value)
            })
            .await;
            reader.value = value;
        }
        Found::Not(outcome) => door::tell(shard, to, |out| encode_outcome(out, log_time, &outcome)),
        Found::Elsewhere(redirect) => {
            answer(shard, to, Redirect::REPLY_BYTES, |out| encode_redirect(out, log_time, &redirect)).await;
        }
    }
}

fn wants_tick(shard: &Shard, key: Key<'_>, visible: Visible<'_>) {
    let tablet = key.tablet();
    if get::wants_tick(&visible, || shard.clock(shard.state.borrow().tablet(tablet))) {
        shard.want_tick(tablet);
    }
}

async fn compare_and_set(shard: &Rc<Shard>, to: &ReplyTo, compare: &CompareAndSet<'_>, reader: &mut Reader) {
    let index = shard.state.borrow().tablet(compare.key.tablet()).applied;
    let (_, found) = find(shard, compare.key, Asked::default(), false, reader).await;
    // Before it is staged: once it is, its entry answers.
    if !shard.parking.claim(reader.number) {
        return;
    }
    let wanted = Wanted::CompareAndSet(*compare);
    let admitted = match found.here() {
        Ok((version, expiry_us)) => {
            put::admit(shard, &wanted, *to, Some(Observed { version, index, expiry_us }))
        }
        Err(Outcome::NotFound) => {
            put::admit(shard, &wanted, *to, Some(Observed { version: Version::ABSENT, index, expiry_us: 0 }))
        }
        Err(other) => Admitted::Refused(other),
    };
    door::end_write(shard, to, &wanted, admitted);
}

/// Write an answer of at most `bytes_max`, waiting for room; without room in time, `Busy`.
async fn answer(shard: &Shard, to: &ReplyTo, bytes_max: usize, encode: impl Fn(&mut [u8]) -> usize) {
    let deadline = shard.io.now().after(shard.limits.request_deadline);
    while door::write_late(shard, to, bytes_max, |out| Some(encode(out))) == Wrote::NoRoom {
        ioengine::sometimes!("a late answer waits for room");
        if shard.io.now() >= deadline {
            return no_room(shard, to);
        }
        shard.io.sleep(ROOM_RETRY).await;
    }
}

fn no_room(shard: &Shard, to: &ReplyTo) {
    shard.counters.replies_refused.add(1);
    let busy = Outcome::Busy { limit: Limit::ReplyBuffers, hint_ms: 100 };
    door::tell(shard, to, |out| encode_outcome(out, LogTime(0), &busy));
}

/// What came of joining what was gathered with the memtables.
enum Joined {
    /// Records have moved from a memtable into tables meanwhile: what was gathered may miss them.
    Stale,
    /// Answered, or there was no room, or not even one record fitted.
    Wrote(Wrote),
    /// There is nothing to show, for this reason.
    Refused(LogTime, Outcome),
}

/// A page of records of which some lie on the disk.
async fn span(shard: &Rc<Shard>, to: &ReplyTo, span: &Span<'_>, reader: &mut Reader) {
    let tablet = span.tablet();
    let deadline = shard.io.now().after(shard.limits.request_deadline);
    let (mut bytes, mut claimed) = (door::page_bytes(to, span.byte_limit), false);
    loop {
        let moved = shard.state.borrow().tables.moved_count(tablet);
        let gathered = lsm::gather(shard, span, bytes, reader).await;
        claimed = claimed || shard.parking.claim(reader.number);
        if !claimed {
            return;
        }
        let joined = join(shard, to, tablet, moved, gathered, bytes, |state, room| {
            scan::records_with(state, span, &reader.gathered, room)
        });
        match joined {
            Joined::Stale => {}
            Joined::Wrote(Wrote::Done) => return shard.counters.scans.add(1),
            Joined::Wrote(Wrote::NoRoom) if shard.io.now() < deadline => shard.io.sleep(ROOM_RETRY).await,
            Joined::Wrote(Wrote::NoRoom) => return no_room(shard, to),
            // Not even one record fits a page: try with all that a frame can hold.
            Joined::Wrote(Wrote::Nothing) if bytes < to.frame_bytes as usize => {
                bytes = to.frame_bytes as usize
            }
            Joined::Wrote(Wrote::Nothing) => {
                let large = Outcome::TooLarge { limit: Limit::Frame };
                return door::tell(shard, to, |out| encode_outcome(out, LogTime(0), &large));
            }
            Joined::Refused(log_time, outcome) => {
                return door::tell(shard, to, |out| encode_outcome(out, log_time, &outcome));
            }
        }
    }
}

/// Streams of a tablet of which some lie on the disk.
async fn streams(shard: &Rc<Shard>, to: &ReplyTo, asked: &Streams<'_>, reader: &mut Reader) {
    let tablet = asked.tablet;
    let deadline = shard.io.now().after(shard.limits.request_deadline);
    let bytes = door::page_bytes(to, 0);
    let mut claimed = false;
    loop {
        let moved = shard.state.borrow().tables.moved_count(tablet);
        let gathered = lsm::gather_streams(shard, asked, bytes, reader).await;
        claimed = claimed || shard.parking.claim(reader.number);
        if !claimed {
            return;
        }
        let joined = join(shard, to, tablet, moved, gathered, bytes, |state, room| {
            Some(scan::streams_with(state, asked, &reader.gathered, room))
        });
        match joined {
            Joined::Stale => {}
            Joined::Wrote(Wrote::NoRoom) if shard.io.now() < deadline => shard.io.sleep(ROOM_RETRY).await,
            Joined::Wrote(Wrote::NoRoom) => return no_room(shard, to),
            Joined::Wrote(Wrote::Done | Wrote::Nothing) => return shard.counters.scans.add(1),
            Joined::Refused(log_time, outcome) => {
                return door::tell(shard, to, |out| encode_outcome(out, log_time, &outcome));
            }
        }
    }
}

/// One turn: `fill` joins what was gathered with the memtables and writes the answer, of at most `bytes`.
fn join(
    shard: &Shard,
    to: &ReplyTo,
    tablet: TabletIndex,
    moved: u64,
    gathered: Result<(), ReadError>,
    bytes: usize,
    fill: impl FnOnce(&State, &mut [u8]) -> Option<Result<usize, Outcome>>,
) -> Joined {
    let state = shard.state.borrow();
    if state.tables.moved_count(tablet) != moved {
        ioengine::sometimes!("records moved into tables under a scan");
        return Joined::Stale;
    }
    let log_time = state.tablet(tablet).log_time;
    if let Err(error) = gathered {
        drop(state);
        shard.counters.disk_read_errors.add(1);
        tracing::error!(%error, tablet = tablet.get(), "a range cannot be read");
        return Joined::Refused(log_time, log::cannot_read(shard, tablet, &error));
    }
    let mut refused = None;
    let wrote = door::write_late(shard, to, bytes, |room| match fill(&state, room)? {
        Ok(bytes) => Some(bytes),
        Err(other) => {
            refused = Some(other);
            None
        }
    });
    refused.map_or(Joined::Wrote(wrote), |outcome| Joined::Refused(log_time, outcome))
}

/// Keys of a multi-get, some of which lie on the disk.
async fn part(shard: &Rc<Shard>, to: &ReplyTo, body: &[u8], reader: &mut Reader) {
    let mut items = Vec::new();
    for (index, get) in gather::part_gets(body) {
        let (log_time, found) = match unmodified(shard, &get) {
            Some(log_time) => (log_time, Err(Outcome::NotModified)),
            None => {
                let asked = Asked { if_newer: get.if_newer, local: get.local, ..Asked::default() };
                let (log_time, found) = find(shard, get.key, asked, false, reader).await;
                (log_time, found.here())
            }
        };
        shard.count_get(&get.key);
        let begin = items.len();
        let bytes = gather::item_bytes_of(match &found {
            Ok(_) => reply_bytes_get_ok(reader.value.len()),
            Err(outcome) => reply_bytes_outcome(outcome),
        });
        if begin + bytes > to.frame_bytes as usize {
            ioengine::sometimes!("a late part is more than a frame");
            if shard.parking.claim(reader.number) {
                gather::give_no_part(shard, to, NoPart::TooLarge);
            }
            return;
        }
        items.resize(begin + bytes, 0);
        let mut writer = MultiGetWriter::items_only(&mut items[begin..]);
        let fits = match found {
            Ok((version, expiry_us)) => {
                wants_tick(shard, get.key, Visible { version, expiry_us, value: &reader.value });
                writer.record(index, log_time, version, expiry_us, &reader.value)
            }
            Err(outcome) => writer.outcome(index, log_time, &outcome),
        };
        assert!(fits && writer.finish() == bytes, "an item is as long as was measured");
    }
    if shard.parking.claim(reader.number) {
        gather::give_part(shard, to, &items);
    }
}
