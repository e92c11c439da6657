//! The fuzz bodies on the stable toolchain: mutated golden vectors and random bytes, fixed seed.
//!
//! Every run tries the same inputs. Each test also counts how often the decoders accepted, so that a mutation that never
//! gets past a checksum is seen.

#[path = "../fuzz/bodies.rs"]
mod bodies;

use serde_json::Value;

const VECTORS: &str = include_str!("../golden/vectors.json");
const PEERS: &str = include_str!("../golden/peers.json");

/// Inputs per test.
const INPUT_COUNT: usize = 40_000;

/// splitmix64: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }
}

/// One to three changes; places lean to the headers.
fn mutate(random: &mut Random, image: &[u8]) -> Vec<u8> {
    const NUMBERS: [u64; 10] = [0, 1, 127, 128, 129, 4096, 4097, 0xffff, u32::MAX as u64, u64::MAX];
    let mut bytes = image.to_vec();
    for _ in 0..1 + random.below(3) {
        if bytes.is_empty() {
            return bytes;
        }
        let reach = if random.below(2) == 0 { bytes.len().min(90) } else { bytes.len() };
        let place = random.below(reach);
        match random.below(9) {
            0 | 1 => bytes[place] ^= 1 << random.below(8),
            2 => bytes[place] = random.next() as u8,
            3 | 4 => {
                let number = NUMBERS[random.below(NUMBERS.len())].to_le_bytes();
                let width = [1, 2, 4, 8][random.below(4)].min(bytes.len() - place);
                bytes[place..place + width].copy_from_slice(&number[..width]);
            }
            5 => {
                let length = random.below(bytes.len() - place + 1).min(32);
                bytes[place..place + length].fill(0);
            }
            6 => bytes.truncate(random.below(bytes.len() + 1)),
            7 => {
                let piece: Vec<u8> = (0..random.below(40)).map(|_| random.next() as u8).collect();
                bytes.splice(place..place, piece);
            }
            _ => bytes.extend_from_slice(image),
        }
    }
    bytes
}

fn images(direction: &str) -> Vec<Vec<u8>> {
    images_of(VECTORS, |vector| vector["direction"] == direction)
}

fn images_of(file: &str, wanted: impl Fn(&Value) -> bool) -> Vec<Vec<u8>> {
    let file: Value = serde_json::from_str(file).expect("the vectors are JSON");
    let unhex = |text: &str| -> Vec<u8> {
        let pair = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).expect("hex digits");
        (0..text.len()).step_by(2).map(pair).collect()
    };
    let all = file["vectors"].as_array().expect("a list").iter();
    all.filter(|v| wanted(v)).map(|v| unhex(v["hex"].as_str().expect("hex"))).collect()
}

/// Runs `body` over mutated images (nine of ten) and random bytes; answers what was accepted.
fn run(seed: u64, images: &[Vec<u8>], body: fn(&[u8]) -> usize) -> usize {
    let mut random = Random(seed);
    let mut accepted = 0;
    for number in 0..INPUT_COUNT {
        let input = if number % 10 == 9 {
            let length = random.below(600);
            (0..length).map(|_| random.next() as u8).collect()
        } else {
            let image = &images[random.below(images.len())];
            mutate(&mut random, image)
        };
        accepted += body(&input);
    }
    accepted
}

#[test]
fn frames_of_both_directions() {
    let mut all = images("request");
    all.extend(images("reply"));
    assert!(all.iter().all(|image| bodies::frame(image) == 2), "every image is accepted as it is");
    let accepted = run(1, &all, bodies::frame);
    assert!(
        (INPUT_COUNT / 20..INPUT_COUNT).contains(&accepted),
        "{accepted} accepted: mutations miss the point"
    );
}

#[test]
fn connections_to_a_server() {
    let all = images("request");
    let accepted = run(2, &all, bodies::server);
    assert!(
        (INPUT_COUNT / 20..INPUT_COUNT).contains(&accepted),
        "{accepted} accepted: mutations miss the point"
    );
}

#[test]
fn connections_to_a_client() {
    let mut all = images("reply");
    // Hello has been answered when these arrive.
    all.retain(|image| image[5] != 0x81);
    for image in &all {
        assert_eq!(bodies::client(image), 1, "accepted as it is: {image:02x?}");
    }
    let accepted = run(3, &all, bodies::client);
    assert!(
        (INPUT_COUNT / 20..INPUT_COUNT).contains(&accepted),
        "{accepted} accepted: mutations miss the point"
    );
}

#[test]
fn connections_between_nodes() {
    let all = images_of(PEERS, |_| true);
    assert!(all.iter().all(|image| bodies::peer(image) == 2), "every image is accepted as it is");
    let accepted = run(4, &all, bodies::peer);
    assert!(
        (INPUT_COUNT / 20..2 * INPUT_COUNT).contains(&accepted),
        "{accepted} accepted: mutations miss the point"
    );
}
