//! The way to one node: its address, the connection when there is one, and when to try again.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use ioengine::sync::{Notify, race};
use ioengine::{Instant, Io, Queue};

use super::connection::Connection;
use super::error::ClientError;
use super::hedge::Taken;
use crate::outcome::Outcome;
use crate::request::Hello;

/// First wait after a connection that failed; twice as long each time.
const BACKOFF_MIN: Duration = Duration::from_millis(5);
/// Longest wait between two tries.
const BACKOFF_MAX: Duration = Duration::from_millis(500);

/// The way to one node. Connects when asked, one try at a time, however many callers wait.
pub(super) struct Link {
    io: Io,
    pub(super) address: SocketAddr,
    hello: Hello<'static>,
    patience: Duration,
    connection: RefCell<Option<Rc<Connection>>>,
    connecting: Cell<bool>,
    /// A try has ended.
    tried: Notify,
    failures: Cell<u32>,
    /// A try has ended before.
    begun: Cell<bool>,
    next_try: Cell<Instant>,
    /// What its answers to gets took.
    pub(super) taken: Taken,
}

/// Clears the mark of a try also when whoever made it goes away.
struct Trying<'a>(&'a Link);

impl Drop for Trying<'_> {
    fn drop(&mut self) {
        self.0.connecting.set(false);
        self.0.tried.notify();
    }
}

impl Link {
    pub(super) fn new(io: &Io, address: SocketAddr, hello: Hello<'static>, patience: Duration) -> Rc<Link> {
        Rc::new(Link {
            io: io.clone(),
            address,
            hello,
            patience,
            connection: RefCell::new(None),
            connecting: Cell::new(false),
            tried: Notify::new(),
            failures: Cell::new(0),
            begun: Cell::new(false),
            next_try: Cell::new(io.now()),
            taken: Taken::default(),
        })
    }

    /// The connection, if there is one that is not lost.
    pub(super) fn live(&self) -> Option<Rc<Connection>> {
        self.connection.borrow().as_ref().filter(|connection| connection.lost().is_none()).cloned()
    }

    /// Whether there is a connection whose far end is heard, or a first one to wait for. A lost one is made anew in the background,
    /// when its time has come: who has another replica to ask does not wait for a node that may be dead. (Failing history: for as
    /// long as a node was dead, each request that began with it waited up to [`BACKOFF_MAX`] for the next try, and then for its end.)
    pub(super) fn is_of_use(self: &Rc<Self>) -> bool {
        if let Some(connection) = self.live() {
            return !connection.is_silent();
        }
        if !self.begun.get() {
            return true;
        }
        let is_due = !self.connecting.get() && self.io.now() >= self.next_try.get();
        if is_due {
            let link = Rc::clone(self);
            link.connecting.set(true);
            // How it ends, the link itself remembers.
            self.io.spawn(Queue::Foreground, async move { drop(link.connect().await) });
        }
        false
    }

    /// Whether it owes answers and was not heard for so long, or somebody waits for its connection.
    pub(super) fn is_slow(&self, after: Duration) -> bool {
        match self.live() {
            Some(connection) => connection.silent_for().is_some_and(|silent| silent >= after),
            None => self.connecting.get(),
        }
    }

    /// The connection, made if there is none. None when `until` came first.
    ///
    /// # Errors
    /// How the try ended that this call made or waited for.
    pub(super) async fn connection(&self, until: Instant) -> Option<Result<Rc<Connection>, ClientError>> {
        loop {
            if let Some(connection) = self.live() {
                return Some(Ok(connection));
            }
            let now = self.io.now();
            if now >= until {
                return None;
            }
            if self.connecting.get() {
                let tried = self.tried.notified();
                race(tried, self.io.sleep_until(until)).await;
                continue;
            }
            if now < self.next_try.get() {
                self.io.sleep_until(self.next_try.get().min(until)).await;
                continue;
            }
            return Some(self.connect().await);
        }
    }

    async fn connect(&self) -> Result<Rc<Connection>, ClientError> {
        self.connecting.set(true);
        let trying = Trying(self);
        let opened = Connection::open(&self.io, self.address, self.hello, self.patience).await;
        self.begun.set(true);
        match &opened {
            Ok(connection) => {
                self.failures.set(0);
                *self.connection.borrow_mut() = Some(Rc::clone(connection));
            }
            Err(error) => {
                let failures = self.failures.get().min(16);
                self.failures.set(failures + 1);
                let backoff = BACKOFF_MIN.saturating_mul(1 << failures).min(BACKOFF_MAX);
                let wait = jittered(&self.io, backoff.max(hint(error)));
                self.next_try.set(self.io.now().after(wait));
            }
        }
        drop(trying);
        opened
    }
}

/// What a server that is too busy for a hello says about when to come again.
fn hint(error: &ClientError) -> Duration {
    match error {
        ClientError::Refused { outcome: Outcome::Busy { hint_ms, .. }, .. } => {
            Duration::from_millis(u64::from(*hint_ms))
        }
        _ => Duration::ZERO,
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // The tasks of the connection hold it, too: without this they would wait for ever.
        if let Some(connection) = self.connection.borrow_mut().take() {
            connection.close("the client has gone");
        }
    }
}

/// Half to one and a half of `wait`, at random: clients that failed together must not come back together.
pub(super) fn jittered(io: &Io, wait: Duration) -> Duration {
    let wait_us = wait.as_micros() as u64;
    Duration::from_micros(wait_us / 2 + io.random() % (wait_us + 1))
}
