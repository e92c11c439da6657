//! What clients notice when nodes of a group die: an open, steady load of puts and gets through the client library, kill -9 of some
//! nodes, their restart; and what each tenth of a second looked like around that.
//!
//! Must never wait for an answer before the next request is due: latency counts from when a request should have begun. It
//! measures, and judges nothing.

use super::scene::{LOOK, Scene, Setup};
use super::{Options, RealError, until_signal};
use crate::sim::history::History;
use ioengine::uring::Runtime;
use ioengine::{CoreConfig, Instant, Io, Queue};
use layout::key::Key;
use layout::units::Space;
use net::client::{Client, ClientConfig, ClientError};
use shard::limits::Limits;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

/// Length of a row of the table.
pub const BUCKET: Duration = Duration::from_millis(100);
/// Requests in flight at most: later ones are begun late, and their wait is counted.
const LANES: u64 = 256;
/// Streams written to.
const STREAMS: u64 = 4096;
const VALUE_BYTES: usize = 128;

/// What to do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Nodes killed at once, those from the first on.
    pub victims: u16,
    /// Requests per second, half puts, half gets of what was put.
    pub rate: u64,
    /// From the first request to the kill.
    pub before: Duration,
    /// From the kill to the restart.
    pub down: Duration,
    /// From the restart to the end.
    pub after: Duration,
}

/// One request that has ended.
#[derive(Clone, Debug)]
pub struct Sample {
    /// When it should have begun, nanoseconds before (-) or after the kill.
    pub at_ns: i64,
    /// How long it took from there.
    pub took: Duration,
    /// The error that it ended with.
    pub failed: Option<ClientError>,
}

/// A row of the table.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Row {
    /// Where it begins, milliseconds after the kill.
    pub from_ms: i64,
    /// Requests due in it.
    pub count: usize,
    /// Of them failed.
    pub failed: usize,
    /// Latencies, milliseconds.
    pub p50_ms: f64,
    /// See above.
    pub p99_ms: f64,
    /// See above.
    pub max_ms: f64,
}

/// Rows of the samples, in order of time.
#[must_use]
pub fn rows(samples: &[Sample]) -> Vec<Row> {
    let width = BUCKET.as_nanos() as i64;
    let mut buckets = std::collections::BTreeMap::<i64, Vec<Sample>>::new();
    for sample in samples {
        buckets.entry(sample.at_ns.div_euclid(width)).or_default().push(sample.clone());
    }
    let row = |(bucket, samples): (i64, Vec<Sample>)| {
        let mut took: Vec<f64> = samples.iter().map(|one| one.took.as_secs_f64() * 1e3).collect();
        took.sort_by(f64::total_cmp);
        let at = |share: f64| took[((took.len() - 1) as f64 * share).round() as usize];
        Row {
            from_ms: bucket * BUCKET.as_millis() as i64,
            count: took.len(),
            failed: samples.iter().filter(|one| one.failed.is_some()).count(),
            p50_ms: at(0.5),
            p99_ms: at(0.99),
            max_ms: at(1.0),
        }
    };
    buckets.into_iter().map(row).collect()
}

/// Runs a group, kills some of it under load, and gives every request's fate.
///
/// # Errors
/// The group could not be started, or a client found nobody.
pub fn run(options: &Options, plan: &Plan) -> Result<Vec<Sample>, RealError> {
    let config =
        CoreConfig { arena_bytes: 64 << 20, operation_count_max: 4096, ..CoreConfig::small("load", 0) };
    let runtime = Runtime::new(config).map_err(|error| RealError::Tool(error.to_string()))?;
    let io = runtime.io().clone();
    let signals = io.signals();
    runtime.block_on(until_signal(&signals, measure(&io, options, plan)))
}

fn setup() -> Setup {
    let settings = vec![
        "limits.memtable_bytes=128MiB",
        "limits.memtable_record_count_max=500000",
        "limits.block_cache_bytes=16MiB",
        "limits.sealed_cache_bytes=16MiB",
    ];
    Setup { settings, limits: Limits::default(), disk_size: "2 GiB", segment: "16 MiB", proxies: false }
}

/// What the lanes share.
struct Load {
    io: Io,
    client: Client,
    begun: Instant,
    period_ns: u64,
    next: Cell<u64>,
    stop: Cell<bool>,
    busy: Cell<u64>,
    samples: RefCell<Vec<(u64, Duration, Option<ClientError>)>>,
}

async fn measure(io: &Io, options: &Options, plan: &Plan) -> Result<Vec<Sample>, RealError> {
    let history = Rc::new(RefCell::new(History::new(0)));
    let mut scene = Scene::new(io, options, setup(), &history).await?;
    scene.start_all().await?;
    let endpoints: Vec<_> = scene.nodes.iter().map(|node| node.address).collect();
    let client = Client::connect(io, &endpoints, ClientConfig::default()).await;
    let client = client.map_err(|error| RealError::Tool(error.to_string()))?;
    let load = Rc::new(Load {
        io: io.clone(),
        client,
        begun: io.now(),
        period_ns: 1_000_000_000 / plan.rate,
        next: Cell::new(0),
        stop: Cell::new(false),
        busy: Cell::new(LANES),
        samples: RefCell::new(Vec::new()),
    });
    for _ in 0..LANES {
        io.spawn(Queue::Foreground, lane(Rc::clone(&load)));
    }
    io.sleep(plan.before).await;
    let victims = 0..usize::from(plan.victims);
    let killed = io.now();
    for node in victims.clone() {
        scene.nodes[node].kill();
    }
    io.sleep(plan.down).await;
    for node in victims {
        scene.start(node)?;
    }
    io.sleep(plan.after).await;
    load.stop.set(true);
    while load.busy.get() > 0 {
        io.sleep(LOOK).await;
    }
    let killed_ns = killed.since(load.begun).as_nanos() as i64;
    let samples = load.samples.take();
    let sample = |(due, took, failed): (u64, _, _)| Sample { at_ns: due as i64 - killed_ns, took, failed };
    Ok(samples.into_iter().map(sample).collect())
}

/// Takes the next request that is due, until told to stop.
async fn lane(load: Rc<Load>) {
    while !load.stop.get() {
        let number = load.next.get();
        load.next.set(number + 1);
        let due_ns = number * load.period_ns;
        let due = load.begun.after(Duration::from_nanos(due_ns));
        load.io.sleep_until(due).await;
        let failed = request(&load.client, number).await.err();
        let took = load.io.now().since(due);
        load.samples.borrow_mut().push((due_ns, took, failed));
    }
    load.busy.set(load.busy.get() - 1);
}

async fn request(client: &Client, number: u64) -> Result<(), ClientError> {
    // Puts of even numbers; odd ones get what was put some time before.
    let record = if number.is_multiple_of(2) { number } else { (number - 1).saturating_sub(2 * LANES) };
    let place = record.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    let stream = format!("stream-{}", place % STREAMS);
    let key = Key { space: Space::DEFAULT, stream: stream.as_bytes(), time: 1_748_736_000_000_000 + record };
    if number.is_multiple_of(2) {
        client.put(key, 0, &[number as u8; VALUE_BYTES]).await.map(drop)
    } else {
        client.get(key).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_tenths_of_a_second_around_the_kill() {
        let error = ClientError::NoBuffer { bytes: 1 };
        let sample = |ms: i64, took_ms: u64, failed: bool| Sample {
            at_ns: ms * 1_000_000,
            took: Duration::from_millis(took_ms),
            failed: failed.then(|| error.clone()),
        };
        let rows =
            rows(&[sample(-1, 3, false), sample(0, 1, false), sample(99, 9, true), sample(100, 2, false)]);
        let first = Row { from_ms: -100, count: 1, failed: 0, p50_ms: 3.0, p99_ms: 3.0, max_ms: 3.0 };
        assert_eq!(rows[0], first);
        assert_eq!((rows[1].from_ms, rows[1].count, rows[1].failed, rows[1].max_ms), (0, 2, 1, 9.0));
        assert_eq!((rows[2].from_ms, rows[2].p50_ms), (100, 2.0));
    }
}
