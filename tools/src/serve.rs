//! `thermocline serve`: a node with the settings of a config file.

use clap::Args;

use crate::config::{Role, Sources};
use crate::failure::{Exit, Failure};
use crate::node;

/// Arguments of `serve`.
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    sources: Sources,
    /// Give these nodes of the group up: the last resort where so many have lost their disks that the others wait for them for ever.
    /// What this node may have forgotten it no longer asks them; acknowledged writes that only they have are lost
    #[arg(long, value_name = "NODE,...", value_delimiter = ',', requires = "yes")]
    without: Vec<u32>,
    /// Yes, give them up
    #[arg(long, requires = "without")]
    yes: bool,
}

/// `thermocline serve`: prints `ready HOST:PORT` when it serves, ends on SIGTERM or SIGINT after a drain.
///
/// # Errors
/// The settings are wrong, the disk is not ours, the port is taken, or the node failed.
pub(crate) fn run(args: &ServeArgs) -> Result<Exit, Failure> {
    let settings = args.sources.load()?.settings;
    if settings.role == Role::Cache {
        if settings.cluster.nodes.is_empty() {
            let mend = "name the nodes of the store in [cluster], as they name themselves";
            return Err(Failure::wrong_use("a cache needs a store", mend));
        }
        if !args.without.is_empty() {
            let mend = "say --without to a node of the group whose tablets do not vote";
            return Err(Failure::wrong_use("a cache has no vote to give nodes up for", mend));
        }
    } else if settings.role == Role::Cold {
        if !args.without.is_empty() {
            let mend = "say --without to a node of the group whose tablets do not vote";
            return Err(Failure::wrong_use("a cold node has no vote to give nodes up for", mend));
        }
    } else if settings.disk_path.is_empty() {
        let mend =
            "set path in [disk] of the config file, or --set disk.path=DISK; for a trial: thermocline dev";
        return Err(Failure::wrong_use("no disk is named", mend));
    }
    node::run(std::slice::from_ref(&settings), &args.without, |_| ())
}
