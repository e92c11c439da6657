//! What a journal proves of the tablets in it: the amnesia rule, for a start and for `fsck` alike.
//!
//! Owns the rule and nothing of a tablet's content. Must never take a tablet for whole that may have forgotten. A tablet
//! that cannot prove that it still has every entry it acknowledged is damaged. Proof is continuity of log indexes: over a
//! gap in the journal a later entry, or a tip, of the tablet says whether one is missing; behind a damaged tail nothing
//! can say so. Whoever knows from elsewhere how far a tablet had come says that, too.

use crate::journal::{Record, Replayed, Tail};
use layout::Corrupt;
use layout::journal_record::RecordKind;
use layout::log_entry::{Entry, EntryIter};
use layout::tip::TipIter;
use layout::units::{Incarnation, LogIndex, ShardIndex, TABLET_COUNT, TabletIndex};

/// What a tablet has, or may have, lost with its journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damage {
    /// First log index that is lost, or may be.
    pub from: LogIndex,
    /// Last one; `None` when nobody knows where the loss ends.
    pub to: Option<LogIndex>,
}

/// What is proven of one tablet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Proof {
    /// Last entry in the journal; 0 when there is none.
    pub applied: LogIndex,
    /// Entries in the journal.
    pub entry_count: u64,
    /// What is lost, or may be.
    pub damage: Option<Damage>,
    /// Nothing was seen of it since the last gap.
    unproven: bool,
}

impl Proof {
    /// Entries `applied + 1 ..= to` are lost, or may be. What was lost before stays named.
    fn lose(&mut self, to: Option<LogIndex>) {
        let from = self.damage.map_or(self.applied.next(), |damage| damage.from);
        self.damage = Some(Damage { from, to });
    }
}

/// What the journal of one shard proves, record by record.
#[derive(Debug)]
pub struct Proofs {
    shard: ShardIndex,
    shard_count: u16,
    tablets: [Proof; TABLET_COUNT],
    strange_count: u64,
}

impl Proofs {
    /// Nothing is read yet.
    #[must_use]
    pub fn new(shard: u16, shard_count: u16) -> Proofs {
        let tablets = [Proof::default(); TABLET_COUNT];
        Proofs { shard: ShardIndex(shard), shard_count, tablets, strange_count: 0 }
    }

    /// This tablet had come to `applied`, and had this damage, where the replay begins.
    pub fn begin_at(&mut self, tablet: TabletIndex, applied: LogIndex, damage: Option<Damage>) {
        let proof = &mut self.tablets[tablet.index()];
        (proof.applied, proof.damage) = (applied, damage);
    }

    /// The next record of the journal. Each entry that stands where it should goes to `apply`, which says whether its
    /// operations can be understood.
    pub fn take(&mut self, record: &Record<'_>, mut apply: impl FnMut(&Entry<'_>) -> Result<(), Corrupt>) {
        if record.after_gap {
            self.tablets.iter_mut().for_each(|tablet| tablet.unproven = true);
        }
        match record.header.fields.kind {
            RecordKind::Open | RecordKind::Mark => {
                for tip in TipIter::new(record.body) {
                    match tip {
                        Ok((tablet, index)) => self.tip(tablet, index),
                        Err(corrupt) => self.strange(&corrupt),
                    }
                }
            }
            RecordKind::Entries => {
                for entry in EntryIter::new(record.body) {
                    let taken = entry.and_then(|entry| self.entry(&entry, &mut apply));
                    if let Err(corrupt) = taken {
                        self.strange(&corrupt);
                    }
                }
            }
        }
    }

    /// The journal beside the manifest that was read, which the start `manifest` wrote last; 0 when none ever did. Every
    /// start commits its manifest before its first record: beside a journal of a later one, what it committed is gone in
    /// both copies, and what was read is an older state.
    pub fn beside_manifest(&mut self, manifest: Incarnation, replayed: &Replayed) {
        let never = manifest == Incarnation(0) && replayed.sequence_max.0 > 0;
        if never {
            ioengine::sometimes!("a journal without its manifest");
        }
        if never || replayed.incarnation_max > manifest {
            self.lose_all();
        }
    }

    /// Nothing is known of any tablet.
    pub fn lose_all(&mut self) {
        self.strange_count += 1;
    }

    fn owns(&self, tablet: TabletIndex) -> bool {
        tablet.shard(self.shard_count) == self.shard
    }

    /// At this point of the journal the tablet had come to `index`.
    fn tip(&mut self, tablet: TabletIndex, index: LogIndex) {
        if !self.owns(tablet) {
            return;
        }
        let proof = &mut self.tablets[tablet.index()];
        if index > proof.applied {
            proof.lose(Some(index));
        }
        proof.unproven = false;
    }

    fn entry(
        &mut self,
        entry: &Entry<'_>,
        apply: &mut impl FnMut(&Entry<'_>) -> Result<(), Corrupt>,
    ) -> Result<(), Corrupt> {
        let (tablet, index) = (entry.header.tablet, entry.header.log_index);
        let wrong = |field| Corrupt { structure: "log entry", field, at: entry.body_at };
        if !self.owns(tablet) {
            return Err(wrong("tablet of another core"));
        }
        let proof = &mut self.tablets[tablet.index()];
        if index <= proof.applied {
            // One log, two entries of one index: not from one life of this shard.
            return Err(wrong("log_index"));
        }
        if index > proof.applied.next() && !ioengine::canary("skip_index_continuity") {
            proof.lose(Some(LogIndex(index.0 - 1)));
        }
        proof.unproven = false;
        apply(entry)?;
        proof.applied = index;
        proof.entry_count += 1;
        Ok(())
    }

    /// Something that checks and still cannot be understood: nothing in this journal proves anything.
    fn strange(&mut self, corrupt: &Corrupt) {
        tracing::error!(%corrupt, "a journal record checks and cannot be understood");
        self.strange_count += 1;
    }

    /// The journal was read to its end: what can no tablet prove? `next` is the start that comes after every one that the
    /// superblocks know; `known` says how far a tablet had come by what else is known, 0 when nothing is.
    pub fn judge(&mut self, replayed: &Replayed, next: Incarnation, known: impl Fn(TabletIndex) -> LogIndex) {
        // A journal from a later start than the superblock's: the superblock was rolled back, and with it perhaps
        // more. A damaged tail may have held an entry of any tablet.
        let all = self.strange_count > 0
            || matches!(replayed.tail, Tail::Damaged { .. })
            || replayed.incarnation_max >= next;
        for tablet in TabletIndex::all().filter(|tablet| tablet.shard(self.shard_count) == self.shard) {
            let proof = &mut self.tablets[tablet.index()];
            let unproven = proof.unproven && !ioengine::canary("trust_behind_gap");
            let known_lost = known(tablet) > proof.applied && !ioengine::canary("forget_shared_memory");
            if all || unproven {
                proof.lose(None);
            } else if known_lost {
                ioengine::sometimes!("shared memory knows of a lost entry");
                proof.lose(Some(known(tablet)));
            }
        }
    }

    /// What is proven of a tablet.
    #[must_use]
    pub fn tablet(&self, tablet: TabletIndex) -> &Proof {
        &self.tablets[tablet.index()]
    }

    /// Entries of all tablets.
    #[must_use]
    pub fn entry_count(&self) -> u64 {
        self.tablets.iter().map(|tablet| tablet.entry_count).sum()
    }

    /// Entries, tips and records that check and cannot be understood.
    #[must_use]
    pub fn strange_count(&self) -> u64 {
        self.strange_count
    }
}
