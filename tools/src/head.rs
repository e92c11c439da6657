//! `thermocline head`: the newest records of a stream.

use std::ffi::OsString;

use clap::Args;

use crate::client::{Endpoint, InSpace, failure, stream};
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
    /// Ask one replica for what it has, without asking the others
    #[arg(long)]
    local: bool,
    #[command(flatten)]
    space: InSpace,
    #[command(flatten)]
    endpoint: Endpoint,
}

/// `thermocline head`: the newest records of a stream, newest first.
///
/// # Errors
/// The node cannot be asked.
pub(crate) fn run(args: &HeadArgs) -> Result<Exit, Failure> {
    let stream = stream(&args.stream)?;
    let client = args.endpoint.connect()?;
    let asked = client.client().with_local_reads(args.local);
    let records = client.run(asked.head(args.space.space(), &stream, args.count));
    let mut out = Output::new();
    for record in records.map_err(|error| failure(&error))? {
        show(&mut out, &args.endpoint, args.space, &stream, &record)?;
    }
    out.finish()?;
    Ok(Exit::Done)
}
