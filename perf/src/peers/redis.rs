//! redis-server: in memory alone, or with its append-only file flushed before each answer, or once a second.

use super::Missing;
use super::server::{PeerServer, free_address};
use crate::outside;
use crate::report::About;
use crate::target::{Target, TargetError};
use std::path::{Path, PathBuf};

const PROGRAM: &str = "redis-server";
const GET: &str = "apt-get install redis-server";

/// What of a write is on the disk when it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keeps {
    /// Nothing, ever.
    Nothing,
    /// Everything.
    Always,
    /// Everything but the last second or two.
    EverySecond,
}

impl Keeps {
    fn words(self) -> [&'static str; 4] {
        match self {
            Keeps::Nothing => ["--appendonly", "no", "--appendfsync", "no"],
            Keeps::Always => ["--appendonly", "yes", "--appendfsync", "always"],
            Keeps::EverySecond => ["--appendonly", "yes", "--appendfsync", "everysec"],
        }
    }

    fn text(self) -> &'static str {
        match self {
            Keeps::Nothing => "nothing durable: no snapshots, no append-only file",
            Keeps::Always => "each write flushed (fdatasync) before its answer: appendfsync always",
            Keeps::EverySecond => "flushed once a second, behind the answers: appendfsync everysec",
        }
    }
}

/// A running redis.
pub(crate) struct Redis {
    server: PeerServer,
    folder: Option<PathBuf>,
}

impl Redis {
    /// The version installed.
    pub(crate) fn version() -> Result<String, Missing> {
        outside::ask(PROGRAM, &["--version"]).ok_or(Missing { program: PROGRAM, get: GET })
    }

    /// Start one on the processor `cpu`, with its files, if it keeps any, in an empty folder below `dir`. Snapshots are off, and so
    /// are rewrites of the append-only file, which would take processor time from what is measured.
    pub(crate) fn start(
        version: String,
        keeps: Keeps,
        dir: &Path,
        cpu: Option<usize>,
    ) -> Result<Redis, TargetError> {
        let address = free_address()?;
        let mut words = vec![PROGRAM.to_owned()];
        let port = address.port().to_string();
        let common = ["--bind", "127.0.0.1", "--port", &port, "--daemonize", "no", "--save", ""];
        words.extend(common.iter().map(|word| (*word).to_owned()));
        words.extend(keeps.words().map(str::to_owned));
        let folder = (keeps != Keeps::Nothing).then(|| dir.join(format!("redis-{port}")));
        if let Some(folder) = &folder {
            outside::remove_folder(folder);
            outside::make_folder(folder).map_err(|error| TargetError(error.to_string()))?;
            let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.clone());
            words.extend(
                ["--auto-aof-rewrite-percentage", "0", "--dir", &folder.display().to_string()]
                    .map(str::to_owned),
            );
        }
        Ok(Redis { server: PeerServer::start(&words, address, cpu, version, keeps.text())?, folder })
    }

    pub(crate) fn target(&self) -> &Target {
        self.server.target()
    }

    pub(crate) fn about(&self) -> About {
        self.server.about()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        if let Some(folder) = &self.folder {
            outside::remove_folder(folder);
        }
    }
}
