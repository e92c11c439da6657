//! Scans of ranges of a stream by time, of sealed tables, beside fio's reads in a row.

use super::BenchError;
use super::disk::{Tables, connect};
use super::session::{OWN, Server, Session, Shape, Side, measure_own};
use crate::outside;
use crate::peers::fio;
use crate::report::Figures;
use crate::workloads::Workload;
use crate::workloads::scans::{SCAN_RECORDS, Scans, VALUE_BYTES};
use net::Request;
use net::client::ScanRange;
use net::request::Scan;
use shard::limits::Limits;

/// Connections with one scan in flight each; as many reads of fio.
const SCANNERS: Shape = Shape { connection_count: 8, depth: 1 };
/// Bytes of a read of fio.
const FIO_BYTES: u64 = 1 << 20;
/// Bytes of a record that its reader gets: time and value.
const RECORD_BYTES: u64 = 8 + VALUE_BYTES as u64;

/// See the head of the file.
pub(super) fn scan(session: &mut Session<'_>) -> Result<(), BenchError> {
    const NAME: &str = "scan";
    if !session.wants(NAME) {
        return Ok(());
    }
    let scans = Scans::new(session.args.records, session.args.seed);
    let tables = Tables::of(scans.record_count()).with_sealed_blocks(Limits::default().sealed_block_bytes);
    let history = scans.history(session.client());
    let (server, loaded) = tables.make_with(session, OWN, history)?;
    session.note(format!(
        "scan: {OWN} after its load: {} flushes, {} merges, {} seals, {} tables of {} MiB",
        loaded.flushes,
        loaded.merges,
        loaded.seals,
        loaded.tables,
        loaded.table_bytes >> 20
    ))?;
    // What the generator takes for granted is looked at once.
    check(&server, &scans)?;
    let plan = session.planner(SCANNERS)(server.target());
    let own = Side::new(OWN, |_| {
        let before = outside::device_read_bytes();
        let mut figures = measure_own(&plan, scans.clone())?;
        let after = outside::device_read_bytes();
        with_records(&mut figures)?;
        if let Some((before, after)) = before.zip(after) {
            // Of warm-up and window, over both.
            let seconds = figures["seconds"] + plan.warm_up.as_secs_f64();
            figures.insert("device_mb_per_second".to_owned(), (after - before) as f64 / 1e6 / seconds);
        }
        Ok(figures)
    });
    let mut sides = vec![own.about(session.own_about(&tables.text()))];
    let file = fio::ReadFile::of(&session.args.dir, loaded.table_bytes.max(16 << 20));
    match fio::version() {
        Ok(_) if !session.wants_side("fio") => {}
        Ok(version) => {
            file.make().map_err(BenchError::Peer)?;
            let command = file.sequential(session.args.seconds, SCANNERS.connection_count, FIO_BYTES);
            let about = fio::about(&version, &command, "nothing is written");
            session.peer_about("fio read", &about);
            let side = Side::new("fio", move |_| {
                let reads = fio::run_reads(&command).map_err(BenchError::Peer)?;
                let mut figures = reads.figures("read");
                // Its reads are of another size than scans: only bytes compare.
                for name in ["per_second", "per_server_cpu_second"] {
                    figures.remove(name);
                }
                figures.insert("device_mb_per_second".to_owned(), figures["mb_per_second"]);
                Ok(figures)
            });
            sides.push(side.about(about));
        }
        Err(missing) => session.note(missing.to_string())?,
    }
    let load = format!(
        "{} connections with one scan of {SCAN_RECORDS} records of a stream in flight each, from any record on; {} records of {VALUE_BYTES} bytes, \
         sealed, block caches of next to nothing. MB of times and values. fio: reads of 1 MiB in a row, as many in flight, of a file of the \
         same size.",
        SCANNERS.connection_count,
        scans.record_count(),
    );
    session.alternate(NAME, &load, sides)
}

/// Adds records and bytes per second, of which each answer must have had all.
fn with_records(figures: &mut Figures) -> Result<(), BenchError> {
    let (scans, seconds) = (figures["answers"], figures["seconds"]);
    // An answer may straddle either end of the window on each connection.
    let least = (scans - SCANNERS.connection_count as f64) * (SCAN_RECORDS * RECORD_BYTES) as f64;
    let received = figures["received_mb_per_second"] * 1e6 * seconds;
    if received < least {
        return Err(BenchError::Wrong(format!("{scans} scans brought {received} bytes, fewer than {least}")));
    }
    let records = scans * SCAN_RECORDS as f64 / seconds;
    figures.insert("records_per_second".to_owned(), records);
    figures.insert("mb_per_second".to_owned(), records * RECORD_BYTES as f64 / 1e6);
    Ok(())
}

/// One scan through the client: its first answer has as many records as were asked for, each with its value.
fn check(server: &Server, scans: &Scans) -> Result<(), BenchError> {
    let wrong = |what: String| BenchError::Wrong(format!("a scan of {SCAN_RECORDS} records: {what}"));
    let mut scans = scans.clone();
    let Some(Request::Scan(Scan { space, stream, from, to, .. })) = scans.next() else {
        return Err(wrong("it was not asked for".to_owned()));
    };
    let range = ScanRange { from, to, ..ScanRange::all(space, stream) };
    let found = connect(server)?.scan(range).next().map_err(|error| wrong(error.to_string()))?;
    let records = found.map(|page| page.records).unwrap_or_default();
    let whole = records.iter().filter(|record| record.value.len() == VALUE_BYTES).count() as u64;
    if whole == SCAN_RECORDS { Ok(()) } else { Err(wrong(format!("{whole} came at first"))) }
}
