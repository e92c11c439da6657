//! The Paxos log of one tablet at one replica: a pure state machine.
//!
//! Owns the rules of consensus: who may propose, accept, count and serve. Must never do I/O, read a clock or draw a
//! number: time and incarnations come in as inputs, what it wants done goes out as values, and it has no dependencies
//! so that it cannot cheat. It handles names of values only; their bytes are the caller's.
//!
//! Invariant: at each index at most one value is ever reported chosen, at every replica, for ever.
//!
//! Read `replica.rs` first (inputs, outputs, what happens to a message), then `propose.rs`, `tip.rs`. README.md says what
//! must be durable before which message leaves.

mod ballot;
mod guard;
mod message;
mod propose;
mod replica;
mod state;
mod tip;

pub use ballot::{Ballot, Incarnation, LogIndex, MEMBERS_MAX, Node, ValueId};
pub use guard::{Guard, Guards};
pub use message::{Message, Proposal};
pub use replica::{Config, Input, Origin, Output, Reason, Replica, Token, Wait};
pub use state::{Accepted, Chosen, State, View, Vote};
pub use tip::Tip;
