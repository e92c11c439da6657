//! The reference mix under an open load: how long a reader waits at a rate that the server keeps up with. The frame
//! echo at the same rate shows what of it the machine alone takes.

use super::BenchError;
use super::disk::{connect, settle};
use super::session::{CLIENT, OWN, PIPELINED, Server, Session, Side, measure_and_keep, measure_own};
use crate::limits::{Answers, LimitServer};
use crate::load::schedule::Spacing;
use crate::load::wire::thermocline::ThermoclineWire;
use crate::load::{Mode, Plan};
use crate::report::number;
use crate::target::limits_for;
use crate::workloads::timeline::Timeline;
use shard::limits::Limits;
use std::cell::RefCell;

/// Bytes of a record on average, stream included.
const RECORD_BYTES: u64 = 170;
/// Bytes of journal that a record of the history takes at most.
const JOURNAL_BYTES_PER_RECORD: u64 = 400;
/// Of a store that has the history in tables: what is merged stands there twice for a while.
const TABLE_BYTES_PER_RECORD: u64 = 4 * RECORD_BYTES;
const JOURNAL_BYTES_IN_TABLES: u64 = 2 << 30;
/// Requests in flight on a connection at most.
const DEPTH: usize = 64;
/// Share of what a closed load reaches that the open one asks for.
const SHARE: f64 = 0.5;
/// Bytes of the frame echo's answer: a record of the mix.
const ANSWER_BYTES: usize = 150;

/// A node with the history of the mix, and the mix that goes on behind it.
pub(super) fn loaded(session: &mut Session<'_>) -> Result<(Server, Timeline), BenchError> {
    let records = session.args.records;
    let journal = (512 << 20) + records * JOURNAL_BYTES_PER_RECORD;
    let server = session.maker(journal, limits_for(records, RECORD_BYTES))?.make()?;
    let mix = with_history(session, &server)?;
    Ok((server, mix))
}

/// The same on a store that has nearly all of it in tables: a 64th of the records' bytes for the block cache and as much for each
/// memtable, or the least that there is; and twice the version cells that the records take.
pub(super) fn loaded_in_tables(session: &mut Session<'_>) -> Result<(Server, Timeline), BenchError> {
    let records = session.args.records;
    let limits = in_tables(records);
    let table_bytes = records * TABLE_BYTES_PER_RECORD + (512 << 20);
    let server = session.maker_with(JOURNAL_BYTES_IN_TABLES, table_bytes, limits)?.make()?;
    let mix = with_history(session, &server)?;
    let loaded = settle(&connect(&server)?, session.args.smoke)?;
    if loaded.flushes == 0 {
        return Err(BenchError::Peer("the records fit the memtables; ask for more --records".to_owned()));
    }
    Ok((server, mix))
}

/// Bounds of a store for [`loaded_in_tables`].
pub(super) fn in_tables(records: u64) -> Limits {
    let part = usize::try_from(records * RECORD_BYTES / 64).expect("records of a bench fit memory");
    let rows = usize::try_from(records).expect("as above") / 4;
    let limits = Limits::default();
    Limits {
        memtable_bytes: part.clamp(24 << 20, limits.memtable_bytes),
        block_cache_bytes: part.max(1 << 20),
        sealed_cache_bytes: part.max(1 << 20),
        version_row_count: (2 * rows).next_power_of_two(),
        ..limits
    }
}

fn with_history(session: &mut Session<'_>, server: &Server) -> Result<Timeline, BenchError> {
    let mix = Timeline::new(session.args.records, session.args.seed, session.client());
    let history = mix.history(session.client());
    session.preload(OWN, server.target(), |_| ThermoclineWire::new(CLIENT, 4), history)?;
    Ok(mix)
}

/// Capacity first, then latency at half of it.
pub(super) fn timeline(session: &mut Session<'_>) -> Result<(), BenchError> {
    let (server, mix) = loaded(session)?;
    let plan = session.planner(PIPELINED);
    let (own, record_count) = (plan(server.target()), mix.record_count());
    // One client goes through all rounds: what it appended stays.
    let ongoing = RefCell::new(mix.clone());
    let measure = |plan: &Plan| {
        let (figures, after) = measure_and_keep(plan, ongoing.borrow().clone())?;
        ongoing.replace(after);
        Ok(figures)
    };
    let first = measure(&own)?;
    let rate = session.args.rate.unwrap_or(first["per_second"] * SHARE);
    let load = format!(
        "The reference mix over {record_count} records, 32 requests at once on each of 8 connections."
    );
    session.alternate("timeline closed", &load, vec![Side::new(OWN, |_| measure(&own))])?;
    let frames = LimitServer::start(Answers::Record(ANSWER_BYTES), session.processors().1)?;
    let (seed, of_frames) = (session.args.seed, plan(frames.target()));
    let open = |plan: &Plan, round: u32| {
        let seed = seed + u64::from(round);
        Plan { mode: Mode::Open { spacing: Spacing::Poisson, rate, depth: DEPTH, seed }, ..plan.clone() }
    };
    let load = format!(
        "The reference mix at {} requests per second, Poisson, on 8 connections; latency from the intended start.",
        number(rate)
    );
    let sides = vec![
        Side::new(OWN, |round| measure(&open(&own, round))),
        Side::new("frame echo", |round| measure_own(&open(&of_frames, round), mix.clone())),
    ];
    session.alternate("timeline open", &load, sides)
}
