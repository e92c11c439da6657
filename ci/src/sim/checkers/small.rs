//! A second opinion on small histories: searches for an order of all operations on one key that agrees with real time
//! and in which every read sees the write before it (Wing and Gong, *Testing and verifying concurrent objects*, 1993,
//! with the memory of visited states that Lowe added in 2017). Does not look at the order of versions, which the sweep
//! takes for granted, so that a version order that contradicts what was read is found as well.

use super::known::{By, Known, is_excused};
use crate::sim::history::{Does, Fate, History, KeyIndex, NEVER, Order, Seen, Violation};
use layout::units::{LogTime, Version};
use std::collections::BTreeSet;

const NAME: &str = "small";
/// Operations of a key at most; keys with more are left to the sweep.
const OPERATION_COUNT_MAX: usize = 40;
/// States visited per key at most; a search that reaches it says nothing.
const STATE_COUNT_MAX: usize = 20_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Does1 {
    /// Leaves a record, of this version if anybody was told; expects this version first.
    Put {
        version: Option<Version>,
        expiry: u64,
        expects: Option<(Version, LogTime)>,
    },
    Delete,
    /// Sees the record that operation number so left.
    Sees {
        write: usize,
        log_time: LogTime,
    },
    /// Sees this version, of a record nobody saw.
    SeesVersion {
        version: Version,
        log_time: LogTime,
    },
    Nothing {
        log_time: LogTime,
    },
}

#[derive(Clone, Copy, Debug)]
struct Operation {
    invoked: Order,
    returned: Order,
    does: Does1,
}

/// Search every key with few operations.
#[must_use]
pub fn check(history: &History, known: &Known, excused: u64) -> Vec<Violation> {
    let mut by_key: Vec<Vec<Operation>> = vec![Vec::new(); history.keys.keys.len()];
    let mut refs: Vec<Vec<(u32, usize)>> = vec![Vec::new(); history.keys.keys.len()];
    for (number, write) in (0u32..).zip(&history.writes) {
        if write.fate == Fate::Refused {
            continue;
        }
        for (position, change) in (0u16..).zip(&write.changes) {
            // Of two changes of one key in a batch only the later one can ever be seen.
            if write.changes[usize::from(position) + 1..].iter().any(|later| later.key == change.key) {
                continue;
            }
            let version = known.first[number as usize].map(|first| Version(first.0 + u64::from(position)));
            let acked = matches!(write.fate, Fate::Acked { .. });
            let does = match change.does {
                Does::Delete => Does1::Delete,
                Does::Put { expiry, .. } => {
                    let sure = matches!(write.fate, Fate::Acked { repeated: false, .. });
                    let expects = write.expected.filter(|_| sure).map(|one| (one, write.log_time));
                    Does1::Put { version, expiry, expects }
                }
            };
            let key = change.key.0 as usize;
            refs[key].push((number, by_key[key].len()));
            let returned = if acked { write.returned } else { NEVER };
            by_key[key].push(Operation { invoked: write.invoked, returned, does });
        }
    }
    let mut unclear = BTreeSet::new();
    for read in &history.reads {
        let key = read.key.0 as usize;
        let log_time = read.log_time;
        let writer = |write: u32| refs[key].iter().find(|one| one.0 == write).map(|one| one.1);
        let does = match read.seen {
            Seen::Absent => Does1::Nothing { log_time },
            Seen::Value(_, by) => match writer(by.write) {
                Some(write) => Does1::Sees { write, log_time },
                None => continue,
            },
            Seen::Version(version) | Seen::Short(version, ..) => match known.versions[key].get(&version) {
                Some(By::Change(by)) => match writer(by.write) {
                    Some(write) => Does1::Sees { write, log_time },
                    None => continue,
                },
                Some(By::Someone) => {
                    unclear.insert(key);
                    continue;
                }
                None => Does1::SeesVersion { version, log_time },
            },
        };
        by_key[key].push(Operation { invoked: read.invoked, returned: read.returned, does });
    }
    let mut out = Vec::new();
    for (number, operations) in by_key.iter().enumerate() {
        let key = KeyIndex(u32::try_from(number).expect("keys are few"));
        let skip = unclear.contains(&number) || is_excused(excused, history.keys.tablet(key));
        if skip || operations.len() > OPERATION_COUNT_MAX {
            continue;
        }
        if Search::new(operations).run() == Verdict::No {
            let text = format!("{}: no order fits {operations:?}", history.keys.name(key));
            out.push(Violation { checker: NAME, text });
        }
    }
    out
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Yes,
    No,
    /// Too many states.
    Unknown,
}

struct Search<'a> {
    operations: &'a [Operation],
    /// All that have an answer.
    required: u64,
    visited: BTreeSet<(u64, Option<usize>)>,
}

impl<'a> Search<'a> {
    fn new(operations: &'a [Operation]) -> Search<'a> {
        let bits = operations.iter().enumerate().filter(|(_, one)| one.returned != NEVER);
        let required = bits.fold(0, |mask, (at, _)| mask | 1 << at);
        Search { operations, required, visited: BTreeSet::new() }
    }

    fn run(&mut self) -> Verdict {
        // Done so far, one bit each, and which write the record is from.
        let mut stack = vec![(0u64, None)];
        while let Some((done, state)) = stack.pop() {
            if done & self.required == self.required {
                return Verdict::Yes;
            }
            if !self.visited.insert((done, state)) {
                continue;
            }
            if self.visited.len() > STATE_COUNT_MAX {
                return Verdict::Unknown;
            }
            let open = |at: usize| done & (1 << at) == 0;
            let first_return = self.operations.iter().enumerate().filter(|(at, _)| open(*at));
            let first_return = first_return.map(|(_, one)| one.returned).min().unwrap_or(NEVER);
            for (at, operation) in self.operations.iter().enumerate() {
                if open(at)
                    && operation.invoked < first_return
                    && let Some(next) = self.step(at, operation, state)
                {
                    stack.push((done | 1 << at, next));
                }
            }
        }
        Verdict::No
    }

    /// The state after an operation; `None` when it cannot come now.
    fn step(&self, at: usize, operation: &Operation, state: Option<usize>) -> Option<Option<usize>> {
        match operation.does {
            Does1::Put { expects: None, .. } => Some(Some(at)),
            Does1::Put { expects: Some((expected, log_time)), .. } => {
                let fits = match self.visible(state, log_time) {
                    None => expected.is_absent(),
                    Some((_, Some(version))) => version == expected,
                    // The write was never answered: its version is one that a read named, and nobody knows of whom.
                    Some((_, None)) => self.is_named(expected),
                };
                fits.then_some(Some(at))
            }
            Does1::Delete => Some(None),
            Does1::Sees { write, log_time } => {
                (self.visible(state, log_time).map(|one| one.0) == Some(write)).then_some(state)
            }
            Does1::SeesVersion { version, log_time } => {
                let fits = self
                    .visible(state, log_time)
                    .is_some_and(|one| one.1.is_none_or(|known| known == version));
                fits.then_some(state)
            }
            Does1::Nothing { log_time } => self.visible(state, log_time).is_none().then_some(state),
        }
    }

    /// A read saw this version, and no value with it.
    fn is_named(&self, wanted: Version) -> bool {
        let names =
            |one: &Operation| matches!(one.does, Does1::SeesVersion { version, .. } if version == wanted);
        self.operations.iter().any(names)
    }

    fn visible(&self, state: Option<usize>, log_time: LogTime) -> Option<(usize, Option<Version>)> {
        let write = state?;
        let Does1::Put { version, expiry, .. } = self.operations[write].does else { return None };
        (expiry == 0 || expiry > log_time.0).then_some((write, version))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_TIME: LogTime = LogTime(0);

    fn operation(invoked: Order, returned: Order, does: Does1) -> Operation {
        Operation { invoked, returned, does }
    }

    fn put(invoked: Order, returned: Order) -> Operation {
        operation(invoked, returned, Does1::Put { version: None, expiry: 0, expects: None })
    }

    fn sees(write: usize, invoked: Order, returned: Order) -> Operation {
        operation(invoked, returned, Does1::Sees { write, log_time: NO_TIME })
    }

    fn nothing(invoked: Order, returned: Order) -> Operation {
        operation(invoked, returned, Does1::Nothing { log_time: NO_TIME })
    }

    fn verdict(operations: &[Operation]) -> Verdict {
        Search::new(operations).run()
    }

    #[test]
    fn concurrent_operations_may_come_in_any_order() {
        assert_eq!(verdict(&[put(1, 4), nothing(2, 3)]), Verdict::Yes);
        assert_eq!(verdict(&[put(1, 4), sees(0, 2, 3)]), Verdict::Yes);
        assert_eq!(verdict(&[put(1, 4), sees(0, 2, 3), nothing(5, 6)]), Verdict::No);
        assert_eq!(verdict(&[put(1, 2), nothing(3, 4)]), Verdict::No, "a lost write");
        assert_eq!(verdict(&[put(1, 8), sees(0, 2, 3), nothing(4, 5)]), Verdict::No, "a read that went back");
    }

    #[test]
    fn a_stale_read_between_two_writes_is_found() {
        let stale = [put(1, 2), put(3, 4), sees(0, 5, 6)];
        assert_eq!(verdict(&stale), Verdict::No);
        let overlapping = [put(1, 2), put(3, 6), sees(0, 4, 5), sees(1, 7, 8)];
        assert_eq!(verdict(&overlapping), Verdict::Yes);
    }

    #[test]
    fn what_may_have_happened_happens_at_most_once_and_at_any_time() {
        let unknown = put(1, NEVER);
        assert_eq!(verdict(&[unknown, nothing(2, 3), sees(0, 4, 5)]), Verdict::Yes);
        assert_eq!(verdict(&[unknown, sees(0, 2, 3), put(4, 5), sees(0, 6, 7)]), Verdict::No, "twice");
        let delete = operation(3, NEVER, Does1::Delete);
        assert_eq!(verdict(&[put(1, 2), delete, nothing(4, 5)]), Verdict::Yes);
        assert_eq!(verdict(&[put(1, 2), delete, nothing(4, 5), sees(0, 6, 7)]), Verdict::No);
    }

    #[test]
    fn a_compare_and_set_may_expect_what_an_unanswered_write_left() {
        let compare =
            Does1::Put { version: Some(Version(9)), expiry: 0, expects: Some((Version(7), NO_TIME)) };
        let named = |version| Does1::SeesVersion { version: Version(version), log_time: NO_TIME };
        let run = |seen| verdict(&[put(1, NEVER), operation(2, 3, named(seen)), operation(4, 5, compare)]);
        assert_eq!(run(7), Verdict::Yes);
        assert_eq!(run(8), Verdict::No, "nobody was told of version 7");
    }

    #[test]
    fn a_compare_and_set_needs_its_version_and_an_expired_record_is_none() {
        let first = Does1::Put { version: Some(Version(7)), expiry: 50, expects: None };
        let second = |expected, log_time| Does1::Put {
            version: Some(Version(9)),
            expiry: 0,
            expects: Some((Version(expected), LogTime(log_time))),
        };
        let run = |does| verdict(&[operation(1, 2, first), operation(3, 4, does)]);
        assert_eq!(run(second(7, 10)), Verdict::Yes);
        assert_eq!(run(second(8, 10)), Verdict::No);
        assert_eq!(run(second(7, 50)), Verdict::No, "expired");
        assert_eq!(run(second(0, 50)), Verdict::Yes);
        let seen = Does1::Sees { write: 0, log_time: LogTime(50) };
        assert_eq!(verdict(&[operation(1, 2, first), operation(3, 4, seen)]), Verdict::No);
    }
}
