//! Golden interaction scripts: each passes word for word with all rules, and with its guard removed it ends in a wrong
//! report. A script whose first line is `# without GUARD` shows that guard to be needed.

#[path = "../examples/model/ghost.rs"]
mod ghost;
#[path = "../examples/model/script.rs"]
mod script;
#[path = "../examples/model/words.rs"]
mod words;

use paxos::{Guard, Guards};

const SCRIPTS: &[(&str, &str)] = &[
    ("steady", include_str!("../testdata/steady.txt")),
    ("own_vote_unflushed", include_str!("../testdata/own_vote_unflushed.txt")),
    ("round_zero_after_restart", include_str!("../testdata/round_zero_after_restart.txt")),
    ("stale_reply_of_former_life", include_str!("../testdata/stale_reply_of_former_life.txt")),
    ("former_life_forgotten", include_str!("../testdata/former_life_forgotten.txt")),
    ("former_life_not_passed_on", include_str!("../testdata/former_life_not_passed_on.txt")),
    ("round_that_learnt", include_str!("../testdata/round_that_learnt.txt")),
    ("given_up", include_str!("../testdata/given_up.txt")),
    ("round_begun_before", include_str!("../testdata/round_begun_before.txt")),
];

#[test]
fn scripts_pass_word_for_word() {
    for (name, text) in SCRIPTS {
        let told = script::run(text, Guards::ALL, &mut |line| println!("{line}"))
            .unwrap_or_else(|wrong| panic!("{name}: {wrong}"));
        assert!(told == *text, "{name}: `model script testdata/{name}.txt` says otherwise than the file");
    }
}

#[test]
fn scripts_end_wrong_without_their_guard() {
    for (name, text) in SCRIPTS {
        let first = text.lines().next().expect("a script has lines");
        let Some(guard) = first.strip_prefix("# without ") else { continue };
        let guard =
            Guard::ALL.into_iter().find(|known| format!("{known:?}") == guard).expect("the guard exists");
        let end = script::run(text, Guards::ALL.without(guard), &mut |line| println!("{line}"));
        assert!(end.is_err(), "{name}: {guard:?} is not missed");
    }
}
