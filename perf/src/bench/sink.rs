//! Old windows of three stores sink to three cold nodes: how fast, and what is written for it where, beside what fio writes to the
//! same disks.
//!
//! Must never count a record as sunk that was not read back right through the cold nodes, by a sample. Invariant: what is loaded is
//! sealed to the last record before any of it may sink, and nothing else happens while it sinks.

use super::BenchError;
use super::session::{OWN, Session, Side};
use crate::cold_group::{ColdNodes, ColdPlan, GROUP, MACHINES};
use crate::cpu::{Cpu, CpuOf};
use crate::group::{CLUSTER, Clock, Group, GroupPlan, free_addresses};
use crate::outside;
use crate::peers::fio;
use crate::report::{About, Aim, Figures};
use crate::target::TargetError;
use crate::workloads::numbers::{StreamName, fill, hash};
use ioengine::Instant;
use layout::key::Key;
use layout::units::Space;
use net::client::blocking::Client;
use net::client::{ClientConfig, OwnedKey, Work};
use net::request::{BatchBody, BatchOperation, Change};
use serde_json::Value;
use std::cell::Cell;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

const NAME: &str = "sink";
/// Small values, as of messages.
const VALUE_BYTES: usize = 128;
/// Records of a batch, all of one stream.
const BATCH: u64 = 16;
/// Records that a stream has, about: with few streams sections would be few, with many they would be small.
const STREAM_RECORDS: u64 = 1_024;
const STREAMS: std::ops::RangeInclusive<u64> = 64..=65_536;
/// The first record, 2025-01-01, and from one record of a stream to the next.
const TIME_FIRST_US: u64 = 1_735_689_600_000_000;
const STEP_US: u64 = 60_000_000;
/// Batches in flight while they are loaded.
const WINDOW: usize = 64;
/// What is put over and over to have what was loaded flushed, and so many times between two looks.
const FILLER_BYTES: usize = 64 << 10;
const FILLER_COUNT: u64 = 256;
const FILLER_ROUNDS: u64 = 64;
/// Records that are read back.
const SAMPLE: u64 = 1_000;
/// A store's journal is small: what was loaded is flushed when half of it is full of something else.
const JOURNAL_BYTES: u64 = 64 << 20;
const SEGMENT_BYTES: u64 = 8 << 20;
/// A store's disk beside what is loaded, and for each record: it stands there several times for a while.
const STORE_BYTES: u64 = 768 << 20;
const STORE_BYTES_PER_RECORD: u64 = 5 * 180;
/// A cold disk likewise.
const COLD_BYTES: u64 = 8 << 20;
const COLD_BYTES_PER_RECORD: u64 = 200;
const FILE_BYTES: std::ops::RangeInclusive<u64> = 8 << 20..=256 << 20;
/// When more than one part of so many has sunk before the first look, the start of the stores counts.
const MISSED_PART: u64 = 10;
/// Between two looks at how far it is.
const LOOK: Duration = Duration::from_millis(50);
/// What gets no further for so long has failed.
const STUCK: Duration = Duration::from_secs(120);
const DEADLINE: Duration = Duration::from_secs(60);
/// Nothing is as old as this.
const NEVER: &str = "36500 days";
const SETTINGS: [&str; 4] = [
    "limits.memtable_bytes=48MiB",
    "limits.memtable_record_count_max=400000",
    "limits.block_cache_bytes=16MiB",
    "limits.sealed_cache_bytes=16MiB",
];

/// What is loaded.
#[derive(Clone, Copy)]
struct Records {
    seed: u64,
    stream_count: u64,
    per_stream: u64,
}

impl Records {
    fn new(count: u64, seed: u64) -> Records {
        let stream_count = (count / STREAM_RECORDS).clamp(*STREAMS.start(), *STREAMS.end());
        let per_stream = count.div_ceil(stream_count).next_multiple_of(BATCH);
        Records { seed, stream_count, per_stream }
    }

    fn count(&self) -> u64 {
        self.stream_count * self.per_stream
    }

    /// Stream and time of a record.
    fn key(&self, record: u64) -> (StreamName, u64) {
        let time = TIME_FIRST_US + record / self.stream_count * STEP_US;
        (StreamName::of(record % self.stream_count), time)
    }

    fn value(&self, record: u64) -> [u8; VALUE_BYTES] {
        let mut value = [0; VALUE_BYTES];
        fill(hash(self.seed, record), &mut value);
        value
    }

    /// A batch, by its number: neighbours in time of one stream.
    fn batch(&self, number: u64) -> Work {
        let (stream, place) = (number % self.stream_count, number / self.stream_count * BATCH);
        let mut operations = BatchBody::new();
        for place in place..place + BATCH {
            let record = place * self.stream_count + stream;
            let value = self.value(record);
            let (_, time) = self.key(record);
            let operation = BatchOperation { time, change: Change::Put { expiry: 0, value: &value } };
            assert!(operations.push(&operation), "a few small records fit a batch");
        }
        Work::Batch { space: Space::DEFAULT, stream: StreamName::of(stream).bytes().to_vec(), operations }
    }
}

/// What one round is made of.
struct Sinking<'a> {
    records: Records,
    dir: &'a Path,
    cold: ColdPlan<'a>,
    /// Bytes of a copy of what was sunk last.
    copy_bytes: Cell<u64>,
}

/// What was counted until a moment.
struct Moment {
    at: Instant,
    sunk_records: u64,
    /// Bytes of one copy.
    copy_bytes: u64,
    stores_written: u64,
    colds_written: u64,
    stores_cpu: Cpu,
    colds_cpu: Cpu,
}

/// See the head of the file.
pub(super) fn sink(session: &mut Session<'_>) -> Result<(), BenchError> {
    if !session.wants(NAME) {
        return Ok(());
    }
    let args = session.args;
    let records = Records::new(args.records, args.seed);
    let content_bytes = records.count() * COLD_BYTES_PER_RECORD;
    let file_bytes = (content_bytes / 8).next_power_of_two().clamp(*FILE_BYTES.start(), *FILE_BYTES.end());
    let disk_bytes = content_bytes * 3 / 2 + 3 * file_bytes + COLD_BYTES;
    let cold = ColdPlan {
        dir: &args.dir,
        named: &args.disks,
        disk_bytes: disk_bytes.next_multiple_of(1 << 20),
        file_bytes,
        cluster: CLUSTER,
        settings: &["cold.scrub_period=0 s"],
    };
    let sinking = Sinking { records, dir: &args.dir, cold, copy_bytes: Cell::new(content_bytes / 2) };
    let (own_command, fio_command) = (Cell::new(String::new()), Cell::new(Vec::new()));
    let sinking = &sinking;
    let mut sides = vec![Side::new(OWN, |_| {
        let (figures, command) = sinking.round()?;
        own_command.set(command);
        Ok(figures)
    })];
    let fio = fio::version();
    match &fio {
        Ok(_) => sides.push(Side::new("fio", |_| {
            let (figures, command) = sinking.limit()?;
            fio_command.set(command);
            Ok(figures)
        })),
        Err(missing) => session.note(missing.to_string())?,
    }
    let load = format!(
        "{} records of {VALUE_BYTES} bytes in {} streams, of a day long ago, loaded into three stores and sealed; then all of it sinks to three \
         cold nodes, by itself, and {} records are read back from there. A node of its own for each, one machine, one file system; all fresh in each \
         round. MB: of one copy. fio: as many bytes to each of the three cold disks at once, 1 MiB each, 8 in flight.",
        records.count(),
        records.stream_count,
        SAMPLE.min(records.count()),
    );
    let written = "device_bytes_per_byte_of_a_copy";
    session.alternate_for(NAME, &load, sides, vec![Aim::most(OWN, written, 1.05)])?;
    let own = About {
        command: own_command.take(),
        durability: "each run of sections flushed and read back on three machines before it is linked"
            .to_owned(),
        ..session.own_about("")
    };
    let flushed = "what is written is flushed (fsync) at the end";
    let of_fio = fio.ok().map(|version| fio::about(&version, &fio_command.take(), flushed));
    for (side, about) in [(OWN, Some(own)), ("fio", of_fio)] {
        if let Some(about) = about.filter(|_| session.wants_side(side)) {
            session.peer_about(&format!("{side}, {NAME}"), &about);
            session.tell(NAME, side, about);
        }
    }
    Ok(())
}

impl Sinking<'_> {
    /// Load, seal, sink, read back. Gives the commands, too.
    fn round(&self) -> Result<(Figures, String), BenchError> {
        let mut colds = ColdNodes::format(&self.cold)?;
        let command =
            (0..MACHINES).map(|machine| colds.start(machine)).collect::<Result<Vec<_>, _>>()?.swap_remove(0);
        let (addresses, _) = free_addresses::<MACHINES>()?;
        let mut stores = Group::format(&GroupPlan {
            dir: self.dir,
            addresses: &addresses,
            shards: 1,
            disk_bytes: (STORE_BYTES + self.records.count() * STORE_BYTES_PER_RECORD)
                .next_multiple_of(1 << 20),
            journal_bytes: JOURNAL_BYTES,
            segment_bytes: SEGMENT_BYTES,
        })?;
        let clock = Clock::new()?;
        let nodes: Vec<String> = colds.addresses.iter().map(|address| format!("\"{address}\"")).collect();
        let settings = |seal_age: &str, sink_after: &str| {
            let mut settings = SETTINGS.map(str::to_owned).to_vec();
            // A window is sealed once it is a quarter full: no tablet that has anything has less than a stream.
            let window_bytes = self.records.per_stream * VALUE_BYTES as u64;
            settings.extend([
                format!("limits.window_bytes={window_bytes}"),
                format!("limits.seal_age={seal_age}"),
                format!("sink.after={sink_after}"),
                format!("sink.nodes=[{}]", nodes.join(", ")),
                format!("sink.group={GROUP}"),
                format!("sink.disks={}", colds.disk_count()),
            ]);
            settings
        };
        stores.serve(&settings(NEVER, NEVER))?;
        let seen = Stores::of(&addresses)?;
        self.load(&addresses)?;
        self.flush(&clock, &seen)?;
        let count = self.records.count();
        stores.serve(&settings("1 days", NEVER))?;
        Stores::of(&addresses)?.until(&clock, "sealed_records", count)?;
        let begun = self.begin(&clock, &colds)?;
        stores.serve(&settings("1 days", "1 s"))?;
        let seen = Stores::of(&addresses)?;
        let first = self.look(&clock, &seen, &stores, &colds)?;
        seen.until(&clock, "sunk_records", count)?;
        let last = self.look(&clock, &seen, &stores, &colds)?;
        // Much sank before it could be looked at: then the start of the stores counts, too.
        let first = if first.copy_bytes * MISSED_PART > last.copy_bytes { begun } else { first };
        let command = format!("three of: {}; three of: {command}", stores.command());
        let read = self.read_back(&addresses, &mut colds);
        if matches!(read, Err(BenchError::Differs(_))) {
            stores.keep();
            colds.keep();
        }
        let cold_reads = read?;
        stores.end();
        colds.close()?;
        let mut figures = figures_of(&first, &last);
        figures.insert("cold_reads_per_get_of_the_sample".to_owned(), cold_reads);
        figures.insert("copy_bytes_per_record".to_owned(), last.copy_bytes as f64 / count as f64);
        self.copy_bytes.set(last.copy_bytes);
        Ok((figures, command))
    }

    fn load(&self, addresses: &[SocketAddr]) -> Result<(), BenchError> {
        let client = connect(addresses)?;
        let bulk = client.bulk(WINDOW);
        let failed = |error: net::client::ClientError| wrong(format!("loading records: {error}"));
        for number in 0..self.records.count() / BATCH {
            bulk.submit(self.records.batch(number));
            while let Some((_, done)) = bulk.try_next() {
                done.map_err(failed)?;
            }
        }
        while let Some((_, done)) = bulk.next() {
            done.map_err(failed)?;
        }
        Ok(())
    }

    /// Until no memtable holds anything of what was loaded: one more flush of each store, by puts over and over the same record.
    fn flush(&self, clock: &Clock, seen: &Stores) -> Result<(), BenchError> {
        seen.until_still(clock)?;
        let before = seen.each("flushes")?;
        let client = connect(&seen.addresses)?;
        let key = OwnedKey { space: Space::DEFAULT, stream: b"filler".to_vec(), time: clock.io().wall_us() };
        for _ in 0..FILLER_ROUNDS {
            let bulk = client.bulk(WINDOW / 8);
            for number in 0..FILLER_COUNT {
                let mut value = vec![0; FILLER_BYTES];
                fill(hash(self.records.seed, number), &mut value);
                bulk.submit(Work::Put { key: key.clone(), expiry: 0, value });
            }
            while let Some((_, done)) = bulk.next() {
                done.map_err(|error| wrong(format!("writing until memtables are flushed: {error}")))?;
            }
            seen.until_still(clock)?;
            if seen.each("flushes")?.iter().zip(&before).all(|(now, before)| now > before) {
                return Ok(());
            }
        }
        let bytes = FILLER_ROUNDS * FILLER_COUNT * FILLER_BYTES as u64;
        Err(wrong(format!("a store has flushed no memtable while {bytes} bytes were put")))
    }

    /// Before the stores start that sink.
    fn begin(&self, clock: &Clock, colds: &ColdNodes) -> Result<Moment, BenchError> {
        Ok(Moment {
            at: clock.io().now(),
            sunk_records: 0,
            copy_bytes: 0,
            stores_written: 0,
            colds_written: written(&colds.pids())?,
            stores_cpu: Cpu::default(),
            colds_cpu: cpu(&colds.pids())?,
        })
    }

    fn look(
        &self,
        clock: &Clock,
        seen: &Stores,
        stores: &Group,
        colds: &ColdNodes,
    ) -> Result<Moment, BenchError> {
        Ok(Moment {
            sunk_records: seen.each("sunk_records")?.into_iter().min().unwrap_or(0),
            copy_bytes: seen.each("sink_written_bytes")?.iter().sum::<u64>() / MACHINES as u64,
            stores_written: written(&stores.pids())?,
            stores_cpu: cpu(&stores.pids())?,
            ..self.begin(clock, colds)?
        })
    }

    /// Read a sample. Reads of cold disks for each get.
    fn read_back(&self, addresses: &[SocketAddr], colds: &mut ColdNodes) -> Result<f64, BenchError> {
        let client = connect(addresses)?;
        let before = reads(colds)?;
        let count = SAMPLE.min(self.records.count());
        for number in 0..count {
            let record = hash(self.records.seed ^ 0x5a, number) % self.records.count();
            let (name, time) = self.records.key(record);
            let key = Key { space: Space::DEFAULT, stream: name.bytes(), time };
            let found =
                client.get(key).map_err(|error| wrong(format!("reading record {record}: {error}")))?;
            if found.as_ref().map(|found| &found.value[..]) != Some(&self.records.value(record)[..]) {
                let text = String::from_utf8_lossy(name.bytes()).into_owned();
                return Err(BenchError::Differs(format!(
                    "record {record} (stream {text}, time {time}) is not what was loaded: {found:?}"
                )));
            }
        }
        let reads = reads(colds)? - before;
        if reads == 0 {
            return Err(wrong(format!("{count} gets of sunk records read no cold disk")));
        }
        Ok(reads as f64 / count as f64)
    }

    /// The command of fio for the disks of a group, as they are cut here.
    fn fio_command(&self, colds: &ColdNodes) -> Result<Vec<String>, BenchError> {
        let from = colds.superblock(0, 0)?.geometry.file_offset(0).0;
        let each = self.copy_bytes.get() / u64::from(colds.disk_count());
        let part = from..from + each.next_multiple_of(1 << 20);
        let disks: Vec<_> = (0..MACHINES)
            .flat_map(|machine| (0..colds.disk_count()).map(move |number| (machine, number)))
            .map(|(machine, number)| colds.disk(machine, number))
            .collect();
        Ok(fio::write_all_command(&disks, part))
    }

    /// What the devices take: of one of the three copies.
    fn limit(&self) -> Result<(Figures, Vec<String>), BenchError> {
        let colds = ColdNodes::format(&self.cold)?;
        let command = self.fio_command(&colds)?;
        let rate = fio::run_sequential(&command).map_err(BenchError::Peer)?;
        colds.close()?;
        let figures = Figures::from([("mb_per_second".to_owned(), rate / MACHINES as f64 / 1e6)]);
        Ok((figures, command))
    }
}

fn figures_of(first: &Moment, last: &Moment) -> Figures {
    let seconds = last.at.since(first.at).as_secs_f64();
    let copy = last.copy_bytes.saturating_sub(first.copy_bytes) as f64;
    let part = |before: u64, after: u64| after.saturating_sub(before) as f64;
    let sunk = part(first.sunk_records, last.sunk_records);
    let (stores_cpu, colds_cpu) = (last.stores_cpu - first.stores_cpu, last.colds_cpu - first.colds_cpu);
    let written = |before: u64, after: u64| part(before, after) / copy;
    Figures::from([
        ("seconds".to_owned(), seconds),
        ("sunk_records".to_owned(), sunk),
        ("records_per_second".to_owned(), sunk / seconds),
        ("mb_per_second".to_owned(), copy / 1e6 / seconds),
        (
            "device_bytes_per_byte_of_a_copy".to_owned(),
            written(first.colds_written, last.colds_written) / MACHINES as f64,
        ),
        (
            "store_device_bytes_per_byte_of_a_copy".to_owned(),
            written(first.stores_written, last.stores_written) / MACHINES as f64,
        ),
        ("stores_cpu_s_per_gb".to_owned(), stores_cpu.seconds() / (copy / 1e9)),
        ("colds_cpu_s_per_gb".to_owned(), colds_cpu.seconds() / (copy / 1e9)),
    ])
}

/// Bytes that processes have had written to devices.
fn written(pids: &[u32]) -> Result<u64, BenchError> {
    let each = pids.iter().map(|pid| outside::device_written_bytes(*pid));
    each.sum::<Option<u64>>().ok_or_else(|| wrong("/proc does not say what the nodes write".to_owned()))
}

/// Processor time of processes.
fn cpu(pids: &[u32]) -> Result<Cpu, BenchError> {
    let time = CpuOf::Processes(pids.to_vec()).now();
    time.ok_or_else(|| wrong("/proc does not say what processor time the nodes take".to_owned()))
}

fn wrong(what: String) -> BenchError {
    BenchError::Target(TargetError(format!("{NAME}: {what}")))
}

fn connect(addresses: &[SocketAddr]) -> Result<Client, BenchError> {
    let names: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let config = ClientConfig { deadline: DEADLINE, ..ClientConfig::default() };
    Client::connect(&names, config).map_err(|error| wrong(error.to_string()))
}

/// Reads of all cold disks.
fn reads(colds: &mut ColdNodes) -> Result<u64, BenchError> {
    let mut sum = 0;
    for machine in 0..MACHINES {
        let status = colds.status(machine)?;
        for number in 0..colds.disk_count() {
            sum += status["disks"][number.to_string()]["counters"]["reads"].as_u64().unwrap_or(0);
        }
    }
    Ok(sum)
}

/// The stores, each asked for what it counts.
struct Stores {
    addresses: Vec<SocketAddr>,
    clients: Vec<Client>,
}

impl Stores {
    fn of(addresses: &[SocketAddr]) -> Result<Stores, BenchError> {
        let clients = addresses.iter().map(|address| connect(&[*address])).collect::<Result<_, _>>()?;
        Ok(Stores { addresses: addresses.to_vec(), clients })
    }

    /// A counter of each, all cores together.
    fn each(&self, name: &str) -> Result<Vec<u64>, BenchError> {
        let one = |client: &Client| {
            let text = client.status().map_err(|error| wrong(format!("status of a store: {error}")))?;
            let status: Value = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
            let cores = status["cores"].as_array().map(Vec::as_slice).unwrap_or_default();
            let sum = cores.iter().map(|core| core[name].as_u64()).sum::<Option<u64>>();
            sum.filter(|_| !cores.is_empty())
                .ok_or_else(|| wrong(format!("a store tells no {name}: {status}")))
        };
        self.clients.iter().map(one).collect()
    }

    /// Until each has so many of something.
    fn until(&self, clock: &Clock, name: &str, count: u64) -> Result<(), BenchError> {
        let (mut last, mut since) = (self.progress(name)?, clock.io().now());
        loop {
            let now = self.progress(name)?;
            if now.iter().all(|(found, _)| *found >= count) {
                return Ok(());
            }
            if now != last {
                (last, since) = (now, clock.io().now());
            } else if clock.io().now().since(since) >= STUCK {
                let found: Vec<u64> = last.iter().map(|(found, _)| *found).collect();
                return Err(wrong(format!(
                    "the stores have {found:?} {name} of {count}, and no more for {STUCK:?}"
                )));
            }
            clock.rest(LOOK);
        }
    }

    fn progress(&self, name: &str) -> Result<Vec<(u64, u64)>, BenchError> {
        let (found, written) = (self.each(name)?, self.each("table_written_bytes")?);
        let sunk = self.each("sink_written_bytes")?;
        Ok(found.into_iter().zip(written.into_iter().zip(sunk).map(|(one, other)| one + other)).collect())
    }

    /// Until nothing is flushed or merged any more.
    fn until_still(&self, clock: &Clock) -> Result<(), BenchError> {
        let written = || Ok::<_, BenchError>((self.each("flushes")?, self.each("table_written_bytes")?));
        let mut before = written()?;
        loop {
            clock.rest(6 * LOOK);
            let now = written()?;
            if now == before {
                return Ok(());
            }
            before = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_batches_are_the_records_each_once() {
        let records = Records::new(5_000, 3);
        assert!(records.count() >= 5_000 && records.count().is_multiple_of(BATCH * records.stream_count));
        let mut loaded = BTreeSet::new();
        for number in 0..records.count() / BATCH {
            let Work::Batch { stream, operations, .. } = records.batch(number) else {
                panic!("it is a batch")
            };
            assert_eq!(operations.count() as u64, BATCH);
            // A batch has neighbours in time.
            let first = number / records.stream_count * BATCH;
            for place in first..first + BATCH {
                assert!(loaded.insert((stream.clone(), TIME_FIRST_US + place * STEP_US)));
            }
        }
        let keys = (0..records.count()).map(|record| records.key(record));
        let keys: BTreeSet<_> = keys.map(|(name, time)| (name.bytes().to_vec(), time)).collect();
        assert_eq!(loaded, keys);
    }
}
