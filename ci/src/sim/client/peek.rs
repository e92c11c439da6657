//! What one node says, and nobody else: what it holds of a stream, however old, and its status. Sent once, to that node.
//!
//! Must never be written down as something that everybody agrees on: a page read here is judged by the index at which it was
//! read, and by what other nodes hold at that index.

use super::super::history::{Page, StreamIndex};
use super::super::wire::Heard;
use super::Client;
use layout::units::LogIndex;
use net::outcome::Outcome;
use net::request::{Request, Scan};
use std::time::Duration;

/// Why a node showed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unpeeked {
    /// No answer in time.
    Silence,
    /// It says that it cannot, now.
    Refused(Outcome),
}

impl Client {
    /// A page of a stream as `node` holds it, from a time on: the index at which it was read, and where the next begins.
    pub(crate) async fn peek(
        &self,
        node: usize,
        stream: StreamIndex,
        from: u64,
        wait: Duration,
    ) -> Result<(LogIndex, Option<u64>), Unpeeked> {
        let (space, name) = self.stream_name(stream);
        let times = (from, u64::MAX);
        let request = Request::Scan(Scan {
            space,
            stream: &name,
            from,
            to: u64::MAX,
            backward: false,
            local: true,
            record_limit: 0,
            byte_limit: 0,
        });
        let invoked = self.history().tick();
        let answered = self.wire(node).ask(&request, wait).await.map_err(|_lost| Unpeeked::Silence)?;
        let (log_index, resume, list) = match answered.heard {
            Heard::Records { log_index, resume, records } => (log_index, resume, records),
            Heard::Not(outcome) => {
                let tablet = self.history().keys.facts(stream).tablet;
                let fine = matches!(outcome, Outcome::Busy { .. } | Outcome::Timeout | Outcome::NotCurrent);
                if !fine {
                    self.read_refused("a local scan", Some(tablet), &outcome, 1);
                }
                return Err(Unpeeked::Refused(outcome));
            }
            other => panic!("an answer to a scan is no {other:?}"),
        };
        let mut history = self.history();
        let returned = history.tick();
        history.operation_count += 1;
        let mut records = Vec::with_capacity(list.len());
        for (time, came) in list {
            let key = history.keys.key(stream, time);
            if let Some(seen) = history.look(key, came.version, came.expiry, &came.value) {
                records.push((key, seen, came.expiry));
            }
        }
        history.pages.push(Page {
            client: self.number,
            invoked,
            returned,
            at_ns: self.io.now().ns,
            stream,
            times,
            backward: false,
            record_limit: 0,
            log_index,
            log_time: answered.log_time,
            resume,
            local: Some(u16::try_from(node).expect("nodes are few")),
            records,
        });
        Ok((log_index, resume))
    }

    /// Status text of one node.
    pub(crate) async fn status_of(&self, node: usize, wait: Duration) -> Option<String> {
        let answered = self.wire(node).ask(&Request::Status, wait).await.ok()?;
        match answered.heard {
            Heard::Status(text) => Some(text),
            _ => None,
        }
    }
}
