//! Fetches of a core of a cache node: which keys are being asked about, and who waits for the answer. Pure: no clock, no I/O.
//!
//! Must never give a get an answer to a question that had left before the get came: the store may have looked at its log before
//! a write that was acknowledged before the get began. (Failing history: get A leaves; the store finds version 1; a put of version 2
//! is acknowledged; get B comes, shares A's fetch, and is told version 1.) Invariant: one fetch per key; who comes while it is
//! under way waits for the next one.
//!
//! ```text
//! ask ──► queued, may be shared ──take──► sent ──finish──► answered
//!                  ▲                       │ who came meanwhile
//!                  └───────────────────────┘
//! ```

use layout::units::Version;
use net::client::OwnedKey;
use std::collections::{BTreeMap, VecDeque};

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
    key: OwnedKey,
    at: Where,
    is_miss: bool,
    /// The version that was held when it was asked about; none: it has to be looked up.
    held: Option<Version>,
    is_sent: bool,
    /// Hear the answer.
    waiters: Vec<W>,
    /// Came after it had left: wait for the next one.
    later: Vec<W>,
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
    pub(super) number: u64,
    pub(super) key: OwnedKey,
    /// The version held when it was asked about; none where another answer may have come since.
    pub(super) held: Option<Version>,
}

/// The fetches of a core. `W` is who waits.
pub(super) struct Fetches<W> {
    limits: FetchLimits,
    /// By number, never used again.
    open: BTreeMap<u64, Fetch<W>>,
    by_key: BTreeMap<(u16, u64, Vec<u8>), u64>,
    /// By node, what has not left.
    queues: BTreeMap<u32, VecDeque<u64>>,
    loads: BTreeMap<u16, Load>,
    waiting: usize,
    next: u64,
}

fn name(key: &OwnedKey) -> (u16, u64, Vec<u8>) {
    (key.space.0, key.time, key.stream.clone())
}

impl<W> Fetches<W> {
    pub(super) fn new(limits: FetchLimits) -> Fetches<W> {
        Fetches {
            limits,
            open: BTreeMap::new(),
            by_key: BTreeMap::new(),
            queues: BTreeMap::new(),
            loads: BTreeMap::new(),
            waiting: 0,
            next: 0,
        }
    }

    /// Somebody asks about a key. `held`: the version that is held of it.
    pub(super) fn ask(&mut self, key: &OwnedKey, at: Where, held: Option<Version>, waiter: W) -> Asked {
        let is_miss = held.is_none();
        if self.waiting >= self.limits.waiting {
            return Asked::Full;
        }
        let known = self.by_key.get(&name(key)).copied();
        if let Some(fetch) = known.and_then(|number| self.open.get_mut(&number)) {
            self.waiting += 1;
            if fetch.is_sent && !ioengine::canary("share_a_fetch_that_has_left") {
                ioengine::sometimes!("a get waits for the next fetch");
                fetch.later.push(waiter);
                return Asked::Later;
            }
            fetch.waiters.push(waiter);
            return Asked::Shared;
        }
        let load = self.loads.entry(at.group).or_default();
        if load.fetches >= self.limits.of_group || (is_miss && load.misses >= self.limits.misses_of_group) {
            return Asked::Full;
        }
        load.fetches += 1;
        load.misses += usize::from(is_miss);
        self.waiting += 1;
        let number = self.next;
        self.next += 1;
        let fetch = Fetch {
            key: key.clone(),
            at,
            is_miss,
            held: Some(held.unwrap_or(Version::ABSENT)),
            is_sent: false,
            waiters: vec![waiter],
            later: Vec::new(),
        };
        self.open.insert(number, fetch);
        self.by_key.insert(name(key), number);
        self.queues.entry(at.node).or_default().push_back(number);
        Asked::New
    }

    /// Nodes that something waits for.
    pub(super) fn nodes(&self) -> impl Iterator<Item = u32> + '_ {
        self.queues.iter().filter(|(_, queue)| !queue.is_empty()).map(|(node, _)| *node)
    }

    /// The next fetches for a node leave now, at most so many.
    pub(super) fn take(&mut self, node: u32, count_max: usize) -> Vec<Leaving> {
        let mut batch = Vec::new();
        let Some(queue) = self.queues.get_mut(&node) else { return batch };
        while batch.len() < count_max
            && let Some(number) = queue.pop_front()
        {
            let fetch = self.open.get_mut(&number).expect("what is queued is open");
            fetch.is_sent = true;
            batch.push(Leaving { number, key: fetch.key.clone(), held: fetch.held.take() });
        }
        batch
    }

    /// The answer to a fetch is there, or there is none: who waited for it. Who came later is queued again.
    pub(super) fn finish(&mut self, number: u64) -> Vec<W> {
        let fetch = self.open.get_mut(&number).expect("a fetch ends once");
        assert!(fetch.is_sent, "what was never asked has no answer");
        let waiters = std::mem::take(&mut fetch.waiters);
        self.waiting -= waiters.len();
        if fetch.later.is_empty() {
            self.end(number);
        } else {
            fetch.waiters = std::mem::take(&mut fetch.later);
            fetch.is_sent = false;
            self.queues.entry(fetch.at.node).or_default().push_back(number);
        }
        waiters
    }

    fn end(&mut self, number: u64) {
        let fetch = self.open.remove(&number).expect("a fetch ends once");
        self.by_key.remove(&name(&fetch.key));
        let load = self.loads.entry(fetch.at.group).or_default();
        load.fetches -= 1;
        load.misses -= usize::from(fetch.is_miss);
    }

    /// Take out everybody who has waited for too long. A fetch that nobody waits for any more, and that has not left, does not leave.
    pub(super) fn give_up(&mut self, is_overdue: impl Fn(&W) -> bool) -> Vec<W> {
        let mut gone = Vec::new();
        let mut idle = Vec::new();
        for (number, fetch) in &mut self.open {
            for list in [&mut fetch.waiters, &mut fetch.later] {
                gone.extend(list.extract_if(.., |waiter| is_overdue(waiter)));
            }
            if !fetch.is_sent && fetch.waiters.is_empty() {
                idle.push((*number, fetch.at.node));
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

    /// Fetches queued and sent.
    pub(super) fn count(&self) -> usize {
        self.open.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use layout::units::Space;

    const LIMITS: FetchLimits = FetchLimits { of_group: 3, misses_of_group: 2, waiting: 6 };

    fn key(time: u64) -> OwnedKey {
        OwnedKey { space: Space(0), stream: b"a".to_vec(), time }
    }

    const AT: Where = Where { group: 0, node: 4 };

    fn taken(fetches: &mut Fetches<u32>) -> Vec<(u64, u64)> {
        fetches.take(4, 10).iter().map(|leaving| (leaving.number, leaving.key.time)).collect()
    }

    #[test]
    fn a_get_shares_what_has_not_left_and_nothing_else() {
        let mut fetches = Fetches::new(LIMITS);
        assert_eq!(fetches.ask(&key(1), AT, None, 10), Asked::New);
        assert_eq!(fetches.ask(&key(1), AT, None, 11), Asked::Shared);
        assert_eq!(taken(&mut fetches), [(0, 1)]);
        assert_eq!(fetches.ask(&key(1), AT, None, 12), Asked::Later);
        assert!(taken(&mut fetches).is_empty(), "one per key is under way");
        assert_eq!(fetches.finish(0), [10, 11]);
        assert_eq!(fetches.ask(&key(1), AT, None, 13), Asked::Shared, "the next has not left yet");
        assert_eq!(taken(&mut fetches), [(0, 1)]);
        assert_eq!(fetches.finish(0), [12, 13]);
        assert_eq!((fetches.count(), fetches.waiting()), (0, 0));
        assert_eq!(fetches.nodes().count(), 0);
    }

    #[test]
    fn fetches_misses_and_waiters_are_bounded() {
        let mut fetches = Fetches::new(LIMITS);
        assert_eq!(fetches.ask(&key(1), AT, None, 0), Asked::New);
        assert_eq!(fetches.ask(&key(2), AT, None, 0), Asked::New);
        assert_eq!(fetches.ask(&key(3), AT, None, 0), Asked::Full, "a third miss");
        assert_eq!(fetches.ask(&key(3), AT, Some(Version(7)), 0), Asked::New);
        assert_eq!(fetches.ask(&key(4), AT, Some(Version(7)), 0), Asked::Full, "a fourth of the group");
        let other = Where { group: 1, node: 5 };
        assert_eq!(fetches.ask(&key(4), other, None, 0), Asked::New, "another group has its own");
        assert_eq!(fetches.ask(&key(1), AT, None, 0), Asked::Shared);
        assert_eq!(fetches.ask(&key(1), AT, None, 0), Asked::Shared);
        assert_eq!(fetches.ask(&key(1), AT, None, 0), Asked::Full, "all may wait that may");
        assert_eq!(taken(&mut fetches).len(), 3);
        assert_eq!(fetches.finish(0).len(), 3);
        assert_eq!(fetches.ask(&key(9), AT, None, 0), Asked::New, "room came back");
    }

    #[test]
    fn who_gave_up_is_forgotten_and_what_nobody_wants_is_not_asked() {
        let mut fetches = Fetches::new(LIMITS);
        fetches.ask(&key(1), AT, None, 1);
        fetches.ask(&key(2), AT, None, 2);
        assert_eq!(fetches.take(4, 1).len(), 1);
        fetches.ask(&key(1), AT, None, 3);
        let mut gone = fetches.give_up(|waiter| *waiter < 3);
        gone.sort_unstable();
        assert_eq!(gone, [1, 2]);
        assert!(taken(&mut fetches).is_empty(), "nobody waits for key 2");
        assert!(fetches.finish(0).is_empty(), "nobody is there to hear it");
        assert_eq!(taken(&mut fetches), [(0, 1)], "but who came later is");
        assert_eq!(fetches.finish(0), [3]);
        assert_eq!((fetches.count(), fetches.waiting()), (0, 0));
    }
}
