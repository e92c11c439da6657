//! What a client can ask of one key, one stream or the node.

use std::rc::Rc;

use layout::key::Key;
use layout::units::{LogTime, STREAM_BYTES_MAX, Space, TabletIndex, VALUE_BYTES_MAX, Version};

use super::Client;
use super::call::{Finished, Target};
use super::error::ClientError;
use super::redirect::Got;
use crate::outcome::Outcome;
use crate::reply::{Answer, Written};
use crate::request::{BatchBody, CompareAndSet, Delete, Map, Put, Request};
use crate::route::{ClusterMap, Place};

/// A record that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its version.
    pub version: Version,
    /// When it expires by log time, µs; 0 = never.
    pub expiry: u64,
    /// Its value.
    pub value: Vec<u8>,
    /// Log time of the tablet when it was read.
    pub log_time: LogTime,
}

/// The answer to "is there another version?".
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Newer {
    /// No: the current version equals the one asked about.
    NotModified,
    /// The key has no record.
    Absent,
    /// Yes, this one.
    Found(Found),
}

/// What a compare-and-set did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compared {
    /// It wrote.
    Written(Written),
    /// The version was another one; nothing was written.
    Mismatch {
        /// The current version when the replica knew it; 0 = absent.
        current: Option<Version>,
    },
}

/// A batch that was applied as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchWritten {
    /// Version of operation 0, and whether this answered a retry. Operation i has that version + i.
    pub first: Written,
    /// How many operations.
    pub count: u32,
}

pub(super) fn check_stream(stream: &[u8]) -> Result<(), ClientError> {
    if stream.is_empty() || stream.len() > STREAM_BYTES_MAX {
        let what = format!("a stream has 1 to {STREAM_BYTES_MAX} bytes, this one {}", stream.len());
        return Err(ClientError::Input { what: Rc::from(what) });
    }
    Ok(())
}

fn check_value(value: &[u8]) -> Result<(), ClientError> {
    if value.len() > VALUE_BYTES_MAX {
        let what = format!("a value has at most {VALUE_BYTES_MAX} bytes, this one {}", value.len());
        return Err(ClientError::Input { what: Rc::from(what) });
    }
    Ok(())
}

fn target(place: Place) -> Target {
    Target::Tablet { group: place.group, tablet: place.tablet }
}

pub(super) fn found(finished: &Finished) -> Option<Found> {
    let reply = finished.reply();
    match reply.answer {
        Answer::Record { version, expiry, value } => {
            Some(Found { version, expiry, value: value.to_vec(), log_time: reply.log_time })
        }
        _ => None,
    }
}

impl Client {
    pub(super) fn placed(&self, space: Space, stream: &[u8]) -> Result<Target, ClientError> {
        check_stream(stream)?;
        Ok(target(self.place(space, stream)))
    }

    /// The record of a key; None when it has none.
    ///
    /// # Errors
    /// As every call: [`ClientError`].
    pub async fn get(&self, key: Key<'_>) -> Result<Option<Found>, ClientError> {
        match self.got(key, None).await? {
            Got::Found(found) => Ok(Some(found)),
            Got::Absent | Got::NotModified => Ok(None),
        }
    }

    /// The record of a key if its version is not `known` (0: if it is no longer absent).
    ///
    /// # Errors
    /// As every call: [`ClientError`].
    pub async fn get_if_newer(&self, key: Key<'_>, known: Version) -> Result<Newer, ClientError> {
        Ok(match self.got(key, Some(known)).await? {
            Got::Found(found) => Newer::Found(found),
            Got::Absent => Newer::Absent,
            Got::NotModified => Newer::NotModified,
        })
    }

    /// Writes a record. `expiry` is in µs since the epoch, 0 = never.
    ///
    /// # Errors
    /// As every call; [`ClientError::UnknownOutcome`] when it may or may not have happened.
    pub async fn put(&self, key: Key<'_>, expiry: u64, value: &[u8]) -> Result<Written, ClientError> {
        check_stream(key.stream)?;
        check_value(value)?;
        let place = self.place(key.space, key.stream);
        let id = self.next_id(place.group, place.tablet);
        self.written(target(place), Request::Put(Put { id, key, expiry, value })).await
    }

    /// Deletes a record; deleting an absent one is fine.
    ///
    /// # Errors
    /// As every call; [`ClientError::UnknownOutcome`] when it may or may not have happened.
    pub async fn delete(&self, key: Key<'_>) -> Result<Written, ClientError> {
        check_stream(key.stream)?;
        let place = self.place(key.space, key.stream);
        let id = self.next_id(place.group, place.tablet);
        self.written(target(place), Request::Delete(Delete { id, key })).await
    }

    async fn written(&self, target: Target, request: Request<'_>) -> Result<Written, ClientError> {
        let finished = self.call(target, request).await?;
        match finished.answer() {
            Answer::Written(written) => Ok(written),
            _ => Err(finished.error()),
        }
    }

    /// Writes a record when its version is `expected` (0: when it is absent).
    ///
    /// # Errors
    /// As every call; [`ClientError::UnknownOutcome`] when it may or may not have happened.
    pub async fn cas(
        &self,
        key: Key<'_>,
        expected: Version,
        expiry: u64,
        value: &[u8],
    ) -> Result<Compared, ClientError> {
        check_stream(key.stream)?;
        check_value(value)?;
        let place = self.place(key.space, key.stream);
        let id = self.next_id(place.group, place.tablet);
        let request = Request::CompareAndSet(CompareAndSet { id, key, expected, expiry, value });
        let finished = self.call(target(place), request).await?;
        match finished.answer() {
            Answer::Written(written) => Ok(Compared::Written(written)),
            Answer::Not(Outcome::VersionMismatch { current }) => Ok(Compared::Mismatch { current }),
            _ => Err(finished.error()),
        }
    }

    /// Applies the operations of one stream, all or none.
    ///
    /// # Errors
    /// As every call; [`ClientError::UnknownOutcome`] when they may or may not have happened.
    pub async fn batch(
        &self,
        space: Space,
        stream: &[u8],
        operations: &BatchBody,
    ) -> Result<BatchWritten, ClientError> {
        check_stream(stream)?;
        let place = self.place(space, stream);
        let id = self.next_id(place.group, place.tablet);
        let empty = || ClientError::Input { what: "a batch has at least one operation".into() };
        let request = Request::Batch(operations.request(id, space, stream).ok_or_else(empty)?);
        let finished = self.call(target(place), request).await?;
        match finished.answer() {
            Answer::BatchWritten { first, count } => Ok(BatchWritten { first, count }),
            _ => Err(finished.error()),
        }
    }

    /// The cluster map of the node the client first connected to, fetched anew.
    ///
    /// # Errors
    /// As every call: [`ClientError`].
    pub async fn map(&self) -> Result<ClusterMap, ClientError> {
        let finished = self.call(Target::Home, Request::Map(Map { known_epoch: 0 })).await?;
        self.decoded_map(&finished)
    }

    /// Says anew where reads go; what holds then. When that is other than what was said, somebody else said something meanwhile.
    ///
    /// # Errors
    /// As every call: [`ClientError`]; a map that differs from the nodes' own in more than its reads is a bad request.
    ///
    /// # Panics
    /// When the map is not valid.
    pub async fn set_map(&self, map: &ClusterMap) -> Result<ClusterMap, ClientError> {
        // Any node of the store takes it, and one that is down is passed over.
        let tablet = TabletIndex::all().next().expect("there are tablets");
        self.say_map(Target::Tablet { group: 0, tablet }, map).await
    }

    /// The same to one node of the map.
    ///
    /// # Errors
    /// As [`Client::set_map`].
    ///
    /// # Panics
    /// When the map is not valid.
    pub async fn set_map_at(&self, node: u32, map: &ClusterMap) -> Result<ClusterMap, ClientError> {
        self.say_map(Target::Node(node), map).await
    }

    async fn say_map(&self, target: Target, map: &ClusterMap) -> Result<ClusterMap, ClientError> {
        let mut bytes = Vec::with_capacity(map.encoded_bytes());
        map.encode(&mut bytes);
        let finished = self.call(target, Request::SetMap(&bytes)).await?;
        self.decoded_map(&finished)
    }

    fn decoded_map(&self, finished: &Finished) -> Result<ClusterMap, ClientError> {
        match finished.answer() {
            Answer::Map(bytes) => ClusterMap::decode(bytes)
                .map_err(|cause| ClientError::WrongMap { address: self.home().address, cause }),
            _ => Err(finished.error()),
        }
    }

    /// Counters of the node the client first connected to, as JSON text.
    ///
    /// # Errors
    /// As every call: [`ClientError`].
    pub async fn status(&self) -> Result<String, ClientError> {
        self.text(Target::Home, Request::Status).await
    }

    /// Has the replicas of the tablets compared that the node the client first connected to is first of; its counters as JSON
    /// text.
    ///
    /// # Errors
    /// As every call: [`ClientError`].
    pub async fn verify(&self) -> Result<String, ClientError> {
        self.text(Target::Home, Request::Verify).await
    }

    /// The keys that a node of the map, a cache too, was asked for most in the last window that is over, as JSON text
    /// (PROTOCOL.md, section 7).
    ///
    /// # Errors
    /// As every call: [`ClientError`].
    pub async fn hot_at(&self, node: u32) -> Result<String, ClientError> {
        self.text(Target::Node(node), Request::Hot).await
    }

    async fn text(&self, target: Target, request: Request<'_>) -> Result<String, ClientError> {
        let finished = self.call(target, request).await?;
        match finished.answer() {
            Answer::Status(text) => Ok(text.to_owned()),
            _ => Err(finished.error()),
        }
    }

    /// Sends `echo` to the node the client first connected to and takes it back.
    ///
    /// # Errors
    /// As every call: [`ClientError`].
    pub async fn ping(&self, echo: &[u8]) -> Result<(), ClientError> {
        let finished = self.call(Target::Home, Request::Ping(echo)).await?;
        match finished.answer() {
            Answer::Echo(back) => {
                let what = || ClientError::Input { what: "the echo came back changed".into() };
                if back == echo { Ok(()) } else { Err(what()) }
            }
            _ => Err(finished.error()),
        }
    }
}
