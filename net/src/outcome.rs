//! Request outcomes: their fixed codes and typed details.
//!
//! Owns the codes that stand in byte 0 and 1 of every reply. A code is given once and never reused. Invariant: a code that
//! is not in these tables does not decode, so a client never guesses what happened to its write.

use layout::units::Version;
use thiserror::Error;

/// Declares an enum with fixed byte codes, names for documents and both directions.
macro_rules! coded {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $code:literal, $text:literal;)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum $name {
            $($(#[$doc])* $variant = $code,)+
        }

        impl $name {
            /// All of them, in order of their codes.
            pub const ALL: &[$name] = &[$($name::$variant),+];

            /// The code on the wire.
            pub const fn code(self) -> u8 {
                self as u8
            }

            /// The one with this code; None when nobody has it.
            pub const fn from_code(code: u8) -> Option<$name> {
                match code {
                    $($code => Some($name::$variant),)+
                    _ => None,
                }
            }

            /// The name in PROTOCOL.md, metrics and logs.
            pub const fn name(self) -> &'static str {
                match self {
                    $($name::$variant => stringify!($variant),)+
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(match self {
                    $($name::$variant => $text,)+
                })
            }
        }
    };
}

coded! {
    /// A limit that was reached, in `Busy` and `TooLarge`.
    Limit {
        /// More requests in flight on the connection than agreed in hello.
        InFlight = 1, "requests in flight on the connection";
        /// Connections of the node.
        Connections = 2, "connections of the node";
        /// The ring to the shard that owns the tablet.
        Queue = 3, "requests waiting for the shard";
        /// Memory for records not yet in tables.
        Memory = 4, "memory of the shard for new records";
        /// Entries waiting for the journal.
        Journal = 5, "writes waiting for the journal";
        /// Space on the device; reads and deletes go on.
        Space = 6, "space on the device";
        /// Request ids kept within the horizon.
        RequestIds = 7, "request ids kept";
        /// Buffers for replies.
        ReplyBuffers = 8, "buffers for replies";
        /// Tablets, runs or windows: a counted table is full.
        Tables = 9, "tables of the tablet";
        /// The shard is still reading its journal.
        Starting = 10, "a start that still reads its journal";
        /// The node drains before it stops.
        Draining = 11, "a node that is being stopped";
        /// Requests of this client per second.
        Rate = 12, "requests per second";
        /// The device under the journal has failed; reads go on, writes need a restart.
        Device = 13, "a device that has failed and needs a restart";
        /// Bytes of a frame body, as agreed in hello.
        Frame = 32, "bytes of a frame";
        /// Bytes of a value (1 MiB).
        Value = 33, "bytes of a value";
        /// Operations of a batch, keys of a multi-get, records or streams of a page (4096).
        Operations = 34, "operations of a request";
        /// Bytes or operations of a log entry.
        Entry = 35, "bytes of a log entry";
    }
}

coded! {
    /// What is wrong with a request.
    Why {
        /// The operation code is not known.
        UnknownOperation = 1, "the operation code is not known";
        /// The body ends before this field.
        Short = 2, "the body ends too early";
        /// The body goes on after its last field.
        Trailing = 3, "the body has bytes after its end";
        /// A stream has 1 to 128 bytes.
        Stream = 4, "a stream has 1 to 128 bytes";
        /// Flags that are not defined, or not for this operation.
        Flags = 5, "a flag is not defined here";
        /// Reserved bytes are zero.
        Reserved = 6, "a reserved field is not zero";
        /// Further in the future than log time + 1 day.
        Time = 7, "the time is too far in the future";
        /// A range has from <= to.
        Range = 8, "the range ends before it begins";
        /// A count of zero, or one that does not fit the body.
        Count = 9, "the count is zero or does not fit the body";
        /// The kind of a batch operation is put or delete.
        Kind = 10, "the kind of operation is not known";
        /// `value_bytes` is not what the body holds.
        ValueBytes = 11, "the length of the value does not fit the body";
        /// A version where none belongs, or one that cannot be.
        Version = 12, "a version stands where none belongs";
        /// The body's checksum is wrong.
        BodyChecksum = 13, "the checksum of the body is wrong";
        /// The protocol version is not spoken here.
        ProtocolVersion = 14, "the protocol version is not spoken here";
        /// The first request of a connection is Hello.
        HelloFirst = 15, "the first request is Hello";
        /// Hello is sent once.
        HelloAgain = 16, "Hello is sent once";
        /// A client sends requests, not replies.
        NotARequest = 17, "a reply was sent to a server";
        /// A request id has a client and a sequence that are not zero.
        RequestId = 18, "a request id needs a client and a sequence";
        /// A tablet is 0 to 63.
        Tablet = 19, "a tablet is 0 to 63";
        /// The cluster is another one.
        Cluster = 20, "this node belongs to another cluster";
        /// A limit in hello is below its minimum.
        HelloLimits = 21, "a limit asked for is too small";
        /// The authentication method is not known.
        Method = 22, "the authentication method is not known";
        /// Header flags that are not defined.
        HeaderFlags = 23, "a flag of the frame header is not defined";
        /// A cluster map that cannot be, or that differs from the node's in more than where reads go.
        Map = 24, "the cluster map cannot be, or differs in more than where reads go";
        /// No cold disk of this number is here.
        Disk = 25, "no cold disk of this group and number is here";
        /// A place on a cold disk that cannot be.
        Place = 26, "the place on the cold disk cannot be";
    }
}

coded! {
    /// The code of an outcome: byte 0 of every reply body.
    OutcomeCode {
        /// Done; what follows depends on the operation.
        Ok = 1, "ok";
        /// The key has no record.
        NotFound = 2, "not found";
        /// The current version equals the one asked about.
        NotModified = 3, "not modified";
        /// The record lies on cold disks: where. Only to a Get with REDIRECT.
        Redirect = 4, "it lies elsewhere";
        /// Another section stands there, or none: of cold disks only.
        Moved = 5, "moved";
        /// The version is not the expected one; nothing was written.
        VersionMismatch = 6, "the version is another one";
        /// A limit is reached; nothing was done.
        Busy = 7, "busy";
        /// This replica is behind; ask the next one.
        NotCurrent = 8, "this replica is behind";
        /// The bucket belongs to another group.
        WrongGroup = 9, "the bucket belongs to another group";
        /// The request or its answer is over a limit.
        TooLarge = 10, "too large";
        /// The request is wrong.
        BadRequest = 11, "bad request";
        /// Authentication is missing or wrong.
        Unauthorized = 12, "unauthorized";
        /// The record cannot be read: its bytes are damaged.
        Corrupt = 13, "damaged";
        /// The write may or may not have happened.
        UnknownOutcome = 14, "the write may or may not have happened";
        /// The deadline passed; a read, so nothing happened.
        Timeout = 15, "the deadline passed";
    }
}

/// An outcome without a result: everything but `Ok`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Outcome {
    /// The key has no record (never written, deleted or expired).
    #[error("not found")]
    NotFound,
    /// The current version equals the one asked about; absent (0) counts as a version.
    #[error("not modified")]
    NotModified,
    /// The place on a cold disk belongs to something else, or to nothing; ask the store again.
    #[error("another section stands there, or none; ask the store again")]
    Moved,
    /// The version is not the expected one; nothing was written.
    #[error("the current version is {}, not the expected one", current.map_or("unknown".to_owned(), |v| v.to_string()))]
    VersionMismatch {
        /// The current version when the replica knows it.
        current: Option<Version>,
    },
    /// A limit is reached; nothing was done. Try again after the hint.
    #[error("busy: {limit}; try again in {hint_ms} ms")]
    Busy {
        /// Which limit.
        limit: Limit,
        /// When to try again, milliseconds.
        hint_ms: u32,
    },
    /// This replica is behind; ask the next one.
    #[error("this replica is behind; ask the next one")]
    NotCurrent,
    /// The bucket belongs to another group.
    #[error("the bucket belongs to another group in map epoch {epoch}; fetch the map")]
    WrongGroup {
        /// Epoch of the map that says so.
        epoch: u32,
    },
    /// The request, or its answer, is over a limit.
    #[error("too large: {limit}")]
    TooLarge {
        /// Which limit.
        limit: Limit,
    },
    /// The request is wrong; sending it again will not help.
    #[error("bad request: {why} (byte {at} of the body)")]
    BadRequest {
        /// What is wrong.
        why: Why,
        /// Where in the request's body, bytes.
        at: u32,
    },
    /// Authentication is missing or wrong.
    #[error("unauthorized")]
    Unauthorized,
    /// The record cannot be read: its bytes, or log entries that might hold it, are damaged.
    #[error("damaged: this replica cannot prove what the record is")]
    Corrupt,
    /// The write may or may not have happened.
    #[error("the write may or may not have happened")]
    UnknownOutcome,
    /// `UnknownOutcome` because the request id is from before the ids that are kept: this sending applied nothing, an
    /// earlier one may have. Who sent the id once takes a new one with the reply's log time.
    #[error("the request id is too old to tell whether an earlier sending of the write happened")]
    TooOld,
    /// The deadline passed; nothing happened.
    #[error("the deadline passed")]
    Timeout,
}

impl Outcome {
    /// The code in byte 0 of the reply.
    pub const fn code(&self) -> OutcomeCode {
        match self {
            Outcome::NotFound => OutcomeCode::NotFound,
            Outcome::NotModified => OutcomeCode::NotModified,
            Outcome::Moved => OutcomeCode::Moved,
            Outcome::VersionMismatch { .. } => OutcomeCode::VersionMismatch,
            Outcome::Busy { .. } => OutcomeCode::Busy,
            Outcome::NotCurrent => OutcomeCode::NotCurrent,
            Outcome::WrongGroup { .. } => OutcomeCode::WrongGroup,
            Outcome::TooLarge { .. } => OutcomeCode::TooLarge,
            Outcome::BadRequest { .. } => OutcomeCode::BadRequest,
            Outcome::Unauthorized => OutcomeCode::Unauthorized,
            Outcome::Corrupt => OutcomeCode::Corrupt,
            Outcome::UnknownOutcome | Outcome::TooOld => OutcomeCode::UnknownOutcome,
            Outcome::Timeout => OutcomeCode::Timeout,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_decode_to_themselves_and_others_to_nothing() {
        for code in 0..=255u8 {
            if let Some(limit) = Limit::from_code(code) {
                assert_eq!(limit.code(), code);
            }
            if let Some(why) = Why::from_code(code) {
                assert_eq!(why.code(), code);
            }
            if let Some(outcome) = OutcomeCode::from_code(code) {
                assert_eq!(outcome.code(), code);
            }
        }
        assert_eq!(Limit::ALL.len(), (0..=255).filter(|&c| Limit::from_code(c).is_some()).count());
        assert_eq!(Why::ALL.len(), (0..=255).filter(|&c| Why::from_code(c).is_some()).count());
        assert_eq!(
            OutcomeCode::ALL.len(),
            (0..=255).filter(|&c| OutcomeCode::from_code(c).is_some()).count()
        );
        assert_eq!(OutcomeCode::from_code(0), None, "zeroed bytes are no answer");
    }
}
