//! Gets through the caches that the map names, PROTOCOL.md section 10: which go there, which cache is asked, and when the store is.
//!
//! A slow cache is not waited for alone (`hedge.rs`). Must never end a call with what a cache could not do: the store is the last resort. Invariant: a cache is asked gets only.

use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use ioengine::Instant;
use ioengine::sync::{Either, race};
use layout::key::Key;

use super::Client;
use super::call::{Finished, Target, WAIT_MIN};
use super::error::ClientError;
use super::link::{Link, jittered};
use crate::outcome::Outcome;
use crate::reply::Answer;
use crate::request::Request;

/// How often all caches are asked that are busy, before the store is: a cache that is cold and says so is what stands between the
/// store and all its misses at once.
pub(super) const BUSY_ROUNDS: u32 = 3;

/// Until it is known what most answers take, a cache may take this part of the patience, one of so many.
const UNKNOWN_PART: u32 = 8;

/// Where a client sends its gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Through {
    /// To caches or to the store, as the cluster map says.
    #[default]
    Map,
    /// To the store, whatever the map says.
    Store,
    /// To the caches that the map names, however old the records.
    Caches,
}

/// What a client has counted of its gets; multi-gets count as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Routed {
    /// Answered by a cache.
    pub by_cache: u64,
    /// A cache was to answer, and none did: the store was asked.
    pub fell_back: u64,
    /// Asked of somebody else, too, because a cache was slow.
    pub hedged: u64,
    /// Of these, those whose second answer came first.
    pub hedges_won: u64,
}

#[derive(Default)]
pub(super) struct Counted {
    by_cache: Cell<u64>,
    fell_back: Cell<u64>,
    hedged: Cell<u64>,
    hedges_won: Cell<u64>,
}

fn count(counter: &Cell<u64>) {
    counter.set(counter.get() + 1);
}

/// What came of asking one cache.
enum Asked {
    Answered(Finished),
    Busy(Duration),
    /// No answer, or none that helps.
    Nothing,
}

impl Asked {
    /// This, or what another said before; who gave no answer makes the store be asked.
    fn or(self, before: Asked) -> Asked {
        match (self, before) {
            (Asked::Answered(finished), _) => Asked::Answered(finished),
            (Asked::Busy(one), Asked::Busy(other)) => Asked::Busy(one.max(other)),
            _ => Asked::Nothing,
        }
    }
}

/// An answer to a get, as far as it is one.
fn answered(finished: Finished) -> Asked {
    match finished.answer() {
        Answer::Not(Outcome::Busy { hint_ms, .. }) => {
            Asked::Busy(Duration::from_millis(u64::from(hint_ms)).max(WAIT_MIN))
        }
        Answer::Not(Outcome::NotFound | Outcome::NotModified)
        | Answer::Record { .. }
        | Answer::MultiGet(_) => Asked::Answered(finished),
        _ => Asked::Nothing,
    }
}

impl Client {
    /// What it has counted of its gets, with all its clones.
    pub fn routed(&self) -> Routed {
        let counted = &self.shared.counted;
        Routed {
            by_cache: counted.by_cache.get(),
            fell_back: counted.fell_back.get(),
            hedged: counted.hedged.get(),
            hedges_won: counted.hedges_won.get(),
        }
    }

    /// Whether a get of this key goes to a cache first.
    pub(super) fn is_for_cache(&self, key: &Key<'_>) -> bool {
        let router = self.shared.router.borrow();
        let map = router.map();
        if self.local || map.caches().next().is_none() {
            return false;
        }
        match self.config().through {
            Through::Store => false,
            Through::Caches => true,
            Through::Map => map.is_for_cache(key.space, key.stream, key.time, self.io().wall_us()),
        }
    }

    /// Asks the caches, in an order drawn anew, and the tablet's replicas where a slow cache is the last. None: the store has to be
    /// asked.
    pub(super) async fn of_caches(
        &self,
        target: Target,
        request: &Request<'_>,
        deadline: Instant,
    ) -> Option<Finished> {
        let counted = &self.shared.counted;
        self.shared.hedged.earn();
        for round in 0..BUSY_ROUNDS {
            let mut hint = Duration::ZERO;
            let mut is_lost = false;
            let links = self.cache_links();
            let mut at = 0;
            while at < links.len() {
                let (asked, count_asked) = self.ask_hedged(&links[at..], target, request, deadline).await;
                at += count_asked;
                match asked {
                    Asked::Answered(finished) => return Some(finished),
                    Asked::Busy(wait) => hint = hint.max(wait),
                    Asked::Nothing => is_lost = true,
                }
            }
            if is_lost || hint.is_zero() {
                break;
            }
            ioengine::sometimes!("a client waits for busy caches");
            let wait = jittered(self.io(), hint.saturating_mul(1 << round));
            self.io().sleep_until(self.io().now().after(wait).min(deadline)).await;
        }
        ioengine::sometimes!("a client asks the store in place of caches");
        count(&counted.fell_back);
        None
    }

    /// Asks the first of these caches; when it takes longer than most answers do, and the share of such gets allows it, the next
    /// one, too, or the store behind the last: the first answer holds. How many of the caches were asked.
    async fn ask_hedged(
        &self,
        links: &[Rc<Link>],
        target: Target,
        request: &Request<'_>,
        deadline: Instant,
    ) -> (Asked, usize) {
        let mut first = pin!(self.ask_cache(&links[0], request, deadline));
        let after = self.hedge_after(links.iter());
        if let Either::First(asked) = race(first.as_mut(), self.io().sleep(after)).await {
            return (asked, 1);
        }
        let shared = &self.shared;
        if !shared.hedged.spend() {
            return (first.await, 1);
        }
        ioengine::sometimes!("a slow get is asked of somebody else, too");
        count(&shared.counted.hedged);
        let next = links.get(1);
        let count_asked = 1 + usize::from(next.is_some());
        let mut second = pin!(async {
            match next {
                Some(link) => self.ask_cache(link, request, deadline).await,
                None => self.ask_store(target, request, deadline).await,
            }
        });
        let (asked, is_second) = match race(first.as_mut(), second.as_mut()).await {
            Either::First(asked @ Asked::Answered(_)) => (asked, false),
            Either::Second(asked @ Asked::Answered(_)) => (asked, true),
            Either::First(none) => (second.await.or(none), true),
            Either::Second(none) => (first.await.or(none), false),
        };
        if is_second && matches!(asked, Asked::Answered(_)) {
            count(&shared.counted.hedges_won);
        }
        (asked, count_asked)
    }

    /// How long a cache may take before somebody else is asked: what most answers of the quickest of them take.
    fn hedge_after<'a>(&self, links: impl Iterator<Item = &'a Rc<Link>>) -> Duration {
        let config = self.config();
        let most = links.filter_map(|link| link.taken.most()).min();
        most.unwrap_or(config.patience / UNKNOWN_PART).max(config.hedge_floor)
    }

    /// The ways to all caches of the map, in an order drawn now; those that keep others waiting come last.
    fn cache_links(&self) -> Vec<Rc<Link>> {
        let router = Rc::clone(&*self.shared.router.borrow());
        let mut links: Vec<Rc<Link>> = router.map().caches().map(|node| self.link_to(node)).collect();
        for place in (1..links.len()).rev() {
            links.swap(place, (self.io().random() % (place as u64 + 1)) as usize);
        }
        let after = self.hedge_after(links.iter());
        links.sort_by_key(|link| link.is_slow(after));
        links
    }

    async fn ask_store(&self, target: Target, request: &Request<'_>, deadline: Instant) -> Asked {
        match self.call_until(target, *request, deadline).await {
            Ok(finished) => answered(finished),
            Err(_) => Asked::Nothing,
        }
    }

    async fn ask_cache(&self, link: &Rc<Link>, request: &Request<'_>, deadline: Instant) -> Asked {
        if !link.is_of_use() {
            return Asked::Nothing;
        }
        let until = deadline.min(self.io().now().after(self.config().patience));
        let Some(Ok(connection)) = link.connection(until).await else { return Asked::Nothing };
        let begun = self.io().now();
        let Ok(came) = connection.call(request, self.epoch(), until).await else { return Asked::Nothing };
        self.learn_epoch(link, came.map_epoch);
        let asked = answered(Finished::new(request.operation(), came));
        if matches!(asked, Asked::Answered(_)) {
            link.taken.add(self.io().now().since(begun));
            count(&self.shared.counted.by_cache);
        }
        asked
    }

    /// A get, by way of a cache where that is its way.
    pub(super) async fn read(
        &self,
        key: &Key<'_>,
        request: Request<'_>,
        deadline: Instant,
    ) -> Result<Finished, ClientError> {
        let target = self.placed(key.space, key.stream)?;
        if self.is_for_cache(key)
            && let Some(finished) = self.of_caches(target, &request, deadline).await
        {
            return Ok(finished);
        }
        self.call_until(target, request, deadline).await
    }
}
