//! What goes wrong, and when it is over: draws one trouble after another, does it to the world, and undoes it in time.
//! Restarts the node whenever it is down, or has said that its device failed.

use super::client::Shared;
use super::plan::{Plan, Trouble};
use super::scene::{Scene, Standing, superblock};
use ioengine::Instant;
use ioengine::sim::{DiskFaults, LinkConfig, Random};
use std::rc::Rc;
use std::time::Duration;

/// What ends a trouble.
#[derive(Clone, Copy, Debug)]
enum Undo {
    Resume,
    Disk,
    Network,
    Kill,
    PowerCut,
}

/// Ends of the node's processes, by kind, and what became of its starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Lives {
    /// Starts that came to serve.
    pub(super) served: u64,
    /// Starts that failed.
    pub(super) failed: u64,
    /// Drains that ended by themselves.
    pub(super) drained: u64,
    /// Restarts because the node said that its device has failed.
    pub(super) device: u64,
}

pub(super) struct Nemesis<'a> {
    plan: &'a Plan,
    random: Random,
    shared: Rc<Shared>,
    undo: Vec<(Instant, Undo)>,
    /// When the node is to be started.
    start_at: Option<Instant>,
    /// When a draining or failed node is ended, if it has not ended by itself.
    end_by: Option<Instant>,
    next: Instant,
    counted: Standing,
    pub(super) lives: Lives,
    /// What failed starts said.
    pub(super) failures: Vec<String>,
    pub(super) hostile_wanted: u32,
    /// A drain that did not end in time.
    pub(super) overdue_drains: u32,
    /// Starts that failed, one after the other.
    pub(super) failed_in_a_row: u32,
    /// The node was asked to drain, not merely to end.
    draining: bool,
}

impl<'a> Nemesis<'a> {
    pub(super) fn new(plan: &'a Plan, life: u64, shared: Rc<Shared>, now: Instant) -> Nemesis<'a> {
        let random = Random::new(plan.seed).fork(plan.mode.name(), 0).fork("trouble", life);
        Nemesis {
            plan,
            random,
            shared,
            undo: Vec::new(),
            start_at: None,
            end_by: None,
            next: now.after(plan.trouble_every),
            counted: Standing::Down,
            lives: Lives::default(),
            failures: Vec::new(),
            hostile_wanted: 0,
            overdue_drains: 0,
            failed_in_a_row: 0,
            draining: false,
        }
    }

    /// The node serves: its first start is not this one's work.
    pub(super) fn serves(&mut self) {
        self.counted = Standing::Serving;
    }

    fn span(&mut self, most: Duration) -> Duration {
        // Spread over orders of magnitude.
        let most = most.as_nanos() as u64 >> self.random.below(8);
        Duration::from_nanos(self.random.below(most.max(1)))
    }

    /// When to look again.
    pub(super) fn due(&self, now: Instant) -> Instant {
        let mut due = now.after(Duration::from_millis(50)).min(self.next);
        for at in self.undo.iter().map(|one| one.0).chain(self.start_at).chain(self.end_by) {
            due = due.min(at);
        }
        due.max(now)
    }

    /// Look at the node, end what is over, begin what is due.
    pub(super) fn turn(&mut self, scene: &mut Scene) {
        let now = scene.world.now();
        self.watch(scene, now);
        let (over, rest) =
            std::mem::take(&mut self.undo).into_iter().partition(|one: &(Instant, Undo)| one.0 <= now);
        self.undo = rest;
        for (_, undo) in Vec::from_iter::<Vec<_>>(over) {
            self.end(scene, undo);
        }
        if now >= self.next {
            let pause = self.plan.trouble_every.as_nanos() as u64;
            self.next = now.after(Duration::from_nanos(pause / 2 + self.random.below(pause)));
            let trouble = self.pick();
            self.begin(scene, trouble, now);
        }
        if self.start_at.is_some_and(|at| at <= now) && !scene.store.is_running() {
            self.start_at = None;
            scene.start();
            self.counted = Standing::Starting;
            if self.random.chance(self.plan.start_cut_ppm) {
                let at = now.after(Duration::from_nanos(
                    self.random.below(1 << (14 + self.random.clone().below(11))),
                ));
                let end = if self.random.coin() { Undo::Kill } else { Undo::PowerCut };
                self.undo.push((at, end));
            }
        }
    }

    fn watch(&mut self, scene: &mut Scene, now: Instant) {
        let standing = scene.standing();
        if standing == self.counted && standing != Standing::Down {
            if self.shared.device_failed.get() != 0 && self.end_by.is_none() && self.random.chance(100_000) {
                self.lives.device += 1;
                self.draining = false;
                scene.drain();
                self.end_by = Some(now.after(Duration::from_secs(1)));
            }
            if self.end_by.is_some_and(|by| by <= now) {
                self.end_by = None;
                self.overdue_drains += u32::from(self.draining && !scene.store.is_paused());
                scene.store.resume();
                scene.store.kill();
            }
        }
        let standing = scene.standing();
        if standing == self.counted {
            if standing == Standing::Down && self.start_at.is_none() {
                self.start_soon(now);
            }
            return;
        }
        match standing {
            Standing::Serving => {
                self.lives.served += 1;
                self.failed_in_a_row = 0;
            }
            Standing::Starting => {}
            Standing::Down => {
                if let Some(failure) = scene.failure() {
                    self.lives.failed += 1;
                    self.failed_in_a_row += 1;
                    self.failures.push(failure);
                } else if self.end_by.is_some() {
                    self.lives.drained += 1;
                }
                self.end_by = None;
                self.shared.device_failed.set(0);
                self.start_soon(now);
            }
        }
        self.counted = standing;
    }

    fn start_soon(&mut self, now: Instant) {
        let pause = self.span(Duration::from_millis(1_500));
        self.start_at = Some(now.after(pause));
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

    fn until(&mut self, now: Instant, most: Duration, undo: Undo) {
        let span = self.span(most);
        self.undo.push((now.after(span), undo));
    }

    fn faults(&mut self, scene: &Scene, change: impl FnOnce(&mut DiskFaults, &mut Random), most: Duration) {
        let mut faults = scene.disk.faults();
        change(&mut faults, &mut self.random);
        scene.disk.set_faults(faults);
        self.until(scene.world.now(), most, Undo::Disk);
    }

    fn begin(&mut self, scene: &mut Scene, trouble: Trouble, now: Instant) {
        let long = Duration::from_secs(4);
        match trouble {
            Trouble::Kill => scene.store.kill(),
            Trouble::KillInStores => {
                let count = self.random.below(1 << self.random.clone().below(9));
                scene.store.kill_after_stores(count);
            }
            Trouble::PowerCut => scene.store.power_cut(),
            Trouble::Drain => {
                if scene.standing() == Standing::Serving && self.end_by.is_none() {
                    scene.drain();
                    self.draining = true;
                    let by = self.plan.limits.drain_deadline + Duration::from_secs(20);
                    self.end_by = Some(now.after(by));
                }
            }
            Trouble::Pause => {
                scene.store.pause();
                self.until(now, long, Undo::Resume);
            }
            Trouble::ClockJump => {
                // Mostly up to a minute, sometimes up to days.
                let most =
                    1_000 << self.random.below(if self.random.clone().chance(100_000) { 38 } else { 27 });
                let delta = self.random.below(most) as i64;
                let sign = if self.random.coin() { 1 } else { -1 };
                scene.store.jump_wall(sign * delta);
            }
            Trouble::DiskSlow => {
                self.faults(scene, |faults, random| faults.slow_percent = 200 << random.below(6), long)
            }
            Trouble::DiskStall => {
                let span = self.span(long);
                scene.disk.stall(span);
            }
            Trouble::DiskFull => self.faults(
                scene,
                |faults, random| {
                    let room = 4096 * random.below(64);
                    faults.full_after_bytes = Some(scene.disk.snapshot().stored_bytes() + room);
                },
                long,
            ),
            Trouble::DiskErrors => self.faults(
                scene,
                |faults, random| match random.below(3) {
                    0 => faults.write_error_ppm = 30_000 << random.below(5),
                    1 => faults.flush_error_ppm = 300_000,
                    _ => (faults.write_error_ppm, faults.flush_error_ppm) = (50_000, 200_000),
                },
                Duration::from_secs(2),
            ),
            Trouble::Partition => {
                let machine = *self.random.pick(&scene.machines);
                match self.random.below(3) {
                    0 => scene.world.partition(&scene.store, &machine),
                    1 => scene.world.partition_one_way(&scene.store, &machine),
                    _ => scene.world.partition_one_way(&machine, &scene.store),
                }
                self.until(now, long, Undo::Network);
            }
            Trouble::LinkBad => {
                let config = LinkConfig {
                    reset_ppm: 1_000 << self.random.below(7),
                    refuse_ppm: 200_000,
                    loss_ppm: 1_000 << self.random.below(7),
                    ..self.plan.world.link.clone()
                };
                scene.world.set_links(&config);
                self.until(now, long, Undo::Network);
            }
            Trouble::Hostile => self.hostile_wanted += 1 + self.random.below(4) as u32,
            other => self.lie(scene, other),
        }
    }

    fn lie(&mut self, scene: &mut Scene, trouble: Trouble) {
        let short = Duration::from_secs(2);
        match trouble {
            Trouble::Rot => {
                let at = self.somewhere(scene);
                // One sector, or a run of them.
                let count = if self.random.coin() { 1 } else { 1 + self.random.below(40) };
                for number in 0..count {
                    let sector = at + number * 512;
                    if sector < scene.disk.bytes() && scene.disk.snapshot().is_stored(sector) {
                        scene.disk.rot(sector);
                    }
                }
                self.maybe_end(scene);
            }
            Trouble::RotSuperblock => {
                let at = 512 * self.random.below(32);
                scene.disk.rot(at);
            }
            Trouble::Unreadable => {
                for _ in 0..1 + self.random.below(2) {
                    let at = self.somewhere(scene);
                    scene.disk.make_unreadable(at);
                }
                self.maybe_end(scene);
            }
            Trouble::LoseWrites => {
                self.faults(scene, |faults, random| faults.write_lost_ppm = 10_000 << random.below(6), short);
            }
            Trouble::MisdirectWrites => {
                self.faults(
                    scene,
                    |faults, random| faults.write_misdirected_ppm = 10_000 << random.below(6),
                    short,
                );
            }
            Trouble::IgnoreFlushes => {
                self.faults(
                    scene,
                    |faults, random| faults.flush_ignored_ppm = 100_000 << random.below(3),
                    short,
                );
            }
            Trouble::LoseTail => {
                let now = scene.world.now();
                let mut faults = scene.disk.faults();
                let all = 1_000_000;
                match self.random.below(3) {
                    0 => (faults.write_lost_ppm, faults.write_misdirected_ppm) = (0, all),
                    _ => faults.write_lost_ppm = all,
                }
                scene.disk.set_faults(faults);
                let at = now.after(Duration::from_micros(self.random.below(60_000)));
                let end = if self.random.coin() { Undo::Kill } else { Undo::PowerCut };
                self.undo.extend([(at, end), (at, Undo::Disk)]);
            }
            other => panic!("{other:?} is no lie"),
        }
    }

    /// End the node before it writes over or behind what was just damaged, half the time.
    fn maybe_end(&mut self, scene: &Scene) {
        match self.random.below(4) {
            0 => scene.store.kill(),
            1 => scene.store.power_cut(),
            _ => {}
        }
    }

    /// A sector in use, more often near the end of a journal, where it matters most.
    fn somewhere(&mut self, scene: &Scene) -> u64 {
        let image = scene.disk.snapshot();
        let Some(superblock) = superblock(&image) else { return 512 * self.random.below(32) };
        let zone = self.random.pick(superblock.shard_zones()).journal;
        let pages = zone.bytes / 4096;
        let used = (0..pages)
            .rev()
            .find(|page| image.is_stored(zone.offset.0 + page * 4096))
            .map_or(1, |page| page + 1);
        let near = used >> self.random.below(8) | 1;
        let back = self.random.below(near).min(used - 1);
        zone.offset.0 + (used - 1 - back) * 4096 + 512 * self.random.below(8)
    }

    fn end(&mut self, scene: &Scene, undo: Undo) {
        match undo {
            Undo::Resume => scene.store.resume(),
            Undo::Kill => scene.store.kill(),
            Undo::PowerCut => scene.store.power_cut(),
            Undo::Disk => scene.disk.set_faults(self.plan.disk.faults.clone()),
            Undo::Network => {
                scene.world.heal_all();
                scene.world.set_links(&self.plan.world.link);
            }
        }
    }

    /// End every trouble.
    pub(super) fn end_all(&mut self, scene: &mut Scene) {
        self.undo.clear();
        for undo in [Undo::Resume, Undo::Disk, Undo::Network] {
            self.end(scene, undo);
        }
        scene.disk.release();
    }

    /// Look at the node and start it when it is down; no new trouble.
    pub(super) fn mend(&mut self, scene: &mut Scene) {
        self.next = Instant { ns: u64::MAX };
        self.turn(scene);
    }
}
