//! How connections end: closed, shut down, reset, timed out, or with the process or the machine behind them.

use super::network::{Fin, NO_CORE, Network};
use super::queue::{Event, Key};
use super::trace::Tag;
use super::world::Shared;

impl Shared {
    pub(crate) fn reset_due(&self, key: Key) {
        let mut net = self.network.borrow_mut();
        let coin = net.random.coin();
        let Some(socket) = net.socket(key) else { return };
        if coin {
            socket.incoming.clear(); // some systems drop what was not read yet
        }
        self.trace.note(self.now(), Tag::Reset, u64::from(key.index), 0);
        let errno = if socket.connecting.is_some() { libc::ECONNREFUSED } else { libc::ECONNRESET };
        self.fail(&mut net, key, errno);
    }

    /// This end of the connection is over with an error.
    pub(crate) fn fail(&self, net: &mut Network, key: Key, errno: i32) {
        let Some(socket) = net.socket(key) else { return };
        let core = socket.core;
        if let Some(connecting) = socket.connecting.take() {
            net.remove(key);
            return self.finish(core, connecting.id, Err(errno));
        }
        socket.error.get_or_insert(errno);
        socket.outgoing.clear();
        if socket.open {
            self.progress(net, key);
            self.serve_receives(net, key);
        } else {
            net.remove(key);
        }
    }

    /// Forget this end at once and tell the other one, if it can hear.
    pub(crate) fn abort(&self, net: &mut Network, key: Key) {
        let Some(socket) = net.socket(key) else { return };
        let (node, remote_node, peer) = (socket.node, socket.remote_node, socket.peer);
        net.remove(key);
        if let Some(peer) = peer
            && !net.blocked(node, remote_node)
        {
            let at = net.arrival(self.now(), node, remote_node, 64);
            self.push_at(at, Event::Reset { socket: peer });
        }
    }

    pub(crate) fn stream_shutdown(&self, handle: u32) {
        let mut net = self.network.borrow_mut();
        let Some(key) = net.held(handle) else { return };
        let socket = net.socket(key).expect("held");
        if socket.shut {
            return;
        }
        socket.shut = true;
        if socket.fin == Fin::No {
            socket.fin = Fin::Wanted;
        }
        self.progress(&mut net, key);
        self.serve_receives(&mut net, key);
    }

    pub(crate) fn stream_close(&self, handle: u32) {
        let mut net = self.network.borrow_mut();
        let Some(key) = net.held(handle) else { return };
        self.trace.note(self.now(), Tag::Close, u64::from(handle), 0);
        self.close(&mut net, key);
    }

    fn close(&self, net: &mut Network, key: Key) {
        let socket = net.socket(key).expect("the caller has it");
        socket.open = false;
        let core = socket.core;
        let receives = std::mem::take(&mut socket.receives);
        let sends = std::mem::take(&mut socket.sends);
        for id in receives.into_iter().chain(sends.into_iter().map(|(id, _)| id)) {
            self.finish(core, id, Err(libc::ECANCELED));
        }
        let socket = net.socket(key).expect("still there");
        if socket.error.is_some() {
            net.remove(key);
        } else if !socket.incoming.is_empty() {
            // As TCP does: who closes without having read everything resets, and what was under way is gone.
            self.abort(net, key);
        } else {
            if socket.fin == Fin::No {
                socket.fin = Fin::Wanted;
            }
            self.progress(net, key);
        }
    }

    /// A process is gone: its kernel closes what it had, or is gone as well.
    pub(crate) fn network_process_ended(&self, process: u32, power: bool) {
        let mut net = self.network.borrow_mut();
        let net = &mut *net;
        for key in net.forget_listeners(process) {
            let socket = net.socket(key).expect("found above");
            if power {
                net.remove(key);
            } else if socket.core == NO_CORE || socket.connecting.is_some() {
                self.abort(net, key);
            } else if socket.open {
                socket.receives.clear();
                socket.sends.clear();
                self.close(net, key);
            }
        }
    }
}
