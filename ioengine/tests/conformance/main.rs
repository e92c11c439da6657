//! The contract of `ioengine` (README.md), tested on every back end. A case is an async function of a core and its
//! surroundings; its comment names the numbers it holds. A back end runs all of them with `conformance!(super::run)`, where
//! `run(name, body)` lays out the surroundings, runs `body` on a core and fails when it hangs.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

/// Every case as a `#[test]` of the module this stands in.
macro_rules! conformance {
    ($run:path) => {
        conformance!($run => tasks:
            every_queue_makes_progress polls_do_not_nest spurious_polls_are_harmless random_numbers_differ
            clocks_do_not_go_back timers_never_fire_early a_timeout_gives_up_and_only_then an_idle_core_makes_no_turns
            the_end_of_main_ends_the_core);
        conformance!($run => operations:
            completions_find_their_operations a_dropped_write_still_lands a_dropped_read_keeps_its_buffer
            operations_beyond_the_slots_wait_in_order an_empty_arena_answers_none buffers_are_aligned_powers_of_two
            an_abandoned_accept_closes_its_stream an_abandoned_connect_closes_its_stream);
        conformance!($run => disks:
            a_disk_has_fixed_facts a_disk_is_claimed_by_one a_disk_is_shared_by_cores
            reads_see_completed_writes operations_in_parallel_move_whole_blocks a_reopened_disk_holds_what_was_written
            part_of_a_block_is_our_bug a_failed_flush_ends_the_disk a_failed_flush_nobody_waits_for_ends_the_disk
            want_of_space_does_not_end_the_disk);
        conformance!($run => streams:
            bytes_arrive_in_order_and_once a_closed_stream_is_read_to_its_end sending_does_not_wait_for_the_reader
            shutdown_ends_a_waiting_receive shutdown_ends_a_blocked_send dropping_a_stream_ends_its_operations
            both_ends_know_their_peer connecting_to_nobody_is_refused cores_share_an_address
            many_short_streams_leave_nothing_behind);
        conformance!($run => rings:
            messages_arrive_once_in_order_and_whole a_full_ring_refuses_and_changes_nothing
            a_sleeping_peer_is_woken the_end_of_a_core_abandons_its_rings);
        conformance!($run => regions:
            a_region_keeps_its_words a_region_of_another_size_starts_zeroed the_boot_stays_the_same);
    };
    ($run:path => $module:ident: $($case:ident)*) => {
        mod $module {
            $(
                #[test]
                fn $case() {
                    $run(stringify!($case), |io, env| Box::pin(crate::$module::$case(io, env)));
                }
            )*
        }
    };
}

mod disks;
mod env;
mod machine;
mod operations;
mod real;
mod regions;
mod rings;
mod sim;
mod streams;
mod tasks;
