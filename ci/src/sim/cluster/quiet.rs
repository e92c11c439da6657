//! What a group at peace must show, asked by its clients: every tablet takes a write and shows it, the replicas become equal,
//! everything is read back. The same of simulated nodes and of real processes.
//!
//! Must never judge: it says who is stuck and who differs, and leaves what was read in the history.

use super::work::{LeftOver, Routes};
use crate::sim::client::{Client, Patience, Shared, Unpeeked};
use crate::sim::history::{Does, KeyIndex, Seen, StreamIndex};
use crate::sim::one_node::PROGRESS;
use ioengine::{Instant, Queue};
use layout::key::{bucket_of, tablet_of};
use layout::units::{LogIndex, Space, TABLET_COUNT, TabletIndex};
use net::outcome::Outcome;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

/// Frames that every answer fits.
pub(crate) const FRAME_BYTES: u32 = crate::sim::one_node::FRAME_BYTES;
/// Tablets looked at side by side.
const LANES: usize = 8;
/// How patient those are who ask at peace.
pub(crate) fn patience() -> Patience {
    Patience {
        attempt: Duration::from_secs(2),
        whole: PROGRESS,
        hangs_up: false,
        tells_log_time: true,
        insists: true,
        reads_slowly: false,
    }
}

/// A stream of each tablet.
fn progress_streams() -> Vec<String> {
    let mut found: BTreeMap<usize, String> = BTreeMap::new();
    for number in 0.. {
        let name = format!("progress-{number}");
        found.entry(tablet_of(bucket_of(Space(0), name.as_bytes())).index()).or_insert(name);
        if found.len() == TABLET_COUNT {
            break;
        }
    }
    found.into_values().collect()
}

/// Put a record on every tablet and get it: the streams where it does not come to that, and what was said.
pub(crate) async fn stuck(
    client: Rc<Client>,
    shared: Rc<Shared>,
    until: Instant,
) -> Vec<(StreamIndex, String)> {
    let left_over: Vec<StreamIndex> = {
        let mut history = shared.history.borrow_mut();
        let stream = |name: &String| history.keys.stream(Space(0), name.as_bytes());
        progress_streams().iter().map(stream).collect()
    };
    side_by_side(client, left_over, move |client, stream| async move {
        // A write may end unknown, when a replica that was behind took it up.
        let put = loop {
            let does = [(1, Does::Put { bytes: 40, expiry: 0 })];
            let put = client.write(stream, &does, None).await;
            if put || client.io.now() >= until {
                break put;
            }
        };
        let got = client.get(stream, 1, None).await;
        let fine = put && matches!(got, Ok(seen) if seen != Seen::Absent);
        (!fine).then(|| (stream, format!("put {put}, get {got:?}")))
    })
    .await
}

/// Look at every stream that was ever touched until all replicas hold the same of it; the tablets where they do not, and what
/// they said. Nodes of `rotten`, one bit each, may say that they cannot read what they hold.
pub(crate) async fn unequal(
    client: Rc<Client>,
    routes: Routes,
    shared: Rc<Shared>,
    until: Instant,
    rotten: u64,
) -> Vec<(TabletIndex, String)> {
    let streams = shared.history.borrow().keys.streams.len();
    let left_over = (0..streams).map(|number| StreamIndex(u32::try_from(number).expect("streams are few")));
    side_by_side(client, left_over.collect(), move |client, stream| {
        equal(client, routes.clone(), Rc::clone(&shared), stream, until, rotten)
    })
    .await
}

/// Read every key that was ever touched; those that nobody answers for.
pub(crate) async fn read_keys(client: Rc<Client>, shared: Rc<Shared>) -> Vec<(KeyIndex, bool)> {
    let keys = shared.history.borrow().keys.clone();
    let left_over: Vec<(KeyIndex, StreamIndex, u64)> =
        (0u32..).zip(&keys.keys).map(|(number, &(stream, time))| (KeyIndex(number), stream, time)).collect();
    side_by_side(client, left_over, |client, (key, stream, time)| async move {
        client.get(stream, time, None).await.err().map(|_unseen| (key, false))
    })
    .await
}

/// Scan every stream and list those of every tablet.
pub(crate) async fn read_streams(client: &Client, shared: &Shared) {
    let streams = shared.history.borrow().keys.streams.len();
    for number in 0..u32::try_from(streams).expect("streams are few") {
        let mut from = 0;
        let all = |from| client.scan(StreamIndex(number), (from, u64::MAX), false, (0, 0));
        while let Some(next) = all(from).await.flatten() {
            from = next;
        }
    }
    for tablet in TabletIndex::all() {
        let mut after = None;
        while let Some(last) = client.streams(tablet, None, after, 0).await.flatten() {
            after = Some(last);
        }
    }
}

/// Do it for everything there is to do, a few at a time; what came of it.
async fn side_by_side<I: 'static, T: 'static, F>(
    client: Rc<Client>,
    left_over: Vec<I>,
    ask: impl Fn(Rc<Client>, I) -> F + 'static,
) -> Vec<T>
where
    F: Future<Output = Option<T>> + 'static,
{
    let (left_over, ask): (LeftOver<I>, _) = (Rc::new(RefCell::new(left_over)), Rc::new(ask));
    let (found, busy) = (Rc::new(RefCell::new(Vec::new())), Rc::new(Cell::new(LANES)));
    for _ in 0..LANES {
        let (client, left_over, ask) = (Rc::clone(&client), Rc::clone(&left_over), Rc::clone(&ask));
        let (found, busy) = (Rc::clone(&found), Rc::clone(&busy));
        client.io.clone().spawn(Queue::Foreground, async move {
            loop {
                let next = left_over.borrow_mut().pop();
                let Some(next) = next else { break };
                let came = ask(Rc::clone(&client), next).await;
                found.borrow_mut().extend(came);
            }
            busy.set(busy.get() - 1);
        });
    }
    while busy.get() > 0 {
        client.io.sleep(Duration::from_millis(2)).await;
    }
    found.take()
}

/// Look at a stream at all replicas of its tablet until all hold it at one index; what they hold there, checkers compare.
/// `None`: they do.
async fn equal(
    client: Rc<Client>,
    routes: Routes,
    shared: Rc<Shared>,
    stream: StreamIndex,
    until: Instant,
    rotten: u64,
) -> Option<(TabletIndex, String)> {
    let tablet = shared.history.borrow().keys.facts(stream).tablet;
    loop {
        let mut indexes: BTreeSet<LogIndex> = BTreeSet::new();
        let mut shown = Vec::new();
        for &node in &routes.orders[tablet.index()] {
            let seen = whole(&client, node, stream).await;
            shown.push(format!("node {node} {seen:?}"));
            match seen {
                Ok(seen) => indexes.extend(seen),
                Err(Unpeeked::Refused(Outcome::Corrupt)) if rotten & 1 << node != 0 => {}
                // Stands for an index of its own.
                Err(_) => indexes.extend([LogIndex(0), LogIndex(u64::MAX)]),
            }
        }
        if indexes.len() == 1 {
            return None;
        }
        if client.io.now() >= until {
            return Some((tablet, shown.join(", ")));
        }
        // Of drawn length: two that ask in step, where a core passes on one request at a time, find it busy by turns for ever.
        client.io.sleep(Duration::from_micros(50_000 + client.io.random() % 100_000)).await;
    }
}

/// The indexes at which the pages of a stream were read at a node.
async fn whole(client: &Client, node: usize, stream: StreamIndex) -> Result<Vec<LogIndex>, Unpeeked> {
    let (mut indexes, mut from) = (Vec::new(), 0);
    loop {
        let (index, resume) = client.peek(node, stream, from, Duration::from_secs(2)).await?;
        indexes.push(index);
        match resume {
            None => return Ok(indexes),
            Some(next) => from = next,
        }
    }
}
