//! Three cold nodes in a world of trouble, and clients that reserve, write, seal, read and free on them, as a sinker and readers would.
//!
//! Must never excuse a wrong byte: a disk that lies may fail to answer, and nothing else. Invariant: at peace what decayed is mended, and each node holds
//! just what the clients know to be sealed and not freed, and shows every record of it with one read of the device.

mod driver;
mod gray;
mod lost;
mod machine;
mod mended;

use super::history::Violation;
use super::one_node::Options;
use super::plan::Mode;
use super::report::{Clock, SeedReport, Sum};
use driver::{Driver, Known, Nodes};
use gray::{GrayWatch, Stroke};
use ioengine::sim::{DiskFaults, LinkConfig, NodeConfig, NodeHandle, Random, World, WorldConfig};
use ioengine::{Instant, Io};
use layout::units::Uuid;
use lost::Lost;
pub(super) use machine::{FILE_BYTES, Machine, Made, disk_config, limits};
pub(crate) use machine::{files, list, listed_is_counted};
use shard::cold::ColdNodeLimits;
use shard::node::Event;
use std::rc::Rc;
use std::time::Duration;

const CLUSTER: Uuid = Uuid([7; 16]);
const GROUP: u16 = 4;
const NODES: usize = 3;
const CLIENTS: u64 = 3;
/// How long trouble lasts.
const LIFE: Duration = Duration::from_secs(40);
/// Within this, all that is pending is done once trouble has ended.
const PEACE: Duration = Duration::from_secs(600);
const REUSE_DELAY: Duration = Duration::from_secs(4);
const SCRUB_PERIOD: Duration = Duration::from_secs(6);

struct Stage {
    world: World,
    machines: Vec<Machine>,
    clients: NodeHandle,
    nodes: Rc<Nodes>,
    random: Random,
    lies: bool,
    /// The nodes look for damage themselves.
    scrubs: bool,
    /// Nothing happens but that one disk at a time hangs, is slow or fails.
    is_gray: bool,
    gray: GrayWatch,
    strokes: Vec<Stroke>,
    /// A disk of a machine is lost.
    lost: Option<Lost>,
    wrong: Vec<String>,
    starts: u64,
}

impl Stage {
    fn new(seed: u64, options: &Options) -> Stage {
        let mut random = Random::new(seed).fork("cold", 0);
        let is_gray = matches!(seed % 8, 4 | 5);
        let is_swarm = random.coin() && !is_gray;
        let world_config = if is_swarm { WorldConfig::swarm(&mut random) } else { WorldConfig::default() };
        let config =
            WorldConfig { canaries: options.canaries.clone(), trace_text: options.trace, ..world_config };
        let world = World::new(seed, config);
        let clients = world.add_node(NodeConfig::numbered(20));
        let (disk_count, file_count) = (1 + random.below(3) as u16, 3 + random.below(4));
        let core_count = 1 + random.below(2) as u16;
        let (lies, scrubs) = (seed % 4 == 3, matches!(seed % 8, 1 | 3 | 6));
        let mut machines = Vec::new();
        for number in 1..=NODES as u16 {
            let limits = ColdNodeLimits {
                reads_in_flight: 1 + random.below(4) as usize,
                reserved_max: 24,
                reuse_delay: REUSE_DELAY,
                scrub_period: if scrubs { SCRUB_PERIOD } else { Duration::ZERO },
                ..limits()
            };
            let made = Made { cluster: CLUSTER, group: GROUP, number, disk_count, core_count, limits };
            machines.push(Machine::new(&world, made, || disk_config(&mut random, file_count)));
        }
        Machine::introduce(&mut machines);
        let addresses = machines.iter().map(|machine| machine.config.listen).collect();
        let nodes = Rc::new(Nodes::new(addresses, CLUSTER, GROUP, disk_count, REUSE_DELAY, is_gray));
        let lost = Lost::of(seed, &random, (lies, usize::from(disk_count))).filter(|_| !is_gray);
        nodes.loses.set(lost.is_some());
        Stage {
            world,
            machines,
            clients,
            nodes,
            random,
            lies,
            scrubs,
            is_gray,
            gray: GrayWatch::default(),
            strokes: Vec::new(),
            lost,
            wrong: Vec::new(),
            starts: 0,
        }
    }

    fn serves(&self) -> bool {
        self.machines.iter().all(|machine| machine.heard(|event| matches!(event, Event::Serving(_))))
    }

    /// One stroke of trouble.
    fn trouble(&mut self) {
        let which = self.random.below(NODES as u64) as usize;
        let (all, kind) = (self.random.chance(60_000), self.random.below(12));
        let chosen: Vec<usize> = if all { (0..NODES).collect() } else { vec![which] };
        match kind {
            0 | 1 => chosen.iter().for_each(|&node| self.machines[node].handle.kill()),
            2..=4 => chosen.iter().for_each(|&node| self.machines[node].handle.power_cut()),
            5 => self.machines[which].handle.pause(),
            6 => self.world.partition(&self.machines[which].handle, &self.clients),
            7 => self.world.set_links(&LinkConfig::swarm(&mut self.random)),
            _ => {
                let machine = &mut self.machines[which];
                let disk = self.random.below(machine.disks.len() as u64) as usize;
                // Only one machine lies: what the two others hold is proven.
                let lies = self.lies && which == 0 && self.random.coin();
                let mut faults = if lies {
                    machine.damaged[disk] = true;
                    DiskFaults::lying(&mut self.random)
                } else {
                    DiskFaults { latent_error_ppm: 0, ..DiskFaults::honest(&mut self.random) }
                };
                if self.random.chance(150_000) {
                    faults.full_after_bytes = Some(self.random.below(machine.disks[disk].bytes()));
                }
                if lies && self.random.coin() {
                    let at = self.random.below(machine.disks[disk].bytes() / 4096) * 4096;
                    machine.disks[disk].rot(at);
                }
                machine.disks[disk].set_faults(faults);
            }
        }
    }

    /// Who is down starts again, sooner or later; who is away comes back.
    fn mend(&mut self, surely: bool) {
        for number in 0..NODES {
            let machine = &mut self.machines[number];
            if machine.handle.is_paused() && (surely || self.random.chance(300_000)) {
                machine.handle.resume();
            }
            if machine.heard(|event| matches!(event, Event::Failed(_))) {
                let heard = machine.events.lock().expect("no panic with it").clone();
                let may_fail = machine.damaged.contains(&true);
                let text = heard.iter().find_map(|event| match event {
                    Event::Failed(text) => Some(text.clone()),
                    _ => None,
                });
                let text = text.unwrap_or_default();
                if !may_fail && !text.contains("can be opened") {
                    self.wrong.push(format!("node {} cannot start: {text}", number + 1));
                }
                machine.handle.kill();
                machine.events.lock().expect("no panic with it").clear();
            }
            if !machine.handle.is_running() && (surely || self.random.chance(400_000)) {
                machine.start();
                self.starts += 1;
            }
        }
        if surely || self.random.chance(200_000) {
            self.world.heal_all();
        }
    }

    fn until(&mut self, end: Instant, mut turn: impl FnMut(&mut Stage)) {
        while self.world.now() < end {
            let step = Duration::from_micros(500 << self.random.below(11));
            let next = self.world.now().after(step).min(end);
            self.world.run_until(next);
            turn(self);
        }
    }

    fn play(&mut self, drivers: &[Rc<Driver>]) {
        for machine in &mut self.machines {
            machine.start();
        }
        self.starts += NODES as u64;
        let until = self.world.now().after(Duration::from_secs(60));
        while !self.serves() && self.world.now() < until {
            self.world.run_for(Duration::from_millis(2));
        }
        if !self.serves() {
            return self.wrong.push("fresh nodes do not serve".to_owned());
        }
        let mut random = self.random.fork("drivers", 0);
        for driver in drivers {
            let (driver, seed) = (Rc::clone(driver), random.bits());
            let core = ioengine::CoreConfig {
                arena_bytes: 16 << 20,
                ..ioengine::CoreConfig::small("driver", driver.number)
            };
            let launched = self.clients.launch(core, move |io| async move { driver.run(&io, seed).await });
            launched.expect("a simulated core can be launched");
        }
        let (mut decays, mut grays) = (self.random.fork("decay", 0), self.random.fork("gray", 0));
        let mut entries = self.random.fork("entries", 0);
        let end = self.world.now().after(LIFE);
        self.until(end, |stage| {
            if stage.is_gray {
                stage.gray_trouble(&mut grays);
            } else {
                if stage.random.chance(30_000) {
                    stage.trouble();
                }
                if decays.chance(20_000) {
                    stage.decay(&mut decays);
                }
                if entries.chance(4_000) {
                    stage.decay_an_entry(&mut entries);
                }
                if grays.chance(4_000) {
                    let machine = grays.index(NODES);
                    stage.begin_gray(&mut grays, machine);
                }
            }
            stage.end_gray();
            stage.look_at_disks();
            stage.lose_if_due();
            stage.mend(false);
        });
        self.wrong.append(&mut self.gray.wrong);
        self.peace(drivers);
    }

    /// No more trouble: all that is pending gets done, and then all that is known is there, and nothing else.
    fn peace(&mut self, drivers: &[Rc<Driver>]) {
        for machine in &self.machines {
            machine.disks.iter().for_each(|disk| {
                disk.set_faults(DiskFaults::default());
                disk.release();
            });
            // A device that has failed under a process is whole again for the next one.
            if machine.handle.is_paused() {
                machine.handle.resume();
            }
            machine.handle.kill();
        }
        self.strokes.clear();
        self.world.set_links(&LinkConfig::default());
        self.nodes.begin_peace(&self.machines[0].damaged);
        let end = self.world.now().after(PEACE);
        while !drivers.iter().all(|driver| driver.is_done()) && self.world.now() < end {
            self.world.run_for(Duration::from_millis(20));
            self.mend(true);
            self.sweep_if_due(drivers);
        }
        let busy: Vec<String> = drivers
            .iter()
            .filter(|driver| !driver.is_done())
            .map(|driver| format!("client {} is not done: {}", driver.number, driver.doing()))
            .collect();
        if !busy.is_empty() {
            return self.wrong.extend(busy);
        }
        self.await_rebuilt();
        self.mend_all();
        for number in 0..NODES {
            self.compare(number);
        }
        self.empty();
    }

    /// Once nothing is known any more, all room is there again.
    fn empty(&mut self) {
        let nodes = Rc::clone(&self.nodes);
        let wrong =
            self.world.block_on(&self.clients, PEACE, move |io: Io| async move { nodes.free_all(&io).await });
        self.wrong.extend(wrong);
        for number in 0..NODES {
            for disk in 0..self.machines[number].disks.len() {
                if self.machines[number].damaged[disk] {
                    continue;
                }
                let nodes = Rc::clone(&self.nodes);
                let wrong = self.world.block_on(&self.clients, PEACE, move |io: Io| async move {
                    nodes.compare_room(&io, number, disk as u16).await
                });
                self.wrong.extend(wrong);
            }
        }
    }

    /// What a node holds, and that each record of it, and each section as it is stored, is shown with one read.
    fn compare(&mut self, number: usize) {
        for disk in 0..self.machines[number].disks.len() {
            let damaged = self.machines[number].damaged[disk];
            let (nodes, told) = (Rc::clone(&self.nodes), self.nodes.known_on(disk as u16));
            let expected = told.clone();
            let listed = self.world.block_on(&self.clients, PEACE, move |io: Io| async move {
                if nodes.sweep(&io, number, disk as u16).await > 0 {
                    ioengine::sometimes!("a place was kept again after it had been given up");
                }
                nodes.compare(&io, number, disk as u16, &expected, damaged).await
            });
            self.wrong.extend(listed);
            if damaged {
                continue;
            }
            let nodes = Rc::clone(&self.nodes);
            // A disk of which something could not be read is probed for a while.
            let probes = self.counter_of(number, disk, "probes");
            let under_way = self.counter_of(number, disk, "suspect");
            let before = self.machines[number].disks[disk].counts().reads;
            let known: Vec<Known> = told.into_iter().take(20).collect();
            let (asked, wrong) = self.world.block_on(&self.clients, PEACE, move |io: Io| async move {
                nodes.read_each(&io, number, &known).await
            });
            self.wrong.extend(wrong);
            let reads = self.machines[number].disks[disk].counts().reads - before;
            let probes = self.counter_of(number, disk, "probes") - probes + under_way;
            if !(asked..=asked + probes).contains(&reads) {
                self.wrong.push(format!(
                    "node {} disk {disk}: {asked} requests read the device {reads} times",
                    number + 1
                ));
            }
        }
    }
}

/// Run the world of a seed.
#[must_use]
pub fn run(seed: u64, mode: Mode, options: &Options) -> SeedReport {
    let clock = Clock::start();
    let mut stage = Stage::new(seed, options);
    let drivers: Vec<Rc<Driver>> =
        (0..CLIENTS).map(|number| Rc::new(Driver::new(number as usize, Rc::clone(&stage.nodes)))).collect();
    stage.play(&drivers);
    let mut texts = std::mem::take(&mut stage.wrong);
    texts.extend(stage.nodes.wrong());
    let violations = texts.into_iter().map(|text| Violation { checker: "cold", text }).collect();
    let answers = stage.nodes.counted();
    let operations = answers.values().sum();
    let sum = Sum { operations, answers, starts: stage.starts, violations, ..Sum::default() };
    let world = &stage.world;
    SeedReport {
        seed,
        mode,
        faults: world.fault_counts(),
        marks: world.marks(),
        simulated_s: world.now().ns as f64 / 1e9,
        events: world.event_count(),
        trace_hash: world.trace_hash(),
        trace: world.take_trace(),
        sum,
        cpu_s: clock.seconds(),
    }
}
