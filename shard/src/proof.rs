//! What a journal proves of the tablets in it: the amnesia rule, for a start and for `fsck` alike.
//!
//! Owns the rule and nothing of a tablet's content. Must never take a tablet for whole that may have forgotten. A tablet
//! that cannot prove that it still has every entry it acknowledged is damaged. Proof is continuity of log indexes: over a
//! gap in the journal a later entry, or a tip, of the tablet says whether one is missing, in a group only a vote; behind a damaged tail nothing
//! can say so. Whoever knows from elsewhere how far a tablet had come says that, too.

use crate::journal::{JournalStart, Record, Replayed, Tail};
use crate::memtable::Charge;
use layout::Corrupt;
use layout::journal_record::RecordKind;
use layout::log_entry::{Entry, EntryHeader, EntryIter};
use layout::log_item::{Item, ItemIter};
use layout::tip::TipIter;
use layout::units::{Incarnation, LogIndex, ShardIndex, TABLET_COUNT, TabletIndex};
use paxos::{Chosen, State, ValueId};

/// What a tablet has, or may have, lost with its journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damage {
    /// First log index that is lost, or may be.
    pub from: LogIndex,
    /// Last one; `None` when nobody knows where the loss ends.
    pub to: Option<LogIndex>,
}

/// An entry that this replica accepted, and that nothing in its journal calls chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// Its name.
    pub value: ValueId,
    /// Its header, with its index.
    pub header: EntryHeader,
    /// Its operations.
    pub body: Vec<u8>,
    /// Room that they take in a memtable at most: asked for with each record of a replay.
    pub charge: Charge,
    /// Where a replay would begin with the record that has it.
    pub before: JournalStart,
    /// Records behind it are lost: another one may have been accepted in its place.
    pub in_doubt: bool,
}

/// What is proven of one tablet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proof {
    /// Last entry in the journal; 0 when there is none.
    pub applied: LogIndex,
    /// Entries in the journal.
    pub entry_count: u64,
    /// What is lost, or may be.
    pub damage: Option<Damage>,
    /// What the replica of a group voted by, as of its last vote in the journal.
    pub state: Option<State>,
    /// Name of the last entry, where the journal tells it: an item of a group.
    pub last: Option<Chosen>,
    /// Accepted behind the last entry.
    pub pending: Option<Pending>,
    /// Nothing was seen of it since the last gap.
    unproven: bool,
}

impl Proof {
    /// The last entry whose bytes are here, be it known to be chosen or not.
    fn last_held(&self) -> LogIndex {
        let pending = self.pending.as_ref().map(|pending| pending.header.log_index);
        pending.map_or(self.applied, |index| index.max(self.applied))
    }

    /// Entries `applied + 1 ..= to` are lost, or may be. What was lost before stays named.
    fn lose(&mut self, to: Option<LogIndex>) {
        let from = self.damage.map_or(self.applied.next(), |damage| damage.from);
        self.damage = Some(Damage { from, to });
    }
}

impl Proof {
    /// A vote of the replica: all that it had said before is in it.
    fn vote(
        &mut self,
        applied: Chosen,
        state: State,
        entry: Option<Entry<'_>>,
        before: JournalStart,
    ) -> Result<(), Corrupt> {
        let wrong = |field| Corrupt { structure: "log item", field, at: 0 };
        self.unproven = false;
        if state.chosen.index.0 > self.applied.0 {
            self.lose(Some(LogIndex(state.chosen.index.0)));
        }
        if applied.index.0 == self.applied.0 {
            self.last = Some(applied);
        }
        if let Some(entry) = entry {
            let value = state.vote.accepted.ok_or(wrong("entry of no vote"))?.value;
            let charge = Charge::of_entry(&entry);
            self.pending = Some(Pending {
                value,
                header: entry.header,
                body: entry.body.to_vec(),
                charge,
                before,
                in_doubt: false,
            });
        } else if let Some(accepted) = state.vote.accepted
            && state.chosen.index.0 >= self.applied.0
            && applied.index < state.open()
            && self.pending.as_ref().is_none_or(|pending| pending.value != accepted.value)
        {
            return Err(wrong("vote without its entry"));
        }
        let accepted = state.vote.accepted.map(|accepted| accepted.value);
        self.pending
            .iter_mut()
            .filter(|pending| Some(pending.value) == accepted)
            .for_each(|pending| pending.in_doubt = false);
        // One that was applied when this was written is named by an item of its own, if it was not accepted here.
        self.state = Some(state);
        Ok(())
    }
}

/// What the journal of one shard proves, record by record.
#[derive(Debug)]
pub struct Proofs {
    shard: ShardIndex,
    shard_count: u16,
    tablets: Vec<Proof>,
    strange_count: u64,
    /// It is the journal of a node in a group: votes stand in it, and only a vote proves that none is missing.
    has_votes: bool,
}

impl Proofs {
    /// Nothing is read yet.
    #[must_use]
    pub fn new(shard: u16, shard_count: u16, has_votes: bool) -> Proofs {
        let tablets = vec![Proof::default(); TABLET_COUNT];
        Proofs { shard: ShardIndex(shard), shard_count, tablets, strange_count: 0, has_votes }
    }

    /// This tablet had come to `applied`, and had this damage, where the replay begins.
    pub fn begin_at(&mut self, tablet: TabletIndex, applied: LogIndex, damage: Option<Damage>) {
        let proof = &mut self.tablets[tablet.index()];
        (proof.applied, proof.damage) = (applied, damage);
    }

    /// The next record of the journal. Each entry that stands where it should, and is chosen, goes to `apply`, which says
    /// whether its operations can be understood.
    pub fn take(
        &mut self,
        record: &Record<'_>,
        mut apply: impl FnMut(&Entry<'_>, ValueId) -> Result<(), Corrupt>,
    ) {
        if record.after_gap {
            for tablet in &mut self.tablets {
                tablet.unproven = true;
                tablet.pending.iter_mut().for_each(|pending| pending.in_doubt = true);
            }
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
                    let taken = entry.and_then(|entry| self.entry(&entry, ValueId::NONE, &mut apply));
                    taken.unwrap_or_else(|corrupt| self.strange(&corrupt));
                }
            }
            RecordKind::Items => {
                for item in ItemIter::new(record.body) {
                    let before = record.before;
                    let taken = item.and_then(|(tablet, item)| self.item(tablet, &item, before, &mut apply));
                    taken.unwrap_or_else(|corrupt| self.strange(&corrupt));
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

    /// The journal of a node in a group beside its superblock, which says that the start `served` wrote to it. Whatever was trimmed since,
    /// votes are said again behind it: a journal that knows neither that start nor a later one is older, or its end is lost.
    pub fn beside_superblock(&mut self, served: Incarnation, replayed: &Replayed) {
        if replayed.incarnation_max < served && !ioengine::canary("forget_what_served") {
            ioengine::sometimes!("a journal that does not know its last start");
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
        if index > proof.last_held() {
            proof.lose(Some(index));
        }
        // Of votes a tip says nothing. Failing history: the first vote of a tablet is lost in a gap, the mark behind the gap says that the
        // tablet has no entry; the replica votes again, and with another peer gets another entry 1 chosen.
        if !self.has_votes || ioengine::canary("trust_a_tip_for_votes") {
            proof.unproven = false;
        }
    }

    fn entry(
        &mut self,
        entry: &Entry<'_>,
        value: ValueId,
        apply: &mut impl FnMut(&Entry<'_>, ValueId) -> Result<(), Corrupt>,
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
        // A chosen entry tells nothing of who may vote, nor of lives that are over.
        proof.unproven &= self.has_votes;
        apply(entry, value)?;
        proof.applied = index;
        proof.entry_count += 1;
        Ok(())
    }

    /// Every entry up to `index` is chosen: the one that was accepted, too, if it is among them. An other one that was
    /// chosen in its place would stand in the journal before whatever says so, unless it is lost: then only its name in `named` tells.
    /// Failing history: v is accepted, then w in a record that rots, w is chosen; a replay that meets v, the gap, and
    /// a vote at the next index takes v for what was chosen.
    fn all_chosen_to(
        &mut self,
        tablet: TabletIndex,
        index: LogIndex,
        named: Option<Chosen>,
        apply: &mut impl FnMut(&Entry<'_>, ValueId) -> Result<(), Corrupt>,
    ) -> Result<(), Corrupt> {
        let proof = &mut self.tablets[tablet.index()];
        let Some(pending) = proof.pending.take_if(|pending| pending.header.log_index <= index) else {
            return Ok(());
        };
        if pending.header.log_index <= proof.applied {
            return Ok(());
        }
        let chosen = Chosen { index: paxos::LogIndex(pending.header.log_index.0), value: pending.value };
        if pending.in_doubt && named != Some(chosen) && !ioengine::canary("trust_accepted_behind_gap") {
            ioengine::sometimes!("what was accepted before a gap is in doubt");
            return Ok(());
        }
        proof.last = Some(chosen);
        let entry = Entry { header: pending.header, body: &pending.body, body_at: 0 };
        self.entry(&entry, pending.value, apply)
    }

    /// The next vote, or chosen entry, of a replica.
    fn item(
        &mut self,
        tablet: TabletIndex,
        item: &Item<'_>,
        before: JournalStart,
        apply: &mut impl FnMut(&Entry<'_>, ValueId) -> Result<(), Corrupt>,
    ) -> Result<(), Corrupt> {
        if !self.owns(tablet) {
            return Err(Corrupt { structure: "log item", field: "tablet of another core", at: 0 });
        }
        match *item {
            Item::Vote { applied, state, entry } => {
                self.all_chosen_to(tablet, LogIndex(state.chosen.index.0), Some(state.chosen), apply)?;
                self.tablets[tablet.index()].vote(applied, state, entry, before)
            }
            Item::Chosen { chosen, entry } => {
                self.all_chosen_to(tablet, LogIndex(chosen.index.0.saturating_sub(1)), None, apply)?;
                let proof = &mut self.tablets[tablet.index()];
                if chosen.index.0 <= proof.applied.0 {
                    return Ok(());
                }
                proof.last = Some(chosen);
                proof.pending = None;
                self.entry(&entry, chosen.value, apply)
            }
        }
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
            // What is known to be chosen by no more than memory is accepted in the journal all the same.
            let known_lost = known(tablet) > proof.last_held() && !ioengine::canary("forget_shared_memory");
            if all || unproven {
                proof.lose(None);
            } else if known_lost {
                ioengine::sometimes!("shared memory knows of a lost entry");
                proof.lose(Some(known(tablet)));
            }
        }
    }

    /// Where a replay has to begin so that it meets all that is accepted and not applied, and the record that begins
    /// `here`. Failing history: a vote with its entry, the entry applied, the memtable frozen, a record that tells so; a
    /// replay freezes before that record, when the entry is not applied yet. Were the next replay to begin there, it would
    /// be told that the entry is chosen, and have it no more.
    #[must_use]
    pub fn begin_next(&self, here: JournalStart) -> JournalStart {
        let open = self.tablets.iter().filter_map(|proof| {
            let pending = proof.pending.as_ref()?;
            (pending.header.log_index > proof.applied).then_some(pending.before)
        });
        open.chain([here]).min_by_key(|start| start.sequence).expect("there is one")
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

#[cfg(test)]
mod tests {
    use super::*;
    use layout::journal_record::{RecordFields, RecordHeader};
    use layout::log_item::push_vote;
    use layout::tip;
    use layout::units::Sequence;

    fn tablet() -> TabletIndex {
        TabletIndex::all().nth(5).expect("there are more")
    }

    fn take(proofs: &mut Proofs, kind: RecordKind, body: &[u8], after_gap: bool) {
        let fields = RecordFields {
            kind,
            incarnation: Incarnation(1),
            sequence: Sequence(2),
            previous_incarnation: Incarnation(1),
            previous_sequence: Sequence(1),
            flushed_sequence: Sequence(1),
            memtable_number: 0,
        };
        let header = RecordHeader { fields, frame_count: 8, body_bytes: 0, body_checksum: 0 };
        proofs.take(&Record { header: &header, body, after_gap, before: JournalStart::FIRST }, |_, _| Ok(()));
    }

    fn vote() -> Vec<u8> {
        let mut body = Vec::new();
        push_vote(&mut body, tablet(), Chosen::default(), &State::NEW, None);
        body
    }

    fn damage(proofs: &mut Proofs) -> Option<Damage> {
        proofs.judge(&Replayed::nothing(JournalStart::FIRST), Incarnation(2), |_| LogIndex(0));
        proofs.tablet(tablet()).damage
    }

    /// The vote that a gap swallows is of a tablet without entries: a mark that says so behind it proves nothing.
    #[test]
    fn behind_a_gap_a_tip_proves_entries_and_only_a_vote_proves_votes() {
        let mark = tip::encode(tablet(), LogIndex(0));
        let alone = &mut Proofs::new(0, 1, false);
        take(alone, RecordKind::Mark, &mark, true);
        assert_eq!(damage(alone), None);
        let group = &mut Proofs::new(0, 1, true);
        take(group, RecordKind::Mark, &mark, true);
        assert_eq!(damage(group), Some(Damage { from: LogIndex(1), to: None }));
        let voted = &mut Proofs::new(0, 1, true);
        take(voted, RecordKind::Mark, &mark, true);
        take(voted, RecordKind::Items, &vote(), false);
        assert_eq!(damage(voted), None);
    }
}
