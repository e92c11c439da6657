//! The first blocks of a table, held back until its dictionary is made from them, or it is known that none pays.
//!
//! Owns that decision: blocks of the sample are compressed with and without, the bytes of the dictionary count, and the
//! smaller wins. Must never depend on when its steps are asked for, nor on what comes behind the sample: the same records
//! give the same bytes. Invariant: blocks leave in the order in which they came, all of them.

use std::collections::VecDeque;

use crate::table::Made;
use crate::table_dictionary::Trainer;
use crate::table_seal::{BLOCK_HEADER_BYTES, Compression, Compressor, Form, WriteDictionary};

/// The sample has so many times the bytes of the largest dictionary. With four times as many the tables of two real data sets
/// were less than 1 % smaller.
pub(crate) const SAMPLE_PER_DICTIONARY: usize = 16;
/// Of a table smaller than the sample the dictionary has at most this part.
const TABLE_PER_DICTIONARY: usize = 8;
/// A table of fewer blocks gets none.
const BLOCK_COUNT_MIN: usize = 4;
/// Blocks that are tried.
const TRIED_COUNT: usize = 12;
/// The smaller dictionary that is tried is the best such part of the larger one.
const SMALLER_PART: usize = 4;
/// A smaller dictionary is none.
const DICTIONARY_BYTES_MIN: usize = 256;
/// It saves at least this part of the table: it is in memory as long as the table is in use.
const SAVED_PART: u64 = 32;

struct HeldBlock {
    begin: usize,
    end: usize,
    form: Form,
    raw_bytes: usize,
    record_count: u32,
    /// What separates it from the next; `None` while that has not come.
    separator: Option<Vec<u8>>,
}

/// A block that leaves.
pub(crate) struct Leaving {
    bytes: std::ops::Range<usize>,
    form: Form,
    raw_bytes: usize,
    record_count: u32,
    pub(crate) separator: Option<Vec<u8>>,
}

/// A dictionary to be written with.
pub(crate) struct Chosen {
    pub(crate) bytes: Vec<u8>,
    pub(crate) prepared: WriteDictionary,
}

enum Work {
    /// The sample is not full.
    Gather,
    Train(Box<Trainer>),
    Try(Trial),
    /// What was decided.
    Store(Option<Chosen>),
}

/// Blocks and what will become of them.
pub(crate) struct Held {
    level: i32,
    dictionary_bytes_max: usize,
    bytes: Vec<u8>,
    blocks: VecDeque<HeldBlock>,
    /// Blocks and bytes of the sample, once it is full.
    sample: Option<(usize, usize)>,
    work: Work,
}

impl Held {
    /// For a table that is compressed at this level, with a dictionary of at most so many bytes.
    pub(crate) fn new(level: i32, dictionary_bytes_max: usize) -> Held {
        let (bytes, blocks) = (Vec::new(), VecDeque::new());
        Held { level, dictionary_bytes_max, bytes, blocks, sample: None, work: Work::Gather }
    }

    /// The next block.
    pub(crate) fn push(&mut self, made: &Made<'_>) {
        let begin = self.bytes.len();
        self.bytes.extend_from_slice(made.bytes);
        let end = self.bytes.len();
        let Made { form, raw_bytes, record_count, .. } = *made;
        self.blocks.push_back(HeldBlock { begin, end, form, raw_bytes, record_count, separator: None });
        if self.bytes.len() >= self.dictionary_bytes_max * SAMPLE_PER_DICTIONARY {
            self.close();
        }
    }

    /// What separates the last block from the one that begins now.
    pub(crate) fn separate(&mut self, separator: &[u8]) {
        let last = self.blocks.back_mut().expect("a block was pushed and has not left");
        last.separator = Some(separator.to_vec());
    }

    /// The sample has all it will have.
    pub(crate) fn close(&mut self) {
        self.sample.get_or_insert((self.blocks.len(), self.bytes.len()));
    }

    /// Is there anything to do now?
    pub(crate) fn has_work(&self) -> bool {
        self.sample.is_some()
    }

    /// Memory that it takes, bytes.
    pub(crate) fn memory_bytes(&self) -> usize {
        // While it is trained the sample is there twice.
        let trains = matches!(self.work, Work::Train(_));
        self.bytes.capacity() + if trains { self.bytes.len() } else { 0 }
    }

    /// The block that leaves.
    pub(crate) fn made(&self, leaving: &Leaving) -> Made<'_> {
        let Leaving { form, raw_bytes, record_count, .. } = *leaving;
        Made { bytes: &self.bytes[leaving.bytes.clone()], form, raw_bytes, record_count }
    }

    /// Does a part of the deciding, some 100 µs at low levels; true when it was decided.
    pub(crate) fn decide(&mut self, compressor: &mut Compressor) -> bool {
        let (count, bytes) = self.sample.expect("the sample is full, or the table ends");
        match &mut self.work {
            Work::Gather => {
                let most = self.dictionary_bytes_max.min(bytes / TABLE_PER_DICTIONARY);
                self.work = if count < BLOCK_COUNT_MIN || most < DICTIONARY_BYTES_MIN {
                    Work::Store(None)
                } else {
                    Work::Train(Box::new(Trainer::new(self.bytes[..bytes].to_vec(), most)))
                };
            }
            Work::Train(trainer) => {
                if !trainer.step() {
                    let Work::Train(trainer) = std::mem::replace(&mut self.work, Work::Gather) else {
                        unreachable!("it was being trained just now")
                    };
                    self.work = Work::Try(Trial::new(trainer.finish(), count));
                }
            }
            Work::Try(trial) => {
                if trial.prepare(self.level) {
                    return false;
                }
                match trial.next() {
                    Some(number) => {
                        let block = &self.blocks[number];
                        trial.compress(&self.bytes[block.begin..block.end], self.level, compressor);
                    }
                    None => {
                        let choice = trial.choose(bytes, self.level, compressor);
                        self.work = Work::Store(choice);
                    }
                }
            }
            Work::Store(_) => return true,
        }
        false
    }

    /// The next block to be written with what was decided; `None` when all have left.
    pub(crate) fn leave(&mut self) -> Option<Leaving> {
        let HeldBlock { begin, end, form, raw_bytes, record_count, separator } = self.blocks.pop_front()?;
        Some(Leaving { bytes: begin..end, form, raw_bytes, record_count, separator })
    }

    /// The dictionary that was decided on.
    pub(crate) fn chosen(&self) -> Option<&Chosen> {
        match &self.work {
            Work::Store(chosen) => chosen.as_ref(),
            _ => None,
        }
    }

    /// The same, for the rest of the table.
    pub(crate) fn into_chosen(self) -> Option<Chosen> {
        match self.work {
            Work::Store(chosen) => chosen,
            _ => None,
        }
    }
}

/// Blocks of the sample compressed without a dictionary, and with each that is considered.
struct Trial {
    /// Blocks of the sample.
    count: usize,
    /// Dictionaries that are not prepared yet.
    unprepared: Vec<Vec<u8>>,
    candidates: Vec<Chosen>,
    /// Bytes without, then by candidate.
    stored_bytes: Vec<u64>,
    raw_bytes: u64,
    /// Compressions done.
    done: usize,
}

impl Trial {
    fn new(largest: Vec<u8>, count: usize) -> Trial {
        let smaller = largest[largest.len() - largest.len() / SMALLER_PART..].to_vec();
        let mut unprepared = vec![smaller, largest];
        unprepared.retain(|bytes| bytes.len() >= DICTIONARY_BYTES_MIN);
        Trial { count, unprepared, candidates: Vec::new(), stored_bytes: vec![0], raw_bytes: 0, done: 0 }
    }

    /// Prepares a dictionary; false when all are.
    fn prepare(&mut self, level: i32) -> bool {
        let Some(bytes) = self.unprepared.pop() else { return false };
        if let Some(prepared) = WriteDictionary::new(&bytes, level) {
            self.candidates.push(Chosen { bytes, prepared });
            self.stored_bytes.push(0);
        }
        true
    }

    /// The number of the block that is compressed next.
    fn next(&self) -> Option<usize> {
        let (blocks, ways) = (self.count.min(TRIED_COUNT), self.stored_bytes.len());
        let number = self.done / ways;
        // Evenly over the sample.
        (ways > 1 && number < blocks).then(|| number * self.count / blocks)
    }

    fn compress(&mut self, raw: &[u8], level: i32, compressor: &mut Compressor) {
        let way = self.done % self.stored_bytes.len();
        let compression = match way.checked_sub(1) {
            None => Compression::Level(level),
            Some(candidate) => Compression::Dictionary(&self.candidates[candidate].prepared),
        };
        self.stored_bytes[way] += (BLOCK_HEADER_BYTES + compressor.pack(raw, compression).1.len()) as u64;
        self.raw_bytes += if way == 0 { raw.len() as u64 } else { 0 };
        self.done += 1;
    }

    /// The candidate with which the sample would be smallest, if one is worth it.
    fn choose(&mut self, sample_bytes: usize, level: i32, compressor: &mut Compressor) -> Option<Chosen> {
        let of_sample = |bytes: u64| bytes * sample_bytes as u64 / self.raw_bytes.max(1);
        let without = of_sample(self.stored_bytes[0]);
        let mut best = (without - without / SAVED_PART, None);
        for (candidate, stored) in self.candidates.iter().zip(&self.stored_bytes[1..]) {
            let own =
                BLOCK_HEADER_BYTES + compressor.pack(&candidate.bytes, Compression::Level(level)).1.len();
            let with = of_sample(*stored) + own as u64;
            if with < best.0 {
                best = (with, Some(candidate.bytes.len()));
            }
        }
        let chosen = self.candidates.iter().position(|candidate| Some(candidate.bytes.len()) == best.1)?;
        Some(self.candidates.swap_remove(chosen))
    }
}
