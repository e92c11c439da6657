//! Durable puts beside what the file system can flush, and writing real data in.

use super::BenchError;
use super::session::{OWN, Session, Shape, Side, measure_and_keep, measure_own};
use crate::peers::fio;
use crate::report::Figures;
use crate::target::limits_for;
use crate::workloads::ingest::{Grouping, Ingest, Records};
use crate::workloads::put_durable::{PutDurable, VALUE_BYTES};
use std::sync::Arc;

/// Writers with one put in flight each.
pub(super) const WRITERS: Shape = Shape { connection_count: 64, depth: 1 };
/// Puts per second that a node started here has room for.
const PUTS_PER_SECOND_MAX: f64 = 300_000.0;
/// Bytes of journal that a small put takes at most, its share of frames and padding included.
const JOURNAL_BYTES_PER_PUT: u64 = 512;
/// Records of a smoke run's ingest.
const SMOKE_COUNT: usize = 5_000;
/// Records made up when there is no file.
const MADE_UP_COUNT: usize = 200_000;

/// Bytes of journal and bounds of a core for the puts of one round.
pub(super) fn sizes(session: &Session<'_>) -> (u64, shard::limits::Limits) {
    let seconds = session.args.seconds + session.args.warm_up;
    let puts = (seconds * PUTS_PER_SECOND_MAX) as u64;
    ((256 << 20) + puts * JOURNAL_BYTES_PER_PUT, limits_for(puts / 2, VALUE_BYTES as u64))
}

/// The client number of a round: another one each time, or a node that stays would take its writes for retries.
pub(super) fn client_of(client: u64, round: u32) -> u64 {
    client.wrapping_add(u64::from(round + 1) << 32).max(1)
}

/// 64 writers, beside fio.
pub(super) fn put_durable(session: &mut Session<'_>) -> Result<(), BenchError> {
    let fio = match fio::version() {
        Ok(version) => {
            let command = fio::command(&session.args.dir, session.args.seconds);
            session.peer("fio", format!("{version}; fio {}", command.join(" ")));
            Some(command)
        }
        Err(missing) => {
            session.note(missing.to_string())?;
            None
        }
    };
    let load = format!(
        "{} writers with one put of {VALUE_BYTES} bytes in flight each, acknowledged when flushed; \
         fio: 4 KiB written and fdatasync, one at a time, same file system.",
        WRITERS.connection_count
    );
    let (journal, limits) = sizes(session);
    let servers = session.maker(journal, limits)?;
    let (seed, client, plan) = (session.args.seed, session.client(), session.planner(WRITERS));
    let mut sides = vec![Side::new(OWN, move |round| {
        let server = servers.make()?;
        let puts = PutDurable::new(seed + u64::from(round), client_of(client, round));
        measure_own(&plan(server.target()), puts)
    })];
    if let Some(command) = &fio {
        sides.push(Side::new("fio", move |_| {
            let flushes = fio::run(command).map_err(BenchError::Peer)?;
            Ok(Figures::from([
                ("per_second".to_owned(), flushes.per_second),
                ("flush_latency_us_p50".to_owned(), flushes.latency_us_p50),
                ("flush_latency_us_p99".to_owned(), flushes.latency_us_p99),
            ]))
        }));
    }
    session.alternate("put-durable", &load, sides)
}

/// Real records, once through: puts, then batches.
pub(super) fn ingest(session: &mut Session<'_>) -> Result<(), BenchError> {
    let count = if session.args.smoke { SMOKE_COUNT } else { usize::MAX };
    let records = if session.args.data.exists() {
        Records::of_file(&session.args.data, count)?
    } else {
        session.note(format!("{} is not there: records are made up", session.args.data.display()))?;
        Records::made_up(count.min(MADE_UP_COUNT), session.args.seed)
    };
    let records = Arc::new(records);
    session
        .peer("data", format!("{}: {} records, {} bytes", records.origin, records.count(), records.bytes()));
    let journal = (256 << 20) + 2 * records.bytes() as u64 + records.count() as u64 * JOURNAL_BYTES_PER_PUT;
    let mean = (records.bytes() / records.count().max(1)) as u64;
    let limits = limits_for(records.count() as u64, mean);
    let groupings = [
        (Grouping::Puts, "puts", "each its own put", Shape { connection_count: 32, depth: 16 }),
        (
            Grouping::Batches,
            "batches",
            "up to 64 of a stream together",
            Shape { connection_count: 16, depth: 4 },
        ),
    ];
    for (grouping, name, text, shape) in groupings {
        let load = format!(
            "{} records, {text}, {} connections with {} in flight, from the first to the last flushed.",
            records.count(),
            shape.connection_count,
            shape.depth
        );
        let servers = session.maker(journal, limits.clone())?;
        let (client, plan) = (session.client(), session.planner(shape));
        let records = &records;
        let side = Side::new(OWN, move |round| {
            let server = servers.make()?;
            let mut plan = plan(server.target());
            plan.window = None;
            let work = Ingest::new(Arc::clone(records), grouping, client_of(client, round));
            let (mut figures, work) = measure_and_keep(&plan, work)?;
            let seconds = figures["seconds"];
            figures.insert("records_per_second".to_owned(), work.written() as f64 / seconds);
            figures.insert("value_mb_per_second".to_owned(), records.bytes() as f64 / 1e6 / seconds);
            Ok(figures)
        });
        session.alternate(&format!("ingest {name}"), &load, vec![side])?;
    }
    Ok(())
}
