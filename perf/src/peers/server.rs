//! A peer that serves over TCP from one process: started on a free port, kept to a processor, ended with its owner.

use crate::cpu::CpuOf;
use crate::outside::Beside;
use crate::report::About;
use crate::target::{Target, TargetError};
use ioengine::CoreConfig;
use ioengine::uring::Runtime;
use std::net::SocketAddr;

/// A running server.
pub(crate) struct PeerServer {
    target: Target,
    about: About,
    _beside: Beside,
}

impl PeerServer {
    /// Start `command`, which is to listen on `address`, on the processor `cpu`. It is ready once it accepts a connection. `version` and
    /// `durability` are for the report.
    pub(crate) fn start(
        command: &[String],
        address: SocketAddr,
        cpu: Option<usize>,
        version: String,
        durability: &str,
    ) -> Result<PeerServer, TargetError> {
        let program = command.first().expect("a command has a program");
        let failed = |error: &dyn std::fmt::Display| TargetError(format!("{program}: {error}"));
        // Before it starts a thread that would keep to no processor.
        let kept =
            cpu.map_or_else(Vec::new, |cpu| ["taskset", "-c", &cpu.to_string()].map(str::to_owned).to_vec());
        let mut beside = Beside::start(&[&kept, command].concat()).map_err(|error| failed(&error))?;
        if beside.has_ended() {
            return Err(TargetError(format!("{program} has ended while starting: {}", beside.command)));
        }
        let target = Target { address, cpu: CpuOf::Process(beside.pid()) };
        let about = About { version, command: beside.command.clone(), durability: durability.to_owned() };
        Ok(PeerServer { target, about, _beside: beside })
    }

    pub(crate) fn target(&self) -> &Target {
        &self.target
    }

    /// Version, command and what it makes durable.
    pub(crate) fn about(&self) -> About {
        self.about.clone()
    }
}

/// An address that nobody listens on now.
pub(crate) fn free_address() -> Result<SocketAddr, TargetError> {
    let failed = |error: &dyn std::fmt::Display| TargetError(format!("no free port: {error}"));
    let runtime = Runtime::new(CoreConfig::small("port", 0)).map_err(|error| failed(&error))?;
    let listener = runtime.io().listen(SocketAddr::from(([127, 0, 0, 1], 0)));
    Ok(listener.map_err(|error| failed(&error))?.address())
}
