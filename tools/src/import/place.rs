//! What becomes of one row at the server: put if absent, and what to do when something is there.
//!
//! Must never overwrite unless that was asked for, and never count a row as stored that may not be. Every write is a
//! compare-and-set, so that two imports at once cannot both believe they stored a key.

use std::cell::Cell;
use std::time::Duration;

use ioengine::Instant;
use layout::key::Key;
use layout::units::{Space, Version};
use net::client::{Client, ClientError, Compared};
use net::outcome::Outcome;

use crate::input::{Reason, Refusal, Row};

/// What to do with a row whose key has a record with another value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum OnConflict {
    /// Leave what is there and list the row
    Refuse,
    /// Write the row over it, and list the row
    Overwrite,
    /// Add microseconds to the row's time until its key is free
    Nudge,
}

/// What became of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is a record now that was not there before.
    Stored,
    /// A record with the same value was there.
    Duplicate,
    /// Another value was there; the refusal says whether it still is.
    Conflict(Refusal),
    /// It cannot be a record.
    Refused(Refusal),
    /// The server could not be asked, or could not say.
    Failed(ClientError),
}

/// Microseconds that a row is nudged at most.
const NUDGE_US_MAX: u64 = 1_000_000;
/// How often a row is tried whose write has an unknown outcome, or whose record comes and goes.
const TRY_COUNT_MAX: u32 = 5;

/// How long an import goes on with a node that answers nothing but "busy": as long as any row moves.
#[derive(Debug)]
pub(super) struct Patience {
    bound: Duration,
    moved: Cell<Instant>,
}

impl Patience {
    pub(super) fn new(bound: Duration, now: Instant) -> Patience {
        Patience { bound, moved: Cell::new(now) }
    }

    /// A row's fate is known.
    pub(super) fn moved(&self, now: Instant) {
        self.moved.set(now);
    }

    fn is_left(&self, now: Instant) -> bool {
        now.since(self.moved.get()) < self.bound
    }
}

/// True when the node did nothing because a limit was reached: the same can be asked again.
fn is_busy(error: &ClientError) -> bool {
    match error {
        ClientError::Timeout { cause: Some(cause), .. } => is_busy(cause),
        ClientError::Answer { outcome: Outcome::Busy { .. }, .. }
        | ClientError::Refused { outcome: Outcome::Busy { .. }, .. } => true,
        _ => false,
    }
}

/// Sees to one row.
pub(super) async fn place(client: &Client, row: &Row, on_conflict: OnConflict, patience: &Patience) -> Fate {
    let mut nudged_us = 0;
    loop {
        let time = row.time_us.saturating_add(nudged_us);
        match place_at(client, row, time).await {
            Placed::Stored => return Fate::Stored,
            Placed::Equal => return Fate::Duplicate,
            Placed::Other(version) => match on_conflict {
                OnConflict::Refuse => return conflict(row, version),
                OnConflict::Overwrite => match overwrite(client, row, version).await {
                    Overwritten::Done(fate) => return fate,
                    Overwritten::Changed => {}
                },
                OnConflict::Nudge if nudged_us < NUDGE_US_MAX && time < u64::MAX => nudged_us += 1,
                OnConflict::Nudge => return no_free_time(row),
            },
            Placed::Refused(outcome) => return refused(row, &outcome.to_string()),
            // One tablet can be at a limit for longer than a call lasts while the others go on.
            Placed::Failed(error) if is_busy(&error) && patience.is_left(client.io().now()) => {}
            Placed::Failed(error) => return Fate::Failed(error),
        }
    }
}

enum Placed {
    Stored,
    Equal,
    Other(Version),
    Refused(Outcome),
    Failed(ClientError),
}

/// Puts the row at `time` if nothing is there, else looks what is.
async fn place_at(client: &Client, row: &Row, time: u64) -> Placed {
    let key = Key { space: Space(row.space), stream: &row.stream, time };
    // Set once a write of ours may have happened: an equal value is then taken for it.
    let mut maybe_ours = false;
    for attempt in 1.. {
        match client.cas(key, Version::ABSENT, row.expiry_us, &row.value).await {
            Ok(Compared::Written(_)) => return Placed::Stored,
            Ok(Compared::Mismatch { .. }) => {}
            Err(ClientError::UnknownOutcome { .. }) if attempt < TRY_COUNT_MAX => maybe_ours = true,
            Err(error) => return refusal_or_failure(error),
        }
        match client.get(key).await {
            Ok(Some(found)) if found.value == row.value => {
                return if maybe_ours { Placed::Stored } else { Placed::Equal };
            }
            Ok(Some(found)) => return Placed::Other(found.version),
            // It expired or was deleted meanwhile, or the unknown write did not happen.
            Ok(None) if attempt < TRY_COUNT_MAX => {}
            Ok(None) => return Placed::Failed(changes(row)),
            Err(error) => return refusal_or_failure(error),
        }
    }
    unreachable!("the last attempt returns")
}

fn changes(row: &Row) -> ClientError {
    let what = format!(
        "line {}: the record at this key comes and goes; see who else writes it, then import again",
        row.line
    );
    ClientError::Input { what: what.into() }
}

/// An answer that concerns this record alone refuses the row; anything else ends the import.
fn refusal_or_failure(error: ClientError) -> Placed {
    match error {
        ClientError::Answer {
            outcome: outcome @ (Outcome::BadRequest { .. } | Outcome::TooLarge { .. } | Outcome::Corrupt),
            ..
        } => Placed::Refused(outcome),
        error => Placed::Failed(error),
    }
}

enum Overwritten {
    Done(Fate),
    /// Somebody else wrote meanwhile: look again.
    Changed,
}

async fn overwrite(client: &Client, row: &Row, version: Version) -> Overwritten {
    let key = Key { space: Space(row.space), stream: &row.stream, time: row.time_us };
    let done = match client.cas(key, version, row.expiry_us, &row.value).await {
        Ok(Compared::Written(_)) => Fate::Conflict(Refusal::row(
            row.line,
            Reason::Overwritten,
            format!("{} had another value (version {version})", name(row)),
            "nothing: the row is stored; the value before is gone",
        )),
        Ok(Compared::Mismatch { .. }) => return Overwritten::Changed,
        Err(error) => match refusal_or_failure(error) {
            Placed::Refused(outcome) => refused(row, &outcome.to_string()),
            Placed::Failed(error) => Fate::Failed(error),
            Placed::Stored | Placed::Equal | Placed::Other(_) => unreachable!("an error is one of the two"),
        },
    };
    Overwritten::Done(done)
}

fn name(row: &Row) -> String {
    let space = if row.space == 0 { String::new() } else { format!(" in space {}", row.space) };
    format!("{} at {}{space}", row.stream.escape_ascii(), row.time_us)
}

fn conflict(row: &Row, version: Version) -> Fate {
    Fate::Conflict(Refusal::row(
        row.line,
        Reason::Conflict,
        format!("{} has another value (version {version})", name(row)),
        "import with --on-conflict nudge to keep both, or overwrite to replace it",
    ))
}

fn no_free_time(row: &Row) -> Fate {
    Fate::Conflict(Refusal::row(
        row.line,
        Reason::Conflict,
        format!("{}: no free microsecond within {NUDGE_US_MAX}", name(row)),
        "give the rows times of their own",
    ))
}

fn refused(row: &Row, why: &str) -> Fate {
    let what = format!("{}: {why}", name(row));
    Fate::Refused(Refusal::row(row.line, Reason::Server, what, "mend the row, then import the file again"))
}
