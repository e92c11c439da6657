//! A disk of one machine is lost, and a new one takes its place while everything goes on: what it is filled with, and that it ends.
//!
//! Must never lose the last good copy: what the lost disk held is whole on one of the two others. Invariant: when the new disk says that it is filled,
//! its medium holds every byte of all that is known, before anybody has read any of it.

use super::driver::{Driver, Known};
use super::{Machine, NODES, PEACE, Stage};
use ioengine::Instant;
use ioengine::sim::{DiskFaults, Random};
use shard::node::Event;
use std::rc::Rc;
use std::time::Duration;

/// Within this, once all else is done at peace, the new disk is filled.
const REBUILT: Duration = Duration::from_secs(120);
/// Between two sweeps of what is reserved for nobody.
const SWEEP: Duration = Duration::from_secs(5);

/// Which disk is lost, and when.
pub(super) struct Lost {
    machine: usize,
    disk: usize,
    /// When it is lost, and lost again.
    at: Vec<Instant>,
    /// It was lost, and is the new one.
    is_new: bool,
    /// It was filled: it decays as the others do.
    is_filled: bool,
    sweep_at: Instant,
}

impl Lost {
    /// What is lost in the world of a seed.
    pub(super) fn of(seed: u64, random: &Random, (lies, disk_count): (bool, usize)) -> Option<Lost> {
        if seed % 7 != 3 && seed / 1_000 % 10 != 7 {
            return None;
        }
        let mut random = random.fork("lost", 0);
        // Of a machine that lies nothing can be asked.
        let machine = if lies { 1 + random.index(NODES - 1) } else { random.index(NODES) };
        let mut at = vec![Instant { ns: 1_000_000_000 * (4 + random.below(24)) }];
        if random.chance(300_000) {
            let again = at[0].after(Duration::from_millis(50 << random.below(8)));
            at.insert(0, again);
        }
        let disk = random.index(disk_count);
        Some(Lost { machine, disk, at, is_new: false, is_filled: false, sweep_at: Instant { ns: 0 } })
    }

    /// Is the disk that is lost one of this number?
    pub(super) fn is_of(&self, disk: usize) -> bool {
        self.disk == disk
    }
}

impl Stage {
    pub(super) fn is_lost(&self, machine: usize, disk: usize) -> bool {
        self.lost.as_ref().is_some_and(|lost| !lost.is_filled && (lost.machine, lost.disk) == (machine, disk))
    }

    /// Of a disk that is lost on one machine each file is whole on one of the others; on the new one nothing decays until it is filled.
    pub(super) fn may_decay_beside_a_lost_one(&self, machine: usize, disk: u64, file: u32) -> Option<bool> {
        let lost = self.lost.as_ref().filter(|lost| lost.disk as u64 == disk)?;
        let whole: Vec<usize> =
            (0..NODES).filter(|one| *one != lost.machine && !(self.lies && *one == 0)).collect();
        let kept = whole[(u64::from(file) + disk) as usize % whole.len()];
        Some(machine != kept && !self.is_lost(machine, disk as usize))
    }

    /// Its time has come: a blank disk stands in its place.
    pub(super) fn lose_if_due(&mut self) {
        let now = self.world.now();
        let Some(lost) = self.lost.as_mut() else { return };
        if lost.at.last().is_none_or(|at| now < *at) {
            return;
        }
        lost.at.pop();
        if lost.is_new {
            ioengine::sometimes!("a disk is lost again");
        }
        lost.is_new = true;
        let (machine, disk) = (lost.machine, lost.disk);
        let machine: &mut Machine = &mut self.machines[machine];
        if machine.handle.is_paused() {
            machine.handle.resume();
        }
        machine.handle.kill();
        machine.events.lock().expect("no panic with it").clear();
        machine.disks[disk].set_faults(DiskFaults::default());
        machine.disks[disk].wipe();
        machine.format(&self.world, disk as u16, true);
        self.nodes.losses.set(self.nodes.losses.get() + 1);
        self.nodes.count("lost");
    }

    /// What is reserved for nobody is given up, once no client begins anything any more: a request that came late keeps a place for ever, and what is
    /// not decided is waited for.
    pub(super) fn sweep_if_due(&mut self, drivers: &[Rc<Driver>]) {
        let now = self.world.now();
        let Some(lost) = self.lost.as_mut() else { return };
        if now < lost.sweep_at || !drivers.iter().all(|driver| driver.settles.get()) {
            return;
        }
        lost.sweep_at = now.after(SWEEP);
        let disk = lost.disk as u16;
        let serves = |node: &usize| self.machines[*node].heard(|event| matches!(event, Event::Serving(_)));
        for node in (0..NODES).filter(serves).collect::<Vec<_>>() {
            let nodes = Rc::clone(&self.nodes);
            self.world.block_on(
                &self.clients,
                PEACE,
                move |io| async move { nodes.sweep(&io, node, disk).await },
            );
        }
    }

    /// The new disk is filled before long, and holds what the others do.
    pub(super) fn await_rebuilt(&mut self) {
        let Some((number, disk)) =
            self.lost.as_ref().filter(|lost| lost.is_new).map(|lost| (lost.machine, lost.disk))
        else {
            return;
        };
        let until = self.world.now().after(REBUILT);
        loop {
            let nodes = Rc::clone(&self.nodes);
            let status = self
                .world
                .block_on(&self.clients, PEACE, move |io| async move { nodes.status(&io, number).await });
            let counters = status.map(|status| status["disks"][disk.to_string()]["counters"].clone());
            let of = |name: &str| counters.as_ref().and_then(|all| all[name].as_u64());
            if of("rebuilding") == Some(0) {
                break;
            }
            if self.world.now() >= until {
                let text = format!(
                    "the new disk {disk} of node {} is not filled {REBUILT:?} after all trouble: {counters:?}",
                    number + 1
                );
                return self.wrong.push(text);
            }
            self.mend(true);
            self.sweep_if_due(&[]);
            self.world.run_for(Duration::from_millis(200));
        }
        let (geometry, image) = (self.geometry(disk), self.machines[number].disks[disk].snapshot());
        let differs = |known: &Known| {
            let at = geometry.file_offset(known.place.file).0 + u64::from(known.place.offset);
            image.get(at, known.place.content_bytes as usize) != known.bytes()
        };
        if let Some(known) = self.nodes.known_on(disk as u16).into_iter().find(differs) {
            let place = known.place;
            self.wrong.push(format!(
                "node {}: the new disk {disk} is filled, and has other bytes for {place:?}",
                number + 1
            ));
        }
        if let Some(lost) = self.lost.as_mut() {
            lost.is_filled = true;
        }
    }
}
