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

/// On a quiet machine 5–7 ms were measured until the kernel has closed what an ended process had operations in flight on.
const PATIENCE_STEP: Duration = Duration::from_millis(4);
/// 500 steps: 2 s. (Failing history: on a machine with a load of 8 the kernel took more than 100 ms, and a node that was killed and started
/// again found its disk in use.)
const PATIENCE_STEP_COUNT: usize = 500;

/// Try `attempt` until it answers something that is not `busy`, at most about 2 s long. Blocks the thread: for
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
