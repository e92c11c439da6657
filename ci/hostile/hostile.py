#!/usr/bin/env python3
"""A hostile client against a running server: what a stranger sends must cost little, and cost nobody else.

    hostile.py [--ready-command WORD ...]        everything after it starts a server that prints `ready HOST:PORT`

Each test sends one kind of rubbish while a polite client on its own connection goes on asking. After each: the server
lives, the polite client was answered every time, memory is bounded, and the connections are given back. Nothing is
asserted about elapsed time; the slowest polite answer is printed.
"""

import os
import random
import resource
import struct
import sys
import threading
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

from harness import wire  # noqa: E402
from harness.node import TICKS_PER_SECOND, Node  # noqa: E402

# What a stranger's test may add to the server's memory: a thousand connections with a buffer of 16 KiB and one half
# received frame of the largest kind in every shard's budget, doubled.
GROWTH_BYTES_MAX = 128 << 20
IDLE_SECONDS = 10

node: Node
seed = 1


class Polite(threading.Thread):
    """Asks without pause on one connection and counts; stops at the first thing that is not an answer."""

    def __init__(self, address):
        super().__init__(daemon=True)
        self.connection = wire.Raw(address, patience=30.0, greet=True)
        self.enough = threading.Event()
        self.answered = 0
        self.slowest = 0.0
        self.error = None

    def run(self):
        try:
            while not self.enough.is_set():
                begun = time.monotonic()
                body = struct.pack("<Q", self.answered)
                assert self.connection.ping(body) == body, "the echo is another"
                self.slowest = max(self.slowest, time.monotonic() - begun)
                self.answered += 1
                time.sleep(0.002)
        except Exception as error:  # whatever it is, it is the finding
            self.error = error

    def stop(self):
        self.enough.set()
        self.join()
        self.connection.close()


class Hostile(unittest.TestCase):
    """One method for each kind of rubbish."""

    def setUp(self):
        self.random = random.Random(f"{seed} {self._testMethodName}")
        self.resident = node.resident_bytes()
        self.descriptors = node.descriptor_count()
        self.polite = Polite(node.address)
        self.highest = 0
        self.polite.start()
        self.connections = []

    def tearDown(self):
        before = self.polite.answered
        while self.polite.error is None and self.polite.answered < before + 20:
            time.sleep(0.01)
        self.measure()
        for connection in self.connections:
            connection.close()
        self.polite.stop()
        print(
            f"  {self._testMethodName}: polite client answered {self.polite.answered} times,"
            f" slowest {self.polite.slowest * 1000:.1f} ms; memory at most {self.growth() >> 10:+d} KiB",
            flush=True,
        )
        self.assertTrue(node.alive(), f"the server died\n{node.log_end()}")
        self.assertIsNone(self.polite.error, f"the polite client was hurt: {self.polite.error!r}")
        self.assertLess(self.growth(), GROWTH_BYTES_MAX, "memory is not bounded")
        self.assertTrue(self.given_back(), f"{node.descriptor_count()} descriptors, {self.descriptors} before")

    def growth(self):
        return self.highest - self.resident

    def measure(self):
        self.highest = max(self.highest, node.resident_bytes())

    def given_back(self):
        """Waits until the descriptors of closed connections are closed at the server too."""
        for _ in range(1000):
            if node.descriptor_count() <= self.descriptors:
                return True
            time.sleep(0.01)
        return False

    def connect(self, **how):
        connection = wire.Raw(node.address, **how)
        self.connections.append(connection)
        return connection

    def refused(self, connection, data, answered):
        """Sends `data`; the server answers with an outcome that is not Ok, where it can, and closes."""
        try:
            connection.send(data)
        except wire.Closed:
            return
        rest = connection.closed_by_server()
        self.assertEqual(bool(rest), answered, f"{data[:40].hex()} was answered with {rest[:64].hex()}")
        if answered:
            self.assertNotEqual(rest[wire.HEADER_BYTES], wire.OK, "rubbish was answered with Ok")

    def test_garbage(self):
        for size in [1, 3, 4, 31, 32, 33, 500, 5000, 100_000]:
            for _ in range(10):
                data = self.random.randbytes(size)
                if data[:4] != wire.MAGIC:
                    self.refused(self.connect(), data, answered=False)
            self.measure()

    def test_garbage_after_hello(self):
        for size in [4, 32, 1000, 100_000]:
            for _ in range(10):
                connection = self.connect(greet=True)
                self.refused(connection, b"\xff" + self.random.randbytes(size), answered=False)

    def test_magic_then_garbage(self):
        for _ in range(50):
            data = wire.MAGIC + self.random.randbytes(28 + self.random.randrange(2000))
            self.refused(self.connect(), data, answered=False)

    def test_frame_of_4_gib_before_hello(self):
        for claim in [4097, 1 << 20, 4 << 20, (1 << 31) - 1, (1 << 32) - 1]:
            self.refused(self.connect(), wire.header(wire.HELLO, 1, body_bytes=claim), answered=True)
            self.measure()

    def test_frame_of_4_gib_after_hello(self):
        for claim in [(4 << 20) + 1, (1 << 31) - 1, (1 << 32) - 1]:
            connection = self.connect(greet=True)
            self.refused(connection, wire.header(wire.PING, 2, body_bytes=claim), answered=True)
            self.measure()

    def test_wrong_checksums_versions_flags_operations(self):
        bad_header = bytearray(wire.frame(wire.PING, 2, b"x"))
        bad_header[29] ^= 1
        self.refused(self.connect(greet=True), bytes(bad_header), answered=False)
        for wrong in [{"body_crc": 7}, {"version": 9}, {"flags": 0x8000}]:
            self.refused(self.connect(greet=True), wire.frame(wire.PING, 2, b"x", **wrong), answered=True)
        for operation in [0, 0x7F, 0xFF, wire.PING | wire.REPLY]:
            self.refused(self.connect(greet=True), wire.frame(operation, 2), answered=True)

    def test_order_of_the_conversation(self):
        self.refused(self.connect(), wire.frame(wire.PING, 1), answered=True)
        self.refused(self.connect(greet=True), wire.hello(2), answered=True)

    def test_every_request_with_a_random_body(self):
        connection = self.connect(greet=True)
        request = 1
        for operation in range(2, 14):
            for _ in range(50):
                request += 1
                connection.send(wire.frame(operation, request, self.random.randbytes(self.random.randrange(300))))
                answer, number, body = connection.receive()
                self.assertEqual((answer, number), (operation | wire.REPLY, request))
                self.assertGreaterEqual(len(body), 16)
        self.assertEqual(connection.ping(b"still there"), b"still there")

    def test_one_byte_at_a_time(self):
        connection = self.connect()
        for byte in wire.hello() + wire.frame(wire.PING, 2, b"slow"):
            connection.send(bytes([byte]))
            time.sleep(0.001)
        self.assertEqual(connection.receive()[0], wire.HELLO | wire.REPLY)
        self.assertEqual(connection.receive()[2][16:], b"slow")

    def test_a_thousand_idle_connections(self):
        silent = [self.connect() for _ in range(500)]
        greeted = [self.connect(greet=True) for _ in range(500)]
        self.measure()
        before = node.cpu_ticks()
        time.sleep(2)
        spent = node.cpu_ticks() - before
        print(f"  a thousand idle connections and the polite one: {spent} ticks in 2 s", flush=True)
        for connection in greeted[::50]:
            self.assertEqual(connection.ping(b"here"), b"here")
        for connection in silent[::50]:
            # A stranger who says nothing is shown the door.
            self.assertEqual(connection.closed_by_server(), b"")
        self.measure()

    def test_half_a_frame_then_silence(self):
        body = bytes(wire.FRAME_BYTES_MAX)
        whole = wire.frame(wire.PING, 2, body)
        for count in range(200):
            connection = self.connect(greet=True, patience=1.0)
            half = whole[: wire.HEADER_BYTES + len(body) // 2] if count % 2 else whole[: self.random.randrange(1, 32)]
            try:
                connection.send(half)
            except (TimeoutError, wire.Closed):
                continue  # the server stopped reading, or hung up: its right
            finally:
                self.measure()

    def test_a_reader_who_does_not_read(self):
        body = bytes(60_000)
        for _ in range(50):
            connection = self.connect(greet=True, patience=0.2, receive_buffer=4096)
            try:
                for request in range(2, 500):
                    connection.send(wire.frame(wire.PING, request, body))
            except (TimeoutError, wire.Closed):
                pass  # the server pushes back, or hangs up: its right
            self.measure()

    def test_connect_and_leave(self):
        for round_index in range(500):
            with wire.Raw(node.address) as connection:
                if round_index % 2:
                    connection.send(wire.hello()[: self.random.randrange(80)])


class Afterwards(unittest.TestCase):
    """What is left when the strangers have gone; runs last."""

    def test_idle(self):
        time.sleep(1)
        before = node.cpu_ticks()
        time.sleep(IDLE_SECONDS)
        spent = node.cpu_ticks() - before
        share = spent / (IDLE_SECONDS * TICKS_PER_SECOND)
        print(f"  idle server: {spent} ticks of {TICKS_PER_SECOND} a second in {IDLE_SECONDS} s, {share:.2%} of a core")
        # Asked for is 1 %; a shared machine may charge us a little of its own.
        self.assertLess(share, 0.03, "an idle server works")

    def test_stops_cleanly(self):
        self.assertEqual(node.stop(), 0, f"SIGTERM\n{node.log_end()}")


def main():
    global node
    if "--ready-command" not in sys.argv:
        print(__doc__)
        return 2
    at = sys.argv.index("--ready-command")
    command, folder = sys.argv[at + 1 :], os.environ.get("HOSTILE_FOLDER", "/tmp")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    node = Node(command, os.path.join(folder, "hostile-server.log")).start()
    try:
        suite = unittest.TestSuite()
        for case in (Hostile, Afterwards):
            suite.addTests(unittest.defaultTestLoader.loadTestsFromTestCase(case))
        result = unittest.TextTestRunner(verbosity=1).run(suite)
    finally:
        node.kill()
    return 0 if result.wasSuccessful() else 1


if __name__ == "__main__":
    sys.exit(main())
