//! One tablet as its owner core sees it: its log's position, its log time, what it must remember to apply the next
//! entry like every other replica would, and what of its journal is lost.

use crate::limits::Limits;
use crate::proof::Damage;
use crate::recent::RecentKeys;
use crate::requests::RequestTable;
use crate::seals::Seals;
use ioengine::Io;
use layout::units::{LogIndex, LogTime};
use std::rc::Rc;

/// State of one tablet.
pub(crate) struct Tablet {
    /// Last entry applied.
    pub(crate) applied: LogIndex,
    /// Largest stamp applied: the only clock that decides about expiry.
    pub(crate) log_time: LogTime,
    /// The last stamp that this core gave, and when by its monotonic clock, µs; before the first the start of the core.
    pub(crate) stamped: (LogTime, u64),
    /// Ids of requests applied, with their outcomes.
    pub(crate) requests: RequestTable,
    /// Keys written lately, for compare-and-set.
    pub(crate) recent: RecentKeys,
    /// Its windows, as all replicas know them.
    pub(crate) seals: Rc<Seals>,
    /// Part of the log is lost: learner-only. It takes no writes and answers no strong read, not even of records
    /// written later: whether a later entry took effect may hang on a lost one (a compare-and-set on its key, a
    /// retry of its request).
    pub(crate) damage: Option<Damage>,
    /// All this is of a copy whose tables cannot be read yet: nothing is read meanwhile, or records of before would be shown
    /// as those of now.
    pub(crate) awaits_tables: bool,
}

impl Tablet {
    /// It has applied nothing.
    pub(crate) fn new(io: &Io, limits: &Limits) -> Tablet {
        Tablet {
            applied: LogIndex(0),
            log_time: LogTime(0),
            stamped: (LogTime(0), io.now().ns / 1000),
            requests: RequestTable::new(limits.requests(), io.random()),
            recent: RecentKeys::new(limits.recent_count, LogIndex(0), io.random()),
            seals: Rc::default(),
            damage: None,
            awaits_tables: false,
        }
    }

    /// The stamp that an entry would have now, `wall_us` by the wall clock and `now_us` by the monotonic one.
    ///
    /// Log time is never below what it was. Where the wall clock was set back it goes on at half the speed of the
    /// monotonic clock until the wall clock has caught up: stood it still, then request ids would never leave, and
    /// writes be refused, for as long as the clock had been ahead. At full speed it would be ahead for ever.
    pub(crate) fn clock(&self, wall_us: u64, now_us: impl FnOnce() -> u64) -> LogTime {
        let base = self.stamped.0.max(self.log_time);
        if wall_us >= base.0 {
            return LogTime(wall_us);
        }
        ioengine::sometimes!("log time is ahead of the clock");
        let passed_us = now_us().saturating_sub(self.stamped.1);
        LogTime(base.0.saturating_add(passed_us / 2).max(wall_us))
    }

    /// The index that this tablet's log has, as a journal's open and mark records tell it to later starts. Of a damaged
    /// tablet it is one that it lost, or may have: were it the last one applied, a later start would take it for proof that
    /// nothing is missing, and forget the damage once the record that first showed it, or shared memory, is gone.
    pub(crate) fn tip(&self) -> LogIndex {
        match self.damage {
            _ if ioengine::canary("forget_damage") => self.applied,
            None => self.applied,
            Some(damage) => damage.to.map_or(self.applied.next(), |to| to.max(self.applied.next())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::requests::RequestLimits;

    const HOUR: u64 = 3_600_000_000;

    fn tablet(log_time: u64) -> Tablet {
        let limits = RequestLimits { capacity: 8, horizon_us: 10, horizon_min_us: 1 };
        Tablet {
            applied: LogIndex(0),
            log_time: LogTime(log_time),
            stamped: (LogTime(0), 5 * HOUR),
            requests: RequestTable::new(limits, 1),
            recent: RecentKeys::new(8, LogIndex(0), 1),
            seals: Rc::default(),
            damage: None,
            awaits_tables: false,
        }
    }

    #[test]
    fn log_time_is_the_wall_clock_unless_that_was_set_back() {
        let own = tablet(100 * HOUR);
        assert_eq!(own.clock(100 * HOUR, || panic!("not asked")), LogTime(100 * HOUR));
        assert_eq!(own.clock(124 * HOUR, || panic!("not asked")), LogTime(124 * HOUR));
        // Set back by a day, seen at once and four hours later.
        assert_eq!(own.clock(76 * HOUR, || 5 * HOUR), LogTime(100 * HOUR));
        assert_eq!(own.clock(80 * HOUR, || 9 * HOUR), LogTime(102 * HOUR));
        // It meets the wall clock after twice the time that it was ahead.
        assert_eq!(own.clock(124 * HOUR, || 53 * HOUR), LogTime(124 * HOUR));
        // A stamp that was given and is not applied yet counts.
        let stamped = Tablet { stamped: (LogTime(101 * HOUR), 7 * HOUR), ..tablet(100 * HOUR) };
        assert_eq!(stamped.clock(HOUR, || 7 * HOUR), LogTime(101 * HOUR));
        // A monotonic clock looked at earlier than the stamp was given.
        assert_eq!(stamped.clock(HOUR, || 6 * HOUR), LogTime(101 * HOUR));
    }

    #[test]
    fn log_time_goes_on_however_often_it_is_stamped() {
        let mut own = tablet(100 * HOUR);
        let mut now_us = 5 * HOUR;
        for _ in 0..10_000 {
            now_us += 1_000_000;
            let stamp = own.clock(HOUR, || now_us);
            assert!(stamp > own.stamped.0);
            own.stamped = (stamp, now_us);
        }
        assert_eq!(own.stamped.0, LogTime(100 * HOUR + 5_000_000_000));
    }
}
