//! Cache nodes before a real group: how they are started, and what goes wrong with them. They are killed and come back with their
//! rings or without, stand still, drain, and find bits of their rings flipped while they run.
//!
//! Must never touch a store. Whatever happens to a cache may cost answers, never truth: reads through it are judged like all others.
//! Invariant: each trouble carries the moment of its end.

use super::beside::Beside;
use super::disks::counter_of;
use super::scene::{START_PATIENCE, Scene, free_address};
use super::{RealError, Report};
use ioengine::sim::Random;
use ioengine::{Instant, Io};
use layout::value_ring::RING_HEADER_BYTES;
use net::client::{Client, ClientConfig, Through};
use net::route::{self, Roles};
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Number of the first cache in the map.
const FIRST_ID: u32 = 101;
/// Cores of each cache.
const CORES: u16 = 2;
/// Rings of each core, one cache after the other: the first forgets most of what it reads before it reads it again.
const RING_BYTES: [&str; 2] = ["128KiB", "4MiB"];
/// How long a cache may take to say how it is.
const ANSWER: Duration = Duration::from_millis(300);
/// What a cache says of itself that is added up.
const COUNTED: [&str; 9] = [
    "gets",
    "shared",
    "busy",
    "not_modified",
    "newer",
    "asked_again",
    "ring_lost",
    "ring_damaged",
    "rings_kept",
];

/// A cache node.
pub(super) struct Cache {
    pub(super) side: Beside,
    id: u32,
    /// What its process has said of itself last.
    said: BTreeMap<&'static str, u64>,
}

impl Cache {
    /// `count` of them, at free addresses.
    pub(super) fn some(io: &Io, count: u16, folder: &Path) -> Result<Vec<Cache>, RealError> {
        let one = |place: usize| -> Result<Cache, RealError> {
            let settings = vec![
                "node.role=cache".to_owned(),
                format!("tier.cache_bytes={}", RING_BYTES[place % RING_BYTES.len()]),
            ];
            let address = free_address(io, 100 + place)?;
            let side = Beside::new(format!("cache-{}", place + 1), address, folder, settings);
            Ok(Cache { side, id: FIRST_ID + place as u32, said: BTreeMap::new() })
        };
        (0..usize::from(count)).map(one).collect()
    }

    /// As the map has it.
    pub(super) fn node(&self) -> route::Node {
        let (id, address) = (self.id, self.side.address);
        route::Node { id, address, zone: 0, roles: Roles::CACHE, shard_count: CORES }
    }

    /// As the setting `cluster.caches` has it.
    pub(super) fn member(&self) -> String {
        format!("{{ id = {}, address = \"{}\", zone = 0, shards = {CORES} }}", self.id, self.side.address)
    }

    /// Remember what it says of itself, before its process ends.
    async fn hear(&mut self, io: &Io) {
        let config = ClientConfig { through: Through::Store, patience: ANSWER, ..ClientConfig::default() };
        let address = [self.side.address];
        let ask = async {
            Client::connect(io, &address, config).await.ok()?.with_deadline(ANSWER).status().await.ok()
        };
        if let Some(status) = io.timeout(ANSWER, ask).await.ok().flatten() {
            self.said = COUNTED
                .into_iter()
                .filter_map(|name| Some((name, counter_of(&status, "cache_cores", name)?)))
                .collect();
        }
    }

    /// Kill -9; what its process had counted goes to the report.
    fn kill(&mut self, report: &mut Report) {
        self.side.kill();
        self.tell(report);
    }

    /// What a process that has ended had counted goes to the report.
    fn tell(&mut self, report: &mut Report) {
        for (name, count) in std::mem::take(&mut self.said) {
            *report.cached.entry(name).or_insert(0) += count;
        }
    }

    /// Bits of its shared memory change, of some core, while it may be reading there.
    fn damage(&self, random: &mut Random) -> Result<(), RealError> {
        let wrong = || RealError::io(format!("{}", self.side.memory.display()));
        // Not there: it has not started since it lost them.
        let Ok(folder) = std::fs::read_dir(&self.side.memory) else { return Ok(()) };
        let mut files: Vec<PathBuf> = folder.filter_map(|entry| Some(entry.ok()?.path())).collect();
        files.sort_unstable();
        if files.is_empty() {
            return Ok(());
        }
        let file = OpenOptions::new().read(true).write(true).open(random.pick(&files)).map_err(wrong())?;
        let length = file.metadata().map_err(wrong())?.len();
        for _ in 0..1 << random.below(10) {
            let at = random.within(&(RING_HEADER_BYTES as u64..length));
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).map_err(wrong())?;
            byte[0] ^= 1 << random.below(8);
            file.write_all_at(&byte, at).map_err(wrong())?;
        }
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    Kill,
    LoseRings,
    Pause,
    Drain,
    Damage,
}

/// Each with its weight.
const TROUBLES: [(Trouble, u64); 5] = [
    (Trouble::Kill, 4),
    (Trouble::LoseRings, 2),
    (Trouble::Pause, 4),
    (Trouble::Drain, 1),
    (Trouble::Damage, 3),
];

/// What ends a trouble of a cache, by its place.
#[derive(Clone, Copy)]
enum Step {
    Start(usize),
    Resume(usize),
}

/// Troubles of caches, on a generator of their own.
pub(super) struct CacheTrouble {
    io: Io,
    random: Random,
    next: Instant,
    due: Vec<(Instant, Step)>,
}

impl CacheTrouble {
    pub(super) fn new(io: &Io, random: Random) -> CacheTrouble {
        CacheTrouble { io: io.clone(), random, next: io.now().after(Duration::from_secs(1)), due: Vec::new() }
    }

    fn ms(&mut self, range: std::ops::Range<u64>) -> Duration {
        Duration::from_millis(self.random.within(&range))
    }

    /// What is due, and now and then something new.
    pub(super) async fn turn(&mut self, scene: &mut Scene, report: &mut Report) -> Result<(), RealError> {
        watch(scene, report)?;
        let now = self.io.now();
        let (due, later) = self.due.drain(..).partition(|(at, _)| *at <= now);
        self.due = later;
        let due: Vec<(Instant, Step)> = due;
        for (_, step) in due {
            match step {
                Step::Start(place) if !scene.caches[place].side.runs() => start(scene, place)?,
                // Started by another trouble meanwhile.
                Step::Start(_) => {}
                Step::Resume(place) => scene.caches[place].side.resume(),
            }
        }
        if now >= self.next && !scene.caches.is_empty() {
            self.strike(scene, report).await?;
            self.next = now.after(self.ms(200..2_500));
        }
        Ok(())
    }

    async fn strike(&mut self, scene: &mut Scene, report: &mut Report) -> Result<(), RealError> {
        let mut left = self.random.below(TROUBLES.iter().map(|one| one.1).sum());
        let drawn = TROUBLES.into_iter().find(|one| {
            let is_it = left < one.1;
            left = left.saturating_sub(one.1);
            is_it
        });
        let trouble = drawn.expect("less than the sum was drawn").0;
        let place = self.random.index(scene.caches.len());
        let cache = &mut scene.caches[place];
        let name = match trouble {
            Trouble::Kill | Trouble::LoseRings => {
                cache.hear(&self.io).await;
                cache.kill(report);
                if trouble == Trouble::LoseRings && cache.side.memory.exists() {
                    let name = format!("{}", cache.side.memory.display());
                    std::fs::remove_dir_all(&cache.side.memory).map_err(RealError::io(name))?;
                }
                let wait = self.ms(0..1_500);
                self.due.push((self.io.now().after(wait), Step::Start(place)));
                if trouble == Trouble::Kill { "kill a cache" } else { "kill a cache that loses its rings" }
            }
            Trouble::Pause => {
                cache.side.pause();
                let wait = self.ms(50..100) * (1 << self.random.below(6)) as u32;
                self.due.push((self.io.now().after(wait), Step::Resume(place)));
                "a cache stands still"
            }
            Trouble::Drain => {
                cache.hear(&self.io).await;
                cache.side.drain();
                "drain a cache"
            }
            Trouble::Damage => {
                cache.damage(&mut self.random)?;
                "flip bits of rings"
            }
        };
        *report.troubles.entry(name).or_insert(0) += 1;
        Ok(())
    }
}

/// Begin a start of a cache.
pub(super) fn start(scene: &mut Scene, place: usize) -> Result<(), RealError> {
    let (caches, _, stage) = scene.sides();
    caches[place].side.start(&stage)
}

/// Who has ended, which only a drain may do: started again.
fn watch(scene: &mut Scene, report: &mut Report) -> Result<(), RealError> {
    let (caches, _, stage) = scene.sides();
    for cache in caches {
        if cache.side.watch(report) {
            cache.tell(report);
            cache.side.start(&stage)?;
        }
    }
    Ok(())
}

/// All caches run and serve, undisturbed: whether they do.
pub(super) async fn all_serve(io: &Io, scene: &mut Scene, report: &mut Report) -> Result<bool, RealError> {
    let until = io.now().after(START_PATIENCE);
    let (caches, _, stage) = scene.sides();
    for cache in caches {
        if !cache.side.serves(io, &stage, until, report).await? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// All end as they should; what they had counted goes to the report.
pub(super) async fn drain(io: &Io, scene: &mut Scene, report: &mut Report) -> Result<(), RealError> {
    for cache in &mut scene.caches {
        cache.hear(io).await;
        cache.side.end(io, report).await?;
        cache.tell(report);
    }
    Ok(())
}
