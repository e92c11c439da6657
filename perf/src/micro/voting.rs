//! Three replicas of a log in one place, each write durable at once and no message lost: what a decided entry costs when
//! nothing goes wrong.

use paxos::{Config, Guards, Incarnation, Input, Message, Node, Output, Replica, State, ValueId};
use std::collections::VecDeque;

const MEMBERS: u8 = 3;

/// The replicas, and what is on the way between them.
pub(super) struct Voting {
    replicas: Vec<Replica>,
    due: VecDeque<(Node, Input)>,
    out: Vec<Output>,
    sequence: u64,
    chosen: u64,
}

impl Voting {
    pub(super) fn new() -> Voting {
        let replica = |node| {
            let config =
                Config { node: Node(node), member_count: MEMBERS, prepare_count_max: 4, guards: Guards::ALL };
            Replica::start(config, Incarnation(1), State::NEW, false)
        };
        Voting {
            replicas: (0..MEMBERS).map(replica).collect(),
            due: VecDeque::with_capacity(64),
            out: Vec::with_capacity(16),
            sequence: 0,
            chosen: 0,
        }
    }

    /// One write at the first replica, until nothing is on the way any more.
    pub(super) fn decide(&mut self) {
        self.sequence += 1;
        let value = ValueId { node: Node(0), incarnation: Incarnation(1), sequence: self.sequence };
        self.due.push_back((Node(0), Input::Propose(value)));
        while let Some((node, input)) = self.due.pop_front() {
            self.step(node, input);
        }
    }

    fn step(&mut self, node: Node, input: Input) {
        let mut out = std::mem::take(&mut self.out);
        self.replicas[node.place()].step(input, &mut out);
        for output in out.drain(..) {
            match output {
                Output::Persist(token, _) => self.due.push_back((node, Input::Flushed(token))),
                Output::Send(to, message) => self.send(node, to, message),
                Output::Chosen(..) => self.chosen += u64::from(node == Node(0)),
                _ => {}
            }
        }
        self.out = out;
    }

    fn send(&mut self, from: Node, to: Node, message: Message) {
        self.due.push_back((to, Input::Message(from, message)));
    }

    /// Entries that the first replica knows to be chosen.
    pub(super) fn chosen(&self) -> u64 {
        self.chosen
    }
}
