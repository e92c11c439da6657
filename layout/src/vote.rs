//! What a replica of a tablet remembers of its log's consensus, in bytes: ballots, names of values, votes, the state.
//!
//! Owns their bytes, on disk and between nodes alike. Must never decide what a vote means (that is the crate `paxos`'s, whose
//! types these are). Invariant: what decodes encodes to the same bytes again; an incarnation takes 4 bytes, as everywhere.

use crate::field::{Corrupt, Field, Table, byte_table};
use paxos::{Accepted, Ballot, Chosen, Incarnation, LogIndex, MEMBERS_MAX, Node, State, ValueId, Vote};

/// Bytes of a value's name.
pub const VALUE_ID_BYTES: usize = 16;
/// Bytes of a ballot.
pub const BALLOT_BYTES: usize = 12;
/// Bytes of a replica's state.
pub const STATE_BYTES: usize = 88;
/// Bytes of the incarnations known of all members.
pub(crate) const KNOWN_BYTES: usize = 4 * MEMBERS_MAX;

const FLAG_VOTER: u8 = 1;
const FLAG_ACCEPTED: u8 = 2;

byte_table! {
    /// Byte table of a value's name.
    VALUE_ID_TABLE = "value id", VALUE_ID_BYTES;
    V_SEQUENCE = "sequence", 0, 8;
    V_INCARNATION = "incarnation", 8, 4;
    V_NODE = "node", 12, 1;
    V_RESERVED = "reserved", 13, 3;
}

byte_table! {
    /// Byte table of a ballot.
    BALLOT_TABLE = "ballot", BALLOT_BYTES;
    B_ROUND = "round", 0, 4;
    B_INCARNATION = "incarnation", 4, 4;
    B_NODE = "node", 8, 1;
    B_RESERVED = "reserved", 9, 3;
}

byte_table! {
    /// Byte table of a replica's state.
    STATE_TABLE = "replica state", STATE_BYTES;
    S_KNOWN = "known", 0, 20;
    S_FLAGS = "flags", 20, 1;
    S_RESERVED = "reserved", 21, 3;
    S_CHOSEN_INDEX = "chosen_index", 24, 8;
    S_CHOSEN_VALUE = "chosen_value", 32, 16;
    S_PROMISED = "promised", 48, 12;
    S_ACCEPTED_BALLOT = "accepted_ballot", 60, 12;
    S_ACCEPTED_VALUE = "accepted_value", 72, 16;
}

fn four(incarnation: Incarnation) -> [u8; 4] {
    u32::try_from(incarnation.0).expect("starts are counted with 32 bits").to_le_bytes()
}

/// The bytes of a value's name.
#[must_use]
pub fn encode_value_id(value: ValueId) -> [u8; VALUE_ID_BYTES] {
    let mut bytes = [0; VALUE_ID_BYTES];
    V_SEQUENCE.put(&mut bytes, value.sequence.to_le_bytes());
    V_INCARNATION.put(&mut bytes, four(value.incarnation));
    V_NODE.put(&mut bytes, [value.node.0]);
    bytes
}

/// A value's name; `None` when it names no member.
#[must_use]
pub fn decode_value_id(bytes: &[u8; VALUE_ID_BYTES]) -> Option<ValueId> {
    let node = V_NODE.u8(bytes);
    (usize::from(node) < MEMBERS_MAX && V_RESERVED.is_zero(bytes)).then(|| ValueId {
        node: Node(node),
        incarnation: Incarnation(u64::from(V_INCARNATION.u32(bytes))),
        sequence: V_SEQUENCE.u64(bytes),
    })
}

pub(crate) fn encode_ballot(ballot: Ballot) -> [u8; BALLOT_BYTES] {
    let mut bytes = [0; BALLOT_BYTES];
    B_ROUND.put(&mut bytes, ballot.round.to_le_bytes());
    B_INCARNATION.put(&mut bytes, four(ballot.incarnation));
    B_NODE.put(&mut bytes, [ballot.node.0]);
    bytes
}

pub(crate) fn decode_ballot(bytes: &[u8; BALLOT_BYTES]) -> Option<Ballot> {
    let node = B_NODE.u8(bytes);
    (usize::from(node) < MEMBERS_MAX && B_RESERVED.is_zero(bytes)).then(|| Ballot {
        round: B_ROUND.u32(bytes),
        node: Node(node),
        incarnation: Incarnation(u64::from(B_INCARNATION.u32(bytes))),
    })
}

pub(crate) fn encode_known(known: [Incarnation; MEMBERS_MAX]) -> [u8; KNOWN_BYTES] {
    let mut bytes = [0; KNOWN_BYTES];
    for (to, from) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(known) {
        *to = four(from);
    }
    bytes
}

pub(crate) fn decode_known(bytes: &[u8; KNOWN_BYTES]) -> [Incarnation; MEMBERS_MAX] {
    let (chunks, _) = bytes.as_chunks::<4>();
    std::array::from_fn(|place| Incarnation(u64::from(u32::from_le_bytes(chunks[place]))))
}

/// The bytes of a replica's state.
#[must_use]
pub fn encode_state(state: &State) -> [u8; STATE_BYTES] {
    let mut bytes = [0; STATE_BYTES];
    let accepted = state.vote.accepted;
    let flags = (u8::from(state.voter) * FLAG_VOTER) | (u8::from(accepted.is_some()) * FLAG_ACCEPTED);
    S_KNOWN.put(&mut bytes, encode_known(state.known));
    S_FLAGS.put(&mut bytes, [flags]);
    S_CHOSEN_INDEX.put(&mut bytes, state.chosen.index.0.to_le_bytes());
    S_CHOSEN_VALUE.put(&mut bytes, encode_value_id(state.chosen.value));
    S_PROMISED.put(&mut bytes, encode_ballot(state.vote.promised));
    if let Some(Accepted { ballot, value }) = accepted {
        S_ACCEPTED_BALLOT.put(&mut bytes, encode_ballot(ballot));
        S_ACCEPTED_VALUE.put(&mut bytes, encode_value_id(value));
    }
    bytes
}

/// A replica's state.
///
/// # Errors
/// The first field that cannot be, `at` being the place of the state.
pub fn decode_state(bytes: &[u8; STATE_BYTES], at: u64) -> Result<State, Corrupt> {
    let wrong = |field: Field| STATE_TABLE.corrupt(field, at);
    let flags = S_FLAGS.u8(bytes);
    if flags > FLAG_VOTER | FLAG_ACCEPTED {
        return Err(wrong(S_FLAGS));
    }
    let value = |field: Field| decode_value_id(&field.array(bytes)).ok_or(wrong(field));
    let ballot = |field: Field| decode_ballot(&field.array(bytes)).ok_or(wrong(field));
    let accepted = Accepted { ballot: ballot(S_ACCEPTED_BALLOT)?, value: value(S_ACCEPTED_VALUE)? };
    let state = State {
        chosen: Chosen { index: LogIndex(S_CHOSEN_INDEX.u64(bytes)), value: value(S_CHOSEN_VALUE)? },
        vote: Vote {
            promised: ballot(S_PROMISED)?,
            accepted: (flags & FLAG_ACCEPTED != 0).then_some(accepted),
        },
        known: decode_known(&S_KNOWN.array(bytes)),
        voter: flags & FLAG_VOTER != 0,
    };
    if state.chosen.index.0 >= 1 << 48 {
        return Err(wrong(S_CHOSEN_INDEX));
    }
    // What is absent is zero, and what is reserved, too.
    if encode_state(&state) == *bytes { Ok(state) } else { Err(wrong(S_RESERVED)) }
}

/// The byte tables of this file, for the comparison with FORMAT.md.
pub const TABLES: [Table; 3] = [VALUE_ID_TABLE, BALLOT_TABLE, STATE_TABLE];

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn value(sequence: u64) -> ValueId {
        ValueId { node: Node(2), incarnation: Incarnation(7), sequence }
    }

    pub(crate) fn ballot(round: u32) -> Ballot {
        Ballot { round, node: Node(1), incarnation: Incarnation(9) }
    }

    pub(crate) fn state() -> State {
        State {
            chosen: Chosen { index: LogIndex(41), value: value(3) },
            vote: Vote {
                promised: ballot(5),
                accepted: Some(Accepted { ballot: ballot(4), value: value(4) }),
            },
            known: [1, 2, 3, 4, 5].map(Incarnation),
            voter: true,
        }
    }

    #[test]
    fn states_go_through_bytes_and_back() {
        let empty = Vote { accepted: None, ..state().vote };
        for state in [state(), State::NEW, State { vote: empty, voter: false, ..state() }] {
            assert_eq!(decode_state(&encode_state(&state), 0), Ok(state));
        }
    }

    #[test]
    fn every_byte_is_checked_or_means_something() {
        let good = encode_state(&state());
        for at in 0..STATE_BYTES {
            for bit in 0..8 {
                let mut bytes = good;
                bytes[at] ^= 1 << bit;
                assert_ne!(decode_state(&bytes, 0), Ok(state()), "bit {bit} of byte {at}");
            }
        }
        let mut bytes = good;
        bytes[S_FLAGS.offset] = FLAG_VOTER;
        assert_eq!(decode_state(&bytes, 100).map_err(|wrong| wrong.at), Err(100 + S_RESERVED.offset as u64));
    }
}
