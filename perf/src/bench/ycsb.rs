//! The core workloads of YCSB, beside redis with its append-only file where it can do the same: it has no scans of ranges.

use super::BenchError;
use super::session::{CLIENT, OWN, Session, Shape, Side, measure_and_keep};
use crate::args::YcsbChoice;
use crate::load::schedule::Spacing;
use crate::load::wire::redis::RedisWire;
use crate::load::wire::thermocline::ThermoclineWire;
use crate::load::{Mode, Plan, run};
use crate::peers::redis::{Keeps, Redis};
use crate::report::{Figures, figures_of, number};
use crate::workloads::ycsb::{Mix, ROW_BYTES, Ycsb};
use shard::limits::Limits;
use std::cell::RefCell;

/// Connections with one request in flight each, as YCSB's threads.
const CLIENTS: Shape = Shape { connection_count: 64, depth: 1 };
/// Share of what the closed loop reaches that is asked for in the open one.
const SHARE: f64 = 0.5;
const JOURNAL_BYTES: u64 = 2 << 30;
const JOURNAL_BYTES_SMOKE: u64 = 256 << 20;
/// Bytes of the table zone for a row: what is merged stands there twice for a while.
const TABLE_BYTES_PER_ROW: u64 = 4 * ROW_BYTES as u64;
/// Rows per second that a run may write over, with room for their tables.
const WRITES_PER_SECOND_MAX: f64 = 100_000.0;
const EVERY_SECOND: &str = "redis, everysec";

fn mix_of(choice: YcsbChoice) -> Mix {
    match choice {
        YcsbChoice::A => Mix::A,
        YcsbChoice::B => Mix::B,
        YcsbChoice::C => Mix::C,
        YcsbChoice::D => Mix::D,
        YcsbChoice::E => Mix::E,
        YcsbChoice::F => Mix::F,
    }
}

fn name_of(mix: Mix) -> String {
    format!("ycsb {mix:?}").to_lowercase()
}

/// Adds what YCSB counts: a read-modify-write is one operation.
fn with_operations(mut figures: Figures, mix: Mix) -> Figures {
    let count = |name: &str| figures.get(name).copied().unwrap_or(0.0);
    let operations = match mix {
        // Each begins with a read.
        Mix::F => count("get_count"),
        _ => count("answers"),
    };
    let rate = operations / count("seconds").max(1e-9);
    figures.insert("operations_per_second".to_owned(), rate);
    figures
}

/// All that were asked for; `opens`: each also at a rate, with latencies from the intended start.
pub(super) fn ycsb(session: &mut Session<'_>, opens: bool) -> Result<(), BenchError> {
    let args = session.args;
    let chosen: Vec<Mix> = if args.workload.is_empty() {
        Mix::ALL.to_vec()
    } else {
        args.workload.iter().map(|choice| mix_of(*choice)).collect()
    };
    let chosen: Vec<Mix> = chosen.into_iter().filter(|mix| session.wants(&name_of(*mix))).collect();
    if chosen.is_empty() {
        return Ok(());
    }
    let rows = Ycsb::new(Mix::C, args.records, args.seed, 1, CLIENTS.connection_count);
    let seconds = (args.seconds + args.warm_up) * f64::from(args.rounds) * chosen.len() as f64;
    let written = (seconds * WRITES_PER_SECOND_MAX * if opens { 2.0 } else { 1.0 }) as u64;
    let table_bytes =
        (512 << 20) + rows.row_count() * TABLE_BYTES_PER_ROW + (written * ROW_BYTES as u64).min(16 << 30);
    let journal_bytes = if args.smoke { JOURNAL_BYTES_SMOKE } else { JOURNAL_BYTES };
    let server = session.maker_with(journal_bytes, table_bytes, Limits::default())?.make()?;
    let history = rows.history(session.client());
    session.preload(OWN, server.target(), |_| ThermoclineWire::new(CLIENT, 4), history)?;
    let defaults = Limits::default();
    let about = session.own_about(&format!(
        "as a node is unless told otherwise: memtables {} MiB, block caches {} and {} MiB",
        defaults.memtable_bytes >> 20,
        defaults.block_cache_bytes >> 20,
        defaults.sealed_cache_bytes >> 20
    ));
    let peers = redises(session, &rows)?;
    // What one of them inserted is there for the next.
    let mut latest = rows.clone();
    for mix in chosen {
        let load = format!(
            "YCSB {mix:?}: {}; {} rows of {ROW_BYTES} bytes, zipf 0.99, {} connections with one request in flight each. A whole row is written.",
            mix.text(),
            rows.row_count(),
            CLIENTS.connection_count
        );
        // One client goes through all rounds of a side: what it inserted stays.
        let own = RefCell::new(latest.with_mix(mix, session.client()));
        let planner = session.planner(CLIENTS);
        let own_plan = planner(server.target());
        let measure_own = |plan: &Plan| -> Result<Figures, BenchError> {
            let (figures, after) = measure_and_keep(plan, own.borrow().clone())?;
            own.replace(after.again());
            Ok(with_operations(figures, mix))
        };
        let with_peers: Vec<_> = peers
            .iter()
            .filter(|_| mix != Mix::E)
            .map(|(name, redis)| (*name, redis, RefCell::new(rows.with_mix(mix, 1))))
            .collect();
        let measure_redis = |plan: &Plan, ongoing: &RefCell<Ycsb>| -> Result<Figures, BenchError> {
            let workload = ongoing.borrow().clone();
            let (measured, after) = run(plan, |_| RedisWire::new(CLIENTS.depth), workload)?;
            ongoing.replace(after.again());
            Ok(with_operations(figures_of(&measured), mix))
        };
        let closed = RefCell::new(Vec::new());
        let mut sides = vec![
            Side::new(OWN, |_| {
                let figures = measure_own(&own_plan)?;
                closed.borrow_mut().push(figures["per_second"]);
                Ok(figures)
            })
            .about(about.clone()),
        ];
        for (name, redis, ongoing) in &with_peers {
            let plan = planner(redis.target());
            let side = Side::new(*name, move |_| measure_redis(&plan, ongoing));
            sides.push(side.about(redis.about()));
        }
        session.alternate(&name_of(mix), &load, sides)?;
        let reached = closed.take().into_iter().fold(0.0_f64, f64::max);
        if opens && reached > 0.0 {
            let rate = args.rate.unwrap_or(reached * SHARE);
            let open = |plan: &Plan, round: u32| {
                let seed = args.seed + u64::from(round);
                let mode = Mode::Open { spacing: Spacing::Poisson, rate, depth: CLIENTS.depth, seed };
                Plan { mode, ..plan.clone() }
            };
            let mut sides =
                vec![Side::new(OWN, |round| measure_own(&open(&own_plan, round))).about(about.clone())];
            for (name, redis, ongoing) in &with_peers {
                let plan = planner(redis.target());
                let side = Side::new(*name, move |round| measure_redis(&open(&plan, round), ongoing));
                sides.push(side.about(redis.about()));
            }
            let load = format!(
                "{load} {} requests per second, Poisson; latency from the intended start.",
                number(rate)
            );
            session.alternate(&format!("{} open", name_of(mix)), &load, sides)?;
        }
        latest = own.into_inner();
    }
    Ok(())
}

/// redis, flushing each write and flushing once a second, with the rows.
fn redises(session: &mut Session<'_>, rows: &Ycsb) -> Result<Vec<(&'static str, Redis)>, BenchError> {
    let version = match Redis::version() {
        Ok(version) => version,
        Err(missing) => {
            session.note(missing.to_string())?;
            return Ok(Vec::new());
        }
    };
    let mut started = Vec::new();
    for (name, keeps) in [("redis", Keeps::Always), (EVERY_SECOND, Keeps::EverySecond)] {
        if session.wants_side(name) {
            let redis = Redis::start(version.clone(), keeps, &session.args.dir, session.processors().1)?;
            session.peer_about(name, &redis.about());
            session.preload(name, redis.target(), |_| RedisWire::new(64), rows.history(1))?;
            started.push((name, redis));
        }
    }
    Ok(started)
}
