//! What happens to the disks of a group, beyond errors that pass: one dies and a new one takes its place, a journal is lost or rots,
//! two are swapped, an old image is brought back. And who mends it.
//!
//! Owns the atlas: what a group must survive, whatever else goes on. Fewer than a majority's number of nodes may be without their
//! memory at once, counted until each of their tablets votes again; an old image only where everybody else has met a later life, and no disk
//! in its first life while one is there: it would take the old one for the right one, and refuse that when it is back. Without
//! the atlas (mode `cluster-unsafe`) anything may happen to anybody, and only what was chosen must stay so.

use super::plan::Plan;
use super::scene::Scene;
use crate::sim::scene::{formatted, superblock};
use ioengine::Instant;
use ioengine::marks::Fact;
use ioengine::sim::{DiskImage, Random};
use layout::superblock::Superblock;
use layout::superblock_peers::PeerDisk;
use layout::units::BLOCK_BYTES;
use layout::zone::Range;
use std::collections::BTreeMap;
use std::time::Duration;

/// How long the wrong disk stays.
const WRONG_MAX: Duration = Duration::from_secs(5);

/// What is the matter with a node's disk.
#[derive(Clone, Debug)]
enum Harm {
    /// Its memory, or a part of it, is gone: over when each of its tablets votes.
    Amnesia { since: Instant },
    /// It has an old image, and its own is here.
    Old { own: DiskImage, until: Instant },
    /// It has the disk of that node.
    Swapped { with: usize, until: Instant },
}

pub(super) struct Disks<'a> {
    plan: &'a Plan,
    random: Random,
    next: Option<Instant>,
    harms: Vec<Option<Harm>>,
    /// An image of an earlier moment of each.
    kept: Vec<Option<DiskImage>>,
    /// By node and tablet: does the replica of the last process vote?
    voters: BTreeMap<(usize, u64), bool>,
    /// All facts so far.
    pub(super) facts: Vec<Fact>,
    format_count: u64,
    /// By node: where the sealed tables of its last process lie, and how much of them in one piece.
    sealed: BTreeMap<usize, (u32, BTreeMap<u64, u64>)>,
    /// Draws what rots of sealed tables.
    rot: Random,
}

impl<'a> Disks<'a> {
    pub(super) fn new(plan: &'a Plan, now: Instant) -> Disks<'a> {
        let random = Random::new(plan.seed).fork(plan.mode.name(), 0).fork("disks", 0);
        Disks {
            plan,
            random,
            next: plan.disk_trouble_every.map(|every| now.after(every)),
            harms: vec![None; plan.stores.len()],
            kept: vec![None; plan.stores.len()],
            voters: BTreeMap::new(),
            facts: Vec::new(),
            format_count: 0,
            sealed: BTreeMap::new(),
            rot: Random::new(plan.seed).fork(plan.mode.name(), 0).fork("sealed tables rot", 0),
        }
    }

    /// No more trouble from here on; what is wrong is mended at once.
    pub(super) fn end_all(&mut self, scene: &Scene) {
        self.next = None;
        for store in 0..self.harms.len() {
            self.undo(scene, store);
        }
    }

    /// Is every disk the right one, and whole?
    pub(super) fn are_well(&self) -> bool {
        self.harms.iter().all(Option::is_none)
    }

    /// Nodes that are not well, each with its tablets that do not vote.
    pub(super) fn harmed(&self, scene: &Scene) -> Vec<(usize, Vec<u64>)> {
        let harmed = (0..self.harms.len()).filter(|&store| self.harms[store].is_some());
        harmed.map(|store| (store, self.learners(scene, store).collect())).collect()
    }

    /// Look at what nodes have told, mend what is due, do what is due.
    pub(super) fn turn(&mut self, scene: &Scene, now: Instant) {
        self.hear(scene);
        for store in 0..self.harms.len() {
            match &self.harms[store] {
                Some(Harm::Old { until, .. } | Harm::Swapped { until, .. }) if *until <= now => {
                    self.undo(scene, store);
                }
                Some(Harm::Amnesia { since }) if self.votes(scene, store) && *since < now => {
                    self.harms[store] = None;
                }
                _ => {}
            }
        }
        let every = self.plan.disk_trouble_every.map_or(0, |every| every.as_nanos() as u64);
        if self.next.is_some_and(|next| next <= now) {
            self.next = Some(now.after(Duration::from_nanos(every / 2 + self.random.below(every))));
            self.begin(scene, now);
        }
    }

    fn hear(&mut self, scene: &Scene) {
        for fact in scene.world.take_facts() {
            if fact.name == "voter" {
                self.voters.insert((fact.node as usize, fact.key), fact.value != 0);
            }
            if fact.name == "sealed table" {
                let (process, tables) = self.sealed.entry(fact.node as usize).or_default();
                if std::mem::replace(process, fact.process) != fact.process {
                    tables.clear();
                }
                tables.remove(&fact.key);
                if fact.value > 0 {
                    tables.insert(fact.key, fact.value);
                }
            }
            self.facts.push(fact);
        }
    }

    /// Tablets of a node that have not said that they vote since its disk was harmed. Each has to: cores start one after the other, and
    /// the first to speak may have lost nothing.
    fn learners<'b>(&'b self, scene: &'b Scene, store: usize) -> impl Iterator<Item = u64> + 'b {
        let held = (0u64..).zip(scene.orders.iter()).filter(move |(_, order)| order.contains(&store));
        held.map(|(tablet, _)| tablet).filter(move |&tablet| self.voters.get(&(store, tablet)) != Some(&true))
    }

    fn votes(&self, scene: &Scene, store: usize) -> bool {
        scene.stores[store].node.is_running() && self.learners(scene, store).next().is_none()
    }

    /// One more node may lose its memory.
    fn allows(&self, store: usize) -> bool {
        let harmed = self.harms.iter().flatten().count();
        self.harms[store].is_none() && (!self.plan.is_safe() || harmed < usize::from(self.plan.replicas / 2))
    }

    fn begin(&mut self, scene: &Scene, now: Instant) {
        let store = self.random.index(self.harms.len());
        // Also those without trouble are kept: the image is brought back later.
        if self.kept[store].is_none() || self.random.chance(300_000) {
            self.kept[store] = Some(scene.stores[store].disk.snapshot());
        }
        if !self.allows(store) {
            return;
        }
        match self.random.below(5) {
            0 => self.replace(scene, store, now),
            1 => self.lose_journal(scene, store, now),
            2 => self.rot(scene, store, now),
            3 => self.swap(scene, store, now),
            _ => self.roll_back(scene, store, now),
        }
    }

    /// The disk dies, and a new one takes its place.
    fn replace(&mut self, scene: &Scene, store: usize, now: Instant) {
        let is_old = |harm: &Harm| matches!(harm, Harm::Old { .. });
        if self.plan.is_safe() && self.harms.iter().flatten().any(is_old) {
            return;
        }
        self.format_count += 1;
        let seed = Random::new(self.plan.seed).fork("format again", self.format_count).bits();
        let image = formatted(seed, &self.plan.disk, self.plan.format_plan(store, true));
        scene.stores[store].node.power_cut();
        scene.stores[store].disk.restore(&image);
        self.harm(store, now);
        self.rot_sealed(scene, store);
    }

    /// Sectors of sealed tables of another node rot, where the one that was replaced takes them from. Always the same node's, and of five
    /// only: of three replicas the one that is left whole may be behind, and what it lacks is nowhere to be had.
    fn rot_sealed(&mut self, scene: &Scene, replaced: usize) {
        let store = usize::try_from(self.plan.seed / 4).expect("a seed is small") % self.harms.len();
        let Some((_, tables)) = self.sealed.get(&store).filter(|_| store != replaced) else { return };
        // Of one that has ended nobody knows what its last edit was.
        if self.plan.replicas < 5
            || tables.is_empty()
            || !scene.stores[store].node.is_running()
            || self.rot.coin()
        {
            return;
        }
        let tables: Vec<(u64, u64)> = tables.iter().map(|(at, bytes)| (*at, *bytes)).collect();
        for _ in 0..1 + self.rot.below(8) {
            let &(at, bytes) = self.rot.pick(&tables);
            scene.stores[store].disk.rot(at + self.rot.below(bytes));
        }
    }

    /// The node may have lost some of its memory: until it has said otherwise.
    pub(super) fn harm(&mut self, store: usize, now: Instant) {
        self.kept[store] = None;
        self.voters.retain(|(of, _), _| *of != store);
        self.harms[store] = Some(Harm::Amnesia { since: now });
    }

    /// Zeros where a journal was.
    fn lose_journal(&mut self, scene: &Scene, store: usize, now: Instant) {
        let Some(found) = known(scene, store) else { return };
        scene.stores[store].node.power_cut();
        let shard = self.random.index(found.shard_zones().len());
        let zone = found.shard_zones()[shard].journal;
        scene.stores[store].disk.overwrite(zone.offset.0, &vec![0; zone.bytes as usize]);
        self.harm(store, now);
    }

    /// Sectors of a journal that was written to.
    fn rot(&mut self, scene: &Scene, store: usize, now: Instant) {
        let Some(found) = known(scene, store) else { return };
        scene.stores[store].node.power_cut();
        let shard = self.random.index(found.shard_zones().len());
        let written = written(scene, store, found.shard_zones()[shard].journal);
        for _ in 0..1 + self.random.below(4) {
            if !written.is_empty() {
                scene.stores[store].disk.rot(*self.random.pick(&written));
            }
        }
        self.harm(store, now);
    }

    /// Every so manieth block of each journal rots, at other places on each node.
    pub(super) fn helix(&mut self, scene: &Scene) {
        for store in 0..self.harms.len() {
            let Some(found) = known(scene, store) else { continue };
            for zones in found.shard_zones() {
                let written = written(scene, store, zones.journal);
                let nth = |at: &u64| at / BLOCK_BYTES as u64 % self.harms.len() as u64 == store as u64;
                written.into_iter().filter(nth).for_each(|at| scene.stores[store].disk.rot(at));
            }
        }
    }

    fn swap(&mut self, scene: &Scene, store: usize, now: Instant) {
        let with = self.random.index(self.harms.len());
        let same = self.plan.stores[with].core_count == self.plan.stores[store].core_count;
        // Where all hold the same, a client that comes to the wrong node is served there.
        let hold_the_same = self.harms.len() == usize::from(self.plan.replicas);
        if with == store || self.harms[with].is_some() || !same || !hold_the_same {
            return;
        }
        self.exchange(scene, store, with);
        let until = now.after(Duration::from_nanos(self.random.below(WRONG_MAX.as_nanos() as u64)));
        self.harms[store] = Some(Harm::Swapped { with, until });
        self.harms[with] = Some(Harm::Swapped { with: store, until });
    }

    fn exchange(&self, scene: &Scene, one: usize, other: usize) {
        scene.stores[one].node.power_cut();
        scene.stores[other].node.power_cut();
        scene.stores[one].disk.swap(&scene.stores[other].disk);
    }

    /// An old image is brought back, of which all others can know: they have met a later life.
    fn roll_back(&mut self, scene: &Scene, store: usize, now: Instant) {
        let Some(old) = self.kept[store].take() else { return };
        // One that has not been born yet is as good as a new one.
        let then = superblock(&old).filter(|then| !then.origin.is_unborn());
        let (Some(then), Some(own)) = (then, known(scene, store)) else { return };
        let node = own.node;
        let know = |other: usize| {
            other == store
                || known(scene, other).is_some_and(|other| {
                    let later = |peer: &PeerDisk| {
                        peer.node == node && peer.device == then.device && peer.incarnation > then.incarnation
                    };
                    other.peers.iter().any(later)
                })
        };
        let is_seen = then.device == own.device && (0..self.harms.len()).all(know) && self.are_well();
        if !is_seen {
            return;
        }
        scene.stores[store].node.power_cut();
        let own = scene.stores[store].disk.snapshot();
        scene.stores[store].disk.restore(&old);
        let until = now.after(Duration::from_nanos(self.random.below(WRONG_MAX.as_nanos() as u64)));
        self.harms[store] = Some(Harm::Old { own, until });
    }

    /// The right disk comes back.
    fn undo(&mut self, scene: &Scene, store: usize) {
        match self.harms[store].take() {
            Some(Harm::Old { own, .. }) => {
                scene.stores[store].node.power_cut();
                scene.stores[store].disk.restore(&own);
            }
            Some(Harm::Swapped { with, .. }) => {
                self.exchange(scene, store, with);
                self.harms[with] = None;
            }
            harm => self.harms[store] = harm,
        }
    }
}

/// Blocks of a journal that were ever written.
fn written(scene: &Scene, store: usize, zone: Range) -> Vec<u64> {
    let image = scene.stores[store].disk.snapshot();
    let blocks = (0..zone.bytes / BLOCK_BYTES as u64).map(|block| zone.offset.0 + block * BLOCK_BYTES as u64);
    // Format writes zeros.
    blocks.filter(|&at| image.get(at, BLOCK_BYTES).iter().any(|byte| *byte != 0)).collect()
}

/// The superblock of a node's disk, if the disk is not waiting for its first start.
fn known(scene: &Scene, store: usize) -> Option<Superblock> {
    superblock(&scene.stores[store].disk.snapshot()).filter(|found| !found.origin.is_unborn())
}
