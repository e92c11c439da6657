//! Shared memory: 29–31. Kills between stores are tested in the simulator; a kill of a whole process in `real`.

use crate::env::Env;
use ioengine::Io;

/// 29, 31.
pub(crate) async fn a_region_keeps_its_words(io: Io, env: Env) {
    let name = format!("{}-words", env.region);
    let region = io.region(&name, 4096).unwrap();
    assert!(!region.existed());
    assert_eq!(region.word_count(), 512);
    assert!((0..512).all(|word| region.load(word) == 0));
    for word in 0..512 {
        region.prefetch(word);
        region.store(word, word as u64 * 3 + 1);
    }
    let clone = region.clone();
    assert_eq!(clone.load(511), 1534);
    clone.store(511, 7);
    assert_eq!(region.load(511), 7, "the same words");
    drop((region, clone));
    let region = io.region(&name, 4096).unwrap();
    assert!(region.existed());
    assert!((0..511).all(|word| region.load(word) == word as u64 * 3 + 1));
    assert_eq!(region.load(511), 7);
    let other = io.region(&format!("{}-other", env.region), 4096).unwrap();
    assert!(!other.existed() && other.load(1) == 0, "another name, other words");
}

/// 31.
pub(crate) async fn a_region_of_another_size_starts_zeroed(io: Io, env: Env) {
    let name = format!("{}-size", env.region);
    for bytes in [4096, 8192, 64, 1 << 20] {
        let region = io.region(&name, bytes).unwrap();
        assert!(!region.existed(), "{bytes} bytes");
        assert!((0..bytes / 8).all(|word| region.load(word) == 0));
        (0..bytes / 8).for_each(|word| region.store(word, u64::MAX));
    }
    assert!(io.region(&name, 1 << 20).unwrap().existed());
}

/// 29.
pub(crate) async fn the_boot_stays_the_same(io: Io, env: Env) {
    let boot = io.boot_id();
    assert_ne!(boot, [0; 16]);
    assert_eq!(io.boot_id(), boot);
    let same = std::sync::Arc::new(std::sync::OnceLock::new());
    let theirs = std::sync::Arc::clone(&same);
    env.launch(1, move |io| async move { theirs.set(io.boot_id() == boot).unwrap() });
    crate::env::eventually(&io, "the other core's look", || same.get().is_some()).await;
    assert_eq!(same.get(), Some(&true));
}
