//! In which order clients try the replicas of a tablet (B8), and which machines of a group hold it.
//!
//! A pure function of the zones of the group's machines and the number of replicas. Invariants, tested for every shape of
//! group that is allowed:
//!
//! - zones first: each next replica is in a zone that the list has used least, so that losing a zone costs at most
//!   one try before another zone answers, and with three zones never a majority;
//! - machines are first replica of equally many tablets, give or take one;
//! - a dead machine's tablets fall to the second replicas evenly, give or take one, over the machines that zones allow.
//!
//! Found by a greedy choice over at most 720 lists, 64 times; the tie goes to the lexicographically first, so that every client
//! and every node computes the same.

use layout::units::{TABLET_COUNT, TabletIndex};
use thiserror::Error;

/// Machines of a group at most.
pub const MACHINES_MAX: usize = 6;
/// Replicas of a tablet at most.
pub const REPLICAS_MAX: usize = 5;

/// A group that cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "{replicas} replicas on {machines} machines: a group has 1, 3, 5 or 6 machines and 1 (of 1), 3 or 5 replicas"
)]
pub struct GroupShapeWrong {
    /// Machines of the group.
    pub machines: usize,
    /// Replicas of each tablet.
    pub replicas: usize,
}

/// The replicas of each of the 64 tablets of a group, first choice first, as positions in the group's list of machines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaOrder {
    orders: [[u8; REPLICAS_MAX]; TABLET_COUNT],
    replicas: usize,
}

type Order = [u8; REPLICAS_MAX];

/// How often something was chosen so far.
struct Chosen {
    /// By place in the list and machine.
    places: [[u32; MACHINES_MAX]; REPLICAS_MAX],
    /// By machine, in any place.
    held: [u32; MACHINES_MAX],
    /// By first and second machine.
    pairs: [[u32; MACHINES_MAX]; MACHINES_MAX],
    /// By first, second and third machine.
    triples: [[[u32; MACHINES_MAX]; MACHINES_MAX]; MACHINES_MAX],
}

impl ReplicaOrder {
    /// The orders for machines in these zones.
    ///
    /// # Errors
    /// When the group has another shape than 1, 3, 5 or 6 machines with 1 (of 1), 3 or 5 replicas.
    pub fn new(zones: &[u16], replicas: usize) -> Result<ReplicaOrder, GroupShapeWrong> {
        let machines = zones.len();
        let allowed = matches!((machines, replicas), (1, 1) | (3 | 5 | 6, 3) | (5 | 6, 5));
        if !allowed {
            return Err(GroupShapeWrong { machines, replicas });
        }
        let mut candidates = Vec::new();
        list_orders(zones, replicas, [0; REPLICAS_MAX], 0, &mut candidates);
        let mut chosen = Chosen {
            places: Default::default(),
            held: Default::default(),
            pairs: Default::default(),
            triples: Default::default(),
        };
        let orders = std::array::from_fn(|_| {
            let best = candidates.iter().min_by_key(|order| chosen.weight(&order[..replicas]));
            let best = *best.expect("every group has at least one order");
            chosen.count(&best[..replicas]);
            best
        });
        Ok(ReplicaOrder { orders, replicas })
    }

    /// The replicas of a tablet, first choice first, as positions in the group's list of machines.
    #[inline]
    pub fn of(&self, tablet: TabletIndex) -> &[u8] {
        &self.orders[tablet.index()][..self.replicas]
    }
}

/// All lists that take, at each place, a machine from a zone used least so far; in lexicographic order.
fn list_orders(zones: &[u16], replicas: usize, order: Order, used: usize, out: &mut Vec<Order>) {
    if used == replicas {
        out.push(order);
        return;
    }
    let taken = &order[..used];
    let zone_uses = |zone: u16| taken.iter().filter(|&&machine| zones[machine as usize] == zone).count();
    let free = |machine: &usize| !taken.contains(&(*machine as u8));
    let least = (0..zones.len()).filter(free).map(|machine| zone_uses(zones[machine])).min();
    for machine in (0..zones.len()).filter(free).filter(|&machine| Some(zone_uses(zones[machine])) == least) {
        let mut longer = order;
        longer[used] = machine as u8;
        list_orders(zones, replicas, longer, used + 1, out);
    }
}

impl Chosen {
    /// What a list would unbalance, worst first: primaries, who inherits from whom, what machines hold, then the later places.
    fn weight(&self, order: &[u8]) -> (u32, u32, u32, u32, u32, [u32; 3]) {
        let at = |place: usize| order.get(place).map(|machine| *machine as usize);
        let placed = |place: usize| at(place).map_or(0, |machine| self.places[place][machine]);
        let first = order[0] as usize;
        let pair = at(1).map_or(0, |second| self.pairs[first][second]);
        let triple = at(1).zip(at(2)).map_or(0, |(second, third)| self.triples[first][second][third]);
        let held = order.iter().map(|&machine| self.held[machine as usize]).sum();
        (placed(0), pair, held, placed(1), triple, [placed(2), placed(3), placed(4)])
    }

    fn count(&mut self, order: &[u8]) {
        for (place, &machine) in order.iter().enumerate() {
            self.places[place][machine as usize] += 1;
            self.held[machine as usize] += 1;
        }
        if let [first, second, third, ..] =
            order.iter().map(|&machine| machine as usize).collect::<Vec<_>>()[..]
        {
            self.pairs[first][second] += 1;
            self.triples[first][second][third] += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every shape that is allowed, with the zones an operator would choose.
    const SHAPES: &[(&[u16], usize)] = &[
        (&[0], 1),
        (&[0, 1, 2], 3),
        (&[4, 4, 4], 3),
        (&[0, 1, 2, 3, 4], 5),
        (&[0, 1, 2, 3, 4], 3),
        (&[0, 0, 1, 1, 2], 5),
        (&[0, 0, 1, 1, 2], 3),
        (&[7, 7, 7, 7, 7], 5),
        (&[0, 1, 2, 3, 4, 5], 3),
        (&[0, 1, 2, 3, 4, 5], 5),
        (&[0, 0, 1, 1, 2, 2], 3),
        (&[0, 1, 2, 0, 1, 2], 5),
        (&[0, 0, 0, 1, 1, 1], 3),
        (&[9, 9, 9, 9, 9, 9], 5),
    ];

    fn spread(counts: impl Iterator<Item = usize> + Clone) -> usize {
        counts.clone().max().unwrap_or(0) - counts.min().unwrap_or(0)
    }

    #[test]
    fn primaries_are_even_and_a_dead_machines_tablets_spread_evenly() {
        for &(zones, replicas) in SHAPES {
            let order = ReplicaOrder::new(zones, replicas).unwrap();
            let lists: Vec<&[u8]> = TabletIndex::all().map(|tablet| order.of(tablet)).collect();
            let machines = 0..zones.len() as u8;
            let first = |machine: u8| lists.iter().filter(|list| list[0] == machine).count();
            assert!(spread(machines.clone().map(first)) <= 1, "{zones:?} {replicas}: primaries");
            for dead in machines.clone() {
                let falls_to =
                    |heir: u8| lists.iter().filter(|l| l[0] == dead && l.get(1) == Some(&heir)).count();
                let other_zones = zones.iter().any(|zone| *zone != zones[dead as usize]);
                let heirs = machines.clone().filter(|&heir| {
                    heir != dead && (!other_zones || zones[heir as usize] != zones[dead as usize])
                });
                assert!(spread(heirs.clone().map(falls_to)) <= 1, "{zones:?} {replicas}: heirs of {dead}");
                let load = |heir: u8| first(heir) + falls_to(heir);
                assert!(spread(heirs.map(load)) <= 2, "{zones:?} {replicas}: load without {dead}");
            }
        }
    }

    #[test]
    fn replicas_are_distinct_and_zones_come_first() {
        for &(zones, replicas) in SHAPES {
            let order = ReplicaOrder::new(zones, replicas).unwrap();
            let mut distinct: Vec<u16> = zones.to_vec();
            distinct.sort_unstable();
            distinct.dedup();
            for tablet in TabletIndex::all() {
                let list = order.of(tablet);
                let mut machines = list.to_vec();
                machines.sort_unstable();
                machines.dedup();
                assert_eq!(machines.len(), replicas, "a machine twice in {list:?}");
                let mut first_zones: Vec<u16> = list.iter().map(|&m| zones[m as usize]).collect();
                first_zones.truncate(distinct.len());
                first_zones.sort_unstable();
                first_zones.dedup();
                assert_eq!(first_zones.len(), distinct.len().min(replicas), "{zones:?}: {list:?}");
                if distinct.len() >= 3 {
                    for zone in &distinct {
                        let lost = list.iter().filter(|&&m| zones[m as usize] == *zone).count();
                        assert!(lost * 2 < replicas, "{zones:?}: zone {zone} is a majority of {list:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn machines_of_equal_zones_hold_equally_many_tablets() {
        for &(zones, replicas) in SHAPES {
            let of_zone = |zone: u16| zones.iter().filter(|z| **z == zone).count();
            if spread(zones.iter().map(|&zone| of_zone(zone))) > 0 {
                continue;
            }
            let order = ReplicaOrder::new(zones, replicas).unwrap();
            let holds = |m: u8| TabletIndex::all().filter(|&tablet| order.of(tablet).contains(&m)).count();
            assert!(spread((0..zones.len() as u8).map(holds)) <= 1, "{zones:?} {replicas}");
        }
    }

    #[test]
    fn other_shapes_are_refused() {
        for (machines, replicas) in [(0, 0), (1, 3), (2, 1), (3, 1), (3, 5), (4, 3), (5, 4), (6, 6), (7, 3)] {
            let zones: Vec<u16> = (0..machines).collect();
            assert!(ReplicaOrder::new(&zones, replicas).is_err(), "{replicas} of {machines}");
        }
    }
}
