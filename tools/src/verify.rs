//! `thermocline verify`: has the replicas of every tablet compared, and says what came of it.
//!
//! The nodes compare by themselves, each the tablets whose first replica it is, and mend what differs by copies from a majority;
//! this begins it and reads their counters until they are through.

use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::Duration;

use clap::Args;
use serde_json::Value;

use crate::client::{Endpoint, failure};
use crate::failure::{Exit, Failure};
use crate::output;
use net::client::blocking::Client;
use net::route::Roles;

/// How often the nodes are asked how far they are.
const POLL: Duration = Duration::from_millis(200);
/// How often in a row it may have got no further.
const STILL_MAX: u32 = 150;

/// Arguments of `verify`.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    endpoint: Endpoint,
}

/// The counters of a node that speak of comparisons, summed over its cores.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Counts {
    node: u64,
    /// Times that each core has begun with all its tablets.
    rounds: Vec<u64>,
    counts: BTreeMap<String, u64>,
}

impl Counts {
    fn read(text: &str) -> Result<Counts, Failure> {
        let wrong = |error: serde_json::Error| {
            Failure::failed(format!("the node's status is no JSON: {error}"), "is it the same version?")
        };
        let status: Value = serde_json::from_str(text).map_err(wrong)?;
        let cores = status["cores"].as_array().cloned().unwrap_or_default();
        let mut read = Counts { node: status["node"].as_u64().unwrap_or(0), ..Counts::default() };
        for core in &cores {
            read.rounds.push(core["verify_rounds"].as_u64().unwrap_or(0));
            for (name, value) in core.as_object().into_iter().flatten() {
                if let Some(name) = name.strip_prefix("verify_") {
                    *read.counts.entry(name.to_owned()).or_default() += value.as_u64().unwrap_or(0);
                }
            }
        }
        Ok(read)
    }

    fn of(&self, name: &str) -> u64 {
        self.counts.get(name).copied().unwrap_or(0)
    }

    /// Every core has begun since `before`, and is through.
    fn is_through(&self, before: &Counts) -> bool {
        self.of("waiting") == 0 && self.rounds.iter().zip(&before.rounds).all(|(now, then)| now > then)
    }
}

/// A node from when it was asked on.
struct Asked {
    client: Client,
    before: Counts,
    now: Counts,
}

/// `thermocline verify`.
///
/// # Errors
/// No node can be asked, or one stopped answering.
pub(crate) fn run(args: &VerifyArgs) -> Result<Exit, Failure> {
    let map = args.endpoint.connect()?.map().map_err(|error| failure(&error))?;
    if map.groups.iter().all(|group| group.replicas == 1) {
        output::line(
            "each tablet has one replica: nothing to compare; `thermocline fsck` checks what is on its disk",
        )?;
        return Ok(Exit::Done);
    }
    let (mut asked, mut silent) = (Vec::new(), Vec::new());
    // A cache holds no tablets.
    for node in map.nodes.iter().filter(|node| node.roles.has(Roles::STORE)) {
        match ask(&args.endpoint.at(&node.address.to_string())) {
            Ok(one) => asked.push(one),
            Err(error) => silent.push(format!("node {} is not asked: {}", node.id, error.what)),
        }
    }
    for one in &mut asked {
        wait(one)?;
    }
    let pairs: Vec<(Counts, Counts)> = asked.into_iter().map(|one| (one.before, one.now)).collect();
    let (mut lines, is_clean) = report(&pairs);
    lines.extend(silent.iter().cloned());
    for line in &lines {
        output::line(line)?;
    }
    Ok(if is_clean && silent.is_empty() { Exit::Done } else { Exit::No })
}

fn ask(endpoint: &Endpoint) -> Result<Asked, Failure> {
    let client = endpoint.connect()?;
    let before = Counts::read(&client.status().map_err(|error| failure(&error))?)?;
    let now = Counts::read(&client.verify().map_err(|error| failure(&error))?)?;
    Ok(Asked { client, before, now })
}

/// Until the node has been through all its tablets.
#[expect(clippy::disallowed_methods, reason = "a person waits: nothing here is simulated")]
fn wait(asked: &mut Asked) -> Result<(), Failure> {
    let mut still = 0;
    while !asked.now.is_through(&asked.before) {
        sleep(POLL);
        let now = Counts::read(&asked.client.status().map_err(|error| failure(&error))?)?;
        still = if now == asked.now { still + 1 } else { 0 };
        asked.now = now;
        if still > STILL_MAX {
            return Err(Failure::failed(
                format!("node {} gets no further with its comparisons", asked.now.node),
                "see its log and `thermocline status`; run it again when all nodes serve",
            ));
        }
    }
    Ok(())
}

/// What came of it, and whether all replicas of all tablets hold the same.
fn report(nodes: &[(Counts, Counts)]) -> (Vec<String>, bool) {
    let since = |(before, now): &(Counts, Counts), name: &str| now.of(name).saturating_sub(before.of(name));
    let sum = |name: &str| nodes.iter().map(|node| since(node, name)).sum::<u64>();
    let (begun, unanswered) = (sum("begun"), sum("unanswered"));
    let mut lines =
        vec![format!("{} tablets compared at all their replicas", begun.saturating_sub(unanswered))];
    for node in nodes.iter().filter(|node| since(node, "own") > 0) {
        lines.push(format!(
            "node {} was wrong in {} tablets: it takes copies",
            node.1.node,
            since(node, "own")
        ));
    }
    let undecided = nodes.iter().map(|node| since(node, "undecided")).max().unwrap_or(0);
    if undecided > 0 {
        lines.push(format!(
            "{undecided} tablets or more: the replicas differ and no majority holds the same; keep all disks as they are, export from each node"
        ));
    }
    if unanswered > 0 {
        lines.push(format!(
            "{unanswered} tablets: not all replicas said what they hold; run it again when all nodes serve"
        ));
    }
    let is_clean = sum("own") + sum("others") + undecided + unanswered == 0 && begun > 0;
    if is_clean {
        lines.push("all replicas hold the same".to_owned());
    }
    (lines, is_clean)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(node: u64, of: &[(&str, u64)]) -> Counts {
        let counts = of.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        Counts { node, rounds: vec![], counts }
    }

    fn reported(now: &[&[(&str, u64)]]) -> (String, bool) {
        let pairs: Vec<_> =
            (1..).zip(now).map(|(node, now)| (counts(node, &[("begun", 3)]), counts(node, now))).collect();
        let (lines, is_clean) = report(&pairs);
        (lines.join("\n"), is_clean)
    }

    #[test]
    fn only_what_all_replicas_hold_alike_is_clean() {
        let (text, is_clean) = reported(&[&[("begun", 13), ("equal", 20)], &[("begun", 13), ("equal", 20)]]);
        assert!(is_clean && text.starts_with("20 tablets compared"), "{text}");
        assert!(!reported(&[&[("begun", 3)], &[("begun", 3)]]).1, "nothing was compared");
        let (text, is_clean) = reported(&[&[("begun", 13), ("others", 1)], &[("begun", 3), ("own", 1)]]);
        assert!(!is_clean && text.contains("node 2 was wrong in 1 tablets"), "{text}");
        let (text, is_clean) = reported(&[&[("begun", 13), ("unanswered", 4)]]);
        assert!(!is_clean && text.starts_with("6 tablets compared") && text.contains("4 tablets"), "{text}");
        let (text, is_clean) = reported(&[&[("begun", 13), ("undecided", 1)]]);
        assert!(!is_clean && text.contains("no majority"), "{text}");
    }

    #[test]
    fn a_node_is_through_when_each_core_has_begun_and_none_waits() {
        let text = |rounds: [u64; 2], waiting: u64| {
            serde_json::json!({"node": 2, "cores": [
                {"verify_rounds": rounds[0], "verify_waiting": 0, "verify_equal": 5, "gets": 9},
                {"verify_rounds": rounds[1], "verify_waiting": waiting, "verify_equal": 2},
            ]})
            .to_string()
        };
        let read = |rounds, waiting| Counts::read(&text(rounds, waiting)).unwrap();
        let before = read([3, 3], 0);
        assert_eq!((before.node, before.of("equal"), before.of("gets")), (2, 7, 0));
        assert!(!read([4, 3], 0).is_through(&before));
        assert!(!read([4, 4], 2).is_through(&before));
        assert!(read([4, 4], 0).is_through(&before));
    }
}
