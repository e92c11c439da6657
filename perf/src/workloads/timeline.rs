//! The reference mix: 100 reads to 1 write; 70 % of reads in the last day, 90 % in three months, 5 % beyond a year;
//! values of 100 to 200 bytes; streams by zipf. Each stream has a record every twelve hours or so for two years, and
//! writes append to it.
//!
//! Reads: of the last day half are heads of ten (what an application shows first) and half gets; between a day and
//! three months half are scans of a week; everything else is a get. Each aims at a record of the history, so that
//! `NotFound` is never right.

use super::numbers::{NAME_BYTES, StreamName, Zipf, fill, hash};
use super::{Workload, request_room};
use crate::load::unit;
use layout::key::Key;
use layout::units::{LogTime, Space, TabletIndex};
use net::request::{BatchBody, BatchOperation, Change, Get, Head, Put, Scan};
use net::request_id::RequestIds;
use net::{Operation, Request};

const HOUR_US: u64 = 3_600_000_000;
const DAY_US: u64 = 24 * HOUR_US;
/// Between two records of a stream, on average.
const STEP_US: u64 = 12 * HOUR_US;
/// Days of history.
const DAY_COUNT: u64 = 730;
const RECORDS_PER_STREAM: u64 = DAY_COUNT * DAY_US / STEP_US;
/// Start of the history: 2024-01-01.
const TIME_FIRST_US: u64 = 1_704_067_200_000_000;
const TIME_END_US: u64 = TIME_FIRST_US + DAY_COUNT * DAY_US;
const VALUE_BYTES_MIN: usize = 100;
const VALUE_BYTES_MAX: usize = 200;
/// Records written together while preloading.
const BATCH_COUNT: u64 = 73;
const _: () = assert!(RECORDS_PER_STREAM.is_multiple_of(BATCH_COUNT), "batches divide a stream evenly");
/// One request in this many is a write.
const WRITE_PERIOD: u64 = 101;
/// Newest records that a head shows.
const HEAD_COUNT: u32 = 10;
/// Records that a scan of a week gives at most.
const SCAN_COUNT: u32 = 20;
const THETA: f64 = 0.99;

/// Where and how a read of a given age goes: share of reads, age in days from and to, share that is not a plain get.
const AGES: [(f64, u64, u64); 4] = [(0.70, 0, 1), (0.20, 1, 90), (0.05, 90, 365), (0.05, 365, DAY_COUNT)];

/// Time of record `number` of a stream: jittered within its step, so that streams do not march together.
fn time_of(seed: u64, stream: u64, number: u64) -> u64 {
    TIME_FIRST_US + number * STEP_US + hash(seed ^ stream, number) % STEP_US
}

fn value_of(seed: u64, value: &mut [u8; VALUE_BYTES_MAX]) -> &[u8] {
    let bytes = VALUE_BYTES_MIN + (seed % (VALUE_BYTES_MAX - VALUE_BYTES_MIN + 1) as u64) as usize;
    fill(seed, &mut value[..bytes]);
    &value[..bytes]
}

fn tablet_of(name: &StreamName) -> TabletIndex {
    layout::key::tablet_of(layout::key::bucket_of(Space::DEFAULT, name.bytes()))
}

/// Which requests of the mix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of them.
    All,
    /// Gets of records from this time on, µs.
    Cached(u64),
    /// All but those.
    Rest(u64),
}

impl Part {
    fn has(self, request: &Request<'_>) -> bool {
        let is_from = |from| matches!(request, Request::Get(get) if get.key.time >= from);
        match self {
            Part::All => true,
            Part::Cached(from) => is_from(from),
            Part::Rest(from) => !is_from(from),
        }
    }
}

/// The mix.
#[derive(Clone, Debug)]
pub struct Timeline {
    seed: u64,
    zipf: Zipf,
    stream_count: u64,
    asked: u64,
    part: Part,
    /// Records that were appended to each stream.
    appended: Vec<u32>,
    name: StreamName,
    value: [u8; VALUE_BYTES_MAX],
    ids: RequestIds,
}

impl Timeline {
    /// Over about `record_count` records, rounded up to whole streams of two years. `client` is a random number that
    /// no other writer has.
    #[must_use]
    pub fn new(record_count: u64, seed: u64, client: u64) -> Timeline {
        let stream_count = record_count.div_ceil(RECORDS_PER_STREAM).max(1);
        Timeline {
            seed,
            zipf: Zipf::new(stream_count, THETA),
            stream_count,
            asked: 0,
            part: Part::All,
            appended: vec![0; stream_count as usize],
            name: StreamName::of(0),
            value: [0; VALUE_BYTES_MAX],
            ids: RequestIds::new(client),
        }
    }

    /// The begin of the last day of the history, µs.
    #[must_use]
    pub fn recent_from_us() -> u64 {
        TIME_END_US - DAY_US
    }

    /// A part of it, from another place of the mix for each `turn`, by another client.
    #[must_use]
    pub fn part(&self, part: Part, client: u64, turn: u64) -> Timeline {
        Timeline { part, asked: turn << 32, ids: RequestIds::new(client), ..self.clone() }
    }

    /// The share of a part of the mix.
    #[must_use]
    pub fn share(&self, part: Part) -> f64 {
        const TRIES: u32 = 50_000;
        let mut mix = self.clone();
        let is_in = |_: &u32| mix.ask().is_some_and(|request| part.has(&request));
        f64::from((0..TRIES).filter(is_in).count() as u32) / f64::from(TRIES)
    }

    /// The next request of the whole mix.
    fn ask(&mut self) -> Option<Request<'_>> {
        self.asked += 1;
        let random = hash(self.seed, self.asked);
        let stream = self.zipf.rank(hash(self.seed.wrapping_add(1), self.asked));
        self.name = StreamName::of(stream);
        Some(if self.asked.is_multiple_of(WRITE_PERIOD) {
            self.write(stream)
        } else {
            self.read(stream, random)
        })
    }

    /// Whether the next request is of the part; it is passed over when it is not.
    fn comes(&self) -> bool {
        let asked = self.asked + 1;
        let stream = self.zipf.rank(hash(self.seed.wrapping_add(1), asked));
        let is_write = asked.is_multiple_of(WRITE_PERIOD);
        let read = self.read(stream, hash(self.seed, asked));
        if is_write { !matches!(self.part, Part::Cached(_)) } else { self.part.has(&read) }
    }

    /// The writes of the two years before, by another client.
    #[must_use]
    pub fn history(&self, client: u64) -> TimelineHistory {
        TimelineHistory {
            seed: self.seed,
            stream_count: self.stream_count,
            batch: 0,
            name: StreamName::of(0),
            body: BatchBody::new(),
            ids: RequestIds::new(client),
        }
    }

    /// Records of the history.
    #[must_use]
    pub fn record_count(&self) -> u64 {
        self.stream_count * RECORDS_PER_STREAM
    }

    fn write(&mut self, stream: u64) -> Request<'_> {
        let number = &mut self.appended[stream as usize];
        // A record each minute from the end of the history on.
        let time = TIME_END_US + u64::from(*number) * 60_000_000;
        *number += 1;
        let value = value_of(hash(self.seed, self.asked), &mut self.value);
        let id = self.ids.next(0, tablet_of(&self.name));
        let key = Key { space: Space::DEFAULT, stream: self.name.bytes(), time };
        Request::Put(Put { id, key, expiry: 0, value })
    }

    fn read(&self, stream: u64, random: u64) -> Request<'_> {
        let mut point = unit(random);
        let band = AGES.iter().position(|(share, ..)| {
            let inside = point < *share;
            if !inside {
                point -= share;
            }
            inside
        });
        let band = band.unwrap_or(AGES.len() - 1);
        let (_, from_day, to_day) = AGES[band];
        let other = hash(self.seed, random);
        let age_us = from_day * DAY_US + other % ((to_day - from_day) * DAY_US);
        let steps = age_us / STEP_US;
        let number = RECORDS_PER_STREAM - 1 - steps.min(RECORDS_PER_STREAM - 1);
        let time = time_of(self.seed, stream, number);
        let space = Space::DEFAULT;
        let name = self.name.bytes();
        let wide = other >> 63 == 1;
        match band {
            0 if wide => Request::Head(Head {
                space,
                stream: name,
                local: false,
                record_limit: HEAD_COUNT,
                byte_limit: 0,
            }),
            1 if wide => Request::Scan(Scan {
                space,
                stream: name,
                local: false,
                backward: false,
                record_limit: SCAN_COUNT,
                from: time,
                to: time + 7 * DAY_US,
                byte_limit: 0,
            }),
            _ => Request::Get(Get {
                key: Key { space, stream: name, time },
                local: false,
                if_newer: None,
                redirect: false,
            }),
        }
    }
}

impl Workload for Timeline {
    fn operations(&self) -> &'static [Operation] {
        &[Operation::Get, Operation::Head, Operation::Scan, Operation::Put]
    }

    fn request_bytes_max(&self) -> usize {
        request_room(1, NAME_BYTES, VALUE_BYTES_MAX)
    }

    fn next(&mut self) -> Option<Request<'_>> {
        while !self.comes() {
            self.asked += 1;
        }
        self.ask()
    }

    fn learn(&mut self, tablet: TabletIndex, log_time: LogTime) {
        self.ids.learn(0, tablet, log_time);
    }
}

/// Writes of the history, in order of time: all streams side by side, as they came.
#[derive(Clone, Debug)]
pub struct TimelineHistory {
    seed: u64,
    stream_count: u64,
    batch: u64,
    name: StreamName,
    body: BatchBody,
    ids: RequestIds,
}

impl Workload for TimelineHistory {
    fn operations(&self) -> &'static [Operation] {
        &[Operation::Batch]
    }

    fn request_bytes_max(&self) -> usize {
        let records = BATCH_COUNT as usize;
        request_room(records, NAME_BYTES, records * VALUE_BYTES_MAX)
    }

    fn next(&mut self) -> Option<Request<'_>> {
        let (row, stream) = (self.batch / self.stream_count, self.batch % self.stream_count);
        if row == RECORDS_PER_STREAM / BATCH_COUNT {
            return None;
        }
        self.batch += 1;
        self.name = StreamName::of(stream);
        self.body.clear();
        let mut room = [0; VALUE_BYTES_MAX];
        for number in row * BATCH_COUNT..(row + 1) * BATCH_COUNT {
            let value = value_of(hash(self.seed ^ stream, !number), &mut room);
            let change = Change::Put { expiry: 0, value };
            let time = time_of(self.seed, stream, number);
            assert!(self.body.push(&BatchOperation { time, change }), "a few small records fit a batch");
        }
        let id = self.ids.next(0, tablet_of(&self.name));
        self.body.request(id, Space::DEFAULT, self.name.bytes()).map(Request::Batch)
    }

    fn learn(&mut self, tablet: TabletIndex, log_time: LogTime) {
        self.ids.learn(0, tablet, log_time);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn history(of: &Timeline) -> BTreeSet<(Vec<u8>, u64)> {
        let mut history = of.history(2);
        let room = history.request_bytes_max();
        let mut written = BTreeSet::new();
        while let Some(request) = history.next() {
            assert!(request.encoded_bytes() + 32 <= room);
            let Request::Batch(batch) = request else { panic!("a history is batches") };
            written.extend(batch.operations().map(|one| (batch.stream.to_vec(), one.time)));
        }
        written
    }

    #[test]
    fn the_mix_is_that_of_the_reference_and_every_get_finds_a_record() {
        let mut timeline = Timeline::new(10_000, 9, 1);
        let written = history(&timeline);
        assert_eq!(written.len() as u64, timeline.record_count());
        let (mut reads, mut puts, mut young, mut month, mut old) = (0.0, 0.0, 0.0, 0.0, 0.0);
        for _ in 0..200_000 {
            let time = match timeline.next().unwrap() {
                Request::Put(put) => {
                    assert!(put.key.time >= TIME_END_US && (100..=200).contains(&put.value.len()));
                    puts += 1.0;
                    continue;
                }
                Request::Get(get) => {
                    assert!(written.contains(&(get.key.stream.to_vec(), get.key.time)));
                    get.key.time
                }
                Request::Scan(scan) => {
                    assert!(written.contains(&(scan.stream.to_vec(), scan.from)));
                    scan.from
                }
                Request::Head(_) => TIME_END_US,
                other => panic!("{other:?}"),
            };
            reads += 1.0;
            let age_days = TIME_END_US.saturating_sub(time) / DAY_US;
            young += f64::from(u8::from(age_days < 1));
            month += f64::from(u8::from(age_days < 90));
            old += f64::from(u8::from(age_days >= 365));
        }
        assert!((99.0..101.0).contains(&(reads / puts)), "{reads} {puts}");
        for (share, want) in [(young, 0.70), (month, 0.90), (old, 0.05)] {
            assert!((share / reads - want).abs() < 0.01, "{} is not {want}", share / reads);
        }
    }

    #[test]
    fn the_parts_of_the_mix_are_the_mix() {
        let mix = Timeline::new(10_000, 9, 1);
        let from = Timeline::recent_from_us();
        let (cached, rest) = (mix.share(Part::Cached(from)), mix.share(Part::Rest(from)));
        // Half of 70 % of the reads.
        assert!((cached - 0.35).abs() < 0.02 && (cached + rest - 1.0).abs() < 1e-9, "{cached} {rest}");
        let take = |part| {
            let mut part = mix.part(part, 1, 0);
            (0..1000).map(|_| (format!("{:?}", part.next()), part.asked)).collect::<Vec<(String, u64)>>()
        };
        let mut both = [take(Part::Cached(from)), take(Part::Rest(from))].concat();
        both.sort_by_key(|(_, asked)| *asked);
        let places: Vec<u64> = both.iter().take(1000).map(|(_, asked)| *asked).collect();
        assert_eq!(places, (1..=1000).collect::<Vec<u64>>());
        assert!(take(Part::Cached(from)).iter().all(|(request, _)| request.contains("Get(")));
    }

    #[test]
    fn a_seed_gives_the_same_requests() {
        let take = |seed| {
            let mut timeline = Timeline::new(2_000, seed, 1);
            (0..500).map(|_| format!("{:?}", timeline.next())).collect::<Vec<String>>()
        };
        assert_eq!(take(4), take(4));
        assert_ne!(take(4), take(5));
    }
}
