"""Writers that remember what they were told, and the question afterwards whether it is still there.

A witness holds, for each key it wrote, the value it sent and whether the server acknowledged it. It is the outside
world of the durability promise: what was acknowledged must come back with its value, what comes back must have been
sent. A write whose answer never came may be there or not.
"""

import base64
import json
import threading


class Witness:
    """The records of one space: the value `sent` and the version `acknowledged` by (stream, time)."""

    def __init__(self, space):
        self.space = space
        self.sent = {}
        self.acknowledged = {}
        self.lock = threading.Lock()

    def will_send(self, stream, time_us, value):
        """Called before the request leaves."""
        with self.lock:
            assert (stream, time_us) not in self.sent, "each key is written once"
            self.sent[stream, time_us] = value

    def was_acknowledged(self, stream, time_us, version):
        """Called when the answer said that it is stored, as this version."""
        with self.lock:
            self.acknowledged[stream, time_us] = version

    def complaints(self, exported):
        """What is wrong with the records a server exported: a list of sentences, empty where nothing is."""
        found = {}
        complaints = []
        for record in exported:
            key = record["stream"], record["time_us"]
            if key in found:
                complaints.append(f"{key} is exported twice")
            found[key] = value_of(record), record["version"]
        if list(found) != sorted(found, key=lambda key: (key[0].encode(), key[1])):
            complaints.append("the export is not in the order of stream and time")
        for key in sorted(self.acknowledged.keys() - found.keys()):
            complaints.append(f"{key} was acknowledged and is not there")
        for key, (value, version) in found.items():
            if key not in self.sent:
                complaints.append(f"{key} is there and was never sent")
            elif value != self.sent[key]:
                complaints.append(f"{key} is there with another value than was sent")
            elif version != self.acknowledged.get(key, version):
                complaints.append(f"{key} is version {version}, acknowledged was {self.acknowledged[key]}")
        return complaints


def value_of(record):
    """The value of an exported record, as bytes."""
    if "value_base64" in record:
        return base64.b64decode(record["value_base64"])
    value = record["value"]
    return value.encode() if isinstance(value, str) else json.dumps(value, separators=(",", ":")).encode()
