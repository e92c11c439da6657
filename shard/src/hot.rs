//! Which keys are asked for most: a sketch of fixed size per core, fed with a sample of its gets, and what other cores may read of it.
//!
//! Owns the counting. Must never allocate while running, nor cost a get that is not sampled more than a step down. Invariant: of the
//! gets that were sampled, a key that stands in the sketch was asked for at most `count` times and at least `count - over` times;
//! whoever was asked for more often than one in [`COUNTERS`] stands in it.
//!
//! The sketch is *Space-Saving* (Metwally, Agrawal, El Abbadi: Efficient Computation of Frequent and Top-k Elements in Data Streams,
//! ICDT 2005): a key without a counter takes that of the least count, goes on from there, and remembers how much of it is not its own.

use ioengine::Instant;
use layout::key::{Key, hash_of};
use layout::units::{STREAM_BYTES_MAX, Space};
use serde_json::{Map, Value, json};
use std::cell::{Cell, RefCell};
use std::sync::Mutex;
use std::time::Duration;

/// Counters of a core: whoever gets more than a 128th of its gets is found.
const COUNTERS: usize = 128;
/// Lists of counters by hash.
const LISTS: usize = 256;
/// No counter.
const NONE: u8 = u8::MAX;
/// Of so many gets one is sampled, about: the others pay for a step down.
const SAMPLED: u32 = 16;
/// Keys that a core tells others of.
const SHOWN: usize = 32;
/// Length of a window: what is told is of the last one that is over.
const WINDOW: Duration = Duration::from_secs(5);

/// A key without a pointer.
#[derive(Clone, Copy)]
struct Name {
    space: Space,
    time: u64,
    bytes: u8,
    stream: [u8; STREAM_BYTES_MAX],
}

impl Name {
    const NOBODY: Name = Name { space: Space(0), time: 0, bytes: 0, stream: [0; STREAM_BYTES_MAX] };

    fn of(key: &Key<'_>) -> Name {
        let mut name = Name { space: key.space, time: key.time, ..Name::NOBODY };
        name.bytes = key.stream.len() as u8;
        name.stream[..key.stream.len()].copy_from_slice(key.stream);
        name
    }

    fn stream(&self) -> &[u8] {
        &self.stream[..usize::from(self.bytes)]
    }

    fn is(&self, key: &Key<'_>) -> bool {
        self.time == key.time && self.space == key.space && self.stream() == key.stream
    }
}

/// How often a key was asked for, and how much of that may have been others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counted {
    count: u32,
    over: u32,
    /// The list it is in.
    list: u8,
    /// The next counter there.
    next: u8,
}

/// See the head of the file.
struct Sketch {
    used: usize,
    counted: [Counted; COUNTERS],
    names: [Name; COUNTERS],
    lists: [u8; LISTS],
    /// No counter is below it.
    least: u32,
    /// Where the next one at `least` is looked for.
    cursor: usize,
    total: u64,
}

impl Sketch {
    fn new() -> Sketch {
        Sketch {
            used: 0,
            counted: [Counted::default(); COUNTERS],
            names: [Name::NOBODY; COUNTERS],
            lists: [NONE; LISTS],
            least: 1,
            cursor: 0,
            total: 0,
        }
    }

    fn clear(&mut self) {
        (self.used, self.least, self.cursor, self.total) = (0, 1, 0, 0);
        self.lists = [NONE; LISTS];
    }

    fn add(&mut self, key: &Key<'_>) {
        self.total += 1;
        let hash = hash_of(key.space, key.stream) ^ key.time.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let list = (hash >> 56) as u8;
        let mut place = self.lists[usize::from(list)];
        while place != NONE {
            let at = usize::from(place);
            if self.names[at].is(key) {
                self.counted[at].count += 1;
                return;
            }
            place = self.counted[at].next;
        }
        let (at, over) = if self.used < COUNTERS {
            self.used += 1;
            (self.used - 1, 0)
        } else {
            let at = self.least();
            self.leave(at);
            (at, self.counted[at].count)
        };
        self.names[at] = Name::of(key);
        let next = std::mem::replace(&mut self.lists[usize::from(list)], at as u8);
        self.counted[at] = Counted { count: over + 1, over, list, next };
    }

    /// A counter of the least count. Counts only grow: so many looks as there are counters find all of one count.
    fn least(&mut self) -> usize {
        loop {
            for _ in 0..COUNTERS {
                let at = self.cursor;
                self.cursor = (at + 1) % COUNTERS;
                if self.counted[at].count == self.least {
                    return at;
                }
            }
            self.least = self.counted.iter().map(|one| one.count).min().expect("there are counters");
        }
    }

    /// Takes a counter out of its list.
    fn leave(&mut self, at: usize) {
        let Counted { list, next, .. } = self.counted[at];
        let mut place = self.lists[usize::from(list)];
        if usize::from(place) == at {
            self.lists[usize::from(list)] = next;
            return;
        }
        while usize::from(self.counted[usize::from(place)].next) != at {
            place = self.counted[usize::from(place)].next;
        }
        self.counted[usize::from(place)].next = next;
    }

    /// Places of the highest counts, the highest first.
    fn top(&self, out: &mut [u8; COUNTERS]) -> usize {
        let places = &mut out[..self.used];
        for (at, place) in places.iter_mut().enumerate() {
            *place = at as u8;
        }
        let rank = |place: &u8| {
            let Counted { count, over, .. } = self.counted[usize::from(*place)];
            (std::cmp::Reverse(count - over), count, *place)
        };
        places.sort_unstable_by_key(rank);
        places.len().min(SHOWN)
    }
}

/// A key as others are told of it.
#[derive(Clone, Copy)]
struct Told {
    name: Name,
    counted: Counted,
}

/// What a core tells the others of its last window.
struct Window {
    lasted: Duration,
    total: u64,
    keys: Vec<Told>,
}

/// Where a core leaves it: written by the core now and then, read by whoever answers for the node.
pub(crate) struct Board(Mutex<Window>);

impl Default for Board {
    fn default() -> Board {
        Board(Mutex::new(Window { lasted: Duration::ZERO, total: 0, keys: Vec::with_capacity(SHOWN) }))
    }
}

impl std::fmt::Debug for Board {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Board")
    }
}

impl Board {
    fn window(&self) -> std::sync::MutexGuard<'_, Window> {
        self.0.lock().expect("nothing panics while holding it")
    }

    /// Of the sampled gets of the last window, those of the key most asked for, parts per million; at least so many.
    pub(crate) fn first_ppm(&self) -> u64 {
        let window = self.window();
        let sure = window.keys.first().map_or(0, |one| u64::from(one.counted.count - one.counted.over));
        (sure * 1_000_000).checked_div(window.total).unwrap_or(0)
    }
}

/// What a core counts of its gets by key.
pub(crate) struct HotKeys {
    /// Gets until the next one that is sampled.
    left: Cell<u32>,
    random: Cell<u64>,
    sampled: Cell<u64>,
    sketch: Box<RefCell<Sketch>>,
    since: Cell<Instant>,
}

impl HotKeys {
    pub(crate) fn new(now: Instant) -> HotKeys {
        HotKeys {
            left: Cell::new(SAMPLED),
            // The same at each start: nothing is hidden by it, and a simulated world is what it was.
            random: Cell::new(0x2545_f491_4f6c_dd1d),
            sampled: Cell::new(0),
            sketch: Box::new(RefCell::new(Sketch::new())),
            since: Cell::new(now),
        }
    }

    /// A get of this key is answered.
    #[inline]
    pub(crate) fn count(&self, key: &Key<'_>) {
        let left = self.left.get() - 1;
        self.left.set(left);
        if left == 0 {
            self.sample(key);
        }
    }

    #[cold]
    fn sample(&self, key: &Key<'_>) {
        // Gaps of 1 to 31, so that no pattern of gets hides between the samples (xorshift64; Marsaglia 2003).
        let mut random = self.random.get();
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        self.random.set(random);
        self.left.set(1 + ((random >> 32) as u32) % (2 * SAMPLED - 1));
        self.sampled.set(self.sampled.get() + 1);
        self.sketch.borrow_mut().add(key);
    }

    /// Gets sampled since the start.
    pub(crate) fn sampled(&self) -> u64 {
        self.sampled.get()
    }

    /// If a window is over, what it was is told, and the next begins.
    pub(crate) fn turn(&self, now: Instant, board: &Board) {
        let lasted = now.since(self.since.get());
        if lasted < WINDOW {
            return;
        }
        self.since.set(now);
        let mut sketch = self.sketch.borrow_mut();
        let mut places = [0; COUNTERS];
        let count = sketch.top(&mut places);
        let mut window = board.window();
        (window.lasted, window.total) = (lasted, sketch.total);
        window.keys.clear();
        let told = |&place: &u8| {
            let at = usize::from(place);
            Told { name: sketch.names[at], counted: sketch.counted[at] }
        };
        window.keys.extend(places[..count].iter().map(told));
        drop(window);
        sketch.clear();
    }
}

/// The keys most asked for at a node as JSON text of at most so many bytes, or none that do not fit.
pub(crate) fn text<'a>(
    node: u32,
    role: &str,
    boards: impl Iterator<Item = &'a Board> + Clone,
    bytes_max: usize,
) -> String {
    let mut shown = SHOWN;
    loop {
        let cores: Vec<Value> =
            (0..).zip(boards.clone()).map(|(core, board)| of_core(core, board, shown)).collect();
        let text = json!({ "node": node, "role": role, "cores": cores }).to_string();
        if text.len() <= bytes_max || shown == 0 {
            return text;
        }
        shown /= 2;
    }
}

fn of_core(core: u16, board: &Board, shown: usize) -> Value {
    let window = board.window();
    let seconds = window.lasted.as_secs_f64();
    let per_second = |sampled: f64| (sampled * f64::from(SAMPLED) / seconds.max(1e-9)).round();
    let key = |one: &Told| {
        let Counted { count, over, .. } = one.counted;
        let mut key = Map::new();
        key.insert("space".into(), one.name.space.0.into());
        match std::str::from_utf8(one.name.stream()) {
            Ok(stream) => key.insert("stream".into(), stream.into()),
            Err(_) => key.insert("stream_hex".into(), hex(one.name.stream()).into()),
        };
        key.insert("time_us".into(), one.name.time.into());
        // Between what is sure and what is possible; and two standard deviations of the sample.
        let middle = f64::from(count) - f64::from(over) / 2.0;
        key.insert("gets_per_second".into(), per_second(middle).into());
        let error = f64::from(over) / 2.0 + 2.0 * f64::from(count).sqrt();
        key.insert("error_per_second".into(), per_second(error).into());
        Value::Object(key)
    };
    json!({
        "core": core,
        "window_seconds": seconds,
        "gets_per_second": per_second(window.total as f64),
        "keys": window.keys.iter().take(shown).map(key).collect::<Vec<_>>(),
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn key(stream: &[u8], time: u64) -> Key<'_> {
        Key { space: Space(0), stream, time }
    }

    fn found(sketch: &Sketch, time: u64) -> Option<Counted> {
        (0..sketch.used).find(|&at| sketch.names[at].is(&key(b"a", time))).map(|at| sketch.counted[at])
    }

    proptest! {
        /// What the paper proves: bounds of each counter, of the error, and who must be there.
        #[test]
        fn counts_are_bounded(
            pieces in proptest::collection::vec((0u64..400, 1usize..40, any::<bool>()), 1..400),
        ) {
            let mut sketch = Sketch::new();
            let mut truth: BTreeMap<u64, u32> = BTreeMap::new();
            for (first, count, same) in pieces {
                for step in 0..count as u64 {
                    let time = if same { first } else { first + step };
                    sketch.add(&key(b"a", time));
                    *truth.entry(time).or_default() += 1;
                }
            }
            let total: u32 = truth.values().sum();
            prop_assert_eq!(u64::from(total), sketch.total);
            prop_assert_eq!(sketch.counted[..sketch.used].iter().map(|one| one.count).sum::<u32>(), total);
            for (time, count) in truth {
                match found(&sketch, time) {
                    Some(counted) => {
                        prop_assert!(counted.count >= count && counted.count - counted.over <= count);
                        prop_assert!(counted.over as usize <= total as usize / COUNTERS);
                    }
                    None => prop_assert!(count as usize <= total as usize / COUNTERS, "{time}: {count} of {total}"),
                }
            }
        }
    }

    #[test]
    fn a_window_tells_what_it_was_and_the_next_begins_empty() {
        let at = |seconds: u64| Instant { ns: seconds * 1_000_000_000 };
        let (hot, board) = (HotKeys::new(at(0)), Board::default());
        for number in 0..160_000u64 {
            let time = if number % 4 == 0 { 7 } else { 1_000 + number };
            hot.count(&key(b"\xff", time));
        }
        hot.turn(at(4), &board);
        assert_eq!(board.first_ppm(), 0, "not over");
        hot.turn(at(5), &board);
        let told: Value = serde_json::from_str(&text(3, "store", [&board].into_iter(), 1 << 20)).unwrap();
        let first = &told["cores"][0]["keys"][0];
        assert_eq!((&first["time_us"], &first["stream_hex"]), (&json!(7), &json!("ff")));
        let (rate, error) =
            (first["gets_per_second"].as_f64().unwrap(), first["error_per_second"].as_f64().unwrap());
        assert!((rate - 8_000.0).abs() <= error, "{rate} within {error}");
        assert!(error < 1_500.0, "{error}");
        let ppm = board.first_ppm();
        assert!((200_000..300_000).contains(&ppm), "{ppm}");
        assert!(text(3, "store", [&board].into_iter(), 300).len() <= 300, "what does not fit is left out");
        hot.turn(at(10), &board);
        assert_eq!((board.first_ppm(), board.window().keys.len()), (0, 0));
    }
}
