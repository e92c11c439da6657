//! The simulated back end: virtual time, one thread, one seed, faults.

use crate::io::Io;
use crate::launch::{CoreConfig, LaunchError};
use std::future::Future;

/// A node of the simulated world.
#[derive(Clone)]
pub struct NodeHandle {}

impl NodeHandle {
    pub(crate) fn launch<F, M>(&self, _config: CoreConfig, _main: F) -> Result<(), LaunchError>
    where
        F: FnOnce(Io) -> M + Send + 'static,
        M: Future<Output = ()> + 'static,
    {
        unreachable!()
    }
}
