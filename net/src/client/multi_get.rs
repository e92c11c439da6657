//! Many keys at once: one request per node and 4096 keys, and again for the keys whose own answer says "not now".

use std::time::Duration;

use ioengine::Instant;
use layout::key::Key;
use layout::units::OPERATION_COUNT_MAX;

use super::Client;
use super::call::Target;
use super::error::ClientError;
use super::link::jittered;
use super::verbs::{Found, check_stream};
use crate::operation::Operation;
use crate::outcome::{Limit, Outcome};
use crate::reply::Answer;
use crate::request::{Get, MultiGetBody, Request};

/// Wait before keys are asked again.
const WAIT_MIN: Duration = Duration::from_millis(2);
/// Bytes of a key in a request besides its stream: a Get's fixed part.
const KEY_BYTES: usize = 24;

/// What became of one key: its record, nothing, or the outcome that stands in the way.
type Answers = Vec<Option<Result<Option<Found>, Outcome>>>;

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
        let deadline = self.io().now().after(self.deadline);
        let mut answers: Answers = vec![None; keys.len()];
        let mut round = 0;
        loop {
            let open: Vec<usize> = (0..keys.len()).filter(|&index| answers[index].is_none()).collect();
            if open.is_empty() {
                break;
            }
            if round > 0 {
                let wait = WAIT_MIN.saturating_mul(1 << round.min(8));
                self.io().sleep_until(self.io().now().after(jittered(self.io(), wait)).min(deadline)).await;
            }
            if self.io().now() >= deadline {
                let operation = Operation::MultiGet;
                return Err(ClientError::Timeout { operation, after: self.deadline, cause: None });
            }
            self.ask_round(keys, &open, &mut answers, deadline).await?;
            round += 1;
        }
        Ok(answers.into_iter().map(|answer| answer.expect("the loop ends when all are answered")).collect())
    }

    /// Asks for the keys at `open`, each at its first replica.
    async fn ask_round(
        &self,
        keys: &[Key<'_>],
        open: &[usize],
        answers: &mut Answers,
        deadline: Instant,
    ) -> Result<(), ClientError> {
        // Neighbours in the list are keys of one node, so that each node gets few and full requests.
        let mut placed: Vec<(u32, usize)> = Vec::with_capacity(open.len());
        {
            let router = self.shared.router.borrow();
            for &index in open {
                let place = router.place(keys[index].space, keys[index].stream);
                let first = router.replicas(place.group, place.tablet).next();
                placed.push((first.map_or(0, |node| node.id), index));
            }
        }
        placed.sort_unstable();
        let mut body = MultiGetBody::new();
        let mut asked: Vec<usize> = Vec::new();
        let mut bytes = 0;
        for (position, &(node, index)) in placed.iter().enumerate() {
            let key = keys[index];
            let pushed = body.push(&Get { key, local: self.local, if_newer: None });
            assert!(pushed, "a request is sent before it is full");
            asked.push(index);
            bytes += KEY_BYTES + key.stream.len();
            let next = placed.get(position + 1);
            let next_bytes = next.map_or(0, |&(_, index)| KEY_BYTES + keys[index].stream.len());
            let ends = next.is_none_or(|&(other, _)| other != node)
                || asked.len() == OPERATION_COUNT_MAX
                || bytes + next_bytes > self.config().frame_bytes as usize / 2;
            if ends {
                self.ask_some(keys, &asked, &body, answers, deadline).await?;
                body.clear();
                asked.clear();
                bytes = 0;
            }
        }
        Ok(())
    }

    /// One request for keys of one node. Keys without a final answer stay open.
    async fn ask_some(
        &self,
        keys: &[Key<'_>],
        asked: &[usize],
        body: &MultiGetBody,
        answers: &mut Answers,
        deadline: Instant,
    ) -> Result<(), ClientError> {
        let first = keys[asked[0]];
        let place = self.place(first.space, first.stream);
        let target = Target::Tablet { group: place.group, tablet: place.tablet };
        let request = Request::MultiGet(body.request().expect("there is at least one key"));
        let finished = self.call_until(target, request, deadline).await?;
        let Answer::MultiGet(many) = finished.answer() else { return Err(finished.error()) };
        for item in many.items() {
            let Some(&index) = asked.get(usize::from(item.index)) else { continue };
            let place = self.place(keys[index].space, keys[index].stream);
            let log_time = item.reply.log_time;
            self.ids().borrow_mut().learn(place.group, place.tablet, log_time);
            answers[index] = match item.reply.answer {
                Answer::Record { version, expiry, value } => {
                    Some(Ok(Some(Found { version, expiry, value: value.to_vec(), log_time })))
                }
                Answer::Not(Outcome::NotFound) => Some(Ok(None)),
                // A record too large for the frame by itself would be asked for without end.
                Answer::Not(Outcome::TooLarge { limit: Limit::Frame }) if asked.len() > 1 => None,
                Answer::Not(
                    Outcome::Busy { .. }
                    | Outcome::NotCurrent
                    | Outcome::Timeout
                    | Outcome::WrongGroup { .. },
                ) => None,
                Answer::Not(outcome) => Some(Err(outcome)),
                _ => unreachable!("an item is a get's reply"),
            };
        }
        Ok(())
    }
}
