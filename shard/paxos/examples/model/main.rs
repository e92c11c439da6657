//! The exhaustive model check as a program. Owns its command line; the search is in `search.rs`, what may happen in a
//! world in `world.rs`, what must hold in `ghost.rs`.
//!
//!     model [BOUNDS...] [--states MILLIONS]   worlds of `bounds.rs`; without a name those of the check
//!     model guards [GUARD...]                 what goes wrong without each of them
//!     model walk FROM TO                      random walks of three and five replicas, by seed
//!     model script FILE [GUARD]               a script, without that guard
//!
//! Exit code 0 only if nothing was wrong.

mod bounds;
mod ghost;
mod intern;
mod script;
mod search;
mod walk;
mod words;
mod world;

use std::process::ExitCode;

use paxos::{Guard, Guards};
use search::End;

#[expect(clippy::print_stdout, reason = "a program that reports")]
fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let millions = arguments.iter().position(|argument| argument == "--states").map(|at| &arguments[at + 1]);
    let states_max =
        millions.map_or(usize::MAX, |count| count.parse::<usize>().expect("a number") * 1_000_000);
    let mut failed = 0;
    let mut passed = 0;
    if let [word, file, rest @ ..] = arguments.as_slice()
        && word == "script"
    {
        let text = std::fs::read_to_string(file).expect("the script can be read");
        let without = Guard::ALL.into_iter().find(|guard| rest.contains(&format!("{guard:?}")));
        let guards = without.map_or(Guards::ALL, |guard| Guards::ALL.without(guard));
        return match script::run(&text, guards, &mut |line| println!("{line}")) {
            Ok(_) => ExitCode::SUCCESS,
            Err(wrong) => {
                println!("    WRONG: {wrong}");
                ExitCode::FAILURE
            }
        };
    }
    if let [word, from, to] = arguments.as_slice()
        && word == "walk"
    {
        return walks(from.parse().expect("a seed")..to.parse().expect("a seed"));
    }
    if arguments.first().is_some_and(|argument| argument == "guards") {
        return guards(&arguments[1..], states_max);
    }
    for (name, bounds) in bounds::CHECKED.iter().chain(bounds::LONG) {
        let asked = arguments.iter().any(|argument| argument == name);
        if !asked && (!arguments.is_empty() && arguments[0] != "--states" || bounds::is_long(name)) {
            continue;
        }
        println!("{name}: {bounds:?}");
        let found = search::search(*bounds, states_max, &mut |depth, states| {
            println!("  depth {depth:3}: {states} states");
        });
        println!("  {} states, {} steps, depth {}; {}", found.states, found.steps, found.depth, found.sizes);
        match &found.end {
            End::Closed => println!("  closed: nothing is left within these bounds"),
            End::Full => println!("  stopped at the bound of states, with nothing wrong"),
            End::Wrong(history) => println!("{history}"),
        }
        if matches!(found.end, End::Wrong(_)) { failed += 1 } else { passed += 1 }
    }
    println!("{passed} passed, {failed} failed");
    if failed == 0 && passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Removes each guard that is asked for, or all, one at a time: each must be missed.
#[expect(clippy::print_stdout, reason = "a program that reports")]
fn guards(asked: &[String], states_max: usize) -> ExitCode {
    let (mut passed, mut failed) = (0, 0);
    for (guard, bounds) in bounds::NEEDED {
        let name = format!("{guard:?}");
        if asked.iter().any(|word| Guard::ALL.iter().any(|guard| format!("{guard:?}") == *word))
            && !asked.contains(&name)
        {
            continue;
        }
        let bounds = world::Bounds { guards: bounds.guards.without(*guard), ..*bounds };
        let found = search::search(bounds, states_max, &mut |_, _| {});
        println!("without {name}: {} states, depth {}", found.states, found.depth);
        match found.end {
            End::Wrong(history) => {
                println!("{history}");
                passed += 1;
            }
            _ => {
                println!("  NOT MISSED");
                failed += 1;
            }
        }
    }
    println!("{passed} passed, {failed} failed");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Walks, of 5,000 steps each.
#[expect(clippy::print_stdout, reason = "a program that reports")]
fn walks(seeds: std::ops::Range<u64>) -> ExitCode {
    let (mut passed, mut failed, mut chosen, mut wipes, mut returns) = (0, 0, 0, 0, 0);
    for seed in seeds {
        for members in [3, 5] {
            match walk::walk(seed, members, 5_000, Guards::ALL) {
                Ok(walked) => {
                    chosen += walked.chosen;
                    wipes += walked.wipes;
                    returns += walked.returns;
                    passed += 1;
                }
                Err(wrong) => {
                    println!("seed {seed}, {members} replicas: {wrong}");
                    failed += 1;
                }
            }
        }
    }
    println!("{chosen} entries chosen, {wipes} disks lost, {returns} returns");
    println!("{passed} passed, {failed} failed");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
