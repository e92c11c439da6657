//! Request ids of a client: what makes a retry harmless.
//!
//! Owns the client's number, its sequence and the log times it has seen. Must never give the same sequence twice, and never
//! draw its own random number: the caller gives 64 random bits at its start. Invariant: an id is made once per write
//! and kept for all its retries; a new id for a retry would write twice.

use layout::units::{LogTime, RequestId, TABLET_COUNT, TabletIndex};

/// Makes the request ids of one client.
#[derive(Debug, Clone)]
pub struct RequestIds {
    client: u64,
    sequence: u64,
    /// By group * 64 + tablet: the newest log time any answer carried.
    log_times: Vec<LogTime>,
}

impl RequestIds {
    /// `random` are 64 random bits that no other client has; 0 stands for "no client" and becomes 1.
    pub fn new(random: u64) -> RequestIds {
        RequestIds { client: random.max(1), sequence: 0, log_times: Vec::new() }
    }

    /// The client's number, for its hello.
    pub fn client(&self) -> u64 {
        self.client
    }

    /// The id of a new write to a tablet of a group.
    pub fn next(&mut self, group: u16, tablet: TabletIndex) -> RequestId {
        self.sequence += 1;
        let log_time = self.log_time(group, tablet).0;
        RequestId { client: self.client, log_time, sequence: self.sequence }
    }

    /// An answer carried this log time of the tablet; older ones change nothing.
    pub fn learn(&mut self, group: u16, tablet: TabletIndex, log_time: LogTime) {
        let index = usize::from(group) * TABLET_COUNT + tablet.index();
        if index >= self.log_times.len() {
            self.log_times.resize((usize::from(group) + 1) * TABLET_COUNT, LogTime(0));
        }
        self.log_times[index] = self.log_times[index].max(log_time);
    }

    /// The newest log time known of the tablet; 0 = none.
    pub fn log_time(&self, group: u16, tablet: TabletIndex) -> LogTime {
        let index = usize::from(group) * TABLET_COUNT + tablet.index();
        self.log_times.get(index).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ_and_carry_the_newest_log_time_of_their_tablet() {
        let mut ids = RequestIds::new(7);
        let (one, two) = (TabletIndex::new(1).unwrap(), TabletIndex::new(2).unwrap());
        assert_eq!(ids.next(0, one), RequestId { client: 7, log_time: 0, sequence: 1 });
        ids.learn(0, one, LogTime(50));
        ids.learn(0, one, LogTime(40));
        ids.learn(3, one, LogTime(60));
        assert_eq!(ids.next(0, one), RequestId { client: 7, log_time: 50, sequence: 2 });
        assert_eq!(ids.next(0, two).log_time, 0);
        assert_eq!(ids.next(3, one), RequestId { client: 7, log_time: 60, sequence: 4 });
        assert_eq!(RequestIds::new(0).client(), 1, "0 would be refused by every server");
    }
}
