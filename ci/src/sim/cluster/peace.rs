//! Peace: no more trouble. Everybody serves again, every tablet takes a write and shows it within thirty seconds, the replicas
//! become equal, everything is read back, memory has come back, and all drain.

use super::Run;
use super::scene::Scene;
use super::trouble::Nemesis;
use super::work::{LeftOver, Routes};
use crate::sim::client::{Client, Patience, Shared};
use crate::sim::history::{Does, KeyIndex, Seen, StreamIndex};
use crate::sim::one_node::PROGRESS;
use crate::sim::scene::Standing;
use ioengine::sim::Random;
use ioengine::{Instant, Io, Queue};
use layout::key::{bucket_of, tablet_of};
use layout::units::{LogIndex, Space, TABLET_COUNT, TabletIndex};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

/// Frames that every answer fits.
pub(super) const FRAME_BYTES: u32 = crate::sim::one_node::FRAME_BYTES;
/// Tablets looked at side by side.
const LANES: usize = 8;
/// How long clients finish what they are at.
const GIVE_UP: Duration = Duration::from_secs(60);

/// How patient those are who ask at peace.
pub(super) fn patience() -> Patience {
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

impl Run<'_> {
    pub(super) fn peace(&mut self, nemesis: &mut Nemesis<'_>) {
        let mut random = Random::new(self.plan.seed).fork(self.plan.mode.name(), 0).fork("peace", 0);
        self.finish_work(nemesis);
        for store in 0..self.scene.stores.len() {
            if random.chance(300_000) {
                nemesis.restart(&self.scene, store);
            }
        }
        if !self.all_serve(nemesis) {
            return;
        }
        if !self.progress() {
            return;
        }
        self.converge();
        self.read_back(random.index(3));
        self.drain();
    }

    /// Clients finish what they are at; what cannot be finished ends with their patience.
    fn finish_work(&mut self, nemesis: &mut Nemesis<'_>) {
        let give_up = self.scene.world.now().after(GIVE_UP);
        while self.shared.busy.get() > 0 && self.scene.world.now() < give_up {
            self.run_on(nemesis, give_up);
        }
        if self.shared.busy.get() > 0 {
            self.wrong(format!("{} lanes wait beyond their patience", self.shared.busy.get()));
        }
    }

    /// All nodes serve, those whose device had failed after one more start.
    fn all_serve(&mut self, nemesis: &mut Nemesis<'_>) -> bool {
        for _ in 0..4 {
            let until = self.scene.world.now().after(PROGRESS);
            let down = |scene: &Scene| {
                (0..scene.stores.len()).find(|&one| scene.stores[one].standing() != Standing::Serving)
            };
            while (down(&self.scene).is_some() || !nemesis.is_quiet()) && self.scene.world.now() < until {
                self.run_on(nemesis, until);
            }
            if let Some(store) = down(&self.scene) {
                let failure = self.scene.stores[store].failure();
                self.wrong(format!("without trouble node {store} does not start: {failure:?}"));
                return false;
            }
            let failed = self.with_failed_device();
            if failed.is_empty() {
                return true;
            }
            failed.iter().for_each(|&store| nemesis.restart(&self.scene, store));
            self.run_on(nemesis, self.scene.world.now().after(Duration::from_millis(1)));
        }
        self.wrong("devices fail though nothing makes them".to_owned());
        false
    }

    /// Nodes that say that their device has failed.
    fn with_failed_device(&self) -> Vec<usize> {
        let count = self.scene.stores.len();
        let said = self.at_peace(999, 0, move |client, _| async move {
            let mut said = Vec::new();
            for node in 0..count {
                let mut status = None;
                for _ in 0..5 {
                    status = client.status_of(node, Duration::from_secs(2)).await;
                    if status.is_some() {
                        break;
                    }
                }
                said.push(status);
            }
            said
        });
        let failed =
            |status: &Option<String>| status.as_ref().is_some_and(|text| text.contains("\"device_ended\":1"));
        (0..count).filter(|&node| failed(&said[node])).collect()
    }

    /// Do something on a machine of a client, to its end.
    fn at_peace<T: 'static, F>(
        &self,
        number: u16,
        first: usize,
        ask: impl FnOnce(Rc<Client>, Routes) -> F + 'static,
    ) -> T
    where
        F: Future<Output = T> + 'static,
    {
        let (shared, routes) = (Rc::clone(&self.shared), Routes::of(&self.scene));
        let limit = Duration::from_secs(3_600);
        self.scene.world.block_on(&self.scene.machines[0], limit, move |io: Io| async move {
            let client = routes.client(&io, &shared, number, first, patience(), FRAME_BYTES);
            ask(client, routes).await
        })
    }

    /// A put and a get are answered in time, on every tablet.
    fn progress(&mut self) -> bool {
        let left_over: Vec<StreamIndex> = {
            let mut history = self.shared.history.borrow_mut();
            let stream = |name: &String| history.keys.stream(Space(0), name.as_bytes());
            progress_streams().iter().map(stream).collect()
        };
        let began = self.scene.world.now();
        let until = began.after(PROGRESS);
        let stuck = self.at_peace(1_000, 0, move |client, _| {
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
        });
        let took = self.scene.world.now().since(began);
        let Some((stream, what)) = stuck.first() else { return true };
        let tablet = self.shared.history.borrow().keys.facts(*stream).tablet.get();
        let answers = self.shared.history.borrow().answers.clone();
        self.wrong(format!(
            "{} tablets make no progress within {PROGRESS:?} of peace ({took:?}), tablet {tablet}: {what}; {answers:?}",
            stuck.len()
        ));
        false
    }

    /// All replicas come to hold the same, of every stream that was ever touched.
    fn converge(&mut self) {
        let streams = self.shared.history.borrow().keys.streams.len();
        let left_over =
            (0..streams).map(|number| StreamIndex(u32::try_from(number).expect("streams are few")));
        let left_over: Vec<StreamIndex> = left_over.collect();
        let until = self.scene.world.now().after(PROGRESS);
        let shared = Rc::clone(&self.shared);
        let unequal = self.at_peace(1_001, 0, move |client, routes| {
            side_by_side(client, left_over, move |client, stream| {
                equal(client, routes.clone(), Rc::clone(&shared), stream, until)
            })
        });
        if let Some((tablet, what)) = unequal.first() {
            let count = unequal.iter().map(|one| one.0).collect::<BTreeSet<_>>().len();
            let tablet = tablet.get();
            self.wrong(format!(
                "replicas of {count} tablets do not become equal within {PROGRESS:?}, tablet {tablet}: {what}"
            ));
        }
    }

    /// Read everything that was ever touched, and what each node says of itself.
    fn read_back(&mut self, first: usize) {
        self.last.since = self.shared.history.borrow_mut().tick();
        let keys = self.shared.history.borrow().keys.clone();
        let left_over: Vec<(KeyIndex, StreamIndex, u64)> = (0u32..)
            .zip(&keys.keys)
            .map(|(number, &(stream, time))| (KeyIndex(number), stream, time))
            .collect();
        let unanswered = self.at_peace(1_002, first, move |client, _| {
            side_by_side(client, left_over, |client, (key, stream, time)| async move {
                client.get(stream, time, None).await.err().map(|_unseen| (key, false))
            })
        });
        self.last.unanswered = unanswered.into_iter().collect();
        let (streams, nodes) = (keys.streams.len(), self.scene.stores.len());
        let status = self.at_peace(1_003, first, move |client, _| async move {
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
            let mut status = Vec::new();
            for node in 0..nodes {
                status.extend(client.status_of(node, Duration::from_secs(5)).await);
            }
            status
        });
        if status.len() < nodes {
            self.wrong(format!("{} of {nodes} nodes say how they are", status.len()));
        }
        self.last.status.extend(status);
    }

    /// Drain all nodes and see them end.
    fn drain(&mut self) {
        self.scene.stores.iter().for_each(super::scene::Store::drain);
        let most = self.plan.limits.drain_deadline + Duration::from_secs(10);
        let until = self.scene.world.now().after(most);
        let runs = |scene: &Scene| scene.stores.iter().position(|store| store.node.is_running());
        while runs(&self.scene).is_some() && self.scene.world.now() < until {
            self.scene.world.run_for(Duration::from_millis(10));
        }
        if let Some(store) = runs(&self.scene) {
            self.wrong(format!("a drain of node {store} did not end in time"));
        }
        for store in 0..self.scene.stores.len() {
            if !self.scene.stores[store].node.is_running() && self.scene.stores[store].disk.in_flight() > 0 {
                self.wrong(format!("operations are in flight on the disk of node {store}, which has ended"));
            }
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
        client.io.sleep(Duration::from_millis(100)).await;
    }
}

/// The indexes at which the pages of a stream were read at a node.
async fn whole(
    client: &Client,
    node: usize,
    stream: StreamIndex,
) -> Result<Vec<LogIndex>, crate::sim::client::Unpeeked> {
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
