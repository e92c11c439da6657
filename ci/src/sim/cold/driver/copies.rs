//! Reads in worlds where nothing goes wrong but that one disk at a time is gray: each is answered in time, right where the disk is well, and by one of
//! three copies always.
//!
//! Must never excuse a disk because another one is ill. Invariant: one machine at a time has an ill disk, so two whole copies are within reach.

use super::{Driver, Known, Nodes};
use ioengine::sim::Random;
use ioengine::{Instant, Io};
use net::client::{ClientError, ColdNode, ColdReply, first_copy};
use net::cold::ColdRequest;
use net::outcome::Outcome;
use net::reply::Answer;
use std::time::Duration;

/// Within this whoever asks a gray disk hears something: it is set aside within three seconds.
const ANSWERED: Duration = Duration::from_millis(3_300);
/// Within this a disk that is well answers, and one of three copies.
const WELL: Duration = Duration::from_secs(1);
/// How long one copy is waited for alone.
const HEDGE: Duration = Duration::from_millis(100);
/// So long before now a disk may have been ill: it is looked at twice in a second.
const BEFORE: Duration = Duration::from_millis(1_100);

impl Nodes {
    /// A disk is ill until then.
    pub(in crate::sim::cold) fn note_ill(&self, (node, disk): (usize, usize), until: Instant) {
        let mut all = self.ill_until.borrow_mut();
        let known = all.entry((node, disk as u16)).or_insert(until);
        *known = until.max(*known);
    }

    pub(in crate::sim::cold) fn is_any_ill(&self, now: Instant) -> bool {
        self.ill_until.borrow().values().any(|until| *until >= now)
    }

    fn was_ill(&self, node: usize, disk: u16, since: Instant) -> bool {
        self.ill_until.borrow().get(&(node, disk)).is_some_and(|until| until.after(BEFORE) >= since)
    }
}

impl Driver {
    /// Ask for a place, a write or a seal: whatever becomes of it is heard in time, also of a gray disk.
    pub(super) async fn ask(
        &self,
        io: &Io,
        way: &ColdNode,
        request: &ColdRequest<'_>,
    ) -> Result<ColdReply, ClientError> {
        let asked_at = io.now();
        let reply = way.ask(request).await;
        let took = io.now().since(asked_at);
        if self.nodes.is_gray && !self.nodes.peace.get() && (reply.is_err() || took > ANSWERED) {
            let (address, operation, disk) = (way.address(), request.operation(), request.disk().1);
            self.nodes.say(format!("{address} does not answer {operation:?} of disk {disk} in {took:?}"));
        }
        reply
    }

    /// A get of one machine: how long it took, and whether it may have been refused.
    pub(super) fn judge_time(
        &self,
        io: &Io,
        (node, known): (usize, &Known),
        asked_at: Instant,
        reply: &Result<ColdReply, ClientError>,
    ) {
        if !self.nodes.is_gray || self.nodes.peace.get() {
            return;
        }
        let took = io.now().since(asked_at);
        let place = known.place;
        let was_ill = self.nodes.was_ill(node, place.disk, asked_at);
        let is_refused = matches!(
            reply.as_ref().map(ColdReply::answer),
            Err(_) | Ok(Answer::Not(Outcome::Busy { .. } | Outcome::Timeout | Outcome::Corrupt))
        );
        if reply.is_err() || took > ANSWERED {
            self.nodes.say(format!("node {} does not answer a get of {place:?} in {took:?}", node + 1));
        } else if !was_ill && (is_refused || took > WELL) {
            let said = reply.as_ref().map(ColdReply::answer);
            self.nodes.say(format!(
                "node {} answers a get of {place:?} on a disk that is well after {took:?} with {said:?}",
                node + 1
            ));
        } else if was_ill && is_refused {
            self.nodes.count("refused by a gray disk");
        }
    }

    /// A get as clients do it that are sent to cold nodes: one copy after the other, beside each other where one is slow.
    pub(super) async fn read_any(&self, io: &Io, ways: &[ColdNode], random: &mut Random) {
        let known = {
            let all = self.nodes.known.borrow();
            if all.is_empty() {
                return;
            }
            random.pick(&all).clone()
        };
        *self.doing.borrow_mut() = format!("read any copy of {:?}", known.place);
        let (time, version, value) = random.pick(&known.records).clone();
        let asked_at = io.now();
        let ask = async |node: usize| match self.nodes.get(&ways[node], &known, time).await {
            Ok(reply) if matches!(reply.answer(), Answer::Record { .. }) => Ok(reply),
            Ok(reply) => Err(format!("{:?}", reply.answer())),
            Err(error) => Err(error.to_string()),
        };
        let given = first_copy(io, HEDGE, ask).await;
        let took = io.now().since(asked_at);
        self.nodes.count("got of any copy");
        if self.nodes.peace.get() || self.is_freed(&known) {
            return;
        }
        let place = known.place;
        match given.as_ref().map(ColdReply::answer) {
            Ok(Answer::Record { version: found, value: bytes, .. })
                if found.0 == version && *bytes == *value && took <= WELL => {}
            Ok(answer) => {
                self.nodes.say(format!("any copy of {place:?} at {time} is {answer:?} after {took:?}"));
            }
            Err(said) => self.nodes.say(format!("no copy of {place:?} after {took:?}: {said:?}")),
        }
    }
}
