//! What stands on cold disks and is nobody's: tries to sink that were given up, and windows that were sealed anew or have expired. On the
//! way it is counted what is dead in which file (`half_dead`).
//!
//! Reads lists of the machines, and frees. Must never free what carries a generation that the log has open, links, or may yet give: that
//! is asked of the tablet's state as this replica has applied it, and what has once ended never comes back. Invariant: what is freed was
//! nobody's in two looks, one period apart, so that replicas that are a little behind still read it.

use super::group::ColdGroup;
use super::half_dead::{self, DiskCount, Moves, Said};
use crate::core::Shard;
use ioengine::sync::yield_now;
use layout::key::tablet_of;
use layout::units::TabletIndex;
use net::client::COPIES;
use net::cold::{ColdAnswer, ColdKept, ColdPlace};
use net::reply::Answer;
use std::collections::BTreeSet;
use std::rc::Rc;

/// Places that one look keeps in mind: more are found by a later one.
const SEEN_MAX: usize = 65_536;
/// Rounds until the next replica in order frees, too.
const ROUNDS_PER_RANK: u64 = 4;

/// What was nobody's in the look before.
type Seen = BTreeSet<(usize, ColdPlace)>;

/// Look, and free, until the core ends.
pub(crate) async fn run(shard: Rc<Shard>) {
    let Some(cold) = shard.cold.clone() else { return };
    let (mut seen, mut moves) = (Seen::new(), Moves::default());
    let mut round = 0u64;
    loop {
        let period = shard.limits.sweep_every;
        // Not all cores of all nodes at once.
        let part = shard.io.random() % (period.as_millis() as u64 / 4 + 1);
        shard.io.sleep(period + std::time::Duration::from_millis(part)).await;
        round += 1;
        tell_linked(&shard);
        let mut now = Seen::new();
        let mut said: [Said; COPIES] = Default::default();
        for (node, said) in said.iter_mut().enumerate() {
            for disk in 0..cold.disk_count() {
                if let Some(count) = look(&shard, &cold, (node, disk), round, &seen, &mut now).await {
                    said.add(count);
                }
            }
        }
        seen = now;
        half_dead::look(&shard, &cold, &said, &mut moves, |tablet| is_turn(&shard, tablet, round));
    }
}

/// Tell who compares the cold disks with the log what is linked, as of which entry.
fn tell_linked(shard: &Shard) {
    let Some(logs) = shard.logs.as_ref().filter(|_| ioengine::collects_facts()) else { return };
    let state = shard.state.borrow();
    for tablet in TabletIndex::all().filter(|tablet| logs.is_voter(*tablet)) {
        let own = state.tablets[tablet.index()].as_ref();
        let Some(own) = own.filter(|own| own.damage.is_none() && !own.awaits_tables) else { continue };
        ioengine::fact("sinks at", u64::from(tablet.get()), own.applied.0);
        for sinking in own.seals.sinks.iter().filter(|sinking| sinking.sink.sunk.is_some()) {
            let key = u64::from(tablet.get()) << 56 | u64::from(sinking.sink.generation);
            let count = sinking.links.iter().map(|link| u64::from(link.section_count)).sum();
            let window = own.seals.sealed.iter().find(|window| sinking.is_of(window));
            ioengine::fact("linked at", key, own.applied.0);
            ioengine::fact("linked sections", key, count);
            ioengine::fact("linked until", key, window.map_or(0, |window| window.over_at));
        }
    }
}

/// Whether this place is nobody's, by the state of a tablet that this core has.
fn is_orphan(shard: &Shard, place: &ColdPlace) -> bool {
    let state = shard.state.borrow();
    let Some(own) = state.tablets[tablet_of(place.whom.bucket).index()].as_ref() else { return false };
    let is_voter = shard.logs.as_ref().is_some_and(|logs| logs.is_voter(tablet_of(place.whom.bucket)));
    let is_known = is_voter && own.damage.is_none() && !own.awaits_tables;
    is_known && own.seals.is_ended(place.whom.window_generation, own.log_time)
}

/// The first replica of a tablet frees, and has windows moved, in each round, the others seldom: they need not, while it lives.
fn is_turn(shard: &Shard, tablet: TabletIndex, round: u64) -> bool {
    let rank = shard.logs.as_ref().and_then(|logs| logs.rank(tablet));
    rank.is_some_and(|(rank, _)| round.is_multiple_of(u64::from(rank) * ROUNDS_PER_RANK + 1))
}

/// What a machine says of the files of a disk; `None`: not all of it was heard.
async fn files(cold: &ColdGroup, node: usize, disk: u16) -> Option<DiskCount> {
    let (mut count, mut from) = (None, 0);
    loop {
        let reply = cold.files(node, disk, from).await.ok()?;
        let Answer::Cold(ColdAnswer::Files(page)) = reply.answer() else { return None };
        let count = count.get_or_insert_with(|| DiskCount::new(disk, page.head));
        page.iter().for_each(|item| count.add_file(&item));
        let Some(next) = page.head.more else { break };
        from = next;
    }
    count
}

/// One disk of one machine. What its files come to, where all of it was heard.
async fn look(
    shard: &Shard,
    cold: &ColdGroup,
    (node, disk): (usize, u16),
    round: u64,
    seen: &Seen,
    now: &mut Seen,
) -> Option<DiskCount> {
    // First: what comes to them meanwhile makes them livelier, never more dead.
    let mut count = files(cold, node, disk).await;
    let mut from = (0, 0);
    loop {
        let reply = cold.list(node, disk, from).await.ok()?;
        let Answer::Cold(ColdAnswer::Listed(list)) = reply.answer() else { return None };
        if let Some(count) = &mut count {
            list.iter().for_each(|(kept, place)| count.add_listed(&place, kept == ColdKept::Sealed));
        }
        let found: Vec<ColdPlace> =
            list.iter().map(|(_, place)| place).filter(|place| is_orphan(shard, place)).collect();
        let more = list.more;
        for place in found {
            if now.len() < SEEN_MAX {
                now.insert((node, place));
            }
            let is_old = seen.contains(&(node, place));
            // Asked again: other pages were waited for meanwhile.
            if is_old
                && is_turn(shard, tablet_of(place.whom.bucket), round)
                && is_orphan(shard, &place)
                && cold.free(node, &place).await.is_some_and(|count| count > 0)
            {
                ioengine::sometimes!("what is nobody's on a cold disk is freed");
                shard.counters.sink_swept_sections.add(u64::from(place.section_count));
            }
        }
        let Some(next) = more else { return count };
        from = next;
        yield_now().await;
    }
}
