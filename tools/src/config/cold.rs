//! The section `[cold]`: the disks of a cold node, the other machines of its group, and its bounds.
//!
//! Owns the text of the list, and what cannot be. Which node, cluster and cold group it is stands on the disks, not here.

use std::net::SocketAddr;

use serde::Deserialize;
use shard::cold::ColdNodeLimits;

/// The section.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Cold {
    /// Paths of its disks; empty = not given.
    pub(crate) disks: Vec<String>,
    /// Where the two other machines of its cold group serve; empty = not given.
    pub(crate) peers: Vec<SocketAddr>,
    /// Cores; 0 = as many as there are disks and processors.
    pub(crate) cores: u16,
    /// Bounds of each core and disk.
    pub(crate) limits: ColdNodeLimits,
}

#[derive(Deserialize)]
struct List {
    disks: Vec<String>,
}

#[derive(Deserialize)]
struct Peers {
    peers: Vec<SocketAddr>,
}

/// How the list of peers is written.
const PEERS_FORM: &str = "write [\"10.0.0.12:7420\", \"10.0.0.13:7420\"]";

/// Reads the list of disks, as TOML has it; empty = none.
///
/// # Errors
/// What is wrong, and how it is written.
pub(crate) fn disks(text: &str) -> Result<Vec<String>, String> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    match toml::from_str::<List>(&format!("disks = {text}")) {
        Ok(list) => Ok(list.disks),
        Err(error) => {
            Err(format!("{}: write [\"/dev/disk/by-id/...\", \"/dev/disk/by-id/...\"]", error.message()))
        }
    }
}

/// The list as it is read back; nothing for none.
pub(crate) fn disks_text(disks: &[String]) -> String {
    let each: Vec<String> = disks.iter().map(|disk| toml::Value::String(disk.clone()).to_string()).collect();
    if each.is_empty() { String::new() } else { format!("[{}]", each.join(", ")) }
}

/// Reads the list of the other machines, as TOML has it; empty = none.
///
/// # Errors
/// What is wrong, and how it is written.
pub(crate) fn peers(text: &str) -> Result<Vec<SocketAddr>, String> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    match toml::from_str::<Peers>(&format!("peers = {text}")) {
        Ok(list) => Ok(list.peers),
        Err(error) => Err(format!("{}: {PEERS_FORM}", error.message())),
    }
}

/// The list as it is read back; nothing for none.
pub(crate) fn peers_text(peers: &[SocketAddr]) -> String {
    let each: Vec<String> = peers.iter().map(|peer| format!("\"{peer}\"")).collect();
    if each.is_empty() { String::new() } else { format!("[{}]", each.join(", ")) }
}

impl Cold {
    /// What cannot be, for a node that listens there; all of it.
    pub(crate) fn wrong(&self, listen: SocketAddr) -> Vec<String> {
        let mut wrong = Vec::new();
        match self.peers[..] {
            [] => {}
            [first, second] if first == second => {
                wrong.push(format!("peers has {first} twice: name the two other machines of the cold group"));
            }
            [first, second] if first == listen || second == listen => wrong.push(format!(
                "peers has {listen}, where this node listens itself: name the two other machines of the cold group"
            )),
            [_, _] => {}
            _ => wrong.push(format!(
                "{} peers: a cold group has three machines, so {PEERS_FORM}, the two others",
                self.peers.len()
            )),
        }
        for (place, disk) in self.disks.iter().enumerate() {
            if disk.is_empty() {
                wrong.push("disks has an empty name: take it out".to_owned());
            } else if self.disks[..place].contains(disk) {
                wrong.push(format!("disks has {disk} twice: take one out"));
            }
        }
        if !self.disks.is_empty() && usize::from(self.cores) > self.disks.len() {
            let (cores, count) = (self.cores, self.disks.len());
            wrong.push(format!(
                "{cores} cores for {count} disks: a disk has one core, so have {count} at most"
            ));
        }
        wrong.extend(self.limits.check().err());
        wrong
    }

    /// Cores to run, on a machine with so many processors.
    pub(crate) fn core_count(&self, processor_count: u16) -> u16 {
        let disk_count = u16::try_from(self.disks.len()).unwrap_or(u16::MAX).max(1);
        if self.cores > 0 { self.cores } else { disk_count.min(processor_count) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_back_as_it_was_written() {
        let list = disks("[\"/dev/a\", 'b \"c\"', ]").unwrap();
        assert_eq!(list, ["/dev/a", "b \"c\""]);
        assert_eq!(disks(&disks_text(&list)), Ok(list));
        assert_eq!((disks(" "), disks_text(&[])), (Ok(Vec::new()), String::new()));
        for bad in ["/dev/a", "[1]", "[", "\"a\""] {
            assert!(disks(bad).unwrap_err().contains("write [\"/dev"), "{bad}");
        }
    }

    #[test]
    fn peers_are_the_two_other_machines() {
        let here: SocketAddr = "10.0.0.1:7420".parse().unwrap();
        let of = |text: &str| Cold { peers: peers(text).unwrap(), ..Cold::default() }.wrong(here).join("");
        let list = "[\"10.0.0.2:7420\", \"10.0.0.3:7420\"]";
        assert_eq!((of(list), of("")), (String::new(), String::new()));
        assert_eq!(peers_text(&peers(list).unwrap()), list);
        assert!(of("[\"10.0.0.2:7420\"]").contains("1 peers: a cold group has three machines"));
        assert!(of("[\"10.0.0.2:7420\", \"10.0.0.2:7420\"]").contains("has 10.0.0.2:7420 twice"));
        assert!(of("[\"10.0.0.2:7420\", \"10.0.0.1:7420\"]").contains("where this node listens"));
        assert!(peers("10.0.0.2").unwrap_err().contains("write [\"10.0.0.12:7420\""));
    }

    #[test]
    fn what_cannot_be_is_named() {
        let here: SocketAddr = "10.0.0.1:7420".parse().unwrap();
        let of = |names: &[&str], cores| Cold {
            disks: names.iter().map(|name| (*name).to_owned()).collect(),
            cores,
            ..Cold::default()
        };
        assert_eq!(of(&["a", "b"], 2).wrong(here), Vec::<String>::new());
        assert_eq!(of(&[], 7).wrong(here), Vec::<String>::new());
        assert!(of(&["a", "b", "a"], 0).wrong(here).join("").contains("has a twice"));
        assert!(of(&["a", ""], 0).wrong(here).join("").contains("empty name"));
        assert!(of(&["a", "b"], 3).wrong(here).join("").contains("3 cores for 2 disks"));
        let mut tight = of(&["a"], 1);
        tight.limits.frame_bytes_max = 1;
        assert!(tight.wrong(here).join("").contains("4 KiB"));
        assert_eq!([of(&["a", "b"], 0).core_count(8), of(&["a", "b"], 0).core_count(1)], [2, 1]);
        assert_eq!([of(&["a", "b"], 1).core_count(8), of(&[], 0).core_count(8)], [1, 1]);
    }
}
