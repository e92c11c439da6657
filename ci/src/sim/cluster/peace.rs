//! Peace: no more trouble. Everybody serves again, every tablet takes a write and shows it within thirty seconds, the replicas
//! become equal, everything is read back, memory has come back, and all drain.

use super::Run;
use super::quiet::{self, FRAME_BYTES, patience};
use super::scene::Scene;
use super::trouble::Nemesis;
use super::work::Routes;
use crate::sim::client::Client;
use crate::sim::one_node::PROGRESS;
use crate::sim::scene::Standing;
use ioengine::Io;
use ioengine::sim::Random;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

/// How long clients finish what they are at.
const GIVE_UP: Duration = Duration::from_secs(60);

impl Run<'_> {
    pub(super) fn peace(&mut self, nemesis: &mut Nemesis<'_>) {
        let mut random = Random::new(self.plan.seed).fork(self.plan.mode.name(), 0).fork("peace", 0);
        self.finish_work(nemesis);
        for store in 0..self.scene.stores.len() {
            if random.chance(300_000) {
                nemesis.restart(&self.scene, store);
            }
        }
        if !self.all_serve(nemesis) || !self.colds_serve(nemesis) {
            return;
        }
        // A few learners are in nobody's way.
        if !self.progress() || !self.all_vote(nemesis) || !self.helix(nemesis) {
            return;
        }
        self.converge();
        self.settle_sinks(nemesis);
        let disagree = self.said.as_ref().and_then(|said| super::operator::agree(&self.scene, said));
        disagree.into_iter().for_each(|text| self.wrong(text));
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

    /// Whoever lost its memory has been given it back.
    fn all_vote(&mut self, nemesis: &mut Nemesis<'_>) -> bool {
        let until = self.scene.world.now().after(PROGRESS);
        while !nemesis.disks.are_well() && self.scene.world.now() < until {
            self.run_on(nemesis, until);
        }
        let harmed = nemesis.disks.harmed(&self.scene);
        if !harmed.is_empty() {
            self.wrong(format!("nodes {harmed:?} do not vote on each of their tablets within {PROGRESS:?}"));
        }
        harmed.is_empty()
    }

    /// Every journal rots, each at other places, and then one node after the other ends: what each has lost, its peers have. In some worlds.
    fn helix(&mut self, nemesis: &mut Nemesis<'_>) -> bool {
        let mut random = Random::new(self.plan.seed).fork(self.plan.mode.name(), 0).fork("helix", 0);
        if self.plan.disk_trouble_every.is_none() || random.coin() {
            return true;
        }
        // What failed a device just before peace may have shown only since: a second restart then would take two memories at once.
        if !self.all_serve(nemesis) || !self.all_vote(nemesis) {
            return false;
        }
        nemesis.disks.helix(&self.scene);
        (0..self.scene.stores.len()).all(|store| {
            nemesis.disks.harm(store, self.scene.world.now());
            nemesis.restart(&self.scene, store);
            self.all_vote(nemesis)
        })
    }

    /// Nodes that say that their device has failed, and those that will say so as soon as a core looks.
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
        (0..count).filter(|&node| failed(&said[node]) || self.scene.stores[node].disk.has_ended()).collect()
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
        let began = self.scene.world.now();
        let until = began.after(PROGRESS);
        let shared = Rc::clone(&self.shared);
        let stuck = self.at_peace(1_000, 0, move |client, _| quiet::stuck(client, shared, until));
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
        let until = self.scene.world.now().after(PROGRESS);
        let shared = Rc::clone(&self.shared);
        let unequal =
            self.at_peace(1_001, 0, move |client, routes| quiet::unequal(client, routes, shared, until, 0));
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
        let shared = Rc::clone(&self.shared);
        let unanswered = self.at_peace(1_002, first, move |client, _| quiet::read_keys(client, shared));
        self.last.unanswered = unanswered.into_iter().collect();
        let (shared, nodes) = (Rc::clone(&self.shared), self.scene.stores.len());
        let status = self.at_peace(1_003, first, move |client, _| async move {
            quiet::read_streams(&client, &shared).await;
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
        self.scene.caches.iter().for_each(super::caches::Cache::drain);
        let most = self.plan.limits.drain_deadline + Duration::from_secs(10);
        let until = self.scene.world.now().after(most);
        let runs = |scene: &Scene| scene.stores.iter().position(|store| store.node.is_running());
        let serves = |scene: &Scene| scene.caches.iter().any(|cache| cache.node.is_running());
        while (runs(&self.scene).is_some() || serves(&self.scene)) && self.scene.world.now() < until {
            self.scene.world.run_for(Duration::from_millis(10));
        }
        if let Some(store) = runs(&self.scene) {
            self.wrong(format!("a drain of node {store} did not end in time"));
        }
        if self.scene.caches.iter().any(|cache| cache.node.is_running()) {
            self.wrong("a drain of a cache did not end in time".to_owned());
        }
        for store in 0..self.scene.stores.len() {
            if !self.scene.stores[store].node.is_running() && self.scene.stores[store].disk.in_flight() > 0 {
                self.wrong(format!("operations are in flight on the disk of node {store}, which has ended"));
            }
        }
    }
}
