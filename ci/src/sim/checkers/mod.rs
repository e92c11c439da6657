//! What must hold of a history. Each checker is a pure function of what clients saw; none looks into the node.
//!
//! | file | what it holds |
//! |---|---|
//! | `known` | every change has one version, every version one change; nothing refused is there |
//! | `linear` | per key and per tablet's log, real time agrees with the order of versions; reads are never stale |
//! | `small` | a second opinion on keys with few operations, by search, without the order of versions |
//! | `lost` | at the end each key shows the newest version anybody was told of |
//! | `ranges` | pages and lists are what the log held at their index; batches are seen whole |
//! | `expiry` | nothing is shown at or after its expiry; log time never runs backwards |
//! | `requests` | a compare-and-set follows on what it expects; a failed device takes no writes |
//! | `replicas` | what two nodes hold at one index of a tablet's log is the same; what is chosen stays chosen |
//! | `bounds` | memory is bounded and comes back |

pub mod bounds;
pub mod expiry;
pub mod known;
pub mod linear;
pub mod lost;
pub mod ranges;
pub mod replicas;
pub mod requests;
pub mod sinks;
pub mod small;

use super::history::{History, KeyIndex, Order, Violation};
use super::plan::Mode;
use known::{Known, is_excused};
use shard::limits::Limits;
use std::collections::BTreeMap;

/// What the last, undisturbed part of a run showed.
#[derive(Clone, Debug, Default)]
pub struct Final {
    /// Everything is read back from here on; 0 when it did not come to that.
    pub since: Order,
    /// Keys whose last read showed nothing, and whether the answer was `Corrupt`.
    pub unanswered: BTreeMap<KeyIndex, bool>,
    /// The node is full.
    pub full: bool,
    /// Status texts of the node with its clients gone.
    pub status: Vec<String>,
}

/// What a history is judged by, besides itself.
#[derive(Clone, Copy, Debug)]
pub struct Law<'a> {
    /// What the disk may do.
    pub mode: Mode,
    /// Tablets that lost what the format's one exception allows, one bit each.
    pub excused: u64,
    /// Shards of the node.
    pub core_count: u16,
    /// Bounds of its cores.
    pub limits: &'a Limits,
    /// A replay may have laid a memtable out larger, for a life.
    pub memtables_grew: bool,
}

/// Everything that is wrong with a history.
#[must_use]
pub fn judge(history: &History, last: &Final, law: Law<'_>) -> Vec<Violation> {
    let excused = law.excused;
    let counts =
        |trouble: &&(Option<_>, Violation)| trouble.0.is_none_or(|tablet| !is_excused(excused, tablet));
    let mut out: Vec<Violation> =
        history.troubles.iter().filter(counts).map(|trouble| trouble.1.clone()).collect();
    let known = Known::new(history, excused);
    out.extend(known.violations.iter().cloned());
    out.extend(linear::check(history, &known, excused));
    out.extend(small::check(history, &known, excused));
    out.extend(ranges::check(history, &known, excused));
    out.extend(expiry::check(history, &known, excused));
    out.extend(requests::check(history, &known, excused, law.core_count));
    out.extend(replicas::check(history));
    for status in &last.status {
        out.extend(bounds::check(status, law.limits, law.memtables_grew));
    }
    if last.since > 0 {
        // A lying disk may make the node say that it cannot prove what a record is; nothing else is an answer.
        for (key, corrupt) in &last.unanswered {
            if !(*corrupt && law.mode == Mode::Lying) {
                let what = if *corrupt { "answered `Corrupt`" } else { "not answered" };
                let text = format!("{} is {what} at the end", history.keys.name(*key));
                out.push(Violation { checker: "lost", text });
            }
        }
        out.extend(lost::check(history, &known, excused, last.since, &last.unanswered));
    }
    out
}
