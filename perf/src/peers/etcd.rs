//! etcd: three members on one machine, each with a data folder of its own, as it comes from the system's packages. Owns starting them
//! and finding the leader; puts go there, since a follower would pass them on.

use super::Missing;
use crate::outside::{self, Beside};
use crate::target::TargetError;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

const PROGRAM: &str = "etcd";
const GET: &str = "apt-get install etcd-server curl";
/// How often a leader is looked for, and how long to wait in between.
const TRIES: u32 = 100;
const WAIT: Duration = Duration::from_millis(100);

/// A running group.
pub(crate) struct Etcd {
    members: Vec<Beside>,
    folder: PathBuf,
    /// The member that leads.
    pub(crate) leader: SocketAddr,
}

impl Etcd {
    /// The version installed.
    pub(crate) fn version() -> Result<String, Missing> {
        let version =
            outside::ask(PROGRAM, &["--version"]).filter(|_| outside::ask("curl", &["--version"]).is_some());
        let version = version.ok_or(Missing { program: PROGRAM, get: GET })?;
        Ok(version.lines().next().unwrap_or_default().to_owned())
    }

    /// Starts three members with empty folders below `dir`; `wait` sleeps.
    pub(crate) fn start(
        dir: &Path,
        addresses: &[SocketAddr; 6],
        wait: impl Fn(Duration),
    ) -> Result<Etcd, TargetError> {
        let failed = |error: &dyn std::fmt::Display| TargetError(format!("{PROGRAM}: {error}"));
        let folder = dir.join("etcd");
        outside::remove_folder(&folder);
        outside::make_folder(&folder).map_err(|error| failed(&error))?;
        let members = commands(&folder, addresses)
            .iter()
            .map(|command| Beside::start(command).map_err(|error| failed(&error)))
            .collect::<Result<Vec<_>, _>>()?;
        let mut this = Etcd { members, folder, leader: addresses[0] };
        for _ in 0..TRIES {
            let is_leader = |address: &&SocketAddr| {
                let metrics = outside::ask("curl", &["--silent", &format!("http://{address}/metrics")]);
                metrics.is_some_and(|text| text.lines().any(|line| line == "etcd_server_is_leader 1"))
            };
            if let Some(leader) = addresses[..3].iter().find(is_leader) {
                this.leader = *leader;
                return Ok(this);
            }
            wait(WAIT);
        }
        Err(TargetError(format!("{PROGRAM}: no member leads")))
    }

    pub(crate) fn pids(&self) -> Vec<u32> {
        self.members.iter().map(Beside::pid).collect()
    }

    /// The command of the first member.
    pub(crate) fn command(&self) -> &str {
        &self.members[0].command
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.members.clear();
        outside::remove_folder(&self.folder);
    }
}

/// One command per member; three addresses for clients, then three for each other.
fn commands(folder: &Path, addresses: &[SocketAddr; 6]) -> Vec<Vec<String>> {
    let (clients, peers) = addresses.split_at(3);
    let all: Vec<String> =
        (1..).zip(peers).map(|(number, peer)| format!("member-{number}=http://{peer}")).collect();
    let member = |(number, (client, peer)): (u32, (&SocketAddr, &SocketAddr))| {
        let (client, peer) = (format!("http://{client}"), format!("http://{peer}"));
        let data = folder.join(format!("member-{number}")).display().to_string();
        let words = [
            PROGRAM,
            "--name",
            &format!("member-{number}"),
            "--data-dir",
            &data,
            "--listen-client-urls",
            &client,
            "--advertise-client-urls",
            &client,
            "--listen-peer-urls",
            &peer,
            "--initial-advertise-peer-urls",
            &peer,
            "--initial-cluster",
            &all.join(","),
            "--initial-cluster-state",
            "new",
            "--quota-backend-bytes",
            "8589934592",
        ];
        words.map(str::to_owned).to_vec()
    };
    (1..).zip(clients.iter().zip(peers)).map(member).collect()
}
