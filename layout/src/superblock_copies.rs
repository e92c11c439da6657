//! Four copies of a superblock: which state to believe, and in which order to replace it.
//!
//! Owns the quorum rule. Must never write over the only two copies of the state in force.
//! Invariant: at every instant, two flushed copies hold the last state or two hold the new one, so
//! a crash anywhere leaves a readable device and a state once returned by [`choose`] is never
//! followed by an older one.
//!
//! ```text
//! all four hold N:   write N+1 to 0,1 | flush | write N+1 to 2,3 | flush
//! 0,1 hold N+1 (crash before the second half), 2,3 hold N:
//!                    write N+2 to 2,3 | flush | write N+2 to 0,1 | flush
//! ```
//! The second line is why the order is computed and not fixed: with 0,1 first, a power cut in the
//! middle leaves N+1 on one copy at most and N on two, and a device that had already started with
//! the incarnation of N+1 would fall back to N and use that incarnation twice.

use std::fmt;

use thiserror::Error;

use crate::FORMAT_VERSION;
use crate::field::Corrupt;
use crate::superblock::{COPY_COUNT, Superblock};
use crate::units::Incarnation;

/// Copies that must be identical for a state to count.
pub const QUORUM: usize = 2;

/// What a device said at the four places.
pub type Copies = [Result<Superblock, Corrupt>; COPY_COUNT];

/// What one copy was, for the text of an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyState {
    /// Valid, with this sequence.
    Valid(u64),
    /// Refused for this reason.
    Refused(Corrupt),
}

impl fmt::Display for CopyState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CopyState::Valid(sequence) => write!(f, "valid, sequence {sequence}"),
            CopyState::Refused(corrupt) => write!(f, "{corrupt}"),
        }
    }
}

/// No state can be believed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ChooseError {
    /// Fewer than two identical valid copies.
    #[error(
        "{valid} of 4 superblock copies are valid and no two agree (copy 0: {}; copy 1: {}; copy 2: {}; copy 3: {}): \
         this is not a device of ours, or it is damaged; see it with `thermocline inspect superblock`",
        .copies[0], .copies[1], .copies[2], .copies[3]
    )]
    NoQuorum {
        /// Valid copies.
        valid: usize,
        /// What each copy was.
        copies: Box<[CopyState; COPY_COUNT]>,
    },
    /// Good copies of a format that this program does not know.
    #[error(
        "{copies} of 4 superblock copies are good and of another format version than {FORMAT_VERSION}, the only one that this program \
         knows: run the thermocline that formatted the device (`thermocline inspect superblock` shows its number), or \
         export there, format the device anew, and import here"
    )]
    Version {
        /// Copies that say so, at least two.
        copies: usize,
    },
    /// Two pairs of one sequence that differ: no order of our writes leaves that.
    #[error(
        "superblock copies {first:?} and {second:?} both carry sequence {sequence} and differ: the device was written by \
         two owners, or two devices were mixed; see it with `thermocline inspect superblock`"
    )]
    Split {
        /// The sequence both pairs carry.
        sequence: u64,
        /// One pair of copies.
        first: [usize; 2],
        /// The other pair.
        second: [usize; 2],
    },
}

/// The state with the highest sequence that at least two copies hold identically.
///
/// Flush the device before believing it: what a killed process wrote may sit in a volatile cache.
pub fn choose(copies: &Copies) -> Result<Superblock, ChooseError> {
    // Also beside two copies that we know: another version may have begun to make the device its own.
    let other = copies
        .iter()
        .filter(|copy| matches!(copy, Err(corrupt) if corrupt.field == "format_version"))
        .count();
    if other >= QUORUM {
        return Err(ChooseError::Version { copies: other });
    }
    let mut best: Option<(&Superblock, [usize; 2])> = None;
    for first in 0..COPY_COUNT {
        let Ok(superblock) = &copies[first] else { continue };
        let twin = (first + 1..COPY_COUNT).find(|&other| copies[other].as_ref() == Ok(superblock));
        let Some(second) = twin else { continue };
        match best {
            Some((held, _)) if held.sequence > superblock.sequence || held == superblock => {}
            Some((held, pair)) if held.sequence == superblock.sequence => {
                return Err(ChooseError::Split {
                    sequence: held.sequence,
                    first: pair,
                    second: [first, second],
                });
            }
            _ => best = Some((superblock, [first, second])),
        }
    }
    match best {
        Some((superblock, _)) => Ok(superblock.clone()),
        None => Err(ChooseError::NoQuorum {
            valid: copies.iter().filter(|copy| copy.is_ok()).count(),
            copies: Box::new(std::array::from_fn(|index| match &copies[index] {
                Ok(superblock) => CopyState::Valid(superblock.sequence),
                Err(corrupt) => CopyState::Refused(*corrupt),
            })),
        }),
    }
}

/// An update in two halves: write the copies of `first`, flush, write those of `second`, flush.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpdatePlan {
    /// Copies that the state in force can do without.
    pub first: [usize; 2],
    /// Copies that hold the state in force until the first half is flushed.
    pub second: [usize; 2],
}

impl UpdatePlan {
    /// The order of the next update on a device where `copies` were read and `current` was chosen.
    /// After that update all copies are equal and the order is [`UpdatePlan::ALL_EQUAL`].
    #[must_use]
    pub fn new(copies: &Copies, current: &Superblock) -> UpdatePlan {
        let mut kept = [0; 2];
        let mut kept_count = 0;
        for index in (0..COPY_COUNT).rev() {
            if kept_count < QUORUM && copies[index].as_ref() == Ok(current) {
                kept[kept_count] = index;
                kept_count += 1;
            }
        }
        assert!(kept_count == QUORUM, "a chosen superblock has two copies");
        kept.sort_unstable();
        let mut others = (0..COPY_COUNT).filter(|index| !kept.contains(index));
        let first = std::array::from_fn(|_| others.next().expect("four copies less two are two"));
        UpdatePlan { first, second: kept }
    }

    /// The order when all four copies are equal.
    pub const ALL_EQUAL: UpdatePlan = UpdatePlan { first: [0, 1], second: [2, 3] };
}

/// The sequence of the next update: above every valid copy, also those that lost, so that no two
/// different states ever carry one sequence.
#[must_use]
pub fn sequence_next(copies: &Copies) -> u64 {
    let highest = copies.iter().flatten().map(|copy| copy.sequence).max().unwrap_or(0);
    highest.checked_add(1).expect("a device sees fewer than 2^64 updates")
}

/// The incarnation of the next start: above every valid copy of the chosen device, also those that
/// lost. `None` when 2^32 - 1 starts are used up.
#[must_use]
pub fn incarnation_next(copies: &Copies, current: &Superblock) -> Option<Incarnation> {
    let same_device = copies.iter().flatten().filter(|copy| copy.device == current.device);
    same_device.map(|copy| copy.incarnation).max().unwrap_or(current.incarnation).next()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::superblock::tests::example;

    const ROT: Corrupt = Corrupt { structure: "superblock", field: "checksum", at: 0 };

    /// State of one place on the medium: a sequence, or torn.
    type Medium = [Option<u64>; COPY_COUNT];

    fn read(medium: &Medium) -> Copies {
        std::array::from_fn(|index| medium[index].map(example).ok_or(ROT))
    }

    /// All media that a crash can leave while `targets` are being replaced by `new`: each is still
    /// old, torn, or new.
    fn crash_states(medium: &Medium, targets: [usize; 2], new: u64) -> Vec<Medium> {
        let options = |index: usize| [medium[index], None, Some(new)];
        let mut states = Vec::new();
        for a in options(targets[0]) {
            for b in options(targets[1]) {
                let mut state = *medium;
                state[targets[0]] = a;
                state[targets[1]] = b;
                states.push(state);
            }
        }
        states
    }

    /// Every chain of four updates, each cut at any point or completed: the state never goes back,
    /// and the device never becomes unreadable. A fixed order 0,1 then 2,3 fails this test.
    #[test]
    fn no_chain_of_crashed_updates_goes_back_or_loses_the_device() {
        let mut frontier: Vec<(Medium, u64)> = vec![([Some(1); 4], 1)];
        let mut seen = std::collections::BTreeSet::new();
        for _update in 0..4 {
            let mut reached = Vec::new();
            for (medium, floor) in frontier {
                let copies = read(&medium);
                let current = choose(&copies).expect("every crash state is readable");
                assert!(
                    current.sequence >= floor,
                    "went back to {} from {floor}: {medium:?}",
                    current.sequence
                );
                let plan = UpdatePlan::new(&copies, &current);
                let new = sequence_next(&copies);
                let mut middle = medium;
                plan.first.iter().for_each(|&copy| middle[copy] = Some(new));
                for state in crash_states(&medium, plan.first, new) {
                    reached.push((state, current.sequence));
                }
                for state in crash_states(&middle, plan.second, new) {
                    // The first half is flushed: two copies hold the new state.
                    reached.push((state, new));
                }
            }
            reached.retain(|state| seen.insert(*state));
            frontier = reached;
        }
        assert!(seen.len() > 400, "only {} states were visited", seen.len());
        for (medium, floor) in frontier {
            assert!(choose(&read(&medium)).expect("readable").sequence >= floor);
        }
    }

    /// Every assignment of {refused, N, N+1, N+1 with other content} to the four copies, against
    /// the rule said in another way: count the copies of each state.
    #[test]
    fn every_subset_of_torn_old_new_and_foreign_copies_follows_the_rule() {
        let mut foreign = example(2);
        foreign.node = 99;
        let kinds = [None, Some(example(1)), Some(example(2)), Some(foreign)];
        for code in 0..4usize.pow(4) {
            let pick = |index: u32| code / 4usize.pow(index) % 4;
            let copies: Copies = std::array::from_fn(|index| kinds[pick(index as u32)].clone().ok_or(ROT));
            let count = |kind: usize| (0..4).filter(|index| pick(*index) == kind).count();
            let chosen = choose(&copies);
            match (count(1) >= 2, count(2) >= 2, count(3) >= 2) {
                (_, true, true) => assert_eq!(
                    chosen
                        .map(|s| s.sequence)
                        .map_err(|e| matches!(e, ChooseError::Split { sequence: 2, .. })),
                    Err(true)
                ),
                (_, true, false) => assert_eq!(chosen.as_ref(), Ok(kinds[2].as_ref().expect("new"))),
                (_, false, true) => assert_eq!(chosen.as_ref(), Ok(kinds[3].as_ref().expect("foreign"))),
                (true, false, false) => assert_eq!(chosen.as_ref(), Ok(kinds[1].as_ref().expect("old"))),
                (false, false, false) => {
                    let Err(ChooseError::NoQuorum { valid, .. }) = chosen else {
                        panic!("{code}: {chosen:?}")
                    };
                    assert_eq!(valid, 4 - count(0));
                }
            }
        }
    }

    #[test]
    fn equal_copies_are_replaced_in_the_documented_order() {
        let copies = read(&[Some(5); 4]);
        assert_eq!(UpdatePlan::new(&copies, &example(5)), UpdatePlan::ALL_EQUAL);
        let copies = read(&[Some(6), Some(6), Some(5), Some(5)]);
        assert_eq!(UpdatePlan::new(&copies, &example(6)), UpdatePlan { first: [2, 3], second: [0, 1] });
        let copies = read(&[Some(5), Some(5), None, Some(5)]);
        assert_eq!(UpdatePlan::new(&copies, &example(5)), UpdatePlan { first: [0, 2], second: [1, 3] });
    }

    #[test]
    fn a_lone_newer_copy_loses_but_its_numbers_are_never_used_again() {
        let copies = read(&[Some(9), None, Some(5), Some(5)]);
        let current = choose(&copies).expect("two copies of 5");
        assert_eq!(current.sequence, 5);
        assert_eq!(sequence_next(&copies), 10);
        assert_eq!(incarnation_next(&copies, &current), Some(Incarnation(10)));
    }

    #[test]
    fn the_error_names_every_copy() {
        let text = choose(&read(&[Some(4), None, Some(5), None])).expect_err("no two agree").to_string();
        assert!(text.contains("2 of 4 superblock copies are valid"), "{text}");
        assert!(text.contains("copy 0: valid, sequence 4"), "{text}");
        assert!(text.contains("copy 3: corrupt superblock: field checksum"), "{text}");
    }
}
