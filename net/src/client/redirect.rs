//! A get whose record lies on cold disks: the store says where, and one of three cold nodes gives the record alone.
//!
//! Must never take one copy's failure for an answer: the next copy is asked, and behind the last one the store, to read it itself.
//! Invariant: what a get returns was true when the store said where the record lies, which is within the get.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use ioengine::Instant;
use layout::key::Key;
use layout::units::{LogTime, Version};

use super::Client;
use super::cold::{ColdNode, ColdReply, first_copy};
use super::error::ClientError;
use super::verbs::{Found, found};
use crate::cold::ColdRequest;
use crate::operation::Operation;
use crate::outcome::Outcome;
use crate::redirect::Redirect;
use crate::reply::Answer;
use crate::request::{Get, Request};

/// Ways to cold nodes that a client keeps.
const COLD_NODES_MAX: usize = 64;
/// How long a copy is waited for alone: a few reads of a disk that turns.
const SLOW: Duration = Duration::from_millis(100);
/// How long a copy may take at all.
const COPY_WAIT: Duration = Duration::from_millis(1500);

/// What a get found.
pub(super) enum Got {
    Absent,
    NotModified,
    Found(Found),
}

impl Client {
    /// A get, wherever its record lies.
    pub(super) async fn got(&self, key: Key<'_>, if_newer: Option<Version>) -> Result<Got, ClientError> {
        let deadline = self.io().now().after(self.deadline);
        let get = Get { key, local: self.local, if_newer, redirect: self.config().redirects };
        let mut finished = self.read(&key, Request::Get(get), deadline).await?;
        let reply = finished.reply();
        if let Answer::Redirect(redirect) = reply.answer {
            if let Some(found) = self.follow(&redirect, key, reply.log_time, deadline).await {
                return Ok(judge(found, if_newer));
            }
            ioengine::sometimes!("a client that no cold node helps asks the store to read");
            let get = Get { redirect: false, ..get };
            finished = self.read(&key, Request::Get(get), deadline).await?;
        }
        match finished.answer() {
            Answer::Not(Outcome::NotFound) => Ok(Got::Absent),
            Answer::Not(Outcome::NotModified) if if_newer.is_some() => Ok(Got::NotModified),
            Answer::Record { .. } => Ok(found(&finished).map_or(Got::Absent, Got::Found)),
            // It was not to be: as of a place that has changed hands.
            Answer::Redirect(_) => {
                Err(ClientError::Answer { operation: Operation::Get, outcome: Outcome::Moved })
            }
            _ => Err(finished.error()),
        }
    }

    /// The record of a key from the first copy that gives it, or that there is none; `None` where no copy says either.
    async fn follow(
        &self,
        redirect: &Redirect,
        key: Key<'_>,
        log_time: LogTime,
        deadline: Instant,
    ) -> Option<Option<Found>> {
        let request = ColdRequest::Get { blocks: redirect.blocks, key };
        let ask = async |copy: usize| {
            let wait = COPY_WAIT.min(deadline.since(self.io().now()));
            let node = self.cold_node(redirect.nodes[copy]);
            match node.ask_within(&request, wait).await {
                Ok(reply) => record_of(&reply, log_time).ok_or(()),
                Err(_) => Err(()),
            }
        };
        first_copy(self.io(), SLOW, ask).await.ok()
    }

    /// The way to a cold node.
    fn cold_node(&self, address: SocketAddr) -> Rc<ColdNode> {
        let mut nodes = self.shared.cold_nodes.borrow_mut();
        if nodes.len() >= COLD_NODES_MAX && !nodes.contains_key(&address) {
            // Those in use live on with their requests.
            nodes.clear();
        }
        let node = nodes.entry(address);
        Rc::clone(node.or_insert_with(|| Rc::new(ColdNode::new(self.io(), address, self.config()))))
    }
}

/// What a cold node says of a record; `None` where it says nothing of it.
fn record_of(reply: &ColdReply, log_time: LogTime) -> Option<Option<Found>> {
    match reply.answer() {
        Answer::Record { expiry, .. } if log_time.has_expired(expiry) => Some(None),
        Answer::Record { version, expiry, value } => {
            Some(Some(Found { version, expiry, value: value.to_vec(), log_time }))
        }
        Answer::Not(Outcome::NotFound) => Some(None),
        _ => None,
    }
}

/// What a store would say of it.
fn judge(found: Option<Found>, if_newer: Option<Version>) -> Got {
    match (found, if_newer) {
        (None, Some(Version::ABSENT)) => Got::NotModified,
        (None, _) => Got::Absent,
        (Some(found), Some(known)) if found.version == known => Got::NotModified,
        (Some(found), _) => Got::Found(found),
    }
}
