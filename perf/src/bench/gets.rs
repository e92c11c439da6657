//! Gets from memory, beside the upper bounds and beside redis.

use super::BenchError;
use super::session::{CLIENT, OWN, PIPELINED, SINGLE, Server, Session, Shape, Side, measure_own};
use crate::limits::{Answers, LimitServer};
use crate::load::wire::echo::EchoWire;
use crate::load::wire::redis::RedisWire;
use crate::load::wire::thermocline::ThermoclineWire;
use crate::load::{Plan, run};
use crate::peers::redis::Redis;
use crate::report::{Figures, figures_of};
use crate::target::{Target, limits_for};
use crate::workloads::get_memory::{GetMemory, VALUE_BYTES};
use ioengine::HostKind;

/// Bytes of a bare echo's message that moves as much as a get and its answer together: (72 + 192) / 2.
const ECHO_BYTES: usize = 132;
/// Bytes of journal for a record of the preload: four times what it takes, so that no flush is wanted to trim it.
const JOURNAL_BYTES_PER_RECORD: u64 = 1280;

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

fn load_text(session: &Session<'_>, shape: &str) -> String {
    format!("{shape} {} records of {VALUE_BYTES} bytes in memory, uniform keys.", session.args.records)
}

pub(super) fn loaded_redis(session: &mut Session<'_>, gets: &GetMemory) -> Result<Option<Redis>, BenchError> {
    let version = match Redis::version() {
        Ok(version) => version,
        Err(missing) => {
            session.note(missing.to_string())?;
            return Ok(None);
        }
    };
    let redis = Redis::start(version, session.processors().1)?;
    session.peer("redis", format!("{}; {}", redis.version, redis.command()));
    session.preload("redis", redis.target(), |_| RedisWire::new(64), gets.history(1))?;
    Ok(Some(redis))
}

pub(super) fn measure_redis(plan: &Plan, gets: GetMemory) -> Result<Figures, BenchError> {
    let depth = plan.mode.depth();
    let (measured, _) = run(plan, move |_| RedisWire::new(depth), gets)?;
    Ok(figures_of(&measured))
}

fn measure_echo(plan: &Plan, message_bytes: usize) -> Result<Figures, BenchError> {
    let (measured, _) = run(plan, move |_| EchoWire::new(message_bytes), GetMemory::new(64, 1))?;
    Ok(figures_of(&measured))
}

/// Ours, both bounds, redis.
pub(super) fn get_memory(session: &mut Session<'_>) -> Result<(), BenchError> {
    let (server, gets) = loaded_node(session)?;
    let redis = loaded_redis(session, &gets)?;
    let bare = LimitServer::start(Answers::Same, session.processors().1)?;
    let frames = LimitServer::start(Answers::Record(VALUE_BYTES), session.processors().1)?;
    for (name, text, shape) in SHAPES {
        let plan = session.planner(shape);
        let (own, of_bare, of_frames) = (plan(server.target()), plan(bare.target()), plan(frames.target()));
        let of_redis = redis.as_ref().map(|redis| plan(redis.target()));
        let mut sides = vec![
            Side::new(OWN, |_| measure_own(&own, gets.clone())),
            Side::new("bare echo", |_| measure_echo(&of_bare, ECHO_BYTES)),
            Side::new("frame echo", |_| measure_own(&of_frames, gets.clone())),
        ];
        if let Some(plan) = &of_redis {
            sides.push(Side::new("redis", |_| measure_redis(plan, gets.clone())));
        }
        let text = load_text(session, text);
        session.alternate(&format!("get-memory {name}"), &text, sides)?;
    }
    Ok(())
}

/// Ours beside redis alone.
pub(super) fn redis(session: &mut Session<'_>) -> Result<(), BenchError> {
    let (server, gets) = loaded_node(session)?;
    let redis = loaded_redis(session, &gets)?;
    for (name, text, shape) in SHAPES {
        let plan = session.planner(shape);
        let own = plan(server.target());
        let of_redis = redis.as_ref().map(|redis| plan(redis.target()));
        let mut sides = vec![Side::new(OWN, |_| measure_own(&own, gets.clone()))];
        if let Some(plan) = &of_redis {
            sides.push(Side::new("redis", |_| measure_redis(plan, gets.clone())));
        }
        let text = load_text(session, text);
        session.alternate(&format!("redis {name}"), &text, sides)?;
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
