//! Peace: everything is mended, every node serves, every tablet takes a write, every node votes on all it holds, `verify` is clean, the
//! replicas become equal, the exports of all nodes are the same bytes, everything is read back, and all drain.

use super::disks::{Disks, counter};
use super::scene::{LOOK, START_PATIENCE, Scene};
use super::trouble::watch;
use super::work::EXPIRY_US_MAX;
use super::{Operator, RealError, Report};
use super::{caches, colds};
use crate::sim::checkers::Final;
use crate::sim::client::{Client, Shared};
use crate::sim::cluster::operator;
use crate::sim::cluster::quiet::{self, FRAME_BYTES, patience};
use crate::sim::cluster::work::Routes;
use crate::sim::history::Violation;
use crate::sim::one_node::PROGRESS;
use ioengine::Io;
use std::fs::OpenOptions;
use std::io::Read as _;
use std::path::Path;
use std::process::Command;
use std::rc::Rc;
use std::time::Duration;

/// How long clients finish what they are at, and a command or a drain may take.
const GIVE_UP: Duration = Duration::from_secs(60);

fn wrong(report: &mut Report, text: String) {
    report.violations.push(Violation { checker: "run", text });
}

/// With caches: the last word of where reads go is heard by all nodes, and all caches serve.
async fn caches_at_peace(
    io: &Io,
    scene: &mut Scene,
    operator: &Operator,
    report: &mut Report,
) -> Result<bool, RealError> {
    operator.said.stop.set(true);
    let until = io.now().after(GIVE_UP);
    while operator.busy.get() && io.now() < until {
        io.sleep(LOOK).await;
    }
    report.troubles.insert("say where reads go", operator.taken.get());
    while let Err(error) = operator::say_all(io, &operator.said).await {
        if io.now() >= until {
            wrong(report, format!("no node takes a word of where reads go: {error}"));
            return Ok(false);
        }
        io.sleep(LOOK).await;
    }
    if !caches::all_serve(io, scene, report).await? {
        return Ok(false);
    }
    let disagree = operator::agreed(io, &operator.said).await;
    let all: Vec<String> = disagree.into_iter().chain(operator.said.wrong.take()).collect();
    let is_fine = all.is_empty();
    all.into_iter().for_each(|text| wrong(report, text));
    Ok(is_fine)
}

/// See the head of the file.
pub(super) async fn come(
    io: &Io,
    scene: &mut Scene,
    shared: &Rc<Shared>,
    operator: Option<&Operator>,
    disks: &mut Disks,
    report: &mut Report,
) -> Result<Final, RealError> {
    let mut last = Final::default();
    let through = scene.routes.clone();
    // Of the store it is asked what holds; through the caches everything is read at the end.
    let routes = Routes { caches: None, ..scene.routes.clone() };
    let client = |number| routes.client(io, shared, number, 0, patience(), FRAME_BYTES);
    if !all_mended(io, scene, &client(1_005), disks, report).await? {
        return Ok(last);
    }
    let began = io.now();
    if !all_serve(io, scene, shared, report).await? {
        return Ok(last);
    }
    if let Some(operator) = operator
        && !caches_at_peace(io, scene, operator, report).await?
    {
        return Ok(last);
    }
    let stuck = quiet::stuck(client(1_000), Rc::clone(shared), io.now().after(PROGRESS)).await;
    report.healed = io.now().since(began);
    if let Some((stream, what)) = stuck.first() {
        let tablet = shared.history.borrow().keys.facts(*stream).tablet.get();
        let count = stuck.len();
        wrong(
            report,
            format!("{count} tablets make no progress within {PROGRESS:?}, tablet {tablet}: {what}"),
        );
        return Ok(last);
    }
    if !scene.colds.is_empty() && !colds::settle(io, scene, report).await? {
        return Ok(last);
    }
    let until = io.now().after(PROGRESS);
    if !whole(io, scene, &client(1_004), report).await || !verified(io, scene, &client(1_006), report).await?
    {
        return Ok(last);
    }
    let unequal = quiet::unequal(client(1_001), routes.clone(), Rc::clone(shared), until, 0).await;
    if let Some((tablet, what)) = unequal.first() {
        let (count, tablet) = (unequal.len(), tablet.get());
        wrong(report, format!("{count} streams do not become equal at all nodes, tablet {tablet}: {what}"));
    }
    // What expires has done so: exports of different moments are the same.
    io.sleep(Duration::from_micros(EXPIRY_US_MAX)).await;
    exports(io, scene, report).await?;
    last.since = shared.history.borrow_mut().tick();
    last.unanswered = quiet::read_keys(client(1_002), Rc::clone(shared)).await.into_iter().collect();
    if operator.is_some() {
        let client = through.client(io, shared, 1_007, 0, patience(), FRAME_BYTES);
        last.unanswered.extend(quiet::read_keys(client, Rc::clone(shared)).await);
    }
    let reader: Rc<Client> = client(1_003);
    quiet::read_streams(&reader, shared).await;
    for node in 0..scene.nodes.len() {
        match reader.status_of(node, Duration::from_secs(5)).await {
            Some(status) => last.status.push(status),
            None => wrong(report, format!("node {} does not say how it is", node + 1)),
        }
    }
    drop(reader);
    caches::drain(io, scene, report).await?;
    drain(io, scene, report).await?;
    colds::end(io, scene, report).await?;
    Ok(last)
}

/// Nothing hinders a node any more, and each has a disk that may serve.
async fn all_mended(
    io: &Io,
    scene: &mut Scene,
    client: &Client,
    disks: &mut Disks,
    report: &mut Report,
) -> Result<bool, RealError> {
    scene.cuts.heal(false);
    for node in 0..scene.nodes.len() {
        scene.resume(node);
        if scene.nodes[node].process.is_none() {
            scene.start(node)?;
        }
    }
    let until = io.now().after(PROGRESS);
    while disks.turn(scene, client, &mut report.violations).await? {
        if io.now() >= until {
            wrong(report, format!("an old or a lost disk is not recognised within {PROGRESS:?} of peace"));
            return Ok(false);
        }
        io.sleep(LOOK).await;
        watch(scene, report)?;
    }
    Ok(true)
}

/// All nodes serve, and clients have finished.
async fn all_serve(
    io: &Io,
    scene: &mut Scene,
    shared: &Shared,
    report: &mut Report,
) -> Result<bool, RealError> {
    let until = io.now().after(START_PATIENCE);
    loop {
        io.sleep(LOOK).await;
        watch(scene, report)?;
        let mut silent = None;
        for node in 0..scene.nodes.len() {
            if scene.nodes[node].draining || !scene.answers(node).await {
                silent = Some(node + 1);
            }
        }
        match silent {
            None => break,
            Some(node) if io.now() >= until => {
                wrong(report, format!("node {node} does not serve within {START_PATIENCE:?} of peace"));
                return Ok(false);
            }
            Some(_) => {}
        }
    }
    let until = io.now().after(GIVE_UP);
    while shared.busy.get() > 0 {
        if io.now() >= until {
            wrong(report, format!("{} lanes wait beyond their patience", shared.busy.get()));
            return Ok(false);
        }
        io.sleep(LOOK).await;
    }
    Ok(true)
}

/// Until every node has the copies that it lacks, and votes on all that it holds: before, a `local` read shows what is left of a tablet.
async fn whole(io: &Io, scene: &Scene, client: &Client, report: &mut Report) -> bool {
    let until = io.now().after(PROGRESS);
    for node in 0..scene.nodes.len() {
        loop {
            let status = client.status_of(node, Duration::from_secs(2)).await.unwrap_or_default();
            let of = |name| counter(&status, name);
            let (damaged, held, voting) = (of("tablets_damaged"), of("tablets_held"), of("tablets_voting"));
            if damaged == Some(0) && held.is_some() && held == voting {
                break;
            }
            if io.now() >= until {
                let node = node + 1;
                wrong(
                    report,
                    format!(
                        "node {node} after {PROGRESS:?} of peace: {damaged:?} tablets damaged, {voting:?} of {held:?} vote"
                    ),
                );
                return false;
            }
            io.sleep(LOOK).await;
        }
    }
    true
}

/// `verify` finds all replicas equal. On a damaged disk it may find what nobody has read: that is mended then, and it is run again.
async fn verified(io: &Io, scene: &Scene, client: &Client, report: &mut Report) -> Result<bool, RealError> {
    let until = io.now().after(PROGRESS);
    let log = scene.folder.join("verify.log");
    loop {
        let mut command = Command::new(&scene.binary);
        command.args(["verify", "--endpoint", &scene.nodes[0].address.to_string()]);
        let code = run_to_end(io, command, &log).await?;
        for node in (0..scene.nodes.len()).filter(|node| scene.rotten & 1 << node == 0) {
            let status = client.status_of(node, Duration::from_secs(2)).await.unwrap_or_default();
            if counter(&status, "verify_own") != Some(0) {
                wrong(report, format!("node {} differs from a majority, and its disk is whole", node + 1));
                return Ok(false);
            }
        }
        if code == Some(0) {
            return Ok(true);
        }
        if io.now() >= until {
            wrong(report, format!("verify ends with {code:?} after {PROGRESS:?}, see {}", log.display()));
            return Ok(false);
        }
        if !whole(io, scene, client, report).await {
            return Ok(false);
        }
    }
}

/// The exit code of a command, if it ends in time.
pub(super) async fn run_to_end(io: &Io, command: Command, log: &Path) -> Result<Option<i32>, RealError> {
    let mut process = super::process::Process::start(command, log)?;
    let until = io.now().after(GIVE_UP);
    loop {
        io.sleep(LOOK).await;
        if let Some(status) = process.ended() {
            return Ok(status.code());
        }
        if io.now() >= until {
            return Ok(None);
        }
    }
}

/// The export of each node, as the command makes it, is the same.
async fn exports(io: &Io, scene: &mut Scene, report: &mut Report) -> Result<(), RealError> {
    let mut first: Option<Vec<u8>> = None;
    for node in 0..scene.nodes.len() {
        let file = scene.folder.join(format!("export-{}.ndjson", node + 1));
        let mut command = Command::new(&scene.binary);
        command.arg("export").arg("--out").arg(&file);
        command.args(["--endpoint", &scene.nodes[node].address.to_string()]);
        let code = run_to_end(io, command, &scene.folder.join("export.log")).await?;
        if code != Some(0) {
            wrong(report, format!("the export of node {} ended with {code:?}, see export.log", node + 1));
            continue;
        }
        let bytes = read(&file)?;
        report.records = bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
        match &first {
            None => first = Some(bytes),
            Some(first) => {
                if let Some(line) = first_difference(first, &bytes) {
                    wrong(report, format!("the export of node {} differs from line {line} on", node + 1));
                }
            }
        }
    }
    Ok(())
}

/// The first line, counted from 1, in which two texts differ.
fn first_difference(one: &[u8], other: &[u8]) -> Option<usize> {
    if one == other {
        return None;
    }
    let lines = one.split(|byte| *byte == b'\n').zip(other.split(|byte| *byte == b'\n'));
    Some(1 + lines.take_while(|(one, other)| one == other).count())
}

pub(super) fn read(file: &Path) -> Result<Vec<u8>, RealError> {
    let name = format!("{}", file.display());
    let mut bytes = Vec::new();
    let mut file = OpenOptions::new().read(true).open(file).map_err(RealError::io(&name))?;
    file.read_to_end(&mut bytes).map_err(RealError::io(&name))?;
    Ok(bytes)
}

/// All end, with the code of a clean end; and none of them has panicked on the way.
async fn drain(io: &Io, scene: &mut Scene, report: &mut Report) -> Result<(), RealError> {
    for node in 0..scene.nodes.len() {
        scene.drain(node);
    }
    let until = io.now().after(GIVE_UP);
    for node in 0..scene.nodes.len() {
        while !scene.has_ended(node) && io.now() < until {
            io.sleep(LOOK).await;
        }
        let status = scene.nodes[node].process.as_mut().and_then(super::process::Process::ended);
        if status.and_then(|status| status.code()) != Some(0) {
            wrong(report, format!("the drain of node {} ended with {status:?}", node + 1));
        }
        no_panic(&scene.nodes[node].log, report)?;
    }
    Ok(())
}

/// A process has not panicked, by what it printed.
pub(super) fn no_panic(log: &Path, report: &mut Report) -> Result<(), RealError> {
    let text = read(log)?;
    let mut lines = text.split(|byte| *byte == b'\n');
    if let Some(line) = lines.find(|line| line.windows(8).any(|at| at == b"panicked")) {
        let line = String::from_utf8_lossy(line);
        wrong(report, format!("panicked, see {}: {line}", log.display()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::first_difference;

    #[test]
    fn exports_differ_in_a_line_or_in_length() {
        assert_eq!(first_difference(b"a\nb\n", b"a\nb\n"), None);
        assert_eq!(first_difference(b"a\nb\n", b"a\nc\n"), Some(2));
        assert_eq!(first_difference(b"a\nb\n", b"a\n"), Some(2));
        assert_eq!(first_difference(b"", b"a\n"), Some(1));
    }
}
