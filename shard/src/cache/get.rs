//! Life of a get on a core of a cache node: what is held, one question to the store, the answer.
//!
//! Must never answer without the store's word. Invariant: whoever is answered began to wait before the question left.
//!
//! | step | where |
//! |---|---|
//! | the key is asked about, alone or with others that wait for it | `ask`, `fetch.rs` |
//! | what waits for a node leaves as one batch, with the version held of each key | `run`, `leave` |
//! | "not modified": the value held is shown; another version: it is shown and kept; none: that is kept | `hear` |

use super::core::{Cache, Waiter};
use super::fetch::{Asked, Batch, Leaving, Where};
use ioengine::Queue;
use ioengine::sync::race;
use layout::key::Key;
use layout::units::{LogTime, Version};
use layout::value_entry::Entry;
use net::outcome::{Limit, Outcome};
use net::reply::{Answer, Reply};
use net::request::Get;
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

/// When to come again if there was no room.
const HINT_MS: u32 = 5;
/// Questions about one fetch: the value that was held can be gone when the store says that it is still the newest.
const ASKS_MAX: u32 = 2;

/// What is shown of a key.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shown<'a> {
    Record {
        version: Version,
        expiry: u64,
        value: &'a [u8],
    },
    /// There is none, or none can be shown, and why.
    Not(Outcome),
}

impl<'a> Shown<'a> {
    /// The same for who has asked for newer than a version.
    pub(super) fn to(self, if_newer: Option<Version>) -> Shown<'a> {
        match (self, if_newer) {
            (Shown::Record { version, .. }, Some(asked)) if version == asked => {
                Shown::Not(Outcome::NotModified)
            }
            (Shown::Not(Outcome::NotFound), Some(Version::ABSENT)) => Shown::Not(Outcome::NotModified),
            _ => self,
        }
    }
}

/// A get arrives.
pub(super) fn ask(cache: &Rc<Cache>, key: &Key<'_>, waiter: Waiter) {
    cache.counters.gets.add(1);
    cache.hot.count(key);
    if ioengine::canary("serve_without_asking")
        && let Some(entry) = cache.rings.borrow_mut().get(key)
    {
        return cache.show(&[waiter], LogTime(0), shown(&entry));
    }
    let (spot, held) = {
        let rings = cache.rings.borrow();
        let spot = rings.spot(key);
        (spot, rings.peek_at(&spot, key))
    };
    let (group, node) = cache.client.first_node(key);
    let asked = cache.fetches.borrow_mut().ask(key, &spot, Where { group, node }, held, waiter);
    match asked {
        Asked::New => cache.queued.notify(),
        Asked::Shared | Asked::Later => cache.counters.shared.add(1),
        Asked::Full => {
            ioengine::sometimes!("a cache has no room for a get");
            cache.counters.busy.add(1);
            let busy = Outcome::Busy { limit: Limit::Queue, hint_ms: HINT_MS };
            cache.show(&[waiter], LogTime(0), Shown::Not(busy));
        }
    }
}

fn shown<'a>(entry: &Entry<'a>) -> Shown<'a> {
    match entry.value {
        Some(value) => Shown::Record { version: entry.version, expiry: entry.expiry, value },
        None => Shown::Not(Outcome::NotFound),
    }
}

/// Let what waits leave, for as long as the core lives. Idle, a get leaves in the turn in which it came; while batches are under
/// way to a node, what comes for it waits for one of them and leaves together.
pub(super) async fn run(cache: Rc<Cache>) {
    loop {
        let queued = cache.queued.notified();
        let nodes: Vec<u32> = cache.fetches.borrow().nodes().collect();
        for node in nodes {
            while cache.batches_to(node) < cache.limits.batches_in_flight {
                let batch = cache.fetches.borrow_mut().take(node, cache.limits.batch_count_max);
                if batch.parts.is_empty() {
                    break;
                }
                cache.batch_begins(node);
                cache.counters.batches.add(1);
                cache.counters.batched_keys.add(batch.parts.len() as u64);
                let cache = Rc::clone(&cache);
                cache.io.clone().spawn(Queue::Foreground, async move {
                    leave(&cache, batch).await;
                    cache.batch_ends(node);
                    cache.queued.notify();
                });
            }
        }
        race(queued, cache.io.sleep(Duration::from_secs(1))).await;
    }
}

/// A fetch of a batch.
struct Part {
    leaving: Leaving,
    /// The version that the store is asked about: 0 when nothing is held, or no value can be shown.
    held: Version,
    done: Cell<bool>,
}

/// Ask the store about a batch, and answer each key as its answer comes.
async fn leave(cache: &Rc<Cache>, batch: Batch) {
    let Batch { parts, streams } = batch;
    let look = |leaving: &Leaving| cache.rings.borrow().peek_at(&leaving.spot, &leaving.key(&streams));
    let mut parts: Vec<Part> = parts
        .into_iter()
        .map(|leaving| {
            let held = leaving.held.unwrap_or_else(|| look(&leaving).unwrap_or(Version::ABSENT));
            Part { leaving, held, done: Cell::new(false) }
        })
        .collect();
    for ask in 0..ASKS_MAX {
        let gets: Vec<Get<'_>> = parts
            .iter()
            .map(|part| Get {
                key: part.leaving.key(&streams),
                local: false,
                if_newer: Some(part.held),
                redirect: false,
            })
            .collect();
        let mut hear_one = |place: usize, reply: &Reply<'_>| {
            hear(cache, gets[place].key, &parts[place], reply);
        };
        if let Err(error) = cache.client.get_many(&gets, &mut hear_one).await {
            tracing::debug!(%error, keys = gets.len(), "the store does not answer");
            cache.counters.failed_batches.add(1);
            break;
        }
        drop(gets);
        parts.retain(|part| !part.done.get());
        if parts.is_empty() {
            return;
        }
        ioengine::sometimes!("a value goes while the store says that it is the newest");
        cache.counters.asked_again.add(parts.len() as u64 * u64::from(ask + 1 < ASKS_MAX));
        parts.iter_mut().for_each(|part| part.held = Version::ABSENT);
    }
    for part in parts.iter().filter(|part| !part.done.get()) {
        finish(cache, part, LogTime(0), Shown::Not(Outcome::Timeout));
    }
}

/// Show those who wait for a fetch what became of it.
fn finish(cache: &Cache, part: &Part, log_time: LogTime, shown: Shown<'_>) {
    part.done.set(true);
    let mut waiters = cache.waited.take();
    cache.fetches.borrow_mut().finish(part.leaving.number, &mut waiters);
    cache.show(&waiters, log_time, shown);
    waiters.clear();
    cache.waited.set(waiters);
}

/// The store has answered for a key.
fn hear(cache: &Rc<Cache>, key: Key<'_>, part: &Part, reply: &Reply<'_>) {
    let log_time = reply.log_time;
    let end = |shown: Shown<'_>| finish(cache, part, log_time, shown);
    let absent = Shown::Not(Outcome::NotFound);
    match reply.answer {
        Answer::Record { version, expiry, value } => {
            cache.counters.newer.add(1);
            cache.rings.borrow_mut().put(&Entry { key, version, expiry, value: Some(value) });
            end(Shown::Record { version, expiry, value });
        }
        // Whatever was held: there is nothing now.
        Answer::Not(Outcome::NotModified) if part.held.is_absent() => {
            cache.counters.absent.add(1);
            keep_absence(cache, key);
            end(absent);
        }
        Answer::Not(Outcome::NotFound) => {
            cache.counters.absent.add(1);
            keep_absence(cache, key);
            end(absent);
        }
        Answer::Not(Outcome::NotModified) => {
            let mut rings = cache.rings.borrow_mut();
            // Proven only now. What is not the version asked about was put there since, or is gone.
            let entry = rings
                .get_at(&part.leaving.spot, &key)
                .filter(|entry| entry.version == part.held || ioengine::canary("believe_a_damaged_value"));
            let Some(entry) = entry else { return };
            cache.counters.not_modified.add(1);
            if entry.value.is_some() && log_time.has_expired(entry.expiry) {
                return end(absent);
            }
            end(shown(&entry));
        }
        Answer::Not(outcome) => end(Shown::Not(outcome)),
        _ => unreachable!("an answer to a get"),
    }
}

fn keep_absence(cache: &Cache, key: Key<'_>) {
    let mut rings = cache.rings.borrow_mut();
    if rings.peek(&key) != Some(Version::ABSENT) {
        rings.put(&Entry { key, version: Version::ABSENT, expiry: 0, value: None });
    }
}

/// Answer whoever waits for too long.
pub(super) async fn watch(cache: Rc<Cache>) {
    loop {
        cache.io.sleep(Duration::from_millis(100)).await;
        let now = cache.io.now();
        let deadline = cache.limits.request_deadline;
        let overdue = cache.fetches.borrow_mut().give_up(|waiter| now.since(waiter.since) > deadline);
        if !overdue.is_empty() {
            ioengine::sometimes!("a cache gives up on a get");
            cache.show(&overdue, LogTime(0), Shown::Not(Outcome::Timeout));
        }
        cache.expire(now);
    }
}
