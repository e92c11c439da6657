//! A world of the model: replicas, messages on their way, the ghost, and what may yet happen. Owns its steps.
//!
//! A step takes one input of one replica, as a whole. A crash is a restart at once: being down is the same as messages
//! lost or late. Whether a message is lost is settled when it is sent; those that will arrive do so at any time, in any
//! order, and so many at most are on their way at once. Replicas, messages and ghosts are numbered, so that a world is few
//! bytes, and what an input does to a replica is worked out once.

use paxos::{
    Chosen, Config, Guard, Guards, Incarnation, Input, LogIndex, MEMBERS_MAX, Message, Node, Output, Replica,
    State, Token, ValueId, Vote, Wait,
};

use crate::ghost::{Ghost, Wrong};
use crate::intern::Interner;

pub(crate) const MEMBERS: usize = 3;

/// How much may happen in a history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Budget {
    /// Values, by who proposes them.
    pub(crate) writes: [u8; MEMBERS],
    pub(crate) crashes: u8,
    /// Disks lost.
    pub(crate) wipes: u8,
    /// Messages delivered once more.
    pub(crate) duplicates: u8,
    pub(crate) tips: u8,
    /// Tries to come back from amnesia.
    pub(crate) returns: u8,
    /// Prepares without a write.
    pub(crate) completes: u8,
    /// Timers that send again.
    pub(crate) resends: u8,
    /// Timers that tell what is chosen.
    pub(crate) tells: u8,
}

/// What a search is bounded by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) budget: Budget,
    /// Prepares a write may cost.
    pub(crate) prepares: u8,
    /// Begins with entry 1 chosen, a value of A's first life, and known to be everywhere.
    pub(crate) begun: bool,
    /// Messages on their way at once that will arrive.
    pub(crate) flight: usize,
    /// A write of the state that an arrival began, and that sends no proposal, is flushed in the same step: until the
    /// flush it shows nowhere, so that a longer one is the same as a later arrival, and a crash before it as a loss.
    pub(crate) flush_at_once: bool,
    pub(crate) guards: Guards,
}

/// A world, by numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct World {
    replicas: [u32; MEMBERS],
    ghost: u32,
    budget: Budget,
    /// The set of messages on their way.
    flight: u32,
}

/// One message on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Sent {
    from: Node,
    to: Node,
    message: Message,
}

/// What happens next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Act {
    Propose(ValueId),
    Deliver(u32),
    /// It arrives, and will again.
    Again(u32),
    Flush,
    Timer,
    Fetch(Chosen),
    AskTip,
    Return,
    Complete,
    Crash,
    Wipe,
}

/// What an act did to a replica.
#[derive(Debug, Clone)]
struct Effect {
    replica: u32,
    sent: Vec<u32>,
    told: Vec<Output>,
}

/// A world that follows, or why it must not.
pub(crate) type Next = Result<World, Wrong>;

/// Everything numbered so far.
pub(crate) struct Worlds {
    bounds: Bounds,
    replicas: Interner<Replica>,
    messages: Interner<Sent>,
    ghosts: Interner<Ghost>,
    /// Sets of messages, sorted.
    flights: Interner<Box<[u32]>>,
    tried: Interner<(u32, Act)>,
    effects: Vec<Effect>,
}

impl Worlds {
    pub(crate) fn new(bounds: Bounds) -> Worlds {
        Worlds {
            bounds,
            replicas: Interner::new(),
            messages: Interner::new(),
            ghosts: Interner::new(),
            flights: Interner::new(),
            tried: Interner::new(),
            effects: Vec::new(),
        }
    }

    pub(crate) fn first(&mut self) -> World {
        let chosen = self.begun();
        let replicas = [0, 1, 2].map(|node| {
            let state = State { chosen, ..State::NEW };
            let replica = Replica::start(self.config(Node(node)), Incarnation(1), state, false);
            self.replicas.number(replica.renumbered()).0
        });
        let ghost = self.ghosts.number(Ghost::new(MEMBERS as u8, chosen)).0;
        let flight = self.flights.number(Box::new([])).0;
        World { replicas, ghost, budget: self.bounds.budget, flight }
    }

    fn begun(&self) -> Chosen {
        let value = ValueId { node: Node(0), incarnation: Incarnation(1), sequence: 0 };
        if self.bounds.begun { Chosen { index: LogIndex(1), value } } else { Chosen::default() }
    }

    fn config(&self, node: Node) -> Config {
        let Bounds { prepares, guards, .. } = self.bounds;
        Config { node, member_count: MEMBERS as u8, prepare_count_max: prepares, guards }
    }

    /// All that may follow, always in the same order.
    pub(crate) fn next(&mut self, world: &World, into: &mut Vec<(Next, Label)>) {
        for place in 0..MEMBERS {
            for (act, budget) in self.acts_of(world, place) {
                self.act(&World { budget, ..*world }, place, act, into);
            }
        }
        let flight = self.flights.get(world.flight).clone();
        for &number in &flight {
            let place = self.messages.get(number).to.place();
            self.act(world, place, Act::Deliver(number), into);
            if world.budget.duplicates > 0 {
                let mut kept = *world;
                kept.budget.duplicates -= 1;
                self.act(&kept, place, Act::Again(number), into);
            }
        }
    }

    /// What a replica may do by itself, with what is left of the budget then.
    fn acts_of(&self, world: &World, place: usize) -> Vec<(Act, Budget)> {
        let replica = self.replicas.get(world.replicas[place]);
        let left = world.budget;
        let waits = replica.waits_for();
        let mut acts = Vec::new();
        if replica.is_writing().is_some() {
            acts.push((Act::Flush, left));
        }
        if left.writes[place] > 0 && replica.durable().voter && !replica.has_write() {
            let mut budget = left;
            budget.writes[place] -= 1;
            let sequence = u64::from(self.bounds.budget.writes[place] - budget.writes[place]);
            let value = ValueId { node: Node(place as u8), incarnation: replica.incarnation(), sequence };
            acts.push((Act::Propose(value), budget));
        }
        match waits {
            Some(Wait::BackOff) => acts.push((Act::Timer, left)),
            Some(_) if left.resends > 0 => {
                acts.push((Act::Timer, Budget { resends: left.resends - 1, ..left }))
            }
            None if left.tells > 0 => acts.push((Act::Timer, Budget { tells: left.tells - 1, ..left })),
            _ => {}
        }
        let known = world.replicas.iter().map(|&number| self.replicas.get(number).state().chosen);
        if let Some(chosen) = known.max_by_key(|chosen| chosen.index)
            && chosen.index > replica.state().chosen.index
        {
            acts.push((Act::Fetch(chosen), left));
        }
        if left.tips > 0 {
            acts.push((Act::AskTip, Budget { tips: left.tips - 1, ..left }));
        }
        if left.returns > 0 && !replica.state().voter {
            acts.push((Act::Return, Budget { returns: left.returns - 1, ..left }));
        }
        if left.completes > 0 && waits.is_none() {
            acts.push((Act::Complete, Budget { completes: left.completes - 1, ..left }));
        }
        if left.crashes > 0 {
            acts.push((Act::Crash, Budget { crashes: left.crashes - 1, ..left }));
        }
        if left.wipes > 0 {
            acts.push((Act::Wipe, Budget { wipes: left.wipes - 1, ..left }));
        }
        acts
    }

    /// Does it, and puts what is sent among what is on its way.
    fn act(&mut self, world: &World, place: usize, act: Act, into: &mut Vec<(Next, Label)>) {
        let effect = self.effect(world.replicas[place], act);
        let (replica, sent) = (self.effects[effect].replica, self.effects[effect].sent.clone());
        let label = Label { place, act };
        let ghost = match self.ghost(world, place, act, effect) {
            Ok(ghost) => ghost,
            Err(wrong) => return into.push((Err(wrong), label)),
        };
        // What changes nothing leads nowhere: the message might as well be lost.
        if replica == world.replicas[place] && sent.is_empty() && ghost == world.ghost {
            return;
        }
        let mut next = World { ghost, ..*world };
        next.replicas[place] = replica;
        let mut flight = self.flights.get(world.flight).to_vec();
        flight.retain(|&number| act != Act::Deliver(number) && !self.is_dead(&next, number));
        let sent: Vec<u32> = sent.into_iter().filter(|&number| !self.is_dead(&next, number)).collect();
        for kept in 0u32..1 << sent.len() {
            if flight.len() + kept.count_ones() as usize > self.bounds.flight {
                continue;
            }
            let arriving = sent.iter().enumerate().filter(|(at, _)| kept & (1 << at) != 0);
            let mut flight = flight.clone();
            flight.extend(arriving.map(|(_, &number)| number));
            flight.sort_unstable();
            flight.dedup();
            next.flight = self.flights.number(flight.into_boxed_slice()).0;
            into.push((Ok(next), label));
        }
    }

    /// A message that its receiver's disk already knows to be of a past life, or of a past index: nothing but an answer
    /// that others give as well could come of it.
    fn is_dead(&self, world: &World, number: u32) -> bool {
        let Sent { from, to, message } = self.messages.get(number);
        let receiver = self.replicas.get(world.replicas[to.place()]);
        let guards = self.bounds.guards;
        let durable = receiver.durable();
        let former = guards.has(Guard::OldLifeDiscarded)
            && guards.has(Guard::KnownFlushed)
            && message.known[from.place()] < durable.known[from.place()];
        let past = message.chosen.index < durable.chosen.index && message.question.is_none();
        let unasked = guards.has(Guard::TipAsked)
            && message.answer.is_none_or(|(incarnation, _)| incarnation < receiver.incarnation());
        former || (past && unasked)
    }

    fn effect(&mut self, number: u32, act: Act) -> usize {
        let (tried, new) = self.tried.number((number, act));
        if new {
            let mut replica = *self.replicas.get(number);
            let node = replica.node();
            let mut out = Vec::new();
            match act {
                Act::Propose(value) => replica.step(Input::Propose(value), &mut out),
                Act::Deliver(message) | Act::Again(message) => {
                    let Sent { from, message, .. } = *self.messages.get(message);
                    let was_writing = replica.is_writing().is_some();
                    replica.step(Input::Message(from, message), &mut out);
                    if self.bounds.flush_at_once && !was_writing && !proposes(&out) {
                        flush_now(&mut replica, &mut out);
                    }
                }
                Act::Flush => replica.step(Input::Flushed(Token(1)), &mut out),
                Act::Timer => replica.step(Input::Timer, &mut out),
                Act::Fetch(chosen) => replica.step(Input::Fetched(chosen), &mut out),
                Act::AskTip => replica.step(Input::AskTip, &mut out),
                Act::Return => replica.step(Input::Return(0), &mut out),
                Act::Complete => replica.step(Input::Complete, &mut out),
                Act::Crash | Act::Wipe => {
                    let amnesic = act == Act::Wipe;
                    let mut found = *replica.durable();
                    if amnesic {
                        // What the world began with is on other disks, too.
                        let known = [Incarnation(0); MEMBERS_MAX];
                        found = State { chosen: self.begun(), vote: Vote::NONE, known, voter: false };
                    }
                    let incarnation = Incarnation(replica.incarnation().0 + 1);
                    replica = Replica::start(self.config(node), incarnation, found, amnesic);
                }
            }
            let sent = out.iter().filter_map(|output| match output {
                Output::Send(to, message) => Some(Sent { from: node, to: *to, message: *message }),
                _ => None,
            });
            let sent = sent.map(|sent| self.messages.number(sent).0).collect();
            out.retain(|output| matches!(output, Output::Chosen(..) | Output::Tip(_)));
            let replica = self.replicas.number(replica.renumbered()).0;
            self.effects.push(Effect { replica, sent, told: out });
        }
        tried as usize
    }

    fn ghost(&mut self, world: &World, place: usize, act: Act, effect: usize) -> Result<u32, Wrong> {
        let node = Node(place as u8);
        let effect = &self.effects[effect];
        let quiet = effect.told.is_empty()
            && matches!(
                act,
                Act::Timer | Act::Fetch(_) | Act::Return | Act::Complete | Act::Deliver(_) | Act::Again(_)
            )
            && self.replicas.get(world.replicas[place]).durable()
                == self.replicas.get(effect.replica).durable();
        if quiet {
            return Ok(world.ghost);
        }
        let mut ghost = self.ghosts.get(world.ghost).clone();
        match act {
            Act::Propose(_) => ghost.proposes(node),
            Act::AskTip => ghost.asks(node),
            Act::Crash => ghost.crashes(node),
            Act::Wipe => {
                ghost.crashes(node);
                ghost.wiped(node);
            }
            _ => {}
        }
        let (before, after) = (self.replicas.get(world.replicas[place]), self.replicas.get(effect.replica));
        if !matches!(act, Act::Crash | Act::Wipe) && before.durable() != after.durable() {
            ghost.flushed(node, before.durable(), after.durable())?;
        }
        for output in &effect.told {
            match output {
                Output::Chosen(chosen, origin) => ghost.reported(node, *chosen, *origin)?,
                Output::Tip(tip) => ghost.tip_found(node, *tip)?,
                _ => {}
            }
        }
        Ok(self.ghosts.number(ghost).0)
    }

    /// One line of a history.
    pub(crate) fn describe(&self, label: &Label) -> String {
        let Label { place, act } = label;
        let name = |node: Node| ["A", "B", "C"][node.place()];
        let what = match act {
            Act::Deliver(number) | Act::Again(number) => {
                let Sent { from, message, .. } = self.messages.get(*number);
                format!("receives from {}: {}", name(*from), crate::words::message(message))
            }
            Act::Propose(value) => format!("is given {}", crate::words::value(*value)),
            Act::Fetch(chosen) => format!("fetches up to {}", chosen.index.0),
            other => format!("{other:?}").to_lowercase(),
        };
        format!("{} {what}", name(Node(*place as u8)))
    }

    /// How many different replicas, messages, ghosts and acts were met.
    pub(crate) fn sizes(&self) -> String {
        format!(
            "{} replica states, {} messages, {} flights, {} ghosts, {} acts",
            self.replicas.len(),
            self.messages.len(),
            self.flights.len(),
            self.ghosts.len(),
            self.tried.len()
        )
    }
}

/// What led from a world to the next.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Label {
    place: usize,
    act: Act,
}

fn proposes(out: &[Output]) -> bool {
    out.iter().any(|output| matches!(output, Output::Send(_, message) if message.proposal.is_some()))
}

/// Flushes what is being written, as long as that leads to no proposal; a flush may begin the next write.
fn flush_now(replica: &mut Replica, out: &mut Vec<Output>) {
    while let Some(token) = replica.is_writing()
        && !proposes(out)
    {
        replica.step(Input::Flushed(token), out);
    }
}
