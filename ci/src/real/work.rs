//! Who works: clients with a few lanes each, as in the simulator, at a steady pace that two processors carry beside the nodes. Before
//! caches, few of them write and most read, in part by the client library.

use super::readers::{self, Readers};
use super::scene::Scene;
use crate::sim::client::{Client, Patience, Shared};
use crate::sim::cluster::quiet::FRAME_BYTES;
use crate::sim::history::{History, StreamIndex};
use crate::sim::load::{Lane, Streams};
use crate::sim::plan::{Load, Times, Weights};
use ioengine::sim::Random;
use ioengine::{Io, Queue};
use layout::units::Space;
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

const CLIENTS: u16 = 8;
const LANES: u16 = 3;
/// Clients of the simulator before caches, every other one a writer; and readers by the library.
const CACHED_CLIENTS: u16 = 8;
const LIBRARY_READERS: u16 = 8;
/// Of 100 operations of a writer, and of a reader.
const WRITERS_READ: u64 = 20;
const READERS_READ: u64 = 97;
/// From an answer of the library to the next question, about.
const LIBRARY_PAUSE: Duration = Duration::from_millis(20);
/// Records with an expiry are gone so long after their writing.
pub(super) const EXPIRY_US_MAX: u64 = 4_000_000;

fn load(io: &Io, sinks: bool, random: &mut Random) -> Load {
    const HOUR_US: u64 = 3_600_000_000;
    Load {
        weights: Weights {
            put: 50,
            delete: 6,
            compare_and_set: 20,
            batch: 8,
            get: 50,
            get_if_newer: 10,
            multi_get: 5,
            scan: 6,
            head: 4,
            streams: 1,
            other: 1,
        },
        burst: 4,
        period_us: 100_000,
        gap_us: 20_000,
        hot_stream_count: 2 + random.below(4),
        cold_stream_count: 200,
        hot_time_count: 4,
        cold_time_count: 40,
        // Windows are of whole days: many of them, where they are to sink.
        times: Times::Back {
            from: io.wall_us() + 2 * HOUR_US,
            apart: if sinks { 12 * HOUR_US } else { HOUR_US / 4 },
        },
        hot_ppm: 150_000,
        value_bytes_max: 2048,
        expiry_ppm: 30_000,
        expiry_us: 1..EXPIRY_US_MAX,
    }
}

/// Of a client before caches: `reads` of 100 operations are, and nothing expires.
fn cached(io: &Io, hot_stream_count: u64, reads: u64) -> Load {
    const HOUR_US: u64 = 3_600_000_000;
    Load {
        weights: Weights {
            put: 6 * (100 - reads),
            delete: 100 - reads,
            compare_and_set: 2 * (100 - reads),
            batch: 100 - reads,
            get: 4 * reads,
            get_if_newer: reads,
            multi_get: 5 * reads,
            scan: 0,
            head: 0,
            streams: 0,
            other: 0,
        },
        burst: 8,
        period_us: 50_000,
        gap_us: 2_000,
        hot_stream_count,
        cold_stream_count: 60,
        hot_time_count: 4,
        cold_time_count: 8,
        times: Times::Back { from: io.wall_us() + 2 * HOUR_US, apart: HOUR_US / 2 },
        hot_ppm: 300_000,
        value_bytes_max: 2048,
        expiry_ppm: 0,
        expiry_us: 1..2,
    }
}

fn streams(load: &Load, history: &mut History) -> Streams {
    let mut make = |kind: &str, count: u64| -> Vec<StreamIndex> {
        let space = |number: u64| Space(u16::from(number % 5 == 4));
        (0..count)
            .map(|number| history.keys.stream(space(number), format!("{kind}-{number}").as_bytes()))
            .collect()
    };
    Streams { hot: make("hot", load.hot_stream_count), cold: make("cold", load.cold_stream_count) }
}

/// Begin to work.
pub(super) fn launch(io: &Io, scene: &Scene, shared: &Rc<Shared>, random: &mut Random) {
    let load = Rc::new(load(io, !scene.colds.is_empty(), random));
    let streams = Rc::new(streams(&load, &mut shared.history.borrow_mut()));
    // In half of the runs clients make replicas compete.
    let competing = random.coin();
    for number in 0..CLIENTS {
        let patience = patience(random);
        let first = if competing { random.index(scene.nodes.len()) } else { 0 };
        let client = scene.routes.client(io, shared, number, first, patience, FRAME_BYTES);
        work(&client, shared, (&load, &streams), random, LANES);
    }
}

fn patience(random: &mut Random) -> Patience {
    Patience {
        attempt: Duration::from_millis(100 << random.below(5)),
        whole: Duration::from_millis(2_000 + random.below(6_000)),
        hangs_up: random.coin(),
        tells_log_time: !random.chance(150_000),
        insists: false,
        reads_slowly: false,
    }
}

fn work(
    client: &Rc<Client>,
    shared: &Rc<Shared>,
    (load, streams): (&Rc<Load>, &Rc<Streams>),
    random: &mut Random,
    lanes: u16,
) {
    shared.busy.set(shared.busy.get() + usize::from(lanes));
    for lane in 0..lanes {
        let lane = Lane {
            client: Rc::clone(client),
            shared: Rc::clone(shared),
            load: Rc::clone(load),
            streams: Rc::clone(streams),
            random: random.fork("lane", u64::from(client.number) << 16 | u64::from(lane)),
        };
        client.io.spawn(Queue::Foreground, lane.run());
    }
}

/// Begin to work before caches: writers, readers like them, and readers by the library.
pub(super) fn launch_before_caches(
    io: &Io,
    scene: &Scene,
    shared: &Rc<Shared>,
    random: &mut Random,
) -> Rc<Readers> {
    let hot_stream_count = 2 + random.below(4);
    let loads = [WRITERS_READ, READERS_READ].map(|reads| Rc::new(cached(io, hot_stream_count, reads)));
    let load = Rc::clone(&loads[1]);
    let streams = Rc::new(streams(&load, &mut shared.history.borrow_mut()));
    for number in 0..CACHED_CLIENTS {
        let patience = patience(random);
        let client = scene.routes.client(io, shared, number, 0, patience, FRAME_BYTES);
        work(&client, shared, (&loads[usize::from(number % 2)], &streams), random, LANES);
    }
    let keys = |streams: &[StreamIndex], times: u64| -> Vec<(StreamIndex, u64)> {
        let all: Vec<u64> = (0..times).map(|time| load.times.of(time)).collect();
        let of = |&stream| all.iter().map(move |time| (stream, *time));
        streams.iter().flat_map(of).collect()
    };
    let readers = Rc::new(Readers {
        shared: Rc::clone(shared),
        stores: scene.routes.addresses.clone(),
        keys: [keys(&streams.hot, load.hot_time_count), keys(&streams.cold, load.cold_time_count)].concat(),
        pause: LIBRARY_PAUSE,
        routed: Cell::default(),
    });
    shared.busy.set(shared.busy.get() + usize::from(LIBRARY_READERS));
    for number in 0..LIBRARY_READERS {
        let random = random.fork("reader", u64::from(number));
        let reader = readers::read(io.clone(), Rc::clone(&readers), CACHED_CLIENTS + number, random);
        io.spawn(Queue::Foreground, reader);
    }
    readers
}
