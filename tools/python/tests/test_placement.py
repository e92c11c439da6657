"""Placement as PLACEMENT.md says, against net/golden/placement.json.

The hash is not the client's to compute: buckets come from the file, and everything behind them is checked.
"""

from __future__ import annotations

import json
import os
import unittest

from here import REPOSITORY  # first: it makes the package importable
from thermocline.placement import BucketMap, bucket_of, replica_order, tablet_of

with open(os.path.join(REPOSITORY, "net", "golden", "placement.json"), encoding="utf-8") as file:
    GOLDEN = json.load(file)

# More groups take minutes in Python, and say nothing that these do not.
GROUPS_MAX = 100


class Placement(unittest.TestCase):
    def test_tablets(self):
        for stream in GOLDEN["streams"]:
            self.assertEqual(tablet_of(stream["bucket"]), stream["tablet"])

    def test_a_bucket_is_the_top_of_the_hash_of_space_and_stream(self):
        given = []
        bucket = bucket_of(lambda data: given.append(data) or 0xABCDE << 44, 0x0102, b"user-1")
        self.assertEqual(given, [b"\x02\x01user-1"])
        self.assertEqual(bucket, 0xABCDE >> 3)

    def test_groups_of_buckets(self):
        counts = {int(count) for stream in GOLDEN["streams"] for count in stream["groups"]}
        checked = 0
        for count in sorted(count for count in counts if count <= GROUPS_MAX):
            buckets = BucketMap(count)
            for stream in GOLDEN["streams"]:
                expected = stream["groups"][str(count)]
                self.assertEqual(buckets.group(stream["bucket"]), expected, (count, stream["bucket"]))
                checked += 1
        self.assertGreaterEqual(checked, 52 * 7)

    def test_orders_of_replicas(self):
        self.assertTrue(GOLDEN["replica_orders"])
        for case in GOLDEN["replica_orders"]:
            found = [list(order) for order in replica_order(case["zones"], case["replicas"])]
            self.assertEqual(found, case["orders"], (case["zones"], case["replicas"]))


if __name__ == "__main__":
    unittest.main()
