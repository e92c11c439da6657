//! Closed load: a connection sends `depth` requests in one go, waits for every answer, and begins again. What is
//! measured is how much can be done; its latencies say how long a whole batch takes and are no promise to anybody.

use super::LoadError;
use super::ground::{Connection, Ground, Slot, buffer};
use super::wire::Wire;
use crate::workloads::Workload;
use std::rc::Rc;

/// One connection, until the load ends or the workload has no more.
pub(super) async fn run<W: Wire, L: Workload>(
    ground: &Rc<Ground<L>>,
    connection: Connection<W>,
    depth: usize,
    request_bytes_max: usize,
) -> Result<(), LoadError> {
    let Connection { stream, mut wire, mut inbox } = connection;
    let io = &ground.io;
    let mut out = buffer(io, depth * request_bytes_max)?;
    let mut slots = vec![Slot::EMPTY; depth];
    while !ground.is_stopping() {
        let begun_ns = io.now().ns;
        let (mut bytes, mut asked) = (0, 0);
        for (tag, slot) in (0..).zip(&mut slots) {
            let room = &mut out[bytes..];
            match ground.ask(&mut wire, tag, begun_ns, slot, room) {
                0 => break,
                written => bytes += written,
            }
            asked += 1;
        }
        if asked == 0 {
            break;
        }
        let (result, back) = stream.send(out, 0..bytes).await;
        out = back;
        result.map_err(|error| LoadError::Net(error.to_string()))?;
        let mut want = 0;
        while asked > 0 {
            let received = inbox.receive(io, &stream, want).await?;
            ground.meter.borrow_mut().received(received);
            let now_ns = io.now().ns;
            want = inbox.walk(&mut wire, |answered| {
                ground.answered(&slots[answered.tag as usize], answered, now_ns);
                asked -= 1;
            })?;
        }
    }
    Ok(())
}
