//! Gets of records that lie in tables: how often the device is read for one, and what the records cost on it.

use super::BenchError;
use super::gets::{SHAPES, load_own};
use super::session::{CLIENT, OWN, Server, Session, Shape, Side, measure_own};
use crate::load::Plan;
use crate::load::wire::thermocline::ThermoclineWire;
use crate::peers::db_bench::{self, DbBench};
use crate::peers::fio;
use crate::report::{Aim, Figures, Round};
use crate::workloads::Workload;
use crate::workloads::get_memory::{GetMemory, VALUE_BYTES};
use crate::workloads::numbers::NAME_BYTES;
use ioengine::CoreConfig;
use ioengine::uring::Runtime;
use layout::units::{BLOCK_BYTES, TABLET_COUNT};
use net::client::ClientConfig;
use net::client::blocking::Client;
use shard::limits::Limits;
use std::time::Duration;

/// So little is kept of blocks that nearly every get reads the device.
const BLOCK_CACHE_BYTES: usize = 1 << 20;
const JOURNAL_BYTES: u64 = 2 << 30;
const JOURNAL_BYTES_SMOKE: u64 = 256 << 20;
/// Bytes of the table zone for a record: what is merged stands there twice for a while.
const TABLE_BYTES_PER_RECORD: u64 = 4 * (VALUE_BYTES + NAME_BYTES) as u64;
/// Bytes of a record that its writer gave: stream, time, value.
const GIVEN_BYTES_PER_RECORD: u64 = (NAME_BYTES + 8 + VALUE_BYTES) as u64;
/// A node whose counters stand still for so long has nothing left to flush and merge.
const STILL: Duration = Duration::from_secs(2);
const STILL_SMOKE: Duration = Duration::from_millis(300);
/// The least that holds what a core stages.
const MEMTABLE_RECORDS_LEAST: u64 = 1 << 16;
/// As many reads of the device in flight as there are connections.
const QUEUE: Shape = Shape { connection_count: 32, depth: 1 };
const QUEUE_CASE: &str = "get-disk 32";
/// The side with the sealed blocks that a node has unless told otherwise.
const USUAL: &str = "thermocline, sealed blocks 16 KiB";
const READS_PER_GET: &str = "device_reads_per_get_that_misses_memory";

/// Counters of all cores of a node, added up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counted {
    pub(super) gets: u64,
    pub(super) gets_not_modified: u64,
    pub(super) disk_gets: u64,
    pub(super) disk_reads: u64,
    pub(super) flushes: u64,
    pub(super) merges: u64,
    pub(super) seals: u64,
    pub(super) tables: u64,
    pub(super) table_bytes: u64,
    pub(super) table_memory_bytes: u64,
    pub(super) written_bytes: u64,
}

/// Counters as its status tells them.
pub(super) fn counted(client: &Client) -> Result<Counted, BenchError> {
    let wrong = |what: String| BenchError::Peer(format!("status of the node: {what}"));
    let text = client.status().map_err(|error| wrong(error.to_string()))?;
    let status: serde_json::Value = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    let cores = status["cores"].as_array().ok_or_else(|| wrong("it names no cores".to_owned()))?;
    let sum = |name: &str| -> Result<u64, BenchError> {
        cores
            .iter()
            .map(|core| core[name].as_u64())
            .sum::<Option<u64>>()
            .ok_or_else(|| wrong(format!("no {name}")))
    };
    Ok(Counted {
        gets: sum("gets")?,
        gets_not_modified: sum("gets_not_modified")?,
        disk_gets: sum("disk_gets")?,
        disk_reads: sum("disk_reads")?,
        flushes: sum("flushes")?,
        merges: sum("merges")?,
        seals: sum("seals")?,
        tables: sum("tables")?,
        table_bytes: sum("table_bytes")?,
        table_memory_bytes: sum("table_memory_bytes")?,
        written_bytes: sum("table_written_bytes")? + sum("journal_written_bytes")?,
    })
}

/// Wait until nothing is flushed or merged any more.
pub(super) fn settle(client: &Client, is_smoke: bool) -> Result<Counted, BenchError> {
    let runtime = Runtime::new(CoreConfig::small("watch", 0))
        .map_err(|error| crate::target::TargetError(error.to_string()))?;
    loop {
        let before = counted(client)?;
        runtime.block_on(runtime.io().sleep(if is_smoke { STILL_SMOKE } else { STILL }));
        if counted(client)? == before {
            return Ok(before);
        }
    }
}

/// A node whose records lie in tables, sealed where they are old enough.
pub(super) struct Tables {
    records: u64,
    cache_bytes: usize,
    sealed_block_bytes: u32,
}

impl Tables {
    /// With next to no block cache and blocks of 4 KiB.
    pub(super) fn of(records: u64) -> Tables {
        let sealed_block_bytes = Limits::default().block_bytes;
        Tables { records, cache_bytes: BLOCK_CACHE_BYTES, sealed_block_bytes }
    }

    /// Bytes that each of the two block caches takes to hold all blocks.
    pub(super) fn room_for_all(records: u64) -> usize {
        (64 << 20) + usize::try_from(records).expect("records of a bench fit memory") * 512
    }

    /// With block caches of so many bytes, each.
    pub(super) fn with_caches(self, cache_bytes: usize) -> Tables {
        Tables { cache_bytes, ..self }
    }

    /// With sealed blocks of so many bytes before compression.
    pub(super) fn with_sealed_blocks(self, sealed_block_bytes: u32) -> Tables {
        Tables { sealed_block_bytes, ..self }
    }

    /// A sixteenth of the records at most, and no less than a core needs.
    fn memtable_bytes(&self) -> u64 {
        (self.records * GIVEN_BYTES_PER_RECORD / 8).clamp(24 << 20, 512 << 20)
    }

    /// A memtable of few records is full by their number.
    fn memtable_records(&self) -> u64 {
        (self.records / 4).clamp(MEMTABLE_RECORDS_LEAST, 2 << 20)
    }

    /// Records in all: behind those that are asked for come as many as push them out of the memtables.
    fn all_records(&self) -> u64 {
        self.records + (self.memtable_bytes() / GIVEN_BYTES_PER_RECORD).min(self.memtable_records())
    }

    /// A window is sealed once it would be a quarter full: a sixteenth of what a tablet gets.
    fn window_bytes(&self) -> u64 {
        let of_tablet = self.records * GIVEN_BYTES_PER_RECORD / TABLET_COUNT as u64;
        (of_tablet / 4).clamp(4 << 10, Limits::default().window_bytes as u64)
    }

    fn limits(&self) -> Limits {
        let bounded = |count: u64| usize::try_from(count).expect("it is bounded");
        Limits {
            memtable_bytes: bounded(self.memtable_bytes()),
            memtable_record_count_max: bounded(self.memtable_records()),
            window_bytes: bounded(self.window_bytes()),
            block_cache_bytes: self.cache_bytes,
            sealed_cache_bytes: self.cache_bytes,
            sealed_block_bytes: self.sealed_block_bytes,
            ..Limits::default()
        }
    }

    /// How it is laid out, in words.
    pub(super) fn text(&self) -> String {
        format!(
            "memtables {} MiB, windows {} KiB, block caches 2 x {} MiB, sealed blocks {} KiB",
            self.memtable_bytes() >> 20,
            self.window_bytes() >> 10,
            self.cache_bytes >> 20,
            self.sealed_block_bytes >> 10
        )
    }

    /// Start it, load it, wait until nothing is left to flush, merge and seal.
    pub(super) fn make(&self, session: &mut Session<'_>, who: &str) -> Result<(Server, Counted), BenchError> {
        let server = self.start(session)?;
        self.fill(session, who, &server, self.all_records()).map(|loaded| (server, loaded))
    }

    /// As [`Tables::make`], with the records of another workload before those that push them out of the memtables.
    pub(super) fn make_with<L: Workload + Send + 'static>(
        &self,
        session: &mut Session<'_>,
        who: &str,
        history: L,
    ) -> Result<(Server, Counted), BenchError> {
        let server = self.start(session)?;
        session.preload(who, server.target(), |_| ThermoclineWire::new(CLIENT, 4), history)?;
        let behind = self.all_records() - self.records;
        self.fill(session, who, &server, behind).map(|loaded| (server, loaded))
    }

    fn start(&self, session: &mut Session<'_>) -> Result<Server, BenchError> {
        let table_bytes = self.all_records() * TABLE_BYTES_PER_RECORD + (512 << 20);
        let journal_bytes = if session.args.smoke { JOURNAL_BYTES_SMOKE } else { JOURNAL_BYTES };
        session.maker_with(journal_bytes, table_bytes, self.limits())?.make()
    }

    fn fill(
        &self,
        session: &mut Session<'_>,
        who: &str,
        server: &Server,
        records: u64,
    ) -> Result<Counted, BenchError> {
        load_own(session, who, server.target(), &GetMemory::new(records, session.args.seed))?;
        let loaded = settle(&connect(server)?, session.args.smoke)?;
        if loaded.flushes == 0 {
            session.note(format!(
                "{who}: the records fit the memtables and no table was made; ask for more --records"
            ))?;
        }
        Ok(loaded)
    }
}

/// Measure gets, with the reads of the device that they took.
pub(super) fn measure_gets(client: &Client, plan: &Plan, gets: &GetMemory) -> Result<Figures, BenchError> {
    let before = counted(client)?;
    let mut figures = measure_own(plan, gets.clone())?;
    let after = counted(client)?;
    let asked = (after.disk_gets - before.disk_gets) as f64;
    let all = (after.gets - before.gets) as f64;
    figures.insert("gets_that_miss_memory_percent".to_owned(), 100.0 * asked / all.max(1.0));
    if asked > 0.0 {
        let reads = (after.disk_reads - before.disk_reads) as f64;
        figures.insert(READS_PER_GET.to_owned(), reads / asked);
    }
    Ok(figures)
}

/// Load records through memtables that are far too small for them, then get them from the tables.
pub(super) fn get_disk(session: &mut Session<'_>) -> Result<(), BenchError> {
    let records = session.args.records;
    let tables = Tables::of(records);
    let gets = GetMemory::new(records, session.args.seed);
    let (server, loaded) = tables.make(session, OWN)?;
    session.case("get-disk load", &load_text(&tables), vec![of_load(&tables, &loaded)]);
    let client = connect(&server)?;
    let about = session.own_about(&tables.text());
    for (name, text, shape) in SHAPES {
        let plan = session.planner(shape)(server.target());
        let own = Side::new(OWN, |_| measure_gets(&client, &plan, &gets)).about(about.clone());
        let load = format!("{text} {}", load_text(&tables));
        session.alternate(&format!("get-disk {name}"), &load, vec![own])?;
    }
    if session.wants(QUEUE_CASE) { queue(session, &tables, (&server, &loaded), &gets) } else { Ok(()) }
}

/// The same beside fio and RocksDB alone.
pub(super) fn get_disk_beside_peers(session: &mut Session<'_>) -> Result<(), BenchError> {
    if !session.wants(QUEUE_CASE) {
        return Ok(());
    }
    let tables = Tables::of(session.args.records);
    let gets = GetMemory::new(session.args.records, session.args.seed);
    let (server, loaded) = tables.make(session, OWN)?;
    session.case("get-disk load", &load_text(&tables), vec![of_load(&tables, &loaded)]);
    queue(session, &tables, (&server, &loaded), &gets)
}

/// 32 gets in flight, each of which misses memory.
fn queue(
    session: &mut Session<'_>,
    tables: &Tables,
    (server, loaded): (&Server, &Counted),
    gets: &GetMemory,
) -> Result<(), BenchError> {
    let client = connect(server)?;
    let plan = session.planner(QUEUE)(server.target());
    let own = Side::new(OWN, |_| measure_gets(&client, &plan, gets)).about(session.own_about(&tables.text()));
    let mut sides = vec![own];
    // The other size of blocks, on a node of its own.
    let usual = Tables::of(tables.records).with_sealed_blocks(Limits::default().sealed_block_bytes);
    let beside = match session.args.endpoint {
        None if session.wants_side(USUAL) && !session.args.smoke => Some(usual.make(session, USUAL)?.0),
        _ => None,
    };
    if let Some(server) = &beside {
        let (client, plan) = (connect(server)?, session.planner(QUEUE)(server.target()));
        let side = Side::new(USUAL, move |_| measure_gets(&client, &plan, gets));
        sides.push(side.about(session.own_about(&usual.text())));
    }
    let (seconds, dir) = (session.args.seconds, &session.args.dir);
    let file = fio::ReadFile::of(dir, loaded.table_bytes.max(16 << 20));
    match fio::version() {
        Ok(_) if !session.wants_side("fio") => {}
        Ok(version) => {
            file.make().map_err(BenchError::Peer)?;
            let command = file.random(seconds, QUEUE.connection_count, BLOCK_BYTES as u64);
            let about = fio::about(&version, &command, "nothing is written");
            session.peer_about("fio randread", &about);
            let side = Side::new("fio", move |_| {
                fio::run_reads(&command).map(|reads| reads.figures("get")).map_err(BenchError::Peer)
            });
            sides.push(side.about(about));
        }
        Err(missing) => session.note(missing.to_string())?,
    }
    match DbBench::version() {
        Ok(_) if !session.wants_side("rocksdb") => {}
        Ok(version) => {
            let bench = DbBench::new(dir, version, VALUE_BYTES, seconds);
            bench.load(tables.records).map_err(BenchError::Peer)?;
            let command = bench.read_command(tables.records, QUEUE.connection_count, tables.cache_bytes);
            let about = bench.about(&command, "nothing is written");
            session.peer_about("rocksdb readrandom", &about);
            session.note(db_bench::CAVEAT)?;
            let side = Side::new("rocksdb", move |_| bench.run(&command, "get").map_err(BenchError::Peer));
            sides.push(side.about(about));
        }
        Err(missing) => session.note(missing.to_string())?,
    }
    let load = format!(
        "{} connections with one get in flight each. {} fio: random reads of {} KiB, as many in flight, of a file of the same size. rocksdb: \
         readrandom, as many threads, direct reads, filters and indexes in memory, all keys present; its processor time is that of engine and \
         load in one process.",
        QUEUE.connection_count,
        load_text(tables),
        BLOCK_BYTES >> 10
    );
    let aims = vec![
        Aim::least("fio", "per_second", 0.9),
        Aim::least("rocksdb", "per_second", 1.5),
        Aim::most(OWN, READS_PER_GET, 1.05),
    ];
    session.alternate_for(QUEUE_CASE, &load, sides, aims)
}

pub(super) fn connect(server: &Server) -> Result<Client, BenchError> {
    let address = server.target().address.to_string();
    Client::connect(&[&address], ClientConfig::default())
        .map_err(|error| BenchError::Peer(format!("{address}: {error}")))
}

fn load_text(tables: &Tables) -> String {
    format!(
        "{} records of {VALUE_BYTES} bytes in tables, uniform keys; block caches of {} MiB, sealed blocks of {} KiB.",
        tables.records,
        tables.cache_bytes >> 20,
        tables.sealed_block_bytes >> 10
    )
}

/// What the load has left behind.
fn of_load(tables: &Tables, loaded: &Counted) -> Round {
    let records = tables.all_records() as f64;
    let given = records * GIVEN_BYTES_PER_RECORD as f64;
    let figures = [
        ("flushes", loaded.flushes as f64),
        ("merges", loaded.merges as f64),
        ("seals", loaded.seals as f64),
        ("tables", loaded.tables as f64),
        ("table_bytes_per_given_byte", loaded.table_bytes as f64 / given),
        ("index_and_filter_bytes_per_record", loaded.table_memory_bytes as f64 / records),
        ("written_bytes_per_given_byte_journal_included", loaded.written_bytes as f64 / given),
        ("tier_bytes_given", given),
        ("tier_bytes_tables", loaded.table_bytes as f64),
        ("tier_bytes_index_and_filters", loaded.table_memory_bytes as f64),
        ("tier_bytes_block_caches", 2.0 * tables.cache_bytes as f64),
        ("tier_bytes_memtables", tables.memtable_bytes() as f64),
    ];
    let figures = figures.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    Round { side: OWN.to_owned(), round: 0, figures }
}
