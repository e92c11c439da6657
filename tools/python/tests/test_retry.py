"""The table of section 10, row by row, as the pure function that decides."""

from __future__ import annotations

import random
import unittest

import here  # noqa: F401  (first: it makes the package importable)
from thermocline import errors, replies
from thermocline.codes import Limit, Outcome, Why
from thermocline.replies import Reply
from thermocline.retry import Again, Done, History, Report, decide, expire

RNG = random.Random(1)


def reply(outcome: Outcome, body=None) -> Reply:
    return Reply(outcome, 7, body)


def answer(history: History, given: Reply, *, sent: bool = True, endpoint: str = "a:1", replicas: int = 1):
    """The decision after one more sending was answered so."""
    history.open_sendings += sent
    return decide(history, given, endpoint, replicas, RNG)


def read() -> History:
    return History("Get", False)


def write(expected=None) -> History:
    return History("Put" if expected is None else "CompareAndSet", True, expected)


BUSY = reply(Outcome.Busy, replies.BusyReply(Limit.Journal, 8))
OLD = reply(Outcome.UnknownOutcome, replies.UnknownReply(True))
UNKNOWN = reply(Outcome.UnknownOutcome, replies.UnknownReply(False))
MISMATCH = reply(Outcome.VersionMismatch, replies.MismatchReply(5))
REFUSALS = {
    errors.TooLarge: reply(Outcome.TooLarge, replies.TooLargeReply(Limit.Entry)),
    errors.BadRequest: reply(Outcome.BadRequest, replies.BadRequestReply(Why.Time, 8)),
    errors.Unauthorized: reply(Outcome.Unauthorized),
    errors.Corrupt: reply(Outcome.Corrupt),
}


class Decisions(unittest.TestCase):
    def assert_reports(self, decision, kind):
        self.assertIsInstance(decision, Report)
        self.assertIs(type(decision.error), kind)
        self.assertTrue(str(decision.error))

    def test_an_answer_is_the_answer(self):
        for outcome in (Outcome.Ok, Outcome.NotFound, Outcome.NotModified):
            self.assertIsInstance(answer(read(), reply(outcome)), Done)

    def test_busy_waits_around_the_hint_twice_as_long_each_time(self):
        for history in (read(), write()):
            for round_ in range(6):
                waits = []
                for _ in range(200):
                    history.busy_count = round_
                    decision = answer(history, BUSY)
                    self.assertIsInstance(decision, Again)
                    self.assertFalse(decision.next_replica or decision.new_id)
                    waits.append(decision.wait_s)
                hint_s = 0.008 * 2**round_
                self.assertGreaterEqual(min(waits), hint_s * 0.5)
                self.assertLessEqual(max(waits), hint_s * 1.5)
                self.assertLess(min(waits), hint_s * 0.6, "waits are spread")
                self.assertGreater(max(waits), hint_s * 1.4, "waits are spread")

    def test_waits_stop_doubling_at_a_second_unless_the_hint_is_longer(self):
        for hint_ms, longest_s in ((0, 1.0), (8, 1.0), (1_000, 1.0), (60_000, 60.0)):
            history = read()
            waits = []
            for _ in range(300):
                history.busy_count = 40
                waits.append(answer(history, reply(Outcome.Busy, replies.BusyReply(Limit.Draining, hint_ms))).wait_s)
            self.assertLessEqual(max(waits), 1.5 * longest_s)
            self.assertGreater(max(waits), 1.3 * longest_s)
            self.assertGreaterEqual(min(waits), 0.5 * longest_s)
        first = [answer(read(), reply(Outcome.Busy, replies.BusyReply(Limit.Queue, 0))).wait_s for _ in range(99)]
        self.assertTrue(all(0.001 <= wait_s <= 0.003 for wait_s in first), "without a hint: 2 ms")

    def test_answered_sendings_leave_no_doubt(self):
        turned_away = (BUSY, reply(Outcome.NotCurrent), reply(Outcome.WrongGroup, replies.WrongGroupReply(8)))
        for away in turned_away:
            for kind, refusal in REFUSALS.items():
                history = write()
                answer(history, away)
                answer(history, away)
                self.assertFalse(history.may_have_applied)
                self.assert_reports(answer(history, refusal), kind)
            history = write()
            answer(history, away)
            self.assertTrue(answer(history, OLD).new_id)
            self.assertIs(type(expire(history)), errors.Timeout)

    def test_an_answered_sending_does_not_answer_for_one_that_was_not(self):
        for away in (BUSY, reply(Outcome.NotCurrent)):
            history = write()
            history.open_sendings = 1
            answer(history, away)
            self.assertTrue(history.may_have_applied)
            self.assert_reports(answer(history, REFUSALS[errors.BadRequest]), errors.UnknownOutcome)

    def test_not_current_goes_to_each_replica_before_it_waits(self):
        history = read()
        decisions = [answer(history, reply(Outcome.NotCurrent), replicas=3) for _ in range(4)]
        self.assertTrue(all(decision.next_replica for decision in decisions))
        self.assertEqual([decision.wait_s > 0 for decision in decisions], [False, False, False, True])

    def test_wrong_group_fetches_the_map(self):
        history = write()
        wrong = reply(Outcome.WrongGroup, replies.WrongGroupReply(8))
        self.assertEqual(answer(history, wrong), Again(fetch_map=True))
        self.assertGreater(answer(history, wrong).wait_s, 0, "the new map said the same")

    def test_a_read_that_timed_out_is_asked_again(self):
        self.assertEqual(answer(read(), reply(Outcome.Timeout)), Again())

    def test_corrupt_is_reported_after_the_last_replica(self):
        history = read()
        self.assertTrue(answer(history, reply(Outcome.Corrupt), endpoint="a:1", replicas=3).next_replica)
        self.assertTrue(answer(history, reply(Outcome.Corrupt), endpoint="b:1", replicas=3).next_replica)
        self.assertTrue(answer(history, reply(Outcome.Corrupt), endpoint="b:1", replicas=3).next_replica)
        self.assert_reports(answer(history, reply(Outcome.Corrupt), endpoint="c:1", replicas=3), errors.Corrupt)
        self.assert_reports(answer(write(), reply(Outcome.Corrupt), replicas=3), errors.Corrupt)

    def test_an_old_id_sent_once_is_drawn_anew(self):
        self.assertEqual(answer(write(), OLD), Again(new_id=True))

    def test_an_old_id_after_busy_alone_is_drawn_anew(self):
        history = write()
        answer(history, BUSY)
        self.assertEqual(answer(history, OLD), Again(new_id=True))

    def test_an_old_id_after_a_lost_answer_is_unknown(self):
        history = write()
        history.open_sendings = 1
        decision = answer(history, OLD)
        self.assert_reports(decision, errors.UnknownOutcome)
        self.assertTrue(decision.error.too_old)

    def test_an_unknown_outcome_is_reported(self):
        self.assert_reports(answer(write(), UNKNOWN), errors.UnknownOutcome)

    def test_a_mismatch_to_the_first_try_is_reported(self):
        for expected in (0, 3):
            decision = answer(write(expected), MISMATCH)
            self.assert_reports(decision, errors.VersionMismatch)
            self.assertEqual(decision.error.current, 5)

    def test_a_mismatch_after_busy_alone_is_that_of_a_first_try(self):
        history = write(0)
        answer(history, BUSY)
        self.assert_reports(answer(history, MISMATCH), errors.VersionMismatch)

    def test_a_mismatch_after_a_lost_answer(self):
        for expected, kind in ((3, errors.VersionMismatch), (0, errors.UnknownOutcome)):
            history = write(expected)
            history.open_sendings = 1
            self.assert_reports(answer(history, MISMATCH), kind)

    def test_refusals_are_reported(self):
        for kind, refusal in REFUSALS.items():
            for history in (read(), write(), write(0)):
                self.assert_reports(answer(history, refusal), kind)

    def test_a_refusal_after_a_lost_answer_leaves_a_write_unknown(self):
        for kind, refusal in REFUSALS.items():
            history = write()
            history.open_sendings = 1
            decision = answer(history, refusal)
            self.assert_reports(decision, errors.UnknownOutcome)
            self.assertIs(type(decision.error.__cause__), kind)
            history = read()
            history.open_sendings = 1
            self.assert_reports(answer(history, refusal), kind)

    def test_the_deadline(self):
        sent = write()
        sent.open_sendings = 1
        self.assertIs(type(expire(sent)), errors.UnknownOutcome)
        self.assertIs(type(expire(write())), errors.Timeout)
        turned_away = write()
        answer(turned_away, BUSY)
        error = expire(turned_away)
        self.assertIs(type(error), errors.Timeout, "Busy says that nothing was done")
        self.assertIs(type(error.__cause__), errors.Busy)
        self.assertIn("Journal", str(error))
        asked = read()
        asked.open_sendings = 1
        self.assertIs(type(expire(asked)), errors.Timeout)


if __name__ == "__main__":
    unittest.main()
