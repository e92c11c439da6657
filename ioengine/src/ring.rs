//! Rings between the cores of a node: each ordered pair has a one-way ring of bytes (rtrb), messages go length
//! first. Sending costs no system call while the receiver is awake; the bell of a sleeping core is rung once per
//! turn, whatever was sent.
//!
//! Sleeping: the receiver sets `sleeping`, fences, looks at its rings once more, then waits. The sender pushes,
//! fences, and rings only if it swapped `sleeping` from true. So either the receiver sees the message or the
//! sender sees the flag.

use crate::io::Io;
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};

/// By what a sleeping core is woken.
pub(crate) struct Bell {
    sleeping: AtomicBool,
    /// The driver's own: ring descriptor, or number of the simulated core.
    pub(crate) target: AtomicU64,
    /// What makes `target` mean this core and nothing else, also after the core has ended: a descriptor's number
    /// would soon be that of something else.
    pub(crate) owner: Option<Arc<dyn Any + Send + Sync>>,
}

impl Bell {
    pub(crate) fn new(target: u64) -> Arc<Bell> {
        Bell::owning(target, None)
    }

    pub(crate) fn owning(target: u64, owner: Option<Arc<dyn Any + Send + Sync>>) -> Arc<Bell> {
        Arc::new(Bell { sleeping: AtomicBool::new(false), target: AtomicU64::new(target), owner })
    }

    /// Receiver: about to wait. Look at the rings once more after this.
    pub(crate) fn going_to_sleep(&self) {
        self.sleeping.store(true, Ordering::Relaxed);
        // SeqCst fence: the flag is visible before the rings are looked at (pairs with `must_ring`).
        fence(Ordering::SeqCst);
    }

    /// Receiver: awake again.
    pub(crate) fn awake(&self) {
        self.sleeping.store(false, Ordering::Relaxed);
    }

    /// Sender, after its push: true if the receiver sleeps and nobody else has rung yet.
    pub(crate) fn must_ring(&self) -> bool {
        // SeqCst fence: the push is visible before the flag is read (pairs with `going_to_sleep`).
        fence(Ordering::SeqCst);
        self.sleeping.load(Ordering::Relaxed) && self.sleeping.swap(false, Ordering::Relaxed)
    }
}

/// A receiver as the host sees it.
pub(crate) trait Inbound {
    /// Wake the waiting task if there is something to receive. True if one was woken.
    fn wake_if_ready(&self) -> bool;
}

/// One core's ends of all rings of its node, before the core runs. Travels to the core's thread.
pub struct MeshPort {
    index: usize,
    bells: Arc<Vec<OnceLock<Arc<Bell>>>>,
    producers: Vec<Option<rtrb::Producer<u8>>>,
    consumers: Vec<Option<rtrb::Consumer<u8>>>,
}

/// Rings between `core_count` cores, each `ring_bytes` long. Port `i` belongs to core `i`.
#[must_use]
pub fn mesh(core_count: usize, ring_bytes: usize) -> Vec<MeshPort> {
    let bells = Arc::new((0..core_count).map(|_| OnceLock::new()).collect::<Vec<_>>());
    let mut ports: Vec<MeshPort> = (0..core_count)
        .map(|index| MeshPort {
            index,
            bells: Arc::clone(&bells),
            producers: (0..core_count).map(|_| None).collect(),
            consumers: (0..core_count).map(|_| None).collect(),
        })
        .collect();
    for from in 0..core_count {
        for to in (0..core_count).filter(|&to| to != from) {
            let (producer, consumer) = rtrb::RingBuffer::new(ring_bytes);
            ports[from].producers[to] = Some(producer);
            ports[to].consumers[from] = Some(consumer);
        }
    }
    ports
}

impl MeshPort {
    /// Bind this port to its core. Index `i` of the results is the ring to and from core `i`; its own is `None`.
    #[must_use]
    pub fn attach(self, io: &Io) -> Vec<Option<(Sender, Receiver)>> {
        let bell = io.driver().bell();
        assert!(self.bells[self.index].set(bell).is_ok(), "a port is attached once");
        // A peer that pushed before the bell was there did not ring; the receivers look before they first wait.
        fence(Ordering::SeqCst);
        self.producers
            .into_iter()
            .zip(self.consumers)
            .enumerate()
            .map(|(peer, ends)| match ends {
                (Some(producer), Some(consumer)) => {
                    let sender = Sender { io: io.clone(), producer, peer, bells: Arc::clone(&self.bells) };
                    let queue = Rc::new(Inbox { consumer: RefCell::new(consumer), waker: Cell::new(None) });
                    io.add_inbound(Rc::downgrade(&queue) as std::rc::Weak<dyn Inbound>);
                    Some((sender, Receiver { queue }))
                }
                _ => None,
            })
            .collect()
    }
}

/// Length prefix of a message, in bytes.
const PREFIX_BYTES: usize = 4;

/// Sending end of one ring.
pub struct Sender {
    io: Io,
    producer: rtrb::Producer<u8>,
    peer: usize,
    bells: Arc<Vec<OnceLock<Arc<Bell>>>>,
}

impl Sender {
    /// Room for one message of this many bytes now.
    #[must_use]
    pub fn has_room(&self, bytes: usize) -> bool {
        self.producer.slots() >= bytes + PREFIX_BYTES
    }

    /// Append one message made of `parts`. False (and nothing sent) when it does not fit now. The receiver is
    /// woken at the end of this turn.
    pub fn push(&mut self, parts: &[&[u8]]) -> bool {
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        let length = u32::try_from(bytes).expect("messages fit u32").to_le_bytes();
        let Ok(mut chunk) = self.producer.write_chunk(bytes + PREFIX_BYTES) else { return false };
        let (first, second) = chunk.as_mut_slices();
        let mut at = 0;
        for part in std::iter::once(&length[..]).chain(parts.iter().copied()) {
            let head = part.len().min(first.len().saturating_sub(at));
            if head > 0 {
                first[at..at + head].copy_from_slice(&part[..head]);
            }
            if head < part.len() {
                let from = at + head - first.len();
                second[from..from + part.len() - head].copy_from_slice(&part[head..]);
            }
            at += part.len();
        }
        chunk.commit_all();
        // Absent: the peer has not attached yet and will look at its rings when it does.
        if let Some(bell) = self.bells[self.peer].get() {
            self.io.bell_due(bell);
        }
        true
    }

    /// The peer's end is gone: its core has ended.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        self.producer.is_abandoned()
    }
}

struct Inbox {
    consumer: RefCell<rtrb::Consumer<u8>>,
    waker: Cell<Option<Waker>>,
}

impl Inbox {
    fn ready(&self) -> bool {
        self.consumer.borrow().slots() >= PREFIX_BYTES
    }
}

impl Inbound for Inbox {
    fn wake_if_ready(&self) -> bool {
        if !self.ready() {
            return false;
        }
        match self.waker.take() {
            Some(waker) => {
                waker.wake();
                true
            }
            None => false,
        }
    }
}

/// Receiving end of one ring.
pub struct Receiver {
    queue: Rc<Inbox>,
}

impl Receiver {
    /// Resolves once there is a message.
    pub fn ready(&self) -> impl Future<Output = ()> + '_ {
        RingReady { inbox: &self.queue }
    }

    /// Hand the next message to `take`: as one slice, copied into `scratch` only where it wraps around the ring.
    /// `None` when there is none.
    pub fn pop<T>(&mut self, scratch: &mut Vec<u8>, take: impl FnOnce(&[u8]) -> T) -> Option<T> {
        let mut consumer = self.queue.consumer.borrow_mut();
        let mut length = [0; PREFIX_BYTES];
        {
            let prefix = consumer.read_chunk(PREFIX_BYTES).ok()?;
            let (first, second) = prefix.as_slices();
            length[..first.len()].copy_from_slice(first);
            length[first.len()..].copy_from_slice(second);
        }
        let bytes = u32::from_le_bytes(length) as usize;
        let chunk =
            consumer.read_chunk(PREFIX_BYTES + bytes).expect("a message is committed whole, prefix and body");
        let (first, second) = chunk.as_slices();
        let out = if first.len() == PREFIX_BYTES + bytes {
            take(&first[PREFIX_BYTES..])
        } else {
            scratch.clear();
            scratch.extend_from_slice(&first[PREFIX_BYTES.min(first.len())..]);
            scratch.extend_from_slice(&second[PREFIX_BYTES.saturating_sub(first.len())..]);
            take(scratch)
        };
        chunk.commit_all();
        Some(out)
    }
}

struct RingReady<'a> {
    inbox: &'a Inbox,
}

impl Future for RingReady<'_> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.inbox.ready() {
            return Poll::Ready(());
        }
        // The host looks at every inbox before it sleeps, after the flag is up: nothing is missed in between.
        self.inbox.waker.set(Some(context.waker().clone()));
        Poll::Pending
    }
}
