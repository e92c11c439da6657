//! Time as a core sees it: a monotonic clock in nanoseconds that belongs to the back end (the kernel's, or virtual).

use std::time::Duration;

/// A point on the monotonic clock of one back end, in nanoseconds since an arbitrary start. Never goes back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant {
    /// Nanoseconds since the back end's start of time.
    pub ns: u64,
}

impl Instant {
    /// This point moved later by `duration`, saturating at the end of time.
    #[must_use]
    pub fn after(self, duration: Duration) -> Instant {
        Instant { ns: self.ns.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)) }
    }

    /// Time passed from `earlier` to this point; zero if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.ns.saturating_sub(earlier.ns))
    }
}
