//! Which disk each other node of the group has, as this node has met it: who comes with another one, or with an older state of
//! it, is refused, because it may have forgotten what it has promised.
//!
//! Owns the rule, and what is remembered of the others, which stands in the superblock. Must never let anything of a node be used before
//! its disk and its life are durably remembered. Invariant: what is known here is on the disk.
//!
//! The failing history: C votes, its disk is swapped for one formatted anew as a founder's; it votes again, as if it never had. With
//! A it chose one value, with B it chooses another. What this cannot see stands in decision 0043.

use crate::core::Shard;
use crate::format::{self, FormatError};
use layout::superblock_peers::{Origin, PeerDisk, PeerDisks};
use layout::units::Incarnation;
use net::peer::{Introduction, Refusal};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};

/// What becomes of who was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meeting {
    /// It is who it was.
    Known,
    /// Its life, or its disk, is a new one: to be remembered first.
    New,
    /// Nothing of it is used.
    Refused(Refusal),
}

/// The rule: `known` is what is remembered of the node, `comes` what it says now.
pub(crate) fn judge(known: Option<&PeerDisk>, comes: &Introduction) -> Meeting {
    if comes.origin.is_unborn() {
        return Meeting::Refused(Refusal::Unborn);
    }
    let Some(known) = known else { return Meeting::New };
    if ioengine::canary("forget_peer_disk") {
        return Meeting::Known;
    }
    if known.device != comes.device {
        return match comes.origin {
            Origin::Recovered { birth } if birth > known.incarnation => Meeting::New,
            // One that was in use before another took its place is as bad as a founder's second.
            Origin::Founder | Origin::Recovered { .. } => Meeting::Refused(Refusal::Disk),
        };
    }
    if comes.incarnation < known.incarnation {
        return Meeting::Refused(Refusal::RolledBack);
    }
    // Of lives long ago it has no names.
    match comes.lives.of(known.incarnation, comes.incarnation) {
        Some(life) if life != known.life => Meeting::Refused(Refusal::RolledBack),
        _ if comes.incarnation == known.incarnation => Meeting::Known,
        _ => Meeting::New,
    }
}

/// What is known of the others' disks. Shared by the cores.
pub(crate) struct Disks {
    /// What this node says of itself.
    introduction: Introduction,
    known: Mutex<PeerDisks>,
    /// The superblock is being written.
    writing: AtomicBool,
}

/// The right to write the superblock: one at a time, whatever the core.
pub(crate) struct Claim<'a>(&'a AtomicBool);

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        // Release: who claims it next sees what was written.
        self.0.store(false, Ordering::Release);
    }
}

impl Disks {
    /// As the superblock in force says.
    pub(crate) fn new(introduction: Introduction, known: PeerDisks) -> Disks {
        Disks { introduction, known: Mutex::new(known), writing: AtomicBool::new(false) }
    }

    /// What this node says of itself.
    pub(crate) fn introduction(&self) -> Introduction {
        self.introduction
    }

    fn all(&self) -> MutexGuard<'_, PeerDisks> {
        self.known.lock().expect("nothing panics while holding it")
    }

    fn of(&self, node: u32) -> Option<PeerDisk> {
        self.all().iter().find(|peer| peer.node == node).copied()
    }

    /// The highest incarnation of a node that was met; 0 = none.
    pub(crate) fn highest(&self, node: u32) -> Incarnation {
        self.of(node).map_or(Incarnation(0), |peer| peer.incarnation)
    }

    /// May the superblock be written? Nobody else does until the answer is dropped.
    pub(crate) fn claim(&self) -> Option<Claim<'_>> {
        // Acquire: what the last one wrote is seen.
        let is_free =
            self.writing.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok();
        is_free.then(|| Claim(&self.writing))
    }
}

/// A node says who it is: what becomes of it, and a start of remembering it where that is needed. `None`: it is taken.
pub(crate) fn meet(shard: &Rc<Shard>, node: u32, comes: &Introduction) -> Option<Refusal> {
    let disks = &shard.facts.disks;
    match judge(disks.of(node).as_ref(), comes) {
        Meeting::Known => None,
        Meeting::Refused(refusal) => Some(refusal),
        Meeting::New => {
            let (shard, comes) = (Rc::clone(shard), *comes);
            shard.clone().io.spawn(ioengine::Queue::Foreground, async move {
                if let Err(error) = remember(&shard, node, &comes).await {
                    tracing::error!(%error, node, "which disk another node has cannot be written down");
                }
            });
            Some(Refusal::NotYet)
        }
    }
}

/// Write down which disk a node has, then know it.
async fn remember(shard: &Rc<Shard>, node: u32, comes: &Introduction) -> Result<(), FormatError> {
    let disks = &shard.facts.disks;
    // Somebody else writes: who was met comes again.
    let Some(_claim) = disks.claim() else { return Ok(()) };
    if judge(disks.of(node).as_ref(), comes) != Meeting::New {
        return Ok(());
    }
    let life = comes.lives.of(comes.incarnation, comes.incarnation).expect("the last life has a name");
    let peer = PeerDisk { node, incarnation: comes.incarnation, life, device: comes.device };
    let group = &shard.facts.group;
    let is_peer = |node: u32| group.peers().iter().any(|peer| peer.node == node);
    let written = format::update(&shard.io, shard.keeper.zone.disk(), |superblock| {
        let peers = &superblock.peers;
        let place = peers.iter().position(|peer| peer.node == node);
        // A place of somebody who has left the group is free as well.
        let place = place.or_else(|| peers.iter().position(|peer| !is_peer(peer.node)));
        superblock.peers[place.expect("there are more places than other nodes")] = peer;
    });
    let written = written.await?;
    *disks.all() = written.peers;
    ioengine::sometimes!("the disk of another node is remembered");
    tracing::info!(node, device = %peer.device, incarnation = peer.incarnation.0, "the disk of another node is remembered");
    super::maps::met_anew(shard, node);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use layout::superblock_peers::Lives;
    use layout::units::Uuid;

    fn known() -> PeerDisk {
        PeerDisk { node: 2, incarnation: Incarnation(40), life: 400, device: Uuid([1; 16]) }
    }

    /// A disk whose life i is named 10 i.
    fn comes(device: u8, origin: Origin, incarnation: u32) -> Introduction {
        let mut lives = Lives::default();
        (1..=incarnation).for_each(|life| lives.begin(Incarnation(life), u64::from(life) * 10));
        Introduction { incarnation: Incarnation(incarnation), device: Uuid([device; 16]), origin, lives }
    }

    fn born(birth: u32) -> Origin {
        Origin::Recovered { birth: Incarnation(birth) }
    }

    fn met(comes: &Introduction) -> Meeting {
        judge(Some(&known()), comes)
    }

    #[test]
    fn who_was_never_met_is_remembered_first() {
        assert_eq!(judge(None, &comes(1, Origin::Founder, 7)), Meeting::New);
        assert_eq!(judge(None, &comes(1, born(0), 0)), Meeting::Refused(Refusal::Unborn));
    }

    #[test]
    fn the_same_disk_comes_in_later_lives_only() {
        assert_eq!(met(&comes(1, Origin::Founder, 40)), Meeting::Known);
        assert_eq!(met(&comes(1, Origin::Founder, 41)), Meeting::New);
        assert_eq!(met(&comes(1, Origin::Founder, 39)), Meeting::Refused(Refusal::RolledBack));
    }

    /// Rolled back to life 39, and started until it was past 40 again: its life 40 is another one.
    #[test]
    fn starting_again_and_again_helps_nobody_who_was_rolled_back() {
        for incarnation in 40..55 {
            let mut comes = comes(1, Origin::Founder, incarnation);
            comes.lives.begin(Incarnation(40), 401);
            assert_eq!(met(&comes), Meeting::Refused(Refusal::RolledBack), "{incarnation}");
        }
    }

    #[test]
    fn another_disk_must_be_newer_than_all_that_is_known() {
        assert_eq!(met(&comes(2, Origin::Founder, 90)), Meeting::Refused(Refusal::Disk));
        assert_eq!(met(&comes(2, born(41), 90)), Meeting::New);
        assert_eq!(met(&comes(2, born(40), 90)), Meeting::Refused(Refusal::Disk));
    }
}
