//! Tip checks: which index must be applied before a strong get may be served.
//!
//! Owns the question under way. Must never count an answer given before the question, nor a learner-only replica.
//! Why a majority of answers is enough: what was chosen before the question was flushed by a majority before; one of them
//! answers, and then it either knows that the entry is chosen or shows its acceptance. It cannot be two entries ahead of
//! all that is known, because nobody votes on i+1 before knowing i.

use crate::ballot::{LogIndex, MEMBERS_MAX, Node};
use crate::guard::Guard;
use crate::message::Message;
use crate::replica::{Output, Replica};
use crate::state::View;

/// The outcome of a tip check. Gets that waited when it was asked may be served once `index` is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tip {
    /// Number of the question.
    pub question: u64,
    /// To be applied before serving.
    pub index: LogIndex,
    /// The entry there is not known to be chosen: wait for it, and after a while say `Input::Complete`. Once that has run
    /// without finding anything, the next check shows it gone.
    pub pending: bool,
}

/// A question under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct TipCheck {
    pub(crate) question: u64,
    pub(crate) answers: [Option<View>; MEMBERS_MAX],
}

impl Replica {
    /// Asks all peers. A question under way is dropped: its gets wait for this one.
    pub(crate) fn ask_tip(&mut self, out: &mut Vec<Output>) {
        if !self.flushed.voter && self.config.guards.has(Guard::LearnerNoTip) {
            return out.push(Output::NoTip);
        }
        self.question_last += 1;
        self.tip_check = Some(TipCheck { question: self.question_last, answers: [None; MEMBERS_MAX] });
        for peer in self.peers() {
            let message = Message { question: Some(self.question_last), ..self.message_for(peer, None) };
            out.push(Output::Send(peer, message));
        }
        self.judge_tip(out);
    }

    /// The same question: answers on their way count. A new number would make them worthless, and where answers take longer
    /// than the wait no check would ever end.
    pub(crate) fn ask_again(&self, out: &mut Vec<Output>) {
        let Some(check) = self.tip_check else { return };
        for peer in self.peers().filter(|peer| check.answers[peer.place()].is_none()) {
            let message = Message { question: Some(check.question), ..self.message_for(peer, None) };
            out.push(Output::Send(peer, message));
        }
    }

    pub(crate) fn take_answer(&mut self, from: Node, message: &Message, out: &mut Vec<Output>) {
        let guards = self.config.guards;
        let Some(check) = &mut self.tip_check else { return };
        let asked =
            message.answer == Some((self.incarnation, check.question)) || !guards.has(Guard::TipAsked);
        let votes = message.vote.is_some() || !guards.has(Guard::LearnerNoTip);
        if asked && votes {
            check.answers[from.place()] =
                Some(View { chosen_index: message.chosen.index, vote: message.vote });
            self.judge_tip(out);
        }
    }

    fn judge_tip(&mut self, out: &mut Vec<Output>) {
        let guards = self.config.guards;
        let Some(mut check) = self.tip_check else { return };
        if self.flushed.voter || !guards.has(Guard::LearnerNoTip) {
            check.answers[self.config.node.place()] = Some(self.view(self.config.node));
        }
        let count = check.answers.iter().flatten().count();
        if !self.is_majority(count) && guards.has(Guard::TipMajority) {
            return;
        }
        let tip = check.answers.iter().flatten().map(|view| view.chosen_index).max().unwrap_or_default();
        let pending =
            check.answers.iter().flatten().any(|view| {
                view.chosen_index == tip && view.vote.is_some_and(|vote| vote.accepted.is_some())
            });
        let pending = pending && guards.has(Guard::TipPending);
        self.tip_check = None;
        let index = if pending { tip.next() } else { tip };
        out.push(Output::Tip(Tip {
            question: check.question,
            index,
            pending: index > self.now.chosen.index,
        }));
    }
}
