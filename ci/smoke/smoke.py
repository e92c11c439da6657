#!/usr/bin/env python3
"""The main job, from nothing: a group of nodes is made, real records are loaded, come back exactly, and survive a restart.

    smoke.py --binary PATH --folder F [--data DIR]

With DIR the whole sets `commits.ndjson.zst` and `flights.csv.zst` that stand there, otherwise the sample of the repository.
What must come back is computed here, from the files, without the code under test.
"""

import argparse
import csv
import datetime
import io
import json
import os
import subprocess
import sys
import unittest

TOP = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
sys.path.insert(0, os.path.join(TOP, "ci"))

from harness.node import Node  # noqa: E402
from harness.witness import value_of  # noqa: E402

SAMPLE = os.path.join(TOP, "tools", "sample", "commits-sample.ndjson.zst")
COMMITS_SPACE, FLIGHTS_SPACE = 0, 7

arguments: argparse.Namespace


def unpacked(path):
    """The bytes of a zstd file."""
    return subprocess.run(["zstd", "-dcq", path], check=True, capture_output=True).stdout


def microseconds(text, minute):
    """The hour of an RFC 3339 time, with this minute."""
    hour = datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).replace(minute=0, second=0, microsecond=0)
    return int(hour.timestamp()) * 1_000_000 + minute * 60_000_000


class MainJob(unittest.TestCase):
    """In the order of the names: each goes on where the one before ended."""

    @classmethod
    def setUpClass(cls):
        os.makedirs(arguments.folder, exist_ok=True)
        command = [arguments.binary, "dev", "--dir", os.path.join(arguments.folder, "dev"), "--port", "0"]
        cls.node = Node(command, os.path.join(arguments.folder, "dev.log"))
        cls.node.start()

    @classmethod
    def tearDownClass(cls):
        cls.node.kill()

    def tool(self, *words, wanted=0):
        command = [arguments.binary, *words, "--endpoint", self.node.endpoint]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        self.assertEqual(done.returncode, wanted, f"{words}: {done.stderr[-2000:]}\n{self.node.log_end()}")
        return done.stdout

    def load(self, path, space, *more):
        rejects = os.path.join(arguments.folder, f"rejects-{space}.ndjson")
        text = self.tool("import", path, "--json", "--space", str(space), "--rejects", rejects, *more)
        counts = json.loads(text.splitlines()[-1])
        sum_of_fates = counts["stored"] + counts["duplicate"] + counts["conflict"] + counts["refused"]
        self.assertEqual(counts["read"], sum_of_fates, counts)
        print(f"  {os.path.basename(path)}: {counts}", flush=True)
        return counts

    def export(self, space):
        out = os.path.join(arguments.folder, f"export-{space}.ndjson")
        self.tool("export", "--space", str(space), "--out", out)
        with open(out, encoding="utf-8") as file:
            return [json.loads(line) for line in file]

    def commits(self):
        """The rows that a fresh store must hold, how many there are, and how many repeat an earlier key."""
        path = os.path.join(arguments.data, "commits.ndjson.zst") if arguments.data else SAMPLE
        kept, count = {}, 0
        for line in unpacked(path).splitlines():
            row = json.loads(line)
            count += 1
            kept.setdefault((row["stream"], row["time_us"]), row["value"].encode())
        return path, kept, count

    def assert_exported(self, space, kept):
        found = self.export(space)
        keys = [(record["stream"], record["time_us"]) for record in found]
        self.assertEqual(keys, sorted(keys, key=lambda key: (key[0].encode(), key[1])), "not in key order")
        self.assertEqual(len(keys), len(set(keys)), "a key is exported twice")
        self.assertEqual({key: value_of(record) for key, record in zip(keys, found)}, kept)

    def test_1_commits_come_back_exactly(self):
        path, kept, count = self.commits()
        counts = self.load(path, COMMITS_SPACE)
        self.assertEqual((counts["read"], counts["stored"], counts["refused"]), (count, len(kept), 0))
        self.assertEqual(counts["duplicate"] + counts["conflict"], count - len(kept))
        self.assert_exported(COMMITS_SPACE, kept)

    def test_2_a_second_import_stores_nothing(self):
        path, kept, count = self.commits()
        counts = self.load(path, COMMITS_SPACE)
        self.assertEqual((counts["stored"], counts["refused"]), (0, 0))
        self.assertEqual(counts["duplicate"] + counts["conflict"], count)
        self.assertGreaterEqual(counts["duplicate"], len(kept))

    def test_3_flights_are_kept_or_reported(self):
        if not arguments.data:
            self.skipTest("the flights are only in the whole data set")
        path = os.path.join(arguments.data, "flights.csv.zst")
        keys, refused, count = set(), 0, 0
        for row in csv.DictReader(io.StringIO(unpacked(path).decode())):
            count += 1
            if row["tailnum"] in ("", "NA"):
                refused += 1
            else:
                keys.add((row["tailnum"], microseconds(row["time_hour"], int(row["minute"]))))
        counts = self.load(path, FLIGHTS_SPACE, "--stream", "tailnum", "--time", "time_hour,minute")
        self.assertEqual((counts["read"], counts["refused"], counts["stored"]), (count, refused, len(keys)))
        self.assertEqual(counts["duplicate"] + counts["conflict"], count - refused - len(keys))
        found = self.export(FLIGHTS_SPACE)
        self.assertEqual({(record["stream"], record["time_us"]) for record in found}, keys)
        for record in found[:: max(1, len(found) // 1000)]:
            value = record["value"] if isinstance(record["value"], dict) else json.loads(record["value"])
            self.assertEqual(value["tailnum"], record["stream"])

    def test_4_a_drain_and_a_second_start_keep_everything(self):
        self.assertEqual(self.node.stop(), 0, self.node.log_end())
        self.node.start()
        _, kept, _ = self.commits()
        self.assert_exported(COMMITS_SPACE, kept)
        stream, time_us = sorted(kept)[len(kept) // 2]
        self.assertEqual(self.tool("get", stream, str(time_us)).rstrip("\n").encode(), kept[stream, time_us].rstrip(b"\n"))
        self.tool("get", stream, "1", wanted=1)


def main():
    global arguments
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--binary", required=True)
    parser.add_argument("--folder", required=True)
    parser.add_argument("--data")
    arguments = parser.parse_args()
    result = unittest.TextTestRunner(verbosity=1).run(unittest.defaultTestLoader.loadTestsFromTestCase(MainJob))
    return 0 if result.wasSuccessful() else 1


if __name__ == "__main__":
    sys.exit(main())
