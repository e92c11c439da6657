//! Running a node in this process: start it, say when it serves, pass signals on, wait for its end.
//!
//! Invariant: exactly one line, `ready HOST:PORT`, goes to standard output, and only once all cores serve.

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

/// What the cores said and the main thread has not heard yet.
type Heard = Arc<Mutex<Vec<Event>>>;

/// Runs a node until it is told to end.
///
/// # Errors
/// It cannot start, or failed while it ran.
pub(crate) fn run(settings: &Settings, when_ready: impl FnOnce(&str)) -> Result<Exit, Failure> {
    let config = NodeConfig {
        disk: settings.disk_path.clone(),
        listen: settings.listen,
        advertise: settings.advertise,
        map: None,
        core_count: disk::shard_count(&settings.disk_path)?,
        host: settings.host,
        pin: settings.pin,
        spin_us: u64::try_from(settings.spin.as_micros()).unwrap_or(u64::MAX),
        limits: settings.limits.clone(),
    };
    let failed = |what: String| Failure::failed(what, "");
    let runtime = Runtime::new(CoreConfig::small("main", 0)).map_err(|error| failed(error.to_string()))?;
    // Before any core starts, so that no thread takes a signal for itself.
    let signals = runtime.io().signals();
    let heard: Heard = Arc::default();
    let tell = Arc::clone(&heard);
    let listener = Arc::new(move |event| tell.lock().expect("nothing panics while holding it").push(event));
    let node = start(&Launcher::Threads, &config, listener).map_err(|error| failed(error.to_string()))?;
    let ended = runtime.block_on(async {
        let mut signal = std::pin::pin!(signals.next());
        let mut when_ready = Some(when_ready);
        loop {
            let events = std::mem::take(&mut *heard.lock().expect("nothing panics while holding it"));
            for event in events {
                hear(event, &mut when_ready)?;
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
    });
    tracing::info!("draining");
    node.drain();
    node.join();
    ended.map(|()| Exit::Done)
}

fn hear<F: FnOnce(&str)>(event: Event, when_ready: &mut Option<F>) -> Result<(), Failure> {
    match event {
        Event::Recovered { shard, record_count, entry_count, damaged_tablet_count } => {
            tracing::info!(shard, record_count, entry_count, damaged_tablet_count, "recovered");
            Ok(())
        }
        Event::Serving(address) => {
            let address = address.to_string();
            // Before the ready line: whoever waits for that one finds the rest said.
            if let Some(when_ready) = when_ready.take() {
                when_ready(&address);
            }
            output::line(&format!("ready {address}"))?;
            if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
                tracing::warn!(%error, "systemd cannot be told that the node is ready");
            }
            Ok(())
        }
        Event::Failed(text) => Err(Failure::failed(text, "")),
    }
}
