//! Gets from memory, beside the upper bounds, redis and memcached.

use super::BenchError;
use super::disk::{self, Tables};
use super::session::{CLIENT, OWN, PIPELINED, SINGLE, Server, Session, Shape, Side, measure_own};
use crate::limits::{Answers, LimitServer};
use crate::load::wire::echo::EchoWire;
use crate::load::wire::memcached::MemcachedWire;
use crate::load::wire::redis::RedisWire;
use crate::load::wire::thermocline::ThermoclineWire;
use crate::load::{Plan, run};
use crate::peers::memcached::Memcached;
use crate::peers::redis::{Keeps, Redis};
use crate::report::{About, Aim, Figures, figures_of};
use crate::target::{Target, limits_for};
use crate::workloads::get_memory::{GetMemory, VALUE_BYTES};
use ioengine::HostKind;
use std::time::Duration;

/// Bytes of a bare echo's message that moves as much as a get and its answer together: (72 + 192) / 2.
pub(super) const ECHO_BYTES: usize = 132;
/// Bytes of journal for a record of the preload: four times what it takes, so that no flush is wanted to trim it.
const JOURNAL_BYTES_PER_RECORD: u64 = 1280;

/// Names of the sides.
const BARE: &str = "bare echo";
const FRAMES: &str = "frame echo";
const MEMTABLE: &str = "thermocline memtable";

/// Both ways of asking.
pub(super) const SHAPES: [(&str, &str, Shape); 2] = [
    ("pipelined", "32 gets at once on each of 8 connections.", PIPELINED),
    ("single", "One get at a time on each of 50 connections.", SINGLE),
];

/// Start a node and give it the records.
pub(super) fn loaded_node(session: &mut Session<'_>) -> Result<(Server, GetMemory), BenchError> {
    let (journal, limits) = sizes(session.args.records);
    let server = session.maker(journal, limits)?.make()?;
    let gets = GetMemory::new(session.args.records, session.args.seed);
    load_own(session, OWN, server.target(), &gets)?;
    Ok((server, gets))
}

/// Bytes of journal and bounds of a core for so many records.
pub(super) fn sizes(record_count: u64) -> (u64, shard::limits::Limits) {
    let journal = (256 << 20) + record_count * JOURNAL_BYTES_PER_RECORD;
    (journal, limits_for(record_count, VALUE_BYTES as u64))
}

/// Give the records to a node that was started.
pub(super) fn load_own(
    session: &mut Session<'_>,
    who: &str,
    target: &Target,
    gets: &GetMemory,
) -> Result<(), BenchError> {
    let history = gets.history(session.client());
    session.preload(who, target, |_| ThermoclineWire::new(CLIENT, 4), history)
}

pub(super) fn loaded_redis(session: &mut Session<'_>, gets: &GetMemory) -> Result<Option<Redis>, BenchError> {
    let version = match Redis::version() {
        Ok(version) => version,
        Err(missing) => {
            session.note(missing.to_string())?;
            return Ok(None);
        }
    };
    let redis = Redis::start(version, Keeps::Nothing, &session.args.dir, session.processors().1)?;
    session.peer_about("redis", &redis.about());
    session.preload("redis", redis.target(), |_| RedisWire::new(64), gets.history(1))?;
    Ok(Some(redis))
}

pub(super) fn measure_redis(plan: &Plan, gets: GetMemory) -> Result<Figures, BenchError> {
    let depth = plan.mode.depth();
    let (measured, _) = run(plan, move |_| RedisWire::new(depth), gets)?;
    Ok(figures_of(&measured))
}

pub(super) fn measure_echo(plan: &Plan, message_bytes: usize) -> Result<Figures, BenchError> {
    let (measured, _) = run(plan, move |_| EchoWire::new(message_bytes), GetMemory::new(64, 1))?;
    Ok(figures_of(&measured))
}

fn loaded_memcached(session: &mut Session<'_>, gets: &GetMemory) -> Result<Option<Memcached>, BenchError> {
    let version = match Memcached::version() {
        Ok(version) => version,
        Err(missing) => {
            session.note(missing.to_string())?;
            return Ok(None);
        }
    };
    let records = session.args.records;
    let memcached = Memcached::start(version, records, VALUE_BYTES as u64, session.processors().1)?;
    session.peer_about("memcached", &memcached.about());
    session.preload("memcached", memcached.target(), |_| MemcachedWire::new(64), gets.history(1))?;
    Ok(Some(memcached))
}

fn measure_memcached(plan: &Plan, gets: GetMemory) -> Result<Figures, BenchError> {
    let depth = plan.mode.depth();
    let (measured, _) = run(plan, move |_| MemcachedWire::new(depth), gets)?;
    Ok(figures_of(&measured))
}

/// What is said of an echo.
fn limit_about(what: &str) -> About {
    About { version: String::new(), command: what.to_owned(), durability: "nothing is kept".to_owned() }
}

/// What is aimed for in a shape, per CPU-second of the server.
fn aims(shape: &str) -> Vec<Aim> {
    let figure = "per_server_cpu_second";
    let (bound, of_bound, of_peers) =
        if shape == "pipelined" { (FRAMES, 0.7, 3.0) } else { (BARE, 0.8, 1.5) };
    [("redis", of_peers), ("memcached", of_peers), (bound, of_bound)]
        .map(|(side, least)| Aim::least(side, figure, least))
        .to_vec()
}

/// Ours with its records sealed and in the block cache, and with them in the memtable; both bounds, redis, memcached.
pub(super) fn get_memory(session: &mut Session<'_>) -> Result<(), BenchError> {
    if !SHAPES.iter().any(|(name, ..)| session.wants(&format!("get-memory {name}"))) {
        return Ok(());
    }
    let records = session.args.records;
    let tables = Tables::of(records).with_caches(Tables::room_for_all(records));
    let (sealed, loaded) = tables.make(session, OWN)?;
    let gets = GetMemory::new(records, session.args.seed);
    session.note(format!(
        "get-memory: {OWN} after its load: {} flushes, {} merges, {} seals, {} tables",
        loaded.flushes, loaded.merges, loaded.seals, loaded.tables
    ))?;
    // A node elsewhere has its records where it has them.
    let memtable = match session.args.endpoint {
        None if session.wants_side(MEMTABLE) => Some(loaded_node(session)?.0),
        _ => None,
    };
    let redis = if session.wants_side("redis") { loaded_redis(session, &gets)? } else { None };
    let memcached = if session.wants_side("memcached") { loaded_memcached(session, &gets)? } else { None };
    let bare = LimitServer::start(Answers::Same, session.processors().1)?;
    let frames = LimitServer::start(Answers::Record(VALUE_BYTES), session.processors().1)?;
    // Every block once into the cache: of uniform keys, eight gets for each record leave none out.
    let mut warm = session.planner(PIPELINED)(sealed.target());
    warm.window = Some(Duration::from_secs_f64((records as f64 / 100_000.0).max(0.2)));
    measure_own(&warm, gets.clone())?;
    let (of_tables, of_memtable) = (
        session.own_about(&format!("{}, sealed tables, block caches for all", tables.text())),
        session.own_about("all records in the memtable"),
    );
    let status = disk::connect(&sealed)?;
    for (name, text, shape) in SHAPES {
        let plan = session.planner(shape);
        let (own, of_bare, of_frames) = (plan(sealed.target()), plan(bare.target()), plan(frames.target()));
        let mut sides = vec![
            Side::new(OWN, |_| disk::measure_gets(&status, &own, &gets)).about(of_tables.clone()),
            Side::new(BARE, |_| measure_echo(&of_bare, ECHO_BYTES))
                .about(limit_about("sends back what comes, a host as ours, nothing looked at")),
            Side::new(FRAMES, |_| measure_own(&of_frames, gets.clone()))
                .about(limit_about("decodes and checks each frame, and gives a constant answer")),
        ];
        if let Some(node) = &memtable {
            let plan = plan(node.target());
            let gets = gets.clone();
            sides.push(
                Side::new(MEMTABLE, move |_| measure_own(&plan, gets.clone())).about(of_memtable.clone()),
            );
        }
        if let Some(redis) = &redis {
            let (plan, gets) = (plan(redis.target()), gets.clone());
            sides.push(Side::new("redis", move |_| measure_redis(&plan, gets.clone())).about(redis.about()));
        }
        if let Some(memcached) = &memcached {
            let (plan, gets) = (plan(memcached.target()), gets.clone());
            sides.push(
                Side::new("memcached", move |_| measure_memcached(&plan, gets.clone()))
                    .about(memcached.about()),
            );
        }
        let text = format!(
            "{text} {records} records of {VALUE_BYTES} bytes, uniform keys. {OWN}: flushed, sealed, every block in the block cache; \
             {MEMTABLE}: none of them in a table."
        );
        session.alternate_for(&format!("get-memory {name}"), &text, sides, aims(name))?;
    }
    Ok(())
}

/// The bounds alone.
pub(super) fn limits(session: &mut Session<'_>) -> Result<(), BenchError> {
    let bare = LimitServer::start(Answers::Same, session.processors().1)?;
    let frames = LimitServer::start(Answers::Record(VALUE_BYTES), session.processors().1)?;
    for (name, _, shape) in SHAPES {
        let plan = session.planner(shape);
        let (of_bare, of_frames) = (plan(bare.target()), plan(frames.target()));
        let mut sides = vec![Side::new("frame echo", |_| measure_own(&of_frames, GetMemory::new(64, 1)))];
        for bytes in [64, 128, 256] {
            let plan = &of_bare;
            sides.push(Side::new(format!("bare echo {bytes}"), move |_| measure_echo(plan, bytes)));
        }
        let text = format!(
            "{} connections, {} messages at once; frames of a get and an answer with {VALUE_BYTES} bytes.",
            shape.connection_count, shape.depth
        );
        session.alternate(&format!("limits {name}"), &text, sides)?;
    }
    Ok(())
}

/// The kinds of host there are, with their names.
pub(super) const HOSTS: [(&str, HostKind); 2] = [(OWN, HostKind::Own), ("glommio", HostKind::Glommio)];
