"""Owns the command line, `python3 -m thermocline VERB …`. The `thermocline` binary does the same and more.

Never holds logic of its own. Invariant: exit codes are 0 done, 1 the answer is no, 2 wrong use, 3 failed.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import sys
from datetime import datetime, timedelta, timezone
from typing import Any, Dict, List, Optional, Sequence, Tuple

from .client import Client
from .codes import TIME_MAX
from .errors import InvalidArgument, ThermoclineError, VersionMismatch
from .replies import Record

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
NO = 1


def parse_time(text: str) -> int:
    """Microseconds since 1970, from a whole number of them or RFC 3339. Errors: argparse's, wrong use."""
    if text.isdigit():
        return int(text)
    try:
        moment = datetime.fromisoformat(text[:-1] + "+00:00" if text[-1:] in ("Z", "z") else text)
    except ValueError:
        moment = EPOCH.replace(tzinfo=None)
    if moment.tzinfo is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no time: write microseconds since 1970, or 2026-11-20T08:00:00Z")
    return (moment - EPOCH) // timedelta(microseconds=1)


def parse_range(text: str) -> Tuple[int, int]:
    """A..B, both included; either may be left out. Errors: argparse's, wrong use."""
    first, dots, last = text.partition("..")
    if not dots:
        raise argparse.ArgumentTypeError(f"{text!r} is no range: write A..B")
    return parse_time(first) if first else 0, parse_time(last) if last else TIME_MAX


def describe(stream: str, record: Record) -> Dict[str, Any]:
    """A record as one JSON object, with the names that `import` reads."""
    fields: Dict[str, Any] = {"stream": stream, "time_us": record.time}
    try:
        fields["value"] = record.value.decode()
    except UnicodeDecodeError:
        fields["value_base64"] = base64.b64encode(record.value).decode()
    fields["version"] = record.version
    if record.expiry:
        fields["expiry_us"] = record.expiry
    return fields


def show(record: Record, arguments: argparse.Namespace) -> None:
    """Prints a record: as JSON, or as time, version and value."""
    if arguments.json:
        print(json.dumps(describe(arguments.stream, record), ensure_ascii=False))
        return
    sys.stdout.flush()
    sys.stdout.buffer.write(b"%d\t%d\t%s\n" % (record.time, record.version, record.value))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python3 -m thermocline", description="A client of Thermocline.")
    endpoint = os.environ.get("THERMOCLINE_ENDPOINT", "127.0.0.1:7420")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--endpoint", default=endpoint, help="HOST:PORT, several with commas (%(default)s)")
    common.add_argument("--space", type=int, default=0, help="space of the streams (%(default)s)")
    common.add_argument("--deadline", type=float, default=10.0, help="seconds for each request (%(default)s)")
    common.add_argument("--json", action="store_true", help="print JSON, one object on a line")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, text: str, *, stream: bool = True, time: bool = False) -> argparse.ArgumentParser:
        added = verbs.add_parser(name, help=text, description=text, parents=[common])
        if stream:
            added.add_argument("stream")
        if time:
            added.add_argument("time", type=parse_time, help="microseconds since 1970, or RFC 3339")
        return added

    verb("get", "print the value of one record", time=True)
    put = verb("put", "write one record", time=True)
    put.add_argument("value", help="the value; - reads it from standard input")
    put.add_argument("--expiry", type=parse_time, default=0, help="when the record expires")
    put.add_argument("--expected", type=int, help="only where the version is this; 0: only where there is none")
    verb("del", "remove one record", time=True)
    scan = verb("scan", "print the records of a stream")
    scan.add_argument("range", nargs="?", type=parse_range, default=(0, TIME_MAX), help="A..B, both included")
    scan.add_argument("--backward", action="store_true", help="newest first")
    scan.add_argument("--limit", type=int, help="at most this many")
    head = verb("head", "print the newest records of a stream")
    head.add_argument("--limit", type=int, default=1, help="this many (%(default)s)")
    verb("mget", "print records of one stream").add_argument("times", nargs="+", type=parse_time)
    verb("streams", "list the streams of the space", stream=False)
    verb("status", "print the counters of the node", stream=False)
    verb("map", "print the nodes of the cluster", stream=False)
    verb("ping", "ask whether the server answers", stream=False)
    return top


def run(arguments: argparse.Namespace, client: Client) -> int:
    """Carries out one verb; gives the exit code."""
    records: List[Record] = []
    if arguments.verb == "get":
        record = client.get(arguments.stream, arguments.time)
        if record is None:
            print(f"{arguments.stream} has no record at {arguments.time}", file=sys.stderr)
            return NO
        if arguments.json:
            show(record, arguments)
        else:
            sys.stdout.buffer.write(record.value + b"\n")
    elif arguments.verb == "put":
        value = sys.stdin.buffer.read() if arguments.value == "-" else arguments.value.encode()
        options = {"expiry": arguments.expiry}
        if arguments.expected is None:
            written = client.put(arguments.stream, arguments.time, value, **options)
        else:
            options["expected"] = arguments.expected
            written = client.compare_and_set(arguments.stream, arguments.time, value, **options)
        print(json.dumps({"version": written.version}) if arguments.json else written.version)
    elif arguments.verb == "del":
        written = client.delete(arguments.stream, arguments.time)
        print(json.dumps({"version": written.version}) if arguments.json else written.version)
    elif arguments.verb == "scan":
        start, end = arguments.range
        options = {"backward": arguments.backward, "limit": arguments.limit}
        for record in client.scan(arguments.stream, start, end, **options):
            show(record, arguments)
    elif arguments.verb == "head":
        records = client.head(arguments.stream, arguments.limit)
    elif arguments.verb == "mget":
        found = client.multi_get([(arguments.stream, time) for time in arguments.times])
        records = [record for record in found if record is not None]
    elif arguments.verb == "streams":
        for space, stream in client.streams(space=arguments.space):
            text = stream.decode(errors="backslashreplace")
            print(json.dumps({"space": space, "stream": text}) if arguments.json else text)
    elif arguments.verb == "status":
        print(json.dumps(client.status(), indent=None if arguments.json else 2))
    elif arguments.verb == "map":
        for node in client.map().nodes:
            print(json.dumps(vars(node)) if arguments.json else f"{node.id}\t{node.address}\tzone {node.zone}")
    else:
        client.ping(b"are you there")
        print(json.dumps({"answers": True}) if arguments.json else "the server answers")
    for record in records:
        show(record, arguments)
    return NO if arguments.verb == "mget" and len(records) < len(arguments.times) else 0


def main(words: Optional[Sequence[str]] = None) -> int:
    """The command line; gives the exit code."""
    arguments = parser().parse_args(words)
    try:
        with Client(arguments.endpoint, space=arguments.space, deadline=arguments.deadline) as client:
            return run(arguments, client)
    except InvalidArgument as error:
        print(f"thermocline: {error}", file=sys.stderr)
        return 2
    except VersionMismatch as error:
        print(f"thermocline: {error}", file=sys.stderr)
        return NO
    except ThermoclineError as error:
        print(f"thermocline: {error}", file=sys.stderr)
        return 3
    except BrokenPipeError:
        # Who reads has read enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


if __name__ == "__main__":
    sys.exit(main())
