//! What no replica knows: which acceptances were ever flushed, and so what is chosen. Owns the invariants.
//!
//! Must never look into a replica beyond what it reports. What is chosen is decided here, from flushes alone; what
//! replicas report is compared with it. A lost disk takes its acceptances along, but not from those who have already
//! heard of them: an entry is chosen when a majority has it on disk, or when it is reported and a majority ever had.

use paxos::{Accepted, Chosen, LogIndex, Node, Origin, State, Tip, ValueId};

/// Why a history is wrong.
pub(crate) type Wrong = String;

/// What is true of a world. Indexes stand one lower in arrays.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Ghost {
    /// Acceptances that were flushed: by whom, as bits, and who of them still has it. Those that say what is chosen
    /// already are left out.
    accepted: Vec<(LogIndex, Accepted, u8, u8)>,
    chosen: Vec<Option<ValueId>>,
    /// Per replica: the tip when its question, and when its write, was given.
    asked: Vec<LogIndex>,
    proposed: Vec<LogIndex>,
}

impl Ghost {
    pub(crate) fn new(member_count: u8, begun: Chosen) -> Ghost {
        let none = vec![LogIndex(0); usize::from(member_count)];
        let chosen = vec![Some(begun.value); begun.index.0 as usize];
        Ghost { asked: none.clone(), proposed: none, chosen, ..Ghost::default() }
    }

    /// The highest chosen index.
    pub(crate) fn tip(&self) -> LogIndex {
        LogIndex(self.chosen.len() as u64)
    }

    pub(crate) fn asks(&mut self, node: Node) {
        self.asked[node.place()] = self.tip();
    }

    pub(crate) fn proposes(&mut self, node: Node) {
        self.proposed[node.place()] = self.tip();
    }

    /// Whoever waited there has gone.
    pub(crate) fn crashes(&mut self, node: Node) {
        self.asked[node.place()] = LogIndex(0);
        self.proposed[node.place()] = LogIndex(0);
    }

    /// Its disk is gone.
    pub(crate) fn wiped(&mut self, node: Node) {
        for (_, _, _, still) in &mut self.accepted {
            *still &= !(1 << node.0);
        }
    }

    /// A voter's state was flushed over another.
    pub(crate) fn flushed(&mut self, node: Node, before: &State, after: &State) -> Result<(), Wrong> {
        let same = before.open() == after.open();
        let fresh = after.vote.accepted.filter(|_| !same || before.vote.accepted != after.vote.accepted);
        if same && before.voter {
            let lower = fresh.is_some_and(|accepted| accepted.ballot < before.vote.promised);
            if after.vote.promised < before.vote.promised || lower {
                return Err(format!("{node:?} broke its promise {:?}", before.vote.promised));
            }
        }
        let Some(accepted) = fresh else { return Ok(()) };
        let index = after.open();
        if self.chosen_at(index) == Some(accepted.value) {
            return Ok(());
        }
        if !self.accepted.iter().any(|(at, what, ..)| *at == index && *what == accepted) {
            self.accepted.push((index, accepted, 0, 0));
            self.accepted.sort_unstable();
        }
        let majority = self.asked.len() / 2 + 1;
        let mut chosen = false;
        for (at, what, ever, still) in &mut self.accepted {
            if *at == index && *what == accepted {
                *ever |= 1 << node.0;
                *still |= 1 << node.0;
                chosen = still.count_ones() as usize >= majority;
            }
        }
        if chosen { self.choose(Chosen { index, value: accepted.value }) } else { Ok(()) }
    }

    fn chosen_at(&self, index: LogIndex) -> Option<ValueId> {
        self.chosen.get(index.0 as usize - 1).copied().flatten()
    }

    fn choose(&mut self, chosen: Chosen) -> Result<(), Wrong> {
        if let Some(other) = self.chosen_at(chosen.index) {
            return Err(format!("chosen twice at {:?}: {other:?}, then {:?}", chosen.index, chosen.value));
        }
        if self.chosen.contains(&Some(chosen.value)) {
            return Err(format!("chosen at two indexes: {:?}", chosen.value));
        }
        if chosen.index != self.tip().next() {
            return Err(format!("chosen at {:?} after {:?}: a gap", chosen.index, self.tip()));
        }
        self.chosen.push(Some(chosen.value));
        self.accepted.retain(|(at, what, ..)| *at != chosen.index || what.value != chosen.value);
        Ok(())
    }

    /// A replica says that an entry is chosen.
    pub(crate) fn reported(&mut self, node: Node, chosen: Chosen, origin: Origin) -> Result<(), Wrong> {
        if self.chosen_at(chosen.index) != Some(chosen.value) {
            let majority = self.asked.len() / 2 + 1;
            let ever = self.accepted.iter().any(|(at, what, ever, _)| {
                *at == chosen.index && what.value == chosen.value && ever.count_ones() as usize >= majority
            });
            if !ever {
                return Err(format!("{node:?} reports {chosen:?}, no majority has flushed it"));
            }
            self.choose(chosen)?;
        }
        if origin == Origin::OwnRound {
            let before = std::mem::take(&mut self.proposed[node.place()]);
            if chosen.index < before {
                return Err(format!(
                    "{node:?} serves gets of its write at {:?}; {before:?} was chosen",
                    chosen.index
                ));
            }
        }
        Ok(())
    }

    /// A replica says from which index on it may serve.
    pub(crate) fn tip_found(&mut self, node: Node, tip: Tip) -> Result<(), Wrong> {
        let before = std::mem::take(&mut self.asked[node.place()]);
        if tip.index < before {
            return Err(format!(
                "{node:?} serves gets at {:?}; {before:?} was chosen before it asked",
                tip.index
            ));
        }
        Ok(())
    }
}
