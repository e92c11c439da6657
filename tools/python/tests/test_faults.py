"""Many writes in flight while servers drop connections, refuse, fall behind and talk rubbish, at random from a seed.

What must hold: a write that was answered was applied once, one that failed with anything but UnknownOutcome was not
applied, and none was applied twice. The threads make each run another history; a seed fixes only the faults.
"""

from __future__ import annotations

import random
import threading
import unittest
from collections import Counter

import here  # noqa: F401  (first: it makes the package importable)
from model import LOG_TIME, Fault, Server, Store, bad_request, busy
from thermocline import errors, writes
from thermocline.client import Client
from thermocline.codes import Outcome, Why
from thermocline.replies import Reply

WRITES = 300


class Faults:
    """A plan of faults. One for all servers of a test."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self._lock = threading.Lock()
        self.seen: Counter = Counter()

    def plan(self, server, request):
        """What happens to this request."""
        with self._lock:
            dice = self._rng.random()
        named = hasattr(request, "stream")
        chances = (
            ("drop before", 0.04, True, Fault("drop")),
            ("drop after", 0.04, True, Fault("drop", apply=True)),
            ("rubbish", 0.02, True, Fault(b"TCL1 rubbish" * 4, apply=True)),
            ("busy", 0.10, True, busy()),
            ("behind", 0.05, named, Reply(Outcome.NotCurrent, LOG_TIME)),
            ("refused", 0.03, isinstance(request, writes.Put), bad_request(Why.Time, 8)),
        )
        for name, chance, possible, answer in chances:
            dice -= chance
            if dice < 0:
                if not possible:
                    return None
                self.seen[name] += 1
                return answer
        return None


class RandomFaults(unittest.TestCase):
    def writes_of(self, seed: int):
        rng = random.Random(seed)
        for index in range(WRITES):
            stream, value = b"s%d" % rng.randrange(4), b"%d" % index
            if rng.random() < 0.5:
                yield writes.Put(stream, index, value)
            else:
                yield writes.CompareAndSet(stream, index, value, expected=0)

    def test_each_write_is_applied_as_often_as_its_answer_says(self):
        seen: Counter = Counter()
        for seed in range(2):
            with self.subTest(seed=seed):
                faults, store = Faults(seed), Store()
                with Server(store, faults.plan, in_flight=16) as one, Server(store, faults.plan) as two:
                    with Client([one.endpoint, two.endpoint], deadline=60.0) as client:
                        calls = [client.start(request) for request in self.writes_of(seed)]
                        for _ in client.as_completed(calls):
                            pass
                        self.check(calls, store, seen)
                seen += faults.seen
        for name in (
            "drop before",
            "drop after",
            "rubbish",
            "busy",
            "behind",
            "refused",
            "applied",
            "refused at last",
        ):
            self.assertGreater(seen[name], 0, f"{name} never happened: the test shows less than it should")

    def check(self, calls, store, seen):
        applied = Counter(value for _, _, value in store.history)
        for call in calls:
            value = call.request.value
            count = applied[value]
            self.assertLessEqual(count, 1, "applied twice")
            if call.reply is not None:
                self.assertEqual(count, 1)
                record = store.records[(0, call.request.stream, call.request.time)]
                self.assertEqual((record.value, record.version), (value, call.reply.body.version))
                seen["applied"] += 1
            elif not isinstance(call.error, errors.UnknownOutcome):
                self.assertIsInstance(call.error, errors.BadRequest)
                self.assertEqual(count, 0, f"reported as {call.error!r} and applied")
                seen["refused at last"] += 1
            else:
                seen["unknown"] += 1


if __name__ == "__main__":
    unittest.main()
