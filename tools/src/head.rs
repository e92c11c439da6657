//! `thermocline head`: the newest records of a stream.

use std::ffi::OsString;

use clap::Args;

use crate::client::{Reading, failure, stream};
use crate::failure::{Exit, Failure};
use crate::output::Output;
use crate::record::show;

/// Arguments of `head`.
#[derive(Debug, Args)]
pub(crate) struct HeadArgs {
    /// Whose records
    stream: OsString,
    /// How many of the newest
    #[arg(short = 'n', long, value_name = "N", default_value_t = 10)]
    count: u32,
    #[command(flatten)]
    reading: Reading,
}

/// `thermocline head`: the newest records of a stream, newest first.
///
/// # Errors
/// The node cannot be asked.
pub(crate) fn run(args: &HeadArgs) -> Result<Exit, Failure> {
    let stream = stream(&args.stream)?;
    let client = args.reading.endpoint.connect()?;
    let asked = client.client().with_local_reads(args.reading.local);
    let records = client.run(asked.head(args.reading.space.space(), &stream, args.count));
    let mut out = Output::new();
    for record in records.map_err(|error| failure(&error))? {
        show(&mut out, &args.reading, &stream, &record)?;
    }
    out.finish()?;
    Ok(Exit::Done)
}
