//! Waiting within one core: no locks, no threads.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

/// Wakes every task that waits for something to change. A waiter re-checks its condition after each wake.
#[derive(Default)]
pub struct Notify {
    waiters: RefCell<Vec<Waker>>,
    epoch: Cell<u64>,
}

impl Notify {
    /// Nobody waits yet.
    #[must_use]
    pub fn new() -> Notify {
        Notify::default()
    }

    /// Wake everyone that waits now.
    pub fn notify(&self) {
        self.epoch.set(self.epoch.get() + 1);
        // Drained in place: keeps the capacity, so that a steady state allocates nothing.
        for waker in self.waiters.borrow_mut().drain(..) {
            waker.wake();
        }
    }

    /// Resolves at the first `notify` after this call (not after the first poll: nothing is lost in between).
    pub fn notified(&self) -> Notified<'_> {
        Notified { notify: self, epoch: self.epoch.get() }
    }
}

/// Future of [`Notify::notified`].
pub struct Notified<'a> {
    notify: &'a Notify,
    epoch: u64,
}

impl Future for Notified<'_> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.notify.epoch.get() != self.epoch {
            return Poll::Ready(());
        }
        let mut waiters = self.notify.waiters.borrow_mut();
        if !waiters.iter().any(|known| known.will_wake(context.waker())) {
            waiters.push(context.waker().clone());
        }
        Poll::Pending
    }
}

/// Resolves to whichever finishes first; the first wins a tie.
pub async fn race<A: Future, B: Future>(first: A, second: B) -> Either<A::Output, B::Output> {
    let mut first = std::pin::pin!(first);
    let mut second = std::pin::pin!(second);
    std::future::poll_fn(move |context| {
        if let Poll::Ready(out) = first.as_mut().poll(context) {
            return Poll::Ready(Either::First(out));
        }
        if let Poll::Ready(out) = second.as_mut().poll(context) {
            return Poll::Ready(Either::Second(out));
        }
        Poll::Pending
    })
    .await
}

/// Runs both and resolves when both have finished.
pub async fn join<A: Future, B: Future>(first: A, second: B) -> (A::Output, B::Output) {
    let mut first = std::pin::pin!(first);
    let mut second = std::pin::pin!(second);
    let (mut one, mut two) = (None, None);
    std::future::poll_fn(|context| {
        if one.is_none()
            && let Poll::Ready(out) = first.as_mut().poll(context)
        {
            one = Some(out);
        }
        if two.is_none()
            && let Poll::Ready(out) = second.as_mut().poll(context)
        {
            two = Some(out);
        }
        if one.is_some() && two.is_some() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    (one.expect("both have finished"), two.expect("both have finished"))
}

/// Result of [`race`].
#[derive(Debug, PartialEq, Eq)]
pub enum Either<A, B> {
    /// The first future finished first.
    First(A),
    /// The second future finished first.
    Second(B),
}

/// Let every other ready task of this core run once.
pub async fn yield_now() {
    let mut yielded = false;
    std::future::poll_fn(move |context| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await
}
