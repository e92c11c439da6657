//! A node beside the group, a cache or a cold node, as a process: started, killed, stopped for a while, drained, waited for.
//!
//! Owns the process and its log. Must never touch a store. Invariant: one process at a time, and only a drain may end it by itself.

use super::process::Process;
use super::scene::{LOOK, START_PATIENCE, launch};
use super::{RealError, Report};
use crate::sim::history::Violation;
use ioengine::{Instant, Io};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// What a start needs of the rest.
pub(super) struct Stage<'a> {
    pub(super) binary: &'a Path,
    /// The stores, as the setting `cluster.nodes` has them.
    pub(super) stores: &'a str,
    pub(super) canary: Option<&'a str>,
}

/// A node beside the group.
pub(super) struct Beside {
    pub(super) address: SocketAddr,
    pub(super) memory: PathBuf,
    name: String,
    log: PathBuf,
    /// `section.key=value`
    settings: Vec<String>,
    process: Option<Process>,
    draining: bool,
}

impl Beside {
    /// One that serves at an address, with what else it is told; not started.
    pub(super) fn new(name: String, address: SocketAddr, folder: &Path, settings: Vec<String>) -> Beside {
        let (log, memory) = (folder.join(format!("{name}.log")), folder.join(format!("memory-{name}")));
        Beside { address, memory, name, log, settings, process: None, draining: false }
    }

    /// Begin a start.
    pub(super) fn start(&mut self, stage: &Stage<'_>) -> Result<(), RealError> {
        assert!(self.process.is_none(), "one process at a time");
        let own = format!("network.listen={}", self.address);
        let settings = std::iter::once(&own).chain(&self.settings).flat_map(|setting| ["--set", setting]);
        let arguments: Vec<&str> = std::iter::once("serve").chain(settings).collect();
        let Stage { binary, stores, canary } = stage;
        self.process = Some(launch(binary, &arguments, stores, &self.memory, *canary, &self.log)?);
        Ok(())
    }

    /// Whether it was started, and nobody has seen it end.
    pub(super) fn runs(&self) -> bool {
        self.process.is_some()
    }

    async fn answers(&self, io: &Io) -> bool {
        io.connect(self.address).await.is_ok()
    }

    /// Kill -9, running or standing still.
    pub(super) fn kill(&mut self) {
        self.draining = false;
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// It stands still, if it runs.
    pub(super) fn pause(&mut self) {
        self.process.iter_mut().for_each(Process::pause);
    }

    /// It goes on.
    pub(super) fn resume(&mut self) {
        self.process.iter_mut().for_each(Process::resume);
    }

    /// It is asked to drain, if it runs.
    pub(super) fn drain(&mut self) {
        if let Some(process) = &mut self.process {
            process.drain();
            self.draining = true;
        }
    }

    /// Has it ended since it was looked at last? What is wrong with that, unless it was asked to.
    pub(super) fn watch(&mut self, report: &mut Report) -> bool {
        let Some(status) = self.process.as_mut().and_then(Process::ended) else { return false };
        if !(self.draining && status.code() == Some(0)) {
            let text = format!("{} ended by itself, {status}, see {}", self.name, self.log.display());
            report.violations.push(Violation { checker: "run", text });
        }
        self.kill();
        true
    }

    /// It runs and serves, undisturbed: whether it does by then.
    pub(super) async fn serves(
        &mut self,
        io: &Io,
        stage: &Stage<'_>,
        until: Instant,
        report: &mut Report,
    ) -> Result<bool, RealError> {
        self.resume();
        loop {
            if self.process.is_none() {
                self.start(stage)?;
            }
            if !self.draining && self.answers(io).await {
                return Ok(true);
            }
            if io.now() >= until {
                let text = format!("{} does not serve within {START_PATIENCE:?} of peace", self.name);
                report.violations.push(Violation { checker: "run", text });
                return Ok(false);
            }
            io.sleep(LOOK).await;
            self.watch(report);
        }
    }

    /// It ends as it should, and has not panicked.
    pub(super) async fn end(&mut self, io: &Io, report: &mut Report) -> Result<(), RealError> {
        self.drain();
        let until = io.now().after(START_PATIENCE);
        let ended = loop {
            match self.process.as_mut().and_then(Process::ended) {
                None if io.now() < until => io.sleep(LOOK).await,
                ended => break ended,
            }
        };
        self.kill();
        if ended.and_then(|status| status.code()) != Some(0) {
            let text = format!("the drain of {} ended with {ended:?}, see {}", self.name, self.log.display());
            report.violations.push(Violation { checker: "run", text });
        }
        super::peace::no_panic(&self.log, report)
    }
}
