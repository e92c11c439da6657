//! Durable puts beside what the file system can flush and beside RocksDB and redis, and writing real data in.

use super::BenchError;
use super::session::{OWN, Session, Shape, Side, measure_and_keep, measure_own};
use crate::load::run;
use crate::load::wire::redis::RedisWire;
use crate::peers::db_bench::{self, DbBench};
use crate::peers::fio;
use crate::peers::redis::{Keeps, Redis};
use crate::report::{Aim, Figures, figures_of};
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

/// 64 writers, beside fio, RocksDB and redis.
pub(super) fn put_durable(session: &mut Session<'_>) -> Result<(), BenchError> {
    const NAME: &str = "put-durable";
    if !session.wants(NAME) {
        return Ok(());
    }
    let load = format!(
        "{} writers with one put of {VALUE_BYTES} bytes in flight each, acknowledged when flushed. fio: 4 KiB written and fdatasync, one at a \
         time, same file system. rocksdb: fillrandom with sync, as many threads, its processor time that of engine and load in one process. \
         redis: as many connections of the same generator, appendfsync always.",
        WRITERS.connection_count
    );
    let (journal, limits) = sizes(session);
    let memtables = limits.memtable_bytes >> 20;
    let servers = session.maker(journal, limits)?;
    let (seed, client, plan) = (session.args.seed, session.client(), session.planner(WRITERS));
    let args = session.args;
    let own = Side::new(OWN, |round| {
        let server = servers.make()?;
        let puts = PutDurable::new(seed + u64::from(round), client_of(client, round));
        measure_own(&plan(server.target()), puts)
    });
    let layout =
        format!("a fresh one in each round, memtables {memtables} MiB, journal {} MiB", journal >> 20);
    let mut sides = vec![own.about(session.own_about(&layout))];
    match fio::version() {
        Ok(_) if !session.wants_side("fio") => {}
        Ok(version) => {
            let command = fio::command(&args.dir, args.seconds);
            let about = fio::about(&version, &command, "fdatasync after each write");
            session.peer_about("fio", &about);
            let side = Side::new("fio", move |_| {
                let flushes = fio::run(&command).map_err(BenchError::Peer)?;
                Ok(Figures::from([
                    ("per_second".to_owned(), flushes.per_second),
                    ("flush_latency_us_p50".to_owned(), flushes.latency_us_p50),
                    ("flush_latency_us_p99".to_owned(), flushes.latency_us_p99),
                ]))
            });
            sides.push(side.about(about));
        }
        Err(missing) => session.note(missing.to_string())?,
    }
    match DbBench::version() {
        Ok(_) if !session.wants_side("rocksdb") => {}
        Ok(version) => {
            let bench = DbBench::new(&args.dir, version, VALUE_BYTES, args.seconds);
            let command = bench.write_command(WRITERS.connection_count);
            let about =
                bench.about(&command, "the log flushed (fdatasync) before each put returns: --sync=1");
            session.peer_about("rocksdb fillrandom", &about);
            session.note(db_bench::CAVEAT)?;
            let side = Side::new("rocksdb", move |_| {
                bench.clear();
                bench.run(&command, "put").map_err(BenchError::Peer)
            });
            sides.push(side.about(about));
        }
        Err(missing) => session.note(missing.to_string())?,
    }
    match Redis::version() {
        Ok(_) if !session.wants_side("redis") => {}
        Ok(version) => {
            let cpu = session.processors().1;
            let start = move || Redis::start(version.clone(), Keeps::Always, &args.dir, cpu);
            let about = start()?.about();
            session.peer_about("redis", &about);
            let plan = &plan;
            let side = Side::new("redis", move |round| {
                let redis = start()?;
                let puts = PutDurable::new(seed + u64::from(round), 1);
                let (measured, _) = run(&plan(redis.target()), |_| RedisWire::new(WRITERS.depth), puts)?;
                Ok(figures_of(&measured))
            });
            sides.push(side.about(about));
        }
        Err(missing) => session.note(missing.to_string())?,
    }
    session.alternate_for(NAME, &load, sides, vec![Aim::least("rocksdb", "per_second", 2.0)])
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
