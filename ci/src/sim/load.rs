//! What a lane of a client does: bursts of operations drawn from the plan, all lanes at once, so that they meet.

use super::client::{Client, Shared};
use super::history::{Does, StreamIndex};
use super::plan::{Load, Weights};
use ioengine::sim::Random;
use layout::units::{TABLET_COUNT, TabletIndex, Version};
use std::rc::Rc;
use std::time::Duration;

/// The streams of a run: hot ones first.
pub(crate) struct Streams {
    pub(crate) hot: Vec<StreamIndex>,
    pub(crate) cold: Vec<StreamIndex>,
}

enum Kind {
    Put,
    Delete,
    CompareAndSet,
    Batch,
    Get,
    GetIfNewer,
    MultiGet,
    Scan,
    Head,
    Streams,
    Other,
}

fn kind(weights: &Weights, random: &mut Random) -> Kind {
    let all = [
        (weights.put, Kind::Put),
        (weights.delete, Kind::Delete),
        (weights.compare_and_set, Kind::CompareAndSet),
        (weights.batch, Kind::Batch),
        (weights.get, Kind::Get),
        (weights.get_if_newer, Kind::GetIfNewer),
        (weights.multi_get, Kind::MultiGet),
        (weights.scan, Kind::Scan),
        (weights.head, Kind::Head),
        (weights.streams, Kind::Streams),
        (weights.other, Kind::Other),
    ];
    let mut left = random.below(all.iter().map(|one| one.0).sum());
    for (weight, kind) in all {
        if left < weight {
            return kind;
        }
        left -= weight;
    }
    Kind::Get
}

/// One lane: works until told to stop.
pub(crate) struct Lane {
    pub(crate) client: Rc<Client>,
    pub(crate) shared: Rc<Shared>,
    pub(crate) load: Rc<Load>,
    pub(crate) streams: Rc<Streams>,
    pub(crate) random: Random,
}

impl Lane {
    pub(crate) async fn run(mut self) {
        let period_ns = self.load.period_us * 1000;
        while !self.shared.stop.get() {
            let now = self.client.io.now().ns;
            let next = (now / period_ns + 1) * period_ns;
            self.client.io.sleep(Duration::from_nanos(next - now)).await;
            for _ in 0..self.load.burst {
                if self.shared.stop.get() {
                    break;
                }
                self.one().await;
                let gap = self.random.below(self.load.gap_us + 1);
                if gap > 0 {
                    self.client.io.sleep(Duration::from_micros(gap)).await;
                }
            }
        }
        self.shared.busy.set(self.shared.busy.get() - 1);
    }

    fn key(&mut self) -> (StreamIndex, u64) {
        let load = &self.load;
        let random = &mut self.random;
        if random.chance(load.hot_ppm) {
            (*random.pick(&self.streams.hot), load.times.of(random.below(load.hot_time_count)))
        } else {
            (*random.pick(&self.streams.cold), load.times.of(random.below(load.cold_time_count)))
        }
    }

    /// A time of the same stream, for a batch.
    fn time_in(&mut self, stream: StreamIndex) -> u64 {
        let count = if self.streams.hot.contains(&stream) {
            self.load.hot_time_count
        } else {
            self.load.cold_time_count
        };
        self.load.times.of(self.random.below(count))
    }

    fn put(&mut self, share: u64) -> Does {
        let most = (self.load.value_bytes_max / share).min(self.client.value_bytes_max() as u64 / share);
        let bytes = match self.random.below(20) {
            0 => self.random.below(8),
            1..=3 => self.random.below(most + 1),
            _ => self.random.below(most.min(200) + 1).max(8),
        };
        let expiry = if self.random.chance(self.load.expiry_ppm) {
            self.client.io.wall_us() + self.random.within(&self.load.expiry_us)
        } else {
            0
        };
        Does::Put { bytes: bytes.min(most) as u32, expiry }
    }

    async fn one(&mut self) {
        let kind = kind(&self.load.weights, &mut self.random);
        let (stream, time) = self.key();
        match kind {
            Kind::Put => {
                let put = self.put(1);
                self.client.write(stream, &[(time, put)], None).await;
            }
            Kind::Delete => {
                self.client.write(stream, &[(time, Does::Delete)], None).await;
            }
            Kind::CompareAndSet => self.compare_and_set(stream, time).await,
            Kind::Batch => self.batch(stream).await,
            Kind::Get => {
                let _seen = self.client.get(stream, time, None).await;
            }
            Kind::GetIfNewer => {
                let key = self.key_index(stream, time);
                let known = self.client.known_version(key);
                let asked = known.or(Some(Version::ABSENT));
                let _seen = self.client.get(stream, time, asked).await;
            }
            Kind::MultiGet => self.multi_get().await,
            Kind::Scan => self.scan(stream).await,
            Kind::Head => {
                let limit = self.random.below(5) as u32;
                self.client.head(stream, (limit, 0)).await;
            }
            Kind::Streams => self.list().await,
            Kind::Other => self.other().await,
        }
    }

    fn key_index(&self, stream: StreamIndex, time: u64) -> super::history::KeyIndex {
        self.shared.history.borrow_mut().keys.key(stream, time)
    }

    async fn compare_and_set(&mut self, stream: StreamIndex, time: u64) {
        let key = self.key_index(stream, time);
        let known = self.client.known_version(key);
        let expected = match known {
            Some(version) if !self.random.chance(100_000) => version,
            _ => match self.client.get(stream, time, None).await {
                Ok(seen) => seen.version(),
                Err(_) => Version::ABSENT,
            },
        };
        let put = self.put(1);
        self.client.write(stream, &[(time, put)], Some(expected)).await;
    }

    async fn batch(&mut self, stream: StreamIndex) {
        let count = 1 + self.random.below(6);
        let mut does = Vec::new();
        for _ in 0..count {
            let time = self.time_in(stream);
            let one = if self.random.chance(200_000) { Does::Delete } else { self.put(count) };
            does.push((time, one));
        }
        self.client.write(stream, &does, None).await;
    }

    async fn multi_get(&mut self) {
        let count = 1 + self.random.below(8);
        let wanted: Vec<_> = (0..count)
            .map(|_| {
                let (stream, time) = self.key();
                let asks = self.random.chance(300_000);
                let known = asks.then(|| self.client.known_version(self.key_index(stream, time))).flatten();
                (stream, time, known)
            })
            .collect();
        self.client.multi_get(&wanted).await;
    }

    async fn scan(&mut self, stream: StreamIndex) {
        let backward = self.random.coin();
        let (mut from, mut to) = (0, u64::MAX);
        if self.random.coin() {
            let (one, other) = (self.time_in(stream), self.time_in(stream));
            (from, to) = (one.min(other), one.max(other));
        }
        let record_limit = if self.random.coin() { 0 } else { 1 + self.random.below(8) as u32 };
        let byte_limit = if self.random.chance(700_000) { 0 } else { 64 << self.random.below(10) as u32 };
        let pages = 1 + self.random.below(6);
        for _ in 0..pages {
            let next = self.client.scan(stream, (from, to), backward, (record_limit, byte_limit)).await;
            match next.flatten() {
                None => return,
                Some(time) if backward => to = time,
                Some(time) => from = time,
            }
        }
    }

    async fn list(&mut self) {
        let tablet = TabletIndex::new(self.random.below(TABLET_COUNT as u64) as u8).expect("one of 64");
        let tablet = if self.random.chance(800_000) {
            let stream = self.key().0;
            self.shared.history.borrow().keys.facts(stream).tablet
        } else {
            tablet
        };
        let space = self.random.chance(200_000).then(|| layout::units::Space(self.random.below(2) as u16));
        let limit = self.random.below(4) as u32;
        let mut after = None;
        for _ in 0..1 + self.random.below(5) {
            match self.client.streams(tablet, space, after, limit).await.flatten() {
                None => return,
                next => after = next,
            }
        }
    }

    async fn other(&mut self) {
        match self.random.below(3) {
            0 => drop(self.client.status().await),
            1 => {
                let bytes = self.random.index(2_000);
                self.client.ping(bytes).await;
            }
            _ => self.client.hang_up(),
        }
    }
}
