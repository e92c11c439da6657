//! `thermocline mget`: many records by their keys.

use std::ffi::OsString;

use clap::Args;
use layout::key::Key;
use layout::units::Version;

use crate::client::{Reading, failure, stream, time_argument};
use crate::failure::{Exit, Failure};
use crate::output::{Output, time_text};
use crate::record::{outcome_line, printable, record_line};

/// Keys that one `mget` asks for.
const MGET_KEY_COUNT_MAX: usize = 4096;

/// Arguments of `mget`.
#[derive(Debug, Args)]
pub(crate) struct MgetArgs {
    /// Keys: STREAM TIME STREAM TIME …
    #[arg(required = true, num_args = 2.., value_names = ["STREAM", "TIME"])]
    keys: Vec<OsString>,
    #[command(flatten)]
    reading: Reading,
}

/// `thermocline mget`: the records of many keys in the order asked; no when one of them is not found.
///
/// # Errors
/// The node cannot be asked, or a record is damaged.
pub(crate) fn run(args: &MgetArgs) -> Result<Exit, Failure> {
    let (pairs, rest) = args.keys.as_chunks::<2>();
    if !rest.is_empty() {
        return Err(Failure::wrong_use("the last stream has no time", "give STREAM TIME for each key"));
    }
    if pairs.len() > MGET_KEY_COUNT_MAX {
        let what = format!("{} keys, at most {MGET_KEY_COUNT_MAX} at once", pairs.len());
        return Err(Failure::wrong_use(what, "ask in several goes"));
    }
    let mut owned = Vec::with_capacity(pairs.len());
    for [name, time] in pairs {
        let time = time_argument(&time.to_string_lossy()).map_err(|wrong| Failure::wrong_use(wrong, ""))?;
        owned.push((stream(name)?, time));
    }
    let space = args.reading.space.space();
    let keys: Vec<Key<'_>> = owned.iter().map(|(stream, time)| Key { space, stream, time: *time }).collect();
    let client = args.reading.endpoint.connect()?;
    let asked = client.client().with_local_reads(args.reading.local);
    let answers = client.run(asked.mget(&keys)).map_err(|error| failure(&error))?;
    let mut out = Output::new();
    let mut exit = Exit::Done;
    for (key, answer) in keys.iter().zip(answers) {
        let name = || format!("{} {}", key.stream.escape_ascii(), key.time);
        match answer {
            Ok(Some(found)) if args.reading.endpoint.json => out.bytes(&record_line(*key, &found))?,
            Ok(Some(found)) => {
                let stream = printable(key.stream);
                out.line(&format!("{stream}  {}  {}", time_text(key.time), printable(&found.value)))?;
            }
            Ok(None) => {
                exit = exit.max(Exit::No);
                if args.reading.endpoint.json {
                    out.line(&outcome_line(*key, "NotFound", Version::ABSENT))?;
                } else {
                    crate::output::note!("{}: not found", name());
                }
            }
            Err(outcome) => {
                exit = Exit::Failed;
                if args.reading.endpoint.json {
                    out.line(&outcome_line(*key, outcome.code().name(), Version::ABSENT))?;
                } else {
                    crate::output::note!("{}: {outcome}", name());
                }
            }
        }
    }
    out.finish()?;
    Ok(exit)
}
