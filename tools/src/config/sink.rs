//! The section `[sink]`: the cold group of a store node, and from which age on sealed windows go there.
//!
//! Owns its text, and what cannot be. Must never sink by half of a section: without its nodes there is no cold group, and with them
//! the number of disks is said, because where a window goes depends on it.

use std::net::SocketAddr;
use std::time::Duration;

use serde::Deserialize;
use shard::SinkSettings;

use super::Role;
use super::cluster::Cluster;

/// The section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sink {
    /// Nodes of the cold group; empty = nothing is sunk.
    pub(crate) nodes: Vec<SocketAddr>,
    /// Number of the cold group.
    pub(crate) group: u16,
    /// Disks that it has; 0 = not given.
    pub(crate) disks: u16,
    /// How old the end of a sealed window is when it is sunk.
    pub(crate) after: Duration,
}

impl Default for Sink {
    fn default() -> Sink {
        Sink { nodes: Vec::new(), group: 0, disks: 0, after: Duration::from_secs(90 * 86_400) }
    }
}

#[derive(Deserialize)]
struct List {
    nodes: Vec<SocketAddr>,
}

/// How the list is written.
const FORM: &str = "write [\"10.0.0.11:7420\", \"10.0.0.12:7420\", \"10.0.0.13:7420\"]";

/// Reads the list of nodes, as TOML has it; empty = none.
///
/// # Errors
/// What is wrong, and how it is written.
pub(crate) fn nodes(text: &str) -> Result<Vec<SocketAddr>, String> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    match toml::from_str::<List>(&format!("nodes = {text}")) {
        Ok(list) => Ok(list.nodes),
        Err(error) => Err(format!("{}: {FORM}", error.message())),
    }
}

/// The list as it is read back; nothing for none.
pub(crate) fn nodes_text(nodes: &[SocketAddr]) -> String {
    let each: Vec<String> = nodes.iter().map(|node| format!("\"{node}\"")).collect();
    if each.is_empty() { String::new() } else { format!("[{}]", each.join(", ")) }
}

impl Sink {
    /// What cannot be, for a node of this role that says this of its group; all of it.
    pub(crate) fn wrong(&self, role: Role, cluster: &Cluster) -> Vec<String> {
        let mut wrong = Vec::new();
        if self.nodes.is_empty() {
            if self.disks > 0 {
                wrong.push(format!(
                    "{} disks, and no nodes that have them: name the three in nodes",
                    self.disks
                ));
            }
            return wrong;
        }
        if role != Role::Store {
            let role = role.name();
            wrong.push(format!(
                "a {role} node has no windows to sink: take the section out, or set node.role to store"
            ));
        }
        if self.nodes.len() != 3 {
            let count = self.nodes.len();
            wrong.push(format!("nodes has {count} addresses, and a cold group has three nodes: {FORM}"));
        }
        let of_group = cluster.addresses();
        for (place, node) in self.nodes.iter().enumerate() {
            if self.nodes[..place].contains(node) {
                wrong.push(format!("nodes has {node} twice: each copy stands on a node of its own"));
            }
            if node.ip().is_unspecified() || node.port() == 0 {
                wrong.push(format!("{node} is no address that can be connected to: write the one that the cold node listens on"));
            }
            if of_group.contains(node) {
                wrong.push(format!(
                    "{node} is a node of [cluster], which keeps no cold disks: name a node with the role cold"
                ));
            }
        }
        if self.disks == 0 {
            wrong.push(
                "disks is not given: write how many disks each node of the cold group has, 1 to 65535"
                    .to_owned(),
            );
        }
        wrong
    }

    /// What a node is started with; `None`: nothing is sunk. Of a section that cannot be it is `None`, too.
    pub(crate) fn settings(&self) -> Option<SinkSettings> {
        let nodes = self.nodes.as_slice().try_into().ok()?;
        Some(SinkSettings { nodes, group: self.group, disk_count: self.disks, after: self.after })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THREE: &str = "[\"10.0.0.1:1\", \"10.0.0.2:1\", '[::1]:7', ]";

    fn of(list: &str) -> Sink {
        Sink { nodes: nodes(list).unwrap(), group: 4, disks: 6, ..Sink::default() }
    }

    fn wrong(sink: &Sink) -> String {
        sink.wrong(Role::Store, &Cluster::default()).join("\n")
    }

    #[test]
    fn a_list_is_read_back_as_it_was_written() {
        let list = nodes(THREE).unwrap();
        assert_eq!(nodes_text(&list), "[\"10.0.0.1:1\", \"10.0.0.2:1\", \"[::1]:7\"]");
        assert_eq!(nodes(&nodes_text(&list)), Ok(list));
        assert_eq!((nodes(" "), nodes_text(&[])), (Ok(Vec::new()), String::new()));
        for bad in ["10.0.0.1:1", "[1]", "[", "[\"here:1\"]", "[\"10.0.0.1\"]"] {
            assert!(nodes(bad).unwrap_err().contains("write [\"10.0.0.11:7420\""), "{bad}");
        }
    }

    #[test]
    fn a_whole_section_is_what_a_node_starts_with_and_none_is_none() {
        let sink = of(THREE);
        assert_eq!(wrong(&sink), "");
        let found = sink.settings().unwrap();
        assert_eq!((found.nodes.to_vec(), found.group, found.disk_count), (sink.nodes, 4, 6));
        assert_eq!(found.after, Duration::from_secs(90 * 86_400));
        assert_eq!((wrong(&Sink::default()), Sink::default().settings()), (String::new(), None));
    }

    #[test]
    fn what_cannot_be_is_named() {
        assert!(wrong(&of("[\"10.0.0.1:1\", \"10.0.0.2:1\"]")).contains("nodes has 2 addresses"));
        let four = "[\"10.0.0.1:1\", \"10.0.0.2:1\", \"10.0.0.3:1\", \"10.0.0.4:1\"]";
        assert!(wrong(&of(four)).contains("nodes has 4 addresses"));
        let twice = "[\"10.0.0.1:1\", \"10.0.0.2:1\", \"10.0.0.1:1\"]";
        assert!(wrong(&of(twice)).contains("10.0.0.1:1 twice"));
        let nowhere = "[\"0.0.0.0:1\", \"10.0.0.2:0\", \"10.0.0.1:1\"]";
        let found = wrong(&of(nowhere));
        assert!(found.contains("0.0.0.0:1 is no address") && found.contains("10.0.0.2:0 is no address"));
        assert!(wrong(&Sink { disks: 0, ..of(THREE) }).contains("disks is not given"));
        assert!(wrong(&Sink { disks: 2, ..Sink::default() }).contains("name the three in nodes"));
        for role in [Role::Cache, Role::Cold] {
            let found = of(THREE).wrong(role, &Cluster::default()).join("\n");
            assert!(found.contains(&format!("a {} node has no windows", role.name())), "{found}");
        }
        let list = "[{ id = 1, address = \"10.0.0.2:1\", zone = 1 }]";
        let cluster = Cluster { nodes: super::super::cluster::nodes(list).unwrap(), ..Cluster::default() };
        assert!(
            of(THREE).wrong(Role::Store, &cluster).join("").contains("10.0.0.2:1 is a node of [cluster]")
        );
    }
}
