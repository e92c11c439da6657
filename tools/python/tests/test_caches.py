"""Gets by way of caches: the way itself, the client against model servers, and real processes where THERMOCLINE_BINARY
names a program (a store and two caches, in a folder of their own, which is removed again)."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import unittest
from dataclasses import replace
from typing import Dict, List

import here  # noqa: F401  (first: it makes the package importable)
from model import LOG_TIME, Fault, Server, Store, busy
from thermocline.caches import ROUNDS, Way
from thermocline.client import Client
from thermocline.cluster_map import ROLE_CACHE, Node
from thermocline.codes import Limit, Outcome
from thermocline.replies import Reply, TooLargeReply
from thermocline.requests import Get, Head, Map, MultiGet
from thermocline.routing import Router
from thermocline.writes import Put

BINARY = os.environ.get("THERMOCLINE_BINARY")
DEADLINE_S = 60.0
ALL = 2**64 - 1


def read(request) -> bool:
    return isinstance(request, (Get, MultiGet))


def map_of(server, caches=(), *, epoch=2, recent_us=ALL, share=10_000):
    """A map of one store and these caches."""
    known = server.map_with(server, epoch=epoch)
    named = tuple(Node(101 + at, "127.0.0.1", cache.port, 0, 1, ROLE_CACHE) for at, cache in enumerate(caches))
    return replace(known, revision=epoch - 1, recent_us=recent_us, cache_share=share, nodes=known.nodes + named)


class Ways(unittest.TestCase):
    def test_each_cache_once_in_any_order_then_the_store(self):
        firsts, rng = set(), random.Random(1)
        for _ in range(60):
            way, seen = Way(["a", "b", "c"], rng), []
            while way.endpoint is not None:
                seen.append(way.endpoint)
                self.assertEqual(way.lost(), 0.0)
            self.assertEqual(sorted(seen), ["a", "b", "c"])
            firsts.add(tuple(seen))
        self.assertEqual(len(firsts), 6)

    def test_busy_caches_are_asked_again_with_growing_waits(self):
        way, waits = Way(["a", "b"], random.Random(2)), []
        for _ in range(ROUNDS):
            self.assertEqual(way.refused(busy(40)), 0.0)
            waits.append(way.refused(busy(100)))
        self.assertIsNone(way.endpoint)
        for round_, wait_s in enumerate(waits):
            self.assertTrue(0.05 * 2**round_ <= wait_s <= 0.15 * 2**round_, waits)

    def test_one_that_is_lost_sends_to_the_store_after_its_round(self):
        for other in (Reply(Outcome.Timeout, 0), Reply(Outcome.TooLarge, 0, TooLargeReply(Limit.Frame))):
            way = Way(["a", "b"], random.Random(3))
            self.assertEqual((way.refused(busy(40)), way.refused(other), way.endpoint), (0.0, 0.0, None))

    def test_a_renewed_way_begins_where_the_old_one_is(self):
        for seed in range(20):
            way = Way(["a", "b", "c"], random.Random(seed))
            way.lost()
            self.assertEqual(way.renewed().endpoint, way.endpoint)


class Where(unittest.TestCase):
    def setUp(self):
        with Server() as server, Server() as cache:
            self.map = map_of(server, [cache], recent_us=1_000)
        self.cache = self.map.caches[0].address

    def router(self, stream_hash=None, caches=True, **changes):
        router = Router(["127.0.0.1:1"], stream_hash, caches)
        router.adopt(replace(self.map, **changes))
        return router

    def test_recent_gets_alone(self):
        router = self.router()
        for request, goes in (
            (Get(b"a", 9_000), True),
            (Get(b"a", 8_999), False),
            (Get(b"a", 20_000), True),
            (Get(b"a", 9_000, 0, None, True), False),
            (MultiGet((Get(b"a", 9_000), Get(b"b", 9_001))), True),
            (MultiGet((Get(b"a", 9_000), Get(b"b", 1))), False),
            (Put(b"a", 9_000, b""), False),
            (Head(b"a", 1), False),
            (Map(0), False),
        ):
            with self.subTest(request):
                self.assertEqual(router.caches(request, 10_000), [self.cache] if goes else [])
        self.assertEqual(self.router(recent_us=0).caches(Get(b"a", 9_000), 10_000), [])
        self.assertEqual(self.router(caches=False).caches(Get(b"a", 9_000), 10_000), [])
        self.assertEqual(Router(["127.0.0.1:1"]).caches(Get(b"a", 9_000), 10_000), [])

    def test_a_share_is_one_of_streams_by_the_low_half_of_their_hash(self):
        def stream_hash(data: bytes) -> int:
            return (0xDEADBEEF << 32) | int.from_bytes(data[2:], "big")

        half = self.router(stream_hash, cache_share=5_000)
        for low, goes in ((0, True), (2**31 - 1, True), (2**31, False), (2**32 - 1, False)):
            get = Get(low.to_bytes(4, "big"), 9_000)
            self.assertEqual(bool(half.caches(get, 10_000)), goes, low)
        without = self.router(cache_share=9_999)
        self.assertEqual(without.caches(Get(b"a", 9_000), 10_000), [], "whose streams they are is not known")


class Model(unittest.TestCase):
    """A store and two caches, which answer from the same records."""

    def setUp(self):
        store = Store()
        self.server, *self.caches = [self.open(Server(store)) for _ in range(3)]
        self.say(map_of(self.server, self.caches))
        self.client = self.open(Client(self.server.endpoint, deadline=DEADLINE_S, rng=random.Random(5)))
        self.client.put("a", 1, b"one")
        self.client.map()
        self.client.map()

    def open(self, thing):
        self.addCleanup(thing.__exit__, None, None, None)
        return thing.__enter__()

    def say(self, new):
        for server in (self.server, *self.caches):
            server.map = new

    def asked(self) -> List[int]:
        """Reads that came to the store and to each cache."""
        return [sum(map(read, server.requests)) for server in (self.server, *self.caches)]

    def spoil(self, answer):
        for cache in self.caches:
            cache.plan = lambda server, request: answer if read(request) else None

    def test_gets_are_spread_over_the_caches_and_all_else_goes_to_the_store(self):
        for _ in range(30):
            self.assertEqual(self.client.get("a", 1).value, b"one")
        self.client.get("a", 1, local=True)
        self.client.put("a", 2, b"two")
        self.assertEqual([record.time for record in self.client.scan("a")], [1, 2])
        store, first, second = self.asked()
        self.assertEqual((store, first + second), (1, 30))
        self.assertTrue(first > 5 and second > 5, (first, second))
        self.assertEqual([len(cache.sent(Put)) for cache in self.caches], [0, 0])

    def test_a_map_that_a_cache_knows_first_is_learnt_from_it(self):
        for cache in self.caches:
            cache.map = map_of(self.server, self.caches, epoch=3, recent_us=0)
        self.client.get("a", 1)
        self.client.map()
        before = self.asked()
        for _ in range(5):
            self.client.get("a", 1)
        self.assertEqual(self.asked(), [before[0] + 5, *before[1:]])

    def test_what_no_cache_can_say_the_store_says(self):
        for answer in (Reply(Outcome.Timeout, LOG_TIME), Reply(Outcome.Corrupt, LOG_TIME), Fault("drop")):
            with self.subTest(answer):
                before = self.asked()
                self.spoil(answer)
                self.assertEqual(self.client.get("a", 1).value, b"one")
                self.assertEqual(self.asked()[0], before[0] + 1)

    def test_the_store_is_spared_while_caches_are_busy(self):
        left = [4]

        def plan(server, request):
            if read(request) and left[0] > 0:
                left[0] -= 1
                return busy()
            return None

        for cache in self.caches:
            cache.plan = plan
        self.assertEqual(self.client.get("a", 1).value, b"one")
        self.assertEqual((self.asked()[0], sum(self.asked())), (0, 5))
        self.spoil(busy())
        self.assertEqual(self.client.get("a", 1).value, b"one")
        self.assertEqual(self.asked()[0], 1)
        self.assertEqual(sum(self.asked()), 5 + 2 * ROUNDS + 1)

    def test_keys_of_a_multi_get_go_both_ways_and_busy_ones_again(self):
        now = int(time.time() * 1e6)
        self.say(map_of(self.server, self.caches, epoch=3, recent_us=3_600_000_000))
        self.client.put("a", now, b"new")
        self.client.map()
        self.client.map()
        full = Reply(Outcome.TooLarge, 0, TooLargeReply(Limit.Frame))
        for answer in (None, busy(), full):
            for cache in self.caches:
                cache.plan = lambda server, request, answer=answer: answer if isinstance(request, MultiGet) else None
            found = self.client.multi_get([("a", 1), ("a", now), ("b", now)])
            self.assertEqual([record and record.value for record in found], [b"one", b"new", None])
        self.assertTrue(all(len(get.gets) <= 2 for cache in self.caches for get in cache.sent(MultiGet)))


class Process:
    """A program with a ready line."""

    def __init__(self, folder: str, *arguments: str, env: Dict[str, str]) -> None:
        self.command = [str(BINARY), "serve", *(part for setting in arguments for part in ("--set", setting))]
        self.folder, self.env = folder, {**os.environ, **env, "THERMOCLINE_SHM_DIR": folder}
        self.child = None
        self.endpoint = ""
        self.start()

    def start(self) -> None:
        self.child = subprocess.Popen(
            self.command, cwd=self.folder, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        word, _, self.endpoint = self.child.stdout.readline().strip().partition(" ")
        if word != "ready":
            raise AssertionError(f"{self.command} did not say ready; exit code {self.child.wait()}")

    def signal(self, number: int) -> None:
        self.child.send_signal(number)

    def end(self) -> None:
        """kill -9."""
        self.child.kill()
        self.child.wait()
        self.child.stdout.close()


def free_ports(count: int) -> List[int]:
    """Ports that were free a moment ago, below those that the system gives to whoever connects."""
    found: List[int] = []
    while len(found) < count:
        port = random.randrange(20_000, 30_000)
        with socket.socket() as probe:
            if port not in found and probe.connect_ex(("127.0.0.1", port)) != 0:
                found.append(port)
    return found


@unittest.skipUnless(BINARY, "set THERMOCLINE_BINARY (the thermocline program)")
class Real(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="thermocline-python-")
        self.addCleanup(shutil.rmtree, self.folder)
        ports = free_ports(3)
        at = [f"127.0.0.1:{port}" for port in ports]
        settings = {
            "THERMOCLINE_CLUSTER_NODES": f'[{{ id = 1, address = "{at[0]}", zone = 0 }}]',
            "THERMOCLINE_CLUSTER_CACHES": "[%s]"
            % ", ".join(f'{{ id = {101 + n}, address = "{at[1 + n]}", zone = 0 }}' for n in range(2)),
            "THERMOCLINE_CLUSTER_REPLICAS": "1",
            "THERMOCLINE_CLUSTER_RECENT": "all",
        }
        disk = os.path.join(self.folder, "disk.img")
        sizes = ["--create", "64 MiB", "--shards", "1", "--segment", "1 MiB"]
        format_disk = [str(BINARY), "disk", "format", disk, *sizes, "--node", "1", "--yes"]
        subprocess.run(format_disk, check=True, stdout=subprocess.DEVNULL)
        small = ("limits.memtable_bytes=512KiB", "limits.memtable_record_count_max=600", "limits.arena_bytes=32MiB")
        small += ("limits.staging_bytes=32KiB", "limits.record_bytes_max=64KiB", "limits.staging_count_max=100")
        self.store = self.run_one(settings, f"disk.path={disk}", f"network.listen={at[0]}", *small)
        self.caches = [
            self.run_one(settings, "node.role=cache", f"network.listen={own}", "tier.cache_bytes=1MiB")
            for own in at[1:]
        ]
        self.client = Client(self.store.endpoint, deadline=DEADLINE_S)
        self.addCleanup(self.client.close)
        for number in range(40):
            self.client.put("s", number, b"%d" % number)
        self.client.map()

    def run_one(self, settings, *arguments) -> Process:
        process = Process(self.folder, *arguments, env=settings)
        self.addCleanup(process.end)
        return process

    def gets(self, cache: Process) -> int:
        """Gets that a cache has counted."""
        with Client(cache.endpoint, deadline=DEADLINE_S, caches=False) as client:
            return client.status()["cache_cores"][0]["gets"]

    def read_all(self, client=None) -> None:
        for number in range(40):
            self.assertEqual((client or self.client).get("s", number).value, b"%d" % number)

    def test_reads_go_through_the_caches_as_long_as_there_is_one(self):
        self.read_all()
        found = self.client.multi_get([("s", number) for number in range(41)])
        self.assertEqual([record and record.value for record in found], [*(b"%d" % n for n in range(40)), None])
        first, second = map(self.gets, self.caches)
        self.assertEqual(first + second, 81)
        self.assertTrue(min(first, second) > 5, (first, second))
        self.caches[0].signal(signal.SIGSTOP)
        self.read_all()
        self.caches[0].signal(signal.SIGCONT)
        self.caches[1].end()
        self.read_all()
        self.assertGreater(self.gets(self.caches[0]), first)
        self.caches[0].end()
        self.read_all()
        self.caches[0].start()
        self.caches[1].start()

    def test_what_was_written_is_read_through_any_cache_at_once(self):
        for number in range(200):
            written = self.client.put("s", number % 10, b"again %d" % number)
            record = self.client.get("s", number % 10)
            self.assertEqual((record.version, record.value), (written.version, b"again %d" % number))
        self.assertEqual(sum(map(self.gets, self.caches)), 200)

    def test_a_client_of_a_cache_finds_the_store_and_takes_a_new_word(self):
        with Client(self.caches[0].endpoint, deadline=DEADLINE_S) as client:
            client.put("s", 50, b"through a cache's door")
            self.assertEqual(client.get("s", 50).value, b"through a cache's door")
            self.read_all(client)
            command = [str(BINARY), "map", "set", "recent=none", "--endpoint", self.store.endpoint, "--json"]
            epoch = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)["epoch"]
            # Caches hear of it by the store's answers, the client by theirs.
            while client.map().epoch < epoch:
                client.get("s", 1)
            before = list(map(self.gets, self.caches))
            self.read_all(client)
            self.assertEqual(list(map(self.gets, self.caches)), before)


if __name__ == "__main__":
    unittest.main()
