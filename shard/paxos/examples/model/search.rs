//! Breadth-first search over worlds. Owns the set of those seen, each with the way to it; must never skip one.
//!
//! Invariant: a history that it prints is a shortest one within the bounds.

use crate::intern::Interner;
use crate::world::{Bounds, World, Worlds};

/// How a search ended.
pub(crate) enum End {
    /// Nothing is left: all worlds within the bounds are right.
    Closed,
    /// So many worlds were seen, all right.
    Full,
    /// A wrong one, with the way to it.
    Wrong(String),
}

/// What was seen.
pub(crate) struct Found {
    pub(crate) states: usize,
    /// Steps taken, to known states too.
    pub(crate) steps: u64,
    /// Length of the longest shortest way.
    pub(crate) depth: usize,
    pub(crate) sizes: String,
    pub(crate) end: End,
}

/// Searches until nothing is left, something is wrong, or `states_max` worlds are seen. `report` hears of each depth.
pub(crate) fn search(bounds: Bounds, states_max: usize, report: &mut dyn FnMut(usize, usize)) -> Found {
    let mut worlds = Worlds::new(bounds);
    let mut seen: Interner<World> = Interner::new();
    // The way to each world: from which, by which of its steps.
    let mut ways: Vec<(u32, u16)> = vec![(0, 0)];
    let first = worlds.first();
    seen.number(first);
    let (mut depth, mut level_end, mut at, mut steps) = (0, 1, 0, 0);
    let mut next = Vec::new();
    let end = loop {
        if at == seen.len() {
            break End::Closed;
        }
        if seen.len() >= states_max {
            break End::Full;
        }
        if at == level_end {
            depth += 1;
            level_end = seen.len();
            report(depth, level_end);
        }
        let world = *seen.get(at as u32);
        next.clear();
        worlds.next(&world, &mut next);
        steps += next.len() as u64;
        let mut wrong = None;
        for (step, (result, _)) in next.iter().enumerate() {
            match result {
                Ok(world) => {
                    if seen.number(*world).1 {
                        ways.push((at as u32, step as u16));
                    }
                }
                Err(why) => wrong = wrong.or(Some((step, why.clone()))),
            }
        }
        if let Some((step, why)) = wrong {
            depth += 1;
            break End::Wrong(history(&mut worlds, &seen, &ways, at as u32, step, &why));
        }
        at += 1;
    };
    Found { states: seen.len(), steps, depth, sizes: worlds.sizes(), end }
}

fn history(
    worlds: &mut Worlds,
    seen: &Interner<World>,
    ways: &[(u32, u16)],
    last: u32,
    step: usize,
    why: &str,
) -> String {
    let mut way = vec![(last, step)];
    let mut at = last;
    while at != 0 {
        let (from, step) = ways[at as usize];
        way.push((from, usize::from(step)));
        at = from;
    }
    let mut lines = String::new();
    for (count, (from, step)) in way.into_iter().rev().enumerate() {
        let mut next = Vec::new();
        worlds.next(seen.get(from), &mut next);
        lines += &format!("{:3} {}\n", count + 1, worlds.describe(&next[step].1));
    }
    lines + &format!("    WRONG: {why}\n")
}
