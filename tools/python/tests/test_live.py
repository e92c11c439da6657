"""The client against a running server.

THERMOCLINE_ENDPOINT names one, or THERMOCLINE_BINARY a program to start one with (in a folder of its own, which is
removed again). Without either these tests are skipped. They write only to streams of random names.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import unittest
from typing import List, Optional

from here import REPOSITORY, TOOLS_PYTHON  # first: it makes the package importable
from thermocline import errors, frames, replies, requests, writes
from thermocline.client import NOT_MODIFIED, Client, delete_operation, put_operation
from thermocline.codes import REPLY_BIT, Limit, Operation, Outcome, Why
from thermocline.messages import decode_reply, request_frame

ENDPOINT = os.environ.get("THERMOCLINE_ENDPOINT")
BINARY = os.environ.get("THERMOCLINE_BINARY")
NEEDED = "set THERMOCLINE_ENDPOINT (HOST:PORT of a server) or THERMOCLINE_BINARY (the thermocline program)"
DEADLINE_S = 60.0
TIME = 1_700_000_000_000_000

with open(os.path.join(REPOSITORY, "net", "golden", "vectors.json"), encoding="utf-8") as file:
    GOLDEN = json.load(file)


class Node:
    """A server of our own: `thermocline dev` in a folder of its own."""

    def __init__(self) -> None:
        self.folder = tempfile.mkdtemp(prefix="thermocline-python-")
        self.process: Optional[subprocess.Popen] = None
        self.endpoint = ""

    def start(self, port: int = 0) -> None:
        """Starts it and waits for its ready line."""
        command = [
            str(BINARY),
            "dev",
            "--nodes",
            "1",
            "--dir",
            os.path.join(self.folder, "disks"),
            "--port",
            str(port),
        ]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self.process.stdout is not None
        word, _, self.endpoint = self.process.stdout.readline().strip().partition(" ")
        if word != "ready":
            raise AssertionError(f"{command} did not say ready; exit code {self.process.wait()}")

    def end(self, how: int = signal.SIGTERM) -> None:
        """Ends it, and waits until it is gone."""
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait()
            assert self.process.stdout is not None
            self.process.stdout.close()
            self.process = None

    def remove(self) -> None:
        """Ends it and takes its disks away."""
        self.end(signal.SIGKILL)
        shutil.rmtree(self.folder)


NODE: Optional[Node] = None


def setUpModule() -> None:
    global NODE, ENDPOINT
    if ENDPOINT is None and BINARY is not None:
        NODE = Node()
        unittest.addModuleCleanup(NODE.remove)
        NODE.start()
        ENDPOINT = NODE.endpoint


class Live(unittest.TestCase):
    def setUp(self):
        if ENDPOINT is None:
            self.skipTest(NEEDED)
        self.stream = b"python-" + secrets.token_hex(8).encode()
        self.client = Client(ENDPOINT, deadline=DEADLINE_S)
        self.addCleanup(self.client.close)


class Verbs(Live):
    def test_put_get_delete(self):
        self.assertIsNone(self.client.get(self.stream, TIME))
        written = self.client.put(self.stream, TIME, b"\x00value\xff")
        self.assertFalse(written.repeated)
        record = self.client.get(self.stream, TIME)
        self.assertEqual((record.version, record.value, record.expiry), (written.version, b"\x00value\xff", 0))
        again = self.client.put(self.stream, TIME, b"")
        self.assertGreater(again.version, written.version)
        self.assertEqual(self.client.get(self.stream, TIME).value, b"")
        self.assertGreater(self.client.delete(self.stream, TIME).version, again.version)
        self.assertIsNone(self.client.get(self.stream, TIME))
        self.client.delete(self.stream, TIME)

    def test_spaces_are_apart(self):
        self.client.put(self.stream, TIME, b"0")
        self.client.put(self.stream, TIME, b"9", space=9)
        self.assertEqual(self.client.get(self.stream, TIME).value, b"0")
        self.assertEqual(self.client.get(self.stream, TIME, space=9).value, b"9")

    def test_the_edges_of_streams_times_and_values(self):
        longest = (self.stream * 9)[:128]
        for stream, time, value in ((longest, 0, b""), (longest, 1, bytes(range(256)) * 4_096)):
            self.client.put(stream, time, value)
            self.assertEqual(self.client.get(stream, time).value, value)

    def test_get_if_newer(self):
        self.assertIs(self.client.get_if_newer(self.stream, TIME, 0), NOT_MODIFIED)
        version = self.client.put(self.stream, TIME, b"1").version
        self.assertIs(self.client.get_if_newer(self.stream, TIME, version), NOT_MODIFIED)
        newer = self.client.put(self.stream, TIME, b"2").version
        self.assertEqual(self.client.get_if_newer(self.stream, TIME, version).version, newer)
        self.client.delete(self.stream, TIME)
        self.assertIsNone(self.client.get_if_newer(self.stream, TIME, newer))

    def test_compare_and_set(self):
        first = self.client.compare_and_set(self.stream, TIME, b"1", expected=0)
        with self.assertRaises(errors.VersionMismatch) as caught:
            self.client.compare_and_set(self.stream, TIME, b"2", expected=0)
        self.assertIn(caught.exception.current, (first.version, None))
        second = self.client.compare_and_set(self.stream, TIME, b"2", expected=first.version)
        self.assertEqual(self.client.get(self.stream, TIME).version, second.version)

    def test_batch(self):
        self.client.put(self.stream, TIME + 1, b"old")
        operations = [put_operation(TIME, b"one"), delete_operation(TIME + 1), put_operation(TIME + 2, b"")]
        written = self.client.batch(self.stream, operations)
        self.assertEqual(written.count, 3)
        keys = [(self.stream, TIME + index) for index in range(4)]
        found = self.client.multi_get(keys)
        self.assertEqual([record and record.value for record in found], [b"one", None, b"", None])
        self.assertEqual([found[0].version, found[2].version], [written.version, written.version + 2])

    def test_expiry(self):
        log_time = self.client.put(self.stream, TIME, b"gone", expiry=1).log_time
        self.client.put(self.stream, TIME + 1, b"stays", expiry=log_time + 3_600_000_000)
        self.assertIsNone(self.client.get(self.stream, TIME))
        self.assertEqual([record.time for record in self.client.scan(self.stream)], [TIME + 1])

    def test_scan_and_head_over_pages(self):
        times = [TIME + 3 * index for index in range(50)]
        for call in [self.client.start(writes.Put(self.stream, time, b"%d" % time)) for time in times]:
            call.result()
        for options in ({}, {"page_records": 7}, {"page_bytes": 100}):
            found = list(self.client.scan(self.stream, **options))
            self.assertEqual(
                [(record.time, record.value) for record in found], [(time, b"%d" % time) for time in times]
            )
            found = list(self.client.scan(self.stream, backward=True, **options))
            self.assertEqual([record.time for record in found], times[::-1])
            found = list(self.client.scan(self.stream, times[10], times[20], **options))
            self.assertEqual([record.time for record in found], times[10:21])
            found = list(self.client.scan(self.stream, times[10] + 1, times[20] - 1, backward=True, limit=5, **options))
            self.assertEqual([record.time for record in found], times[19:14:-1])
        self.assertEqual([record.time for record in self.client.head(self.stream, 3)], times[:-4:-1])
        self.assertEqual(self.client.head(self.stream + b"-none"), [])

    def test_streams(self):
        names = {self.stream + b"-%d" % index for index in range(20)}
        for name in names:
            self.client.put(name, TIME, b"", space=3)
        found = list(self.client.streams(space=3))
        self.assertEqual(len(found), len(set(found)))
        self.assertLessEqual({(3, name) for name in names}, set(found))
        self.assertLessEqual({(3, name) for name in names}, set(self.client.streams()))

    def test_the_node(self):
        self.assertEqual(self.client.ping(b"\x00there?"), b"\x00there?")
        self.assertIsInstance(self.client.status(), dict)
        cluster_map = self.client.map()
        self.assertGreaterEqual(cluster_map.epoch, 1)
        with Client(ENDPOINT, deadline=DEADLINE_S, cluster=cluster_map.cluster) as same:
            same.ping()

    def test_refusals(self):
        with self.assertRaises(errors.BadRequest) as caught:
            self.client.put(self.stream, 2**64 - 1, b"")
        # The time of a Put stands at 8, as in the vector put-too-far-ahead.
        self.assertEqual((caught.exception.why, caught.exception.at), (Why.Time, 8))

    def test_refusals_of_hello(self):
        with Client(ENDPOINT, deadline=DEADLINE_S, cluster=b"\xee" * 16) as stranger:
            with self.assertRaises(errors.BadRequest) as caught:
                stranger.ping()
        self.assertIs(caught.exception.why, Why.Cluster)
        with (
            Client(ENDPOINT, deadline=DEADLINE_S, token=b"sesame") as bearer,
            self.assertRaises(errors.Unauthorized),
        ):
            bearer.ping()

    def test_many_in_flight(self):
        count = 2_000
        calls = [self.client.start(writes.Put(self.stream, TIME + index, b"%d" % index)) for index in range(count)]
        self.assertEqual(sum(1 for _ in self.client.as_completed(calls)), count)
        found = self.client.multi_get([(self.stream, TIME + index) for index in range(count)])
        self.assertEqual([record.value for record in found], [b"%d" % index for index in range(count)])

    def test_a_small_frame(self):
        with Client(ENDPOINT, deadline=DEADLINE_S, frame_bytes=4_096, in_flight=2) as small:
            for call in [small.start(writes.Put(self.stream, TIME + index, bytes(1_000))) for index in range(300)]:
                call.result()
            found = small.multi_get([(self.stream, TIME + index) for index in range(300)])
            self.assertEqual({len(record.value) for record in found}, {1_000})
            self.assertEqual(len(list(small.scan(self.stream, backward=True))), 300)

    def test_a_reply_above_the_agreed_frame_is_too_large(self):
        self.client.put(self.stream, TIME, bytes(5_000))
        with Client(ENDPOINT, deadline=5.0, frame_bytes=4_096) as small:
            for asks in (
                lambda: small.get(self.stream, TIME),
                lambda: small.multi_get([(self.stream, TIME)]),
                lambda: list(small.scan(self.stream)),
                lambda: small.ping(bytes(4_096)),
            ):
                with self.assertRaises(errors.TooLarge) as caught:
                    asks()
                self.assertIs(caught.exception.limit, Limit.Frame)

    def test_the_command_line(self):
        def run(*words: str, code: int = 0) -> List[str]:
            command = [sys.executable, "-m", "thermocline", *words, "--endpoint", str(ENDPOINT)]
            done = subprocess.run(command, cwd=TOOLS_PYTHON, capture_output=True, text=True, check=False)
            self.assertEqual(done.returncode, code, done.stderr)
            return done.stdout.splitlines()

        stream = self.stream.decode()
        run("put", stream, "2023-11-14T22:13:20Z", "hällo")
        self.assertEqual(run("get", stream, str(TIME)), ["hällo"])
        shown = json.loads(run("scan", stream, f"..{TIME}", "--json")[0])
        self.assertEqual((shown["stream"], shown["time_us"], shown["value"]), (stream, TIME, "hällo"))
        run("put", stream, str(TIME), "other", "--expected", "0", code=1)
        run("get", stream, "1", code=1)
        run("get", stream, "yesterday", code=2)
        run("get", "", "1", code=2)
        run("del", stream, str(TIME))
        self.assertEqual(run("head", stream), [])


class Wire(Live):
    """What the server answers to bytes that no client would send."""

    def connect(self, hello: bool = True) -> socket.socket:
        host, port = ENDPOINT.rsplit(":", 1)
        connection = socket.create_connection((host, int(port)), timeout=DEADLINE_S)
        self.addCleanup(connection.close)
        if hello:
            connection.sendall(request_frame(requests.Hello(client=1), 0, 0))
            self.assertIs(self.answer(connection)[1].outcome, Outcome.Ok)
        return connection

    def receive(self, connection: socket.socket, count: int) -> bytes:
        data = b""
        while len(data) < count:
            piece = connection.recv(count - len(data))
            if not piece:
                break
            data += piece
        return data

    def answer(self, connection: socket.socket):
        """Code, reply and number of the next frame; None at the connection's end."""
        try:
            head = self.receive(connection, 32)
        except ConnectionResetError:
            return None
        if not head:
            return None
        body_bytes = int.from_bytes(head[16:20], "little")
        # A reply may carry a code that is not known: the head is the same for all.
        operation = head[5] & ~REPLY_BIT
        reply = decode_reply(
            Operation(operation if operation in set(Operation) else 5), self.receive(connection, body_bytes)
        )
        return head[5], reply, int.from_bytes(head[8:16], "little")

    def test_malformed_requests_are_answered_as_the_document_says(self):
        closes = {
            "UnknownOperation": Why.UnknownOperation,
            "BadFlags": Why.HeaderFlags,
            "BodyChecksum": Why.BodyChecksum,
        }
        closes["BadVersion"] = Why.ProtocolVersion
        checked = 0
        for vector in GOLDEN["malformed"]:
            data, error = bytes.fromhex(vector["hex"]), vector["error"]
            if error["kind"] in ("BadReply", "BadMap"):
                continue
            is_hello = data[5:6] == b"\x01" and vector["name"].startswith("hello")
            with self.subTest(vector["name"]):
                connection = self.connect(hello=not is_hello and vector["limit"] != 4_096)
                connection.sendall(data)
                found = self.answer(connection)
                if error["kind"] in ("BadMagic", "HeaderChecksum"):
                    self.assertIsNone(found)
                    continue
                self.assertIsNotNone(found, "closed without an answer")
                code, reply, number = found
                self.assertEqual((code, number), (data[5] | REPLY_BIT, int.from_bytes(data[8:16], "little")))
                if error["kind"] == "BadRequest":
                    self.assertEqual(reply.body, replies.BadRequestReply(Why[error["why"]], error["at"]))
                elif error["kind"] in closes:
                    self.assertIs(reply.body.why, closes[error["kind"]])
                else:
                    name = "Frame" if error["kind"] == "FrameTooLarge" else error["limit"]
                    self.assertEqual((reply.outcome, reply.body.limit.name), (Outcome.TooLarge, name))
                if is_hello or error["kind"] not in ("BadRequest", "TooLarge"):
                    self.assertIsNone(self.answer(connection), "the server closes")
                else:
                    connection.sendall(request_frame(requests.Ping(b"on"), 7, 0))
                    self.assertEqual(self.answer(connection)[1].body.echo, b"on", "the connection goes on")
                checked += 1
        self.assertGreater(checked, 40)

    def test_hello_comes_first_and_once(self):
        for hello, frame, why in (
            (False, request_frame(requests.Ping(), 5, 0), Why.HelloFirst),
            (True, request_frame(requests.Hello(client=1), 5, 0), Why.HelloAgain),
            (True, frames.encode_frame(Operation.Ping | REPLY_BIT, 5, 0, bytes(16)), Why.NotARequest),
        ):
            with self.subTest(why.name):
                connection = self.connect(hello)
                connection.sendall(frame)
                self.assertIs(self.answer(connection)[1].body.why, why)
                self.assertIsNone(self.answer(connection))

    def test_a_repeated_id_is_applied_once(self):
        connection = self.connect()
        seen = self.client.put(self.stream, TIME, b"first").log_time
        put = writes.Put(self.stream, TIME, b"x", request_id=writes.RequestId(secrets.randbits(63) | 1, seen, 1))
        answers = []
        for number in (1, 2):
            connection.sendall(request_frame(put, number, 0))
            answers.append(self.answer(connection)[1].body)
        self.assertEqual(answers[0].version, answers[1].version)
        self.assertEqual([body.repeated for body in answers], [False, True])

    def test_an_id_without_a_log_time_is_applied_once(self):
        connection = self.connect()
        put = writes.Put(self.stream, TIME, b"x", request_id=writes.RequestId(secrets.randbits(63) | 1, 0, 1))
        for number in (1, 2):
            connection.sendall(request_frame(put, number, 0))
        answers = {number: reply for _, reply, number in (self.answer(connection), self.answer(connection))}
        outcomes = [reply.outcome for reply in answers.values()]
        if outcomes[0] is Outcome.UnknownOutcome:
            # A server that has forgotten ids may refuse one that says nothing; then it applied nothing.
            self.assertTrue(all(reply.body.too_old for reply in answers.values()))
            self.assertIsNone(self.client.get(self.stream, TIME))
        else:
            self.assertEqual(outcomes, [Outcome.Ok, Outcome.Ok])
            self.assertEqual(len({reply.body.version for reply in answers.values()}), 1)
            self.assertEqual(sorted(reply.body.repeated for reply in answers.values()), [False, True])


class Restarts(Live):
    """A server that is killed under the client. Only with a server of our own."""

    def setUp(self):
        super().setUp()
        if NODE is None:
            self.skipTest("kills the server: set THERMOCLINE_BINARY instead of THERMOCLINE_ENDPOINT")

    def test_what_was_acknowledged_survives_a_kill_and_the_client_goes_on(self):
        calls = [self.client.start(writes.Put(self.stream, TIME + index, b"%d" % index)) for index in range(500)]
        for call in calls[:100]:
            call.result()
        port = int(NODE.endpoint.rsplit(":", 1)[1])
        NODE.end(signal.SIGKILL)
        NODE.start(port)
        for call in calls:
            call.result()
        for index, record in enumerate(self.client.multi_get([(self.stream, TIME + index) for index in range(500)])):
            self.assertEqual(record.value, b"%d" % index)
            self.assertEqual(record.version, calls[index].reply.body.version)


if __name__ == "__main__":
    unittest.main()
