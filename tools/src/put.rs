//! `thermocline put`: writes one record.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use clap::Args;
use layout::key::Key;
use layout::units::{VALUE_BYTES_MAX, Version};
use net::client::Compared;

use crate::client::{Endpoint, InSpace, failure, stream, time_argument};
use crate::failure::{Exit, Failure};
use crate::file;
use crate::record::{no, say_written};
use crate::units::duration_argument;

/// Arguments of `put`.
#[derive(Debug, Args)]
pub(crate) struct PutArgs {
    /// Whose record
    stream: OsString,
    /// When: microseconds, RFC 3339, or A,B for the hour of A with minute B
    #[arg(value_parser = time_argument)]
    time: u64,
    /// The value; - reads it from standard input, @FILE from a file, @@x is the text @x
    value: OsString,
    /// Let it expire after this time, such as "90 days"
    #[arg(long, value_name = "DURATION", value_parser = duration_argument)]
    ttl: Option<std::time::Duration>,
    /// Only when its version is this one; 0: only when it is absent
    #[arg(long, value_name = "VERSION")]
    expect: Option<u64>,
    #[command(flatten)]
    space: InSpace,
    #[command(flatten)]
    endpoint: Endpoint,
}

/// `thermocline put`.
///
/// # Errors
/// The value cannot be read, or the node cannot be asked.
pub(crate) fn run(args: &PutArgs) -> Result<Exit, Failure> {
    let stream = stream(&args.stream)?;
    let value = value(&args.value)?;
    let key = Key { space: args.space.space(), stream: &stream, time: args.time };
    let client = args.endpoint.connect()?;
    let expiry = args.ttl.map_or(0, |ttl| {
        let ttl_us = u64::try_from(ttl.as_micros()).unwrap_or(u64::MAX);
        client.client().io().wall_us().saturating_add(ttl_us)
    });
    let written = match args.expect {
        None => client.put(key, expiry, &value).map_err(|error| failure(&error))?,
        Some(version) => {
            match client.cas(key, Version(version), expiry, &value).map_err(|error| failure(&error))? {
                Compared::Written(written) => written,
                Compared::Mismatch { current } => {
                    let text = match current {
                        Some(current) => {
                            format!("its version is {current}, not {version}; nothing was written")
                        }
                        None => format!("its version is not {version}; nothing was written"),
                    };
                    let current = current.unwrap_or(Version::ABSENT);
                    return no(&args.endpoint, key, "VersionMismatch", current, &text);
                }
            }
        }
    };
    say_written(&args.endpoint, key, written.version)
}

fn value(text: &OsStr) -> Result<Vec<u8>, Failure> {
    let bytes = text.as_encoded_bytes();
    if bytes == b"-" {
        return file::up_to(std::io::stdin(), VALUE_BYTES_MAX)
            .map_err(|error| file::failure("read", Path::new("standard input"), &error));
    }
    match bytes.strip_prefix(b"@") {
        Some(text) if text.starts_with(b"@") => Ok(text.to_vec()),
        Some(path) => file::bytes(Path::new(OsStr::from_bytes(path)), VALUE_BYTES_MAX),
        None => Ok(bytes.to_vec()),
    }
}
