//! What goes wrong in a group, when, to whom, and when it is over: draws one trouble after another, does it to the world,
//! and undoes it in time. Restarts nodes that are down, or have said that their device failed.
//!
//! Must never lose what a node has promised: that is for `disks.rs`, where the atlas is asked first.

use super::caches::CacheTrouble;
use super::colds::ColdTrouble;
use super::disks::Disks;
use super::plan::{Plan, Trouble};
use super::scene::Scene;
use crate::sim::client::Shared;
use crate::sim::scene::Standing;
use ioengine::Instant;
use ioengine::sim::{DiskFaults, LinkConfig, Random};
use std::rc::Rc;
use std::time::Duration;

/// What ends a trouble.
#[derive(Clone, Copy, Debug)]
enum Undo {
    Resume(usize),
    Disk(usize),
    Network,
    Kill(usize),
    PowerCut(usize),
}

/// Ends of processes, and what became of starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Lives {
    /// Starts that came to serve.
    pub(super) served: u64,
    /// Starts that failed.
    pub(super) failed: u64,
}

/// What is known of a node, and planned for it.
struct Watch {
    counted: Standing,
    /// When it is to be started.
    start_at: Option<Instant>,
    /// When a draining or failed node is ended, if it has not ended by itself.
    end_by: Option<Instant>,
    /// It was asked to drain, not merely to end.
    draining: bool,
    /// It will die in a store to shared memory.
    armed: bool,
}

impl Watch {
    fn new() -> Watch {
        Watch { counted: Standing::Serving, start_at: None, end_by: None, draining: false, armed: false }
    }
}

/// Nodes that end at once, as soon as most of their disks are writing: what is said too early is lost only then.
struct Aim {
    stores: Vec<usize>,
    power: bool,
    until: Instant,
    /// From the moment at which they write: what was said before then is on its way.
    delay: Duration,
    at: Option<Instant>,
    /// Not before a client hears an answer while they write: how many it had heard when last looked at.
    heard: Option<u64>,
}

/// How often the disks are looked at then.
const AIM_STEP: Duration = Duration::from_micros(100);
/// How long.
const AIM_WAIT: Duration = Duration::from_millis(300);

pub(super) struct Nemesis<'a> {
    plan: &'a Plan,
    random: Random,
    shared: Rc<Shared>,
    undo: Vec<(Instant, Undo)>,
    watches: Vec<Watch>,
    aim: Option<Aim>,
    next: Instant,
    pub(super) lives: Lives,
    /// What failed starts said.
    pub(super) failures: Vec<String>,
    /// By node, how many hostile connections it shall get.
    pub(super) hostile_wanted: Vec<u32>,
    /// Drains that did not end in time.
    pub(super) overdue_drains: u32,
    /// Longest wait before a start.
    pause_max: Duration,
    pub(super) disks: Disks<'a>,
    pub(super) caches: CacheTrouble,
    pub(super) colds: ColdTrouble,
}

impl<'a> Nemesis<'a> {
    /// All nodes serve.
    pub(super) fn new(plan: &'a Plan, shared: Rc<Shared>, now: Instant) -> Nemesis<'a> {
        Nemesis {
            plan,
            random: Random::new(plan.seed).fork(plan.mode.name(), 0).fork("trouble", 0),
            shared,
            undo: Vec::new(),
            watches: plan.stores.iter().map(|_| Watch::new()).collect(),
            aim: None,
            next: now.after(plan.trouble_every),
            lives: Lives::default(),
            failures: Vec::new(),
            hostile_wanted: vec![0; plan.stores.len()],
            overdue_drains: 0,
            pause_max: Duration::from_millis(4_000),
            disks: Disks::new(plan, now),
            caches: CacheTrouble::new(plan, now),
            colds: ColdTrouble::new(plan, now),
        }
    }

    fn span(&mut self, most: Duration) -> Duration {
        // Spread over orders of magnitude.
        let most = most.as_nanos() as u64 >> self.random.below(8);
        Duration::from_nanos(self.random.below(most.max(1)))
    }

    /// When to look again.
    pub(super) fn due(&self, now: Instant) -> Instant {
        let mut due =
            now.after(Duration::from_millis(50)).min(self.next).min(self.caches.due()).min(self.colds.due());
        let watched = self.watches.iter().flat_map(|watch| watch.start_at.into_iter().chain(watch.end_by));
        let aimed = self.aim.as_ref().map(|_| now.after(AIM_STEP));
        for at in self.undo.iter().map(|one| one.0).chain(watched).chain(aimed) {
            due = due.min(at);
        }
        due.max(now)
    }

    /// Look at the nodes, end what is over, begin what is due.
    pub(super) fn turn(&mut self, scene: &mut Scene) {
        let now = scene.world.now();
        for store in 0..self.watches.len() {
            self.watch(scene, store, now);
        }
        let (over, rest): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.undo).into_iter().partition(|one| one.0 <= now);
        self.undo = rest;
        for (_, undo) in over {
            self.end(scene, undo);
        }
        self.shoot(scene, now);
        self.disks.turn(scene, now);
        self.caches.turn(scene, now);
        self.colds.turn(scene, now);
        if now >= self.next {
            let pause = self.plan.trouble_every.as_nanos() as u64;
            self.next = now.after(Duration::from_nanos(pause / 2 + self.random.below(pause)));
            let trouble = self.pick();
            self.begin(scene, trouble, now);
        }
        for store in 0..self.watches.len() {
            if self.watches[store].start_at.is_some_and(|at| at <= now)
                && !scene.stores[store].node.is_running()
            {
                self.start(scene, store, now);
            }
        }
    }

    fn start(&mut self, scene: &mut Scene, store: usize, now: Instant) {
        self.watches[store].start_at = None;
        scene.start(store);
        self.watches[store].counted = Standing::Starting;
        if self.next.ns != u64::MAX && self.random.chance(self.plan.start_cut_ppm) {
            let most = 1 << (14 + self.random.below(11));
            let at = now.after(Duration::from_nanos(self.random.below(most)));
            let end = if self.random.coin() { Undo::Kill(store) } else { Undo::PowerCut(store) };
            self.undo.push((at, end));
        }
    }

    /// End the nodes aimed at, if it is time.
    fn shoot(&mut self, scene: &Scene, now: Instant) {
        let answers = self.shared.history.borrow().answers.get("Ok").copied().unwrap_or(0);
        let writes = |&store: &usize| scene.stores[store].disk.in_flight() > 0;
        let hits = |aim: &Aim| {
            let writing = aim.stores.iter().copied().filter(|store| writes(store)).count();
            let heard = aim.heard.is_none_or(|before| before < answers);
            (heard && writing > aim.stores.len() / 2) || aim.until <= now
        };
        let is_time = |aim: &mut Aim| {
            if aim.at.is_none() && hits(aim) {
                aim.at = Some(now.after(aim.delay));
            }
            aim.heard = aim.heard.map(|_| answers);
            aim.at.is_some_and(|at| at <= now)
        };
        let Some(aim) = self.aim.take_if(is_time) else { return };
        self.fell(scene, &aim.stores, aim.power);
    }

    fn fell(&self, scene: &Scene, stores: &[usize], power: bool) {
        for &store in stores {
            let node = scene.stores[store].node;
            if power { node.power_cut() } else { node.kill() }
        }
    }

    fn watch(&mut self, scene: &mut Scene, store: usize, now: Instant) {
        let one = &scene.stores[store];
        let watch = &mut self.watches[store];
        let standing = one.standing();
        if standing == watch.counted && standing != Standing::Down {
            let failed = self.shared.device_failed.get() & 1 << store != 0;
            if failed && watch.end_by.is_none() && self.random.chance(100_000) {
                watch.draining = false;
                one.drain();
                watch.end_by = Some(now.after(Duration::from_secs(1)));
            }
            if watch.end_by.is_some_and(|by| by <= now) {
                watch.end_by = None;
                self.overdue_drains += u32::from(watch.draining && !one.node.is_paused());
                one.node.resume();
                one.node.kill();
            }
        }
        let standing = one.standing();
        if standing == watch.counted {
            if standing == Standing::Down && watch.start_at.is_none() {
                self.start_soon(store, now);
            }
            return;
        }
        watch.counted = standing;
        match standing {
            Standing::Serving => self.lives.served += 1,
            Standing::Starting => {}
            Standing::Down => {
                if let Some(failure) = one.failure() {
                    self.lives.failed += 1;
                    self.failures.push(failure);
                }
                (watch.end_by, watch.armed) = (None, false);
                self.shared.device_failed.set(self.shared.device_failed.get() & !(1 << store));
                self.start_soon(store, now);
            }
        }
    }

    fn start_soon(&mut self, store: usize, now: Instant) {
        let pause = self.span(self.pause_max);
        self.watches[store].start_at = Some(now.after(pause));
    }

    fn pick(&mut self) -> Trouble {
        let mut left = self.random.below(self.plan.troubles.iter().map(|one| one.1).sum());
        for &(trouble, weight) in &self.plan.troubles {
            if left < weight {
                return trouble;
            }
            left -= weight;
        }
        Trouble::Kill
    }

    /// A node.
    fn one(&mut self) -> usize {
        self.random.index(self.watches.len())
    }

    /// Mostly one node, often all, sometimes any of them.
    fn some(&mut self) -> Vec<usize> {
        let all = 0..self.watches.len();
        match self.random.below(10) {
            0..6 => vec![self.one()],
            6..8 => all.collect(),
            _ => all.filter(|_| self.random.coin()).collect(),
        }
    }

    fn until(&mut self, now: Instant, most: Duration, undo: Undo) {
        let span = self.span(most);
        self.undo.push((now.after(span), undo));
    }

    fn begin(&mut self, scene: &mut Scene, trouble: Trouble, now: Instant) {
        let long = Duration::from_secs(6);
        match trouble {
            Trouble::Kill | Trouble::PowerCut => {
                let (stores, power) = (self.some(), trouble == Trouble::PowerCut);
                if self.random.coin() {
                    let most = 16 << self.random.below(8);
                    let delay = Duration::from_micros(self.random.below(most));
                    let all = (0..self.watches.len()).collect();
                    let stores = if self.random.coin() { all } else { stores };
                    let hears = self.random.coin();
                    self.aim = Some(Aim {
                        stores,
                        power,
                        until: now.after(AIM_WAIT),
                        delay: if hears { Duration::ZERO } else { delay },
                        at: None,
                        heard: hears.then_some(u64::MAX),
                    });
                } else {
                    self.fell(scene, &stores, power);
                }
            }
            Trouble::KillInStores => {
                let most = 1 << self.random.below(9);
                let (store, count) = (self.one(), self.random.below(most));
                scene.stores[store].node.kill_after_stores(count);
                self.watches[store].armed = true;
            }
            Trouble::Drain => {
                let store = self.one();
                let watch = &mut self.watches[store];
                if scene.stores[store].standing() == Standing::Serving && watch.end_by.is_none() {
                    scene.stores[store].drain();
                    watch.draining = true;
                    let by = self.plan.limits.drain_deadline + Duration::from_secs(20);
                    watch.end_by = Some(now.after(by));
                }
            }
            Trouble::Pause => {
                for store in self.some() {
                    scene.stores[store].node.pause();
                    self.until(now, long, Undo::Resume(store));
                }
            }
            Trouble::ClockJump | Trouble::ClockSkew => self.clock(scene, trouble),
            Trouble::DiskSlow | Trouble::DiskStall | Trouble::DiskFull | Trouble::DiskErrors => {
                self.disk(scene, trouble, now);
            }
            Trouble::Hostile => {
                let store = self.one();
                self.hostile_wanted[store] += 1 + self.random.below(4) as u32;
            }
            Trouble::Split | Trouble::OneWay | Trouble::Isolate | Trouble::LinksBad | Trouble::LinksSwarm => {
                self.network(scene, trouble);
                self.until(now, long, Undo::Network);
            }
        }
    }

    fn clock(&mut self, scene: &Scene, trouble: Trouble) {
        let most = if trouble == Trouble::ClockSkew {
            // About as much as the replicas allow each other.
            1_500_000
        } else {
            // Mostly up to a minute, sometimes up to days.
            let rare = self.random.chance(100_000);
            1_000 << self.random.below(if rare { 31 } else { 27 })
        };
        let delta = self.random.below(most) as i64;
        let signed = if self.random.coin() { delta } else { -delta };
        let node = scene.stores[self.one()].node;
        if trouble == Trouble::ClockSkew { node.set_wall_offset(signed) } else { node.jump_wall(signed) }
    }

    fn disk(&mut self, scene: &Scene, trouble: Trouble, now: Instant) {
        let long = Duration::from_secs(4);
        for store in self.some() {
            let disk = scene.stores[store].disk;
            let mut faults = disk.faults();
            match trouble {
                Trouble::DiskStall => {
                    let span = self.span(long);
                    disk.stall(span);
                    continue;
                }
                Trouble::DiskSlow => faults.slow_percent = 200 << self.random.below(6),
                Trouble::DiskFull => {
                    let room = 4096 * self.random.below(64);
                    faults.full_after_bytes = Some(disk.snapshot().stored_bytes() + room);
                }
                _ => errors(&mut faults, &mut self.random),
            }
            disk.set_faults(faults);
            self.until(now, long, Undo::Disk(store));
        }
    }

    fn network(&mut self, scene: &Scene, trouble: Trouble) {
        let world = &scene.world;
        match trouble {
            Trouble::Split => {
                let nodes = scene.stores.iter().map(|store| store.node).chain(scene.machines.iter().copied());
                let nodes = nodes.chain(scene.caches.iter().map(|cache| cache.node));
                let nodes = nodes.chain(scene.colds.iter().map(|cold| cold.handle));
                let (here, there): (Vec<_>, Vec<_>) = nodes.partition(|_| self.random.coin());
                for one in &here {
                    there.iter().for_each(|other| world.partition(one, other));
                }
            }
            Trouble::OneWay => {
                for _ in 0..1 + self.random.below(3) {
                    let (one, other) = (self.one(), self.one());
                    if one != other {
                        world.partition_one_way(&scene.stores[one].node, &scene.stores[other].node);
                    }
                }
            }
            Trouble::Isolate => world.isolate(&scene.stores[self.one()].node),
            Trouble::LinksBad => {
                let config = LinkConfig {
                    reset_ppm: 1_000 << self.random.below(7),
                    refuse_ppm: 200_000,
                    loss_ppm: 1_000 << self.random.below(7),
                    ..self.plan.world.link.clone()
                };
                world.set_links(&config);
            }
            _ => {
                for one in &scene.stores {
                    for other in &scene.stores {
                        if one.node != other.node {
                            let config = LinkConfig::swarm(&mut self.random);
                            world.set_link(&one.node, &other.node, config);
                        }
                    }
                }
            }
        }
    }

    fn end(&self, scene: &Scene, undo: Undo) {
        match undo {
            Undo::Resume(store) => scene.stores[store].node.resume(),
            Undo::Kill(store) => scene.stores[store].node.kill(),
            Undo::PowerCut(store) => scene.stores[store].node.power_cut(),
            Undo::Disk(store) => scene.stores[store].disk.set_faults(self.plan.disk.faults.clone()),
            Undo::Network => {
                scene.world.heal_all();
                scene.world.set_links(&self.plan.world.link);
            }
        }
    }

    /// End every trouble: what is down is started at once, clocks are right again.
    pub(super) fn end_all(&mut self, scene: &mut Scene) {
        self.undo.clear();
        self.aim = None;
        self.next = Instant { ns: u64::MAX };
        self.pause_max = Duration::from_millis(20);
        self.end(scene, Undo::Network);
        self.disks.end_all(scene);
        self.caches.end_all(scene);
        self.colds.end_all(scene);
        let now = scene.world.now();
        for store in 0..self.watches.len() {
            self.end(scene, Undo::Resume(store));
            self.end(scene, Undo::Disk(store));
            scene.stores[store].disk.release();
            scene.stores[store].node.set_wall_offset(self.plan.stores[store].skew_us / 8);
            let watch = &mut self.watches[store];
            if watch.armed {
                scene.stores[store].node.kill();
            }
            watch.start_at = watch.start_at.map(|at| at.min(now.after(Duration::from_millis(50))));
        }
    }

    /// Nobody is about to end, nor will be for what it has said of its device.
    pub(super) fn is_quiet(&self) -> bool {
        let nobody_ends = self.undo.is_empty() && self.watches.iter().all(|watch| watch.end_by.is_none());
        nobody_ends && self.shared.device_failed.get() == 0
    }

    /// A node is ended in peace; `turn` starts it again.
    pub(super) fn restart(&mut self, scene: &Scene, store: usize) {
        match self.random.below(2) {
            0 => scene.stores[store].node.kill(),
            _ => scene.stores[store].node.power_cut(),
        }
    }
}

fn errors(faults: &mut DiskFaults, random: &mut Random) {
    match random.below(3) {
        0 => faults.write_error_ppm = 30_000 << random.below(5),
        1 => faults.flush_error_ppm = 300_000,
        _ => (faults.write_error_ppm, faults.flush_error_ppm) = (50_000, 200_000),
    }
}
