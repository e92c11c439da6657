//! `thermocline status`: the group of a node, its links, and its counters, core by core.

use clap::Args;
use serde_json::{Map, Value};

use crate::client::Endpoint;
use crate::failure::{Exit, Failure};
use crate::output::{self, Output};
use crate::units::size_text;

/// Arguments of `status`.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    endpoint: Endpoint,
}

/// `thermocline status`.
///
/// # Errors
/// The node cannot be asked.
pub(crate) fn run(args: &StatusArgs) -> Result<Exit, Failure> {
    let text = args.endpoint.status()?;
    if args.endpoint.json {
        output::line(&text)?;
        return Ok(Exit::Done);
    }
    let status: Map<String, Value> = serde_json::from_str(&text).map_err(|error| {
        Failure::failed(
            format!("the node's status is no JSON object: {error}"),
            "use --json to see it as it is",
        )
    })?;
    let mut out = Output::new();
    for (name, value) in
        status.iter().filter(|(name, _)| !["cores", "cache_cores", "nodes", "disks"].contains(&name.as_str()))
    {
        out.line(&format!("{name:<28} {}", plain(value)))?;
    }
    for line in group(&status) {
        out.line(&line)?;
    }
    if let Some(line) = status.get("cores").and_then(Value::as_array).and_then(|cores| ahead(cores)) {
        out.line(&line)?;
    }
    for cores in ["cores", "cache_cores"] {
        for line in table(status.get(cores).and_then(Value::as_array).map_or(&[], Vec::as_slice)) {
            out.line(&line)?;
        }
    }
    for line in disks(&status) {
        out.line(&line)?;
    }
    out.finish()?;
    Ok(Exit::Done)
}

/// A line per disk of a cold node, then a line per counter; nothing for any other node.
fn disks(status: &Map<String, Value>) -> Vec<String> {
    let Some(disks) = status.get("disks").and_then(Value::as_object) else { return Vec::new() };
    // By number, not by the text of it.
    let mut disks: Vec<(u64, &Value)> =
        disks.iter().filter_map(|(number, disk)| Some((number.parse().ok()?, disk))).collect();
    disks.sort_unstable_by_key(|(number, _)| *number);
    let mut lines = Vec::new();
    for (number, disk) in &disks {
        let name = disk.get("name").and_then(Value::as_str).unwrap_or("?");
        let core = disk.get("core").and_then(Value::as_u64).unwrap_or(0);
        let counter = |name: &str| disk.get("counters").and_then(|all| all.get(name)?.as_u64()).unwrap_or(0);
        let failed = if counter("failed") > 0 { ", FAILED" } else { "" };
        let text = |name: &str| disk.get(name).and_then(Value::as_str);
        let aside = match (text("state"), text("aside_why"), counter("asides")) {
            (_, Some(why), count) => {
                let seconds = disk.get("aside_seconds").and_then(Value::as_u64).unwrap_or(0);
                format!(", ASIDE for {seconds} s ({why}), {count} times so far")
            }
            (Some("suspect"), _, count) => format!(", suspect, was aside {count} times"),
            (_, _, 0) => String::new(),
            (_, _, count) => format!(", was aside {count} times"),
        };
        let damaged = match counter("repair_queue") {
            0 => String::new(),
            count => format!(", {count} damaged places wait for repair"),
        };
        let repaired = match counter("repaired") {
            0 => String::new(),
            count => format!(", {count} sections repaired"),
        };
        let scrub = match counter("scrub_passes") {
            0 => format!(", first scrub at file {} of {}", counter("scrub_file"), counter("files")),
            count => {
                format!(", scrubbed {count} times, at file {} of {}", counter("scrub_file"), counter("files"))
            }
        };
        let filling = filling(&counter);
        lines.push(format!(
            "  disk {number:<6} {name:<40} core {core}{failed}{aside}{filling}{damaged}{repaired}{scrub}"
        ));
    }
    let counters: Vec<Value> = disks.iter().filter_map(|(_, disk)| disk.get("counters").cloned()).collect();
    lines.extend(table_of("disk", &counters).into_iter().filter(|line| !line.starts_with("disk ")));
    lines
}

/// How far a disk is filled that took another's place; nothing of any other.
fn filling(counter: &impl Fn(&str) -> u64) -> String {
    if counter("rebuilding") == 0 {
        return match counter("rebuild_left_out") {
            0 => String::new(),
            count => format!(", {count} SECTIONS LEFT OUT: whole on no other machine"),
        };
    }
    let (done, total, rate) =
        (counter("rebuild_bytes"), counter("rebuild_total_bytes"), counter("rebuild_bytes_per_second"));
    let left = match total.saturating_sub(done).checked_div(rate) {
        Some(seconds) => format!(", {} min left", seconds.div_ceil(60)),
        None => String::new(),
    };
    let waiting = match counter("rebuild_waiting_files") {
        0 => String::new(),
        count => format!(", {count} files wait"),
    };
    format!(
        ", FILLING: file {} of {}, {} of {} at {}/s{left}{waiting}",
        counter("rebuild_files"),
        counter("rebuild_files_total"),
        size_text(done >> 20 << 20),
        size_text(total >> 20 << 20),
        size_text(rate >> 20 << 20)
    )
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn shown(name: &str, value: u64) -> String {
    if name.ends_with("_bytes") && value >= 1 << 20 {
        return size_text(value >> 20 << 20);
    }
    value.to_string()
}

/// A line per node of the group, with the links to it; nothing for a node that is its own group.
fn group(status: &Map<String, Value>) -> Vec<String> {
    let list = |of: &Map<String, Value>, name: &str| of.get(name).and_then(Value::as_array).cloned();
    let number = |of: &Value, name: &str| of.get(name).and_then(Value::as_u64).unwrap_or(0);
    let own = status.get("node").and_then(Value::as_u64);
    let cores: Vec<Map<String, Value>> = list(status, "cores")
        .unwrap_or_default()
        .iter()
        .filter_map(|core| core.as_object().cloned())
        .collect();
    let of_node = |node: &Value| {
        let id = number(node, "id");
        let address = node.get("address").and_then(Value::as_str).unwrap_or("?");
        let head = format!("  node {id:<6} {address:<24} zone {:<5}", number(node, "zone"));
        if own == Some(id) {
            return format!("{head} this node");
        }
        let links: Vec<Value> = cores
            .iter()
            .filter_map(|core| list(core, "peers")?.into_iter().find(|peer| number(peer, "node") == id))
            .collect();
        let sum = |name: &str| links.iter().map(|link| number(link, name)).sum::<u64>();
        let incarnation = links.iter().map(|link| number(link, "incarnation")).max().unwrap_or(0);
        let state = match sum("up") {
            0 => "NO LINK".to_owned(),
            up => format!("{up} of {} links up, start {incarnation}", links.len()),
        };
        format!("{head} {state}, lost {} times", sum("downs"))
    };
    list(status, "nodes").unwrap_or_default().iter().map(of_node).collect()
}

/// What to know of a log time that is a second ahead of the clock, or more.
fn ahead(cores: &[Value]) -> Option<String> {
    let of = |core: &Value| core.get("log_time_ahead_us").and_then(Value::as_u64);
    let seconds = cores.iter().filter_map(of).max()? / 1_000_000;
    (seconds > 0).then(|| {
        format!(
            "log time is {seconds} s ahead of the clock, which was set back: records expire that much early, for {} s more",
            2 * seconds
        )
    })
}

/// A line per counter: its name, its sum, and each core's.
fn table(cores: &[Value]) -> Vec<String> {
    table_of("core", cores)
}

/// The same for cores or disks. A disk knows its own number.
fn table_of(what: &str, cores: &[Value]) -> Vec<String> {
    let Some(names) = cores.first().and_then(Value::as_object) else { return Vec::new() };
    let number = |place: usize, one: &Value| one.get(what).and_then(Value::as_u64).unwrap_or(place as u64);
    let heads = cores.iter().enumerate().map(|(place, one)| number(place, one));
    let heads = heads.map(|number| format!("{:>12}", format!("{what} {number}")));
    let mut lines = vec![format!("{:<28} {:>12} {}", "", "node", heads.collect::<Vec<_>>().join(" "))];
    for name in names.iter().filter(|(_, value)| value.is_number()).map(|(name, _)| name) {
        let of = |core: &Value| core.get(name).and_then(Value::as_u64).unwrap_or(0);
        let sum = cores.iter().map(of).fold(0, u64::wrapping_add);
        let each: Vec<String> = cores.iter().map(|core| format!("{:>12}", shown(name, of(core)))).collect();
        lines.push(format!("{name:<28} {:>12} {}", shown(name, sum), each.join(" ")));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ahead_of(cores: &[u64]) -> Option<String> {
        let cores: Vec<Value> = cores.iter().map(|us| serde_json::json!({"log_time_ahead_us": us})).collect();
        ahead(&cores)
    }

    #[test]
    fn a_line_per_counter_with_its_sum() {
        let cores =
            serde_json::json!([{"gets": 3, "journal_bytes": 1 << 20}, {"gets": 4, "journal_bytes": 3 << 20}]);
        let lines = table(cores.as_array().unwrap());
        let words: Vec<Vec<&str>> = lines.iter().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(words[0], ["node", "core", "0", "core", "1"]);
        assert_eq!(words[1], ["gets", "7", "3", "4"]);
        assert_eq!(words[2], ["journal_bytes", "4", "MiB", "1", "MiB", "3", "MiB"]);
        assert_eq!(table(&[]), Vec::<String>::new());
        let told = |ahead: u64| ahead_of(&[1, ahead, 0]);
        assert_eq!(told(999_999), None);
        assert!(told(7_200_000_000).unwrap().contains("7200 s ahead"));
    }

    #[test]
    fn disks_of_a_cold_node_stand_in_the_order_of_their_numbers() {
        let disk = |number: u64, failed: u64| {
            serde_json::json!({"name": format!("/dev/{number}"), "core": 0,
            "counters": {"disk": number, "reads": number + 1, "failed": failed, "repair_queue": 3 * failed}})
        };
        let status = serde_json::json!({"disks": {"10": disk(10, 1), "9": disk(9, 0)}});
        let lines = disks(status.as_object().unwrap());
        let words: Vec<Vec<&str>> = lines.iter().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(words[0][..5], ["disk", "9", "/dev/9", "core", "0,"]);
        assert!(lines[0].ends_with("first scrub at file 0 of 0"));
        assert!(
            lines[1].contains("/dev/10") && lines[1].contains("FAILED, 3 damaged places wait for repair")
        );
        assert_eq!(words[2], ["node", "disk", "9", "disk", "10"]);
        assert_eq!(words.iter().find(|line| line[0] == "reads").unwrap()[..], ["reads", "21", "10", "11"]);
        assert!(!words.iter().skip(3).any(|line| line[0] == "disk"), "its number is no counter");
        assert_eq!(disks(&Map::new()), Vec::<String>::new());
        let of = |state: &str, why: Option<&str>, asides: u64| {
            let counters = serde_json::json!({"disk": 1, "asides": asides});
            let disk = serde_json::json!({"name": "/dev/1", "core": 0, "state": state, "aside_why": why,
                "aside_seconds": 12, "counters": counters});
            disks(serde_json::json!({"disks": {"1": disk}}).as_object().unwrap())[0].clone()
        };
        assert!(of("aside", Some("hangs"), 3).contains("core 0, ASIDE for 12 s (hangs), 3 times so far"));
        assert!(of("suspect", None, 0).contains("core 0, suspect, was aside 0 times"));
        assert!(of("whole", None, 2).contains("core 0, was aside 2 times"));
        assert!(!of("whole", None, 0).contains("aside"));
    }

    #[test]
    fn a_line_per_node_of_the_group_says_how_its_links_are() {
        let status = serde_json::json!({
            "node": 2,
            "nodes": [
                {"id": 1, "address": "10.0.0.1:7420", "zone": 1},
                {"id": 2, "address": "10.0.0.2:7420", "zone": 2},
                {"id": 3, "address": "10.0.0.3:7420", "zone": 3},
            ],
            "cores": [
                {"peers": [{"node": 1, "up": 1, "incarnation": 4, "downs": 1}, {"node": 3, "up": 0, "downs": 2}]},
                {"peers": [{"node": 1, "up": 1, "incarnation": 4, "downs": 0}, {"node": 3, "up": 0, "downs": 3}]},
            ],
        });
        let lines = group(status.as_object().unwrap());
        assert!(
            lines[0].contains("10.0.0.1:7420")
                && lines[0].ends_with("2 of 2 links up, start 4, lost 1 times")
        );
        assert!(lines[1].ends_with("this node"));
        assert!(lines[2].ends_with("NO LINK, lost 5 times"));
        assert_eq!(group(&Map::new()), Vec::<String>::new());
        let cores = status["cores"].as_array().unwrap();
        assert_eq!(table(cores).len(), 1, "links are no counter of their own");
    }
}
