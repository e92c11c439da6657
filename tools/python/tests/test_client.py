"""The verbs and pipelines of the client against the model server, on good days."""

from __future__ import annotations

import unittest

import here  # noqa: F401  (first: it makes the package importable)
from model import CLUSTER, LOG_TIME, Server
from thermocline import errors, requests, writes
from thermocline.client import NOT_MODIFIED, Client, delete_operation, put_operation
from thermocline.codes import Limit, Operation
from thermocline.replies import Record

LONG_S = 60.0
SHORT_S = 0.3


class Verbs(unittest.TestCase):
    def setUp(self):
        self.server = self.open(Server())
        self.client = self.open(Client(self.server.endpoint, deadline=LONG_S))

    def open(self, thing):
        self.addCleanup(thing.__exit__, None, None, None)
        return thing.__enter__()

    def test_put_get_delete(self):
        self.assertIsNone(self.client.get("a", 5))
        written = self.client.put("a", 5, "value", expiry=LOG_TIME * 2)
        self.assertEqual(written.log_time, self.server.store.log_time)
        self.assertEqual(self.client.get(b"a", 5), Record(5, written.version, LOG_TIME * 2, b"value"))
        self.assertIsNone(self.client.get("a", 5, space=1))
        self.assertGreater(self.client.delete("a", 5).version, written.version)
        self.assertIsNone(self.client.get("a", 5))

    def test_get_if_newer(self):
        self.assertIs(self.client.get_if_newer("a", 5, 0), NOT_MODIFIED)
        self.assertIsNone(self.client.get_if_newer("a", 5, 9))
        version = self.client.put("a", 5, b"1").version
        self.assertIs(self.client.get_if_newer("a", 5, version), NOT_MODIFIED)
        self.assertEqual(self.client.get_if_newer("a", 5, version - 1).value, b"1")

    def test_compare_and_set(self):
        version = self.client.compare_and_set("a", 5, b"1", expected=0).version
        with self.assertRaises(errors.VersionMismatch) as caught:
            self.client.compare_and_set("a", 5, b"2", expected=0)
        self.assertEqual(caught.exception.current, version)
        self.client.compare_and_set("a", 5, b"2", expected=version)
        self.assertEqual(self.client.get("a", 5).value, b"2")

    def test_batch(self):
        self.client.put("a", 2, b"old")
        written = self.client.batch("a", [put_operation(1, b"one"), delete_operation(2), put_operation(3, b"three")])
        self.assertEqual(written.count, 3)
        found = self.client.multi_get([("a", 1), ("a", 2), ("a", 3)])
        self.assertEqual(found[0].version, written.version)
        self.assertIsNone(found[1])
        self.assertEqual(found[2].version, written.version + 2)

    def test_scan_both_ways_over_pages(self):
        self.server.store.page_records = 3
        times = list(range(10, 31))
        for time in times:
            self.client.put("a", time, str(time))
        self.client.put("b", 15, "other")
        self.assertEqual([record.time for record in self.client.scan("a")], times)
        self.assertEqual([record.time for record in self.client.scan("a", backward=True)], times[::-1])
        self.assertEqual([record.time for record in self.client.scan("a", 12, 20)], list(range(12, 21)))
        self.assertEqual(
            [record.time for record in self.client.scan("a", 12, 20, backward=True)], list(range(20, 11, -1))
        )
        self.assertEqual([record.time for record in self.client.scan("a", limit=7)], times[:7])
        self.assertEqual(
            [record.time for record in self.client.scan("a", backward=True, limit=4, page_records=2)],
            [30, 29, 28, 27],
        )
        self.assertEqual(list(self.client.scan("a", 31)), [])

    def test_head_over_pages(self):
        self.server.store.page_records = 3
        for time in range(8):
            self.client.put("a", time, str(time))
        self.assertEqual([record.time for record in self.client.head("a")], [7])
        self.assertEqual([record.time for record in self.client.head("a", 7)], [7, 6, 5, 4, 3, 2, 1])
        self.assertEqual([record.time for record in self.client.head("a", 100)], [7, 6, 5, 4, 3, 2, 1, 0])

    def test_streams(self):
        self.server.store.page_records = 2
        names = {(space, b"s%d" % index) for space in (0, 3) for index in range(7)}
        for space, stream in names:
            self.client.put(stream, 1, b"", space=space)
        self.assertEqual(set(self.client.streams()), names)
        self.assertEqual({stream for _, stream in self.client.streams(space=3)}, {stream for _, stream in names})

    def test_multi_get_of_more_keys_than_a_frame_has(self):
        for time in range(0, 5_000, 7):
            self.client.start(writes.Put(b"a", time, b"%d" % time))
        found = self.client.multi_get([("a", time) for time in range(5_000)])
        for time, record in enumerate(found):
            self.assertEqual(record and record.value, None if time % 7 else b"%d" % time)
        self.assertEqual(self.client.multi_get([]), [])

    def test_the_node(self):
        self.assertEqual(self.client.ping(b"there?"), b"there?")
        self.assertEqual(self.client.status(), {"connections": 1})
        self.assertEqual(self.client.map().cluster, CLUSTER)
        self.assertEqual(self.client.map().epoch, 1, "NotModified gives the map that is known")
        self.assertEqual(self.server.sent(requests.Map)[-1].known_epoch, 1)

    def test_arguments_are_refused_before_anything_is_sent(self):
        calls = (
            lambda: self.client.get("", 1),
            lambda: self.client.get("a" * 129, 1),
            lambda: self.client.get("a", -1),
            lambda: self.client.get("a", 2**64),
            lambda: self.client.put("a", 1, bytes(2**20 + 1)),
            lambda: self.client.put("a", 1, b"", space=65_536),
            lambda: self.client.batch("a", []),
            lambda: self.client.batch("a", [put_operation(1, b"")] * 4_097),
            lambda: list(self.client.scan("a", 2, 1)),
            lambda: self.client.head("a", 0),
            lambda: Client("no endpoint:"),
            lambda: Client([]),
        )
        for call in calls:
            with self.assertRaises(errors.InvalidArgument):
                call()
        self.assertEqual(
            [type(request) for request in self.server.requests if request.operation is not Operation.Hello],
            [],
        )


class Pipelines(unittest.TestCase):
    def test_answers_come_in_any_order(self):
        with Server(hold=8) as server, Client(server.endpoint, deadline=LONG_S) as client:
            calls = [client.start(requests.Ping(b"%d" % index)) for index in range(64)]
            order = [int(call.result().echo) for call in client.as_completed(calls)]
            self.assertEqual(sorted(order), list(range(64)))
            self.assertEqual([int(call.result().echo) for call in calls], list(range(64)))

    def test_no_more_in_flight_than_agreed(self):
        with Server(in_flight=3) as server, Client(server.endpoint, deadline=LONG_S) as client:
            calls = [client.start(writes.Put(b"a", time, bytes(2_000))) for time in range(300)]
            for call in calls:
                call.result()
            self.assertLessEqual(server.in_flight_max, 3)
            self.assertEqual(len(server.sent(writes.Put)), 300)

    def test_large_frames_both_ways(self):
        with Server() as server, Client(server.endpoint, deadline=LONG_S) as client:
            calls = [client.start(writes.Put(b"a", time, bytes([time]) * 2**20)) for time in range(12)]
            for call in calls:
                call.result()
            gets = [client.start(requests.Get(b"a", time)) for time in range(12)]
            self.assertEqual([call.result().value[:1] for call in gets], [bytes([time]) for time in range(12)])

    def test_hello_asks_and_the_server_grants_less(self):
        with Server(frame_bytes=8_192, in_flight=2) as server:
            with Client(server.endpoint, deadline=LONG_S, cluster=CLUSTER) as client:
                client.put("a", 1, bytes(8_000))
                with self.assertRaises(errors.TooLarge) as caught:
                    client.put("a", 1, bytes(8_192))
                self.assertIs(caught.exception.limit, Limit.Frame)
                for time in range(600):
                    client.start(writes.Put(b"m", time, b"x"))
                self.assertEqual(
                    sum(found is not None for found in client.multi_get([("m", t) for t in range(700)])), 600
                )
            hello = server.hellos[0]
            self.assertEqual((hello.cluster, hello.frame_bytes), (CLUSTER, 4_194_304))
            self.assertNotEqual(hello.client, 0)


if __name__ == "__main__":
    unittest.main()
