//! What every client verb has in common: where the node is, how to talk to it, and what its errors mean.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use clap::Args;
use layout::units::{STREAM_BYTES_MAX, Space};
use net::client::blocking::{Client, status_without_map};
use net::client::{ClientConfig, ClientError};
use net::outcome::Outcome;

use crate::failure::{Exit, Failure};
use crate::input::time;

/// Options of every client verb.
#[derive(Debug, Clone, Args)]
pub(crate) struct Endpoint {
    /// Where a node listens; several with commas, the first that answers is taken
    #[arg(long, value_name = "HOST:PORT", env = "THERMOCLINE_ENDPOINT", default_value = "127.0.0.1:7420")]
    endpoint: String,
    /// Say it as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// The namespace of a verb that works in one.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct InSpace {
    /// Namespace of the records
    #[arg(long, value_name = "N", default_value_t = 0)]
    space: u16,
}

/// Options of every verb that reads records.
#[derive(Debug, Clone, Args)]
pub(crate) struct Reading {
    /// Ask one replica for what it has, without asking the others
    #[arg(long)]
    pub(crate) local: bool,
    #[command(flatten)]
    pub(crate) space: InSpace,
    #[command(flatten)]
    pub(crate) endpoint: Endpoint,
}

impl InSpace {
    /// The namespace.
    pub(crate) fn space(self) -> Space {
        Space(self.space)
    }
}

impl Endpoint {
    /// Connects.
    ///
    /// # Errors
    /// No node answers there.
    pub(crate) fn connect(&self) -> Result<Client, Failure> {
        self.connect_with(ClientConfig::default())
    }

    /// A node that is named elsewhere.
    pub(crate) fn of(address: &str) -> Endpoint {
        Endpoint { endpoint: address.to_owned(), json: false }
    }

    /// The same options with another node.
    pub(crate) fn at(&self, address: &str) -> Endpoint {
        Endpoint { endpoint: address.to_owned(), ..self.clone() }
    }

    /// Connects with other limits than the usual.
    ///
    /// # Errors
    /// No node answers there.
    pub(crate) fn connect_with(&self, config: ClientConfig) -> Result<Client, Failure> {
        Client::connect(&self.each(), config).map_err(|error| failure(&error))
    }

    /// The counters of a node as JSON, of one that knows no cluster map, too.
    ///
    /// # Errors
    /// No node answers there.
    pub(crate) fn status(&self) -> Result<String, Failure> {
        let config = ClientConfig::default();
        let asked = match Client::connect(&self.each(), config.clone()) {
            // A cold node says so to whoever asks it for a map.
            Err(ClientError::Answer { outcome: Outcome::WrongGroup { .. }, .. }) => {
                status_without_map(&self.each(), &config)
            }
            Err(error) => Err(error),
            Ok(client) => client.status(),
        };
        asked.map_err(|error| failure(&error))
    }

    fn each(&self) -> Vec<&str> {
        self.endpoint.split(',').map(str::trim).collect()
    }
}

/// What an error of the client means for a command.
pub(crate) fn failure(error: &ClientError) -> Failure {
    let exit = match error {
        ClientError::Input { .. } => Exit::WrongUse,
        _ => Exit::Failed,
    };
    // The message says what to do by itself.
    Failure { exit, what: error.to_string(), mend: String::new() }
}

/// A stream from the command line: any bytes.
///
/// # Errors
/// It has not 1 to 128 bytes.
pub(crate) fn stream(text: &OsStr) -> Result<Vec<u8>, Failure> {
    let bytes = text.as_bytes().to_vec();
    if bytes.is_empty() || bytes.len() > STREAM_BYTES_MAX {
        let what = format!("a stream has 1 to {STREAM_BYTES_MAX} bytes, this one {}", bytes.len());
        return Err(Failure::wrong_use(what, "give another name"));
    }
    Ok(bytes)
}

/// A time argument, for clap.
///
/// # Errors
/// What is wrong, and what to do.
pub(crate) fn time_argument(text: &str) -> Result<u64, String> {
    time::parse_any(text).map_err(|wrong| format!("{wrong}; {}", wrong.mend()))
}

/// A range of times, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TimeRange {
    /// First time, microseconds.
    pub(crate) from: u64,
    /// Last time, microseconds.
    pub(crate) to: u64,
}

/// `A..B`, each side optional, for clap.
///
/// # Errors
/// What is wrong, and what to do.
pub(crate) fn range_argument(text: &str) -> Result<TimeRange, String> {
    let (from, to) = text.split_once("..").ok_or("a range is written A..B, each side optional")?;
    let side = |text: &str, open| if text.is_empty() { Ok(open) } else { time_argument(text) };
    let range = TimeRange { from: side(from, 0)?, to: side(to, u64::MAX)? };
    if range.from > range.to { Err("the range ends before it begins".to_owned()) } else { Ok(range) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_have_optional_sides_in_any_form() {
        let range = |text| range_argument(text).map(|range| (range.from, range.to));
        assert_eq!(range("5..7"), Ok((5, 7)));
        assert_eq!(range("5..5"), Ok((5, 5)));
        assert_eq!(range(".."), Ok((0, u64::MAX)));
        assert_eq!(range("..7"), Ok((0, 7)));
        assert_eq!(
            range("2013-01-01T10:00:00Z..2013-01-01T10:00:00Z,15"),
            Ok((1_357_034_400_000_000, 1_357_035_300_000_000))
        );
        assert!(range("7..5").is_err());
        assert!(range("7").is_err());
        assert!(range("x..").unwrap_err().contains("RFC 3339"));
    }

    #[test]
    fn streams_are_any_bytes_of_a_length() {
        assert_eq!(stream(OsStr::from_bytes(&[0xff])).unwrap(), [0xff]);
        assert!(stream(OsStr::new("")).is_err());
        assert!(stream(OsStr::from_bytes(&[b'x'; 129])).is_err());
    }
}
