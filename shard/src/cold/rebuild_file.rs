//! One file of a disk that took another's place: copied from the two others, proven, and said to be there.
//!
//! Must never have the entry of a file written before all that counts in it is durable and proven, or known to be whole nowhere. Invariant: what others may
//! still decide about a file (a place that was reserved when the disk was lost) is waited for.
//!
//! | step | where |
//! |---|---|
//! | what both others say of the file | `look` |
//! | its bytes come in pieces from both, go to the disk, and are proven as they go by | `copy`, `rebuild_pull.rs`, `rebuild_prove.rs` |
//! | flush; what they say of it now | `one` |
//! | sections that were not proven, or came since: each from whoever proves it | `mend` |
//! | its entry is written | `fill.rs: filled` |

use super::ColdError;
use super::agreed::Agreed;
use super::damage::Suspect;
use super::fill::Heard;
use super::others::{Named, NotGiven};
use super::rebuild::Rebuild;
use super::rebuild_prove::{Prover, StreamOf};
use super::rebuild_pull::{Piece, Pull, PullEnd};
use super::repair::{is_whole, quiet};
use ioengine::Buf;
use ioengine::sync::{join, yield_now};
use net::cold::ColdCopyOf;
use std::collections::BTreeSet;

/// How often a file is tried while sections of it are whole nowhere.
const TRIES: u32 = 4;
/// Sections that one look may find anew, so that a file is copied again instead.
const ROUNDS: usize = 8;

/// Why a file is not filled now.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotFilled {
    /// This disk.
    #[error(transparent)]
    Disk(#[from] ColdError),
    /// The other machines.
    #[error(transparent)]
    NotGiven(#[from] NotGiven),
    /// Its bytes.
    #[error(transparent)]
    Pull(#[from] PullEnd),
    /// A place that was reserved in it when the disk was lost is neither sealed nor given up.
    #[error("a place that was reserved when the disk was lost is neither sealed nor given up")]
    Undecided,
    /// No machine proves some of its sections now.
    #[error("{count} of its sections are whole nowhere, as it seems")]
    Unproven {
        /// Sections.
        count: usize,
    },
    /// It was begun anew, or grows.
    #[error("it changes while it is copied")]
    Changes,
}

/// A section that is to be had from another machine: whether it was.
enum Mended {
    Yes,
    /// No machine has it, or proves it.
    Nowhere,
}

impl Rebuild {
    /// Fill a file.
    ///
    /// # Errors
    /// [`NotFilled`]: it is due as before.
    pub(super) async fn one(&self, file: u32) -> Result<(), NotFilled> {
        let mut agreed = self.look(file).await?;
        let mut proven = BTreeSet::new();
        if agreed.numbers().next().is_some() {
            let _turn = self.turn().await;
            proven = self.copy(file, &agreed).await?;
        }
        let generation = agreed.generation;
        for _ in 0..ROUNDS {
            self.flush().await?;
            agreed = self.look(file).await?;
            if agreed.generation != generation {
                return Err(NotFilled::Changes);
            }
            let missing: Vec<u32> = agreed.numbers().filter(|number| !proven.contains(number)).collect();
            let left_out = if missing.is_empty() {
                Vec::new()
            } else {
                let left_out = self.mend(file, &agreed, &missing).await?;
                if left_out.len() < missing.len() {
                    proven.extend(
                        missing.iter().filter(|number| !left_out.iter().any(|(left, _)| left == *number)),
                    );
                    continue;
                }
                left_out
            };
            if !left_out.is_empty() && self.tried(file) < TRIES {
                return Err(NotFilled::Unproven { count: left_out.len() });
            }
            self.spindle.filled(self.core.io.now(), file, agreed).await?;
            self.leave_out(file, generation, &left_out);
            return Ok(());
        }
        Err(NotFilled::Changes)
    }

    /// What the others hold of a file, and that nothing in it is undecided.
    async fn look(&self, file: u32) -> Result<Agreed, NotFilled> {
        let agreed = self.ask_of(file).await?;
        let is_undecided = self
            .undecided
            .borrow()
            .get(&file)
            .is_some_and(|then| then.iter().any(|run| agreed.reserved().contains(run)));
        if is_undecided {
            ioengine::sometimes!("a place that was reserved when a disk was lost is waited for");
            return Err(NotFilled::Undecided);
        }
        Ok(agreed)
    }

    async fn flush(&self) -> Result<(), ColdError> {
        let (_, disk, _) = self.spindle.reader.parts();
        if !ioengine::canary("rebuild_says_a_file_is_there_too_early") {
            disk.flush().await??;
        }
        Ok(())
    }

    /// Copy a file: the numbers of its sections that are proven. Not durable yet.
    async fn copy(&self, file: u32, agreed: &Agreed) -> Result<BTreeSet<u32>, NotFilled> {
        let superblock = &self.spindle.superblock;
        let of = StreamOf {
            cluster: superblock.cluster,
            place: (superblock.group, superblock.disk),
            file,
            generation: agreed.generation,
            head: agreed.head,
        };
        let copy = ColdCopyOf {
            group: superblock.group,
            disk: superblock.disk,
            file,
            file_generation: agreed.generation,
            offset: 0,
            bytes: 0,
        };
        let pull = Pull::begin(&self.core, copy, agreed.head);
        let mut prover = Prover::new(of, |number| agreed.counts(number));
        let mut block = self.buffer()?;
        while let Some(piece) = pull.next().await? {
            quiet(&self.core, &self.spindle).await;
            self.pace(piece.bytes).await;
            let bytes = piece.bytes as usize;
            match piece.content() {
                Some(content) => block[..bytes].copy_from_slice(content),
                None => block[..bytes].fill(0),
            }
            prover.push(&block[..bytes]);
            let (written, ()) = join(self.write(file, &piece, block), async {
                while prover.step() {
                    yield_now().await;
                }
            })
            .await;
            block = written?;
            self.count_bytes(u64::from(piece.bytes));
        }
        drop(block);
        for header in std::mem::take(&mut prover.long) {
            if is_whole(&self.spindle, &header).await? {
                prover.proven.insert(header.place.number);
            }
        }
        Ok(prover.proven)
    }

    async fn write(&self, file: u32, piece: &Piece, block: Buf) -> Result<Buf, ColdError> {
        let (_, disk, superblock) = self.spindle.reader.parts();
        let at = superblock.geometry.file_offset(file).plus(u64::from(piece.at)).0;
        let (result, block) = disk.write(block, at, piece.bytes as usize).await?;
        result?;
        Ok(block)
    }

    /// Have sections one by one, each from whoever proves it. Those that nobody does: number, and byte of the file if it is known.
    async fn mend(
        &self,
        file: u32,
        agreed: &Agreed,
        missing: &[u32],
    ) -> Result<Vec<(u32, Option<u32>)>, NotFilled> {
        let heard = Heard { files: vec![(file, agreed.clone())], is_all: false };
        self.spindle.hear(self.core.io.now(), heard).await?;
        let named = self.named(file, agreed.generation).await?;
        let mut left_out = Vec::new();
        for number in missing {
            let of_number: Vec<&Named> = named.iter().filter(|named| named.number == *number).collect();
            let mut mended = Mended::Nowhere;
            for named in &of_number {
                if let Mended::Yes = self.mend_one(named).await? {
                    mended = Mended::Yes;
                    break;
                }
            }
            match mended {
                Mended::Yes => {
                    ioengine::sometimes!("a section of a new disk is had by itself");
                    self.spindle.counters.rebuild_mended.add(1);
                }
                Mended::Nowhere => {
                    left_out.push((*number, of_number.first().map(|named| named.blocks.offset)))
                }
            }
        }
        Ok(left_out)
    }

    async fn mend_one(&self, named: &Named) -> Result<Mended, NotFilled> {
        for machine in self.core.others.order() {
            match self.core.others.section(machine, named).await {
                Ok(proven) => {
                    return match self.spindle.rewrite(self.core.io.now(), vec![proven], true).await {
                        Ok(super::mend::Rewritten::Yes(_)) => Ok(Mended::Yes),
                        Ok(super::mend::Rewritten::Gone) | Err(ColdError::Differs { .. }) => {
                            Ok(Mended::Nowhere)
                        }
                        Err(error) => Err(error.into()),
                    };
                }
                Err(error @ NotGiven::Silent(..)) if self.others_answer() > 1 => return Err(error.into()),
                Err(error) => {
                    tracing::warn!(?named, %error, "a section is not given to a new disk");
                    ioengine::sometimes!("a section is not given to a new disk");
                }
            }
        }
        Ok(Mended::Nowhere)
    }

    /// These are whole nowhere: they are counted, told, and wait for repair as all that is damaged.
    fn leave_out(&self, file: u32, generation: u32, left_out: &[(u32, Option<u32>)]) {
        for (number, offset) in left_out {
            let disk = self.spindle.superblock.disk;
            tracing::error!(
                disk,
                file,
                number,
                "a section of a new disk is whole on no other machine: it is left out"
            );
            ioengine::sometimes!("a section of a new disk is left out");
            self.spindle.counters.rebuild_left_out.add(1);
            if let Some(offset) = *offset {
                let at = u64::from(offset);
                self.spindle.suspect(Suspect { file, generation, offset, at, unwanted: None });
            }
        }
    }
}
