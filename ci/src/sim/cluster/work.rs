//! Who works in a group: clients with their lanes, one that looks at what single replicas hold, and the hostile.

use super::plan::{ClientPlan, Plan};
use super::scene::Scene;
use crate::sim::client::{Caches, Client, Colds, Patience, Shared, Ways};
use crate::sim::history::{History, StreamIndex};
use crate::sim::hostile;
use crate::sim::load::{Lane, Streams};
use crate::sim::one_node::{core, frame_bytes};
use crate::sim::wire::{Wire, WireLimits};
use ioengine::sim::Random;
use ioengine::{Io, Queue};
use layout::units::Space;
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

/// Where the nodes are and which tablets they hold, as clients know it.
#[derive(Clone)]
pub(crate) struct Routes {
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) orders: Rc<crate::sim::client::Orders>,
    /// Cache nodes, and which part of gets goes to them; none in most worlds.
    pub(crate) caches: Option<(Vec<SocketAddr>, Rc<Cell<u32>>)>,
    /// Cold nodes; none in most worlds.
    pub(crate) colds: Vec<SocketAddr>,
}

impl Routes {
    pub(super) fn of(scene: &Scene) -> Routes {
        let addresses = scene.stores.iter().map(|store| store.config.listen).collect();
        let share = |share_ppm: &Rc<Cell<u32>>| {
            (scene.caches.iter().map(|cache| cache.config.listen).collect(), Rc::clone(share_ppm))
        };
        Routes {
            addresses,
            orders: Rc::clone(&scene.orders),
            caches: scene.cache_share_ppm.as_ref().map(share),
            colds: scene.colds.iter().map(|cold| cold.config.listen).collect(),
        }
    }

    /// A client that goes these ways.
    pub(crate) fn client(
        &self,
        io: &Io,
        shared: &Rc<Shared>,
        number: u16,
        first: usize,
        patience: Patience,
        frame_bytes: u32,
    ) -> Rc<Client> {
        let read_pause = Duration::from_millis(if patience.reads_slowly { 30 } else { 0 });
        let random = io.random();
        let connect = Duration::from_millis(300);
        let wire = |&address: &SocketAddr| {
            let limits = WireLimits { read_pause, in_flight: 8, frame_bytes, connect };
            Wire::new(io.clone(), address, limits, random | 1, Rc::clone(&shared.history))
        };
        let caches = self.caches.as_ref().map(|(addresses, share_ppm)| Caches {
            wires: addresses.iter().map(wire).collect(),
            share_ppm: Cell::new(share_ppm.get()),
            said_ppm: Rc::clone(share_ppm),
            random: RefCell::new(Random::new(random).fork("caches", 0)),
        });
        let colds = (!self.colds.is_empty()).then(|| Colds {
            wires: self.colds.iter().map(|address| (*address, wire(address))).collect(),
            random: RefCell::new(Random::new(random).fork("colds", 0)),
        });
        let wires = self.addresses.iter().map(wire).collect();
        let ways = Ways { wires, orders: Some(Rc::clone(&self.orders)), first, caches, colds };
        Rc::new(Client::new(number, io.clone(), ways, Rc::clone(shared), random | 1, patience))
    }
}

fn streams(plan: &Plan, history: &mut History) -> Streams {
    let mut make = |kind: &str, count: u64| -> Vec<StreamIndex> {
        let stream = |number: u64| {
            let long = if number % 7 == 3 { "x".repeat(90) } else { String::new() };
            let name = format!("{kind}-{number}{long}");
            history.keys.stream(Space(u16::from(number % 5 == 4)), name.as_bytes())
        };
        (0..count).map(stream).collect()
    };
    Streams { hot: make("hot", plan.load.hot_stream_count), cold: make("cold", plan.load.cold_stream_count) }
}

/// Begin to work. `wanted` says by node how many hostile connections it shall get.
pub(super) fn launch(
    plan: &Plan,
    scene: &Scene,
    shared: &Rc<Shared>,
    wanted: &[Rc<Cell<u32>>],
    hostile_stop: &Rc<Cell<bool>>,
) {
    let root = Random::new(plan.seed).fork(plan.mode.name(), 0);
    let streams = Rc::new(streams(plan, &mut shared.history.borrow_mut()));
    let load = Rc::new(plan.load.clone());
    let routes = Routes::of(scene);
    for (machine, node) in (0u16..).zip(&scene.machines) {
        let clients: Vec<(u16, ClientPlan)> =
            (0u16..).zip(plan.clients.clone()).filter(|(_, one)| one.machine == machine).collect();
        let lanes: usize = clients.iter().map(|(_, one)| usize::from(one.lanes)).sum();
        shared.busy.set(shared.busy.get() + lanes);
        let root = root.fork("machine", u64::from(machine));
        let (shared, streams, load, routes) =
            (Rc::clone(shared), Rc::clone(&streams), Rc::clone(&load), routes.clone());
        let (seed, peek_every) = (plan.seed, plan.peek_every.filter(|_| machine == 0));
        let main = move |io: Io| async move {
            for (number, one) in clients {
                let frame_bytes = frame_bytes(seed, number);
                let client = routes.client(&io, &shared, number, one.first, one.patience, frame_bytes);
                for lane in 0..one.lanes {
                    let random = root.fork("lane", u64::from(number) << 16 | u64::from(lane));
                    let lane = Lane {
                        client: Rc::clone(&client),
                        shared: Rc::clone(&shared),
                        load: Rc::clone(&load),
                        streams: Rc::clone(&streams),
                        random,
                    };
                    io.spawn(Queue::Foreground, lane.run());
                }
            }
            if let Some(every) = peek_every {
                let patience = super::quiet::patience();
                let client = routes.client(&io, &shared, 900, 0, patience, super::quiet::FRAME_BYTES);
                let peeks = peek(client, Rc::clone(&shared), streams, routes, every, root.fork("peek", 0));
                io.spawn(Queue::Foreground, peeks);
            }
            while !(shared.stop.get() && shared.busy.get() == 0) {
                io.sleep(Duration::from_millis(100)).await;
            }
        };
        node.launch(core("clients", 0), main).expect("a simulated core can be launched");
    }
    for (number, wanted) in (0u64..).zip(wanted) {
        let (wanted, stop) = (Rc::clone(wanted), Rc::clone(hostile_stop));
        let (address, random) = (Routes::of(scene).addresses[number as usize], root.fork("hostile", number));
        let main = move |io: Io| hostile::run(io, address, wanted, stop, random);
        let core = core("hostile", number as usize);
        scene.hostile.launch(core, main).expect("a simulated core can be launched");
    }
}

/// Now and then look at what all replicas of a stream's tablet hold, one after the other.
async fn peek(
    client: Rc<Client>,
    shared: Rc<Shared>,
    streams: Rc<Streams>,
    routes: Routes,
    every: Duration,
    mut random: Random,
) {
    let wait = Duration::from_millis(300);
    while !shared.stop.get() {
        client.io.sleep(every).await;
        let some = if random.coin() { &streams.hot } else { &streams.cold };
        let stream = *random.pick(some);
        let tablet = shared.history.borrow().keys.facts(stream).tablet;
        for &node in &routes.orders[tablet.index()] {
            let _shown = client.peek(node, stream, 0, wait).await;
        }
    }
}

/// Shared by those who do something on a machine at peace, one tablet after the other.
pub(crate) type LeftOver<T> = Rc<RefCell<Vec<T>>>;
