//! Gets through a cache node, each with its question to the store: what both tiers together spend on them beside the store alone,
//! and the reference mix with its gets on the ways that a cluster map gives them.

use super::gets::{SHAPES, load_own, loaded_redis, measure_redis, sizes};
use super::session::{CLIENT, OWN, PIPELINED, Session, Side, measure_own};
use super::{BenchError, disk, timeline};
use crate::args::ThroughChoice;
use crate::cache_target::{Counted, InProcessCache};
use crate::load::schedule::Spacing;
use crate::load::wire::thermocline::ThermoclineWire;
use crate::load::{CpuOf, Mode, Plan, begin};
use crate::report::{Figures, figures_of, number};
use crate::target::Target;
use crate::workloads::get_memory::{GetMemory, VALUE_BYTES};
use crate::workloads::timeline::{Part, Timeline};
use std::time::Duration;

/// Name of the side that goes through the cache.
const THROUGH: &str = "through a cache";
/// How long a server may take to listen.
const CONNECT: Duration = Duration::from_secs(10);
/// Requests in flight on a connection at most, in the mix.
const DEPTH: usize = 64;
/// Requests per second of the mix unless told otherwise.
const RATE: f64 = 50_000.0;

/// Threads of both.
fn both(store: &Target, cache: &Target) -> CpuOf {
    match (&store.cpu, &cache.cpu) {
        (CpuOf::Threads(store), CpuOf::Threads(cache)) => CpuOf::Threads([&store[..], &cache[..]].concat()),
        _ => CpuOf::Unknown,
    }
}

/// What the cache did between two looks, and whose time it took.
struct Watch<'a> {
    cache: &'a InProcessCache,
    store: &'a Target,
    before: Counted,
    store_ns: u64,
    cache_ns: u64,
}

impl<'a> Watch<'a> {
    fn begin(cache: &'a InProcessCache, store: &'a Target) -> Result<Watch<'a>, BenchError> {
        let ns = |target: &Target| target.cpu.now().map_or(0, |cpu| cpu.total_ns);
        Ok(Watch {
            cache,
            store,
            before: cache.counted()?,
            store_ns: ns(store),
            cache_ns: ns(cache.target()),
        })
    }

    /// Adds what was seen. The looks are before the warm-up and after the last answer, so these are shares and means of all that, while the
    /// figures of the load are of its window.
    fn end(self, figures: &mut Figures) -> Result<(), BenchError> {
        let after = self.cache.counted()?;
        let ns = |target: &Target, before: u64| target.cpu.now().map_or(0, |cpu| cpu.total_ns) - before;
        let (store_ns, cache_ns) = (ns(self.store, self.store_ns), ns(self.cache.target(), self.cache_ns));
        let of = |count: fn(&Counted) -> f64| count(&after) - count(&self.before);
        let gets = of(|counted| counted.gets).max(1.0);
        let asked = of(|one| one.not_modified) + of(|one| one.newer) + of(|one| one.absent);
        let mut set = |name: &str, value: f64| {
            figures.insert(name.to_owned(), value);
        };
        set("cache_gets", gets);
        set("hit_percent", 100.0 * of(|one| one.not_modified) / asked.max(1.0));
        set("shared_percent", 100.0 * of(|one| one.shared) / gets);
        set("keys_per_batch", of(|one| one.batched_keys) / of(|one| one.batches).max(1.0));
        set("cache_busy", of(|one| one.busy));
        set("store_cpu_s", store_ns as f64 / 1e9);
        set("cache_cpu_s", cache_ns as f64 / 1e9);
        set("store_cpu_ns_per_get", store_ns as f64 / gets);
        set("cache_cpu_ns_per_get", cache_ns as f64 / gets);
        Ok(())
    }
}

/// Gets of values that the cache holds, beside gets of the same values from the store, and redis.
pub(super) fn get_cache(session: &mut Session<'_>) -> Result<(), BenchError> {
    let records = session.args.records;
    let (journal, limits) = sizes(records);
    let server = session.maker(journal, limits)?.make()?;
    let gets = GetMemory::new(records, session.args.seed);
    load_own(session, OWN, server.target(), &gets)?;
    let redis = loaded_redis(session, &gets)?;
    let store = server.target();
    let cache = InProcessCache::start(store, records, session.processors().1)?;
    warm(session, &cache, &gets)?;
    for (name, text, shape) in SHAPES {
        let plan = session.planner(shape);
        let own = plan(store);
        let through = Plan { server: both(store, cache.target()), ..plan(cache.target()) };
        let of_redis = redis.as_ref().map(|redis| plan(redis.target()));
        let mut sides = vec![
            Side::new(OWN, |_| measure_own(&own, gets.clone()).map(of_store_alone)),
            Side::new(THROUGH, |_| {
                let watch = Watch::begin(&cache, store)?;
                let mut figures = measure_own(&through, gets.clone())?;
                watch.end(&mut figures)?;
                Ok(figures)
            }),
        ];
        if let Some(plan) = &of_redis {
            sides.push(Side::new("redis", |_| measure_redis(plan, gets.clone()).map(of_store_alone)));
        }
        let text = format!(
            "{text} {records} records of {VALUE_BYTES} bytes, uniform keys. Through a cache: all are held there, each get is asked of the store \
             by version, and the time of both counts."
        );
        session.alternate(&format!("get-cache {name}"), &text, sides)?;
    }
    Ok(())
}

/// What one that answers by itself spends on a get, by the name that it has where two do.
fn of_store_alone(mut figures: Figures) -> Figures {
    if let Some(per_second) = figures.get("per_server_cpu_second").copied() {
        figures.insert("store_cpu_ns_per_get".to_owned(), 1e9 / per_second);
    }
    figures
}

/// Have the cache hear of the records.
fn warm(session: &mut Session<'_>, cache: &InProcessCache, gets: &GetMemory) -> Result<(), BenchError> {
    let mut plan = session.planner(PIPELINED)(cache.target());
    // Uniform keys: after four times as many gets as records one in 55 was never asked for.
    plan.window = Some(Duration::from_secs_f64((session.args.records as f64 / 25_000.0).max(0.2)));
    let figures = measure_own(&plan, gets.clone())?;
    session.note(format!("the cache was warmed by {} gets", number(figures["answers"])))
}

/// The reference mix at a rate, with its gets on the ways that a map gives them.
pub(super) fn timeline_through(session: &mut Session<'_>, through: ThroughChoice) -> Result<(), BenchError> {
    let in_tables = session.args.in_tables;
    let (server, mix) =
        if in_tables { timeline::loaded_in_tables(session)? } else { timeline::loaded(session)? };
    let of_store = disk::connect(&server)?;
    let store = server.target();
    let cache = InProcessCache::start(store, mix.record_count(), session.processors().1)?;
    let recent = match through {
        ThroughChoice::Cache => Some(0),
        ThroughChoice::Map => Some(Timeline::recent_from_us()),
        ThroughChoice::Store => None,
    };
    let rate = session.args.rate.unwrap_or(RATE);
    let (planner, seed) = (session.planner(PIPELINED), session.args.seed);
    let cpu = both(store, cache.target());
    let share = recent.map_or(0.0, |from| mix.share(Part::Cached(from)));
    let clients = [session.client(), session.client()];
    let (store, cache, mix) = (store, &cache, &mix);
    let sides = vec![Side::new(OWN, move |round| {
        let watch = Watch::begin(cache, store)?;
        let before = disk::counted(&of_store)?;
        let plan = |target: &Target, rate: f64, cpu: &CpuOf| {
            let mode =
                Mode::Open { spacing: Spacing::Poisson, rate, depth: DEPTH, seed: seed + u64::from(round) };
            Plan { mode, server: cpu.clone(), ..planner(target) }
        };
        let wire = |_: usize| ThermoclineWire::new(CLIENT, DEPTH as u32);
        let part =
            |part: Part, client: u64| mix.part(part, client ^ u64::from(round) << 48, u64::from(round));
        let rest = part(recent.map_or(Part::All, Part::Rest), clients[0]);
        // The time of both servers is counted once, with the load that always runs.
        let running = begin(&plan(store, rate * (1.0 - share), &cpu), CONNECT, wire, rest)?;
        let cached = match recent {
            Some(from) => {
                let plan = plan(cache.target(), rate * share, &CpuOf::Unknown);
                Some(begin(&plan, CONNECT, wire, part(Part::Cached(from), clients[1]))?)
            }
            None => None,
        };
        let mut figures = figures_of(&running.end()?.0);
        if let Some(running) = cached {
            let of_cache = figures_of(&running.end()?.0);
            let (answers, all) = (figures["answers"], figures["answers"] + of_cache["answers"]);
            for name in ["per_second", "per_server_cpu_second"] {
                figures.entry(name.to_owned()).and_modify(|figure| *figure *= all / answers);
            }
            figures.insert("answers".to_owned(), all);
            for (name, value) in
                of_cache.iter().filter(|(name, _)| name.starts_with("get_") || name.starts_with("outcome_"))
            {
                figures.insert(format!("through_cache_{name}"), *value);
            }
        }
        watch.end(&mut figures)?;
        let after = disk::counted(&of_store)?;
        let gets = (after.gets - before.gets).max(1) as f64;
        let of_gets = |count: u64| count as f64 / gets;
        figures.insert(
            "store_not_modified_by_cell_percent".to_owned(),
            100.0 * of_gets(after.gets_not_modified - before.gets_not_modified),
        );
        figures.insert(
            "store_gets_from_disk_percent".to_owned(),
            100.0 * of_gets(after.disk_gets - before.disk_gets),
        );
        figures.insert("store_disk_reads".to_owned(), (after.disk_reads - before.disk_reads) as f64);
        Ok(figures)
    })];
    let has = if in_tables { has_in_tables(session.args.records) } else { "has all in memory".to_owned() };
    let load = format!(
        "The reference mix over {} records at {} requests per second, Poisson; {:.0} % of them gets that go to the cache, the rest to the store, \
         which {has}. get_, head_, scan_ and put_ are those that the store answered, through_cache_get_ those of the cache.",
        mix.record_count(),
        number(rate),
        100.0 * share
    );
    session.alternate(&format!("timeline through {through}"), &load, sides)
}

/// What a store has that keeps records in tables, for the report.
fn has_in_tables(records: u64) -> String {
    let limits = timeline::in_tables(records);
    let mib = |bytes: usize| bytes >> 20;
    format!(
        "has all in tables, with memtables of {} MiB, block caches of 2 x {} MiB and version cells of {} MiB",
        mib(limits.memtable_bytes),
        mib(limits.block_cache_bytes),
        mib(limits.version_row_count * 64)
    )
}
