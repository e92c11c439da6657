//! Gets of records that lie in tables: how often the device is read for one, and what the records cost on it.

use super::BenchError;
use super::gets::{SHAPES, load_own};
use super::session::{OWN, Server, Session, Side, measure_own};
use crate::report::{Figures, Round};
use crate::workloads::get_memory::{GetMemory, VALUE_BYTES};
use crate::workloads::numbers::NAME_BYTES;
use ioengine::CoreConfig;
use ioengine::uring::Runtime;
use net::client::ClientConfig;
use net::client::blocking::Client;
use shard::limits::Limits;
use std::time::Duration;

/// So little is kept of blocks that nearly every get reads the device.
const BLOCK_CACHE_BYTES: usize = 1 << 20;
const JOURNAL_BYTES: u64 = 2 << 30;
/// Bytes of the table zone for a record: what is merged stands there twice for a while.
const TABLE_BYTES_PER_RECORD: u64 = 4 * (VALUE_BYTES + NAME_BYTES) as u64;
/// Bytes of a record that its writer gave: stream, time, value.
const GIVEN_BYTES_PER_RECORD: u64 = (NAME_BYTES + 8 + VALUE_BYTES) as u64;
/// A node whose counters stand still for so long has nothing left to flush and merge.
const STILL: Duration = Duration::from_secs(2);

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
    tables: u64,
    table_bytes: u64,
    table_memory_bytes: u64,
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
pub(super) fn settle(client: &Client) -> Result<Counted, BenchError> {
    let runtime = Runtime::new(CoreConfig::small("watch", 0))
        .map_err(|error| crate::target::TargetError(error.to_string()))?;
    loop {
        let before = counted(client)?;
        runtime.block_on(runtime.io().sleep(STILL));
        if counted(client)? == before {
            return Ok(before);
        }
    }
}

/// Load records through memtables that are far too small for them, then get them from the tables.
pub(super) fn get_disk(session: &mut Session<'_>) -> Result<(), BenchError> {
    let records = session.args.records;
    // A sixteenth of the records at most stays in memory, and no less than a core needs.
    let memtable_bytes = (records * GIVEN_BYTES_PER_RECORD / 8).clamp(24 << 20, 512 << 20) as usize;
    let limits = Limits { memtable_bytes, block_cache_bytes: BLOCK_CACHE_BYTES, ..Limits::default() };
    let table_bytes = records * TABLE_BYTES_PER_RECORD + (512 << 20);
    let server = session.maker_with(JOURNAL_BYTES, table_bytes, limits)?.make()?;
    let gets = GetMemory::new(records, session.args.seed);
    load_own(session, OWN, server.target(), &gets)?;
    let client = connect(&server)?;
    let loaded = settle(&client)?;
    if loaded.flushes == 0 {
        session
            .note("get-disk: the records fit the memtables and no table was made; ask for more --records")?;
    }
    session.case("get-disk load", &load_text(records), vec![of_load(records, &loaded)]);
    for (name, text, shape) in SHAPES {
        let plan = session.planner(shape)(server.target());
        let own = Side::new(OWN, |_| {
            let before = counted(&client)?;
            let mut figures = measure_own(&plan, gets.clone())?;
            let after = counted(&client)?;
            let asked = (after.disk_gets - before.disk_gets) as f64;
            if asked > 0.0 {
                let reads = (after.disk_reads - before.disk_reads) as f64;
                figures.insert("device_reads_per_get_that_misses_memory".to_owned(), reads / asked);
            }
            Ok(figures)
        });
        session.alternate(
            &format!("get-disk {name}"),
            &format!("{text} {}", load_text(records)),
            vec![own],
        )?;
    }
    Ok(())
}

pub(super) fn connect(server: &Server) -> Result<Client, BenchError> {
    let address = server.target().address.to_string();
    Client::connect(&[&address], ClientConfig::default())
        .map_err(|error| BenchError::Peer(format!("{address}: {error}")))
}

fn load_text(records: u64) -> String {
    format!(
        "{records} records of {VALUE_BYTES} bytes in tables, uniform keys; block cache of {} MiB.",
        BLOCK_CACHE_BYTES >> 20
    )
}

/// What the load has left behind.
fn of_load(records: u64, loaded: &Counted) -> Round {
    let given = (records * GIVEN_BYTES_PER_RECORD) as f64;
    let figures = Figures::from([
        ("flushes".to_owned(), loaded.flushes as f64),
        ("merges".to_owned(), loaded.merges as f64),
        ("tables".to_owned(), loaded.tables as f64),
        ("table_bytes_per_given_byte".to_owned(), loaded.table_bytes as f64 / given),
        ("index_and_filter_bytes_per_record".to_owned(), loaded.table_memory_bytes as f64 / records as f64),
        ("written_bytes_per_given_byte_journal_included".to_owned(), loaded.written_bytes as f64 / given),
    ]);
    Round { side: OWN.to_owned(), round: 0, figures }
}
