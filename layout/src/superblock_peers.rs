//! What a disk is to the nodes of its group: how it came to its node, which lives it has had, and which disks the other nodes
//! have as far as it has met them.
//!
//! Owns the bytes of those fields of the superblock. Must never judge: who is let in is said in `shard/src/cluster/disks.rs`.
//! Invariant: a life is named by its incarnation and 64 random bits, so that two lives of one incarnation are told apart.

use crate::field::{byte_table, is_zero};
use crate::units::{Incarnation, Uuid};

/// Lives that a disk remembers: who was last seen within so many starts can be recognised.
pub const LIFE_COUNT: usize = 16;
/// Other nodes whose disks are remembered: more than a group has.
pub const PEER_COUNT_MAX: usize = 8;

/// Bytes of all lives.
pub const LIVES_BYTES: usize = LIFE_COUNT * 8;
const PEER_BYTES: usize = 32;
pub(crate) const PEERS_BYTES: usize = PEER_COUNT_MAX * PEER_BYTES;

byte_table! {
    /// Byte table of one element of `peers`.
    PEER_TABLE = "peer disk", PEER_BYTES;
    P_NODE = "node", 0, 4;
    P_INCARNATION = "incarnation", 4, 4;
    P_LIFE = "life", 8, 8;
    P_DEVICE = "device", 16, 16;
}

/// How a disk came to its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// It was there when the group began: what it does not remember did not happen.
    Founder,
    /// It took the place of another disk, of whose promises it knows nothing.
    Recovered {
        /// Its first incarnation, above all that the other nodes knew of the node; 0 = they have not been asked yet.
        birth: Incarnation,
    },
}

impl Origin {
    /// The two numbers that stand for it.
    #[must_use]
    pub fn to_numbers(self) -> (u32, u32) {
        match self {
            Origin::Founder => (1, 0),
            Origin::Recovered { birth } => (2, birth.0),
        }
    }

    /// Back from them; `None` when they stand for nothing.
    #[must_use]
    pub fn from_numbers(origin: u32, birth: u32) -> Option<Origin> {
        match (origin, birth) {
            (1, 0) => Some(Origin::Founder),
            (2, birth) => Some(Origin::Recovered { birth: Incarnation(birth) }),
            _ => None,
        }
    }

    /// Formatted to take another disk's place, and not started with the other nodes' consent yet.
    #[must_use]
    pub fn is_unborn(self) -> bool {
        self == Origin::Recovered { birth: Incarnation(0) }
    }
}

/// Names of the last starts of a disk, that of incarnation i at place i mod 16; 0 = none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lives(pub [u64; LIFE_COUNT]);

impl Lives {
    /// The name of the life with this incarnation, if the one with incarnation `last` is the last, and it is not too long ago.
    #[must_use]
    pub fn of(&self, incarnation: Incarnation, last: Incarnation) -> Option<u64> {
        let ago = last.0.checked_sub(incarnation.0)?;
        ((ago as usize) < LIFE_COUNT).then(|| self.0[incarnation.0 as usize % LIFE_COUNT])
    }

    /// A life begins.
    pub fn begin(&mut self, incarnation: Incarnation, name: u64) {
        self.0[incarnation.0 as usize % LIFE_COUNT] = name;
    }

    /// Their bytes.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; LIVES_BYTES] {
        let mut bytes = [0; LIVES_BYTES];
        for (name, place) in self.0.iter().zip(bytes.as_chunks_mut::<8>().0) {
            *place = name.to_le_bytes();
        }
        bytes
    }

    /// Back from them: any bytes are names.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; LIVES_BYTES]) -> Lives {
        let mut lives = Lives::default();
        for (name, place) in lives.0.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *name = u64::from_le_bytes(*place);
        }
        lives
    }
}

/// The disk that another node was last met with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PeerDisk {
    /// The node; 0 = nobody.
    pub node: u32,
    /// Its incarnation then.
    pub incarnation: Incarnation,
    /// The name of that life.
    pub life: u64,
    /// Uuid of its disk.
    pub device: Uuid,
}

impl PeerDisk {
    fn encode(&self, bytes: &mut [u8; PEER_BYTES]) {
        P_NODE.put(bytes, self.node.to_le_bytes());
        P_INCARNATION.put(bytes, self.incarnation.0.to_le_bytes());
        P_LIFE.put(bytes, self.life.to_le_bytes());
        P_DEVICE.put(bytes, self.device.0);
    }

    fn decode(bytes: &[u8; PEER_BYTES]) -> PeerDisk {
        PeerDisk {
            node: P_NODE.u32(bytes),
            incarnation: Incarnation(P_INCARNATION.u32(bytes)),
            life: P_LIFE.u64(bytes),
            device: Uuid(P_DEVICE.array(bytes)),
        }
    }

    fn is_right(&self) -> bool {
        let is_nobody = *self == PeerDisk::default();
        is_nobody || (self.node > 0 && self.incarnation.0 > 0 && !is_zero(&self.device.0))
    }
}

/// The disks that the other nodes were last met with: at most one of each, in no order.
pub type PeerDisks = [PeerDisk; PEER_COUNT_MAX];

pub(crate) fn encode_peers(peers: &PeerDisks, bytes: &mut [u8]) {
    for (peer, place) in peers.iter().zip(bytes.as_chunks_mut().0) {
        peer.encode(place);
    }
}

pub(crate) fn decode_peers(bytes: &[u8]) -> PeerDisks {
    let mut peers = PeerDisks::default();
    for (peer, place) in peers.iter_mut().zip(bytes.as_chunks().0) {
        *peer = PeerDisk::decode(place);
    }
    peers
}

pub(crate) fn are_right(peers: &PeerDisks) -> bool {
    let once = |(place, peer): (usize, &PeerDisk)| {
        peer.node == 0 || peers[..place].iter().all(|other| other.node != peer.node)
    };
    peers.iter().all(PeerDisk::is_right) && peers.iter().enumerate().all(once)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_two_numbers() {
        for origin in [Origin::Founder, Origin::Recovered { birth: Incarnation(0) }] {
            let (number, birth) = origin.to_numbers();
            assert_eq!(Origin::from_numbers(number, birth), Some(origin));
        }
        for wrong in [(0, 0), (1, 1), (3, 0)] {
            assert_eq!(Origin::from_numbers(wrong.0, wrong.1), None);
        }
    }

    #[test]
    fn a_life_is_known_for_sixteen_starts() {
        let mut lives = Lives::default();
        (1..=20).for_each(|number| lives.begin(Incarnation(number), u64::from(number) * 7));
        let of = |number| lives.of(Incarnation(number), Incarnation(20));
        assert_eq!((of(20), of(5), of(4), of(21)), (Some(140), Some(35), None, None));
        assert_eq!(Lives::from_bytes(&lives.to_bytes()), lives);
    }

    #[test]
    fn a_node_has_one_disk() {
        let peer = |node| PeerDisk { node, incarnation: Incarnation(1), life: 5, device: Uuid([9; 16]) };
        let mut peers = PeerDisks::default();
        (peers[0], peers[3]) = (peer(1), peer(2));
        let mut bytes = [0xee; PEERS_BYTES];
        encode_peers(&peers, &mut bytes);
        assert_eq!(decode_peers(&bytes), peers);
        assert!(are_right(&peers));
        peers[3].node = 1;
        assert!(!are_right(&peers));
        peers[3] = PeerDisk { device: Uuid([0; 16]), ..peer(2) };
        assert!(!are_right(&peers));
    }
}
