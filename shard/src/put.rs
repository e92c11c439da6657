//! Life of a write up to the journal: everything that can refuse it is asked before it is staged, so that once it is
//! in a record nothing but its own compare can stop it. What it does is decided when its entry is applied.

use crate::apply::{Decided, State};
use crate::core::Shard;
use crate::get::{Asked, Looked, look};
use crate::journal::Claim;
use crate::log::Logs;
use crate::memtable::Charge;
use crate::reply::ReplyTo;
use crate::requests::Seen;
use crate::staging;
use layout::key::{Key, bucket_of, tablet_of};
use layout::log_entry::{Change, ENTRY_HEADER_BYTES, Operation, Write};
use layout::units::{ENTRY_BODY_BYTES_MAX, LogIndex, RequestId, Space, TabletIndex, Version};
use net::outcome::{Limit, Outcome, Why};
use net::request::{self, Batch, CompareAndSet, Delete, Put};

/// When a full bound is worth another try, in milliseconds: the journal is quick, space is not.
const HINT_SOON_MS: u32 = 2;
const HINT_LATER_MS: u32 = 1000;

/// A write as the wire brought it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wanted<'a> {
    Put(Put<'a>),
    Delete(Delete<'a>),
    CompareAndSet(CompareAndSet<'a>),
    Batch(Batch<'a>),
}

/// What became of it at the door.
#[derive(Debug)]
pub(crate) enum Admitted {
    /// It waits for the journal; the answer comes later.
    Staged,
    /// It is decided already: a retry, or a compare that cannot hold.
    Decided(Decided),
    /// Nothing was done.
    Refused(Outcome),
    /// Nothing was done: the disk has to be asked for the record that is compared.
    Disk,
}

/// What a compare-and-set observed: the version, and the log index applied at that moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Observed {
    pub(crate) version: Version,
    pub(crate) index: LogIndex,
    pub(crate) expiry_us: u64,
}

/// A write that nothing about its tablet stops.
struct Checked {
    tablet: TabletIndex,
    observed: Observed,
    /// Room it takes in the memtable at most.
    charge: Charge,
    /// Bytes and count of its log operations.
    bytes: usize,
    operation_count: usize,
}

/// Admit a write to the batch that waits for the journal. `to` is who is answered later; `observed` what was read from
/// the disk for a compare-and-set.
pub(crate) fn admit(shard: &Shard, wanted: &Wanted<'_>, to: ReplyTo, observed: Option<Observed>) -> Admitted {
    let mut state = shard.state.borrow_mut();
    let checked = match check(shard, &mut state, wanted, observed) {
        Ok(checked) => checked,
        Err(admitted) => return admitted,
    };
    let mut batch = shard.batch.borrow_mut();
    if let Err(outcome) = reserve(shard, &mut state, &batch, wanted, &checked) {
        return Admitted::Refused(outcome);
    }
    let request = staging::Request {
        tablet: checked.tablet,
        reply_to: Some(to),
        since: shard.io.turn_began(),
        charge: checked.charge,
    };
    batch.push(request, |add| wanted.for_each(checked.observed, add));
    drop(batch);
    shard.staged.notify();
    Admitted::Staged
}

/// Everything about the tablet and the request itself.
fn check(
    shard: &Shard,
    state: &mut State,
    wanted: &Wanted<'_>,
    observed: Option<Observed>,
) -> Result<Checked, Admitted> {
    let tablet = wanted.tablet();
    let own = state.tablet_mut(tablet);
    // A tablet that lost part of its log cannot know what it promised: it takes no writes. In a group another replica may.
    if shard.logs.as_ref().is_some_and(|logs| !logs.is_voter(tablet)) {
        return Err(Admitted::Refused(Outcome::NotCurrent));
    }
    if own.damage.is_some() {
        return Err(Admitted::Refused(Outcome::Corrupt));
    }
    if shard.failed.get() || shard.journal.as_ref().is_none_or(|journal| journal.disk().ended()) {
        return Err(busy(Limit::Device, HINT_LATER_MS));
    }
    let now = own.clock(shard.io.wall_us(), || shard.io.now().ns / 1000);
    match own.requests.check(wanted.id(), now) {
        // Ahead: this replica may only be behind the one that told the client; apply decides.
        Seen::New | Seen::Ahead => {}
        Seen::Applied(outcome) => return Err(Admitted::Decided(outcome.into())),
        Seen::TooOld => return Err(Admitted::Decided(Decided::TooOld)),
        Seen::Full => return Err(busy(Limit::RequestIds, HINT_LATER_MS)),
    }
    let nothing = Observed { version: Version::ABSENT, index: own.applied, expiry_us: 0 };
    let observed = match wanted {
        Wanted::CompareAndSet(compare) => observe(state, compare, observed)?,
        _ => nothing,
    };
    let latest = now.0.saturating_add(shard.limits.time_ahead_max.as_micros() as u64);
    let mut checked = Checked { tablet, observed, charge: Charge::NONE, bytes: 0, operation_count: 0 };
    let mut too_far = None;
    wanted.for_each(observed, &mut |operation| {
        if let Operation::Write(write) = operation {
            if write.key.time > latest && too_far.is_none() {
                too_far = Some(checked.operation_count);
            }
            checked.charge = checked.charge.plus(charge(state, &write));
        }
        checked.bytes += operation.encoded_bytes();
        checked.operation_count += 1;
    });
    if let Some(number) = too_far {
        let at = wanted.time_at(number);
        return Err(Admitted::Refused(Outcome::BadRequest { why: Why::Time, at }));
    }
    if checked.bytes > ENTRY_BODY_BYTES_MAX.min(shard.limits.staging_bytes) {
        return Err(Admitted::Refused(Outcome::TooLarge { limit: Limit::Entry }));
    }
    Ok(checked)
}

/// What a compare-and-set meets now, if it is what it expects.
fn observe(
    state: &State,
    compare: &CompareAndSet<'_>,
    from_disk: Option<Observed>,
) -> Result<Observed, Admitted> {
    let tablet = compare.key.tablet();
    let index = state.tablet(tablet).applied;
    let observed = match look(state, tablet, compare.key, Asked::default()) {
        Looked::Found(visible) => Observed { version: visible.version, index, expiry_us: visible.expiry_us },
        Looked::Not(Outcome::NotFound) => Observed { version: Version::ABSENT, index, expiry_us: 0 },
        Looked::Not(other) => return Err(Admitted::Refused(other)),
        // Still not in memory, so nobody has written it since; and if, the list of recent keys knows.
        Looked::Disk => {
            let read = from_disk.ok_or(Admitted::Disk)?;
            // It may have expired since it was read: the answer names the log time of now.
            let expired = state.tablet(tablet).log_time.has_expired(read.expiry_us);
            if expired { Observed { version: Version::ABSENT, expiry_us: 0, ..read } } else { read }
        }
    };
    if observed.version != compare.expected {
        return Err(Admitted::Decided(Decided::Mismatch(Some(observed.version))));
    }
    Ok(observed)
}

/// Room in the batch, the journal and the memtable; the memtable's is reserved.
fn reserve(
    shard: &Shard,
    state: &mut State,
    batch: &staging::Batch,
    wanted: &Wanted<'_>,
    checked: &Checked,
) -> Result<(), Outcome> {
    let full = |limit, hint_ms| Outcome::Busy { limit, hint_ms };
    let body_bytes = batch
        .body_bytes_with(checked.tablet, checked.bytes, checked.operation_count)
        .ok_or(full(Limit::Journal, HINT_SOON_MS))?;
    let journal = shard.journal.as_ref().expect("a shard without a journal refuses before");
    if shard.stuck.get() {
        return Err(full(Limit::Space, HINT_LATER_MS));
    }
    let queued = shard.logs.as_ref().map_or(0, Logs::queued_bytes);
    let bytes = queued + body_bytes + ENTRY_HEADER_BYTES;
    if !journal.has_room(wanted.claim(), shard.flying_bytes.get(), bytes) {
        ioengine::sometimes!("journal full");
        return Err(full(Limit::Space, HINT_LATER_MS));
    }
    // Some room is left, and it is for deletes.
    if shard.keeper.is_spent() && wanted.claim() == Claim::Write {
        ioengine::sometimes!("tables full");
        return Err(full(Limit::Space, HINT_LATER_MS));
    }
    state.memtables.active.admit(checked.charge).map_err(|_| {
        ioengine::sometimes!("memtable full");
        let is_short = shard.keeper.is_short();
        full(if is_short { Limit::Space } else { Limit::Memory }, HINT_LATER_MS)
    })
}

fn busy(limit: Limit, hint_ms: u32) -> Admitted {
    Admitted::Refused(Outcome::Busy { limit, hint_ms })
}

/// What a write takes of the memtable. A tombstone over a record that is there takes nothing: deletes go on when
/// memory is full.
fn charge(state: &State, write: &Write<'_>) -> Charge {
    let key = write.key;
    match write.value() {
        None if state.memtables.active.get(state.memtables.key_hash(key), key).is_some() => Charge::NONE,
        _ => Charge::of(write),
    }
}

impl<'a> Wanted<'a> {
    fn id(&self) -> RequestId {
        match self {
            Wanted::Put(put) => put.id,
            Wanted::Delete(delete) => delete.id,
            Wanted::CompareAndSet(compare) => compare.id,
            Wanted::Batch(batch) => batch.id,
        }
    }

    fn stream(&self) -> (Space, &'a [u8]) {
        match self {
            Wanted::Put(Put { key, .. })
            | Wanted::Delete(Delete { key, .. })
            | Wanted::CompareAndSet(CompareAndSet { key, .. }) => (key.space, key.stream),
            Wanted::Batch(Batch { space, stream, .. }) => (*space, stream),
        }
    }

    pub(crate) fn tablet(&self) -> TabletIndex {
        let (space, stream) = self.stream();
        tablet_of(bucket_of(space, stream))
    }

    pub(crate) fn operation_count(&self) -> u32 {
        match self {
            Wanted::Put(_) | Wanted::Delete(_) | Wanted::CompareAndSet(_) => 1,
            Wanted::Batch(batch) => u32::try_from(batch.count()).expect("bounded by the protocol"),
        }
    }

    /// Where in the request's body the time of its operation `number` stands.
    fn time_at(&self, number: usize) -> u32 {
        match self {
            Wanted::Put(_) | Wanted::Delete(_) | Wanted::CompareAndSet(_) => request::TIME_AT,
            Wanted::Batch(batch) => batch.time_at(number),
        }
    }

    /// Only deletes go on when the disk is full.
    fn claim(&self) -> Claim {
        let frees = match self {
            Wanted::Put(_) | Wanted::CompareAndSet(_) => false,
            Wanted::Delete(_) => true,
            Wanted::Batch(batch) => {
                batch.operations().all(|one| matches!(one.change, request::Change::Delete))
            }
        };
        if frees { Claim::Delete } else { Claim::Write }
    }

    /// The log operations of this write, in order.
    fn for_each(&self, observed: Observed, add: &mut dyn FnMut(Operation<'a>)) {
        let request = self.id();
        let mut write = |key, expiry_us, change, atomic_with_next| {
            add(Operation::Write(Write { key, request, expiry_us, atomic_with_next, change }));
        };
        match *self {
            Wanted::Put(Put { key, expiry, value, .. }) => write(key, expiry, Change::Put { value }, false),
            Wanted::Delete(Delete { key, .. }) => write(key, 0, Change::Delete, false),
            Wanted::CompareAndSet(CompareAndSet { key, expiry, value, expected, .. }) => {
                let change = Change::CompareAndSet {
                    expected,
                    observed: observed.version,
                    observed_index: observed.index,
                    observed_expiry_us: observed.expiry_us,
                    value: Some(value),
                };
                write(key, expiry, change, false);
            }
            Wanted::Batch(batch) => {
                for (number, one) in batch.operations().enumerate() {
                    let key = Key { space: batch.space, stream: batch.stream, time: one.time };
                    let more = number + 1 < batch.count();
                    match one.change {
                        request::Change::Put { expiry, value } => {
                            write(key, expiry, Change::Put { value }, more)
                        }
                        request::Change::Delete => write(key, 0, Change::Delete, more),
                    }
                }
            }
        }
    }
}
