//! Links between nodes: how long a segment takes, whether it is lost, doubled or held back, and who is cut off from
//! whom. One per ordered pair of nodes; a node's traffic with itself takes no link.

use super::node::NodeHandle;
use super::random::Random;
use super::world::World;
use std::ops::Range;

/// One direction of a link. Chances in parts per million of segments, unless said otherwise.
#[derive(Clone, Debug)]
pub struct LinkConfig {
    /// Time on the way, in nanoseconds; each segment draws its own, so that they overtake each other.
    pub delay_ns: Range<u64>,
    /// A segment takes ten times as long.
    pub late_ppm: u32,
    /// A segment is lost, and sent again after a while.
    pub loss_ppm: u32,
    /// A segment arrives twice.
    pub duplicate_ppm: u32,
    /// The connection is reset, instead of sending a segment.
    pub reset_ppm: u32,
    /// A connection request is refused although somebody listens.
    pub refuse_ppm: u32,
    /// Data is cut into tiny segments (1 to 64 bytes).
    pub tiny_ppm: u32,
    /// A receive gives less than what is there.
    pub partial_ppm: u32,
    /// Bytes per second.
    pub bytes_per_second: u64,
    /// Bytes that a sender may hand over before they leave.
    pub send_buffer_bytes: usize,
    /// Bytes that may wait for a receiver that does not read.
    pub receive_buffer_bytes: usize,
    /// First wait before a lost segment is sent again, in nanoseconds; doubles each time.
    pub retransmit_ns: u64,
    /// A segment or connection request that did not come through for so long ends the connection, in nanoseconds.
    pub timeout_ns: u64,
}

impl Default for LinkConfig {
    /// A quiet local network: 50 to 150 µs, 1 GB/s, no faults, 20 s until a connection is given up.
    fn default() -> LinkConfig {
        LinkConfig {
            delay_ns: 50_000..150_000,
            late_ppm: 0,
            loss_ppm: 0,
            duplicate_ppm: 0,
            reset_ppm: 0,
            refuse_ppm: 0,
            tiny_ppm: 20_000,
            partial_ppm: 50_000,
            bytes_per_second: 1_000_000_000,
            send_buffer_bytes: 256 << 10,
            receive_buffer_bytes: 256 << 10,
            retransmit_ns: 200_000_000,
            timeout_ns: 20_000_000_000,
        }
    }
}

impl LinkConfig {
    /// Strengths drawn from `random`, from a quiet link to a bad one; no resets.
    #[must_use]
    pub fn swarm(random: &mut Random) -> LinkConfig {
        let mut some = |most: u32| if random.coin() { 0 } else { most >> random.below(8) };
        let (late_ppm, loss_ppm, duplicate_ppm) = (some(100_000), some(50_000), some(100_000));
        let (tiny_ppm, partial_ppm) = (some(200_000), some(500_000));
        let delay = 5_000 << random.below(12);
        LinkConfig {
            delay_ns: delay..delay * (2 + random.below(4)),
            late_ppm,
            loss_ppm,
            duplicate_ppm,
            tiny_ppm,
            partial_ppm,
            send_buffer_bytes: 4096 << random.below(8),
            receive_buffer_bytes: 4096 << random.below(8),
            retransmit_ns: 20_000_000 << random.below(5),
            timeout_ns: 5_000_000_000 << random.below(4),
            ..LinkConfig::default()
        }
    }

    /// What a node's traffic with itself meets: short and sure, cut and limited as on the link.
    fn local(&self) -> LinkConfig {
        LinkConfig {
            delay_ns: 5_000..20_000,
            late_ppm: 0,
            loss_ppm: 0,
            duplicate_ppm: 0,
            reset_ppm: 0,
            refuse_ppm: 0,
            bytes_per_second: 4_000_000_000,
            ..self.clone()
        }
    }
}

/// State of one direction.
pub(crate) struct Link {
    pub(crate) config: LinkConfig,
    pub(crate) blocked: bool,
    /// When the last segment has left.
    free_at: u64,
}

impl Link {
    /// When something of this size sent now arrives.
    pub(crate) fn arrival(&mut self, now: u64, bytes: usize, random: &mut Random) -> u64 {
        let config = &self.config;
        let transfer = (bytes as u64).saturating_mul(1_000_000_000) / config.bytes_per_second.max(1);
        self.free_at = self.free_at.max(now) + transfer;
        let delay = random.within(&config.delay_ns);
        self.free_at + if random.chance(config.late_ppm) { delay * 10 } else { delay }
    }
}

/// All directions, by sender and receiver.
pub(crate) struct Links {
    node_count: usize,
    links: Vec<Link>,
    initial: LinkConfig,
}

impl Links {
    pub(crate) fn new(initial: LinkConfig) -> Links {
        Links { node_count: 0, links: Vec::new(), initial }
    }

    /// Make room for more nodes; what is known stays.
    pub(crate) fn grow(&mut self, node_count: usize) {
        let mut old: Vec<Option<Link>> = std::mem::take(&mut self.links).into_iter().map(Some).collect();
        let before = self.node_count;
        self.node_count = node_count;
        for from in 0..node_count {
            for to in 0..node_count {
                let known = if from < before && to < before { old[from * before + to].take() } else { None };
                let config = if from == to { self.initial.local() } else { self.initial.clone() };
                self.links.push(known.unwrap_or(Link { config, blocked: false, free_at: 0 }));
            }
        }
    }

    pub(crate) fn get(&mut self, from: u32, to: u32) -> &mut Link {
        &mut self.links[from as usize * self.node_count + to as usize]
    }

    /// Between different nodes.
    pub(crate) fn all(&mut self) -> impl Iterator<Item = &mut Link> {
        let count = self.node_count;
        self.links
            .iter_mut()
            .enumerate()
            .filter(move |(at, _)| at / count != at % count)
            .map(|(_, link)| link)
    }
}

impl World {
    fn links(&self, change: impl FnOnce(&mut Links)) {
        change(&mut self.shared.network.borrow_mut().links);
    }

    /// Nothing comes through from `from` to `to` until healed.
    pub fn partition_one_way(&self, from: &NodeHandle, to: &NodeHandle) {
        self.shared.faults.borrow_mut().count("partition");
        self.links(|links| links.get(from.node, to.node).blocked = true);
    }

    /// Nothing comes through between the two until healed.
    pub fn partition(&self, one: &NodeHandle, other: &NodeHandle) {
        self.partition_one_way(one, other);
        self.partition_one_way(other, one);
    }

    /// Cut a node off from all others, both ways.
    pub fn isolate(&self, node: &NodeHandle) {
        let count = u32::try_from(self.shared.nodes.borrow().len()).expect("nodes fit u32");
        for other in (0..count).filter(|&other| other != node.node) {
            self.partition(node, &NodeHandle { world: node.world, node: other });
        }
    }

    /// End a partition between two nodes, both ways.
    pub fn heal(&self, one: &NodeHandle, other: &NodeHandle) {
        self.links(|links| {
            links.get(one.node, other.node).blocked = false;
            links.get(other.node, one.node).blocked = false;
        });
    }

    /// End every partition.
    pub fn heal_all(&self) {
        self.links(|links| links.all().for_each(|link| link.blocked = false));
    }

    /// Change one direction of a link.
    pub fn set_link(&self, from: &NodeHandle, to: &NodeHandle, config: LinkConfig) {
        self.links(|links| links.get(from.node, to.node).config = config);
    }

    /// Change every link between different nodes.
    pub fn set_links(&self, config: &LinkConfig) {
        self.links(|links| links.all().for_each(|link| link.config = config.clone()));
    }
}
