//! The real back end: one io_uring per core, on the core's own thread.
//!
//! ```text
//!   tasks ── Io ── OperationTable ── UringDriver ── Ring ── kernel
//!     └─ host: executor ────── Turn ─────┘
//! ```

mod disk;
mod disk_facts;
mod driver;
mod host;
mod net;
mod probe;
mod refusal;
mod ring;
mod shared_memory;
mod signals;
mod system;
mod turn;

pub use disk::{create_file, create_thin_file};
pub(crate) use driver::UringDriver;
pub use probe::{Finding, Verdict, probe, probe_disk};
pub(crate) use refusal::Refusal;
pub use shared_memory::{
    DIRECTORY_VARIABLE as SHARED_MEMORY_VARIABLE, RegionFile, keep_regions_in, region_files, region_path,
    remove_region_file,
};
pub(crate) use turn::Turn;
#[cfg(all(feature = "glommio", not(target_env = "musl")))]
pub(crate) use turn::{TURN_NS_MAX, TURN_POLL_COUNT_MAX};

use crate::buffer::Arena;
use crate::executor::Executor;
use crate::io::{Host, Io};
use crate::launch::{CoreConfig, HostKind, LaunchError};
use crate::operation::OperationTable;
use host::{OwnCore, OwnHost};
use std::cell::RefCell;
use std::future::Future;
use std::rc::Rc;

/// A core on the calling thread, for programs that call in from outside (the blocking client, tools, tests).
/// Several may live in one process, each on its own thread. Dropping it ends the core: its tasks are dropped, its
/// operations waited for.
pub struct Runtime {
    core: OwnCore,
}

impl Runtime {
    /// Lay out a core on this thread. Its host is our own, whatever the config says.
    ///
    /// # Errors
    /// [`LaunchError`] with the mend.
    pub fn new(config: CoreConfig) -> Result<Runtime, LaunchError> {
        Ok(Runtime { core: own_core(&config)? })
    }

    /// The core.
    #[must_use]
    pub fn io(&self) -> &Io {
        self.core.io()
    }

    /// Run this core's tasks until `future` has finished. Tasks spawned meanwhile stay and go on at the next call.
    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.core.block_on(future)
    }
}

pub(crate) fn launch_error(name: &str, refusal: Refusal) -> LaunchError {
    LaunchError { name: name.to_owned(), what: refusal.what, mend: refusal.mend }
}

/// Parts of a core before a host is chosen.
pub(crate) struct Parts {
    pub(crate) arena: Arena,
    pub(crate) table: Rc<RefCell<OperationTable>>,
    pub(crate) driver: Rc<UringDriver>,
}

pub(crate) fn lay_out(config: &CoreConfig) -> Result<Parts, LaunchError> {
    let refused = |refusal| launch_error(&config.name, refusal);
    let arena = Arena::new(config.arena_bytes).map_err(|error| {
        let what = format!("no {} bytes for its buffers: {error}", config.arena_bytes);
        refused(Refusal::new(what, "lower the buffers per core in the config, or free memory"))
    })?;
    let table = Rc::new(RefCell::new(OperationTable::new(config.operation_count_max)));
    let driver = UringDriver::new(config.operation_count_max, &arena, Rc::clone(&table)).map_err(refused)?;
    let plainer = driver.plainer();
    for reason in [&plainer.arena, &plainer.files, &plainer.bell].into_iter().flatten() {
        tracing::warn!(core = config.name, reason, "taking the plainer path; thermocline doctor says more");
    }
    Ok(Parts { arena, table, driver })
}

fn own_core(config: &CoreConfig) -> Result<OwnCore, LaunchError> {
    let Parts { arena, table, driver } = lay_out(config)?;
    let executor = Executor::new();
    let host: Rc<dyn Host> = Rc::new(OwnHost { executor: Rc::clone(&executor) });
    let io = Io::new(config.index, Rc::clone(&driver) as _, host, table, arena);
    Ok(OwnCore::new(Turn::new(io, driver, config.spin_us), executor))
}

/// Says to whoever launched a core that it runs, or why not.
pub(crate) type Report = std::sync::mpsc::SyncSender<Result<(), LaunchError>>;

fn run_own<F, M>(config: &CoreConfig, report: &Report, main: F) -> Result<(), LaunchError>
where
    F: FnOnce(Io) -> M,
    M: Future<Output = ()>,
{
    pin(config)?;
    let core = own_core(config)?;
    started(report);
    let io = core.io().clone();
    core.block_on(main(io));
    Ok(())
}

pub(crate) fn started(report: &Report) {
    report.send(Ok(())).expect("whoever launches waits for the report");
}

#[cfg(not(all(feature = "glommio", not(target_env = "musl"))))]
fn run_glommio<F>(config: &CoreConfig, _report: &Report, _main: F) -> Result<(), LaunchError> {
    let mend = if cfg!(target_env = "musl") {
        "glommio does not build on musl: choose the own host"
    } else {
        "build with --features glommio, or choose the own host"
    };
    Err(launch_error(&config.name, Refusal::new("glommio is not built in", mend)))
}

#[cfg(all(feature = "glommio", not(target_env = "musl")))]
use crate::glommio_host::run as run_glommio;

/// Start a core on a thread of its own. Blocks the process's signals in the calling thread too, so that they reach
/// the core that asks for them.
pub(crate) fn launch<F, M>(config: CoreConfig, main: F) -> Result<std::thread::JoinHandle<()>, LaunchError>
where
    F: FnOnce(Io) -> M + Send + 'static,
    M: Future<Output = ()> + 'static,
{
    signals::block();
    let name = config.name.clone();
    let (report, started) = std::sync::mpsc::sync_channel(1);
    let body = move || {
        let ran = match config.host {
            HostKind::Own => run_own(&config, &report, main),
            HostKind::Glommio => run_glommio(&config, &report, main),
        };
        if let Err(error) = ran {
            report.send(Err(error)).expect("whoever launches waits for the report");
        }
    };
    let refused = |what: String, mend: &str| launch_error(&name, Refusal::new(what, mend));
    let thread = std::thread::Builder::new().name(name.clone()).spawn(body).map_err(|error| {
        refused(format!("no thread: {error}"), "raise the limit of processes (ulimit -u) or free memory")
    })?;
    match started.recv() {
        Ok(Ok(())) => Ok(thread),
        Ok(Err(error)) => {
            // It has nothing left to do.
            let _ = thread.join();
            Err(error)
        }
        Err(_) => Err(refused("its thread ended while starting".to_owned(), "see the message it left")),
    }
}

/// Bind the calling thread to the configured processor.
pub(crate) fn pin(config: &CoreConfig) -> Result<(), LaunchError> {
    let Some(cpu) = config.cpu else { return Ok(()) };
    let mut set = nix::sched::CpuSet::new();
    set.set(cpu).and_then(|()| nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &set)).map_err(
        |errno| {
            let what = format!("cannot run on processor {cpu}: {errno}");
            launch_error(&config.name, Refusal::new(what, "choose one of those nproc counts, or none"))
        },
    )
}
