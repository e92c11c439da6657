//! Gets through the caches that the map names, PROTOCOL.md section 10: which go there, which cache is asked, and when the store is.
//!
//! Must never end a call with what a cache could not do: the store is the last resort. Invariant: a cache is asked gets only.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use ioengine::Instant;
use layout::key::Key;

use super::Client;
use super::call::{Finished, WAIT_MIN};
use super::error::ClientError;
use super::link::{Link, jittered};
use crate::outcome::Outcome;
use crate::reply::Answer;
use crate::request::Request;

/// How often all caches are asked that are busy, before the store is: a cache that is cold and says so is what stands between the
/// store and all its misses at once.
pub(super) const BUSY_ROUNDS: u32 = 3;

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
}

#[derive(Default)]
pub(super) struct Counted {
    by_cache: Cell<u64>,
    fell_back: Cell<u64>,
}

/// What came of asking one cache.
enum Asked {
    Answered(Finished),
    Busy(Duration),
    /// No answer, or none that helps.
    Nothing,
}

impl Client {
    /// What it has counted of its gets, with all its clones.
    pub fn routed(&self) -> Routed {
        let counted = &self.shared.counted;
        Routed { by_cache: counted.by_cache.get(), fell_back: counted.fell_back.get() }
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

    /// Asks the caches, in an order drawn anew. None: the store has to be asked.
    pub(super) async fn of_caches(&self, request: &Request<'_>, deadline: Instant) -> Option<Finished> {
        let counted = &self.shared.counted;
        for round in 0..BUSY_ROUNDS {
            let mut hint = Duration::ZERO;
            let mut is_lost = false;
            for link in self.cache_links() {
                match self.ask_cache(&link, request, deadline).await {
                    Asked::Answered(finished) => {
                        counted.by_cache.set(counted.by_cache.get() + 1);
                        return Some(finished);
                    }
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
        counted.fell_back.set(counted.fell_back.get() + 1);
        None
    }

    /// The ways to all caches of the map, in an order drawn now.
    fn cache_links(&self) -> Vec<Rc<Link>> {
        let router = Rc::clone(&*self.shared.router.borrow());
        let mut links: Vec<Rc<Link>> = router.map().caches().map(|node| self.link_to(node)).collect();
        for place in (1..links.len()).rev() {
            links.swap(place, (self.io().random() % (place as u64 + 1)) as usize);
        }
        links
    }

    async fn ask_cache(&self, link: &Rc<Link>, request: &Request<'_>, deadline: Instant) -> Asked {
        if !link.is_of_use() {
            return Asked::Nothing;
        }
        let until = deadline.min(self.io().now().after(self.config().patience));
        let Some(Ok(connection)) = link.connection(until).await else { return Asked::Nothing };
        let Ok(answered) = connection.call(request, self.epoch(), until).await else { return Asked::Nothing };
        self.learn_epoch(link, answered.map_epoch);
        let finished = Finished::new(request.operation(), answered);
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

    /// A get, by way of a cache where that is its way.
    pub(super) async fn read(&self, key: &Key<'_>, request: Request<'_>) -> Result<Finished, ClientError> {
        let target = self.placed(key.space, key.stream)?;
        let deadline = self.io().now().after(self.deadline);
        if self.is_for_cache(key)
            && let Some(finished) = self.of_caches(&request, deadline).await
        {
            return Ok(finished);
        }
        self.call_until(target, request, deadline).await
    }
}
