//! `thermocline hot`: the keys that the nodes of a cluster are asked for most, the stores and the caches.
//!
//! Must never wait for a node that is gone longer than for the others: who does not answer is named, and left out.

use std::time::Duration;

use clap::Args;
use net::client::ClientConfig;
use net::route::{Node, Roles};
use serde_json::{Value, json};

use crate::client::{Endpoint, failure};
use crate::failure::{Exit, Failure};
use crate::output::{self, Output, time_text};

/// How long a node may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Arguments of `hot`.
#[derive(Debug, Args)]
pub(crate) struct HotArgs {
    /// Keys to show, the most asked for first
    #[arg(long, value_name = "N", default_value_t = 20)]
    count: usize,
    #[command(flatten)]
    endpoint: Endpoint,
}

/// A key at a core.
#[derive(Debug, Clone, PartialEq)]
struct Hot {
    node: u64,
    core: u64,
    rate: f64,
    error: f64,
    /// Part of all gets of its core.
    share: f64,
    key: Value,
}

/// `thermocline hot`.
///
/// # Errors
/// No node answers.
pub(crate) fn run(args: &HotArgs) -> Result<Exit, Failure> {
    let client =
        args.endpoint.connect_with(ClientConfig { deadline: PATIENCE, ..ClientConfig::default() })?;
    let map = client.map().map_err(|error| failure(&error))?;
    let mut hot = Vec::new();
    let mut silent = Vec::new();
    for node in &map.nodes {
        match client.hot_at(node.id) {
            Ok(text) => hot.extend(read(&text)?),
            Err(error) => silent.push(format!("node {} is not asked: {error}", node.id)),
        }
    }
    hot.sort_by(|one, other| other.rate.total_cmp(&one.rate));
    hot.truncate(args.count);
    let mut out = Output::new();
    if args.endpoint.json {
        for one in &hot {
            out.line(&to_json(one).to_string())?;
        }
    } else {
        out.line("     gets/s           +-   of core  node   core  key")?;
        for one in &hot {
            out.line(&line(one, map.nodes.iter().find(|node| u64::from(node.id) == one.node)))?;
        }
    }
    out.finish()?;
    silent.iter().for_each(|text| output::note!("{text}"));
    Ok(if silent.is_empty() { Exit::Done } else { Exit::No })
}

/// What a node has said, key by key.
fn read(text: &str) -> Result<Vec<Hot>, Failure> {
    let wrong = || Failure::failed("a node's list of keys cannot be read", "is it the same version?");
    let said: Value = serde_json::from_str(text).map_err(|_| wrong())?;
    let node = said["node"].as_u64().ok_or_else(wrong)?;
    let mut all = Vec::new();
    for core in said["cores"].as_array().ok_or_else(wrong)? {
        let of_core = core["gets_per_second"].as_f64().ok_or_else(wrong)?;
        for key in core["keys"].as_array().ok_or_else(wrong)? {
            let rate = key["gets_per_second"].as_f64().ok_or_else(wrong)?;
            all.push(Hot {
                node,
                core: core["core"].as_u64().ok_or_else(wrong)?,
                rate,
                error: key["error_per_second"].as_f64().ok_or_else(wrong)?,
                share: if of_core > 0.0 { rate / of_core } else { 0.0 },
                key: key.clone(),
            });
        }
    }
    Ok(all)
}

fn line(one: &Hot, node: Option<&Node>) -> String {
    let Hot { rate, error, share, core, node: id, key } = one;
    let role = if node.is_some_and(|node| node.roles == Roles::CACHE) { "cache" } else { "store" };
    let stream = key["stream"].as_str().or(key["stream_hex"].as_str()).unwrap_or("?");
    let space = key["space"].as_u64().filter(|space| *space != 0);
    let space = space.map_or_else(String::new, |space| format!(" space {space}"));
    let time = time_text(key["time_us"].as_u64().unwrap_or(0));
    let share = share * 100.0;
    format!("{rate:>11.0} {error:>12.0} {share:>8.1}%  {role} {id:<6} {core:<3} {stream} {time}{space}")
}

fn to_json(one: &Hot) -> Value {
    let mut line = one.key.clone();
    line["node"] = json!(one.node);
    line["core"] = json!(one.core);
    line["share_of_core"] = json!(one.share);
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_node_says_is_read_key_by_key() {
        let text = r#"{"node":7,"role":"store","cores":[{"core":1,"window_seconds":5.0,"gets_per_second":400.0,"keys":[
            {"space":2,"stream":"alice","time_us":0,"gets_per_second":100.0,"error_per_second":9.0}]}]}"#;
        let hot = read(text).unwrap();
        assert_eq!((hot[0].node, hot[0].core, hot[0].rate, hot[0].share), (7, 1, 100.0, 0.25));
        let line = line(&hot[0], None);
        assert!(line.contains("alice") && line.contains("25.0%") && line.contains("space 2"), "{line}");
        assert!(read("{}").is_err());
    }
}
