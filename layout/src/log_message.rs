//! The message between two replicas of a tablet, in bytes: what the crate `paxos` says, and the entries that go with it.
//!
//! Owns its bytes. Must never judge it. Invariant: a message that decodes encodes to the same bytes again, so what is absent
//! is zero.
//!
//! ```text
//! | message 192 | entry header 24, operations: the sender's accepted value | entry header 24, operations: the proposed value |
//! ```

use crate::field::{Corrupt, Field, Table, byte_table};
use crate::log_entry::Entry;
use crate::log_item::read_entry;
use crate::vote::{
    KNOWN_BYTES, VALUE_ID_BYTES, decode_ballot, decode_known, decode_value_id, encode_ballot, encode_known,
    encode_value_id,
};
use paxos::{Accepted, Ballot, Chosen, Incarnation, LogIndex, Message, Proposal, ValueId, View, Vote};

/// Bytes of a message without its entries.
pub const MESSAGE_BYTES: usize = 192;

byte_table! {
    /// Byte table of a message.
    MESSAGE_TABLE = "log message", MESSAGE_BYTES;
    M_KNOWN = "known", 0, 20;
    M_FLAGS = "flags", 20, 2;
    M_RESERVED = "reserved", 22, 2;
    M_CHOSEN_INDEX = "chosen_index", 24, 8;
    M_CHOSEN_VALUE = "chosen_value", 32, 16;
    M_PROMISED = "promised", 48, 12;
    M_ACCEPTED_BALLOT = "accepted_ballot", 60, 12;
    M_ACCEPTED_VALUE = "accepted_value", 72, 16;
    M_VIEW_INDEX = "view_index", 88, 8;
    M_VIEW_PROMISED = "view_promised", 96, 12;
    M_VIEW_BALLOT = "view_ballot", 108, 12;
    M_VIEW_VALUE = "view_value", 120, 16;
    M_PROPOSAL_BALLOT = "proposal_ballot", 136, 12;
    M_ANSWER_INCARNATION = "answer_incarnation", 148, 4;
    M_PROPOSAL_VALUE = "proposal_value", 152, 16;
    M_QUESTION = "question", 168, 8;
    M_ANSWER_QUESTION = "answer_question", 176, 8;
    M_ACCEPTED_BYTES = "accepted_bytes", 184, 4;
    M_PROPOSAL_BYTES = "proposal_bytes", 188, 4;
}

const VOTES: u16 = 1;
const HAS_ACCEPTED: u16 = 1 << 1;
const VIEW_VOTES: u16 = 1 << 2;
const VIEW_ACCEPTED: u16 = 1 << 3;
const PROPOSES: u16 = 1 << 4;
const PROPOSES_VALUE: u16 = 1 << 5;
const ASKS: u16 = 1 << 6;
const ANSWERS: u16 = 1 << 7;

/// A message as it came, with the entries that were attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received<'a> {
    /// What it says.
    pub message: Message,
    /// The sender's accepted value, if it is attached.
    pub accepted: Option<(ValueId, Entry<'a>)>,
    /// The proposed value, if it is attached.
    pub proposed: Option<(ValueId, Entry<'a>)>,
}

/// The fixed part of a message; its entries of these many bytes follow, 0 for none.
#[must_use]
pub fn encode_message(
    message: &Message,
    accepted_bytes: usize,
    proposal_bytes: usize,
) -> [u8; MESSAGE_BYTES] {
    let mut bytes = [0; MESSAGE_BYTES];
    let mut flags = 0;
    let count = |bytes: usize| u32::try_from(bytes).expect("an entry is bounded").to_le_bytes();
    M_KNOWN.put(&mut bytes, encode_known(message.known));
    M_CHOSEN_INDEX.put(&mut bytes, message.chosen.index.0.to_le_bytes());
    M_CHOSEN_VALUE.put(&mut bytes, encode_value_id(message.chosen.value));
    if let Some(vote) = message.vote {
        flags |= VOTES;
        M_PROMISED.put(&mut bytes, encode_ballot(vote.promised));
        if let Some(Accepted { ballot, value }) = vote.accepted {
            flags |= HAS_ACCEPTED;
            M_ACCEPTED_BALLOT.put(&mut bytes, encode_ballot(ballot));
            M_ACCEPTED_VALUE.put(&mut bytes, encode_value_id(value));
        }
    }
    M_VIEW_INDEX.put(&mut bytes, message.view.chosen_index.0.to_le_bytes());
    if let Some(vote) = message.view.vote {
        flags |= VIEW_VOTES;
        M_VIEW_PROMISED.put(&mut bytes, encode_ballot(vote.promised));
        if let Some(Accepted { ballot, value }) = vote.accepted {
            flags |= VIEW_ACCEPTED;
            M_VIEW_BALLOT.put(&mut bytes, encode_ballot(ballot));
            M_VIEW_VALUE.put(&mut bytes, encode_value_id(value));
        }
    }
    if let Some(Proposal { ballot, value, .. }) = message.proposal {
        flags |= PROPOSES;
        M_PROPOSAL_BALLOT.put(&mut bytes, encode_ballot(ballot));
        if let Some(value) = value {
            flags |= PROPOSES_VALUE;
            M_PROPOSAL_VALUE.put(&mut bytes, encode_value_id(value));
        }
    }
    if let Some(question) = message.question {
        flags |= ASKS;
        M_QUESTION.put(&mut bytes, question.to_le_bytes());
    }
    if let Some((incarnation, question)) = message.answer {
        flags |= ANSWERS;
        let incarnation = u32::try_from(incarnation.0).expect("starts are counted with 32 bits");
        M_ANSWER_INCARNATION.put(&mut bytes, incarnation.to_le_bytes());
        M_ANSWER_QUESTION.put(&mut bytes, question.to_le_bytes());
    }
    M_FLAGS.put(&mut bytes, u16::to_le_bytes(flags));
    M_ACCEPTED_BYTES.put(&mut bytes, count(accepted_bytes));
    M_PROPOSAL_BYTES.put(&mut bytes, count(proposal_bytes));
    bytes
}

/// Reads fields of a message.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn ballot(&self, field: Field) -> Result<Ballot, Corrupt> {
        decode_ballot(&field.array(self.0)).ok_or(MESSAGE_TABLE.corrupt(field, 0))
    }

    fn value(&self, field: Field) -> Result<ValueId, Corrupt> {
        decode_value_id(&field.array::<VALUE_ID_BYTES>(self.0)).ok_or(MESSAGE_TABLE.corrupt(field, 0))
    }

    fn vote(&self, votes: bool, accepted: bool, fields: [Field; 3]) -> Result<Option<Vote>, Corrupt> {
        let [promised, ballot, value] = fields;
        let vote = Vote {
            promised: self.ballot(promised)?,
            accepted: if accepted {
                Some(Accepted { ballot: self.ballot(ballot)?, value: self.value(value)? })
            } else {
                None
            },
        };
        Ok(votes.then_some(vote))
    }
}

/// A message, all of `bytes`. Operations of attached entries are not looked at.
///
/// # Errors
/// The first field that cannot be.
pub fn decode_message(bytes: &[u8]) -> Result<Received<'_>, Corrupt> {
    let wrong = |field: Field| MESSAGE_TABLE.corrupt(field, 0);
    let (fixed, rest) = bytes.split_first_chunk::<MESSAGE_BYTES>().ok_or(wrong(M_KNOWN))?;
    let fields = Fields(fixed);
    let flags = M_FLAGS.u16(fixed);
    let has = |flag: u16| flags & flag != 0;
    let (accepted_bytes, proposal_bytes) =
        (M_ACCEPTED_BYTES.u32(fixed) as usize, M_PROPOSAL_BYTES.u32(fixed) as usize);
    let vote =
        fields.vote(has(VOTES), has(HAS_ACCEPTED), [M_PROMISED, M_ACCEPTED_BALLOT, M_ACCEPTED_VALUE])?;
    let view =
        fields.vote(has(VIEW_VOTES), has(VIEW_ACCEPTED), [M_VIEW_PROMISED, M_VIEW_BALLOT, M_VIEW_VALUE])?;
    let proposed = if has(PROPOSES_VALUE) { Some(fields.value(M_PROPOSAL_VALUE)?) } else { None };
    let proposal = has(PROPOSES).then_some(Proposal {
        ballot: fields.ballot(M_PROPOSAL_BALLOT)?,
        value: proposed,
        attached: proposal_bytes > 0,
    });
    let incarnation = Incarnation(u64::from(M_ANSWER_INCARNATION.u32(fixed)));
    let message = Message {
        known: decode_known(&M_KNOWN.array::<KNOWN_BYTES>(fixed)),
        chosen: Chosen { index: LogIndex(M_CHOSEN_INDEX.u64(fixed)), value: fields.value(M_CHOSEN_VALUE)? },
        vote,
        vote_attached: accepted_bytes > 0,
        view: View { chosen_index: LogIndex(M_VIEW_INDEX.u64(fixed)), vote: view },
        proposal,
        question: has(ASKS).then_some(M_QUESTION.u64(fixed)),
        answer: has(ANSWERS).then_some((incarnation, M_ANSWER_QUESTION.u64(fixed))),
    };
    if message.chosen.index.0 >= 1 << 48 {
        return Err(wrong(M_CHOSEN_INDEX));
    }
    if encode_message(&message, accepted_bytes, proposal_bytes) != *fixed {
        return Err(wrong(M_FLAGS));
    }
    let (first, second) = rest.split_at_checked(accepted_bytes).ok_or(wrong(M_ACCEPTED_BYTES))?;
    if second.len() != proposal_bytes {
        return Err(wrong(M_PROPOSAL_BYTES));
    }
    let named = vote.and_then(|vote| vote.accepted).map(|accepted| accepted.value);
    let accepted = attached(first, MESSAGE_BYTES, named, M_ACCEPTED_BYTES)?;
    let proposed = attached(second, MESSAGE_BYTES + first.len(), proposed, M_PROPOSAL_BYTES)?;
    Ok(Received { message, accepted, proposed })
}

/// An attached entry, with the name that the message gives it.
fn attached(
    bytes: &[u8],
    at: usize,
    named: Option<ValueId>,
    field: Field,
) -> Result<Option<(ValueId, Entry<'_>)>, Corrupt> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let value = named.ok_or(MESSAGE_TABLE.corrupt(field, 0))?;
    Ok(Some((value, read_entry(bytes, at as u64)?)))
}

/// The byte tables of this file, for the comparison with FORMAT.md.
pub const TABLES: [Table; 1] = [MESSAGE_TABLE];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log_entry::EntryHeader;
    use crate::operation::Operation;
    use crate::units::{self, TabletIndex};
    use crate::vote::tests::{ballot, state, value};

    fn entry() -> Vec<u8> {
        let mut body = Vec::new();
        Operation::Tick.encode_into(&mut |piece| body.extend_from_slice(piece));
        let header = EntryHeader {
            tablet: TabletIndex::new(9).expect("below 64"),
            log_index: units::LogIndex(42),
            stamp: units::LogTime(5),
            operation_count: 1,
            body_bytes: body.len() as u32,
        };
        [&header.encode()[..], &body].concat()
    }

    fn message() -> Message {
        Message {
            known: state().known,
            chosen: state().chosen,
            vote: Some(state().vote),
            vote_attached: true,
            view: View { chosen_index: LogIndex(40), vote: Some(Vote::NONE) },
            proposal: Some(Proposal { ballot: ballot(6), value: Some(value(9)), attached: true }),
            question: Some(0),
            answer: Some((Incarnation(3), 77)),
        }
    }

    #[test]
    fn messages_go_through_bytes_and_back() {
        let bare = Message {
            vote: None,
            vote_attached: false,
            view: View::default(),
            proposal: None,
            question: None,
            answer: None,
            ..message()
        };
        let prepare =
            Message { proposal: Some(Proposal { ballot: ballot(6), value: None, attached: false }), ..bare };
        for bare in [bare, prepare] {
            let bytes = encode_message(&bare, 0, 0);
            assert_eq!(decode_message(&bytes).map(|received| received.message), Ok(bare));
        }
        let entry = entry();
        let head = encode_message(&message(), entry.len(), entry.len());
        let bytes = [&head[..], &entry, &entry].concat();
        let received = decode_message(&bytes).expect("what was encoded");
        assert_eq!(received.message, message());
        assert_eq!(received.accepted.map(|(id, entry)| (id, entry.header.log_index.0)), Some((value(4), 42)));
        assert_eq!(received.proposed.map(|(id, _)| id), Some(value(9)));
    }

    #[test]
    fn cuts_and_flips_are_values() {
        let entry = entry();
        let head = encode_message(&message(), entry.len(), entry.len());
        let good = [&head[..], &entry, &entry].concat();
        for cut in 0..good.len() {
            assert!(decode_message(&good[..cut]).is_err(), "cut at {cut}");
        }
        for at in 0..MESSAGE_BYTES {
            let mut bytes = good.clone();
            bytes[at] ^= 0x55;
            assert_ne!(decode_message(&bytes), decode_message(&good), "byte {at}");
        }
    }
}
