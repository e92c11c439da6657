//! Running nodes in this process: start them, say when they serve, pass signals on, wait for their end.
//!
//! Invariant: exactly one line, `ready HOST:PORT` of the first node, goes to standard output, and only once all cores of all
//! nodes serve.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ioengine::signal::{Signal, Signals};
use ioengine::sync::{Either, race};
use ioengine::uring::Runtime;
use ioengine::{CoreConfig, LaunchError, Launcher};
use shard::cache::{CacheNode, start_cache};
use shard::cold::{ColdConfig, ColdNode, start_cold};
use shard::node::{Event, Listener, Node, NodeConfig, start};

use crate::cache;
use crate::cold;
use crate::config::{Role, Settings};
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
    let plans = nodes.iter().map(|settings| plan(settings, without)).collect::<Result<Vec<_>, _>>()?;
    let runtime = Runtime::new(CoreConfig::small("main", 0)).map_err(|error| failed(error.to_string()))?;
    // Before any core starts, so that no thread takes a signal for itself.
    let signals = runtime.io().signals();
    let heard: Heard = Arc::default();
    let mut running = Vec::new();
    let mut started = Ok(());
    for (place, plan) in plans.iter().enumerate() {
        let tell = Arc::clone(&heard);
        let listener: Listener = Arc::new(move |event| {
            tell.lock().expect("nothing panics while holding it").push((place, event));
        });
        match launch(&runtime, &signals, plan, &nodes[place], listener) {
            Ok(Some(node)) => running.push(node),
            Ok(None) => return end(running, Ok(())),
            Err(failure) => {
                started = Err(failure);
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
    end(running, ended)
}

/// A node that runs.
enum Running {
    Store(Node),
    Cache(CacheNode),
    Cold(ColdNode),
}

/// What to start, as its disks are cut.
enum Plan {
    Store(Box<NodeConfig>),
    Cold(Box<ColdConfig>),
    /// Has no disk: what it is it hears from the store.
    Cache,
}

/// Let all of them drain, and wait for their end.
fn end(running: Vec<Running>, ended: Result<(), Failure>) -> Result<Exit, Failure> {
    tracing::info!("draining");
    for node in &running {
        match node {
            Running::Store(node) => node.drain(),
            Running::Cache(node) => node.drain(),
            Running::Cold(node) => node.drain(),
        }
    }
    for node in running {
        match node {
            Running::Store(node) => node.join(),
            Running::Cache(node) => node.join(),
            Running::Cold(node) => node.join(),
        }
    }
    ended.map(|()| Exit::Done)
}

/// Starts a node; a cache once the store has said what the map is. `None` when it was told to end before.
fn launch(
    runtime: &Runtime,
    signals: &Signals,
    plan: &Plan,
    settings: &Settings,
    listener: Listener,
) -> Result<Option<Running>, Failure> {
    let failed = |error: LaunchError| Failure::failed(error.to_string(), "");
    match plan {
        Plan::Store(config) => {
            return start(&Launcher::Threads, config, listener)
                .map(|node| Some(Running::Store(node)))
                .map_err(failed);
        }
        Plan::Cold(config) => {
            return start_cold(&Launcher::Threads, config, listener)
                .map(|node| Some(Running::Cold(node)))
                .map_err(failed);
        }
        Plan::Cache => {}
    }
    let asked = if settings.disk_path.is_empty() {
        runtime.block_on(race(cache::config(runtime.io(), settings), signals.next()))
    } else {
        Either::First(cache::config_by(&disk::superblock(&settings.disk_path)?, settings))
    };
    match asked {
        Either::First(config) => {
            let node = start_cache(&Launcher::Threads, &config?, listener).map_err(failed)?;
            Ok(Some(Running::Cache(node)))
        }
        Either::Second(_) => Ok(None),
    }
}

/// What to start for these settings.
fn plan(settings: &Settings, without: &[u32]) -> Result<Plan, Failure> {
    match settings.role {
        Role::Cache => return Ok(Plan::Cache),
        Role::Cold => return Ok(Plan::Cold(Box::new(cold::config(settings)?))),
        Role::Store => {}
    }
    let superblock = disk::superblock(&settings.disk_path)?;
    Ok(Plan::Store(Box::new(NodeConfig {
        disk: settings.disk_path.clone(),
        listen: settings.listen,
        advertise: settings.advertise,
        map: settings.cluster.map(&superblock)?,
        without: without.to_vec(),
        versions: settings.versions,
        core_count: superblock.shard_count,
        host: settings.host,
        pin: settings.pin,
        spin_us: u64::try_from(settings.spin.as_micros()).unwrap_or(u64::MAX),
        limits: settings.limits.clone(),
        sink: settings.sink.settings(),
    })))
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
