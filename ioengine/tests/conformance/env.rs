//! What a case finds around it, and small things cases share.

use ioengine::{Buf, CoreConfig, Disk, HostKind, Io, Launcher, LocalFuture};
use std::cell::Cell;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

/// Operations in flight at most on a core that runs a case.
pub(crate) const OPERATION_COUNT_MAX: usize = 24;
/// Arena of such a core, in bytes.
pub(crate) const ARENA_BYTES: usize = 8 << 20;
/// Smallest size of a scratch disk, in bytes.
pub(crate) const DISK_BYTES_MIN: u64 = 4 << 20;

/// A case.
pub(crate) type Case = fn(Io, Env) -> LocalFuture;

/// Surroundings of a case. Built on the thread that runs it.
pub(crate) struct Env {
    /// Starts further cores of the same node.
    pub(crate) launcher: Launcher,
    /// Host of the cores of this run.
    pub(crate) host: HostKind,
    /// Names of at least two scratch disks of `DISK_BYTES_MIN`, reading as zeros. Nobody has them open.
    pub(crate) disks: Vec<String>,
    /// Where to listen, any port; connections of this node reach it.
    pub(crate) listen: SocketAddr,
    /// A reachable address where nobody listens.
    pub(crate) nobody: SocketAddr,
    /// Beginning of the names of regions, this case's own.
    pub(crate) region: String,
    /// How to make disks fail; `None` where that is not to be had.
    pub(crate) faults: Option<Rc<dyn DiskFaults>>,
}

/// Failures on demand.
pub(crate) trait DiskFaults {
    /// Flushes of this disk fail from now on, or succeed again.
    fn flushes_fail(&self, disk: &str, fail: bool);
    /// There is no room on this disk for what was never written, or there is again.
    fn full(&self, disk: &str, full: bool);
}

impl Env {
    /// How the core of a case, or a further one, is laid out.
    pub(crate) fn core(name: &str, index: usize, host: HostKind) -> CoreConfig {
        CoreConfig {
            arena_bytes: ARENA_BYTES,
            operation_count_max: OPERATION_COUNT_MAX,
            host,
            ..CoreConfig::small(name, index)
        }
    }

    /// Start a further core of the node. It ends when `main` does; nobody joins it, so that a case can wait for
    /// its signs of life on any back end.
    pub(crate) fn launch<F, M>(&self, index: usize, main: F)
    where
        F: FnOnce(Io) -> M + Send + 'static,
        M: Future<Output = ()> + 'static,
    {
        let config = Env::core(&format!("case-{index}"), index, self.host);
        drop(self.launcher.launch(config, main).unwrap());
    }

    /// The first scratch disk, open for writing.
    pub(crate) fn disk(&self, io: &Io) -> Disk {
        io.open_disk(&self.disks[0], Default::default()).unwrap()
    }
}

/// Poll `future` once; its output if it was ready.
pub(crate) async fn poll_once<F: Future>(mut future: Pin<&mut F>) -> Option<F::Output> {
    std::future::poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(out) => Poll::Ready(Some(out)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

/// Look at `condition` until it holds, a millisecond apart.
pub(crate) async fn eventually(io: &Io, what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..20_000 {
        if condition() {
            return;
        }
        io.sleep(Duration::from_millis(1)).await;
    }
    panic!("never came: {what}");
}

/// Bytes that tell their seed and place.
pub(crate) fn fill(bytes: &mut [u8], seed: u64) {
    for (at, chunk) in bytes.chunks_mut(8).enumerate() {
        let word = (seed << 32 ^ at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
        chunk.copy_from_slice(&word[..chunk.len()]);
    }
}

/// Whether `bytes` are those of [`fill`].
pub(crate) fn is_filled(bytes: &[u8], seed: u64) -> bool {
    let mut expected = vec![0; bytes.len()];
    fill(&mut expected, seed);
    bytes == expected
}

/// A buffer with the bytes of `seed` in its first `bytes`.
pub(crate) fn filled(io: &Io, bytes: usize, seed: u64) -> Buf {
    let mut buffer = io.buffer(bytes).expect("the arena has room");
    fill(&mut buffer[..bytes], seed);
    buffer
}

/// Read `bytes` at `offset`, and whether they are those of `seed`.
pub(crate) async fn holds(io: &Io, disk: &Disk, offset: u64, bytes: usize, seed: u64) -> bool {
    let mut buffer = io.buffer(bytes).expect("the arena has room");
    buffer.fill(0xEE);
    let (result, buffer) = disk.read(buffer, offset, bytes).await;
    result.unwrap();
    is_filled(&buffer[..bytes], seed)
}

/// Counts tasks that have finished.
#[derive(Clone, Default)]
pub(crate) struct Done(Rc<Cell<usize>>);

impl Done {
    pub(crate) fn add(&self) {
        self.0.set(self.0.get() + 1);
    }

    pub(crate) fn count(&self) -> usize {
        self.0.get()
    }
}
