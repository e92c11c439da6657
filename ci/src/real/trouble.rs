//! What goes wrong, drawn from a seed: processes are killed, alone, a minority of them or all at once; they stand still; they are
//! drained; nodes are cut off from each other, one way or both; disks are damaged, rolled back or lost while their node is down.
//!
//! Must never leave a node down for good: each trouble carries the moment of its end. The draws are those of the seed, the
//! moments are those of the machine.

use super::caches::CacheTrouble;
use super::colds::ColdTrouble;
use super::disks::{self, Disks};
use super::scene::{LOOK, Scene};
use super::{Options, RealError, Report};
use crate::sim::client::Client;
use crate::sim::history::Violation;
use ioengine::sim::Random;
use ioengine::{Instant, Io};
use std::os::unix::process::ExitStatusExt as _;
use std::time::Duration;

/// What ends a trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Start(usize),
    Resume(usize),
    Heal,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    Kill,
    KillMinority,
    KillAll,
    Pause,
    Drain,
    Split,
    OneWay,
    Disk,
}

/// Each with its weight.
const TROUBLES: [(Trouble, u64); 8] = [
    (Trouble::Kill, 5),
    (Trouble::KillMinority, 1),
    (Trouble::KillAll, 1),
    (Trouble::Pause, 3),
    (Trouble::Drain, 1),
    (Trouble::Split, 3),
    (Trouble::OneWay, 2),
    (Trouble::Disk, 6),
];

pub(super) struct Nemesis {
    io: Io,
    random: Random,
    life: Duration,
    damage: bool,
    /// Whether there are caches, and so no ways that can be cut.
    has_caches: bool,
    due: Vec<(Instant, Step)>,
    pub(super) disks: Disks,
    caches: CacheTrouble,
    colds: ColdTrouble,
}

/// How often disks are looked after.
const TURN: Duration = Duration::from_millis(200);

impl Nemesis {
    pub(super) fn new(io: &Io, options: &Options, random: Random) -> Nemesis {
        let disks = Disks::new(io, random.fork("disks", 0));
        let caches = CacheTrouble::new(io, random.fork("caches", 0));
        let colds = ColdTrouble::new(io, random.fork("colds", 0));
        let Options { life, damage, .. } = *options;
        let has_caches = options.caches > 0;
        Nemesis { io: io.clone(), random, life, damage, has_caches, due: Vec::new(), disks, caches, colds }
    }

    fn ms(&mut self, range: std::ops::Range<u64>) -> Duration {
        Duration::from_millis(self.random.within(&range))
    }

    fn later(&mut self, wait: Duration, step: Step) {
        self.due.push((self.io.now().after(wait), step));
    }

    /// Trouble after trouble, until life is over.
    pub(super) async fn rage(
        &mut self,
        scene: &mut Scene,
        client: &Client,
        report: &mut Report,
    ) -> Result<(), RealError> {
        let end = self.io.now().after(self.life);
        let mut next = self.io.now().after(self.ms(500..1_500));
        let mut turn = self.io.now();
        while self.io.now() < end {
            self.io.sleep(LOOK).await;
            watch(scene, report)?;
            self.take_due(scene)?;
            self.caches.turn(scene, report).await?;
            self.colds.turn(scene, report)?;
            if self.damage && self.io.now() >= turn {
                self.disks.turn(scene, client, &mut report.violations).await?;
                turn = self.io.now().after(TURN);
            }
            if self.io.now() >= next {
                self.strike(scene, report).await?;
                let calm = if self.has_caches { 2 } else { 1 };
                next = self.io.now().after(self.ms(300..3_000) * calm);
            }
        }
        Ok(())
    }

    fn take_due(&mut self, scene: &mut Scene) -> Result<(), RealError> {
        let now = self.io.now();
        let (due, later) = self.due.drain(..).partition(|(at, _)| *at <= now);
        self.due = later;
        let due: Vec<(Instant, Step)> = due;
        for (at, step) in due {
            match step {
                Step::Start(node) if scene.nodes[node].process.is_none() => scene.start(node)?,
                // Killed and started by another trouble meanwhile.
                Step::Start(_) => {}
                Step::Resume(node) => scene.resume(node),
                Step::Heal => {
                    let newest = self.due.iter().any(|(later, step)| *step == Step::Heal && *later > at);
                    if !newest {
                        scene.cuts.heal(self.random.coin());
                    }
                }
            }
        }
        Ok(())
    }

    fn draw(&mut self) -> Trouble {
        let fits = |trouble: Trouble| match trouble {
            Trouble::Disk => self.damage,
            Trouble::Split | Trouble::OneWay => !self.has_caches,
            _ => true,
        };
        let all: Vec<(Trouble, u64)> = TROUBLES.into_iter().filter(|one| fits(one.0)).collect();
        let mut left = self.random.below(all.iter().map(|one| one.1).sum());
        for (trouble, weight) in all {
            if left < weight {
                return trouble;
            }
            left -= weight;
        }
        Trouble::Kill
    }

    async fn strike(&mut self, scene: &mut Scene, report: &mut Report) -> Result<(), RealError> {
        let count = scene.nodes.len();
        let trouble = self.draw();
        let first = self.random.index(count);
        let name = match trouble {
            Trouble::Kill => {
                self.kill(scene, &[first])?;
                "kill one"
            }
            Trouble::KillMinority => {
                let minority: Vec<usize> = (0..(count - 1) / 2).map(|more| (first + more) % count).collect();
                self.kill(scene, &minority)?;
                "kill a minority"
            }
            Trouble::KillAll => {
                let all: Vec<usize> = (0..count).collect();
                self.kill(scene, &all)?;
                "kill all"
            }
            Trouble::Pause => {
                scene.pause(first);
                // Mostly short, sometimes longer than anybody is patient.
                let wait = self.ms(100..200) * (1 << self.random.below(6)) as u32;
                self.later(wait, Step::Resume(first));
                "stand still"
            }
            Trouble::Drain => {
                scene.drain(first);
                "drain"
            }
            Trouble::Split | Trouble::OneWay => self.cut(scene, trouble == Trouble::OneWay),
            Trouble::Disk => self.harm(scene, report).await?,
        };
        *report.troubles.entry(name).or_insert(0) += 1;
        Ok(())
    }

    fn kill(&mut self, scene: &mut Scene, nodes: &[usize]) -> Result<(), RealError> {
        // Memory that outlives a process tells of a tail that the disk lost; without it nothing may be missing, either.
        let forget = self.random.chance(300_000);
        for &node in nodes {
            let was_up = scene.nodes[node].process.is_some();
            scene.nodes[node].kill();
            if forget && was_up && scene.rotten & 1 << node == 0 {
                let memory = &scene.nodes[node].memory;
                std::fs::remove_dir_all(memory).map_err(RealError::io(format!("{}", memory.display())))?;
            }
            let wait = self.ms(0..3_000);
            self.later(wait, Step::Start(node));
        }
        Ok(())
    }

    /// Some nodes do not hear others.
    fn cut(&mut self, scene: &Scene, one_way: bool) -> &'static str {
        let count = scene.nodes.len();
        // At least one on each side.
        let side = 1 + self.random.below((1 << count) - 2);
        for from in 0..count {
            for to in 0..count {
                let (here, there) = (side >> from & 1, side >> to & 1);
                if here == 1 && there == 0 || !one_way && here == 0 && there == 1 {
                    scene.cuts.set(from, to, true);
                }
            }
        }
        let wait = self.ms(200..6_000);
        self.later(wait, Step::Heal);
        if one_way { "cut one way" } else { "cut both ways" }
    }

    /// Something happens to the disk of a node, which starts again.
    async fn harm(&mut self, scene: &mut Scene, report: &mut Report) -> Result<&'static str, RealError> {
        let Some((node, name, what)) = self.disks.strike(scene).await? else {
            return Ok("leave a harmed disk alone");
        };
        report.story.push(format!("node {}: {name} {what}", node + 1));
        let wait = self.ms(0..1_000);
        self.later(wait, Step::Start(node));
        Ok(name)
    }
}

/// Who has ended: after a drain as it should; a harmed disk may be refused, and is mended; else something is wrong.
pub(super) fn watch(scene: &mut Scene, report: &mut Report) -> Result<(), RealError> {
    for node in 0..scene.nodes.len() {
        let Some(status) = scene.nodes[node].process.as_mut().and_then(super::process::Process::ended) else {
            continue;
        };
        let one = &mut scene.nodes[node];
        one.process = None;
        let drained = std::mem::take(&mut one.draining) && status.code() == Some(0);
        let mended = if matches!(status.code(), Some(2 | 3)) { disks::refused(scene, node)? } else { None };
        let one = &scene.nodes[node];
        if let Some(what) = mended {
            *report.troubles.entry(what).or_insert(0) += 1;
        } else if !drained {
            let (code, signal) = (status.code(), status.signal());
            let text = format!(
                "node {} ended by itself, code {code:?}, signal {signal:?}, see {}",
                node + 1,
                one.log.display()
            );
            report.violations.push(Violation { checker: "run", text });
        }
        scene.start(node)?;
    }
    Ok(())
}
