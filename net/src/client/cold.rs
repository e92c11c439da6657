//! A node with cold disks, by its address: one request, one answer. Which copy to ask, and which one next, is the caller's to say.
//!
//! Must never send a request again by itself: all of them may be asked again, and who asks knows which other copy is better. Invariant:
//! a call ends within its deadline.

use super::connection::{CallEnd, CallError};
use super::error::ClientError;
use super::link::Link;
use super::{ClientConfig, hello};
use crate::cold::ColdRequest;
use crate::redirect::REDIRECT_NODES;
use crate::reply::{Answer, Reply};
use crate::request::Request;
use ioengine::Io;
use ioengine::sync::{Either, race};
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

/// Machines of a cold group: each holds what the two others do.
pub const COPIES: usize = REDIRECT_NODES;

/// The machines of a cold group in an order drawn anew.
#[must_use]
pub fn copies_in_any_order(io: &Io) -> [usize; COPIES] {
    let random = io.random();
    let mut order = [0, 1, 2];
    order.rotate_left((random % 3) as usize);
    if random & 8 == 0 {
        order.swap(1, 2);
    }
    order
}

/// What the first of three copies gives, in an order drawn anew: the next is asked when one gives nothing, and the second beside the first when
/// that takes longer than `slow`.
///
/// # Errors
/// What each of them said in its place.
pub async fn first_copy<T, N>(
    io: &Io,
    slow: Duration,
    ask: impl AsyncFn(usize) -> Result<T, N>,
) -> Result<T, [N; COPIES]> {
    let [one, two, three] = copies_in_any_order(io);
    let (mut first, mut second) = (pin!(ask(one)), pin!(ask(two)));
    let raced = match race(first.as_mut(), io.sleep(slow)).await {
        Either::First(given) => Either::First(given),
        Either::Second(()) => {
            ioengine::sometimes!("a slow cold node is not waited for alone");
            race(first.as_mut(), second.as_mut()).await
        }
    };
    let (not, other) = match raced {
        Either::First(Ok(given)) | Either::Second(Ok(given)) => return Ok(given),
        Either::First(Err(not)) => (not, second.await),
        Either::Second(Err(not)) => (not, first.await),
    };
    let also_not = match other {
        Ok(given) => return Ok(given),
        Err(not) => not,
    };
    ask(three).await.map_err(|last| [not, also_not, last])
}

/// A way to one node with cold disks. Never leaves its core.
pub struct ColdNode {
    io: Io,
    address: SocketAddr,
    link: Rc<Link>,
    deadline: Duration,
}

/// An answer that the session has checked.
pub struct ColdReply {
    request: crate::Operation,
    body: Vec<u8>,
}

impl ColdReply {
    /// What it says.
    #[must_use]
    pub fn answer(&self) -> Answer<'_> {
        Reply::decode(self.request, &self.body).expect("the session has decoded it before").answer
    }
}

impl ColdNode {
    /// A way to the node at `address`; nothing is sent yet. Of the config its cluster, deadline, patience and limits count.
    #[must_use]
    pub fn new(io: &Io, address: SocketAddr, config: &ClientConfig) -> ColdNode {
        let link = Link::new(io, address, hello(config, 0), config.patience);
        ColdNode { io: io.clone(), address, link, deadline: config.deadline }
    }

    /// Where it is.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ask once.
    ///
    /// # Errors
    /// [`ClientError`] when there is no answer in time: what was asked may be done or not.
    pub async fn ask(&self, request: &ColdRequest<'_>) -> Result<ColdReply, ClientError> {
        self.ask_within(request, self.deadline).await
    }

    /// The same, for as long as this request may take.
    ///
    /// # Errors
    /// As of [`ColdNode::ask`].
    pub async fn ask_within(
        &self,
        request: &ColdRequest<'_>,
        deadline: Duration,
    ) -> Result<ColdReply, ClientError> {
        self.request(&Request::Cold(*request), deadline).await
    }

    /// The node's counters, as JSON.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn status(&self) -> Result<ColdReply, ClientError> {
        self.request(&Request::Status, self.deadline).await
    }

    async fn request(&self, request: &Request<'_>, deadline: Duration) -> Result<ColdReply, ClientError> {
        let operation = request.operation();
        let until = self.io.now().after(deadline);
        let overdue =
            |cause| ClientError::Timeout { operation, after: deadline, cause: Option::map(cause, Box::new) };
        let connection = match self.link.connection(until).await {
            Some(Ok(connection)) => connection,
            Some(Err(error)) => return Err(error),
            None => return Err(overdue(None)),
        };
        match connection.call(request, 0, until).await {
            Ok(answered) => Ok(ColdReply { request: operation, body: answered.body.to_vec() }),
            Err(CallError { error: CallEnd::Lost(error), .. }) => Err(overdue(Some(error))),
            Err(CallError { error: CallEnd::Late, .. }) => Err(overdue(None)),
            Err(CallError { error: CallEnd::TooLarge, .. }) => Err(ClientError::Input {
                what: "the request is larger than the node takes in a frame".into(),
            }),
        }
    }
}
