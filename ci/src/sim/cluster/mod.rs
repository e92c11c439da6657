//! The scenario of a group of nodes: clients at work, trouble of all kinds to any of them; then peace, in which the group must
//! go on within thirty seconds on every tablet, and the replicas become equal; then the judgement over the whole history.

mod caches;
mod colds;
mod copies;
mod disks;
pub(crate) mod operator;
mod peace;
mod plan;
pub(crate) mod quiet;
mod scene;
mod trouble;
pub(crate) mod work;

use super::checkers::{self, Final, Law, replicas, sinks};
use super::client::Shared;
use super::history::Violation;
use super::one_node::{Options, PROGRESS};
use super::plan::Mode;
use super::report::{Clock, SeedReport, Sum};
use super::scene::Standing;
use ioengine::Instant;
use ioengine::marks::Fact;
use ioengine::sim::Random;
use plan::Plan;
use scene::Scene;
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;
use trouble::Nemesis;

/// How long a group without the atlas is looked at after its troubles.
const AFTERMATH: Duration = Duration::from_secs(20);

/// Run `seed` in `mode`, one of those of a cluster.
#[must_use]
pub fn run(seed: u64, mode: Mode, options: &Options) -> SeedReport {
    let clock = Clock::start();
    let plan = Plan::draw(seed, mode);
    let mut run = Run::new(&plan, options);
    run.play();
    run.report(&clock)
}

struct Run<'a> {
    plan: &'a Plan,
    options: &'a Options,
    scene: Scene,
    shared: Rc<Shared>,
    /// Where reads go, in worlds with caches.
    said: Option<Rc<operator::Said>>,
    last: Final,
    sum: Sum,
    facts: Vec<Fact>,
}

impl<'a> Run<'a> {
    fn new(plan: &'a Plan, options: &'a Options) -> Run<'a> {
        let scene = Scene::new(plan, options.canaries.clone(), options.trace);
        let shared = Rc::new(Shared {
            history: Rc::clone(&scene.history),
            device_failed: Cell::new(0),
            may_be_corrupt: plan.disk_trouble_every.is_some(),
            may_begin_late: Cell::new(true),
            stop: Cell::new(false),
            busy: Cell::new(0),
        });
        Run {
            plan,
            options,
            scene,
            shared,
            said: None,
            last: Final::default(),
            sum: Sum::default(),
            facts: Vec::new(),
        }
    }

    fn wrong(&mut self, text: String) {
        self.sum.violations.push(Violation { checker: "run", text });
    }

    fn play(&mut self) {
        if self.first_start() {
            let mut nemesis = self.live();
            if self.plan.is_safe() {
                self.peace(&mut nemesis);
            } else {
                // Nobody knows whether the group can go on: what is on its way arrives.
                self.run_all(&mut nemesis, AFTERMATH);
            }
            self.facts.append(&mut nemesis.disks.facts);
            self.sum.starts += nemesis.lives.served;
            self.sum.failed_starts += nemesis.lives.failed;
            self.blame(&nemesis.failures);
            self.sum.failures.append(&mut nemesis.failures);
            let said = self.said.iter().flat_map(|said| said.wrong.take());
            let caches = std::mem::take(&mut nemesis.caches.wrong).into_iter();
            let colds = std::mem::take(&mut nemesis.colds.wrong).into_iter();
            for text in caches.chain(colds).chain(said).collect::<Vec<_>>() {
                self.wrong(text);
            }
            if nemesis.overdue_drains > 0 {
                self.wrong(format!("{} drains did not end in time", nemesis.overdue_drains));
            }
        }
        self.judge();
    }

    /// Fresh nodes serve.
    fn first_start(&mut self) -> bool {
        for store in 0..self.scene.stores.len() {
            self.scene.start(store);
        }
        self.scene.caches.iter_mut().for_each(caches::Cache::start);
        self.scene.colds.iter_mut().for_each(crate::sim::cold::Machine::start);
        let until = self.scene.world.now().after(PROGRESS);
        let all = |scene: &Scene, standing| scene.stores.iter().all(|store| store.standing() == standing);
        while !all(&self.scene, Standing::Serving) && self.scene.world.now() < until {
            self.scene.world.run_for(Duration::from_millis(2));
        }
        if !all(&self.scene, Standing::Serving) {
            let failures: Vec<_> = self.scene.stores.iter().filter_map(scene::Store::failure).collect();
            self.wrong(format!("fresh nodes do not serve: {failures:?}"));
            return false;
        }
        self.sum.starts += self.scene.stores.len() as u64;
        true
    }

    /// Work and trouble.
    fn live(&mut self) -> Nemesis<'a> {
        let wanted: Vec<_> = self.scene.stores.iter().map(|_| Rc::new(Cell::new(0))).collect();
        let hostile_stop = Rc::new(Cell::new(false));
        work::launch(self.plan, &self.scene, &self.shared, &wanted, &hostile_stop);
        if let Some((share_ppm, caches)) = self.scene.cache_share_ppm.as_ref().zip(self.plan.caches.as_ref())
        {
            let said = operator::Said::of(&self.scene, share_ppm, self.plan.disk_trouble_every.is_none());
            let random = Random::new(self.plan.seed).fork(self.plan.mode.name(), 0).fork("operator", 0);
            operator::launch(&self.scene, &said, caches.said_every, random);
            self.said = Some(said);
        }
        let shared = Rc::clone(&self.shared);
        let mut nemesis = Nemesis::new(self.plan, shared, self.scene.world.now());
        let end = self.scene.world.now().after(self.plan.life);
        while self.scene.world.now() < end {
            self.run_on(&mut nemesis, end);
            for (wanted, more) in wanted.iter().zip(&mut nemesis.hostile_wanted) {
                wanted.set(wanted.get() + std::mem::take(more));
            }
        }
        self.shared.stop.set(true);
        hostile_stop.set(true);
        if let Some(said) = &self.said {
            said.stop.set(true);
        }
        nemesis.end_all(&mut self.scene);
        nemesis
    }

    /// On for so long, with all that it takes.
    fn run_all(&mut self, nemesis: &mut Nemesis<'_>, duration: Duration) {
        let until = self.scene.world.now().after(duration);
        while self.scene.world.now() < until {
            self.run_on(nemesis, until);
        }
    }

    /// On to the next look at the nodes, at most until then.
    fn run_on(&mut self, nemesis: &mut Nemesis<'_>, end: Instant) {
        let due = nemesis.due(self.scene.world.now());
        self.scene.world.run_until(due.min(end));
        nemesis.turn(&mut self.scene);
    }

    /// A start may fail for the disk's sake alone, or because it was asked to drain.
    fn blame(&mut self, failures: &[String]) {
        let fine = |text: &String| {
            let disk = [
                "failed: I/O error",
                "ended after a failed flush",
                "no space for",
                "a flush of it has failed",
                "another core has ended the start",
                "the start was ended while it waited",
            ];
            disk.iter().any(|one| text.contains(one))
        };
        if let Some(text) = failures.iter().find(|text| !fine(text)) {
            self.wrong(format!("a start failed: {text}"));
        }
    }

    fn judge(&mut self) {
        let rots = self.plan.disk_trouble_every.is_some();
        if !rots && self.scene.world.marks().contains_key("a scrub finds decay") {
            self.wrong("a scrub finds decay on a disk that keeps what it is given".to_owned());
        }
        let history = self.shared.history.borrow();
        let memtables_grew = self.scene.world.marks().contains_key("a memtable grows in a replay");
        let limits = &self.plan.limits;
        let law = Law { mode: self.plan.mode, excused: 0, core_count: 1, limits, memtables_grew };
        if self.plan.is_safe() {
            self.sum.violations.extend(checkers::judge(&history, &self.last, law));
        }
        self.facts.append(&mut self.scene.world.take_facts());
        self.sum.violations.extend(replicas::check_logs(&self.facts));
        self.sum.violations.extend(replicas::check_tables(&self.facts));
        self.sum.violations.extend(replicas::check_messages(&self.facts));
        self.sum.violations.extend(sinks::check(&self.facts));
        self.sum.operations += history.operation_count;
        for (name, count) in &history.answers {
            *self.sum.answers.entry(name).or_insert(0) += count;
        }
        if self.options.hash {
            self.sum.history_hash = history.hash();
        }
    }

    fn report(self, clock: &Clock) -> SeedReport {
        let world = &self.scene.world;
        SeedReport {
            seed: self.plan.seed,
            mode: self.plan.mode,
            faults: world.fault_counts(),
            marks: world.marks(),
            simulated_s: world.now().ns as f64 / 1e9,
            events: world.event_count(),
            trace_hash: world.trace_hash(),
            trace: world.take_trace(),
            sum: self.sum,
            cpu_s: clock.seconds(),
        }
    }
}
