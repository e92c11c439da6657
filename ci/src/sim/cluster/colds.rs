//! Cold nodes behind the store, in worlds with a sink: what they are, what happens to them, and at the end that they hold what is linked,
//! all of it and nothing else.

use super::Run;
use super::copies;
use super::plan::{CLUSTER, Plan};
use super::scene::{Scene, address};
use super::trouble::Nemesis;
use crate::sim::checkers::sinks::{self, Counts, HeldSection, Holding};
use crate::sim::cold::{Machine, Made, disk_config, files, limits, list, listed_is_counted};
use crate::sim::one_node::PROGRESS;
use crate::sim::plan;
use ioengine::sim::{DiskFaults, Random, World};
use ioengine::{Instant, Io};
use layout::key::tablet_of;
use net::client::{ClientConfig, ColdNode};
use net::cold::{ColdKept, ColdPlace};
use shard::SinkSettings;
use shard::cold::ColdNodeLimits;
use shard::limits::Limits;
use shard::node::Event;
use std::time::Duration;

/// Number of the first cold node.
const COLDS_FROM: u16 = 80;
const COUNT: u16 = 3;
const GROUP: u16 = 2;
/// Within this, once trouble has ended, the machines hold what is linked, and nothing else.
const SETTLED: Duration = Duration::from_secs(240);
const REUSE_DELAY: Duration = Duration::from_secs(4);
const SCRUB_PERIOD: Duration = Duration::from_secs(6);
/// What a frame of a simulated cold node carries.
const FRAME_BYTES: u32 = 1 << 20;

/// Cold nodes of a world.
#[derive(Clone, Debug)]
pub(super) struct ColdsPlan {
    disk_count: u16,
    file_count: u64,
    core_count: u16,
    reads_in_flight: usize,
    after: Duration,
    trouble_every: Duration,
    disks_seed: u64,
    /// The disks of the first machine lie about what is in their files, and the machines look for damage themselves.
    pub(super) lies: bool,
}

impl ColdsPlan {
    pub(super) fn draw(random: &mut Random, limits: &mut Limits) -> ColdsPlan {
        limits.sweep_every = plan::ms(random, 1_500..6_000);
        // Often a sinker that lives is overtaken.
        let patience = 100 << random.below(9);
        limits.sink_patience = plan::ms(random, patience / 2..patience);
        // Memtables fill, so that there is something to seal.
        let least = 4 * limits.staging_count_max;
        limits.memtable_record_count_max =
            limits.memtable_record_count_max.min(1 << (8 + random.below(4))).max(least);
        ColdsPlan {
            disk_count: 1 + random.below(3) as u16,
            // Sometimes they are full.
            file_count: if random.chance(150_000) { 3 } else { 12 + random.below(30) },
            core_count: 1 + random.below(2) as u16,
            reads_in_flight: 1 + random.index(4),
            after: Duration::from_secs(random.below(3)),
            trouble_every: plan::ms(random, 400..5_000),
            disks_seed: random.bits(),
            lies: random.chance(400_000),
        }
    }

    /// The machines, nothing of them running.
    pub(super) fn machines(&self, world: &World) -> Vec<Machine> {
        let mut random = Random::new(self.disks_seed);
        let machine = |number: u16| {
            let limits = ColdNodeLimits {
                reads_in_flight: self.reads_in_flight,
                reserved_max: 64,
                reuse_delay: REUSE_DELAY,
                frame_bytes_max: FRAME_BYTES,
                arena_bytes: 24 << 20,
                outbox_bytes_max: 4 << 20,
                waiting_bytes_max: 4 << 20,
                scrub_period: if self.lies { SCRUB_PERIOD } else { Duration::ZERO },
                ..limits()
            };
            let made = Made {
                cluster: CLUSTER,
                group: GROUP,
                number: COLDS_FROM + number,
                disk_count: self.disk_count,
                core_count: self.core_count,
                limits,
            };
            Machine::new(world, made, || disk_config(&mut random, self.file_count))
        };
        let mut machines: Vec<Machine> = (0..COUNT).map(machine).collect();
        Machine::introduce(&mut machines);
        machines
    }
}

/// What a store knows of them.
pub(super) fn settings(plan: &ColdsPlan) -> SinkSettings {
    let nodes = [0, 1, 2].map(|number| address(COLDS_FROM + number));
    SinkSettings { nodes, group: GROUP, disk_count: plan.disk_count, after: plan.after }
}

/// Troubles of cold nodes, on a generator of their own.
pub(super) struct ColdTrouble {
    random: Random,
    every: Duration,
    next: Instant,
    starts_at: Vec<Option<Instant>>,
    is_over: bool,
    lies: bool,
    /// What must not be.
    pub(super) wrong: Vec<String>,
}

const NEVER: Instant = Instant { ns: u64::MAX };

impl ColdTrouble {
    pub(super) fn new(plan: &Plan, now: Instant) -> ColdTrouble {
        let random = Random::new(plan.seed).fork(plan.mode.name(), 0).fork("cold trouble", 0);
        let every = plan.colds.as_ref().map_or(Duration::MAX, |colds| colds.trouble_every);
        let next = if plan.colds.is_some() { now.after(every) } else { NEVER };
        let lies = plan.colds.as_ref().is_some_and(|colds| colds.lies);
        ColdTrouble {
            random,
            every,
            next,
            starts_at: vec![None; COUNT.into()],
            is_over: false,
            lies,
            wrong: Vec::new(),
        }
    }

    /// When to look again.
    pub(super) fn due(&self) -> Instant {
        self.starts_at.iter().flatten().min().map_or(self.next, |at| (*at).min(self.next))
    }

    pub(super) fn turn(&mut self, scene: &mut Scene, now: Instant) {
        for place in 0..scene.colds.len() {
            self.watch(&mut scene.colds[place], place, now);
        }
        if now >= self.next {
            let every = self.every.as_nanos() as u64;
            self.next = now.after(Duration::from_nanos(every / 2 + self.random.below(every)));
            self.begin(scene);
        }
    }

    /// Who is down starts again; who stands still goes on; who is slow is quick again.
    fn watch(&mut self, cold: &mut Machine, place: usize, now: Instant) {
        let failed = cold.events.lock().expect("one thread").iter().find_map(|event| match event {
            Event::Failed(text) => Some(text.clone()),
            _ => None,
        });
        if let Some(text) = failed {
            // A disk that said no while it was opened is tried again.
            if !text.contains("can be opened") && !text.contains("I/O error") {
                self.wrong.push(format!("a cold node cannot start: {text}"));
            }
            cold.handle.kill();
            cold.events.lock().expect("one thread").clear();
        }
        let is_down = !cold.handle.is_running() || cold.handle.is_paused();
        if !is_down {
            return;
        }
        let pause = if self.is_over { 1 } else { 1 + self.random.below(4_000) };
        let at = *self.starts_at[place].get_or_insert(now.after(Duration::from_millis(pause)));
        if at > now {
            return;
        }
        self.starts_at[place] = None;
        if cold.handle.is_paused() {
            cold.handle.resume();
        } else {
            cold.start();
        }
    }

    fn begin(&mut self, scene: &Scene) {
        let place = self.random.index(scene.colds.len());
        let cold = &scene.colds[place];
        match self.random.below(11) {
            0 | 1 => cold.handle.kill(),
            2 => cold.handle.power_cut(),
            3 => scene.colds.iter().for_each(|cold| cold.handle.power_cut()),
            4 => cold.handle.pause(),
            5 => {
                let store = self.random.index(scene.stores.len());
                scene.world.partition(&cold.handle, &scene.stores[store].node);
            }
            6 => cold.disks.iter().for_each(|disk| disk.set_faults(DiskFaults::default())),
            7 => {
                let disk = &cold.disks[self.random.index(cold.disks.len())];
                disk.stall(Duration::from_millis(1_000 + self.random.below(7_000)));
            }
            8 => {
                let disk = &cold.disks[self.random.index(cold.disks.len())];
                disk.set_faults(DiskFaults { slow_percent: 10_000, ..DiskFaults::default() });
            }
            _ => {
                let disk = &cold.disks[self.random.index(cold.disks.len())];
                // Only one machine lies: what the two others hold is proven.
                let mut faults = match self.lies && place == 0 {
                    true => copies::lying(disk, &mut self.random),
                    false => DiskFaults { latent_error_ppm: 0, ..DiskFaults::honest(&mut self.random) },
                };
                if self.random.chance(150_000) {
                    faults.full_after_bytes = Some(self.random.below(disk.bytes()));
                }
                if self.lies && place == 0 {
                    copies::rot(disk, &mut self.random);
                }
                disk.set_faults(faults);
            }
        }
    }

    /// End every trouble.
    pub(super) fn end_all(&mut self, scene: &Scene) {
        (self.next, self.is_over) = (if scene.colds.is_empty() { NEVER } else { self.next }, true);
        if scene.colds.is_empty() {
            return;
        }
        self.next = NEVER;
        for cold in &scene.colds {
            cold.disks.iter().for_each(|disk| {
                disk.set_faults(DiskFaults::default());
                disk.release();
            });
            cold.handle.resume();
            // A device that has failed under a process is whole again for the next one.
            cold.handle.kill();
        }
        self.starts_at = vec![None; COUNT.into()];
    }
}

fn client_config() -> ClientConfig {
    ClientConfig {
        deadline: Duration::from_secs(10),
        patience: Duration::from_secs(2),
        frame_bytes: FRAME_BYTES,
        cluster: CLUSTER,
        ..ClientConfig::default()
    }
}

impl Run<'_> {
    /// All cold nodes serve.
    pub(super) fn colds_serve(&mut self, nemesis: &mut Nemesis<'_>) -> bool {
        let until = self.scene.world.now().after(PROGRESS);
        let serves = |cold: &Machine| {
            cold.handle.is_running() && cold.heard(|event| matches!(event, Event::Serving(_)))
        };
        while !self.scene.colds.iter().all(serves) && self.scene.world.now() < until {
            self.run_on(nemesis, until);
        }
        let all = self.scene.colds.iter().all(serves);
        if !all {
            self.wrong(format!("cold nodes do not serve within {PROGRESS:?} of peace"));
        }
        all
    }

    /// Sinks come to an end, and what is nobody's is freed: the three machines hold what is linked, and nothing else.
    pub(super) fn settle_sinks(&mut self, nemesis: &mut Nemesis<'_>) {
        if self.scene.colds.is_empty() {
            return;
        }
        let until = self.scene.world.now().after(SETTLED);
        loop {
            let on = self.scene.world.now().after(Duration::from_secs(2));
            while self.scene.world.now() < on {
                self.run_on(nemesis, on);
            }
            self.facts.append(&mut nemesis.disks.facts);
            self.facts.append(&mut self.scene.world.take_facts());
            let linked = sinks::linked(&self.facts);
            let (mut wrong, mut holdings) = (None, Vec::new());
            for place in 0..self.scene.colds.len() {
                let found = match self.held_by(place) {
                    Ok((held, holding)) => {
                        holdings.push(holding);
                        sinks::compare(&linked, &held)
                    }
                    Err(text) => Some(text),
                };
                wrong = wrong.or_else(|| found.map(|text| format!("cold node {place} holds {text}")));
            }
            let wrong = wrong.or_else(|| sinks::held_back(&linked.0, &holdings));
            let Some(text) = wrong else { return self.settle_copies(nemesis) };
            if self.scene.world.now() >= until {
                return self.wrong(format!("{SETTLED:?} after all trouble {text}"));
            }
        }
    }

    /// Sections that a cold node holds, by tablet and generation, and where they stand.
    fn held_by(&self, place: usize) -> Result<(Counts, Holding), String> {
        let (mut held, mut holding) = (Counts::new(), self.files_of(place)?);
        for (kept, place) in self.listed_by(place)? {
            if kept == ColdKept::Reserved {
                return Err(format!("a place that is reserved: {place:?}"));
            }
            let key =
                u64::from(tablet_of(place.whom.bucket).get()) << 56 | u64::from(place.whom.window_generation);
            *held.entry(key).or_insert(0) += u64::from(place.section_count);
            holding.sections.push(HeldSection {
                sink: key,
                file: (place.disk, place.file),
                offset: place.offset,
                bytes: place.content_bytes,
            });
        }
        Ok((held, holding))
    }

    /// The files of a cold node, without what stands in them.
    fn files_of(&self, place: usize) -> Result<Holding, String> {
        let cold = &self.scene.colds[place];
        let (address, disks) = (cold.config.listen, cold.disks.len());
        self.scene.world.block_on(&self.scene.machines[0], SETTLED * 10, move |io: Io| async move {
            let way = ColdNode::new(&io, address, &client_config());
            let mut holding = Holding::default();
            for disk in 0..disks as u16 {
                let found = files(&way, GROUP, disk).await;
                let (count, heads) =
                    found.ok_or_else(|| format!("nobody knows what: it says nothing of disk {disk}"))?;
                holding.file_counts.insert(disk, count);
                holding.heads.extend(heads.into_iter().map(|(file, head)| ((disk, file), head)));
            }
            Ok(holding)
        })
    }

    /// All that a cold node lists.
    ///
    /// # Errors
    /// It does not say it, or its file tables say something else.
    pub(super) fn listed_by(&self, place: usize) -> Result<Vec<(ColdKept, ColdPlace)>, String> {
        let cold = &self.scene.colds[place];
        let (address, disks) = (cold.config.listen, cold.disks.len());
        self.scene.world.block_on(&self.scene.machines[0], SETTLED * 10, move |io: Io| async move {
            let way = ColdNode::new(&io, address, &client_config());
            let mut all = Vec::new();
            for disk in 0..disks as u16 {
                let silent = || format!("nobody knows what: it does not list disk {disk}");
                all.extend(list(&way, GROUP, disk, 0).await.ok_or_else(silent)?);
                listed_is_counted(&way, (GROUP, disk), &all).await?;
            }
            Ok(all)
        })
    }
}
