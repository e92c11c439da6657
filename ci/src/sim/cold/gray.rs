//! Gray disks: what is done to disks so that they hang, are slow, fail, or let one operation starve; and that they are set aside in time, for no other
//! cause, and come back.
//!
//! Must never ask a node how its disks are: what it did is told by its facts, what the disk does is known here. Invariant: what is called wrong holds at
//! a moment at which the process has run without a pause for as long as the rule says.

use super::machine::Machine;
use super::{NODES, Stage};
use ioengine::Instant;
use ioengine::marks::Fact;
use ioengine::sim::{DiskFaults, DiskHandle, Random};
use std::collections::BTreeMap;
use std::time::Duration;

/// Within this, from the first operation that it affects, a gray disk is set aside.
const ASIDE_WITHIN: Duration = Duration::from_secs(3);
/// Within this a disk that is well again is set back: it is aside for 3 s at most here, then it is probed.
const BACK_WITHIN: Duration = Duration::from_secs(8);
/// For so long after it was gray a disk may still be set aside for it: what was looked at is 2.5 s.
const AFTERWARDS: Duration = Duration::from_secs(4);
/// For so long after an operation has starved its disk may be suspected of more: no other one starves then, least of all a probe.
const STARVED: Duration = Duration::from_secs(1);
/// Slow: so many hundredths of the time that it takes else.
const SLOW_PERCENT: u32 = 10_000;

/// What is known of a disk.
#[derive(Clone, Copy, Default)]
struct Known {
    /// When it was last seen to be gray, and since when it has been, if it is.
    gray_at: Option<Instant>,
    gray_since: Option<Instant>,
    /// Since when it has been so that no probe can go well.
    hard_since: Option<Instant>,
    /// Since it is gray, and slow: when a read was first seen to be asked of it.
    asked_at: Option<Instant>,
    aside_since: Option<Instant>,
    /// When it was last set aside, or back.
    changed_at: Option<Instant>,
}

/// Looks at all disks.
#[derive(Default)]
pub(super) struct GrayWatch {
    disks: BTreeMap<(usize, usize), Known>,
    /// By machine: since when its process has run without a pause.
    runs_since: BTreeMap<usize, Instant>,
    started: BTreeMap<usize, u64>,
    pub(super) wrong: Vec<String>,
}

/// Does it do less than a disk does, or fail more?
fn is_gray(disk: &DiskHandle) -> bool {
    let faults = disk.faults();
    disk.is_stalled() || faults.slow_percent > 100 || faults.stall_ppm > 0 || faults.read_error_ppm > 0
}

impl GrayWatch {
    /// Is it gray or aside, or was so a moment ago?
    fn is_ill(&self, machine: usize, disk: usize) -> bool {
        self.disks
            .get(&(machine, disk))
            .is_some_and(|known| known.aside_since.is_some() || known.gray_since.is_some())
    }

    fn say(&mut self, text: String) {
        if self.wrong.len() < 20 {
            self.wrong.push(text);
        }
    }

    /// What machines have told, and how their disks are now.
    pub(super) fn look(&mut self, now: Instant, machines: &[Machine], facts: &[Fact]) {
        for (number, machine) in machines.iter().enumerate() {
            self.look_at_process(now, number, machine);
        }
        for fact in facts {
            let machine = machines.iter().position(|machine| machine.handle.index() == fact.node);
            let is_it = |disk: &DiskHandle| layout::checksum::long(disk.name().as_bytes()) as u64 == fact.key;
            let of = machine.and_then(|of| Some((of, machines[of].disks.iter().position(is_it)?)));
            if let Some(of) = of {
                self.hear(of, fact, machines);
            }
        }
        for (number, machine) in machines.iter().enumerate() {
            for (place, disk) in machine.disks.iter().enumerate() {
                self.look_at(now, (number, place), disk, machine);
            }
        }
    }

    fn look_at_process(&mut self, now: Instant, number: usize, machine: &Machine) {
        if self.started.insert(number, machine.starts) != Some(machine.starts) {
            self.runs_since.remove(&number);
            // A new process knows nothing of what was aside.
            for (_, known) in self.disks.iter_mut().filter(|(of, _)| of.0 == number) {
                known.aside_since = None;
            }
        }
        let has_failed = machine.heard(|event| matches!(event, shard::node::Event::Failed(_)));
        if !machine.handle.is_running() || machine.handle.is_paused() || has_failed {
            self.runs_since.remove(&number);
        } else {
            self.runs_since.entry(number).or_insert(now);
        }
    }

    fn hear(&mut self, of: (usize, usize), fact: &Fact, machines: &[Machine]) {
        let at = Instant { ns: fact.value };
        let gray_now = is_gray(&machines[of.0].disks[of.1]);
        let known = self.disks.entry(of).or_default();
        let mut wrong = None;
        match fact.name {
            "a cold disk is set aside" => {
                let deserved = gray_now || known.gray_at.is_some_and(|gray| at.since(gray) <= AFTERWARDS);
                if !deserved {
                    wrong = Some("was set aside though it does all that it is asked");
                }
                (known.aside_since, known.changed_at) = (Some(at), Some(at));
            }
            "a cold disk is set back" => {
                // Not at the very beginning: what ended before then went well.
                let disk = &machines[of.0].disks[of.1];
                // One that hangs has ended nothing since it did: it may hang again since a moment ago.
                let well_at = if disk.is_stalled() { disk.last_completed() } else { Instant::default() };
                let is_hard = known
                    .hard_since
                    .is_some_and(|since| at.since(since.max(well_at)) > Duration::from_millis(600));
                if is_hard && is_gray_for_sure(disk) {
                    wrong = Some("was set back while it is gray");
                }
                (known.aside_since, known.changed_at) = (None, Some(at));
            }
            _ => {}
        }
        if let Some(what) = wrong {
            self.say(format!("node {} disk {} {what}", of.0 + 1, of.1));
        }
    }

    fn look_at(&mut self, now: Instant, of: (usize, usize), disk: &DiskHandle, machine: &Machine) {
        let runs_since = self.runs_since.get(&of.0).copied();
        let known = self.disks.entry(of).or_default();
        if is_gray(disk) {
            known.gray_at = Some(now);
            known.gray_since.get_or_insert(now);
        } else {
            (known.gray_since, known.asked_at) = (None, None);
        }
        if is_gray_for_sure(disk) {
            known.hard_since.get_or_insert(now);
        } else {
            known.hard_since = None;
        }
        let is_slow = disk.faults().slow_percent >= SLOW_PERCENT;
        // What was under way before that is done in the time of a disk that is well. A flush may take four times as long as a read, and some here take
        // no longer than that for all their slowness: a machine that is asked to keep places, and nothing else, notices nothing.
        let asked = |gray_since| disk.lone_read().is_some_and(|since| since > gray_since);
        if is_slow && runs_since.is_some() && known.gray_since.is_some_and(asked) {
            known.asked_at.get_or_insert(now);
        }
        if runs_since.is_none() || !is_slow {
            known.asked_at = None;
        }
        let known = *known;
        let Some(runs_since) = runs_since else { return };
        let longer = |since: Instant, most: Duration| now.since(since.max(runs_since)) > most;
        let name = format!("node {} disk {}", of.0 + 1, of.1);
        match known.aside_since {
            None => {
                let gets_on = now.since(disk.last_completed()) < ASIDE_WITHIN / 2;
                let hangs = disk.oldest_in_flight().filter(|since| longer(*since, ASIDE_WITHIN));
                if let Some(since) = hangs.filter(|_| !gets_on) {
                    self.say(format!("{name} hangs for {:?}, and is not set aside", now.since(since)));
                }
                if known.asked_at.is_some_and(|since| longer(since, ASIDE_WITHIN)) {
                    self.say(format!("{name} is slow, and is not set aside within {ASIDE_WITHIN:?}"));
                }
            }
            Some(since) => {
                let well_since = known.gray_at.unwrap_or(since).max(since);
                let has_failed = disk.faults().write_error_ppm > 0 || machine.damaged[of.1];
                if !is_gray(disk) && !has_failed && longer(well_since, BACK_WITHIN) {
                    self.say(format!("{name} is well for {:?}, and is not set back", now.since(well_since)));
                }
            }
        }
    }
}

/// It cannot be well by chance, as one may be that stalls now and then.
fn is_gray_for_sure(disk: &DiskHandle) -> bool {
    let faults = disk.faults();
    disk.is_stalled() || faults.slow_percent >= SLOW_PERCENT || faults.read_error_ppm >= 1_000_000
}

/// A stroke that lasts.
pub(super) struct Stroke {
    machine: usize,
    disk: usize,
    until: Instant,
}

impl Stage {
    /// Something makes a disk gray.
    pub(super) fn begin_gray(&mut self, random: &mut Random, machine: usize) {
        let disk = random.index(self.machines[machine].disks.len());
        let handle = self.machines[machine].disks[disk];
        let lasts = Duration::from_millis(1_000 + random.below(7_000));
        match random.below(5) {
            0 | 1 => handle.stall(lasts),
            2 | 3 => handle.set_faults(DiskFaults { slow_percent: SLOW_PERCENT, ..DiskFaults::default() }),
            _ => handle.set_faults(DiskFaults { read_error_ppm: 1_000_000, ..DiskFaults::default() }),
        }
        self.strokes.push(Stroke { machine, disk, until: self.world.now().after(lasts) });
    }

    /// What lasts no longer ends.
    pub(super) fn end_gray(&mut self) {
        let now = self.world.now();
        let (over, rest) =
            std::mem::take(&mut self.strokes).into_iter().partition(|stroke: &Stroke| stroke.until <= now);
        self.strokes = rest;
        for Stroke { machine, disk, .. } in over {
            self.machines[machine].disks[disk].set_faults(DiskFaults::default());
        }
    }

    /// In worlds where nothing else goes wrong: one disk after the other, one at a time.
    pub(super) fn gray_trouble(&mut self, random: &mut Random) {
        let ill = (0..NODES).any(|machine| {
            let disks = &self.machines[machine].disks;
            (0..disks.len()).any(|disk| self.gray.is_ill(machine, disk) || disks[disk].starves(STARVED))
        });
        if ill || self.nodes.is_any_ill(self.world.now()) || !random.chance(60_000) {
            return;
        }
        let machine = random.index(NODES);
        if random.chance(250_000) {
            // One operation is overtaken by others: the disk itself gets on.
            let disk = random.index(self.machines[machine].disks.len());
            return self.machines[machine].disks[disk]
                .starve_next(Duration::from_millis(2_300 + random.below(500)));
        }
        self.begin_gray(random, machine);
    }

    /// Look at all disks, and tell the clients which ones are ill.
    pub(super) fn look_at_disks(&mut self) {
        let (now, facts) = (self.world.now(), self.world.take_facts());
        self.gray.look(now, &self.machines, &facts);
        for machine in 0..NODES {
            for disk in 0..self.machines[machine].disks.len() {
                if self.gray.is_ill(machine, disk) || self.machines[machine].disks[disk].starves(STARVED) {
                    self.nodes.note_ill((machine, disk), now);
                }
            }
        }
    }
}
