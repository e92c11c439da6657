//! `thermocline get`: one record.

use std::ffi::OsString;

use clap::Args;
use layout::key::Key;
use layout::units::Version;
use net::client::Newer;

use crate::client::{Reading, failure, stream, time_argument};
use crate::failure::{Exit, Failure};
use crate::output::Output;
use crate::record::{no, record_line};

/// Arguments of `get`.
#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// Whose record
    stream: OsString,
    /// When: microseconds, RFC 3339, or A,B for the hour of A with minute B
    #[arg(value_parser = time_argument)]
    time: u64,
    /// Only when its version is another one than this; 0 asks whether it is still absent
    #[arg(long, value_name = "VERSION")]
    if_newer: Option<u64>,
    /// Write the value without a line break behind it
    #[arg(long, conflicts_with = "json")]
    raw: bool,
    #[command(flatten)]
    reading: Reading,
}

/// `thermocline get`.
///
/// # Errors
/// The node cannot be asked.
pub(crate) fn run(args: &GetArgs) -> Result<Exit, Failure> {
    let stream = stream(&args.stream)?;
    let key = Key { space: args.reading.space.space(), stream: &stream, time: args.time };
    let client = args.reading.endpoint.connect()?;
    let asked = client.client().with_local_reads(args.reading.local);
    let newer = match args.if_newer {
        Some(version) => client.run(asked.get_if_newer(key, Version(version))),
        None => client.run(asked.get(key)).map(|found| found.map_or(Newer::Absent, Newer::Found)),
    };
    match newer.map_err(|error| failure(&error))? {
        Newer::Found(found) => {
            let mut out = Output::new();
            if args.reading.endpoint.json {
                out.bytes(&record_line(key, &found))?;
            } else {
                out.bytes(&found.value)?;
                out.bytes(if args.raw { b"" } else { b"\n" })?;
            }
            out.finish()?;
            Ok(Exit::Done)
        }
        Newer::Absent => no(&args.reading.endpoint, key, "NotFound", Version::ABSENT, "not found"),
        Newer::NotModified => {
            let version = Version(args.if_newer.unwrap_or(0));
            no(&args.reading.endpoint, key, "NotModified", version, "not modified")
        }
    }
}
