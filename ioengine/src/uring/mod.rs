//! The real back end: one io_uring per core.

use crate::io::Io;
use crate::launch::{CoreConfig, LaunchError};
use std::future::Future;

/// A core on the calling thread, for programs that call in from outside (the blocking client, tools, tests).
pub struct Runtime {
    io: Io,
}

impl Runtime {
    /// Lay out a core on this thread.
    ///
    /// # Errors
    /// [`LaunchError`] with the mend.
    pub fn new(_config: CoreConfig) -> Result<Runtime, LaunchError> {
        unreachable!()
    }

    /// The core.
    #[must_use]
    pub fn io(&self) -> &Io {
        &self.io
    }

    /// Run this core's tasks until `future` has finished. Tasks spawned meanwhile stay and go on at the next call.
    pub fn block_on<T>(&self, _future: impl Future<Output = T>) -> T {
        unreachable!()
    }
}

pub(crate) fn launch<F, M>(_config: CoreConfig, _main: F) -> Result<std::thread::JoinHandle<()>, LaunchError>
where
    F: FnOnce(Io) -> M + Send + 'static,
    M: Future<Output = ()> + 'static,
{
    unreachable!()
}
