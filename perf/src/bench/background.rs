//! The worst that a request waits while memtables are flushed, runs merged and windows sealed: an open load on a node that has
//! all of it to do, beside the same on a node that has none, beside the device alone under writes as a flush makes them.

use super::BenchError;
use super::disk::{Counted, connect, counted};
use super::session::{CLIENT, OWN, PIPELINED, Session, Side, measure_and_keep};
use crate::load::schedule::Spacing;
use crate::load::wire::thermocline::ThermoclineWire;
use crate::load::{Mode, Plan};
use crate::peers::fio;
use crate::report::{Figures, number};
use crate::target::limits_for;
use crate::workloads::churn::{Churn, GIVEN_BYTES};
use shard::limits::Limits;
use std::cell::RefCell;

/// Requests per second, a quarter of them puts, where nothing else is asked for.
const RATE: f64 = 20_000.0;
/// Requests in flight on a connection at most.
const DEPTH: usize = 64;
/// The least that holds what a core stages: it is full every few seconds.
const MEMTABLE_BYTES: usize = 32 << 20;
const JOURNAL_BYTES: u64 = 1 << 30;

/// Both nodes and the device, in turns.
pub(super) fn background(session: &mut Session<'_>) -> Result<(), BenchError> {
    let records = session.args.records;
    let rate = session.args.rate.unwrap_or(RATE);
    // Few runs to a merge and small windows: each comes many times in a short run.
    let busy = Limits {
        memtable_bytes: MEMTABLE_BYTES,
        memtable_record_count_max: 1 << 18,
        merge_fan_in: 2,
        window_bytes: 1 << 20,
        ..Limits::default()
    };
    // All rounds together, and as much again.
    let args = session.args;
    let puts = 2.0 * (args.seconds + args.warm_up) * f64::from(args.rounds) * rate / 4.0;
    let all = records + puts as u64;
    let quiet = limits_for(all, GIVEN_BYTES);
    let mut sides = Vec::new();
    for (name, limits) in [(OWN, busy), ("thermocline, nothing to do", quiet)] {
        let is_busy = name == OWN;
        let journal = if is_busy { JOURNAL_BYTES } else { all * 4 * GIVEN_BYTES };
        let table_bytes = if is_busy { (512 << 20) + all * GIVEN_BYTES * 3 } else { 256 << 20 };
        let server = session.maker_with(journal, table_bytes, limits)?.make()?;
        let (seed, client) = (session.args.seed, session.client());
        session.preload(
            name,
            server.target(),
            |_| ThermoclineWire::new(CLIENT, 4),
            Churn::load(seed, client, records),
        )?;
        let plan = session.planner(PIPELINED)(server.target());
        let status = connect(&server)?;
        let ongoing = RefCell::new(Churn::go_on(seed, session.client(), records));
        sides.push(Side::new(name, move |round| {
            // The node lives as long as its side.
            let _ = &server;
            let spacing = Spacing::Poisson;
            let mode = Mode::Open { spacing, rate, depth: DEPTH, seed: seed + u64::from(round) };
            let before = counted(&status)?;
            let (mut figures, after) =
                measure_and_keep(&Plan { mode, ..plan.clone() }, ongoing.borrow().clone())?;
            ongoing.replace(after);
            done(&mut figures, &before, &counted(&status)?);
            Ok(figures)
        }));
    }
    match fio::version() {
        Ok(version) => {
            let command = fio::background_command(&session.args.dir, session.args.seconds);
            session.peer("fio", format!("{version}; fio {}", command.join(" ")));
            sides.push(Side::new("fio", move |_| {
                let worst = fio::run_worst(&command).map_err(BenchError::Peer)?;
                Ok(Figures::from([
                    ("read_latency_us_max".to_owned(), worst.read_us),
                    ("flush_latency_us_max".to_owned(), worst.flush_us),
                ]))
            }));
        }
        Err(missing) => session.note(missing.to_string())?,
    }
    let load = format!(
        "{} requests per second, Poisson, on 8 connections, one put of a new record to three gets of older ones; latency from \
         the intended start. {records} records loaded. fio: reads of 4 KiB, writes of 4 KiB with fdatasync, and writes of \
         256 KiB at 50 MB/s, side by side.",
        number(rate)
    );
    session.alternate("background", &load, sides)
}

/// What was done behind the requests.
fn done(figures: &mut Figures, before: &Counted, after: &Counted) {
    let mut set = |name: &str, before: u64, after: u64| {
        figures.insert(name.to_owned(), after.saturating_sub(before) as f64);
    };
    set("flushes", before.flushes, after.flushes);
    set("merges", before.merges, after.merges);
    set("seals", before.seals, after.seals);
    set("written_bytes", before.written_bytes, after.written_bytes);
}
