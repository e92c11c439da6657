//! Waiting for room in turn: as many are called as there is room for, the longest waiting first.
//!
//! Must never lose a call: who was called and goes away before using it passes it on. Invariant: who waits is either in the
//! line or called. (Waking all each time costs the square of their number.)

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

#[derive(Default)]
pub(super) struct Turnstile {
    line: RefCell<VecDeque<Rc<Place>>>,
}

#[derive(Default)]
struct Place {
    called: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Turnstile {
    /// True when nobody is in the line.
    pub(super) fn is_empty(&self) -> bool {
        self.line.borrow().is_empty()
    }

    /// Calls up to `count` of the line.
    pub(super) fn call(&self, count: usize) {
        for _ in 0..count {
            let Some(place) = self.line.borrow_mut().pop_front() else { return };
            place.called.set(true);
            if let Some(waker) = place.waker.borrow_mut().take() {
                waker.wake();
            }
        }
    }

    /// Takes a place at the end of the line, at once.
    pub(super) fn wait(&self) -> Turn<'_> {
        let place = Rc::new(Place::default());
        self.line.borrow_mut().push_back(Rc::clone(&place));
        Turn { turnstile: self, place, used: false }
    }
}

/// Resolves when called.
pub(super) struct Turn<'a> {
    turnstile: &'a Turnstile,
    place: Rc<Place>,
    used: bool,
}

impl Future for Turn<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.place.called.get() {
            self.used = true;
            return Poll::Ready(());
        }
        *self.place.waker.borrow_mut() = Some(context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if self.used {
            return;
        }
        if self.place.called.get() {
            self.turnstile.call(1);
        } else {
            self.turnstile.line.borrow_mut().retain(|place| !Rc::ptr_eq(place, &self.place));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn poll(turn: &mut Turn<'_>) -> bool {
        Pin::new(turn).poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn the_longest_waiting_is_called_first_and_a_call_is_never_lost() {
        let turnstile = Turnstile::default();
        turnstile.call(3);
        let mut turns: Vec<Turn<'_>> = (0..5).map(|_| turnstile.wait()).collect();
        assert!(turns.iter_mut().all(|turn| !poll(turn)), "calls before do not count");
        turnstile.call(2);
        let called: Vec<bool> = turns.iter_mut().map(poll).collect();
        assert_eq!(called, [true, true, false, false, false]);
        // One goes away uncalled, one called: its call goes to the next.
        drop(turns.remove(3));
        turnstile.call(1);
        drop(turns.remove(2));
        assert!(poll(&mut turns[2]));
        assert!(turnstile.is_empty());
        drop(turns);
    }
}
