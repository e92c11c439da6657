//! `thermocline del`: deletes one record.

use std::ffi::OsString;

use clap::Args;
use layout::key::Key;

use crate::client::{Endpoint, InSpace, failure, stream, time_argument};
use crate::failure::{Exit, Failure};
use crate::record::say_written;

/// Arguments of `del`.
#[derive(Debug, Args)]
pub(crate) struct DelArgs {
    /// Whose record
    stream: OsString,
    /// When: microseconds, RFC 3339, or A,B for the hour of A with minute B
    #[arg(value_parser = time_argument)]
    time: u64,
    #[command(flatten)]
    space: InSpace,
    #[command(flatten)]
    endpoint: Endpoint,
}

/// `thermocline del`. Deleting what is absent is fine.
///
/// # Errors
/// The node cannot be asked.
pub(crate) fn run(args: &DelArgs) -> Result<Exit, Failure> {
    let stream = stream(&args.stream)?;
    let key = Key { space: args.space.space(), stream: &stream, time: args.time };
    let written = args.endpoint.connect()?.delete(key).map_err(|error| failure(&error))?;
    say_written(&args.endpoint, key, written.version)
}
