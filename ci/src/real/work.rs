//! Who works: clients with a few lanes each, as in the simulator, at a steady pace that two processors carry beside the nodes.

use super::scene::Scene;
use crate::sim::client::{Patience, Shared};
use crate::sim::cluster::quiet::FRAME_BYTES;
use crate::sim::history::{History, StreamIndex};
use crate::sim::load::{Lane, Streams};
use crate::sim::plan::{Load, Times, Weights};
use ioengine::sim::Random;
use ioengine::{Io, Queue};
use layout::units::Space;
use std::rc::Rc;
use std::time::Duration;

const CLIENTS: u16 = 8;
const LANES: u16 = 3;
/// Records with an expiry are gone so long after their writing.
pub(super) const EXPIRY_US_MAX: u64 = 4_000_000;

fn load(io: &Io, random: &mut Random) -> Load {
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
        times: Times::Back { from: io.wall_us() + 2 * HOUR_US, apart: HOUR_US / 4 },
        hot_ppm: 150_000,
        value_bytes_max: 2048,
        expiry_ppm: 30_000,
        expiry_us: 1..EXPIRY_US_MAX,
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
    let load = Rc::new(load(io, random));
    let streams = Rc::new(streams(&load, &mut shared.history.borrow_mut()));
    // In half of the runs clients make replicas compete.
    let competing = random.coin();
    shared.busy.set(usize::from(CLIENTS * LANES));
    for number in 0..CLIENTS {
        let patience = Patience {
            attempt: Duration::from_millis(100 << random.below(5)),
            whole: Duration::from_millis(2_000 + random.below(6_000)),
            hangs_up: random.coin(),
            tells_log_time: !random.chance(150_000),
            insists: false,
            reads_slowly: false,
        };
        let first = if competing { random.index(scene.nodes.len()) } else { 0 };
        let client = scene.routes.client(io, shared, number, first, patience, FRAME_BYTES);
        for lane in 0..LANES {
            let lane = Lane {
                client: Rc::clone(&client),
                shared: Rc::clone(shared),
                load: Rc::clone(&load),
                streams: Rc::clone(&streams),
                random: random.fork("lane", u64::from(number) << 16 | u64::from(lane)),
            };
            io.spawn(Queue::Foreground, lane.run());
        }
    }
}
