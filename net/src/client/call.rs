//! A call from its request to its result: which replica, when again, when to give up. PROTOCOL.md section 10 is the rule.

use std::rc::Rc;
use std::time::Duration;

use ioengine::Instant;
use layout::units::{LogTime, RequestId, TabletIndex};

use super::Client;
use super::connection::{Answered, CallEnd, CallError, Connection};
use super::error::ClientError;
use super::link::{Link, jittered};
use crate::operation::Operation;
use crate::outcome::Outcome;
use crate::reply::{Answer, Reply};
use crate::request::{CompareAndSet, Delete, Put, Request};

/// Wait after an answer that says "not now" without a hint.
pub(super) const WAIT_MIN: Duration = Duration::from_millis(2);
/// Longest wait between two tries, but for a longer hint.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// Who can answer.
#[derive(Clone, Copy)]
pub(super) enum Target {
    /// The replicas of a tablet, in their order.
    Tablet { group: u16, tablet: TabletIndex },
    /// The node the client first connected to.
    Home,
    /// A node of the map.
    Node(u32),
}

/// An answer that ends a call. Its body decodes: the session has checked it.
pub(super) struct Finished {
    operation: Operation,
    answered: Answered,
}

impl Finished {
    pub(super) fn new(operation: Operation, answered: Answered) -> Finished {
        Finished { operation, answered }
    }

    pub(super) fn reply(&self) -> Reply<'_> {
        Reply::decode(self.operation, &self.answered.body).expect("the session has decoded it before")
    }

    pub(super) fn answer(&self) -> Answer<'_> {
        self.reply().answer
    }

    /// The error of an answer that the operation's own code does not know.
    pub(super) fn error(&self) -> ClientError {
        match self.answer() {
            Answer::Not(outcome) => ClientError::Answer { operation: self.operation, outcome },
            _ => unreachable!("the session has checked that the answer fits the operation"),
        }
    }
}

/// What has happened to a call so far.
struct Attempts {
    operation: Operation,
    deadline: Instant,
    /// Which replica is next, counted on and on.
    replica: usize,
    /// Replicas in a row that were not asked, because their connection is lost or silent.
    passed_over: usize,
    /// Sendings with the present request id that may have reached a server and had no answer. An answered one is not
    /// among them: every answer but `Ok` and `UnknownOutcome` says that its sending did nothing and will do nothing.
    unknown: u32,
    /// Replicas that answered `Corrupt`.
    corrupt: usize,
    /// "Not now" answers so far.
    refusals: u32,
    last: Option<ClientError>,
}

impl Attempts {
    /// The error of a call that cannot be sent again: of a write that an earlier sending may have done, that this is not
    /// known, with the error as the cause.
    fn ended_by(self, error: ClientError) -> ClientError {
        if self.operation.is_write() && self.unknown > 0 {
            ClientError::UnknownOutcome { operation: self.operation, cause: Some(Box::new(error)) }
        } else {
            error
        }
    }
}

/// What to do with an answer.
enum Verdict {
    Finished,
    /// The same replica, after a wait.
    Again(Duration),
    /// The next replica, at once while there are some that were not asked this round.
    NextReplica,
    /// Fetch the map first.
    NewMap,
    /// With a new request id.
    NewId,
    Unknown,
}

impl Client {
    /// Carries a request out: sends it until there is an answer that another sending would not change.
    pub(super) async fn call(&self, target: Target, request: Request<'_>) -> Result<Finished, ClientError> {
        let deadline = self.io().now().after(self.deadline);
        self.call_until(target, request, deadline).await
    }

    pub(super) async fn call_until(
        &self,
        target: Target,
        mut request: Request<'_>,
        deadline: Instant,
    ) -> Result<Finished, ClientError> {
        let operation = request.operation();
        let mut attempts = Attempts {
            operation,
            deadline,
            replica: 0,
            passed_over: 0,
            unknown: 0,
            corrupt: 0,
            refusals: 0,
            last: None,
        };
        loop {
            if self.io().now() >= deadline {
                return Err(self.overdue(attempts));
            }
            let (link, replica_count) = self.link(target, attempts.replica);
            if attempts.passed_over + 1 < replica_count && !link.is_of_use() {
                attempts.passed_over += 1;
                attempts.replica += 1;
                continue;
            }
            attempts.passed_over = 0;
            let connection = match link.connection(deadline).await {
                Some(Ok(connection)) => connection,
                Some(Err(error)) if error.is_final() => return Err(attempts.ended_by(error)),
                Some(Err(error)) => {
                    attempts.last = Some(error);
                    attempts.replica += 1;
                    continue;
                }
                None => continue,
            };
            let answered = match self.send(&connection, &request, replica_count, &mut attempts).await {
                Some(answered) => answered,
                None if request.encoded_bytes() > connection.frame_bytes() => {
                    let outcome = Outcome::TooLarge { limit: crate::outcome::Limit::Frame };
                    return Err(attempts.ended_by(ClientError::Answer { operation, outcome }));
                }
                None => continue,
            };
            self.learn_epoch(&link, answered.map_epoch);
            let finished = Finished { operation, answered };
            let reply = finished.reply();
            if let Target::Tablet { group, tablet } = target {
                self.learn_log_time(group, tablet, reply.log_time);
            }
            let verdict = verdict(&reply.answer, &request, &mut attempts, replica_count);
            match verdict {
                Verdict::Finished => return Ok(finished),
                Verdict::Again(hint) => self.wait(&mut attempts, hint, &finished).await,
                Verdict::NextReplica => {
                    attempts.replica += 1;
                    if attempts.replica.is_multiple_of(replica_count) {
                        self.wait(&mut attempts, WAIT_MIN, &finished).await;
                    }
                }
                Verdict::NewMap => {
                    self.wait(&mut attempts, WAIT_MIN, &finished).await;
                    if let Err(error) = self.fetch_map(&link, deadline).await {
                        if error.is_final() {
                            return Err(attempts.ended_by(error));
                        }
                        attempts.last = Some(error);
                    }
                }
                Verdict::NewId => {
                    let Target::Tablet { group, tablet } = target else {
                        unreachable!("only writes have a request id, and they go to a tablet");
                    };
                    request = with_id(request, self.next_id(group, tablet));
                    attempts.unknown = 0;
                }
                Verdict::Unknown => {
                    let cause = Some(Box::new(finished.error()));
                    return Err(ClientError::UnknownOutcome { operation, cause });
                }
            }
        }
    }

    /// One sending. None when it has no answer; `attempts` then says what to do next.
    async fn send(
        &self,
        connection: &Rc<Connection>,
        request: &Request<'_>,
        replica_count: usize,
        attempts: &mut Attempts,
    ) -> Option<Answered> {
        let mut until = attempts.deadline;
        if replica_count > 1 {
            until = until.min(self.io().now().after(self.config().patience));
        }
        match connection.call(request, self.epoch(), until).await {
            Ok(answered) => return Some(answered),
            Err(CallError { sent, error }) => {
                attempts.unknown += u32::from(sent);
                if let CallEnd::Lost(error) = error {
                    attempts.last = Some(error);
                }
                attempts.replica += 1;
            }
        }
        None
    }

    async fn wait(&self, attempts: &mut Attempts, hint: Duration, finished: &Finished) {
        attempts.last = Some(finished.error());
        // Doubling ends at the longest wait; a longer hint is the server's own word.
        let hint = hint.max(WAIT_MIN);
        let wait = hint.saturating_mul(1 << attempts.refusals.min(10)).min(WAIT_MAX.max(hint));
        attempts.refusals += 1;
        let until = self.io().now().after(jittered(self.io(), wait)).min(attempts.deadline);
        self.io().sleep_until(until).await;
    }

    fn overdue(&self, attempts: Attempts) -> ClientError {
        let cause = attempts.last.map(Box::new);
        let operation = attempts.operation;
        if operation.is_write() && attempts.unknown > 0 {
            ClientError::UnknownOutcome { operation, cause }
        } else {
            ClientError::Timeout { operation, after: self.deadline, cause }
        }
    }

    /// The link of the replica to ask, and how many replicas there are.
    fn link(&self, target: Target, replica: usize) -> (Rc<Link>, usize) {
        match target {
            Target::Home => (self.home(), 1),
            Target::Node(id) => (self.link_of(id), 1),
            Target::Tablet { group, tablet } => self.replica(group, tablet, replica),
        }
    }

    fn learn_log_time(&self, group: u16, tablet: TabletIndex, log_time: LogTime) {
        self.ids().borrow_mut().learn(group, tablet, log_time);
    }

    /// The id of a new write to a tablet.
    pub(super) fn next_id(&self, group: u16, tablet: TabletIndex) -> RequestId {
        self.ids().borrow_mut().next(group, tablet)
    }
}

fn verdict(
    answer: &Answer<'_>,
    request: &Request<'_>,
    attempts: &mut Attempts,
    replica_count: usize,
) -> Verdict {
    let write = attempts.operation.is_write();
    let Answer::Not(outcome) = answer else { return Verdict::Finished };
    match outcome {
        Outcome::Busy { hint_ms, .. } => Verdict::Again(Duration::from_millis(u64::from(*hint_ms))),
        Outcome::Timeout => Verdict::Again(WAIT_MIN),
        Outcome::NotCurrent => Verdict::NextReplica,
        Outcome::WrongGroup { .. } => Verdict::NewMap,
        // Nothing of this sending was applied, and there was no other.
        Outcome::TooOld if attempts.unknown == 0 => Verdict::NewId,
        Outcome::TooOld | Outcome::UnknownOutcome => Verdict::Unknown,
        // An earlier sending may still be under way, and apply once the key has become absent.
        Outcome::VersionMismatch { .. } if attempts.unknown > 0 && put_if_absent(request) => Verdict::Unknown,
        Outcome::Corrupt if !write => {
            attempts.corrupt += 1;
            if attempts.corrupt < replica_count { Verdict::NextReplica } else { Verdict::Finished }
        }
        // A refusal says nothing about an earlier sending.
        Outcome::BadRequest { .. } | Outcome::TooLarge { .. } | Outcome::Unauthorized | Outcome::Corrupt
            if write && attempts.unknown > 0 =>
        {
            Verdict::Unknown
        }
        _ => Verdict::Finished,
    }
}

fn put_if_absent(request: &Request<'_>) -> bool {
    matches!(request, Request::CompareAndSet(cas) if cas.expected.is_absent())
}

/// The same write with another request id.
fn with_id(request: Request<'_>, id: RequestId) -> Request<'_> {
    match request {
        Request::Put(put) => Request::Put(Put { id, ..put }),
        Request::Delete(delete) => Request::Delete(Delete { id, ..delete }),
        Request::CompareAndSet(cas) => Request::CompareAndSet(CompareAndSet { id, ..cas }),
        Request::Batch(mut batch) => {
            batch.id = id;
            Request::Batch(batch)
        }
        other => other,
    }
}
