//! One window on its way to cold disks: its sections, in runs, each to the same place on three machines, one machine after the other.
//!
//! Must never go on once the log has ended the sink, or say that a run stands anywhere before all three machines have read it back.
//! Invariant: what this writes carries the generation of the sink, so whatever becomes of it, it can be told from everything else.

use super::group::{Agreed, ColdGroup, Done};
use super::maker::{Maker, Numbered};
use crate::core::Shard;
use crate::lsm::{MergeError, Table};
use layout::cold_section::{MadeSection, SectionPlace};
use layout::table::TableSummary;
use layout::table_seal::TableIdentity;
use layout::table_sunk::window_days;
use layout::tablet_sink::{ColdLink, LINK_BYTES, SINK_LINKS_MAX, TabletSink};
use layout::units::TabletIndex;
use net::client::COPIES;
use net::cold::ColdPlace;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

/// Bytes of a run of sections: long enough that a disk writes it as fast as it can.
const RUN_BYTES: u64 = 4 << 20;
/// Bytes of all runs that are being filled.
const FILLING_BYTES: u64 = 64 << 20;
/// Tries of one machine, with growing waits between, until the sink is given up.
const TRIES: u32 = 12;
const WAIT_FIRST: Duration = Duration::from_millis(100);
const WAIT_MAX: Duration = Duration::from_secs(5);
/// A run that takes so many times as long as the fastest one of its size is a sign that the machines have other work.
const SLOW: u32 = 3;
/// The longest rest between two runs.
const REST_MAX: Duration = Duration::from_secs(2);

/// How a pass ended.
pub(super) enum Passed {
    /// All of it stands on three machines.
    Sunk(Box<Stays>),
    /// The log has ended the sink meanwhile.
    Overtaken,
    /// It cannot be done now.
    NotNow(&'static str),
}

/// What stays of the window.
pub(super) struct Stays {
    pub(super) links: Vec<ColdLink>,
    pub(super) bytes: Vec<u8>,
    pub(super) summary: TableSummary,
    pub(super) identity: TableIdentity,
}

/// How fast it goes: the machines say by their pace whether they have other work.
#[derive(Default)]
pub(super) struct Throttle {
    /// Nanoseconds a byte took when it went fastest.
    best: f64,
}

impl Throttle {
    /// A run of so many bytes took so long, with so many tries that failed: how long to rest.
    pub(super) fn rest(&mut self, bytes: u64, took: Duration, failures: u32) -> Duration {
        let each = took.as_nanos() as f64 / bytes.max(1) as f64;
        if self.best == 0.0 || each < self.best {
            self.best = each;
        }
        // The best of long ago counts less and less: machines change.
        self.best *= 1.01;
        let is_slow = each > self.best * f64::from(SLOW);
        if failures > 0 || is_slow { took.min(REST_MAX) } else { Duration::ZERO }
    }
}

/// A run that is being filled.
#[derive(Default)]
struct Run {
    sections: Vec<Numbered>,
    bytes: u64,
}

struct Pass<'a> {
    shard: &'a Shard,
    cold: &'a ColdGroup,
    tablet: TabletIndex,
    sink: TabletSink,
    window_days: u32,
    maker: Maker,
    throttle: &'a mut Throttle,
}

/// Why a run is not placed.
enum Stop {
    Overtaken,
    NotNow(&'static str),
}

/// Is the sink still the one that is open in the log?
pub(super) fn is_open(shard: &Shard, tablet: TabletIndex, generation: u32) -> bool {
    let state = shard.state.borrow();
    let own = state.tablets[tablet.index()].as_ref();
    let open = own.and_then(|own| own.seals.sink_open().map(|open| open.sink.generation));
    open == Some(generation) && !shard.failed.get()
}

/// Write a sealed table's sections to the machines of a cold group.
pub(super) async fn pass(
    shard: &Shard,
    cold: &ColdGroup,
    tablet: TabletIndex,
    table: &Rc<Table>,
    sink: &TabletSink,
    throttle: &mut Throttle,
) -> Result<Passed, MergeError> {
    let Some(window_days) = window_days(sink.from, sink.to) else {
        return Ok(Passed::NotNow("its window is not made of days"));
    };
    let maker = Maker::new(shard, tablet, table, sink)?;
    let mut pass = Pass { shard, cold, tablet, sink: *sink, window_days, maker, throttle };
    match pass.run().await? {
        Ok(()) => {}
        Err(Stop::Overtaken) => return Ok(Passed::Overtaken),
        Err(Stop::NotNow(why)) => return Ok(Passed::NotNow(why)),
    }
    let links = pass.maker.links().to_vec();
    let (bytes, summary, identity) = pass.maker.finish().await;
    Ok(Passed::Sunk(Box::new(Stays { links, bytes, summary, identity })))
}

impl Pass<'_> {
    async fn run(&mut self) -> Result<Result<(), Stop>, MergeError> {
        let run_bytes = RUN_BYTES.min(FILLING_BYTES / u64::from(self.cold.disk_count()));
        let mut runs: BTreeMap<u16, Run> = BTreeMap::new();
        while let Some(section) = self.maker.next().await? {
            let disk = self.cold.disk_of(section.1.identity.bucket);
            let run = runs.entry(disk).or_default();
            let bytes = section.1.bytes();
            if run.bytes > 0 && run.bytes + bytes > run_bytes {
                let full = std::mem::take(run);
                if let Err(stop) = self.place(disk, full).await {
                    return Ok(Err(stop));
                }
            }
            let run = runs.entry(disk).or_default();
            run.sections.push(section);
            run.bytes += bytes;
        }
        for (disk, run) in runs {
            if run.bytes > 0
                && let Err(stop) = self.place(disk, run).await
            {
                return Ok(Err(stop));
            }
        }
        Ok(Ok(()))
    }

    /// A run to its place on all three machines.
    async fn place(&mut self, disk: u16, mut run: Run) -> Result<(), Stop> {
        let links_max = SINK_LINKS_MAX.min(self.shard.limits.frame_bytes_max as usize / 4 / LINK_BYTES);
        if self.maker.links().len() >= links_max {
            return Err(Stop::NotNow("it would take more links than an entry of the log can name"));
        }
        let since = self.shard.io.now();
        let mut failures = 0;
        let (place, numbers) = loop {
            let place = self.agree(disk, &run, &mut failures).await?;
            let bytes = content(&mut run.sections, &place);
            let checksum = layout::checksum::long(&bytes);
            let mut is_lost = false;
            for node in 0..COPIES {
                is_lost = !self.write(node, &place, (&bytes, checksum), &mut failures).await?;
                if is_lost {
                    break;
                }
                if ioengine::canary("sink_to_two_of_three") && node == 1 {
                    break;
                }
            }
            if !is_lost {
                break (place, run.sections.iter().map(|(number, _)| *number).collect::<Vec<_>>());
            }
            // Somebody keeps the place no more. It is agreed on anew: nothing links it yet.
            ioengine::sometimes!("a place on cold disks is lost while it is written");
            failures += 1;
            if failures > TRIES {
                return Err(Stop::NotNow("its place on the cold disks is lost again and again"));
            }
        };
        self.maker.link(&numbers, link_of(&place));
        self.shard.counters.sink_written_bytes.add(run.bytes * COPIES as u64);
        let rest = self.throttle.rest(run.bytes, self.shard.io.now().since(since), failures);
        if rest > Duration::ZERO {
            ioengine::sometimes!("a sink rests, because the machines are slow");
            self.shard.io.sleep(rest).await;
        }
        Ok(())
    }

    /// Wait after a try that failed.
    async fn wait(&self, failures: &mut u32, why: &'static str) -> Result<(), Stop> {
        *failures += 1;
        if *failures > TRIES {
            return Err(Stop::NotNow(why));
        }
        let wait = (WAIT_FIRST * 2u32.pow((*failures).min(10))).min(WAIT_MAX);
        self.shard.io.sleep(wait).await;
        self.check()
    }

    fn check(&self) -> Result<(), Stop> {
        if is_open(self.shard, self.tablet, self.sink.generation) { Ok(()) } else { Err(Stop::Overtaken) }
    }

    /// One place for a run on all three machines.
    async fn agree(&self, disk: u16, run: &Run, failures: &mut u32) -> Result<ColdPlace, Stop> {
        let first = run.sections.first().expect("a run has a section").1.identity.bucket;
        let TabletSink { from, generation, .. } = self.sink;
        let content_bytes = u32::try_from(run.bytes).map_err(|_| Stop::NotNow("a section is too large"))?;
        let wanted = ColdPlace {
            group: self.cold.number(),
            disk,
            whom: ColdGroup::whom(first, from, self.window_days, generation),
            file: 0,
            file_generation: 0,
            offset: 0,
            content_bytes,
            number: 0,
            section_count: u32::try_from(run.sections.len()).expect("buckets are few"),
        };
        loop {
            self.check()?;
            match self.cold.agree(&wanted).await {
                Agreed::Yes(place) => return Ok(place),
                Agreed::Never => return Err(Stop::NotNow("a run of sections does not fit a file")),
                Agreed::NotNow => self.wait(failures, "the cold nodes give no place").await?,
                Agreed::Full => self.wait(failures, "the cold nodes have no room").await?,
            }
        }
    }

    /// A run to one machine. False: the place is lost.
    async fn write(
        &self,
        node: usize,
        place: &ColdPlace,
        (bytes, checksum): (&[u8], u128),
        failures: &mut u32,
    ) -> Result<bool, Stop> {
        loop {
            self.check()?;
            match self.cold.write(node, place, bytes, checksum).await {
                Done::Yes => return Ok(true),
                Done::Lost => return Ok(false),
                Done::NotNow => self.wait(failures, "a cold node does not take it").await?,
            }
        }
    }
}

fn link_of(place: &ColdPlace) -> ColdLink {
    ColdLink {
        group: place.group,
        disk: place.disk,
        bucket: place.whom.bucket,
        file: place.file,
        file_generation: place.file_generation,
        offset: place.offset,
        content_bytes: place.content_bytes,
        number: place.number,
        section_count: place.section_count,
    }
}

/// The bytes of a run, in its place.
fn content(sections: &mut [(usize, MadeSection)], place: &ColdPlace) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(place.content_bytes as usize);
    for (number, (_, made)) in (place.number..).zip(sections) {
        let at = SectionPlace {
            group: place.group,
            disk: place.disk,
            file: place.file,
            file_generation: place.file_generation,
            offset: place.offset + u32::try_from(bytes.len()).expect("a run fits a file"),
            number,
        };
        bytes.extend_from_slice(made.at(at));
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sink_rests_after_failures_and_while_the_machines_are_slow() {
        let (mut throttle, quick) = (Throttle::default(), Duration::from_millis(10));
        assert_eq!(throttle.rest(1 << 20, quick, 0), Duration::ZERO);
        assert_eq!(throttle.rest(1 << 20, quick * 2, 0), Duration::ZERO, "no more than a little slower");
        assert_eq!(throttle.rest(1 << 20, quick * 5, 0), quick * 5);
        assert_eq!(throttle.rest(4 << 20, quick * 4, 0), Duration::ZERO, "for four times as much");
        assert_eq!(throttle.rest(1 << 20, quick, 1), quick);
        assert_eq!(throttle.rest(1 << 20, Duration::from_secs(60), 3), REST_MAX);
    }
}
