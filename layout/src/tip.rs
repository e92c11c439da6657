//! Tips: the last log index of each tablet of a shard, the body of open and mark records.
//!
//! Owns their bytes. With them a replay can tell which tablets lost an entry in a record that is missing, and which
//! did not. Invariant: a tablet stands at most once, in order, so that equal tips are equal bytes.
//!
//! ```text
//! | tablet, log index | tablet, log index | ..
//! ```

use crate::field::{Corrupt, Table, byte_table};
use crate::units::{LogIndex, TabletIndex};

/// Bytes of one tip.
pub const TIP_BYTES: usize = 9;

byte_table! {
    /// Byte table of a tip.
    TIP_TABLE = "tip", TIP_BYTES;
    T_TABLET = "tablet", 0, 1;
    T_LOG_INDEX = "log_index", 1, 8;
}

/// The bytes of one tip.
#[must_use]
pub fn encode(tablet: TabletIndex, index: LogIndex) -> [u8; TIP_BYTES] {
    let mut bytes = [0; TIP_BYTES];
    T_TABLET.put(&mut bytes, [tablet.get()]);
    T_LOG_INDEX.put(&mut bytes, index.0.to_le_bytes());
    bytes
}

/// Walks the tips of a record's body; ends after the first error.
#[derive(Debug, Clone)]
pub struct TipIter<'a> {
    rest: &'a [u8],
    at: u64,
    last: Option<TabletIndex>,
}

impl<'a> TipIter<'a> {
    /// Starts at the first byte of the body.
    #[must_use]
    pub fn new(body: &'a [u8]) -> TipIter<'a> {
        TipIter { rest: body, at: 0, last: None }
    }

    fn take(&mut self) -> Result<(TabletIndex, LogIndex), Corrupt> {
        let Some((tip, rest)) = self.rest.split_at_checked(TIP_BYTES) else {
            return Err(TIP_TABLE.corrupt(T_LOG_INDEX, self.at));
        };
        let tablet = TabletIndex::new(T_TABLET.u8(tip));
        let Some(tablet) = tablet.filter(|&tablet| self.last.is_none_or(|last| tablet > last)) else {
            return Err(TIP_TABLE.corrupt(T_TABLET, self.at));
        };
        self.last = Some(tablet);
        self.rest = rest;
        self.at += TIP_BYTES as u64;
        Ok((tablet, LogIndex(T_LOG_INDEX.u64(tip))))
    }
}

impl Iterator for TipIter<'_> {
    type Item = Result<(TabletIndex, LogIndex), Corrupt>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let tip = self.take();
        if tip.is_err() {
            self.rest = &[];
        }
        Some(tip)
    }
}

/// The byte tables of this file, for the comparison with FORMAT.md.
pub(crate) const TABLES: [Table; 1] = [TIP_TABLE];

#[cfg(test)]
mod tests {
    use super::*;

    fn body() -> (Vec<(TabletIndex, LogIndex)>, Vec<u8>) {
        let tips: Vec<_> = TabletIndex::all()
            .step_by(3)
            .map(|tablet| (tablet, LogIndex(u64::from(tablet.get()) * 7)))
            .collect();
        let body = tips.iter().flat_map(|&(tablet, index)| encode(tablet, index)).collect();
        (tips, body)
    }

    #[test]
    fn tips_come_back() {
        let (tips, body) = body();
        assert_eq!(TipIter::new(&body).collect::<Result<Vec<_>, _>>().unwrap(), tips);
        assert_eq!(TipIter::new(&[]).count(), 0);
    }

    #[test]
    fn a_wrong_tip_ends_the_walk_by_name() {
        let (_, mut body) = body();
        let first_error = |body: &[u8]| TipIter::new(body).find_map(Result::err).map(|corrupt| corrupt.field);
        assert_eq!(first_error(&body[..body.len() - 1]), Some("log_index"));
        body[TIP_BYTES] = body[0];
        assert_eq!(first_error(&body), Some("tablet"), "the same tablet twice");
        body[TIP_BYTES] = 64;
        assert_eq!(first_error(&body), Some("tablet"), "no such tablet");
        assert_eq!(TipIter::new(&body).count(), 2, "it ends behind the error");
    }
}
