//! Why the system does not give what was asked for, and what to do about it. Also the patience with claims that a
//! process which has just ended still holds: its sockets and devices stay open some milliseconds longer.

use std::time::Duration;

/// A reason and its mend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) what: String,
    pub(crate) mend: String,
}

impl Refusal {
    pub(crate) fn new(what: impl Into<String>, mend: impl Into<String>) -> Refusal {
        Refusal { what: what.into(), mend: mend.into() }
    }
}

/// 5–7 ms were measured until the kernel has closed what an ended process had operations in flight on.
const PATIENCE_STEP: Duration = Duration::from_millis(4);
/// 25 steps: 100 ms.
const PATIENCE_STEP_COUNT: usize = 25;

/// Try `attempt` until it answers something that is not `busy`, at most about 100 ms long. Blocks the thread: for
/// starting up only.
#[expect(clippy::disallowed_methods, reason = "the door itself, before anything runs on this core")]
pub(super) fn patiently<T, E>(
    mut attempt: impl FnMut() -> Result<T, E>,
    busy: impl Fn(&E) -> bool,
) -> Result<T, E> {
    for _ in 0..PATIENCE_STEP_COUNT {
        match attempt() {
            Err(error) if busy(&error) => std::thread::sleep(PATIENCE_STEP),
            done => return done,
        }
    }
    attempt()
}
