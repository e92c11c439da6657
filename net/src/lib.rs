//! The wire: frames, requests, replies, routing, clients.
//!
//! Owns the bytes between machines (`PROTOCOL.md`) and the maps that say where a key belongs. Sans-io first: everything
//! here but `client` is a pure function or a state machine, bytes in and bytes out. Must never open a socket, read a clock
//! or draw a random number by itself. Invariant: any bytes at all decode to a value or a typed error, never a panic.
#![forbid(unsafe_code)]

pub mod client;
pub mod cold;
pub mod field;
pub mod frame;
pub mod operation;
pub mod outcome;
pub mod peer;
pub mod redirect;
pub mod reply;
pub mod request;
pub mod request_id;
pub mod route;
pub mod session;

pub use operation::Operation;
pub use outcome::{Limit, Outcome, Why};
pub use reply::Reply;
pub use request::Request;
