//! Many keys at once: one request per node and 4096 keys, and again for the keys whose own answer says "not now".

use std::time::Duration;

use ioengine::Instant;
use layout::key::Key;
use layout::units::OPERATION_COUNT_MAX;

use super::Client;
use super::caches::BUSY_ROUNDS;
use super::call::Target;
use super::error::ClientError;
use super::link::jittered;
use super::verbs::{Found, check_stream};
use crate::operation::Operation;
use crate::outcome::{Limit, Outcome};
use crate::reply::{Answer, Reply};
use crate::request::{Get, MultiGetBody, Request};

/// Wait before keys are asked again.
const WAIT_MIN: Duration = Duration::from_millis(2);
/// Bytes of a key in a request besides its stream: a Get's fixed part.
const KEY_BYTES: usize = 24;

/// What became of one key: its record, nothing, or the outcome that stands in the way.
type Answers = Vec<Option<Result<Option<Found>, Outcome>>>;

/// Hears of each key's answer once, by its place in the list.
type Hear<'a> = &'a mut dyn FnMut(usize, &Reply<'_>);

/// Gets on their way: what is open, and how large a request may be.
struct Round<'a> {
    gets: &'a [Get<'a>],
    /// Answered for good, by place.
    done: Vec<bool>,
    /// Keys of a request: halved when an answer did not fit a frame.
    count_max: usize,
    /// A key that cannot be answered among others is asked alone: it has a frame for itself then, and every replica.
    goes_alone: bool,
    deadline: Instant,
    /// Times that all open keys were asked.
    number: u32,
    /// A cache did not answer: the store is asked from here on.
    without_caches: bool,
}

/// Who is asked for a key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    /// Any cache; keys of one group stay together.
    Caches(u16),
    /// This node of the store first.
    Node(u32),
}

impl Client {
    /// The records of many keys, in their order. A key whose record cannot be read has its own outcome; the others
    /// are answered all the same.
    ///
    /// # Errors
    /// As every call, when the request as a whole failed or some keys were "not now" until the deadline.
    pub async fn mget(&self, keys: &[Key<'_>]) -> Result<Vec<Result<Option<Found>, Outcome>>, ClientError> {
        for key in keys {
            check_stream(key.stream)?;
        }
        let local = self.local;
        let gets: Vec<Get<'_>> =
            keys.iter().map(|&key| Get { key, local, if_newer: None, redirect: false }).collect();
        let mut answers: Answers = vec![None; keys.len()];
        let mut hear = |index: usize, reply: &Reply<'_>| {
            answers[index] = Some(match reply.answer {
                Answer::Record { version, expiry, value } => {
                    Ok(Some(Found { version, expiry, value: value.to_vec(), log_time: reply.log_time }))
                }
                Answer::Not(Outcome::NotFound) => Ok(None),
                Answer::Not(outcome) => Err(outcome),
                _ => unreachable!("an item is a get's reply"),
            });
        };
        self.ask_all(&gets, false, &mut hear).await?;
        Ok(answers.into_iter().map(|answer| answer.expect("all are heard of when it ends")).collect())
    }

    /// Asks many gets of keys with one [`Client::first_node`], each with its own `if_newer`; `hear` is told of each answer as it comes,
    /// once, by place in the list. Those for whom it is "not now" are asked again. For who does not write: no log time is learnt.
    ///
    /// # Errors
    /// As every call; who was not heard of has no answer.
    ///
    /// # Panics
    /// When a stream is not 1 to 128 bytes: the caller has checked its input.
    pub async fn get_many(&self, gets: &[Get<'_>], hear: Hear<'_>) -> Result<(), ClientError> {
        self.ask_all(gets, true, hear).await
    }

    async fn ask_all(&self, gets: &[Get<'_>], goes_alone: bool, hear: Hear<'_>) -> Result<(), ClientError> {
        let deadline = self.io().now().after(self.deadline);
        let count_max = if goes_alone && gets.len() == 1 { 1 } else { OPERATION_COUNT_MAX };
        let done = vec![false; gets.len()];
        let mut round =
            Round { gets, done, count_max, goes_alone, deadline, number: 0, without_caches: false };
        loop {
            let open: Vec<usize> = (0..gets.len()).filter(|&index| !round.done[index]).collect();
            if open.is_empty() {
                return Ok(());
            }
            if round.number > 0 {
                let wait = WAIT_MIN.saturating_mul(1 << round.number.min(8));
                self.io().sleep_until(self.io().now().after(jittered(self.io(), wait)).min(deadline)).await;
            }
            if self.io().now() >= deadline {
                let operation = Operation::MultiGet;
                return Err(ClientError::Timeout { operation, after: self.deadline, cause: None });
            }
            self.ask_round(&mut round, &open, hear).await?;
            round.number += 1;
        }
    }

    /// Asks for the keys at `open`, each at a cache or at its first replica.
    async fn ask_round(
        &self,
        round: &mut Round<'_>,
        open: &[usize],
        hear: Hear<'_>,
    ) -> Result<(), ClientError> {
        let gets = round.gets;
        // Neighbours in the list are keys of one node, so that each node gets few and full requests.
        let way = |key: &Key<'_>| {
            let (group, node) = self.first_node(key);
            let cached = !round.without_caches && round.number < BUSY_ROUNDS && self.is_for_cache(key);
            if cached { Way::Caches(group) } else { Way::Node(node) }
        };
        // Who wants its keys asked alone has put those of one node together: one look says where they go, at first. By a newer map they
        // may go different ways.
        let is_together = round.goes_alone && round.number == 0;
        let together = open.first().filter(|_| is_together).map(|&index| way(&gets[index].key));
        let way = |key: &Key<'_>| together.unwrap_or_else(|| way(key));
        let mut placed: Vec<(Way, usize)> =
            open.iter().map(|&index| (way(&gets[index].key), index)).collect();
        placed.sort_unstable();
        let mut asked: Vec<usize> = Vec::new();
        let mut bytes = 0;
        for (position, &(way, index)) in placed.iter().enumerate() {
            asked.push(index);
            bytes += KEY_BYTES + gets[index].key.stream.len();
            let next = placed.get(position + 1);
            let next_bytes = next.map_or(0, |&(_, index)| KEY_BYTES + gets[index].key.stream.len());
            let ends = next.is_none_or(|&(other, _)| other != way)
                || asked.len() >= round.count_max
                || bytes + next_bytes > self.config().frame_bytes as usize / 2;
            if ends {
                self.ask_some(round, way, &asked, hear).await?;
                asked.clear();
                bytes = 0;
            }
        }
        Ok(())
    }

    /// The group that a key belongs to, and the node that is asked for it first.
    pub fn first_node(&self, key: &Key<'_>) -> (u16, u32) {
        let router = self.shared.router.borrow();
        let place = router.place(key.space, key.stream);
        let first = router.replicas(place.group, place.tablet).next();
        (place.group, first.map_or(0, |node| node.id))
    }

    /// One request for keys of one way. Keys without a final answer stay open.
    async fn ask_some(
        &self,
        round: &mut Round<'_>,
        way: Way,
        asked: &[usize],
        hear: Hear<'_>,
    ) -> Result<(), ClientError> {
        let gets = round.gets;
        let first = &gets[asked[0]];
        let place = self.place(first.key.space, first.key.stream);
        let target = Target::Tablet { group: place.group, tablet: place.tablet };
        if let ([index], 1) = (asked, round.count_max) {
            let finished = self.call_until(target, Request::Get(*first), round.deadline).await?;
            round.done[*index] = true;
            hear(*index, &finished.reply());
            return Ok(());
        }
        let mut body = MultiGetBody::new();
        for &index in asked {
            assert!(body.push(&gets[index]), "a request is sent before it is full");
        }
        let request = Request::MultiGet(body.request().expect("there is at least one key"));
        let finished = match way {
            Way::Node(_) => self.call_until(target, request, round.deadline).await?,
            Way::Caches(_) => match self.of_caches(target, &request, round.deadline).await {
                Some(finished) => finished,
                None => {
                    round.without_caches = true;
                    return Ok(());
                }
            },
        };
        let many = match finished.answer() {
            Answer::MultiGet(many) => many,
            Answer::Not(Outcome::TooLarge { limit: Limit::Frame }) if asked.len() > 1 || round.goes_alone => {
                round.count_max = (asked.len() / 2).max(1);
                return Ok(());
            }
            Answer::Not(Outcome::Corrupt) if round.goes_alone => {
                round.count_max = 1;
                return Ok(());
            }
            _ => return Err(finished.error()),
        };
        for item in many.items() {
            let Some(&index) = asked.get(usize::from(item.index)) else { continue };
            if !round.goes_alone {
                let place = self.place(gets[index].key.space, gets[index].key.stream);
                self.ids().borrow_mut().learn(place.group, place.tablet, item.reply.log_time);
            }
            let is_of_cache = matches!(way, Way::Caches(_));
            let is_final = match item.reply.answer {
                Answer::Record { .. } | Answer::Not(Outcome::NotFound | Outcome::NotModified) => true,
                // What a cache cannot say, the store may.
                Answer::Not(Outcome::Busy { .. }) => false,
                _ if is_of_cache => {
                    round.without_caches = true;
                    false
                }
                // A record too large for the frame by itself would be asked for without end.
                Answer::Not(Outcome::TooLarge { limit: Limit::Frame }) if asked.len() > 1 => false,
                Answer::Not(Outcome::TooLarge { limit: Limit::Frame } | Outcome::Corrupt)
                    if round.goes_alone =>
                {
                    round.count_max = 1;
                    false
                }
                Answer::Not(Outcome::NotCurrent | Outcome::Timeout | Outcome::WrongGroup { .. }) => false,
                _ => true,
            };
            if is_final {
                round.done[index] = true;
                hear(index, &item.reply);
            }
        }
        Ok(())
    }
}
