//! What can go wrong for a client: what, where, and what to do about it.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use crate::operation::Operation;
use crate::outcome::Outcome;
use crate::session::SessionBroken;

/// Why a call has no result. `Display` says what happened, where, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// No connection to any of the addresses.
    #[error("cannot reach {address}: {cause}; is the server running there? Name another with --endpoint")]
    Unreachable {
        /// The address tried last.
        address: SocketAddr,
        /// What the system said.
        cause: Rc<str>,
    },
    /// The server answered hello with a refusal.
    #[error("{address} refused the connection: {outcome}; check the cluster, the token and the versions")]
    Refused {
        /// The server.
        address: SocketAddr,
        /// What it said.
        outcome: Outcome,
    },
    /// What answered does not speak the protocol.
    #[error("{address} does not speak this protocol: {cause}; is it a Thermocline port?")]
    NotThermocline {
        /// The address.
        address: SocketAddr,
        /// What was wrong with its bytes.
        cause: SessionBroken,
    },
    /// The server's answer: the request cannot succeed as it is.
    #[error("{}: {outcome}; {}", operation.name(), mend(outcome))]
    Answer {
        /// What was asked.
        operation: Operation,
        /// The server's answer.
        outcome: Outcome,
    },
    /// No answer in time, and nothing was changed.
    #[error("{}: no answer within {after:?}{}; nothing was changed, try again", operation.name(), because(cause))]
    Timeout {
        /// What was asked.
        operation: Operation,
        /// The deadline.
        after: Duration,
        /// What happened last on the way.
        cause: Option<Box<ClientError>>,
    },
    /// The write may or may not have happened.
    #[error(
        "{}: it may or may not have happened{}; read the record before you write it anew",
        operation.name(), because(cause)
    )]
    UnknownOutcome {
        /// What was asked.
        operation: Operation,
        /// What happened last on the way.
        cause: Option<Box<ClientError>>,
    },
    /// The connection ended under way. Calls retry by themselves; this shows as the cause of a time-out.
    #[error("the connection to {address} was lost: {cause}")]
    Lost {
        /// The server.
        address: SocketAddr,
        /// How.
        cause: Rc<str>,
    },
    /// The server's answer fits its operation and not what was asked.
    #[error("{}: the server's answer does not fit the request: {what}; report it, and ask another replica", operation.name())]
    WrongAnswer {
        /// What was asked.
        operation: Operation,
        /// What does not fit.
        what: Rc<str>,
    },
    /// The call cannot be sent: a stream or value of a wrong length, an empty batch.
    #[error("{what}")]
    Input {
        /// What is wrong, and the limit.
        what: Rc<str>,
    },
    /// The server sent a cluster map that cannot be.
    #[error("{address} sent a wrong cluster map: {cause}; check the map file of its cluster")]
    WrongMap {
        /// The server.
        address: SocketAddr,
        /// The rule that is broken.
        cause: crate::route::MapWrong,
    },
    /// The core that runs the client has no more memory for buffers.
    #[error("no buffer of {bytes} bytes on this core; give it a larger arena or use fewer connections")]
    NoBuffer {
        /// Bytes asked for.
        bytes: usize,
    },
    /// The blocking client's core cannot be started.
    #[error("{what}")]
    Launch {
        /// What, and what to do.
        what: Rc<str>,
    },
}

impl ClientError {
    /// True when trying the same connection again cannot help.
    pub(super) fn is_final(&self) -> bool {
        if let ClientError::Refused { outcome: Outcome::Busy { .. }, .. } = self {
            return false;
        }
        matches!(
            self,
            ClientError::Refused { .. }
                | ClientError::NotThermocline { .. }
                | ClientError::Input { .. }
                | ClientError::WrongMap { .. }
                | ClientError::NoBuffer { .. }
                | ClientError::Launch { .. }
        )
    }
}

fn because(cause: &Option<Box<ClientError>>) -> String {
    cause.as_ref().map_or(String::new(), |cause| format!(" (last: {cause})"))
}

fn mend(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::TooLarge { .. } => "send or ask for less",
        Outcome::Unauthorized => "give a token that the server knows",
        Outcome::Corrupt => "see `thermocline inspect` and repair from another replica",
        Outcome::BadRequest { .. } => "the request itself is wrong",
        _ => "try again",
    }
}
