//! Starting cores: threads on a real machine, or cores of a simulated node. What runs on a core cannot tell.

use crate::io::Io;
use crate::sim::NodeHandle;
use std::future::Future;

/// Which host runs a real core's tasks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HostKind {
    /// Our own executor, one ring for everything.
    #[default]
    Own,
    /// glommio's `LocalExecutor`, with our ring beside its own. Needs the feature `glommio`; refused without.
    Glommio,
}

/// How to lay out one core. Everything is allocated at its start.
#[derive(Clone, Debug)]
pub struct CoreConfig {
    /// Name of the thread, for logs and `top`.
    pub name: String,
    /// Index among the cores of the node, from 0.
    pub index: usize,
    /// Processor to pin to; `None` leaves it to the scheduler.
    pub cpu: Option<usize>,
    /// Bytes of aligned, registered buffers.
    pub arena_bytes: usize,
    /// Operations in flight at most; further ones wait.
    pub operation_count_max: usize,
    /// How long to look for work before sleeping while there is traffic, in microseconds. 0 on shared processors.
    pub spin_us: u64,
    /// Who runs the tasks. Ignored by the simulator.
    pub host: HostKind,
}

impl CoreConfig {
    /// A small core: 16 MiB of buffers, 1,024 operations, not pinned, no spinning.
    #[must_use]
    pub fn small(name: &str, index: usize) -> CoreConfig {
        CoreConfig {
            name: name.to_owned(),
            index,
            cpu: None,
            arena_bytes: 16 << 20,
            operation_count_max: 1024,
            spin_us: 0,
            host: HostKind::Own,
        }
    }
}

/// Why a core could not be started.
#[derive(Debug, thiserror::Error)]
#[error("cannot start core {name}: {what}; {mend}")]
pub struct LaunchError {
    /// Name of the core.
    pub name: String,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub mend: String,
}

/// Starts cores.
#[derive(Clone)]
pub enum Launcher {
    /// One thread per core.
    Threads,
    /// Cores of one simulated node.
    Simulated(NodeHandle),
}

/// A started core.
pub enum CoreHandle {
    /// A thread; `join` waits for its main task to end.
    Thread(std::thread::JoinHandle<()>),
    /// A simulated core: the world runs it.
    Simulated,
}

impl CoreHandle {
    /// Wait until the core's main task has ended. Returns at once for a simulated core.
    pub fn join(self) {
        if let CoreHandle::Thread(thread) = self {
            // A panic on a core has already stopped the process (panic = abort) or, in tests, was printed.
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
    }
}

impl Launcher {
    /// Start a core and run `main` on it. The core ends, dropping its tasks, when `main` has finished.
    ///
    /// # Errors
    /// [`LaunchError`] when the ring, its memory or the thread is not to be had, with the mend.
    pub fn launch<F, M>(&self, config: CoreConfig, main: F) -> Result<CoreHandle, LaunchError>
    where
        F: FnOnce(Io) -> M + Send + 'static,
        M: Future<Output = ()> + 'static,
    {
        match self {
            Launcher::Threads => crate::uring::launch(config, main).map(CoreHandle::Thread),
            Launcher::Simulated(node) => {
                node.launch(config, main)?;
                Ok(CoreHandle::Simulated)
            }
        }
    }
}
