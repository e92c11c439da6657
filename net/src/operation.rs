//! The operations of the protocol and their codes.
//!
//! A code is given once and never reused. Invariant: codes of requests are below 0x80, a reply has the same code
//! with the top bit set. Codes 32 to 42 are for nodes with cold disks, codes from 0x40 on are for nodes among each other: no client sends them.

/// The bit that makes an operation code a reply.
pub const REPLY_BIT: u8 = 0x80;

/// What a frame asks for or answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Operation {
    /// Version, features, authentication, limits: the first frame of a connection.
    Hello = 1,
    /// Echo of the body: for keeping a connection open and for measuring the wire alone.
    Ping = 2,
    /// The record of one key.
    Get = 3,
    /// The records of up to 4096 keys, of any streams.
    MultiGet = 4,
    /// Writes one record.
    Put = 5,
    /// Deletes one record.
    Delete = 6,
    /// Writes one record when its version is the expected one.
    CompareAndSet = 7,
    /// Puts and deletes of one stream, all or none.
    Batch = 8,
    /// Records of one stream in a range of times, forward or backward.
    Scan = 9,
    /// The newest records of one stream.
    Head = 10,
    /// The streams of one tablet, page by page.
    Streams = 11,
    /// The cluster map.
    Map = 12,
    /// Counters of the node as JSON text.
    Status = 13,
    /// Have the replicas of the tablets that this node is first of compared; the answer is that of Status.
    Verify = 14,
    /// Says anew where reads go; the answer is the cluster map that the node has then.
    SetMap = 15,
    /// The keys that the node is asked for most, as JSON text.
    Hot = 16,
    /// Keep a place on a cold disk.
    ColdReserve = 32,
    /// Write a piece of what a place is kept for.
    ColdWrite = 33,
    /// Make it durable and read it back.
    ColdSeal = 34,
    /// Give a place up.
    ColdFree = 35,
    /// One record of a cold disk.
    ColdGet = 36,
    /// Records of a stream on a cold disk.
    ColdScan = 37,
    /// What a cold disk keeps and holds.
    ColdList = 38,
    /// The index of a section.
    ColdIndex = 39,
    /// Blocks of a section as they are stored.
    ColdRead = 40,
    /// What is known of the files of a cold disk.
    ColdFiles = 41,
    /// Bytes of a file as they stand.
    ColdCopy = 42,
    /// The first frame between two nodes: who calls.
    PeerHello = 0x40,
    /// Messages between two nodes.
    PeerBatch = 0x41,
}

impl Operation {
    /// All operations of clients in order of their codes.
    pub const ALL: [Operation; 16] = [
        Operation::Hello,
        Operation::Ping,
        Operation::Get,
        Operation::MultiGet,
        Operation::Put,
        Operation::Delete,
        Operation::CompareAndSet,
        Operation::Batch,
        Operation::Scan,
        Operation::Head,
        Operation::Streams,
        Operation::Map,
        Operation::Status,
        Operation::Verify,
        Operation::SetMap,
        Operation::Hot,
    ];

    /// Those about cold disks, in the order of their codes.
    pub const COLD: [Operation; 11] = [
        Operation::ColdReserve,
        Operation::ColdWrite,
        Operation::ColdSeal,
        Operation::ColdFree,
        Operation::ColdGet,
        Operation::ColdScan,
        Operation::ColdList,
        Operation::ColdIndex,
        Operation::ColdRead,
        Operation::ColdFiles,
        Operation::ColdCopy,
    ];

    /// The code of a request of this operation.
    #[inline]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The operation of a request code; None when nobody has it.
    #[inline]
    pub const fn from_code(code: u8) -> Option<Operation> {
        match code {
            1..=16 => Some(Operation::ALL[code as usize - 1]),
            32..=42 => Some(Operation::COLD[code as usize - 32]),
            0x40 => Some(Operation::PeerHello),
            0x41 => Some(Operation::PeerBatch),
            _ => None,
        }
    }

    /// True when it is about a cold disk.
    pub const fn is_of_cold(self) -> bool {
        matches!(self as u8, 32..=42)
    }

    /// True when only nodes say it, to each other.
    pub const fn is_between_nodes(self) -> bool {
        matches!(self, Operation::PeerHello | Operation::PeerBatch)
    }

    /// True when the operation changes records, so that a lost answer means `UnknownOutcome`, not `Timeout`.
    pub const fn is_write(self) -> bool {
        matches!(self, Operation::Put | Operation::Delete | Operation::CompareAndSet | Operation::Batch)
    }

    /// The name in PROTOCOL.md, metrics and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Operation::Hello => "Hello",
            Operation::Ping => "Ping",
            Operation::Get => "Get",
            Operation::MultiGet => "MultiGet",
            Operation::Put => "Put",
            Operation::Delete => "Delete",
            Operation::CompareAndSet => "CompareAndSet",
            Operation::Batch => "Batch",
            Operation::Scan => "Scan",
            Operation::Head => "Head",
            Operation::Streams => "Streams",
            Operation::Map => "Map",
            Operation::Status => "Status",
            Operation::Verify => "Verify",
            Operation::SetMap => "SetMap",
            Operation::Hot => "Hot",
            Operation::ColdReserve => "ColdReserve",
            Operation::ColdWrite => "ColdWrite",
            Operation::ColdSeal => "ColdSeal",
            Operation::ColdFree => "ColdFree",
            Operation::ColdGet => "ColdGet",
            Operation::ColdScan => "ColdScan",
            Operation::ColdList => "ColdList",
            Operation::ColdIndex => "ColdIndex",
            Operation::ColdRead => "ColdRead",
            Operation::ColdFiles => "ColdFiles",
            Operation::ColdCopy => "ColdCopy",
            Operation::PeerHello => "PeerHello",
            Operation::PeerBatch => "PeerBatch",
        }
    }
}

const _: () = {
    let mut index = 0;
    while index < Operation::ALL.len() {
        assert!(Operation::ALL[index].code() as usize == index + 1, "ALL is indexed by code - 1");
        index += 1;
    }
    assert!(index == 16, "from_code knows as many");
    let mut index = 0;
    while index < Operation::COLD.len() {
        assert!(Operation::COLD[index].code() as usize == index + 32, "COLD is indexed by code - 32");
        index += 1;
    }
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_operations_are_one_to_one() {
        let known: Vec<u8> = (0..=255).filter(|&code| Operation::from_code(code).is_some()).collect();
        assert_eq!(known, (1..=16).chain(32..=42).chain(0x40..=0x41).collect::<Vec<u8>>());
        for operation in [Operation::PeerHello, Operation::PeerBatch] {
            assert_eq!(Operation::from_code(operation.code()), Some(operation));
        }
        for operation in Operation::ALL.into_iter().chain(Operation::COLD) {
            assert_eq!(Operation::from_code(operation.code()), Some(operation));
            assert_eq!(operation.code() & REPLY_BIT, 0);
        }
    }
}
