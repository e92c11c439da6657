//! Closed load: a connection sends `depth` requests in one go, waits for every answer, and begins again. What is
//! measured is how much can be done; its latencies say how long a whole batch takes and are no promise to anybody.
//!
//! One that insists sends what was answered `Busy` once more, the same bytes, when the server said: so a write is done once.

use super::LoadError;
use super::ground::{Connection, Ground, Slot, buffer};
use super::wire::Wire;
use crate::workloads::Workload;
use ioengine::Buf;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

/// Longest wait of one that insists, but for a longer hint.
const WAIT_MAX: Duration = Duration::from_secs(1);
/// A request that was refused for so long is refused.
const PATIENCE: Duration = Duration::from_secs(60);

/// What waits to be sent again: the requests of a batch, by tag, and where their bytes stand.
#[derive(Default)]
struct Refused {
    tags: Vec<u32>,
    hint_ms: u32,
}

/// One connection, until the load ends or the workload has no more.
pub(super) async fn run<W: Wire, L: Workload>(
    ground: &Rc<Ground<L>>,
    connection: Connection<W>,
    (depth, insists): (usize, bool),
    request_bytes_max: usize,
) -> Result<(), LoadError> {
    let Connection { number, stream, mut wire, mut inbox } = connection;
    let io = &ground.io;
    let mut out = buffer(io, depth * request_bytes_max)?;
    let mut slots = vec![Slot::EMPTY; depth];
    let mut places = vec![0..0; depth];
    let mut refused = Refused { tags: Vec::with_capacity(depth), hint_ms: 0 };
    while !ground.is_stopping() {
        let begun = io.now();
        let (mut bytes, mut asked) = (0, 0);
        for (tag, slot) in (0..).zip(&mut slots) {
            let room = &mut out[bytes..];
            match ground.ask(&mut wire, (number, tag), begun.ns, slot, room) {
                0 => break,
                written => {
                    places[asked] = bytes..bytes + written;
                    bytes += written;
                }
            }
            asked += 1;
        }
        if asked == 0 {
            break;
        }
        let mut round = 0;
        loop {
            let (result, back) = stream.send(out, 0..bytes).await;
            out = back;
            result.map_err(|error| LoadError::Net(error.to_string()))?;
            refused.tags.clear();
            refused.hint_ms = 0;
            let may_insist = insists && !ground.is_stopping() && io.now().since(begun) < PATIENCE;
            let mut want = 0;
            while asked > 0 {
                let received = inbox.receive(io, &stream, want).await?;
                ground.meter.borrow_mut().received(received);
                let now_ns = io.now().ns;
                want = inbox.walk(&mut wire, |answered| {
                    asked -= 1;
                    if may_insist && answered.hint_ms > 0 {
                        refused.tags.push(answered.tag);
                        refused.hint_ms = refused.hint_ms.max(answered.hint_ms);
                    } else {
                        ground.answered(&slots[answered.tag as usize], answered, now_ns);
                    }
                })?;
            }
            if refused.tags.is_empty() {
                break;
            }
            asked = refused.tags.len();
            ground.meter.borrow_mut().again(asked);
            bytes = gather(&mut out, &mut places, &mut refused.tags);
            let hint = Duration::from_millis(u64::from(refused.hint_ms));
            io.sleep((hint * (1 << round)).min(WAIT_MAX.max(hint))).await;
            round = (round + 1).min(6);
        }
    }
    Ok(())
}

/// Moves the bytes of these requests to the front, in their order. Bytes that they take.
fn gather(out: &mut Buf, places: &mut [Range<usize>], tags: &mut [u32]) -> usize {
    tags.sort_unstable();
    let mut bytes = 0;
    for &tag in &*tags {
        let place = places[tag as usize].clone();
        places[tag as usize] = bytes..bytes + place.len();
        let end = bytes + place.len();
        out.copy_within(place, bytes);
        bytes = end;
    }
    bytes
}
