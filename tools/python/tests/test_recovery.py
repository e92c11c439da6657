"""What becomes of requests when things go wrong: one server and then several, with faults on purpose.

Deadlines here are either far too long to matter or pass on purpose; nothing is asserted about elapsed time.
"""

from __future__ import annotations

import time
import unittest

import here  # noqa: F401  (first: it makes the package importable)
from model import LOG_TIME, Fault, Server, Store, bad_request, busy, first, unused_endpoint
from thermocline import errors, replies, requests, writes
from thermocline.client import Client, put_operation
from thermocline.codes import Limit, Operation, Outcome, Why
from thermocline.messages import reply_frame
from thermocline.replies import Reply

LONG_S = 60.0
SHORT_S = 0.3


class Retries(unittest.TestCase):
    """One server, one client, and something that goes wrong."""

    def with_plan(self, plan, **options):
        self.server = Server(plan=plan, **options)
        self.addCleanup(self.server.__exit__, None, None, None)
        client = Client(self.server.endpoint, deadline=LONG_S)
        self.addCleanup(client.close)
        return client

    def one_id(self):
        """That all puts and compare-and-sets had the same id; how many there were."""
        sent = self.server.sent(writes.Put) + self.server.sent(writes.CompareAndSet)
        self.assertEqual(len({request.request_id for request in sent}), 1)
        return len(sent)

    def test_busy_is_tried_again_with_the_same_id(self):
        client = self.with_plan(first(writes.Put, busy(), 3))
        self.assertFalse(client.put("a", 1, b"x").repeated)
        self.assertEqual(self.one_id(), 4)

    def test_a_lost_answer_is_asked_for_again_with_the_same_id(self):
        client = self.with_plan(first(writes.Put, Fault("drop", apply=True), 2))
        written = client.put("a", 1, b"x")
        self.assertTrue(written.repeated)
        self.assertEqual(self.one_id(), 3)
        self.assertEqual(self.server.store.log_index, 1)

    def test_a_lost_request_is_sent_again(self):
        client = self.with_plan(first(writes.Put, Fault("drop")))
        self.assertFalse(client.put("a", 1, b"x").repeated)
        self.assertEqual(self.one_id(), 2)

    def test_rubbish_ends_the_connection_and_the_request_is_asked_again(self):
        rubbish = (
            b"HTTP/1.1 400 Bad Request\r\n\r\n" + bytes(32),
            bytes(64),
            b"TCL1" + bytes(60),
        )
        for data in rubbish:
            client = self.with_plan(first(writes.Put, Fault(data, apply=True)))
            self.assertTrue(client.put("a", 1, b"x").repeated)
            self.assertEqual(len(self.server.hellos), 2)

    def test_a_reply_that_nobody_asked_for_ends_the_connection(self):
        def strange(request):
            return Fault(replies_to(9_999))

        client = self.with_plan(first(requests.Get, strange))
        self.assertIsNone(client.get("a", 1))
        self.assertEqual(len(self.server.hellos), 2)

    def test_a_compare_and_set_whose_answer_was_lost(self):
        client = self.with_plan(first(writes.CompareAndSet, Fault("drop", apply=True)))
        self.assertTrue(client.compare_and_set("a", 1, b"x", expected=0).repeated)
        self.assertEqual(self.one_id(), 2)

    def test_a_mismatch_after_a_lost_sending_is_unknown_only_for_expected_0(self):
        def lose_and_forget(request):
            # The ids kept are lost, so that the retry meets its own first try, or another's write.
            self.server.store.write(
                writes.Put(request.stream, request.time, b"other", request_id=writes.RequestId(1, 0, 1))
            )
            return Fault("drop")

        client = self.with_plan(first(writes.CompareAndSet, lose_and_forget))
        with self.assertRaises(errors.UnknownOutcome):
            client.compare_and_set("a", 1, b"x", expected=0)
        client = self.with_plan(first(writes.CompareAndSet, lose_and_forget))
        with self.assertRaises(errors.VersionMismatch):
            client.compare_and_set("a", 1, b"x", expected=77)

    def test_an_id_that_is_too_old_is_drawn_anew_with_the_log_time_of_the_reply(self):
        too_old = Reply(Outcome.UnknownOutcome, LOG_TIME + 5, replies.UnknownReply(True))
        client = self.with_plan(first(writes.Put, too_old))
        client.put("a", 1, b"x")
        one, two = [request.request_id for request in self.server.sent(writes.Put)]
        self.assertEqual((one.log_time, two.log_time), (0, LOG_TIME + 5))
        self.assertEqual((one.client, one.sequence + 1), (two.client, two.sequence))

    def test_the_log_time_of_an_id_is_the_newest_seen_for_the_stream(self):
        client = self.with_plan(None)
        client.put("a", 1, b"x")
        seen = client.get("a", 1) and self.server.store.log_time
        client.put("b", 1, b"x")
        client.multi_get([("a", 1), ("c", 1)])
        client.put("a", 2, b"x")
        client.put("c", 2, b"x")
        ids = [request.request_id for request in self.server.sent(writes.Put)]
        self.assertEqual([request_id.log_time for request_id in ids], [0, 0, seen + 1, seen + 1])
        self.assertEqual([request_id.sequence for request_id in ids], [1, 2, 3, 4])

    def test_a_silent_server_and_the_deadline(self):
        client = self.with_plan(
            lambda server, request: None if isinstance(request, requests.Hello) else Fault("silence")
        )
        with self.assertRaises(errors.Timeout):
            client.get("a", 1, deadline=SHORT_S)
        with self.assertRaises(errors.UnknownOutcome):
            client.put("a", 1, b"x", deadline=SHORT_S)

    def test_a_late_answer_is_nobodys(self):
        client = self.with_plan(None, hold=2)
        with self.assertRaises(errors.Timeout):
            client.get("late", 1, deadline=SHORT_S)
        self.assertEqual(client.ping(b"next"), b"next")
        self.assertEqual(len(self.server.hellos), 1)

    def test_busy_until_the_deadline_is_no_unknown_outcome(self):
        client = self.with_plan(first(writes.Put, busy(limit=Limit.Space), 1_000_000))
        with self.assertRaises(errors.Timeout) as caught:
            client.put("a", 1, b"x", deadline=SHORT_S)
        self.assertIs(type(caught.exception.__cause__), errors.Busy)
        self.assertIn("Space", str(caught.exception))

    def test_a_write_that_was_never_sent(self):
        with (
            Client(unused_endpoint(), deadline=SHORT_S) as client,
            self.assertRaises(errors.Timeout) as caught,
        ):
            client.put("a", 1, b"x")
        self.assertIs(type(caught.exception.__cause__), errors.ConnectionLost)

    def test_refusals(self):
        cases = (
            (bad_request(Why.Time, 8), errors.BadRequest),
            (Reply(Outcome.TooLarge, 0, replies.TooLargeReply(Limit.Entry)), errors.TooLarge),
            (Reply(Outcome.Corrupt, 0), errors.Corrupt),
            (Reply(Outcome.Unauthorized, 0), errors.Unauthorized),
        )
        for refusal, kind in cases:
            client = self.with_plan(first(writes.Put, refusal))
            with self.assertRaises(kind):
                client.put("a", 1, b"x")
            self.assertEqual(self.one_id(), 1)

    def test_hello_refused(self):
        client = self.with_plan(first(requests.Hello, Reply(Outcome.Unauthorized, 0), 99))
        with self.assertRaises(errors.Unauthorized):
            client.get("a", 1)
        client = self.with_plan(first(requests.Hello, bad_request(Why.Cluster, 32), 99))
        with self.assertRaises(errors.BadRequest):
            client.put("a", 1, b"x")

    def test_hello_busy_is_tried_again(self):
        client = self.with_plan(first(requests.Hello, busy(limit=Limit.Starting), 3))
        self.assertIsNone(client.get("a", 1))

    def test_a_server_that_went_away_while_idle_costs_no_doubt(self):
        client = self.with_plan(None)
        client.put("a", 1, b"x")
        self.server.drop_all()
        # The end of the connection is seen before anything is sent on it, so the write is sent once.
        self.assertFalse(client.compare_and_set("a", 2, b"x", expected=0).repeated)
        self.assertEqual(len(self.server.sent(writes.CompareAndSet)), 1)

    def test_an_idle_connection_is_not_used_when_the_server_may_close_it(self):
        client = self.with_plan(None, idle_ms=1)
        client.ping()
        time.sleep(0.01)
        client.ping()
        self.assertEqual(len(self.server.hellos), 2)

    def test_a_multi_get_whose_keys_are_answered_one_by_one(self):
        def some(request):
            items = []
            for index, get in enumerate(request.gets):
                others = (busy(), Reply(Outcome.TooLarge, 0, replies.TooLargeReply(Limit.Frame)), None)
                items.append((index, others[index % 3] or self.server.store._get(get)))
            return Reply(Outcome.Ok, 0, replies.MultiGetReply(tuple(items)))

        client = self.with_plan(first(requests.MultiGet, some))
        client.batch("a", [put_operation(time, b"%d" % time) for time in range(30)])
        found = client.multi_get([("a", time) for time in range(30)])
        self.assertEqual([record.value for record in found], [b"%d" % time for time in range(30)])
        self.assertEqual([len(request.gets) for request in self.server.sent(requests.MultiGet)], [30, 10])

    def test_a_multi_get_of_which_nothing_fits_becomes_gets(self):
        unfit = Reply(Outcome.TooLarge, 0, replies.TooLargeReply(Limit.Frame))

        def none(request):
            return Reply(Outcome.Ok, 0, replies.MultiGetReply(tuple((i, unfit) for i in range(len(request.gets)))))

        client = self.with_plan(first(requests.MultiGet, none, 99))
        client.put("a", 1, b"x")
        self.assertEqual([record and record.value for record in client.multi_get([("a", 1), ("a", 2)])], [b"x", None])

    def test_a_key_that_is_damaged_among_others(self):
        corrupt = Reply(Outcome.Corrupt, 0)

        def plan(server, request):
            if isinstance(request, requests.MultiGet):
                items = tuple((i, corrupt if i == 1 else server.store._get(g)) for i, g in enumerate(request.gets))
                return Reply(Outcome.Ok, 0, replies.MultiGetReply(items))
            return corrupt if isinstance(request, requests.Get) else None

        client = self.with_plan(plan)
        client.put("a", 1, b"x")
        with self.assertRaises(errors.Corrupt):
            client.multi_get([("a", 1), ("a", 2)])
        found = client.multi_get([("a", 1), ("a", 2)], return_errors=True)
        self.assertEqual(found[0].value, b"x")
        self.assertIsInstance(found[1], errors.Corrupt)

    def test_a_scan_that_does_not_move_on(self):
        for backward in (False, True):
            resume = 2**64 - 1 if backward else 0
            stuck = Reply(Outcome.Ok, LOG_TIME, replies.PageReply(1, resume, ()))
            client = self.with_plan(first(requests.Scan, stuck, 99))
            with self.assertRaises(errors.UnexpectedReply):
                list(client.scan("a", backward=backward))

    def test_an_empty_page_is_not_the_end(self):
        def empty(request):
            return Reply(Outcome.Ok, LOG_TIME, replies.PageReply(1, request.start + 1, ()))

        client = self.with_plan(first(requests.Scan, empty))
        client.put("a", 7, b"x")
        self.assertEqual([record.time for record in client.scan("a")], [7])


def replies_to(number: int) -> bytes:
    """A right frame: NotFound to a Get of this number."""
    return reply_frame(Operation.Get, Reply(Outcome.NotFound, LOG_TIME), number, 0)


class Replicas(unittest.TestCase):
    """Several servers of one group, over one store."""

    def servers(self, *plans):
        store = Store()
        servers = [Server(store, plan) for plan in plans]
        for server in servers:
            self.addCleanup(server.__exit__, None, None, None)
        client = Client([server.endpoint for server in servers], deadline=LONG_S)
        self.addCleanup(client.close)
        return client, servers

    def test_one_that_is_down(self):
        with Server() as server, Client(f"{unused_endpoint()},{server.endpoint}", deadline=LONG_S) as client:
            client.put("a", 1, b"x")
            self.assertEqual(client.get("a", 1).value, b"x")

    def test_one_that_dies_with_an_answer(self):
        client, servers = self.servers(first(writes.Put, Fault("drop", apply=True)), None)
        self.assertTrue(client.put("a", 1, b"x").repeated)
        self.assertEqual(servers[0].sent(writes.Put)[0].request_id, servers[1].sent(writes.Put)[0].request_id)

    def test_one_that_is_behind(self):
        client, servers = self.servers(first(object, lambda r: behind(r), 99), None)
        client.put("a", 1, b"x")
        self.assertEqual(client.get("a", 1).value, b"x")
        self.assertTrue(servers[0].sent(writes.Put) and servers[1].sent(writes.Put))

    def test_one_that_is_damaged(self):
        client, servers = self.servers(first(requests.Get, Reply(Outcome.Corrupt, 0), 99), None)
        client.put("a", 1, b"x")
        self.assertEqual(client.get("a", 1).value, b"x")

    def test_all_damaged(self):
        damaged = first(requests.Get, Reply(Outcome.Corrupt, 0), 99)
        client, servers = self.servers(damaged, damaged, damaged)
        with self.assertRaises(errors.Corrupt):
            client.get("a", 1)
        self.assertEqual([len(server.sent(requests.Get)) for server in servers], [1, 1, 1])

    def test_another_member_is_found_through_the_map(self):
        store = Store()
        with Server(store) as old, Server(store) as new:
            old.map = new.map = old.map_with(new, epoch=3)
            with Client(old.endpoint, deadline=LONG_S) as client:
                client.put("a", 1, b"x")
                client.get("a", 1)
                self.assertEqual(len(old.sent(requests.Map)), 1, "a higher epoch is fetched once")
                old.__exit__()
                self.assertEqual(client.get("a", 1).value, b"x")
                self.assertEqual(client.map().epoch, 3)

    def test_a_wrong_group_is_asked_again_after_the_map(self):
        wrong = Reply(Outcome.WrongGroup, LOG_TIME, replies.WrongGroupReply(2))
        client, servers = self.servers(first(writes.Put, wrong))
        client.put("a", 1, b"x")
        self.assertEqual(len({request.request_id for request in servers[0].sent(writes.Put)}), 1)
        self.assertTrue(servers[0].sent(requests.Map))


def behind(request):
    """NotCurrent to what names a stream."""
    return Reply(Outcome.NotCurrent, 0) if hasattr(request, "stream") else None


if __name__ == "__main__":
    unittest.main()
