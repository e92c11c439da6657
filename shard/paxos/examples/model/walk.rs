//! Random walks: worlds too large to search, many steps deep. Owns its generator; the same seed walks the same way.
//!
//! A walk has two parts: anything may happen, then everything heals, and within a bound of rounds every replica must vote
//! and one more write of each must be chosen. What must hold throughout is the ghost's, and that each value has its bytes
//! where it is sent from, written, or chosen.

use std::collections::BTreeSet;

use paxos::{
    Chosen, Config, Guards, Incarnation, Input, LogIndex, MEMBERS_MAX, Message, Node, Output, Replica, State,
    ValueId, Vote, Wait,
};

use super::ghost::{Ghost, Wrong};

/// Rounds in which a healed world must get everything done.
const HEAL_ROUNDS_MAX: usize = 200;
/// Messages on their way at most; more are lost.
const FLIGHT_MAX: usize = 60;

/// What a walk did.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Walked {
    pub(crate) chosen: u64,
    pub(crate) crashes: u64,
    pub(crate) wipes: u64,
    pub(crate) returns: u64,
    pub(crate) tips: u64,
    pub(crate) own_rounds: u64,
}

struct Walk {
    random: u64,
    guards: Guards,
    replicas: Vec<Replica>,
    ghost: Ghost,
    flight: Vec<(Node, Node, Message)>,
    values: u64,
    /// Values whose bytes a caller has at hand, by replica.
    bytes: Vec<BTreeSet<ValueId>>,
    walked: Walked,
}

/// Walks `steps` steps among `members` replicas, then heals.
pub(crate) fn walk(seed: u64, members: u8, steps: usize, guards: Guards) -> Result<Walked, Wrong> {
    let replica = |node| Replica::start(config(node, members, guards), Incarnation(1), State::NEW, false);
    let mut walk = Walk {
        random: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1,
        guards,
        replicas: (0..members).map(replica).collect(),
        ghost: Ghost::new(members, Chosen::default()),
        flight: Vec::new(),
        values: 0,
        bytes: vec![BTreeSet::new(); usize::from(members)],
        walked: Walked::default(),
    };
    for _ in 0..steps {
        walk.step()?;
    }
    walk.heal()?;
    Ok(walk.walked)
}

fn config(node: u8, member_count: u8, guards: Guards) -> Config {
    Config { node: Node(node), member_count, prepare_count_max: 3, guards }
}

impl Walk {
    fn below(&mut self, limit: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % limit
    }

    fn step(&mut self) -> Result<(), Wrong> {
        let place = self.below(self.replicas.len());
        match self.below(100) {
            0..60 if !self.flight.is_empty() => self.deliver(),
            0..80 => match self.replicas[place].is_writing() {
                Some(token) => self.input(place, Input::Flushed(token)),
                None => Ok(()),
            },
            80..84 => self.propose(place),
            84..90 => self.input(place, Input::Timer),
            90..93 => self.fetch(place),
            93..95 => {
                self.ghost.asks(Node(place as u8));
                self.input(place, Input::AskTip)
            }
            95 => self.input(place, Input::Complete),
            96 => self.input(place, Input::Return(0)),
            97 => self.input(place, Input::GiveUp),
            98 => {
                self.restart(place, false);
                Ok(())
            }
            _ => {
                let amnesic = self.replicas.iter().filter(|replica| !replica.durable().voter).count();
                // More lost disks than a minority, or one more often than it comes back, are beyond any rule.
                if amnesic < self.replicas.len() / 2 && self.below(3) == 0 {
                    self.restart(place, true);
                }
                Ok(())
            }
        }
    }

    fn deliver(&mut self) -> Result<(), Wrong> {
        let at = self.below(self.flight.len());
        let (from, to, message) = self.flight[at];
        match self.below(10) {
            // Again later.
            0 => {}
            // Lost.
            1 => {
                self.flight.swap_remove(at);
                return Ok(());
            }
            _ => {
                self.flight.swap_remove(at);
            }
        }
        self.input(to.place(), Input::Message(from, message))
    }

    fn propose(&mut self, place: usize) -> Result<(), Wrong> {
        let replica = &self.replicas[place];
        if replica.has_write() || !replica.durable().voter {
            return Ok(());
        }
        self.values += 1;
        let node = Node(place as u8);
        let value = ValueId { node, incarnation: replica.incarnation(), sequence: self.values };
        self.ghost.proposes(node);
        self.bytes[place].insert(value);
        self.input(place, Input::Propose(value))
    }

    fn fetch(&mut self, place: usize) -> Result<(), Wrong> {
        let from = self.below(self.replicas.len());
        let chosen = self.replicas[from].state().chosen;
        self.input(place, Input::Fetched(chosen))
    }

    fn restart(&mut self, place: usize, amnesic: bool) {
        let node = Node(place as u8);
        let incarnation = Incarnation(self.replicas[place].incarnation().0 + 1);
        let mut found = *self.replicas[place].durable();
        self.ghost.crashes(node);
        self.walked.crashes += 1;
        if amnesic {
            self.ghost.wiped(node);
            self.walked.wipes += 1;
            let known = [Incarnation(0); MEMBERS_MAX];
            found = State { chosen: Chosen::default(), vote: Vote::NONE, known, voter: false };
        }
        self.bytes[place] = found.vote.accepted.map(|accepted| accepted.value).into_iter().collect();
        let config = config(node.0, self.replicas.len() as u8, self.guards);
        self.replicas[place] = Replica::start(config, incarnation, found, amnesic);
    }

    fn input(&mut self, place: usize, input: Input) -> Result<(), Wrong> {
        let node = Node(place as u8);
        let before = *self.replicas[place].durable();
        match input {
            Input::Message(_, message) => self.bytes[place].extend(attached(&message)),
            Input::Fetched(chosen) => {
                self.bytes[place].insert(chosen.value);
            }
            _ => {}
        }
        let mut out = Vec::new();
        self.replicas[place].step(input, &mut out);
        let after = *self.replicas[place].durable();
        if before != after {
            self.ghost.flushed(node, &before, &after)?;
        }
        for output in out {
            self.has_bytes(node, &output)?;
            match output {
                Output::Send(to, message) if self.flight.len() < FLIGHT_MAX => {
                    self.flight.push((node, to, message))
                }
                Output::Chosen(chosen, origin) => {
                    self.walked.own_rounds += u64::from(origin == paxos::Origin::OwnRound);
                    self.ghost.reported(node, chosen, origin)?;
                }
                Output::Tip(tip) => {
                    self.walked.tips += 1;
                    self.ghost.tip_found(node, tip)?;
                }
                Output::Returned => self.walked.returns += 1,
                _ => {}
            }
        }
        self.walked.chosen = self.ghost.tip().0;
        Ok(())
    }

    /// What is sent, written or chosen is here.
    fn has_bytes(&self, node: Node, output: &Output) -> Result<(), Wrong> {
        let values: Vec<ValueId> = match output {
            Output::Send(_, message) => attached(message).collect(),
            Output::Persist(_, state) => {
                state.vote.accepted.map(|accepted| accepted.value).into_iter().collect()
            }
            Output::Chosen(chosen, _) => vec![chosen.value],
            _ => Vec::new(),
        };
        match values.into_iter().find(|value| !self.bytes[node.place()].contains(value)) {
            Some(value) => Err(format!("{node:?} has no bytes of {value:?}: {output:?}")),
            None => Ok(()),
        }
    }

    /// Nothing is lost any more: all come back, and each gets one more value chosen.
    fn heal(&mut self) -> Result<(), Wrong> {
        for place in 0..self.replicas.len() {
            self.input(place, Input::GiveUp)?;
        }
        let mut served = vec![LogIndex(0); self.replicas.len()];
        for round in 0..HEAL_ROUNDS_MAX {
            for (place, done) in served.iter_mut().enumerate() {
                self.calm(place)?;
                let replica = &self.replicas[place];
                // One at a time: two that try at once only keep each other from it.
                if round % MEMBERS_MAX != place {
                    continue;
                }
                if !replica.durable().voter {
                    self.input(place, Input::Return(0))?;
                } else if *done == LogIndex(0) {
                    let tip = self.ghost.tip();
                    self.propose(place)?;
                    self.calm(place)?;
                    if self.ghost.tip() > tip {
                        *done = self.ghost.tip();
                    }
                }
            }
            let voters = self.replicas.iter().all(|replica| replica.durable().voter);
            if voters && served.iter().all(|done| *done > LogIndex(0)) {
                return Ok(());
            }
        }
        Err(format!(
            "no progress: {served:?}, {:?}",
            self.replicas.iter().map(Replica::state).collect::<Vec<_>>()
        ))
    }

    /// All that is on its way arrives, all writes end, and one replica's wait.
    fn calm(&mut self, place: usize) -> Result<(), Wrong> {
        for _ in 0..8 {
            let newest =
                self.replicas.iter().map(|replica| replica.state().chosen).max_by_key(|known| known.index);
            for place in 0..self.replicas.len() {
                if let Some(newest) = newest {
                    self.input(place, Input::Fetched(newest))?;
                }
                while let Some(token) = self.replicas[place].is_writing() {
                    self.input(place, Input::Flushed(token))?;
                }
            }
            for (from, to, message) in std::mem::take(&mut self.flight) {
                self.input(to.place(), Input::Message(from, message))?;
            }
        }
        if self.replicas[place].waits_for() == Some(Wait::BackOff)
            || self.replicas[place].waits_for().is_none()
        {
            self.input(place, Input::Timer)?;
        }
        Ok(())
    }
}

/// The values whose bytes go with a message.
fn attached(message: &Message) -> impl Iterator<Item = ValueId> {
    let voted = message.vote.and_then(|vote| vote.accepted).filter(|_| message.vote_attached);
    let proposed = message.proposal.filter(|proposal| proposal.attached).and_then(|proposal| proposal.value);
    voted.map(|accepted| accepted.value).into_iter().chain(proposed)
}
