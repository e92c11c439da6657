//! Gets whose record lies on cold disks: some of a client's gets say that they follow, and go on to a cold node where the store sends them.
//!
//! The answer of a cold node counts for the moment at which the store named the place, which lies within the get.

use super::super::history::{Order, StreamIndex};
use super::super::wire::{Answered, Came, Heard, Wire};
use super::{Attempt, Client};
use ioengine::sim::Random;
use layout::key::Key;
use layout::units::{LogTime, TabletIndex, Version};
use net::cold::ColdRequest;
use net::outcome::Outcome;
use net::redirect::Redirect;
use net::request::{Get, Request};
use std::cell::RefCell;
use std::net::SocketAddr;
use std::time::Duration;

/// For one copy: a store that reads the record itself would have to wait as long.
const COPY_WAIT: Duration = Duration::from_millis(1_500);

/// The ways of a client to cold nodes.
pub(crate) struct Colds {
    pub(crate) wires: Vec<(SocketAddr, Wire)>,
    /// Drawn from by gets alone.
    pub(crate) random: RefCell<Random>,
}

impl Client {
    /// Whether this get says that it follows.
    pub(super) fn follows(&self) -> bool {
        self.ways.colds.as_ref().is_some_and(|colds| colds.random.borrow_mut().coin())
    }

    /// What a get of `stream` at `time` shows, wherever the record lies: invoked when, log time, record or outcome.
    pub(super) async fn got(
        &self,
        (stream, time, if_newer): (StreamIndex, u64, Option<Version>),
        tablet: TabletIndex,
        attempt: &mut Attempt,
    ) -> Option<(Order, LogTime, Result<Came, Outcome>)> {
        let (space, name) = self.stream_name(stream);
        let key = Key { space, stream: &name, time };
        let get = Get { key, local: false, if_newer, redirect: self.follows() };
        let (invoked, answered) = self.read_on(&Request::Get(get), Some(tablet), attempt).await?;
        let redirect = match answered.heard {
            Heard::Redirect(redirect) => redirect,
            heard => return Some((invoked, answered.log_time, came(heard))),
        };
        if !get.redirect {
            let text = format!("client {} was sent elsewhere, and had not said that it follows", self.number);
            self.history().trouble("answers", Some(tablet), text);
        }
        if let Some(found) = self.follow(&redirect, key, (answered.log_time, if_newer)).await {
            self.history().count("Ok of a cold node");
            return Some((invoked, answered.log_time, found));
        }
        self.history().count("no cold node helps");
        let get = Get { redirect: false, ..get };
        let (invoked, answered) = self.read_on(&Request::Get(get), Some(tablet), attempt).await?;
        Some((invoked, answered.log_time, came(answered.heard)))
    }

    /// The first answer of a copy; `None` where none has one.
    async fn follow(
        &self,
        redirect: &Redirect,
        key: Key<'_>,
        (log_time, if_newer): (LogTime, Option<Version>),
    ) -> Option<Result<Came, Outcome>> {
        let colds = self.ways.colds.as_ref()?;
        let first = colds.random.borrow_mut().index(redirect.nodes.len());
        for step in 0..redirect.nodes.len() {
            let address = redirect.nodes[(first + step) % redirect.nodes.len()];
            let Some((_, wire)) = colds.wires.iter().find(|(of, _)| *of == address) else {
                let text = format!("client {} was sent to {address}, where no cold node is", self.number);
                self.history().trouble("answers", None, text);
                return None;
            };
            let request = Request::Cold(ColdRequest::Get { blocks: redirect.blocks, key });
            let Ok(Answered { heard, .. }) = wire.ask(&request, COPY_WAIT).await else { continue };
            let absent =
                if if_newer == Some(Version::ABSENT) { Outcome::NotModified } else { Outcome::NotFound };
            match heard {
                Heard::Record(came) if log_time.has_expired(came.expiry) => return Some(Err(absent)),
                Heard::Record(came) if if_newer == Some(came.version) => {
                    return Some(Err(Outcome::NotModified));
                }
                Heard::Record(came) => return Some(Ok(came)),
                Heard::Not(Outcome::NotFound) => return Some(Err(absent)),
                _ => {}
            }
        }
        None
    }
}

fn came(heard: Heard) -> Result<Came, Outcome> {
    match heard {
        Heard::Record(came) => Ok(came),
        Heard::Not(outcome) => Err(outcome),
        other => panic!("an answer to a get is no {other:?}"),
    }
}
