//! One simulated core's half of the back end: hands what the core asks to the world. A killed process's driver
//! ignores everything, so that the rest of a poll, and the drops of its tasks, have no effect.

use super::node::{Claim, ProcessState};
use super::queue::Event;
use super::trace::Tag;
use super::world::Shared;
use crate::disk::{DiskOpen, DiskOpenError, DiskShare, Geometry};
use crate::driver::Driver;
use crate::operation::{Errno, Operation, OperationId, OperationTable};
use crate::region::{Region, RegionError};
use crate::ring::Bell;
use crate::stream::NetError;
use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

pub(crate) struct SimDriver {
    shared: Rc<Shared>,
    core: u32,
    node: u32,
    process: Rc<ProcessState>,
    table: Rc<RefCell<OperationTable>>,
    bell: Arc<Bell>,
    /// Open disks: number of the disk, and whether it may be written.
    disks: RefCell<Vec<Option<(u32, bool)>>>,
}

impl SimDriver {
    pub(crate) fn new(
        shared: &Rc<Shared>,
        core: u32,
        node: u32,
        process: Rc<ProcessState>,
        table: Rc<RefCell<OperationTable>>,
        bell: Arc<Bell>,
    ) -> SimDriver {
        let disks = RefCell::default();
        SimDriver { shared: Rc::clone(shared), core, node, process, table, bell, disks }
    }

    fn handle(&self, disk: u32, writable: bool) -> u32 {
        let mut disks = self.disks.borrow_mut();
        let at = disks.iter().position(Option::is_none).unwrap_or_else(|| {
            disks.push(None);
            disks.len() - 1
        });
        disks[at] = Some((disk, writable));
        u32::try_from(at).expect("open disks are few")
    }

    fn disk(&self, handle: u32) -> (u32, bool) {
        self.disks.borrow()[handle as usize].expect("an open disk's handle")
    }

    /// The world, unless this process is dead.
    fn living(&self) -> Option<&Rc<Shared>> {
        self.process.alive.get().then_some(&self.shared)
    }
}

/// What a dead process's call gets: it never sees it.
fn killed(operation: &'static str, address: SocketAddr) -> NetError {
    NetError { operation, address: address.to_string(), errno: Errno(libc::EINTR) }
}

impl Driver for SimDriver {
    fn now_ns(&self) -> u64 {
        self.shared.now()
    }

    fn wall_us(&self) -> u64 {
        self.shared.wall_us(self.node)
    }

    fn seed(&self) -> u64 {
        self.shared.random.borrow().fork("core", u64::from(self.core)).bits()
    }

    fn boot_id(&self) -> [u8; 16] {
        self.shared.boot_id(self.node)
    }

    fn submit(&self, id: OperationId) {
        let Some(shared) = self.living() else { return };
        enum Ask {
            Disk(u32),
            Accept(u32),
            Connect(SocketAddr),
            Receive(u32),
            Send(u32),
            Signal,
        }
        let ask = match self.table.borrow_mut().operation_mut(id) {
            Operation::DiskRead { disk, .. }
            | Operation::DiskWrite { disk, .. }
            | Operation::DiskFlush { disk } => Ask::Disk(*disk),
            Operation::Accept { listener } => Ask::Accept(*listener),
            Operation::Connect { address } => Ask::Connect(*address),
            Operation::Receive { stream, .. } => Ask::Receive(*stream),
            Operation::Send { stream, .. } => Ask::Send(*stream),
            Operation::Signal => Ask::Signal,
        };
        match ask {
            Ask::Disk(handle) => {
                let (disk, writable) = self.disk(handle);
                shared.disk_submit(disk, writable, self.core, id, &self.table);
            }
            Ask::Accept(listener) => shared.accept(listener, self.core, id),
            Ask::Connect(address) => shared.connect(address, self.core, self.node, &self.process, id),
            Ask::Receive(stream) => shared.receive(stream, self.core, id),
            Ask::Send(stream) => shared.send(stream, self.core, id),
            Ask::Signal => shared.signal_wait(self.node, self.core, id),
        }
    }

    fn cancel(&self, id: OperationId) {
        let Some(shared) = self.living() else { return };
        enum Ask {
            Nothing,
            Accept(u32),
            Connect,
            Signal,
        }
        // A disk operation runs to its end; a stream's ends with the stream.
        let ask = match self.table.borrow_mut().operation_mut(id) {
            Operation::Accept { listener } => Ask::Accept(*listener),
            Operation::Connect { .. } => Ask::Connect,
            Operation::Signal => Ask::Signal,
            _ => Ask::Nothing,
        };
        match ask {
            Ask::Nothing => {}
            Ask::Accept(listener) => shared.accept_cancel(listener, self.core, id),
            Ask::Connect => shared.connect_cancel(self.core, id),
            Ask::Signal => shared.signal_cancel(self.node, self.core, id),
        }
    }

    fn disk_open(&self, name: &str, open: DiskOpen) -> Result<(u32, Geometry, DiskShare), DiskOpenError> {
        let (disk, geometry) = self.shared.disk_open(self.node, &self.process, name, !open.read_only)?;
        let claim =
            Claim { world: self.shared.id, disk, process: self.process.id, writable: !open.read_only };
        Ok((self.handle(disk, !open.read_only), geometry, DiskShare::new(name, Box::new(claim))))
    }

    fn disk_attach(&self, share: &DiskShare) -> Result<(u32, Geometry), DiskOpenError> {
        let claim = share.inner::<Claim>().filter(|claim| claim.process == self.process.id);
        let claim = claim.ok_or_else(|| DiskOpenError {
            name: share.name().to_owned(),
            what: "it was opened by another process".to_owned(),
            mend: "open it here".to_owned(),
        })?;
        let geometry = self.shared.disks.borrow()[claim.disk as usize].geometry();
        Ok((self.handle(claim.disk, claim.writable), geometry))
    }

    fn disk_close(&self, disk: u32) {
        self.disks.borrow_mut()[disk as usize] = None;
    }

    fn listen(&self, address: SocketAddr) -> Result<(u32, SocketAddr), NetError> {
        let shared = self.living().ok_or_else(|| killed("listen on", address))?;
        shared.listen(address, self.core, self.node, &self.process)
    }

    fn listener_close(&self, listener: u32) {
        if let Some(shared) = self.living() {
            shared.listener_close(listener);
        }
    }

    fn stream_peer(&self, stream: u32) -> Option<SocketAddr> {
        self.living()?.stream_peer(stream)
    }

    fn stream_shutdown(&self, stream: u32) {
        if let Some(shared) = self.living() {
            shared.stream_shutdown(stream);
        }
    }

    fn stream_close(&self, stream: u32) {
        if let Some(shared) = self.living() {
            shared.stream_close(stream);
        }
    }

    fn region(&self, name: &str, bytes: usize) -> Result<Region, RegionError> {
        self.shared.region(self.node, &self.process, name, bytes)
    }

    fn ring_bell(&self, bell: &Bell) {
        let Some(shared) = self.living() else { return };
        if bell.must_ring() {
            // Relaxed: the number of a simulated core never changes.
            let core = bell.target.load(std::sync::atomic::Ordering::Relaxed);
            shared.trace.note(shared.now(), Tag::Bell, u64::from(self.core), core);
            let delay = shared.draw(&shared.config.bell_ns);
            shared.push(delay, Event::Bell { core: u32::try_from(core).expect("a simulated core's number") });
        }
    }

    fn bell(&self) -> Arc<Bell> {
        Arc::clone(&self.bell)
    }
}
