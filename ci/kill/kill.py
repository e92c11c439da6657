#!/usr/bin/env python3
"""kill -9 of a server during import, at random moments: what was acknowledged is there afterwards.

    kill.py --binary PATH --rounds N --device file|loop --folder F [--seed S]

A round: writers that remember each acknowledgement and an import of real records run against `thermocline serve`; the
server is killed; in some rounds its shared memory is taken away, in some it is killed again while it starts. It is
started again and exported: each acknowledged record is there with its value and its version, nothing is there that
was not sent. The import, which was not told, goes on by itself to its end; then its space is exactly the rows of the
file, and a second import finds each of them a duplicate.

A killed process loses nothing that is in the page cache; what a power cut leaves is the business of crash_states.
"""

import argparse
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import threading
import time

TOP = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
sys.path.insert(0, os.path.join(TOP, "ci"))
sys.path.insert(0, os.path.join(TOP, "tools", "python"))

from harness.node import Node  # noqa: E402
from harness.witness import Witness, value_of  # noqa: E402
from thermocline import Client, ThermoclineError  # noqa: E402
from thermocline.writes import Put  # noqa: E402

SAMPLE = os.path.join(TOP, "tools", "sample", "commits-sample.ndjson.zst")
WRITERS = 2
IN_FLIGHT = 16
WITNESS_SPACE = 1
# Seconds that an import may take to go on after the server is back.
IMPORT_PATIENCE = 120
IMPORT_SPACE = 100
# Room for the journal of all rounds in each of two shards: there is nothing below it yet that would make room.
JOURNAL_BYTES_PER_ROUND = 6 << 20
JOURNAL_BYTES_MIN = 64 << 20


class Writer(threading.Thread):
    """Puts records one after the other, several in flight, until told to stop; each key once."""

    def __init__(self, endpoint, witness, name, seed):
        super().__init__(daemon=True)
        self.client = Client(endpoint, deadline=1.0, space=WITNESS_SPACE)
        self.witness, self.stream, self.random = witness, name, random.Random(seed)
        self.enough = threading.Event()
        self.error = None

    def run(self):
        try:
            self._write()
        except Exception as error:  # whatever it is, it is the finding
            self.error = error
        finally:
            self.client.close()

    def _write(self):
        number = 0
        while not self.enough.is_set():
            calls = []
            for _ in range(IN_FLIGHT):
                number += 1
                value = self.random.randbytes(self.random.choice([1, 20, 150, 600, 5000]))
                self.witness.will_send(self.stream, number, value)
                calls.append((number, self.client.start(Put(self.stream.encode(), number, value, WITNESS_SPACE, 0))))
            for number_of_call, call in calls:
                try:
                    written = call.wait().body
                except ThermoclineError:
                    continue  # not acknowledged: it may be there or not
                self.witness.was_acknowledged(self.stream, number_of_call, written.version)


class Disk:
    """A file, or a loop device over one; taken away at the end."""

    def __init__(self, kind, folder, size):
        self.file = os.path.join(folder, "disk.img")
        self.loop = None
        with open(self.file, "wb") as file:
            file.truncate(size)
        if kind == "loop":
            command = ["losetup", "--find", "--show", "--direct-io=on", self.file]
            self.loop = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
        self.path = self.loop or self.file

    def close(self):
        if self.loop:
            subprocess.run(["losetup", "--detach", self.loop], check=True)
        os.remove(self.file)


class Torture:
    """Owns the server, its disk, its shared memory and what is known of its content."""

    def __init__(self, arguments):
        self.binary = arguments.binary
        self.folder = arguments.folder
        self.random = random.Random(arguments.seed)
        self.memory = os.path.join(self.folder, "shared-memory")
        self.witness = Witness(WITNESS_SPACE)
        self.complaints = []
        self.attached = self.rebuilt = 0
        self.disk = self.node = None
        with subprocess.Popen(["zstd", "-dc", SAMPLE], stdout=subprocess.PIPE) as rows:
            self.rows = {(row["stream"], row["time_us"]): value_of(row) for row in map(json.loads, rows.stdout)}
        os.makedirs(self.memory, exist_ok=True)
        os.environ["THERMOCLINE_SHM_DIR"] = self.memory

    def prepare(self, device, rounds):
        """The disk, formatted, and a config file for a node on it."""
        journal = max(JOURNAL_BYTES_MIN, rounds * JOURNAL_BYTES_PER_ROUND)
        self.disk = Disk(device, self.folder, 2 * journal + (128 << 20))
        journal = f"{journal >> 20} MiB"
        self.tool("disk", "format", self.disk.path, "--shards", "2", "--journal", journal, "--yes")
        config = os.path.join(self.folder, "node.toml")
        with open(config, "w", encoding="utf-8") as file:
            file.write(f'[disk]\npath = "{self.disk.path}"\n\n[network]\nlisten = "127.0.0.1:{free_port()}"\n')
        self.node = Node([self.binary, "serve", "--config", config], os.path.join(self.folder, "serve.log"))

    def tool(self, *words, wanted=(0,)):
        """Runs a verb of the binary; its standard output."""
        done = subprocess.run([self.binary, *words], stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode not in wanted:
            raise AssertionError(f"{' '.join(words)} ended with {done.returncode}: {done.stderr.strip()[-2000:]}")
        return done.stdout

    def import_command(self, space):
        rejects = os.path.join(self.folder, "rejects.ndjson")
        return ["import", SAMPLE, "--json", "--space", str(space), "--rejects", rejects, "--endpoint", self.node.endpoint]

    def export(self, space):
        text = self.tool("export", "--space", str(space), "--endpoint", self.node.endpoint)
        return [json.loads(line) for line in text.splitlines()]

    def kill_under_load(self, round_index, longest):
        """Load, then kill -9 at a random moment within `longest` seconds. The import, which goes on trying."""
        command = [self.binary, *self.import_command(IMPORT_SPACE + round_index)]
        loader = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        writers = [
            Writer(self.node.endpoint, self.witness, f"round-{round_index}-writer-{index}", self.random.random())
            for index in range(WRITERS)
        ]
        for writer in writers:
            writer.start()
        time.sleep(self.random.uniform(0.0, longest))
        self.node.kill()
        for writer in writers:
            writer.enough.set()
        for writer in writers:
            writer.join()
            if writer.error is not None:
                self.complaints.append(f"round {round_index}: a writer ended with {writer.error!r}")
        return loader

    def start_again(self):
        """Starts the server, sometimes without its shared memory, sometimes after a kill while it starts.

        Memory that the process before left is taken as it is; after a start that was cut off it may be built anew.
        """
        without_memory = self.random.random() < 0.3
        if without_memory:
            shutil.rmtree(self.memory)
            os.makedirs(self.memory)
        again = self.random.random() < 0.3
        if again:
            child = subprocess.Popen(
                self.node.command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            time.sleep(self.random.uniform(0.0, 0.15))
            child.kill()
            child.wait()
            child.stdin.close()
        self.node.start()
        cores = json.loads(self.tool("status", "--json", "--endpoint", self.node.endpoint))["cores"]
        if all(core["versions_kept"] for core in cores):
            self.attached += 1
        else:
            self.rebuilt += 1
            if not without_memory and not again:
                self.complaints.append("the shared memory was there, of the process before, and was not taken")
        damaged = sum(core["tablets_damaged"] for core in cores)
        if damaged:
            self.complaints.append(f"{damaged} tablets are said to be damaged after a kill")

    def check(self, round_index, loader):
        """Everything acknowledged is there; the import goes on to its end and leaves exactly the rows."""
        found = self.witness.complaints(self.export(WITNESS_SPACE))
        try:
            output, errors = loader.communicate(timeout=IMPORT_PATIENCE)
        except subprocess.TimeoutExpired:
            loader.kill()
            output, errors = loader.communicate()
            found.append("the import does not end")
        space = IMPORT_SPACE + round_index
        if loader.returncode == 3 and ("cannot reach" in errors or "was lost" in errors and not self.export(space)):
            # It came to a dead server, or to one that was killed while they met: run again, as its message says. Once it has stored
            # a row it has to go on by itself.
            output = self.tool(*self.import_command(space))
        elif loader.returncode != 0:
            found.append(f"the import ended with {loader.returncode}: {errors.strip()[-1000:]}")
        if output:
            counts = json.loads(output.splitlines()[-1])
            if counts["read"] != len(self.rows) or counts["stored"] + counts["duplicate"] != len(self.rows):
                found.append(f"the import said {counts} of {len(self.rows)} rows")
        stored = {(record["stream"], record["time_us"]): value_of(record) for record in self.export(space)}
        if stored != self.rows:
            found.append(f"{len(stored)} records after the import, {len(self.rows)} rows in the file")
        counts = json.loads(self.tool(*self.import_command(space)).splitlines()[-1])
        if counts["duplicate"] != len(self.rows):
            found.append(f"a second import said {counts}, every row should be a duplicate")
        self.complaints += [f"round {round_index}: {complaint}" for complaint in found]

    def run(self, rounds):
        """All rounds; the count of those without a complaint."""
        self.node.start()
        begun = time.monotonic()
        self.tool(*self.import_command(IMPORT_SPACE - 1))
        longest = max(0.05, time.monotonic() - begun)
        print(f"  a whole import takes {longest:.2f} s", flush=True)
        good = 0
        for round_index in range(rounds):
            before = len(self.complaints)
            loader = self.kill_under_load(round_index, longest)
            cut_off = loader.poll() is None
            self.start_again()
            self.check(round_index, loader)
            good += len(self.complaints) == before
            print(
                f"  round {round_index}: {len(self.witness.acknowledged)} acknowledged of {len(self.witness.sent)} sent"
                f" so far; the import was {'under way' if cut_off else 'over'}",
                flush=True,
            )
        code = self.node.stop()
        if code != 0:
            self.complaints.append(f"SIGTERM ended it with {code}")
        return good

    def close(self):
        if self.node:
            self.node.kill()
        if self.disk:
            self.disk.close()


def free_port():
    """A port that nobody listens on: restarts keep it, so that clients find the server again."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--binary", required=True)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--device", choices=["file", "loop"], required=True)
    parser.add_argument("--folder", required=True)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    os.makedirs(arguments.folder, exist_ok=True)
    torture = Torture(arguments)
    try:
        torture.prepare(arguments.device, arguments.rounds)
        good = torture.run(arguments.rounds)
    except AssertionError as error:
        torture.complaints.append(f"{error}\n{torture.node.log_end() if torture.node else ''}")
        good = 0
    finally:
        torture.close()
    for complaint in torture.complaints[:20]:
        print(f"  {complaint}")
    print(f"  {arguments.device}: shared memory attached {torture.attached} times, rebuilt {torture.rebuilt} times")
    failed = max(arguments.rounds - good, 1 if torture.complaints else 0)
    print(f"{arguments.rounds - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
