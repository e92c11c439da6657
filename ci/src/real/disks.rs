//! What happens to the disks of a minority of real nodes, beyond a kill: bytes are damaged, an old image is brought back, the disk is
//! lost or comes back blank. And who mends it, as an operator would: by the right bytes, or with `disk format --recover`.
//!
//! Must never touch a disk whose node runs, nor bring back an image of which a node that stays well may know nothing: others must
//! have met a later life (decision 0043). Invariant: a harm ends with a disk that may serve.

use super::RealError;
use super::damage::{self, Damage};
use super::scene::{Node, Scene};
use crate::sim::client::Client;
use crate::sim::history::Violation;
use ioengine::sim::Random;
use ioengine::{Instant, Io};
use layout::superblock::{COPY_COUNT, SUPERBLOCK_BYTES, Superblock, choose, copy_offset};
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a node may run on a disk that no node may serve from.
const WRONG_MAX: Duration = Duration::from_secs(6);
/// How long a node may take to say how it is.
const ANSWER: Duration = Duration::from_millis(300);

/// What is the matter with a node's disk.
#[derive(Clone, Debug)]
pub(super) enum Harm {
    /// Its bytes were damaged. A start may refuse them, and gets these.
    Damaged { before: PathBuf },
    /// A start has refused that or lived with it; what is left of older damage may be more than the next one takes: formatted then.
    Worn,
    /// There is no file, or only zeros in it. A start must be refused; then it is formatted.
    Gone,
    /// It is an old image, and its own is here. Nothing of the node may count until `until`. Of its starts (decision 0043), the last
    /// in which another node recognised it: the next one votes until it meets somebody, and counts with nobody.
    Old { own: PathBuf, until: Instant, refused_in: Option<u64> },
}

/// What is done to a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Hurt(Damage),
    RollBack,
    Lose,
    Blank,
}

const KINDS: [Kind; 8] = [
    Kind::Hurt(Damage::Flip),
    Kind::Hurt(Damage::Flip),
    Kind::Hurt(Damage::Swap),
    Kind::Hurt(Damage::Truncate),
    Kind::RollBack,
    Kind::RollBack,
    Kind::Lose,
    Kind::Blank,
];

/// Draws what happens, each kind before any comes again.
pub(super) struct Disks {
    io: Io,
    random: Random,
    deck: Vec<Kind>,
}

impl Disks {
    pub(super) fn new(io: &Io, random: Random) -> Disks {
        Disks { io: io.clone(), random, deck: Vec::new() }
    }

    /// Something happens to a disk, and its node is down then: which one, and what it was, by name and in words.
    pub(super) async fn strike(
        &mut self,
        scene: &mut Scene,
    ) -> Result<Option<(usize, &'static str, String)>, RealError> {
        let place = self.random.index(scene.rotten.count_ones() as usize);
        if matches!(scene.nodes[place].harm, Some(Harm::Gone | Harm::Old { .. })) {
            return Ok(None);
        }
        if self.deck.is_empty() {
            self.deck = KINDS.to_vec();
        }
        let kind = self.deck.swap_remove(self.random.index(self.deck.len()));
        // Which has looked at all that was done to its disk so far.
        let serves = scene.answers(place).await;
        let seen = kind != Kind::RollBack || serves && knows_a_later_life(scene, place);
        scene.nodes[place].kill();
        let node = &mut scene.nodes[place];
        let kept = node.disk.with_extension("before");
        let done = match kind {
            Kind::RollBack if !seen => {
                // Next time.
                self.deck.push(kind);
                damage::copy(&node.disk, &kept)?;
                ("kill and keep an image", String::new())
            }
            Kind::RollBack => {
                let own = node.disk.with_extension("own");
                rename(&node.disk, &own)?;
                damage::copy(&kept, &node.disk)?;
                let until = self.io.now().after(WRONG_MAX);
                node.harm = Some(Harm::Old { own, until, refused_in: None });
                ("roll back", forget(node, &mut self.random)?)
            }
            Kind::Hurt(damage) => {
                // Of two in a row the first may be why the start is refused.
                if serves || !matches!(node.harm, Some(Harm::Damaged { .. })) {
                    damage::copy(&node.disk, &kept)?;
                    node.harm = Some(Harm::Damaged { before: kept });
                }
                (damage.name(), damage.hurt(&node.disk, &mut self.random)?)
            }
            Kind::Lose => {
                remove(&node.disk)?;
                node.harm = Some(Harm::Gone);
                ("lose the disk", forget(node, &mut self.random)?)
            }
            Kind::Blank => {
                let name = format!("{}", node.disk.display());
                let file = OpenOptions::new().write(true).open(&node.disk).map_err(RealError::io(&name))?;
                let length = file.metadata().map_err(RealError::io(&name))?.len();
                file.set_len(0).and_then(|()| file.set_len(length)).map_err(RealError::io(&name))?;
                node.harm = Some(Harm::Gone);
                ("blank the disk", forget(node, &mut self.random)?)
            }
        };
        let (name, what) = done;
        Ok(Some((place, name, what)))
    }

    /// What is due: an old image must have been recognised, then the node gets a disk that may serve. Whether one is left.
    pub(super) async fn turn(
        &mut self,
        scene: &mut Scene,
        client: &Client,
        violations: &mut Vec<Violation>,
    ) -> Result<bool, RealError> {
        let mut is_left = false;
        for place in 0..scene.nodes.len() {
            match scene.nodes[place].harm.clone() {
                Some(Harm::Damaged { .. }) if scene.answers(place).await => {
                    scene.nodes[place].harm = Some(Harm::Worn);
                }
                Some(Harm::Gone) => {
                    is_left = true;
                    if scene.answers(place).await {
                        let text = format!("node {} serves without its disk", place + 1);
                        violations.push(Violation { checker: "run", text });
                        scene.nodes[place].harm = None;
                    }
                }
                Some(Harm::Old { own, until, refused_in }) => {
                    is_left = true;
                    let start = scene.nodes[place].starts;
                    // A node that begins to start holds nothing yet.
                    let votes = votes(client, place).await.filter(|(held, _)| *held > 0);
                    if refused_in == Some(start) && votes.is_some_and(|(_, voting)| voting > 0) {
                        let text =
                            format!("node {} votes again on an old disk that was recognised", place + 1);
                        violations.push(Violation { checker: "run", text });
                    }
                    let is_refused = votes.is_some_and(|(_, voting)| voting == 0);
                    let refused_in = if is_refused { Some(start) } else { refused_in };
                    scene.nodes[place].harm = Some(Harm::Old { own: own.clone(), until, refused_in });
                    if refused_in.is_some() && self.io.now() >= until {
                        self.give_back(scene, place, &own)?;
                    }
                }
                _ => {}
            }
        }
        Ok(is_left)
    }

    /// A node whose disk was an old one gets its own, or a new one.
    fn give_back(&mut self, scene: &mut Scene, place: usize, own: &Path) -> Result<(), RealError> {
        scene.nodes[place].kill();
        let node = &mut scene.nodes[place];
        node.harm = None;
        if self.random.coin() {
            rename(own, &node.disk)?;
            forget(node, &mut self.random)?;
        } else {
            scene.format_again(place)?;
        }
        scene.start(place)
    }
}

/// A node did not start on the disk that it has: mended, if that was right. What it was.
pub(super) fn refused(scene: &mut Scene, place: usize) -> Result<Option<&'static str>, RealError> {
    let node = &mut scene.nodes[place];
    match node.harm.take() {
        Some(Harm::Damaged { before }) => {
            damage::copy(&before, &node.disk)?;
            node.harm = Some(Harm::Worn);
            Ok(Some("start refused after damage"))
        }
        Some(Harm::Worn) => scene.format_again(place).map(|()| Some("formatted after damage")),
        Some(Harm::Gone) => scene.format_again(place).map(|()| Some("formatted to recover")),
        Some(Harm::Old { own, .. }) => {
            rename(&own, &node.disk)?;
            Ok(Some("start refused after a roll back"))
        }
        None => Ok(None),
    }
}

/// Tablets that a node holds, and those of them that it votes on, if it says so.
pub(super) async fn votes(client: &Client, node: usize) -> Option<(u64, u64)> {
    votes_of(&client.status_of(node, ANSWER).await?)
}

/// The same of a status.
pub(super) fn votes_of(status: &str) -> Option<(u64, u64)> {
    Some((counter(status, "tablets_held")?, counter(status, "tablets_voting")?))
}

/// A counter of all cores, by a node's status.
pub(super) fn counter(status: &str, name: &str) -> Option<u64> {
    counter_of(status, "cores", name)
}

/// A counter of all that a status lists under `list`.
pub(super) fn counter_of(status: &str, list: &str, name: &str) -> Option<u64> {
    let status: serde_json::Value = serde_json::from_str(status).ok()?;
    status[list].as_array()?.iter().map(|one| one[name].as_u64()).sum()
}

/// Do all other nodes remember a later life of this one than that of the image which was kept?
fn knows_a_later_life(scene: &Scene, place: usize) -> bool {
    let node = &scene.nodes[place];
    let then = superblock(&node.disk.with_extension("before"));
    // Where it waits for its first start it is as good as a new one.
    let Some(then) = then.filter(|then| !then.origin.is_unborn()) else { return false };
    let is_own = superblock(&node.disk).is_some_and(|own| own.device == then.device);
    let later = |other: &Superblock| {
        let mut peers = other.peers.iter();
        peers.any(|peer| {
            (peer.node, peer.device) == (then.node, then.device) && peer.incarnation > then.incarnation
        })
    };
    let others = scene.nodes.iter().enumerate().filter(|(other, _)| *other != place);
    is_own && others.map(|(_, other)| superblock(&other.disk)).all(|other| other.as_ref().is_some_and(later))
}

/// The superblock in force of a disk file.
fn superblock(disk: &Path) -> Option<Superblock> {
    let file = OpenOptions::new().read(true).open(disk).ok()?;
    let copies: Vec<_> = (0..COPY_COUNT)
        .map(|index| {
            let offset = copy_offset(index);
            let mut bytes = [0; SUPERBLOCK_BYTES];
            // What is not there is zeros, which are no superblock.
            let _short = file.read_exact_at(&mut bytes, offset.0);
            Superblock::decode(&bytes, offset)
        })
        .collect();
    choose(&copies.try_into().ok()?).ok()
}

/// Half of the time the memory that outlives processes goes, too. What was done.
fn forget(node: &Node, random: &mut Random) -> Result<String, RealError> {
    if random.coin() || !node.memory.exists() {
        return Ok("shared memory kept".to_owned());
    }
    let name = format!("{}", node.memory.display());
    std::fs::remove_dir_all(&node.memory).map_err(RealError::io(name))?;
    Ok("shared memory gone".to_owned())
}

fn rename(from: &Path, to: &Path) -> Result<(), RealError> {
    std::fs::rename(from, to).map_err(RealError::io(format!("{} to {}", from.display(), to.display())))
}

pub(super) fn remove(path: &Path) -> Result<(), RealError> {
    std::fs::remove_file(path).map_err(RealError::io(format!("{}", path.display())))
}
