//! What the tasks of a disk want done by the one that writes, and how they hear of it.
//!
//! Must never be done beside a request: the task that writes does one thing after the other. Invariant: an errand is answered once.

use super::ColdError;
use super::agreed::Agreed;
use super::core::Spindle;
use super::disk::ColdDisk;
use super::fill::Heard;
use super::mend::{Counting, Rewritten};
use super::proven::Proven;
use ioengine::Instant;
use ioengine::sync::Notify;
use std::cell::RefCell;
use std::rc::Rc;

/// What is to be done.
pub(super) enum Deed {
    /// Say which sections of a file count.
    Count { file: u32 },
    /// Write sections over what stands in their places.
    Rewrite { sections: Vec<Proven>, stands_beside: bool },
    /// Sections do not count any more.
    Free { file: u32, generation: u32, numbers: Vec<u32> },
    /// Write the entry of a file again of which a slot is lost.
    MendEntry { file: u32 },
    /// What both others hold of a file that could not be read.
    Learn { file: u32, agreed: Agreed },
    /// What the others hold of files that are to be filled.
    Hear(Heard),
    /// A file is filled.
    Filled { file: u32, agreed: Agreed },
    /// All files are filled.
    EndFill,
}

/// What came of it.
pub(super) enum Done {
    Counted(Counting),
    Rewritten(Rewritten),
    Freed,
    Filled,
}

#[derive(Default)]
struct Answer {
    said: RefCell<Option<Result<Done, ColdError>>>,
    heard: Notify,
}

/// Something that is to be done, and who waits for it.
pub(super) struct Errand {
    deed: Deed,
    pub(super) since: Instant,
    answer: Rc<Answer>,
}

impl Errand {
    /// Do it.
    pub(super) async fn run(self, disk: &mut ColdDisk) {
        let done = match disk.settle().await {
            Err(error) => Err(error),
            Ok(()) => self.deed.carry_out(disk).await,
        };
        *self.answer.said.borrow_mut() = Some(done);
        self.answer.heard.notify();
    }
}

impl Deed {
    async fn carry_out(self, disk: &mut ColdDisk) -> Result<Done, ColdError> {
        match self {
            Deed::Count { file } => disk.counting(file).await.map(Done::Counted),
            Deed::Rewrite { sections, stands_beside } => {
                disk.rewrite(&sections, stands_beside).await.map(Done::Rewritten)
            }
            Deed::Free { file, generation, numbers } => {
                disk.free(file, generation, &numbers).await.map(|_| Done::Freed)
            }
            Deed::MendEntry { file } => disk.mend_entry(file).await.map(|()| Done::Freed),
            Deed::Learn { file, agreed } => {
                disk.learn(file, &agreed);
                Ok(Done::Freed)
            }
            Deed::Hear(heard) => {
                disk.hear(&heard);
                Ok(Done::Filled)
            }
            Deed::Filled { file, agreed } => disk.filled(file, &agreed).await.map(|()| Done::Filled),
            Deed::EndFill => disk.end_fill().await.map(|()| Done::Filled),
        }
    }
}

impl Spindle {
    pub(super) async fn have(&self, now: Instant, deed: Deed) -> Result<Done, ColdError> {
        let answer: Rc<Answer> = Rc::default();
        self.errands.borrow_mut().push_back(Errand { deed, since: now, answer: Rc::clone(&answer) });
        self.work_queued.notify();
        loop {
            let heard = answer.heard.notified();
            let said = answer.said.borrow_mut().take();
            match said {
                Some(said) => return said,
                None => heard.await,
            }
        }
    }

    /// Which sections of a file count.
    pub(super) async fn counting(&self, now: Instant, file: u32) -> Result<Counting, ColdError> {
        match self.have(now, Deed::Count { file }).await? {
            Done::Counted(counting) => Ok(counting),
            _ => panic!("an errand has its own answer"),
        }
    }

    /// Have sections written over what stands in their places.
    pub(super) async fn rewrite(
        &self,
        now: Instant,
        sections: Vec<Proven>,
        stands_beside: bool,
    ) -> Result<Rewritten, ColdError> {
        match self.have(now, Deed::Rewrite { sections, stands_beside }).await? {
            Done::Rewritten(rewritten) => Ok(rewritten),
            _ => panic!("an errand has its own answer"),
        }
    }

    /// Have sections freed.
    pub(super) async fn free(
        &self,
        now: Instant,
        file: u32,
        generation: u32,
        numbers: Vec<u32>,
    ) -> Result<(), ColdError> {
        self.have(now, Deed::Free { file, generation, numbers }).await.map(|_| ())
    }

    /// Have the entry of a file written again.
    pub(super) async fn mend_entry(&self, now: Instant, file: u32) -> Result<(), ColdError> {
        self.have(now, Deed::MendEntry { file }).await.map(drop)
    }

    /// Have known what both others hold of a file.
    pub(super) async fn learn(&self, now: Instant, file: u32, agreed: Agreed) -> Result<(), ColdError> {
        self.have(now, Deed::Learn { file, agreed }).await.map(drop)
    }
}
