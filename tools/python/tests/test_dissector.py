"""The Wireshark dissector on captures made from the golden vectors. Skipped where tshark is not installed.

The captures are written here, byte by byte: nothing is captured, so that it needs no rights.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import subprocess
import tempfile
import unittest
from typing import Any, Dict, Iterator, List, Tuple

from here import REPOSITORY  # first: it makes the package importable
from thermocline.codes import ColdOperation, Limit, Operation, Outcome, Why

DISSECTOR = os.path.join(REPOSITORY, "tools", "wireshark", "thermocline.lua")
TSHARK = shutil.which("tshark")
PORT = 7420

with open(os.path.join(REPOSITORY, "net", "golden", "vectors.json"), encoding="utf-8") as file:
    GOLDEN = json.load(file)

# What the dissector does not judge: it takes the other side of the connection, or other fields, to know.
UNSEEN = {
    "streams-after-without-flag",
    "batch-delete-with-value",
    "hello-versions-swapped",
    "reply-map-cut",
    "reply-not-found-to-put",
}

# A packet: client port, from the client?, sequence number, bytes.
Packet = Tuple[int, bool, int, bytes]


def write_capture(path: str, packets: List[Packet], port: int = PORT) -> None:
    """A pcap file of raw IPv4 packets."""
    with open(path, "wb") as out:
        out.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65_535, 101))
        for index, (client, from_client, sequence, data) in enumerate(packets):
            ports = (client, port) if from_client else (port, client)
            hosts = (1, 2) if from_client else (2, 1)
            tcp = struct.pack(">HHIIBBHHH", *ports, sequence, 1, 5 << 4, 0x18, 65_535, 0, 0)
            total = 20 + len(tcp) + len(data)
            ip = struct.pack(">BBHHHBBHIIB", 0x45, 0, total, index, 0, 64, 6, 0, hosts[0], hosts[1], 0)[:20]
            ip = ip[:12] + bytes((127, 0, 0, hosts[0], 127, 0, 0, hosts[1]))
            out.write(struct.pack("<IIII", index, 0, total, total) + ip + tcp + data)


def dissect(path: str, *arguments: str) -> str:
    """What tshark prints about a capture. Errors: AssertionError where a Lua error shows (as an expert's message)."""
    command = [TSHARK, "-X", f"lua_script:{DISSECTOR}", "-r", path, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    text = done.stdout + done.stderr
    assert done.returncode == 0 and "Lua" not in text, text[-2000:]
    return done.stdout


def fields(path: str, *names: str) -> List[List[List[str]]]:
    """For each packet, for each named field, all its values."""
    wanted = [word for name in (*names, "_ws.expert.message") for word in ("-e", name)]
    text = dissect(path, "-T", "fields", "-E", "occurrence=a", "-E", "aggregator=|", *wanted)
    return [[cell.split("|") if cell else [] for cell in line.split("\t")[:-1]] for line in text.split("\n")[:-1]]


def values(tree: Any, name: str) -> Iterator[Any]:
    """All values of this name in the fields of a vector, depth first."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            if key == name and not isinstance(value, (dict, list)):
                yield value
            else:
                yield from values(value, name)
    elif isinstance(tree, list):
        for value in tree:
            yield from values(value, name)


@unittest.skipIf(TSHARK is None, "tshark is not installed (apt-get install tshark)")
class Dissector(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = os.path.join(folder.name, "vectors.pcap")

    def each_in_its_connection(self, vectors: List[Dict[str, Any]], port: int = PORT) -> None:
        packets = []
        for index, vector in enumerate(vectors):
            from_client = vector.get("direction", "request") == "request"
            packets.append((20_000 + index, from_client, 1, bytes.fromhex(vector["hex"])))
        write_capture(self.path, packets, port)

    def test_headers_and_outcomes(self):
        vectors = GOLDEN["vectors"]
        for port in (PORT, 9_999):
            # On a foreign port the magic is what tells.
            self.each_in_its_connection(vectors, port)
            names = ("operation", "reply", "request", "body_bytes", "map_epoch", "outcome", "wrong")
            found = fields(self.path, *("thermocline." + name for name in names))
            self.assertEqual(len(found), len(vectors))
            for vector, cells in zip(vectors, found):
                header = vector["header"]
                outcomes = [str(Outcome[name].value) for name in values(vector["fields"], "outcome")]
                expected = [
                    [str(Operation[header["operation"]].value)],
                    [str(int(vector["direction"] == "reply"))],
                    *([str(header[name])] for name in ("request", "body_bytes", "map_epoch")),
                    outcomes,
                    [],
                ]
                cells[1] = [str(int(value in ("1", "True"))) for value in cells[1]]
                # A MultiGet names its own outcome last in the vector, and first in the frame.
                self.assertEqual([sorted(cell) for cell in cells], [sorted(cell) for cell in expected], vector["name"])

    def test_key_fields(self):
        vectors = GOLDEN["vectors"]
        self.each_in_its_connection(vectors)
        same = (
            "stream",
            "value",
            "time",
            "version",
            "sequence",
            "from",
            "to",
            "current",
            "log_index",
            "cluster",
            "tablet",
        )
        dissected = {"sequence": "id_sequence"}
        found = fields(self.path, *("thermocline." + dissected.get(name, name) for name in same))
        compared = 0
        for vector, cells in zip(vectors, found):
            for name, cell in zip(same, cells):
                # A name of the vector that is 0 or null may be left out by either side.
                given = sorted(str(value) for value in values(vector["fields"], name) if value not in (None, "", 0))
                shown = sorted(value for value in cell if value not in ("0", ""))
                if name == "stream":
                    after = vector["fields"].get("after")
                    given = [value for value in given if not after or value != after["stream"]]
                self.assertEqual(shown, given, (vector["name"], name))
                compared += len(given)
        self.assertGreater(compared, 80)

    def test_malformed_frames_are_marked(self):
        vectors = GOLDEN["malformed"]
        self.each_in_its_connection(vectors)
        found = fields(self.path, "thermocline.wrong")
        self.assertEqual(len(found), len(vectors))
        marked = 0
        for vector, (words,) in zip(vectors, found):
            error = vector["error"]
            word = {"BadRequest": error.get("why"), "BadReply": error.get("field")}.get(error["kind"], error["kind"])
            frame_level = error["kind"] not in ("BadRequest", "TooLarge", "BadReply", "BadMap")
            by_table = word in (
                "Short",
                "Trailing",
                "Stream",
                "Flags",
                "Reserved",
                "Kind",
                "Range",
                "Tablet",
                "end",
            )
            of_the_head = word in ("outcome", "code", "detail")
            # A limit in force below the protocol's own is not seen from outside.
            if (frame_level and error.get("limit") != 4_096) or by_table or of_the_head:
                if vector["name"] in UNSEEN:
                    continue
                self.assertIn(word if word != "reserved" else "Reserved", words, vector["name"])
                marked += 1
        self.assertGreater(marked, 35)

    def test_frames_cut_anyhow_by_tcp(self):
        requests = [vector for vector in GOLDEN["vectors"] if vector["direction"] == "request"]
        data = b"".join(bytes.fromhex(vector["hex"]) for vector in requests)
        for piece in (11, 32, 50, 1_400):
            packets = [(20_000, True, 1 + at, data[at : at + piece]) for at in range(0, len(data), piece)]
            write_capture(self.path, packets)
            found = [name for cells in fields(self.path, "thermocline.operation") for name in cells[0]]
            expected = [str(vector["header"]["code"]) for vector in requests]
            self.assertEqual(found, expected, piece)

    def test_a_reply_and_its_request_name_each_other(self):
        frames = {vector["name"]: bytes.fromhex(vector["hex"]) for vector in GOLDEN["vectors"]}
        packets: List[Packet] = []
        sent = received = 1
        for request, reply in (("hello", "hello-ok"), ("put", "put-ok"), ("get", "get-not-found")):
            packets.append((20_000, True, sent, frames[request]))
            packets.append((20_000, False, received, frames[reply]))
            sent, received = sent + len(frames[request]), received + len(frames[reply])
        write_capture(self.path, packets)
        text = dissect(self.path, "-2", "-T", "fields", "-e", "thermocline.reply_in", "-e", "thermocline.reply_to")
        self.assertEqual(text.split("\n")[:-1], ["2\t", "\t1", "4\t", "\t3", "6\t", "\t5"])

    def test_the_info_column_reads(self):
        self.each_in_its_connection([v for v in GOLDEN["vectors"] if v["name"] in ("put", "put-busy", "scan-ok-more")])
        text = dissect(self.path, "-T", "fields", "-e", "_ws.col.Info")
        self.assertIn("Put #65536 user-1 @ 1700000000123456, 5 bytes", text)
        self.assertIn("Put #65536 reply: Busy (Journal), again in 5 ms", text)
        self.assertIn("Scan #65536 reply: Ok 2 records, more follow", text)

    def test_frames_of_cold_disks_are_shown_whole_and_cut_ones_marked(self):
        with open(os.path.join(REPOSITORY, "net", "golden", "cold.json"), encoding="utf-8") as golden:
            cold = json.load(golden)
        packets: List[Packet] = []
        whole = 0
        for requested, vectors in ((True, cold["requests"]), (False, cold["replies"])):
            for vector in vectors:
                frame = bytes.fromhex(vector["frame"])
                packets.append((20_000 + len(packets), requested, 1, frame))
                whole += 1
        for requested, vectors in ((True, cold["requests"]), (False, cold["replies"])):
            for vector in vectors:
                frame = bytes.fromhex(vector["frame"])
                if vector["operation"] == "ColdWrite" and requested:
                    continue
                packets.append((20_000 + len(packets), requested, 1, reframe(frame, frame[32:-1])))
        write_capture(self.path, packets)
        found = fields(self.path, "thermocline.wrong")
        self.assertEqual(len(found), len(packets))
        self.assertEqual([cells for cells in found[:whole] if cells[0]], [])
        self.assertEqual([number for number, cells in enumerate(found[whole:]) if not cells[0]], [])
        text = dissect(self.path, "-T", "fields", "-e", "_ws.col.Info")
        self.assertIn("ColdRead #65536 disk 7, file 9 at 41337", text)
        self.assertIn("ColdRead #65536 reply: Ok 16 bytes", text)

    def test_wireshark_finds_both_files_in_its_folder_by_itself(self):
        home = tempfile.TemporaryDirectory()
        self.addCleanup(home.cleanup)
        shutil.copytree(os.path.dirname(DISSECTOR), os.path.join(home.name, ".local/lib/wireshark/plugins"))
        command, environment = [TSHARK, "-G", "fields"], {**os.environ, "HOME": home.name}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        self.assertNotIn("Lua:", done.stderr)
        self.assertIn("\tthermocline.operation\t", done.stdout)
        self.assertIn("\tthermocline.cold_block_bytes\t", done.stdout)

    def test_cuts_and_changes_never_raise_a_lua_error(self):
        packets: List[Packet] = []
        for vector in GOLDEN["vectors"]:
            data = bytes.fromhex(vector["hex"])
            for length in range(0, min(len(data), 120), 7):
                body = data[32 : 32 + length]
                packets.append((20_000 + len(packets), vector["direction"] == "request", 1, reframe(data, body)))
            for at in range(0, len(data) - 32, 3):
                body = bytearray(data[32:])
                body[at] ^= 0xFF
                packets.append((20_000 + len(packets), vector["direction"] == "request", 1, reframe(data, bytes(body))))
        write_capture(self.path, packets)
        found = fields(self.path, "thermocline.operation")
        self.assertEqual(len(found), len(packets))
        self.assertTrue(all(cells[0] for cells in found))


def reframe(frame: bytes, body: bytes) -> bytes:
    """The frame with another body, and right checksums."""
    from thermocline.frames import encode_frame

    request, map_epoch = struct.unpack_from("<Q", frame, 8)[0], struct.unpack_from("<I", frame, 20)[0]
    return encode_frame(frame[5], request, map_epoch, body)


class Tables(unittest.TestCase):
    """The dissector's names of codes, without tshark."""

    def test_names_are_those_of_the_document(self):
        with open(DISSECTOR, encoding="utf-8") as dissector:
            text = dissector.read()
        for table, names in (
            ("operations", [*Operation, *ColdOperation]),
            ("outcomes", Outcome),
            ("limits", Limit),
            ("reasons", Why),
        ):
            block = re.search(rf"local {table} = {{(.*?)\n}}", text, re.DOTALL).group(1)
            found = {name: int(code) for code, name in re.findall(r'\[(\d+)\] = "(\w+)"', block)}
            self.assertEqual(found, {name.name: name.value for name in names}, table)


if __name__ == "__main__":
    unittest.main()
