//! Writes of a client: sent until their fate is known or the client's patience ends.

use super::super::history::{Change, Does, Fate, NEVER, Order, Read, Seen, StreamIndex, Write};
use super::super::wire::{Answered, Heard};
use super::{Client, Turn};
use layout::key::Key;
use layout::units::{LogTime, RequestId, Space, TabletIndex, Version};
use net::outcome::Outcome;
use net::request::{self, Batch, BatchBody, BatchOperation, CompareAndSet, Delete, Put, Request};

/// What came of a write.
enum Wrote {
    Happened,
    /// Nothing happened, and under a new id it may.
    TooOld,
    Else,
}

impl Client {
    /// Write: one change, or several at once. True if it is known to have happened. An id that is too old, and was sent
    /// once, did nothing: the same is sent again under a new one, which to the history is another write.
    pub(crate) async fn write(
        &self,
        stream: StreamIndex,
        does: &[(u64, Does)],
        expected: Option<Version>,
    ) -> bool {
        for _ in 0..4 {
            match self.write_once(stream, does, expected).await {
                Wrote::Happened => return true,
                Wrote::TooOld => {}
                Wrote::Else => return false,
            }
        }
        false
    }

    async fn write_once(
        &self,
        stream: StreamIndex,
        does: &[(u64, Does)],
        expected: Option<Version>,
    ) -> Wrote {
        let (number, id, space, name, tablet, values) = self.begin(stream, does, expected);
        let body = (does.len() > 1).then(|| batch_body(does, &values));
        let request = match (&body, does[0], expected) {
            (Some(body), ..) => Request::Batch(body_request(body, id, space, &name)),
            (None, (time, Does::Put { expiry, .. }), None) => {
                Request::Put(Put { id, key: Key { space, stream: &name, time }, expiry, value: &values[0] })
            }
            (None, (time, Does::Put { expiry, .. }), Some(expected)) => {
                Request::CompareAndSet(CompareAndSet {
                    id,
                    key: Key { space, stream: &name, time },
                    expected,
                    expiry,
                    value: &values[0],
                })
            }
            (None, (time, Does::Delete), _) => {
                Request::Delete(Delete { id, key: Key { space, stream: &name, time } })
            }
        };
        let mut attempt = self.attempt();
        let answered = loop {
            match self.turn(&request, Some(tablet), &mut attempt).await {
                Turn::Again => {}
                Turn::Over => break None,
                Turn::Done(answered, sent) => break Some((answered, sent)),
            }
        };
        self.end(number, tablet, attempt.unsure, answered)
    }

    /// Write the invocation down.
    fn begin(
        &self,
        stream: StreamIndex,
        does: &[(u64, Does)],
        expected: Option<Version>,
    ) -> (u32, RequestId, Space, Vec<u8>, TabletIndex, Vec<Vec<u8>>) {
        let mut history = self.history();
        let number = u32::try_from(history.writes.len()).expect("writes are few");
        let (space, name, tablet) = {
            let facts = history.keys.facts(stream);
            (facts.space, facts.name.clone(), facts.tablet)
        };
        let id = self.ids.borrow_mut().next(0, tablet);
        let changes: Vec<Change> =
            does.iter().map(|&(time, does)| Change { key: history.keys.key(stream, time), does }).collect();
        let values: Vec<Vec<u8>> = (0u16..)
            .zip(does)
            .map(|(position, (_, does))| match does {
                Does::Put { bytes, .. } => history.value(number, position, *bytes),
                Does::Delete => Vec::new(),
            })
            .collect();
        let longest = values.iter().map(Vec::len).max().unwrap_or(0);
        history.longest_value = history.longest_value.max(longest);
        let invoked = history.tick();
        history.writes.push(Write {
            client: self.number,
            invoked,
            sent: NEVER,
            returned: NEVER,
            at_ns: (self.io.now().ns, u64::MAX),
            stream,
            changes,
            expected,
            id,
            fate: Fate::Unknown,
            log_time: LogTime(0),
        });
        (number, id, space, name, tablet, values)
    }

    /// Write its fate down.
    fn end(
        &self,
        number: u32,
        tablet: TabletIndex,
        unsure: bool,
        answered: Option<(Answered, Order)>,
    ) -> Wrote {
        let invoked = self.history().writes[number as usize].invoked;
        let Some((answered, sent)) = answered else {
            // Nobody knows; unless every sending was refused.
            let mut history = self.history();
            history.count("gave_up");
            if !unsure {
                let returned = history.tick();
                let write = &mut history.writes[number as usize];
                (write.fate, write.returned, write.at_ns.1) = (Fate::Refused, returned, self.io.now().ns);
            }
            return Wrote::Else;
        };
        // What a replica knows by itself it may say while it lags.
        let is_known =
            matches!(answered.heard, Heard::Not(Outcome::TooOld) | Heard::Written { repeated: true, .. });
        let told = if is_known && self.is_replicated() { LogTime(0) } else { answered.log_time };
        let returned = self.learn(invoked, tablet, told);
        let mut mismatch = None;
        let mut wrote = Wrote::Else;
        let fate = match answered.heard {
            Heard::Written { first, repeated } => {
                wrote = Wrote::Happened;
                Fate::Acked { first, repeated }
            }
            Heard::Not(Outcome::UnknownOutcome) => Fate::Unknown,
            Heard::Not(Outcome::TooOld) if unsure => Fate::Unknown,
            Heard::Not(Outcome::TooOld) => {
                self.ids.borrow_mut().learn(0, tablet, answered.log_time);
                wrote = Wrote::TooOld;
                Fate::Refused
            }
            Heard::Not(outcome) => {
                match outcome {
                    Outcome::VersionMismatch { current } => mismatch = current,
                    other => self.unexpected("a write", Some(tablet), &other),
                }
                if unsure { Fate::Unknown } else { Fate::Refused }
            }
            other => panic!("an answer to a write is no {other:?}"),
        };
        let mut history = self.history();
        let write = &mut history.writes[number as usize];
        (write.fate, write.sent, write.log_time) = (fate, sent, answered.log_time);
        if fate != Fate::Unknown {
            (write.returned, write.at_ns.1) = (returned, self.io.now().ns);
        }
        let key = write.changes[0].key;
        if let Fate::Acked { first, .. } = fate {
            let mut versions = self.versions.borrow_mut();
            for (position, change) in (0u64..).zip(&write.changes) {
                let version = match change.does {
                    Does::Put { .. } => Version(first.0 + position),
                    Does::Delete => Version::ABSENT,
                };
                versions.insert(change.key, version);
            }
        }
        if let Some(current) = mismatch {
            let seen = if current.is_absent() { Seen::Absent } else { Seen::Version(current) };
            self.versions.borrow_mut().insert(key, current);
            history.reads.push(Read {
                by: "a mismatch",
                client: self.number,
                invoked,
                returned,
                at_ns: self.io.now().ns,
                key,
                log_time: answered.log_time,
                seen,
                expiry: None,
            });
        }
        wrote
    }
}

fn batch_body(does: &[(u64, Does)], values: &[Vec<u8>]) -> BatchBody {
    let mut body = BatchBody::new();
    for ((time, does), value) in does.iter().zip(values) {
        let change = match does {
            Does::Put { expiry, .. } => request::Change::Put { expiry: *expiry, value },
            Does::Delete => request::Change::Delete,
        };
        assert!(body.push(&BatchOperation { time: *time, change }), "a small batch fits");
    }
    body
}

fn body_request<'a>(body: &'a BatchBody, id: RequestId, space: Space, stream: &'a [u8]) -> Batch<'a> {
    body.request(id, space, stream).expect("a batch has operations")
}
