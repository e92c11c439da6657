//! The bytes of a file, pulled from the two other machines at once: pieces in turn from both, in order to who takes them.
//!
//! Must never hold more pieces than agreed on, nor wait for a machine that does not answer while the other does. Invariant: each piece is given once; one
//! that no machine can read is given as a gap.

use super::core::ColdCore;
use super::others::NotGiven;
use ioengine::Queue;
use ioengine::sync::{Notify, race};
use net::client::ColdReply;
use net::cold::{ColdAnswer, ColdCopyOf};
use net::outcome::Outcome;
use net::reply::Answer;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

/// Pieces that are held or under way.
const WINDOW: u32 = 8;
/// Pieces that one machine is asked for at once.
const AT_ONCE: usize = 2;
/// How long one that gives nothing is left alone, at first and at most.
const REST: Duration = Duration::from_millis(100);
const REST_MAX: Duration = Duration::from_secs(20);
/// How long nothing may come before the file is tried again later.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why a file is not pulled to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum PullEnd {
    #[error("no other machine gives the next piece of it")]
    Silent,
    #[error("it was begun anew meanwhile")]
    Moved,
}

/// A piece of a file.
pub(super) struct Piece {
    /// Byte of the file.
    pub(super) at: u32,
    pub(super) bytes: u32,
    /// `None`: no machine can read it.
    reply: Option<ColdReply>,
}

impl Piece {
    /// What stands there; `None`: no machine can read it.
    pub(super) fn content(&self) -> Option<&[u8]> {
        match self.reply.as_ref()?.answer() {
            Answer::Cold(ColdAnswer::Copied(bytes)) => Some(bytes),
            _ => None,
        }
    }
}

/// Machines that cannot give a piece, and whether that is because their file is another one, or ends before.
type Cannot = Vec<(usize, bool)>;

/// What is asked next.
struct Pulling {
    /// The file; without offset and bytes.
    of: ColdCopyOf,
    head: u32,
    piece_bytes: u32,
    machines: usize,
    next: Cell<u32>,
    /// Pieces that one machine did not give, and who cannot.
    again: RefCell<BTreeMap<u32, Cannot>>,
    got: RefCell<BTreeMap<u32, Option<ColdReply>>>,
    taken: Cell<u32>,
    has_ended: Cell<bool>,
    is_moved: Cell<bool>,
    changed: Notify,
}

impl Pulling {
    fn piece_count(&self) -> u32 {
        self.head.div_ceil(self.piece_bytes)
    }

    fn range(&self, piece: u32) -> (u32, u32) {
        let at = piece * self.piece_bytes;
        (at, self.piece_bytes.min(self.head - at))
    }

    /// What this machine is to be asked for next, and who cannot give it.
    fn draw(&self, machine: usize) -> Option<(u32, Cannot)> {
        let mut again = self.again.borrow_mut();
        let is_mine = |cannot: &Cannot| cannot.iter().all(|(other, _)| *other != machine);
        let mine = again.iter().find(|(_, cannot)| is_mine(cannot)).map(|(piece, _)| *piece);
        if let Some(piece) = mine {
            return again.remove_entry(&piece);
        }
        let piece = self.next.get();
        let is_near = piece < self.piece_count() && piece < self.taken.get() + WINDOW;
        is_near.then(|| {
            self.next.set(piece + 1);
            (piece, Vec::new())
        })
    }

    fn put_back(&self, piece: u32, cannot: Cannot) {
        if cannot.len() < self.machines {
            self.again.borrow_mut().insert(piece, cannot);
        } else if cannot.iter().all(|(_, is_moved)| *is_moved) {
            self.is_moved.set(true);
        } else {
            ioengine::sometimes!("no other machine can read a piece of a file");
            self.got.borrow_mut().insert(piece, None);
        }
        self.changed.notify();
    }

    /// Ask a machine for one piece after the other.
    async fn ask(&self, core: &ColdCore, machine: usize) {
        let mut rest = REST;
        while !self.has_ended.get() {
            let changed = self.changed.notified();
            let Some((piece, mut cannot)) = self.draw(machine) else {
                changed.await;
                continue;
            };
            let (offset, bytes) = self.range(piece);
            match core.others.copy(machine, &ColdCopyOf { offset, bytes, ..self.of }).await {
                Ok(reply) => {
                    rest = REST;
                    self.got.borrow_mut().insert(piece, Some(reply));
                    self.changed.notify();
                }
                Err((NotGiven::Refused(..), Some(outcome @ (Outcome::Corrupt | Outcome::Moved)))) => {
                    let is_moved = outcome == Outcome::Moved;
                    if is_moved {
                        // It may have written less of it than the other.
                        ioengine::sometimes!("a machine has not written a piece of a file");
                    }
                    cannot.push((machine, is_moved));
                    self.put_back(piece, cannot);
                }
                Err((error, _)) => {
                    tracing::debug!(machine, %error, "a piece of a file is not given");
                    ioengine::sometimes!("a machine gives no piece of a file");
                    self.put_back(piece, cannot);
                    core.io.sleep(rest).await;
                    rest = (rest * 2).min(REST_MAX);
                }
            }
        }
    }
}

/// A file that is pulled; who drops it ends that.
pub(super) struct Pull {
    core: Rc<ColdCore>,
    pulling: Rc<Pulling>,
}

impl Pull {
    /// Begin to pull the bytes of a file before its head; `of` without offset and bytes.
    pub(super) fn begin(core: &Rc<ColdCore>, of: ColdCopyOf, head: u32) -> Pull {
        let machines = core.others.count();
        let pulling = Rc::new(Pulling {
            of,
            head,
            piece_bytes: core.others.copy_bytes(),
            machines,
            next: Cell::new(0),
            again: RefCell::default(),
            got: RefCell::default(),
            taken: Cell::new(0),
            has_ended: Cell::new(false),
            is_moved: Cell::new(false),
            changed: Notify::new(),
        });
        for machine in (0..machines).flat_map(|machine| [machine; AT_ONCE]) {
            let (core, pulling) = (Rc::clone(core), Rc::clone(&pulling));
            core.io.clone().spawn(Queue::Maintenance, async move { pulling.ask(&core, machine).await });
        }
        Pull { core: Rc::clone(core), pulling }
    }

    /// The next piece; `None` behind the last.
    ///
    /// # Errors
    /// [`PullEnd`].
    pub(super) async fn next(&self) -> Result<Option<Piece>, PullEnd> {
        let pulling = &self.pulling;
        let number = pulling.taken.get();
        if number >= pulling.piece_count() {
            return Ok(None);
        }
        let until = self.core.io.now().after(PATIENCE);
        loop {
            let changed = pulling.changed.notified();
            let got = pulling.got.borrow_mut().remove(&number);
            if let Some(reply) = got {
                pulling.taken.set(number + 1);
                pulling.changed.notify();
                let (at, bytes) = pulling.range(number);
                return Ok(Some(Piece { at, bytes, reply }));
            }
            if pulling.is_moved.get() {
                return Err(PullEnd::Moved);
            }
            if self.core.io.now() >= until {
                return Err(PullEnd::Silent);
            }
            race(changed, self.core.io.sleep_until(until)).await;
        }
    }
}

impl Drop for Pull {
    fn drop(&mut self) {
        self.pulling.has_ended.set(true);
        self.pulling.changed.notify();
    }
}
