//! Sealed windows that are old enough leave the SSD for the disks of a cold group: who does it, when, and what is left there that is nobody's.
//!
//! ```text
//! begin, by one replica       sections to three machines       sunk, with links           each replica
//!    | generation of its own      | flushed, read back            | names the sunk table      | sunk table in, sealed table out
//! ---B------------------------------------------------------------S-----------------------------------------------------> log
//! ```
//!
//! Must never drop a sealed table: `lsm/agree.rs` does, once the log says that the window is sunk and the table that takes its place is
//! here. Invariant: a window has its sealed table at every replica, or links in the log to three whole copies; a try that ends anywhere
//! leaves at most places that carry a generation which nobody links.

mod group;
mod half_dead;
mod maker;
mod pass;
mod sweep;

pub(crate) use group::{ARENA_BYTES, ColdFailure};
pub use group::{Agreed, ColdGroup, Done};
pub(crate) use half_dead::Moving;
pub(crate) use sweep::run as run_sweep;

use crate::core::{Phase, Shard};
use crate::log::Logs;
use crate::lsm::{Made, MergeError, Table, make_sunk};
use crate::seals::Seals;
use ioengine::Instant;
use ioengine::sync::race;
use layout::log_entry::Operation;
use layout::sink_operation::{Links, Sink, SinkBegin};
use layout::table_seal::Compressor;
use layout::table_sunk::window_days;
use layout::tablet_sink::{TabletSink, links_bytes};
use layout::tablet_window::TabletWindow;
use layout::units::TabletIndex;
use pass::{Passed, Throttle};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

/// How often it is looked whether a window is old enough, and whether what was proposed has come.
const POLL: Duration = Duration::from_millis(200);
/// Each further replica in a tablet's order begins so much later.
const STAGE: Duration = Duration::from_secs(2);
/// How long what was proposed may take before it is proposed again, and how often it is.
const PROPOSE_AGAIN: Duration = Duration::from_secs(2);
const PROPOSE_TRIES: u32 = 5;
/// How long the node of a sinker may be silent before another replica takes the window up.
const SILENT: Duration = Duration::from_secs(5);
/// How long to leave a window whose sink was given up.
const TRY_AGAIN: Duration = Duration::from_secs(20);

/// Who sinks, in this life of a core: its node in the upper half.
struct Sinker {
    nonce: u64,
    throttle: Throttle,
    /// By tablet: since when this replica has found the same to do.
    wanted: BTreeMap<TabletIndex, Since<(u64, u32)>>,
    /// Not before then.
    rests: BTreeMap<TabletIndex, Instant>,
}

/// A window to be sunk.
struct Due {
    window: TabletWindow,
    table: Rc<Table>,
    generation: u32,
    /// How long this replica lets others go first.
    wait: Duration,
}

/// Sink what is old enough, one window after the other, until the core ends.
pub(crate) async fn run(shard: Rc<Shard>) {
    let (Some(logs), Some(cold)) = (&shard.logs, shard.cold.clone()) else { return };
    let nonce = u64::from(shard.facts.node) << 32 | (shard.io.random() & 0xffff_ffff) | 1;
    let (throttle, wanted, rests) = (Throttle::default(), BTreeMap::new(), BTreeMap::new());
    let mut sinker = Sinker { nonce, throttle, wanted, rests };
    while !shard.failed.get() {
        let mut has_worked = false;
        for tablet in TabletIndex::all().filter(|tablet| logs.rank(*tablet).is_some()) {
            if shard.phase.get() == Phase::Serving {
                has_worked |= sinker.look(&shard, logs, &cold, tablet).await;
            }
        }
        if !has_worked {
            shard.io.sleep(POLL).await;
        }
    }
}

/// What the log says of a tablet's windows.
fn seals_of(shard: &Shard, tablet: TabletIndex) -> Option<Rc<Seals>> {
    let state = shard.state.borrow();
    let own = state.tablets[tablet.index()].as_ref()?;
    (own.damage.is_none() && !own.awaits_tables).then(|| Rc::clone(&own.seals))
}

/// The sealed table of a window, if it is here and its records can be read.
fn table_of(shard: &Shard, tablet: TabletIndex, window: &TabletWindow) -> Option<Rc<Table>> {
    let state = shard.state.borrow();
    let is_it = |table: &&Rc<Table>| Some(table.place.checksum) == window.checksum && !table.is_broken();
    state.tables.windows(tablet).iter().find(is_it).filter(|table| !table.is_sunk()).cloned()
}

impl Sinker {
    /// One look at a tablet, and the one thing that is due. True: something was done.
    async fn look(&mut self, shard: &Rc<Shard>, logs: &Logs, cold: &ColdGroup, tablet: TabletIndex) -> bool {
        let now = shard.io.now();
        if self.rests.get(&tablet).is_some_and(|until| now < *until) || !logs.is_voter(tablet) {
            return false;
        }
        let Some(due) = self.due(shard, logs, tablet) else {
            self.wanted.remove(&tablet);
            return false;
        };
        let since = self.wanted.entry(tablet).or_default();
        if since.see((due.window.from, due.generation), now) < due.wait {
            return false;
        }
        if let Some(why) = self.sink(shard, logs, cold, tablet, &due).await {
            tracing::warn!(tablet = tablet.get(), from = due.window.from, why, "a window is not sunk");
            shard.counters.sinks_given_up.add(1);
            self.rests.insert(tablet, shard.io.now().after(TRY_AGAIN));
        }
        true
    }

    /// The window of a tablet that is to be sunk next.
    fn due(&self, shard: &Shard, logs: &Logs, tablet: TabletIndex) -> Option<Due> {
        let seals = seals_of(shard, tablet)?;
        let (rank, _) = logs.rank(tablet)?;
        let log_time = shard.state.borrow().tablet(tablet).log_time;
        let after = u64::try_from(shard.sink.as_ref()?.after.as_micros()).unwrap_or(u64::MAX);
        let closed = log_time.0.saturating_sub(after);
        let mut wait = STAGE * rank;
        if let Some(open) = seals.sink_open() {
            let node = u32::try_from(open.sink.nonce >> 32).expect("32 bits");
            // One of an earlier life of this core is nobody's; that of another node has its time.
            wait += match () {
                () if node == shard.facts.node => Duration::ZERO,
                () if shard.links.is_up(node) => shard.limits.sink_patience,
                () => SILENT,
            };
        }
        if !seals.open.is_empty() {
            return None;
        }
        let is_due = |window: &&TabletWindow| {
            window.to <= closed
                && window.checksum.is_some()
                && !log_time.has_expired(window.over_at)
                && window_days(window.from, window.to).is_some()
                && seals.sunk_of(window).is_none()
        };
        let found = seals.sealed.iter().filter(is_due);
        let (window, table) = found
            .filter_map(|window| table_of(shard, tablet, window).map(|table| (*window, table)))
            .next()?;
        Some(Due { window, table, generation: seals.begun.checked_add(1)?, wait })
    }

    /// Sink one window from begin to end. What stands in the way, if it did not come to its end.
    async fn sink(
        &mut self,
        shard: &Rc<Shard>,
        logs: &Logs,
        cold: &ColdGroup,
        tablet: TabletIndex,
        due: &Due,
    ) -> Option<&'static str> {
        let Due { window, table, generation, .. } = due;
        let level = shard.limits.sealed_level.clamp(1, 19);
        let begin = SinkBegin {
            generation: *generation,
            from: window.from,
            to: window.to,
            seal_generation: window.generation,
            checksum: window.checksum?,
            nonce: self.nonce,
            codec: Compressor::build(),
            level: u8::try_from(level).expect("at most 19"),
        };
        let open = |seals: &Seals| {
            seals.sink_open().filter(|open| open.sink.nonce == self.nonce).map(|open| open.sink)
        };
        let (step, is_over) = (Sink::Begin(begin), |seals: &Seals| seals.begun >= *generation);
        if !propose(shard, logs, tablet, &step, is_over).await {
            return Some("the log does not take its begin");
        }
        let sink = seals_of(shard, tablet).and_then(|seals| open(&seals));
        // Somebody was faster.
        let sink = sink.filter(|sink| sink.generation == *generation)?;
        shard.counters.sinks_begun.add(1);
        let passed = pass::pass(shard, cold, tablet, table, &sink, &mut self.throttle).await;
        match passed {
            Ok(Passed::Sunk(stays)) => match end(shard, logs, tablet, &sink, *stays).await {
                Ok(()) => None,
                Err(error) => {
                    tracing::warn!(%error, tablet = tablet.get(), "a sunk table cannot be written");
                    give_up(shard, logs, tablet, &sink).await;
                    Some("its sunk table finds no room")
                }
            },
            Ok(Passed::Overtaken) => {
                ioengine::sometimes!("a sink is overtaken");
                None
            }
            Ok(Passed::NotNow(why)) => {
                give_up(shard, logs, tablet, &sink).await;
                Some(why)
            }
            Err(error) => {
                tracing::warn!(%error, tablet = tablet.get(), "a sealed table cannot be read to be sunk");
                give_up(shard, logs, tablet, &sink).await;
                Some("its sealed table cannot be read")
            }
        }
    }
}

/// All three machines hold the window: have the log say so.
async fn end(
    shard: &Rc<Shard>,
    logs: &Logs,
    tablet: TabletIndex,
    sink: &TabletSink,
    stays: pass::Stays,
) -> Result<(), MergeError> {
    let links = links_bytes(&stays.links);
    let made = make_sunk(shard, tablet, (&stays.bytes, stays.summary), stays.identity).await?;
    let checksum = stays.summary.checksum;
    shard.keeper.agreeing.park_sunk(tablet, made);
    let step =
        Sink::Sunk { generation: sink.generation, checksum, links: Links::new(&links).expect("links") };
    let is_over =
        |seals: &Seals| seals.sink_open().is_none_or(|open| open.sink.generation != sink.generation);
    let is_told = propose(shard, logs, tablet, &step, is_over).await;
    let is_it = |seals: Rc<Seals>| seals.sinks.iter().any(|sinking| sinking.sink.sunk == Some(checksum));
    if is_told && seals_of(shard, tablet).is_some_and(is_it) {
        ioengine::sometimes!("a window is sunk");
        shard.counters.sinks.add(1);
        shard.keeper.merge_due.notify();
    } else if is_told {
        ioengine::sometimes!("a sink is overtaken at its end");
        shard.keeper.agreeing.drop_sunk(tablet, checksum);
    }
    Ok(())
}

async fn give_up(shard: &Rc<Shard>, logs: &Logs, tablet: TabletIndex, sink: &TabletSink) {
    ioengine::sometimes!("a sink is given up");
    let step = Sink::GivenUp { generation: sink.generation };
    let is_over =
        |seals: &Seals| seals.sink_open().is_none_or(|open| open.sink.generation != sink.generation);
    propose(shard, logs, tablet, &step, is_over).await;
}

/// Have the log take a step. False: it has not come to what was wanted.
async fn propose(
    shard: &Rc<Shard>,
    logs: &Logs,
    tablet: TabletIndex,
    step: &Sink<'_>,
    is_done: impl Fn(&Seals) -> bool,
) -> bool {
    for _ in 0..PROPOSE_TRIES {
        let by = shard.io.now().after(PROPOSE_AGAIN);
        let staged = logs.stage_own(shard, tablet, Operation::Sink(*step));
        while shard.io.now() < by && !shard.failed.get() {
            match seals_of(shard, tablet) {
                Some(seals) if is_done(&seals) => return true,
                None => return false,
                Some(_) => {}
            }
            let settled = shard.settled.notified();
            race(settled, shard.io.sleep(POLL)).await;
            if !staged {
                break;
            }
        }
    }
    false
}

/// Make the sunk table of a window from its sealed one and the links that the log has; `None` where that does not give the table that
/// the log names.
pub(crate) async fn rebuild(
    shard: &Rc<Shard>,
    tablet: TabletIndex,
    table: &Rc<Table>,
    sink: &TabletSink,
    links: &[layout::tablet_sink::ColdLink],
) -> Result<Option<Made>, MergeError> {
    if sink.codec != Compressor::build() {
        return Ok(None);
    }
    let made = maker::rebuild(shard, tablet, table, sink, links).await?;
    let Some((bytes, summary, identity)) = made.filter(|(_, summary, _)| Some(summary.checksum) == sink.sunk)
    else {
        return Ok(None);
    };
    ioengine::sometimes!("a sunk table is made from links");
    Ok(Some(make_sunk(shard, tablet, (&bytes, summary), identity).await?))
}

/// When something was seen first, for as long as it stays the same.
#[derive(Default)]
struct Since<T>(Option<(T, Instant)>);

impl<T: PartialEq> Since<T> {
    /// For how long it has been so.
    fn see(&mut self, what: T, now: Instant) -> Duration {
        match &self.0 {
            Some((before, at)) if *before == what => now.since(*at),
            _ => {
                self.0 = Some((what, now));
                Duration::ZERO
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stays_the_same_is_seen_for_longer_and_longer() {
        let (mut since, at) = (Since::default(), |ns| Instant { ns });
        assert_eq!(since.see(1, at(5)), Duration::ZERO);
        assert_eq!(since.see(1, at(9)), Duration::from_nanos(4));
        assert_eq!(since.see(2, at(20)), Duration::ZERO);
        assert_eq!(since.see(2, at(21)), Duration::from_nanos(1));
    }
}
