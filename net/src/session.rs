//! A connection as a state machine, one for each side: bytes in, requests or replies out. No socket, no clock.
//!
//! Owns the order hello → open → closing, the limits in force in each state, and the client's table of requests in flight.
//! Must never read a clock or own a buffer: the caller keeps the bytes, calls `next` with all that are there, and drops
//! what was consumed. So the same machine works on a socket, in the simulator, and behind TLS, which also
//! is bytes in and bytes out. Invariant: after an error that loses the framing nothing more is taken from the connection.
//!
//! ```text
//! server:  before hello ──Hello ok──► open ──our error, theirs, idle──► closing
//!               └────────any error, deadline─────────────────────────────►┘
//! ```

mod client;
mod server;

pub use client::{ClientSession, ClientStep, SessionBroken, append_frame};
pub use server::{CloseReason, ServerIdentity, ServerLimits, ServerSession, SessionReply, Step};
