//! Byte streams between nodes and clients (TCP), and their listeners.

use crate::buffer::Buf;
use crate::io::Io;
use crate::operation::{Errno, Operation};
use std::net::SocketAddr;
use std::ops::Range;

/// Why a network operation failed.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{operation} {address}: {errno}")]
pub struct NetError {
    /// `listen on`, `accept on`, `connect to`, `receive from`, `send to`.
    pub operation: &'static str,
    /// The far end, or the address listened on.
    pub address: String,
    /// What the system said.
    pub errno: Errno,
}

fn name(address: Option<SocketAddr>) -> String {
    address.map_or_else(|| "a closed stream".to_owned(), |address| address.to_string())
}

/// Accepts streams on one core.
pub struct Listener {
    io: Io,
    handle: u32,
    address: SocketAddr,
}

impl Listener {
    pub(crate) fn new(io: Io, handle: u32, address: SocketAddr) -> Listener {
        Listener { io, handle, address }
    }

    /// The address bound, with the port that was chosen.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The next stream that came to this core.
    ///
    /// # Errors
    /// [`NetError`], for instance when descriptors have run out; wait a little before the next call then.
    pub async fn accept(&self) -> Result<Stream, NetError> {
        match self.io.start(Operation::Accept { listener: self.handle }).await.0 {
            Ok(handle) => Ok(Stream { io: self.io.clone(), handle }),
            Err(errno) => Err(NetError { operation: "accept on", address: self.address.to_string(), errno }),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.io.driver().listener_close(self.handle);
    }
}

/// A connected stream. Dropping it closes it; operations in flight on it end soon, with an error or 0 bytes.
/// One receive and one send may be in flight at a time, from different tasks.
pub struct Stream {
    io: Io,
    handle: u32,
}

impl Stream {
    pub(crate) async fn connect(io: Io, address: SocketAddr) -> Result<Stream, NetError> {
        match io.start(Operation::Connect { address }).await.0 {
            Ok(handle) => Ok(Stream { io, handle }),
            Err(errno) => Err(NetError { operation: "connect to", address: address.to_string(), errno }),
        }
    }

    /// The far end; `None` once the stream is closed.
    #[must_use]
    pub fn peer(&self) -> Option<SocketAddr> {
        self.io.driver().stream_peer(self.handle)
    }

    /// Receive at least one byte into `buffer[range]`; 0 means that the far end has closed its side.
    pub async fn receive(&self, buffer: Buf, range: Range<usize>) -> (Result<usize, NetError>, Buf) {
        let (start, end) = checked(&buffer, &range);
        let operation = Operation::Receive { stream: self.handle, buffer, start, end };
        self.finish("receive from", operation).await
    }

    /// Send all of `buffer[range]`. On an error some of it may have been received.
    pub async fn send(&self, buffer: Buf, range: Range<usize>) -> (Result<(), NetError>, Buf) {
        let (start, end) = checked(&buffer, &range);
        let operation = Operation::Send { stream: self.handle, buffer, start, end };
        let (result, buffer) = self.finish("send to", operation).await;
        let result = result.and_then(|sent| {
            if sent == range.len() {
                return Ok(());
            }
            Err(NetError { operation: "send to", address: name(self.peer()), errno: Errno(libc::EPIPE) })
        });
        (result, buffer)
    }

    async fn finish(&self, what: &'static str, operation: Operation) -> (Result<usize, NetError>, Buf) {
        let (result, operation) = self.io.start(operation).await;
        let buffer = operation.into_buffer().expect("a stream operation gives its buffer back");
        let result = result.map(|count| count as usize).map_err(|errno| NetError {
            operation: what,
            address: name(self.peer()),
            errno,
        });
        (result, buffer)
    }

    /// End both directions now: whoever waits on this stream is answered. Idempotent.
    pub fn shutdown(&self) {
        self.io.driver().stream_shutdown(self.handle);
    }
}

fn checked(buffer: &Buf, range: &Range<usize>) -> (u32, u32) {
    assert!(
        range.start < range.end && range.end <= buffer.len(),
        "{range:?} of a buffer of {}",
        buffer.len()
    );
    let fits = "a buffer's length fits u32";
    (u32::try_from(range.start).expect(fits), u32::try_from(range.end).expect(fits))
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.io.driver().stream_close(self.handle);
    }
}
