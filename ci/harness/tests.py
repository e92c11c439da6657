"""Tests of the harnesses themselves: a harness that cannot complain is no evidence."""

import os
import subprocess
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

from harness.node import Node  # noqa: E402
from harness.witness import Witness  # noqa: E402


class WitnessComplains(unittest.TestCase):
    def setUp(self):
        self.witness = Witness(9)
        for time_us in range(3):
            self.witness.will_send("s", time_us, b"v%d" % time_us)
        self.witness.was_acknowledged("s", 1, 101)
        self.records = [{"stream": "s", "time_us": time_us, "value": f"v{time_us}", "version": 100 + time_us} for time_us in range(3)]

    def test_content_with_what_was_sent_and_all_that_was_acknowledged(self):
        self.assertEqual(self.witness.complaints(self.records), [])
        self.assertEqual(self.witness.complaints(self.records[1:2]), [])

    def test_names_a_lost_record(self):
        self.assertEqual(len(self.witness.complaints(self.records[::2])), 1)

    def test_names_a_wrong_value(self):
        self.records[1]["value"] = "v9"
        self.assertEqual(len(self.witness.complaints(self.records)), 1)

    def test_names_another_version(self):
        self.records[1]["version"] = 1
        self.assertEqual(len(self.witness.complaints(self.records)), 1)

    def test_names_a_record_that_nobody_sent(self):
        self.records.append({"stream": "s", "time_us": 7, "value": "v7", "version": 107})
        self.assertEqual(len(self.witness.complaints(self.records)), 1)

    def test_names_a_repeated_record_and_a_wrong_order(self):
        self.assertEqual(len(self.witness.complaints(self.records + self.records[2:])), 1)
        self.assertEqual(len(self.witness.complaints(self.records[::-1])), 1)

    def test_values_that_are_not_utf8(self):
        self.witness.sent["s", 1] = b"\xff\x00"
        self.records[1] = {"stream": "s", "time_us": 1, "value_base64": "/wA=", "version": 101}
        self.assertEqual(self.witness.complaints(self.records), [])


class NodeTellsOfAServerThatIsNotReady(unittest.TestCase):
    def test_that_says_something_else(self):
        with self.assertRaises(AssertionError):
            Node(["echo", "sorry"], os.devnull).start()

    def test_that_ends(self):
        with self.assertRaises(AssertionError):
            Node(["true"], os.devnull).start()

    def test_that_is_ready_and_is_killed(self):
        node = Node(["sh", "-c", "echo ready 127.0.0.1:7; exec sleep 100"], os.devnull).start()
        self.assertEqual(node.endpoint, "127.0.0.1:7")
        self.assertTrue(node.alive())
        self.assertEqual(node.kill(), -9)
        self.assertFalse(node.alive())


class CheckTellsOfADiskThatIsShort(unittest.TestCase):
    def told(self, df):
        script = f'set -u -o pipefail; . "$1"; df() {{ {df}; }}; room /somewhere'
        blocks = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "blocks.sh")
        done = subprocess.run(["bash", "-c", script, "bash", blocks], capture_output=True, text=True, check=True)
        self.assertEqual(done.stderr, "")
        return done.stdout.splitlines()

    def test_in_one_line_and_only_then(self):
        gib = 1 << 20
        warning, = self.told(f"echo Avail; echo {30 * gib - 1}")
        self.assertTrue("29 GiB" in warning and "/somewhere" in warning, warning)
        self.assertEqual(self.told(f"echo Avail; echo {30 * gib}"), [])
        self.assertEqual(self.told("return 1"), [], "what is not known is not warned of")


if __name__ == "__main__":
    unittest.main()
