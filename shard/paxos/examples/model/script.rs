//! Runs interaction scripts: a world whose every step is written down. Owns the words of scripts; must never choose.
//!
//!     members 3                 A, B, C; entry 1 is chosen, a value of A's first life, known to all
//!     A propose x               also: flush, timer, ask, complete, return, give up, crash, wipe
//!     A fetch C                 all that C knows chosen
//!     A>B                       the oldest message on its way arrives; `A>B keep` and again later
//!     A>B hold r                it is taken aside, and `arrive r` brings it
//!     A>B drop                  all of them are lost
//!     A>*                       the oldest to each
//!
//!     ... ?                     only if there is something to flush, or on its way
//!
//! What a step made a replica do stands below it, indented: `a1.2` is the second value of A's first life, `+` says that its
//! bytes are there, `2A1` is the ballot of round 2 of A's first life. `#` begins a remark.

use std::collections::BTreeMap;

use paxos::{
    Chosen, Config, Guards, Incarnation, Input, LogIndex, MEMBERS_MAX, Message, Node, Output, Replica, State,
    ValueId, Vote,
};

use super::ghost::{Ghost, Wrong};
use super::words;

/// A script under way.
pub(crate) struct Script {
    guards: Guards,
    replicas: Vec<Replica>,
    ghost: Ghost,
    flight: BTreeMap<(Node, Node), Vec<Message>>,
    held: BTreeMap<String, (Node, Node, Message)>,
    values: u64,
    /// What the tablet began with: a lost disk does not lose that.
    begun: Chosen,
}

/// The script's commands, each with what it led to; `tell` hears each line as it happens.
pub(crate) fn run(text: &str, guards: Guards, tell: &mut dyn FnMut(&str)) -> Result<String, Wrong> {
    let mut script = None;
    let mut told = String::new();
    for line in text.lines().filter(|line| !line.starts_with(' ')) {
        told += &format!("{line}\n");
        tell(line);
        let command = line.split('#').next().unwrap_or_default().trim();
        let words: Vec<&str> = command.split_whitespace().collect();
        match (words.as_slice(), &mut script) {
            ([], _) => {}
            (["members", count], _) => script = Some(Script::new(count.parse().expect("1, 3 or 5"), guards)),
            (words, Some(script)) => {
                for line in script.command(words).map_err(|wrong| format!("{command}: {wrong}"))? {
                    tell(&format!("    {line}"));
                    told += &format!("    {line}\n");
                }
            }
            (_, None) => panic!("a script begins with members"),
        }
    }
    Ok(told)
}

impl Script {
    fn new(members: u8, guards: Guards) -> Script {
        let value = ValueId { node: Node(0), incarnation: Incarnation(1), sequence: 0 };
        let chosen = Chosen { index: LogIndex(1), value };
        let replica = |node| {
            let config = Config { node: Node(node), member_count: members, prepare_count_max: 3, guards };
            Replica::start(config, Incarnation(1), State { chosen, ..State::NEW }, false)
        };
        Script {
            guards,
            replicas: (0..members).map(replica).collect(),
            ghost: Ghost::new(members, chosen),
            flight: BTreeMap::new(),
            held: BTreeMap::new(),
            values: 0,
            begun: chosen,
        }
    }

    fn command(&mut self, words: &[&str]) -> Result<Vec<String>, Wrong> {
        match words {
            [words @ .., "?"] if !self.can(words) => Ok(Vec::new()),
            [words @ .., "?"] => self.command(words),
            ["arrive", name] => {
                let (from, to, message) = self.held[*name];
                self.arrive(from, to, message)
            }
            [way, rest @ ..] if way.contains('>') => self.way(way, rest),
            [who, what @ ..] => self.act(node(who), what),
            [] => Ok(Vec::new()),
        }
    }

    fn can(&self, words: &[&str]) -> bool {
        match words {
            [who, "flush"] => self.replicas[node(who).place()].is_writing().is_some(),
            [way, ..] => {
                let (from, to) = way.split_once('>').expect("a flush or a way");
                self.flight.get(&(node(from), node(to))).is_some_and(|flight| !flight.is_empty())
            }
            [] => false,
        }
    }

    fn way(&mut self, way: &str, rest: &[&str]) -> Result<Vec<String>, Wrong> {
        let (from, to) = way.split_once('>').expect("it has one");
        let from = node(from);
        if to == "*" {
            let mut told = Vec::new();
            for to in (0..self.replicas.len() as u8).map(Node).filter(|to| *to != from) {
                if self.flight.get(&(from, to)).is_some_and(|flight| !flight.is_empty()) {
                    let message = self.take(from, to);
                    told.extend(self.arrive(from, to, message)?);
                }
            }
            return Ok(told);
        }
        let to = node(to);
        match rest {
            [] => {
                let message = self.take(from, to);
                self.arrive(from, to, message)
            }
            ["keep"] => {
                let message = self.take(from, to);
                self.flight.entry((from, to)).or_default().insert(0, message);
                self.arrive(from, to, message)
            }
            ["hold", name] => {
                let message = self.take(from, to);
                self.held.insert((*name).to_string(), (from, to, message));
                Ok(Vec::new())
            }
            ["drop"] => {
                self.flight.remove(&(from, to));
                Ok(Vec::new())
            }
            other => panic!("{other:?} is no word of scripts"),
        }
    }

    fn take(&mut self, from: Node, to: Node) -> Message {
        let flight = self.flight.entry((from, to)).or_default();
        assert!(!flight.is_empty(), "nothing is on its way from {from:?} to {to:?}");
        flight.remove(0)
    }

    fn arrive(&mut self, from: Node, to: Node, message: Message) -> Result<Vec<String>, Wrong> {
        let heard = format!("{} hears {}: {}", name(to), name(from), words::message(&message));
        let mut told = vec![heard];
        told.extend(self.step(to, Input::Message(from, message))?);
        Ok(told)
    }

    fn act(&mut self, who: Node, what: &[&str]) -> Result<Vec<String>, Wrong> {
        let replica = &self.replicas[who.place()];
        let input = match what {
            ["propose"] => {
                self.ghost.proposes(who);
                self.values += 1;
                let incarnation = replica.incarnation();
                Input::Propose(ValueId { node: who, incarnation, sequence: self.values })
            }
            ["flush"] => Input::Flushed(replica.is_writing().expect("it is writing")),
            ["timer"] => Input::Timer,
            ["ask"] => {
                self.ghost.asks(who);
                Input::AskTip
            }
            ["complete"] => Input::Complete,
            ["return"] => Input::Return(0),
            ["return", "without", given_up @ ..] => {
                Input::Return(given_up.iter().fold(0, |bits, name| bits | 1 << node(name).0))
            }
            ["give", "up"] => Input::GiveUp,
            ["fetch", from] => Input::Fetched(self.replicas[node(from).place()].state().chosen),
            ["crash"] => return Ok(self.restart(who, *replica.durable(), false)),
            ["wipe"] => {
                self.ghost.wiped(who);
                let known = [Incarnation(0); MEMBERS_MAX];
                let found = State { chosen: self.begun, vote: Vote::NONE, known, voter: false };
                return Ok(self.restart(who, found, true));
            }
            other => panic!("{other:?} is no word of scripts"),
        };
        self.step(who, input)
    }

    fn restart(&mut self, who: Node, found: State, amnesic: bool) -> Vec<String> {
        self.ghost.crashes(who);
        let incarnation = Incarnation(self.replicas[who.place()].incarnation().0 + 1);
        let config = Config {
            node: who,
            member_count: self.replicas.len() as u8,
            prepare_count_max: 3,
            guards: self.guards,
        };
        self.replicas[who.place()] = Replica::start(config, incarnation, found, amnesic);
        vec![format!("{} begins life {}, {}", name(who), incarnation.0, words::state(&found))]
    }

    fn step(&mut self, who: Node, input: Input) -> Result<Vec<String>, Wrong> {
        let before = *self.replicas[who.place()].durable();
        let mut out = Vec::new();
        self.replicas[who.place()].step(input, &mut out);
        let after = *self.replicas[who.place()].durable();
        if before != after {
            self.ghost.flushed(who, &before, &after)?;
        }
        let mut told = Vec::new();
        for output in out {
            match output {
                Output::Send(to, message) => self.flight.entry((who, to)).or_default().push(message),
                Output::Chosen(chosen, origin) => self.ghost.reported(who, chosen, origin)?,
                Output::Tip(tip) => self.ghost.tip_found(who, tip)?,
                _ => {}
            }
            told.push(format!("{} {}", name(who), words::output(&output)));
        }
        Ok(told)
    }
}

fn node(name: &str) -> Node {
    let letter = name.bytes().next().expect("a letter");
    Node(letter - b'A')
}

fn name(node: Node) -> char {
    char::from(b'A' + node.0)
}
