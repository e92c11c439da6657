//! `thermocline map`: the cluster map, and where reads go by it, said anew while everything runs.
//!
//! Must never undo what somebody else says meanwhile: a word that was overtaken is an error, and is decided anew.

use std::net::SocketAddr;

use clap::{Args, Subcommand};
use layout::superblock_reads::{REVISION_MAX, SHARE_WHOLE};
use net::client::blocking::Client;
use net::route::{ClusterMap, Node, Roles};
use serde_json::json;

use crate::client::{Endpoint, failure};
use crate::failure::{Exit, Failure};
use crate::output::{self, Output};
use crate::units::{duration_argument, duration_text};

/// Arguments of `map`.
#[derive(Debug, Args)]
pub(crate) struct MapArgs {
    #[command(subcommand)]
    verb: MapVerb,
}

#[derive(Debug, Subcommand)]
enum MapVerb {
    /// Nodes, groups, and where reads go
    Show(ShowArgs),
    /// Say anew where reads go: all nodes keep it, clients and caches hear of it with their next answers
    Set(SetArgs),
}

#[derive(Debug, Args)]
struct ShowArgs {
    #[command(flatten)]
    endpoint: Endpoint,
}

#[derive(Debug, Args)]
struct SetArgs {
    /// recent=AGE: gets of records younger than this go to caches, `all` or `none` of them; share=N%: so many of the streams do;
    /// caches=ID@HOST:PORT/CORES,...: the caches that there are, or `none`. What is not named stays
    #[arg(required = true, value_name = "WHAT=VALUE", value_parser = change)]
    changes: Vec<Change>,
    #[command(flatten)]
    endpoint: Endpoint,
}

/// One thing that changes.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Change {
    Recent(u64),
    Share(u16),
    Caches(Vec<Node>),
}

fn change(text: &str) -> Result<Change, String> {
    let (name, value) = text.split_once('=').ok_or("write recent=AGE, share=N% or caches=LIST")?;
    match name {
        "recent" => recent_argument(value).map(Change::Recent),
        "share" => share_argument(value).map(Change::Share),
        "caches" => caches(value).map(Change::Caches),
        _ => Err(format!("{name} cannot be said here: write recent=AGE, share=N% or caches=LIST")),
    }
}

/// An age in microseconds; `none` is 0, `all` the longest there is.
///
/// # Errors
/// How it is written.
pub(crate) fn recent_argument(text: &str) -> Result<u64, String> {
    match text {
        "none" => Ok(0),
        "all" => Ok(u64::MAX),
        age => {
            let age = duration_argument(age).map_err(|wrong| format!("{wrong}, none or all"))?;
            u64::try_from(age.as_micros())
                .map_err(|_| "an age has at most 500,000 years; write all".to_owned())
        }
    }
}

/// As it is read back.
pub(crate) fn recent_text(recent_us: u64) -> String {
    match recent_us {
        0 => "none".to_owned(),
        u64::MAX => "all".to_owned(),
        age => duration_text(std::time::Duration::from_micros(age)),
    }
}

/// Parts of 10,000 of a percentage with at most two places.
///
/// # Errors
/// How it is written.
pub(crate) fn share_argument(text: &str) -> Result<u16, String> {
    let wrong = || format!("\"{text}\" is no share: write 0% to 100%, with at most two places");
    let number = text.strip_suffix('%').ok_or_else(wrong)?;
    let (whole, places) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty()
        || places.len() > 2
        || !(whole.bytes().chain(places.bytes())).all(|c| c.is_ascii_digit())
    {
        return Err(wrong());
    }
    let parts: u32 = format!("{whole}{places:0<2}").parse().map_err(|_| wrong())?;
    u16::try_from(parts).ok().filter(|parts| *parts <= SHARE_WHOLE).ok_or_else(wrong)
}

/// As it is read back.
pub(crate) fn share_text(share: u16) -> String {
    let text = format!("{}.{:02}", share / 100, share % 100);
    format!("{}%", text.trim_end_matches('0').trim_end_matches('.'))
}

fn caches(text: &str) -> Result<Vec<Node>, String> {
    if text == "none" {
        return Ok(Vec::new());
    }
    let mut nodes = text.split(',').map(cache).collect::<Result<Vec<Node>, String>>()?;
    nodes.sort_unstable_by_key(|node| node.id);
    Ok(nodes)
}

fn cache(text: &str) -> Result<Node, String> {
    let wrong =
        || format!("\"{text}\" is no cache: write ID@HOST:PORT/CORES, with one core if none are named");
    let (id, place) = text.split_once('@').ok_or_else(wrong)?;
    let (address, cores) = place.rsplit_once('/').unwrap_or((place, "1"));
    let address: SocketAddr = address.parse().map_err(|_| wrong())?;
    let (id, shard_count) = (id.parse().map_err(|_| wrong())?, cores.parse().map_err(|_| wrong())?);
    Ok(Node { id, address, zone: 0, roles: Roles::CACHE, shard_count })
}

/// `thermocline map`.
///
/// # Errors
/// No node answers, the map cannot be, or somebody else said something meanwhile.
pub(crate) fn run(args: &MapArgs) -> Result<Exit, Failure> {
    match &args.verb {
        MapVerb::Show(args) => {
            let client = args.endpoint.connect()?;
            show(&client.map().map_err(|error| failure(&error))?, args.endpoint.json)
        }
        MapVerb::Set(args) => set(args),
    }
}

fn set(args: &SetArgs) -> Result<Exit, Failure> {
    let client = args.endpoint.connect()?;
    let before = newest(&client)?;
    let mut reads = before.reads();
    for change in &args.changes {
        match change {
            Change::Recent(recent_us) => reads.recent_us = *recent_us,
            Change::Share(share) => reads.cache_share = *share,
            Change::Caches(caches) => reads.caches.clone_from(caches),
        }
    }
    if reads == before.reads() {
        return show(&before, args.endpoint.json);
    }
    if reads.revision == REVISION_MAX {
        return Err(Failure::failed("no higher revision can be said", "raise cluster.epoch at all nodes"));
    }
    reads.revision += 1;
    let wanted = before.with_reads(&reads).map_err(|wrong| {
        Failure::wrong_use(wrong.to_string(), "see the nodes with `thermocline map show`")
    })?;
    let after = client.set_map(&wanted).map_err(|error| failure(&error))?;
    if after.reads() != reads {
        let what = "somebody else said where reads go meanwhile";
        return Err(Failure::failed(
            what,
            "look at `thermocline map show`, and say it again if it still holds",
        ));
    }
    show(&after, args.endpoint.json)
}

/// The newest map that a node of the store knows: a cache that nobody asks may have an old one. A word that changes nothing is answered
/// with what holds.
fn newest(client: &Client) -> Result<ClusterMap, Failure> {
    let known = client.map().map_err(|error| failure(&error))?;
    client.set_map(&known).map_err(|error| failure(&error))
}

fn show(map: &ClusterMap, as_json: bool) -> Result<Exit, Failure> {
    if as_json {
        output::line(&to_json(map).to_string())?;
        return Ok(Exit::Done);
    }
    let mut out = Output::new();
    out.line(&format!("epoch {}, said {} times, cluster {}", map.epoch, map.revision, map.cluster))?;
    out.line(&format!("reads of records younger than: {}", recent_text(map.recent_us)))?;
    let count = map.caches().count();
    let of = if count == 0 { ", but there is none".to_owned() } else { format!(" of {count}") };
    out.line(&format!("go to a cache{of}, for {} of the streams", share_text(map.cache_share)))?;
    for node in &map.nodes {
        let Node { id, address, zone, shard_count, .. } = node;
        let role = if node.roles == Roles::CACHE { "cache" } else { "store" };
        out.line(&format!("node {id:<6} {role:<6} {address:<24} zone {zone}, {shard_count} shards"))?;
    }
    for (index, group) in map.groups.iter().enumerate() {
        out.line(&format!("group {index}: {} replicas on nodes {:?}", group.replicas, group.members))?;
    }
    out.finish()?;
    Ok(Exit::Done)
}

fn to_json(map: &ClusterMap) -> serde_json::Value {
    let node = |node: &Node| {
        json!({
            "id": node.id, "address": node.address.to_string(), "zone": node.zone,
            "roles": node.roles.0, "shard_count": node.shard_count,
        })
    };
    json!({
        "epoch": map.epoch,
        "revision": map.revision,
        "cluster": map.cluster.to_string(),
        "recent_us": map.recent_us,
        "cache_share": map.cache_share,
        "nodes": map.nodes.iter().map(node).collect::<Vec<_>>(),
        "groups": map.groups.iter().map(|group| json!({ "replicas": group.replicas, "members": group.members })).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_and_ages_are_read_back_as_they_were_written() {
        for (text, parts) in [("0%", 0), ("100%", 10_000), ("12.5%", 1_250), ("0.01%", 1), ("50%", 5_000)] {
            assert_eq!((share_argument(text), share_text(parts)), (Ok(parts), text.to_owned()));
        }
        for wrong in ["", "%", "50", "101%", "1.234%", "-1%", "100.01%", "+5%", ".5%", "99999999999%"] {
            assert!(share_argument(wrong).is_err(), "{wrong}");
        }
        for (text, us) in [("none", 0), ("all", u64::MAX), ("1 day", 86_400_000_000)] {
            assert_eq!(recent_argument(text), Ok(us));
            assert_eq!(recent_argument(&recent_text(us)), Ok(us));
        }
        assert!(recent_argument("soon").unwrap_err().contains("none or all"));
    }

    #[test]
    fn changes_are_named_and_caches_listed() {
        assert_eq!(change("share=5%"), Ok(Change::Share(500)));
        assert_eq!(change("caches=none"), Ok(Change::Caches(Vec::new())));
        let Ok(Change::Caches(list)) = change("caches=102@10.0.0.2:7420/4,101@[::1]:7420") else {
            panic!("a list")
        };
        assert_eq!(
            list.iter().map(|node| (node.id, node.shard_count)).collect::<Vec<_>>(),
            [(101, 1), (102, 4)]
        );
        for wrong in
            ["caches=", "caches=10.0.0.1:7420", "caches=1@host", "caches=1@1.1.1.1:1/x", "zone=1", "share"]
        {
            assert!(change(wrong).is_err(), "{wrong}");
        }
    }
}
