//! Ballots, values and messages in few words, for histories and scripts. Must never hide a part that a rule looks at.

use paxos::{Ballot, Message, Node, Output, State, ValueId, Vote};

/// `a1.2`: the second value of the first life of A; `-` for none.
pub(crate) fn value(value: ValueId) -> String {
    if value == ValueId::NONE {
        return "-".to_string();
    }
    format!("{}{}.{}", char::from(b'a' + value.node.0), value.incarnation.0, value.sequence)
}

/// `2A1`: round 2 of A in its first life; `-` for none.
pub(crate) fn ballot(ballot: Ballot) -> String {
    if ballot == Ballot::NONE {
        return "-".to_string();
    }
    format!("{}{}{}", ballot.round, char::from(b'A' + ballot.node.0), ballot.incarnation.0)
}

/// `promised 2A1, accepted a1.1@0A1`.
pub(crate) fn vote(vote: Option<Vote>) -> String {
    let Some(vote) = vote else { return "no vote".to_string() };
    let accepted =
        vote.accepted.map(|accepted| format!("{}@{}", value(accepted.value), ballot(accepted.ballot)));
    format!("promised {}, accepted {}", ballot(vote.promised), accepted.unwrap_or("-".to_string()))
}

/// `+`: its bytes go with it.
fn bytes(attached: bool) -> &'static str {
    if attached { "+" } else { "" }
}

/// All that counts of a message.
pub(crate) fn message(message: &Message) -> String {
    let mut words = Vec::new();
    if let Some(proposal) = message.proposal {
        words.push(match proposal.value {
            None => format!("prepare {}", ballot(proposal.ballot)),
            Some(id) => {
                format!("accept {}{}@{}", value(id), bytes(proposal.attached), ballot(proposal.ballot))
            }
        });
    }
    if let Some(question) = message.question {
        words.push(format!("question {question}"));
    }
    if let Some((_, question)) = message.answer {
        words.push(format!("answer {question}"));
    }
    words.push(format!("chosen {} {}", message.chosen.index.0, value(message.chosen.value)));
    words.push(vote(message.vote) + bytes(message.vote_attached));
    words.join("; ")
}

/// What a replica remembers.
pub(crate) fn state(state: &State) -> String {
    let standing = if state.voter { "" } else { "learner-only, " };
    format!(
        "{standing}chosen {} {}; {}",
        state.chosen.index.0,
        value(state.chosen.value),
        vote(Some(state.vote))
    )
}

/// What is to be done.
pub(crate) fn output(output: &Output) -> String {
    let name = |node: Node| char::from(b'A' + node.0);
    match output {
        Output::Persist(_, what) => format!("writes {}", state(what)),
        Output::Send(to, what) => format!("> {}: {}", name(*to), message(what)),
        Output::Chosen(chosen, origin) => {
            format!("CHOSEN {} {} {origin:?}", chosen.index.0, value(chosen.value))
        }
        Output::Rejected(id, reason) => format!("rejects {} {reason:?}", value(*id)),
        Output::Behind(from, index) => format!("lacks up to {}, {} has it", index.0, name(*from)),
        Output::Tip(tip) => format!("TIP {}{}", tip.index.0, if tip.pending { " pending" } else { "" }),
        other => format!("{other:?}").to_lowercase(),
    }
}
