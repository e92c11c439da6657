//! The handle of one core, given to everything that runs on it.

use crate::buffer::{Arena, Buf};
use crate::clock::Instant;
use crate::disk::{Disk, DiskOpen, DiskOpenError, DiskShare};
use crate::driver::Driver;
use crate::executor::{LocalFuture, Queue};
use crate::operation::{InFlight, Operation, OperationTable};
use crate::region::{Region, RegionError};
use crate::ring::{Bell, Inbound};
use crate::stream::{Listener, NetError, Stream};
use crate::timer::{Sleep, TimedOut, Timers};
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng, SeedableRng};
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// Runs the tasks of a core: our own executor, glommio, or the simulator.
pub(crate) trait Host {
    /// Name for logs and `doctor`.
    fn name(&self) -> &'static str;
    /// Make `task` ready in `queue`.
    fn spawn(&self, queue: Queue, task: LocalFuture);
}

struct Core {
    index: usize,
    driver: Rc<dyn Driver>,
    host: Rc<dyn Host>,
    operations: Rc<RefCell<OperationTable>>,
    timers: RefCell<Timers>,
    arena: Arena,
    random: RefCell<Xoshiro256PlusPlus>,
    /// Receivers of cross-core rings that live on this core; the host looks at them once per turn.
    inbound: RefCell<Vec<Weak<dyn Inbound>>>,
    /// Bells to ring at the end of this turn, each at most once.
    bells_due: RefCell<Vec<Arc<Bell>>>,
    turns: Cell<u64>,
    /// The clock when this turn began.
    turn_began: Cell<Instant>,
}

/// One core. Cheap to clone, never leaves its thread.
#[derive(Clone)]
pub struct Io(Rc<Core>);

impl Io {
    pub(crate) fn new(
        index: usize,
        driver: Rc<dyn Driver>,
        host: Rc<dyn Host>,
        operations: Rc<RefCell<OperationTable>>,
        arena: Arena,
    ) -> Io {
        let turn_began = Cell::new(Instant { ns: driver.now_ns() });
        let random = RefCell::new(Xoshiro256PlusPlus::seed_from_u64(driver.seed()));
        Io(Rc::new(Core {
            index,
            driver,
            host,
            operations,
            timers: RefCell::default(),
            arena,
            random,
            inbound: RefCell::default(),
            bells_due: RefCell::default(),
            turns: Cell::new(0),
            turn_began,
        }))
    }

    /// This core's index among the cores launched for its node, from 0.
    #[must_use]
    pub fn core_index(&self) -> usize {
        self.0.index
    }

    /// Name of the host that runs this core's tasks: `own`, `glommio` or `sim`.
    #[must_use]
    pub fn host_name(&self) -> &'static str {
        self.0.host.name()
    }

    /// Monotonic time of this back end.
    #[must_use]
    pub fn now(&self) -> Instant {
        Instant { ns: self.0.driver.now_ns() }
    }

    /// The clock as it was when this turn began: no look at it, and at most a turn old (a fraction of a millisecond,
    /// unless a task has taken longer). For deadlines of seconds and for ages.
    #[must_use]
    pub fn turn_began(&self) -> Instant {
        self.0.turn_began.get()
    }

    /// Wall clock, microseconds since the Unix epoch. May jump, back too.
    #[must_use]
    pub fn wall_us(&self) -> u64 {
        self.0.driver.wall_us()
    }

    /// 64 random bits; in the simulator from its seed.
    #[must_use]
    pub fn random(&self) -> u64 {
        self.0.random.borrow_mut().next_u64()
    }

    /// Changes with every boot of the machine, so that shared memory of an earlier boot is told apart.
    #[must_use]
    pub fn boot_id(&self) -> [u8; 16] {
        self.0.driver.boot_id()
    }

    /// Start a task on this core.
    pub fn spawn(&self, queue: Queue, future: impl Future<Output = ()> + 'static) {
        self.0.host.spawn(queue, Box::pin(future));
    }

    /// Resolves once `duration` has passed.
    #[must_use]
    pub fn sleep(&self, duration: Duration) -> Sleep {
        self.sleep_until(self.now().after(duration))
    }

    /// Resolves once the clock has reached `deadline`.
    #[must_use]
    pub fn sleep_until(&self, deadline: Instant) -> Sleep {
        Sleep::new(self.clone(), deadline)
    }

    /// `future`, given up after `duration`.
    ///
    /// # Errors
    /// [`TimedOut`]; the future is dropped then, and an operation it had in flight still runs to its completion.
    pub async fn timeout<T>(
        &self,
        duration: Duration,
        future: impl Future<Output = T>,
    ) -> Result<T, TimedOut> {
        match crate::sync::race(future, self.sleep(duration)).await {
            crate::sync::Either::First(out) => Ok(out),
            crate::sync::Either::Second(()) => Err(TimedOut),
        }
    }

    /// An aligned buffer of at least `bytes` from this core's arena, contents arbitrary. `None` when the arena
    /// is out of room: answer `Busy`, never grow.
    #[must_use]
    pub fn buffer(&self, bytes: usize) -> Option<Buf> {
        self.0.arena.take(bytes)
    }

    /// Bytes of the arena, and how many of them are taken now.
    #[must_use]
    pub fn arena_bytes(&self) -> (usize, usize) {
        self.0.arena.bytes()
    }

    /// Open a disk: a path of a file or block device, in the simulator a disk's name.
    ///
    /// # Errors
    /// What, where and what to do: missing, in use, not aligned, no direct I/O.
    pub fn open_disk(&self, name: &str, open: DiskOpen) -> Result<Disk, DiskOpenError> {
        let (handle, geometry, share) = self.0.driver.disk_open(name, open)?;
        Ok(Disk::new(self.clone(), handle, geometry, share))
    }

    /// A disk that another core of this node opened, for use on this core.
    ///
    /// # Errors
    /// As [`Io::open_disk`].
    pub fn attach_disk(&self, share: &DiskShare) -> Result<Disk, DiskOpenError> {
        let (handle, geometry) = self.0.driver.disk_attach(share)?;
        Ok(Disk::new(self.clone(), handle, geometry, share.clone()))
    }

    /// Listen on `address` (port 0: any). Several cores may listen on the same address; each connection goes to one.
    ///
    /// # Errors
    /// [`NetError`] when the address cannot be bound.
    pub fn listen(&self, address: SocketAddr) -> Result<Listener, NetError> {
        let (handle, bound) = self.0.driver.listen(address)?;
        Ok(Listener::new(self.clone(), handle, bound))
    }

    /// Connect to `address`.
    ///
    /// # Errors
    /// [`NetError`] when refused, unreachable or timed out by the system.
    pub async fn connect(&self, address: SocketAddr) -> Result<Stream, NetError> {
        Stream::connect(self.clone(), address).await
    }

    /// Map the named shared-memory region of this node, `bytes` long (a multiple of 64). It survives the process,
    /// never a loss of power. A region that is absent or of another size starts zeroed.
    ///
    /// # Errors
    /// [`RegionError`] when shared memory is not to be had.
    pub fn region(&self, name: &str, bytes: usize) -> Result<Region, RegionError> {
        self.0.driver.region(name, bytes)
    }

    /// The next SIGTERM, SIGINT or SIGHUP of the process. One waiter per process.
    pub fn signals(&self) -> crate::signal::Signals {
        crate::signal::Signals::new(self.clone())
    }

    /// Operations in flight on this core.
    #[must_use]
    pub fn operations_in_flight(&self) -> usize {
        self.0.operations.borrow().in_flight()
    }

    /// Turns this core has made: how often it looked for completions.
    #[must_use]
    pub fn turns(&self) -> u64 {
        self.0.turns.get()
    }

    pub(crate) fn start(&self, operation: Operation) -> InFlight {
        InFlight::start(&self.0.operations, &self.0.driver, operation)
    }

    pub(crate) fn disk_ends(&self, disk: u32, ended: Arc<AtomicBool>) {
        self.0.operations.borrow_mut().disk_ends(disk, ended);
    }

    pub(crate) fn driver(&self) -> &Rc<dyn Driver> {
        &self.0.driver
    }

    pub(crate) fn timers(&self) -> &RefCell<Timers> {
        &self.0.timers
    }

    pub(crate) fn add_inbound(&self, inbound: Weak<dyn Inbound>) {
        self.0.inbound.borrow_mut().push(inbound);
    }

    pub(crate) fn bell_due(&self, bell: &Arc<Bell>) {
        let mut due = self.0.bells_due.borrow_mut();
        if !due.iter().any(|known| Arc::ptr_eq(known, bell)) {
            due.push(Arc::clone(bell));
        }
    }

    /// Host, at the end of a turn: wake the cores that were sent something.
    pub(crate) fn ring_bells(&self) {
        // Taken out so that the driver may be asked while nothing is borrowed; put back to keep the capacity.
        let mut due = std::mem::take(&mut *self.0.bells_due.borrow_mut());
        for bell in due.drain(..) {
            self.0.driver.ring_bell(&bell);
        }
        *self.0.bells_due.borrow_mut() = due;
    }

    /// Host, once per turn: wake the tasks whose ring has something. True if any was woken.
    pub(crate) fn poll_inbound(&self) -> bool {
        let mut any = false;
        self.0.inbound.borrow_mut().retain(|inbound| match inbound.upgrade() {
            None => false,
            Some(inbound) => {
                any |= inbound.wake_if_ready();
                true
            }
        });
        any
    }

    /// Host, once per turn: fire due timers. Returns the count woken.
    pub(crate) fn fire_timers(&self) -> usize {
        let now = self.now();
        self.0.turn_began.set(now);
        self.0.turns.set(self.0.turns.get() + 1);
        self.0.timers.borrow_mut().fire(now)
    }

    /// Host, before it sleeps: when the next timer is due.
    pub(crate) fn next_timer(&self) -> Option<Instant> {
        self.0.timers.borrow_mut().next()
    }
}
