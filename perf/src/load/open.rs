//! Open load: requests leave when the schedule says, on the next connection that has room. When none has, they wait
//! here, and their latency goes on from the intended start: a server that stalls is not spared (no coordinated
//! omission). How late requests left is recorded too, so that a reader can tell the generator's own delay.

use super::LoadError;
use super::ground::{Connection, Ground, Inbox, Slot, buffer};
use super::schedule::Schedule;
use super::wire::Wire;
use crate::workloads::Workload;
use ioengine::sync::{Notify, race, yield_now};
use ioengine::{Buf, Instant, Stream};
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// A start that is nearer than this is waited for awake: a sleep and its wake-up take longer.
const AWAKE_NS: u64 = 100_000;

/// One connection as the dispatcher, its writer and its reader see it.
struct Lane<W> {
    /// Number of its connection.
    number: usize,
    stream: Stream,
    wire: RefCell<W>,
    slots: RefCell<Vec<Slot>>,
    /// Tags that are free.
    free: RefCell<Vec<u32>>,
    /// Requests that wait to be sent, and their bytes.
    filling: RefCell<Option<Buf>>,
    bytes: Cell<usize>,
    filled: Notify,
}

impl<W: Wire> Lane<W> {
    fn is_idle(&self) -> bool {
        self.free.borrow().len() == self.slots.borrow().len()
    }
}

/// What dispatcher and lanes share.
struct Lanes<W> {
    lanes: Vec<Rc<Lane<W>>>,
    request_bytes_max: usize,
    /// A lane has room again.
    room: Notify,
}

/// Start the tasks of an open load.
pub(super) fn start<W: Wire + 'static, L: Workload + 'static>(
    ground: &Rc<Ground<L>>,
    connections: Vec<Connection<W>>,
    schedule: Schedule,
    depth: usize,
    request_bytes_max: usize,
) -> Result<(), LoadError> {
    let mut lanes = Vec::with_capacity(connections.len());
    let mut inboxes = Vec::with_capacity(connections.len());
    let tags = u32::try_from(depth).expect("a depth is small");
    for Connection { number, stream, wire, inbox } in connections {
        lanes.push(Rc::new(Lane {
            number,
            stream,
            wire: RefCell::new(wire),
            slots: RefCell::new(vec![Slot::EMPTY; depth]),
            free: RefCell::new((0..tags).rev().collect()),
            filling: RefCell::new(Some(buffer(&ground.io, depth * request_bytes_max)?)),
            bytes: Cell::new(0),
            filled: Notify::new(),
        }));
        inboxes.push(inbox);
    }
    let all = Rc::new(Lanes { lanes, request_bytes_max, room: Notify::new() });
    for (lane, inbox) in all.lanes.iter().zip(inboxes) {
        let spare = buffer(&ground.io, depth * request_bytes_max)?;
        ground.spawn(write(Rc::clone(ground), Rc::clone(lane), Rc::clone(&all), spare));
        ground.spawn(read(Rc::clone(ground), Rc::clone(lane), Rc::clone(&all), inbox));
    }
    ground.spawn(dispatch(Rc::clone(ground), all, schedule));
    Ok(())
}

/// Let each request leave at its time.
async fn dispatch<W: Wire, L: Workload>(
    ground: Rc<Ground<L>>,
    all: Rc<Lanes<W>>,
    mut schedule: Schedule,
) -> Result<(), LoadError> {
    let io = &ground.io;
    let origin = io.now().ns;
    let mut turn = 0;
    let mut intended = origin + schedule.next().expect("a schedule has no end");
    while !ground.is_stopping() {
        let room = all.room.notified();
        let mut now_ns = io.now().ns;
        let mut full = false;
        while intended <= now_ns {
            match offer(&ground, &all, &mut turn, intended) {
                Offered::Left => {
                    ground.meter.borrow_mut().left(now_ns - intended);
                    intended = origin + schedule.next().expect("a schedule has no end");
                }
                Offered::NoRoom => {
                    full = true;
                    break;
                }
                Offered::NoMore => {
                    ground.stop();
                    break;
                }
            }
            now_ns = io.now().ns;
        }
        all.lanes.iter().filter(|lane| lane.bytes.get() > 0).for_each(|lane| lane.filled.notify());
        if full {
            race(room, ground.changed()).await;
        } else if intended.saturating_sub(now_ns) > AWAKE_NS {
            let early = Instant { ns: intended - AWAKE_NS };
            race(io.sleep_until(early), ground.changed()).await;
        } else {
            yield_now().await;
        }
    }
    all.lanes.iter().for_each(|lane| lane.filled.notify());
    Ok(())
}

enum Offered {
    Left,
    NoRoom,
    NoMore,
}

/// Put the next request into the next lane with room.
fn offer<W: Wire, L: Workload>(
    ground: &Ground<L>,
    all: &Lanes<W>,
    turn: &mut usize,
    intended: u64,
) -> Offered {
    for _ in 0..all.lanes.len() {
        *turn = (*turn + 1) % all.lanes.len();
        let lane = &all.lanes[*turn];
        let mut filling = lane.filling.borrow_mut();
        let Some(out) = filling.as_mut() else { continue };
        let bytes = lane.bytes.get();
        if out.len() - bytes < all.request_bytes_max {
            continue;
        }
        let Some(tag) = lane.free.borrow_mut().pop() else { continue };
        let slot = &mut lane.slots.borrow_mut()[tag as usize];
        let written =
            ground.ask(&mut *lane.wire.borrow_mut(), (lane.number, tag), intended, slot, &mut out[bytes..]);
        if written == 0 {
            lane.free.borrow_mut().push(tag);
            return Offered::NoMore;
        }
        lane.bytes.set(bytes + written);
        return Offered::Left;
    }
    Offered::NoRoom
}

/// Send what waits in a lane, one send at a time; at the end, close it.
async fn write<W: Wire, L: Workload>(
    ground: Rc<Ground<L>>,
    lane: Rc<Lane<W>>,
    all: Rc<Lanes<W>>,
    spare: Buf,
) -> Result<(), LoadError> {
    let mut spare = Some(spare);
    loop {
        let filled = lane.filled.notified();
        let bytes = lane.bytes.replace(0);
        if bytes > 0 {
            let out = lane.filling.replace(spare.take()).expect("only the writer takes it");
            let (result, back) = lane.stream.send(out, 0..bytes).await;
            result.map_err(|error| LoadError::Net(error.to_string()))?;
            spare = Some(back);
            all.room.notify();
        } else if ground.is_stopping() && lane.is_idle() {
            lane.stream.shutdown();
            return Ok(());
        } else {
            filled.await;
        }
    }
}

/// Take the answers of a lane.
async fn read<W: Wire, L: Workload>(
    ground: Rc<Ground<L>>,
    lane: Rc<Lane<W>>,
    all: Rc<Lanes<W>>,
    mut inbox: Inbox,
) -> Result<(), LoadError> {
    let mut want = 0;
    loop {
        let received = match inbox.receive(&ground.io, &lane.stream, want).await {
            Ok(received) => received,
            // The writer has closed it.
            Err(_) if ground.is_stopping() && lane.is_idle() => return Ok(()),
            Err(error) => return Err(error),
        };
        ground.meter.borrow_mut().received(received);
        let now_ns = ground.io.now().ns;
        want = inbox.walk(&mut *lane.wire.borrow_mut(), |answered| {
            let slot = lane.slots.borrow()[answered.tag as usize];
            ground.answered(&slot, answered, now_ns);
            lane.free.borrow_mut().push(answered.tag);
        })?;
        all.room.notify();
        if ground.is_stopping() {
            lane.filled.notify();
        }
    }
}
