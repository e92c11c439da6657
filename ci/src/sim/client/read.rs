//! Reads of a client: sent until they are answered or the client's patience ends. Each sending is a read of its own:
//! only the one that was answered is written down.

use super::super::history::{KeyIndex, List, Order, Page, Read, Seen, StreamIndex};
use super::super::wire::{Answered, Came, Heard};
use super::{Attempt, Client, Turn};
use layout::key::Key;
use layout::units::{LogTime, Space, TabletIndex, Version};
use net::outcome::Outcome;
use net::request::{Get, Head, MultiGetBody, Request, Scan, Streams};

/// Why a get showed nothing, not even that there is nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unseen {
    /// The node cannot prove what the record is.
    Corrupt,
    /// No answer while patience lasted.
    Silence,
    /// An answer that is wrong, and noted.
    Wrong,
}

impl Client {
    /// Ask for a read until it is answered; the order in which the answered sending was invoked.
    async fn read(&self, request: &Request<'_>, tablet: Option<TabletIndex>) -> Option<(Order, Answered)> {
        let mut attempt = self.attempt();
        self.read_on(request, tablet, &mut attempt).await
    }

    pub(super) async fn read_on(
        &self,
        request: &Request<'_>,
        tablet: Option<TabletIndex>,
        attempt: &mut Attempt,
    ) -> Option<(Order, Answered)> {
        loop {
            match self.turn(request, tablet, attempt).await {
                Turn::Again => {}
                Turn::Over => {
                    self.history().count("gave_up");
                    return None;
                }
                Turn::Done(answered, sent) => return Some((sent, answered)),
            }
        }
    }

    /// Get one key: what was seen, or why nothing was.
    pub(crate) async fn get(
        &self,
        stream: StreamIndex,
        time: u64,
        if_newer: Option<Version>,
    ) -> Result<Seen, Unseen> {
        let (_, _, key) = self.name(stream, time);
        let tablet = self.history().keys.tablet(key);
        let mut attempt = self.attempt();
        let got = self.got((stream, time, if_newer), tablet, &mut attempt).await;
        let (invoked, log_time, came) = got.ok_or(Unseen::Silence)?;
        let returned = self.learn(invoked, tablet, log_time);
        self.note("a get", invoked, returned, key, log_time, if_newer, came)
    }

    /// Write down what a get, or an item of a multi-get, showed.
    #[expect(clippy::too_many_arguments, reason = "what a read is, by its parts")]
    fn note(
        &self,
        by: &'static str,
        invoked: Order,
        returned: Order,
        key: KeyIndex,
        log_time: LogTime,
        if_newer: Option<Version>,
        came: Result<Came, Outcome>,
    ) -> Result<Seen, Unseen> {
        let (seen, expiry) = match (came, if_newer) {
            (Ok(came), _) => {
                let seen = self.history().look(key, came.version, came.expiry, &came.value);
                let seen = seen.ok_or(Unseen::Wrong)?;
                if if_newer == Some(came.version) {
                    let text =
                        format!("asked for newer than {}, client {} got it", came.version, self.number);
                    let tablet = self.tablet(key);
                    self.history().trouble("answers", Some(tablet), text);
                }
                (seen, Some(came.expiry))
            }
            (Err(Outcome::NotFound), _) => (Seen::Absent, None),
            (Err(Outcome::NotModified), Some(asked)) if asked.is_absent() => (Seen::Absent, None),
            (Err(Outcome::NotModified), Some(asked)) => (Seen::Version(asked), None),
            (Err(outcome), _) => {
                self.read_refused("a get", Some(self.tablet(key)), &outcome, 1);
                return Err(if outcome == Outcome::Corrupt { Unseen::Corrupt } else { Unseen::Wrong });
            }
        };
        self.versions.borrow_mut().insert(key, seen.version());
        let at_ns = self.io.now().ns;
        let read = Read { by, client: self.number, invoked, returned, at_ns, key, log_time, seen, expiry };
        self.history().reads.push(read);
        Ok(seen)
    }

    fn tablet(&self, key: KeyIndex) -> TabletIndex {
        self.history().keys.tablet(key)
    }

    fn name(&self, stream: StreamIndex, time: u64) -> (Space, Vec<u8>, KeyIndex) {
        let mut history = self.history();
        let key = history.keys.key(stream, time);
        let facts = history.keys.facts(stream);
        (facts.space, facts.name.clone(), key)
    }

    /// Get several keys at once.
    pub(crate) async fn multi_get(&self, wanted: &[(StreamIndex, u64, Option<Version>)]) {
        let mut body = MultiGetBody::new();
        let mut keys: Vec<(KeyIndex, Option<Version>)> = Vec::new();
        // Some ask a node for what it does not hold.
        let asks_all = self.number % 4 == 3;
        for &(stream, time, if_newer) in wanted {
            let (space, name, key) = self.name(stream, time);
            let first = keys.first().map_or(key, |first| first.0);
            if !asks_all && !self.ways.together(self.tablet(first), self.tablet(key)) {
                continue;
            }
            let get =
                Get { key: Key { space, stream: &name, time }, local: false, if_newer, redirect: false };
            assert!(body.push(&get), "few keys fit");
            keys.push((key, if_newer));
        }
        let request = Request::MultiGet(body.request().expect("there are keys"));
        let mut attempt = self.attempt();
        let first = self.is_replicated().then(|| self.tablet(keys[0].0));
        let Some((invoked, answered)) = self.read_on(&request, first, &mut attempt).await else { return };
        let items = match answered.heard {
            Heard::Many(items) => items,
            Heard::Not(outcome) => return self.read_refused("a multi-get", None, &outcome, keys.len()),
            other => panic!("an answer to a multi-get is no {other:?}"),
        };
        let mut seen = vec![false; keys.len()];
        for (index, log_time, came) in items {
            let Some(&(key, if_newer)) = keys.get(usize::from(index)) else { continue };
            seen[usize::from(index)] = true;
            let tablet = self.tablet(key);
            if let Err(outcome) = &came
                && self.is_elsewhere(outcome, attempt.node, tablet)
            {
                self.history().count("part_elsewhere");
                continue;
            }
            let proven = if matches!(came, Err(Outcome::Corrupt)) { LogTime(0) } else { log_time };
            let returned = self.learn(invoked, tablet, proven);
            let _seen = self.note("a multi-get", invoked, returned, key, log_time, if_newer, came);
        }
        if seen.contains(&false) {
            self.history().trouble(
                "answers",
                None,
                format!("a multi-get of client {} misses keys", self.number),
            );
        }
    }

    /// Whether a part of a multi-get was refused by a node that need not be able to answer it.
    fn is_elsewhere(&self, outcome: &Outcome, node: usize, tablet: TabletIndex) -> bool {
        match outcome {
            Outcome::WrongGroup { .. } => !self.ways.holds(node, tablet),
            Outcome::NotCurrent | Outcome::Timeout | Outcome::Busy { .. } => self.is_replicated(),
            _ => false,
        }
    }

    /// One page of a scan. Where the next begins, when there is one; `None` inside at the end.
    pub(crate) async fn scan(
        &self,
        stream: StreamIndex,
        times: (u64, u64),
        backward: bool,
        limits: (u32, u32),
    ) -> Option<Option<u64>> {
        let (space, name) = self.stream_name(stream);
        let request = Request::Scan(Scan {
            space,
            stream: &name,
            from: times.0,
            to: times.1,
            backward,
            local: false,
            record_limit: limits.0,
            byte_limit: limits.1,
        });
        self.page(&request, stream, times, backward, limits.0).await
    }

    /// The newest records of a stream.
    pub(crate) async fn head(&self, stream: StreamIndex, limits: (u32, u32)) -> Option<Option<u64>> {
        let (space, name) = self.stream_name(stream);
        let request = Request::Head(Head {
            space,
            stream: &name,
            local: false,
            record_limit: limits.0,
            byte_limit: limits.1,
        });
        self.page(&request, stream, (0, u64::MAX), true, limits.0).await
    }

    pub(super) fn stream_name(&self, stream: StreamIndex) -> (Space, Vec<u8>) {
        let history = self.history();
        let facts = history.keys.facts(stream);
        (facts.space, facts.name.clone())
    }

    async fn page(
        &self,
        request: &Request<'_>,
        stream: StreamIndex,
        times: (u64, u64),
        backward: bool,
        record_limit: u32,
    ) -> Option<Option<u64>> {
        let tablet = self.history().keys.facts(stream).tablet;
        let (invoked, answered) = self.read(request, Some(tablet)).await?;
        let returned = self.learn(invoked, tablet, answered.log_time);
        let (log_index, resume, list) = match answered.heard {
            Heard::Records { log_index, resume, records } => (log_index, resume, records),
            Heard::Not(outcome) => {
                self.read_refused("a scan", Some(tablet), &outcome, 1);
                return None;
            }
            other => panic!("an answer to a scan is no {other:?}"),
        };
        let mut history = self.history();
        let mut records = Vec::with_capacity(list.len());
        for (time, came) in list {
            let key = history.keys.key(stream, time);
            if let Some(seen) = history.look(key, came.version, came.expiry, &came.value) {
                records.push((key, seen, came.expiry));
            }
        }
        history.pages.push(Page {
            client: self.number,
            invoked,
            returned,
            at_ns: self.io.now().ns,
            stream,
            times,
            backward,
            record_limit,
            log_index,
            log_time: answered.log_time,
            resume,
            local: None,
            records,
        });
        Some(resume)
    }

    /// One page of the streams of a tablet. The last stream, when more follow; `None` inside at the end.
    pub(crate) async fn streams(
        &self,
        tablet: TabletIndex,
        space: Option<Space>,
        after: Option<StreamIndex>,
        limit: u32,
    ) -> Option<Option<StreamIndex>> {
        let name = after.map(|after| self.stream_name(after));
        let after_name = name.as_ref().map(|(space, name)| (*space, &name[..]));
        let request = Request::Streams(Streams { group: 0, tablet, space, after: after_name, limit });
        let (invoked, answered) = self.read(&request, Some(tablet)).await?;
        let returned = self.learn(invoked, tablet, answered.log_time);
        let (more, list) = match answered.heard {
            Heard::Streams { more, streams } => (more, streams),
            Heard::Not(outcome) => {
                self.read_refused("a list of streams", Some(tablet), &outcome, 1);
                return None;
            }
            other => panic!("an answer to a list of streams is no {other:?}"),
        };
        let mut history = self.history();
        let mut streams = Vec::with_capacity(list.len());
        for (space, name) in list {
            match history.keys.find(space, &name) {
                Some(stream) => streams.push(stream),
                None => {
                    let text =
                        format!("tablet {tablet:?} lists a stream that nobody wrote: {}/{name:?}", space.0);
                    history.trouble("value", None, text);
                }
            }
        }
        let last = streams.last().copied().filter(|_| more);
        history.lists.push(List {
            client: self.number,
            invoked,
            returned,
            tablet,
            space,
            after,
            more,
            streams,
        });
        Some(last)
    }

    /// Status text of the node.
    pub(crate) async fn status(&self) -> Option<String> {
        let (_, answered) = self.read(&Request::Status, None).await?;
        self.history().operation_count += 1;
        match answered.heard {
            Heard::Status(text) => Some(text),
            _ => None,
        }
    }

    /// A ping of so many bytes.
    pub(crate) async fn ping(&self, bytes: usize) {
        let body = vec![0x5a; bytes];
        if self.read(&Request::Ping(&body), None).await.is_some() {
            self.history().operation_count += 1;
        }
    }
}
