//! The core workloads of YCSB (Cooper and others, "Benchmarking cloud serving systems with YCSB", 2010), A to F: rows of ten fields of
//! 100 bytes, kept and written as one value of 1,000.
//!
//! A row is a record: `ROWS_PER_STREAM` of them make a stream, so that the rows behind one can be scanned. Which row: zipf 0.99,
//! scrambled, or, in D, the newest most. Scans of E stay within a stream and begin at rows that were loaded. A connection has one request in flight: so what comes
//! next on it comes after the answer, and a read-modify-write writes after its read, and D reads no row whose insert has no answer yet.

use super::numbers::{NAME_BYTES, StreamName, Zipf, fill, hash};
use super::{Workload, request_room};
use layout::key::Key;
use layout::units::{LogTime, Space, TabletIndex};
use net::request::{BatchBody, BatchOperation, Change, Get, Put, Scan};
use net::request_id::RequestIds;
use net::{Operation, Request};

/// Bytes of a row: ten fields of 100.
pub const ROW_BYTES: usize = 1_000;
/// Rows of a stream.
pub const ROWS_PER_STREAM: u64 = 1_024;
/// Rows that a scan asks for at most.
pub const SCAN_ROWS_MAX: u64 = 100;
/// Rows written together while preloading.
const BATCH_ROWS: u64 = 16;
const _: () = assert!(ROWS_PER_STREAM.is_multiple_of(BATCH_ROWS), "batches divide a stream evenly");
const THETA: f64 = 0.99;
/// Time of the first row of each stream: 2025-03-01.
const TIME_FIRST_US: u64 = 1_740_787_200_000_000;
/// Between two rows of a stream: a minute.
const TIME_STEP_US: u64 = 60_000_000;
/// Salts of the seed, so that what is drawn for one purpose says nothing of the other.
const OF_KIND: u64 = 0x6b69_6e64;
const OF_RANK: u64 = 0x7261_6e6b;
const OF_SCRAMBLE: u64 = 0x7363_7261;
const OF_LENGTH: u64 = 0x6c65_6e67;

/// Which of the six.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mix {
    /// Half reads, half updates.
    A,
    /// 95 % reads, 5 % updates.
    B,
    /// Reads.
    C,
    /// 95 % reads of the latest, 5 % inserts.
    D,
    /// 95 % short scans, 5 % inserts.
    E,
    /// Half reads, half read-modify-writes.
    F,
}

impl Mix {
    /// All of them, in order.
    pub const ALL: [Mix; 6] = [Mix::A, Mix::B, Mix::C, Mix::D, Mix::E, Mix::F];

    /// What it asks for, in words.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Mix::A => "50 % reads, 50 % updates",
            Mix::B => "95 % reads, 5 % updates",
            Mix::C => "reads only",
            Mix::D => "95 % reads of the latest, 5 % inserts",
            Mix::E => "95 % scans of 1 to 100 rows, 5 % inserts",
            Mix::F => "50 % reads, 50 % read-modify-writes",
        }
    }

    /// Out of 100 operations, those that are not reads or scans.
    fn writes_percent(self) -> u64 {
        match self {
            Mix::A | Mix::F => 50,
            Mix::B | Mix::D | Mix::E => 5,
            Mix::C => 0,
        }
    }
}

/// What a connection does next, or has just been answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waiting {
    Nothing,
    /// This row was sent as new.
    Insert(u64),
    /// This row was read to be written.
    Write(u64),
}

/// One of the six.
#[derive(Clone, Debug)]
pub struct Ycsb {
    mix: Mix,
    seed: u64,
    rows: u64,
    inserted: u64,
    asked: u64,
    zipf: Zipf,
    waiting: Vec<Waiting>,
    name: StreamName,
    value: [u8; ROW_BYTES],
    ids: RequestIds,
}

impl Ycsb {
    /// Over `rows` rows, rounded up to whole streams, on so many connections. `client` is a random number that no other writer has.
    #[must_use]
    pub fn new(mix: Mix, rows: u64, seed: u64, client: u64, connection_count: usize) -> Ycsb {
        let rows = rows.next_multiple_of(ROWS_PER_STREAM);
        Ycsb {
            mix,
            seed,
            rows,
            inserted: 0,
            asked: 0,
            zipf: Zipf::new(rows, THETA),
            waiting: vec![Waiting::Nothing; connection_count],
            name: StreamName::of(0),
            value: [0; ROW_BYTES],
            ids: RequestIds::new(client),
        }
    }

    /// Rows that were loaded.
    #[must_use]
    pub fn row_count(&self) -> u64 {
        self.rows
    }

    /// The same rows under another mix, by another client, with the rows that were inserted so far.
    #[must_use]
    pub fn with_mix(&self, mix: Mix, client: u64) -> Ycsb {
        Ycsb { mix, ids: RequestIds::new(client), ..self.clone() }.again()
    }

    /// Goes on where it stands: everything was answered meanwhile.
    #[must_use]
    pub fn again(mut self) -> Ycsb {
        self.waiting.fill(Waiting::Nothing);
        self
    }

    /// The writes that make the rows.
    #[must_use]
    pub fn history(&self, client: u64) -> History {
        History {
            seed: self.seed,
            rows: self.rows,
            written: 0,
            name: StreamName::of(0),
            body: BatchBody::new(),
            ids: RequestIds::new(client),
        }
    }

    /// Rows below this one were loaded, or their insert was answered.
    fn known(&self) -> u64 {
        let waiting = self.waiting.iter().filter_map(|waiting| match waiting {
            Waiting::Insert(row) => Some(*row),
            _ => None,
        });
        waiting.min().unwrap_or(self.rows + self.inserted)
    }

    /// A row to read or write.
    fn pick(&self) -> u64 {
        let rank = self.zipf.rank(hash(self.seed ^ OF_RANK, self.asked));
        match self.mix {
            Mix::D => self.known() - 1 - rank,
            _ => hash(self.seed ^ OF_SCRAMBLE, rank) % self.rows,
        }
    }

    fn key(&mut self, row: u64) -> Key<'_> {
        self.name = StreamName::of(row / ROWS_PER_STREAM);
        Key { space: Space::DEFAULT, stream: self.name.bytes(), time: time_of(row) }
    }

    fn read(&mut self, row: u64) -> Request<'_> {
        Request::Get(Get { key: self.key(row), local: false, if_newer: None, redirect: false })
    }

    fn write(&mut self, row: u64) -> Request<'_> {
        fill(hash(self.seed ^ row, self.asked), &mut self.value);
        let tablet = self.key(row).tablet();
        let id = self.ids.next(0, tablet);
        let key = Key { space: Space::DEFAULT, stream: self.name.bytes(), time: time_of(row) };
        Request::Put(Put { id, key, expiry: 0, value: &self.value })
    }

    fn scan(&mut self) -> Request<'_> {
        let row = self.pick();
        let count = 1 + hash(self.seed ^ OF_LENGTH, self.asked) % SCAN_ROWS_MAX;
        let first = (row % ROWS_PER_STREAM).min(ROWS_PER_STREAM - count);
        let stream = row / ROWS_PER_STREAM;
        self.name = StreamName::of(stream);
        Request::Scan(Scan {
            space: Space::DEFAULT,
            stream: self.name.bytes(),
            from: time_of(first),
            to: time_of(first + count - 1),
            backward: false,
            local: false,
            record_limit: 0,
            byte_limit: 0,
        })
    }
}

/// Time of a row within its stream.
fn time_of(row: u64) -> u64 {
    TIME_FIRST_US + (row % ROWS_PER_STREAM) * TIME_STEP_US
}

impl Workload for Ycsb {
    fn operations(&self) -> &'static [Operation] {
        &[Operation::Get, Operation::Put, Operation::Scan]
    }

    fn request_bytes_max(&self) -> usize {
        request_room(1, NAME_BYTES, ROW_BYTES)
    }

    fn next(&mut self) -> Option<Request<'_>> {
        self.next_on(0)
    }

    fn next_on(&mut self, connection: usize) -> Option<Request<'_>> {
        self.asked += 1;
        if let Waiting::Write(row) = std::mem::replace(&mut self.waiting[connection], Waiting::Nothing) {
            return Some(self.write(row));
        }
        let writes = hash(self.seed ^ OF_KIND, self.asked) % 100 < self.mix.writes_percent();
        Some(match (self.mix, writes) {
            (Mix::D | Mix::E, true) => {
                let row = self.rows + self.inserted;
                self.inserted += 1;
                self.waiting[connection] = Waiting::Insert(row);
                self.write(row)
            }
            (Mix::F, true) => {
                let row = self.pick();
                self.waiting[connection] = Waiting::Write(row);
                self.read(row)
            }
            (_, true) => {
                let row = self.pick();
                self.write(row)
            }
            (Mix::E, false) => self.scan(),
            (_, false) => {
                let row = self.pick();
                self.read(row)
            }
        })
    }

    fn learn(&mut self, tablet: TabletIndex, log_time: LogTime) {
        self.ids.learn(0, tablet, log_time);
    }
}

/// Writes of all rows, some of a stream at a time.
#[derive(Clone, Debug)]
pub struct History {
    seed: u64,
    rows: u64,
    written: u64,
    name: StreamName,
    body: BatchBody,
    ids: RequestIds,
}

impl Workload for History {
    fn operations(&self) -> &'static [Operation] {
        &[Operation::Batch]
    }

    fn request_bytes_max(&self) -> usize {
        let rows = BATCH_ROWS as usize;
        request_room(rows, NAME_BYTES, rows * ROW_BYTES)
    }

    fn next(&mut self) -> Option<Request<'_>> {
        if self.written == self.rows {
            return None;
        }
        let first = self.written;
        self.written += BATCH_ROWS;
        self.name = StreamName::of(first / ROWS_PER_STREAM);
        self.body.clear();
        let mut value = [0; ROW_BYTES];
        for row in first..self.written {
            fill(hash(self.seed ^ row, 0), &mut value);
            let change = Change::Put { expiry: 0, value: &value };
            assert!(
                self.body.push(&BatchOperation { time: time_of(row), change }),
                "a few rows of 1,000 bytes fit a batch"
            );
        }
        let tablet = layout::key::tablet_of(layout::key::bucket_of(Space::DEFAULT, self.name.bytes()));
        let id = self.ids.next(0, tablet);
        self.body.request(id, Space::DEFAULT, self.name.bytes()).map(Request::Batch)
    }

    fn learn(&mut self, tablet: TabletIndex, log_time: LogTime) {
        self.ids.learn(0, tablet, log_time);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};

    type Row = (Vec<u8>, u64);

    fn loaded(ycsb: &Ycsb) -> BTreeSet<Row> {
        let mut history = ycsb.history(1);
        let room = history.request_bytes_max();
        let mut rows = BTreeSet::new();
        while let Some(request @ Request::Batch(batch)) = history.next() {
            assert!(request.encoded_bytes() + 32 <= room);
            for one in batch.operations() {
                assert!(rows.insert((batch.stream.to_vec(), one.time)), "each row is written once");
            }
        }
        rows
    }

    /// Requests of each kind in 20,000, on eight connections in turn, each answered before the next on its connection. Every row
    /// that is read must be there.
    fn run(mix: Mix) -> BTreeMap<&'static str, u64> {
        let mut ycsb = Ycsb::new(mix, 3000, 7, 1, 8);
        assert_eq!(ycsb.row_count(), 3072);
        let (mut rows, room) = (loaded(&ycsb), ycsb.request_bytes_max());
        assert_eq!(rows.len(), 3072);
        let mut under_way: Vec<Option<Row>> = vec![None; 8];
        let mut counts = BTreeMap::new();
        for number in 0..20_000 {
            let connection = number % 8;
            // What it sent last is answered.
            rows.extend(under_way[connection].take());
            let request = ycsb.next_on(connection).unwrap();
            assert!(request.encoded_bytes() + 32 <= room);
            let kind = match request {
                Request::Get(get) => {
                    assert!(
                        rows.contains(&(get.key.stream.to_vec(), get.key.time)),
                        "a row that is not there"
                    );
                    "get"
                }
                Request::Put(put) => {
                    assert_eq!(put.value.len(), ROW_BYTES);
                    let row = (put.key.stream.to_vec(), put.key.time);
                    let is_new = !rows.contains(&row);
                    under_way[connection] = Some(row);
                    if is_new { "insert" } else { "update" }
                }
                Request::Scan(scan) => {
                    let found = rows
                        .range((scan.stream.to_vec(), scan.from)..=(scan.stream.to_vec(), scan.to))
                        .count() as u64;
                    assert_eq!(
                        found,
                        (scan.to - scan.from) / TIME_STEP_US + 1,
                        "scans find all they ask for"
                    );
                    assert!(found <= SCAN_ROWS_MAX);
                    "scan"
                }
                other => panic!("{other:?}"),
            };
            *counts.entry(kind).or_insert(0) += 1;
        }
        counts
    }

    #[test]
    fn proportions_are_those_of_the_core_workloads() {
        let share = |mix, kind: &str| {
            let counts = run(mix);
            *counts.get(kind).unwrap_or(&0) as f64 / counts.values().sum::<u64>() as f64
        };
        for (mix, kind, want) in [
            (Mix::A, "update", 0.5),
            (Mix::B, "update", 0.05),
            (Mix::C, "get", 1.0),
            (Mix::D, "insert", 0.05),
            (Mix::D, "get", 0.95),
            (Mix::E, "insert", 0.05),
            (Mix::E, "scan", 0.95),
            // Half of the operations are a read and a write.
            (Mix::F, "update", 1.0 / 3.0),
        ] {
            let found = share(mix, kind);
            assert!((found - want).abs() < 0.02, "{mix:?} {kind}: {found} of {want}");
        }
    }

    #[test]
    fn a_row_is_modified_by_the_connection_that_read_it() {
        let mut ycsb = Ycsb::new(Mix::F, 1024, 3, 1, 2);
        let mut read: [Option<Row>; 2] = [None, None];
        let mut modified = 0;
        for number in 0..2000 {
            // Uneven turns.
            let connection = usize::from(hash(1, number).is_multiple_of(3));
            match ycsb.next_on(connection).unwrap() {
                Request::Get(get) => read[connection] = Some((get.key.stream.to_vec(), get.key.time)),
                Request::Put(put) => {
                    assert_eq!(read[connection].take(), Some((put.key.stream.to_vec(), put.key.time)));
                    modified += 1;
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(modified > 400, "{modified}");
    }

    #[test]
    fn few_rows_take_most_of_the_reads_and_lie_anywhere() {
        let mut ycsb = Ycsb::new(Mix::C, 10_240, 5, 1, 1);
        let mut counts: BTreeMap<Row, u64> = BTreeMap::new();
        for _ in 0..50_000 {
            let Some(Request::Get(get)) = ycsb.next() else { panic!("gets have no end") };
            *counts.entry((get.key.stream.to_vec(), get.key.time)).or_default() += 1;
        }
        let mut sorted: Vec<(u64, &Row)> = counts.iter().map(|(row, count)| (*count, row)).collect();
        sorted.sort_unstable_by(|one, other| other.cmp(one));
        let hottest: u64 = sorted.iter().take(100).map(|(count, _)| count).sum();
        assert!((0.4..0.7).contains(&(hottest as f64 / 50_000.0)), "{hottest}");
        let streams: BTreeSet<&[u8]> = sorted.iter().take(20).map(|(_, row)| row.0.as_slice()).collect();
        assert!(streams.len() > 4, "the hottest rows are neighbours: {streams:?}");
    }
}
