//! Signals of the process, as events on one core.

use crate::io::Io;
use crate::operation::Operation;

/// What the operator or the system asks of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM or SIGINT: finish what is in flight, then end.
    Terminate,
    /// SIGHUP: read the config again.
    Reload,
}

/// Source of signals. Real cores block these signals in every thread they launch, so that they arrive only here.
pub struct Signals {
    io: Io,
}

impl Signals {
    pub(crate) fn new(io: Io) -> Signals {
        Signals { io }
    }

    /// The next signal. Waits for ever where signals cannot be received.
    pub async fn next(&self) -> Signal {
        match self.io.start(Operation::Signal).await.0 {
            Ok(number) if number == libc::SIGHUP.cast_unsigned() => Signal::Reload,
            Ok(_) => Signal::Terminate,
            Err(errno) => {
                tracing::warn!(%errno, "signals cannot be received; SIGTERM will end the process without draining");
                std::future::pending().await
            }
        }
    }
}
