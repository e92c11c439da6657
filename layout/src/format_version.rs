//! The one number for everything that stands on a device.
//!
//! The superblock carries it, and with it says how everything else is laid out: journals, entries, operations, manifests,
//! tables, state blobs; each of those has it again, so that a piece found alone can be told. Whoever changes a byte of any
//! of them raises it. Invariant: a number never means two layouts; `tests/golden.rs` holds the images of this number against [`IMAGES`].

/// Version of all formats of a device and of its version files.
pub const FORMAT_VERSION: u32 = 12;

/// For each version from 1 on the xxh3-64 of its golden images: name, length and bytes of each, in the order of the test.
/// A line is added with a new version and never changed.
pub const IMAGES: [u64; FORMAT_VERSION as usize] = [
    0xb0ce_63da_4761_c80e,
    0x7ed1_9f48_685e_90fd,
    0xe8d1_fcfa_5ac6_9b18,
    0x7e35_aa92_c874_8eb7,
    0xca7b_de31_8e20_d59c,
    0xf138_891c_3b03_43d8,
    0x8cb7_ac82_133c_4342,
    0x3202_beaa_b525_ba82,
    0xc07c_30fa_9447_9684,
    0x5314_e5eb_e152_1c47,
    0x67fa_d414_2e46_dc38,
    0x9eb2_5cc8_bf28_67f1,
];
