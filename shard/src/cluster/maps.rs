//! The cluster map that this node hands out: what the settings say, with the last word on where reads go.
//!
//! Owns that word: an operator says it to one node, nodes tell each other, each has it in its superblock. Must never show a word that is
//! not durable here: else a start would go back to an older one, and say another under the same epoch. Invariant: the epoch of the
//! map never falls in a life, and what a reply carries is the epoch of a map that a client can fetch here.
//!
//! ```text
//! said here, or told by a node ──join──► superblock ──flushed──► shown, and told to every other node until it has the same
//! ```
//!
//! No node has to agree to it, decision 0052: a cache asks the store about every get, whatever map sent it there.

use crate::core::Shard;
use crate::door;
use crate::format;
use crate::reply::ReplyTo;
use ioengine::Queue;
use layout::units::LogTime;
use net::client::{Client, ClientConfig, Through};
use net::outcome::{Limit, Outcome, Why};
use net::reply::{encode_map, encode_outcome, reply_bytes_payload};
use net::route::{ClusterMap, MapWrong, Reads};
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Pause before another node is told again that did not hear.
const AGAIN: Duration = Duration::from_secs(1);
/// How long another node may take to hear.
const PATIENCE: Duration = Duration::from_millis(500);
/// When to come again if the superblock is being written.
const HINT_MS: u32 = 5;

/// A cluster map, and as a reply carries it.
pub(crate) struct Shown {
    pub(crate) map: ClusterMap,
    pub(crate) bytes: Vec<u8>,
}

impl Shown {
    fn new(map: ClusterMap) -> Arc<Shown> {
        let mut bytes = Vec::with_capacity(map.encoded_bytes());
        map.encode(&mut bytes);
        Arc::new(Shown { map, bytes })
    }
}

/// The map of a node. Shared by its cores.
pub(crate) struct Maps {
    /// As the superblock says.
    stored: Reads,
    /// Epoch of what is shown; 0 until then.
    epoch: AtomicU32,
    shown: Mutex<Option<Arc<Shown>>>,
    /// Which of the other nodes somebody tells, one bit each, by place.
    telling: AtomicU64,
}

impl Maps {
    pub(crate) fn new(stored: Reads) -> Maps {
        Maps { stored, epoch: AtomicU32::new(0), shown: Mutex::new(None), telling: AtomicU64::new(0) }
    }

    /// The settings are known, and this node's address: show them with what was said before.
    ///
    /// # Panics
    /// When called twice.
    pub(crate) fn begin(&self, settings: &ClusterMap) {
        assert_eq!(self.epoch(), 0, "only core 0 makes the map");
        self.show(settings.with_reads(&self.stored(settings)).expect("reads were made to fit"));
    }

    /// What was said before, as far as it fits the settings: those may have given the number of a cache to another node since.
    fn stored(&self, settings: &ClusterMap) -> Reads {
        if self.stored.revision == 0 {
            return settings.reads();
        }
        match settings.with_reads(&self.stored) {
            Ok(_) => self.stored.clone(),
            Err(wrong) => {
                tracing::warn!(%wrong, "where reads go was said for other settings: these hold, until it is said anew");
                Reads { revision: self.stored.revision, ..settings.reads() }
            }
        }
    }

    /// Epoch of the map that is shown; 0 = none yet.
    #[inline]
    pub(crate) fn epoch(&self) -> u32 {
        // Acquire, with the release of `show`: who names an epoch has the map.
        self.epoch.load(Ordering::Acquire)
    }

    /// The map that is shown.
    ///
    /// # Panics
    /// Before it was begun: nobody asks then.
    pub(crate) fn current(&self) -> Arc<Shown> {
        let shown = self.shown.lock().expect("nothing panics while holding it");
        Arc::clone(shown.as_ref().expect("requests come after the map was made"))
    }

    fn show(&self, map: ClusterMap) {
        let epoch = map.epoch;
        *self.shown.lock().expect("nothing panics while holding it") = Some(Shown::new(map));
        self.epoch.store(epoch, Ordering::Release);
    }

    /// May somebody tell the node at `place`? Nobody else does until [`Maps::told`].
    fn begin_telling(&self, place: usize) -> bool {
        self.telling.fetch_or(1 << place, Ordering::AcqRel) & 1 << place == 0
    }

    fn told(&self, place: usize) {
        self.telling.fetch_and(!(1 << place), Ordering::AcqRel);
    }
}

/// Why a word was not taken.
#[derive(Debug, thiserror::Error)]
enum NotTaken {
    #[error("{0}")]
    Wrong(#[from] MapWrong),
    #[error("the superblock is being written")]
    Busy,
    #[error(transparent)]
    Format(#[from] format::FormatError),
}

/// Somebody says where reads go; room for a small answer is reserved.
pub(crate) fn hear(shard: &Rc<Shard>, to: &ReplyTo, bytes: &[u8]) {
    let said = ClusterMap::decode(bytes).ok();
    let Some(said) = said.filter(|map| shard.facts.maps.current().map.differs_in_reads_only(map)) else {
        let wrong = Outcome::BadRequest { why: Why::Map, at: 0 };
        return door::tell(shard, to, |out| encode_outcome(out, LogTime(0), &wrong));
    };
    let (shard, to) = (Rc::clone(shard), *to);
    shard.clone().io.spawn(Queue::Foreground, async move {
        if let Err(error) = take(&shard, &said.reads()).await {
            if !matches!(error, NotTaken::Busy) {
                tracing::warn!(%error, "where reads go was said, and is not written down");
            }
            let busy = Outcome::Busy { limit: Limit::Queue, hint_ms: HINT_MS };
            return door::tell(&shard, &to, |out| encode_outcome(out, LogTime(0), &busy));
        }
        let shown = shard.facts.maps.current();
        let bytes = reply_bytes_payload(shown.bytes.len());
        let wrote = door::write_late(&shard, &to, bytes, |out| Some(encode_map(out, &shown.bytes)));
        if wrote == door::Wrote::NoRoom {
            let busy = Outcome::Busy { limit: Limit::ReplyBuffers, hint_ms: HINT_MS };
            door::tell(&shard, &to, |out| encode_outcome(out, LogTime(0), &busy));
        }
    });
}

/// Join a word with what is shown: what holds is durable and shown when this ends, and the other nodes are being told.
async fn take(shard: &Rc<Shard>, said: &Reads) -> Result<(), NotTaken> {
    let maps = &shard.facts.maps;
    let join = || {
        let shown = &maps.current().map;
        let of_same = said.revision <= shown.revision && ioengine::canary("keep_two_maps_of_one_epoch");
        let joined = if of_same { shown.reads() } else { shown.reads().join(said) };
        if joined == shown.reads() { Ok(None) } else { shown.with_reads(&joined).map(Some) }
    };
    if join()?.is_none() {
        return Ok(());
    }
    let claim = shard.facts.disks.claim().ok_or(NotTaken::Busy)?;
    // Whoever wrote meanwhile may have said the same.
    let Some(map) = join()? else { return Ok(()) };
    if ioengine::canary("show_a_map_before_it_is_durable") {
        maps.show(map.clone());
    }
    let stored = map.reads().to_stored();
    let disk = shard.keeper.zone.disk();
    format::update(&shard.io, disk, |superblock| superblock.reads = stored).await?;
    let (epoch, recent_us, share) = (map.epoch, map.recent_us, map.cache_share);
    tracing::info!(epoch, recent_us, share, caches = map.caches().count(), "where reads go was said anew");
    maps.show(map);
    drop(claim);
    ioengine::sometimes!("where reads go is said anew");
    tell_all(shard);
    Ok(())
}

/// Tell every other node of the group what holds here, if anything was ever said.
pub(crate) fn tell_all(shard: &Rc<Shard>) {
    for place in 0..shard.facts.group.peers().len() {
        tell(shard, place);
    }
}

/// Tell the other node at `place` what holds here, until it has the same; what it knows better is taken.
fn tell(shard: &Rc<Shard>, place: usize) {
    let maps = &shard.facts.maps;
    if maps.epoch() == 0 || maps.current().map.revision == 0 || !maps.begin_telling(place) {
        return;
    }
    let shard = Rc::clone(shard);
    shard.clone().io.spawn(Queue::Foreground, async move {
        let maps = &shard.facts.maps;
        loop {
            let shown = maps.current();
            match told(&shard, place, &shown.map).await {
                Ok(answer) if answer == shown.map.reads() => {
                    maps.told(place);
                    // What came since somebody else may have left to this one.
                    if maps.epoch() == shown.map.epoch || !maps.begin_telling(place) {
                        return;
                    }
                }
                Ok(answer) => {
                    if let Err(error) = take(&shard, &answer).await {
                        tracing::debug!(%error, "what another node says of reads is not written down");
                        shard.io.sleep(AGAIN / 10).await;
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "another node does not hear where reads go");
                    let half = AGAIN.as_micros() as u64 / 2;
                    shard.io.sleep(Duration::from_micros(half + shard.io.random() % half)).await;
                }
            }
        }
    });
}

/// One try: what holds there then.
async fn told(shard: &Shard, place: usize, map: &ClusterMap) -> Result<Reads, net::client::ClientError> {
    let config = ClientConfig {
        deadline: 4 * PATIENCE,
        patience: PATIENCE,
        cluster: map.cluster,
        in_flight: 1,
        frame_bytes: shard.limits.frame_bytes_max,
        through: Through::Store,
        ..ClientConfig::default()
    };
    let client = Client::of_map(&shard.io, map.clone(), config).expect("what is shown is valid");
    let answer = client.set_map_at(shard.facts.group.peers()[place].node, map).await?;
    Ok(answer.reads())
}

/// A node was met in a new life: its disk may know less than it did.
pub(super) fn met_anew(shard: &Rc<Shard>, node: u32) {
    let place = shard.facts.group.peers().iter().position(|peer| peer.node == node);
    if let Some(place) = place {
        tell(shard, place);
    }
}
