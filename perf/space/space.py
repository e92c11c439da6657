#!/usr/bin/env python3
"""How many bytes real records take when they are old, and how many are written until then, beside RocksDB.

Loads a data set into a node, waits until all of it is sealed, adds the bytes of its sealed tables; then puts the same
records, as exported, into RocksDB, compacts it to the end and adds its files. Needs `pip install rocksdict`, which brings
RocksDB. Both write to the same folder. What was written is taken from /proc/PID/io: journal, log, tables and all.
"""

import argparse
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import time

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(TOP, "ci"))

from harness.node import Node  # noqa: E402

SETS = {
    "commits": ("commits.ndjson.zst", []),
    "flights": ("flights.csv.zst", ["--stream", "tailnum", "--time", "time_hour,minute"]),
}
FILLER_SPACE = 99


def written_bytes(pid):
    """Bytes that a process gave to devices so far."""
    with open(f"/proc/{pid}/io", encoding="ascii") as io:
        return next(int(line.split()[1]) for line in io if line.startswith("write_bytes"))


class Ours:
    """A node on a file, of one shard, whose memtables hold a small part of the data set."""

    def __init__(self, arguments, name, settings):
        self.rejects = os.path.join(arguments.folder, "rejects.ndjson")
        self.binary, self.folder = arguments.binary, os.path.join(arguments.folder, f"ours-{name}")
        shutil.rmtree(self.folder, ignore_errors=True)
        os.makedirs(self.folder)
        self.disk = os.path.join(self.folder, "disk")
        words = ["disk", "format", self.disk, "--create", "8 GiB", "--shards", "1", "--yes"]
        subprocess.run([self.binary, *words], check=True, capture_output=True)
        sets = [f"disk.path={self.disk}", "network.listen=127.0.0.1:0"]
        sets += [f"limits.{key}={value}" for key, value in settings.items()]
        command = [self.binary, "serve", *(word for pair in sets for word in ("--set", pair))]
        self.node = Node(command, os.path.join(self.folder, "log")).start()

    def tool(self, *words):
        command = [self.binary, *words, "--endpoint", self.node.endpoint]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, f"{words}: {done.stderr[-2000:]}\n{self.node.log_end()}"
        return done.stdout

    def load(self, path, *words):
        self.tool("import", path, "--rejects", self.rejects, *words)

    def counters(self):
        return json.loads(self.tool("status", "--json").splitlines()[-1])["cores"][0]

    def settle(self):
        """Until nothing is flushed, merged or sealed any more."""
        before, same = None, 0
        while same < 10:
            time.sleep(0.5)
            now = self.counters()
            state = tuple(now[key] for key in ("flushes", "merges", "seals", "table_written_bytes"))
            before, same = state, same + 1 if state == before else 0
        return now

    def fill(self, records):
        """Records of today, which are not sealed, until all before them is flushed."""
        now_us = int(time.time() * 1e6)
        path = os.path.join(self.folder, "filler.ndjson")
        with open(path, "w", encoding="ascii") as file:
            for number in range(records):
                file.write(json.dumps({"stream": f"f{number % 997}", "time_us": now_us + number, "value": "x" * 900}) + "\n")
        self.load(path, "--space", str(FILLER_SPACE))


def ours(arguments, name, settings):
    node = Ours(arguments, name, settings)
    try:
        return measured(node, arguments, name)
    finally:
        node.node.kill()


def measured(node, arguments, name):
    path, words = SETS[name]
    began = time.monotonic()
    for space in range(arguments.copies):
        node.load(os.path.join(arguments.data, path), "--space", str(space), *words)
    loaded_s = time.monotonic() - began
    pid = node.node.child.pid
    node.fill(40_000)
    counters = node.settle()
    written = written_bytes(pid)
    out = os.path.join(arguments.folder, name)
    for space in range(arguments.copies):
        node.tool("export", "--space", str(space), "--out", f"{out}-{space}.ndjson")
    exit_code = node.node.stop()
    assert exit_code == 0, node.node.log_end()
    return counters, written, loaded_s, out


def value_of(record):
    value = record["value"]
    return (value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))).encode()


def key_of(space, record):
    """As a user of RocksDB would write it: the stream, its end, the time so that it sorts; before it which copy it is of."""
    prefix = space.to_bytes(2, "big") if space else b""
    return prefix + record["stream"].encode() + b"\0" + int(record["time_us"]).to_bytes(8, "big")


def rocksdb(arguments):
    """One database; in a process of its own, so that what it writes can be told."""
    from rocksdict import BlockBasedOptions, DBCompressionType, Options, Rdict

    pairs = []
    for space in range(arguments.copies):
        with open(f"{arguments.records}-{space}.ndjson", encoding="utf-8") as file:
            records = sorted((json.loads(line) for line in file), key=lambda record: record["time_us"])
        pairs += [(key_of(space, record), value_of(record)) for record in records]
    given = sum(len(key) + len(value) for key, value in pairs)
    shutil.rmtree(arguments.folder, ignore_errors=True)
    options = Options(raw_mode=True)
    table = BlockBasedOptions()
    table.set_block_size(arguments.block)
    table.set_bloom_filter(10, False)
    table.set_format_version(5)
    options.set_block_based_table_factory(table)
    options.set_compression_type(DBCompressionType.zstd())
    options.set_compression_options(-14, arguments.level, 0, arguments.dictionary)
    options.set_zstd_max_train_bytes(arguments.dictionary * 100)
    options.set_write_buffer_size(arguments.memtable)
    options.set_target_file_size_base(64 << 20)
    options.set_use_direct_io_for_flush_and_compaction(True)
    base, began = written_bytes(os.getpid()), time.monotonic()
    database = Rdict(arguments.folder, options)
    for key, value in pairs:
        database.put(key, value)
    database.flush()
    loaded = time.monotonic() - began
    database.compact_range(None, None)
    live = database.live_files()
    database.close()
    bytes_in_files = sum(
        os.path.getsize(os.path.join(arguments.folder, name))
        for name in os.listdir(arguments.folder)
        if name.endswith(".sst")
    )
    os.sync()
    print(
        json.dumps(
            {
                "version": f"rocksdict {importlib.metadata.version('rocksdict')}",
                "records": len(pairs),
                "given_bytes": given,
                "files": len(live),
                "table_bytes": bytes_in_files,
                "written_bytes": written_bytes(os.getpid()) - base,
                "load_s": round(loaded, 1),
            }
        )
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default="thermocline")
    parser.add_argument("--data", required=True, help="folder with commits.ndjson.zst and flights.csv.zst")
    parser.add_argument("--folder", required=True, help="where both sides write; emptied")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a limit of the node")
    parser.add_argument("--block", type=int, default=16 << 10, help="bytes of a block of both, uncompressed")
    parser.add_argument("--level", type=int, default=3, help="level of zstd of both")
    parser.add_argument("--dictionaries", default="0,16384,112640", help="bytes of RocksDB's dictionary; one run each")
    parser.add_argument("--copies", type=int, default=1, help="load it so often, each in a namespace of its own")
    parser.add_argument("--only", choices=SETS, action="append")
    arguments = parser.parse_args()
    os.makedirs(arguments.folder, exist_ok=True)
    settings = {
        "memtable_bytes": "24 MiB", "memtable_record_count_max": 65536,
        "sealed_block_bytes": arguments.block, "sealed_level": arguments.level,
    }
    settings.update(pair.split("=", 1) for pair in arguments.set)
    for name in arguments.only or SETS:
        counters, written, loaded_s, out = ours(arguments, name, settings)
        sealed = counters["sealed_bytes"]
        report = {
            "what": name, "copies": arguments.copies, "side": "thermocline", "block": arguments.block, "level": arguments.level,
            "sealed_tables": counters["sealed_tables"], "sealed_records": counters["sealed_records"],
            "sealed_bytes": sealed, "written_bytes_with_filler": written, "import_s": round(loaded_s, 1),
            **{key: counters[key] for key in counters if key.endswith("_written_bytes")},
            "seals": counters["seals"], "merges": counters["merges"], "flushes": counters["flushes"],
        }
        print(json.dumps(report), flush=True)
        for dictionary in map(int, arguments.dictionaries.split(",")):
            folder = os.path.join(arguments.folder, f"rocksdb-{name}")
            words = ["--records", out, "--block", arguments.block, "--level", arguments.level, "--dictionary", dictionary]
            words += ["--copies", arguments.copies]
            command = [sys.executable, __file__, "rocksdb", *map(str, words), "--folder", folder]
            peer = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            peer = {"what": name, "side": "rocksdb", "dictionary": dictionary, **peer}
            # Not all of ours is sealed: what is too little for a window waits for more.
            per_record = sealed / counters["sealed_records"]
            peer["ours_of_theirs_per_record"] = round(per_record / (peer["table_bytes"] / peer["records"]), 3)
            print(json.dumps(peer), flush=True)


def peer_main():
    parser = argparse.ArgumentParser()
    for name in ("records", "folder"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("block", "level", "dictionary", "copies"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--memtable", type=int, default=12 << 20)
    rocksdb(parser.parse_args(sys.argv[2:]))


if __name__ == "__main__":
    if sys.argv[1:2] == ["rocksdb"]:
        peer_main()
    else:
        main()
