"""All golden vectors: frames that are right, both ways, and frames that must be refused."""

from __future__ import annotations

import json
import os
import re
import unittest

import vector_fields as names
from here import REPOSITORY  # first: it makes the package importable
from thermocline.codes import BODY_BYTES_MAX, PROTOCOL_VERSION
from thermocline.errors import FrameError, ProtocolError
from thermocline.frames import FrameReader, decode_frame, encode_frame
from thermocline.messages import decode_reply, decode_request, reply_frame, request_frame

with open(os.path.join(REPOSITORY, "net", "golden", "vectors.json"), encoding="utf-8") as file:
    GOLDEN = json.load(file)


def decode(data: bytes, limit: int):
    """The header and the message of a frame."""
    header, body = decode_frame(data, limit)
    if header.is_reply:
        return header, decode_reply(header.operation, body)
    return header, decode_request(header.operation, body)


def encode(header, message) -> bytes:
    """The frame of a message."""
    if header.is_reply:
        return reply_frame(header.operation, message, header.request, header.map_epoch)
    return request_frame(message, header.request, header.map_epoch)


class Right(unittest.TestCase):
    """Each frame that is right: one test of its name, added below."""

    def check(self, vector) -> None:
        data = bytes.fromhex(vector["hex"])
        header, message = decode(data, BODY_BYTES_MAX)
        self.assertEqual(header.is_reply, vector["direction"] == "reply")
        self.assertEqual(dict(vars(header), operation=header.operation.name), vector["header"])
        describe = names.describe_reply if header.is_reply else names.describe_request
        self.assertEqual(describe(message), vector["fields"])
        self.assertEqual(encode(header, message).hex(), data.hex())
        build = names.build_reply if header.is_reply else names.build_request
        built = build(header.operation, vector["fields"])
        self.assertEqual(built, message)
        self.assertEqual(encode(header, built).hex(), data.hex())


class Malformed(unittest.TestCase):
    """Each frame that must be refused: one test of its name, added below."""

    def check(self, vector) -> None:
        with self.assertRaises(ProtocolError) as caught:
            decode(bytes.fromhex(vector["hex"]), vector["limit"])
        self.assertEqual(names.describe_error(caught.exception), vector["error"])
        self.assertTrue(str(caught.exception))


def add_tests(case, vectors) -> None:
    """One test method for each vector."""
    for vector in vectors:
        name = "test_" + vector["name"].replace("-", "_")
        assert not hasattr(case, name), name
        setattr(case, name, lambda self, vector=vector: self.check(vector))


add_tests(Right, GOLDEN["vectors"])
add_tests(Malformed, GOLDEN["malformed"])


class All(unittest.TestCase):
    """What holds for every vector."""

    def each(self):
        for vector in GOLDEN["vectors"]:
            yield vector["name"], bytes.fromhex(vector["hex"])

    def test_there_are_vectors_of_this_version(self):
        self.assertEqual(GOLDEN["protocol_version"], PROTOCOL_VERSION)
        self.assertGreaterEqual(len(GOLDEN["vectors"]), 60)
        self.assertGreaterEqual(len(GOLDEN["malformed"]), 78)

    def test_each_cut_of_a_frame_is_no_frame(self):
        for name, data in self.each():
            for length in range(len(data)):
                with self.assertRaises(FrameError, msg=name) as caught:
                    decode_frame(data[:length], BODY_BYTES_MAX)
                self.assertEqual(caught.exception.kind, "Length")

    def test_each_cut_of_a_body_is_refused_as_a_value(self):
        for name, data in self.each():
            header, body = decode_frame(data, BODY_BYTES_MAX)
            # A Ping, and a Status or Verify behind its head, may have any length.
            begun = 16 if header.is_reply else 0
            free = begun if header.operation.name in ("Ping", "Status", "Verify", "Hot") else len(body)
            for length in range(free):
                cut = encode_frame(header.code, header.request, header.map_epoch, body[:length])
                with self.assertRaises(ProtocolError, msg=(name, length)):
                    decode(cut, BODY_BYTES_MAX)

    def test_each_changed_byte_of_a_body_is_read_or_refused(self):
        for name, data in self.each():
            header, body = decode_frame(data, BODY_BYTES_MAX)
            for index in range(min(len(body), 160)):
                for change in (0x01, 0x80, 0xFF):
                    changed = bytearray(body)
                    changed[index] ^= change
                    frame = encode_frame(header.code, header.request, header.map_epoch, bytes(changed))
                    try:
                        again = encode(*decode(frame, BODY_BYTES_MAX))
                    except ProtocolError:
                        continue
                    self.assertEqual(again.hex(), frame.hex(), (name, index, change))


class Streams(unittest.TestCase):
    """The same frames as a stream of bytes."""

    def test_frames_in_any_pieces(self):
        frames = [bytes.fromhex(vector["hex"]) for vector in GOLDEN["vectors"]]
        expected = [decode_frame(frame, BODY_BYTES_MAX) for frame in frames]
        data = b"".join(frames)
        for piece in (1, 7, 31, 32, 33, 1000, len(data)):
            with self.subTest(piece=piece):
                reader = FrameReader(BODY_BYTES_MAX)
                found = []
                for at in range(0, len(data), piece):
                    found.extend(reader.feed(data[at : at + piece]))
                self.assertEqual(found, expected)

    def test_a_wrong_magic_is_refused_at_its_first_byte(self):
        for data in (b"G", b"T\0", b"TCL2"):
            with self.subTest(data), self.assertRaises(FrameError) as caught:
                list(FrameReader().feed(data))
            self.assertEqual(caught.exception.kind, "BadMagic")

    def test_a_length_is_refused_before_the_body_is_there(self):
        vector = next(v for v in GOLDEN["malformed"] if v["name"] == "frame-4-gib")
        with self.assertRaises(FrameError) as caught:
            list(FrameReader(BODY_BYTES_MAX).feed(bytes.fromhex(vector["hex"])[:32]))
        self.assertEqual(caught.exception.kind, "FrameTooLarge")


class Examples(unittest.TestCase):
    """The worked examples beside the document."""

    def test_each_is_the_vector_of_its_name(self):
        with open(os.path.join(REPOSITORY, "net", "EXAMPLES.md"), encoding="utf-8") as document:
            blocks = re.findall(r"```hex (\S+)\n(.*?)```", document.read(), re.DOTALL)
        by_name = {vector["name"]: vector["hex"] for vector in GOLDEN["vectors"]}
        self.assertGreaterEqual(len(blocks), 9)
        for name, block in blocks:
            with self.subTest(name):
                text = "".join(line.partition("#")[0] for line in block.splitlines())
                self.assertEqual("".join(text.split()), by_name[name])


if __name__ == "__main__":
    unittest.main()
