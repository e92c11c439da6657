//! `thermocline scan`: the records of a stream in a range of times.

use std::ffi::OsString;

use clap::Args;
use net::client::ScanRange;

use crate::client::{Reading, TimeRange, failure, range_argument, stream};
use crate::failure::{Exit, Failure};
use crate::output::Output;
use crate::record::show;

/// Arguments of `scan`.
#[derive(Debug, Args)]
pub(crate) struct ScanArgs {
    /// Whose records
    stream: OsString,
    /// From when to when: A..B with both ends, each side optional
    #[arg(value_name = "A..B", default_value = "..", value_parser = range_argument)]
    range: TimeRange,
    /// Newest first
    #[arg(long)]
    reverse: bool,
    /// At most so many records
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    #[command(flatten)]
    reading: Reading,
}

/// `thermocline scan`.
///
/// # Errors
/// The node cannot be asked.
pub(crate) fn run(args: &ScanArgs) -> Result<Exit, Failure> {
    let stream = stream(&args.stream)?;
    let client = args.reading.endpoint.connect()?;
    let mut left = args.limit.unwrap_or(u64::MAX);
    let range = ScanRange {
        from: args.range.from,
        to: args.range.to,
        backward: args.reverse,
        page_records: u32::try_from(left).unwrap_or(0),
        ..ScanRange::all(args.reading.space.space(), &stream)
    };
    let mut out = Output::new();
    let mut pages = client.client().with_local_reads(args.reading.local).scan(range);
    while left > 0 {
        let Some(page) = client.run(pages.next()).map_err(|error| failure(&error))? else { break };
        for record in page.records.iter().take(usize::try_from(left).unwrap_or(usize::MAX)) {
            show(&mut out, &args.reading, &stream, record)?;
            left -= 1;
        }
    }
    out.finish()?;
    Ok(Exit::Done)
}
