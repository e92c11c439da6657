//! Running nodes in this process: start them, say when they serve, pass signals on, wait for their end.
//!
//! Invariant: exactly one line, `ready HOST:PORT` of the first node, goes to standard output, and only once all cores of all
//! nodes serve.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ioengine::signal::Signal;
use ioengine::sync::{Either, race};
use ioengine::uring::Runtime;
use ioengine::{CoreConfig, Launcher};
use shard::node::{Event, NodeConfig, start};

use crate::config::Settings;
use crate::disk;
use crate::failure::{Exit, Failure};
use crate::output;

/// How often the main thread looks at what the cores said.
const LOOK: Duration = Duration::from_millis(100);

/// What the cores of each node, by its place, said and the main thread has not heard yet.
type Heard = Arc<Mutex<Vec<(usize, Event)>>>;

/// Runs nodes until they are told to end, without those of their group that an operator gives up; `when_ready` hears the address of the
/// first.
///
/// # Errors
/// One cannot start, or failed while it ran: all end.
pub(crate) fn run(
    nodes: &[Settings],
    without: &[u32],
    when_ready: impl FnOnce(&str),
) -> Result<Exit, Failure> {
    let failed = |what: String| Failure::failed(what, "");
    let configs = nodes.iter().map(|settings| config(settings, without)).collect::<Result<Vec<_>, _>>()?;
    let runtime = Runtime::new(CoreConfig::small("main", 0)).map_err(|error| failed(error.to_string()))?;
    // Before any core starts, so that no thread takes a signal for itself.
    let signals = runtime.io().signals();
    let heard: Heard = Arc::default();
    let mut running = Vec::new();
    let mut started = Ok(());
    for (place, config) in configs.iter().enumerate() {
        let tell = Arc::clone(&heard);
        let listener = Arc::new(move |event| {
            tell.lock().expect("nothing panics while holding it").push((place, event));
        });
        match start(&Launcher::Threads, config, listener) {
            Ok(node) => running.push(node),
            Err(error) => {
                started = Err(failed(error.to_string()));
                break;
            }
        }
    }
    let mut ready = Ready { serving: vec![None; nodes.len()], when_ready: Some(when_ready) };
    let ended = started.and_then(|()| {
        runtime.block_on(async {
            let mut signal = std::pin::pin!(signals.next());
            loop {
                let events = std::mem::take(&mut *heard.lock().expect("nothing panics while holding it"));
                for (place, event) in events {
                    ready.hear(place, event)?;
                }
                match race(signal.as_mut(), runtime.io().sleep(LOOK)).await {
                    Either::First(Signal::Terminate) => return Ok(()),
                    Either::First(Signal::Reload) => {
                        tracing::info!("nothing that can change while it runs: restart to take new settings");
                        signal.set(signals.next());
                    }
                    Either::Second(()) => {}
                }
            }
        })
    });
    tracing::info!("draining");
    running.iter().for_each(shard::node::Node::drain);
    running.into_iter().for_each(shard::node::Node::join);
    ended.map(|()| Exit::Done)
}

/// What to start for these settings, as its disk is cut.
fn config(settings: &Settings, without: &[u32]) -> Result<NodeConfig, Failure> {
    let superblock = disk::superblock(&settings.disk_path)?;
    Ok(NodeConfig {
        disk: settings.disk_path.clone(),
        listen: settings.listen,
        advertise: settings.advertise,
        map: settings.cluster.map(&superblock)?,
        without: without.to_vec(),
        core_count: superblock.shard_count,
        host: settings.host,
        pin: settings.pin,
        spin_us: u64::try_from(settings.spin.as_micros()).unwrap_or(u64::MAX),
        limits: settings.limits.clone(),
    })
}

/// Which nodes serve, and who waits for all of them.
struct Ready<F> {
    serving: Vec<Option<SocketAddr>>,
    when_ready: Option<F>,
}

impl<F: FnOnce(&str)> Ready<F> {
    fn hear(&mut self, place: usize, event: Event) -> Result<(), Failure> {
        match event {
            Event::Recovered { shard, record_count, entry_count, damaged_tablet_count } => {
                tracing::info!(place, shard, record_count, entry_count, damaged_tablet_count, "recovered");
                Ok(())
            }
            Event::Serving(address) => {
                self.serving[place] = Some(address);
                if self.serving.iter().all(Option::is_some) { self.say() } else { Ok(()) }
            }
            Event::Failed(text) => Err(Failure::failed(text, "")),
        }
    }

    fn say(&mut self) -> Result<(), Failure> {
        for address in self.serving.iter().flatten().skip(1) {
            output::note!("serving on {address}, too");
        }
        let first = self.serving.first().copied().flatten().expect("all serve, and there is one");
        // Before the ready line: whoever waits for that one finds the rest said.
        if let Some(when_ready) = self.when_ready.take() {
            when_ready(&first.to_string());
        }
        output::line(&format!("ready {first}"))?;
        if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
            tracing::warn!(%error, "systemd cannot be told that the node is ready");
        }
        Ok(())
    }
}
