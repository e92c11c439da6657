//! One tablet as its owner core sees it: its log's position, its log time, what it must remember to apply the next
//! entry like every other replica would, and what of its journal is lost.

use crate::proof::Damage;
use crate::recent::RecentKeys;
use crate::requests::RequestTable;
use layout::units::{LogIndex, LogTime};

/// State of one tablet.
pub(crate) struct Tablet {
    /// Last entry applied.
    pub(crate) applied: LogIndex,
    /// Largest stamp applied: the only clock that decides about expiry.
    pub(crate) log_time: LogTime,
    /// Ids of requests applied, with their outcomes.
    pub(crate) requests: RequestTable,
    /// Keys written lately, for compare-and-set.
    pub(crate) recent: RecentKeys,
    /// Part of the log is lost: learner-only. It takes no writes and answers no strong read, not even of records
    /// written later: whether a later entry took effect may hang on a lost one (a compare-and-set on its key, a
    /// retry of its request).
    pub(crate) damage: Option<Damage>,
}

impl Tablet {
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
