//! The driver of a real core: starts the operations of the core's table on its ring and reports their completions.
//! Owns the ring, the descriptors and the progress of each operation. Never waits except where its host asks it to
//! (`enter`) and at the end (`teardown`). Invariant: between `submit` and `complete` exactly one entry per operation
//! is with the kernel, and what it points to stays where it is.

use super::disk::{self, OpenDisk};
use super::net::{self, Sockets};
use super::ring::{Plainer, Ring, Wait};
use super::{refusal::Refusal, shared_memory, signals, system};
use crate::buffer::Arena;
use crate::disk::{DiskOpen, DiskOpenError, DiskShare, Geometry};
use crate::driver::Driver;
use crate::operation::{Errno, Operation, OperationId, OperationTable, Orphan};
use crate::region::{Region, RegionError};
use crate::ring::Bell;
use crate::stream::NetError;
use io_uring::{opcode, squeue, types};
use nix::sys::signalfd::SignalFd;
use socket2::SockAddr;
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;

/// What a completion is of, in the highest byte of its user data.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// An operation: generation in the next 24 bits, slot in the lowest 32.
    Operation = 1,
    /// The answer to a cancel; of no interest, the operation itself answers too.
    Cancel = 2,
    /// A bell that could not be rung: its target in the lowest 33 bits.
    BellFailed = 3,
    /// Another core rang.
    BellRang = 4,
    /// Another core rang, through the event descriptor.
    EventRang = 5,
}

const KIND_SHIFT: u32 = 56;
const GENERATION_SHIFT: u32 = 32;
const GENERATION_MASK: u32 = 0xff_ffff;
/// In a bell's target: an event descriptor, not a ring.
const TARGET_EVENT: u64 = 1 << 32;
/// What is written to an event descriptor to ring it.
static EVENT_ONE: u64 = 1;
/// `IORING_RECVSEND_POLL_FIRST`, which the crate does not name: wait for the socket before the first attempt.
const RECEIVE_POLL_FIRST: u16 = 1;
/// A device that answers EAGAIN this often in a row is broken.
const AGAIN_COUNT_MAX: u8 = 100;

/// How far the operation in a slot has come.
#[derive(Default)]
struct Progress {
    /// Told apart from an earlier operation in the same slot.
    generation: u32,
    /// Bytes moved so far.
    done: u32,
    again: u8,
    /// Of a connect: where to. The kernel may read it until the operation has completed.
    address: Option<Box<SockAddr>>,
    /// Of a connect: the socket that becomes the stream.
    socket: Option<OwnedFd>,
}

struct DiskEntry {
    share: DiskShare,
    fd: RawFd,
    /// Stands in the ring's registered files, under the disk's own number.
    registered: bool,
    in_flight: u32,
    closing: bool,
}

impl DiskEntry {
    fn open_disk(&self) -> &OpenDisk {
        self.share.inner().expect("a share of the real back end holds an open disk")
    }
}

/// What a completion means for its operation.
enum Step {
    /// Not all moved yet, or interrupted: once more for the rest.
    Again,
    Done(Result<u32, Errno>),
}

pub(crate) struct UringDriver {
    ring: Ring,
    table: Rc<RefCell<OperationTable>>,
    progress: RefCell<Vec<Progress>>,
    sockets: RefCell<Sockets>,
    disks: RefCell<Vec<Option<DiskEntry>>>,
    signals: RefCell<Option<SignalFd>>,
    /// The bell's event descriptor where rings cannot send each other messages. The bell owns it.
    event: Option<RawFd>,
    bell: Arc<Bell>,
    /// Bells rung, by target, with what keeps each target from meaning something else.
    rung: RefCell<Vec<(u64, Arc<dyn Any + Send + Sync>)>>,
    /// Operations with the kernel.
    in_flight: Cell<usize>,
    ended: Cell<bool>,
    plainer: Plainer,
    /// Registered with the ring.
    _arena: Arena,
}

impl UringDriver {
    /// Set up on this thread, for this thread.
    pub(super) fn new(
        operation_count: usize,
        arena: &Arena,
        table: Rc<RefCell<OperationTable>>,
    ) -> Result<Rc<UringDriver>, Refusal> {
        let ring = Ring::open(operation_count)?;
        let mut plainer = Plainer::default();
        let (start, bytes) = arena.region();
        // SAFETY: the driver holds the arena, and `teardown` waits for every operation before either goes.
        plainer.arena = unsafe { ring.register_arena(start, bytes) }.err();
        plainer.files = ring.register_file_table().err();
        let by_event =
            !ring.supports(opcode::MsgRingData::CODE) || std::env::var_os(EVENT_BELL_VARIABLE).is_some();
        let bell_fd = if by_event {
            plainer.bell = Some("the kernel's rings cannot send each other messages".to_owned());
            event_descriptor()?
        } else {
            ring.duplicate()?
        };
        let event = by_event.then_some(bell_fd.as_raw_fd());
        let target = descriptor_bits(bell_fd.as_raw_fd()) | if by_event { TARGET_EVENT } else { 0 };
        let driver = Rc::new(UringDriver {
            ring,
            table,
            progress: RefCell::new((0..operation_count).map(|_| Progress::default()).collect()),
            sockets: RefCell::default(),
            disks: RefCell::default(),
            signals: RefCell::default(),
            event,
            bell: Bell::owning(target, Some(Arc::new(bell_fd))),
            rung: RefCell::default(),
            in_flight: Cell::new(0),
            ended: Cell::new(false),
            plainer,
            _arena: arena.clone(),
        });
        driver.await_event();
        Ok(driver)
    }

    pub(super) fn plainer(&self) -> &Plainer {
        &self.plainer
    }

    pub(super) fn ring(&self) -> &Ring {
        &self.ring
    }

    fn user_data(&self, id: OperationId) -> u64 {
        let generation = self.progress.borrow()[id.0 as usize].generation;
        (Kind::Operation as u64) << KIND_SHIFT | u64::from(generation) << GENERATION_SHIFT | u64::from(id.0)
    }

    /// The entry for what is left to do of an operation.
    fn entry(&self, id: OperationId) -> Result<squeue::Entry, Errno> {
        let mut table = self.table.borrow_mut();
        let progress = &mut self.progress.borrow_mut()[id.0 as usize];
        let done = progress.done;
        let entry = match table.operation_mut(id) {
            Operation::DiskRead { disk, offset, buffer, bytes } => {
                let (fd, flags) = self.disk_target(*disk);
                let to = buffer[done as usize..*bytes as usize].as_mut_ptr();
                self.ring.read(fd, to, *bytes - done, *offset + u64::from(done)).flags(flags)
            }
            Operation::DiskWrite { disk, offset, buffer, bytes, durable } => {
                let (fd, flags) = self.disk_target(*disk);
                let from = buffer[done as usize..*bytes as usize].as_ptr();
                // Without a volatile cache what has completed is durable.
                let through = *durable && self.is_volatile(*disk);
                let rw_flags = if through { libc::RWF_DSYNC } else { 0 };
                self.ring.write(fd, from, *bytes - done, *offset + u64::from(done), rw_flags).flags(flags)
            }
            Operation::DiskFlush { disk } => {
                let (fd, flags) = self.disk_target(*disk);
                opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build().flags(flags)
            }
            Operation::Accept { listener } => {
                let fd = types::Fd(self.sockets.borrow().fd(*listener));
                let nowhere = std::ptr::null_mut();
                opcode::Accept::new(fd, nowhere, nowhere.cast()).flags(libc::SOCK_CLOEXEC).build()
            }
            Operation::Connect { address } => {
                if progress.socket.is_none() {
                    progress.socket = Some(net::connecting(*address)?);
                    progress.address = Some(Box::new(SockAddr::from(*address)));
                }
                let fd = progress.socket.as_ref().expect("just made").as_raw_fd();
                let to = progress.address.as_deref().expect("made with the socket");
                opcode::Connect::new(types::Fd(fd), to.as_ptr().cast(), to.len()).build()
            }
            Operation::Receive { stream, buffer, start, end } => {
                let sockets = self.sockets.borrow();
                let to = buffer[*start as usize..].as_mut_ptr();
                let receive = opcode::Recv::new(types::Fd(sockets.fd(*stream)), to, *end - *start);
                // The last receive left nothing behind: wait first, rather than look in vain and wait then.
                let order = if sockets.is_drained(*stream) { RECEIVE_POLL_FIRST } else { 0 };
                receive.ioprio(order).build()
            }
            Operation::Send { stream, buffer, start, end } => {
                let fd = types::Fd(self.sockets.borrow().fd(*stream));
                let from = buffer[(*start + done) as usize..].as_ptr();
                let flags = libc::MSG_WAITALL | libc::MSG_NOSIGNAL;
                opcode::Send::new(fd, from, *end - *start - done).flags(flags).build()
            }
            Operation::Signal => {
                let mut signals = self.signals.borrow_mut();
                if signals.is_none() {
                    *signals = Some(signals::open().map_err(|errno| Errno(errno as i32))?);
                }
                let fd = types::Fd(signals.as_ref().expect("just opened").as_raw_fd());
                opcode::PollAdd::new(fd, poll_in()).build()
            }
        };
        drop(table);
        Ok(entry)
    }

    fn push_operation(&self, id: OperationId) {
        match self.entry(id) {
            // SAFETY: the slot owns the buffer, and Progress the address, until `finish`; buffers do not move.
            Ok(entry) => unsafe { self.ring.push(&entry.user_data(self.user_data(id))) },
            Err(errno) => self.finish(id, Err(errno)),
        }
    }

    fn disk_target(&self, disk: u32) -> (types::Fd, squeue::Flags) {
        let disks = self.disks.borrow();
        let entry = disks[disk as usize].as_ref().expect("an operation in flight holds its disk");
        if entry.registered {
            let index = i32::try_from(disk).expect("registered disks are few");
            (types::Fd(index), squeue::Flags::FIXED_FILE)
        } else {
            (types::Fd(entry.fd), squeue::Flags::empty())
        }
    }

    fn is_volatile(&self, disk: u32) -> bool {
        let disks = self.disks.borrow();
        let entry = disks[disk as usize].as_ref().expect("an operation in flight holds its disk");
        entry.open_disk().geometry.volatile_cache
    }

    /// Look at every completion that has come.
    pub(super) fn reap(&self) -> usize {
        self.ring.reap(|data, result, flags| {
            let kind = data >> KIND_SHIFT;
            if kind == Kind::Operation as u64 {
                self.on_completion(data, result, flags);
            } else if kind == Kind::BellFailed as u64 {
                self.on_bell_failed(data & (TARGET_EVENT * 2 - 1), result);
            } else if kind == Kind::EventRang as u64 {
                self.on_event(flags);
            } else {
                assert!(kind == Kind::Cancel as u64 || kind == Kind::BellRang as u64, "completion {data:#x}");
            }
        })
    }

    fn on_completion(&self, data: u64, result: i32, flags: u32) {
        let slot = u32::try_from(data & u64::from(u32::MAX)).expect("masked");
        let id = OperationId(slot);
        assert!(self.user_data(id) == data, "completion {data:#x} of an operation that is gone");
        match self.step(id, result, flags) {
            Step::Again => self.push_operation(id),
            Step::Done(result) => self.finish(id, result),
        }
    }

    fn step(&self, id: OperationId, result: i32, flags: u32) -> Step {
        let mut table = self.table.borrow_mut();
        let progress = &mut self.progress.borrow_mut()[id.0 as usize];
        let operation = table.operation_mut(id);
        let Ok(moved) = u32::try_from(result) else {
            let disk = matches!(operation, Operation::DiskRead { .. } | Operation::DiskWrite { .. });
            return match -result {
                libc::EINTR => Step::Again,
                libc::EAGAIN if disk && progress.again < AGAIN_COUNT_MAX => {
                    progress.again += 1;
                    Step::Again
                }
                // What went out before is told; the error comes again with the next send.
                _ if progress.done > 0 && matches!(operation, Operation::Send { .. }) => {
                    Step::Done(Ok(progress.done))
                }
                errno => Step::Done(Err(Errno(errno))),
            };
        };
        progress.again = 0;
        match operation {
            Operation::DiskRead { bytes, .. } | Operation::DiskWrite { bytes, .. } => {
                progress.done += moved;
                // Nothing more, or not a whole sector: behind the end of a file that was cut.
                if moved == 0 || progress.done >= *bytes || !progress.done.is_multiple_of(512) {
                    Step::Done(Ok(progress.done))
                } else {
                    Step::Again
                }
            }
            Operation::Send { start, end, .. } => {
                progress.done += moved;
                if moved == 0 || progress.done >= *end - *start {
                    Step::Done(Ok(progress.done))
                } else {
                    Step::Again
                }
            }
            Operation::Signal => {
                let signals = self.signals.borrow();
                match signals::read(signals.as_ref().expect("opened before it was polled")) {
                    Ok(Some(number)) => Step::Done(Ok(number)),
                    Ok(None) => Step::Again,
                    Err(errno) => Step::Done(Err(Errno(errno as i32))),
                }
            }
            Operation::Accept { .. } => {
                // SAFETY: the kernel has just made this descriptor for us.
                let fd = unsafe { OwnedFd::from_raw_fd(result) };
                Step::Done(Ok(self.sockets.borrow_mut().insert(fd)))
            }
            Operation::Connect { .. } => {
                let fd = progress.socket.take().expect("a connect holds its socket");
                if net::connected_to_itself(&fd) {
                    return Step::Done(Err(Errno(libc::ECONNREFUSED)));
                }
                Step::Done(Ok(self.sockets.borrow_mut().insert(fd)))
            }
            Operation::Receive { stream, .. } => {
                let more = io_uring::cqueue::sock_nonempty(flags);
                self.sockets.borrow_mut().received(*stream, more);
                Step::Done(Ok(moved))
            }
            Operation::DiskFlush { .. } => Step::Done(Ok(moved)),
        }
    }

    /// The operation is over: let go of what it held and tell whoever waits.
    fn finish(&self, id: OperationId, result: Result<u32, Errno>) {
        let mut table = self.table.borrow_mut();
        let target = Target::of(table.operation_mut(id));
        let progress = &mut self.progress.borrow_mut()[id.0 as usize];
        *progress =
            Progress { generation: (progress.generation + 1) & GENERATION_MASK, ..Progress::default() };
        self.in_flight.set(self.in_flight.get() - 1);
        match target {
            Target::Disk(disk) => self.disk_operation_ended(disk),
            Target::Socket(socket) => self.sockets.borrow_mut().end(socket),
            Target::None => {}
        }
        let orphan = table.complete(id, result);
        drop(table);
        if let Some(Orphan::Stream(stream)) = orphan {
            self.sockets.borrow_mut().close(stream);
        }
    }

    fn disk_operation_ended(&self, disk: u32) {
        let mut disks = self.disks.borrow_mut();
        let entry = disks[disk as usize].as_mut().expect("an operation in flight holds its disk");
        entry.in_flight -= 1;
        let gone = entry.closing && entry.in_flight == 0;
        drop(disks);
        if gone {
            self.release_disk(disk);
        }
    }

    fn release_disk(&self, disk: u32) {
        let entry = self.disks.borrow_mut()[disk as usize].take().expect("released once");
        if entry.registered {
            // Otherwise the kernel would hold the file, and with it the claim.
            self.ring.register_file(disk, -1);
        }
    }

    fn add_disk(&self, share: &DiskShare) -> u32 {
        let fd = share.inner::<OpenDisk>().expect("a share of the real back end holds an open disk").fd();
        let mut disks = self.disks.borrow_mut();
        let at = disks.iter().position(Option::is_none).unwrap_or_else(|| {
            disks.push(None);
            disks.len() - 1
        });
        let number = u32::try_from(at).expect("disks are few");
        let registered = self.ring.register_file(number, fd);
        disks[at] = Some(DiskEntry { share: share.clone(), fd, registered, in_flight: 0, closing: false });
        number
    }

    /// Arm the poll of the event descriptor, where there is one.
    fn await_event(&self) {
        if let Some(event) = self.event {
            let data = (Kind::EventRang as u64) << KIND_SHIFT;
            let poll = opcode::PollAdd::new(types::Fd(event), poll_in()).multi(true).build();
            // SAFETY: points to nothing; the descriptor lives as long as the ring.
            unsafe { self.ring.push(&poll.user_data(data)) };
        }
    }

    fn on_event(&self, flags: u32) {
        let event = self.event.expect("only an event descriptor is polled like this");
        let mut count = 0_u64;
        // SAFETY: the kernel writes 8 bytes to a u64. Nothing to read is as good: the descriptor does not block.
        unsafe { libc::read(event, (&raw mut count).cast(), 8) };
        if !io_uring::cqueue::more(flags) && !self.ended.get() {
            self.await_event();
        }
    }

    fn push_bell(&self, target: u64) {
        let fd = i32::try_from(target & u64::from(u32::MAX)).expect("a descriptor");
        let entry = if target & TARGET_EVENT == 0 {
            let data = (Kind::BellRang as u64) << KIND_SHIFT;
            opcode::MsgRingData::new(types::Fd(fd), 0, data, None).build()
        } else {
            opcode::Write::new(types::Fd(fd), (&raw const EVENT_ONE).cast(), 8).build()
        };
        let data = (Kind::BellFailed as u64) << KIND_SHIFT | target;
        // SAFETY: points to a static at most.
        unsafe { self.ring.push(&entry.flags(squeue::Flags::SKIP_SUCCESS).user_data(data)) };
    }

    fn on_bell_failed(&self, target: u64, result: i32) {
        match -result {
            // The peer has ended.
            libc::EBADF | libc::EBADFD | libc::EINVAL | libc::ECANCELED | libc::EOWNERDEAD => {}
            // Short of memory or of room in the peer's ring: it must hear of the message, so ring again.
            _ if !self.ended.get() && self.rung.borrow().iter().any(|(known, _)| *known == target) => {
                self.push_bell(target);
            }
            _ => {}
        }
    }

    /// What `target` stands for stays as long as this core may ring it.
    fn keep_target(&self, target: u64, bell: &Bell) {
        let Some(owner) = &bell.owner else { return };
        let mut rung = self.rung.borrow_mut();
        if rung.iter().any(|(known, _)| *known == target) {
            return;
        }
        // Peers that nobody else knows any more have ended; but an entry for one may not have left yet.
        if self.ring.is_flushed() {
            rung.retain(|(_, owner)| Arc::strong_count(owner) > 1);
        }
        rung.push((target, Arc::clone(owner)));
    }

    /// End everything in flight that has no end of its own, wait for the rest, give back what is registered. Called
    /// by the host after its tasks are gone; afterwards nothing may be submitted.
    pub(crate) fn teardown(&self) {
        if self.ended.replace(true) {
            return;
        }
        self.sockets.borrow_mut().shutdown_all();
        let endless: Vec<OperationId> = {
            let mut table = self.table.borrow_mut();
            let pending: Vec<OperationId> = table.pending().collect();
            pending
                .into_iter()
                .filter(|&id| !matches!(Target::of(table.operation_mut(id)), Target::Disk(_)))
                .collect()
        };
        for id in endless {
            self.cancel(id);
        }
        while self.in_flight.get() > 0 {
            self.ring.enter(Wait::Forever);
            self.reap();
        }
        // Bells of the last turn.
        self.ring.enter(Wait::No);
        self.ring.unregister_all();
    }
}

impl Drop for UringDriver {
    fn drop(&mut self) {
        // The host tears down first; this is for a core that never ran.
        self.teardown();
    }
}

/// What an operation holds open.
enum Target {
    Disk(u32),
    Socket(u32),
    None,
}

impl Target {
    fn of(operation: &Operation) -> Target {
        match *operation {
            Operation::DiskRead { disk, .. }
            | Operation::DiskWrite { disk, .. }
            | Operation::DiskFlush { disk } => Target::Disk(disk),
            Operation::Accept { listener: socket }
            | Operation::Receive { stream: socket, .. }
            | Operation::Send { stream: socket, .. } => Target::Socket(socket),
            Operation::Connect { .. } | Operation::Signal => Target::None,
        }
    }
}

/// Set (to anything) to wake cores through event descriptors, as on kernels whose rings cannot send messages.
const EVENT_BELL_VARIABLE: &str = "THERMOCLINE_EVENT_BELL";

fn event_descriptor() -> Result<OwnedFd, Refusal> {
    // SAFETY: makes a descriptor, touches no memory.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
    if fd < 0 {
        let error = std::io::Error::last_os_error();
        return Err(Refusal::new(
            format!("no event descriptor: {error}"),
            "raise the limit of open files (ulimit -n)",
        ));
    }
    // SAFETY: just made, owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn descriptor_bits(fd: RawFd) -> u64 {
    u64::try_from(fd).expect("an open descriptor is not negative")
}

fn poll_in() -> u32 {
    u32::try_from(libc::POLLIN).expect("a small positive constant")
}

impl Driver for UringDriver {
    fn now_ns(&self) -> u64 {
        system::now_ns()
    }

    fn wall_us(&self) -> u64 {
        system::wall_us()
    }

    fn seed(&self) -> u64 {
        system::seed()
    }

    fn boot_id(&self) -> [u8; 16] {
        system::boot_id()
    }

    fn submit(&self, id: OperationId) {
        assert!(!self.ended.get(), "this core has ended: nothing may be asked of it any more");
        let target = Target::of(self.table.borrow_mut().operation_mut(id));
        self.in_flight.set(self.in_flight.get() + 1);
        match target {
            Target::Disk(disk) => {
                let mut disks = self.disks.borrow_mut();
                let entry = disks[disk as usize].as_mut().expect("an open Disk has its entry");
                entry.in_flight += 1;
                let writes = !matches!(self.table.borrow_mut().operation_mut(id), Operation::DiskRead { .. });
                let open = entry.open_disk();
                assert!(!(writes && open.read_only), "disk {disk} was opened for reading");
                let volatile = open.geometry.volatile_cache;
                drop(disks);
                if !volatile
                    && matches!(self.table.borrow_mut().operation_mut(id), Operation::DiskFlush { .. })
                {
                    return self.finish(id, Ok(0)); // nothing to flush
                }
            }
            Target::Socket(socket) => self.sockets.borrow_mut().begin(socket),
            Target::None => {}
        }
        self.push_operation(id);
    }

    fn cancel(&self, id: OperationId) {
        let entry = opcode::AsyncCancel::new(self.user_data(id)).build();
        // SAFETY: points to nothing.
        unsafe { self.ring.push(&entry.user_data((Kind::Cancel as u64) << KIND_SHIFT)) };
    }

    fn disk_open(&self, name: &str, open: DiskOpen) -> Result<(u32, Geometry, DiskShare), DiskOpenError> {
        let (geometry, share) = disk::open(name, open)?;
        Ok((self.add_disk(&share), geometry, share))
    }

    fn disk_attach(&self, share: &DiskShare) -> Result<(u32, Geometry), DiskOpenError> {
        let geometry = share.inner::<OpenDisk>().expect("both cores are real ones").geometry;
        Ok((self.add_disk(share), geometry))
    }

    fn disk_close(&self, disk: u32) {
        let quiet = {
            let mut disks = self.disks.borrow_mut();
            let entry = disks[disk as usize].as_mut().expect("a Disk is dropped once");
            entry.closing = true;
            entry.in_flight == 0
        };
        if quiet {
            self.release_disk(disk);
        }
    }

    fn listen(&self, address: SocketAddr) -> Result<(u32, SocketAddr), NetError> {
        let (fd, bound) = net::listen(address)?;
        Ok((self.sockets.borrow_mut().insert(fd), bound))
    }

    fn listener_close(&self, listener: u32) {
        // Accepts in flight were cancelled when their futures were dropped; those end before the descriptor does.
        self.sockets.borrow_mut().close(listener);
    }

    fn stream_peer(&self, stream: u32) -> Option<SocketAddr> {
        self.sockets.borrow_mut().peer(stream)
    }

    fn stream_shutdown(&self, stream: u32) {
        self.sockets.borrow_mut().shutdown(stream);
    }

    fn stream_close(&self, stream: u32) {
        self.sockets.borrow_mut().close(stream);
    }

    fn region(&self, name: &str, bytes: usize) -> Result<Region, RegionError> {
        shared_memory::region(name, bytes)
    }

    fn ring_bell(&self, bell: &Bell) {
        if bell.must_ring() {
            // Relaxed: written before the bell was published.
            let target = bell.target.load(std::sync::atomic::Ordering::Relaxed);
            self.keep_target(target, bell);
            self.push_bell(target);
        }
    }

    fn bell(&self) -> Arc<Bell> {
        Arc::clone(&self.bell)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn driver() -> Rc<UringDriver> {
        let arena = Arena::new(1 << 20).unwrap();
        UringDriver::new(8, &arena, Rc::new(RefCell::new(OperationTable::new(8)))).unwrap()
    }

    /// A descriptor's number is soon that of something else. A bell rung for a core that had ended once reached a ring
    /// of another part of the program that had got the number.
    #[test]
    fn the_bell_of_an_ended_core_rings_nobody_else() {
        let (ended, ringer) = (driver(), driver());
        let bell = ended.bell();
        bell.going_to_sleep();
        drop(ended);
        // Whatever descriptors the core had are free: these rings take their numbers.
        let mut rings: Vec<io_uring::IoUring> = (0..8).map(|_| io_uring::IoUring::new(8).unwrap()).collect();
        ringer.ring_bell(&bell);
        ringer.ring().enter(Wait::No);
        ringer.reap();
        assert!(rings.iter_mut().all(|ring| ring.completion().is_empty()), "a ring nobody meant was rung");
    }
}
