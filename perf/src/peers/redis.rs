//! redis-server, in memory alone: nothing is written, neither snapshot nor append-only file.

use super::Missing;
use crate::cpu::{self, CpuOf};
use crate::outside::{self, Beside};
use crate::target::{Target, TargetError};
use ioengine::CoreConfig;
use ioengine::uring::Runtime;
use std::net::SocketAddr;

const PROGRAM: &str = "redis-server";
const GET: &str = "apt-get install redis-server";

/// A running redis.
pub(crate) struct Redis {
    target: Target,
    /// What it says of itself.
    pub(crate) version: String,
    beside: Beside,
}

impl Redis {
    /// The version installed.
    pub(crate) fn version() -> Result<String, Missing> {
        outside::ask(PROGRAM, &["--version"]).ok_or(Missing { program: PROGRAM, get: GET })
    }

    /// Start one on the processor `cpu`. It is ready once it accepts a connection.
    pub(crate) fn start(version: String, cpu: Option<usize>) -> Result<Redis, TargetError> {
        let failed = |error: &dyn std::fmt::Display| TargetError(format!("{PROGRAM}: {error}"));
        let address = free_address()?;
        let command = [
            PROGRAM,
            "--bind",
            "127.0.0.1",
            "--port",
            &address.port().to_string(),
            "--save",
            "",
            "--appendonly",
            "no",
            "--daemonize",
            "no",
        ]
        .map(str::to_owned);
        let mut beside = Beside::start(&command).map_err(|error| failed(&error))?;
        if let Some(cpu) = cpu {
            cpu::keep_to(&[beside.pid()], cpu).map_err(|error| failed(&error))?;
        }
        if beside.has_ended() {
            return Err(TargetError(format!("{PROGRAM} has ended while starting: {}", beside.command)));
        }
        let target = Target { address, cpu: CpuOf::Process(beside.pid()) };
        Ok(Redis { target, version, beside })
    }

    pub(crate) fn target(&self) -> &Target {
        &self.target
    }

    /// The whole command, and what it means for durability.
    pub(crate) fn command(&self) -> String {
        format!("{} (nothing durable: no snapshots, no append-only file)", self.beside.command)
    }
}

/// An address that nobody listens on now.
fn free_address() -> Result<SocketAddr, TargetError> {
    let failed = |error: &dyn std::fmt::Display| TargetError(format!("no free port: {error}"));
    let runtime = Runtime::new(CoreConfig::small("port", 0)).map_err(|error| failed(&error))?;
    let listener = runtime.io().listen(SocketAddr::from(([127, 0, 0, 1], 0)));
    Ok(listener.map_err(|error| failed(&error))?.address())
}
