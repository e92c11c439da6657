//! Fetches of a core of a cache node: which keys are being asked about, and who waits for the answer. Pure: no clock, no I/O.
//!
//! Must never give a get an answer to a question that had left before the get came: the store may have looked at its log before
//! a write that was acknowledged before the get began. (Failing history: get A leaves; the store finds version 1; a put of version 2
//! is acknowledged; get B comes, shares A's fetch, and is told version 1.) Invariant: one fetch per key; who comes while it is
//! under way waits for the next one.
//!
//! Fetches that have ended are used again with all they have allocated, so that a core that has warmed up allocates for a batch, not for
//! a key.
//!
//! ```text
//! ask ──► queued, may be shared ──take──► sent ──finish──► answered
//!                  ▲                       │ who came meanwhile
//!                  └───────────────────────┘
//! ```

use layout::key::Key;
use layout::units::{Space, Version};
use layout::value_ring::Spot;
use std::collections::{BTreeMap, VecDeque};

/// Lists of open fetches by key: as many as a group may have by default.
const LIST_COUNT: usize = 1 << 14;
/// A list of waiters that has become longer than this is not kept for the next fetch.
const WAITERS_KEPT: usize = 16;
/// No fetch.
const NONE: u32 = u32::MAX;

/// How many there may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct FetchLimits {
    /// Fetches of one store group, queued and sent.
    pub(super) of_group: usize,
    /// Those of them for which nothing is held: the store has to find a value.
    pub(super) misses_of_group: usize,
    /// Gets that wait, in all.
    pub(super) waiting: usize,
}

/// What a group has under way.
#[derive(Clone, Copy, Debug, Default)]
struct Load {
    fetches: usize,
    misses: usize,
}

/// Where a key is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Where {
    /// Its group.
    pub(super) group: u16,
    /// The node that is asked first.
    pub(super) node: u32,
}

struct Fetch<W> {
    space: Space,
    time: u64,
    stream: Vec<u8>,
    spot: Spot,
    at: Where,
    is_miss: bool,
    /// The version that was held when it was asked about; none: it has to be looked up.
    held: Option<Version>,
    is_open: bool,
    is_sent: bool,
    /// The next one of its list.
    next: u32,
    /// Hear the answer.
    waiters: Vec<W>,
    /// Came after it had left: wait for the next one.
    later: Vec<W>,
}

impl<W> Fetch<W> {
    fn is_of(&self, key: &Key<'_>) -> bool {
        self.time == key.time && self.space == key.space && self.stream == key.stream
    }
}

/// What became of a get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// A fetch of its own.
    New,
    /// It shares one that has not left.
    Shared,
    /// It waits for one that has left to end, and then for the next.
    Later,
    /// There is no room for it.
    Full,
}

/// A fetch that leaves.
pub(super) struct Leaving {
    /// Its number, until it ends.
    pub(super) number: u32,
    space: Space,
    time: u64,
    /// Its stream, in the bytes of its batch.
    stream: (u32, u8),
    /// Where the key belongs in the value rings.
    pub(super) spot: Spot,
    /// The version held when it was asked about; none where another answer may have come since.
    pub(super) held: Option<Version>,
}

/// Fetches that leave together.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) parts: Vec<Leaving>,
    pub(super) streams: Vec<u8>,
}

impl Leaving {
    /// Its key, given the streams of its batch.
    pub(super) fn key<'a>(&self, streams: &'a [u8]) -> Key<'a> {
        let (at, bytes) = (self.stream.0 as usize, usize::from(self.stream.1));
        Key { space: self.space, stream: &streams[at..at + bytes], time: self.time }
    }
}

/// The fetches of a core. `W` is who waits.
pub(super) struct Fetches<W> {
    limits: FetchLimits,
    /// Open ones and free ones, by number.
    fetches: Vec<Fetch<W>>,
    free: Vec<u32>,
    /// The first open one of each list.
    lists: Box<[u32]>,
    /// By node, what has not left.
    queues: BTreeMap<u32, VecDeque<u32>>,
    loads: BTreeMap<u16, Load>,
    waiting: usize,
}

/// The list of a key: by bits that a client cannot choose.
fn list_of(spot: &Spot) -> usize {
    spot.tag as usize % LIST_COUNT
}

impl<W> Fetches<W> {
    pub(super) fn new(limits: FetchLimits) -> Fetches<W> {
        Fetches {
            limits,
            fetches: Vec::new(),
            free: Vec::new(),
            lists: vec![NONE; LIST_COUNT].into(),
            queues: BTreeMap::new(),
            loads: BTreeMap::new(),
            waiting: 0,
        }
    }

    fn of(&mut self, number: u32) -> &mut Fetch<W> {
        let fetch = &mut self.fetches[number as usize];
        assert!(fetch.is_open, "a fetch ends once");
        fetch
    }

    fn find(&mut self, spot: &Spot, key: &Key<'_>) -> Option<&mut Fetch<W>> {
        let mut number = self.lists[list_of(spot)];
        while number != NONE {
            let fetch = &self.fetches[number as usize];
            if fetch.is_of(key) {
                return Some(&mut self.fetches[number as usize]);
            }
            number = fetch.next;
        }
        None
    }

    /// Somebody asks about a key. `spot`: where it belongs in the value rings; `held`: the version that they hold.
    pub(super) fn ask(
        &mut self,
        key: &Key<'_>,
        spot: &Spot,
        at: Where,
        held: Option<Version>,
        waiter: W,
    ) -> Asked {
        let is_miss = held.is_none();
        if self.waiting >= self.limits.waiting {
            return Asked::Full;
        }
        if let Some(fetch) = self.find(spot, key) {
            let is_late = fetch.is_sent && !ioengine::canary("share_a_fetch_that_has_left");
            let list = if is_late { &mut fetch.later } else { &mut fetch.waiters };
            list.push(waiter);
            self.waiting += 1;
            if is_late {
                ioengine::sometimes!("a get waits for the next fetch");
            }
            return if is_late { Asked::Later } else { Asked::Shared };
        }
        let load = self.loads.entry(at.group).or_default();
        if load.fetches >= self.limits.of_group || (is_miss && load.misses >= self.limits.misses_of_group) {
            return Asked::Full;
        }
        load.fetches += 1;
        load.misses += usize::from(is_miss);
        self.waiting += 1;
        let held = Some(held.unwrap_or(Version::ABSENT));
        let next = self.lists[list_of(spot)];
        let number = self.free.pop().unwrap_or_else(|| {
            let number = u32::try_from(self.fetches.len()).expect("waiters are bounded");
            self.fetches.push(Fetch {
                space: key.space,
                time: key.time,
                stream: Vec::new(),
                spot: *spot,
                at,
                is_miss,
                held,
                is_open: false,
                is_sent: false,
                next,
                waiters: Vec::new(),
                later: Vec::new(),
            });
            number
        });
        let fetch = &mut self.fetches[number as usize];
        assert!(!fetch.is_open && fetch.waiters.is_empty() && fetch.later.is_empty(), "a free one is empty");
        (fetch.space, fetch.time, fetch.spot, fetch.at) = (key.space, key.time, *spot, at);
        (fetch.is_miss, fetch.held, fetch.is_open, fetch.is_sent) = (is_miss, held, true, false);
        fetch.next = next;
        fetch.stream.clear();
        fetch.stream.extend_from_slice(key.stream);
        fetch.waiters.push(waiter);
        self.lists[list_of(spot)] = number;
        self.queues.entry(at.node).or_default().push_back(number);
        Asked::New
    }

    /// Nodes that something waits for.
    pub(super) fn nodes(&self) -> impl Iterator<Item = u32> + '_ {
        self.queues.iter().filter(|(_, queue)| !queue.is_empty()).map(|(node, _)| *node)
    }

    /// The next fetches for a node leave now, at most so many.
    pub(super) fn take(&mut self, node: u32, count_max: usize) -> Batch {
        let mut batch = Batch::default();
        let Some(queue) = self.queues.get_mut(&node) else { return batch };
        batch.parts.reserve_exact(queue.len().min(count_max));
        while batch.parts.len() < count_max
            && let Some(number) = queue.pop_front()
        {
            let fetch = &mut self.fetches[number as usize];
            assert!(fetch.is_open && !fetch.is_sent, "what is queued is open");
            fetch.is_sent = true;
            let stream = (batch.streams.len() as u32, fetch.stream.len() as u8);
            batch.streams.extend_from_slice(&fetch.stream);
            let Fetch { space, time, spot, .. } = *fetch;
            batch.parts.push(Leaving { number, space, time, stream, spot, held: fetch.held.take() });
        }
        batch
    }

    /// The answer to a fetch is there, or there is none: who waited for it is added to `waited`. Who came later is queued again.
    pub(super) fn finish(&mut self, number: u32, waited: &mut Vec<W>) {
        let fetch = self.of(number);
        assert!(fetch.is_sent, "what was never asked has no answer");
        let count = fetch.waiters.len();
        waited.append(&mut fetch.waiters);
        if fetch.later.is_empty() {
            self.end(number);
        } else {
            std::mem::swap(&mut fetch.waiters, &mut fetch.later);
            fetch.is_sent = false;
            let node = fetch.at.node;
            self.queues.entry(node).or_default().push_back(number);
        }
        self.waiting -= count;
    }

    fn end(&mut self, number: u32) {
        let fetch = self.of(number);
        fetch.is_open = false;
        for list in [&mut fetch.waiters, &mut fetch.later] {
            if list.capacity() > WAITERS_KEPT {
                *list = Vec::new();
            }
        }
        let (list, next, at, is_miss) = (list_of(&fetch.spot), fetch.next, fetch.at, fetch.is_miss);
        if self.lists[list] == number {
            self.lists[list] = next;
        } else {
            let mut before = self.lists[list];
            while self.fetches[before as usize].next != number {
                before = self.fetches[before as usize].next;
            }
            self.fetches[before as usize].next = next;
        }
        self.free.push(number);
        let load = self.loads.entry(at.group).or_default();
        load.fetches -= 1;
        load.misses -= usize::from(is_miss);
    }

    /// Take out everybody who has waited for too long. A fetch that nobody waits for any more, and that has not left, does not leave.
    pub(super) fn give_up(&mut self, is_overdue: impl Fn(&W) -> bool) -> Vec<W> {
        let mut gone = Vec::new();
        let mut idle = Vec::new();
        for (number, fetch) in (0..).zip(&mut self.fetches).filter(|(_, fetch)| fetch.is_open) {
            for list in [&mut fetch.waiters, &mut fetch.later] {
                gone.extend(list.extract_if(.., |waiter| is_overdue(waiter)));
            }
            if !fetch.is_sent && fetch.waiters.is_empty() {
                idle.push((number, fetch.at.node));
            }
        }
        for (number, node) in idle {
            self.queues.entry(node).or_default().retain(|queued| *queued != number);
            self.end(number);
        }
        self.waiting -= gone.len();
        gone
    }

    /// Gets that wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Fetches that are open.
    pub(super) fn count(&self) -> usize {
        self.fetches.len() - self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const LIMITS: FetchLimits = FetchLimits { of_group: 3, misses_of_group: 2, waiting: 6 };

    fn key(time: u64) -> Key<'static> {
        Key { space: Space(0), stream: b"a", time }
    }

    /// All keys are in one list.
    const SPOT: Spot = Spot { chain: 0, line: 0, tag: 7 };

    const AT: Where = Where { group: 0, node: 4 };

    /// Numbers and times of what leaves.
    fn taken(fetches: &mut Fetches<u32>) -> Vec<(u32, u64)> {
        let Batch { parts, streams } = fetches.take(4, 10);
        parts.iter().map(|leaving| (leaving.number, leaving.key(&streams).time)).collect()
    }

    fn finish(fetches: &mut Fetches<u32>, number: u32) -> Vec<u32> {
        let mut waited = Vec::new();
        fetches.finish(number, &mut waited);
        waited
    }

    #[test]
    fn a_get_shares_what_has_not_left_and_nothing_else() {
        let mut fetches = Fetches::new(LIMITS);
        assert_eq!(fetches.ask(&key(1), &SPOT, AT, None, 10), Asked::New);
        assert_eq!(fetches.ask(&key(1), &SPOT, AT, None, 11), Asked::Shared);
        assert_eq!(taken(&mut fetches), [(0, 1)]);
        assert_eq!(fetches.ask(&key(1), &SPOT, AT, None, 12), Asked::Later);
        assert!(taken(&mut fetches).is_empty(), "one per key is under way");
        assert_eq!(finish(&mut fetches, 0), [10, 11]);
        assert_eq!(fetches.ask(&key(1), &SPOT, AT, None, 13), Asked::Shared, "the next has not left yet");
        assert_eq!(taken(&mut fetches), [(0, 1)]);
        assert_eq!(finish(&mut fetches, 0), [12, 13]);
        assert_eq!((fetches.count(), fetches.waiting()), (0, 0));
        assert_eq!(fetches.nodes().count(), 0);
    }

    #[test]
    fn fetches_misses_and_waiters_are_bounded() {
        let mut fetches = Fetches::new(LIMITS);
        assert_eq!(fetches.ask(&key(1), &SPOT, AT, None, 0), Asked::New);
        assert_eq!(fetches.ask(&key(2), &SPOT, AT, None, 0), Asked::New);
        assert_eq!(fetches.ask(&key(3), &SPOT, AT, None, 0), Asked::Full, "a third miss");
        assert_eq!(fetches.ask(&key(3), &SPOT, AT, Some(Version(7)), 0), Asked::New);
        assert_eq!(
            fetches.ask(&key(4), &SPOT, AT, Some(Version(7)), 0),
            Asked::Full,
            "a fourth of the group"
        );
        let other = Where { group: 1, node: 5 };
        assert_eq!(fetches.ask(&key(4), &SPOT, other, None, 0), Asked::New, "another group has its own");
        assert_eq!(fetches.ask(&key(1), &SPOT, AT, None, 0), Asked::Shared);
        assert_eq!(fetches.ask(&key(1), &SPOT, AT, None, 0), Asked::Shared);
        assert_eq!(fetches.ask(&key(1), &SPOT, AT, None, 0), Asked::Full, "all may wait that may");
        assert_eq!(taken(&mut fetches).len(), 3);
        assert_eq!(finish(&mut fetches, 0).len(), 3);
        assert_eq!(fetches.ask(&key(9), &SPOT, AT, None, 0), Asked::New, "room came back");
    }

    #[test]
    fn who_gave_up_is_forgotten_and_what_nobody_wants_is_not_asked() {
        let mut fetches = Fetches::new(LIMITS);
        fetches.ask(&key(1), &SPOT, AT, None, 1);
        fetches.ask(&key(2), &SPOT, AT, None, 2);
        assert_eq!(fetches.take(4, 1).parts.len(), 1);
        fetches.ask(&key(1), &SPOT, AT, None, 3);
        let mut gone = fetches.give_up(|waiter| *waiter < 3);
        gone.sort_unstable();
        assert_eq!(gone, [1, 2]);
        assert!(taken(&mut fetches).is_empty(), "nobody waits for key 2");
        assert!(finish(&mut fetches, 0).is_empty(), "nobody is there to hear it");
        assert_eq!(taken(&mut fetches), [(0, 1)], "but who came later is");
        assert_eq!(finish(&mut fetches, 0), [3]);
        assert_eq!((fetches.count(), fetches.waiting()), (0, 0));
    }

    proptest! {
        /// Whatever comes, leaves and ends, in lists of two keys and more: each get is answered once, by a question that left after it came,
        /// and about its own key.
        #[test]
        fn every_get_is_answered_once_about_its_own_key(steps in proptest::collection::vec((0u8..4, 0u64..6), 0..200)) {
            let limits = FetchLimits { of_group: 100, misses_of_group: 100, waiting: 1000 };
            let mut fetches: Fetches<(u64, u64)> = Fetches::new(limits);
            let mut sent: Vec<(u32, u64, u64)> = Vec::new();
            let (mut asked, mut answered) = (0u64, BTreeSet::new());
            let mut end = |fetches: &mut Fetches<(u64, u64)>, (number, time, before): (u32, u64, u64)| {
                let mut waited = Vec::new();
                fetches.finish(number, &mut waited);
                for (of, who) in waited {
                    assert_eq!(of, time, "another key's answer");
                    assert!(who < before, "it came after the question had left");
                    assert!(answered.insert(who), "answered twice");
                }
            };
            let all_end = (0..50).flat_map(|_| [(2, 0), (3, 0)]);
            for (what, pick) in steps.into_iter().chain(all_end) {
                match what {
                    0 | 1 => {
                        let spot = Spot { tag: (pick % 2) as u32, ..SPOT };
                        fetches.ask(&key(pick), &spot, AT, None, (pick, asked));
                        asked += 1;
                    }
                    2 => {
                        let Batch { parts, streams } = fetches.take(4, 1 + pick as usize);
                        sent.extend(parts.iter().map(|part| (part.number, part.key(&streams).time, asked)));
                    }
                    _ if sent.is_empty() => {}
                    _ => {
                        let one = sent.swap_remove(pick as usize % sent.len());
                        end(&mut fetches, one);
                    }
                }
            }
            prop_assert_eq!((answered.len() as u64, fetches.count(), fetches.waiting()), (asked, 0, 0));
        }
    }
}
